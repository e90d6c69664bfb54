//! Heads of HTTP/1, as much of them as is at the front of a read or write. What is not named here is not kept.

use super::super::process::hide_in_path;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
const METHOD_MAX: usize = 20;
const PATH_MAX: usize = 256;
const HOST_MAX: usize = 255;
/// What is shown of what is no HTTP.
const SHOWN_MAX: usize = 48;

/// The head of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Request {
    /// `GET /path`, the query left out.
    pub(crate) line: String,
    pub(crate) host: Option<String>,
    /// The time that the caller allows, and the field that says so.
    pub(crate) deadline_us: Option<(String, u64)>,
    /// It says that the answer may wait for something to happen.
    pub(crate) asks_to_wait: bool,
    /// Only by a word that lists are called, too.
    pub(crate) asks_by_name: bool,
}

/// Whether a client begins to speak HTTP/2.
pub(crate) fn is_http2(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// The head of a request, which may be cut off.
pub(crate) fn request(bytes: &[u8]) -> Option<Request> {
    let (line, fields) = split_line(bytes);
    let end = line.iter().position(|byte| *byte == b' ').filter(|end| (1..=METHOD_MAX).contains(end))?;
    let (method, rest) = line.split_at(end);
    if !method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-') {
        return None;
    }
    let rest = rest.get(1..)?;
    let target = match rest.iter().rposition(|byte| *byte == b' ') {
        Some(end) => {
            let (target, version) = rest.split_at(end);
            // Of a line that is cut off, the version may be cut off, too.
            let known = version.starts_with(b" HTTP/1.");
            (known || (fields.is_none() && b" HTTP/1.".starts_with(version))).then_some(target)?
        }
        None if fields.is_none() && is_known(method) => rest,
        None => return None,
    };
    if target.is_empty() {
        return None;
    }
    let asks = long_poll(target).filter(|_| matches!(method, b"GET" | b"HEAD"));
    let mut request = Request {
        line: format!("{} {}", text(method, METHOD_MAX), hide_in_path(&text(path(target), PATH_MAX))),
        asks_to_wait: asks.is_some(),
        asks_by_name: asks == Some(Asks::ByName),
        ..Request::default()
    };
    let mut rest = fields;
    while let Some(fields) = rest {
        let (line, more) = split_line(fields);
        if line.is_empty() {
            break;
        }
        rest = more;
        // The last is cut off: half a value is none.
        if rest.is_some() {
            request.field(line);
        }
    }
    Some(request)
}

/// Switching Protocols: the connection is HTTP's no more.
const SWITCHED: u16 = 101;

/// How servers of SHOUTcast begin, which stream music to clients of HTTP.
const ICY: &[u8] = b"ICY ";

/// The status of a response. One that is interim (1xx) is none, but for the one that no other follows.
pub(crate) fn status(bytes: &[u8]) -> Option<u16> {
    let begin = [b"HTTP/1.0 ", b"HTTP/1.1 ", ICY].into_iter().find(|begin| bytes.starts_with(begin))?;
    let &[a, b, c, ..] = bytes.get(begin.len()..)? else { return None };
    let digits = [a, b, c];
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    (status >= 200 || status == SWITCHED).then_some(status)
}

/// Whether a response of that status to that request has no body, whatever its head says of one.
pub(crate) fn has_no_body(request: &Request, status: u16) -> bool {
    request.line.starts_with("HEAD ") || matches!(status, SWITCHED | 204 | 304)
}

/// How many bytes a head has, where its end is here.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    loop {
        let (line, more) = split_line(rest);
        rest = more?;
        if line.is_empty() {
            return Some(bytes.len() - rest.len());
        }
    }
}

/// What a server answers instead of HTTP/1, printable; `None` where it may be HTTP/1.
pub(crate) fn not_http(bytes: &[u8]) -> Option<String> {
    let begins = |begin: &[u8]| bytes.iter().zip(begin).all(|(seen, of_http)| seen == of_http);
    let same = begins(b"HTTP/1.") || begins(ICY);
    (!same && !bytes.is_empty()).then(|| bytes.get(..SHOWN_MAX).unwrap_or(bytes).escape_ascii().to_string())
}

