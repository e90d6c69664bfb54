//! Names that are not resolved, or late.

use super::*;
use crate::observation::{BlockedIn, DnsExchange, Lookup, Lookups, Moment, Side, WaitsFor};

fn query(change: impl FnOnce(&mut DnsExchange)) -> Observation {
    let mut query = DnsExchange {
        name: "api.test".to_owned(),
        kind: 1,
        server: "127.0.0.53".to_owned(),
        tid: PID,
        sent_us: 100,
        sent: 2,
        ..DnsExchange::default()
    };
    change(&mut query);
    let mut seen = idle();
    seen.connections.as_mut().unwrap().dns.push(query);
    seen
}

/// A thread that waits in `poll` for a name server.
fn polls_a_name_server(seen: Observation, blocked_us: u64) -> Observation {
    seen.thread(|thread| {
        let what = Some("udp 127.0.0.53:53".to_owned());
        let waits_for = vec![WaitsFor { fd: 3, events: 1, what, cookie: None }];
        thread.blocked_in = Some(BlockedIn { call: "poll".to_owned(), waits_for, ..BlockedIn::default() });
        thread.blocked_us = blocked_us;
    })
}

#[test]
fn a_thread_that_waits_for_a_name_server() {
    let blind = Observation { connections: None, ..idle() };
    only(&polls_a_name_server(blind.clone(), 3_000_000), Cause::DnsNoAnswer);
    let young = polls_a_name_server(blind, 300_000);
    nothing(&young);
    assert!(!is_settled(&young));
    // Others were answered meanwhile.
    let others =
        query(|query| (query.tid, query.answered_us, query.rcode, query.answers) = (7, Some(900), Some(0), Some(1)));
    only(&polls_a_name_server(others, 3_000_000), Cause::DnsNoAnswer);
    // So was it, and it waits for the next.
    let itself = query(|query| (query.answered_us, query.rcode, query.answers) = (Some(900), Some(0), Some(1)));
    nothing(&polls_a_name_server(itself, 3_000_000));
}

/// A forwarder keeps its socket to the server open while nobody asks it.
#[test]
fn who_waits_for_questions_has_asked_none() {
    let waits = |call: &str, timeout_us, others: &[&str]| {
        let blind = Observation { connections: None, ..idle() };
        polls_a_name_server(blind, 3_000_000).thread(|thread| {
            let blocked = thread.blocked_in.as_mut().unwrap();
            (blocked.call, blocked.timeout_us) = (call.to_owned(), timeout_us);
            let other = |what: &&str| WaitsFor { fd: 4, events: 1, what: Some((*what).to_owned()), cookie: None };
            blocked.waits_for.extend(others.iter().map(other));
        })
    };
    nothing(&waits("poll", Some(None), &["socket"]));
    nothing(&waits("poll", Some(Some(60_000_000)), &["socket"]));
    nothing(&waits("poll", Some(None), &[]));
    nothing(&waits("epoll_wait", Some(None), &["socket"]));
    // The runtime of Go.
    only(&waits("epoll_wait", Some(Some(4_999_000)), &["eventfd"]), Cause::DnsNoAnswer);
    only(&waits("poll", Some(Some(5_000_000)), &[]), Cause::DnsNoAnswer);
    only(&waits("poll", Some(Some(5_000_000)), &["eventfd", "udp 10.0.0.2:53"]), Cause::DnsNoAnswer);
}

#[test]
fn names() {
    only(&query(|_| {}), Cause::DnsNoAnswer);
    // It is refused each time, at once. That it was the query for the other kind of address that met the error is the same.
    let refused = query(|query| (query.sent, query.refused) = (34, true));
    let finding = only(&refused, Cause::DnsFailed);
    assert!(finding.verdict.evidence.iter().any(|it| it.text.contains("nobody listens")), "{finding:#?}");
    let mut both = refused;
    let dns = &mut both.connections.as_mut().unwrap().dns;
    dns.insert(0, DnsExchange { kind: 28, refused: false, ..dns[0].clone() });
    only(&both, Cause::DnsFailed);
    // A query that is under way, and one that its process did not live to see answered.
    let young = query(|query| query.sent_us = WINDOW - 600_000);
    nothing(&young);
    assert!(!is_settled(&young), "another second will tell");
    let mut ended = query(|query| query.sent_us = WINDOW - 600_000);
    ended.process.ended_at_us = Some(WINDOW);
    only(&ended, Cause::DnsNoAnswer);
    only(
        &query(|query| (query.answered_us, query.rcode, query.answers) = (Some(900), Some(3), Some(0))),
        Cause::DnsFailed,
    );
    only(
        &query(|query| (query.answered_us, query.rcode, query.answers) = (Some(3_000_000), Some(0), Some(1))),
        Cause::DnsSlow,
    );
    nothing(&query(|query| (query.answered_us, query.rcode, query.answers) = (Some(900), Some(0), Some(1))));
}

