//! Starts a target and lets it run, for a look at it by hand: `cargo run -p overdue-lab --example target -- NAME`.
//! Without a name it lists them all.

use std::{env, error::Error, time::Duration};

use overdue_lab::target::Target;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(name) = env::args().nth(1) else {
        for target in Target::all() {
            let cause = target.cause.map_or("(healthy)", |cause| cause.id());
            println!("{:30} {:8} {:24} {}", target.name, target.language, cause, target.truth);
        }
        return Ok(());
    };
    let target = Target::named(&name).ok_or_else(|| format!("there is no target {name:?}"))?;
    let mut running = target.start()?;
    println!("pid {}", running.pid());
    if let Some(peer) = running.peer_pid() {
        println!("peer {peer}");
    }
    if let Some(port) = running.port() {
        println!("port {port}");
    }
    println!("{}\nIt runs for two minutes; Ctrl-C ends it.", target.truth);
    if let Some(how) = running.ended(Duration::from_secs(150)) {
        println!("{how}");
    }
    Ok(())
}
