//! What a connection to a server is made of.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use http::HeaderMap;
use overdue::{socket, tls::Wire};
use overdue_core::facts::{H2Facts, SocketFacts};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::coop::unconstrained,
};
use tokio_rustls::client::TlsStream;

use crate::{http1::Trailing, http2::Outbound};

/// A connection to a server.
pub(crate) enum ServerIo {
    Plain(TcpStream),
    /// Boxed: its buffers would make every plain connection large.
    Tls(Box<TlsStream<Wire>>),
    /// One request on a connection of HTTP/2.
    Stream(Box<Outbound>),
}

impl ServerIo {
    /// What the kernel says of it now.
    pub(crate) fn observe(&self, peer: SocketAddr) -> SocketFacts {
        match self {
            Self::Plain(io) => socket::observe(io.as_fd(), io.local_addr().ok(), Some(peer)),
            Self::Tls(io) => io.get_ref().0.observe(),
            Self::Stream(io) => io.observe(),
        }
    }

    /// Whether the server has said that it did not look at the request: it may be sent again, whatever it is.
    pub(crate) fn was_refused(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) => false,
            Self::Stream(io) => io.was_refused(),
        }
    }

    /// What HTTP/2 itself is waiting for, where it is spoken.
    pub(crate) fn h2_facts(&self) -> Option<H2Facts> {
        match self {
            Self::Plain(_) | Self::Tls(_) => None,
            Self::Stream(io) => Some(io.facts()),
        }
    }

    /// Whether the server has neither closed it nor said anything that nobody has read. Asks the runtime, which asks the
    /// kernel only where something came. What TLS itself has to say (a ticket for another session that comes late, a new
    /// key) is no word of the server's, and is taken in here.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut seen = ReadBuf::new(&mut byte);
        // Unconstrained: an exhausted budget of the task would look like a healthy connection. Nobody waits, so nobody need
        // be woken.
        let mut cx = Context::from_waker(Waker::noop());
        match self {
            Self::Plain(io) => {
                pin!(unconstrained(poll_fn(|cx| io.poll_peek(cx, &mut seen)))).poll(&mut cx).is_pending()
            }
            Self::Tls(io) => {
                let io = &mut **io;
                pin!(unconstrained(poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut seen))))
                    .poll(&mut cx)
                    .is_pending()
            }
            Self::Stream(io) => !io.carrier().is_over(),
        }
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Stream(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl Trailing for ServerIo {
    fn may_have_trailers(&self) -> bool {
        matches!(self, Self::Stream(io) if io.may_have_trailers())
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        match self {
            Self::Plain(_) | Self::Tls(_) => Poll::Ready(Ok(None)),
            Self::Stream(io) => io.poll_trailers(cx),
        }
    }

    fn awaits_trailers(&mut self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) => false,
            Self::Stream(io) => io.awaits_trailers(),
        }
    }

    fn end_with(&mut self, trailers: Option<HeaderMap>) {
        if let Self::Stream(io) = self {
            io.end_with(trailers);
        }
    }
}
