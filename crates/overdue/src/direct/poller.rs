//! Many connections, one thread: who is ready, and whose deadline passed.

mod epoll;
mod queue;
mod slots;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    panic::Location,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    task::Wake,
    time::{Duration, Instant},
};

use overdue_core::Stage;
use rustix::io::Errno;

pub use self::slots::Token;
use self::{
    epoll::Epoll,
    queue::{Armed, Queue},
    slots::Slots,
};
use super::{
    Interrupter, Listener, Stream, Until,
    alarm::{Alarm, Watchers},
    connection::Control,
    side::Side,
    wait::punctual,
};
use crate::clock;

/// Waits for many connections and listeners at once, and for their deadlines.
///
/// It owns what it watches: a connection is taken out of the kernel's set before anything can close it, and a
/// [`Token`] is never used again. So nothing of an old connection (an event, a deadline) reaches a new one that got the
/// same descriptor number.
///
/// While a direction is [of interest](Interest), an operation counts as pending in it: a deadline that passes is an
/// event, and the [`Stream::try_read`] that follows has the error, unless bytes came after all. Deadlines are set on
/// the stream or its [`Handle`](super::Handle), from any thread, also while the poller waits. Each that passes is one
/// event.
///
/// It is of the process that made it: a child that was forked shares the kernel's set with its parent, and needs one of
/// its own.
///
/// ```
/// use std::{io, time::Duration};
/// use overdue::direct::{Events, Interest, Listener, Poller, Stream};
///
/// # fn main() -> io::Result<()> {
/// let listener = Listener::bind(([127, 0, 0, 1], 0).into())?;
/// let client = Stream::connect(listener.local_addr().unwrap(), Duration::from_secs(10))?;
/// let server = listener.accept()?;
///
/// let (mut poller, mut events) = (Poller::new()?, Events::new());
/// client.set_read_deadline(Duration::from_millis(20));
/// let token = poller.add(client, Interest::Read)?;
/// poller.wait(&mut events, Duration::from_secs(10))?;
/// for event in &events {
///     assert!(event.read_timed_out());
///     let Some(stream) = poller.stream(event.token()) else { continue };
///     let err = stream.try_read(&mut [0; 512]).unwrap_err();
///     assert_eq!(err.kind(), io::ErrorKind::TimedOut);
/// }
/// poller.remove(token);
/// # drop(server); Ok(()) }
/// ```
pub struct Poller {
    epoll: Epoll,
    slots: Slots<Entry>,
    queue: Queue,
    inbox: Arc<Inbox>,
    /// Counts the waits.
    round: u64,
}

/// What a [`Poller`] watches.
#[derive(Debug)]
pub enum Source {
    /// A connection.
    Stream(Stream),
    /// It is ready to read when a connection can be accepted; its accept deadline counts.
    Listener(Listener),
}

impl From<Stream> for Source {
    fn from(stream: Stream) -> Self {
        Self::Stream(stream)
    }
}

impl From<Listener> for Source {
    fn from(listener: Listener) -> Self {
        Self::Listener(listener)
    }
}

/// In which directions something is waited for. It stands until it is changed: what is ready is an event of every wait.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Interest {
    /// Bytes to read, the end of them, or a connection to accept.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
}

impl Interest {
    const fn in_stage(self, stage: Stage) -> bool {
        matches!((self, stage), (Self::Both, _) | (Self::Read, Stage::Receive) | (Self::Write, Stage::Send))
    }
}

impl Entry {
    /// Has nobody ring for it any more: handles and interrupters live on.
    fn discharge(&self) {
        for (watchers, key) in self.source.watchers().into_iter().zip(self.keys) {
            watchers.discharge(key);
        }
    }
}

const STAGES: [Stage; 2] = [Stage::Receive, Stage::Send];

struct Entry {
    source: Source,
    interest: Interest,
    armed: Armed,
    ring: Arc<Ring>,
    /// Where the ring is enlisted: both sides and both interrupters.
    keys: [usize; 4],
    /// The deadlines that were told, of each direction: each is told once.
    told: [Option<Instant>; 2],
    /// What was ready, and in which wait.
    ready: (u64, [bool; 2]),
}

