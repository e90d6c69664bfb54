//! Event loops that turn without doing anything.

use overdue_core::{Cause, Confidence, Evidence, facts::TcpState};

use super::{
    Finding, Severity, ShareOf, bpf, in_looks, per_second, place, proc, share,
    thresholds::{
        ALWAYS, BETWEEN, POLLING, SHORT_SPIN_PER_SECOND, SLICE_US, SMALL_WORK, SPIN_PER_SECOND, TURN_SLEEPS, TURN_US,
    },
    time, total,
};
use crate::{
    Observation,
    observation::{Call, HotStack, PollCall, PollLoop, ReadyFd, Runtime, TcpSocket, Thread},
};

const EPOLLIN: u32 = 0x1;
const EPOLLOUT: u32 = 0x4;
const EPOLLERR: u32 = 0x8;
const EPOLLHUP: u32 = 0x10;
const POLLNVAL: u32 = 0x20;
const EPOLLRDHUP: u32 = 0x2000;

const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ECONNABORTED: i32 = 103;

/// The worst loop of each kind.
pub(super) fn rule(seen: &Observation) -> Vec<Finding> {
    let Some(polling) = &seen.polling else { return Vec::new() };
    let mut found: Vec<Finding> = Vec::new();
    for poll in &polling.loops {
        let finding = empty(seen, poll, polling.looked_us)
            .filter(|_| !is_sleep(seen, poll))
            .or_else(|| tries_again(seen, poll, polling.looked_us))
            .or_else(|| same_again(seen, poll, polling.looked_us))
            .or_else(|| failing(seen, poll, polling.looked_us));
        let Some(finding) = finding else { continue };
        match found.iter_mut().find(|other| other.verdict.cause == finding.verdict.cause) {
            Some(other) if finding.verdict.share > other.verdict.share => *other = finding,
            Some(_) => {}
            None => found.push(finding),
        }
    }
    if !found.iter().any(|it| it.verdict.cause == Cause::SpinAcceptError) {
        found.extend(accepts_in_vain(seen));
    }
    found
}

/// A loop that does not poll: the accept itself fails at once, and is called again.
fn accepts_in_vain(seen: &Observation) -> Option<Finding> {
    let calls = seen.calls.as_ref()?;
    let accepts = || calls.counts.iter().filter(|it| it.call == Call::Accept);
    // Where none is left of what it needs is another's finding.
    let failed = accepts().filter(|it| !matches!(it.errno, 0 | EINTR | EAGAIN | ENFILE | EMFILE | ECONNABORTED));
    let top = failed.max_by_key(|it| it.count)?;
    let rate = per_second(top.count, calls.looked_us);
    // Threads that a listener's end wakes fail once each.
    let is_loop = rate.min(top.count as f64) >= SPIN_PER_SECOND;
    if !is_loop || share(top.count, total(accepts().map(|it| it.count))) < ALWAYS {
        return None;
    }
    let on = top.fd.map(|fd| format!(" on fd {fd}")).unwrap_or_default();
    let error = match top.errno {
        EPERM => "EPERM: it is forbidden".to_owned(),
        EBADF => "EBADF: the descriptor is closed".to_owned(),
        EINVAL => "EINVAL: the socket does not listen any more".to_owned(),
        errno => format!("errno {errno}"),
    };
    let from = top.stack.as_ref().and_then(place).map(|place| format!(" (from {place})")).unwrap_or_default();
    let hot = seen.cpu.as_ref().and_then(|cpu| Some((cpu.hot.as_ref()?, cpu.samples)));
    let part = hot.map_or(0.0, |(hot, all)| {
        let is_there =
            |it: &&HotStack| it.stack.functions().any(|name| name.trim_start_matches('_').starts_with("accept"));
        share(total(hot.iter().filter(is_there).map(|it| it.samples)), all)
    });
    let finding = Finding::new(
        Cause::SpinAcceptError,
        Severity::Refusing,
        Confidence::High,
        format!("accept{on} is called {rate:.0} times a second and fails at once with {error}{from}"),
    )
    .because(
        bpf(format!("accept failed {} times with errno {}{}", top.count, top.errno, in_looks(seen)))
            .with("failed", top.count)
            .with("errno", top.errno.unsigned_abs())
            .with("looked_us", calls.looked_us),
    )
    .rejected(Cause::SpinAcceptEmfile, "the error is not EMFILE: descriptors are left");
    Some(finding.share(ShareOf::Cpu, part))
}

