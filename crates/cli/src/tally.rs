//! What many calls have in common: percentiles for each stage, and a count of how they ended.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use overdue_core::{Cause, Report};
use serde::Serialize;

use crate::{
    drive::{Called, NotFollowed},
    render::{self, time},
    screen::{Ink, Screen},
};

/// The order in which stages are shown; others follow.
const STAGES: [&str; 9] = ["queue", "resolve", "connect", "tls", "send", "wait", "receive", "handle", "stall"];

/// Three significant digits.
const DIGITS: u8 = 3;

/// What is known of the calls so far. Its size does not grow with their number.
#[derive(Debug)]
pub(crate) struct Tally {
    total: Histogram<u64>,
    /// The time that one call spent in a stage, of the calls that came to it.
    stages: BTreeMap<&'static str, Histogram<u64>>,
    /// The time of a call that no stage explains.
    unaccounted: Histogram<u64>,
    outcomes: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<u16, u64>,
    causes: BTreeMap<Cause, Found>,
    body_bytes: u64,
    new_connections: u64,
    sent_again: u64,
    /// Why calls were sent again: the causes of their failed attempts.
    sent_again_for: BTreeMap<&'static str, u64>,
}

/// How a call counts that redirects led in circles: nothing is wrong with its last answer.
const REDIRECT_LOOP: &str = "redirect-loop";

/// A cause, how often it was found, and one of the calls.
#[derive(Debug)]
struct Found {
    count: u64,
    example: Report,
}

/// A line of the table.
#[derive(Serialize)]
struct Line {
    stage: &'static str,
    calls: u64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Line {
    fn of(stage: &'static str, times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile).min(times.max());
        Self { stage, calls: times.len(), p50_us: at(0.5), p90_us: at(0.9), p99_us: at(0.99), max_us: times.max() }
    }
}

/// What no stage of this call, and none of its earlier attempts, explains.
fn unaccounted_us(report: &Report) -> u64 {
    let earlier = report.attempts.iter().flat_map(|attempt| &attempt.timeline);
    report.unaccounted_us.saturating_sub(earlier.map(|span| span.duration_us).sum())
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new(DIGITS)?)
}

