//! A blocking connection.

use std::{
    fmt,
    io::{self, IoSlice, Read, Write},
    net::{self, Shutdown, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use overdue_core::Stage;
use rustix::{
    event::PollFlags,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg},
};

use super::{
    Handle, Interrupter, Options, Until,
    connection::{Connection, Control},
    wait::{Ended, Wait},
};

/// A TCP or Unix connection for threads that block, whose two directions have deadlines and idle limits of their own.
///
/// `&Stream` reads and writes as [`Read`] and [`Write`]: share it between threads by reference or [`Arc`]. Several
/// threads may wait in one direction at once; every piece that comes goes to one of them.
///
/// Dropping it closes the connection, whoever holds a [`Handle`].
pub struct Stream {
    connection: Arc<Connection>,
    handle: Handle,
    interrupter: Interrupter,
    spin: Duration,
    until_signal: bool,
}

impl Stream {
    pub(super) fn new(connection: Connection, options: &Options, interrupter: Interrupter) -> Self {
        let connection = Arc::new(connection);
        let handle = Handle { control: Arc::new(Control::default()), connection: Arc::downgrade(&connection) };
        Self { connection, handle, interrupter, spin: options.spin, until_signal: options.until_signal }
    }

    /// Connects to a TCP address, with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::connect`].
    #[track_caller]
    pub fn connect(address: SocketAddr, until: impl Into<Until>) -> io::Result<Self> {
        Options::new().connect(address, until)
    }

    /// Connects to a Unix socket, with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::connect_unix`].
    #[track_caller]
    pub fn connect_unix(path: impl AsRef<Path>, until: impl Into<Until>) -> io::Result<Self> {
        Options::new().connect_unix(path, until)
    }

    /// A connection that is there already, with the default [`Options`]. It is made non-blocking.
    ///
    /// # Errors
    /// When it has no peer: it is not connected any more.
    pub fn from_tcp(stream: net::TcpStream) -> io::Result<Self> {
        Options::new().from_tcp(stream)
    }

    /// A connection that is there already, with the default [`Options`]. It is made non-blocking.
    ///
    /// # Errors
    /// Those of the system.
    pub fn from_unix(stream: UnixStream) -> io::Result<Self> {
        Options::new().from_unix(stream)
    }

    /// What sets the limits of this stream from anywhere, and closes it.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What interrupts operations of this stream from anywhere: that of the [`Options`], or its own.
    #[must_use]
    pub const fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// See [`Handle::set_deadline`].
    #[track_caller]
    pub fn set_deadline(&self, until: impl Into<Until>) {
        self.handle.set_deadline(until);
    }

    /// See [`Handle::set_read_deadline`].
    #[track_caller]
    pub fn set_read_deadline(&self, until: impl Into<Until>) {
        self.handle.set_read_deadline(until);
    }

    /// See [`Handle::set_write_deadline`].
    #[track_caller]
    pub fn set_write_deadline(&self, until: impl Into<Until>) {
        self.handle.set_write_deadline(until);
    }

    /// The other end's address, over TCP.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.connection.peer
    }

    /// The own address, over TCP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.connection.local
    }

    /// Ends one direction or both. After [`Shutdown::Write`] the peer reads to the end of what was sent, and reading
    /// goes on here. It never waits, whatever is still to be sent, but as an operation of that direction it fails when
    /// its deadline has passed.
    ///
    /// # Errors
    /// As [`write`](Write::write); `NotConnected` when the peer has reset the connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let stage = if how == Shutdown::Read { Stage::Receive } else { Stage::Send };
        self.run(stage, || self.connection.socket.shutdown(how))?;
        if stage == Stage::Send {
            self.handle.control.note_shut();
        }
        Ok(())
    }

    /// Reads what is here. Where nothing is, the read is pending from then on: with its next try, what has come wins
    /// over a deadline that has passed meanwhile.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is here, else as [`read`](Read::read).
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.attempt(Stage::Receive, || self.receive(buf))
    }

    /// Writes as much as the kernel takes now. Where it takes nothing, the write is pending from then on, as with
    /// [`try_read`](Self::try_read).
    ///
    /// # Errors
    /// `WouldBlock` when nothing can be written, else as [`write`](Write::write).
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.attempt(Stage::Send, || self.send(buf))
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let (bytes, _) = recv(&self.connection.socket, buf, RecvFlags::empty())?;
        self.handle.control.note_read(&self.connection, bytes);
        Ok(bytes)
    }

    fn send(&self, buf: &[u8]) -> io::Result<usize> {
        let bytes = send(&self.connection.socket, buf, SendFlags::NOSIGNAL)?;
        self.handle.control.note_written(bytes);
        Ok(bytes)
    }

    fn send_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        // More are refused by the kernel.
        let bufs = bufs.get(..1024).unwrap_or(bufs);
        let mut control = SendAncillaryBuffer::default();
        let bytes = sendmsg(&self.connection.socket, bufs, &mut control, SendFlags::NOSIGNAL)?;
        self.handle.control.note_written(bytes);
        Ok(bytes)
    }

    fn waiting(&self, stage: Stage) -> Wait<'_> {
        let control = &self.handle.control;
        Wait {
            fd: self.connection.socket.as_fd(),
            events: if stage == Stage::Send { PollFlags::OUT } else { PollFlags::IN },
            stage,
            side: control.side(stage),
            interrupters: [&control.life, &self.interrupter],
            spin: self.spin,
            until_signal: self.until_signal,
        }
    }

    fn run<T>(&self, stage: Stage, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.waiting(stage).run(attempt).map_err(|ended| self.explain(stage, ended))
    }

    fn attempt<T>(&self, stage: Stage, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match self.waiting(stage).attempt(attempt) {
            Ok(done) => done.ok_or_else(|| io::ErrorKind::WouldBlock.into()),
            Err(ended) => Err(self.explain(stage, ended)),
        }
    }

    fn explain(&self, stage: Stage, ended: Ended) -> io::Error {
        self.handle.control.explain(stage, ended, Some(&self.connection))
    }
}

/// # Errors
/// `TimedOut` where a limit fired: nothing was read. `ConnectionAborted` when it was interrupted or closed through a
/// handle. [`Error::find`](crate::Error::find) finds stage, limit, cause and evidence in them.
impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.run(Stage::Receive, || self.receive(buf))
    }
}

/// # Errors
/// As for reading; nothing of the write that failed went out. [`Handle::bytes_written`] tells how far the ones before
/// it came, such as those inside of `write_all`.
impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.run(Stage::Send, || self.send(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.run(Stage::Send, || self.send_vectored(bufs))
    }

    /// Does nothing: what was written is with the kernel.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.socket.as_fd()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("peer", &self.connection.peer)
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
