//! Errors that name stage, limit, owner and cause.

use std::{
    error::Error as StdError,
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use overdue_core::{
    Cause, Deadline, DurationText, Limit, LimitReport, Outcome, Report, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, Failure, OsFailure},
    judge,
};

use crate::{
    clock,
    context::{CancelCause, Interrupted},
};

/// Any error, as tower and hyper pass them on.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A call that did not end well: the stage that was running, the limit that fired and who set it, the judged cause
/// with its evidence, and what to change ([`report`](Self::report)).
///
/// It survives the trip through [`io::Error`], a chain of `source()`s and tower's `BoxError`: see
/// [`Error::find`].
pub struct Error(Box<Inner>);

struct Inner {
    outcome: Outcome,
    stage: Stage,
    os: Option<OsFailure>,
    limit: Option<Limit>,
    report: Report,
    retryable: bool,
    cancel: Option<Arc<CancelCause>>,
    source: Option<BoxError>,
    #[cfg(feature = "client")]
    snapshots: Vec<crate::client::Snapshot>,
}

impl Error {
    /// Judges the facts of a call that failed.
    pub(crate) fn judged(facts: CallFacts, retryable: bool) -> Self {
        let outcome = match &facts.failure {
            Failure::DeadlinePassed(_) | Failure::DeadlinePast(_) => Outcome::TimedOut,
            Failure::Cancelled { .. } => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        let limit = match &facts.failure {
            Failure::DeadlinePassed(limit) | Failure::DeadlinePast(limit) => Some(limit.clone()),
            _ => None,
        };
        let os = match &facts.failure {
            Failure::Os { kind, .. } => Some(*kind),
            Failure::Closed => Some(OsFailure::Other),
            _ => None,
        };
        let judgement = judge::judge(&facts);
        let mut report = Report::new(outcome, &facts.timeline, facts.now);
        report.stage = Some(facts.stage.as_str());
        report.cause = judgement.verdicts.first().map(|verdict| verdict.cause);
        report.limit = limit.as_ref().map(LimitReport::from);
        report.verdicts = judgement.verdicts;
        report.advisories = judgement.advisories;
        Self(Box::new(Inner {
            outcome,
            stage: facts.stage,
            os,
            limit,
            report,
            retryable,
            cancel: None,
            source: None,
            #[cfg(feature = "client")]
            snapshots: Vec::new(),
        }))
    }

    /// The error of a piece of work that is no call: one stage, and what ended it.
    pub(crate) fn from_interrupted(
        stage: Stage,
        started: Instant,
        deadline: Option<&Deadline>,
        interrupted: Interrupted,
    ) -> Self {
        let now = clock::now();
        let late_by = interrupted.late_by(deadline, now);
        let mut timeline = Timeline::new(started);
        timeline.begin(stage, started, None);
        let (failure, cancel) = interrupted.into_failure();
        let outcome = if cancel.is_some() { SpanOutcome::Cancelled } else { SpanOutcome::TimedOut };
        timeline.finish_late(now, late_by, outcome);
        timeline.end(now, outcome);
        let facts = CallFacts {
            stage,
            failure,
            now,
            timeline,
            late_by,
            socket: None,
            dns: None,
            pool: None,
            h2: None,
            exchange: overdue_core::facts::ExchangeFacts::default(),
        };
        Self::judged(facts, false).with_cancel(cancel)
    }

    pub(crate) fn with_cancel(mut self, cancel: Option<Arc<CancelCause>>) -> Self {
        self.0.cancel = cancel;
        self
    }

    #[cfg(any(feature = "client", all(feature = "direct", target_os = "linux")))]
    pub(crate) fn with_source(mut self, source: Option<BoxError>) -> Self {
        self.0.source = source;
        self
    }

    #[cfg(feature = "client")]
    pub(crate) fn set_snapshots(&mut self, snapshots: Vec<crate::client::Snapshot>) {
        self.0.snapshots = snapshots;
    }

    #[cfg(any(feature = "client", feature = "tower", all(feature = "direct", target_os = "linux")))]
    pub(crate) fn report_mut(&mut self) -> &mut Report {
        &mut self.0.report
    }

    /// Finds the `Error` in any error that wraps it, through [`io::Error`] and `source()` chains.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        // A chain that is deeper than this is a loop.
        for _ in 0..64 {
            let current = next?;
            if let Some(found) = current.downcast_ref::<Self>() {
                return Some(found);
            }
            // io::Error hides its inner error from source(), which skips to the inner error's own source.
            next = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner as &(dyn StdError + 'static)),
                None => current.source(),
            };
        }
        None
    }

