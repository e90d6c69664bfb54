//! What is not ill must not be called so; and a recording may hold anything.

use proptest::prelude::*;

use super::{
    process::{listener, listening},
    *,
};
use crate::observation::{Gaps, HttpHead, Listener, Moment, Side, TlsHandshake};

#[test]
fn an_idle_process_is_fine() {
    assert_eq!(judge(&idle()), Judgement::default());
}

#[test]
fn what_nobody_saw_is_no_finding() {
    assert_eq!(judge(&Observation::default()), Judgement::default());
    assert_eq!(judge(&Observation { window_us: WINDOW, ..Observation::default() }), Judgement::default());
}

#[test]
fn a_busy_server_is_fine() {
    let mut seen =
        idle().used(3_500_000).tcp((1..=64).map(|cookie| inbound(cookie, "10.0.0.9:50000"))).poll(PollLoop {
            returns: 9_000,
            empty: 600,
            timeouts: Timeouts { zero: 600, unlimited: 8_400, ..Timeouts::default() },
            ready: vec![ReadyFd { fd: Some(9), times: 200, events: 1, used: Some(200), ..ReadyFd::default() }],
            other_calls: vec![("read".to_owned(), 8_400), ("write".to_owned(), 8_400)],
            ..PollLoop::default()
        });
    seen.connections = Some(Connections { accepted: 64, ..Connections::default() });
    assert_eq!(judge(&seen), Judgement::default());
}

/// Stock servers under load beside their load generator, as they were recorded: hundreds of thousands of short waits.
#[test]
fn sharing_the_processors_with_the_load_is_fine() {
    for (user_us, runqueue_us, switches) in [
        (990_000, 1_510_000, 90_000),   // haproxy, one connection
        (1_260_000, 6_210_000, 9_000),  // haproxy, 64 connections of one request each
        (2_170_000, 30_600_000, 6_400), // eight threads that compute, on two processors
    ] {
        let mut seen = idle().used(user_us).thread(|thread| thread.voluntary_switches = switches);
        seen.cpu.as_mut().unwrap().runqueue_us = Some(runqueue_us);
        let finding = advisory(&seen, Cause::CpuThrottled);
        assert!(finding.verdict.summary.starts_with("other processes use the processors:"), "{finding:#?}");
    }
}

/// It computes, and shares the processors: both are worth a remark.
#[test]
fn a_remark_is_not_put_beneath_another() {
    let mut seen = idle().used(2_500_000).thread(|thread| thread.voluntary_switches = 90_000);
    seen.cpu.as_mut().unwrap().runqueue_us = Some(2_400_000);
    advisory(&seen, Cause::CpuThrottled);
    advisory(&seen, Cause::CpuBusy);
}

/// A remark swallows no verdict.
#[test]
fn a_full_accept_queue_is_told_beside_a_busy_machine() {
    let mut seen = idle().used(990_000).thread(|thread| thread.voluntary_switches = 90_000);
    seen.cpu.as_mut().unwrap().runqueue_us = Some(1_510_000);
    let full = Listener { backlog: 5, queued_max: 6, queued_last: 6, full_rounds: 19, drops: Some(40), ..listener() };
    let seen = listening(seen, full);
    assert_eq!(causes(&judge(&seen)), ["accept-queue-overflow"]);
}

/// Envoy to nginx, when its own clients leave: it closes its idle connections, and nginx closes them in turn. Reads were
/// watched in short windows, and the last heads fell between two of them.
#[test]
fn a_close_that_answers_ours_is_no_early_close() {
    let ended = |cookie, closed_by_us, fin| Connection {
        cookie,
        side: Side::Client,
        remote: Some("127.0.0.1:18080".parse().unwrap()),
        opened: Some(Moment::Before),
        established: Some(Moment::Before),
        closed: Some(Moment::At(4_918_050)),
        closed_by_us,
        fin_received: Some(Moment::At(fin)),
        read_bytes: 166_140,
        written_bytes: 32_732,
        last_write: Some(Moment::At(4_762_270)),
        last_read: Some(Moment::At(4_786_292)),
        http: Some(HttpHead {
            request: "GET /index.html".to_owned(),
            requested: Some(Moment::At(4_762_270)),
            ..HttpHead::default()
        }),
        ..Connection::default()
    };
    let seen = |connection| {
        let mut seen = idle();
        seen.connections = Some(Connections {
            closed: 118,
            transfers_us: Some(2_024_569),
            connections: vec![connection],
            ..Connections::default()
        });
        seen
    };
    nothing(&seen(ended(7, true, 4_920_329)));
    // The same where the peer was first, for its idle time was over.
    nothing(&seen(ended(7, false, 4_910_000)));
    let mut watched = seen(ended(7, false, 4_910_000));
    watched.connections.as_mut().unwrap().transfers_us = Some(WINDOW);
    // Bytes came, and were not looked at.
    nothing(&watched);
    let connections = watched.connections.as_mut().unwrap();
    connections.connections[0].last_read = Some(Moment::At(4_762_000));
    only(&watched, Cause::ClosedEarly);
}

