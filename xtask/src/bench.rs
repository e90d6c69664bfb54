//! `cargo xtask bench`: builds the benchmarks, which are a workspace of their own, and runs them.

use std::{
    io,
    process::{Command, ExitCode},
};

use crate::{house::House, usage_error};

/// Hands its arguments on; `--help` is theirs.
pub(crate) fn main<'a>(arguments: impl Iterator<Item = &'a str>) -> ExitCode {
    let arguments: Vec<&str> = arguments.collect();
    let run = || -> io::Result<Option<i32>> {
        let house = House::new();
        let mut builds = vec!["build --release --manifest-path bench/Cargo.toml --target-dir target/bench"];
        // What is measured there is the command, as it is shipped.
        if arguments.iter().any(|argument| ["why", "gate"].contains(argument)) {
            builds.push("build --profile dist -p overdue-cli --target-dir target/bench");
        }
        for build in builds {
            if !house.cargo(build).status()?.success() {
                return Ok(None);
            }
        }
        Ok(Command::new(house.root.join("target/bench/release/overdue-bench")).args(&arguments).status()?.code())
    };
    match run() {
        Ok(code) => code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => usage_error(&format!("the benchmarks cannot be run: {error}"), ""),
    }
}
