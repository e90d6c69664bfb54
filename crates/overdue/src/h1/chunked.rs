//! The chunked coding, read strictly: CRLF where CRLF belongs, bounded sizes, extensions and trailers.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{HEAD_MAX, fields::Field, request::only_crlf};

/// A line with a chunk size, extensions included, is not longer.
const LINE_MAX: usize = 4 * 1024;
const TRAILERS_MAX: usize = 64;

/// Decodes one body.
#[derive(Debug, Default)]
pub struct Chunked {
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

/// What some bytes of a chunked body are. Ranges are places in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Data, never empty.
    Data(Range<usize>),
    /// The end, with the trailer fields and the empty line behind them; see [`trailers`].
    End(Range<usize>),
}

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The end, with what trailers there were.
    End(Option<HeaderMap>),
}

impl Chunked {
    /// Reads the next part at the front of `input`: how many bytes are done with, and what they held. `None` when more
    /// bytes are needed; the next call then gets the rest of this input and more.
    ///
    /// # Errors
    /// Words for what is wrong.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Part>), String> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            match self.state {
                State::Size => {
                    let Some((line, length)) = first_line(rest)? else { return Ok((used, None)) };
                    self.state = match parse_size(line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                    used += length;
                }
                State::Data(left) => {
                    if rest.is_empty() {
                        return Ok((used, None));
                    }
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok((used + take, Some(Part::Data(used..used + take))));
                }
                State::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        used += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok((used, None)),
                    _ => return Err("a chunk is longer than its size says".to_owned()),
                },
                State::Trailers => {
                    let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
                    let length = match httparse::parse_headers(rest, &mut fields) {
                        Ok(httparse::Status::Complete((length, _))) => {
                            only_crlf(rest.get(..length).unwrap_or_default())
                                .map_err(|why| format!("its trailers are malformed: {why}"))?;
                            length
                        }
                        Ok(httparse::Status::Partial) if rest.len() < HEAD_MAX => return Ok((used, None)),
                        Ok(httparse::Status::Partial) => return Err("its trailers are too long".to_owned()),
                        Err(err) => return Err(format!("its trailers are malformed: {err}")),
                    };
                    self.state = State::Done;
                    return Ok((used + length, Some(Part::End(used..used + length))));
                }
                State::Done => return Ok((used, Some(Part::End(used..used)))),
            }
        }
    }

    /// Takes the next piece from the front of `buf`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Words for what is wrong.
    pub(crate) fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, String> {
        let (used, part) = self.next(buf)?;
        match part {
            None => {
                buf.advance(used);
                Ok(None)
            }
            Some(Part::Data(at)) => {
                buf.advance(at.start);
                Ok(Some(Piece::Data(buf.split_to(at.len()).freeze())))
            }
            Some(Part::End(at)) => {
                let mut room = [httparse::EMPTY_HEADER; TRAILERS_MAX];
                let map = to_map(trailers(buf.get(at).unwrap_or_default(), &mut room))?;
                buf.advance(used);
                Ok(Some(Piece::End(map)))
            }
        }
    }
}

/// The fields of what [`Part::End`] names.
pub fn trailers<'b, 'f>(bytes: &'b [u8], room: &'f mut [Field<'b>; TRAILERS_MAX]) -> &'f [Field<'b>] {
    match httparse::parse_headers(bytes, room) {
        Ok(httparse::Status::Complete((_, fields))) => fields,
        // They have been read once, or there are none.
        _ => &[],
    }
}

/// Room for [`trailers`].
#[must_use]
pub const fn trailer_room<'b>() -> [Field<'b>; TRAILERS_MAX] {
    [httparse::EMPTY_HEADER; TRAILERS_MAX]
}

/// The line at the front, without its end, and its length with it.
fn first_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    match input.iter().take(LINE_MAX).position(|byte| *byte == b'\n') {
        Some(end) => match input.get(..end) {
            Some([line @ .., b'\r']) => Ok(Some((line, end + 1))),
            _ => Err("a chunk size ends with a bare line feed".to_owned()),
        },
        None if input.len() < LINE_MAX => Ok(None),
        None => Err("a line with a chunk size is too long".to_owned()),
    }
}

fn parse_size(line: &[u8]) -> Result<u64, String> {
    let mut digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    // Other blanks would be something else to others.
    while let [rest @ .., b' ' | b'\t'] = digits {
        digits = rest;
    }
    // A carriage return elsewhere in the line would end it for some.
    let valid = !digits.is_empty()
        && digits.len() <= 16
        && digits.iter().all(u8::is_ascii_hexdigit)
        && !line.iter().any(|byte| matches!(byte, b'\r' | 0));
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
            (b"0\r\n\n", "bare line feed"),
            (b"0\r\nX: y\n\n", "bare line feed"),
            (b"1\x0c\r\n", "no hexadecimal"),
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
