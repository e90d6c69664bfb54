//! Ends what other threads wait for.

use std::{
    fmt,
    panic::Location,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
};

use super::alarm::Watchers;
use crate::CancelCause;

/// Interrupts blocking operations from another thread, with a cause. Clones are the same interrupter.
///
/// It works like a deadline in the past: what is pending fails, and so does all that follows, until it is
/// [taken back](Self::resume). The connections themselves are left as they are, and can be used again then.
///
/// One interrupter may serve any number of connections, listeners and polls: give it to
/// [`Options::interrupter`](super::Options::interrupter). All methods can be called from any thread at any time, but
/// not from a signal handler.
#[derive(Clone, Default)]
pub struct Interrupter(Arc<State>);

#[derive(Default)]
struct State {
    cause: Mutex<Option<Arc<CancelCause>>>,
    /// Whether there is a cause: a look that takes no lock.
    raised: AtomicBool,
    watchers: Watchers,
}

impl Interrupter {
    /// One that has not interrupted anything yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails what is pending and what follows with an error of which
    /// [`Error::is_cancelled`](crate::Error::is_cancelled) is true, whose
    /// [`cancel_cause`](crate::Error::cancel_cause) is this one, and whose kind is
    /// [`ConnectionAborted`](std::io::ErrorKind::ConnectionAborted). (Not `Interrupted`: loops try that one again.)
    ///
    /// The first cause stays until it is taken back. Returns whether this call was the first.
    #[track_caller]
    pub fn interrupt(&self, cause: impl Into<CancelCause>) -> bool {
        let cause = Arc::new(cause.into().placed(Location::caller()));
        let first = {
            let mut held = self.0.cause.lock().unwrap_or_else(PoisonError::into_inner);
            let first = held.is_none();
            held.get_or_insert(cause);
            self.0.raised.store(true, Release);
            first
        };
        self.0.watchers.wake();
        first
    }

    /// Takes it back: from now on operations may begin.
    pub fn resume(&self) {
        let mut held = self.0.cause.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.raised.store(false, Release);
        *held = None;
    }

    /// Why it interrupts, while it does.
    #[must_use]
    pub fn cause(&self) -> Option<Arc<CancelCause>> {
        if !self.0.raised.load(Acquire) {
            return None;
        }
        self.0.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }
}

impl fmt::Debug for Interrupter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupter").field("cause", &self.cause()).finish_non_exhaustive()
    }
}
