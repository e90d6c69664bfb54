//! What one call has seen so far: its timeline and the facts that a verdict would rest on.
//!
//! The call, the body of its response and whoever asks for a report share it. Nobody holds its lock across an await.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use overdue_core::{
    ConnectionReport, Deadline, Limit, Outcome, Report, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, DnsFacts, ExchangeFacts, Failure, PoolFacts},
    micros,
};

use crate::{
    Error,
    client::Snapshot,
    clock,
    context::{Bound, Context, lateness},
    observe::{News, Observer, Watched},
    trouble::{Trouble, not_visible, span_outcome, worth_repeating},
};

/// A handle to what a call has seen so far. It is in the extensions of every response, and can be read at any time.
#[derive(Clone, Debug)]
pub struct CallLog(Arc<Mutex<Entries>>);

#[derive(Debug)]
struct Entries {
    timeline: Timeline,
    ended: Option<Outcome>,
    exchange: ExchangeFacts,
    /// And how long it had been idle, if it was in use before.
    connection: Option<(Arc<ConnectionReport>, Option<Duration>)>,
    dns: Option<DnsFacts>,
    /// The pool when this call had waited and got its turn.
    pool: Option<PoolFacts>,
    attempts: Vec<Report>,
    /// Only of calls that ask for them.
    snapshots: Vec<Snapshot>,
    /// Nothing has left this process that the peer could have acted on, or sending it again is safe.
    replayable: bool,
    watched: Option<Watched>,
}

impl CallLog {
    /// The log of a call that begins now.
    pub(crate) fn new() -> Self {
        Self::starting(clock::now())
    }

