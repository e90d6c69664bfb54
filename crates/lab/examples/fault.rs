//! Starts the server of a scenario and lets it run, for a client of one's own:
//! `cargo run -p overdue-lab --example fault -- NAME`. Without a name it lists them all.
//!
//! A scenario with a namespace is reached from inside of it: `nsenter --net --target PID COMMAND`.

use std::{env, error::Error, fs, io, path::PathBuf, process, thread, time::Duration};

use overdue_lab::{Fault, find, netns, scenarios};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// A file that is gone with the server.
struct Roots(PathBuf);

impl Roots {
    fn write(pem: &str) -> io::Result<Self> {
        let roots = Self(env::temp_dir().join(format!("overdue-lab-{}.pem", process::id())));
        fs::write(&roots.0, pem)?;
        Ok(roots)
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

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
    // Now, because only a process of one thread can enter a namespace; and before there is anything to leave behind.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let main = thread::current();
    thread::spawn(move || signals.forever().next().map(|_| main.unpark()));
    let fault = Fault::start(scenario)?;
    println!("pid {}", process::id());
    println!("url {}", fault.url());
    if let Some(dns) = fault.dns() {
        println!("dns {dns}");
    }
    let roots = fault.roots_pem().map(Roots::write).transpose()?;
    if let Some(Roots(file)) = &roots {
        println!("cacert {}", file.display());
    }
    println!("{}\nIt runs for two minutes; Ctrl-C ends it.", scenario.about);
    thread::park_timeout(Duration::from_secs(120));
    for trouble in fault.trouble() {
        println!("trouble: {trouble}");
    }
    Ok(())
}
