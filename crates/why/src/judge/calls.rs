//! Calls that the process makes, each judged as the library judges its own: by the rules of
//! [`overdue_core::judge`], from what was seen of the connection.

mod late;
mod names;

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use overdue_core::{
    Cause, Confidence, Limit, LimitName, SpanOutcome, Stage, Timeline, Verdict,
    facts::{
        CallFacts, ExchangeFacts, Failure, ListenerFacts, OsFailure, PeerSocketFacts, SocketFacts, TcpInfo, TcpState,
    },
    judge as judge_call,
};
use serde::Serialize;

pub(super) use late::deadline_ignored;

use super::{ALWAYS, Finding, SETTLED_US, Severity, ShareOf, bpf, count, diag, share, sockets::peer_of, time, total};
use crate::{
    Observation,
    observation::{BlockedIn, Call, Connection, Cpu, Moment, Side, TcpSocket, Thread, TimerKind, TlsHandshake},
};

/// Unread bytes from which on a receive queue is called full.
const UNREAD: u32 = 16 * 1024;
/// The share of a process's calls that must fail before single failures are more than noise.
const WORTH: f64 = 0.1;

/// A connection that does not get on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Stall {
    /// Which.
    #[serde(skip)]
    pub cookie: u64,
    /// Why.
    pub cause: Cause,
    /// In which stage.
    pub stage: &'static str,
    /// For how long; 0 where it failed at once.
    pub stalled_us: u64,
}

/// The connections in trouble.
#[must_use]
pub fn stalls(seen: &Observation) -> Vec<Stall> {
    let stall = |known: &Known<'_>| {
        let trouble = diagnose(seen, known)?;
        let cookie =
            known.socket.map(|socket| socket.cookie).or(known.connection.map(|connection| connection.cookie))?;
        let Trouble { verdict, stalled_us, .. } = trouble;
        Some(Stall { cookie, cause: verdict.cause, stage: verdict.stage, stalled_us })
    };
    join(seen).iter().filter_map(stall).collect()
}

/// A call in trouble.
struct Trouble {
    peer: String,
    verdict: Verdict,
    /// How long it has waited.
    stalled_us: u64,
    /// Whether it waits, or has failed.
    waits: bool,
    /// Whether nothing of what was said on it was seen.
    unseen: bool,
}

/// All that is known of one connection.
#[derive(Clone, Copy, Default)]
struct Known<'a> {
    socket: Option<&'a TcpSocket>,
    connection: Option<&'a Connection>,
    /// The thread that is blocked on it.
    blocked: Option<(&'a Thread, &'a BlockedIn)>,
}

/// Calls to peers, grouped by cause and peer; and whether callers of this process wait for the same.
pub(super) fn rule(seen: &Observation) -> Vec<Finding> {
    let known = join(seen);
    let mut troubles: Vec<Trouble> = known.iter().filter_map(|known| diagnose(seen, known)).collect();
    troubles.extend(names::names(seen));
    troubles.extend(names::lookups(seen));
    troubles.extend(names::probed(seen));
    troubles.extend(refused_by_the_kernel(seen));
    // A connection of which no first byte was seen waits for the same as those to the same peer that were seen to.
    let tls: Vec<String> = troubles
        .iter()
        .filter(|trouble| matches!(trouble.verdict.cause, Cause::TlsPeerSilent | Cause::TlsSlow))
        .map(|trouble| trouble.peer.clone())
        .collect();
    troubles.retain(|trouble| !(trouble.unseen && tls.contains(&trouble.peer)));
    let opened = seen.connections.as_ref().map_or(0, |connections| connections.opened);
    let stalled = total(troubles.iter().map(|trouble| trouble.stalled_us)).max(crowd_us(seen));
    let all = troubles.len() as u64;

    let mut groups: Vec<((Cause, String), Vec<Trouble>)> = Vec::new();
    for trouble in troubles {
        let key = (trouble.verdict.cause, trouble.peer.clone());
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, group)) => group.push(trouble),
            None => groups.push((key, vec![trouble])),
        }
    }
    let mut found = Vec::new();
    for ((_, peer), mut group) in groups {
        // A failure among many calls that go well is the network's ordinary noise.
        let waits = group.iter().any(|trouble| trouble.waits);
        if !waits && (group.len() as f64) < WORTH * opened as f64 {
            continue;
        }
        group.sort_by_key(|trouble| std::cmp::Reverse(trouble.stalled_us));
        let of_group = total(group.iter().map(|trouble| trouble.stalled_us));
        let number = group.len() as u64;
        let Some(worst) = group.into_iter().next() else { continue };
        let stage = worst.verdict.stage;
        let severity = if waits { Severity::Waiting } else { Severity::Refusing };
        let part = if stalled > 0 { share(of_group, stalled) } else { share(number, all) };
        let mut finding = Finding::new(worst.verdict.cause, severity, worst.verdict.confidence, "");
        finding.verdict = worst.verdict;
        if number > 1 {
            finding = finding.because(
                diag(format!("{} like it with {peer}", count(number, "connection"))).with("connections", number),
            );
        }
        finding = finding.share(ShareOf::StalledTime, part);
        if worst_waits_for_peer(&finding)
            && let Some(upstream) = upstream(seen, &peer, stage, number, of_group)
        {
            found.push(upstream.share(ShareOf::StalledTime, part));
        }
        found.push(finding);
    }
    // Only the worst of several upstreams is the verdict; the others stand by themselves.
    found
}

