//! Commands of Redis, by the beginning of a write. Only the name of a command is kept.

/// The longest is CLUSTER's and XREADGROUP's kind.
const COMMAND_MAX: usize = 16;

/// The name of the command with which these bytes begin: `*2\r\n$5\r\nBLPOP\r\n...`.
pub(crate) fn command(bytes: &[u8]) -> Option<String> {
    let rest = bytes.strip_prefix(b"*")?;
    let rest = line(rest)?.strip_prefix(b"$")?;
    let name = line(rest)?;
    let end = name.windows(2).position(|pair| pair == b"\r\n").filter(|end| (1..=COMMAND_MAX).contains(end))?;
    let name = name.get(..end)?;
    name.iter().all(u8::is_ascii_alphabetic).then(|| String::from_utf8_lossy(name).to_ascii_uppercase())
}

/// What follows a line that is a number of at most six digits.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=6).contains(&digits) {
        return None;
    }
    bytes.get(digits..)?.strip_prefix(b"\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_and_nothing_else() {
        assert_eq!(command(b"*3\r\n$5\r\nblpop\r\n$3\r\njob\r\n$1\r\n0\r\n").as_deref(), Some("BLPOP"));
        for none in [
            &b"*3\r\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"*1\r\n$4\r\n\x1b[2J\r\n",
            b"*\r\n$4\r\nPING\r\n",
            b"",
            b"*1\r\n$4\r\nPING",
        ] {
            assert_eq!(command(none), None, "{}", none.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            for bytes in [bytes.clone(), [b"*1\r\n$", &bytes[..]].concat()] {
                prop_assert!(command(&bytes).is_none_or(|name| name.len() <= COMMAND_MAX));
            }
        }
    }
}
