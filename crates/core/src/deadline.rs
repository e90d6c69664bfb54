//! Deadlines: an instant, and the limit that made it.

use std::time::{Duration, Instant};

use crate::Limit;

/// Further away than any limit that means something, near enough that an [`Instant`] can hold it.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

/// An instant after which work must stop, the limit that made that instant, and, when an outer deadline came
/// earlier, the limit that was asked for and cut.
///
/// ```
/// use std::time::{Duration, Instant};
/// use overdue_core::{Deadline, Limit, Stage};
///
/// let now = Instant::now();
/// let call = Deadline::after(now, Limit::total(Duration::from_millis(200)));
/// let tls = Deadline::after(now, Limit::stage(Stage::Tls, Duration::from_secs(5))).clipped(Some(&call));
///
/// assert_eq!(tls.at(), call.at());
/// assert_eq!(tls.limit().name.as_str(), "total"); // what fires
/// assert_eq!(tls.asked().name.as_str(), "tls"); // what was asked for
/// assert_eq!(tls.clipped_by(), Some(call.limit()));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deadline {
    at: Instant,
    limit: Limit,
    cut: Option<Limit>,
}

impl Deadline {
    /// The deadline of a limit that starts to count at `now`.
    #[must_use]
    pub fn after(now: Instant, limit: Limit) -> Self {
        let at = now.checked_add(limit.value.min(FAR)).unwrap_or(now);
        Self { at, limit, cut: None }
    }

    /// A deadline at a given instant.
    #[must_use]
    pub const fn at_instant(at: Instant, limit: Limit) -> Self {
        Self { at, limit, cut: None }
    }

    /// The earlier of this deadline and `outer`. When `outer` is earlier, its limit is the one that will fire, and
    /// this one's is remembered as cut. At the same instant the inner one fires: it says more.
    #[must_use]
    pub fn clipped(self, outer: Option<&Self>) -> Self {
        match outer {
            Some(outer) if outer.at < self.at => {
                Self { at: outer.at, limit: outer.limit.clone(), cut: Some(self.cut.unwrap_or(self.limit)) }
            }
            _ => self,
        }
    }

    /// The instant.
    #[must_use]
    pub const fn at(&self) -> Instant {
        self.at
    }

    /// The limit that fires at [`at`](Self::at): the earliest of all.
    #[must_use]
    pub const fn limit(&self) -> &Limit {
        &self.limit
    }

    /// The limit that was asked for here: [`limit`](Self::limit), unless an outer one cut it.
    #[must_use]
    pub fn asked(&self) -> &Limit {
        self.cut.as_ref().unwrap_or(&self.limit)
    }

    /// The outer limit that cut the one asked for here, if one did. It may never fire.
    #[must_use]
    pub fn clipped_by(&self) -> Option<&Limit> {
        self.cut.as_ref().map(|_| &self.limit)
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// True from the instant on.
    #[must_use]
    pub fn passed(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// How long ago it passed; zero while it has not.
    #[must_use]
    pub fn late_by(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "some instant to count from")]

    use super::*;
    use crate::{LimitName, Limits, Stage};
    use proptest::prelude::*;

    fn stage(ms: u64) -> Limit {
        Limit::stage(Stage::Connect, Duration::from_millis(ms))
    }

    #[test]
    fn the_innermost_wins_a_tie() {
        let now = Instant::now();
        let outer = Deadline::after(now, Limit::total(Duration::from_millis(5)));
        let inner = Deadline::after(now, stage(5)).clipped(Some(&outer));
        assert_eq!(inner.limit().name.as_str(), "connect");
        assert_eq!(inner.clipped_by(), None);
    }

    #[test]
    fn endless_limits_do_not_overflow() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Limit::total(Duration::MAX));
        assert!(deadline.remaining(now) > Duration::from_secs(86_400));
    }

    #[test]
    fn clipping_twice_keeps_the_limit_that_was_asked_for() {
        let now = Instant::now();
        let call = Deadline::after(now, Limit::total(Duration::from_millis(50)));
        let attempt = Deadline::after(now, Limit::new(LimitName::Attempt, Duration::from_millis(80)));
        let tls = Deadline::after(now, Limit::stage(Stage::Tls, Duration::from_secs(5)));
        let fires = tls.clone().clipped(Some(&attempt)).clipped(Some(&call));
        assert_eq!((fires.asked(), fires.limit()), (tls.limit(), call.limit()));
        // The attempt was clipped first: what the stage meets is the call's limit all the same.
        assert_eq!(tls.clipped(Some(&attempt.clipped(Some(&call)))), fires);
    }

    #[test]
    fn a_deadline_is_late_only_after_it_passed() {
        let now = Instant::now();
        let deadline = Deadline::after(now, stage(5));
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!([4, 5, 7].map(|ms| deadline.passed(at(ms))), [false, true, true]);
        assert_eq!([4, 5, 7].map(|ms| deadline.late_by(at(ms)).as_millis()), [0, 0, 2]);
        assert_eq!([4, 5, 7].map(|ms| deadline.remaining(at(ms)).as_millis()), [1, 0, 0]);
    }

    proptest! {
        #[test]
        fn the_earliest_of_nested_limits_fires_under_its_own_name(chain in prop::collection::vec(0_u64..20, 1..=10)) {
            let now = Instant::now();
            let limits: Vec<_> = chain
                .iter()
                .zip(Limits::NAMES)
                .map(|(ms, name)| Limit::new(name, Duration::from_millis(*ms)))
                .collect();
            let mut outer: Option<Deadline> = None;
            for limit in &limits {
                outer = Some(Deadline::after(now, limit.clone()).clipped(outer.as_ref()));
            }
            let deadline = outer.unwrap();
            // Of equals the innermost, which is the last.
            let earliest = limits.iter().rev().min_by_key(|limit| limit.value).unwrap();
            let asked = limits.last().unwrap();
            prop_assert_eq!(deadline.limit(), earliest);
            prop_assert_eq!(deadline.remaining(now), earliest.value);
            prop_assert_eq!(deadline.asked(), asked);
            prop_assert_eq!(deadline.clipped_by(), (asked.value > earliest.value).then_some(earliest));
        }
    }
}
