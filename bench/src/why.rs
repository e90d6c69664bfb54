//! `bench why`: what it costs a server to be watched, by us and by others.
//!
//! The load never stops within a round. Slices of it are measured in turn, unwatched and watched, so that each watched
//! one lies between two unwatched ones, whose mean is what it is compared with. Watchers come and go under load, as they
//! do in life.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::{
    cases::{Report, Rounds, Samples},
    child::{Core, Server, on_path, overdue, pinned},
    interrupt::Interrupted,
    peer::Peer,
    table::{Column, Table},
    usage::{Usage, cpu_of, holds_pidfd, peak_memory, tracer},
};

const CONNECTIONS: [u32; 2] = [64, 1];
/// How long one slice is, in milliseconds: some six of the windows that `why` has.
const SLICE_MS: u32 = 3000;
/// From a watcher's being there to the slice: it may look more often at first.
const SETTLE: Duration = Duration::from_millis(1000);
/// How long a watcher may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

const COSTS: &[Column] = &[
    Column { title: "requests/s", number: "rate", decimals: 0, ratio: false },
    Column { title: "of the unwatched", number: "rate_ratio", decimals: 3, ratio: false },
    Column { title: "server CPU, us", number: "server_us", decimals: 2, ratio: false },
    Column { title: "more, us", number: "server_more_us", decimals: 2, ratio: false },
    Column { title: "whole machine, more us", number: "machine_more_us", decimals: 2, ratio: false },
    Column { title: "watcher CPU, %", number: "watcher_percent", decimals: 1, ratio: false },
    Column { title: "watcher's most memory, MB", number: "watcher_mb", decimals: 1, ratio: false },
];
const OWN: &[Column] = &[
    Column { title: "attached in, ms", number: "attach_ms", decimals: 0, ratio: false },
    Column { title: "CPU of all, ms", number: "all_cpu_ms", decimals: 0, ratio: false },
    Column { title: "most memory, MB", number: "peak_mb", decimals: 1, ratio: false },
    Column { title: "maps, KB", number: "map_kb", decimals: 0, ratio: false },
    Column { title: "dropped events", number: "dropped", decimals: 0, ratio: false },
    Column { title: "verdicts", number: "verdicts", decimals: 0, ratio: false },
];

/// How it is known that a watcher is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// After a while: it does not say.
    Soon,
    /// When it has a descriptor of the server's process, which it opens when all else is attached.
    Holds,
    /// When the kernel says that the server is traced.
    Traced,
    /// When it prints this word.
    Prints(&'static str),
}

struct Watcher {
    name: &'static str,
    /// `None` is nobody.
    program: Option<PathBuf>,
    arguments: Vec<String>,
    ready: Ready,
    /// It was seen not to work.
    left_out: bool,
}

const OURS: &str = "overdue why";

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let interrupted = Interrupted::listen()?;
    let peer = Peer::counting()?;
    let wrk = on_path("wrk").context("wrk is not on the PATH: it makes the load (apt-get install wrk)")?;
    let mut peers = vec![peer.name.clone(), version(&wrk, "-v")];
    let mut watchers = watchers(&peer, &mut peers)?;
    let bench = Bench { peer: &peer, wrk, interrupted, slice: Duration::from_millis(rounds.scaled(SLICE_MS).into()) };

    let mut samples: Vec<Vec<Samples>> = vec![vec![Samples::new(); watchers.len()]; CONNECTIONS.len()];
    for round in 0..rounds.count {
        for (connections, samples) in CONNECTIONS.into_iter().zip(&mut samples) {
            eprintln!("round {} of {}: {connections} connections", round + 1, rounds.count);
            bench.round(round as usize, connections, &mut watchers, samples)?;
        }
    }

    let mut raw = Map::new();
    let mut text = String::new();
    for (connections, samples) in CONNECTIONS.into_iter().zip(&samples) {
        let rows = watchers.iter().zip(samples).filter(|(watcher, _)| !watcher.left_out);
        let rows: Vec<_> = rows.map(|(watcher, samples)| (watcher.name, samples)).collect();
        let title = format!("A request, {connections} connection{}", if connections == 1 { "" } else { "s" });
        text += &Table { title: &title, columns: COSTS, reference: "", rows: &rows }.to_string();
        let ours: Vec<_> = rows.iter().copied().filter(|(name, _)| *name == OURS).collect();
        if !ours.is_empty() {
            let own = format!("{OURS} of itself, {connections} connection{}", if connections == 1 { "" } else { "s" });
            text += &Table { title: &own, columns: OWN, reference: "", rows: &ours }.to_string();
        }
        raw.insert(title, rows.iter().map(|(name, samples)| ((*name).to_owned(), json!(samples))).collect());
    }
    Ok(Report { text, raw: raw.into(), peers, passed: true })
}

