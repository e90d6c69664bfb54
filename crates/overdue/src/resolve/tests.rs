//! Against small DNS servers on loopback that answer as each test wants, or do not.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::{Message, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            rdata::{A, CNAME},
        },
    },
};
use overdue_core::facts::{DnsFacts, DnsFailure};
use server::{Over, Server, V4, V6, answer, bytes, code, family, good, truncated, with_soa};
use tokio::{net::UdpSocket, time::timeout};

use super::{LookupLog, ResolveError, Resolver, Source, by_turns, hickory::Dns, host_name, in_hosts, threads::Threads};

mod each;
mod server;

async fn look_up(resolver: &Resolver) -> (Result<Vec<IpAddr>, ResolveError>, DnsFacts) {
    let log = LookupLog::new();
    let result = resolver.lookup("api.test", 443, &log).await;
    (result, log.facts())
}

/// A lookup that is dropped after a while.
async fn look_up_in_vain(resolver: &Resolver) -> DnsFacts {
    let log = LookupLog::new();
    let result = timeout(Duration::from_millis(200), resolver.lookup("api.test", 443, &log)).await;
    assert!(result.is_err(), "{result:?}");
    log.facts()
}

fn both() -> Vec<IpAddr> {
    vec![V6.into(), V4.into()]
}

#[tokio::test]
async fn both_families_are_asked_and_the_answer_is_kept() {
    let server = Server::start(|query, _| good(query)).await;
    let resolver = server.resolver();
    let (result, facts) = look_up(&resolver).await;
    assert_eq!(result.unwrap(), both());
    let expected = DnsFacts {
        name: "api.test".to_owned(),
        servers: vec![server.address.to_string()],
        queries: Some(2),
        answers: Some(2),
        truncated: false,
    };
    assert_eq!(facts, expected);

    let (result, facts) = look_up(&resolver).await;
    assert_eq!(result.unwrap(), both());
    assert_eq!((facts.queries, facts.servers), (Some(0), vec![]));

    let resolved = resolver.resolve("api.test", 443, &LookupLog::new()).await.unwrap();
    assert_eq!(resolved.addresses, both());
    // What is left of the minute that the records have.
    let ttl = resolved.ttl.unwrap();
    assert!(ttl <= Duration::from_secs(60) && ttl > Duration::from_secs(30), "{ttl:?}");
    let own = resolver.with_override("api.test", None, vec![V4.into()]);
    assert_eq!(own.resolve("api.test", 443, &LookupLog::new()).await.unwrap().ttl, None);
}

#[tokio::test]
async fn a_silent_server_is_seen_by_who_drops_the_lookup() {
    let server = Server::start(|_, _| vec![]).await;
    let facts = look_up_in_vain(&server.resolver()).await;
    assert_eq!((facts.queries, facts.answers, facts.truncated), (Some(2), Some(0), false));
    assert_eq!(facts.servers, [server.address.to_string()]);
}

#[tokio::test]
async fn a_dropped_lookup_asks_no_more() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let server = Server::start(move |_, _| {
        count.fetch_add(1, SeqCst);
        vec![]
    })
    .await;
    look_up_in_vain(&server.resolver()).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(seen.load(SeqCst), 2);
}

#[tokio::test]
async fn silence_brings_in_the_next_server_which_is_then_preferred() {
    let silent = Server::start(|_, _| vec![]).await;
    let server =
        Server::start(|query, _| if query.queries[0].name().num_labels() == 2 { good(query) } else { vec![] }).await;
    let resolver = Resolver::servers(vec![silent.address, server.address]);
    let (result, facts) = look_up(&resolver).await;
    assert_eq!(result.unwrap(), both());
    assert_eq!((facts.queries, facts.answers), (Some(4), Some(2)));
    assert_eq!(facts.servers, [silent.address.to_string(), server.address.to_string()]);

    let log = LookupLog::new();
    let lookup = resolver.lookup("another.api.test", 443, &log);
    assert!(timeout(Duration::from_millis(200), lookup).await.is_err());
    assert_eq!(log.facts().servers, [server.address.to_string()]);
}

