//! The judge of a process: an [`Observation`] in, ranked verdicts out.
//!
//! Each rule looks at the whole observation and finds causes, or nothing; what was not observed is never taken for
//! zero. Then findings that follow from others are put beneath them (`EFFECTS`), advisories are set apart, and the
//! rest is ranked: by severity first, then by the share of stalled time, processor or limit that it explains.
//!
//! What counts as long, many or full is in [`thresholds`], but for what a single rule asks, which stands beside it.

mod backlog;
mod calls;
mod deadlock;
mod descriptors;
mod edge;
mod last_words;
mod pools;
mod processor;
mod queue;
mod resolving;
mod silence;
mod sockets;
mod spin;
mod tasks;
#[cfg(test)]
mod tests;
mod threads;
pub mod thresholds;
mod unanswered;

use std::{borrow::Cow, time::Duration};

use overdue_core::{Cause, Confidence, DurationText, Evidence, Rejected, Source, Verdict, facts::TcpState};
use serde::Serialize;

use crate::{Observation, observation::Hidden};

pub use calls::Stall;
pub(crate) use calls::stalls as stalled_calls;
pub use last_words::{LastWords, Speaker, last_words};
pub(crate) use sockets::left;

/// What follows from what: the second is listed beneath the first when both are found. A row that has a cause beneath
/// another stands before all rows of that cause.
const EFFECTS: &[(Cause, Cause)] = &[
    (Cause::CpuThrottled, Cause::LocalStall),
    (Cause::CpuThrottled, Cause::AcceptQueueOverflow),
    (Cause::SpinHalfClosed, Cause::CloseWaitPileup),
    (Cause::CloseWaitPileup, Cause::FdLeak),
    (Cause::FinWait2Pileup, Cause::FdLeak),
    (Cause::FdLeak, Cause::SpinAcceptEmfile),
    (Cause::FdLeak, Cause::FdExhausted),
    (Cause::FdLeak, Cause::AcceptQueueOverflow),
    (Cause::FdLeak, Cause::TaskLeak),
    (Cause::CloseWaitPileup, Cause::SpinAcceptEmfile),
    (Cause::CloseWaitPileup, Cause::FdExhausted),
    (Cause::CloseWaitPileup, Cause::AcceptQueueOverflow),
    (Cause::FdExhausted, Cause::SpinAcceptEmfile),
    (Cause::FdExhausted, Cause::AcceptQueueOverflow),
    (Cause::SpinAcceptEmfile, Cause::AcceptQueueOverflow),
    (Cause::SpinAcceptError, Cause::AcceptQueueOverflow),
    (Cause::RuntimeBlocked, Cause::AcceptQueueOverflow),
    (Cause::RuntimeBlocked, Cause::PoolExhausted),
    (Cause::CpuThrottled, Cause::PoolExhausted),
    (Cause::WaitsUpstream, Cause::WaitUnlimited),
    (Cause::WaitsUpstream, Cause::TaskBacklog),
    (Cause::WaitsUpstream, Cause::ServerSlow),
    (Cause::DnsNoAnswer, Cause::DnsSerialised),
    (Cause::DnsSerialised, Cause::DnsSlow),
    (Cause::DeadlineIgnored, Cause::ServerSlow),
    (Cause::SpinZeroTimeout, Cause::CpuBusy),
    (Cause::SpinHalfClosed, Cause::CpuBusy),
    (Cause::SpinErrorFd, Cause::CpuBusy),
    (Cause::SpinAcceptError, Cause::CpuBusy),
    (Cause::SpinAcceptEmfile, Cause::CpuBusy),
    (Cause::CpuThrottled, Cause::CpuBusy),
    (Cause::TlsHandshakeStorm, Cause::ConnectionChurn),
];

/// What a finding does to the service, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Severity {
    /// Something is used up in vain, or will be used up some day.
    Wasting,
    /// Work waits.
    Waiting,
    /// Work is refused or lost.
    Refusing,
}

