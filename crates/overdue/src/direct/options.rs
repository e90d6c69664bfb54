//! How blocking connections are made, and how their operations wait.

use std::{
    io,
    net::{self, SocketAddr},
    os::{fd::AsFd, unix},
    panic::Location,
    path::Path,
    time::Duration,
};

use overdue_core::Stage;
use rustix::event::PollFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    Interrupter, Listener, Stream, Until,
    connection::{Connection, Control},
    wait::{Ended, Wait},
};
use crate::{
    clock,
    tcp::{TcpOptions, in_progress},
};

/// How blocking connections are made, and how their operations wait.
///
/// | option | default |
/// |---|---|
/// | `tcp` | those of [`TcpOptions`] |
/// | `spin` | none: a thread that has to wait sleeps |
/// | `until_signal` | off: operations go on after a signal |
/// | `interrupter` | each connection has one of its own |
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until something is made with them"]
pub struct Options {
    tcp: TcpOptions,
    pub(super) spin: Duration,
    pub(super) until_signal: bool,
    interrupter: Option<Interrupter>,
}

impl Options {
    /// The defaults above.
    pub fn new() -> Self {
        Self::default()
    }

    /// TCP options, for connections that are made by [`connect`](Self::connect).
    pub fn tcp(mut self, tcp: TcpOptions) -> Self {
        self.tcp = tcp;
        self
    }

    /// Busy polling: for so long an operation that has to wait asks the socket again and again before its thread
    /// sleeps. It saves the time to wake up, some microseconds, and costs a core. Deadlines and interrupters are
    /// watched meanwhile, as ever.
    pub fn spin(mut self, time: Duration) -> Self {
        self.spin = time;
        self
    }

    /// Whether an operation that waits ends with [`ErrorKind::Interrupted`](io::ErrorKind::Interrupted) when its thread
    /// has run a signal handler. Otherwise it goes on, until the same deadline. What was installed with `SA_RESTART`
    /// counts as well.
    ///
    /// A handler that runs just before the thread sleeps is not noticed. Who must not miss one gives the signal to a
    /// thread (`signalfd`, `sigwait`) that uses an [`Interrupter`].
    pub fn until_signal(mut self, ends: bool) -> Self {
        self.until_signal = ends;
        self
    }

    /// Who can interrupt the connecting, and what is made with these options. Several connections may share one.
    pub fn interrupter(mut self, interrupter: &Interrupter) -> Self {
        self.interrupter = Some(interrupter.clone());
        self
    }

    pub(super) fn own_interrupter(&self) -> Interrupter {
        self.interrupter.clone().unwrap_or_default()
    }

    /// Connects to a TCP address. Names are not resolved here: the system's resolver knows no deadline (see
    /// [`overdue::resolve`](crate::resolve)).
    ///
    /// `until` is for the connecting alone; the stream begins without deadlines.
    ///
    /// # Errors
    /// `TimedOut` where the limit fired, in stage `connect`, with the kernel's evidence; `ConnectionAborted` when it was
    /// interrupted; what the system reports keeps its kind. When `until` has passed already, no socket is made.
    #[track_caller]
    pub fn connect(&self, address: SocketAddr, until: impl Into<Until>) -> io::Result<Stream> {
        let (control, interrupter) = self.connecting(until.into(), Location::caller());
        let fails = |err| control.explain(Stage::Connect, Ended::Failed { err, started: clock::unpaused() }, None);
        Self::may_begin(&control, &interrupter)?;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(fails)?;
        self.tcp.apply(&socket, address).map_err(|(_, err)| fails(err))?;
        let connection = Connection::connecting(socket, address);
        let wait = Wait {
            fd: connection.socket.as_fd(),
            events: PollFlags::OUT,
            stage: Stage::Connect,
            side: &control.read,
            interrupters: [&control.life, &interrupter],
            spin: self.spin,
            until_signal: self.until_signal,
        };
        let mut begun = false;
        let result = wait.run(|| {
            if !std::mem::replace(&mut begun, true) {
                return match connection.socket.connect(&address.into()) {
                    Err(err) if in_progress(&err) => Err(io::ErrorKind::WouldBlock.into()),
                    result => result,
                };
            }
            match connection.socket.take_error()? {
                Some(err) => Err(err),
                None => match connection.socket.peer_addr() {
                    Err(err) if err.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
                    result => result.map(drop),
                },
            }
        });
        match result {
            Ok(()) => Ok(Stream::new(connection.connected(), self, interrupter)),
            Err(ended) => Err(control.explain(Stage::Connect, ended, Some(&connection))),
        }
    }

