//! A report as text: a waterfall of the stages against their limits, and what was found.

pub(crate) mod why;

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use overdue_core::{ConnectionReport, DurationText, Limit, LimitReport, Limits, Report, SpanReport, Verdict};

use crate::screen::{Ink, Screen, harmless};

/// Unaccounted time is shown from this part of the whole on.
const UNACCOUNTED_SHARE: f64 = 0.01;

/// The least and the most of a line that a bar takes.
const BAR_COLUMNS: (usize, usize) = (8, 60);

/// Microseconds for a reader.
pub(crate) fn time(us: u64) -> String {
    DurationText(Duration::from_micros(us)).to_string()
}

/// All that a report says: first what a reader needs, then what it rests on. `limits` are those of the call.
pub(crate) fn report(screen: Screen, report: &Report, limits: &Limits) -> String {
    let mut out = headline(screen, report) + "\n";
    if let Some(first) = report.verdicts.first() {
        out += &verdict(screen, first);
        out.push('\n');
    }
    out += &waterfall(screen, report, limits);
    if let Some(made) = &report.connection {
        _ = write!(out, "\n{}", connection(screen, made));
    }
    out + &reasons(screen, report)
}

/// How a call ended, and by which limit: `timed out in tls after 601ms`.
pub(crate) fn headline(screen: Screen, report: &Report) -> String {
    let elapsed = time(report.elapsed_us);
    let Some(stage) = report.stage else {
        return screen.ink(Ink::Green, &format!("{} in {elapsed}", report.outcome)) + "\n";
    };
    let ended = format!("{} in {stage} after {elapsed}", report.outcome.replace('-', " "));
    let mut out = screen.ink(Ink::Red, &ended) + "\n";
    if let Some(LimitReport { name, value_us, origin, .. }) = &report.limit {
        let limit = format!("limit {name} {}, set by {}", time(*value_us), owner(origin));
        out.push_str(&screen.hanging("  ", &limit));
    }
    out
}

fn owner(origin: &str) -> &str {
    if origin == "default" { "default (change it with --limit)" } else { origin }
}

/// The stages as bars on one scale, each with its time and its limit.
pub(crate) fn waterfall(screen: Screen, report: &Report, limits: &Limits) -> String {
    let shown = |limit: &Option<Limit>, before: &str| {
        limit.as_ref().map(|limit| format!("{before}{}", DurationText(limit.value))).unwrap_or_default()
    };
    let mut rows: Vec<Row> = report.timeline.iter().map(Row::of).collect();
    // The body has no limit of its own; what holds for it is that of its gaps.
    for row in rows.iter_mut().filter(|row| row.name == "receive" && row.limit.is_empty()) {
        row.limit = shown(&limits.gap, "gap ");
    }
    let share = report.unaccounted_us as f64 / report.elapsed_us.max(1) as f64;
    if share >= UNACCOUNTED_SHARE {
        rows.push(Row::bare("unaccounted", report.unaccounted_us));
    }
    rows.push(Row { limit: shown(&limits.total, ""), ..Row::bare("total", report.elapsed_us) });

    let widest = |text: fn(&Row) -> Cow<'_, str>| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
    let (names, times) = (widest(|row| row.name.into()), widest(|row| (&row.time).into()).max("time".len()));
    let noted = widest(|row| row.noted().into()).max("limit".len());
    let mut limits = widest(|row| (&row.limit).into()).max("limit".len());
    let fixed = 2 + names + 2 + 2 + times + 2;
    let mut taken = fixed + noted + 2 + widest(|row| row.ending.into());
    // Without room for what is noted behind the limits, it goes to lines of its own.
    let beside = taken + BAR_COLUMNS.0 <= screen.columns;
    if beside {
        limits = noted;
    } else {
        taken = fixed + limits;
    }
    let bar = screen.columns.saturating_sub(taken).clamp(if beside { BAR_COLUMNS.0 } else { 1 }, BAR_COLUMNS.1);

    let head = format!("  {:names$}  {:bar$}  {:>times$}  limit", "stage", "", "time");
    let mut out = screen.ink(Ink::Dim, &head) + "\n";
    for row in &rows {
        let ink = if row.ending.is_empty() { Ink::Bold } else { Ink::Red };
        let (before, filled, after) = row.bar(bar, report.elapsed_us);
        let bar = format!("{:before$}{}{:after$}", "", screen.ink(ink, &filled), "");
        let limit = if beside { row.noted() } else { row.limit.clone() };
        let line = format!("  {:names$}  {bar}  {:>times$}  {limit:limits$}", row.name, row.time);
        let ending = screen.ink(Ink::Red, row.ending);
        if beside && !ending.is_empty() {
            _ = writeln!(out, "{line}  {ending}");
            continue;
        }
        _ = writeln!(out, "{}", line.trim_end());
        for note in [row.note.as_str(), &ending].into_iter().filter(|note| !beside && !note.is_empty()) {
            _ = writeln!(out, "    {note}");
        }
    }
    out
}

