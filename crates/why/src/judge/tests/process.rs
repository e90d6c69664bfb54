//! The third table of the catalogue: what a process as a whole is ill with.

use super::*;
use crate::observation::{
    BlockedIn, DnsExchange, Go, GoroutineGroup, HalfOpen, HostTcp, HotStack, HttpHead, Listener, Moment, Resolved,
    Runtime, Side, SourceHandshakes, Throttling,
};

pub(super) fn listener() -> Listener {
    Listener {
        cookie: 5,
        fd: Some(4),
        local: "0.0.0.0:8080".parse().unwrap(),
        backlog: 128,
        queued_max: 3,
        queued_last: 0,
        queued_min: 0,
        waiting_us: 0,
        full_rounds: 0,
        drops: Some(0),
        half_open: HalfOpen::default(),
    }
}

pub(super) fn listening(mut seen: Observation, listener: Listener) -> Observation {
    seen.sockets.as_mut().unwrap().listeners.push(listener);
    seen
}

/// 50,000 polls a second, in which nothing is ready, on a slow machine: 4 us each.
fn empty_polls(timeouts: Timeouts) -> PollLoop {
    PollLoop { returns: 20_000, empty: 20_000, timeouts, inside_us: 80_000, ..PollLoop::default() }
}

/// 50,000 polls a second that return this.
pub(super) fn ready(ready: ReadyFd) -> PollLoop {
    let timeouts = Timeouts { unlimited: 20_000, ..Timeouts::default() };
    let ready = vec![ReadyFd { times: 20_000, ..ready }];
    PollLoop { returns: 20_000, timeouts, ready, ..PollLoop::default() }
}

#[test]
fn polls_with_timeout_0_that_find_nothing() {
    let poll = PollLoop {
        stack: Some(stack(&["epoll_wait", "run_once", "main"])),
        ..empty_polls(Timeouts { zero: 20_000, ..Timeouts::default() })
    };
    let finding = only(&idle().used(4_900_000).poll(poll), Cause::SpinZeroTimeout);
    assert!(finding.verdict.summary.contains("50000 times a second"), "{}", finding.verdict.summary);
    assert!(finding.verdict.summary.contains("run_once < main"), "{}", finding.verdict.summary);
    assert_eq!(finding.effects[0].verdict.cause, Cause::CpuBusy);
    // Between its polls a busy runtime works, and looks in with timeout 0.
    let working = PollLoop {
        other_calls: vec![("read".to_owned(), 15_000), ("write".to_owned(), 15_000)],
        ..empty_polls(Timeouts { zero: 20_000, ..Timeouts::default() })
    };
    nothing(&idle().used(4_900_000).poll(working));
}

#[test]
fn polls_of_a_millisecond_that_find_nothing() {
    let poll = PollLoop {
        returns: 360,
        empty: 358,
        timeouts: Timeouts { short: 360, ..Timeouts::default() },
        ..PollLoop::default()
    };
    only(&idle().used(60_000).poll(poll.clone()), Cause::SpinShortTimer);
    // So does one that sleeps elsewhere, and then asks whether something came.
    let asks = PollLoop {
        timeouts: Timeouts { zero: 360, ..Timeouts::default() },
        other_calls: vec![("clock_nanosleep".to_owned(), 358)],
        ..poll.clone()
    };
    let finding = only(&idle().used(60_000).poll(asks.clone()), Cause::SpinShortTimer);
    assert!(finding.verdict.summary.contains("after a short sleep"), "{finding:#?}");
    // asyncio looks in twice a turn. Which of the two a watch sees first is chance.
    for (zero, short) in [(181, 179), (180, 180), (179, 181)] {
        let timeouts = Timeouts { zero, short, ..Timeouts::default() };
        only(&idle().used(60_000).poll(PollLoop { timeouts, ..poll.clone() }), Cause::SpinShortTimer);
    }
    // A limit of 0 is none of 2 ms, whatever the machine leaves of its rate.
    nothing(&idle().used(60_000).poll(PollLoop { other_calls: Vec::new(), ..asks }));
    // Ten times a second is a tick, not a spin.
    nothing(&idle().poll(PollLoop { returns: 4, empty: 4, timeouts: Timeouts { short: 4, ..poll.timeouts }, ..poll }));
}

#[test]
fn a_fin_that_nobody_reads() {
    let half_closed = ReadyFd { fd: Some(9), cookie: Some(9), events: 0x2001, used: Some(0), ..ReadyFd::default() };
    let mut socket = inbound(9, "10.0.0.9:50000");
    socket.state = TcpState::CloseWait;
    let seen = idle().used(4_900_000).tcp([socket]).poll(ready(half_closed));
    let finding = only(&seen, Cause::SpinHalfClosed);
    assert!(finding.verdict.evidence.iter().any(|evidence| evidence.text.contains("CLOSE_WAIT")));
}

