//! Loops that are woken over and over: those that do nothing for it, and those that look alike.

use super::*;
use crate::observation::{Call, PollCall, Runtime};

/// A loop of a thread that was watched for 400 ms.
fn turns(returns: u64, ready: Vec<ReadyFd>) -> PollLoop {
    let timeouts = Timeouts { unlimited: returns, ..Timeouts::default() };
    PollLoop { returns, inside_us: returns * 36 / 100, timeouts, ready, ..PollLoop::default() }
}

fn ready(fd: u32, what: &str, times: u64, events: u32) -> ReadyFd {
    ReadyFd { fd: Some(fd), what: Some(what.to_owned()), times, events, used: Some(0), ..ReadyFd::default() }
}

/// Doorbells: an edge-triggered eventfd, a ring of packets in memory, a queue of POSIX, empty datagrams. They are
/// not read, or not by a call that is counted for them, and each time they ring the loop has slept.
#[test]
fn a_loop_that_sleeps_until_it_is_woken_does_not_spin() {
    let rung = |inside_us, switches| {
        let poll = PollLoop { inside_us, ..turns(1_293, vec![ready(3, "eventfd", 1_293, 1)]) };
        idle().used(424_000).thread(|thread| thread.voluntary_switches = switches).poll(poll)
    };
    nothing(&rung(365_000, 16_191));
    // One that has work for most of its time.
    nothing(&rung(80_000, 9_000));
    // It does not sleep: each look at its many descriptors takes long.
    only(&rung(365_000, 40), Cause::Unknown);
    // It sleeps, and not in its polls.
    only(&rung(800, 16_191), Cause::Unknown);
}

/// Who takes what came by a call that is not counted for each descriptor, and never sleeps for all there is to do.
#[test]
fn a_queue_that_is_never_empty_is_no_spin() {
    let queue = |other_calls| PollLoop { other_calls, ..turns(8_000, vec![ready(3, "/queue", 8_000, 1)]) };
    nothing(&idle().used(4_900_000).poll(queue(vec![("mq_timedreceive".to_owned(), 8_000)])));
    only(&idle().used(4_900_000).poll(queue(Vec::new())), Cause::Unknown);
}

