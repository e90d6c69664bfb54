//! Threads and tasks, as hostile programs had them: the healthy one is not judged, the sick one beside it is.

use super::{
    calls::{asked, blocked},
    *,
};
use crate::observation::{
    BlockedIn, Go, GoroutineGroup, History, HotStack, Listener, Look, Moment, Opener, Runtime, TcpCounts, ThreadCounts,
};

/// A request that nobody has read for so long.
fn unread_for(us: u64) -> TcpSocket {
    TcpSocket { unread_bytes: 79, unread_for_us: us, ..inbound(7, "10.0.0.9:50000") }
}

/// A client that came in the window, and has its answer.
fn came(cookie: u64) -> TcpSocket {
    let mut socket = TcpSocket { since_before: false, in_state_us: 2_700_000, ..inbound(cookie, "10.0.0.9:50000") };
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (799, 800);
    socket
}

/// The same, and its request was not answered.
fn came_in_vain(cookie: u64) -> TcpSocket {
    let mut socket = came(cookie);
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (2_700, 2_500);
    socket
}

fn queue(queued: u32, waiting_us: u64) -> Listener {
    Listener {
        cookie: 5,
        fd: Some(19),
        local: "127.0.0.1:18151".parse().unwrap(),
        backlog: 511,
        queued_max: queued,
        queued_last: queued,
        queued_min: queued,
        waiting_us,
        full_rounds: 0,
        drops: Some(0),
        half_open: crate::observation::HalfOpen::default(),
    }
}

fn with_epoll(mut seen: Observation, runtime: Runtime) -> Observation {
    seen.process.runtime = runtime;
    seen.fds.as_mut().unwrap().by_kind = vec![kind("epoll", 1, 1)];
    seen
}

/// Node: each request computes for 1.5 s on the loop, on a machine that is shared. Three polls in 3 s.
fn node_that_computes() -> Observation {
    let mut seen = with_epoll(idle().used(1_850_000), Runtime::Node)
        .thread(|thread| {
            (thread.state, thread.runqueue_us, thread.involuntary_switches) =
                (ThreadState::Running, Some(3_240_000), 574);
        })
        .tcp([unread_for(1_258_000)])
        .poll(PollLoop { returns: 3, timeouts: Timeouts { zero: 3, ..Timeouts::default() }, ..PollLoop::default() });
    seen.sockets.as_mut().unwrap().listeners = vec![queue(0, 0)];
    seen.polling.as_mut().unwrap().looked_us = 3_100_000;
    let cpu = seen.cpu.as_mut().unwrap();
    (cpu.runqueue_us, cpu.samples) = (Some(3_250_000), 195);
    let hot = |leaf, samples| HotStack {
        stack: stack(&[leaf, "CurrentTimeMillis", "DateCurrentTime", "on_headers_complete", "main"]),
        thread: "node".to_owned(),
        samples,
    };
    cpu.hot = Some(vec![hot("Now", 44), hot("ToJsTime", 40), hot("clock", 36), hot("gettimeofday", 30)]);
    seen
}

#[test]
fn a_loop_that_computes_while_callers_wait() {
    let finding = only(&node_that_computes(), Cause::RuntimeBlocked);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("computes for long at a time, 77 % of it in CurrentTimeMillis <"), "{summary}");
    assert!(summary.contains("the longest for 1.26s"), "{summary}");
    // Redis in a script: it has not polled at all, its callers are not even accepted, and its other threads are idle.
    let mut redis = with_epoll(node_that_computes(), Runtime::Native);
    redis.polling.as_mut().unwrap().loops.clear();
    redis.sockets.as_mut().unwrap().tcp.clear();
    redis.sockets.as_mut().unwrap().listeners = vec![queue(3, 2_000_000)];
    let idle_thread = Thread { tid: 9, name: "bio_aof".to_owned(), ..Thread::default() };
    redis.threads.as_mut().unwrap().threads.push(idle_thread);
    only(&redis, Cause::RuntimeBlocked);
    // asyncio reads all requests at once, and works on one after the other.
    let mut python = with_epoll(node_that_computes(), Runtime::Python);
    python.sockets.as_mut().unwrap().tcp = (1..=3).map(came_in_vain).collect();
    only(&python, Cause::RuntimeBlocked);
    python.sockets.as_mut().unwrap().tcp.pop();
    nothing(&python);
}

