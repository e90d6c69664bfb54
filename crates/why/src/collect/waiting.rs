//! What threads do between two system calls, and where: event loops, failed calls, who opens descriptors, where threads
//! wait and where they compute.
//!
//! To see every system call costs every process of the machine, so the programs that do are attached for short windows
//! ([`Waiting::window`]); only while the whole machine makes few system calls they stay. Waits are looked at now and then
//! ([`Waiting::look`]), and samples are taken all the time, which is cheap.

mod counted;
mod epoll;
mod openers;
mod records;
mod report;
mod tables;
mod threads;

#[cfg(test)]
mod tests;

use std::{collections::HashSet, time::Duration};

use aya::{
    Ebpf,
    programs::{
        BtfTracePoint, PerfEvent,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
        tp_btf::BtfTracePointLinkId,
    },
    util::online_cpus,
};
use rustix::time::{ClockId, clock_gettime};

use self::{counted::Counted, epoll::Registered, openers::Openers, records::PollKey, tables::Tables, threads::Looks};
use super::{
    Target,
    bpf::{Kernel, program, refused},
    cost::{Count, Part},
    stacks::{Places, StackId, Stacks},
    tasks::Tasks,
    window::Overlap,
};
use crate::observation::{Hidden, Observation};

/// The program; `cargo xtask bpf` builds it.
pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("waiting/waiting.bpf.o");

/// Samples each second on each processor. Not a divisor of the timers that programs have.
const SAMPLES_HZ: u64 = 99;
/// When the whole machine makes fewer system calls each second, they are watched all the time: at some 0.3 us each that
/// is less than a five-hundredth of one processor.
const QUIET: u64 = 5_000;
/// What is missing where they are.
const SAMPLES: &str = "samples of where it computes";
/// How often tables are looked through in between.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// The kernel's half knows twice as many places at most.
const PLACES_MANY: usize = 2048;
/// Names of functions take no longer than this.
const NAMING: Duration = Duration::from_secs(3);

/// Watches what the threads of a process do. Dropping it detaches and frees everything.
pub(crate) struct Waiting {
    target: Target,
    /// Holds the programs and their links.
    ebpf: Ebpf,
    tables: Tables,
    iterator: Option<Tasks>,
    samples: bool,
    windows: Windows,
    counted: Overlap<Counted>,
    looks: Looks,
    stacks: Stacks,
    places: Places,
    registered: Registered,
    openers: Openers,
    tended_ns: u64,
    /// Entries that there was no room for, of all windows.
    lost: u64,
    /// How many stacks of a kind are handed over.
    stacks_max: usize,
    hidden: Vec<Hidden>,
}

/// The windows in which system calls are counted.
#[derive(Default)]
struct Windows {
    usable: bool,
    open: Option<Open>,
}

struct Open {
    since_ns: u64,
    /// Calls of the machine that had been counted when it was last looked at, and when that was.
    calls: u64,
    at_ns: u64,
    enter: Option<BtfTracePointLinkId>,
    leave: Option<BtfTracePointLinkId>,
}

