//! `bench soak`: whether everything comes back after many calls that timed out.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
};

use anyhow::Context;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use serde_json::json;

use crate::{
    cases::{Case, Report, Rounds},
    child::{Core, Server, program},
};

const SECONDS: u32 = 60;

/// What is counted, its unit, and how much more of it may be held afterwards: the allocator keeps some of what it got,
/// and tables that have grown stay as large as they are.
const ROWS: [(&str, &str, f64); 8] = [
    ("contexts", "contexts", 0.0),
    ("tasks", "tasks", 0.0),
    ("descriptors", "open files", 0.0),
    ("sockets", "sockets", 0.0),
    ("connections", "connections in the kernel's table", 0.0),
    ("allocations", "allocations", 16.0),
    ("heap_bytes", "heap, bytes", 65_536.0),
    ("resident_bytes", "resident, bytes", 4_194_304.0),
];

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let (_silent, silent) = Server::with_port(program("peer", Core::Peer)?.arg("silent"))?;
    let (_refusing, refusing) = refusing_port()?;
    let seconds = rounds.scaled(SECONDS);
    eprintln!("{} calls that time out or are refused, in {seconds} s", seconds * 100);
    let mut command = program("soak", Core::Load)?;
    command.args([seconds.to_string(), silent.to_string(), refusing.to_string()]);
    let numbers: BTreeMap<_, _> = Case { name: "soak".to_owned(), command }.run()?.into_iter().collect();

    let mut text = format!("\n**{} calls that time out or are refused**\n\n", seconds * 100);
    text += "| | before | at most | afterwards | |\n|---|---|---|---|---|\n";
    let mut passed = true;
    for (name, title, allowed) in ROWS {
        let number = |when: &str| {
            let name = format!("{when}_{name}");
            numbers.get(&name).copied().with_context(|| format!("the soak did not print {name}"))
        };
        let (before, most, after) = (number("before")?, number("most")?, number("after")?);
        let back = after <= before + allowed;
        passed &= back;
        let verdict = if back { "came back" } else { "did NOT come back" };
        text += &format!("| {title} | {before} | {most} | {after} | {verdict} |\n");
    }
    Ok(Report { text, raw: json!(numbers), peers: Vec::new(), passed })
}

/// A port that refuses for as long as its socket is open: bound, so that nobody else gets it, and not listened on.
fn refusing_port() -> anyhow::Result<(OwnedFd, u16)> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let addr = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, addr.port()))
}
