//! One thread that serves: its plan, its connections, its counts. Nothing here is shared with another thread.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use overdue::server::{ListenerStats, TrustedPeers, propagate::TimeoutHeaders};
use overdue_core::{Limit, LimitName, Origin, Stage};
use slab::Slab;
use tokio::{sync::Notify, time::timeout};

use crate::{
    arrive::Arrival,
    clock,
    config::{Config, Listener, Route},
    counts::Counts,
    http1::{Buffers, Known, Line, TUNNEL},
    live::{OfRoute, Recent},
    log::{Entry, Lines, Marks, Whom},
    lookout::Outlook,
    notices::{Doorstep, Notice},
    trace::Ids,
    upstream::Servers,
};

/// What a worker knows.
pub(crate) struct Worker {
    pub(crate) number: usize,
    plan: RefCell<Rc<Plan>>,
    pub(crate) buffers: Buffers,
    pub(crate) counts: Counts,
    /// The last minutes.
    pub(crate) recent: Recent,
    pub(crate) lines: RefCell<Lines>,
    live: RefCell<Slab<Rc<Live>>>,
    draining: Cell<bool>,
    cut: Cell<Option<&'static str>>,
    ending: Notify,
    /// Connections that were accepted and are not done, those in a handshake as well.
    open: Cell<usize>,
    /// How long a connection may lie unused once the worker is draining.
    pub(crate) lull: Limit,
    /// What its listeners count.
    pub(crate) listening: RefCell<Vec<(SocketAddr, ListenerStats)>>,
    /// What happens there, to be told.
    pub(crate) doorsteps: RefCell<Vec<(SocketAddr, Doorstep)>>,
}

/// A configuration, as one worker follows it.
pub(crate) struct Plan {
    pub(crate) config: Arc<Config>,
    pub(crate) routes: Vec<Rc<PlannedRoute>>,
    pub(crate) timeouts: TimeoutHeaders,
    pub(crate) ids: Ids,
    servers: BTreeMap<Arc<str>, Rc<Servers>>,
}

/// A route and the servers that it leads to.
pub(crate) struct PlannedRoute {
    pub(crate) route: Arc<Route>,
    pub(crate) servers: Rc<Servers>,
    pub(crate) recent: OfRoute,
}

/// A connection of a client, as an operator sees it.
pub(crate) struct Live {
    /// Counts the connections of clients.
    pub(crate) number: u64,
    pub(crate) peer: SocketAddr,
    /// The same, written out: it is told with every request.
    pub(crate) peer_text: Box<str>,
    /// The proxy that said so, written out.
    pub(crate) via: Option<Box<str>>,
    /// The address that the client connected to, where that proxy said so.
    pub(crate) to: Option<SocketAddr>,
    /// Whether the address is known to be that of whoever sends the requests.
    known: bool,
    /// Whether it is a stream of HTTP/2.
    pub(crate) is_stream: bool,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    pub(crate) since: Instant,
    /// The request that it carries now.
    pub(crate) request: RefCell<Option<InFlight>>,
    pub(crate) line: RefCell<Line>,
    stage: Cell<(Stage, Instant)>,
    /// Its task, for those who want it to look up.
    pub(crate) waker: RefCell<Option<Waker>>,
}

/// A request that is being served.
pub(crate) struct InFlight {
    pub(crate) began: Instant,
    pub(crate) route: Rc<PlannedRoute>,
    pub(crate) server: Option<SocketAddr>,
    /// When it has to be done, and whose word that is.
    pub(crate) deadline: Option<(Instant, Limit)>,
}

impl Live {
    /// Whether what it says of others counts, and what it is told may be more.
    pub(crate) fn is_trusted(&self, trusted: &TrustedPeers) -> bool {
        self.known && !trusted.is_empty() && trusted.contains(self.peer.ip())
    }

    /// The address without its port, and without brackets.
    pub(crate) fn peer_ip(&self) -> &str {
        let ip = self.peer_text.rsplit_once(':').map_or(&*self.peer_text, |(ip, _)| ip);
        ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip)
    }

    pub(crate) fn whom(&self) -> Whom<'_> {
        Whom { client: &self.peer_text, via: self.via.as_deref() }
    }

    /// Whether the address is that of whoever sends the requests.
    pub(crate) const fn is_known(&self) -> bool {
        self.known
    }

    pub(crate) fn enter(&self, stage: Stage, now: Instant) {
        self.stage.set((stage, now));
    }

    pub(crate) fn stage(&self) -> (Stage, Instant) {
        self.stage.get()
    }

    /// Whether it carries a request whose answer may have begun.
    pub(crate) fn is_answered(&self) -> bool {
        let answers = matches!(self.stage.get().0, Stage::Receive | TUNNEL);
        answers && self.request.borrow().is_some()
    }
}

