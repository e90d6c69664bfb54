//! The connection pool: limits for each host and in all, and a queue of those who wait, first come first served.
//!
//! Every open connection, idle or in use or being dialled, holds a [`Slot`]; dropping the slot is what makes room.
//! Nothing is dropped and nobody is woken under the pool's lock: dropping a slot takes it, and so may a waker.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    fmt,
    sync::{Arc, PoisonError, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use overdue_core::facts::{H2Facts, PoolFacts};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};

use super::{VersionChoice, http1::Http1, http2::Http2};
use crate::{
    clock,
    dial::Target,
    sync::{AtomicBool, Mutex, MutexGuard},
};

/// Limits of the pool.
///
/// | option | default |
/// |---|---|
/// | `connections_per_host` | 64 |
/// | `connections` | 1024 |
/// | `idle_per_host` | 32 |
/// | `idle_timeout` | 55 s: below the 60 s after which many load balancers close, and the 75 s of nginx |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolOptions {
    /// Open connections to one host (scheme, name and port).
    pub connections_per_host: usize,
    /// Open connections in all. When it is reached, the connection that has been idle longest makes room.
    pub connections: usize,
    /// Idle connections kept for one host.
    pub idle_per_host: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { connections_per_host: 64, connections: 1024, idle_per_host: 32, idle_timeout: Duration::from_secs(55) }
    }
}

pub(crate) struct Pool {
    state: Mutex<State>,
    options: PoolOptions,
    version: VersionChoice,
}

#[derive(Default)]
struct State {
    hosts: HashMap<Target, Host>,
    open: usize,
    next_id: u64,
    /// Calls that wait, of all hosts.
    waiting: usize,
    next_ticket: u64,
    reaper: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Host {
    /// Slots: idle, in use, being dialled.
    open: usize,
    dialling: usize,
    /// The longest idle first.
    idle: Vec<(Box<Http1>, Instant)>,
    h2: Vec<Arc<Http2>>,
    /// In the order of their tickets, which is the order in which they came.
    waiters: VecDeque<Waiter>,
    /// What the last connection spoke; `None` before the first.
    speaks_h2: Option<bool>,
}

struct Waiter {
    ticket: u64,
    patient_until: Instant,
    sender: oneshot::Sender<Offer>,
}

/// A connection that many calls can share is on its way, or about to say how many. For so long each waits for it,
/// counted from when it came, however many such connections come to nothing meanwhile; then it dials for itself, and
/// learns for itself what there is to wait for.
const SHARED_DIAL_PATIENCE: Duration = Duration::from_millis(250);

impl Host {
    fn begin_dial(&mut self) {
        self.open += 1;
        self.dialling += 1;
    }

    fn end_dial(&mut self) {
        self.dialling -= 1;
    }

    /// Whether there may soon be a connection that can be shared.
    fn shared_soon(&self) -> bool {
        self.speaks_h2 != Some(false)
            && (self.dialling > 0 || self.h2.iter().any(|connection| !connection.is_settled()))
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// One who is not in the queue, and is patient until then: those who wait already come first.
    New(Instant),
    /// The first of those who wait.
    First,
}

/// What a call gets from the pool.
pub(crate) enum Offer {
    /// A kept connection, and how long it had been idle.
    Kept(Box<Http1>, Duration),
    /// A stream of a shared connection.
    Stream(StreamPermit),
    /// The right to dial.
    Dial(Slot),
}

/// A host's place in the pool.
#[derive(Clone)]
pub(crate) struct Place {
    pool: Weak<Pool>,
    target: Target,
}

impl Place {
    /// Gives what has become free to those who wait.
    pub(crate) fn serve(&self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.serve();
        }
    }
}

/// Connections that have left the pool, to be dropped when its lock is released.
#[derive(Default)]
struct Discarded {
    #[expect(clippy::vec_box, reason = "they come boxed, and are only dropped")]
    h1: Vec<Box<Http1>>,
    h2: Vec<Arc<Http2>>,
}

/// The right to one open connection.
pub(crate) struct Slot {
    place: Place,
    pub(crate) id: u64,
    dialling: bool,
    /// Dropping it makes room. Not so when its place has been taken over.
    armed: AtomicBool,
}

/// The right to one stream of a shared connection.
pub(crate) struct StreamPermit {
    connection: Option<Arc<Http2>>,
    place: Place,
    /// How long the connection had been idle; `None` when it is new.
    pub(crate) idle: Option<Duration>,
}

impl StreamPermit {
    fn new(connection: Arc<Http2>, place: Place, idle: Option<Duration>) -> Self {
        Self { connection: Some(connection), place, idle }
    }