/// It computes for two seconds at a time, and turns often in between: at the end all have been read.
#[test]
fn a_loop_that_computes_for_long_now_and_then() {
    let seen = |late: usize, of: u64| {
        let mut seen = node_that_computes();
        seen.polling.as_mut().unwrap().loops[0].returns = 90;
        let client = |cookie| {
            let mut socket = inbound(cookie, "10.0.0.9:50000");
            socket.first = Some(TcpInfo { bytes_received: Some(100), ..socket.last.unwrap() });
            socket.last.as_mut().unwrap().bytes_received = Some(500);
            socket
        };
        let mut clients: Vec<TcpSocket> = (1..=of).map(client).collect();
        clients.iter_mut().take(late).for_each(|socket| socket.unread_longest_us = 1_750_000);
        seen.sockets.as_mut().unwrap().tcp = clients;
        seen
    };
    let finding = only(&seen(10, 10), Cause::RuntimeBlocked);
    assert!(finding.verdict.summary.contains("the longest for 1.75s"), "{finding:#?}");
    // Some uploads are paused while the others are served.
    assert!(judge(&seen(3, 10)).verdicts.is_empty());
    assert!(judge(&seen(2, 2)).verdicts.is_empty());
}

#[test]
fn a_loop_that_computes_and_holds_up_nobody() {
    let quiet: [fn(&mut Observation); 8] = [
        // Nobody waits, or not for long.
        |seen| seen.sockets.as_mut().unwrap().tcp.clear(),
        |seen| seen.sockets.as_mut().unwrap().tcp[0].unread_for_us = 300_000,
        // What is unread came from a peer of ours: it may be read later.
        |seen| seen.sockets.as_mut().unwrap().tcp[0].inbound = false,
        // It computes in slices and polls between them: a client whose upload is paused.
        |seen| seen.polling.as_mut().unwrap().loops[0].returns = 90,
        // It is hardly let run, on a machine that others keep busy.
        |seen| {
            let thread = &mut seen.threads.as_mut().unwrap().threads[0];
            (thread.cpu_us, thread.runqueue_us) = (400_000, Some(4_500_000));
        },
        // A backend of a database, whose only client has sent more than one query.
        |seen| seen.sockets.as_mut().unwrap().listeners.clear(),
        // One of several workers that compute.
        |seen| {
            let threads = &mut seen.threads.as_mut().unwrap().threads;
            threads.push(Thread { tid: 9, ..threads[0].clone() });
        },
        // Each thread has its own loop.
        |seen| {
            seen.process.runtime = Runtime::Native;
            let threads = &mut seen.threads.as_mut().unwrap().threads;
            threads.push(Thread { tid: 9, calls: vec![("epoll_wait".to_owned(), 20)], ..Thread::default() });
        },
    ];
    for (at, change) in quiet.into_iter().enumerate() {
        let mut seen = node_that_computes();
        change(&mut seen);
        let judgement = judge(&seen);
        assert!(judgement.verdicts.is_empty(), "{at}: {judgement:#?}");
    }
}

#[test]
fn the_place_that_computes_is_the_one_that_all_samples_share() {
    let mut seen = node_that_computes().used(4_800_000);
    seen.sockets.as_mut().unwrap().tcp.clear();
    let finding = advisory(&seen, Cause::CpuBusy);
    assert!(finding.verdict.summary.contains("77 % of it in CurrentTimeMillis"), "{finding:#?}");
    // Where they share none, the stack with the most.
    let hot = |name, samples| HotStack { stack: stack(&[name]), samples, ..HotStack::default() };
    seen.cpu.as_mut().unwrap().hot = Some(vec![hot("parse", 39), hot("render", 30)]);
    let finding = advisory(&seen, Cause::CpuBusy);
    assert!(finding.verdict.summary.contains("20 % of it in parse"), "{finding:#?}");
}

