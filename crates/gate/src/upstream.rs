//! The servers of a cluster, as one worker sees them: who is asked, and the connections that are kept.

mod io;
pub(crate) mod proxy;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use overdue::tls::Wire;
use overdue_core::facts::{H2Facts, PoolFacts};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

pub(crate) use self::io::ServerIo;
use crate::{
    clock,
    config::Cluster,
    http1::{Buffers, Side},
    http2::{self, Carrier, Outbound},
    lookout::{Endpoint, Found, NoAddress},
};

/// The servers of a cluster.
pub(crate) struct Servers {
    pub(crate) cluster: Arc<Cluster>,
    all: Vec<Rc<Server>>,
    none: Arc<NoAddress>,
    dice: Cell<u64>,
}

/// One server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The same, written out: it is told with every request.
    pub(crate) text: Box<str>,
    /// As the configuration names it, without the port: what its certificate is to be for.
    pub(crate) host: Arc<str>,
    /// Connections that this worker may have to it.
    most: Cell<usize>,
    idle_limit: Cell<Duration>,
    /// In use, being dialled and idle.
    open: Cell<usize>,
    idle: RefCell<Vec<Idle>>,
    /// It speaks HTTP/2: connections are shared.
    http2: Cell<bool>,
    shared: RefCell<Vec<Rc<Carrier>>>,
    /// Connections that will be shared, and are not there yet.
    dialling: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Turn>>>,
    /// Requests that were given to it and are not done.
    pending: Cell<usize>,
    /// How long it takes for the head of an answer, smoothed, microseconds.
    latency_us: Cell<f64>,
    /// Requests that failed by its fault, one after another.
    failures: Cell<u32>,
    /// No route leads to it any more.
    retired: Cell<bool>,
    /// Probes of it fail: not asked, if there is another.
    ill: Cell<bool>,
    /// Not asked until then, if there is another.
    shunned_until: Cell<Option<Instant>>,
    connections: Cell<u64>,
}

/// A connection to a server, in use. Dropped, it is closed, and whoever waits for one has a turn.
pub(crate) struct Upstream {
    pub(crate) side: Side<ServerIo>,
    pub(crate) server: Rc<Server>,
    /// Counts the connections of this worker to this server, from 1.
    pub(crate) number: u64,
    /// Requests that it has carried before.
    pub(crate) carried: u64,
    /// How long it lay idle before this one.
    pub(crate) idle: Option<Duration>,
    /// What was said of a client when it was opened: it is for that client alone.
    introduced: Option<Introduction>,
    /// Last, so that it is given back when all else is gone.
    hold: Hold,
}

/// What a connection to a server begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    pub(crate) header: Box<[u8]>,
    /// The connection of the client that it is for: of two that come from one address after each other, each has its own.
    pub(crate) client: u64,
}

/// What a request holds of its server.
enum Hold {
    /// A connection.
    Connection(Permit),
    /// One of the streams of a connection.
    Stream(#[expect(dead_code, reason = "it is there to be dropped")] Freed),
}

/// A stream that becomes free for those who wait.
struct Freed(Rc<Server>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.use_streams();
    }
}

struct Idle {
    upstream: Upstream,
    since: Instant,
}

/// The right to one connection.
pub(crate) struct Permit {
    server: Rc<Server>,
    /// The connection will be for many: who comes now waits for it.
    dials: bool,
}

/// A place in the queue.
#[derive(Default)]
struct Turn {
    /// What it got.
    got: RefCell<Option<Granted>>,
    waker: RefCell<Option<Waker>>,
}

/// What a request gets from a server.
pub(crate) enum Granted {
    /// A connection that was kept.
    Kept(Upstream),
    /// The right to open one.
    Room(Permit),
}

/// A smoothed value keeps this share of what it was.
const KEEPS: f64 = 0.875;
/// A value that is not renewed keeps this share of itself each time that another server is asked instead: one that takes
/// a hundred times as long gets one request in some nine hundred.
const FADES: f64 = 0.995;
/// So many answers that fail, one after another, are no accident; a connection that cannot be made is none by itself.
const FAILURES_MAX: u32 = 3;
/// Of two latencies the lower is one that says something below this share of the other.
const FASTER: f64 = 0.75;
/// A server that fails is left alone for so long, and longer each time.
const SHUN: Duration = Duration::from_millis(500);
const SHUN_MAX: Duration = Duration::from_secs(10);

