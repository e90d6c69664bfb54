//! Accepts blocking connections, with a deadline.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Weak},
};

use rustix::event::PollFlags;
use socket2::{SockAddr, Socket};

use super::{
    Handle, Interrupter, Options, Stream,
    connection::{ACCEPT, Connection, Control},
    wait::{Ended, Wait},
};

/// Accepts TCP or Unix connections as [`Stream`]s. The [accept deadline](Handle::set_accept_deadline) of its handle bounds
/// `accept`, and closing it ends it.
///
/// Several threads may accept at once; each connection goes to one of them.
pub struct Listener {
    socket: Socket,
    handle: Handle,
    interrupter: Interrupter,
    options: Options,
}

/// What `accept` reports of a connection that failed before it was taken, and not of the listener: accept(2).
const OF_A_CONNECTION: [i32; 7] = [
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
];

impl Listener {
    /// Listens at a TCP address, with the default [`Options`]; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of the system: the address is in use, or not this machine's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Options::new().bind(address)
    }

    pub(super) fn new(socket: Socket, options: &Options) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let handle = Handle { control: Arc::new(Control::default()), connection: Weak::new() };
        Ok(Self { socket, handle, interrupter: options.own_interrupter(), options: options.clone() })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// In a stage named `accept`: `TimedOut` where the limit fired, `ConnectionAborted` when it was interrupted or
    /// closed, or what the system reports. When descriptors ran out
    /// ([`Cause::FdExhausted`](crate::Cause::FdExhausted)) the connection waits on: pause before the next `accept`,
    /// which would fail at once.
    pub fn accept(&self) -> io::Result<Stream> {
        let (socket, peer) = self.waiting().run(|| self.take()).map_err(|ended| self.explain(ended))?;
        Ok(self.stream(socket, &peer))
    }

    /// Takes a connection that is here.
    ///
    /// # Errors
    /// `WouldBlock` when none is here, else as [`accept`](Self::accept).
    pub fn try_accept(&self) -> io::Result<Stream> {
        match self.waiting().attempt(|| self.take()) {
            Ok(Some((socket, peer))) => Ok(self.stream(socket, &peer)),
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
            Err(ended) => Err(self.explain(ended)),
        }
    }

    fn take(&self) -> io::Result<(Socket, SockAddr)> {
        match self.socket.accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
            // That one is gone; there may be another.
            Err(err) if err.raw_os_error().is_some_and(|code| OF_A_CONNECTION.contains(&code)) => {
                Err(io::ErrorKind::Interrupted.into())
            }
            result => result,
        }
    }

    fn stream(&self, socket: Socket, peer: &SockAddr) -> Stream {
        let connection = match peer.as_socket() {
            Some(peer) => Connection::tcp(socket, peer),
            None => Connection::unix(socket, peer.as_pathname().map(Into::into)),
        };
        Stream::new(connection, &self.options, self.options.own_interrupter())
    }

    fn waiting(&self) -> Wait<'_> {
        Wait {
            fd: self.socket.as_fd(),
            events: PollFlags::IN,
            stage: ACCEPT,
            side: &self.handle.control.read,
            interrupters: [self.handle.life(), &self.interrupter],
            spin: self.options.spin,
            until_signal: self.options.until_signal,
        }
    }

    fn explain(&self, ended: Ended) -> io::Error {
        self.handle.control.explain(ACCEPT, ended, None)
    }

    /// What sets the deadline from anywhere, and closes the listener. The port is free when the listener is dropped.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What interrupts `accept` from anywhere: that of the [`Options`], or its own.
    #[must_use]
    pub const fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// Where it listens, over TCP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("local", &self.local_addr()).finish_non_exhaustive()
    }
}
