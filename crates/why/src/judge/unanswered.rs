//! Callers who wait while nothing tells why: `unknown`, with who waits and where the threads are.
//!
//! That a client had the last word says little: on a websocket it often has, and a long poll waits because it is meant
//! to. What says that a caller is held up: its request lies unread; it waits to be accepted and nobody accepts; or its
//! request was read, nobody listens to the connection any more, and threads sit where only another thread of the program
//! can free them, without a limit. Whoever waits for news listens, or has a limit. And where all of them were answered at
//! once before, and nobody is any more, nothing need be known of the threads ([`Silence`]).

use std::collections::HashSet;

use overdue_core::{Cause, Confidence, Evidence, Source, facts::TcpState};

use super::{
    Finding, Severity, Stall,
    calls::{may_wait, owes_an_answer},
    count, diag, place,
    pools::SERVES,
    proc, share,
    silence::Silence,
    sockets::is_there,
    thresholds::{ALWAYS, CROWD, MOST, SETTLED_US},
    time, total,
};
use crate::{
    Observation,
    observation::{BlockedIn, Connection, GoroutineGroup, Listener, Process, Runtime, TcpSocket, Thread, ThreadState},
};

/// Requests, places and listeners that are named.
const NAMED: usize = 3;
/// As many members of one epoll set are read.
pub(super) const MEMBERS: usize = 64;

/// What no other rule explains. `advisories`: what the others remarked.
pub(super) fn rule(seen: &Observation, advisories: &[Finding]) -> Option<Finding> {
    // Who computes, or is not let run, is late for that; and who has children compute.
    let explains = |finding: &Finding| matches!(finding.verdict.cause, Cause::CpuBusy | Cause::CpuThrottled);
    let process = &seen.process;
    let runs = process.ended_at_us.is_none() && !process.only_waits_for_children && !process.stopped;
    let children_us = total(process.busiest_children.iter().map(|child| child.cpu_us));
    let computes = advisories.iter().any(explains) || share(children_us, seen.window_us) >= MOST.0;
    if !runs || computes {
        return None;
    }
    let waits = Waits::of(seen);
    let longest_us = waits.longest_us()?;
    let who = waits.who();
    let places = places(seen, &waits);
    let at = places.first().map(|it| format!(", while {}", it.text)).unwrap_or_default();
    let used_us = seen.cpu.as_ref().map(crate::observation::Cpu::used_us);
    let used = used_us.map_or_else(
        || "nothing shows that it computes".to_owned(),
        |us| format!("it used {} of processor time in {}", time(us), time(seen.window_us)),
    );
    let before = waits.earlier_us.map_or_else(String::new, |us| {
        format!("; all of them were answered before, within {} each time, and nobody was since", time(us))
    });
    let meant = match waits.earlier_us {
        Some(_) => " If its callers ask for jobs or news, and there are none any more, it is well.",
        None => "",
    };
    let mut finding = Finding::new(
        Cause::Unknown,
        Severity::Waiting,
        Confidence::Low,
        format!("{who}, the longest for {}{before}{at}; nothing that was seen tells why", time(longest_us)),
    )
    .and(waits.evidence(seen))
    .and(places)
    .rejected(Cause::CpuBusy, used)
    .fix(format!(
        "Look at what its threads wait for, and who should wake them: `overdue flame --pid {pid} --wait`, or all stacks by {}.{meant}",
        all_stacks(process),
        pid = process.pid,
    ));
    if waits.locked && !waits_to_be_told(seen, most_us(seen)) {
        finding = finding.rejected(Cause::WaitUnlimited, "no circle of locks was seen that their holders wait for");
    }
    finding.verdict.stage = STAGE;
    Some(finding)
}

