//! Calls that the process makes, each judged as the library judges its own: by the rules of
//! [`overdue_core::judge`], from what was seen of the connection.

mod before;
mod facts;
mod failures;
mod handed_on;
mod late;
mod names;
mod waits;

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use overdue_core::{
    Cause, Confidence, Evidence, Source, Verdict,
    facts::{CallFacts, Failure, TcpInfo, TcpState},
    judge as judge_call,
};
use serde::Serialize;

pub(super) use before::stopped_or_idle;
pub(super) use handed_on::impatient;
pub(super) use late::deadline_ignored;
pub(super) use names::asked_lately;
pub(super) use waits::all_transfers;

use facts::libc_errno;

use super::{
    Finding, Severity, ShareOf, count, diag, proc, share,
    sockets::{most_frequent, peer_of},
    threads::loop_waits_for,
    thresholds::{CROWD, HANDED_ON_MS, PILE, SETTLED_US, TICK_MS, WORTH},
    time, total,
    unanswered::own_threads,
};
use crate::{
    Observation,
    observation::{BlockedIn, Connection, Connections, Cpu, Moment, Side, TcpSocket, Thread, WaitsFor},
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
    /// Whether nothing of what was said on it was seen.
    unseen: bool,
    /// Whether it may be a wait for what comes some day, in which nobody is held up.
    meant: Meant,
}

