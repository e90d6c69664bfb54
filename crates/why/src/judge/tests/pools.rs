//! Goroutines that wait for a place, and requests that wait for a thread.

use super::{unanswered::limited, *};
use crate::observation::{BlockedIn, Go, GoroutineGroup, HttpHead, Moment, Runtime, Side};

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

/// A pool of four threads in Python, as it was recorded: it accepts, and takes up four requests at a time. Each of the
/// threads sits in this call; twelve requests lie unread.
fn pool(call: &str, change: fn(&mut TcpSocket)) -> Observation {
    let mut seen = idle();
    seen.process.runtime = Runtime::Python;
    let sits = |tid: u32, call: &str| Thread {
        tid,
        calls: vec![(call.to_owned(), 20)],
        blocked_in: Some(BlockedIn { call: call.to_owned(), ..BlockedIn::default() }),
        stack: Some(stack(&[call, "time_sleep"])),
        ..seen.threads.as_ref().unwrap().threads[0].clone()
    };
    let all: Vec<Thread> =
        std::iter::once(sits(PID, "accept4")).chain((1..=4).map(|at| sits(PID + at, call))).collect();
    let threads = seen.threads.as_mut().unwrap();
    (threads.first, threads.last, threads.threads) = (5, 5, all);
    let request = |cookie: u64, unread: bool| {
        let mut socket = inbound(cookie, "10.0.0.20:50000");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(0), Some(28));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (6_000, 6_000);
        if unread {
            (socket.unread_bytes, socket.unread_for_us) = (28, 4_000_000);
            change(&mut socket);
        }
        socket
    };
    seen.tcp((1..=4).map(|cookie| request(cookie, false))).tcp((5..=16).map(|cookie| request(cookie, true)))
}

/// The threads of the pool.
fn workers(seen: &mut Observation) -> impl Iterator<Item = &mut Thread> {
    seen.threads.as_mut().unwrap().threads.iter_mut().skip(1)
}

/// No word of threads.
#[track_caller]
fn nobody_waits_for_a_thread(seen: &Observation) {
    let judgement = judge(seen);
    let mut all = judgement.verdicts.iter().chain(&judgement.advisories);
    assert!(all.all(|finding| finding.verdict.cause != Cause::PoolExhausted), "{judgement:#?}");
}

#[test]
fn requests_that_wait_for_a_thread() {
    let finding = only(&pool("clock_nanosleep", |_| {}), Cause::PoolExhausted);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("12 requests lie unread") && summary.contains("longest for 4s"), "{summary}");
    assert!(summary.contains("all 4 threads") && summary.contains("in clock_nanosleep"), "{summary}");
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    // They wait for less than most of the watch, and so did others before them.
    only(&pool("clock_nanosleep", |it| it.unread_for_us = 1_200_000), Cause::PoolExhausted);
    // One burst.
    let mut burst = pool("clock_nanosleep", |it| it.unread_for_us = 1_200_000);
    burst.sockets.as_mut().unwrap().tcp.truncate(8);
    advisory(&burst, Cause::PoolExhausted);
}

/// Each thread keeps a connection whose client says nothing more.
#[test]
fn threads_that_wait_for_silent_callers() {
    let mut seen = pool("recvfrom", |_| {});
    for (thread, cookie) in workers(&mut seen).zip(1..) {
        thread.blocked_in.as_mut().unwrap().cookie = Some(cookie);
    }
    for socket in &mut seen.sockets.as_mut().unwrap().tcp[..4] {
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.last_data_sent_ms) = (Some(40), 5_990);
    }
    let finding = only(&seen, Cause::PoolExhausted);
    assert!(finding.verdict.summary.contains("for callers that say nothing"), "{finding:#?}");
    assert!(finding.verdict.fix.contains("keep-alive"), "{finding:#?}");
}

