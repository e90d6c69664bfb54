//! The one place that reads clocks.

use std::time::{Instant, SystemTime};

/// For everything that takes time. Under `tokio::time::pause` time stands still here too.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// For the log alone: what time it is.
#[expect(clippy::disallowed_methods, reason = "a log line says when it was, by the clock of its readers")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
