//! What one call observed: the judge's input. Plain data, filled by the library from its own sockets, or by a test.
//!
//! A field that is `None` was not observed. That is not the same as zero, and no rule treats it as zero.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Limit, Stage, Timeline};

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It did what it was for.
    Ok,
    /// A limit fired.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It failed before any limit fired.
    Failed,
}

impl Outcome {
    /// The word used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Everything that a failed call knows about itself.
#[derive(Clone, Debug)]
pub struct CallFacts {
    /// The stage that was running when it failed.
    pub stage: Stage,
    /// What ended it.
    pub failure: Failure,
    /// When it ended.
    pub now: Instant,
    /// Its stages.
    pub timeline: Timeline,
    /// How late the own runtime polled the deadline that fired, or the result that came after it.
    pub late_by: Duration,
    /// The socket at the moment of failure.
    pub socket: Option<SocketFacts>,
    /// What the resolver did.
    pub dns: Option<DnsFacts>,
    /// What the pool looked like.
    pub pool: Option<PoolFacts>,
    /// HTTP/2 flow control and stream limits.
    pub h2: Option<H2Facts>,
    /// What was sent and received on behalf of this call.
    pub exchange: ExchangeFacts,
}

/// What ended a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// This limit fired while work was pending.
    DeadlinePassed(Limit),
    /// This limit had fired before the work began: nothing was sent.
    DeadlinePast(Limit),
    /// The context was cancelled, with this reason.
    Cancelled {
        /// What the canceller gave as its reason.
        reason: String,
        /// Where the cancel was called, when known.
        at: Option<String>,
    },
    /// A system call failed.
    Os {
        /// What was called: `socket`, `bind`, `connect`, `read`, `write`; or what HTTP/2 ended by a frame: `stream`,
        /// `connection`.
        operation: &'static str,
        /// The class of the error.
        kind: OsFailure,
        /// The system's own words, errno included.
        text: String,
    },
    /// The peer closed its side where more was due.
    Closed,
    /// The resolver gave up, or answered that there is nothing.
    Dns {
        /// Why.
        reason: DnsFailure,
        /// In words.
        text: String,
    },
    /// The peer sent a TLS alert.
    TlsAlert(String),
    /// The peer's certificate does not verify.
    TlsUntrusted {
        /// Why.
        reason: Untrusted,
        /// In words, after "the peer's certificate does not verify: ".
        text: String,
    },
    /// What came is no TLS; the first bytes of it, printable.
    TlsNotTls(String),
    /// TLS failed otherwise.
    TlsBroken(String),
    /// The peer broke HTTP framing.
    Protocol(String),
    /// The caller's own request body failed.
    RequestBody(String),
    /// The caller asked for what cannot be done: a bad URL, a bad field, a bound that is too small.
    Usage(String),
    /// Something that no rule knows.
    Other(String),
}

/// Classes of failed system calls that mean different things to a caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OsFailure {
    /// ECONNREFUSED.
    Refused,
    /// ECONNRESET, EPIPE, ECONNABORTED.
    Reset,
    /// ETIMEDOUT: the kernel gave up, not one of our limits.
    KernelTimeout,
    /// EHOSTUNREACH, ENETUNREACH, ENETDOWN, EHOSTDOWN.
    Unreachable,
    /// EADDRNOTAVAIL.
    AddressNotAvailable,
    /// EMFILE, ENFILE.
    NoDescriptors,
    /// EAGAIN of connect() on a Unix socket: the listener's queue is full.
    QueueFull,
    /// Anything else.
    Other,
}

/// Why a certificate does not verify.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Untrusted {
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// It is for another name.
    WrongName,
    /// Nobody whom we trust has signed it.
    UnknownIssuer,
    /// Its issuer took it back.
    Revoked,
    /// It is an authority's own certificate, and no server's.
    Authority,
    /// Anything else.
    Other,
}

/// Why there is no address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DnsFailure {
    /// No server answered, by the resolver's own reckoning.
    NoAnswer,
    /// NXDOMAIN.
    NoSuchName,
    /// The name exists and has no address.
    NoAddress,
    /// SERVFAIL, REFUSED or another error code.
    ServerError,
    /// Answers came that could not be used.
    Unusable,
    /// The name is no valid host name.
    InvalidName,
}

/// What the resolver did for one call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DnsFacts {
    /// The name that was looked up.
    pub name: String,
    /// The servers that were asked.
    pub servers: Vec<String>,
    /// Queries sent, repeats included; `None` when the system's resolver hides them.
    pub queries: Option<u32>,
    /// Answers received, of whatever kind.
    pub answers: Option<u32>,
    /// Whether an answer was cut short and the query had to be repeated over TCP.
    pub truncated: bool,
}