#[test]
fn an_error_that_nobody_handles() {
    let error = ReadyFd { fd: Some(9), events: 0x19, used: Some(0), ..ReadyFd::default() };
    only(&idle().used(4_900_000).poll(ready(error)), Cause::SpinErrorFd);
}

#[test]
fn a_descriptor_that_is_read_each_time_is_work() {
    let used = ReadyFd { fd: Some(9), events: 0x1, used: Some(19_000), ..ReadyFd::default() };
    nothing(&idle().used(3_000_000).poll(ready(used)));
}

#[test]
fn accept_that_fails() {
    let poll = |errno| PollLoop {
        other_calls: vec![("accept4".to_owned(), 20_000)],
        failed_calls: vec![("accept4".to_owned(), errno, 20_000)],
        ..ready(ReadyFd {
            fd: Some(4),
            what: Some("listener 0.0.0.0:8080".to_owned()),
            events: 1,
            ..ReadyFd::default()
        })
    };
    only(&idle().used(4_900_000).poll(poll(24)), Cause::SpinAcceptEmfile);
    only(&idle().used(4_900_000).poll(poll(22)), Cause::SpinAcceptError);
}

#[test]
fn peers_that_closed() {
    let stuck = |count: u64| {
        (1..=count).map(|cookie| TcpSocket { state: TcpState::CloseWait, ..inbound(cookie, "10.0.0.9:50000") })
    };
    let finding = only(&idle().tcp(stuck(12)), Cause::CloseWaitPileup);
    assert!(finding.verdict.summary.contains("all accepted"), "{}", finding.verdict.summary);
    nothing(&idle().tcp(stuck(3)));
    // Each only for a moment: the application does close.
    nothing(&idle().tcp(stuck(30).map(|socket| TcpSocket { in_state_us: 40_000, since_before: false, ..socket })));
}

/// What "asked, and nothing was sent since" rests on, in bytes as the kernel counts them: the peer's FIN is one.
#[test]
fn peers_that_closed_and_were_answered_or_not() {
    let unanswered = |change: fn(&mut TcpSocket)| {
        let stuck = (1..=13).map(|cookie| {
            let mut socket = TcpSocket { state: TcpState::CloseWait, ..inbound(cookie, "10.0.0.9:50000") };
            let tcp = socket.last.as_mut().unwrap();
            (tcp.bytes_acked, tcp.bytes_received) = (Some(0), Some(14));
            (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 9_000);
            change(&mut socket);
            socket
        });
        let finding = only(&idle().tcp(stuck), Cause::CloseWaitPileup);
        finding.verdict.evidence.iter().any(|it| it.text.starts_with("13 of them asked something before"))
    };
    assert!(unanswered(|_| {}));
    // Asked again since the answer; or never.
    assert!(unanswered(|socket| {
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.last_data_recv_ms) = (Some(40), 8_000);
    }));
    assert!(!unanswered(|socket| socket.last.as_mut().unwrap().bytes_received = Some(1)));
    // An answer of one byte, in the same millisecond; one that has not left yet, for the peer takes nothing.
    assert!(!unanswered(|socket| socket.last.as_mut().unwrap().bytes_acked = Some(1)));
    assert!(!unanswered(|socket| socket.unsent_bytes = 40));
}

#[test]
fn this_side_that_closed_half() {
    let half = |cookie| TcpSocket { state: TcpState::FinWait2, ..outbound(cookie, "10.0.0.9:80") };
    only(&idle().tcp((1..=10).map(half)), Cause::FinWait2Pileup);
    // Closed by the program: the kernel ends them.
    nothing(&idle().tcp((1..=10).map(|cookie| TcpSocket { fd: None, ..half(cookie) })));
}

#[test]
fn handshakes_that_stay_half_open() {
    let half = |sources, top| HalfOpen { first: 4, last: 60, sources, top, sent_again: Some(51) };
    let flood = Listener { half_open: half(57, None), ..listener() };
    let finding = only(&listening(idle(), flood), Cause::HalfOpenPileup);
    assert!(finding.verdict.summary.contains("57 addresses"), "{}", finding.verdict.summary);
    let one = Listener { half_open: half(1, Some(("10.0.0.9".to_owned(), 60))), ..listener() };
    let finding = only(&listening(idle(), one), Cause::HalfOpenPileup);
    assert!(finding.verdict.summary.contains("60 of them from 10.0.0.9"), "{}", finding.verdict.summary);
    // A recording of before this was counted.
    let old = HalfOpen { sent_again: None, ..half(57, None) };
    only(&listening(idle(), Listener { half_open: old, ..listener() }), Cause::HalfOpenPileup);
    // Connections that are made in advance, to a listener with TCP_DEFER_ACCEPT: their clients answer, and say nothing yet.
    let top = Some(("127.0.0.1".to_owned(), 14));
    let deferred = HalfOpen { first: 14, last: 14, sources: 1, top, sent_again: Some(0) };
    let finding = advisory(&listening(idle(), Listener { half_open: deferred, ..listener() }), Cause::HalfOpenPileup);
    assert!(!finding.verdict.summary.contains("does not reach"), "{finding:#?}");
}

