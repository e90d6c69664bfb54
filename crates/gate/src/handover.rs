//! Listening sockets that outlive a process: those of systemd at the start, and those that one process of the gateway
//! hands to the next, so that no connection is refused, and none that waits to be accepted is lost.
//!
//! The process that runs starts the program anew with one end of a Unix socket as its standard input, and sends each
//! listening socket over it with a name (`SCM_RIGHTS`: descriptors by message, so that nothing depends on numbers or on
//! what happens between fork and exec). The new one binds nothing that it was given, says `ready` once its workers serve,
//! and hears `go`; only then does the old one stop to accept. Whoever finds the other end closed goes on, or ends, as if
//! nothing had been.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            fs::MetadataExt as _,
            net::{SocketAddr as UnixAddress, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use overdue::server::inherited_listeners;
use overdue_core::DurationText;
use rustix::{
    cmsg_space,
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
    process::{Pid, PidfdFlags, getppid, pidfd_open},
};
use tokio::sync::oneshot;

use crate::clock;

/// Says to a new process from whom it takes over. Names its parent, so that it means nothing to any other.
const VARIABLE: &str = "OVERDUE_GATE_TAKES_OVER_FROM";
/// How long a new process may take until it serves.
const READY: Duration = Duration::from_secs(30);
/// How long either may take for a word that it has only to say.
const WORD: Duration = Duration::from_secs(5);
/// How long it may take to end, before it is killed.
const ENDING: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// A message is a role and an address.
const MESSAGE_MAX: usize = 128;
/// More sockets than these are a mistake: workers and listeners have bounds, too.
const SOCKETS_MAX: usize = 65_536;

/// What a listening socket is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Listener,
    Admin,
}

/// A listening socket, under the address that the configuration has for it.
#[derive(Debug)]
pub(crate) struct Named {
    /// `None`: systemd does not say.
    role: Option<Role>,
    address: SocketAddr,
    socket: TcpListener,
}

impl Named {
    /// A handle to a socket that somebody else listens with.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn handle(role: Role, address: SocketAddr, socket: impl AsFd) -> io::Result<Self> {
        Ok(Self { role: Some(role), address, socket: socket.as_fd().try_clone_to_owned()?.into() })
    }

    /// Another handle to it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, ..*self })
    }
}

/// What this process was given at its start.
#[derive(Default)]
pub(crate) struct Inherited {
    sockets: Vec<Named>,
    from: Option<Channel>,
}

impl Inherited {
    /// Takes what there is, from the process before this one or from systemd.
    ///
    /// # Errors
    /// Words for what cannot be taken.
    pub(crate) fn take() -> Result<Self, String> {
        if let Some(channel) = Channel::of_parent() {
            let sockets = receive_all(&channel).map_err(|err| format!("the process before this one: {err}"))?;
            return Ok(Self { sockets, from: Some(channel) });
        }
        let sockets = inherited_listeners().map_err(|err| err.to_string())?.into_iter().map(|inherited| {
            let address = inherited.listener.local_addr().map_err(|err| err.to_string())?;
            Ok(Named { role: None, address, socket: inherited.listener })
        });
        Ok(Self { sockets: sockets.collect::<Result<_, String>>()?, from: None })
    }

    /// The sockets of this address; they are not given twice.
    pub(crate) fn of(&mut self, role: Role, address: SocketAddr) -> Vec<TcpListener> {
        let fits = |named: &mut Named| named.address == address && named.role.is_none_or(|own| own == role);
        self.sockets.extract_if(.., fits).map(|named| named.socket).collect()
    }

    /// The addresses of sockets that nobody wanted. They are closed.
    pub(crate) fn unused(&mut self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.sockets.drain(..).map(|named| named.address).collect();
        addresses.dedup();
        addresses
    }

    /// The process from which this one takes over.
    pub(crate) fn from(&mut self) -> Option<Predecessor> {
        self.from.take().map(Predecessor)
    }
}

/// The process from which this one takes over.
pub(crate) struct Predecessor(Channel);

