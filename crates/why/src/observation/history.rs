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
    /// Processor time that it had used, since the watch began.
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
