//! `overdue flame`: where a process computes, is off the processors or waits, as a flame graph; and what changed between
//! two of them.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use inferno::flamegraph::{
    self, Palette, TextTruncateDirection,
    color::{BasicPalette, MultiPalette},
};
use overdue_why::{
    Observation,
    collect::flame::Flame,
    flame::{Change, Folded, Graph, Kind, Sight, Unit, changes},
    recording,
};

use crate::{
    args,
    exit::Exit,
    file::{self, Readers},
    interrupt,
    render::{time, why::hidden_lines},
    screen::{Ink, Screen, harmless},
};

/// Functions and changes that are listed.
const LISTED: usize = 10;
/// No file of collapsed stacks is larger.
const FOLDED_MAX: u64 = 64 << 20;
/// Callers that are listed of a wait, and the share of all from which on they are, in %.
const CALLERS: usize = 6;
const CALLERS_FROM: f64 = 5.0;
/// Of less samples the shares say little.
const FEW: u64 = 50;
/// What a recording begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

pub(crate) fn run(flags: &args::Flame) -> anyhow::Result<Exit> {
    let asked = match (flags.on, flags.off, flags.wait) {
        (true, ..) => Some(Sight::On),
        (_, true, _) => Some(Sight::Off),
        (.., true) => Some(Sight::Wait),
        _ => None,
    };
    match (flags.pid, flags.diff.as_slice()) {
        (Some(pid), _) => draw(flags, pid, asked.unwrap_or_default()),
        (None, [before, after]) => compare(flags, before, after, asked),
        _ => bail!("which process?"),
    }
}

fn draw(flags: &args::Flame, pid: u32, sight: Sight) -> anyhow::Result<Exit> {
    let window = flags.window;
    let output = flags
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("overdue-{pid}-{}.svg", sight.to_string().trim_matches('-'))));
    // Better now than after the watch.
    [&output]
        .into_iter()
        .chain(&flags.folded)
        .filter(|file| !is_stdout(file))
        .try_for_each(|file| file::has_a_place(file))?;
    let ((name, graph, watched), interrupted) = interrupt::watching(move |stop| {
        let mut watch = Flame::attach(pid, sight)?;
        let name = harmless(watch.name());
        if io::stderr().is_terminal() {
            say(&format!("watching {name} for {}; Ctrl-C draws what was seen by then", text(window)));
        }
        watch.run(window, stop);
        let (graph, watched) = watch.finish();
        Ok((name, graph, watched))
    })?;
    let told = Screen::of(&io::stderr());
    for (place, line) in hidden_lines(&graph.not_visible).iter().enumerate() {
        say(told.hanging(if place == 0 { "not visible: " } else { "             " }, line).trim_end());
    }
    if graph.folded.total() == 0 {
        return Err(nothing(sight, &name, watched, !graph.not_visible.is_empty()));
    }
    let headline = format!("{name}, pid {pid}: {}", shown(sight, graph.unit));
    let subtitle = format!("watched {}, {}", text(watched), completeness(&graph));
    let drawing = Drawing { title: &headline, subtitle: &subtitle, unit: graph.unit, colors: colors(sight) };
    let svg = drawing.svg(&graph.folded.text())?;
    // Both are written before anything is said to have gone well.
    write(&output, &svg)?;
    if let Some(folded) = &flags.folded {
        let heading = Kind { sight, unit: graph.unit }.heading();
        write(folded, format!("{heading}{}", graph.folded.text()).as_bytes())?;
    }
    let screen = Screen::of(&io::stdout());
    let mut said = format!("{}\n{}", screen.ink(Ink::Bold, &headline), screen.hanging("  ", &subtitle));
    said.push_str(&heaviest(screen, sight, &graph));
    finish(&output, &said)?;
    Ok(if interrupted { Exit::Interrupted } else { Exit::Fine })
}

const fn shown(sight: Sight, unit: Unit) -> &'static str {
    match (sight, unit) {
        (Sight::On, _) => "where it computes",
        (Sight::Off, _) => "where its threads are off the processors",
        (Sight::Wait, Unit::Goroutines) => "what its goroutines wait for",
        (Sight::Wait, _) => "where its threads wait",
    }
}

fn text(time: Duration) -> String {
    overdue_core::DurationText(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))).to_string()
}

/// Nothing was seen, and what to look at instead.
fn nothing(sight: Sight, name: &str, watched: Duration, is_blind: bool) -> anyhow::Error {
    let watched = text(watched);
    match sight {
        _ if is_blind => {
            anyhow!("nothing of {name} was seen in {watched}, because of what is not visible to this user")
        }
        Sight::On => {
            anyhow!("{name} did not compute in {watched}: no sample met it; `--off` shows where its time goes")
        }
        Sight::Off => {
            anyhow!("no thread of {name} was off the processors in {watched}; `--on` shows where it computes")
        }
        Sight::Wait => anyhow!("nothing of {name} was found waiting in {watched}; `--on` shows where it computes"),
    }
}

