//! The stages of one call with their start and duration.

use std::time::{Duration, Instant};

use crate::{Deadline, LimitName, Stage};

/// How many spans a timeline holds. One HTTP call needs seven; stalls and a second try fit too. What comes after
/// that is counted in [`Timeline::dropped`] and its time shows as unaccounted.
pub const MAX_SPANS: usize = 16;

/// How a span ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SpanOutcome {
    /// It is still running.
    Running,
    /// It did what it was for.
    Done,
    /// A limit fired in it.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It failed.
    Failed,
}

impl SpanOutcome {
    /// The word used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// One stage of a call. Times are relative to the start of the timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Which stage.
    pub stage: Stage,
    /// When it began, since the start of the call.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub outcome: SpanOutcome,
    /// The limit that the stage had for itself, if it had one.
    pub limit: Option<Duration>,
    /// The outer limit that left the stage less than that, if one did.
    pub clipped_by: Option<LimitName>,
}

/// The stages of one call. Fixed size: it allocates nothing. Spans follow each other and never overlap, so that
/// durations and [`unaccounted`](Self::unaccounted) add up to [`total`](Self::total).
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Instant,
    end: Option<Instant>,
    spans: [Span; MAX_SPANS],
    len: usize,
    dropped: usize,
}

const EMPTY: Span = Span {
    stage: Stage::Handle,
    start: Duration::ZERO,
    duration: Duration::ZERO,
    outcome: SpanOutcome::Running,
    limit: None,
    clipped_by: None,
};

