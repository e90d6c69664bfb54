//! What the screen shows and what a key does to it. Pure: no clock, no terminal, no thread.

use std::time::Duration;

use overdue_core::Cause;
use overdue_why::{collect::machine::Processes, judge::Finding};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    picture::{self, Picture},
    processes,
    table::{Move, Table},
};

/// What the model is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// A key, or letters that were pasted.
    Key(KeyEvent),
    /// All processes.
    Processes(Result<Processes, String>),
    /// The watched process, once more.
    Seen(Box<Picture>),
    /// It has ended.
    Ended,
    /// It cannot be watched.
    Failed(String),
    /// The terminal has another size, or time went by.
    Redraw,
}

/// What the model cannot do itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    Quit,
    /// Watch this one.
    Attach(u32),
    /// Watch it no more.
    Detach,
}

/// Everything that is shown.
#[derive(Debug)]
pub(crate) struct Model {
    /// The list of processes; `None` where one was named.
    pub(crate) list: Option<List>,
    /// The process that is watched.
    pub(crate) watched: Option<Watched>,
    /// Whether the keys are explained, and how far that is scrolled.
    pub(crate) help: Option<usize>,
    /// A filter is being typed.
    pub(crate) typing: bool,
    pub(crate) now: Duration,
}

/// The list of processes.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) table: Table,
    pub(crate) seen: Option<Processes>,
    pub(crate) seen_at: Duration,
    pub(crate) trouble: Option<String>,
    pub(crate) paused: bool,
}

/// What has the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Focus {
    Verdicts,
    Table(View),
}

/// The tables of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Connections,
    Threads,
    Descriptors,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) since: Duration,
    pub(crate) picture: Option<Box<Picture>>,
    pub(crate) seen_at: Duration,
    pub(crate) paused: bool,
    pub(crate) ended: bool,
    pub(crate) failed: Option<String>,
    pub(crate) focus: Focus,
    /// The table that is shown.
    pub(crate) view: View,
    /// The selected finding.
    pub(crate) finding: usize,
    connections: Table,
    threads: Table,
    descriptors: Table,
    pub(crate) page: Option<Page>,
}

/// Something looked at closely.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) of: PageOf,
    pub(crate) scroll: usize,
}

/// What.
#[derive(Debug)]
pub(crate) enum PageOf {
    /// A finding, and whether it is still found.
    Finding(Box<Finding>, bool),
    Connection(u64),
    Thread(u32),
    /// What cannot be seen.
    Hidden,
}

/// Lines that a page key goes.
const PAGE: usize = 10;

impl Model {
    /// All processes, or one of them.
    pub(crate) fn new(pid: Option<u32>) -> Self {
        let list = List {
            table: Table::new(processes::COLUMNS, processes::CONNECTIONS),
            seen: None,
            seen_at: Duration::ZERO,
            trouble: None,
            paused: false,
        };
        Self {
            list: pid.is_none().then_some(list),
            watched: pid.map(|pid| Watched::new(pid, String::new(), Duration::ZERO)),
            help: None,
            typing: false,
            now: Duration::ZERO,
        }
    }

    /// Takes what came; `now` is any clock that only goes forward.
    pub(crate) fn update(&mut self, input: Input, now: Duration) -> Option<Effect> {
        self.now = now;
        match input {
            Input::Key(key) if key.kind == KeyEventKind::Release => None,
            Input::Key(key) => self.key(key),
            Input::Processes(seen) => {
                if let Some(list) = self.list.as_mut().filter(|list| !list.paused) {
                    list.take(seen, now);
                }
                None
            }
            Input::Seen(picture) => {
                if let Some(watched) = self.watched.as_mut().filter(|watched| !watched.paused) {
                    watched.take(picture, now);
                }
                None
            }
            Input::Ended => {
                self.watched.iter_mut().for_each(|watched| watched.ended = true);
                None
            }
            Input::Failed(why) => {
                self.watched.iter_mut().for_each(|watched| watched.failed = Some(why.clone()));
                None
            }
            Input::Redraw => None,
        }
    }

    /// The table that has the keys.
    pub(crate) fn table(&self) -> Option<&Table> {
        match (&self.watched, &self.list) {
            (Some(watched), _) => Some(watched.table(watched.view)),
            (None, Some(list)) => Some(&list.table),
            (None, None) => None,
        }
    }

