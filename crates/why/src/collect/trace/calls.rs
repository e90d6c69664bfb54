//! The system calls that are understood: which group they are of, what their arguments mean, and what is read for them.
//! Calls that are not in the table are shown by their names with three bare arguments.

use super::{
    records::{How, What},
    words::{self, Words},
};
use crate::collect::syscalls;

/// What an argument is, by its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Argument {
    /// A descriptor; what the first one is comes with the record.
    Fd(usize),
    /// A number, with its name.
    Number(&'static str, usize),
    /// Bytes that were asked for, or offered.
    Bytes(usize),
    /// One of several words.
    One(&'static str, usize, Words),
    /// Any of several words, as bits.
    Flags(&'static str, usize, Words),
    /// A path, which the record holds.
    Path,
    /// The address of a socket, which the record holds.
    Address,
    /// A limit in milliseconds, as `poll` takes it.
    LimitMs(usize),
    /// A limit which the record holds.
    Limit,
    /// What `poll` was given, with what is ready.
    Polled(usize),
    /// The events that are asked for of an epoll set.
    EpollEvents,
    /// Two descriptors that the kernel made.
    Pair,
    /// The value of a socket's option.
    Value,
    /// The argument of `fcntl`, which means what its command says.
    ByCommand,
}

/// One call.
pub(super) struct Signature {
    pub(super) name: &'static str,
    groups: &'static [Group],
    pub(super) arguments: &'static [Argument],
    data: Data,
    limit: LimitAt,
    /// The first argument is a descriptor.
    takes_fd: bool,
}

/// What is copied for a call: the numbers are those of `trace.bpf.c`.
#[derive(Clone, Copy)]
enum Data {
    Nothing,
    Path(u8),
    Address(u8),
    AddressOut(u8),
    Polled,
    Bytes(u8, u8),
    Option,
}

#[derive(Clone, Copy)]
enum LimitAt {
    None,
    Timespec(u8),
    Timeval(u8),
    Milliseconds(u8),
    Futex,
}

/// Calls that are chosen together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Sockets: what makes, connects, accepts, configures, reads and writes them.
    Network,
    /// Waits for descriptors.
    Poll,
    /// Files by path or descriptor.
    Files,
}

use Argument::{
    Address, ByCommand, Bytes, EpollEvents, Fd, Flags, Limit, LimitMs, Number, One, Pair, Path, Polled, Value,
};
use Group::{Files, Network, Poll};

const NET: &[Group] = &[Network];
const POLL: &[Group] = &[Poll];
const FILES: &[Group] = &[Files];
const NONE: &[Group] = &[];

const fn call(name: &'static str, groups: &'static [Group], arguments: &'static [Argument]) -> Signature {
    let takes_fd = matches!(arguments, [Fd(0), ..]);
    Signature { name, groups, arguments, data: Data::Nothing, limit: LimitAt::None, takes_fd }
}

impl Signature {
    const fn data(self, data: Data) -> Self {
        Self { data, ..self }
    }

    const fn limit(self, limit: LimitAt) -> Self {
        Self { limit, ..self }
    }
}

const READ: &[Argument] = &[Fd(0), Bytes(2)];
const VECTOR: &[Argument] = &[Fd(0), Number("pieces", 2)];
const OPEN: &[Argument] = &[Path, Flags("flags", 2, words::OPEN)];
const NAMED: &[Argument] = &[Path];

/// All that are understood.
static CALLS: &[Signature] = &[
    call("socket", NET, &[One("domain", 0, words::DOMAIN), One("type", 1, words::SOCKET_TYPE), Number("protocol", 2)]),
    call("socketpair", NET, &[One("domain", 0, words::DOMAIN), One("type", 1, words::SOCKET_TYPE), Pair])
        .data(Data::Bytes(3, 8)),
    call("connect", NET, &[Fd(0), Address]).data(Data::Address(1)),
    call("bind", NET, &[Fd(0), Address]).data(Data::Address(1)),
    call("listen", NET, &[Fd(0), Number("backlog", 1)]),
    call("accept", NET, &[Fd(0), Address]).data(Data::AddressOut(1)),
    call("accept4", NET, &[Fd(0), Address, Flags("flags", 3, words::SOCKET_FLAGS)]).data(Data::AddressOut(1)),
    call("sendto", NET, &[Fd(0), Bytes(2), Address, Flags("flags", 3, words::MESSAGE)]).data(Data::Address(4)),
    call("recvfrom", NET, &[Fd(0), Bytes(2), Address, Flags("flags", 3, words::MESSAGE)]).data(Data::AddressOut(4)),
    call("sendmsg", NET, &[Fd(0), Flags("flags", 2, words::MESSAGE)]),
    call("recvmsg", NET, &[Fd(0), Flags("flags", 2, words::MESSAGE)]),
    call("sendmmsg", NET, &[Fd(0), Number("messages", 2), Flags("flags", 3, words::MESSAGE)]),
    call("recvmmsg", NET, &[Fd(0), Number("messages", 2), Flags("flags", 3, words::MESSAGE), Limit])
        .limit(LimitAt::Timespec(4)),
    call("shutdown", NET, &[Fd(0), One("how", 1, words::SHUTDOWN)]),
    call("getsockname", NET, &[Fd(0), Address]).data(Data::AddressOut(1)),
    call("getpeername", NET, &[Fd(0), Address]).data(Data::AddressOut(1)),
    call("setsockopt", NET, &[Fd(0), Value]).data(Data::Option),
    call("getsockopt", NET, &[Fd(0), Value]).data(Data::Option),
    call("read", &[Files, Network], READ),
    call("write", &[Files, Network], READ),
    call("readv", &[Files, Network], VECTOR),
    call("writev", &[Files, Network], VECTOR),
    call("close", &[Files, Network], &[Fd(0)]),
    call("sendfile", &[Files, Network], &[Fd(0), Fd(1), Bytes(3)]),
    call("splice", &[Files, Network], &[Fd(0), Fd(2), Bytes(4)]),
    call("poll", POLL, &[Polled(1), LimitMs(2)]).data(Data::Polled).limit(LimitAt::Milliseconds(2)),
    call("ppoll", POLL, &[Polled(1), Limit]).data(Data::Polled).limit(LimitAt::Timespec(2)),
    call("select", POLL, &[Number("below", 0), Limit]).limit(LimitAt::Timeval(4)),
    call("pselect6", POLL, &[Number("below", 0), Limit]).limit(LimitAt::Timespec(4)),
    call("epoll_wait", POLL, &[Fd(0), Number("at most", 2), LimitMs(3)]).limit(LimitAt::Milliseconds(3)),
    call("epoll_pwait", POLL, &[Fd(0), Number("at most", 2), LimitMs(3)]).limit(LimitAt::Milliseconds(3)),
    call("epoll_pwait2", POLL, &[Fd(0), Number("at most", 2), Limit]).limit(LimitAt::Timespec(3)),
    call("epoll_ctl", POLL, &[Fd(0), One("operation", 1, words::EPOLL_CTL), Fd(2), EpollEvents])
        .data(Data::Bytes(3, 4)),
    call("epoll_create", POLL, &[]),
    call("epoll_create1", POLL, &[]),
    call("io_uring_enter", POLL, &[Fd(0), Number("submitted", 1), Number("at least", 2)]),
    call("open", FILES, &[Path, Flags("flags", 1, words::OPEN)]).data(Data::Path(0)),
    call("creat", FILES, NAMED).data(Data::Path(0)),
    call("openat", FILES, OPEN).data(Data::Path(1)),
    call("openat2", FILES, NAMED).data(Data::Path(1)),
    call("stat", FILES, NAMED).data(Data::Path(0)),
    call("lstat", FILES, NAMED).data(Data::Path(0)),
    call("newfstatat", FILES, NAMED).data(Data::Path(1)),
    call("statx", FILES, NAMED).data(Data::Path(1)),
    call("access", FILES, NAMED).data(Data::Path(0)),
    call("faccessat", FILES, NAMED).data(Data::Path(1)),
    call("faccessat2", FILES, NAMED).data(Data::Path(1)),
    call("readlink", FILES, NAMED).data(Data::Path(0)),
    call("readlinkat", FILES, NAMED).data(Data::Path(1)),
    call("unlink", FILES, NAMED).data(Data::Path(0)),
    call("unlinkat", FILES, NAMED).data(Data::Path(1)),
    call("rename", FILES, NAMED).data(Data::Path(0)),
    call("renameat", FILES, NAMED).data(Data::Path(1)),
    call("renameat2", FILES, NAMED).data(Data::Path(1)),
    call("mkdir", FILES, NAMED).data(Data::Path(0)),
    call("mkdirat", FILES, NAMED).data(Data::Path(1)),
    call("rmdir", FILES, NAMED).data(Data::Path(0)),
    call("chdir", FILES, NAMED).data(Data::Path(0)),
    call("truncate", FILES, NAMED).data(Data::Path(0)),
    call("statfs", FILES, NAMED).data(Data::Path(0)),
    call("fstat", FILES, &[Fd(0)]),
    call("fsync", FILES, &[Fd(0)]),
    call("fdatasync", FILES, &[Fd(0)]),
    call("ftruncate", FILES, &[Fd(0), Bytes(1)]),
    call("fallocate", FILES, &[Fd(0), Bytes(3)]),
    call("flock", FILES, &[Fd(0)]),
    call("lseek", FILES, &[Fd(0), Number("offset", 1)]),
    call("getdents64", FILES, READ),
    call("pread64", FILES, READ),
    call("pwrite64", FILES, READ),
    call("preadv", FILES, VECTOR),
    call("pwritev", FILES, VECTOR),
    call("copy_file_range", FILES, &[Fd(0), Fd(2), Bytes(4)]),
    call("dup", NONE, &[Fd(0)]),
    call("dup2", NONE, &[Fd(0), Number("to", 1)]),
    call("dup3", NONE, &[Fd(0), Number("to", 1)]),
    call("fcntl", NONE, &[Fd(0), One("command", 1, words::FCNTL), ByCommand]),
    call("ioctl", NONE, &[Fd(0), One("request", 1, words::IOCTL)]),
    call("pipe", NONE, &[Pair]).data(Data::Bytes(0, 8)),
    call("pipe2", NONE, &[Pair]).data(Data::Bytes(0, 8)),
    call("eventfd2", NONE, &[]),
    call("timerfd_create", NONE, &[]),
    call("timerfd_settime", NONE, &[Fd(0)]),
    call("nanosleep", NONE, &[Limit]).limit(LimitAt::Timespec(0)),
    call("clock_nanosleep", NONE, &[One("clock", 0, words::CLOCK), Flags("flags", 1, words::TIMER), Limit])
        .limit(LimitAt::Timespec(2)),
    call("futex", NONE, &[One("operation", 1, words::FUTEX), Limit]).limit(LimitAt::Futex),
    call("execve", NONE, NAMED).data(Data::Path(0)),
    call("wait4", NONE, &[Number("pid", 0)]),
    call("kill", NONE, &[Number("pid", 0), Number("signal", 1)]),
    call("tgkill", NONE, &[Number("pid", 0), Number("tid", 1), Number("signal", 2)]),
    call("exit", NONE, &[Number("code", 0)]),
    call("exit_group", NONE, &[Number("code", 0)]),
    call("clone", NONE, &[]),
    call("clone3", NONE, &[]),
    call("brk", NONE, &[]),
];

/// The call of that number, where it is in the table.
pub(super) fn signature(number: u16) -> Option<&'static Signature> {
    let name = syscalls::name(u64::from(number))?;
    CALLS.iter().find(|call| call.name == name)
}