/// A line of the waterfall.
struct Row {
    name: &'static str,
    /// Start and length of its bar; the whole call has none.
    bar_us: Option<(u64, u64)>,
    time: String,
    limit: String,
    /// What is said about the limit.
    note: String,
    ending: &'static str,
}

impl Row {
    fn bare(name: &'static str, us: u64) -> Self {
        Self { name, bar_us: None, time: time(us), limit: String::new(), note: String::new(), ending: "" }
    }

    fn of(span: &SpanReport) -> Self {
        let limit = span.limit_us.map(time).unwrap_or_default();
        let note = span.clipped_by.map(|outer| format!("clipped by {outer}")).unwrap_or_default();
        let ending = match span.outcome {
            "done" => "",
            "timed-out" => "timed out",
            other => other,
        };
        let bar_us = Some((span.start_us, span.duration_us));
        Self { bar_us, limit, note, ending, ..Self::bare(span.stage, span.duration_us) }
    }

    /// The limit, and what is said about it.
    fn noted(&self) -> String {
        if self.note.is_empty() { self.limit.clone() } else { format!("{}, {}", self.limit, self.note) }
    }

    /// Blank columns, the bar, and blank columns again, for a scale of `columns`. A bar is drawn to an eighth of a
    /// column, and never so short that it cannot be seen.
    fn bar(&self, columns: usize, elapsed_us: u64) -> (usize, String, usize) {
        const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
        let Some((start, length)) = self.bar_us else { return (columns, String::new(), 0) };
        let eighths = |us: u64| usize::try_from(us.saturating_mul(8 * columns as u64) / elapsed_us.max(1)).unwrap_or(0);
        let before = (eighths(start) / 8).min(columns - 1);
        let length = eighths(length).clamp(1, 8 * (columns - before));
        let mut bar = "█".repeat(length / 8);
        bar.extend((length % 8).checked_sub(1).and_then(|part| EIGHTHS.get(part)));
        let after = columns - before - bar.chars().count();
        (before, bar, after)
    }
}

/// The connection in one line.
fn connection(screen: Screen, connection: &ConnectionReport) -> String {
    let mut parts = Vec::new();
    parts.push(match (&connection.peer, &connection.local) {
        (Some(peer), Some(local)) => format!("{peer} from {local}"),
        (Some(peer), None) => peer.clone(),
        (None, _) => "not made".to_owned(),
    });
    parts.extend(connection.protocol.map(str::to_owned));
    if let Some(tls) = &connection.tls {
        let resumed = if tls.resumed { ", resumed" } else { "" };
        parts.extend(tls.version.as_ref().map(|version| format!("{version}{resumed}")));
        if tls.version.is_some() && !tls.verified {
            parts.push("certificate NOT verified".to_owned());
        } else if tls.verify_us > 0 {
            parts.push(format!("certificate verified in {}", time(tls.verify_us)));
        }
    }
    parts.push(if connection.reused {
        format!("reused after {} idle", time(connection.idle_us))
    } else {
        "new".into()
    });
    screen.hanging("  connection  ", &parts.join(", "))
}

/// What was found: the cause, and what was seen of it in a sentence.
fn verdict(screen: Screen, verdict: &Verdict) -> String {
    let title = screen.ink(Ink::Red, &format!("VERDICT {}", of(verdict)));
    format!("{title}\n{}", screen.hanging("  ", &verdict.summary))
}

