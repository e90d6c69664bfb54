//! The own socket, with what crossed it.
//!
//! A [`Wire`] is shared: the connection reads and writes through it, and a call that fails looks at the same socket
//! without owning it and without a duplicate of its descriptor, so that evidence never keeps a connection open longer
//! than the error that holds it.

#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::{
    fmt, io,
    net::{Shutdown, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use overdue_core::facts::SocketFacts;
#[cfg(unix)]
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::{clock, socket};

/// A connected socket that counts. Clones share it: whoever keeps one can look at the socket after what was done with
/// another has failed. It is closed when the last one is dropped.
#[derive(Clone)]
pub struct Wire(Arc<Shared>);

/// A [`Wire`] that does not keep the socket open.
#[derive(Clone)]
pub(crate) struct WeakWire(Weak<Shared>);

struct Shared {
    io: Io,
    peer: Peer,
    local: Option<SocketAddr>,
    born: Instant,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    /// When bytes were last read: nanoseconds after `born`, 0 for never.
    last_read_ns: AtomicU64,
    /// What the peer said first: enough to tell what it speaks.
    first_bytes: OnceLock<Box<[u8]>>,
}

const FIRST_BYTES: usize = 48;

enum Io {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// The other end of a [`Wire`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// An address.
    Addr(SocketAddr),
    /// A Unix socket.
    Path(PathBuf),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl Wire {
    /// A connection to `peer`.
    #[must_use]
    pub fn tcp(stream: TcpStream, peer: SocketAddr) -> Self {
        let local = stream.local_addr().ok();
        Self::new(Io::Tcp(stream), Peer::Addr(peer), local)
    }

    #[cfg(unix)]
    pub(crate) fn unix(stream: tokio::net::UnixStream, path: PathBuf) -> Self {
        Self::new(Io::Unix(stream), Peer::Path(path), None)
    }

    fn new(io: Io, peer: Peer, local: Option<SocketAddr>) -> Self {
        Self(Arc::new(Shared {
            io,
            peer,
            local,
            born: clock::now(),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            last_read_ns: AtomicU64::new(0),
            first_bytes: OnceLock::new(),
        }))
    }

    /// The other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// The own end, for TCP.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// Bytes read so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.0.read_bytes.load(Relaxed)
    }

    /// Bytes handed to the kernel so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.0.written_bytes.load(Relaxed)
    }

    /// When bytes were last read, if ever.
    #[must_use]
    pub fn last_read(&self) -> Option<Instant> {
        let ns = self.0.last_read_ns.load(Relaxed);
        (ns > 0).then(|| self.0.born + Duration::from_nanos(ns))
    }

    /// The kernel's name for this socket, for as long as it exists: the key under which other tools know it.
    pub(crate) fn cookie(&self) -> Option<u64> {
        #[cfg(target_os = "linux")]
        let cookie = match &self.0.io {
            Io::Tcp(stream) => socket2::SockRef::from(stream).cookie().ok(),
            Io::Unix(stream) => socket2::SockRef::from(stream).cookie().ok(),
        };
        #[cfg(not(target_os = "linux"))]
        let cookie = None;
        cookie
    }

    /// The first bytes that were read, at most 48.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        self.0.first_bytes.get().map(AsRef::as_ref).unwrap_or_default()
    }

    /// What the kernel says about the socket now.
    #[must_use]
    pub fn observe(&self) -> SocketFacts {
        let facts = match &self.0.io {
            #[cfg(unix)]
            Io::Tcp(stream) => {
                let peer = match self.0.peer {
                    Peer::Addr(addr) => Some(addr),
                    Peer::Path(_) => None,
                };
                socket::observe(stream.as_fd(), self.0.local, peer)
            }
            #[cfg(not(unix))]
            Io::Tcp(_) => SocketFacts::default(),
            #[cfg(unix)]
            Io::Unix(_) => SocketFacts::default(),
        };
        SocketFacts { peer: self.0.peer.to_string(), ..facts }
    }

    /// What left the send queue so far, on a scale of its own: it grows while the peer takes bytes. `None` where the
    /// platform does not say.
    pub(crate) fn drained(&self) -> Option<i64> {
        #[cfg(target_os = "linux")]
        let waiting = {
            match &self.0.io {
                Io::Tcp(stream) => socket::unacknowledged_bytes(stream.as_fd()),
                Io::Unix(stream) => socket::unacknowledged_bytes(stream.as_fd()),
            }
        };
        #[cfg(not(target_os = "linux"))]
        let waiting: Option<u32> = None;
        // A Unix socket counts memory, which is more than the bytes in it.
        waiting.map(|waiting| i64::try_from(self.written_bytes()).unwrap_or(i64::MAX).saturating_sub(waiting.into()))
    }

    pub(crate) fn downgrade(&self) -> WeakWire {
        WeakWire(Arc::downgrade(&self.0))
    }

    /// Ready once a read may find something.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.io.poll_read_ready(cx)
    }

    /// Whether the peer has said something, or closed, that nobody has read. Without a look at it: the answer of
    /// `poll_read_ready` may be old.
    pub(crate) fn has_unread(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peek = match &self.0.io {
            Io::Tcp(stream) => socket2::SockRef::from(stream).peek(&mut byte),
            #[cfg(unix)]
            Io::Unix(stream) => socket2::SockRef::from(stream).peek(&mut byte),
        };
        // The socket does not block.
        !matches!(peek, Err(err) if err.kind() == io::ErrorKind::WouldBlock)
    }

    fn note_read(&self, read: &[u8]) {
        if !read.is_empty() {
            if self.0.read_bytes.fetch_add(read.len() as u64, Relaxed) == 0 {
                let _ = self.0.first_bytes.set(read.get(..FIRST_BYTES).unwrap_or(read).into());
            }
            let ns = clock::now().saturating_duration_since(self.0.born).as_nanos();
            self.0.last_read_ns.store(u64::try_from(ns).unwrap_or(u64::MAX).max(1), Relaxed);
        }
    }

    fn poll_written(&self, cx: &mut Context<'_>, write: impl Fn(&Io) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.io.poll_write_ready(cx))?;
            match write(&self.0.io) {
                Ok(bytes) => {
                    self.0.written_bytes.fetch_add(bytes as u64, Relaxed);
                    return Poll::Ready(Ok(bytes));
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
    }
}

impl WeakWire {
    /// Ends both directions for everybody who shares the socket. What is open of it goes with the last of them.
    pub(crate) fn shut_down(&self) {
        if let Some(shared) = self.0.upgrade() {
            // The peer may have ended the connection before.
            let _ = shared.io.shutdown(Shutdown::Both);
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.0.peer).field("local", &self.0.local).finish_non_exhaustive()
    }
}

impl Io {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Reads into the room of `buf`, which is not initialized first. A read that does not fill it has emptied the socket:
    /// the runtime is told so, as it is after EAGAIN, and the next look at the socket costs no system call.
    #[cfg(unix)]
    #[expect(unsafe_code, reason = "16 KiB of zeroes for each read of some hundred bytes are not free")]
    fn try_read(&self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let (mut bytes, room) = (0, buf.remaining());
        let mut read = |fd: BorrowedFd<'_>| {
            // SAFETY: nothing is written to the room but by `recv`, which takes no initialized byte away.
            let free = unsafe { buf.unfilled_mut() };
            bytes = rustix::net::recv(fd, free, RecvFlags::empty())?.0.0.len();
            if 0 < bytes && bytes < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let outcome = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || read(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || read(stream.as_fd())),
        };
        // SAFETY: the kernel has filled so many.
        unsafe { buf.assume_init(bytes) };
        buf.advance(bytes);
        if bytes > 0 { Ok(bytes) } else { outcome.map(|()| 0) }
    }

    #[cfg(not(unix))]
    fn try_read(&self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(buf),
        }
    }

    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(buf),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_write(buf),
        }
    }

    fn try_write_vectored(&self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(bufs),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_write_vectored(bufs),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream).shutdown(how),
            #[cfg(unix)]
            Self::Unix(stream) => socket2::SockRef::from(stream).shutdown(how),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &self.0;
        loop {
            ready!(shared.io.poll_read_ready(cx))?;
            let before = buf.filled().len();
            match shared.io.try_read(buf) {
                Ok(_) => {
                    self.note_read(buf.filled().get(before..).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |io| io.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |io| io.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.io.shutdown(Shutdown::Write))
    }
}
