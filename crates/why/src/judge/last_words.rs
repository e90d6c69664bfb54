//! Who spoke last on a connection, a while ago. No rule makes a verdict of that alone: what hangs looks like this, and so
//! does what rests.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use overdue_core::facts::TcpState;
use serde::Serialize;

use super::{
    calls, count, place,
    sockets::{is_there, peer_of},
    thresholds::{ALWAYS, SETTLED_US},
    time,
    unanswered::limited_threads,
};
use crate::{
    Observation,
    observation::{BlockedIn, Connection, TcpSocket, Thread},
};

/// Who had the last word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// Clients of the process: each waits for an answer, or has said all.
    Clients,
    /// The process, to whom it connected: it waits for an answer, or has said all.
    Itself,
    /// Whom it connected to, and a thread waits for more of it.
    Servers,
    /// The same, where the head of the answer says that it is a stream of events.
    Events,
}

/// Connections on which the same side had the last word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LastWords {
    /// Who said it.
    pub by: Speaker,
    /// On how many connections.
    pub connections: u64,
    /// How long ago it was on the first of them, in microseconds.
    pub longest_us: u64,
    /// The other end of that one.
    pub peer: String,
    /// Where threads are meanwhile that may work for the clients, and listen to none: asleep, waiting for a child, or with a
    /// limit for something in the program.
    pub asleep: Option<Asleep>,
}

/// Threads in a call that time, a child or another thread ends, a second or longer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Asleep {
    /// The call.
    pub call: String,
    /// How many.
    pub threads: u64,
    /// For how long the first of them, in microseconds, as far as it was watched.
    pub longest_us: u64,
    /// The functions that led there, the innermost first, where they could be read.
    pub at: Option<String>,
}

/// By whom, a second or longer ago.
#[must_use]
pub fn last_words(seen: &Observation) -> Vec<LastWords> {
    let ours = || {
        seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(|socket| is_quiet(socket) && is_there(seen, socket))
    };
    let recv_ms = |socket: &TcpSocket| socket.last.map_or(0, |tcp| tcp.last_data_recv_ms);
    let sent_ms = |socket: &TcpSocket| socket.last.map_or(0, |tcp| tcp.last_data_sent_ms);
    let connections = || seen.connections.iter().flat_map(|connections| &connections.connections);
    let meant: HashSet<u64> = connections().filter(|it| calls::may_wait(it)).map(|it| it.cookie).collect();
    let is_events = |it: &&Connection| it.http.as_ref().is_some_and(|http| http.is_events);
    let events: HashSet<u64> = connections().filter(is_events).map(|it| it.cookie).collect();
    let heard: HashSet<u64> = seen.threads.iter().flat_map(|threads| &threads.threads).flat_map(listens).collect();
    let clients = calls::callers(seen)
        .into_iter()
        .filter(|client| is_there(seen, client))
        .map(|client| (client, recv_ms(client)))
        .collect();
    let itself = ours().filter(|socket| !meant.contains(&socket.cookie) && calls::wrote_last(socket));
    let servers = ours().filter(|socket| heard.contains(&socket.cookie) && !calls::wrote_last(socket));
    let (events, servers): (Vec<_>, Vec<_>) =
        servers.map(|socket| (socket, recv_ms(socket))).partition(|(socket, _)| events.contains(&socket.cookie));
    [
        (Speaker::Clients, clients),
        (Speaker::Itself, itself.map(|socket| (socket, sent_ms(socket))).collect()),
        (Speaker::Servers, servers),
        (Speaker::Events, events),
    ]
    .into_iter()
    .filter_map(|(by, said)| {
        let words = LastWords::of(by, said)?;
        Some(LastWords { asleep: asleep(seen).filter(|_| by == Speaker::Clients), ..words })
    })
    .collect()
}

