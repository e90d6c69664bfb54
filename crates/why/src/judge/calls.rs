//! Calls that the process makes, each judged as the library judges its own: by the rules of
//! [`overdue_core::judge`], from what was seen of the connection.

mod before;
mod callers;
mod facts;
mod failures;
mod handed_on;
mod late;
mod meant;
mod names;
mod upstream;
mod waits;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use overdue_core::{
    Cause, Confidence, Source, Verdict,
    facts::{CallFacts, Failure, TcpInfo},
    judge as judge_call,
};
use serde::Serialize;

pub(super) use before::stopped_or_idle;
pub(super) use callers::{callers, is_for_callers, listens_alone, may_wait, owes_an_answer, wrote_last};
pub(super) use handed_on::impatient;
pub(super) use late::deadline_ignored;
pub(super) use names::asked_lately;
pub(super) use waits::all_transfers;

use callers::{Callers, Seen, led_by};
use facts::libc_errno;
use meant::Meant;
use upstream::{goes_on_at, upstream, worst_waits_for_peer};

use super::{
    Finding, Severity, ShareOf, count, diag, share,
    sockets::peer_of,
    thresholds::{CROWD, PILE, WORTH},
    total,
    unanswered::own_threads,
};
use crate::{
    Observation,
    observation::{BlockedIn, Connection, Connections, Moment, Side, TcpSocket, Thread, WaitsFor},
};

/// POLLIN.
pub(super) const READABLE: u32 = 1;

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

