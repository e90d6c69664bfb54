//! Watching a process: everything that fills an [`Observation`](crate::Observation).
//!
//! One folder a topic, with the C of its BPF program beside its decoder. Each collector is made for one [`Target`], is
//! asked to look now and then, and hands over its part of the observation when it is asked for that. One that cannot see
//! says so ([`Hidden`](crate::observation::Hidden)) and leaves its part out; it never fails the others. [`Watch`] makes and
//! asks them all, and tells them when a window begins.

pub mod aid;
mod bpf;
mod bytes;
mod clock;
mod connections;
mod cost;
pub mod cpu;
mod descriptors;
mod ending;
pub mod fds;
pub mod flame;
pub mod go;
mod join;
mod locks;
mod lookups;
pub mod machine;
#[cfg(test)]
#[path = "../tests/need/mod.rs"]
mod need;
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
mod window;

pub use bpf::Kernel;
pub use clock::Clock;
pub use connections::Connections;
pub use target::{Gone, Target};
pub use watch::{AttachError, Ended, Interrupt, Options, Parent, SIGHT, Watch};

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    pub use super::{bpf::fuzz::btf, connections::fuzz::heads, stacks::fuzz::unwind_tables, trace::fuzz::trace};
}
