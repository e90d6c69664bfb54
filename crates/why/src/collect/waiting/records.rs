//! What the BPF program and this side share: the structs of `waiting.bpf.c`, field for field.

use aya::Pod;

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