    pub(crate) fn connection(&self) -> Option<&Arc<Http2>> {
        self.connection.as_ref()
    }

    /// Whether the connection still takes a call. One that lay unused may have been ended by the peer.
    async fn is_fresh(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        if connection.streams().0 == 1 {
            connection.catch_up().await;
        }
        !connection.is_closed()
    }
}

impl Pool {
    pub(crate) fn new(options: PoolOptions, version: VersionChoice) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::default()), options, version })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, a stream, or the right to dial. Waits while the limits forbid all three; the caller bounds the
    /// wait. Cancel safe: what was offered to a caller that is gone goes back, and on to the next.
    pub(crate) async fn acquire(self: &Arc<Self>, target: &Target) -> Offer {
        let patient_until = clock::now() + SHARED_DIAL_PATIENCE;
        loop {
            let mut discarded = Discarded::default();
            let attempt = {
                let mut state = self.lock();
                if !state.hosts.contains_key(target) {
                    state.hosts.insert(target.clone(), Host::default());
                }
                let offer = self.offer(&mut state, target, Turn::New(patient_until), &mut discarded);
                offer.ok_or_else(|| self.queue(&mut state, target, patient_until))
            };
            drop(discarded);
            let mut offer = match attempt {
                Ok(offer) => Some(offer),
                Err(ticket) => ticket.wait(self.may_speak_h2(target).then_some(patient_until)).await,
            };
            // It may have died, or said something nobody asked for, while it lay here.
            let fresh = match &mut offer {
                Some(Offer::Kept(connection, _)) => connection.is_fresh(),
                Some(Offer::Stream(permit)) => permit.is_fresh().await,
                Some(Offer::Dial(_)) => true,
                None => false,
            };
            if let Some(offer) = offer.filter(|_| fresh) {
                return offer;
            }
        }
    }

    /// Closes what lies idle for this host: one of its kept connections turned out to be dead, and the others have
    /// gone the same way.
    pub(crate) fn forget_idle(self: &Arc<Self>, target: &Target) {
        let idle = self.lock().hosts.get_mut(target).map(|host| std::mem::take(&mut host.idle));
        drop(idle);
    }

    fn queue(self: &Arc<Self>, state: &mut State, target: &Target, patient_until: Instant) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        let host = state.hosts.entry(target.clone()).or_default();
        host.waiters.push_back(Waiter { ticket, patient_until, sender });
        state.waiting += 1;
        Ticket { pool: Arc::clone(self), target: target.clone(), number: ticket, receiver }
    }

    fn may_speak_h2(&self, target: &Target) -> bool {
        match self.version {
            VersionChoice::Negotiated => target.secure,
            VersionChoice::Http1 => false,
            VersionChoice::Http2 => true,
        }
    }

    fn offer(
        self: &Arc<Self>,
        state: &mut State,
        target: &Target,
        turn: Turn,
        discarded: &mut Discarded,
    ) -> Option<Offer> {
        let host = state.hosts.get_mut(target)?;
        let patient_until = match turn {
            Turn::New(_) if !host.waiters.is_empty() => return None,
            Turn::New(until) => until,
            Turn::First => host.waiters.front()?.patient_until,
        };
        let now = clock::now();
        discarded.h2.extend(host.h2.extract_if(.., |connection| connection.is_closed()));
        for connection in &host.h2 {
            let idle = connection.idle_for(now).unwrap_or_default();
            if connection.take_stream() {
                let permit = StreamPermit::new(Arc::clone(connection), self.place(target), Some(idle));
                return Some(Offer::Stream(permit));
            }
        }
        while let Some((connection, since)) = host.idle.pop() {
            let idle = now.saturating_duration_since(since);
            if idle < self.options.idle_timeout {
                return Some(Offer::Kept(connection, idle));
            }
            discarded.h1.push(connection);
        }
        let waits = now < patient_until && self.may_speak_h2(target) && host.shared_soon();
        if waits || host.open >= self.options.connections_per_host {
            return None;
        }
        if state.open >= self.options.connections && !state.evict(discarded) {
            return None;
        }
        state.open += 1;
        state.next_id += 1;
        let id = state.next_id;
        // Making room may have forgotten the host.
        state.hosts.entry(target.clone()).or_default().begin_dial();
        Some(Offer::Dial(Slot { place: self.place(target), id, dialling: true, armed: AtomicBool::new(true) }))
    }

    fn place(self: &Arc<Self>, target: &Target) -> Place {
        Place { pool: Arc::downgrade(self), target: target.clone() }
    }

    /// Gives what has become free to those who wait: the one who has waited longest first, whatever its host.
    fn serve(self: &Arc<Self>) {
        let mut discarded = Discarded::default();
        let mut granted = Vec::new();
        {
            let mut state = self.lock();
            if state.waiting == 0 {
                return;
            }
            let first = |host: &Host| host.waiters.front().map(|waiter| waiter.ticket);
            let waiting = state.hosts.iter().filter_map(|(target, host)| Some(Reverse((first(host)?, target.clone()))));
            let mut queue: BinaryHeap<_> = waiting.collect();
            // A host that gets nothing now is out; one that gets something stands in the queue again.
            while let Some(Reverse((_, target))) = queue.pop() {
                let offer = self.offer(&mut state, &target, Turn::First, &mut discarded);
                let Some(offer) = offer else { continue };
                let Some(host) = state.hosts.get_mut(&target) else { continue };
                if let Some(waiter) = host.waiters.pop_front() {
                    granted.push((waiter.sender, offer));
                }
                if let Some(next) = first(host) {
                    queue.push(Reverse((next, target)));
                }
                state.waiting -= 1;
            }
        }
        drop(discarded);
        for (waiter, offer) in granted {
            if let Err(offer) = waiter.send(offer) {
                self.take_back(offer);
            }
        }
    }

    /// What was offered to somebody who is gone.
    fn take_back(self: &Arc<Self>, offer: Offer) {
        match offer {
            Offer::Kept(connection, _) => self.put(connection),
            Offer::Stream(permit) => drop(permit),
            Offer::Dial(slot) => drop(slot),
        }
    }

    /// Takes back a connection that can carry another call.
    pub(crate) fn put(self: &Arc<Self>, connection: Box<Http1>) {
        let (surplus, somebody_waits) = {
            let mut state = self.lock();
            let Some(host) = state.hosts.get_mut(&connection.slot().place.target) else { return };
            host.idle.push((connection, clock::now()));
            let surplus = (host.idle.len() > self.options.idle_per_host).then(|| host.idle.remove(0));
            self.reap_later(&mut state);
            (surplus, state.waiting > 0)
        };
        drop(surplus);
        if somebody_waits {
            self.serve();
        }
    }

    /// Shares a new HTTP/2 connection. Its first stream is the caller's. Where another connection of the host has a
    /// stream to give, that is the caller's, and the new connection is closed: several calls had dialled at once.
    pub(crate) fn share(self: &Arc<Self>, mut connection: Http2) -> StreamPermit {
        let was_dialling = std::mem::take(&mut connection.slot_mut().dialling);
        let connection = Arc::new(connection);
        let place = connection.slot().place.clone();
        let shared = {
            let mut state = self.lock();
            let mut shared = (Arc::clone(&connection), None);
            if let Some(host) = state.hosts.get_mut(&place.target) {
                host.speaks_h2 = Some(true);
                if was_dialling {
                    host.end_dial();
                }
                match host.h2.iter().find(|other| other.is_settled() && !other.is_closed() && other.take_stream()) {
                    Some(other) => shared = (Arc::clone(other), Some(Duration::ZERO)),
                    None => {
                        connection.take_stream();
                        host.h2.push(Arc::clone(&connection));
                    }
                }
            }
            self.reap_later(&mut state);
            shared
        };
        drop(connection);
        place.serve();
        let (shared, idle) = shared;
        StreamPermit::new(shared, place, idle)
    }

    fn reap_later(self: &Arc<Self>, state: &mut State) {
        // Its runtime may be gone, and the next one takes over.
        if state.reaper.as_ref().is_some_and(|reaper| !reaper.is_finished()) {
            return;
        }
        let reap = reap(Arc::downgrade(self), self.options.idle_timeout);
        state.reaper = Handle::try_current().ok().map(|runtime| runtime.spawn(reap));
    }

    /// What a call that waits sees.
    pub(crate) fn facts(&self, target: &Target) -> (PoolFacts, Option<H2Facts>) {
        let state = self.lock();
        let Some(host) = state.hosts.get(target) else {
            let limit = self.options.connections_per_host;
            return (PoolFacts { in_use: 0, limit, waiting: 0, dialling: 0, limit_is_global: false }, None);
        };
        let global = host.open < self.options.connections_per_host && state.open >= self.options.connections;
        let pool = PoolFacts {
            in_use: if global { state.open } else { host.open - host.idle.len() },
            limit: if global { self.options.connections } else { self.options.connections_per_host },
            waiting: host.waiters.len(),
            dialling: host.dialling + host.h2.iter().filter(|connection| !connection.is_settled()).count(),
            limit_is_global: global,
        };
        let h2 = (!host.h2.is_empty()).then(|| {
            let streams: Vec<_> = host.h2.iter().map(|connection| connection.streams()).collect();
            H2Facts {
                streams_exhausted: host.h2.iter().all(|connection| connection.is_settled())
                    && streams.iter().all(|(in_use, max)| in_use >= max),
                streams_in_use: streams.iter().map(|(in_use, _)| in_use).sum(),
                max_streams: streams.iter().fold(0, |sum, (_, max)| sum.saturating_add(*max)),
                window_blocked_bytes: 0,
            }
        });
        (pool, h2)
    }

    /// Connections open now: idle, in use and being dialled.
    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It would look once more, some seconds later, and hold up who waits for the end of all tasks until then.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(reaper) = state.reaper.take() {
            reaper.abort();
        }
    }
}

