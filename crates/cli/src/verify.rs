//! `overdue lab verify`: every scenario in a process of its own, its verdict against its truth.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use overdue_lab::{Caller, Scenario};
use tokio::{process::Command, sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    exit::{self, Exit},
    interrupt::{self, Interrupt, Threads},
    lab::{self, Told},
    plan,
    screen::{Ink, Screen},
    through,
    truth::{self, Mark},
};

/// How many scenarios run at a time. They wait more than they work.
const AT_A_TIME: u32 = 4;

/// No run takes longer: a call of the lab has 5 s, its fault server 15 s to start, its preparation 20 s.
const RUN_LIMIT: Duration = Duration::from_secs(45);

/// How each scenario is run.
#[derive(Clone, Copy)]
struct Runs {
    count: u32,
    /// With a gateway between caller and fault.
    through_gate: bool,
}

/// The runs of one scenario.
struct Row {
    scenario: &'static Scenario,
    /// How often each mark was given.
    marks: BTreeMap<Mark, u32>,
    /// The worst run, the first of its kind.
    worst: Option<Told>,
    /// Why there are no more runs.
    trouble: Option<String>,
}

impl Row {
    fn mark(&self) -> Option<Mark> {
        self.worst.as_ref().map(|worst| worst.result)
    }

    /// It does not when it was interrupted before its first run had ended.
    fn says_anything(&self) -> bool {
        self.worst.is_some() || self.trouble.is_some()
    }
}

pub(crate) fn run(names: &[String], json: bool, through_gate: bool, runs: u32) -> anyhow::Result<Exit> {
    let fits = |scenario: &&Scenario| !through_gate || through::misfit(scenario).is_none();
    let mut scenarios = match names {
        [] => overdue_lab::scenarios().iter().filter(fits).collect(),
        names => names.iter().map(|name| plan::scenario(name)).collect::<Result<Vec<_>, _>>()?,
    };
    // Those that run alone come last.
    scenarios.sort_by_key(|scenario| runs_alone(scenario));
    interrupt::run(Threads::One, |interrupt| verify(scenarios, json, Runs { count: runs, through_gate }, interrupt))
}

/// Whether a scenario disturbs others, or is disturbed by them: it measures this machine, not the network.
fn runs_alone(scenario: &Scenario) -> bool {
    matches!(scenario.call.caller, Caller::BlocksExecutor { .. } | Caller::SlowReader { .. } | Caller::NoFds)
}

async fn verify(
    scenarios: Vec<&'static Scenario>,
    json: bool,
    runs: Runs,
    interrupt: Interrupt,
) -> anyhow::Result<Exit> {
    let mut out = io::stdout();
    let screen = Screen::of(&out);
    let widths = Widths::of(&scenarios);
    let progress = progress(scenarios.len());
    if !json {
        let Widths { name, truth } = widths;
        let head = format!("{:name$}  {:truth$}  verdict", "scenario", "truth");
        writeln!(out, "{}", screen.ink(Ink::Dim, &head))?;
    }

    let mut rows = Vec::new();
    let mut running = start(&scenarios, runs, &interrupt);
    let mut early = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        let (place, row) = ended.context("a run ended in a panic")?;
        early.insert(place, row);
        // In the order of the table, however they end.
        while let Some(row) = early.remove(&rows.len()) {
            progress.inc(1);
            if !json && row.says_anything() {
                let text = widths.text(screen, &row, runs.count);
                progress.suspend(|| out.write_all(text.as_bytes()))?;
            }
            rows.push(row);
        }
    }
    progress.finish_and_clear();

    if json {
        writeln!(out, "{}", json_of(&rows, runs.count))?;
    } else {
        out.write_all(summary(screen, &rows).as_bytes())?;
    }
    end(&rows, &interrupt)
}

