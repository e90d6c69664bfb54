//! The ClientHello, read strictly and without a copy.

use super::Malformed;
use crate::server::names::{NAME_MAX, is_host_name};

const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;
const SCSV_RENEGOTIATION: u16 = 0x00ff;
const SCSV_FALLBACK: u16 = 0x5600;

/// A TLS version as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(pub u16);

impl Version {
    /// TLS 1.2.
    pub const TLS12: Self = Self(0x0303);
    /// TLS 1.3.
    pub const TLS13: Self = Self(0x0304);
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0x0300 => f.write_str("SSL 3.0"),
            minor @ 0x0301..=0x0304 => write!(f, "TLS 1.{}", minor - 0x0301),
            other => write!(f, "version {other:#06x}"),
        }
    }
}

/// What a client says of itself before anything is computed. Values that are there to keep servers tolerant (GREASE,
/// RFC 8701) are part of the lists, and can be left out with [`is_grease`].
#[derive(Clone, Copy, Debug)]
pub struct ClientHello<'a> {
    legacy_version: u16,
    cipher_suites: &'a [u8],
    extensions: &'a [u8],
    server_name: Option<&'a str>,
    alpn: Option<&'a [u8]>,
    supported_versions: Option<&'a [u8]>,
    signature_algorithms: Option<&'a [u8]>,
}

/// Whether a cipher suite, an extension or a version is one of those that mean nothing (RFC 8701).
#[must_use]
pub const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

impl<'a> ClientHello<'a> {
    /// Reads the body of the message, without the header that says its type and length.
    ///
    /// # Errors
    /// [`Malformed`] says which rule it breaks.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Reader(body);
        let legacy_version = body.u16()?;
        if !(0x0300..=0x03ff).contains(&legacy_version) {
            return Err(Malformed::Version);
        }
        body.take(32)?;
        if body.vector8()?.0.len() > 32 {
            return Err(Malformed::SessionId);
        }
        let cipher_suites = body.vector16()?.u16s(Malformed::CipherSuites)?;
        if !body.vector8()?.0.contains(&0) {
            return Err(Malformed::Compression);
        }
        let mut hello = Self {
            legacy_version,
            cipher_suites,
            extensions: &[],
            server_name: None,
            alpn: None,
            supported_versions: None,
            signature_algorithms: None,
        };
        if !body.0.is_empty() {
            let extensions = body.vector16()?;
            if !body.0.is_empty() {
                return Err(Malformed::Trailing);
            }
            hello.extensions = extensions.0;
            hello.read_extensions(extensions)?;
        }
        Ok(hello)
    }

    fn read_extensions(&mut self, mut extensions: Reader<'a>) -> Result<(), Malformed> {
        let mut seen = [0_u64; 1_024];
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.vector16()?;
            let (word, bit) = (usize::from(kind >> 6), 1 << (kind & 63));
            match seen.get_mut(word) {
                Some(seen) if *seen & bit == 0 => *seen |= bit,
                _ => return Err(Malformed::Twice { extension: kind }),
            }
            match kind {
                SERVER_NAME => self.server_name = Some(server_name(content)?),
                ALPN => self.alpn = Some(alpn(content)?),
                SUPPORTED_VERSIONS => {
                    let mut content = content;
                    let versions = content.vector8()?.u16s(Malformed::Extension { extension: kind })?;
                    content.end(kind)?;
                    self.supported_versions = Some(versions);
                }
                SIGNATURE_ALGORITHMS => {
                    let mut content = content;
                    let algorithms = content.vector16()?.u16s(Malformed::Extension { extension: kind })?;
                    content.end(kind)?;
                    self.signature_algorithms = Some(algorithms);
                }
                PRE_SHARED_KEY if !extensions.0.is_empty() => return Err(Malformed::KeyNotLast),
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of the server it asks for (SNI), as it was sent.
    #[must_use]
    pub const fn server_name(&self) -> Option<&'a str> {
        self.server_name
    }

    /// The protocols that it speaks (ALPN), first choice first. `None` where it does not say.
    #[must_use]
    pub fn alpn(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        self.alpn.map(protocols)
    }

    /// The cipher suites, as offered.
    pub fn cipher_suites(&self) -> impl Iterator<Item = u16> + use<'a> {
        u16s(self.cipher_suites)
    }

    /// The types of its extensions, in their order.
    pub fn extensions(&self) -> impl Iterator<Item = u16> + use<'a> {
        let mut extensions = Reader(self.extensions);
        std::iter::from_fn(move || {
            let kind = extensions.u16().ok()?;
            extensions.vector16().ok()?;
            Some(kind)
        })
    }

    /// The signature algorithms, as offered; none where it does not say.
    pub fn signature_algorithms(&self) -> impl Iterator<Item = u16> + use<'a> {
        u16s(self.signature_algorithms.unwrap_or_default())
    }

    /// The newest version that it offers.
    #[must_use]
    pub fn newest_version(&self) -> Version {
        let newest = match self.supported_versions {
            Some(versions) => u16s(versions).filter(|version| !is_grease(*version)).max().unwrap_or(0),
            None => self.legacy_version,
        };
        Version(newest)
    }

    /// Whether there is a cipher suite among those it offers, beside values that only signal something.
    #[must_use]
    pub fn offers_a_cipher(&self) -> bool {
        self.cipher_suites().any(|suite| !is_grease(suite) && suite != SCSV_RENEGOTIATION && suite != SCSV_FALLBACK)
    }
}

fn server_name(mut content: Reader<'_>) -> Result<&str, Malformed> {
    let invalid = Malformed::Extension { extension: SERVER_NAME };
    let mut list = content.vector16()?;
    content.end(SERVER_NAME)?;
    let kind = list.u8()?;
    let name = list.vector16()?.0;
    // One name of the one type that there is.
    if kind != 0 || !list.0.is_empty() || name.len() > NAME_MAX || !is_host_name(name) {
        return Err(invalid);
    }
    std::str::from_utf8(name).map_err(|_| invalid)
}

/// The list, once it was seen to be whole.
fn alpn(mut content: Reader<'_>) -> Result<&[u8], Malformed> {
    let list = content.vector16()?.0;
    content.end(ALPN)?;
    let mut names = Reader(list);
    loop {
        if names.vector8()?.0.is_empty() {
            return Err(Malformed::Extension { extension: ALPN });
        }
        if names.0.is_empty() {
            return Ok(list);
        }
    }
}

fn protocols(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut names = Reader(list);
    std::iter::from_fn(move || names.vector8().ok().map(|name| name.0))
}

fn u16s(list: &[u8]) -> impl Iterator<Item = u16> + use<'_> {
    list.chunks_exact(2).filter_map(|pair| pair.first_chunk().map(|pair| u16::from_be_bytes(*pair)))
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn vector8(&mut self) -> Result<Self, Malformed> {
        let length = self.u8()?.into();
        self.take(length).map(Self)
    }

    fn vector16(&mut self) -> Result<Self, Malformed> {
        let length = self.u16()?.into();
        self.take(length).map(Self)
    }

    /// A list of pairs that is not empty.
    fn u16s(self, malformed: Malformed) -> Result<&'a [u8], Malformed> {
        if self.0.is_empty() || !self.0.len().is_multiple_of(2) { Err(malformed) } else { Ok(self.0) }
    }

    fn end(self, extension: u16) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Extension { extension }) }
    }
}
