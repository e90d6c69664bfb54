//! The trace of `overdue why --trace`: a line a call as it returns, the stack beneath those that failed or were slow, and
//! the sums in the end. It goes to stdout, before the report.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use overdue_why::{
    collect::{
        Interrupt,
        trace::{CallSum, Event, Options, Outcome, SeenStack, Summary, Trace, errno},
    },
    observation::{Frame, Stack},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    args,
    render::time,
    screen::{Ink, Screen, harmless},
};

/// Frames that are shown of a stack; the JSON has all.
const FRAMES: usize = 8;
/// Calls that are summed up; the JSON has all.
const SUMS: usize = 20;
/// The least duration that is shown: what is shorter is not what anybody looks for.
const SHOWN_US: u64 = 1;

/// How to trace, and how to tell it.
pub(crate) struct Flags {
    options: Options,
    json: bool,
}

impl Flags {
    /// `None` where no trace was asked for.
    pub(crate) fn of(flags: &args::Why) -> Option<Self> {
        let chosen = flags.trace.clone()?;
        let default = Options::default();
        let options = Options { chosen: chosen.unwrap_or(default.chosen), slow: flags.slow, ..default };
        Some(Self { options, json: flags.json })
    }

    /// Begins.
    pub(crate) fn attach(self, pid: u32) -> anyhow::Result<Running> {
        Ok(Running { trace: Trace::attach(pid, self.options)?, json: self.json })
    }
}

/// A trace that goes on.
pub(crate) struct Running {
    trace: Trace,
    json: bool,
}

impl Running {
    /// Tells calls for so long. Where nobody listens any more, all of the watch is over.
    pub(crate) fn run(self, window: Duration, stop: &Interrupt) -> anyhow::Result<()> {
        let told = self.tell(window, stop);
        if told.is_err() {
            stop.raise();
        }
        Ok(told?)
    }

    fn tell(mut self, window: Duration, stop: &Interrupt) -> io::Result<()> {
        let screen = Screen::of(&io::stdout());
        let json = self.json;
        let tell = |event: &Event| {
            let text = if json { serde_json::to_string(&Line::of(event))? + "\n" } else { line(screen, event) };
            io::stdout().write_all(text.as_bytes())
        };
        self.trace.run(window, stop, tell)?;
        let summary = self.trace.finish(tell)?;
        let text = if json { serde_json::to_string(&Sums::of(&summary))? + "\n" } else { sums(screen, &summary) };
        io::stdout().write_all(text.as_bytes())
    }
}

/// `  0.001234s  4242 worker  connect(fd 5 tcp, address 10.0.0.1:80) = ECONNREFUSED  212us`
fn line(screen: Screen, event: &Event) -> String {
    let at = Duration::from_micros(event.at_us).as_secs_f64();
    let arguments: Vec<String> =
        event.arguments.iter().map(|(name, text)| format!("{name} {}", harmless(text))).collect();
    let call = format!("{}({})", screen.ink(Ink::Bold, &event.call), arguments.join(", "));
    let mut out = format!("{at:11.6}s {:>7} {:15}  {call}", event.tid, harmless(&event.thread));
    let outcome = match &event.outcome {
        Outcome::Returned(value, made) => {
            let made = made.as_ref().map(|made| format!(" {}", harmless(made))).unwrap_or_default();
            format!("= {}{made}", number(*value))
        }
        Outcome::Failed(error) => format!("= {}", screen.ink(Ink::Red, &errno(*error))),
        Outcome::Interrupted => "was interrupted by a signal".to_owned(),
        Outcome::Ends => "ends here".to_owned(),
        Outcome::Unfinished => screen.ink(Ink::Yellow, "has not returned"),
    };
    _ = write!(out, " {outcome}");
    if let Some(us) = event.duration_us.filter(|us| *us >= SHOWN_US) {
        let since = if event.since_before { "more than " } else { "" };
        _ = write!(out, "  {since}{}", time(us));
    }
    out.push('\n');
    if let Some(stack) = &event.stack {
        out.push_str(&beneath(screen, stack));
    }
    out
}

/// Addresses are easier to read as such.
fn number(value: i64) -> String {
    if value > i64::from(u32::MAX) { format!("{value:#x}") } else { value.to_string() }
}

