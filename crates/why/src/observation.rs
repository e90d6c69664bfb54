//! What was seen of one process in one window: plain data, the judge's input and the content of a recording.
//!
//! A field that is `None`, or a table that is absent, was not observed; that is not the same as zero, and no rule
//! treats it as zero. Why it is absent stands in [`Observation::not_visible`]. Times are microseconds since the window
//! began (`at_us`) or lengths (`_us`); wall-clock time is nowhere. The window is all of the watch, or the last part of one
//! that goes on; what is then said of one connection, socket, thread or wait may go back to before it. Every text comes from the process, its peers or the
//! kernel and is untrusted: it may hold control characters, and whoever shows it must make it printable.

mod calls;
mod connections;
mod cpu;
mod fds;
mod go;
mod history;
mod lookups;
mod polling;
mod process;
mod sockets;
mod stack;
mod threads;

use serde::{Deserialize, Serialize};

pub use calls::{Call, CallCount, Calls};
pub(crate) use connections::redis_waits;
pub use connections::{
    Connection, Connections, DnsExchange, FailedCalls, Gaps, HttpHead, LateCall, Moment, Resolved, Side,
    SourceHandshakes, TlsHandshake,
};
pub use cpu::{Cpu, HotStack, Throttling};
pub use fds::{FdKind, Fds, Opener, PeerFds, Reading};
pub use go::{Go, GoroutineGroup, GoroutineState};
pub use history::{History, Look, TcpCounts, ThreadCounts};
pub use lookups::{Lookup, Lookups};
pub use polling::{PollCall, PollLoop, Polling, ReadyFd, Timeouts};
pub use process::{Child, Ending, Process, Runtime};
pub use sockets::{Backlog, HalfOpen, HostTcp, Listener, Sockets, TcpSocket, TcpTimer, TimerKind};
pub use stack::{Frame, Stack};
pub use threads::{BlockedIn, Thread, ThreadState, Threads, WaitStack, WaitsFor};

/// The version of this shape. A reader takes this one only; fields may be added within it.
pub const SCHEMA: &str = "overdue.observation/1";

/// Everything that was observed of one process.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Observation {
    /// How long it was watched.
    pub window_us: u64,
    /// Who it is.
    pub process: Process,
    /// Its open descriptors.
    pub fds: Option<Fds>,
    /// Its sockets, as `sock_diag` knows them, and counters of its network namespace.
    pub sockets: Option<Sockets>,
    /// Its threads.
    pub threads: Option<Threads>,
    /// Where its processor time goes, and whether it gets any.
    pub cpu: Option<Cpu>,
    /// Its event loops, looked at in short windows.
    pub polling: Option<Polling>,
    /// System calls that are rare or that failed.
    pub calls: Option<Calls>,
    /// The lives of its connections.
    pub connections: Option<Connections>,
    /// Its goroutines.
    pub go: Option<Go>,
    /// Lookups of names by its C library, where somebody asked for probes.
    #[serde(default)]
    pub lookups: Option<Lookups>,
    /// What changed from look to look.
    #[serde(default)]
    pub history: Option<History>,
    /// What could not be seen.
    pub not_visible: Vec<Hidden>,
    /// What the watching cost.
    pub overhead: Overhead,
}

/// Something that could not be seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hidden {
    /// What: `event loops`, `stacks`.
    pub what: String,
    /// Why not.
    pub why: String,
    /// How to change that.
    pub how: String,
}

/// What the watching cost.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Overhead {
    /// Processor time of the watcher.
    pub cpu_us: u64,
    /// The most memory that the watcher held.
    pub rss_bytes: u64,
    /// Memory of BPF maps.
    pub map_bytes: u64,
    /// Time spent in and around BPF programs that wait for events, in all processes: measured in slices of the watch,
    /// and carried over to the whole of it. Of none where the kernel does not count for this watcher.
    pub bpf_us: Option<u64>,
    /// The part of it in which the process itself went no further: an estimate, from the same slices. What caches and
    /// branch predictors lose is not in it.
    #[serde(default)]
    pub lost_us: Option<u64>,
    /// The same in millionths of the processor time that the process would have used without. Of none where nothing was
    /// measured, or it used too little to tell.
    #[serde(default)]
    pub slowdown_ppm: Option<u64>,
    /// Events that were lost because a buffer or a table was full.
    pub dropped_events: u64,
    /// From the beginning until all that could be attached was.
    pub attach_us: u64,
}
