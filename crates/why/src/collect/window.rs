//! Windows that overlap: what is counted is counted for two of them.

use crate::observation::Reading;

/// Something that is counted from the beginning of a window on: for the window that is shown, and for the one that will
/// be shown after it. That one begins while the other still goes on, so that what is shown is never of a short time.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlap<T> {
    shown: T,
    next: T,
}

impl<T: Clone> Overlap<T> {
    /// New in both windows.
    pub(super) fn new(first: T) -> Self {
        Self { shown: first.clone(), next: first }
    }

    /// Of the window that is shown.
    pub(super) const fn shown(&self) -> &T {
        &self.shown
    }

    /// Of both windows: to count something in each.
    pub(super) fn both(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.shown, &mut self.next].into_iter()
    }

    /// Another window begins with `fresh`; the one that has begun before is shown from now on.
    pub(super) fn turn(&mut self, fresh: T) {
        self.shown = std::mem::replace(&mut self.next, fresh);
    }
}

/// Drops what was read before `begin_us`, but for the last of it: so it was when a window began then.
pub(super) fn forget(readings: &mut Vec<Reading>, begin_us: u64) {
    let before = readings.partition_point(|reading| reading.at_us <= begin_us);
    readings.drain(..before.saturating_sub(1));
}

/// What was read in a window that began at `begin_us`, in times of that window.
pub(super) fn since(mut readings: Vec<Reading>, begin_us: u64) -> Vec<Reading> {
    forget(&mut readings, begin_us);
    readings.iter_mut().for_each(|reading| reading.at_us = reading.at_us.saturating_sub(begin_us));
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_with_what_was_true_then() {
        let reading = |at_us, value| Reading { at_us, value };
        let mut open: Vec<Reading> = [0, 250, 500, 750, 1000].map(|at| reading(at, at / 10)).into();
        assert_eq!(since(open.clone(), 600), [reading(0, 50), reading(150, 75), reading(400, 100)]);
        forget(&mut open, 600);
        assert_eq!(open.len(), 3);
        assert_eq!(since(open.clone(), 750), [reading(0, 75), reading(250, 100)]);
        assert_eq!(since(open, 5000), [reading(0, 100)]);
    }

    #[test]
    fn a_window_is_shown_when_the_next_begins() {
        let mut seen: Overlap<Vec<u32>> = Overlap::new(Vec::new());
        let mut at = 0;
        let mut shown = Vec::new();
        for _ in 0..4 {
            for _ in 0..2 {
                seen.both().for_each(|window| window.push(at));
                at += 1;
            }
            shown.push(seen.shown().clone());
            seen.turn(Vec::new());
        }
        assert_eq!(shown, [vec![0, 1], vec![0, 1, 2, 3], vec![2, 3, 4, 5], vec![4, 5, 6, 7]]);
    }
}
