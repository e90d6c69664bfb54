//! Requests at fixed rates, by a timetable that waits for nobody: what they cost, and how much later the answer is
//! than without a proxy.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Measured, load::output, proxies::Proxy};
use crate::{
    cases::{Rounds, Samples},
    child::{Core, Server, pinned, program},
    interrupt::Interrupted,
    peer::Behind,
    table::Column,
    usage::cpu_of,
};

/// Of the knee of the slowest, in percent.
const SHARES: [u32; 3] = [20, 50, 80];
const CONNECTIONS: u32 = 64;
/// How long a run is, and how long before that is not counted, in milliseconds.
const RUN_MS: u32 = 5000;
const SETTLE_MS: u32 = 700;
/// A run is thrown away when one in a hundred requests is later than this by the generator's own fault.
const LATE: Duration = Duration::from_millis(1);
/// How often a run is made that was thrown away.
const ATTEMPTS: u32 = 3;

const COLUMNS: &[Column] = &[
    Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true },
    Column { title: "added p50, us", number: "added_p50_us", decimals: 0, ratio: false },
    Column { title: "added p99, us", number: "added_p99_us", decimals: 0, ratio: false },
    Column { title: "added p99.9, us", number: "added_p999_us", decimals: 0, ratio: false },
    Column { title: "thrown away", number: "thrown_away", decimals: 0, ratio: false },
];
const QUANTILES: [(&str, &str); 3] =
    [("p50_us", "added_p50_us"), ("p99_us", "added_p99_us"), ("p999_us", "added_p999_us")];

/// `knee` is the most that the slowest can do, in requests a second.
pub(super) fn run(
    behind: &Behind,
    proxies: &[Proxy],
    knee: f64,
    rounds: Rounds,
    interrupted: &Interrupted,
) -> anyhow::Result<Vec<Measured>> {
    let _awake = awake()?;
    let generator = Generator { comes_first: may_come_first()?, rounds, interrupted };
    let priority = if generator.comes_first { "" } else { "; the generator at normal priority" };
    if !generator.comes_first {
        eprintln!(
            "the generator may have no real-time priority (CAP_SYS_NICE, or `ulimit -r 1`): it will wait for the server \
             beside it, and most runs behind a proxy will be thrown away"
        );
    }
    let mut measured = Vec::new();
    for share in SHARES {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "fewer than 2^32 a second")]
        let rate = (knee * f64::from(share) / 100.0).max(1.0) as u32;
        // The first row is the way without a proxy.
        let mut rows: Vec<(String, Samples)> = vec![("direct (not added, but whole)".to_owned(), Samples::new())];
        rows.extend(proxies.iter().map(|proxy| (proxy.name.to_owned(), Samples::new())));
        for round in 0..rounds.count as usize {
            eprintln!("round {} of {}: {rate} requests/s", round + 1, rounds.count);
            let direct = generator.attempt(behind.port(false), None, rate, &mut rows[0].1)?;
            let Some(direct) = direct else { continue };
            for (_, added) in QUANTILES {
                rows[0].1.entry(added.to_owned()).or_default().push(number(&direct, added)?);
            }
            for index in (0..proxies.len()).map(|index| (index + round) % proxies.len()) {
                let (proxy, samples) = (&proxies[index], &mut rows[index + 1].1);
                let run = generator
                    .attempt(proxy.port, Some(proxy), rate, samples)
                    .with_context(|| format!("{} at {rate} requests/s", proxy.name))?;
                let Some(run) = run else { continue };
                samples.entry("cpu_us".to_owned()).or_default().push(number(&run, "cpu_us")?);
                for (_, added) in QUANTILES {
                    let more = number(&run, added)? - number(&direct, added)?;
                    samples.entry(added.to_owned()).or_default().push(more);
                }
            }
        }
        let title = format!("At {rate} requests/s, {share} % of the slowest's most{priority}");
        measured.push((title, COLUMNS, rows));
    }
    Ok(measured)
}

