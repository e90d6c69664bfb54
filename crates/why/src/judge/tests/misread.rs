//! Programs that were misjudged once, as they were recorded: each with what tells it from the one that is ill.

use super::*;
use crate::observation::{BlockedIn, Call, DnsExchange, Lookup, Lookups, Opener, WaitsFor};

/// Programs that compute and look into their loop between two slices, as they were recorded on a machine that others used,
/// too: setImmediate of Node, asyncio.sleep(0), an engine in C. What they are is busy.
#[test]
fn slices_of_computing_are_no_spin() {
    for (cpu_us, looked_us, polls, inside_us) in [
        (619_000, 3_521_738, 2_763, 5_016),
        (622_073, 3_994_057, 1_593, 3_878),
        (625_879, 3_508_797, 1_102, 2_795),
        (4_990_000, 400_000, 2_560, 4_600), // Node with a processor of its own
    ] {
        let slices = |timeouts| {
            let poll = PollLoop { returns: polls, empty: polls, timeouts, inside_us, ..PollLoop::default() };
            let mut seen = idle().used(cpu_us).poll(poll);
            seen.polling.as_mut().unwrap().looked_us = looked_us;
            seen
        };
        let mut seen = slices(Timeouts { zero: polls, ..Timeouts::default() });
        nothing(&seen);
        // As many polls, of which one is as cheap as a real one: so a spin looks that gets little of a busy machine. It
        // is one of timeout 0, for nothing says that it sleeps in between.
        seen.polling.as_mut().unwrap().looked_us = 400_000;
        seen.threads.as_mut().unwrap().threads[0].cpu_us = 12 * polls * WINDOW / 400_000;
        only(&seen, Cause::SpinZeroTimeout);
    }
}

/// Small slices, and loops that turn for nothing, as they were recorded: what tells them apart is how much of the time is in
/// the polls, and what else is done.
#[test]
fn small_slices_of_computing_are_no_spin() {
    let loops = |cpu_us, looked_us, polls, inside_us, work: &[(&str, u64)]| {
        let timeouts = Timeouts { zero: polls, ..Timeouts::default() };
        let other_calls = work.iter().map(|(call, times)| ((*call).to_owned(), *times)).collect();
        let poll = PollLoop { returns: polls, empty: polls, timeouts, inside_us, other_calls, ..PollLoop::default() };
        let mut seen = idle().used(cpu_us).poll(poll);
        seen.polling.as_mut().unwrap().looked_us = looked_us;
        seen
    };
    let spins = |seen: &Observation| only(seen, Cause::SpinZeroTimeout).verdict.confidence;
    // asyncio: 400 multiplications between two polls; the lines of files. setImmediate of Node.
    let multiplies = loops(4_630_000, 448_000, 18_266, 5_633, &[]);
    let lines = loops(3_240_000, 451_000, 83_511, 17_340, &[("read", 698), ("close", 233), ("openat", 233)]);
    let node = loops(3_430_000, 408_000, 10_752, 4_345, &[("read", 363), ("write", 363), ("futex", 723)]);
    for seen in [multiplies, lines, node] {
        let finding = advisory(&seen, Cause::SpinZeroTimeout);
        assert_eq!(finding.verdict.confidence, Confidence::Low);
    }
    // setImmediate that calls itself; `while not flag: await asyncio.sleep(0)`, which may be tiny work as well.
    let immediate = loops(4_780_000, 444_000, 387_230, 80_548, &[("read", 119), ("write", 119), ("getpid", 120)]);
    assert_eq!(spins(&immediate), Confidence::High);
    assert_eq!(spins(&loops(4_110_000, 128_800, 22_489, 8_134, &[])), Confidence::Medium);
    // On a busy machine slices wait for the processor within a poll, too.
    let mut crowded = loops(500_000, 448_000, 2_000, 5_600, &[]);
    assert_eq!(spins(&crowded), Confidence::High);
    crowded.threads.as_mut().unwrap().threads[0].runqueue_us = Some(4_400_000);
    advisory(&crowded, Cause::SpinZeroTimeout);
}