fn of(verdict: &Verdict) -> String {
    format!("{} in {}, {} confidence", verdict.cause, verdict.stage, verdict.confidence)
}

/// What the verdict rests on, and what to do.
fn reasons(screen: Screen, report: &Report) -> String {
    let mut out = String::new();
    for (place, earlier) in report.attempts.iter().enumerate() {
        let what = earlier.cause.map_or(earlier.outcome, |cause| cause.entry().id);
        let stage = earlier.stage.unwrap_or("an unknown stage");
        let text = format!("{what} in {stage} after {}; then the call was tried again", time(earlier.elapsed_us));
        out.push_str(&screen.hanging(&format!("  attempt {}   ", place + 1), &text));
    }
    for (place, verdict) in report.verdicts.iter().enumerate() {
        if place > 0 {
            _ = write!(out, "\n{}", self::verdict(screen, verdict));
        }
        if !verdict.evidence.is_empty() {
            _ = writeln!(out, "\n{}", screen.ink(Ink::Bold, "EVIDENCE"));
        }
        for evidence in &verdict.evidence {
            out.push_str(&screen.hanging(&format!("  {:12}  ", evidence.source.as_str()), &evidence.text));
        }
        for rejected in &verdict.rejected {
            let title = format!("{} {}", screen.ink(Ink::Bold, "REJECTED"), rejected.cause);
            out.push_str(&section(screen, &title, &rejected.why));
        }
        out.push_str(&fix(screen, verdict));
    }
    for advisory in &report.advisories {
        let title = format!("{} {}", screen.ink(Ink::Yellow, "ALSO"), advisory.cause);
        out.push_str(&section(screen, &title, &advisory.summary));
        out.push_str(&screen.hanging("  fix: ", &advisory.fix));
    }
    if !report.not_visible.is_empty() {
        _ = writeln!(out, "\n{}", screen.ink(Ink::Bold, "NOT VISIBLE"));
    }
    for gap in &report.not_visible {
        out.push_str(&screen.hanging("  ", &format!("{}: {}. To see it: {}", gap.what, gap.why, gap.how)));
    }
    if let Some(verdict) = report.verdicts.first() {
        let more = format!("More about it: overdue explain {}", verdict.cause);
        _ = writeln!(out, "\n{}", screen.ink(Ink::Dim, &more));
    }
    out
}

/// What was found, in short: verdict, what speaks for it, the strongest alternative, fix.
pub(crate) fn short(screen: Screen, verdict: &Verdict) -> String {
    let mut out = format!("  verdict  {}\n", screen.ink(Ink::Red, &of(verdict)));
    out.push_str(&screen.hanging("  because  ", &verdict.summary));
    if let Some(rejected) = verdict.rejected.first() {
        out.push_str(&screen.hanging("  not      ", &format!("{}: {}", rejected.cause, rejected.why)));
    }
    out + &screen.hanging("  fix      ", &verdict.fix)
}

/// What to do. A verdict that knows no better than the catalogue gives all that is there.
fn fix(screen: Screen, verdict: &Verdict) -> String {
    match verdict.cause.entry().fix {
        all @ [first, _, ..] if verdict.fix == *first => {
            let points: String = all.iter().map(|point| screen.hanging("  - ", point)).collect();
            format!("\n{}\n{points}", screen.ink(Ink::Bold, "FIX, one of"))
        }
        _ => section(screen, &screen.ink(Ink::Bold, "FIX"), &verdict.fix),
    }
}

fn section(screen: Screen, title: &str, text: &str) -> String {
    format!("\n{title}\n{}", screen.hanging("  ", text))
}

/// The status line and header fields of a response, safe to print.
pub(crate) fn head(head: &http::response::Parts) -> String {
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut out = format!("{:?} {} {reason}", head.version, head.status.as_str()).trim_end().to_owned();
    for (name, value) in &head.headers {
        _ = write!(out, "\n{name}: {}", harmless(&String::from_utf8_lossy(value.as_bytes())));
    }
    out + "\n"
}

#[cfg(test)]
mod tests;