#[tokio::test]
async fn a_late_answer_is_heard_after_the_query_was_repeated() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = Resolver::servers(vec![socket.local_addr().unwrap()]);
    let server = async {
        let mut queries = Vec::new();
        let mut buf = [0; 1500];
        for _ in 0..4 {
            let (len, from) = socket.recv_from(&mut buf).await.unwrap();
            queries.push((Message::from_vec(&buf[..len]).unwrap(), from));
        }
        for (query, from) in queries.iter().take(2) {
            socket.send_to(&good(query)[0], from).await.unwrap();
        }
    };
    let ((result, facts), ()) = tokio::join!(look_up(&resolver), server);
    assert_eq!(result.unwrap(), both());
    assert_eq!((facts.queries, facts.answers), (Some(4), Some(2)));
}

#[tokio::test]
async fn nxdomain_is_an_answer_and_kept_only_with_an_soa() {
    let server = Server::start(|query, _| code(query, ResponseCode::NXDomain)).await;
    let resolver = server.resolver();
    for _ in 0..2 {
        let (result, facts) = look_up(&resolver).await;
        let err = result.unwrap_err();
        assert_eq!((err.reason, err.text.as_str()), (DnsFailure::NoSuchName, "api.test: NXDOMAIN"));
        assert_eq!((facts.queries, facts.answers), (Some(2), Some(2)));
    }

    let server = Server::start(|query, _| with_soa(query, ResponseCode::NXDomain)).await;
    let resolver = server.resolver();
    assert_eq!(look_up(&resolver).await.0.unwrap_err().reason, DnsFailure::NoSuchName);
    let (result, facts) = look_up(&resolver).await;
    assert_eq!((result.unwrap_err().reason, facts.queries), (DnsFailure::NoSuchName, Some(0)));
}

#[tokio::test]
async fn a_name_without_addresses_is_told_from_one_that_does_not_exist() {
    let server = Server::start(|query, _| with_soa(query, ResponseCode::NoError)).await;
    let err = look_up(&server.resolver()).await.0.unwrap_err();
    assert_eq!(err.reason, DnsFailure::NoAddress);
    assert_eq!(err.text, "api.test: no AAAA record; api.test: no A record");
}

#[tokio::test]
async fn error_codes_are_named_with_the_server_and_not_kept() {
    for (fails_with, name) in [(ResponseCode::ServFail, "SERVFAIL"), (ResponseCode::Refused, "REFUSED")] {
        let count = AtomicUsize::new(0);
        let server =
            Server::start(
                move |query, _| {
                    if count.fetch_add(1, SeqCst) < 2 { with_soa(query, fails_with) } else { good(query) }
                },
            )
            .await;
        let resolver = server.resolver();
        let (result, facts) = look_up(&resolver).await;
        let err = result.unwrap_err();
        assert_eq!(err.reason, DnsFailure::ServerError);
        assert_eq!(err.text, format!("api.test: {name} ({})", server.address));
        assert_eq!((facts.queries, facts.answers), (Some(2), Some(2)));
        assert_eq!(look_up(&resolver).await.0.unwrap(), both());
    }
}

#[tokio::test]
async fn a_server_that_fails_is_replaced_at_once() {
    let failing = Server::start(|query, _| code(query, ResponseCode::ServFail)).await;
    let server = Server::start(|query, _| good(query)).await;
    let (result, facts) = look_up(&Resolver::servers(vec![failing.address, server.address])).await;
    assert_eq!(result.unwrap(), both());
    // No more than that: nothing was repeated, so nothing was waited for.
    assert_eq!((facts.queries, facts.answers), (Some(4), Some(4)));
}