/// What a crowd of threads waits together, each for something in this process: a call that holds them up explains only its
/// own part of it.
fn crowd_us(seen: &Observation) -> u64 {
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let waits = threads.filter(|thread| thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call == "futex"));
    let waits: Vec<u64> = waits.map(|thread| thread.blocked_us).collect();
    if waits.len() < super::PILE { 0 } else { total(waits.into_iter()) }
}

/// A server whose callers wait while it waits for this peer.
fn upstream(seen: &Observation, peer: &str, stage: &'static str, number: u64, stalled_us: u64) -> Option<Finding> {
    let sockets = seen.sockets.as_ref()?;
    let waiting = sockets.tcp.iter().filter(|socket| socket.inbound && owes_an_answer(socket)).count() as u64;
    if waiting == 0 && number < CROWD {
        return None;
    }
    let who = match waiting {
        0 => format!("{} of this process wait for {peer} in {stage}", count(number, "call")),
        _ => format!(
            "{} of this process wait while it waits for {peer} in {stage} ({} of its own)",
            count(waiting, "caller"),
            count(number, "call")
        ),
    };
    let used = seen.cpu.as_ref().map(Cpu::used_us);
    let mut finding = Finding::new(
        Cause::WaitsUpstream,
        Severity::Waiting,
        if waiting <= number { Confidence::High } else { Confidence::Medium },
        format!("{who}, {} in all: the trouble is there, not here", time(stalled_us),),
    )
    .because(
        diag(format!(
            "{number} connections to {peer} have an answer due; {waiting} accepted ones have sent something and got no \
             answer for more than {}",
            time(SETTLED_US)
        ))
        .with("callers", waiting)
        .with("calls", number),
    )
    .and(used.map(|us| {
        super::proc(format!("it used {} of processor time in {}", time(us), time(seen.window_us))).with("cpu_us", us)
    }))
    .rejected(Cause::CpuBusy, "it does not compute: its calls wait");
    finding.verdict.stage = stage;
    Some(finding)
}

/// So many calls that wait for the same peer at once are no single slow call.
const CROWD: u64 = 3;

/// Whether it is the peer's answer that is waited for.
fn worst_waits_for_peer(finding: &Finding) -> bool {
    matches!(
        finding.verdict.cause,
        Cause::ServerSlow | Cause::HeadStalled | Cause::BodyStalled | Cause::BodySlow | Cause::TlsPeerSilent
    )
}

/// Whether something came after the last that was sent, a while ago.
pub(super) fn owes_an_answer(socket: &TcpSocket) -> bool {
    let Some(tcp) = socket.last else { return false };
    socket.state == TcpState::Established
        && tcp.bytes_received.is_some_and(|bytes| bytes > 0)
        && tcp.last_data_recv_ms < tcp.last_data_sent_ms
        && u64::from(tcp.last_data_recv_ms) * 1_000 >= SETTLED_US
}

