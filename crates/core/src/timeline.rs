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
    /// one. A stage never begins before the one before it has ended.
    pub fn begin(&mut self, stage: Stage, now: Instant, deadline: Option<&Deadline>) {
        self.finish(now, SpanOutcome::Done);
        let own = deadline.map(Deadline::asked).filter(|limit| limit.name != LimitName::Total);
        let span = Span {
            stage,
            start: self.since_start(now).max(self.last_end()),
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
    /// a stall fills the rest. Without a running stage there is nothing to say: its end has been entered already.
    pub fn finish_late(&mut self, now: Instant, late: Duration, outcome: SpanOutcome) {
        let Some(begun) = self.running().filter(|_| !late.is_zero()).map(|span| self.start + span.start) else {
            return self.finish(now, outcome);
        };
        let due = now.checked_sub(late).unwrap_or(begun).max(begun);
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

    /// After the end of the call time stands still.
    fn since_start(&self, now: Instant) -> Duration {
        let now = self.end.map_or(now, |end| now.min(end));
        now.saturating_duration_since(self.start)
    }

    fn last_end(&self) -> Duration {
        self.spans().last().map_or(Duration::ZERO, |span| span.start + span.duration)
    }

    fn running_mut(&mut self) -> Option<&mut Span> {
        // A span for which there was no room must not lend its end to the one before it: that one has ended already.
        self.spans.get_mut(..self.len)?.last_mut().filter(|span| span.outcome == SpanOutcome::Running)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "some instant to count from")]

    use super::*;
    use crate::Limit;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn parts(timeline: &Timeline) -> Vec<(Stage, Duration)> {
        timeline.spans().iter().map(|span| (span.stage, span.duration)).collect()
    }

    #[test]
    fn a_stall_is_taken_out_of_the_stage_it_interrupted() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Connect, start, None);
        timeline.finish_late(start + ms(400), ms(300), SpanOutcome::Done);
        timeline.end(start + ms(410), SpanOutcome::Failed);
        assert_eq!(parts(&timeline), [(Stage::Connect, ms(100)), (Stage::Stall, ms(300))]);
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

    #[test]
    fn the_same_lateness_reported_twice_counts_once() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Wait, start, None);
        timeline.finish_late(start + ms(400), ms(300), SpanOutcome::TimedOut);
        timeline.finish_late(start + ms(400), ms(300), SpanOutcome::TimedOut);
        assert_eq!(parts(&timeline), [(Stage::Wait, ms(100)), (Stage::Stall, ms(300))]);
    }

    #[test]
    fn lateness_longer_than_the_clock_reaches_back_to_the_start_of_the_stage() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        timeline.begin(Stage::Wait, start + ms(5), None);
        timeline.finish_late(start + ms(40), Duration::MAX, SpanOutcome::TimedOut);
        assert_eq!(parts(&timeline), [(Stage::Wait, ms(0)), (Stage::Stall, ms(35))]);
    }

    #[test]
    fn a_span_without_room_is_counted_and_its_time_is_unaccounted() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        for n in 0..MAX_SPANS as u64 {
            timeline.begin(Stage::Receive, start + ms(n), None);
        }
        assert_eq!(timeline.dropped(), 0);
        timeline.begin(Stage::Handle, start + ms(16), None);
        assert_eq!((timeline.spans().len(), timeline.dropped()), (MAX_SPANS, 1));
        timeline.finish_late(start + ms(50), ms(7), SpanOutcome::Done);
        timeline.end(start + ms(50), SpanOutcome::Done);
        assert_eq!(timeline.time_in(Stage::Receive, start), ms(16));
        assert_eq!(timeline.unaccounted(start), ms(34));
    }

    #[test]
    fn a_dial_measured_elsewhere_keeps_its_times_limits_and_outcomes() {
        let start = Instant::now();
        let mut dial = Timeline::new(start + ms(3));
        let limit = Limit::stage(Stage::Resolve, ms(9));
        dial.begin(Stage::Resolve, start + ms(4), Some(&Deadline::after(start + ms(4), limit)));
        dial.finish(start + ms(6), SpanOutcome::Done);
        dial.begin(Stage::Connect, start + ms(7), None);
        dial.finish(start + ms(10), SpanOutcome::Failed);
        let mut timeline = Timeline::new(start);
        timeline.splice(&dial);
        let [resolve, connect] = timeline.spans() else { panic!("{:?}", timeline.spans()) };
        assert_eq!((resolve.start, resolve.duration, resolve.limit), (ms(4), ms(2), Some(ms(9))));
        assert_eq!((connect.start, connect.duration, connect.outcome), (ms(7), ms(3), SpanOutcome::Failed));
    }

    #[test]
    fn a_stage_keeps_its_own_limit_and_who_clipped_it() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start);
        let call = Deadline::after(start, Limit::total(ms(200)));
        let tls = Deadline::after(start, Limit::stage(Stage::Tls, ms(5_000))).clipped(Some(&call));
        timeline.begin(Stage::Tls, start, Some(&tls));
        timeline.begin(Stage::Wait, start, Some(&call));
        let limits: Vec<_> = timeline.spans().iter().map(|span| (span.limit, span.clipped_by)).collect();
        assert_eq!(limits, [(Some(ms(5_000)), Some(LimitName::Total)), (None, None)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(Stage, u64),
        Finish(u64),
        FinishLate(u64, u64),
        Splice(Vec<(u64, u64)>),
        End(u64),
    }

    /// Instants are free: a dial of another task was measured before, and two tasks read the clock in any order.
    fn step() -> impl Strategy<Value = Step> {
        let at = 0_u64..200;
        let stage = prop::sample::select(vec![Stage::Queue, Stage::Connect, Stage::Wait, Stage::Receive]);
        prop_oneof![
            4 => (stage, at.clone()).prop_map(|(stage, at)| Step::Begin(stage, at)),
            2 => at.clone().prop_map(Step::Finish),
            3 => (at.clone(), 0_u64..300).prop_map(|(at, late)| Step::FinishLate(at, late)),
            1 => prop::collection::vec((at.clone(), 0_u64..50), 0..4).prop_map(Step::Splice),
            1 => at.prop_map(Step::End),
        ]
    }

    fn take(timeline: &mut Timeline, start: Instant, step: Step) {
        match step {
            Step::Begin(stage, at) => timeline.begin(stage, start + ms(at), None),
            Step::Finish(at) => timeline.finish(start + ms(at), SpanOutcome::Done),
            Step::FinishLate(at, late) => timeline.finish_late(start + ms(at), ms(late), SpanOutcome::TimedOut),
            Step::Splice(spans) => {
                let mut other = Timeline::new(start + ms(3));
                for (at, run) in spans {
                    other.begin(Stage::Tls, start + ms(at), None);
                    other.finish(start + ms(at + run), SpanOutcome::Done);
                }
                timeline.splice(&other);
            }
            Step::End(at) => timeline.end(start + ms(at), SpanOutcome::Done),
        }
    }

    proptest! {
        #[test]
        fn parts_and_unaccounted_time_are_the_whole_and_never_more(steps in prop::collection::vec(step(), 0..30)) {
            let start = Instant::now();
            let mut timeline = Timeline::new(start);
            for step in steps {
                // The call ends when all that belongs to it has ended.
                if let Step::End(at) = step
                    && start + ms(at) < start + timeline.last_end()
                {
                    continue;
                }
                take(&mut timeline, start, step);
            }
            let now = start + ms(600);
            let stages: std::collections::HashSet<_> = timeline.spans().iter().map(|span| span.stage).collect();
            let sum: Duration = stages.into_iter().map(|stage| timeline.time_in(stage, now)).sum();
            prop_assert_eq!(sum + timeline.unaccounted(now), timeline.total(now));
            for pair in timeline.spans().windows(2) {
                prop_assert!(pair[0].start + pair[0].duration <= pair[1].start);
                prop_assert!(pair[0].outcome != SpanOutcome::Running);
            }
        }

        #[test]
        fn lateness_becomes_stall_and_nothing_else(run in 0_u64..100, late in 0_u64..200) {
            let start = Instant::now();
            let mut timeline = Timeline::new(start);
            timeline.begin(Stage::Wait, start, None);
            timeline.finish_late(start + ms(run), ms(late), SpanOutcome::TimedOut);
            let stall = timeline.time_in(Stage::Stall, start + ms(999));
            prop_assert_eq!(stall, ms(late.min(run)));
            prop_assert_eq!(timeline.time_in(Stage::Wait, start + ms(999)) + stall, ms(run));
            prop_assert_eq!(timeline.spans()[0].outcome, SpanOutcome::TimedOut);
        }
    }
}
