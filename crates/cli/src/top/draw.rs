//! The model as a picture on the screen. Pure.

use std::time::Duration;

use overdue_why::{collect::machine::Processes, observation::Runtime};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Clear, Paragraph, Row, Table as Grid, TableState},
};

use super::{
    model::{Focus, List, Model, PageOf, View, Watched},
    pages,
    picture::{Picture, amount, long, short},
    table::{self, Table, Tone},
};
use crate::screen::harmless;

/// Below this nothing can be read.
const SMALLEST: (u16, u16) = (40, 10);
/// Findings that are shown at once, where there is room.
const FINDINGS: u16 = 6;
/// A picture that is older than this says so.
const STALE: Duration = Duration::from_millis(2_500);

/// Colours, unless nobody wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Palette {
    pub(crate) colours: bool,
}

impl Palette {
    fn tone(self, tone: Tone) -> Style {
        let coloured = |colour: Color| if self.colours { Style::new().fg(colour) } else { Style::new() };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Good => coloured(Color::Green),
            Tone::Doubtful => coloured(Color::Yellow),
            Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    fn bold() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn bar(self, has_keys: bool) -> Style {
        match (has_keys, self.colours) {
            (true, true) => Style::new().fg(Color::Black).bg(Color::Cyan).add_modifier(Modifier::BOLD),
            (true, false) => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
            (false, _) => Style::new().add_modifier(Modifier::UNDERLINED | Modifier::BOLD),
        }
    }

    fn selected(has_keys: bool) -> Style {
        if has_keys { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() }
    }
}

/// Draws all of it.
pub(crate) fn draw(model: &Model, palette: Palette, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("too small: {} x {} at least", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let [top, foot] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    if let Some(scroll) = model.help {
        let lines: Vec<String> = pages::HELP.iter().map(|line| (*line).to_owned()).collect();
        page(frame, top, palette, &lines, scroll);
        hints(frame, foot, "any key closes this");
        return;
    }
    match (&model.watched, &model.list) {
        (Some(watched), list) => process(frame, top, foot, palette, model, watched, list.is_some()),
        (None, Some(list)) => processes(frame, top, foot, palette, model, list),
        (None, None) => {}
    }
}

/// Text on the whole screen, scrolled.
fn page(frame: &mut Frame<'_>, area: Rect, palette: Palette, lines: &[String], scroll: usize) {
    frame.render_widget(Clear, area);
    let (height, columns) = (usize::from(area.height), usize::from(area.width));
    let scroll = scroll.min(lines.len().saturating_sub(height));
    let styled = |line: &String| {
        let is_title =
            line.split(' ').next().is_some_and(|word| word.len() > 1 && word.chars().all(char::is_uppercase));
        let style = match is_title {
            true if line.starts_with("VERDICT") || line.starts_with("STALLED") => palette.tone(Tone::Bad),
            true => Palette::bold(),
            false => Style::new(),
        };
        Line::styled(cut(&harmless(line), columns), style)
    };
    let text: Vec<Line<'_>> = lines.iter().skip(scroll).take(height).map(styled).collect();
    frame.render_widget(Paragraph::new(text), area);
}

fn hints(frame: &mut Frame<'_>, area: Rect, text: &str) {
    frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::DIM)), area);
}

/// A line with a title and what stands at its right end.
fn bar(frame: &mut Frame<'_>, area: Rect, style: Style, title: &str, end: &str) {
    let width = usize::from(area.width);
    let room = width.saturating_sub(title.chars().count() + 1);
    let end: String = end.chars().take(room).collect();
    let gap = " ".repeat(room.saturating_sub(end.chars().count()));
    frame.render_widget(Paragraph::new(Line::styled(format!("{title} {gap}{end}"), style)), area);
}

