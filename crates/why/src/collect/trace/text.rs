//! A record as a reader sees it: arguments with their names and words.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use overdue_core::DurationText;

use super::{
    calls::{self, Argument},
    records::{Record, What, text},
    words,
};
use crate::collect::syscalls;

/// Descriptors of a poll that are listed.
const POLLED_MAX: usize = 8;

/// The name of the call.
pub(super) fn name(number: u16) -> String {
    syscalls::name(u64::from(number)).map_or_else(|| format!("call {number}"), str::to_owned)
}

/// The arguments, each with its name.
pub(super) fn arguments(record: &Record) -> Vec<(&'static str, String)> {
    let Some(signature) = calls::signature(record.number) else {
        let names = ["first", "second", "third"];
        return names.into_iter().zip(record.args).map(|(name, value)| (name, format!("{value:#x}"))).collect();
    };
    signature.arguments.iter().filter_map(|argument| one(*argument, record)).collect()
}

fn one(argument: Argument, record: &Record) -> Option<(&'static str, String)> {
    let value = |at: usize| record.args.get(at).copied().unwrap_or(0);
    // Of a call that did not succeed, and of one that still goes on, the kernel has written nothing.
    let is_done = record.result >= 0 && !record.ended;
    Some(match argument {
        Argument::Fd(0) => ("fd", fd(value(0), record.what.as_ref().filter(|_| !accepts(record)))),
        Argument::Fd(at) => ("of fd", fd(value(at), None)),
        Argument::Number(name, at) => (name, low(value(at)).to_string()),
        Argument::Bytes(at) => ("bytes", value(at).to_string()),
        Argument::One(name, at, table) => {
            let number = value(at) & 0xffff_ffff;
            // Beside the word: flags of sockets, and whether a futex is private.
            let bare = match name {
                "type" => number & 0xf,
                "operation" if record.number == FUTEX => number & 127,
                _ => number,
            };
            let word = words::word(table, bare).map_or_else(|| bare.to_string(), str::to_owned);
            let flags = if name == "type" { words::flags(words::SOCKET_FLAGS, number & !0xf) } else { String::new() };
            (name, if flags.is_empty() { word } else { format!("{word}|{flags}") })
        }
        Argument::Flags(name, at, table) => {
            let bits = value(at) & 0xffff_ffff;
            if bits == 0 {
                return None;
            }
            (name, words::flags(table, bits))
        }
        Argument::Path if record.data.is_empty() => return None,
        Argument::Path => {
            let whole = record.data.last() == Some(&0) && record.data.len() < super::records::DATA;
            ("path", if whole { text(&record.data) } else { format!("{}...", text(&record.data)) })
        }
        Argument::Address => ("address", address(&record.data)?),
        Argument::LimitMs(at) => ("timeout", milliseconds(low(value(at)))),
        // An instant, and not a length.
        Argument::Limit if record.number == CLOCK_NANOSLEEP && value(1) & 1 == 1 => return None,
        Argument::Limit => match record.limit_ns? {
            None => ("timeout", "none".to_owned()),
            Some(ns) => ("timeout", duration(ns)),
        },
        Argument::Polled(at) => ("polled", polled(&record.data, value(at), is_done)),
        Argument::EpollEvents => {
            let bits = u32::from_ne_bytes(*record.data.first_chunk()?);
            ("events", words::flags(words::EPOLL_EVENTS, u64::from(bits)))
        }
        Argument::Pair => {
            let (first, rest) = record.data.split_first_chunk::<4>().filter(|_| is_done)?;
            let second = rest.first_chunk::<4>()?;
            ("made", format!("fd {}, fd {}", u32::from_ne_bytes(*first), u32::from_ne_bytes(*second)))
        }
        Argument::Value => {
            let (level, name) = (value(1) & 0xffff_ffff, value(2) & 0xffff_ffff);
            let shown = option_value(level, name, &record.data);
            ("option", format!("{}{shown}", words::option(level, name)))
        }
        Argument::ByCommand => fcntl(value(1) & 0xffff_ffff, value(2))?,
    })
}

const FUTEX: u16 = 202;
const CLOCK_NANOSLEEP: u16 = 230;

/// What comes with the record is the new connection, and not what was listened on.
pub(super) const fn accepts(record: &Record) -> bool {
    matches!(record.number, 43 | 288) && record.result >= 0
}

/// The low half, which is what most numbers are.
fn low(value: u64) -> i32 {
    let [a, b, c, d, ..] = value.to_ne_bytes();
    i32::from_ne_bytes([a, b, c, d])
}

fn fd(number: u64, what: Option<&What>) -> String {
    match what {
        Some(what) => format!("{} {}", low(number), describe(what)),
        None => low(number).to_string(),
    }
}

