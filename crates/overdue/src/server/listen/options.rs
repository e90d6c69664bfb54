//! How a listener is made, and whom it tells.

use std::{
    fmt, io,
    net::{self, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{AcceptFailure, Connections, Listener};
use crate::Keepalive;

/// Whether connections have the options that their listener had when they came.
const INHERITED: bool = cfg!(target_os = "linux");
/// No more connections than these wait in a listener that is handed over, without its new options.
const WAITING_MAX: u64 = 65_536;

type Words = Arc<dyn Fn(Refused) -> Bytes + Send + Sync>;
type OnEvent = Arc<dyn Fn(&ListenerEvent) + Send + Sync>;

/// How a [`Listener`] is made.
///
/// | option | default |
/// |---|---|
/// | [`backlog`](Self::backlog) | 4096; the kernel allows no more than `net.core.somaxconn` |
/// | [`reuse_port`](Self::reuse_port) | off |
/// | [`only_v6`](Self::only_v6) | off: an IPv6 listener takes IPv4, too |
/// | [`defer_accept`](Self::defer_accept) | off |
/// | [`nodelay`](Self::nodelay) | on |
/// | [`keepalive`](Self::keepalive) | that of [`Keepalive::default`] |
/// | [`connections`](Self::connections) | no limit |
/// | [`pause`](Self::pause) | 10 ms |
/// | [`refusal`](Self::refusal) | nothing is said |
/// | [`on_event`](Self::on_event) | nobody is told |
#[derive(Clone)]
#[must_use = "options do nothing until something is made with them"]
pub struct ListenOptions {
    backlog: u32,
    reuse_port: bool,
    only_v6: bool,
    defer_accept: Option<Duration>,
    nodelay: bool,
    keepalive: Option<Keepalive>,
    pub(super) connections: Connections,
    pub(super) pause: Duration,
    words: Option<Words>,
    on_event: Option<OnEvent>,
}

/// Why a connection was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No descriptor was left for it.
    #[error("no descriptor is left")]
    Exhausted,
    /// There are too many connections.
    #[error("too many connections")]
    Total,
    /// There are too many from its source.
    #[error("too many connections from one source")]
    Source,
}

/// What happens to a listener.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ListenerEvent {
    /// Nothing can be accepted from now on. Told once, until it has recovered.
    Exhausted {
        /// What is missing.
        failure: AcceptFailure,
    },
    /// Connections are accepted again.
    Recovered {
        /// How long none was.
        after: Duration,
    },
    /// A connection was refused. While descriptors are missing that is one for each pause at most; above the limits it
    /// is as often as peers connect.
    Refused {
        /// The other end.
        peer: SocketAddr,
        /// Why.
        why: Refused,
    },
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: false,
            only_v6: false,
            defer_accept: None,
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            connections: Connections::default(),
            pause: Duration::from_millis(10),
            words: None,
            on_event: None,
        }
    }
}

impl ListenOptions {
    /// The defaults above.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many connections may wait to be accepted.
    pub const fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// `SO_REUSEPORT`: several sockets may listen at the same address, and the kernel shares the connections out.
    pub const fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// `IPV6_V6ONLY`: an IPv6 listener takes no IPv4. Set either way, whatever the machine's default is.
    pub const fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = on;
        self
    }

    /// `TCP_DEFER_ACCEPT` (Linux): a connection is accepted when its first bytes are there, or when this time has passed,
    /// rounded to the retransmits of a SYN-ACK (1 s, 3 s, 7 s, ...). Only for protocols in which the client speaks first.
    pub const fn defer_accept(mut self, most: Option<Duration>) -> Self {
        self.defer_accept = most;
        self
    }

    /// `TCP_NODELAY` of the connections.
    pub const fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// TCP keepalive of the connections; `None` leaves it off.
    pub const fn keepalive(mut self, keepalive: Option<Keepalive>) -> Self {
        self.keepalive = keepalive;
        self
    }

    /// What counts and limits the connections. Listeners may share one.
    pub fn connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }

    /// How long to wait, at most, after nothing could be accepted, and between two that are refused for want of a
    /// descriptor. For want of memory it doubles each time, up to 64 times as long. At least 1 ms.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause.max(Duration::from_millis(1));
        self
    }

    /// What a peer is told before its connection is closed: an answer of the protocol that is spoken here, of some
    /// hundred bytes. It is written once, without waiting; then our side is shut down, what has come is read and the
    /// connection is closed, so that the peer sees an end and no reset, if it had sent no more than 64 KiB by then.
    pub fn refusal(mut self, words: impl Fn(Refused) -> Bytes + Send + Sync + 'static) -> Self {
        self.words = Some(Arc::new(words));
        self
    }

    /// Whom to tell. Called from within `accept`: it must not block.
    pub fn on_event(mut self, on_event: impl Fn(&ListenerEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(on_event));
        self
    }

    /// Listens at `address`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of the system: the address is in use, or not this machine's.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has I/O.
    pub fn bind(self, address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Without it no address can be bound again while old connections are in TIME-WAIT.
        socket.set_reuse_address(true)?;
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(self.only_v6)?;
        }
        socket.bind(&address.into())?;
        self.listen(socket, if INHERITED { 0 } else { u64::MAX })
    }

    /// Listens with a socket that is bound, or listens already: one that was handed over.
    ///
    /// # Errors
    /// Those of the system: it is no TCP socket, or not bound.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has I/O.
    pub fn from_std(self, listener: net::TcpListener) -> io::Result<Listener> {
        self.listen(listener.into(), if INHERITED { WAITING_MAX } else { u64::MAX })
    }

    /// Where connections inherit their options they are set once, here.
    fn listen(self, socket: Socket, bare: u64) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        #[cfg(target_os = "linux")]
        {
            self.apply(SockRef::from(&socket))?;
            if let Some(most) = self.defer_accept {
                set_defer_accept(&socket, most)?;
            }
        }
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(Listener::new(TcpListener::from_std(socket.into())?, self, bare))
    }

    /// Sets the options of a connection that did not inherit them. One that has ended meanwhile takes none, which its
    /// first read tells.
    pub(super) fn prepare(&self, stream: &TcpStream) {
        let _ = self.apply(SockRef::from(stream));
    }

    fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        match self.keepalive {
            Some(keepalive) => keepalive.apply(socket),
            None => socket.set_keepalive(false),
        }
    }

    pub(super) fn tell(&self, event: &ListenerEvent) {
        if let Some(on_event) = &self.on_event {
            on_event(event);
        }
    }

    pub(super) fn words(&self, why: Refused) -> Bytes {
        self.words.as_ref().map(|words| words(why)).unwrap_or_default()
    }
}

#[cfg(target_os = "linux")]
fn set_defer_accept(socket: &Socket, most: Duration) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let secs = libc::c_int::try_from(most.as_secs().max(1)).unwrap_or(libc::c_int::MAX);
    #[expect(clippy::cast_possible_truncation, reason = "4")]
    let size = size_of_val(&secs) as libc::socklen_t;
    // SAFETY: the option takes an int; its address and size are given, and the socket is open while it is borrowed.
    #[expect(unsafe_code, reason = "neither socket2 nor rustix has this option")]
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, (&raw const secs).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("backlog", &self.backlog)
            .field("reuse_port", &self.reuse_port)
            .field("only_v6", &self.only_v6)
            .field("defer_accept", &self.defer_accept)
            .field("nodelay", &self.nodelay)
            .field("keepalive", &self.keepalive)
            .field("connections", &self.connections)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}