impl State {
    /// Takes out what is dead or has been idle for too long. How long the oldest of the others has been idle; `None`
    /// when there is none to look after.
    fn sweep(&mut self, idle_timeout: Duration, discarded: &mut Discarded) -> Option<Duration> {
        let now = clock::now();
        let idle_for = |since: Instant| now.saturating_duration_since(since);
        let mut oldest = None;
        for host in self.hosts.values_mut() {
            let h1 = host
                .idle
                .extract_if(.., |(connection, since)| idle_for(*since) >= idle_timeout || !connection.is_fresh());
            discarded.h1.extend(h1.map(|(connection, _)| connection));
            let h2 = host.h2.extract_if(.., |connection| {
                connection.is_closed() || connection.idle_for(now).is_some_and(|idle| idle >= idle_timeout)
            });
            discarded.h2.extend(h2);
            let resting = host.idle.iter_mut().filter(|(_, since)| idle_for(*since) >= RESTING);
            resting.for_each(|(connection, _)| connection.rest());
            let h1 = host.idle.first().map(|(_, since)| idle_for(*since));
            // One in use may become idle at any time.
            let h2 = host.h2.iter().map(|connection| connection.idle_for(now).unwrap_or_default());
            oldest = h1.into_iter().chain(h2).chain(oldest).max();
        }
        if oldest.is_none() {
            self.reaper = None;
        }
        oldest
    }

