//! Places: stacks that programs in the kernel name by a hash, and send once (`bpf/places.bpf.h`).

use std::collections::{HashMap, HashSet};

use aya::maps::{MapData, RingBuf};

use super::{Registers, StackId, Stacks};
use crate::collect::bytes::Reader;

/// How many frames by frame pointers come with a snapshot.
const FRAMES: usize = 24;
/// The top of a stack: the rest of a page and another page.
const STACK: usize = 8192;

/// The stacks behind the names that the kernel's half gives.
pub(crate) struct Places {
    snapshots: RingBuf<MapData>,
    stacks: HashMap<u64, StackId>,
}

impl Places {
    /// Of the ring that the snapshots come through.
    pub(crate) fn new(snapshots: RingBuf<MapData>) -> Self {
        Self { snapshots, stacks: HashMap::new() }
    }

    /// Unwinds the stacks that came.
    pub(crate) fn drain(&mut self, stacks: &mut Stacks) {
        stacks.begin();
        while let Some(item) = self.snapshots.next() {
            let Some(snapshot) = Snapshot::parse(&item) else { continue };
            let Snapshot { ip, sp, bp, .. } = snapshot;
            let stack = if snapshot.stack.is_empty() {
                stacks.by_addresses(&snapshot.frames)
            } else {
                stacks.unwind(Registers { ip, sp, bp }, snapshot.stack)
            };
            if let Some(stack) = stack {
                self.stacks.insert(snapshot.place, stack);
            }
        }
    }

    /// The stack of a place, where it came.
    pub(crate) fn get(&self, place: u64) -> Option<StackId> {
        self.stacks.get(&place).copied()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.stacks.len()
    }

    /// Their stacks.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.stacks.values().copied()
    }

    /// Forgets all others.
    pub(crate) fn retain(&mut self, wanted: &HashSet<u64>) {
        self.stacks.retain(|place, _| wanted.contains(place));
    }

    /// A name for a stack that this side has unwound. The kernel's half gives odd ones only.
    pub(crate) fn enter(&mut self, stack: StackId) -> u64 {
        let place = (u64::from(stack.0) + 1) << 1;
        self.stacks.insert(place, stack);
        place
    }
}

/// A place that was met for the first time, with the top of its stack.
#[derive(PartialEq, Eq, Debug)]
struct Snapshot<'a> {
    place: u64,
    ip: u64,
    sp: u64,
    bp: u64,
    /// By frame pointers, as the kernel walks them; the first 0 ends them.
    frames: [u64; FRAMES],
    /// From `sp` on.
    stack: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// `None` where the bytes are too few.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (place, ip, sp, bp) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let (_unused, length) = (reader.u32()?, reader.u32()?);
        let frames = reader.words()?;
        let stack = reader.rest().get(..STACK)?;
        let stack = stack.get(..usize::try_from(length).ok()?)?;
        Some(Self { place, ip, sp, bp, frames, stack })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_sides_mean_the_same() {
        let theirs = crate::collect::bpf::constants::of(include_str!("../bpf/places.bpf.h"));
        assert_eq!((theirs["FRAMES"], 2 * theirs["PAGE"]), (24, 8192));
        assert_eq!((FRAMES, STACK), (24, 8192));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
            if let Some(snapshot) = Snapshot::parse(&bytes) {
                prop_assert!(snapshot.stack.len() <= STACK);
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