#[test]
fn an_accept_queue_that_nobody_empties() {
    let full = Listener { backlog: 4, queued_max: 5, queued_last: 5, full_rounds: 20, drops: Some(31), ..listener() };
    let mut seen = listening(idle(), full).thread(|thread| {
        thread.blocked_in = Some(BlockedIn { call: "futex".to_owned(), ..BlockedIn::default() });
        thread.blocked_us = WINDOW;
        thread.stack = Some(stack(&["pthread_mutex_lock", "save_state", "main"]));
    });
    seen.sockets.as_mut().unwrap().host = Some(HostTcp { listen_overflows: 31, ..HostTcp::default() });
    let finding = only(&seen, Cause::AcceptQueueOverflow);
    assert!(finding.verdict.summary.contains("sits in futex"), "{}", finding.verdict.summary);
    assert!(finding.verdict.summary.contains("save_state"), "{}", finding.verdict.summary);
}

#[test]
fn handshakes_that_fail() {
    let mut seen = idle();
    let connections = seen.connections.as_mut().unwrap();
    connections.accepted = 400;
    connections.handshakes = vec![SourceHandshakes {
        source: "10.0.0.9".to_owned(),
        begun: 400,
        failed: 396,
        completed: 4,
        sni: Some("old.test".to_owned()),
        alert: Some(48),
    }];
    let finding = only(&seen, Cause::TlsHandshakeStorm);
    assert!(finding.verdict.summary.contains("old.test"), "{}", finding.verdict.summary);
    seen.connections.as_mut().unwrap().handshakes[0].failed = 8;
    nothing(&seen);
}

#[test]
fn connections_that_come_and_go() {
    let mut seen = idle();
    seen.connections = Some(Connections {
        accepted: 5_000,
        closed: 5_000,
        reset_by_peer: 4_000,
        little_work: 4_900,
        life_median_us: Some(400),
        ..Connections::default()
    });
    only(&seen, Cause::ConnectionChurn);
    // The same number of short calls that are answered.
    seen.connections.as_mut().unwrap().little_work = 10;
    nothing(&seen);
}

/// Each brings a line of metrics and is reset by its client, which says nothing of the line.
#[test]
fn connections_of_one_line() {
    let seen = |with_bytes: u64, change: fn(&mut Connection)| {
        let connection = |cookie| {
            let mut connection = Connection {
                cookie,
                side: Side::Server,
                closed: Some(Moment::At(900_000 + cookie)),
                reset_received: true,
                read_bytes: if cookie <= with_bytes { 13 } else { 0 },
                ..Connection::default()
            };
            change(&mut connection);
            connection
        };
        let mut seen = idle();
        seen.connections = Some(Connections {
            accepted: 662,
            closed: 662,
            reset_by_peer: 662,
            little_work: 662,
            life_median_us: Some(1_536),
            connections: (1..=512).map(connection).collect(),
            ..Connections::default()
        });
        seen
    };
    let finding = advisory(&seen(510, |_| {}), Cause::ConnectionChurn);
    assert!(!finding.verdict.summary.contains("unstable"), "{finding:#?}");
    // Many brought nothing; what they brought was a request; it is not known what they brought.
    only(&seen(400, |_| {}), Cause::ConnectionChurn);
    only(&seen(510, |it| it.http = Some(HttpHead::default())), Cause::ConnectionChurn);
    only(&seen(510, |it| it.read_bytes = 0), Cause::ConnectionChurn);
    only(&seen(510, |it| it.closed = None), Cause::ConnectionChurn);
}

/// Load balancers look whether somebody listens, and others are served; or their connections come to nothing.
#[test]
fn checks_that_only_connect() {
    let seen = |change: fn(&mut Connections)| {
        let check = |cookie| Connection {
            cookie,
            side: Side::Server,
            opened: Some(Moment::At(cookie * 1_000)),
            fin_received: Some(Moment::At(cookie * 1_000 + 300)),
            closed: Some(Moment::At(cookie * 1_000 + 400)),
            ..Connection::default()
        };
        let served = Connection {
            cookie: 1_000,
            side: Side::Server,
            opened: Some(Moment::Before),
            read_bytes: 900,
            written_bytes: 90_000,
            ..Connection::default()
        };
        let mut connections = Connections {
            accepted: 300,
            closed: 300,
            little_work: 300,
            life_median_us: Some(400),
            connections: (1..=300).map(check).chain([served]).collect(),
            ..Connections::default()
        };
        change(&mut connections);
        Observation { connections: Some(connections), ..idle() }
    };
    let finding = advisory(&seen(|_| {}), Cause::ConnectionChurn);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("looks like health checks") && !summary.contains("unstable"), "{summary}");
    assert_eq!(finding.verdict.confidence, Confidence::Low);
    // Nobody is served; it ends them itself.
    let finding = only(&seen(|all| all.connections.truncate(300)), Cause::ConnectionChurn);
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    assert!(finding.verdict.rejected.iter().any(|other| other.why.contains("checks of health")), "{finding:#?}");
    only(&seen(|all| all.connections.iter_mut().for_each(|it| it.fin_received = None)), Cause::ConnectionChurn);
}

