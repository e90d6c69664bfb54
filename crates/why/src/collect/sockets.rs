//! The TCP sockets of the process, by `sock_diag`, joined to it by the inodes of its descriptors.
//!
//! One dump of the whole network namespace a round: the kernel has no filter for a process. It also shows the other ends
//! of connections that stay on this host, and the listeners they wait at. Where the host has many more sockets than the
//! process, the dump leaves the details out, and each socket of the process is asked for by itself.

mod counters;
pub(super) mod neighbours;
mod own;
pub(super) mod source;
pub(super) mod text;
mod tracked;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
};

use overdue_core::{facts::TcpState, kernel::netlink::InetSocket};

pub(super) use self::source::{Source, UnixPeer};
use self::{
    neighbours::{Listeners, OtherEnd},
    own::Own,
    tracked::{Connection, Listening},
};
use super::{Target, clock::Pace, tiers, window::Overlap};
use crate::observation::{HalfOpen, Hidden, HostTcp, PeerFds, Sockets, TcpCounts, TcpSocket};

/// Connections that are followed.
const FOLLOWED: usize = 100_000;
/// Connections that are handed over; those that went on without trouble are left out first.
const SHOWN: usize = 20_000;
/// Connections that are gone, of those that are followed.
const GONE: usize = 1_000;
/// On a host with more sockets the dump may leave the details out.
const MANY: usize = 4_000;
/// From one reading of the counters to the next, microseconds.
const COUNT_EVERY_US: u64 = 1_000_000;
/// Handshakes that are not complete, by the listener and by who began them: all, and those whose SYN-ACK was sent again.
type Handshakes = HashMap<SocketAddr, HashMap<IpAddr, (u32, u32)>>;

/// Addresses that handshakes are counted by.
const SOURCES: usize = 65_536;
/// Peers that are handed over.
const PEERS: usize = 64;

/// Collects [`Sockets`].
#[derive(Debug)]
pub struct Collector {
    target: Target,
    source: Source,
    less: Option<Hidden>,
    connections: HashMap<u64, Connection>,
    listeners: HashMap<u64, Listening>,
    /// The other ends of the connections, as they would be seen in a dump: own end first.
    other_ends: HashSet<(SocketAddr, SocketAddr)>,
    first: Overlap<First>,
    peers: BTreeMap<String, u64>,
    counts: TcpCounts,
    counters: Option<HostTcp>,
    /// Who holds the other ends, by inode; `None`: nobody was found.
    holders: HashMap<u32, Option<u32>>,
    counted_us: u64,
    descriptors: Own,
    /// Sockets of the whole namespace at the last round, and of the process.
    host: usize,
    own: usize,
    round: u32,
    pace: Pace,
    searching: Pace,
    /// What kept the last round from being whole.
    trouble: Option<io::Error>,
}

/// When a window began, and what it left out.
#[derive(Clone, Debug, Default)]
struct First {
    peers: BTreeMap<String, u64>,
    counters: Option<HostTcp>,
    rounds: u32,
    left_out: u64,
}

/// One connection as it is now, whatever it was before.
pub(super) fn as_seen(seen: &InetSocket, fd: u32) -> TcpSocket {
    let mut connection = Connection::new(seen, 0, 0);
    connection.see(seen, Some(fd), 0, 0);
    connection.socket
}

impl Collector {
    /// The first round.
    ///
    /// # Errors
    /// When the descriptors of the process or its network namespace are not shown to this user.
    pub fn attach(target: &Target) -> Result<Self, Hidden> {
        let (source, less) = Source::of(target)?;
        let mut this = Self {
            target: target.clone(),
            source,
            less,
            connections: HashMap::new(),
            listeners: HashMap::new(),
            other_ends: HashSet::new(),
            first: Overlap::default(),
            peers: BTreeMap::new(),
            counts: TcpCounts::default(),
            counters: None,
            holders: HashMap::new(),
            counted_us: 0,
            descriptors: Own::default(),
            host: 0,
            own: 0,
            round: 0,
            pace: Pace::default(),
            searching: Pace::default(),
            trouble: None,
        };
        this.pace.begin(0);
        this.round(0, true).map_err(|err| Hidden {
            what: "sockets".to_owned(),
            why: err.to_string(),
            how: tiers::to_look_into(target, false),
        })?;
        this.pace.end(0);
        let (peers, counters) = (this.peers.clone(), this.counters);
        for first in this.first.both() {
            *first = First { peers: peers.clone(), counters, rounds: 0, left_out: first.left_out };
        }
        Ok(this)
    }

