use serde::{Deserialize, Serialize};

use super::Stack;

/// Open descriptors.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Fds {
    /// The soft limit: what `EMFILE` goes by.
    pub soft_limit: u64,
    /// How far the process may raise it itself.
    pub hard_limit: u64,
    /// How many were open, over time; the first and the last reading are always there.
    pub open: Vec<Reading>,
    /// By what they are, the most numerous last state first.
    pub by_kind: Vec<FdKind>,
    /// Connected sockets by peer, the most numerous first.
    pub by_peer: Vec<PeerFds>,
    /// Who opened what is still open, since the watch began; the most first. `None` where nobody looked.
    pub openers: Option<Vec<Opener>>,
}

/// A number at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// When.
    pub at_us: u64,
    /// How many.
    pub value: u64,
}

/// Descriptors of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FdKind {
    /// `tcp`, `unix`, `udp`, `file`, `pipe`, `eventfd`, `epoll`, `timerfd`, `socket` (other), `device`, `memory`.
    pub kind: String,
    /// How many when the watch began.
    pub first: u64,
    /// How many when it ended.
    pub last: u64,
    /// One of them: a path, the peer.
    pub example: Option<String>,
}

/// Sockets to one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeerFds {
    /// Its address; the port is left out where it is the ephemeral one.
    pub peer: String,
    /// How many when the watch began.
    pub first: u64,
    /// How many when it ended.
    pub last: u64,
}

/// A place that opens descriptors which stay open.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Opener {
    /// Where.
    pub stack: Stack,
    /// The system call: `socket`, `openat`, `accept4`.
    pub call: String,
    /// How many it opened during the watch that were still open at its end.
    pub still_open: u64,
}
