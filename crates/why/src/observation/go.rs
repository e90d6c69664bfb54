use serde::{Deserialize, Serialize};

use super::{Reading, Stack};

/// A Go runtime, read from its memory without stopping it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Go {
    /// `go1.26.1`
    pub version: String,
    /// Goroutines over time, dead ones not counted.
    pub goroutines: Vec<Reading>,
    /// Bytes of heap in use over time.
    pub heap_bytes: Vec<Reading>,
    /// Bytes of heap that the last collection found in use, over time: grows only when more is kept, whereas the heap in
    /// use also grows until the next collection.
    pub live_bytes: Vec<Reading>,
    /// Collections since the program began, over time.
    pub collections: Vec<Reading>,
    /// Processors (`P`) that had nothing to do, over time.
    pub idle_ps: Vec<Reading>,
    /// All processors (`GOMAXPROCS`).
    pub ps: u64,
    /// Goroutines that were ready to run and waited for a `P`, over time.
    pub run_queue: Vec<Reading>,
    /// Goroutines that wait for the same thing at the same place, the most numerous first. Bounded.
    pub groups: Vec<GoroutineGroup>,
    /// Goroutines that were read one by one at the last look. Where that is fewer than there are, one of each so many was
    /// read, and the numbers of the groups are estimates.
    pub read_in_full: u64,
    /// Goroutines that could not be read, because they changed meanwhile.
    pub unreadable: u64,
}

/// Goroutines at the same place.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct GoroutineGroup {
    /// What they do.
    pub state: GoroutineState,
    /// The runtime's word for what they wait for: `chan receive`, `IO wait`, `sync.Mutex.Lock`.
    pub wait_reason: Option<String>,
    /// Where they are.
    pub stack: Stack,
    /// The function they were started by, and its line.
    pub created_by: Option<String>,
    /// How many at the first look.
    pub first: u64,
    /// How many at the last.
    pub last: u64,
    /// How many of the first are among the last: the same goroutines at the same place.
    pub stayed: u64,
    /// Where they wait at channels: at how many different ones.
    #[serde(default)]
    pub channels: Option<u64>,
    /// The longest wait among them, where the runtime noted when it began (the collector does, so not at once).
    pub oldest_wait_us: Option<u64>,
}

/// The states of a goroutine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoroutineState {
    /// Ready, waits for a processor.
    Runnable,
    /// Runs.
    Running,
    /// In a system call.
    Syscall,
    /// Waits.
    #[default]
    Waiting,
    /// Any other.
    Other,
}
