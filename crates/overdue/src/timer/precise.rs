//! A timerfd, which fires within some microseconds where the runtime's timer rounds up to milliseconds.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use rustix::{
    fs::Timespec,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::clock;

/// The side that sets the time. Any thread may.
pub(super) struct Clock(OwnedFd);

impl Clock {
    /// Fires once `at` has come, and at no other instant that was set before. False when it cannot: the runtime's clock
    /// is not the system's.
    pub(super) fn arm(&self, at: Instant) -> bool {
        let Some(now) = real_now() else { return false };
        // A timer of zero would be none.
        let left = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        let time = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &time).is_ok()
    }
}

impl AsRawFd for Clock {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The time, unless it stands still or was moved (`tokio::time::pause`).
#[expect(clippy::disallowed_methods, reason = "whether the runtime's clock is this one is the question")]
fn real_now() -> Option<Instant> {
    let before = Instant::now();
    let now = clock::now();
    (before <= now && now <= Instant::now()).then_some(now)
}

/// Whether the runtime's clock is the system's, now.
pub(super) fn is_real() -> bool {
    real_now().is_some()
}

/// The side that waits.
pub(super) struct Bell(AsyncFd<Arc<Clock>>);

impl Bell {
    /// `None` where no descriptor is free, or the runtime has no I/O.
    pub(super) fn new() -> Option<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).ok()?;
        let clock = Arc::new(Clock(fd));
        // SAFETY: `clock` owns the descriptor, gives it to nobody who could close it, and lives as long as the `AsyncFd`.
        #[expect(unsafe_code, reason = "tokio offers no safe way to register a descriptor of another kind")]
        let register = || unsafe { AsyncFd::register_with_interest(clock, Interest::READABLE) };
        // It panics in a runtime without I/O, and nothing tells beforehand.
        catch_unwind(AssertUnwindSafe(register)).ok()?.ok().map(Self)
    }

    pub(super) fn clock(&self) -> Arc<Clock> {
        Arc::clone(self.0.get_ref())
    }

    /// Ready once for each time that it fired, at most. What fired is not read: the next time that is set clears it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.0.poll_read_ready(cx)) {
            Ok(mut fired) => {
                fired.clear_ready();
                Poll::Ready(())
            }
            // The runtime is being shut down.
            Err(_) => Poll::Pending,
        }
    }
}
