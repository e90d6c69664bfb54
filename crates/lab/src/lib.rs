//! Faults of a network, made on purpose, with the truth about them.
//!
//! A [`Scenario`] is a file: what listens, how it is called, and what the call must be judged as. [`Fault::start`]
//! makes the fault, on loopback or in a network namespace of its own ([`netns`]); somebody else makes the call, and
//! compares its verdict with [`Truth`]. So the lab knows nothing of any client, and any client can be put to it.
//!
//! A caller does this, for every scenario alike:
//! 1. If [`Needs::namespace`], run the rest in a child process that begins with [`netns::enter`].
//! 2. [`Fault::start`].
//! 3. If [`Call::warm`], make one good request on a connection that is kept. If the [`Caller`] holds something, make
//!    the request that holds it. In both cases wait for [`Fault::armed`].
//! 4. Make the call: [`Fault::url`], with [`Fault::dns`] as its only DNS server and [`Fault::roots_pem`] as its only
//!    trusted roots, with [`Call::limits`] and no others.
//! 5. Compare with [`Truth`]; [`Fault::trouble`] must be empty.
//!
//! The same for whole processes is in [`target`]: programs that are ill in one way each.

#[cfg(not(target_os = "linux"))]
compile_error!("overdue-lab needs Linux: its faults are made of Linux's queues, namespaces and packet filters");

mod backlog;
mod catalogue;
mod dns;
mod fault;
mod filter;
mod http2;
pub mod netns;
mod scenario;
mod script;
pub mod target;
mod tls;
mod wire;

pub use catalogue::{find, scenarios};
pub use fault::{Fault, FaultError, Trouble};
pub use filter::FilterError;
pub use scenario::{
    Call, Caller, Certificate, Dns, Filter, Http2, Http2Then, Needs, OverTcp, Pace, Payload, Rcode, Read, Reply, Rule,
    Scenario, ScenarioError, Scheme, Script, Server, Step, Tls, Truth,
};
pub use tls::TlsError;

#[cfg(test)]
mod tests;
