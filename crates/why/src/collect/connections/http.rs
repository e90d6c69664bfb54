//! Heads of HTTP/1, as much of them as is at the front of a read or write. What is not named here is not kept.

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
const METHOD_MAX: usize = 20;
const PATH_MAX: usize = 256;
const HOST_MAX: usize = 255;

/// The head of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Request {
    /// `GET /path`, the query left out.
    pub(crate) line: String,
    pub(crate) host: Option<String>,
    /// The time that the caller allows, and the field that says so.
    pub(crate) deadline_us: Option<(String, u64)>,
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
    let mut request = Request {
        line: format!("{} {}", text(method, METHOD_MAX), text(path(target), PATH_MAX)),
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

/// The status of a response. One that is interim (1xx) is none.
pub(crate) fn status(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(b"HTTP/1.")?;
    let &[b'0' | b'1', b' ', a, b, c, ..] = rest else { return None };
    let digits = [a, b, c];
    if !digits.iter().all(u8::is_ascii_digit) || a < b'2' {
        return None;
    }
    Some(digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

impl Request {
    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
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
