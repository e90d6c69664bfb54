//! Who was watched, how, what of it could not be seen, and what the watching cost.

use overdue_why::{
    Observation, Report, by_remedy,
    observation::{Process, Runtime},
};

use super::{
    html::{Element, el},
    states::bytes,
};
use crate::render::{time, why::by_reason};

/// Lines that are shown of each kind.
const SHOWN: usize = 64;

/// The head of the page: who, and for how long.
pub(super) fn headline(report: &Report) -> Element {
    let process = &report.process;
    let mut what = vec![format!("pid {}", process.pid)];
    what.extend(runtime(process));
    what.extend(report.up_us().map(|us| format!("up {}", time(us))));
    what.push(format!("watched {}", time(report.elapsed_us)));
    let command: Vec<&str> = process.command.iter().take(SHOWN).map(String::as_str).collect();
    let how = process.ended.map_or("ended".to_owned(), |ended| ended.to_string());
    let ended = process
        .ended_at_us
        .map(|us| el("p").class("note").text(format!("It {how} {} after the watch began.", time(us))));
    el("header")
        .child(el("p").class("brand").text("overdue why"))
        .child(el("h1").text(name(process)).child(el("small").text(what.join(" · "))))
        .children((!command.is_empty()).then(|| el("p").class("command").child(el("code").text(command.join(" ")))))
        .children(ended)
}

/// A name to call it by.
pub(super) fn name(process: &Process) -> &str {
    if process.name.is_empty() { "a process" } else { &process.name }
}

fn runtime(process: &Process) -> Option<String> {
    match &process.runtime {
        Runtime::Native => None,
        Runtime::Go { version } => Some(version.clone()),
        other => Some(format!("{other:?}").to_lowercase()),
    }
}

/// What could not be seen; a remedy stands once, beside all that it would show.
pub(super) fn not_visible(report: &Report) -> Option<Element> {
    let hidden = |(why, what): (&str, String)| el("p").child(el("b").text(what)).text(": ").prose(why);
    let rows = by_remedy(&report.not_visible).into_iter().take(SHOWN).map(|(how, all)| {
        let reasons = by_reason(&all).into_iter().take(SHOWN).map(hidden);
        el("tr").child(el("td").children(reasons)).child(el("td").prose(how))
    });
    let head = ["not visible, and why", "to see it"].map(|text| el("th").with("scope", "col").text(text));
    let table = el("table").class("hidden").child(el("thead").child(el("tr").children(head)));
    (!report.not_visible.is_empty()).then(|| {
        el("section")
            .with("aria-labelledby", "not-visible")
            .child(el("h2").with("id", "not-visible").text("What could not be seen"))
            .child(table.child(el("tbody").children(rows)))
    })
}

/// How it was watched, and at what cost.
pub(super) fn watching(report: &Report, seen: &Observation) -> Element {
    let process = &report.process;
    let cost = &report.overhead;
    let children: Vec<String> = process.children.iter().take(8).map(u32::to_string).collect();
    let children = match process.children.len() {
        0 => None,
        many if many > children.len() => Some(format!("{}, and {} more", children.join(", "), many - children.len())),
        _ => Some(children.join(", ")),
    };
    let rows = [
        ("program", process.exe.clone()),
        ("its children, not watched", children),
        ("it became another program", process.exec_at_us.map(|us| format!("{} after the watch began", time(us)))),
        ("watched", Some(time(report.elapsed_us))),
        ("sockets", seen.sockets.as_ref().map(|sockets| format!("{} looks by sock_diag", sockets.rounds))),
        ("descriptors", seen.fds.as_ref().map(|fds| format!("{} looks in /proc", fds.open.len()))),
        (
            "threads",
            seen.threads.as_ref().map(|threads| format!("{} of them, by looks in /proc", threads.threads.len())),
        ),
        (
            "lives of connections",
            seen.connections.as_ref().map(|connections| match connections.transfers_us {
                Some(us) => format!("events of the kernel; reads and writes for {}", time(us)),
                None => "events of the kernel; reads and writes not seen".to_owned(),
            }),
        ),
        ("system calls", seen.calls.as_ref().map(|calls| format!("counted for {}", time(calls.looked_us)))),
        ("event loops", seen.polling.as_ref().map(|_| "in short windows".to_owned())),
        (
            "samples of the processor",
            seen.cpu.as_ref().filter(|cpu| cpu.hot.is_some()).map(|cpu| cpu.samples.to_string()),
        ),
        (
            "goroutines",
            seen.go.as_ref().map(|go| format!("{} looks at the memory of the process", go.goroutines.len())),
        ),
        ("processor time of the watcher", Some(time(cost.cpu_us))),
        ("processor time in the kernel's programs", cost.bpf_us.map(time)),
        (
            "memory of the watcher",
            Some(format!("{}, maps in the kernel {}", bytes(cost.rss_bytes as f64), bytes(cost.map_bytes as f64))),
        ),
        ("attached in", Some(time(cost.attach_us))),
        ("events dropped", Some(cost.dropped_events.to_string())),
        ("overdue", Some(env!("CARGO_PKG_VERSION").to_owned())),
    ];
    let rows = rows.into_iter().filter_map(|(what, text)| {
        Some(el("tr").child(el("th").with("scope", "row").text(what)).child(el("td").text(text?)))
    });
    el("section")
        .with("aria-labelledby", "watching")
        .child(el("h2").with("id", "watching").text("How it was watched, and what that cost"))
        .child(el("table").class("about").child(el("tbody").children(rows)))
}