/// Tables that speak of the same connection, by its cookie.
fn join(seen: &Observation) -> Vec<Known<'_>> {
    let mut by_cookie: HashMap<u64, Known<'_>> = HashMap::new();
    for socket in seen.sockets.iter().flat_map(|sockets| &sockets.tcp) {
        by_cookie.entry(socket.cookie).or_default().socket = Some(socket);
    }
    for connection in seen.connections.iter().flat_map(|connections| &connections.connections) {
        by_cookie.entry(connection.cookie).or_default().connection = Some(connection);
    }
    for thread in seen.threads.iter().flat_map(|threads| &threads.threads) {
        let Some(blocked) = &thread.blocked_in else { continue };
        // A loop that waits for many says nothing of one of them.
        let polled = blocked.waits_for.iter().filter(|_| !blocked.call.starts_with("epoll"));
        for cookie in polled.filter_map(|member| member.cookie).take(4).chain(blocked.cookie) {
            if let Some(known) = by_cookie.get_mut(&cookie) {
                known.blocked = Some((thread, blocked));
            }
        }
    }
    let mut all: Vec<_> = by_cookie.into_iter().collect();
    // The same observation gives the same text.
    all.sort_by_key(|(cookie, _)| *cookie);
    all.into_iter().map(|(_, known)| known).collect()
}

/// What is wrong with one connection, if anything is.
fn diagnose(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let inbound = known.socket.is_some_and(|socket| socket.inbound)
        || known.connection.is_some_and(|connection| connection.side == Side::Server);
    if let Some(trouble) = not_read(known) {
        return Some(trouble);
    }
    if let Some(trouble) = not_taken(known) {
        return Some(trouble);
    }
    let unknown = known.socket.is_none() && known.connection.is_none_or(|connection| connection.side == Side::Unknown);
    if inbound || unknown {
        return None;
    }
    connecting(seen, known)
        .or_else(|| failed(seen, known))
        .or_else(|| handshake(seen, known))
        .or_else(|| exchange(seen, known))
}

/// Our own side does not read.
fn not_read(known: &Known<'_>) -> Option<Trouble> {
    let socket = known.socket.filter(|socket| socket.unread_bytes >= UNREAD)?;
    // It takes nothing; or so little that what lies there lasts for several windows like this one.
    let received = |tcp: Option<TcpInfo>| tcp.and_then(|tcp| tcp.bytes_received);
    let came = received(socket.last).zip(received(socket.first)).map(|(last, first)| last.saturating_sub(first));
    let slow = came.is_some_and(|came| came.saturating_mul(4) < socket.unread_bytes.into()) && socket.since_before;
    let waited = if slow { socket.in_state_us } else { socket.unread_for_us };
    if waited < SETTLED_US {
        return None;
    }
    let mut facts = facts(known, Stage::Receive, waited, passed(LimitName::Gap, waited));
    facts.exchange.reader_away = Duration::from_micros(waited);
    facts.exchange.body_bytes = 1;
    Some(Trouble::of(known, &facts, waited))
}

/// The peer does not take what we send: its window is closed, or nothing is acknowledged.
fn not_taken(known: &Known<'_>) -> Option<Trouble> {
    let socket = known.socket.filter(|socket| {
        let stuck = socket.timer.kind == TimerKind::ZeroWindowProbe
            || (socket.timer.kind == TimerKind::Retransmit && socket.timer.fired >= 2);
        stuck && socket.unsent_bytes > 0 && socket.state != TcpState::SynSent
    })?;
    let tcp = socket.last?;
    let waited = match socket.timer.kind {
        TimerKind::Retransmit => u64::from(tcp.last_ack_recv_ms) * 1_000,
        // A closed window is acknowledged again and again.
        _ => u64::from(tcp.last_data_sent_ms) * 1_000,
    };
    if waited < SETTLED_US {
        return None;
    }
    let facts = facts(known, Stage::Send, waited, passed(LimitName::Stage(Stage::Send), waited));
    Some(Trouble::of(known, &facts, waited)).filter(|trouble| trouble.verdict.cause != Cause::Unknown)
}

