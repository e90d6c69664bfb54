//! A report of a process as text: what a tired reader needs first, then what it rests on.

pub(crate) mod connections;

use std::fmt::Write as _;

use overdue_core::Cause;
use overdue_why::{
    Report, by_remedy,
    judge::Finding,
    observation::{Child, Ending, Hidden, Process, Runtime},
};

use super::{fix, section, time};
use crate::screen::{Ink, Screen, harmless};

/// All that a report says.
pub(crate) fn report(screen: Screen, report: &Report) -> String {
    let mut out = headline(screen, report);
    if report.verdicts.is_empty() {
        let (ink, nothing) = nothing(report);
        _ = write!(out, "\n{}", screen.ink(ink, &screen.hanging("", &nothing)));
    }
    for finding in &report.verdicts {
        out.push('\n');
        out.push_str(&verdict(screen, finding));
    }
    for advisory in &report.advisories {
        let verdict = &advisory.verdict;
        let title = format!("{} {}", screen.ink(Ink::Yellow, "ALSO"), verdict.cause);
        out.push_str(&section(screen, &title, &verdict.summary));
        out.push_str(&screen.hanging("  fix: ", &verdict.fix));
    }
    out.push_str(&connections::connections(screen, report));
    out.push_str(&not_visible(screen, report));
    out.push_str(&cost(screen, report));
    if let Some(cause) = report.cause {
        let more = format!("More about it: overdue explain {cause}");
        _ = writeln!(out, "{}", screen.ink(Ink::Dim, &more));
    }
    out
}

/// That no verdict was reached, and how much that is worth.
pub(crate) fn nothing(report: &Report) -> (Ink, String) {
    let found = format!("nothing wrong was found in {}", time(report.elapsed_us));
    let blinds = ["descriptors", "reads and writes of connections"];
    let is_blind = report.not_visible.iter().any(|hidden| blinds.iter().any(|what| hidden.what.contains(what)));
    if let Some(ended) = report.process.ended.filter(|ended| !ended.is_well()) {
        let also = if report.advisories.is_empty() { "" } else { " for certain: ALSO says what may" };
        (Ink::Red, format!("nothing that was watched explains that end{also}. {}", after(ended, report.process.pid)))
    } else if report.process.stopped {
        let stopped = "it is stopped, by a signal or a debugger: nothing of it runs until it is continued (SIGCONT)";
        (Ink::Yellow, stopped.to_owned())
    } else if report.process.only_waits_for_children {
        (Ink::Yellow, "it only waits for its children, and of those nothing is known: they were not watched".to_owned())
    } else if is_blind {
        (Ink::Yellow, format!("{found}, of the little that could be seen: see NOT VISIBLE"))
    } else if report.advisories.iter().any(is_doubted) {
        let text = format!(
            "nothing that is wrong for certain was found in {}: ALSO says what may be",
            time(report.elapsed_us)
        );
        (Ink::Yellow, text)
    } else {
        (Ink::Green, found)
    }
}

/// Whether it is a fault or what the program is for, nobody can tell from outside.
fn is_doubted(remark: &Finding) -> bool {
    remark.verdict.rejected.iter().any(|other| other.cause == Cause::Unknown)
}

/// Where to look for the reason of an end that is not well.
fn after(ended: Ending, pid: u32) -> String {
    let (signal, core) = match ended {
        Ending::Exited { code: code @ 129..=159 } => {
            let killed = Ending::Killed { signal: code - 128, core: false };
            return format!("A shell exits so when what it ran {killed}: watch that command itself");
        }
        Ending::Exited { .. } => {
            return "The code is its own word: what it printed or logged last says more".to_owned();
        }
        Ending::Killed { signal, core } => (signal, core),
    };
    match signal {
        4..=8 | 11 | 31 if core => format!("It crashed: `coredumpctl gdb {pid}` shows where, or gdb with the core"),
        4..=8 | 11 | 31 => {
            "It crashed: let it leave a core (`ulimit -c unlimited`, /proc/sys/kernel/core_pattern), or run \
                            it in gdb"
                .to_owned()
        }
        9 => "Somebody else killed it, or the kernel did for want of memory: `dmesg | grep -i oom` tells".to_owned(),
        13 => "It wrote to a pipe or a connection that nobody reads any more".to_owned(),
        14 => "Its own alarm ended it".to_owned(),
        24 | 25 => "It reached a limit that was set for it: `ulimit -a`".to_owned(),
        _ => "Somebody asked it to end".to_owned(),
    }
}

