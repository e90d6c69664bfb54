//! Reading goroutines one by one: what they do, since when, and their stacks.
//!
//! Nothing is stopped, so each is read, then its stack, then itself again; one that moved on meanwhile is left out. All
//! of it is bounded: goroutines, frames, different stacks, time.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use super::{
    code::Code,
    layout::{self, G},
    memory::{Memory, Range},
    now,
    pclntab::{le32, le64},
};
use crate::observation::GoroutineState;

/// Goroutines read in full, at most.
pub(super) const FULL_MAX: usize = 10_000;
/// Goroutines whose state is asked for, so as to find those that live: a microsecond each.
const STATES_MAX: u64 = 1 << 15;
/// Places in the runtime's list that are looked at, at most: a list that is longer is none.
const LIST_MAX: u64 = 1 << 28;
/// How long one reading in full takes, at most: fewer goroutines are read where they would take longer.
const TIME_MAX: Duration = Duration::from_millis(300);
/// Goroutines whose stacks are read at once, for the memory it takes.
const BATCH: usize = 512;
const FRAMES_MAX: usize = 64;
/// Most stacks of goroutines that wait fit.
const CHUNK: u64 = 1024;
/// How often more of a stack is read.
const ROUNDS_MAX: usize = 8;
/// The largest stack that Go allows.
const STACK_MAX: u64 = 1 << 30;
/// Different stacks that are remembered.
const STACKS_MAX: usize = 20_000;
/// Addresses that are remembered.
const STEPS_MAX: usize = 200_000;

/// Where the runtime's list of goroutines is, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct List {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// What goroutines have in common that are of one group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    pub(super) state: GoroutineState,
    /// The runtime's number of the reason.
    pub(super) reason: Option<u8>,
    /// An index of [`Reader::stack`].
    pub(super) stack: u32,
    pub(super) created_at: u64,
}

/// The addresses on a stack, innermost first.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Trace {
    pub(super) pcs: Vec<u64>,
    pub(super) cut: Option<&'static str>,
}

/// Goroutines at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Members {
    pub(super) count: u64,
    /// When the one that waits longest began, in ns of the monotonic clock; 0 where the runtime did not note it.
    pub(super) oldest: u64,
}

/// One reading in full.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) places: HashMap<Place, Members>,
    /// The channels that they wait at, of those that wait at one.
    pub(super) channels: HashMap<Place, HashSet<u64>>,
    /// Where each goroutine was, by its number; with its index in the runtime's list.
    pub(super) members: HashMap<u64, (u64, Place)>,
    /// One of so many was read.
    pub(super) stride: u64,
    pub(super) unreadable: u64,
}

/// What it learns about addresses and stacks stays true for the life of the process.
#[derive(Debug, Default)]
pub(super) struct Reader {
    steps: HashMap<u64, Step>,
    system: HashMap<u64, bool>,
    stacks: Vec<Trace>,
    stack_ids: HashMap<Trace, u32>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The caller's address lies so far up.
    Up(u64),
    Outermost,
    Unknown,
}

/// A goroutine as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Goroutine {
    stack_end: u64,
    sp: u64,
    pc: u64,
    status: u32,
    id: u64,
    wait_since: u64,
    wait_reason: u8,
    created_at: u64,
    starts_at: u64,
    queued: u64,
}

impl Goroutine {
    fn parse(bytes: &[u8], g: &G) -> Option<Self> {
        let word = |at: u32| le64(bytes, at as usize);
        let (low, stack_end) = (le64(bytes, 0)?, le64(bytes, 8)?);
        let status = status(le32(bytes, g.status as usize)?)?;
        let this = Self {
            stack_end,
            sp: word(g.sp)?,
            pc: word(g.pc)?,
            status,
            id: word(g.id)?,
            wait_since: word(g.wait_since)?,
            wait_reason: *bytes.get(g.wait_reason as usize)?,
            // The first was made by the runtime's own beginning, which tells nobody anything.
            created_at: if word(g.id)? == 1 { 0 } else { word(g.created_at)? },
            starts_at: word(g.starts_at)?,
            queued: word(g.queued)?,
        };
        let sane = low < stack_end && stack_end - low <= STACK_MAX && this.id > 0 && is_alive(status);
        sane.then_some(this)
    }

    const fn state(&self) -> GoroutineState {
        match self.status {
            1 => GoroutineState::Runnable,
            2 => GoroutineState::Running,
            3 => GoroutineState::Syscall,
            4 => GoroutineState::Waiting,
            _ => GoroutineState::Other,
        }
    }