#[tokio::test]
async fn a_failing_server_beside_a_silent_one_is_what_the_error_tells() {
    let silent = Server::start(|_, _| vec![]).await;
    let failing = Server::start(|query, _| code(query, ResponseCode::ServFail)).await;
    let err = look_up(&Resolver::servers(vec![failing.address, silent.address])).await.0.unwrap_err();
    assert_eq!(err.reason, DnsFailure::ServerError);
    assert_eq!(err.text, format!("api.test: SERVFAIL ({}); no answer from {}", failing.address, silent.address));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_seen_at_once() {
    let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (result, facts) = look_up(&Resolver::servers(vec![address])).await;
    let err = result.unwrap_err();
    assert_eq!(err.reason, DnsFailure::NoAnswer);
    assert!(err.text.contains("refused") && err.text.contains(&address.to_string()), "{err}");
    assert_eq!((facts.queries, facts.answers), (Some(2), Some(0)));
}

#[tokio::test]
async fn one_family_does_not_wait_long_for_the_other() {
    let server = Server::start(|query, _| if family(query) == RecordType::A { good(query) } else { vec![] }).await;
    let (result, facts) = look_up(&server.resolver()).await;
    assert_eq!(result.unwrap(), [IpAddr::from(V4)]);
    // It ended before the silent family was asked again.
    assert_eq!((facts.queries, facts.answers), (Some(2), Some(1)));
}

#[tokio::test]
async fn a_family_that_failed_is_not_waited_for_and_spoils_nothing() {
    for fails_with in [ResponseCode::ServFail, ResponseCode::NXDomain, ResponseCode::NoError] {
        let server = Server::start(
            move |query, _| {
                if family(query) == RecordType::A { good(query) } else { code(query, fails_with) }
            },
        )
        .await;
        assert_eq!(look_up(&server.resolver()).await.0.unwrap(), [IpAddr::from(V4)]);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let server = Server::start(|query, over| if over == Over::Udp { truncated(query) } else { good(query) }).await;
    let (result, facts) = look_up(&server.resolver()).await;
    assert_eq!(result.unwrap(), both());
    assert_eq!((facts.queries, facts.answers, facts.truncated), (Some(4), Some(4), true));
    assert_eq!(facts.servers.len(), 1);
}

#[tokio::test]
async fn a_truncated_answer_without_tcp_is_of_no_use() {
    let server = Server::start_with(false, |query, _| truncated(query)).await;
    let (result, facts) = look_up(&server.resolver()).await;
    let err = result.unwrap_err();
    assert_eq!(err.reason, DnsFailure::Unusable);
    assert!(err.text.contains("truncated") && err.text.contains("refused"), "{err}");
    assert_eq!((facts.queries, facts.answers, facts.truncated), (Some(2), Some(2), true));
}

#[tokio::test]
async fn truncation_is_seen_by_who_drops_a_lookup_that_hangs_in_tcp() {
    let server = Server::start(|query, over| if over == Over::Udp { truncated(query) } else { vec![] }).await;
    let facts = look_up_in_vain(&server.resolver()).await;
    assert_eq!((facts.queries, facts.answers, facts.truncated), (Some(4), Some(2), true));
}

#[tokio::test]
async fn nonsense_under_the_right_id_is_of_no_use() {
    let server = Server::start(|query, _| {
        let [high, low] = query.metadata.id.to_be_bytes();
        vec![vec![high, low, 0x80, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0x3f, 1]]
    })
    .await;
    let (result, facts) = look_up(&server.resolver()).await;
    assert_eq!(result.unwrap_err().reason, DnsFailure::Unusable);
    assert_eq!((facts.queries, facts.answers), (Some(2), Some(2)));
}

#[tokio::test]
async fn what_is_no_answer_to_the_query_ends_nothing() {
    let server = Server::start(|query, _| {
        let mut forged = answer(query, ResponseCode::NXDomain, vec![]);
        forged.metadata.id ^= 1;
        let mut other = answer(query, ResponseCode::NXDomain, vec![]);
        other.queries[0].set_name(Name::from_ascii("other.test.").unwrap());
        [vec![b"hello".to_vec(), vec![]], bytes(&forged), bytes(&other), bytes(query), good(query)].concat()
    })
    .await;
    let (result, facts) = look_up(&server.resolver()).await;
    assert_eq!(result.unwrap(), both());
    assert_eq!(facts.answers, Some(12));
}

#[tokio::test]
async fn a_server_that_gives_nothing_but_nonsense_is_given_up() {
    let server = Server::start(|_, _| vec![b"hello".to_vec()]).await;
    let err = look_up(&server.resolver()).await.0.unwrap_err();
    assert_eq!(err.reason, DnsFailure::Unusable);
}

#[tokio::test]
async fn aliases_are_followed_within_the_answer() {
    let alias = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|name| Name::from_ascii(name).unwrap());
        Record::from_rdata(from, 60, RData::CNAME(CNAME(to)))
    };
    let server = Server::start(move |query, _| {
        let mut records = vec![alias("b.test.", "c.test."), alias("api.test.", "B.test.")];
        if family(query) == RecordType::A {
            records.push(Record::from_rdata(Name::from_ascii("c.test.").unwrap(), 60, RData::A(A(V4))));
            let elsewhere = RData::A(A(Ipv4Addr::LOCALHOST));
            records.push(Record::from_rdata(Name::from_ascii("d.test.").unwrap(), 60, elsewhere));
        }
        bytes(&answer(query, ResponseCode::NoError, records))
    })
    .await;
    let (result, facts) = look_up(&server.resolver()).await;
    assert_eq!(result.unwrap(), [IpAddr::from(V4)]);
    assert_eq!(facts.queries, Some(2));

    let circle = Server::start(move |query, _| {
        let records = vec![alias("api.test.", "b.test."), alias("b.test.", "api.test.")];
        bytes(&answer(query, ResponseCode::NoError, records))
    })
    .await;
    assert_eq!(look_up(&circle.resolver()).await.0.unwrap_err().reason, DnsFailure::NoAddress);
}

