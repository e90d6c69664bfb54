//! The configuration: a TOML file with a strict schema, and what it means.
//!
//! An unknown key, an unknown word, a duration without its unit, a route to a cluster that is not there are errors with
//! file and line. Every limit remembers the line that set it, so that an error can name it.

mod file;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use overdue::server::{TrustedPeers, certificates::CertificateFiles};
use overdue_core::{Limit, Limits, Verdict, plan};

/// What the gateway is to do.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Threads that serve, each with listeners and pools of its own.
    pub workers: usize,
    /// Where it listens for clients.
    pub listeners: Vec<Listener>,
    /// Where it sends requests, in the order of the file: the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// Where it listens for its operator.
    pub admin: Option<Admin>,
    /// What it writes of each request.
    pub log: Log,
    /// How long requests in flight may go on once it is told to stop.
    pub drain: Limit,
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
    /// Clients whose word counts for what only a proxy knows: the time that remains, and whom it serves.
    pub trusted: TrustedPeers,
    /// Connections at a time, over all workers.
    pub connections: usize,
    /// Clients speak TLS; `None`: they do not.
    pub tls: Option<Tls>,
}

/// TLS towards clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// By the name that a client asks for; the first is for those that ask for none.
    pub certificates: Vec<CertificateFiles>,
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
    /// Their addresses.
    pub servers: Vec<SocketAddr>,
    /// Connections to each server, over all workers.
    pub connections: usize,
    /// How long a connection to a server may lie unused before it is closed.
    pub idle: Limit,
}

/// What is written of each request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// How a line looks.
    pub format: Format,
    /// Where it goes.
    pub to: To,
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
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the text of a file that the user knows as `origin`.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        file::parse(text, origin)
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