/// How many stacks are whole, and why the others are not.
fn completeness(graph: &Graph) -> String {
    let total = graph.folded.total();
    let counted = match graph.unit {
        Unit::Microseconds => format!("{} in all threads", time(total)),
        unit => format!("{total} {unit}"),
    };
    let early = (1.0 - graph.whole()) * 100.0;
    let whole = match &graph.cut {
        Some(cut) if early >= 0.5 => format!("{early:.0} % of stacks end early: {}", harmless(cut)),
        _ => "stacks are whole".to_owned(),
    };
    let lost = if graph.lost > 0 { format!("; {} lost for want of room", graph.lost) } else { String::new() };
    format!("{counted}; {whole}{lost}")
}

/// The functions that have most by themselves: what the graph says at once.
fn heaviest(screen: Screen, sight: Sight, graph: &Graph) -> String {
    let total = graph.folded.total().max(1);
    let mut out = format!("\n{}\n", screen.ink(Ink::Bold, "   self   total  function"));
    for function in graph.folded.functions().into_iter().take(LISTED).filter(|function| function.own > 0) {
        let share = |weight: u64| weight as f64 * 100.0 / total as f64;
        let (own, all) = (share(function.own), share(function.total));
        _ = writeln!(out, "{own:5.1} % {all:5.1} %  {}", harmless(&function.name));
        // Where it waits is a system call: whose that is, is what the reader wants to know.
        let callers = graph.folded.callers(&function.name);
        if sight != Sight::On && own >= CALLERS_FROM && !callers.is_empty() {
            let callers = callers.iter().take(CALLERS).copied().collect::<Vec<_>>().join(" < ");
            out.push_str(&screen.hanging("                   < ", &callers));
        }
    }
    out
}

fn compare(flags: &args::Flame, before: &Path, after: &Path, asked: Option<Sight>) -> anyhow::Result<Exit> {
    let (old, new) = (Input::read(before)?, Input::read(after)?);
    // A recording holds several kinds: what was asked for is taken, or what the other file is.
    let sight = asked.or(old.kind().or(new.kind()).map(|kind| kind.sight)).unwrap_or_default();
    let names = [before, after].map(|file| harmless(&file.display().to_string()));
    let [name, other] = &names;
    let ((old, one), (new, two)) = (old.stacks(name, other, sight)?, new.stacks(other, name, sight)?);
    for (name, kind) in [(name, one), (other, two)] {
        if let Some(kind) = kind.filter(|kind| asked.is_some_and(|asked| asked != kind.sight)) {
            bail!("{name} was written by {}: leave {sight} away, or give two files of it", kind.sight);
        }
    }
    if let (Some(one), Some(two)) = (one, two)
        && one != two
    {
        bail!(
            "{name} shows {} ({one}) and {other} {} ({two}): these cannot be compared; write both by one and the same: \
             `overdue flame --pid PID {} --folded FILE`",
            shown(one.sight, one.unit),
            shown(two.sight, two.unit),
            one.sight
        );
    }
    let unit = one.or(two).map_or(Unit::Samples, |kind| kind.unit);
    let title = format!("from {name} to {other}");
    let totals = match unit {
        Unit::Microseconds => format!("{} before, {} after", time(old.total()), time(new.total())),
        unit => format!("{} {unit} before, {} after", old.total(), new.total()),
    };
    let subtitle = format!("{totals}, drawn in shares; red has grown, blue has shrunk");
    // Without a number after, inferno has nothing to draw: the stacks of before would be all blue, and have no width.
    let drawing = Drawing { title: &title, subtitle: &subtitle, unit, colors: colors(Sight::On) };
    let svg = drawing.svg(&Folded::differential(&old, &new))?;
    let output = flags.output.clone().unwrap_or_else(|| PathBuf::from("overdue-diff.svg"));
    write(&output, &svg)?;
    let screen = Screen::of(&io::stdout());
    let few = unit == Unit::Samples && old.total().min(new.total()) < FEW;
    let few = if few { ": so few that chance may be all of the difference; watch longer (`--for`)" } else { "" };
    let title = screen.ink(Ink::Bold, &title);
    let totals = screen.hanging("  ", &format!("{totals}{few}"));
    let said = format!("{title}\n{totals}{}", table(screen, &changes(&old, &new)));
    finish(&output, &said)?;
    Ok(Exit::Fine)
}

/// One side of a comparison.
enum Input {
    Collapsed(Folded, Option<Kind>),
    Recording(Box<Observation>),
}

