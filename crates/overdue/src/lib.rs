//! Network deadlines that hold, and timeouts that say why.
//!
//! Every stage of a call (queue, resolve, connect, tls, send, wait, receive) has its own limit and its own measured
//! time. A call that fails says which stage was running, which limit fired and who set it, what the other side or the
//! path did, with the kernel's evidence, and what to change.
//!
//! - [`Context`]: deadlines, cancellation and its cause, typed values, in a tree.
//! - [`Scope`]: tasks that cannot outlive their context unnoticed; [`lost_deadlines`]: lines that forget a deadline.
//! - [`Client`]: HTTP/1.1 and HTTP/2 over a pool of its own (feature `client`, on by default).
//! - [`stream`]: connections for protocols of your own, with deadlines that can be moved at any time.
//! - `direct`: the same for threads that block, and a poller with deadlines (Linux, feature `direct`).
//! - `adapt`: hyper-util's client, reqwest and any tower service under these limits (features `hyper-util`, `tower`).
//! - [`h1`]: strict HTTP/1.1 framing, for servers and proxies of your own.
//! - `server`: connections that are accepted whatever happens, and deadlines that callers hand on (feature `server`).
//! - [`resolve`]: names to addresses under one limit.
//! - [`Error`]: the four facts, through any chain of errors.

// What tests share with those outside names this crate.
#[cfg(test)]
extern crate self as overdue;

#[cfg(any(feature = "hyper-util", feature = "tower"))]
pub mod adapt;
#[cfg(feature = "client")]
pub mod client;
mod clock;
#[cfg(feature = "client")]
mod connect;
mod context;
#[cfg(test)]
#[path = "../tests/cancelling/cut.rs"]
mod cut;
#[cfg(feature = "client")]
mod dial;
#[cfg(all(feature = "direct", target_os = "linux"))]
pub mod direct;
mod error;
#[cfg(all(fuzzing, feature = "client"))]
pub mod fuzz;
#[cfg(feature = "client")]
pub mod h1;
#[cfg(any(feature = "client", feature = "server", all(feature = "direct", target_os = "linux")))]
mod keepalive;
#[cfg(feature = "client")]
mod log;
#[cfg(feature = "client")]
pub mod observe;
#[cfg(feature = "client")]
pub mod resolve;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(feature = "client", all(feature = "direct", target_os = "linux")))]
pub mod socket;
#[cfg(feature = "client")]
pub mod stream;
mod sync;
#[cfg(any(feature = "client", all(feature = "direct", target_os = "linux")))]
mod tcp;
mod timer;
#[cfg(feature = "client")]
pub mod tls;
#[cfg(feature = "client")]
mod transport;
#[cfg(any(feature = "client", all(feature = "direct", target_os = "linux")))]
mod trouble;
#[cfg(any(feature = "client", all(feature = "direct", target_os = "linux")))]
mod until;
#[cfg(feature = "client")]
mod wire;

#[cfg(feature = "client")]
pub use client::{Body, BuildError, Builder, Client, PoolOptions};
pub use context::{
    CancelCause, CancelGuard, Context, LostDeadline, Scope, ScopeError, Spawner, StrayTasks, Task, TaskInfo, TaskState,
    lost_deadlines, stray_tasks,
};
pub use error::{BoxError, Error};
#[cfg(any(feature = "client", feature = "server", all(feature = "direct", target_os = "linux")))]
pub use keepalive::Keepalive;
#[cfg(feature = "client")]
pub use log::CallLog;
pub use overdue_core::{
    Cause, Confidence, Deadline, DurationText, Evidence, Limit, LimitName, Limits, Origin, Outcome, Rejected, Report,
    Source, Span, SpanOutcome, Stage, Timeline, Verdict, parse_duration, plan,
};
#[cfg(any(feature = "client", all(feature = "direct", target_os = "linux")))]
pub use tcp::{BeforeConnect, TcpOptions};
#[cfg(any(feature = "client", feature = "server"))]
pub use timer::Alarm;
#[cfg(feature = "client")]
pub use tls::{TlsOptions, TlsOptionsError};