/// What it costs to look at ten thousand descriptors is no computing.
#[test]
fn a_poll_that_is_itself_slow_is_a_spin() {
    let poll = PollLoop {
        returns: 1_000,
        empty: 1_000,
        timeouts: Timeouts { zero: 1_000, ..Timeouts::default() },
        inside_us: 390_000,
        ..PollLoop::default()
    };
    only(&idle().used(4_950_000).poll(poll), Cause::SpinZeroTimeout);
}

/// Streams whose other direction is shut: twenty lines a second to a client that has said all, or from a server after our
/// shutdown, as they were recorded.
#[test]
fn half_closed_streams_are_in_use() {
    let stream = |state, acked: [u64; 2], received: [u64; 2], [sent_ms, received_ms]: [u32; 2]| {
        let end = move |at: usize| TcpInfo {
            state,
            bytes_acked: Some(acked[at]),
            bytes_received: Some(received[at]),
            last_data_sent_ms: sent_ms,
            last_data_recv_ms: received_ms,
            ..TcpInfo::default()
        };
        (1..=12).map(move |cookie| TcpSocket {
            state,
            first: Some(end(0)),
            last: Some(end(1)),
            ..outbound(cookie, "10.0.0.9:80")
        })
    };
    let sends = |acked, sent_ms| idle().tcp(stream(TcpState::CloseWait, acked, [12, 12], [sent_ms, 5_544]));
    nothing(&sends([78, 880], 32));
    // Nothing is sent any more; or the answer, and then nothing.
    only(&sends([880, 880], 32), Cause::CloseWaitPileup);
    only(&sends([78, 880], 4_600), Cause::CloseWaitPileup);
    let receives = |received, ago_ms| idle().tcp(stream(TcpState::FinWait2, [12, 12], received, [5_544, ago_ms]));
    nothing(&receives([78, 880], 32));
    only(&receives([880, 880], 5_100), Cause::FinWait2Pileup);
    only(&receives([78, 880], 4_600), Cause::FinWait2Pileup);
    // A pile beside streams is a pile.
    let idle_ones =
        (20..=30).map(|cookie| TcpSocket { state: TcpState::CloseWait, ..inbound(cookie, "10.0.0.9:5000") });
    let finding = only(&sends([78, 880], 32).tcp(idle_ones), Cause::CloseWaitPileup);
    assert!(finding.verdict.summary.starts_with("11 connections"), "{finding:#?}");
    assert!(finding.verdict.evidence.iter().any(|it| it.text.contains("12 more are in use")), "{finding:#?}");
}

