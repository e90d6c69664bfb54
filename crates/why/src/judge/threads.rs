//! Threads that sit where they should not.

use std::collections::HashSet;

use overdue_core::{
    Cause, Confidence, Evidence,
    facts::{TcpInfo, TcpState},
};

use super::{
    Finding, Severity, ShareOf, bpf, count,
    deadlock::hears,
    diag, place, proc, share,
    sockets::peer_of,
    thresholds::{ALWAYS, BUSY, CROWD, LOOP_AWAY_US, LOOP_BEAT_US, LOOP_BLOCKED, LOOP_TURN_US, SETTLED_US},
    time, total,
};
use crate::{
    Observation,
    observation::{BlockedIn, PollCall, PollLoop, Runtime, TcpSocket, Thread, ThreadState, Threads, TimerKind},
};

/// Threads that sleep where an ordinary signal does not reach them.
pub(super) fn io_stuck(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    let waits: Vec<&Thread> = threads
        .threads
        .iter()
        .filter(|thread| {
            thread.state == ThreadState::Uninterruptible
                && thread.looks >= 3
                && f64::from(thread.looks_in_state) >= ALWAYS * f64::from(thread.looks)
                && !is_frozen(thread)
        })
        .collect();
    // Who was given a processor in between goes on, however slowly.
    let (stuck, slow): (Vec<&Thread>, Vec<&Thread>) =
        waits.into_iter().partition(|thread| thread.blocked_us >= SETTLED_US);
    let goes_on = stuck.is_empty();
    let all = if goes_on { slow } else { stuck };
    let Some(first) = all.iter().max_by_key(|thread| thread.blocked_us) else { return Vec::new() };
    let vfork = !goes_on && waits_for_vfork(first);
    let at = first.wchan.as_ref().map(|wchan| format!(" in the kernel's {wchan}")).unwrap_or_default();
    let call = first.blocked_in.as_ref().map(|blocked| format!(", called by {}", blocked.call)).unwrap_or_default();
    let stack = first.stack.as_ref().and_then(place).map(|place| format!(", from {place}")).unwrap_or_default();
    let who = if all.len() == 1 { "a thread is".to_owned() } else { format!("{} threads are", all.len()) };
    let sleeps = format!("{who} in uninterruptible sleep (D){at}{call}{stack}");
    let each_us = seen.window_us / first.voluntary_switches.max(1);
    let summary = if goes_on {
        format!("{sleeps} nearly all the time, and goes on: {} for each wait", time(each_us))
    } else if vfork {
        format!(
            "{sleeps}, until its child ends or executes a program, and it does neither; only SIGKILL ends this before"
        )
    } else {
        format!(
            "{sleeps}, for {} without a switch; no signal ends that, but for SIGKILL in some waits",
            time(first.blocked_us)
        )
    };
    let mut finding = Finding::new(
        Cause::IoStuck,
        Severity::Waiting,
        if goes_on { Confidence::Medium } else { Confidence::High },
        summary,
    )
    .because(
        proc(format!(
            "thread {} ({}): state D in {} of {} looks, {} switches in the window{}",
            first.tid,
            first.name,
            first.looks_in_state,
            first.looks,
            first.voluntary_switches,
            first.wchan.as_ref().map(|wchan| format!(", wchan {wchan}")).unwrap_or_default()
        ))
        .with("threads", all.len() as u64)
        .with("blocked_us", first.blocked_us)
        .with("switches", first.voluntary_switches),
    )
    .rejected(Cause::WaitUnlimited, "a wait for the network can be interrupted (state S); this one cannot")
    .share(ShareOf::StalledTime, share(all.len() as u64, threads.last));
    if goes_on {
        finding = finding.fix(
            "Look at the disk or file server, if it is slower than it should be: `iostat -x 1`, /proc/pressure/io.",
        );
    }
    if vfork {
        let children: Vec<String> = seen.process.children.iter().take(4).map(u32::to_string).collect();
        let child = if children.is_empty() { "PID".to_owned() } else { children.join(" or ") };
        finding = finding.fix(format!(
            "Look at the child, which should have executed a program or ended: `overdue why --pid {child}`. Between vfork \
             and exec nothing may wait."
        ));
    }
    finding.advisory = goes_on;
    vec![finding]
}

