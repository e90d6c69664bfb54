//! Healthy connections, as they were recorded, and sick ones that look like them: clients that have the last word and wait
//! for nothing, that are paused, or that refuse their peers; servers that reset what is over.

use super::{calls::blocked, *};
use crate::observation::{Gaps, HttpHead, Moment, Side, TlsHandshake};

/// Clients, each with a thread that reads, of which the last was sent and received so long ago.
fn clients(number: u64, sent_ms: u32, recv_ms: u32, change: fn(&mut TcpSocket, &mut Connection)) -> Observation {
    let mut seen = idle();
    for cookie in 1..=number {
        let mut socket = outbound(cookie, "10.0.0.9:8080");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, recv_ms);
        (tcp.bytes_acked, tcp.bytes_received) = (Some(125), Some(77));
        let mut connection = Connection { cookie, side: Side::Client, ..Connection::default() };
        change(&mut socket, &mut connection);
        let mut one = blocked(idle(), "recvfrom", cookie, 3_250_000);
        seen.threads.as_mut().unwrap().threads.append(&mut one.threads.as_mut().unwrap().threads);
        seen.connections.as_mut().unwrap().connections.push(connection);
        seen.sockets.as_mut().unwrap().tcp.push(socket);
    }
    seen
}

/// A handshake of a websocket, answered by a 101, and frames that nobody answers.
fn websocket(_: &mut TcpSocket, connection: &mut Connection) {
    (connection.read_bytes, connection.written_bytes, connection.turns) = (77, 124, 1);
    (connection.first_read, connection.last_read) = (Some(Moment::At(1_701_894)), Some(Moment::At(1_701_894)));
    connection.last_write = Some(Moment::At(4_703_641));
    connection.http = Some(HttpHead {
        request: "GET /t".to_owned(),
        requested: Some(Moment::At(1_698_959)),
        status: Some(101),
        answered: Some(Moment::At(1_701_894)),
        ..HttpHead::default()
    });
}

/// A request of HTTP that nobody has answered, after another that was.
fn request(_: &mut TcpSocket, connection: &mut Connection) {
    websocket(&mut outbound(1, "10.0.0.9:80"), connection);
    let http = connection.http.as_mut().unwrap();
    (http.requested, http.status, http.answered) = (Some(Moment::At(1_750_000)), None, None);
    connection.last_write = Some(Moment::At(1_750_000));
}

#[test]
fn a_crowd_that_may_wait_for_nothing() {
    // Telemetry over websockets; heartbeats of subscribers; consumers that acknowledge their jobs.
    let websockets = clients(4, 300, 3_300, websocket);
    advisory(&websockets, Cause::ServerSlow);
    // Whoever starts a program to watch it wants to know what it waits for: on these, for nothing that was asked.
    let started = |mut seen: Observation| {
        seen.process.exec_at_us = Some(264_546);
        seen
    };
    advisory(&started(websockets), Cause::ServerSlow);
    only(&started(clients(1, 3_250, 3_300, request)), Cause::ServerSlow);
    // Nothing of it was seen, and another thread sends on; or the one that reads sent it.
    advisory(&started(clients(4, 300, 3_300, |_, _| {})), Cause::ServerSlow);
    only(&started(clients(1, 3_250, 3_300, |_, _| {})), Cause::ServerSlow);
    // The server had the last word.
    let pushed = clients(1, 3_300, 3_250, |socket, connection| {
        websocket(socket, connection);
        connection.last_write = Some(Moment::At(1_701_000));
    });
    assert_eq!(judge(&pushed), Judgement::default());
    advisory(&clients(3, 1_136, 6_532, |_, _| {}), Cause::ServerSlow);
    advisory(&clients(8, 3_250, 3_300, |_, _| {}), Cause::ServerSlow);
    // As many requests are no chance, fewer may be long polls.
    only(&clients(3, 3_250, 3_300, request), Cause::WaitsUpstream);
    advisory(&clients(2, 3_250, 3_300, request), Cause::ServerSlow);
    let redis = |command: &'static str| {
        let mut seen = clients(3, 3_250, 3_300, |_, _| {});
        let all = &mut seen.connections.as_mut().unwrap().connections;
        all.iter_mut().for_each(|connection| connection.redis = Some(command.to_owned()));
        seen
    };
    only(&redis("HGETALL"), Cause::WaitsUpstream);
    advisory(&redis("BLPOP"), Cause::ServerSlow);
    // A caller of this process that asked before shows that somebody is held up.
    let mut caller = inbound(20, "10.0.0.20:50000");
    let tcp = caller.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 3_300);
    only(&clients(3, 3_250, 3_300, |_, _| {}).tcp([caller]), Cause::WaitsUpstream);
}

