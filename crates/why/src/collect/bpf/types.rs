//! What the kernel tells about its types (BTF), cut down to what our programs ask for.
//!
//! A kernel has some hundred thousand types; parsed whole they take more memory than all else together. Programs are
//! fitted by the names and members of a few structs, and attached by the number of a type. So those that are attached to
//! keep their numbers, the structs and what their members are made of move into the places before them, and nothing else
//! is left.

use std::collections::{BTreeMap, HashMap, HashSet};

const MAGIC: u16 = 0xEB9F;
/// Names of what programs attach to begin so.
const ATTACHED_TO: [&str; 2] = ["btf_trace_", "bpf_iter_"];

const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FORWARD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// The names that BPF objects ask for.
pub(super) struct Names<'a> {
    /// Names of types, among those of members and whatever else is in the object.
    types: HashSet<&'a [u8]>,
    /// Names of what programs attach to.
    attached_to: HashSet<Vec<u8>>,
}

impl<'a> Names<'a> {
    /// Reads them; what is no name does no harm.
    pub(super) fn of(objects: impl Iterator<Item = &'a [u8]>) -> Self {
        let texts = objects.flat_map(|object| object.split(|byte| *byte == 0));
        let is_name = |text: &&[u8]| {
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/');
            !text.is_empty() && text.len() < 128 && text.iter().all(is_part)
        };
        let mut names = Self { types: HashSet::new(), attached_to: HashSet::new() };
        for text in texts.filter(is_name) {
            // The section of a program says what it is attached to: `tp_btf/sys_enter`.
            match text.rsplit(|byte| *byte == b'/').next().filter(|last| last.len() < text.len()) {
                Some(last) => names.attached_to.extend(ATTACHED_TO.map(|prefix| [prefix.as_bytes(), last].concat())),
                None => _ = names.types.insert(without_flavour(text)),
            }
        }
        names
    }
}

/// What is after three underscores tells apart several views of one type of the kernel.
fn without_flavour(name: &[u8]) -> &[u8] {
    let end = name.windows(3).position(|three| three == b"___").filter(|at| *at > 0);
    end.and_then(|end| name.get(..end)).unwrap_or(name)
}

/// A type, as it lies in the bytes.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: &'a [u8],
    info: u32,
    /// Its size, or the type that it refers to.
    last: u32,
    contents: &'a [u8],
}

/// Keeps what has one of those names, and is asked for. `None` where the bytes are not what this knows.
pub(super) fn cut_down(btf: &[u8], names: &Names<'_>) -> Option<Vec<u8>> {
    if u16::from_ne_bytes(*btf.first_chunk()?) != MAGIC {
        return None;
    }
    let header = usize::try_from(word(btf, 4)?).ok()?;
    let section = |offset: usize, length: usize| {
        let start = header.checked_add(usize::try_from(word(btf, offset)?).ok()?)?;
        btf.get(start..start.checked_add(usize::try_from(word(btf, length)?).ok()?)?)
    };
    let (types, strings) = (section(8, 12)?, section(16, 20)?);

    // Where each begins: the first has number 1.
    let mut starts = Vec::new();
    let (mut attached_to, mut wanted) = (BTreeMap::new(), Vec::new());
    let mut at = 0;
    while at < types.len() {
        let (it, next) = read(types, strings, at)?;
        starts.push(u32::try_from(at).ok()?);
        let number = u32::try_from(starts.len()).ok()?;
        if matches!(it.kind(), TYPEDEF | FUNC) && names.attached_to.contains(it.name) {
            attached_to.insert(number, it);
        } else if names.types.contains(it.name) && matches!(it.kind(), STRUCT | UNION | ENUM | ENUM64 | INT | TYPEDEF) {
            wanted.push(number);
        }
        at = next;
    }

    // What they are made of; what a pointer points to is asked for by its own name, if it is.
    let get = |number: u32| {
        let start = *starts.get(usize::try_from(number.checked_sub(1)?).ok()?)?;
        read(types, strings, usize::try_from(start).ok()?).map(|(it, _)| it)
    };
    let mut kept = BTreeMap::new();
    while let Some(number) = wanted.pop() {
        if number != 0 && !kept.contains_key(&number) {
            let it = get(number)?;
            it.references(|number| wanted.push(number));
            kept.insert(number, it);
        }
    }

    // The first places that nothing is attached to are theirs.
    let free = (1_u32..).filter(|number| !attached_to.contains_key(number));
    let places: HashMap<u32, u32> = kept.keys().copied().zip(free).collect();
    let mut places_taken: BTreeMap<u32, Type<'_>> =
        kept.iter().filter_map(|(number, it)| Some((*places.get(number)?, *it))).collect();
    places_taken.extend(attached_to.iter().map(|(number, it)| (*number, Type { last: 0, contents: &[], ..*it })));
    let mut out = Out { types: Vec::new(), strings: vec![0], offsets: HashMap::new(), places };
    let mut next = 1;
    for (number, it) in places_taken {
        // Something that has no name and nothing in it.
        while next < number {
            out.write(Type { name: b"", info: FORWARD << 24, last: 0, contents: &[] }, strings)?;
            next += 1;
        }
        out.write(it, strings)?;
        next += 1;
    }
    out.assemble()
}