/// It never sleeps, and others want the processor, too.
#[test]
fn a_process_that_computes_on_a_busy_machine() {
    let shares = |used_us: u64| {
        let mut seen = idle().used(used_us);
        seen.cpu.as_mut().unwrap().runqueue_us = Some(WINDOW - used_us);
        seen
    };
    advisory(&shares(1_490_000), Cause::CpuBusy);
    let starved = judge(&shares(400_000));
    assert!(starved.advisories.iter().all(|finding| finding.verdict.cause != Cause::CpuBusy), "{starved:#?}");
}

/// Node: `execSync` polls an epoll set of its own, with the stack of that in the end.
fn node_that_waits_for_a_child(epolls: &[(u32, u32)], functions: &[&str]) -> Observation {
    let mut seen = with_epoll(idle(), Runtime::Node)
        .thread(|thread| {
            thread.blocked_in = Some(BlockedIn { call: "epoll_wait".to_owned(), fd: Some(23), ..BlockedIn::default() });
            thread.calls = vec![("epoll_wait".to_owned(), 20)];
            thread.epolls = epolls.to_vec();
            thread.stack = Some(stack(functions));
            (thread.blocked_us, thread.voluntary_switches) = (500_000, 16);
        })
        .tcp([unread_for(500_000)])
        .poll(PollLoop { returns: 8, ..PollLoop::default() });
    seen.sockets.as_mut().unwrap().listeners = vec![queue(13, 0)];
    seen
}

const SPAWN: [&str; 4] = ["epoll_pwait", "uv__io_poll", "uv_run", "node::SyncProcessRunner::Spawn(v8::Local)"];

#[test]
fn a_loop_of_node_that_waits_for_a_child() {
    let finding = only(&node_that_waits_for_a_child(&[(23, 18), (13, 2)], &SPAWN), Cause::RuntimeBlocked);
    assert!(finding.verdict.summary.contains("execSync or spawnSync for 90 % of the time"), "{finding:#?}");
    // The last look found it in the loop's own set.
    let between = node_that_waits_for_a_child(&[(13, 18), (23, 2)], &SPAWN[..3]);
    only(&between, Cause::RuntimeBlocked);
    // A script that does the same for itself.
    let mut script = node_that_waits_for_a_child(&[(23, 20)], &SPAWN);
    script.sockets = Some(Sockets::default());
    let finding = advisory(&script, Cause::RuntimeBlocked);
    assert!(finding.verdict.summary.contains("was not seen"), "{finding:#?}");
    // Its loop waits, as it should; or a child is asked for now and then.
    nothing(&node_that_waits_for_a_child(&[(23, 20)], &SPAWN[..3]));
    nothing(&node_that_waits_for_a_child(&[(13, 18), (23, 2)], &SPAWN));
}

/// A handler of asyncio that calls an upstream and blocks: one wait, and what it does to the loop follows from it.
#[test]
fn a_loop_that_sits_in_a_call_to_a_peer() {
    let sits = |cookie, call: fn(&mut Connection)| {
        let seen = asked(call).tcp([outbound(9, "10.0.0.9:80"), outbound(10, "10.0.0.10:80"), unread_for(3_000_000)]);
        let full = Listener { full_rounds: 20, queued_last: 129, ..process::listener() };
        blocked(process::listening(with_epoll(seen, Runtime::Python), full), "recvfrom", cookie, 3_000_000)
            .thread(|thread| thread.calls = vec![("recvfrom".to_owned(), 20)])
    };
    let finding = only(&sits(9, |_| {}), Cause::WaitsUpstream);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("begins there, and an event loop of this process sits in the call"), "{summary}");
    assert!(finding.verdict.fix.contains("no call that blocks on the loop"), "{}", finding.verdict.fix);
    let effects: Vec<Cause> = finding.effects.iter().map(|effect| effect.verdict.cause).collect();
    assert!(effects.contains(&Cause::RuntimeBlocked) && effects.contains(&Cause::ServerSlow), "{effects:?}");
    let blocked = finding.effects.iter().find(|effect| effect.verdict.cause == Cause::RuntimeBlocked).unwrap();
    assert_eq!(blocked.effects[0].verdict.cause, Cause::AcceptQueueOverflow);
    // Each call is short: only the loop is to blame. And one that sits in another call.
    let short = |call: &mut Connection| {
        (call.read_bytes, call.last_read) = (40, Some(Moment::At(WINDOW - 20_000)));
        let http = call.http.as_mut().unwrap();
        (http.status, http.answered, http.missing_bytes) = (Some(200), call.last_read, Some(0));
    };
    only(&sits(9, short), Cause::RuntimeBlocked);
    only(&sits(10, |_| {}), Cause::RuntimeBlocked);
}

