//! `overdue get`: one call with its waterfall and verdict, or many with their percentiles.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use overdue_core::Report;
use overdue_lab::{Fault, netns};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    args::Get,
    drive::{Called, NotFollowed, Ready},
    exit::{self, Exit},
    interrupt::{self, Interrupt, Threads},
    plan::{Plan, scenario_of},
    render,
    screen::{Ink, Screen, harmless},
    sink::Output,
    tally::{Tally, bytes},
};

pub(crate) fn run(flags: &Get) -> anyhow::Result<Exit> {
    let scenario = scenario_of(&flags.url)?;
    if let Some(scenario) = scenario.filter(|scenario| scenario.needs.namespace) {
        netns::enter().with_context(|| format!("{} needs a network namespace", scenario.name))?;
    }
    let fault = scenario.map(Fault::start).transpose()?;
    let mut plan = match (scenario, &fault) {
        (Some(scenario), Some(fault)) => Plan::of_scenario(scenario, fault)?,
        _ => Plan::of_url(&flags.url)?,
    };
    plan.change(flags)?;

    // A single call is disturbed by nothing on a thread of its own, and the callers of the lab count on that.
    let threads = if flags.number.is_some() && fault.is_none() { Threads::Many } else { Threads::One };
    interrupt::run(threads, |interrupt| async move {
        let ready = Ready::new(plan, fault, interrupt.context()).await?;
        match flags.number {
            None => one(flags, &ready, &interrupt).await,
            Some(number) => many(flags, ready, number, &interrupt).await,
        }
    })
}

async fn one(flags: &Get, ready: &Ready, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let output = match flags.output.as_deref() {
        None => Output::Counted,
        Some(path) if path == Path::new("-") => Output::Stdout,
        Some(path) => Output::File(path.to_owned()),
    };
    let mut called = ready.call(interrupt.context(), &output).await?;
    let has_verdict = called.answer.report.stage.is_some();
    if let Some(unwritten) = called.answer.unwritten.take() {
        // A call that went well is worth nothing without its body. One that did not says itself what was wrong.
        if !has_verdict && !interrupt.context().is_cancelled() {
            return Err(unwritten);
        }
        if !exit::is_closed_pipe(&unwritten) {
            note(&exit::words(&unwritten));
        }
    }
    called.answer.report.advisories.extend(overdue::plan::check(&ready.plan().limits));
    let body_on_stdout = matches!(output, Output::Stdout);
    let screen = if body_on_stdout { Screen::of(&io::stderr()) } else { Screen::of(&io::stdout()) };
    let text = if flags.json {
        serde_json::to_string(&Json::of(&called)).context("cannot write the report as JSON")? + "\n"
    } else {
        text(flags, screen, ready, &called)
    };
    if body_on_stdout {
        io::stderr().write_all(text.as_bytes())?;
    } else {
        io::stdout().write_all(text.as_bytes())?;
    }
    note_trouble(ready);
    if let Some(NotFollowed::Unusable(why)) = &called.not_followed {
        note(&format!("the redirect was not followed: {why}"));
    }
    let is_endless = matches!(called.not_followed, Some(NotFollowed::TooMany(_)));
    Ok(interrupt.or(if has_verdict || is_endless { Exit::Finding } else { Exit::Fine }))
}

fn note(text: &str) {
    _ = writeln!(io::stderr(), "note: {}", harmless(text));
}

/// Flags may have made the call another one than the scenario's, so that its server is at a loss.
fn note_trouble(ready: &Ready) {
    if let Err(trouble) = ready.check_server() {
        note(&trouble.to_string());
    }
}

