//! What the kernel tells about its types (BTF), cut down to what our programs ask for.
//!
//! A kernel has some hundred thousand types; parsed whole they take more memory than all else together. Programs are
//! fitted by the names and members of a few structs, and attached by the number of a type, so every type keeps its place
//! and only what nobody asks for loses its name and its contents.

use std::collections::{HashMap, HashSet};

const MAGIC: u16 = 0xEB9F;
/// Names of what programs attach to.
const ATTACHED_TO: [&[u8]; 2] = [b"btf_trace_", b"bpf_iter_"];

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// The names in BPF objects: of types, members and whatever else; those of types are among them.
pub(super) fn names<'a>(objects: impl Iterator<Item = &'a [u8]>) -> HashSet<&'a [u8]> {
    let texts = objects.flat_map(|object| object.split(|byte| *byte == 0));
    let is_name = |text: &&[u8]| {
        !text.is_empty() && text.len() < 128 && text.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    };
    texts.filter(is_name).map(without_flavour).collect()
}

/// What is after three underscores tells apart several views of one type of the kernel.
fn without_flavour(name: &[u8]) -> &[u8] {
    let end = name.windows(3).position(|three| three == b"___").filter(|at| *at > 0);
    end.and_then(|end| name.get(..end)).unwrap_or(name)
}

/// Keeps what has one of those names, and is asked for. `None` where the bytes are not what this knows.
pub(super) fn cut_down(btf: &[u8], names: &HashSet<&[u8]>) -> Option<Vec<u8>> {
    if u16::from_ne_bytes(*btf.first_chunk()?) != MAGIC {
        return None;
    }
    let header = usize::try_from(word(btf, 4)?).ok()?;
    let section = |offset: usize, length: usize| {
        let start = header.checked_add(usize::try_from(word(btf, offset)?).ok()?)?;
        btf.get(start..start.checked_add(usize::try_from(word(btf, length)?).ok()?)?)
    };
    let (mut types, strings) = (section(8, 12)?, section(16, 20)?);
    let mut new = Strings::new();
    let mut kept: Vec<u8> = Vec::with_capacity(types.len() / 2);
    while let Some((head, rest)) = types.split_first_chunk::<12>() {
        let (name, info) = (string(strings, word(head, 0)?)?, word(head, 4)?);
        let kind = (info >> 24) & 0x1f;
        let (count, width) = contents(kind, info)?;
        let (contents, rest) = rest.split_at_checked(count * width)?;
        types = rest;

        let is_wanted = names.contains(name) || ATTACHED_TO.iter().any(|prefix| name.starts_with(prefix));
        // What has no name may be part of what has one.
        let is_whole = match kind {
            STRUCT | UNION => is_wanted || name.is_empty(),
            ENUM | ENUM64 => is_wanted,
            FUNC_PROTO | DATASEC => false,
            _ => true,
        };
        let name = if is_wanted { new.offset(name)? } else { 0 };
        for word in [name, if is_whole { info } else { info & !0xffff }, word(head, 8)?] {
            kept.extend(word.to_ne_bytes());
        }
        match kind {
            STRUCT | UNION | ENUM | ENUM64 if is_whole => {
                for member in contents.chunks_exact(width) {
                    let name = new.offset(string(strings, word(member, 0)?)?)?;
                    kept.extend(name.to_ne_bytes());
                    kept.extend(member.get(4..)?);
                }
            }
            _ if is_whole => kept.extend(contents),
            _ => {}
        }
    }
    types.is_empty().then(|| assemble(&kept, &new.bytes))?
}

/// How many entries follow a type, and how long each is; `None` for kinds that this does not know.
const fn contents(kind: u32, info: u32) -> Option<(usize, usize)> {
    let count = (info & 0xffff) as usize;
    Some(match kind {
        STRUCT | UNION | DATASEC | ENUM64 => (count, 12),
        ENUM | FUNC_PROTO => (count, 8),
        INT | VAR | DECL_TAG => (1, 4),
        ARRAY => (1, 12),
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => (0, 0),
        _ => return None,
    })
}

/// The names that are kept, each once.
struct Strings<'a> {
    bytes: Vec<u8>,
    offsets: HashMap<&'a [u8], u32>,
}

impl<'a> Strings<'a> {
    fn new() -> Self {
        // The first is the empty name.
        Self { bytes: vec![0], offsets: HashMap::new() }
    }

    fn offset(&mut self, name: &'a [u8]) -> Option<u32> {
        if name.is_empty() {
            return Some(0);
        }
        if let Some(known) = self.offsets.get(name) {
            return Some(*known);
        }
        let offset = u32::try_from(self.bytes.len()).ok()?;
        self.bytes.extend(name);
        self.bytes.push(0);
        self.offsets.insert(name, offset);
        Some(offset)
    }
}

fn assemble(types: &[u8], strings: &[u8]) -> Option<Vec<u8>> {
    let (types_length, strings_length) = (u32::try_from(types.len()).ok()?, u32::try_from(strings.len()).ok()?);
    let mut btf = Vec::with_capacity(24 + types.len() + strings.len());
    btf.extend(MAGIC.to_ne_bytes());
    // Version 1, no flags; 24 bytes of header.
    btf.extend([1, 0]);
    for word in [24, 0, types_length, types_length, strings_length] {
        btf.extend(word.to_ne_bytes());
    }
    btf.extend(types);
    btf.extend(strings);
    Some(btf)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(usize::try_from(at).ok()?..)?.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use aya::Btf;
    use aya_obj::btf::BtfKind;
    use proptest::prelude::*;

    use super::*;

    fn kernel() -> Option<Vec<u8>> {
        std::fs::read("/sys/kernel/btf/vmlinux").ok()
    }

    #[test]
    fn types_keep_their_numbers() {
        let Some(whole) = kernel() else { return };
        let names = names([&b"\0task_struct___mine\0pid\0"[..]].into_iter());
        assert!(names.contains(&b"task_struct"[..]));
        let cut = cut_down(&whole, &names).unwrap();
        assert!(cut.len() < whole.len() / 2, "{} of {}", cut.len(), whole.len());
        let (whole, cut) = (Btf::parse(&whole, Default::default()), Btf::parse(&cut, Default::default()));
        let (whole, cut) = (whole.unwrap(), cut.unwrap());
        for (name, kind) in [
            ("task_struct", BtfKind::Struct),
            ("btf_trace_sys_enter", BtfKind::Typedef),
            ("bpf_iter_task", BtfKind::Func),
        ] {
            let expected = whole.id_by_type_name_kind(name, kind).unwrap();
            assert_eq!(cut.id_by_type_name_kind(name, kind).unwrap(), expected, "{name}");
        }
        assert!(cut.id_by_type_name_kind("sk_buff", BtfKind::Struct).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            words in proptest::collection::vec(0_u32..64, 5),
        ) {
            cut_down(&bytes, &HashSet::new());
            let mut btf = MAGIC.to_ne_bytes().to_vec();
            btf.extend([1, 0]);
            words.iter().for_each(|word| btf.extend(word.to_ne_bytes()));
            btf.extend(bytes);
            cut_down(&btf, &HashSet::from([&b"a"[..]]));
        }
    }
}