/// A server that answers, waits a moment and resets the connection; of its protocol nothing is known.
#[test]
fn resets_after_an_answer_of_any_protocol() {
    let reset = |last_write| {
        let mut seen = idle();
        let connection = |cookie| Connection {
            cookie,
            remote: Some("127.0.0.1:18295".parse().unwrap()),
            side: Side::Client,
            opened: Some(Moment::At(1_337_128)),
            established: Some(Moment::At(1_337_170)),
            closed: Some(Moment::At(1_442_042)),
            errno: Some(104),
            reset_received: true,
            read_bytes: 7,
            written_bytes: 9,
            last_write: Some(Moment::At(last_write)),
            last_read: Some(Moment::At(1_361_292)),
            turns: 1,
            ..Connection::default()
        };
        let connections = seen.connections.as_mut().unwrap();
        (connections.opened, connections.closed, connections.reset_by_peer) = (16, 16, 16);
        connections.connections = (1..17).map(connection).collect();
        seen
    };
    let finding = advisory(&reset(1_337_280), Cause::PeerReset);
    assert!(finding.verdict.evidence.iter().any(|it| it.text.contains("whether it was whole")), "{finding:#?}");
    assert_eq!(crate::Report::of(&reset(1_337_280)).connections_stalled, 0);
    // Something was asked since; somebody wants to know; nothing had come.
    only(&reset(1_400_000), Cause::PeerReset);
    let mut started = reset(1_337_280);
    started.process.exec_at_us = Some(1_000);
    only(&started, Cause::PeerReset);
    let mut none = reset(1_337_280);
    let all = &mut none.connections.as_mut().unwrap().connections;
    all.iter_mut().for_each(|connection| (connection.read_bytes, connection.last_read) = (0, None));
    only(&none, Cause::PeerReset);
}

/// A paused player among clients that are served, as nginx had them; and the same alone, or as most of them.
#[test]
fn a_client_that_takes_nothing() {
    let paused = |cookie| {
        let mut socket = inbound(cookie, "127.0.0.1:58480");
        socket.timer = TcpTimer { kind: TimerKind::ZeroWindowProbe, expires_ms: 952, fired: 0 };
        socket.unsent_bytes = 3_808_768;
        socket.peer_unread_bytes = Some(127_760);
        let tcp = socket.last.as_mut().unwrap();
        (tcp.snd_wnd, tcp.notsent_bytes, tcp.bytes_acked) = (Some(0), Some(3_808_768), Some(128_760));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.last_ack_recv_ms) = (5_724, 5_792, 2_440);
        socket.first = socket.last;
        socket
    };
    let served = |cookie| {
        let mut socket = inbound(cookie, "127.0.0.1:58496");
        socket.first = socket.last;
        socket.last.as_mut().unwrap().bytes_acked = Some(209_034);
        socket
    };
    let seen = |stuck: u64, others: u64| idle().tcp((1..=stuck).map(paused)).tcp((100..100 + others).map(served));
    advisory(&seen(1, 10), Cause::PeerNotReading);
    advisory(&seen(3, 64), Cause::PeerNotReading);
    only(&seen(1, 0), Cause::PeerNotReading);
    only(&seen(8, 10), Cause::PeerNotReading);
    // A client that this process is, and that waits for its server.
    let mut upload = paused(9);
    upload.inbound = false;
    only(&seen(0, 10).tcp([upload]), Cause::PeerNotReading);
}

/// A reader that takes some all the time, and one that takes nothing.
#[test]
fn a_reader_that_is_slow_is_not_away() {
    let reads = |read_bytes: u64, connection: bool| {
        let mut socket = outbound(9, "10.0.0.9:80");
        (socket.unread_bytes, socket.unread_for_us) = (2_881_623, if read_bytes > 0 { 90_000 } else { WINDOW });
        socket.first = socket.last;
        socket.last.as_mut().unwrap().bytes_received = Some(4_000 + read_bytes);
        let mut seen = idle().tcp([socket]);
        if connection {
            let one = Connection { cookie: 9, side: Side::Client, read_bytes, ..Connection::default() };
            seen.connections.as_mut().unwrap().connections.push(one);
        }
        only(&seen, Cause::ReaderSlow).verdict
    };
    for connection in [true, false] {
        let slow = reads(500_000, connection);
        let said = "the process reads slowly: 500000 bytes in 5s, 100000 a second, and 2881623 more wait in its socket";
        assert_eq!(slow.summary, said);
        assert!(slow.evidence.iter().any(|it| it.text == "500000 bytes were read in 5s"), "{slow:#?}");
        assert!(slow.evidence.iter().all(|it| !it.text.contains("not asked for")), "{slow:#?}");
        assert!(reads(0, connection).summary.starts_with("the caller did not read: 5s of 5s"));
    }
}

