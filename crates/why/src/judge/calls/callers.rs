//! Who waits for an answer of this process, and for which of its calls.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashSet},
};

use overdue_core::facts::{TcpInfo, TcpState};

use super::{READABLE, Trouble, waits};
use crate::{
    Observation,
    judge::thresholds::{HANDED_ON_MS, SETTLED_US, TICK_MS},
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
    /// `elsewhere`: those who are known to wait for other calls.
    pub(super) fn of(seen: &Observation, calls: &[Trouble], elsewhere: &HashSet<u64>) -> Self {
        let sent_ms: BTreeSet<u32> = calls.iter().filter_map(|trouble| trouble.sent_ms).collect();
        let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
        let led = |caller: &&TcpSocket| sent_ms.iter().any(|sent_ms| led_to(seen, caller, *sent_ms));
        let perhaps = sockets.filter(led).count() as u64;
        // Calls that were made before anybody asked are made for nobody who waits.
        let none = !sent_ms.is_empty() && !sent_ms.iter().any(|sent_ms| is_asked_for(seen, *sent_ms));
        let surely = callers(seen).iter().filter(|caller| !elsewhere.contains(&caller.cookie)).count() as u64;
        Self { surely: if none { 0 } else { surely }, perhaps }
    }

    pub(super) const fn all(self) -> u64 {
        self.surely.saturating_add(self.perhaps)
    }
}

/// Those who wait for an answer of this process, and asked just before one of these calls went out: it is made for them, for
/// all that is known.
pub(super) fn led_by(seen: &Observation, calls: &[Trouble]) -> HashSet<u64> {
    let sent_ms: BTreeSet<u32> = calls.iter().filter_map(|trouble| trouble.sent_ms).collect();
    let asked = |caller: &&&TcpSocket| {
        caller.last.is_some_and(|tcp| sent_ms.iter().any(|sent_ms| is_just_before(tcp.last_data_recv_ms, *sent_ms)))
    };
    callers(seen).iter().filter(asked).map(|caller| caller.cookie).collect()
}

/// Whether what came so long ago came just before what was sent so long ago.
pub(super) const fn is_just_before(came_ms: u32, sent_ms: u32) -> bool {
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
pub(in crate::judge) fn is_for_callers(seen: &Observation, cookie: u64) -> bool {
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
pub(super) fn is_relayed(seen: &Observation, socket: &TcpSocket) -> bool {
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
pub(in crate::judge) fn led_to(seen: &Observation, caller: &TcpSocket, sent_ms: u32) -> bool {
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