impl Servers {
    /// Those of a cluster, for a worker that may have `most` connections to each. Servers that were known before keep
    /// their connections and what is known of them.
    pub(crate) fn new(cluster: &Arc<Cluster>, found: &Found, most: usize, seed: u64, known: Option<&Self>) -> Self {
        let dice = Cell::new(known.map_or(seed | 1, |known| known.dice.get()));
        // A connection that was opened in another way is none for this one.
        let known = known.filter(|known| {
            let way = |cluster: &'_ Cluster| (cluster.tls.clone(), cluster.proxy_protocol, cluster.http2);
            way(&known.cluster) == way(cluster)
        });
        let all = found.endpoints.iter().map(|endpoint| {
            let is_it = |server: &&Rc<Server>| server.address == endpoint.address && server.host == endpoint.host;
            let known = known.and_then(|known| known.all.iter().find(is_it));
            let server = known.map_or_else(|| Rc::new(Server::new(endpoint)), Rc::clone);
            server.most.set(most);
            server.ill.set(endpoint.ill);
            server.http2.set(cluster.http2);
            server.idle_limit.set(cluster.idle.value);
            server.use_room();
            server
        });
        Self { cluster: Arc::clone(cluster), all: all.collect(), none: Arc::clone(&found.none), dice }
    }

    /// Why it has no server, if it has none.
    pub(crate) fn none(&self) -> &NoAddress {
        &self.none
    }

    /// The server that gets the next request: of two that chance names, the one that has less to do for longer.
    pub(crate) fn choose(&self) -> Option<&Rc<Server>> {
        let (first, rest) = self.all.split_first()?;
        if rest.is_empty() {
            return Some(first);
        }
        let is_doubtful = |server: &Rc<Server>| server.ill.get() || server.shunned_until.get().is_some();
        let well = if self.all.iter().any(is_doubtful) { self.well() } else { Vec::new() };
        let pick = |number: usize| match well.len() {
            // All are well, or all are ill: to ask nobody would be no better.
            0 => self.all.get(number % self.all.len()),
            some => well.get(number % some).copied(),
        };
        let dice = usize::try_from(self.roll() >> 1).unwrap_or_default();
        let count = if well.is_empty() { self.all.len() } else { well.len() };
        let one = dice % count;
        let other = (one + 1 + dice / count % count.saturating_sub(1).max(1)) % count;
        let (one, other) = (pick(one)?, pick(other)?);
        let (better, worse) = if other.is_better_than(one) { (other, one) } else { (one, other) };
        if !Rc::ptr_eq(better, worse) {
            worse.fade();
        }
        Some(better)
    }

    /// The server that gets a request after this one failed it: another that is well, where there is one.
    pub(crate) fn choose_but(&self, failed: SocketAddr) -> Option<&Rc<Server>> {
        let others = self.well_but(failed, clock::now());
        others.min_by_key(|server| server.pending.get()).or_else(|| self.choose())
    }

    /// Whether another one is well, as far as is known.
    pub(crate) fn has_other(&self, than: SocketAddr, now: Instant) -> bool {
        self.well_but(than, now).next().is_some()
    }

    fn well_but(&self, except: SocketAddr, now: Instant) -> impl Iterator<Item = &Rc<Server>> {
        let is_well = move |server: &&Rc<Server>| !server.ill.get() && !server.is_shunned(now);
        self.all.iter().filter(move |server| server.address != except).filter(is_well)
    }

    /// Those that are neither ill nor shunned; where there are none, those that are shunned alone.
    fn well(&self) -> Vec<&Rc<Server>> {
        let now = clock::now();
        let mut well: Vec<_> = self.all.iter().filter(|server| !server.ill.get()).collect();
        if well.iter().any(|server| !server.is_shunned(now)) {
            well.retain(|server| !server.is_shunned(now));
        }
        well
    }

    /// xorshift64*: which of two servers is no secret.
    fn roll(&self) -> u64 {
        let mut dice = self.dice.get();
        dice ^= dice >> 12;
        dice ^= dice << 25;
        dice ^= dice >> 27;
        self.dice.set(dice);
        dice.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = &Rc<Server>> {
        self.all.iter()
    }
}

impl Server {
    fn new(Endpoint { address, host, .. }: &Endpoint) -> Self {
        Self {
            address: *address,
            text: address.to_string().into(),
            host: Arc::clone(host),
            most: Cell::new(1),
            idle_limit: Cell::new(Duration::ZERO),
            open: Cell::new(0),
            idle: RefCell::default(),
            http2: Cell::new(false),
            shared: RefCell::default(),
            dialling: Cell::new(0),
            waiting: RefCell::default(),
            pending: Cell::new(0),
            latency_us: Cell::new(0.0),
            failures: Cell::new(0),
            retired: Cell::new(false),
            ill: Cell::new(false),
            shunned_until: Cell::new(None),
            connections: Cell::new(0),
        }
    }

