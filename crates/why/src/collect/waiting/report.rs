//! From what was counted to the observation.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{
    NAMING, Waiting,
    openers::link,
    records::{FailureKey, Poll, PollKey, Ready},
    threads::poll_call,
};
use crate::{
    collect::{
        stacks::{Detail, StackId},
        syscalls,
    },
    observation::{
        Call, CallCount, Calls, Cpu, Fds, HotStack, Observation, Opener, PollCall, PollLoop, Polling, ReadyFd, Stack,
        Threads, Timeouts, WaitStack,
    },
};

/// How many of each are reported.
const READY_MAX: usize = 32;
const CALLS_MAX: usize = 24;
pub(super) const STACKS_MAX: usize = 128;
const LOOPS_MAX: usize = 256;
/// Addresses where it computes, before those of the same functions are taken together.
const HOT_MAX: usize = 4096;

/// Enters all.
pub(super) fn fill(waiting: &mut Waiting, observation: &mut Observation) {
    let tally = waiting.tables.tally();
    observation.overhead.map_bytes += waiting.tables.bytes;
    observation.overhead.dropped_events +=
        tally.lost_entries + tally.lost_stacks + waiting.stacks.lost() + waiting.lost;
    observation.not_visible.extend(waiting.hidden.iter().chain(waiting.stacks.hidden()).cloned());

    let looked_us = waiting.counted.shown().looked_ns / 1000;
    let mut loops = Vec::new();
    let mut counts = Vec::new();
    let mut openers = Vec::new();
    if looked_us > 0 {
        loops = self::loops(waiting, observation);
        counts = self::counts(waiting);
        openers = self::openers(waiting, waiting.openers.still_open(&waiting.target));
    }
    let hot = hot(waiting);
    let waits = waits(waiting);

    // All stacks are named together, what is reported first.
    let mut wanted: Vec<StackId> = Vec::new();
    wanted.extend(loops.iter().filter_map(|(_, stack)| *stack));
    wanted.extend(openers.iter().filter_map(|(_, stack)| *stack));
    wanted.extend(counts.iter().filter_map(|(_, stack)| *stack));
    wanted.extend(hot.iter().take(HOT_MAX).filter_map(|(_, stack)| *stack));
    wanted.extend(waits.iter().take(waiting.stacks_max).filter_map(|(_, stack)| *stack));
    wanted.extend(waiting.looks.threads.values().filter_map(|thread| thread.stack));
    wanted.sort_unstable();
    wanted.dedup();
    let named = waiting.stacks.name(&wanted, Detail::Lines, NAMING);
    let stack = |id: Option<StackId>| id.and_then(|id| named.get(&id)).cloned();
    let or_empty = |id: Option<StackId>| stack(id).unwrap_or_else(unknown);

    if looked_us > 0 {
        let loops = loops.into_iter().map(|(it, id)| PollLoop { stack: stack(id), ..it }).collect();
        observation.polling = Some(Polling { looked_us, loops });
        let counts = counts.into_iter().map(|(it, id)| CallCount { stack: stack(id), ..it }).collect();
        observation.calls = Some(Calls { looked_us, counts });
        let openers = openers.into_iter().map(|(it, id)| Opener { stack: or_empty(id), ..it }).collect();
        observation.fds.get_or_insert_with(Fds::default).openers = Some(openers);
    }
    if waiting.samples {
        let cpu = observation.cpu.get_or_insert_with(Cpu::default);
        cpu.samples = tally.samples.saturating_sub(waiting.counted.shown().samples_before);
        cpu.hot = Some(merged(hot, waiting.stacks_max, &or_empty));
    }
    if waiting.iterator.is_some() && waiting.looks.looks > 0 {
        let first_last = (*waiting.looks.first.shown(), waiting.looks.last);
        let fresh = || Threads { first: first_last.0, last: first_last.1, ..Threads::default() };
        let threads = observation.threads.get_or_insert_with(fresh);
        let waits = waits.into_iter().take(waiting.stacks_max);
        threads.waits = Some(waits.map(|(it, id)| WaitStack { stack: or_empty(id), ..it }).collect());
        for thread in &mut threads.threads {
            thread.stack = stack(waiting.looks.threads.get(&thread.tid).and_then(|it| it.stack));
        }
    }
}

