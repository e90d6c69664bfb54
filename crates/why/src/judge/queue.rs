//! Callers that wait inside the process for one of few: a connection of a pool, a place of a server's `maxconn`, a thread.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, bpf,
    calls::{callers, may_wait},
    count, diag,
    pools::waits_for_a_thread,
    share,
    threads::runtime_blocked,
    thresholds::{ALWAYS, BUSY, CROWD, MOST, MOSTLY, PILE, SETTLED_US},
    time, total,
};
use crate::{
    Observation,
    observation::{Connection, Moment, Side, TcpSocket},
};

/// Callers wait long, and were answered late, while few connections to one peer are in use all the time, each call for a
/// short time only. Nothing ties the ones to the others: a fetch in the background that is always under way looks the same
/// beside callers who wait for a lock. So it is a remark.
pub(super) fn waits_for_few(seen: &Observation) -> Vec<Finding> {
    // Who waits for a thread is told of by another rule, and that is more.
    if may_be_late(seen)
        || waits_for_a_thread(seen).is_some_and(|it| !it.advisory)
        || runtime_blocked(seen).iter().any(|finding| !finding.advisory)
    {
        return Vec::new();
    }
    let waiting = waiting(seen);
    let longest_us = waiting.iter().filter_map(|socket| Some(u64::from(socket.last?.last_data_recv_ms) * 1_000)).max();
    let (Some(longest_us), Some(few)) = (longest_us, Few::of(seen)) else { return Vec::new() };
    let callers = waiting.len() as u64;
    let (answered, late) = answered(seen);
    // A single call at a time that is made less often than callers are answered is not made for each of them.
    let may_be_theirs = few.at_once >= 2 || few.calls >= answered;
    // Who waits for news was not answered late.
    let is_queue = callers >= CROWD
        && callers > few.at_once.saturating_mul(2)
        && longest_us > few.mean_us().saturating_mul(2)
        && answered >= PILE as u64
        && share(late, answered) >= MOST.0
        && may_be_theirs;
    if !is_queue {
        return Vec::new();
    }
    let Few { peer, at_once, calls, .. } = &few;
    let each = time(few.mean_us());
    let under_way = count(*at_once, "call");
    let finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Waiting,
        Confidence::Low,
        format!(
            "{callers} callers of this process wait, the longest for {}; possible: for one of few places, as never more than \
             {under_way} at a time, and always so many, go out to {peer}, which answers each in {each} on the average",
            time(longest_us)
        ),
    )
    .because(
        bpf(format!(
            "{calls} answers of {peer}, {each} each, {under_way} at a time, under way for \
             {:.0} % of the time",
            few.busy(seen) * 100.0
        ))
        .with("calls", *calls)
        .with("at_once", *at_once)
        .with("each_us", few.mean_us()),
    )
    .because(
        diag(format!("{callers} accepted connections with a request and no answer for more than {}", time(SETTLED_US)))
            .with("callers", callers)
            .with("longest_us", longest_us),
    )
    .because(
        bpf(format!("of {answered} that were answered, {late} had waited for {} or more", time(SETTLED_US)))
            .with("answered", answered)
            .with("late", late),
    )
    .rejected(Cause::ServerSlow, format!("{peer} answers each call in {each}; who waits for longer has not been sent on"))
    .rejected(Cause::Unknown, "possible: that these calls are made for those callers was not seen; a lock of this process beside a fetch in the \
         background looks the same")
    .fix(
        "If these calls are made for those callers: allow more calls at a time, if the peer can take them (the size of the pool, haproxy: maxconn of the server, the \
         number of workers); if not, let fewer callers wait, and for a short time only (haproxy: timeout queue).",
    );
    vec![Finding { advisory: true, ..finding }]
}

/// Callers who wait and are there. Of whom the last answer and the request are of one tick, as where he asks again at once, the
/// reads and writes tell which was later.
fn waiting(seen: &Observation) -> Vec<&TcpSocket> {
    let is_there = |socket: &TcpSocket| seen.window_us.saturating_sub(socket.last_seen_us) < SETTLED_US;
    let callers = callers(seen).into_iter().filter(|socket| is_there(socket));
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let asked = connections.filter(|it| {
        it.closed.is_none() && it.last_read.and_then(Moment::us) > it.last_write.and_then(Moment::us) && !may_wait(it)
    });
    let asked: HashSet<u64> = asked.map(|it| it.cookie).collect();
    let in_a_tick = |socket: &&TcpSocket| {
        let Some(tcp) = socket.last.filter(|_| socket.inbound && is_there(socket)) else { return false };
        tcp.last_data_recv_ms == tcp.last_data_sent_ms
            && socket.acked(&tcp).is_some_and(|bytes| bytes > 0)
            && u64::from(tcp.last_data_recv_ms) * 1_000 >= SETTLED_US
            && asked.contains(&socket.cookie)
    };
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    callers.chain(sockets.filter(in_a_tick)).collect()
}

/// Whether a thread computes for most of the time: a loop that is late for that reads its answers late, too. How much all
/// threads use together says nothing of any, unless they use all processors that there are.
fn may_be_late(seen: &Observation) -> bool {
    let Some(cpu) = &seen.cpu else { return true };
    let threads = seen.threads.as_ref().filter(|threads| threads.left_out == 0 && !threads.threads.is_empty());
    let most = |used_us: u64| share(used_us, seen.window_us) >= MOST.0;
    match threads {
        Some(threads) => {
            let all = cpu.processors * seen.window_us as f64;
            threads.threads.iter().any(|thread| most(thread.cpu_us)) || cpu.used_us() as f64 >= BUSY * all
        }
        None => most(cpu.used_us()),
    }
}