    /// Another round; on a host with very many sockets not every time.
    pub fn look(&mut self, at_us: u64) {
        if self.pace.begin(at_us) {
            self.trouble = self.round(at_us, false).err();
            self.pace.end(at_us);
        }
    }

    /// The connections at the last round.
    pub(super) const fn counts(&self) -> &TcpCounts {
        &self.counts
    }

    /// Connections by peer, when the watch began and now.
    fn by_peer(&self) -> Vec<PeerFds> {
        let mut all: BTreeMap<&str, PeerFds> = BTreeMap::new();
        for (peer, &count) in &self.first.shown().peers {
            all.insert(peer, PeerFds { peer: peer.clone(), first: count, last: 0 });
        }
        for (peer, &count) in &self.peers {
            all.entry(peer).or_insert_with(|| PeerFds { peer: peer.clone(), first: 0, last: 0 }).last = count;
        }
        let mut all: Vec<PeerFds> = all.into_values().collect();
        all.sort_by_key(|peer| Reverse((peer.last, peer.first)));
        all.truncate(PEERS);
        all
    }

    /// A round that takes nothing for granted, whatever it costs.
    pub fn look_at_all(&mut self, at_us: u64) {
        if self.target.is_alive() {
            self.trouble = self.round(at_us, true).err();
        }
        self.search();
    }

    /// Another window begins. What was gone before `begin_us`, when the one that is shown now began, is forgotten.
    pub(super) fn turn(&mut self, begin_us: u64) {
        self.first.turn(First { peers: self.peers.clone(), counters: self.counters, rounds: self.round, left_out: 0 });
        let round = self.round;
        self.connections.retain(|_, connection| {
            connection.first.turn(connection.socket.last);
            connection.unread_longest_us.turn(0);
            connection.round + 1 >= round || connection.socket.last_seen_us >= begin_us
        });
        self.listeners.retain(|_, listening| {
            listening.turn();
            listening.round + 1 >= round || listening.last_seen_us >= begin_us
        });
        let wanted: HashSet<u32> = self.connections.values().filter_map(|connection| connection.peer_inode).collect();
        // Those that nobody was found for are looked for again.
        self.holders.retain(|inode, holder| holder.is_some() && wanted.contains(inode));
    }

    /// Looks for those who hold the other ends.
    fn search(&mut self) {
        let inodes = self.connections.values().filter_map(|connection| connection.peer_inode);
        let inodes: HashSet<u32> = inodes.filter(|inode| !self.holders.contains_key(inode)).collect();
        let found = neighbours::holders(inodes.clone());
        self.holders.extend(inodes.into_iter().map(|inode| (inode, found.get(&inode).copied())));
    }

    /// What was seen in a window that lasts from `begin_us` until `at_us`: the sockets, and how many of them go to which
    /// peer.
    #[must_use]
    pub fn observed(&mut self, begin_us: u64, at_us: u64, not_visible: &mut Vec<Hidden>) -> (Sockets, Vec<PeerFds>) {
        if self.searching.begin(at_us) {
            self.search();
            self.searching.end(at_us);
        }
        not_visible.extend(self.less.iter().cloned());
        if let Some(err) = self.trouble.as_ref().filter(|_| self.target.is_alive()) {
            not_visible.push(Hidden {
                what: "the last look at sockets".to_owned(),
                why: err.to_string(),
                how: "watch again".to_owned(),
            });
        }
        let by_peer = self.by_peer();
        let ports = self.ports();
        let holder = |inode: u32| self.holders.get(&inode).copied().flatten();
        let connections = self.connections.values();
        let connections = connections.filter(|it| it.round + 1 >= self.round || it.socket.last_seen_us >= begin_us);
        let mut tcp: Vec<TcpSocket> = connections
            .map(|connection| TcpSocket {
                inbound: connection.socket.inbound || ports.contains(&connection.socket.local.port()),
                first: *connection.first.shown(),
                unread_longest_us: *connection.unread_longest_us.shown(),
                last_seen_us: connection.socket.last_seen_us.saturating_sub(begin_us),
                peer_pid: connection.peer_inode.and_then(holder),
                ..connection.socket.clone()
            })
            .collect();
        // What has nothing to tell last: established, read, and nothing on the way.
        tcp.sort_by_key(|socket| {
            let dull = socket.state == TcpState::Established && socket.unread_bytes == 0 && socket.unsent_bytes == 0;
            (dull, Reverse(socket.last_seen_us), Reverse(socket.in_state_us), socket.cookie)
        });
        let first = self.first.shown();
        let left_out = first.left_out + u64::try_from(tcp.len().saturating_sub(SHOWN)).unwrap_or_default();
        tcp.truncate(SHOWN);
        let mut listeners: Vec<_> = self.listeners.values().map(Listening::observed).collect();
        listeners.sort_by_key(|listener| (listener.local, listener.cookie));
        let host = first.counters.zip(self.counters).map(|(first, last)| counters::since(&first, &last));
        (Sockets { tcp, listeners, host, rounds: self.round - first.rounds, left_out }, by_peer)
    }