fn text(flags: &Get, screen: Screen, ready: &Ready, called: &Called) -> String {
    let report = &called.answer.report;
    let mut out = String::new();
    if let Some(head) = called.answer.head.as_ref().filter(|_| flags.include || flags.head) {
        _ = writeln!(out, "{}", render::head(head));
    }
    for redirect in &called.redirects {
        let line =
            format!("{} {} in {}", redirect.status.as_u16(), redirect.url, render::time(redirect.report.elapsed_us));
        _ = writeln!(out, "{}", screen.ink(Ink::Dim, &harmless(&line)));
    }
    let request = format!("{} {}", called.message.method, called.message.url);
    _ = writeln!(out, "{}", screen.ink(Ink::Bold, &harmless(&request)));
    if let Some(head) = &called.answer.head {
        let status = format!("{} {}", head.status.as_str(), head.status.canonical_reason().unwrap_or_default());
        let ink = if head.status.is_client_error() || head.status.is_server_error() { Ink::Yellow } else { Ink::Green };
        let body = bytes(called.answer.body_bytes);
        _ = writeln!(out, "{}, {body} of body", screen.ink(ink, status.trim_end()));
    }
    if let Some(NotFollowed::TooMany(next)) = &called.not_followed {
        let line = endless(called, next);
        _ = writeln!(out, "{}", screen.ink(Ink::Red, &harmless(&line)));
    }
    out + &render::report(screen, report, &ready.plan().limits)
}

/// That redirects led on and on.
fn endless(called: &Called, next: &impl std::fmt::Display) -> String {
    format!("redirect loop: {} redirects were followed, and the last one leads on, to {next}", called.redirects.len())
}

/// The report of a call, with what else a program wants to know of it.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    report: &'a Report,
    request: Request<'a>,
    response: Option<Response>,
    redirects: Vec<Redirect<'a>>,
    not_followed: Option<Unfollowed>,
}

/// Why the last answer, a redirect, was not followed: `loop` or `unusable`, and the same in words.
#[derive(Serialize)]
struct Unfollowed {
    kind: &'static str,
    why: String,
}

#[derive(Serialize)]
struct Request<'a> {
    method: &'a str,
    url: &'a str,
}

#[derive(Serialize)]
struct Response {
    status: u16,
    version: String,
    body_bytes: u64,
}

#[derive(Serialize)]
struct Redirect<'a> {
    url: &'a str,
    status: u16,
    report: &'a Report,
}

impl<'a> Json<'a> {
    fn of(called: &'a Called) -> Self {
        Self {
            report: &called.answer.report,
            request: Request { method: called.message.method.as_str(), url: called.message.url.as_str() },
            response: called.answer.head.as_ref().map(|head| Response {
                status: head.status.as_u16(),
                version: format!("{:?}", head.version),
                body_bytes: called.answer.body_bytes,
            }),
            redirects: (called.redirects.iter())
                .map(|hop| Redirect { url: hop.url.as_str(), status: hop.status.as_u16(), report: &hop.report })
                .collect(),
            not_followed: called.not_followed.as_ref().map(|not_followed| match not_followed {
                NotFollowed::TooMany(next) => Unfollowed { kind: "loop", why: endless(called, next) },
                NotFollowed::Unusable(why) => Unfollowed { kind: "unusable", why: why.clone() },
            }),
        }
    }
}

async fn many(flags: &Get, ready: Ready, number: u64, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let ready = Arc::new(ready);
    let started_calls = Arc::new(AtomicU64::new(0));
    let progress = progress(number);
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..u64::from(flags.concurrency).min(number) {
        let (ready, started_calls) = (Arc::clone(&ready), Arc::clone(&started_calls));
        let (interrupt, progress) = (interrupt.clone(), progress.clone());
        callers.spawn(async move {
            let mut tally = Tally::new()?;
            while !interrupt.context().is_cancelled() && started_calls.fetch_add(1, Ordering::Relaxed) < number {
                tally.add(&ready.call(interrupt.context(), &Output::Counted).await?)?;
                progress.inc(1);
            }
            anyhow::Ok(tally)
        });
    }
    let mut tally = Tally::new()?;
    while let Some(counted) = callers.join_next().await {
        tally.merge(counted.context("a caller ended in a panic")??)?;
    }
    let elapsed = begin.elapsed();
    progress.finish_and_clear();

    let text = if flags.json {
        format!("{}\n", tally.json(elapsed, flags.concurrency))
    } else {
        tally.text(Screen::of(&io::stdout()), elapsed, flags.concurrency)
    };
    io::stdout().write_all(text.as_bytes())?;
    note_trouble(&ready);
    Ok(interrupt.or(if tally.has_findings() { Exit::Finding } else { Exit::Fine }))
}

/// A bar on stderr; nothing where that is no terminal.
fn progress(number: u64) -> ProgressBar {
    let bar = ProgressBar::new(number);
    match ProgressStyle::with_template("{bar:40} {pos}/{len} calls, {per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