    /// Whether it has less to do, for as long as each takes. Of one that has not answered yet it is not known how long; a
    /// difference that chance makes is none, so that equals get equal shares.
    fn is_better_than(&self, other: &Self) -> bool {
        let (own, others) = (self.latency_us.get(), other.latency_us.get());
        let alike = own.min(others) >= own.max(others) * FASTER;
        if alike || own == 0.0 || others == 0.0 {
            return self.pending.get() < other.pending.get();
        }
        let cost = |server: &Self, latency: f64| {
            let pending = u32::try_from(server.pending.get()).unwrap_or(u32::MAX);
            f64::from(pending.saturating_add(1)) * latency
        };
        cost(self, own) < cost(other, others)
    }

    /// A request is given to it, until what is returned is dropped.
    pub(crate) fn pending(self: &Rc<Self>) -> Pending {
        self.pending.set(self.pending.get() + 1);
        Pending(Rc::clone(self))
    }

    /// Whether all that could carry a request is still on its way.
    pub(crate) fn only_dials(&self) -> bool {
        self.dialling.get() > 0 && self.dialling.get() >= self.open.get()
    }

    /// Requests that were given to it and are not done.
    pub(crate) fn requests(&self) -> usize {
        self.pending.get()
    }

    /// The head of an answer took so long.
    pub(crate) fn answered(&self, took: Duration) {
        self.took(took);
        if self.failures.get() > 0 {
            self.failures.set(0);
            self.shunned_until.set(None);
        }
    }

    fn took(&self, took: Duration) {
        let (now, before) = (took.as_secs_f64() * 1e6, self.latency_us.get());
        self.latency_us.set(if before == 0.0 { now } else { before * KEEPS + now * (1.0 - KEEPS) });
    }

    /// What is known of it grows old while others are asked: one that was slow once is tried again some day.
    fn fade(&self) {
        self.latency_us.set(self.latency_us.get() * FADES);
    }

    /// It did not answer, for so long. That it ends requests quickly is no reason to give it more of them.
    pub(crate) fn failed(&self, took: Duration) {
        self.took(took.max(self.latency()));
        self.fail(FAILURES_MAX);
    }

    /// It could not be connected to.
    pub(crate) fn unreachable(&self) {
        self.fail(1);
    }

    /// With so many failures in a row it is left alone. What fails while it is had begun before, and is of the same time.
    fn fail(&self, most: u32) {
        let now = clock::now();
        if self.is_shunned(now) {
            return;
        }
        let failures = self.failures.get().saturating_add(1);
        self.failures.set(failures);
        if let Some(times) = failures.checked_sub(most) {
            let pause = SHUN.saturating_mul(1 << times.min(8)).min(SHUN_MAX);
            self.shunned_until.set(Some(now + pause));
        }
    }

    /// No route leads to it any more: what lies idle is closed, and what is in use is not kept.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let shared = std::mem::take(&mut *self.shared.borrow_mut());
        shared.iter().for_each(|carrier| carrier.end());
        drop((idle, shared));
    }

    /// A connection that was kept, or the right to open one; `None` where both have to be waited for. One that was opened
    /// with an introduction is for those who would say the same.
    pub(crate) fn grant(self: &Rc<Self>, now: Instant, introduction: Option<&Introduction>) -> Option<Granted> {
        if self.http2.get() {
            let stream = self.stream(now).map(Granted::Kept);
            return stream.or_else(|| self.has_room().then(|| Granted::Room(Permit::of(self))));
        }
        loop {
            let kept = match introduction {
                None => self.idle.borrow_mut().pop(),
                Some(_) => self.idle_of(introduction),
            };
            let Some(Idle { mut upstream, since }) = kept else { break };
            if upstream.is_fresh() {
                upstream.idle = Some(now.saturating_duration_since(since));
                return Some(Granted::Kept(upstream));
            }
        }
        if introduction.is_some() && self.open.get() >= self.most.get() {
            // That of a client who may never come back makes room.
            let oldest = self.oldest();
            // Closing one looks at the list.
            drop(oldest);
        }
        self.has_room().then(|| Granted::Room(Permit::of(self)))
    }

