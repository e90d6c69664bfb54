//! User stacks of another process: unwound from registers and memory without stopping it, named in the end.
//!
//! Where a binary carries unwind tables (`.eh_frame`, which nearly all C, C++ and Rust do), they are followed; else frame
//! pointers (Go, code made at run time). Addresses become places in files as soon as they are seen, and the files stay
//! open: so the process may end, or its program be replaced, and its stacks can still be named.

mod elf;
mod modules;
mod places;
mod symbols;
mod unwind;

#[cfg(fuzzing)]
pub(super) use unwind::fuzz;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::unix::fs::FileExt as _,
    time::Duration,
};

use rustix::fs::{Mode, OFlags, openat};

pub(crate) use self::places::Places;
pub(crate) use self::symbols::Detail;
pub(crate) use self::unwind::Registers;
use self::unwind::{Copied, Cut, Unwinder};
use self::{
    modules::Modules,
    symbols::{Namer, Names},
};
use super::Target;
use crate::observation::{Hidden, Stack};

/// How many different stacks are kept.
const STACKS_MAX: usize = 20_000;
/// How much of a stack is read from a thread that waits.
const LIVE_BYTES: usize = 32 * 1024;
/// Threads whose stacks are read at a time, for the memory it takes.
const LIVE_MAX: usize = 256;

/// A stack that was seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct StackId(u32);

/// An address in a file that was mapped, or in memory that was not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Code {
    /// Index of the module; `None` where nothing that is known is mapped there.
    pub(super) module: Option<u32>,
    /// Offset in the module's file; the address itself where that is no file.
    pub(super) at: u64,
}

/// A stack as addresses, the innermost first. Those of callers are the last byte of the call.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Chain {
    pub(super) code: Vec<Code>,
    pub(super) cut: Option<Cut>,
}

/// All stacks of one process.
pub(crate) struct Stacks {
    target: Target,
    modules: Modules,
    unwinder: Unwinder,
    namer: Namer,
    ids: HashMap<Chain, StackId>,
    chains: HashMap<StackId, Chain>,
    next: u32,
    names: Names,
    /// Stacks that there was no room for.
    lost: u64,
}

impl Stacks {
    /// Of a process. What it has mapped is read.
    pub(crate) fn new(target: &Target) -> Self {
        let mut modules = Modules::default();
        modules.refresh(target);
        Self {
            target: target.clone(),
            modules,
            unwinder: Unwinder::new(),
            namer: Namer::default(),
            ids: HashMap::new(),
            chains: HashMap::new(),
            next: 0,
            names: Names::default(),
            lost: 0,
        }
    }

    /// A look begins: what was mapped since is looked up again where an address is not known, once.
    pub(crate) fn begin(&mut self) {
        self.modules.may_refresh(&self.target);
    }

    /// Unwinds a copy of a stack, which begins at the stack pointer. `None` when there are too many stacks.
    pub(crate) fn unwind(&mut self, registers: Registers, stack: &[u8]) -> Option<StackId> {
        let memory = Copied { from: registers.sp, bytes: stack };
        let chain = self.unwinder.unwind(registers, &memory, &mut self.modules, &self.target);
        self.enter(chain)
    }

    /// What frame pointers gave, without memory to unwind.
    pub(crate) fn by_addresses(&mut self, addresses: &[u64]) -> Option<StackId> {
        let mut code = Vec::new();
        for (index, address) in addresses.iter().take_while(|address| **address != 0).enumerate() {
            let address = address.saturating_sub(u64::from(index > 0));
            code.push(self.modules.code(address, &self.target));
        }
        self.enter(Chain { code, cut: Some(Cut::FramePointersOnly) })
    }

    /// Unwinds threads that wait, with these registers, from the process's memory as it is now.
    pub(crate) fn live(&mut self, threads: &[Registers]) -> Vec<Option<StackId>> {
        let mut ids = Vec::with_capacity(threads.len());
        for threads in threads.chunks(LIVE_MAX) {
            let (target, pointers) = (self.target.clone(), threads.iter().map(|at| at.sp).collect::<Vec<_>>());
            let tops = self.modules.patience.ask(move || tops(&target, &pointers)).flatten();
            // Where the memory may not be read, the registers alone tell something.
            let mut tops = tops.unwrap_or_default().into_iter();
            ids.extend(threads.iter().map(|at| self.unwind(*at, &tops.next().unwrap_or_default())));
        }
        ids
    }

    /// Why no more of the process is read than was.
    pub(crate) const fn hidden(&self) -> Option<&Hidden> {
        self.modules.patience.refused()
    }

