//! Work under a deadline and a context.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use overdue_core::{Deadline, Limit};
use pin_project_lite::pin_project;
use tokio::{task::coop::unconstrained, time::Sleep};

use super::{CancelCause, Context, tree::Cancelled};
use crate::clock;

/// Below this the runtime's timer is as good as it gets: tokio rounds to milliseconds.
pub(crate) const LATE: Duration = Duration::from_millis(10);

/// How often work is polled again after a timer that fired late: tasks that the same stall held up (a resolver, an
/// HTTP/2 connection) run in between and may have the result.
const GRACE_POLLS: u8 = 3;

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

/// How work ended, and how late the runtime was to notice.
#[derive(Debug)]
pub(crate) struct Settled<T> {
    pub(crate) result: Result<T, Interrupted>,
    /// How long after the deadline the runtime polled this; zero below the timer's own precision.
    pub(crate) late_by: Duration,
}

pin_project! {
    /// What can interrupt one operation: a deadline and a cancellation. The operation asks [`Watch::before`] once,
    /// then polls its work, and only while that is pending [`Watch::poll`].
    pub(crate) struct Watch {
        deadline: Option<Deadline>,
        #[pin]
        sleep: Option<Sleep>,
        cancelled: Cancelled,
        grace: u8,
    }
}

impl Watch {
    pub(crate) fn new(context: &Context, deadline: Option<Deadline>) -> Self {
        let cancelled = Cancelled::new(Arc::clone(&context.node));
        Self { deadline, sleep: None, cancelled, grace: GRACE_POLLS }
    }

    /// The deadline of the operation.
    #[cfg(feature = "client")]
    pub(crate) fn deadline(&self) -> Option<&Deadline> {
        self.deadline.as_ref()
    }

    /// Watches the next operation.
    #[cfg(feature = "client")]
    pub(crate) fn restart(self: Pin<&mut Self>, deadline: Option<Deadline>) {
        let mut this = self.project();
        *this.deadline = deadline;
        this.sleep.set(None);
        *this.grace = GRACE_POLLS;
    }

    /// What forbids to begin.
    pub(crate) fn before(&self) -> Option<Interrupted> {
        if let Some(cause) = self.cancelled.cause() {
            return Some(Interrupted::Cancelled(cause));
        }
        let past = self.deadline.as_ref().filter(|deadline| deadline.passed(clock::now()))?;
        Some(Interrupted::Past(past.limit().clone()))
    }

    /// How long ago the deadline passed; zero below the timer's own precision.
    pub(crate) fn late_by(&self) -> Duration {
        let late = self.deadline.as_ref().map_or(Duration::ZERO, |deadline| deadline.late_by(clock::now()));
        if late < LATE { Duration::ZERO } else { late }
    }

    /// What ends the operation, whose work is pending, and how late this is noticed.
    pub(crate) fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<(Interrupted, Duration)> {
        let mut this = self.as_mut().project();
        if let Poll::Ready(cause) = Pin::new(this.cancelled).poll(cx) {
            return Poll::Ready((Interrupted::Cancelled(cause), Duration::ZERO));
        }
        let Some(deadline) = this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep_until(deadline.at().into())));
        }
        if let Some(sleep) = this.sleep.as_mut().as_pin_mut()
            && !sleep.is_elapsed()
        {
            // Work that uses up the task's budget at every poll must not keep its own limit from firing.
            ready!(pin!(unconstrained(sleep)).poll(cx));
        }
        let limit = deadline.limit().clone();
        let late_by = self.late_by();
        if !late_by.is_zero() && self.grace > 0 {
            *self.project().grace -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready((Interrupted::Passed(limit), late_by))
    }
}

pin_project! {
    /// Runs `work` until it ends, the deadline passes or the context is cancelled.
    pub(crate) struct Bound<F> {
        #[pin]
        work: F,
        #[pin]
        watch: Watch,
        polled: bool,
    }
}

impl<F: Future> Bound<F> {
    pub(crate) fn new(context: &Context, deadline: Option<Deadline>, work: F) -> Self {
        Self { work, watch: Watch::new(context, deadline), polled: false }
    }
}

impl<F: Future> Future for Bound<F> {
    type Output = Settled<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if !std::mem::replace(this.polled, true)
            && let Some(interrupted) = this.watch.before()
        {
            return Poll::Ready(Settled { result: Err(interrupted), late_by: Duration::ZERO });
        }
        if let Poll::Ready(value) = this.work.poll(cx) {
            return Poll::Ready(Settled { result: Ok(value), late_by: this.watch.late_by() });
        }
        let (interrupted, late_by) = ready!(this.watch.poll(cx));
        Poll::Ready(Settled { result: Err(interrupted), late_by })
    }
}
