//! Request heads, as they lie in the buffer, read as strictly as a server in front of others must.
//!
//! Refused, because another parser could read it otherwise, and hide a second request in the difference:
//!
//! - a bare line feed or carriage return, a folded field, a space before a colon, control characters (400);
//! - `Content-Length` twice, even alike, or with anything but digits; beside `Transfer-Encoding` (400);
//! - `Transfer-Encoding` other than the single `chunked`, or in HTTP/1.0 (400);
//! - no `Host` in HTTP/1.1, two of them, one that is no host (400);
//! - a target with anything but visible ASCII, or in a form that its method does not take (400);
//! - more than [`FIELDS_MAX`] fields, a head of more than [`HEAD_MAX`] bytes (431), a version other than 1.0 and 1.1 (505).

use memchr::memchr_iter;

use super::{
    FIELDS_MAX, Framing, HEAD_MAX,
    fields::{Field, Said},
    response::{Room, beginning},
};

/// A request head in the buffer that it came in.
#[derive(Debug)]
pub struct Head<'b, 'f> {
    /// As it came; methods have upper and lower case.
    pub method: &'b str,
    /// Where it goes: begins with `/`, or is `*`; of a target in absolute form, what is behind the authority.
    pub path: &'b str,
    /// Host and port: of `Host`, or of a target in absolute form. Only HTTP/1.0 may have none.
    pub authority: Option<&'b str>,
    /// Of HTTP/1.1; otherwise HTTP/1.0.
    pub is_1_1: bool,
    /// In the order in which they came.
    pub fields: &'f [Field<'b>],
    /// What they say together.
    pub said: Said,
    /// Bytes of the head in the buffer.
    pub length: usize,
    /// How the end of the body is known.
    pub framing: Framing,
    /// Whether the peer means to go on with this connection.
    pub keep_alive: bool,
    /// It waits for a word of ours before it sends the body: `Expect: 100-continue`.
    pub expects_continue: bool,
}

/// A request that is not served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The status to answer with.
    pub status: u16,
    /// What is wrong with it.
    pub why: String,
}

/// Reads a request head at the front of `buf`; `None` when it is not all there yet. Empty lines before it are to be
/// skipped by the caller: [`skip_empty_lines`].
///
/// # Errors
/// What is wrong with it, and the status that says so.
pub fn parse<'b, 'f>(buf: &'b [u8], room: &'f mut Room<'b>) -> Result<Option<Head<'b, 'f>>, Refused> {
    let bad = |why: String| Refused { status: 400, why };
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(buf, room) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if buf.len() < HEAD_MAX => {
            // What is wrong already is not waited for.
            only_crlf(buf).map_err(bad)?;
            return Ok(None);
        }
        Ok(_) => return Err(Refused { status: 431, why: format!("its head is longer than {} KiB", HEAD_MAX / 1024) }),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refused { status: 431, why: format!("it has more than {FIELDS_MAX} header fields") });
        }
        Err(httparse::Error::Version) => {
            return Err(Refused { status: 505, why: format!("its version is not HTTP/1.x{}", beginning(buf)) });
        }
        Err(err) => return Err(bad(format!("its head is malformed: {err}{}", beginning(buf)))),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(bad("its head has no request line".to_owned()));
    };
    only_crlf(buf.get(..length).unwrap_or_default()).map_err(bad)?;
    let is_1_1 = version == 1;
    let fields: &[Field<'b>] = request.headers;
    let said = Said::of(fields.iter().copied()).map_err(bad)?;
    if said.lengths > 1 {
        return Err(bad("it sent Content-Length twice".to_owned()));
    }
    if said.chunked && !is_1_1 {
        return Err(bad("it sent Transfer-Encoding in an HTTP/1.0 request".to_owned()));
    }
    let (host, expects_continue) = host_and_expect(fields).map_err(bad)?;
    if host.is_none() && is_1_1 {
        return Err(bad("it has no Host field".to_owned()));
    }
    let (authority, path) = split_target(method, target).map_err(bad)?;
    let framing = match (said.chunked, said.length) {
        (true, _) => Framing::Chunked,
        (false, None | Some(0)) => Framing::Empty,
        (false, Some(length)) => Framing::Length(length),
    };
    Ok(Some(Head {
        method,
        path,
        authority: authority.or(host),
        is_1_1,
        fields,
        said,
        length,
        framing,
        keep_alive: (is_1_1 || said.keep_alive) && !said.close,
        expects_continue: expects_continue && is_1_1 && framing != Framing::Empty,
    }))
}

/// How many bytes at the front are empty lines, which a server may skip before a request line; `None` when there are
/// more of them than anybody sends.
#[must_use]
pub fn skip_empty_lines(buf: &[u8]) -> Option<usize> {
    let skipped = buf.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
    (skipped <= 8).then_some(skipped)
}