    /// Whether it is where it was, so that what was read of its stack meanwhile is its stack.
    fn stayed(&self, later: Option<&Self>) -> bool {
        let place = |g: &Self| (g.status, g.id, g.sp, g.pc, g.stack_end, g.wait_reason);
        later.is_some_and(|later| place(self) == place(later))
    }
}

/// A status without the bit that says that its stack is being scanned; `None` of garbage.
const fn status(raw: u32) -> Option<u32> {
    let status = raw & !0x1000;
    if status <= 11 { Some(status) } else { None }
}

/// Not being made, not dead, nor kept for C.
const fn is_alive(status: u32) -> bool {
    !matches!(status, 0 | 5 | 6 | 7 | 11)
}

impl Reader {
    /// One stack, by its number.
    pub(super) fn stack(&self, index: u32) -> Option<&Trace> {
        self.stacks.get(index as usize)
    }

    /// Reads all goroutines, or one of each so many.
    ///
    /// # Errors
    /// When nothing can be read any more.
    pub(super) fn read(&mut self, memory: &Memory, code: &Code, g: &G, list: List) -> io::Result<Sample> {
        let began = now();
        let (alive, stride) = alive(memory, g, list)?;
        let mut sample = Sample::default();
        // One of eight first, then those between them, so that where time does not suffice what was read stands for all.
        for sparse in [8, 4, 2, 1].map(|times| stride * times) {
            let in_pass =
                |index: u64| index.is_multiple_of(sparse) && (sample.stride == 0 || !index.is_multiple_of(sparse * 2));
            let pass: Vec<_> = alive.iter().filter(|(index, _)| in_pass(*index)).copied().collect();
            for batch in pass.chunks(BATCH) {
                self.read_batch(memory, code, g, batch, &mut sample)?;
            }
            sample.stride = sparse;
            // The next takes as long as all before it.
            if now().saturating_sub(began) > TIME_MAX / 2 {
                break;
            }
        }
        Ok(sample)
    }

    fn read_batch(
        &mut self,
        memory: &Memory,
        code: &Code,
        g: &G,
        batch: &[(u64, u64)],
        sample: &mut Sample,
    ) -> io::Result<()> {
        let ranges: Vec<_> = batch.iter().map(|(_, at)| Range { at: *at, len: layout::span(g) }).collect();
        let parse = |read: &super::memory::Ranges| -> Vec<_> {
            (0..ranges.len()).map(|i| Goroutine::parse(read.get(i)?, g)).collect()
        };
        let before = parse(&memory.read_all(&ranges)?);
        let mut walks: Vec<Option<Walk>> = before.iter().map(|g| g.as_ref().map(Walk::new)).collect();
        for _ in 0..ROUNDS_MAX {
            let hungry: Vec<_> = walks.iter_mut().flatten().filter(|walk| !walk.done).collect();
            if hungry.is_empty() {
                break;
            }
            let chunks: Vec<_> = hungry.iter().map(|walk| walk.wants()).collect();
            let stacks = memory.read_all(&chunks)?;
            for (i, walk) in hungry.into_iter().enumerate() {
                match stacks.get(i) {
                    Some(bytes) => walk.go(bytes, |pc| self.step(code, pc)),
                    None => walk.stop("its memory could not be read"),
                }
            }
        }
        let channels = channels(memory, g, &before)?;
        let after = parse(&memory.read_all(&ranges)?);

        let walked = before.iter().zip(&after).zip(walks);
        for (i, ((index, _), ((before, after), walk))) in batch.iter().zip(walked).enumerate() {
            let (Some(goroutine), Some(walk)) = (before, walk) else {
                sample.unreadable += 1;
                continue;
            };
            if self.is_system(code, goroutine.starts_at) {
                continue;
            }
            let runs = goroutine.state() == GoroutineState::Running;
            if !runs && !goroutine.stayed(after.as_ref()) || sample.members.contains_key(&goroutine.id) {
                sample.unreadable += 1;
                continue;
            }
            let waits = goroutine.state() == GoroutineState::Waiting;
            let place = Place {
                state: goroutine.state(),
                reason: waits.then_some(goroutine.wait_reason),
                stack: self.intern(walk.trace()),
                created_at: goroutine.created_at,
            };
            sample.members.insert(goroutine.id, (*index, place));
            if let Some(channel) = channels.get(&i).copied() {
                sample.channels.entry(place).or_default().insert(channel);
            }
            let members = sample.places.entry(place).or_default();
            members.count += 1;
            // A time that was noted is kept until the goroutine waits again; it counts only while it waits.
            let since = if waits || goroutine.state() == GoroutineState::Syscall { goroutine.wait_since } else { 0 };
            if since != 0 && (members.oldest == 0 || since < members.oldest) {
                members.oldest = since;
            }
        }
        Ok(())
    }

