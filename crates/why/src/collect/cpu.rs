//! Processor time and memory: what the process used, and what kept it from using more.

mod groups;

use std::{cmp::Reverse, fs};

use self::groups::Group;
use super::{
    Target,
    fds::Readings,
    stat::{self, Stat},
    window::{self, Overlap},
};
use crate::observation::{Cpu, Hidden, Throttling};

/// Collects [`Cpu`].
#[derive(Debug)]
pub struct Collector {
    target: Target,
    first: Overlap<First>,
    last: Stat,
    groups: Vec<Group>,
    affinity: Option<u32>,
    pressure_us: Option<u64>,
    rss: Readings,
}

/// When a window began.
#[derive(Clone, Debug)]
struct First {
    stat: Stat,
    pressure_us: Option<u64>,
}

impl Collector {
    /// The first look.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn attach(target: &Target) -> Result<Self, Hidden> {
        let first = read(target).ok_or_else(|| Hidden {
            what: "processor time".to_owned(),
            why: format!("/proc/{}/stat cannot be read", target.pid()),
            how: "watch a process that runs".to_owned(),
        })?;
        let cgroup = target.read_text("cgroup", 64 * 1024).unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let pressure_us = pressure_us();
        let mut this = Self {
            target: target.clone(),
            last: first.clone(),
            first: Overlap::new(First { stat: first, pressure_us }),
            groups: groups::of(&cgroup, &mounts),
            affinity: None,
            pressure_us,
            rss: Readings::default(),
        };
        this.look(0);
        Ok(this)
    }

    /// Another look.
    pub fn look(&mut self, at_us: u64) {
        let Some(stat) = read(&self.target) else { return };
        // One that has ended has no memory any more, which is no reading.
        if !stat.has_ended() {
            self.rss.push(at_us, stat.rss_pages.saturating_mul(rustix::param::page_size() as u64));
        }
        self.last = stat;
        self.groups.iter_mut().for_each(Group::look);
        self.pressure_us = pressure_us().or(self.pressure_us);
        let status = self.target.read_text("status", 16 * 1024).ok();
        self.affinity = status.as_deref().and_then(parse_affinity).or(self.affinity);
    }

    /// Another window begins. What was read before `begin_us`, when the one that is shown now began, is forgotten.
    pub(super) fn turn(&mut self, begin_us: u64) {
        self.first.turn(First { stat: self.last.clone(), pressure_us: self.pressure_us });
        self.groups.iter_mut().for_each(Group::turn);
        window::forget(&mut self.rss.readings, begin_us);
    }

    /// Processor time that the process has ever used.
    pub(super) fn used_us(&self) -> u64 {
        stat::ticks_us(self.last.user_ticks.saturating_add(self.last.system_ticks))
    }

    /// What was seen in a window that began at `begin_us`. How long threads waited for a processor is theirs to say.
    #[must_use]
    pub fn observed(&self, begin_us: u64) -> Cpu {
        let first = self.first.shown();
        let ticks = |of: fn(&Stat) -> u64| stat::ticks_us(of(&self.last).saturating_sub(of(&first.stat)));
        let quota = self.groups.iter().filter_map(Group::processors).fold(f64::INFINITY, f64::min);
        let affinity = self.affinity.map_or(f64::INFINITY, f64::from);
        let processors = quota.min(affinity);
        Cpu {
            user_us: ticks(|stat| stat.user_ticks),
            system_us: ticks(|stat| stat.system_ticks),
            runqueue_us: None,
            // Neither was there to read: all that the watcher has.
            processors: if processors.is_finite() { processors } else { own_processors() },
            throttling: self.throttling(),
            pressure_us: first.pressure_us.zip(self.pressure_us).map(|(first, last)| last.saturating_sub(first)),
            rss_bytes: window::since(self.rss.readings.clone(), begin_us),
            hot: None,
            samples: 0,
        }
    }

    /// Of the group that took the most away; when none did, of that with the smallest quota.
    fn throttling(&self) -> Option<Throttling> {
        let bounded = self.groups.iter().filter_map(|group| Some((group.processors()?, group.throttling())));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousandths of processors")]
        let rank = |(processors, throttling): &(f64, Throttling)| {
            (throttling.throttled_us, throttling.throttled_periods, Reverse((processors * 1000.0) as u64))
        };
        bounded.max_by_key(rank).map(|(_, throttling)| throttling)
    }
}

fn read(target: &Target) -> Option<Stat> {
    stat::parse(&target.read_text("stat", 4096).ok()?)
}

#[expect(clippy::cast_precision_loss, reason = "a number of processors")]
fn own_processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

fn pressure_us() -> Option<u64> {
    parse_pressure(&fs::read_to_string("/proc/pressure/cpu").ok()?)
}

/// The time for which some task waited.
fn parse_pressure(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

/// How many processors `Cpus_allowed_list` of `status` names: `0-3,8`.
fn parse_affinity(status: &str) -> Option<u32> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').try_fold(0_u32, |sum, range| sum.checked_add(count(range)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_and_totals() {
        assert_eq!(parse_affinity("Name:\tx\nCpus_allowed_list:\t0-3,8\n"), Some(5));
        assert_eq!(parse_affinity("Cpus_allowed_list:\t3-0\n"), None);
        assert_eq!(parse_pressure("some avg10=0.19 avg60=3.79 avg300=5.50 total=66219\nfull total=0"), Some(66_219));
    }

    proptest! {
        #[test]
        fn garbage_counts_nothing(text in "\\PC*", list in "[0-9,-]*") {
            let _ = (parse_pressure(&text), parse_affinity(&format!("Cpus_allowed_list:{list}")));
        }
    }
}
