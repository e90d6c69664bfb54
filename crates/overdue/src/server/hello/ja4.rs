//! JA4: a short text that is the same for clients that say the same of themselves, in whatever order.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::client_hello::{ClientHello, Version, is_grease};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// Of a SHA-256, in hexadecimal digits.
const HASH: usize = 12;

/// A JA4 fingerprint of a client over TCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; 10 + 1 + HASH + 1 + HASH]);

impl Ja4 {
    /// The fingerprint of this hello.
    #[must_use]
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let mut suites: Vec<u16> = hello.cipher_suites().filter(|suite| !is_grease(*suite)).collect();
        let mut extensions: Vec<u16> = hello.extensions().filter(|kind| !is_grease(*kind)).collect();
        let named = if hello.server_name().is_some() { 'd' } else { 'i' };
        let [first, last] = hello.alpn().and_then(|mut alpn| alpn.next()).map_or(['0'; 2], ends);
        let (suites_count, extensions_count) = (suites.len().min(99), extensions.len().min(99));
        let head =
            format!("t{}{named}{suites_count:02}{extensions_count:02}{first}{last}", version(hello.newest_version()));
        suites.sort_unstable();
        extensions.sort_unstable();
        extensions.retain(|kind| *kind != SERVER_NAME && *kind != ALPN);
        let suites = hash(&suites, &[]);
        let signatures: Vec<u16> = hello.signature_algorithms().filter(|value| !is_grease(*value)).collect();
        let extensions = hash(&extensions, &signatures);
        let mut text = Self([b'_'; 36]);
        for (slot, byte) in
            text.0.iter_mut().zip(head.bytes().chain([b'_']).chain(suites).chain([b'_']).chain(extensions))
        {
            *slot = byte;
        }
        text
    }

    /// The fingerprint as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

const fn version(version: Version) -> &'static str {
    match version.0 {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        _ => "00",
    }
}

/// The first and the last character of a protocol's name, or of its hexadecimal form where one of them is neither
/// letter nor digit.
fn ends(name: &[u8]) -> [char; 2] {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    match (name.first(), name.last()) {
        (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() => {
            [char::from(*first), char::from(*last)]
        }
        (Some(first), Some(last)) => [digit(first >> 4), digit(last & 15)],
        _ => ['0'; 2],
    }
}

/// Of the values in hexadecimal, with commas; the second list behind an underscore, where there is one.
fn hash(values: &[u16], more: &[u16]) -> [u8; HASH] {
    if values.is_empty() {
        return [b'0'; HASH];
    }
    let mut context = Context::new(&SHA256);
    for (list, mut before) in [(values, ""), (more, "_")] {
        for value in list {
            context.update(before.as_bytes());
            context.update(format!("{value:04x}").as_bytes());
            before = ",";
        }
    }
    let digest = context.finish();
    let mut text = [b'0'; HASH];
    let nibbles = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (slot, nibble) in text.iter_mut().zip(nibbles) {
        *slot = b"0123456789abcdef".get(usize::from(nibble)).copied().unwrap_or(b'0');
    }
    text
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
