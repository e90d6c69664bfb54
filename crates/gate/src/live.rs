//! What happened lately, for whoever looks at the live page: the last five minutes of one worker.
//!
//! Everything has a fixed size: a request adds to some counters, and only what failed or was among the slowest of its
//! minute is remembered with its stages. A route has some 80 KiB of counters, from its first request on, and at most 48
//! stories (`Kept`) of some KiB each. The first [`ROUTES_MAX`] routes have counters of their own, the rest share theirs.

mod kept;
mod page;
mod picture;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use overdue_core::Cause;

use crate::{
    counts::{STAGES, add_u32},
    http1::{Known, Line},
    log::Entry,
    worker::PlannedRoute,
};

pub(crate) use self::{
    kept::Kept,
    page::{file, guard, is_known_here},
    picture::Wanted,
};

/// Looked back so far, in seconds.
pub(crate) const WINDOW: usize = 300;
/// A column of the heat map, in seconds.
pub(crate) const STEP: usize = 5;
pub(crate) const COLUMNS: usize = WINDOW / STEP;
/// Routes with counters of their own.
const ROUTES_MAX: usize = 32;
/// The slowest of each minute that are remembered, of a route.
const SLOWEST: usize = 5;
/// A window has five whole minutes and some of a sixth.
const MINUTES: usize = WINDOW / 60 + 1;
/// Of what failed, the last so many are remembered, and of one second no more than these: what is refused by the
/// thousand must stay cheap.
const FAILED: usize = 18;
const FAILED_A_SECOND: u32 = 6;

/// Upper bounds of durations, in microseconds; what is longer is in one more bucket.
pub(crate) const BOUNDS_US: [u32; 41] = bounds();
pub(crate) const BUCKETS: usize = BOUNDS_US.len() + 1;
/// By the number of bits of a duration: the first bound that may hold for it.
const FIRST: [u8; 33] = first();
/// The stages, and the whole.
pub(crate) const SPANS: usize = STAGES.len() + 1;
pub(crate) const TOTAL: usize = STAGES.len();

/// Six steps a decade, which people can read: 10, 15, 20, 30, 50, 70 us and so on up to 7 s; then 10 s to 1 min.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn bounds() -> [u32; 41] {
    let (steps, last) = ([10, 15, 20, 30, 50, 70], [10, 15, 20, 30, 60]);
    let (mut bounds, mut at, mut scale) = ([0; 41], 0, 1);
    while at < 36 {
        bounds[at] = steps[at % 6] * scale;
        at += 1;
        if at.is_multiple_of(6) {
            scale *= 10;
        }
    }
    while at < 41 {
        bounds[at] = last[at - 36] * 1_000_000;
        at += 1;
    }
    bounds
}

#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "evaluated by the compiler")]
const fn first() -> [u8; 33] {
    let (mut first, mut bits) = ([0; 33], 1);
    while bits < 33 {
        let least = 1_u32 << (bits - 1);
        let mut at = 0;
        while at < BOUNDS_US.len() && BOUNDS_US[at] < least {
            at += 1;
        }
        first[bits] = at as u8;
        bits += 1;
    }
    first
}

/// The bucket of a duration.
fn bucket(us: u64) -> usize {
    let us = u32::try_from(us).unwrap_or(u32::MAX);
    let first = FIRST.get((32 - us.leading_zeros()) as usize).copied().unwrap_or_default();
    let mut at = usize::from(first);
    // Three steps at most: there are no more bounds between two powers of two.
    while BOUNDS_US.get(at).is_some_and(|bound| *bound < us) {
        at += 1;
    }
    at
}

/// How a request ended that did not end well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ending {
    /// As the judge says.
    Judged(Cause),
    /// The gateway refused it, with this status.
    Refused(u16),
    /// Its client closed in the middle of its head.
    LeftEarly,
    /// The end of the gateway cut it.
    Cut,
    /// There was none: its client's TLS handshake came to nothing.
    Handshake,
}

