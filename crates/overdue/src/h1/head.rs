//! Heads of the client: requests written, responses read into a [`HeaderMap`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};

use super::{
    Framing,
    fields::tokens,
    response::{self, room},
};

/// The head of a response.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// Whether the peer means to go on with this connection.
    pub(crate) keep_alive: bool,
}

/// Takes a whole response head from the front of `buf`; `None` when it is not all there yet.
///
/// # Errors
/// As [`response::parse`].
pub(crate) fn parse_response(buf: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, String> {
    let mut room = room();
    let Some(parsed) = response::parse(buf, method == Method::HEAD, &mut room)? else { return Ok(None) };
    let response::Head { length, framing, keep_alive, .. } = parsed;
    let version = if parsed.is_1_1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = StatusCode::from_u16(parsed.status).map_err(|_| "its status code is out of range")?;
    let mut map = HeaderMap::with_capacity(parsed.fields.len());
    // One copy that all values share. They may be kept for long, and the buffer must not be kept with them.
    let start = buf.as_ptr().addr();
    let head = Bytes::copy_from_slice(buf.get(..length).unwrap_or_default());
    for field in parsed.fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a header field has no valid name")?;
        let at = field.value.as_ptr().addr().wrapping_sub(start);
        let value = HeaderValue::from_maybe_shared(part(&head, at, field.value))
            .map_err(|_| format!("the value of header field {name} has characters that are not allowed"))?;
        map.append(name, value);
    }
    buf.advance(length);
    Ok(Some(ResponseHead { status, version, headers: map, framing, keep_alive }))
}

/// `value`, which lies at `at` in `whole`, as a part of that.
fn part(whole: &Bytes, at: usize, value: &[u8]) -> Bytes {
    let range = at..at.saturating_add(value.len());
    match whole.get(range.clone()) {
        Some(there) if there == value => whole.slice(range),
        // An empty value may be anywhere.
        _ => Bytes::copy_from_slice(value),
    }
}

/// Whether the caller wants the connection closed after this request.
pub(crate) fn wants_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| tokens(value.as_bytes()))
        .any(|token| token.eq_ignore_ascii_case(b"close"))
}

/// Writes a request head. Framing is ours: what the caller put into `Content-Length` and `Transfer-Encoding` is left
/// out, and `body` says what is true.
pub(crate) fn encode_request(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    authority: &str,
    headers: &HeaderMap,
    body: Framing,
) {
    out.reserve(256 + headers.len() * 64);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if !headers.contains_key(HOST) {
        put_field(out, b"host", authority.as_bytes());
    }
    for (name, value) in headers {
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            put_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    match body {
        Framing::Empty if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {}
        Framing::Empty => put_field(out, b"content-length", b"0"),
        Framing::Length(length) => put_field(out, b"content-length", length.to_string().as_bytes()),
        Framing::Chunked | Framing::UntilClose => put_field(out, b"transfer-encoding", b"chunked"),
    }
    out.put_slice(b"\r\n");
}

fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::h1::{FIELDS_MAX, HEAD_MAX};

    fn parse(text: &str) -> Result<Option<ResponseHead>, String> {
        parse_response(&mut BytesMut::from(text), &Method::GET)
    }

    #[test]
    fn framing_that_could_be_read_two_ways_is_refused() {
        for (fields, why) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", "both"),
            ("Content-Length: 5\r\nContent-Length: 6", "two different"),
            ("Content-Length: +5", "no number"),
            ("Content-Length: 5, 5", "no number"),
            ("Content-Length: ", "no number"),
            ("Content-Length: 99999999999999999999", "no number"),
            ("Transfer-Encoding: gzip, chunked", "single coding"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "single coding"),
            ("Transfer-Encoding: identity", "single coding"),
            ("Content-Length : 5", "malformed"),
            ("X: a\r\n folded", "malformed"),
        ] {
            let err = parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).unwrap_err();
            assert!(err.contains(why), "{fields:?}: {err}");
        }
        assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err().contains("HTTP/1.0"));
    }

    #[test]
    fn the_end_of_a_body_is_known() {
        let framing = |text: &str, method| {
            parse_response(&mut BytesMut::from(text), &method).unwrap().map(|head| (head.framing, head.keep_alive))
        };
        let get = |text| framing(text, Method::GET).unwrap();
        assert_eq!(get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), (Framing::Length(5), true));
        assert_eq!(
            get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
            (Framing::Length(5), true)
        );
        assert_eq!(get("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), (Framing::Chunked, true));
        assert_eq!(get("HTTP/1.1 200 OK\r\n\r\n"), (Framing::UntilClose, false));
        assert_eq!(get("HTTP/1.1 204 No Content\r\n\r\n"), (Framing::Empty, true));
        assert_eq!(get("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), (Framing::Length(5), false));
        assert!(get("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n").1);
        assert!(!get("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, close\r\n\r\n").1);
        assert!(!get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: foo, Close\r\n\r\n").1);
        let head = framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::HEAD).unwrap();
        assert_eq!(head, (Framing::Empty, true));
    }

    #[test]
    fn heads_have_an_end() {
        assert!(parse("HTTP/1.1 200 OK\r\nX: ").unwrap().is_none());
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_MAX));
        assert!(parse(&long).unwrap_err().contains("longer than 64 KiB"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1));
        assert!(parse(&many).unwrap_err().contains("more than 128"));
    }

    #[test]
    fn only_the_head_is_taken() {
        let mut buf = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
        parse_response(&mut buf, &Method::GET).unwrap().unwrap();
        assert_eq!(&buf[..], b"body");
    }

    #[test]
    fn the_caller_cannot_break_the_framing() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let mut out = BytesMut::new();
        encode_request(&mut out, &Method::POST, "/x?y", "example.test:81", &headers, Framing::Length(3));
        assert_eq!(&out[..], b"POST /x?y HTTP/1.1\r\nhost: example.test:81\r\ncontent-length: 3\r\n\r\n");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut buf = BytesMut::from(&bytes[..]);
            let _ = parse_response(&mut buf, &Method::GET);
            let mut buf = BytesMut::from(&[b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat()[..]);
            let _ = parse_response(&mut buf, &Method::GET);
        }
    }
}
