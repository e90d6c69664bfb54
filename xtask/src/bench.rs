//! `cargo xtask bench`: builds the benchmarks, which are a workspace of their own, and runs them.

use std::{
    io,
    process::{Command, ExitCode},
};

use crate::{house::House, usage_error};

/// Hands its arguments on; `--help` is theirs.
pub(crate) fn main<'a>(arguments: impl Iterator<Item = &'a str>) -> ExitCode {
    let run = || -> io::Result<Option<i32>> {
        let house = House::new();
        let build =
            house.cargo("build --release --manifest-path bench/Cargo.toml --target-dir target/bench").status()?;
        if !build.success() {
            return Ok(None);
        }
        Ok(Command::new(house.root.join("target/bench/release/overdue-bench")).args(arguments).status()?.code())
    };
    match run() {
        Ok(code) => code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => usage_error(&format!("the benchmarks cannot be run: {error}"), ""),
    }
}