/// What shows where everything waits, in the words of its runtime.
pub(super) fn all_stacks(process: &Process) -> String {
    let pid = process.pid;
    match process.runtime {
        Runtime::Go { .. } => "its /debug/pprof/goroutine?debug=2, or SIGQUIT, which ends it".to_owned(),
        Runtime::Python => {
            format!("`py-spy dump --pid {pid}`, of asyncio's tasks by `python3 -m asyncio pstree {pid}` (3.14 on)")
        }
        Runtime::Java => format!("`jcmd {pid} Thread.print`"),
        Runtime::Node => format!("its inspector (`kill -USR1 {pid}`, then chrome://inspect)"),
        Runtime::Tokio | Runtime::Native => {
            format!("`gdb -p {pid} -batch -ex 'thread apply all bt'`, which stops it for a moment")
        }
    }
}

/// Whether callers are answered no more, for so short a time that it may still be chance.
pub(super) fn has_just_fallen_silent(seen: &Observation) -> bool {
    Silence::of(seen, SETTLED_US).is_some() && Silence::of(seen, MOST.1).is_none()
}

/// It does not run at all, and somebody waits for it.
pub(super) fn stopped(seen: &Observation) -> Option<Finding> {
    let waits = seen.process.stopped.then(|| Waits::of(seen))?;
    let longest_us = waits.longest_us()?;
    let finding = Finding::new(
        Cause::LocalStall,
        Severity::Waiting,
        Confidence::High,
        format!(
            "it is stopped, by a signal or a debugger, and nothing of it runs: {}, the longest for {}",
            waits.who(),
            time(longest_us)
        ),
    )
    .because(proc("all of its threads were stopped in the end (state T)"))
    .and(waits.evidence(seen))
    .rejected(Cause::CpuBusy, "who is stopped computes nothing")
    .fix(
        "Continue it: `kill -CONT PID`. If it stops again, look for who stops it: a shell's job control, a debugger, a \
         supervisor.",
    )
    .share(super::ShareOf::StalledTime, 1.0);
    Some(finding)
}

/// What follows where nothing runs.
pub(super) const HELD_UP: [Cause; 4] =
    [Cause::LocalStall, Cause::ReaderSlow, Cause::AcceptQueueOverflow, Cause::CloseWaitPileup];

/// Connections on which callers wait, where [`rule`] told of them as of `cause`.
pub(super) fn stalls(seen: &Observation, cause: Cause) -> Vec<Stall> {
    let waits = Waits::of(seen);
    let unread = waits.unread.iter().map(|socket| (socket, socket.unread_for_us));
    let all = unread.chain(waits.unanswered.iter().map(|socket| (socket, asked_us(socket))));
    let stall = |(socket, stalled_us): (&&TcpSocket, u64)| Stall {
        cookie: socket.cookie,
        cause,
        stage: if cause == Cause::Unknown { STAGE } else { cause.entry().stages.first().copied().unwrap_or(STAGE) },
        stalled_us,
    };
    all.map(stall).collect()
}

/// Own code, for all that is known.
const STAGE: &str = "handle";

fn waiting(number: u64, what: &str) -> String {
    format!("{} wait{}", count(number, what), if number == 1 { "s" } else { "" })
}

/// From this on a wait is most of the watch.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a whole number")]
pub(super) fn most_us(seen: &Observation) -> u64 {
    ((seen.window_us as f64 * MOST.0) as u64).max(MOST.1)
}

/// Who waits.
#[derive(Default)]
struct Waits<'a> {
    /// Requests that nobody has read.
    unread: Vec<&'a TcpSocket>,
    /// Requests that were read, on connections that nobody listens to.
    unanswered: Vec<&'a TcpSocket>,
    /// Listeners from which nobody accepts.
    queues: Vec<&'a Listener>,
    /// Connections to others whose answers nobody reads, where nothing runs.
    answers: Vec<&'a TcpSocket>,
    /// Whether threads were found that wait for a lock.
    locked: bool,
    /// Whether its runtime listens to all connections, always; or whether that does not matter.
    anyhow: bool,
    /// Where all callers were answered before, within so long, and none is any more.
    earlier_us: Option<u64>,
}