    /// Whether one more connection may be opened. One that is on its way will be for all who wait.
    fn has_room(&self) -> bool {
        let begins = |carrier: &Rc<Carrier>| !carrier.is_over() && !carrier.is_settled();
        let is_coming = self.http2.get() && self.dialling.get() > 0;
        self.open.get() < self.most.get() && !is_coming && !self.shared.borrow().iter().any(begins)
    }

    /// A stream of a connection that has room: of the one that carries the most, so that others become idle.
    fn stream(self: &Rc<Self>, now: Instant) -> Option<Upstream> {
        self.shared.borrow_mut().retain(|carrier| !carrier.is_over());
        let shared = self.shared.borrow();
        let carrier = shared.iter().filter(|carrier| carrier.has_room()).max_by_key(|carrier| carrier.streams())?;
        Some(self.stream_of(carrier, now))
    }

    fn stream_of(self: &Rc<Self>, carrier: &Rc<Carrier>, now: Instant) -> Upstream {
        let idle = carrier.idle_since().map(|since| now.saturating_duration_since(since));
        Upstream {
            number: carrier.number,
            carried: carrier.carried(),
            idle,
            introduced: None,
            side: Side::new(ServerIo::Stream(Box::new(Outbound::new(carrier)))),
            server: Rc::clone(self),
            hold: Hold::Stream(Freed(Rc::clone(self))),
        }
    }

    /// Those who wait get streams as far as there are any.
    fn use_streams(self: &Rc<Self>) {
        while !self.waiting.borrow().is_empty() {
            let Some(upstream) = self.stream(clock::now()) else { break };
            drop(self.pass_on(Granted::Kept(upstream)));
        }
        self.use_room();
    }

    fn oldest(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() { None } else { Some(idle.remove(0)) }
    }

    fn idle_of(&self, introduction: Option<&Introduction>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let place = idle.iter().rposition(|idle| idle.upstream.introduced.as_ref() == introduction)?;
        Some(idle.remove(place))
    }

    /// Waits for a turn. Cancel safe: who leaves the queue gives what it was granted to the next.
    pub(crate) fn wait(self: &Rc<Self>) -> Waiting {
        let turn = Rc::new(Turn::default());
        self.waiting.borrow_mut().push_back(Rc::clone(&turn));
        Waiting { server: Rc::clone(self), turn }
    }

    pub(crate) fn facts(&self) -> PoolFacts {
        PoolFacts {
            in_use: self.open.get() - self.idle.borrow().len().min(self.open.get()),
            limit: self.most.get(),
            waiting: self.waiting.borrow().len(),
            dialling: self.dialling.get(),
            limit_is_global: false,
        }
    }

    /// Why there is no stream, where those are what is waited for.
    pub(crate) fn h2_facts(&self) -> Option<H2Facts> {
        let shared = self.shared.borrow();
        let (streams, most) = shared
            .iter()
            .fold((0, 0), |(streams, most), carrier| (streams + carrier.streams(), most + carrier.streams_max()));
        (!shared.is_empty()).then_some(H2Facts {
            streams_exhausted: streams >= most,
            streams_in_use: streams,
            max_streams: most,
            window_blocked_bytes: 0,
        })
    }

    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    pub(crate) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_secs_f64(self.latency_us.get() / 1e6)
    }

    pub(crate) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.get().is_some_and(|until| now < until)
    }

    /// Closes what has been idle for too long, and what its server has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        let limit = self.idle_limit.get();
        let mut kept = std::mem::take(&mut *self.idle.borrow_mut());
        kept.retain_mut(|idle| now.saturating_duration_since(idle.since) < limit && idle.upstream.is_fresh());
        // Closing one may have put others there.
        let mut idle = self.idle.borrow_mut();
        kept.append(&mut idle);
        *idle = kept;
    }

    /// The same for connections that are shared. What has more room by now than when it was last looked at is used.
    pub(crate) fn sweep_shared(self: &Rc<Self>, now: Instant) {
        let limit = self.idle_limit.get();
        let useful = |carrier: &Rc<Carrier>| {
            let idle = carrier.idle_since().is_some_and(|since| now.saturating_duration_since(since) >= limit);
            !idle && !carrier.is_over()
        };
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *self.shared.borrow_mut()).into_iter().partition(useful);
        self.shared.borrow_mut().extend(kept);
        drop(gone);
        self.use_streams();
    }

    /// Gives a turn to the first who waits.
    fn pass_on(self: &Rc<Self>, granted: Granted) -> Option<Granted> {
        let Some(turn) = self.waiting.borrow_mut().pop_front() else { return Some(granted) };
        *turn.got.borrow_mut() = Some(granted);
        if let Some(waker) = turn.waker.borrow_mut().take() {
            waker.wake();
        }
        None
    }

    /// Those who wait may open connections as far as there is room.
    fn use_room(self: &Rc<Self>) {
        while self.has_room() && !self.waiting.borrow().is_empty() {
            let granted = Granted::Room(Permit::of(self));
            drop(self.pass_on(granted));
        }
    }
}

