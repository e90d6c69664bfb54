//! Bounds for the watcher itself: its processor time, and its memory.

use std::{fs, time::Duration};

use crate::{
    collect::clock::{own_cpu_us, us},
    observation::Hidden,
};

/// Of one processor. Beyond it, looks become rarer.
const SHARE: f64 = 0.1;
/// So many times, at most.
const RARER_MAX: f64 = 16.0;
/// It usually holds some 40 MB; a process with 100,000 connections and threads takes more. Beyond this the watch ends.
const MEMORY_MAX: u64 = 512 << 20;

/// What the watcher has used since the watch began.
#[derive(Clone, Copy, Debug)]
pub(in crate::collect) struct OwnCost {
    before_us: u64,
}

impl OwnCost {
    /// The watch begins now: what the attaching took is over.
    pub(in crate::collect) fn begin() -> Self {
        Self { before_us: own_cpu_us() }
    }

    /// From one look to the next, so that all of them together stay within their share.
    pub(in crate::collect) fn period(&self, every: Duration, elapsed: Duration) -> Duration {
        stretched(every, own_cpu_us().saturating_sub(self.before_us), us(elapsed))
    }

    /// Why the watch has to end now, where it takes too much memory.
    pub(in crate::collect) fn too_much() -> Option<Hidden> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        too_much(pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

fn too_much(bytes: u64) -> Option<Hidden> {
    (bytes > MEMORY_MAX).then(|| Hidden {
        what: "the rest of the watch".to_owned(),
        why: format!("the watcher held {} MB, and may hold {}", bytes >> 20, MEMORY_MAX >> 20),
        how: "watch for a shorter time (`--for`): what is remembered grows with it".to_owned(),
    })
}

fn stretched(every: Duration, used_us: u64, elapsed_us: u64) -> Duration {
    // Too early to tell.
    if elapsed_us < 500_000 {
        return every;
    }
    let share = used_us as f64 / elapsed_us as f64;
    every.mul_f64((share / SHARE).clamp(1.0, RARER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_that_works_much_looks_rarely() {
        let every = Duration::from_millis(250);
        assert_eq!(stretched(every, 90_000, 1_000_000), every);
        assert_eq!(stretched(every, 400_000, 1_000_000), every * 4);
        assert_eq!(stretched(every, 9_000_000, 1_000_000), every * 16);
        assert_eq!(stretched(every, 400_000, 400_000), every);
        assert_eq!(stretched(every, 0, 0), every);
    }

    #[test]
    fn its_memory_has_an_end() {
        assert_eq!(too_much(MEMORY_MAX), None);
        assert!(too_much(MEMORY_MAX + (2 << 20)).unwrap().why.contains("514 MB"));
        assert_eq!(OwnCost::too_much(), None);
    }
}
