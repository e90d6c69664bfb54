//! Lookups of both families, each with its own outcome.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use overdue_core::facts::{DnsFacts, DnsFailure};

use super::server::{Server, V4, V6, code, family, good};
use crate::resolve::{Enough, Families, FamilyOutcome, LookupLog, Resolver, Source, hickory::Dns, threads::Threads};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

async fn look_up(resolver: &Resolver, limit: Duration) -> (Families, DnsFacts) {
    let log = LookupLog::new();
    let families = resolver.resolve_each("api.test", 443, Enough::Both, limit, &log).await;
    (families, log.facts())
}

/// The addresses that were found, or in a word why there are none.
fn told(outcome: &FamilyOutcome) -> Result<Vec<IpAddr>, (&'static str, Option<DnsFailure>)> {
    let reason = outcome.error().map(|err| err.reason);
    match outcome {
        FamilyOutcome::Found(resolved) => Ok(resolved.addresses.clone()),
        FamilyOutcome::None(_) => Err(("none", reason)),
        FamilyOutcome::Failed(_) => Err(("failed", reason)),
        FamilyOutcome::Cut => Err(("cut", reason)),
    }
}

#[tokio::test]
async fn the_slower_family_is_waited_for() {
    let asked = AtomicUsize::new(0);
    // It answers when it is asked again, after a second.
    let server = Server::start(move |query, _| {
        let is_first = family(query) == RecordType::AAAA && asked.fetch_add(1, SeqCst) == 0;
        if is_first { vec![] } else { good(query) }
    })
    .await;
    let (Families { v6, v4 }, facts) = look_up(&server.resolver(), LONG).await;
    assert_eq!((told(&v6), told(&v4)), (Ok(vec![V6.into()]), Ok(vec![V4.into()])));
    assert_eq!((facts.queries, facts.answers), (Some(3), Some(2)));
    let FamilyOutcome::Found(found) = v6 else { panic!("{v6:?}") };
    assert!(found.ttl.is_some_and(|ttl| ttl <= Duration::from_secs(60)), "{found:?}");
}

#[tokio::test]
async fn nobody_waits_for_more_than_is_enough() {
    let server = Server::start(|query, _| if family(query) == RecordType::A { good(query) } else { vec![] }).await;
    let log = LookupLog::new();
    let Families { v6, v4 } = server.resolver().resolve_each("api.test", 443, Enough::V4, LONG, &log).await;
    assert_eq!((told(&v6), told(&v4)), (Err(("cut", None)), Ok(vec![V4.into()])));
    // What would be enough does not come: the other is all there is.
    let Families { v6, v4 } = server.resolver().resolve_each("api.test", 443, Enough::V6, SHORT, &log).await;
    assert_eq!((told(&v6), told(&v4)), (Err(("cut", None)), Ok(vec![V4.into()])));
    // Nor does it where it is known that there is none of it.
    let server =
        Server::start(
            |query, _| if family(query) == RecordType::A { code(query, ResponseCode::NoError) } else { good(query) },
        )
        .await;
    let Families { v6, v4 } = server.resolver().resolve_each("api.test", 443, Enough::V4, LONG, &log).await;
    assert_eq!((told(&v6), told(&v4)), (Ok(vec![V6.into()]), Err(("none", Some(DnsFailure::NoAddress)))));
}

#[tokio::test]
async fn a_family_that_failed_is_told_from_one_that_is_not_there() {
    for (says, expected) in [
        (ResponseCode::ServFail, ("failed", Some(DnsFailure::ServerError))),
        (ResponseCode::Refused, ("failed", Some(DnsFailure::ServerError))),
        (ResponseCode::NXDomain, ("none", Some(DnsFailure::NoSuchName))),
        (ResponseCode::NoError, ("none", Some(DnsFailure::NoAddress))),
    ] {
        let behave = move |query: &_, _| if family(query) == RecordType::A { code(query, says) } else { good(query) };
        let server = Server::start(behave).await;
        let (Families { v6, v4 }, _) = look_up(&server.resolver(), LONG).await;
        assert_eq!((told(&v6), told(&v4)), (Ok(vec![V6.into()]), Err(expected)), "{says}");
    }
}

#[tokio::test]
async fn what_has_come_by_the_limit_is_kept() {
    let server = Server::start(|query, _| if family(query) == RecordType::A { good(query) } else { vec![] }).await;
    let (Families { v6, v4 }, facts) = look_up(&server.resolver(), SHORT).await;
    assert_eq!((told(&v6), told(&v4)), (Err(("cut", None)), Ok(vec![V4.into()])));
    assert_eq!((facts.queries, facts.answers), (Some(2), Some(1)));

    let silent = Server::start(|_, _| vec![]).await;
    let (families, facts) = look_up(&silent.resolver(), SHORT).await;
    assert_eq!(families, Families::both(FamilyOutcome::Cut));
    assert_eq!((facts.queries, facts.answers), (Some(2), Some(0)));
}

