//! Names that are not resolved.

use std::collections::HashSet;

use overdue_core::{
    Cause, Confidence, LimitName, Rejected, Stage,
    facts::{DnsFacts, DnsFailure, Failure},
};

use super::{
    Known, Meant, Trouble, all_transfers,
    facts::{facts, passed},
};
use crate::{
    Observation,
    judge::{
        bpf, proc,
        thresholds::{GIVEN_UP_US, NAMES, SETTLED_US, WORTH},
        time,
    },
    observation::{BlockedIn, Connection, Connections, DnsExchange, Lookup, Moment, Thread},
};

/// Where name servers listen.
const DNS: u16 = 53;
/// There is no such name.
const NXDOMAIN: u8 = 3;

/// Whether a connection is a question to a name server, whose answer did not fit UDP: it is judged as a part of its lookup.
pub(super) fn is_lookup(seen: &Observation, known: &Known<'_>) -> bool {
    let remote = known.socket.map(|socket| socket.remote).or(known.connection.and_then(|connection| connection.remote));
    let queries = seen.connections.iter().flat_map(|connections| &connections.dns);
    remote.is_some_and(|remote| {
        remote.port() == DNS && queries.map(|query| &query.server).any(|server| *server == remote.ip().to_string())
    })
}

/// The connections by which a question was asked again.
fn over_tcp<'a>(connections: &'a Connections, server: &'a str) -> impl Iterator<Item = &'a Connection> {
    connections.connections.iter().filter(move |connection| {
        connection.remote.is_some_and(|remote| remote.port() == DNS && remote.ip().to_string() == server)
    })
}

/// Whether the server that was asked last is not there, of all that were asked for the name.
fn is_refused(connections: &Connections, query: &DnsExchange) -> bool {
    let mut same = connections.dns.iter().filter(|other| other.name == query.name && other.server == query.server);
    same.clone().all(|other| other.answered_us.is_none()) && same.any(|other| other.refused)
}

/// The server that was asked for the name before another, and answered nothing at all, with the number of queries.
fn silent<'a>(connections: &'a Connections, query: &'a DnsExchange) -> Option<(&'a str, u64)> {
    let times = |server: &String| connections.dns.iter().filter(|other| other.in_vain.contains(server)).count() as u64;
    let answers = |server: &String| {
        let mut of_it = connections.dns.iter().filter(|other| other.server == *server);
        of_it.any(|other| other.answered_us.is_some())
    };
    let silent = query.in_vain.iter().find(|server| !server.is_empty() && !answers(server))?;
    Some((silent, times(silent)))
}

/// Whether different names are asked for over a while, and hardly one again: lists of senders, domains that may exist. No
/// is a good answer to that. Who looks for a peer asks again, and a search through domains changes the end of a name only;
/// another list changes the end of an address.
fn are_different<'a>(asked: impl Iterator<Item = (&'a str, u16, u64)> + Clone) -> bool {
    let names: HashSet<&str> = asked.clone().map(|(name, ..)| name).collect();
    let hosts: HashSet<&str> = names.iter().map(|name| host(name, &names)).collect();
    let questions: HashSet<(&str, u16)> = asked.clone().map(|(name, kind, _)| (name, kind)).collect();
    let again = asked.clone().count() - questions.len();
    let (first, last) = (asked.clone().map(|(.., at)| at).min(), asked.map(|(.., at)| at).max());
    let took = last.zip(first).map_or(0, |(last, first)| last - first);
    hosts.len() >= NAMES && again * 4 <= questions.len() && took >= SETTLED_US
}

/// What a name asks for, whatever domain was tried: a search asks for the name without one, too, first or last. Where that
/// was not seen, its first two labels tell; `www` alone is the same of everybody.
fn host<'a>(name: &'a str, asked: &HashSet<&str>) -> &'a str {
    if is_address(name) {
        return name;
    }
    let mut beginnings = name.match_indices('.').filter_map(|(dot, _)| name.get(..dot));
    let two = beginnings.clone().nth(1).unwrap_or(name);
    beginnings.find(|beginning| asked.contains(beginning)).unwrap_or(two)
}