/// Whether every line ends with both: some take a bare line feed for the end of a line, some do not; the same goes for a
/// bare carriage return.
///
/// # Errors
/// Words for which of the two stands alone.
pub fn only_crlf(head: &[u8]) -> Result<(), String> {
    // Counted first, many bytes at once: nearly every head is as it should be.
    let (mut lines, mut bare) = (0, false);
    for at in memchr_iter(b'\n', head) {
        lines += 1;
        bare |= at.checked_sub(1).and_then(|before| head.get(before)) != Some(&b'\r');
    }
    // What is not all there may end between the two.
    let cut = usize::from(head.last() == Some(&b'\r'));
    if !bare && memchr_iter(b'\r', head).count() == lines + cut {
        return Ok(());
    }
    let mut before = 0;
    for &byte in head {
        if (byte == b'\n') != (before == b'\r') {
            let which = if byte == b'\n' { "line feed" } else { "carriage return" };
            return Err(format!("a line ends with a bare {which}"));
        }
        before = byte;
    }
    Ok(())
}

fn host_and_expect<'b>(fields: &[Field<'b>]) -> Result<(Option<&'b str>, bool), String> {
    let (mut host, mut expects) = (None, false);
    for Field { name, value } in fields {
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                if host.is_some() {
                    return Err("it has two Host fields".to_owned());
                }
                host = Some(authority(value).ok_or_else(|| {
                    format!(
                        "its Host is no host: {:?}",
                        value.get(..value.len().min(80)).unwrap_or_default().escape_ascii().to_string()
                    )
                })?);
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                    return Err("it expects something other than 100-continue".to_owned());
                }
                expects = true;
            }
            _ => {}
        }
    }
    Ok((host, expects))
}

/// A host with or without a port: a name, an IPv4 address, or an IPv6 address in brackets. No user, no path.
fn authority(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']')?;
            let valid = address.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
            (valid.then_some(address)?, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'%');
    let valid = !host.is_empty()
        && host.bytes().all(is_host)
        && port.is_none_or(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()));
    valid.then_some(text)
}