    /// Closes the connection that has been idle longest, of whatever host and protocol. Its place is free at once.
    fn evict(&mut self, discarded: &mut Discarded) -> bool {
        let now = clock::now();
        let idle = self.hosts.iter().filter_map(|(target, host)| {
            let h1 = host.idle.first().map(|(_, since)| now.saturating_duration_since(*since));
            let h2 = host.h2.iter().filter_map(|connection| connection.idle_for(now)).max();
            Some((h1.max(h2)?, target.clone()))
        });
        let Some((longest, target)) = idle.max_by_key(|(idle, _)| *idle) else { return false };
        let Some(host) = self.hosts.get_mut(&target) else { return false };
        let of_h2 = host.h2.iter().position(|connection| connection.idle_for(now) == Some(longest));
        let slot = match of_h2 {
            Some(index) => {
                discarded.h2.push(host.h2.remove(index));
                discarded.h2.last().map(|connection| connection.slot())
            }
            None => {
                let (connection, _) = host.idle.remove(0);
                discarded.h1.push(connection);
                discarded.h1.last().map(|connection| connection.slot())
            }
        };
        if let Some(slot) = slot {
            slot.armed.store(false, Relaxed);
        }
        host.open -= 1;
        self.open -= 1;
        self.prune(&target);
        true
    }

