//! One time-aligned view of chosen system calls: what each thread asked of the kernel, what came of it, and from where.
//!
//! A call is told when it returns, in the order of the returns over all threads; those that never return while watched
//! come at the end. Its stack is taken where it failed, or took long. That nothing is ready yet (`EAGAIN`,
//! `EINPROGRESS`) is no failure, and a wait that ended at its own limit did not take long: it did what it was asked for.
//! Those calls are summed up that could be told, whether they were or not.

mod calls;
mod records;
mod text;
mod words;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as KernelMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::BtfTracePoint,
};
use rustix::time::ClockId;

pub use self::calls::{Chosen, Group};
use self::records::{Count, CountKey, How, Inside, Record, SeenFd, Settings, Tally};
pub use self::words::errno;
use super::{
    AttachError, Ended, Interrupt, Kernel, Target,
    bpf::{program, refused},
    clock,
    pause::Pause,
    stacks::{Detail, Places, Registers, StackId, Stacks},
    tasks::Tasks,
    watch::find,
};
use crate::observation::{Hidden, Stack};

/// The program; `cargo xtask bpf` builds it.
pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("trace/trace.bpf.o");

/// From one look for news to the next.
const EVERY: Duration = Duration::from_millis(50);
/// Records that are younger wait for the next look: another processor may have an older one.
const SETTLED_NS: u64 = 5_000_000;
/// Names of the functions of new stacks take no longer than this at a time; what is not ready is a file and an offset.
const NAMING: Duration = Duration::from_millis(1500);
/// Interrupted by a signal, to be restarted or not: numbers that no program gets to see.
const RESTARTS: std::ops::RangeInclusive<u16> = 512..=516;

/// What to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Which calls.
    pub chosen: Chosen,
    /// A call that takes so long is slow.
    pub slow: Duration,
    /// Calls that are told in a second, at most; others are dropped and counted.
    pub per_second: u32,
}

impl Default for Options {
    /// The network and what fails or is slow, which is from 10 ms on; 5000 a second.
    fn default() -> Self {
        Self { chosen: Chosen::network(), slow: Duration::from_millis(10), per_second: 5000 }
    }
}

/// A call. Its texts come from the process and are untrusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When it returned, since the trace began.
    pub at_us: u64,
    /// How long it took; where it began before the trace, this is how long it took since.
    pub duration_us: Option<u64>,
    /// Whether it began before the trace.
    pub since_before: bool,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub thread: String,
    /// The call.
    pub call: String,
    /// Those of its arguments that matter, with their names.
    pub arguments: Vec<(&'static str, String)>,
    /// What came of it.
    pub outcome: Outcome,
    /// Where it was made, where that was asked for.
    pub stack: Option<SeenStack>,
}

/// What came of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It returned this; for a descriptor that it made, with what that is.
    Returned(i64, Option<String>),
    /// It failed.
    Failed(u16),
    /// A signal came.
    Interrupted,
    /// It does not return: the thread or the process ends.
    Ends,
    /// It has not returned yet.
    Unfinished,
}

/// A stack with its number in this trace: the same stack has the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenStack {
    /// From 1 on, in the order in which they were met.
    pub number: u32,
    /// Whether it is the first event with it.
    pub is_new: bool,
    /// The stack.
    pub stack: Stack,
}

/// All calls of one name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallSum {
    /// The call.
    pub call: String,
    /// How often it returned.
    pub calls: u64,
    /// How often it failed, by errno.
    pub errors: BTreeMap<u16, u64>,
    /// Time in it, all threads together.
    pub total_us: u64,
    /// The longest.
    pub longest_us: u64,
}

/// What is told in the end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// What calls these are.
    pub of: &'static str,
    /// By call, the one with the most time first.
    pub calls: Vec<CallSum>,
    /// Calls that were chosen and not told, because there were too many.
    pub dropped: u64,
    /// Stacks and counts that there was no room for.
    pub lost: u64,
    /// Calls by the 32-bit interface, which are not understood.
    pub foreign: u64,
}

