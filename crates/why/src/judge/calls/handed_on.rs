//! Callers whose wait was a call's wait: it began just when they had asked, or ended just when they were answered. So a
//! wait that is over tells as much as one that goes on, and a call among thousands of others tells whose it was.

use std::collections::{BTreeMap, HashSet};

use overdue_core::{Cause, Confidence, Evidence, Stage};

use super::{all_transfers, may_wait};
use crate::{
    Observation,
    judge::{
        Finding, Severity, ShareOf, bpf, count, share,
        thresholds::{CROWD, GIVEN_UP_US, HANDED_ON_MS, MOST, PILE, SETTLED_US, TICK_MS},
        time, total,
    },
    observation::{Connection, Gaps, Moment, Side},
};

/// From when until when, in microseconds since the watch began.
pub(super) type Span = (u64, u64);

/// What a call waited for its peer, if that is over: for its answer, or until it was given up.
pub(super) fn waited(connection: &Connection) -> Option<Span> {
    let closed = connection.closed.and_then(Moment::us);
    let asked = connection
        .last_write
        .and_then(Moment::us)
        .filter(|wrote| Some(*wrote) > connection.last_read.and_then(Moment::us));
    // One that never came up was waited for from its beginning.
    let begun = if connection.established.is_none() { connection.opened.and_then(Moment::us) } else { asked };
    let given_up = begun.zip(closed.filter(|_| connection.closed_by_us));
    longest([given_up, gap(&connection.read_gaps)])
}

/// What a caller waited, if he was answered, or left.
fn kept_waiting(connection: &Connection) -> Option<Caller> {
    let asked = connection
        .last_read
        .and_then(Moment::us)
        .filter(|read| Some(*read) > connection.last_write.and_then(Moment::us));
    let gone = connection.fin_received.and_then(Moment::us).or(connection.closed.and_then(Moment::us));
    let left = asked.zip(gone).filter(|(asked, gone)| gone > asked);
    let answered = gap(&connection.write_gaps);
    let span = longest([left, answered])?;
    let has_left = left == Some(span);
    let waits = if has_left { 1 } else { connection.write_gaps.total_us / length(span).max(1) };
    Some(Caller { span, waits, left: has_left })
}

fn gap(gaps: &Gaps) -> Option<Span> {
    Some((gaps.longest_at_us, gaps.longest_at_us.saturating_add(gaps.longest_us)))
}

/// The longest of those that are felt.
fn longest<const N: usize>(spans: [Option<Span>; N]) -> Option<Span> {
    let felt = spans.into_iter().flatten().filter(|span| length(*span) >= GIVEN_UP_US);
    felt.max_by_key(|span| length(*span))
}

const fn length((from, until): Span) -> u64 {
    until.saturating_sub(from)
}

/// A caller that waited, in the past.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    span: Span,
    /// How often he waited as long, at least.
    waits: u64,
    /// He went away without an answer.
    left: bool,
}

impl Caller {
    /// Whether most of his wait was this call's, which was made for him: it began just after he had asked, or ended just
    /// before he was answered.
    fn waited_for(&self, call: Span) -> bool {
        let (tick, handed_on) = (u64::from(TICK_MS) * 1_000, u64::from(HANDED_ON_MS) * 1_000);
        let ((asked, answered), (begun, ended)) = (self.span, call);
        let within = begun.saturating_add(tick) >= asked && (self.left || ended <= answered.saturating_add(tick));
        let near = begun <= asked.saturating_add(handed_on) || ended.saturating_add(handed_on) >= answered;
        let both = answered.min(ended).saturating_sub(asked.max(begun));
        within && near && share(both, length(self.span)) >= MOST.0
    }
}

/// Callers who waited while the process was watched, as long as every read and write was seen.
pub(super) fn callers(seen: &Observation) -> Vec<Caller> {
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let accepted = connections.filter(|it| it.side == Side::Server && !may_wait(it) && all_transfers(seen));
    accepted.filter_map(kept_waiting).collect()
}