/// Their calls to a peer that does not answer are what is wrong.
#[test]
fn a_pool_that_waits_for_a_peer() {
    let mut seen = pool("recvfrom", |_| {});
    for (thread, cookie) in workers(&mut seen).zip(21..) {
        thread.blocked_in.as_mut().unwrap().cookie = Some(cookie);
        (thread.blocked_us, thread.since_before) = (4_000_000, true);
    }
    let call = |cookie| Connection {
        cookie,
        side: Side::Client,
        opened: Some(Moment::Before),
        http: Some(HttpHead { request: "GET /".to_owned(), ..HttpHead::default() }),
        ..Connection::default()
    };
    seen.connections.as_mut().unwrap().connections = (21..=24).map(call).collect();
    let seen = seen.tcp((21..=24).map(|cookie| {
        let mut call = outbound(cookie, "10.0.0.80:80");
        let tcp = call.last.as_mut().unwrap();
        (tcp.bytes_received, tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (Some(0), 4_000, 4_000);
        call
    }));
    let judgement = judge(&seen);
    assert!(!causes(&judgement).contains(&"pool-exhausted"), "{judgement:#?}");
    assert!(causes(&judgement).contains(&"waits-upstream"), "{judgement:#?}");
    let remark = judgement.advisories.iter().find(|it| it.verdict.cause == Cause::PoolExhausted).unwrap();
    assert!(remark.verdict.summary.contains("in recvfrom on 10.0.0.80:80"), "{remark:#?}");
}

/// What lies unread is the rest of a request, a goodbye, more than a request, or nobody's any more; or who sends to it does
/// not read.
#[test]
fn what_lies_unread_and_waits_for_nobody() {
    let changes: [fn(&mut TcpSocket); 7] = [
        |it| it.last.as_mut().unwrap().bytes_received = Some(4_000),
        |it| it.last.as_mut().unwrap().bytes_acked = Some(900),
        |it| it.fin_unread = true,
        |it| it.state = TcpState::CloseWait,
        |it| it.unread_bytes = 40_000,
        |it| it.unread_for_us = 300_000,
        |it| it.unsent_bytes = 9_000,
    ];
    for change in changes {
        nobody_waits_for_a_thread(&pool("clock_nanosleep", change));
    }
    let mut stopped = pool("clock_nanosleep", |_| {});
    stopped.process.stopped = true;
    nobody_waits_for_a_thread(&stopped);
}

/// A request behind an answer waits like any other.
#[test]
fn the_next_request_on_a_connection() {
    let again = |wrote: u64| {
        let mut seen = pool("clock_nanosleep", |it| {
            let tcp = it.last.as_mut().unwrap();
            (tcp.bytes_received, tcp.bytes_acked, tcp.last_data_sent_ms) = (Some(56), Some(40), 6_001);
        });
        let answered = |cookie| Connection {
            cookie,
            side: Side::Server,
            opened: Some(Moment::Before),
            last_read: Some(Moment::At(700_000)),
            last_write: Some(Moment::At(wrote)),
            ..Connection::default()
        };
        seen.connections.as_mut().unwrap().connections = (5..=16).map(answered).collect();
        seen
    };
    only(&again(900_000), Cause::PoolExhausted);
    // A part of it was read after the answer, or it lay there before.
    nobody_waits_for_a_thread(&again(600_000));
    nobody_waits_for_a_thread(&again(2_000_000));
}

/// Threads without work; a thread for each connection, which has its own reason to wait; one thread that reads for all, and
/// sits in a call; a loop.
#[test]
fn threads_that_are_no_pool_which_is_used_up() {
    nobody_waits_for_a_thread(&pool("futex", |_| {}));
    let mut polls = pool("clock_nanosleep", |_| {});
    workers(&mut polls)
        .for_each(|thread| thread.calls = vec![("clock_nanosleep".to_owned(), 10), ("poll".to_owned(), 10)]);
    nobody_waits_for_a_thread(&polls);
    let mut each = pool("clock_nanosleep", |_| {});
    let one = workers(&mut each).next().unwrap().clone();
    let threads = each.threads.as_mut().unwrap();
    threads.threads.extend((0..12).map(|at| Thread { tid: PID + 10 + at, ..one.clone() }));
    nobody_waits_for_a_thread(&each);
    let mut reads = pool("clock_nanosleep", |_| {});
    let by_one =
        |cookie| Connection { cookie, side: Side::Server, tid: Some(PID + 1), read_bytes: 28, ..Connection::default() };
    reads.connections.as_mut().unwrap().connections = (1..=4).map(by_one).collect();
    nobody_waits_for_a_thread(&reads);
    for runtime in [Runtime::Tokio, Runtime::Node] {
        let mut seen = pool("clock_nanosleep", |_| {});
        seen.process.runtime = runtime;
        nobody_waits_for_a_thread(&seen);
    }
}

/// Who takes a lock may be without work: the threads of some pools take one to wait for it.
#[test]
fn threads_before_a_lock_are_a_remark() {
    let mut seen = pool("futex", |_| {});
    for thread in workers(&mut seen) {
        thread.stack = Some(stack(&["__lll_lock_wait", "pthread_mutex_lock", "look_up"]));
    }
    // Its holder waited for it, too, until just now.
    let holder = workers(&mut seen).next().unwrap();
    holder.calls = vec![("futex".to_owned(), 15), ("clock_nanosleep".to_owned(), 5)];
    holder.blocked_in.as_mut().unwrap().call = "clock_nanosleep".to_owned();
    holder.stack = Some(stack(&["clock_nanosleep", "look_up"]));
    let judgement = judge(&seen);
    assert!(!causes(&judgement).contains(&"pool-exhausted"), "{judgement:#?}");
    let remark = judgement.advisories.iter().find(|it| it.verdict.cause == Cause::PoolExhausted).unwrap();
    assert!(remark.verdict.summary.contains("in futex, from"), "{remark:#?}");
    // One of them is without work.
    workers(&mut seen).last().unwrap().stack = Some(stack(&["pthread_cond_wait", "work"]));
    nobody_waits_for_a_thread(&seen);
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
