//! States over time: connections, threads, descriptors, processor and memory, as charts and as a table.

use overdue_core::facts::TcpState;
use overdue_why::{
    Observation, judge,
    observation::{Look, Reading},
};

use super::{
    chart::{Chart, Series},
    html::{Element, el, folded_table},
};
use crate::render::time;

/// States of connections that have a line of their own; the others share one.
const STATES: usize = 5;
/// Points of a line.
const POINTS: usize = 512;
/// Lines of the table.
const TABLE: usize = 64;
/// A limit is drawn from this part of it on.
const NEAR: f64 = 0.2;

/// The section, where there are two looks to compare.
pub(super) fn section(seen: &Observation) -> Option<Element> {
    let looks = seen.history.as_ref().map_or(&[][..], |history| history.looks.as_slice());
    let charts = [
        connections(looks),
        queues(looks),
        descriptors(seen),
        threads(looks),
        processor(looks),
        of("Memory", "", seen.cpu.as_ref().map(|cpu| cpu.rss_bytes.as_slice()), bytes),
        of("Goroutines", "", seen.go.as_ref().map(|go| go.goroutines.as_slice()), whole),
        heap(seen),
    ];
    let drawn: Vec<Element> = charts.iter().filter_map(|chart| chart.draw(seen.window_us)).collect();
    (!drawn.is_empty()).then(|| {
        el("section")
            .with("aria-labelledby", "states")
            .child(el("h2").with("id", "states").text("States over time"))
            .child(el("div").class("charts").children(drawn))
            .children(table(looks))
    })
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

pub(super) fn bytes(value: f64) -> String {
    match value {
        ..1e3 => format!("{value:.0} B"),
        ..1e6 => format!("{:.1} kB", value / 1e3),
        ..1e9 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

fn chart(title: &'static str, series: Vec<Series>, unit: fn(f64) -> String) -> Chart {
    Chart { title, series, unit, limit: None }
}

fn line(label: &str, points: impl Iterator<Item = (u64, f64)>) -> Series {
    let points: Vec<(u64, f64)> = points.collect();
    // A recording may hold any number of them.
    let step = points.len().div_ceil(POINTS).max(1);
    Series { label: label.to_owned(), points: points.into_iter().step_by(step).collect() }
}

fn of(title: &'static str, label: &str, readings: Option<&[Reading]>, unit: fn(f64) -> String) -> Chart {
    chart(title, vec![readings_line(label, readings.unwrap_or_default())], unit)
}

fn readings_line(label: &str, readings: &[Reading]) -> Series {
    line(label, readings.iter().map(|reading| (reading.at_us, reading.value as f64)))
}

/// How many connections were in a state at a look.
fn in_state(look: &Look, state: TcpState) -> u64 {
    let states = look.tcp.iter().flat_map(|tcp| &tcp.states);
    states.filter(|(of, _)| *of == state).fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// The states that were seen, that of which there were the most first.
fn states(looks: &[Look]) -> Vec<TcpState> {
    let mut most: Vec<(TcpState, u64)> = Vec::new();
    for &(state, count) in looks.iter().filter_map(|look| look.tcp.as_ref()).flat_map(|tcp| &tcp.states) {
        match most.iter_mut().find(|(of, _)| *of == state) {
            Some((_, most)) => *most = count.max(*most),
            None => most.push((state, count)),
        }
    }
    most.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    most.into_iter().map(|(state, _)| state).collect()
}

fn connections(looks: &[Look]) -> Chart {
    let states = states(looks);
    let (own, others) = states.split_at(states.len().min(STATES));
    let counted = || looks.iter().filter(|look| look.tcp.is_some());
    let of = |state: &TcpState| {
        line(judge::state_text(*state), counted().map(|look| (look.at_us, in_state(look, *state) as f64)))
    };
    let mut series: Vec<Series> = own.iter().map(of).collect();
    if !others.is_empty() {
        let sum = |look: &Look| others.iter().map(|state| in_state(look, *state) as f64).sum();
        series.push(line("others", counted().map(|look| (look.at_us, sum(look)))));
    }
    chart("TCP connections by state", series, whole)
}

fn queues(looks: &[Look]) -> Chart {
    let counted = || looks.iter().filter_map(|look| Some((look.at_us, look.tcp.as_ref()?)));
    let unread = line("unread", counted().map(|(at, tcp)| (at, tcp.unread_bytes as f64)));
    let unsent = line("unacknowledged", counted().map(|(at, tcp)| (at, tcp.unsent_bytes as f64)));
    chart("Bytes in the sockets' queues", vec![unread, unsent], bytes)
}

fn descriptors(seen: &Observation) -> Chart {
    let mut chart = of("Open descriptors", "", seen.fds.as_ref().map(|fds| fds.open.as_slice()), whole);
    let most = chart.series.iter().flat_map(|series| &series.points).map(|point| point.1).fold(0.0, f64::max);
    let limit = seen.fds.as_ref().map(|fds| fds.soft_limit as f64);
    chart.limit = limit.filter(|limit| *limit > 0.0 && most >= limit * NEAR);
    if chart.limit.is_some() {
        chart.title = "Open descriptors, and their limit";
    }
    chart
}

fn threads(looks: &[Look]) -> Chart {
    let counted = || looks.iter().filter_map(|look| Some((look.at_us, look.threads?)));
    let series = [
        line("running", counted().map(|(at, threads)| (at, threads.running as f64))),
        line("asleep", counted().map(|(at, threads)| (at, threads.sleeping as f64))),
        line("in the disk", counted().map(|(at, threads)| (at, threads.uninterruptible as f64))),
        line("other", counted().map(|(at, threads)| (at, threads.other as f64))),
    ];
    let there = |series: &Series| series.points.iter().any(|point| point.1 > 0.0);
    chart("Threads by state", series.into_iter().filter(there).collect(), whole)
}

fn processor(looks: &[Look]) -> Chart {
    let used: Vec<(u64, u64)> = looks.iter().filter_map(|look| Some((look.at_us, look.cpu_us?))).collect();
    let mut points: Vec<(u64, f64)> = Vec::new();
    for pair in used.windows(2) {
        let [(from_us, before_us), (to_us, after_us)] = *pair else { continue };
        let percent = after_us.saturating_sub(before_us) as f64 * 100.0 / to_us.saturating_sub(from_us).max(1) as f64;
        points.push((from_us, percent));
        if used.last() == Some(&(to_us, after_us)) {
            points.push((to_us, percent));
        }
    }
    let series = line("", points.into_iter());
    chart("Processor time, of one processor", vec![series], |percent| format!("{percent:.0} %"))
}

fn heap(seen: &Observation) -> Chart {
    let go = seen.go.as_ref();
    let used = readings_line("in use", go.map_or(&[], |go| go.heap_bytes.as_slice()));
    let live = readings_line("kept", go.map_or(&[], |go| go.live_bytes.as_slice()));
    chart("Go heap", vec![used, live], bytes)
}

/// The same in numbers, of looks as far apart as it takes.
fn table(looks: &[Look]) -> Option<Element> {
    if looks.is_empty() {
        return None;
    }
    let states = states(looks);
    let shown: Vec<TcpState> = states.into_iter().take(STATES).collect();
    let mut heads: Vec<&str> = vec!["after"];
    heads.extend(shown.iter().map(|state| judge::state_text(*state)));
    heads.extend(["unread", "unacknowledged", "threads running", "asleep", "in the disk", "processor time so far"]);
    let cell = |text: String| el("td").text(text);
    let count = |value: Option<u64>| cell(value.map_or_else(|| "?".to_owned(), |value| value.to_string()));
    let row = |look: &Look| {
        let (tcp, threads) = (look.tcp.as_ref(), look.threads);
        el("tr")
            .child(el("th").with("scope", "row").text(time(look.at_us)))
            .children(shown.iter().map(|state| count(tcp.map(|_| in_state(look, *state)))))
            .child(count(tcp.map(|tcp| tcp.unread_bytes)))
            .child(count(tcp.map(|tcp| tcp.unsent_bytes)))
            .child(count(threads.map(|threads| threads.running)))
            .child(count(threads.map(|threads| threads.sleeping)))
            .child(count(threads.map(|threads| threads.uninterruptible)))
            .child(cell(look.cpu_us.map_or_else(|| "?".to_owned(), time)))
    };
    let rows = looks.iter().step_by(looks.len().div_ceil(TABLE)).map(row);
    Some(folded_table("The same as a table", &heads, rows))
}
