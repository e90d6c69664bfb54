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

/// A child, as it is seen without watching it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Child {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Processor time during the watch.
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
