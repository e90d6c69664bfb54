use serde::{Deserialize, Serialize};

use super::Stack;

/// Event loops, looked at in short windows.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Polling {
    /// The windows together: rates are counts over this.
    pub looked_us: u64,
    /// The loops, the busiest first: one for each thread and call.
    pub loops: Vec<PollLoop>,
}

/// One thread that polls.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PollLoop {
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub thread: String,
    /// The call.
    pub call: PollCall,
    /// Returns, over all windows.
    pub returns: u64,
    /// Those that found nothing ready.
    pub empty: u64,
    /// Those that failed.
    pub failed: u64,
    /// The limits it was called with.
    pub timeouts: Timeouts,
    /// Time spent in the call.
    pub inside_us: u64,
    /// What was ready, the most often first. Bounded.
    pub ready: Vec<ReadyFd>,
    /// System calls that the thread made besides, over all windows: reads, writes, accepts. What happens between two
    /// polls.
    pub other_calls: Vec<(String, u64)>,
    /// Of those, how many failed, by name and errno.
    pub failed_calls: Vec<(String, i32, u64)>,
    /// Where it polls from.
    pub stack: Option<Stack>,
}

/// The calls by which a thread waits for many descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the system calls, variants of the same one together")]
pub enum PollCall {
    #[default]
    EpollWait,
    Poll,
    Select,
    IoUringEnter,
}

impl PollCall {
    /// The system call.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EpollWait => "epoll_wait",
            Self::Poll => "poll",
            Self::Select => "select",
            Self::IoUringEnter => "io_uring_enter",
        }
    }

    /// Whether a call is one that is given its descriptors each time, by its name.
    pub(crate) fn is_given_descriptors(call: &str) -> bool {
        matches!(call, "poll" | "ppoll" | "select" | "pselect6")
    }
}

/// How often a loop polled with which limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timeouts {
    /// 0: return at once.
    pub zero: u64,
    /// Above 0, up to 2 ms.
    pub short: u64,
    /// Above 2 ms.
    pub long: u64,
    /// None.
    pub unlimited: u64,
}

/// A descriptor that a poll returned.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReadyFd {
    /// The descriptor, where the program registered it as its data or the kernel's table tells.
    pub fd: Option<u32>,
    /// What it is: `tcp 10.0.0.1:80`, `listener 0.0.0.0:8080`, `eventfd`.
    pub what: Option<String>,
    /// The cookie of the TCP socket that it is.
    pub cookie: Option<u64>,
    /// How often it was ready.
    pub times: u64,
    /// All bits it was ready with: EPOLLIN 1, EPOLLOUT 4, EPOLLERR 8, EPOLLHUP 16, EPOLLRDHUP 0x2000.
    pub events: u32,
    /// How often something was read from it, accepted on it or written to it meanwhile, where that was counted.
    pub used: Option<u64>,
    /// How often a read from it returned 0 meanwhile, the end of what the peer sends, where that was counted.
    pub ends: Option<u64>,
}