/// The calls in trouble.
pub(crate) fn stalls(seen: &Observation) -> Vec<Stall> {
    let seen = &Seen::of(seen);
    let stall = |known: &Known<'_>| {
        let trouble = diagnose(seen, known).into_iter().next()?;
        let cookie =
            known.socket.map(|socket| socket.cookie).or(known.connection.map(|connection| connection.cookie))?;
        let Trouble { verdict, stalled_us, meant, .. } = trouble;
        if matches!(meant, Meant::OwnDecision | Meant::Whole | Meant::Events) {
            return None;
        }
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
    /// Whether its connection has ended, so that nothing is due on it any more.
    ended: bool,
    /// Whether a client opened it.
    inbound: bool,
    /// How long ago something was last sent on it.
    sent_ms: Option<u32>,
    /// The wait that is over, or was given up.
    span: Option<handed_on::Span>,
    /// The process at the other end, where that is on this host.
    peer_pid: Option<u32>,
    /// Whether nothing of what was said on it was seen.
    unseen: bool,
    /// Whether it may be a wait for what comes some day, in which nobody is held up.
    meant: Meant,
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
    let seen = &Seen::of(seen);
    let known = join(seen);
    let mut troubles: Vec<Trouble> = known.iter().flat_map(|known| diagnose(seen, known)).collect();
    troubles.extend(names::names(seen));
    troubles.extend(names::lookups(seen));
    troubles.extend(names::probed(seen));
    troubles.extend(failures::refused_by_the_kernel(seen));
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

    let mut groups: Vec<(String, Vec<Trouble>)> = Vec::new();
    let mut places: HashMap<(&'static str, String), usize> = HashMap::new();
    for trouble in troubles {
        let place = *places.entry((trouble.verdict.cause.id(), trouble.peer.clone())).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, group)) => group.push(trouble),
            None => groups.push((trouble.peer.clone(), vec![trouble])),
        }
    }
    let before = handed_on::callers(seen);
    let led: Vec<HashSet<u64>> = groups.iter().map(|(_, group)| led_by(seen, group)).collect();
    let all_led = led.iter().flatten().collect::<HashSet<_>>().len();
    let mut found = Vec::new();
    for ((peer, mut group), own) in groups.into_iter().zip(&led) {
        let spans: Vec<_> = group.iter().filter_map(|trouble| trouble.span).collect();
        let waited = handed_on::led_to(&before, &spans);
        // A failure among many calls that go well is the network's ordinary noise, unless callers wait for it.
        let waits = group.iter().any(|trouble| trouble.waits);
        if !waits && waited.is_empty() && of_all(seen, &group) < WORTH * opened as f64 {
            continue;
        }
        // One refusal among many handshakes that go well is the peer's.
        let refused = group.iter().all(|trouble| trouble.meant == Meant::OwnDecision);
        if refused && (group.len() as u64).saturating_mul(2) < opened {
            continue;
        }
        group.sort_by_key(|trouble| std::cmp::Reverse(trouble.stalled_us));
        let of_group = total(group.iter().map(|trouble| trouble.stalled_us));
        let number = group.len() as u64;
        let due = group.iter().filter(|trouble| !trouble.ended).count() as u64;
        let mut meant = group.iter().map(|trouble| trouble.meant).min().unwrap_or(Meant::No);
        // A crowd whose requests wait for one peer is no chance. What may ask for nothing holds up nobody, however many
        // there are of it.
        let callers = Callers::of(seen, &group, all_led.saturating_sub(own.len()));
        let requests = group.iter().filter(|trouble| trouble.meant == Meant::Request).count() as u64;
        let held_up = || callers.all() > 0 || seen.loop_waits_for(&peer);
        let may_be_held_up = matches!(meant, Meant::Called | Meant::Request | Meant::Perhaps);
        let handed_on = !waited.is_empty() && (may_be_held_up || meant == Meant::Unseen);
        if may_be_held_up && held_up() || handed_on || requests >= CROWD {
            meant = Meant::No;
        }
        if others_are_served(seen, &group) {
            meant = Meant::OwnAffair;
        }
        let next = goes_on_at(seen, &group);
        let Some(worst) = group.into_iter().next() else { continue };
        let stage = worst.verdict.stage;
        let severity = if waits { Severity::Waiting } else { Severity::Refusing };
        let part = if stalled > 0 { share(of_group, stalled) } else { share(number, all) };
        let mut finding = Finding::new(worst.verdict.cause, severity, worst.verdict.confidence, "");
        finding.verdict = worst.verdict;
        finding.peer = Some(peer.clone());
        if number > 1 {
            // Of very many connections the worst alone are looked at.
            let some = seen
                .connections
                .as_ref()
                .is_some_and(|all| all.opened.saturating_add(all.accepted) > all.connections.len() as u64);
            let least = if some { "at least " } else { "" };
            finding = finding.because(
                diag(format!("{least}{} like it with {peer}", count(number, "connection"))).with("connections", number),
            );
        }
        finding = finding.share(ShareOf::StalledTime, part);
        if meant > Meant::No {
            found.push(finding.maybe_meant(meant));
            continue;
        }
        if worst_waits_for_peer(&finding)
            && let Some(mut upstream) = upstream(seen, &peer, stage, (callers, &waited), (number, due), of_group)
        {
            // A doubt about the calls is one about what waits for them.
            let doubt = finding.verdict.rejected.iter().find(|other| other.cause == Cause::Unknown);
            if let Some(doubt) = doubt.cloned() {
                upstream.verdict.confidence = upstream.verdict.confidence.min(Confidence::Medium);
                upstream.verdict.rejected.push(doubt);
            }
            upstream = upstream.and(next);
            upstream.peer = Some(peer);
            found.push(upstream.share(ShareOf::StalledTime, part));
        } else if waits {
            finding = finding.and(next);
        }
        found.push(finding);
    }
    // Callers are known to wait for that peer; nobody is known to be refused for what failed at another.
    let upstream = |finding: &Finding| finding.verdict.cause == Cause::WaitsUpstream && !finding.advisory;
    let waited_for: Vec<_> = found.iter().filter(|finding| upstream(finding)).map(|it| it.peer.clone()).collect();
    for finding in found.iter_mut().filter(|it| it.severity == Severity::Refusing && !waited_for.is_empty()) {
        if !waited_for.contains(&finding.peer) {
            finding.severity = Severity::Wasting;
        }
    }
    found
}

/// How many connections failed as these did. Where there were too many to tell of each, the kernel's count of resets tells:
/// the table has the failed ones first, so that their share of it says nothing.
fn of_all(seen: &Observation, group: &[Trouble]) -> f64 {
    let number = group.len() as f64;
    let is_reset = |connection: &&Connection| {
        connection.reset_received || matches!(connection.errno, Some(libc_errno::ECONNREFUSED | libc_errno::ECONNRESET))
    };
    let resets = |connections: &Connections| {
        let told = connections.connections.iter().filter(is_reset).count();
        number * (connections.reset_by_peer as f64 / told.max(1) as f64).max(1.0)
    };
    let refused = group.iter().all(|it| matches!(it.verdict.cause, Cause::PeerReset | Cause::ConnectRefused));
    seen.connections.as_ref().filter(|it| refused && it.untold > 0).map_or(number, resets)
}

/// Whether those of a few clients that do not take their answers hold up nobody: the process sends to others meanwhile.
fn others_are_served(seen: &Observation, stuck: &[Trouble]) -> bool {
    let own = |trouble: &Trouble| trouble.inbound && trouble.verdict.cause == Cause::PeerNotReading;
    if !stuck.iter().all(own) {
        return false;
    }
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let acked = |tcp: Option<TcpInfo>| tcp.and_then(|tcp| tcp.bytes_acked);
    let served = |socket: &&TcpSocket| socket.inbound && acked(socket.last) > acked(socket.first);
    let (served, stuck) = (sockets.filter(served).count(), stuck.len());
    served > 0 && ((stuck as u64) < CROWD || (stuck as f64) < WORTH * served as f64)
}