/// Whether it waits for a child that uses its memory (`vfork`, `posix_spawn`).
fn waits_for_vfork(thread: &Thread) -> bool {
    let call = thread.blocked_in.as_ref().map(|blocked| blocked.call.as_str());
    let wchan = thread.wchan.as_deref();
    matches!(call, Some("vfork" | "clone" | "clone3")) || matches!(wchan, Some("kernel_clone" | "wait_for_vfork_done"))
}

/// Whether its control group is frozen (version 1 and 2), as that of a paused container is.
fn is_frozen(thread: &Thread) -> bool {
    matches!(thread.wchan.as_deref(), Some("__refrigerator" | "do_freezer_trap"))
}

/// Its control group gives it no processor at all.
pub(super) fn frozen(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    let rests = |thread: &Thread| is_frozen(thread) && thread.blocked_us >= SETTLED_US;
    let Some(first) = threads.threads.first().filter(|_| threads.threads.iter().all(rests)) else { return Vec::new() };
    let waited_for = others_wait(seen);
    let mut finding = Finding::new(
        Cause::CpuThrottled,
        Severity::Waiting,
        Confidence::High,
        format!(
            "its control group is frozen: none of its threads may run until somebody thaws it, for {}{}{}",
            time(first.blocked_us),
            if first.since_before { " or longer" } else { "" },
            if waited_for { ", while others wait for it" } else { "" }
        ),
    )
    .because(
        proc(format!("all of {} in the freezer of the kernel", count(threads.threads.len() as u64, "thread")))
            .with("threads", threads.threads.len() as u64)
            .with("blocked_us", first.blocked_us),
    )
    .rejected(Cause::IoStuck, "no device holds it: it goes on at once when it is thawed")
    .fix(
        "Thaw it, if it should run: `docker unpause`, `systemctl thaw`, or write 0 to cgroup.freeze (version 1: THAWED to \
         freezer.state) of its group, see /proc/PID/cgroup.",
    )
    .share(ShareOf::StalledTime, 1.0);
    // It may be paused for good reason.
    finding.advisory = !waited_for;
    vec![finding]
}

/// A thread that should poll sits in a call that blocks, or computes for long at a time.
pub(super) fn runtime_blocked(seen: &Observation) -> Vec<Finding> {
    let loops = Loops::of(seen);
    let sits = sits(seen, &loops);
    if sits.as_ref().is_some_and(|finding| !finding.advisory) {
        return sits.into_iter().collect();
    }
    waits_for_a_child(seen).or_else(|| computes(seen, &loops)).or(sits).into_iter().collect()
}

fn sits(seen: &Observation, loops: &Loops<'_>) -> Option<Finding> {
    let threads = seen.threads.as_ref().filter(|_| !seen.process.only_waits_for_children)?;
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
        .filter(|(thread, call, looks)| {
            seen.process.runtime != Runtime::Native || stays_away(seen, thread, call, *looks)
        })
        .collect();
    blocked.sort_by_key(|(thread, _, looks)| std::cmp::Reverse((loops.surely(thread), *looks, thread.blocked_us)));
    let &(thread, call, looks) = blocked.first()?;
    let waited_for = others_wait(seen);
    let sure = waited_for && loops.surely(thread);
    let now = thread.blocked_in.as_ref().filter(|blocked| blocked.call == call);
    let what = now.and_then(|blocked| blocked.what.as_ref()).map(|what| format!(" on {what}")).unwrap_or_default();
    // The stack is that of the last look, which found it in another call perhaps.
    let at = now.and_then(|_| blocked_at(seen, thread)).or_else(|| seldom_at(seen, thread));
    let at = at.map(|place| format!(", from {place}")).unwrap_or_default();
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
        } else if !waited_for || seen.process.runtime == Runtime::Native {
            format!("an event loop may not turn: {sits}; that anything else of it waits meanwhile was not seen")
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
    finding.peer = now.and_then(|blocked| called(seen, blocked));
    Some(finding)
}

