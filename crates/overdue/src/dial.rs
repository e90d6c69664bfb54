//! A new connection: resolve, connect, tls, each under its own limit.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use overdue_core::{
    ConnectionReport, Limits, Stage,
    facts::{Failure, OsFailure},
};

use crate::{
    Error,
    connect::{Race, TcpOptions, os_failure},
    context::Context,
    log::{CallLog, Trouble},
    resolve::{LookupLog, Resolver},
    tls::Tls,
    transport::Transport,
    wire::Wire,
};

/// Where to connect to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Target {
    pub(crate) secure: bool,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) resolver: Resolver,
    pub(crate) tcp: TcpOptions,
    /// Only where a target is secure.
    pub(crate) tls: Option<Tls>,
    /// Connects here instead of to the target's address.
    pub(crate) unix: Option<PathBuf>,
}

/// A connection that is ready for its protocol.
pub(crate) struct Dialed {
    pub(crate) transport: Transport,
    /// What ALPN agreed on.
    pub(crate) h2: bool,
    pub(crate) report: ConnectionReport,
}

impl Dialer {
    pub(crate) async fn dial(
        &self,
        context: &Context,
        target: &Target,
        limits: &Limits,
        log: &CallLog,
    ) -> Result<Dialed, Error> {
        let wire = match &self.unix {
            Some(path) => self.connect_unix(context, path, limits, log).await?,
            None => {
                let addrs = self.resolve(context, target, limits, log).await?;
                self.connect(context, addrs, limits, log).await?
            }
        };
        let mut report = ConnectionReport {
            cookie: wire.cookie(),
            peer: Some(wire.peer().to_string()),
            local: wire.local().map(|local| local.to_string()),
            // Inside TLS it is not known before that is agreed.
            protocol: (!target.secure).then_some("http/1.1"),
            ..ConnectionReport::default()
        };
        log.set_connection(Arc::new(report.clone()), None);
        if !target.secure {
            return Ok(Dialed { transport: Transport::Plain(wire), h2: false, report });
        }
        let Some(tls) = &self.tls else {
            let failure = Failure::Usage("a secure target, and no TLS options".to_owned());
            return Err(log.fail(Stage::Tls, failure.into()));
        };
        let handshake = tls.handshake(wire.clone(), &target.host);
        let done = log.stage(context, Stage::Tls, limits.tls.as_ref(), handshake).await;
        log.exchange(|exchange| {
            exchange.response_bytes = wire.read_bytes();
            exchange.last_read = wire.last_read();
        });
        let (stream, tls) = match done {
            Ok(done) => done,
            Err(trouble) => return Err(log.fail(Stage::Tls, trouble.with_socket(wire.observe()))),
        };
        log.exchange(|exchange| {
            exchange.response_bytes = 0;
            exchange.last_read = None;
        });
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        report.protocol = Some(if h2 { "h2" } else { "http/1.1" });
        report.tls = Some(tls);
        log.set_connection(Arc::new(report.clone()), None);
        Ok(Dialed { transport: Transport::Tls(Box::new(stream)), h2, report })
    }

    async fn resolve(
        &self,
        context: &Context,
        target: &Target,
        limits: &Limits,
        log: &CallLog,
    ) -> Result<Vec<SocketAddr>, Error> {
        let lookup = LookupLog::default();
        let work = self.resolver.lookup(&target.host, target.port, &lookup);
        let done = log
            .stage(context, Stage::Resolve, limits.resolve.as_ref(), async {
                work.await.map_err(|err| {
                    Trouble::from(match err.os {
                        Some(kind) => Failure::Os { operation: "resolve", kind, text: err.text },
                        None => Failure::Dns { reason: err.reason, text: err.text },
                    })
                })
            })
            .await;
        log.set_dns(lookup.facts());
        match done {
            Ok(addrs) => Ok(addrs.into_iter().map(|addr| SocketAddr::new(addr, target.port)).collect()),
            Err(trouble) => Err(log.fail(Stage::Resolve, trouble)),
        }
    }

    async fn connect(
        &self,
        context: &Context,
        addrs: Vec<SocketAddr>,
        limits: &Limits,
        log: &CallLog,
    ) -> Result<Wire, Error> {
        let mut race = Race::new(addrs, &self.tcp, limits.connect_attempt.as_ref());
        let work = std::future::poll_fn(|cx| {
            race.poll(cx).map_err(|failed| Trouble {
                failure: Some(failed.failure),
                socket: Some(failed.socket),
                source: failed.source.map(Into::into),
                ..Trouble::default()
            })
        });
        let done = log.stage(context, Stage::Connect, limits.connect.as_ref(), work).await;
        done.map_err(|mut trouble| {
            if trouble.socket.is_none() {
                trouble.socket = race.observe().map(Box::new);
            }
            log.fail(Stage::Connect, trouble)
        })
    }

    #[cfg(unix)]
    async fn connect_unix(
        &self,
        context: &Context,
        path: &PathBuf,
        limits: &Limits,
        log: &CallLog,
    ) -> Result<Wire, Error> {
        let work = async {
            match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => Ok(Wire::unix(stream, path.clone())),
                // No such path: as at a port where nobody listens.
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                    let failure = Failure::Os { operation: "connect", kind: OsFailure::Refused, text: err.to_string() };
                    Err(Trouble::from((failure, Some(err))))
                }
                // What connect(2) says of a Unix socket whose queue is full.
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {
                    let failure =
                        Failure::Os { operation: "connect", kind: OsFailure::QueueFull, text: err.to_string() };
                    Err(Trouble::from((failure, Some(err))))
                }
                Err(err) => Err(Trouble::from(os_failure("connect", err))),
            }
        };
        let done = log.stage(context, Stage::Connect, limits.connect.as_ref(), work).await;
        done.map_err(|mut trouble| {
            let peer = path.display().to_string();
            trouble.socket.get_or_insert_default().peer = peer;
            log.fail(Stage::Connect, trouble)
        })
    }

    #[cfg(not(unix))]
    async fn connect_unix(&self, _: &Context, _: &PathBuf, _: &Limits, log: &CallLog) -> Result<Wire, Error> {
        let failure = Failure::Other("this platform has no Unix sockets here".to_owned());
        Err(log.fail(Stage::Connect, failure.into()))
    }
}
