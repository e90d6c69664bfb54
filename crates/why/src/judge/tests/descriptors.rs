//! Descriptors that run out: what leaks, and what looks alike.

use super::{
    process::{listener, listening, ready},
    *,
};
use crate::observation::{Call, Ending, Listener, Opener, PeerFds};

/// A loop that accepts, and fails for want of a descriptor.
fn accepts_in_vain() -> Observation {
    let mut seen = idle().used(4_900_000).poll(PollLoop {
        other_calls: vec![("accept4".to_owned(), 20_000)],
        failed_calls: vec![("accept4".to_owned(), 24, 20_000)],
        ..ready(ReadyFd { fd: Some(4), events: 1, ..ReadyFd::default() })
    });
    seen.calls.as_mut().unwrap().counts =
        vec![CallCount { call: Call::Accept, errno: 24, count: 20_000, ..CallCount::default() }];
    let full = Listener { full_rounds: 12, queued_last: 129, ..listener() };
    listening(seen, full)
}

/// The classic chain: descriptors leak, accept fails, the loop spins, the queue overflows.
#[test]
fn the_spin_is_an_effect_of_the_leak() {
    let mut seen = accepts_in_vain();
    let fds = seen.fds.as_mut().unwrap();
    fds.soft_limit = 256;
    fds.open = rising(160, 5);
    fds.by_kind = vec![kind("tcp", 10, 12), kind("file", 150, 243)];
    fds.openers = Some(vec![Opener {
        stack: stack(&["open", "load_template", "handle", "main"]),
        call: "openat".to_owned(),
        still_open: 93,
    }]);
    let finding = only(&seen, Cause::FdLeak);
    let effects: Vec<_> = finding.effects.iter().map(|effect| effect.verdict.cause).collect();
    assert!(effects.contains(&Cause::SpinAcceptEmfile), "{effects:?}");
    assert!(finding.verdict.evidence.iter().any(|evidence| evidence.text.contains("load_template")));
}

/// Nothing leaks: clients stay, and the limit is too low for them. The loop spins for that, and its queue is full.
#[test]
fn the_spin_is_an_effect_of_the_limit() {
    let effects = |finding: &Finding| finding.effects.iter().map(|it| it.verdict.cause).collect::<Vec<_>>();
    let mut seen = accepts_in_vain();
    let fds = seen.fds.as_mut().unwrap();
    (fds.soft_limit, fds.open) = (64, readings(&[64; 20]));
    fds.by_kind = vec![kind("tcp", 59, 59)];
    let finding = only(&seen, Cause::FdExhausted);
    assert_eq!(effects(&finding), [Cause::SpinAcceptEmfile]);
    assert_eq!(effects(&finding.effects[0]), [Cause::CpuBusy, Cause::AcceptQueueOverflow]);
    // Without privilege nobody sees the loop.
    (seen.polling, seen.calls) = (None, None);
    let seen = seen.used(0);
    assert_eq!(effects(&only(&seen, Cause::FdExhausted)), [Cause::AcceptQueueOverflow]);
}

#[test]
fn descriptors_that_grow_toward_the_limit() {
    let mut seen = idle();
    let fds = seen.fds.as_mut().unwrap();
    fds.open = rising(600, 8);
    fds.by_kind = vec![kind("file", 500, 652)];
    let finding = only(&seen, Cause::FdLeak);
    assert!(finding.verdict.summary.contains("is reached in"), "{}", finding.verdict.summary);
    // A pool that fills within the first second, and stays.
    let filled = [12, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60];
    seen.fds.as_mut().unwrap().open = readings(&filled);
    nothing(&seen);
    // The last few of a pool, early in the window.
    let last_few = [33, 35, 37, 39, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40];
    let fds = seen.fds.as_mut().unwrap();
    (fds.soft_limit, fds.open) = (70, readings(&last_few));
    nothing(&seen);
    seen.fds.as_mut().unwrap().soft_limit = 1024;
    // Load that comes and goes.
    let waves = [600, 640, 610, 660, 600, 650, 620, 670, 610, 640, 600, 660, 610, 650, 620, 660, 600, 650, 610, 640];
    seen.fds.as_mut().unwrap().open = readings(&waves);
    nothing(&seen);
}

