//! From registers and memory to a chain of calls.

use std::collections::HashMap;

use gimli::{CfaRule, EhFrame, RegisterRule, UnwindContext, UnwindSection as _, X86_64};

use super::{Chain, elf::Tables, modules::Modules};
use crate::collect::Target;

/// How deep a stack is followed.
const FRAMES_MAX: usize = 96;
/// How many rows of unwind tables are remembered.
const ROWS_MAX: usize = 16_384;

/// Where a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Registers {
    /// The next instruction.
    pub(crate) ip: u64,
    /// The stack pointer.
    pub(crate) sp: u64,
    /// The frame pointer, where the code keeps one.
    pub(crate) bp: u64,
}

/// A copy of the top of a stack.
pub(super) struct Copied<'a> {
    pub(super) from: u64,
    pub(super) bytes: &'a [u8],
}

impl Copied<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.from)?).ok()?;
        Some(u64::from_ne_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

/// Why a stack ends before its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::collect) enum Cut {
    /// The code there carries neither unwind tables nor frame pointers.
    NoFrames(Option<u32>),
    /// The copy of the stack ended.
    MemoryEnded,
    /// Too deep.
    TooDeep,
    /// The stack itself was not copied.
    FramePointersOnly,
}

impl Cut {
    pub(super) fn text(self, modules: &Modules) -> String {
        match self {
            Self::NoFrames(module) => {
                let path = module.and_then(|module| modules.get(module)).map(|module| module.path.as_str());
                match path.filter(|path| !path.is_empty()) {
                    Some(path) => format!("{path} was built without frame pointers and carries no unwind tables"),
                    None => "code outside of any file, without frame pointers".to_owned(),
                }
            }
            Self::MemoryEnded => "only the top of the stack could be read".to_owned(),
            Self::TooDeep => format!("only {FRAMES_MAX} frames are followed"),
            Self::FramePointersOnly => "frame pointers alone: functions that keep none are missing".to_owned(),
        }
    }
}

/// What an unwind table says of one address: where its caller's registers are, relative to the frame's base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    by_bp: bool,
    base: i64,
    /// `None`: there is no caller.
    ip: Option<i64>,
    /// `None`: it is kept.
    bp: Option<i64>,
}

enum Step {
    Caller(Registers),
    End,
    Cut(Cut),
}

/// Unwinds, and remembers what tables said.
pub(super) struct Unwinder {
    context: Box<UnwindContext<usize>>,
    rows: HashMap<(u32, u64), Option<Row>>,
}

impl Unwinder {
    pub(super) fn new() -> Self {
        Self { context: Box::new(UnwindContext::new()), rows: HashMap::new() }
    }

    /// Follows the calls outwards as far as they can be.
    pub(super) fn unwind(
        &mut self,
        mut at: Registers,
        memory: &Copied<'_>,
        modules: &mut Modules,
        target: &Target,
    ) -> Chain {
        let mut chain = Chain::default();
        loop {
            if chain.code.len() == FRAMES_MAX {
                chain.cut = Some(Cut::TooDeep);
                return chain;
            }
            // A return address may be the first byte of another function; the call before it is not.
            let is_caller = !chain.code.is_empty();
            let code = modules.code(at.ip.saturating_sub(u64::from(is_caller)), target);
            if is_caller && code.module.is_none() {
                // That was no return address.
                let inner = chain.code.last().and_then(|code| code.module);
                chain.cut = Some(Cut::NoFrames(inner));
                return chain;
            }
            chain.code.push(code);
            let row = code.module.and_then(|module| self.row(module, code.at, modules));
            let step = match row {
                Some(row) => by_row(row, at, memory),
                None => by_frame_pointer(at, memory, code.module, !is_caller),
            };
            match step {
                // A stack grows downwards: who called lies higher, or this is no stack.
                Step::Caller(next) if next.sp > at.sp => at = next,
                Step::Caller(_) => {
                    chain.cut = Some(Cut::NoFrames(code.module));
                    return chain;
                }
                Step::End => return chain,
                Step::Cut(cut) => {
                    chain.cut = Some(cut);
                    return chain;
                }
            }
        }
    }