/// What a crowd of threads waits together, each for something in this process: a call that holds them up explains only its
/// own part of it.
fn crowd_us(seen: &Observation) -> u64 {
    let in_futex = |thread: &&Thread| thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call == "futex");
    let waits = own_threads(seen).filter(in_futex);
    let waits: Vec<u64> = waits.map(|thread| thread.blocked_us).collect();
    if waits.len() < PILE { 0 } else { total(waits.into_iter()) }
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
        // A loop that waits for many says nothing of one of them; nor does who waits until he can write.
        let polls = |member: &&WaitsFor| !blocked.call.starts_with("epoll") && member.events & READABLE != 0;
        let polled = blocked.waits_for.iter().filter(polls);
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

/// What is wrong with one connection: the worst first.
fn diagnose(seen: &Seen<'_>, known: &Known<'_>) -> Vec<Trouble> {
    if names::is_lookup(seen, known) {
        return Vec::new();
    }
    let mut troubles: Vec<Trouble> = worst(seen, known).into_iter().collect();
    for slow in waits::slow_stages(known) {
        if troubles.iter().all(|trouble| trouble.verdict.cause != slow.verdict.cause) {
            troubles.push(slow);
        }
    }
    troubles
}

fn worst(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let inbound = known.socket.is_some_and(|socket| socket.inbound)
        || known.connection.is_some_and(|connection| connection.side == Side::Server);
    if let Some(trouble) = waits::not_read(seen, known).or_else(|| waits::not_taken(known)) {
        return Some(trouble);
    }
    let unknown = known.socket.is_none() && known.connection.is_none_or(|connection| connection.side == Side::Unknown);
    if inbound || unknown {
        return None;
    }
    waits::connecting(seen, known)
        .or_else(|| failures::failed(seen, known))
        .or_else(|| failures::given_up_by_us(seen, known))
        .or_else(|| waits::gone(known))
        .or_else(|| waits::handshake(seen, known))
        .or_else(|| before::handshake(seen, known))
        .or_else(|| waits::exchange(seen, known))
        .or_else(|| before::unanswered(seen, known))
}

/// Whether its first bytes were seen, and are none of HTTP nor of TLS.
fn is_other_protocol(connection: &Connection) -> bool {
    let is_http = connection.http.is_some() || connection.http2 || connection.goaway.is_some();
    let was_seen = matches!(connection.opened, Some(Moment::At(_))) && !connection.heads_hidden;
    was_seen && connection.written_bytes > 0 && !is_http && connection.tls.is_none()
}

impl Trouble {
    fn of(known: &Known<'_>, facts: &CallFacts, stalled_us: u64) -> Self {
        let judged = judge_call::judge(facts);
        let mut verdict = judged.verdicts.into_iter().next().unwrap_or_else(|| Verdict {
            cause: Cause::Unknown,
            stage: facts.stage.as_str(),
            confidence: Confidence::Low,
            share: 0.0,
            summary: String::new(),
            fix: "".into(),
            evidence: Vec::new(),
            rejected: Vec::new(),
        });
        if known.connection.is_some_and(is_other_protocol) {
            verdict.evidence.retain(|evidence| evidence.source != Source::Http);
        }
        let waits = matches!(facts.failure, Failure::DeadlinePassed(_));
        Self { waits, ..Self::told(known, verdict, stalled_us) }
    }

    fn told(known: &Known<'_>, verdict: Verdict, stalled_us: u64) -> Self {
        let peer = match (known.socket, known.connection) {
            (Some(socket), _) => peer_of(socket),
            (None, Some(connection)) => connection.remote.as_ref().map(SocketAddr::to_string).unwrap_or_default(),
            (None, None) => String::new(),
        };
        let unseen = known.connection.is_none_or(|connection| connection.http.is_none() && connection.tls.is_none());
        let sent_ms = known.socket.and_then(|socket| Some(socket.last?.last_data_sent_ms));
        let inbound = known.socket.is_some_and(|socket| socket.inbound);
        let ended = known.connection.is_some_and(|connection| connection.closed.is_some());
        let span = known.connection.and_then(handed_on::waited);
        let peer_pid = known.socket.filter(|socket| !socket.inbound).and_then(|socket| socket.peer_pid);
        Self {
            peer,
            verdict,
            stalled_us,
            waits: true,
            ended,
            inbound,
            sent_ms,
            span,
            peer_pid,
            unseen,
            meant: Meant::No,
        }
    }
}