/// A trace that goes on. Dropping it detaches and frees everything.
pub struct Trace {
    pause: Pause,
    /// Holds the programs and their links.
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    inside: KernelMap<MapData, u32, Inside>,
    counts: KernelMap<MapData, CountKey, Count>,
    tally: PerCpuArray<MapData, Tally>,
    tasks: Tasks,
    descriptors: Tasks,
    stacks: Stacks,
    places: Places,
    options: Options,
    began_ns: u64,
    pending: Vec<Record>,
    named: HashMap<StackId, (u32, Stack)>,
}

impl Trace {
    /// Begins.
    ///
    /// # Errors
    /// When there is no such process, or its calls cannot be seen.
    pub fn attach(pid: u32, options: Options) -> Result<Self, AttachError> {
        let target = find(pid)?;
        if !cfg!(target_arch = "x86_64") {
            let why = "the numbers of system calls are known for x86-64 only".to_owned();
            let hidden = Hidden { what: "system calls".to_owned(), why, how: "use strace here".to_owned() };
            return Err(AttachError::Unseen { pid, hidden });
        }
        Self::load(&target, options).map_err(|hidden| {
            let how = format!("{}; without it, `strace -f -k -p {pid}` shows the same, and is dear", hidden.how);
            let what = "system calls".to_owned();
            AttachError::Unseen { pid, hidden: Hidden { what, how, ..hidden } }
        })
    }

    fn load(target: &Target, options: Options) -> Result<Self, Hidden> {
        let kernel = Kernel::new()?;
        let mut ebpf = kernel.load(OBJECT, target)?;
        let tasks = Tasks::load(&kernel, &mut ebpf, target)?;
        let descriptors = Tasks::named("descriptor", &kernel, &mut ebpf, target)?;
        let mut take = |name: &str| {
            let missing = || MapError::InvalidName { name: name.to_owned() };
            ebpf.take_map(name).ok_or_else(missing).map_err(refused)
        };
        let mut settings: Array<_, Settings> = take("settings_map")?.try_into().map_err(refused)?;
        let mut hows: Array<_, How> = take("hows")?.try_into().map_err(refused)?;
        let slow_ns = u64::try_from(options.slow.as_nanos()).unwrap_or(u64::MAX);
        let tenth = u64::from(options.per_second / 10).max(1);
        settings.set(0, Settings { slow_ns, tenth }, 0).map_err(refused)?;
        for number in 0..calls::NUMBERS {
            hows.set(u32::from(number), options.chosen.how(number), 0).map_err(refused)?;
        }
        let mut this = Self {
            events: take("events")?.try_into().map_err(refused)?,
            inside: take("inside")?.try_into().map_err(refused)?,
            counts: take("counts")?.try_into().map_err(refused)?,
            tally: take("tally")?.try_into().map_err(refused)?,
            places: Places::new(take("snapshots")?.try_into().map_err(refused)?),
            pause: Pause::new(target),
            stacks: Stacks::new(target),
            tasks,
            descriptors,
            ebpf,
            options,
            began_ns: 0,
            pending: Vec::new(),
            named: HashMap::new(),
        };
        // Leaving last: a call whose beginning was not seen would have no duration.
        for (name, event) in [("enter", "sys_enter"), ("leave", "sys_exit")] {
            let program: &mut BtfTracePoint = program(&mut this.ebpf, name)?;
            program.load(event, kernel.btf).map_err(refused)?;
            program.attach().map_err(refused)?;
        }
        this.began_ns = now_ns();
        this.seed();
        Ok(this)
    }

    /// Enters the calls that threads are in already.
    fn seed(&mut self) {
        const NOEXIST: u64 = 1;
        const UNKNOWN: i64 = -2;
        for thread in self.tasks.look().into_iter().filter(|thread| thread.state != 0 && thread.tid != 0) {
            let Ok(number) = u16::try_from(thread.call) else { continue };
            let it = Inside { since_ns: self.began_ns, limit_ns: UNKNOWN, number, before: 1, ..Inside::default() };
            // It may have made another call meanwhile; then the program knows better.
            let _ = self.inside.insert(thread.tid, it, NOEXIST);
        }
    }

