//! `overdue why`: watches a process that is there, or a command that it runs, and judges what it saw.

use std::{
    ffi::OsString,
    io::{self, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use overdue_core::DurationText;
use overdue_why::{
    Observation, Report,
    collect::{Options, Target, Watch, aid::withhold},
    judge,
    observation::Ending,
    recording,
};
use rustix::process::{Signal, getpid, kill_process};

use crate::{
    aid, args,
    exit::Exit,
    file::{self, Readers},
    interrupt, page, render,
    screen::{Screen, harmless},
    started::{End, Started, die_with},
    trace,
};

/// What was watched.
struct Seen {
    observation: Observation,
    /// The process, where it may go on after the watch.
    target: Option<Target>,
    interrupted: bool,
}

pub(crate) fn run(flags: &args::Why) -> anyhow::Result<Exit> {
    // Better now than after the watch.
    flags.record.iter().chain(&flags.html).try_for_each(|file| file::has_a_place(file))?;
    let recording = flags.record.as_ref().or(flags.replay.as_ref());
    if flags.html.as_ref().zip(recording).is_some_and(|(page, recording)| file::are_one(page, recording)) {
        bail!("the recording and the page cannot be one file");
    }
    let Seen { observation, target, interrupted } = match (&flags.replay, flags.pid) {
        (Some(file), _) => Seen { observation: replay(file)?, target: None, interrupted: false },
        (None, Some(pid)) => watch(pid, flags, None)?,
        (None, None) => run_and_watch(flags)?,
    };
    // What was seen is told even where a file cannot be written.
    let recorded = flags.record.as_ref().map(|file| record(file, &observation));
    let mut report = Report::of(&observation);
    let drawn = flags.html.as_ref().map(|file| draw(file, &report, &observation));
    // Whoever interrupts wants nothing more to happen.
    target.iter().for_each(|target| withhold(target, &mut report.first_aid));
    let aided = target.filter(|_| flags.allow_changes && !interrupted);
    let mut out = io::stdout();
    let screen = Screen::of(&out);
    if flags.json {
        if let Some(target) = &aided {
            // The result alone is for stdout.
            aid::give(target, &mut report.first_aid, Screen::of(&io::stderr()), &mut io::stderr())?;
        }
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        out.write_all(render::why::report(screen, &report).as_bytes())?;
        match &aided {
            Some(target) => aid::give(target, &mut report.first_aid, screen, &mut out)?,
            None if flags.pid.is_some() => out.write_all(aid::planned(screen, &report).as_bytes())?,
            None => {}
        }
    }
    recorded.transpose()?;
    drawn.transpose()?;
    Ok(match (interrupted, report.is_well()) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Fine,
        (false, false) => Exit::Finding,
    })
}

fn replay(file: &Path) -> anyhow::Result<Observation> {
    let input = file::open(file)?;
    recording::read(BufReader::new(input))
        .with_context(|| format!("{} cannot be judged", harmless(&file.display().to_string())))
}

fn record(file: &Path, seen: &Observation) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    recording::write(&mut bytes, seen)?;
    file::write(file, Readers::Owner, &bytes)?;
    say(&format!("what was seen is in {} (`overdue why --replay`)", harmless(&file.display().to_string())));
    Ok(())
}

fn draw(file: &Path, report: &Report, seen: &Observation) -> anyhow::Result<()> {
    file::write(file, Readers::Owner, page::html(report, seen).as_bytes())?;
    say(&format!("the page is {}", harmless(&file.display().to_string())));
    Ok(())
}

