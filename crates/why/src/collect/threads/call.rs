//! `/proc/PID/task/TID/syscall`: the system call that a thread is in, and what its arguments tell.

use libc::c_long;

/// A call with its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InCall {
    number: c_long,
    arguments: [u64; 6],
}

/// What a thread does, by that file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    /// It computes.
    Running,
    /// It waits, but in no call: for a page, say. Or its calls are numbered otherwise (a 32-bit program).
    NoCall,
    /// It waits in this call.
    Call(InCall),
}

/// Reads the line.
pub(super) fn parse(text: &str) -> Option<Doing> {
    let mut words = text.split_ascii_whitespace();
    let number: c_long = match words.next()? {
        "running" => return Some(Doing::Running),
        "-1" => return Some(Doing::NoCall),
        number => number.parse().ok()?,
    };
    let mut hex = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = hex()?;
    }
    let stack_pointer = hex()?;
    if usize::BITS == 64 && u32::try_from(stack_pointer).is_ok() {
        return Some(Doing::NoCall);
    }
    Some(Doing::Call(InCall { number, arguments }))
}

/// Where the limit of a wait is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limit {
    /// The call has none.
    Never,
    /// Cannot be seen: a socket's own.
    Unknown,
    /// Milliseconds in an argument; below 0 there is none.
    Millis(usize),
    /// An argument points to seconds and nanoseconds, or to nothing.
    Timespec(usize),
    /// The same with microseconds.
    Timeval(usize),
    /// Of a futex, by its operation: relative or absolute.
    Futex,
}

/// Where the descriptors of a wait are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum On {
    /// Nowhere.
    Nothing,
    /// The first argument. A socket may have a limit of its own, and nothing else has one.
    Fd,
    /// The first argument, an epoll set.
    Epoll,
    /// An array that the first argument points to, as many as the second says.
    Poll,
    /// Bits: as many as the first argument says, that the next three point to.
    Select,
    /// None yet: an argument points to the path of a file.
    Path(usize),
}

/// What is known of the calls in which threads wait for long.
pub(super) struct Known {
    number: c_long,
    pub(super) name: &'static str,
    pub(super) on: On,
    pub(super) limit: Limit,
}

const fn known(number: c_long, name: &'static str, on: On, limit: Limit) -> Known {
    Known { number, name, on, limit }
}