    /// Tells calls until the time is over, the process has ended, it is interrupted, or nobody listens any more.
    ///
    /// # Errors
    /// As of `tell`.
    pub fn run(
        &mut self,
        for_: Duration,
        interrupt: &Interrupt,
        mut tell: impl FnMut(&Event) -> io::Result<()>,
    ) -> io::Result<Ended> {
        let length_ns = u64::try_from(for_.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let now = now_ns();
            let left_ns = length_ns.saturating_sub(now.saturating_sub(self.began_ns));
            self.drain(now.saturating_sub(SETTLED_NS), &mut tell)?;
            if left_ns == 0 {
                return Ok(Ended::Time);
            }
            if let Some(ended) = self.pause.wait(interrupt, EVERY.min(Duration::from_nanos(left_ns))) {
                return Ok(ended);
            }
        }
    }

    /// Ends it: tells what is left and what has not returned, and sums up.
    ///
    /// # Errors
    /// As of `tell`.
    pub fn finish(mut self, mut tell: impl FnMut(&Event) -> io::Result<()>) -> io::Result<Summary> {
        for name in ["enter", "leave"] {
            if let Ok(program) = program::<&mut BtfTracePoint>(&mut self.ebpf, name) {
                let _ = program.unload();
            }
        }
        let until_ns = now_ns();
        self.drain(u64::MAX, &mut tell)?;
        self.unfinished(until_ns, &mut tell)?;
        Ok(self.sum_up())
    }

    /// Tells what came and is old enough.
    fn drain(&mut self, until_ns: u64, tell: &mut impl FnMut(&Event) -> io::Result<()>) -> io::Result<()> {
        while let Some(item) = self.events.next() {
            self.pending.extend(Record::parse(&item));
        }
        // After the records: the stack of each was sent before it.
        self.places.drain(&mut self.stacks);
        self.pending.sort_by_key(|record| record.at_ns);
        let settled = self.pending.partition_point(|record| record.at_ns <= until_ns);
        let records: Vec<Record> = self.pending.drain(..settled).collect();
        let with_stacks = records.into_iter().map(|record| (self.places.get(record.place), record)).collect();
        self.tell_all(with_stacks, tell)
    }

    fn tell_all(
        &mut self,
        records: Vec<(Option<StackId>, Record)>,
        tell: &mut impl FnMut(&Event) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut fresh: Vec<StackId> = Vec::new();
        for id in records.iter().filter_map(|(id, _)| *id) {
            if !self.named.contains_key(&id) && !fresh.contains(&id) {
                fresh.push(id);
            }
        }
        let mut names =
            if fresh.is_empty() { HashMap::new() } else { self.stacks.name(&fresh, Detail::Functions, NAMING) };
        for (id, record) in records {
            // The child's side of a fork: it has made no call.
            if record.since_ns == 0 && record.result == 0 && matches!(record.number, 56..=58 | 435) {
                continue;
            }
            let stack = id.map(|id| {
                let number = u32::try_from(self.named.len()).unwrap_or(u32::MAX).saturating_add(1);
                let is_new = !self.named.contains_key(&id);
                let fresh = || (number, names.remove(&id).unwrap_or_default());
                let (number, stack) = self.named.entry(id).or_insert_with(fresh).clone();
                SeenStack { number, is_new, stack }
            });
            tell(&event(&record, self.began_ns, stack))?;
        }
        Ok(())
    }