#[test]
fn room_to_write_for_who_has_nothing_to_write() {
    let left_on = |used| ReadyFd { used: Some(used), ..ready(3, "tcp 127.0.0.1:7000", 36_000, 4) };
    let finding = only(&idle().used(1_437_000).poll(turns(36_000, vec![left_on(0)])), Cause::Unknown);
    assert!(finding.verdict.summary.contains("nothing is written to it"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("OUT"), "{finding:#?}");
    nothing(&idle().used(1_437_000).poll(turns(36_000, vec![left_on(36_000)])));
    // One that computes, and asks now and then whether its client is still there.
    let asks = turns(2_000, vec![ready(3, "tcp 127.0.0.1:7000", 2_000, 4)]);
    nothing(&idle().used(4_900_000).poll(asks));
}

/// A control loop: it works in memory, and sleeps by a poll of nothing.
#[test]
fn a_poll_without_descriptors_is_a_sleep() {
    let sleeps = |sleeps, zero| {
        let timeouts = Timeouts { zero, short: 377 - zero, ..Timeouts::default() };
        let poll = PollLoop { call: PollCall::Poll, empty: 377, timeouts, ..turns(377, Vec::new()) };
        idle()
            .used(280_000)
            .thread(|thread| (thread.calls, thread.sleeps) = (vec![("poll".to_owned(), 15)], sleeps))
            .poll(poll)
    };
    nothing(&sleeps(15, 0));
    // It had descriptors, some of the time; or it asks for some between two sleeps.
    only(&sleeps(0, 0), Cause::SpinShortTimer);
    only(&sleeps(9, 0), Cause::SpinShortTimer);
    only(&sleeps(15, 188), Cause::SpinShortTimer);
}

/// A control loop that computes a little each 2 ms, and looks for a command in between.
#[test]
fn little_work_after_each_short_sleep() {
    let works = |cpu_us, runtime| {
        let timeouts = Timeouts { short: 180, ..Timeouts::default() };
        let mut seen = idle().used(cpu_us).poll(PollLoop { empty: 180, timeouts, ..turns(180, Vec::new()) });
        seen.process.runtime = runtime;
        seen
    };
    let busy = |finding: &Finding| {
        let mut rejected = finding.verdict.rejected.iter();
        rejected.find(|it| it.cause == Cause::CpuBusy).unwrap().why.to_string()
    };
    let finding = advisory(&works(256_000, Runtime::Native), Cause::SpinShortTimer);
    assert_eq!(busy(&finding), "possible: it may compute in slices of 113us and look in between them");
    // It may be the loop's own.
    for seen in [works(140_000, Runtime::Native), works(256_000, Runtime::Python)] {
        let finding = only(&seen, Cause::SpinShortTimer);
        assert_eq!(finding.verdict.confidence, Confidence::Medium);
        assert!(busy(&finding).starts_with("possible: "), "{finding:#?}");
    }
    // It is.
    let finding = only(&works(80_000, Runtime::Native), Cause::SpinShortTimer);
    assert_eq!(finding.verdict.confidence, Confidence::High);
    assert!(busy(&finding).starts_with("it does not compute"), "{finding:#?}");
}

#[test]
fn a_descriptor_that_was_closed_stays_in_the_poll() {
    let closed = ReadyFd { what: None, ..ready(3, "", 65_000, 0x20) };
    let finding = only(&idle().used(3_389_000).poll(turns(65_000, vec![closed])), Cause::SpinErrorFd);
    assert!(finding.verdict.summary.contains("NVAL"), "{finding:#?}");
}

/// As it was recorded: Python tries a port where nobody listens, again and again.
#[test]
fn a_number_that_is_used_for_one_socket_after_the_other_is_not_one_that_nobody_handles() {
    let tries = |closes| {
        let calls = [("ioctl", 8_427), ("socket", 8_427), ("connect", 8_426), ("close", closes), ("getsockopt", 8_424)];
        PollLoop {
            call: PollCall::Poll,
            other_calls: calls.map(|(call, times)| (call.to_owned(), times)).to_vec(),
            failed_calls: vec![("connect".to_owned(), 115, 8_426)],
            ..turns(8_424, vec![ReadyFd { what: None, ..ready(3, "", 8_424, 0x1c) }])
        }
    };
    let finding = advisory(&idle().used(4_920_000).poll(tries(8_424)), Cause::ConnectionChurn);
    assert!(finding.verdict.summary.contains("without a pause"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("backoff"), "{finding:#?}");
    // None is closed: one of them is left, and nobody handles it.
    only(&idle().used(4_920_000).poll(tries(0)), Cause::SpinErrorFd);
    // Other work that comes and goes, beside one that stays.
    let stays = PollLoop { ready: vec![ReadyFd { cookie: Some(7), ..ready(3, "", 8_424, 0x1c) }], ..tries(8_424) };
    let socket = TcpSocket { state: TcpState::Close, ..outbound(7, "10.0.0.9:80") };
    only(&idle().used(4_920_000).tcp([socket]).poll(stays), Cause::SpinErrorFd);
}

/// As it was recorded: of two connections, one poll in 50,000 brings something, which is read and answered.
#[test]
fn out_left_on_beside_what_is_read() {
    let seen = |unread_bytes| {
        let left_on = ReadyFd { cookie: Some(5), used: Some(6), ..ready(5, "tcp 127.0.0.1:42138", 155_660, 5) };
        let poll = PollLoop {
            other_calls: vec![("read".to_owned(), 6), ("write".to_owned(), 6)],
            ..turns(155_660, vec![left_on])
        };
        let client = TcpSocket { unread_bytes, ..inbound(5, "127.0.0.1:42138") };
        idle().used(5_000_000).tcp([client]).poll(poll)
    };
    let finding = only(&seen(0), Cause::Unknown);
    assert!(finding.verdict.summary.contains("room to write"), "{finding:#?}");
    assert!(finding.verdict.summary.contains("read or written 6 times in 155660 polls"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("OUT"), "{finding:#?}");
    // It has something to read, and hardly anything is read.
    let finding = only(&seen(40), Cause::Unknown);
    assert!(!finding.verdict.summary.contains("room to write"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("until it would block"), "{finding:#?}");
}

#[test]
fn a_timer_that_is_never_read() {
    let finding =
        only(&idle().used(4_990_000).poll(turns(182_919, vec![ready(5, "timerfd", 182_919, 1)])), Cause::Unknown);
    assert!(finding.verdict.summary.contains("nothing is read from it"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("8 bytes"), "{finding:#?}");
}

/// As it was recorded: a thread calls accept, without a poll, on a socket that was shut down.
#[test]
fn an_accept_that_fails_for_ever() {
    let accepts = |errno, count| {
        let mut seen = idle().used(4_900_000);
        let stack = Some(stack(&["accept", "main"]));
        let of = |errno, count| CallCount {
            call: Call::Accept,
            errno,
            count,
            fd: Some(3),
            stack: stack.clone(),
            ..CallCount::default()
        };
        seen.calls.as_mut().unwrap().counts = vec![of(errno, count), of(0, 20)];
        seen
    };
    let finding = only(&accepts(22, 210_807), Cause::SpinAcceptError);
    assert!(finding.verdict.summary.contains("EINVAL"), "{finding:#?}");
    // It ends, and many threads waited; it was looked at for a moment.
    let mut ends = accepts(22, 300);
    ends.calls.as_mut().unwrap().looked_us = 20_000;
    nothing(&ends);
    // Now and then; a listener that is asked without a poll; clients that leave before they are served.
    for (errno, count) in [(22, 20), (11, 210_807), (103, 210_807)] {
        nothing(&accepts(errno, count));
    }
}

#[test]
fn polls_that_fail_at_once() {
    let fails = PollLoop { failed: 116_000, ..turns(116_000, Vec::new()) };
    let finding = only(&idle().used(2_800_000).poll(fails.clone()), Cause::Unknown);
    assert!(finding.verdict.summary.contains("fails at once"), "{finding:#?}");
    // A profiler's signal ends each sleep.
    let signals = PollLoop { failed: 1_000, inside_us: 390_000, ..turns(1_000, Vec::new()) };
    nothing(&idle().used(60_000).thread(|thread| thread.voluntary_switches = 12_500).poll(signals));
    // Its limit is over.
    nothing(&idle().used(2_800_000).poll(PollLoop { call: PollCall::IoUringEnter, ..fails }));
}

/// A poll that returns one of them only.
#[test]
fn half_closed_connections_that_take_turns() {
    let half_closed = |fd| ready(fd, "tcp 10.0.0.9:50000", 297_000, 0x2001);
    let both = vec![half_closed(5), half_closed(6)];
    let finding = only(&idle().used(4_260_000).poll(turns(594_000, both)), Cause::SpinHalfClosed);
    assert!(finding.verdict.evidence.iter().any(|it| it.text.contains("594000 of 594000")), "{finding:#?}");
    // The other is read.
    let read = ReadyFd { used: Some(297_000), ..half_closed(6) };
    nothing(&idle().used(4_260_000).poll(turns(594_000, vec![half_closed(5), read])));
}