    /// `whole`: the first or the last round, which takes nothing for granted.
    fn round(&mut self, at_us: u64, whole: bool) -> io::Result<()> {
        let all_read = self.descriptors.before_dump(&self.target, self.round, whole)?;
        let lean = self.host > MANY && self.own.saturating_mul(4) < self.host;
        let mut host = 0;
        // Those of the process, and those of which it is not known yet.
        let mut candidates: Vec<InetSocket> = Vec::new();
        let mut strangers: Vec<u32> = Vec::new();
        let mut present: HashSet<u64> = HashSet::new();
        let mut host_listeners = Listeners::default();
        let mut ends: HashMap<(SocketAddr, SocketAddr), OtherEnd> = HashMap::new();
        let mut handshakes: Handshakes = HashMap::new();
        let mut sources = 0_usize;
        self.source.each(!lean, |seen| {
            host += 1;
            if seen.state == TcpState::Listen {
                host_listeners.add(&seen);
            }
            let is_followed = || self.connections.contains_key(&seen.cookie) && seen.cookie != 0;
            let is_own = self.descriptors.fd(seen.inode).is_some() || is_followed();
            if !is_own && all_read {
                strangers.push(seen.inode);
            }
            if is_own || !(all_read || self.descriptors.is_foreign(seen.inode)) {
                present.insert(seen.inode.into());
                candidates.push(seen);
            } else if seen.state == TcpState::SynReceived && sources < SOURCES {
                sources += 1;
                let (all, again) = handshakes.entry(seen.local).or_default().entry(seen.remote.ip()).or_default();
                (*all, *again) = (*all + 1, *again + u32::from(seen.timer_fired > 0));
            }
            if !self.other_ends.is_empty() && self.other_ends.contains(&(seen.local, seen.remote)) {
                ends.insert((seen.local, seen.remote), OtherEnd::of(&seen));
            }
        })?;
        let new = candidates.iter().map(|seen| seen.inode);
        let new: Vec<u32> = new.filter(|&inode| inode != 0 && self.descriptors.fd(inode).is_none()).collect();
        self.descriptors.are_foreign(&strangers);
        self.descriptors.after_dump(&self.target, new.into_iter(), &present)?;
        if self.descriptors.is_empty() && !self.target.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.host = host;
        self.own = 0;
        for seen in candidates {
            let fd = self.descriptors.fd(seen.inode);
            if fd.is_none() && !self.connections.contains_key(&seen.cookie) {
                continue;
            }
            self.own += 1;
            if seen.state == TcpState::Listen {
                let listening = self.listeners.entry(seen.cookie).or_insert_with(|| Listening::new(&seen));
                listening.see(&seen, fd, at_us, self.round);
            } else {
                let seen =
                    if lean { self.source.one(seen.local, seen.remote, seen.cookie).unwrap_or(seen) } else { seen };
                self.see(seen, fd, at_us);
            }
        }
        self.join(&ends, &host_listeners);
        self.count_handshakes(&handshakes);
        self.count_peers();
        self.count_states();
        self.forget();
        if whole || at_us.saturating_sub(self.counted_us) >= COUNT_EVERY_US {
            self.counters = counters::read(&self.target).or(self.counters);
            self.counted_us = at_us;
        }
        self.round += 1;
        Ok(())
    }

    fn see(&mut self, seen: InetSocket, fd: Option<u32>, at_us: u64) {
        // Bound, or given up: no connection.
        if seen.state == TcpState::Close && seen.remote.port() == 0 {
            return;
        }
        if self.connections.len() >= FOLLOWED && !self.connections.contains_key(&seen.cookie) {
            self.first.both().for_each(|window| window.left_out += 1);
            return;
        }
        let round = self.round;
        let connection = self.connections.entry(seen.cookie).or_insert_with(|| Connection::new(&seen, at_us, round));
        connection.see(&seen, fd, at_us, round);
    }

