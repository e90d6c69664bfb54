//! What comes before the first request of a connection: whose it is, and what of it fails before there is one.
//!
//! Behind a proxy that passes bytes on, each connection begins with a header that names the client (the PROXY protocol).
//! It is taken from trusted peers alone, under a limit, and not one byte behind it is read.

use std::{io, net::SocketAddr, rc::Rc, time::Instant};

use overdue::{
    Context,
    server::{
        Source,
        hello::{HandshakeError, WhyRejected},
    },
};
use overdue_core::{Cause, DurationText, Limit, Stage};
use tokio::net::TcpStream;

use crate::{
    clock,
    config::Listener,
    counts::add,
    http1::Known,
    log::{Entry, Marks, Whom},
    proxy_header::{self, HEADER_MAX, Invalid, Says},
    worker::{self, Worker},
};

/// The stage in which a PROXY header comes.
pub(crate) const PROXY: Stage = Stage::Named("proxy");

/// A connection that may go on to its handshake, or to its first request.
pub(crate) struct Arrival {
    /// The address of its listener in the configuration.
    pub(crate) listener: SocketAddr,
    /// Whom it serves: whose requests these are in the log, in rates, and for servers.
    pub(crate) client: SocketAddr,
    /// The proxy that said so, where one did, and the address that the client had connected to.
    pub(crate) via: Option<SocketAddr>,
    pub(crate) to: Option<SocketAddr>,
    /// Whether that is the address of whoever sends the requests. A proxy may serve somebody whom it cannot name.
    pub(crate) known: bool,
    /// When the limit for its first head begins.
    pub(crate) since: Instant,
    /// What bounds its handshake besides the limit of that; where a header was read it is what that left.
    pub(crate) context: Option<Context>,
}

/// Why there is no header that could be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WhyNoHeader {
    /// Whoever connects is not trusted.
    Untrusted,
    /// What came is none.
    Invalid,
    /// It was not there in time.
    Late,
    /// The connection ended in the middle of it.
    Ended,
}

impl WhyNoHeader {
    pub(crate) const ALL: [Self; 4] = [Self::Untrusted, Self::Invalid, Self::Late, Self::Ended];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Invalid => "invalid",
            Self::Late => "late",
            Self::Ended => "ended",
        }
    }
}

/// Finds out whose connection this is. `None` when it is not to be served, which has been told then.
pub(crate) async fn arrive(
    worker: &Worker,
    stream: &TcpStream,
    peer: SocketAddr,
    listener: SocketAddr,
) -> Option<Arrival> {
    let since = clock::now();
    let plan = worker.plan();
    let found = plan.listener(listener)?;
    let direct = Arrival { listener, client: peer, via: None, to: None, known: true, since, context: None };
    if !found.proxy_protocol {
        return Some(direct);
    }
    // Boxed: nothing of it is needed afterwards.
    worker.within_lull(Box::pin(through_proxy(worker, stream, found, direct))).await.flatten()
}

async fn through_proxy(worker: &Worker, stream: &TcpStream, listener: &Listener, direct: Arrival) -> Option<Arrival> {
    if !direct.is_from(listener) {
        let why = "a PROXY header is taken from trusted addresses alone, and this is none";
        direct.no_header(worker, WhyNoHeader::Untrusted, why, None, None);
        return None;
    }
    // The configuration has one of them wherever there is a header to come.
    let limit = listener.tls.as_ref().map(|tls| &tls.limit).or(listener.head.as_ref())?;
    let context = Context::root().child(limit.clone());
    let mut header = Header { bytes: [0; HEADER_MAX], length: 0 };
    let read = context.run(PROXY, header.read(stream)).await;
    let says = match read {
        Ok(Ok(Ok(says))) => says,
        Ok(Ok(Err(invalid))) => {
            let cause = Some(Cause::ProtocolError);
            direct.no_header(worker, WhyNoHeader::Invalid, &invalid.to_string(), cause, None);
            return None;
        }
        // Who only looks whether somebody listens.
        Ok(Err(_)) if header.length == 0 => return None,
        Ok(Err(err)) => {
            let (cause, how) = match err.kind() {
                io::ErrorKind::UnexpectedEof => (Cause::ClosedEarly, "it closed".to_owned()),
                _ => (Cause::PeerReset, err.to_string()),
            };
            let why = format!("no PROXY header: {how} after {} bytes of one", header.length);
            direct.no_header(worker, WhyNoHeader::Ended, &why, Some(cause), None);
            return None;
        }
        Err(error) => {
            let why = match error.limit() {
                Some(limit) => format!("no PROXY header within {limit}: {} bytes of it had come", header.length),
                None => format!("no PROXY header: {error}"),
            };
            let cause = match error.cause() {
                // It is the client who is to send it.
                Cause::Unknown => Cause::SenderSlow,
                known => known,
            };
            direct.no_header(worker, WhyNoHeader::Late, &why, Some(cause), error.limit());
            return None;
        }
    };
    let context = Some(context);
    Some(match says {
        Says::Client { client, server } => {
            Arrival { client, via: Some(direct.client), to: Some(server), context, ..direct }
        }
        Says::Itself => Arrival { context, ..direct },
        Says::Somebody => Arrival { known: false, context, ..direct },
    })
}