impl<'a> Waits<'a> {
    fn of(seen: &'a Observation) -> Self {
        let Some(sockets) = &seen.sockets else { return Self::default() };
        let silence = Silence::of(seen, MOST.1);
        let earlier_us = silence.as_ref().map(|silence| silence.earlier_us);
        let most_us = if earlier_us.is_some() { MOST.1 } else { most_us(seen) };
        let is_there = |it: &TcpSocket| it.fd.is_some() && is_there(seen, it);
        let clients = || sockets.tcp.iter().filter(|socket| socket.inbound && is_there(socket));
        let alive = |socket: &&TcpSocket| matches!(socket.state, TcpState::Established | TcpState::CloseWait);
        let lies_unread = |socket: &&TcpSocket| socket.unread_bytes > 0 && socket.unread_for_us >= most_us;
        let unread = clients().filter(alive).filter(lies_unread).filter(|socket| {
            // Who is being answered may ask for more before the answer ends.
            socket.last.is_none_or(|tcp| u64::from(tcp.last_data_sent_ms) * 1_000 >= most_us)
        });
        let unread: Vec<&TcpSocket> = unread.collect();
        let own = |socket: &&TcpSocket| seen.process.stopped && !socket.inbound && socket.fd.is_some();
        let answers = sockets.tcp.iter().filter(own).filter(lies_unread).collect();
        let owed = clients().filter(|socket| {
            owes_an_answer(socket)
                && asked_us(socket) >= most_us
                && socket.unread_bytes == 0
                && !connection(seen, socket).is_some_and(may_wait)
        });
        let owed: Vec<&TcpSocket> = owed.collect();
        let held = held_up(seen, most_us, owed.len());
        let listened = Listened::of(seen, most_us).filter(|_| held && !owed.is_empty());
        let anyhow = matches!(listened, Some(Listened::Anyhow));
        let unanswered: Vec<&TcpSocket> = match listened {
            // Nobody listens, to anything.
            _ if seen.process.stopped => owed,
            Some(Listened::To(cookies)) => owed.into_iter().filter(|it| !cookies.contains(&it.cookie)).collect(),
            Some(Listened::Anyhow) => owed,
            None => Vec::new(),
        };
        let unanswered = silence.map_or(unanswered, |Silence { callers, .. }| {
            callers.into_iter().filter(|socket| socket.unread_bytes == 0).collect()
        });
        // Where it has workers, they accept.
        let nobody_accepts = seen.process.children.is_empty() && nobody_accepts(seen, most_us);
        let queues = sockets.listeners.iter().filter(|it| it.queued_last > 0 && it.waiting_us >= most_us);
        let queues: Vec<&Listener> = queues.filter(|_| nobody_accepts).collect();
        let locked = held && !(unread.is_empty() && unanswered.is_empty());
        let anyhow = anyhow || earlier_us.is_some();
        Self { unread, unanswered, queues, answers, locked, anyhow, earlier_us }
    }

    fn who(&self) -> String {
        let callers = (self.unread.len() + self.unanswered.len()) as u64;
        let queued: u64 = self.queues.iter().map(|listener| u64::from(listener.queued_last)).sum();
        match (callers, queued) {
            (0, 0) => format!("what came on {} lies unread", count(self.answers.len() as u64, "connection")),
            (0, queued) => format!("{} to be accepted", waiting(queued, "connection")),
            (callers, 0) => format!("{} for an answer", waiting(callers, "caller")),
            (callers, queued) => format!("{} for an answer and {queued} to be accepted", waiting(callers, "caller")),
        }
    }

    fn longest_us(&self) -> Option<u64> {
        let unread = self.unread.iter().chain(&self.answers).map(|socket| socket.unread_for_us);
        let unanswered = self.unanswered.iter().map(|socket| asked_us(socket));
        unread.chain(unanswered).chain(self.queues.iter().map(|listener| listener.waiting_us)).max()
    }

