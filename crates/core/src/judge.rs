//! The judge's rules for one call: facts in, ranked verdicts out.
//!
//! Every verdict names its evidence and the strongest alternative. Where the facts do not carry a verdict the answer
//! is `unknown`, with what would be needed to know.
//!
//! # Thresholds
//!
//! | what | value | why |
//! |---|---|---|
//! | [`DOMINANT_SHARE`] | half of the limit | a finished stage that took this much of a limit for the whole call is what spent it |
//! | [`STALL_SHARE`] | half of the elapsed time | from here on the own runtime is blamed before the network |
//! | [`STALL_ADVISORY`] | 50 ms and a fifth of the elapsed time | a lateness worth mentioning beside another cause |
//! | [`DELAYED_ACK`] | 250 ms | Linux delays an ACK by 40 to 200 ms: bytes unacknowledged for longer did not arrive |
//! | [`LATE_START_SHARE`] | a tenth of the limit | an attempt that had less of a limit for the whole is not called slow |
//! | [`SHORT_SILENCE`] | 250 ms | a shorter silence may be nothing but a long way |
//! | [`TIMER_SLACK`] | 10 ms | lateness below this is not measured |
//! | [`READER_AWAY_SHARE`] | half of the time spent in `receive` | from here on the caller who does not read is blamed before the peer, if bytes wait for it |
//! | [`READER_ABSENT_SHARE`] | nine tenths of it | the same, even where no waiting byte is seen |
//! | [`FLOWING_SHARE`] | a tenth of it | a body whose last bytes came within this share of the end was still coming |
//! | [`SILENT_SHARE`] | half of it | a body that was silent for this share had stopped |

mod budget;
mod dial;
mod exchange;
mod local;
mod path;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, time::Duration};

use crate::{
    Cause, Confidence, DurationText, Evidence, Limit, LimitName, Rejected, Source, Stage, Verdict,
    facts::{CallFacts, Failure, OsFailure, TcpInfo},
};

/// See the table of thresholds.
pub const DOMINANT_SHARE: f64 = 0.5;
/// See the table of thresholds.
pub const STALL_SHARE: f64 = 0.5;
/// See the table of thresholds.
pub const STALL_ADVISORY: (Duration, f64) = (Duration::from_millis(50), 0.2);
/// See the table of thresholds.
pub const DELAYED_ACK: Duration = Duration::from_millis(250);
/// See the table of thresholds.
pub const LATE_START_SHARE: f64 = 0.1;
/// See the table of thresholds.
pub const SHORT_SILENCE: Duration = Duration::from_millis(250);
/// See the table of thresholds.
pub const TIMER_SLACK: Duration = Duration::from_millis(10);
/// See the table of thresholds.
pub const READER_AWAY_SHARE: f64 = 0.5;
/// See the table of thresholds.
pub const READER_ABSENT_SHARE: f64 = 0.9;
/// See the table of thresholds.
pub const FLOWING_SHARE: f64 = 0.1;
/// See the table of thresholds.
pub const SILENT_SHARE: f64 = 0.5;

/// What the judge found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Judgement {
    /// What explains the failure; the first explains most. Never empty after [`judge`].
    pub verdicts: Vec<Verdict>,
    /// What was noticed besides.
    pub advisories: Vec<Verdict>,
}

/// Judges one call that did not end well.
#[must_use]
pub fn judge(facts: &CallFacts) -> Judgement {
    let finding = match &facts.failure {
        Failure::Cancelled { reason, at } => local::cancelled(facts, reason, at.as_deref()),
        Failure::DeadlinePast(limit) => local::stalled(facts)
            .or_else(|| budget::spent_earlier(facts, limit))
            .unwrap_or_else(|| budget::past(facts, limit)),
        Failure::DeadlinePassed(limit) => timed_out(facts, limit),
        Failure::Os { operation, kind, text } => os_failure(facts, operation, *kind, text),
        Failure::Closed => exchange::closed(facts),
        Failure::Dns { reason, text } => dial::dns_failed(facts, *reason, text),
        Failure::TlsAlert(alert) => dial::tls_rejected(alert),
        Failure::TlsUntrusted { reason, text } => dial::tls_untrusted(*reason, text),
        Failure::TlsNotTls(seen) => dial::tls_not_tls(seen),
        Failure::TlsBroken(text) => dial::tls_broken(facts, text),
        Failure::Protocol(text) => exchange::protocol(facts, text),
        Failure::RequestBody(text) => exchange::request_body_failed(text),
        Failure::Usage(text) => Finding::new(Cause::Unknown, facts.stage, Confidence::High, text.clone())
            .because(Evidence::new(Source::Http, text.clone()))
            .fix("correct the request: nothing that the network did explains this"),
        Failure::Other(text) => Finding::new(Cause::Unknown, facts.stage, Confidence::Low, text.clone()),
    };
    let blamed_local = finding.cause == Cause::LocalStall;
    let mut judgement = Judgement { verdicts: vec![finding.verdict(facts)], advisories: Vec::new() };
    if !blamed_local {
        judgement.advisories.extend(local::stall_advisory(facts).map(|finding| finding.verdict(facts)));
    }
    judgement
}

fn timed_out(facts: &CallFacts, limit: &Limit) -> Finding {
    local::stalled(facts)
        .or_else(|| budget::spent_earlier(facts, limit))
        .unwrap_or_else(|| budget::begun_late(facts, limit, in_its_stage(facts, limit)))
}

