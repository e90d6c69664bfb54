//! A request that is remembered, with its stages and what was found.

use std::{sync::Arc, time::Instant};

use overdue_core::{Limit, LimitName, LimitReport, Limits, Stage, Verdict, facts::Failure, micros};
use serde_json::{Value, json};

use super::Ending;
use crate::{
    http1::{Known, Line, Protocol},
    log::Entry,
};

/// Bytes of texts from elsewhere.
const PATH_MAX: usize = 512;
const TEXT_MAX: usize = 1024;
/// Facts of a verdict, and alternatives, that are kept.
const FACTS_MAX: usize = 8;

/// What is told of one request.
pub(crate) struct Kept {
    /// The worker, and a number there.
    id: (usize, u64),
    pub(crate) end: Instant,
    pub(crate) total_us: u64,
    client: Box<str>,
    method: Box<str>,
    host: Box<str>,
    path: Box<str>,
    protocol: Option<Protocol>,
    pub(crate) route: Option<Arc<str>>,
    server: Option<Box<str>>,
    known: Known,
    bytes: (u64, u64),
    stages: Vec<Span>,
    /// That of the whole.
    total: Option<LimitReport>,
    fault: Option<Fault>,
}

struct Span {
    stage: Stage,
    start_us: u64,
    duration_us: u64,
    limit: Option<LimitReport>,
}

/// Why it did not end well.
struct Fault {
    ending: Ending,
    stage: Stage,
    /// The limit that fired.
    limit: Option<LimitReport>,
    summary: String,
    verdict: Option<Found>,
}

/// What is kept of a verdict.
struct Found {
    confidence: &'static str,
    fix: String,
    /// Facts, each with its source.
    evidence: Vec<(String, String)>,
    /// Other causes, and why not.
    rejected: Vec<(String, String)>,
}

impl Kept {
    pub(super) fn new(id: (usize, u64), entry: &Entry<'_>, line: &Line, peer: &str) -> Self {
        let limits = entry.route.map(|route| &route.route.limits);
        let fault = Ending::of(entry).map(|ending| Fault::new(ending, entry));
        let fired = fault.as_ref().and_then(|fault| fault.limit.clone().map(|limit| (fault.stage, limit)));
        let stages = entry.stages().map(|(stage, begun, ended)| Span {
            stage,
            start_us: micros(begun.saturating_duration_since(entry.marks.began)),
            duration_us: micros(ended.saturating_duration_since(begun)),
            limit: match &fired {
                Some((place, limit)) if *place == stage && limit.name != "total" => Some(limit.clone()),
                _ => limits.and_then(|limits| limit_of(stage, limits)).map(LimitReport::from),
            },
        });
        let stages = stages.collect();
        let total = match &fired {
            Some((_, limit)) if limit.name == "total" => Some(limit.clone()),
            _ => limits.and_then(|limits| limits.get(LimitName::Total)).map(LimitReport::from),
        };
        Self {
            id,
            end: entry.end,
            total_us: entry.total_us(),
            client: peer.into(),
            method: line.method().into(),
            host: line.authority().into(),
            path: cut(without_query(line.path()), PATH_MAX).into(),
            protocol: line.protocol(),
            route: entry.route.map(|route| Arc::clone(&route.route.name)),
            server: entry.server.map(|server| server.text.clone()),
            known: entry.known,
            bytes: (entry.marks.bytes_in, entry.marks.bytes_out),
            stages,
            total,
            fault,
        }
    }

    pub(super) fn json(&self, now: Instant) -> Value {
        let (worker, number) = self.id;
        let span = |span: &Span| {
            json!({
                "stage": span.stage.as_str(),
                "start_us": span.start_us,
                "duration_us": span.duration_us,
                "limit": span.limit,
            })
        };
        json!({
            "id": format!("{worker}-{number}"),
            "ago_us": micros(now.saturating_duration_since(self.end)),
            "elapsed_us": self.total_us,
            "client": self.client,
            "method": self.method,
            "host": self.host,
            "path": self.path,
            "protocol": self.protocol.map(Protocol::as_str),
            "route": self.route.as_deref(),
            "server": self.server,
            "status": self.known.status,
            "termination": str::from_utf8(&self.known.state).unwrap_or("--"),
            "flags": self.known.flag,
            "bytes_in": self.bytes.0,
            "bytes_out": self.bytes.1,
            "timeline": self.stages.iter().map(span).collect::<Vec<_>>(),
            "total": self.total,
            "fault": self.fault.as_ref().map(Fault::json),
        })
    }
}

