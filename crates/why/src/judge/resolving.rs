//! Threads that resolve names, one after the other.

use std::collections::{HashMap, HashSet};

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, bpf,
    calls::all_transfers,
    count, share,
    thresholds::{ALWAYS, LOOKUP_US},
    time, total,
};
use crate::{Observation, observation::DnsExchange};

/// Many callers queue behind few blocking resolver threads.
pub(super) fn dns_serialised(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    let Some(watched_us) = watched_us(seen) else { return Vec::new() };
    // Time that each thread spent waiting for names, and how much of it for answers that never came.
    let mut by_thread: HashMap<u32, (u64, u64)> = HashMap::new();
    let mut in_vain = 0_u64;
    let asynchronous = asks_at_the_same_time(&connections.dns);
    let queries: Vec<&DnsExchange> = connections.dns.iter().filter(|it| !asynchronous.contains(&it.tid)).collect();
    for query in &queries {
        let end = query.answered_us.map_or(watched_us, |took| query.sent_us.saturating_add(took));
        let (number, waited) = by_thread.entry(query.tid).or_default();
        let took = end.saturating_sub(query.sent_us);
        *number += 1;
        *waited = waited.saturating_add(took);
        in_vain = in_vain.saturating_add(if query.answered_us.is_none() { took } else { 0 });
    }
    let is_in_vain = share(in_vain, total(by_thread.values().map(|(_, waited)| *waited))) >= 0.5;
    // A and AAAA are asked at the same time: a thread's time is not counted twice.
    let waited = total(by_thread.values().map(|(_, waited)| (*waited).min(watched_us)));
    let threads = by_thread.len() as u64;
    let names: HashSet<&str> = queries.iter().map(|query| query.name.as_str()).collect();
    let occupied = share(waited, threads.saturating_mul(watched_us));
    let repeated = queries.len() as u64 >= 2 * threads && names.len() as u64 > threads;
    // libuv has four threads for names, glibc's asyncio default executor a few more.
    if threads == 0 || threads > 32 || !repeated || occupied < 0.7 {
        return Vec::new();
    }
    if let [tid] = by_thread.keys().copied().collect::<Vec<_>>()[..] {
        return alone(seen, tid, &queries, occupied).into_iter().collect();
    }
    let queued = is_queued_for(seen, |tid| by_thread.contains_key(&tid));
    let behind = if queued {
        "every further call queues behind them"
    } else {
        "that others queue behind them was not seen, and it may be all that they are for"
    };
    let confidence = match queued {
        true if occupied >= ALWAYS => Confidence::High,
        true => Confidence::Medium,
        false => Confidence::Low,
    };
    let mut finding = Finding::new(
        Cause::DnsSerialised,
        Severity::Waiting,
        confidence,
        format!(
            "names are resolved by {}, {:.0} % of their time is spent waiting for answers: {behind}",
            count(threads, "thread"),
            occupied * 100.0
        ),
    )
    .because(
        bpf(format!(
            "{} for {} names by {}",
            count(queries.len() as u64, "query"),
            names.len(),
            count(threads, "thread")
        ))
        .with("queries", queries.len() as u64)
        .with("names", names.len() as u64)
        .with("threads", threads)
        .with("waited_us", waited),
    )
    .rejected(Cause::DnsSlow, "a slow server alone would not keep callers from asking at the same time")
    .share(ShareOf::StalledTime, occupied);
    finding.advisory = !queued;
    // Who queues behind a server that does not answer would not queue if it did.
    finding.proven = !is_in_vain;
    vec![finding]
}

/// For how long, from its beginning, the watch saw each answer: to its end, or until that was too dear. `None` where it saw
/// those of short windows alone: then nobody knows what was answered.
fn watched_us(seen: &Observation) -> Option<u64> {
    let connections = seen.connections.as_ref()?;
    if all_transfers(seen) {
        return Some(seen.window_us);
    }
    let until = connections.transfers_us?;
    connections.dns.iter().all(|query| query.sent_us <= until).then_some(until)
}

/// Whether anybody may wait for the threads that resolve names: an event loop, a thread that waits for another, a caller, or
/// a connection that is made to such a name. The first thread of a program may only wait for the others to end.
fn is_queued_for(seen: &Observation, resolves: impl Fn(u32) -> bool) -> bool {
    let others = seen.threads.iter().flat_map(|threads| &threads.threads).filter(|thread| !resolves(thread.tid));
    let mut calls = others.filter_map(|thread| Some((thread.tid, thread.blocked_in.as_ref()?.call.as_str())));
    let waits = |(tid, call): (u32, &str)| match call {
        "futex" => tid != seen.process.pid,
        _ => call.starts_with("epoll") || call.ends_with("poll") || call.contains("select") || call == "io_uring_enter",
    };
    let mut connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    calls.any(waits)
        || !super::calls::callers(seen).is_empty()
        || connections.any(|connection| connection.resolved.is_some())
}

/// Threads that ask for another name while they wait for the answer to one: nobody queues behind these. A name that was
/// never answered may have been given up.
fn asks_at_the_same_time(queries: &[DnsExchange]) -> HashSet<u32> {
    let mut sorted: Vec<&DnsExchange> = queries.iter().collect();
    sorted.sort_by_key(|query| (query.tid, query.sent_us));
    // Until when which name of the thread is waited for, and how often another was asked for before that.
    let mut waits: HashMap<u32, (&str, u64, u32)> = HashMap::new();
    for query in sorted {
        let end = query.answered_us.map_or(query.sent_us, |took| query.sent_us.saturating_add(took));
        let (name, until, overlaps) = waits.entry(query.tid).or_insert((&query.name, 0, 0));
        *overlaps += u32::from(*name != query.name && query.sent_us < *until);
        if end > *until {
            (*name, *until) = (&query.name, end);
        }
    }
    waits.into_iter().filter(|(_, (.., overlaps))| *overlaps >= 2).map(|(tid, _)| tid).collect()
}

/// One thread that asks for one name after the other: whether anybody queues behind it cannot be seen, and nobody can where
/// it is the only one, or the first.
fn alone(seen: &Observation, tid: u32, queries: &[&DnsExchange], occupied: f64) -> Option<Finding> {
    let answered: Vec<u64> = queries.iter().filter_map(|query| query.answered_us).collect();
    // That no server answers is another's finding.
    if answered.is_empty() {
        return None;
    }
    let mean_us = total(answered.iter().copied()) / (answered.len() as u64).max(1);
    let others = seen.threads.as_ref().is_some_and(|threads| threads.last > 1) && tid != seen.process.pid;
    if !others && mean_us < LOOKUP_US {
        return None;
    }
    let asks = format!(
        "names are resolved one after the other by one thread ({tid}), {:.0} % of its time is spent waiting for answers, {} for \
         each",
        occupied * 100.0,
        time(mean_us)
    );
    let (cause, summary, other, why) = if others {
        (
            Cause::DnsSerialised,
            format!("{asks}; that others queue behind it was not seen"),
            Cause::DnsSlow,
            "possible: one caller that needs one name after the other waits for the name server alone",
        )
    } else {
        (Cause::DnsSlow, asks, Cause::DnsSerialised, "nobody can queue behind the thread that has all the work")
    };
    let finding = Finding::new(cause, Severity::Waiting, Confidence::Low, summary)
        .because(
            bpf(format!("{} answers, {} for each on average", answered.len(), time(mean_us)))
                .with("queries", queries.len() as u64)
                .with("mean_us", mean_us),
        )
        .rejected(other, why)
        .share(ShareOf::StalledTime, occupied);
    Some(Finding { advisory: true, ..finding })
}