    /// Forgets a host that has no connection and nobody who waits for one.
    fn prune(&mut self, target: &Target) {
        if self.hosts.get(target).is_some_and(|host| host.open == 0 && host.waiters.is_empty()) {
            self.hosts.remove(target);
        }
    }
}

/// A place in the queue, which is left when this is dropped.
struct Ticket {
    pool: Arc<Pool>,
    target: Target,
    number: u64,
    receiver: oneshot::Receiver<Offer>,
}

impl Ticket {
    /// Waits for its turn; `None` when there will be none and it has to be asked again. Until `patient_until` a
    /// connection that somebody else is making is worth the wait.
    async fn wait(mut self, patient_until: Option<Instant>) -> Option<Offer> {
        if let Some(until) = patient_until {
            if let Ok(offer) = tokio::time::timeout_at(until.into(), &mut self.receiver).await {
                return offer.ok();
            }
            // Nobody else looks whether there is room for those whose patience has ended.
            self.pool.serve();
        }
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = {
            let mut state = self.pool.lock();
            let left = state.hosts.get_mut(&self.target).and_then(|host| {
                let index = host.waiters.binary_search_by_key(&self.number, |waiter| waiter.ticket).ok()?;
                host.waiters.remove(index)
            });
            state.waiting -= usize::from(left.is_some());
            state.prune(&self.target);
            left
        };
        drop(left);
        if let Ok(offer) = self.receiver.try_recv() {
            self.pool.take_back(offer);
        }
    }
}

/// How often idle connections are looked at: one that the peer has closed should not linger in CLOSE_WAIT.
const SWEEP: Duration = Duration::from_secs(5);

/// A connection that was idle for so long is likely to go on so.
const RESTING: Duration = Duration::from_secs(1);

/// Closes idle connections that the peer has closed, or whose time has come; ends when there are none.
async fn reap(pool: Weak<Pool>, idle_timeout: Duration) {
    let mut wait = idle_timeout;
    loop {
        tokio::time::sleep(wait.clamp(Duration::from_millis(10), SWEEP)).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut discarded = Discarded::default();
        let oldest = pool.lock().sweep(idle_timeout, &mut discarded);
        drop(discarded);
        match oldest {
            Some(oldest) => wait = idle_timeout.saturating_sub(oldest),
            None => return,
        }
    }
}

impl Slot {
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn pool(&self) -> Option<Arc<Pool>> {
        self.place.pool.upgrade()
    }

    /// The host turned out to speak HTTP/1: calls that waited for one shared connection must dial for themselves.
    pub(crate) fn speaks_h1(&mut self) {
        let Some(pool) = self.pool() else { return };
        let was_dialling = std::mem::take(&mut self.dialling);
        if let Some(host) = pool.lock().hosts.get_mut(&self.place.target) {
            if was_dialling {
                host.end_dial();
            }
            host.speaks_h2 = Some(false);
        }
        self.place.serve();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(pool) = self.pool().filter(|_| self.armed.load(Relaxed)) else { return };
        {
            let mut state = pool.lock();
            state.open -= 1;
            if let Some(host) = state.hosts.get_mut(&self.place.target) {
                host.open -= 1;
                if self.dialling {
                    host.end_dial();
                }
            }
            state.prune(&self.place.target);
        }
        pool.serve();
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.put_stream();
            // It may be the last to hold the connection, whose slot then makes room by itself.
            drop(connection);
            self.place.serve();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("open", &self.open()).field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(all(test, overdue_loom))]
mod models;
#[cfg(test)]
mod tests;
