//! How long threads are off the processors, and where, by every switch of the process.
//!
//! The time counts from when a thread is switched off until it is switched on again, whatever for: it waits, or it is ready
//! and finds no processor. Threads that slept when the watch began, or that sleep when it ends, count for what falls into
//! the watch.

use std::{collections::HashMap, time::Duration};

use aya::{
    Ebpf, Pod,
    maps::{HashMap as KernelMap, MapData, MapError, PerCpuArray},
    programs::BtfTracePoint,
};
use rustix::time::ClockId;

use super::{
    Target,
    bpf::{Kernel, program, refused},
    clock,
    stacks::{Detail, Places, Registers, StackId, Stacks},
    syscalls,
    tasks::Tasks,
};
use crate::observation::{Hidden, Stack};

/// The program; `cargo xtask bpf` builds it.
pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("off_cpu/off_cpu.bpf.o");

/// Names of functions take no longer than this.
const NAMING: Duration = Duration::from_secs(3);
/// So many names of threads are remembered.
const NAMES_MAX: usize = 8192;
/// What stands in the place of the number of a system call: in `off_cpu.bpf.c`, too.
const NO_CALL: i32 = -1;
const READY: i32 = -2;

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Tally {
    lost_entries: u64,
    lost_stacks: u64,
    switches: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Asleep {
    since_ns: u64,
    place: u64,
    call: i32,
    /// 1 in what this side has entered.
    seeded: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct OffKey {
    place: u64,
    tid: u32,
    call: i32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Off {
    off_ns: u64,
    times: u64,
    longest_ns: u64,
}

macro_rules! pod {
    ($($name:ty),*) => { $(
        #[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
        // SAFETY: integers only, laid out without padding.
        unsafe impl Pod for $name {}
    )* };
}

pod!(Tally, Asleep, OffKey, Off);

/// Time off the processors at one place.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct OffStack {
    pub(super) stack: Stack,
    /// The name of the threads.
    pub(super) thread: String,
    /// The system call that they were in, or why there is none.
    pub(super) inside: String,
    pub(super) off_us: u64,
}

/// All of a watch.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The longest first.
    pub(super) stacks: Vec<OffStack>,
    /// Waits and stacks that there was no room for.
    pub(super) lost: u64,
    /// Why stacks are not whole.
    pub(super) hidden: Option<Hidden>,
}

/// Counts the switches of one process. Dropping it detaches and frees everything.
pub(super) struct OffCpu {
    /// Holds the programs and their links.
    ebpf: Ebpf,
    asleep: KernelMap<MapData, u32, Asleep>,
    off: KernelMap<MapData, OffKey, Off>,
    tally: PerCpuArray<MapData, Tally>,
    places: Places,
    stacks: Stacks,
    tasks: Tasks,
    names: HashMap<u32, String>,
}

impl OffCpu {
    /// Attaches to the switches, and notes who sleeps already.
    ///
    /// # Errors
    /// When BPF is not allowed, or the process has ended.
    pub(super) fn attach(kernel: &Kernel, target: &Target) -> Result<Self, Hidden> {
        let mut ebpf = kernel.load(OBJECT, target)?;
        let tasks = Tasks::load(kernel, &mut ebpf, target)?;
        let switched: &mut BtfTracePoint = program(&mut ebpf, "switched")?;
        switched.load("sched_switch", kernel.btf).map_err(refused)?;
        switched.attach().map_err(refused)?;
        let mut take = |name: &str| {
            let missing = || MapError::InvalidName { name: name.to_owned() };
            ebpf.take_map(name).ok_or_else(missing).map_err(refused)
        };
        let mut this = Self {
            asleep: take("asleep")?.try_into().map_err(refused)?,
            off: take("off")?.try_into().map_err(refused)?,
            tally: take("tally")?.try_into().map_err(refused)?,
            places: Places::new(take("snapshots")?.try_into().map_err(refused)?),
            stacks: Stacks::new(target),
            names: HashMap::new(),
            tasks,
            ebpf,
        };
        this.seed();
        Ok(this)
    }

    /// Enters the threads that sleep: whoever is switched off from now on is entered by the program, over this.
    fn seed(&mut self) {
        let since_ns = now_ns();
        let threads = self.tasks.look();
        threads.iter().for_each(|thread| self.name(thread.tid, thread.name()));
        let asleep: Vec<_> = threads.iter().filter(|thread| thread.state != 0 && thread.tid != 0).collect();
        let registers = asleep.iter().map(|thread| Registers { ip: thread.ip, sp: thread.sp, bp: thread.bp });
        let stacks = self.stacks.live(&registers.collect::<Vec<_>>());
        for (thread, stack) in asleep.into_iter().zip(stacks) {
            let place = stack.map_or(0, |stack| self.places.enter(stack));
            let call = i32::try_from(thread.call).ok().filter(|call| *call < 1024).unwrap_or(NO_CALL);
            const NOEXIST: u64 = 1;
            let it = Asleep { since_ns, place, call, seeded: 1 };
            // It may have been switched off meanwhile; then the program knows better.
            let _ = self.asleep.insert(thread.tid, it, NOEXIST);
        }
    }

    /// Unwinds the stacks that came, and learns the names of new threads.
    pub(super) fn look(&mut self) {
        self.places.drain(&mut self.stacks);
        for thread in self.tasks.look() {
            self.name(thread.tid, thread.name());
        }
    }

    fn name(&mut self, tid: u32, name: String) {
        if self.names.len() < NAMES_MAX || self.names.contains_key(&tid) {
            self.names.insert(tid, name);
        }
    }

    /// Ends it, and names what was seen.
    pub(super) fn finish(mut self) -> Seen {
        if let Ok(switched) = program::<&mut BtfTracePoint>(&mut self.ebpf, "switched") {
            let _ = switched.unload();
        }
        let until_ns = now_ns();
        self.places.drain(&mut self.stacks);
        let now = self.tasks.look();
        let mut sums: HashMap<(Option<StackId>, String, i32), u64> = HashMap::new();
        let name = |tid: u32| self.names.get(&tid).cloned().unwrap_or_else(|| "a thread that ended".to_owned());
        let mut add = |place: u64, tid: u32, call: i32, ns: u64| {
            *sums.entry((self.places.get(place), name(tid), call)).or_default() += ns;
        };
        for (key, off) in self.off.iter().flatten() {
            add(key.place, key.tid, key.call, off.off_ns);
        }
        let sleeps = |tid: u32| now.iter().any(|thread| thread.tid == tid && thread.state != 0);
        for (tid, it) in self.asleep.iter().flatten() {
            // One that was entered by this side, after it had woken.
            if it.seeded == 0 || sleeps(tid) {
                add(it.place, tid, it.call, until_ns.saturating_sub(it.since_ns));
            }
        }
        let mut wanted: Vec<StackId> = sums.keys().filter_map(|(stack, ..)| *stack).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let named = self.stacks.name(&wanted, Detail::Lines, NAMING);
        let stack = |id: Option<StackId>| {
            let lost = || Stack { frames: Vec::new(), cut: Some("the stack was lost".to_owned()) };
            id.and_then(|id| named.get(&id)).cloned().unwrap_or_else(lost)
        };
        let mut stacks: Vec<OffStack> = sums
            .into_iter()
            .map(|((id, thread, call), ns)| OffStack {
                stack: stack(id),
                thread,
                inside: inside(call),
                off_us: ns / 1000,
            })
            .collect();
        stacks.sort_by_key(|it| std::cmp::Reverse(it.off_us));
        let tally = self.tally.get(&0, 0).map(|all| all.iter().map(|one| one.lost_entries + one.lost_stacks).sum());
        Seen { stacks, lost: tally.unwrap_or(0) + self.stacks.lost(), hidden: self.stacks.hidden().cloned() }
    }
}

/// What a thread was in when it was switched off.
fn inside(call: i32) -> String {
    match call {
        READY => "ready, without a processor".to_owned(),
        NO_CALL => "no system call".to_owned(),
        call => {
            let name = u64::try_from(call).ok().and_then(syscalls::name);
            name.map_or_else(|| format!("system call {call}"), str::to_owned)
        }
    }
}

/// The clock that the program reads.
fn now_ns() -> u64 {
    u64::try_from(clock::read(ClockId::Monotonic).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[test]
fn both_sides_mean_the_same() {
    let theirs = super::bpf::constants::of(include_str!("off_cpu/off_cpu.bpf.c"));
    assert_eq!((theirs["NO_CALL"], theirs["READY"]), (i64::from(NO_CALL), i64::from(READY)));
}
