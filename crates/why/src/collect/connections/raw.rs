//! What `connections.bpf.c` hands over, as bytes: its structs, read field by field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const BEFORE: u32 = 1 << 0;
pub(crate) const OPENED: u32 = 1 << 1;
pub(crate) const ACCEPTED: u32 = 1 << 2;
pub(crate) const ENDED: u32 = 1 << 4;
pub(crate) const RESET_RECEIVED: u32 = 1 << 5;
pub(crate) const RESET_SENT: u32 = 1 << 6;
pub(crate) const BLIND: u32 = 1 << 11;
pub(crate) const BY_US: u32 = 1 << 12;
pub(crate) const CHUNKED: u32 = 1 << 14;

const KIND_PIECE: u32 = 1;
const KIND_ENDED: u32 = 2;
const KIND_DNS: u32 = 3;
const KIND_DNS_REFUSED: u32 = 4;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Which way bytes went, as the process sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Read,
    Write,
}

/// `struct way`. Times are of the monotonic clock, in nanoseconds; 0 is never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RawWay {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) gaps: u64,
    pub(crate) longest_gap: u64,
    pub(crate) longest_gap_from: u64,
    pub(crate) turns: u32,
    /// Of the gaps, those before the window that is told of.
    pub(crate) gaps_before: u64,
}

/// `struct connection`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RawConnection {
    pub(crate) cookie: u64,
    pub(crate) opened: u64,
    pub(crate) established: u64,
    pub(crate) ended: u64,
    pub(crate) fin: u64,
    pub(crate) read: RawWay,
    pub(crate) write: RawWay,
    pub(crate) tid: u32,
    pub(crate) error: i32,
    pub(crate) syn_retransmits: u32,
    pub(crate) retransmits: u32,
    pub(crate) flags: u32,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) fd: Option<u32>,
    /// The last bytes that were read of an answer that comes in chunks ([`CHUNKED`]).
    pub(crate) tail: [u8; 4],
    /// Bytes that came for it, and that it sent, as the kernel counts them itself.
    pub(crate) total_read: u64,
    pub(crate) total_written: u64,
    /// For so long nothing came, or was sent, where it is still open; 0 is not known.
    pub(crate) read_silent: u64,
    pub(crate) write_silent: u64,
}

/// The first bytes of a read or write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) at: u64,
    pub(crate) cookie: u64,
    /// Bytes that went before in this direction.
    pub(crate) offset: u64,
    pub(crate) tid: u32,
    /// Of the connection.
    pub(crate) flags: u32,
    /// The peer's address; the port may be 0.
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) way: Way,
    pub(crate) bytes: &'a [u8],
}

/// One entry of the ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event<'a> {
    Piece(Piece<'a>),
    Ended(Box<RawConnection>),
    Dns(Piece<'a>),
    /// Nobody listens where that socket asked for names.
    DnsRefused {
        cookie: u64,
    },
}

impl<'a> Event<'a> {
    /// `None` of what is no entry, which the kernel's half never sends.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        match Reader(bytes).u32()? {
            KIND_PIECE => Piece::read(bytes).map(Self::Piece),
            KIND_DNS => Piece::read(bytes).map(Self::Dns),
            KIND_DNS_REFUSED => Piece::read(bytes).map(|piece| Self::DnsRefused { cookie: piece.cookie }),
            KIND_ENDED => RawConnection::read(bytes.get(8..)?).map(|raw| Self::Ended(Box::new(raw))),
            _ => None,
        }
    }
}

impl<'a> Piece<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        from.u32()?;
        let size = from.u32()?;
        let (at, cookie, offset) = (from.u64()?, from.u64()?, from.u64()?);
        let (tid, _length, flags) = (from.u32()?, from.u32()?, from.u32()?);
        let (family, port) = (from.u16()?, from.u16()?);
        let remote = address(family, from.take()?, port);
        let [way, ..] = from.take::<8>()?;
        let way = if way == 0 { Way::Read } else { Way::Write };
        let bytes = from.0.get(..usize::try_from(size).ok()?)?;
        Some(Self { at, cookie, offset, tid, flags, remote, way, bytes })
    }
}

