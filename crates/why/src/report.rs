//! `overdue.report/1` of a process: the shape that a call's report has, with the process, its connections and the cost
//! of watching beside.

use overdue_core::{Cause, SCHEMA};
use serde::Serialize;

mod connection;

use crate::{
    Observation,
    aid::{self, FirstAid},
    judge::{self, Finding, LastWords},
    observation::{Ending, Hidden, Overhead, Process},
};

pub use connection::ConnectionLine;

/// What is reported of a process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Always `overdue.report/1`.
    pub schema: &'static str,
    /// `failed` where there is a verdict, or the process ended otherwise than well while it was watched; else `ok`.
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
    /// How many of all connections stalled.
    pub connections_stalled: u64,
    /// Who had the last word on connections, a while ago, where there is no verdict: a request that hangs looks like this,
    /// and so does a long poll or whoever has said all.
    pub last_words: Vec<LastWords>,
    /// What could be done at once, from outside, and what of it was done.
    pub first_aid: Vec<FirstAid>,
    /// What could not be seen.
    pub not_visible: Vec<Hidden>,
    /// What the watching cost.
    pub overhead: Overhead,
}

/// What cannot be seen, by what would show it: one remedy stands once, in the order of the first that it would show.
#[must_use]
pub fn by_remedy(not_visible: &[Hidden]) -> Vec<(&str, Vec<&Hidden>)> {
    let mut all: Vec<(&str, Vec<&Hidden>)> = Vec::new();
    for hidden in not_visible {
        match all.iter_mut().find(|(how, _)| *how == hidden.how) {
            Some((_, same)) => same.push(hidden),
            None => all.push((&hidden.how, vec![hidden])),
        }
    }
    all
}

impl Report {
    /// How long the process had run when the watch ended, or when it ended itself: a verdict may look back so far.
    #[must_use]
    pub fn up_us(&self) -> Option<u64> {
        let watched_us = self.process.ended_at_us.unwrap_or(self.elapsed_us);
        self.process.age_us.map(|us| us.saturating_add(watched_us))
    }

    /// Whether nothing is wrong: no verdict, and it did not end otherwise than well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        is_well(&self.verdicts, &self.process)
    }

    /// Judges an observation.
    #[must_use]
    pub fn of(seen: &Observation) -> Self {
        let judgement = judge::judge(seen);
        let first_aid = aid::plan(seen, &judgement);
        let untold = judge::untold(seen, &judgement);
        let first = judgement.verdicts.first();
        let last_words = if first.is_none() { judge::last_words(seen) } else { Vec::new() };
        let listed = connection::listed(seen, &judgement);
        Self {
            schema: SCHEMA,
            outcome: if is_well(&judgement.verdicts, &seen.process) { "ok" } else { "failed" },
            stage: first.map(|finding| finding.verdict.stage),
            cause: first.map(|finding| finding.verdict.cause),
            elapsed_us: seen.window_us,
            process: seen.process.clone(),
            verdicts: judgement.verdicts,
            advisories: judgement.advisories,
            connections: listed.lines,
            connections_not_listed: listed.not_listed,
            connections_stalled: listed.stalled,
            last_words,
            first_aid,
            not_visible: seen.not_visible.iter().cloned().chain(untold).collect(),
            overhead: seen.overhead.clone(),
        }
    }
}

fn is_well(verdicts: &[Finding], process: &Process) -> bool {
    verdicts.is_empty() && process.ended.is_none_or(Ending::is_well)
}