/// One task for each scenario. After Ctrl-C they end at once, and their processes with them.
fn start(scenarios: &[&'static Scenario], runs: Runs, interrupt: &Interrupt) -> JoinSet<(usize, Row)> {
    let turns = Arc::new(Semaphore::new(AT_A_TIME as usize));
    let mut running = JoinSet::new();
    for (place, &scenario) in scenarios.iter().enumerate() {
        let (turns, interrupt) = (Arc::clone(&turns), interrupt.clone());
        running.spawn(async move {
            let share = if runs_alone(scenario) { AT_A_TIME } else { 1 };
            let _turn = turns.acquire_many(share).await;
            let mut row = Row { scenario, marks: BTreeMap::new(), worst: None, trouble: None };
            for _ in 0..runs.count {
                let told = tokio::select! {
                    told = run_once(scenario, runs.through_gate) => told,
                    _ = interrupt.context().cancelled() => break,
                };
                match told {
                    Ok(told) => {
                        *row.marks.entry(told.result).or_default() += 1;
                        if row.mark().is_none_or(|worst| told.result > worst) {
                            row.worst = Some(told);
                        }
                    }
                    // Ctrl-C on a terminal ends the run, too.
                    Err(_) if interrupt.context().is_cancelled() => break,
                    Err(error) => {
                        row.trouble = Some(exit::words(&error));
                        break;
                    }
                }
            }
            (place, row)
        });
    }
    running
}

/// Runs this very program on one scenario, in a process that ends with this one.
async fn run_once(scenario: &Scenario, through_gate: bool) -> anyhow::Result<Told> {
    let run = Command::new("/proc/self/exe")
        .arg0("overdue")
        .args(["lab", "run", &scenario.name, "--json", "--owner"])
        .arg(std::process::id().to_string())
        .args(through_gate.then_some("--through-gate"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start this program once more")?;
    let ended = timeout(RUN_LIMIT, run.wait_with_output())
        .await
        .map_err(|_| anyhow!("it did not end within {} s and was killed", RUN_LIMIT.as_secs()))??;
    match ended.status.code() {
        Some(0 | 1) => serde_json::from_slice(&ended.stdout).context("it said something that is no result"),
        _ => {
            let complaint = String::from_utf8_lossy(&ended.stderr);
            let complaint = complaint.trim().trim_start_matches("error: ");
            ensure!(!complaint.is_empty(), "it ended with {}", ended.status);
            bail!("{complaint}")
        }
    }
}

fn end(rows: &[Row], interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let not_run: Vec<_> = rows.iter().filter(|row| row.trouble.is_some()).collect();
    if rows.iter().any(|row| row.mark().is_some_and(|mark| mark != Mark::Ok)) {
        return Ok(interrupt.or(Exit::Finding));
    }
    if interrupt.context().is_cancelled() || not_run.is_empty() {
        return Ok(interrupt.or(Exit::Fine));
    }
    bail!(
        "{} of {} scenarios could not be run: `overdue doctor` shows what this machine lacks",
        not_run.len(),
        rows.len()
    )
}

struct Widths {
    name: usize,
    truth: usize,
}

impl Widths {
    fn of(scenarios: &[&Scenario]) -> Self {
        let widest =
            |text: fn(&Scenario) -> String| scenarios.iter().map(|scenario| text(scenario).len()).max().unwrap_or(0);
        Self { name: widest(|scenario| scenario.name.clone()), truth: widest(short_truth) }
    }

    fn text(&self, screen: Screen, row: &Row, runs: u32) -> String {
        let Row { scenario, marks, worst, trouble } = row;
        let Self { name, truth } = *self;
        let mut out = format!("{:name$}  {:truth$}  ", scenario.name, short_truth(scenario));
        let mut words = Vec::new();
        for (mark, count) in marks {
            let times = if runs == 1 { String::new() } else { format!(" {count}/{runs}") };
            words.push(format!("{}{times}", lab::mark(screen, *mark)));
        }
        if trouble.is_some() {
            words.push(screen.ink(Ink::Yellow, "not run"));
        }
        out += &words.join(", ");
        out.push('\n');
        if let Some(worst) = worst.as_ref().filter(|worst| worst.result != Mark::Ok) {
            _ = writeln!(out, "    truth    {}", truth::of_truth(&scenario.truth));
            _ = writeln!(out, "    verdict  {}", worst.judged);
        }
        if let Some(trouble) = trouble {
            out.push_str(&screen.hanging("    ", trouble));
        }
        out
    }
}

/// The truth in the fewest words: `server-slow in wait`.
fn short_truth(scenario: &Scenario) -> String {
    let causes: Vec<_> = scenario.truth.causes.iter().map(|cause| cause.id()).collect();
    match scenario.truth.stage {
        Some(stage) => format!("{} in {stage}", causes.join(" or ")),
        None => scenario.truth.outcome.as_str().to_owned(),
    }
}

fn summary(screen: Screen, rows: &[Row]) -> String {
    let count = |mark| rows.iter().filter(|row| row.trouble.is_none() && row.mark() == Some(mark)).count();
    let not_run = rows.iter().filter(|row| row.trouble.is_some()).count();
    let mut parts = vec![format!("{} of {} judged as their truth", count(Mark::Ok), rows.len())];
    for (count, words) in [(count(Mark::Unknown), "unknown"), (count(Mark::Wrong), "WRONG"), (not_run, "not run")] {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    let ink = if count(Mark::Ok) == rows.len() { Ink::Green } else { Ink::Red };
    format!("\n{}\n", screen.ink(ink, &parts.join(", ")))
}

fn json_of(rows: &[Row], runs: u32) -> serde_json::Value {
    let row = |row: &Row| {
        let count = |mark| row.marks.get(&mark).copied().unwrap_or(0);
        serde_json::json!({
            "scenario": row.scenario.name,
            "result": match (row.mark(), &row.trouble) {
                (Some(mark), None) => serde_json::json!(mark),
                (Some(mark), Some(_)) if mark != Mark::Ok => serde_json::json!(mark),
                _ => serde_json::json!("not-run"),
            },
            "ok": count(Mark::Ok),
            "unknown": count(Mark::Unknown),
            "wrong": count(Mark::Wrong),
            "truth": truth::json(&row.scenario.truth),
            "differences": row.worst.as_ref().map(|worst| &worst.differences),
            "trouble": row.trouble,
            "report": row.worst.as_ref().map(|worst| &worst.report),
        })
    };
    serde_json::json!({
        "schema": "overdue.lab-verify/1",
        "runs": runs,
        "scenarios": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// A bar on stderr; nothing where that is no terminal.
fn progress(scenarios: usize) -> ProgressBar {
    let bar = ProgressBar::new(scenarios as u64);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} scenarios, {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
