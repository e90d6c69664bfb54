//! Flame graphs: where threads wait, where the processor is used, where goroutines stand. Each frame is as wide as what
//! it and all that it called took. Drawn in percent, so that it fits any width; a script makes one frame as wide as all.

use std::collections::BTreeMap;

use overdue_why::{
    Observation,
    observation::{Frame, Stack},
};

use super::html::{Element, el, folded_table};
use crate::render::time;

/// Frames of one graph; what is narrower than the least part of the whole is left out anyway.
const FRAMES: usize = 600;
const LEAST: f64 = 0.002;
/// Frames above each other.
const DEPTH: usize = 64;
/// The height of a frame.
const ROW: usize = 18;
/// Stacks in the table, and frames of each there.
const TABLE: usize = 20;
const TABLE_FRAMES: usize = 6;

/// The graphs that there is something to draw for.
pub(super) fn sections(seen: &Observation) -> Vec<Element> {
    [goroutines(seen), waits(seen), computing(seen)].into_iter().flatten().collect()
}

fn waits(seen: &Observation) -> Option<Element> {
    let waits = seen.threads.as_ref()?.waits.as_ref()?;
    let stacks = waits.iter().map(|wait| Weighed {
        path: path(Some(&wait.thread), &wait.stack),
        weight: wait.waited_us,
        note: format!("{} waits, the longest {}", wait.times, time(wait.longest_us)),
    });
    section(&Graph {
        id: "waits",
        title: "Where threads waited",
        note: "By looks at sleeping threads: a frame is as wide as the time that threads spent waiting in it and in what \
               it called, all threads together. A thread without work waits, too.",
        all: "all waiting",
        unit: time,
        stacks: stacks.collect(),
    })
}

fn computing(seen: &Observation) -> Option<Element> {
    let cpu = seen.cpu.as_ref()?;
    let stacks = cpu.hot.as_ref()?.iter().map(|hot| Weighed {
        path: path(Some(&hot.thread), &hot.stack),
        weight: hot.samples,
        note: String::new(),
    });
    section(&Graph {
        id: "computing",
        title: "Where it computed",
        note: "By samples of the processors: a frame is as wide as the samples that found it, or what it called, running.",
        all: "all samples",
        unit: |samples| format!("{samples} samples"),
        stacks: stacks.collect(),
    })
}

fn goroutines(seen: &Observation) -> Option<Element> {
    let stacks = seen.go.as_ref()?.groups.iter().map(|group| {
        let state = group.wait_reason.clone().unwrap_or_else(|| format!("{:?}", group.state).to_lowercase());
        let oldest = group.oldest_wait_us.map(|us| format!(", the oldest waits for {}", time(us))).unwrap_or_default();
        let by = group.created_by.as_ref().map(|by| format!(", created by {by}")).unwrap_or_default();
        Weighed {
            path: path(Some(&state), &group.stack),
            weight: group.last,
            note: format!("{} at the first look, {} of them still there{oldest}{by}", group.first, group.stayed),
        }
    });
    section(&Graph {
        id: "goroutines",
        title: "Where goroutines stood",
        note: "At the last look: a frame is as wide as the number of goroutines that stood in it or in what it called.",
        all: "all goroutines",
        unit: |count| format!("{count} goroutines"),
        stacks: stacks.collect(),
    })
}

struct Graph {
    id: &'static str,
    title: &'static str,
    note: &'static str,
    /// What the lowest frame is called.
    all: &'static str,
    unit: fn(u64) -> String,
    stacks: Vec<Weighed>,
}

/// A stack from the outermost on, and what it weighs.
struct Weighed {
    path: Vec<String>,
    weight: u64,
    note: String,
}

/// The thread first, then the outermost frame.
fn path(thread: Option<&String>, stack: &Stack) -> Vec<String> {
    let cut = stack.cut.as_ref().map(|why| format!("(cut here: {why})"));
    let frames = stack.frames.iter().take(DEPTH).map(name).collect::<Vec<_>>().into_iter().rev();
    thread.cloned().into_iter().chain(cut).chain(frames).collect()
}

fn name(frame: &Frame) -> String {
    let module = || frame.module.as_deref().map(|module| format!("in {module}"));
    frame.function.clone().or_else(module).unwrap_or_else(|| "(no name)".to_owned())
}

/// A frame with those that it called.
#[derive(Default)]
struct Node {
    weight: u64,
    below: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, path: &[String], weight: u64) {
        self.weight = self.weight.saturating_add(weight);
        if let [first, rest @ ..] = path {
            self.below.entry(first.clone()).or_default().add(rest, weight);
        }
    }
}

/// A frame with its place: percent of the width, and how many are above it.
struct Placed<'a> {
    name: &'a str,
    weight: u64,
    start: f64,
    width: f64,
    depth: usize,
}

fn place<'a>(node: &'a Node, name: &'a str, start: f64, depth: usize, scale: f64, out: &mut Vec<Placed<'a>>) {
    let width = node.weight as f64 * scale;
    if width < LEAST * 100.0 || out.len() >= FRAMES || depth > DEPTH + 2 {
        return;
    }
    out.push(Placed { name, weight: node.weight, start, width, depth });
    // The widest first, as they matter most.
    let mut below: Vec<_> = node.below.iter().collect();
    below.sort_by_key(|(_, node)| std::cmp::Reverse(node.weight));
    let mut at = start;
    for (name, node) in below {
        place(node, name, at, depth + 1, scale, out);
        at += node.weight as f64 * scale;
    }
}

