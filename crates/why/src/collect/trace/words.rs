//! Words for the numbers that system calls take.

/// Numbers or bits, each with its word.
pub(super) type Words = &'static [(u64, &'static str)];

pub(super) const DOMAIN: Words =
    &[(1, "AF_UNIX"), (2, "AF_INET"), (10, "AF_INET6"), (16, "AF_NETLINK"), (17, "AF_PACKET"), (40, "AF_VSOCK")];
pub(super) const SOCKET_TYPE: Words = &[(1, "SOCK_STREAM"), (2, "SOCK_DGRAM"), (3, "SOCK_RAW"), (5, "SOCK_SEQPACKET")];
pub(super) const SOCKET_FLAGS: Words = &[(0o4000, "SOCK_NONBLOCK"), (0o2_000_000, "SOCK_CLOEXEC")];
pub(super) const MESSAGE: Words = &[
    (1, "MSG_OOB"),
    (2, "MSG_PEEK"),
    (0x20, "MSG_TRUNC"),
    (0x40, "MSG_DONTWAIT"),
    (0x80, "MSG_EOR"),
    (0x100, "MSG_WAITALL"),
    (0x2000, "MSG_ERRQUEUE"),
    (0x4000, "MSG_NOSIGNAL"),
    (0x8000, "MSG_MORE"),
    (0x10000, "MSG_WAITFORONE"),
    (0x2000_0000, "MSG_FASTOPEN"),
    (0x4000_0000, "MSG_CMSG_CLOEXEC"),
];
pub(super) const SHUTDOWN: Words = &[(0, "SHUT_RD"), (1, "SHUT_WR"), (2, "SHUT_RDWR")];
pub(super) const EPOLL_CTL: Words = &[(1, "ADD"), (2, "DEL"), (3, "MOD")];
pub(super) const EPOLL_EVENTS: Words = &[
    (1, "IN"),
    (2, "PRI"),
    (4, "OUT"),
    (8, "ERR"),
    (0x10, "HUP"),
    (0x2000, "RDHUP"),
    (1 << 28, "EXCLUSIVE"),
    (1 << 29, "WAKEUP"),
    (1 << 30, "ONESHOT"),
    (1 << 31, "ET"),
];
pub(super) const OPEN: Words = &[
    (1, "O_WRONLY"),
    (2, "O_RDWR"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o40_000, "O_DIRECT"),
    (0o200_000, "O_DIRECTORY"),
    (0o400_000, "O_NOFOLLOW"),
    (0o2_000_000, "O_CLOEXEC"),
    (0o10_000_000, "O_PATH"),
];
pub(super) const FCNTL: Words = &[
    (0, "F_DUPFD"),
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (3, "F_GETFL"),
    (4, "F_SETFL"),
    (5, "F_GETLK"),
    (6, "F_SETLK"),
    (7, "F_SETLKW"),
    (1030, "F_DUPFD_CLOEXEC"),
    (1031, "F_SETPIPE_SZ"),
    (1032, "F_GETPIPE_SZ"),
];
pub(super) const IOCTL: Words = &[
    (0x5401, "TCGETS"),
    (0x5411, "TIOCOUTQ"),
    (0x5413, "TIOCGWINSZ"),
    (0x541b, "FIONREAD"),
    (0x5421, "FIONBIO"),
    (0x5450, "FIONCLEX"),
    (0x5451, "FIOCLEX"),
];
pub(super) const CLOCK: Words = &[(0, "CLOCK_REALTIME"), (1, "CLOCK_MONOTONIC"), (7, "CLOCK_BOOTTIME")];
pub(super) const TIMER: Words = &[(1, "TIMER_ABSTIME")];
pub(super) const FUTEX: Words = &[
    (0, "WAIT"),
    (1, "WAKE"),
    (3, "REQUEUE"),
    (4, "CMP_REQUEUE"),
    (5, "WAKE_OP"),
    (6, "LOCK_PI"),
    (7, "UNLOCK_PI"),
    (9, "WAIT_BITSET"),
    (10, "WAKE_BITSET"),
];
/// Of `SOL_SOCKET`.
const SOCKET_OPTIONS: Words = &[
    (2, "SO_REUSEADDR"),
    (4, "SO_ERROR"),
    (6, "SO_BROADCAST"),
    (7, "SO_SNDBUF"),
    (8, "SO_RCVBUF"),
    (9, "SO_KEEPALIVE"),
    (13, "SO_LINGER"),
    (15, "SO_REUSEPORT"),
    (20, "SO_RCVTIMEO"),
    (21, "SO_SNDTIMEO"),
    (30, "SO_ACCEPTCONN"),
    (57, "SO_COOKIE"),
    (66, "SO_RCVTIMEO"),
    (67, "SO_SNDTIMEO"),
];
/// Of `IPPROTO_TCP`.
const TCP_OPTIONS: Words = &[
    (1, "TCP_NODELAY"),
    (3, "TCP_CORK"),
    (4, "TCP_KEEPIDLE"),
    (5, "TCP_KEEPINTVL"),
    (6, "TCP_KEEPCNT"),
    (7, "TCP_SYNCNT"),
    (8, "TCP_LINGER2"),
    (9, "TCP_DEFER_ACCEPT"),
    (11, "TCP_INFO"),
    (12, "TCP_QUICKACK"),
    (13, "TCP_CONGESTION"),
    (18, "TCP_USER_TIMEOUT"),
    (23, "TCP_FASTOPEN"),
    (30, "TCP_FASTOPEN_CONNECT"),
];

