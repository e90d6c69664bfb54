use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The lives of TCP connections, from events of the kernel.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Connections {
    /// Those worth showing: failed, stalled or slow ones first. Bounded; the counts below are of all.
    pub connections: Vec<Connection>,
    /// Connections opened by the process over the window.
    pub opened: u64,
    /// Connections accepted by it.
    pub accepted: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Of those, by a reset from the peer.
    pub reset_by_peer: u64,
    /// Of those, by a reset from here.
    pub reset_by_us: u64,
    /// Of those that were accepted and ended, how many carried less than a kilobyte each way.
    pub little_work: u64,
    /// Their lives' median length.
    pub life_median_us: Option<u64>,
    /// Inbound TLS handshakes by source address, the most failures first. Bounded.
    pub handshakes: Vec<SourceHandshakes>,
    /// Queries of the process for names. Bounded.
    pub dns: Vec<DnsExchange>,
}

/// Who opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The process.
    Client,
    /// The peer.
    Server,
    /// It was there before the watch, and no listener has its port.
    #[default]
    Unknown,
}

/// A moment of a connection's life, in microseconds since the watch began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// It happened then.
    At(u64),
    /// It had happened when the watch began.
    Before,
    /// It happened in the window, this is inferred from other events.
    Inferred(u64),
}

/// One connection.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Connection {
    /// The key to other tables.
    pub cookie: u64,
    /// The own end.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// Who opened it.
    pub side: Side,
    /// `connect()`, or the first sight of it.
    pub opened: Option<Moment>,
    /// The handshake of TCP was complete.
    pub established: Option<Moment>,
    /// It ended.
    pub closed: Option<Moment>,
    /// The error it ended with: `ECONNREFUSED` (111), `ETIMEDOUT` (110), `ECONNRESET` (104).
    pub errno: Option<i32>,
    /// The SYN was sent again.
    pub syn_retransmits: u32,
    /// Other segments were sent again.
    pub retransmits: u32,
    /// A reset was received.
    pub reset_received: bool,
    /// A reset was sent.
    pub reset_sent: bool,
    /// The peer's FIN came.
    pub fin_received: Option<Moment>,
    /// Bytes read by the process from it, while watched.
    pub read_bytes: u64,
    /// Bytes written by the process to it, while watched.
    pub written_bytes: u64,
    /// The first write.
    pub first_write: Option<Moment>,
    /// The last write.
    pub last_write: Option<Moment>,
    /// The first read that brought bytes after the last write before it.
    pub first_read: Option<Moment>,
    /// The last read that brought bytes.
    pub last_read: Option<Moment>,
    /// What its first bytes were, as TLS.
    pub tls: Option<TlsHandshake>,
    /// Its last request and response, as HTTP/1.
    pub http: Option<HttpHead>,
}

/// A TLS handshake, as far as it is in the clear.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TlsHandshake {
    /// Whether the process sent the `ClientHello`.
    pub client: bool,
    /// The name asked for.
    pub sni: Option<String>,
    /// The protocols offered.
    pub alpn: Vec<String>,
    /// The highest version offered, or the one chosen: 0x0304.
    pub version: Option<u16>,
    /// The `ClientHello`.
    pub hello: Option<Moment>,
    /// The `ServerHello`.
    pub answered: Option<Moment>,
    /// The handshake was complete; over TLS 1.3 always inferred.
    pub done: Option<Moment>,
    /// An alert in the clear: its code, and whether the peer sent it.
    pub alert: Option<(u8, bool)>,
    /// What answered a `ClientHello` was no TLS: its first bytes, printable.
    pub not_tls: Option<String>,
}

/// An HTTP/1 exchange, by its heads. No header but those that carry deadlines is kept.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HttpHead {
    /// `GET /path`, the query left out.
    pub request: String,
    /// The `Host` field.
    pub host: Option<String>,
    /// When the head of the request passed.
    pub requested: Option<Moment>,
    /// The status.
    pub status: Option<u16>,
    /// When the head of the response passed.
    pub answered: Option<Moment>,
    /// The time that the caller allowed, where a header says so, and which header.
    pub deadline_us: Option<(String, u64)>,
}

/// TLS handshakes of one source address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceHandshakes {
    /// The address.
    pub source: String,
    /// Handshakes begun.
    pub begun: u64,
    /// Of those, completed (inferred over TLS 1.3).
    pub completed: u64,
    /// Of those, failed: an alert, or closed before it was complete.
    pub failed: u64,
    /// The last name asked for.
    pub sni: Option<String>,
    /// The last alert.
    pub alert: Option<u8>,
}

/// One query for a name over UDP.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DnsExchange {
    /// The name.
    pub name: String,
    /// A, AAAA: its number.
    pub kind: u16,
    /// The server.
    pub server: String,
    /// The thread that asked.
    pub tid: u32,
    /// When it was first sent.
    pub sent_us: u64,
    /// How often it was sent.
    pub sent: u32,
    /// How long the answer took.
    pub answered_us: Option<u64>,
    /// The answer's code: 0 no error, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    pub rcode: Option<u8>,
    /// Records in the answer.
    pub answers: Option<u16>,
}
