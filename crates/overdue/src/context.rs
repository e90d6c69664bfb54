//! The request context: a tree of deadlines and cancellation, with the reason why.
//!
//! ```
//! use std::time::Duration;
//! use overdue::{Context, Limit};
//!
//! let request = Context::root().child(Limit::total(Duration::from_secs(2)));
//! let lookup = request.child(Limit::total(Duration::from_secs(30)));
//!
//! // A child can only shrink, and it knows who clipped it.
//! assert!(lookup.remaining().unwrap() <= Duration::from_secs(2));
//! assert_eq!(lookup.deadline().unwrap().asked().value, Duration::from_secs(30));
//!
//! request.cancel("the client went away");
//! assert_eq!(lookup.cancel_cause().unwrap().to_string(), "the client went away");
//! ```

mod bound;
mod cause;
mod current;
mod scope;
mod tree;

use std::{
    any::Any,
    fmt,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

use overdue_core::{Deadline, Limit, Stage};

#[cfg(any(feature = "client", feature = "server", feature = "tower"))]
pub(crate) use bound::Watch;
pub(crate) use bound::{Bound, Interrupted, forbidden, lateness};
pub use cause::CancelCause;
#[cfg(any(feature = "server", feature = "tower"))]
pub(crate) use current::entered;
pub(crate) use current::within;
pub use current::{LostDeadline, lost_deadlines};
pub use scope::{Scope, ScopeError, Spawner, StrayTasks, Task, TaskInfo, TaskState, stray_tasks};
use tree::{Node, Waiter};

use crate::{Error, clock};

/// A node of the cancellation tree: a deadline, a cancel cause and typed values, all inherited from its parent.
///
/// Cloning gives another handle to the same node. A node is cheap: one allocation, and no lock is taken until
/// somebody waits on it.
#[derive(Clone)]
pub struct Context {
    node: Arc<Node>,
}

impl Context {
    /// A context without parent, deadline or values.
    ///
    /// Opened inside work that has a deadline, it drops that deadline on the floor: the line that does so is counted in
    /// [`lost_deadlines`].
    #[must_use]
    #[track_caller]
    pub fn root() -> Self {
        current::root_opened(Location::caller());
        Self { node: Arc::new(Node::root()) }
    }

    /// The context of the work that is being polled: that of the innermost [`run`](Self::run), or of the task of a
    /// [`Scope`]. `None` outside of both, and in what `tokio::spawn` started.
    #[must_use]
    pub fn current() -> Option<Self> {
        current::current()
    }

    /// A child whose deadline is `limit` from now, or the parent's when that is earlier. In the second case the child
    /// remembers what was asked for ([`Deadline::asked`]) and who clipped it ([`Deadline::clipped_by`]).
    #[must_use]
    pub fn child(&self, limit: Limit) -> Self {
        self.child_at(clock::now(), limit)
    }

    pub(crate) fn child_at(&self, now: Instant, limit: Limit) -> Self {
        let deadline = Deadline::after(now, limit).clipped(self.node.deadline());
        Self { node: Arc::new(Node::child(&self.node, Some(deadline))) }
    }

    /// A child with the parent's deadline, to be cancelled on its own.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self { node: Arc::new(Node::child(&self.node, self.node.deadline().cloned())) }
    }

    /// A child that outlives its caller on purpose: it keeps the typed values, but neither the deadline nor the
    /// cancellation of its parent reach it. Give it a limit of its own with [`child`](Self::child).
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { node: Arc::new(Node::detached(&self.node)) }
    }

    /// A child that carries `value`. Values are found by their type, so that two users of a context never collide:
    /// each takes a type of its own.
    #[must_use]
    pub fn with_value<T: Any + Send + Sync>(&self, value: T) -> Self {
        let node = Node::child(&self.node, self.node.deadline().cloned()).with_value(Arc::new(value));
        Self { node: Arc::new(node) }
    }

    /// The nearest value of this type, in this context or above.
    #[must_use]
    pub fn value<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.node.value()
    }

    /// The deadline that holds here: the earliest of all above.
    #[must_use]
    pub fn deadline(&self) -> Option<&Deadline> {
        self.node.deadline()
    }

    /// What is left until the deadline: zero once it has passed, `None` without a deadline.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.node.deadline().map(|deadline| deadline.remaining(clock::now()))
    }

    /// Cancels this context and all that descend from it. The first cause wins, and every descendant can read it.
    /// Returns whether this call was the first. The place of the call is kept with the cause.
    #[track_caller]
    pub fn cancel(&self, cause: impl Into<CancelCause>) -> bool {
        self.node.cancel(&Arc::new(cause.into().placed(Location::caller())))
    }

    /// Whether this context or one above it was cancelled. A deadline that passed is no cancellation.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.node.cause().is_some()
    }

    /// Why this context was cancelled, when it was.
    #[must_use]
    pub fn cancel_cause(&self) -> Option<Arc<CancelCause>> {
        self.node.cause()
    }

    /// Waits until this context is cancelled. Never ends otherwise: give it to `select!`, or use
    /// [`run`](Self::run). Cancel safe.
    pub async fn cancelled(&self) -> Arc<CancelCause> {
        let mut waiter = Waiter::default();
        std::future::poll_fn(|cx| waiter.poll(cx, &self.node)).await
    }

    /// A guard that cancels this context when it is dropped.
    #[must_use = "dropped at once, the guard cancels at once"]
    #[track_caller]
    pub fn cancel_on_drop(&self) -> CancelGuard {
        CancelGuard { context: Some(self.clone()), at: Location::caller() }
    }

    /// Runs `work` as `stage` until it ends, the deadline passes or the context is cancelled.
    ///
    /// Work is polled before the timer: a result that is ready wins over a deadline that has just passed. When the
    /// deadline has passed before the first poll, the work is never polled. While it is polled, this is the
    /// [current context](Self::current).
    ///
    /// On Linux the deadline is kept within some tens of microseconds. Elsewhere, and in a runtime that was built without
    /// I/O, it is rounded up to milliseconds. Of such a runtime tokio complains by a panic, which is caught: where panics
    /// abort ends the process, so enable I/O there.
    ///
    /// # Errors
    /// [`Error`] with the stage, and the limit that fired or the cause of the cancellation.
    ///
    /// # Panics
    /// When it has to wait outside of a tokio runtime, or in one without a timer.
    ///
    /// # Cancel safety
    /// Dropping the returned future drops `work`.
    pub async fn run<F: Future>(&self, stage: Stage, work: F) -> Result<F::Output, Error> {
        let started = clock::now();
        let work = within(self.clone(), work);
        match Bound::new(self, self.deadline(), started, work).await {
            Ok(output) => Ok(output),
            Err(interrupted) => Err(Error::from_interrupted(stage, started, self.deadline(), interrupted)),
        }
    }

    /// The deadline of a stage that begins at `now`.
    #[cfg(feature = "client")]
    pub(crate) fn stage_deadline(&self, now: Instant, limit: Option<&Limit>) -> Option<Deadline> {
        match limit {
            Some(limit) => Some(Deadline::after(now, limit.clone()).clipped(self.deadline())),
            None => self.deadline().cloned(),
        }
    }
}

impl Default for Context {
    /// See [`Context::root`].
    #[track_caller]
    fn default() -> Self {
        Self::root()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("deadline", &self.deadline())
            .field("cancel_cause", &self.cancel_cause())
            .finish_non_exhaustive()
    }
}

/// Cancels its context when dropped, with the place where the guard was made.
#[derive(Debug)]
pub struct CancelGuard {
    context: Option<Context>,
    at: &'static Location<'static>,
}

impl CancelGuard {
    /// Lets the context live on.
    pub fn disarm(mut self) {
        self.context = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            context.node.cancel(&Arc::new(CancelCause::from("its guard was dropped").placed(self.at)));
        }
    }
}

#[cfg(test)]
mod cancelling;
#[cfg(test)]
mod tests;