#[test]
fn a_thread_with_a_loop_for_which_nobody_waits() {
    let sits = |runtime, call: &str| {
        with_epoll(idle(), runtime).thread(|thread| {
            thread.blocked_in = Some(BlockedIn { call: call.to_owned(), ..BlockedIn::default() });
            thread.calls = vec![(call.to_owned(), 20)];
            thread.blocked_us = 750_000;
        })
    };
    // Python that sleeps between the runs of its loop, Node that reads what somebody types.
    for seen in [sits(Runtime::Python, "clock_nanosleep"), sits(Runtime::Node, "read")] {
        let finding = advisory(&seen, Cause::RuntimeBlocked);
        assert!(finding.verdict.summary.contains("was not seen"), "{finding:#?}");
        only(&seen.tcp([unread_for(200_000)]), Cause::RuntimeBlocked);
    }
    // The requests of its clients lie unread at most looks, though not at the last.
    let mut turns = sits(Runtime::Node, "futex").tcp([inbound(7, "10.0.0.9:50000")]);
    let look = |at: u64| Look {
        at_us: at * 250_000,
        tcp: Some(TcpCounts { unread_bytes: if at.is_multiple_of(2) { 79 } else { 0 }, ..TcpCounts::default() }),
        ..Look::default()
    };
    turns.history = Some(History { looks: (0..20).map(look).collect() });
    only(&turns, Cause::RuntimeBlocked);
    // A connection of its own that the peer has closed.
    let closed = TcpSocket { fin_unread: true, state: TcpState::CloseWait, ..outbound(7, "10.0.0.9:80") };
    advisory(&sits(Runtime::Python, "clock_nanosleep").tcp([closed]), Cause::RuntimeBlocked);
    // Python that waits for its child.
    let mut parent = sits(Runtime::Python, "wait4");
    parent.process.only_waits_for_children = true;
    assert_eq!(judge(&parent), Judgement::default());
}

fn in_state_d(wchan: &str, call: Option<&str>, blocked_us: u64, switches: u64) -> Observation {
    idle().thread(|thread| {
        thread.state = ThreadState::Uninterruptible;
        thread.wchan = Some(wchan.to_owned());
        thread.blocked_in = call.map(|call| BlockedIn { call: call.to_owned(), ..BlockedIn::default() });
        (thread.blocked_us, thread.voluntary_switches, thread.since_before) = (blocked_us, switches, switches == 0);
    })
}

#[test]
fn what_state_d_is_for() {
    let stuck = only(&in_state_d("nfs_wait_on_request", Some("read"), WINDOW, 0), Cause::IoStuck);
    assert!(stuck.verdict.summary.contains("for 5s without a switch"), "{stuck:#?}");
    // A slow disk: it goes on all the time.
    let slow = advisory(&in_state_d("io_schedule", Some("pwrite64"), 40_000, 116), Cause::IoStuck);
    assert!(slow.verdict.summary.contains("goes on: 43.1ms for each wait"), "{slow:#?}");
    // A child that uses its memory: a signal does end that.
    let mut vfork = in_state_d("kernel_clone", Some("vfork"), WINDOW, 0);
    vfork.process.children = vec![4711];
    let vfork = only(&vfork, Cause::IoStuck);
    assert!(vfork.verdict.summary.contains("until its child ends or executes a program"), "{vfork:#?}");
    assert!(vfork.verdict.fix.contains("--pid 4711"), "{vfork:#?}");
}

#[test]
fn a_frozen_control_group_is_no_stuck_disk() {
    for wchan in ["__refrigerator", "do_freezer_trap"] {
        let paused = in_state_d(wchan, None, WINDOW, 0);
        let finding = advisory(&paused, Cause::CpuThrottled);
        assert!(finding.verdict.summary.contains("is frozen"), "{finding:#?}");
        only(&paused.tcp([unread_for(WINDOW)]), Cause::CpuThrottled);
    }
}