/// What a finding's share is a share of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareOf {
    /// Of the time that something waited.
    StalledTime,
    /// Of the processor time that was used.
    Cpu,
    /// Of the limit that it nears.
    Limit,
    /// Of the connections that were seen.
    Connections,
}

impl ShareOf {
    /// For a reader, after "97 % of".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StalledTime => "the stalled time",
            Self::Cpu => "its processor time",
            Self::Limit => "the limit",
            Self::Connections => "the connections",
        }
    }
}

/// One verdict on a process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    /// The four facts.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What its share is a share of.
    pub share_of: ShareOf,
    /// What follows from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Finding>,
    #[serde(skip)]
    severity: Severity,
    /// Said, but no verdict.
    #[serde(skip)]
    advisory: bool,
    /// Certain whatever else is found.
    #[serde(skip)]
    proven: bool,
    /// The peer that is waited for.
    #[serde(skip)]
    peer: Option<String>,
}

/// What the judge found.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Judgement {
    /// What explains the trouble; the first explains most. Empty where nothing is wrong.
    pub verdicts: Vec<Finding>,
    /// What was noticed besides.
    pub advisories: Vec<Finding>,
}

/// A rule: the whole observation in, findings out.
type Rule = fn(&Observation) -> Vec<Finding>;

const RULES: &[Rule] = &[
    descriptors::rule,
    sockets::close_wait,
    sockets::fin_wait2,
    sockets::half_open,
    sockets::accept_queue,
    backlog::waits_to_be_accepted,
    sockets::slow_readers,
    sockets::no_keepalive,
    edge::handshake_storm,
    edge::turned_away,
    edge::churn,
    spin::rule,
    processor::throttled,
    processor::busy,
    threads::io_stuck,
    threads::frozen,
    threads::runtime_blocked,
    resolving::dns_serialised,
    tasks::goroutines,
    tasks::threads,
    calls::rule,
    calls::impatient,
    calls::deadline_ignored,
    pools::waits_for_a_place,
    queue::waits_for_few,
    deadlock::rule,
    deadlock::held,
    threads::wait_unlimited,
];

/// Whether a watch of [`thresholds::SETTLED_US`] more would tell nothing new of what has only just begun: a question to a
/// name server that a resolver asks again every few seconds, and that is the only trace of a long wait; or callers of whom
/// none is answered any more.
#[must_use]
pub fn is_settled(seen: &Observation) -> bool {
    !calls::asked_lately(seen) && !unanswered::has_just_fallen_silent(seen)
}

/// Judges one process.
#[must_use]
pub fn judge(seen: &Observation) -> Judgement {
    let found: Vec<Finding> = RULES.iter().flat_map(|rule| rule(seen)).collect();
    let mut roots = fold(nest(found));
    roots.sort_by(|a, b| {
        let by_share = b.verdict.share.total_cmp(&a.verdict.share);
        b.severity.cmp(&a.severity).then(by_share).then(b.verdict.confidence.cmp(&a.verdict.confidence))
    });
    let (mut advisories, mut verdicts): (Vec<_>, Vec<_>) = roots.into_iter().partition(|finding| finding.advisory);
    // Nothing else can be mended in a process that does not run.
    if let Some(mut stop) = unanswered::stopped(seen) {
        let follows = |finding: &Finding| unanswered::HELD_UP.contains(&finding.verdict.cause);
        let (below, rest) = verdicts.into_iter().partition(follows);
        stop.effects = below;
        verdicts = std::iter::once(stop).chain::<Vec<_>>(rest).collect();
    }
    // A wait without limit is what explains the stall where nothing else does; otherwise it is a remark on it, unless it
    // is a deadlock.
    if !verdicts.is_empty() {
        let (remarks, rest): (Vec<_>, Vec<_>) =
            verdicts.into_iter().partition(|finding| finding.verdict.cause == Cause::WaitUnlimited && !finding.proven);
        if rest.is_empty() {
            verdicts = remarks;
        } else {
            verdicts = rest;
            advisories.extend(remarks);
        }
    }
    if verdicts.is_empty() {
        verdicts.extend(unanswered::rule(seen, &advisories));
    }
    if verdicts.is_empty() {
        advisories.extend(pools::may_be_used_up(seen));
        advisories.extend(silence::fails_late(seen));
    }
    Judgement { verdicts, advisories }
}

