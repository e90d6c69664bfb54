//! Observer for the `metrics` facade.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{counter, describe_counter, describe_histogram, histogram};
use overdue_core::{Outcome, Report, Span};

use super::{Call, Observer};

/// The label of a host beyond the bound.
const OTHER: &str = "other";

/// Records calls with the `metrics` facade, whatever exporter is installed.
///
/// | metric | kind | labels |
/// |---|---|---|
/// | `overdue_stage_seconds` | histogram | `stage`, `host`, `outcome` (`done`, `timed-out`, `cancelled`, `failed`) |
/// | `overdue_calls_total` | counter | `host`, `outcome` (`ok`, `timed-out`, `cancelled`, `failed`) |
/// | `overdue_failures_total` | counter | `cause`, `stage`, `host` |
/// | `overdue_attempts_failed_total` | counter | `cause`, `stage`, `host` |
///
/// `host` has at most as many values as it is made with; every further host is `other`, so that a client that calls
/// whatever its users name does not fill the memory of the exporter.
#[derive(Debug)]
pub struct Metrics {
    hosts_max: usize,
    hosts: Mutex<HashMap<Box<str>, Arc<str>>>,
}

impl Metrics {
    /// Labels at most `hosts_max` hosts by name.
    #[must_use]
    pub fn new(hosts_max: usize) -> Self {
        describe_histogram!(
            "overdue_stage_seconds",
            metrics::Unit::Seconds,
            "How long a stage of a call took, by how it ended"
        );
        describe_counter!("overdue_calls_total", "Calls, by how they ended");
        describe_counter!("overdue_failures_total", "Calls that did not end well, by judged cause");
        describe_counter!(
            "overdue_attempts_failed_total",
            "Attempts that failed in calls that went on, by judged cause"
        );
        Self { hosts_max, hosts: Mutex::default() }
    }

    fn host(&self, call: &Call<'_>) -> Arc<str> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(call.host) {
            return Arc::clone(host);
        }
        if hosts.len() >= self.hosts_max {
            return OTHER.into();
        }
        let host: Arc<str> = call.host.into();
        hosts.insert(call.host.into(), Arc::clone(&host));
        host
    }
}

impl Default for Metrics {
    /// Labels at most 100 hosts by name.
    fn default() -> Self {
        Self::new(100)
    }
}

impl Observer for Metrics {
    fn stage_ended(&self, call: &Call<'_>, span: &Span) {
        let host = self.host(call);
        let outcome = span.outcome.as_str();
        // A user's own stage name is &'static, so that this label is bounded by the program's text.
        histogram!("overdue_stage_seconds", "stage" => span.stage.as_str(), "host" => host, "outcome" => outcome)
            .record(span.duration);
    }

    fn attempt_failed(&self, call: &Call<'_>, report: &Report) {
        let (cause, stage) = labels(report);
        counter!("overdue_attempts_failed_total", "cause" => cause, "stage" => stage, "host" => self.host(call))
            .increment(1);
    }

    fn call_ended(&self, call: &Call<'_>, outcome: Outcome, _: Duration, report: Option<&Report>) {
        let host = self.host(call);
        counter!("overdue_calls_total", "host" => Arc::clone(&host), "outcome" => outcome.as_str()).increment(1);
        if let Some(report) = report {
            let (cause, stage) = labels(report);
            counter!("overdue_failures_total", "cause" => cause, "stage" => stage, "host" => host).increment(1);
        }
    }
}

fn labels(report: &Report) -> (&'static str, &'static str) {
    (report.cause.map_or("unknown", |cause| cause.id()), report.stage.unwrap_or("unknown"))
}