/// A request that was given to a server.
pub(crate) struct Pending(Rc<Server>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.set(self.0.pending.get().saturating_sub(1));
    }
}

impl Permit {
    fn of(server: &Rc<Server>) -> Self {
        server.open.set(server.open.get() + 1);
        server.dialling.set(server.dialling.get() + 1);
        Self { server: Rc::clone(server), dials: true }
    }

    /// What it was for is there: whoever comes now finds it, or may open another.
    fn settle(&mut self) {
        let dialling = &self.server.dialling;
        dialling.set(dialling.get() - usize::from(std::mem::take(&mut self.dials)));
    }

    fn number(&self) -> u64 {
        let connections = &self.server.connections;
        connections.set(connections.get() + 1);
        connections.get()
    }

    /// A connection that was opened with this right.
    pub(crate) fn opened(mut self, io: ServerIo, introduced: Option<Introduction>) -> Upstream {
        self.settle();
        let server = Rc::clone(&self.server);
        let number = self.number();
        let hold = Hold::Connection(self);
        Upstream { side: Side::new(io), server, number, carried: 0, idle: None, introduced, hold }
    }

    /// One stream of a connection that was opened with this right; the others are for who waits and who will come. `wire`
    /// is what is beneath `io`.
    ///
    /// # Errors
    /// The connection has ended already.
    pub(crate) async fn shared<S>(mut self, io: S, wire: Wire, secure: bool) -> std::io::Result<Upstream>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let server = Rc::clone(&self.server);
        let number = self.number();
        let begun = http2::begin(io).await?;
        self.settle();
        let ended = {
            let server = Rc::clone(&server);
            move || {
                server
                    .shared
                    .borrow()
                    .iter()
                    .filter(|carrier| carrier.number == number)
                    .for_each(|carrier| carrier.end());
                drop(self);
            }
        };
        let more = {
            let server = Rc::downgrade(&server);
            move || server.upgrade().into_iter().for_each(|server| server.use_streams())
        };
        let carrier = Carrier::new(begun, wire, secure, number, more, ended);
        let first = Upstream { idle: None, ..server.stream_of(&carrier, clock::now()) };
        if server.retired.get() {
            // It is for those alone who had begun to wait for it.
            carrier.end();
        } else {
            server.shared.borrow_mut().push(carrier);
        }
        server.use_streams();
        Ok(first)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.settle();
        self.server.open.set(self.server.open.get().saturating_sub(1));
        self.server.use_room();
    }
}

impl Upstream {
    /// Whether it can carry another request: its server has neither closed it nor said anything.
    fn is_fresh(&mut self) -> bool {
        self.side.io.is_quiet() && self.side.bytes().is_empty()
    }

    /// After a request that its server did not answer in time. Where nothing at all came on a connection that others
    /// share, it is as good as dead: those who come take another.
    pub(crate) fn unanswered(&self, since: Instant) {
        if let ServerIo::Stream(stream) = &self.side.io
            && stream.carrier().is_silent_since(since)
        {
            stream.carrier().end();
        }
    }

    /// Puts it back after a request, for the next.
    pub(crate) fn keep(mut self, buffers: &Buffers, now: Instant) {
        self.carried += 1;
        self.put_back(buffers, now);
    }

    /// Puts it back as it was had.
    pub(crate) fn put_back(mut self, buffers: &Buffers, now: Instant) {
        self.side.rest(buffers);
        let server = Rc::clone(&self.server);
        if server.retired.get() || server.open.get() > server.most.get() {
            return;
        }
        if self.introduced.is_some() && !server.waiting.borrow().is_empty() {
            // Who waits is another client, most likely: what it gets is the right to open one.
            return;
        }
        let is_fresh = self.is_fresh();
        let Hold::Connection(permit) = self.hold else { return };
        // What came behind the last answer is nobody's: with it goes the connection.
        let granted = match is_fresh {
            true => Granted::Kept(Self { hold: Hold::Connection(permit), ..self }),
            false => Granted::Room(permit),
        };
        if let Some(Granted::Kept(upstream)) = server.pass_on(granted) {
            server.idle.borrow_mut().push(Idle { upstream, since: now });
        }
    }
}

