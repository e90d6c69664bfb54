//! What this host knows about a peer that lives on it: `NETLINK_SOCK_DIAG`, no privilege needed.
//!
//! Two facts that a client on another host can only guess:
//! - the listener of the peer's port: how many connections wait to be accepted and how many may;
//! - the other end of this very connection: what it has received and not read, what it sent and we have not
//!   acknowledged.
//!
//! First the kernel is asked for the one socket that a segment of ours would reach. That is the other end when there
//! is one, and otherwise the listener that our SYN goes to, chosen by the kernel's own rules (`SO_REUSEPORT`, dual
//! stack, bound addresses). Only when it is the other end are the listeners of that port listed, which the kernel
//! filters, so that thousands of sockets cost nothing.
//!
//! **Bounds.** The kernel answers within `send`, so nothing is waited for in practice; if it ever did not,
//! [`REPLY_WITHIN`] ends the conversation. It is also ended after [`MAX_DATAGRAMS`].
//!
//! **Who is asked.** The sockets of the calling thread's network namespace, so a socket that lives in another one is
//! not looked up at all; nor is an address that the kernel would not deliver locally: a listener of ours on the same
//! port has nothing to do with a peer elsewhere.

use std::{
    cell::Cell,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};

use overdue_core::{
    facts::{ListenerFacts, PeerSocketFacts, TcpState},
    kernel::netlink::{self, InetSocket, Message},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::linux::netns_cookie;

/// How long one reply may take.
const REPLY_WITHIN: Duration = Duration::from_millis(50);
/// How many datagrams one question may be answered with; each is at most [`DATAGRAM_BYTES`].
const MAX_DATAGRAMS: usize = 16;
/// The kernel fills no larger ones.
const DATAGRAM_BYTES: usize = 32 * 1024;

/// What was found about the peer on this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PeerHere {
    pub(super) listener: Option<ListenerFacts>,
    pub(super) peer_socket: Option<PeerSocketFacts>,
}

/// Asks for the listener of `peer` and for the other end of `local` to `peer`. `netns` is the cookie of the network
/// namespace that the own socket lives in, where it is known.
pub(super) fn ask(local: Option<SocketAddr>, peer: SocketAddr, netns: Option<u64>) -> PeerHere {
    let peer = canonical(peer);
    let local = local.map(canonical);
    try_ask(local, peer, netns).unwrap_or_default()
}

fn try_ask(local: Option<SocketAddr>, peer: SocketAddr, netns: Option<u64>) -> Option<PeerHere> {
    let socket = Conversation::open(libc::NETLINK_SOCK_DIAG)?;
    let ours = netns_cookie(socket.socket.as_fd());
    if netns.is_some() && ours.is_some() && netns != ours {
        return None;
    }
    if !is_delivered_here(local, peer) {
        return None;
    }
    let end = local.and_then(|local| other_end(&socket, local, peer));
    if let Some(end) = end.filter(|end| end.state == TcpState::Listen) {
        return Some(PeerHere { listener: Some(as_listener(end)), peer_socket: None });
    }
    Some(PeerHere {
        listener: listener_of(&socket, peer).map(as_listener),
        peer_socket: end.filter(has_queues).map(as_peer),
    })
}

/// Whether the kernel delivers what is sent to `peer` to this host itself.
fn is_delivered_here(local: Option<SocketAddr>, peer: SocketAddr) -> bool {
    peer.ip().is_loopback() || local.is_some_and(|local| local.ip() == peer.ip()) || routes_to_itself(peer.ip())
}

fn routes_to_itself(address: IpAddr) -> bool {
    let mut local = false;
    let asked = Conversation::open(libc::NETLINK_ROUTE).and_then(|socket| {
        socket.ask(netlink::RTM_GETROUTE, 0, &netlink::route_request(address), |message| {
            local = message.is_local_route();
        })
    });
    asked.is_some() && local
}

/// The socket that a segment from `local` to `peer` reaches: the other end, or the listener.
fn other_end(socket: &Conversation, local: SocketAddr, peer: SocketAddr) -> Option<InetSocket> {
    let mut found = None;
    let request = netlink::inet_request(peer, Some(local), netlink::ALL_STATES, 0);
    socket.ask(netlink::SOCK_DIAG_BY_FAMILY, 0, &request, |message| {
        found = message.inet_socket().filter(|end| {
            let is_listener = end.state == TcpState::Listen && end.local.port() == peer.port();
            is_listener || (end.local == peer && end.remote == local)
        });
    })?;
    found
}