/// Polls that find nothing: timeout 0, or about 1 ms.
fn empty(seen: &Observation, poll: &PollLoop, looked_us: u64) -> Option<Finding> {
    let limits = &poll.timeouts;
    let calls = total([limits.zero, limits.short, limits.long, limits.unlimited].into_iter());
    let rate = per_second(poll.empty, looked_us);
    let turn_us = turn_us(seen, poll, looked_us);
    if share(poll.empty, poll.returns) < ALWAYS || is_working(poll) {
        return None;
    }
    let zero = share(limits.zero, calls) >= ALWAYS;
    // Whoever sleeps so looks in once more, with limit 0, for what its timer woke: asyncio polls twice a turn.
    let short =
        share(limits.zero.saturating_add(limits.short), calls) >= ALWAYS && share(limits.short, calls) >= TURN_SLEEPS;
    let computes = |from_us| turn_us.is_some_and(|us| us >= from_us);
    let (cause, does, other, why) = if computes(if zero && !sleeps(poll) { TURN_US.0 } else { TURN_US.1 }) {
        return None;
    } else if zero && sleeps(poll) && rate >= SHORT_SPIN_PER_SECOND {
        (
            Cause::SpinShortTimer,
            "with timeout 0 after a short sleep",
            Cause::SpinZeroTimeout,
            "the limit of nearly every poll is 0, but it sleeps in between, for a moment",
        )
    } else if zero && rate >= SPIN_PER_SECOND {
        (Cause::SpinZeroTimeout, "with timeout 0", Cause::SpinShortTimer, "the limit of nearly every poll is 0")
    } else if short && rate >= SHORT_SPIN_PER_SECOND {
        (
            Cause::SpinShortTimer,
            "with timeout at most 2 ms",
            Cause::SpinZeroTimeout,
            "not all polls have limit 0: it sleeps in between, for a moment",
        )
    } else {
        return None;
    };
    let polling = (cause == Cause::SpinZeroTimeout).then(|| polling(seen, poll, looked_us)).flatten();
    let confidence = match polling {
        Some(part) if part < POLLING.1 => Confidence::Low,
        Some(part) if part < POLLING.0 && worked(poll) > SMALL_WORK => Confidence::Low,
        Some(part) if part < POLLING.0 => Confidence::Medium,
        None if cause == Cause::SpinShortTimer && computes(SLICE_US.1) && !is_interpreted(seen) => Confidence::Low,
        None if cause == Cause::SpinShortTimer && computes(SLICE_US.0) => Confidence::Medium,
        _ => Confidence::High,
    };
    let mut finding = Finding::new(
        cause,
        Severity::Wasting,
        confidence,
        format!(
            "thread {} ({}) calls {} {rate:.0} times a second {does} and finds nothing{}",
            poll.tid,
            poll.thread,
            poll.call.as_str(),
            from(poll)
        ),
    )
    .because(rates(poll, looked_us))
    .and(processor(seen, poll))
    .and(between(poll))
    .rejected(other, why);
    if let Some(part) = polling {
        let text = format!("{:.1} % of the time in which it had or wanted a processor is in these polls", part * 100.0);
        finding = finding.because(bpf(text).with("inside_us", poll.inside_us));
    }
    if let Some(us) = turn_us {
        let each = time(us);
        finding = finding.rejected(
            Cause::CpuBusy,
            match confidence {
                Confidence::High => format!("it does not compute between its polls: {each} of processor time for each"),
                Confidence::Medium => format!("possible: {each} between its polls are the loop's own, or tiny work"),
                Confidence::Low => format!("possible: it may compute in slices of {each} and look in between them"),
            },
        );
    }
    finding.advisory |= confidence == Confidence::Low;
    Some(finding.share(ShareOf::Cpu, of_cpu(seen, poll)))
}

