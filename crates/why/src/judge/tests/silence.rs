//! Callers who were answered at once, and then no more; and servers that are well and look like that.

use super::*;
use crate::observation::{FailedCalls, Gaps, Go, GoroutineGroup, HttpHead, Moment, Runtime, Side};

/// Callers of a server over HTTP. Each was answered fifty times, within a millisecond, asked again 2.2 s ago, and waits.
fn fell_silent(number: u64) -> Observation {
    let caller = |cookie| {
        let mut socket = inbound(cookie, "10.0.0.20:50000");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (2_250, 2_200);
        socket
    };
    let connection = |cookie| Connection {
        cookie,
        side: Side::Server,
        opened: Some(Moment::Before),
        turns: 51,
        last_write: Some(Moment::At(WINDOW - 2_250_000)),
        last_read: Some(Moment::At(WINDOW - 2_200_000)),
        write_gaps: Gaps { total_us: 30_000, longest_us: 900, ..Gaps::default() },
        http: Some(HttpHead { request: "GET /stock".to_owned(), ..HttpHead::default() }),
        ..Connection::default()
    };
    let mut seen = idle().tcp((1..=number).map(caller));
    seen.connections.as_mut().unwrap().connections = (1..=number).map(connection).collect();
    seen
}

fn each(seen: &mut Observation, change: impl Fn(&mut TcpSocket, &mut Connection)) {
    let sockets = &mut seen.sockets.as_mut().unwrap().tcp;
    let connections = &mut seen.connections.as_mut().unwrap().connections;
    sockets.iter_mut().zip(connections).for_each(|(socket, connection)| change(socket, connection));
}

fn changed(change: impl Fn(&mut TcpSocket, &mut Connection)) -> Observation {
    let mut seen = fell_silent(6);
    each(&mut seen, change);
    seen
}

#[test]
fn all_were_answered_at_once_and_nobody_is_any_more() {
    let seen = fell_silent(6);
    let finding = only(&seen, Cause::Unknown);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("6 callers wait for an answer, the longest for 2.2s"), "{summary}");
    assert!(summary.contains("all of them were answered before, within 900us each time, and nobody was since"));
    assert_eq!(crate::Report::of(&seen).connections_stalled, 6);
    // The loop lets requests lie.
    only(&changed(|socket, _| (socket.unread_bytes, socket.unread_for_us) = (29, 2_100_000)), Cause::Unknown);
    // Two may be any two.
    nothing(&fell_silent(2));
}

/// Not in the last milliseconds of a watch: another second tells.
#[test]
fn what_has_just_begun_is_watched_on() {
    let silent = |ms| {
        changed(move |socket, _| {
            let tcp = socket.last.as_mut().unwrap();
            (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (ms + 50, ms);
        })
    };
    let mut young = silent(1_200);
    each(&mut young, |_, connection| connection.last_write = Some(Moment::At(WINDOW - 1_250_000)));
    nothing(&young);
    assert!(!is_settled(&young));
    assert!(is_settled(&fell_silent(6)) && is_settled(&fell_silent(2)));
}

#[test]
fn who_is_asked_to_wait_was_slow_before() {
    let is_well = |change: fn(&mut TcpSocket, &mut Connection)| nothing(&changed(change));
    is_well(|_, connection| connection.write_gaps.longest_us = 60_000);
    is_well(|_, connection| connection.turns = 1);
    is_well(|_, connection| connection.http.as_mut().unwrap().asks_to_wait = true);
    // A websocket, a tunnel, another protocol, or what nobody saw.
    is_well(|_, connection| connection.http.as_mut().unwrap().status = Some(101));
    is_well(|_, connection| connection.http.as_mut().unwrap().request = "CONNECT db:5432".to_owned());
    is_well(|_, connection| connection.http2 = true);
    is_well(|_, connection| connection.http = None);
    // The load has ended: the server had the last word.
    is_well(|socket, _| socket.last.as_mut().unwrap().last_data_recv_ms = 2_300);
}

#[test]
fn whoever_answers_others_does_not_hang() {
    let other = |sent_ms, recv_ms| {
        let mut seen = fell_silent(6);
        let mut other = fell_silent(1);
        each(&mut other, |socket, connection| {
            (socket.cookie, connection.cookie) = (60, 60);
            let tcp = socket.last.as_mut().unwrap();
            (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, recv_ms);
        });
        seen.sockets.as_mut().unwrap().tcp.append(&mut other.sockets.unwrap().tcp);
        seen.connections.as_mut().unwrap().connections.append(&mut other.connections.unwrap().connections);
        seen
    };
    nothing(&other(100, 101));
    // It asks for nothing: then the others may be those of a slow page.
    nothing(&other(3_000, 3_001));
    only(&other(2_400, 2_350), Cause::Unknown);
    // One that has ended meanwhile.
    let mut seen = fell_silent(6);
    let gone = Connection {
        cookie: 70,
        side: Side::Server,
        last_write: Some(Moment::At(WINDOW - 300_000)),
        ..Connection::default()
    };
    seen.connections.as_mut().unwrap().connections.push(gone);
    nothing(&seen);
    seen = fell_silent(6);
    seen.connections.as_mut().unwrap().untold = 40;
    nothing(&seen);
}

/// Of Go the handlers tell where, though none of them was there at the first look.
#[test]
fn where_handlers_are_that_answer_no_more() {
    let mut seen = fell_silent(6);
    seen.process.runtime = Runtime::Go { version: "go1.27".to_owned() };
    let functions = ["runtime.gopark", "runtime.selectgo", "main.search", "net/http.(*conn).serve"];
    let group = GoroutineGroup {
        wait_reason: Some("select".to_owned()),
        stack: stack(&functions),
        last: 6,
        ..GoroutineGroup::default()
    };
    seen.go = Some(Go { groups: vec![group], ..Go::default() });
    let finding = only(&seen, Cause::Unknown);
    let summary = &finding.verdict.summary;
    assert!(summary.contains("while 6 goroutines that answer callers are in main.search"), "{summary}");
    assert!(finding.verdict.fix.contains("/debug/pprof/goroutine") && !finding.verdict.fix.contains("py-spy"));
}

/// A pool that is used up, and a limit of two seconds for it: each answer is a 503 then.
#[test]
fn errors_after_a_limit_are_worth_a_remark() {
    let failing = |number: u32, each_us: u64, longest_us| {
        changed(move |socket, connection| {
            socket.last.as_mut().unwrap().last_data_recv_ms = 400;
            connection.write_gaps.longest_us = longest_us;
            let failed = FailedCalls { status: 503, number, total_us: u64::from(number) * each_us, longest_us };
            connection.http.as_mut().unwrap().failed = Some(failed);
        })
    };
    let finding = advisory(&failing(2, 2_000_000, 2_010_000), Cause::Unknown);
    assert!(finding.verdict.summary.starts_with("12 answers to 6 callers were errors (503), each after 2.01s"));
    // Errors at once, and of any length.
    let quiet = |seen: &Observation| assert_eq!(judge(seen), Judgement::default());
    quiet(&failing(2, 20_000, 21_000));
    quiet(&failing(2, 2_000_000, 3_500_000));
}
