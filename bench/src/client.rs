//! `bench client`: CPU time of a request over kept HTTP/1.1 connections on loopback, on one thread.

use std::process::Command;

use crate::{
    cases::{Case, Group, Report, Rounds, measure},
    child::{Core, pinned, program},
    go,
    peer::Peer,
    table::Column,
};

const COLUMNS: &[Column] = &[
    Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true },
    Column { title: "user, us", number: "user_us", decimals: 1, ratio: false },
    Column { title: "system, us", number: "system_us", decimals: 1, ratio: false },
    Column { title: "wall, us", number: "wall_us", decimals: 1, ratio: true },
];

/// Connections, and the requests of a round that take about as long.
const LOADS: [(u32, u32); 2] = [(64, 128_000), (1, 32_000)];

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let peer = Peer::start()?;
    let go = go::build("client")?;
    let mut groups = Vec::new();
    for (connections, requests) in LOADS {
        let loaded = |name: &str, mut command: Command| {
            command.args([peer.url.clone(), connections.to_string(), rounds.scaled(requests).to_string()]);
            Case { name: name.to_owned(), command }
        };
        let mut cases = Vec::new();
        for name in ["overdue", "hyper-util", "reqwest"] {
            cases.push(loaded(name, program(&format!("client-{name}"), Core::Load)?));
        }
        if let Some(go) = &go {
            for (name, arguments) in [("Go net/http", &[][..]), ("Go with httptrace", &["trace"])] {
                let mut case = loaded(name, pinned(&go.program, Core::Load)?);
                case.command.args(arguments).env("GOMAXPROCS", "1");
                cases.push(case);
            }
        }
        let title = format!("One request, {connections} connection{}", if connections == 1 { "" } else { "s" });
        groups.push(Group { title, cases, columns: COLUMNS, reference: "hyper-util" });
    }
    let peers = [Some(format!("peer {}", peer.name)), go.map(|go| go.version)];
    measure(groups, rounds, peers.into_iter().flatten().collect())
}
