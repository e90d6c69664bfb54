//! What comes in at a high rate and comes to nothing.

use std::{collections::HashSet, net::IpAddr};

use overdue_core::{
    Cause, Confidence,
    facts::{TcpInfo, TcpState},
};

use super::{
    Finding, Severity, ShareOf, bpf, count, diag, per_second, proc, share,
    sockets::is_there,
    thresholds::{
        ALWAYS, CHECKERS, CHURN_PER_SECOND, CROWD, GIVEN_UP_US, MOSTLY, PILE, SETTLED_US, STORM_PER_SECOND, WORTH,
    },
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
                count(worst as u64, "address"),
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

/// A refusal is no longer: `-ERR max number of clients reached`, `421 too many connections`.
const REFUSAL_MAX: u64 = 256;

/// Connections that the process accepts and ends at once, before it has read anything, while it serves others of the same
/// addresses: there is no place for them, a rule forbids them, or there is nobody to whom they could be handed on.
pub(super) fn turned_away(seen: &Observation) -> Vec<Finding> {
    let Some(connections) = seen.connections.as_ref().filter(|_| seen.process.ended_at_us.is_none()) else {
        return Vec::new();
    };
    let told = ended(connections).count() as u64;
    let away: Vec<&Connection> = ended(connections).filter(|it| is_turned_away(it)).collect();
    let serves = served(seen);
    let known = away.iter().filter(|it| it.remote.is_some_and(|remote| serves.contains(&remote.ip()))).count();
    let all = connections.accepted.min(connections.closed).max(told);
    let of_all = away_of_all(connections, &away, all);
    let part = share(of_all, all);
    // Whom it never serves it may refuse on purpose.
    if away.len() < PILE || part < WORTH || known * 2 < away.len() {
        return Vec::new();
    }
    let open = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let held = open.filter(|it| it.fd.is_some() && is_there(seen, it)).count() as u64;
    let failed = connects_in_vain(seen);
    let is_sure = failed == 0 && held >= CROWD && is_for_want_of_places(seen, connections, &away);
    let why = if failed > 0 {
        format!("connections that it makes itself fail meanwhile ({failed} did), so perhaps no backend is up for them")
    } else if is_sure {
        format!("there is no place for them, with {held} open")
    } else {
        format!("by a rule, or for want of places, with {held} open")
    };
    let finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Refusing,
        if is_sure { Confidence::Medium } else { Confidence::Low },
        format!(
            "{:.0} % of the accepted connections that ended were closed by this process at once, before it had read anything, \
             while it served others of the same addresses: {why}",
            part * 100.0
        ),
    )
    .because(
        bpf(format!(
            "{} of the {told} that ended and are told of one by one: closed from here before the peer did, nothing read and \
             nothing written but a short refusal perhaps",
            away.len()
        ))
        .with("turned_away", away.len() as u64)
        .with("ended", told),
    )
    .and((all > told).then(|| {
        bpf(format!("{all} ended in all, some {of_all} of them so")).with("ended_in_all", all).with("of_all", of_all)
    }))
    .because(
        bpf(format!("{known} of them came from addresses that others come from which are served")).with("known", known as u64),
    )
    .and((held > 0).then(|| diag(format!("{} open in the end", count(held, "connection"))).with("open", held)))
    .and((failed > 0).then(|| bpf(format!("{} of its own failed", count(failed, "connect"))).with("connects_failed", failed)))
    .rejected(Cause::FdExhausted, "the accept itself succeeds: a descriptor was there")
    .rejected(
        Cause::Unknown,
        if failed > 0 {
            "possible: no backend is up, and a proxy closes the clients that it has nobody for"
        } else {
            "possible: it may refuse them by a rule, how often an address may connect perhaps"
        },
    )
    .fix(if failed > 0 {
        "Look first at what it connects to: a proxy without a backend that is up closes its clients so. If its backends are \
         well, the program's own limit may be reached: allow more connections."
    } else if is_sure {
        "Allow more connections, or let idle ones end sooner: the program's own limit is reached (nginx: worker_connections, \
         of which a proxied request takes two; its error log says that they are not enough). If they are all waited for, \
         look at what they wait for."
    } else {
        "If it refuses them by a rule (how often an address may connect), this is meant. If not, its limit of connections is \
         reached (nginx: worker_connections; its error log says so): allow more, or let idle ones end sooner."
    })
    .share(ShareOf::Connections, part);
    vec![Finding { advisory: !is_sure, ..finding }]
}

