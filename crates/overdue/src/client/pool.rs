//! The connection pool: limits for each host and in all, and a queue of those who wait, first come first served.
//!
//! Every open connection, idle or in use or being dialled, holds a [`Slot`]; dropping the slot is what makes room.
//! Nothing is dropped under the pool's lock, because dropping a slot takes it.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use overdue_core::facts::{H2Facts, PoolFacts};
use tokio::sync::oneshot;

use super::{VersionChoice, http1::Http1, http2::Http2};
use crate::{clock, dial::Target};

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
    reaper: bool,
}

#[derive(Default)]
struct Host {
    /// Slots: idle, in use, being dialled.
    open: usize,
    dialling: usize,
    /// The longest idle first.
    idle: Vec<(Box<Http1>, Instant)>,
    h2: Vec<Arc<Http2>>,
    waiters: VecDeque<oneshot::Sender<Offer>>,
    /// When the oldest dial that runs began.
    dialling_since: Option<Instant>,
    /// What the last connection spoke; `None` before the first.
    speaks_h2: Option<bool>,
}

/// A connection that many calls can share is on its way, or about to say how many. For so long they wait for it; then
/// each dials for itself, and learns for itself what there is to wait for.
const SHARED_DIAL_PATIENCE: Duration = Duration::from_millis(250);

impl Host {
    fn begin_dial(&mut self, now: Instant) {
        self.open += 1;
        self.dialling += 1;
        self.dialling_since.get_or_insert(now);
    }

    fn end_dial(&mut self) {
        self.dialling -= 1;
        if self.dialling == 0 {
            self.dialling_since = None;
        }
    }

    /// Until when it is worth to wait for a connection that can be shared.
    fn shared_soon(&self, now: Instant, may_speak_h2: bool) -> Option<Instant> {
        if !may_speak_h2 || self.speaks_h2 == Some(false) {
            return None;
        }
        let unsettled =
            self.h2.iter().filter(|connection| !connection.is_settled()).map(|connection| connection.born());
        let until = self.dialling_since.into_iter().chain(unsettled).min()? + SHARED_DIAL_PATIENCE;
        (now < until).then_some(until)
    }
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
            pool.serve(&self.target);
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
    armed: bool,
}

/// The right to one stream of a shared connection.
pub(crate) struct StreamPermit {
    connection: Option<Arc<Http2>>,
    place: Place,
}