    fn enter(&mut self, chain: Chain) -> Option<StackId> {
        if chain.code.is_empty() {
            return None;
        }
        if let Some(id) = self.ids.get(&chain) {
            return Some(*id);
        }
        let next = self.next.checked_add(1).filter(|_| self.chains.len() < STACKS_MAX);
        let Some(next) = next else {
            self.lost += 1;
            return None;
        };
        let id = StackId(std::mem::replace(&mut self.next, next));
        self.chains.insert(id, chain.clone());
        self.ids.insert(chain, id);
        Some(id)
    }

    /// Stacks that there was no room for.
    pub(crate) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether there will soon be no room for others.
    pub(crate) fn are_many(&self) -> bool {
        self.chains.len() > STACKS_MAX / 2
    }

    /// Forgets all others.
    pub(crate) fn retain(&mut self, wanted: &HashSet<StackId>) {
        self.chains.retain(|id, _| wanted.contains(id));
        self.ids.retain(|_, id| wanted.contains(id));
        self.unwinder = Unwinder::new();
        self.names = Names::default();
    }

    /// Names those stacks, the important ones first. What takes longer than `limit` is left as files and offsets.
    pub(crate) fn name(&mut self, wanted: &[StackId], detail: Detail, limit: Duration) -> HashMap<StackId, Stack> {
        let chains = wanted.iter().filter_map(|id| Some((*id, self.chains.get(id)?)));
        let chains: Vec<(StackId, &Chain)> = chains.collect();
        self.names.learn(
            &self.namer,
            &self.modules,
            &self.target,
            chains.iter().flat_map(|(_, chain)| &chain.code),
            (detail, limit),
        );
        let names = &self.names;
        let stack = |chain: &Chain| Stack {
            frames: chain.code.iter().flat_map(|code| names.frames(&self.modules, *code)).collect(),
            cut: chain.cut.map(|cut| cut.text(&self.modules)),
        };
        chains.into_iter().map(|(id, chain)| (id, stack(chain))).collect()
    }
}

/// The tops of stacks; `None` where the memory may not be read.
fn tops(target: &Target, pointers: &[u64]) -> Option<Vec<Vec<u8>>> {
    let memory =
        openat(target.folder(), "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from).ok()?;
    let mut bytes = vec![0; LIVE_BYTES];
    let mut top = |pointer: &u64| {
        // Near the outer end of a stack less is there; the read ends at what is not mapped.
        let length = memory.read_at(&mut bytes, *pointer).unwrap_or(0);
        bytes.get(..length).unwrap_or_default().to_vec()
    };
    Some(pointers.iter().map(&mut top).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::patience::Patience;

    #[test]
    fn there_is_room_again_when_others_are_forgotten() {
        let mut stacks = Stacks::new(&Target::new(std::process::id()).unwrap());
        let ids: Vec<StackId> = (1..=STACKS_MAX as u64).map(|at| stacks.by_addresses(&[at]).unwrap()).collect();
        assert!(stacks.are_many());
        assert_eq!((stacks.by_addresses(&[u64::MAX]), stacks.lost()), (None, 1));
        let kept = ids[7];
        stacks.retain(&HashSet::from([kept]));
        assert!(!stacks.are_many());
        assert_eq!(stacks.by_addresses(&[8]), Some(kept), "it is the same stack yet");
        let new = stacks.by_addresses(&[u64::MAX]).unwrap();
        assert!(!ids.contains(&new), "no number is given twice");
    }

    #[test]
    fn who_does_not_answer_is_asked_once_and_has_the_stacks_of_registers_alone() {
        let mut stacks = Stacks::new(&Target::new(std::process::id()).unwrap());
        let word = 7_u64;
        let at = Registers { ip: 1 << 46, sp: (&raw const word).addr() as u64, bp: 0 };
        assert_eq!(tops(&stacks.target, &[at.sp, 8]).unwrap()[0][..8], word.to_ne_bytes());
        let (end, ended) = std::sync::mpsc::channel::<()>();
        stacks.modules.patience = Patience::new("memory", Duration::from_millis(10));
        assert_eq!(stacks.hidden(), None);
        assert_eq!(stacks.modules.patience.ask(move || ended.recv().is_ok()), None);
        stacks.begin();
        let ids = stacks.live(&[at; LIVE_MAX + 1]);
        assert_eq!((ids.len(), stacks.hidden().is_some()), (LIVE_MAX + 1, true));
        assert!(ids.iter().all(|id| id.is_some() && *id == ids[0]), "{ids:?}");
        drop(end);
    }
}
