//! Flame graphs as data: stacks with weights, in the collapsed form that many tools read, and what changed between two.
//!
//! A line is `frame;frame;frame weight`, the outermost frame first. The first frame is the name of the thread. Names come
//! from the process and are untrusted: what would break a line, or a document that shows it, is replaced. The first line
//! of a file of ours says what it shows, as a comment, which other tools pass over.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use thiserror::Error;

use crate::observation::{GoroutineState, Hidden, Observation, Stack};

/// No graph has more stacks: others are counted as `[left out]`.
pub const STACKS_MAX: usize = 50_000;
/// No line of a file is longer.
const LINE_MAX: usize = 64 * 1024;
/// Frames of one stack.
const FRAMES_MAX: usize = 256;
/// Characters of one name.
const NAME_MAX: usize = 256;
/// What stands for all that there was no room for.
const LEFT_OUT: &str = "[left out]";

/// What a graph shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sight {
    /// Where threads compute, by samples.
    #[default]
    On,
    /// Where threads are off the processors, by time.
    Off,
    /// What work waits for: goroutines in a Go program, threads elsewhere.
    Wait,
}

/// What the weights of a graph count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unit {
    /// Looks that found it there.
    #[default]
    Samples,
    /// Time.
    Microseconds,
    /// Goroutines that wait there.
    Goroutines,
}

impl fmt::Display for Unit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Samples => "samples",
            Self::Microseconds => "microseconds",
            Self::Goroutines => "goroutines",
        })
    }
}

/// What stacks show and count: only those of one kind can be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// What they show.
    pub sight: Sight,
    /// What they count.
    pub unit: Unit,
}

/// What the first line of a file begins with.
const HEADING: &str = "# overdue flame ";

impl Kind {
    const ALL: [Self; 4] = [
        Self { sight: Sight::On, unit: Unit::Samples },
        Self { sight: Sight::Off, unit: Unit::Microseconds },
        Self { sight: Sight::Wait, unit: Unit::Microseconds },
        Self { sight: Sight::Wait, unit: Unit::Goroutines },
    ];

    /// The first line of a file of this kind.
    #[must_use]
    pub fn heading(self) -> String {
        format!("{HEADING}{self}\n")
    }

    /// Of a file, as its first line says. `None` of one that another tool wrote.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let said = text.lines().next()?.strip_prefix(HEADING)?;
        Self::ALL.into_iter().find(|kind| kind.to_string() == said.trim_end())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, {}", self.sight, self.unit)
    }
}

/// The flag that asks for it.
impl fmt::Display for Sight {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::On => "--on",
            Self::Off => "--off",
            Self::Wait => "--wait",
        })
    }
}

/// A file that holds no collapsed stacks.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FoldedError {
    /// A line is something else.
    #[error("line {0} is no stack: write `frame;frame;frame NUMBER`")]
    Line(usize),
    /// There are too many stacks.
    #[error("it has more than {STACKS_MAX} different stacks")]
    TooMany,
    /// Nothing is in it.
    #[error("it has no stacks")]
    Empty,
}

/// Stacks with their weights.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Folded {
    stacks: BTreeMap<String, u64>,
}