/// Load balancers may end their checks by a reset (`SO_LINGER` 0), beside clients that are served; and an edge that breaks these, too.
#[test]
fn checks_that_end_by_a_reset() {
    let seen = |sources: u64, change: fn(&mut Connection)| {
        let from = |cookie: u64| Some(format!("10.0.1.{}:50000", cookie % sources).parse().unwrap());
        let check = |cookie| Connection {
            cookie,
            side: Side::Server,
            remote: from(cookie),
            opened: Some(Moment::At(cookie * 1_000)),
            closed: Some(Moment::At(cookie * 1_000 + 60)),
            errno: Some(104),
            reset_received: true,
            ..Connection::default()
        };
        let served = |cookie| {
            let mut it = Connection {
                cookie,
                side: Side::Server,
                remote: from(cookie),
                opened: Some(Moment::At(cookie * 1_000)),
                fin_received: Some(Moment::At(cookie * 1_000 + 700)),
                closed: Some(Moment::At(cookie * 1_000 + 800)),
                read_bytes: 90,
                written_bytes: 900,
                ..Connection::default()
            };
            change(&mut it);
            it
        };
        let mut seen = idle();
        seen.connections = Some(Connections {
            accepted: 330,
            closed: 330,
            reset_by_peer: 300,
            little_work: 300,
            life_median_us: Some(60),
            connections: (1..=300).map(check).chain((301..=330).map(served)).collect(),
            ..Connections::default()
        });
        seen
    };
    let finding = advisory(&seen(2, |_| {}), Cause::ConnectionChurn);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("looks like health checks") && !summary.contains("unstable"), "{summary}");
    assert!(finding.verdict.rejected.iter().any(|other| other.why.contains("give up before they ask")), "{finding:#?}");
    // Of many addresses it is less likely, and not shown either.
    let crowd = only(&seen(100, |_| {}), Cause::ConnectionChurn);
    assert_eq!(crowd.verdict.confidence, Confidence::Medium);
    assert!(crowd.verdict.rejected.iter().any(|other| other.why.contains("checks of health")), "{crowd:#?}");
    // Those with work are broken, too.
    let cut = |it: &mut Connection| (it.fin_received, it.reset_received, it.written_bytes) = (None, true, 0);
    let edge = only(&seen(2, cut), Cause::ConnectionChurn);
    assert_eq!(edge.verdict.confidence, Confidence::High);
    assert!(edge.verdict.summary.contains("is unstable"), "{edge:#?}");
    // All are reset, and some had their answers before: proxies end them so, and so do clients that do not wait for it.
    let over = |it: &mut Connection| (it.fin_received, it.reset_received) = (None, true);
    assert_eq!(only(&seen(2, over), Cause::ConnectionChurn).verdict.confidence, Confidence::Medium);
}

#[test]
fn a_connection_that_nothing_will_close() {
    let mut socket = inbound(7, "10.0.0.9:50000");
    socket.timer = TcpTimer::default();
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_recv_ms, tcp.last_data_sent_ms) = (600_000, 600_000);
    advisory(&idle().tcp([socket.clone()]), Cause::NoKeepalive);
    // It was closed during the watch; or its client waits for an answer, and is not idle.
    for change in [
        |socket: &mut TcpSocket| socket.last_seen_us = 2_000_000,
        |socket: &mut TcpSocket| socket.last.as_mut().unwrap().last_data_recv_ms = 20_000,
    ] {
        let mut other = socket.clone();
        change(&mut other);
        assert_eq!(judge(&idle().tcp([other])), Judgement::default());
    }
    socket.timer.kind = TimerKind::Keepalive;
    let judgement = judge(&idle().tcp([socket]));
    assert_eq!(judgement, Judgement::default());
}

#[test]
fn a_thread_that_nothing_can_interrupt() {
    let seen = idle().thread(|thread| {
        thread.state = ThreadState::Uninterruptible;
        thread.wchan = Some("folio_wait_bit_common".to_owned());
        thread.blocked_us = WINDOW;
    });
    let finding = only(&seen, Cause::IoStuck);
    assert!(finding.verdict.summary.contains("folio_wait_bit_common"), "{}", finding.verdict.summary);
    // Now and then, as every reader of a disk is.
    nothing(&seen.thread(|thread| thread.looks_in_state = 2));
}