const CALLS: &[Known] = &[
    known(libc::SYS_futex, "futex", On::Nothing, Limit::Futex),
    #[cfg(target_arch = "x86_64")]
    known(libc::SYS_epoll_wait, "epoll_wait", On::Epoll, Limit::Millis(3)),
    known(libc::SYS_epoll_pwait, "epoll_wait", On::Epoll, Limit::Millis(3)),
    known(libc::SYS_epoll_pwait2, "epoll_wait", On::Epoll, Limit::Timespec(3)),
    #[cfg(target_arch = "x86_64")]
    known(libc::SYS_poll, "poll", On::Poll, Limit::Millis(2)),
    known(libc::SYS_ppoll, "poll", On::Poll, Limit::Timespec(2)),
    #[cfg(target_arch = "x86_64")]
    known(libc::SYS_select, "select", On::Select, Limit::Timeval(4)),
    known(libc::SYS_pselect6, "select", On::Select, Limit::Timespec(4)),
    known(libc::SYS_read, "read", On::Fd, Limit::Unknown),
    known(libc::SYS_readv, "readv", On::Fd, Limit::Unknown),
    known(libc::SYS_pread64, "pread64", On::Fd, Limit::Unknown),
    known(libc::SYS_write, "write", On::Fd, Limit::Unknown),
    known(libc::SYS_writev, "writev", On::Fd, Limit::Unknown),
    known(libc::SYS_pwrite64, "pwrite64", On::Fd, Limit::Unknown),
    known(libc::SYS_recvfrom, "recvfrom", On::Fd, Limit::Unknown),
    known(libc::SYS_recvmsg, "recvmsg", On::Fd, Limit::Unknown),
    known(libc::SYS_recvmmsg, "recvmmsg", On::Fd, Limit::Unknown),
    known(libc::SYS_sendto, "sendto", On::Fd, Limit::Unknown),
    known(libc::SYS_sendmsg, "sendmsg", On::Fd, Limit::Unknown),
    known(libc::SYS_sendmmsg, "sendmmsg", On::Fd, Limit::Unknown),
    known(libc::SYS_accept, "accept", On::Fd, Limit::Unknown),
    known(libc::SYS_accept4, "accept4", On::Fd, Limit::Unknown),
    known(libc::SYS_connect, "connect", On::Fd, Limit::Unknown),
    known(libc::SYS_close, "close", On::Fd, Limit::Unknown),
    known(libc::SYS_shutdown, "shutdown", On::Fd, Limit::Unknown),
    known(libc::SYS_ioctl, "ioctl", On::Fd, Limit::Unknown),
    known(libc::SYS_fcntl, "fcntl", On::Fd, Limit::Never),
    known(libc::SYS_flock, "flock", On::Fd, Limit::Never),
    known(libc::SYS_fsync, "fsync", On::Fd, Limit::Never),
    known(libc::SYS_fdatasync, "fdatasync", On::Fd, Limit::Never),
    known(libc::SYS_sendfile, "sendfile", On::Fd, Limit::Unknown),
    known(libc::SYS_splice, "splice", On::Fd, Limit::Unknown),
    known(libc::SYS_io_uring_enter, "io_uring_enter", On::Fd, Limit::Unknown),
    #[cfg(target_arch = "x86_64")]
    known(libc::SYS_open, "open", On::Path(0), Limit::Never),
    known(libc::SYS_openat, "openat", On::Path(1), Limit::Never),
    // A parent sleeps in these only while a child uses its memory.
    #[cfg(target_arch = "x86_64")]
    known(libc::SYS_vfork, "vfork", On::Nothing, Limit::Never),
    known(libc::SYS_clone, "clone", On::Nothing, Limit::Never),
    known(libc::SYS_clone3, "clone3", On::Nothing, Limit::Never),
    known(libc::SYS_wait4, "wait4", On::Nothing, Limit::Never),
    known(libc::SYS_waitid, "waitid", On::Nothing, Limit::Never),
    #[cfg(target_arch = "x86_64")]
    known(libc::SYS_pause, "pause", On::Nothing, Limit::Never),
    known(libc::SYS_rt_sigsuspend, "rt_sigsuspend", On::Nothing, Limit::Never),
    known(libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", On::Nothing, Limit::Timespec(2)),
    known(libc::SYS_nanosleep, "nanosleep", On::Nothing, Limit::Timespec(0)),
    known(libc::SYS_clock_nanosleep, "clock_nanosleep", On::Nothing, Limit::Unknown),
    known(libc::SYS_io_getevents, "io_getevents", On::Nothing, Limit::Timespec(4)),
    known(libc::SYS_msgrcv, "msgrcv", On::Nothing, Limit::Never),
    known(libc::SYS_semtimedop, "semtimedop", On::Nothing, Limit::Timespec(3)),
    known(libc::SYS_restart_syscall, "restart_syscall", On::Nothing, Limit::Unknown),
];

impl InCall {
    /// What is known of it.
    pub(super) fn known(&self) -> Option<&'static Known> {
        CALLS.iter().find(|known| known.number == self.number)
    }

    /// Its name, or its number.
    pub(super) fn name(&self) -> String {
        self.known().map_or_else(|| format!("system call {}", self.number), |known| known.name.to_owned())
    }

    /// One of its arguments.
    pub(super) fn argument(&self, at: usize) -> u64 {
        self.arguments.get(at).copied().unwrap_or_default()
    }

    /// An argument that is an `int`: only the lower half of the register counts.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel reads it")]
    pub(super) fn int(&self, at: usize) -> i32 {
        self.argument(at) as i32
    }

    /// The descriptor that it was given first.
    pub(super) fn fd(&self) -> Option<u32> {
        matches!(self.known()?.on, On::Fd | On::Epoll).then(|| u32::try_from(self.int(0)).ok()).flatten()
    }
}

/// As much of `pthread_mutex_t` of the GNU C library as is read.
pub(super) const MUTEX_BYTES: usize = 20;
/// What a waiter leaves in a mutex, and waits to change: held, and somebody waits.
const CONTENDED: u32 = 2;

