//! What the tables of one watch say about each other.

use std::collections::{HashMap, HashSet};

use super::{
    Target,
    descriptors::{self, Named},
    locks::FileLocks,
    sockets::{Source, UnixPeer, neighbours, text},
};
use crate::observation::{Observation, ThreadState};

/// So many sockets are asked for their inode.
const NAMED: usize = 4_096;
/// So many unix sockets are asked for their other end.
const UNIX: usize = 16;
/// Tables of UDP sockets are read up to here.
const TABLE_BYTES: usize = 4 << 20;

/// A socket that has several descriptors is one connection.
pub(super) fn once(seen: &mut Observation) {
    let mut told = HashSet::new();
    if let Some(connections) = &mut seen.connections {
        connections.connections.retain(|connection| told.insert(connection.cookie));
    }
}

/// Whether no thread of it may run.
pub(super) fn is_stopped(seen: &Observation) -> bool {
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let mut states = threads.map(|thread| thread.state).peekable();
    seen.process.ended_at_us.is_none() && states.peek().is_some() && states.all(|state| state == ThreadState::Stopped)
}

/// Whether all threads have waited for children nearly all the time: in a call for that, or for a signal, as masters of
/// workers do. The call does not wait where there is none, so it is a proof of children that have ended since.
pub(super) fn only_waits_for_children(seen: &Observation) -> bool {
    let has_some = !seen.process.children.is_empty();
    let is_wait = |call: &str| matches!(call, "wait4" | "waitid") || has_some && call == "rt_sigsuspend";
    let nearly = |part: u64, whole: u64| part.saturating_mul(10) >= whole.saturating_mul(8);
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let mut waits = threads.map(|thread| {
        let now = thread.blocked_in.as_ref().is_some_and(|blocked| is_wait(&blocked.call));
        // One after the other: each wait is a short one.
        let looks = thread.calls.iter().filter(|(call, _)| is_wait(call)).map(|(_, looks)| u64::from(*looks)).sum();
        now && nearly(thread.blocked_us, seen.window_us) || thread.looks >= 3 && nearly(looks, thread.looks.into())
    });
    waits.next().is_some_and(|first| first && waits.all(|it| it))
}

/// Names the descriptors that threads wait for.
pub(super) fn join(seen: &mut Observation, target: &Target) {
    let Some(threads) = &mut seen.threads else { return };
    let tcp = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let connections = tcp.filter_map(|socket| Some((socket.fd?, (format!("tcp {}", socket.remote), socket.cookie))));
    let listeners = seen.sockets.iter().flat_map(|sockets| &sockets.listeners);
    let listeners = listeners
        .filter_map(|listener| Some((listener.fd?, (format!("listener {}", listener.local), listener.cookie))));
    let by_fd: HashMap<u32, (String, u64)> = connections.chain(listeners).collect();
    // Read only when somebody waits for a socket that is no TCP.
    let mut udp: Option<HashMap<u64, String>> = None;
    let mut by_inode: Option<HashMap<u64, u32>> = None;
    let mut name = |fd: u32, what: &mut Option<String>, cookie: &mut Option<u64>| {
        if what.as_deref() != Some("socket") {
            return;
        }
        let inode = || match descriptors::parse(&descriptors::link(target, fd).ok()?) {
            Named::Socket(inode) => Some(inode),
            Named::Other(_) => None,
        };
        // A socket may have several descriptors, and is known by one.
        let known = by_fd.get(&fd).or_else(|| {
            let inode = inode()?;
            by_inode.get_or_insert_with(|| inodes(&by_fd, target)).get(&inode).and_then(|fd| by_fd.get(fd))
        });
        if let Some((name, found)) = known {
            *what = Some(name.clone());
            *cookie = Some(*found);
        } else if let Some(inode) = inode()
            && let Some(peer) = udp.get_or_insert_with(|| udp_peers(target)).get(&inode)
        {
            *what = Some(format!("udp {peer}"));
        }
    };
    let mut unix = UnixPeers::default();
    for blocked in threads.threads.iter_mut().filter_map(|thread| thread.blocked_in.as_mut()) {
        if let Some(fd) = blocked.fd {
            name(fd, &mut blocked.what, &mut blocked.cookie);
            if blocked.what.as_deref() == Some("socket") {
                blocked.what = unix.name(target, fd).or(blocked.what.take());
            }
        }
        for member in &mut blocked.waits_for {
            name(member.fd, &mut member.what, &mut member.cookie);
        }
    }
    let holders = unix.holders();
    let mut locks = FileLocks::default();
    for blocked in threads.threads.iter_mut().filter_map(|thread| thread.blocked_in.as_mut()) {
        blocked.peer_pid = blocked.fd.and_then(|fd| holders.get(&fd).copied());
        if let Some(holder) = locks.holder(target, blocked) {
            blocked.peer_pid = Some(holder);
            blocked.what = blocked.what.take().map(|what| format!("{what} (locked by process {holder})"));
        }
    }
}

