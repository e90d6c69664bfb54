//! One end of a connection, and the buffers that it borrows.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Buf as _, BytesMut};
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// Bytes that are read at a time. What a head needs beyond that is added, up to the longest head there may be.
const SIZE: usize = 16 * 1024;
/// What comes behind a request before its answer is read no further.
const AHEAD_MAX: usize = SIZE;
/// Buffers that lie ready; more are given back to the allocator.
const SPARE_MAX: usize = 64;

/// The buffers of one worker that nobody needs now.
#[derive(Default)]
pub(crate) struct Buffers(RefCell<Vec<BytesMut>>);

impl Buffers {
    pub(crate) fn lend(&self) -> BytesMut {
        self.0.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(SIZE))
    }

    pub(crate) fn take_back(&self, mut buf: BytesMut) {
        buf.clear();
        let mut spare = self.0.borrow_mut();
        // One that grew for a long head is not kept; nor is the rest of one whose front was given away.
        if spare.len() < SPARE_MAX && buf.try_reclaim(SIZE) && buf.capacity() < 2 * SIZE {
            spare.push(buf);
        }
    }
}

/// What is at one end of an exchange. Of HTTP/2 a body of known length may have trailers; bytes have no place for them.
pub(crate) trait Trailing: AsyncRead + AsyncWrite + Unpin {
    /// Whether trailers may come behind the body that is read, which has a length.
    fn may_have_trailers(&self) -> bool {
        false
    }

    /// Those that came behind it; ready once that is known.
    fn poll_trailers(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        Poll::Ready(Ok(None))
    }

    /// True where a body of known length can be written with trailers: from then on it ends with [`end_with`](Self::end_with).
    fn awaits_trailers(&mut self) -> bool {
        false
    }

    fn end_with(&mut self, _: Option<HeaderMap>) {}
}

impl Trailing for TcpStream {}
impl Trailing for TlsStream<TcpStream> {}
#[cfg(test)]
impl Trailing for tokio::io::DuplexStream {}

/// One end of a connection, with what was read from it and not used yet.
#[derive(Debug)]
pub(crate) struct Side<S> {
    pub(crate) io: S,
    buf: BytesMut,
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io, buf: BytesMut::new(), read: 0, written: 0 }
    }

    /// The connection, and what was read from it and not used.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.buf)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    pub(crate) fn used(&mut self, bytes: usize) {
        self.buf.advance(bytes);
    }

    /// Gives the buffer back unless something is in it.
    pub(crate) fn rest(&mut self, buffers: &Buffers) {
        if self.buf.is_empty() && self.buf.capacity() > 0 {
            buffers.take_back(std::mem::take(&mut self.buf));
        }
    }

    /// Reads more behind what is there. 0 is the end. A connection that has nothing to say keeps no buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<io::Result<usize>> {
        if self.buf.capacity() == 0 {
            self.buf = buffers.lend();
        } else if self.buf.len() == self.buf.capacity() {
            self.buf.reserve(SIZE);
        }
        let poll = pin!(self.io.read_buf(&mut self.buf)).poll(cx);
        match &poll {
            Poll::Ready(Ok(bytes)) => self.read += *bytes as u64,
            _ => self.rest(buffers),
        }
        poll
    }

    /// Ready once it has closed, with how. What it says before that is read only so far.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<String> {
        // Until nothing more comes: only then does the runtime tell of what follows.
        while self.buf.len() < AHEAD_MAX {
            match self.poll_fill(cx, buffers) {
                Poll::Ready(Ok(0)) => return Poll::Ready("it closed before it had its answer".to_owned()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(err)) => return Poll::Ready(err.to_string()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Writes some of `first` and then of `then`.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, first: &[u8], then: &[u8]) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.io);
        let poll = match (first, then) {
            (only, []) | ([], only) => io.poll_write(cx, only),
            _ => io.poll_write_vectored(cx, &[io::IoSlice::new(first), io::IoSlice::new(then)]),
        };
        match poll {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(bytes)) => {
                self.written += bytes as u64;
                Poll::Ready(Ok(bytes))
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_do_not_pile_up() {
        let buffers = Buffers::default();
        let mut buf = buffers.lend();
        buf.extend_from_slice(&[1; 100]);
        buf.advance(50);
        let at = buf.as_ptr().addr() - 50;
        buffers.take_back(buf);
        let again = buffers.lend();
        assert_eq!((again.as_ptr().addr(), again.len()), (at, 0));
        let mut grown = again;
        grown.reserve(4 * SIZE);
        buffers.take_back(grown);
        assert!(buffers.0.borrow().is_empty());
        (0..SPARE_MAX + 9).map(|_| BytesMut::with_capacity(SIZE)).for_each(|buf| buffers.take_back(buf));
        assert_eq!(buffers.0.borrow().len(), SPARE_MAX);
    }
}
