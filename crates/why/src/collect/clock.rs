//! The one place of this crate that reads clocks.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time since the watch began: the `at_us` of everything that is observed.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// The watch begins now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place; what is watched cannot be paused")]
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// How long ago it began.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place; what is watched cannot be paused")]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The same in microseconds.
    #[must_use]
    pub fn at_us(&self) -> u64 {
        us(self.elapsed())
    }
}

/// Time since the machine started, suspended time included: what start times of processes count from.
#[must_use]
pub(super) fn since_boot() -> Duration {
    read(ClockId::Boottime)
}

/// Processor time of the calling thread, microseconds.
#[must_use]
pub(super) fn thread_cpu_us() -> u64 {
    us(read(ClockId::ThreadCPUTime))
}

/// Processor time of the watcher as a whole, microseconds.
#[must_use]
pub(super) fn own_cpu_us() -> u64 {
    us(read(ClockId::ProcessCPUTime))
}

/// Any clock.
#[must_use]
pub(super) fn read(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

/// A length in microseconds.
#[must_use]
pub(super) fn us(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

/// Spreads looks that turn out expensive, so that none takes more than a fixed share of one processor however large
/// the process or the host is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    next_us: u64,
    began_us: u64,
}

/// Each collector may use one part in so many of a processor.
const SHARE: u64 = 40;

impl Pace {
    /// Whether it is time for another look; if so the look begins now.
    pub(super) fn begin(&mut self, at_us: u64) -> bool {
        let due = at_us >= self.next_us;
        if due {
            self.began_us = thread_cpu_us();
        }
        due
    }

    /// The look that began is over.
    pub(super) fn end(&mut self, at_us: u64) {
        self.spent(at_us, thread_cpu_us().saturating_sub(self.began_us));
    }

    /// Another thread spent this on the look that goes on.
    pub(super) const fn add(&mut self, cost_us: u64) {
        self.began_us = self.began_us.saturating_sub(cost_us);
    }

    const fn spent(&mut self, at_us: u64, cost_us: u64) {
        self.next_us = at_us.saturating_add(cost_us.saturating_mul(SHARE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dear_is_done_rarely() {
        let mut pace = Pace::default();
        assert!(pace.begin(0));
        pace.spent(0, 10_000);
        assert!(!pace.begin(10_000 * SHARE - 1));
        assert!(pace.begin(10_000 * SHARE));
    }
}