    /// The longest waits of each kind.
    fn evidence(&self, seen: &Observation) -> Vec<Evidence> {
        let mut unread = [&self.unread[..], &self.answers].concat();
        unread.sort_by_key(|socket| std::cmp::Reverse(socket.unread_for_us));
        let unread = unread.iter().take(NAMED).map(|socket| {
            diag(format!(
                "{}: {} of its {} lie unread, for {}",
                socket.remote,
                count(socket.unread_bytes, "byte"),
                if socket.inbound { "caller" } else { "peer" },
                time(socket.unread_for_us)
            ))
            .with("unread_bytes", socket.unread_bytes)
            .with("waited_us", socket.unread_for_us)
        });
        let mut unanswered = self.unanswered.clone();
        unanswered.sort_by_key(|socket| std::cmp::Reverse(asked_us(socket)));
        let unanswered = unanswered.iter().take(NAMED).map(|socket| {
            let request = connection(seen, socket)
                .and_then(|connection| Some(format!(" ({})", connection.http.as_ref()?.request)))
                .unwrap_or_default();
            diag(format!(
                "{}: its caller asked {} ago{request}, that was read, and nothing was answered since{}",
                socket.remote,
                time(asked_us(socket)),
                if self.anyhow { "" } else { "; no thread listens to the connection" },
            ))
            .with("waited_us", asked_us(socket))
        });
        let queues = self.queues.iter().take(NAMED).map(|listener| {
            diag(format!(
                "listener {}: {} to be accepted, for {} there was one and nobody took it",
                listener.local,
                waiting(listener.queued_last.into(), "connection"),
                time(listener.waiting_us)
            ))
            .with("queued", listener.queued_last)
            .with("waited_us", listener.waiting_us)
        });
        unread.chain(unanswered).chain(queues).collect()
    }
}

/// Since when the caller waits.
pub(super) fn asked_us(socket: &TcpSocket) -> u64 {
    socket.last.map_or(0, |tcp| u64::from(tcp.last_data_recv_ms) * 1_000)
}

fn connection<'a>(seen: &'a Observation, socket: &TcpSocket) -> Option<&'a Connection> {
    let mut connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    connections.find(|connection| connection.cookie == socket.cookie)
}

/// Whether nothing was accepted for so long.
fn nobody_accepts(seen: &Observation, most_us: u64) -> bool {
    let none = seen.connections.as_ref().is_some_and(|connections| connections.accepted == 0);
    // A thread that did not run did not accept.
    let rests = |thread: &Thread| thread.blocked_us >= most_us;
    let rest = |threads: &crate::observation::Threads| threads.left_out == 0 && threads.threads.iter().all(rests);
    none || seen.threads.as_ref().is_some_and(rest)
}

/// What the threads of the process wait to hear.
enum Listened {
    /// The cookies of these connections.
    To(HashSet<u64>),
    /// That is all the same: its runtime listens to all of them, always.
    Anyhow,
}

impl Listened {
    /// `None` where that is not known of all threads.
    fn of(seen: &Observation, most_us: u64) -> Option<Self> {
        if matches!(seen.process.runtime, Runtime::Go { .. }) || pool_used_up(seen, most_us) {
            return Some(Self::Anyhow);
        }
        let threads = seen.threads.as_ref().filter(|threads| threads.left_out == 0)?;
        let rings = seen.fds.iter().flat_map(|fds| &fds.by_kind).any(|kind| kind.kind.contains("io_uring"));
        if rings {
            return None;
        }
        let mut cookies = HashSet::new();
        for thread in &threads.threads {
            match &thread.blocked_in {
                Some(blocked) if listens(&blocked.call) => {
                    let is_epoll = blocked.call.starts_with("epoll");
                    if is_epoll && blocked.waits_for.is_empty() || blocked.waits_for.len() >= MEMBERS {
                        return None;
                    }
                    cookies.extend(blocked.cookie);
                    cookies.extend(blocked.waits_for.iter().filter_map(|member| member.cookie));
                }
                // It sits there instead.
                _ if thread.blocked_us >= most_us => {}
                // It computes, perhaps the answer; or goes back to listen in a moment.
                _ if thread.state == ThreadState::Running && share(thread.cpu_us, seen.window_us) > 1.0 - ALWAYS => {
                    return None;
                }
                _ if comes_back(thread) => return None,
                _ => {}
            }
        }
        Some(Self::To(cookies))
    }
}

