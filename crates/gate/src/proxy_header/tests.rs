use super::*;

/// A header of version 2.
fn v2(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2_BEGINS.as_slice(), &[kind, family], &length, rest].concat()
}

const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0, 80];

fn v6() -> Vec<u8> {
    let client: Ipv6Addr = "2001:db8::1".parse().unwrap();
    [client.octets().as_slice(), &Ipv6Addr::LOCALHOST.octets(), &[0x12, 0x34, 0, 80]].concat()
}

fn between(client: &str, server: &str) -> Says {
    Says::Client { client: client.parse().unwrap(), server: server.parse().unwrap() }
}

/// With a checksum that fits.
fn with_checksum(family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = v2(0x21, family, &[addresses, &[TYPE_CRC32C, 0, 4, 0, 0, 0, 0]].concat());
    let at = header.len() - 4;
    let sum = crc32c(&header, at..at + 4).to_be_bytes();
    header.truncate(at);
    header.extend_from_slice(&sum);
    header
}

/// All that is good, and what it says.
fn good() -> Vec<(Vec<u8>, Says)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let tlvs: &[u8] = &[0x04, 0, 0, 0x20, 0, 3, 1, 2, 3];
    let longest = [V4.as_slice(), &[0x04, 0x02, 0x09], &[0; 521]].concat();
    assert_eq!(longest.len(), V2_REST_MAX);
    vec![
        (text("PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\r\n"), between("192.0.2.1:4660", "198.51.100.1:80")),
        (text("PROXY TCP6 2001:db8::1 ::1 4660 80\r\n"), between("[2001:db8::1]:4660", "[::1]:80")),
        (
            text("PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n"),
            between("255.255.255.255:65535", "255.255.255.255:0"),
        ),
        (text("PROXY UNKNOWN\r\n"), Says::Somebody),
        (text("PROXY UNKNOWN ff::1 whatever 1\r\n"), Says::Somebody),
        (text(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 16))), Says::Somebody),
        (v2(0x21, 0x11, &V4), between("192.0.2.1:4660", "198.51.100.1:80")),
        (v2(0x21, 0x21, &v6()), between("[2001:db8::1]:4660", "[::1]:80")),
        (v2(0x21, 0x11, &[V4.as_slice(), tlvs].concat()), between("192.0.2.1:4660", "198.51.100.1:80")),
        (v2(0x21, 0x11, &longest), between("192.0.2.1:4660", "198.51.100.1:80")),
        (v2(0x21, 0x12, &V4), Says::Somebody),
        (v2(0x21, 0x31, &[0; UNIX_ADDRESSES]), Says::Somebody),
        (v2(0x21, 0x00, &[]), Says::Somebody),
        (v2(0x21, 0x00, b"whatever"), Says::Somebody),
        (v2(0x20, 0x00, &[]), Says::Itself),
        // What a LOCAL header holds is ignored, whatever it is.
        (v2(0x20, 0x11, &V4), Says::Itself),
        (v2(0x20, 0xff, b"whatever"), Says::Itself),
        (with_checksum(0x11, &V4), between("192.0.2.1:4660", "198.51.100.1:80")),
        (with_checksum(0x21, &v6()), between("[2001:db8::1]:4660", "[::1]:80")),
    ]
}

#[test]
fn each_version_says_whom_it_serves() {
    for (header, says) in good() {
        assert_eq!(parse(&header), Ok(Some((header.len(), says))), "{}", header.escape_ascii());
        // What is behind it is not looked at.
        let followed = [header.as_slice(), b"GET / HTTP/1.1\r\n\r\nPROXY \0\xff"].concat();
        assert_eq!(parse(&followed), Ok(Some((header.len(), says))), "{}", header.escape_ascii());
    }
}

