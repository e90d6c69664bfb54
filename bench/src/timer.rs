//! `bench timer`: how much later than asked a timer fires.

use crate::{
    cases::{Case, Group, Report, Rounds, measure},
    child::{Core, program},
    table::Column,
};

const COLUMNS: &[Column] = &[
    Column { title: "late, median us", number: "p50_us", decimals: 0, ratio: false },
    Column { title: "late, p99 us", number: "p99_us", decimals: 0, ratio: false },
    Column { title: "CPU of one, us", number: "cpu_us", decimals: 1, ratio: false },
];

/// Names, and those by which the program `timer` knows them: each is a function there.
const MEANS: [(&str, &str); 6] = [
    ("overdue Context::run", "run"),
    ("overdue Stream, read deadline", "stream"),
    ("overdue direct::Stream, read deadline", "direct"),
    ("tokio sleep", "sleep"),
    ("timerfd and epoll", "timerfd"),
    ("epoll_pwait2", "epoll"),
];

/// What is asked for, and how often in a round.
const VALUES: [(&str, u32, u32); 4] =
    [("100us", 100, 1_000), ("500us", 500, 700), ("1ms", 1_000, 500), ("5ms", 5_000, 200)];

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let mut groups = Vec::new();
    for (title, value_us, samples) in VALUES {
        let mut cases = Vec::new();
        for (name, means) in MEANS {
            let mut command = program("timer", Core::Load)?;
            command.args([means.to_owned(), value_us.to_string(), rounds.scaled(samples).to_string()]);
            cases.push(Case { name: name.to_owned(), command });
        }
        groups.push(Group { title: format!("A timer of {title}"), cases, columns: COLUMNS, reference: "tokio sleep" });
    }
    measure(groups, rounds, Vec::new())
}