/// Whether it listens again in a moment. Who reads from one connection, and seldom, has something else to do.
fn comes_back(thread: &Thread) -> bool {
    let reads = |call: &str| call.contains("read") || call.contains("recv");
    let often = |looks: u32| share(looks.into(), thread.looks.into()) >= MOST.0;
    thread.calls.iter().any(|(call, looks)| listens(call) && (!reads(call) || often(*looks)))
}

/// Calls in which a thread hears from connections.
fn listens(call: &str) -> bool {
    ["epoll", "poll", "select", "read", "recv", "io_uring"].iter().any(|word| call.contains(word))
}

/// Whether it waits to hear from connections, old or new.
fn hears(thread: &Thread) -> bool {
    thread.blocked_in.as_ref().is_some_and(|blocked| listens(&blocked.call) || blocked.call.starts_with("accept"))
}

/// Whether threads wait for something in the program itself, or a lock of a file, that nothing but another thread ends;
/// and so many of them that they may be those who should answer the callers.
fn held_up(seen: &Observation, most_us: u64, callers: usize) -> bool {
    if goroutines(seen).next().is_some() || pool_used_up(seen, most_us) || waits_to_be_told(seen, most_us) {
        return true;
    }
    let stuck: Vec<&Thread> = own_threads(seen).filter(|thread| is_stuck(thread, most_us)).collect();
    let idle = stuck.iter().filter(|thread| is_in(thread, &IDLE)).count();
    let locked = stuck.iter().filter(|thread| takes_a_lock(thread)).count();
    // They may work for callers: asleep for a while, or waiting for a child.
    let others = own_threads(seen).filter(|thread| !is_stuck(thread, most_us) && !hears(thread)).count();
    let unlimited = stuck.len() - idle;
    // Who holds the lock may have a caller, too. Who waits for a condition may wait for work, unless a crowd waits and
    // nobody listens to it; all that Java waits for but its monitors is a condition, and its handlers wait for news so.
    let is_java = seen.process.runtime == Runtime::Java;
    locked > 0 && locked * 2 >= callers
        || !is_java && others < callers && (unlimited >= callers || callers as u64 >= CROWD && stuck.len() >= callers)
        || callers == 0 && !stuck.iter().all(|thread| may_idle(thread))
}

/// Whether its one thread waits, without a limit, to be told by somebody else than a connection: so a backend of PostgreSQL
/// waits for another's lock. A child may answer the caller meanwhile.
fn waits_to_be_told(seen: &Observation, most_us: u64) -> bool {
    let Some([thread]) = seen.threads.as_ref().map(|threads| &threads.threads[..]) else { return false };
    let Some(blocked) = &thread.blocked_in else { return false };
    thread.blocked_us >= most_us
        && blocked.timeout_us == Some(None)
        && listens(&blocked.call)
        && !blocked.waits_for.is_empty()
        && blocked.waits_for.iter().all(|member| member.cookie.is_none())
        && seen.process.children.is_empty()
}

/// The threads whose waits are waits of the program's own. Go's runtime hands work to any of its threads, and those
/// that wait have none; Java's virtual machine has threads for itself.
pub(super) fn own_threads(seen: &Observation) -> impl Iterator<Item = &Thread> {
    let is_own = |thread: &&Thread| match seen.process.runtime {
        Runtime::Go { .. } => false,
        Runtime::Java => is_java(thread),
        _ => true,
    };
    seen.threads.iter().flat_map(|threads| &threads.threads).filter(is_own)
}

/// Whether Java's code waits there: a thread of the virtual machine waits for what is its own.
fn is_java(thread: &Thread) -> bool {
    const WAITS: [&str; 3] = ["Unsafe_Park", "ObjectMonitor::", "JVM_Sleep"];
    const OF_THE_MACHINE: [&str; 2] = ["Finalizer", "Common-Cleaner"];
    let by_futex = thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call == "futex");
    !by_futex || is_in(thread, &WAITS) && !OF_THE_MACHINE.contains(&thread.name.as_str())
}

