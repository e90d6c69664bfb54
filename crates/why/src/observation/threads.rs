use serde::{Deserialize, Serialize};

use super::Stack;

/// The threads of the process.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Threads {
    /// How many when the watch began.
    pub first: u64,
    /// How many when it ended.
    pub last: u64,
    /// Those that were there at the end; the longest blocked first. Bounded.
    pub threads: Vec<Thread>,
    /// Threads that were left out because there were too many.
    pub left_out: u64,
    /// Where threads waited, by stack, the longest first. `None` where nobody looked.
    pub waits: Option<Vec<WaitStack>>,
}

/// One thread.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Its state at the last look.
    pub state: ThreadState,
    /// Looks at it, and how many of them found it in that state.
    pub looks: u32,
    /// See `looks`.
    pub looks_in_state: u32,
    /// The kernel function it sleeps in, where that may be read.
    pub wchan: Option<String>,
    /// The system call it is in, where that may be read.
    pub blocked_in: Option<BlockedIn>,
    /// The system calls that the looks found it in, with the number of looks.
    #[serde(default)]
    pub calls: Vec<(String, u32)>,
    /// The epoll sets (their descriptors) that the looks found it waiting for, with the number of looks. Bounded.
    #[serde(default)]
    pub epolls: Vec<(u32, u32)>,
    /// The looks that found it in a `poll` or `select` without any descriptor, which is a sleep.
    #[serde(default)]
    pub sleeps: u32,
    /// For how long it is known not to have left that call: no switch was counted meanwhile.
    pub blocked_us: u64,
    /// Whether that is all of the watch: it may have been longer.
    pub since_before: bool,
    /// Processor time over the window.
    pub cpu_us: u64,
    /// Time it was ready to run and had no processor, over the window, where the kernel counts it.
    pub runqueue_us: Option<u64>,
    /// Times it gave up the processor of its own will, over the window.
    pub voluntary_switches: u64,
    /// Times the processor was taken from it, over the window.
    pub involuntary_switches: u64,
    /// Where it is, where that could be read.
    pub stack: Option<Stack>,
}

/// The letter of `/proc/PID/stat`, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThreadState {
    /// On a processor, or ready for one.
    Running,
    /// Asleep, can be interrupted.
    Sleeping,
    /// Asleep, cannot be interrupted.
    Uninterruptible,
    /// Stopped, by a signal or a debugger.
    Stopped,
    /// Ended, and nobody asked for its exit code.
    Zombie,
    /// Any other.
    #[default]
    Other,
}

/// A system call that a thread is in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BlockedIn {
    /// Its name: `epoll_wait`, `futex`.
    pub call: String,
    /// The descriptor it was given, for calls that take one, and for a `poll` of one.
    pub fd: Option<u32>,
    /// What that descriptor is: `tcp 10.0.0.1:5432`, `unix /run/docker.sock` by the name of the other end, `pipe`. Of a call
    /// that opens a file, its path.
    pub what: Option<String>,
    /// The cookie of the TCP socket that the descriptor is.
    pub cookie: Option<u64>,
    /// The process that holds the other end, where the descriptor is a unix socket and it could be found; or the lock, where
    /// it waits for that of a file and there is one holder.
    #[serde(default)]
    pub peer_pid: Option<u32>,
    /// The descriptors that `poll` or `select` was given or that are in the epoll set, where those could be read.
    /// Bounded.
    #[serde(default)]
    pub waits_for: Vec<WaitsFor>,
    /// The limit of the wait in microseconds, where the call has one that can be read without stopping the process:
    /// `Some(None)` means that it has none. Sockets may have one of their own (`SO_RCVTIMEO`) that nobody else can read,
    /// so a read from a socket has `None`. A futex's limit counts from when the watch first saw the wait.
    #[serde(default, with = "timeout")]
    pub timeout_us: Option<Option<u64>>,
    /// Of a mutex of the GNU C library that it waits for: the thread that held it at the end, by the mutex itself.
    #[serde(default)]
    pub held_by: Option<u32>,
}

/// A descriptor that a thread waits for together with others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WaitsFor {
    /// The descriptor.
    pub fd: u32,
    /// What for: EPOLLIN (POLLIN) 1, EPOLLOUT (POLLOUT) 4, EPOLLRDHUP 0x2000.
    pub events: u32,
    /// What it is: `tcp 10.0.0.1:5432`, `pipe`.
    pub what: Option<String>,
    /// The cookie of the TCP socket that it is.
    pub cookie: Option<u64>,
}

/// A place where threads waited.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WaitStack {
    /// Where.
    pub stack: Stack,
    /// The name of the threads.
    pub thread: String,
    /// How long in all, over the window and over all threads. By looks: a thread that is found waiting there counts for
    /// all of the time since the look before.
    pub waited_us: u64,
    /// How many waits looks have met.
    pub times: u64,
    /// The longest of them.
    pub longest_us: u64,
}

/// Three cases, where JSON's `null` is one: a number, `"none"`, or `null` for what was not seen.
mod timeout {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Us(u64),
        None(String),
    }

    pub(super) fn serialize<S: Serializer>(timeout: &Option<Option<u64>>, to: S) -> Result<S::Ok, S::Error> {
        timeout.map(|limit| limit.map_or_else(|| Written::None("none".to_owned()), Written::Us)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
        match Option::<Written>::deserialize(from)? {
            None => Ok(None),
            Some(Written::Us(us)) => Ok(Some(Some(us))),
            Some(Written::None(word)) if word == "none" => Ok(Some(None)),
            Some(Written::None(word)) => Err(D::Error::custom(format!("no limit of a wait: {word}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_not_the_same_as_an_unknown_one() {
        for timeout_us in [None, Some(None), Some(Some(7))] {
            let wait = BlockedIn { timeout_us, ..BlockedIn::default() };
            let text = serde_json::to_string(&wait).unwrap();
            assert_eq!(serde_json::from_str::<BlockedIn>(&text).unwrap(), wait, "{text}");
        }
    }
}
