//! What comes in at a high rate and comes to nothing.

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, bpf, count, per_second, proc, share,
    thresholds::{ALWAYS, CHURN_PER_SECOND, MOSTLY, PILE, STORM_PER_SECOND},
    time, total,
};
use crate::{
    Observation,
    observation::{Connection, Connections, Side},
};

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
    let (lines, told) = lines(connections);
    let is_for_lines = told >= PILE as u64 && share(lines, told) >= ALWAYS;
    let without = if is_for_lines { "an answer" } else { "work" };
    let where_it_is = if is_for_lines {
        "They may have brought all that they were for, as a metric's line is: then only their number costs"
    } else {
        "The edge before this process is unstable, not its code"
    };
    let resets = connections.reset_by_peer;
    let life = connections.life_median_us.map(|us| format!(", half of them within {}", time(us))).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::ConnectionChurn,
        Severity::Wasting,
        if is_for_lines { Confidence::Low } else { Confidence::High },
        format!(
            "{rate:.0} connections a second are accepted and end without {without}{life}: {} of {} carried nothing, \
             or were reset before both sides had said something; {resets} were reset by the peer. {where_it_is}",
            connections.little_work, connections.closed
        ),
    )
    .because(
        bpf(format!(
            "{} accepted, {} ended, {resets} of them by a reset of the peer",
            connections.accepted, connections.closed
        ))
        .with("accepted", connections.accepted)
        .with("closed", connections.closed)
        .with("reset_by_peer", resets)
        .with("little_work", connections.little_work),
    )
    .and(seen.cpu.as_ref().map(|cpu| {
        proc(format!("it used {} of processor time meanwhile", time(cpu.used_us()))).with("cpu_us", cpu.used_us())
    }))
    .and(is_for_lines.then(|| {
        bpf(format!("bytes came on {lines} of {told} that were told of, and no request of a known protocol"))
            .with("lines", lines)
    }))
    .rejected(Cause::TlsHandshakeStorm, "no handshake was begun on most of them")
    .share(ShareOf::Connections, idle);
    finding.advisory = is_for_lines;
    vec![finding]
}

/// Of the accepted connections that ended, as far as they are told of one by one: on how many bytes came that are no request
/// of a known protocol, and all of them.
fn lines(connections: &Connections) -> (u64, u64) {
    let ended = connections.connections.iter().filter(|it| it.side == Side::Server && it.closed.is_some());
    let asks = |it: &Connection| it.http.is_some() || it.tls.is_some() || it.redis.is_some() || it.http2;
    ended.fold((0, 0), |(lines, told), it| (lines + u64::from(it.read_bytes > 0 && !asks(it)), told + 1))
}
