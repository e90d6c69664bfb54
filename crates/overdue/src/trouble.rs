//! What ended a call or an operation, and the error that is made of it.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(feature = "client")]
use overdue_core::facts::{H2Facts, PoolFacts};
use overdue_core::{
    ConnectionReport, Deadline, NotVisible, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, ExchangeFacts, Failure, OsFailure, SocketFacts},
};

use crate::{
    Error,
    context::{CancelCause, Interrupted},
    error::BoxError,
};

/// What ended a call, with what was observed at that moment.
#[derive(Default)]
pub(crate) struct Trouble {
    pub(crate) failure: Option<Failure>,
    pub(crate) late_by: Duration,
    pub(crate) cancel: Option<Arc<CancelCause>>,
    pub(crate) source: Option<BoxError>,
    pub(crate) socket: Option<Box<SocketFacts>>,
    #[cfg(feature = "client")]
    pub(crate) pool: Option<Box<PoolFacts>>,
    #[cfg(feature = "client")]
    pub(crate) h2: Option<Box<H2Facts>>,
    /// The peer said that it did nothing with the request.
    #[cfg(feature = "client")]
    pub(crate) unprocessed: bool,
}

impl From<(Failure, Option<io::Error>)> for Trouble {
    fn from((failure, source): (Failure, Option<io::Error>)) -> Self {
        Self { failure: Some(failure), source: source.map(Into::into), ..Self::default() }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }
}

impl Trouble {
    pub(crate) fn interrupted(interrupted: Interrupted, late_by: Duration) -> Self {
        let (failure, cancel) = interrupted.into_failure();
        Self { failure: Some(failure), late_by, cancel, ..Self::default() }
    }

    /// The connection was gone, as it is when the peer closes one that was kept idle.
    #[cfg(feature = "client")]
    pub(crate) fn is_dead_connection(&self) -> bool {
        matches!(self.failure, Some(Failure::Closed | Failure::Os { kind: OsFailure::Reset, .. }))
    }

    /// The peer ended the connection, not only a stream of it.
    #[cfg(feature = "client")]
    pub(crate) fn ended_connection(&self) -> bool {
        matches!(self.failure, Some(Failure::Closed | Failure::Os { operation: "connection", .. }))
    }

    pub(crate) fn with_socket(mut self, socket: SocketFacts) -> Self {
        self.socket = Some(Box::new(socket));
        self
    }
}

/// One operation on a connection, which came to no result.
pub(crate) struct Operated<'a> {
    pub(crate) stage: Stage,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<&'a Deadline>,
    pub(crate) moved: Moved,
    pub(crate) connection: Option<ConnectionReport>,
    /// Nothing has left that the peer could have acted on.
    pub(crate) replayable: bool,
}

/// What crossed a connection until an operation failed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moved {
    pub(crate) read: u64,
    pub(crate) written: u64,
    /// Of those read: since the last write.
    pub(crate) since_write: u64,
    pub(crate) last_read: Option<Instant>,
}

impl Operated<'_> {
    /// The error, judged from all that was seen until `now`.
    pub(crate) fn error(self, trouble: Trouble, now: Instant) -> Error {
        let Self { stage, started, deadline, moved, connection, replayable } = self;
        let failure = trouble.failure.unwrap_or(Failure::Other("no reason was given".to_owned()));
        let outcome = span_outcome(Some(&failure));
        let mut timeline = Timeline::new(started);
        timeline.begin(stage, started, deadline);
        timeline.finish_late(now, trouble.late_by, outcome);
        timeline.end(now, outcome);
        let retryable = replayable && worth_repeating(&failure);
        let exchange = ExchangeFacts {
            // A read that may not begin says nothing about what was sent.
            request_started: stage != Stage::Send,
            request_bytes: moved.written,
            response_bytes: moved.read,
            body_bytes: moved.read,
            since_write: Some(moved.since_write),
            last_read: moved.last_read,
            reused_after: moved.last_read.map(|at| started.saturating_duration_since(at)),
            ..ExchangeFacts::default()
        };
        let facts = CallFacts {
            stage,
            failure,
            now,
            timeline,
            late_by: trouble.late_by,
            socket: trouble.socket.map(|socket| *socket),
            dns: None,
            pool: None,
            h2: None,
            exchange,
        };
        let not_visible = not_visible(&facts);
        let mut error = Error::judged(facts, retryable).with_cancel(trouble.cancel).with_source(trouble.source);
        let report = error.report_mut();
        report.connection = connection;
        report.not_visible = not_visible;
        error
    }
}

/// How the span of a failure ends.
pub(crate) fn span_outcome(failure: Option<&Failure>) -> SpanOutcome {
    match failure {
        Some(Failure::DeadlinePassed(_) | Failure::DeadlinePast(_)) => SpanOutcome::TimedOut,
        Some(Failure::Cancelled { .. }) => SpanOutcome::Cancelled,
        _ => SpanOutcome::Failed,
    }
}

/// Whether another try could end otherwise.
pub(crate) fn worth_repeating(failure: &Failure) -> bool {
    use overdue_core::facts::DnsFailure;
    !matches!(
        failure,
        Failure::Cancelled { .. }
            | Failure::DeadlinePast(_)
            | Failure::TlsUntrusted { .. }
            | Failure::TlsAlert(_)
            | Failure::TlsNotTls(_)
            | Failure::RequestBody(_)
            | Failure::Usage(_)
            | Failure::Other(_)
            | Failure::Dns { reason: DnsFailure::InvalidName | DnsFailure::NoSuchName | DnsFailure::NoAddress, .. }
    )
}

/// What would have helped the judge and cannot be seen from here.
pub(crate) fn not_visible(facts: &CallFacts) -> Vec<NotVisible> {
    let mut gaps = Vec::new();
    let waited =
        matches!(facts.failure, Failure::DeadlinePassed(_) | Failure::Os { kind: OsFailure::KernelTimeout, .. });
    let Some(socket) = facts.socket.as_ref().filter(|_| waited) else { return gaps };
    if socket.tcp.is_none() {
        gaps.push(NotVisible {
            what: "tcp-info",
            why: "the socket is no TCP socket, or this platform has no TCP_INFO".to_owned(),
            how: "on Linux, connect over TCP".to_owned(),
        });
    } else if socket.peer_unasked {
        gaps.push(NotVisible {
            what: "the peer's side",
            why: "so many calls failed in this second that it was looked for in the first of them only".to_owned(),
            how: "see what the errors just before this one say".to_owned(),
        });
    } else if socket.peer_socket.is_none() && socket.listener.is_none() {
        gaps.push(NotVisible {
            what: "the peer's side",
            why: format!("no socket of {} was found on this host, in this network namespace", socket.peer),
            how: "on the peer: ss -tnpi, ss -ltn, nstat -az TcpExtListenOverflows".to_owned(),
        });
    }
    gaps
}