impl Waiting {
    /// Loads all that this kernel takes. No window is open yet.
    ///
    /// # Errors
    /// When BPF is not allowed at all, or the process has ended.
    pub(crate) fn attach(kernel: &Kernel, target: &Target) -> Result<Self, Hidden> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Hidden {
                what: "event loops, waits and samples".to_owned(),
                why: "the programs know the registers of x86-64 only".to_owned(),
                how: "watch on such a machine".to_owned(),
            });
        }
        let mut ebpf = kernel.load(OBJECT, target)?;
        let mut hidden = Vec::new();
        let usable = note(&mut hidden, "system calls of event loops", load_windows(kernel, &mut ebpf));
        let samples = note(&mut hidden, SAMPLES, start_samples(&mut ebpf));
        let iterator = note(&mut hidden, "stacks of waiting threads", Tasks::load(kernel, &mut ebpf, target));
        let (tables, places) = Tables::take(&mut ebpf).map_err(refused)?;
        Ok(Self {
            target: target.clone(),
            ebpf,
            tables,
            iterator,
            samples: samples.is_some(),
            windows: Windows { usable: usable.is_some(), ..Windows::default() },
            counted: Overlap::default(),
            looks: Looks::default(),
            stacks: Stacks::new(target),
            places,
            registered: Registered::default(),
            openers: Openers::default(),
            tended_ns: 0,
            lost: 0,
            stacks_max: report::STACKS_MAX,
            hidden,
        })
    }

    /// Hands over so many stacks of each kind in the end, and not only those that a report has room for.
    pub(crate) const fn keep(&mut self, stacks: usize) {
        self.stacks_max = stacks;
    }

    /// Why there are no samples, where there are none.
    pub(crate) fn without_samples(&self) -> Option<Hidden> {
        let why = self.hidden.iter().find(|hidden| hidden.what == SAMPLES);
        why.filter(|_| !self.samples).cloned()
    }

    /// Opens or closes a window in which every system call of the process is counted; some 40 ms out of every 500 are
    /// enough. Either takes about a millisecond. A window stays open after it was asked to close while the machine is
    /// quiet; asking to open one that is open does nothing.
    pub(crate) fn window(&mut self, open: bool) {
        if !self.windows.usable {
            return;
        }
        match (&self.windows.open, open) {
            (None, true) => self.open(),
            (Some(_), false) => {
                if !self.is_quiet() {
                    self.close();
                }
                self.tend(false);
            }
            _ => {}
        }
    }

    /// Looks at where threads wait. `at_us` is the time since the watch began.
    pub(crate) fn look(&mut self, at_us: u64) {
        self.drain();
        if let Some(iterator) = &self.iterator {
            self.looks.look(at_us, &iterator.look(), &mut self.stacks);
        }
    }

    /// Whether calls are being counted.
    pub(crate) const fn is_open(&self) -> bool {
        self.windows.open.is_some()
    }

    /// What the kernel has counted of its programs.
    pub(super) fn counts(&self) -> [Count; 2] {
        let own = self.tables.calls.iter().flatten().map(|(_, times)| times).sum::<u64>();
        // Each call runs two programs.
        let calls = Count::of(Part::Calls, &self.ebpf, &["enter", "leave"], Some(own.saturating_mul(2)));
        let samples = Some(self.tables.tally().samples);
        [calls, Count::of(Part::Samples, &self.ebpf, &["sample"], samples)]
    }

    /// Detaches what costs too much, for good. What was seen so far is kept.
    pub(super) fn give_up(&mut self, part: Part) {
        match part {
            Part::Calls => {
                self.close();
                self.windows.usable = false;
            }
            Part::Samples => {
                if let Ok(program) = program::<&mut PerfEvent>(&mut self.ebpf, "sample") {
                    let _ = program.unload();
                }
            }
            Part::Transfers | Part::Lives => {}
        }
    }

    /// Names what was seen and enters it. It ends counting calls until that is asked for again. Call it after the
    /// collectors that fill sockets, descriptors and threads: what is said there of descriptors and threads is used and
    /// added to.
    pub(crate) fn observed(&mut self, observation: &mut Observation) {
        self.take();
        report::fill(self, observation);
    }

    /// Another window begins, at `at_us`; the one that is shown from now on began at `begin_us`. It ends counting calls
    /// until that is asked for again.
    pub(crate) fn turn(&mut self, begin_us: u64) {
        self.take();
        self.counted.turn(Counted { samples_before: self.tables.tally().samples, ..Counted::default() });
        self.looks.turn(begin_us);
        // A program may register something else under what it used before.
        self.registered = Registered::default();
        self.forget();
    }

    /// Takes out of the tables what was counted.
    fn take(&mut self) {
        self.close();
        self.drain();
        self.tend(true);
        self.lost += Counted::take(&mut self.counted, &mut self.tables, &mut self.registered, &self.target);
    }

    /// Makes room in the tables that are never taken out.
    fn forget(&mut self) {
        let ended: Vec<u32> = self.tables.inside.keys().flatten().filter(|tid| !self.looks.is_there(*tid)).collect();
        for tid in ended {
            let _ = self.tables.inside.remove(&tid);
        }
        let closed = self.tables.opened.keys().flatten().filter(|fd| openers::link(*fd, &self.target).is_none());
        for fd in closed.collect::<Vec<u32>>() {
            let _ = self.tables.opened.remove(&fd);
        }
        if self.places.len() < PLACES_MANY && !self.stacks.are_many() {
            return;
        }
        // What is met again is sent again.
        let mut wanted: HashSet<u64> = self.openers.places().collect();
        wanted.extend(self.tables.failures.iter().flatten().map(|(_, failure)| failure.place));
        for window in self.counted.both() {
            wanted.extend(window.polls.values().map(|poll| poll.place));
            wanted.extend(window.samples.keys().map(|sample| sample.place));
        }
        for place in self.tables.places.keys().flatten().filter(|place| !wanted.contains(place)).collect::<Vec<u64>>() {
            let _ = self.tables.places.remove(&place);
        }
        self.places.retain(&wanted);
        let wanted: HashSet<StackId> = self.places.stacks().chain(self.looks.stacks()).collect();
        self.stacks.retain(&wanted);
    }

    fn open(&mut self) {
        // Leaving first: a call whose beginning was not seen counts as partial, while one whose end is not seen would
        // seem to go on. Nothing counts before the clock is set.
        let leave = attach(&mut self.ebpf, "leave");
        let enter = attach(&mut self.ebpf, "enter");
        let (Ok(leave), Ok(enter)) = (leave, enter) else {
            self.windows.usable = false;
            self.hidden.push(Hidden {
                what: "system calls of event loops".to_owned(),
                why: "the kernel would not attach to them any more".to_owned(),
                how: "watch again".to_owned(),
            });
            for name in ["leave", "enter"] {
                unload(&mut self.ebpf, name);
            }
            return;
        };
        let calls = self.tables.tally().calls;
        let since_ns = now_ns();
        let opened = self.tables.open(since_ns);
        let open = Open { since_ns, calls, at_ns: since_ns, enter: Some(enter), leave: Some(leave) };
        self.windows.open = Some(open);
        if opened.is_err() {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(mut open) = self.windows.open.take() else { return };
        let until_ns = now_ns();
        let _ = self.tables.open(0);
        self.counted.both().for_each(|window| window.looked_ns += until_ns.saturating_sub(open.since_ns));
        for (name, link) in [("enter", open.enter.take()), ("leave", open.leave.take())] {
            let program = self.ebpf.program_mut(name).and_then(|program| <&mut BtfTracePoint>::try_from(program).ok());
            if let (Some(program), Some(link)) = (program, link) {
                let _ = program.detach(link);
            }
        }
        for (tid, inside) in self.tables.inside.iter().flatten() {
            let polls_now = self.looks.threads.get(&tid).and_then(|thread| thread.polls_now);
            // What began before this window may have ended between two; then the last look found the thread elsewhere.
            let since_ns = match inside.since_ns {
                0 => continue,
                since_ns if since_ns >= open.since_ns => since_ns,
                _ if polls_now.is_some_and(|call| call as u32 == inside.call) => open.since_ns,
                _ => continue,
            };
            let key = PollKey { tid, call: inside.call };
            for window in self.counted.both() {
                *window.inside_ns.entry(key).or_default() += until_ns.saturating_sub(since_ns);
            }
        }
    }

    /// Whether so few system calls were made since this was last asked that the window may stay open.
    fn is_quiet(&mut self) -> bool {
        let calls = self.tables.tally().calls;
        let Some(open) = &mut self.windows.open else { return false };
        let at_ns = now_ns();
        let made = calls.saturating_sub(std::mem::replace(&mut open.calls, calls));
        let length_ns = at_ns.saturating_sub(std::mem::replace(&mut open.at_ns, at_ns));
        made.saturating_mul(1_000_000_000) < QUIET.saturating_mul(length_ns)
    }

    /// Takes what is new out of the maps while the process still has it.
    fn tend(&mut self, last: bool) {
        self.drain();
        let at_ns = now_ns();
        let due = u64::try_from(HOUSEKEEPING.as_nanos()).unwrap_or(u64::MAX);
        if !last && self.tended_ns != 0 && at_ns.saturating_sub(self.tended_ns) < due {
            return;
        }
        self.tended_ns = at_ns;
        let keys = self.tables.ready.keys().flatten().filter(|key| key.epfd >= 0).map(|key| (key.epfd, key.data));
        self.registered.learn(keys, &self.target);
        self.openers.tend(self.tables.opened.iter().flatten(), &self.target);
    }

    /// Unwinds the stacks that came.
    fn drain(&mut self) {
        self.places.drain(&mut self.stacks);
    }
}