/// The peers of calls in which event loops sit, while all that they serve waits.
pub(super) fn peers_of_loops(seen: &Observation) -> impl Iterator<Item = String> {
    runtime_blocked(seen).into_iter().filter(|finding| !finding.advisory).filter_map(|finding| finding.peer)
}

/// The peer on whose connection, opened from here, a call waits.
fn called(seen: &Observation, blocked: &BlockedIn) -> Option<String> {
    let mut sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let socket = sockets.find(|socket| Some(socket.cookie) == blocked.cookie && !socket.inbound)?;
    Some(peer_of(socket))
}

/// The loop of Node waits for a child (`execSync`, `spawnSync`): in an epoll set of its own, so it seems to turn.
fn waits_for_a_child(seen: &Observation) -> Option<Finding> {
    let main = seen.process.pid;
    let threads = seen.threads.as_ref().filter(|_| seen.process.runtime == Runtime::Node)?;
    let thread = threads.threads.iter().find(|thread| thread.tid == main)?;
    let now = thread.blocked_in.as_ref().filter(|blocked| blocked.call.starts_with("epoll"))?.fd?;
    let functions = thread.stack.as_ref()?.functions();
    let in_child = functions.into_iter().any(|name| name.contains("SyncProcessRunner"));
    // The loop has one set, always the same.
    let others = thread.epolls.iter().filter(|(fd, _)| (*fd == now) == in_child);
    let looks = total(others.map(|(_, looks)| u64::from(*looks)));
    let part = share(looks, thread.looks.into());
    if looks < 3 || part < LOOP_BLOCKED {
        return None;
    }
    let waited_for = others_wait(seen);
    let meanwhile = if waited_for {
        "everything else of it waits meanwhile"
    } else {
        "that anything else of it waits was not seen"
    };
    let mut finding = Finding::new(
        Cause::RuntimeBlocked,
        Severity::Waiting,
        if waited_for { Confidence::High } else { Confidence::Medium },
        format!(
            "the event loop does not turn: thread {main} ({}) waits for a child by execSync or spawnSync for {:.0} % of the \
             time; {meanwhile}",
            thread.name,
            part * 100.0
        ),
    )
    .because(
        proc(format!(
            "thread {main}: in an epoll set that is not the loop's at {looks} of {} looks{}",
            thread.looks,
            if in_child { ", from SyncProcessRunner" } else { "" }
        ))
        .with("looks_in_call", looks)
        .with("looks", thread.looks),
    )
    .rejected(Cause::CpuBusy, format!("the thread used only {} of processor time", time(thread.cpu_us)))
    .fix("Use the form that does not wait: `execFile` or `spawn` with a callback or a promise, not `execSync`.")
    .share(ShareOf::StalledTime, part);
    finding.advisory = !waited_for;
    Some(finding)
}

