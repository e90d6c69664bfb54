//! Calls that outlive what their callers allowed.

use overdue_core::{Cause, Confidence};

use super::facts::at;
use crate::{
    Observation,
    judge::{Finding, Severity, ShareOf, bpf, count, share, time},
    observation::{Connection, Side},
};

/// A call that runs on after the time that its caller allowed has passed.
pub(in crate::judge) fn deadline_ignored(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    let mut late: Vec<(u64, u64, bool, &Connection, &str)> = Vec::new();
    for connection in &connections.connections {
        let Some(http) = &connection.http else { continue };
        let (Some((header, allowed)), Some(requested)) = (&http.deadline_us, http.requested.and_then(at)) else {
            continue;
        };
        let end = http.answered.and_then(at);
        // The longest of its requests, of which only the last is known by its head.
        let ran = end.unwrap_or(seen.window_us).saturating_sub(requested).max(connection.write_gaps.longest_us);
        // A tenth more is an answer under way.
        if ran > allowed.saturating_add(allowed / 10).saturating_add(10_000) && connection.side == Side::Server {
            late.push((ran, *allowed, end.is_some(), connection, header));
        }
    }
    late.sort_by_key(|(ran, allowed, ..)| std::cmp::Reverse(ran.saturating_sub(*allowed)));
    let Some(&(ran, allowed, answered, connection, header)) = late.first() else { return Vec::new() };
    let peer = connection.remote.map_or_else(|| "its caller".to_owned(), |remote| remote.ip().to_string());
    let request = connection.http.as_ref().map(|http| http.request.clone()).unwrap_or_default();
    vec![
        Finding::new(
            Cause::DeadlineIgnored,
            Severity::Waiting,
            Confidence::High,
            format!(
                "{peer} allowed {} ({header}) for {request}, and the call {} after {}; {} like it",
                time(allowed),
                if answered { "was answered" } else { "still runs" },
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
