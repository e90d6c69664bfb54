//! The server's side over real sockets.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

#[cfg(feature = "client")]
mod bodies;
#[cfg(target_os = "linux")]
mod exhausted;
#[cfg(target_os = "linux")]
mod inherited;
mod listen;
mod stack;

use std::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
