//! What comes in at a high rate and comes to nothing.

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, bpf, count, per_second, proc, share,
    thresholds::{CHURN_PER_SECOND, MOSTLY, STORM_PER_SECOND},
    time, total,
};
use crate::Observation;

/// TLS handshakes fail.
pub(super) fn handshake_storm(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    let sources = &connections.handshakes;
    let failed = total(sources.iter().map(|source| source.failed));
    let begun = total(sources.iter().map(|source| source.begun));
    let rate = per_second(failed, seen.window_us);
    if rate < STORM_PER_SECOND || share(failed, begun) < 0.5 {
        return Vec::new();
    }
    let Some(top) = sources.iter().max_by_key(|source| source.failed) else { return Vec::new() };
    let alert = top.alert.map(|alert| format!(", last alert {alert}")).unwrap_or_default();
    let sni = top.sni.as_ref().map(|sni| format!(", asking for {sni}")).unwrap_or_default();
    let worst = sources.iter().filter(|source| source.failed > 0).count();
    vec![
        Finding::new(
            Cause::TlsHandshakeStorm,
            Severity::Refusing,
            Confidence::High,
            format!(
                "{rate:.0} inbound TLS handshakes a second fail ({failed} of {begun}), from {}; {} of them from {}{sni}{alert}",
                count(worst as u64, "address").replace("addresss", "addresses"),
                top.failed,
                top.source
            ),
        )
        .because(
            bpf(format!("{begun} ClientHellos came, {failed} of these handshakes did not end well"))
                .with("begun", begun)
                .with("failed", failed),
        )
        .because(
            bpf(format!("{}: {} begun, {} completed, {} failed", top.source, top.begun, top.completed, top.failed))
                .with("source_begun", top.begun)
                .with("source_failed", top.failed),
        )
        .rejected(Cause::ConnectionChurn, "these connections do begin a handshake, and that is what fails")
        .share(ShareOf::Connections, share(failed, connections.accepted.max(begun))),
    ]
}

/// Connections that come and go without work.
pub(super) fn churn(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    let rate = per_second(connections.closed.min(connections.accepted), seen.window_us);
    let idle = share(connections.little_work, connections.closed);
    if rate < CHURN_PER_SECOND || idle < MOSTLY {
        return Vec::new();
    }
    let resets = connections.reset_by_peer;
    let life = connections.life_median_us.map(|us| format!(", half of them within {}", time(us))).unwrap_or_default();
    vec![
        Finding::new(
            Cause::ConnectionChurn,
            Severity::Wasting,
            Confidence::High,
            format!(
                "{rate:.0} connections a second are accepted and end without work{life}: {} of {} carried nothing, or were reset before \
                 both sides had said something; {resets} were reset by the peer. The edge before this process is unstable, not its code",
                connections.little_work, connections.closed
            ),
        )
        .because(
            bpf(format!("{} accepted, {} ended, {resets} of them by a reset of the peer", connections.accepted, connections.closed))
                .with("accepted", connections.accepted)
                .with("closed", connections.closed)
                .with("reset_by_peer", resets)
                .with("little_work", connections.little_work),
        )
        .and(seen.cpu.as_ref().map(|cpu| {
            proc(format!("it used {} of processor time meanwhile", time(cpu.used_us())))
                .with("cpu_us", cpu.used_us())
        }))
        .rejected(Cause::TlsHandshakeStorm, "no handshake was begun on most of them")
        .share(ShareOf::Connections, idle),
    ]
}