/// How many of all that ended were turned away, of which so many are told of: the table has the remarkable ones first, so
/// that their share of it says nothing. The kernel's half counts those that carried nothing, and those that were reset.
fn away_of_all(connections: &Connections, away: &[&Connection], all: u64) -> u64 {
    let told = away.len() as u64;
    if all <= ended(connections).count() as u64 {
        return told;
    }
    let alike = |counted: u64, is: fn(&Connection) -> bool| {
        let others = ended(connections).filter(|it| is(it)).count() as u64;
        let times = share(counted, others).max(1.0);
        (told as f64 * times).round()
    };
    let carried_nothing = |it: &Connection| {
        let (read, written) = (it.read_bytes > 0, it.written_bytes > 0);
        !read && !written || it.reset_received && !(read && written)
    };
    let mut of_all = alike(connections.little_work, carried_nothing);
    if away.iter().all(|it| it.reset_sent) && connections.reset_by_us > 0 {
        of_all = of_all.min(alike(connections.reset_by_us, |it| it.reset_sent));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of connections")]
    let of_all = of_all as u64;
    of_all.min(all)
}

/// The connections of its own that did not come up.
fn connects_in_vain(seen: &Observation) -> u64 {
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let failed = connections.filter(|it| it.side == Side::Client && it.read_bytes == 0).filter(|it| {
        let refused = it.errno.is_some() || it.reset_received;
        // Given up by the process itself; not at once, as for another address that answered sooner.
        let tried_us = match (it.opened, it.closed) {
            (Some(Moment::At(opened)), Some(Moment::At(closed))) => closed.saturating_sub(opened),
            _ => 0,
        };
        refused || it.established.is_none() && tried_us >= GIVEN_UP_US
    });
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let tries =
        sockets.filter(|it| it.state == TcpState::SynSent && it.in_state_us >= SETTLED_US && is_there(seen, it));
    failed.count() as u64 + tries.count() as u64
}

/// Whether the number of those that were open tells who was turned away: so many were open when somebody was, and fewer when
/// somebody was let in. A rule of how often somebody may connect lets in and turns away at the same numbers. Where that of
/// all others is not known, nobody can tell the two apart.
fn is_for_want_of_places(seen: &Observation, connections: &Connections, away: &[&Connection]) -> bool {
    let turned: HashSet<u64> = away.iter().map(|it| it.cookie).collect();
    let others: Vec<&Connection> = connections.connections.iter().filter(|it| !turned.contains(&it.cookie)).collect();
    let is_new = |it: &&&Connection| it.side == Side::Server && matches!(it.opened, Some(Moment::At(_)));
    let let_in: Vec<&Connection> = others.iter().filter(is_new).copied().collect();
    if share((away.len() + let_in.len()) as u64, connections.accepted) < ALWAYS {
        return false;
    }
    if let_in.is_empty() {
        return is_at_its_most(seen, away);
    }
    // A proxy may count those that it opens, too.
    let sides: [fn(Side) -> bool; 2] = [|side| side == Side::Server, |_| true];
    sides.iter().any(|counts| {
        let places: Vec<&Connection> = others.iter().filter(|it| counts(it.side)).copied().collect();
        let open_at = |it: &Connection, us: Option<u64>| {
            let open = |other: &&&Connection| {
                let ended = other.closed.map(|closed| closed.us().unwrap_or(0));
                other.cookie != it.cookie && taken_up(other) < us && ended.is_none_or(|ended| Some(ended) > us)
            };
            places.iter().filter(open).count()
        };
        let when_away: Vec<usize> = away.iter().map(|it| open_at(it, it.closed.and_then(Moment::us))).collect();
        let when_let_in: Vec<usize> = let_in.iter().map(|it| open_at(it, taken_up(it))).collect();
        // A few may come in the moment in which a place is given back.
        let is_limit = |limit: usize| {
            let full = when_away.iter().filter(|open| **open >= limit).count();
            let room = when_let_in.iter().filter(|open| **open < limit).count();
            share(full as u64, when_away.len() as u64) >= MOSTLY
                && share(room as u64, when_let_in.len() as u64) >= MOSTLY
        };
        let_in.len() as u64 >= CROWD && when_away.iter().any(|open| is_limit(*open))
    })
}

/// When the process took it up, as far as that is known: it is open before, and waits to be accepted.
fn taken_up(it: &Connection) -> Option<u64> {
    let opened = it.opened.map(|opened| opened.us().unwrap_or(0))?;
    let read = it.first_read.and_then(Moment::us).filter(|_| it.turns <= 1 && it.opened != Some(Moment::Before));
    Some(read.unwrap_or(opened))
}

/// Whether about as many descriptors as ever were open when they were turned away, as it is where a limit is reached.
fn is_at_its_most(seen: &Observation, away: &[&Connection]) -> bool {
    let readings = seen.fds.as_ref().map(|fds| &fds.open[..]).unwrap_or_default();
    let most = readings.iter().map(|reading| reading.value).max().unwrap_or(0);
    let is_below = |it: &&&Connection| {
        let Some(Moment::At(opened)) = it.opened else { return false };
        let near = readings.iter().min_by_key(|reading| reading.at_us.abs_diff(opened));
        near.is_some_and(|reading| share(reading.value, most) < MOSTLY)
    };
    away.iter().filter(is_below).count() * 2 <= away.len()
}

/// The accepted connections that ended, as far as they are told of one by one.
fn ended(connections: &Connections) -> impl Iterator<Item = &Connection> {
    connections.connections.iter().filter(|it| it.side == Side::Server && it.closed.is_some())
}

/// Whether the process closed it soon, having read nothing, and said no more than that there is no place; who waits for a
/// client that says nothing waits longer.
fn is_turned_away(it: &Connection) -> bool {
    // The peer's FIN may answer ours.
    let quiet = it.read_bytes == 0
        && it.written_bytes <= REFUSAL_MAX
        && it.fin_received.zip(it.closed).is_none_or(|(fin, closed)| !closed.is_after(fin));
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
    let resets = connections.reset_by_peer;
    let probes: Vec<&Connection> = ended(connections).filter(|it| is_probe(it)).collect();
    let silent = told >= PILE as u64 && share(probes.len() as u64, told) >= MOSTLY;
    let sources = probes.iter().filter_map(|it| Some(it.remote?.ip())).collect::<HashSet<_>>().len();
    let (served, cut) = (answered(seen), ended(connections).filter(|it| is_cut_off(it)).count() as u64);
    // An edge that is unstable breaks those with work, too.
    let breaks = cut >= CROWD && share(cut, served.max(1)) >= WORTH;
    let is_sure = breaks || told >= PILE as u64 && !silent;
    // Who checks by a reset is a load balancer, of which there are few; clients that give up may be many.
    let few = resets == 0 || (1..=CHECKERS).contains(&sources);
    let checks = silent && served > 0 && !is_sure && few;
    let without = if is_for_lines { "an answer" } else { "work" };
    let where_it_is = if is_for_lines {
        "They may have brought all that they were for, as a metric's line is: then only their number costs"
    } else if refuses {
        "It is this process that ends them, before it has read anything: it may refuse whom it does not want"
    } else if checks {
        "This looks like health checks: the clients connect and close, and others are served meanwhile"
    } else if is_sure {
        "The edge before this process is unstable, not its code"
    } else {
        "The edge before this process may be unstable, or only asks whether somebody listens"
    };
    let is_remark = is_for_lines || refuses || checks;
    let confidence = match (is_remark, is_sure) {
        (true, _) => Confidence::Low,
        (false, false) => Confidence::Medium,
        (false, true) => Confidence::High,
    };
    let life = connections.life_median_us.map(|us| format!(", half of them within {}", time(us))).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::ConnectionChurn,
        Severity::Wasting,
        confidence,
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
    .and(silent.then(|| {
        bpf(format!(
            "the peer ended {} of {told} that were told of with nothing said, from {}; {served} others are served and not \
             reset, {cut} were reset before their answer",
            probes.len(),
            count(sources as u64, "address"),
        ))
        .with("checks", probes.len() as u64)
        .with("sources", sources as u64)
        .with("served", served)
        .with("cut_off", cut)
    }))
    .rejected(Cause::TlsHandshakeStorm, "no handshake was begun on most of them")
    .share(ShareOf::Connections, idle);
    finding.advisory = is_remark;
    if checks && resets > 0 {
        finding = finding.rejected(Cause::Unknown, "possible: clients that give up before they ask end them so, too");
    }
    if !is_remark && !is_sure {
        finding = finding.rejected(
            Cause::Unknown,
            "possible: checks of health, which connect and end it by a reset (some load balancers do), and then it is no fault",
        );
    }
    if checks {
        finding = finding.fix(
            "A check that only connects is well. If they are too many: check less often, or from fewer places (haproxy: \
             inter; a load balancer checks from each of its nodes).",
        );
    }
    vec![finding]
}

/// Whether the peer came and went, as a check of health does that asks only whether somebody listens. Some end it by a reset.
fn is_probe(it: &Connection) -> bool {
    let ended_by_peer = (it.fin_received.is_some() || it.reset_received) && !it.closed_by_us;
    ended_by_peer && it.read_bytes == 0 && it.written_bytes == 0
}

/// Whether the peer reset it after something had been said, and before it was answered. Proxies reset what is over.
fn is_cut_off(it: &Connection) -> bool {
    let said = it.read_bytes > 0 || it.written_bytes > 0;
    let answered = it.read_bytes > 0
        && it.last_write.and_then(Moment::us) >= it.last_read.and_then(Moment::us)
        && it.written_bytes > 0;
    it.reset_received && said && !answered
}

/// Clients that are answered meanwhile, and do not reset their connections.
fn answered(seen: &Observation) -> u64 {
    let moved = |socket: &TcpSocket, count: fn(&TcpInfo) -> Option<u64>| {
        let more = socket.first.as_ref().and_then(count).zip(socket.last.as_ref().and_then(count));
        more.is_some_and(|(first, last)| last > first)
    };
    let is_answered =
        |it: &&TcpSocket| it.inbound && moved(it, |tcp| tcp.bytes_acked) && moved(it, |tcp| tcp.bytes_received);
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(is_answered).map(|it| it.cookie);
    let connections = || seen.connections.iter().flat_map(|connections| &connections.connections);
    let reset: HashSet<u64> = connections().filter(|it| it.reset_received).map(|it| it.cookie).collect();
    let accepted = connections().filter(|it| it.side == Side::Server && it.read_bytes > 0 && it.written_bytes > 0);
    let all: HashSet<u64> = sockets.chain(accepted.map(|it| it.cookie)).collect();
    all.difference(&reset).count() as u64
}

/// Of the accepted connections that ended, as far as they are told of one by one: on how many bytes came that are no request
/// of a known protocol, and all of them.
fn lines(connections: &Connections) -> (u64, u64) {
    let asks = |it: &Connection| it.http.is_some() || it.tls.is_some() || it.redis.is_some() || it.http2;
    ended(connections).fold((0, 0), |(lines, told), it| (lines + u64::from(it.read_bytes > 0 && !asks(it)), told + 1))
}
