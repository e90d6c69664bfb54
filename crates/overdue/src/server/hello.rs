//! Looks at a ClientHello before any work is done for it.
//!
//! A handshake costs a server far more than it costs who asks for it. So the first message of a client is read here by a
//! parser of its own, strictly and within 16 KiB, and held against a policy: the names that are served, the oldest
//! version, the protocols, how often its source comes and how often it has failed. Who does not fit is sent the alert
//! that says so, in the clear, and is closed. For all others the same bytes go to rustls, and the handshake goes on. All
//! of it is under one limit, named `tls`; the alert has another, so that nobody is held up by a peer that does not read.
//!
//! | why | alert |
//! |---|---|
//! | the name is not served | `unrecognized_name` |
//! | only older versions | `protocol_version` |
//! | none of the protocols | `no_application_protocol` |
//! | no cipher suite, too many hellos, too many failures | `handshake_failure` |
//! | it is malformed | the one that the RFC asks for, such as `decode_error` |
//! | it is not TLS, or ends too early | none |

mod client_hello;
mod ja4;
mod policy;
mod rates;
mod reason;
mod records;

use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use bytes::{BufMut, BytesMut};
use overdue_core::Stage;
use rustls::{ServerConfig, server::Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{StartHandshake, server::TlsStream};

pub use self::{
    client_hello::{ClientHello, Version, is_grease},
    ja4::Ja4,
    policy::HelloPolicy,
    rates::{Rate, SourceCounts},
    reason::{Alert, HandshakeError, Malformed, NotHello, RejectedHello, WhyRejected},
};
use self::{
    rates::Sources,
    records::{BUFFER_MAX, Joined},
};
use super::Source;
use crate::{Context, clock};

/// The two parts of the limit `tls`. They are not [`Stage::Tls`], whose verdicts are those of a client.
const HELLO: Stage = Stage::Named("hello");
const HANDSHAKE: Stage = Stage::Named("handshake");
/// So much of what a peer has sent beyond its hello is read before it is closed.
const DISCARDED_MAX: usize = 64 * 1024;
/// Most hellos are whole with the first read of so much.
const FIRST_READ: usize = 2_048;

/// The door of a TLS server: see the [module](self). A clone is another handle to the same counters and rates.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{sync::Arc, time::Duration};
/// use overdue::{Context, server::hello::{HelloGate, HelloPolicy, HandshakeError, Rate}};
///
/// let policy = HelloPolicy::new()
///     .names(["example.com", "*.example.com"]).unwrap()
///     .failure_rate(Rate::new(20, Duration::from_secs(10)));
/// let gate = HelloGate::new(policy);
/// # let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
/// #     .with_safe_default_protocol_versions().unwrap().with_no_client_auth()
/// #     .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
/// # let config = Arc::new(config);
/// // A peer that speaks HTTP to a port of TLS.
/// let (mut peer, ours) = tokio::io::duplex(1024);
/// # tokio::io::AsyncWriteExt::write_all(&mut peer, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
/// match gate.accept(&Context::root(), ours, "192.0.2.1".parse().unwrap(), config).await {
///     Err(HandshakeError::Rejected(rejected)) => assert_eq!(rejected.to_string(), "not TLS: it begins with 'G'"),
///     _ => unreachable!(),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct HelloGate {
    inner: Arc<Inner>,
}

struct Inner {
    policy: HelloPolicy,
    sources: Mutex<Sources>,
    hellos: AtomicU64,
    rejected: [AtomicU64; WhyRejected::KINDS.len()],
    failed: AtomicU64,
}

/// A connection after its handshake.
#[non_exhaustive]
pub struct Secured<IO> {
    /// The connection.
    pub stream: TlsStream<IO>,
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// Its fingerprint, where the policy asks for it.
    pub ja4: Option<Ja4>,
}

/// A hello that fits.
struct Fits {
    server_name: Option<Box<str>>,
    ja4: Option<Ja4>,
}

impl HelloGate {
    /// A gate with this policy.
    #[must_use]
    pub fn new(policy: HelloPolicy) -> Self {
        let sources = Mutex::new(Sources::new(policy.sources));
        Self {
            inner: Arc::new(Inner {
                policy,
                sources,
                hellos: AtomicU64::new(0),
                rejected: Default::default(),
                failed: AtomicU64::new(0),
            }),
        }
    }

