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
//! | [`READER_AWAY_SHARE`] | half of the time spent in `receive` | from here on the caller who does not read is blamed before the peer |

mod dial;
mod exchange;
mod local;
mod path;

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
pub const READER_AWAY_SHARE: f64 = 0.5;

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
        Failure::DeadlinePast(limit) => {
            local::stalled(facts).or_else(|| spent_earlier(facts, limit)).unwrap_or_else(|| local::past(facts, limit))
        }
        Failure::DeadlinePassed(limit) => timed_out(facts, limit),
        Failure::Os { operation, kind, text } => os_failure(facts, operation, *kind, text),
        Failure::Closed => exchange::closed(facts),
        Failure::Dns { reason, text } => dial::dns_failed(facts, *reason, text),
        Failure::TlsAlert(alert) => dial::tls_rejected(alert),
        Failure::TlsUntrusted(why) => dial::tls_untrusted(why),
        Failure::TlsNotTls(seen) => dial::tls_not_tls(seen),
        Failure::TlsBroken(text) => dial::tls_broken(text),
        Failure::Protocol(text) => exchange::protocol(facts, text),
        Failure::RequestBody(text) => exchange::request_body_failed(text),
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
    local::stalled(facts).or_else(|| spent_earlier(facts, limit)).unwrap_or_else(|| match facts.stage {
        Stage::Queue => local::queue(facts),
        Stage::Resolve => dial::resolve(facts),
        Stage::Connect => dial::connect(facts),
        Stage::Tls => dial::tls(facts),
        Stage::Send => exchange::send(facts),
        Stage::Wait => exchange::wait(facts),
        Stage::Receive => exchange::receive(facts, limit),
        Stage::Handle | Stage::Stall | Stage::Named(_) => Finding::new(
            Cause::Unknown,
            facts.stage,
            Confidence::Low,
            format!("{} did not end within {}", facts.stage, DurationText(limit.value)),
        )
        .rejected(Cause::ServerSlow, "this stage is the user's own; nothing below it was observed"),
    })
}

/// A limit for the whole call fired, and a stage that had ended by then took most of it.
fn spent_earlier(facts: &CallFacts, limit: &Limit) -> Option<Finding> {
    if !matches!(limit.name, LimitName::Total | LimitName::Attempt) || limit.value.is_zero() {
        return None;
    }
    let (stage, spent) = [Stage::Queue, Stage::Resolve, Stage::Connect, Stage::Tls, Stage::Send]
        .into_iter()
        .filter(|stage| *stage != facts.stage)
        .map(|stage| (stage, facts.timeline.time_in(stage, facts.now)))
        .max_by_key(|(_, spent)| *spent)?;
    if spent.as_secs_f64() < DOMINANT_SHARE * limit.value.as_secs_f64() {
        return None;
    }
    let percent = share(spent, limit.value) * 100.0;
    let summary = |what: &str| {
        format!(
            "{what} after {}, {percent:.0} % of the {} for the whole call; {} was left when {} ran",
            DurationText(spent),
            DurationText(limit.value),
            DurationText(limit.value.saturating_sub(spent)),
            facts.stage,
        )
    };
    let timeline = Evidence::new(Source::Timeline, format!("{stage} took {} and succeeded", DurationText(spent)))
        .with("duration_us", spent.as_micros());
    let tcp = facts.socket.as_ref().and_then(|socket| socket.tcp.as_ref());
    Some(match stage {
        Stage::Resolve => Finding::new(Cause::DnsSlow, stage, Confidence::High, summary("the DNS answer came"))
            .because(timeline)
            .and(dial::dns_evidence(facts))
            .rejected(Cause::DnsNoAnswer, "an answer did come"),
        Stage::Connect => Finding::new(Cause::ConnectSlow, stage, Confidence::High, summary("the connection was up"))
            .because(timeline)
            .and(tcp.filter(|tcp| tcp.total_retrans > 0).map(|tcp| {
                Evidence::new(Source::TcpInfo, format!("{} segments were sent again, SYNs included", tcp.total_retrans))
                    .with("retransmits_total", tcp.total_retrans)
            }))
            .rejected(Cause::SynUnanswered, "the SYN-ACK did come"),
        Stage::Tls => Finding::new(Cause::TlsSlow, stage, Confidence::High, summary("the handshake ended"))
            .because(timeline)
            .rejected(Cause::TlsPeerSilent, "the handshake did end"),
        Stage::Queue => local::queue(facts).spent(timeline),
        _ => {
            let window = tcp.and_then(|tcp| tcp.rwnd_limited_us).unwrap_or(0);
            if share(Duration::from_micros(window), spent) < DOMINANT_SHARE {
                return None;
            }
            Finding::new(Cause::PeerNotReading, stage, Confidence::High, summary("the request was sent"))
                .because(timeline)
                .and(tcp.map(path::window_evidence))
                .rejected(Cause::PathLost, "the peer acknowledged everything in the end")
        }
    })
}

fn os_failure(facts: &CallFacts, operation: &'static str, kind: OsFailure, text: &str) -> Finding {
    match kind {
        OsFailure::NoDescriptors => local::no_descriptors(facts, operation, text),
        OsFailure::Reset => exchange::reset(facts, operation, text),
        OsFailure::KernelTimeout if facts.stage == Stage::Connect => dial::connect(facts).because(errno(operation, text)),
        OsFailure::KernelTimeout => path::kernel_gave_up(facts, operation, text),
        OsFailure::Refused => dial::refused(facts, operation, text),
        OsFailure::Unreachable => dial::unreachable(facts, operation, text),
        OsFailure::AddressNotAvailable if operation == "connect" => dial::ports_exhausted(operation, text),
        OsFailure::AddressNotAvailable | OsFailure::Other => {
            Finding::new(Cause::Unknown, facts.stage, Confidence::Low, format!("{operation} failed: {text}"))
                .because(errno(operation, text))
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
    facts.socket.as_ref().map_or("the peer", |socket| socket.peer.as_str())
}

/// The running stage's time.
fn in_stage(facts: &CallFacts) -> Duration {
    facts.timeline.time_in(facts.stage, facts.now)
}

/// A verdict that is still being written.
struct Finding {
    cause: Cause,
    stage: Stage,
    confidence: Confidence,
    summary: String,
    fix: Option<Cow<'static, str>>,
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

    fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn spent(mut self, evidence: Evidence) -> Self {
        self.evidence.insert(0, evidence);
        self
    }

    fn verdict(self, facts: &CallFacts) -> Verdict {
        let fix = self.fix.unwrap_or_else(|| self.cause.entry().fix.first().copied().unwrap_or_default().into());
        Verdict {
            cause: self.cause,
            stage: self.stage.as_str(),
            confidence: self.confidence,
            share: share(facts.timeline.time_in(self.stage, facts.now), facts.timeline.total(facts.now)),
            summary: self.summary,
            fix,
            evidence: self.evidence,
            rejected: self.rejected,
        }
    }
}
