//! The waterfall of connections: a row each, on one axis of time, and the same as a table.

use overdue_why::{ConnectionLine, Report, timeline::Phase};

use super::html::{Element, el, folded_table};
use crate::render::{
    time,
    why::connections::{may_stall, open_ends, places, stalled_phase},
};

/// Rows of the waterfall: those that stalled, and of the others as many as are left of the second. The table has more.
const STALLED: usize = 32;
const ROWS: usize = 12;
/// The scale of the axis, and the least that a stage takes of it, so that it can be seen.
const COLUMNS: usize = 1000;
const LEAST: usize = 6;
/// How many ticks the axis has.
const TICKS: u64 = 5;
/// Bars are labelled from this part of the axis on; shorter ones have no room.
const LABELLED: usize = 150;

/// The section, where there are connections.
pub(super) fn section(report: &Report) -> Option<Element> {
    let all = report.connections.len() as u64 + report.connections_not_listed;
    if all == 0 {
        return None;
    }
    let stalled = report.connections.iter().filter(|line| line.stall.is_some()).take(STALLED);
    let others = report.connections.iter().filter(|line| line.stall.is_none() && !line.timeline.is_empty());
    let mut rows: Vec<&ConnectionLine> = stalled.collect();
    rows.extend(others.take(ROWS.saturating_sub(rows.len())));
    let counted = match (all, report.connections_stalled) {
        (1, 0) if may_stall(report) => "One connection.".to_owned(),
        (all, 0) if may_stall(report) => format!("{all} connections."),
        (1, 0) => "One connection, which was not seen to stall.".to_owned(),
        (1, _) => "One connection, which stalled.".to_owned(),
        (all, 0) => format!("{all} connections, none of which was seen to stall."),
        (all, stalled) => format!("{all} connections, of which {stalled} stalled; the longest first."),
    };
    let last_words: String = report.last_words.iter().map(|words| format!(" {words}")).collect();
    let mut note = format!(
        "{counted}{last_words} Shown is the current or last exchange of each and the longest silence before it, as far as they were \
         seen from outside; a stage that is very short is drawn wider than it was."
    );
    if rows.len() as u64 != all {
        note = format!("{note} {} of {all} are drawn, {} are in the table.", rows.len(), report.connections.len());
    }
    let window = report.elapsed_us;
    let waterfall = el("ol").class("waterfall").children(rows.iter().map(|line| row(line, window)));
    Some(
        el("section")
            .with("aria-labelledby", "connections")
            .child(el("h2").with("id", "connections").text("Connections"))
            .child(el("p").class("note").text(note))
            .children(legend(&rows, window))
            .children((!rows.is_empty()).then(|| axis(window)))
            .children((!rows.is_empty()).then_some(waterfall))
            .child(table(report)),
    )
}

fn axis(window_us: u64) -> Element {
    let tick = |at: u64| {
        let anchor = match at {
            0 => "start",
            TICKS => "end",
            _ => "middle",
        };
        let place = format!("{}%", at * 100 / TICKS);
        let text = if at == 0 { "0".to_owned() } else { tick_text(window_us / TICKS * at) };
        el("text").with("x", place).with("y", "12").with("text-anchor", anchor).text(text)
    };
    let scale = el("svg").class("scale").children((0..=TICKS).map(tick));
    el("div").class("row axis").with("aria-hidden", "true").child(el("span")).child(scale).child(el("span"))
}