impl Tally {
    /// Of no call.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            total: histogram()?,
            stages: BTreeMap::new(),
            unaccounted: histogram()?,
            outcomes: BTreeMap::new(),
            statuses: BTreeMap::new(),
            causes: BTreeMap::new(),
            body_bytes: 0,
            new_connections: 0,
            sent_again: 0,
            sent_again_for: BTreeMap::new(),
        })
    }

    /// Adds a call, with the calls that redirects made of it.
    pub(crate) fn add(&mut self, called: &Called) -> anyhow::Result<()> {
        let report = &called.answer.report;
        let reports = || called.redirects.iter().map(|redirect| &redirect.report).chain([report]);
        self.total.record(reports().map(|report| report.elapsed_us).sum())?;
        let attempts = || reports().flat_map(|report| &report.attempts);
        let mut stages = BTreeMap::<_, u64>::new();
        for span in reports().chain(attempts()).flat_map(|report| &report.timeline) {
            *stages.entry(span.stage).or_default() += span.duration_us;
        }
        // To the last attempt, the time of those before it is none of its stages'.
        self.unaccounted.record(reports().map(unaccounted_us).sum())?;
        self.sent_again += u64::from(attempts().next().is_some());
        for attempt in attempts() {
            *self.sent_again_for.entry(attempt.cause.map_or(attempt.outcome, Cause::id)).or_default() += 1;
        }
        for (stage, us) in stages {
            match self.stages.get_mut(stage) {
                Some(times) => times.record(us)?,
                None => {
                    let mut times = histogram()?;
                    times.record(us)?;
                    self.stages.insert(stage, times);
                }
            }
        }
        let is_endless = matches!(called.not_followed, Some(NotFollowed::TooMany(_)));
        *self.outcomes.entry(if is_endless { REDIRECT_LOOP } else { report.outcome }).or_default() += 1;
        if let Some(head) = &called.answer.head {
            *self.statuses.entry(head.status.as_u16()).or_default() += 1;
        }
        if let Some(cause) = report.cause {
            self.causes.entry(cause).or_insert_with(|| Found { count: 0, example: report.clone() }).count += 1;
        }
        self.body_bytes += called.answer.body_bytes;
        let is_new = |report: &&Report| report.connection.as_ref().is_some_and(|connection| !connection.reused);
        self.new_connections += reports().filter(is_new).count() as u64;
        Ok(())
    }

    /// Adds what another tally counted.
    pub(crate) fn merge(&mut self, other: Self) -> anyhow::Result<()> {
        self.total.add(other.total)?;
        for (stage, times) in other.stages {
            match self.stages.get_mut(stage) {
                Some(own) => own.add(times)?,
                None => drop(self.stages.insert(stage, times)),
            }
        }
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (cause, found) in other.causes {
            self.causes.entry(cause).and_modify(|own| own.count += found.count).or_insert(found);
        }
        self.body_bytes += other.body_bytes;
        self.new_connections += other.new_connections;
        self.unaccounted.add(other.unaccounted)?;
        self.sent_again += other.sent_again;
        for (cause, count) in other.sent_again_for {
            *self.sent_again_for.entry(cause).or_default() += count;
        }
        Ok(())
    }

    /// Whether anything was found to be wrong with a call.
    pub(crate) fn has_findings(&self) -> bool {
        !self.causes.is_empty() || self.outcomes.contains_key(REDIRECT_LOOP)
    }

    fn lines(&self) -> Vec<Line> {
        let known = STAGES.iter().copied();
        let others = self.stages.keys().copied().filter(|stage| !STAGES.contains(stage));
        let stages = known.chain(others).filter_map(|stage| Some(Line::of(stage, self.stages.get(stage)?)));
        stages.chain([Line::of("unaccounted", &self.unaccounted), Line::of("total", &self.total)]).collect()
    }

    /// The causes, the most frequent first.
    fn ranked(&self) -> Vec<(Cause, &Found)> {
        let mut causes: Vec<_> = self.causes.iter().map(|(cause, found)| (*cause, found)).collect();
        causes.sort_by_key(|(cause, found)| (std::cmp::Reverse(found.count), *cause));
        causes
    }

    /// For a program.
    pub(crate) fn json(&self, elapsed: Duration, concurrency: u16) -> serde_json::Value {
        let example = |(cause, Found { count, example }): (Cause, &Found)| serde_json::json!({ "cause": cause, "calls": count, "example": example });
        let causes: Vec<_> = self.ranked().into_iter().map(example).collect();
        serde_json::json!({
            "schema": "overdue.calls/1",
            "calls": self.total.len(),
            "concurrency": concurrency,
            "elapsed_us": overdue_core::micros(elapsed),
            "outcomes": self.outcomes,
            "statuses": self.statuses,
            "body_bytes": self.body_bytes,
            "new_connections": self.new_connections,
            "sent_again": { "calls": self.sent_again, "causes": self.sent_again_for },
            "stages": self.lines(),
            "causes": causes,
        })
    }

    /// For a reader.
    pub(crate) fn text(&self, screen: Screen, elapsed: Duration, concurrency: u16) -> String {
        let calls = self.total.len();
        let rate = calls as f64 / elapsed.as_secs_f64().max(1e-9);
        let mut out = format!(
            "{}, {concurrency} at a time, in {}: {rate:.0} a second, {}, {} of body\n",
            plural(calls, "call"),
            time(overdue_core::micros(elapsed)),
            plural(self.new_connections, "new connection"),
            bytes(self.body_bytes),
        );
        let outcomes = self.outcomes.iter().map(|(outcome, count)| {
            let ink = if *outcome == "ok" { Ink::Green } else { Ink::Red };
            screen.ink(ink, &format!("{outcome} {count}"))
        });
        let statuses = self.statuses.iter().map(|(status, count)| format!("status {status}: {count}"));
        _ = writeln!(out, "{}", outcomes.chain(statuses).collect::<Vec<_>>().join("   "));
        if self.sent_again > 0 {
            let causes: Vec<_> = self.sent_again_for.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
            let line = format!("sent again: {} ({})", self.sent_again, causes.join(", "));
            _ = writeln!(out, "{}", screen.ink(Ink::Yellow, &line));
        }
        out.push('\n');

        let head = format!("  {:11}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}", "stage", "calls", "p50", "p90", "p99", "max");
        _ = writeln!(out, "{}", screen.ink(Ink::Dim, &head));
        for Line { stage, calls, p50_us, p90_us, p99_us, max_us } in self.lines() {
            let [p50, p90, p99, max] = [p50_us, p90_us, p99_us, max_us].map(time);
            _ = writeln!(out, "  {stage:11}  {calls:>8}  {p50:>8}  {p90:>8}  {p99:>8}  {max:>8}");
        }

        let causes = self.ranked();
        if !causes.is_empty() {
            _ = writeln!(out, "\n{}", screen.ink(Ink::Bold, "CAUSES"));
        }
        for (cause, found) in &causes {
            _ = writeln!(out, "  {:>8}  {cause}", found.count);
        }
        for (cause, found) in &causes {
            let example = &found.example;
            _ = write!(out, "\n{} {}", screen.ink(Ink::Bold, "EXAMPLE"), render::headline(screen, example));
            if let Some(verdict) = example.verdicts.first() {
                out.push_str(&render::short(screen, verdict));
            }
            _ = writeln!(out, "  {}", screen.ink(Ink::Dim, &format!("overdue explain {cause}")));
        }
        out
    }
}

/// `1 call`, `2 calls`.
fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number of bytes for a reader.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return plural(count, "byte");
    }
    let (mut value, mut unit) = (count as f64 / 1000.0, "kB");
    for larger in UNITS.into_iter().skip(1) {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sizes_read_well() {
        assert_eq!(plural(1, "call"), "1 call");
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(64 << 20), "67.1 MB");
    }
}
