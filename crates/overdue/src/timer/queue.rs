//! Instants in order, with what waits for each.
//!
//! A heap with four branches whose entries know their place in it, so that one that is no longer needed leaves at once:
//! nearly every deadline is dropped long before it comes. The usual entry is later than all others and never moves.

use std::time::Instant;

use slab::Slab;

pub(super) struct Queue<T> {
    heap: Vec<Due>,
    entries: Slab<Entry<T>>,
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    key: usize,
}

struct Entry<T> {
    /// The index in the heap; [`RUNG`] once the instant has come.
    place: usize,
    value: T,
}

const RUNG: usize = usize::MAX;
const BRANCHES: usize = 4;
/// Room for so many entries is kept when there are none.
const KEEP: usize = 1024;

impl<T> Queue<T> {
    pub(super) const fn new() -> Self {
        Self { heap: Vec::new(), entries: Slab::new() }
    }

    /// The earliest instant that has not rung.
    pub(super) fn first(&self) -> Option<Instant> {
        self.heap.first().map(|due| due.at)
    }

    /// Adds an entry. It stays, rung or not, until it is [removed](Self::remove), so that its key is nobody else's.
    pub(super) fn insert(&mut self, at: Instant, value: T) -> usize {
        let place = self.heap.len();
        let key = self.entries.insert(Entry { place, value });
        self.heap.push(Due { at, key });
        self.rise(place);
        key
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<T> {
        let entry = self.entries.try_remove(key)?;
        if entry.place != RUNG {
            self.leave(entry.place);
        }
        if self.entries.is_empty() && self.entries.capacity() > KEEP {
            *self = Self::new();
        }
        Some(entry.value)
    }

    pub(super) fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Rings the earliest entry, if its instant has come.
    pub(super) fn ring(&mut self, now: Instant) -> Option<&mut T> {
        let due = *self.heap.first().filter(|due| due.at <= now)?;
        self.leave(0);
        let entry = self.entries.get_mut(due.key)?;
        entry.place = RUNG;
        Some(&mut entry.value)
    }

    /// All entries, rung or not.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, entry)| &mut entry.value)
    }

    /// Takes what is at `place` out of the heap.
    fn leave(&mut self, place: usize) {
        self.heap.swap_remove(place);
        if place < self.heap.len() && !self.rise(place) {
            self.sink(place);
        }
    }

    /// Moves what is at `place` before all that is later. Returns whether it moved.
    fn rise(&mut self, mut place: usize) -> bool {
        let begin = place;
        let Some(&due) = self.heap.get(place) else { return false };
        while place > 0 {
            let above = (place - 1) / BRANCHES;
            match self.heap.get(above) {
                Some(&other) if due.at < other.at => self.put(place, other),
                _ => break,
            }
            place = above;
        }
        if place != begin {
            self.put(place, due);
        }
        place != begin
    }

    /// Moves what is at `place` behind all that is earlier.
    fn sink(&mut self, mut place: usize) {
        let Some(&due) = self.heap.get(place) else { return };
        loop {
            let below = place * BRANCHES + 1;
            let earliest = (below..self.heap.len().min(below + BRANCHES))
                .filter_map(|place| Some((self.heap.get(place)?, place)))
                .min_by_key(|(due, _)| due.at);
            match earliest {
                Some((&other, lower)) if other.at < due.at => {
                    self.put(place, other);
                    place = lower;
                }
                _ => break,
            }
        }
        self.put(place, due);
    }

    fn put(&mut self, place: usize, due: Due) {
        if let Some(here) = self.heap.get_mut(place) {
            *here = due;
        }
        if let Some(entry) = self.entries.get_mut(due.key) {
            entry.place = place;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "some instant to count from")]

    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(usize),
        Ring(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u64..100).prop_map(Step::Insert),
            2 => (0_usize..64).prop_map(Step::Remove),
            1 => (0_u64..100).prop_map(Step::Ring),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_list_does(steps in steps()) {
            let start = Instant::now();
            let at = |ms| start + Duration::from_millis(ms);
            let mut queue = Queue::new();
            // By serial number: key, instant and whether it has rung.
            let mut model = BTreeMap::<usize, (usize, u64, bool)>::new();
            for (serial, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(ms) => {
                        let key = queue.insert(at(ms), serial);
                        prop_assert!(model.values().all(|(other, ..)| *other != key), "a key that is in use");
                        model.insert(serial, (key, ms, false));
                    }
                    Step::Remove(nth) => {
                        let Some(serial) = model.keys().nth(nth % model.len().max(1)).copied() else { continue };
                        let (key, ..) = model.remove(&serial).unwrap();
                        prop_assert_eq!(queue.remove(key), Some(serial));
                        prop_assert_eq!(queue.remove(key), None);
                    }
                    Step::Ring(now) => {
                        let mut last = 0;
                        while let Some(serial) = queue.ring(at(now)) {
                            let (_, ms, rung) = model.get_mut(serial).unwrap();
                            prop_assert!(!*rung && last <= *ms && *ms <= now);
                            (last, *rung) = (*ms, true);
                        }
                        prop_assert!(model.values().all(|(_, ms, rung)| *rung || *ms > now));
                    }
                }
                let first = model.values().filter(|(.., rung)| !rung).map(|(_, ms, _)| at(*ms)).min();
                prop_assert_eq!(queue.first(), first);
                for (serial, (key, ..)) in &model {
                    prop_assert_eq!(queue.get_mut(*key).copied(), Some(*serial));
                }
            }
        }
    }

    #[test]
    fn what_a_crowd_took_is_given_back() {
        let mut queue = Queue::new();
        let now = Instant::now();
        let keys: Vec<_> = (0..10_000).map(|_| queue.insert(now, ())).collect();
        assert!(queue.ring(now).is_some());
        for key in keys {
            assert!(queue.remove(key).is_some());
        }
        assert!(queue.heap.capacity() + queue.entries.capacity() < 2 * KEEP);
    }
}