/// Remembers why something is missing.
fn note<T>(hidden: &mut Vec<Hidden>, what: &str, result: Result<T, Hidden>) -> Option<T> {
    match result {
        Ok(it) => Some(it),
        Err(why) => {
            hidden.push(Hidden { what: what.to_owned(), ..why });
            None
        }
    }
}

fn load_windows(kernel: &Kernel, ebpf: &mut Ebpf) -> Result<(), Hidden> {
    for (name, event) in [("leave", "sys_exit"), ("enter", "sys_enter")] {
        let program: &mut BtfTracePoint = program(ebpf, name)?;
        program.load(event, kernel.btf).map_err(refused)?;
    }
    Ok(())
}

fn start_samples(ebpf: &mut Ebpf) -> Result<(), Hidden> {
    let program: &mut PerfEvent = program(ebpf, "sample")?;
    program.load().map_err(refused)?;
    let processors = online_cpus().map_err(|(_, error)| refused(error))?;
    for cpu in processors {
        let config = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        program.attach(config, scope, SamplePolicy::Frequency(SAMPLES_HZ), false).map_err(refused)?;
    }
    Ok(())
}

fn attach(ebpf: &mut Ebpf, name: &str) -> Result<BtfTracePointLinkId, Hidden> {
    let program: &mut BtfTracePoint = program(ebpf, name)?;
    program.attach().map_err(refused)
}

fn unload(ebpf: &mut Ebpf, name: &str) {
    if let Ok(program) = program::<&mut BtfTracePoint>(ebpf, name) {
        let _ = program.unload();
    }
}

/// The clock that the programs read.
fn now_ns() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
