//! The header of the PROXY protocol: what a proxy that passes bytes on says of whom it serves. Versions 1 and 2.
//!
//! Pure: bytes in, what they say out. Strict, as everything that decides whose word counts: what two readers could read
//! differently is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// No header is longer, of whichever version.
pub(crate) const HEADER_MAX: usize = V2_FIXED + V2_REST_MAX;

const V1_BEGINS: &[u8] = b"PROXY ";
/// The line end included.
const V1_MAX: usize = 107;

const V2_BEGINS: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the length of what follows.
const V2_FIXED: usize = 16;
/// The longest that every receiver has to take, so that nobody may send more.
const V2_REST_MAX: usize = 536;
const UNIX_ADDRESSES: usize = 216;
const TYPE_CRC32C: u8 = 0x03;

/// What a header says of whom the connection serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    /// The proxy itself: it looks whether we are well.
    Itself,
    /// Somebody whose address it does not know, or who has none of IP.
    Somebody,
    /// A client, and the address that it connected to.
    Client {
        /// Its own.
        client: SocketAddr,
        /// That of the proxy, or of whoever was before that.
        server: SocketAddr,
    },
}

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Invalid {
    /// Whoever connects does not speak the protocol.
    #[error("no PROXY header: it begins with \"{}\"", .first.escape_ascii())]
    NotProxy {
        /// The byte that fits neither version.
        first: u8,
    },
    /// Version 1 ends after 107 bytes.
    #[error("a PROXY header of version 1 has at most {V1_MAX} bytes and ends with CR LF")]
    LineEnd,
    /// Bytes that are no text.
    #[error("a PROXY header of version 1 has a byte that is not printable")]
    NotText,
    /// Version 1 knows TCP4, TCP6 and UNKNOWN.
    #[error("the PROXY header is for neither TCP4, TCP6 nor UNKNOWN")]
    Protocol,
    /// Two addresses and two ports, each with one space before it.
    #[error("the PROXY header has not two addresses of its kind and two ports")]
    Addresses,
    /// Version 2 is 2.
    #[error("the PROXY header is of version {0}")]
    Version(u8),
    /// LOCAL and PROXY are all there is.
    #[error("the PROXY header has the unknown command {0}")]
    Command(u8),
    /// Family and transport in one byte.
    #[error("the PROXY header has the unknown family and transport {0:#04x}")]
    Family(u8),
    /// Longer than anybody has to take.
    #[error("the PROXY header has {0} bytes after its first {V2_FIXED}, and {V2_REST_MAX} is the most")]
    TooLong(usize),
    /// Its length leaves no room for its addresses.
    #[error("the PROXY header is too short for its addresses")]
    Short,
    /// A field goes beyond the end, or has not the length of its kind.
    #[error("a field in the PROXY header has the wrong length")]
    Field,
    /// It was changed on its way.
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
}

/// Reads the header at the front of `bytes`: its length and what it says. `None` while it is not whole; then all of
/// `bytes` is part of it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(usize, Says)>, Invalid> {
    let fits = |signature: &[u8]| bytes.iter().zip(signature).take_while(|(byte, due)| byte == due).count();
    let (first, second) = (fits(V1_BEGINS), fits(V2_BEGINS));
    if first == V1_BEGINS.len() {
        return version_1(bytes);
    }
    if second == V2_BEGINS.len() {
        return version_2(bytes);
    }
    match bytes.get(first.max(second)) {
        Some(byte) => Err(Invalid::NotProxy { first: *byte }),
        None => Ok(None),
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<(usize, Says)>, Invalid> {
    let Some(end) = bytes.iter().take(V1_MAX).position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if bytes.len() < V1_MAX { Ok(None) } else { Err(Invalid::LineEnd) };
    };
    match bytes.get(end..end + 2) {
        Some(b"\r\n") if end + 2 <= V1_MAX => {}
        None if bytes.ends_with(b"\r") && bytes.len() < V1_MAX => return Ok(None),
        _ => return Err(Invalid::LineEnd),
    }
    let text = bytes.get(V1_BEGINS.len()..end).unwrap_or_default();
    if !text.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(Invalid::NotText);
    }
    let text = str::from_utf8(text).map_err(|_| Invalid::NotText)?;
    let (protocol, rest) = text.split_once(' ').unwrap_or((text, ""));
    let says = match protocol {
        "TCP4" => addresses::<Ipv4Addr>(rest)?,
        "TCP6" => addresses::<Ipv6Addr>(rest)?,
        // Whatever follows is to be ignored.
        "UNKNOWN" => Says::Somebody,
        _ => return Err(Invalid::Protocol),
    };
    Ok(Some((end + 2, says)))
}