/// A header, as far as it was read.
struct Header {
    bytes: [u8; HEADER_MAX],
    length: usize,
}

impl Header {
    /// Reads until it is whole. What is there is looked at first, so that only bytes of the header are taken: those behind
    /// it belong to TLS or to the first request.
    async fn read(&mut self, stream: &TcpStream) -> io::Result<Result<Says, Invalid>> {
        loop {
            let room = self.bytes.get_mut(self.length..).unwrap_or_default();
            let there = stream.peek(room).await?;
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let seen = self.bytes.get(..self.length + there).unwrap_or_default();
            let (end, says) = match proxy_header::parse(seen) {
                Ok(None) => (seen.len(), None),
                Ok(Some((length, says))) => (length, Some(says)),
                Err(invalid) => return Ok(Err(invalid)),
            };
            self.take(stream, end)?;
            if let Some(says) = says.filter(|_| self.length == end) {
                return Ok(Ok(says));
            }
        }
    }

    /// Takes what was looked at.
    fn take(&mut self, stream: &TcpStream, end: usize) -> io::Result<()> {
        while let Some(room) = self.bytes.get_mut(self.length..end).filter(|room| !room.is_empty()) {
            match stream.try_read(room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.length += read,
                // It is looked at again then.
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

impl Arrival {
    fn is_from(&self, listener: &Listener) -> bool {
        listener.trusted.contains(self.client.ip())
    }

    /// Counts and tells of a connection that is closed for want of a header.
    fn no_header(&self, worker: &Worker, kind: WhyNoHeader, why: &str, cause: Option<Cause>, limit: Option<&Limit>) {
        let place = WhyNoHeader::ALL.iter().position(|known| *known == kind);
        add(place.and_then(|place| worker.counts.proxy_headers_refused.get(place)), 1);
        let known = if kind == WhyNoHeader::Late { Known::LATE_HANDSHAKE } else { Known::refused(0) };
        let marks = Marks::at(self.since);
        let entry = Entry { known, refused: Some((PROXY, why)), cause, limit, ..Entry::new(&marks, clock::now()) };
        self.tell(worker, &entry);
    }

    /// Counts and tells of a handshake that came to nothing.
    pub(crate) fn handshake_failed(&self, worker: &Rc<Worker>, began: Instant, err: &HandshakeError) {
        let known = match err {
            HandshakeError::Rejected(_) => Known::refused(0),
            HandshakeError::Limit { .. } => Known::LATE_HANDSHAKE,
            _ => Known::FAILED_HANDSHAKE,
        };
        let limit = match err {
            HandshakeError::Limit { error, .. } => error.limit(),
            _ => None,
        };
        let why = match (err, limit) {
            // The library cannot know whose stages these are.
            (HandshakeError::Limit { error, received }, Some(limit)) if error.cause() == Cause::Unknown => format!(
                "the client's {} had no end within {} ({}): {received} bytes of its ClientHello had come",
                error.stage(),
                DurationText(limit.value),
                limit.origin
            ),
            _ => err.to_string(),
        };
        let marks = Marks::at(began);
        let refused = Some((Stage::Tls, why.as_str()));
        let entry = Entry { known, refused, cause: cause_of(err), limit, ..Entry::new(&marks, clock::now()) };
        worker.counts.handshake_failed();
        worker.recent.handshake_failed(entry.end);
        self.tell(worker, &entry);
    }

    fn tell(&self, worker: &Worker, entry: &Entry<'_>) {
        let (client, via) = (worker::text_of(self.client), self.via.map(worker::text_of));
        let whom = Whom { client: &client, via: via.as_deref() };
        worker.lines.borrow_mut().put_early(entry, whom, Source::from(self.client.ip()));
    }
}

/// What was behind a handshake that failed, as far as this side can know. A hello that our own rules turn away has no cause
/// but them.
fn cause_of(err: &HandshakeError) -> Option<Cause> {
    Some(match err {
        HandshakeError::Rejected(rejected) => match rejected.why {
            WhyRejected::NotTls { .. } => Cause::TlsNotTls,
            WhyRejected::Malformed(_) | WhyRejected::NoCipher => Cause::ProtocolError,
            WhyRejected::Truncated => Cause::ClosedEarly,
            _ => return None,
        },
        HandshakeError::Limit { error, received } => match error.cause() {
            Cause::Unknown if *received == 0 => Cause::TlsPeerSilent,
            Cause::Unknown => Cause::TlsSlow,
            known => known,
        },
        HandshakeError::Io(err) if err.kind() == io::ErrorKind::UnexpectedEof => Cause::ClosedEarly,
        HandshakeError::Io(_) => Cause::PeerReset,
        HandshakeError::Tls(rustls::Error::AlertReceived(_)) => Cause::TlsRejected,
        HandshakeError::Tls(_) => Cause::ProtocolError,
        _ => return None,
    })
}
