//! `overdue gate`: the gateway.

use std::io::{self, Write as _};

use overdue_gate::Config;

use crate::{args::Gate, exit::Exit};

pub(crate) fn run(flags: &Gate) -> anyhow::Result<Exit> {
    if flags.check {
        return check(flags);
    }
    let whole = overdue_gate::run(&flags.config, overdue_gate::tell_stderr)?;
    Ok(if whole { Exit::Fine } else { Exit::Finding })
}

fn check(flags: &Gate) -> anyhow::Result<Exit> {
    let config = Config::read(&flags.config)?;
    let conflicts = config.conflicts();
    let mut out = io::stdout().lock();
    for (route, verdicts) in &conflicts {
        for verdict in verdicts {
            writeln!(out, "route {route:?}: {}: {}\n  fix: {}", verdict.cause, verdict.summary, verdict.fix)?;
        }
    }
    if conflicts.is_empty() {
        let (routes, clusters) = (config.routes.len(), config.clusters().len());
        writeln!(
            out,
            "{}: {} to {}, and no limits that fight each other",
            flags.config.display(),
            counted(routes, "route"),
            counted(clusters, "cluster")
        )?;
    }
    Ok(if conflicts.is_empty() { Exit::Fine } else { Exit::Finding })
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
