//! A socket with its limits, and the errors that are made of it.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use overdue_core::{
    ConnectionReport, Stage,
    facts::{Failure, OsFailure, SocketFacts},
};
use socket2::Socket;

use super::{
    interrupt::Interrupter,
    side::Side,
    wait::{Ended, Stopped},
};
use crate::{
    clock,
    socket::{self, os_failure},
    trouble::{Moved, Operated, Trouble},
};

pub(super) const ACCEPT: Stage = Stage::Named("accept");

/// What outlives the socket in its handles.
#[derive(Default)]
pub(super) struct Control {
    pub(super) read: Side,
    pub(super) write: Side,
    /// Raised when it is closed.
    pub(super) life: Interrupter,
    /// When bytes were last read: nanoseconds after the connection was made, 0 for never.
    last_read_ns: AtomicU64,
    /// The caller shut the sending direction down: later errors of it are its own doing.
    shut: AtomicBool,
}

pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) peer: Option<SocketAddr>,
    /// The other end, for a reader.
    peer_name: String,
    pub(super) local: Option<SocketAddr>,
    born: Instant,
}

impl Control {
    pub(super) fn side(&self, stage: Stage) -> &Side {
        if stage == Stage::Send { &self.write } else { &self.read }
    }

    pub(super) fn note_read(&self, connection: &Connection, bytes: usize) {
        if bytes > 0 {
            self.read.moved(bytes);
            let ns = clock::unpaused().saturating_duration_since(connection.born).as_nanos();
            self.last_read_ns.store(u64::try_from(ns).unwrap_or(u64::MAX).max(1), Relaxed);
        }
    }

    pub(super) fn note_written(&self, bytes: usize) {
        self.write.moved(bytes);
        self.read.set_mark();
    }

    pub(super) fn note_shut(&self) {
        self.shut.store(true, Relaxed);
    }

    fn moved(&self, connection: Option<&Connection>) -> Moved {
        let last_read = self.last_read_ns.load(Relaxed);
        let born = connection.filter(|_| last_read > 0).map(|connection| connection.born);
        Moved {
            read: self.read.bytes(),
            written: self.write.bytes(),
            since_write: self.read.since_mark(),
            last_read: born.and_then(|born| born.checked_add(Duration::from_nanos(last_read))),
        }
    }

    /// The error of an operation. What the system reports keeps its kind.
    pub(super) fn explain(&self, stage: Stage, ended: Ended, connection: Option<&Connection>) -> io::Error {
        let (trouble, started, deadline, kind) = match ended {
            Ended::Signal => return io::ErrorKind::Interrupted.into(),
            Ended::Failed { err, .. } if stage == Stage::Send && self.shut.load(Relaxed) => return err,
            Ended::Failed { err, started } => {
                let kind = err.kind();
                (failed(stage, err).into(), started, None, Some(kind))
            }
            Ended::Stopped(stopped) => {
                let Stopped { interrupted, late_by, deadline, started } = *stopped;
                (Trouble::interrupted(interrupted, late_by), started, deadline, None)
            }
        };
        let trouble = match connection {
            Some(connection) => trouble.with_socket(connection.observe()),
            None => trouble,
        };
        let operated = Operated {
            stage,
            started,
            deadline: deadline.as_ref(),
            moved: self.moved(connection),
            connection: connection.map(Connection::report),
            // Until it is connected, nothing was sent.
            replayable: stage == Stage::Connect || stage == ACCEPT,
        };
        let error = operated.error(trouble, clock::unpaused());
        io::Error::new(kind.unwrap_or_else(|| error.io_kind()), error)
    }
}

impl Connection {
    /// A TCP connection.
    pub(super) fn tcp(socket: Socket, peer: SocketAddr) -> Self {
        Self::connecting(socket, peer).connected()
    }

    /// A TCP connection that is to be. The kernel chooses its own address on the way.
    pub(super) fn connecting(socket: Socket, peer: SocketAddr) -> Self {
        Self { socket, peer: Some(peer), peer_name: peer.to_string(), local: None, born: clock::unpaused() }
    }

    pub(super) fn connected(self) -> Self {
        Self { local: self.local_addr(), ..self }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// A Unix socket.
    pub(super) fn unix(socket: Socket, path: Option<PathBuf>) -> Self {
        let peer_name = path.map_or_else(|| "unix socket".to_owned(), |path| path.display().to_string());
        Self { socket, peer: None, peer_name, local: None, born: clock::unpaused() }
    }

    fn observe(&self) -> SocketFacts {
        let facts = match self.peer {
            Some(peer) => {
                let local = self.local.or_else(|| self.local_addr());
                socket::observe(self.socket.as_fd(), local, Some(peer))
            }
            None => SocketFacts::default(),
        };
        SocketFacts { peer: self.peer_name.clone(), ..facts }
    }

    fn report(&self) -> ConnectionReport {
        ConnectionReport {
            cookie: rustix::net::sockopt::socket_cookie(&self.socket).ok(),
            peer: Some(self.peer_name.clone()),
            local: self.local.map(|local| local.to_string()),
            ..ConnectionReport::default()
        }
    }

    /// Ends both directions for everybody who shares the socket.
    pub(super) fn shut_down(&self) {
        // The peer may have ended the connection before.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// What an error of the system means in this stage.
fn failed(stage: Stage, err: io::Error) -> (Failure, Option<io::Error>) {
    let operation = match stage {
        Stage::Send => "write",
        Stage::Receive => "read",
        Stage::Connect => "connect",
        _ => "accept",
    };
    // Of a Unix socket: no such path is as a port where nobody listens, and EAGAIN says that the queue is full.
    let kind = match err.kind() {
        io::ErrorKind::NotFound if stage == Stage::Connect => OsFailure::Refused,
        io::ErrorKind::WouldBlock if stage == Stage::Connect => OsFailure::QueueFull,
        _ => return os_failure(operation, err),
    };
    (Failure::Os { operation, kind, text: err.to_string() }, Some(err))
}
