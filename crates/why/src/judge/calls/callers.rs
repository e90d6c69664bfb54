//! Who waits for an answer of this process, and for which of its calls.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    ops::Deref,
};

use overdue_core::facts::{TcpInfo, TcpState};

use super::{READABLE, Trouble, before, waits};
use crate::{
    Observation,
    judge::{
        threads::peers_of_loops,
        thresholds::{HANDED_ON_MS, SETTLED_US, TICK_MS},
    },
    observation::{BlockedIn, Connection, Moment, TcpSocket, WaitsFor, redis_waits},
};

/// Those who wait for an answer of this process, for all that is known. Not who asked to wait, or speaks a protocol in
/// which either side may have the last word; nor whom a thread does nothing but listen to, as it would not with an answer
/// to give.
pub(in crate::judge) fn callers(seen: &Observation) -> Vec<&TcpSocket> {
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
pub(in crate::judge) fn listens_alone(blocked: &BlockedIn) -> impl Iterator<Item = u64> {
    let reads = blocked.call.contains("read") || blocked.call.contains("recv");
    let readable = |member: &&WaitsFor| !blocked.call.starts_with("epoll") && member.events & READABLE != 0;
    let polled = blocked.waits_for.iter().filter(readable).filter_map(|member| member.cookie);
    blocked.cookie.filter(|_| reads).into_iter().chain(polled)
}

/// Whether nobody is held up when nothing is answered on it.
pub(in crate::judge) fn may_wait(connection: &Connection) -> bool {
    connection.http.as_ref().is_some_and(|http| http.asks_to_wait || http.is_switched())
        || connection.redis.as_deref().is_some_and(redis_waits)
}

/// Those who wait for an answer of this process while it waits for certain calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Callers {
    pub(super) surely: u64,
    /// Whose request came in the millisecond of the answer before it: they asked just before one of the calls went out.
    pub(super) perhaps: u64,
}

impl Callers {
    /// `elsewhere`: how many are known to wait for other calls.
    pub(super) fn of(seen: &Seen<'_>, calls: &[Trouble], elsewhere: usize) -> Self {
        let sent_ms: BTreeSet<u32> = calls.iter().filter_map(|trouble| trouble.sent_ms).collect();
        let led = |asked_ms: &&u32| led_to_one_of(**asked_ms, &sent_ms);
        let perhaps = seen.perhaps_ms.iter().filter(led).count() as u64;
        // Calls that were made before anybody asked are made for nobody who waits.
        let none = !sent_ms.is_empty() && !sent_ms.iter().any(|sent_ms| seen.is_asked_for(*sent_ms));
        let surely = seen.callers.len().saturating_sub(elsewhere) as u64;
        Self { surely: if none { 0 } else { surely }, perhaps }
    }

    pub(super) const fn all(self) -> u64 {
        self.surely.saturating_add(self.perhaps)
    }
}

/// Those who wait for an answer of this process, and asked just before one of these calls went out: it is made for them, for
/// all that is known.
pub(super) fn led_by(seen: &Seen<'_>, calls: &[Trouble]) -> HashSet<u64> {
    let sent_ms: BTreeSet<u32> = calls.iter().filter_map(|trouble| trouble.sent_ms).collect();
    let asked = |caller: &&&TcpSocket| caller.last.is_some_and(|tcp| led_to_one_of(tcp.last_data_recv_ms, &sent_ms));
    seen.callers.iter().filter(asked).map(|caller| caller.cookie).collect()
}

/// Whether what came so long ago came just before one of those that were sent so long ago.
fn led_to_one_of(came_ms: u32, sent_ms: &BTreeSet<u32>) -> bool {
    sent_ms.range(came_ms.saturating_sub(HANDED_ON_MS)..=came_ms.saturating_add(TICK_MS)).next().is_some()
}

/// An observation, and what is asked of it again for each of its connections.
pub(super) struct Seen<'a> {
    observation: &'a Observation,
    /// Who waits for an answer of this process.
    pub(super) callers: Vec<&'a TcpSocket>,
    /// How long ago they asked, in order.
    asked_ms: Vec<u32>,
    /// The same of those whose last request and last answer are of the same millisecond, so that nobody knows which came
    /// later: if a call was sent just then, it is the request.
    perhaps_ms: Vec<u32>,
    /// How long ago the first asked of all who were not answered; some may have given up by now.
    first_asked_ms: Option<u32>,
    /// What clients said and heard, in bytes, and how long ago, in order.
    clients: HashMap<(u64, u64), Vec<(u32, u32)>>,
    /// The two connections to each peer on which an answer came last: how long ago, and which.
    answers: HashMap<SocketAddr, Vec<(u32, u64)>>,
    /// The peers that an event loop waits for in a call that blocks it.
    loops: HashSet<String>,
    /// Whether each call of before the watch that has no answer is waited for: in a TLS handshake, and for the answer.
    pub(super) all_shake_hands: bool,
    pub(super) all_wait_for_answers: bool,
}

