//! First aid as the user meets it: what would be done, and with `--allow-changes` each step said, done, and looked at.

use std::io;

use overdue_why::{
    Report,
    aid::FirstAid,
    collect::{Target, aid},
};

use crate::screen::{Ink, Screen};

/// Columns of a label, with the space behind it.
const LABEL: usize = 10;

/// What could be done, and how to have it done. Empty where no verdict calls for it.
pub(crate) fn planned(screen: Screen, report: &Report) -> String {
    if report.first_aid.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{}\n", screen.ink(Ink::Bold, "FIRST AID, to buy time"));
    for aid in &report.first_aid {
        out.push_str(&screen.hanging("  - ", &aid.plan));
        if let Some(why) = &aid.withheld {
            out.push_str(&screen.hanging("    not given: ", why));
        }
    }
    if report.first_aid.iter().all(|aid| aid.withheld.is_some()) {
        return out;
    }
    let command = format!("overdue why --pid {} --allow-changes", report.process.pid);
    out + &screen.hanging("  ", &format!("`{command}` does it, and says first what that means."))
}

/// Gives it, one step after the other. What cannot be said is not done either.
pub(crate) fn give(
    target: &Target,
    all: &mut [FirstAid],
    screen: Screen,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let title = screen.ink(Ink::Bold, "FIRST AID");
    if all.is_empty() {
        let none = "no verdict calls for anything that can be done from outside: nothing is changed";
        out.write_all(format!("\n{title}\n{}", screen.hanging("  ", none)).as_bytes())?;
        return Ok(());
    }
    for step in all {
        let mut before = format!("\n{title} for {}\n", step.cause);
        before.push_str(&screen.hanging("  now:      ", &step.plan));
        before.push_str(&screen.hanging("  means:    ", &step.means));
        before.push_str(&screen.hanging("  for good: ", &step.lasting));
        if let Some(why) = &step.withheld {
            before.push_str(&screen.hanging("  withheld: ", why));
        }
        out.write_all(before.as_bytes())?;
        out.flush()?;
        aid::give(target, step);
        let mut after = String::new();
        if let Some(result) = &step.result {
            after.push_str(&screen.hanging(&format!("  {}     ", screen.ink(Ink::Green, "done:")), result));
        }
        if let Some(error) = &step.error {
            let what = if step.done { "besides:" } else { "not done:" };
            let space = " ".repeat(LABEL.saturating_sub(what.len()));
            after.push_str(&screen.hanging(&format!("  {}{space}", screen.ink(Ink::Yellow, what)), error));
        }
        out.write_all(after.as_bytes())?;
    }
    Ok(())
}
