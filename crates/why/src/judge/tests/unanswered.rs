//! Callers who wait while nothing tells why, and healthy servers that look like them.

use super::*;
use crate::observation::{BlockedIn, Child, Go, GoroutineGroup, HttpHead, Listener, Process, Runtime, WaitsFor};

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
pub(super) fn locked(number: u32) -> Observation {
    let lock = ["__lll_lock_wait", "pthread_mutex_lock", "look_up", "handle"];
    with((0..number).map(|at| sits(5_000 + at, "futex", None, &lock)))
}

/// The first thread sits in `accept`, so many more for news, with a limit.
pub(super) fn limited(number: u32) -> Observation {
    with((0..number).map(|at| sits(5_000 + at, "futex", Some(20_000_000), &["wait", "handle"])))
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
    // The tool that fits its runtime, and no other.
    for (runtime, tool) in [(Runtime::Python, "py-spy"), (Runtime::Native, "gdb"), (Runtime::Node, "inspector")] {
        let mut seen = seen.clone();
        seen.process.runtime = runtime;
        let fix = only(&seen, Cause::Unknown).verdict.fix;
        let named = ["py-spy", "gdb", "inspector", "jcmd", "pprof"].into_iter().filter(|tool| fix.contains(tool));
        assert_eq!(named.collect::<Vec<_>>(), [tool], "{fix}");
    }
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

/// A pool of workers before a mutex, whose holder is one of them and sits elsewhere; a loop listens to all their callers.
#[test]
fn a_pool_behind_a_mutex_that_is_held() {
    let pool = |holder: Thread| {
        let lock = ["__lll_lock_wait", "pthread_mutex_lock", "log_line", "work"];
        let mut workers: Vec<Thread> = (0..3).map(|at| sits(5_000 + at, "futex", None, &lock)).collect();
        workers.iter_mut().for_each(|worker| worker.blocked_in.as_mut().unwrap().held_by = Some(holder.tid));
        let mut listening = sits(5_100, "epoll_wait", None, &["epoll_wait", "main"]);
        let member = |cookie| WaitsFor { fd: 8, events: 1, what: None, cookie: Some(cookie) };
        listening.blocked_in.as_mut().unwrap().waits_for = (1..11).map(member).collect();
        with(workers.into_iter().chain([holder, listening])).tcp((1..11).map(asked))
    };
    let seen = pool(sits(5_009, "clock_nanosleep", Some(3_600_000_000), &["clock_nanosleep", "sleep", "log_line"]));
    let finding = only(&seen, Cause::WaitUnlimited);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("3 threads wait in"), "{summary}");
    assert!(summary.contains("thread 5009 (server) holds, which itself sits in clock_nanosleep, from"), "{summary}");
    assert!(summary.contains("10 of its callers wait"), "{summary}");
    // The leader of a pool listens for work with the lock in hand; and a holder that moves gives it back.
    nothing(&pool(sits(5_009, "epoll_wait", None, &["epoll_wait"])));
    nothing(&pool(sits(5_009, "accept4", None, &["accept4"])));
    nothing(&pool(Thread { blocked_us: 10_000, ..sits(5_009, "clock_nanosleep", Some(50_000), &["sleep"]) }));
    // Nobody asked.
    let mut idle = seen;
    idle.sockets.as_mut().unwrap().tcp.clear();
    nothing(&idle);
}

/// All workers sit in a write to a log that nobody reads; there are more callers than workers.
#[test]
fn a_pool_that_is_stuck_in_a_pipe() {
    let pool = |last: Thread| {
        let mut workers: Vec<Thread> =
            (0..3).map(|at| sits(5_000 + at, "write", None, &["write", "log_line"])).collect();
        workers.iter_mut().for_each(|worker| worker.blocked_in.as_mut().unwrap().what = Some("pipe".to_owned()));
        with(workers.into_iter().chain([last])).tcp((1..11).map(asked))
    };
    only(&pool(sits(5_100, "epoll_wait", None, &["epoll_wait"])), Cause::WaitUnlimited);
    // One of them is free.
    advisory(&pool(sits(5_003, "futex", None, &["pthread_cond_wait"])), Cause::WaitUnlimited);
}

/// The thread that accepts reads from a client that says nothing, while others wait to be accepted.
#[test]
fn one_silent_client_holds_up_those_who_come() {
    let mut seen = with([]);
    *threads(&mut seen) = vec![sits(PID, "recvfrom", None, &["recv", "serve"])];
    seen.threads.as_mut().unwrap().last = 1;
    threads(&mut seen)[0].blocked_in.as_mut().unwrap().cookie = Some(1);
    threads(&mut seen)[0].blocked_in.as_mut().unwrap().timeout_us = None;
    let mut client = inbound(1, "10.0.0.20:50000");
    client.timer = TcpTimer { kind: TimerKind::Off, expires_ms: 0, fired: 0 };
    let seen = seen.tcp([client]);
    nothing(&seen);
    let mut queue = seen;
    queue.sockets.as_mut().unwrap().listeners =
        vec![Listener { queued_max: 4, queued_last: 4, waiting_us: 3_000_000, ..process::listener() }];
    let finding = only(&queue, Cause::WaitUnlimited);
    assert!(finding.verdict.summary.ends_with("connections wait to be accepted meanwhile"), "{finding:#?}");
}

