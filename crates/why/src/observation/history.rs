use overdue_core::facts::TcpState;
use serde::{Deserialize, Serialize};

/// Looks that are kept; then every other one is dropped.
const LOOKS: usize = 256;

/// The process over time, look by look. Descriptors, memory and goroutines over time stand with theirs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// A bounded number, evenly spread: the longer the watch, the further apart. The first is always there.
    pub looks: Vec<Look>,
}

/// The process at one moment. A collector that looks more rarely tells what it saw last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Look {
    /// When.
    pub at_us: u64,
    /// Its TCP connections.
    pub tcp: Option<TcpCounts>,
    /// Its threads.
    pub threads: Option<ThreadCounts>,
    /// Processor time that it had used, since the first look.
    pub cpu_us: Option<u64>,
}

/// TCP connections of the process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TcpCounts {
    /// How many are in which state, the most first.
    pub states: Vec<(TcpState, u64)>,
    /// Bytes that arrived and nobody read, in all of them.
    pub unread_bytes: u64,
    /// Bytes written that the peers have not acknowledged, in all of them.
    pub unsent_bytes: u64,
}

/// Threads by what they do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ThreadCounts {
    /// On a processor, or ready for one.
    pub running: u64,
    /// Asleep.
    pub sleeping: u64,
    /// Asleep, cannot be interrupted: most often a disk.
    pub uninterruptible: u64,
    /// Anything else.
    pub other: u64,
}

impl ThreadCounts {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.running.saturating_add(self.sleeping).saturating_add(self.uninterruptible).saturating_add(self.other)
    }
}

impl History {
    /// Adds a look that is later than those before.
    pub fn push(&mut self, look: Look) {
        if self.looks.len() >= LOOKS {
            let mut at = 0;
            self.looks.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
        self.looks.push(look);
    }

    /// Drops what was seen before then, but for the last of it: so it was when a window began then.
    pub fn forget_before(&mut self, begin_us: u64) {
        let before = self.looks.partition_point(|look| look.at_us <= begin_us);
        self.looks.drain(..before.saturating_sub(1));
    }

    /// The part that belongs to a window that began then, in times of that window.
    #[must_use]
    pub fn since(&self, begin_us: u64) -> Self {
        let mut part = self.clone();
        part.forget_before(begin_us);
        let used_before = part.looks.first().and_then(|look| look.cpu_us);
        for look in &mut part.looks {
            look.at_us = look.at_us.saturating_sub(begin_us);
            look.cpu_us = look.cpu_us.zip(used_before).map(|(used, before)| used.saturating_sub(before));
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_with_what_was_true_then() {
        let look = |at_us, used| Look { at_us, cpu_us: Some(used), ..Look::default() };
        let history = History { looks: vec![look(0, 70), look(250, 80), look(500, 95)] };
        assert_eq!(history.since(300).looks, [look(0, 0), look(200, 15)]);
        assert_eq!(history.since(0).looks, [look(0, 0), look(250, 10), look(500, 25)]);
    }

    #[test]
    fn an_hour_is_kept_from_its_beginning_and_stays_small() {
        let mut history = History::default();
        for at_us in 0..14_400 {
            history.push(Look { at_us, ..Look::default() });
        }
        let at: Vec<u64> = history.looks.iter().map(|look| look.at_us).collect();
        assert!(at.len() > LOOKS / 2 - 1 && at.len() <= LOOKS, "{}", at.len());
        assert_eq!((at[0], at[at.len() - 1]), (0, 14_399));
        assert!(at.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
