//! Threads that sit where they should not.

use std::collections::{HashMap, HashSet};

use overdue_core::{Cause, Confidence, Evidence};

use super::{ALWAYS, Finding, SETTLED_US, Severity, ShareOf, bpf, count, place, proc, share, time, total};
use crate::{
    Observation,
    observation::{BlockedIn, PollCall, PollLoop, Runtime, Thread, ThreadState},
};

/// Threads that nothing can interrupt.
pub(super) fn io_stuck(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    let stuck: Vec<&Thread> = threads
        .threads
        .iter()
        .filter(|thread| {
            thread.state == ThreadState::Uninterruptible
                && thread.looks >= 3
                && f64::from(thread.looks_in_state) >= ALWAYS * f64::from(thread.looks)
        })
        .collect();
    let Some(first) = stuck.iter().max_by_key(|thread| thread.blocked_us) else { return Vec::new() };
    let at = first.wchan.as_ref().map(|wchan| format!(" in the kernel's {wchan}")).unwrap_or_default();
    let call = first.blocked_in.as_ref().map(|blocked| format!(", called by {}", blocked.call)).unwrap_or_default();
    let stack = first.stack.as_ref().and_then(place).map(|place| format!(", from {place}")).unwrap_or_default();
    vec![
        Finding::new(
            Cause::IoStuck,
            Severity::Waiting,
            Confidence::High,
            format!(
                "{} in uninterruptible sleep (D){at}{call}{stack}: no signal, not even SIGKILL, ends it",
                if stuck.len() == 1 { "a thread is".to_owned() } else { format!("{} threads are", stuck.len()) },
            ),
        )
        .because(
            proc(format!(
                "thread {} ({}): state D in {} of {} looks{}",
                first.tid,
                first.name,
                first.looks_in_state,
                first.looks,
                first.wchan.as_ref().map(|wchan| format!(", wchan {wchan}")).unwrap_or_default()
            ))
            .with("threads", stuck.len() as u64)
            .with("blocked_us", first.blocked_us),
        )
        .rejected(Cause::WaitUnlimited, "a wait for the network can be interrupted (state S); this one cannot")
        .share(ShareOf::StalledTime, share(stuck.len() as u64, threads.last)),
    ]
}

/// A thread that should poll sits in a call that blocks.
pub(super) fn runtime_blocked(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    let loops = Loops::of(seen);
    // In which call it was found, and how often: it may leave the call for moments.
    let mut blocked: Vec<(&Thread, &str, u32)> = threads
        .threads
        .iter()
        .filter(|thread| loops.may_be(thread) && !is_parked(thread, &seen.process.runtime))
        .filter_map(|thread| {
            // A worker of tokio sits in a futex whenever it has nothing to do; only its stack tells another from that.
            let sits_now = thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call == "futex");
            let idle = |call: &str| seen.process.runtime == Runtime::Tokio && call == "futex" && !sits_now;
            let in_calls = thread.calls.iter().filter(|(call, _)| blocks_a_loop(call) && !idle(call));
            let (call, looks) = in_calls.max_by_key(|(_, looks)| *looks)?;
            Some((thread, call.as_str(), *looks))
        })
        .filter(|(thread, _, looks)| *looks >= 3 && share((*looks).into(), thread.looks.into()) >= LOOP_BLOCKED)
        .collect();
    blocked.sort_by_key(|(thread, _, looks)| std::cmp::Reverse((loops.surely(thread), *looks, thread.blocked_us)));
    let Some(&(thread, call, looks)) = blocked.first() else { return Vec::new() };
    let sure = loops.surely(thread);
    let now = thread.blocked_in.as_ref().filter(|blocked| blocked.call == call);
    let what = now.and_then(|blocked| blocked.what.as_ref()).map(|what| format!(" on {what}")).unwrap_or_default();
    let at = blocked_at(seen, thread).map(|place| format!(", from {place}")).unwrap_or_default();
    let part = share(looks.into(), thread.looks.into());
    let sits = format!(
        "thread {} ({}) sits in {call}{what}{at} for {:.0} % of the time",
        thread.tid,
        thread.name,
        part * 100.0
    );
    let mut finding = Finding::new(
        Cause::RuntimeBlocked,
        Severity::Waiting,
        if sure { Confidence::High } else { Confidence::Medium },
        if sure {
            format!("the event loop does not turn: {sits}; everything else of it waits meanwhile")
        } else {
            format!(
                "an event loop may not turn: {sits}; whether that thread runs a loop, or only waits, cannot be told"
            )
        },
    )
    .because(
        proc(format!(
            "thread {}: in {call} at {looks} of {} looks, {} switches in the window",
            thread.tid, thread.looks, thread.voluntary_switches
        ))
        .with("looks_in_call", looks)
        .with("looks", thread.looks)
        .with("threads", blocked.len() as u64),
    )
    .rejected(Cause::CpuBusy, format!("the thread used only {} of processor time", time(thread.cpu_us)))
    .share(ShareOf::StalledTime, part);
    finding.advisory = !sure;
    vec![finding]
}

