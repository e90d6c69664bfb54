use serde::{Deserialize, Serialize};

use super::{Reading, Stack};

/// Processor and memory.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// In user mode, over the window, all threads.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
    /// Ready to run without a processor, all threads, where the kernel counts it.
    pub runqueue_us: Option<u64>,
    /// Processors that it may use: its affinity, and the quota of its control groups.
    pub processors: f64,
    /// What its control groups took away.
    pub throttling: Option<Throttling>,
    /// Pressure of the whole machine: how much of the window some task waited for a processor, where it is counted.
    pub pressure_us: Option<u64>,
    /// Resident memory over time.
    pub rss_bytes: Vec<Reading>,
    /// Where it computes, by samples, the most first. `None` where nobody looked.
    pub hot: Option<Vec<HotStack>>,
    /// All samples behind `hot`.
    pub samples: u64,
}

impl Cpu {
    /// Processor time of all threads over the window.
    #[must_use]
    pub const fn used_us(&self) -> u64 {
        self.user_us.saturating_add(self.system_us)
    }
}

/// A quota of processor time, over the window.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Throttling {
    /// The control group whose quota it is.
    pub group: String,
    /// What may be used in each period.
    pub quota_us: Option<u64>,
    /// The period.
    pub period_us: Option<u64>,
    /// Periods that went by with something to run.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time that was taken away, all processors together.
    pub throttled_us: u64,
}

/// A place where it computes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HotStack {
    /// Where.
    pub stack: Stack,
    /// The thread's name.
    pub thread: String,
    /// Samples.
    pub samples: u64,
}