/// Somebody in the queue of a server.
pub(crate) struct Waiting {
    server: Rc<Server>,
    turn: Rc<Turn>,
}

impl Waiting {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Granted> {
        let granted = self.turn.got.borrow_mut().take();
        let granted = match granted {
            // Something may have come since it was handed over.
            Some(Granted::Kept(mut upstream)) => match (upstream.is_fresh(), upstream.hold) {
                (true, hold) => Some(Granted::Kept(Upstream { hold, ..upstream })),
                (false, Hold::Connection(permit)) => Some(Granted::Room(permit)),
                (false, Hold::Stream(_)) => self.again(),
            },
            granted => granted,
        };
        if let Some(granted) = granted {
            return Poll::Ready(granted);
        }
        *self.turn.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Waiting {
    /// What it was granted is of no use: it asks once more, and waits in front of all others.
    fn again(&self) -> Option<Granted> {
        let granted = self.server.grant(clock::now(), None);
        if granted.is_none() {
            self.server.waiting.borrow_mut().push_front(Rc::clone(&self.turn));
        }
        granted
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let got = self.turn.got.borrow_mut().take();
        match got {
            Some(Granted::Kept(upstream)) => {
                // Its buffer was given back before.
                upstream.put_back(&Buffers::default(), clock::now());
            }
            Some(room) => drop(self.server.pass_on(room)),
            None => self.server.waiting.borrow_mut().retain(|turn| !Rc::ptr_eq(turn, &self.turn)),
        }
    }
}

/// Begins a connection. It is there from now on, so that the kernel can be asked about one that does not come up.
pub(crate) fn begin(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(err) if err.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => return Err(err),
        _ => {}
    }
    TcpStream::from_std(socket.into())
}

/// Ready once it is up, or failed. The limit is the caller's.
pub(crate) async fn connected(stream: &TcpStream) -> std::io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

/// Ready once `work` is, or with what interrupts it.
pub(crate) async fn or<T, U>(
    work: impl Future<Output = T>,
    mut interrupts: impl FnMut(&mut Context<'_>) -> Poll<U>,
) -> Result<T, U> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        interrupts(cx).map(Err)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Rc<Server> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Rc::new(Server::new(&Endpoint { address, host: "127.0.0.1".into(), ill: false }))
    }

    /// What each has pending comes first, and then how long it takes, as far as that is no chance.
    #[test]
    fn of_two_servers_the_better_one() {
        let (one, other) = (server(1), server(2));
        for (own, others, is_better) in [
            ((0, 0.0), (0, 0.0), false),
            ((0, 90.0), (0, 100.0), false),
            ((0, 60.0), (0, 100.0), true),
            ((0, 110.0), (1, 100.0), true),
            ((1, 40.0), (0, 100.0), true),
            ((1, 60.0), (0, 100.0), false),
            ((0, 0.0), (1, 5.0), true),
            ((1, 5.0), (1, 0.0), false),
        ] {
            for (server, (pending, latency)) in [(&one, own), (&other, others)] {
                server.pending.set(pending);
                server.latency_us.set(latency);
            }
            assert_eq!(one.is_better_than(&other), is_better, "{own:?} {others:?}");
            assert!(!is_better || !other.is_better_than(&one), "{own:?} {others:?}");
        }
    }

    #[test]
    fn what_fails_at_once_is_one_time() {
        let server = server(1);
        let began = clock::now();
        let left_alone = || server.shunned_until.get().map(|until| until.saturating_duration_since(began));
        (0..2).for_each(|_| server.failed(Duration::ZERO));
        assert_eq!(left_alone(), None);
        // And all else that it had in flight.
        (0..40).for_each(|_| server.failed(Duration::ZERO));
        assert!(left_alone().is_some_and(|pause| pause >= SHUN && pause < SHUN * 2), "{:?}", left_alone());
        // That passes, and it fails again.
        server.shunned_until.set(Some(clock::now()));
        (0..40).for_each(|_| server.failed(Duration::ZERO));
        assert!(left_alone().is_some_and(|pause| pause >= SHUN * 2 && pause < SHUN * 4), "{:?}", left_alone());
        server.answered(Duration::ZERO);
        assert_eq!(left_alone(), None);
    }
}
