use overdue_core::facts::TcpInfo;

use super::*;
use crate::{
    judge::judge,
    observation::{
        BlockedIn, CallCount, Calls, FdKind, PollLoop, Polling, Process, Reading, ReadyFd, Sockets, TcpTimer, Thread,
        Threads, WaitsFor,
    },
};

/// Descriptors of that process grow from `first` to `last` in five seconds.
fn leaking(first: u64, last: u64, soft_limit: u64, hard_limit: u64) -> Observation {
    let step = (last - first) / 20;
    let open = (0..=20).map(|at| Reading { at_us: at * 250_000, value: last - (20 - at) * step }).collect();
    let by_kind = vec![FdKind { kind: "file".to_owned(), first, last, example: None }];
    Observation {
        window_us: 5_000_000,
        process: Process { pid: 7, ..Process::default() },
        fds: Some(Fds { soft_limit, hard_limit, open, by_kind, ..Fds::default() }),
        ..Observation::default()
    }
}

fn planned(seen: &Observation) -> Vec<FirstAid> {
    plan(seen, &judge(seen))
}

fn only(seen: &Observation) -> FirstAid {
    let mut all = planned(seen);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

/// A connection that nothing has moved on for a minute.
fn socket(cookie: u64, state: TcpState) -> TcpSocket {
    let tcp = TcpInfo {
        last_data_sent_ms: 60_000,
        last_data_recv_ms: 60_000,
        last_ack_recv_ms: 60_000,
        ..TcpInfo::default()
    };
    TcpSocket {
        fd: Some(u32::try_from(cookie).unwrap() + 10),
        in_state_us: 60_000_000,
        since_before: true,
        inbound: true,
        first: Some(tcp),
        last: Some(tcp),
        last_seen_us: 5_000_000,
        ..TcpSocket::new(cookie, "10.0.0.1:80".parse().unwrap(), "10.0.0.2:40000".parse().unwrap(), state)
    }
}

fn holding(tcp: Vec<TcpSocket>) -> Observation {
    let sockets = Some(Sockets { tcp, rounds: 20, ..Sockets::default() });
    Observation {
        window_us: 5_000_000,
        process: Process { pid: 7, ..Process::default() },
        sockets,
        ..Observation::default()
    }
}

fn closes(aid: &FirstAid) -> Vec<u64> {
    match &aid.step {
        Step::CloseSockets { sockets, .. } => sockets.iter().map(|stuck| stuck.cookie).collect(),
        step @ Step::RaiseFdLimit { .. } => panic!("{step:?}"),
    }
}

#[test]
fn a_leak_gets_room_for_an_hour_and_no_more_than_the_hard_limit() {
    // 20 in 5 s are 14,400 in an hour.
    let aid = only(&leaking(180, 200, 256, 1 << 19));
    assert_eq!(aid.step, Step::RaiseFdLimit { soft: 256, hard: 1 << 19, to: 16_384, hard_to: None });
    assert!(aid.plan.contains("of pid 7 from 256 to 16384 (the hard one stays at 524288)"), "{}", aid.plan);
    assert!(aid.means.contains("20 in 5s") && aid.means.contains("used up in 1h7m"), "{}", aid.means);
    assert!(aid.means.contains("select()"), "{}", aid.means);
    assert_eq!((aid.done, &aid.withheld), (false, &None));

    let aid = only(&leaking(180, 200, 256, 1000));
    assert_eq!(aid.step, Step::RaiseFdLimit { soft: 256, hard: 1000, to: 1000, hard_to: None });
    // Only where there is no room below it is the hard limit touched.
    let aid = only(&leaking(180, 200, 256, 256));
    assert_eq!(aid.step, Step::RaiseFdLimit { soft: 256, hard: 256, to: 16_384, hard_to: Some(16_384) });
    assert!(aid.plan.contains("CAP_SYS_RESOURCE"), "{}", aid.plan);
}

#[test]
fn a_limit_is_never_lowered_and_has_an_end() {
    for (first, last, soft, hard) in [
        (100, 120, 128, 128),
        (100, 120, 128, 129),
        (1_000_000, 1_048_000, 1 << 20, u64::MAX),
        (1_000_000, 1_020_000, (1 << 20) - 1, u64::MAX),
        (2_000_000, 2_048_000, 1 << 21, 1 << 21),
    ] {
        for aid in planned(&leaking(first, last, soft, hard)) {
            let Step::RaiseFdLimit { to, hard_to, .. } = aid.step else { panic!("{aid:?}") };
            assert!(to > soft && to <= LIMIT_MAX && hard_to.is_none_or(|to| to > hard), "{aid:?}");
            assert!(to <= hard.max(hard_to.unwrap_or(0)), "{aid:?}");
        }
    }
}

#[test]
fn whoever_uses_select_gets_no_descriptor_that_it_has_no_room_for() {
    let ready = vec![ReadyFd { fd: Some(5), times: 1, ..ReadyFd::default() }];
    let selecting = PollLoop { call: PollCall::Select, ready, ..PollLoop::default() };
    let polling = Some(Polling { looked_us: 400_000, loops: vec![selecting] });
    let aid = only(&Observation { polling, ..leaking(180, 200, 256, 1 << 19) });
    assert_eq!(aid.step, Step::RaiseFdLimit { soft: 256, hard: 1 << 19, to: 1024, hard_to: None });
    assert!(aid.means.contains("select()"), "{}", aid.means);

    let waits_for = vec![WaitsFor { fd: 5, ..WaitsFor::default() }];
    let blocked = BlockedIn { call: "select".to_owned(), waits_for, ..BlockedIn::default() };
    let thread = Thread { blocked_in: Some(blocked), ..Thread::default() };
    let threads = Some(Threads { threads: vec![thread], ..Threads::default() });
    let aid = only(&Observation { threads, ..leaking(980, 1000, 1024, 1 << 19) });
    assert!(aid.withheld.as_ref().is_some_and(|why| why.contains("select()")), "{aid:?}");

    // One that only sleeps by it.
    let sleeping = PollLoop { call: PollCall::Select, ..PollLoop::default() };
    let polling = Some(Polling { looked_us: 400_000, loops: vec![sleeping] });
    let aid = only(&Observation { polling, ..leaking(980, 1000, 1024, 1 << 19) });
    assert_eq!(aid.withheld, None);
}

/// `ENFILE`: the machine has no more.
#[test]
fn a_limit_that_refuses_nothing_is_left_as_it_is() {
    let failed = |errno| CallCount { call: crate::observation::Call::Accept, errno, count: 9, ..CallCount::default() };
    let with = |errno| {
        let counts = vec![failed(errno)];
        Observation { calls: Some(Calls { looked_us: 400_000, counts }), ..leaking(10, 10, 1024, 4096) }
    };
    let machine = with(23);
    assert_eq!(judge(&machine).verdicts[0].verdict.cause, Cause::FdExhausted);
    assert_eq!(planned(&machine), []);
    assert_eq!(planned(&with(EMFILE)).len(), 1);
}

#[test]
fn of_a_pile_only_what_nobody_can_miss_is_closed() {
    let mut all: Vec<TcpSocket> = (1..=9).map(|cookie| socket(cookie, TcpState::CloseWait)).collect();
    // Answers on their way; written to lately; closed a moment ago; without a descriptor; nothing known.
    all[0].unsent_bytes = 1;
    all[1].last.as_mut().unwrap().last_data_sent_ms = SILENT_MS - 1;
    all[2].in_state_us = u64::from(SILENT_MS) * 1000 - 1;
    all[3].fd = None;
    all[4].last = None;
    all.push(socket(20, TcpState::Established));
    // A client holds its end, and may read on.
    all.push(TcpSocket { peer_pid: Some(9), ..socket(21, TcpState::CloseWait) });
    let aid = only(&holding(all));
    assert_eq!((aid.cause, closes(&aid)), (Cause::CloseWaitPileup, vec![6, 7, 8, 9]));
    assert!(aid.plan.contains("close 4 connections of pid 7 in CLOSE_WAIT"), "{}", aid.plan);
    assert!(aid.plan.contains("5 more that this verdict counts"), "{}", aid.plan);
    assert!(aid.means.contains("ECONNABORTED"), "{}", aid.means);
}

#[test]
fn a_peer_that_still_sends_after_our_half_was_shut_is_left_alone() {
    let mut all: Vec<TcpSocket> = (1..=9).map(|cookie| socket(cookie, TcpState::FinWait2)).collect();
    all[8].last.as_mut().unwrap().last_data_recv_ms = 10;
    assert_eq!(closes(&only(&holding(all))), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn no_more_than_so_many_at_once() {
    let all = (1..=CLOSED_MAX as u64 + 3).map(|cookie| socket(cookie, TcpState::CloseWait)).collect();
    let aid = only(&holding(all));
    assert_eq!(closes(&aid).len(), CLOSED_MAX);
    assert!(aid.plan.contains("3 more are left for another run"), "{}", aid.plan);
}

#[test]
fn a_window_that_is_closed_for_long_and_one_that_is_not() {
    let mut stuck = socket(1, TcpState::Established);
    stuck.unsent_bytes = 100_000;
    stuck.timer = TcpTimer { kind: TimerKind::ZeroWindowProbe, expires_ms: 1000, fired: 3 };
    assert!(is_stuck(Cause::PeerNotReading, SILENT_MS, &stuck));
    let mut slow = stuck.clone();
    slow.last.as_mut().unwrap().last_data_sent_ms = 2_000;
    assert!(!is_stuck(Cause::PeerNotReading, SILENT_MS, &slow));
    // It waits for an acknowledgement, not for room.
    stuck.timer.kind = TimerKind::Retransmit;
    assert!(!is_stuck(Cause::PeerNotReading, SILENT_MS, &stuck));
    assert!(is_stuck(Cause::PathLost, SILENT_MS, &stuck));
    stuck.last.as_mut().unwrap().last_ack_recv_ms = 2_000;
    assert!(!is_stuck(Cause::PathLost, SILENT_MS, &stuck));
    // Whatever its numbers: a listener, and a connection of which no verdict speaks.
    for cause in [Cause::CloseWaitPileup, Cause::FinWait2Pileup, Cause::PeerNotReading, Cause::PathLost] {
        assert!(!is_stuck(cause, SILENT_MS, &socket(1, TcpState::Listen)));
    }
    assert!(!is_stuck(Cause::ServerSlow, SILENT_MS, &socket(1, TcpState::Established)));
}

#[test]
fn who_is_well_or_gone_gets_none() {
    assert_eq!(planned(&holding(vec![socket(1, TcpState::CloseWait)])), []);
    let mut ended = leaking(180, 200, 256, 4096);
    ended.process.ended_at_us = Some(1);
    assert_eq!(planned(&ended), []);
}
