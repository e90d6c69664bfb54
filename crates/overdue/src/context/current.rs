//! The context of the task that is being polled, and the deadlines that were dropped on the floor.

use std::{collections::BTreeMap, panic::Location, sync::Mutex, sync::PoisonError};

use overdue_core::Limit;
use tokio::task::futures::TaskLocalFuture;

use super::Context;

tokio::task_local! {
    static CURRENT: Context;
}

/// Where a deadline was lost: a line that opened a root context while work under a deadline was running, so that what
/// it does next has no limit. See [`lost_deadlines`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LostDeadline {
    /// The line that called [`Context::root`].
    pub at: &'static Location<'static>,
    /// How often, since the process began.
    pub count: u64,
    /// The limit that held there the first time, and whose it was.
    pub limit: Limit,
}

/// One entry for each line of code that lost one, so that it cannot grow past the code.
static LOST: Mutex<BTreeMap<&'static Location<'static>, (u64, Limit)>> = Mutex::new(BTreeMap::new());

/// The lines that opened a root context while a task of a [`Scope`](super::Scope), or work of [`Context::run`], under
/// a deadline was polled: since the process began, in the order of files and lines. Each is a request that goes on
/// without its limit. To mend one, hand the context down or take [`Context::current`]; where it is meant, say so with
/// [`Context::detached`], which is not counted.
///
/// What `tokio::spawn` starts has no current context, and a root opened there is not seen: spawn in a
/// [`Scope`](super::Scope).
#[must_use]
pub fn lost_deadlines() -> Vec<LostDeadline> {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    lost.iter().map(|(at, (count, limit))| LostDeadline { at, count: *count, limit: limit.clone() }).collect()
}

/// Makes `context` the current one whenever `work` is polled or dropped.
pub(crate) fn within<F: Future>(context: Context, work: F) -> TaskLocalFuture<Context, F> {
    CURRENT.scope(context, work)
}

/// Makes `context` the current one while `work` runs.
#[cfg(any(feature = "server", feature = "tower"))]
pub(crate) fn entered<T>(context: Context, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(context, work)
}

pub(super) fn current() -> Option<Context> {
    CURRENT.try_with(Context::clone).ok()
}

/// A root context is opened at `at`. Costs one thread-local read when no deadline is lost by it.
pub(super) fn root_opened(at: &'static Location<'static>) {
    let dropped = CURRENT.try_with(|current| current.deadline().map(|deadline| deadline.limit().clone()));
    if let Ok(Some(limit)) = dropped {
        count_lost(at, limit);
    }
}

#[cold]
fn count_lost(at: &'static Location<'static>, limit: Limit) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    lost.entry(at).or_insert((0, limit)).0 += 1;
}