/// The first server is dead, the second answers each time.
#[test]
fn the_server_that_does_not_answer_is_named() {
    let late = |change: fn(&mut DnsExchange)| {
        query(|query| {
            query.in_vain = vec!["127.0.0.75".to_owned()];
            (query.answered_us, query.rcode, query.answers) = (Some(1_003_666), Some(0), Some(1));
            change(query);
        })
    };
    let names = |finding: &Finding| finding.verdict.fix.contains("Take 127.0.0.75 out");
    let finding = only(&late(|_| {}), Cause::DnsSlow);
    assert!(names(&finding), "{finding:#?}");
    assert!(finding.verdict.evidence[0].text.starts_with("127.0.0.75 answered none of 1"), "{finding:#?}");
    let finding = only(&late(|query| query.answered_us = None), Cause::DnsNoAnswer);
    assert!(names(&finding), "{finding:#?}");
    // One that answers other queries is not dead.
    let mut lost = late(|_| {});
    let dns = &mut lost.connections.as_mut().unwrap().dns;
    let other =
        DnsExchange { server: "127.0.0.75".to_owned(), in_vain: Vec::new(), answered_us: Some(900), ..dns[0].clone() };
    dns.push(other);
    assert!(!names(&only(&lost, Cause::DnsSlow)));
    assert!(!names(&only(&late(|query| query.in_vain.clear()), Cause::DnsSlow)));
}

/// Twenty tasks of asyncio, two threads for names, a server that reads no query. Each thread gives a
/// name up after a while and asks for the next.
#[test]
fn callers_queue_behind_lookups_because_the_server_is_dead() {
    let query = |place: u64, thread: u32, kind| DnsExchange {
        name: format!("db{}.internal", 2 * place + u64::from(thread)),
        kind,
        server: "127.0.0.53".to_owned(),
        tid: 100 + thread,
        sent_us: 300_000 + place * 1_701_700,
        sent: 1,
        ..DnsExchange::default()
    };
    let seen = |threads: u32, answered_us| {
        let blocked_in = Some(BlockedIn { call: "epoll_wait".to_owned(), ..BlockedIn::default() });
        let mut seen = idle().thread(|thread| thread.blocked_in = blocked_in);
        seen.threads.as_mut().unwrap().last = 1 + u64::from(threads);
        let dns = (0..3)
            .flat_map(|place| (0..threads).flat_map(move |thread| [query(place, thread, 1), query(place, thread, 28)]));
        let answered = |query| DnsExchange { answered_us, rcode: Some(0), answers: Some(1), ..query };
        let dns =
            dns.map(|query| if query.sent_us > 3_000_000 || answered_us.is_none() { query } else { answered(query) });
        seen.connections.as_mut().unwrap().dns = dns.collect();
        seen
    };
    let finding = only(&seen(2, None), Cause::DnsNoAnswer);
    assert!(finding.effects.iter().any(|effect| effect.verdict.cause == Cause::DnsSerialised), "{finding:#?}");
    // Nobody can tell that others queue behind the only one, and that the server is dead says all.
    let finding = only(&seen(1, None), Cause::DnsNoAnswer);
    assert!(finding.effects.is_empty(), "{finding:#?}");
    // The watch saw reads and writes for a second only, or now and then: answers may have come.
    for transfers_us in [2_500_000, 400_000] {
        let mut unseen = seen(2, Some(1_000));
        unseen.connections.as_mut().unwrap().transfers_us = Some(transfers_us);
        nothing(&unseen);
    }
    // A server that is slow, and forgets the last: each is a cause of its own.
    assert_eq!(causes(&judge(&seen(2, Some(1_990_000)))).len(), 2);
}

/// A resolver for others: one name, or one of the servers that it asks, is dead.
#[test]
fn a_dead_name_among_many_that_are_answered() {
    let asked = |each_us: u64, answered: u64| {
        let mut seen = query(|query| query.name = "dead.test".to_owned());
        let dns = &mut seen.connections.as_mut().unwrap().dns;
        let good = DnsExchange { answered_us: Some(90), rcode: Some(0), answers: Some(1), sent: 1, ..dns[0].clone() };
        let name = |number: u64| (format!("a{number}.test"), 400_000 + number * each_us);
        dns.extend((0..answered).map(name).map(|(name, sent_us)| DnsExchange { name, sent_us, ..good.clone() }));
        seen
    };
    advisory(&asked(20_000, 50), Cause::DnsNoAnswer);
    // Every seventh is no exception.
    only(&asked(20_000, 6), Cause::DnsNoAnswer);
    // They were asked when the dead one was given up, or by another thread.
    let mut held_up = asked(20_000, 50);
    held_up.connections.as_mut().unwrap().dns[1..].iter_mut().for_each(|query| query.sent_us += 2_000_000);
    only(&held_up, Cause::DnsNoAnswer);
    let mut others = asked(20_000, 50);
    others.connections.as_mut().unwrap().dns[1..].iter_mut().for_each(|query| query.tid = 7);
    only(&others, Cause::DnsNoAnswer);
}

