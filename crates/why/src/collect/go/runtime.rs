//! The runtime's counters: how many goroutines, how much heap, how long the queues are.

use std::collections::HashSet;

use super::{
    globals::Globals,
    layout::Layout,
    memory::{Memory, Range},
    pclntab::{le32, le64},
    sample::List,
};

/// More processors than any machine has.
const PS_MAX: u64 = 1 << 14;
/// Goroutines that are looked at to learn whether the layout is right.
const PROBES: u64 = 64;
/// The local queue of a processor holds so many.
const QUEUE_MAX: u32 = 256;
/// Reasons to wait: Go has some fifty.
const REASONS_MAX: usize = 96;
const REASON_LEN_MAX: u64 = 64;
/// A list that is longer is none.
const LIST_MAX: u64 = 1 << 28;
/// A heap that is larger is none.
const HEAP_MAX: u64 = 1 << 47;

/// A running Go runtime.
#[derive(Debug)]
pub(super) struct Runtime {
    layout: Layout,
    globals: Globals,
    wait_reasons: Vec<String>,
}

/// What one look reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counters {
    pub(super) goroutines: u64,
    pub(super) heap_bytes: Option<u64>,
    pub(super) live_bytes: Option<u64>,
    pub(super) collections: Option<u64>,
    pub(super) ps: u64,
    pub(super) idle_ps: u64,
    pub(super) run_queue: u64,
}

impl Runtime {
    /// Looks whether what is there is what the layout says; `None` when it is not.
    pub(super) fn new(memory: &Memory, layout: Layout, globals: Globals) -> Option<Self> {
        let wait_reasons = globals.wait_reasons.map(|at| wait_reasons(memory, at)).unwrap_or_default();
        let this = Self { layout, globals, wait_reasons };
        let list = this.list(memory)?;
        let plausible = list.len == 0 || this.is_plausible(memory, list);
        plausible.then_some(this)
    }

    pub(super) const fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn wait_reason(&self, reason: u8) -> Option<&str> {
        self.wait_reasons.get(usize::from(reason)).map(String::as_str).filter(|reason| !reason.is_empty())
    }

    /// All goroutines, dead ones too.
    pub(super) fn list(&self, memory: &Memory) -> Option<List> {
        slice(&memory.read(Range { at: self.globals.all_gs, len: 24 }).ok()?, LIST_MAX)
    }

    /// Goroutines have states, and numbers of their own; processors have theirs in order.
    fn is_plausible(&self, memory: &Memory, list: List) -> bool {
        let looked_at = list.len.min(PROBES);
        let check = || {
            let g = &self.layout.g;
            let pointers = memory.read(Range { at: list.at, len: usize::try_from(looked_at).ok()? * 8 }).ok()?;
            let pointers = pointers.as_chunks::<8>().0.iter().map(|at| u64::from_le_bytes(*at));
            let ranges: Vec<_> = pointers
                .flat_map(|at| [(g.status, 4), (g.id, 8)].map(|(offset, len)| (at.wrapping_add(offset.into()), len)))
                .map(|(at, len)| Range { at, len })
                .collect();
            let read = memory.read_all(&ranges).ok()?;
            let mut ids = HashSet::new();
            let sane = (0..ranges.len() / 2).filter(|i| {
                let status = read.get(i * 2).and_then(|bytes| le32(bytes, 0));
                let id = read.get(i * 2 + 1).and_then(|bytes| le64(bytes, 0));
                let possible = status.is_some_and(|status| status & !0x1000 <= 11);
                // One that is being made has no number yet.
                possible && id.is_some_and(|id| id < 1 << 48 && (id == 0 || ids.insert(id)))
            });
            // Some may be at a turn just now.
            Some(sane.count() as u64 * 10 >= looked_at * 9 && !ids.is_empty())
        };
        let ps = || {
            let list = slice(&memory.read(Range { at: self.globals.all_ps, len: 24 }).ok()?, PS_MAX)?;
            let pointers = memory.read(Range { at: list.at, len: usize::try_from(list.len).ok()? * 8 }).ok()?;
            let ranges: Vec<_> =
                pointers.as_chunks::<8>().0.iter().map(|at| Range { at: u64::from_le_bytes(*at), len: 4 }).collect();
            let read = memory.read_all(&ranges).ok()?;
            let number =
                |i: usize| read.get(i).and_then(|bytes| le32(bytes, 0)).and_then(|id| usize::try_from(id).ok());
            Some((0..ranges.len()).all(|i| number(i) == Some(i)))
        };
        check() == Some(true) && ps() == Some(true)
    }

