//! Work under a deadline and a context.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use overdue_core::{Deadline, Limit};
use pin_project_lite::pin_project;
use tokio::time::Sleep;

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
    /// Runs `work` until it ends, the deadline passes or the context is cancelled.
    pub(crate) struct Bound<'a, F> {
        context: &'a Context,
        deadline: Option<Deadline>,
        #[pin]
        work: F,
        #[pin]
        sleep: Option<Sleep>,
        #[pin]
        cancelled: Cancelled,
        polled: bool,
        grace: u8,
    }
}

impl<'a, F: Future> Bound<'a, F> {
    pub(crate) fn new(context: &'a Context, deadline: Option<Deadline>, work: F) -> Self {
        let cancelled = Cancelled::new(Arc::clone(&context.node));
        Self { context, deadline, work, sleep: None, cancelled, polled: false, grace: GRACE_POLLS }
    }
}

impl<F: Future> Future for Bound<'_, F> {
    type Output = Settled<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let late_by = |deadline: &Option<Deadline>| {
            let late = deadline.as_ref().map_or(Duration::ZERO, |deadline| deadline.late_by(clock::now()));
            if late < LATE { Duration::ZERO } else { late }
        };
        if !*this.polled {
            *this.polled = true;
            if let Some(cause) = this.context.cancel_cause() {
                return Poll::Ready(Settled { result: Err(Interrupted::Cancelled(cause)), late_by: Duration::ZERO });
            }
            if let Some(deadline) = this.deadline.as_ref().filter(|deadline| deadline.passed(clock::now())) {
                let limit = deadline.limit().clone();
                return Poll::Ready(Settled { result: Err(Interrupted::Past(limit)), late_by: Duration::ZERO });
            }
        }
        if let Poll::Ready(value) = this.work.poll(cx) {
            return Poll::Ready(Settled { result: Ok(value), late_by: late_by(this.deadline) });
        }
        if let Poll::Ready(cause) = this.cancelled.poll(cx) {
            return Poll::Ready(Settled { result: Err(Interrupted::Cancelled(cause)), late_by: Duration::ZERO });
        }
        let Some(deadline) = this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep_until(deadline.at().into())));
        }
        if let Some(sleep) = this.sleep.as_mut().as_pin_mut() {
            if !sleep.is_elapsed() {
                ready!(sleep.poll(cx));
            }
        }
        let limit = deadline.limit().clone();
        let late_by = late_by(this.deadline);
        if !late_by.is_zero() && *this.grace > 0 {
            *this.grace -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Settled { result: Err(Interrupted::Passed(limit)), late_by })
    }
}