/// The threads that run event loops.
struct Loops<'a> {
    seen: &'a Observation,
    /// Those that poll again and again.
    turn: HashSet<u32>,
    /// Those that were seen to poll at all.
    poll: HashSet<u32>,
}

impl<'a> Loops<'a> {
    fn of(seen: &'a Observation) -> Self {
        let polls = seen.polling.iter().flat_map(|polling| &polling.loops);
        // A thread that waits for one thing at a time by poll is no event loop.
        let polls: Vec<&PollLoop> = polls.filter(|poll| poll.call == PollCall::EpollWait).collect();
        let turn: HashSet<u32> = polls.iter().filter(|poll| poll.returns >= 3).map(|poll| poll.tid).collect();
        let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
        let found = threads.filter(|thread| thread.calls.iter().any(|(call, _)| call.starts_with("epoll")));
        let poll = polls.iter().map(|poll| poll.tid).chain(found.map(|thread| thread.tid)).collect();
        Self { seen, turn, poll }
    }

    fn may_be(&self, thread: &Thread) -> bool {
        match self.seen.process.runtime {
            Runtime::Node => thread.tid == self.seen.process.pid,
            // The loop may be that of another thread, which the main one waits for.
            Runtime::Python => {
                let polls = self.poll.contains(&thread.tid);
                thread.tid == self.seen.process.pid && self.has_epoll() && (polls || self.poll.is_empty())
            }
            Runtime::Tokio => {
                thread.name.starts_with("tokio-r")
                    && TokioThread::of(thread).is_none_or(|role| role == TokioThread::Worker)
            }
            Runtime::Native => self.turn.contains(&thread.tid),
            Runtime::Go { .. } | Runtime::Java => false,
        }
    }

    /// Whether one that may be a loop is one for certain.
    fn surely(&self, thread: &Thread) -> bool {
        match self.seen.process.runtime {
            Runtime::Python => {
                let alone = self.seen.threads.as_ref().is_some_and(|threads| threads.last <= 1);
                let another = self.poll.iter().any(|tid| *tid != thread.tid);
                alone || self.poll.contains(&thread.tid) && !another
            }
            Runtime::Tokio => self.poll.contains(&thread.tid) || TokioThread::of(thread).is_some(),
            _ => true,
        }
    }

    fn has_epoll(&self) -> bool {
        let fds = self.seen.fds.as_ref();
        fds.is_some_and(|fds| fds.by_kind.iter().any(|kind| kind.kind == "epoll" && kind.last > 0))
    }
}

/// What a thread of tokio does: all have one name, and workers are started on the pool for what blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokioThread {
    /// Polls tasks.
    Worker,
    /// Is there to block: of the pool, or a worker that handed its tasks over (`block_in_place`).
    MayBlock,
}

impl TokioThread {
    /// By its stack; `None` where that names none of tokio's functions.
    fn of(thread: &Thread) -> Option<Self> {
        let has = |part: &str| thread.stack.iter().flat_map(|stack| stack.functions()).any(|name| name.contains(part));
        if has("block_in_place") {
            Some(Self::MayBlock)
        } else if has("scheduler::multi_thread::worker") || has("scheduler::current_thread") {
            Some(Self::Worker)
        } else if has("runtime::blocking::") {
            Some(Self::MayBlock)
        } else {
            None
        }
    }
}

/// From this share of the looks on an event loop that sits in another call is blocked by it.
const LOOP_BLOCKED: f64 = 0.3;

/// Where a thread sits: by its own stack, else by the stacks in which threads of its name waited longest.
fn blocked_at(seen: &Observation, thread: &Thread) -> Option<String> {
    let waits = seen.threads.as_ref()?.waits.as_ref();
    let longest =
        waits.into_iter().flatten().filter(|wait| wait.thread == thread.name).max_by_key(|wait| wait.waited_us);
    thread.stack.as_ref().and_then(place).or_else(|| place(&longest?.stack))
}

