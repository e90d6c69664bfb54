//! Facts, and what follows from them.

use std::{borrow::Cow, fmt};

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::Cause;

/// Where a fact was observed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// `getsockopt(TCP_INFO)` on the own socket.
    TcpInfo,
    /// `SO_ERROR` or the errno of a system call.
    Errno,
    /// The queues of the own socket (`SIOCINQ`, `SIOCOUTQ`).
    SocketQueue,
    /// Another socket on this host, through `sock_diag`.
    SockDiag,
    /// The own timeline of the call.
    Timeline,
    /// What the resolver sent and received.
    Dns,
    /// The TLS library.
    Tls,
    /// HTTP framing.
    Http,
    /// HTTP/2 flow control and stream limits.
    Http2,
    /// The connection pool.
    Pool,
    /// The context tree.
    Context,
    /// The own runtime's timers.
    Runtime,
    /// What somebody configured.
    Configuration,
    /// `/proc`, of the process or of its host.
    Proc,
    /// Events of the kernel, through BPF.
    Bpf,
    /// The memory of the process, read without stopping it.
    Memory,
}

impl Source {
    /// The word used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcpInfo => "tcp-info",
            Self::Errno => "errno",
            Self::SocketQueue => "socket-queue",
            Self::SockDiag => "sock-diag",
            Self::Timeline => "timeline",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Pool => "pool",
            Self::Context => "context",
            Self::Runtime => "runtime",
            Self::Configuration => "configuration",
            Self::Proc => "proc",
            Self::Bpf => "bpf",
            Self::Memory => "memory",
        }
    }
}

/// One observed fact: a sentence for a reader, and its numbers for a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// Where it was observed.
    pub source: Source,
    /// The fact in words, numbers with units.
    pub text: Cow<'static, str>,
    /// The numbers; a name carries its unit.
    pub values: Vec<(&'static str, u64)>,
}

impl Evidence {
    /// A fact without numbers of its own.
    #[must_use]
    pub fn new(source: Source, text: impl Into<Cow<'static, str>>) -> Self {
        Self { source, text: text.into(), values: Vec::new() }
    }

    /// The same fact with one more number.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl TryInto<u64>) -> Self {
        self.values.push((name, value.try_into().unwrap_or(u64::MAX)));
        self
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2 + self.values.len()))?;
        map.serialize_entry("source", self.source.as_str())?;
        map.serialize_entry("text", &self.text)?;
        for (name, value) in &self.values {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// One of several explanations, with little to choose between them.
    Low,
    /// The best explanation; the strongest alternative cannot be excluded from here.
    Medium,
    /// The evidence excludes the alternatives.
    High,
}

impl Confidence {
    /// The word used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An alternative, and why it was not chosen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rejected {
    /// The alternative.
    pub cause: Cause,
    /// What speaks against it, or what would be needed to tell.
    pub why: Cow<'static, str>,
}

/// What was found, and why.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// The cause, an id of the catalogue.
    pub cause: Cause,
    /// The stage in which it acted.
    pub stage: &'static str,
    /// How sure this is.
    pub confidence: Confidence,
    /// The part of the call's time that the cause explains, 0 to 1.
    pub share: f64,
    /// One sentence with numbers.
    pub summary: String,
    /// What to change.
    pub fix: Cow<'static, str>,
    /// The facts that it rests on; never empty, unless the cause is `unknown`.
    pub evidence: Vec<Evidence>,
    /// The strongest alternatives.
    pub rejected: Vec<Rejected>,
}
