//! Streams that pause, readers and senders at a pace of their own, as they were recorded; and those that are stuck and look
//! like them.

use super::{
    calls::{asked, blocked, closed_by_us},
    *,
};
use crate::observation::{BlockedIn, Moment, Runtime, Side, WaitsFor};

fn started(mut seen: Observation) -> Observation {
    seen.process.exec_at_us = Some(0);
    seen
}

/// A caller of this process, who asked so long ago and has not been answered.
fn caller(cookie: u64, asked_ms: u32) -> TcpSocket {
    let mut socket = inbound(cookie, "10.0.0.20:50000");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, asked_ms);
    socket
}

/// One chunk of a body came, then nothing: an export that is stuck, or a stream of news.
#[test]
fn chunks_that_stop() {
    let stopped = |last_us: u64, change: fn(&mut Connection)| {
        asked(|connection| {
            (connection.read_bytes, connection.turns, connection.last_read) = (1_080, 1, Some(Moment::At(last_us)));
            let http = connection.http.as_mut().unwrap();
            (http.status, http.answered, http.chunks_ended) = (Some(200), Some(Moment::At(900)), Some(false));
            (http.head_bytes, http.body_bytes) = (Some(47), Some(1_033));
            change(connection);
        })
    };
    let finding = only(&started(stopped(900, |_| {})), Cause::BodyStalled);
    assert!(finding.verdict.summary.contains("after 1033 bytes"), "{}", finding.verdict.summary);
    assert!(finding.verdict.confidence <= Confidence::Medium, "a stream of news may be silent");
    advisory(&stopped(900, |_| {}), Cause::BodyStalled);
    let asked_for = judge(&stopped(900, |_| {}).tcp([caller(7, 5_000)]));
    assert_eq!(causes(&asked_for), ["waits-upstream", "body-stalled"]);
    // Its end was read, or a part of it only just now; some of it lies unread.
    nothing(&started(stopped(900, |connection| connection.http.as_mut().unwrap().chunks_ended = Some(true))));
    nothing(&started(stopped(WINDOW - 500_000, |_| {})));
    nothing(&started(stopped(900, |_| {}).tcp([TcpSocket { unread_bytes: 500, ..outbound(9, "10.0.0.9:80") }])));
    // News come when there are some, whoever waits for them.
    let events = |connection: &mut Connection| connection.http.as_mut().unwrap().is_events = true;
    let watch = |connection: &mut Connection| connection.http.as_mut().unwrap().asks_to_wait = true;
    for news in [stopped(900, events), stopped(900, watch)] {
        advisory(&started(news.clone()), Cause::BodyStalled);
        advisory(&news.tcp([caller(7, 5_000)]), Cause::BodyStalled);
    }
}

/// A prober of media that looks at the first 300 KB of a film, and closes; one that was not let read what had come.
#[test]
fn who_leaves_the_rest_unread_has_what_it_wants() {
    let left = |unread_bytes: u32, recv_ms: u32| {
        let mut socket = outbound(9, "10.0.0.9:80");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.bytes_received) = (356, recv_ms, None);
        socket.unread_bytes = unread_bytes;
        let seen = asked(|connection| {
            (connection.read_bytes, connection.turns, connection.last_read) = (307_200, 1, Some(Moment::At(306_000)));
            let http = connection.http.as_mut().unwrap();
            (http.status, http.answered, http.missing_bytes) = (Some(200), Some(Moment::At(900)), Some(209_408_000));
            (http.head_bytes, http.body_bytes) = (Some(150), Some(307_050));
            closed_by_us(connection, 356_000);
        });
        let mut seen = seen.tcp([TcpSocket { last_seen_us: 340_000, ..socket }]);
        seen.connections.as_mut().unwrap().closed = 1;
        seen
    };
    assert_eq!(judge(&left(29_696, 80)), Judgement::default());
    only(&left(29_696, 300), Cause::LocalStall);
    // It could have read on, and did not.
    let polls = blocked(left(29_696, 300), "poll", 99, 40_000).thread(|thread| {
        let waits_for = vec![WaitsFor { fd: 9, events: 1, ..WaitsFor::default() }];
        (thread.calls, thread.blocked_in.as_mut().unwrap().waits_for) = (vec![("poll".to_owned(), 20)], waits_for);
    });
    only(&polls, Cause::ReaderSlow);
    // It was looked at before the last read.
    let mut early = left(95_232, 36);
    early.sockets.as_mut().unwrap().tcp[0].last_seen_us = 300_000;
    assert_eq!(judge(&early), Judgement::default());
    // All that came was read, and more was waited for.
    only(&left(0, 80), Cause::BodySlow);
    // Nobody looked at it, and the kernel says that something was unread; or nobody knows.
    let mut unseen = left(0, 80);
    unseen.sockets.as_mut().unwrap().tcp.clear();
    only(&unseen, Cause::BodySlow);
    let connection = &mut unseen.connections.as_mut().unwrap().connections[0];
    connection.reset_sent = true;
    assert_eq!(judge(&unseen), Judgement::default());
    // So little came that it was too slow, whatever came later.
    let connection = &mut unseen.connections.as_mut().unwrap().connections[0];
    connection.read_bytes = 300;
    only(&unseen, Cause::BodySlow);
}

