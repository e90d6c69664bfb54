//! `overdue demo`: eight faults on loopback that a log calls by one name, each told apart.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use overdue_core::Report;

use crate::{
    drive::{Ran, run_scenario},
    exit::Exit,
    interrupt::{self, Interrupt, Threads},
    lab, plan, render,
    screen::{Ink, Screen},
    truth::{Comparison, Mark},
};

/// What a caller with nothing but a deadline gets to read, whichever of these it is.
const LOG_LINE: &str = "context deadline exceeded";

/// The scenarios in the order of the story, each with what it is told for.
const STORY: [(&str, &str); 8] = [
    ("no-head", "The server accepts, reads the request, and never answers. This is what everybody suspects first."),
    (
        "executor-blocked",
        "Here the server answers in time. The caller blocks its own runtime, and its timer fires late.",
    ),
    ("pool-exhausted", "Here the request never leaves: the only connection of the pool is held by another call."),
    ("dns-silent", "Here there is no connection yet: the DNS server does not answer."),
    ("backlog-full", "Here the server runs but does not accept. On the wire that looks like a firewall."),
    ("tls-silent", "Here the connection is up, and then nobody speaks TLS."),
    ("upload-not-read", "Here the server does not read what it is sent, and TCP tells the caller to stop."),
    ("h2-no-window", "The same from above, but TCP is well: it is HTTP/2's own window that stays shut."),
];

const NEXT: &str = "\
Try next:
  overdue get https://your.service/ --total 2s    a call of your own
  overdue get https://your.service/ -n 200 -c 10  its percentiles, by stage
  sudo overdue why --pid 4242                     what a process waits for
  overdue explain server-slow                     what a cause means
  overdue lab list                                more faults to call (lab:NAME)
  overdue doctor                                  what this machine lets us see
";

pub(crate) fn run() -> anyhow::Result<Exit> {
    interrupt::run(Threads::One, tell)
}

async fn tell(interrupt: Interrupt) -> anyhow::Result<Exit> {
    let mut out = io::stdout();
    let screen = Screen::of(&out);
    let opening = format!(
        "Eight calls to servers on this machine, each with another fault. Your log would say the same about all of \
         them: `{LOG_LINE}`. Here is what it was.",
    );
    out.write_all(screen.hanging("", &opening).as_bytes())?;

    let mut told = Vec::new();
    for (place, (name, about)) in STORY.into_iter().enumerate() {
        let scenario = plan::scenario(name)?;
        let title = screen.ink(Ink::Bold, &format!("{} of {}  {name}", place + 1, STORY.len()));
        let log = screen.ink(Ink::Dim, &format!("your log today: {LOG_LINE}"));
        write!(out, "\n{title}   {log}\n{}\n", screen.hanging("", about))?;
        out.flush()?;

        let waiting = waiting();
        let ran = run_scenario(scenario, interrupt.context()).await?;
        waiting.finish_and_clear();
        out.write_all(one(screen, &ran).as_bytes())?;
        if interrupt.context().is_cancelled() {
            return Ok(Exit::Interrupted);
        }
        let mark = Comparison::of(&ran.called.answer.report, &scenario.truth).mark;
        told.push((name, mark, ran.called.answer.report));
    }
    out.write_all(summary(screen, &told).as_bytes())?;
    Ok(if told.iter().all(|(_, mark, _)| *mark == Mark::Ok) { Exit::Fine } else { Exit::Finding })
}

fn one(screen: Screen, ran: &Ran) -> String {
    let report = &ran.called.answer.report;
    let mut out = format!("{}\n", render::waterfall(screen, report, &ran.limits));
    if let Some(verdict) = report.verdicts.first() {
        out.push_str(&render::short(screen, verdict));
    }
    out
}

fn summary(screen: Screen, told: &[(&str, Mark, Report)]) -> String {
    let mut out = String::new();
    let head = format!("{:25}  {:8}  {:18}  {:10}  verdict", "your log", "stage", "cause", "confidence");
    _ = writeln!(out, "\n{}", screen.ink(Ink::Dim, &head));
    for (_, mark, report) in told {
        let verdict = report.verdicts.first();
        let (stage, cause) = verdict.map_or(("-", "-"), |verdict| (verdict.stage, verdict.cause.id()));
        let confidence = verdict.map_or("-", |verdict| verdict.confidence.as_str());
        let mark = if *mark == Mark::Ok { screen.ink(Ink::Green, "right") } else { lab::mark(screen, *mark) };
        _ = writeln!(out, "{LOG_LINE}  {stage:8}  {cause:18}  {confidence:10}  {mark}");
    }
    out.push('\n');
    out + NEXT
}

/// Something that moves on stderr; nothing where that is no terminal.
fn waiting() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} calling, {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
