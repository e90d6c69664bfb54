//! The PROXY protocol towards servers: who the client is, told before anything else on a connection.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use tokio::net::TcpStream;

use crate::config::ProxyProtocol;

/// Begins a header of the second version.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and whether there is a client behind the connection.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// TCP over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header of a connection for this client, which connected to `to`.
pub(crate) fn header(version: ProxyProtocol, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (mut from_ip, mut to_ip) = (client.ip().to_canonical(), to.ip().to_canonical());
    if from_ip.is_ipv4() != to_ip.is_ipv4() {
        // A header has one family for both.
        (from_ip, to_ip) = (as_v6(from_ip), as_v6(to_ip));
    }
    let mut out = Vec::with_capacity(64);
    match version {
        ProxyProtocol::V1 => {
            let family = if from_ip.is_ipv4() { "TCP4" } else { "TCP6" };
            // To a buffer that grows, writing does not fail.
            let _ = write!(out, "PROXY {family} {from_ip} {to_ip} {} {}\r\n", client.port(), to.port());
        }
        ProxyProtocol::V2 => {
            out.extend_from_slice(&SIGNATURE);
            out.push(PROXY);
            let (family, length) = if from_ip.is_ipv4() { (TCP4, 12_u16) } else { (TCP6, 36) };
            out.push(family);
            out.extend_from_slice(&length.to_be_bytes());
            for ip in [from_ip, to_ip] {
                match ip {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            out.extend_from_slice(&client.port().to_be_bytes());
            out.extend_from_slice(&to.port().to_be_bytes());
        }
    }
    out
}

/// That of a connection of the gateway's own.
pub(crate) fn own_header(version: ProxyProtocol) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyProtocol::V2 => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
    }
}

fn as_v6(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

/// Writes a header to a connection that was just opened. The limit is the caller's.
pub(crate) async fn introduce(stream: &TcpStream, mut header: &[u8]) -> io::Result<()> {
    while !header.is_empty() {
        stream.writable().await?;
        match stream.try_write(header) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => header = header.get(bytes..).unwrap_or_default(),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let (v4, to_v4) = (at("192.0.2.1:1234"), at("192.0.2.9:443"));
        let (v6, to_v6) = (at("[2001:db8::1]:1234"), at("[2001:db8::9]:443"));
        assert_eq!(header(ProxyProtocol::V1, v4, to_v4), b"PROXY TCP4 192.0.2.1 192.0.2.9 1234 443\r\n");
        assert_eq!(header(ProxyProtocol::V1, v6, to_v6), b"PROXY TCP6 2001:db8::1 2001:db8::9 1234 443\r\n");
        // A listener of both families sees clients of the old one so.
        assert_eq!(
            header(ProxyProtocol::V1, at("[::ffff:192.0.2.1]:1234"), to_v4),
            header(ProxyProtocol::V1, v4, to_v4)
        );
        assert_eq!(header(ProxyProtocol::V1, v4, to_v6), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::9 1234 443\r\n");
        let long = at("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
        assert!(header(ProxyProtocol::V1, long, long).len() <= 107);
        let binary = header(ProxyProtocol::V2, v4, to_v4);
        assert_eq!(binary[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(binary[16..], [192, 0, 2, 1, 192, 0, 2, 9, 0x04, 0xd2, 0x01, 0xbb]);
        let binary = header(ProxyProtocol::V2, v6, to_v6);
        assert_eq!((binary[13], &binary[14..16], binary.len()), (0x21, &[0, 36][..], 52));
        assert_eq!(own_header(ProxyProtocol::V2), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    }
}
