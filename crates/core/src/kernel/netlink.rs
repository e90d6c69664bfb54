//! The little of netlink that `sock_diag` needs: requests written, replies read.
//!
//! Three fixed layouts and one list of attributes, written out rather than taken from a crate: what the kernel sends
//! is untrusted input, so every field is read by offset with a length check, a reply is read where it lies, and
//! what does not fit is skipped. Layouts: `linux/netlink.h`, `linux/inet_diag.h`, `linux/rtnetlink.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tcp_info;
use crate::facts::{TcpInfo, TcpState};

/// A request for sockets, and each of the answers.
pub const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The older request for TCP sockets, and each of the answers. Alone it dumps those of both families at once, which halves
/// what the kernel walks through.
pub const TCP_DIAG_GETSOCK: u16 = 18;
/// A request to end a socket. It needs `CAP_NET_ADMIN` in the socket's network namespace.
pub const SOCK_DESTROY: u16 = 21;
/// A request for a route.
pub const RTM_GETROUTE: u16 = 26;
/// `NLMSG_ERROR`: the request was refused, or acknowledged.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`: a dump has ended.
pub const DONE: u16 = 3;
/// `NLM_F_DUMP`: every socket that fits, not one.
pub const DUMP: u16 = 0x300;
/// `NLM_F_ACK`: an answer even where there is nothing to tell but that it was done.
pub const ACK: u16 = 4;
/// Sockets in whatever state.
pub const ALL_STATES: u32 = u32::MAX;
/// Listeners: `1 << TCP_LISTEN`.
pub const LISTENING: u32 = 1 << 10;

const NLM_F_REQUEST: u16 = 1;
const RTM_NEWROUTE: u16 = 24;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// The last of the nine numbers of `SK_MEMINFO`.
const SK_MEMINFO_DROPS_AT: usize = 8 * 4;

const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
/// `UDIAG_SHOW_NAME` and `UDIAG_SHOW_PEER`.
const UDIAG_SHOW: u32 = 1 | 4;