impl Predecessor {
    /// Says that this process serves; the other one stops to accept.
    ///
    /// # Errors
    /// It is gone, or has thought better of it: this process is to end.
    pub(crate) fn ready(self) -> io::Result<()> {
        // Before anything is said: once the other one has handed over, nothing may fail here.
        let nothing = File::open("/dev/null")?;
        self.0.goes(WORD)?;
        // What was the channel is an ordinary standard input from now on. If that cannot be, it stays one that has ended.
        let _ = rustix::stdio::dup2_stdin(nothing);
        Ok(())
    }
}

/// What has to be started to have this program again.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// This one, by the name under which it was started: whatever is there later is taken. `/proc/self/exe` would say where
    /// links led at the start, and "deleted" once the file was replaced.
    pub(crate) fn this() -> io::Result<Self> {
        let mut args = env::args_os();
        let own = fs::metadata("/proc/self/exe")?;
        let is_own = |path: &PathBuf| fs::metadata(path).is_ok_and(|of| (of.dev(), of.ino()) == (own.dev(), own.ino()));
        let name = PathBuf::from(args.next().unwrap_or_default());
        let path = if name.components().count() > 1 {
            std::path::absolute(&name).ok().filter(is_own)
        } else {
            let folders = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&folders).map(|folder| folder.join(&name)).find(is_own)
        };
        Ok(Self { path: path.map_or_else(env::current_exe, Ok)?, args: args.collect() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A new process that serves, and waits for a word.
pub(crate) struct Successor {
    child: Child,
    channel: Channel,
}

/// A process that is being started.
pub(crate) struct Handover {
    outcome: oneshot::Receiver<Result<Successor, String>>,
    /// Our end of the channel, once more.
    channel: OwnedFd,
}

impl Handover {
    /// Starts the program, on a thread for which nobody has to wait.
    ///
    /// # Errors
    /// No descriptor is left, or no thread can be started.
    pub(crate) fn begin(program: Program, sockets: Vec<Named>) -> io::Result<Self> {
        let (own, theirs) = Channel::pair()?;
        let channel = own.0.try_clone()?;
        let (done, outcome) = oneshot::channel();
        let run = move || {
            let started = Successor::start(&program, &sockets, own, theirs);
            // Where nobody waits any more it is ended again.
            if let Err(Ok(unwanted)) = done.send(started) {
                unwanted.end();
            }
        };
        thread::Builder::new().name("overdue-handover".to_owned()).spawn(run)?;
        Ok(Self { outcome, channel })
    }

    /// The new process, when it serves. Cancel safe.
    ///
    /// # Errors
    /// Words for why it does not.
    pub(crate) async fn serves(&mut self) -> Result<Successor, String> {
        (&mut self.outcome).await.unwrap_or_else(|_| Err("starting it broke".to_owned()))
    }

    /// It is not to be: the new process ends.
    pub(crate) fn stop(&self) {
        // Who waits for a word at either end finds it closed. If it has ended, this fails.
        let _ = shutdown(&self.channel, Shutdown::Both);
    }
}

impl Successor {
    fn start(program: &Program, sockets: &[Named], channel: Channel, theirs: OwnedFd) -> Result<Self, String> {
        let mut command = Command::new(&program.path);
        command.args(&program.args).stdin(Stdio::from(theirs)).env(VARIABLE, std::process::id().to_string());
        for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(|err| format!("{} cannot be started: {err}", program.path.display()))?;
        // It has the other end of the channel, which only the child is to have: an end that both have does not close.
        drop(command);
        let successor = Self { child, channel };
        match successor.channel.prepare(sockets, READY) {
            Ok(true) => Ok(successor),
            Ok(false) => Err(format!("the new process ended before it served ({})", successor.end())),
            Err(err) if err.kind() == io::ErrorKind::TimedOut => {
                successor.end();
                Err(format!("the new process did not serve within {}, and was ended", DurationText(READY)))
            }
            // One that ended at once takes no sockets.
            Err(err) => Err(format!("the new process took no sockets: {err} ({})", successor.end())),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It is the one that serves from now on.
    ///
    /// # Errors
    /// It is not: it has ended.
    pub(crate) fn go(self) -> Result<(), String> {
        self.channel.send("go", None).map_err(|_| format!("the new process ended at once ({})", self.end()))
    }

    /// Ends it, unless it has ended, and says how that was.
    fn end(mut self) -> String {
        drop(self.channel);
        // One that has closed the channel is about to end, and its own status says more than that it was killed.
        let ended = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .and_then(|child| poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&ENDING)));
        if !matches!(ended, Ok(1..)) {
            // It has ended if this fails.
            let _ = self.child.kill();
        }
        self.child.wait().map_or_else(|err| err.to_string(), |status| status.to_string())
    }
}

/// What two processes of the gateway talk over, message by message.
struct Channel(OwnedFd);

impl Channel {
    fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(own)?, theirs))
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Send, Some(WORD))?;
        Ok(Self(socket))
    }

    /// That to the parent of this process, where it is the process from which this one takes over.
    fn of_parent() -> Option<Self> {
        let parent = getppid()?;
        let named: i32 = env::var(VARIABLE).ok()?.parse().ok()?;
        // Somebody else's variable, handed on by a shell, means nothing: the channel has to be the parent's as well.
        let channel = io::stdin().as_fd().try_clone_to_owned().ok()?;
        let made_by = socket_peercred(&channel).ok()?.pid;
        (named == parent.as_raw_nonzero().get() && made_by == parent).then(|| Self::new(channel).ok())?
    }

    /// Gives the other end the sockets, and waits until it serves; false when it ended.
    fn prepare(&self, sockets: &[Named], within: Duration) -> io::Result<bool> {
        let until = clock::now() + within;
        for Named { role, address, socket } in sockets {
            let role = if *role == Some(Role::Admin) { "admin" } else { "listener" };
            self.send(&format!("{role} {address}"), Some(socket.as_fd()))?;
        }
        self.send("all", None)?;
        Ok(self.receive(until)?.is_some_and(|(word, _)| word == "ready"))
    }

    /// Says that this process serves, and waits until the other one says that it is so. An error is the last word: who has
    /// not said it by then finds that it cannot.
    fn goes(&self, within: Duration) -> io::Result<()> {
        self.send("ready", None)?;
        let word = self.receive(clock::now() + within).or_else(|late| {
            // From now on the other one can say nothing that would not be heard. What it has said by now counts.
            shutdown(&self.0, Shutdown::Both)?;
            self.receive(clock::now() + WORD)?.map(Some).ok_or(late)
        })?;
        match word {
            Some((word, _)) if word == "go" => Ok(()),
            _ => Err(io::Error::other("it ended before it handed over")),
        }
    }

    fn send(&self, text: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sockets: Vec<_> = socket.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !with.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let message = [IoSlice::new(text.as_bytes())];
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &message, &mut with, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next message, with the socket that came along; `None` when the other end is closed.
    fn receive(&self, until: Instant) -> io::Result<Option<(String, Option<TcpListener>)>> {
        let mut text = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // No shorter than what the kernel takes for "none".
            set_socket_timeout(&self.0, Timeout::Recv, Some(left.max(Duration::from_millis(1))))?;
            let mut with = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut with, RecvFlags::CMSG_CLOEXEC);
            let received = match received {
                Ok(received) => received,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(Errno::CONNRESET) => return Ok(None),
                Err(err) => return Err(err.into()),
            };
            let mut sockets = Vec::new();
            for message in with.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    sockets.extend(descriptors.map(TcpListener::from));
                }
            }
            if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                return Err(io::Error::other("a message that is too long, or no descriptor is left for a socket"));
            }
            if received.bytes == 0 {
                return Ok(None);
            }
            let text = text.get(..received.bytes).unwrap_or_default();
            return Ok(Some((String::from_utf8_lossy(text).into_owned(), sockets.pop())));
        }
    }
}