/// A metrics client that knows the IPv4 address, and asks for the other again and again; a mail server's look for a relay.
#[test]
fn a_name_that_has_nothing_of_one_kind() {
    let asked = |kinds: &[u16]| {
        let mut seen = idle();
        let query = |kind: &u16| DnsExchange {
            name: "statsd.test".to_owned(),
            kind: *kind,
            server: "127.0.0.53".to_owned(),
            sent_us: 100,
            sent: 1,
            answered_us: Some(900),
            rcode: Some(0),
            answers: Some(0),
            ..DnsExchange::default()
        };
        seen.connections.as_mut().unwrap().dns.extend(kinds.iter().map(query));
        seen
    };
    let said = |kind| advisory(&asked(&[kind, kind]), Cause::DnsFailed).verdict.summary;
    assert!(said(28).contains("has no IPv6 address"), "{}", said(28));
    assert!(said(1).contains("has no IPv4 address"), "{}", said(1));
    assert!(said(15).contains("has no record of type MX") && !said(15).contains("address"), "{}", said(15));
    // Both kinds of address, and there is none.
    let none = only(&asked(&[28, 1]), Cause::DnsFailed).verdict.summary;
    assert!(none.contains("the name exists and has no address"), "{none}");
    // There is no such name.
    let mut missing = asked(&[28]);
    missing.connections.as_mut().unwrap().dns[0].rcode = Some(3);
    only(&missing, Cause::DnsFailed);
}

#[test]
fn a_name_whose_answer_does_not_fit() {
    let truncated = |change: fn(&mut Connection)| {
        let mut seen = query(|query| {
            (query.answered_us, query.rcode, query.answers, query.truncated) = (Some(900), Some(0), Some(0), true);
        });
        let mut connection = Connection {
            cookie: 9,
            remote: Some("127.0.0.53:53".parse().unwrap()),
            side: Side::Client,
            opened: Some(Moment::At(1_000)),
            ..Connection::default()
        };
        change(&mut connection);
        let connections = seen.connections.as_mut().unwrap();
        connections.opened = 1;
        connections.connections.push(connection);
        seen
    };
    let refused = |connection: &mut Connection| {
        (connection.closed, connection.errno) = (Some(Moment::At(1_100)), Some(111));
    };
    only(&truncated(refused), Cause::DnsFailed);
    only(&truncated(|connection| connection.established = Some(Moment::At(1_100))), Cause::DnsSlow);
    let answered = |connection: &mut Connection| {
        connection.established = Some(Moment::At(1_100));
        connection.read_bytes = 900;
    };
    nothing(&truncated(answered));
}

#[test]
fn lookups_that_were_probed() {
    let lookup = |took_us: u64, result: Option<i32>| {
        let name = "api.test".to_owned();
        let lookups = vec![Lookup { name, tid: 7, at_us: 1_000, took_us, result }];
        Observation { lookups: Some(Lookups { lookups, ..Lookups::default() }), ..idle() }
    };
    only(&lookup(3_000_000, None), Cause::DnsNoAnswer);
    only(&lookup(3_000_000, Some(0)), Cause::DnsSlow);
    only(&lookup(5_000_000, Some(-3)), Cause::DnsNoAnswer);
    let missing = only(&lookup(2_000, Some(-2)), Cause::DnsFailed);
    assert!(missing.verdict.evidence[0].text.contains("EAI_NONAME"), "{:?}", missing.verdict.evidence);
    nothing(&lookup(900_000, Some(0)));
    // The queries themselves tell more.
    let mut seen = lookup(3_000_000, None);
    let query =
        DnsExchange { name: "api.test".to_owned(), sent: 3, answered_us: Some(5_000), ..DnsExchange::default() };
    seen.connections.as_mut().unwrap().dns.push(query);
    nothing(&seen);
    // Asked again in another way, it was found.
    let mut seen = lookup(2_000, Some(-2));
    let lookups = &mut seen.lookups.as_mut().unwrap().lookups;
    lookups.push(Lookup { name: "api.test.".to_owned(), result: Some(0), ..lookups[0].clone() });
    nothing(&seen);
    let lookups = &mut seen.lookups.as_mut().unwrap().lookups;
    lookups[1].name = "other.test".to_owned();
    only(&seen, Cause::DnsFailed);
    // A search through domains, which then found what it looked for.
    let mut seen = lookup(2_000, Some(-2));
    seen.connections.as_mut().unwrap().opened = 1;
    nothing(&seen);
}
