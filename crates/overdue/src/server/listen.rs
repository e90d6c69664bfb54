//! Accepts connections, and goes on doing so when descriptors, memory or peers fail.
//!
//! When accepting fails for want of a descriptor, the connection stays in the kernel's queue and the listener stays
//! readable: a loop that tries again at once spins. This one pauses, and tries again as soon as one of its own
//! connections has ended ([`Permit`] dropped), or after a pause of [`ListenOptions::pause`], because a descriptor may
//! have been given back elsewhere. Where that fails, too, it gives up a descriptor that it has kept for this, takes one
//! connection with it, tells its peer (see [`ListenOptions::refusal`]), closes it and takes the spare one back. So
//! callers are told instead of left waiting, at one for each pause.
//!
//! Nothing is logged here: [`ListenerStats`] and [`ListenOptions::on_event`] tell.

mod options;
mod recover;
mod refuse;

use std::{fmt, io, net::SocketAddr, sync::Arc, task::Poll, time::Instant};

use tokio::{
    net::{TcpListener, TcpStream},
    task::coop,
};

pub use self::{
    options::{ListenOptions, ListenerEvent, Refused},
    recover::{AcceptFailure, ListenerStats},
};
use self::{
    recover::{Counters, Spare},
    refuse::refuse,
};
use super::admit::{Connections, Excess, Permit};
use crate::clock;

/// So many peers in a row may fail before the listener pauses: a kernel that gives the same error for ever must not be
/// asked for ever without a pause.
const FAILED_PEERS_MAX: u32 = 64;

/// A TCP listener that survives what goes wrong when connections are accepted.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use overdue::server::{Connections, ListenOptions};
///
/// let connections = Connections::new(Some(10_000), Some(100));
/// let mut listener = ListenOptions::new()
///     .connections(connections)
///     .refusal(|_| bytes::Bytes::from_static(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"))
///     .bind("127.0.0.1:0".parse().unwrap())?;
/// # let peer = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
/// let accepted = listener.accept().await?;
/// tokio::spawn(async move {
///     let _permit = accepted.permit; // counts until the connection ends
///     let _stream = accepted.stream;
/// });
/// # Ok(()) }
/// ```
pub struct Listener {
    io: TcpListener,
    options: ListenOptions,
    counters: Arc<Counters>,
    spare: Spare,
    trouble: Trouble,
    /// So many connections may come without the options of the listener.
    bare: u64,
}

/// What goes wrong now.
#[derive(Default)]
struct Trouble {
    /// Since when nothing can be accepted.
    since: Option<Instant>,
    /// Before then nothing is tried, unless more connections have ended than at that time.
    pause: Option<(Instant, u64)>,
    /// The pause went by, and no connection of our own has ended: somebody may be refused.
    refuses: bool,
    /// Peers that failed in a row.
    failed_peers: u32,
    /// Failures for want of memory in a row.
    no_memory: u32,
}

/// A connection that may be served.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted {
    /// The connection, with the options of the listener.
    pub stream: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// Counts the connection until it is dropped. Drop the stream first.
    pub permit: Permit,
}

impl Listener {
    fn new(io: TcpListener, options: ListenOptions, bare: u64) -> Self {
        let (counters, trouble) = (Arc::default(), Trouble::default());
        Self { io, options, counters, spare: Spare::new(), trouble, bare }
    }

