//! Callers who wait while nothing tells why, and healthy servers that look like them.

use super::*;
use crate::observation::{BlockedIn, Go, GoroutineGroup, HalfOpen, HttpHead, Listener, Process, Runtime, WaitsFor};

/// A caller that asked four seconds ago, on a connection on which nothing was ever sent.
fn asked(cookie: u64) -> TcpSocket {
    let mut socket = inbound(cookie, "10.0.0.20:50000");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.bytes_acked, tcp.bytes_received) = (Some(0), Some(29));
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (4_000, 4_000);
    socket
}

/// A thread that sits there for the whole watch.
fn sits(tid: u32, call: &str, limit: Option<u64>, functions: &[&str]) -> Thread {
    Thread {
        tid,
        name: "server".to_owned(),
        state: ThreadState::Sleeping,
        looks: 20,
        looks_in_state: 20,
        blocked_in: Some(BlockedIn { call: call.to_owned(), timeout_us: Some(limit), ..BlockedIn::default() }),
        calls: vec![(call.to_owned(), 20)],
        blocked_us: WINDOW,
        since_before: true,
        stack: (!functions.is_empty()).then(|| stack(functions)),
        ..Thread::default()
    }
}

/// The first thread sits in `accept`, so many more for a lock.
fn locked(number: u32) -> Observation {
    let lock = ["__lll_lock_wait", "pthread_mutex_lock", "look_up", "handle"];
    with((0..number).map(|at| sits(5_000 + at, "futex", None, &lock)))
}

pub(super) fn with(threads: impl IntoIterator<Item = Thread>) -> Observation {
    let mut seen = idle();
    let all: Vec<Thread> = std::iter::once(sits(PID, "accept", None, &[])).chain(threads).collect();
    let number = all.len() as u64;
    seen.threads = Some(Threads { first: number, last: number, threads: all, ..Threads::default() });
    seen
}

pub(super) fn threads(seen: &mut Observation) -> &mut Vec<Thread> {
    &mut seen.threads.as_mut().unwrap().threads
}

#[test]
fn handlers_that_wait_for_a_lock() {
    let seen = locked(4).tcp((1..5).map(asked));
    let finding = only(&seen, Cause::Unknown);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("4 callers wait for an answer, the longest for 4s, while 4 threads"), "{summary}");
    assert!(summary.contains("look_up < handle"), "{summary}");
    assert_eq!((finding.verdict.stage, finding.verdict.confidence), ("handle", Confidence::Low));
    let report = crate::Report::of(&seen);
    assert_eq!((report.outcome, report.connections_stalled), ("failed", 4));
    // One of them waits for something else, and holds it.
    only(&locked(3).tcp((1..5).map(asked)), Cause::Unknown);
    // A request that was seen is named.
    let mut seen = locked(1).tcp([asked(1)]);
    seen.connections.as_mut().unwrap().connections = vec![Connection {
        cookie: 1,
        http: Some(HttpHead { request: "GET /stock".to_owned(), ..HttpHead::default() }),
        ..Connection::default()
    }];
    assert!(only(&seen, Cause::Unknown).verdict.evidence[0].text.contains("(GET /stock)"));
    // What asks to wait may.
    seen.connections.as_mut().unwrap().connections[0].http.as_mut().unwrap().asks_to_wait = true;
    nothing(&seen);
}

#[test]
fn who_computes_or_has_ended_is_not_stuck() {
    nothing(&locked(4));
    let mut ended = locked(4).tcp((1..5).map(asked));
    ended.process.ended_at_us = Some(WINDOW);
    nothing(&ended);
    let mut busy = locked(4).tcp((1..5).map(asked));
    busy.cpu.as_mut().unwrap().user_us = 2 * WINDOW;
    threads(&mut busy)[0] = Thread { cpu_us: 2 * WINDOW, state: ThreadState::Running, ..Thread::default() };
    advisory(&busy, Cause::CpuBusy);
    // Something else explains it.
    let mut unread = locked(4).tcp((1..5).map(asked));
    let sockets = &mut unread.sockets.as_mut().unwrap().tcp;
    sockets.push(TcpSocket { unread_bytes: 1 << 20, unread_for_us: WINDOW, ..inbound(9, "10.0.0.21:50000") });
    only(&unread, Cause::ReaderSlow);
}