/// The name of a socket's option.
pub(super) fn option(level: u64, name: u64) -> String {
    let words = match level {
        1 => SOCKET_OPTIONS,
        6 => TCP_OPTIONS,
        _ => &[],
    };
    word(words, name).map_or_else(|| format!("option {name} of level {level}"), str::to_owned)
}

/// The word for one number.
pub(super) fn word(words: Words, number: u64) -> Option<&'static str> {
    words.iter().find(|(known, _)| *known == number).map(|(_, word)| *word)
}

/// The words for bits; what has none is a number.
pub(super) fn flags(words: Words, mut bits: u64) -> String {
    let mut found = Vec::new();
    for (bit, word) in words {
        if bits & bit == *bit {
            bits &= !bit;
            found.push((*word).to_owned());
        }
    }
    if bits != 0 {
        found.push(format!("{bits:#x}"));
    }
    found.join("|")
}

/// The name of an error.
#[must_use]
pub fn errno(number: u16) -> String {
    let name = usize::from(number).checked_sub(1).and_then(|at| ERRORS.get(at)).filter(|name| !name.is_empty());
    name.map_or_else(|| format!("error {number}"), |name| (*name).to_owned())
}

#[rustfmt::skip]
const ERRORS: &[&str] = &[
    "EPERM", "ENOENT", "ESRCH", "EINTR", "EIO", "ENXIO", "E2BIG", "ENOEXEC", "EBADF", "ECHILD", "EAGAIN", "ENOMEM",
    "EACCES", "EFAULT", "ENOTBLK", "EBUSY", "EEXIST", "EXDEV", "ENODEV", "ENOTDIR", "EISDIR", "EINVAL", "ENFILE",
    "EMFILE", "ENOTTY", "ETXTBSY", "EFBIG", "ENOSPC", "ESPIPE", "EROFS", "EMLINK", "EPIPE", "EDOM", "ERANGE", "EDEADLK",
    "ENAMETOOLONG", "ENOLCK", "ENOSYS", "ENOTEMPTY", "ELOOP", "", "ENOMSG", "EIDRM", "ECHRNG", "EL2NSYNC", "EL3HLT",
    "EL3RST", "ELNRNG", "EUNATCH", "ENOCSI", "EL2HLT", "EBADE", "EBADR", "EXFULL", "ENOANO", "EBADRQC", "EBADSLT", "",
    "EBFONT", "ENOSTR", "ENODATA", "ETIME", "ENOSR", "ENONET", "ENOPKG", "EREMOTE", "ENOLINK", "EADV", "ESRMNT",
    "ECOMM", "EPROTO", "EMULTIHOP", "EDOTDOT", "EBADMSG", "EOVERFLOW", "ENOTUNIQ", "EBADFD", "EREMCHG", "ELIBACC",
    "ELIBBAD", "ELIBSCN", "ELIBMAX", "ELIBEXEC", "EILSEQ", "ERESTART", "ESTRPIPE", "EUSERS", "ENOTSOCK",
    "EDESTADDRREQ", "EMSGSIZE", "EPROTOTYPE", "ENOPROTOOPT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EOPNOTSUPP",
    "EPFNOSUPPORT", "EAFNOSUPPORT", "EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN", "ENETUNREACH", "ENETRESET",
    "ECONNABORTED", "ECONNRESET", "ENOBUFS", "EISCONN", "ENOTCONN", "ESHUTDOWN", "ETOOMANYREFS", "ETIMEDOUT",
    "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "EALREADY", "EINPROGRESS", "ESTALE", "EUCLEAN", "ENOTNAM", "ENAVAIL",
    "EISNAM", "EREMOTEIO", "EDQUOT", "ENOMEDIUM", "EMEDIUMTYPE", "ECANCELED", "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED",
    "EKEYREJECTED", "EOWNERDEAD", "ENOTRECOVERABLE", "ERFKILL", "EHWPOISON",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_kernels_numbers() {
        for (number, name) in [
            (libc::EPERM, "EPERM"),
            (libc::EMFILE, "EMFILE"),
            (libc::ELOOP, "ELOOP"),
            (libc::ENODATA, "ENODATA"),
            (libc::ENOTSOCK, "ENOTSOCK"),
            (libc::ECONNREFUSED, "ECONNREFUSED"),
            (libc::EHWPOISON, "EHWPOISON"),
        ] {
            assert_eq!(errno(u16::try_from(number).unwrap()), name);
        }
        assert_eq!(
            (errno(0), errno(41), errno(512)),
            ("error 0".to_owned(), "error 41".to_owned(), "error 512".to_owned())
        );
    }

    #[test]
    fn bits_have_words() {
        assert_eq!(flags(EPOLL_EVENTS, 0x8000_2001), "IN|RDHUP|ET");
        assert_eq!(flags(OPEN, 0o2_000_000 | 1 | 1 << 40), "O_WRONLY|O_CLOEXEC|0x10000000000");
        assert_eq!(flags(OPEN, 0), "");
        assert_eq!(word(FCNTL, 1030), Some("F_DUPFD_CLOEXEC"));
        assert_eq!(
            (option(1, 20), option(6, 18), option(0, 5)),
            ("SO_RCVTIMEO".into(), "TCP_USER_TIMEOUT".into(), "option 5 of level 0".into())
        );
    }
}