fn blocks_a_loop(call: &str) -> bool {
    let polls = call.starts_with("epoll") || call.contains("select") || call == "io_uring_enter";
    !polls && !call.is_empty()
}

/// tokio's workers park on a futex when there is nothing to do.
fn is_parked(thread: &Thread, runtime: &Runtime) -> bool {
    let futex = thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call == "futex");
    let parked = |stack: &crate::observation::Stack| stack.functions().any(|name| name.contains("park"));
    *runtime == Runtime::Tokio && futex && thread.stack.as_ref().is_none_or(parked)
}

/// Many callers queue behind few blocking resolver threads.
pub(super) fn dns_serialised(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    // Time that each thread spent waiting for names.
    let mut by_thread: HashMap<u32, (u64, u64)> = HashMap::new();
    for query in &connections.dns {
        let end = query.answered_us.map_or(seen.window_us, |took| query.sent_us.saturating_add(took));
        let (number, waited) = by_thread.entry(query.tid).or_default();
        *number += 1;
        *waited = waited.saturating_add(end.saturating_sub(query.sent_us));
    }
    // A and AAAA are asked at the same time: a thread's time is not counted twice.
    let waited = total(by_thread.values().map(|(_, waited)| (*waited).min(seen.window_us)));
    let threads = by_thread.len() as u64;
    let names: HashSet<&str> = connections.dns.iter().map(|query| query.name.as_str()).collect();
    let occupied = share(waited, threads.saturating_mul(seen.window_us));
    let repeated = connections.dns.len() as u64 >= 2 * threads && names.len() as u64 > threads;
    // libuv has four threads for names, glibc's asyncio default executor a few more.
    if threads == 0 || threads > 32 || !repeated || occupied < 0.7 {
        return Vec::new();
    }
    vec![
        Finding::new(
            Cause::DnsSerialised,
            Severity::Waiting,
            if occupied >= ALWAYS { Confidence::High } else { Confidence::Medium },
            format!(
                "names are resolved by {}, {:.0} % of their time is spent waiting for answers: every further call queues \
                 behind them",
                count(threads, "thread"),
                occupied * 100.0
            ),
        )
        .because(
            bpf(format!(
                "{} for {} names by {}",
                count(connections.dns.len() as u64, "query").replace("querys", "queries"),
                names.len(),
                count(threads, "thread")
            ))
            .with("queries", connections.dns.len() as u64)
            .with("names", names.len() as u64)
            .with("threads", threads)
            .with("waited_us", waited),
        )
        .rejected(Cause::DnsSlow, "a slow server alone would not keep callers from asking at the same time")
        .share(ShareOf::StalledTime, occupied),
    ]
}

/// A wait that nothing will ever end.
pub(super) fn wait_unlimited(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    if matches!(seen.process.runtime, Runtime::Go { .. }) {
        return Vec::new();
    }
    let stuck: Vec<(&Thread, &BlockedIn)> = threads
        .threads
        .iter()
        .filter(|thread| thread.blocked_us >= SETTLED_US && thread.blocked_us >= seen.window_us / 10 * 9)
        .filter_map(|thread| Some((thread, thread.blocked_in.as_ref()?)))
        .filter(|(_, blocked)| is_unlimited(seen, blocked))
        .collect();
    let Some((thread, call)) = stuck.first() else { return Vec::new() };
    // A wait for news is what a subscriber is for. It is more than a remark where callers wait meanwhile.
    let callers = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let all = callers.filter(|socket| socket.inbound && super::calls::owes_an_answer(socket)).count() > 0;
    let what = call.what.as_ref().map(|what| format!(" on {what}")).unwrap_or_default();
    let at = thread.stack.as_ref().and_then(place).map(|place| format!(", from {place}")).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::WaitUnlimited,
        Severity::Waiting,
        if all { Confidence::High } else { Confidence::Medium },
        format!(
            "thread {} ({}) waits in {}{what}{at} for {}{}, and no timer of the kernel will ever end it",
            thread.tid,
            thread.name,
            call.call,
            time(thread.blocked_us),
            if thread.since_before { " or longer" } else { "" },
        ),
    )
    .because(blocked_evidence(thread, call, stuck.len()))
    .rejected(Cause::IoStuck, "the sleep can be interrupted: it is no device that holds it")
    .share(ShareOf::StalledTime, share(stuck.len() as u64, threads.last));
    finding.advisory = !all;
    vec![finding]
}