/// `tcp 10.0.0.1:5432`, `tcp listener 0.0.0.0:80`, `file access.log`.
pub(super) fn describe(what: &What) -> String {
    match what {
        What::Internet { protocol, peer: Some(peer), .. } => format!("{protocol} {peer}"),
        What::Internet { protocol, local, .. } if local.port() == 0 => protocol.clone(),
        What::Internet { protocol, local, .. } => format!("{protocol} on {local}"),
        What::Socket(family) => match words::word(words::DOMAIN, u64::from(*family)) {
            Some(word) => format!("{} socket", word.trim_start_matches("AF_").to_lowercase()),
            None => format!("socket of family {family}"),
        },
        What::Other(kind, name) if name.is_empty() || name.starts_with('[') => (*kind).to_owned(),
        What::Other(kind, name) => format!("{kind} {name}"),
    }
}

/// The address of a socket.
fn address(bytes: &[u8]) -> Option<String> {
    let (family, rest) = bytes.split_first_chunk()?;
    let family = u16::from_ne_bytes(*family);
    match i32::from(family) {
        libc::AF_INET => {
            let (port, rest) = rest.split_first_chunk()?;
            let ip: [u8; 4] = *rest.first_chunk()?;
            Some(SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes(*port))).to_string())
        }
        libc::AF_INET6 => {
            let (port, rest) = rest.split_first_chunk()?;
            let ip: [u8; 16] = *rest.get(4..)?.first_chunk()?;
            Some(SocketAddr::from((Ipv6Addr::from(ip), u16::from_be_bytes(*port))).to_string())
        }
        libc::AF_UNIX => {
            // An abstract name begins with 0.
            let (mark, path) = rest.split_first().map_or(("", rest), |(first, path)| match first {
                0 => ("@", path),
                _ => ("", rest),
            });
            let path = text(path);
            Some(if path.is_empty() && mark.is_empty() { "unix".to_owned() } else { format!("unix {mark}{path}") })
        }
        libc::AF_UNSPEC => None,
        _ => words::word(words::DOMAIN, u64::from(family)).map(str::to_owned),
    }
}