    /// Three calls of the kernel. `None` when the process has ended, or while the numbers contradict each other.
    pub(super) fn counters(&self, memory: &Memory) -> Option<Counters> {
        let (sched, heap, at) = (&self.layout.sched, &self.layout.heap, &self.globals);
        // What is not known is read from nowhere, which fails, as it shall.
        let field = |base: Option<u64>, offset: Option<u32>, len| {
            let at = base.zip(offset).map_or(0, |(base, offset)| base.wrapping_add(offset.into()));
            Range { at, len }
        };
        let read = memory.read_all(&[
            Range { at: at.all_gs, len: 24 },
            Range { at: at.all_ps, len: 24 },
            field(Some(at.sched), Some(sched.idle_ps), 4),
            field(Some(at.sched), Some(sched.queue_len), 4),
            field(Some(at.sched), Some(sched.system), 4),
            field(Some(at.sched), sched.free[0], 4),
            field(Some(at.sched), sched.free[1], 4),
            field(at.gc_controller, Some(heap.in_use), 8),
            field(at.gc_controller, Some(heap.marked), 8),
            field(at.collections, Some(0), 4),
            field(at.max_procs, Some(0), 4),
        ]);
        let read = read.ok()?;
        let small = |index| read.get(index).and_then(|bytes| le32(bytes, 0)).map(u64::from);
        let large = |index| read.get(index).and_then(|bytes| le64(bytes, 0)).filter(|bytes| *bytes <= HEAP_MAX);
        let (gs, ps) = (slice(read.get(0)?, LIST_MAX)?, slice(read.get(1)?, PS_MAX)?);
        let processors = self.processors(memory, ps)?;
        let not_counted = small(4)? + small(5)? + small(6).unwrap_or(0) + processors.free;
        Some(Counters {
            goroutines: gs.len.checked_sub(not_counted)?,
            heap_bytes: large(7),
            live_bytes: large(8),
            collections: small(9),
            ps: small(10).filter(|ps| (1..=PS_MAX).contains(ps)).unwrap_or(ps.len),
            idle_ps: small(2).filter(|idle| *idle <= ps.len)?,
            run_queue: small(3).filter(|queue| *queue <= gs.len)? + processors.queued,
        })
    }

    fn processors(&self, memory: &Memory, list: List) -> Option<Processors> {
        let pointers = memory.read(Range { at: list.at, len: usize::try_from(list.len).ok()? * 8 }).ok()?;
        let p = &self.layout.p;
        let fields = [(p.queue_head, 4), (p.queue_tail, 4), (p.next, 8), (p.free, 4)];
        let ranges: Vec<_> = pointers
            .as_chunks::<8>()
            .0
            .iter()
            .map(|at| u64::from_le_bytes(*at))
            .flat_map(|at| fields.map(|(offset, len)| Range { at: at.wrapping_add(offset.into()), len }))
            .collect();
        let read = memory.read_all(&ranges).ok()?;
        let mut all = Processors { queued: 0, free: 0 };
        for first in (0..ranges.len()).step_by(fields.len()) {
            let small = |field| read.get(first + field).and_then(|bytes| le32(bytes, 0));
            let queued = small(1)?.wrapping_sub(small(0)?);
            // Head and tail are not read at one instant.
            all.queued += u64::from(if queued <= QUEUE_MAX { queued } else { 0 });
            all.queued += u64::from(read.get(first + 2).and_then(|bytes| le64(bytes, 0))? != 0);
            all.free += u64::from(small(3)?);
        }
        Some(all)
    }
}

/// What is summed up over processors.
struct Processors {
    queued: u64,
    /// Dead goroutines kept for reuse.
    free: u64,
}

/// A slice of pointers: where its elements are, and how many.
fn slice(header: &[u8], len_max: u64) -> Option<List> {
    let (at, len, capacity) = (le64(header, 0)?, le64(header, 8)?, le64(header, 16)?);
    (len <= capacity && capacity <= len_max * 2 && len <= len_max && at % 8 == 0).then_some(List { at, len })
}

/// The runtime's own words; the list ends where something is no word.
fn wait_reasons(memory: &Memory, at: u64) -> Vec<String> {
    let headers = (0..REASONS_MAX).map(|i| Range { at: at.wrapping_add(i as u64 * 16), len: 16 }).collect::<Vec<_>>();
    let Ok(headers) = memory.read_all(&headers) else { return Vec::new() };
    let headers: Vec<_> = (0..REASONS_MAX)
        .map_while(|i| headers.get(i).and_then(|header| Some((le64(header, 0)?, le64(header, 8)?))))
        .take_while(|(at, len)| *len <= REASON_LEN_MAX && (*at != 0 || *len == 0))
        .map(|(at, len)| Range { at, len: usize::try_from(len).unwrap_or(0) })
        .collect();
    let Ok(words) = memory.read_all(&headers) else { return Vec::new() };
    let word = |i: usize| match headers.get(i) {
        Some(Range { len: 0, .. }) => Some(String::new()),
        _ => super::buildinfo::printable(words.get(i)?),
    };
    (0..headers.len()).map_while(word).collect()
}
