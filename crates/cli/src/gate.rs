//! `overdue gate`: the gateway.

use std::io::{self, Write as _};

use overdue_gate::Checked;

use crate::{args::Gate, exit::Exit};

pub(crate) fn run(flags: &Gate) -> anyhow::Result<Exit> {
    if flags.check {
        return check(flags);
    }
    let whole = overdue_gate::run(&flags.config, overdue_gate::tell_stderr)?;
    Ok(if whole { Exit::Fine } else { Exit::Finding })
}

fn check(flags: &Gate) -> anyhow::Result<Exit> {
    let Checked { config, doubts, certificates, unresolved } = overdue_gate::check(&flags.config)?;
    let mut out = io::stdout().lock();
    for doubt in &doubts {
        writeln!(out, "{}: {}\n  fix: {}", doubt.place, doubt.text, doubt.fix)?;
    }
    for odd in &certificates {
        writeln!(out, "{odd}")?;
    }
    // Where it will run they may be known, and here they may not be tomorrow.
    for name in &unresolved {
        writeln!(out, "{name}; no finding, as it may be known where the gateway runs")?;
    }
    let fine = doubts.is_empty() && certificates.is_empty();
    if fine {
        let (routes, clusters) = (config.routes.len(), config.clusters().len());
        writeln!(
            out,
            "{}: {} to {}; a gateway would start, and nothing in it looks wrong",
            flags.config.display(),
            counted(routes, "route"),
            counted(clusters, "cluster")
        )?;
    }
    Ok(if fine { Exit::Fine } else { Exit::Finding })
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
