//! Connections that wait in a queue which is long, and not full: nobody is refused, and all wait.

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, bpf, diag,
    sockets::{instead, is_full},
    thresholds::{PILE, SETTLED_US},
    time,
};
use crate::Observation;

/// Fewer looks say nothing of "always".
const LOOKS: u32 = 5;

/// The queue was never short, and what the process accepts is little of it.
pub(super) fn waits_to_be_accepted(seen: &Observation) -> Vec<Finding> {
    let (Some(sockets), Some(connections)) = (&seen.sockets, &seen.connections) else { return Vec::new() };
    if sockets.rounds < LOOKS || connections.accepted == 0 {
        return Vec::new();
    }
    let long = sockets.listeners.iter().filter(|listener| listener.queued_min as usize >= PILE && !is_full(listener));
    let Some(listener) = long.max_by_key(|listener| listener.queued_min) else { return Vec::new() };
    let accepted = connections.accepted;
    // Little's law, with the fewest that waited.
    let each_us = u64::from(listener.queued_min).saturating_mul(seen.window_us) / accepted;
    if each_us < SETTLED_US {
        return Vec::new();
    }
    let instead = instead(seen);
    let does = instead.as_ref().map(|(text, _)| format!("; {text}")).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Waiting,
        Confidence::Medium,
        format!(
            "{} connections wait to be accepted at {}, never fewer than {}, and it accepted {accepted} in {}: at that rate each \
             waits {}{does}",
            listener.queued_last,
            listener.local,
            listener.queued_min,
            time(seen.window_us),
            time(each_us)
        ),
    )
    .because(
        diag(format!(
            "between {} and {} waited in {} looks; the backlog of {} is not full, so that nobody is refused",
            listener.queued_min, listener.queued_max, sockets.rounds, listener.backlog
        ))
        .with("queued_min", listener.queued_min)
        .with("queued_max", listener.queued_max)
        .with("backlog", listener.backlog),
    )
    .because(bpf(format!("{accepted} connections accepted in {}", time(seen.window_us))).with("accepted", accepted));
    if let Some((_, evidence)) = instead {
        finding = finding.because(evidence);
    }
    vec![
        finding
            .rejected(Cause::AcceptQueueOverflow, "there is room in the queue")
            .rejected(Cause::Unknown, "possible: others accept from the same queue (workers of one parent), and it is shorter for that")
            .fix(
                "It takes on no more at a time: more workers or threads, or a higher limit of connections (haproxy: maxconn), if \
                 the machine has room; look at what each request takes its time for. A shorter backlog lets callers hear \
                 sooner that there is no place.",
            )
            .share(ShareOf::Connections, 1.0),
    ]
}