/// No connection yet.
fn connecting(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let waited = match (known.socket, known.connection) {
        (Some(socket), _) if socket.state == TcpState::SynSent => socket.in_state_us,
        (None, Some(connection))
            if connection.established.is_none() && connection.errno.is_none() && connection.closed.is_none() =>
        {
            since(connection.opened?, seen.window_us)?
        }
        // Given up by the program itself, before the kernel did.
        (_, Some(connection)) if connection.established.is_none() && connection.errno.is_none() => {
            let (opened, closed) = (at(connection.opened?)?, at(connection.closed?)?);
            closed.saturating_sub(opened)
        }
        _ => return None,
    };
    if waited < SETTLED_US {
        return None;
    }
    let facts = facts(known, Stage::Connect, waited, passed(LimitName::Stage(Stage::Connect), waited));
    Some(Trouble::of(known, &facts, waited))
}

/// It ended with an error.
fn failed(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let connection = known.connection?;
    let life = match (connection.opened.and_then(at), connection.closed.and_then(at)) {
        (Some(opened), Some(closed)) => closed.saturating_sub(opened),
        _ => 0,
    };
    if connection.established.is_none()
        && let Some(errno) = connection.errno
    {
        let failure = os("connect", errno);
        return Some(Trouble {
            waits: false,
            ..Trouble::of(known, &facts(known, Stage::Connect, life, failure), life)
        });
    }
    if let Some(tls) = &connection.tls
        && tls.client
    {
        if let Some(text) = &tls.not_tls {
            let facts = facts(known, Stage::Tls, life, Failure::TlsNotTls(text.clone()));
            return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
        }
        if let Some((code, true)) = tls.alert
            && tls.done.is_none()
            && code != CLOSE_NOTIFY
        {
            let facts = facts(known, Stage::Tls, life, Failure::TlsAlert(alert(code)));
            return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
        }
    }
    let stage = if connection.tls.as_ref().is_some_and(|tls| tls.client && tls.hello.is_some() && tls.done.is_none()) {
        Stage::Tls
    } else if answered(connection) {
        Stage::Receive
    } else {
        Stage::Wait
    };
    if connection.reset_received {
        let facts = facts(known, stage, life, os("read", libc_errno::ECONNRESET));
        return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
    }
    // Closed by the peer while an answer was due, or in the middle of one.
    let http = connection.http.as_ref();
    let due = http.is_some_and(|http| {
        http.answered.is_none() && http.requested.is_some_and(|requested| !may_be_answered(seen, known, requested))
    });
    let cut = http.is_some_and(|http| http.missing_bytes.is_some_and(|missing| missing > 0));
    // Who closes first is answered by a close.
    let closed_before = connection.closed_by_us
        && connection
            .closed
            .and_then(at)
            .zip(connection.fin_received.and_then(at))
            .is_some_and(|(ours, fin)| ours < fin);
    // Neither is one that answers our alert.
    let refused_by_us = connection.tls.as_ref().is_some_and(|tls| matches!(tls.alert, Some((_, false))));
    let in_handshake = stage == Stage::Tls && !refused_by_us;
    if connection.fin_received.is_some() && !closed_before && (due || cut || in_handshake) {
        let mut facts = facts(known, stage, life, Failure::Closed);
        if cut {
            facts.exchange.body_bytes = connection.read_bytes.max(1);
            facts.exchange.response_bytes = connection.read_bytes;
        }
        return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
    }
    None
}

/// A TLS handshake that does not come to its end.
fn handshake(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let tls = known.connection?.tls.as_ref().filter(|tls| tls.client && tls.done.is_none() && tls.alert.is_none())?;
    let waited = since_or_until(tls.hello?, known, seen.window_us)?;
    if waited < SETTLED_US {
        return None;
    }
    let mut facts = facts(known, Stage::Tls, waited, passed(LimitName::Stage(Stage::Tls), waited));
    facts.exchange.response_bytes = handshake_bytes(tls, known);
    Some(Trouble::of(known, &facts, waited))
}