/// Reads the type that begins there; and where the next one does.
fn read<'a>(types: &'a [u8], strings: &'a [u8], at: usize) -> Option<(Type<'a>, usize)> {
    let (head, rest) = types.get(at..)?.split_first_chunk::<12>()?;
    let (name, info, last) = (string(strings, word(head, 0)?)?, word(head, 4)?, word(head, 8)?);
    let (count, width) = contents((info >> 24) & 0x1f, info)?;
    let contents = rest.get(..count * width)?;
    Some((Type { name, info, last, contents }, at + 12 + contents.len()))
}

impl Type<'_> {
    const fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    /// The types that it is made of.
    fn references(&self, mut each: impl FnMut(u32)) {
        match self.kind() {
            STRUCT | UNION => self.contents.chunks_exact(12).filter_map(|member| word(member, 4)).for_each(each),
            ARRAY => [0, 4].into_iter().filter_map(|at| word(self.contents, at)).for_each(each),
            TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => each(self.last),
            _ => {}
        }
    }
}

/// What is written.
struct Out<'a> {
    types: Vec<u8>,
    strings: Vec<u8>,
    offsets: HashMap<&'a [u8], u32>,
    /// From the old number of a type to the new one. What is not kept becomes 0, which is `void`.
    places: HashMap<u32, u32>,
}

impl<'a> Out<'a> {
    fn write(&mut self, it: Type<'a>, strings: &'a [u8]) -> Option<()> {
        let place = |number: u32, out: &Self| out.places.get(&number).copied().unwrap_or(0);
        let name = self.offset(it.name)?;
        let last = match it.kind() {
            TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG | POINTER => place(it.last, self),
            _ => it.last,
        };
        self.words(&[name, it.info, last]);
        match it.kind() {
            STRUCT | UNION => {
                for member in it.contents.chunks_exact(12) {
                    let name = self.offset(string(strings, word(member, 0)?)?)?;
                    self.words(&[name, place(word(member, 4)?, self), word(member, 8)?]);
                }
            }
            ENUM | ENUM64 => {
                for value in it.contents.chunks_exact(if it.kind() == ENUM { 8 } else { 12 }) {
                    let name = self.offset(string(strings, word(value, 0)?)?)?;
                    self.words(&[name]);
                    self.types.extend(value.get(4..)?);
                }
            }
            ARRAY => {
                let [element, index, count] = [word(it.contents, 0)?, word(it.contents, 4)?, word(it.contents, 8)?];
                self.words(&[place(element, self), place(index, self), count]);
            }
            INT => self.types.extend(it.contents),
            _ => {}
        }
        Some(())
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.types.extend(word.to_ne_bytes()));
    }

    fn offset(&mut self, name: &'a [u8]) -> Option<u32> {
        if name.is_empty() {
            return Some(0);
        }
        if let Some(known) = self.offsets.get(name) {
            return Some(*known);
        }
        let offset = u32::try_from(self.strings.len()).ok()?;
        self.strings.extend(name);
        self.strings.push(0);
        self.offsets.insert(name, offset);
        Some(offset)
    }

    fn assemble(self) -> Option<Vec<u8>> {
        let types = u32::try_from(self.types.len()).ok()?;
        let strings = u32::try_from(self.strings.len()).ok()?;
        let mut btf = Vec::with_capacity(24 + self.types.len() + self.strings.len());
        btf.extend(MAGIC.to_ne_bytes());
        // Version 1, no flags; 24 bytes of header.
        btf.extend([1, 0]);
        for word in [24, 0, types, types, strings] {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(self.types);
        btf.extend(self.strings);
        Some(btf)
    }
}

