//! `overdue.report/1` of a process: the shape that a call's report has, with the process, its connections and the cost
//! of watching beside.

use overdue_core::{Cause, SCHEMA};
use serde::Serialize;

use crate::{
    Observation,
    aid::{self, FirstAid},
    judge::{self, Finding, Stall},
    observation::{Hidden, Overhead, Process},
};

/// Connections that a report lists at most; the rest is counted.
const LISTED: usize = 64;

/// What is reported of a process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Always `overdue.report/1`.
    pub schema: &'static str,
    /// `ok` where there is no verdict, else `failed`.
    pub outcome: &'static str,
    /// The stage of the first verdict.
    pub stage: Option<&'static str>,
    /// The cause of the first verdict.
    pub cause: Option<Cause>,
    /// How long it was watched.
    pub elapsed_us: u64,
    /// Who was watched.
    pub process: Process,
    /// What was found; the first explains most.
    pub verdicts: Vec<Finding>,
    /// What was noticed and is no verdict.
    pub advisories: Vec<Finding>,
    /// Its connections, the longest stalled first; at most 64.
    pub connections: Vec<ConnectionLine>,
    /// Connections beside those.
    pub connections_not_listed: u64,
    /// What could be done at once, from outside, and what of it was done.
    pub first_aid: Vec<FirstAid>,
    /// What could not be seen.
    pub not_visible: Vec<Hidden>,
    /// What the watching cost.
    pub overhead: Overhead,
}

/// One connection of a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionLine {
    /// The kernel's socket cookie: the key under which other tools know the same connection.
    pub cookie: u64,
    /// The other end.
    pub peer: Option<String>,
    /// The own end.
    pub local: Option<String>,
    /// Who opened it: `client`, `server`, `unknown`.
    pub side: &'static str,
    /// Its state when last seen, as `ss` calls it.
    pub state: &'static str,
    /// How long it has stalled, in which stage, and why.
    pub stall: Option<Stall>,
}

impl Report {
    /// Judges an observation.
    #[must_use]
    pub fn of(seen: &Observation) -> Self {
        let judgement = judge::judge(seen);
        let first_aid = aid::plan(seen, &judgement);
        let first = judgement.verdicts.first();
        let mut connections = connections(seen);
        let not_listed = connections.len().saturating_sub(LISTED);
        connections.truncate(LISTED);
        Self {
            schema: SCHEMA,
            outcome: if first.is_some() { "failed" } else { "ok" },
            stage: first.map(|finding| finding.verdict.stage),
            cause: first.map(|finding| finding.verdict.cause),
            elapsed_us: seen.window_us,
            process: seen.process.clone(),
            verdicts: judgement.verdicts,
            advisories: judgement.advisories,
            connections,
            connections_not_listed: not_listed as u64,
            first_aid,
            not_visible: seen.not_visible.clone(),
            overhead: seen.overhead.clone(),
        }
    }
}

fn connections(seen: &Observation) -> Vec<ConnectionLine> {
    use crate::observation::Side;

    let stalls = judge::stalls(seen);
    let stall = |cookie: u64| stalls.iter().find(|stall| stall.cookie == cookie).cloned();
    let mut lines: Vec<ConnectionLine> = seen
        .sockets
        .iter()
        .flat_map(|sockets| &sockets.tcp)
        .map(|socket| ConnectionLine {
            cookie: socket.cookie,
            peer: Some(socket.remote.to_string()),
            local: Some(socket.local.to_string()),
            side: if socket.inbound { "server" } else { "client" },
            state: judge::state_text(socket.state),
            stall: stall(socket.cookie),
        })
        .collect();
    // What came and went between two looks at the sockets.
    for connection in seen.connections.iter().flat_map(|connections| &connections.connections) {
        if lines.iter().any(|line| line.cookie == connection.cookie) {
            continue;
        }
        lines.push(ConnectionLine {
            cookie: connection.cookie,
            peer: connection.remote.map(|remote| remote.to_string()),
            local: connection.local.map(|local| local.to_string()),
            side: match connection.side {
                Side::Client => "client",
                Side::Server => "server",
                Side::Unknown => "unknown",
            },
            state: if connection.closed.is_some() { "CLOSED" } else { "UNKNOWN" },
            stall: stall(connection.cookie),
        });
    }
    lines.sort_by_key(|line| (std::cmp::Reverse(line.stall.as_ref().map_or(0, |stall| stall.stalled_us)), line.cookie));
    lines
}