/// Whether a name asks for an address: who it is, or whether a list has it. Most addresses have no name, and are in no list.
fn is_address(name: &str) -> bool {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let is_zone = labels.ends_with(&["in-addr", "arpa"]) || labels.ends_with(&["ip6", "arpa"]);
    let numbers = labels.iter().take_while(|label| label.parse::<u8>().is_ok()).count();
    is_zone || numbers == 4 && labels.len() > 4
}

/// What a no means: that there is no such name is an answer for who asks for an address.
fn meant_by_no(name: &str, failure: &Failure) -> Meant {
    match failure {
        Failure::Dns { reason: DnsFailure::NoSuchName | DnsFailure::NoAddress, .. } if is_address(name) => {
            Meant::NoIsAnswer
        }
        _ => Meant::No,
    }
}

/// What a name has none of, where not both kinds of address were asked for: it may well have the other.
fn no_data(connections: &Connections, query: &DnsExchange, failure: &Failure) -> Option<String> {
    let asks = |kind: u16| connections.dns.iter().any(|other| other.name == query.name && other.kind == kind);
    let is_alone = matches!(failure, Failure::Dns { reason: DnsFailure::NoAddress, .. }) && !(asks(A) && asks(AAAA));
    let none = match query.kind {
        A => "IPv4 address (A)".to_owned(),
        AAAA => "IPv6 address (AAAA)".to_owned(),
        other => format!("record of type {}", kind(other)),
    };
    is_alone.then(|| format!("{} exists and has no {none}, says {}; no other was asked for", query.name, query.server))
}

const A: u16 = 1;
const AAAA: u16 = 28;

/// The name of a type of record.
fn kind(number: u16) -> String {
    let name = match number {
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        33 => "SRV",
        64 => "SVCB",
        65 => "HTTPS",
        257 => "CAA",
        _ => return number.to_string(),
    };
    name.to_owned()
}

/// Whether its thread asked for another name meanwhile, and nearly all that it asked for was answered at once.
fn is_one_of_many(connections: &Connections, query: &DnsExchange) -> bool {
    let same = || connections.dns.iter().filter(|other| other.tid == query.tid);
    let is_answered = |other: &DnsExchange| other.answered_us.is_some_and(|took| took < SETTLED_US);
    let meanwhile = query.sent_us..query.sent_us.saturating_add(SETTLED_US);
    let goes_on =
        |other: &DnsExchange| other.name != query.name && is_answered(other) && meanwhile.contains(&other.sent_us);
    let open = same().filter(|other| !is_answered(other)).count();
    same().any(goes_on) && (open as f64) < WORTH * same().count() as f64
}

