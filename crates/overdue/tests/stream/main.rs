//! The contract of [`overdue::stream`]: in virtual time where no socket is needed, else over real ones.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

mod adapters;
mod allocations;
mod deadlines;
mod sockets;
#[cfg(target_os = "linux")]
mod stopped;

use std::{io, time::Duration};

use overdue::Error;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What an operation that failed says about itself.
#[track_caller]
fn explained(err: &io::Error) -> &Error {
    Error::find(err).unwrap_or_else(|| panic!("not explained: {err:?}"))
}

#[track_caller]
fn timed_out(err: &io::Error) -> &Error {
    assert_eq!(err.kind(), io::ErrorKind::TimedOut, "{err}");
    let error = explained(err);
    assert!(error.is_timeout(), "{error}");
    error
}

/// Each test in a runtime of one thread, and in one of two.
macro_rules! in_both_flavours {
    ($($test:ident)*) => {
        mod current_thread {
            $(#[tokio::test] async fn $test() { super::$test().await })*
        }
        mod multi_thread {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() { super::$test().await })*
        }
    };
}
use in_both_flavours;