fn is_interpreted(seen: &Observation) -> bool {
    matches!(seen.process.runtime, Runtime::Python | Runtime::Node | Runtime::Java)
}

/// The share of the thread's time that is in its polls, of that in which it had a processor or waited for one: polls that
/// do not sleep wait for it, too.
fn polling(seen: &Observation, poll: &PollLoop, looked_us: u64) -> Option<f64> {
    let thread = thread(seen, poll)?;
    let awake_us = thread.cpu_us.saturating_add(thread.runqueue_us.unwrap_or(0));
    (awake_us > 0).then(|| share(poll.inside_us, looked_us) / share(awake_us, seen.window_us))
}

/// Whether its polls are without a descriptor, all that a look met: one that only sleeps so looks for nothing.
fn is_sleep(seen: &Observation, poll: &PollLoop) -> bool {
    let Some(thread) = thread(seen, poll) else { return false };
    let met = thread.calls.iter().filter(|(call, _)| PollCall::is_given_descriptors(call)).map(|(_, looks)| *looks);
    let met = total(met.map(u64::from));
    met > 0
        && u64::from(thread.sleeps) == met
        && PollCall::is_given_descriptors(poll.call.as_str())
        && share(poll.timeouts.zero, poll.returns) < BETWEEN
}

/// Processor time of the thread for each of its polls, that within the poll left out where it does not sleep there.
fn turn_us(seen: &Observation, poll: &PollLoop, looked_us: u64) -> Option<u64> {
    let used_us = u128::from(thread(seen, poll)?.cpu_us) * u128::from(looked_us) / u128::from(seen.window_us.max(1));
    let used_us = u64::try_from(used_us).unwrap_or(u64::MAX);
    let inside_us = if poll.timeouts.zero >= poll.returns { poll.inside_us } else { 0 };
    used_us.saturating_sub(inside_us).checked_div(poll.returns)
}

/// Whether it sleeps between nearly all of its polls.
fn sleeps(poll: &PollLoop) -> bool {
    let sleeps = poll.other_calls.iter().filter(|(call, _)| call.contains("nanosleep"));
    share(total(sleeps.map(|(_, calls)| *calls)), poll.returns) >= ALWAYS
}

/// Whether it sleeps in many of its polls. With a descriptor that is always ready none does.
fn sleeps_inside(seen: &Observation, poll: &PollLoop, looked_us: u64) -> bool {
    let rate = per_second(poll.returns, looked_us);
    let switches = |thread: &Thread| per_second(thread.voluntary_switches, seen.window_us);
    share(poll.inside_us, looked_us) > BETWEEN
        && thread(seen, poll).is_none_or(|thread| switches(thread) > TURN_SLEEPS * rate)
}

/// What a ready descriptor asks for, and nobody does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Neglect {
    Error,
    End,
    Read,
    Write,
}

impl Neglect {
    fn of(seen: &Observation, ready: &ReadyFd, poll: &PollLoop, looked_us: u64) -> Option<Self> {
        let socket = ready.cookie.and_then(|cookie| socket(seen, cookie));
        let half_closed = is_half_closed(ready, socket);
        if is_used(ready, poll) || is_renewed(seen, ready, poll) || sleeps_inside(seen, poll, looked_us) {
            None
        } else if ready.events & (EPOLLERR | POLLNVAL) != 0 || (ready.events & EPOLLHUP != 0 && !half_closed) {
            Some(Self::Error)
        } else if half_closed {
            Some(Self::End)
        } else if is_handled_uncounted(poll) || turn_us(seen, poll, looked_us).is_some_and(|us| us >= TURN_US.0) {
            None
        } else if ready.events & EPOLLIN != 0 && !is_read(ready, socket) {
            Some(Self::Read)
        } else {
            (ready.events & EPOLLOUT != 0).then_some(Self::Write)
        }
    }
}