/// A client that refuses each certificate, and one that goes on with most.
#[test]
fn certificates_that_are_refused() {
    let refused = |number: u64, opened: u64, change: fn(&mut TlsHandshake)| {
        let mut seen = idle();
        let connection = |cookie| {
            let (hello, answered) = (Some(Moment::At(508_937)), Some(Moment::At(516_693)));
            let mut tls = TlsHandshake { client: true, hello, answered, ..TlsHandshake::default() };
            change(&mut tls);
            Connection {
                cookie,
                remote: Some("127.0.0.1:18443".parse().unwrap()),
                side: Side::Client,
                opened: Some(Moment::At(496_235)),
                established: Some(Moment::At(496_282)),
                closed: Some(Moment::At(522_055)),
                closed_by_us: true,
                read_bytes: 707,
                written_bytes: 524,
                tls: Some(tls),
                ..Connection::default()
            }
        };
        let connections = seen.connections.as_mut().unwrap();
        (connections.opened, connections.closed) = (opened, opened);
        connections.connections = (0..number).map(connection).collect();
        seen
    };
    let finding = advisory(&refused(96, 96, |tls| tls.alert = Some((48, false))), Cause::TlsUntrusted);
    assert!(finding.verdict.summary.contains("its own alert, unknown_ca (48)"), "{finding:#?}");
    let hidden = advisory(&refused(96, 96, |tls| tls.alert_hidden = true), Cause::TlsUntrusted);
    assert!(hidden.verdict.summary.contains("TLS 1.3 encrypts"), "{hidden:#?}");
    advisory(&refused(96, 96, |tls| tls.alert = Some((70, false))), Cause::ProtocolError);
    // A few of many; an orderly end; an alert in a connection that was up.
    for fine in [
        refused(20, 96, |tls| tls.alert = Some((48, false))),
        refused(96, 96, |tls| tls.alert = Some((0, false))),
        refused(96, 96, |tls| (tls.alert, tls.done) = (Some((48, false)), Some(Moment::At(520_000)))),
    ] {
        assert_eq!(judge(&fine), Judgement::default());
    }
}

/// One thread sends lines, another sits in a read to see the end of the connection.
#[test]
fn a_sender_that_reads_beside() {
    fn shipper(socket: &mut TcpSocket, _: &mut Connection) {
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(2_377), Some(0));
        socket.peer_unread_bytes = Some(0);
    }
    advisory(&clients(1, 88, 7_292, shipper), Cause::ServerSlow);
    advisory(&clients(4, 88, 7_292, shipper), Cause::ServerSlow);
    // Who sends and then reads waits for an answer.
    only(&clients(1, 3_260, 7_292, shipper), Cause::ServerSlow);
    // A peer that takes nothing is no collector.
    let untaken = |socket: &mut TcpSocket, connection: &mut Connection| {
        shipper(socket, connection);
        (socket.peer_unread_bytes, socket.peer_unsent_bytes) = (Some(2_376), Some(0));
    };
    only(&clients(1, 88, 7_292, untaken), Cause::ServerSlow);
}

/// A consumer that fetches at once while there is something, and says now and then to the same broker that it lives, as it
/// was recorded; nobody saw what it asks for.
#[test]
fn a_fetch_beside_heartbeats_may_wait_for_news() {
    let consumer = |received: u64, heartbeat_ms: u32| {
        let mut fetch = outbound(9, "10.0.0.9:9092");
        let tcp = fetch.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(45), Some(received));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (7_500, 7_600);
        let mut heartbeats = outbound(10, "10.0.0.9:9092");
        let tcp = heartbeats.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (heartbeat_ms, heartbeat_ms);
        let mut seen = blocked(idle().tcp([fetch, heartbeats]), "recvfrom", 9, WINDOW);
        seen.connections.as_mut().unwrap().connections.push(Connection {
            cookie: 9,
            remote: Some("10.0.0.9:9092".parse().unwrap()),
            side: Side::Client,
            opened: Some(Moment::Before),
            turns: 8,
            read_gaps: Gaps { before_us: 8_000, ..Gaps::default() },
            ..Connection::default()
        });
        seen
    };
    for received in [0, 800] {
        advisory(&consumer(received, 900), Cause::ServerSlow);
        // The last that the broker said to anybody was before.
        only(&consumer(received, 9_000), Cause::ServerSlow);
    }
}

/// A window of `top` in which nothing happens on a kept connection: the request, its answer and all else were before, and
/// the kernel's times tell that the answer was the last, as it was recorded.
#[test]
fn an_answer_from_before_the_window() {
    let kept = |recv_ms: u32| {
        let mut socket = outbound(9, "10.0.0.9:80");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (7_084, recv_ms);
        let mut seen = idle().tcp([socket]);
        let before = Some(Moment::Before);
        seen.connections.as_mut().unwrap().connections.push(Connection {
            cookie: 9,
            remote: Some("10.0.0.9:80".parse().unwrap()),
            side: Side::Client,
            opened: before,
            established: before,
            last_write: before,
            last_read: before,
            http: Some(HttpHead { request: "GET /".to_owned(), requested: before, ..HttpHead::default() }),
            ..Connection::default()
        });
        seen
    };
    nothing(&kept(7_060));
    let asked = judge(&kept(9_000));
    let all = asked.verdicts.iter().chain(&asked.advisories);
    assert_eq!(all.map(|finding| finding.verdict.cause).collect::<Vec<_>>(), [Cause::ServerSlow], "{asked:#?}");
}
