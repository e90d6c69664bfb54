//! Causes on this side: the caller, the pool, the runtime, the process.

use std::{fmt::Write as _, time::Duration};

use super::{Finding, STALL_ADVISORY, STALL_SHARE, TIMER_SLACK, errno, in_stage, millis, path, ran, share};
use crate::{
    Cause, Confidence, DurationText, Evidence, Source, Stage,
    facts::{CallFacts, Failure, PoolFacts, TcpState},
};

pub(super) fn cancelled(facts: &CallFacts, reason: &str, at: Option<&str>) -> Finding {
    let place = at.map(|at| format!(" at {at}")).unwrap_or_default();
    let waited = in_stage(facts);
    Finding::new(
        Cause::CancelledByCaller,
        facts.stage,
        Confidence::High,
        format!("the caller cancelled{place} ({reason}) after {} in {}", DurationText(waited), facts.stage),
    )
    .because(Evidence::new(Source::Context, format!("cancelled: {reason}{place}")).with("stage_us", waited.as_micros()))
    .rejected(Cause::BudgetSpent, "no limit had fired when the cancel came")
}

pub(super) fn pool_evidence(pool: PoolFacts) -> Evidence {
    let scope = pool_scope(pool);
    Evidence::new(
        Source::Pool,
        format!("{} of {} connections for {scope} in use, {} calls waiting", pool.in_use, pool.limit, pool.waiting),
    )
    .with("in_use", pool.in_use)
    .with("limit", pool.limit)
    .with("waiting", pool.waiting)
    .with("dialling", pool.dialling)
}

fn pool_scope(pool: PoolFacts) -> &'static str {
    if pool.limit_is_global { "all hosts together" } else { "this host" }
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
        return Finding::new(
            Cause::Unknown,
            Stage::Queue,
            Confidence::Low,
            format!("waited {} in a queue that was not observed", DurationText(waited)),
        )
        .because(ran(facts, Stage::Queue))
        .rejected(Cause::PoolExhausted, "how many connections were in use is not known");
    };
    let scope = pool_scope(pool);
    let counts = pool_evidence(pool);
    if pool.dialling > 0 && (pool.in_use < pool.limit || pool.dialling >= pool.in_use) {
        return Finding::new(
            Cause::ConnectSlow,
            Stage::Queue,
            Confidence::Medium,
            format!(
                "waited {} for a connection that others are making: none of {} was up by then, and they know what they wait for",
                DurationText(waited),
                pool.dialling
            ),
        )
        .because(counts)
        .because(ran(facts, Stage::Queue))
        .rejected(Cause::PoolExhausted, "what was waited for is a connection that comes up, not one that is given back");
    }
    if pool.in_use < pool.limit {
        return Finding::new(
            Cause::Unknown,
            Stage::Queue,
            Confidence::Low,
            format!("waited {} for a connection although the pool had room", DurationText(waited)),
        )
        .because(ran(facts, Stage::Queue))
        .because(counts)
        .rejected(Cause::PoolExhausted, "fewer connections were in use than may be");
    }
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
    .because(counts)
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
    timers_late(facts).or_else(|| read_late(facts))
}

/// What the peer sent had long been here when this process read it: it was stopped, or its runtime was blocked, and no
/// limit of ours had fired meanwhile that could have been late.
fn read_late(facts: &CallFacts) -> Option<Finding> {
    if facts.exchange.response_bytes == 0 {
        return None;
    }
    let arrived = millis(facts.socket.as_ref()?.tcp.as_ref()?.last_data_recv_ms);
    // What was read before this began has delayed something else.
    let last_read = facts.exchange.last_read.filter(|at| *at >= facts.timeline.start())?;
    let read = facts.now.saturating_duration_since(last_read);
    // A caller who does not ask for more is no stall of the process.
    let lay = arrived.checked_sub(read)?.checked_sub(facts.exchange.reader_away)?;
    let total = facts.timeline.total(facts.now);
    // What lay here before this began was for somebody else.
    if lay > total || share(lay, total) < STALL_SHARE {
        return None;
    }
    Some(
        Finding::new(
            Cause::LocalStall,
            Stage::Stall,
            Confidence::High,
            format!(
                "the peer's last bytes lay in the own socket for {} of {} before this process read them",
                DurationText(lay),
                DurationText(total)
            ),
        )
        .explains(lay)
        .because(
            Evidence::new(
                Source::TcpInfo,
                format!("they came {} ago, and were read {} ago", DurationText(arrived), DurationText(read)),
            )
            .with("last_data_recv_us", arrived.as_micros())
            .with("last_read_us", read.as_micros()),
        )
        .rejected(Cause::ServerSlow, "its bytes were here long before they were read"),
    )
}

