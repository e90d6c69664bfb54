//! The connections that stalled: a line each, with its stages as letters on one axis of time.

use std::{fmt::Write as _, ops::Range};

use overdue_core::Stage;
use overdue_why::{
    ConnectionLine, Report,
    judge::{Speaker, Stall},
    timeline::Phase,
};

use crate::{
    render::{time, why::is_doubted},
    screen::{Ink, Screen, harmless},
};

/// Connections that are shown; the JSON has more.
const SHOWN: usize = 8;
/// The least and the most of a line that a bar takes. With less, it goes to a line of its own.
const BAR_COLUMNS: (usize, usize) = (16, 60);
/// Characters of a request or a name.
const DETAIL: usize = 100;

/// A waterfall of those that stalled, the longest first; the others are counted.
pub(super) fn connections(screen: Screen, report: &Report) -> String {
    let all = report.connections.len() as u64 + report.connections_not_listed;
    let rows: Vec<Row<'_>> = report.connections.iter().filter_map(Row::of).take(SHOWN).collect();
    if rows.is_empty() {
        let quiet = match (all, may_stall(report)) {
            (0, _) => return String::new(),
            (1, true) => "It has one connection.".to_owned(),
            (1, false) => "Its one connection was not seen to stall.".to_owned(),
            (many, true) => format!("It has {many} connections."),
            (many, false) => format!("Of its {many} connections none was seen to stall."),
        };
        let mut out = format!("\n{}\n", screen.ink(Ink::Dim, &quiet));
        for last_words in &report.last_words {
            out.push_str(&screen.ink(Ink::Dim, &screen.hanging("", &last_words.to_string())));
        }
        return out;
    }
    let widest = |text: fn(&Row<'_>) -> usize| rows.iter().map(text).max().unwrap_or(0);
    let (peers, causes) = (widest(|row| row.peer.chars().count()), widest(|row| row.stall.cause.id().len()));
    // On either side of the bar is a column for what lies outside of the watch.
    let fixed = 2 + peers + 2 + 7 + 2 + causes + 1 + 1 + 1;
    let beside = fixed + BAR_COLUMNS.0 <= screen.columns;
    let before = if beside { fixed - 1 } else { 5 };
    let columns = screen.columns.saturating_sub(before + 1).clamp(BAR_COLUMNS.0, BAR_COLUMNS.1);

    let title = "CONNECTIONS, by stalled time";
    let end = time(report.elapsed_us);
    let axis = format!("0 {} {end}", "─".repeat(columns.saturating_sub(end.len() + 3)));
    let gap = if title.len() + 2 <= before { " ".repeat(before - title.len()) } else { format!("\n{:before$}", "") };
    let mut out = format!("\n{}{gap}{}\n", screen.ink(Ink::Bold, title), screen.ink(Ink::Dim, &axis));
    let mut legend = Legend::default();
    let mut above = String::new();
    for row in &rows {
        let bar = legend.bar(screen, row, report.elapsed_us, columns);
        let (peer, cause) = (&row.peer, row.stall.cause.id());
        let stalled = if row.stall.stalled_us > 0 { time(row.stall.stalled_us) } else { "-".to_owned() };
        if beside {
            _ = writeln!(out, "  {peer:peers$}  {stalled:>7}  {cause:causes$} {bar}");
        } else {
            _ = writeln!(out, "{}    {bar}", screen.hanging("  ", &format!("{peer}  {stalled}  {cause}")));
        }
        let detail = detail(row.line);
        if detail != above {
            out.push_str(&screen.hanging("    ", &detail));
            above = detail;
        }
    }
    out.push_str(&screen.ink(Ink::Dim, &screen.hanging("  ", &legend.to_string())));
    let more = report.connections_stalled.saturating_sub(rows.len() as u64);
    let rest = all.saturating_sub(report.connections_stalled);
    let counted = [(more, "more like these"), (rest, "without a stall")];
    let counted = counted.iter().filter(|(many, _)| *many > 0).map(|(many, what)| format!("{many} {what}"));
    let counted: Vec<_> = counted.collect();
    if !counted.is_empty() {
        _ = writeln!(out, "  {}", screen.ink(Ink::Dim, &counted.join(", ")));
    }
    out
}

/// Whether some may stall of which it is not known: clients wait, for all that was seen, or a verdict or a remark tells of
/// what may be wrong.
pub(crate) fn may_stall(report: &Report) -> bool {
    !report.verdicts.is_empty()
        || report.advisories.iter().any(is_doubted)
        || report.last_words.iter().any(|words| words.by == Speaker::Clients)
}

/// A connection that stalled.
struct Row<'a> {
    line: &'a ConnectionLine,
    stall: &'a Stall,
    peer: String,
}

