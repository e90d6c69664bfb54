//! Requests that two parsers could read differently: in HTTP/1.1, and on the way from HTTP/2 to it.

/// What it is, the bytes, and what this gateway answers; and where another does something else: why.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) request: String,
    pub(crate) ours: &'static [u16],
    pub(crate) why: &'static str,
}

const SERVED: &[u16] = &[200, 200];
const REFUSED: &[u16] = &[400];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, request: &str, ours, why| cases.push(Case { name, request: request.to_owned(), ours, why });
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");

    add("a length", &post("Content-Length: 5", "hello"), SERVED, "");
    add("chunks", &chunked("5\r\nhello\r\n0\r\n\r\n"), SERVED, "");
    add("no body", &get("X: y"), SERVED, "");

    let both = "the length and the coding disagree about the end: RFC 9112, 6.1 lets a server refuse it, and whoever is behind may take the other";
    add("CL.TE", &post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nX"), REFUSED, both);
    add(
        "TE.CL",
        &post("Transfer-Encoding: chunked\r\nContent-Length: 4", "5c\r\nGPOST / HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n"),
        REFUSED,
        both,
    );
    add("CL.TE that agree", &post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), REFUSED, both);
    for (name, value) in [
        ("TE: chunked, identity", "chunked, identity"),
        ("TE: identity", "identity"),
        ("TE: gzip, chunked", "gzip, chunked"),
        ("TE: xchunked", "xchunked"),
        ("TE: chunkedx", "chunkedx"),
        ("TE: quoted", "\"chunked\""),
        ("TE: empty", ""),
        ("TE: a comma behind", "chunked,"),
        ("TE: a comma before", ", chunked"),
        ("TE: a parameter", "chunked;q=1"),
        ("TE: a vertical tab", "\x0bchunked"),
        ("TE: a form feed", "chunked\x0c"),
        ("TE: NUL", "chunked\0"),
        ("TE: twice in one", "chunked, chunked"),
        ("TE: non-ASCII", "chun\u{212a}ed"),
    ] {
        add(name, &post(&format!("Transfer-Encoding: {value}\r\nContent-Length: 5"), "0\r\n\r\n"), REFUSED, both);
        let name = name.replacen("TE", "TE alone", 1).leak();
        add(
            name,
            &post(&format!("Transfer-Encoding: {value}"), "0\r\n\r\n"),
            REFUSED,
            "a coding other than the single `chunked` is read by nobody in the same way",
        );
    }
    let blanks = "blanks around a value are no part of it (RFC 9110, 5.5), and what goes on has none";
    add("TE: a tab before", &chunked_as("Transfer-Encoding:\tchunked"), SERVED, blanks);
    add("TE: blanks behind", &chunked_as("Transfer-Encoding: chunked \t"), SERVED, blanks);
    add("TE: no blank", &chunked_as("Transfer-Encoding:chunked"), SERVED, "");
    add("TE: upper case", &chunked_as("TRANSFER-ENCODING: CHUNKED"), SERVED, "");
    let twice = "two fields are two codings";
    add("TE twice", &chunked_as("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), REFUSED, twice);
    add("TE twice, one another", &chunked_as("Transfer-Encoding: chunked\r\nTransfer-Encoding: x"), REFUSED, twice);
    add(
        "TE twice, identity first",
        &chunked_as("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        REFUSED,
        twice,
    );
    let malformed = "malformed: RFC 9112 lets no server take it, and servers that do differ in how";
    add("TE, a space before the colon", &chunked_as("Transfer-Encoding : chunked"), REFUSED, malformed);
    add("CL, a space before the colon", &post("Content-Length : 5", "hello"), REFUSED, malformed);
    add("TE, a tab before the colon", &chunked_as("Transfer-Encoding\t: chunked"), REFUSED, malformed);
    add("TE, a space before the name", &get("X: y\r\n Transfer-Encoding: chunked"), REFUSED, malformed);
    add("first line folded", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", REFUSED, malformed);
    add(
        "folded TE",
        &chunked_as("Transfer-Encoding:\r\n chunked"),
        REFUSED,
        "a folded line: RFC 9112, 5.2 wants it refused or mended, and here nothing is mended",
    );
    add("folded CL", &post("Content-Length:\r\n 5", "hello"), REFUSED, "a folded line, as above");
    add("folded, another", &get("X: y\r\n z"), REFUSED, "a folded line, as above");
    add(
        "TE in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REFUSED,
        "HTTP/1.0 knows no coding: RFC 9112, 6.1 calls the framing faulty",
    );
    add(
        "TE and CL in HTTP/1.0",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        REFUSED,
        both,
    );
    let names = "others behind may take an underscore for a hyphen, as variables of CGI do: a field that would then be one of framing is not sent on";
    add("underscored TE", &post("Transfer_Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\nX"), SERVED, names);
    add("underscored CL", &get("Content_Length: 40"), SERVED, names);

    add(
        "CL twice, alike",
        &post("Content-Length: 5\r\nContent-Length: 5", "hello"),
        REFUSED,
        "RFC 9110, 8.6 lets a server refuse it: one of the two was added by somebody who did not see the other",
    );
    add("CL twice, different", &post("Content-Length: 5\r\nContent-Length: 40", "hello"), REFUSED, "");
    add("CL, a list", &post("Content-Length: 5, 5", "hello"), REFUSED, "as two fields");
    add("CL, a list that differs", &post("Content-Length: 5, 40", "hello"), REFUSED, "");
    for (name, value) in [
        ("CL: +5", "+5"),
        ("CL: -5", "-5"),
        ("CL: 0x5", "0x5"),
        ("CL: 5 5", "5 5"),
        ("CL: 5.0", "5.0"),
        ("CL: 5e0", "5e0"),
        ("CL: empty", ""),
        ("CL: quoted", "\"5\""),
        ("CL: 5;", "5;"),
        ("CL: huge", "18446744073709551616"),
        ("CL: huge, and 5", "18446744073709551621"),
        ("CL: NUL", "5\0"),
        ("CL: a vertical tab", "\x0b5"),
    ] {
        add(name, &post(&format!("Content-Length: {value}"), "hello"), REFUSED, "no number, by RFC 9110, 8.6");
    }
    add(
        "CL: zeros before",
        &post("Content-Length: 0005", "hello"),
        SERVED,
        "digits are digits, and what goes on has no zeros before them",
    );

    let chunks = "a chunk size is hexadecimal digits and nothing before or behind them (RFC 9112, 7.1): other readings end elsewhere";
    for (name, size) in [
        ("chunk: negative", "-5"),
        ("chunk: +5", "+5"),
        ("chunk: 0x5", "0x5"),
        ("chunk: overflow of 64 bits", "10000000000000005"),
        ("chunk: overflow of 32 bits twice", "100000000000000000000005"),
        ("chunk: a space before", " 5"),
        ("chunk: two numbers", "5 5"),
        ("chunk: empty", ""),
        ("chunk: no number", "g"),
        ("chunk: NUL", "5\0"),
        ("chunk: a bare carriage return", "5\rX"),
        ("chunk: quoted", "\"5\""),
        ("chunk: underscore", "0_5"),
    ] {
        add(name, &chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")), REFUSED, chunks);
    }
    let told_anew = "what goes on is told in chunks of our own, without it";
    add("chunk: zeros before", &chunked("0005\r\nhello\r\n0\r\n\r\n"), SERVED, told_anew);
    add("chunk: a space behind", &chunked("5 \r\nhello\r\n0\r\n\r\n"), SERVED, told_anew);
    add("chunk: an extension", &chunked("5;a=b\r\nhello\r\n0;x\r\n\r\n"), SERVED, told_anew);
    add("chunk: a quoted extension", &chunked("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), SERVED, told_anew);
    add(
        "chunk: a quoted line end",
        &chunked("5;a=\"\r\nhello\r\n0\r\n\r\n\"\r\n"),
        &[200, 400],
        "the line ends where it ends, quoted or not; what is behind the last chunk is the next request, and is none",
    );
    add("chunk: a bare line feed in an extension", &chunked("5;a\nhello\r\n0\r\n\r\n"), REFUSED, chunks);
    add("chunk: a bare line feed behind the size", &chunked("5\nhello\r\n0\r\n\r\n"), REFUSED, chunks);
    add("chunk: a bare line feed behind the data", &chunked("5\r\nhello\n0\r\n\r\n"), REFUSED, chunks);
    add("chunk: nothing behind the data", &chunked("5\r\nhello0\r\n\r\n"), REFUSED, chunks);
    add("chunk: two bytes behind the data", &chunked("5\r\nhelloXX0\r\n\r\n"), REFUSED, chunks);
    add("chunk: longer than its size", &chunked("3\r\nhello\r\n0\r\n\r\n"), REFUSED, chunks);
    add("chunk: a bare line feed at the end", &chunked("0\r\n\n"), REFUSED, chunks);
    add("chunk: bare carriage returns", &chunked("0\r\r"), REFUSED, chunks);
    let trailers = "trailers go on, but for those that are about framing, routing or trust";
    add("trailers", &chunked("0\r\nX: y\r\n\r\n"), SERVED, trailers);
    add(
        "trailers that frame",
        &chunked("0\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n"),
        SERVED,
        trailers,
    );
    add("trailers, a bare line feed", &chunked("0\r\nX: y\nGET /evil HTTP/1.1\r\n\r\n"), REFUSED, malformed);
    add("trailers, a bare carriage return", &chunked("0\r\nX: y\r\r\n\r\n"), REFUSED, malformed);
    add("trailers, a request in them", &chunked("0\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n"), REFUSED, malformed);
    add("trailers, folded", &chunked("0\r\nX: y\r\n z\r\n\r\n"), REFUSED, malformed);

    add(
        "a bare line feed in a head",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        REFUSED,
        "RFC 9112, 2.2 lets a server take it; one that does not sees another head",
    );
    add("bare line feeds only", "GET / HTTP/1.1\nHost: a\n\n", REFUSED, "as above");
    add("a line feed in a value", &get("X: y\nContent-Length: 40"), REFUSED, "as above");
    add("a bare carriage return in a value", &get("X: y\rContent-Length: 40"), REFUSED, malformed);
    add("a carriage return behind a line", &get("X: y\r"), REFUSED, malformed);
    add("NUL in a value", &get("X: y\0z"), REFUSED, malformed);
    add("NUL in a name", &get("X\0: y"), REFUSED, malformed);
    add(
        "a control character in a value",
        &get("X: y\x01z"),
        REFUSED,
        "control characters are no part of a value (RFC 9110, 5.5)",
    );
    add("an empty name", &get(": y"), REFUSED, malformed);
    add("no colon", &get("Content-Length"), REFUSED, malformed);
    add("a name in brackets", &get("X(y): z"), REFUSED, malformed);
    add("a name with a quote", &get("\"Content-Length\": 40"), REFUSED, malformed);
    add("non-ASCII in a value", &get("X: \u{e4}"), SERVED, "");

    add("no Host", "GET / HTTP/1.1\r\n\r\n", REFUSED, "RFC 9112, 3.2 wants it refused");
    add("Host twice", &get("Host: b"), REFUSED, "RFC 9112, 3.2 wants it refused");
    add("Host twice, alike", &get("Host: a"), REFUSED, "RFC 9112, 3.2 wants it refused");
    add(
        "an empty Host",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        REFUSED,
        "routes go by it, and a server behind may take its own",
    );
    add(
        "a Host with a user",
        "GET / HTTP/1.1\r\nHost: b@a\r\n\r\n",
        REFUSED,
        "a Host has no user: one takes what is before the @ for the host, another what is behind",
    );
    add("a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", REFUSED, "no host, by RFC 9110, 7.2");
    add("a Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", REFUSED, "no host, by RFC 9110, 7.2");
    add("a Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", REFUSED, "no host, by RFC 9110, 7.2");
    add(
        "a target against Host",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        SERVED,
        "RFC 9112, 3.2.2: the target leads, and what goes on has it as its Host",
    );
    add("a target in absolute form", "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", SERVED, "");
    add(
        "a target with another scheme",
        "GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        REFUSED,
        "nothing here serves another scheme",
    );
    add(
        "a target with a user",
        "GET http://b@a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        REFUSED,
        "RFC 9110, 4.2.4: an error, and likely meant to deceive",
    );
    add("a path of two slashes", "GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n", SERVED, "");
    add(
        "a path that begins otherwise",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        REFUSED,
        "a target has four forms, and this is none",
    );
    add("a query alone", "GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED, "a target has four forms, and this is none");
    add(
        "a path that climbs",
        "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
        &[400, 200],
        "routes and servers differ in whether they follow it: the others mend or pass it",
    );
    add(
        "a fragment",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        REFUSED,
        "a fragment is not sent (RFC 9110, 4.2.1): some cut it off, some take it for a part of the path",
    );
    add(
        "non-ASCII in a path",
        "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n",
        REFUSED,
        "a target is visible ASCII (RFC 9112, 3.2)",
    );
    add("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED, "it would be a tunnel, past routes and limits");
    add(
        "an asterisk",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        SERVED,
        "RFC 9112, 3.2.4: it asks the server as a whole, and a gateway for all hands it on",
    );
    add("an asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED, "only OPTIONS has this form");
    add("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED, malformed);
    add("tabs", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", REFUSED, malformed);
    add("a space in a path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", &[505], malformed);
    add("a space behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", REFUSED, malformed);
    add("a space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED, malformed);
    add("HTTP/0.9", "GET /\r\n", REFUSED, "it has no head, and its answer none");
    add("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", &[505], "no such version");
    add("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", &[505], "HTTP/2 has no request line");
    add(
        "empty lines before",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        SERVED,
        "RFC 9112, 2.2 wants one at least ignored",
    );
    add(
        "a method in lower case",
        "get / HTTP/1.1\r\nHost: a\r\n\r\n",
        SERVED,
        "a method is any token, and its case is a part of it: its server decides",
    );
    add(
        "a method with an underscore",
        "A_B / HTTP/1.1\r\nHost: a\r\n\r\n",
        SERVED,
        "a method is any token, and its server decides",
    );

    let named = "what is named is about this connection only; the framing is told anew whatever is named";
    add(
        "Connection names the length",
        &post("Connection: content-length\r\nContent-Length: 5", "hello"),
        SERVED,
        named,
    );
    add(
        "Connection names the coding",
        &post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        SERVED,
        named,
    );
    add("Connection names Host", &get("Connection: host"), SERVED, named);
    add("Connection names X-Forwarded-For", &get("Connection: x-forwarded-for"), SERVED, named);
    add(
        "Upgrade: h2c",
        &get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
        SERVED,
        "it is served in HTTP/1.1, and Upgrade does not go on: what follows it would go past routes and limits",
    );
    add("Upgrade: TLS/1.0", &get("Connection: Upgrade\r\nUpgrade: TLS/1.0"), SERVED, "as above");
    add("Expect", &post("Expect: 100-continue\r\nContent-Length: 5", "hello"), SERVED, "");
    add(
        "Expect, unknown",
        &post("Expect: 200-ok\r\nContent-Length: 5", "hello"),
        REFUSED,
        "nobody can say that it will be met",
    );
    add(
        "Expect, twice in one",
        &post("Expect: 100-continue, x\r\nContent-Length: 5", "hello"),
        REFUSED,
        "nobody can say that it will be met",
    );
    add("a GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", SERVED, "");
    add("a HEAD with a body", "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", SERVED, "");
    cases
}

fn chunked_as(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n")
}

/// What is in HTTP/2, and what it would be in HTTP/1.1.
pub(crate) struct Downgrade {
    pub(crate) name: &'static str,
    pub(crate) fields: Vec<(&'static str, &'static str)>,
    pub(crate) body: Option<&'static str>,
    /// The answer; `None`: the stream, or the connection, is ended.
    pub(crate) ours: Option<u16>,
    pub(crate) why: &'static str,
}

pub(crate) fn downgrades() -> Vec<Downgrade> {
    let mut cases = Vec::new();
    let mut add = |name, pseudo: [&'static str; 4], more: &[(&'static str, &'static str)], body, ours, why| {
        let [method, scheme, path, authority] = pseudo;
        let named = [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority)];
        let fields = named.into_iter().filter(|(_, value)| *value != "-").chain(more.iter().copied()).collect();
        cases.push(Downgrade { name, fields, body, ours, why });
    };
    let plain = ["GET", "http", "/", "a"];
    let post = ["POST", "http", "/", "a"];
    add("plain", plain, &[("x", "y")], None, Some(200), "");
    add("a body", post, &[], Some("hello"), Some(200), "");
    add("a body with its length", post, &[("content-length", "5")], Some("hello"), Some(200), "");
    for (name, value) in [
        ("CR LF in a value", "y\r\ntransfer-encoding: chunked"),
        ("LF in a value", "y\ntransfer-encoding: chunked"),
        ("CR in a value", "y\rtransfer-encoding: chunked"),
        ("NUL in a value", "y\0z"),
    ] {
        add(name, plain, &[("x", value)], None, None, "");
    }
    for (name, field) in [
        ("CR LF in a name", "x: y\r\nevil"),
        ("LF in a name", "x\nevil"),
        ("a colon in a name", "x: y"),
        ("a space in a name", "x y"),
        ("an empty name", ""),
        ("upper case in a name", "X-Y"),
        ("NUL in a name", "x\0y"),
    ] {
        add(
            name,
            plain,
            &[(field, "z")],
            None,
            None,
            "names in HTTP/2 are lower-case tokens, and others make a request malformed (RFC 9113, 8.2.1)",
        );
    }
    let connection = "a field about one connection makes a request of HTTP/2 malformed (RFC 9113, 8.2.2)";
    add("transfer-encoding", post, &[("transfer-encoding", "chunked")], Some("0\r\n\r\n"), None, connection);
    add(
        "transfer-encoding and a length",
        post,
        &[("transfer-encoding", "chunked"), ("content-length", "5")],
        Some("0\r\n\r\n"),
        None,
        connection,
    );
    add("connection", plain, &[("connection", "close")], None, None, connection);
    add("upgrade", plain, &[("upgrade", "h2c")], None, None, connection);
    add("te: gzip", plain, &[("te", "gzip")], None, None, connection);
    add("te: trailers", plain, &[("te", "trailers")], None, Some(200), "");
    let names = "others behind may take an underscore for a hyphen: such a field is not sent on";
    add(
        "underscored transfer-encoding",
        post,
        &[("transfer_encoding", "chunked")],
        Some("0\r\n\r\n"),
        Some(200),
        names,
    );
    add("underscored content-length", plain, &[("content_length", "40")], None, Some(200), names);
    let length = "the length and the DATA disagree (RFC 9113, 8.1.1)";
    add("a length that is too short", post, &[("content-length", "3")], Some("hello"), None, length);
    add("a length that is too long", post, &[("content-length", "9")], Some("hello"), None, length);
    add("a length without a body", post, &[("content-length", "5")], None, None, length);
    add("a length of nothing", post, &[("content-length", "0")], None, Some(200), "");
    add("two lengths", post, &[("content-length", "5"), ("content-length", "3")], Some("hello"), None, length);
    add(
        "two lengths alike",
        post,
        &[("content-length", "5"), ("content-length", "5")],
        Some("hello"),
        Some(400),
        "as in HTTP/1.1",
    );
    add("a length with a sign", post, &[("content-length", "+5")], Some("hello"), None, "no number, by RFC 9110, 8.6");
    add(
        "a length with a comma",
        post,
        &[("content-length", "5, 5")],
        Some("hello"),
        None,
        "no number, by RFC 9110, 8.6",
    );
    let target = "a path has no space, no control character, and begins with a slash (RFC 9113, 8.3.1)";
    add("a space in a path", ["GET", "http", "/ HTTP/1.1", "a"], &[], None, None, target);
    add("CR LF in a path", ["GET", "http", "/ HTTP/1.1\r\nx: y", "a"], &[], None, None, target);
    add("a tab in a path", ["GET", "http", "/\tx", "a"], &[], None, None, target);
    add("a path of another host", ["GET", "http", "http://b/", "a"], &[], None, None, target);
    add("a path that begins otherwise", ["GET", "http", "x", "a"], &[], None, None, target);
    add("an empty path", ["GET", "http", "", "a"], &[], None, None, target);
    add("no path", ["GET", "http", "-", "a"], &[], None, None, target);
    add("an asterisk with GET", ["GET", "http", "*", "a"], &[], None, Some(400), target);
    add("a query alone", ["GET", "http", "?x", "a"], &[], None, Some(400), target);
    add("a path that climbs", ["GET", "http", "/a/../b", "a"], &[], None, Some(400), "as in HTTP/1.1");
    add(
        "a fragment",
        ["GET", "http", "/a#b", "a"],
        &[],
        None,
        Some(200),
        "the h2 crate cuts a fragment off before anybody sees it: what goes on has none, and is read in one way",
    );
    let method = "a method is a token (RFC 9110, 9.1)";
    add("a space in a method", ["GET /evil HTTP/1.1\r\nx:", "http", "/", "a"], &[], None, None, method);
    add("a method with a space", ["GET x", "http", "/", "a"], &[], None, None, method);
    add("an empty method", ["", "http", "/", "a"], &[], None, None, method);
    add("CONNECT", ["CONNECT", "-", "-", "a:80"], &[], None, Some(400), "it would be a tunnel");
    let authority = "no host, by RFC 9110, 7.2";
    add("an authority with a user", ["GET", "http", "/", "b@a"], &[], None, Some(400), authority);
    add("an authority with a path", ["GET", "http", "/", "a/b"], &[], None, None, authority);
    add("an authority with a space", ["GET", "http", "/", "a b"], &[], None, None, authority);
    add("an authority with CR LF", ["GET", "http", "/", "a\r\nx: y"], &[], None, None, authority);
    add("an empty authority", ["GET", "http", "/", ""], &[], None, None, authority);
    add(
        "neither authority nor host",
        ["GET", "http", "/", "-"],
        &[],
        None,
        Some(400),
        "RFC 9113, 8.3.1 wants one of them",
    );
    add("a host instead", ["GET", "http", "/", "-"], &[("host", "a")], None, Some(200), "");
    add(
        "the same host beside it",
        plain,
        &[("host", "a")],
        None,
        Some(200),
        "RFC 9113, 8.3.1: the two must not differ, and do not",
    );
    add("another host beside it", plain, &[("host", "b")], None, Some(400), "RFC 9113, 8.3.1: the two must not differ");
    add(
        "two hosts beside it",
        plain,
        &[("host", "a"), ("host", "a")],
        None,
        Some(200),
        "both are what the authority says, and one goes on",
    );
    add("cookies", plain, &[("cookie", "a=1"), ("cookie", "b=2")], None, Some(200), "");
    cases
}