impl Deref for Seen<'_> {
    type Target = Observation;

    fn deref(&self) -> &Observation {
        self.observation
    }
}

impl<'a> Seen<'a> {
    pub(super) fn of(observation: &'a Observation) -> Self {
        let sockets = || observation.sockets.iter().flat_map(|sockets| &sockets.tcp);
        let callers = callers(observation);
        let mut asked_ms: Vec<u32> = callers.iter().filter_map(|caller| Some(caller.last?.last_data_recv_ms)).collect();
        let answered = answered(observation);
        let mut perhaps_ms: Vec<u32> = sockets().filter_map(|caller| asked_perhaps(caller, &answered)).collect();
        let first_asked_ms = sockets().filter_map(asked_and_there).max();
        let mut clients: HashMap<(u64, u64), Vec<(u32, u32)>> = HashMap::new();
        let mut answers: HashMap<SocketAddr, Vec<(u32, u64)>> = HashMap::new();
        for socket in sockets() {
            let Some(tcp) = socket.last else { continue };
            if let (true, Some(bytes)) = (socket.inbound, said(socket, &tcp)) {
                clients.entry(bytes).or_default().push((tcp.last_data_recv_ms, tcp.last_data_sent_ms));
            }
            let has_last_word = tcp.last_data_recv_ms < tcp.last_data_sent_ms.saturating_add(TICK_MS);
            if tcp.bytes_received > Some(0) && has_last_word {
                let last = answers.entry(socket.remote).or_default();
                last.push((tcp.last_data_recv_ms, socket.cookie));
                last.sort_unstable();
                last.truncate(2);
            }
        }
        clients.values_mut().for_each(|said| said.sort_unstable());
        asked_ms.sort_unstable();
        perhaps_ms.sort_unstable();
        Self {
            observation,
            callers,
            asked_ms,
            perhaps_ms,
            first_asked_ms,
            clients,
            answers,
            loops: peers_of_loops(observation).collect(),
            all_shake_hands: before::all_shake_hands(observation),
            all_wait_for_answers: before::all_wait_for_answers(observation),
        }
    }

    /// How many callers had asked when a call was sent, so long ago, or seem to have asked just then.
    pub(super) fn had_asked(&self, sent_ms: u32) -> usize {
        let before = self.asked_ms.len() - self.asked_ms.partition_point(|asked_ms| *asked_ms < sent_ms);
        before + just_before(&self.perhaps_ms, sent_ms)
    }

    /// Whether a call went out just when a caller had asked, who waits since.
    pub(super) fn is_handed_on(&self, sent_ms: u32) -> bool {
        just_before(&self.asked_ms, sent_ms) + just_before(&self.perhaps_ms, sent_ms) > 0
    }

    /// Whether a caller, who may have given up by now, had asked when a call was sent, so long ago.
    fn is_asked_for(&self, sent_ms: u32) -> bool {
        self.first_asked_ms.is_some_and(|asked_ms| asked_ms.saturating_add(TICK_MS) >= sent_ms)
    }

    /// Whether a connection of the process carries exactly what one of its clients says and hears: a tunnel, or a proxy.
    pub(super) fn is_relayed(&self, socket: &TcpSocket) -> bool {
        let Some((ours, (received, sent))) = socket.last.and_then(|tcp| Some((tcp, said(socket, &tcp)?))) else {
            return false;
        };
        let Some(clients) = self.clients.get(&(sent, received)).filter(|_| sent > 0) else { return false };
        let first = clients.partition_point(|(recv_ms, _)| recv_ms.saturating_add(TICK_MS) < ours.last_data_sent_ms);
        let near = clients.iter().skip(first);
        let mut near = near.take_while(|(recv_ms, _)| *recv_ms <= ours.last_data_sent_ms.saturating_add(TICK_MS));
        near.any(|(_, sent_ms)| received == 0 || sent_ms.abs_diff(ours.last_data_recv_ms) <= TICK_MS)
    }