/// Keeps processors from sleeping: to wake one takes a virtual machine longer than a proxy takes for a request, and is no
/// fault of either the generator or the proxy. What is returned does it until it is dropped.
fn awake() -> anyhow::Result<(Option<File>, Vec<Server>)> {
    // They look for work then, and nobody has to interrupt them: that halves what a request costs in a virtual machine.
    let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_default();
    if !matches!(driver.trim(), "" | "none")
        && let Ok(mut latency) = OpenOptions::new().write(true).open("/dev/cpu_dma_latency")
        && latency.write_all(&0_i32.to_ne_bytes()).is_ok()
    {
        return Ok((Some(latency), Vec::new()));
    }
    // Whoever has work takes the place of these at once.
    let busy = |core| {
        let mut command = pinned(Path::new("chrt"), core)?;
        Server::start(command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]))
    };
    Ok((None, vec![busy(Core::Load)?, busy(Core::Peer)?]))
}

/// Before all others on its processor: real-time, at the least priority of its kind.
const FIRST: [&str; 2] = ["--fifo", "1"];

fn may_come_first() -> anyhow::Result<bool> {
    let mut command = pinned(Path::new("chrt"), Core::Peer)?;
    Ok(command.args(FIRST).arg("true").stderr(Stdio::null()).status().context("cannot run chrt")?.success())
}

struct Generator<'a> {
    /// It shares its processor with the server, and would wait there until that has had its turn, some 3 ms. It sleeps from
    /// one instant or answer to the next, which leaves the server the rest.
    comes_first: bool,
    rounds: Rounds,
    interrupted: &'a Interrupted,
}

impl Generator<'_> {
    fn command(&self) -> anyhow::Result<Command> {
        let timetable = program("timetable", Core::Peer)?;
        if !self.comes_first {
            return Ok(timetable);
        }
        let mut command = pinned(Path::new("chrt"), Core::Peer)?;
        command.args(FIRST).arg(timetable.get_program());
        Ok(command)
    }

    /// The numbers of a run that kept its timetable; `None` when none did.
    fn attempt(
        &self,
        port: u16,
        proxy: Option<&Proxy>,
        rate: u32,
        samples: &mut Samples,
    ) -> anyhow::Result<Option<Samples>> {
        let ms = self.rounds.scaled(RUN_MS);
        let mut thrown_away = 0.0;
        let mut kept = None;
        for _ in 0..ATTEMPTS {
            self.interrupted.check()?;
            let before = proxy.map(cpu);
            let mut command = self.command()?;
            command.args([u32::from(port), rate, ms, SETTLE_MS, CONNECTIONS].map(|number| number.to_string()));
            let printed = output(&mut command)?;
            let used = proxy.map(cpu).zip(before);
            let numbers: Value = serde_json::from_str(&printed).context("the generator printed no JSON")?;
            let of = |name: &str| numbers[name].as_f64().with_context(|| format!("the generator does not tell {name}"));
            let late = of("late_p99_us")?;
            if late > LATE.as_secs_f64() * 1e6 {
                eprintln!(
                    "thrown away: at {rate} requests/s the generator was {late:.0} us behind its timetable (p99)"
                );
                thrown_away += 1.0;
                continue;
            }
            let unanswered = of("unanswered")?;
            if unanswered > 0.0 {
                eprintln!(
                    "{unanswered} requests were not answered at {rate} requests/s: their latency is that of giving up"
                );
            }
            let mut run = Samples::new();
            for (name, added) in QUANTILES {
                run.insert(added.to_owned(), vec![of(name)?]);
            }
            if let Some((after, before)) = used {
                // The whole run, its start included: all of it are requests by the timetable.
                let requests = f64::from(ms + SETTLE_MS) * f64::from(rate) / 1000.0;
                run.insert("cpu_us".to_owned(), vec![(after? - before?).as_secs_f64() * 1e6 / requests]);
            }
            kept = Some(run);
            break;
        }
        samples.entry("thrown_away".to_owned()).or_default().push(thrown_away);
        Ok(kept)
    }
}

fn cpu(proxy: &Proxy) -> anyhow::Result<Duration> {
    cpu_of(proxy.server.pid()).with_context(|| format!("{} is gone", proxy.name))
}

fn number(samples: &Samples, name: &str) -> anyhow::Result<f64> {
    samples.get(name).and_then(|numbers| numbers.first()).copied().with_context(|| format!("there is no {name}"))
}

/// The median rate of the slowest.
pub(super) fn knee(rows: &[(String, Samples)]) -> anyhow::Result<f64> {
    let medians = rows.iter().filter_map(|(_, samples)| {
        let mut rates = samples.get("rate")?.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    });
    let slowest = medians.min_by(f64::total_cmp).context("no rate was measured")?;
    ensure!(slowest >= 10.0, "the slowest answers {slowest:.1} requests/s");
    Ok(slowest)
}
