//! Queues that are long, and not full.

use super::{
    process::{listener, listening},
    *,
};
use crate::observation::Listener;

/// One that takes three a second, while so many wait in a queue of 2,048.
fn behind(queued_min: u32, accepted: u64) -> Observation {
    let queue =
        Listener { backlog: 2_048, queued_min, queued_max: queued_min + 9, queued_last: queued_min + 1, ..listener() };
    let mut seen = listening(idle(), queue);
    seen.window_us = 5_000_000;
    seen.sockets.as_mut().unwrap().rounds = 20;
    seen.connections.get_or_insert_default().accepted = accepted;
    seen
}

#[test]
fn who_waits_to_be_accepted_is_told_of() {
    let finding = only(&behind(30, 15), Cause::PoolExhausted);
    let summary = &finding.verdict.summary;
    assert!(
        summary.contains("never fewer than 30, and it accepted 15 in 5s: at that rate each waits 10s"),
        "{summary}"
    );
}

/// A queue that is short now and then, or goes fast, is one that does its work.
#[test]
fn a_queue_that_gets_on_is_none() {
    for (queued_min, accepted) in [(0, 15), (7, 15), (30, 5_000), (30, 0)] {
        assert!(!causes(&judge(&behind(queued_min, accepted))).contains(&"pool-exhausted"), "{queued_min} {accepted}");
    }
}
