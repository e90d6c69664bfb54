//! The program's code as the runtime knows it: from an address in the process to frames, functions and lines.

use super::{
    binary::Binary,
    memory::{Memory, Range},
    pclntab::{BadTable, Function, Inlined, Pclntab, SourceFrame, le64},
};
use crate::observation::Frame;

/// The table lies in one of these; in programs that are loaded anywhere, and built by older Go, in the second.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Where no section tells, segments are searched up to here.
const SEARCH_MAX: u64 = 256 << 20;
/// The module's description is searched in data, so many bytes at once.
const PIECE: usize = 1 << 20;
/// In `moduledata`: the first and the last address of Go's code, and where the code begins. Since Go 1.18.
const MODULE_TEXT: usize = 176;
const MODULE_LEN: usize = 512;

/// The code of a program.
#[derive(Debug)]
pub(super) struct Code {
    table: Pclntab,
    binary: Binary,
    /// How far from where the file says it was loaded.
    moved_by: u64,
    /// Where all code begins, in the process.
    text: u64,
    /// Where the functions' data begins, in the process; 0 where nobody knows.
    functions_data: u64,
}

/// Why there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoCode {
    /// No table of functions.
    NoTable,
    /// One of Go before 1.20.
    OldTable,
    /// The description of the module is not in memory, or not yet.
    NoModule,
}

impl Code {
    /// Finds the table in the file and the module's description in memory. `functions_data` is an offset in the latter.
    pub(super) fn find(binary: Binary, memory: &Memory, moved_by: u64, functions_data: u32) -> Result<Self, NoCode> {
        let (bytes, address) = table_bytes(&binary).ok_or(NoCode::NoTable)?;
        let table = Pclntab::new(bytes).map_err(|bad| match bad {
            BadTable::Old => NoCode::OldTable,
            BadTable::Damaged => NoCode::NoTable,
        })?;
        let module = module(&binary, memory, moved_by, address.wrapping_add(moved_by), table.names_at());
        let module = module.ok_or(NoCode::NoModule)?;
        let text = le64(&module, MODULE_TEXT).ok_or(NoCode::NoModule)?;
        let is_code = |address: u64| {
            let address = address.wrapping_sub(moved_by);
            binary.segments().iter().any(|segment| {
                segment.executable && address.checked_sub(segment.address).is_some_and(|at| at < segment.in_memory)
            })
        };
        if !is_code(text) {
            return Err(NoCode::NoModule);
        }
        let functions_data = le64(&module, functions_data as usize).unwrap_or(0);
        Ok(Self { table, binary, moved_by, text, functions_data })
    }

    pub(super) const fn binary(&self) -> &Binary {
        &self.binary
    }

    pub(super) const fn table(&self) -> &Pclntab {
        &self.table
    }

    pub(super) const fn text(&self) -> u64 {
        self.text
    }

    /// The function that an address in the process lies in.
    pub(super) fn function(&self, pc: u64) -> Option<(Function, u64)> {
        let pc = pc.checked_sub(self.text)?;
        self.table.find(pc).map(|function| (function, pc))
    }

    /// The name of the function that an address lies in.
    pub(super) fn name(&self, pc: u64) -> Option<String> {
        self.table.name(self.function(pc)?.0)
    }

    /// What a return address stands for, innermost first.
    pub(super) fn frames(&self, pc: u64) -> Vec<Frame> {
        let Some((function, pc)) = self.function(pc) else { return vec![Frame::default()] };
        // The call is before the address it returns to; a function that never ran is at its beginning.
        let pc = if pc > function.entry { pc - 1 } else { pc };
        let inlined = |at: u64| {
            let address = self.functions_data.checked_add(at)?.wrapping_sub(self.moved_by);
            Inlined::parse(&self.binary.at(address, Inlined::LEN as u64)?)
        };
        self.table.source(function, pc, inlined).into_iter().map(frame).collect()
    }
}

fn frame(source: SourceFrame) -> Frame {
    let at = source.file.map(|file| match source.line {
        Some(line) => format!("{file}:{line}"),
        None => file,
    });
    Frame { function: source.function, at, module: None }
}

/// The table, and the address that the file gives it.
fn table_bytes(binary: &Binary) -> Option<(Vec<u8>, u64)> {
    for name in SECTIONS {
        if let (Some(bytes), Some(address)) = (binary.section_bytes(name), binary.section_address(name)) {
            return Some((bytes, address));
        }
    }
    binary.segments().iter().find_map(|segment| {
        let mut bytes = binary.segment_bytes(segment, SEARCH_MAX)?;
        let at = Pclntab::scan(&bytes)?;
        Some((bytes.split_off(at), segment.address.checked_add(at as u64)?))
    })
}

/// The module's description: it begins with pointers to the table and to the names in it.
fn module(binary: &Binary, memory: &Memory, moved_by: u64, table: u64, names_at: usize) -> Option<Vec<u8>> {
    let mut begin = table.to_le_bytes().to_vec();
    begin.extend(table.wrapping_add(names_at as u64).to_le_bytes());
    for segment in binary.segments().iter().filter(|segment| segment.writable) {
        let len = usize::try_from(segment.in_memory.min(SEARCH_MAX)).ok()?;
        let from = segment.address.wrapping_add(moved_by);
        for piece in (0..len).step_by(PIECE) {
            // Pieces overlap, so that one that lies across their border is found.
            let range = Range { at: from.wrapping_add(piece as u64), len: (PIECE + MODULE_LEN).min(len - piece) };
            let Ok(bytes) = memory.read(range) else { continue };
            let at = (0..bytes.len()).step_by(8).find(|at| bytes.get(*at..).is_some_and(|at| at.starts_with(&begin)));
            if let Some(module) = at.and_then(|at| bytes.get(at..at + MODULE_LEN)) {
                return Some(module.to_vec());
            }
        }
    }
    None
}
