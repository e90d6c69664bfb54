//! Options of a TCP socket.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::Socket;

use crate::Keepalive;
#[cfg(target_os = "linux")]
use crate::socket;

/// A function that sees the raw socket before it connects.
pub type BeforeConnect = Arc<dyn Fn(&Socket, SocketAddr) -> io::Result<()> + Send + Sync>;

/// Options of a TCP connection.
///
/// | option | default |
/// |---|---|
/// | `nodelay` | on |
/// | `keepalive` | first probe after 30 s of silence, then every 10 s, dead after 3 |
/// | `user_timeout` | the kernel's own (`tcp_retries2`, some 15 minutes) |
/// | `bind` | chosen by the kernel |
/// | `before_connect` | nothing |
#[derive(Clone)]
pub struct TcpOptions {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// TCP keepalive; `None` leaves it off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged before the kernel gives up.
    pub user_timeout: Option<Duration>,
    /// The own address to connect from. Addresses of the other family are then not tried.
    pub bind: Option<IpAddr>,
    /// Called with the raw socket before connect: marks, interfaces, what the user needs.
    pub before_connect: Option<BeforeConnect>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            user_timeout: None,
            bind: None,
            before_connect: None,
        }
    }
}

impl fmt::Debug for TcpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpOptions")
            .field("nodelay", &self.nodelay)
            .field("keepalive", &self.keepalive)
            .field("user_timeout", &self.user_timeout)
            .field("bind", &self.bind)
            .field("before_connect", &self.before_connect.is_some())
            .finish()
    }
}

impl TcpOptions {
    pub(crate) fn apply(&self, socket: &Socket, addr: SocketAddr) -> Result<(), (&'static str, io::Error)> {
        let option = |err| ("setsockopt", err);
        socket.set_tcp_nodelay(self.nodelay).map_err(option)?;
        if let Some(keepalive) = self.keepalive {
            keepalive.apply(socket.into()).map_err(option)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout).map_err(option)?;
        if let Some(hook) = &self.before_connect {
            hook(socket, addr).map_err(|err| ("the before_connect hook", err))?;
        }
        if let Some(bind) = self.bind {
            #[cfg(target_os = "linux")]
            socket::choose_port_late(std::os::fd::AsFd::as_fd(socket)).map_err(option)?;
            socket.bind(&SocketAddr::new(bind, 0).into()).map_err(|err| ("bind", err))?;
        }
        Ok(())
    }
}

/// A connect that does not block has begun.
pub(crate) fn in_progress(err: &io::Error) -> bool {
    #[cfg(unix)]
    let in_progress = err.raw_os_error() == Some(libc::EINPROGRESS);
    #[cfg(not(unix))]
    let in_progress = err.kind() == io::ErrorKind::WouldBlock;
    // An interrupted connect goes on in the kernel, as a non-blocking one does.
    in_progress || err.kind() == io::ErrorKind::Interrupted
}
