//! The first table of the catalogue, as far as it is seen from outside of the caller.

use super::*;
use crate::observation::{
    Backlog, BlockedIn, Call, DnsExchange, HttpHead, Listener, Lookup, Lookups, Moment, Side, TlsHandshake,
};

fn blocked(seen: Observation, call: &str, cookie: u64, us: u64) -> Observation {
    seen.thread(|thread| {
        thread.blocked_in = Some(BlockedIn { call: call.to_owned(), cookie: Some(cookie), ..BlockedIn::default() });
        thread.blocked_us = us;
        thread.since_before = true;
    })
}

fn syn_sent(peer_listener: Option<Backlog>) -> TcpSocket {
    TcpSocket {
        state: TcpState::SynSent,
        in_state_us: 4_000_000,
        peer_listener,
        last: Some(TcpInfo {
            state: TcpState::SynSent,
            unacked: 1,
            retransmits: 2,
            total_retrans: 2,
            ..TcpInfo::default()
        }),
        ..outbound(9, "10.0.0.9:80")
    }
}

#[test]
fn a_syn_that_nobody_answers() {
    let finding = only(&idle().tcp([syn_sent(None)]), Cause::SynUnanswered);
    assert_eq!(finding.verdict.stage, "connect");
    assert!((finding.verdict.share - 1.0).abs() < 1e-9);
    only(&idle().tcp([syn_sent(Some(Backlog { queued: 6, backlog: 5 }))]), Cause::AcceptQueueFull);
    nothing(&idle().tcp([TcpSocket { in_state_us: 300_000, ..syn_sent(None) }]));
}

fn connected(change: impl FnOnce(&mut Connection)) -> Observation {
    let mut connection = Connection {
        cookie: 9,
        remote: Some("10.0.0.9:80".parse().unwrap()),
        side: Side::Client,
        opened: Some(Moment::At(100)),
        established: Some(Moment::At(300)),
        ..Connection::default()
    };
    change(&mut connection);
    let mut seen = idle();
    let connections = seen.connections.as_mut().unwrap();
    connections.opened = 1;
    connections.connections.push(connection);
    seen
}

#[test]
fn connections_that_failed() {
    let failed = |errno| {
        connected(|connection| {
            connection.established = None;
            connection.closed = Some(Moment::At(2_000_000));
            connection.errno = Some(errno);
        })
    };
    only(&failed(111), Cause::ConnectRefused);
    only(&failed(113), Cause::Unreachable);
    only(&failed(110), Cause::SynUnanswered);
    // One of many is noise.
    let mut seen = failed(111);
    seen.connections.as_mut().unwrap().opened = 5_000;
    nothing(&seen);
}

#[test]
fn handshakes_of_our_own() {
    let tls = |change: fn(&mut TlsHandshake)| {
        connected(|connection| {
            let mut tls = TlsHandshake { client: true, hello: Some(Moment::At(400)), ..TlsHandshake::default() };
            change(&mut tls);
            connection.written_bytes = 517;
            connection.tls = Some(tls);
        })
    };
    let with_socket = |seen: Observation| {
        let mut socket = outbound(9, "10.0.0.9:443");
        socket.last.as_mut().unwrap().bytes_received = Some(0);
        seen.tcp([socket])
    };
    only(&with_socket(tls(|_| {})), Cause::TlsPeerSilent);
    only(&with_socket(tls(|tls| tls.answered = Some(Moment::At(900)))), Cause::TlsSlow);
    only(&tls(|tls| tls.alert = Some((40, true))), Cause::TlsRejected);
    only(&tls(|tls| tls.not_tls = Some("HTTP/1.1 400".to_owned())), Cause::TlsNotTls);
    nothing(&tls(|tls| (tls.answered, tls.done) = (Some(Moment::At(900)), Some(Moment::Inferred(1_000)))));
}

#[test]
fn requests_without_an_answer() {
    let request = |change: fn(&mut Connection)| {
        connected(|connection| {
            connection.written_bytes = 100;
            connection.http = Some(HttpHead {
                request: "GET /slow".to_owned(),
                requested: Some(Moment::At(500)),
                ..HttpHead::default()
            });
            change(connection);
        })
    };
    only(&request(|_| {}), Cause::ServerSlow);
    only(&request(|connection| connection.fin_received = Some(Moment::At(600))), Cause::ClosedEarly);
    only(
        &request(|connection| {
            connection.reset_received = true;
            connection.closed = Some(Moment::At(900));
        }),
        Cause::PeerReset,
    );
    nothing(&request(|connection| connection.http.as_mut().unwrap().answered = Some(Moment::At(700))));
}

#[test]
fn a_thread_that_reads_and_gets_nothing() {
    let mut socket = outbound(9, "10.0.0.9:5432");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (5_000, 9_000);
    let waiting = blocked(idle().tcp([socket.clone()]), "recvfrom", 9, WINDOW);
    let finding = only(&waiting, Cause::ServerSlow);
    assert_eq!(finding.verdict.stage, "wait");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 5_000);
    // A subscriber waits for news. Only a request that was seen makes it a body that stopped.
    nothing(&blocked(idle().tcp([socket.clone()]), "read", 9, WINDOW));
    let mut seen = connected(|connection| {
        let (requested, answered) = (Some(Moment::At(500)), Some(Moment::At(900)));
        connection.http = Some(HttpHead { requested, answered, ..HttpHead::default() });
    });
    seen.sockets.as_mut().unwrap().tcp.push(socket.clone());
    only(&blocked(seen, "read", 9, WINDOW), Cause::BodyStalled);
    // A server that waits for the next request of a client waits for nothing.
    socket.inbound = true;
    nothing(&blocked(idle().tcp([socket]), "read", 9, WINDOW));
}