/// What one wait brought.
#[derive(Default)]
pub struct Events {
    list: Vec<Event>,
    woken: bool,
}

/// Something happened to one connection. In one wait it may have an event for what is ready, and another for what has
/// timed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    token: Token,
    ready: [bool; 2],
    timed_out: [bool; 2],
    interrupted: bool,
}

/// Ends the wait of a [`Poller`] from another thread. Clones wake the same one.
#[derive(Clone)]
pub struct Waker(Weak<Inbox>);

/// What other threads have to say to the poller.
struct Inbox {
    mail: Mutex<Mail>,
    alarm: Alarm,
}

#[derive(Default)]
struct Mail {
    /// Whose limits were changed.
    changed: Vec<Token>,
    woken: bool,
    /// The poller waits, or is about to: it has to be rung for.
    asleep: bool,
}

/// Tells the poller that something about a connection was changed.
struct Ring {
    token: Token,
    /// Whether the mail is there already.
    posted: AtomicBool,
    inbox: Weak<Inbox>,
}

/// For the events of the alarm.
const ALARM: u64 = u64::MAX;

impl Poller {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// When there are no descriptors left: it needs two.
    pub fn new() -> io::Result<Self> {
        let inbox = Arc::new(Inbox { mail: Mutex::default(), alarm: Alarm::new()? });
        let epoll = Epoll::new()?;
        epoll.add(&inbox.alarm, ALARM, Interest::Read)?;
        Ok(Self { epoll, slots: Slots::new(), queue: Queue::default(), inbox, round: 0 })
    }

    /// Watches a connection or a listener.
    ///
    /// # Errors
    /// When the kernel watches no more (`fs.epoll.max_user_watches`). What was given is closed then.
    pub fn add(&mut self, source: impl Into<Source>, interest: Interest) -> io::Result<Token> {
        let source = source.into();
        let full = || io::Error::from(io::ErrorKind::QuotaExceeded);
        let token = self.slots.next().ok_or_else(full)?;
        self.epoll.add(&source, token.to_u64(), interest)?;
        let ring = Arc::new(Ring { token, posted: AtomicBool::new(false), inbox: Arc::downgrade(&self.inbox) });
        let waker = std::task::Waker::from(Arc::clone(&ring));
        let keys = source.watchers().map(|watchers| watchers.enlist(waker.clone()));
        source.set_polled(interest);
        let (armed, told, ready) = (Armed::default(), [None; 2], (0, [false; 2]));
        self.slots.insert(Entry { source, interest, armed, ring, keys, told, ready }).map_err(|_| full())?;
        // What was set or interrupted before is looked at with the next wait.
        waker.wake();
        Ok(token)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// `NotFound` when there is nothing of this token, else those of the system.
    pub fn set_interest(&mut self, token: Token, interest: Interest) -> io::Result<()> {
        let entry = self.slots.get_mut(token).ok_or(io::ErrorKind::NotFound)?;
        if entry.interest != interest {
            self.epoll.modify(&entry.source, token.to_u64(), interest)?;
            entry.interest = interest;
            entry.told = [None; 2];
            entry.source.set_polled(interest);
        }
        Ok(())
    }

    /// The connection of this token, while it is watched.
    #[must_use]
    pub fn stream(&self, token: Token) -> Option<&Stream> {
        match &self.slots.get(token)?.source {
            Source::Stream(stream) => Some(stream),
            Source::Listener(_) => None,
        }
    }

    /// The listener of this token, while it is watched.
    #[must_use]
    pub fn listener(&self, token: Token) -> Option<&Listener> {
        match &self.slots.get(token)?.source {
            Source::Listener(listener) => Some(listener),
            Source::Stream(_) => None,
        }
    }

    /// Watches it no more, and gives it back. Events that were not looked at yet are of no one from now on.
    pub fn remove(&mut self, token: Token) -> Option<Source> {
        let mut entry = self.slots.remove(token)?;
        self.queue.disarm(&mut entry.armed, token);
        // It is in the set, and its descriptor is open.
        let _ = self.epoll.delete(&entry.source);
        entry.discharge();
        for side in entry.source.sides() {
            side.set_polled(false);
        }
        Some(entry.source)
    }

    /// What wakes this poller from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::downgrade(&self.inbox))
    }