/// How many entries follow a type, and how long each is; `None` for kinds that this does not know.
const fn contents(kind: u32, info: u32) -> Option<(usize, usize)> {
    let count = (info & 0xffff) as usize;
    Some(match kind {
        STRUCT | UNION | DATASEC | ENUM64 => (count, 12),
        ENUM | FUNC_PROTO => (count, 8),
        INT | VAR | DECL_TAG => (1, 4),
        ARRAY => (1, 12),
        // The last is the floating point numbers.
        POINTER | FORWARD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | TYPE_TAG | 16 => (0, 0),
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    strings.get(usize::try_from(at).ok()?..)?.split(|byte| *byte == 0).next()
}

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    use super::*;

    /// The kernel's types, of which a few names are wanted.
    pub fn btf(bytes: &[u8]) {
        let names = Names::of([&b"a\0b\0tp_btf/a"[..]].into_iter());
        std::hint::black_box(cut_down(bytes, &names).map(|cut| cut.len()));
    }
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
    fn what_is_attached_to_keeps_its_number() {
        let Some(whole) = kernel() else { return };
        let names = Names::of([&b"\0task_struct___mine\0pid\0tp_btf/sys_enter\0iter/task\0"[..]].into_iter());
        assert!(names.types.contains(&b"task_struct"[..]));
        let cut = cut_down(&whole, &names).unwrap();
        assert!(cut.len() < whole.len() / 3, "{} of {}", cut.len(), whole.len());
        let (whole, cut) = (Btf::parse(&whole, Default::default()), Btf::parse(&cut, Default::default()));
        let (whole, cut) = (whole.unwrap(), cut.unwrap());
        for (name, kind) in [("btf_trace_sys_enter", BtfKind::Typedef), ("bpf_iter_task", BtfKind::Func)] {
            let expected = whole.id_by_type_name_kind(name, kind).unwrap();
            assert_eq!(cut.id_by_type_name_kind(name, kind).unwrap(), expected, "{name}");
        }
        cut.id_by_type_name_kind("task_struct", BtfKind::Struct).unwrap();
        assert!(cut.id_by_type_name_kind("sk_buff", BtfKind::Struct).is_err());
    }

    #[test]
    fn types_that_go_in_circles_end() {
        // typedef a -> const -> typedef a
        let types: [[u32; 3]; 2] = [[1, TYPEDEF << 24, 2], [0, CONST << 24, 1]];
        let mut btf = MAGIC.to_ne_bytes().to_vec();
        btf.extend([1, 0]);
        [24, 0, 24, 24, 3].iter().chain(types.iter().flatten()).for_each(|word: &u32| btf.extend(word.to_ne_bytes()));
        btf.extend(b"\0a\0");
        let names = Names::of([&b"a"[..]].into_iter());
        assert_eq!(cut_down(&btf, &names).unwrap(), btf);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            words in proptest::collection::vec(0_u32..64, 5),
        ) {
            let names = Names::of([&b"a\0tp_btf/a"[..]].into_iter());
            cut_down(&bytes, &names);
            let mut btf = MAGIC.to_ne_bytes().to_vec();
            btf.extend([1, 0]);
            words.iter().for_each(|word| btf.extend(word.to_ne_bytes()));
            btf.extend(bytes);
            cut_down(&btf, &names);
        }

        #[test]
        fn any_types_are_cut_down(types in proptest::collection::vec((0_u32..4, 0_u32..20, 0_u32..3, 0_u32..40, any::<[u8; 24]>()), 0..30)) {
            let mut bytes = Vec::new();
            for (name, kind, count, last, contents) in types {
                let info = (kind << 24) | count;
                [name, info, last].iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
                let Some((count, width)) = super::contents(kind, info) else { continue };
                // Small numbers are those of types and names.
                bytes.extend(contents.iter().take(count * width).enumerate().map(|(at, byte)| if at % 4 == 0 { byte % 4 } else { 0 }));
            }
            let mut btf = MAGIC.to_ne_bytes().to_vec();
            btf.extend([1, 0]);
            let length = u32::try_from(bytes.len()).unwrap();
            [24, 0, length, length, 5].iter().for_each(|word| btf.extend(word.to_ne_bytes()));
            btf.extend(bytes);
            btf.extend(b"\0a\0b\0");
            if let Some(cut) = cut_down(&btf, &Names::of([&b"a\0b"[..]].into_iter())) {
                prop_assert!(cut.len() <= btf.len() + 24 + 12);
            }
        }
    }
}