/// A merge opens its 900 files one after the other, reads, and ends; or is watched while it opens them.
#[test]
fn descriptors_of_a_batch() {
    let opens = |limit, age_us| {
        let mut seen = idle();
        seen.process.age_us = Some(age_us);
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.open, fds.by_kind) = (limit, rising(225, 25), vec![kind("file", 222, 697)]);
        seen
    };
    let ended = |limit, ended, errno| {
        let mut seen = opens(limit, 2_019_000);
        (seen.process.ended_at_us, seen.process.ended) = (Some(WINDOW), Some(ended));
        let call = CallCount { call: Call::Open, errno, count: 9, ..CallCount::default() };
        seen.calls.as_mut().unwrap().counts = vec![call];
        seen
    };
    let (well, failed) = (Ending::Exited { code: 0 }, Ending::Exited { code: 1 });
    for seen in [ended(20_000, well, 0), ended(20_000, failed, 0), ended(1_024, well, 0), ended(701, well, 0)] {
        let finding = advisory(&seen, Cause::FdLeak);
        assert!(!finding.verdict.summary.contains("is reached in"), "{finding:#?}");
    }
    only(&ended(1_024, well, 24), Cause::FdLeak);
    only(&ended(701, failed, 0), Cause::FdLeak);
    // It goes on, and is young.
    advisory(&opens(20_000, 2_019_000), Cause::FdLeak);
    only(&opens(20_000, 20_000_000), Cause::FdLeak);
    only(&opens(9_000, 2_019_000), Cause::FdLeak);
}

/// Clients come back one after another, and stay: far from the limit that is a remark, whatever it is at this rate.
#[test]
fn clients_that_connect_to_a_server_far_from_its_limit() {
    let comes = |change: fn(&mut Observation)| {
        let mut seen = idle();
        let fds = seen.fds.as_mut().unwrap();
        (fds.open, fds.by_kind) = (rising(10, 1), vec![kind("tcp", 2, 21), kind("file", 4, 4)]);
        let mut seen = seen.tcp((1..=19).map(|cookie| inbound(cookie, "10.0.0.9:50000")));
        change(&mut seen);
        seen
    };
    advisory(&comes(|_| {}), Cause::FdLeak);
    // Beyond half of the limit nobody should have to wait and see. What the peers closed is not in use, and a file is no
    // client.
    assert_eq!(causes(&judge(&comes(|seen| seen.fds.as_mut().unwrap().soft_limit = 50))), ["fd-leak"]);
    only(&comes(|seen| seen.fds.as_mut().unwrap().by_kind = vec![kind("file", 2, 21)]), Cause::FdLeak);
    let closed = judge(&comes(|seen| {
        for socket in &mut seen.sockets.as_mut().unwrap().tcp {
            socket.state = TcpState::CloseWait;
        }
    }));
    assert!(closed.advisories.iter().all(|finding| finding.verdict.cause != Cause::FdLeak), "{closed:#?}");
}

/// Clients come one after another, and stay, to a server whose limit is near: a leak, or the limit is too low for them.
#[test]
fn clients_that_come_near_the_limit() {
    let comes = |state, since_before| {
        let mut seen = idle();
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.open) = (256, rising(109, 3));
        fds.by_kind = vec![kind("tcp", 103, 160)];
        let client = TcpSocket { state, since_before, in_state_us: 900_000, ..inbound(1, "10.0.0.9:50000") };
        seen.tcp((1..=57).map(|cookie| TcpSocket { cookie, ..client.clone() }))
    };
    let finding = only(&comes(TcpState::Established, false), Cause::FdLeak);
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    assert!(finding.verdict.fix.contains("limit"), "{finding:#?}");
    // Others have come, and something else grows; or their clients have gone.
    for seen in [comes(TcpState::Established, true), comes(TcpState::CloseWait, false)] {
        assert_eq!(only(&seen, Cause::FdLeak).verdict.confidence, Confidence::High);
    }
}

