//! The one place that reads a clock. Under `tokio::time::pause` time stands still here too.

use std::time::Instant;

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The same for code that blocks its thread: the kernel's waits cannot be paused, so their clock must not be.
#[cfg(all(feature = "direct", target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub(crate) fn unpaused() -> Instant {
    Instant::now()
}