fn unknown() -> Stack {
    Stack { frames: Vec::new(), cut: Some("the stack was lost".to_owned()) }
}

fn name_of(waiting: &Waiting, tid: u32) -> String {
    if let Some(thread) = waiting.looks.threads.get(&tid) {
        return thread.name.clone();
    }
    let name = waiting.target.read_text(&format!("task/{tid}/comm"), 64).unwrap_or_default();
    name.trim_end_matches('\n').to_owned()
}

fn loops(waiting: &Waiting, observation: &Observation) -> Vec<(PollLoop, Option<StackId>)> {
    let counted = waiting.counted.shown();
    let mut polls: BTreeMap<PollKey, Poll> = counted.polls.iter().map(|(key, poll)| (*key, *poll)).collect();
    for (key, inside_ns) in &counted.inside_ns {
        polls.entry(*key).or_default().inside_ns += inside_ns;
    }
    // One that never returned while anybody looked was inside all the time, as far as looks tell.
    for (tid, thread) in &waiting.looks.threads {
        let looked = thread.looked.shown();
        for (call, looks) in &looked.in_poll {
            if *looks == looked.looks && *looks > 1 {
                let fresh = || Poll { inside_ns: counted.looked_ns, ..Poll::default() };
                polls.entry(PollKey { tid: *tid, call: *call }).or_insert_with(fresh);
            }
        }
    }
    let mut ready = ready(waiting, observation);
    let mut others = others(waiting);
    let mut loops: Vec<(PollLoop, Option<StackId>)> = Vec::new();
    for (PollKey { tid, call }, poll) in polls {
        let Some(kind) = call_of(call) else { continue };
        let (other_calls, failed_calls) = others.remove(&tid).unwrap_or_default();
        others.insert(tid, (other_calls.clone(), failed_calls.clone()));
        let place = waiting.places.get(poll.place);
        let stack = place.or_else(|| {
            let thread = waiting.looks.threads.get(&tid)?;
            thread.polls_now.filter(|now| *now == kind).and(thread.stack)
        });
        let loop_ = PollLoop {
            tid,
            thread: name_of(waiting, tid),
            call: kind,
            returns: poll.returns,
            empty: poll.empty,
            failed: poll.failed,
            timeouts: Timeouts { zero: poll.zero, short: poll.brief, long: poll.lengthy, unlimited: poll.unlimited },
            inside_us: poll.inside_ns.min(counted.looked_ns) / 1000,
            ready: ready.remove(&PollKey { tid, call }).unwrap_or_default(),
            other_calls,
            failed_calls,
            stack: None,
        };
        loops.push((loop_, stack));
    }
    loops.sort_by_key(|(it, _)| std::cmp::Reverse(it.returns));
    loops.truncate(LOOPS_MAX);
    loops
}

fn call_of(call: u32) -> Option<PollCall> {
    let all = [PollCall::EpollWait, PollCall::Poll, PollCall::Select, PollCall::IoUringEnter];
    all.into_iter().find(|it| *it as u32 == call)
}

/// What was ready, by loop.
fn ready(waiting: &Waiting, observation: &Observation) -> HashMap<PollKey, Vec<ReadyFd>> {
    let counted = waiting.counted.shown();
    let uses = &counted.uses;
    let one = |(fd, ready): (Option<u32>, Ready)| {
        let used = fd.map(|fd| uses.get(&fd).copied().unwrap_or_default());
        let (what, cookie) = fd.map(|fd| about(fd, waiting, observation)).unwrap_or_default();
        ReadyFd {
            fd,
            what,
            cookie,
            times: ready.times,
            events: u32::try_from(ready.events).unwrap_or(u32::MAX),
            used: used.map(|used| used.used),
            ends: used.map(|used| used.ends),
        }
    };
    let all = counted.ready.iter().map(|(key, fds)| {
        let mut fds: Vec<(Option<u32>, Ready)> = fds.iter().map(|(fd, ready)| (*fd, *ready)).collect();
        fds.sort_by_key(|(_, ready)| std::cmp::Reverse(ready.times));
        fds.truncate(READY_MAX);
        (*key, fds.into_iter().map(one).collect())
    });
    all.collect()
}