/// Callers that have shut their writing side after the request, and wait for a report; and readers of rare events that have.
#[test]
fn half_closed_callers_wait_for_their_answer() {
    let half = |state, [acked, received]: [u64; 2], [sent_ms, received_ms]: [u32; 2], peer_pid| {
        let last = TcpInfo {
            state,
            bytes_acked: Some(acked),
            bytes_received: Some(received),
            last_data_sent_ms: sent_ms,
            last_data_recv_ms: received_ms,
            ..TcpInfo::default()
        };
        (1..=12).map(move |cookie| TcpSocket {
            state,
            peer_pid,
            inbound: state == TcpState::CloseWait,
            first: Some(last),
            last: Some(last),
            ..inbound(cookie, "127.0.0.1:50000")
        })
    };
    let asked = |peer_pid| idle().tcp(half(TcpState::CloseWait, [0, 28], [7_660, 7_660], peer_pid));
    let told = |peer_pid| idle().tcp(half(TcpState::CloseWait, [9, 28], [9_180, 9_184], peer_pid));
    nothing(&asked(Some(9)));
    nothing(&idle().tcp(half(TcpState::CloseWait, [900, 56], [9_000, 7_660], Some(9))));
    // The peers are gone, or elsewhere.
    assert_eq!(only(&asked(None), Cause::CloseWaitPileup).verdict.confidence, Confidence::Medium);
    assert_eq!(only(&told(None), Cause::CloseWaitPileup).verdict.confidence, Confidence::High);
    // A thread for each of them sleeps until there is news; or waits for work.
    let threads = |mut seen: Observation, call: &str| {
        let blocked_in = Some(BlockedIn { call: call.to_owned(), ..BlockedIn::default() });
        let sleeper = Thread { blocked_in, ..Thread::default() };
        seen.threads
            .as_mut()
            .unwrap()
            .threads
            .extend((0..12).map(|number| Thread { tid: 5_000 + number, ..sleeper.clone() }));
        seen
    };
    advisory(&threads(told(None), "clock_nanosleep"), Cause::CloseWaitPileup);
    advisory(&threads(asked(None), "clock_nanosleep"), Cause::CloseWaitPileup);
    for idle in ["futex", "recvfrom", "epoll_wait", "accept4"] {
        only(&threads(told(None), idle), Cause::CloseWaitPileup);
    }
    // The client's side of it: it asked, or had its answer.
    nothing(&idle().tcp(half(TcpState::FinWait2, [29, 0], [7_976, 7_976], Some(9))));
    only(&idle().tcp(half(TcpState::FinWait2, [29, 90], [7_976, 7_900], Some(9))), Cause::FinWait2Pileup);
    // It asked, and does not listen for the answer: left, or looked at now and then. One that is read tells of all.
    let asks = |call: &str, cookie| {
        let blocked_in = Some(BlockedIn { call: call.to_owned(), cookie, ..BlockedIn::default() });
        let sockets = half(TcpState::FinWait2, [29, 0], [7_976, 7_976], Some(9));
        idle().tcp(sockets).thread(|thread| thread.blocked_in = blocked_in)
    };
    advisory(&asks("clock_nanosleep", None), Cause::FinWait2Pileup);
    for seen in [asks("recvfrom", Some(3)), asks("io_uring_enter", None)] {
        assert_eq!(judge(&seen), Judgement::default());
    }
}

/// Subscribers of a feed that speaks once a minute: they ask, are answered, and shut their writing side as `nc -N` does.
#[test]
fn half_closed_subscribers_of_a_quiet_feed() {
    let half = |state, change: fn(&mut TcpSocket)| {
        let sockets = (1..=12).map(move |cookie| {
            let mut socket = inbound(cookie, "127.0.0.1:50000");
            (socket.state, socket.inbound, socket.peer_pid) = (state, state == TcpState::CloseWait, Some(9));
            let tcp = socket.last.as_mut().unwrap();
            (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_180, 9_180);
            change(&mut socket);
            socket
        });
        idle().tcp(sockets)
    };
    let server = |change| half(TcpState::CloseWait, change);
    advisory(&server(|_| {}), Cause::CloseWaitPileup);
    // They are gone, or went while watched; it is a server that closed; they are elsewhere, and may read on.
    let confidence = |seen| only(&seen, Cause::CloseWaitPileup).verdict.confidence;
    assert_eq!(confidence(server(|socket| socket.peer_pid = None)), Confidence::High);
    assert_eq!(confidence(server(|socket| socket.since_before = false)), Confidence::Medium);
    assert_eq!(confidence(server(|socket| socket.inbound = false)), Confidence::High);
    let far = |socket: &mut TcpSocket| (socket.peer_pid, socket.remote) = (None, "10.0.0.9:50000".parse().unwrap());
    assert_eq!(confidence(server(far)), Confidence::Medium);
    // A pile beside them is one.
    let mut both = server(|_| {});
    let gone = server(|socket| (socket.cookie, socket.peer_pid) = (socket.cookie + 20, None));
    both = both.tcp(gone.sockets.unwrap().tcp);
    let finding = only(&both, Cause::CloseWaitPileup);
    assert!(finding.verdict.summary.starts_with("12 connections"), "{finding:#?}");
    // The clients' side: a thread listens to them, or nobody does; and a server that has shut its side has said all.
    let listens = |mut seen: Observation, call: &str, events| {
        let member = |fd: u32| WaitsFor { fd, events, what: None, cookie: Some(fd.into()) };
        let waits_for = (1..=12).map(member).collect();
        seen.threads.as_mut().unwrap().threads[0].blocked_in =
            Some(BlockedIn { call: call.to_owned(), waits_for, ..BlockedIn::default() });
        seen
    };
    let client = |change| half(TcpState::FinWait2, change);
    for call in ["select", "poll", "epoll_wait"] {
        advisory(&listens(client(|_| {}), call, 1), Cause::FinWait2Pileup);
    }
    assert_eq!(only(&client(|_| {}), Cause::FinWait2Pileup).verdict.confidence, Confidence::Medium);
    let writes = only(&listens(client(|_| {}), "poll", 4), Cause::FinWait2Pileup);
    assert_eq!(writes.verdict.confidence, Confidence::High);
    only(&listens(client(|socket| socket.cookie += 20), "poll", 1), Cause::FinWait2Pileup);
    only(&listens(client(|socket| socket.inbound = true), "epoll_wait", 1), Cause::FinWait2Pileup);
}