/// Which calls are shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chosen {
    groups: Vec<Group>,
    names: Vec<String>,
    all: bool,
    /// And others that failed or took long.
    notable: bool,
}

impl Chosen {
    /// What nobody has to ask for: the network, and whatever fails or takes long.
    #[must_use]
    pub fn network() -> Self {
        Self { groups: vec![Network], notable: true, ..Self::default() }
    }

    /// Reads `network`, `poll`, `files`, `all` or names of calls, separated by commas.
    ///
    /// # Errors
    /// With what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut chosen = Self::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "network" => chosen.groups.push(Network),
                "poll" => chosen.groups.push(Poll),
                "files" => chosen.groups.push(Files),
                "all" => chosen.all = true,
                name if (0..NUMBERS).any(|number| syscalls::name(u64::from(number)) == Some(name)) => {
                    chosen.names.push(name.to_owned());
                }
                other => {
                    return Err(format!("there is no system call {other:?}: write network, poll, files, all or names"));
                }
            }
        }
        Ok(chosen)
    }

    /// What the sums are of.
    #[must_use]
    pub fn summed(&self) -> &'static str {
        match self {
            _ if self.all || self.notable => "all calls, told or not",
            // Which descriptor it was nobody counts.
            _ if self.groups.contains(&Network) && !self.groups.contains(&Files) => {
                "the chosen calls, told or not; those that also work on files are counted there, too"
            }
            _ => "the chosen calls, told or not",
        }
    }

    /// Whether the sums have it: what is chosen by its name or group, or may be told for what came of it.
    pub(super) fn is_summed(&self, number: u16) -> bool {
        self.how(number).report != 0
    }

    /// What to do with the call of that number.
    pub(super) fn how(&self, number: u16) -> How {
        let signature = signature(number);
        let name = syscalls::name(u64::from(number));
        let groups = signature.map_or(NONE, |call| call.groups);
        let named = self.all || name.is_some_and(|name| self.names.iter().any(|it| it == name));
        let in_group = groups.iter().any(|group| self.groups.contains(group));
        // Of calls that take files as well as sockets the network has those on sockets.
        let is_shared = groups.contains(&Files) && groups.contains(&Network);
        let of_sockets = is_shared && !self.groups.contains(&Files);
        let report = match (named, in_group) {
            (true, _) => ALWAYS,
            (false, true) if of_sockets => IF_SOCKET,
            (false, true) => ALWAYS,
            (false, false) => 0,
        };
        let report = report | if self.notable { IF_NOTABLE } else { 0 };
        let Some(call) = signature else { return How { report, ..How::default() } };
        let (data, at, size) = match call.data {
            Data::Nothing => (0, 0, 0),
            Data::Path(at) => (1, at, 0),
            Data::Address(at) => (2, at, 0),
            Data::AddressOut(at) => (3, at, 0),
            Data::Polled => (4, 0, 0),
            Data::Bytes(at, size) => (5, at, size),
            Data::Option => (6, 3, 0),
        };
        let (limit, limit_at) = match call.limit {
            LimitAt::None => (0, 0),
            LimitAt::Timespec(at) => (1, at),
            LimitAt::Timeval(at) => (2, at),
            LimitAt::Futex => (3, 3),
            LimitAt::Milliseconds(at) => (4, at),
        };
        How { report, data, at, size, limit, limit_at, takes_fd: u8::from(call.takes_fd), unused: 0 }
    }
}