impl Ending {
    fn of(entry: &Entry<'_>) -> Option<Self> {
        match (entry.failed, entry.refused) {
            (Some((_, judgement)), _) => {
                Some(Self::Judged(judgement.verdicts.first().map_or(Cause::Unknown, |verdict| verdict.cause)))
            }
            (None, Some(_)) if entry.known == Known::LEFT_EARLY => Some(Self::LeftEarly),
            (None, Some(_)) if entry.known.is_cut() => Some(Self::Cut),
            (None, Some(_)) => Some(Self::Refused(entry.known.status)),
            (None, None) => None,
        }
    }

    /// The id of its cause, or words where there is none.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Judged(cause) => cause.id().to_owned(),
            Self::Refused(status) => format!("refused with {status}"),
            Self::LeftEarly => "client left in its head".to_owned(),
            Self::Cut => "cut by the end of the gateway".to_owned(),
            Self::Handshake => "TLS handshake failed".to_owned(),
        }
    }
}

/// A part of a ring: what it holds belongs to the time that it names, and to no other.
trait Slot: Default {
    fn at(&self) -> &Cell<usize>;
    fn clear(&self);
}

/// Slots by time: the last so many.
struct Ring<T>(Box<[T]>);

impl<T: Slot> Ring<T> {
    fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| T::default()).collect())
    }

    /// The slot of this time, which is now.
    fn enter(&self, at: usize) -> Option<&T> {
        let slot = self.0.get(at % self.0.len().max(1))?;
        if slot.at().get() != at {
            slot.clear();
            slot.at().set(at);
        }
        Some(slot)
    }

    /// The slot of some time, if there was anything then.
    fn get(&self, at: usize) -> Option<&T> {
        self.0.get(at % self.0.len().max(1)).filter(|slot| slot.at().get() == at)
    }
}

/// Requests that ended in one second, by class of their status; 0: none was told.
#[derive(Default)]
struct Second {
    at: Cell<usize>,
    classes: [Cell<u32>; 6],
    /// Of those that failed, so many are remembered.
    kept: Cell<u32>,
}

impl Slot for Second {
    fn at(&self) -> &Cell<usize> {
        &self.at
    }

    fn clear(&self) {
        self.classes.iter().chain([&self.kept]).for_each(|count| count.set(0));
    }
}

/// What ended in one step: how long its stages took, and how what failed ended.
pub(crate) struct Column {
    at: Cell<usize>,
    spans: [[Cell<u32>; BUCKETS]; SPANS],
    endings: RefCell<Vec<(Ending, u32)>>,
}

impl Default for Column {
    fn default() -> Self {
        let spans = std::array::from_fn(|_| std::array::from_fn(|_| Cell::new(0)));
        Self { at: Cell::new(0), spans, endings: RefCell::default() }
    }
}

impl Slot for Column {
    fn at(&self) -> &Cell<usize> {
        &self.at
    }

    fn clear(&self) {
        self.spans.iter().flatten().for_each(|count| count.set(0));
        self.endings.borrow_mut().clear();
    }
}

impl Column {
    /// A stage, by its place in [`STAGES`], or the [`TOTAL`].
    pub(crate) fn took(&self, span: usize, us: u64) {
        add_u32(self.spans.get(span).and_then(|buckets| buckets.get(bucket(us))));
    }

    fn ended(&self, ending: Ending) {
        let mut endings = self.endings.borrow_mut();
        match endings.iter_mut().find(|(known, _)| *known == ending) {
            Some((_, count)) => *count = count.saturating_add(1),
            // There are no more than there are causes and statuses.
            None => endings.push((ending, 1)),
        }
    }
}

/// The slowest of one minute.
#[derive(Default)]
struct Minute {
    at: Cell<usize>,
    /// Whoever is to be among them must have taken longer.
    bar_us: Cell<u64>,
    slowest: RefCell<Vec<Arc<Kept>>>,
}

impl Slot for Minute {
    fn at(&self) -> &Cell<usize> {
        &self.at
    }

    fn clear(&self) {
        self.bar_us.set(0);
        self.slowest.borrow_mut().clear();
    }
}

impl Minute {
    fn keep(&self, kept: Kept) {
        let mut slowest = self.slowest.borrow_mut();
        let place = slowest.partition_point(|other| other.total_us >= kept.total_us);
        slowest.insert(place, Arc::new(kept));
        slowest.truncate(SLOWEST);
        if slowest.len() == SLOWEST {
            self.bar_us.set(slowest.last().map_or(0, |last| last.total_us));
        }
    }
}

