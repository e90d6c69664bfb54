//! Watching a process: everything that fills an [`Observation`](crate::Observation).
//!
//! One folder a topic, with the C of its BPF program beside its decoder. Each collector is made for one [`Target`], is
//! asked to look now and then, and hands over its part of the observation in the end. One that cannot see says so
//! ([`Hidden`](crate::observation::Hidden)) and leaves its part out; it never fails the others.

mod bpf;
mod connections;
mod target;

pub use bpf::Kernel;
pub use connections::Connections;
pub use target::{Gone, Target};

#[cfg(fuzzing)]
pub(crate) mod fuzz {
    pub use super::connections::fuzz::heads;
}