/// Where most of the threads are that sleep, or wait for a child, or with a limit.
fn asleep(seen: &Observation) -> Option<Asleep> {
    const CALLS: [&str; 4] = ["nanosleep", "clock_nanosleep", "wait4", "waitid"];
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let mut calls: BTreeMap<&str, Vec<&Thread>> = BTreeMap::new();
    for thread in threads.filter(|thread| thread.blocked_us >= SETTLED_US) {
        let call = thread.blocked_in.as_ref().map(|blocked| blocked.call.as_str());
        if let Some(call) = call.filter(|call| CALLS.contains(call)) {
            calls.entry(call).or_default().push(thread);
        }
    }
    let limited = limited_threads(seen, SETTLED_US);
    if !limited.is_empty() {
        calls.insert("futex", limited);
    }
    let (call, threads) = calls.into_iter().max_by_key(|(_, threads)| threads.len())?;
    let first = threads.iter().max_by_key(|thread| thread.blocked_us)?;
    Some(Asleep {
        call: call.to_owned(),
        threads: threads.len() as u64,
        longest_us: first.blocked_us,
        at: first.stack.as_ref().and_then(place),
    })
}

/// Whether it is a connection of the process on which something came once, and nothing is on its way.
fn is_quiet(socket: &TcpSocket) -> bool {
    !socket.inbound
        && socket.state == TcpState::Established
        && socket.unread_bytes == 0
        && socket.unsent_bytes == 0
        && socket.last.and_then(|tcp| tcp.bytes_received).is_some_and(|bytes| bytes > 0)
}

/// The connections that a thread waits for, by one long call or by short ones again and again.
fn listens(thread: &Thread) -> Vec<u64> {
    let waits = |blocked: &&BlockedIn| {
        let looks = thread.calls.iter().find(|(call, _)| *call == blocked.call).map_or(0, |(_, looks)| *looks);
        thread.blocked_us >= SETTLED_US || looks > 0 && f64::from(looks) >= ALWAYS * f64::from(thread.looks)
    };
    thread.blocked_in.as_ref().filter(waits).into_iter().flat_map(calls::listens_alone).collect()
}

impl LastWords {
    fn of(by: Speaker, said: Vec<(&TcpSocket, u32)>) -> Option<Self> {
        let settled = |ms: u32| u64::from(ms) * 1_000 >= SETTLED_US;
        let said: Vec<_> = said.into_iter().filter(|(_, ms)| settled(*ms)).collect();
        let &(first, ms) = said.iter().max_by_key(|(_, ms)| *ms)?;
        let (connections, longest_us) = (said.len() as u64, u64::from(ms) * 1_000);
        Some(Self { by, connections, longest_us, peer: peer_of(first), asleep: None })
    }
}

impl fmt::Display for LastWords {
    /// A sentence for a reader.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, peer, .. } = self;
        let ago = time(self.longest_us);
        match (self.by, connections) {
            (Speaker::Clients, 1) => write!(out, "One client, {peer}, had the last word {ago} ago"),
            (Speaker::Clients, many) => write!(out, "{many} clients had the last word, the first of them {ago} ago"),
            (Speaker::Itself, 1) => write!(out, "It had the last word itself to {peer}, {ago} ago"),
            (Speaker::Itself, many) => {
                write!(out, "It had the last word itself on {many} connections, the first time {ago} ago to {peer}")
            }
            (Speaker::Servers | Speaker::Events, 1) => {
                write!(out, "A thread waits for more of {peer}, of which the last came {ago} ago")
            }
            (Speaker::Servers | Speaker::Events, many) => {
                write!(out, "Threads wait for more on {many} connections; the last of {peer} came {ago} ago")
            }
        }?;
        out.write_str(match self.by {
            Speaker::Clients => {
                ": a request that hangs looks like this, and so does a long poll, or a client that has said all."
            }
            Speaker::Itself => ": a request that nobody answers looks like this, and so does one who has said all.",
            Speaker::Servers => ": an answer that stopped half-way looks like this, and so does a wait for news.",
            Speaker::Events => ": by its head a stream of events (text/event-stream), which come when there are some.",
        })?;
        let Some(Asleep { call, threads, longest_us, at }) = &self.asleep else { return Ok(()) };
        let does = match call.as_str() {
            "wait4" | "waitid" => "waited for a child",
            "futex" => "waited with a limit",
            _ => "slept",
        };
        let from = at.as_ref().map(|at| format!(", from {at}")).unwrap_or_default();
        write!(
            out,
            " Meanwhile {} {does} ({call}{from}), for {} at most.",
            count(*threads, "thread"),
            time(*longest_us)
        )
    }
}
