//! What is not ill must not be called so; and a recording may hold anything.

use proptest::prelude::*;

use super::*;

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