/// Asks for `api.test` below `first.example`, `second.example` and itself; what is said of each is for the test to say.
async fn searched(says: impl Fn(&str, RecordType) -> Option<ResponseCode> + Send + Sync + 'static) -> Families {
    let server = Server::start(move |query, _| {
        let name = query.queries[0].name().to_ascii();
        match says(name.strip_prefix("api.test.").unwrap(), family(query)) {
            Some(ResponseCode::NoError) => good(query),
            Some(other) => code(query, other),
            None => vec![],
        }
    })
    .await;
    let mut dns = Dns::new(vec![server.address]);
    dns.search = ["first.example.", "second.example."].map(|name| Name::from_ascii(name).unwrap()).to_vec();
    dns.ndots = 2;
    look_up(&Resolver::new(Source::Dns(dns), Hosts::default()), SHORT).await.0
}

#[tokio::test]
async fn the_families_are_those_of_one_name_of_the_search_list() {
    use ResponseCode::{NXDomain, NoError, ServFail};
    // The first that has any is it, whatever was wrong before, and what others have of the other family is not taken.
    let families = searched(|below, family| match (below, family) {
        ("first.example.", _) => Some(ServFail),
        ("second.example.", RecordType::A) => Some(NXDomain),
        _ => Some(NoError),
    });
    let Families { v6, v4 } = families.await;
    assert_eq!((told(&v6), told(&v4)), (Ok(vec![V6.into()]), Err(("none", Some(DnsFailure::NoSuchName)))));
    // Where none has any, one that failed may have had some.
    let families = searched(|below, family| match (below, family) {
        ("first.example.", RecordType::A) => Some(ServFail),
        _ => Some(NXDomain),
    });
    let Families { v6, v4 } = families.await;
    let failed = Err(("failed", Some(DnsFailure::ServerError)));
    assert_eq!((told(&v6), told(&v4)), (Err(("none", Some(DnsFailure::NoSuchName))), failed.clone()));
    // Also where the limit passes at a later one, which all of them share.
    let families = searched(|below, family| match (below, family) {
        ("first.example.", RecordType::A) => Some(ServFail),
        ("second.example.", RecordType::AAAA) => None,
        _ => Some(NXDomain),
    });
    let Families { v6, v4 } = families.await;
    assert_eq!((told(&v6), told(&v4)), (Err(("cut", None)), failed));
}

#[tokio::test]
async fn what_is_known_has_both_outcomes_at_once() {
    let resolver = Resolver::servers(vec![]).with_override("v4.test", None, vec![V4.into(), V4.into()]);
    for (host, v6, v4) in [
        ("v4.test", Err(("none", Some(DnsFailure::NoAddress))), Ok(vec![V4.into()])),
        ("2001:db8::7", Ok(vec![V6.into()]), Err(("none", Some(DnsFailure::NoAddress)))),
        ("a.onion", Err(("none", Some(DnsFailure::NoSuchName))), Err(("none", Some(DnsFailure::NoSuchName)))),
        ("a b", Err(("failed", Some(DnsFailure::InvalidName))), Err(("failed", Some(DnsFailure::InvalidName)))),
        ("a.test", Err(("failed", Some(DnsFailure::NoAnswer))), Err(("failed", Some(DnsFailure::NoAnswer)))),
    ] {
        let log = LookupLog::new();
        let families = resolver.resolve_each(host, 443, Enough::Both, LONG, &log).await;
        assert_eq!((told(&families.v6), told(&families.v4)), (v6, v4), "{host}");
        assert_eq!(log.facts().queries, Some(0), "{host}");
    }
}

#[tokio::test]
async fn the_systems_resolver_does_not_tell_them_apart() {
    let (release, stuck) = std::sync::mpsc::channel::<()>();
    let stuck = std::sync::Mutex::new(stuck);
    let threads = Threads::calling(1, move |_| {
        let _ = stuck.lock().unwrap().recv();
        Ok(vec![V4.into()])
    });
    let resolver = Resolver::new(Source::Threads(threads), Hosts::default());
    let (families, facts) = look_up(&resolver, SHORT).await;
    assert_eq!((families, facts.queries), (Families::both(FamilyOutcome::Cut), None));
    drop(release);
    let Families { v6, v4 } = look_up(&resolver, LONG).await.0;
    assert_eq!((told(&v6), told(&v4)), (Err(("none", Some(DnsFailure::NoAddress))), Ok(vec![V4.into()])));
}