/// Names that were not resolved.
pub(super) fn names(seen: &Observation) -> Vec<Trouble> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    let bad = |query: &&DnsExchange| {
        !query.truncated && (query.rcode.is_some_and(|code| code != 0) || query.answers == Some(0))
    };
    let all_failed = !connections.dns.is_empty() && connections.dns.iter().all(|query| bad(&query));
    let asked = connections.dns.iter().map(|query| (query.name.as_str(), query.kind, query.sent_us));
    let no = |query: &DnsExchange| {
        matches!(query.rcode, Some(0 | NXDOMAIN)) && query.answered_us.is_some_and(|took| took < SETTLED_US)
    };
    let no_is_good = connections.dns.iter().all(no) && are_different(asked);
    let mut troubles = Vec::new();
    let mut told: Vec<&str> = Vec::new();
    for query in &connections.dns {
        let mut waited = query.answered_us.unwrap_or_else(|| seen.window_us.saturating_sub(query.sent_us));
        let failure = match (query.answered_us, bad(&query)) {
            // Asked again over TCP, and there it was refused, or nothing came.
            (Some(_), _) if query.truncated => {
                let Some(last) = over_tcp(connections, &query.server).last() else { continue };
                let end = last.closed.and_then(Moment::us).unwrap_or(seen.window_us);
                waited = end.saturating_sub(query.sent_us);
                match last.errno {
                    Some(errno) => Failure::Dns {
                        reason: DnsFailure::Unusable,
                        text: format!(
                            "{}: the answer does not fit UDP, and over TCP it failed (os error {errno})",
                            query.server
                        ),
                    },
                    None if last.read_bytes == 0 && waited >= SETTLED_US => {
                        passed(LimitName::Stage(Stage::Resolve), waited)
                    }
                    None => continue,
                }
            }
            // It may have been answered when nobody looked.
            (None, _) if !all_transfers(seen) => continue,
            // The queries for both kinds of address share a socket, and one of them gets the error.
            (None, _) if waited >= GIVEN_UP_US && is_refused(connections, query) => Failure::Dns {
                reason: DnsFailure::Unusable,
                text: format!("{}: nobody listens on its port {DNS} (ICMP port unreachable)", query.server),
            },
            // Whoever ended meanwhile gave it up.
            (None, _) if waited >= SETTLED_US || (seen.process.ended_at_us.is_some() && waited >= GIVEN_UP_US) => {
                passed(LimitName::Stage(Stage::Resolve), waited)
            }
            // Searching through domains gives answers that there is no such name, and goes on.
            (Some(_), true) if all_failed && connections.opened == 0 && !no_is_good => Failure::Dns {
                reason: match (query.rcode, query.answers) {
                    (Some(NXDOMAIN), _) => DnsFailure::NoSuchName,
                    (Some(0) | None, _) => DnsFailure::NoAddress,
                    _ => DnsFailure::ServerError,
                },
                text: format!("{} answered with code {}", query.server, query.rcode.unwrap_or(0)),
            },
            (Some(took), false) if took >= SETTLED_US => passed(LimitName::Stage(Stage::Resolve), waited),
            _ => continue,
        };
        if told.contains(&query.name.as_str()) {
            continue;
        }
        told.push(&query.name);
        let same = connections.dns.iter().filter(|other| other.name == query.name);
        let (sent, answered) = same.fold((0_u32, 0_u32), |(sent, answered), other| {
            (sent.saturating_add(other.sent), answered.saturating_add(other.answered_us.is_some().into()))
        });
        let nobody = query.answered_us.is_none() && is_refused(connections, query);
        let mut facts = facts(&Known::default(), Stage::Resolve, waited, failure.clone());
        facts.dns = Some(DnsFacts {
            name: query.name.clone(),
            servers: query.in_vain.iter().chain([&query.server]).cloned().collect(),
            queries: Some(sent),
            answers: Some(answered),
            truncated: query.truncated,
        });
        let waits = matches!(failure, Failure::DeadlinePassed(_));
        let no_data = no_data(connections, query, &failure);
        let meant = if waits && is_one_of_many(connections, query) {
            Meant::OneOfMany
        } else if no_data.is_some() {
            Meant::NoIsAnswer
        } else {
            meant_by_no(&query.name, &failure)
        };
        let mut trouble =
            Trouble { peer: query.server.clone(), waits, meant, ..Trouble::of(&Known::default(), &facts, waited) };
        if let Some(no_data) = no_data {
            trouble.verdict.summary = no_data;
        }
        if let Some((silent, times)) = silent(connections, query) {
            let verdict = &mut trouble.verdict;
            let text = format!("{silent} answered none of {times} queries; then {} was asked", query.server);
            verdict.evidence.insert(0, bpf(text).with("in_vain", times));
            verdict.fix =
                format!("Take {silent} out of the list of name servers, or start what should answer there.").into();
        }
        if nobody && !waits {
            let verdict = &mut trouble.verdict;
            verdict.summary = format!("no name server listens at {}: each query is refused at once", query.server);
            verdict.fix = "Start the name server there, or correct /etc/resolv.conf. On this machine `ss -ulnp` shows who listens on \
                           port 53."
                .into();
            verdict.rejected = vec![Rejected {
                cause: Cause::DnsNoAnswer,
                why: "its host answers, and says that nobody listens on the port: it is not waited for".into(),
            }];
        }
        troubles.push(trouble);
    }
    troubles
}