impl RawConnection {
    /// The size of `struct connection`.
    pub(crate) const SIZE: usize = 320;

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (cookie, opened, established) = (from.u64()?, from.u64()?, from.u64()?);
        let (ended, fin) = (from.u64()?, from.u64()?);
        let (read, write) = (RawWay::read(&mut from)?, RawWay::read(&mut from)?);
        let (tid, error) = (from.u32()?, from.u32()?.cast_signed());
        let (syn_retransmits, retransmits) = (from.u32()?, from.u32()?);
        let (flags, _reset_reason) = (from.u32()?, from.u32()?);
        let [_state, _turn] = from.take()?;
        let (family, local_port, remote_port) = (from.u16()?, from.u16()?, from.u16()?);
        let (local, remote) = (from.take()?, from.take()?);
        let fd = from.u32()?.cast_signed().try_into().ok();
        let tail = from.take()?;
        let (read_total, written_total) = (from.u64()?, from.u64()?);
        let total_read = read_total.saturating_sub(from.u64()?);
        let total_written = written_total.saturating_sub(from.u64()?);
        let (read_silent, write_silent) = (from.u64()?, from.u64()?);
        let [_searched, _head_reads] = [from.u64()?, from.u64()?];
        Some(Self {
            cookie,
            opened,
            established,
            ended,
            fin,
            read,
            write,
            tid,
            error,
            syn_retransmits,
            retransmits,
            flags,
            local: address(family, local, local_port),
            remote: address(family, remote, remote_port),
            fd,
            tail,
            total_read,
            total_written,
            read_silent,
            write_silent,
        })
    }

    /// Where reads and writes were watched only now and then, the kernel's own counts know better: how much there was,
    /// and when the last of it passed. What began then is not known, nor with which bytes an answer ended.
    pub(crate) fn complete(&mut self, now: u64) {
        // The peer's FIN counts as a byte.
        let came = self.total_read.saturating_sub(u64::from(self.fin > 0));
        if came > self.read.bytes {
            self.flags &= !CHUNKED;
        }
        for (way, total, silent) in
            [(&mut self.read, came, self.read_silent), (&mut self.write, self.total_written, self.write_silent)]
        {
            way.bytes = way.bytes.max(total);
            if self.ended == 0 && silent > 0 && total > 0 {
                let last = now.saturating_sub(silent);
                // Ticks are coarse.
                if last > way.last.saturating_add(20_000_000) {
                    way.last = last;
                    way.first = 0;
                }
            }
        }
    }

    pub(crate) const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl RawWay {
    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let (first, last, bytes) = (from.u64()?, from.u64()?, from.u64()?);
        let (gaps, longest_gap, longest_gap_from) = (from.u64()?, from.u64()?, from.u64()?);
        from.u64()?;
        let [_calls, turns, ..] = [from.u32()?, from.u32()?, from.u32()?, from.u32()?];
        Some(Self { first, last, bytes, gaps, longest_gap, longest_gap_from, turns, gaps_before: 0 })
    }
}

fn address(family: u16, bytes: [u8; 16], port: u16) -> Option<SocketAddr> {
    let ip = match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        // A socket for both families shows IPv4 as a part of IPv6.
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Takes integers from the front, in the machine's order.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_sides_mean_the_same() {
        let theirs = crate::collect::bpf::constants::of(include_str!("follow.bpf.h"));
        for (name, ours) in [
            ("BEFORE", i64::from(BEFORE)),
            ("OPENED", i64::from(OPENED)),
            ("ACCEPTED", i64::from(ACCEPTED)),
            ("ENDED", i64::from(ENDED)),
            ("RESET_RECEIVED", i64::from(RESET_RECEIVED)),
            ("RESET_SENT", i64::from(RESET_SENT)),
            ("BLIND", i64::from(BLIND)),
            ("BY_US", i64::from(BY_US)),
            ("CHUNKED", i64::from(CHUNKED)),
            ("KIND_PIECE", i64::from(KIND_PIECE)),
            ("KIND_ENDED", i64::from(KIND_ENDED)),
            ("KIND_DNS", i64::from(KIND_DNS)),
        ] {
            assert_eq!(theirs.get(name), Some(&ours), "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(kind in 0..5_u32, bytes: Vec<u8>) {
            let bytes = [&kind.to_ne_bytes()[..], &bytes].concat();
            Event::read(&bytes);
            RawConnection::read(&bytes);
        }
    }

    #[test]
    fn the_sizes_are_those_of_the_structs() {
        assert_eq!(RawConnection::read(&[0; RawConnection::SIZE - 1]), None);
        assert!(RawConnection::read(&[0; RawConnection::SIZE]).is_some());
    }
}
