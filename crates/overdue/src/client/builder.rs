//! Settings of a client.

use std::{fmt, path::PathBuf, sync::Arc};

use overdue_core::{Limit, LimitName, Limits, Verdict, plan};

use super::{Client, Inner, PoolOptions, Redaction, VersionChoice, pool::Pool};
use crate::{
    dial::Dialer,
    observe::Observer,
    resolve::Resolver,
    tcp::TcpOptions,
    tls::{TlsOptions, TlsOptionsError},
};

/// Settings of a [`Client`].
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    limits: Limits,
    unknown: Option<Limit>,
    resolver: Option<Resolver>,
    tls: TlsOptions,
    tcp: TcpOptions,
    pool: PoolOptions,
    unix: Option<PathBuf>,
    version: VersionChoice,
    refuse_conflicts: bool,
    observer: Option<Arc<dyn Observer>>,
    snapshot: Option<Redaction>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            unknown: None,
            resolver: None,
            tls: TlsOptions::default(),
            tcp: TcpOptions::default(),
            pool: PoolOptions::default(),
            unix: None,
            version: VersionChoice::Negotiated,
            refuse_conflicts: false,
            observer: None,
            snapshot: None,
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("limits", &self.limits)
            .field("tcp", &self.tcp)
            .field("tls", &self.tls)
            .field("pool", &self.pool)
            .field("version", &self.version)
            .field("observed", &self.observer.is_some())
            .finish_non_exhaustive()
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The TLS options are of no use.
    #[error("TLS: {0}")]
    Tls(#[from] TlsOptionsError),
    /// A call has no limit of that name.
    #[error("a call has no limit named {}", .0.name)]
    NoSuchLimit(Limit),
    /// Limits that fight each other, of a client that was asked to refuse them.
    #[error("limits fight each other: {}", .0.iter().map(|found| found.summary.as_str()).collect::<Vec<_>>().join("; "))]
    Conflicts(Vec<Verdict>),
    /// A pool that never lets a call through.
    #[error("the pool allows no connection: connections and connections_per_host must be at least 1")]
    EmptyPool,
}

impl Builder {
    /// Replaces all limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets one limit, under its own name.
    pub fn limit(mut self, limit: Limit) -> Self {
        if let Err(unknown) = self.limits.set(limit) {
            self.unknown = Some(unknown);
        }
        self
    }

    /// Leaves a limit out on purpose.
    pub fn without(mut self, name: LimitName) -> Self {
        self.limits.clear(name);
        self
    }

    /// How names become addresses; [`Resolver::system`] unless set.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// TLS options.
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = tls;
        self
    }

    /// TCP options.
    pub fn tcp(mut self, tcp: TcpOptions) -> Self {
        self.tcp = tcp;
        self
    }

    /// Limits of the connection pool.
    pub fn pool(mut self, pool: PoolOptions) -> Self {
        self.pool = pool;
        self
    }

    /// Connects to this Unix socket, whatever host the URL names.
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix = Some(path.into());
        self
    }

    /// Speaks HTTP/1.1 only.
    pub fn http1_only(mut self) -> Self {
        self.version = VersionChoice::Http1;
        self
    }

    /// Speaks HTTP/2 only, also without TLS (prior knowledge, h2c).
    pub fn http2_prior_knowledge(mut self) -> Self {
        self.version = VersionChoice::Http2;
        self
    }

    /// Tells this observer of every call.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Keeps a [`Snapshot`](super::Snapshot) of every head that is sent, with the secrets hidden that this names. One
    /// call can ask for its own: a [`Redaction`] in the extensions of the request.
    pub fn snapshot(mut self, redaction: Redaction) -> Self {
        self.snapshot = Some(redaction);
        self
    }

    /// Refuses to build a client whose limits fight each other ([`plan::check`]). Without this they are reported by
    /// [`Client::conflicts`].
    pub fn refuse_conflicting_limits(mut self) -> Self {
        self.refuse_conflicts = true;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// When TLS options are of no use, the platform's trusted certificates cannot be read, a limit has a name that a
    /// call does not know, or the pool allows no connection.
    pub fn build(self) -> Result<Client, BuildError> {
        if let Some(unknown) = self.unknown {
            return Err(BuildError::NoSuchLimit(unknown));
        }
        if self.pool.connections == 0 || self.pool.connections_per_host == 0 {
            return Err(BuildError::EmptyPool);
        }
        let conflicts = plan::check(&self.limits);
        if self.refuse_conflicts && !conflicts.is_empty() {
            return Err(BuildError::Conflicts(conflicts));
        }
        let alpn: &[&[u8]] = match self.version {
            VersionChoice::Negotiated => &[b"h2", b"http/1.1"],
            VersionChoice::Http1 => &[b"http/1.1"],
            VersionChoice::Http2 => &[b"h2"],
        };
        let dialer = Dialer {
            resolver: self.resolver.unwrap_or_else(Resolver::system),
            tcp: self.tcp,
            tls: Some(self.tls.build(alpn)?),
            unix: self.unix,
        };
        let pool = Pool::new(self.pool, self.version);
        let inner = Inner {
            dialer,
            pool,
            limits: self.limits,
            conflicts,
            version: self.version,
            observer: self.observer,
            snapshot: self.snapshot,
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}
