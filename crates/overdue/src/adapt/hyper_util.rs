//! Connections for hyper-util's pooled client, each stage of which has its own limit.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use http_body_util::Empty;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use overdue::{Error, Limit, Stage, TlsOptions, adapt::hyper_util::Connector, stream};
//!
//! let connector = stream::Connector::new()
//!     .limit(Limit::stage(Stage::Connect, Duration::from_secs(2)))
//!     .limit(Limit::stage(Stage::Tls, Duration::from_secs(2)))
//!     .tls(&TlsOptions::default(), &[b"http/1.1"])?;
//! let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(Connector::from(connector));
//!
//! if let Err(error) = client.get("https://example.com/".parse()?).await {
//!     match Error::find(&error) {
//!         Some(why) => eprintln!("{why}"), // the stage, the limit and who set it, the cause
//!         None => eprintln!("{error}"),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! A connector sees connections, and no calls. It cannot see how long a call waited in the pool, when a request was
//! flushed, and whether a silent connection is waited for or lies idle: so there is no limit for the `queue`, `send`,
//! `wait` and `gap` of a call. A [`ContextLayer`](super::ContextLayer) around the client bounds the whole of it, and
//! [`Client`](crate::Client) sees every stage.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use ::hyper_util::{
    client::legacy::connect::{Connected, Connection as HyperConnection},
    rt::TokioIo,
};
use http::Uri;
use overdue_core::{Limit, NotVisible, Report, Stage, facts::Failure};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use crate::{
    Context, Error, clock,
    dial::Target,
    log::CallLog,
    stream::{Connector as StreamConnector, Stream},
};

/// Makes the connections of a `hyper_util::client::legacy::Client`: resolve, connect and TLS, each under its limit.
///
/// Limits, resolver, TCP and TLS are those of the [`stream::Connector`](crate::stream::Connector) it is made from. A
/// `https` URL needs TLS options there; a `http` URL makes no use of them. Offer the protocol `h2` (ALPN) only when
/// hyper-util's feature `http2` is on: hyper-util panics when it is agreed on otherwise.
///
/// The context is the one that is current where the call is polled ([`Context::current`]): its deadline cuts the
/// connecting short, and its cancellation ends it. Without one, only the connector's own limits hold.
///
/// The report of the dial is in the extensions of every response that came over the connection, as an
/// `Arc<`[`Report`]`>`: its `resolve`, `connect` and `tls`, the addresses, the socket's cookie.
///
/// # Errors
/// [`Error`], with stage, limit, cause, evidence and fix. hyper-util wraps it, and so do those above it:
/// [`Error::find`] finds it. After connecting, reads and writes that fail carry one as well.
///
/// # Cancel safety
/// Dropping the future closes what was connected.
#[derive(Clone, Debug)]
#[must_use = "a connector does nothing until a client uses it"]
pub struct Connector {
    inner: Arc<StreamConnector>,
    write_idle: Option<Limit>,
}

impl From<StreamConnector> for Connector {
    fn from(inner: StreamConnector) -> Self {
        Self { inner: Arc::new(inner), write_idle: None }
    }
}

impl Connector {
    /// How long the peer may take nothing while a write waits: see
    /// [`Handle::set_write_idle`](crate::stream::Handle::set_write_idle). None unless set. There is no such limit for
    /// reads: a connection that lies idle in the pool reads, too.
    pub fn write_idle(mut self, limit: Limit) -> Self {
        self.write_idle = Some(limit);
        self
    }

    async fn connect(self, context: Context, uri: Uri) -> Result<TokioIo<Connection>, Error> {
        let log = CallLog::new();
        let target = match target(&uri) {
            Ok(target) => target,
            Err(failure) => return Err(log.fail(Stage::Resolve, failure.into())),
        };
        let dialed = self.inner.dial(&context, &target, None, &log).await.map_err(|mut error| {
            error.report_mut().not_visible.push(not_visible());
            error
        })?;
        log.end(clock::now());
        let mut report = log.report();
        report.not_visible.push(not_visible());
        let (h2, stream) = (dialed.h2, Stream::from_transport(dialed.transport));
        stream.handle().set_write_idle(self.write_idle);
        Ok(TokioIo::new(Connection { stream, h2, report: Arc::new(report) }))
    }
}

fn target(uri: &Uri) -> Result<Target, Failure> {
    // Neither a user nor a query: there may be secrets in them.
    let usage = || {
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default());
        Failure::Usage(format!("a URL of scheme {scheme:?} and host {host:?} is no http or https URL with a host"))
    };
    let (secure, default_port) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(usage()),
    };
    let host =
        uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']')).filter(|host| !host.is_empty());
    let host = host.ok_or_else(usage)?.to_ascii_lowercase().into();
    Ok(Target { secure, host, port: uri.port_u16().unwrap_or(default_port) })
}

fn not_visible() -> NotVisible {
    NotVisible {
        what: "the call",
        why: "a connector of hyper-util sees connections: no wait in the pool, no end of sending, no answer".to_owned(),
        how: "overdue::Client sees every stage; adapt::ContextLayer around the client bounds the whole".to_owned(),
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Connection>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let context = Context::current().unwrap_or_else(Context::root);
        Box::pin(self.clone().connect(context, uri))
    }
}

/// A connection of hyper-util's client: a [`Stream`] that knows how it was made.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    h2: bool,
    report: Arc<Report>,
}

impl HyperConnection for Connection {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(Arc::clone(&self.report));
        if self.h2 { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