/// Goroutines at each quarter of the watch; of them as many as the last pair says are at one place.
fn goroutines(counts: [u64; 5], reason: &str, group: (u64, u64)) -> Observation {
    let mut seen = idle();
    seen.process.runtime = Runtime::Go { version: "go1.27".to_owned() };
    seen.go = Some(Go {
        version: "go1.27".to_owned(),
        goroutines: readings(&counts),
        heap_bytes: readings(&[639_000, 1_900_000]),
        groups: vec![GoroutineGroup {
            wait_reason: Some(reason.to_owned()),
            stack: stack(&["runtime.gopark", "main.serve"]),
            first: group.0,
            last: group.1,
            ..GoroutineGroup::default()
        }],
        ..Go::default()
    });
    seen
}

#[test]
fn goroutines_of_clients_that_come() {
    let grows = || goroutines([1, 26, 51, 76, 101], "IO wait", (0, 100));
    nothing(&grows().tcp((1..=100).map(came)));
    // Each has a second one, which writes.
    nothing(&goroutines([1, 51, 101, 151, 201], "select", (0, 100)).tcp((1..=100).map(came)));
    // They wait for something else than their clients, or their clients wait for them.
    only(&grows(), Cause::TaskLeak);
    only(
        &goroutines([1, 26, 51, 76, 101], "sync.Mutex.Lock", (0, 100)).tcp((1..=100).map(came_in_vain)),
        Cause::TaskLeak,
    );
}

/// Sidecars that connect to a unix socket while it starts, and stay.
#[test]
fn goroutines_of_clients_on_a_unix_socket() {
    let grows = |reason, call: &str, sockets| {
        let mut seen = goroutines([1, 26, 51, 76, 101], reason, (0, 100));
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.open) = (1 << 20, rising(10, 5));
        fds.by_kind = vec![kind("unix", 0, sockets)];
        let opener = Opener { stack: stack(&["accept4", "main.serve"]), call: call.to_owned(), still_open: 40 };
        fds.openers = Some(vec![opener]);
        seen
    };
    nothing(&grows("IO wait", "accept4", 100));
    // They wait for each other; for a server to which each has connected; they are more; or a caller waits for one.
    for seen in [
        grows("chan send", "accept4", 100),
        grows("IO wait", "socket", 100),
        grows("IO wait", "accept4", 50),
        grows("IO wait", "accept4", 100).tcp([came_in_vain(1)]),
    ] {
        assert!(causes(&judge(&seen)).contains(&Cause::TaskLeak.id()), "{:#?}", judge(&seen));
    }
}

/// A load generator that begins with a few users: each calls over a connection of its own, again and again, and the server
/// takes its 300 ms.
#[test]
fn goroutines_of_calls_that_go_on() {
    let calls = |sent_ms, recv_ms| {
        let call = move |cookie| {
            let mut socket = TcpSocket { since_before: false, ..outbound(cookie, "127.0.0.1:7200") };
            let tcp = socket.last.as_mut().unwrap();
            (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, recv_ms);
            socket
        };
        let mut seen = goroutines([94, 165, 236, 307, 388], "select", (94, 188)).tcp((1..=96).map(call));
        seen.connections.as_mut().unwrap().opened = 96;
        seen
    };
    nothing(&calls(140, 440));
    // Each was used once and left; its answer does not come.
    only(&calls(2_440, 2_140), Cause::TaskLeak);
    assert!(causes(&judge(&calls(2_440, 2_900))).contains(&Cause::TaskLeak.id()));
}

/// Connections that are opened and left, with a goroutine each; and goroutines that wait for each other with a file each.
#[test]
fn goroutines_of_descriptors_that_leak() {
    let leaks = |reason| {
        let mut seen = goroutines([1, 26, 51, 76, 101], reason, (0, 100));
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.open, fds.by_kind) = (256, rising(10, 5), vec![kind("file", 5, 100)]);
        seen
    };
    let finding = only(&leaks("IO wait"), Cause::FdLeak);
    assert_eq!(finding.effects[0].verdict.cause, Cause::TaskLeak);
    assert_eq!(causes(&judge(&leaks("chan send"))), ["task-leak", "fd-leak"]);
}