    /// Reads the hello of `io`, and does the handshake or turns it away.
    ///
    /// # Errors
    /// [`HandshakeError`] says who ended it: the policy, a limit, the peer or the system.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept<IO>(
        &self,
        context: &Context,
        mut io: IO,
        peer: IpAddr,
        config: Arc<ServerConfig>,
    ) -> Result<Secured<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (policy, source) = (&self.inner.policy, Source::from(peer));
        let tls = context.child(policy.limit.clone());
        let mut buf = BytesMut::new();
        let fits = match tls.run(HELLO, self.inspect(&mut io, &mut buf, source)).await {
            Ok(Ok(Ok(fits))) => fits,
            Ok(Ok(Err(rejected))) => {
                self.turn_away(context, &mut io, source, &rejected).await;
                return Err(HandshakeError::Rejected(rejected));
            }
            Ok(Err(err)) => {
                // Who only looks whether somebody listens has not failed.
                if !buf.is_empty() {
                    self.failed(source);
                }
                return Err(HandshakeError::Io(err));
            }
            Err(error) => {
                self.failed(source);
                return Err(HandshakeError::Limit { error, received: buf.len() });
            }
        };
        match tls.run(HANDSHAKE, handshake(io, &buf, config)).await {
            Ok(Ok(stream)) => Ok(Secured { stream, server_name: fits.server_name, ja4: fits.ja4 }),
            Ok(Err(error)) => {
                self.failed(source);
                Err(error)
            }
            Err(error) => {
                self.failed(source);
                Err(HandshakeError::Limit { error, received: buf.len() })
            }
        }
    }

    /// Reads until the hello is whole, and holds it against the policy.
    async fn inspect<IO: AsyncRead + Unpin>(
        &self,
        io: &mut IO,
        buf: &mut BytesMut,
        source: Source,
    ) -> io::Result<Result<Fits, RejectedHello>> {
        let mut joined = Joined::default();
        loop {
            let room = if buf.is_empty() { FIRST_READ } else { BUFFER_MAX - buf.len() };
            if room == 0 {
                return Ok(Err(WhyRejected::Malformed(Malformed::TooLong).into()));
            }
            buf.reserve(room);
            if io.read_buf(&mut buf.limit(room)).await? == 0 {
                return if buf.is_empty() {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(Err(WhyRejected::Truncated.into()))
                };
            }
            match joined.advance(buf) {
                Ok(None) => {}
                Ok(Some(body)) => return Ok(self.judge(body, source)),
                Err(not) => return Ok(Err(WhyRejected::from(not).into())),
            }
        }
    }

    /// Whether this hello fits.
    fn judge(&self, body: &[u8], source: Source) -> Result<Fits, RejectedHello> {
        let Inner { policy, hellos, .. } = &*self.inner;
        hellos.fetch_add(1, Ordering::Relaxed);
        let hello = ClientHello::parse(body).map_err(WhyRejected::Malformed)?;
        let server_name = hello.server_name().map(Box::from);
        let ja4 = policy.ja4.then(|| Ja4::of(&hello));
        let judged = self.rates(source).and_then(|()| policy.judge(&hello));
        match judged {
            Ok(()) => Ok(Fits { server_name, ja4 }),
            Err(why) => Err(RejectedHello { why, server_name, ja4 }),
        }
    }

    fn rates(&self, source: Source) -> Result<(), WhyRejected> {
        let (policy, now) = (&self.inner.policy, clock::now());
        let mut sources = self.sources();
        if sources.fails_too_often(source, policy.failure_rate, now) {
            return Err(WhyRejected::FailureRate);
        }
        if !sources.hello(source, policy.rate, now) {
            return Err(WhyRejected::Rate);
        }
        Ok(())
    }

    /// Tells the peer why, if it takes that in time, and counts it.
    async fn turn_away<IO>(&self, context: &Context, io: &mut IO, source: Source, rejected: &RejectedHello)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(count) = self.inner.rejected.get(rejected.why.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        {
            let mut sources = self.sources();
            sources.rejected(source);
            // A hello that nobody with a TLS library sends is a failure, too.
            if matches!(rejected.why, WhyRejected::Malformed(_) | WhyRejected::NotTls { .. } | WhyRejected::Truncated) {
                sources.failed(source, self.inner.policy.failure_rate, clock::now());
            }
        }
        let told = context.child(self.inner.policy.alert_limit.clone());
        // Whatever becomes of it: the connection ends now.
        let _ = told
            .run(Stage::Send, async {
                if let Some(alert) = rejected.why.alert() {
                    io.write_all(&alert.record()).await?;
                }
                io.shutdown().await?;
                discard(io).await;
                io::Result::Ok(())
            })
            .await;
    }

    fn failed(&self, source: Source) {
        self.inner.failed.fetch_add(1, Ordering::Relaxed);
        self.sources().failed(source, self.inner.policy.failure_rate, clock::now());
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.inner.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hellos that were read to their end.
    #[must_use]
    pub fn hellos(&self) -> u64 {
        self.inner.hellos.load(Ordering::Relaxed)
    }

    /// How many were turned away for each kind of reason, by the words of [`WhyRejected::as_str`].
    pub fn rejected(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        WhyRejected::KINDS.into_iter().zip(self.inner.rejected.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Handshakes that began and failed: at a limit, by the peer, by the system.
    #[must_use]
    pub fn failed_handshakes(&self) -> u64 {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// The sources with the most rejections and failures, first.
    #[must_use]
    pub fn worst_sources(&self, most: usize) -> Vec<(Source, SourceCounts)> {
        self.sources().worst(most)
    }
}

/// Reads what has come already, without waiting for more: closing a connection with unread bytes resets it, and the peer
/// may never see its alert.
async fn discard<IO: AsyncRead + Unpin>(io: &mut IO) {
    let (mut sink, mut left) = ([0; 4_096], DISCARDED_MAX);
    std::future::poll_fn(|cx| {
        while left > 0 {
            let mut read = ReadBuf::new(&mut sink);
            match Pin::new(&mut *io).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => left = left.saturating_sub(read.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// What was read goes to rustls, and the handshake goes on from there.
async fn handshake<IO>(io: IO, read: &[u8], config: Arc<ServerConfig>) -> Result<TlsStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = io;
    let mut acceptor = Acceptor::default();
    let mut left = read;
    while !left.is_empty() {
        if acceptor.read_tls(&mut left).map_err(HandshakeError::Io)? == 0 {
            break;
        }
    }
    let accepted = match acceptor.accept() {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return Err(HandshakeError::Tls(rustls::Error::HandshakeNotComplete)),
        Err((error, mut alert)) => {
            let mut record = Vec::new();
            // A Vec takes everything.
            if alert.write_all(&mut record).is_ok() {
                let _ = io.write_all(&record).await;
            }
            return Err(HandshakeError::Tls(error));
        }
    };
    StartHandshake::from_parts(accepted, io).into_stream(config).await.map_err(|err| {
        match err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => HandshakeError::Tls(error.clone()),
            None => HandshakeError::Io(err),
        }
    })
}

impl fmt::Debug for HelloGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloGate").field("policy", &self.inner.policy).finish_non_exhaustive()
    }
}

impl<IO> fmt::Debug for Secured<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured")
            .field("server_name", &self.server_name)
            .field("ja4", &self.ja4)
            .finish_non_exhaustive()
    }
}

/// A hello in records, at once and in pieces: both must be read alike, and what was joined is one record.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let (at_once, bytewise) = (read_in_pieces(bytes, bytes.len().max(1)), read_in_pieces(bytes, 1));
    assert_eq!(at_once, bytewise);
}

#[cfg(fuzzing)]
fn read_in_pieces(bytes: &[u8], step: usize) -> Option<String> {
    let (mut buf, mut joined) = (BytesMut::new(), Joined::default());
    for piece in bytes.chunks(step) {
        buf.extend_from_slice(piece);
        match joined.advance(&mut buf) {
            Ok(None) => {}
            Ok(Some(body)) => {
                let hello = ClientHello::parse(body);
                let ja4 = hello.as_ref().map(Ja4::of);
                assert!(body.len() <= records::MESSAGE_MAX);
                return Some(format!("{hello:?} {ja4:?}"));
            }
            Err(err) => return Some(err.to_string()),
        }
    }
    None
}

#[cfg(test)]
mod tests;