/// Its place in the list of the worker.
pub(crate) struct Listed {
    worker: Rc<Worker>,
    key: usize,
    pub(crate) live: Rc<Live>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.live.borrow_mut().try_remove(self.key);
    }
}

/// A connection that was accepted.
pub(crate) struct Opened(Rc<Worker>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

impl Worker {
    /// `began` is when the gateway did.
    pub(crate) fn new(number: usize, outlook: Arc<Outlook>, lines: Lines, began: Instant) -> Rc<Self> {
        let plan = Plan::new(&outlook, number, None);
        Rc::new(Self {
            number,
            plan: RefCell::new(Rc::new(plan)),
            buffers: Buffers::default(),
            counts: Counts::default(),
            recent: Recent::new(number, began),
            lines: RefCell::new(lines),
            live: RefCell::default(),
            draining: Cell::new(false),
            cut: Cell::new(None),
            ending: Notify::new(),
            open: Cell::new(0),
            lull: Limit { name: LimitName::Idle, value: LULL, origin: Origin::Default },
            listening: RefCell::default(),
            doorsteps: RefCell::default(),
        })
    }

    pub(crate) fn plan(&self) -> Rc<Plan> {
        Rc::clone(&self.plan.borrow())
    }

    /// Requests that come from now on follow this configuration; those that are being served go on as they began.
    pub(crate) fn follow(&self, outlook: &Outlook) {
        let former = self.plan();
        let plan = Plan::new(outlook, self.number, Some(&former));
        for server in former.servers().flat_map(|servers| servers.each()) {
            let stays = plan.servers().flat_map(|servers| servers.each()).any(|other| Rc::ptr_eq(server, other));
            if !stays {
                server.retire();
            }
        }
        *self.plan.borrow_mut() = Rc::new(plan);
    }

    pub(crate) fn list(self: &Rc<Self>, arrival: Arrival, scheme: &'static str) -> Listed {
        let Arrival { client, via, to, known, since, .. } = arrival;
        let number = self.counts.connections.get();
        let live = Live {
            number,
            peer_text: text_of(client),
            via: via.map(text_of),
            to,
            is_stream: false,
            known,
            scheme,
            peer: client,
            since,
            request: RefCell::default(),
            line: RefCell::default(),
            stage: Cell::new((HEAD, since)),
            waker: RefCell::default(),
        };
        self.list_live(live)
    }

    /// A stream of a connection that is listed: what it carries is of the same client.
    pub(crate) fn list_stream(self: &Rc<Self>, of: &Live) -> Listed {
        let now = clock::now();
        self.list_live(Live {
            number: of.number,
            peer: of.peer,
            peer_text: of.peer_text.clone(),
            via: of.via.clone(),
            to: of.to,
            is_stream: true,
            known: of.known,
            scheme: of.scheme,
            since: now,
            request: RefCell::default(),
            line: RefCell::default(),
            stage: Cell::new((HEAD, now)),
            waker: RefCell::default(),
        })
    }

    fn list_live(self: &Rc<Self>, live: Live) -> Listed {
        let live = Rc::new(live);
        let key = self.live.borrow_mut().insert(Rc::clone(&live));
        Listed { worker: Rc::clone(self), key, live }
    }

    pub(crate) fn each_live(&self, mut look: impl FnMut(&Live)) {
        self.live.borrow().iter().for_each(|(_, live)| look(live));
    }

    /// One more connection, until it is dropped.
    pub(crate) fn opened(self: &Rc<Self>) -> Opened {
        self.open.set(self.open.get() + 1);
        Opened(Rc::clone(self))
    }

    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// What the work comes to; `None` once the worker is draining.
    pub(crate) async fn until_draining<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let ending = self.ending.notified();
        if self.is_draining() {
            return None;
        }
        tokio::select! {
            value = work => Some(value),
            () = ending => None,
        }
    }

    /// The same for what may take a while, once nobody is to wait for it any more.
    pub(crate) async fn within_lull<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        if let Some(value) = self.until_draining(work.as_mut()).await {
            return Some(value);
        }
        timeout(LULL, work).await.ok()
    }

    /// Connections that lie idle end now, the others after a request to which that is said.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.ending.notify_waiters();
        self.wake_all();
    }

    /// Requests in flight end now, and say so. False when there is none.
    pub(crate) fn cut(&self, why: &'static str) -> bool {
        self.cut.set(Some(why));
        self.wake_all();
        self.is_serving()
    }

    /// Why requests are cut, once they are.
    pub(crate) const fn why_cut(&self) -> Option<&'static str> {
        self.cut.get()
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.live.borrow().iter().any(|(_, live)| live.request.borrow().is_some())
    }

    fn wake_all(&self) {
        let wakers: Vec<_> = self.live.borrow().iter().filter_map(|(_, live)| live.waker.borrow().clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Counts a request that has ended, and writes its line.
    pub(crate) fn ended(&self, entry: &Entry<'_>, live: &Live) {
        let (line, peer) = (live.line.borrow(), &live.peer_text);
        self.recent.ended(entry, &line, peer, |column| entry.count(&self.counts, column));
        self.lines.borrow_mut().put(entry, &line, live.whom());
    }

    /// Writes a line for each request that is still being served: nobody will do so later.
    pub(crate) fn tell_cut(&self, why: &str) {
        let now = clock::now();
        self.each_live(|live| {
            let Some(request) = &*live.request.borrow() else { return };
            let stage = live.stage().0;
            let marks = Marks::at(request.began);
            let entry = Entry {
                known: Known::cut(stage),
                route: Some(&request.route),
                refused: Some((stage, why)),
                ..Entry::new(&marks, now)
            };
            self.ended(&entry, live);
        });
    }

    /// A listener can accept nothing any more. That does not pass by itself, so that standard error has it, too.
    pub(crate) fn lost(&self, listener: SocketAddr, err: &io::Error) {
        let notice = Notice::Lost { listener, worker: self.number, error: err.to_string() };
        crate::tell_stderr(&notice.text());
        self.lines.borrow_mut().put_notice(&notice);
    }

    /// Tells what was only counted since the last time.
    pub(crate) fn tell_counted(&self) {
        let mut lines = self.lines.borrow_mut();
        lines.put_counted();
        for (listener, doorstep) in &*self.doorsteps.borrow() {
            doorstep.take(*listener).iter().for_each(|notice| lines.put_notice(notice));
        }
    }

    /// What has to be done once a second: connections to servers that are of no use any more are closed, and what was only
    /// counted is told.
    pub(crate) fn tick(&self) {
        self.tell_counted();
        let now = clock::now();
        let plan = self.plan();
        for servers in plan.servers.values() {
            for server in servers.each() {
                server.sweep(now);
                server.sweep_shared(now);
            }
        }
    }
}

/// The address of a client, as it is told.
pub(crate) fn text_of(peer: SocketAddr) -> Box<str> {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string().into()
}

/// A connection that was used so shortly before the end may carry its next request at this very moment; closed now, that
/// would be lost without a word.
const LULL: Duration = Duration::from_millis(500);

/// The stage in which the head of a request comes.
pub(crate) const HEAD: Stage = Stage::Named("head");

impl Plan {
    fn new(outlook: &Outlook, number: usize, former: Option<&Self>) -> Self {
        let config = Arc::clone(&outlook.config);
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
        let servers: BTreeMap<Arc<str>, Rc<Servers>> = config
            .clusters()
            .into_iter()
            .filter_map(|(name, cluster)| {
                let known = former.and_then(|former| former.servers.get(&name));
                seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                // Each has its share; the first have what is left.
                let most =
                    cluster.connections / config.workers + usize::from(number < cluster.connections % config.workers);
                let found = outlook.found(&name)?;
                let servers = Servers::new(&cluster, found, most, seed, known.map(Rc::as_ref));
                Some((name, Rc::new(servers)))
            })
            .collect();
        let planned = |route: &Arc<Route>| {
            let servers = servers.get(&route.cluster.name)?;
            Some(Rc::new(PlannedRoute {
                route: Arc::clone(route),
                servers: Rc::clone(servers),
                recent: OfRoute::new(),
            }))
        };
        let routes = config.routes.iter().filter_map(planned).collect();
        Self { routes, timeouts: TimeoutHeaders::default(), ids: Ids::default(), servers, config }
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Rc<Servers>> {
        self.servers.values()
    }

    /// The listener at this address, as the configuration has it now.
    pub(crate) fn listener(&self, address: SocketAddr) -> Option<&Listener> {
        self.config.listeners.iter().find(|listener| listener.address == address)
    }
}
