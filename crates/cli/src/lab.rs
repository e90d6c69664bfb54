//! `overdue lab list` and `overdue lab run`: the scenarios, and one of them beside its truth.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use anyhow::Context as _;
use overdue_lab::{Scenario, netns};
use serde::{Deserialize, Serialize};

use crate::{
    drive::{Ran, run_scenario},
    exit::Exit,
    interrupt::{self, Threads},
    plan, render,
    screen::{Ink, Screen},
    started::die_with,
    through,
    truth::{self, Comparison, Judged, Mark},
};

/// What one run of a scenario tells another process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) schema: String,
    pub(crate) scenario: String,
    pub(crate) result: Mark,
    pub(crate) truth: serde_json::Value,
    /// The verdict in one line.
    pub(crate) judged: String,
    pub(crate) differences: Vec<String>,
    pub(crate) report: serde_json::Value,
}

pub(crate) fn list() -> anyhow::Result<Exit> {
    let mut out = io::stdout();
    let screen = Screen::of(&out);
    let mut text = String::new();
    let scenarios = overdue_lab::scenarios();
    let widest = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    for scenario in scenarios {
        let needs = if scenario.needs.namespace { " It needs a network namespace." } else { "" };
        text.push_str(&screen.hanging(&format!("{:widest$}  ", scenario.name), &format!("{}{needs}", scenario.about)));
        let truth = format!("{:widest$}  {}", "", truth::of_truth(&scenario.truth));
        _ = writeln!(text, "{}", screen.ink(Ink::Dim, &truth));
    }
    _ = writeln!(text, "\n{} scenarios: overdue lab run NAME, overdue get lab:NAME", scenarios.len());
    out.write_all(text.as_bytes())?;
    Ok(Exit::Fine)
}

pub(crate) fn run(name: &str, json: bool, through_gate: bool, owner: Option<i32>) -> anyhow::Result<Exit> {
    let scenario = plan::scenario(name)?;
    if scenario.needs.namespace {
        netns::enter().with_context(|| format!("{name} needs a network namespace"))?;
    }
    // After the namespace: entering one takes it back.
    if let Some(owner) = owner {
        die_with(owner)?;
    }
    if through_gate {
        return run_through_gate(scenario, json);
    }
    interrupt::run(Threads::One, |interrupt| async move {
        let ran = run_scenario(scenario, interrupt.context()).await?;
        let report = &ran.called.answer.report;
        let mut out = io::stdout();
        let screen = Screen::of(&out);
        if interrupt.context().is_cancelled() {
            out.write_all(render::report(screen, report, &ran.limits).as_bytes())?;
            return Ok(Exit::Interrupted);
        }
        let comparison = Comparison::of(report, &scenario.truth);
        let text = if json {
            told(scenario, &comparison, truth::of_report(report), serde_json::to_value(report)?)?
        } else {
            text(screen, scenario, &ran, &comparison)
        };
        out.write_all(text.as_bytes())?;
        Ok(if comparison.mark == Mark::Ok { Exit::Fine } else { Exit::Finding })
    })
}

fn run_through_gate(scenario: &'static Scenario, json: bool) -> anyhow::Result<Exit> {
    interrupt::run(Threads::One, |interrupt| async move {
        let report = through::run(scenario, interrupt.context()).await?;
        if interrupt.context().is_cancelled() {
            return Ok(Exit::Interrupted);
        }
        let judged = Judged::of_json(&report).context("the gateway's line is no report")?;
        let comparison = Comparison::of(judged, &scenario.truth);
        let mut out = io::stdout();
        let text = if json {
            told(scenario, &comparison, judged.line(), report.clone())?
        } else {
            let screen = Screen::of(&out);
            let mut text = format!("{}\n{}\n\n", screen.ink(Ink::Bold, &scenario.name), scenario.about);
            _ = writeln!(text, "{}\n  {report}", screen.ink(Ink::Bold, "THE GATEWAY'S LINE"));
            beside_the_truth(&mut text, screen, scenario, &judged.line(), &comparison);
            text
        };
        out.write_all(text.as_bytes())?;
        Ok(if comparison.mark == Mark::Ok { Exit::Fine } else { Exit::Finding })
    })
}

fn told(
    scenario: &Scenario,
    comparison: &Comparison,
    judged: String,
    report: serde_json::Value,
) -> anyhow::Result<String> {
    let told = Told {
        schema: "overdue.lab/1".to_owned(),
        scenario: scenario.name.clone(),
        result: comparison.mark,
        truth: truth::json(&scenario.truth),
        judged,
        differences: comparison.differences.clone(),
        report,
    };
    Ok(serde_json::to_string(&told)? + "\n")
}

fn text(screen: Screen, scenario: &Scenario, ran: &Ran, comparison: &Comparison) -> String {
    let report = &ran.called.answer.report;
    let mut out = format!("{}\n{}\n\n", screen.ink(Ink::Bold, &scenario.name), scenario.about);
    out.push_str(&render::report(screen, report, &ran.limits));
    beside_the_truth(&mut out, screen, scenario, &truth::of_report(report), comparison);
    out
}

fn beside_the_truth(out: &mut String, screen: Screen, scenario: &Scenario, judged: &str, comparison: &Comparison) {
    _ = writeln!(out, "\n{}", screen.ink(Ink::Bold, "BESIDE THE TRUTH"));
    _ = writeln!(out, "  truth    {}", truth::of_truth(&scenario.truth));
    _ = writeln!(out, "  verdict  {judged}");
    _ = writeln!(out, "  {}", mark(screen, comparison.mark));
    for difference in &comparison.differences {
        _ = writeln!(out, "  {difference}");
    }
}

/// `ok`, `unknown` or `WRONG`.
pub(crate) fn mark(screen: Screen, mark: Mark) -> String {
    match mark {
        Mark::Ok => screen.ink(Ink::Green, "ok"),
        Mark::Unknown => screen.ink(Ink::Yellow, "unknown"),
        Mark::Wrong => screen.ink(Ink::Red, "WRONG"),
    }
}