/// Five more a second, and an hour until the limit.
#[test]
fn descriptors_that_grow_far_from_the_limit() {
    let leaks = |change: fn(&mut Fds)| {
        let mut seen = idle();
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.open) = (20_000, rising(200, 2));
        fds.by_kind = vec![kind("file", 150, 187), kind("tcp", 10, 11)];
        let place = |name: &str, still_open| Opener {
            stack: stack(&["open", name, "main"]),
            call: "openat".to_owned(),
            still_open,
        };
        fds.openers = Some(vec![place("load_template", 37), place("serve", 1)]);
        change(fds);
        seen
    };
    let finding = advisory(&leaks(|_| {}), Cause::FdLeak);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("7.6 more a second") && summary.contains("limit of 20000 is reached in 43m"), "{summary}");
    assert!(finding.verdict.evidence.iter().any(|evidence| evidence.text.contains("load_template")));
    let unseen = advisory(&leaks(|fds| fds.openers = None), Cause::FdLeak);
    assert!(unseen.verdict.confidence < finding.verdict.confidence);
    // More clients; work of many kinds; one that closes, too; a few; the end of time.
    let quiet: [fn(&mut Fds); 6] = [
        |fds| fds.by_kind = vec![kind("tcp", 10, 47), kind("file", 150, 151)],
        |fds| fds.by_kind = vec![kind("tcp", 10, 30), kind("file", 150, 168)],
        |fds| fds.openers.as_mut().unwrap()[1].still_open = 20,
        |fds| fds.open[9].value = fds.open[8].value - 1,
        |fds| fds.open = readings(&(0..20).map(|place| 200 + place / 2).collect::<Vec<_>>()),
        |fds| fds.soft_limit = 1 << 20,
    ];
    for (at, change) in quiet.into_iter().enumerate() {
        assert_eq!(judge(&leaks(change)), Judgement::default(), "{at}");
    }
}

/// Connections that are used once, and never again nor closed.
#[test]
fn connections_that_are_opened_while_others_lie_idle() {
    let grows = |inbound: bool, last: fn(&mut TcpInfo)| {
        let mut seen = idle();
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.open) = (20_000, rising(200, 2));
        fds.by_kind = vec![kind("tcp", 10, 48)];
        fds.by_peer = vec![PeerFds { peer: "10.0.0.9:80".to_owned(), first: 0, last: 38 }];
        seen.tcp((1..=30).map(|cookie| {
            let mut socket = TcpSocket { inbound, ..outbound(cookie, "10.0.0.9:80") };
            let tcp = socket.last.as_mut().unwrap();
            (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (2_100, 2_000);
            last(tcp);
            socket
        }))
    };
    let finding = advisory(&grows(false, |_| {}), Cause::FdLeak);
    assert!(finding.verdict.summary.contains("connections to 10.0.0.9:80"), "{}", finding.verdict.summary);
    // As it was recorded: 750 more in the first seconds of a program, no twentieth of its limit, which it reaches in two
    // minutes. So many are no pool that it fills; fewer may be, and so may files.
    let young = |step, change: fn(&mut Fds)| {
        let mut seen = grows(false, |_| {});
        let first = seen.sockets.as_ref().unwrap().tcp[0].clone();
        seen = seen.tcp((31..=400).map(|cookie| TcpSocket { cookie, ..first.clone() }));
        seen.process.age_us = Some(1_416_000);
        let fds = seen.fds.as_mut().unwrap();
        fds.open = rising(224, step);
        fds.by_kind = vec![kind("tcp", 217, 217 + 19 * step)];
        fds.by_peer = vec![PeerFds { peer: "10.0.0.9:80".to_owned(), first: 208, last: 208 + 19 * step }];
        change(fds);
        seen
    };
    let finding = only(&young(39, |_| {}), Cause::FdLeak);
    assert!(finding.verdict.summary.contains("which is reached in 2m"), "{}", finding.verdict.summary);
    advisory(&young(10, |fds| fds.soft_limit = 10_000), Cause::FdLeak);
    advisory(&young(39, |fds| (fds.by_kind, fds.by_peer) = (vec![kind("file", 217, 958)], Vec::new())), Cause::FdLeak);
    // Clients that come; calls that wait for their answers; connections in use.
    assert_eq!(judge(&grows(true, |_| {})), Judgement::default());
    nothing(&grows(false, |tcp| tcp.last_data_recv_ms = 9_000));
    assert_eq!(
        judge(&grows(false, |tcp| (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (90, 20))),
        Judgement::default()
    );
}