/// Threads that wait for each other's locks: none of them will ever go on. That a thread has waited for a lock for long
/// says nothing, for its holder may wait for work, as pools of workers do; only a circle of holders is a proof, whenever
/// in the window it was closed.
pub(super) fn deadlock(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    let waits = threads.threads.iter().filter(|thread| thread.blocked_us >= SETTLED_US);
    let waits: HashMap<u32, (&Thread, u32)> =
        waits.filter_map(|thread| Some((thread.tid, (thread, thread.blocked_in.as_ref()?.held_by?)))).collect();
    let next = |tid: u32| waits.get(&tid).map(|&(_, holder)| holder);
    let reaches =
        |from: u32, to: u32| std::iter::successors(next(from), |&tid| next(tid)).take(waits.len()).any(|tid| tid == to);
    // The same observation gives the same text.
    let Some(first) = waits.keys().copied().filter(|&tid| reaches(tid, tid)).min() else { return Vec::new() };
    let after = std::iter::successors(next(first), |&tid| next(tid)).take_while(|&tid| tid != first);
    let circle: Vec<(&Thread, u32)> =
        std::iter::once(first).chain(after).filter_map(|tid| waits.get(&tid).copied()).collect();
    let behind = waits.keys().filter(|&&tid| reaches(tid, first) && !reaches(tid, tid)).count() as u64;
    let shortest = circle.iter().map(|(thread, _)| thread.blocked_us).min().unwrap_or_default();
    let longer = if circle.iter().all(|(thread, _)| thread.since_before) { " or longer" } else { "" };
    let names: Vec<String> =
        circle.iter().take(DEADLOCKED).map(|(thread, _)| format!("{} ({})", thread.tid, thread.name)).collect();
    let who = match circle.len() {
        1 => format!("thread {} waits for a lock that it holds itself", names.join("")),
        2 => format!("threads {} each wait for a lock that the other holds", names.join(" and ")),
        many => format!("{many} threads wait in a circle, each for a lock that the next holds: {}", names.join(", ")),
    };
    let also = if behind > 0 { format!("; {} more wait behind them", behind) } else { String::new() };
    let evidence = circle.iter().take(DEADLOCKED).map(|(thread, holder)| {
        let at = blocked_at(seen, thread).map(|place| format!(" in {place}")).unwrap_or_default();
        proc(format!(
            "thread {} ({}) waits{at}, by futex without a limit, for a mutex whose owner is thread {holder}",
            thread.tid, thread.name
        ))
        .with("tid", thread.tid)
        .with("held_by", *holder)
        .with("blocked_us", thread.blocked_us)
    });
    let mut finding = Finding::new(
        Cause::WaitUnlimited,
        Severity::Waiting,
        Confidence::High,
        format!("deadlock: {who}, for {}{longer}{also}; none of them will ever go on", time(shortest)),
    )
    .and(evidence)
    .rejected(Cause::TaskBacklog, "a crowd before a lock drains when its holder goes on; these hold it for each other")
    .fix(
        "Restart it: nothing else frees these threads. To mend it, take these locks in the same order everywhere, or hold \
         one at a time.",
    )
    .share(ShareOf::StalledTime, share((circle.len() as u64).saturating_add(behind), threads.last));
    (finding.advisory, finding.proven) = (false, true);
    vec![finding]
}

/// Threads of a circle that are named.
const DEADLOCKED: usize = 4;

fn blocked_evidence(thread: &Thread, call: &BlockedIn, many: usize) -> Evidence {
    proc(format!(
        "{} without a limit, {} switches of the thread in the window{}",
        call.call,
        thread.voluntary_switches,
        if many > 1 { format!("; {many} threads like it") } else { String::new() }
    ))
    .with("blocked_us", thread.blocked_us)
    .with("threads", many as u64)
}

/// A read or a connect on a connection, a poll on one, without limit. Waiting for work (accept, a pipe, a queue) is no
/// wait for a peer.
fn is_unlimited(seen: &Observation, blocked: &BlockedIn) -> bool {
    const WAITS: [&str; 10] =
        ["read", "recvfrom", "recvmsg", "readv", "connect", "write", "sendto", "sendmsg", "poll", "ppoll"];
    if !WAITS.contains(&blocked.call.as_str()) || matches!(blocked.timeout_us, Some(Some(_))) {
        return false;
    }
    let Some(cookie) = blocked.cookie else { return false };
    let socket = seen.sockets.as_ref().and_then(|all| all.tcp.iter().find(|socket| socket.cookie == cookie));
    socket.is_some_and(|socket| !socket.inbound && socket.timer.kind == crate::observation::TimerKind::Off)
}
