use std::net::SocketAddr;

use overdue_core::facts::{TcpInfo, TcpState};
use serde::{Deserialize, Serialize};

/// The sockets of the process, and what its network namespace counts.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Sockets {
    /// Its TCP connections, at the end of the watch or when they were last seen.
    pub tcp: Vec<TcpSocket>,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Counters of its network namespace, over the window.
    pub host: Option<HostTcp>,
    /// How often the sockets were read.
    pub rounds: u32,
    /// Sockets that were left out because there were too many.
    pub left_out: u64,
}

/// One TCP connection of the process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TcpSocket {
    /// The key to other tables.
    pub cookie: u64,
    /// Its descriptor in the process; `None` where it has none, or that could not be read.
    pub fd: Option<u32>,
    /// The own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its state when last seen.
    pub state: TcpState,
    /// For how long it is known to have been in that state; of CLOSE-WAIT and FIN-WAIT-2 also from before the watch.
    pub in_state_us: u64,
    /// Whether that is only since the watch began: it may have been longer.
    pub since_before: bool,
    /// Whether somebody in its network namespace listens on the own end: it was accepted, by this process or its parent.
    pub inbound: bool,
    /// Bytes that arrived and nobody read, the peer's FIN not counted.
    pub unread_bytes: u32,
    /// Whether the peer's FIN came and nobody read that far: the process has not noticed that the peer closed.
    #[serde(default)]
    pub fin_unread: bool,
    /// For how long there were such bytes without the reader taking any.
    pub unread_for_us: u64,
    /// The longest such time in the window.
    #[serde(default)]
    pub unread_longest_us: u64,
    /// Bytes written that the peer has not acknowledged (sent or not).
    pub unsent_bytes: u32,
    /// The timer that the kernel has armed.
    pub timer: TcpTimer,
    /// When the watch first saw it.
    pub first: Option<TcpInfo>,
    /// When the watch last saw it.
    pub last: Option<TcpInfo>,
    /// When it was last there.
    pub last_seen_us: u64,
    /// The listener of the peer's address, when it is on this host.
    pub peer_listener: Option<Backlog>,
    /// The other end, when it is on this host: bytes that it received and did not read.
    pub peer_unread_bytes: Option<u32>,
    /// The same: bytes that it wrote and that were not acknowledged here.
    #[serde(default)]
    pub peer_unsent_bytes: Option<u32>,
    /// The process that holds the other end, or that listens and has not accepted it, when it is on this host and could
    /// be read.
    pub peer_pid: Option<u32>,
}

impl TcpSocket {
    /// One of which nothing more is known yet.
    #[must_use]
    pub const fn new(cookie: u64, local: SocketAddr, remote: SocketAddr, state: TcpState) -> Self {
        Self {
            cookie,
            fd: None,
            local,
            remote,
            state,
            in_state_us: 0,
            since_before: false,
            inbound: false,
            unread_bytes: 0,
            fin_unread: false,
            unread_for_us: 0,
            unread_longest_us: 0,
            unsent_bytes: 0,
            timer: TcpTimer { kind: TimerKind::Off, expires_ms: 0, fired: 0 },
            first: None,
            last: None,
            last_seen_us: 0,
            peer_listener: None,
            peer_unread_bytes: None,
            peer_unsent_bytes: None,
            peer_pid: None,
        }
    }
}

impl TcpSocket {
    /// Bytes that were sent and acknowledged by then. Of a connection that was opened from here the kernel counts the SYN
    /// among them, of one that was accepted it does not.
    pub(crate) fn acked(&self, tcp: &TcpInfo) -> Option<u64> {
        Some(tcp.bytes_acked?.saturating_sub(u64::from(!self.inbound)))
    }
}

/// A listener's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backlog {
    /// Connections that wait to be accepted.
    pub queued: u32,
    /// How many may wait; Linux takes one more.
    pub backlog: u32,
}

/// What the kernel will do next of its own accord.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TcpTimer {
    /// Which.
    pub kind: TimerKind,
    /// How long until it fires.
    pub expires_ms: u32,
    /// How often it has fired without an answer.
    pub fired: u8,
}

/// The timers of a TCP socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimerKind {
    /// None: without traffic nothing will ever happen.
    #[default]
    Off,
    /// Something is sent and not acknowledged.
    Retransmit,
    /// Keepalive; also the linger of FIN-WAIT-2 for a socket that was closed.
    Keepalive,
    /// TIME-WAIT.
    TimeWait,
    /// The peer's window is closed and probed.
    ZeroWindowProbe,
}

/// One listener of the process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// The key to other tables.
    pub cookie: u64,
    /// Its descriptor in the process.
    pub fd: Option<u32>,
    /// Where it listens.
    pub local: SocketAddr,
    /// How many may wait to be accepted; Linux takes one more. `u32::MAX` where that could not be read.
    pub backlog: u32,
    /// The most that waited, of all readings.
    pub queued_max: u32,
    /// How many waited at the last reading.
    pub queued_last: u32,
    /// The fewest that waited, of all readings.
    #[serde(default)]
    pub queued_min: u32,
    /// For how long somebody has waited at every reading, and never fewer than at the one before: nobody accepts, or more
    /// came each time than were accepted.
    #[serde(default)]
    pub waiting_us: u64,
    /// Readings in which it was full.
    pub full_rounds: u32,
    /// Connections it dropped over the window, where the kernel tells.
    pub drops: Option<u64>,
    /// Handshakes to it that were not complete.
    pub half_open: HalfOpen,
}

/// Inbound handshakes that were not complete.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HalfOpen {
    /// When the watch began.
    pub first: u32,
    /// When it ended.
    pub last: u32,
    /// From how many addresses, at the end.
    pub sources: u32,
    /// The most frequent address and how many of the last are its.
    pub top: Option<(String, u32)>,
    /// To how many of the last the SYN-ACK was sent again: what was sent did not get there, or its answer did not come
    /// back. Others are new, or wait by `TCP_DEFER_ACCEPT` for the first bytes of a client that is there.
    #[serde(default)]
    pub sent_again: Option<u32>,
}

/// Counters of the network namespace (`/proc/net/netstat`, `/proc/net/snmp`), as differences over the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostTcp {
    /// Connections that a full accept queue did not take.
    pub listen_overflows: u64,
    /// All that listeners dropped.
    pub listen_drops: u64,
    /// SYN cookies sent: the queue of half-open connections was full.
    pub syncookies_sent: u64,
    /// Segments sent again.
    pub retransmitted_segments: u64,
    /// Segments sent.
    pub sent_segments: u64,
    /// Resets sent.
    pub resets_sent: u64,
    /// Connections opened from here.
    pub active_opens: u64,
    /// Connections accepted.
    pub passive_opens: u64,
    /// Attempts to connect, or inbound handshakes, that failed.
    pub attempt_fails: u64,
    /// Established connections that were reset.
    pub established_resets: u64,
}