/// The connections in trouble.
#[must_use]
pub fn stalls(seen: &Observation, judgement: &Judgement) -> Vec<Stall> {
    let mut all = calls::stalls(seen);
    let told = if seen.process.stopped { Cause::LocalStall } else { Cause::Unknown };
    if judgement.verdicts.iter().any(|finding| finding.verdict.cause == told) {
        all.extend(unanswered::stalls(seen, told));
    }
    all
}

/// What nobody could tell of this process, where no verdict explains why its callers wait.
pub(crate) fn untold(seen: &Observation, judgement: &Judgement) -> Vec<Hidden> {
    let explained = judgement.verdicts.iter().any(|finding| finding.verdict.cause != Cause::Unknown);
    if explained { Vec::new() } else { calls::stopped_or_idle(seen).into_iter().chain(streams(seen)).collect() }
}

/// A stream may hang while others on its connection get on.
fn streams(seen: &Observation) -> Option<Hidden> {
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let number = connections.filter(|connection| connection.http2).count() as u64;
    (number > 0).then(|| Hidden {
        what: format!("calls over HTTP/2, gRPC among them, on {}", count(number, "connection")),
        why: "many share a connection, and their frames are followed up to GOAWAY only".to_owned(),
        how: "look at the program's own counts of calls by their status, or put `overdue gate` before the server"
            .to_owned(),
    })
}

/// Puts a loop that sits in a call beneath the finding on the peer that it calls: it is one wait.
fn fold(found: Vec<Finding>) -> Vec<Finding> {
    let sits = |finding: &Finding| finding.verdict.cause == Cause::RuntimeBlocked && finding.peer.is_some();
    let (loops, mut rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|finding| sits(finding) && !finding.advisory);
    for blocked in loops {
        let causes = rest.iter_mut().filter(|finding| !finding.advisory && finding.peer == blocked.peer);
        match causes.max_by_key(|finding| finding.verdict.cause == Cause::WaitsUpstream) {
            Some(above) => above.effects.push(blocked),
            None => rest.push(blocked),
        }
    }
    rest
}

/// Puts what follows from another finding beneath it.
fn nest(mut found: Vec<Finding>) -> Vec<Finding> {
    // From the last of the table to the first, so that an effect takes its own effects with it.
    for &(cause, effect) in EFFECTS.iter().rev() {
        // A remark explains nothing else.
        let explains = |finding: &Finding| finding.verdict.cause == cause && !finding.advisory;
        if !found.iter().any(explains) {
            continue;
        }
        let (below, mut rest): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|f| f.verdict.cause == effect && !f.proven);
        for finding in below {
            // What waits for one peer says nothing of another.
            let leads = |above: &&mut Finding| {
                let of_another = above.peer.as_ref().zip(finding.peer.as_ref()).is_some_and(|(a, b)| a != b);
                explains(above) && !of_another
            };
            match rest.iter_mut().find(leads) {
                Some(above) => above.effects.push(finding),
                None => rest.push(finding),
            }
        }
        found = rest;
    }
    found
}

impl Finding {
    fn new(cause: Cause, severity: Severity, confidence: Confidence, summary: impl Into<String>) -> Self {
        let entry = cause.entry();
        Self {
            verdict: Verdict {
                cause,
                stage: entry.stages.first().copied().unwrap_or("any"),
                confidence,
                share: 0.0,
                summary: summary.into(),
                fix: entry.fix.first().copied().unwrap_or_default().into(),
                evidence: Vec::new(),
                rejected: Vec::new(),
            },
            share_of: ShareOf::StalledTime,
            effects: Vec::new(),
            severity,
            advisory: cause.is_advisory(),
            proven: false,
            peer: None,
        }
    }

    fn because(mut self, evidence: Evidence) -> Self {
        self.verdict.evidence.push(evidence);
        self
    }