/// Short: what a tick says is where it stands.
fn tick_text(us: u64) -> String {
    match us {
        0..10_000 => time(us),
        10_000..1_000_000 => format!("{}ms", us / 1000),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

fn row(line: &ConnectionLine, window_us: u64) -> Element {
    let detail = detail(line);
    let who =
        el("span").class("who").child(el("b").text(peer(line))).child(el("small").with("title", &detail).text(&detail));
    let stall = line.stall.as_ref().map(|stall| {
        let stalled = if stall.stalled_us > 0 { time(stall.stalled_us) } else { "failed".to_owned() };
        el("span").class("stall").child(el("b").text(stalled)).child(el("small").text(stall.cause.id()))
    });
    let bar = bar(line, window_us);
    el("li").class("row").child(who).child(bar).child(stall.unwrap_or_else(|| el("span").class("stall")))
}

fn bar(line: &ConnectionLine, window_us: u64) -> Element {
    let percent = |columns: usize| format!("{:.1}%", columns as f64 * 100.0 / COLUMNS as f64);
    let mut bar = el("svg").class("bar").with("role", "img").with("aria-label", in_words(line, window_us));
    let ticks = (1..TICKS).map(|at| {
        let x = format!("{}%", at * 100 / TICKS);
        el("line").class("tick").with("x1", &x).with("x2", x).with("y1", "0").with("y2", "100%")
    });
    bar = bar.children(ticks);
    let stalled = stalled_phase(line);
    let placed = line.timeline.iter().zip(places(&line.timeline, window_us, COLUMNS, LEAST));
    for (at, (phase, place)) in placed.enumerate() {
        let (began_before, goes_on) = open_ends(phase, window_us);
        let stage = phase.stage.as_str();
        let whole = |name: &'static str| el(name).with("width", "100%").with("height", "100%");
        let mut part = el("svg")
            .with("x", percent(place.start))
            .with("width", percent(place.len()))
            .with("height", "100%")
            .child(el("title").text(phase_text(phase, window_us)))
            .child(whole("rect").class(format!("stage {stage}")));
        if phase.inferred {
            part = part.child(whole("rect").with("fill", "url(#inferred)"));
        }
        if stalled == Some(at) {
            part = part.child(el("rect").class("stalled").with("y", "18").with("width", "100%").with("height", "4"));
        }
        if place.len() >= LABELLED {
            let label = format!("{stage} {}", time(phase.duration_us));
            part = part.child(el("text").with("x", "12").with("y", "14").text(label));
        }
        // What lies outside of the watch on either side.
        let edge = |x: &str, text: &str, anchor: &str| {
            el("text").class("edge").with("x", x).with("y", "14").with("text-anchor", anchor).text(text)
        };
        part = part.children(began_before.then(|| edge("1", "‹", "start")));
        part = part.children(goes_on.then(|| edge("99.5%", "›", "end")));
        bar = bar.child(part);
    }
    bar
}

fn phase_text(phase: &Phase, window_us: u64) -> String {
    let (began_before, goes_on) = open_ends(phase, window_us);
    let mut text = format!("{} {}, from {}", phase.stage, time(phase.duration_us), time(phase.start_us));
    for (there, what) in [
        (began_before, "began before the watch"),
        (goes_on, "still going on when the watch ended"),
        (phase.inferred, "its beginning or end is inferred"),
    ] {
        if there {
            text = format!("{text}, {what}");
        }
    }
    text
}

fn in_words(line: &ConnectionLine, window_us: u64) -> String {
    if line.timeline.is_empty() {
        return "no stage was seen".to_owned();
    }
    line.timeline.iter().map(|phase| phase_text(phase, window_us)).collect::<Vec<_>>().join("; ")
}

fn peer(line: &ConnectionLine) -> String {
    line.peer.clone().unwrap_or_else(|| "unknown peer".to_owned())
}

fn detail(line: &ConnectionLine) -> String {
    let from = match line.side {
        "server" => "accepted",
        "client" => "opened",
        other => other,
    };
    let mut parts = vec![line.state.to_owned(), from.to_owned()];
    parts.extend(line.request.clone());
    // Said already.
    parts.extend(line.name.clone().filter(|name| line.peer.as_ref() != Some(name)));
    parts.extend(line.status.map(|status| format!("status {status}")));
    parts.join(" · ")
}

/// The colours and marks that are there.
fn legend(rows: &[&ConnectionLine], window_us: u64) -> Option<Element> {
    let phases = || rows.iter().flat_map(|line| &line.timeline);
    let mut stages: Vec<&'static str> = Vec::new();
    for phase in phases() {
        if !stages.contains(&phase.stage.as_str()) {
            stages.push(phase.stage.as_str());
        }
    }
    let swatch = |parts: Vec<Element>| {
        el("svg").class("swatch").with("width", "14").with("height", "14").with("aria-hidden", "true").children(parts)
    };
    let whole = || el("rect").with("width", "100%").with("height", "100%");
    let item = |swatch: Element, text: &str| el("li").child(swatch).text(text);
    let stage = |stage: &&'static str| item(swatch(vec![whole().class(format!("stage {stage}"))]), stage);
    let inferred = phases().any(|phase| phase.inferred).then(|| {
        item(swatch(vec![whole().class("stage"), whole().with("fill", "url(#inferred)")]), "hatched: inferred")
    });
    let stalled = rows.iter().any(|line| stalled_phase(line).is_some()).then(|| {
        let below = el("rect").class("stalled").with("y", "10").with("width", "100%").with("height", "4");
        item(swatch(vec![whole().class("stage"), below]), "the stall")
    });
    let marks = [
        (phases().any(|phase| open_ends(phase, window_us).0), "‹ began before the watch"),
        (phases().any(|phase| open_ends(phase, window_us).1), "› still going on at its end"),
    ];
    let marks = marks.into_iter().filter(|(there, _)| *there).map(|(_, text)| el("li").text(text));
    let list = el("ul")
        .class("legend")
        .children(stages.iter().map(stage))
        .children(stalled)
        .children(inferred)
        .children(marks);
    (!stages.is_empty()).then_some(list)
}

/// All that is known of each, as numbers.
fn table(report: &Report) -> Element {
    const HEADS: [&str; 14] = [
        "peer",
        "own end",
        "side",
        "state",
        "name",
        "request",
        "status",
        "protocol",
        "stalled",
        "stages",
        "RTT",
        "sent again",
        "bytes read / written",
        "unread / unsent",
    ];
    let rows = report.connections.iter().map(|line| {
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let stall =
            line.stall.as_ref().map(|stall| format!("{} {} ({})", time(stall.stalled_us), stall.cause, stall.stage));
        let protocol: Vec<&str> = line.tls.as_deref().into_iter().chain(line.protocol).collect();
        let cells = [
            line.local.clone().unwrap_or_default(),
            line.side.to_owned(),
            line.state.to_owned(),
            line.name.clone().unwrap_or_default(),
            line.request.clone().unwrap_or_default(),
            line.status.map(|status| status.to_string()).unwrap_or_default(),
            protocol.join(", "),
            stall.unwrap_or_default(),
            if line.timeline.is_empty() { String::new() } else { in_words(line, report.elapsed_us) },
            line.rtt_us.map(|us| time(us.into())).unwrap_or_default(),
            number(line.retransmits.map(u64::from)),
            format!("{} / {}", number(line.read_bytes), number(line.written_bytes)),
            format!("{} / {}", number(line.unread_bytes.map(u64::from)), number(line.unsent_bytes.map(u64::from))),
        ];
        let peer = el("th").with("scope", "row").text(peer(line));
        el("tr").child(peer).children(cells.into_iter().map(|cell| el("td").text(cell)))
    });
    folded_table("The same as a table", &HEADS, rows)
}