    /// Waits for the next connection that may be served. It waits without end: run it in a context to bound it.
    ///
    /// # Errors
    /// Only where the listener itself is of no more use, such as when its socket was shut down. Do not call it again
    /// then.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped, and a pause goes on at the next call.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        loop {
            self.pause().await;
            let ended = self.options.connections.ended();
            let (stream, peer) = match self.io.accept().await {
                Ok(accepted) => accepted,
                Err(err) => {
                    self.failed(err, ended).await?;
                    continue;
                }
            };
            self.recovered();
            match self.options.connections.admit(peer.ip()) {
                Ok(permit) => {
                    self.counters.accepted();
                    if let Some(bare) = self.bare.checked_sub(1) {
                        self.bare = bare;
                        self.options.prepare(&stream);
                    }
                    return Ok(Accepted { stream, peer, permit });
                }
                Err(excess) => self.refuse(stream, peer, excess.into()),
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Counts what has happened, from anywhere and at any time.
    #[must_use]
    pub fn stats(&self) -> ListenerStats {
        ListenerStats::of(Arc::clone(&self.counters))
    }

    /// The connections that it has accepted and that are open.
    #[must_use]
    pub const fn connections(&self) -> &Connections {
        &self.options.connections
    }

    async fn pause(&mut self) {
        let Some((until, ended)) = self.trouble.pause else { return };
        tokio::select! {
            () = self.options.connections.one_ends(ended) => {}
            () = tokio::time::sleep_until(until.into()) => self.trouble.refuses = true,
        }
        self.trouble.pause = None;
    }

    /// Accepting has failed, after so many connections had ended.
    async fn failed(&mut self, err: io::Error, ended: u64) -> io::Result<()> {
        let Some(failure) = AcceptFailure::of(&err) else { return Err(err) };
        self.counters.failed(failure);
        let pause = match failure {
            AcceptFailure::Peer => {
                self.trouble.failed_peers += 1;
                if !self.trouble.failed_peers.is_multiple_of(FAILED_PEERS_MAX) {
                    return Ok(());
                }
                self.options.pause
            }
            AcceptFailure::ProcessDescriptors | AcceptFailure::SystemDescriptors => {
                self.exhausted(failure);
                if std::mem::take(&mut self.trouble.refuses) {
                    self.refuse_next().await;
                }
                self.options.pause
            }
            AcceptFailure::Memory | AcceptFailure::Other => {
                self.exhausted(failure);
                self.trouble.no_memory = (self.trouble.no_memory + 1).min(7);
                self.options.pause * (1 << (self.trouble.no_memory - 1))
            }
        };
        self.trouble.pause = Some((clock::now() + pause, ended));
        Ok(())
    }

    fn exhausted(&mut self, failure: AcceptFailure) {
        if self.trouble.since.is_none() {
            let now = clock::now();
            self.trouble.since = Some(now);
            self.counters.exhausted(Some(now));
            self.options.tell(&ListenerEvent::Exhausted { failure });
        }
    }

    /// A connection was accepted. All is well again when there is a descriptor for the next one, too: at the brink, where
    /// each that ends makes room for one, nothing has recovered.
    fn recovered(&mut self) {
        let Some(since) = std::mem::take(&mut self.trouble).since else { return };
        if !self.spare.refill() || !Spare::one_more() {
            self.trouble.since = Some(since);
            return;
        }
        self.counters.exhausted(None);
        let after = clock::now().saturating_duration_since(since);
        self.options.tell(&ListenerEvent::Recovered { after });
    }

    /// Accepts one connection with the spare descriptor, and refuses it.
    async fn refuse_next(&mut self) {
        if !self.spare.give_up() {
            return;
        }
        // Once: when none waits, the spare one is taken back before somebody is waited for.
        let once = std::future::poll_fn(|cx| Poll::Ready(self.io.poll_accept(cx)));
        if let Poll::Ready(Ok((stream, peer))) = coop::unconstrained(once).await {
            self.refuse(stream, peer, Refused::Exhausted);
        }
        self.spare.refill();
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr, why: Refused) {
        self.counters.refused(why);
        refuse(stream, &self.options.words(why));
        self.options.tell(&ListenerEvent::Refused { peer, why });
    }
}

/// Its socket, to hand it to another process.
#[cfg(unix)]
impl std::os::fd::AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl From<Excess> for Refused {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Total => Self::Total,
            Excess::Source => Self::Source,
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("io", &self.io).field("options", &self.options).finish_non_exhaustive()
    }
}
