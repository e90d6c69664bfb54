//! Observer for `tracing`.

use std::time::Duration;

use overdue_core::{DurationText, Outcome, Report, Span};
use tracing::{debug, trace, warn};

use super::{Call, Observer};

/// Tells `tracing` of calls: stages at level TRACE, failed attempts at DEBUG, the ends of calls at DEBUG, and at WARN when
/// they failed, with stage, cause, limit, its owner and the fix.
///
/// The target is `overdue`. A call that its own caller cancelled is no warning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Observer for Tracing {
    fn stage_ended(&self, call: &Call<'_>, span: &Span) {
        trace!(
            target: "overdue",
            call = call.id,
            host = call.host,
            stage = span.stage.as_str(),
            outcome = span.outcome.as_str(),
            duration_us = overdue_core::micros(span.duration),
            "stage ended"
        );
    }

    fn attempt_failed(&self, call: &Call<'_>, report: &Report) {
        debug!(
            target: "overdue",
            call = call.id,
            host = call.host,
            stage = report.stage,
            cause = report.cause.map(|cause| cause.id()),
            "attempt failed, trying again"
        );
    }

    fn call_ended(&self, call: &Call<'_>, outcome: Outcome, elapsed: Duration, report: Option<&Report>) {
        let elapsed_us = overdue_core::micros(elapsed);
        let Some(report) = report.filter(|_| outcome != Outcome::Cancelled) else {
            debug!(target: "overdue", call = call.id, host = call.host, outcome = outcome.as_str(), elapsed_us, "call ended");
            return;
        };
        let verdict = report.verdicts.first();
        warn!(
            target: "overdue",
            call = call.id,
            host = call.host,
            outcome = outcome.as_str(),
            elapsed_us,
            stage = report.stage,
            cause = report.cause.map(|cause| cause.id()),
            limit = report.limit.as_ref().map(|limit| limit.name),
            limit_value = report.limit.as_ref().map(|limit| DurationText(Duration::from_micros(limit.value_us)).to_string()),
            limit_origin = report.limit.as_ref().map(|limit| limit.origin.as_str()),
            confidence = verdict.map(|verdict| verdict.confidence.as_str()),
            summary = verdict.map(|verdict| verdict.summary.as_str()),
            fix = verdict.map(|verdict| verdict.fix.as_ref()),
            "call failed"
        );
    }
}
