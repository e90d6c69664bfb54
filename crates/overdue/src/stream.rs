//! Connections for protocols of your own, with deadlines that can be moved at any time.
//!
//! A [`Stream`] is a TCP or Unix socket, TLS over it, or any pair of reader and writer. Its two directions each have a
//! deadline and an idle limit, with the contract that users of Go's `net.Conn` know, and kept better:
//!
//! - A deadline can be set, moved and cleared by anybody who holds the [`Handle`], from any thread, at any time. It
//!   holds for the operation that is pending now and for all that follow, until it is set anew.
//! - A deadline that has passed before an operation begins fails it at once: the socket is not touched. From then on
//!   the socket is asked before the clock: bytes that are here win over a deadline that has just passed.
//! - After a deadline fired, setting another makes the direction usable again. A read that timed out has consumed
//!   nothing; of a write that timed out nothing went out, and [`Handle::bytes_written`] tells how far the ones before
//!   it got (those inside of `write_all`, say). Over TLS that is what was handed to TLS, and only a flush that returns
//!   says that it went out.
//! - An idle limit counts while an operation waits, and begins anew with every byte that moves: for a write on a
//!   socket also with those that the peer takes from the kernel's queue. What happens between operations is the
//!   caller's own time.
//! - Of all that apply the earliest fires, and the error names it with its owner.
//!
//! Errors are [`io::Error`]s. Where a limit fired the kind is [`TimedOut`](io::ErrorKind::TimedOut), where somebody
//! closed the stream [`ConnectionAborted`](io::ErrorKind::ConnectionAborted); what the system reports keeps its kind.
//! [`Error::find`] finds in them the stage (`receive` or `send`), the limit with its origin, and the judged cause with
//! the kernel's evidence.
//!
//! **Cancel safety.** Every poll method is: what waits goes on where it was. An operation whose future was dropped
//! half-way counts as pending until the next one of its direction gets a result.
//!
//! A line protocol that gives the peer 5 s of silence at most, and each line 30 s:
//!
//! ```
//! use std::{io, time::Duration};
//! use overdue::{Limit, LimitName, Stage, stream::Stream};
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
//!
//! async fn ask(stream: Stream, question: &str) -> io::Result<String> {
//!     let handle = stream.handle().clone();
//!     handle.set_read_idle(Some(Limit::new(LimitName::Gap, Duration::from_secs(5))));
//!
//!     let (reader, mut writer) = stream.split();
//!     handle.set_deadline(Duration::from_secs(30));
//!     writer.write_all(format!("{question}\n").as_bytes()).await?;
//!     let mut answer = String::new();
//!     BufReader::new(reader).read_line(&mut answer).await?;
//!     handle.set_deadline(None);
//!     Ok(answer)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> io::Result<()> {
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
//! # let (mut server, _) = listener.accept().await?;
//! # server.write_all(b"42\n").await?;
//! assert_eq!(ask(Stream::from_tcp(client)?, "6 * 7").await?, "42\n");
//! # Ok(()) }
//! ```

mod adapt;
mod connect;
mod listen;
mod operation;