    fn table_mut(&mut self) -> Option<&mut Table> {
        match (&mut self.watched, &mut self.list) {
            (Some(watched), _) => Some(watched.table_mut(watched.view)),
            (None, Some(list)) => Some(&mut list.table),
            (None, None) => None,
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'C')) {
            return Some(Effect::Quit);
        }
        if self.typing {
            self.type_key(key, control);
            return None;
        }
        if let Some(scroll) = &mut self.help {
            match (key.code, movement(key.code)) {
                (_, Some(to)) => *scroll = scrolled(*scroll, to),
                _ => self.help = None,
            }
            return None;
        }
        if key.code == KeyCode::Char('?') || key.code == KeyCode::F(1) {
            self.help = Some(0);
            return None;
        }
        if let Some(page) = self.watched.as_mut().and_then(|watched| watched.page.as_mut()) {
            match (key.code, movement(key.code)) {
                (_, Some(to)) => page.scroll = scrolled(page.scroll, to),
                (KeyCode::Char('p' | ' '), _) => self.pause(),
                (KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Enter | KeyCode::Char('q' | 'h'), _) => {
                    self.watched.iter_mut().for_each(|watched| watched.page = None);
                }
                _ => {}
            }
            return None;
        }
        self.command(key)
    }

    /// A key where a table has the keys.
    fn command(&mut self, key: KeyEvent) -> Option<Effect> {
        if let Some(to) = movement(key.code) {
            match &mut self.watched {
                Some(watched) if watched.focus == Focus::Verdicts => {
                    let last = watched.findings().saturating_sub(1);
                    watched.finding = scrolled(watched.finding.min(last), to).min(last);
                }
                _ => self.table_mut().into_iter().for_each(|table| table.go(to)),
            }
            return None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::F(10) => return Some(Effect::Quit),
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Char('/') => {
                self.typing = true;
                // What is filtered is a table.
                self.watched.iter_mut().for_each(|watched| watched.focus = Focus::Table(watched.view));
            }
            KeyCode::Char('s' | '>') => self.table_mut().into_iter().for_each(|table| table.sort_by(true)),
            KeyCode::Char('<') => self.table_mut().into_iter().for_each(|table| table.sort_by(false)),
            KeyCode::Char('r' | 'R') => self.table_mut().into_iter().for_each(Table::reverse),
            KeyCode::Tab => self.watched.iter_mut().for_each(|watched| watched.turn(true)),
            KeyCode::BackTab => self.watched.iter_mut().for_each(|watched| watched.turn(false)),
            KeyCode::Char('v') => self.watched.iter_mut().for_each(|watched| watched.focus = Focus::Verdicts),
            KeyCode::Char('c') => self.watched.iter_mut().for_each(|watched| watched.show(View::Connections)),
            KeyCode::Char('t') => self.watched.iter_mut().for_each(|watched| watched.show(View::Threads)),
            KeyCode::Char('d') => self.watched.iter_mut().for_each(|watched| watched.show(View::Descriptors)),
            KeyCode::Char('n') => {
                let page = || Some(Page { of: PageOf::Hidden, scroll: 0 });
                self.watched.iter_mut().for_each(|watched| watched.page = page());
            }
            KeyCode::Enter => return self.open(),
            KeyCode::Esc | KeyCode::Backspace => return self.back(),
            _ => {}
        }
        None
    }

    fn type_key(&mut self, key: KeyEvent, control: bool) {
        let mut filter = self.table().map(|table| table.filter.clone()).unwrap_or_default();
        match key.code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                filter.clear();
            }
            KeyCode::Backspace => _ = filter.pop(),
            KeyCode::Char('u') if control => filter.clear(),
            KeyCode::Char(c) if !control => filter.push(c),
            _ => {}
        }
        self.table_mut().into_iter().for_each(|table| table.set_filter(&filter));
    }

    fn pause(&mut self) {
        match (&mut self.watched, &mut self.list) {
            (Some(watched), _) => watched.paused = !watched.paused,
            (None, Some(list)) => list.paused = !list.paused,
            (None, None) => {}
        }
    }

    fn open(&mut self) -> Option<Effect> {
        let now = self.now;
        if let Some(watched) = &mut self.watched {
            watched.open();
            return None;
        }
        let list = self.list.as_ref()?;
        let pid = u32::try_from(list.table.selected()?).ok()?;
        let name = list.seen.iter().flat_map(|seen| &seen.listed).find(|listed| listed.pid == pid)?.name.clone();
        self.watched = Some(Watched::new(pid, name, now));
        Some(Effect::Attach(pid))
    }

    fn back(&mut self) -> Option<Effect> {
        if self.table().is_some_and(|table| !table.filter.is_empty()) {
            self.table_mut().into_iter().for_each(|table| table.set_filter(""));
            return None;
        }
        self.list.as_ref()?;
        self.watched.take().map(|_| Effect::Detach)
    }
}