#[tokio::test]
async fn a_server_that_knows_no_edns_is_asked_without() {
    let server =
        Server::start(|query, _| if query.edns.is_some() { code(query, ResponseCode::FormErr) } else { good(query) })
            .await;
    let mut dns = Dns::new(vec![server.address]);
    dns.edns = true;
    let (result, facts) = look_up(&Resolver::new(Source::Dns(dns), Hosts::default())).await;
    assert_eq!(result.unwrap(), both());
    assert_eq!((facts.queries, facts.answers), (Some(4), Some(4)));
}

#[tokio::test]
async fn the_search_list_is_gone_through() {
    let server = Server::start(|query, _| {
        let wanted = Name::from_ascii("api.test.second.example.").unwrap();
        if *query.queries[0].name() == wanted { good(query) } else { code(query, ResponseCode::NXDomain) }
    })
    .await;
    let name = |name| Name::from_ascii(name).unwrap();
    let mut dns = Dns::new(vec![server.address]);
    dns.search = vec![name("first.example."), name("second.example.")];
    dns.ndots = 2;
    let candidates = |host| dns.candidates(&name(host)).iter().map(Name::to_ascii).collect::<Vec<_>>();
    assert_eq!(candidates("api.test"), ["api.test.first.example.", "api.test.second.example.", "api.test."]);
    assert_eq!(candidates("a.b.c"), ["a.b.c.", "a.b.c.first.example.", "a.b.c.second.example."]);
    assert_eq!(candidates("api."), ["api."]);

    let (result, facts) = look_up(&Resolver::new(Source::Dns(dns), Hosts::default())).await;
    assert_eq!(result.unwrap(), both());
    assert_eq!(facts.queries, Some(4));
}