fn process(
    frame: &mut Frame<'_>,
    area: Rect,
    foot: Rect,
    palette: Palette,
    model: &Model,
    watched: &Watched,
    has_list: bool,
) {
    let findings = u16::try_from(watched.findings()).unwrap_or(u16::MAX).clamp(1, FINDINGS);
    // Half of what is left is the table's.
    let findings = findings.min(area.height.saturating_sub(5) / 2).max(1);
    let parts = [Constraint::Length(4), Constraint::Length(findings + 1), Constraint::Min(0)];
    let [head, verdicts, below] = Layout::vertical(parts).areas(area);
    header(frame, head, palette, model, watched);
    if let Some(open) = &watched.page {
        let [_, whole] = Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(area);
        let columns = usize::from(whole.width);
        let lines = match (&open.of, &watched.picture) {
            (PageOf::Finding(finding, is_found), _) => pages::finding(finding, *is_found, columns),
            (PageOf::Connection(cookie), Some(picture)) => pages::connection(picture, *cookie, columns),
            (PageOf::Thread(tid), Some(picture)) => pages::thread(picture, *tid, columns),
            (PageOf::Hidden, Some(picture)) => pages::hidden(picture, columns),
            (_, None) => Vec::new(),
        };
        page(frame, whole, palette, &lines, open.scroll);
        hints(frame, foot, "Esc back   j k PgUp PgDn scroll   p hold   ? help   Ctrl-C quit");
        return;
    }
    findings_pane(frame, verdicts, palette, watched);
    let names = [(View::Connections, "c:CONNECTIONS"), (View::Threads, "t:THREADS"), (View::Descriptors, "d:FDS")];
    let name = names.iter().find(|(view, _)| *view == watched.view).map_or("", |(_, name)| name);
    let others: Vec<&str> = names.iter().filter(|(view, _)| *view != watched.view).map(|(_, name)| *name).collect();
    let table = watched.table(watched.view);
    let title = format!("{name} {}", counts(table));
    let has_keys = watched.focus == Focus::Table(watched.view);
    let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(below);
    bar(frame, top, palette.bar(has_keys), &title, &others.join("  "));
    grid(frame, rest, palette, table, has_keys);
    let back = if has_list { "Esc list  " } else { "" };
    let keys = format!("{back}Enter open  Tab pane  / filter  s sort  p hold  ? help  q quit");
    footer(frame, foot, model, table, &keys);
}

/// How many lines there are, and the filter.
fn counts(table: &Table) -> String {
    let (shown, all) = (table.shown().len(), table.all());
    if table.filter.is_empty() { all.to_string() } else { format!("{shown} of {all} with \"{}\"", table.filter) }
}

fn footer(frame: &mut Frame<'_>, area: Rect, model: &Model, table: &Table, keys: &str) {
    if model.typing {
        let text = format!("/{}\u{2588}   Enter keeps it, Esc drops it", table.filter);
        frame.render_widget(Paragraph::new(text), area);
    } else {
        hints(frame, area, keys);
    }
}

/// Four lines: who it is, its connections, what happens each second, what the watching costs.
fn header(frame: &mut Frame<'_>, area: Rect, palette: Palette, model: &Model, watched: &Watched) {
    let mut lines = Vec::with_capacity(4);
    match &watched.picture {
        Some(picture) => {
            lines.push(who(picture, palette, watched));
            lines.push(states(picture, palette));
            lines.push(Line::raw(each_second(picture)));
        }
        None => {
            let name = harmless(&watched.name);
            lines.push(Line::styled(format!("{name} ({})", watched.pid), Palette::bold()));
            lines.extend([Line::raw(""), Line::raw("")]);
        }
    }
    lines.push(freshness(palette, model, watched));
    frame.render_widget(Paragraph::new(lines), area);
}

