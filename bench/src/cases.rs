//! What runs in each round, and the numbers that come of it.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};

use crate::table::{Column, Table};

/// How often, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) count: u32,
    pub(crate) quick: bool,
}

impl Rounds {
    /// A tenth of the work when it is only to be seen that it runs.
    pub(crate) fn scaled(self, work: u32) -> u32 {
        if self.quick { work.div_ceil(10) } else { work }
    }
}

/// One of those that are compared.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Runs for a while, and prints one line: a JSON object of numbers.
    pub(crate) command: Command,
}

/// Cases that do the same work, one row each.
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) cases: Vec<Case>,
    pub(crate) columns: &'static [Column],
    /// The case to which the others are compared.
    pub(crate) reference: &'static str,
}

/// The numbers of all rounds of one case, by their names.
pub(crate) type Samples = BTreeMap<String, Vec<f64>>;

/// Tables, and what they were made of.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) raw: Value,
    /// Versions of those that took part.
    pub(crate) peers: Vec<String>,
    pub(crate) passed: bool,
}

/// Runs every case once in each round, so that a busy moment of the machine hits all alike. Each round begins with
/// another case.
pub(crate) fn measure(mut groups: Vec<Group>, rounds: Rounds, peers: Vec<String>) -> anyhow::Result<Report> {
    let mut samples: Vec<Vec<Samples>> = groups.iter().map(|group| vec![Samples::new(); group.cases.len()]).collect();
    for round in 0..rounds.count {
        for (group, samples) in groups.iter_mut().zip(&mut samples) {
            eprintln!("round {} of {}: {}", round + 1, rounds.count, group.title);
            let count = group.cases.len();
            for index in (0..count).map(|index| (index + round as usize) % count) {
                let Some((case, samples)) = group.cases.get_mut(index).zip(samples.get_mut(index)) else { continue };
                let numbers = case.run().with_context(|| format!("{} ({})", case.name, group.title))?;
                for (name, number) in numbers {
                    samples.entry(name).or_default().push(number);
                }
            }
        }
    }
    let mut raw = Map::new();
    let mut text = String::new();
    for (group, samples) in groups.iter().zip(&samples) {
        let names = group.cases.iter().map(|case| case.name.as_str());
        let rows: Vec<_> = names.clone().zip(samples).collect();
        let table = Table { title: &group.title, columns: group.columns, reference: group.reference, rows: &rows };
        text += &table.to_string();
        raw.insert(
            group.title.clone(),
            rows.iter().map(|(name, samples)| ((*name).to_owned(), json!(samples))).collect(),
        );
    }
    Ok(Report { text, raw: raw.into(), peers, passed: true })
}

impl Case {
    /// The numbers of one run.
    pub(crate) fn run(&mut self) -> anyhow::Result<Vec<(String, f64)>> {
        let output = self.command.output().with_context(|| format!("cannot run {:?}", self.command.get_program()))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        let Value::Object(numbers) = serde_json::from_str(&printed).context("it printed no JSON")? else {
            bail!("it printed no object");
        };
        let number = |(name, value): (String, Value)| {
            let value = value.as_f64().with_context(|| format!("{name} is no number"))?;
            Ok((name, value))
        };
        numbers.into_iter().map(number).collect()
    }
}