fn polled(data: &[u8], count: u64, is_done: bool) -> String {
    let mut listed = Vec::new();
    for entry in data.chunks_exact(8).take(POLLED_MAX) {
        let [a, b, c, d, e0, e1, r0, r1] = *entry else { continue };
        let word = |bits: [u8; 2]| words::flags(words::EPOLL_EVENTS, u64::from(u16::from_ne_bytes(bits)));
        let (asked, ready) = (word([e0, e1]), word([r0, r1]));
        let ready = if is_done && !ready.is_empty() { format!(" is {ready}") } else { String::new() };
        listed.push(format!("{} {asked}{ready}", i32::from_ne_bytes([a, b, c, d])));
    }
    let more = count.saturating_sub(listed.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("[{}]{more}", listed.join(", "))
}

fn option_value(level: u64, name: u64, data: &[u8]) -> String {
    let is_time = level == 1 && matches!(name, 20 | 21 | 66 | 67);
    if is_time {
        let (seconds, micros) = data.split_at_checked(8).unwrap_or_default();
        let word = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        let ns = word(seconds)
            .zip(word(micros))
            .and_then(|(s, us)| s.checked_mul(1_000_000_000)?.checked_add(us.checked_mul(1000)?));
        return ns
            .map_or_else(String::new, |ns| if ns == 0 { " none".to_owned() } else { format!(" {}", duration(ns)) });
    }
    let number = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    let number = number.filter(|_| matches!(level, 1 | 6));
    // Counted in milliseconds, and the one that says how long nothing may be acknowledged.
    match (level, name, number) {
        (6, 18, Some(ms)) => format!(" {}", milliseconds(ms)),
        (1, 4, Some(error)) => {
            format!(" {}", u16::try_from(error).ok().filter(|it| *it > 0).map_or("0".to_owned(), words::errno))
        }
        (_, _, Some(number)) => format!(" {number}"),
        (_, _, None) => String::new(),
    }
}

fn fcntl(command: u64, value: u64) -> Option<(&'static str, String)> {
    match command {
        4 => Some(("flags", words::flags(words::OPEN, value & !3))),
        2 => Some(("flags", if value & 1 == 1 { "FD_CLOEXEC".to_owned() } else { "0".to_owned() })),
        _ => None,
    }
}

fn milliseconds(ms: i32) -> String {
    u64::try_from(ms).map_or_else(|_| "none".to_owned(), |ms| duration(ms.saturating_mul(1_000_000)))
}

fn duration(ns: u64) -> String {
    DurationText(Duration::from_nanos(ns)).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::records::tests::{bytes, tcp},
        *,
    };

    fn shown(number: i64, result: i64, args: [u64; 6], what: &[u8], data: &[u8]) -> String {
        let record = Record::parse(&bytes(u16::try_from(number).unwrap(), result, args, what, data)).unwrap();
        let all: Vec<_> = arguments(&record).into_iter().map(|(name, text)| format!("{name}={text}")).collect();
        all.join(" ")
    }

    fn inet(port: u16) -> Vec<u8> {
        [2_u16.to_ne_bytes(), port.to_be_bytes(), [127, 0], [0, 1]].concat()
    }

    #[test]
    fn calls_are_told_in_words() {
        let none = [0; 6];
        for (number, result, args, what, data, expected) in [
            (libc::SYS_connect, -111, [5, 1, 16, 0, 0, 0], vec![], inet(80), "fd=5 address=127.0.0.1:80"),
            (libc::SYS_write, 3, [5, 1, 3, 0, 0, 0], tcp(), vec![], "fd=5 tcp 10.0.0.1:5432 bytes=3"),
            (
                libc::SYS_socket,
                5,
                [2, 0o2_000_001, 0, 0, 0, 0],
                vec![],
                vec![],
                "domain=AF_INET type=SOCK_STREAM|SOCK_CLOEXEC protocol=0",
            ),
            (libc::SYS_accept4, 7, [3, 0, 0, 0o4000, 0, 0], tcp(), vec![], "fd=3 flags=SOCK_NONBLOCK"),
            (libc::SYS_epoll_wait, 0, [4, 1, 16, 0xffff_ffff, 0, 0], vec![], vec![], "fd=4 at most=16 timeout=none"),
            (libc::SYS_epoll_wait, 0, [4, 1, 16, 250, 0, 0], vec![], vec![], "fd=4 at most=16 timeout=250ms"),
            (
                libc::SYS_epoll_ctl,
                0,
                [4, 1, 9, 1, 0, 0],
                vec![],
                vec![1, 0x20, 0, 0],
                "fd=4 operation=ADD of fd=9 events=IN|RDHUP",
            ),
            (
                libc::SYS_openat,
                -2,
                [0, 1, 0o2_000_000, 0, 0, 0],
                vec![],
                b"/etc/x\0".to_vec(),
                "path=/etc/x flags=O_CLOEXEC",
            ),
            (
                libc::SYS_poll,
                1,
                [1, 2, 0, 0, 0, 0],
                vec![],
                vec![3, 0, 0, 0, 1, 0, 1, 0, 4, 0, 0, 0, 4, 0, 0, 0],
                "polled=[3 IN is IN, 4 OUT] timeout=0",
            ),
            (
                libc::SYS_setsockopt,
                0,
                [5, 6, 18, 1, 4, 0],
                vec![],
                3000_u32.to_ne_bytes().to_vec(),
                "fd=5 option=TCP_USER_TIMEOUT 3s",
            ),
            (
                libc::SYS_setsockopt,
                0,
                [5, 1, 20, 1, 16, 0],
                vec![],
                [1_u64.to_ne_bytes(), 500_000_u64.to_ne_bytes()].concat(),
                "fd=5 option=SO_RCVTIMEO 1.5s",
            ),
            (libc::SYS_pipe2, 0, none, vec![], vec![7, 0, 0, 0, 8, 0, 0, 0], "made=fd 7, fd 8"),
            (libc::SYS_fcntl, 0, [5, 4, 0o4000, 0, 0, 0], vec![], vec![], "fd=5 command=F_SETFL flags=O_NONBLOCK"),
            (libc::SYS_futex, 0, [1, 128, 0, 0, 0, 0], vec![], vec![], "operation=WAIT timeout=none"),
            (libc::SYS_getpid, 1, [1, 2, 3, 0, 0, 0], vec![], vec![], "first=0x1 second=0x2 third=0x3"),
        ] {
            assert_eq!(shown(number, result, args, &what, &data), expected);
        }
    }

    #[test]
    fn what_is_no_socket_has_a_kind_and_a_name() {
        let other = |mode: u16, name: &[u8]| {
            let mut what = mode.to_ne_bytes().to_vec();
            what.extend([0; 46]);
            what.extend(name);
            shown(libc::SYS_read, 0, [9, 0, 64, 0, 0, 0], &what, &[])
        };
        assert_eq!(other(0o100_644, b"access.log"), "fd=9 file access.log bytes=64");
        assert_eq!(other(0o010_600, b""), "fd=9 pipe bytes=64");
        assert_eq!(other(0o000_600, b"[eventfd]"), "fd=9 eventfd bytes=64");
    }

    proptest! {
        #[test]
        fn any_record_is_told(
            number in 0_u16..600,
            result in any::<i64>(),
            args in any::<[u64; 6]>(),
            what in proptest::collection::vec(any::<u8>(), 0..80),
            data in proptest::collection::vec(any::<u8>(), 0..=128),
        ) {
            if let Some(record) = Record::parse(&bytes(number, result, args, &what, &data)) {
                for (_, text) in arguments(&record) {
                    prop_assert!(text.chars().count() < 800, "{}", text);
                }
            }
        }
    }
}