/// The same calls, made by a server whose own callers wait meanwhile.
#[test]
fn callers_that_wait_for_an_upstream() {
    let mut upstream = outbound(9, "10.0.0.9:5432");
    let tcp = upstream.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (5_000, 9_000);
    let mut caller = inbound(8, "10.0.0.20:50000");
    let tcp = caller.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 5_000);
    let mut seen = blocked(idle().tcp([upstream, caller]), "recvfrom", 9, WINDOW);
    seen.sockets.as_mut().unwrap().listeners.push(Listener {
        cookie: 5,
        fd: Some(4),
        local: "0.0.0.0:8080".parse().unwrap(),
        backlog: 128,
        queued_max: 0,
        queued_last: 0,
        full_rounds: 0,
        drops: None,
        half_open: Default::default(),
    });
    let finding = only(&seen, Cause::WaitsUpstream);
    assert!(finding.verdict.summary.contains("10.0.0.9:5432"), "{}", finding.verdict.summary);
    assert_eq!(finding.effects[0].verdict.cause, Cause::ServerSlow);
}

#[test]
fn a_peer_and_a_reader_that_do_not_read() {
    let mut socket = outbound(9, "10.0.0.9:80");
    socket.timer = TcpTimer { kind: TimerKind::ZeroWindowProbe, expires_ms: 800, fired: 3 };
    socket.unsent_bytes = 200_000;
    let tcp = socket.last.as_mut().unwrap();
    (tcp.probes, tcp.backoff, tcp.snd_wnd, tcp.notsent_bytes) = (1, 3, Some(0), Some(200_000));
    tcp.last_data_sent_ms = 4_000;
    only(&idle().tcp([socket]), Cause::PeerNotReading);
    let mut socket = outbound(9, "10.0.0.9:80");
    (socket.unread_bytes, socket.unread_for_us) = (200_000, 4_000_000);
    only(&idle().tcp([socket]), Cause::ReaderSlow);
}

fn query(change: impl FnOnce(&mut DnsExchange)) -> Observation {
    let mut query = DnsExchange {
        name: "api.test".to_owned(),
        kind: 1,
        server: "127.0.0.53".to_owned(),
        tid: PID,
        sent_us: 100,
        sent: 2,
        ..DnsExchange::default()
    };
    change(&mut query);
    let mut seen = idle();
    seen.connections.as_mut().unwrap().dns.push(query);
    seen
}

#[test]
fn names() {
    only(&query(|_| {}), Cause::DnsNoAnswer);
    only(
        &query(|query| (query.answered_us, query.rcode, query.answers) = (Some(900), Some(3), Some(0))),
        Cause::DnsFailed,
    );
    only(
        &query(|query| (query.answered_us, query.rcode, query.answers) = (Some(3_000_000), Some(0), Some(1))),
        Cause::DnsSlow,
    );
    nothing(&query(|query| (query.answered_us, query.rcode, query.answers) = (Some(900), Some(0), Some(1))));
}

#[test]
fn no_port_is_left() {
    let mut seen = idle();
    seen.calls.as_mut().unwrap().counts.push(CallCount {
        call: Call::Connect,
        errno: 99,
        count: 40,
        peer: Some("10.0.0.9:80".to_owned()),
        ..CallCount::default()
    });
    only(&seen, Cause::PortsExhausted);
}

#[test]
fn a_call_that_its_caller_gave_up() {
    let late = |side, answered| {
        connected(|connection| {
            connection.side = side;
            connection.http = Some(HttpHead {
                request: "GET /report".to_owned(),
                requested: Some(Moment::At(500)),
                answered,
                deadline_us: Some(("grpc-timeout".to_owned(), 300_000)),
                ..HttpHead::default()
            });
        })
    };
    let finding = only(&late(Side::Server, None), Cause::DeadlineIgnored);
    assert!(finding.verdict.summary.contains("still runs"), "{}", finding.verdict.summary);
    nothing(&late(Side::Server, Some(Moment::At(250_000))));
}

#[test]
fn lookups_that_were_probed() {
    let lookup = |took_us: u64, result: Option<i32>| {
        let name = "api.test".to_owned();
        let lookups = vec![Lookup { name, tid: 7, at_us: 1_000, took_us, result }];
        Observation { lookups: Some(Lookups { lookups, ..Lookups::default() }), ..idle() }
    };
    only(&lookup(3_000_000, None), Cause::DnsNoAnswer);
    only(&lookup(3_000_000, Some(0)), Cause::DnsSlow);
    only(&lookup(5_000_000, Some(-3)), Cause::DnsNoAnswer);
    let missing = only(&lookup(2_000, Some(-2)), Cause::DnsFailed);
    assert!(missing.verdict.evidence[0].text.contains("EAI_NONAME"), "{:?}", missing.verdict.evidence);
    nothing(&lookup(900_000, Some(0)));
    // The queries themselves tell more.
    let mut seen = lookup(3_000_000, None);
    let query =
        DnsExchange { name: "api.test".to_owned(), sent: 3, answered_us: Some(5_000), ..DnsExchange::default() };
    seen.connections.as_mut().unwrap().dns.push(query);
    nothing(&seen);
    // A search through domains, which then found what it looked for.
    let mut seen = lookup(2_000, Some(-2));
    seen.connections.as_mut().unwrap().opened = 1;
    nothing(&seen);
}
