//! `bench hello`: what it costs a server to turn a client away at its ClientHello, beside the handshake that is saved.

use crate::{
    cases::{Case, Group, Report, Rounds, measure},
    child::{Core, program},
    table::Column,
};

const COLUMNS: &[Column] = &[
    Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true },
    Column { title: "above a bare close, us", number: "above_us", decimals: 1, ratio: false },
];

const WHOLE: &str = "a whole handshake";

/// Names, and those by which the program `hello` knows what becomes of its clients.
const ENDS: [(&str, &str); 6] = [
    (WHOLE, "whole"),
    ("turned away: its name", "name"),
    ("turned away: its version", "version"),
    ("turned away: its rate", "rate"),
    ("turned away: no TLS", "plain"),
    ("closed unread", "closed"),
];

const CONNECTIONS: u32 = 4_000;

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let mut cases = Vec::new();
    for (name, end) in ENDS {
        // Its server and its clients have a thread each.
        let mut command = program("hello", Core::Any)?;
        command.args([end.to_owned(), rounds.scaled(CONNECTIONS).to_string()]);
        cases.push(Case { name: name.to_owned(), command });
    }
    let title = "A connection, from accept to close".to_owned();
    measure(vec![Group { title, cases, columns: COLUMNS, reference: WHOLE }], rounds, Vec::new())
}
