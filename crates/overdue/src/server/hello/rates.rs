//! How often a source may come, and how often it has failed, in a table of a fixed size.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::server::Source;

/// So many within such a time, all at once or spread over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// At least one, in at least a millisecond.
    #[must_use]
    pub fn new(count: u32, per: Duration) -> Self {
        Self { count: count.max(1), per: per.max(Duration::from_millis(1)) }
    }

    /// What one costs.
    fn each(self) -> Duration {
        self.per / self.count
    }
}

/// How much of a rate is used up: the instant at which nothing of it will be.
#[derive(Clone, Copy, Debug, Default)]
struct Used(Option<Instant>);

impl Used {
    fn is_up(self, rate: Rate, now: Instant) -> bool {
        let used = self.0.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        used + rate.each() > rate.per
    }

    fn take(&mut self, rate: Rate, now: Instant) {
        let until = self.0.map_or(now, |until| until.max(now)) + rate.each();
        self.0 = Some(until.min(now + rate.per));
    }
}

/// What was counted of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SourceCounts {
    /// Hellos, good and bad.
    pub hellos: u64,
    /// Of these: turned away.
    pub rejected: u64,
    /// Handshakes that began and failed.
    pub failed: u64,
}

#[derive(Default)]
struct Entry {
    counts: SourceCounts,
    hellos: Used,
    failures: Used,
}

/// What is known of sources. It holds no more than so many of them: when it is full, those that were not seen for the
/// longest half of its time are forgotten, so that many sources cannot fill memory.
pub(super) struct Sources {
    half: usize,
    recent: HashMap<Source, Entry>,
    older: HashMap<Source, Entry>,
}

impl Sources {
    pub(super) fn new(most: usize) -> Self {
        Self { half: (most / 2).max(1), recent: HashMap::new(), older: HashMap::new() }
    }

    fn entry(&mut self, source: Source) -> &mut Entry {
        let Self { half, recent, older } = self;
        let known = (!recent.contains_key(&source)).then(|| older.remove(&source).unwrap_or_default());
        if known.is_some() && recent.len() >= *half {
            *older = std::mem::take(recent);
        }
        recent.entry(source).or_insert_with(|| known.unwrap_or_default())
    }

    /// Counts a hello. False where there are too many.
    pub(super) fn hello(&mut self, source: Source, rate: Option<Rate>, now: Instant) -> bool {
        let entry = self.entry(source);
        entry.counts.hellos += 1;
        let Some(rate) = rate else { return true };
        if entry.hellos.is_up(rate, now) {
            return false;
        }
        entry.hellos.take(rate, now);
        true
    }

    /// Whether it has failed too often.
    pub(super) fn fails_too_often(&mut self, source: Source, rate: Option<Rate>, now: Instant) -> bool {
        rate.is_some_and(|rate| self.entry(source).failures.is_up(rate, now))
    }

    pub(super) fn rejected(&mut self, source: Source) {
        self.entry(source).counts.rejected += 1;
    }

    pub(super) fn failed(&mut self, source: Source, rate: Option<Rate>, now: Instant) {
        let entry = self.entry(source);
        entry.counts.failed += 1;
        if let Some(rate) = rate {
            entry.failures.take(rate, now);
        }
    }

    /// Those with the most rejections and failures, first.
    pub(super) fn worst(&self, most: usize) -> Vec<(Source, SourceCounts)> {
        let all = self.recent.iter().chain(&self.older);
        let mut all: Vec<_> = all.map(|(source, entry)| (*source, entry.counts)).collect();
        all.sort_unstable_by_key(|(source, counts)| (std::cmp::Reverse(counts.rejected + counts.failed), *source));
        all.truncate(most);
        all
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::clock;

    fn source(n: u32) -> Source {
        Source::from(IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    #[test]
    fn a_rate_lets_so_many_through_and_then_one_at_a_time() {
        let (mut sources, now) = (Sources::new(8), clock::now());
        let rate = Some(Rate::new(4, Duration::from_secs(1)));
        let at = |ms| now + Duration::from_millis(ms);
        let allowed = (0..10).filter(|_| sources.hello(source(1), rate, at(0))).count();
        assert_eq!(allowed, 4);
        assert!(sources.hello(source(2), rate, at(0)), "another source has a rate of its own");
        assert!(!sources.hello(source(1), rate, at(249)));
        assert!(sources.hello(source(1), rate, at(250)));
        assert!(!sources.hello(source(1), rate, at(250)));
        assert_eq!((0..10).filter(|_| sources.hello(source(1), rate, at(60_000))).count(), 4);
        assert_eq!(sources.worst(9).iter().find(|(s, _)| *s == source(1)).unwrap().1.hellos, 23);
    }

    #[test]
    fn failures_close_the_door_for_a_while() {
        let (mut sources, now) = (Sources::new(8), clock::now());
        let rate = Some(Rate::new(2, Duration::from_secs(1)));
        assert!(!sources.fails_too_often(source(1), rate, now));
        sources.failed(source(1), rate, now);
        assert!(!sources.fails_too_often(source(1), rate, now));
        for _ in 0..50 {
            sources.failed(source(1), rate, now);
        }
        assert!(sources.fails_too_often(source(1), rate, now));
        // However many there were: no longer than the time of the rate.
        assert!(!sources.fails_too_often(source(1), rate, now + Duration::from_secs(1)));
    }

    #[test]
    fn the_table_stays_small_and_forgets_who_is_gone_first() {
        let (mut sources, now) = (Sources::new(1_000), clock::now());
        for n in 0..100_000 {
            sources.hello(source(n), None, now);
            // One that comes all the time is never forgotten.
            sources.hello(source(u32::MAX), None, now);
        }
        assert!(sources.len() <= 1_000, "{}", sources.len());
        let counts = sources.entry(source(u32::MAX)).counts;
        assert_eq!(counts.hellos, 100_000);
    }
}
