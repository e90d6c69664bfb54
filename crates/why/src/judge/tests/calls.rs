//! The first table of the catalogue, as far as it is seen from outside of the caller.

use super::{queue::turns_away, *};
use crate::observation::{
    Backlog, BlockedIn, Call, Gaps, HttpHead, LateCall, Listener, Moment, Resolved, Side, TlsHandshake, WaitsFor,
};

pub(super) fn blocked(seen: Observation, call: &str, cookie: u64, us: u64) -> Observation {
    seen.thread(|thread| {
        thread.blocked_in = Some(BlockedIn { call: call.to_owned(), cookie: Some(cookie), ..BlockedIn::default() });
        thread.blocked_us = us;
        thread.since_before = true;
    })
}

pub(super) fn syn_sent(peer_listener: Option<Backlog>) -> TcpSocket {
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

pub(super) fn connected(change: impl FnOnce(&mut Connection)) -> Observation {
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

/// A reset in the middle of an answer says how much of it had come; one of an idle connection is none of a call.
#[test]
fn resets_after_an_answer_began() {
    let reset = |missing: u64, last_write: u64| {
        asked(|connection| {
            let http = answered(connection, 80);
            (http.missing_bytes, http.head_bytes, http.body_bytes) = (Some(missing), Some(40), Some(40));
            connection.last_write = Some(Moment::At(last_write));
            connection.reset_received = true;
            connection.closed = Some(Moment::At(1_500_000));
        })
    };
    nothing(&reset(0, 500));
    let finding = only(&reset(60, 500), Cause::PeerReset);
    let texts: Vec<_> = finding.verdict.evidence.iter().map(|it| it.text.as_ref()).collect();
    assert!(texts.iter().any(|text| text.contains("80 bytes received, 40 of the body")), "{texts:?}");
    // Another request was on its way.
    only(&reset(0, 1_400_000), Cause::PeerReset);
}

/// The server's limit for idle connections is the shorter one, as it was recorded.
#[test]
fn a_connection_that_was_ended_when_it_was_used_again() {
    let reused = |change: fn(&mut Connection)| {
        let seen = asked(|connection| {
            (connection.written_bytes, connection.read_bytes, connection.turns) = (376, 80, 2);
            connection.last_read = Some(Moment::At(200_000));
            let again = Some(Moment::At(500_000));
            (connection.first_write, connection.last_write) = (again, again);
            connection.http.as_mut().unwrap().requested = again;
            (connection.reset_received, connection.closed) = (true, Some(Moment::At(500_200)));
            change(connection);
        });
        only(&seen, Cause::PeerReset).verdict
    };
    let said = |verdict: &overdue_core::Verdict| {
        let evidence = &verdict.evidence;
        evidence.iter().any(|it| it.text.contains("answered 2 times on this connection, which then lay idle for 300ms"))
    };
    let race = reused(|_| {});
    assert!(said(&race) && race.fix.starts_with("Let the client drop idle connections sooner"), "{race:#?}");
    // All that was ever sent on it is no size of a request.
    assert!(!race.evidence.iter().any(|it| it.text.contains("376 bytes")), "{race:#?}");
    // It worked for a while on what was asked; it is the first request.
    assert!(!said(&reused(|connection| connection.closed = Some(Moment::At(1_400_000)))));
    assert!(!said(
        &reused(|connection| (connection.turns, connection.read_bytes, connection.last_read) = (0, 0, None))
    ));
}

#[test]
fn a_thread_that_reads_and_gets_nothing() {
    let mut socket = outbound(9, "10.0.0.9:5432");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (5_000, 9_000);
    // It has answered before, and may be asked for what comes some day.
    let waiting = blocked(idle().tcp([socket.clone()]), "recvfrom", 9, WINDOW);
    let finding = advisory(&waiting, Cause::ServerSlow);
    assert_eq!(finding.verdict.stage, "wait");
    // One that has never said anything has not.
    let mut never = socket.clone();
    never.last.as_mut().unwrap().bytes_received = Some(0);
    only(&blocked(idle().tcp([never.clone()]), "recvfrom", 9, WINDOW), Cause::ServerSlow);
    // Of several that are polled, one may be there for logs alone.
    let mut other = never.clone();
    (other.cookie, other.last.as_mut().unwrap().last_data_recv_ms) = (10, 1_000);
    let polls = |members: &[(u64, u32)]| {
        let member = |&(cookie, events)| WaitsFor { events, cookie: Some(cookie), ..WaitsFor::default() };
        let waits_for: Vec<_> = members.iter().map(member).collect();
        blocked(idle().tcp([never.clone(), other.clone()]), "poll", 0, WINDOW).thread(|thread| {
            thread.blocked_in = Some(BlockedIn { call: "poll".to_owned(), waits_for, ..BlockedIn::default() });
        })
    };
    only(&polls(&[(9, 1)]), Cause::ServerSlow);
    advisory(&polls(&[(9, 1), (10, 1)]), Cause::ServerSlow);
    advisory(&polls(&[(9, 4)]), Cause::ServerSlow);
    // Nor has one that does not read what it is asked.
    let unread = TcpSocket { peer_unread_bytes: Some(48), peer_unsent_bytes: Some(0), ..socket.clone() };
    only(&blocked(idle().tcp([unread]), "recvfrom", 9, WINDOW), Cause::ServerSlow);
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 5_000);
    // A subscriber waits for news. Only a request that was seen makes it a body that stopped.
    nothing(&blocked(idle().tcp([socket.clone()]), "read", 9, WINDOW));
    let mut seen = connected(|connection| {
        let (requested, answered) = (Some(Moment::At(500)), Some(Moment::At(900)));
        connection.http = Some(HttpHead { requested, answered, ..HttpHead::default() });
    });
    seen.sockets.as_mut().unwrap().tcp.push(socket.clone());
    // How long the body is nobody said: it may be a stream of news.
    advisory(&blocked(seen.clone(), "read", 9, WINDOW), Cause::BodyStalled);
    seen.connections.as_mut().unwrap().connections[0].http.as_mut().unwrap().missing_bytes = Some(500);
    only(&blocked(seen.clone(), "read", 9, WINDOW), Cause::BodyStalled);
    // It is whole, and a thread reads on.
    seen.connections.as_mut().unwrap().connections[0].http.as_mut().unwrap().missing_bytes = Some(0);
    advisory(&blocked(seen.clone(), "read", 9, WINDOW), Cause::BodyStalled);
    // Asked again in the millisecond in which the answer came.
    let connection = &mut seen.connections.as_mut().unwrap().connections[0];
    (connection.last_read, connection.last_write) = (Some(Moment::At(900)), Some(Moment::At(1_000)));
    seen.sockets.as_mut().unwrap().tcp[0].last.as_mut().unwrap().last_data_sent_ms = 5_000;
    advisory(&blocked(seen, "read", 9, WINDOW), Cause::ServerSlow);
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
    seen.sockets.as_mut().unwrap().listeners.push(Listener { queued_max: 0, ..process::listener() });
    let finding = only(&seen, Cause::WaitsUpstream);
    assert!(finding.verdict.summary.contains("10.0.0.9:5432"), "{}", finding.verdict.summary);
    assert_eq!(finding.effects[0].verdict.cause, Cause::ServerSlow);
    // Where to go on, once.
    let goes_on = |seen: &Observation| {
        let finding = only(seen, Cause::WaitsUpstream);
        let all = finding.verdict.evidence.iter().chain(&finding.effects[0].verdict.evidence);
        all.filter(|it| it.text.contains("`overdue why --pid 4343`")).count()
    };
    assert_eq!(goes_on(&seen), 0);
    seen.sockets.as_mut().unwrap().tcp[0].peer_pid = Some(4343);
    assert_eq!(goes_on(&seen), 1);
    seen.process.pid = 4343;
    assert_eq!(goes_on(&seen), 0);
}

/// Some of the calls were given up meanwhile: nothing is due on those.
#[test]
fn calls_that_have_ended_wait_for_nothing() {
    let call = |cookie: u64, closed: bool| {
        let mut seen = asked(|connection| {
            connection.cookie = cookie;
            if closed {
                closed_by_us(connection, 2_000_500);
            }
        });
        seen.connections.as_mut().unwrap().connections.remove(0)
    };
    let mut seen = idle();
    let connections = seen.connections.as_mut().unwrap();
    connections.connections = (1..=8).map(|cookie| call(cookie, cookie > 4)).collect();
    connections.opened = 8;
    let finding = only(&seen, Cause::WaitsUpstream);
    let (summary, evidence) = (&finding.verdict.summary, &finding.verdict.evidence[0].text);
    assert!(summary.starts_with("4 calls of this process wait for"), "{summary}");
    assert!(evidence.starts_with("4 connections to") && evidence.contains("; 4 calls to"), "{evidence}");
}

/// One peer is waited for by a caller; another is slow, and nobody who asked waits for it.
#[test]
fn two_peers_are_two_causes() {
    let waits = |cookie, peer: &str, sent_ms| {
        let mut socket = outbound(cookie, peer);
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, 9_000);
        socket
    };
    let mut caller = inbound(8, "10.0.0.20:50000");
    let tcp = caller.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 4_000);
    let mut seen = asked(|connection| {
        connection.cookie = 10;
        connection.remote = Some("10.0.0.9:7301".parse().unwrap());
    });
    seen.sockets.as_mut().unwrap().tcp.clear();
    let mut slow = waits(10, "10.0.0.9:7301", 4_900);
    slow.last.as_mut().unwrap().bytes_received = Some(0);
    let seen = seen.tcp([waits(9, "10.0.0.9:7302", 4_000), slow, caller]);
    let judgement = judge(&seen);
    let all: Vec<_> = judgement.verdicts.iter().map(|it| (it.verdict.cause, it.peer.as_deref())).collect();
    let peers = (Some("10.0.0.9:7302"), Some("10.0.0.9:7301"));
    assert_eq!(all, [(Cause::ServerSlow, peers.1), (Cause::WaitsUpstream, peers.0)]);
    let beneath: Vec<_> =
        judgement.verdicts[1].effects.iter().map(|it| (it.verdict.cause, it.peer.as_deref())).collect();
    assert_eq!(beneath, [(Cause::ServerSlow, peers.0)]);
    // A server that refuses for want of places does so whoever else is waited for.
    let mut full = turns_away(|_, _| {});
    let mut opened = waits(9, "10.0.0.9:7302", 4_000);
    opened.first = opened.last;
    full.sockets.as_mut().unwrap().tcp.extend([opened, seen.sockets.unwrap().tcp.pop().unwrap()]);
    let judgement = judge(&full);
    assert_eq!(causes(&judgement), ["pool-exhausted", "waits-upstream"], "{judgement:#?}");
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
    // A silence of another request on the connection, which may have had all the time.
    let mut other = late(Side::Server, Some(Moment::At(250_000)));
    let connection = &mut other.connections.as_mut().unwrap().connections[0];
    connection.write_gaps = Gaps { longest_us: 2_000_000, ..Gaps::default() };
    nothing(&other);
    // One before it that was late by its own deadline.
    let connection = &mut other.connections.as_mut().unwrap().connections[0];
    connection.http.as_mut().unwrap().late = Some(LateCall {
        request: "GET /slow".to_owned(),
        header: "grpc-timeout".to_owned(),
        allowed_us: 500_000,
        ran_us: 2_000_000,
    });
    let finding = only(&other, Cause::DeadlineIgnored);
    assert!(finding.verdict.summary.contains("for GET /slow, and the call was answered after 2s"), "{finding:#?}");
}