/// The listener that serves `peer` best.
fn listener_of(socket: &Conversation, peer: SocketAddr) -> Option<InetSocket> {
    let any_v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), peer.port());
    let families = if peer.is_ipv4() { &[peer, any_v6][..] } else { &[peer][..] };
    let mut best: Option<((u8, i64), InetSocket)> = None;
    for &family in families {
        let request = netlink::inet_request(family, None, netlink::LISTENING, 0);
        socket.ask(netlink::SOCK_DIAG_BY_FAMILY, netlink::DUMP, &request, |message| {
            if let Some(found) = message.inet_socket()
                && let Some(rank) = preference(&found, peer)
                && best.is_none_or(|(best, _)| rank > best)
            {
                best = Some((rank, found));
            }
        })?;
    }
    best.map(|(_, listener)| listener)
}

/// How the kernel ranks a listener for an address (bound to it before the wildcard, the own family before dual
/// stack), then the room in its queue; `None` when it does not serve the address at all. Of several alike
/// (`SO_REUSEPORT`), which one a connection went to cannot be told: the one with the most room stands for them, so
/// that a queue is called full only when every one of them is.
fn preference(listener: &InetSocket, peer: SocketAddr) -> Option<(u8, i64)> {
    if listener.state != TcpState::Listen || listener.local.port() != peer.port() || listener.interface != 0 {
        return None;
    }
    let rank = match (listener.local.ip(), peer.ip()) {
        (bound, ip) if bound == ip => 3,
        (bound, ip) if bound.is_unspecified() && bound.is_ipv4() == ip.is_ipv4() => 2,
        (IpAddr::V6(bound), IpAddr::V4(_)) if bound.is_unspecified() && !listener.v6_only => 1,
        _ => return None,
    };
    Some((rank, i64::from(listener.wqueue) - i64::from(listener.rqueue)))
}

/// For a listener the kernel puts the accept queue into the two fields.
fn as_listener(socket: InetSocket) -> ListenerFacts {
    ListenerFacts { queued: socket.rqueue, backlog: socket.wqueue }
}

fn as_peer(socket: InetSocket) -> PeerSocketFacts {
    PeerSocketFacts { unread_bytes: socket.rqueue, unacked_bytes: socket.wqueue }
}

/// A handshake that is not complete, or one in TIME-WAIT, is no full socket: the zeros of its queues mean nothing.
fn has_queues(socket: &InetSocket) -> bool {
    matches!(
        socket.state,
        TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing
    )
}

/// IPv4-mapped addresses as IPv4, and no scope: as replies are read.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// A netlink socket: one question at a time.
struct Conversation {
    socket: Socket,
    sequence: Cell<u32>,
}

impl Conversation {
    fn open(protocol: libc::c_int) -> Option<Self> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol))).ok()?;
        socket.set_read_timeout(Some(REPLY_WITHIN)).ok()?;
        Some(Self { socket, sequence: Cell::new(0) })
    }

    /// Sends one request and hands each message of the reply to `take`. `None` when the kernel refused, or when the
    /// reply did not end within bounds; `take` may have seen a part of it then.
    fn ask(&self, kind: u16, flags: u16, payload: &[u8], mut take: impl FnMut(Message<'_>)) -> Option<()> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        self.socket.send(&netlink::frame(kind, flags, sequence, payload)?).ok()?;
        let mut buf = vec![0; DATAGRAM_BYTES];
        for _ in 0..MAX_DATAGRAMS {
            let len = match (&self.socket).read(&mut buf) {
                Ok(len) => len,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            for message in netlink::messages(buf.get(..len)?).filter(|message| message.sequence == sequence) {
                match message.kind {
                    netlink::ERROR => return None,
                    netlink::DONE => return Some(()),
                    _ => take(message),
                }
                if flags & netlink::DUMP == 0 {
                    return Some(());
                }
            }
        }
        None
    }
}