const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// `struct nlmsghdr`
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_msg`; attributes follow.
const INET_MESSAGE_BYTES: usize = 72;
/// `struct unix_diag_msg`; attributes follow.
const UNIX_MESSAGE_BYTES: usize = 16;
/// `struct nlattr`
const ATTRIBUTE_BYTES: usize = 4;

/// A request, ready to be sent. `None` when it is longer than a length field can say.
#[must_use]
pub fn frame(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(HEADER_BYTES + payload.len()).ok()?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]); // the kernel fills in who asks
    bytes.extend(payload);
    Some(bytes)
}

/// `struct inet_diag_req_v2`: TCP sockets whose own end is `local`. With `remote`, the one that segments from there
/// reach; without, for a dump, only the family and the port of `local` count (port 0: all). `extensions`: what to add to
/// each answer.
#[must_use]
pub fn inet_request(local: SocketAddr, remote: Option<SocketAddr>, states: u32, extensions: u8) -> Vec<u8> {
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = vec![family, IPPROTO_TCP, extensions, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.map_or(0, |remote| remote.port()).to_be_bytes());
    bytes.extend(address_field(local.ip()));
    bytes.extend(remote.map_or([0; 16], |remote| address_field(remote.ip())));
    bytes.extend([0; 4]); // any interface
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    bytes
}

/// The same for one socket and no other, for [`SOCK_DESTROY`]: the kernel compares the cookie, too, so that another one
/// which has the same two ends by now is left alone.
#[must_use]
pub fn this_request(socket: &InetSocket) -> Vec<u8> {
    let mut bytes = inet_request(socket.local, Some(socket.remote), ALL_STATES, 0);
    let id = bytes.len() - 12; // the interface, then the two halves of the cookie
    bytes.truncate(id);
    bytes.extend(socket.interface.to_ne_bytes());
    for half in [socket.cookie & u64::from(u32::MAX), socket.cookie >> 32] {
        bytes.extend(u32::try_from(half).unwrap_or_default().to_ne_bytes());
    }
    bytes
}

/// `struct inet_diag_req`, for a dump of all TCP sockets by [`TCP_DIAG_GETSOCK`].
#[must_use]
pub fn tcp_dump_request(states: u32, extensions: u8) -> Vec<u8> {
    let mut bytes = vec![AF_INET, 0, 0, extensions];
    bytes.extend([0; 48]); // no socket in particular
    bytes.extend(states.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// `struct unix_diag_req`: the unix socket with that inode.
#[must_use]
pub fn unix_request(inode: u32) -> Vec<u8> {
    let mut bytes = vec![AF_UNIX, 0, 0, 0];
    bytes.extend(ALL_STATES.to_ne_bytes());
    bytes.extend(inode.to_ne_bytes());
    bytes.extend(UDIAG_SHOW.to_ne_bytes());
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    bytes
}

/// `struct rtmsg` with one attribute: where would a packet to `address` go?
#[must_use]
pub fn route_request(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let attribute_len: u16 = if address.is_ipv4() { 8 } else { 20 };
    let mut bytes = vec![family, bits];
    bytes.extend([0; 10]);
    bytes.extend(attribute_len.to_ne_bytes());
    bytes.extend(RTA_DST.to_ne_bytes());
    bytes.extend(octets);
    bytes
}

/// One message of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What it is: [`ERROR`], [`DONE`], an answer.
    pub kind: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    payload: &'a [u8],
}

/// One TCP socket, as `inet_diag_msg` describes it. IPv4-mapped addresses are written as IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InetSocket {
    /// Its state.
    pub state: TcpState,
    /// The own end.
    pub local: SocketAddr,
    /// The other end; unspecified for a listener.
    pub remote: SocketAddr,
    /// The interface it is bound to; 0 for none.
    pub interface: u32,
    /// Bytes to read; for a listener, connections to accept.
    pub rqueue: u32,
    /// Bytes not acknowledged; for a listener, how many connections may wait.
    pub wqueue: u32,
    /// Whether an IPv6 listener takes no IPv4.
    pub v6_only: bool,
    /// `SO_COOKIE`; asking gives a socket one that had none.
    pub cookie: u64,
    /// The inode that `/proc/PID/fd` names; 0 where no process holds it.
    pub inode: u32,
    /// The timer that is armed: 0 none, 1 retransmission, 2 keepalive, 3 TIME-WAIT, 4 zero-window probe.
    pub timer: u8,
    /// How often that timer has fired without an answer.
    pub timer_fired: u8,
    /// How long until it fires.
    pub timer_expires_ms: u32,
    /// `TCP_INFO`, where it was asked for ([`WITH_TCP_INFO`]).
    pub info: Option<TcpInfo>,
    /// Segments, and for a listener connections, that it dropped; where it was asked for ([`WITH_MEMORY`]).
    pub drops: Option<u32>,
}

/// One unix socket, as `unix_diag_msg` describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnixSocket {
    /// The inode of the other end, where there is one.
    pub peer: Option<u32>,
    /// What it was bound to: a path, or a name that begins with a zero byte. Whoever was accepted has that of the listener.
    pub name: Option<Vec<u8>>,
}

/// An extension to ask for: `TCP_INFO`.
pub const WITH_TCP_INFO: u8 = 1 << (INET_DIAG_INFO - 1);
/// An extension to ask for: the socket's memory, with its drops.
pub const WITH_MEMORY: u8 = 1 << (INET_DIAG_SKMEMINFO - 1);

/// The messages of one datagram, up to the first that does not fit.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let message = Message {
            kind: u16_at(datagram, 4)?,
            sequence: u32_at(datagram, 8)?,
            payload: datagram.get(HEADER_BYTES..len)?,
        };
        datagram = datagram.get(aligned(len)?..).unwrap_or_default();
        Some(message)
    })
}

impl Message<'_> {
    /// Of an [`ERROR`]: the error's number, 0 for an acknowledgement.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        let number = u32_at(self.payload, 0).filter(|_| self.kind == ERROR)?;
        // The kernel sends it negative.
        number.cast_signed().checked_neg()
    }

    /// Reads `struct inet_diag_msg`.
    #[must_use]
    pub fn inet_socket(&self) -> Option<InetSocket> {
        if !matches!(self.kind, SOCK_DIAG_BY_FAMILY | TCP_DIAG_GETSOCK) {
            return None;
        }
        let bytes = self.payload;
        let family = *bytes.first()?;
        let address = |at: usize| -> Option<IpAddr> {
            match family {
                AF_INET => bytes.get(at..)?.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
                AF_INET6 => {
                    let octets: &[u8; 16] = bytes.get(at..)?.first_chunk()?;
                    Some(Ipv6Addr::from(*octets).to_canonical())
                }
                _ => None,
            }
        };
        let port = |at: usize| u16_at(bytes, at).map(u16::from_be);
        let attributes = bytes.get(INET_MESSAGE_BYTES..)?;
        Some(InetSocket {
            state: tcp_info::state(*bytes.get(1)?),
            local: SocketAddr::new(address(8)?, port(4)?),
            remote: SocketAddr::new(address(24)?, port(6)?),
            interface: u32_at(bytes, 40)?,
            rqueue: u32_at(bytes, 56)?,
            wqueue: u32_at(bytes, 60)?,
            v6_only: attribute(attributes, INET_DIAG_SKV6ONLY).is_some_and(|value| value != [0]),
            cookie: u64::from(u32_at(bytes, 44)?) | u64::from(u32_at(bytes, 48)?) << 32,
            inode: u32_at(bytes, 68)?,
            timer: *bytes.get(2)?,
            timer_fired: *bytes.get(3)?,
            timer_expires_ms: u32_at(bytes, 52)?,
            info: attribute(attributes, INET_DIAG_INFO).and_then(tcp_info::parse),
            drops: attribute(attributes, INET_DIAG_SKMEMINFO).and_then(|value| u32_at(value, SK_MEMINFO_DROPS_AT)),
        })
    }

    /// Reads `struct unix_diag_msg`.
    #[must_use]
    pub fn unix_socket(&self) -> Option<UnixSocket> {
        let is_unix = self.kind == SOCK_DIAG_BY_FAMILY && self.payload.first() == Some(&AF_UNIX);
        let attributes = self.payload.get(UNIX_MESSAGE_BYTES..).filter(|_| is_unix)?;
        Some(UnixSocket {
            peer: attribute(attributes, UNIX_DIAG_PEER).and_then(|value| u32_at(value, 0)),
            name: attribute(attributes, UNIX_DIAG_NAME).filter(|name| !name.is_empty()).map(<[u8]>::to_vec),
        })
    }

    /// Whether this is a route whose packets the kernel delivers to this host.
    #[must_use]
    pub fn is_local_route(&self) -> bool {
        self.kind == RTM_NEWROUTE && self.payload.get(7) == Some(&RTN_LOCAL)
    }
}

/// The value of the first attribute of that kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(ATTRIBUTE_BYTES..len)?;
        if u16_at(bytes, 2)? == kind {
            return Some(value);
        }
        bytes = bytes.get(aligned(len)?..)?;
    }
}

/// Sixteen bytes, of which IPv4 uses the first four.
fn address_field(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Messages and attributes begin at multiples of four.
fn aligned(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
