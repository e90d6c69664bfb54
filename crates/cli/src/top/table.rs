//! Tables that are sorted, filtered and moved in: what all views have in common. Pure.

use std::cmp::Ordering;

use crate::screen::harmless;

/// How a cell is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Dim,
    Good,
    Doubtful,
    Bad,
}

/// One cell: its text, and what it is sorted by.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// Numbers before texts, the largest first. `None` is sorted by the text.
    number: Option<f64>,
    pub(crate) tone: Tone,
}

impl Cell {
    /// Of a text from anywhere: what could steer the terminal is taken out.
    pub(crate) fn text(text: &str) -> Self {
        Self { text: harmless(text), number: None, tone: Tone::Plain }
    }

    /// A number as it is to be read.
    pub(crate) fn number(number: f64, text: impl Into<String>) -> Self {
        Self { text: text.into(), number: Some(number), tone: Tone::Plain }
    }

    /// What is not known, or is nothing.
    pub(crate) fn none() -> Self {
        Self { text: "-".to_owned(), number: Some(-1.0), tone: Tone::Dim }
    }

    pub(crate) const fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.text.cmp(&other.text),
        }
    }
}

/// One line of a table.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Line {
    /// What stays the same from look to look: a cookie, a pid, a tid.
    pub(crate) key: u64,
    /// Among those that are equal it comes last, whichever way they are sorted: it is gone already.
    pub(crate) last: bool,
    /// As many as the table has columns.
    pub(crate) cells: Vec<Cell>,
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// The least that it takes.
    pub(crate) width: u16,
    pub(crate) right: bool,
    /// Columns of higher numbers are left out first where the screen is narrow.
    pub(crate) rank: u8,
}

/// A column of texts.
pub(crate) const fn left(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, right: false, rank }
}

/// A column of numbers.
pub(crate) const fn right(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, right: true, rank }
}

/// A table as its reader has set it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Table {
    pub(crate) columns: &'static [Column],
    /// The column that it is sorted by.
    pub(crate) sort: usize,
    pub(crate) reversed: bool,
    pub(crate) filter: String,
    lines: Vec<Line>,
    /// Those that the filter leaves, in order, by their place in `lines`.
    shown: Vec<usize>,
    selected: Option<u64>,
    /// The selection was moved: it stays on the same line, wherever that goes. Until then the first line is selected, so
    /// that the top stays in view.
    follows: bool,
}

/// Filters are no longer than this.
const FILTER_MAX: usize = 64;

/// Where to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Move {
    Up(usize),
    Down(usize),
    First,
    Last,
}

impl Table {
    pub(crate) const fn new(columns: &'static [Column], sort: usize) -> Self {
        Self {
            columns,
            sort,
            reversed: false,
            filter: String::new(),
            lines: Vec::new(),
            shown: Vec::new(),
            selected: None,
            follows: false,
        }
    }

    /// Other lines, in the same order and with the same one selected.
    pub(crate) fn set(&mut self, lines: Vec<Line>) {
        // One that is gone leaves its place to its neighbour.
        let place = self.place();
        self.lines = lines;
        self.arrange();
        if self.place().is_none() {
            self.select(place.unwrap_or(0));
        }
    }

    /// Sorts and filters anew.
    fn arrange(&mut self) {
        let wanted = self.filter.to_lowercase();
        let matches = |line: &Line| line.cells.iter().any(|cell| cell.text.to_lowercase().contains(&wanted));
        let indices = self.lines.iter().enumerate();
        let mut shown: Vec<usize> =
            indices.filter(|(_, line)| wanted.is_empty() || matches(line)).map(|(index, _)| index).collect();
        shown.sort_by(|a, b| {
            let (Some(a), Some(b)) = (self.lines.get(*a), self.lines.get(*b)) else { return Ordering::Equal };
            let order = match (a.cells.get(self.sort), b.cells.get(self.sort)) {
                (Some(a), Some(b)) => a.compare(b),
                _ => Ordering::Equal,
            };
            let order = if self.reversed { order.reverse() } else { order };
            order.then(a.last.cmp(&b.last)).then(a.key.cmp(&b.key))
        });
        self.shown = shown;
        if !self.follows {
            self.select(0);
        }
    }

    /// All lines that there are, whatever the filter.
    pub(crate) const fn all(&self) -> usize {
        self.lines.len()
    }

    /// Those to show, in order.
    pub(crate) fn shown(&self) -> impl ExactSizeIterator<Item = &Line> {
        self.shown.iter().map(|index| self.lines.get(*index).unwrap_or(&EMPTY))
    }

    /// Where the selected line is among those shown.
    pub(crate) fn place(&self) -> Option<usize> {
        let selected = self.selected?;
        self.shown().position(|line| line.key == selected)
    }