/// Calls are counted in short looks, 400 ms of 5 s here: what they saw is not all there was.
#[test]
fn counts_of_looks_say_so() {
    let refused = |looked_us| {
        let mut seen = idle();
        let fds = seen.fds.as_mut().unwrap();
        (fds.open, fds.by_kind) = (rising(600, 5), vec![kind("file", 590, 695)]);
        fds.openers = Some(vec![Opener { stack: stack(&["open", "load"]), call: "openat".to_owned(), still_open: 10 }]);
        let connects = CallCount { call: Call::Connect, errno: 99, count: 7, ..CallCount::default() };
        let accepts = CallCount { call: Call::Accept, errno: 24, count: 12, ..CallCount::default() };
        seen.calls = Some(Calls { looked_us, counts: vec![connects, accepts] });
        let found = judge(&seen).verdicts;
        let texts = |cause| {
            let of = found.iter().filter(move |finding| finding.verdict.cause == cause);
            of.flat_map(|finding| &finding.verdict.evidence)
                .map(|it| it.text.to_string())
                .collect::<Vec<_>>()
                .join("; ")
        };
        (texts(Cause::FdLeak), texts(Cause::PortsExhausted))
    };
    let (fds, ports) = refused(400_000);
    assert!(fds.contains("accept failed 12 times with EMFILE in 400ms of looking"), "{fds}");
    assert!(fds.contains("10 still open, of those that were opened in 400ms of looking"), "{fds}");
    assert!(ports.contains("connect failed so 7 times in 400ms of looking"), "{ports}");
    let (fds, ports) = refused(WINDOW);
    assert!(fds.contains("10 still open") && !fds.contains("of looking"), "{fds}");
    assert!(ports.contains("7 times") && !ports.contains("of looking"), "{ports}");
}

/// As it was recorded: A and AAAA of one name after the other, each answered after 0.9 s.
#[test]
fn one_caller_that_resolves_names_waits_for_nobody_else() {
    let query = |place: u64, kind, tid| DnsExchange {
        name: format!("h{place}.example.test"),
        kind,
        server: "127.0.0.1".to_owned(),
        tid,
        sent_us: place * 902_000 + u64::from(kind),
        sent: 1,
        answered_us: Some(900_704),
        rcode: Some(0),
        answers: Some(1),
        ..DnsExchange::default()
    };
    let asks = |tid, threads| {
        let mut seen = idle();
        seen.threads.as_mut().unwrap().last = threads;
        let dns = (0..6).flat_map(|place| [query(place, 1, tid), query(place, 28, tid)]);
        seen.connections.as_mut().unwrap().dns = dns.collect();
        seen
    };
    advisory(&asks(PID, 1), Cause::DnsSlow);
    advisory(&asks(PID, 5), Cause::DnsSlow);
    // One thread for the names of all is possible, and nobody was seen to wait for it.
    advisory(&asks(PID + 1, 5), Cause::DnsSerialised);
}