/// A thread that was found in that call by every look.
fn sits_in(thread: &mut Thread, call: &str) {
    let waits_for = vec![WaitsFor { fd: 3, events: 1, what: Some("socket".to_owned()), cookie: None }];
    thread.blocked_in = Some(BlockedIn { call: call.to_owned(), waits_for, ..BlockedIn::default() });
    thread.calls = vec![(call.to_owned(), thread.looks)];
}

/// curl with a limit to its rate, and a player of Node's that has a minute of film; and those that are kept from reading.
#[test]
fn who_reads_no_more_for_now() {
    let seen = |call: &str, received: u64| {
        let mut socket = outbound(9, "127.0.0.1:7102");
        (socket.unread_bytes, socket.unread_for_us) = (5_814_751, WINDOW);
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.bytes_received) = (30_208, 9_216, Some(received));
        idle().tcp([socket]).thread(|thread| sits_in(thread, call))
    };
    let finding = advisory(&seen("poll", 21_143_510), Cause::ReaderSlow);
    assert!(finding.verdict.fix.contains("a limit to its rate"), "{finding:#?}");
    let mut node = seen("epoll_wait", 21_143_510);
    node.process.runtime = Runtime::Node;
    let threads = &mut node.threads.as_mut().unwrap().threads;
    let mut worker = Thread { tid: PID + 1, ..threads[0].clone() };
    sits_in(&mut worker, "futex");
    threads.push(worker);
    advisory(&node, Cause::ReaderSlow);
    // It never read; it sleeps, computes, or waits for another thread; somebody waits for it, or wants to know.
    only(&seen("poll", 5_814_751), Cause::ReaderSlow);
    only(&seen("clock_nanosleep", 21_143_510), Cause::ReaderSlow);
    only(&seen("poll", 21_143_510).thread(|thread| thread.sleeps = 20), Cause::ReaderSlow);
    only(&seen("poll", 21_143_510).thread(|thread| thread.calls[0].1 = 4), Cause::ReaderSlow);
    node.process.runtime = Runtime::Native;
    only(&node, Cause::ReaderSlow);
    only(&seen("poll", 21_143_510).tcp([caller(7, 5_000)]), Cause::ReaderSlow);
    only(&started(seen("poll", 21_143_510)), Cause::ReaderSlow);
}

/// An agent sends a heartbeat each three seconds and polls in between; its collector never says a word. The same to a Redis
/// that was told to be silent; and those who have sent a request.
#[test]
fn who_sends_again_waits_for_no_answer() {
    let polls = |first: (u64, u32), last: (u64, u32), received: u64| {
        let mut socket = outbound(9, "127.0.0.1:7142");
        let tcp = |(acked, sent_ms): (u64, u32)| TcpInfo {
            bytes_acked: Some(acked),
            bytes_received: Some(received),
            last_data_sent_ms: sent_ms,
            last_data_recv_ms: 9_000,
            ..socket.last.unwrap()
        };
        (socket.first, socket.last) = (Some(tcp(first)), Some(tcp(last)));
        socket.peer_unread_bytes = Some(0);
        let seen = blocked(idle().tcp([socket]), "poll", 9, 2_430_000);
        seen.thread(|thread| thread.blocked_in.as_mut().unwrap().timeout_us = Some(Some(3_000_000)))
    };
    advisory(&polls((19, 1_704), (28, 2_432), 0), Cause::ServerSlow);
    // One request, before the watch or in it; a long one that came to its end; the second piece of one.
    only(&polls((28, 2_000), (28, 2_432), 0), Cause::ServerSlow);
    only(&polls((1, 2_000), (28, 2_432), 0), Cause::ServerSlow);
    only(&polls((19, 0), (3_000_000, 2_432), 0), Cause::ServerSlow);
    let mut young = polls((19, 0), (28, 2_432), 0);
    young.sockets.as_mut().unwrap().tcp[0].in_state_us = 2_900_000;
    only(&young, Cause::ServerSlow);
    // It was started to be watched, and its answers ended with the first.
    let redis = |first_us: u64, timeout_us: Option<Option<u64>>| {
        let mut seen = started(polls((72, 0), (114, 2_432), 7));
        seen.connections.as_mut().unwrap().connections.push(Connection {
            cookie: 9,
            side: Side::Client,
            opened: Some(Moment::At(207_766)),
            read_bytes: 7,
            written_bytes: 113,
            last_read: Some(Moment::At(208_295)),
            first_write: Some(Moment::At(first_us)),
            last_write: Some(Moment::At(2_567_000)),
            turns: 1,
            redis: Some("PING".to_owned()),
            ..Connection::default()
        });
        seen.thread(|thread| thread.blocked_in.as_mut().unwrap().timeout_us = timeout_us)
    };
    let timed = redis(208_338, Some(Some(4_000_000)));
    advisory(&timed, Cause::ServerSlow);
    // Its only answer came before the window.
    let mut later = timed;
    later.connections.as_mut().unwrap().connections[0].last_read = Some(Moment::Before);
    advisory(&later, Cause::ServerSlow);
    // Its wait has no limit; it is the first request after an answer.
    only(&redis(208_338, Some(None)), Cause::ServerSlow);
    only(&redis(2_300_000, Some(Some(4_000_000))), Cause::ServerSlow);
}