#[test]
fn goroutines_of_a_batch() {
    nothing(&goroutines([1, 201, 201, 201, 201], "chan receive", (0, 200)));
    nothing(&goroutines([1, 51, 101, 151, 201], "sleep", (0, 200)));
    only(&goroutines([1, 51, 101, 151, 201], "chan receive", (0, 200)), Cause::TaskLeak);
}

/// Jobs that are put off by 8 s, in the first seconds of their program's life.
#[test]
fn goroutines_that_wait_for_their_time() {
    let delayed = |age_us, reason| {
        let mut seen = goroutines([71, 92, 113, 134, 160], reason, (71, 159));
        seen.process.age_us = age_us;
        seen
    };
    for reason in ["select", "chan receive"] {
        let finding = advisory(&delayed(Some(3_027_000), reason), Cause::TaskLeak);
        assert_eq!(finding.verdict.confidence, Confidence::Low);
        only(&delayed(Some(20_000_000), reason), Cause::TaskLeak);
        only(&delayed(None, reason), Cause::TaskLeak);
    }
    // No timer ends these.
    only(&delayed(Some(3_027_000), "chan send"), Cause::TaskLeak);
    only(&delayed(Some(3_027_000), "sync.Mutex.Lock"), Cause::TaskLeak);
    // All of a long life was watched.
    let mut all = delayed(Some(0), "select");
    all.window_us = 40_000_000;
    for (quarter, reading) in (0..).zip(&mut all.go.as_mut().unwrap().goroutines) {
        reading.at_us = quarter * 10_000_000;
    }
    only(&all, Cause::TaskLeak);
}

/// Threads at each quarter of the watch, each in a call of its own.
pub(super) fn threads(counts: [u64; 5], call: impl Fn(u32) -> BlockedIn) -> Observation {
    let mut seen = idle();
    let threads = seen.threads.as_mut().unwrap();
    (threads.first, threads.last) = (counts[0], counts[4]);
    let thread = |tid| Thread { tid, blocked_in: Some(call(tid)), ..Thread::default() };
    threads.threads = (0..u32::try_from(counts[4]).unwrap()).map(thread).collect();
    let look = |(quarter, sleeping)| Look {
        at_us: WINDOW / 4 * quarter,
        threads: Some(ThreadCounts { sleeping, ..ThreadCounts::default() }),
        ..Look::default()
    };
    seen.history = Some(History { looks: (0..).zip(counts).map(look).collect() });
    seen
}

#[test]
fn threads_of_clients_that_come() {
    let reads = |tid: u32| BlockedIn {
        call: "recvfrom".to_owned(),
        what: Some(format!("tcp 127.0.0.1:{}", 40_000 + tid)),
        cookie: Some(tid.into()),
        ..BlockedIn::default()
    };
    let ramp = || threads([1, 10, 20, 30, 41], reads);
    nothing(&ramp().tcp((1..=40).map(came)));
    // No place where they all are, whoever started them.
    nothing(&ramp());
    let lock = |_| BlockedIn { call: "futex".to_owned(), timeout_us: Some(None), ..BlockedIn::default() };
    nothing(&threads([1, 10, 20, 30, 41], lock).tcp((1..=40).map(came)));
    only(&threads([1, 10, 20, 30, 41], lock).tcp((1..=40).map(came_in_vain)), Cause::TaskBacklog);
    // Java waits for work as it waits for a lock; so do the workers of Python's executors, and their stack tells.
    let mut java = threads([1, 10, 20, 30, 41], lock);
    java.process.runtime = Runtime::Java;
    advisory(&java, Cause::TaskBacklog);
    let mut pool = threads([1, 10, 20, 30, 41], lock);
    for thread in &mut pool.threads.as_mut().unwrap().threads {
        thread.stack =
            Some(stack(&["PyThread_acquire_lock_timed", "_queue_SimpleQueue_get_impl", "_queue_SimpleQueue_get"]));
    }
    nothing(&pool);
}

/// A thread that has been in that call on that all along.
fn waits(call: &str, what: &str) -> Observation {
    idle().thread(|thread| {
        thread.blocked_in = Some(BlockedIn {
            call: call.to_owned(),
            fd: Some(3),
            what: Some(what.to_owned()),
            peer_pid: Some(812),
            ..BlockedIn::default()
        });
        (thread.blocked_us, thread.since_before) = (WINDOW, true);
    })
}