    /// Connects to a Unix socket. The kernel answers at once, so nothing is waited for: a full queue is an error of
    /// kind `WouldBlock`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect). A path that does not exist is as a port where nobody listens.
    #[track_caller]
    pub fn connect_unix(&self, path: impl AsRef<Path>, until: impl Into<Until>) -> io::Result<Stream> {
        let path = path.as_ref();
        let (control, interrupter) = self.connecting(until.into(), Location::caller());
        Self::may_begin(&control, &interrupter)?;
        let started = clock::unpaused();
        let connect = || -> Result<Socket, (io::Error, Option<Socket>)> {
            let address = SockAddr::unix(path).map_err(|err| (err, None))?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(|err| (err, None))?;
            match socket.connect(&address) {
                Ok(()) => Ok(socket),
                Err(err) => Err((err, Some(socket))),
            }
        };
        match connect() {
            Ok(socket) => Ok(Stream::new(Connection::unix(socket, Some(path.into())), self, interrupter)),
            Err((err, socket)) => {
                let connection = socket.map(|socket| Connection::unix(socket, Some(path.into())));
                Err(control.explain(Stage::Connect, Ended::Failed { err, started }, connection.as_ref()))
            }
        }
    }

    fn connecting(&self, until: Until, caller: &'static Location<'static>) -> (Control, Interrupter) {
        let (control, now) = (Control::default(), clock::unpaused());
        control.read.set_deadline(until.deadline(Stage::Connect, caller, now), now);
        (control, self.own_interrupter())
    }

    fn may_begin(control: &Control, interrupter: &Interrupter) -> io::Result<()> {
        super::wait::may_begin(&control.read, &[&control.life, interrupter])
            .map_err(|ended| control.explain(Stage::Connect, ended, None))
    }

    /// Listens at a TCP address; port 0 lets the kernel choose. What it accepts has these options.
    ///
    /// # Errors
    /// Those of the system: the address is in use, or not this machine's.
    pub fn bind(&self, address: SocketAddr) -> io::Result<Listener> {
        Listener::new(net::TcpListener::bind(address)?.into(), self)
    }

    /// Listens at a path, which must not exist. It is not removed afterwards.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bind_unix(&self, path: impl AsRef<Path>) -> io::Result<Listener> {
        Listener::new(unix::net::UnixListener::bind(path)?.into(), self)
    }

    /// A connection that is there already. It is made non-blocking.
    ///
    /// # Errors
    /// When it has no peer: it is not connected any more.
    pub fn from_tcp(&self, stream: net::TcpStream) -> io::Result<Stream> {
        let peer = stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        Ok(Stream::new(Connection::tcp(stream.into(), peer), self, self.own_interrupter()))
    }

    /// A connection that is there already. It is made non-blocking.
    ///
    /// # Errors
    /// Those of the system.
    pub fn from_unix(&self, stream: unix::net::UnixStream) -> io::Result<Stream> {
        let path = stream.peer_addr().ok().and_then(|peer| peer.as_pathname().map(Into::into));
        stream.set_nonblocking(true)?;
        Ok(Stream::new(Connection::unix(stream.into(), path), self, self.own_interrupter()))
    }
}
