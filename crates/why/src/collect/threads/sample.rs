//! One look at the threads of a process.
//!
//! A thread that was asleep and has not been on a processor since is where it was: its `schedstat` tells, and nothing
//! else of it is read. Of the others the state, the system call and what that waits for are read.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::pread,
    time::ClockId,
};

use super::call::{self, Doing, FutexClock, InCall, Limit, On};
use crate::{
    collect::{
        Target, clock,
        descriptors::{self, Named},
        stat::{self, Stat},
    },
    observation::{BlockedIn, WaitsFor},
};

/// Members of one epoll set or array that are kept.
const MEMBERS: usize = 64;

/// What `schedstat` counts of a thread since it began, and what `status` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) cpu_us: u64,
    /// `None` where the kernel does not count it.
    pub(super) runqueue_us: Option<u64>,
    /// How often it was given a processor.
    pub(super) runs: u64,
}

/// `schedstat`: nanoseconds of processor time, of waiting for one, and how often it got one.
pub(super) fn parse_schedstat(text: &str) -> Option<Counts> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (cpu_ns, wait_ns, runs) = (next()?, next()?, next()?);
    // All zeros where the kernel was built without.
    (runs > 0).then_some(Counts { cpu_us: cpu_ns / 1000, runqueue_us: Some(wait_ns / 1000), runs })
}

/// Voluntary and involuntary switches, as `status` has them.
pub(super) fn parse_switches(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some((field("voluntary_ctxt_switches:")?, field("nonvoluntary_ctxt_switches:")?))
}

/// One thread at one look.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) tid: u32,
    /// `None` when it has not run since the look before.
    pub(super) changed: Option<Changed>,
}

/// A thread that ran since the look before, or that is new.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) counts: Counts,
    pub(super) stat: Stat,
    pub(super) switches: (u64, u64),
    pub(super) wchan: Option<String>,
    pub(super) blocked_in: Option<BlockedIn>,
    /// Where the mutex would be that it waits for.
    pub(super) lock: Option<u64>,
}

/// All threads at one look.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) samples: Vec<Sample>,
    pub(super) left_out: u64,
    /// Why the system calls of threads cannot be read.
    pub(super) refused: Option<io::Error>,
}

/// Looks at `at_most` threads. `asleep`: those that slept at the look before, with how often they had run. `calls`:
/// whether to read their system calls.
pub(super) fn look(target: &Target, asleep: &HashMap<u32, u64>, calls: bool, at_most: usize) -> io::Result<Look> {
    let folder = openat(target.folder(), "task", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let tids = descriptors::numbers(&folder, usize::MAX)?;
    let mut look = Look { left_out: tids.len().saturating_sub(at_most) as u64, ..Look::default() };
    let mut reader = Reader { target, folder, buf: vec![0; 4096], calls, refused: None, links: HashMap::new() };
    for tid in ends(&tids, at_most) {
        let schedstat = reader.text(tid, "schedstat").and_then(|text| parse_schedstat(&text));
        if let Some(counts) = schedstat
            && asleep.get(&tid) == Some(&counts.runs)
        {
            look.samples.push(Sample { tid, changed: None });
            continue;
        }
        // It ended meanwhile.
        let Some(changed) = reader.changed(tid, schedstat) else { continue };
        let same = schedstat.is_none() && asleep.get(&tid) == Some(&changed.counts.runs);
        look.samples.push(Sample { tid, changed: (!same).then_some(changed) });
    }
    look.refused = reader.refused;
    Ok(look)
}

/// As many of them from both ends: where there are too many, the oldest hold what the newest wait for.
fn ends(tids: &[u32], at_most: usize) -> impl Iterator<Item = u32> {
    let oldest = if tids.len() > at_most { at_most / 2 } else { tids.len() };
    let newest = tids.len().saturating_sub(at_most - oldest.min(at_most)).max(oldest);
    tids.iter().take(oldest).chain(tids.iter().skip(newest)).copied()
}

struct Reader<'a> {
    target: &'a Target,
    folder: OwnedFd,
    buf: Vec<u8>,
    calls: bool,
    refused: Option<io::Error>,
    /// What descriptors name: many threads wait for the same.
    links: HashMap<u32, Option<String>>,
}