/// A request that was sent on a connection of its own, and whatever came of it.
pub(super) fn asked(change: impl FnOnce(&mut Connection)) -> Observation {
    connected(|connection| {
        connection.written_bytes = 100;
        connection.first_write = Some(Moment::At(500));
        connection.last_write = Some(Moment::At(500));
        connection.http =
            Some(HttpHead { request: "GET /slow".to_owned(), requested: Some(Moment::At(500)), ..HttpHead::default() });
        change(connection);
    })
}

fn answered(connection: &mut Connection, bytes: u64) -> &mut HttpHead {
    (connection.read_bytes, connection.turns) = (bytes, 1);
    (connection.first_read, connection.last_read) = (Some(Moment::At(900)), Some(Moment::At(900)));
    let http = connection.http.as_mut().unwrap();
    (http.status, http.answered) = (Some(200), Some(Moment::At(900)));
    http
}

pub(super) fn closed_by_us(connection: &mut Connection, at: u64) {
    (connection.closed, connection.closed_by_us) = (Some(Moment::At(at)), true);
}

/// The process closed, and what took most of the call's time is to blame.
#[test]
fn calls_that_were_given_up() {
    let gave_up = |change: fn(&mut Connection)| {
        asked(|connection| {
            closed_by_us(connection, 900_000);
            change(connection);
        })
    };
    let finding = only(&gave_up(|_| {}), Cause::ServerSlow);
    assert!(
        finding.verdict.evidence.iter().any(|e| e.text.contains("closed the connection 900ms after")),
        "{finding:#?}"
    );
    let slow = |connection: &mut Connection| {
        connection.established = Some(Moment::At(600_000));
        connection.syn_retransmits = 1;
        connection.http.as_mut().unwrap().requested = Some(Moment::At(600_100));
    };
    assert_eq!(only(&gave_up(slow), Cause::ConnectSlow).verdict.stage, "connect");
    let resolved = |connection: &mut Connection| {
        connection.opened = Some(Moment::At(650_000));
        connection.established = Some(Moment::At(650_100));
        connection.resolved = Some(Resolved { name: "lab.test".into(), sent_us: 100, duration_us: 640_000 });
        connection.http.as_mut().unwrap().requested = Some(Moment::At(650_200));
    };
    only(&gave_up(resolved), Cause::DnsSlow);
    // The bytes of the body kept coming; then they did not.
    let trickled = |connection: &mut Connection| {
        answered(connection, 600).missing_bytes = Some(99_000);
        connection.last_read = Some(Moment::At(880_000));
    };
    only(&gave_up(trickled), Cause::BodySlow);
    only(&gave_up(|connection| answered(connection, 600).missing_bytes = Some(99_000)), Cause::BodyStalled);
    // A whole answer, one of which nobody knows how long it is, and a change of mind.
    nothing(&gave_up(|connection| answered(connection, 600).missing_bytes = Some(0)));
    nothing(&gave_up(|connection| answered(connection, 600).missing_bytes = None));
    nothing(&gave_up(|connection| connection.closed = Some(Moment::At(100_000))));
    // The connection had been opened long before.
    nothing(&gave_up(|connection| connection.http.as_mut().unwrap().requested = Some(Moment::At(800_000))));
    // One of many is no trouble of the process.
    let mut seen = gave_up(|_| {});
    seen.connections.as_mut().unwrap().opened = 5_000;
    nothing(&seen);
}