    /// The log of a call that began at `now`.
    pub(crate) fn starting(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Entries {
            timeline: Timeline::new(now),
            ended: None,
            exchange: ExchangeFacts::default(),
            connection: None,
            dns: None,
            pool: None,
            attempts: Vec::new(),
            snapshots: Vec::new(),
            replayable: true,
            watched: None,
        })))
    }

    /// From here on this observer hears of the call.
    pub(crate) fn watch(&self, observer: &Arc<dyn Observer>, host: &Arc<str>) {
        self.lock().watched = Some(Watched::new(Arc::clone(observer), Arc::clone(host)));
    }

    /// Changes the timeline, and tells the observer what is new in it once no lock is held.
    fn change<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        let mut guard = self.lock();
        let entries = &mut *guard;
        let value = change(entries);
        let news = entries.watched.as_mut().map(|watched| watched.news(&entries.timeline));
        drop(guard);
        if let Some(news) = news {
            news.tell();
        }
        value
    }

    /// Tells the observer that the call is over.
    pub(crate) fn tell_end(&self, report: Option<&Report>) {
        let mut entries = self.lock();
        let news = entries.news_of_end();
        drop(entries);
        if let Some((news, outcome, elapsed)) = news {
            news.tell_end(outcome, elapsed, report);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` as one stage under its own limit and the context's, and enters it in the timeline.
    pub(crate) async fn stage<T, E: Into<Trouble>>(
        &self,
        context: &Context,
        stage: Stage,
        limit: Option<&Limit>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Trouble> {
        let started = clock::now();
        let deadline = context.stage_deadline(started, limit);
        let deadline = deadline.as_ref();
        self.begin(stage, started, deadline);
        let bound = Bound::new(context, deadline, started, work).await;
        let now = clock::now();
        let (result, late_by) = match bound {
            Ok(result) => (result.map_err(Into::into), lateness(deadline, now)),
            Err(interrupted) => {
                let late_by = interrupted.late_by(deadline, now);
                (Err(Trouble::interrupted(interrupted, late_by)), late_by)
            }
        };
        let outcome = match &result {
            Ok(_) => SpanOutcome::Done,
            Err(trouble) => span_outcome(trouble.failure.as_ref()),
        };
        self.change(|entries| entries.timeline.finish_late(now, late_by, outcome));
        result
    }

    pub(crate) fn begin(&self, stage: Stage, now: Instant, deadline: Option<&Deadline>) {
        self.change(|entries| entries.timeline.begin(stage, now, deadline));
    }

    pub(crate) fn exchange(&self, change: impl FnOnce(&mut ExchangeFacts)) {
        change(&mut self.lock().exchange);
    }

    pub(crate) fn set_connection(&self, connection: Arc<ConnectionReport>, idle: Option<Duration>) {
        let former = self.lock().connection.replace((connection, idle));
        drop(former);
    }

    pub(crate) fn set_dns(&self, dns: DnsFacts) {
        self.lock().dns = Some(dns);
    }

    /// How long this call has waited in the pool's queue, which it has left.
    pub(crate) fn queued(&self) -> Duration {
        let entries = self.lock();
        entries.timeline.spans().iter().filter(|span| span.stage == Stage::Queue).map(|span| span.duration).sum()
    }

    pub(crate) fn set_pool(&self, pool: PoolFacts) {
        self.lock().pool = Some(pool);
    }

    pub(crate) fn set_replayable(&self, replayable: bool) {
        self.lock().replayable = replayable;
    }

    /// Counts the attempts, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        u32::try_from(self.lock().attempts.len() + 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn keep(&self, snapshot: Option<Box<Snapshot>>) {
        if let Some(snapshot) = snapshot {
            self.lock().snapshots.push(*snapshot);
        }
    }

    /// The call has ended well.
    pub(crate) fn end(&self, now: Instant) {
        self.change(|entries| {
            entries.timeline.end(now, SpanOutcome::Done);
            entries.ended.get_or_insert(Outcome::Ok);
        });
        self.tell_end(None);
    }

    /// The caller dropped the body before its end.
    pub(crate) fn abandon(&self) {
        self.change(|entries| {
            if entries.ended.is_none() {
                entries.timeline.end(clock::now(), SpanOutcome::Cancelled);
                entries.ended = Some(Outcome::Cancelled);
            }
        });
        self.tell_end(None);
    }

    /// Ends the call with an error, judged from all that was seen. Whoever does not try again tells the observer:
    /// [`tell_end`](Self::tell_end).
    pub(crate) fn fail(&self, stage: Stage, trouble: Trouble) -> Error {
        self.change(|entries| entries.fail(stage, trouble))
    }

    /// Ends the call with an error that nothing will mend.
    pub(crate) fn fail_for_good(&self, stage: Stage, trouble: Trouble) -> Error {
        let error = self.fail(stage, trouble);
        self.tell_end(Some(error.report()));
        error
    }

    /// Keeps the report of an attempt that failed, and makes room for the next. Time goes on: the new timeline starts
    /// where the call started.
    pub(crate) fn next_attempt(&self, failed: &Error) {
        let mut report = failed.report().clone();
        report.attempts.clear();
        let mut guard = self.lock();
        let entries = &mut *guard;
        entries.attempts.push(report);
        let news = entries.watched.as_mut().map(|watched| {
            watched.next_attempt();
            watched.news(&Timeline::new(entries.timeline.start()))
        });
        entries.timeline = Timeline::new(entries.timeline.start());
        entries.ended = None;
        entries.exchange = ExchangeFacts::default();
        entries.connection = None;
        drop(guard);
        if let Some(news) = news {
            news.tell_failed_attempt(failed.report());
        }
    }

    /// The call as it stands: complete once the body has been read to its end.
    #[must_use]
    pub fn report(&self) -> Report {
        let entries = self.lock();
        let now = clock::now();
        let mut report = Report::new(entries.ended.unwrap_or(Outcome::Ok), &entries.timeline, now);
        report.connection = entries.connection_report();
        report.attempts = entries.attempts.clone();
        report
    }

    /// The heads that were sent, one for each attempt that got so far. Empty unless the client or the request asked for
    /// them with a [`Redaction`](crate::client::Redaction).
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.lock().snapshots.clone()
    }

    /// The stages so far.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.lock().timeline.clone()
    }
}

impl Entries {
    fn connection_report(&self) -> Option<ConnectionReport> {
        let (connection, idle) = self.connection.as_ref()?;
        let idle_us = idle.map_or(0, micros);
        Some(ConnectionReport { reused: idle.is_some(), idle_us, ..(**connection).clone() })
    }

    fn fail(&mut self, stage: Stage, trouble: Trouble) -> Error {
        let now = clock::now();
        let failure = trouble.failure.unwrap_or(Failure::Other("no reason was given".to_owned()));
        let outcome = span_outcome(Some(&failure));
        if self.timeline.running().is_none()
            && self.timeline.spans().last().is_none_or(|span| span.stage != stage && span.stage != Stage::Stall)
        {
            self.timeline.begin(stage, now, None);
        }
        self.timeline.finish_late(now, trouble.late_by, outcome);
        self.timeline.end(now, outcome);
        let retryable = (self.replayable || trouble.unprocessed) && worth_repeating(&failure);
        let facts = CallFacts {
            stage,
            failure,
            now,
            timeline: self.timeline.clone(),
            late_by: trouble.late_by,
            socket: trouble.socket.map(|socket| *socket),
            dns: self.dns.clone(),
            pool: trouble.pool.map(|pool| *pool).or(self.pool),
            h2: trouble.h2.map(|h2| *h2),
            exchange: self.exchange.clone(),
        };
        let not_visible = not_visible(&facts);
        let mut error = Error::judged(facts, retryable).with_cancel(trouble.cancel).with_source(trouble.source);
        error.set_snapshots(self.snapshots.clone());
        self.ended = Some(if error.is_cancelled() {
            Outcome::Cancelled
        } else if error.is_timeout() {
            Outcome::TimedOut
        } else {
            Outcome::Failed
        });
        let report = error.report_mut();
        report.connection = self.connection_report();
        report.attempts = self.attempts.clone();
        report.not_visible = not_visible;
        error
    }

    fn news_of_end(&mut self) -> Option<(News, Outcome, Duration)> {
        let watched = self.watched.as_mut()?;
        let elapsed = self.timeline.total(clock::now());
        watched.tell_end().then(|| (watched.news(&self.timeline), self.ended.unwrap_or(Outcome::Cancelled), elapsed))
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // A call whose future was dropped.
        if let Some((news, outcome, elapsed)) = self.news_of_end() {
            news.tell_end(outcome, elapsed, None);
        }
    }
}
