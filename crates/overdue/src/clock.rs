//! The one place that reads a clock. Under `tokio::time::pause` time stands still here too.

use std::time::Instant;

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
