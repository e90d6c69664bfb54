//! One alarm whose instant moves all the time.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::Timer;

/// Wakes its task at an instant that may be another at every poll, as that of a connection which goes from stage to stage
/// is. Moved to a later instant it costs nothing: it rings at the earlier one, sees that this is not the one any more, and
/// is set anew. So a connection that carries a thousand requests a second, each with limits of seconds, sets an alarm
/// every few seconds.
///
/// Within some 100 us of the instant on Linux, and never before it. Dropped, it leaves nothing behind.
#[derive(Default)]
pub struct Alarm {
    timer: Timer,
    set: Option<Instant>,
}

impl Alarm {
    /// Ready once `at` has come, with the instant in which that was noticed: how late that is is how late this runtime
    /// was. Until then the task is woken when it comes, or earlier for nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has its timer enabled.
    pub fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<Instant> {
        loop {
            let set = self.set.filter(|set| *set <= at).unwrap_or(at);
            self.set = Some(set);
            match self.timer.poll(cx, set) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(noticed) => {
                    self.set = None;
                    self.timer.clear();
                    if noticed >= at {
                        return Poll::Ready(noticed);
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alarm").field("set", &self.set).finish_non_exhaustive()
    }
}