    /// Whether the peer of a connection has answered on another one since it was asked on this.
    pub(super) fn answers_others(&self, socket: &TcpSocket) -> bool {
        let Some(asked) = socket.last else { return false };
        let later = |(recv_ms, cookie): &(u32, u64)| *cookie != socket.cookie && *recv_ms < asked.last_data_sent_ms;
        self.answers.get(&socket.remote).is_some_and(|last| last.iter().any(later))
    }

    /// Whether an event loop sits in a call to that peer, and all that it serves waits meanwhile.
    pub(super) fn loop_waits_for(&self, peer: &str) -> bool {
        self.loops.contains(peer)
    }
}

/// How many of these came just before what was sent so long ago.
fn just_before(came_ms: &[u32], sent_ms: u32) -> usize {
    let from = came_ms.partition_point(|came_ms| came_ms.saturating_add(TICK_MS) < sent_ms);
    came_ms.partition_point(|came_ms| *came_ms <= sent_ms.saturating_add(HANDED_ON_MS)).saturating_sub(from)
}

/// Bytes that came on a connection, and that went out and arrived.
fn said(socket: &TcpSocket, tcp: &TcpInfo) -> Option<(u64, u64)> {
    Some((tcp.bytes_received?, socket.acked(tcp)?))
}

/// How long ago a caller asked who is there, and was not answered.
fn asked_and_there(caller: &TcpSocket) -> Option<u32> {
    let is_open = matches!(caller.state, TcpState::Established | TcpState::CloseWait);
    let tcp = caller.last.filter(|tcp| caller.inbound && is_open && came_after(caller, tcp))?;
    Some(tcp.last_data_recv_ms)
}

/// Whether a wait for an answer on that connection may be made for a caller: the process had the last word, a caller had
/// asked by then, and it asked for no wait.
pub(in crate::judge) fn is_for_callers(seen: &Observation, cookie: u64) -> bool {
    let seen = Seen::of(seen);
    let mut connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let meant = connections.any(|connection| connection.cookie == cookie && may_wait(connection));
    let mut sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let tcp = sockets.find(|socket| socket.cookie == cookie).and_then(|socket| Some((socket, socket.last?)));
    tcp.is_some_and(|(socket, tcp)| {
        let asks = tcp.bytes_received == Some(0) || waits::wrote_last(socket, &tcp);
        !meant && asks && !seen.is_relayed(socket) && seen.is_asked_for(tcp.last_data_sent_ms)
    })
}

/// How long ago a caller asked, for all that is known, whose last request and last answer are of the same millisecond.
fn asked_perhaps(caller: &TcpSocket, answered: &HashSet<u64>) -> Option<u32> {
    let tcp = caller.last.filter(|_| caller.inbound && caller.state == TcpState::Established)?;
    let (asked_ms, answered_ms) = (tcp.last_data_recv_ms, tcp.last_data_sent_ms);
    // Who got an answer, and has nothing to say, acknowledges it some 40 ms later.
    let acknowledged = tcp.last_ack_recv_ms.saturating_add(TICK_MS) < asked_ms;
    let may_wait = asked_ms == answered_ms
        && !acknowledged
        && !owes_an_answer(caller)
        && tcp.bytes_received.is_some_and(|bytes| bytes > 0)
        && u64::from(asked_ms) * 1_000 >= SETTLED_US
        && !answered.contains(&caller.cookie);
    may_wait.then_some(asked_ms)
}

/// Connections of which the last is known to be our answer: a thread reads on, or the write was seen to be later than the
/// read.
fn answered(seen: &Observation) -> HashSet<u64> {
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let heard = threads.filter_map(|thread| thread.blocked_in.as_ref()).flat_map(listens_alone);
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let wrote = |connection: &&Connection| {
        let (wrote, read) = (connection.last_write.and_then(Moment::us), connection.last_read.and_then(Moment::us));
        wrote.zip(read).is_some_and(|(wrote, read)| wrote > read)
    };
    heard.chain(connections.filter(wrote).map(|connection| connection.cookie)).collect()
}

/// Whether the process had the last word on it.
pub(in crate::judge) fn wrote_last(socket: &TcpSocket) -> bool {
    socket.last.is_some_and(|tcp| waits::wrote_last(socket, &tcp))
}

/// Whether something came after the last that was sent, a while ago.
pub(in crate::judge) fn owes_an_answer(socket: &TcpSocket) -> bool {
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