/// A backend of PostgreSQL waits for the lock of another: for a signal, in an epoll set without its client.
#[test]
fn a_backend_that_waits_for_a_lock() {
    let backend = |limit, cookie| {
        let mut thread =
            sits(PID, "epoll_wait", limit, &["epoll_wait", "WaitLatch", "ProcSleep", "LockAcquireExtended"]);
        let member = WaitsFor { fd: 8, events: 25, what: Some("signalfd".to_owned()), cookie };
        thread.blocked_in.as_mut().unwrap().waits_for = vec![member];
        let mut seen = with([]);
        *threads(&mut seen) = vec![thread];
        seen.tcp([asked(1)])
    };
    let finding = only(&backend(None, None), Cause::Unknown);
    assert!(finding.verdict.summary.contains("WaitLatch < ProcSleep < LockAcquireExtended"), "{finding:#?}");
    // `pg_sleep`; a server that listens to another client; a monitor whose child answers.
    nothing(&backend(Some(60_000_000), None));
    nothing(&backend(None, Some(2)));
    let mut monitor = backend(None, None);
    monitor.process.children = vec![7];
    nothing(&monitor);
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
    nothing(&limited(4).tcp((1..5).map(asked)));
    // The main thread waits for its end.
    let mut seen = limited(4).tcp((1..5).map(asked));
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
    let listener = Listener { queued_max: 3, queued_last: 3, waiting_us: WINDOW, ..process::listener() };
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

/// Threads of Go's runtime that have no work, as many as it once needed at the same time.
#[test]
fn threads_of_go_without_work() {
    let without_work = ["runtime.futex.abi0", "runtime.notesleep", "runtime.stopm", "runtime.findRunnable"];
    let mut seen = with((0..20).map(|at| sits(5_000 + at, "futex", None, &without_work))).tcp((1..5).map(asked));
    seen.process.runtime = Runtime::Go { version: "go1.27".to_owned() };
    let group = |reason: &str, functions: &[&str]| GoroutineGroup {
        wait_reason: Some(reason.to_owned()),
        stack: stack(functions),
        first: 4,
        last: 4,
        stayed: 4,
        ..GoroutineGroup::default()
    };
    let go = |group| Some(Go { groups: vec![group], ..Go::default() });
    seen.go = go(group("select", &["runtime.gopark", "runtime.selectgo", "main.wait"]));
    nothing(&seen);
    // Behind one that writes to a pipe which nobody reads.
    let file = ["internal/poll.(*fdMutex).rwlock", "internal/poll.(*FD).Write", "os.(*File).Write", "fmt.Println"];
    seen.go = go(group("semacquire", &file));
    let finding = only(&seen, Cause::Unknown);
    assert!(finding.verdict.summary.contains("4 goroutines wait for semacquire in os.(*File).Write"), "{finding:#?}");
    // A slow client of several writers.
    seen.go = go(group("semacquire", &["internal/poll.(*fdMutex).rwlock", "internal/poll.(*FD).Write", "net.Write"]));
    nothing(&seen);
}

#[test]
fn children_that_compute_for_the_callers() {
    let mut seen = locked(4).tcp((1..5).map(asked));
    let child = |pid, cpu_us| Child { pid, name: "python3".to_owned(), cpu_us, sockets: Some(3) };
    seen.process.busiest_children = vec![child(4_300, 1_590_000), child(4_301, 1_530_000)];
    nothing(&seen);
    seen.process.busiest_children.truncate(1);
    only(&seen, Cause::Unknown);
}

/// A thread that takes Python's lock by `with`, one that waits for its condition.
const WITH: [&str; 3] = ["acquire_timed", "lock_PyThread_acquire_lock", "cfunction_call"];
const WAIT: [&str; 3] = ["acquire_timed", "lock_PyThread_acquire_lock", "method_vectorcall_VARARGS_KEYWORDS"];

#[test]
fn callers_before_a_lock_of_python() {
    let python = |functions: &[&str]| {
        let mut seen = with((0..3).map(|at| sits(5_000 + at, "futex", None, functions))).tcp((1..7).map(asked));
        seen.process.runtime = Runtime::Python;
        // The holder, and one that has just come to the lock, with its next request.
        threads(&mut seen).push(sits(6_000, "clock_nanosleep", Some(1_500_000), &[]));
        let mut next = sits(6_001, "futex", None, functions);
        next.blocked_us = 250_000;
        next.calls = vec![("futex".to_owned(), 19), ("recvfrom".to_owned(), 1)];
        threads(&mut seen).push(next);
        seen
    };
    let seen = python(&WITH);
    assert!(only(&seen, Cause::Unknown).verdict.summary.contains("3 threads (server) sit in futex"));
    nothing(&python(&WAIT));
    // It mostly listens.
    let mut listens = seen.clone();
    threads(&mut listens).last_mut().unwrap().calls = vec![("recvfrom".to_owned(), 15), ("futex".to_owned(), 5)];
    nothing(&listens);
    // Callers that are gone wait no more.
    let mut gone = seen;
    gone.sockets.as_mut().unwrap().tcp.iter_mut().for_each(|socket| socket.last_seen_us = 4_250_000);
    nothing(&gone);
}

/// Threads of Java that wait there, and those of its virtual machine.
fn java(functions: &[&str]) -> Observation {
    let machine = [
        ("java", &["CallJavaMainInNewThread", "JLI_Launch"][..]),
        ("GC Thread#0", &["PosixSemaphore::wait()", "GangWorker::loop()"]),
        ("G1 Conc#0", &["PosixSemaphore::wait()", "GangWorker::loop()"]),
        ("Finalizer", &["pthread_cond_wait", "ObjectMonitor::wait(long, bool, JavaThread*)"]),
    ];
    let named =
        |(name, functions): (&str, &[&str])| Thread { name: name.to_owned(), ..sits(4_900, "futex", None, functions) };
    let handlers = (0..4).map(|at| sits(5_000 + at, "futex", None, functions));
    let mut seen = with(machine.map(named).into_iter().chain(handlers));
    seen.process.runtime = Runtime::Java;
    seen
}

#[test]
fn handlers_of_java_before_a_monitor() {
    let enters = ["pthread_cond_wait", "os::PlatformEvent::park()", "ObjectMonitor::EnterI(JavaThread*)"];
    let finding = only(&java(&enters).tcp((1..5).map(asked)), Cause::Unknown);
    assert!(finding.verdict.summary.contains("4 threads (server) sit in futex"), "{finding:#?}");
    // They wait for news, or work.
    let waits = ["pthread_cond_wait", "os::PlatformEvent::park()", "ObjectMonitor::wait(long, bool, JavaThread*)"];
    let parks = ["pthread_cond_wait", "Parker::park(bool, long)", "Unsafe_Park"];
    nothing(&java(&waits).tcp((1..5).map(asked)));
    nothing(&java(&parks).tcp((1..5).map(asked)));
}

/// Threads of a virtual machine, or without work, are not where it hangs.
#[test]
fn the_place_is_that_of_a_thread_with_work() {
    let mut unread = asked(1);
    (unread.unread_bytes, unread.unread_for_us) = (29, WINDOW);
    let sleeps = ["os::PlatformEvent::park(long)", "JavaThread::sleep(long)", "JVM_Sleep"];
    let finding = only(&java(&sleeps).tcp([unread.clone()]), Cause::Unknown);
    assert!(finding.verdict.summary.contains("while 4 threads (server) sit in futex"), "{finding:#?}");
    assert!(finding.verdict.evidence.iter().all(|it| !it.text.contains("GangWorker")), "{finding:#?}");
    let mut redis = with((0..4).map(|at| sits(5_000 + at, "futex", None, &["pthread_cond_wait", "bioProcess"])));
    threads(&mut redis)[0] = sits(PID, "clock_nanosleep", Some(20_000_000), &["clock_nanosleep", "debugCommand"]);
    let mut redis = redis.tcp([unread]);
    let finding = only(&redis, Cause::Unknown);
    assert!(finding.verdict.summary.contains("sits in clock_nanosleep"), "{finding:#?}");
    threads(&mut redis).iter_mut().for_each(|thread| thread.stack = None);
    let finding = only(&redis, Cause::Unknown);
    assert!(finding.verdict.summary.contains("sits in clock_nanosleep"), "{finding:#?}");
}

/// Its loop listens to all connections, and what it hands to the pool waits.
#[test]
fn the_pool_of_node_is_used_up() {
    let node = |opens: u32| {
        let worker = |at: u32| match at < opens {
            true => sits(5_000 + at, "openat", None, &["open64", "uv__fs_open", "uv__fs_work", "worker"]),
            false => sits(5_000 + at, "futex", None, &["pthread_cond_wait", "uv_cond_wait", "worker"]),
        };
        let mut seen = with((0..4).map(worker)).tcp((1..5).map(asked));
        seen.process.runtime = Runtime::Node;
        let mut poller = sits(PID, "epoll_wait", Some(29_000_000), &["epoll_pwait", "uv__io_poll", "uv_run"]);
        let member = |cookie| WaitsFor { fd: 9, events: 1, what: None, cookie: Some(cookie) };
        poller.blocked_in.as_mut().unwrap().waits_for = (1..5).map(member).collect();
        threads(&mut seen)[0] = poller;
        seen
    };
    let finding = only(&node(4), Cause::Unknown);
    assert!(finding.verdict.summary.contains("while 4 threads (server) sit in openat"), "{finding:#?}");
    nothing(&node(3));
    nothing(&node(0));
}
