//! `cargo xtask bench`: builds the benchmarks, which are a workspace of their own, and runs them.

use std::{env, process::ExitCode};

use crate::{house::House, usage_error};

/// Hands its arguments on; `--help` is theirs.
pub(crate) fn main<'a>(arguments: impl Iterator<Item = &'a str>) -> ExitCode {
    let house = House::new();
    let mut cargo = house.cargo("run --release");
    cargo.arg("--manifest-path").arg(house.root.join("bench/Cargo.toml"));
    cargo.arg("--target-dir").arg(house.root.join("target/bench"));
    cargo.arg("--").args(arguments);
    // Files are named from where the user stands.
    if let Ok(here) = env::current_dir() {
        cargo.current_dir(here);
    }
    match cargo.status() {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => usage_error(&format!("cannot run cargo: {error}"), ""),
    }
}
