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
    /// Of those that were accepted and ended, how many carried no byte, or none in one direction and were then reset by the
    /// peer.
    pub little_work: u64,
    /// Their lives' median length.
    pub life_median_us: Option<u64>,
    /// Of those that ended, how many were too many in a second to tell of each; the counts above have them.
    pub untold: u64,
    /// Connections that could not be followed because too many were open at once. Their opening is counted above, and
    /// their end where the process itself closed them.
    pub unfollowed: u64,
    /// Connections whose first bytes were not looked at, because too many were new in one second. The handshakes below
    /// are of the others.
    pub not_looked_at: u64,
    /// For how long of the window reads and writes were watched. They are watched all the time, unless there are so
    /// many that it would slow the process: then the times of connections' reads and writes, their gaps and their heads
    /// are of short windows only; their bytes are complete. `None` where they cannot be watched.
    pub transfers_us: Option<u64>,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// It happened then.
    At(u64),
    /// It had happened when the watch began.
    Before,
    /// It happened in the window, this is inferred from other events.
    Inferred(u64),
}

impl Moment {
    /// In microseconds since the watch began; `None` where it was before that.
    #[must_use]
    pub const fn us(self) -> Option<u64> {
        match self {
            Self::At(us) | Self::Inferred(us) => Some(us),
            Self::Before => None,
        }
    }

    /// Whether this is known to be the later of two: of what was before the watch, nobody knows the order.
    #[must_use]
    pub fn is_after(self, other: Self) -> bool {
        self.us() > other.us()
    }
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
    /// Its descriptor, where it was still open in the end.
    pub fd: Option<u32>,
    /// The thread that opened it, or was the first to use it.
    pub tid: Option<u32>,
    /// `connect()`, or the first sight of it.
    pub opened: Option<Moment>,
    /// The handshake of TCP was complete.
    pub established: Option<Moment>,
    /// It ended.
    pub closed: Option<Moment>,
    /// The process closed it, or gave up connecting: nothing of the peer's ended it.
    pub closed_by_us: bool,
    /// The error it ended with: `ECONNREFUSED` (111), `ETIMEDOUT` (110), `ECONNRESET` (104), `EHOSTUNREACH` (113).
    /// `EADDRNOTAVAIL` (99) is inferred: the connecting failed, and no segment was sent.
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
    /// The first write since the last read: where the current or last request (or response) began to be written.
    pub first_write: Option<Moment>,
    /// The last write.
    pub last_write: Option<Moment>,
    /// The first read that brought bytes since the last write.
    pub first_read: Option<Moment>,
    /// The last read that brought bytes.
    pub last_read: Option<Moment>,
    /// How often the process turned from writing to reading: requests that were answered, or requests that were read.
    pub turns: u32,
    /// From the last byte written to the first byte read after it: for a client, the wait for the peer.
    pub read_gaps: Gaps,
    /// From the last byte read to the first byte written after it: for a server, its own work.
    pub write_gaps: Gaps,
    /// Where its bytes lie could not be told (`io_uring`, `sendfile`), so heads of it were missed.
    pub heads_hidden: bool,
    /// The lookup of a name that gave its address, where there can be no doubt which one.
    pub resolved: Option<Resolved>,
    /// It began with the preface of HTTP/2.
    pub http2: bool,
    /// It speaks the protocol of Redis: the last command that was seen on it. Not all are looked at, so one that waits for
    /// something to happen stays.
    #[serde(default)]
    pub redis: Option<String>,
    /// The code of the GOAWAY frame that the peer sent over HTTP/2 in the clear; 0 is an orderly end.
    #[serde(default)]
    pub goaway: Option<u32>,
    /// What its first bytes were, as TLS.
    pub tls: Option<TlsHandshake>,
    /// The last request and response of HTTP/1 that were looked at; where many come in short time, not all are.
    pub http: Option<HttpHead>,
}

/// Whether a command of Redis waits for something to happen.
pub(crate) fn redis_waits(command: &str) -> bool {
    const WAIT: [&str; 16] = [
        "BLPOP",
        "BRPOP",
        "BLMOVE",
        "BLMPOP",
        "BRPOPLPUSH",
        "BZPOPMIN",
        "BZPOPMAX",
        "BZMPOP",
        "XREAD",
        "XREADGROUP",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "WAIT",
        "WAITAOF",
        "MONITOR",
    ];
    WAIT.contains(&command)
}

