//! The table of open descriptors of a process: what each of them names, without opening any.
//!
//! A descriptor opened again through `/proc/PID/fd/N` keeps a pipe open whose end somebody waits for, so only the links
//! are read. Which protocol a socket has is told by an attribute of its inode.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags, getxattr, openat, readlinkat_raw, statx},
    io::Errno,
};

use super::Target;

/// What a descriptor names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Named<'a> {
    /// A socket, by its inode.
    Socket(u64),
    /// Anything else, as the kernel writes it: a path, `pipe:[7]`, `anon_inode:[eventfd]`.
    Other(&'a str),
}

/// Reads what the kernel writes in the link.
pub(super) fn parse(link: &str) -> Named<'_> {
    let inode =
        link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).and_then(|text| text.parse().ok());
    inode.map_or(Named::Other(link), Named::Socket)
}

/// The folder of descriptors.
pub(super) fn folder(target: &Target) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(target.folder(), target.shared("fd"), flags, Mode::empty())?)
}

/// How many there are, where the kernel tells at once (Linux 6.2).
pub(super) fn count_of(folder: &OwnedFd) -> Option<u64> {
    let size = statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::SIZE).ok()?.stx_size;
    (size > 0).then_some(size)
}

/// The names in a folder that are numbers, `at_most` of them.
pub(super) fn numbers(folder: &OwnedFd, at_most: usize) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut buf = [MaybeUninit::uninit(); 16 * 1024];
    rustix::fs::seek(folder, rustix::fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(folder, &mut buf);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            if found.len() == at_most {
                break;
            }
            found.push(number);
        }
    }
    Ok(found)
}

/// Hands each descriptor with what it names to `take`, `at_most` of them; returns how many there are.
///
/// # Errors
/// When the table may not be read, or the process has ended.
pub(super) fn each(target: &Target, at_most: usize, mut take: impl FnMut(u32, Named<'_>)) -> io::Result<u64> {
    let folder = folder(target)?;
    let numbers = numbers(&folder, usize::MAX)?;
    let mut name = String::new();
    let mut buf = [MaybeUninit::<u8>::uninit(); 512];
    for &fd in numbers.iter().take(at_most) {
        name.clear();
        name.push_str(itoa(fd, &mut [0; 10]));
        match readlinkat_raw(&folder, name.as_str(), &mut buf) {
            Ok((link, _)) => take(fd, parse(&String::from_utf8_lossy(link))),
            // It was closed meanwhile.
            Err(Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(numbers.len() as u64)
}

/// What one descriptor names, as the kernel writes it.
pub(super) fn link(target: &Target, fd: u32) -> io::Result<String> {
    let mut buf = [MaybeUninit::<u8>::uninit(); 512];
    let (link, _) = readlinkat_raw(target.folder(), target.shared(&format!("fd/{fd}")), &mut buf)?;
    Ok(String::from_utf8_lossy(link).into_owned())
}

/// The protocol of a socket, as the kernel calls it: `TCP`, `TCPv6`, `UNIX-STREAM`.
pub(super) fn protocol(target: &Target, fd: u32) -> Option<String> {
    // By way of the folder that is held: the number of the process may be another's by now.
    let path = format!("/proc/thread-self/fd/{}/{}", target.folder().as_raw_fd(), target.shared(&format!("fd/{fd}")));
    let mut buf = [0_u8; 32];
    let len = getxattr(path, "system.sockprotoname", &mut buf).ok()?;
    let name = buf.get(..len)?;
    Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
}

/// By what the link of a descriptor that is no socket says.
pub(super) fn kind_of(link: &str) -> &'static str {
    if let Some(name) = link.strip_prefix("anon_inode:") {
        return match name.trim_matches(['[', ']']) {
            "eventfd" => "eventfd",
            "eventpoll" => "epoll",
            "timerfd" => "timerfd",
            "signalfd" => "signalfd",
            "inotify" | "fanotify" => "inotify",
            "io_uring" => "io_uring",
            "pidfd" => "pidfd",
            "userfaultfd" => "memory",
            name if name.starts_with("bpf") => "bpf",
            name if name.starts_with("perf") => "perf",
            _ => "other",
        };
    }
    if link.starts_with("pipe:[") {
        "pipe"
    } else if link.starts_with("/memfd:") || link.starts_with("/dev/shm/") {
        "memory"
    } else if link.starts_with("/dev/") {
        "device"
    } else if link.starts_with('/') {
        "file"
    } else if link.starts_with("pidfd:[") {
        "pidfd"
    } else {
        "other"
    }
}

/// Decimal digits, without an allocation for each of 100,000 names.
fn itoa(mut number: u32, digits: &mut [u8; 10]) -> &str {
    let mut begin = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        begin = at;
        if number == 0 {
            break;
        }
    }
    digits.get(begin..).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_listener_is_found_and_known_as_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = u32::try_from(listener.as_raw_fd()).unwrap();
        let target = Target::new(std::process::id()).unwrap();
        assert!(matches!(parse(&link(&target, fd).unwrap()), Named::Socket(_)));
        assert_eq!(protocol(&target, fd).as_deref(), Some("TCP"));
    }

    #[test]
    fn kinds_by_their_links() {
        for (link, kind) in [
            ("anon_inode:[eventpoll]", "epoll"),
            ("anon_inode:bpf-map", "bpf"),
            ("pipe:[7]", "pipe"),
            ("/memfd:x (deleted)", "memory"),
            ("/dev/null", "device"),
            ("/var/log/a", "file"),
            ("net:[4026531840]", "other"),
        ] {
            assert_eq!(kind_of(link), kind, "{link}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_ever(number: u32) {
            let mut digits = [0; 10];
            prop_assert_eq!(itoa(number, &mut digits), number.to_string());
        }

        #[test]
        fn any_link_names_something(link in "\\PC*") {
            let _ = (parse(&link), kind_of(&link));
        }

        #[test]
        fn a_socket_is_a_socket(inode: u64) {
            let link = format!("socket:[{inode}]");
            prop_assert_eq!(parse(&link), Named::Socket(inode));
        }
    }
}