#[test]
fn waits_for_others_than_tcp() {
    let finding = advisory(&waits("recvfrom", "unix /run/docker.sock"), Cause::WaitUnlimited);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("on unix /run/docker.sock (held by process 812) for 5s or longer"), "{summary}");
    advisory(&waits("recvfrom", "udp 127.0.0.1:18195"), Cause::WaitUnlimited);
    // A log that nobody reads.
    let log = advisory(&waits("write", "pipe"), Cause::WaitUnlimited);
    assert!(log.verdict.summary.contains("waits in write on a pipe (descriptor 3)"), "{log:#?}");
    let output = waits("write", "pipe").thread(|thread| thread.blocked_in.as_mut().unwrap().fd = Some(1));
    let output = advisory(&output, Cause::WaitUnlimited).verdict;
    assert!(
        output.summary.contains("on its standard output, a pipe") && output.fix.contains("Whoever reads that pipe")
    );
    // Work that has not come: a listener's end, a socket of UDP that hears everybody, a pipe.
    for (call, what) in [("recvfrom", "unix"), ("recvmsg", "udp"), ("read", "pipe"), ("accept4", "unix /run/a.sock")] {
        assert_eq!(judge(&waits(call, what)), Judgement::default(), "{call} {what}");
    }
    // Callers wait for the only thread; with others it is not known that they wait for this one.
    let mut asked = inbound(7, "10.0.0.9:50000");
    let tcp = asked.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (2_700, 2_500);
    let mut held = waits("recvfrom", "unix /run/docker.sock").tcp([asked]);
    only(&held, Cause::WaitUnlimited);
    held.threads.as_mut().unwrap().last = 9;
    advisory(&held, Cause::WaitUnlimited);
}

/// A connection that is kept alive, of which nobody knows what is said on it.
#[test]
fn a_keepalive_ends_no_wait_for_a_peer_that_lives() {
    let waits = |seen: Observation| blocked(seen, "recvfrom", 9, WINDOW);
    let upstream = |sent_ms, received_ms| {
        let mut upstream = outbound(9, "10.0.0.9:5432");
        let tcp = upstream.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, received_ms);
        upstream
    };
    let asked = |ms| {
        let mut asked = inbound(7, "10.0.0.9:50000");
        let tcp = asked.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (ms + 200, ms);
        asked
    };
    let seen = waits(idle().tcp([upstream(6_400, 7_000), asked(6_500)]));
    let finding = only(&seen, Cause::WaitsUpstream);
    let unlimited = finding.effects.iter().find(|effect| effect.verdict.cause == Cause::WaitUnlimited).unwrap();
    assert!(unlimited.verdict.summary.contains("only when the peer's host is gone"), "{}", unlimited.verdict.summary);
    // News, which came last; nobody asks for them.
    advisory(&waits(idle().tcp([upstream(9_000, 8_000), asked(2_500)])), Cause::WaitUnlimited);
    // What was asked before the caller came is nothing of his.
    advisory(&waits(idle().tcp([upstream(6_400, 7_000), asked(2_500)])), Cause::ServerSlow);
    nothing(&waits(idle().tcp([upstream(9_000, 8_000)])));
    // A websocket, say: a thread of its own hears that client, and has nothing to answer.
    let mut heard = seen;
    let blocked_in = BlockedIn { call: "recvfrom".to_owned(), cookie: Some(7), ..BlockedIn::default() };
    let reader = Thread { tid: 8, blocked_in: Some(blocked_in), blocked_us: WINDOW, ..Thread::default() };
    heard.threads.as_mut().unwrap().threads.push(reader);
    advisory(&heard, Cause::ServerSlow);
}