/// Whether the threads on which Node opens, reads and looks up all sit in one call for most of the watch: what is
/// handed to them waits, though the loop turns.
fn pool_used_up(seen: &Observation, most_us: u64) -> bool {
    let works = |thread: &&Thread| thread.stack.iter().flat_map(|stack| stack.functions()).any(|name| name == "worker");
    let mut workers = own_threads(seen).filter(works).peekable();
    let is_node = seen.process.runtime == Runtime::Node && workers.peek().is_some();
    is_node && workers.all(|thread| is_stuck(thread, most_us) && !is_in(thread, &IDLE))
}

/// Functions in which threads without work wait, too.
const IDLE: [&str; 4] = ["cond_wait", "cond_timedwait", "Condvar", "park"];
/// Functions that take a lock: of the GNU C library and musl, of Rust's std, of `parking_lot`, of Python.
pub(super) const LOCKS: [&str; 8] = [
    "mutex_lock",
    "rwlock_",
    "lll_lock",
    "lock_contended",
    "lock_slow",
    "read_contended",
    "write_contended",
    "rlock_acquire",
];
/// Functions that take a lock of Java (`synchronized`), by a condition.
const MONITORS: [&str; 2] = ["ObjectMonitor::EnterI", "ObjectMonitor::enter"];

fn takes_a_lock(thread: &Thread) -> bool {
    let functions: Vec<&str> = thread.stack.iter().flat_map(|stack| stack.functions()).collect();
    // Python's `with`; its conditions wait in `acquire`, which is called as a method.
    let enters = functions.windows(2).any(|pair| pair == ["lock_PyThread_acquire_lock", "cfunction_call"]);
    enters || is_in(thread, &LOCKS) || is_in(thread, &MONITORS)
}

pub(super) fn is_in(thread: &Thread, functions: &[&str]) -> bool {
    let named = |name: &str| functions.iter().any(|word| name.contains(word));
    thread.stack.iter().flat_map(|stack| stack.functions()).any(named)
}

fn is_stuck(thread: &Thread, most_us: u64) -> bool {
    const HOLD: [&str; 9] =
        ["futex", "flock", "fcntl", "semtimedop", "msgrcv", "openat", "write", "writev", "pwrite64"];
    let Some(blocked) = &thread.blocked_in else { return false };
    let is_connection = blocked.cookie.is_some();
    thread.blocked_us >= most_us
        && blocked.timeout_us == Some(None)
        && HOLD.contains(&blocked.call.as_str())
        && !is_connection
}

/// Those that have waited for so long for something in the program itself, with a limit.
pub(super) fn limited_threads(seen: &Observation, least_us: u64) -> Vec<&Thread> {
    let is_limited = |thread: &&Thread| {
        let limited = |blocked: &BlockedIn| blocked.call == "futex" && matches!(blocked.timeout_us, Some(Some(_)));
        thread.blocked_us >= least_us && thread.blocked_in.as_ref().is_some_and(limited)
    };
    own_threads(seen).filter(is_limited).collect()
}

/// Goroutines that have waited for a lock since the first look: also for that of a file, which its writer holds; and those
/// that answer a caller, and have something to hand over that nobody takes.
fn goroutines(seen: &Observation) -> impl Iterator<Item = &GoroutineGroup> {
    let locks = |group: &&GoroutineGroup| {
        let reason = group.wait_reason.as_deref().unwrap_or_default();
        let calls = |function: &str| group.stack.functions().any(|name| name == function);
        let to_write = calls("internal/poll.(*fdMutex).rwlock") && calls("os.(*File).Write");
        let hands_over = reason == "chan send" && calls("net/http.(*conn).serve");
        group.stayed > 0 && (reason.starts_with("sync.") && reason.contains("Lock") || to_write || hands_over)
    };
    seen.go.iter().flat_map(|go| &go.groups).filter(locks)
}

/// Whether it may be without work. A futex without a stack says nothing.
fn may_idle(thread: &Thread) -> bool {
    let is_in_call = |call: &str| thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call.starts_with(call));
    let idles = if thread.stack.is_some() { is_in(thread, &IDLE) } else { is_in_call("futex") };
    is_in_call("accept") || idles && !takes_a_lock(thread)
}

