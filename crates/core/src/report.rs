//! `overdue.report/1`: the four facts of a call as data, one shape for all doors.
//!
//! Fields are added, never renamed, within `/1`.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Cause, Limit, Outcome, Span, Timeline, Verdict};

/// The name of the format.
pub const SCHEMA: &str = "overdue.report/1";

/// What a call reports about itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Always `overdue.report/1`.
    pub schema: &'static str,
    /// `ok`, `timed-out`, `cancelled` or `failed`.
    pub outcome: &'static str,
    /// The stage in which the call ended, when it did not end well.
    pub stage: Option<&'static str>,
    /// The first verdict's cause.
    pub cause: Option<Cause>,
    /// The limit that fired, when one did.
    pub limit: Option<LimitReport>,
    /// From the start of the call to its end.
    pub elapsed_us: u64,
    /// The stages, in order.
    pub timeline: Vec<SpanReport>,
    /// The part of `elapsed_us` that no stage explains.
    pub unaccounted_us: u64,
    /// The connection that carried the call, when there was one.
    pub connection: Option<ConnectionReport>,
    /// Earlier attempts of the same call, first to last, without the one that is described here.
    pub attempts: Vec<Report>,
    /// Calls that ran beside this one on its behalf (hedges, fan-out).
    pub branches: Vec<Report>,
    /// What was found; the first explains most.
    pub verdicts: Vec<Verdict>,
    /// What was noticed and is no verdict.
    pub advisories: Vec<Verdict>,
    /// What could not be observed from here.
    pub not_visible: Vec<NotVisible>,
}

/// A limit in a report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LimitReport {
    /// A stage, or `head`, `gap`, `attempt`, `total`, `idle`.
    pub name: &'static str,
    /// Its value.
    pub value_us: u64,
    /// Who set it, and where.
    pub origin: String,
    /// The outer limit that cut it; always `null` for the limit that fired, which is the earliest of all.
    pub clipped_by: Option<Box<LimitReport>>,
}

impl From<&Limit> for LimitReport {
    fn from(limit: &Limit) -> Self {
        Self {
            name: limit.name.as_str(),
            value_us: micros(limit.value),
            origin: limit.origin.to_string(),
            clipped_by: None,
        }
    }
}

/// One stage in a report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SpanReport {
    /// Which stage.
    pub stage: &'static str,
    /// When it began, after the start of the call.
    pub start_us: u64,
    /// How long it took.
    pub duration_us: u64,
    /// `done`, `timed-out`, `cancelled`, `failed`, `running`.
    pub outcome: &'static str,
    /// The limit that the stage had for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_us: Option<u64>,
    /// The outer limit that left it less than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clipped_by: Option<ClippedBy>,
}

/// The name of an outer limit that cut another.
pub type ClippedBy = &'static str;

/// A connection in a report.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ConnectionReport {
    /// Counts the connections of one client, from 1.
    pub id: u64,
    /// Whether it had carried another call before.
    pub reused: bool,
    /// How long it had been idle when this call got it.
    pub idle_us: u64,
    /// The kernel's socket cookie: the key under which other tools know the same connection.
    pub cookie: Option<u64>,
    /// The other end.
    pub peer: Option<String>,
    /// The own end.
    pub local: Option<String>,
    /// `http/1.1` or `h2`.
    pub protocol: Option<&'static str>,
    /// TLS version and cipher, when TLS was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReport>,
}

/// TLS of a connection in a report.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TlsReport {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: Option<String>,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether the peer's certificate was held against any trust: not so when the caller accepts anything.
    pub verified: bool,
    /// The part of the `tls` stage that was spent verifying the certificate on this machine.
    pub verify_us: u64,
}

/// Something that could not be observed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NotVisible {
    /// What.
    pub what: &'static str,
    /// Why not.
    pub why: String,
    /// What would make it visible.
    pub how: String,
}

impl Report {
    /// A report of this timeline, without verdicts.
    #[must_use]
    pub fn new(outcome: Outcome, timeline: &Timeline, now: Instant) -> Self {
        let elapsed_us = micros(timeline.total(now));
        let spans: Vec<_> = timeline.spans().iter().map(|span| SpanReport::new(span, timeline, now)).collect();
        let known_us: u64 = spans.iter().map(|span| span.duration_us).sum();
        Self {
            schema: SCHEMA,
            outcome: outcome.as_str(),
            stage: None,
            cause: None,
            limit: None,
            elapsed_us,
            timeline: spans,
            unaccounted_us: elapsed_us.saturating_sub(known_us),
            connection: None,
            attempts: Vec::new(),
            branches: Vec::new(),
            verdicts: Vec::new(),
            advisories: Vec::new(),
            not_visible: Vec::new(),
        }
    }
}