fn handshake_bytes(tls: &TlsHandshake, known: &Known<'_>) -> u64 {
    if tls.answered.is_none() { 0 } else { known.connection.map_or(1, |connection| connection.read_bytes.max(1)) }
}

/// A request without answer, or an answer that does not come to its end.
fn exchange(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let http = known.connection.and_then(|connection| connection.http.as_ref());
    // A known request that nobody has answered.
    if let Some(http) = http
        && let (Some(requested), None) = (http.requested, http.answered)
        && !may_be_answered(seen, known, requested)
    {
        let waited = since_or_until(requested, known, seen.window_us)?;
        // Bytes that were read since then are an answer, whose head was missed.
        let came = known.connection.and_then(|connection| at(connection.last_read?)) > at(requested);
        if waited >= SETTLED_US && !came {
            return waiting(known, waited);
        }
    }
    // A body that is not complete, and of which nothing comes.
    if let Some(connection) = known.connection
        && http.and_then(|http| http.missing_bytes).is_some_and(|missing| missing > 0)
        && let Some(last) = connection.last_read
        && let Some(silent) = since_or_until(last, known, seen.window_us).filter(|us| *us >= SETTLED_US)
    {
        let mut facts = facts(known, Stage::Receive, silent, passed(LimitName::Gap, silent));
        facts.exchange.body_bytes = connection.read_bytes.max(1);
        facts.exchange.response_bytes = connection.read_bytes;
        return Some(Trouble::of(known, &facts, silent));
    }
    // A wait that has ended is as long as one that goes on.
    if all_transfers(seen)
        && let Some(gap) =
            known.connection.map(|connection| connection.read_gaps.longest_us).filter(|us| *us >= SETTLED_US)
    {
        return waiting(known, gap);
    }
    // A thread that sits in a read says that something is due, whatever the protocol; so does a short poll on one
    // connection.
    let socket = known.socket.filter(|socket| socket.state == TcpState::Established && socket.unread_bytes == 0)?;
    let tcp = socket.last?;
    let (thread, call) = known.blocked?;
    let reads = ["read", "recv", "poll", "select"].iter().any(|word| call.call.contains(word));
    if !reads || call.call.starts_with("epoll") || thread.blocked_us < SETTLED_US {
        return None;
    }
    let received = tcp.bytes_received.unwrap_or(0);
    if received == 0 || tcp.last_data_sent_ms < tcp.last_data_recv_ms {
        return waiting(known, thread.blocked_us.max(u64::from(tcp.last_data_sent_ms) * 1_000));
    }
    // Without a request that was seen, silence after an answer may be a subscriber's, who waits for news.
    let silent = u64::from(tcp.last_data_recv_ms) * 1_000;
    if silent < SETTLED_US || http.is_none_or(|http| http.answered.is_none()) {
        return None;
    }
    let mut facts = facts(known, Stage::Receive, silent, passed(LimitName::Gap, silent));
    facts.exchange.body_bytes = received;
    facts.exchange.response_bytes = received;
    Some(Trouble::of(known, &facts, silent))
}

/// Whether every read and write was watched, not those of short windows alone. Where none could be, there are no times to
/// be wrong about.
fn all_transfers(seen: &Observation) -> bool {
    let watched = seen.connections.as_ref().and_then(|connections| connections.transfers_us);
    watched.is_none_or(|us| share(us, seen.window_us) >= ALWAYS)
}

/// Whether the answer to a request may have come without being seen, between two windows: something was received later,
/// or nobody knows.
fn may_be_answered(seen: &Observation, known: &Known<'_>, requested: Moment) -> bool {
    if all_transfers(seen) {
        return false;
    }
    let requested = at(requested).unwrap_or(0);
    let read = known.connection.and_then(|connection| at(connection.last_read?)).is_some_and(|read| read > requested);
    let received = known.socket.and_then(|socket| {
        let before_last_look = u64::from(socket.last?.last_data_recv_ms).saturating_mul(1_000);
        Some(socket.last_seen_us.saturating_sub(before_last_look))
    });
    read || received.is_none_or(|received| received > requested)
}