/// How many bytes the body of a response has, where its head, which is whole, says so.
pub(crate) fn body_length(head: &[u8]) -> Option<u64> {
    fields(head)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length"))
        .last()
        .and_then(|(_, value)| number(value))
}

/// Whether its body is a stream of events, which come when there are some.
pub(crate) fn is_events(head: &[u8]) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let is_events = |value: &[u8]| value.get(..EVENTS.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(EVENTS));
    fields(head).any(|(name, value)| name.eq_ignore_ascii_case(b"content-type") && is_events(value))
}

/// The fields of a head: names and values. The first line is one without a name that anybody asks for.
fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        Some((name, value.get(1..)?.trim_ascii()))
    })
}

impl Request {
    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        // RFC 7240: `Prefer: respond-async, wait=10`.
        if name.eq_ignore_ascii_case(b"prefer") {
            let waits = value.split(|byte| *byte == b',').any(|part| part.trim_ascii().starts_with(b"wait="));
            self.asks_to_wait |= waits;
            self.asks_by_name &= !waits;
        }
        let deadline = if name.eq_ignore_ascii_case(b"host") {
            self.host = Some(text(after_userinfo(value), HOST_MAX));
            return;
        } else if name.eq_ignore_ascii_case(b"grpc-timeout") {
            grpc_timeout(value).map(|us| ("grpc-timeout", us))
        } else if name.eq_ignore_ascii_case(b"x-envoy-expected-rq-timeout-ms") {
            number(value).and_then(|ms| ms.checked_mul(1000)).map(|us| ("x-envoy-expected-rq-timeout-ms", us))
        } else {
            return;
        };
        // Two that differ: the shorter one holds.
        if let Some((name, us)) = deadline
            && self.deadline_us.as_ref().is_none_or(|(_, other)| us < *other)
        {
            self.deadline_us = Some((name.to_owned(), us));
        }
    }
}

/// The first line, and what follows it; `None` when it does not end here.
fn split_line(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return (bytes, None) };
    let (line, rest) = bytes.split_at(end);
    (line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..))
}

fn is_known(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"POST" | b"PUT" | b"DELETE" | b"OPTIONS" | b"PATCH" | b"CONNECT" | b"TRACE")
}

/// A target without its query, and without what a proxy is told of the server and the user.
fn path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len());
    let target = target.get(..end).unwrap_or(target);
    if target.starts_with(b"/") {
        return target;
    }
    let Some(scheme) = target.windows(3).position(|bytes| bytes == b"://") else { return after_userinfo(target) };
    let authority = target.get(scheme + 3..).unwrap_or_default();
    let slash = authority.iter().position(|byte| *byte == b'/');
    slash.and_then(|slash| authority.get(slash..)).unwrap_or(b"/")
}

/// How surely a request asks to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// By a word that means it.
    Surely,
    /// By one that lists are called, too.
    ByName,
}

/// Whether the last part of a path, or a name in a query, is one of those by which long polls are known.
fn long_poll(target: &[u8]) -> Option<Asks> {
    const PATHS: [&[u8]; 5] = [b"poll", b"longpoll", b"long-poll", b"watch", b"subscribe"];
    const NAMES: [&[u8]; 1] = [b"events"];
    const QUERIES: [&[u8]; 4] = [b"wait", b"watch", b"poll", b"longpoll"];
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut names = query.get(1..).unwrap_or_default().split(|byte| *byte == b'&');
    let is = |known: &[&[u8]], name: &[u8]| known.iter().any(|known| known.eq_ignore_ascii_case(name));
    if is(&PATHS, last) || names.any(|pair| is(&QUERIES, pair.split(|byte| *byte == b'=').next().unwrap_or_default())) {
        Some(Asks::Surely)
    } else {
        is(&NAMES, last).then_some(Asks::ByName)
    }
}