/// A thread for each caller, before a server on a unix socket that is mute.
#[test]
fn a_crowd_that_waits_for_a_unix_socket() {
    let asked = |cookie| {
        let mut asked = inbound(cookie, "10.0.0.9:50000");
        let tcp = asked.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (7_500, 7_500);
        (tcp.bytes_acked, tcp.bytes_received) = (Some(0), Some(27));
        asked
    };
    let crowd = |number, callers: u64| {
        let mut seen = waits("recvfrom", "unix /run/db.sock").tcp((1..=callers).map(asked));
        let threads = seen.threads.as_mut().unwrap();
        let first = threads.threads[0].clone();
        threads.threads = (0..number).map(|at| Thread { tid: PID + at, ..first.clone() }).collect();
        (threads.first, threads.last) = (u64::from(number) + 1, u64::from(number) + 1);
        threads.threads.push(Thread { tid: 9, ..Thread::default() });
        seen
    };
    assert_eq!(only(&crowd(4, 4), Cause::WaitUnlimited).verdict.confidence, Confidence::Medium);
    // One of them waits for something else; or a subscriber, and a caller or two.
    advisory(&crowd(3, 4), Cause::WaitUnlimited);
    advisory(&crowd(2, 2), Cause::WaitUnlimited);
    advisory(&crowd(4, 0), Cause::WaitUnlimited);
}

#[test]
fn a_loop_of_node_that_never_turns_for_its_only_caller() {
    let mut seen = node_that_computes().used(4_900_000).thread(|thread| thread.runqueue_us = None);
    seen.cpu.as_mut().unwrap().runqueue_us = None;
    seen.polling.as_mut().unwrap().loops.clear();
    let mut asked = came_in_vain(1);
    let tcp = asked.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 7_530);
    seen.sockets.as_mut().unwrap().tcp = vec![asked];
    only(&seen, Cause::RuntimeBlocked);
    let changes: [fn(&mut Observation); 4] = [
        // It asked in the watch.
        |seen| seen.sockets.as_mut().unwrap().tcp[0].last.as_mut().unwrap().last_data_recv_ms = 3_000,
        // It turned, or waited for something.
        |seen| {
            let poll = PollLoop { tid: PID, returns: 1, ..PollLoop::default() };
            seen.polling.as_mut().unwrap().loops.push(poll);
        },
        |seen| seen.threads.as_mut().unwrap().threads[0].calls = vec![("epoll_wait".to_owned(), 1)],
        // A worker with one client at a time.
        |seen| seen.process.runtime = Runtime::Native,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut seen = seen.clone();
        change(&mut seen);
        let judgement = judge(&seen);
        assert!(judgement.verdicts.is_empty(), "{at}: {judgement:#?}");
    }
}

/// A selector thread of Java that sleeps for each request.
#[test]
fn a_selector_that_sleeps() {
    let told = |fds: &[u32]| {
        let ready = fds.iter().map(|&fd| ReadyFd { fd: Some(fd), times: 1, events: 1, ..ReadyFd::default() }).collect();
        let client =
            |cookie| TcpSocket { unread_bytes: 27, unread_for_us: 1_500_000, ..inbound(cookie, "10.0.0.9:50000") };
        with_epoll(idle(), Runtime::Java)
            .thread(|thread| {
                thread.blocked_in = Some(BlockedIn {
                    call: "futex".to_owned(),
                    timeout_us: Some(Some(400_000)),
                    ..BlockedIn::default()
                });
                thread.calls = vec![("futex".to_owned(), 20)];
                thread.stack = Some(stack(&["JavaThread::sleep(long)", "JVM_Sleep"]));
                (thread.blocked_us, thread.voluntary_switches) = (250_000, 12);
            })
            .tcp([7, 9].map(client))
            .poll(PollLoop { returns: 2, ready, ..PollLoop::default() })
    };
    let finding = only(&told(&[7, 9]), Cause::RuntimeBlocked);
    assert!(finding.verdict.summary.contains("sits in futex, from JavaThread::sleep(long)"), "{finding:#?}");
    // They are clients of another loop, which are read in time.
    nothing(&told(&[11, 12]));
    let mut read = told(&[7, 9]);
    read.sockets.as_mut().unwrap().tcp.iter_mut().for_each(|socket| socket.unread_for_us = 250_000);
    nothing(&read);
    // It waits in its poll, as it should.
    let mut waits = told(&[7, 9]);
    waits.threads.as_mut().unwrap().threads[0].calls = vec![("epoll_wait".to_owned(), 20)];
    nothing(&waits);
}
