//! How often something may be done in a second, by all threads together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The second that is counted, and how often it was done in it: each half of the number.
pub(super) struct Allowance {
    second_and_count: AtomicU64,
    at_most: u64,
}

const COUNT: u64 = u32::MAX as u64;

impl Allowance {
    pub(super) const fn per_second(at_most: u32) -> Self {
        Self { second_and_count: AtomicU64::new(0), at_most: at_most as u64 }
    }

    /// Whether it may be done once more in this second, which is then counted.
    pub(super) fn take(&self, second: u64) -> bool {
        let second = (second & COUNT) << 32;
        let next = |now: u64| {
            if now & !COUNT != second {
                return Some(second | 1);
            }
            (now & COUNT < self.at_most).then_some(now + 1)
        };
        self.second_and_count.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own() {
        let allowance = Allowance::per_second(3);
        let taken = |second| (0..5).filter(|_| allowance.take(second)).count();
        assert_eq!([taken(7), taken(7), taken(8), taken(1 << 33)], [3, 0, 3, 3]);
    }

    #[test]
    fn threads_share_it() {
        let allowance = Allowance::per_second(100);
        let taken: usize = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| (0..1_000).filter(|_| allowance.take(9)).count()));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }
}