/// A stack: in full for the first time, then by its number.
fn beneath(screen: Screen, seen: &SeenStack) -> String {
    let indent = " ".repeat(22);
    let names = seen.stack.frames.iter().take(FRAMES).map(function);
    if !seen.is_new {
        let first = names.take(3).collect::<Vec<_>>().join(" < ");
        return format!("{indent}{}\n", screen.ink(Ink::Dim, &format!("stack {} again: {first}", seen.number)));
    }
    let mut out = format!("{indent}{}\n", screen.ink(Ink::Dim, &format!("stack {}", seen.number)));
    for (frame, name) in seen.stack.frames.iter().zip(names) {
        let at = frame.at.as_ref().map(|at| screen.ink(Ink::Dim, &format!("  {}", harmless(at)))).unwrap_or_default();
        _ = writeln!(out, "{indent}  {name}{at}");
    }
    let more = seen.stack.frames.len().saturating_sub(FRAMES);
    if more > 0 {
        _ = writeln!(out, "{indent}  {}", screen.ink(Ink::Dim, &format!("and {more} more")));
    } else if let Some(cut) = &seen.stack.cut {
        _ = writeln!(out, "{indent}  {}", screen.ink(Ink::Dim, &format!("ends early: {}", harmless(cut))));
    }
    out
}

fn function(frame: &Frame) -> String {
    harmless(frame.function.as_deref().or(frame.module.as_deref()).unwrap_or("?"))
}

/// Calls by their names, the one with the most time first.
fn sums(screen: Screen, summary: &Summary) -> String {
    let head = format!("{:>9} {:>9} {:>9}  {:18}  {}", "total", "longest", "calls", "call", "failed");
    let title = format!("{} of {}", screen.ink(Ink::Bold, "SUMS"), summary.of);
    let mut out = format!("\n{}{}\n", screen.hanging("", &title), screen.ink(Ink::Bold, &head));
    for sum in summary.calls.iter().take(SUMS) {
        let CallSum { call, calls, errors, total_us, longest_us } = sum;
        let errors: Vec<String> = errors
            .iter()
            .map(|(error, count)| {
                format!("{count} {}", if *error >= 512 { "interrupted".to_owned() } else { errno(*error) })
            })
            .collect();
        let row =
            format!("{:>9} {:>9} {calls:>9}  {call:18}  {}", time(*total_us), time(*longest_us), errors.join(", "));
        _ = writeln!(out, "{}", row.trim_end());
    }
    let more = summary.calls.len().saturating_sub(SUMS);
    let mut notes = Vec::new();
    if more > 0 {
        notes.push(format!("{more} more calls took less time"));
    }
    if summary.dropped > 0 {
        notes.push(format!(
            "{} calls were not shown, because there were too many at a time; they are counted above",
            summary.dropped
        ));
    }
    if summary.lost > 0 {
        notes.push(format!("{} stacks or counts were lost for want of room", summary.lost));
    }
    if summary.foreign > 0 {
        notes.push(format!("{} calls by the 32-bit interface were not looked at", summary.foreign));
    }
    for note in notes {
        _ = writeln!(out, "{}", screen.ink(Ink::Dim, &note));
    }
    out.push('\n');
    out
}

const SCHEMA: &str = "overdue.trace/1";

/// `overdue.trace/1`: one object a call.
#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    at_us: u64,
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    since_before: bool,
    tid: u32,
    thread: &'a str,
    call: &'a str,
    arguments: Map<String, Value>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<i64>,
    /// What the descriptor is that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<&'a Stack>,
}

impl<'a> Line<'a> {
    fn of(event: &'a Event) -> Self {
        let (outcome, result, made, error) = match &event.outcome {
            Outcome::Returned(value, made) => ("returned", Some(*value), made.as_deref(), None),
            Outcome::Failed(error) => ("failed", None, None, Some(errno(*error))),
            Outcome::Interrupted => ("interrupted", None, None, None),
            Outcome::Ends => ("ends", None, None, None),
            Outcome::Unfinished => ("unfinished", None, None, None),
        };
        let name = |name: &str| name.replace(' ', "_");
        Self {
            schema: SCHEMA,
            at_us: event.at_us,
            duration_us: event.duration_us,
            since_before: event.since_before,
            tid: event.tid,
            thread: &event.thread,
            call: &event.call,
            arguments: event.arguments.iter().map(|(key, text)| (name(key), text.as_str().into())).collect(),
            outcome,
            result,
            made,
            errno: error,
            stack_number: event.stack.as_ref().map(|stack| stack.number),
            stack: event.stack.as_ref().map(|stack| &stack.stack),
        }
    }
}

