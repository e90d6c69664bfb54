//! The configuration: a TOML file with a strict schema, and what it means.
//!
//! An unknown key, an unknown word, a duration without its unit, a route to a cluster that is not there are errors with
//! file and line. Every limit remembers the line that set it, so that an error can name it.

mod dns;
mod doubts;
mod file;
mod server_tls;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use overdue::server::{TrustedPeers, certificates::CertificateFiles};
use overdue_core::{Limit, Limits, Origin, Verdict, plan};

pub use self::{
    dns::{Dns, Family},
    doubts::Doubt,
    server_tls::ServerTls,
};

/// What the gateway is to do.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The file, as the user named it.
    pub(crate) path: Arc<str>,
    /// Threads that serve, each with listeners and pools of its own.
    pub workers: usize,
    /// Where it listens for clients.
    pub listeners: Vec<Listener>,
    /// Where it sends requests, in the order of the file: the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// How the names of servers are turned into addresses.
    pub dns: Dns,
    /// Where it listens for its operator.
    pub admin: Option<Admin>,
    /// What it writes of each request.
    pub log: Log,
    /// Whose traces go on, and which begin here.
    pub trace: Trace,
    /// How long requests in flight may go on once it is told to stop.
    pub drain: Limit,
    /// Where the file of the log is named; 0 where it is not. What is written where is a matter of its own.
    pub(crate) log_line: u32,
    /// What of it is hardly what was meant, as far as the limits of routes are no part of it.
    pub(crate) doubtful: Vec<Doubt>,
}

/// The address of the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// The address.
    pub address: SocketAddr,
    /// Names, in lower case, by which browsers may ask for it, besides addresses and `localhost`.
    pub names: Vec<String>,
}

/// An address that clients connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// The whole head of a request, from its first byte; of the first request, from the accepted connection.
    pub head: Option<Limit>,
    /// How long a connection may lie unused between two requests.
    pub idle: Option<Limit>,
    /// The least that a client has to send of a request's body, as long as there is more of it to come.
    pub body_rate: Option<Limit>,
    /// Clients whose word counts for what only a proxy knows: the time that remains, and whom it serves.
    pub trusted: TrustedPeers,
    /// How servers are told of the client.
    pub forwarded: Forwarded,
    /// Connections at a time, over all workers.
    pub connections: usize,
    /// Clients may speak HTTP/2: in TLS by ALPN, without by beginning with it.
    pub http2: bool,
    /// Each connection begins with a header of the PROXY protocol, from one of the trusted.
    pub proxy_protocol: bool,
    /// Clients speak TLS; `None`: they do not.
    pub tls: Option<Tls>,
}

/// How servers are told whom a request serves, at which name and over what. What trusted clients said of that goes on; what
/// is added here is of these kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarded {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    X,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    /// All of them.
    Both,
    /// Nothing is added.
    None,
}

impl Forwarded {
    pub(crate) const fn has_x(self) -> bool {
        matches!(self, Self::X | Self::Both)
    }

    pub(crate) const fn has_rfc7239(self) -> bool {
        matches!(self, Self::Rfc7239 | Self::Both)
    }

    /// As the file has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::X => "x",
            Self::Rfc7239 => "rfc7239",
            Self::Both => "both",
            Self::None => "none",
        }
    }
}

/// TLS towards clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// By the name that a client asks for; the first is for those that ask for none.
    pub certificates: Vec<CertificateFiles>,
    /// Where each of their files is named, in the order of the configuration.
    pub(crate) named: Vec<(PathBuf, u32)>,
    /// ClientHello and handshake together.
    pub limit: Limit,
    /// TLS 1.3 and nothing older.
    pub only_1_3: bool,
    /// The names that are served; empty: any.
    pub names: Vec<String>,
    /// How many hellos may come from one source in that time.
    pub rate: Option<(u32, Duration)>,
    /// How many handshakes of one source may fail in that time, before it is turned away.
    pub failure_rate: Option<(u32, Duration)>,
}

/// Which requests go where, and what they may take.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// As the log and the metrics name it.
    pub name: Arc<str>,
    /// What a request must have.
    pub matches: Matches,
    /// Where it goes.
    pub cluster: Arc<Cluster>,
    /// The limits of each request.
    pub limits: Limits,
    /// What is kept of the time that remains when servers are told of it.
    pub reserve: Duration,
    /// Request bodies that are longer are refused; `None`: any length.
    pub body_max: Option<u64>,
}

/// What a request must have; what is not given is not asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matches {
    /// A host, in lower case and without a port; `*.example.com` stands for every name below.
    pub host: Option<String>,
    /// The path or a part of it up to a slash: `/v1` is also `/v1/x`, and not `/v10`.
    pub path: Option<String>,
    /// One of these methods; empty: any.
    pub methods: Vec<String>,
    /// A field with this value.
    pub header: Option<(String, String)>,
}

