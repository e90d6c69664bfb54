//! The chunked coding, read strictly: CRLF where CRLF belongs, bounded sizes, extensions and trailers.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::head::HEAD_MAX;

/// A line with a chunk size, extensions included, is not longer.
const LINE_MAX: usize = 4 * 1024;
const TRAILERS_MAX: usize = 64;

/// Decodes one body.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The end, with what trailers there were.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// Takes the next piece from the front of `buf`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Words for what is wrong.
    pub(crate) fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, String> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(buf)? else { return Ok(None) };
                    self.state = match parse_size(&line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    if buf.is_empty() {
                        return Ok(None);
                    }
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                    let data = buf.split_to(take).freeze();
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::DataEnd => match buf.get(..2) {
                    Some(b"\r\n") => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err("a chunk is longer than its size says".to_owned()),
                    None if buf.first().is_some_and(|byte| *byte != b'\r') => {
                        return Err("a chunk is longer than its size says".to_owned());
                    }
                    None => return Ok(None),
                },
                State::Trailers => {
                    let mut headers = [httparse::EMPTY_HEADER; TRAILERS_MAX];
                    let (length, trailers) = match httparse::parse_headers(buf, &mut headers) {
                        Ok(httparse::Status::Complete((length, trailers))) => (length, to_map(trailers)?),
                        Ok(httparse::Status::Partial) if buf.len() < HEAD_MAX => return Ok(None),
                        Ok(httparse::Status::Partial) => return Err("its trailers are too long".to_owned()),
                        Err(err) => return Err(format!("its trailers are malformed: {err}")),
                    };
                    buf.advance(length);
                    self.state = State::Done;
                    return Ok(Some(Piece::End(trailers)));
                }
                State::Done => return Ok(Some(Piece::End(None))),
            }
        }
    }
}

fn take_line(buf: &mut BytesMut) -> Result<Option<BytesMut>, String> {
    match buf.iter().take(LINE_MAX).position(|byte| *byte == b'\n') {
        Some(end) => {
            let mut line = buf.split_to(end + 1);
            if !line.ends_with(b"\r\n") {
                return Err("a chunk size ends with a bare line feed".to_owned());
            }
            line.truncate(end - 1);
            Ok(Some(line))
        }
        None if buf.len() < LINE_MAX => Ok(None),
        None => Err("a line with a chunk size is too long".to_owned()),
    }
}

fn parse_size(line: &[u8]) -> Result<u64, String> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let valid = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
    let number =
        valid.then(|| std::str::from_utf8(digits).ok()).flatten().and_then(|text| u64::from_str_radix(text, 16).ok());
    number.ok_or_else(|| {
        let start = line.get(..line.len().min(24)).unwrap_or_default();
        format!("a chunk size is no hexadecimal number: {:?}", start.escape_ascii().to_string())
    })
}

fn to_map(trailers: &[httparse::Header<'_>]) -> Result<Option<HeaderMap>, String> {
    if trailers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::with_capacity(trailers.len());
    for trailer in trailers {
        let name = HeaderName::from_bytes(trailer.name.as_bytes()).map_err(|_| "a trailer field has no valid name")?;
        let value =
            HeaderValue::from_bytes(trailer.value).map_err(|_| format!("the trailer field {name} is malformed"))?;
        map.append(name, value);
    }
    Ok(Some(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds the text in steps of `step` bytes; the body, or what is wrong.
    fn decode(text: &[u8], step: usize) -> Result<(Vec<u8>, bool), String> {
        let mut decoder = Chunked::default();
        let (mut buf, mut body) = (BytesMut::new(), Vec::new());
        for piece in text.chunks(step) {
            buf.extend_from_slice(piece);
            while let Some(piece) = decoder.decode(&mut buf)? {
                match piece {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End(_) => return Ok((body, true)),
                }
            }
        }
        Ok((body, false))
    }

    #[test]
    fn chunks_of_every_cut() {
        let text = b"4\r\nWiki\r\n5;name=\"v\"\r\npedia\r\n0\r\nX-Sum: 9\r\n\r\n";
        for step in 1..text.len() {
            assert_eq!(decode(text, step).unwrap(), (b"Wikipedia".to_vec(), true));
        }
        for cut in 0..text.len() - 1 {
            assert!(!decode(&text[..cut], 7).unwrap().1, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            (&b"4\nWiki"[..], "bare line feed"),
            (b"x\r\n", "no hexadecimal"),
            (b"-1\r\n", "no hexadecimal"),
            (b"0x4\r\n", "no hexadecimal"),
            (b" 4\r\n", "no hexadecimal"),
            (b"\r\n", "no hexadecimal"),
            (b"11111111111111111\r\n", "no hexadecimal"),
            (b"4\r\nWikixx", "longer than"),
            (b"0\r\nX Y: z\r\n\r\n", "trailers are malformed"),
        ] {
            for step in [1, 100] {
                let err = decode(text, step).unwrap_err();
                assert!(err.contains(why), "{}: {err}", text.escape_ascii());
            }
        }
        assert!(decode(&[b'1'; LINE_MAX + 1], 999).unwrap_err().contains("too long"));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_neither_panic_nor_grow(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1_usize..50) {
            if let Ok((body, _)) = decode(&bytes, step) {
                prop_assert!(body.len() <= bytes.len());
            }
        }

        #[test]
        fn the_cut_does_not_matter(chunks in prop::collection::vec("[a-z]{1,20}", 0..6), step in 1_usize..50) {
            let mut text = String::new();
            for chunk in &chunks {
                text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
            }
            text.push_str("0\r\n\r\n");
            prop_assert_eq!(decode(text.as_bytes(), step).unwrap(), (chunks.concat().into_bytes(), true));
        }
    }
}