/// Lookups by the C library that took long, or failed, where their queries were not seen: it asked a resolver on this
/// machine over a socket of another kind, or over TCP.
pub(super) fn probed(seen: &Observation) -> Vec<Trouble> {
    let Some(lookups) = &seen.lookups else { return Vec::new() };
    let queries = seen.connections.iter().flat_map(|connections| &connections.dns);
    let queried: HashSet<&str> = queries.map(|query| query.name.trim_end_matches('.')).collect();
    let opened = seen.connections.as_ref().map_or(0, |connections| connections.opened);
    let over_udp = if seen.connections.is_some() { "; no query of it to a name server was seen over UDP" } else { "" };
    // Who asks first whether it is an address in numbers, or for the other kind of address, gets no for an answer and goes on.
    let found: HashSet<&str> = lookups
        .lookups
        .iter()
        .filter(|lookup| lookup.result == Some(0))
        .map(|lookup| lookup.name.trim_end_matches('.'))
        .collect();
    let ended = lookups.lookups.iter().map(|lookup| (lookup.name.trim_end_matches('.'), 0, lookup.at_us));
    let no = |lookup: &Lookup| matches!(lookup.result, Some(EAI_NONAME | EAI_NODATA)) && lookup.took_us < SETTLED_US;
    let no_is_good = lookups.lookups.iter().all(no) && are_different(ended);
    let mut told: HashSet<&str> = HashSet::new();
    let mut troubles = Vec::new();
    for lookup in &lookups.lookups {
        let name = lookup.name.trim_end_matches('.');
        let failure = match lookup.result {
            // A failure after long is late first of all.
            None | Some(0 | EAI_AGAIN) if lookup.took_us >= SETTLED_US => {
                passed(LimitName::Stage(Stage::Resolve), lookup.took_us)
            }
            Some(error @ (EAI_NONAME | EAI_AGAIN | EAI_FAIL | EAI_NODATA))
                if opened == 0 && !found.contains(name) && !no_is_good =>
            {
                Failure::Dns {
                    reason: match error {
                        EAI_NONAME => DnsFailure::NoSuchName,
                        EAI_NODATA => DnsFailure::NoAddress,
                        _ => DnsFailure::ServerError,
                    },
                    text: format!("getaddrinfo failed with {}", eai(error)),
                }
            }
            _ => continue,
        };
        if queried.contains(name) || !told.insert(name) {
            continue;
        }
        let waits = matches!(failure, Failure::DeadlinePassed(_));
        let meant = meant_by_no(name, &failure);
        let mut facts = facts(&Known::default(), Stage::Resolve, lookup.took_us, failure);
        let answers = u32::from(lookup.result == Some(0));
        facts.dns = Some(DnsFacts {
            name: lookup.name.clone(),
            servers: vec![RESOLVER.to_owned()],
            answers: Some(answers),
            ..DnsFacts::default()
        });
        let mut trouble = Trouble::of(&Known::default(), &facts, lookup.took_us);
        let end = match lookup.result {
            None => "has not returned".to_owned(),
            Some(0) => "then had an answer".to_owned(),
            Some(error) => format!("then failed with {}", eai(error)),
        };
        trouble.verdict.evidence.insert(
            0,
            bpf(format!(
                "getaddrinfo({}) on thread {} took {} and {end}{over_udp}",
                lookup.name,
                lookup.tid,
                time(lookup.took_us)
            ))
            .with("took_us", lookup.took_us),
        );
        trouble.verdict.confidence = Confidence::Medium;
        troubles.push(Trouble { peer: lookup.name.clone(), waits, meant, ..trouble });
    }
    troubles
}

/// Who was asked, where that is all that is known of it.
const RESOLVER: &str = "the system's resolver";