/// Whoever stopped it, its callers wait.
#[test]
fn a_process_that_is_stopped() {
    let stopped = |mut seen: Observation| {
        seen.process.stopped = true;
        let stop = |thread: &mut Thread| (thread.state, thread.blocked_in) = (ThreadState::Stopped, None);
        threads(&mut seen).iter_mut().for_each(stop);
        seen
    };
    nothing(&stopped(with([])));
    let mut seen = stopped(with([]).tcp([asked(1)]));
    let mut unread = asked(2);
    (unread.unread_bytes, unread.unread_for_us) = (29, WINDOW);
    seen.sockets.as_mut().unwrap().tcp.push(unread);
    let finding = only(&seen, Cause::LocalStall);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("it is stopped, by a signal or a debugger"), "{summary}");
    assert!(summary.contains("2 callers wait for an answer, the longest for 5s"), "{summary}");
    assert!(finding.verdict.fix.contains("kill -CONT"), "{finding:#?}");
    let report = crate::Report::of(&seen);
    assert_eq!((report.outcome, report.connections_stalled), ("failed", 2));
    // It has just been stopped.
    let mut answered = asked(1);
    answered.last.as_mut().unwrap().last_data_recv_ms = 1_200;
    nothing(&stopped(with([]).tcp([answered])));
}

/// On a websocket the client has the last word, and a loop listens; or a thread for each does.
#[test]
fn who_listens_holds_up_nobody() {
    let mut seen = locked(4).tcp((1..5).map(asked));
    let member = |cookie| WaitsFor { fd: 9, events: 1, what: None, cookie: Some(cookie) };
    let mut poller = sits(PID, "epoll_wait", None, &[]);
    poller.blocked_in.as_mut().unwrap().waits_for = (1..5).map(member).collect();
    threads(&mut seen)[0] = poller.clone();
    nothing(&seen);
    // One of them is listened to no more.
    poller.blocked_in.as_mut().unwrap().waits_for.pop();
    threads(&mut seen)[0] = poller.clone();
    assert!(only(&seen, Cause::Unknown).verdict.summary.starts_with("1 caller waits"));
    // Not all members are known, or where the loop will listen again.
    poller.blocked_in.as_mut().unwrap().waits_for = (100..164).map(member).collect();
    threads(&mut seen)[0] = poller.clone();
    nothing(&seen);
    poller.blocked_in.as_mut().unwrap().waits_for.clear();
    threads(&mut seen)[0] = poller;
    nothing(&seen);
    threads(&mut seen)[0] =
        Thread { blocked_us: 0, blocked_in: None, calls: vec![("epoll_wait".to_owned(), 19)], ..Thread::default() };
    nothing(&seen);
    let reads = (1..5).map(|cookie| {
        let mut thread = sits(6_000, "recvfrom", None, &[]);
        thread.blocked_in.as_mut().unwrap().cookie = Some(cookie);
        thread
    });
    let mut seen = with(reads).tcp((1..5).map(asked));
    threads(&mut seen).push(sits(7_000, "futex", None, &["pthread_mutex_lock", "work"]));
    nothing(&seen);
}

/// Threads that wait for news, with a limit, and others that wait for work.
#[test]
fn long_polls_are_meant_to_wait() {
    let limited = |number: u32| (0..number).map(|at| sits(5_000 + at, "futex", Some(20_000_000), &["wait", "handle"]));
    nothing(&with(limited(4)).tcp((1..5).map(asked)));
    // The main thread waits for its end.
    let mut seen = with(limited(4)).tcp((1..5).map(asked));
    threads(&mut seen).push(sits(PID, "futex", None, &["PyThread_acquire_lock_timed"]));
    nothing(&seen);
    // Who works for the caller sleeps for a while, among a pool without work whose stacks say nothing.
    let mut worker = with((0..4).map(|at| sits(5_000 + at, "futex", None, &[]))).tcp([asked(1)]);
    only(&worker, Cause::Unknown);
    threads(&mut worker).push(sits(6_000, "clock_nanosleep", Some(20_000_000), &[]));
    nothing(&worker);
    // A pool of which one works.
    let pool = (0..4).map(|at| sits(5_000 + at, "futex", None, &["pthread_cond_wait", "take_job"]));
    nothing(&with(pool.clone()).tcp([asked(1)]));
    // All of them wait without a limit, and nobody listens.
    only(&with(pool).tcp((1..5).map(asked)), Cause::Unknown);
    let mut java = locked(4).tcp((1..5).map(asked));
    java.process = Process { runtime: Runtime::Java, ..java.process };
    nothing(&java);
}