    /// A limit fired.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.outcome == Outcome::TimedOut
    }

    /// The context was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.outcome == Outcome::Cancelled
    }

    /// Trying again is safe: nothing of the request was sent, or its method is idempotent and its body could be sent
    /// again. Whether it is wise depends on the time that remains.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The stage that was running.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.0.stage
    }

    /// The limit that fired, with its origin: the earliest of all that applied.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.0.limit.as_ref()
    }

    /// The judged cause.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.0.report.cause.unwrap_or(Cause::Unknown)
    }

    /// Why the context was cancelled, when that is what ended the call.
    #[must_use]
    pub fn cancel_cause(&self) -> Option<&CancelCause> {
        self.0.cancel.as_deref()
    }

    /// Everything: timeline, verdicts, evidence, fix.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.0.report
    }

    /// The heads that the call sent, one for each attempt that got so far. Empty unless the client or the request asked
    /// for them with a [`Redaction`](crate::client::Redaction).
    #[cfg(feature = "client")]
    #[must_use]
    pub fn snapshots(&self) -> &[crate::client::Snapshot] {
        &self.0.snapshots
    }

    /// The kind under which users of [`io::Error`] expect this.
    #[must_use]
    pub fn io_kind(&self) -> io::ErrorKind {
        match self.0.outcome {
            Outcome::TimedOut => return io::ErrorKind::TimedOut,
            // Not Interrupted: read loops try that one again.
            Outcome::Cancelled => return io::ErrorKind::ConnectionAborted,
            Outcome::Ok | Outcome::Failed => {}
        }
        match (self.0.os, self.cause()) {
            (Some(OsFailure::Refused), _) => io::ErrorKind::ConnectionRefused,
            (Some(OsFailure::Reset), _) => io::ErrorKind::ConnectionReset,
            (Some(OsFailure::KernelTimeout), _) => io::ErrorKind::TimedOut,
            (Some(OsFailure::Unreachable), _) => io::ErrorKind::HostUnreachable,
            (Some(OsFailure::AddressNotAvailable), _) => io::ErrorKind::AddrNotAvailable,
            (_, Cause::ClosedEarly) => io::ErrorKind::UnexpectedEof,
            (_, Cause::ProtocolError | Cause::TlsNotTls | Cause::TlsUntrusted) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.0.report;
        let elapsed = Duration::from_micros(report.elapsed_us);
        write!(f, "{} in {} after {}", report.outcome.replace('-', " "), self.0.stage, DurationText(elapsed))?;
        if let Some(limit) = &self.0.limit {
            write!(f, ", limit {limit}")?;
            // A limit that began to count before this piece of work did.
            let before = limit.value.saturating_sub(elapsed);
            if self.is_timeout() && before > limit.value / 20 {
                write!(f, ", {} of it gone before", DurationText(before))?;
            }
        }
        match report.verdicts.first() {
            Some(verdict) => write!(f, ": {}: {}", verdict.cause, verdict.summary),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("outcome", &self.0.outcome)
            .field("stage", &self.0.stage)
            .field("limit", &self.0.limit)
            .field("cause", &self.cause())
            .field("verdicts", &self.0.report.verdicts)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.io_kind(), error)
    }
}

impl Interrupted {
    /// The fact for the judge, and the cause for the caller.
    pub(crate) fn into_failure(self) -> (Failure, Option<Arc<CancelCause>>) {
        match self {
            Self::Past(limit) => (Failure::DeadlinePast(limit), None),
            Self::Passed(limit) => (Failure::DeadlinePassed(limit), None),
            Self::Cancelled(cause) => {
                let at = cause.location().map(|at| format!("{}:{}", at.file(), at.line()));
                (Failure::Cancelled { reason: cause.to_string(), at }, Some(cause))
            }
        }
    }
}