/// Silences of one kind on a connection, in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Gaps {
    /// All of them together.
    pub total_us: u64,
    /// The longest.
    pub longest_us: u64,
    /// When the longest began, in microseconds since the watch began.
    pub longest_at_us: u64,
    /// Those before the window while it was watched, all of them together. Its turns count these, too.
    #[serde(default)]
    pub before_us: u64,
}

/// A lookup that gave a connection its address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resolved {
    /// The name.
    pub name: String,
    /// When it was first asked for, in microseconds since the watch began.
    pub sent_us: u64,
    /// From then until the last answer that was waited for.
    pub duration_us: u64,
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
    /// The client ended a TLS 1.3 handshake by an alert: inferred from a record's length, the code cannot be seen.
    pub alert_hidden: bool,
    /// What answered a `ClientHello` was no TLS: its first bytes, printable.
    pub not_tls: Option<String>,
    /// The last of the first data that the client sent, where nothing came after it: inferred from the lengths of
    /// records, for over TLS 1.3 session tickets look like data.
    #[serde(default)]
    pub unanswered: Option<Moment>,
    /// Bytes of that data.
    #[serde(default)]
    pub asked_bytes: u64,
    /// Bytes that came after it all the same, in two records of one length: session tickets, or a short answer.
    #[serde(default)]
    pub ticket_bytes: u64,
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
    /// An earlier call on the connection that was answered later than its caller allowed; of several the latest.
    #[serde(default)]
    pub late: Option<LateCall>,
    /// Calls on the connection that were answered by an error of the server (5xx), the last one included.
    #[serde(default)]
    pub failed: Option<FailedCalls>,
    /// Of a response that the process reads: bytes of it that had not come at the end, where its head says how many
    /// there are and the connection was watched from its beginning.
    #[serde(default)]
    pub missing_bytes: Option<u64>,
    /// Of a response that the process reads: bytes of its head, all of it or as many as came.
    #[serde(default)]
    pub head_bytes: Option<u64>,
    /// The same: bytes of its body that had come at the end, the frames of chunks included.
    #[serde(default)]
    pub body_bytes: Option<u64>,
    /// The request itself says that the answer may wait for something to happen: a long poll.
    #[serde(default)]
    pub asks_to_wait: bool,
    /// It says so only by a word that lists are called, too: `/v1/events`.
    #[serde(default)]
    pub asks_by_name: bool,
    /// Of a response in chunks that the process reads: whether the last bytes that were read end it.
    #[serde(default)]
    pub chunks_ended: Option<bool>,
    /// Of a response that the process reads: its head says that it is a stream of events.
    #[serde(default)]
    pub is_events: bool,
    /// Of a response that the process reads, no more came than a part of its head.
    #[serde(default)]
    pub half_head: bool,
    /// What answered the request was no HTTP/1: its first bytes, printable.
    #[serde(default)]
    pub not_http: Option<String>,
}

impl HttpHead {
    /// What follows is another protocol, a websocket's perhaps, in which either side may have the last word.
    pub(crate) fn is_switched(&self) -> bool {
        self.status == Some(101)
    }
}

/// A call that was answered later than its caller allowed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LateCall {
    /// `GET /path`, the query left out.
    pub request: String,
    /// The header that said how long the caller waits.
    pub header: String,
    /// How long.
    pub allowed_us: u64,
    /// From its head to that of the answer.
    pub ran_us: u64,
}

/// Calls of one connection that were answered by an error of the server, of those whose heads were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FailedCalls {
    /// The status of the latest.
    pub status: u16,
    /// How many.
    pub number: u32,
    /// From the head of the request to that of the answer, of all of them together.
    pub total_us: u64,
    /// The longest of them.
    pub longest_us: u64,
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
    /// The server, of several the last that was asked.
    pub server: String,
    /// The servers that were asked before it and had not answered by then. Bounded.
    #[serde(default)]
    pub in_vain: Vec<String>,
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
    /// The answer did not fit UDP: the question has to be asked again over TCP.
    #[serde(default)]
    pub truncated: bool,
    /// There is no answer, and the last time that it was sent, the server's host said that nobody listens there.
    #[serde(default)]
    pub refused: bool,
}