use std::{
    fmt, io,
    net::SocketAddr,
    panic::Location,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use overdue_core::{Limit, Stage};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub use self::{
    adapt::{AtMost, Bounded, Chained, TooLong},
    connect::Connector,
    listen::Listener,
};
use self::{
    listen::ACCEPT,
    operation::{Operation, Side},
};
pub use crate::until::Until;
use crate::{
    Context, Error, clock,
    transport::Transport,
    wire::{Peer, WeakWire, Wire},
};

/// A connection whose two directions have deadlines and idle limits of their own.
///
/// Dropping it closes the connection, whoever holds a [`Handle`].
#[derive(Debug)]
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

/// What comes in. The other half may be used by another task at the same time.
///
/// The connection is closed when both halves are dropped. Dropping one says nothing to the peer.
pub struct ReadHalf {
    io: Box<dyn AsyncRead + Send + Sync + Unpin>,
    operation: Operation,
}

/// What goes out. Shutting it down (`AsyncWriteExt::shutdown`) tells the peer that no more comes; the other half goes
/// on reading.
///
/// The connection is closed when both halves are dropped. Dropping one says nothing to the peer.
pub struct WriteHalf {
    io: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    operation: Operation,
}

/// Sets the limits of a stream, and closes it, from anywhere. It does not keep the connection open.
#[derive(Clone)]
pub struct Handle {
    /// Cancelled when the stream is closed.
    life: Context,
    read: Arc<Side>,
    write: Arc<Side>,
    socket: Option<WeakWire>,
}

impl Handle {
    fn new(socket: Option<WeakWire>) -> Self {
        Self { socket, ..Self::in_context(Context::root()) }
    }

    fn in_context(life: Context) -> Self {
        Self { life, read: Arc::default(), write: Arc::default(), socket: None }
    }

    fn note_read(&self, bytes: usize) {
        self.read.moved(bytes);
    }

    fn note_written(&self, bytes: usize) {
        self.write.moved(bytes);
        self.read.set_mark();
    }

    fn operation(&self, stage: Stage, wire: Option<&Wire>) -> Operation {
        Operation::new(stage, self.clone(), wire.cloned())
    }

    /// Sets, moves or clears the deadline of both directions.
    #[track_caller]
    pub fn set_deadline(&self, until: impl Into<Until>) {
        let (until, caller, now) = (until.into(), Location::caller(), clock::now());
        self.read.set_deadline(until.clone().deadline(Stage::Receive, caller, now));
        self.write.set_deadline(until.deadline(Stage::Send, caller, now));
    }

    /// Sets, moves or clears the deadline of reads, the pending one included.
    #[track_caller]
    pub fn set_read_deadline(&self, until: impl Into<Until>) {
        self.read.set_deadline(until.into().deadline(Stage::Receive, Location::caller(), clock::now()));
    }

    /// Sets, moves or clears the deadline of writes, flushes and shutdowns, the pending one included.
    #[track_caller]
    pub fn set_write_deadline(&self, until: impl Into<Until>) {
        self.write.set_deadline(until.into().deadline(Stage::Send, Location::caller(), clock::now()));
    }

    /// Sets, moves or clears the deadline of a [`Listener`]'s `accept`, the pending one included. (Of a stream it would
    /// be that of reads, under another name.)
    #[track_caller]
    pub fn set_accept_deadline(&self, until: impl Into<Until>) {
        self.read.set_deadline(until.into().deadline(ACCEPT, Location::caller(), clock::now()));
    }

    /// How long the peer may be silent while a read waits; [`LimitName::Gap`](crate::LimitName::Gap) is the name for it.
    /// For the pending read the time counts from its start.
    pub fn set_read_idle(&self, limit: Option<Limit>) {
        self.read.set_idle(limit);
    }

    /// How long the peer may take nothing while a write waits. For the pending write the time counts from its start.
    ///
    /// That the peer took bytes is noticed when the limit would fire, so it may fire up to as much later.
    pub fn set_write_idle(&self, limit: Option<Limit>) {
        self.write.set_idle(limit);
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.bytes()
    }

    /// Bytes written so far: taken by the kernel, or by TLS.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.write.bytes()
    }

    /// Closes the stream for everybody: what is pending, and whatever is begun later, fails with an error that names
    /// the line of this call. A socket is shut down at once in both directions, without a farewell of TLS; its
    /// descriptor is freed when the stream (or both halves) are dropped. Returns whether this call was the first.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn close(&self) -> bool {
        let first = self.life.cancel("the stream was closed");
        if let Some(socket) = &self.socket {
            socket.shut_down();
        }
        first
    }

    /// Whether somebody closed the stream through a handle.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.life.is_cancelled()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("bytes_read", &self.bytes_read())
            .field("bytes_written", &self.bytes_written())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Connects to `host:port` (`[::1]:80` for an IPv6 address) or `unix:/a/path`, without TLS and with the defaults of
    /// [`Connector`]. Who connects often keeps a `Connector`: it has the resolver's cache.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future closes what was connected.
    pub async fn connect(context: &Context, target: &str) -> Result<Self, Error> {
        Connector::new().connect(context, target).await
    }

    /// A connection that is there already.
    ///
    /// # Errors
    /// When it has no peer: it is not connected any more.
    pub fn from_tcp(stream: TcpStream) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        Ok(Self::from_wire(Wire::tcp(stream, peer)))
    }

    /// A connection that is there already.
    #[cfg(unix)]
    #[must_use]
    pub fn from_unix(stream: tokio::net::UnixStream) -> Self {
        let path = stream.peer_addr().ok().and_then(|peer| peer.as_pathname().map(Into::into));
        Self::from_wire(Wire::unix(stream, path.unwrap_or_else(|| "unix socket".into())))
    }

    /// Any other transport, from its two halves (those of [`tokio::io::split`], say). Its errors have no evidence of a
    /// socket, and [`Handle::close`] wakes those who wait but cannot tell the transport.
    pub fn from_halves<R, W>(reader: R, writer: W) -> Self
    where
        R: AsyncRead + Send + Sync + Unpin + 'static,
        W: AsyncWrite + Send + Sync + Unpin + 'static,
    {
        Self::new(Box::new(reader), Box::new(writer), None)
    }

    fn from_wire(wire: Wire) -> Self {
        Self::new(Box::new(wire.clone()), Box::new(wire.clone()), Some(&wire))
    }

    pub(crate) fn from_transport(transport: Transport) -> Self {
        match transport {
            Transport::Plain(wire) => Self::from_wire(wire),
            Transport::Tls(stream) => {
                let wire = stream.get_ref().0.clone();
                let (reader, writer) = tokio::io::split(stream);
                Self::new(Box::new(reader), Box::new(writer), Some(&wire))
            }
        }
    }

    fn new(
        reader: Box<dyn AsyncRead + Send + Sync + Unpin>,
        writer: Box<dyn AsyncWrite + Send + Sync + Unpin>,
        wire: Option<&Wire>,
    ) -> Self {
        let handle = Handle::new(wire.map(Wire::downgrade));
        let read = ReadHalf { io: reader, operation: handle.operation(Stage::Receive, wire) };
        let write = WriteHalf { io: writer, operation: handle.operation(Stage::Send, wire) };
        Self { read, write }
    }

    /// What sets the limits of this stream from anywhere, and closes it.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        self.read.handle()
    }

    /// See [`Handle::set_deadline`].
    #[track_caller]
    pub fn set_deadline(&self, until: impl Into<Until>) {
        self.handle().set_deadline(until);
    }

    /// See [`Handle::set_read_deadline`].
    #[track_caller]
    pub fn set_read_deadline(&self, until: impl Into<Until>) {
        self.handle().set_read_deadline(until);
    }

    /// See [`Handle::set_write_deadline`].
    #[track_caller]
    pub fn set_write_deadline(&self, until: impl Into<Until>) {
        self.handle().set_write_deadline(until);
    }

    /// Both directions, for two tasks. Limits, counts and handles stay what they are.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// The other end's address, over TCP.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self.read.operation.wire()?.peer() {
            Peer::Addr(addr) => Some(*addr),
            Peer::Path(_) => None,
        }
    }

    /// The own address, over TCP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.read.operation.wire()?.local()
    }
}

