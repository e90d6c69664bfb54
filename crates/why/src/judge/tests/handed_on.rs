//! Callers that waited while a call was under way which was made for them, as they were recorded: all of it is over when
//! the watch ends.

use super::*;
use crate::observation::{Gaps, HttpHead, Moment, Side};

/// From when until when, in milliseconds.
type Ms = (u64, u64);

fn gap((from, until): Ms) -> Gaps {
    let length_us = (until - from) * 1_000;
    Gaps { total_us: length_us, longest_us: length_us, longest_at_us: from * 1_000, ..Gaps::default() }
}

fn at(ms: u64) -> Option<Moment> {
    Some(Moment::At(ms * 1_000))
}

/// One who kept his connection, and was answered in the end.
fn caller(cookie: u64, waited: Ms) -> Connection {
    let http = HttpHead { request: "GET /".to_owned(), ..HttpHead::default() };
    Connection {
        cookie,
        remote: Some(format!("10.0.0.20:{}", 40_000 + cookie).parse().unwrap()),
        side: Side::Server,
        opened: Some(Moment::Before),
        read_bytes: 80,
        written_bytes: 40,
        write_gaps: gap(waited),
        last_read: at(waited.0),
        last_write: at(waited.1),
        http: Some(http),
        ..Connection::default()
    }
}

/// A call that was answered.
fn call(cookie: u64, waited: Ms) -> Connection {
    let http = HttpHead {
        request: "GET /part".to_owned(),
        requested: at(waited.0),
        answered: at(waited.1),
        status: Some(200),
        missing_bytes: Some(0),
        ..HttpHead::default()
    };
    Connection {
        cookie,
        remote: Some("10.0.0.9:80".parse().unwrap()),
        side: Side::Client,
        opened: at(waited.0),
        established: at(waited.0),
        read_bytes: 80,
        written_bytes: 40,
        turns: 1,
        read_gaps: gap(waited),
        last_write: at(waited.0),
        last_read: at(waited.1),
        http: Some(http),
        ..Connection::default()
    }
}

/// A call that was given up.
fn given_up(cookie: u64, waited: Ms) -> Connection {
    let http = HttpHead { request: "GET /part".to_owned(), requested: at(waited.0), ..HttpHead::default() };
    Connection {
        read_bytes: 0,
        turns: 0,
        read_gaps: Gaps::default(),
        last_read: None,
        closed: at(waited.1),
        closed_by_us: true,
        http: Some(http),
        ..call(cookie, waited)
    }
}

/// Among so many connections that were opened.
fn seen(opened: u64, connections: impl IntoIterator<Item = Connection>) -> Observation {
    let mut seen = idle();
    let table = seen.connections.as_mut().unwrap();
    table.opened = opened;
    table.connections = connections.into_iter().collect();
    seen
}

/// Five seconds of a service whose peer needs two for each answer, and no call is a second old when they are over.
#[test]
fn waits_that_are_over_count_as_those_that_go_on() {
    let waits = |caller_waits: Ms| {
        let callers = (1..=3).map(|it| caller(it, caller_waits));
        seen(3, callers.chain((11..=13).map(|it| call(it, (2_000, 4_000)))))
    };
    let finding = only(&waits((1_998, 4_001)), Cause::WaitsUpstream);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("3 callers of this process waited while it waited for 10.0.0.9:80"), "{summary}");
    // Something else was done first, or afterwards.
    only(&waits((1_200, 4_001)), Cause::WaitsUpstream);
    only(&waits((1_998, 4_800)), Cause::WaitsUpstream);
    // A fetch in the background, which begins and ends by itself; or which took the least part of the wait.
    for other in [(1_700, 4_300), (2_500, 4_900), (0, 4_001)] {
        advisory(&waits(other), Cause::ServerSlow);
    }
    // Other callers wait for something else.
    let mut many = waits((1_998, 4_001));
    many.connections.as_mut().unwrap().connections.extend((4..=9).map(|it| caller(it, (500, 3_000))));
    advisory(&many, Cause::ServerSlow);
}

/// One route of a busy service fails, and the others do well.
#[test]
fn calls_that_callers_wait_for_are_no_noise() {
    let partial = |waited: Ms| {
        let mut callers = [caller(1, waited), caller(2, waited)];
        // Each of them has asked before, and waited as long.
        callers.iter_mut().for_each(|it| it.write_gaps.total_us *= 3);
        seen(500, callers.into_iter().chain((11..=16).map(|it| given_up(it, (2_000, 3_000)))))
    };
    let finding = only(&partial((1_999, 3_001)), Cause::WaitsUpstream);
    assert_eq!(finding.effects[0].verdict.cause, Cause::ServerSlow);
    nothing(&partial((3_500, 4_600)));
}

/// The limits of its callers are shorter than what its peer takes.
#[test]
fn callers_who_leave_before_the_answer() {
    let left = |number: u64| {
        let gone = (1..=number).map(|it| Connection {
            write_gaps: Gaps::default(),
            last_write: None,
            fin_received: at(2_500),
            closed: at(2_700),
            ..caller(it, (2_000, 2_500))
        });
        gone.chain((21..=28).map(|it| call(it, (2_001, 2_700)))).collect::<Vec<_>>()
    };
    let summary = only(&seen(8, left(8)), Cause::WaitsUpstream).verdict.summary;
    assert!(summary.starts_with("8 callers of this process left without an answer after 500ms"), "{summary}");
    // Few of many; and those who were answered after a while.
    let served = (31..=50).map(|it| caller(it, (100, 110)));
    advisory(&seen(8, left(8).into_iter().chain(served)), Cause::WaitsUpstream);
    let patient = (1..=8).map(|it| caller(it, (2_000, 2_702)));
    advisory(&seen(8, patient.chain((21..=28).map(|it| call(it, (2_001, 2_700))))), Cause::WaitsUpstream);
}

/// A port that nobody listens at is asked for all along; callers wait for another peer.
#[test]
fn what_callers_wait_for_is_before_what_fails_beside_it() {
    let refused = |cookie| Connection {
        remote: Some("10.0.0.8:9100".parse().unwrap()),
        established: None,
        errno: Some(111),
        http: None,
        ..given_up(cookie, (1_000, 1_000))
    };
    let callers = (1..=3).map(|it| caller(it, (1_998, 4_001)));
    let calls = (11..=13).map(|it| call(it, (2_000, 4_000)));
    let judgement = judge(&seen(13, callers.chain(calls).chain((21..=30).map(refused))));
    assert_eq!(causes(&judgement), ["waits-upstream", "connect-refused"], "{judgement:#?}");
}