fn after_userinfo(authority: &[u8]) -> &[u8] {
    let at = authority.iter().rposition(|byte| *byte == b'@');
    at.and_then(|at| authority.get(at + 1..)).unwrap_or(authority)
}

fn text(bytes: &[u8], at_most: usize) -> String {
    String::from_utf8_lossy(bytes.get(..at_most).unwrap_or(bytes)).into_owned()
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 12 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// At most eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    let number = number(digits).filter(|_| digits.len() <= 8)?;
    Some(match unit {
        b'H' => number * 3_600_000_000,
        b'M' => number * 60_000_000,
        b'S' => number * 1_000_000,
        b'm' => number * 1000,
        b'u' => number,
        b'n' => number / 1000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(bytes: &str) -> Option<String> {
        request(bytes.as_bytes()).map(|request| request.line)
    }

    #[test]
    fn only_what_is_named_is_kept() {
        let head = b"POST /a/b?key=secret#part HTTP/1.1\r\nHOST:  host.example:8080 \r\nCookie: secret\r\n\
            grpc-timeout: 250m\r\nx-envoy-expected-rq-timeout-ms: 100\r\n\r\nHost: secret\r\n";
        let request = request(head).unwrap();
        assert_eq!((request.line.as_str(), request.host.as_deref()), ("POST /a/b", Some("host.example:8080")));
        assert_eq!(request.deadline_us, Some(("x-envoy-expected-rq-timeout-ms".to_owned(), 100_000)));
        assert!(!format!("{request:?}").contains("secret"));
        let proxied = "GET http://user:secret@host.example/path?secret HTTP/1.1\r\n";
        assert_eq!(line(proxied).as_deref(), Some("GET /path"));
        assert_eq!(line("CONNECT user:secret@host:443 HTTP/1.1\r\n").as_deref(), Some("CONNECT host:443"));
        assert_eq!(line("GET /bot1:secret/getMe HTTP/1.1\r\n").as_deref(), Some("GET /bot***/getMe"));
    }

    #[test]
    fn a_long_poll_says_so() {
        let asks = |head: &str| request(head.as_bytes()).unwrap().asks_to_wait;
        for head in [
            "GET /v1/kv/key?index=7&wait=30s HTTP/1.1\r\n\r\n",
            "GET /rooms/1/poll HTTP/1.1\r\n\r\n",
            "GET /api/v1/pods?watch=true HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nPrefer: respond-async, wait=10\r\n\r\n",
        ] {
            assert!(asks(head), "{head}");
        }
        for head in [
            "GET /pollution?q=wait HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nprefer: respond-async\r\n\r\n",
            // A limit for an answer is no wait, and an order is no question for news.
            "GET /report?timeout=2s HTTP/1.1\r\n\r\n",
            "POST /orders?wait=true HTTP/1.1\r\n\r\n",
            "POST /v1/events HTTP/1.1\r\n\r\n",
        ] {
            assert!(!asks(head), "{head}");
        }
    }

    /// A list of events is called like a stream of them.
    #[test]
    fn a_long_poll_may_be_so_by_name_alone() {
        let by_name = |head: &str| {
            let request = request(head.as_bytes()).unwrap();
            (request.asks_to_wait, request.asks_by_name)
        };
        assert_eq!(by_name("GET /v1/events HTTP/1.1\r\n\r\n"), (true, true));
        assert_eq!(by_name("GET /v1/events?wait=30s HTTP/1.1\r\n\r\n"), (true, false));
        assert_eq!(by_name("GET /v1/events HTTP/1.1\r\nPrefer: wait=10\r\n\r\n"), (true, false));
        assert_eq!(by_name("GET /rooms/1/poll HTTP/1.1\r\n\r\n"), (true, false));
    }

    #[test]
    fn what_is_cut_off_is_read_so_far() {
        assert_eq!(line("GET /path HTTP/1.1\r\nHo").as_deref(), Some("GET /path"));
        assert_eq!(line("GET /path HTT").as_deref(), Some("GET /path"));
        assert_eq!(line("GET /pa").as_deref(), Some("GET /pa"));
        assert_eq!(request(b"GET / HTTP/1.1\r\nHost: hos").unwrap().host, None);
        for none in ["", " ", "GET", "GET ", "get / HTTP/1.1\r\n", "SELECT 1", "GET / RTSP/1.0\r\n", "*1\r\n$4\r\n"] {
            assert_eq!(line(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_response_says_how_long_it_is() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhello";
        assert_eq!((length(head), body_length(&head[..39])), (Some(39), Some(20)));
        assert_eq!(body_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), None);
        assert_eq!(body_length(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), None);
        assert_eq!(body_length(b""), None);
    }

    #[test]
    fn a_response_says_that_it_is_a_stream_of_events() {
        let is = |field: &str| is_events(format!("HTTP/1.1 200 OK\r\n{field}\r\nServer: x\r\n\r\n").as_bytes());
        assert!(is("Content-Type: text/event-stream") && is("content-type:text/Event-Stream; charset=utf-8"));
        assert!(!is("content-type: text/plain") && !is("accept: text/event-stream") && !is_events(b""));
    }

    #[test]
    fn heads_and_what_is_none() {
        assert_eq!((length(b"HTTP/1.1 200 OK\r\n\r\nbody"), length(b"HTTP/1.1 200 OK\n\n")), (Some(19), Some(17)));
        for open in [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-type: te", b"HTTP/1.1 200 OK\r\n\r", b""]
        {
            assert_eq!(length(open), None, "{}", open.escape_ascii());
        }
        assert_eq!(not_http(b"HELLO/1.1 two\r\n").as_deref(), Some("HELLO/1.1 two\\r\\n"));
        assert_eq!((not_http(b"ICY 200 OK\r\n"), not_http(b"I")), (None, None));
        assert_eq!(not_http(b"ICE 200 OK").as_deref(), Some("ICE 200 OK"));
        assert_eq!((not_http(b"HTTP/1.0 200"), not_http(b"HT"), not_http(b"")), (None, None, None));
        let head = request(b"HEAD / HTTP/1.1\r\n\r\n").unwrap();
        let get = request(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(has_no_body(&head, 200) && has_no_body(&get, 304) && !has_no_body(&get, 200));
        assert!(has_no_body(&get, 101));
    }

    #[test]
    fn statuses() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!((status(b"HTTP/1.0 503"), status(b"ICY 200 OK\r\n")), (Some(503), Some(200)));
        assert_eq!(status(b"HTTP/1.1 101 Switching Protocols\r\n"), Some(101));
        for none in
            [&b"HTTP/1.1 100 Continue"[..], b"HTTP/1.1 2x4", b"HTTP/2.0 200", b"HTTP/1.1 20", b"ICY 2", b"ICE 200", b""]
        {
            assert_eq!(status(none), None);
        }
    }

    #[test]
    fn grpc_timeouts() {
        for (text, us) in [("1H", Some(3_600_000_000)), ("2S", Some(2_000_000)), ("3u", Some(3)), ("1500n", Some(1))] {
            assert_eq!(grpc_timeout(text.as_bytes()), us, "{text}");
        }
        for none in ["", "S", "1", "123456789S", "-1S", "1s"] {
            assert_eq!(grpc_timeout(none.as_bytes()), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn texts_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            status(&bytes);
            let mut head = b"GET /".to_vec();
            head.extend_from_slice(&bytes);
            for bytes in [&bytes, &head] {
                if let Some(request) = request(bytes) {
                    // A byte that is no text becomes a mark of three bytes.
                    prop_assert!(request.line.len() <= 3 * (METHOD_MAX + 1 + PATH_MAX));
                    prop_assert!(request.host.is_none_or(|host| host.len() <= 3 * HOST_MAX));
                }
            }
        }
    }
}