/// Those of them whose wait was one of these calls', where it was most of those who waited at all: a fetch in the
/// background that is always under way has the same times as a caller by chance.
pub(super) fn led_to(callers: &[Caller], calls: &[Span]) -> Vec<Caller> {
    let led = |caller: &&Caller| calls.iter().any(|call| caller.waited_for(*call));
    let found: Vec<Caller> = callers.iter().filter(led).copied().collect();
    let waits = total(found.iter().map(|caller| caller.waits));
    let is_no_chance = waits >= CROWD && share(found.len() as u64, callers.len() as u64) >= MOST.0;
    if is_no_chance { found } else { Vec::new() }
}

/// Callers who leave before they are answered, or wait for less than is called long, while a call that was made for them is
/// under way.
pub(in crate::judge) fn impatient(seen: &Observation) -> Vec<Finding> {
    let callers = callers(seen);
    let mut calls: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    for connection in connections.filter(|it| it.side == Side::Client && !may_wait(it)) {
        if let (Some(peer), Some(span)) = (connection.remote, waited(connection)) {
            calls.entry(peer.to_string()).or_default().push(span);
        }
    }
    let found = calls.iter().map(|(peer, calls)| (peer, calls, led_to(&callers, calls)));
    let Some((peer, calls, led)) = found.max_by_key(|(_, _, led)| led.len()).filter(|(_, _, led)| !led.is_empty())
    else {
        return Vec::new();
    };
    let longest_us = calls.iter().map(|call| length(*call)).max().unwrap_or(0);
    // The rest is told of as a call that waits.
    if longest_us >= SETTLED_US {
        return Vec::new();
    }
    let left: Vec<&Caller> = led.iter().filter(|caller| caller.left).collect();
    let asked = served(seen);
    let refuses = left.len() >= PILE && share(left.len() as u64, asked) >= MOST.0;
    let of: Vec<&Caller> = if refuses { left } else { led.iter().collect() };
    let number = of.len() as u64;
    let waited_us = of.iter().map(|caller| length(caller.span)).max().unwrap_or(0);
    let does = if refuses { "left without an answer after" } else { "waited for an answer for" };
    let is_enough = if refuses { "; it takes longer than they wait" } else { "" };
    let finding = Finding::new(
        Cause::WaitsUpstream,
        Severity::Waiting,
        Confidence::Medium,
        format!(
            "{} of this process {does} {} at most, nearly all of it while it waited for {peer}, which takes up to {}{is_enough}",
            count(number, "caller"),
            time(waited_us),
            time(longest_us),
        ),
    )
    .because(evidence(&led, calls.len() as u64))
    .rejected(Cause::CpuBusy, "it does not compute meanwhile: its calls wait")
    .fix(
        "Look at what that peer takes its time for. The limit of a caller has to be longer than the limits of what it calls: \
         forward the time that remains, so that nobody works for who has left.",
    );
    let mut finding = finding.share(ShareOf::Connections, share(number, asked));
    finding.verdict.stage = Stage::Wait.as_str();
    finding.peer = Some(peer.clone());
    finding.advisory = !refuses;
    vec![finding]
}

/// What ties callers to calls.
pub(super) fn evidence(led: &[Caller], calls: u64) -> Evidence {
    let left = led.iter().filter(|caller| caller.left).count();
    let gone = if left > 0 { format!("; {left} of them left unanswered") } else { String::new() };
    bpf(format!(
        "the waits of {} began just before one of {} did, or ended just after it{gone}",
        count(led.len() as u64, "caller"),
        count(calls, "call"),
    ))
    .with("callers", led.len() as u64)
    .with("left", left as u64)
}

/// Connections on which something was asked in the window.
fn served(seen: &Observation) -> u64 {
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let asked = connections.filter(|it| it.side == Side::Server && it.last_read.and_then(Moment::us).is_some());
    asked.map(|it| it.cookie).collect::<HashSet<_>>().len() as u64
}
