//! The other side of a connection that stays on this host: its listener, and who holds it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{IpAddr, SocketAddr},
};

use overdue_core::kernel::netlink::InetSocket;

use crate::{
    collect::{
        Target, clock,
        descriptors::{self, Named},
    },
    observation::Backlog,
};

/// Listeners that are remembered of one round.
const LISTENERS: usize = 16_384;
/// Processor time for finding out who holds other ends, microseconds.
const SEARCH_US: u64 = 100_000;
/// Descriptors of each process that are looked at for that.
const DESCRIPTORS: usize = 20_000;

/// The listeners of the namespace, by port.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    by_port: HashMap<u16, Vec<Listener>>,
    count: usize,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    local: IpAddr,
    interface: u32,
    v6_only: bool,
    pub(super) backlog: Backlog,
    pub(super) inode: u32,
}

impl Listeners {
    pub(super) fn add(&mut self, seen: &InetSocket) {
        if self.count < LISTENERS {
            self.count += 1;
            self.by_port.entry(seen.local.port()).or_default().push(Listener {
                local: seen.local.ip(),
                interface: seen.interface,
                v6_only: seen.v6_only,
                backlog: Backlog { queued: seen.rqueue, backlog: seen.wqueue },
                inode: seen.inode,
            });
        }
    }

    /// The listener that serves an address: bound to it before the wildcard, the own family before dual stack. Of several
    /// alike (`SO_REUSEPORT`), the one with the most room stands for them, so that a queue is called full only when every
    /// one of them is.
    pub(super) fn of(&self, peer: SocketAddr) -> Option<&Listener> {
        let all = self.by_port.get(&peer.port())?.iter().filter(|listener| listener.interface == 0);
        let ranked = all.filter_map(|listener| {
            let rank = match (listener.local, peer.ip()) {
                (bound, ip) if bound == ip => 3,
                (bound, ip) if bound.is_unspecified() && bound.is_ipv4() == ip.is_ipv4() => 2,
                (IpAddr::V6(bound), IpAddr::V4(_)) if bound.is_unspecified() && !listener.v6_only => 1,
                _ => return None,
            };
            let room = i64::from(listener.backlog.backlog) - i64::from(listener.backlog.queued);
            Some(((rank, room), listener))
        });
        ranked.max_by_key(|&(rank, _)| rank).map(|(_, listener)| listener)
    }
}

/// The other end of a connection that stays on this host.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherEnd {
    pub(super) unread_bytes: u32,
    pub(super) unsent_bytes: u32,
    pub(super) inode: u32,
}

impl OtherEnd {
    pub(super) const fn of(seen: &InetSocket) -> Self {
        Self { unread_bytes: seen.rqueue, unsent_bytes: seen.wqueue, inode: seen.inode }
    }
}

/// The processes that hold sockets with these inodes, as far as this user may see them and the time for it goes.
pub(in crate::collect) fn holders(mut inodes: HashSet<u32>) -> HashMap<u32, u32> {
    let mut found = HashMap::new();
    if inodes.is_empty() {
        return found;
    }
    let began_us = clock::thread_cpu_us();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if inodes.is_empty() || clock::thread_cpu_us().saturating_sub(began_us) > SEARCH_US {
            break;
        }
        let Ok(process) = Target::new(pid) else { continue };
        let _ = descriptors::each(&process, DESCRIPTORS, |_, named| {
            if let Named::Socket(inode) = named
                && let Ok(inode) = u32::try_from(inode)
                && inodes.remove(&inode)
            {
                found.insert(inode, pid);
            }
        });
    }
    found
}
