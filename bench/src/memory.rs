//! `bench memory`: what contexts, pending deadlines and idle connections hold, and how fast a large tree is cancelled.

use crate::{
    cases::{Case, Group, Report, Rounds, measure},
    child::{Core, Server, program},
    table::Column,
};

const SIZE: [Column; 3] = [
    Column { title: "heap, bytes", number: "heap_bytes", decimals: 0, ratio: true },
    Column { title: "allocations", number: "allocations", decimals: 1, ratio: false },
    Column { title: "resident, bytes", number: "resident_bytes", decimals: 0, ratio: false },
];
const SIZE_AND_CANCEL: [Column; 5] = [
    SIZE[0],
    SIZE[1],
    SIZE[2],
    Column { title: "cancel of all: the call, ms", number: "cancel_ms", decimals: 1, ratio: false },
    Column { title: "until the last task ended, ms", number: "ended_ms", decimals: 1, ratio: false },
];

const MANY: u32 = 100_000;
const CONNECTIONS: u32 = 10_000;

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    // A process of its own: both ends together would be more open files than one process may have.
    let many = rounds.scaled(MANY);
    let connections = rounds.scaled(CONNECTIONS);
    let (_peer, port) =
        Server::with_port(program("peer", Core::Peer)?.args(["answering", connections.to_string().as_str()]))?;
    let url = format!("http://127.0.0.1:{port}/");

    let cases = |count: u32, subjects: &[(&str, &str)]| {
        let case = |(name, subject): &(&str, &str)| {
            let mut command = program("memory", Core::Load)?;
            command.args([subject, count.to_string().as_str(), &url]);
            Ok(Case { name: (*name).to_owned(), command })
        };
        subjects.iter().map(case).collect::<anyhow::Result<Vec<_>>>()
    };
    let groups = vec![
        Group {
            title: format!("One of {many} contexts"),
            cases: cases(many, &[("overdue Context", "context"), ("tokio-util CancellationToken", "token")])?,
            columns: &SIZE,
            reference: "tokio-util CancellationToken",
        },
        Group {
            title: format!("One of {many} tasks that wait under a deadline"),
            cases: cases(
                many,
                &[
                    ("overdue Context::run", "task-context"),
                    ("tokio timeout and CancellationToken", "task-token"),
                    ("without deadline", "task"),
                ],
            )?,
            columns: &SIZE_AND_CANCEL,
            reference: "tokio timeout and CancellationToken",
        },
        Group {
            title: format!("One of {connections} idle connections"),
            cases: cases(connections, &[("overdue", "connection-overdue"), ("hyper-util", "connection-hyper-util")])?,
            columns: &SIZE,
            reference: "hyper-util",
        },
    ];
    measure(groups, rounds, Vec::new())
}