impl InCall {
    /// Where the mutex is that it waits for, if it waits as the GNU C library waits for one.
    pub(super) fn lock(&self) -> Option<u64> {
        let waits = self.number == libc::SYS_futex && self.int(1) & !libc::FUTEX_PRIVATE_FLAG == libc::FUTEX_WAIT;
        (waits && self.int(2).cast_unsigned() == CONTENDED).then(|| self.argument(0))
    }
}

/// The owner of a mutex that is waited for, as its memory names it: the word that is waited for, a count, the owner, its
/// users, its kind. A lock of another making has something else there.
pub(super) fn mutex_owner(bytes: &[u8]) -> Option<u32> {
    // Of the kinds all but those that the kernel passes on (robust, priority inheritance) or that change priorities.
    const PLAIN: u32 = 3 | 128 | 256 | 512;
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let (state, owner, users, kind) = (word(0)?, word(8)?, word(12)?, word(16)?);
    (state == CONTENDED && owner != 0 && users != 0 && kind & !PLAIN == 0).then_some(owner)
}

/// How a futex's limit is meant, by the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FutexClock {
    /// The operation takes none.
    None,
    /// A length.
    Relative,
    /// A time of the monotonic clock.
    Monotonic,
    /// A time of the wall clock.
    Realtime,
}

/// See [`FutexClock`].
pub(super) const fn futex_clock(operation: i32) -> FutexClock {
    let realtime = operation & libc::FUTEX_CLOCK_REALTIME != 0;
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        libc::FUTEX_WAIT => FutexClock::Relative,
        // Always the wall clock, with or without the flag.
        libc::FUTEX_LOCK_PI => FutexClock::Realtime,
        libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAIT_REQUEUE_PI if realtime => FutexClock::Realtime,
        libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAIT_REQUEUE_PI => FutexClock::Monotonic,
        _ => FutexClock::None,
    }
}

/// `struct timespec` or `timeval` as bytes: seconds, then parts of which there are `per_second`. Microseconds.
pub(super) fn length_us(bytes: &[u8], per_second: u64) -> Option<u64> {
    let seconds = i64::from_ne_bytes(*bytes.first_chunk()?);
    let parts = i64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let (seconds, parts) = (u64::try_from(seconds).ok()?, u64::try_from(parts).ok()?);
    seconds.checked_mul(1_000_000)?.checked_add(parts.checked_mul(1_000_000)? / per_second.max(1))
}

/// As much of a path as is read.
pub(super) const PATH_BYTES: usize = 256;

/// A path of the process's memory, as far as it was read; what steers a terminal is replaced.
pub(super) fn path(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len()))?);
    let path: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    (!path.is_empty()).then(|| if end.is_none() { format!("{path}...") } else { path })
}

/// `struct pollfd` one after another: descriptors with the events that are waited for. A negative one is skipped, as the
/// kernel does.
pub(super) fn poll_fds(bytes: &[u8]) -> Vec<(u32, u32)> {
    let one = |bytes: &[u8]| {
        let fd = i32::from_ne_bytes(*bytes.first_chunk()?);
        let events = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        Some((u32::try_from(fd).ok()?, u32::from(events)))
    };
    bytes.chunks_exact(8).filter_map(one).collect()
}

/// The descriptors in the bits of a `fd_set`.
pub(super) fn set_fds(bytes: &[u8], below: u32, event: u32) -> Vec<(u32, u32)> {
    let bits = bytes.iter().enumerate().flat_map(|(at, byte)| {
        (0..8_u32).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| u32::try_from(at * 8).map(|at| at + bit))
    });
    bits.flatten().filter(|&fd| fd < below).map(|fd| (fd, event)).collect()
}

