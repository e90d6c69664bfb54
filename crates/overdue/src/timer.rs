//! The timer that all deadlines share.
//!
//! Each runtime has one [`Alarms`]: the instants that are waited for, in order, and a task that wakes who waited. On
//! Linux that task sleeps on a timerfd, which wakes it within some microseconds; elsewhere, and where the runtime's
//! clock does not run with the system's (`tokio::time::pause`), it sleeps on the runtime's own timer, which rounds up
//! to milliseconds. That the clock was stopped while the task slept is noticed when the next timer is set, or when the
//! system's time has come.
//!
//! Setting a timer that is not the earliest is a push to the end of a heap, and dropping it a pop: no system call, and
//! the runtime's driver is not woken. What was armed for a timer that is gone stays armed, and wakes the task once for
//! nothing; so the kernel is asked about as often as the shortest of the limits in use, however many calls there are.

mod alarms;
#[cfg(any(feature = "client", feature = "server"))]
mod lazy;
#[cfg_attr(all(target_os = "linux", feature = "client"), path = "timer/precise.rs")]
#[cfg_attr(not(all(target_os = "linux", feature = "client")), path = "timer/rounded.rs")]
mod precise;
mod queue;

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

#[cfg(any(feature = "client", feature = "server"))]
pub use lazy::Alarm;

use crate::clock;
use alarms::Alarms;
use tokio::{task::coop::unconstrained, time::Sleep};

/// Waits for one instant at a time. Dropped, it leaves nothing behind.
#[derive(Default)]
pub(crate) struct Timer(Option<Set>);

enum Set {
    Alarm {
        alarms: Arc<Alarms>,
        key: usize,
        at: Instant,
    },
    /// The alarms of this runtime have ended: it is being shut down, or has no timer. Its own knows what that means
    /// for those who wait.
    Sleep {
        sleep: Pin<Box<Sleep>>,
        at: Instant,
    },
}

impl Timer {
    /// Ready once `at` has come, with the instant in which that was noticed. Another instant than that of the poll before replaces it.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has its timer enabled, as tokio's own timers do; and in one that has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<Instant> {
        match &mut self.0 {
            Some(Set::Alarm { alarms, key, at: set }) if *set == at => match alarms.poll(*key, cx) {
                Some(Poll::Ready(noticed)) => return Poll::Ready(noticed),
                // Work that goes on in another runtime takes its timer along: nobody may drive the one it came from.
                Some(Poll::Pending) if alarms.are_here() => return Poll::Pending,
                _ => {}
            },
            Some(Set::Sleep { sleep, at: set }) if *set == at => return poll_sleep(sleep, cx),
            _ => {}
        }
        self.clear();
        // The alarms of a runtime that has ended take nothing; those of the one that polls us do.
        if let Some((alarms, key)) = Alarms::set(at, cx) {
            self.0 = Some(Set::Alarm { alarms, key, at });
            return Poll::Pending;
        }
        let mut sleep = Box::pin(tokio::time::sleep_until(at.into()));
        let poll = poll_sleep(&mut sleep, cx);
        self.0 = Some(Set::Sleep { sleep, at });
        poll
    }

    /// Waits for nothing.
    pub(crate) fn clear(&mut self) {
        if let Some(Set::Alarm { alarms, key, .. }) = self.0.take() {
            alarms.remove(key);
        }
    }
}

/// Outside of the task's budget: work that uses that up would hold up its own deadline.
fn poll_sleep(sleep: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<Instant> {
    pin!(unconstrained(sleep)).poll(cx).map(|()| clock::now())
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
