//! Goroutines that wait for a place.

use super::{unanswered::limited, *};
use crate::observation::{Go, GoroutineGroup, Runtime};

const HANDLER: [&str; 4] =
    ["main.search", "net/http.HandlerFunc.ServeHTTP", "net/http.serverHandler.ServeHTTP", "net/http.(*conn).serve"];

/// A server of Go whose goroutines are at this function; four callers wait.
fn waits_in(function: &str, below: &[&str], stayed: u64) -> Observation {
    let caller = |cookie| {
        let mut caller = inbound(cookie, "10.0.0.20:50000");
        let tcp = caller.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (9_000, 4_900);
        caller
    };
    let mut seen = idle().tcp((20..24).map(caller));
    seen.process.runtime = Runtime::Go { version: "go1.27".to_owned() };
    let functions: Vec<&str> = ["runtime.gopark", "runtime.selectgo", function].iter().chain(below).copied().collect();
    let group = GoroutineGroup {
        wait_reason: Some("select".to_owned()),
        stack: stack(&functions),
        stayed,
        ..GoroutineGroup::default()
    };
    seen.go = Some(Go { groups: vec![group], ..Go::default() });
    seen
}

/// Five connections, on which the peer had the last word so long ago.
fn idle_for(ms: u32, mut seen: Observation) -> Observation {
    let sockets = (31..36).map(|cookie| {
        let mut socket = outbound(cookie, "10.0.0.5:5432");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (ms + 1, ms);
        socket
    });
    seen = seen.tcp(sockets);
    seen
}

#[test]
fn connections_that_were_not_given_back() {
    let waits = || waits_in("database/sql.(*DB).conn", &HANDLER, 4);
    let finding = only(&idle_for(60_000, waits()), Cause::PoolExhausted);
    assert!(
        finding.verdict.summary.contains("4 goroutines that answer callers wait for a connection of database/sql"),
        "{finding:#?}"
    );
    assert!(finding.verdict.summary.contains("connections to 10.0.0.5:5432 lie idle meanwhile"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("close rows"), "{finding:#?}");
    // In use: it is too small, or what is asked takes too long.
    let finding = only(&idle_for(3, waits()), Cause::PoolExhausted);
    assert!(!finding.verdict.summary.contains("idle") && !finding.verdict.fix.contains("close rows"), "{finding:#?}");
}

/// Others each time; a producer that waits until there is room; one that dials.
#[test]
fn goroutines_that_get_on() {
    let told = |seen: &Observation| causes(&judge(seen)).contains(&"pool-exhausted");
    assert!(!told(&waits_in("database/sql.(*DB).conn", &HANDLER, 0)));
    assert!(!told(&waits_in("golang.org/x/sync/semaphore.(*Weighted).Acquire", &["main.produce"], 1)));
    assert!(!told(&waits_in("net.(*Dialer).DialContext", &["database/sql.(*DB).conn"], 4)));
    assert!(told(&waits_in("golang.org/x/sync/semaphore.(*Weighted).Acquire", &HANDLER, 3)));
}

/// Bodies that nobody closed keep all places of a host. Where one dials, its callers wait for that.
#[test]
fn bodies_that_were_not_closed() {
    let mut seen = idle_for(60_000, waits_in("net/http.(*Transport).getConn", &HANDLER, 4));
    let finding = only(&seen, Cause::PoolExhausted);
    assert!(finding.verdict.summary.contains("a connection of net/http (MaxConnsPerHost)"), "{finding:#?}");
    let dials = GoroutineGroup {
        stack: stack(&["net.(*netFD).connect", "net/http.(*Transport).dialConn", "net/http.(*Transport).dialConnFor"]),
        stayed: 1,
        ..GoroutineGroup::default()
    };
    seen.go.as_mut().unwrap().groups.push(dials);
    nothing(&seen);
}

/// Eight callers, eight threads that wait with a limit, and connections that lie idle. A long poll looks the same.
#[test]
fn threads_that_wait_with_a_limit_may_wait_for_a_place() {
    let seen = |threads, callers: u64| {
        let handlers = waits_in("", &[], 0).sockets.unwrap().tcp;
        let mut seen = limited(threads).tcp((0..callers).map(|cookie| TcpSocket { cookie, ..handlers[0].clone() }));
        seen.process.runtime = Runtime::Python;
        seen
    };
    let told = |seen: &Observation| judge(seen).advisories.iter().any(|it| it.verdict.cause == Cause::PoolExhausted);
    let finding = advisory(&idle_for(60_000, seen(8, 8)), Cause::PoolExhausted);
    let verdict = &finding.verdict;
    assert!(verdict.summary.starts_with("8 callers wait for an answer, the longest for 4.9s"), "{verdict:#?}");
    assert!(
        verdict.summary.contains("8 threads (server) sit in futex with a limit, from wait < handle"),
        "{verdict:#?}"
    );
    assert!(verdict.summary.contains("5 connections to 10.0.0.5:5432 lie idle"), "{verdict:#?}");
    assert!(verdict.fix.contains("py-spy dump --pid 4242"), "{verdict:#?}");
    // Without a pool; with one that is used; and where some are answered.
    assert!(!told(&seen(8, 8)));
    assert!(!told(&idle_for(3, seen(8, 8))));
    assert!(!told(&idle_for(60_000, seen(2, 8))));
    let mut answers = idle_for(60_000, seen(8, 9));
    let mut sockets = answers.sockets.as_mut().unwrap().tcp.iter_mut();
    sockets.next().unwrap().last.as_mut().unwrap().last_data_sent_ms = 10;
    assert!(!told(&answers));
    // The sentence on who had the last word says where the threads are, all the same.
    let words = crate::Report::of(&seen(8, 8)).last_words[0].to_string();
    assert!(
        words.ends_with("Meanwhile 8 threads waited with a limit (futex, from wait < handle), for 5s at most."),
        "{words}"
    );
}