impl<'a> Row<'a> {
    fn of(line: &'a ConnectionLine) -> Option<Self> {
        let peer = harmless(line.peer.as_deref().unwrap_or("?"));
        Some(Self { line, stall: line.stall.as_ref()?, peer })
    }
}

/// What is not in the line: its state, what was asked for, and what is out of the ordinary.
fn detail(line: &ConnectionLine) -> String {
    let short = |text: &str| harmless(&text.chars().take(DETAIL).collect::<String>());
    let some = |count: Option<u32>, what: &str| count.filter(|count| *count > 0).map(|count| format!("{count} {what}"));
    let mut parts = vec![line.state.to_owned()];
    parts.extend(line.tls.as_deref().map(short));
    // Said already.
    parts.extend(line.name.as_deref().filter(|name| line.peer.as_deref() != Some(name)).map(short));
    parts.extend(line.request.as_deref().map(short));
    parts.extend(line.status.map(|status| format!("status {status}")));
    parts.extend(some(line.unread_bytes, "bytes unread"));
    parts.extend(some(line.unsent_bytes, "bytes not acknowledged"));
    parts.extend(some(line.retransmits, "segments sent again"));
    parts.join(", ")
}

/// What the letters and marks mean, of those that were drawn.
#[derive(Default)]
struct Legend {
    stages: Vec<Stage>,
    inferred: bool,
    began_before: bool,
    goes_on: bool,
    between: bool,
}

impl Legend {
    /// The stages on a scale of `columns`, with a mark on either side for what lies outside of the watch. The stage that
    /// stalled is in red.
    fn bar(&mut self, screen: Screen, row: &Row<'_>, window_us: u64, columns: usize) -> String {
        let phases = &row.line.timeline;
        let stalled = stalled_phase(row.line);
        let (mut out, mut at, mut after) = (" ".to_owned(), 0, "");
        for (place, (phase, columns)) in phases.iter().zip(places(phases, window_us, columns, 1)).enumerate() {
            let (began_before, goes_on) = open_ends(phase, window_us);
            if began_before {
                out = "<".to_owned();
            }
            after = if goes_on { ">" } else { "" };
            let pause = if at == 0 { " " } else { "·" };
            self.between |= at > 0 && columns.start > at;
            out.push_str(&screen.ink(Ink::Dim, &pause.repeat(columns.start - at)));
            let letter = letter(phase);
            let ink = if Some(place) == stalled { Ink::Red } else { Ink::Bold };
            out.push_str(&screen.ink(ink, &letter.to_string().repeat(columns.len())));
            at = columns.end;
            self.add(phase, began_before, goes_on);
        }
        out + after
    }

    fn add(&mut self, phase: &Phase, began_before: bool, goes_on: bool) {
        if !self.stages.contains(&phase.stage) {
            self.stages.push(phase.stage);
        }
        self.inferred |= phase.inferred;
        self.began_before |= began_before;
        self.goes_on |= goes_on;
    }
}

impl std::fmt::Display for Legend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.stages.is_empty() {
            return f.write_str("of their stages nothing was seen");
        }
        let stages = self.stages.iter().map(|&stage| format!("{} {stage}", capital(stage)));
        let marks = [
            (self.inferred, "small letters: inferred"),
            (self.began_before, "< began before"),
            (self.goes_on, "> goes on"),
            (self.between, "· none of these"),
        ];
        let marks = marks.into_iter().filter(|(there, _)| *there).map(|(_, text)| text.to_owned());
        f.write_str(&stages.chain(marks).collect::<Vec<_>>().join(", "))
    }
}

