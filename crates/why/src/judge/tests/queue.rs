//! Callers for whom there is no place: turned away at the door, or in a queue inside the process. As nginx and haproxy were
//! recorded.

use super::{unanswered::locked, *};
use crate::observation::{Gaps, HttpHead, Moment, Side};

/// nginx at its worker_connections: it accepts, and closes what it has no place for. A few of twenty places change hands.
pub(super) fn turns_away(change: fn(u64, &mut Connection)) -> Observation {
    let of_client = |cookie: u64| Connection {
        cookie,
        side: Side::Server,
        remote: Some("10.0.0.9:50000".parse().unwrap()),
        ..Connection::default()
    };
    let away = |cookie: u64| {
        let mut it = Connection {
            opened: Some(Moment::At(14_303 + cookie * 1_000)),
            closed: Some(Moment::At(14_388 + cookie * 1_000)),
            fin_received: Some(Moment::At(14_620 + cookie * 1_000)),
            closed_by_us: true,
            reset_sent: true,
            ..of_client(cookie)
        };
        change(cookie, &mut it);
        it
    };
    let served = |cookie: u64| Connection { read_bytes: 80, written_bytes: 900, ..of_client(cookie) };
    let place = |cookie: u64| {
        let left = (cookie <= 13).then_some(Moment::At(120_500 + cookie * 10_000));
        Connection { opened: Some(Moment::Before), closed: left, ..served(500 + cookie) }
    };
    let taken = |cookie: u64| {
        let came = Some(Moment::At(120_600 + cookie * 10_000));
        Connection { opened: came, ..served(400 + cookie) }
    };
    let mut seen = idle().tcp((514..=520).chain(401..=413).map(|cookie| inbound(cookie, "10.0.0.9:50001")));
    seen.connections = Some(Connections {
        accepted: 273,
        closed: 273,
        little_work: 260,
        life_median_us: Some(24),
        connections: (101..=360).map(away).chain((1..=20).map(place)).chain((1..=13).map(taken)).collect(),
        ..Connections::default()
    });
    seen
}

/// Those who were let in meanwhile, and those who were there before.
fn let_in(seen: &mut Observation) -> impl Iterator<Item = &mut Connection> {
    seen.connections.as_mut().unwrap().connections.iter_mut().filter(|it| (401..=413).contains(&it.cookie))
}
fn were_there(seen: &mut Observation) -> impl Iterator<Item = &mut Connection> {
    seen.connections.as_mut().unwrap().connections.iter_mut().filter(|it| it.cookie > 500)
}

#[test]
fn connections_for_which_there_is_no_place() {
    let finding = only(&turns_away(|_, _| {}), Cause::PoolExhausted);
    assert!(finding.verdict.summary.contains("with 20 open"), "{finding:#?}");
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    assert!(finding.verdict.summary.starts_with("95 % of the accepted connections that ended"), "{finding:#?}");
    let few = |cookie: u64, it: &mut Connection| it.read_bytes = if cookie.is_multiple_of(40) { 0 } else { 80 };
    no_places(&turns_away(few));
    // Redis says so before it closes.
    only(&turns_away(|_, it| it.written_bytes = 37), Cause::PoolExhausted);
    no_places(&turns_away(|_, it| it.written_bytes = 3_000));
    // Whom it never serves it may refuse on purpose; that is no unstable edge either.
    let strangers = turns_away(|_, it| it.remote = Some("10.0.0.66:50000".parse().unwrap()));
    let finding = advisory(&strangers, Cause::ConnectionChurn);
    assert!(finding.verdict.summary.contains("refuse whom it does not want"), "{finding:#?}");
    // The peers said nothing for a while: connections made in advance; or they ended them, as checks of health do.
    let changes: [fn(u64, &mut Connection); 2] =
        [|_, it| it.fin_received = it.opened, |_, it| it.closed = Some(Moment::At(4_900_000))];
    for change in changes {
        assert_eq!(causes(&judge(&turns_away(change))), ["connection-churn"]);
    }
    advisory(&turns_away(|_, it| (it.closed_by_us, it.reset_received) = (false, true)), Cause::ConnectionChurn);
}

/// Of very many the table has those first that are worth showing: all of them turned away, of few. With how many open others
/// were let in is not known then.
#[test]
fn the_table_is_no_sample() {
    let of_many = |little_work, reset_by_us| {
        let mut seen = turns_away(|_, _| {});
        let connections = seen.connections.as_mut().unwrap();
        (connections.accepted, connections.closed, connections.untold) = (10_000, 10_000, 9_800);
        (connections.little_work, connections.reset_by_us) = (little_work, reset_by_us);
        seen
    };
    let part = advisory(&of_many(4_000, 2_000), Cause::PoolExhausted).verdict.share;
    assert!((part - 0.2).abs() < 1e-9, "{part}");
    no_places(&of_many(4_000, 210));
    no_places(&of_many(210, 0));
}

