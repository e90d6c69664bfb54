//! Work under a deadline and a context.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::{Duration, Instant},
};

use overdue_core::{Deadline, Limit};
use pin_project_lite::pin_project;

use super::{CancelCause, Context, tree::Waiter};
use crate::{clock, timer::Timer};

/// A runtime that is less late than this was not stalled. For limits that are shorter the limit itself is the measure.
const LATE: Duration = Duration::from_millis(10);
/// What the least precise of the timers may be late by.
const IMPRECISE: Duration = Duration::from_millis(2);

/// How often work is polled again after a timer that fired late: tasks that the same stall held up (a resolver, an
/// HTTP/2 connection) run in between and may have the result.
const GRACE_POLLS: u8 = 3;
/// The part of the lateness that may go by with them, beyond the first: a runtime that has too much to do is late for
/// each of them, and the deadline must not be late by their sum.
const GRACE_PART: u32 = 4;

/// Why work ended before it was done.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// The deadline had passed before the first poll.
    Past(Limit),
    /// The deadline passed while the work was pending.
    Passed(Limit),
    /// The context was cancelled.
    Cancelled(Arc<CancelCause>),
}

impl Interrupted {
    /// How late the runtime was to notice, at `now`, that this deadline had passed.
    pub(crate) fn late_by(&self, deadline: Option<&Deadline>, now: Instant) -> Duration {
        match self {
            Self::Passed(_) => lateness(deadline, now),
            Self::Past(_) | Self::Cancelled(_) => Duration::ZERO,
        }
    }
}

/// What forbids to begin at `now`.
pub(crate) fn forbidden(context: &Context, deadline: Option<&Deadline>, now: Instant) -> Option<Interrupted> {
    if let Some(cause) = context.cancel_cause() {
        return Some(Interrupted::Cancelled(cause));
    }
    let past = deadline.filter(|deadline| deadline.passed(now))?;
    Some(Interrupted::Past(past.limit().clone()))
}

/// How late the runtime was when it noticed at `now` that the deadline has passed; zero when no timer would do better.
pub(crate) fn lateness(deadline: Option<&Deadline>, now: Instant) -> Duration {
    let Some(deadline) = deadline else { return Duration::ZERO };
    let late = deadline.late_by(now);
    if late < LATE.min(deadline.limit().value.max(IMPRECISE)) { Duration::ZERO } else { late }
}

/// What can interrupt one operation at a time: a deadline and the cancellation of a context. Asked only while the work
/// is pending, and free of cost until then.
#[derive(Default)]
pub(crate) struct Watch {
    timer: Timer,
    waiter: Waiter,
    /// Polls granted after a deadline that was noticed late.
    granted: u8,
    /// Until when there may be more of them.
    granting: Option<Instant>,
}

impl Watch {
    /// Watches the next operation.
    #[cfg(feature = "client")]
    pub(crate) fn restart(&mut self) {
        self.timer.clear();
        self.granted = 0;
        self.granting = None;
    }

    /// What ends the operation, whose work is pending. The context is the same at every poll.
    pub(crate) fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        context: &Context,
        deadline: Option<&Deadline>,
    ) -> Poll<Interrupted> {
        if let Poll::Ready(cause) = self.waiter.poll(cx, &context.node) {
            return Poll::Ready(Interrupted::Cancelled(cause));
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        let noticed = ready!(self.timer.poll(cx, deadline.at()));
        if self.grants(lateness(Some(deadline), noticed), clock::now()) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Interrupted::Passed(deadline.limit().clone()))
    }

    /// Whether the work is polled once more, because the timer itself was late. When only the runtime's queue is long,
    /// whatever could have ended the work stood in it before us.
    fn grants(&mut self, late: Duration, now: Instant) -> bool {
        if late.is_zero() || self.granted >= GRACE_POLLS || self.granting.is_some_and(|until| now >= until) {
            return false;
        }
        self.granted += 1;
        self.granting.get_or_insert(now + late / GRACE_PART);
        true
    }

    /// Polls `work`, which begins now when there is a `started`: cancelled or past the deadline then, it is never polled.
    /// From then on it is polled before the timer.
    pub(crate) fn poll_work<F: Future>(
        &mut self,
        cx: &mut TaskContext<'_>,
        context: &Context,
        deadline: Option<&Deadline>,
        started: Option<Instant>,
        work: Pin<&mut F>,
    ) -> Poll<Result<F::Output, Interrupted>> {
        if let Some(interrupted) = started.and_then(|started| forbidden(context, deadline, started)) {
            return Poll::Ready(Err(interrupted));
        }
        if let Poll::Ready(value) = work.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        self.poll(cx, context, deadline).map(Err)
    }
}

pin_project! {
    /// Runs `work` until it ends, the deadline passes or the context is cancelled: see [`Watch::poll_work`].
    pub(crate) struct Bound<'a, F> {
        context: &'a Context,
        deadline: Option<&'a Deadline>,
        // Until the first poll.
        started: Option<Instant>,
        watch: Watch,
        #[pin]
        work: F,
    }
}

impl<'a, F: Future> Bound<'a, F> {
    pub(crate) fn new(context: &'a Context, deadline: Option<&'a Deadline>, started: Instant, work: F) -> Self {
        Self { context, deadline, started: Some(started), watch: Watch::default(), work }
    }
}

impl<F: Future> Future for Bound<'_, F> {
    type Output = Result<F::Output, Interrupted>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.watch.poll_work(cx, this.context, *this.deadline, this.started.take(), this.work)
    }
}
