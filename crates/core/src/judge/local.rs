//! Causes on this side: the caller, the pool, the runtime, the process.

use super::{Finding, STALL_ADVISORY, STALL_SHARE, errno, share};
use crate::{
    Cause, Confidence, DurationText, Evidence, Limit, Source, Stage,
    facts::{CallFacts, Failure},
};

pub(super) fn cancelled(facts: &CallFacts, reason: &str, at: Option<&str>) -> Finding {
    let place = at.map(|at| format!(" at {at}")).unwrap_or_default();
    let waited = super::in_stage(facts);
    Finding::new(
        Cause::CancelledByCaller,
        facts.stage,
        Confidence::High,
        format!("the caller cancelled{place} ({reason}) after {} in {}", DurationText(waited), facts.stage),
    )
    .because(
        Evidence::new(Source::Context, format!("cancelled: {reason}{place}")).with("stage_us", waited.as_micros()),
    )
    .rejected(Cause::BudgetSpent, "no limit had fired when the cancel came")
}

/// The deadline had passed before there was anything to blame.
pub(super) fn past(facts: &CallFacts, limit: &Limit) -> Finding {
    let stage = facts.stage;
    let started = facts.exchange.request_started;
    Finding::new(
        Cause::BudgetSpent,
        stage,
        Confidence::High,
        if started {
            format!("{limit} had passed before {stage} began")
        } else {
            format!("{limit} had passed before {stage} began: nothing was sent")
        },
    )
    .because(
        Evidence::new(Source::Context, format!("no time was left when {stage} was to begin"))
            .with("limit_us", limit.value.as_micros())
            .with("request_bytes", facts.exchange.request_bytes),
    )
    .rejected(Cause::ServerSlow, "the server was never asked")
}

pub(super) fn queue(facts: &CallFacts) -> Finding {
    let waited = facts.timeline.time_in(Stage::Queue, facts.now);
    if let Some(h2) = facts.h2.filter(|h2| h2.streams_exhausted) {
        return Finding::new(
            Cause::H2StreamsExhausted,
            Stage::Queue,
            Confidence::High,
            format!(
                "waited {} for an HTTP/2 stream: {} of the {} that the peer allows are in use",
                DurationText(waited),
                h2.streams_in_use,
                h2.max_streams
            ),
        )
        .because(
            Evidence::new(
                Source::Http2,
                format!("SETTINGS_MAX_CONCURRENT_STREAMS {}, {} streams open", h2.max_streams, h2.streams_in_use),
            )
            .with("max_streams", h2.max_streams)
            .with("streams_in_use", h2.streams_in_use),
        )
        .rejected(Cause::PoolExhausted, "a connection was there; the peer's own limit on streams was reached");
    }
    let Some(pool) = facts.pool else {
        return Finding::new(Cause::Unknown, Stage::Queue, Confidence::Low, "waited in a queue that was not observed");
    };
    let scope = if pool.limit_is_global { "all hosts together" } else { "this host" };
    Finding::new(
        Cause::PoolExhausted,
        Stage::Queue,
        Confidence::High,
        format!(
            "waited {} for a connection: {} of {} for {scope} in use, {} waiting",
            DurationText(waited),
            pool.in_use,
            pool.limit,
            pool.waiting
        ),
    )
    .because(
        Evidence::new(
            Source::Pool,
            format!("{} of {} connections for {scope} in use, {} calls waiting", pool.in_use, pool.limit, pool.waiting),
        )
        .with("in_use", pool.in_use)
        .with("limit", pool.limit)
        .with("waiting", pool.waiting),
    )
    .rejected(Cause::ConnectSlow, "no connection was being dialled for this call: the pool's limit forbade it")
}

pub(super) fn no_descriptors(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    Finding::new(
        Cause::FdExhausted,
        facts.stage,
        Confidence::High,
        format!("{operation} failed: this process (or the system) has no file descriptor left"),
    )
    .because(errno(operation, text))
    .rejected(Cause::ConnectRefused, "nothing was sent: the call failed before it left this process")
}

/// The own runtime was late for most of the time, and nothing shows that the network would have been late too.
pub(super) fn stalled(facts: &CallFacts) -> Option<Finding> {
    let late = facts.timeline.time_in(Stage::Stall, facts.now);
    let total = facts.timeline.total(facts.now);
    if late.is_zero() || share(late, total) < STALL_SHARE || peer_was_silent(facts) {
        return None;
    }
    let blind = facts.socket.is_none() && matches!(facts.failure, Failure::DeadlinePassed(_));
    Some(
        Finding::new(
            Cause::LocalStall,
            Stage::Stall,
            if blind { Confidence::Medium } else { Confidence::High },
            format!(
                "this process itself was late by {} of {}: its runtime did not run the call when it was due",
                DurationText(late),
                DurationText(total)
            ),
        )
        .because(stall_evidence(facts))
        .rejected(Cause::ServerSlow, "the network was not waited for: the own timers fired late"),
    )
}

/// With the runtime awake again, the socket still had nothing: the peer was silent, stall or no stall.
fn peer_was_silent(facts: &CallFacts) -> bool {
    if !matches!(facts.failure, Failure::DeadlinePassed(_)) || facts.late_by.is_zero() {
        return false;
    }
    let Some(socket) = &facts.socket else { return false };
    let read_while_late =
        facts.exchange.last_read.is_some_and(|at| facts.now.saturating_duration_since(at) < facts.late_by);
    let waits_for_peer = matches!(facts.stage, Stage::Connect | Stage::Tls | Stage::Wait | Stage::Receive);
    waits_for_peer && socket.unread_bytes == Some(0) && !read_while_late
}

pub(super) fn stall_advisory(facts: &CallFacts) -> Option<Finding> {
    let late = facts.timeline.time_in(Stage::Stall, facts.now);
    let (floor, part) = STALL_ADVISORY;
    if late < floor || share(late, facts.timeline.total(facts.now)) < part {
        return None;
    }
    Some(
        Finding::new(
            Cause::LocalStall,
            Stage::Stall,
            Confidence::Medium,
            format!("this process was late by {}, beside the cause above", DurationText(late)),
        )
        .because(stall_evidence(facts)),
    )
}

pub(super) fn stall_evidence(facts: &CallFacts) -> Evidence {
    let late = facts.timeline.time_in(Stage::Stall, facts.now);
    Evidence::new(Source::Runtime, format!("timers of this call were served {} late", DurationText(late)))
        .with("late_us", late.as_micros())
}
