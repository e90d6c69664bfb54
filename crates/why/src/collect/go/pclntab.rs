//! Go's table of functions and lines, which is in every program, stripped or not: which function an address lies in,
//! how far up its caller's frame is, and which line and which inlined functions it stands for.
//!
//! Pure: it reads the bytes of the section. The format is that of Go 1.20 and later; an earlier one is refused.

use std::collections::HashMap;

const MAGIC: u32 = 0xffff_fff1;
/// What older programs have (1.2, 1.16, 1.18), so that they can be told from garbage.
const OLD_MAGICS: [u32; 3] = [0xffff_fffb, 0xffff_fffa, 0xffff_fff0];
const HEADER_LEN: usize = 72;
/// A function's record up to its two arrays.
const FUNC_LEN: usize = 44;
/// Set in the flags of the function that a stack begins with.
const TOP_FRAME: u8 = 1;
/// Set where a function moves the stack pointer in a way that the table does not follow.
const WRITES_SP: u8 = 2;
const PCDATA_INLINED: usize = 2;
const FUNCDATA_INLINED: usize = 3;
/// Steps through a function's table; no function is that long.
const STEPS_MAX: usize = 1 << 20;
/// A name or path of more bytes is cut.
const NAME_MAX: usize = 4096;
/// Functions inlined into each other.
const INLINED_MAX: usize = 64;

/// Why a table cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadTable {
    /// Of Go before 1.20.
    Old,
    /// Not one, or damaged.
    Damaged,
}

/// The table.
#[derive(Debug)]
pub(super) struct Pclntab {
    data: Vec<u8>,
    functions: usize,
    quantum: u64,
    names: usize,
    units: usize,
    files: usize,
    values: usize,
    records: usize,
}

/// A function: where its record lies, and where its code begins, in bytes from the beginning of all code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Function {
    record: usize,
    pub(super) entry: u64,
    /// Where the next begins.
    pub(super) end: u64,
}

/// One frame of the source: several stand for one of the machine where functions were inlined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SourceFrame {
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
}

/// A function that was inlined: what its record in the program's read-only data says.
pub(super) struct Inlined {
    name: u32,
    parent: u64,
}

impl Inlined {
    pub(super) const LEN: usize = 16;

    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        Some(Self { name: le32(record, 4)?, parent: u64::from(le32(record, 8)?) })
    }
}

impl Pclntab {
    /// Reads the header. Everything else is looked up when it is asked for.
    pub(super) fn new(data: Vec<u8>) -> Result<Self, BadTable> {
        match le32(&data, 0) {
            Some(MAGIC) => Self::parse(data).ok_or(BadTable::Damaged),
            Some(magic) if OLD_MAGICS.contains(&magic) => Err(BadTable::Old),
            _ => Err(BadTable::Damaged),
        }
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let (zeros, quantum, pointer) = (le16(&data, 4)?, *data.get(6)?, *data.get(7)?);
        if zeros != 0 || !matches!(quantum, 1 | 2 | 4) || pointer != 8 {
            return None;
        }
        let field = |at| le64(&data, at).and_then(|value| usize::try_from(value).ok());
        let inside = |at| field(at).filter(|offset| *offset < data.len());
        let functions = field(8)?;
        let (names, units, files) = (inside(32)?, inside(40)?, inside(48)?);
        let (values, records) = (inside(56)?, inside(64)?);
        // An entry takes eight bytes; after the last comes the end of all code.
        let room = data.get(records..)?.len().checked_sub(4)? / 8;
        (functions > 0 && functions <= room).then(|| Self {
            functions,
            quantum: u64::from(quantum),
            names,
            units,
            files,
            values,
            records,
            data,
        })
    }

    /// Where in `bytes` a table begins, when nothing else tells.
    pub(super) fn scan(bytes: &[u8]) -> Option<usize> {
        let begins = |at: &usize| {
            le32(bytes, *at) == Some(MAGIC)
                && bytes.get(at + 4..at + 8).is_some_and(|rest| matches!(rest, [0, 0, 1 | 2 | 4, 8]))
                && le64(bytes, at + 32)
                    .is_some_and(|names| (HEADER_LEN as u64..=2 * HEADER_LEN as u64).contains(&names))
        };
        (0..bytes.len()).step_by(8).find(begins)
    }

    /// The distance from the table's beginning to the names, which the runtime keeps as a pointer, too.
    pub(super) const fn names_at(&self) -> usize {
        self.names
    }

    fn entry(&self, index: usize) -> Option<u64> {
        le32(&self.data, self.records.checked_add(index.checked_mul(8)?)?).map(u64::from)
    }

    fn function(&self, index: usize) -> Option<Function> {
        let at = self.records.checked_add(index.checked_mul(8)?)?;
        let record = self.records.checked_add(usize::try_from(le32(&self.data, at.checked_add(4)?)?).ok()?)?;
        let (entry, end) = (self.entry(index)?, self.entry(index + 1)?);
        let whole = record.checked_add(FUNC_LEN)? <= self.data.len();
        (whole && entry < end).then_some(Function { record, entry, end })
    }