    /// Calls that threads are still in.
    fn unfinished(&mut self, until_ns: u64, tell: &mut impl FnMut(&Event) -> io::Result<()>) -> io::Result<()> {
        let inside: HashMap<u32, Inside> = self.inside.iter().flatten().filter(|(_, it)| it.since_ns != 0).collect();
        let fds = self.descriptors.records(SeenFd::BYTES, SeenFd::parse);
        let mut registers = Vec::new();
        let mut records = Vec::new();
        for thread in self.tasks.look().into_iter().filter(|thread| thread.state != 0) {
            let Some(it) = inside.get(&thread.tid).filter(|it| u64::from(it.number) == thread.call) else { continue };
            let how = self.options.chosen.how(it.number);
            let fd = fds.iter().find(|fd| fd.tid == thread.tid && u64::from(fd.number) == thread.call);
            let record = Record {
                at_ns: until_ns,
                since_ns: it.since_ns,
                args: thread.args,
                limit_ns: records::limit(it.limit_ns),
                tid: thread.tid,
                number: it.number,
                before: it.before != 0,
                ended: true,
                name: thread.name(),
                what: fd.and_then(|fd| fd.what.clone()).filter(|_| how.takes_fd != 0),
                ..Record::default()
            };
            let is_slow =
                until_ns.saturating_sub(it.since_ns) >= u64::try_from(self.options.slow.as_nanos()).unwrap_or(0);
            if how.is_told(is_slow, record.what.as_ref()) {
                registers.push(Registers { ip: thread.ip, sp: thread.sp, bp: thread.bp });
                records.push(record);
            }
        }
        let records = self.stacks.live(&registers).into_iter().zip(records).collect();
        self.tell_all(records, &mut |event| tell(&Event { outcome: Outcome::Unfinished, ..event.clone() }))
    }

    fn sum_up(&self) -> Summary {
        let mut calls: BTreeMap<u16, CallSum> = BTreeMap::new();
        for (key, count) in self.counts.iter().flatten() {
            if !self.options.chosen.is_summed(key.number) {
                continue;
            }
            let fresh = || CallSum { call: text::name(key.number), ..CallSum::default() };
            let sum = calls.entry(key.number).or_insert_with(fresh);
            sum.calls += count.calls;
            sum.total_us += count.ns / 1000;
            sum.longest_us = sum.longest_us.max(count.longest_ns / 1000);
            if key.error != 0 {
                *sum.errors.entry(key.error).or_default() += count.calls;
            }
        }
        let mut calls: Vec<CallSum> = calls.into_values().collect();
        calls.sort_by_key(|sum| std::cmp::Reverse((sum.total_us, sum.calls)));
        let tally = self.tally.get(&0, 0).map(|all| {
            all.iter().fold(Tally::default(), |sum, one| Tally {
                dropped: sum.dropped + one.dropped,
                lost_stacks: sum.lost_stacks + one.lost_stacks,
                lost_entries: sum.lost_entries + one.lost_entries,
                compat: sum.compat + one.compat,
            })
        });
        let tally = tally.unwrap_or_default();
        let lost = tally.lost_stacks + tally.lost_entries + self.stacks.lost();
        Summary { of: self.options.chosen.summed(), calls, dropped: tally.dropped, lost, foreign: tally.compat }
    }
}

/// A record as it is told.
fn event(record: &Record, began_ns: u64, stack: Option<SeenStack>) -> Event {
    let since = |ns: u64| ns.saturating_sub(began_ns) / 1000;
    let took_ns = record.at_ns.saturating_sub(record.since_ns);
    let error = u16::try_from(record.result.unsigned_abs()).ok().filter(|error| record.result < 0 && *error < 4096);
    let outcome = match error {
        _ if record.ended => Outcome::Ends,
        Some(error) if RESTARTS.contains(&error) => Outcome::Interrupted,
        Some(error) => Outcome::Failed(error),
        None => {
            let made = record.what.as_ref().filter(|_| text::accepts(record)).map(text::describe);
            Outcome::Returned(record.result, made)
        }
    };
    Event {
        at_us: since(record.at_ns),
        // What ends the thread takes no time.
        duration_us: (record.since_ns != 0 && !(record.ended && took_ns == 0)).then_some(took_ns / 1000),
        since_before: record.before,
        tid: record.tid,
        thread: record.name.clone(),
        call: text::name(record.number),
        arguments: text::arguments(record),
        outcome,
        stack,
    }
}

/// The clock that the program reads.
fn now_ns() -> u64 {
    u64::try_from(clock::read(ClockId::Monotonic).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    use super::*;

    /// A record of the ring.
    pub fn trace(bytes: &[u8]) {
        if let Some(record) = Record::parse(bytes) {
            std::hint::black_box(event(&record, 0, None));
        }
        std::hint::black_box(SeenFd::parse(bytes).map(|fd| fd.what));
    }
}
