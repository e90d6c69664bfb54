//! Watching a process: everything that fills an [`Observation`](crate::Observation).
//!
//! One folder a topic, with the C of its BPF program beside its decoder. Each collector is made for one [`Target`], is
//! asked to look now and then, and hands over its part of the observation in the end. One that cannot see says so
//! ([`Hidden`](crate::observation::Hidden)) and leaves its part out; it never fails the others. [`Watch`] makes, asks
//! and ends them all.

mod bpf;
mod bytes;
mod clock;
mod connections;
pub mod cpu;
mod descriptors;
pub mod fds;
pub mod flame;
pub mod go;
mod join;
mod off_cpu;
mod patience;
mod pause;
pub mod process;
pub mod sockets;
mod stacks;
mod stat;
mod syscalls;
mod target;
mod tasks;
pub mod threads;
pub mod tiers;
pub mod trace;
mod waiting;
mod watch;

pub use bpf::Kernel;
pub use clock::Clock;
pub use connections::Connections;
pub use target::{Gone, Target};
pub use watch::{AttachError, Ended, Interrupt, Options, Watch};

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    pub use super::{connections::fuzz::heads, trace::fuzz::trace};
}