    fn row(&mut self, module: u32, offset: u64, modules: &mut Modules) -> Option<Row> {
        if let Some(known) = self.rows.get(&(module, offset)) {
            return *known;
        }
        let row = modules.tables(module).and_then(|tables| row(tables, offset, &mut self.context));
        if self.rows.len() < ROWS_MAX {
            self.rows.insert((module, offset), row);
        }
        row
    }
}

fn row(tables: &Tables, offset: u64, context: &mut UnwindContext<usize>) -> Option<Row> {
    let address = tables.address(offset)?;
    let (header, frames, bases) = tables.sections();
    let header = header.parse(bases, 8).ok()?;
    let fde = header.table()?.fde_for_address(&frames, bases, address, EhFrame::cie_from_offset).ok()?;
    let row = fde.unwind_info_for_address(&frames, bases, context, address).ok()?;
    let (by_bp, base) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RSP => (false, *offset),
        CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RBP => (true, *offset),
        _ => return None,
    };
    let ip = match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(offset)) => Some(offset),
        Some(RegisterRule::Undefined) => None,
        _ => return None,
    };
    let bp = match row.register(X86_64::RBP) {
        Some(RegisterRule::Offset(offset)) => Some(offset),
        _ => None,
    };
    Some(Row { by_bp, base, ip, bp })
}

fn by_row(row: Row, at: Registers, memory: &Copied<'_>) -> Step {
    let Some(base) = (if row.by_bp { at.bp } else { at.sp }).checked_add_signed(row.base) else {
        return Step::Cut(Cut::MemoryEnded);
    };
    let Some(ip) = row.ip else { return Step::End };
    let word = |offset: i64| memory.word(base.checked_add_signed(offset)?);
    let bp = match row.bp {
        None => Some(at.bp),
        Some(offset) => word(offset),
    };
    match (word(ip), bp) {
        (Some(0), _) => Step::End,
        (Some(ip), Some(bp)) => Step::Caller(Registers { ip, sp: base, bp }),
        _ => Step::Cut(Cut::MemoryEnded),
    }
}

/// Without a table. The innermost function may not have made its frame yet; then its caller is missed, not more.
fn by_frame_pointer(at: Registers, memory: &Copied<'_>, module: Option<u32>, innermost: bool) -> Step {
    if at.bp == 0 && !innermost {
        return Step::End;
    }
    if at.bp < at.sp || !at.bp.is_multiple_of(8) {
        return Step::Cut(Cut::NoFrames(module));
    }
    match (memory.word(at.bp), at.bp.checked_add(8).and_then(|above| memory.word(above))) {
        (_, Some(0)) => Step::End,
        (Some(bp), Some(ip)) => Step::Caller(Registers { ip, sp: at.bp.saturating_add(16), bp }),
        _ => Step::Cut(Cut::MemoryEnded),
    }
}

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// A program's file, and an offset in its code.
    pub fn unwind_tables(bytes: &[u8]) {
        let Some((offset, file)) = bytes.split_first_chunk() else { return };
        let Ok(memory) = memfd_create("program", MemfdFlags::CLOEXEC).map(File::from) else { return };
        let tables = memory.write_all_at(file, 0).ok().and_then(|()| Tables::read(&memory));
        if let Some(tables) = tables {
            std::hint::black_box(row(&tables, u64::from(u16::from_le_bytes(*offset)), &mut UnwindContext::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_memory_is_unwound_to_an_end(
            ip in 0_usize..64,
            sp in any::<u64>(),
            above in 0_u64..4096,
            words in proptest::collection::vec((any::<u64>(), 0_usize..64, any::<bool>()), 0..256),
        ) {
            let target = Target::new(std::process::id()).unwrap();
            let mut modules = Modules::default();
            modules.refresh(&target);
            // Some words point into code, so that it goes on.
            let code = |at: usize| (any_memory_is_unwound_to_an_end as fn() as usize + at * 4096) as u64;
            let words = words.into_iter().map(|(word, at, is_code)| if is_code { code(at) } else { word });
            let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
            let registers = Registers { ip: code(ip), sp, bp: sp.wrapping_add(above) };
            let memory = Copied { from: sp, bytes: &bytes };
            let chain = Unwinder::new().unwind(registers, &memory, &mut modules, &target);
            prop_assert!(!chain.code.is_empty() && chain.code.len() <= FRAMES_MAX);
        }
    }
}