/// What a descriptor is, and the cookie of its socket.
fn about(fd: u32, waiting: &Waiting, observation: &Observation) -> (Option<String>, Option<u64>) {
    if let Some(sockets) = &observation.sockets {
        if let Some(socket) = sockets.tcp.iter().find(|socket| socket.fd == Some(fd)) {
            return (Some(format!("tcp {}", socket.remote)), Some(socket.cookie));
        }
        if let Some(listener) = sockets.listeners.iter().find(|listener| listener.fd == Some(fd)) {
            return (Some(format!("listener {}", listener.local)), Some(listener.cookie));
        }
    }
    let what = link(fd, &waiting.target).map(|link| kind(&String::from_utf8_lossy(&link)));
    (what, None)
}

/// `/proc/PID/fd` in a word.
fn kind(link: &str) -> String {
    let inner = link.strip_prefix("anon_inode:").unwrap_or(link);
    let inner = inner.trim_start_matches('[').trim_end_matches(']');
    match inner.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
        _ => inner.to_owned(),
    }
}

type Others = (Vec<(String, u64)>, Vec<(String, i32, u64)>);

/// All other calls, by thread.
fn others(waiting: &Waiting) -> HashMap<u32, Others> {
    let mut made: HashMap<u32, BTreeMap<u16, u64>> = HashMap::new();
    let mut failed: HashMap<u32, Vec<(String, i32, u64)>> = HashMap::new();
    let name =
        |number: u16| syscalls::name(u64::from(number)).map_or_else(|| format!("system call {number}"), str::to_owned);
    for (key, times) in &waiting.counted.shown().calls {
        if poll_call(u64::from(key.number)).is_some() {
            continue;
        }
        *made.entry(key.tid).or_default().entry(key.number).or_default() += times;
        if key.error != 0 {
            failed.entry(key.tid).or_default().push((name(key.number), i32::from(key.error), *times));
        }
    }
    let all = made.into_iter().map(|(tid, calls)| {
        let mut calls: Vec<(String, u64)> = calls.into_iter().map(|(number, times)| (name(number), times)).collect();
        calls.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        calls.truncate(CALLS_MAX);
        let mut failed = failed.remove(&tid).unwrap_or_default();
        failed.sort_by_key(|(.., times)| std::cmp::Reverse(*times));
        failed.truncate(CALLS_MAX);
        (tid, (calls, failed))
    });
    all.collect()
}

/// The calls that are counted by outcome, by number.
fn counted(number: u16) -> Option<Call> {
    Some(match number {
        42 => Call::Connect,
        43 | 288 => Call::Accept,
        41 => Call::Socket,
        2 | 85 | 257 | 437 => Call::Open,
        3 => Call::Close,
        49 => Call::Bind,
        50 => Call::Listen,
        22 | 293 => Call::Pipe,
        32 | 33 | 292 => Call::Dup,
        213 | 291 => Call::EpollCreate,
        284 | 290 => Call::Eventfd,
        _ => return None,
    })
}