/// Where the threads are: the most first, and last those that may be without work.
fn places(seen: &Observation, waits: &Waits<'_>) -> Vec<Evidence> {
    // Where nobody is answered any more, those who listen wait for other work.
    let silent = waits.earlier_us.is_some();
    let most_us = if silent { SETTLED_US } else { most_us(seen) };
    let stuck = |thread: &&Thread| is_stuck(thread, most_us);
    let sits = |thread: &&Thread| thread.blocked_us >= most_us && !(silent && hears(thread));
    let all = || own_threads(seen);
    let locked = waits.locked && all().any(|thread| stuck(&thread));
    let chosen: Vec<&Thread> = if locked { all().filter(stuck).collect() } else { all().filter(sits).collect() };
    let mut groups: Vec<(String, Vec<&Thread>)> = Vec::new();
    for thread in chosen {
        let Some(blocked) = &thread.blocked_in else { continue };
        let what = blocked.what.as_ref().map(|what| format!(" on {what}")).unwrap_or_default();
        let limit = if blocked.timeout_us == Some(None) { " without a limit" } else { "" };
        let at = thread.stack.as_ref().and_then(place).map(|place| format!(", from {place}")).unwrap_or_default();
        let key = format!("in {}{what}{limit}{at}", blocked.call);
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, group)) => group.push(thread),
            None => groups.push((key, vec![thread])),
        }
    }
    groups.sort_by_key(|(_, group)| (group.iter().all(|thread| may_idle(thread)), std::cmp::Reverse(group.len())));
    let threads = groups.iter().take(NAMED).filter_map(|(key, group)| {
        let first = group.first()?;
        let who = match group.len() {
            1 => format!("thread {} ({}) sits", first.tid, first.name),
            many => format!("{many} threads ({}) sit", first.name),
        };
        let longest_us = group.iter().map(|thread| thread.blocked_us).max().unwrap_or_default();
        let longer = if group.iter().any(|thread| thread.since_before) { " or longer" } else { "" };
        Some(
            proc(format!("{who} {key}, for {}{longer}", time(longest_us)))
                .with("threads", group.len() as u64)
                .with("blocked_us", longest_us),
        )
    });
    let locks: Vec<&GoroutineGroup> = goroutines(seen).take(NAMED).collect();
    let handlers = handlers(seen).filter(|_| silent && locks.is_empty());
    let goroutines = locks.into_iter().map(|group| {
        let own = |name: &&str| !["runtime.", "sync.", "internal/"].iter().any(|package| name.starts_with(package));
        let at: Vec<&str> = group.stack.functions().filter(own).take(2).collect();
        let at = if at.is_empty() { String::new() } else { format!(" in {}", at.join(" < ")) };
        let reason = group.wait_reason.as_deref().unwrap_or_default();
        let (number, verb) = (group.stayed, if group.stayed == 1 { "waits" } else { "wait" });
        Evidence::new(
            Source::Memory,
            format!("{} {verb} for {reason}{at}, since the watch began", count(number, "goroutine")),
        )
        .with("goroutines", number)
    });
    goroutines.chain(handlers).chain(threads).collect()
}

/// Where most goroutines are that answer callers.
pub(super) fn handlers(seen: &Observation) -> Option<Evidence> {
    let serves = |group: &&GoroutineGroup| group.stack.functions().any(|name| SERVES.contains(&name));
    let groups = seen.go.iter().flat_map(|go| &go.groups).filter(serves);
    let group = groups.max_by_key(|group| group.last).filter(|group| group.last >= CROWD)?;
    let at: Vec<&str> = group.stack.functions().filter(|name| !name.starts_with("runtime.")).take(3).collect();
    let reason = group.wait_reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let text = format!("{} that answer callers are in {}{reason}", count(group.last, "goroutine"), at.join(" < "));
    Some(Evidence::new(Source::Memory, text).with("goroutines", group.last))
}