fn goroutines(first: u64, last: u64, heap: [u64; 2], reason: &str) -> Observation {
    let mut seen = idle();
    seen.process.runtime = Runtime::Go { version: "go1.26".to_owned() };
    seen.go = Some(Go {
        version: "go1.26".to_owned(),
        goroutines: readings(&(0..=4).map(|at| first + at * (last - first) / 4).collect::<Vec<_>>()),
        heap_bytes: readings(&heap),
        idle_ps: readings(&[2, 2]),
        ps: 2,
        groups: vec![GoroutineGroup {
            wait_reason: Some(reason.to_owned()),
            stack: stack(&["runtime.gopark", "main.fetch"]),
            created_by: Some("main.serve main.go:40".to_owned()),
            first: first - 5,
            last: last - 5,
            ..GoroutineGroup::default()
        }],
        ..Go::default()
    });
    seen
}

#[test]
fn goroutines_with_and_without_their_heap() {
    let leak = goroutines(1_000, 1_500, [20 << 20, 31 << 20], "chan receive");
    let finding = only(&leak, Cause::TaskLeak);
    assert!(finding.verdict.summary.contains("main.serve main.go:40"), "{}", finding.verdict.summary);
    only(&goroutines(1_000, 1_500, [20 << 20, 20 << 20], "IO wait"), Cause::TaskBacklog);
    // As it was recorded: each hands its answer to a handler that gave up, and no heap grows by so little.
    let left = |reason, stayed, channels| {
        let mut seen = goroutines(129, 233, [1_089_536, 1_376_256], reason);
        let group = &mut seen.go.as_mut().unwrap().groups[0];
        (group.first, group.last, group.stayed, group.channels) = (88, 200, stayed, channels);
        seen
    };
    let finding = only(&left("chan send", 88, Some(200)), Cause::TaskLeak);
    assert!(finding.verdict.rejected[0].why.contains("200 different channels"), "{finding:#?}");
    // For a permit, all at one channel; old ones end; their own channels bring an answer; nobody knows.
    for (reason, stayed, channels) in [
        ("chan send", 88, Some(1)),
        ("chan send", 40, Some(200)),
        ("chan receive", 88, Some(200)),
        ("chan send", 88, None),
    ] {
        only(&left(reason, stayed, channels), Cause::TaskBacklog);
    }
    // As many as ever: idle keep-alive connections.
    nothing(&goroutines(10_000, 10_003, [20 << 20, 20 << 20], "IO wait"));
}

/// Threads at the ends of the quarters of the watch, all of them in that wait.
fn piled(counts: [u64; 5], blocked: &BlockedIn) -> Observation {
    threads::threads(counts, |_| blocked.clone())
}

#[test]
fn threads_that_pile_up() {
    let lock = BlockedIn { call: "futex".to_owned(), timeout_us: Some(None), ..BlockedIn::default() };
    let mut seen = piled([20, 35, 50, 65, 80], &lock);
    only(&seen, Cause::TaskBacklog);
    seen.cpu.as_mut().unwrap().rss_bytes = readings(&[50 << 20, 150 << 20]);
    only(&seen, Cause::TaskLeak);
}

#[test]
fn a_pool_that_fills_is_no_backlog() {
    let lock = BlockedIn { call: "futex".to_owned(), timeout_us: Some(None), ..BlockedIn::default() };
    // It has reached its size. How it came there was not seen.
    nothing(&piled([20, 60, 80, 80, 80], &lock));
    let mut blind = piled([20, 35, 50, 65, 80], &lock);
    blind.history = None;
    nothing(&blind);
    // It still grows, and what it has waits for work.
    let job = BlockedIn { timeout_us: Some(Some(30_000_000)), ..lock };
    let mut filling = piled([20, 35, 50, 65, 80], &job);
    nothing(&filling);
    // Each of them keeps some memory: that may be a leak, too.
    filling.cpu.as_mut().unwrap().rss_bytes = readings(&[50 << 20, 150 << 20]);
    advisory(&filling, Cause::TaskLeak);
    // Some wait for work, and more for something else.
    let threads = &mut filling.threads.as_mut().unwrap().threads;
    threads.iter_mut().take(30).for_each(|it| it.blocked_in.as_mut().unwrap().timeout_us = Some(None));
    only(&filling, Cause::TaskLeak);
}

/// A native program whose loop was found in a call at most looks, with that many switches.
fn polls_and_sits(switches: u64) -> Observation {
    idle()
        .thread(|thread| {
            thread.calls = vec![("pread64".to_owned(), 18), ("epoll_wait".to_owned(), 2)];
            thread.voluntary_switches = switches;
        })
        .poll(PollLoop { returns: 9, ..PollLoop::default() })
        .tcp([inbound(1, "10.0.0.9:50000"), inbound(2, "10.0.0.9:50001")])
}

