//! Whose deadline comes next.

use std::{collections::BTreeSet, time::Instant};

use super::slots::Token;

/// Tokens by the instant at which they want to be looked at: one entry each at most, O(log n) for everything.
///
/// Deadlines move later far more often than they fire, and that costs nothing here: the entry stays where it is, and
/// who is handed out too early is put back.
#[derive(Default)]
pub(super) struct Queue(BTreeSet<(Instant, Token)>);

/// The entry of one token. It belongs to one queue.
#[derive(Default, Debug)]
pub(super) struct Armed(Option<Instant>);

impl Queue {
    /// Has `token` handed out at `at` or before.
    pub(super) fn arm(&mut self, armed: &mut Armed, token: Token, at: Instant) {
        if armed.0.is_none_or(|earlier| at < earlier) {
            self.disarm(armed, token);
            self.0.insert((at, token));
            armed.0 = Some(at);
        }
    }

    /// Has `token` not handed out any more.
    pub(super) fn disarm(&mut self, armed: &mut Armed, token: Token) {
        if let Some(at) = armed.0.take() {
            self.0.remove(&(at, token));
        }
    }

    /// When somebody is to be handed out.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The earliest of those whose time has come. Its entry is to be [told](Armed::handed_out).
    pub(super) fn pop(&mut self, now: Instant) -> Option<Token> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, token)| token)
    }
}

impl Armed {
    pub(super) fn handed_out(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "some instant to count from")]

    use std::{collections::HashMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u64, u64),
        Disarm(u64),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..8, 0_u64..50).prop_map(|(who, after)| Step::Arm(who, after)),
            1 => (0_u64..8).prop_map(Step::Disarm),
            2 => (0_u64..20).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn nobody_is_late_nobody_comes_uncalled_and_the_earliest_comes_first(steps in prop::collection::vec(step(), 1..200)) {
            let start = Instant::now();
            let mut now = start;
            let mut queue = Queue::default();
            let mut entries: HashMap<Token, Armed> = HashMap::new();
            // The earliest instant asked for since it was last handed out.
            let mut wanted: HashMap<Token, Instant> = HashMap::new();
            for step in steps {
                match step {
                    Step::Arm(who, after) => {
                        let (token, at) = (Token::from_u64(who), now + Duration::from_millis(after));
                        queue.arm(entries.entry(token).or_default(), token, at);
                        let earliest = wanted.entry(token).or_insert(at);
                        *earliest = at.min(*earliest);
                    }
                    Step::Disarm(who) => {
                        let token = Token::from_u64(who);
                        queue.disarm(entries.entry(token).or_default(), token);
                        wanted.remove(&token);
                    }
                    Step::Advance(ms) => now += Duration::from_millis(ms),
                }
                prop_assert_eq!(queue.next(), wanted.values().min().copied());
                let mut last = start;
                while let Some(token) = queue.pop(now) {
                    entries.get_mut(&token).unwrap().handed_out();
                    let at = wanted.remove(&token);
                    prop_assert!(at.is_some_and(|at| last <= at && at <= now), "{token:?} at {at:?}");
                    last = at.unwrap();
                }
                prop_assert!(wanted.values().all(|at| *at > now), "somebody was forgotten");
                prop_assert_eq!(queue.0.len(), wanted.len());
            }
        }
    }
}