fn who<'a>(picture: &Picture, palette: Palette, watched: &Watched) -> Line<'a> {
    let process = &picture.seen.process;
    let name = format!("{} ({})", harmless(&process.name), watched.pid);
    let mut spans = vec![Span::styled(name, Palette::bold())];
    match &process.runtime {
        Runtime::Native => {}
        Runtime::Go { version } => spans.push(Span::raw(format!("  {}", harmless(version)))),
        other => spans.push(Span::raw(format!("  {other:?}").to_lowercase())),
    }
    // What is told is its age when the window began.
    let age_us = process.age_us.map(|us| us.saturating_add(picture.seen.window_us));
    spans.extend(age_us.map(|us| Span::raw(format!("  up {}", short(us)))));
    if let (Some(used), Some(cpu)) = (picture.rates.processors, &picture.seen.cpu) {
        spans.push(Span::raw(format!("  cpu {:.0}% of {:.1}", used * 100.0, cpu.processors)));
    }
    spans.extend(picture.seen.threads.as_ref().map(|threads| Span::raw(format!("  threads {}", threads.last))));
    if let Some(fds) = &picture.seen.fds {
        let open = fds.open.last().map_or(0, |reading| reading.value);
        let tone = match open.saturating_mul(100).checked_div(fds.soft_limit).unwrap_or(0) {
            80.. => Tone::Bad,
            50.. => Tone::Doubtful,
            _ => Tone::Plain,
        };
        let limit = if fds.soft_limit == u64::MAX { "unlimited".to_owned() } else { fds.soft_limit.to_string() };
        spans.push(Span::styled(format!("  fds {open}/{limit}"), palette.tone(tone)));
    }
    Line::from(spans)
}

fn states<'a>(picture: &Picture, palette: Palette) -> Line<'a> {
    let mut spans = vec![Span::raw("tcp")];
    if picture.states.is_empty() {
        spans.push(Span::raw(" none"));
    }
    for (state, count) in &picture.states {
        let tone = match *state {
            "ESTABLISHED" => Tone::Plain,
            _ => Tone::Doubtful,
        };
        spans.push(Span::styled(format!("  {count} {state}"), palette.tone(tone)));
    }
    let listeners = picture.seen.sockets.iter().flat_map(|sockets| &sockets.listeners);
    let fullest = listeners.max_by_key(|it| u64::from(it.queued_last) * 1_000 / u64::from(it.backlog.max(1)));
    if let Some(listener) = fullest {
        let full = listener.queued_last > listener.backlog;
        let tone = if full { Tone::Bad } else { Tone::Plain };
        let text = format!("   queue of {}: {}/{}", listener.local, listener.queued_last, listener.backlog);
        spans.push(Span::styled(text, palette.tone(tone)));
    }
    Line::from(spans)
}

fn each_second(picture: &Picture) -> String {
    let rates = &picture.rates;
    let known = |rate: Option<f64>| rate.map_or_else(|| "?".to_owned(), amount);
    let about = if rates.estimated { "~" } else { "" };
    format!(
        "each second: opened {}  accepted {}  closed {}  reset {}  turns {about}{}  resent {}",
        known(rates.opened),
        known(rates.accepted),
        known(rates.closed),
        known(rates.reset),
        known(rates.turns),
        amount(rates.retransmitted),
    )
}

/// How old the picture is, and what it cost.
fn freshness<'a>(palette: Palette, model: &Model, watched: &Watched) -> Line<'a> {
    let age = model.now.saturating_sub(watched.seen_at);
    let us = |length: Duration| u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
    if let Some(why) = &watched.failed {
        return Line::styled(harmless(why), palette.tone(Tone::Bad));
    }
    let Some(picture) = &watched.picture else {
        let since = model.now.saturating_sub(watched.since);
        return Line::raw(format!("attaching... {}", short(us(since))));
    };
    let cost = &picture.seen.overhead;
    #[expect(clippy::cast_precision_loss, reason = "megabytes, for the eye")]
    let megabytes = cost.rss_bytes as f64 / 1e6;
    let text = format!(
        "watched {}  cost: cpu {:.1}%, {megabytes:.0} MB, {} dropped",
        short(picture.seen.window_us),
        picture.rates.cost * 100.0,
        cost.dropped_events,
    );
    // What must not be missed comes first: the end of the line may be cut.
    let mut spans = Vec::new();
    if watched.ended {
        spans.push(Span::styled("IT HAS ENDED: this is the last picture  ", palette.tone(Tone::Bad)));
    } else if watched.paused {
        spans.push(Span::styled(format!("HELD, {} old (p goes on)  ", short(us(age))), palette.tone(Tone::Doubtful)));
    } else if age > STALE {
        spans.push(Span::styled(format!("STALE, {} old  ", short(us(age))), palette.tone(Tone::Doubtful)));
    }
    spans.push(Span::styled(text, palette.tone(Tone::Dim)));
    let hidden = picture.seen.not_visible.len();
    if hidden > 0 {
        spans.push(Span::styled(format!("  n: {hidden} not visible"), palette.tone(Tone::Doubtful)));
    }
    Line::from(spans)
}