#[test]
fn a_native_loop_that_stays_away() {
    let unread = |mut seen: Observation| {
        seen.sockets.as_mut().unwrap().tcp[1].unread_bytes = 29;
        seen
    };
    only(&unread(polls_and_sits(30)), Cause::RuntimeBlocked);
    // Nobody was seen to wait for it.
    let finding = advisory(&polls_and_sits(30), Cause::RuntimeBlocked);
    assert!(finding.verdict.summary.contains("was not seen"), "{finding:#?}");
    // A thread of many, which may have one client each, unless its polls tell of more.
    let mut threaded = unread(polls_and_sits(30));
    threaded.threads.as_mut().unwrap().last = 9;
    advisory(&threaded, Cause::RuntimeBlocked);
    let ready = |fd| ReadyFd { fd: Some(fd), times: 4, ..ReadyFd::default() };
    threaded.polling.as_mut().unwrap().loops[0].ready = vec![ready(1), ready(2)];
    only(&threaded, Cause::RuntimeBlocked);
    // A backend of a database, which reads from a disk for the one client that it has; or many short waits.
    let mut backend = polls_and_sits(30);
    backend.sockets.as_mut().unwrap().tcp.pop();
    assert_eq!(judge(&backend), Judgement::default());
    assert_eq!(judge(&unread(polls_and_sits(2_000))), Judgement::default());
}

/// A game works in beats, and sleeps for the rest of each.
#[test]
fn a_loop_with_beats_of_its_own() {
    let sleeps = |call: &str, switches| {
        let mut seen = polls_and_sits(switches);
        seen.sockets.as_mut().unwrap().tcp[1].unread_bytes = 29;
        seen.thread(|thread| thread.calls[0].0 = call.to_owned())
    };
    nothing(&sleeps("clock_nanosleep", 60));
    only(&sleeps("clock_nanosleep", 30), Cause::RuntimeBlocked);
    only(&sleeps("pread64", 60), Cause::RuntimeBlocked);
}

/// A client whose request nobody has read.
fn unread() -> TcpSocket {
    TcpSocket { unread_bytes: 29, unread_for_us: 200_000, ..inbound(2, "10.0.0.9:50001") }
}

#[test]
fn an_event_loop_that_sits_in_a_call() {
    let sits = |call: &str| {
        idle().tcp([unread()]).thread(|thread| {
            thread.blocked_in = Some(BlockedIn { call: call.to_owned(), ..BlockedIn::default() });
            thread.calls = vec![(call.to_owned(), 18), ("epoll_wait".to_owned(), 2)];
        })
    };
    let node = |call| {
        let mut seen = sits(call);
        seen.process.runtime = Runtime::Node;
        seen
    };
    only(&node("futex"), Cause::RuntimeBlocked);
    nothing(&node("epoll_pwait"));
    // A program of one thread that sleeps and has no event loop.
    nothing(&sits("clock_nanosleep"));
}

/// A process of that runtime with a second thread, which sits in that call; its first does the same.
fn sitting(runtime: Runtime, call: &str) -> Observation {
    let mut seen = idle().tcp([unread()]);
    seen.process.runtime = runtime;
    seen.fds.as_mut().unwrap().by_kind = vec![kind("epoll", 1, 1)];
    let threads = seen.threads.as_mut().unwrap();
    threads.threads.push(Thread { tid: 11, ..threads.threads[0].clone() });
    threads.last = 2;
    for thread in &mut threads.threads {
        thread.blocked_in = Some(BlockedIn { call: call.to_owned(), ..BlockedIn::default() });
        thread.calls = vec![(call.to_owned(), 20)];
    }
    seen
}

#[test]
fn a_loop_of_python_in_another_thread() {
    let polls = |seen: &mut Observation, at: usize, looks: u32| {
        seen.threads.as_mut().unwrap().threads[at].calls = vec![("epoll_wait".to_owned(), looks)];
    };
    // The main thread waits for the one whose loop turns.
    let mut joins = sitting(Runtime::Python, "futex");
    polls(&mut joins, 1, 20);
    assert_eq!(judge(&joins), Judgement::default());
    // The same where only the counted calls tell.
    let mut joins = sitting(Runtime::Python, "futex");
    let polling = PollLoop { tid: 11, returns: 1, ..PollLoop::default() };
    joins.polling.as_mut().unwrap().loops.push(polling);
    assert_eq!(judge(&joins), Judgement::default());
    // Nobody polls: it may be the loop's thread, or one that waits for a loop that computes.
    let finding = advisory(&sitting(Runtime::Python, "futex"), Cause::RuntimeBlocked);
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    // The main thread polls itself, and is held up in between.
    let mut held = sitting(Runtime::Python, "futex");
    held.threads.as_mut().unwrap().threads[0].calls.push(("epoll_wait".to_owned(), 2));
    only(&held, Cause::RuntimeBlocked);
    // Or there is no other thread.
    let mut alone = sitting(Runtime::Python, "futex");
    alone.threads.as_mut().unwrap().threads.pop();
    alone.threads.as_mut().unwrap().last = 1;
    only(&alone, Cause::RuntimeBlocked);
}

