//! The judge of a process: an [`Observation`](crate::Observation) in, ranked verdicts out.