/// Whether a wait may be what a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Meant {
    No,
    /// The process itself refused the peer.
    OwnDecision,
    /// A client does not take its own answer, and others are served meanwhile.
    OwnAffair,
    /// The process takes no more of an answer than it wants.
    OwnPace,
    /// One name, or one server, of many that are asked meanwhile and answer.
    OneOfMany,
    /// A name server said no, and that is an answer to what was asked.
    NoIsAnswer,
    /// An answer may have been whole when its connection ended.
    Whole,
    /// Nothing was sent, and nothing came.
    Quiet,
    /// What was sent was not seen: it may ask for nothing.
    Unseen,
    /// Callers wait, who asked before it was sent: for it, or for another call.
    Called,
    /// It is a request that has an answer, some day.
    Request,
    /// Nothing speaks against it.
    Perhaps,
    /// It hands on, byte by byte, what a client says, and nobody saw what that is.
    Relayed,
    /// The request itself asks to wait.
    Asked,
    /// The answer is a stream of events, which come when there are some.
    Events,
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

    let mut groups: Vec<((Cause, String), Vec<Trouble>)> = Vec::new();
    for trouble in troubles {
        let key = (trouble.verdict.cause, trouble.peer.clone());
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, group)) => group.push(trouble),
            None => groups.push((key, vec![trouble])),
        }
    }
    let before = handed_on::callers(seen);
    let led: Vec<HashSet<u64>> = groups.iter().map(|(_, group)| led_by(seen, group)).collect();
    let mut found = Vec::new();
    for (((_, peer), mut group), own) in groups.into_iter().zip(&led) {
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
        let elsewhere = led.iter().flatten().filter(|caller| !own.contains(*caller)).copied().collect();
        let callers = Callers::of(seen, &group, &elsewhere);
        let requests = group.iter().filter(|trouble| trouble.meant == Meant::Request).count() as u64;
        let held_up = || callers.all() > 0 || loop_waits_for(seen, &peer);
        let may_be_held_up = matches!(meant, Meant::Called | Meant::Request | Meant::Perhaps);
        let handed_on = !waited.is_empty() && (may_be_held_up || meant == Meant::Unseen);
        if may_be_held_up && held_up() || handed_on || requests >= CROWD {
            meant = Meant::No;
        }
        if others_are_served(seen, &group) {
            meant = Meant::OwnAffair;
        }
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
            upstream = upstream.and(goes_on_at(seen, &peer));
            upstream.peer = Some(peer);
            found.push(upstream.share(ShareOf::StalledTime, part));
        } else if waits {
            finding = finding.and(goes_on_at(seen, &peer));
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

/// Where to look next: the process at the other end of calls to this peer, if it is another one of this host.
fn goes_on_at(seen: &Observation, peer: &str) -> Option<Evidence> {
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let theirs = sockets.filter(|socket| !socket.inbound && peer_of(socket) == peer);
    let pids = theirs.filter_map(|socket| socket.peer_pid).filter(|pid| *pid != seen.process.pid);
    let (pid, _) = most_frequent(pids)?;
    Some(
        proc(format!("the other end is process {pid} of this host: `overdue why --pid {pid}` goes on there"))
            .with("peer_pid", pid),
    )
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

/// A server whose callers wait while it waits for this peer. `calls`: all of them, and those of them that have not ended.
fn upstream(
    seen: &Observation,
    peer: &str,
    stage: &'static str,
    (callers, waited): (Callers, &[handed_on::Caller]),
    (all, due): (u64, u64),
    stalled_us: u64,
) -> Option<Finding> {
    let waiting = callers.all();
    let loop_waits = loop_waits_for(seen, peer);
    if waiting == 0 && waited.is_empty() && all < CROWD && !loop_waits {
        return None;
    }
    let ended = all.saturating_sub(due);
    // Where all have ended, their callers may not have heard of it yet.
    let number = if due > 0 { due } else { all };
    let took = if all == 1 { time(stalled_us).to_string() } else { format!("{} in all", time(stalled_us)) };
    let who = match waiting {
        0 if !waited.is_empty() => format!(
            "{} of this process waited while it waited for {peer} ({} of its own in stage {stage}, {took})",
            count(waited.len() as u64, "caller"),
            count(all, "call"),
        ),
        0 => format!(
            "{} of this process {} for {peer}, {took} in stage {stage}",
            count(number, "call"),
            match (due, number) {
                (0, _) => "waited",
                (_, 1) => "waits",
                _ => "wait",
            }
        ),
        _ => format!(
            "{} of this process {} while it waits for {peer} ({} of its own in stage {stage}, {took})",
            count(waiting, "caller"),
            if waiting == 1 { "waits" } else { "wait" },
            count(number, "call")
        ),
    };
    let used = seen.cpu.as_ref().map(Cpu::used_us);
    let itself = is_own(seen, peer);
    let trouble = if itself && has_nobody_left(seen, peer) {
        "it calls itself, and has nobody left to answer"
    } else if itself {
        "it calls itself, and what that call waits for is to be found among the others here"
    } else if loop_waits {
        "the trouble begins there, and an event loop of this process sits in the call, so that all that it serves waits"
    } else if waiting > number {
        "the trouble begins there, and others of this process wait behind it, for a lock or a place among few perhaps"
    } else {
        "the trouble is there, not here"
    };
    let parts = [
        (due > 0).then(|| format!("{} to {peer} with an answer due", count(due, "connection"))),
        (ended > 0).then(|| format!("{} to {peer} that took long and are over", count(ended, "call"))),
        (waiting > 0).then(|| {
            format!(
                "{} with a request and no answer for more than {}",
                count(waiting, "accepted connection"),
                time(SETTLED_US)
            )
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let mut finding = Finding::new(
        Cause::WaitsUpstream,
        Severity::Waiting,
        if callers.perhaps == 0 && waiting <= number { Confidence::High } else { Confidence::Medium },
        format!("{who}: {trouble}"),
    )
    .because(diag(parts.join("; ")).with("callers", waiting).with("calls", due))
    .and((!waited.is_empty()).then(|| handed_on::evidence(waited, all)))
    .and((callers.perhaps > 0).then(|| {
        diag(format!(
            "of {} the request came in the millisecond of the answer before it, and just before the call went out",
            callers.perhaps
        ))
        .with("same_millisecond", callers.perhaps)
    }))
    .and(used.map(|us| {
        proc(format!("it used {} of processor time in {}", time(us), time(seen.window_us))).with("cpu_us", us)
    }))
    .rejected(Cause::CpuBusy, "it does not compute: its calls wait");
    finding.verdict.stage = stage;
    if itself {
        finding = finding.fix(
            "Do not call the own address from a handler: call the function instead. Where that cannot be, more workers than \
             calls of that kind, and a limit for the call.",
        );
    } else if loop_waits {
        finding = finding.fix(
            "Repair the peer. Here: no call that blocks on the loop; its asynchronous form, or a thread (run_in_executor, \
             spawn_blocking), with a limit for it.",
        );
    }
    Some(finding)
}

/// Whether a call to this process lies at the door: not accepted, or not read.
fn has_nobody_left(seen: &Observation, peer: &str) -> bool {
    let Ok(peer) = peer.parse::<SocketAddr>() else { return false };
    let sockets = seen.sockets.iter();
    let mut listeners = sockets.clone().flat_map(|sockets| &sockets.listeners);
    let mut tcp = sockets.flat_map(|sockets| &sockets.tcp);
    listeners.any(|listener| listener.local.port() == peer.port() && listener.queued_last > 0)
        || tcp.any(|socket| socket.inbound && socket.local.port() == peer.port() && socket.unread_bytes > 0)
}

/// Whether the process itself listens there.
fn is_own(seen: &Observation, peer: &str) -> bool {
    let Ok(peer) = peer.parse::<SocketAddr>() else { return false };
    let mut listeners = seen.sockets.iter().flat_map(|sockets| &sockets.listeners);
    listeners.any(|listener| {
        let (local, ip) = (listener.local, listener.local.ip().to_canonical());
        local.port() == peer.port() && (ip == peer.ip() || ip.is_unspecified() && peer.ip().is_loopback())
    })
}

/// Those who wait for an answer of this process, for all that is known. Not who asked to wait, or speaks a protocol in
/// which either side may have the last word; nor whom a thread does nothing but listen to, as it would not with an answer
/// to give.
pub(super) fn callers(seen: &Observation) -> Vec<&TcpSocket> {
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let owed: Vec<&TcpSocket> = sockets.filter(|socket| socket.inbound && owes_an_answer(socket)).collect();
    if owed.is_empty() {
        return owed;
    }
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let heard: HashSet<u64> = threads.filter_map(|thread| thread.blocked_in.as_ref()).flat_map(listens_alone).collect();
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let meant: HashSet<u64> =
        connections.filter(|connection| may_wait(connection)).map(|connection| connection.cookie).collect();
    owed.into_iter().filter(|it| !heard.contains(&it.cookie) && !meant.contains(&it.cookie)).collect()
}

/// The connections that a thread reads from, or waits for until it can, by a call that is given each of them. In an epoll
/// set a connection often stays while its request is worked on.
pub(super) fn listens_alone(blocked: &BlockedIn) -> impl Iterator<Item = u64> {
    let reads = blocked.call.contains("read") || blocked.call.contains("recv");
    let readable = |member: &&WaitsFor| !blocked.call.starts_with("epoll") && member.events & READABLE != 0;
    let polled = blocked.waits_for.iter().filter(readable).filter_map(|member| member.cookie);
    blocked.cookie.filter(|_| reads).into_iter().chain(polled)
}

/// Whether nobody is held up when nothing is answered on it.
pub(super) fn may_wait(connection: &Connection) -> bool {
    connection.http.as_ref().is_some_and(|http| http.asks_to_wait || http.is_switched())
        || connection.redis.as_deref().is_some_and(crate::observation::redis_waits)
}

/// Those who wait for an answer of this process while it waits for certain calls.
#[derive(Clone, Copy, Debug)]
struct Callers {
    surely: u64,
    /// Whose request came in the millisecond of the answer before it: they asked just before one of the calls went out.
    perhaps: u64,
}

impl Callers {
    /// `elsewhere`: those who are known to wait for other calls.
    fn of(seen: &Observation, calls: &[Trouble], elsewhere: &HashSet<u64>) -> Self {
        let sent_ms: BTreeSet<u32> = calls.iter().filter_map(|trouble| trouble.sent_ms).collect();
        let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
        let led = |caller: &&TcpSocket| sent_ms.iter().any(|sent_ms| led_to(seen, caller, *sent_ms));
        let perhaps = sockets.filter(led).count() as u64;
        // Calls that were made before anybody asked are made for nobody who waits.
        let none = !sent_ms.is_empty() && !sent_ms.iter().any(|sent_ms| is_asked_for(seen, *sent_ms));
        let surely = callers(seen).iter().filter(|caller| !elsewhere.contains(&caller.cookie)).count() as u64;
        Self { surely: if none { 0 } else { surely }, perhaps }
    }

    const fn all(self) -> u64 {
        self.surely.saturating_add(self.perhaps)
    }
}

/// Those who wait for an answer of this process, and asked just before one of these calls went out: it is made for them, for
/// all that is known.
fn led_by(seen: &Observation, calls: &[Trouble]) -> HashSet<u64> {
    let sent_ms: BTreeSet<u32> = calls.iter().filter_map(|trouble| trouble.sent_ms).collect();
    let asked = |caller: &&&TcpSocket| {
        caller.last.is_some_and(|tcp| sent_ms.iter().any(|sent_ms| is_just_before(tcp.last_data_recv_ms, *sent_ms)))
    };
    callers(seen).iter().filter(asked).map(|caller| caller.cookie).collect()
}

/// Whether what came so long ago came just before what was sent so long ago.
const fn is_just_before(came_ms: u32, sent_ms: u32) -> bool {
    came_ms.saturating_add(TICK_MS) >= sent_ms && came_ms <= sent_ms.saturating_add(HANDED_ON_MS)
}

/// Whether a caller, who may have given up by now, had asked when a call was sent, so long ago.
fn is_asked_for(seen: &Observation, sent_ms: u32) -> bool {
    let mut sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    sockets.any(|caller| {
        let tcp = caller.last.filter(|tcp| tcp.last_data_recv_ms.saturating_add(TICK_MS) >= sent_ms);
        caller.inbound
            && matches!(caller.state, TcpState::Established | TcpState::CloseWait)
            && tcp.is_some_and(|tcp| came_after(caller, &tcp))
    })
}

/// Whether a wait for an answer on that connection may be made for a caller: the process had the last word, a caller had
/// asked by then, and it asked for no wait.
pub(super) fn is_for_callers(seen: &Observation, cookie: u64) -> bool {
    let mut connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let meant = connections.any(|connection| connection.cookie == cookie && may_wait(connection));
    let mut sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let tcp = sockets.find(|socket| socket.cookie == cookie).and_then(|socket| Some((socket, socket.last?)));
    tcp.is_some_and(|(socket, tcp)| {
        let asks = tcp.bytes_received == Some(0) || waits::wrote_last(socket, &tcp);
        !meant && asks && !is_relayed(seen, socket) && is_asked_for(seen, tcp.last_data_sent_ms)
    })
}

/// Whether a connection of the process carries exactly what one of its clients says and hears: a tunnel, or a proxy.
fn is_relayed(seen: &Observation, socket: &TcpSocket) -> bool {
    let said = |socket: &TcpSocket| {
        let tcp = socket.last?;
        Some((tcp, tcp.bytes_received?, socket.acked(&tcp)?))
    };
    let near = |a: u32, b: u32| a.abs_diff(b) <= TICK_MS;
    let Some((ours, received, sent)) = said(socket) else { return false };
    let clients = seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(|client| client.inbound);
    sent > 0
        && clients.filter_map(said).any(|(client, asked, answered)| {
            (asked, answered) == (sent, received)
                && near(client.last_data_recv_ms, ours.last_data_sent_ms)
                && (received == 0 || near(client.last_data_sent_ms, ours.last_data_recv_ms))
        })
}

/// Whether a caller whose last request and last answer are of the same millisecond, so that nobody knows which came
/// later, asked just before a call that was sent so long ago: then it is the request, and the call is made for it.
pub(super) fn led_to(seen: &Observation, caller: &TcpSocket, sent_ms: u32) -> bool {
    let Some(tcp) = caller.last.filter(|_| caller.inbound && caller.state == TcpState::Established) else {
        return false;
    };
    let (asked_ms, answered_ms) = (tcp.last_data_recv_ms, tcp.last_data_sent_ms);
    // Who got an answer, and has nothing to say, acknowledges it some 40 ms later.
    let acknowledged = tcp.last_ack_recv_ms.saturating_add(TICK_MS) < asked_ms;
    is_just_before(asked_ms, sent_ms)
        && asked_ms == answered_ms
        && !acknowledged
        && !owes_an_answer(caller)
        && tcp.bytes_received.is_some_and(|bytes| bytes > 0)
        && u64::from(asked_ms) * 1_000 >= SETTLED_US
        && !is_answered(seen, caller.cookie)
}

/// Whether the last of a connection that was accepted is known to be our answer: a thread reads on, or the write was seen
/// to be later than the read.
fn is_answered(seen: &Observation, cookie: u64) -> bool {
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let reads = |blocked: &BlockedIn| listens_alone(blocked).any(|heard| heard == cookie);
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let mut same = connections.filter(|connection| connection.cookie == cookie);
    let wrote = |connection: &Connection| {
        let (wrote, read) = (connection.last_write.and_then(Moment::us), connection.last_read.and_then(Moment::us));
        wrote.zip(read).is_some_and(|(wrote, read)| wrote > read)
    };
    threads.filter_map(|thread| thread.blocked_in.as_ref()).any(reads) || same.any(wrote)
}

/// Why something may be no fault, for a reader.
struct Doubt {
    why: &'static str,
    fix: &'static str,
    instead: &'static str,
}

impl Meant {
    const fn doubt(self) -> Doubt {
        const FOR_IT: &str = "possible: the wait may be what the connection is for, and then no fault at all";
        const NEWS: &str = "A subscriber, a long poll and a worker that waits for its next job look like this and are well. If \
                            somebody does wait for this answer, look at the server.";
        match self {
            Self::OwnDecision => Doubt {
                why: "whom it trusts, and what it speaks, is this process's own decision",
                fix: "If it should get on with this peer: `openssl s_client -connect HOST:PORT -servername NAME -showcerts` \
                      shows the chain, and the process's own log why it refused.",
                instead: "possible: it may refuse whom it should",
            },
            Self::OwnAffair => Doubt {
                why: "it holds up its own answer, and other callers of this process are served",
                fix: "A player that is paused looks like this and is well. What waits for it takes memory: set a limit to the \
                      time that a client may take nothing (nginx: send_timeout).",
                instead: "possible: the client may want no more for now, and then it is no fault at all",
            },
            Self::OwnPace => Doubt {
                why: "it has read before, no caller of it waits, and its loop turns and does not ask for more",
                fix: "A player that has enough for now and a download with a limit to its rate look like this and are well. If \
                      it should read on: look for what pauses it, a sink that takes no more perhaps.",
                instead: "possible: it may want no more for now, and then it is no fault at all",
            },
            Self::OneOfMany => Doubt {
                why: "it asks for other names meanwhile, and nearly all of them are answered",
                fix: "A resolver and a crawler meet dead names and servers, and are well. If that name should be found, ask \
                      for it: `dig @SERVER NAME`.",
                instead: "possible: the name or its server may be dead for everybody, and then it is no fault here",
            },
            Self::NoIsAnswer => Doubt {
                why: "no is an answer, too, where somebody asks whether there is one",
                fix: "Mail filters that ask lists of senders, logs that look for names of addresses, and programs that ask for \
                      one kind of address first look like this and are well. If there should be one: `dig @SERVER NAME TYPE`.",
                instead: "possible: the answer may be the right one, and then it is no fault at all",
            },
            Self::Whole => Doubt {
                why: "an answer had come, nothing was asked since, and whether it was whole cannot be told of this protocol",
                fix: "Servers that end idle connections so are well. If calls fail, look at the server: why it resets what it \
                      has begun to answer.",
                instead: "possible: each call may have had its answer, and then it is no fault at all",
            },
            Self::Quiet => Doubt {
                why: "nothing was sent on it either, so the peer may have nothing to say",
                fix: "A feed without news looks like this and is well. If the peer should speak first, as servers of SSH, SMTP \
                      and MySQL do, look at it.",
                instead: FOR_IT,
            },
            Self::Relayed => Doubt {
                why: "it carries what a client of this process says, byte by byte, and a WebSocket or a tunnel may be silent",
                fix: "If that client does wait for an answer, look at the server behind this process.",
                instead: FOR_IT,
            },
            Self::Unseen => Doubt {
                why: "what was sent may ask for nothing",
                fix: "Logs and metrics are sent like this, without an answer, and are well. If somebody does wait for an \
                      answer on this connection, look at the server.",
                instead: FOR_IT,
            },
            Self::Called => Doubt {
                why: "the callers of this process that wait asked just before other calls went out",
                fix: NEWS,
                instead: FOR_IT,
            },
            Self::Asked => Doubt {
                why: "no caller of this process is known to wait for it, and the request itself asks to wait",
                fix: NEWS,
                instead: FOR_IT,
            },
            Self::Events => Doubt {
                why: "its head says that it is a stream of events (text/event-stream), which come when there are some",
                fix: "A stream without news looks like this and is well. If there is news that does not come, look at the server.",
                instead: FOR_IT,
            },
            Self::No | Self::Request | Self::Perhaps => Doubt {
                why: "no caller of this process is known to wait for it, and the peer has answered before",
                fix: NEWS,
                instead: FOR_IT,
            },
        }
    }
}

impl Finding {
    /// As a remark: it may be a fault, and may be what the connection is for.
    fn maybe_meant(mut self, meant: Meant) -> Self {
        self.advisory = true;
        self.verdict.confidence = Confidence::Low;
        let Doubt { why, fix, instead } = meant.doubt();
        self.verdict.evidence.push(diag(format!("nothing shows that anybody is held up by it: {why}")));
        self.verdict.rejected.clear();
        self.fix(fix).rejected(Cause::Unknown, instead)
    }
}

/// Whether it is the peer's answer that is waited for.
fn worst_waits_for_peer(finding: &Finding) -> bool {
    matches!(
        finding.verdict.cause,
        Cause::ServerSlow | Cause::HeadStalled | Cause::BodyStalled | Cause::BodySlow | Cause::TlsPeerSilent
    )
}

/// Whether the process had the last word on it.
pub(super) fn wrote_last(socket: &TcpSocket) -> bool {
    socket.last.is_some_and(|tcp| waits::wrote_last(socket, &tcp))
}

/// Whether something came after the last that was sent, a while ago.
pub(super) fn owes_an_answer(socket: &TcpSocket) -> bool {
    let waits = |tcp: TcpInfo| came_after(socket, &tcp) && u64::from(tcp.last_data_recv_ms) * 1_000 >= SETTLED_US;
    socket.state == TcpState::Established && socket.last.is_some_and(waits)
}

/// Whether something came after the last that was sent.
fn came_after(socket: &TcpSocket, tcp: &TcpInfo) -> bool {
    // Where nothing was ever sent, the time of the last byte is that of the connection, and a request may come at once.
    let silent = socket.acked(tcp) == Some(0);
    let came_after = match tcp.last_data_recv_ms.cmp(&tcp.last_data_sent_ms) {
        Ordering::Less => true,
        Ordering::Equal => silent,
        Ordering::Greater => false,
    };
    tcp.bytes_received.is_some_and(|bytes| bytes > 0) && came_after
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
fn diagnose(seen: &Observation, known: &Known<'_>) -> Vec<Trouble> {
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

fn worst(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
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
        Self { peer, verdict, stalled_us, waits: true, ended, inbound, sent_ms, span, unseen, meant: Meant::No }
    }
}