/// The one thread that turns a loop computes for long at a time, while callers wait for it.
fn computes(seen: &Observation, loops: &Loops<'_>) -> Option<Finding> {
    let (cpu, sockets) = (seen.cpu.as_ref()?, seen.sockets.as_ref()?);
    let thread = loops.only_one()?;
    let wanted_us = thread.cpu_us.saturating_add(thread.runqueue_us.unwrap_or_default());
    let part = share(wanted_us, seen.window_us);
    // Who polls often, and computes in slices between, hears of its callers in time. A loop that is not let run polls
    // rarely, too, but uses little between.
    let polling = seen.polling.as_ref()?;
    let polls = total(polling.loops.iter().filter(|poll| poll.tid == thread.tid).map(|poll| poll.returns));
    let turns = polls.saturating_mul(seen.window_us).checked_div(polling.looked_us)?.saturating_add(1);
    let turn_us = thread.cpu_us / turns;
    let clients = || sockets.tcp.iter().filter(|socket| socket.inbound);
    // It may compute for long now and then, and turn often in between: then most of those who asked were left for as long.
    // Who does not take answers is not read for a while, and neither is a body that goes nowhere.
    let unread = |it: &&TcpSocket| it.unread_longest_us.max(it.unread_for_us) >= SETTLED_US && it.unsent_bytes == 0;
    let unread: Vec<&TcpSocket> = clients().filter(unread).collect();
    let is_felt = wanted_us >= SETTLED_US && part >= LOOP_BLOCKED && serves_several(seen);
    let received = |tcp: Option<TcpInfo>| tcp.and_then(|tcp| tcp.bytes_received);
    let asked = clients().filter(|it| it.unread_bytes > 0 || received(it.first) < received(it.last)).count();
    let is_late = turn_us >= LOOP_TURN_US || unread.len() as u64 >= CROWD && unread.len() * 2 >= asked;
    if !is_felt || !is_late || super::processor::is_throttled(seen) {
        return None;
    }
    let asked_us = |socket: &&TcpSocket| socket.last.map_or(0, |tcp| u64::from(tcp.last_data_recv_ms) * 1_000);
    // Requests that were read, all at once, and are worked on one after the other.
    let owed: Vec<&TcpSocket> = clients().filter(|it| super::calls::owes_an_answer(it)).collect();
    // Node has no thread but this one that answers: where it never left its code, a single caller tells as much.
    let never_left = seen.process.runtime == Runtime::Node && polls == 0 && !loops.poll.contains(&thread.tid);
    let since_before = |it: &&TcpSocket| asked_us(it) >= seen.window_us;
    let tells = owed.len() as u64 >= CROWD || never_left && owed.iter().any(since_before);
    let owed = if tells && part >= BUSY { owed } else { Vec::new() };
    let queues: Vec<_> =
        sockets.listeners.iter().filter(|it| it.queued_last > 0 && it.waiting_us >= SETTLED_US).collect();
    let unread_us = unread.iter().map(|socket| socket.unread_longest_us.max(socket.unread_for_us)).max();
    let queued_us = queues.iter().map(|listener| listener.waiting_us).max();
    let longest_us = unread_us.max(queued_us).max(owed.iter().map(asked_us).max())?;
    let queued = total(queues.iter().map(|listener| u64::from(listener.queued_last)));
    let hot = super::processor::hot_place(cpu);
    let at = hot.map(|(place, part)| format!(", {:.0} % of it in {place}", part * 100.0)).unwrap_or_default();
    let finding = Finding::new(
        Cause::RuntimeBlocked,
        Severity::Waiting,
        Confidence::High,
        format!(
            "the event loop does not turn: thread {} ({}) computes for long at a time{at}; everything else of it waits \
             meanwhile, the longest for {}",
            thread.tid,
            thread.name,
            time(longest_us)
        ),
    )
    .because(
        proc(format!(
            "thread {}: {} of processor time, {} ready for it, in {}",
            thread.tid,
            time(thread.cpu_us),
            time(thread.runqueue_us.unwrap_or_default()),
            time(seen.window_us)
        ))
        .with("cpu_us", thread.cpu_us)
        .with("runqueue_us", thread.runqueue_us.unwrap_or_default()),
    )
    .because(
        bpf(format!("it polled {polls} times in the {} that were looked at", time(polling.looked_us)))
            .with("polls", polls)
            .with("looked_us", polling.looked_us),
    )
    .because(
        diag(format!(
            "clients for {} or more: {} with a request that nobody read, {} whose request was read and not answered, \
             {queued} to be accepted",
            time(SETTLED_US),
            unread.len(),
            owed.len()
        ))
        .with("unread", unread.len() as u64)
        .with("unanswered", owed.len() as u64)
        .with("queued", queued),
    )
    .rejected(Cause::CpuBusy, "it is busy, and those who wait are the trouble: a single thread reads for all of them")
    .fix(
        "Run it on a thread or a process of its own (worker_threads, a process pool, spawn_blocking), or split it, so that \
         the loop turns in between.",
    )
    .share(ShareOf::StalledTime, part);
    Some(finding)
}