/// The members of an epoll set with what is waited for, of its `fdinfo`.
pub(super) fn epoll_fds(fdinfo: &str) -> Vec<(u32, u32)> {
    let one = |line: &str| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let events = words.nth(1)?;
        Some((fd, u32::from_str_radix(events, 16).ok()?))
    };
    fdinfo.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_thread_does() {
        assert_eq!(parse("running\n"), Some(Doing::Running));
        assert_eq!(parse("-1 0x7ffd0 0x7ffd1\n"), Some(Doing::NoCall));
        let line =
            format!("{} 0x3 0x7f09 0x80 0xffffffff 0x0 0x8 0x7ffc4a06ab18 0x7f09731d22ad\n", libc::SYS_epoll_pwait);
        let Some(Doing::Call(call)) = parse(&line) else { panic!("{line}") };
        assert_eq!((call.name().as_str(), call.fd(), call.int(3)), ("epoll_wait", Some(3), -1));
        // A program of 32 bits: the same numbers mean other calls.
        assert_eq!(parse("3 0x0 0x0 0x0 0x0 0x0 0x0 0xffbb0000 0xf7f00000"), Some(Doing::NoCall));
        assert_eq!(parse("3 0x0"), None);
    }

    #[test]
    fn limits_and_descriptors_in_memory() {
        let mut bytes = 2_i64.to_ne_bytes().to_vec();
        bytes.extend(500_000_000_i64.to_ne_bytes());
        assert_eq!(length_us(&bytes, 1_000_000_000), Some(2_500_000));
        assert_eq!(length_us(&bytes[..15], 1_000_000_000), None);
        let mut fds = 5_i32.to_ne_bytes().to_vec();
        fds.extend([1, 0, 0, 0]);
        fds.extend((-1_i32).to_ne_bytes());
        fds.extend([1, 0, 0, 0]);
        assert_eq!(poll_fds(&fds), [(5, 1)]);
        assert_eq!(set_fds(&[0b1000_0001, 0b10], 9, 1), [(0, 1), (7, 1)]);
        let info = "pos:\t0\nflags:\t02\ntfd:        5 events:       19 data: 7  pos:0 ino:61af sdev:7\n";
        assert_eq!(epoll_fds(info), [(5, 0x19)]);
        assert_eq!(futex_clock(libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG), FutexClock::Relative);
        assert_eq!(futex_clock(libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME), FutexClock::Realtime);
    }

    #[test]
    fn a_path_in_memory() {
        assert_eq!(path(b"/run/app.fifo\0rest").as_deref(), Some("/run/app.fifo"));
        assert_eq!(path(b"a\x1b[2J\n\0").as_deref(), Some("a?[2J?"));
        assert_eq!(path(b"cut of").as_deref(), Some("cut of..."));
        assert_eq!((path(b""), path(b"\0")), (None, None));
    }

    #[test]
    fn a_mutex_names_its_owner() {
        let mutex = |words: [u32; 5]| mutex_owner(&words.map(u32::to_ne_bytes).concat());
        assert_eq!(mutex([2, 0, 77, 1, 0]), Some(77));
        assert_eq!(mutex([2, 1, 77, 1, 256 | 1]), Some(77));
        // Nobody waits, nobody holds it, the kernel passes it on, another kind of lock.
        for words in [[1, 0, 77, 1, 0], [2, 0, 0, 1, 0], [2, 0, 77, 1, 16], [2, 0, 77, 0, 0], [2, 0, 77, 1, 0xffff]] {
            assert_eq!(mutex(words), None, "{words:?}");
        }
        assert_eq!(mutex_owner(&[2, 0, 0, 0]), None);
        let call = |line: &str| match parse(&format!(
            "{} {line} 0x0 0x0 0x0 0x7ffc4a06ab18 0x7f09731d22ad",
            libc::SYS_futex
        )) {
            Some(Doing::Call(call)) => call.lock(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (call("0x55d0 0x80 0x2"), call("0x55d0 0x80 0x1"), call("0x55d0 0x189 0x2")),
            (Some(0x55d0), None, None)
        );
    }

    proptest! {
        #[test]
        fn garbage_is_no_call(text in "\\PC*", line in "[0-9]{1,3}( 0x[0-9a-f]{1,17}){0,9}", bytes: Vec<u8>) {
            let _ = (parse(&text), epoll_fds(&text), epoll_fds(&format!("tfd: {text}")));
            if let Some(Doing::Call(call)) = parse(&line) {
                let _ = (call.name(), call.fd());
            }
            let _ = (mutex_owner(&bytes), path(&bytes));
            let _ = (length_us(&bytes, 0), poll_fds(&bytes), set_fds(&bytes, 7, 1));
        }
    }
}