/// Who was watched, and for how long.
fn headline(screen: Screen, report: &Report) -> String {
    let process = &report.process;
    let name = harmless(&process.name);
    let mut what = vec![format!("pid {}", process.pid)];
    match &process.runtime {
        Runtime::Native => {}
        Runtime::Go { version } => what.push(harmless(version)),
        other => what.push(format!("{other:?}").to_lowercase()),
    }
    what.extend(report.up_us().map(|us| format!("up {}", time(us))));
    what.push(format!("watched {}", time(report.elapsed_us)));
    let mut out = format!("{}  {}\n", screen.ink(Ink::Bold, &name), what.join(", "));
    if let Some(us) = process.ended_at_us {
        let how = process.ended.map_or("ended".to_owned(), |ended| ended.to_string());
        _ = writeln!(out, "{}", screen.ink(Ink::Yellow, &format!("it {how} {} after the watch began", time(us))));
    }
    if !process.command.is_empty() {
        out.push_str(&screen.ink(Ink::Dim, &screen.hanging("  ", &process.command.join(" "))));
    }
    out.push_str(&children(screen, process));
    out
}

/// Children, who were not watched, the busiest first: of one that only waits for them, how to watch the one that works.
fn children(screen: Screen, process: &Process) -> String {
    /// Who starts others and waits, mostly.
    const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ash", "ksh"];
    let exec = SHELLS.contains(&process.name.as_str()).then(|| {
        screen.hanging("  ", "or let the shell become the command that matters: `overdue why -- sh -c 'exec ...'`")
    });
    if process.children.is_empty() && process.only_waits_for_children {
        let ended = "it did nothing but wait for children, which have ended: watch the command itself, \
                     `overdue why -- COMMAND ...`";
        return screen.ink(Ink::Yellow, &screen.hanging("  ", ended)) + &exec.unwrap_or_default();
    }
    if process.children.is_empty() {
        return String::new();
    }
    let work = |child: &Child| {
        let sockets = match child.sockets {
            Some(1) => ", 1 socket".to_owned(),
            Some(many) if many > 0 => format!(", {many} sockets"),
            _ => String::new(),
        };
        format!("{} {} ({} of processor time{sockets})", child.pid, child.name, time(child.cpu_us))
    };
    let shown: Vec<_> = process.busiest_children.iter().take(4).map(work).collect();
    let more = process.children.len().saturating_sub(shown.len());
    let more = if more > 0 && !shown.is_empty() { format!(", and {more} more") } else { String::new() };
    let shown = if shown.is_empty() {
        process.children.iter().take(8).map(u32::to_string).collect::<Vec<_>>().join(", ")
    } else {
        shown.join(", ")
    };
    let text = format!("its children were not watched: {shown}{more}");
    let Some(first) = process.busiest_children.first().filter(|_| process.only_waits_for_children) else {
        return screen.hanging("  ", &format!("{text} (`--pid` each)"));
    };
    let mut out = screen.ink(Ink::Yellow, "  it does nothing but wait for its children") + "\n";
    // What was started to be watched has been ended with all its children.
    let again = match process.exec_at_us {
        None => format!("watch the one that works: `overdue why --pid {}`", first.pid),
        Some(_) => format!("run the one that works itself: `overdue why -- {} ...`", first.name),
    };
    out.push_str(&screen.hanging("  ", &again));
    out.push_str(&exec.unwrap_or_default());
    out + &screen.hanging("  ", &text)
}