/// Each of the calls has its caller; or one call holds a lock, and the callers wait for that.
#[test]
fn callers_behind_another_s_call() {
    let seen = |callers: u64| {
        let mut socket = outbound(9, "10.0.0.9:5432");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (4_000, 9_000);
        blocked(idle().tcp([socket]).tcp((20..20 + callers).map(|cookie| caller(cookie, 4_100))), "recvfrom", 9, WINDOW)
    };
    let summary = |callers| only(&seen(callers), Cause::WaitsUpstream).verdict.summary;
    assert!(summary(1).ends_with("the trouble is there, not here"), "{}", summary(1));
    assert!(summary(7).contains("7 callers") && summary(7).contains("wait behind it"), "{}", summary(7));
    assert!(!summary(7).contains("not here"), "{}", summary(7));
}

/// A slow peer is called for each caller; a long poll to another, which was sent meanwhile, holds up none of them.
#[test]
fn callers_wait_for_the_call_that_they_led_to() {
    let call = |cookie, peer: &str, sent_ms| {
        let mut socket = outbound(cookie, peer);
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, 9_000);
        socket
    };
    let slow = [call(9, "10.0.0.9:5432", 4_090), call(10, "10.0.0.9:5432", 6_080)];
    let callers = [caller(20, 4_100), caller(21, 6_100)];
    let beside = |sent_ms| {
        let judgement = judge(&idle().tcp(slow.clone()).tcp([call(12, "10.0.0.9:2379", sent_ms)]).tcp(callers.clone()));
        let upstream = |finding: &&Finding| finding.verdict.cause == Cause::WaitsUpstream;
        let peers: Vec<String> =
            judgement.verdicts.iter().filter(upstream).filter_map(|finding| finding.peer.clone()).collect();
        peers
    };
    assert_eq!(beside(3_000), ["10.0.0.9:5432"]);
    // Sent just after a caller had asked, it may be made for that one.
    let mut both = beside(6_050);
    both.sort();
    assert_eq!(both, ["10.0.0.9:2379", "10.0.0.9:5432"]);
    // Nobody saw what was asked, and where it went out long after a caller had come, that says less.
    let doubted = |sent_ms| {
        let finding = only(&idle().tcp([call(9, "10.0.0.9:6379", sent_ms), caller(20, 6_100)]), Cause::WaitsUpstream);
        let doubts = finding.verdict.rejected.iter().filter(|other| other.why.contains("may be to wait"));
        (finding.verdict.confidence, doubts.count())
    };
    assert_eq!(doubted(6_090), (Confidence::High, 0));
    assert_eq!(doubted(3_000), (Confidence::Medium, 1));
}

/// A client of SSH, which has sent its own greeting; and what was opened before anybody looked.
#[test]
fn another_protocol_is_no_http() {
    let sources = |opened: Moment| {
        let mut socket = outbound(9, "10.0.0.9:22");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (4_000, 4_900);
        let mut seen = started(blocked(idle().tcp([socket]), "read", 9, 4_000_000));
        seen.connections.as_mut().unwrap().connections.push(Connection {
            cookie: 9,
            side: Side::Client,
            opened: Some(opened),
            written_bytes: 180,
            read_bytes: 4_000,
            ..Connection::default()
        });
        let finding = only(&seen, Cause::ServerSlow);
        finding.verdict.evidence.iter().any(|it| it.source == overdue_core::Source::Http)
    };
    assert!(!sources(Moment::At(300)));
    assert!(sources(Moment::Before));
}