fn waiting(known: &Known<'_>, waited: u64) -> Option<Trouble> {
    if waited < SETTLED_US {
        return None;
    }
    let facts = facts(known, Stage::Wait, waited, passed(LimitName::Stage(Stage::Wait), waited));
    Some(Trouble::of(known, &facts, waited))
}

/// `connect` that the kernel refuses before a packet is sent.
fn refused_by_the_kernel(seen: &Observation) -> Vec<Trouble> {
    let Some(calls) = &seen.calls else { return Vec::new() };
    let failed = calls.counts.iter().filter(|call| {
        call.call == Call::Connect && matches!(call.errno, libc_errno::EADDRNOTAVAIL | libc_errno::ENETUNREACH)
    });
    failed
        .map(|call| {
            let mut facts = facts(&Known::default(), Stage::Connect, 0, os("connect", call.errno));
            let peer = call.peer.clone().unwrap_or_else(|| "the peer".to_owned());
            facts.socket = Some(SocketFacts { peer: peer.clone(), ..SocketFacts::default() });
            let mut trouble = Trouble { peer, waits: false, ..Trouble::of(&Known::default(), &facts, 0) };
            trouble
                .verdict
                .evidence
                .push(bpf(format!("connect failed so {} times", call.count)).with("failed", call.count));
            trouble
        })
        .collect()
}

impl Trouble {
    fn of(known: &Known<'_>, facts: &CallFacts, stalled_us: u64) -> Self {
        let judged = judge_call::judge(facts);
        let verdict = judged.verdicts.into_iter().next().unwrap_or_else(|| Verdict {
            cause: Cause::Unknown,
            stage: facts.stage.as_str(),
            confidence: Confidence::Low,
            share: 0.0,
            summary: String::new(),
            fix: "".into(),
            evidence: Vec::new(),
            rejected: Vec::new(),
        });
        let peer = match (known.socket, known.connection) {
            (Some(socket), _) => peer_of(socket),
            (None, Some(connection)) => connection.remote.as_ref().map(SocketAddr::to_string).unwrap_or_default(),
            (None, None) => String::new(),
        };
        let waits = matches!(facts.failure, Failure::DeadlinePassed(_));
        let unseen = known.connection.is_none_or(|connection| connection.http.is_none() && connection.tls.is_none());
        Self { peer, verdict, stalled_us, waits, unseen }
    }
}

/// What the judge of one call wants to know, of a stage that has run for so long.
#[expect(clippy::disallowed_methods, reason = "an instant to count from: only differences matter")]
fn facts(known: &Known<'_>, stage: Stage, ran_us: u64, failure: Failure) -> CallFacts {
    let start = Instant::now();
    let now = start + Duration::from_micros(ran_us.min(u64::from(u32::MAX) * 1_000));
    let mut timeline = Timeline::new(start);
    timeline.begin(stage, start, None);
    let outcome =
        if matches!(failure, Failure::DeadlinePassed(_)) { SpanOutcome::TimedOut } else { SpanOutcome::Failed };
    timeline.finish(now, outcome);
    timeline.end(now, outcome);
    let written = known.connection.map(|connection| connection.written_bytes).filter(|bytes| *bytes > 0);
    let acked = known.socket.and_then(|socket| socket.last?.bytes_acked).map(|bytes| bytes.saturating_sub(1));
    let request_bytes = written.or(acked).unwrap_or(0);
    CallFacts {
        stage,
        failure,
        now,
        timeline,
        late_by: Duration::ZERO,
        socket: socket_facts(known),
        dns: None,
        pool: None,
        h2: None,
        exchange: ExchangeFacts { request_started: request_bytes > 0, request_bytes, ..ExchangeFacts::default() },
    }
}

