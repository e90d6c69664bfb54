//! The timer that all deadlines share.
//!
//! Each runtime has one [`Alarms`]: the instants that are waited for, in order, and a task that wakes who waited. On
//! Linux that task sleeps on a timerfd, which wakes it within some microseconds; elsewhere, and where the runtime's
//! clock does not run with the system's (`tokio::time::pause`), it sleeps on the runtime's own timer, which rounds up
//! to milliseconds.
//!
//! Setting a timer that is not the earliest is a push to the end of a heap, and dropping it a pop: no system call, and
//! the runtime's driver is not woken. What was armed for a timer that is gone stays armed, and wakes the task once for
//! nothing; so the kernel is asked about as often as the shortest of the limits in use, however many calls there are.

mod alarms;
#[cfg_attr(all(target_os = "linux", feature = "client"), path = "timer/precise.rs")]
#[cfg_attr(not(all(target_os = "linux", feature = "client")), path = "timer/rounded.rs")]
mod precise;
mod queue;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use alarms::Alarms;

/// Waits for one instant at a time. Dropped, it leaves nothing behind.
#[derive(Default)]
pub(crate) struct Timer(Option<Set>);

struct Set {
    alarms: Arc<Alarms>,
    key: usize,
    at: Instant,
}

impl Timer {
    /// Ready once `at` has come. Another instant than that of the poll before replaces it.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has its timer enabled.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if let Some(set) = &self.0 {
            if set.at == at
                && let Some(poll) = set.alarms.poll(set.key, cx)
            {
                return poll;
            }
            self.clear();
        }
        // The alarms of a runtime that has ended take nothing; those of the one that polls us do.
        if let Some((alarms, key)) = Alarms::set(at, cx) {
            self.0 = Some(Set { alarms, key, at });
        }
        Poll::Pending
    }

    /// Waits for nothing.
    pub(crate) fn clear(&mut self) {
        if let Some(set) = self.0.take() {
            set.alarms.remove(set.key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How many alarms the current runtime has.
#[cfg(test)]
pub(crate) fn alarms_set() -> usize {
    Alarms::here().len()
}

#[cfg(test)]
mod tests;