impl Reader<'_> {
    fn text(&mut self, tid: u32, file: &str) -> Option<String> {
        self.try_text(tid, file).ok()
    }

    fn try_text(&mut self, tid: u32, file: &str) -> io::Result<String> {
        let file = openat(&self.folder, format!("{tid}/{file}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let len = rustix::io::read(&file, self.buf.as_mut_slice())?;
        Ok(String::from_utf8_lossy(self.buf.get(..len).unwrap_or_default()).into_owned())
    }

    fn changed(&mut self, tid: u32, counts: Option<Counts>) -> Option<Changed> {
        let stat = stat::parse(&self.text(tid, "stat")?)?;
        let switches = parse_switches(&self.text(tid, "status")?).unwrap_or_default();
        let wchan = self.text(tid, "wchan").filter(|wchan| !wchan.is_empty() && wchan != "0");
        let counts = counts.unwrap_or_else(|| Counts {
            cpu_us: stat::ticks_us(stat.user_ticks + stat.system_ticks),
            runqueue_us: None,
            runs: switches.0 + switches.1,
        });
        let blocked = (self.calls && !matches!(stat.state, 'R' | 'Z')).then(|| self.blocked_in(tid)).flatten();
        let (blocked_in, lock) = blocked.map_or((None, None), |(blocked, lock)| (Some(blocked), lock));
        Some(Changed { counts, stat, switches, wchan, blocked_in, lock })
    }

    fn blocked_in(&mut self, tid: u32) -> Option<(BlockedIn, Option<u64>)> {
        let text = match self.try_text(tid, "syscall") {
            Ok(text) => text,
            Err(err) => {
                if err.kind() == io::ErrorKind::PermissionDenied {
                    self.calls = false;
                    self.refused = Some(err);
                }
                return None;
            }
        };
        let Doing::Call(call) = call::parse(&text)? else { return None };
        let members = self.members(&call);
        let polled = match members[..] {
            [(fd, _)] if call.known().is_some_and(|known| known.on == On::Poll) => Some(fd),
            _ => None,
        };
        let fd = call.fd().or(polled);
        let what = fd.and_then(|fd| self.what(fd)).or_else(|| self.path(&call));
        let waits_for: Vec<WaitsFor> = members
            .into_iter()
            .map(|(fd, events)| WaitsFor { fd, events, what: self.what(fd), cookie: None })
            .collect();
        let timeout_us = self.timeout(&call, what.as_deref());
        let blocked = BlockedIn { call: call.name(), fd, what, waits_for, timeout_us, ..BlockedIn::default() };
        Some((blocked, call.lock().filter(|_| timeout_us == Some(None))))
    }

    /// The descriptors that it waits for together.
    fn members(&self, call: &InCall) -> Vec<(u32, u32)> {
        let mut members = match call.known().map(|known| known.on) {
            Some(On::Epoll) => {
                let info =
                    call.fd().map(|fd| self.target.read_text(&self.target.shared(&format!("fdinfo/{fd}")), 64 * 1024));
                info.and_then(Result::ok).map(|info| call::epoll_fds(&info)).unwrap_or_default()
            }
            Some(On::Poll) => {
                let count = usize::try_from(call.argument(1)).unwrap_or_default().min(MEMBERS);
                self.memory(call.argument(0), count * 8).map(|bytes| call::poll_fds(&bytes)).unwrap_or_default()
            }
            Some(On::Select) => {
                let below = u32::try_from(call.int(0)).unwrap_or_default();
                let bytes = usize::try_from(below.div_ceil(8)).unwrap_or_default().min(8 * 1024);
                [(1, 1), (2, 4)]
                    .into_iter()
                    .filter_map(|(at, event)| Some((self.memory(call.argument(at), bytes)?, event)))
                    .flat_map(|(bytes, event)| call::set_fds(&bytes, below, event))
                    .collect()
            }
            _ => Vec::new(),
        };
        members.truncate(MEMBERS);
        members
    }

    /// The path of the file that it opens.
    fn path(&self, call: &InCall) -> Option<String> {
        let On::Path(argument) = call.known()?.on else { return None };
        call::path(&self.memory(call.argument(argument), call::PATH_BYTES)?)
    }

    fn timeout(&self, call: &InCall, what: Option<&str>) -> Option<Option<u64>> {
        let at = |argument: usize, per_second: u64| match call.argument(argument) {
            0 => Some(None),
            address => Some(Some(call::length_us(&self.memory(address, 16)?, per_second)?)),
        };
        match call.known()?.limit {
            Limit::Never => Some(None),
            // A pipe, a terminal, an eventfd: nothing but a socket has a limit of its own.
            Limit::Unknown => {
                let is_plain = call.known()?.on == On::Fd && call.name() != "io_uring_enter";
                (is_plain && what.is_some_and(|what| what != "socket")).then_some(None)
            }
            Limit::Millis(argument) => Some(u64::try_from(call.int(argument)).ok().map(|millis| millis * 1000)),
            Limit::Timespec(argument) => at(argument, 1_000_000_000),
            Limit::Timeval(argument) => at(argument, 1_000_000),
            Limit::Futex => {
                let until = |clock| {
                    let limit = at(3, 1_000_000_000)?;
                    Some(limit.map(|until| until.saturating_sub(clock::us(clock::read(clock)))))
                };
                match call::futex_clock(call.int(1)) {
                    FutexClock::None => None,
                    FutexClock::Relative => at(3, 1_000_000_000),
                    FutexClock::Monotonic => until(ClockId::Monotonic),
                    FutexClock::Realtime => until(ClockId::Realtime),
                }
            }
        }
    }

    /// What a descriptor is: `socket` until the sockets are joined.
    fn what(&mut self, fd: u32) -> Option<String> {
        let target = self.target;
        let what = self.links.entry(fd).or_insert_with(|| {
            let link = descriptors::link(target, fd).ok()?;
            Some(match descriptors::parse(&link) {
                Named::Socket(_) => "socket".to_owned(),
                Named::Other(link) => match descriptors::kind_of(link) {
                    kind @ ("file" | "device") => format!("{kind} {link}"),
                    "other" => link.to_owned(),
                    kind => kind.to_owned(),
                },
            })
        });
        what.clone()
    }

    fn memory(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        memory(self.target, address, len)
    }
}

/// Memory of the process, where it may be read.
fn memory(target: &Target, address: u64, len: usize) -> Option<Vec<u8>> {
    if address == 0 || len == 0 {
        return None;
    }
    let file = openat(target.folder(), target.shared("mem"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = vec![0; len];
    let read = pread(&file, bytes.as_mut_slice(), address).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// Who holds the locks that these threads wait for, of those that are mutexes and are held by one of `threads`: pairs of who
/// waits and who holds. Each lock is read once, however many wait for it.
pub(super) fn holders(target: &Target, waiting: &[Waiter], threads: &[u32]) -> Vec<(u32, u32)> {
    let mut owners: HashMap<u64, Option<u32>> = HashMap::new();
    let owner_of = |lock: u64| call::mutex_owner(&memory(target, lock, call::MUTEX_BYTES)?);
    for it in waiting {
        owners.entry(it.lock).or_insert_with(|| owner_of(it.lock));
    }
    if owners.values().all(Option::is_none) {
        return Vec::new();
    }
    // A mutex names its owner as the process itself numbers its threads.
    let own_number = |file: String| {
        let status = target.read_text(&file, 4096).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let numbers: Vec<u32> = numbers.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
        Some((numbers.len() > 1, *numbers.last()?))
    };
    let is_nested = own_number("status".to_owned()).is_none_or(|(is_nested, _)| is_nested);
    let number =
        |tid: u32| if is_nested { own_number(format!("task/{tid}/status")).map(|(_, own)| own) } else { Some(tid) };
    let by_own: HashMap<u32, u32> = threads.iter().filter_map(|&tid| Some((number(tid)?, tid))).collect();
    let held = |it: &Waiter| Some((it.tid, *by_own.get(&(*owners.get(&it.lock)?)?)?));
    let held: Vec<(u32, u32)> = waiting.iter().filter_map(held).collect();
    // Who ran meanwhile may have got its lock, and given away others. Who did not holds what names it. A holder that waits
    // for no lock is judged by what it does.
    let told: HashSet<u32> = held.iter().flat_map(|(tid, holder)| [*tid, *holder]).collect();
    let told = waiting.iter().filter(|it| told.contains(&it.tid));
    let ran: HashSet<u32> = told.filter(|it| !it.still_waits(target)).map(|it| it.tid).collect();
    held.into_iter().filter(|(tid, holder)| !ran.contains(tid) && !ran.contains(holder)).collect()
}

/// A thread that waits for a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) tid: u32,
    /// Where the mutex would be.
    pub(super) lock: u64,
    /// How often it had run when it was found waiting.
    pub(super) runs: u64,
}

impl Waiter {
    fn still_waits(&self, target: &Target) -> bool {
        let text = |file: &str| target.read_text(&format!("task/{}/{file}", self.tid), 4096).ok();
        let runs = text("schedstat").and_then(|text| parse_schedstat(&text)).map(|counts| counts.runs);
        let switches = || text("status").and_then(|text| parse_switches(&text)).map(|(own, other)| own + other);
        runs.or_else(switches) == Some(self.runs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_scheduler_counts() {
        let counts = parse_schedstat("5000000 7000 3\n").unwrap();
        assert_eq!(counts, Counts { cpu_us: 5000, runqueue_us: Some(7), runs: 3 });
        assert_eq!(parse_schedstat("0 0 0\n"), None);
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(parse_switches(status), Some((7, 9)));
    }

    #[test]
    fn of_too_many_threads_both_ends_are_looked_at() {
        let looked_at = |tids: &[u32], at_most| ends(tids, at_most).collect::<Vec<_>>();
        assert_eq!(looked_at(&[1, 2, 3, 4, 5, 6], 4), [1, 2, 5, 6]);
        assert_eq!(looked_at(&[1, 2, 3, 4, 5, 6], 3), [1, 5, 6]);
        assert_eq!(looked_at(&[1, 2, 3], 4), [1, 2, 3]);
        assert_eq!(looked_at(&[1, 2, 3], 3), [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn garbage_counts_nothing(text in "\\PC*", numbers in "[0-9 ]*") {
            let _ = (parse_schedstat(&text), parse_schedstat(&numbers), parse_switches(&text));
        }
    }
}