fn socket_facts(known: &Known<'_>) -> Option<SocketFacts> {
    let peer = match (known.socket, known.connection) {
        (Some(socket), _) => peer_of(socket),
        (None, Some(connection)) => connection.remote?.to_string(),
        (None, None) => return None,
    };
    let socket = known.socket;
    Some(SocketFacts {
        peer,
        tcp: socket.and_then(|socket| socket.last.or_else(|| of_table(socket))).or_else(|| syn_sent(known.connection?)),
        unread_bytes: socket.map(|socket| socket.unread_bytes),
        unsent_bytes: socket.map(|socket| socket.unsent_bytes),
        cookie: socket.map(|socket| socket.cookie),
        listener: socket
            .and_then(|socket| socket.peer_listener)
            .map(|queue| ListenerFacts { queued: queue.queued, backlog: queue.backlog }),
        peer_socket: socket
            .and_then(|socket| socket.peer_unread_bytes)
            .map(|unread_bytes| PeerSocketFacts { unread_bytes, unacked_bytes: 0 }),
        peer_unasked: false,
    })
}

/// What the kernel's table says of a handshake, where it gives no `TCP_INFO`.
fn of_table(socket: &TcpSocket) -> Option<TcpInfo> {
    (socket.state == TcpState::SynSent).then(|| TcpInfo {
        state: socket.state,
        retransmits: socket.timer.fired,
        total_retrans: socket.timer.fired.into(),
        ..TcpInfo::default()
    })
}

/// What is known of a connection that never was and is gone.
fn syn_sent(connection: &Connection) -> Option<TcpInfo> {
    connection.established.is_none().then(|| TcpInfo {
        state: TcpState::SynSent,
        total_retrans: connection.syn_retransmits,
        ..Default::default()
    })
}

fn passed(name: LimitName, waited_us: u64) -> Failure {
    Failure::DeadlinePassed(Limit::new(name, Duration::from_micros(waited_us)))
}

fn answered(connection: &Connection) -> bool {
    match &connection.http {
        Some(http) => http.answered.is_some(),
        None => connection.read_bytes > 0,
    }
}

fn at(moment: Moment) -> Option<u64> {
    match moment {
        Moment::At(us) | Moment::Inferred(us) => Some(us),
        Moment::Before => None,
    }
}

/// From then to the end of the window; what was before counts from its beginning.
fn since(moment: Moment, window_us: u64) -> Option<u64> {
    Some(window_us.saturating_sub(at(moment).unwrap_or(0)))
}

/// The same, to the end of the connection where that was seen.
fn since_or_until(moment: Moment, known: &Known<'_>, window_us: u64) -> Option<u64> {
    let end = known.connection.and_then(|connection| at(connection.closed?)).unwrap_or(window_us);
    Some(end.saturating_sub(at(moment).unwrap_or(0)))
}

const CLOSE_NOTIFY: u8 = 0;

fn alert(code: u8) -> String {
    let name = match code {
        10 => "unexpected_message",
        20 => "bad_record_mac",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return format!("{code}"),
    };
    format!("{name} ({code})")
}

/// The errors of a call, sorted as the library sorts them.
fn os(operation: &'static str, errno: i32) -> Failure {
    let (kind, text) = match errno {
        libc_errno::ECONNREFUSED => (OsFailure::Refused, "Connection refused"),
        libc_errno::ECONNRESET => (OsFailure::Reset, "Connection reset by peer"),
        libc_errno::EPIPE => (OsFailure::Reset, "Broken pipe"),
        libc_errno::ETIMEDOUT => (OsFailure::KernelTimeout, "Connection timed out"),
        libc_errno::EHOSTUNREACH => (OsFailure::Unreachable, "No route to host"),
        libc_errno::ENETUNREACH => (OsFailure::Unreachable, "Network is unreachable"),
        libc_errno::EADDRNOTAVAIL => (OsFailure::AddressNotAvailable, "Cannot assign requested address"),
        _ => (OsFailure::Other, "an error"),
    };
    Failure::Os { operation, kind, text: format!("{text} (os error {errno})") }
}

/// Numbers of Linux: a recording is judged on any platform.
mod libc_errno {
    pub(super) const EPIPE: i32 = 32;
    pub(super) const EADDRNOTAVAIL: i32 = 99;
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const ECONNRESET: i32 = 104;
    pub(super) const ETIMEDOUT: i32 = 110;
    pub(super) const ECONNREFUSED: i32 = 111;
    pub(super) const EHOSTUNREACH: i32 = 113;
}
