//! Who asked for what, and who asked for nothing: healthy programs that were judged ill once, and the ill ones beside them.

use super::{
    calls::{asked, blocked, closed_by_us, connected},
    *,
};
use crate::{
    judge::Speaker,
    observation::{HttpHead, Listener, Moment, Side, TlsHandshake, WaitsFor},
};

/// A socket whose last bytes passed so long ago, and how many there were.
fn talked(socket: TcpSocket, sent: (u64, u32), received: (u64, u32)) -> TcpSocket {
    let tcp = TcpInfo {
        // The SYN is one of the bytes of who sent it.
        bytes_acked: Some(sent.0 + u64::from(!socket.inbound)),
        bytes_received: Some(received.0),
        last_data_sent_ms: sent.1,
        last_data_recv_ms: received.1,
        ..socket.last.unwrap()
    };
    TcpSocket { last: Some(tcp), ..socket }
}

#[test]
fn a_body_at_its_own_pace() {
    let upload = |last_write_us| asked(|connection| connection.last_write = Some(Moment::At(last_write_us)));
    nothing(&upload(WINDOW - 75_000));
    // It pauses between its pieces.
    nothing(&upload(WINDOW - 1_500_000));
    only(&upload(1_500_000), Cause::ServerSlow);
}

/// A feed without news, and a tunnel whose clients say nothing.
#[test]
fn who_said_nothing_waits_for_no_answer() {
    let quiet = |cookie| talked(outbound(cookie, "10.0.0.9:80"), (0, 45_000), (0, 45_000));
    let finding = advisory(&blocked(idle().tcp([quiet(9)]), "recvfrom", 9, WINDOW), Cause::ServerSlow);
    assert!(finding.verdict.summary.contains("nothing was sent to it"), "{}", finding.verdict.summary);
    // Whoever else asks does not ask for that.
    let caller = talked(inbound(7, "10.0.0.20:50000"), (200, 9_000), (100, 4_000));
    advisory(&blocked(idle().tcp([quiet(9), caller]), "recvfrom", 9, WINDOW), Cause::ServerSlow);
    let asked = talked(outbound(9, "10.0.0.9:80"), (80, 45_000), (0, 45_000));
    let finding = only(&blocked(idle().tcp([asked]), "recvfrom", 9, WINDOW), Cause::ServerSlow);
    assert_eq!(finding.verdict.confidence, Confidence::Medium, "what it asked was not seen");
}

/// A request that says that it waits is no less so for a caller's being there.
#[test]
fn a_blocking_pop_beside_callers() {
    let seen = |command: &str| {
        let caller = talked(inbound(7, "10.0.0.20:50000"), (200, 9_000), (100, 4_000));
        let worker = talked(outbound(9, "10.0.0.9:6379"), (80, 3_000), (40, 3_500));
        let mut seen = blocked(idle().tcp([worker, caller]), "recvfrom", 9, 3_000_000);
        let connection = Connection {
            cookie: 9,
            side: Side::Client,
            opened: Some(Moment::Before),
            redis: Some(command.to_owned()),
            ..Connection::default()
        };
        seen.connections.as_mut().unwrap().connections.push(connection);
        seen
    };
    advisory(&seen("BLPOP"), Cause::ServerSlow);
    only(&seen("GET"), Cause::WaitsUpstream);
}

/// Bytes that go through one for one: a WebSocket through a proxy. What a proxy asks by itself is a call.
#[test]
fn what_is_relayed_is_no_call() {
    let seen = |sent| {
        let client = talked(inbound(7, "10.0.0.20:50000"), (129, 9_000), (153, 4_003));
        let server = talked(outbound(9, "10.0.0.9:80"), (sent, 4_000), (129, 9_002));
        idle().tcp([client, server])
    };
    let finding = advisory(&seen(153), Cause::ServerSlow);
    assert!(finding.verdict.evidence.iter().any(|it| it.text.contains("byte by byte")), "{finding:#?}");
    only(&seen(190), Cause::WaitsUpstream);
    // The first request, which was never answered; or a line of a log, which never is.
    let client = talked(inbound(7, "10.0.0.20:50000"), (0, 4_003), (27, 4_003));
    let server = talked(outbound(9, "10.0.0.9:80"), (27, 4_000), (0, 4_000));
    let finding = only(&idle().tcp([client, server]), Cause::WaitsUpstream);
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
}