/// Whether a native program, which may poll for one client alone and work for it otherwise (a backend of PostgreSQL that
/// reads from a disk), stays away from its loop for long at a time, and has more than that one connection.
fn stays_away(seen: &Observation, thread: &Thread, call: &str, looks: u32) -> bool {
    let away_us = share(looks.into(), thread.looks.into()) * seen.window_us as f64;
    let stay_us = away_us / thread.voluntary_switches.max(1) as f64;
    // Whoever works in beats of its own, as a game does, sleeps for the rest of each.
    let beats = if call.ends_with("nanosleep") { LOOP_BEAT_US } else { LOOP_AWAY_US };
    stay_us >= beats && serves_several(seen)
}

/// Whether it may have more than one client: no backend of a database, which works for its own.
fn serves_several(seen: &Observation) -> bool {
    let held = |socket: &&TcpSocket| socket.fd.is_some() && socket.state == TcpState::Established;
    let connections = seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(held).count();
    let listens = seen.sockets.iter().any(|sockets| !sockets.listeners.is_empty());
    connections > 1 || listens
}

/// Whether something came that nobody has read, or accepted.
fn others_wait(seen: &Observation) -> bool {
    let Some(sockets) = &seen.sockets else { return false };
    // That the peer of an idle connection of ours has closed holds up nobody.
    let unread = |it: &TcpSocket| it.fd.is_some() && (it.unread_bytes > 0 || it.inbound && it.fin_unread);
    // A client that is served in turns has its request read now and then.
    let looks: Vec<bool> = seen
        .history
        .iter()
        .flat_map(|history| &history.looks)
        .filter_map(|look| Some(look.tcp.as_ref()?.unread_bytes > 0))
        .collect();
    let often = share(looks.iter().filter(|unread| **unread).count() as u64, looks.len() as u64) >= LOOP_BLOCKED;
    let serves = sockets.tcp.iter().any(|socket| socket.inbound) || !sockets.listeners.is_empty();
    sockets.tcp.iter().any(unread) || sockets.listeners.iter().any(|it| it.queued_max > 0) || serves && often
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
            Runtime::Native => self.turn.contains(&thread.tid) || self.is_single() && self.poll.contains(&thread.tid),
            // Its other pollers are loops of their own, or handle a request while the next one polls.
            Runtime::Java => self.poll.contains(&thread.tid) && self.left_clients(thread),
            Runtime::Go { .. } => false,
        }
    }

    /// Whether one that may be a loop is one for certain.
    fn surely(&self, thread: &Thread) -> bool {
        match self.seen.process.runtime {
            Runtime::Python => {
                let another = self.poll.iter().any(|tid| *tid != thread.tid);
                self.is_single() || self.poll.contains(&thread.tid) && !another
            }
            Runtime::Tokio => self.poll.contains(&thread.tid) || TokioThread::of(thread).is_some(),
            Runtime::Native => self.is_single() || self.serves_many(thread),
            _ => true,
        }
    }

    /// The thread that turns the only loop, where there is but one: it computes more than all others together.
    fn only_one(&self) -> Option<&'a Thread> {
        let threads = self.seen.threads.as_ref().filter(|threads| threads.left_out == 0)?;
        let thread = threads.threads.iter().max_by_key(|thread| thread.cpu_us)?;
        let others = total(threads.threads.iter().map(|thread| thread.cpu_us)).saturating_sub(thread.cpu_us);
        let is_loop = match self.seen.process.runtime {
            // Other threads of it have loops for themselves.
            Runtime::Node => thread.tid == self.seen.process.pid,
            Runtime::Python | Runtime::Native => self.has_epoll() && self.poll.iter().all(|tid| *tid == thread.tid),
            Runtime::Tokio | Runtime::Go { .. } | Runtime::Java => false,
        };
        (is_loop && thread.cpu_us > others).then_some(thread)
    }

    /// Whether there is no other thread.
    fn is_single(&self) -> bool {
        self.seen.threads.as_ref().is_some_and(|threads| threads.last <= 1)
    }

    /// Whether its polls told of several descriptors, and not of its one client alone.
    fn serves_many(&self, thread: &Thread) -> bool {
        self.ready(thread).len() > 1
    }

    /// Whether clients of whom its polls told have lain unread for long.
    fn left_clients(&self, thread: &Thread) -> bool {
        let sockets = self.seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
        let unread = |it: &&TcpSocket| it.inbound && it.unread_bytes > 0 && it.unread_for_us >= SETTLED_US;
        let ready = self.ready(thread);
        sockets.filter(unread).filter(|socket| socket.fd.is_some_and(|fd| ready.contains(&fd))).count() > 1
    }

    /// The descriptors that its polls told of.
    fn ready(&self, thread: &Thread) -> HashSet<u32> {
        let polls = self.seen.polling.iter().flat_map(|polling| &polling.loops);
        let ready = polls.filter(|poll| poll.tid == thread.tid).flat_map(|poll| &poll.ready);
        ready.filter_map(|ready| ready.fd).collect()
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

/// Where a thread sits: by its own stack, else by the stacks in which threads of its name waited longest.
pub(super) fn blocked_at(seen: &Observation, thread: &Thread) -> Option<String> {
    let waits = seen.threads.as_ref()?.waits.as_ref();
    let longest =
        waits.into_iter().flatten().filter(|wait| wait.thread == thread.name).max_by_key(|wait| wait.waited_us);
    thread.stack.as_ref().and_then(place).or_else(|| place(&longest?.stack))
}

/// Where it waited longest otherwise than for events.
fn seldom_at(seen: &Observation, thread: &Thread) -> Option<String> {
    let polls = |name: &str| ["poll", "select", "io_uring"].iter().any(|word| name.contains(word));
    let waits = seen.threads.as_ref()?.waits.as_ref()?.iter();
    let elsewhere = waits.filter(|wait| wait.thread == thread.name && !wait.stack.functions().any(polls));
    place(&elsewhere.max_by_key(|wait| wait.waited_us)?.stack)
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

/// A wait that nothing will ever end.
pub(super) fn wait_unlimited(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    if matches!(seen.process.runtime, Runtime::Go { .. }) {
        return Vec::new();
    }
    let callers = super::calls::callers(seen).len();
    let called = callers > 0 || nobody_accepts(seen);
    let stuck: Vec<(&Thread, &BlockedIn, Ends)> = threads
        .threads
        .iter()
        .filter(|thread| thread.blocked_us >= SETTLED_US && thread.blocked_us >= seen.window_us / 10 * 9)
        .filter_map(|thread| {
            let blocked = thread.blocked_in.as_ref()?;
            Some((thread, blocked, ends(seen, blocked)?))
        })
        // Whoever keeps a connection alive has thought of it. It is not enough for those who wait behind it.
        .filter(|(.., ends)| *ends == Ends::Never || called)
        .collect();
    // A connection of TCP first: of others less is known.
    let Some((thread, call, ends)) = stuck.iter().find(|(_, call, _)| call.cookie.is_some()).or(stuck.first()) else {
        return Vec::new();
    };
    // A wait for news is what a subscriber is for. It is more than a remark where callers wait meanwhile for what it
    // waits for; of what is no connection, where there is no other thread, or a crowd of callers and a thread for each.
    let crowd = callers as u64 >= CROWD && (stuck.len() >= callers || is_all_of_a_pool(threads, &stuck));
    let sure = match call.cookie {
        Some(cookie) => super::calls::is_for_callers(seen, cookie) || threads.last == 1 && nobody_accepts(seen),
        None => called && threads.last == 1,
    };
    let all = sure || crowd && call.cookie.is_none();
    let ended = match ends {
        Ends::Never => "and no timer of the kernel will ever end it",
        Ends::WithTheHost => {
            "and its keepalive ends that only when the peer's host is gone, not while the peer is silent"
        }
    };
    let pipe = pipe(call);
    let what = pipe.clone().or(call.what.clone()).map(|what| format!(" on {what}")).unwrap_or_default();
    let at = thread.stack.as_ref().and_then(place).map(|place| format!(", from {place}")).unwrap_or_default();
    let holder = call.peer_pid.map(|pid| format!(" (held by process {pid})")).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::WaitUnlimited,
        Severity::Waiting,
        if sure { Confidence::High } else { Confidence::Medium },
        format!(
            "thread {} ({}) waits in {}{what}{holder}{at} for {}{}, {ended}{}",
            thread.tid,
            thread.name,
            call.call,
            time(thread.blocked_us),
            if thread.since_before { " or longer" } else { "" },
            if nobody_accepts(seen) { "; connections wait to be accepted meanwhile" } else { "" },
        ),
    )
    .because(blocked_evidence(thread, call, stuck.len()))
    .rejected(Cause::IoStuck, "the sleep can be interrupted: it is no device that holds it")
    .share(ShareOf::StalledTime, share(stuck.len() as u64, threads.last));
    if pipe.is_some() {
        finding = finding.fix(
            "Whoever reads that pipe takes nothing: look at him (a logger, a pager, the log driver of a container; \
             `lsof -p PID +E` names the other end). In the program: write logs on a thread of their own, from a bounded queue \
             that drops what finds no room.",
        );
    }
    finding.advisory = !all;
    vec![finding]
}

/// The pipe into which it writes.
fn pipe(call: &BlockedIn) -> Option<String> {
    let is_pipe = call.what.as_deref() == Some("pipe") && call.call.starts_with("write");
    is_pipe.then(|| match call.fd {
        Some(1) => "its standard output, a pipe".to_owned(),
        Some(2) => "its standard error, a pipe".to_owned(),
        Some(fd) => format!("a pipe (descriptor {fd})"),
        None => "a pipe".to_owned(),
    })
}

/// Whether all threads but those that listen for work sit there.
fn is_all_of_a_pool(threads: &Threads, stuck: &[(&Thread, &BlockedIn, Ends)]) -> bool {
    let sits = |thread: &Thread| stuck.iter().any(|(it, ..)| it.tid == thread.tid);
    let hears = |thread: &Thread| thread.blocked_in.as_ref().is_some_and(|blocked| hears(&blocked.call));
    threads.left_out == 0 && stuck.len() > 1 && threads.threads.iter().all(|thread| sits(thread) || hears(thread))
}

/// Whether connections have waited for long to be accepted.
fn nobody_accepts(seen: &Observation) -> bool {
    let mut listeners = seen.sockets.iter().flat_map(|sockets| &sockets.listeners);
    listeners.any(|listener| listener.queued_last > 0 && listener.waiting_us >= SETTLED_US)
}

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

/// What ends a wait for a peer that says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Never,
    /// The keepalive, which the peer's kernel answers as long as there is one.
    WithTheHost,
}

