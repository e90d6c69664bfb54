//! TCP keepalive.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// TCP keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes until the connection counts as dead.
    pub probes: u32,
}

impl Default for Keepalive {
    /// First probe after 30 s of silence, then every 10 s, dead after 3.
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 }
    }
}

impl Keepalive {
    pub(crate) fn apply(self, socket: SockRef<'_>) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(self.idle).with_interval(self.interval);
        #[cfg(not(windows))]
        let keepalive = keepalive.with_retries(self.probes);
        socket.set_tcp_keepalive(&keepalive)
    }
}
