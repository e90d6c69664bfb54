//! Where the sockets of a network namespace are read from.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use overdue_core::kernel::netlink::{self, InetSocket, Message};
use rustix::{
    fs::{Mode, OFlags, openat, readlink, readlinkat},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::text;
use crate::{
    collect::{
        Target,
        clock::Clock,
        tiers::{self, Watcher},
    },
    observation::Hidden,
};

/// How long one datagram of a reply may take; the kernel fills them while it is asked.
const REPLY_WITHIN: Duration = Duration::from_millis(500);
/// How long one dump may take.
const DUMP_WITHIN: Duration = Duration::from_secs(3);
/// The kernel fills no larger ones.
const DATAGRAM_BYTES: usize = 32 * 1024;
/// From ESTABLISHED (1) to a handshake (12), but not TIME-WAIT (6), of which a host may have tens of thousands and a process
/// none. What comes after are sockets that are bound only, for which the kernel walks another large table.
const STATES: u32 = 0x1ffe & !(1 << 6);
/// Bytes of a table in `/proc/PID/net`: more than 200,000 sockets.
const TABLE_BYTES: usize = 40 * 1024 * 1024;

/// A reader of all TCP sockets of one network namespace.
#[derive(Debug)]
pub(in crate::collect) enum Source {
    /// `sock_diag`.
    Diag(Diag),
    /// The tables in `/proc/PID/net`, which say less.
    Text(Target),
}

impl Source {
    /// The best there is for the namespace of the target, and what that one does not show.
    ///
    /// # Errors
    /// When it cannot be told which namespace the target is in.
    pub(in crate::collect) fn of(target: &Target) -> Result<(Self, Option<Hidden>), Hidden> {
        let hidden = |why: String, how: &str| Hidden { what: "sockets".to_owned(), why, how: how.to_owned() };
        let own = readlink("/proc/thread-self/ns/net", Vec::new());
        let theirs = readlinkat(target.folder(), target.shared("ns/net"), Vec::new());
        let less = |why: String| {
            let what = "TCP_INFO of connections, limits of accept queues".to_owned();
            (Self::Text(target.clone()), Some(Hidden { what, why, how: to_enter() }))
        };
        match (own, theirs) {
            (Ok(own), Ok(theirs)) if own == theirs => Ok(match Diag::open() {
                Ok(diag) => (Self::Diag(diag), None),
                Err(err) => less(format!("sock_diag: {err}")),
            }),
            (_, Ok(_)) => Ok(match Diag::open_in(target) {
                Ok(diag) => (Self::Diag(diag), None),
                Err(err) => {
                    less(format!("the process has a network namespace of its own, which was not entered: {err}"))
                }
            }),
            (_, Err(err)) => Err(hidden(
                format!("the network namespace of the process cannot be told: {err}"),
                &tiers::to_look_into(target, false),
            )),
        }
    }

    /// Hands every socket to `take`, with its `TCP_INFO` and memory when `full`.
    pub(in crate::collect) fn each(&mut self, full: bool, mut take: impl FnMut(InetSocket)) -> io::Result<()> {
        match self {
            Self::Diag(diag) => {
                let with = if full { netlink::WITH_TCP_INFO | netlink::WITH_MEMORY } else { 0 };
                if diag.both_at_once {
                    let request = netlink::tcp_dump_request(STATES, with);
                    match diag.ask(netlink::TCP_DIAG_GETSOCK, netlink::DUMP, &request, &mut take) {
                        Err(err) if is_unknown(&err) => diag.both_at_once = false,
                        done => return done,
                    }
                }
                let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
                for any in any {
                    let request = netlink::inet_request(SocketAddr::new(any, 0), None, STATES, with);
                    diag.ask(netlink::SOCK_DIAG_BY_FAMILY, netlink::DUMP, &request, &mut take)?;
                }
                Ok(())
            }
            Self::Text(target) => {
                for table in ["net/tcp", "net/tcp6"] {
                    match target.read_text(&target.shared(table), TABLE_BYTES) {
                        Ok(table) => table.lines().filter_map(text::parse).for_each(&mut take),
                        // No IPv6.
                        Err(err) if err.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
                        Err(err) => return Err(err),
                    }
                }
                Ok(())
            }
        }
    }

    /// One connection anew, with its `TCP_INFO`.
    pub(in crate::collect) fn one(&mut self, local: SocketAddr, remote: SocketAddr, cookie: u64) -> Option<InetSocket> {
        let Self::Diag(diag) = self else { return None };
        let with = netlink::WITH_TCP_INFO | netlink::WITH_MEMORY;
        let request = netlink::inet_request(local, Some(remote), netlink::ALL_STATES, with);
        let mut found = None;
        diag.ask(netlink::SOCK_DIAG_BY_FAMILY, 0, &request, &mut |socket| found = Some(socket)).ok()?;
        found.filter(|found: &InetSocket| found.cookie == cookie)
    }

    /// The other end of the unix socket with that inode.
    pub(in crate::collect) fn unix_peer(&mut self, inode: u32) -> Option<UnixPeer> {
        let Self::Diag(diag) = self else { return None };
        let mut one = |inode: u32| {
            let mut found = None;
            let request = netlink::unix_request(inode);
            let take = &mut |message: Message<'_>| found = message.unix_socket();
            diag.ask_any(netlink::SOCK_DIAG_BY_FAMILY, 0, &request, take).ok()?;
            found
        };
        let inode = one(inode)?.peer?;
        // An abstract name begins with a zero byte, and paths end with one.
        let text = |name: Vec<u8>| {
            let text = String::from_utf8_lossy(&name).into_owned();
            text.strip_prefix('\0').map_or_else(|| text.trim_end_matches('\0').to_owned(), |name| format!("@{name}"))
        };
        Some(UnixPeer { inode, name: one(inode)?.name.map(text) })
    }

    /// Ends one connection, whoever holds it: its peer gets a reset, and its owner an error.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`, `EOPNOTSUPP` of a kernel that cannot, `ENOENT` or `ESTALE` where it is gone.
    pub(in crate::collect) fn end(&mut self, socket: &InetSocket) -> io::Result<()> {
        let Self::Diag(diag) = self else { return Err(Errno::OPNOTSUPP.into()) };
        let request = netlink::this_request(socket);
        diag.ask(netlink::SOCK_DESTROY, netlink::ACK, &request, &mut |_| {})
    }
}

/// The other end of a unix socket.
#[derive(Debug)]
pub(in crate::collect) struct UnixPeer {
    pub(in crate::collect) inode: u32,
    /// What it is bound to.
    pub(in crate::collect) name: Option<String>,
}

/// Whether the kernel does not know such a request.
fn is_unknown(err: &io::Error) -> bool {
    matches!(Errno::from_io_error(err), Some(Errno::INVAL | Errno::NOENT | Errno::OPNOTSUPP))
}

/// To ask in the network namespace of another.
fn to_enter() -> String {
    let inside = "inside the namespace: `nsenter --target PID --net overdue why ...`";
    format!("{}; or {inside}", Watcher::here().remedy(&["CAP_SYS_ADMIN"]))
}

/// A `sock_diag` socket. It asks about the namespace that it was made in, wherever its user is.
#[derive(Debug)]
pub(in crate::collect) struct Diag {
    socket: OwnedFd,
    sequence: u32,
    /// Whether the kernel knows the request for both families; not once it refused it.
    both_at_once: bool,
    buf: Vec<u8>,
}

impl Diag {
    fn open() -> io::Result<Self> {
        let protocol = Some(rustix::net::netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(REPLY_WITHIN))?;
        Ok(Self { socket, sequence: 0, both_at_once: true, buf: vec![0; DATAGRAM_BYTES] })
    }

    /// One in the target's namespace. Only a thread made for that enters it, and ends.
    fn open_in(target: &Target) -> io::Result<Self> {
        let namespace =
            openat(target.folder(), target.shared("ns/net"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let enter = move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
            Self::open()
        };
        let thread = thread::Builder::new().name("overdue-netns".to_owned()).spawn(enter)?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    fn ask(&mut self, kind: u16, flags: u16, request: &[u8], take: &mut impl FnMut(InetSocket)) -> io::Result<()> {
        self.ask_any(kind, flags, request, &mut |message| message.inet_socket().into_iter().for_each(&mut *take))
    }

    fn ask_any(&mut self, kind: u16, flags: u16, request: &[u8], take: &mut impl FnMut(Message<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let frame = netlink::frame(kind, flags, self.sequence, request);
        let began = Clock::start();
        send(&self.socket, &frame.ok_or(io::ErrorKind::InvalidInput)?, SendFlags::empty())?;
        while began.elapsed() < DUMP_WITHIN {
            let len = match recv(&self.socket, self.buf.as_mut_slice(), RecvFlags::empty()) {
                Ok((len, _)) => len,
                Err(Errno::INTR) => continue,
                Err(err) => return Err(err.into()),
            };
            for message in netlink::messages(self.buf.get(..len).unwrap_or_default()) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    netlink::ERROR => match message.errno() {
                        Some(0) => return Ok(()),
                        Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    netlink::DONE => return Ok(()),
                    _ => take(message),
                }
                if flags & netlink::DUMP == 0 {
                    return Ok(());
                }
            }
        }
        // What is left of the reply bears another number than the next question's.
        Err(io::ErrorKind::TimedOut.into())
    }
}