/// Polls that wait for connecting, which fails each time: the number of the descriptor is the same, what it stands for is
/// not. Why it fails is another's finding.
fn tries_again(seen: &Observation, poll: &PollLoop, looked_us: u64) -> Option<Finding> {
    let top = poll.ready.iter().max_by_key(|ready| ready.times)?;
    let connects = times_between(poll, "connect");
    let rate = per_second(connects, looked_us);
    let fails = top.events & (EPOLLERR | EPOLLHUP) != 0 && share(top.times, poll.returns) >= ALWAYS;
    if rate < SPIN_PER_SECOND || share(connects, poll.returns) < ALWAYS || !fails || !is_renewed(seen, top, poll) {
        return None;
    }
    let finding = Finding::new(
        Cause::ConnectionChurn,
        Severity::Wasting,
        Confidence::High,
        format!(
            "thread {} ({}) makes a socket, fails to connect and closes it {rate:.0} times a second: it tries again without a \
             pause{}",
            poll.tid,
            poll.thread,
            from(poll)
        ),
    )
    .because(rates(poll, looked_us))
    .and(processor(seen, poll))
    .and(between(poll))
    .rejected(Cause::SpinErrorFd, "each is another socket, which is closed: no error is left unhandled")
    .fix("Wait before each further try, longer each time, with jitter (backoff).");
    Some(Finding { advisory: true, ..finding.share(ShareOf::Cpu, of_cpu(seen, poll)) })
}

fn times_between(poll: &PollLoop, call: &str) -> u64 {
    total(poll.other_calls.iter().filter(|(other, _)| other == call).map(|(_, times)| *times))
}

/// Whether descriptors are closed all the time, so that the same number need not be the same again.
fn is_renewed(seen: &Observation, ready: &ReadyFd, poll: &PollLoop) -> bool {
    let is_there = ready.cookie.is_some_and(|cookie| socket(seen, cookie).is_some());
    !is_there && share(times_between(poll, "close"), poll.returns) > BETWEEN
}