impl Folded {
    /// Adds a weight to the stack of these frames, the outermost first.
    pub fn add<'a>(&mut self, frames: impl IntoIterator<Item = &'a str>, weight: u64) {
        let frames: Vec<String> = frames.into_iter().take(FRAMES_MAX).map(frame).collect();
        if !frames.is_empty() && weight > 0 {
            self.enter(frames.join(";"), weight);
        }
    }

    fn enter(&mut self, stack: String, weight: u64) {
        let is_full = self.stacks.len() >= STACKS_MAX && !self.stacks.contains_key(&stack);
        let sum = self.stacks.entry(if is_full { LEFT_OUT.to_owned() } else { stack }).or_default();
        *sum = sum.saturating_add(weight);
    }

    /// Reads collapsed stacks, which other tools may have written.
    ///
    /// # Errors
    /// [`FoldedError`], with the line.
    pub fn parse(text: &str) -> Result<Self, FoldedError> {
        let mut folded = Self::default();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || at == 0 && line.starts_with(HEADING) {
                continue;
            }
            let wrong = || FoldedError::Line(at + 1);
            let (stack, weight) =
                line.trim_end().rsplit_once(' ').filter(|_| line.len() <= LINE_MAX).ok_or_else(wrong)?;
            // Some tools write fractions.
            let fraction =
                || weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight >= 0.0).map(whole);
            let weight = weight.parse().ok().or_else(fraction).ok_or_else(wrong)?;
            if stack.trim().is_empty() {
                return Err(wrong());
            }
            folded.add(stack.split(';'), weight);
            if folded.stacks.len() > STACKS_MAX {
                return Err(FoldedError::TooMany);
            }
        }
        if folded.stacks.is_empty() { Err(FoldedError::Empty) } else { Ok(folded) }
    }

    /// All weights together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.stacks.values().fold(0, |sum, weight| sum.saturating_add(*weight))
    }

    /// The collapsed form, a line a stack.
    #[must_use]
    pub fn text(&self) -> String {
        self.stacks.iter().map(|(stack, weight)| format!("{stack} {weight}\n")).collect()
    }

    /// The collapsed form of two: the weight before, in proportion to the total after, and the weight after.
    #[must_use]
    pub fn differential(before: &Self, after: &Self) -> String {
        let (total_before, total_after) = (u128::from(before.total().max(1)), u128::from(after.total()));
        let scaled = |weight: u64| u128::from(weight) * total_after / total_before;
        let all: BTreeMap<&String, ()> =
            before.stacks.keys().chain(after.stacks.keys()).map(|stack| (stack, ())).collect();
        let weight = |folded: &Self, stack: &str| folded.stacks.get(stack).copied().unwrap_or(0);
        all.into_keys()
            .map(|stack| format!("{stack} {} {}\n", scaled(weight(before, stack)), weight(after, stack)))
            .collect()
    }

    /// Who called a function in the heaviest of the stacks that end in it, the nearest first.
    #[must_use]
    pub fn callers(&self, of: &str) -> Vec<&str> {
        let ends_in = self.stacks.iter().filter(|(stack, _)| stack.rsplit(';').next() == Some(of));
        let heaviest = ends_in.max_by_key(|(_, weight)| **weight);
        heaviest.map(|(stack, _)| stack.rsplit(';').skip(1).collect()).unwrap_or_default()
    }

    /// Functions with their weights, the heaviest by themselves first.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        let mut all: HashMap<&str, Function> = HashMap::new();
        for (stack, weight) in &self.stacks {
            let mut met = HashSet::new();
            let innermost = stack.rsplit(';').next().unwrap_or(stack);
            // A function that calls itself counts once.
            for name in stack.split(';').filter(|name| met.insert(*name)) {
                let fresh = || Function { name: name.to_owned(), own: 0, total: 0 };
                let function = all.entry(name).or_insert_with(fresh);
                function.total = function.total.saturating_add(*weight);
                function.own = function.own.saturating_add(if name == innermost { *weight } else { 0 });
            }
        }
        let mut all: Vec<Function> = all.into_values().collect();
        all.sort_by(|a, b| (b.own, b.total).cmp(&(a.own, a.total)).then_with(|| a.name.cmp(&b.name)));
        all
    }
}

/// A fraction as a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, which is what is wanted"
)]
fn whole(weight: f64) -> u64 {
    weight.round() as u64
}

/// A function and what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Of itself.
    pub own: u64,
    /// With all that it calls.
    pub total: u64,
}

/// What changed of one function, in shares of all.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The share that it had of itself, before and after.
    pub own: (f64, f64),
    /// The share with all that it calls.
    pub total: (f64, f64),
}

impl Change {
    /// What orders them: both differences together, so that where something happens comes before who calls it.
    fn size(&self) -> f64 {
        (self.own.1 - self.own.0).abs() + (self.total.1 - self.total.0).abs()
    }
}

/// What changed between two, the largest first. Each is counted in shares of its own total, so that neither the length of
/// a watch nor the load matters.
#[must_use]
pub fn changes(before: &Folded, after: &Folded) -> Vec<Change> {
    let mut all: BTreeMap<String, Change> = BTreeMap::new();
    let share = |weight: u64, of: &Folded| weight as f64 / of.total().max(1) as f64;
    for (is_after, folded) in [(false, before), (true, after)] {
        for function in folded.functions() {
            let (own, total) = (share(function.own, folded), share(function.total, folded));
            let fresh = || Change { name: function.name.clone(), own: (0.0, 0.0), total: (0.0, 0.0) };
            let change = all.entry(function.name.clone()).or_insert_with(fresh);
            if is_after {
                (change.own.1, change.total.1) = (own, total);
            } else {
                (change.own.0, change.total.0) = (own, total);
            }
        }
    }
    let mut all: Vec<Change> = all.into_values().filter(|change| change.size() > 0.0).collect();
    all.sort_by(|a, b| b.size().total_cmp(&a.size()));
    all
}

/// A graph, and what its reader must know of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    /// Its stacks.
    pub folded: Folded,
    /// What they count.
    pub unit: Unit,
    /// The weight of stacks that end early, and of those without any stack.
    pub incomplete: u64,
    /// Why most of these do.
    pub cut: Option<String>,
    /// Events that were lost because a table was full.
    pub lost: u64,
    /// What could not be seen.
    pub not_visible: Vec<Hidden>,
    reasons: BTreeMap<String, u64>,
}

impl Graph {
    /// An empty one.
    #[must_use]
    pub fn new(unit: Unit) -> Self {
        Self { unit, ..Self::default() }
    }

