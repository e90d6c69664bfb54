//! What the fuzz targets call. Not part of the library.

use bytes::BytesMut;
use http::Method;

use crate::h1::{
    chunked::{Chunked, Piece},
    head::parse_response,
    request::parse as parse_request,
    response::room,
};

/// A response head, whole and in two pieces: both must be read alike.
pub fn response_head(bytes: &[u8]) {
    let mut whole = BytesMut::from(bytes);
    let at_once = parse_response(&mut whole, &Method::GET).map(|head| head.map(|head| (head.status, head.framing)));
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let mut buf = BytesMut::from(first);
    if let Ok(None) = parse_response(&mut buf, &Method::GET) {
        buf.extend_from_slice(rest);
        let in_two = parse_response(&mut buf, &Method::GET).map(|head| head.map(|head| (head.status, head.framing)));
        assert_eq!(at_once, in_two);
        assert_eq!(whole, buf);
    }
}

/// A request head, whole and cut: a part of one that is refused, or waited for, and is never another request.
pub fn request_head(bytes: &[u8]) {
    let at_once = request(bytes);
    let (first, _) = bytes.split_at(bytes.len() / 2);
    match (request(first), &at_once) {
        // What was whole before more came is the same afterwards.
        (Ok(Some(head)), whole) => assert_eq!(Ok(Some(head)), *whole),
        (Err(_), Ok(Some(_))) => panic!("a part is refused, and the whole is not"),
        _ => {}
    }
    // The rest of what was read belongs to what follows.
    if let Ok(Some((_, _, _, length))) = at_once {
        assert!(length <= bytes.len());
    }
}

type Seen = (String, String, crate::h1::Framing, usize);

fn request(bytes: &[u8]) -> Result<Option<Seen>, u16> {
    let mut room = room();
    let head = parse_request(bytes, &mut room).map_err(|refused| refused.status)?;
    Ok(head.map(|head| (head.method.to_owned(), head.path.to_owned(), head.framing, head.length)))
}

/// A chunked body, at once and byte by byte: both must give the same data.
pub fn chunked(bytes: &[u8]) {
    let at_once = decode(bytes, bytes.len().max(1));
    let bytewise = decode(bytes, 1);
    assert_eq!(at_once.0.is_ok(), bytewise.0.is_ok());
    if at_once.0.is_ok() {
        assert_eq!(at_once, bytewise);
    }
}

/// How it ended, and the data.
fn decode(bytes: &[u8], step: usize) -> (Result<bool, String>, Vec<u8>) {
    let (mut decoder, mut buf, mut data) = (Chunked::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(Piece::Data(piece))) => data.extend_from_slice(&piece),
                Ok(Some(Piece::End(_))) => return (Ok(true), data),
                Ok(None) => break,
                Err(err) => return (Err(err), data),
            }
        }
    }
    (Ok(false), data)
}

#[cfg(target_os = "linux")]
pub use crate::socket::fuzz::{sock_diag, tcp_info};
