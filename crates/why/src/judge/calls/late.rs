//! Calls that outlive what their callers allowed.

use overdue_core::{Cause, Confidence};

use super::all_transfers;
use crate::{
    Observation,
    judge::{Finding, Severity, ShareOf, bpf, count, share, time},
    observation::{Connection, HttpHead, LateCall, Moment, Side},
};

/// A call that runs on after the time that its caller allowed has passed.
pub(in crate::judge) fn deadline_ignored(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    let served = connections.connections.iter().filter(|connection| connection.side == Side::Server);
    let calls = served.filter_map(|connection| Some((connection, connection.http.as_ref()?)));
    let mut late: Vec<(LateCall, bool, &Connection)> = calls
        .flat_map(|(connection, http)| {
            let before = http.late.clone().map(|call| (call, true));
            before.into_iter().chain(last(seen, connection, http)).map(move |(call, over)| (call, over, connection))
        })
        // A tenth more is an answer under way.
        .filter(|(call, ..)| call.ran_us > call.allowed_us.saturating_add(call.allowed_us / 10).saturating_add(10_000))
        .collect();
    late.sort_by_key(|(call, ..)| std::cmp::Reverse(call.ran_us.saturating_sub(call.allowed_us)));
    let Some((LateCall { request, header, allowed_us, ran_us }, answered, connection)) = late.first() else {
        return Vec::new();
    };
    let (allowed, ran) = (*allowed_us, *ran_us);
    let peer = connection.remote.map_or_else(|| "its caller".to_owned(), |remote| remote.ip().to_string());
    vec![
        Finding::new(
            Cause::DeadlineIgnored,
            Severity::Waiting,
            Confidence::High,
            format!(
                "{peer} allowed {} ({header}) for {request}, and the call {} after {}; {} like it",
                time(allowed),
                if *answered { "was answered" } else { "still runs" },
                time(ran),
                count(late.len() as u64, "call"),
            ),
        )
        .because(
            bpf(format!("request with {header}: {}, then {} without an answer", time(allowed), time(ran)))
                .with("allowed_us", allowed)
                .with("ran_us", ran)
                .with("calls", late.len() as u64),
        )
        .rejected(Cause::ServerSlow, "slow is one thing; this caller has given up long ago, and the work goes on")
        .share(ShareOf::StalledTime, share(ran.saturating_sub(allowed), ran)),
    ]
}

/// The last call on the connection, and whether it was answered.
fn last(seen: &Observation, connection: &Connection, http: &HttpHead) -> Option<(LateCall, bool)> {
    let (header, allowed_us) = http.deadline_us.clone()?;
    let requested = http.requested?.us()?;
    let answered = http.answered.and_then(Moment::us);
    // What was written since may have been the answer, where not every write was looked at.
    if answered.is_none() && (!all_transfers(seen) || connection.last_write.and_then(Moment::us) > Some(requested)) {
        return None;
    }
    let ran_us = answered.unwrap_or(seen.window_us).saturating_sub(requested);
    Some((LateCall { request: http.request.clone(), header, allowed_us, ran_us }, answered.is_some()))
}