/// Polls that find the same descriptor over and over, which nobody handles.
fn same_again(seen: &Observation, poll: &PollLoop, looked_us: u64) -> Option<Finding> {
    let rate = per_second(poll.returns, looked_us);
    let top = poll.ready.iter().max_by_key(|ready| ready.times)?;
    let neglect = |ready: &ReadyFd| Neglect::of(seen, ready, poll, looked_us);
    let neglected = neglect(top);
    // Where each poll returns but one of several, they take turns.
    let takes_turns = total(poll.ready.iter().map(|ready| ready.times)) <= poll.returns;
    let alike = poll.ready.iter().filter(|ready| takes_turns && neglected.is_some() && neglect(ready) == neglected);
    let (alike, times) = alike.fold((0, 0), |(alike, times), ready| (alike + 1, ready.times.saturating_add(times)));
    let (alike, times) = if alike > 1 { (alike, times) } else { (1, top.times) };
    if rate < SPIN_PER_SECOND || share(times, poll.returns) < ALWAYS {
        return None;
    }
    let socket = top.cookie.and_then(|cookie| socket(seen, cookie));
    let fd = top.fd.map_or_else(|| "a descriptor".to_owned(), |fd| format!("fd {fd}"));
    let what = top.what.as_ref().map_or(fd.clone(), |what| format!("{fd} ({what})"));
    let who = if alike > 1 { format!("{what} and {} like it, in turn,", alike - 1) } else { what.clone() };
    let accepts = failed_accepts(poll);
    // A listener that is ready and whose accept succeeds is load.
    let (cause, confidence, does, rejected) = if let Some((errno, times)) = accepts
        && share(times, poll.returns) >= 0.5
    {
        if matches!(errno, EMFILE | ENFILE) {
            let name = if errno == EMFILE { "EMFILE" } else { "ENFILE" };
            (
                Cause::SpinAcceptEmfile,
                Confidence::High,
                format!("accept fails with {name}, so the connection stays and {what} is ready again at once"),
                (Cause::SpinAcceptError, "accept fails for want of a descriptor, and for nothing else"),
            )
        } else {
            (
                Cause::SpinAcceptError,
                Confidence::High,
                format!("accept on {what} fails with errno {errno}, and it is ready again at once"),
                (Cause::SpinAcceptEmfile, "the error is not EMFILE: descriptors are left"),
            )
        }
    } else {
        let (cause, does, rejected) = match neglected? {
            Neglect::Error if top.events & POLLNVAL != 0 => (
                Cause::SpinErrorFd,
                format!("{what} is not open ({}), and nobody takes it out of the poll", events(top.events)),
                (Cause::SpinHalfClosed, "the kernel reports NVAL: there is no stream that could end"),
            ),
            Neglect::Error => (
                Cause::SpinErrorFd,
                format!("{what} reports an error or a hang-up ({}) that nobody handles", events(top.events)),
                (
                    Cause::SpinHalfClosed,
                    "the kernel reports ERR or HUP, which need not be asked for, and not only the peer's FIN",
                ),
            ),
            Neglect::End => (
                Cause::SpinHalfClosed,
                format!("the peer of {what} has closed its side, and the end of the stream is never consumed"),
                (Cause::SpinErrorFd, "no EPOLLERR and no lone EPOLLHUP was reported"),
            ),
            Neglect::Read if is_own(top) => (
                Cause::Unknown,
                format!("{what} is ready ({}) over and over, and {}", events(top.events), uses(top, "read from")),
                (Cause::SpinHalfClosed, "it is no connection: there is no peer that could close its side"),
            ),
            Neglect::Read => (
                Cause::Unknown,
                format!("{what} is ready ({}) over and over, and {}", events(top.events), uses(top, "read from")),
                (Cause::SpinHalfClosed, "possible: the state of the descriptor is not known"),
            ),
            Neglect::Write => (
                Cause::Unknown,
                format!(
                    "{what} has room to write to, so it is ready ({}) over and over, and {}",
                    events(top.events),
                    uses(top, "written to")
                ),
                (Cause::SpinHalfClosed, "neither an end of the stream nor an error was reported, only room to write"),
            ),
        };
        (cause, if cause == Cause::Unknown { Confidence::Low } else { Confidence::High }, does, rejected)
    };
    let mut finding = Finding::new(
        cause,
        Severity::Wasting,
        confidence,
        format!("thread {} ({}) polls {rate:.0} times a second: {does}{}", poll.tid, poll.thread, from(poll)),
    )
    .because(rates(poll, looked_us))
    .because(
        bpf(format!("{who} was ready in {times} of {} polls, with {}", poll.returns, events(top.events)))
            .with("ready", times)
            .with("events", top.events),
    )
    .and(processor(seen, poll))
    .and(between(poll));
    if matches!(cause, Cause::SpinAcceptEmfile | Cause::SpinAcceptError) {
        finding.severity = Severity::Refusing;
    }
    if cause == Cause::Unknown {
        finding = finding.fix(match neglected {
            Some(Neglect::Write) => {
                "Ask for OUT only while something is left to write, and take it out after the last byte, or ask for it \
                 edge-triggered. A socket that takes more is always ready to be written to."
            }
            _ if is_own(top) => "Read it (8 bytes) each time it is ready: until then it stays so. Or take it out of the poll.",
            _ => {
                "Read from it until it would block each time it is ready, or take it out of the poll while nobody wants what \
                 comes."
            }
        });
    }
    if let Some(socket) = socket.filter(|socket| socket.state == TcpState::CloseWait) {
        finding = finding.because(super::diag(format!(
            "the connection with {} is in CLOSE_WAIT since {}{}",
            socket.remote,
            time(socket.in_state_us),
            if socket.since_before { " at least" } else { "" }
        )));
    }
    Some(finding.rejected(rejected.0, rejected.1).share(ShareOf::Cpu, of_cpu(seen, poll)))
}