    /// Adds a stack: the thread it was seen on, and what it was inside of where that is known.
    pub fn add(&mut self, thread: &str, stack: &Stack, inside: Option<&str>, weight: u64) {
        let inside = inside.map(|inside| format!("[{inside}]"));
        let early = stack.cut.as_ref().map(|_| "[ends early]");
        let frames = stack.frames.iter().rev().map(|frame| match (&frame.function, &frame.module) {
            (Some(function), _) => function.clone(),
            // Without the offset: what is not named is one frame a file.
            (None, Some(module)) => {
                let path = module.rsplit_once('+').map_or(module.as_str(), |(path, _)| path);
                let file = path.rsplit('/').next().unwrap_or(path);
                format!("[{}]", if file.starts_with("0x") { "no file" } else { file })
            }
            (None, None) => "[unknown]".to_owned(),
        });
        let frames: Vec<String> = frames.collect();
        let outer = [thread].into_iter().chain(early);
        self.folded.add(outer.chain(frames.iter().map(String::as_str)).chain(inside.as_deref()), weight);
        if let Some(cut) = &stack.cut {
            self.incomplete = self.incomplete.saturating_add(weight);
            *self.reasons.entry(cut.clone()).or_default() += weight;
            self.cut = self.reasons.iter().max_by_key(|(_, weight)| **weight).map(|(reason, _)| reason.clone());
        }
    }

    /// The share of the weights whose stacks are whole.
    #[must_use]
    pub fn whole(&self) -> f64 {
        let total = self.folded.total().max(1);
        total.saturating_sub(self.incomplete) as f64 / total as f64
    }

    /// What was observed, as a graph. `None` where that was not looked at. Switches ([`Sight::Off`]) are in no observation.
    #[must_use]
    pub fn of(seen: &Observation, sight: Sight) -> Option<Self> {
        match sight {
            Sight::On => on(seen),
            Sight::Off => None,
            Sight::Wait => goroutines(seen).or_else(|| waits(seen)),
        }
    }
}

fn on(seen: &Observation) -> Option<Graph> {
    let cpu = seen.cpu.as_ref()?;
    let mut graph = Graph::new(Unit::Samples);
    let mut added = 0_u64;
    for hot in cpu.hot.as_ref()? {
        graph.add(&hot.thread, &hot.stack, None, hot.samples);
        added = added.saturating_add(hot.samples);
    }
    graph.folded.add([LEFT_OUT], cpu.samples.saturating_sub(added));
    Some(graph)
}

/// Those that wait at the end of the watch, each for one.
fn goroutines(seen: &Observation) -> Option<Graph> {
    let go = seen.go.as_ref().filter(|go| go.read_in_full > 0)?;
    let mut graph = Graph::new(Unit::Goroutines);
    let waiting = |state: GoroutineState| matches!(state, GoroutineState::Waiting | GoroutineState::Syscall);
    for group in go.groups.iter().filter(|group| waiting(group.state)) {
        let maker = group.created_by.as_deref().map(|by| by.split_once(" at ").map_or(by, |(by, _)| by));
        let maker = maker.map_or_else(|| "the first goroutine".to_owned(), |by| format!("go from {by}"));
        let reason = match group.state {
            GoroutineState::Syscall => Some("system call"),
            _ => group.wait_reason.as_deref(),
        };
        graph.add(&maker, &group.stack, reason, group.last);
    }
    Some(graph)
}

/// By looks at the threads: with stacks where those could be read, else by the calls that they are in.
fn waits(seen: &Observation) -> Option<Graph> {
    let threads = seen.threads.as_ref()?;
    let mut graph = Graph::new(Unit::Microseconds);
    if let Some(waits) = &threads.waits {
        for wait in waits {
            graph.add(&wait.thread, &wait.stack, None, wait.waited_us);
        }
        return Some(graph);
    }
    let no_stack = Stack { frames: Vec::new(), cut: Some("stacks need BPF".to_owned()) };
    for thread in &threads.threads {
        for (call, looks) in &thread.calls {
            let share = u64::from(*looks).saturating_mul(seen.window_us) / u64::from(thread.looks.max(1));
            graph.add(&thread.name, &no_stack, Some(call), share);
        }
    }
    Some(graph)
}

/// A name that neither breaks a line nor a document.
fn frame(name: &str) -> String {
    let harmless = |c: char| match c {
        ';' => ':',
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => '?',
        // These may stand in no XML.
        '\u{fffe}' | '\u{ffff}' => '?',
        c if c.is_control() => '?',
        c => c,
    };
    let mut text: String = name.trim().chars().take(NAME_MAX).map(harmless).collect();
    // A number at the end would be read as a weight.
    if let Some(at) = text.rfind(' ')
        && text.get(at + 1..).is_some_and(|last| last.parse::<f64>().is_ok())
    {
        text.replace_range(at..=at, "_");
    }
    text.truncate(text.trim_end().len());
    // A line that begins so is a comment to some.
    if text.starts_with('#') {
        text.replace_range(..1, "?");
    }
    if text.is_empty() { "?".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