fn section(graph: &Graph) -> Option<Element> {
    let mut root = Node::default();
    for stack in &graph.stacks {
        root.add(&stack.path, stack.weight);
    }
    if root.weight == 0 {
        return None;
    }
    let mut frames = Vec::new();
    place(&root, graph.all, 0.0, 0, 100.0 / root.weight as f64, &mut frames);
    let rows = frames.iter().map(|frame| frame.depth + 1).max().unwrap_or(1);
    let drawn = frames.iter().map(|frame| draw(frame, root.weight, graph.unit));
    let svg = el("svg")
        .class(format!("flame {}", graph.id))
        .with("role", "tree")
        .with("aria-label", graph.title)
        .with("height", rows * ROW)
        .children(drawn);
    let title = el("h2").with("id", graph.id).text(graph.title);
    Some(
        el("section")
            .with("aria-labelledby", graph.id)
            .child(title)
            .child(el("p").class("note").text(graph.note))
            .child(svg)
            .child(el("p").class("focused").with("aria-live", "polite").text("Click a frame, or go there by the arrow keys and press Enter, to see it in full width; Escape goes back."))
            .child(table(graph, root.weight)),
    )
}

fn draw(frame: &Placed<'_>, all: u64, unit: fn(u64) -> String) -> Element {
    let percent = frame.weight as f64 * 100.0 / all.max(1) as f64;
    let text = format!("{}: {}, {percent:.1} %", frame.name, unit(frame.weight));
    let colour = frame.name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 5;
    let class = if frame.depth == 0 { "f all".to_owned() } else { format!("f f{colour}") };
    el("svg")
        .class(class)
        .with("role", "treeitem")
        .with("aria-level", frame.depth + 1)
        .with("aria-label", &text)
        .with("tabindex", if frame.depth == 0 { "0" } else { "-1" })
        .with("x", format!("{:.3}%", frame.start))
        .with("y", frame.depth * ROW)
        .with("width", format!("{:.3}%", frame.width))
        .with("height", ROW)
        .child(el("title").text(&text))
        .child(el("rect").with("width", "100%").with("height", ROW - 1))
        .child(el("text").with("x", "4").with("y", "13").text(frame.name))
}

/// The heaviest stacks, innermost first.
fn table(graph: &Graph, all: u64) -> Element {
    let mut stacks: Vec<&Weighed> = graph.stacks.iter().collect();
    stacks.sort_by_key(|stack| std::cmp::Reverse(stack.weight));
    let rows = stacks.iter().take(TABLE).map(|stack| {
        let percent = stack.weight as f64 * 100.0 / all.max(1) as f64;
        let mut frames: Vec<&str> = stack.path.iter().skip(1).rev().take(TABLE_FRAMES).map(String::as_str).collect();
        if stack.path.len() > TABLE_FRAMES + 1 {
            frames.push("…");
        }
        el("tr")
            .child(el("th").with("scope", "row").text((graph.unit)(stack.weight)))
            .child(el("td").text(format!("{percent:.1} %")))
            .child(el("td").text(stack.path.first().cloned().unwrap_or_default()))
            .child(el("td").class("code").text(frames.join(" ← ")))
            .child(el("td").text(stack.note.clone()))
    });
    let heads = ["weight", "part", "thread or state", "stack, innermost first", "note"];
    folded_table("The heaviest stacks as a table", &heads, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighed(path: &[&str], weight: u64) -> Weighed {
        Weighed { path: path.iter().map(|name| (*name).to_owned()).collect(), weight, note: String::new() }
    }

    #[test]
    fn frames_are_as_wide_as_what_they_called() {
        let mut root = Node::default();
        for stack in [weighed(&["main", "a"], 30), weighed(&["main", "b"], 60), weighed(&["main"], 10)] {
            root.add(&stack.path, stack.weight);
        }
        let mut frames = Vec::new();
        place(&root, "all", 0.0, 0, 1.0, &mut frames);
        let shown: Vec<_> = frames.iter().map(|frame| (frame.name, frame.start, frame.width, frame.depth)).collect();
        assert_eq!(shown, [("all", 0.0, 100.0, 0), ("main", 0.0, 100.0, 1), ("b", 0.0, 60.0, 2), ("a", 60.0, 30.0, 2)]);
    }

    #[test]
    fn very_many_or_very_deep_stacks_stay_a_graph() {
        let deep: Vec<String> = (0..DEPTH).map(|at| at.to_string()).collect();
        let many = (0..5_000).map(|at| weighed(&[&at.to_string(), "x"], 1_000 + at));
        let mut stacks: Vec<Weighed> = many.collect();
        stacks.push(Weighed { path: deep, weight: u64::MAX, note: String::new() });
        let graph = Graph { id: "waits", title: "t", note: "n", all: "all", unit: time, stacks };
        let (svg, whole) = section(&graph).unwrap().render(1 << 20);
        assert!(whole && svg.matches("treeitem").count() <= FRAMES);
    }
}