/// Watches until the time is over, the process ends or Ctrl-C. `go` is what lets a command begin.
fn watch(pid: u32, flags: &args::Why, go: Option<Box<dyn FnOnce() + Send>>) -> anyhow::Result<Seen> {
    let options = Options {
        for_: flags.window,
        from_start: go.is_some(),
        uprobes: flags.uprobes,
        budget: flags.budget,
        ..Options::default()
    };
    let tracing = trace::Flags::of(flags);
    let watched = interrupt::watching(move |stop| {
        let window = options.for_;
        let mut watch = Watch::attach(pid, options)?;
        let trace = tracing.map(|flags| flags.attach(pid)).transpose()?;
        if let Some(go) = go {
            go();
        }
        let ended = thread::scope(|both| {
            let tracer = trace.map(|trace| both.spawn(|| trace.run(window, stop)));
            watch.run(stop);
            tracer.map_or(Ok(()), |tracer| tracer.join().unwrap_or_else(|_| Err(anyhow!("the trace broke"))))
        });
        let target = watch.target().clone();
        let observation =
            watch.finish_settled(judge::is_settled, Duration::from_micros(judge::thresholds::SETTLED_US), stop);
        ended.map(|()| (observation, target))
    });
    watched.map(|((observation, target), interrupted)| Seen { observation, target: Some(target), interrupted })
}

/// Starts a command so that it is watched from its first instruction on.
fn run_and_watch(flags: &args::Why) -> anyhow::Result<Seen> {
    let args::Why { command, window, .. } = flags;
    let Some((program, _)) = command.split_first() else { bail!("which command?") };
    let program = harmless(&program.to_string_lossy());
    let mut started = Started::stopped(command)?;
    let pid = started.pid();
    let go = Box::new(move || {
        // It cannot fail: the child waits for it, and is not reaped before the end.
        _ = kill_process(pid, Signal::CONT);
    });
    let seen = watch(started.id(), flags, Some(go))?;
    match started.end()? {
        End::Itself(status) if status.code() == Some(NOT_STARTED) && seen.observation.process.exec_at_us.is_none() => {
            bail!("{program} could not be started")
        }
        End::Itself(status) => {
            if let Some(ended) = ending(status).filter(|ended| !ended.is_well()) {
                say(&format!("{program} {ended}"));
            }
        }
        End::Killed => say(&format!(
            "{program} still ran after {} and was ended (--for is how long it may run)",
            DurationText(*window)
        )),
        End::Never(why) => say(&format!("{program} still ran after {}, and {why}", DurationText(*window))),
    }
    let mut observation = seen.observation;
    // It may have been over before anybody looked again: then only we know what it was.
    let process = &mut observation.process;
    if process.command.get(1).is_some_and(|word| word == BECOME) {
        process.command.drain(..process.command.len().min(4));
        let name = process.command.first().and_then(|program| program.rsplit('/').next());
        process.name = name.unwrap_or_default().chars().take(15).collect();
        process.exe = None;
    }
    // Whatever becomes of it, it is no longer what was watched.
    Ok(Seen { observation, target: None, ..seen })
}

/// The subcommand by which this program becomes a command.
pub(crate) const BECOME: &str = "become";

fn ending(status: ExitStatus) -> Option<Ending> {
    let killed = |signal| Ending::Killed { signal, core: status.core_dumped() };
    status.code().map(|code| Ending::Exited { code }).or_else(|| status.signal().map(killed))
}

/// What a shell answers for a command that it cannot start.
const NOT_STARTED: i32 = 127;

/// Waits, stopped, until it is let go on, and becomes the command.
pub(crate) fn become_command(owner: i32, command: &[OsString]) -> anyhow::Result<Exit> {
    let Some((program, arguments)) = command.split_first() else { bail!("which command?") };
    // Whatever happens to who started this, nothing stays behind; the command inherits it.
    die_with(owner)?;
    kill_process(getpid(), Signal::STOP)?;
    let error = Command::new(program).args(arguments).exec();
    say(&format!("{}: {error}", harmless(&program.to_string_lossy())));
    std::process::exit(NOT_STARTED)
}

/// A line for the reader beside the result.
fn say(line: &str) {
    // Whoever closed stderr does not want it.
    _ = writeln!(io::stderr(), "{line}");
}