/// The last minutes of one route.
pub(crate) struct Series {
    seconds: Ring<Second>,
    columns: Ring<Column>,
    minutes: Ring<Minute>,
    failed: RefCell<VecDeque<Arc<Kept>>>,
}

impl Series {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            // One more than is shown: that which goes on.
            seconds: Ring::new(WINDOW + 1),
            columns: Ring::new(COLUMNS),
            minutes: Ring::new(MINUTES),
            failed: RefCell::default(),
        })
    }
}

/// The last minutes of one worker.
pub(crate) struct Recent {
    /// The same for all workers, so that their seconds are the same.
    began: Instant,
    worker: usize,
    routes: RefCell<Vec<(Arc<str>, Rc<Series>)>>,
    /// Of routes beyond [`ROUTES_MAX`].
    beyond: OnceCell<Rc<Series>>,
    /// Of what has no route.
    none: OnceCell<Rc<Series>>,
    kept: Cell<u64>,
}

/// A route's place in there, once it has had a request.
pub(crate) type OfRoute = OnceCell<Rc<Series>>;

impl Recent {
    pub(crate) fn new(worker: usize, began: Instant) -> Self {
        let (routes, beyond, none) = (RefCell::default(), OnceCell::new(), OnceCell::new());
        Self { began, worker, routes, beyond, none, kept: Cell::new(0) }
    }

    fn second(&self, now: Instant) -> usize {
        usize::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or_default()
    }

    fn series<'a>(&'a self, route: Option<&'a Rc<PlannedRoute>>) -> &'a Rc<Series> {
        match route {
            None => self.none.get_or_init(Series::new),
            Some(route) => route.recent.get_or_init(|| self.of(&route.route.name)),
        }
    }

    /// That of a route with this name, which a reload may have kept.
    fn of(&self, name: &Arc<str>) -> Rc<Series> {
        let mut routes = self.routes.borrow_mut();
        if let Some((_, series)) = routes.iter().find(|(known, _)| known == name) {
            return Rc::clone(series);
        }
        if routes.len() >= ROUTES_MAX {
            // Those that no route has any more, and no request in flight.
            routes.retain(|(_, series)| Rc::strong_count(series) > 1);
        }
        if routes.len() >= ROUTES_MAX {
            return Rc::clone(self.beyond.get_or_init(Series::new));
        }
        let series = Series::new();
        routes.push((Arc::clone(name), Rc::clone(&series)));
        series
    }

    /// Counts a request that has ended. What it gives is where its stages are counted.
    pub(crate) fn ended(&self, entry: &Entry<'_>, line: &Line, peer: &str, count: impl FnOnce(Option<&Column>)) {
        let series = self.series(entry.route);
        let at = self.second(entry.end);
        let second = series.seconds.enter(at);
        if let Some(second) = second {
            let class = usize::from(entry.known.status / 100).min(second.classes.len() - 1);
            add_u32(second.classes.get(class));
        }
        let column = series.columns.enter(at / STEP);
        count(column);
        let keep = || {
            let number = self.kept.get();
            self.kept.set(number + 1);
            Kept::new((self.worker, number), entry, line, peer)
        };
        match Ending::of(entry) {
            Some(ending) => {
                if let Some(column) = column {
                    column.ended(ending);
                }
                if second.is_some_and(|second| second.kept.get() < FAILED_A_SECOND) {
                    add_u32(second.map(|second| &second.kept));
                    let mut failed = series.failed.borrow_mut();
                    if failed.len() == FAILED {
                        failed.pop_front();
                    }
                    failed.push_back(Arc::new(keep()));
                }
            }
            // One that became a tunnel was not slow: it lasted.
            None if entry.known.status == 101 => {}
            None => {
                if let Some(minute) = series.minutes.enter(at / 60)
                    && entry.total_us() > minute.bar_us.get()
                {
                    minute.keep(keep());
                }
            }
        }
    }

    /// Counts a client whose TLS handshake came to nothing.
    pub(crate) fn handshake_failed(&self, now: Instant) {
        if let Some(column) = self.series(None).columns.enter(self.second(now) / STEP) {
            column.ended(Ending::Handshake);
        }
    }
}

#[cfg(test)]
mod tests;