#[test]
fn threads_of_tokio_that_are_there_to_block() {
    let with = |functions: &[&str]| {
        let mut seen = sitting(Runtime::Tokio, "read");
        let thread = &mut seen.threads.as_mut().unwrap().threads[1];
        thread.name = "tokio-rt-worker".to_owned();
        thread.stack = Some(stack(functions));
        seen
    };
    const WORKER: &str = "tokio::runtime::scheduler::multi_thread::worker::run";
    const POOL: &str = "tokio::runtime::blocking::pool::Inner::run";
    assert_eq!(judge(&with(&["read", "load", POOL])), Judgement::default());
    let in_place = "tokio::runtime::scheduler::multi_thread::worker::block_in_place";
    assert_eq!(judge(&with(&["read", "load", in_place, WORKER, POOL])), Judgement::default());
    // Workers are started on the pool.
    only(&with(&["read", "load", WORKER, POOL]), Cause::RuntimeBlocked);
    // A stack that says nothing, of a thread that never polled, and of one that did.
    let unknown = with(&["read"]);
    let finding = advisory(&unknown, Cause::RuntimeBlocked);
    assert!(finding.verdict.summary.contains("cannot be told"), "{finding:#?}");
    let mut polled = unknown;
    polled.threads.as_mut().unwrap().threads[1].calls.push(("epoll_wait".to_owned(), 1));
    only(&polled, Cause::RuntimeBlocked);
}

/// Threads that wait for locks, with who holds them.
fn locked(pairs: &[(u32, Option<u32>)]) -> Observation {
    let mut seen = idle();
    let threads = seen.threads.as_mut().unwrap();
    threads.threads.extend(pairs.iter().map(|&(tid, held_by)| Thread {
        tid,
        name: "worker".to_owned(),
        blocked_in: Some(BlockedIn {
            call: "futex".to_owned(),
            timeout_us: Some(None),
            held_by,
            ..BlockedIn::default()
        }),
        blocked_us: WINDOW,
        since_before: true,
        stack: Some(stack(&["__lll_lock_wait", "pthread_mutex_lock", "transfer", "start_thread"])),
        ..Thread::default()
    }));
    threads.last = threads.threads.len() as u64;
    seen
}

#[test]
fn threads_that_wait_for_each_other() {
    let finding = only(&locked(&[(11, Some(12)), (12, Some(11))]), Cause::WaitUnlimited);
    assert!(finding.verdict.summary.contains("threads 11 (worker) and 12 (worker)"), "{}", finding.verdict.summary);
    assert_eq!(finding.verdict.evidence.len(), 2);
    assert!(finding.verdict.evidence.iter().all(|it| it.text.contains("transfer")), "{finding:#?}");
    // Who waits behind them, a circle of three, and one that takes its own lock twice.
    let finding = only(&locked(&[(10, Some(11)), (11, Some(12)), (12, Some(11))]), Cause::WaitUnlimited);
    assert!(finding.verdict.summary.contains("1 more wait"), "{}", finding.verdict.summary);
    let finding = only(&locked(&[(11, Some(12)), (12, Some(13)), (13, Some(11))]), Cause::WaitUnlimited);
    assert!(finding.verdict.summary.contains("3 threads wait in a circle"), "{}", finding.verdict.summary);
    let finding = only(&locked(&[(11, Some(11))]), Cause::WaitUnlimited);
    assert!(finding.verdict.summary.contains("holds itself"), "{}", finding.verdict.summary);
    // A pool: one waits for work and holds the lock for which the others wait.
    nothing(&locked(&[(11, None), (12, Some(11)), (13, Some(11))]));
    // Who was seen to run meanwhile is not stuck.
    let mut ran = locked(&[(11, Some(12)), (12, Some(11))]);
    ran.threads.as_mut().unwrap().threads[1].blocked_us = 400_000;
    nothing(&ran);
    // A circle that was closed late in the window is one all the same.
    let mut late = locked(&[(11, Some(12)), (12, Some(11))]);
    for thread in &mut late.threads.as_mut().unwrap().threads[1..] {
        (thread.blocked_us, thread.since_before) = (1_200_000, false);
    }
    let finding = only(&late, Cause::WaitUnlimited);
    assert!(finding.verdict.summary.contains("for 1.2s; none"), "{}", finding.verdict.summary);
    // It is told beside what else is wrong.
    let full = Listener { backlog: 4, queued_max: 5, queued_last: 5, full_rounds: 20, drops: Some(31), ..listener() };
    let judgement = judge(&listening(locked(&[(11, Some(12)), (12, Some(11))]), full));
    assert_eq!(causes(&judgement), ["accept-queue-overflow", "wait-unlimited"]);
}