    fn and(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.verdict.evidence.extend(evidence);
        self
    }

    fn rejected(mut self, cause: Cause, why: impl Into<Cow<'static, str>>) -> Self {
        self.verdict.rejected.push(Rejected { cause, why: why.into() });
        self
    }

    fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.verdict.fix = fix.into();
        self
    }

    fn share(mut self, of: ShareOf, part: f64) -> Self {
        self.share_of = of;
        self.verdict.share = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
        self
    }
}

/// Whether it began so short a time ago that nothing that it began need have ended.
fn is_young(seen: &Observation) -> bool {
    let (windows, most_us) = thresholds::YOUNG;
    let up_us = seen.process.age_us.map(|us| us.saturating_add(seen.window_us));
    up_us.is_some_and(|us| us < windows.saturating_mul(seen.window_us).min(most_us))
}

/// Microseconds for a reader.
pub(crate) fn time(us: u64) -> DurationText {
    DurationText(Duration::from_micros(us))
}

/// How often in a second.
fn per_second(count: u64, us: u64) -> f64 {
    if us == 0 { 0.0 } else { count as f64 * 1e6 / us as f64 }
}

/// Behind a number of system calls that were counted in short looks only: " in 240ms of looking".
fn in_looks(seen: &Observation) -> String {
    let short = seen
        .calls
        .as_ref()
        .map(|calls| calls.looked_us)
        .filter(|us| us.saturating_mul(10) < seen.window_us.saturating_mul(9));
    short.map(|us| format!(" in {} of looking", time(us))).unwrap_or_default()
}

/// A recording may hold any number.
fn total(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// "1 connection", "3 connections".
fn count(number: impl Into<u64>, what: &str) -> String {
    let number = number.into();
    match what.strip_suffix('y') {
        _ if number == 1 => format!("1 {what}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        _ if what.ends_with('s') => format!("{number} {what}es"),
        _ => format!("{number} {what}s"),
    }
}

/// The numbers of `/proc` as evidence.
fn proc(text: impl Into<Cow<'static, str>>) -> Evidence {
    Evidence::new(Source::Proc, text)
}

fn diag(text: impl Into<Cow<'static, str>>) -> Evidence {
    Evidence::new(Source::SockDiag, text)
}

fn bpf(text: impl Into<Cow<'static, str>>) -> Evidence {
    Evidence::new(Source::Bpf, text)
}

/// The functions of a stack that a reader knows again: the innermost of the program's own, at most four.
fn place(stack: &crate::observation::Stack) -> Option<String> {
    let mut names: Vec<&str> = stack.functions().filter(|name| !STARTERS.contains(name)).collect();
    // The C library's wrappers say nothing that the system call does not say.
    let own = names.iter().position(|name| !is_plumbing(name)).unwrap_or(0);
    names.drain(..own);
    names.truncate(4);
    (!names.is_empty()).then(|| names.join(" < "))
}

/// The state as `ss` and `netstat` write it.
#[must_use]
pub const fn state_text(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "ESTABLISHED",
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynReceived => "SYN_RECV",
        TcpState::FinWait1 => "FIN_WAIT1",
        TcpState::FinWait2 => "FIN_WAIT2",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSED",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
        TcpState::Unknown => "UNKNOWN",
    }
}

/// What every stack ends with.
const STARTERS: [&str; 8] = [
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "clone3",
    "runtime.goexit",
    "runtime.main",
];

fn is_plumbing(function: &str) -> bool {
    const PLUMBING: [&str; 18] = [
        "syscall",
        "open",
        "open64",
        "openat",
        "openat64",
        "socket",
        "connect",
        "write",
        "send",
        "recvfrom",
        "epoll_wait",
        "epoll_pwait",
        "accept",
        "accept4",
        "read",
        "recv",
        "poll",
        "select",
    ];
    let bare = function.trim_start_matches("__GI_").trim_start_matches("__libc_").trim_start_matches('_');
    PLUMBING.contains(&bare) || function.contains("syscall") || bare.ends_with("_nocancel")
}