/// The authority of a target in absolute form, and the path behind it.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(Option<&'b str>, &'b str), String> {
    let wrong = || {
        let start: String = target.chars().take(80).collect();
        Err(format!("its target has no valid form for {}: {start:?}", method.escape_debug()))
    };
    if !target.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
        return wrong();
    }
    if target.starts_with('/') {
        return Ok((None, target));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok((None, target));
    }
    let rest = target
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"))
        .and(target.get(7..))
        .or_else(|| target.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).and(target.get(8..)));
    let Some(rest) = rest else { return wrong() };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    match authority(host.as_bytes()) {
        Some(host) if path.is_empty() => Ok((Some(host), "/")),
        Some(host) if path.starts_with('/') => Ok((Some(host), path)),
        _ => wrong(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::h1::response::room;

    fn refused(text: &str) -> Refused {
        match parse(text.as_bytes(), &mut room()) {
            Err(refused) => refused,
            Ok(head) => panic!("{text:?}: {head:?}"),
        }
    }

    /// Method, path, authority and framing.
    fn read(text: &str) -> (String, String, Option<String>, Framing, bool) {
        let mut room = room();
        let head = parse(text.as_bytes(), &mut room).unwrap().unwrap();
        let authority = head.authority.map(str::to_owned);
        (head.method.to_owned(), head.path.to_owned(), authority, head.framing, head.keep_alive)
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for (fields, why) in [
            ("Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", "both"),
            ("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", "both"),
            ("Host: a\r\nContent-Length: 5\r\nContent-Length: 5", "twice"),
            ("Host: a\r\nContent-Length: 5\r\nContent-Length: 6", "two different"),
            ("Host: a\r\nContent-Length: 5, 5", "no number"),
            ("Host: a\r\nContent-Length: +5", "no number"),
            ("Host: a\r\nContent-Length: 0x5", "no number"),
            ("Host: a\r\nContent-Length: ", "no number"),
            ("Host: a\r\nContent-Length: 18446744073709551616", "no number"),
            ("Host: a\r\nTransfer-Encoding: chunked, identity", "single coding"),
            ("Host: a\r\nTransfer-Encoding: gzip, chunked", "single coding"),
            ("Host: a\r\nTransfer-Encoding: \"chunked\"", "single coding"),
            ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "single coding"),
            ("Host: a\r\nTransfer-Encoding: \x0bchunked", "malformed"),
            ("Host: a\r\nTransfer-Encoding : chunked", "malformed"),
            ("Host: a\r\nX: y\r\n z", "malformed"),
            ("Host: a\r\nX: y\nZ: w", "bare line feed"),
            ("Host: a\r\nX: y\rZ: w", "malformed"),
            ("Host: a\r\nX: \0", "malformed"),
            ("Host: a\r\nHost: a", "two Host"),
            ("Host: a b", "no host"),
            ("Host: u@a", "no host"),
            ("Host: a/b", "no host"),
            ("Host: a:80:81", "no host"),
            ("Host: [::1", "no host"),
            ("Host: [::1]x", "no host"),
            ("Host: ", "no host"),
            ("X: y", "no Host"),
            ("Host: a\r\nExpect: 200-ok", "expects"),
        ] {
            let refused = refused(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n"));
            assert!(refused.status == 400 && refused.why.contains(why), "{fields:?}: {refused:?}");
        }
        for (line, status, why) in [
            ("GET  / HTTP/1.1", 400, "malformed"),
            ("GET /\tHTTP/1.1", 400, "malformed"),
            ("GET / HTTP/1.2", 505, "version"),
            ("GET / HTTP/2.0", 505, "version"),
            ("GET / http/1.1", 505, "version"),
            ("GET /", 400, "malformed"),
            ("G(T / HTTP/1.1", 400, "malformed"),
            ("GET x HTTP/1.1", 400, "no valid form"),
            ("GET * HTTP/1.1", 400, "no valid form"),
            ("GET /a#b HTTP/1.1", 400, "no valid form"),
            ("GET ftp://a/ HTTP/1.1", 400, "no valid form"),
            ("GET http:///x HTTP/1.1", 400, "no valid form"),
            ("GET http://a?x HTTP/1.1", 400, "no valid form"),
            ("CONNECT a:80 HTTP/1.1", 400, "no valid form"),
            ("GET /\u{e4} HTTP/1.1", 400, ""),
        ] {
            let refused = refused(&format!("{line}\r\nHost: a\r\n\r\n"));
            assert!(refused.status == status && refused.why.contains(why), "{line:?}: {refused:?}");
        }
        let refused = refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(refused.why.contains("HTTP/1.0"));
    }

    #[test]
    fn what_is_wrong_already_is_not_waited_for() {
        assert_eq!(refused("GET / HTTP/1.1\nHost").status, 400);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(HEAD_MAX))).status, 431);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(FIELDS_MAX + 1))).status, 431);
        assert!(parse(b"GET / HTTP/1.1\r\nHost: a\r\n", &mut room()).unwrap().is_none());
        assert!(parse(b"GET / HTTP/1.1\r", &mut room()).unwrap().is_none());
    }

    #[test]
    fn targets_and_bodies() {
        let get = |line: &str, fields: &str| read(&format!("{line}\r\n{fields}\r\n\r\n"));
        let owned = |text: &str| text.to_owned();
        assert_eq!(
            get("GET /x?y HTTP/1.1", "Host: a.test:81"),
            (owned("GET"), owned("/x?y"), Some(owned("a.test:81")), Framing::Empty, true)
        );
        // The target leads, whatever Host says.
        let absolute = get("GET HTTP://b.test HTTP/1.1", "Host: a.test");
        assert_eq!((&*absolute.1, absolute.2.as_deref()), ("/", Some("b.test")));
        assert_eq!(get("OPTIONS * HTTP/1.1", "Host: [::1]:80").1, "*");
        let old = get("POST / HTTP/1.0", "Content-Length: 3");
        assert_eq!((old.2, old.3, old.4), (None, Framing::Length(3), false));
        assert!(get("GET / HTTP/1.0", "Connection: Keep-Alive").4);
        assert!(!get("GET / HTTP/1.1", "Host: a\r\nConnection: x, close").4);
        assert_eq!(get("POST / HTTP/1.1", "Host: a\r\nTransfer-Encoding: Chunked").3, Framing::Chunked);
        let mut room = room();
        let text = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\nx";
        let head = parse(text, &mut room).unwrap().unwrap();
        assert!(head.expects_continue);
        assert_eq!(&text[head.length..], b"x");
    }

    #[test]
    fn some_empty_lines_are_skipped() {
        assert_eq!(skip_empty_lines(b"\r\n\r\nGET"), Some(4));
        assert_eq!(skip_empty_lines(b"GET"), Some(0));
        assert_eq!(skip_empty_lines(b"\r"), Some(0));
        assert_eq!(skip_empty_lines(&b"\r\n".repeat(9)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&bytes, &mut room());
            let _ = parse(&[b"GET / HTTP/1.1\r\nHost: ", &bytes[..]].concat(), &mut room());
            let _ = parse(&[b"GET ", &bytes[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), &mut room());
        }

        /// However much of it is there: it is waited for, and the rest is not looked at.
        #[test]
        fn a_cut_head_is_waited_for(cut in 0_usize..60) {
            let text = b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nX: y z\r\n\r\n";
            let head = parse(&text[..cut.min(text.len() - 1)], &mut room()).map(|head| head.is_some());
            prop_assert_eq!(head, Ok(false));
        }
    }
}