/// A proxy closes its clients for want of a backend, and not of places.
#[test]
fn a_proxy_without_a_backend() {
    let fails = |change: fn(&mut Connection)| {
        let mut seen = turns_away(|_, _| {});
        let mut it = Connection {
            cookie: 900,
            side: Side::Client,
            remote: Some("10.0.0.80:80".parse().unwrap()),
            opened: Some(Moment::At(1_000)),
            closed: Some(Moment::At(1_200)),
            ..Connection::default()
        };
        change(&mut it);
        seen.connections.as_mut().unwrap().connections.push(it);
        seen.connections.as_mut().unwrap().opened = 100;
        judge(&seen)
    };
    let changes: [fn(&mut Connection); 3] = [
        |it| it.errno = Some(111),
        |it| (it.established, it.reset_received) = (it.opened, true),
        |it| (it.closed, it.closed_by_us) = (Some(Moment::At(601_000)), true),
    ];
    for change in changes {
        let judgement = fails(change);
        assert!(!causes(&judgement).contains(&"pool-exhausted"), "{judgement:#?}");
        let remark = judgement.advisories.iter().find(|it| it.verdict.cause == Cause::PoolExhausted).unwrap();
        assert!(remark.verdict.summary.contains("no backend is up"), "{remark:#?}");
    }
    // Another address answered sooner.
    assert_eq!(causes(&fails(|it| it.closed_by_us = true)), ["pool-exhausted"]);
}

/// A limit to how often an address may connect: next to nothing is open, or as many when somebody is let in.
#[test]
fn refused_by_a_rule() {
    let mut few = turns_away(|_, _| {});
    few.sockets.as_mut().unwrap().tcp.truncate(2);
    let finding = advisory(&few, Cause::PoolExhausted);
    assert!(finding.verdict.summary.contains("by a rule, or for want of places"), "{finding:#?}");
    // Short calls beside twenty connections that stay.
    let mut steady = turns_away(|_, _| {});
    were_there(&mut steady).for_each(|it| it.closed = None);
    for it in let_in(&mut steady) {
        let Some(Moment::At(came)) = it.opened else { continue };
        it.closed = Some(Moment::At(came + 250));
    }
    let finding = advisory(&steady, Cause::PoolExhausted);
    assert_eq!(finding.verdict.confidence, Confidence::Low);
    assert!(finding.verdict.rejected.iter().any(|other| other.why.contains("by a rule")), "{finding:#?}");
    // The number changes, and says nothing: they are turned away as it comes, with fewer open, too.
    let mut less = turns_away(|_, _| {});
    were_there(&mut less).take(13).for_each(|it| it.closed = Some(Moment::At(115_000)));
    advisory(&less, Cause::PoolExhausted);
}

/// All places are taken, and stay so; or there was more room when nobody was refused.
#[test]
fn nobody_is_let_in() {
    let mut none = turns_away(|_, _| {});
    were_there(&mut none).for_each(|it| it.closed = None);
    let all = none.connections.as_mut().unwrap();
    all.connections.retain(|it| !(401..=413).contains(&it.cookie));
    (all.accepted, all.closed) = (260, 260);
    only(&none, Cause::PoolExhausted);
    let mut fewer = none.clone();
    fewer.fds.as_mut().unwrap().open = readings(&[12, 12, 12, 12, 40, 40, 40, 40, 40, 40, 40]);
    advisory(&fewer, Cause::PoolExhausted);
    // Some were, and are not told of.
    none.connections.as_mut().unwrap().accepted = 553;
    advisory(&none, Cause::PoolExhausted);
}

