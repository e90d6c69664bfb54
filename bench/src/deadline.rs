//! `bench deadline`: what a deadline costs that never fires.

use crate::{
    cases::{Case, Group, Report, Rounds, measure},
    child::{Core, pinned, program},
    go,
    table::Column,
};

const COLUMNS: &[Column] = &[
    Column { title: "create, CPU ns", number: "create_cpu_ns", decimals: 0, ratio: true },
    Column { title: "ready, CPU ns", number: "ready_cpu_ns", decimals: 0, ratio: true },
    Column { title: "yield, CPU ns", number: "yield_cpu_ns", decimals: 0, ratio: true },
    Column { title: "create, wall ns", number: "create_wall_ns", decimals: 0, ratio: false },
    Column { title: "ready, wall ns", number: "ready_wall_ns", decimals: 0, ratio: false },
    Column { title: "yield, wall ns", number: "yield_wall_ns", decimals: 0, ratio: false },
];

const OPERATIONS: u32 = 2_000_000;

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let go = go::build("deadline")?;
    let operations = rounds.scaled(OPERATIONS).to_string();
    let mut groups = Vec::new();
    for (threads, core, title) in [("1", Core::Load, "One thread"), ("2", Core::Any, "Two threads, one parent")] {
        let mut cases = Vec::new();
        for (name, subject) in [("overdue Context", "overdue"), ("tokio timeout", "tokio")] {
            let mut command = program("deadline", core)?;
            command.args([subject, threads, &operations]);
            cases.push(Case { name: name.to_owned(), command });
        }
        if let Some(go) = &go {
            let mut command = pinned(&go.program, core)?;
            command.args([threads, &operations]).env("GOMAXPROCS", threads);
            cases.push(Case { name: "Go context.WithTimeout".to_owned(), command });
        }
        groups.push(Group { title: title.to_owned(), cases, columns: COLUMNS, reference: "tokio timeout" });
    }
    measure(groups, rounds, go.map(|go| go.version).into_iter().collect())
}