impl StreamPermit {
    fn new(connection: Arc<Http2>, place: Place) -> Self {
        Self { connection: Some(connection), place }
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
        Arc::new(Self { state: Mutex::default(), options, version })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, a stream, or the right to dial. Waits while the limits forbid all three; the caller bounds the
    /// wait. Cancel safe: what was offered to a caller that is gone goes to the next.
    pub(crate) async fn acquire(self: &Arc<Self>, target: &Target) -> Offer {
        loop {
            let mut discarded = Discarded::default();
            let attempt = {
                let mut state = self.lock();
                let host = state.hosts.entry(target.clone()).or_default();
                host.waiters.retain(|waiter| !waiter.is_closed());
                // Those who wait already come first.
                let offer = if host.waiters.is_empty() { self.offer(&mut state, target, &mut discarded) } else { None };
                offer.ok_or_else(|| self.queue(&mut state, target))
            };
            drop(discarded);
            let offer = match attempt {
                Ok(offer) => offer,
                Err((mut receiver, shared_soon)) => {
                    let offer = match shared_soon {
                        Some(until) => tokio::time::timeout_at(until.into(), &mut receiver).await.ok(),
                        None => None,
                    };
                    match offer {
                        Some(Ok(offer)) => offer,
                        Some(Err(_)) => continue,
                        None => {
                            // The wait for a shared connection is over for all who are in it.
                            self.serve(target);
                            match receiver.await {
                                Ok(offer) => offer,
                                Err(_) => continue,
                            }
                        }
                    }
                }
            };
            // It may have died, or said something nobody asked for, while it lay here.
            match offer {
                Offer::Kept(mut connection, idle) => {
                    if connection.is_fresh() {
                        return Offer::Kept(connection, idle);
                    }
                }
                Offer::Stream(permit) => {
                    if permit.is_fresh().await {
                        return Offer::Stream(permit);
                    }
                }
                Offer::Dial(slot) => return Offer::Dial(slot),
            }
        }
    }

    /// Stands in the queue, and how long it may be worth to wait for a connection that can be shared.
    fn queue(&self, state: &mut State, target: &Target) -> (oneshot::Receiver<Offer>, Option<Instant>) {
        let (sender, receiver) = oneshot::channel();
        let may_speak_h2 = self.may_speak_h2(target);
        let soon = state.hosts.get_mut(target).and_then(|host| {
            host.waiters.push_back(sender);
            host.shared_soon(clock::now(), may_speak_h2)
        });
        (receiver, soon)
    }

    fn may_speak_h2(&self, target: &Target) -> bool {
        match self.version {
            VersionChoice::Negotiated => target.secure,
            VersionChoice::Http1 => false,
            VersionChoice::Http2 => true,
        }
    }

    fn offer(self: &Arc<Self>, state: &mut State, target: &Target, discarded: &mut Discarded) -> Option<Offer> {
        let now = clock::now();
        let host = state.hosts.get_mut(target)?;
        discarded.h2.extend(host.h2.extract_if(.., |connection| connection.is_closed()));
        if let Some(connection) = host.h2.iter().find(|connection| connection.take_stream()) {
            return Some(Offer::Stream(StreamPermit::new(Arc::clone(connection), self.place(target))));
        }
        while let Some((connection, since)) = host.idle.pop() {
            let idle = now.saturating_duration_since(since);
            if idle < self.options.idle_timeout {
                return Some(Offer::Kept(connection, idle));
            }
            discarded.h1.push(connection);
        }
        let soon = host.shared_soon(now, self.may_speak_h2(target));
        if soon.is_some() || host.open >= self.options.connections_per_host {
            return None;
        }
        if state.open >= self.options.connections && !state.evict(discarded) {
            return None;
        }
        state.open += 1;
        state.next_id += 1;
        let id = state.next_id;
        state.hosts.get_mut(target)?.begin_dial(now);
        Some(Offer::Dial(Slot { place: self.place(target), id, dialling: true, armed: true }))
    }

    fn place(self: &Arc<Self>, target: &Target) -> Place {
        Place { pool: Arc::downgrade(self), target: target.clone() }
    }

    /// Gives what has become free to those who wait.
    fn serve(self: &Arc<Self>, target: &Target) {
        let mut discarded = Discarded::default();
        let mut refused = Vec::new();
        {
            let mut state = self.lock();
            let mut targets = vec![target.clone()];
            if state.open < self.options.connections {
                // Room in all may be what somebody else waits for.
                targets.extend(
                    state.hosts.iter().filter(|(_, host)| !host.waiters.is_empty()).map(|(key, _)| key.clone()),
                );
            }
            for target in targets {
                while let Some(host) = state.hosts.get_mut(&target) {
                    host.waiters.retain(|waiter| !waiter.is_closed());
                    if host.waiters.is_empty() {
                        break;
                    }
                    let Some(offer) = self.offer(&mut state, &target, &mut discarded) else { break };
                    let waiter = state.hosts.get_mut(&target).and_then(|host| host.waiters.pop_front());
                    if let Some(Err(offer)) = waiter.map(|waiter| waiter.send(offer)) {
                        refused.push(offer)
                    }
                }
            }
            state.hosts.retain(|_, host| host.open > 0 || !host.waiters.is_empty());
        }
        drop(discarded);
        drop(refused);
    }

    /// Takes back a connection that can carry another call.
    pub(crate) fn put(self: &Arc<Self>, connection: Box<Http1>) {
        let target = connection.slot().place.target.clone();
        let surplus = {
            let mut state = self.lock();
            let Some(host) = state.hosts.get_mut(&target) else { return };
            host.idle.push((connection, clock::now()));
            let surplus = (host.idle.len() > self.options.idle_per_host).then(|| host.idle.remove(0));
            self.reap_later(&mut state);
            surplus
        };
        drop(surplus);
        self.serve(&target);
    }

    /// Shares a new HTTP/2 connection. Its first stream is the caller's. Where another connection of the host has a
    /// stream to give, that is the caller's, and the new connection is closed: several calls had dialled at once.
    pub(crate) fn share(self: &Arc<Self>, mut connection: Http2) -> StreamPermit {
        let was_dialling = std::mem::take(&mut connection.slot_mut().dialling);
        let connection = Arc::new(connection);
        let place = connection.slot().place.clone();
        let shared = {
            let mut state = self.lock();
            let mut shared = Arc::clone(&connection);
            if let Some(host) = state.hosts.get_mut(&place.target) {
                host.speaks_h2 = Some(true);
                if was_dialling {
                    host.end_dial();
                }
                match host.h2.iter().find(|other| other.is_settled() && !other.is_closed() && other.take_stream()) {
                    Some(other) => shared = Arc::clone(other),
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
        StreamPermit::new(shared, place)
    }

    fn reap_later(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.reaper, true) {
            tokio::spawn(reap(Arc::downgrade(self), self.options.idle_timeout));
        }
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
            waiting: host.waiters.iter().filter(|waiter| !waiter.is_closed()).count(),
            dialling: host.dialling,
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
            let h1 = host.idle.first().map(|(_, since)| idle_for(*since));
            // One in use may become idle at any time.
            let h2 = host.h2.iter().map(|connection| connection.idle_for(now).unwrap_or_default());
            oldest = h1.into_iter().chain(h2).chain(oldest).max();
        }
        self.reaper = oldest.is_some();
        oldest
    }

    /// Closes the connection that has been idle longest, of whatever host.
    fn evict(&mut self, discarded: &mut Discarded) -> bool {
        let oldest = self
            .hosts
            .iter()
            .filter_map(|(target, host)| host.idle.first().map(|(_, since)| (*since, target.clone())))
            .min_by_key(|(since, _)| *since);
        let Some((_, target)) = oldest else { return false };
        let Some(host) = self.hosts.get_mut(&target) else { return false };
        let (mut connection, _) = host.idle.remove(0);
        // Its place is taken over here and now; dropping it later must not free it once more.
        connection.slot_mut().armed = false;
        host.open -= 1;
        self.open -= 1;
        discarded.h1.push(connection);
        true
    }
}

/// How often idle connections are looked at: one that the peer has closed should not linger in CLOSE_WAIT.
const SWEEP: Duration = Duration::from_secs(5);

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
        let Some(pool) = self.pool().filter(|_| self.armed) else { return };
        {
            let mut state = pool.lock();
            state.open -= 1;
            if let Some(host) = state.hosts.get_mut(&self.place.target) {
                host.open -= 1;
                if self.dialling {
                    host.end_dial();
                }
            }
        }
        self.place.serve();
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

#[cfg(test)]
mod tests;