/// Polls that fail, each at once.
fn failing(seen: &Observation, poll: &PollLoop, looked_us: u64) -> Option<Finding> {
    let rate = per_second(poll.returns, looked_us);
    // That of io_uring fails for reasons that are none, when its time is over or the queue is full.
    if rate < SPIN_PER_SECOND
        || share(poll.failed, poll.returns) < ALWAYS
        || poll.call == PollCall::IoUringEnter
        || is_working(poll)
        || sleeps_inside(seen, poll, looked_us)
    {
        return None;
    }
    let call = poll.call.as_str();
    let finding = Finding::new(
        Cause::Unknown,
        Severity::Wasting,
        Confidence::Low,
        format!(
            "thread {} ({}) calls {call} {rate:.0} times a second, and it fails at once{}",
            poll.tid,
            poll.thread,
            from(poll)
        ),
    )
    .because(rates(poll, looked_us))
    .and(processor(seen, poll))
    .and(between(poll))
    .rejected(Cause::SpinErrorFd, "it is the call that fails: no descriptor was reported")
    .fix(format!(
        "`strace -p {} -e {call}` shows the error; EBADF says that its descriptor is closed. End the loop, or make its \
         descriptors anew, where the poll itself fails.",
        poll.tid
    ));
    Some(finding.share(ShareOf::Cpu, of_cpu(seen, poll)))
}

/// Whether real work happens between the polls.
fn is_working(poll: &PollLoop) -> bool {
    worked(poll) > BETWEEN
}

/// Calls that did work, for each poll.
fn worked(poll: &PollLoop) -> f64 {
    let other = total(poll.other_calls.iter().filter(|(call, _)| does_work(call)).map(|(_, calls)| *calls));
    let failed = total(poll.failed_calls.iter().filter(|(call, ..)| does_work(call)).map(|(_, _, calls)| *calls));
    share(other.saturating_sub(failed), poll.returns)
}

/// Whether a call moves bytes, or opens and closes what they move through. To ask for the time or the own number is no
/// work.
fn does_work(call: &str) -> bool {
    const WORK: [&str; 12] =
        ["read", "write", "recv", "send", "accept", "connect", "open", "close", "splice", "fsync", "pread", "pwrite"];
    WORK.iter().any(|work| call.contains(work))
}

/// Whether the ready descriptor is read, written or accepted on. A read that brings nothing is no use.
fn is_used(ready: &ReadyFd, poll: &PollLoop) -> bool {
    match ready.used {
        Some(used) => share(used, ready.times) > BETWEEN,
        None => is_working(poll),
    }
}

/// Whether what is ready may be handled between the polls by calls that are not counted for each descriptor.
fn is_handled_uncounted(poll: &PollLoop) -> bool {
    const CALLS: [&str; 4] = ["mq_timed", "ioctl", "timerfd_settime", "epoll_ctl"];
    let calls = poll.other_calls.iter().filter(|(call, _)| CALLS.iter().any(|it| call.starts_with(it)));
    share(total(calls.map(|(_, calls)| *calls)), poll.returns) > BETWEEN
}

/// Whether what comes is read: then it is for something else that it is ready all the time. All that it was ready with is
/// known, not how often with which.
fn is_read(ready: &ReadyFd, socket: Option<&TcpSocket>) -> bool {
    let is_read = match socket {
        Some(socket) => socket.unread_bytes == 0 && !socket.fin_unread,
        None => ready.used.is_some_and(|used| used > 0),
    };
    ready.events & EPOLLOUT != 0 && is_read
}