/// Timers of ours fired late.
fn timers_late(facts: &CallFacts) -> Option<Finding> {
    let late = facts.timeline.time_in(Stage::Stall, facts.now);
    let total = facts.timeline.total(facts.now);
    if late.is_zero() || share(late, total) < STALL_SHARE || is_stuck_without_us(facts) {
        return None;
    }
    let finding = |confidence| {
        Finding::new(
            Cause::LocalStall,
            Stage::Stall,
            confidence,
            format!(
                "this process itself was late by {} of {}: its runtime did not run the call when it was due",
                DurationText(late),
                DurationText(total)
            ),
        )
        .because(stall_evidence(facts))
    };
    Some(match arrival(facts) {
        Arrival::InTime { before } => finding(Confidence::High)
            .because(
                Evidence::new(
                    Source::TcpInfo,
                    format!("the peer's last bytes had come {} before the limit", DurationText(before)),
                )
                .with("arrived_before_limit_us", before.as_micros()),
            )
            .rejected(Cause::ServerSlow, "the peer's bytes were here before the limit fired"),
        Arrival::After => finding(Confidence::Medium).rejected(
            Cause::ServerSlow,
            "possible: bytes of the peer came after the limit, while this process was late",
        ),
        Arrival::NotSeen => finding(Confidence::Medium)
            .rejected(Cause::ServerSlow, "the own timers fired late; what the network did meanwhile was not seen"),
        Arrival::NotWaitedFor => finding(Confidence::High)
            .rejected(Cause::ServerSlow, "the network was not waited for: the own timers fired late"),
    })
}

/// When the peer's last bytes came, seen from the limit that fired late.
enum Arrival {
    InTime {
        before: Duration,
    },
    After,
    NotSeen,
    /// The lateness was over when the limit fired.
    NotWaitedFor,
}

fn arrival(facts: &CallFacts) -> Arrival {
    if !matches!(facts.failure, Failure::DeadlinePassed(_)) || facts.late_by.is_zero() {
        return Arrival::NotWaitedFor;
    }
    let Some(socket) = &facts.socket else { return Arrival::NotSeen };
    let waits_for_bytes = matches!(facts.stage, Stage::Tls | Stage::Wait | Stage::Receive);
    let came = socket.unread_bytes.is_some_and(|bytes| bytes > 0) || read_while_late(facts);
    if !waits_for_bytes || !came {
        return Arrival::NotSeen;
    }
    match socket.tcp.as_ref().and_then(|tcp| millis(tcp.last_data_recv_ms).checked_sub(facts.late_by)) {
        Some(before) if !before.is_zero() => Arrival::InTime { before },
        _ => Arrival::After,
    }
}

fn read_while_late(facts: &CallFacts) -> bool {
    facts.exchange.last_read.is_some_and(|at| facts.now.saturating_duration_since(at) < facts.late_by)
}

/// With the runtime awake again, the socket still had nothing to go on with: the peer or the path would have been late
/// without the stall.
fn is_stuck_without_us(facts: &CallFacts) -> bool {
    if !matches!(facts.failure, Failure::DeadlinePassed(_)) || facts.late_by.is_zero() {
        return false;
    }
    let Some(socket) = &facts.socket else { return false };
    match facts.stage {
        Stage::Connect => socket.tcp.as_ref().is_some_and(|tcp| tcp.state == TcpState::SynSent),
        Stage::Tls | Stage::Wait | Stage::Receive => socket.unread_bytes == Some(0) && !read_while_late(facts),
        Stage::Send => path::blocked(facts).is_some(),
        _ => false,
    }
}

/// Bytes lie in our own socket since before the limit fired, and we are the ones who should have read them.
pub(super) fn unread(facts: &CallFacts) -> Option<Finding> {
    let socket = facts.socket.as_ref()?;
    let unread = socket.unread_bytes.filter(|bytes| *bytes > 0)?;
    let waited = millis(socket.tcp.as_ref()?.last_data_recv_ms);
    if waited <= facts.late_by.saturating_add(TIMER_SLACK) {
        return None;
    }
    let mostly = share(waited, in_stage(facts)) >= STALL_SHARE;
    Some(
        Finding::new(
            Cause::LocalStall,
            Stage::Stall,
            if mostly { Confidence::High } else { Confidence::Medium },
            format!(
                "the answer is here and was not read: {unread} bytes have waited {} in the own socket",
                DurationText(waited)
            ),
        )
        .explains(waited.min(in_stage(facts)))
        .because(unread_evidence(unread, waited))
        .rejected(
            Cause::ServerSlow,
            if mostly {
                "the answer was here for most of the time"
            } else {
                "its answer came late, and yet before the limit fired"
            },
        ),
    )
}

pub(super) fn unread_evidence(unread: u32, waited: Duration) -> Evidence {
    Evidence::new(
        Source::SocketQueue,
        format!("{unread} bytes unread in the own socket, the last came {} ago", DurationText(waited)),
    )
    .with("unread_bytes", unread)
    .with("last_data_recv_us", waited.as_micros())
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

fn stall_evidence(facts: &CallFacts) -> Evidence {
    let late = facts.timeline.time_in(Stage::Stall, facts.now);
    Evidence::new(Source::Runtime, format!("timers of this call were served {} late", DurationText(late)))
        .with("late_us", late.as_micros())
}

/// Where the time of this call went.
pub(super) fn breakdown(facts: &CallFacts) -> Evidence {
    let mut text = String::new();
    for span in facts.timeline.spans() {
        let _ = write!(text, "{} {}, ", span.stage, DurationText(span.duration));
    }
    let unaccounted = facts.timeline.unaccounted(facts.now);
    let _ = write!(text, "outside of stages {}", DurationText(unaccounted));
    Evidence::new(Source::Timeline, text).with("unaccounted_us", unaccounted.as_micros())
}
