//! What Go's linker writes into each program: which Go it was built with (`go version PROGRAM` reads the same).
//!
//! Pure: bytes in, the version or where it lies out.

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The header is aligned so, and as long twice.
const ALIGN: usize = 16;
const HEADER_LEN: usize = 32;
/// A version of more bytes is none.
pub(super) const VERSION_MAX: usize = 256;

/// The version, or where it is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum BuildInfo {
    /// `go1.26.1`, possibly with experiments after a space.
    Version(String),
    /// Go before 1.18: the address of a string's header (pointer, length) in the program's memory.
    At(u64),
}

impl BuildInfo {
    /// Finds it in the section `.go.buildinfo`, or in the beginning of the first segment that is writable.
    pub(super) fn find(bytes: &[u8]) -> Option<Self> {
        // The linker aligns it within the segment, which begins on a page.
        let at = (0..bytes.len()).step_by(ALIGN).find(|at| bytes.get(*at..).is_some_and(|at| at.starts_with(MAGIC)))?;
        let blob = bytes.get(at..)?;
        let header = blob.get(..HEADER_LEN)?;
        let (pointer_len, flags) = (*header.get(MAGIC.len())?, *header.get(MAGIC.len() + 1)?);
        if flags & 2 != 0 {
            let (len, from) = varint(blob.get(HEADER_LEN..)?)?;
            let len = usize::try_from(len).ok().filter(|len| (1..=VERSION_MAX).contains(len))?;
            let version = blob.get(HEADER_LEN + from..)?.get(..len)?;
            return Some(Self::Version(printable(version)?));
        }
        let little_endian = flags & 1 == 0;
        let pointer = header.get(16..24)?.try_into().ok().map(u64::from_le_bytes)?;
        (pointer_len == 8 && little_endian && pointer != 0).then_some(Self::At(pointer))
    }
}

/// A version as text, when it is one.
pub(super) fn printable(version: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(version).ok()?;
    (!text.is_empty() && text.chars().all(|c| c == ' ' || c.is_ascii_graphic())).then(|| text.to_owned())
}

/// `1.26` of `go1.26.1`, of `go1.26rc1`, or of `devel go1.26-8d0f2ca X:something`.
pub(super) fn release(version: &str) -> Option<(u16, u16)> {
    let (_, rest) = version.split_once("go")?;
    let (major, rest) = rest.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// An unsigned LEB128 and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(i).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inline(version: &str) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes.extend(MAGIC);
        bytes.extend([8, 2]);
        bytes.resize(32 + HEADER_LEN, 0);
        bytes.push(u8::try_from(version.len()).unwrap());
        bytes.extend(version.bytes());
        bytes
    }

    #[test]
    fn both_formats() {
        assert_eq!(BuildInfo::find(&inline("go1.26.1")), Some(BuildInfo::Version("go1.26.1".into())));
        let mut old = MAGIC.to_vec();
        old.extend([8, 0]);
        old.extend(0x4d_1230_u64.to_le_bytes());
        old.extend(0_u64.to_le_bytes());
        assert_eq!(BuildInfo::find(&old), Some(BuildInfo::At(0x4d_1230)));
        // Another byte order, another pointer.
        old[15] = 1;
        assert_eq!(BuildInfo::find(&old), None);
        (old[14], old[15]) = (4, 0);
        assert_eq!(BuildInfo::find(&old), None);
    }

    #[test]
    fn what_is_cut_or_not_text_is_none() {
        let whole = inline("go1.26.1");
        for len in 0..whole.len() {
            assert_eq!(BuildInfo::find(&whole[..len]), None, "{len}");
        }
        assert_eq!(BuildInfo::find(&inline("go1.26\x1b[2J")), None);
        assert_eq!(BuildInfo::find(&inline("")), None);
    }

    #[test]
    fn releases() {
        assert_eq!(release("go1.26.1"), Some((1, 26)));
        assert_eq!(release("go1.27rc2 X:nodwarf5"), Some((1, 27)));
        assert_eq!(release("devel go1.28-8d0f2ca0e1 Tue Feb 4"), Some((1, 28)));
        assert_eq!(release("go1"), None);
        assert_eq!(release("mango"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes: Vec<u8>, version in "\\PC{0,40}") {
            drop(BuildInfo::find(&bytes));
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(bytes);
            drop(BuildInfo::find(&with_magic));
            release(&version);
        }
    }
}
