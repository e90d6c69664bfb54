//! HTTP/2 as bytes: frames that no library would send, and what comes back.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::bed::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// Fields as literals that nobody remembers (RFC 7541, 6.2.2), without Huffman's code.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        integer(out, 7, 0, text.len());
        out.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
pub(crate) fn integer(out: &mut Vec<u8>, bits: u8, first: u8, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// The pseudo fields of a request.
pub(crate) const fn asking<'t>(method: &'t str, path: &'t str) -> [(&'t str, &'t str); 4] {
    [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.test")]
}

/// A whole request, or one of which a body follows.
pub(crate) fn request(stream: u32, method: &str, more: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let fields = [&asking(method, "/")[..], more].concat();
    frame(HEADERS, END_HEADERS | u8::from(ends), stream, &block(&fields))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code in a RST_STREAM or a GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status in a HEADERS, which is its first field, and was said for the first time.
    pub(crate) fn status(&self) -> Option<u16> {
        let mut bytes = &self.payload[..];
        // A new size of the table comes first.
        while let [0x20..=0x3f, rest @ ..] = bytes {
            bytes = rest;
        }
        let indexed = [200, 204, 206, 304, 400, 404, 500];
        match bytes {
            [first @ 0x88..=0x8e, ..] => Some(indexed[usize::from(first - 0x88)]),
            // A literal with the name `:status`, which has one of seven places.
            [0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e, length, rest @ ..] if length & 0x80 == 0 => {
                std::str::from_utf8(&rest[..usize::from(*length)]).ok()?.parse().ok()
            }
            [0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e, length, rest @ ..] => {
                digits(&rest[..usize::from(length & 0x7f)]).parse().ok()
            }
            _ => None,
        }
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B).
fn digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let mut bits = bits.into_iter();
    let mut take = |count: u8, start: u8| (0..count).try_fold(start, |all, _| bits.next().map(|bit| all << 1 | bit));
    let mut text = String::new();
    while text.len() < 3 {
        let Some(five) = take(5, 0) else { break };
        let digit = match five {
            0..=2 => five,
            12..=15 => take(1, five).unwrap() - 0b01_1001 + 3,
            _ => break,
        };
        text.push(char::from(b'0' + digit));
    }
    text
}

/// A connection that speaks in frames.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    held: Vec<u8>,
}

impl Wire {
    /// With nothing sent.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::of(stream)
    }

    /// Another handle to one that is there: one may write while the other reads.
    pub(crate) const fn of(stream: TcpStream) -> Self {
        Self { stream, held: Vec::new() }
    }

    /// With the preface and settings of our own.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut wire = Self::silent(address);
        wire.send(PREFACE);
        wire.send(&frame(SETTINGS, 0, 0, &[]));
        wire
    }

    /// Whoever is cut for what is sent may be cut in the middle of it: what comes back tells.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end, however it comes.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.within(PATIENCE).unwrap_or_else(|_| panic!("nothing came for {PATIENCE:?}"))
    }

    /// The same; an error when nothing comes for so long.
    pub(crate) fn within(&mut self, time: Duration) -> Result<Option<Frame>, ErrorKind> {
        self.stream.set_read_timeout(Some(time)).unwrap();
        loop {
            if let Some(&[a, b, c, kind, flags, d, e, f, g]) = self.held.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.held.len() >= 9 + length {
                    let payload = self.held[9..9 + length].to_vec();
                    self.held.drain(..9 + length);
                    let stream = u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff;
                    return Ok(Some(Frame { kind, flags, stream, payload }));
                }
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.held.extend_from_slice(&bytes[..count]),
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(err.kind()),
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next one of which this holds; `None` at the end.
    pub(crate) fn find(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The status of the answer on this stream.
    pub(crate) fn status(&mut self, stream: u32) -> Option<u16> {
        self.find(|frame| frame.kind == HEADERS && frame.stream == stream)?.status()
    }

    /// With which code the connection is ended: the GOAWAY before its end.
    pub(crate) fn goodbye(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}
