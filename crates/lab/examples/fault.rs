//! Starts the server of a scenario and lets it run, for a client of one's own:
//! `cargo run -p overdue-lab --example fault -- NAME`. Without a name it lists them all.
//!
//! A scenario with a namespace is reached from inside of it: `nsenter --net --target PID COMMAND`.

use std::{env, error::Error, fs, process, thread, time::Duration};

use overdue_lab::{Fault, find, netns, scenarios};

fn main() -> Result<(), Box<dyn Error>> {
    let Some(name) = env::args().nth(1) else {
        for scenario in scenarios() {
            println!("{:24} {}", scenario.name, scenario.about);
        }
        return Ok(());
    };
    let scenario = find(&name).ok_or_else(|| format!("there is no scenario {name:?}"))?;
    if scenario.needs.namespace {
        netns::enter()?;
    }
    let fault = Fault::start(scenario)?;
    println!("pid {}", process::id());
    println!("url {}", fault.url());
    if let Some(dns) = fault.dns() {
        println!("dns {dns}");
    }
    if let Some(pem) = fault.roots_pem() {
        let file = env::temp_dir().join(format!("overdue-lab-{}.pem", process::id()));
        fs::write(&file, pem)?;
        println!("cacert {}", file.display());
    }
    println!("{}\nIt runs for two minutes; Ctrl-C ends it.", scenario.about);
    thread::park_timeout(Duration::from_secs(120));
    for trouble in fault.trouble() {
        println!("trouble: {trouble}");
    }
    Ok(())
}
