//! Descriptors that run out.

use overdue_core::{Cause, Confidence, Evidence};

use super::{Finding, NEAR_LIMIT, Severity, ShareOf, bpf, count, place, proc, share, time, total};
use crate::{
    Observation,
    observation::{Call, Fds, Reading},
};

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
/// Fewer than this in a whole window is nothing that grows.
const GROWN: u64 = 4;

/// A leak, or a limit that is too low for the load.
pub(super) fn rule(seen: &Observation) -> Vec<Finding> {
    let Some(fds) = &seen.fds else { return Vec::new() };
    let Some((first, last)) = fds.open.first().zip(fds.open.last()) else { return Vec::new() };
    let refused = refusals(seen);
    let part = share(last.value, fds.soft_limit);
    let is_full = last.value >= fds.soft_limit.saturating_sub(1);
    let growth = Growth::of(&fds.open, fds.soft_limit);

    if let Some(growth) = &growth
        && (part >= NEAR_LIMIT.0 || growth.full_in_us.is_some_and(|us| u128::from(us) <= NEAR_LIMIT.1.as_micros()))
    {
        let when = match growth.full_in_us {
            _ if is_full => ", which is reached".to_owned(),
            Some(us) => format!(", which is reached in {}", time(us)),
            None => String::new(),
        };
        let what = grower(fds).map(|what| format!(", most of them {what}")).unwrap_or_default();
        let summary = format!(
            "open descriptors grow without coming back: {} to {} in {}{what}; the limit is {}{when}",
            first.value,
            last.value,
            time(last.at_us.saturating_sub(first.at_us)),
            fds.soft_limit,
        );
        let finding = Finding::new(Cause::FdLeak, severity(is_full || refused.is_some()), growth.confidence(), summary)
            .because(
                proc(format!(
                    "{} of {} looks saw more than the look before, none saw much less",
                    growth.rises, growth.steps
                ))
                .with("first", first.value)
                .with("last", last.value)
                .with("soft_limit", fds.soft_limit)
                .with("hard_limit", fds.hard_limit),
            )
            .and(by_kind(fds))
            .and(openers(fds).or_else(|| goes_on(seen)))
            .and(refused)
            .share(ShareOf::Limit, part);
        return vec![not_load(finding, fds)];
    }

    if is_full && fds.soft_limit > 0 {
        return vec![full(seen, fds, refused, part)];
    }
    // Somebody else's descriptors are used up (ENFILE), or it was full only for moments.
    refused
        .map(|evidence| {
            Finding::new(
                Cause::FdExhausted,
                Severity::Refusing,
                Confidence::High,
                format!("calls fail because no descriptor is left ({} open, limit {})", last.value, fds.soft_limit),
            )
            .because(evidence)
            .rejected(Cause::FdLeak, "the number of open descriptors did not grow steadily in this window")
            .share(ShareOf::Limit, part)
        })
        .into_iter()
        .collect()
}

/// It is at its limit and cannot grow any more: is it a leak that has come to its end, or load?
fn full(seen: &Observation, fds: &Fds, refused: Option<Evidence>, part: f64) -> Finding {
    let top = fds.by_kind.iter().max_by_key(|kind| kind.last);
    // A server under load holds connections of many kinds and gives some back within the window; a leak is one thing
    // over and over that never comes back.
    let stuck = top.filter(|top| share(top.last, fds.soft_limit) >= 0.5 && top.first == top.last && top.kind != "tcp");
    let steady = fds.open.iter().all(|reading| reading.value >= fds.soft_limit.saturating_sub(1));
    let leaked = stuck.filter(|_| steady);
    let finding = match leaked {
        Some(top) => Finding::new(
            Cause::FdLeak,
            Severity::Refusing,
            Confidence::Medium,
            format!(
                "all {} descriptors are used up, {} of them {}, and none came back while watched",
                fds.soft_limit,
                top.last,
                kind_text(&top.kind, top.example.as_deref())
            ),
        )
        .rejected(
            Cause::FdExhausted,
            format!("load would show as connections that come and go; here {} stay as they are", top.last),
        ),
        None => Finding::new(
            Cause::FdExhausted,
            Severity::Refusing,
            Confidence::Medium,
            format!("all {} descriptors are used up", fds.soft_limit),
        )
        .rejected(
            Cause::FdLeak,
            "possible: it cannot grow any more, so a leak that has come to its end looks the same; raise the limit \
             (`prlimit --nofile`) and watch again",
        ),
    };
    finding
        .because(
            proc(format!("{} open, soft limit {}", fds.open.last().map_or(0, |last| last.value), fds.soft_limit))
                .with("soft_limit", fds.soft_limit)
                .with("hard_limit", fds.hard_limit),
        )
        .and(by_kind(fds))
        .and(openers(fds).or_else(|| goes_on(seen)))
        .and(refused)
        .share(ShareOf::Limit, part)
}

