use serde::{Deserialize, Serialize};

use super::Stack;

/// System calls that are rare, or that failed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Calls {
    /// How long they were counted; all of the window, or short windows of it.
    pub looked_us: u64,
    /// By call and outcome, the most frequent first.
    pub counts: Vec<CallCount>,
}

/// One call with one outcome.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CallCount {
    /// Which.
    pub call: Call,
    /// 0 for success, else the errno.
    pub errno: i32,
    /// How often.
    pub count: u64,
    /// Of failed `connect`: the peer of the last.
    pub peer: Option<String>,
    /// The descriptor of the last, for calls on one.
    pub fd: Option<u32>,
    /// Where the last was made from.
    pub stack: Option<Stack>,
}

/// The calls that are counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the system calls")]
pub enum Call {
    #[default]
    Connect,
    Accept,
    Socket,
    Open,
    Close,
    Bind,
    Listen,
    Pipe,
    Dup,
    EpollCreate,
    Eventfd,
}