impl SpanReport {
    fn new(span: &Span, timeline: &Timeline, now: Instant) -> Self {
        let duration = match timeline.running() {
            Some(running) if running == span => timeline.total(now).saturating_sub(span.start),
            _ => span.duration,
        };
        Self {
            stage: span.stage.as_str(),
            start_us: micros(span.start),
            duration_us: micros(duration),
            outcome: span.outcome.as_str(),
            limit_us: span.limit.map(micros),
            clipped_by: span.clipped_by.map(|name| name.as_str()),
        }
    }
}

/// Whole microseconds, as reports carry them.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "some instant to count from")]

    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::{Confidence, Deadline, Evidence, Origin, Rejected, Source, SpanOutcome, Stage};

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn tls_timed_out() -> Report {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Resolve, start, None);
        timeline.finish(start + us(312), SpanOutcome::Done);
        let limit = Limit::stage(Stage::Tls, us(500_000)).with_origin(Origin::Flag("--limit".into()));
        let call = Deadline::after(start, Limit::total(us(400_000)));
        let deadline = Deadline::after(start + us(1_000), limit.clone()).clipped(Some(&call));
        timeline.begin(Stage::Tls, start + us(1_000), Some(&deadline));
        timeline.finish_late(start + us(420_000), us(20_000), SpanOutcome::TimedOut);
        timeline.end(start + us(420_000), SpanOutcome::TimedOut);
        let verdict = Verdict {
            cause: Cause::TlsPeerSilent,
            stage: "tls",
            confidence: Confidence::Medium,
            share: 0.75,
            summary: "one sentence".to_owned(),
            fix: "what to change".into(),
            evidence: vec![Evidence::new(Source::TcpInfo, "all acknowledged").with("unacked", 0_u32)],
            rejected: vec![Rejected { cause: Cause::PathLost, why: "it was acknowledged".into() }],
        };
        let mut report = Report::new(Outcome::TimedOut, &timeline, start + us(999_999));
        report.stage = Some("tls");
        report.cause = Some(Cause::TlsPeerSilent);
        report.limit = Some(LimitReport::from(&limit));
        report.connection = Some(ConnectionReport { id: 1, cookie: Some(4097), ..ConnectionReport::default() });
        report.advisories = vec![verdict.clone()];
        report.verdicts = vec![verdict];
        report.not_visible =
            vec![NotVisible { what: "tcp-info", why: "another platform".to_owned(), how: "on Linux".to_owned() }];
        report
    }

    /// Fields are added, never renamed: whoever reads `/1` may rely on each of these.
    #[test]
    fn the_shape_of_overdue_report_1() {
        let verdict = json!({
            "cause": "tls-peer-silent", "stage": "tls", "confidence": "medium", "share": 0.75,
            "summary": "one sentence", "fix": "what to change",
            "evidence": [{"source": "tcp-info", "text": "all acknowledged", "unacked": 0}],
            "rejected": [{"cause": "path-lost", "why": "it was acknowledged"}],
        });
        let expected = json!({
            "schema": "overdue.report/1",
            "outcome": "timed-out",
            "stage": "tls",
            "cause": "tls-peer-silent",
            "limit": {"name": "tls", "value_us": 500_000, "origin": "flag --limit", "clipped_by": null},
            "elapsed_us": 420_000,
            "timeline": [
                {"stage": "resolve", "start_us": 0, "duration_us": 312, "outcome": "done"},
                {"stage": "tls", "start_us": 1_000, "duration_us": 399_000, "outcome": "timed-out",
                 "limit_us": 500_000, "clipped_by": "total"},
                {"stage": "stall", "start_us": 400_000, "duration_us": 20_000, "outcome": "done"},
            ],
            "unaccounted_us": 688,
            "connection": {"id": 1, "reused": false, "idle_us": 0, "cookie": 4097,
                           "peer": null, "local": null, "protocol": null},
            "attempts": [],
            "branches": [],
            "verdicts": [verdict],
            "advisories": [verdict],
            "not_visible": [{"what": "tcp-info", "why": "another platform", "how": "on Linux"}],
        });
        assert_eq!(serde_json::to_value(tls_timed_out()).unwrap(), expected);
    }

    #[test]
    fn a_report_of_a_call_that_runs_counts_its_running_stage() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Wait, start + us(10), None);
        let report = Report::new(Outcome::Ok, &timeline, start + us(70));
        let value = serde_json::to_value(report).unwrap();
        assert_eq!((&value["elapsed_us"], &value["unaccounted_us"]), (&json!(70), &json!(10)));
        let running = json!([{"stage": "wait", "start_us": 10, "duration_us": 60, "outcome": "running"}]);
        assert_eq!(value["timeline"], running);
        assert_eq!((&value["limit"], &value["connection"]), (&Value::Null, &Value::Null));
    }
}