/// The last line of a trace.
#[derive(Serialize)]
struct Sums<'a> {
    schema: &'static str,
    /// What calls these are.
    of: &'static str,
    summary: Vec<Sum<'a>>,
    dropped: u64,
    lost: u64,
    foreign: u64,
}

#[derive(Serialize)]
struct Sum<'a> {
    call: &'a str,
    calls: u64,
    errors: BTreeMap<String, u64>,
    total_us: u64,
    longest_us: u64,
}

impl<'a> Sums<'a> {
    fn of(summary: &'a Summary) -> Self {
        let sum = |sum: &'a CallSum| Sum {
            call: &sum.call,
            calls: sum.calls,
            errors: sum.errors.iter().map(|(error, count)| (errno(*error), *count)).collect(),
            total_us: sum.total_us,
            longest_us: sum.longest_us,
        };
        Self {
            schema: SCHEMA,
            of: summary.of,
            summary: summary.calls.iter().map(sum).collect(),
            dropped: summary.dropped,
            lost: summary.lost,
            foreign: summary.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            at_us: 1_234,
            duration_us: Some(212),
            since_before: false,
            tid: 42,
            thread: "wor\u{1b}[2Jker".to_owned(),
            call: "connect".to_owned(),
            arguments: vec![("fd", "5 tcp".to_owned()), ("address", "unix /a\nb\u{202e}".to_owned())],
            outcome: Outcome::Failed(111),
            stack: None,
        }
    }

    #[test]
    fn a_line_is_one_line_and_harmless() {
        let text = line(Screen::plain(80), &event());
        assert_eq!(
            text,
            "   0.001234s      42 wor?[2Jker       connect(fd 5 tcp, address unix /a?b?) = ECONNREFUSED  212us\n"
        );
        let unfinished = Event { outcome: Outcome::Unfinished, since_before: true, ..event() };
        assert!(line(Screen::plain(80), &unfinished).ends_with("has not returned  more than 212us\n"));
    }

    #[test]
    fn a_stack_is_told_once() {
        let frame = |name: &str| Frame { function: Some(name.to_owned()), ..Frame::default() };
        let stack = Stack { frames: vec![frame("connect"), frame("call\u{7}"), frame("main")], cut: None };
        let seen = |is_new| Some(SeenStack { number: 3, is_new, stack: stack.clone() });
        let first = line(Screen::plain(80), &Event { stack: seen(true), ..event() });
        assert!(first.contains("stack 3\n") && first.contains("  call?\n"), "{first}");
        let again = line(Screen::plain(80), &Event { stack: seen(false), ..event() });
        assert!(again.ends_with("stack 3 again: connect < call? < main\n"), "{again}");
    }

    #[test]
    fn json_escapes_what_it_quotes() {
        let event = event();
        let text = serde_json::to_string(&Line::of(&event)).unwrap();
        assert!(!text.contains('\u{1b}'), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((value["errno"].as_str(), value["duration_us"].as_u64()), (Some("ECONNREFUSED"), Some(212)));
    }

    #[test]
    fn sums_say_what_is_missing() {
        let errors = [(111, 2), (512, 1)].into();
        let sum = CallSum { call: "connect".to_owned(), calls: 5, errors, total_us: 1500, longest_us: 900 };
        let summary = Summary { of: "the chosen calls", calls: vec![sum], dropped: 7, ..Summary::default() };
        let text = sums(Screen::plain(80), &summary);
        assert!(text.starts_with("\nSUMS of the chosen calls\n"), "{text}");
        assert!(text.contains("connect             2 ECONNREFUSED, 1 interrupted"), "{text}");
        assert!(text.contains("7 calls were not shown"), "{text}");
    }
}