/// A read or a connect on a connection, a poll on one, without limit; a write that nobody takes. Waiting for work (accept,
/// a read from a pipe, a queue, a unix socket without a server's name, a UDP socket without a peer) is no wait for a peer.
fn ends(seen: &Observation, blocked: &BlockedIn) -> Option<Ends> {
    const WAITS: [&str; 9] = ["read", "recvfrom", "recvmsg", "readv", "connect", "write", "sendto", "sendmsg", "poll"];
    if !WAITS.contains(&blocked.call.as_str()) || matches!(blocked.timeout_us, Some(Some(_))) {
        return None;
    }
    let Some(cookie) = blocked.cookie else {
        let writes = ["write", "sendto", "sendmsg"].contains(&blocked.call.as_str());
        let waits = blocked.what.as_deref().is_some_and(|what| {
            what.starts_with("unix ") || what.starts_with("udp ") || writes && ["pipe", "unix"].contains(&what)
        });
        return waits.then_some(Ends::Never);
    };
    let socket = seen.sockets.as_ref().and_then(|all| all.tcp.iter().find(|socket| socket.cookie == cookie));
    // Of a client a server waits for the next request; but not while others wait to be accepted.
    match socket.filter(|socket| !socket.inbound || nobody_accepts(seen))?.timer.kind {
        TimerKind::Off => Some(Ends::Never),
        TimerKind::Keepalive => Some(Ends::WithTheHost),
        TimerKind::Retransmit | TimerKind::TimeWait | TimerKind::ZeroWindowProbe => None,
    }
}