impl ReadHalf {
    /// See [`Stream::handle`].
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        self.operation.handle()
    }
}

impl WriteHalf {
    /// See [`Stream::handle`].
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        self.operation.handle()
    }

    fn poll_moving(
        &mut self,
        cx: &mut TaskContext<'_>,
        work: impl FnOnce(Pin<&mut (dyn AsyncWrite + Send + Sync + Unpin)>, &mut TaskContext<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut *self.io);
        let poll = self.operation.poll_io(cx, |cx| work(io, cx));
        if let Poll::Ready(Ok(bytes)) = poll {
            self.operation.handle().note_written(bytes);
        }
        poll
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = this.operation.poll_io(cx, |cx| Pin::new(&mut this.io).poll_read(cx, buf));
        if let Poll::Ready(Ok(())) = poll {
            this.operation.handle().note_read(buf.filled().len().saturating_sub(before));
        }
        poll
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_moving(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_moving(cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.operation.poll_io(cx, |cx| Pin::new(&mut this.io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = this.operation.poll_io(cx, |cx| Pin::new(&mut this.io).poll_shutdown(cx));
        if let Poll::Ready(Ok(())) = poll {
            this.operation.set_shut_down();
        }
        poll
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().write).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().write).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().write).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().write).poll_shutdown(cx)
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf").field("handle", self.handle()).finish_non_exhaustive()
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteHalf").field("handle", self.handle()).finish_non_exhaustive()
    }
}