/// The sockets that the process before this one hands over.
fn receive_all(channel: &Channel) -> io::Result<Vec<Named>> {
    let until = clock::now() + WORD;
    let mut sockets = Vec::new();
    while sockets.len() <= SOCKETS_MAX {
        let Some((text, socket)) = channel.receive(until)? else {
            return Err(io::Error::other("it ended before it handed over"));
        };
        if text == "all" {
            return Ok(sockets);
        }
        let role = match text.split_once(' ') {
            Some(("listener", address)) => Some((Role::Listener, address)),
            Some(("admin", address)) => Some((Role::Admin, address)),
            // What a later version may have to say besides.
            _ => None,
        };
        if let (Some((role, address)), Some(socket)) = (role, socket)
            && let Ok(address) = address.parse()
        {
            sockets.push(Named { role: Some(role), address, socket });
        }
    }
    Err(io::Error::other("too many sockets"))
}

/// Tells systemd, or who acts like it, what state this process is in (`sd_notify`); nobody is asked to listen.
pub(crate) fn notify(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes().split_first() {
        Some((b'@', name)) => UnixAddress::from_abstract_name(name),
        _ => UnixAddress::from_pathname(&name),
    };
    // Whoever does not listen misses it.
    let _ = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_go_over_with_their_names() {
        let (own, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        own.send("listener 127.0.0.1:0", Some(socket.as_fd())).unwrap();
        own.send("tomorrow's", Some(socket.as_fd())).unwrap();
        own.send("admin [::1]:9901", Some(socket.as_fd())).unwrap();
        own.send("all", None).unwrap();
        let mut inherited = Inherited { sockets: receive_all(&theirs).unwrap(), from: None };
        let any = "127.0.0.1:0".parse().unwrap();
        assert!(inherited.of(Role::Admin, any).is_empty());
        let same = inherited.of(Role::Listener, any);
        assert_eq!(same.len(), 1);
        assert_eq!(same[0].local_addr().unwrap(), socket.local_addr().unwrap());
        assert!(inherited.of(Role::Listener, any).is_empty(), "given once");
        assert_eq!(inherited.unused(), ["[::1]:9901".parse().unwrap()]);
    }

    fn ends() -> (Channel, Channel) {
        let (own, theirs) = Channel::pair().unwrap();
        (own, Channel::new(theirs).unwrap())
    }

    const SHORT: Duration = Duration::from_millis(20);

    /// A new process that says late that it serves, to one that has given it up, does not.
    #[test]
    fn who_is_ready_too_late_does_not_serve() {
        for says_so_before_the_end in [true, false] {
            let (old, new) = ends();
            assert_eq!(old.prepare(&[], SHORT).unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(receive_all(&new).unwrap().is_empty());
            // Between the limit and the end of the channel there is time to say it.
            if says_so_before_the_end {
                new.send("ready", None).unwrap();
            }
            drop(old);
            assert!(new.goes(WORD).is_err());
        }
    }

    /// However late the word comes: one of the two serves, and never both or none.
    #[test]
    fn a_word_that_comes_late_is_heard_or_cannot_be_said() {
        // Before and after the limit there is no doubt.
        let (old, new) = ends();
        old.send("go", None).unwrap();
        assert!(new.goes(SHORT).is_ok());
        let (old, new) = ends();
        assert!(new.goes(SHORT).is_err());
        assert!(old.send("go", None).is_err(), "the old process would stop to serve, and the new one has ended");
        // At the limit it is the one or the other, and both know which.
        for microseconds in 0..200 {
            let (old, new) = ends();
            let waits = thread::spawn(move || (new.goes(Duration::from_millis(2)).is_ok(), new));
            assert!(old.receive(clock::now() + WORD).unwrap().is_some());
            // The time itself does not matter.
            let (_kept, never) = std::sync::mpsc::channel::<()>();
            let _ = never.recv_timeout(Duration::from_micros(1_900 + microseconds));
            let said = old.send("go", None).is_ok();
            let (heard, _new) = waits.join().unwrap();
            assert_eq!(said, heard);
        }
    }

    #[test]
    fn who_waits_does_not_do_so_without_end() {
        let (own, theirs) = Channel::pair().unwrap();
        let err = own.receive(clock::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        assert!(own.receive(clock::now() + WORD).unwrap().is_none());
        assert!(receive_all(&own).is_err());
    }
}