/// Errors of `getaddrinfo`, of glibc and musl alike.
const EAI_NONAME: i32 = -2;
const EAI_AGAIN: i32 = -3;
const EAI_FAIL: i32 = -4;
const EAI_NODATA: i32 = -5;

fn eai(error: i32) -> String {
    match error {
        EAI_NONAME => "EAI_NONAME (no such name)".to_owned(),
        EAI_AGAIN => "EAI_AGAIN (no answer, or a temporary failure)".to_owned(),
        EAI_FAIL => "EAI_FAIL (the name server failed)".to_owned(),
        EAI_NODATA => "EAI_NODATA (the name has no address)".to_owned(),
        other => format!("error {other}"),
    }
}

/// Threads that wait for a name server, where the query was before the watch or nobody saw it.
pub(super) fn lookups(seen: &Observation) -> Vec<Trouble> {
    if names(seen).iter().any(|trouble| trouble.meant == Meant::No) {
        return Vec::new();
    }
    // What a thread asked in the watch tells more than that it waits.
    let asked: HashSet<u32> =
        seen.connections.iter().flat_map(|connections| &connections.dns).map(|query| query.tid).collect();
    waiting_for_names(seen)
        .filter(|(thread, ..)| thread.blocked_us >= SETTLED_US && !asked.contains(&thread.tid))
        .map(|(thread, blocked, server)| {
            let server = server.to_owned();
            let failure = passed(LimitName::Stage(Stage::Resolve), thread.blocked_us);
            let mut facts = facts(&Known::default(), Stage::Resolve, thread.blocked_us, failure);
            let name = "a name".to_owned();
            facts.dns = Some(DnsFacts { name, servers: vec![server.clone()], ..DnsFacts::default() });
            let mut trouble = Trouble::of(&Known::default(), &facts, thread.blocked_us);
            trouble.verdict.evidence.insert(
                0,
                proc(format!(
                    "thread {} ({}) waits in {} for udp {server}, and nothing comes for {}",
                    thread.tid,
                    thread.name,
                    blocked.call,
                    time(thread.blocked_us)
                ))
                .with("blocked_us", thread.blocked_us),
            );
            trouble.verdict.confidence = Confidence::Medium;
            Trouble { peer: server, ..trouble }
        })
        .collect()
}

/// Whether a name server was asked so lately that nobody can say yet whether it answers. A resolver that asks again every
/// few seconds may have waited for long: its last question is all that a watch sees of that.
pub(in crate::judge) fn asked_lately(seen: &Observation) -> bool {
    let queries = seen.connections.iter().flat_map(|connections| &connections.dns);
    let mut open = queries.filter(|query| query.answered_us.is_none());
    open.any(|query| seen.window_us.saturating_sub(query.sent_us) < SETTLED_US)
        || waiting_for_names(seen).any(|(thread, ..)| thread.blocked_us < SETTLED_US)
}

/// The threads that wait for a name server now, in which call, and for which.
fn waiting_for_names(seen: &Observation) -> impl Iterator<Item = (&Thread, &BlockedIn, &str)> {
    seen.threads.iter().flat_map(|threads| &threads.threads).filter_map(|thread| {
        let blocked = thread.blocked_in.as_ref().filter(|blocked| may_resolve(blocked))?;
        let polled = blocked.waits_for.iter().filter_map(|member| member.what.as_deref());
        let server = polled.chain(blocked.what.as_deref()).find_map(name_server)?;
        Some((thread, blocked, server))
    })
}

/// Whether it may be the wait of a resolver, which always has a limit. Who has asked nothing and waits for questions, a
/// forwarder, waits without one, or for a socket that is connected to nobody, too.
fn may_resolve(blocked: &BlockedIn) -> bool {
    let takes_questions = blocked.waits_for.iter().any(|member| member.what.as_deref() == Some("socket"));
    blocked.timeout_us != Some(None) && !takes_questions
}

/// The address of a name server, of the text that names a socket.
fn name_server(what: &str) -> Option<&str> {
    what.strip_prefix("udp ").filter(|peer| peer.ends_with(":53"))
}
