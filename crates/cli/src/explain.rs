//! `overdue explain`: the catalogue of causes, offline.

use std::io::{self, Write};

use anyhow::bail;
use overdue_core::{Cause, Entry, Group};

use crate::{
    exit::Exit,
    screen::{Ink, Screen},
};

const GROUPS: [(Group, &str); 3] = [
    (Group::Call, "A CALL: what ended it"),
    (Group::Configuration, "A CONFIGURATION: limits that fight each other"),
    (Group::Process, "A PROCESS: what is wrong with it as a whole"),
];

pub(crate) fn run(id: Option<&str>) -> anyhow::Result<Exit> {
    let mut out = io::stdout();
    let screen = Screen::of(&out);
    let text = match id {
        None => list(screen),
        Some(id) => match id.trim().to_ascii_lowercase().parse::<Cause>() {
            Ok(cause) => entry(screen, cause.entry()),
            Err(unknown) => {
                let alike = Cause::ALL.iter().copied().filter(|cause| shares_a_word(id, cause.id()));
                let alike = alike.filter(|cause| Some(*cause) != unknown.nearest());
                let near: Vec<_> = unknown.nearest().into_iter().chain(alike).map(Cause::id).take(8).collect();
                let near = if near.is_empty() { String::new() } else { format!(" (near it: {})", near.join(", ")) };
                let shown: String = id.chars().take(40).collect();
                bail!("{shown:?} is no cause{near}; `overdue explain` lists all")
            }
        },
    };
    out.write_all(text.as_bytes())?;
    Ok(Exit::Fine)
}

fn shares_a_word(id: &str, known: &str) -> bool {
    id.split('-').any(|word| word.len() > 2 && known.split('-').any(|other| other == word))
}

fn list(screen: Screen) -> String {
    let mut out = String::new();
    let widest = Cause::ALL.iter().map(|cause| cause.id().len()).max().unwrap_or(0);
    for (group, title) in GROUPS {
        out.push_str(&screen.ink(Ink::Bold, title));
        out.push('\n');
        for cause in Cause::ALL.iter().filter(|cause| cause.group() == group) {
            let advisory = if cause.is_advisory() { " (advisory)" } else { "" };
            let text = format!("{}{advisory}", cause.entry().title);
            out.push_str(&screen.hanging(&format!("  {:widest$}  ", cause.id()), &text));
        }
        out.push('\n');
    }
    out + "overdue explain CAUSE says what it means, how to confirm it and how to mend it.\n"
}

fn entry(screen: Screen, entry: &Entry) -> String {
    let heading = |title: &str| format!("\n{}\n", screen.ink(Ink::Bold, title));
    let points = |points: &[&str]| -> String { points.iter().map(|point| screen.hanging("  - ", point)).collect() };
    let stages = match entry.stages {
        ["any"] => "in any stage".to_owned(),
        stages => format!("in {}", stages.join(", ")),
    };
    [
        format!("{}: {}\n", screen.ink(Ink::Bold, entry.id), entry.title),
        screen.hanging("", &format!("Seen {stages}.")),
        heading("WHAT HAPPENED"),
        screen.hanging("  ", entry.meaning),
        heading("WHAT LOOKS LIKE IT"),
        screen.hanging("  ", entry.look_alikes),
        heading("CONFIRM"),
        points(entry.confirm),
        heading("FIX"),
        points(entry.fix),
    ]
    .concat()
}