#[test]
fn every_truncation_waits_for_the_rest() {
    for (header, _) in good() {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} of {}", header.escape_ascii());
        }
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let text = |text: &str| text.as_bytes().to_vec();
    let fields = |fields: &[u8]| v2(0x21, 0x11, &[V4.as_slice(), fields].concat());
    let long_line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 15));
    let mut too_long = v2(0x21, 0x11, &V4);
    too_long[14..16].copy_from_slice(&[0x02, 0x19]);
    let mut checksum = with_checksum(0x11, &V4);
    *checksum.last_mut().unwrap() ^= 1;
    let mut changed = with_checksum(0x11, &V4);
    changed[16] ^= 1;
    for (header, why) in [
        (text("GET / HTTP/1.1\r\n"), Invalid::NotProxy { first: b'G' }),
        (text("PROXX"), Invalid::NotProxy { first: b'X' }),
        (text("PROXY\tTCP4"), Invalid::NotProxy { first: b'\t' }),
        (text("\r\n\r\n\0\r\nQUIT\r"), Invalid::NotProxy { first: b'\r' }),
        (vec![0x16, 3, 1], Invalid::NotProxy { first: 0x16 }),
        (text("PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n"), Invalid::Protocol),
        (text("PROXY tcp4 1.1.1.1 1.1.1.1 1 1\r\n"), Invalid::Protocol),
        (text("PROXY \r\n"), Invalid::Protocol),
        (text("PROXY UNKNOWN x\n"), Invalid::LineEnd),
        (text("PROXY UNKNOWN\rx"), Invalid::LineEnd),
        (text(&long_line), Invalid::LineEnd),
        (text(&long_line[..V1_MAX]), Invalid::LineEnd),
        (text("PROXY UNKNOWN \0\r\n"), Invalid::NotText),
        (b"PROXY UNKNOWN \xff\r\n".to_vec(), Invalid::NotText),
        (text("PROXY TCP4\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n"), Invalid::Addresses),
        (text("PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 ::1 ::1 1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 x 1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n"), Invalid::Addresses),
        (text("PROXY TCP4 1.1.1.1 1.1.1.1 1 -1\r\n"), Invalid::Addresses),
        (v2(0x11, 0x11, &V4), Invalid::Version(1)),
        (v2(0x31, 0x11, &V4), Invalid::Version(3)),
        (v2(0x22, 0x11, &V4), Invalid::Command(2)),
        (v2(0x21, 0x41, &V4), Invalid::Family(0x41)),
        (v2(0x21, 0x13, &V4), Invalid::Family(0x13)),
        (too_long, Invalid::TooLong(537)),
        (v2(0x21, 0x11, &V4[..11]), Invalid::Short),
        (v2(0x21, 0x11, &[]), Invalid::Short),
        (v2(0x21, 0x21, &v6()[..35]), Invalid::Short),
        (v2(0x21, 0x12, &V4[..11]), Invalid::Short),
        (v2(0x21, 0x31, &[0; UNIX_ADDRESSES - 1]), Invalid::Short),
        (fields(&[0x04]), Invalid::Field),
        (fields(&[0x04, 0]), Invalid::Field),
        (fields(&[0x04, 0, 1]), Invalid::Field),
        (fields(&[0x04, 0xff, 0xff, 0]), Invalid::Field),
        (fields(&[TYPE_CRC32C, 0, 3, 0, 0, 0]), Invalid::Field),
        (checksum, Invalid::Checksum),
        (changed, Invalid::Checksum),
    ] {
        assert_eq!(parse(&header), Err(why), "{}", header.escape_ascii());
    }
}

#[test]
fn what_is_wrong_is_told_before_the_rest_has_come() {
    for (bytes, why) in [
        (&b"G"[..], Invalid::NotProxy { first: b'G' }),
        (b"\r\n\r\n\0\r\nQUIT\n\x31", Invalid::Version(3)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x41", Invalid::Family(0x41)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", Invalid::TooLong(65_535)),
    ] {
        assert_eq!(parse(bytes), Err(why));
    }
}

/// The check value of the algorithm, as its catalogues give it.
#[test]
fn the_checksum_is_crc_32c() {
    assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32], 0..0), 0x8a91_36aa);
    assert_eq!(crc32c(b"12345\xff\xff89", 5..7), crc32c(b"12345\0\089", 0..0));
}