/// Whether it is a counter of the process's own, which is ready until it is read.
fn is_own(ready: &ReadyFd) -> bool {
    ready.what.as_deref().is_some_and(|what| matches!(what, "timerfd" | "eventfd"))
}

/// How often it was used, which is hardly ever: reads and writes are counted together.
fn uses(ready: &ReadyFd, verb: &str) -> String {
    match ready.used {
        Some(used) if used > 0 => format!("it is read or written {used} times in {} polls", ready.times),
        _ => format!("nothing is {verb} it"),
    }
}

fn is_half_closed(ready: &ReadyFd, socket: Option<&TcpSocket>) -> bool {
    ready.events & EPOLLRDHUP != 0 || socket.is_some_and(|socket| socket.state == TcpState::CloseWait)
}

fn failed_accepts(poll: &PollLoop) -> Option<(i32, u64)> {
    let failed = poll.failed_calls.iter().filter(|(call, errno, _)| call.starts_with("accept") && *errno != EAGAIN);
    failed.map(|(_, errno, times)| (*errno, *times)).max_by_key(|(_, times)| *times)
}

fn socket(seen: &Observation, cookie: u64) -> Option<&TcpSocket> {
    seen.sockets.as_ref()?.tcp.iter().find(|socket| socket.cookie == cookie)
}

fn from(poll: &PollLoop) -> String {
    poll.stack.as_ref().and_then(place).map(|place| format!(" (from {place})")).unwrap_or_default()
}

fn rates(poll: &PollLoop, looked_us: u64) -> Evidence {
    bpf(format!(
        "{}: {} returns in {} of looking, {} of them empty, {} failed",
        poll.call.as_str(),
        poll.returns,
        time(looked_us),
        poll.empty,
        poll.failed
    ))
    .with("returns", poll.returns)
    .with("empty", poll.empty)
    .with("looked_us", looked_us)
}

fn between(poll: &PollLoop) -> Option<Evidence> {
    let mut calls: Vec<_> = poll.other_calls.iter().collect();
    calls.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let text: Vec<_> = calls.iter().take(3).map(|(call, times)| format!("{call} {times}")).collect();
    let failed: Vec<_> =
        poll.failed_calls.iter().take(3).map(|(call, errno, times)| format!("{call} errno {errno}: {times}")).collect();
    let failed = if failed.is_empty() { String::new() } else { format!("; failed: {}", failed.join(", ")) };
    let text = if text.is_empty() { "no other system call".to_owned() } else { text.join(", ") };
    Some(bpf(format!("between the polls: {text}{failed}")))
}

fn thread<'a>(seen: &'a Observation, poll: &PollLoop) -> Option<&'a Thread> {
    seen.threads.as_ref()?.threads.iter().find(|thread| thread.tid == poll.tid)
}

fn processor(seen: &Observation, poll: &PollLoop) -> Option<Evidence> {
    let thread = thread(seen, poll)?;
    let part = share(thread.cpu_us, seen.window_us);
    Some(
        proc(format!(
            "the thread used {:.0} % of a processor ({} in {})",
            part * 100.0,
            time(thread.cpu_us),
            time(seen.window_us)
        ))
        .with("cpu_us", thread.cpu_us),
    )
}

/// The part of the process's processor time that is the thread's.
fn of_cpu(seen: &Observation, poll: &PollLoop) -> f64 {
    match (thread(seen, poll), &seen.cpu) {
        (Some(thread), Some(cpu)) => share(thread.cpu_us, cpu.used_us()),
        _ => 1.0,
    }
}

fn events(bits: u32) -> String {
    const NAMES: [(u32, &str); 7] = [
        (EPOLLIN, "IN"),
        (0x2, "PRI"),
        (EPOLLOUT, "OUT"),
        (EPOLLERR, "ERR"),
        (EPOLLHUP, "HUP"),
        (POLLNVAL, "NVAL"),
        (EPOLLRDHUP, "RDHUP"),
    ];
    let names: Vec<_> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "no event".to_owned() } else { names.join("|") }
}