    pub(crate) const fn selected(&self) -> Option<u64> {
        self.selected
    }

    fn select(&mut self, place: usize) {
        let last = self.shown.len().saturating_sub(1);
        let line = self.shown.get(place.min(last)).and_then(|index| self.lines.get(*index));
        self.selected = line.map(|line| line.key);
    }

    pub(crate) fn go(&mut self, to: Move) {
        let place = self.place().unwrap_or(0);
        self.follows = to != Move::First;
        self.select(match to {
            Move::Up(by) => place.saturating_sub(by),
            Move::Down(by) => place.saturating_add(by),
            Move::First => 0,
            Move::Last => usize::MAX,
        });
    }

    /// Sorts by the next column, or the one before.
    pub(crate) fn sort_by(&mut self, forward: bool) {
        let count = self.columns.len().max(1);
        self.sort = (self.sort + if forward { 1 } else { count - 1 }) % count;
        self.reversed = false;
        self.arrange();
    }

    pub(crate) fn reverse(&mut self) {
        self.reversed = !self.reversed;
        self.arrange();
    }

    pub(crate) fn set_filter(&mut self, filter: &str) {
        self.filter = harmless(filter).chars().take(FILTER_MAX).collect();
        self.arrange();
        if self.place().is_none() {
            self.select(0);
        }
    }
}

static EMPTY: Line = Line { key: 0, last: false, cells: Vec::new() };

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[left("NAME", 8, 0), right("COUNT", 5, 1)];

    fn line(key: u64, name: &str, count: f64) -> Line {
        Line { key, last: false, cells: vec![Cell::text(name), Cell::number(count, format!("{count}"))] }
    }

    fn keys(table: &Table) -> Vec<u64> {
        table.shown().map(|line| line.key).collect()
    }

    #[test]
    fn the_largest_first_and_names_in_order() {
        let mut table = Table::new(COLUMNS, 1);
        table.set(vec![line(1, "b", 2.0), line(2, "a", 9.0), line(3, "c", 2.0)]);
        assert_eq!(keys(&table), [2, 1, 3]);
        table.sort_by(true);
        assert_eq!(keys(&table), [2, 1, 3], "by name");
        table.reverse();
        assert_eq!(keys(&table), [3, 1, 2]);
        table.sort_by(false);
        assert_eq!((table.sort, table.reversed), (1, false));
    }

    #[test]
    fn what_is_gone_comes_behind_its_equals() {
        let mut table = Table::new(COLUMNS, 1);
        let gone = |line: Line| Line { last: true, ..line };
        table.set(vec![gone(line(1, "a", 0.0)), line(2, "b", 0.0), gone(line(3, "c", 5.0)), line(4, "d", 5.0)]);
        assert_eq!(keys(&table), [4, 3, 2, 1]);
        table.reverse();
        assert_eq!(keys(&table), [2, 1, 4, 3]);
    }

    #[test]
    fn the_selected_line_is_followed() {
        let mut table = Table::new(COLUMNS, 1);
        table.set(vec![line(1, "a", 9.0), line(2, "b", 5.0), line(3, "c", 1.0)]);
        assert_eq!(table.selected(), Some(1));
        // Nobody has chosen it: the top is what is looked at.
        table.set(vec![line(1, "a", 0.0), line(2, "b", 5.0), line(3, "c", 1.0)]);
        assert_eq!((table.selected(), table.place()), (Some(2), Some(0)));
        table.set(vec![line(1, "a", 9.0), line(2, "b", 5.0), line(3, "c", 1.0)]);
        table.go(Move::Down(1));
        table.set(vec![line(1, "a", 9.0), line(2, "b", 0.5), line(3, "c", 1.0)]);
        assert_eq!((table.selected(), table.place()), (Some(2), Some(2)));
        table.set(vec![line(1, "a", 9.0), line(3, "c", 1.0)]);
        assert_eq!(table.selected(), Some(3), "its neighbour");
        table.go(Move::Up(usize::MAX));
        assert_eq!(table.selected(), Some(1));
        table.go(Move::First);
        table.set(vec![line(1, "a", 1.0), line(3, "c", 9.0)]);
        assert_eq!(table.selected(), Some(3), "at the top again");
        table.set(Vec::new());
        table.go(Move::Last);
        assert_eq!(table.selected(), None);
    }

    #[test]
    fn a_filter_is_any_text_in_a_line() {
        let mut table = Table::new(COLUMNS, 1);
        table.set(vec![line(1, "Alpha", 9.0), line(2, "beta", 5.0)]);
        table.set_filter("ALP");
        assert_eq!((keys(&table), table.all()), (vec![1], 2));
        table.set_filter("\u{1b}[2J");
        assert!(keys(&table).is_empty() && table.selected().is_none());
        table.set_filter("");
        assert_eq!(table.selected(), Some(1));
    }
}