/// The cause, what was seen of it, what it rests on, what to do, and what follows from it.
pub(crate) fn verdict(screen: Screen, finding: &Finding) -> String {
    let verdict = &finding.verdict;
    let share = if verdict.share >= 0.005 {
        format!(", {:.0} % of {}", verdict.share * 100.0, finding.share_of.as_str())
    } else {
        String::new()
    };
    let title = format!("VERDICT {}, {} confidence{share}", verdict.cause, verdict.confidence);
    let mut out = format!("{}\n{}", screen.ink(Ink::Red, &title), screen.hanging("  ", &verdict.summary));
    if !verdict.evidence.is_empty() {
        _ = writeln!(out, "\n{}", screen.ink(Ink::Bold, "EVIDENCE"));
    }
    for evidence in &verdict.evidence {
        out.push_str(&screen.hanging(&format!("  {:9}  ", evidence.source.as_str()), &evidence.text));
    }
    for rejected in &verdict.rejected {
        let title = format!("{} {}", screen.ink(Ink::Bold, "REJECTED"), rejected.cause);
        out.push_str(&section(screen, &title, &rejected.why));
    }
    out.push_str(&fix(screen, verdict));
    if !finding.effects.is_empty() {
        _ = writeln!(out, "\n{}", screen.ink(Ink::Bold, "WHAT FOLLOWS FROM IT"));
    }
    for effect in &finding.effects {
        effects(screen, effect, "  ", &mut out);
    }
    out
}

fn effects(screen: Screen, finding: &Finding, before: &str, out: &mut String) {
    let first = format!("{before}{}  ", screen.ink(Ink::Bold, finding.verdict.cause.id()));
    out.push_str(&screen.hanging(&first, &finding.verdict.summary));
    for effect in &finding.effects {
        effects(screen, effect, &format!("{before}  "), out);
    }
}

/// What one reason hides, said together.
pub(crate) fn by_reason<'a>(hidden: &[&'a Hidden]) -> Vec<(&'a str, String)> {
    let mut whys: Vec<(&str, String)> = Vec::new();
    for Hidden { what, why, .. } in hidden {
        match whys.iter_mut().find(|(reason, _)| reason == why) {
            Some((_, whats)) => *whats = format!("{whats}; {what}"),
            None => whys.push((why, what.clone())),
        }
    }
    whys
}

/// What cannot be seen and why. Where one remedy would show several, it stands once, behind them.
pub(crate) fn hidden_lines(not_visible: &[Hidden]) -> Vec<String> {
    let mut lines = Vec::new();
    for (how, hidden) in by_remedy(not_visible) {
        let first = lines.len();
        lines.extend(by_reason(&hidden).into_iter().map(|(why, what)| format!("{what}: {why}")));
        match (lines.len() - first, lines.last_mut()) {
            // It has ended, and nothing would show it.
            _ if how.is_empty() => {}
            (1, Some(line)) => *line = format!("{line}. To see it: {how}"),
            _ => lines.push(format!("To see these: {how}")),
        }
    }
    lines
}

fn not_visible(screen: Screen, report: &Report) -> String {
    if report.not_visible.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{}\n", screen.ink(Ink::Bold, "NOT VISIBLE"));
    for line in hidden_lines(&report.not_visible) {
        out.push_str(&screen.hanging("  ", &line));
    }
    out
}

/// What the watching cost, in one line.
fn cost(screen: Screen, report: &Report) -> String {
    let cost = &report.overhead;
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    let in_kernel = cost.bpf_us.map(|us| format!(", {} in the kernel", time(us))).unwrap_or_default();
    let dropped = match cost.dropped_events {
        0 => "nothing dropped".to_owned(),
        many => format!("{many} events dropped"),
    };
    // Of the process it is said apart: a share of little processor time is no delay.
    let slowed = match cost.lost_us.zip(cost.slowdown_ppm) {
        Some((us, ppm)) => format!(" It cost the process some {} (estimated), {} of its own.", time(us), percent(ppm)),
        None => String::new(),
    };
    let text = format!(
        "Watching cost {} of processor time{in_kernel}, {} (maps {}); attached in {}; {dropped}.{slowed}",
        time(cost.cpu_us),
        megabytes(cost.rss_bytes),
        megabytes(cost.map_bytes),
        time(cost.attach_us),
    );
    format!("\n{}", screen.ink(Ink::Dim, &screen.hanging("", &text)))
}

/// Millionths for a reader.
fn percent(ppm: u64) -> String {
    match ppm {
        0..100 => "less than 0.01 %".to_owned(),
        100..10_000 => format!("{:.2} %", ppm as f64 / 1e4),
        _ => format!("{:.1} %", ppm as f64 / 1e4),
    }
}

#[cfg(test)]
mod tests;