/// haproxy, `maxconn 2` for a server that answers in 300 ms, and forty callers.
fn queues(change: fn(u64, &mut Connection)) -> Observation {
    let call = |cookie: u64| {
        let begun = (cookie / 2) * 305_000;
        let mut it = Connection {
            cookie,
            side: Side::Client,
            remote: Some("10.0.0.80:80".parse().unwrap()),
            opened: Some(Moment::At(begun)),
            established: Some(Moment::At(begun)),
            last_read: Some(Moment::At(begun + 301_000)),
            closed: Some(Moment::At(begun + 302_000)),
            closed_by_us: true,
            turns: 1,
            written_bytes: 27,
            read_bytes: 41,
            read_gaps: Gaps { total_us: 301_000, longest_us: 301_000, ..Gaps::default() },
            ..Connection::default()
        };
        change(cookie, &mut it);
        it
    };
    let answered = |cookie: u64| {
        let mut it = Connection {
            cookie: 100 + cookie,
            side: Side::Server,
            remote: Some("10.0.0.9:50000".parse().unwrap()),
            opened: Some(Moment::Before),
            first_write: Some(Moment::At((cookie / 2 + 1) * 303_000)),
            written_bytes: 41,
            closed: Some(Moment::At((cookie / 2 + 1) * 303_100)),
            ..Connection::default()
        };
        change(100 + cookie, &mut it);
        it
    };
    let waits = |cookie: u64| {
        let mut socket = inbound(200 + cookie, "10.0.0.9:50000");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(0), Some(27));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (6_000, 6_000 - 60 * u32::try_from(cookie).unwrap());
        socket
    };
    let mut seen = idle().tcp((1..=38).map(waits));
    let connections = (0..32).map(call).chain((0..32).map(answered)).collect();
    seen.connections =
        Some(Connections { opened: 32, accepted: 34, closed: 64, connections, ..Connections::default() });
    seen
}

/// No word of places.
#[track_caller]
fn no_places(seen: &Observation) {
    let judgement = judge(seen);
    let all = judgement.verdicts.iter().chain(&judgement.advisories);
    assert!(all.clone().all(|finding| finding.verdict.cause != Cause::PoolExhausted), "{judgement:#?}");
}

#[test]
fn callers_in_a_queue_for_few_calls_at_a_time() {
    let finding = advisory(&queues(|_, _| {}), Cause::PoolExhausted);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("38 callers of this process wait") && summary.contains("possible"), "{summary}");
    assert!(summary.contains("2 calls at a time"), "{summary}");
    // What ties the calls to the callers is not seen.
    assert!(finding.verdict.confidence == Confidence::Low && finding.verdict.share < 1.0, "{finding:#?}");
    // A connection that lies idle after its call counts no more.
    let idles = |cookie: u64, it: &mut Connection| {
        if cookie == 4 {
            it.closed = None;
        }
    };
    advisory(&queues(idles), Cause::PoolExhausted);
    // Those who were answered had not waited: the others listen for news. Or they asked to wait, or nobody waits at all.
    no_places(&queues(|cookie, it| {
        if cookie >= 100 {
            (it.opened, it.last_read) = (Some(Moment::At(1)), Some(Moment::At(2)));
        }
    }));
    no_places(&queues(|cookie, it| {
        it.http = (cookie >= 100).then(|| HttpHead { asks_to_wait: true, ..HttpHead::default() });
    }));
    let mut served = queues(|_, _| {});
    served.sockets.as_mut().unwrap().tcp.clear();
    no_places(&served);
    // The calls come as they like, in bursts; or the connections are there and not in use.
    no_places(&queues(|cookie, it| {
        if cookie < 16 {
            (it.opened, it.established) = (Some(Moment::At(0)), Some(Moment::At(0)));
        }
    }));
    no_places(&queues(|_, it| it.read_gaps.total_us /= 2));
    // It computes.
    no_places(&queues(|_, _| {}).used(4_900_000));
}