/// Those that are there; of the others it is said that they are not.
fn watchers(peer: &Peer, peers: &mut Vec<String>) -> anyhow::Result<Vec<Watcher>> {
    let pid = peer.pid().to_string();
    let watcher = |name, program, arguments: &[&str], ready| Watcher {
        name,
        program,
        arguments: arguments.iter().map(|argument| argument.replace("PID", &pid)).collect(),
        ready,
        left_out: false,
    };
    let own = overdue()?;
    ensure!(own.is_file(), "{} is not built: use `cargo xtask bench why`", own.display());
    let mut watchers = vec![
        watcher("nobody", None, &[], Ready::Soon),
        watcher(OURS, Some(own), &["why", "--pid", "PID", "--for", "1h", "--json"], Ready::Holds),
    ];
    for (name, tool, package, arguments, ready) in OTHERS {
        match on_path(tool) {
            Some(program) => {
                let version = version(&program, "--version");
                if !peers.contains(&version) {
                    peers.push(version);
                }
                watchers.push(watcher(name, Some(program), arguments, *ready));
            }
            None => eprintln!("{tool} is not on the PATH, so {name:?} is left out (apt-get install {package})"),
        }
    }
    Ok(watchers)
}

/// Counts and times, as `why` does in its windows.
const EVERY_CALL: &str = "
tracepoint:raw_syscalls:sys_enter /pid == PID/ { @at[tid] = nsecs; }
tracepoint:raw_syscalls:sys_exit /pid == PID && @at[tid]/ {
  @calls[args->id] = count(); @time[args->id] = sum(nsecs - @at[tid]);
  if (args->ret < 0) { @failed[args->id, args->ret] = count(); }
  delete(@at[tid]);
}
interval:ms:100 { printf(\"there\\n\"); }";
const EPOLL_WAIT: &str = "
tracepoint:syscalls:sys_enter_epoll_wait /pid == PID/ { @at[tid] = nsecs; @timeout[args->timeout] = count(); }
tracepoint:syscalls:sys_exit_epoll_wait /pid == PID && @at[tid]/ {
  @ready[args->ret] = count(); @time = sum(nsecs - @at[tid]); delete(@at[tid]);
}
interval:ms:100 { printf(\"there\\n\"); }";

type Other = (&'static str, &'static str, &'static str, &'static [&'static str], Ready);
const OTHERS: &[Other] = &[
    ("bpftrace, epoll_wait", "bpftrace", "bpftrace", &["-e", EPOLL_WAIT], Ready::Prints("there")),
    ("bpftrace, every system call", "bpftrace", "bpftrace", &["-e", EVERY_CALL], Ready::Prints("there")),
    ("perf trace -s", "perf", "linux-perf", &["trace", "-s", "-p", "PID"], Ready::Soon),
    (
        "strace",
        "strace",
        "strace",
        &["-f", "-qq", "-e", "trace=network,epoll_wait", "-o", "/dev/null", "-p", "PID"],
        Ready::Traced,
    ),
];

struct Bench<'a> {
    peer: &'a Peer,
    wrk: PathBuf,
    interrupted: Interrupted,
    slice: Duration,
}

impl Bench<'_> {
    /// One load, under which all watchers come and go.
    fn round(
        &self,
        round: usize,
        connections: u32,
        watchers: &mut [Watcher],
        samples: &mut [Samples],
    ) -> anyhow::Result<()> {
        let printed = self.peer.folder().join("wrk");
        let mut command = pinned(&self.wrk, Core::Peer)?;
        command.args(["-t", "1", "-c", &connections.to_string(), "-d", "1h", "--timeout", "10s", &self.peer.url]);
        command.stdout(File::create(&printed)?);
        let mut load = Server::start(&mut command)?;
        self.pause(SETTLE)?;

        let mut before = self.slice(None)?;
        let count = watchers.len();
        for index in (0..count).map(|index| (index + round) % count) {
            let Some((watcher, samples)) = watchers.get_mut(index).zip(samples.get_mut(index)) else { continue };
            if watcher.left_out {
                continue;
            }
            let watched = self.watched(watcher);
            // The caches are the server's again.
            self.pause(SETTLE / 5)?;
            let after = self.slice(None)?;
            match watched {
                Ok((during, mut numbers)) => {
                    numbers.extend(during.compared(&before, &after));
                    numbers
                        .into_iter()
                        .for_each(|(name, number)| samples.entry(name.to_owned()).or_default().push(number));
                }
                Err(why) => {
                    self.interrupted.check()?;
                    // Of ours nothing is left out.
                    ensure!(watcher.name != OURS, "{OURS}: {why:#}");
                    eprintln!("{} is left out: {why:#}", watcher.name);
                    // Older ones look for tracepoints at one place only.
                    if watcher.name.starts_with("bpftrace") && !Path::new("/sys/kernel/debug/tracing").exists() {
                        eprintln!("bpftrace may want debugfs: mount -t debugfs none /sys/kernel/debug");
                    }
                    watcher.left_out = true;
                }
            }
            before = after;
        }

        ensure!(load.ended()?.is_none(), "wrk ended before it was asked to: {}", tail(&printed));
        self.end(&mut load)?;
        let printed = fs::read_to_string(printed)?;
        // The server lost a request: then somebody did more than watch.
        let bad = printed.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
        ensure!(bad.is_none(), "wrk: {}", bad.unwrap_or_default().trim());
        Ok(())
    }

    /// A slice under a watcher, and what there is to know of the watcher.
    fn watched(&self, watcher: &Watcher) -> anyhow::Result<(Usage, Vec<(&'static str, f64)>)> {
        let Some(program) = &watcher.program else {
            self.pause(SETTLE)?;
            return Ok((self.slice(None)?, Vec::new()));
        };
        let printed = self.peer.folder().join("watcher");
        let complained = self.peer.folder().join("complaints");
        let mut command = pinned(program, Core::Any)?;
        command.args(&watcher.arguments).stdout(File::create(&printed)?).stderr(File::create(&complained)?);
        let mut running = Server::start(&mut command)?;
        let began = Instant::now();
        let is_ready = || match watcher.ready {
            Ready::Soon => began.elapsed() > SETTLE,
            Ready::Holds => holds_pidfd(running.pid()),
            Ready::Traced => tracer(self.peer.pid()) == Some(running.pid()),
            Ready::Prints(word) => fs::read_to_string(&printed).is_ok_and(|text| text.contains(word)),
        };
        while !is_ready() {
            ensure!(began.elapsed() < PATIENCE, "it is not there after {} s", PATIENCE.as_secs());
            ensure!(cpu_of(running.pid()).is_some(), "it ended at once: {}", tail(&complained));
            self.pause(Duration::from_millis(20))?;
        }
        self.pause(SETTLE)?;
        let usage = self.slice(Some(running.pid()))?;
        ensure!(running.ended()?.is_none(), "it ended before it was asked to: {}", tail(&complained));
        let mut numbers = vec![("watcher_mb", mega(peak_memory(running.pid()).unwrap_or_default()))];
        self.end(&mut running)?;
        if watcher.name == OURS {
            let report = fs::read(&printed)?;
            let report: Value = serde_json::from_slice(&report)
                .with_context(|| format!("it printed no report: {}", tail(&complained)))?;
            numbers.extend(own(&report)?);
        }
        Ok((usage, numbers))
    }

    /// What happens from now on for the length of a slice.
    fn slice(&self, watcher: Option<u32>) -> anyhow::Result<Usage> {
        let before = Usage::now(self.peer, watcher)?;
        self.pause(self.slice)?;
        Ok(Usage::now(self.peer, watcher)?.since(&before))
    }

    fn end(&self, running: &mut Server) -> anyhow::Result<()> {
        running.signal(Signal::INT)?;
        let asked = Instant::now();
        while running.ended()?.is_none() {
            ensure!(asked.elapsed() < PATIENCE, "it did not end within {} s of Ctrl-C", PATIENCE.as_secs());
            self.pause(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn pause(&self, length: Duration) -> anyhow::Result<()> {
        self.interrupted.pause(length)
    }
}

impl Usage {
    /// What each request cost, and how much more than in the slices around it.
    fn compared(&self, before: &Self, after: &Self) -> Vec<(&'static str, f64)> {
        let mean = |of: fn(&Self) -> f64| of(before).midpoint(of(after));
        let mut numbers = vec![
            ("rate", self.rate()),
            ("rate_ratio", self.rate() / mean(Self::rate)),
            ("server_us", self.server_us()),
            ("server_more_us", self.server_us() - mean(Self::server_us)),
            ("machine_us", self.machine_us()),
            ("machine_more_us", self.machine_us() - mean(Self::machine_us)),
        ];
        numbers.extend(self.watcher_percent().map(|percent| ("watcher_percent", percent)));
        numbers
    }
}

/// What a report says of its own watch.
fn own(report: &Value) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let number = |name: &str| {
        let value = report.get("overhead").and_then(|overhead| overhead.get(name)).and_then(Value::as_f64);
        value.with_context(|| format!("the report has no overhead.{name}"))
    };
    let Some(verdicts) = report.get("verdicts").and_then(Value::as_array) else { bail!("the report has no verdicts") };
    if !verdicts.is_empty() {
        eprintln!("a verdict on a healthy server: {}", Value::from(verdicts.clone()));
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let verdicts = verdicts.len() as f64;
    Ok(vec![
        ("attach_ms", number("attach_us")? / 1e3),
        ("all_cpu_ms", number("cpu_us")? / 1e3),
        ("peak_mb", number("rss_bytes")? / 1e6),
        ("map_kb", number("map_bytes")? / 1e3),
        ("dropped", number("dropped_events")?),
        ("verdicts", verdicts),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The last line that somebody printed.
fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it printed nothing").trim().to_owned()
}

/// The first line of what a tool says of itself.
fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split(" Copyright").next().unwrap_or_default().split(" [").next().unwrap_or_default().trim().to_owned()
}
