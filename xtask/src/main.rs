//! The project's chores: `cargo xtask test`, `cargo xtask bench`, `cargo xtask bpf`.
//!
//! Exit codes: 0 all is well, 1 a step failed, 2 wrong usage.

mod bench;
mod bpf;
mod house;
mod test;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

const USAGE: &str = "\
The project's chores.

Usage: cargo xtask test [--only STEP]... [--keep-going]
       cargo xtask bench NAME [--rounds N] [--quick] [--json FILE]
       cargo xtask bpf [--check]
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut arguments = arguments.iter().map(String::as_str);
    match arguments.next() {
        Some("test") => test::main(arguments),
        Some("bench") => bench::main(arguments),
        Some("bpf") => bpf::main(arguments),
        Some("--help" | "-h" | "help") => {
            say(&format!("{USAGE}\nMore: cargo xtask test --help, and so on"));
            ExitCode::SUCCESS
        }
        Some(other) => usage_error(&format!("there is no chore {other:?}"), USAGE),
        None => usage_error("which chore?", USAGE),
    }
}

/// Prints a line. That nobody reads it any more is no reason to stop.
fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

fn usage_error(problem: &str, usage: &str) -> ExitCode {
    drop(write!(io::stderr(), "error: {problem}\n\n{usage}"));
    ExitCode::from(2)
}
