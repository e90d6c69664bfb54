//! A connection as the server sees it: plain or inside TLS, with what was read and not yet used.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// The most that is read ahead, and the largest head or record that is waited for.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Why a connection came to its end before its script did.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The caller left. It may: its limit fired.
    CallerLeft,
    /// The server could not do what it was told to.
    Broken(String),
    /// The same in a handshake. The connection stays open until this is noted, so that a caller who sees its end can
    /// read why.
    NoHandshake(String, TcpStream),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut => Self::CallerLeft,
            _ => Self::Broken(error.to_string()),
        }
    }
}

/// The bytes of a connection, with TLS taken off where there is any.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The TCP connection underneath.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// What was read and not yet used.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: BytesMut,
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads until `find` knows how long the message at the front is, and takes it out.
    pub(crate) async fn message(
        &mut self,
        wire: &mut Wire,
        find: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<BytesMut, Ended> {
        loop {
            if let Some(length) = find(&self.bytes).filter(|length| *length <= self.bytes.len()) {
                return Ok(self.bytes.split_to(length));
            }
            if self.bytes.len() >= READ_AHEAD_BYTES {
                return Err(Ended::Broken(format!("the caller sent {READ_AHEAD_BYTES} bytes without an end")));
            }
            if (&mut *wire).take(READ_AHEAD_BYTES as u64).read_buf(&mut self.bytes).await? == 0 {
                return Err(Ended::CallerLeft);
            }
        }
    }

    /// Reads and forgets so many bytes.
    pub(crate) async fn discard(&mut self, wire: &mut Wire, mut bytes: u64) -> Result<(), Ended> {
        loop {
            let here = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.bytes.len());
            self.bytes.advance(here);
            bytes -= here as u64;
            if bytes == 0 {
                return Ok(());
            }
            if (&mut *wire).take(READ_AHEAD_BYTES as u64).read_buf(&mut self.bytes).await? == 0 {
                return Err(Ended::CallerLeft);
            }
        }
    }
}
