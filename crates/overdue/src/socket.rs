//! Evidence from an own socket, without privilege, at the moment of failure: for whoever moves bytes without the
//! connections of this crate, as a proxy does.
//!
//! A call that fails asks the kernel what it knows about the connection: its TCP state and counters
//! ([`tcp_info`](overdue_core::kernel::tcp_info)), what lies in the queues of both directions, and, when the peer is on this very host, the two
//! things that only that host can know (`sock_diag`): whether the listener's accept queue is full, and what the
//! other end of the connection has received and not read. That tells a full accept queue from a filter, and a peer
//! that does not read from one that is slow.
//!
//! Everything here is best effort and answers at once: a handful of system calls that do not wait, some tens of
//! microseconds together. What cannot be learnt is `None`, never an error: there is one already. When very many calls fail
//! at once, only the first 500 of each second ask about the peer's side, which costs most of it: a storm
//! of timeouts must not become one of system calls.

use std::io;
#[cfg(unix)]
use std::{net::SocketAddr, os::fd::BorrowedFd};

#[cfg(unix)]
use overdue_core::facts::SocketFacts;
use overdue_core::facts::{Failure, OsFailure};

#[cfg(target_os = "linux")]
mod allowance;
#[cfg(target_os = "linux")]
mod sock_diag;

/// How many failures of one second look for the peer's side on this host.
#[cfg(target_os = "linux")]
const LOOKUPS_PER_SECOND: u32 = 500;

/// What the kernel says about `socket` now.
///
/// `local` and `peer` are the ends of the connection as the caller knows them; they are needed to find the peer's
/// sockets when the peer is on this host. On a platform other than Linux only the unread bytes are observed.
///
/// It does not await, and blocks for no longer than the few system calls take .
#[cfg(unix)]
pub fn observe(socket: BorrowedFd<'_>, local: Option<SocketAddr>, peer: Option<SocketAddr>) -> SocketFacts {
    let facts = SocketFacts {
        peer: peer.map(|addr| addr.to_string()).unwrap_or_default(),
        unread_bytes: rustix::io::ioctl_fionread(socket).ok().and_then(|bytes| u32::try_from(bytes).ok()),
        ..SocketFacts::default()
    };
    #[cfg(target_os = "linux")]
    let facts = linux::observe(socket, local, peer, facts);
    #[cfg(not(target_os = "linux"))]
    let _ = local;
    facts
}

#[cfg(target_os = "linux")]
pub(crate) use linux::unacknowledged_bytes;

/// The fact for the judge, and the error itself for the chain of sources.
pub fn os_failure(operation: &'static str, err: io::Error) -> (Failure, Option<io::Error>) {
    (Failure::Os { operation, kind: classify(&err), text: err.to_string() }, Some(err))
}

/// Sorts a failed system call by what it means to a caller.
///
/// An error that no system call returned has no class, whatever its [`io::ErrorKind`]: a `TimedOut` that the own
/// process made up is not the kernel giving up.
pub(crate) fn classify(err: &io::Error) -> OsFailure {
    let Some(code) = err.raw_os_error() else {
        return match err.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                OsFailure::Reset
            }
            _ => OsFailure::Other,
        };
    };
    match err.kind() {
        io::ErrorKind::ConnectionRefused => OsFailure::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            OsFailure::Reset
        }
        io::ErrorKind::TimedOut => OsFailure::KernelTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            OsFailure::Unreachable
        }
        io::ErrorKind::AddrNotAvailable => OsFailure::AddressNotAvailable,
        _ if is_host_down(code) => OsFailure::Unreachable,
        _ if is_out_of_descriptors(code) => OsFailure::NoDescriptors,
        _ => OsFailure::Other,
    }
}

#[cfg(unix)]
fn is_host_down(code: i32) -> bool {
    code == libc::EHOSTDOWN
}

#[cfg(unix)]
fn is_out_of_descriptors(code: i32) -> bool {
    code == libc::EMFILE || code == libc::ENFILE
}

#[cfg(windows)]
fn is_host_down(code: i32) -> bool {
    code == 10064 // WSAEHOSTDOWN
}

#[cfg(windows)]
fn is_out_of_descriptors(code: i32) -> bool {
    code == 10024 // WSAEMFILE
}

#[cfg(not(any(unix, windows)))]
fn is_host_down(_code: i32) -> bool {
    false
}