fn findings_pane(frame: &mut Frame<'_>, area: Rect, palette: Palette, watched: &Watched) {
    let [top, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let has_keys = watched.focus == Focus::Verdicts;
    let (verdicts, also) = watched
        .picture
        .as_ref()
        .map_or((0, 0), |picture| (picture.judgement.verdicts.len(), picture.judgement.advisories.len()));
    let title = match (verdicts, also) {
        (count, 0) => format!("v:VERDICTS {count}"),
        (count, also) => format!("v:VERDICTS {count}, also {also}"),
    };
    bar(frame, top, palette.bar(has_keys), &title, "");
    let Some(picture) = &watched.picture else { return };
    if verdicts + also == 0 {
        let text = format!("nothing wrong is found in the last {}", long(picture.seen.window_us));
        frame.render_widget(Paragraph::new(Line::styled(text, palette.tone(Tone::Good))), rest);
        return;
    }
    let height = usize::from(rest.height).max(1);
    let first = (watched.finding / height) * height;
    let lines = picture.findings().enumerate().skip(first).take(height).map(|(place, (is_verdict, finding))| {
        let verdict = &finding.verdict;
        let tone = if is_verdict { Tone::Bad } else { Tone::Doubtful };
        let cause = Span::styled(format!("{:18} ", verdict.cause.id()), palette.tone(tone));
        let room = usize::from(rest.width).saturating_sub(cause.width());
        let line = Line::from(vec![cause, Span::raw(cut(&harmless(&verdict.summary), room))]);
        line.patch_style(Palette::selected(has_keys && place == watched.finding))
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), rest);
}

/// As much of it as there is room for, in columns, and a sign that it goes on.
fn cut(text: &str, columns: usize) -> String {
    if Span::raw(text).width() <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        kept.push(letter);
        if Span::raw(kept.as_str()).width() >= columns {
            kept.pop();
            break;
        }
    }
    format!("{}\u{2026}", kept.trim_end())
}