/// Calls to one peer, of which no more go out at a time.
struct Few {
    peer: String,
    /// Connections in use at the same time.
    at_once: u64,
    calls: u64,
    waited_us: u64,
}

impl Few {
    /// The peer for which most time was waited, where its connections are always in use.
    fn of(seen: &Observation) -> Option<Self> {
        let connections = seen.connections.as_ref().filter(|it| it.untold == 0 && it.unfollowed == 0)?;
        let mut peers: Vec<(String, Vec<&Connection>)> = Vec::new();
        for connection in connections.connections.iter().filter(|it| it.side != Side::Server && it.turns > 0) {
            let Some(peer) = connection.remote.map(|remote| remote.to_string()) else { continue };
            match peers.iter_mut().find(|(of, _)| *of == peer) {
                Some((_, group)) => group.push(connection),
                None => peers.push((peer, vec![connection])),
            }
        }
        let few = peers.into_iter().filter_map(|(peer, group)| {
            Some(Self {
                peer,
                at_once: at_once(&group, seen.window_us)?,
                calls: total(group.iter().map(|it| u64::from(it.turns))),
                waited_us: total(group.iter().map(|it| it.read_gaps.total_us)),
            })
        });
        // A larger group that has room may be beside one that is full.
        let is_full = |few: &Self| few.calls >= PILE as u64 && few.busy(seen) >= MOSTLY && few.mean_us() < SETTLED_US;
        few.filter(is_full).max_by_key(|few| few.waited_us)
    }

    fn busy(&self, seen: &Observation) -> f64 {
        share(self.waited_us, self.at_once.saturating_mul(seen.window_us))
    }

    fn mean_us(&self) -> u64 {
        self.waited_us.checked_div(self.calls).unwrap_or(0)
    }
}

/// How many were in use nearly always: one that is opened in the place of another may overlap with it. `None` where the
/// number changes, as it does when nothing bounds it.
fn at_once(connections: &[&Connection], window_us: u64) -> Option<u64> {
    // One that was used once, and lies idle since, is in use no more.
    let end = |it: &Connection| {
        if it.turns == 1 { it.last_read.and_then(Moment::us) } else { it.closed.and_then(Moment::us) }
    };
    let begins = connections.iter().map(|it| (it.opened.and_then(Moment::us).unwrap_or(0), 1));
    let ends = connections.iter().map(|it| (end(it).unwrap_or(window_us), -1));
    let mut changes: Vec<(u64, i64)> = begins.chain(ends).chain([(window_us, 0)]).collect();
    changes.sort_unstable();
    let mut times: HashMap<i64, u64> = HashMap::new();
    let (mut open, mut since) = (0, 0);
    for (us, change) in changes {
        *times.entry(open).or_default() += us.saturating_sub(since);
        (open, since) = (open + change, us);
    }
    let (number, us) = times.into_iter().max_by_key(|(number, us)| (*us, *number))?;
    (number > 0 && share(us, window_us) >= ALWAYS).then_some(number.unsigned_abs())
}

/// Callers that were answered, and those of them that had waited for long, as far as that was seen. Not who asked to wait.
fn answered(seen: &Observation) -> (u64, u64) {
    let accepted = seen.connections.iter().flat_map(|connections| &connections.connections);
    let answered = accepted.filter(|it| it.side == Side::Server && it.written_bytes > 0 && !may_wait(it));
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let sockets: HashMap<u64, &TcpSocket> = sockets.map(|socket| (socket.cookie, socket)).collect();
    answered.fold((0, 0), |(answered, late), it| {
        let asked = it.first_read.or(it.last_read);
        let wrote = it.first_write.and_then(Moment::us).unwrap_or(0);
        let waited = match sockets.get(&it.cookie).and_then(|socket| asked_before(socket, it)) {
            // When the first of several answers was written is not known any more.
            Some(before) => before.saturating_add(if it.turns <= 1 { wrote } else { 0 }),
            // Of a request from before the watch, the wait since then is known.
            None if asked.is_none() && it.opened == Some(Moment::Before) => wrote,
            None => 0,
        };
        let waited = waited.max(it.write_gaps.longest_us);
        (answered + 1, late + u64::from(waited >= SETTLED_US))
    })
}

/// For how long a request had waited for its answer when the watch began. Its caller may ask for more at once when that has
/// come, so that what was read and written since does not tell.
fn asked_before(socket: &TcpSocket, connection: &Connection) -> Option<u64> {
    let tcp = socket.first.filter(|_| socket.inbound && socket.since_before)?;
    let silent = socket.acked(&tcp) == Some(0);
    // Of the same tick as the answer before it: the next thing that was seen is an answer, and no request.
    let is_due = connection.turns <= 1
        && connection
            .first_write
            .and_then(Moment::us)
            .is_some_and(|wrote| connection.first_read.and_then(Moment::us) > Some(wrote));
    let asked = match tcp.last_data_recv_ms.cmp(&tcp.last_data_sent_ms) {
        Ordering::Less => true,
        Ordering::Equal => silent || is_due,
        Ordering::Greater => false,
    };
    (asked && tcp.bytes_received? > 0).then(|| u64::from(tcp.last_data_recv_ms) * 1_000)
}
