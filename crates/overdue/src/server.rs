//! The server's side: connections that are accepted whatever happens, deadlines that callers hand on, and whom to
//! believe.
//!
//! - [`Listener`]: accepts when descriptors run out and when peers come in masses (Unix).
//! - [`Connections`]: how many there may be, in all and from one [`Source`].
//! - [`certificates`]: from files, by name, renewed while the server runs.
//! - [`deadline`]: a context and a deadline for each request, as a tower layer.
//! - [`Drain`]: the end of a server, with a limit; [`inherited_listeners`]: sockets from systemd or the process before
//!   (Linux).
//! - [`hello`]: what a TLS client says first, before any work is done for it.
//! - [`propagate`]: the time that remains, in headers, read and written without allocating.
//! - [`TrustedPeers`]: whose headers count.
//!
//! `cargo run -p overdue --features server --example server` shows them together.

mod admit;
pub mod certificates;
pub mod deadline;
mod drain;
pub mod hello;
#[cfg(target_os = "linux")]
mod inherit;
#[cfg(unix)]
mod listen;
mod names;
pub mod propagate;
mod trusted;

pub use admit::{Connections, Excess, Permit, Source};
pub use deadline::Peer;
pub use drain::{Drain, Drained};
#[cfg(target_os = "linux")]
pub use inherit::{InheritError, Inherited, inherited_listeners};
#[cfg(unix)]
pub use listen::{AcceptFailure, Accepted, ListenOptions, Listener, ListenerEvent, ListenerStats, Refused};
pub use names::InvalidName;
pub use trusted::{InvalidNetwork, TrustedPeers};
