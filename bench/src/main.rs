//! Runs the benchmarks: see docs/benchmarks.md. Called by `cargo xtask bench`.
//!
//! What is measured runs in processes of its own, in interleaved rounds, pinned to a core; the peer has another core.
//! Exit codes: 0 done, 1 something did not come back (soak), 2 it could not run.

mod cases;
mod child;
mod client;
mod deadline;
mod gate;
mod go;
mod hello;
mod interrupt;
mod machine;
mod memory;
mod peer;
mod soak;
mod table;
mod timer;
mod usage;
mod why;

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::cases::Rounds;

/// What the library costs beside its peers, and what it leaves behind.
#[derive(Parser, Debug)]
#[command(bin_name = "cargo xtask bench", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Rounds, in each of which everything runs once; the tables show medians. A soak has one.
    #[arg(long, global = true, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// A tenth of the work: to see that it runs, not what it costs.
    #[arg(long, global = true)]
    quick: bool,
    /// Writes the numbers of all rounds to this file, too.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench client                     a request beside hyper-util, reqwest and Go
  cargo xtask bench client --rounds 15 --json client.json
  cargo xtask bench deadline --quick
  cargo xtask bench hello                      no other program
  cargo xtask bench why --rounds 5             as root: it needs nginx and wrk
  cargo xtask bench gate --rounds 7            beside nginx, haproxy, Envoy and Traefik, where they are; it needs nginx and wrk
  cargo xtask bench gate --protocol h2,grpc    it needs h2load (apt-get install nghttp2-client)
  cargo xtask bench gate --rate                at fixed rates, too, with how much later the answers are

Go takes part where `go` is on the PATH. The peer is nginx where it is on the PATH, and else a server of our own.";

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// CPU time of a request over kept HTTP/1.1 connections.
    Client,
    /// CPU time of a deadline that never fires.
    Deadline,
    /// How late timers fire.
    Timer,
    /// Memory of contexts, pending deadlines and idle connections; time to cancel them.
    Memory,
    /// Calls that time out, for a minute: whether everything comes back.
    Soak,
    /// CPU time of a client that is turned away at its ClientHello, beside that of a handshake.
    Hello,
    /// What it costs a server to be watched: by `overdue why`, bpftrace, perf trace and strace.
    Why,
    /// CPU time of a request through the gateway, and memory of idle connections, beside other proxies.
    Gate(gate::Options),
}

/// As typed, but for the file, which is nobody's business.
impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Gate(options) => write!(f, "cargo xtask bench gate{options}")?,
            what => write!(f, "cargo xtask bench {}", format!("{what:?}").to_lowercase())?,
        }
        if !matches!(self.what, What::Soak) {
            write!(f, " --rounds {}", self.rounds)?;
        }
        f.write_str(if self.quick { " --quick" } else { "" })
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let rounds = Rounds { count: arguments.rounds, quick: arguments.quick };
    let report = match &arguments.what {
        What::Client => client::run(rounds)?,
        What::Deadline => deadline::run(rounds)?,
        What::Timer => timer::run(rounds)?,
        What::Memory => memory::run(rounds)?,
        What::Soak => soak::run(rounds)?,
        What::Hello => hello::run(rounds)?,
        What::Why => why::run(rounds)?,
        What::Gate(options) => gate::run(rounds, options)?,
    };
    println!("{}", machine::describe(&arguments.to_string(), &report.peers));
    println!("{}", report.text);
    if let Some(file) = &arguments.json {
        let raw = serde_json::to_string_pretty(&report.raw)?;
        std::fs::write(file, raw).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