/// The same inside of TLS, where nothing but lengths is seen.
#[test]
fn calls_over_tls_that_were_given_up() {
    let gave_up = |change: fn(&mut TlsHandshake)| {
        connected(|connection| {
            (connection.read_bytes, connection.written_bytes, connection.turns) = (4_000, 900, 2);
            (connection.last_read, connection.last_write) = (Some(Moment::At(1_200)), Some(Moment::At(2_000_000)));
            closed_by_us(connection, 2_000_100);
            let mut tls = TlsHandshake {
                client: true,
                alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
                hello: Some(Moment::At(400)),
                answered: Some(Moment::At(700)),
                done: Some(Moment::Inferred(900)),
                unanswered: Some(Moment::Inferred(1_000)),
                asked_bytes: 120,
                ..TlsHandshake::default()
            };
            change(&mut tls);
            connection.tls = Some(tls);
        })
    };
    let finding = only(&gave_up(|_| {}), Cause::ServerSlow);
    assert_eq!(finding.verdict.stage, "wait");
    assert!(finding.verdict.confidence <= Confidence::Medium);
    let texts: Vec<_> = finding.verdict.evidence.iter().map(|it| it.text.as_ref()).collect();
    assert!(texts.iter().any(|text| text.contains("inferred from the lengths")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("request: 120 bytes sent")), "{texts:?}");
    // A protocol that may ask for nothing, an answer, a refusal, a change of mind.
    nothing(&gave_up(|tls| tls.alpn.clear()));
    nothing(&gave_up(|tls| tls.unanswered = None));
    nothing(&gave_up(|tls| tls.alert = Some((48, false))));
    nothing(&gave_up(|tls| tls.unanswered = Some(Moment::Inferred(1_990_000))));
    // What may be an answer as well as tickets is a remark, which does not say that nothing came.
    let finding = advisory(&gave_up(|tls| tls.ticket_bytes = 478), Cause::ServerSlow);
    let texts: Vec<_> = finding.verdict.evidence.iter().map(|it| it.text.as_ref()).collect();
    assert!(texts.iter().any(|text| text.contains("478 came back")), "{texts:?}");
    assert!(!texts.iter().any(|text| text.contains(" 0 bytes received")), "{texts:?}");
    // What took the time was the handshake.
    let slow = |tls: &mut TlsHandshake| {
        (tls.done, tls.unanswered) = (Some(Moment::Inferred(1_400_000)), Some(Moment::Inferred(1_400_100)));
    };
    assert_eq!(judge(&gave_up(slow)).verdicts[0].verdict.cause, Cause::TlsSlow);
}

