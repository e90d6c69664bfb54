//! `overdue why`: watches a process that is there, or a command that it runs, and judges what it saw.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    os::{
        fd::AsFd as _,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use overdue_why::{
    Observation, Report,
    collect::{Options, Watch},
    recording,
};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

use crate::{
    args,
    exit::Exit,
    interrupt, render,
    screen::{Screen, harmless},
    trace,
};

/// How long a command that is ended has for it.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) fn run(flags: &args::Why) -> anyhow::Result<Exit> {
    let (seen, interrupted) = match (&flags.replay, flags.pid) {
        (Some(file), _) => (replay(file)?, false),
        (None, Some(pid)) => watch(pid, flags, None)?,
        (None, None) => run_and_watch(flags)?,
    };
    // What was seen is not lost when it cannot be written.
    let recorded = flags.record.as_ref().map(|file| record(file, &seen));
    let report = Report::of(&seen);
    let mut out = io::stdout();
    let text = if flags.json {
        serde_json::to_string(&report)? + "\n"
    } else {
        render::why::report(Screen::of(&out), &report)
    };
    out.write_all(text.as_bytes())?;
    recorded.transpose()?;
    Ok(match (interrupted, report.verdicts.is_empty()) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Fine,
        (false, false) => Exit::Finding,
    })
}

fn replay(file: &Path) -> anyhow::Result<Observation> {
    let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    recording::read(BufReader::new(input)).with_context(|| format!("{} cannot be judged", file.display()))
}

fn record(file: &Path, seen: &Observation) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", file.display());
    let out = File::create(file).with_context(failed)?;
    recording::write(BufWriter::new(out), seen).with_context(failed)?;
    say(&format!("what was seen is in {} (`overdue why --replay`)", file.display()));
    Ok(())
}

/// Watches until the time is over, the process ends or Ctrl-C. `go` is what lets a command begin.
fn watch(pid: u32, flags: &args::Why, go: Option<Box<dyn FnOnce() + Send>>) -> anyhow::Result<(Observation, bool)> {
    let window = flags.window;
    let tracing = trace::Flags::of(flags);
    interrupt::watching(move |stop| {
        let mut watch = Watch::attach(pid, Options { for_: window, ..Options::default() })?;
        let trace = tracing.map(|flags| flags.attach(pid)).transpose()?;
        if let Some(go) = go {
            go();
        }
        let ended = thread::scope(|both| {
            let tracer = trace.map(|trace| both.spawn(|| trace.run(window, stop)));
            watch.run(stop);
            tracer.map_or(Ok(()), |tracer| tracer.join().unwrap_or_else(|_| Err(anyhow!("the trace broke"))))
        });
        let seen = watch.finish();
        ended.map(|()| seen)
    })
}

/// Starts a command so that it is watched from its first instruction on.
fn run_and_watch(flags: &args::Why) -> anyhow::Result<(Observation, bool)> {
    let args::Why { command, window, .. } = flags;
    let Some((program, _)) = command.split_first() else { bail!("which command?") };
    let mut started = Started::stopped(command)?;
    let pid = started.child.id();
    let go = Box::new(move || {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It cannot fail: the child waits for it, and is not reaped before the end.
            _ = kill_process(pid, Signal::CONT);
        }
    });
    let (seen, interrupted) = watch(pid, flags, Some(go))?;
    match started.end()? {
        Some(status) if status.code() == Some(NOT_STARTED) && seen.process.exec_at_us.is_none() => {
            bail!("{} could not be started", program.display())
        }
        Some(status) => {
            if let Some(how) = badly(status) {
                say(&format!("{} {how}", program.display()));
            }
        }
        None => say(&format!(
            "{} still ran after {} and was ended (--for is how long it may run)",
            program.display(),
            overdue_core::DurationText(*window)
        )),
    }
    Ok((seen, interrupted))
}

fn badly(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("ended with exit code {code}")),
        (None, Some(signal)) => Some(format!("was ended by signal {signal}")),
        (None, None) => None,
    }
}

/// A command as a child, ended with its owner.
struct Started {
    child: Child,
}

impl Started {
    /// This program again, which stops itself and becomes the command when it is let go on: so nothing that the command
    /// does comes before the watch.
    fn stopped(command: &[OsString]) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let stdout = io::stderr().as_fd().try_clone_to_owned().context("no descriptor is left")?;
        let child = Command::new(own)
            .arg("become")
            .arg("--")
            .args(command)
            // stdout carries the report only.
            .stdout(Stdio::from(stdout))
            .spawn()
            .context("cannot start another process")?;
        let mut started = Self { child };
        match waitpid(started.pid(), WaitOptions::UNTRACED)? {
            Some((_, status)) if status.stopped() => Ok(started),
            _ => {
                started.kill();
                Err(anyhow!("the command's process ended before it began"))
            }
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Its exit status; `None` when it still ran and was ended now.
    fn end(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status));
        }
        if let Some(pid) = self.pid() {
            _ = kill_process(pid, Signal::TERM);
            // A pidfd is readable when the process has ended.
            if let Ok(ended) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
                let mut fds = [rustix::event::PollFd::new(&ended, rustix::event::PollFlags::IN)];
                let grace = rustix::event::Timespec::try_from(GRACE)?;
                _ = rustix::event::poll(&mut fds, Some(&grace));
            }
        }
        self.kill();
        Ok(None)
    }

    fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a shell answers for a command that it cannot start.
const NOT_STARTED: i32 = 127;

/// Waits, stopped, until it is let go on, and becomes the command.
pub(crate) fn become_command(command: &[OsString]) -> anyhow::Result<Exit> {
    let Some((program, arguments)) = command.split_first() else { bail!("which command?") };
    // Whatever happens to who started this, nothing stays behind; the command inherits it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
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