/// For names that must not be asked for: whoever asks hears nothing.
async fn unasked(host: &str, resolver: &Resolver) -> Result<Vec<IpAddr>, ResolveError> {
    let log = LookupLog::new();
    let result = resolver.lookup(host, 443, &log).await;
    assert_eq!((log.facts().queries, log.facts().servers), (Some(0), vec![]), "{host}");
    result
}

#[tokio::test]
async fn addresses_and_localhost_are_known() {
    let loopback = vec![IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()];
    for resolver in [Resolver::servers(vec!["192.0.2.1:53".parse().unwrap()]), Resolver::servers(vec![])] {
        for (host, addresses) in [
            ("192.0.2.7", vec![V4.into()]),
            ("2001:db8::7", vec![V6.into()]),
            ("[2001:db8::7]", vec![V6.into()]),
            ("localhost", loopback.clone()),
            ("LocalHost.", loopback.clone()),
            ("a.b.localhost", loopback.clone()),
        ] {
            assert_eq!(unasked(host, &resolver).await.unwrap(), addresses, "{host}");
        }
    }
    let threads = Resolver::new(Source::Threads(Threads::calling(1, |_| panic!("asked"))), Hosts::default());
    assert_eq!(unasked("localhost", &threads).await.unwrap(), loopback);
}

#[tokio::test]
async fn overrides_win_by_host_and_port() {
    let other = IpAddr::from([192, 0, 2, 8]);
    let resolver = Resolver::servers(vec![])
        .with_override("Api.Test.", None, vec![V4.into()])
        .with_override("api.test", Some(443), vec![V6.into(), other])
        .with_override("empty.test", None, vec![]);
    let log = LookupLog::new();
    assert_eq!(resolver.lookup("api.test", 443, &log).await.unwrap(), [V6.into(), other]);
    assert_eq!(resolver.lookup("API.test", 80, &log).await.unwrap(), [IpAddr::from(V4)]);
    assert_eq!(resolver.lookup("empty.test", 80, &log).await.unwrap_err().reason, DnsFailure::NoAddress);
    let err = resolver.lookup("else.test", 80, &log).await.unwrap_err();
    assert_eq!((err.reason, err.text.as_str()), (DnsFailure::NoAnswer, "else.test: there is no server to ask"));
}

