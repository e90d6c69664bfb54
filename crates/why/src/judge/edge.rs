//! What comes in at a high rate and comes to nothing.

use std::{collections::HashSet, net::IpAddr};

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, bpf, count, diag, per_second, proc, share,
    thresholds::{ALWAYS, CHURN_PER_SECOND, MOSTLY, PILE, SETTLED_US, STORM_PER_SECOND, WORTH},
    time, total,
};
use crate::{
    Observation,
    observation::{Connection, Connections, Moment, Side, TcpSocket},
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

/// Connections that the process accepts and ends at once, before it has read anything, while it serves others of the same
/// addresses: there is no place for them.
pub(super) fn turned_away(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = seen.connections.as_ref().filter(|_| seen.process.ended_at_us.is_none()) else {
        return Vec::new();
    };
    let ended = ended(connections).count() as u64;
    let away: Vec<&Connection> = self::ended(connections).filter(|it| is_turned_away(it)).collect();
    let serves = served(seen);
    let known = away.iter().filter(|it| it.remote.is_some_and(|remote| serves.contains(&remote.ip()))).count();
    // Whom it never serves it may refuse on purpose.
    if away.len() < PILE || share(away.len() as u64, ended) < WORTH || known * 2 < away.len() {
        return Vec::new();
    }
    // Who was seen in the last rounds is still there.
    let rounds_us = seen.window_us / u64::from(seen.sockets.as_ref().map_or(1, |sockets| sockets.rounds).max(1)) * 2;
    let is_there = |it: &&TcpSocket| it.fd.is_some() && seen.window_us.saturating_sub(it.last_seen_us) < rounds_us;
    let held = seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(is_there).count() as u64;
    let part = share(away.len() as u64, ended);
    let of_all = if ended < connections.closed { " that were told of" } else { "" };
    let finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Refusing,
        Confidence::Medium,
        format!(
            "it closes {:.0} % of the connections that it accepts by itself, at once and before it has read anything, and \
             serves others of the same addresses meanwhile: there is no place for them, with {held} open",
            part * 100.0
        ),
    )
    .because(
        bpf(format!(
            "{} of {ended} accepted connections{of_all} that ended were closed from here with nothing read and \
             nothing written, before the peer did",
            away.len()
        ))
        .with("turned_away", away.len() as u64)
        .with("ended", ended),
    )
    .because(
        bpf(format!("{known} of them came from addresses that others come from which are served")).with("known", known as u64),
    )
    .and((held > 0).then(|| diag(format!("{} open in the end", count(held, "connection"))).with("open", held)))
    .rejected(Cause::FdExhausted, "the accept itself succeeds: a descriptor was there")
    .rejected(Cause::Unknown, "possible: it may refuse them by a rule, how often an address may connect perhaps")
    .fix(
        "Allow more connections, or let idle ones end sooner: the program's own limit is reached (nginx: worker_connections, \
         of which a proxied request takes two; its error log says that they are not enough). If they are all waited for, \
         look at what they wait for.",
    )
    .share(ShareOf::Connections, part);
    vec![finding]
}

/// The accepted connections that ended, as far as they are told of one by one.
fn ended(connections: &Connections) -> impl Iterator<Item = &Connection> {
    connections.connections.iter().filter(|it| it.side == Side::Server && it.closed.is_some())
}

/// Whether the process closed it soon, having read and said nothing; who waits for a client that says nothing waits longer.
fn is_turned_away(it: &Connection) -> bool {
    // The peer's FIN may answer ours.
    let quiet = it.read_bytes == 0 && it.written_bytes == 0 && it.fin_received.is_none_or(|fin| Some(fin) >= it.closed);
    let soon = match (it.opened, it.closed) {
        (Some(Moment::At(opened)), Some(Moment::At(closed))) => closed.saturating_sub(opened) < SETTLED_US,
        _ => false,
    };
    it.closed_by_us && quiet && soon
}

/// The addresses of clients from whom it reads, or has read.
fn served(seen: &Observation) -> HashSet<IpAddr> {
    let read = |socket: &&TcpSocket| {
        let received = socket.last.and_then(|tcp| tcp.bytes_received).unwrap_or(0);
        socket.inbound && socket.fd.is_some() && received > u64::from(socket.unread_bytes)
    };
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(read).map(|socket| socket.remote.ip());
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let accepted = connections.filter(|it| it.side == Side::Server && it.read_bytes > 0);
    sockets.chain(accepted.filter_map(|it| Some(it.remote?.ip()))).collect()
}

/// Connections that come and go without work.
pub(super) fn churn(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = &seen.connections else { return Vec::new() };
    // It is told of by another name.
    if !turned_away(seen).is_empty() {
        return Vec::new();
    }
    let rate = per_second(connections.closed.min(connections.accepted), seen.window_us);
    let idle = share(connections.little_work, connections.closed);
    if rate < CHURN_PER_SECOND || idle < MOSTLY {
        return Vec::new();
    }
    let (lines, told) = lines(connections);
    let is_for_lines = told >= PILE as u64 && share(lines, told) >= ALWAYS;
    let away = ended(connections).filter(|it| is_turned_away(it)).count() as u64;
    let refuses = told >= PILE as u64 && share(away, told) >= MOSTLY;
    let without = if is_for_lines { "an answer" } else { "work" };
    let where_it_is = if is_for_lines {
        "They may have brought all that they were for, as a metric's line is: then only their number costs"
    } else if refuses {
        "It is this process that ends them, before it has read anything: it may refuse whom it does not want"
    } else {
        "The edge before this process is unstable, not its code"
    };
    let resets = connections.reset_by_peer;
    let life = connections.life_median_us.map(|us| format!(", half of them within {}", time(us))).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::ConnectionChurn,
        Severity::Wasting,
        if is_for_lines || refuses { Confidence::Low } else { Confidence::High },
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
    finding.advisory = is_for_lines || refuses;
    vec![finding]
}

/// Of the accepted connections that ended, as far as they are told of one by one: on how many bytes came that are no request
/// of a known protocol, and all of them.
fn lines(connections: &Connections) -> (u64, u64) {
    let asks = |it: &Connection| it.http.is_some() || it.tls.is_some() || it.redis.is_some() || it.http2;
    ended(connections).fold((0, 0), |(lines, told), it| (lines + u64::from(it.read_bytes > 0 && !asks(it)), told + 1))
}