/// The other ends of unix sockets that threads wait for, each asked for once.
#[derive(Default)]
struct UnixPeers {
    source: Option<Source>,
    by_fd: HashMap<u32, Option<UnixPeer>>,
}

impl UnixPeers {
    /// What a socket is that is neither TCP nor connected UDP.
    fn name(&mut self, target: &Target, fd: u32) -> Option<String> {
        let protocol = descriptors::protocol(target, fd)?;
        if !protocol.starts_with("UNIX") {
            return protocol.starts_with("UDP").then(|| "udp".to_owned());
        }
        if self.by_fd.len() < UNIX && !self.by_fd.contains_key(&fd) {
            let peer = self.ask(target, fd);
            self.by_fd.insert(fd, peer);
        }
        let peer = self.by_fd.get(&fd).and_then(Option::as_ref);
        let name = peer.and_then(|peer| peer.name.as_ref()).map(|name| format!("unix {name}"));
        Some(name.unwrap_or_else(|| "unix".to_owned()))
    }

    fn ask(&mut self, target: &Target, fd: u32) -> Option<UnixPeer> {
        if self.source.is_none() {
            self.source = Source::of(target).ok().map(|(source, _)| source);
        }
        match descriptors::parse(&descriptors::link(target, fd).ok()?) {
            Named::Socket(inode) => self.source.as_mut()?.unix_peer(inode.try_into().ok()?),
            Named::Other(_) => None,
        }
    }

    /// Who holds the other ends, by descriptor: looked for once, for all of them.
    fn holders(&self) -> HashMap<u32, u32> {
        let peers = || self.by_fd.iter().filter_map(|(&fd, peer)| Some((fd, peer.as_ref()?.inode)));
        let pids = neighbours::holders(peers().map(|(_, inode)| inode).collect());
        peers().filter_map(|(fd, inode)| Some((fd, *pids.get(&inode)?))).collect()
    }
}

/// The descriptors by which sockets are known, by their inodes.
fn inodes(by_fd: &HashMap<u32, (String, u64)>, target: &Target) -> HashMap<u64, u32> {
    let inode = |fd: u32| match descriptors::parse(&descriptors::link(target, fd).ok()?) {
        Named::Socket(inode) => Some((inode, fd)),
        Named::Other(_) => None,
    };
    by_fd.keys().take(NAMED).filter_map(|&fd| inode(fd)).collect()
}

/// The peers of connected UDP sockets, by inode, in the network namespace of the process.
fn udp_peers(target: &Target) -> HashMap<u64, String> {
    let tables = ["net/udp", "net/udp6"].map(|table| target.read_text(table, TABLE_BYTES).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .filter_map(text::parse)
        .filter(|socket| socket.remote.port() != 0)
        .map(|socket| (socket.inode.into(), socket.remote.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{BlockedIn, Process, Thread, Threads};

    /// A shell, found in these calls, and in the last one for so long.
    fn shell(calls: &[(&str, u32)], blocked_us: u64, children: &[u32]) -> bool {
        let last = calls.last().map(|(call, _)| BlockedIn { call: (*call).to_owned(), ..BlockedIn::default() });
        let thread = Thread {
            looks: calls.iter().map(|(_, looks)| looks).sum(),
            calls: calls.iter().map(|(call, looks)| ((*call).to_owned(), *looks)).collect(),
            blocked_in: last,
            blocked_us,
            ..Thread::default()
        };
        only_waits_for_children(&Observation {
            window_us: 3_130_409,
            process: Process { children: children.to_vec(), ..Process::default() },
            threads: Some(Threads { threads: vec![thread], ..Threads::default() }),
            ..Observation::default()
        })
    }

    #[test]
    fn a_shell_whose_child_has_ended_did_nothing_else() {
        // `sh -c 'curl -m 3 ...; true'`, as it was seen; and several commands, one after the other.
        assert!(shell(&[("rt_sigaction", 1), ("wait4", 12)], 2_749_832, &[]));
        assert!(shell(&[("clone", 1), ("wait4", 12)], 400_000, &[]));
        assert!(shell(&[("rt_sigsuspend", 13)], 3_100_000, &[7]));
        // It waits for a signal, has no children that anybody knows of, or does something else half of the time.
        assert!(!shell(&[("rt_sigsuspend", 13)], 3_100_000, &[]));
        assert!(!shell(&[("read", 7), ("wait4", 6)], 1_400_000, &[]));
        assert!(!shell(&[("wait4", 2), ("read", 11)], 2_000_000, &[7]));
        assert!(!shell(&[], 0, &[7]));
    }
}