/// Who would open more and cannot: whoever leaks does not stop when nothing is left. An accept that fails is the victim.
fn goes_on(seen: &Observation) -> Option<Evidence> {
    let failed = seen
        .calls
        .as_ref()?
        .counts
        .iter()
        .filter(|call| matches!(call.errno, EMFILE | ENFILE) && !matches!(call.call, Call::Accept | Call::Connect));
    let top = failed.max_by_key(|call| call.count)?;
    let place = place(top.stack.as_ref()?)?;
    Some(bpf(format!("{} goes on opening more, and fails: {} times", place, top.count)).with("failed_opens", top.count))
}

fn severity(refuses: bool) -> Severity {
    if refuses { Severity::Refusing } else { Severity::Wasting }
}

fn not_load(finding: Finding, fds: &Fds) -> Finding {
    let peers = fds.by_peer.iter().filter(|peer| peer.last > peer.first).count();
    let why = if peers == 0 {
        "what grows is no connection, so more clients do not explain it".to_owned()
    } else {
        format!("possible: connections to {} grow; load falls again, a leak does not", count(peers as u64, "peer"))
    };
    finding.rejected(Cause::FdExhausted, why)
}

/// What grew most.
fn grower(fds: &Fds) -> Option<String> {
    let grown = |kind: &&crate::observation::FdKind| kind.last.saturating_sub(kind.first);
    let top = fds.by_kind.iter().max_by_key(grown).filter(|kind| grown(kind) > 0)?;
    Some(kind_text(&top.kind, top.example.as_deref()))
}

fn kind_text(kind: &str, example: Option<&str>) -> String {
    example.map_or_else(|| kind.to_owned(), |example| format!("{kind} ({example})"))
}

fn by_kind(fds: &Fds) -> Option<Evidence> {
    let mut kinds: Vec<_> = fds.by_kind.iter().filter(|kind| kind.last > 0).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.last));
    let text: Vec<_> = kinds
        .iter()
        .take(4)
        .map(|kind| {
            let grown = kind.last.saturating_sub(kind.first);
            let grown = if grown > 0 { format!(" (+{grown})") } else { String::new() };
            format!("{} {}{grown}", kind.last, kind.kind)
        })
        .collect();
    (!text.is_empty()).then(|| proc(format!("open: {}", text.join(", "))))
}

fn openers(fds: &Fds) -> Option<Evidence> {
    let top = fds.openers.as_ref()?.iter().max_by_key(|opener| opener.still_open)?;
    let place = place(&top.stack)?;
    Some(
        bpf(format!("opened by {} in {place}, {} still open", top.call, top.still_open))
            .with("still_open", top.still_open),
    )
}

/// Calls that failed for want of a descriptor.
fn refusals(seen: &Observation) -> Option<Evidence> {
    let calls = seen.calls.as_ref()?;
    let failed: Vec<_> = calls.counts.iter().filter(|call| matches!(call.errno, EMFILE | ENFILE)).collect();
    let times = total(failed.iter().map(|call| call.count));
    let top = failed.iter().max_by_key(|call| call.count)?;
    let name = match top.call {
        Call::Accept => "accept",
        Call::Connect => "connect",
        Call::Socket => "socket",
        _ => "open",
    };
    let errno = if top.errno == ENFILE { "ENFILE" } else { "EMFILE" };
    Some(bpf(format!("{name} failed {times} times with {errno}")).with("failed", times))
}

/// A number that rises all the time.
struct Growth {
    steps: usize,
    rises: usize,
    full_in_us: Option<u64>,
}

impl Growth {
    /// `None` where it does not grow, or not until the end.
    fn of(readings: &[Reading], limit: u64) -> Option<Self> {
        let (first, last) = readings.first().zip(readings.last())?;
        let grown = last.value.checked_sub(first.value).filter(|grown| *grown >= GROWN)?;
        let took = last.at_us.saturating_sub(first.at_us);
        if readings.len() < 4 || took == 0 {
            return None;
        }
        // Each quarter of the window must have its part: what rose once and stays is a pool that was filled.
        let quarters: Vec<u64> = (0..=4)
            .map(|quarter| {
                let at = first.at_us.saturating_add(took / 4 * quarter);
                readings.iter().rfind(|reading| reading.at_us <= at).map_or(first.value, |reading| reading.value)
            })
            .collect();
        let steady = quarters.windows(2).all(|pair| match pair {
            [before, after] => after.saturating_sub(*before).saturating_mul(16) >= grown,
            _ => false,
        });
        let is_full = last.value >= limit.saturating_sub(1);
        if !steady && !is_full {
            return None;
        }
        let steps = readings.len() - 1;
        let pairs = || readings.windows(2).filter_map(|pair| Some((pair.first()?.value, pair.last()?.value)));
        let rises = pairs().filter(|(before, after)| after > before).count();
        // What falls back is in use, not leaked.
        if pairs().any(|(before, after)| before.saturating_sub(after).saturating_mul(4) > grown) {
            return None;
        }
        let room = limit.saturating_sub(last.value);
        let full_in_us = u64::try_from(u128::from(room) * u128::from(took) / u128::from(grown)).ok();
        Some(Self { steps, rises, full_in_us })
    }

    fn confidence(&self) -> Confidence {
        if self.steps >= 8 && self.rises * 4 >= self.steps * 3 { Confidence::High } else { Confidence::Medium }
    }
}
