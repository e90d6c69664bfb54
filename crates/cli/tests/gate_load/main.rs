//! `overdue gate` while it is busy, renewed or starved: nothing that it can serve is lost.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]
#![expect(clippy::disallowed_methods, reason = "what is measured is another process")]

mod bed;
mod chain;
mod renewal;
mod starved;