/// A client that asks for news, ends the wait itself after a while, and asks again.
#[test]
fn long_polls_that_their_client_ends() {
    let polls = |count: u64, change: fn(&mut Connection)| {
        let mut seen = idle();
        let connections = seen.connections.as_mut().unwrap();
        connections.opened = count;
        for cookie in 0..count {
            let mut one = asked(|connection| {
                closed_by_us(connection, 1_200_000);
                let http = connection.http.as_mut().unwrap();
                (http.request, http.asks_to_wait) = ("GET /v1/watch".to_owned(), true);
                change(connection);
            });
            let one = one.connections.as_mut().unwrap().connections.remove(0);
            connections.connections.push(Connection { cookie, ..one });
        }
        seen
    };
    let finding = advisory(&polls(1, |_| {}), Cause::ServerSlow);
    assert!(finding.verdict.evidence.iter().any(|it| it.text.contains("the request itself asks to wait")));
    advisory(&polls(4, |_| {}), Cause::ServerSlow);
    let report = |connection: &mut Connection| connection.http.as_mut().unwrap().asks_to_wait = false;
    only(&polls(4, report), Cause::WaitsUpstream);
    // It was the handshake of TCP that took the time.
    let slow = |connection: &mut Connection| {
        connection.established = Some(Moment::At(1_100_000));
        connection.http.as_mut().unwrap().requested = Some(Moment::At(1_100_100));
    };
    only(&polls(1, slow), Cause::ConnectSlow);
    // The command was started to see what it waits for.
    let mut started = polls(1, |_| {});
    started.process.exec_at_us = Some(50);
    only(&started, Cause::ServerSlow);
}