/// `localhost` is `::1` first; and a connect that a faster one made needless.
#[test]
fn another_address_of_the_same_name() {
    let two = |first: fn(&mut Connection), port: u16| {
        let mut seen = connected(|connection| {
            connection.remote = Some("[::1]:80".parse().unwrap());
            connection.established = None;
            (connection.closed, connection.errno) = (Some(Moment::At(300)), Some(111));
            first(connection);
        });
        let connections = seen.connections.as_mut().unwrap();
        connections.opened = 2;
        let next = Connection {
            cookie: 10,
            remote: Some(std::net::SocketAddr::from(([127, 0, 0, 1], port))),
            errno: None,
            opened: Some(Moment::At(400)),
            established: Some(Moment::At(500)),
            closed: Some(Moment::At(900)),
            closed_by_us: true,
            ..connections.connections[0].clone()
        };
        connections.connections.push(next);
        seen
    };
    nothing(&two(|_| {}, 80));
    only(&two(|_| {}, 81), Cause::ConnectRefused);
    let given_up = |connection: &mut Connection| {
        connection.errno = None;
        closed_by_us(connection, 400_000);
    };
    nothing(&two(given_up, 80));
    only(&two(given_up, 81), Cause::SynUnanswered);
    // As the last look saw it.
    let mut seen = two(given_up, 81);
    let (local, remote) = ("[::1]:40000".parse().unwrap(), "[::1]:80".parse().unwrap());
    let state = TcpState::SynSent;
    seen = seen.tcp([TcpSocket { state, in_state_us: 390_000, local, remote, last: None, ..outbound(9, "[::1]:80") }]);
    only(&seen, Cause::SynUnanswered);
}

/// Thousands a second: the table tells of 512, and the kernel counts.
#[test]
fn failures_in_numbers() {
    let storm = |resets| {
        let mut seen = connected(|connection| {
            connection.established = None;
            (connection.closed, connection.errno) = (Some(Moment::At(300)), Some(111));
        });
        let connections = seen.connections.as_mut().unwrap();
        let one = connections.connections[0].clone();
        connections.connections = (0..512).map(|cookie| Connection { cookie, ..one.clone() }).collect();
        (connections.opened, connections.untold, connections.reset_by_peer) = (15_092, 12_494, resets);
        seen
    };
    only(&storm(15_088), Cause::ConnectRefused);
    nothing(&storm(512));
}

#[test]
fn a_request_inside_of_tls_that_waits() {
    let seen = |tickets| {
        connected(|connection| {
            connection.read_bytes = 4_000;
            connection.tls = Some(TlsHandshake {
                client: true,
                alpn: vec!["http/1.1".to_owned()],
                hello: Some(Moment::At(400)),
                done: Some(Moment::At(900)),
                unanswered: Some(Moment::Inferred(1_000)),
                asked_bytes: 163,
                ticket_bytes: tickets,
                ..TlsHandshake::default()
            });
        })
        .tcp([outbound(9, "10.0.0.9:443")])
    };
    // Nobody sees whether it asks to wait.
    advisory(&seen(0), Cause::ServerSlow);
    let started = |mut seen: Observation| {
        seen.process.exec_at_us = Some(0);
        seen
    };
    let finding = only(&started(seen(0)), Cause::ServerSlow);
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    // What came may have been the answer; a thread that reads on says that it was not.
    advisory(&started(seen(500)), Cause::ServerSlow);
    only(&started(blocked(seen(500), "recvfrom", 9, 4_000_000)), Cause::ServerSlow);
}

#[test]
fn a_process_that_calls_itself() {
    let caller = talked(inbound(7, "10.0.0.20:50000"), (200, 9_000), (100, 4_000));
    let itself = talked(outbound(9, "127.0.0.1:8080"), (80, 3_900), (0, 3_900));
    let mut seen = blocked(idle().tcp([itself, caller]), "recvfrom", 9, 3_900_000);
    let listener = Listener { queued_max: 0, ..process::listener() };
    seen.sockets.as_mut().unwrap().listeners.push(listener);
    let finding = only(&seen, Cause::WaitsUpstream);
    assert!(finding.verdict.summary.contains("it calls itself, and what"), "{}", finding.verdict.summary);
    seen.sockets.as_mut().unwrap().listeners[0].queued_last = 1;
    let finding = only(&seen, Cause::WaitsUpstream);
    assert!(finding.verdict.summary.contains("it calls itself, and has nobody left"), "{}", finding.verdict.summary);
}

