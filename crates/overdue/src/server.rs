//! The server's side: connections that are accepted whatever happens, deadlines that callers hand on, and whom to
//! believe.
//!
//! - [`Listener`]: accepts when descriptors run out and when peers come in masses (Unix).
//! - [`Connections`]: how many there may be, in all and from one [`Source`].
//! - [`body`]: bodies of requests that come too slowly, as a tower layer.
//! - [`certificates`]: from files, by name, renewed while the server runs.
//! - [`deadline`]: a context and a deadline for each request, as a tower layer.
//! - [`Drain`]: the end of a server, with a limit; [`inherited_listeners`]: sockets from systemd or the process before
//!   (Linux).
//! - [`hello`]: what a TLS client says first, before any work is done for it.
//! - [`propagate`]: the time that remains, in headers, read and written without allocating.
//! - [`TrustedPeers`]: whose headers count.
//!
//! What of a request comes before any service is called, its head, is read by whoever serves the connection. hyper takes
//! a limit for the whole of it (`http1::Builder::header_read_timeout`, with a timer). The first bytes, from which
//! hyper-util's `auto` learns the version of HTTP, are not covered by that: there the read deadline of an
//! `overdue::stream::Stream` is, which the service clears when it is called. The example does both.
//!
//! `cargo run -p overdue --features server --example server` shows them together.

mod admit;
pub mod body;
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