#[test]
fn requests_that_nobody_reads() {
    let unread = |us, sent_ms| {
        let mut socket = asked(1);
        (socket.unread_bytes, socket.unread_for_us) = (29, us);
        socket.last.as_mut().unwrap().last_data_sent_ms = sent_ms;
        socket
    };
    let seen = with([]).tcp([unread(WINDOW, 5_000)]);
    let finding = only(&seen, Cause::Unknown);
    assert!(finding.verdict.evidence[0].text.contains("29 bytes of its caller lie unread, for 5s"), "{finding:#?}");
    assert!(finding.verdict.summary.contains("sits in accept"), "{finding:#?}");
    nothing(&with([]).tcp([unread(1_900_000, 5_000)]));
    // It is being answered, and has sent its next request already.
    nothing(&with([]).tcp([unread(WINDOW, 100)]));
    // No descriptor: it was closed, or belongs to somebody else.
    nothing(&with([]).tcp([TcpSocket { fd: None, ..unread(WINDOW, 5_000) }]));
}

#[test]
fn connections_that_nobody_accepts() {
    let listener = Listener {
        cookie: 1,
        fd: Some(3),
        local: "10.0.0.1:80".parse().unwrap(),
        backlog: 128,
        queued_max: 3,
        queued_last: 3,
        waiting_us: WINDOW,
        full_rounds: 0,
        drops: Some(0),
        half_open: HalfOpen::default(),
    };
    let mut seen = with([]);
    seen.sockets.as_mut().unwrap().listeners = vec![listener.clone()];
    let finding = only(&seen, Cause::Unknown);
    assert!(
        finding.verdict.summary.starts_with("3 connections wait to be accepted, the longest for 5s"),
        "{finding:#?}"
    );
    let mut master = seen.clone();
    master.process.children = vec![4_300];
    nothing(&master);
    // A busy server takes one for each that comes.
    seen.connections.as_mut().unwrap().accepted = 50;
    threads(&mut seen)[0].blocked_us = 3_000;
    nothing(&seen);
    seen.connections.as_mut().unwrap().accepted = 0;
    seen.sockets.as_mut().unwrap().listeners[0].waiting_us = 400_000;
    nothing(&seen);
}

#[test]
fn goroutines_that_wait_for_a_lock() {
    let mut seen = with([]).tcp((1..5).map(asked));
    seen.process.runtime = Runtime::Go { version: "go1.26.1".to_owned() };
    let group = |reason: &str, stayed| GoroutineGroup {
        wait_reason: Some(reason.to_owned()),
        stack: stack(&["runtime.gopark", "sync.runtime_SemacquireMutex", "sync.(*Mutex).Lock", "main.lookUp"]),
        first: 4,
        last: 4,
        stayed,
        ..GoroutineGroup::default()
    };
    let go = |group| Some(Go { groups: vec![group], ..Go::default() });
    seen.go = go(group("sync.Mutex.Lock", 4));
    let finding = only(&seen, Cause::Unknown);
    assert!(finding.verdict.summary.contains("4 goroutines wait for sync.Mutex.Lock in main.lookUp"), "{finding:#?}");
    // Others each time: it goes on. A long poll waits for a channel.
    seen.go = go(group("sync.Mutex.Lock", 0));
    nothing(&seen);
    seen.go = go(group("select", 4));
    nothing(&seen);
}
