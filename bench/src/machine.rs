//! What the numbers were measured on.

use std::{fs, process::Command, thread};

/// The line above the tables: the command, and the machine with the versions of those who took part.
pub(crate) fn describe(command: &str, peers: &[String]) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc =
        rustc.map_or_else(|_| "unknown rustc".into(), |output| String::from_utf8_lossy(&output.stdout).into_owned());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let mut parts =
        vec![format!("{model}, {cores} cores"), format!("Linux {}", kernel.trim()), rustc.trim().to_owned()];
    parts.extend(LOCKED.iter().filter_map(|name| Some(format!("{name} {}", locked(name)?))));
    parts.extend_from_slice(peers);
    parts.push(format!("load {load} at the end"));
    format!("Measured with `{command}` on {}.", parts.join("; "))
}

/// Those of the peers that are linked in.
const LOCKED: [&str; 3] = ["tokio", "hyper-util", "reqwest"];

/// The version of a package in the lock file.
fn locked(name: &str) -> Option<&'static str> {
    let (_, package) = include_str!("../Cargo.lock").split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(package.split_once('"')?.0)
}