fn in_its_stage(facts: &CallFacts, limit: &Limit) -> Finding {
    match facts.stage {
        Stage::Queue => local::queue(facts),
        Stage::Resolve => dial::resolve(facts),
        Stage::Connect => dial::connect(facts, None),
        Stage::Tls => dial::tls(facts),
        Stage::Send => exchange::send(facts),
        Stage::Wait => exchange::wait(facts),
        Stage::Receive => exchange::receive(facts, limit),
        Stage::Named(_) if facts.exchange.waiting_for_request_body => exchange::request_comes_slowly(facts),
        Stage::Named(_) if limit.name == LimitName::Gap => exchange::silent(facts, limit),
        Stage::Handle | Stage::Stall | Stage::Named(_) => Finding::new(
            Cause::Unknown,
            facts.stage,
            Confidence::Low,
            format!("{} did not end within {}", facts.stage, DurationText(limit.value)),
        )
        .because(ran(facts, facts.stage))
        .rejected(Cause::ServerSlow, "this stage is the user's own; nothing below it was observed"),
    }
}

fn os_failure(facts: &CallFacts, operation: &'static str, kind: OsFailure, text: &str) -> Finding {
    match kind {
        OsFailure::NoDescriptors => local::no_descriptors(facts, operation, text),
        OsFailure::Reset => exchange::reset(facts, operation, text),
        OsFailure::QueueFull => dial::queue_full(facts, operation, text),
        OsFailure::KernelTimeout if facts.stage == Stage::Connect => dial::connect(facts, Some(errno(operation, text))),
        // On a connection that was up, ICMP is only remembered, and handed out when the kernel gives up.
        OsFailure::KernelTimeout => path::kernel_gave_up(facts, operation, text),
        OsFailure::Unreachable if facts.stage != Stage::Connect => path::kernel_gave_up(facts, operation, text),
        OsFailure::Unreachable => dial::unreachable(facts, operation, text),
        OsFailure::Refused => dial::refused(facts, operation, text),
        OsFailure::AddressNotAvailable if operation == "connect" => dial::ports_exhausted(facts, operation, text),
        OsFailure::AddressNotAvailable | OsFailure::Other => {
            Finding::new(Cause::Unknown, facts.stage, Confidence::Low, format!("{operation} failed: {text}"))
                .because(errno(operation, text))
                .rejected(Cause::PeerReset, "this error says nothing about the peer")
        }
    }
}

fn errno(operation: &str, text: &str) -> Evidence {
    Evidence::new(Source::Errno, format!("{operation}: {text}"))
}

fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { (part.as_secs_f64() / whole.as_secs_f64()).min(1.0) }
}

fn tcp(facts: &CallFacts) -> Option<&TcpInfo> {
    facts.socket.as_ref()?.tcp.as_ref()
}

fn peer(facts: &CallFacts) -> &str {
    facts.socket.as_ref().map(|socket| socket.peer.as_str()).filter(|peer| !peer.is_empty()).unwrap_or("the peer")
}

/// The running stage's time.
fn in_stage(facts: &CallFacts) -> Duration {
    facts.timeline.time_in(facts.stage, facts.now)
}

/// How long a stage took.
fn ran(facts: &CallFacts, stage: Stage) -> Evidence {
    let took = facts.timeline.time_in(stage, facts.now);
    Evidence::new(Source::Timeline, format!("{stage} took {}", DurationText(took)))
        .with("duration_us", took.as_micros())
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

/// A verdict that is still being written.
struct Finding {
    cause: Cause,
    stage: Stage,
    confidence: Confidence,
    summary: String,
    fix: Option<Cow<'static, str>>,
    /// The time that it explains, where that is not the time of its stage.
    explains: Option<Duration>,
    evidence: Vec<Evidence>,
    rejected: Vec<Rejected>,
}

impl Finding {
    fn new(cause: Cause, stage: Stage, confidence: Confidence, summary: impl Into<String>) -> Self {
        Self {
            cause,
            stage,
            confidence,
            summary: summary.into(),
            fix: None,
            explains: None,
            evidence: Vec::new(),
            rejected: Vec::new(),
        }
    }

    fn because(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    fn and(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    fn rejected(mut self, cause: Cause, why: impl Into<Cow<'static, str>>) -> Self {
        self.rejected.push(Rejected { cause, why: why.into() });
        self
    }

    /// As the strongest of the alternatives.
    fn rejected_first(mut self, cause: Cause, why: impl Into<Cow<'static, str>>) -> Self {
        self.rejected.insert(0, Rejected { cause, why: why.into() });
        self
    }

    fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn explains(mut self, time: Duration) -> Self {
        self.explains = Some(time);
        self
    }

    fn verdict(self, facts: &CallFacts) -> Verdict {
        let fix = self.fix.unwrap_or_else(|| self.cause.entry().fix.first().copied().unwrap_or_default().into());
        let explained = self.explains.unwrap_or_else(|| facts.timeline.time_in(self.stage, facts.now));
        Verdict {
            cause: self.cause,
            stage: self.stage.as_str(),
            confidence: self.confidence,
            share: share(explained, facts.timeline.total(facts.now)),
            summary: self.summary,
            fix,
            evidence: self.evidence,
            rejected: self.rejected,
        }
    }
}