/// State of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the states of RFC 9293")]
pub enum TcpState {
    #[default]
    Unknown,
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

/// The own socket, as the kernel saw it at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketFacts {
    /// The other end, for a reader.
    pub peer: String,
    /// `TCP_INFO`, where the platform has it.
    pub tcp: Option<TcpInfo>,
    /// Bytes that arrived and that nobody read yet.
    pub unread_bytes: Option<u32>,
    /// Bytes written that the peer has not acknowledged (sent or not).
    pub unsent_bytes: Option<u32>,
    /// `SO_COOKIE`.
    pub cookie: Option<u64>,
    /// The listener of the peer's address, when it is on this host.
    pub listener: Option<ListenerFacts>,
    /// The other end of this very connection, when it is on this host.
    pub peer_socket: Option<PeerSocketFacts>,
    /// Nobody looked for the last two: too many calls failed at once.
    pub peer_unasked: bool,
}

/// The part of Linux's `tcp_info` that rules use. Fields of newer kernels are `None` on older ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named after the fields of struct tcp_info, with their units")]
pub struct TcpInfo {
    pub state: TcpState,
    /// Retransmissions of the segment that is unacknowledged now.
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub snd_mss: u32,
    pub pmtu: u32,
    pub total_retrans: u32,
    pub rto_us: u32,
    pub rtt_us: u32,
    pub last_data_sent_ms: u32,
    pub last_data_recv_ms: u32,
    pub last_ack_recv_ms: u32,
    pub bytes_acked: Option<u64>,
    pub bytes_received: Option<u64>,
    pub notsent_bytes: Option<u32>,
    pub busy_us: Option<u64>,
    pub rwnd_limited_us: Option<u64>,
    pub sndbuf_limited_us: Option<u64>,
    /// Segments that arrived out of order: something before them is missing.
    pub rcv_ooopack: Option<u32>,
    /// The window the peer offers.
    pub snd_wnd: Option<u32>,
}

/// A listening socket on this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenerFacts {
    /// Connections that wait to be accepted.
    pub queued: u32,
    /// How many may wait.
    pub backlog: u32,
}

impl ListenerFacts {
    /// Linux takes one more than the backlog.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.queued > self.backlog
    }
}

/// The other end of a connection, when it is on this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerSocketFacts {
    /// What it received and its application has not read.
    pub unread_bytes: u32,
    /// What it wrote and we have not acknowledged.
    pub unacked_bytes: u32,
}

/// The pool, seen by one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolFacts {
    /// Connections of this host in use or being dialled.
    pub in_use: usize,
    /// How many the host may have.
    pub limit: usize,
    /// Calls that wait for one, this one included.
    pub waiting: usize,
    /// Connections of this host that other calls are dialling, counted in `in_use` too.
    pub dialling: usize,
    /// Whether the limit that was reached is the one for all hosts together.
    pub limit_is_global: bool,
}

/// HTTP/2, seen by one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct H2Facts {
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS is reached on every connection.
    pub streams_exhausted: bool,
    /// Streams in use on the connections of this host.
    pub streams_in_use: usize,
    /// What the peer allows.
    pub max_streams: usize,
    /// Bytes of the request that wait for a WINDOW_UPDATE.
    pub window_blocked_bytes: usize,
}

/// What went over the wire on behalf of one call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExchangeFacts {
    /// Whether any byte of the request was handed to the kernel.
    pub request_started: bool,
    /// Bytes of the request handed to the kernel.
    pub request_bytes: u64,
    /// Whether `send` waited for the caller's own body to give bytes when it ended; of a server, whether it waited for the
    /// rest of a request; in `wait` and `receive`, whether the request had no end yet.
    pub waiting_for_request_body: bool,
    /// How long `send` waited for bytes of the request's body, where that was measured.
    pub sender_took: Duration,
    /// Bytes of the request's body that were still to come, where it said how many.
    pub request_left: Option<u64>,
    /// Whether the request's body said no length, so that whoever sends it may wait for the answer first.
    pub request_streams: bool,
    /// Whether the limit waited for bytes to be taken: by the caller, where `reader_away` says so, else by the peer.
    pub to_take: bool,
    /// In a tunnel: whether one side had ended it, and the other, to which the socket leads, had not.
    pub half_ended: bool,
    /// Bytes of the response, head included; in `tls`, bytes of the handshake.
    pub response_bytes: u64,
    /// Bytes of the body that were handed to the caller.
    pub body_bytes: u64,
    /// What the response said its body has.
    pub body_expected: Option<u64>,
    /// On a stream of the user's own protocol: how many of the bytes came since the last write. `None` for HTTP.
    pub since_write: Option<u64>,
    /// When bytes were last read from the socket.
    pub last_read: Option<Instant>,
    /// During `receive`: how long the caller did not ask for more.
    pub reader_away: Duration,
    /// Whether the connection had been used before, and how long it had been idle then.
    pub reused_after: Option<Duration>,
}