/// `CLIENT SERVER CLIENT_PORT SERVER_PORT`, the four of them checked.
fn addresses<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<Says, Invalid> {
    let mut parts = text.split(' ');
    let mut next = || parts.next().ok_or(Invalid::Addresses);
    let (client, server, client_port, server_port) = (next()?, next()?, next()?, next()?);
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| Invalid::Addresses);
    let port = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| plain).ok_or(Invalid::Addresses)
    };
    let client = SocketAddr::new(address(client)?, port(client_port)?);
    let server = SocketAddr::new(address(server)?, port(server_port)?);
    if parts.next().is_some() { Err(Invalid::Addresses) } else { Ok(Says::Client { client, server }) }
}

fn version_2(bytes: &[u8]) -> Result<Option<(usize, Says)>, Invalid> {
    let mut fixed = bytes.iter().skip(V2_BEGINS.len()).copied();
    let Some(kind) = fixed.next() else { return Ok(None) };
    if kind >> 4 != 2 {
        return Err(Invalid::Version(kind >> 4));
    }
    let is_local = match kind & 0xf {
        0 => true,
        1 => false,
        other => return Err(Invalid::Command(other)),
    };
    let Some(family) = fixed.next() else { return Ok(None) };
    // What a LOCAL header holds is to be ignored, and this byte with it.
    if !is_local && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(Invalid::Family(family));
    }
    let (Some(high), Some(low)) = (fixed.next(), fixed.next()) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > V2_REST_MAX {
        return Err(Invalid::TooLong(rest));
    }
    let length = V2_FIXED + rest;
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if is_local {
        return Ok(Some((length, Says::Itself)));
    }
    let rest = header.get(V2_FIXED..).unwrap_or_default();
    let (says, fields) = match family {
        0x11 => {
            let (addresses, fields) = rest.split_first_chunk::<12>().ok_or(Invalid::Short)?;
            let [a, b, c, d, e, f, g, h, from @ .., high, low] = *addresses;
            let client = SocketAddr::from(([a, b, c, d], u16::from_be_bytes(from)));
            let server = SocketAddr::from(([e, f, g, h], u16::from_be_bytes([high, low])));
            (Says::Client { client, server }, fields)
        }
        0x21 => {
            let (addresses, fields) = rest.split_first_chunk::<36>().ok_or(Invalid::Short)?;
            let (client, others) = addresses.split_first_chunk::<16>().ok_or(Invalid::Short)?;
            let (server, ports) = others.split_first_chunk::<16>().ok_or(Invalid::Short)?;
            let [a, b, c, d] = *ports else { return Err(Invalid::Short) };
            let client = SocketAddr::from((*client, u16::from_be_bytes([a, b])));
            let server = SocketAddr::from((*server, u16::from_be_bytes([c, d])));
            (Says::Client { client, server }, fields)
        }
        // Of another transport: whoever that is did not connect as we know it.
        0x10 | 0x12 => (Says::Somebody, rest.get(12..).ok_or(Invalid::Short)?),
        0x20 | 0x22 => (Says::Somebody, rest.get(36..).ok_or(Invalid::Short)?),
        0x30..=0x32 => (Says::Somebody, rest.get(UNIX_ADDRESSES..).ok_or(Invalid::Short)?),
        // Of no family: what follows is to be ignored.
        _ => return Ok(Some((length, Says::Somebody))),
    };
    check_fields(header, fields)?;
    Ok(Some((length, says)))
}

/// Goes through the fields behind the addresses. The checksum is the only one that matters here.
fn check_fields(header: &[u8], fields: &[u8]) -> Result<(), Invalid> {
    let mut left = fields;
    let mut checked = false;
    while let Some((kind, after)) = left.split_first() {
        let (length, after) = after.split_first_chunk::<2>().ok_or(Invalid::Field)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, after) = after.split_at_checked(length).ok_or(Invalid::Field)?;
        if *kind == TYPE_CRC32C {
            let told = <[u8; 4]>::try_from(value).map_err(|_| Invalid::Field)?;
            let at = header.len() - after.len() - length;
            if checked || crc32c(header, at..at + length) != u32::from_be_bytes(told) {
                return Err(Invalid::Checksum);
            }
            checked = true;
        }
        left = after;
    }
    Ok(())
}

/// CRC-32C (Castagnoli) of `bytes`, in which those at `zeroed` count as zero. Bit by bit: it is for one header of a
/// connection, and for few of these.
fn crc32c(bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    let byte = |(at, byte): (usize, &u8)| if zeroed.contains(&at) { 0 } else { *byte };
    let crc = bytes.iter().enumerate().map(byte).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    });
    !crc
}

/// A header at once and in pieces: no piece decides before its time, what is wrong early stays wrong, and what follows a
/// header changes nothing.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let whole = parse(bytes);
    let length = match whole {
        Ok(Some((length, _))) => length,
        _ => bytes.len(),
    };
    assert!(whole.is_err() || length <= HEADER_MAX);
    for end in 0..length {
        match parse(&bytes[..end]) {
            Ok(None) => {}
            Err(_) => assert!(whole.is_err()),
            Ok(Some(_)) => panic!("whole after {end} of {length} bytes"),
        }
    }
    assert!(whole.is_err() || parse(&bytes[..length]) == whole);
}

#[cfg(test)]
mod tests;