impl Fault {
    fn new(ending: Ending, entry: &Entry<'_>) -> Self {
        match (entry.failed, entry.refused) {
            (Some((facts, judgement)), _) => {
                let limit = match &facts.failure {
                    Failure::DeadlinePassed(limit) | Failure::DeadlinePast(limit) => Some(LimitReport::from(limit)),
                    _ => None,
                };
                let verdict = judgement.verdicts.first();
                let summary = verdict.map_or_else(String::new, |verdict| cut(&verdict.summary, TEXT_MAX));
                Self { ending, stage: facts.stage, limit, summary, verdict: verdict.map(Found::new) }
            }
            (None, refused) => {
                let (stage, why) = refused.unwrap_or((crate::worker::HEAD, ""));
                // It may quote the path.
                let summary = cut(without_query(why), TEXT_MAX);
                Self { ending, stage, limit: None, summary, verdict: None }
            }
        }
    }

    fn json(&self) -> Value {
        let pairs = |names: (&str, &str), pairs: &[(String, String)]| -> Vec<Value> {
            pairs.iter().map(|(one, other)| json!({names.0: one, names.1: other})).collect()
        };
        json!({
            "ending": self.ending.text(),
            "stage": self.stage.as_str(),
            "limit": self.limit,
            "summary": self.summary,
            "confidence": self.verdict.as_ref().map(|found| found.confidence),
            "fix": self.verdict.as_ref().map(|found| &found.fix),
            "evidence": self.verdict.as_ref().map(|found| pairs(("source", "text"), &found.evidence)),
            "rejected": self.verdict.as_ref().map(|found| pairs(("cause", "why"), &found.rejected)),
        })
    }
}

impl Found {
    fn new(verdict: &Verdict) -> Self {
        let evidence = verdict.evidence.iter().take(FACTS_MAX);
        let rejected = verdict.rejected.iter().take(FACTS_MAX);
        Self {
            confidence: verdict.confidence.as_str(),
            fix: cut(&verdict.fix, TEXT_MAX),
            evidence: evidence.map(|fact| (fact.source.as_str().to_owned(), cut(&fact.text, TEXT_MAX))).collect(),
            rejected: rejected.map(|other| (other.cause.id().to_owned(), cut(&other.why, TEXT_MAX))).collect(),
        }
    }
}

/// The limit that holds for a stage: of an answer's body that of its gaps.
fn limit_of(stage: Stage, limits: &Limits) -> Option<&Limit> {
    limits.get(if stage == Stage::Receive { LimitName::Gap } else { LimitName::Stage(stage) })
}

/// What follows a question mark may be a secret.
pub(super) fn without_query(path: &str) -> String {
    match path.split_once('?') {
        Some((path, query)) if !query.is_empty() => format!("{path}?…"),
        _ => path.to_owned(),
    }
}

fn cut(text: impl AsRef<str>, most: usize) -> String {
    let text = text.as_ref();
    match (0..=most).rev().find(|end| text.is_char_boundary(*end)) {
        Some(end) if end < text.len() => format!("{}…", text.get(..end).unwrap_or_default()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_question_mark_is_not_shown() {
        assert_eq!(without_query("/x?token=secret"), "/x?…");
        assert_eq!(without_query("no route is for GET a/x?token=secret"), "no route is for GET a/x?…");
        assert_eq!((without_query("/x"), without_query("/x?")), ("/x".to_owned(), "/x?".to_owned()));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("héllo", 2), "h…");
        assert_eq!(cut("héllo", 3), "hé…");
        assert_eq!((cut("héllo", 6), cut("", 0)), ("héllo".to_owned(), String::new()));
    }
}
