//! Faults of the dial that need no packet filter: a full accept queue, and no local port left.
//!
//! Both are made by connections of the lab's own, which it holds for as long as the fault lasts.

use std::{fs, io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

/// The listener's backlog. Linux queues one connection more.
pub(crate) const BACKLOG: i32 = 1;

/// On loopback a SYN is answered before `connect` returns, so one that is unanswered for this long was dropped.
const DROPPED_AFTER: Duration = Duration::from_millis(150);

/// The most connections that are made to fill something.
const MAX_FILLERS: usize = 64;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Where the few local ports begin: below the range of any listener of the lab.
const FIRST_PORT: u16 = 20_000;

/// Fills the accept queue of a listener until a SYN goes unanswered.
pub(crate) async fn fill_queue(listener: SocketAddr) -> io::Result<Vec<TcpStream>> {
    let mut fillers = Vec::new();
    while fillers.len() < MAX_FILLERS {
        match timeout(DROPPED_AFTER, TcpStream::connect(listener)).await {
            Ok(connected) => fillers.push(connected?),
            Err(_) => return Ok(fillers),
        }
    }
    Err(io::Error::other(format!("{MAX_FILLERS} connections did not fill a queue of {BACKLOG}")))
}

/// Leaves the namespace with few local ports and takes them all, towards one server.
pub(crate) async fn take_ports(server: SocketAddr, ports: u16) -> io::Result<Vec<TcpStream>> {
    let last = FIRST_PORT.saturating_add(ports.saturating_sub(1));
    fs::write(PORT_RANGE, format!("{FIRST_PORT} {last}"))?;
    let mut fillers = Vec::new();
    while fillers.len() < MAX_FILLERS {
        match TcpStream::connect(server).await {
            Ok(connected) => fillers.push(connected),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Ok(fillers),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{MAX_FILLERS} connections did not take {ports} ports")))
}
