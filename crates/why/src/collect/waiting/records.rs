//! What the BPF program and this side share: the structs of `waiting.bpf.c`, field for field.

use aya::Pod;

/// How many frames by frame pointers come with a snapshot.
const FRAMES: usize = 24;
/// The top of a stack: the rest of a page and another page.
const STACK: usize = 8192;

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Window {
    pub(super) opened_ns: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Tally {
    pub(super) lost_entries: u64,
    pub(super) lost_stacks: u64,
    pub(super) calls: u64,
    pub(super) samples: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Inside {
    pub(super) since_ns: u64,
    pub(super) call: u32,
    pub(super) limit: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(C)]
pub(super) struct PollKey {
    pub(super) tid: u32,
    pub(super) call: u32,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Poll {
    pub(super) returns: u64,
    pub(super) empty: u64,
    pub(super) failed: u64,
    pub(super) partial: u64,
    pub(super) zero: u64,
    pub(super) brief: u64,
    pub(super) lengthy: u64,
    pub(super) unlimited: u64,
    pub(super) inside_ns: u64,
    pub(super) place: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct ReadyKey {
    pub(super) data: u64,
    pub(super) tid: u32,
    pub(super) epfd: i32,
}

impl std::ops::AddAssign for Poll {
    /// Where it was last polled from stands for all.
    fn add_assign(&mut self, other: Self) {
        *self = Self {
            returns: self.returns + other.returns,
            empty: self.empty + other.empty,
            failed: self.failed + other.failed,
            partial: self.partial + other.partial,
            zero: self.zero + other.zero,
            brief: self.brief + other.brief,
            lengthy: self.lengthy + other.lengthy,
            unlimited: self.unlimited + other.unlimited,
            inside_ns: self.inside_ns + other.inside_ns,
            place: if other.place == 0 { self.place } else { other.place },
        };
    }
}

/// [`ReadyKey::epfd`] of `poll`.
pub(super) const BY_POLL: i32 = -1;
/// [`ReadyKey::epfd`] of `select`.
pub(super) const BY_SELECT: i32 = -2;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Ready {
    pub(super) times: u64,
    pub(super) events: u64,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Use {
    pub(super) used: u64,
    pub(super) ends: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub(super) struct CallKey {
    pub(super) tid: u32,
    pub(super) number: u16,
    pub(super) error: u16,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct FailureKey {
    pub(super) number: u16,
    pub(super) error: u16,
    pub(super) unused: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Failure {
    pub(super) place: u64,
    pub(super) count: u64,
    pub(super) fd: i32,
    pub(super) tid: u32,
    pub(super) peer: [u8; 32],
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Opened {
    pub(super) place: u64,
    pub(super) at_ns: u64,
    pub(super) number: u32,
    pub(super) tid: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub(super) struct SampleKey {
    pub(super) place: u64,
    pub(super) tid: u32,
    pub(super) unused: u32,
}

macro_rules! pod {
    ($($name:ty),*) => { $(
        #[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
        // SAFETY: integers and arrays of them only, laid out without padding.
        unsafe impl Pod for $name {}
    )* };
}

pod!(Window, Tally, Inside, PollKey, Poll, ReadyKey, Ready, Use, CallKey, FailureKey, Failure, Opened, SampleKey);

/// Takes integers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.u64()?;
        }
        Some(words)
    }

    const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A place that was met for the first time, with the top of its stack.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Snapshot<'a> {
    pub(super) place: u64,
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    /// By frame pointers, as the kernel walks them; the first 0 ends them.
    pub(super) frames: [u64; FRAMES],
    /// From `sp` on.
    pub(super) stack: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// `None` where the bytes are too few.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (place, ip, sp, bp) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let (_unused, length) = (reader.u32()?, reader.u32()?);
        let frames = reader.words()?;
        let stack = reader.rest().get(..STACK)?;
        let stack = stack.get(..usize::try_from(length).ok()?)?;
        Some(Self { place, ip, sp, bp, frames, stack })
    }
}

/// A thread, as the iterator tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SeenThread {
    pub(super) tid: u32,
    /// The kernel's `__state`; 0 is running or ready.
    pub(super) state: u32,
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    /// The system call it is in, or -1 and others where it is in none. Of a running thread it means nothing.
    pub(super) call: u64,
    pub(super) args: [u64; 6],
    pub(super) voluntary: u64,
    pub(super) involuntary: u64,
    pub(super) name: [u8; 16],
}

impl SeenThread {
    /// The size of one in the iterator's output.
    pub(super) const BYTES: usize = 8 + 8 * 4 + 8 * 6 + 8 * 2 + 16;

    /// `None` where the bytes are too few.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            tid: reader.u32()?,
            state: reader.u32()?,
            ip: reader.u64()?,
            sp: reader.u64()?,
            bp: reader.u64()?,
            call: reader.u64()?,
            args: reader.words()?,
            voluntary: reader.u64()?,
            involuntary: reader.u64()?,
            name: reader.take()?,
        })
    }

    /// Its name; what is no UTF-8 is replaced.
    pub(super) fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(self.name.get(..end).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
            if let Some(snapshot) = Snapshot::parse(&bytes) {
                prop_assert!(snapshot.stack.len() <= STACK);
            }
            let thread = SeenThread::parse(&bytes);
            prop_assert_eq!(thread.is_some(), bytes.len() >= SeenThread::BYTES);
            if let Some(thread) = thread {
                prop_assert!(thread.name().chars().count() <= 16);
            }
        }
    }

    #[test]
    fn a_snapshot_says_how_long_its_stack_is() {
        let mut bytes = vec![0; 32 + 8 + FRAMES * 8 + STACK];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[36..40].copy_from_slice(&100_u32.to_ne_bytes());
        let snapshot = Snapshot::parse(&bytes).unwrap();
        assert_eq!((snapshot.place, snapshot.stack.len()), (7, 100));
        bytes[36..40].copy_from_slice(&8193_u32.to_ne_bytes());
        assert_eq!(Snapshot::parse(&bytes), None);
    }
}