#[tokio::test]
async fn names_that_nobody_should_be_asked_for_are_refused() {
    let resolver = Resolver::servers(vec!["192.0.2.1:53".parse().unwrap()]);
    let long_label = "a".repeat(64);
    let long_name = vec!["abcdefg"; 40].join(".");
    for host in [
        "",
        ".",
        "a b",
        "a/b",
        "a..b",
        ".a",
        "1.2.3.4.5",
        "256.1.1.1",
        "a.1",
        "fe80::1%eth0",
        "a\0b",
        &long_label,
        &long_name,
    ] {
        assert_eq!(unasked(host, &resolver).await.unwrap_err().reason, DnsFailure::InvalidName, "{host:?}");
    }
    assert_eq!(unasked("abc.onion", &resolver).await.unwrap_err().reason, DnsFailure::NoSuchName);
    for host in ["a", "a-b_c.test", "xn--bcher-kva.test", "1a.test", "b\u{fc}cher.test"] {
        assert!(host_name(host).is_ok(), "{host}");
    }
    assert_eq!(host_name("b\u{fc}cher.test").unwrap(), host_name("xn--bcher-kva.test").unwrap());
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_for_localhost_too() {
    let mut hosts = Hosts::default();
    hosts
        .read_hosts_conf(&b"192.0.2.7 api.test # x\n2001:db8::7 api.test\n192.0.2.7 v4.test\n127.0.0.9 localhost\n"[..])
        .unwrap();
    assert_eq!(in_hosts(&hosts, &host_name("API.test").unwrap()), both());
    let resolver = Resolver::new(Source::Dns(Dns::new(vec![])), hosts);
    assert_eq!(unasked("v4.test", &resolver).await.unwrap(), [IpAddr::from(V4)]);
    assert_eq!(unasked("localhost", &resolver).await.unwrap(), [IpAddr::from([127, 0, 0, 9])]);
}

#[test]
fn addresses_take_turns() {
    let v4 = |last| IpAddr::from([192, 0, 2, last]);
    let v6 = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    let mixed = vec![v4(1), v4(2), v6(1), v4(1), v4(3), v6(2)];
    assert_eq!(by_turns(mixed), [v6(1), v4(1), v6(2), v4(2), v4(3)]);
    let many: Vec<_> = (0..u16::MAX).map(|at| IpAddr::from([0, 0, 0, 0, 0, 0, 0, at])).collect();
    assert_eq!(by_turns(many).len(), super::MAX_ADDRESSES);
}

#[tokio::test]
async fn a_stuck_resolver_holds_no_more_than_its_threads() {
    let (release, stuck) = mpsc::channel::<()>();
    let stuck = Mutex::new(stuck);
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let threads = Threads::calling(2, move |host| {
        seen.fetch_add(1, SeqCst);
        if host == "stuck.test" {
            let _ = stuck.lock().unwrap().recv();
        }
        Ok(vec![V4.into()])
    });
    let resolver = Resolver::new(Source::Threads(threads), Hosts::default());
    let log = LookupLog::new();
    let soon = |host: &'static str| timeout(Duration::from_millis(100), resolver.lookup(host, 443, &log));
    for _ in 0..2 {
        assert!(soon("stuck.test").await.is_err());
    }
    // Both threads are stuck although their lookups are gone; the next lookups wait, and leave without a trace.
    for _ in 0..3 {
        assert!(soon("api.test").await.is_err());
    }
    assert_eq!(calls.load(SeqCst), 2);
    assert_eq!((log.facts().queries, log.facts().answers), (None, None));

    release.send(()).unwrap();
    assert_eq!(resolver.lookup("api.test", 443, &log).await.unwrap(), [IpAddr::from(V4)]);
    drop(release);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the system's resolver, which takes a while, has nothing to wait for")]
async fn lookups_on_threads_that_are_dropped_after_any_poll_leave_nobody_in_the_queue() {
    let threads = Threads::calling(1, |_| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(vec![V4.into()])
    });
    let resolver = Resolver::new(Source::Threads(threads), Hosts::default());
    // Its text says how many threads are free.
    let held = || (format!("{resolver:?}"), tokio::runtime::Handle::current().metrics().num_alive_tasks());
    assert!(held().0.contains("free: 1"), "{}", held().0);
    crate::cut::after_each_poll(held, async || {
        let (one, two) = tokio::join!(look_up(&resolver), look_up(&resolver));
        assert_eq!([one.0.unwrap(), two.0.unwrap()], [[IpAddr::from(V4)]; 2]);
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_the_systems_resolver_is_an_error_and_frees_its_thread() {
    let threads = Threads::calling(1, |_| panic!("a bug"));
    let resolver = Resolver::new(Source::Threads(threads), Hosts::default());
    for _ in 0..2 {
        assert_eq!(look_up(&resolver).await.0.unwrap_err().reason, DnsFailure::Unusable);
    }
}

#[tokio::test]
async fn the_systems_resolver_is_called() {
    // It knows an address when it sees one, without asking anybody.
    let threads = Threads::system(1);
    assert_eq!(threads.lookup("192.0.2.7".to_owned()).await.unwrap(), [IpAddr::from(V4)]);
    let addresses: HashSet<_> = threads.lookup("2001:db8::7".to_owned()).await.unwrap().into_iter().collect();
    assert_eq!(addresses, HashSet::from([IpAddr::from(V6)]));
    assert_eq!(threads.lookup("a\0b".to_owned()).await.unwrap_err().reason, DnsFailure::InvalidName);
}

#[test]
fn a_log_of_no_lookup_claims_nothing() {
    assert_eq!(LookupLog::new().facts(), DnsFacts::default());
}