/// What is said of the body is of the body alone: without the head, and without earlier answers.
#[test]
fn bytes_of_a_body_are_counted_without_the_head() {
    let half = |connection: &mut Connection| {
        let http = answered(connection, 5_000);
        (http.head_bytes, http.body_bytes, http.missing_bytes) = (Some(80), Some(1_000), Some(3_000));
    };
    let said = |finding: &Finding| {
        let texts = finding.verdict.evidence.iter().map(|it| it.text.as_ref());
        texts.chain([finding.verdict.summary.as_ref()]).collect::<Vec<_>>().join("\n")
    };
    let bytes = "response: 1080 bytes received, 1000 of the body of 4000";
    let stalled = said(&only(&asked(half), Cause::BodyStalled));
    assert!(stalled.contains(bytes) && stalled.contains("after 1000 bytes"), "{stalled}");
    let closed = said(&only(
        &asked(|connection| {
            half(connection);
            connection.fin_received = Some(Moment::At(2_000));
        }),
        Cause::ClosedEarly,
    ));
    assert!(closed.contains(bytes) && closed.contains("1000 bytes came of 4000"), "{closed}");
    let gave_up = said(&only(
        &asked(|connection| {
            half(connection);
            closed_by_us(connection, 2_000_000);
        }),
        Cause::BodyStalled,
    ));
    assert!(gave_up.contains(bytes), "{gave_up}");
    let none = |connection: &mut Connection| {
        let http = answered(connection, 5_080);
        (http.head_bytes, http.body_bytes, http.missing_bytes) = (Some(80), Some(0), Some(4_000));
    };
    let none = said(&only(&asked(none), Cause::BodyStalled));
    assert!(none.contains("no byte of the body after its head"), "{none}");
}