    fn step(&mut self, code: &Code, pc: u64) -> Step {
        if let Some(step) = self.steps.get(&pc) {
            return *step;
        }
        let step = code.function(pc).map_or(Step::Unknown, |(function, pc)| {
            if code.table().is_outermost(function) {
                Step::Outermost
            } else {
                code.table().frame_len(function, pc).map_or(Step::Unknown, Step::Up)
            }
        });
        if self.steps.len() < STEPS_MAX {
            self.steps.insert(pc, step);
        }
        step
    }

    /// The runtime's own goroutines, which it does not count either.
    fn is_system(&mut self, code: &Code, starts_at: u64) -> bool {
        if let Some(system) = self.system.get(&starts_at) {
            return *system;
        }
        let name = code.name(starts_at);
        let system = name.is_some_and(|name| name.starts_with("runtime.") && name != "runtime.main");
        if self.system.len() < STEPS_MAX {
            self.system.insert(starts_at, system);
        }
        system
    }

    fn intern(&mut self, trace: Trace) -> u32 {
        if let Some(id) = self.stack_ids.get(&trace) {
            return *id;
        }
        let full = self.stacks.len() >= STACKS_MAX;
        let trace = if full { Trace { pcs: Vec::new(), cut: Some("too many different stacks") } } else { trace };
        if full && let Some(id) = self.stack_ids.get(&trace) {
            return *id;
        }
        let id = u32::try_from(self.stacks.len()).unwrap_or(u32::MAX);
        self.stacks.push(trace.clone());
        self.stack_ids.insert(trace, id);
        id
    }
}

/// The channels that goroutines wait at, by their index.
fn channels(memory: &Memory, g: &G, goroutines: &[Option<Goroutine>]) -> io::Result<HashMap<usize, u64>> {
    let is_queued = |it: &Goroutine| it.state() == GoroutineState::Waiting && it.queued != 0;
    let queued = goroutines.iter().enumerate().filter_map(|(i, it)| Some((i, it.filter(is_queued)?.queued)));
    let (indices, ranges): (Vec<usize>, Vec<Range>) =
        queued.map(|(i, at)| (i, Range { at: at.wrapping_add(g.channel.into()), len: 8 })).unzip();
    if ranges.is_empty() {
        return Ok(HashMap::new());
    }
    let read = memory.read_all(&ranges)?;
    let channel = |(place, i)| Some((i, read.get(place).and_then(|bytes| le64(bytes, 0)).filter(|at| *at != 0)?));
    Ok(indices.into_iter().enumerate().filter_map(channel).collect())
}

/// Those that live, with their index in the list; and one of how many was looked at.
fn alive(memory: &Memory, g: &G, list: List) -> io::Result<(Vec<(u64, u64)>, u64)> {
    let len = list.len.min(LIST_MAX);
    // Powers of two, so that two readings look at the same goroutines, however the list has grown.
    let mut stride = len.div_ceil(STATES_MAX).next_power_of_two();
    let indices: Vec<u64> = (0..len).step_by(usize::try_from(stride).unwrap_or(usize::MAX)).collect();
    let pointers = if stride == 1 {
        let bytes = memory.read(Range { at: list.at, len: indices.len() * 8 })?;
        (0..indices.len()).map(|i| le64(&bytes, i * 8)).collect::<Vec<_>>()
    } else {
        let ranges: Vec<_> = indices.iter().map(|i| Range { at: list.at.wrapping_add(i * 8), len: 8 }).collect();
        let read = memory.read_all(&ranges)?;
        (0..indices.len()).map(|i| read.get(i).and_then(|bytes| le64(bytes, 0))).collect()
    };
    let listed: Vec<(u64, u64)> = indices.into_iter().zip(pointers).filter_map(|(i, at)| Some((i, at?))).collect();
    let mut alive = Vec::new();
    for part in listed.chunks(8192) {
        let status_at = |(_, at): &(u64, u64)| Range { at: at.wrapping_add(u64::from(g.status)), len: 4 };
        let read = memory.read_all(&part.iter().map(status_at).collect::<Vec<_>>())?;
        alive.extend(part.iter().enumerate().filter_map(|(i, goroutine)| {
            let status = status(le32(read.get(i)?, 0)?)?;
            (goroutine.1 % 8 == 0 && is_alive(status)).then_some(*goroutine)
        }));
    }
    while alive.len() > FULL_MAX {
        stride *= 2;
        alive.retain(|(index, _)| index % stride == 0);
    }
    Ok((alive, stride))
}

