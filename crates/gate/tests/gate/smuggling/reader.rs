//! Requests, as lenient servers read them.

/// How a server may read what comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    LengthFirst,
    CodingFirst,
}

pub(crate) const READINGS: [Reading; 2] = [Reading::LengthFirst, Reading::CodingFirst];

/// A line, whatever it ends with, and what is behind it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let behind = &bytes[end..];
    Some((&bytes[..end], behind.strip_prefix(b"\r\n").unwrap_or(&behind[1..])))
}

fn digits(text: &str, radix: u32) -> Option<usize> {
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || "\"'+\x0b".contains(letter));
    let text = text.strip_prefix("0x").unwrap_or(text);
    let end = text.find(|letter: char| !letter.is_digit(radix)).unwrap_or(text.len());
    usize::from_str_radix(&text[..end], radix).ok()
}

/// One request at the front, as a server reads it that takes everything: what is behind it, or `None` if there is no end.
fn one(mut bytes: &[u8], reading: Reading) -> Option<&[u8]> {
    let (mut length, mut chunked, mut first) = (None, false, true);
    let mut name = String::new();
    loop {
        let (head, rest) = line(bytes)?;
        bytes = rest;
        match head {
            // Empty lines may come before it.
            [] if first => continue,
            [] => break,
            _ if first => {
                first = false;
                continue;
            }
            _ => {}
        }
        let text = String::from_utf8_lossy(head).to_lowercase();
        let value = match text.split_once(':') {
            // A folded one belongs to the one before.
            Some((own, value)) if !text.starts_with([' ', '\t']) => {
                name = own.trim().replace('_', "-");
                value
            }
            _ => &text,
        };
        match &*name {
            "content-length" => length = length.or(value.split(',').find_map(|value| digits(value, 10))),
            "transfer-encoding" => chunked |= value.contains("chunked"),
            _ => {}
        }
    }
    if reading == Reading::LengthFirst
        && let Some(length) = length
    {
        return bytes.get(length..);
    }
    if !chunked {
        return bytes.get(length.unwrap_or(0)..);
    }
    loop {
        let (size, rest) = line(bytes)?;
        bytes = rest;
        match digits(&String::from_utf8_lossy(size).to_lowercase(), 16) {
            None | Some(0) => break,
            Some(size) => {
                bytes = bytes.get(size..)?;
                bytes = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")).unwrap_or(bytes);
            }
        }
    }
    loop {
        let (trailer, rest) = line(bytes)?;
        bytes = rest;
        if trailer.is_empty() {
            return Some(bytes);
        }
    }
}

/// Where each request ends, and whether something is behind them.
pub(crate) fn ends(bytes: &[u8], reading: Reading) -> (Vec<usize>, bool) {
    let mut ends = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(behind) = one(rest, reading) else { return (ends, true) };
        rest = behind;
        ends.push(bytes.len() - rest.len());
    }
    (ends, false)
}

/// As the origin of these tests reads what comes.
pub(crate) fn plainly(bytes: &[u8]) -> usize {
    ends(bytes, Reading::CodingFirst).0.len()
}

#[test]
fn the_readings_of_these_tests_differ_where_servers_do() {
    let both = |length: u32| {
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let (begin, all) = (head.len(), format!("{head}0\r\n\r\nXGET / HTTP/1.1\r\n\r\n"));
        READINGS.map(|reading| {
            let (ends, more) = ends(all.as_bytes(), reading);
            (ends.into_iter().map(|end| end - begin).collect::<Vec<_>>(), more)
        })
    };
    assert_eq!(both(5), [(vec![5, 24], false), (vec![5, 24], false)]);
    assert_eq!(both(6), [(vec![6, 24], false), (vec![5, 24], false)]);
    assert_eq!(both(26), [(vec![], true), (vec![5, 24], false)]);
    let strange = b"GET / HTTP/1.1\nX: y\rContent_Length: 3\n\nabcGET";
    assert_eq!(ends(strange, Reading::LengthFirst), (vec![strange.len() - 3], true));
}
