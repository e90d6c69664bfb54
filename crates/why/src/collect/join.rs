//! What the tables of one watch say about each other.

use std::collections::{HashMap, HashSet};

use super::{
    Target,
    descriptors::{self, Named},
    sockets::text,
};
use crate::observation::{Observation, ThreadState};

/// So many sockets are asked for their inode.
const NAMED: usize = 4_096;
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
/// workers do.
pub(super) fn only_waits_for_children(seen: &Observation) -> bool {
    let nearly = |us: u64| us.saturating_mul(10) >= seen.window_us.saturating_mul(8);
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let mut waits = threads.map(|thread| {
        let call = thread.blocked_in.as_ref().map(|blocked| blocked.call.as_str());
        matches!(call, Some("wait4" | "waitid" | "rt_sigsuspend")) && nearly(thread.blocked_us)
    });
    !seen.process.children.is_empty() && waits.next().is_some_and(|first| first && waits.all(|it| it))
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
    for blocked in threads.threads.iter_mut().filter_map(|thread| thread.blocked_in.as_mut()) {
        if let Some(fd) = blocked.fd {
            name(fd, &mut blocked.what, &mut blocked.cookie);
        }
        for member in &mut blocked.waits_for {
            name(member.fd, &mut member.what, &mut member.cookie);
        }
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
