//! What the program and this side share: the structs of `trace.bpf.c`, field for field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::Pod;

use crate::collect::{bytes::Reader, descriptors};

/// How much of what a call points to comes with it.
pub(super) const DATA: usize = 128;
/// How long the name of what is no socket is.
const NAME: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(super) struct How {
    pub(super) report: u8,
    pub(super) data: u8,
    pub(super) at: u8,
    pub(super) size: u8,
    pub(super) limit: u8,
    pub(super) limit_at: u8,
    pub(super) takes_fd: u8,
    pub(super) unused: u8,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Settings {
    pub(super) slow_ns: u64,
    pub(super) tenth: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(super) struct Tally {
    pub(super) dropped: u64,
    pub(super) lost_stacks: u64,
    pub(super) lost_entries: u64,
    pub(super) compat: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct RawWhat {
    pub(super) mode: u16,
    family: u16,
    protocol: u16,
    kind: u16,
    local_port: u16,
    peer_port: u16,
    unused: u32,
    local: [u8; 16],
    peer: [u8; 16],
    name: [u8; NAME],
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Inside {
    pub(super) since_ns: u64,
    pub(super) limit_ns: i64,
    pub(super) number: u16,
    pub(super) before: u16,
    pub(super) unused: u32,
    pub(super) closed: RawWhat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(super) struct CountKey {
    pub(super) number: u16,
    pub(super) error: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(super) struct Count {
    pub(super) calls: u64,
    pub(super) ns: u64,
    pub(super) longest_ns: u64,
}

macro_rules! pod {
    ($($name:ty),*) => { $(
        #[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
        // SAFETY: integers and arrays of them only, laid out without padding.
        unsafe impl Pod for $name {}
    )* };
}

pod!(How, Settings, Tally, RawWhat, Inside, CountKey, Count);

/// A call that returned, or that is still going on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Record {
    pub(super) at_ns: u64,
    /// 0: not known.
    pub(super) since_ns: u64,
    /// 0: its stack was not asked for.
    pub(super) place: u64,
    pub(super) result: i64,
    pub(super) args: [u64; 6],
    /// `None`: not known, or the call has none. `Some(None)`: there is none.
    pub(super) limit_ns: Option<Option<u64>>,
    pub(super) tid: u32,
    pub(super) number: u16,
    /// It began before the watch, at `since_ns` at the latest.
    pub(super) before: bool,
    /// It never returns.
    pub(super) ended: bool,
    pub(super) name: String,
    pub(super) what: Option<What>,
    pub(super) data: Vec<u8>,
}

/// What a descriptor is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// A socket of the internet: `tcp`, with both ends.
    Internet { protocol: String, local: SocketAddr, peer: Option<SocketAddr> },
    /// Another socket, by its family.
    Socket(u16),
    /// What is no socket: its kind and its name.
    Other(&'static str, String),
}

impl Record {
    /// `None` where the bytes are too few.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (at_ns, since_ns, place) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let result = reader.u64()?.cast_signed();
        let args = reader.words()?;
        let limit_ns = limit(reader.u64()?.cast_signed());
        let tid = reader.u32()?;
        let number = u16::from_ne_bytes(reader.take()?);
        let [before, ended] = reader.take()?;
        let (length, _unused) = (reader.u32()?, reader.u32()?);
        let name = text(&reader.take::<16>()?);
        let what = What::read(&mut reader)?;
        let data = reader.rest().get(..DATA)?;
        let data = data.get(..usize::try_from(length).ok()?)?.to_vec();
        let (before, ended) = (before != 0, ended != 0);
        Some(Self { at_ns, since_ns, place, result, args, limit_ns, tid, number, before, ended, name, what, data })
    }
}

/// A limit as the program writes it.
pub(super) fn limit(ns: i64) -> Option<Option<u64>> {
    const UNLIMITED: i64 = -1;
    if ns == UNLIMITED { Some(None) } else { u64::try_from(ns).ok().map(Some) }
}

impl What {
    /// The outer `None` where the bytes are too few, the inner where there is no such descriptor.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Option<Self>> {
        const SOCKET: u16 = 0o140_000;
        const KIND: u16 = 0o170_000;
        let mut number = || reader.take().map(u16::from_ne_bytes);
        let (mode, family, protocol, kind) = (number()?, number()?, number()?, number()?);
        let (local_port, peer_port) = (number()?, number()?);
        reader.u32()?;
        let (local, peer): ([u8; 16], [u8; 16]) = (reader.take()?, reader.take()?);
        let name = text(&reader.take::<NAME>()?);
        if mode == 0 {
            return Some(None);
        }
        if mode & KIND != SOCKET {
            // As its link in /proc begins.
            let kind = match mode & KIND {
                0o010_000 => "pipe",
                0o020_000 | 0o060_000 => "device",
                0o040_000 => "folder",
                0o100_000 => "file",
                _ => descriptors::kind_of(&format!("anon_inode:{name}")),
            };
            return Some(Some(Self::Other(kind, name)));
        }
        let address = |bytes: [u8; 16], port| -> Option<SocketAddr> {
            let ip: IpAddr = match i32::from(family) {
                libc::AF_INET => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
                libc::AF_INET6 => Ipv6Addr::from(bytes).to_canonical(),
                _ => return None,
            };
            Some(SocketAddr::new(ip, port))
        };
        Some(Some(match address(local, local_port) {
            Some(local) => {
                let protocol = match (protocol, kind) {
                    (6, _) => "tcp".to_owned(),
                    (17, _) => "udp".to_owned(),
                    (262, _) => "mptcp".to_owned(),
                    (other, _) => format!("protocol {other}"),
                };
                Self::Internet { protocol, local, peer: address(peer, peer_port).filter(|peer| peer.port() != 0) }
            }
            None => Self::Socket(family),
        }))
    }
}

/// One record of the iterator `descriptor`: a thread, the call that it is in and what that call's first argument is.
pub(super) struct SeenFd {
    pub(super) tid: u32,
    pub(super) number: u32,
    pub(super) what: Option<What>,
}

impl SeenFd {
    /// The size of one in the iterator's output.
    pub(super) const BYTES: usize = 8 + size_of::<RawWhat>();

    /// `None` where the bytes are too few.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self { tid: reader.u32()?, number: reader.u32()?, what: What::read(&mut reader)? })
    }
}

/// What comes before the first 0; what is no UTF-8 is replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as the program writes it.
    pub(in super::super) fn bytes(number: u16, result: i64, args: [u64; 6], what: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        [2_000_000_u64, 1_500_000, 0].iter().for_each(|word| out.extend(word.to_ne_bytes()));
        out.extend(result.to_ne_bytes());
        args.iter().for_each(|word| out.extend(word.to_ne_bytes()));
        out.extend((-1_i64).to_ne_bytes());
        out.extend(42_u32.to_ne_bytes());
        out.extend(number.to_ne_bytes());
        out.extend([0, 0]);
        out.extend(u32::try_from(data.len()).unwrap().to_ne_bytes());
        out.extend([0; 4]);
        out.extend(b"worker\0\0\0\0\0\0\0\0\0\0");
        let mut whole = [0; size_of::<RawWhat>()];
        whole[..what.len()].copy_from_slice(what);
        out.extend(whole);
        let mut rest = [0; DATA];
        rest[..data.len()].copy_from_slice(data);
        out.extend(rest);
        out
    }

    /// A connection from 127.0.0.1:9 to 10.0.0.1:5432.
    pub(in super::super) fn tcp() -> Vec<u8> {
        let mut what = Vec::new();
        [0o140_777_u16, 2, 6, 1, 9, 5432, 0, 0].iter().for_each(|word| what.extend(word.to_ne_bytes()));
        what.extend([127, 0, 0, 1]);
        what.extend([0; 12]);
        what.extend([10, 0, 0, 1]);
        what
    }

    #[test]
    fn a_record_is_read() {
        let record = Record::parse(&bytes(42, -111, [5; 6], &tcp(), b"abc")).unwrap();
        assert_eq!((record.tid, record.number, record.result, record.name.as_str()), (42, 42, -111, "worker"));
        assert_eq!((record.at_ns, record.since_ns, record.limit_ns), (2_000_000, 1_500_000, Some(None)));
        assert_eq!(record.data, b"abc");
        let (local, peer) = ("127.0.0.1:9".parse().unwrap(), "10.0.0.1:5432".parse().ok());
        assert_eq!(record.what, Some(What::Internet { protocol: "tcp".to_owned(), local, peer }));
    }

    #[test]
    fn a_length_beyond_the_data_is_refused() {
        let mut record = bytes(42, 0, [0; 6], &[], b"");
        let at = 8 * 11 + 8;
        record[at..at + 4].copy_from_slice(&129_u32.to_ne_bytes());
        assert_eq!(Record::parse(&record), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(record) = Record::parse(&bytes) {
                prop_assert!(record.data.len() <= DATA);
            }
            prop_assert_eq!(SeenFd::parse(&bytes).is_some(), bytes.len() >= SeenFd::BYTES);
        }
    }
}