/// The threads of a virtual machine that have nothing to do, beside a call; and those that wait for what the call holds.
#[test]
fn idle_threads_are_no_crowd() {
    let seen = |name: &str, wait: &str| {
        let mut socket = outbound(9, "10.0.0.9:5432");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (5_000, 9_000);
        let mut seen = blocked(idle().tcp([socket, caller(7, 5_000)]), "recvfrom", 9, WINDOW);
        seen.process.runtime = Runtime::Java;
        let all = &mut seen.threads.as_mut().unwrap().threads;
        let mut waits = Thread { name: name.to_owned(), stack: Some(stack(&[wait])), ..all[0].clone() };
        sits_in(&mut waits, "futex");
        all.extend((1..40).map(|tid| Thread { tid: PID + tid, ..waits.clone() }));
        only(&seen, Cause::WaitsUpstream).verdict.share
    };
    assert!((seen("GC Thread#0", "PosixSemaphore::wait") - 1.0).abs() < 1e-9);
    assert!(seen("handler", "Unsafe_Park") < 0.1);
}

/// A reader that sleeps between its reads, as it was recorded: bytes move, and its window is closed most of the time.
#[test]
fn a_peer_that_reads_slowly() {
    let reads = |change: fn(&mut TcpSocket)| {
        let mut socket = TcpSocket { unsent_bytes: 3_048_960, ..inbound(9, "10.0.0.20:50000") };
        let at = |acked, limited_us| TcpInfo {
            bytes_acked: Some(acked),
            busy_us: Some(limited_us),
            rwnd_limited_us: Some(limited_us),
            snd_wnd: Some(0),
            snd_mss: 1_448,
            last_data_sent_ms: 360,
            ..socket.last.unwrap()
        };
        (socket.first, socket.last) = (Some(at(385_536, 1_604_000)), Some(at(956_928, 6_404_000)));
        socket.timer = TcpTimer { kind: TimerKind::ZeroWindowProbe, expires_ms: 388, fired: 0 };
        change(&mut socket);
        idle().tcp([socket])
    };
    let finding = advisory(&reads(|_| {}), Cause::PeerNotReading);
    assert!(finding.verdict.summary.contains("114278 bytes a second, and for 96 %"), "{}", finding.verdict.summary);
    assert_eq!(finding.verdict.confidence, Confidence::Low);
    // Limited for a part of the time; nothing more to send; a small window on a long path; a disk that is full of work.
    let part = |socket: &mut TcpSocket| socket.last.as_mut().unwrap().rwnd_limited_us = Some(5_000_000);
    let open = |socket: &mut TcpSocket| {
        socket.timer = TcpTimer { kind: TimerKind::Retransmit, expires_ms: 200, fired: 0 };
        [&mut socket.first, &mut socket.last].into_iter().for_each(|tcp| tcp.as_mut().unwrap().snd_wnd = Some(64_240));
    };
    let quick = |socket: &mut TcpSocket| socket.last.as_mut().unwrap().bytes_acked = Some(900_000_000);
    let done = |socket: &mut TcpSocket| socket.unsent_bytes = 0;
    for change in [part, done, open, quick] {
        assert_eq!(judge(&reads(change)), Judgement::default());
    }
    // One that takes nothing any more is no slow one.
    let stuck = |socket: &mut TcpSocket| {
        socket.last.as_mut().unwrap().last_data_sent_ms = 4_000;
        socket.first = socket.last;
    };
    let finding = only(&reads(stuck), Cause::PeerNotReading);
    assert!(finding.verdict.summary.contains("takes no more bytes"), "{}", finding.verdict.summary);
}

/// Players of a video: each takes a megabyte every four seconds, and nothing in between.
#[test]
fn players_that_pause() {
    let player = |cookie, took: u64| {
        let mut socket = TcpSocket { unsent_bytes: 2_400_000, ..inbound(cookie, "10.0.0.20:50000") };
        let at = |acked, limited_us| TcpInfo {
            bytes_acked: Some(acked),
            busy_us: Some(limited_us),
            rwnd_limited_us: Some(limited_us),
            snd_wnd: Some(0),
            snd_mss: 1_448,
            last_data_sent_ms: 3_200,
            last_data_recv_ms: 60_000,
            last_ack_recv_ms: 800,
            ..socket.last.unwrap()
        };
        (socket.first, socket.last) = (Some(at(9_000_000, 50_000_000)), Some(at(9_000_000 + took, 54_600_000)));
        socket.timer = TcpTimer { kind: TimerKind::ZeroWindowProbe, expires_ms: 388, fired: 0 };
        socket
    };
    let finding = advisory(&idle().tcp((1..=20).map(|cookie| player(cookie, 1_000_000))), Cause::PeerNotReading);
    assert!(finding.verdict.summary.starts_with("20 peers read slowly"), "{finding:#?}");
    assert_eq!(finding.verdict.confidence, Confidence::Low);
    // They take nothing at all.
    only(&idle().tcp((1..=20).map(|cookie| player(cookie, 0))), Cause::PeerNotReading);
}
