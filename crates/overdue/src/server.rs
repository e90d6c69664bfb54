//! The server's side: deadlines that callers hand on, and whom to believe.
//!
//! - [`propagate`]: the time that remains, in headers, read and written without allocating.
//! - [`TrustedPeers`]: whose headers count.

pub mod propagate;
mod trusted;

pub use trusted::{InvalidNetwork, TrustedPeers};