#[cfg(not(any(unix, windows)))]
fn is_out_of_descriptors(_code: i32) -> bool {
    false
}

/// Lets a socket that is bound to an address choose its port only when it connects, so that one port can serve
/// connections to many peers.
#[cfg(target_os = "linux")]
pub(crate) fn choose_port_late(socket: BorrowedFd<'_>) -> io::Result<()> {
    linux::set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// The system calls that only Linux has.
#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io,
        net::SocketAddr,
        os::fd::{AsRawFd, BorrowedFd},
    };

    use overdue_core::{facts::SocketFacts, kernel::tcp_info};

    use super::{allowance::Allowance, sock_diag};

    static LOOKUPS: Allowance = Allowance::per_second(super::LOOKUPS_PER_SECOND);

    fn may_look_up() -> bool {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        LOOKUPS.take(now.tv_sec.unsigned_abs())
    }

    pub(super) fn observe(
        socket: BorrowedFd<'_>,
        local: Option<SocketAddr>,
        peer: Option<SocketAddr>,
        facts: SocketFacts,
    ) -> SocketFacts {
        let asked = peer.filter(|_| may_look_up());
        let here = asked.map(|peer| sock_diag::ask(local, peer, netns_cookie(socket))).unwrap_or_default();
        SocketFacts {
            tcp: read_tcp_info(socket),
            unsent_bytes: unacknowledged_bytes(socket),
            cookie: rustix::net::sockopt::socket_cookie(socket).ok(),
            listener: here.listener,
            peer_socket: here.peer_socket,
            peer_unasked: peer.is_some() && asked.is_none(),
            ..facts
        }
    }

    fn read_tcp_info(socket: BorrowedFd<'_>) -> Option<overdue_core::facts::TcpInfo> {
        // Longer than any struct tcp_info so far: a newer kernel's further fields are cut off, not refused.
        let mut buf = [0_u8; 512];
        let len = read_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut buf)?;
        tcp_info::parse(buf.get(..len)?)
    }

    /// `SO_NETNS_COOKIE`: which network namespace the socket lives in. Linux 5.14.
    pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> Option<u64> {
        let mut buf = [0_u8; 8];
        let len = read_option(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, &mut buf)?;
        (len == buf.len()).then(|| u64::from_ne_bytes(buf))
    }

    /// `getsockopt` into bytes; how many of them the kernel wrote.
    #[expect(unsafe_code, reason = "neither rustix nor socket2 reads an option as bytes of any length")]
    fn read_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, buf: &mut [u8]) -> Option<usize> {
        let mut len = libc::socklen_t::try_from(buf.len()).ok()?;
        // SAFETY: the descriptor is borrowed, so it is open; `buf` is writable for the `len` bytes announced, and the
        // kernel writes no more than that.
        let result =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, buf.as_mut_ptr().cast(), &raw mut len) };
        let len = usize::try_from(len).ok()?;
        (result == 0 && len <= buf.len()).then_some(len)
    }

    #[expect(unsafe_code, reason = "neither rustix nor socket2 has every option")]
    pub(super) fn set_option(
        socket: BorrowedFd<'_>,
        level: libc::c_int,
        name: libc::c_int,
        value: libc::c_int,
    ) -> io::Result<()> {
        let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
        // SAFETY: the descriptor is borrowed, so it is open; the kernel reads one int, which is there.
        let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// `SIOCOUTQ`: what was written and the peer has not acknowledged, sent or not.
    #[expect(unsafe_code, reason = "rustix has no SIOCOUTQ")]
    pub(crate) fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> Option<u32> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is borrowed, so it is open; SIOCOUTQ (TIOCOUTQ by another name) writes one int.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        (result == 0).then_some(bytes).and_then(|bytes| u32::try_from(bytes).ok())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

#[cfg(all(fuzzing, target_os = "linux"))]
pub(crate) mod fuzz {
    //! What the fuzz targets call.

    use overdue_core::kernel::{netlink, tcp_info};

    /// A datagram from netlink.
    pub fn sock_diag(bytes: &[u8]) {
        for message in netlink::messages(bytes) {
            let _ = (message.inet_socket(), message.is_local_route());
        }
    }

    /// A `struct tcp_info` of any length.
    pub fn tcp_info(bytes: &[u8]) {
        let _ = tcp_info::parse(bytes);
    }
}