    /// The function with that address, in bytes from the beginning of all code.
    pub(super) fn find(&self, pc: u64) -> Option<Function> {
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry(middle)? <= pc { low = middle + 1 } else { high = middle }
        }
        self.function(low.checked_sub(1)?).filter(|function| (function.entry..function.end).contains(&pc))
    }

    /// The functions with these names; one that is not there is left out.
    pub(super) fn named<'a>(&self, wanted: &[&'a str]) -> HashMap<&'a str, Function> {
        let mut found = HashMap::new();
        for function in (0..self.functions).filter_map(|index| self.function(index)) {
            let name = self.field(function, 4).and_then(|offset| self.text(self.names, offset));
            if let Some(name) = name.and_then(|name| wanted.iter().find(|wanted| wanted.as_bytes() == name)) {
                found.entry(*name).or_insert(function);
                if found.len() == wanted.len() {
                    break;
                }
            }
        }
        found
    }

    /// How many bytes of frame lie between the stack pointer and the return address; `None` where the table does not
    /// say.
    pub(super) fn frame_len(&self, function: Function, pc: u64) -> Option<u64> {
        if self.flags(function) & WRITES_SP != 0 && self.flags(function) & TOP_FRAME == 0 {
            return None;
        }
        let len = self.value(self.field(function, 16)?, function, pc)?;
        u64::try_from(len).ok().filter(|len| len % 8 == 0)
    }

    /// Whether a stack begins with it.
    pub(super) fn is_outermost(&self, function: Function) -> bool {
        self.flags(function) & TOP_FRAME != 0
    }

    fn flags(&self, function: Function) -> u8 {
        self.data.get(function.record + 41).copied().unwrap_or(0)
    }

    /// What an address stands for in the source, innermost first. `inlined` reads the record at an offset of the
    /// program's functions' data.
    pub(super) fn source(
        &self,
        function: Function,
        pc: u64,
        inlined: impl Fn(u64) -> Option<Inlined>,
    ) -> Vec<SourceFrame> {
        let tree = self.array(function, FUNCDATA_INLINED, true).filter(|offset| *offset != u32::MAX);
        let (mut frames, mut pc) = (Vec::new(), pc);
        while let Some(tree) = tree.filter(|_| frames.len() < INLINED_MAX) {
            let index = self.array(function, PCDATA_INLINED, false);
            let index = index.and_then(|table| self.value(table, function, pc)).and_then(|at| u64::try_from(at).ok());
            let Some(call) = index.and_then(|index| inlined(u64::from(tree) + index * Inlined::LEN as u64)) else {
                break;
            };
            frames.push(self.source_frame(function, pc, Some(call.name)));
            // Where the inlined function would have been called from.
            pc = function.entry + call.parent;
        }
        frames.push(self.source_frame(function, pc, self.field(function, 4)));
        frames
    }

    fn source_frame(&self, function: Function, pc: u64, name: Option<u32>) -> SourceFrame {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = self.field(function, 24).and_then(|table| self.value(table, function, pc));
        SourceFrame {
            function: name.and_then(|offset| self.text(self.names, offset)).map(text),
            file: self.file(function, pc).map(text),
            line: line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line > 0),
        }
    }

    /// The name alone.
    pub(super) fn name(&self, function: Function) -> Option<String> {
        let name = self.text(self.names, self.field(function, 4)?)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    fn file(&self, function: Function, pc: u64) -> Option<&[u8]> {
        let number = u32::try_from(self.value(self.field(function, 20)?, function, pc)?).ok()?;
        let index = usize::try_from(self.field(function, 32)?.checked_add(number)?).ok()?;
        let offset = le32(&self.data, self.units.checked_add(index.checked_mul(4)?)?)?;
        if offset == u32::MAX { None } else { self.text(self.files, offset) }
    }

    fn field(&self, function: Function, at: usize) -> Option<u32> {
        le32(&self.data, function.record.checked_add(at)?)
    }

    /// One of the two arrays behind a function's record.
    fn array(&self, function: Function, index: usize, of_pointers: bool) -> Option<u32> {
        let tables = usize::try_from(self.field(function, 28)?).ok()?;
        let pointers = usize::from(*self.data.get(function.record + 43)?);
        let (len, before) = if of_pointers { (pointers, tables) } else { (tables, 0) };
        if index >= len {
            return None;
        }
        self.field(function, FUNC_LEN.checked_add(before.checked_add(index)?.checked_mul(4)?)?)
    }

    /// The value that a table of pairs (value, addresses it holds for) has at an address.
    fn value(&self, table: u32, function: Function, pc: u64) -> Option<i32> {
        // Zero stands for no table.
        let table = usize::try_from(table).ok().filter(|table| *table != 0)?;
        let mut bytes = self.data.get(self.values.checked_add(table)?..)?;
        let (mut value, mut at) = (-1_i32, function.entry);
        for step in 0..STEPS_MAX {
            let delta = varint(&mut bytes)?;
            if delta == 0 && step > 0 {
                return None;
            }
            let signed = i32::from_ne_bytes((delta >> 1).to_ne_bytes());
            value = value.wrapping_add(if delta & 1 == 0 { signed } else { !signed });
            at = at.checked_add(u64::from(varint(&mut bytes)?).checked_mul(self.quantum)?)?;
            if pc < at {
                return Some(value);
            }
        }
        None
    }

    fn text(&self, section: usize, offset: u32) -> Option<&[u8]> {
        let bytes = self.data.get(section.checked_add(usize::try_from(offset).ok()?)?..)?;
        let bytes = bytes.get(..NAME_MAX).unwrap_or(bytes);
        let text = bytes.split(|byte| *byte == 0).next()?;
        (!text.is_empty()).then_some(text)
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for i in 0..5 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

/// The number at an offset.
pub(super) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

/// The number at an offset.
pub(super) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// Asks a table everything there is to ask, for tests with garbage.
#[cfg(any(test, fuzzing))]
pub(super) fn ask_everything(bytes: &[u8]) {
    Pclntab::scan(bytes);
    let Ok(table) = Pclntab::new(bytes.to_vec()) else { return };
    drop(table.named(&["runtime.forEachG", "runtime.schedtrace"]));
    for index in 0..table.functions.min(64) {
        let Some(function) = table.function(index) else { continue };
        for pc in [function.entry, function.entry + 1, function.end - 1] {
            table.find(pc);
            table.frame_len(function, pc);
            drop(table.source(function, pc, |at| {
                let record = bytes.get(usize::try_from(at).ok()?..)?;
                Inlined::parse(record.get(..Inlined::LEN)?)
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two functions, `main.f` of 16 bytes with a frame of 8 from its fourth byte on, and `main.g`.
    fn small() -> Vec<u8> {
        let names = b"main.f\0main.g\0";
        let units = 0_u32.to_le_bytes();
        let files = b"/src/main.go\0";
        // A byte that nobody refers to; then depth 0 for 4 bytes and 8 for 12; file 0 throughout; line 7, from byte 8 on 9.
        let values = [0, 2, 4, 16, 12, 0, 2, 32, 0, 16, 8, 4, 8, 0];
        let record = |entry: u32, name: u32| {
            let mut record = Vec::new();
            for field in [entry, name, 0, 0, 1, 6, 9, 0, 0, 7, 0] {
                record.extend(field.to_le_bytes());
            }
            record
        };
        let mut functions = Vec::new();
        for field in [0_u32, 20, 16, 64, 32] {
            functions.extend(field.to_le_bytes());
        }
        functions.extend(record(0, 0));
        functions.extend(record(16, 7));

        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        let mut at = HEADER_LEN as u64;
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        let parts: [&[u8]; 5] = [names, &units, files, &values, &functions];
        for part in parts {
            bytes.extend(at.to_le_bytes());
            at += part.len() as u64;
        }
        bytes.extend(parts.concat());
        bytes
    }

    #[test]
    fn an_address_has_a_function_a_frame_and_a_line() {
        let table = Pclntab::new(small()).unwrap();
        assert_eq!(Pclntab::scan(&small()), Some(0));
        let f = table.find(3).unwrap();
        assert_eq!((f.entry, f.end, table.name(f).as_deref()), (0, 16, Some("main.f")));
        assert_eq!((table.frame_len(f, 3), table.frame_len(f, 4), table.frame_len(f, 16)), (Some(0), Some(8), None));
        let at = |pc| table.source(f, pc, |_| None);
        let frame =
            |line| SourceFrame { function: Some("main.f".into()), file: Some("/src/main.go".into()), line: Some(line) };
        assert_eq!((at(0), at(8)), (vec![frame(7)], vec![frame(9)]));
        assert_eq!(table.named(&["main.g", "main.h"]).get("main.g"), table.find(31).as_ref());
        assert_eq!(table.find(32), None);
    }

    #[test]
    fn an_older_table_is_told_from_a_damaged_one() {
        let mut bytes = small();
        bytes[0] = 0xfa;
        assert_eq!(Pclntab::new(bytes.clone()).unwrap_err(), BadTable::Old);
        bytes[0] = 0xaa;
        assert_eq!(Pclntab::new(bytes).unwrap_err(), BadTable::Damaged);
        assert_eq!(Pclntab::new(Vec::new()).unwrap_err(), BadTable::Damaged);
    }

    #[test]
    fn a_cut_table_is_survived() {
        let whole = small();
        for len in 0..whole.len() {
            ask_everything(&whole[..len]);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_table_is_survived(changes in prop::collection::vec((8_usize..300, any::<u8>()), 1..12)) {
            let mut bytes = small();
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            ask_everything(&bytes);
        }

        #[test]
        fn garbage_is_survived(rest: Vec<u8>) {
            let mut bytes = MAGIC.to_le_bytes().to_vec();
            bytes.extend([0, 0, 1, 8]);
            bytes.extend(rest);
            ask_everything(&bytes);
        }
    }
}
