//! The diagnoser: watches any process, and says what it waits for, with the evidence.
//!
//! Two halves, and one type between them:
//! - [`collect`] watches a process and fills an [`Observation`]: `/proc` and `sock_diag` without privilege, BPF where it
//!   is allowed. What could not be seen is listed with the reason and the remedy, and never fails the whole.
//! - [`judge`] is pure: an observation in, ranked verdicts out. A [`recording`] is an observation in a file, so that
//!   it can be judged again elsewhere.

pub mod aid;
pub mod flame;
pub mod judge;
pub mod observation;
pub mod recording;
mod report;
pub mod timeline;

#[cfg(target_os = "linux")]
pub mod collect;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;

pub use observation::Observation;
pub use report::{ConnectionLine, Report, by_remedy};