impl Timeline {
    /// An empty timeline that starts at `now`.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { start: now, end: None, spans: [EMPTY; MAX_SPANS], len: 0, dropped: 0 }
    }

    /// When it started.
    #[must_use]
    pub const fn start(&self) -> Instant {
        self.start
    }

    /// Begins a stage, and ends the one that was still running as done. `deadline` is the stage's own, when it has
    /// one.
    pub fn begin(&mut self, stage: Stage, now: Instant, deadline: Option<&Deadline>) {
        self.finish(now, SpanOutcome::Done);
        let own = deadline.map(Deadline::asked).filter(|limit| limit.name != LimitName::Total);
        let span = Span {
            stage,
            start: self.since_start(now),
            duration: Duration::ZERO,
            outcome: SpanOutcome::Running,
            limit: own.map(|limit| limit.value),
            clipped_by: own.and(deadline).and_then(Deadline::clipped_by).map(|limit| limit.name),
        };
        match self.spans.get_mut(self.len) {
            Some(slot) => {
                *slot = span;
                self.len += 1;
            }
            None => self.dropped += 1,
        }
    }

    /// Ends the running stage, if one is running.
    pub fn finish(&mut self, now: Instant, outcome: SpanOutcome) {
        let at = self.since_start(now);
        if let Some(span) = self.running_mut() {
            span.duration = at.saturating_sub(span.start);
            span.outcome = outcome;
        }
    }

    /// Says that the last `late` of the running stage were the own runtime's: the stage ends `late` before `now`, and
    /// a stall fills the rest.
    pub fn finish_late(&mut self, now: Instant, late: Duration, outcome: SpanOutcome) {
        let Some(due) = now.checked_sub(late).filter(|_| !late.is_zero()) else {
            return self.finish(now, outcome);
        };
        let due = due.max(self.running().map_or(self.start, |span| self.start + span.start));
        self.finish(due, outcome);
        self.begin(Stage::Stall, due, None);
        self.finish(now, SpanOutcome::Done);
    }

    /// Puts the spans of a dial that was measured elsewhere (in a connection of its own) at their place in this call.
    pub fn splice(&mut self, other: &Self) {
        for span in other.spans() {
            let begin = other.start + span.start;
            self.begin(span.stage, begin, None);
            if let Some(own) = self.spans.get_mut(..self.len).and_then(<[Span]>::last_mut) {
                own.limit = span.limit;
                own.clipped_by = span.clipped_by;
            }
            if span.outcome != SpanOutcome::Running {
                self.finish(begin + span.duration, span.outcome);
            }
        }
    }

    /// Ends the call. The running stage ends with it.
    pub fn end(&mut self, now: Instant, outcome: SpanOutcome) {
        self.finish(now, outcome);
        self.end.get_or_insert(now);
    }

    /// The spans, in the order in which they ran.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        self.spans.get(..self.len).unwrap_or_default()
    }

    /// The stage that is running, if one is.
    #[must_use]
    pub fn running(&self) -> Option<&Span> {
        self.spans().last().filter(|span| span.outcome == SpanOutcome::Running)
    }

    /// All time spent in a stage; a running one counts until `now`.
    #[must_use]
    pub fn time_in(&self, stage: Stage, now: Instant) -> Duration {
        let running = |span: &Span| match span.outcome {
            SpanOutcome::Running => self.since_start(now).saturating_sub(span.start),
            _ => span.duration,
        };
        self.spans().iter().filter(|span| span.stage == stage).map(running).sum()
    }

    /// From the start to the end; to `now` while it has not ended.
    #[must_use]
    pub fn total(&self, now: Instant) -> Duration {
        self.end.unwrap_or(now).saturating_duration_since(self.start)
    }

    /// The time that no stage explains.
    #[must_use]
    pub fn unaccounted(&self, now: Instant) -> Duration {
        let end = self.end.unwrap_or(now);
        let running = self.running().map_or(Duration::ZERO, |span| self.since_start(end).saturating_sub(span.start));
        let known: Duration = self.spans().iter().map(|span| span.duration).sum();
        self.total(now).saturating_sub(known + running)
    }

    /// Spans for which there was no room.
    #[must_use]
    pub const fn dropped(&self) -> usize {
        self.dropped
    }

    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    fn running_mut(&mut self) -> Option<&mut Span> {
        // A span for which there was no room must not lend its end to the one before it: that one has ended already.
        self.spans.get_mut(..self.len)?.last_mut().filter(|span| span.outcome == SpanOutcome::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_stall_is_taken_out_of_the_stage_it_interrupted() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Connect, start, None);
        timeline.finish_late(start + ms(400), ms(300), SpanOutcome::Done);
        timeline.end(start + ms(410), SpanOutcome::Failed);
        let parts: Vec<_> = timeline.spans().iter().map(|span| (span.stage, span.duration)).collect();
        assert_eq!(parts, [(Stage::Connect, ms(100)), (Stage::Stall, ms(300))]);
        assert_eq!(timeline.unaccounted(start + ms(999)), ms(10));
    }

    #[test]
    fn lateness_never_reaches_into_an_earlier_stage() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Connect, start, None);
        timeline.begin(Stage::Tls, start + ms(50), None);
        timeline.finish_late(start + ms(60), ms(40), SpanOutcome::Done);
        assert_eq!(timeline.time_in(Stage::Connect, start), ms(50));
        assert_eq!(timeline.time_in(Stage::Tls, start), Duration::ZERO);
        assert_eq!(timeline.time_in(Stage::Stall, start), ms(10));
    }

    proptest! {
        #[test]
        fn the_parts_add_up(steps in prop::collection::vec((0_u64..50, 0_u64..50, 0_u64..30, any::<bool>()), 0..24)) {
            let start = Instant::now();
            let mut timeline = Timeline::new(start);
            let mut now = start;
            for (run, gap, late, finish) in steps {
                timeline.begin(Stage::Send, now, None);
                now += ms(run);
                if finish {
                    timeline.finish_late(now, ms(late), SpanOutcome::Done);
                }
                now += ms(gap);
            }
            timeline.end(now, SpanOutcome::Done);
            let sum: Duration = timeline.spans().iter().map(|span| span.duration).sum();
            prop_assert_eq!(sum + timeline.unaccounted(now), timeline.total(now));
            for pair in timeline.spans().windows(2) {
                prop_assert!(pair[0].start + pair[0].duration <= pair[1].start);
            }
        }
    }
}