/// When a call is told: the bits of `trace.bpf.c`.
const ALWAYS: u8 = 1;
const IF_SOCKET: u8 = 2;
const IF_NOTABLE: u8 = 4;

impl How {
    /// Whether this side tells a call of that kind.
    pub(super) fn is_told(self, is_notable: bool, what: Option<&What>) -> bool {
        let is_socket = matches!(what, Some(What::Internet { .. } | What::Socket(_)));
        self.report & ALWAYS != 0
            || self.report & IF_NOTABLE != 0 && is_notable
            || self.report & IF_SOCKET != 0 && is_socket
    }
}

/// Numbers of calls are below this.
pub(super) const NUMBERS: u16 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_mean_the_same() {
        let theirs = crate::collect::bpf::constants::of(include_str!("trace.bpf.c"));
        for (name, ours) in [
            ("ALWAYS", i64::from(ALWAYS)),
            ("IF_SOCKET", i64::from(IF_SOCKET)),
            ("IF_NOTABLE", i64::from(IF_NOTABLE)),
            ("CALLS", i64::from(NUMBERS)),
        ] {
            assert_eq!(theirs.get(name), Some(&ours), "{name}");
        }
    }

    fn number(name: &str) -> u16 {
        (0..NUMBERS).find(|number| syscalls::name(u64::from(*number)) == Some(name)).unwrap()
    }

    #[test]
    fn the_table_names_calls_that_exist() {
        for call in CALLS {
            assert!(signature(number(call.name)).is_some_and(|found| std::ptr::eq(found, call)), "{} twice", call.name);
        }
    }

    #[test]
    fn what_is_chosen_is_reported() {
        let report = |chosen: &Chosen, name| chosen.how(number(name)).report;
        let network = Chosen::network();
        assert_eq!((report(&network, "connect"), report(&network, "read"), report(&network, "openat")), (5, 6, 4));
        let some = Chosen::parse("poll, read").unwrap();
        assert_eq!((report(&some, "epoll_wait"), report(&some, "read"), report(&some, "connect")), (1, 1, 0));
        let files = Chosen::parse("files,network").unwrap();
        assert_eq!((report(&files, "write"), report(&files, "brk")), (1, 0));
        assert_eq!(report(&Chosen::parse("all").unwrap(), "brk"), 1);
        let summed = |chosen: &Chosen, name| chosen.is_summed(number(name));
        assert!(summed(&network, "brk") && network.summed().starts_with("all"));
        assert!(summed(&some, "epoll_wait") && !summed(&some, "connect") && some.summed().starts_with("the chosen"));
        assert!(Chosen::parse("connect,conect").unwrap_err().contains("conect"));
        assert!(Chosen::parse("").is_err());
    }
}