    /// Waits until something is ready, a deadline has passed, somebody wakes it, or `until` has come; with a zero
    /// duration it only looks. What is ready and what has timed out comes with one call, those that timed out in the
    /// order of their deadlines. Whether a connection that is ready has also timed out is asked with the next wait:
    /// what is ready wins.
    ///
    /// That `until` has come is no error: there are no events then. Signals do not end it.
    ///
    /// # Errors
    /// Those of the system, of which none is expected.
    #[track_caller]
    pub fn wait(&mut self, events: &mut Events, until: impl Into<Until>) -> io::Result<()> {
        let limit = until.into().deadline(Stage::Named("poll"), Location::caller(), clock::unpaused());
        let until = limit.map(|limit| limit.at());
        events.list.clear();
        events.woken = false;
        self.round += 1;
        loop {
            let mail = self.inbox.take();
            events.woken |= mail.woken;
            for token in mail.changed {
                self.look_at(token, events);
            }
            let nothing = events.is_empty() && !events.woken;
            self.harvest(until.filter(|_| nothing), !nothing, events)?;
            let now = clock::unpaused();
            self.expire(now, events);
            if !events.is_empty() || events.woken || until.is_some_and(|until| now >= until) {
                return Ok(());
            }
        }
    }

    /// Asks the kernel what is ready: at once, or until then or the next deadline.
    fn harvest(&mut self, until: Option<Instant>, at_once: bool, events: &mut Events) -> io::Result<()> {
        let wake_at = self.queue.next().into_iter().chain(until).min();
        let asleep = !at_once && self.inbox.fall_asleep();
        let now = clock::unpaused();
        let time =
            if asleep { wake_at.map(|at| punctual(at.saturating_duration_since(now))) } else { Some(Duration::ZERO) };
        let ready = self.epoll.wait(time);
        self.inbox.awake();
        let ready = match ready {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for ready in ready {
            if ready.data == ALARM {
                self.inbox.alarm.hush();
                continue;
            }
            let token = Token::from_u64(ready.data);
            // One that is not watched any more is nobody's.
            let Some(entry) = self.slots.get_mut(token) else { continue };
            let of_interest = STAGES.map(|stage| entry.interest.in_stage(stage));
            let directions = [ready.readable && of_interest[0], ready.writable && of_interest[1]];
            entry.ready = (self.round, directions);
            events.list.push(Event { token, ready: directions, timed_out: [false; 2], interrupted: false });
        }
        Ok(())
    }

    /// Hands out those whose deadline has passed.
    fn expire(&mut self, now: Instant, events: &mut Events) {
        let mut again = Vec::new();
        while let Some(token) = self.queue.pop(now) {
            let Some(entry) = self.slots.get_mut(token) else { continue };
            entry.armed.handed_out();
            let (round, ready) = entry.ready;
            let mut timed_out = [false; 2];
            for (((index, told), flag), ready) in entry.told.iter_mut().enumerate().zip(&mut timed_out).zip(ready) {
                let due = entry.source.due(index, entry.interest);
                if due.is_some_and(|due| due <= now) && due != *told && !(ready && round == self.round) {
                    *told = due;
                    *flag = true;
                }
            }
            if timed_out != [false; 2] {
                events.list.push(Event { token, ready: [false; 2], timed_out, interrupted: false });
            }
            again.push(token);
        }
        for token in again {
            self.arm(token);
        }
    }

    /// Something about it was changed.
    fn look_at(&mut self, token: Token, events: &mut Events) {
        let Some(entry) = self.slots.get(token) else { return };
        // Before anything is read: what is changed from now on is mail again.
        entry.ring.posted.swap(false, AcqRel);
        for (side, stage) in entry.source.sides().into_iter().zip(STAGES) {
            side.note_progress(stage, entry.source.as_fd());
        }
        if entry.source.interrupters().iter().any(|interrupter| interrupter.cause().is_some()) {
            let none = [false; 2];
            events.list.push(Event { token, ready: none, timed_out: none, interrupted: true });
        }
        self.arm(token);
    }

    fn arm(&mut self, token: Token) {
        let Some(entry) = self.slots.get_mut(token) else { return };
        let due = |index: usize| {
            let told = entry.told.get(index).copied().flatten();
            entry.source.due(index, entry.interest).filter(|due| Some(*due) != told)
        };
        if let Some(at) = [due(0), due(1)].into_iter().flatten().min() {
            self.queue.arm(&mut entry.armed, token, at);
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.slots.values().for_each(Entry::discharge);
    }
}

impl Source {
    fn control(&self) -> &Control {
        match self {
            Self::Stream(stream) => &stream.handle().control,
            Self::Listener(listener) => &listener.handle().control,
        }
    }

    fn sides(&self) -> [&Side; 2] {
        [&self.control().read, &self.control().write]
    }

    fn interrupters(&self) -> [&Interrupter; 2] {
        let own = match self {
            Self::Stream(stream) => stream.interrupter(),
            Self::Listener(listener) => listener.interrupter(),
        };
        [&self.control().life, own]
    }

    fn watchers(&self) -> [&Watchers; 4] {
        let [read, write] = self.sides();
        let [life, own] = self.interrupters();
        [&read.watchers, &write.watchers, life.watchers(), own.watchers()]
    }

    fn set_polled(&self, interest: Interest) {
        for (side, stage) in self.sides().into_iter().zip(STAGES) {
            side.set_polled(interest.in_stage(stage));
        }
    }

    /// When a direction is due, if it is of interest.
    fn due(&self, index: usize, interest: Interest) -> Option<Instant> {
        let (side, stage) = self.sides().into_iter().zip(STAGES).nth(index)?;
        side.tried_due().filter(|_| interest.in_stage(stage))
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(stream) => stream.as_fd(),
            Self::Listener(listener) => listener.as_fd(),
        }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, write: impl FnOnce(&mut Mail)) {
        let rings = {
            let mut mail = self.lock();
            write(&mut mail);
            std::mem::take(&mut mail.asleep)
        };
        if rings {
            self.alarm.ring();
        }
    }

    fn take(&self) -> Mail {
        std::mem::take(&mut self.lock())
    }

    /// Whether the poller may sleep: from here on it is rung for.
    fn fall_asleep(&self) -> bool {
        let mut mail = self.lock();
        mail.asleep = mail.changed.is_empty() && !mail.woken;
        mail.asleep
    }

    fn awake(&self) {
        self.lock().asleep = false;
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.posted.swap(true, AcqRel)
            && let Some(inbox) = self.inbox.upgrade()
        {
            inbox.post(|mail| mail.changed.push(self.token));
        }
    }
}

impl Waker {
    /// Ends the wait that runs now, or else the next one. Nothing happens when the poller is gone.
    pub fn wake(&self) {
        if let Some(inbox) = self.0.upgrade() {
            inbox.post(|mail| mail.woken = true);
        }
    }
}

impl Events {
    /// Room for events; it grows as needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What happened to connections.
    pub fn iter(&self) -> std::slice::Iter<'_, Event> {
        self.list.iter()
    }

    /// Whether nothing happened to any connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a [`Waker`] ended the wait.
    #[must_use]
    pub const fn woken(&self) -> bool {
        self.woken
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Event {
    /// Whose event it is.
    #[must_use]
    pub const fn token(&self) -> Token {
        self.token
    }

    /// A read would not wait: there are bytes, an end, an error, or a connection to accept.
    #[must_use]
    pub const fn readable(&self) -> bool {
        self.ready[0]
    }

    /// A write would not wait.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.ready[1]
    }

    /// The deadline or the idle limit of reads has passed; [`Stream::try_read`] has the error.
    #[must_use]
    pub const fn read_timed_out(&self) -> bool {
        self.timed_out[0]
    }

    /// The deadline or the idle limit of writes has passed; [`Stream::try_write`] has the error, unless the peer took
    /// bytes meanwhile.
    #[must_use]
    pub const fn write_timed_out(&self) -> bool {
        self.timed_out[1]
    }

    /// An [`Interrupter`] was used, or somebody closed it: every operation has the error.
    #[must_use]
    pub const fn interrupted(&self) -> bool {
        self.interrupted
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("next_deadline", &self.queue.next()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
