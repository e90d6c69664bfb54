use std::fmt;

use serde::{Deserialize, Serialize};

/// Who was watched.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the watcher's pid namespace.
    pub pid: u32,
    /// The name the kernel knows it by (15 bytes at most).
    pub name: String,
    /// Its program.
    pub exe: Option<String>,
    /// Its command line, secrets hidden.
    pub command: Vec<String>,
    /// What it is written in, as far as that is visible.
    pub runtime: Runtime,
    /// How long it had run when the watch began.
    pub age_us: Option<u64>,
    /// When it ended, where that was seen.
    pub ended_at_us: Option<u64>,
    /// How it ended, where that was told.
    #[serde(default)]
    pub ended: Option<Ending>,
    /// When it became another program by `execve`, where that was seen.
    pub exec_at_us: Option<u64>,
    /// Its children when the watch ended: what they do is not part of this observation.
    pub children: Vec<u32>,
    /// Those of them that did most meanwhile, the busiest first; at most 8.
    #[serde(default)]
    pub busiest_children: Vec<Child>,
    /// Whether all that it did was to wait for them.
    #[serde(default)]
    pub only_waits_for_children: bool,
    /// Whether all its threads were stopped in the end, by a signal or a debugger.
    #[serde(default)]
    pub stopped: bool,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum Ending {
    /// By itself.
    Exited {
        /// What it said to its parent; 0 is well.
        code: i32,
    },
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
        /// Whether its memory was saved.
        core: bool,
    },
}

impl Ending {
    /// Whether it went well, by its own word. Of one that a signal ended nobody can say so.
    #[must_use]
    pub const fn is_well(self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

/// For a reader: "exited with code 1", "was killed by SIGSEGV (11), and left a core".
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Killed { signal, core } => {
                let name = match signal {
                    1 => "SIGHUP",
                    2 => "SIGINT",
                    3 => "SIGQUIT",
                    4 => "SIGILL",
                    5 => "SIGTRAP",
                    6 => "SIGABRT",
                    7 => "SIGBUS",
                    8 => "SIGFPE",
                    9 => "SIGKILL",
                    10 => "SIGUSR1",
                    11 => "SIGSEGV",
                    12 => "SIGUSR2",
                    13 => "SIGPIPE",
                    14 => "SIGALRM",
                    15 => "SIGTERM",
                    24 => "SIGXCPU",
                    25 => "SIGXFSZ",
                    31 => "SIGSYS",
                    _ => "signal",
                };
                write!(f, "was killed by {name} ({signal}){}", if core { ", and left a core" } else { "" })
            }
        }
    }
}

/// A child, as it is seen without watching it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Child {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Processor time in the window.
    pub cpu_us: u64,
    /// Its sockets at the end, where they may be counted.
    pub sockets: Option<u64>,
}

/// What a process is written in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// C, C++, Rust without tokio, or whatever leaves no mark.
    #[default]
    Native,
    /// Go, with the version its binary tells.
    Go {
        /// `go1.26.1`
        version: String,
    },
    /// A Rust program with tokio's worker threads.
    Tokio,
    /// CPython.
    Python,
    /// Node.js.
    Node,
    /// A Java virtual machine.
    Java,
}