/// A stack that is being followed upwards.
#[derive(Debug)]
struct Walk {
    sp: u64,
    pc: u64,
    stack_end: u64,
    /// Where the next reading begins.
    next: u64,
    pcs: Vec<u64>,
    cut: Option<&'static str>,
    done: bool,
}

impl Walk {
    fn new(goroutine: &Goroutine) -> Self {
        let Goroutine { sp, pc, stack_end, starts_at, .. } = *goroutine;
        let mut walk = Self { sp, pc, stack_end, next: sp, pcs: Vec::new(), cut: None, done: false };
        if goroutine.state() == GoroutineState::Running {
            walk.pcs.push(starts_at);
            walk.stop("it runs, and is not stopped to be asked where: this is where it started");
        } else if sp % 8 != 0 || sp >= stack_end {
            walk.stop("its stack pointer is outside of its stack");
        }
        walk
    }

    fn wants(&self) -> Range {
        let len = if self.pcs.is_empty() { CHUNK } else { 4 * CHUNK };
        let len = len.min(self.stack_end.saturating_sub(self.next));
        Range { at: self.next, len: usize::try_from(len).unwrap_or(0) }
    }

    fn stop(&mut self, cut: &'static str) {
        (self.cut, self.done) = (Some(cut), true);
    }

    /// Goes on as far as `bytes` reach, which begin at `next`.
    fn go(&mut self, bytes: &[u8], mut step: impl FnMut(u64) -> Step) {
        loop {
            let up = match step(self.pc) {
                Step::Outermost => {
                    self.done = true;
                    return;
                }
                Step::Unknown => return self.stop("a frame outside of Go's code"),
                Step::Up(up) => up,
            };
            if self.pcs.len() >= FRAMES_MAX {
                return self.stop("the rest is not shown");
            }
            let Some(slot) = self.sp.checked_add(up).filter(|slot| *slot < self.stack_end) else {
                return self.stop("a frame beyond the end of the stack");
            };
            let offset = slot.checked_sub(self.next).and_then(|offset| usize::try_from(offset).ok());
            let Some(caller) = offset.and_then(|offset| le64(bytes, offset)) else {
                if slot == self.next {
                    return self.stop("the rest could not be read");
                }
                self.next = slot;
                return;
            };
            self.pcs.push(self.pc);
            (self.pc, self.sp) = (caller, slot + 8);
        }
    }

    fn trace(mut self) -> Trace {
        if !self.done {
            self.stop("the rest is not shown");
        }
        Trace { pcs: self.pcs, cut: self.cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(stack: &[u64], chunk: usize, step: impl Fn(u64) -> Step) -> Trace {
        let end = 0x1000 + stack.len() as u64 * 8;
        let goroutine = Goroutine {
            stack_end: end,
            sp: 0x1000,
            pc: 1,
            status: 4,
            id: 1,
            wait_since: 0,
            wait_reason: 0,
            created_at: 0,
            starts_at: 0,
            queued: 0,
        };
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut walk = Walk::new(&goroutine);
        for _ in 0..ROUNDS_MAX {
            if !walk.done {
                let from = usize::try_from(walk.wants().at - 0x1000).unwrap();
                walk.go(&bytes[from..bytes.len().min(from + chunk)], &step);
            }
        }
        walk.trace()
    }

    #[test]
    fn a_stack_is_followed_whatever_is_read_at_once() {
        let step = |pc| match pc {
            1 => Step::Up(8),
            2 => Step::Up(32),
            3 => Step::Up(0),
            9 => Step::Outermost,
            _ => Step::Unknown,
        };
        let stack = [0, 2, 0, 0, 0, 0, 3, 9, 0];
        for chunk in [16, 24, 32, 4096] {
            let expected = Trace { pcs: vec![1, 2, 3], cut: None };
            assert_eq!(walk(&stack, chunk, step), expected, "{chunk} bytes");
        }
        // Nothing can be read; and a stack that does not end where it says.
        assert_eq!(walk(&stack, 0, step).cut, Some("the rest could not be read"));
        assert_eq!(walk(&stack[..4], 4096, step).cut, Some("a frame beyond the end of the stack"));
        assert_eq!(walk(&[0, 77], 4096, step).cut, Some("a frame outside of Go's code"));
    }

    #[test]
    fn a_stack_of_nonsense_ends() {
        let all_the_same = vec![1; 100_000];
        let trace = walk(&all_the_same, 4096, |_| Step::Up(0));
        assert_eq!((trace.pcs.len(), trace.cut), (FRAMES_MAX, Some("the rest is not shown")));
        assert_eq!(
            walk(&all_the_same, 4096, |_| Step::Up(u64::MAX - 7)).cut,
            Some("a frame beyond the end of the stack")
        );
    }
}