impl Input {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let name = || harmless(&file.display().to_string());
        let mut bytes = Vec::new();
        let input = file::open(file)?;
        input.take(FOLDED_MAX + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", name()))?;
        if bytes.len() as u64 > FOLDED_MAX {
            bail!("{} is larger than {} MiB", name(), FOLDED_MAX >> 20);
        }
        if bytes.starts_with(&GZIP) {
            let seen = recording::read(bytes.as_slice()).with_context(|| format!("{} cannot be read", name()))?;
            return Ok(Self::Recording(Box::new(seen)));
        }
        let text = String::from_utf8_lossy(&bytes);
        let folded = Folded::parse(&text).with_context(|| {
            format!("{} is no recording (`why --record`) and holds no collapsed stacks (`flame --folded`)", name())
        })?;
        Ok(Self::Collapsed(folded, Kind::of(&text)))
    }

    const fn kind(&self) -> Option<Kind> {
        match self {
            Self::Collapsed(_, kind) => *kind,
            Self::Recording(_) => None,
        }
    }

    /// Its stacks; of a recording those of that kind.
    fn stacks(self, name: &str, other: &str, sight: Sight) -> anyhow::Result<(Folded, Option<Kind>)> {
        let seen = match self {
            Self::Collapsed(folded, kind) => return Ok((folded, kind)),
            Self::Recording(seen) => seen,
        };
        let has = |sight| Graph::of(&seen, sight).filter(|graph| graph.folded.total() > 0);
        if let Some(graph) = has(sight) {
            return Ok((graph.folded, Some(Kind { sight, unit: graph.unit })));
        }
        let others = [Sight::On, Sight::Wait].into_iter().filter(|other| *other != sight && has(*other).is_some());
        let next = match others.map(|other| other.to_string()).next() {
            Some(flag) => format!("it has those of {flag}: try `overdue flame --diff {name} {other} {flag}`"),
            None => format!("write files of the kind by `overdue flame --pid PID {sight} --folded FILE`"),
        };
        let why = match sight {
            Sight::Off => "no recording tells of switches",
            Sight::On => "nothing of it was met computing, or samples could not be taken",
            Sight::Wait => "nothing of it was met waiting, or its stacks could not be seen",
        };
        bail!("the recording {name} has no stacks of {sight}: {why}; {next}")
    }
}

/// The largest changes.
fn table(screen: Screen, changes: &[Change]) -> String {
    if changes.is_empty() {
        return format!("\n{}\n", screen.ink(Ink::Green, "nothing has changed"));
    }
    let title = "          self                     total";
    let head = "before  after   change   before  after   change   function";
    let mut out = format!("\n{}\n{}\n", screen.ink(Ink::Bold, title), screen.ink(Ink::Bold, head));
    for change in changes.iter().take(LISTED) {
        let column = |(before, after): (f64, f64)| {
            format!("{:5.1}  {:5.1}  {:+7.1}", before * 100.0, after * 100.0, (after - before) * 100.0)
        };
        _ = writeln!(out, " {}   {}   {}", column(change.own), column(change.total), harmless(&change.name));
    }
    let rest = changes.len().saturating_sub(LISTED);
    let more = if rest > 0 { format!("; {rest} smaller changes are not listed") } else { String::new() };
    _ = writeln!(out, "{}", screen.ink(Ink::Dim, &format!("in % of all{more}")));
    out
}

/// Where it computes is red, where it waits blue.
const fn colors(sight: Sight) -> Palette {
    match sight {
        Sight::On => Palette::Basic(BasicPalette::Hot),
        Sight::Off => Palette::Basic(BasicPalette::Aqua),
        Sight::Wait => Palette::Multi(MultiPalette::Wakeup),
    }
}

struct Drawing<'a> {
    title: &'a str,
    subtitle: &'a str,
    unit: Unit,
    colors: Palette,
}

impl Drawing<'_> {
    fn svg(&self, lines: &str) -> anyhow::Result<Vec<u8>> {
        let mut options = flamegraph::Options::default();
        options.title = self.title.to_owned();
        options.subtitle = Some(self.subtitle.to_owned());
        options.count_name = self.unit.to_string();
        options.name_type = "Function:".to_owned();
        options.colors = self.colors;
        options.deterministic = true;
        options.text_truncate_direction = TextTruncateDirection::Right;
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, lines.lines(), &mut svg).context("cannot draw")?;
        Ok(svg)
    }
}

/// Writes a file as a whole: whoever reads it sees the old one or the new one. `-` is stdout.
fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if is_stdout(file) {
        io::stdout().write_all(bytes)?;
        return Ok(());
    }
    file::write(file, Readers::Umask, bytes)
}

fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}

/// What was found, on stdout; where that has the picture, on stderr.
fn finish(output: &Path, said: &str) -> anyhow::Result<()> {
    if is_stdout(output) {
        say(said.trim_end());
        return Ok(());
    }
    let drawn: Cow<'_, str> = harmless(&output.display().to_string()).into();
    io::stdout().write_all(format!("{said}\ndrawn in {drawn}\n").as_bytes())?;
    Ok(())
}

/// A line for the reader beside the result.
fn say(line: &str) {
    // Whoever closed stderr does not want it.
    _ = writeln!(io::stderr(), "{line}");
}