/// One thread asks for another name each 50 ms, and each answer takes 80 ms.
#[test]
fn an_asynchronous_resolver_holds_up_nobody() {
    let query = |place: u64| DnsExchange {
        name: format!("h{place}.example.test"),
        kind: 1,
        tid: PID,
        sent_us: place * 50_100,
        sent: 1,
        answered_us: Some(80_600),
        rcode: Some(0),
        answers: Some(1),
        ..DnsExchange::default()
    };
    let mut seen = idle();
    seen.connections.as_mut().unwrap().dns = (0..98).map(query).collect();
    assert_eq!(judge(&seen), Judgement::default());
}

/// Senders that are looked up in a list of bad ones, three a second: that there is no such name is the good answer.
#[test]
fn names_that_need_not_exist() {
    let asks = |name: &dyn Fn(u64) -> String, every_us: u64, rcode| {
        let query = |place: u64, kind| DnsExchange {
            name: name(place),
            kind,
            server: "127.0.0.71".to_owned(),
            sent_us: 170_000 + place * every_us,
            sent: 1,
            answered_us: Some(3_800),
            rcode: Some(rcode),
            answers: Some(0),
            ..DnsExchange::default()
        };
        let mut seen = idle();
        seen.connections.as_mut().unwrap().dns =
            (0..16).flat_map(|place| [query(place, 1), query(place, 28)]).collect();
        seen
    };
    let sender = |place: u64| format!("{}.2.0.192.bl.test", 12 + place);
    nothing(&asks(&sender, 300_000, 3));
    // The server fails; or each is asked at once, as peers are when a program starts; or a few peers over and over; or one
    // through all domains.
    only(&asks(&sender, 300_000, 2), Cause::DnsFailed);
    only(&asks(&|place| format!("peer{place}.test"), 1_000, 3), Cause::DnsFailed);
    // Of an address a no is an answer even so; in several lists each is asked for at the same time.
    advisory(&asks(&sender, 1_000, 3), Cause::DnsFailed);
    advisory(&asks(&|place| format!("{}.2.0.192.in-addr.arpa", place % 2), 300_000, 3), Cause::DnsFailed);
    only(&asks(&|place| format!("{}.0.192.bl.test", place % 2), 300_000, 3), Cause::DnsFailed);
    nothing(&asks(&|place| format!("{}.2.0.192.bl{}.test", 12 + place / 5, place % 5), 300_000, 3));
    let peers = asks(&|place| format!("api{}.test", place % 5), 300_000, 3);
    assert!(causes(&judge(&peers)).contains(&Cause::DnsFailed.id()));
    only(&asks(&|place| format!("api.test.{place}.example"), 300_000, 3), Cause::DnsFailed);
    let search = |place| if place == 15 { "db".to_owned() } else { format!("db.{place}.svc.example") };
    only(&asks(&search, 300_000, 3), Cause::DnsFailed);
    // Sites that may be there have their first label in common.
    nothing(&asks(&|place| format!("www.site{place}.test"), 300_000, 3));
    // The same where the library was asked.
    let probed = |names: u64, name: &dyn Fn(u64) -> String| {
        let lookup = |place: u64| Lookup {
            name: name(place % names),
            at_us: place * 300_000,
            took_us: 3_800,
            result: Some(-2),
            ..Lookup::default()
        };
        let lookups = (0..16).map(lookup).collect();
        Observation { lookups: Some(Lookups { lookups, ..Lookups::default() }), ..idle() }
    };
    let peer = |place: u64| format!("peer{place}.test");
    nothing(&probed(16, &peer));
    assert!(causes(&judge(&probed(3, &peer))).contains(&Cause::DnsFailed.id()));
    nothing(&probed(16, &sender));
    advisory(&probed(3, &sender), Cause::DnsFailed);
}
