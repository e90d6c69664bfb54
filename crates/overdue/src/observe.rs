//! Seeing what calls do: for logs, metrics and traces.
//!
//! A client without an observer pays one look at an empty option for each stage. With one, every event is handed over
//! on the thread that runs the call, with no lock held; an observer that blocks blocks the call.
//!
//! ```
//! use overdue::{Client, observe::{Call, Observer}, Timeline};
//!
//! struct Slow;
//!
//! impl Observer for Slow {
//!     fn stage_ended(&self, call: &Call<'_>, span: &overdue::Span) {
//!         if span.duration.as_millis() > 500 {
//!             eprintln!("{}: {} took {:?}", call.host, span.stage, span.duration);
//!         }
//!     }
//! }
//!
//! # fn f() -> Result<(), overdue::BuildError> {
//! let client = Client::builder().observer(Slow).build()?;
//! # Ok(()) }
//! ```

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use overdue_core::{Outcome, Report, Span, SpanOutcome, Stage, Timeline};

#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
#[cfg(feature = "tracing")]
pub use self::tracing::Tracing;

/// Hears of every stage of every call of a client. Each method does nothing unless it is written.
pub trait Observer: Send + Sync + 'static {
    /// A stage began.
    fn stage_began(&self, call: &Call<'_>, stage: Stage) {
        let _ = (call, stage);
    }

    /// A stage ended, well or not. Its start is counted from the start of the call.
    fn stage_ended(&self, call: &Call<'_>, span: &Span) {
        let _ = (call, span);
    }

    /// An attempt failed, and the call goes on with another one.
    fn attempt_failed(&self, call: &Call<'_>, report: &Report) {
        let _ = (call, report);
    }

    /// The call ended: with the end of its body, with an error, or because the caller dropped it. `report` is there
    /// when it failed.
    fn call_ended(&self, call: &Call<'_>, outcome: Outcome, elapsed: Duration, report: Option<&Report>) {
        let _ = (call, outcome, elapsed, report);
    }
}

/// Which call an event belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// Counts the observed calls of this process, from 1.
    pub id: u64,
    /// The host of the URL, in lower case, without port.
    pub host: &'a str,
}

/// What one call has told its observer so far.
pub(crate) struct Watched {
    observer: Arc<dyn Observer>,
    id: u64,
    host: Arc<str>,
    /// Spans whose beginning and whose end have been told.
    began: usize,
    ended: usize,
    told_end: bool,
}

impl Watched {
    pub(crate) fn new(observer: Arc<dyn Observer>, host: Arc<str>) -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        Self { observer, id: CALLS.fetch_add(1, Relaxed) + 1, host, began: 0, ended: 0, told_end: false }
    }

    /// What is new in the timeline.
    pub(crate) fn news(&mut self, timeline: &Timeline) -> News {
        let mut events = Vec::new();
        for (index, span) in timeline.spans().iter().enumerate().skip(self.ended) {
            if index >= self.began {
                self.began = index + 1;
                events.push(Event::Began(span.stage));
            }
            if span.outcome == SpanOutcome::Running {
                break;
            }
            self.ended = index + 1;
            events.push(Event::Ended(*span));
        }
        News { observer: Arc::clone(&self.observer), id: self.id, host: Arc::clone(&self.host), events }
    }

    /// The next attempt has a timeline of its own.
    pub(crate) fn next_attempt(&mut self) {
        (self.began, self.ended) = (0, 0);
    }

    /// Whether the end is still to be told; it is told once.
    pub(crate) fn tell_end(&mut self) -> bool {
        !std::mem::replace(&mut self.told_end, true)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("id", &self.id).field("host", &self.host).finish_non_exhaustive()
    }
}

enum Event {
    Began(Stage),
    Ended(Span),
}

/// Events that are to be told once no lock is held.
pub(crate) struct News {
    observer: Arc<dyn Observer>,
    id: u64,
    host: Arc<str>,
    events: Vec<Event>,
}

impl News {
    fn call(&self) -> Call<'_> {
        Call { id: self.id, host: &self.host }
    }

    pub(crate) fn tell(&self) {
        for event in &self.events {
            match event {
                Event::Began(stage) => self.observer.stage_began(&self.call(), *stage),
                Event::Ended(span) => self.observer.stage_ended(&self.call(), span),
            }
        }
    }

    pub(crate) fn tell_failed_attempt(&self, report: &Report) {
        self.observer.attempt_failed(&self.call(), report);
    }

    pub(crate) fn tell_end(&self, outcome: Outcome, elapsed: Duration, report: Option<&Report>) {
        self.observer.call_ended(&self.call(), outcome, elapsed, report);
    }
}