#[test]
fn names_that_are_resolved_one_after_the_other() {
    let query = |place: u64| DnsExchange {
        name: format!("host{place}.test"),
        kind: 1,
        server: "127.0.0.53".to_owned(),
        tid: 100 + u32::try_from(place % 4).unwrap(),
        sent_us: place / 4 * 1_000_000,
        sent: 1,
        answered_us: Some(990_000),
        rcode: Some(0),
        answers: Some(1),
        ..DnsExchange::default()
    };
    let beside = |call: &str, tid| {
        let blocked_in = Some(BlockedIn { call: call.to_owned(), ..BlockedIn::default() });
        let mut seen = idle().thread(|thread| (thread.tid, thread.blocked_in) = (tid, blocked_in));
        seen.connections.as_mut().unwrap().dns = (0..20).map(query).collect();
        seen
    };
    for mut seen in [beside("epoll_wait", PID), beside("select", PID), beside("futex", 4711)] {
        let finding = only(&seen, Cause::DnsSerialised);
        assert!(finding.verdict.summary.contains("4 threads"), "{}", finding.verdict.summary);
        // Nothing is known of them.
        seen.threads.as_mut().unwrap().threads.clear();
        advisory(&seen, Cause::DnsSerialised);
    }
    // Watching reads and writes became too dear after a second: what was asked then, and answered later, is not known.
    let mut dear = beside("epoll_wait", PID);
    let connections = dear.connections.as_mut().unwrap();
    connections.transfers_us = Some(1_500_000);
    connections.dns.retain(|query| query.sent_us < 1_500_000);
    connections.dns.iter_mut().filter(|query| query.sent_us >= 1_000_000).for_each(|query| query.answered_us = None);
    only(&dear, Cause::DnsSerialised);
    // To resolve names is all that it does: its first thread waits for the others to end, or is one of them.
    let mut seen = beside("futex", PID);
    advisory(&seen, Cause::DnsSerialised);
    advisory(&beside("epoll_wait", 101), Cause::DnsSerialised);
    // It connects to what they found.
    let found = Connection { cookie: 9, resolved: Some(Resolved::default()), ..Connection::default() };
    seen.connections.as_mut().unwrap().connections = vec![found];
    only(&seen, Cause::DnsSerialised);
    seen = beside("epoll_wait", PID);
    // The same queries, by threads that do not wait for one answer before they ask for the next.
    let dns = (0..20).map(|place| DnsExchange { sent_us: place / 4 * 500_000, ..query(place) });
    seen.connections.as_mut().unwrap().dns = dns.collect();
    nothing(&seen);
}

#[test]
fn a_quota_and_a_neighbour() {
    let mut seen = idle().used(500_000);
    let quota = Throttling {
        group: "/app".to_owned(),
        quota_us: Some(10_000),
        period_us: Some(100_000),
        periods: 50,
        throttled_periods: 47,
        throttled_us: 4_100_000,
    };
    seen.cpu.as_mut().unwrap().throttling = Some(quota.clone());
    let finding = only(&seen, Cause::CpuThrottled);
    assert!(finding.verdict.summary.contains("0.10 processors"), "{}", finding.verdict.summary);
    let cpu = seen.cpu.as_mut().unwrap();
    cpu.throttling = Some(Throttling { throttled_periods: 1, ..quota });
    cpu.runqueue_us = Some(3_000_000);
    seen = seen.thread(|thread| thread.involuntary_switches = 30);
    let finding = only(&seen, Cause::CpuThrottled);
    assert!(finding.verdict.summary.contains("a quota hardly holds it back"), "{}", finding.verdict.summary);
    seen.cpu.as_mut().unwrap().throttling.as_mut().unwrap().throttled_periods = 0;
    let finding = only(&seen, Cause::CpuThrottled);
    assert!(finding.verdict.summary.contains("no quota holds it back"), "{}", finding.verdict.summary);
    seen.cpu.as_mut().unwrap().runqueue_us = Some(20_000);
    nothing(&seen);
}

#[test]
fn a_process_that_computes_is_told_and_not_judged() {
    let mut seen = idle().used(4_950_000);
    let cpu = seen.cpu.as_mut().unwrap();
    cpu.samples = 100;
    cpu.hot = Some(vec![HotStack { stack: stack(&["sha256_block", "main"]), samples: 93, ..HotStack::default() }]);
    let finding = advisory(&seen, Cause::CpuBusy);
    assert!(finding.verdict.summary.contains("93 % of it in sha256_block"), "{}", finding.verdict.summary);
}