/// Servers that are alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// As routes name it.
    pub name: Arc<str>,
    /// Where they are.
    pub servers: Vec<ServerAt>,
    /// Connections to each server, over all workers.
    pub connections: usize,
    /// How long a connection to a server may lie unused before it is closed.
    pub idle: Limit,
    /// Its servers speak HTTP/2: in TLS by ALPN, without by prior knowledge.
    pub http2: bool,
    /// Its servers speak TLS; `None`: they do not.
    pub tls: Option<ServerTls>,
    /// How it is found out which of its servers are well; `None`: by the requests that they fail alone.
    pub health: Option<Health>,
    /// Its servers are told of each client before anything else; `None`: they are not.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// How a server is told who the client is, before anything else on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How it is found out whether a server is well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// What is asked for; `None`: a connection is enough, with TLS where its servers speak that.
    pub path: Option<String>,
    /// The `Host` of that request; default: the server's entry.
    pub host: Option<String>,
    /// From the end of one probe to the beginning of the next, give or take a tenth.
    pub every: Duration,
    /// One probe, from the first packet to the head of the answer.
    pub limit: Limit,
    /// So many that succeed, one after another, make an ill server a well one.
    pub healthy: u32,
    /// So many that fail, one after another, make a well server an ill one.
    pub unhealthy: u32,
    /// Answers of a server that is well.
    pub statuses: Vec<RangeInclusive<u16>>,
}

/// Where a server is, or several.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ServerAt {
    /// At this address.
    Address(SocketAddr),
    /// At each address that the name stands for, at this port.
    Name(Arc<str>, u16),
}

impl fmt::Display for ServerAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Traces that requests belong to (`traceparent`).
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// A request that brings none begins one, of which this share is sampled; `None`: it has none.
    pub start: Option<f64>,
    /// Anybody's goes on, and not only that of trusted clients.
    pub from_anyone: bool,
}

/// What is written of each request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// How a line looks.
    pub format: Format,
    /// Where it goes.
    pub to: To,
    /// How many lines there may be in that time, over all workers; `None`: any number.
    pub rate: Option<(u32, Duration)>,
}

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `overdue.report/1`, one object a line.
    Json,
    /// One line to read.
    Text,
}

/// Where the log goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// Standard output.
    Stdout,
    /// A file, to which lines are added; opened anew on a reload.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// Why a configuration is not accepted, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigError {
    /// The file, as the user named it.
    pub path: String,
    /// The line, counted from 1; 0 where it is about the whole file.
    pub line: u32,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// A file that is longer is no configuration.
const FILE_MAX: u64 = 4 << 20;

impl Tls {
    /// Whether clients are served in the same way, wherever that is written.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let without_lines = |tls: &Self| Self {
            named: Vec::new(),
            limit: Limit { origin: Origin::Default, ..tls.limit.clone() },
            ..tls.clone()
        };
        without_lines(self) == without_lines(other)
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |message: String| ConfigError { path: path.display().to_string(), line: 0, message };
        let length = std::fs::metadata(path).map_err(|err| failed(format!("cannot be read: {err}")))?.len();
        if length > FILE_MAX {
            return Err(failed(format!("has {length} bytes, and a configuration has at most {FILE_MAX}")));
        }
        let text = std::fs::read_to_string(path).map_err(|err| failed(format!("cannot be read: {err}")))?;
        file::parse(&text, path, &path.display().to_string())
    }

    /// Reads the text of a file that the user knows as `origin`.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        file::parse(text, Path::new(origin), origin)
    }

    /// What can be followed, and is hardly what was meant; limits that fight each other at the end.
    #[must_use]
    pub fn doubts(&self) -> Vec<Doubt> {
        let conflicts = self.conflicts();
        let fights = conflicts.iter().flat_map(|(route, verdicts)| {
            verdicts.iter().map(move |verdict| Doubt {
                place: format!("route {route:?}"),
                text: format!("{}: {}", verdict.cause, verdict.summary),
                fix: verdict.fix.to_string(),
            })
        });
        self.doubtful.iter().cloned().chain(fights).collect()
    }

    /// Limits that fight each other, by route.
    #[must_use]
    pub fn conflicts(&self) -> Vec<(Arc<str>, Vec<Verdict>)> {
        let found = |route: &Arc<Route>| (Arc::clone(&route.name), plan::check(&route.limits));
        self.routes.iter().map(found).filter(|(_, verdicts)| !verdicts.is_empty()).collect()
    }

    /// The clusters that some route leads to, by name.
    #[must_use]
    pub fn clusters(&self) -> BTreeMap<Arc<str>, Arc<Cluster>> {
        self.routes.iter().map(|route| (Arc::clone(&route.cluster.name), Arc::clone(&route.cluster))).collect()
    }
}

#[cfg(test)]
mod tests;