fn processes(frame: &mut Frame<'_>, area: Rect, foot: Rect, palette: Palette, model: &Model, list: &List) {
    let [head, top, rest] =
        Layout::vertical([Constraint::Length(2), Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let mut lines = vec![Line::styled("overdue top: processes of this machine that have sockets", Palette::bold())];
    lines.push(match (&list.trouble, &list.seen) {
        (Some(why), _) => Line::styled(harmless(why), palette.tone(Tone::Bad)),
        (None, None) => Line::raw("looking..."),
        (None, Some(seen)) => unseen(seen, palette, model.now.saturating_sub(list.seen_at), list.paused),
    });
    frame.render_widget(Paragraph::new(lines), head);
    bar(frame, top, palette.bar(true), &format!("PROCESSES {}", counts(&list.table)), "");
    grid(frame, rest, palette, &list.table, true);
    footer(frame, foot, model, &list.table, "Enter watch   / filter   s sort   r reverse   p hold   ? help   q quit");
}

/// What the list leaves out.
fn unseen<'a>(seen: &Processes, palette: Palette, age: Duration, paused: bool) -> Line<'a> {
    let mut parts = Vec::new();
    if seen.hidden > 0 {
        parts.push(format!("{} not visible to this user: `overdue doctor` tells what it takes", seen.hidden));
    }
    if seen.left_out > 0 {
        parts.push(format!("{} more that there was no time for", seen.left_out));
    }
    let elsewhere = seen.listed.iter().filter(|listed| listed.sockets.is_none()).count();
    if elsewhere > 0 {
        parts.push(format!("{elsewhere} in other network namespaces: Enter sees their sockets"));
    }
    parts.extend(seen.less.as_ref().map(|less| harmless(&format!("{}: {}", less.what, less.why))));
    let age = short(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    if paused {
        parts.push(format!("HELD, {age} old (p goes on)"));
    }
    if parts.is_empty() {
        return Line::styled("all processes are visible", palette.tone(Tone::Dim));
    }
    Line::styled(parts.join("; "), palette.tone(Tone::Doubtful))
}

/// The columns that fit, by rank; their places and how wide they are.
fn fitting(columns: &[table::Column], width: u16) -> Vec<(usize, u16)> {
    let mut ranked: Vec<usize> = (0..columns.len()).collect();
    ranked.sort_by_key(|place| columns.get(*place).map(|column| column.rank));
    let mut left = width;
    let mut taken = Vec::new();
    for place in ranked {
        let Some(column) = columns.get(place) else { continue };
        // The first may be cut, so that something is shown.
        let needs = column.width + u16::from(!taken.is_empty());
        if needs > left && !taken.is_empty() {
            break;
        }
        left = left.saturating_sub(needs);
        taken.push((place, column.width.min(width)));
    }
    taken.sort_unstable();
    // What is left is given to the last column of texts, or else to the first.
    let is_text = |place: usize| columns.get(place).is_some_and(|column| !column.right);
    let widest = taken.iter().rposition(|(place, _)| is_text(*place)).unwrap_or(0);
    if let Some((_, width)) = taken.get_mut(widest) {
        *width += left;
    }
    taken
}

fn grid(frame: &mut Frame<'_>, area: Rect, palette: Palette, table: &Table, has_keys: bool) {
    let fitting = fitting(table.columns, area.width);
    let title = |(place, width): &(usize, u16)| {
        let column = table.columns.get(*place);
        let mark = if *place != table.sort {
            ""
        } else if table.reversed {
            "\u{25b2}"
        } else {
            "\u{25bc}"
        };
        let title = column.map_or("", |column| column.title);
        let text = match column.is_some_and(|column| column.right) {
            true => format!("{:>1$}", format!("{mark}{title}"), usize::from(*width)),
            false => format!("{title}{mark}"),
        };
        Cell::from(text)
    };
    let heads = Row::new(fitting.iter().map(title)).style(Palette::bold());
    let rows = usize::from(area.height.saturating_sub(1)).max(1);
    let place = table.place().unwrap_or(0);
    let first = (place / rows) * rows;
    let lines = table.shown().skip(first).take(rows).map(|line| {
        Row::new(fitting.iter().map(|(place, width)| {
            let Some(cell) = line.cells.get(*place) else { return Cell::default() };
            let right = table.columns.get(*place).is_some_and(|column| column.right);
            let columns = usize::from(*width);
            let text = if right { format!("{:>columns$}", cell.text) } else { cut(&cell.text, columns) };
            Cell::from(Span::styled(text, palette.tone(cell.tone)))
        }))
    });
    let widths: Vec<Constraint> = fitting.iter().map(|(_, width)| Constraint::Length(*width)).collect();
    let grid = Grid::new(lines.collect::<Vec<_>>(), widths)
        .header(heads)
        .column_spacing(1)
        .row_highlight_style(Palette::selected(has_keys));
    let selected = table.place().map(|place| place - first);
    frame.render_stateful_widget(grid, area, &mut TableState::new().with_selected(selected));
}