fn capital(stage: Stage) -> char {
    match stage {
        Stage::Queue => 'Q',
        // As DNS: `receive` has the R, `send` the S.
        Stage::Resolve => 'D',
        Stage::Connect => 'C',
        Stage::Tls => 'T',
        Stage::Send => 'S',
        Stage::Wait => 'W',
        Stage::Receive => 'R',
        Stage::Handle => 'H',
        Stage::Stall => 'L',
        Stage::Named(_) => 'N',
    }
}

fn letter(phase: &Phase) -> char {
    let letter = capital(phase.stage);
    if phase.inferred { letter.to_ascii_lowercase() } else { letter }
}

/// Which of its phases is the one that stalled: of two of that stage, the one that took as long.
pub(crate) fn stalled_phase(line: &ConnectionLine) -> Option<usize> {
    let Stall { stage, stalled_us, .. } = line.stall.as_ref()?;
    let same = line.timeline.iter().enumerate().filter(|(_, phase)| phase.stage.as_str() == *stage);
    same.min_by_key(|(_, phase)| phase.duration_us.abs_diff(*stalled_us)).map(|(place, _)| place)
}

/// Whether it began before the watch, and whether it went on when the watch ended.
pub(crate) const fn open_ends(phase: &Phase, window_us: u64) -> (bool, bool) {
    let goes_on = phase.start_us.saturating_add(phase.duration_us) >= window_us;
    (phase.partial && phase.start_us == 0, phase.partial && goes_on)
}

/// Which of `columns` each phase takes: in order, without overlap, none less than `least`, so that the short ones can be
/// seen. There must be room for all: where there is not, the last ones get nothing.
pub(crate) fn places(phases: &[Phase], window_us: u64, columns: usize, least: usize) -> Vec<Range<usize>> {
    let scaled = |us: u64| {
        let column = u128::from(us) * columns as u128 / u128::from(window_us.max(1));
        usize::try_from(column).unwrap_or(columns).min(columns)
    };
    let mut free = 0;
    let mut places = Vec::new();
    for (place, phase) in phases.iter().enumerate() {
        // The others need their room, too.
        let behind = (phases.len() - place - 1).saturating_mul(least);
        let last_end = columns.saturating_sub(behind);
        let start = scaled(phase.start_us).min(last_end.saturating_sub(least)).max(free);
        let end = scaled(phase.start_us.saturating_add(phase.duration_us));
        let end = end.max(start.saturating_add(least)).min(last_end.max(start));
        places.push(start..end);
        free = end;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(stage: Stage, start_us: u64, duration_us: u64) -> Phase {
        Phase { stage, start_us, duration_us, partial: false, inferred: false }
    }

    #[test]
    fn short_stages_are_seen_and_nothing_leaves_the_axis() {
        let call = [
            phase(Stage::Connect, 0, 30),
            phase(Stage::Send, 40, 10),
            phase(Stage::Wait, 50, 4_000_000),
            phase(Stage::Receive, 4_999_999, 1),
        ];
        assert_eq!(places(&call, 5_000_000, 20, 1), [0..1, 1..2, 2..16, 19..20]);
        // All of them at the very end.
        let late: Vec<Phase> = (0..4).map(|at| phase(Stage::Send, 4_999_990 + at, 1)).collect();
        assert_eq!(places(&late, 5_000_000, 20, 1), [16..17, 17..18, 18..19, 19..20]);
        assert_eq!(places(&late, 5_000_000, 20, 4), [4..8, 8..12, 12..16, 16..20]);
        assert_eq!(places(&[phase(Stage::Wait, u64::MAX, u64::MAX)], 0, 20, 1).first(), Some(&(19..20)));
        assert!(places(&late, 1, 2, 1).iter().all(|place| place.end <= 2));
    }
}