#[test]
fn answers_that_stop_in_the_middle() {
    let half = |connection: &mut Connection| answered(connection, 38).half_head = true;
    only(&asked(half), Cause::HeadStalled);
    let closed = |connection: &mut Connection| {
        half(connection);
        connection.fin_received = Some(Moment::At(2_000));
    };
    assert_eq!(only(&asked(closed), Cause::ClosedEarly).verdict.stage, "wait");
    let chunks = |ended| {
        asked(|connection| {
            answered(connection, 57).chunks_ended = Some(ended);
            connection.fin_received = Some(Moment::At(2_000));
        })
    };
    assert_eq!(only(&chunks(false), Cause::ClosedEarly).verdict.stage, "receive");
    // Its socket, which may hold the rest, was not looked at yet.
    nothing(&Observation { window_us: 300_000, ..chunks(false) });
    nothing(&chunks(true));
}

/// The peer has closed, and the rest of its answer lies in the socket of a reader that takes its time.
#[test]
fn an_end_that_was_not_read_yet() {
    let ended = |change: fn(&mut Connection), look: fn(&mut TcpSocket)| {
        let mut socket = outbound(9, "10.0.0.9:80");
        let tcp = socket.last.as_mut().unwrap();
        // All bytes of it and the FIN.
        (tcp.last_data_sent_ms, tcp.bytes_received) = (5_000, Some(58));
        look(&mut socket);
        let seen = asked(|connection| {
            answered(connection, 57);
            connection.fin_received = Some(Moment::At(2_000));
            change(connection);
        });
        seen.tcp([socket])
    };
    let cut: [fn(&mut Connection); 3] = [
        |connection| connection.http.as_mut().unwrap().chunks_ended = Some(false),
        |connection| connection.http.as_mut().unwrap().missing_bytes = Some(500),
        |connection| connection.http.as_mut().unwrap().half_head = true,
    ];
    for cut in cut {
        only(&ended(cut, |_| {}), Cause::ClosedEarly);
        nothing(&ended(cut, |socket| socket.unread_bytes = 500));
        nothing(&ended(cut, |socket| socket.last.as_mut().unwrap().bytes_received = Some(558)));
        // It was looked at before the rest came.
        let early = ended(cut, |socket| socket.last_seen_us = 1_500);
        assert!(!causes(&judge(&early)).contains(&"closed-early"));
    }
    // A part of the rest has come, and no more will.
    let some = |connection: &mut Connection| connection.http.as_mut().unwrap().missing_bytes = Some(500);
    only(&ended(some, |socket| socket.unread_bytes = 300), Cause::ClosedEarly);
    // No byte of the answer was read, and all of it is there.
    let unread = |connection: &mut Connection| {
        (connection.read_bytes, connection.turns, connection.last_read) = (0, 0, None);
        connection.http.as_mut().unwrap().answered = None;
    };
    nothing(&ended(unread, |_| {}));
    // What it left unread when it closed, the kernel answered by a reset.
    let left = |connection: &mut Connection| {
        connection.http.as_mut().unwrap().chunks_ended = Some(false);
        (connection.closed, connection.closed_by_us) = (Some(Moment::At(3_000)), true);
    };
    only(&ended(left, |_| {}), Cause::ClosedEarly);
    let mut reset = ended(left, |_| {});
    reset.connections.as_mut().unwrap().connections[0].reset_sent = true;
    nothing(&reset);
}