/// Its host vanished: the keepalive finds that out long before the reader does.
#[test]
fn a_peer_that_answers_no_probe() {
    let seen = |fired| {
        let mut socket = talked(outbound(9, "10.0.0.9:80"), (80, 60_000), (40, 59_000));
        socket.timer = TcpTimer { kind: TimerKind::Keepalive, expires_ms: 500, fired };
        socket.last.as_mut().unwrap().last_ack_recv_ms = 9_600;
        blocked(idle().tcp([socket]), "recvfrom", 9, WINDOW)
    };
    nothing(&seen(1));
    only(&seen(9), Cause::PathLost);
}

/// Nobody knows what it waits for, and nobody says that it does not wait.
#[test]
fn clients_that_had_the_last_word() {
    let client = |cookie, ms| talked(inbound(cookie, "10.0.0.20:50000"), (200, 9_500), (100, ms));
    let report = crate::Report::of(&idle().tcp([client(7, 8_000), client(8, 2_000), client(9, 200)]));
    let [words] = &report.last_words[..] else { panic!("{report:?}") };
    assert!(report.is_well());
    assert_eq!((words.by, words.connections, words.longest_us), (Speaker::Clients, 2, 8_000_000));
    assert!(words.to_string().starts_with("2 clients had the last word, the first of them 8s ago"), "{words}");
    assert_eq!(crate::Report::of(&idle().tcp([client(9, 200)])).last_words, []);
    // Where its threads are that hear nobody: in a sleep, as one who listens is not.
    let sleeps = |call: &str| {
        let seen = blocked(idle().tcp([client(7, 8_000)]), call, 99, 3_000_000);
        crate::Report::of(&seen).last_words[0].to_string()
    };
    assert!(sleeps("clock_nanosleep").ends_with("Meanwhile 1 thread slept (clock_nanosleep), for 3s at most."));
    assert!(sleeps("wait4").ends_with("Meanwhile 1 thread waited for a child (wait4), for 3s at most."));
    assert!(sleeps("epoll_wait").ends_with("has said all."));
    // Who has gone meanwhile waits no more.
    let gone = TcpSocket { last_seen_us: 2_000_000, ..client(7, 8_000) };
    assert_eq!(crate::Report::of(&idle().tcp([gone])).last_words, []);
}

/// The same of those whom the process asked: on a kept connection the second request, or an answer half of which has come.
#[test]
fn servers_that_said_nothing_more() {
    let server = |sent_ms, recv_ms| talked(outbound(9, "10.0.0.9:80"), (80, sent_ms), (40, recv_ms));
    let words = |seen: &Observation| {
        let report = crate::Report::of(seen);
        assert!(report.is_well(), "{report:?}");
        report.last_words.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let itself = words(&idle().tcp([server(6_000, 9_000)]));
    assert!(itself.starts_with("It had the last word itself to 10.0.0.9:80, 6s ago:"), "{itself}");
    // It answered; nobody is known to wait for more.
    assert_eq!(words(&idle().tcp([server(9_000, 6_000)])), "");
    let polls = blocked(idle().tcp([server(9_000, 6_000)]), "poll", 9, 300_000);
    let polls = |looks| {
        polls.clone().thread(|thread| {
            thread.calls = vec![("poll".to_owned(), looks)];
            let member = WaitsFor { fd: 9, events: 1, what: None, cookie: Some(9) };
            thread.blocked_in.as_mut().unwrap().waits_for = vec![member];
        })
    };
    let servers = words(&polls(20));
    assert!(servers.starts_with("A thread waits for more of 10.0.0.9:80, of which the last came 6s ago:"), "{servers}");
    assert!(servers.contains("half-way"), "{servers}");
    assert_eq!(words(&polls(9)), "");
    // A stream of events is never half-way.
    let http = HttpHead { answered: Some(Moment::Before), is_events: true, ..HttpHead::default() };
    let mut events = polls(20);
    events.connections.as_mut().unwrap().connections =
        vec![Connection { cookie: 9, opened: Some(Moment::Before), http: Some(http), ..Connection::default() }];
    let events = words(&events);
    assert!(events.starts_with("A thread waits for more of 10.0.0.9:80, of which the last came 6s ago:"), "{events}");
    assert!(events.contains("stream of events") && !events.contains("half-way"), "{events}");
}
