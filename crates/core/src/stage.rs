//! Which part of a call is running.

use std::fmt;

/// A part of a call. The parts of one call follow each other; together with what no part explains they add up to
/// the whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Waiting for a pooled connection or a permit.
    Queue,
    /// Name to addresses.
    Resolve,
    /// From the first SYN to an established connection (every address that was tried included).
    Connect,
    /// TLS handshake.
    Tls,
    /// Until the request is fully flushed.
    Send,
    /// From the flushed request to the whole head of the response.
    Wait,
    /// The body of the response.
    Receive,
    /// The user's own code.
    Handle,
    /// The own runtime was late: the local machine, not the network. Only where lateness was measured.
    Stall,
    /// A stage that the user named.
    Named(&'static str),
}

impl Stage {
    /// The word used in reports, flags and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Wait => "wait",
            Self::Receive => "receive",
            Self::Handle => "handle",
            Self::Stall => "stall",
            Self::Named(name) => name,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