/// curl of a server with an expired certificate: its alert 45 is what ended it, and the peer's end answers that.
#[test]
fn a_close_that_answers_our_alert_is_no_early_close() {
    let ended = |alert| {
        let mut seen = idle();
        seen.connections = Some(Connections {
            opened: 1,
            closed: 1,
            connections: vec![Connection {
                cookie: 7,
                side: Side::Client,
                opened: Some(Moment::At(496_235)),
                established: Some(Moment::At(496_282)),
                closed: Some(Moment::At(522_055)),
                closed_by_us: true,
                fin_received: Some(Moment::At(517_999)),
                read_bytes: 707,
                written_bytes: 524,
                tls: Some(TlsHandshake {
                    client: true,
                    hello: Some(Moment::At(508_937)),
                    answered: Some(Moment::At(516_693)),
                    alert,
                    ..TlsHandshake::default()
                }),
                ..Connection::default()
            }],
            ..Connections::default()
        });
        seen
    };
    advisory(&ended(Some((45, false))), Cause::TlsUntrusted);
    only(&ended(None), Cause::ClosedEarly);
}

/// Envoy to nginx under 64 clients without keepalive: seven requests whose answers came between two windows.
#[test]
fn an_answer_between_two_windows_came() {
    let mut socket = outbound(7, "127.0.0.1:18080");
    let tcp = socket.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (40, 20);
    let mut seen = idle().tcp([socket]);
    let windows = |transfers_us| Connections {
        transfers_us: Some(transfers_us),
        connections: vec![Connection {
            cookie: 7,
            side: Side::Client,
            read_bytes: 90_000,
            written_bytes: 20_000,
            turns: 40,
            read_gaps: Gaps { total_us: 3_000_000, longest_us: 1_500_000, longest_at_us: 1_000_000, ..Gaps::default() },
            http: Some(HttpHead {
                request: "GET /".to_owned(),
                requested: Some(Moment::At(2_800_000)),
                ..HttpHead::default()
            }),
            ..Connection::default()
        }],
        ..Connections::default()
    };
    seen.connections = Some(windows(400_000));
    nothing(&seen);
    seen.connections = Some(windows(WINDOW));
    only(&seen, Cause::ServerSlow);
}

proptest! {
    /// Numbers of a damaged recording: no sum and no product overflows.
    #[test]
    fn any_numbers_are_judged(
        numbers in prop::collection::vec(prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), 0..2_000_u64], 24),
        small in any::<[u32; 4]>(),
    ) {
        let n = |place: usize| numbers[place];
        let mut seen = idle();
        seen.window_us = n(0);
        seen.fds = Some(Fds {
            soft_limit: n(1),
            hard_limit: n(2),
            open: (3..9).map(|place| Reading { at_us: n(place), value: n(place + 6) }).collect(),
            by_kind: vec![kind("file", n(3), n(4)), kind("tcp", n(5), n(6))],
            ..Fds::default()
        });
        let cpu = seen.cpu.as_mut().unwrap();
        (cpu.user_us, cpu.system_us, cpu.runqueue_us) = (n(9), n(10), Some(n(11)));
        let threads = seen.threads.as_mut().unwrap();
        (threads.first, threads.last) = (n(12), n(13));
        threads.threads[0].blocked_us = n(14);
        threads.threads[0].looks = small[0];
        let mut socket = outbound(7, "10.0.0.9:80");
        socket.in_state_us = n(15);
        socket.unread_bytes = small[1];
        socket.unread_for_us = n(16);
        socket.state = if small[2] % 2 == 0 { TcpState::SynSent } else { TcpState::CloseWait };
        seen = seen.tcp(vec![socket; 9]).poll(PollLoop {
            returns: n(17),
            empty: n(18),
            timeouts: Timeouts { zero: n(19), short: n(20), ..Timeouts::default() },
            ready: vec![ReadyFd { times: n(21), events: small[3], ..ReadyFd::default() }],
            other_calls: vec![("read".to_owned(), n(22)), ("write".to_owned(), u64::MAX)],
            ..PollLoop::default()
        });
        seen.connections = Some(Connections {
            accepted: n(0),
            closed: n(1),
            little_work: n(2),
            connections: vec![Connection { cookie: 7, read_bytes: n(3), ..Connection::default() }],
            ..Connections::default()
        });
        for finding in judge(&seen).verdicts {
            assert_sound(&finding);
        }
    }
}
