//! The contract of [`overdue::stream`]: in virtual time where no socket is needed, else over real ones.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "these are tests")]

mod adapters;
mod allocations;
mod deadlines;
mod sockets;

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
