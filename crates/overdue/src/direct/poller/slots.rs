//! Places with generations: a token never means two things.

/// A place and its generation. What it stood for is found with it until that is removed, and nothing else ever is.
///
/// Tokens are of the poller that gave them; another one's may look alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// For the kernel to carry.
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of it")]
    pub(super) fn from_u64(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// The last place is nobody's, so that a token has bits that stand for none.
const INDEX_MAX: u32 = u32::MAX - 1;

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// The token that the next [`insert`](Self::insert) gives; `None` when there is no place left.
    pub(super) fn next(&self) -> Option<Token> {
        match self.free.last() {
            Some(index) => Some(Token { index: *index, generation: self.slot(*index)?.generation }),
            None => {
                let index = u32::try_from(self.slots.len()).ok().filter(|index| *index <= INDEX_MAX)?;
                Some(Token { index, generation: 0 })
            }
        }
    }

    /// Hands the value back when there is no place left.
    pub(super) fn insert(&mut self, value: T) -> Result<Token, T> {
        let Some(token) = self.next() else { return Err(value) };
        match self.slot_mut(token.index) {
            Some(slot) => {
                slot.value = Some(value);
                self.free.pop();
            }
            None => self.slots.push(Slot { generation: token.generation, value: Some(value) }),
        }
        Ok(token)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slot_mut(token.index).filter(|slot| slot.generation == token.generation)?;
        let value = slot.value.take()?;
        // A place that has been through all generations is never used again.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(token.index);
        }
        Some(value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(super) fn get(&self, token: Token) -> Option<&T> {
        self.slot(token.index).filter(|slot| slot.generation == token.generation)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.slot_mut(token.index).filter(|slot| slot.generation == token.generation)?.value.as_mut()
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.slots.get(usize::try_from(index).ok()?)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map in which every token ever given is kept.
        #[test]
        fn a_token_means_one_thing_for_ever(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let mut slots = Slots::new();
            let mut all: Vec<Token> = Vec::new();
            let mut held: HashMap<Token, usize> = HashMap::new();
            for (inserts, which) in steps {
                if inserts || all.is_empty() {
                    let next = slots.next().unwrap();
                    let token = slots.insert(all.len()).unwrap();
                    prop_assert_eq!(token, next);
                    prop_assert_eq!(Token::from_u64(token.to_u64()), token);
                    prop_assert_eq!(held.insert(token, all.len()), None, "a token was given twice");
                    prop_assert!(!all.contains(&token), "a token came again");
                    all.push(token);
                } else {
                    let token = *which.get(&all);
                    prop_assert_eq!(slots.remove(token), held.remove(&token));
                }
                for token in &all {
                    prop_assert_eq!(slots.get(*token), held.get(token));
                    prop_assert_eq!(slots.get_mut(*token).copied(), held.get(token).copied());
                }
            }
        }
    }

    #[test]
    fn a_place_that_has_been_through_all_generations_is_left() {
        let mut slots = Slots::new();
        let first = slots.insert('a').unwrap();
        slots.slots[0].generation = u32::MAX;
        let last = Token { generation: u32::MAX, ..first };
        assert_eq!(slots.remove(last), Some('a'));
        let other = slots.insert('b').unwrap();
        assert_eq!((other.index, slots.get(first), slots.get(last)), (1, None, None));
    }

    #[test]
    fn no_token_is_the_bits_that_stand_for_none() {
        assert!(Token::from_u64(u64::MAX).index > INDEX_MAX);
    }
}