impl List {
    fn take(&mut self, seen: Result<Processes, String>, now: Duration) {
        match seen {
            Ok(seen) => {
                self.table.set(processes::lines(&seen));
                (self.seen, self.seen_at, self.trouble) = (Some(seen), now, None);
            }
            Err(why) => self.trouble = Some(why),
        }
    }
}

impl Watched {
    fn new(pid: u32, name: String, since: Duration) -> Self {
        Self {
            pid,
            name,
            since,
            picture: None,
            seen_at: since,
            paused: false,
            ended: false,
            failed: None,
            focus: Focus::Verdicts,
            view: View::Connections,
            finding: 0,
            connections: Table::new(picture::CONNECTIONS, picture::STALLED),
            threads: Table::new(picture::THREADS, picture::BLOCKED),
            descriptors: Table::new(picture::DESCRIPTORS, picture::OPEN),
            page: None,
        }
    }

    pub(crate) const fn table(&self, view: View) -> &Table {
        match view {
            View::Connections => &self.connections,
            View::Threads => &self.threads,
            View::Descriptors => &self.descriptors,
        }
    }

    const fn table_mut(&mut self, view: View) -> &mut Table {
        match view {
            View::Connections => &mut self.connections,
            View::Threads => &mut self.threads,
            View::Descriptors => &mut self.descriptors,
        }
    }

    pub(crate) fn findings(&self) -> usize {
        self.picture.iter().map(|picture| picture.findings().count()).sum()
    }

    fn take(&mut self, mut picture: Box<Picture>, now: Duration) {
        self.connections.set(std::mem::take(&mut picture.connections));
        self.threads.set(std::mem::take(&mut picture.threads));
        self.descriptors.set(std::mem::take(&mut picture.descriptors));
        // The same finding stays selected wherever its rank goes.
        let cause = |picture: &Picture, at: usize| picture.findings().nth(at).map(|(_, it)| it.verdict.cause);
        let selected = self.picture.as_ref().and_then(|before| cause(before, self.finding));
        let place = |wanted: Cause| picture.findings().position(|(_, it)| it.verdict.cause == wanted);
        self.finding = selected.and_then(place).unwrap_or(0);
        if let Some(PageOf::Finding(shown, is_found)) = self.page.as_mut().map(|page| &mut page.of) {
            let again = picture.findings().find(|(_, it)| it.verdict.cause == shown.verdict.cause);
            *is_found = again.is_some();
            if let Some((_, again)) = again {
                **shown = again.clone();
            }
        }
        self.name.clone_from(&picture.seen.process.name);
        self.picture = Some(picture);
        self.seen_at = now;
    }

    fn turn(&mut self, forward: bool) {
        const ORDER: [Focus; 4] = [
            Focus::Verdicts,
            Focus::Table(View::Connections),
            Focus::Table(View::Threads),
            Focus::Table(View::Descriptors),
        ];
        let place = ORDER.iter().position(|focus| *focus == self.focus).unwrap_or(0);
        let next = (place + if forward { 1 } else { ORDER.len() - 1 }) % ORDER.len();
        self.focus = ORDER.get(next).copied().unwrap_or(Focus::Verdicts);
        if let Focus::Table(view) = self.focus {
            self.view = view;
        }
    }

    const fn show(&mut self, view: View) {
        self.view = view;
        self.focus = Focus::Table(view);
    }

    fn open(&mut self) {
        let of = match self.focus {
            Focus::Verdicts => {
                let picture = self.picture.as_ref();
                let finding = picture.and_then(|it| it.findings().nth(self.finding).map(|(_, it)| it.clone()));
                finding.map(|finding| PageOf::Finding(Box::new(finding), true))
            }
            Focus::Table(View::Connections) => self.connections.selected().map(PageOf::Connection),
            Focus::Table(View::Threads) => {
                self.threads.selected().and_then(|tid| u32::try_from(tid).ok()).map(PageOf::Thread)
            }
            Focus::Table(View::Descriptors) => None,
        };
        self.page = of.map(|of| Page { of, scroll: 0 });
    }
}

fn movement(code: KeyCode) -> Option<Move> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => Move::Up(1),
        KeyCode::Down | KeyCode::Char('j') => Move::Down(1),
        KeyCode::PageUp => Move::Up(PAGE),
        KeyCode::PageDown => Move::Down(PAGE),
        KeyCode::Home | KeyCode::Char('g') => Move::First,
        KeyCode::End | KeyCode::Char('G') => Move::Last,
        _ => return None,
    })
}

fn scrolled(scroll: usize, to: Move) -> usize {
    match to {
        Move::Up(by) => scroll.saturating_sub(by),
        Move::Down(by) => scroll.saturating_add(by),
        Move::First => 0,
        // Whoever draws knows where the end is.
        Move::Last => usize::MAX,
    }
}