/// Keep-alive: whoever is answered asks again at once, and waits for as long as the watch takes.
#[test]
fn callers_that_ask_again() {
    let seen = |had_waited_ms: u32, answered_ms: u32| {
        let again = |cookie: u64, it: &mut Connection| {
            if cookie >= 100 {
                let wrote = (cookie - 100) / 2 * 303_000 + 303_000;
                it.closed = None;
                (it.first_read, it.last_read) = (Some(Moment::At(wrote + 400)), Some(Moment::At(wrote + 400)));
                (it.read_bytes, it.turns) = (27, 1);
            }
        };
        let answered = |cookie: u64| {
            let mut socket = inbound(100 + cookie, "10.0.0.9:50000");
            let tcp = TcpInfo {
                last_data_recv_ms: had_waited_ms,
                last_data_sent_ms: answered_ms,
                bytes_received: Some(27),
                bytes_acked: Some(41),
                ..socket.last.unwrap()
            };
            socket.first = Some(tcp);
            socket
        };
        queues(again).tcp((0..32).map(answered))
    };
    advisory(&seen(3_000, 3_002), Cause::PoolExhausted);
    // The last had been answered.
    no_places(&seen(3_000, 2_800));
    // It came within the tick of the answer before it, and the next that was seen is its answer; those who wait asked so, too.
    let mut ticks = seen(3_000, 3_000);
    let answered = |cookie| Connection {
        cookie,
        side: Side::Server,
        opened: Some(Moment::Before),
        last_write: Some(Moment::At(900_000)),
        last_read: Some(Moment::At(900_300)),
        ..Connection::default()
    };
    ticks.connections.as_mut().unwrap().connections.extend((201..=238).map(answered));
    for socket in &mut ticks.sockets.as_mut().unwrap().tcp {
        if socket.cookie > 200 {
            let tcp = socket.last.as_mut().unwrap();
            (tcp.bytes_acked, tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (Some(41), 4_100, 4_100);
        }
    }
    advisory(&ticks, Cause::PoolExhausted);
    // What was seen next is a request: that before had been answered.
    let mut asks = ticks.clone();
    asks.connections.as_mut().unwrap().connections.iter_mut().for_each(|it| {
        if (100..200).contains(&it.cookie) {
            it.first_read = Some(Moment::At(100));
        }
    });
    no_places(&asks);
    // They were answered last.
    for it in &mut ticks.connections.as_mut().unwrap().connections {
        if it.cookie > 200 {
            it.last_write = Some(Moment::At(900_400));
        }
    }
    no_places(&ticks);
}

/// Threads that compute a little each, on many processors, are no loop that is late; one that does is, and so are all where
/// no processor is left.
#[test]
fn many_threads_that_compute() {
    let seen = |threads: u32, each_us: u64, processors: f64| {
        let mut seen = queues(|_, _| {});
        let cpu = seen.cpu.as_mut().unwrap();
        (cpu.user_us, cpu.processors) = (u64::from(threads) * each_us, processors);
        let all = seen.threads.as_mut().unwrap();
        let first = all.threads[0].clone();
        all.threads = (0..threads).map(|at| Thread { tid: PID + at, cpu_us: each_us, ..first.clone() }).collect();
        (all.first, all.last) = (threads.into(), threads.into());
        seen
    };
    advisory(&seen(8, 600_000, 16.0), Cause::PoolExhausted);
    no_places(&seen(8, 600_000, 1.0));
    no_places(&seen(2, 4_000_000, 16.0));
}

/// A connection on which the next fetch is always under way.
fn fetches(seen: &mut Observation, turns: u32, waited_us: u64) {
    let all = &mut seen.connections.as_mut().unwrap().connections;
    all.retain(|it| it.side == Side::Server);
    all.push(Connection {
        cookie: 900,
        side: Side::Client,
        remote: Some("10.0.0.90:9092".parse().unwrap()),
        opened: Some(Moment::Before),
        established: Some(Moment::Before),
        turns,
        read_gaps: Gaps { total_us: waited_us, longest_us: 301_000, ..Gaps::default() },
        ..Connection::default()
    });
}

/// A broker whose callers wait for news, and that fetches what there is in the background; the same beside a lock.
#[test]
fn a_fetch_in_the_background_is_no_queue() {
    let mut hub = queues(|_, _| {});
    fetches(&mut hub, 16, 4_900_000);
    no_places(&hub);
    // As many answers as callers were answered may be theirs.
    fetches(&mut hub, 32, 4_900_000);
    advisory(&hub, Cause::PoolExhausted);
    // It hides no wait that nobody can explain.
    let mut stuck = locked(4);
    stuck.connections = hub.connections.clone();
    stuck = stuck.tcp(hub.sockets.unwrap().tcp.into_iter().take(4));
    let finding = only(&stuck, Cause::Unknown);
    assert!(finding.verdict.summary.contains("threads (server) sit in futex"), "{finding:#?}");
}

/// More is waited for at a peer that has room than at one that has none.
#[test]
fn a_larger_pool_that_is_not_full() {
    let mut seen = queues(|_, _| {});
    let all = &mut seen.connections.as_mut().unwrap().connections;
    all.extend((0..8).map(|at| Connection {
        cookie: 800 + at,
        side: Side::Client,
        remote: Some("10.0.0.70:5432".parse().unwrap()),
        opened: Some(Moment::Before),
        established: Some(Moment::Before),
        turns: 10,
        read_gaps: Gaps { total_us: 2_500_000, longest_us: 400_000, ..Gaps::default() },
        ..Connection::default()
    }));
    let finding = advisory(&seen, Cause::PoolExhausted);
    assert!(finding.verdict.summary.contains("10.0.0.80:80"), "{finding:#?}");
}
