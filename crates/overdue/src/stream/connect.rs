//! Makes streams: resolve, connect, tls, each under its own limit.

use std::path::PathBuf;

use overdue_core::{Limit, Limits, Stage, facts::Failure};

use super::Stream;
use crate::{
    Context, Error,
    client::without_secrets,
    dial::{Dialed, Dialer, Target},
    log::CallLog,
    resolve::Resolver,
    tcp::TcpOptions,
    tls::{Tls, TlsOptions, TlsOptionsError},
};

/// How streams are connected. Clones share the resolver's cache and the TLS sessions.
///
/// | limit | default | what it covers |
/// |---|---|---|
/// | `resolve` | 5 s | the name |
/// | `connect` | 10 s | all addresses together |
/// | `connect-attempt` | none | one address |
/// | `tls` | 10 s | the handshake |
/// | `total` | 60 s | all of these together |
///
/// These limits end with the connecting. A stream begins without any deadline: set them, or bind it to a context
/// ([`Bounded`](super::Bounded)).
#[derive(Clone, Debug)]
#[must_use = "a connector does nothing until `connect`"]
pub struct Connector {
    limits: Limits,
    resolver: Resolver,
    tcp: TcpOptions,
    tls: Option<Tls>,
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl Connector {
    /// Plain connections, the system's resolver, and the limits above.
    pub fn new() -> Self {
        Self { limits: Limits::default(), resolver: Resolver::system(), tcp: TcpOptions::default(), tls: None }
    }

    /// Sets one limit, under its own name. Those that connecting does not have (`queue`, `send`, `wait`, `gap`,
    /// `attempt`) are of no effect.
    pub fn limit(mut self, limit: Limit) -> Self {
        let _ = self.limits.set(limit);
        self
    }

    /// Replaces all limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How names become addresses; [`Resolver::system`] unless set.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// TCP options.
    pub fn tcp(mut self, tcp: TcpOptions) -> Self {
        self.tcp = tcp;
        self
    }

    /// Speaks TLS, and offers these protocols (ALPN), of which there may be none.
    ///
    /// # Errors
    /// When the options are of no use.
    pub fn tls(mut self, options: &TlsOptions, alpn: &[&[u8]]) -> Result<Self, TlsOptionsError> {
        self.tls = Some(options.build(alpn)?);
        Ok(self)
    }

    /// Connects to `host:port` (`[::1]:80` for an IPv6 address) or to `unix:/a/path`. TLS over a Unix socket expects
    /// the name of [`TlsOptions::with_server_name`], or `localhost`.
    ///
    /// # Errors
    /// [`Error`], with stage, limit, cause, evidence and fix; also when the target is neither.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was connected. Nothing else is lost.
    pub async fn connect(&self, context: &Context, target: &str) -> Result<Stream, Error> {
        let log = CallLog::new();
        let (target, unix) = match parse(target, self.tls.is_some()) {
            Ok(parsed) => parsed,
            Err(failure) => return Err(log.fail(Stage::Resolve, failure.into())),
        };
        match self.dial(context, &target, unix, &log).await {
            Ok(dialed) => Ok(Stream::from_transport(dialed.transport)),
            Err(mut error) => {
                // What is spoken is not known here.
                if let Some(connection) = &mut error.report_mut().connection {
                    connection.protocol = None;
                }
                Err(error)
            }
        }
    }

    pub(crate) async fn dial(
        &self,
        context: &Context,
        target: &Target,
        unix: Option<PathBuf>,
        log: &CallLog,
    ) -> Result<Dialed, Error> {
        let dialer = Dialer { resolver: self.resolver.clone(), tcp: self.tcp.clone(), tls: self.tls.clone(), unix };
        let total = self.limits.total.as_ref().map(|total| context.child(total.clone()));
        let context = total.as_ref().unwrap_or(context);
        // Boxed, because it is large and soon over.
        Box::pin(dialer.dial(context, target, &self.limits, log)).await
    }
}

fn parse(target: &str, secure: bool) -> Result<(Target, Option<PathBuf>), Failure> {
    if let Some(path) = target.strip_prefix("unix:") {
        let target = Target { secure, host: "localhost".into(), port: 0 };
        return Ok((target, Some(path.into())));
    }
    let usage = || Failure::Usage(format!("{:?} is neither host:port nor unix:/a/path", without_secrets(target)));
    let (host, port) = target.rsplit_once(':').ok_or_else(usage)?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(usage)?,
        None if host.contains(':') => return Err(usage()),
        None => host,
    };
    let port = port.parse().map_err(|_| usage())?;
    if bare.is_empty() || bare.contains('@') {
        return Err(usage());
    }
    Ok((Target { secure, host: bare.to_ascii_lowercase().into(), port }, None))
}
