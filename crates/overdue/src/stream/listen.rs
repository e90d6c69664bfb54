//! Accepts streams, with a deadline.

use std::{fmt, io, net::SocketAddr};

use overdue_core::Stage;
use tokio::net::TcpListener;

use super::{Handle, Stream, operation::Operation};
use crate::{Error, log::CallLog, socket::os_failure, wire::Wire};

pub(super) const ACCEPT: Stage = Stage::Named("accept");

/// Accepts TCP connections as [`Stream`]s. The [accept deadline](Handle::set_accept_deadline) of its handle bounds
/// `accept`, and closing it ends it.
pub struct Listener {
    io: TcpListener,
    operation: Operation,
}

impl Listener {
    /// Listens at `address`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of the system: the address is in use, or not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::from_tcp)
    }

    /// A listener that is there already.
    #[must_use]
    pub fn from_tcp(listener: TcpListener) -> Self {
        Self { io: listener, operation: Handle::new(None).operation(ACCEPT, None) }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// [`Error`] in a stage named `accept`: the limit that fired, who closed the listener, or what the system reports.
    /// When descriptors ran out ([`Cause::FdExhausted`](overdue_core::Cause::FdExhausted)) the connection waits on:
    /// pause before the next `accept`, which would fail at once.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&mut self) -> Result<Stream, Error> {
        let Self { io, operation } = self;
        let accepted = std::future::poll_fn(|cx| operation.poll(cx, |cx| io.poll_accept(cx))).await;
        match accepted.map_err(|stopped| operation.error(stopped))? {
            Ok((stream, peer)) => Ok(Stream::from_wire(Wire::tcp(stream, peer))),
            Err(err) => Err(CallLog::new().fail(ACCEPT, os_failure("accept", err).into())),
        }
    }

    /// What sets the deadline from anywhere, and closes the listener. The port is free when the listener is dropped.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        self.operation.handle()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("io", &self.io).finish_non_exhaustive()
    }
}