#[test]
fn a_body_that_trickles() {
    let trickle = |bytes: u64, last: u64| {
        asked(|connection| {
            answered(connection, bytes).missing_bytes = Some(90_000);
            connection.last_read = Some(Moment::At(last));
        })
    };
    only(&trickle(1_000, WINDOW - 20_000), Cause::BodySlow);
    // A slow link is none, and who is silent has stopped.
    nothing(&trickle(30_000, WINDOW - 20_000));
    only(&trickle(1_000, WINDOW - 2_000_000), Cause::BodyStalled);
}

#[test]
fn peers_that_speak_otherwise() {
    let other = |connection: &mut Connection| {
        connection.read_bytes = 20;
        connection.last_read = Some(Moment::At(900));
        connection.http.as_mut().unwrap().not_http = Some("SSH-2.0".to_owned());
        connection.fin_received = Some(Moment::At(1_000));
    };
    only(&asked(other), Cause::ProtocolError);
    let goaway = |code| {
        connected(|connection| {
            (connection.http2, connection.goaway) = (true, Some(code));
            connection.fin_received = Some(Moment::At(900));
        })
    };
    let finding = only(&goaway(1), Cause::PeerReset);
    assert!(finding.verdict.summary.contains("GOAWAY with PROTOCOL_ERROR"), "{}", finding.verdict.summary);
    nothing(&goaway(0));
}

/// Each ended, and took a part of somebody's time.
#[test]
fn stages_that_were_slow() {
    let connect = |us: u64, repeats| {
        connected(|connection| {
            connection.established = Some(Moment::At(us));
            connection.syn_retransmits = repeats;
        })
    };
    let finding = only(&connect(1_030_000, 1), Cause::ConnectSlow);
    assert!(finding.verdict.summary.contains("sent again 1 times"), "{}", finding.verdict.summary);
    nothing(&connect(300_000, 0));
    let tls = |done| {
        connected(|connection| {
            connection.tls = Some(TlsHandshake {
                client: true,
                hello: Some(Moment::At(400)),
                answered: Some(Moment::At(900)),
                done: Some(Moment::Inferred(done)),
                ..TlsHandshake::default()
            });
        })
    };
    only(&tls(2_300_000), Cause::TlsSlow);
    nothing(&tls(200_000));
}

/// The other end is on this host, and shows what became of the answer.
#[test]
fn answers_that_do_not_arrive() {
    let seen = |unsent: u32, out_of_order: u32| {
        let mut socket = outbound(9, "10.0.0.9:80");
        (socket.peer_unread_bytes, socket.peer_unsent_bytes) = (Some(0), Some(unsent));
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_received, tcp.rcv_ooopack) = (Some(0), Some(out_of_order));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (4_900, 4_900);
        asked(|_| {}).tcp([socket])
    };
    only(&seen(0, 0), Cause::ServerSlow);
    only(&seen(57, 0), Cause::PathLost);
    only(&seen(6_040, 1), Cause::MtuBlackhole);
}