    /// What was accepted, the other ends on this host, and the listeners of those who have none yet.
    fn join(&mut self, ends: &HashMap<(SocketAddr, SocketAddr), OtherEnd>, listeners: &Listeners) {
        self.other_ends.clear();
        for connection in self.connections.values_mut().filter(|connection| connection.round == self.round) {
            let socket = &mut connection.socket;
            // A child that was forked to serve it need not have the listener.
            socket.inbound |= listeners.of(socket.local).is_some();
            if !socket.remote.ip().is_loopback() && socket.remote.ip() != socket.local.ip() {
                continue;
            }
            self.other_ends.insert((socket.remote, socket.local));
            let listener = listeners.of(socket.remote);
            if let Some(listener) = listener {
                socket.peer_listener = Some(listener.backlog);
            }
            let end = ends.get(&(socket.remote, socket.local));
            socket.peer_unread_bytes = end.map(|end| end.unread_bytes).or(socket.peer_unread_bytes);
            socket.peer_unsent_bytes = end.map(|end| end.unsent_bytes).or(socket.peer_unsent_bytes);
            let holder = end.map(|end| end.inode).filter(|&inode| inode != 0);
            connection.peer_inode =
                holder.or_else(|| listener.map(|listener| listener.inode)).or(connection.peer_inode);
        }
    }

    fn count_handshakes(&mut self, handshakes: &Handshakes) {
        let counts_sent = matches!(self.source, Source::Diag(_));
        for listening in self.listeners.values_mut() {
            let local = listening.listener.local;
            let mut sources: HashMap<IpAddr, u32> = HashMap::new();
            let mut sent_again = 0;
            let to_it = handshakes
                .iter()
                .filter(|(to, _)| to.port() == local.port() && (to.ip() == local.ip() || local.ip().is_unspecified()));
            for (source, (count, again)) in to_it.flat_map(|(_, sources)| sources) {
                *sources.entry(*source).or_default() += count;
                sent_again += again;
            }
            let last = sources.values().sum();
            let top = sources.iter().max_by_key(|&(source, count)| (count, source));
            if self.round == 0 {
                listening.window.both().for_each(|window| window.half_open = last);
            }
            listening.listener.half_open = HalfOpen {
                first: 0,
                last,
                sources: u32::try_from(sources.len()).unwrap_or(u32::MAX),
                top: top.map(|(source, &count)| (source.to_string(), count)),
                // The tables in `/proc` count timers instead, of those that are answered, too.
                sent_again: counts_sent.then_some(sent_again),
            };
        }
    }

    /// The ports it listens on.
    pub(super) fn ports(&self) -> HashSet<u16> {
        self.listeners.values().map(|listening| listening.listener.local.port()).collect()
    }

    fn count_peers(&mut self) {
        let ports = self.ports();
        let mut inbound: HashMap<IpAddr, u64> = HashMap::new();
        let mut outbound: HashMap<SocketAddr, u64> = HashMap::new();
        for connection in self.connections.values().filter(|connection| connection.round == self.round) {
            let socket = &connection.socket;
            if socket.fd.is_none() {
                continue;
            }
            if ports.contains(&socket.local.port()) {
                *inbound.entry(socket.remote.ip()).or_default() += 1;
            } else {
                *outbound.entry(socket.remote).or_default() += 1;
            }
        }
        let inbound = inbound.into_iter().map(|(peer, count)| (peer.to_string(), count));
        let outbound = outbound.into_iter().map(|(peer, count)| (peer.to_string(), count));
        self.peers = inbound.chain(outbound).collect();
    }

    fn count_states(&mut self) {
        let mut states: HashMap<TcpState, u64> = HashMap::new();
        let mut counts = TcpCounts::default();
        for connection in self.connections.values().filter(|connection| connection.round == self.round) {
            let socket = &connection.socket;
            *states.entry(socket.state).or_default() += 1;
            counts.unread_bytes += u64::from(socket.unread_bytes);
            counts.unsent_bytes += u64::from(socket.unsent_bytes);
        }
        counts.states = states.into_iter().collect();
        counts.states.sort_by_key(|&(state, count)| (Reverse(count), state as u8));
        self.counts = counts;
    }

    /// Of the connections that are gone, keeps the latest.
    fn forget(&mut self) {
        let gone = self.connections.len().saturating_sub(self.own);
        if gone <= GONE * 2 {
            return;
        }
        let mut ended: Vec<(u64, u64)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.round != self.round)
            .map(|(&cookie, connection)| (connection.socket.last_seen_us, cookie))
            .collect();
        ended.sort_unstable();
        for &(_, cookie) in ended.iter().rev().skip(GONE) {
            self.connections.remove(&cookie);
            self.first.both().for_each(|window| window.left_out += 1);
        }
    }
}