fn counts(waiting: &Waiting) -> Vec<(CallCount, Option<StackId>)> {
    let mut counts: HashMap<(Call, i32), (CallCount, Option<StackId>)> = HashMap::new();
    for (key, times) in &waiting.counted.shown().calls {
        let Some(call) = counted(key.number) else { continue };
        let errno = i32::from(key.error);
        let fresh = || (CallCount { call, errno, ..CallCount::default() }, None);
        counts.entry((call, errno)).or_insert_with(fresh).0.count += times;
    }
    for (FailureKey { number, error, .. }, failure) in waiting.tables.failures.iter().flatten() {
        let count = counted(number).and_then(|call| counts.get_mut(&(call, i32::from(error))));
        let Some((count, stack)) = count else { continue };
        count.fd = u32::try_from(failure.fd).ok();
        count.peer = if count.call == Call::Connect { address(&failure.peer) } else { None };
        *stack = waiting.places.get(failure.place);
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_by_key(|(it, _)| (std::cmp::Reverse(it.count), it.errno, it.call as u8));
    counts
}

/// What a program gave to `connect`.
fn address(bytes: &[u8]) -> Option<String> {
    let (family, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let address: [u8; 4] = *rest.first_chunk()?;
            Some(SocketAddr::from((Ipv4Addr::from(address), port)).to_string())
        }
        libc::AF_INET6 => {
            let address: [u8; 16] = *rest.get(4..)?.first_chunk()?;
            Some(SocketAddr::from((Ipv6Addr::from(address), port)).to_string())
        }
        libc::AF_UNIX => {
            let path = bytes.get(2..)?;
            // An abstract name begins with 0; what is longer than what was copied is cut.
            let path = path.strip_prefix(&[0]).unwrap_or(path);
            let path = path.split(|byte| *byte == 0).next()?;
            (!path.is_empty()).then(|| format!("unix {}", String::from_utf8_lossy(path)))
        }
        _ => None,
    }
}

fn openers(waiting: &Waiting, open: HashMap<(u64, u32), u64>) -> Vec<(Opener, Option<StackId>)> {
    let mut sums: HashMap<(Option<StackId>, u32), u64> = HashMap::new();
    for ((place, number), count) in open {
        *sums.entry((waiting.places.get(place), number)).or_default() += count;
    }
    let opener = |((stack, number), still_open): ((Option<StackId>, u32), u64)| {
        let call = syscalls::name(u64::from(number)).unwrap_or("unknown").to_owned();
        (Opener { call, still_open, ..Opener::default() }, stack)
    };
    let mut openers: Vec<_> = sums.into_iter().map(opener).collect();
    openers.sort_by_key(|(it, stack)| (std::cmp::Reverse(it.still_open), *stack));
    openers.truncate(STACKS_MAX);
    openers
}

fn hot(waiting: &Waiting) -> Vec<(HotStack, Option<StackId>)> {
    let mut sums: HashMap<(Option<StackId>, String), u64> = HashMap::new();
    for (key, samples) in &waiting.counted.shown().samples {
        let stack = waiting.places.get(key.place);
        *sums.entry((stack, name_of(waiting, key.tid))).or_default() += samples;
    }
    let hot = |((stack, thread), samples)| (HotStack { thread, samples, ..HotStack::default() }, stack);
    let mut hot: Vec<_> = sums.into_iter().map(hot).collect();
    hot.sort_by_key(|(it, stack)| (std::cmp::Reverse(it.samples), *stack));
    hot
}

/// Samples at different addresses of the same functions are one.
fn merged(
    hot: Vec<(HotStack, Option<StackId>)>,
    at_most: usize,
    stack: &impl Fn(Option<StackId>) -> Stack,
) -> Vec<HotStack> {
    let mut sums: HashMap<(Vec<Option<String>>, String), HotStack> = HashMap::new();
    for (it, id) in hot {
        let stack = stack(id);
        let functions = stack.frames.iter().map(|frame| frame.function.clone().or_else(|| frame.module.clone()));
        let key = (functions.collect(), it.thread.clone());
        let fresh = || HotStack { stack, thread: it.thread, samples: 0 };
        sums.entry(key).or_insert_with(fresh).samples += it.samples;
    }
    let mut hot: Vec<HotStack> = sums.into_values().collect();
    hot.sort_by_key(|it| std::cmp::Reverse(it.samples));
    hot.truncate(at_most);
    hot
}

fn waits(waiting: &Waiting) -> Vec<(WaitStack, Option<StackId>)> {
    let wait = |((stack, thread), waited): (&(StackId, String), &super::threads::Waited)| {
        let wait = WaitStack {
            stack: Stack::default(),
            thread: thread.clone(),
            waited_us: waited.waited_us,
            times: waited.times,
            longest_us: waited.longest_us,
        };
        (wait, Some(*stack))
    };
    let mut waits: Vec<_> = waiting.looks.waits.shown().iter().map(wait).collect();
    waits.sort_by_key(|(it, stack)| (std::cmp::Reverse(it.waited_us), *stack));
    waits
}