/// What a subscriber, a long poll and a worker that waits for jobs look like, and what makes the same wait a fault.
#[test]
fn waits_that_may_be_meant() {
    let mut socket = outbound(9, "10.0.0.9:6379");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (4_500, 4_900);
    let kept = |change: fn(&mut Connection)| {
        let seen = connected(|connection| {
            (connection.read_bytes, connection.written_bytes, connection.turns) = (4_000, 180, 1);
            (connection.opened, connection.established) = (Some(Moment::Before), Some(Moment::Before));
            change(connection);
        });
        blocked(seen.tcp([socket.clone()]), "recvfrom", 9, 4_500_000)
    };
    advisory(&kept(|_| {}), Cause::ServerSlow);
    advisory(&kept(|connection| connection.redis = Some("BLPOP".to_owned())), Cause::ServerSlow);
    // The answers before took a millisecond each.
    let quick = |connection: &mut Connection| {
        connection.turns = 10;
        connection.read_gaps = Gaps { total_us: 10_000, longest_us: 2_000, longest_at_us: 100_000, ..Gaps::default() };
    };
    only(&kept(quick), Cause::ServerSlow);
    let redis = |connection: &mut Connection| {
        connection.turns = 10;
        connection.read_gaps = Gaps { total_us: 10_000, longest_us: 2_000, longest_at_us: 100_000, ..Gaps::default() };
        connection.redis = Some("BRPOP".to_owned());
    };
    advisory(&kept(redis), Cause::ServerSlow);
    // They were before the window, in which nothing was answered.
    let quick_before = |connection: &mut Connection| {
        connection.turns = 10;
        connection.read_gaps.before_us = 10_000;
    };
    only(&kept(quick_before), Cause::ServerSlow);
    // Each answer takes two seconds and a half, in this window and in the twenty before.
    let steady = |connection: &mut Connection| {
        connection.turns = 42;
        connection.read_gaps =
            Gaps { total_us: 5_000_000, longest_us: 2_500_000, longest_at_us: 100_000, before_us: 100_000_000 };
    };
    advisory(&kept(steady), Cause::ServerSlow);
    // No command that waits; and one that does, at a server that does not even read it.
    let get = |connection: &mut Connection| {
        connection.turns = 10;
        connection.read_gaps = Gaps { total_us: 10_000, longest_us: 2_000, longest_at_us: 100_000, ..Gaps::default() };
        connection.redis = Some("GET".to_owned());
    };
    only(&kept(get), Cause::ServerSlow);
    let untaken = |mut seen: Observation| {
        let socket = &mut seen.sockets.as_mut().unwrap().tcp[0];
        (socket.peer_unread_bytes, socket.peer_unsent_bytes) = (Some(20), Some(0));
        seen
    };
    only(&untaken(kept(redis)), Cause::ServerSlow);
    // A long poll whose answers take ten seconds, as they should.
    let long = |connection: &mut Connection| {
        connection.read_gaps =
            Gaps { total_us: 2_000_000, longest_us: 2_000_000, longest_at_us: 100_000, ..Gaps::default() };
    };
    advisory(&kept(long), Cause::ServerSlow);
    let polls = |connection: &mut Connection| {
        connection.http = Some(HttpHead {
            request: "GET /rooms".to_owned(),
            requested: Some(Moment::At(500_000)),
            asks_to_wait: true,
            ..HttpHead::default()
        });
    };
    advisory(&kept(polls), Cause::ServerSlow);
    only(&untaken(kept(polls)), Cause::ServerSlow);
    // A path that only sounds like one, and is answered in a millisecond as a rule.
    let list = |connection: &mut Connection| {
        let (request, requested) = ("GET /v1/events".to_owned(), Some(Moment::At(500_000)));
        let (asks_to_wait, asks_by_name) = (true, true);
        connection.http = Some(HttpHead { request, requested, asks_to_wait, asks_by_name, ..HttpHead::default() });
    };
    advisory(&kept(list), Cause::ServerSlow);
    let with_quick = |mut seen: Observation| {
        let connection = &mut seen.connections.as_mut().unwrap().connections[0];
        quick(connection);
        seen
    };
    only(&with_quick(kept(list)), Cause::ServerSlow);
    advisory(&with_quick(kept(polls)), Cause::ServerSlow);
    // Somebody started it to see what it waits for.
    let mut started = kept(|_| {});
    started.process.exec_at_us = Some(250_000);
    only(&started, Cause::ServerSlow);
}
