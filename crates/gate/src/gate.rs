//! The whole: workers, their listeners, and what they are told.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    rc::Rc,
    sync::{Arc, mpsc as blocking},
    task::Poll,
    thread,
    time::Duration,
};

use bytes::Bytes;
use overdue::server::{Accepted, Connections, ListenOptions, Listener};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::{JoinSet, LocalSet, coop::unconstrained, yield_now},
};

use crate::{
    arrive::arrive,
    clock,
    config::{Config, ConfigError, Doubt, To},
    handover::{Inherited, Named, Role},
    http1,
    log::{Lines, Writer},
    lookout::{Lookout, Outlook},
    notices::Doorstep,
    tls::{self, Door, Doors},
    worker::Worker,
};

/// A gateway that runs.
pub struct Gate {
    config: Arc<Config>,
    workers: Vec<mpsc::UnboundedSender<Order>>,
    /// One message a worker that has ended: whether all of its requests were served.
    ended: blocking::Receiver<bool>,
    written: blocking::Receiver<()>,
    addresses: Vec<SocketAddr>,
    lookout: Lookout,
    /// Handles to the sockets that its workers accept from, for a process that takes over.
    held: Vec<Named>,
    pub(crate) doors: Doors,
    pub(crate) writer: Writer,
}

/// What a worker is told.
pub(crate) enum Order {
    /// Follow another configuration, or the same with servers elsewhere.
    Follow(Arc<Outlook>),
    /// Take no more connections, and end those that there are when they are done.
    Drain,
    /// End now. What is in flight is cut, for this reason, and told.
    Cut(&'static str),
    /// Look at what is there.
    Look(Box<dyn FnOnce(&Worker) + Send>),
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("{place}cannot write the log{}: {source}", log_file(to))]
    Log {
        /// The file and line that name it, and a colon; empty for standard output.
        place: String,
        /// Where it was to go.
        to: To,
        /// Why.
        source: io::Error,
    },
    /// What was handed to this process cannot be taken.
    #[error("cannot take over: {0}")]
    Inherit(String),
    /// A thread or a runtime cannot be started.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

impl GateError {
    /// The log of this configuration cannot be written.
    pub(crate) fn log(config: &Config, source: io::Error) -> Self {
        let place = match config.log_line {
            0 => String::new(),
            line => format!("{}:{line}: ", config.path),
        };
        Self::Log { place, to: config.log.to.clone(), source }
    }
}

fn hint(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::AddrInUse => "; see who has it: ss -ltnp",
        io::ErrorKind::PermissionDenied => "; ports below 1024 take CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

fn log_file(to: &To) -> String {
    match to {
        To::File(path) => format!(" {}", path.display()),
        To::Stdout | To::Off => String::new(),
    }
}

/// An error where somebody listens. Workers share an address, and so could two gateways that know nothing of each other:
/// each would get some of the connections, and nobody would be told.
fn is_free(address: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What is left of connections that are over is no hindrance.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Connections that wait to be accepted, of one listener of one worker.
const BACKLOG: u32 = 4096;
/// No more are taken of those who wait in a listener at the end: another process may have it, and more may come.
const LAST_MAX: u32 = BACKLOG;
/// From one look at what has to be done now and then to the next.
const TICK: Duration = Duration::from_millis(100);
/// How long workers may take to cut what is in flight.
const CUTTING: Duration = Duration::from_secs(1);
/// How long requests that are cut may take to say so.
const LAST_WORDS: Duration = Duration::from_millis(200);
const DRAINED: &str = "cut: the gateway was to end, and the limit for draining passed";

impl Gate {
    /// Starts to listen and to serve.
    ///
    /// # Errors
    /// [`GateError`]; nothing is left behind then.
    pub fn start(config: Config) -> Result<Self, GateError> {
        Self::start_with(config, &mut Inherited::default(), |_| {})
    }

    /// The same with listening sockets that are there already; what is doubtful about certificates is told.
    pub(crate) fn start_with(
        config: Config,
        inherited: &mut Inherited,
        mut warn: impl FnMut(String),
    ) -> Result<Self, GateError> {
        let config = Arc::new(config);
        let doors = tls::doors(&config, &mut warn)?;
        let (writer, written) = Writer::start(&config.log.to).map_err(|source| GateError::log(&config, source))?;
        let mut runtimes = Runtimes(Vec::new());
        for _ in 0..config.workers {
            runtimes.0.push(Builder::new_current_thread().enable_all().build().map_err(GateError::Worker)?);
        }
        // All are bound before anybody serves: a gateway that serves half of what it should is none.
        let Sockets { addresses, held, bound } = Sockets::open(&config, &doors, inherited, &runtimes.0)?;
        let lookout = Lookout::start(writer.clone())?;
        let outlook = followed(&lookout, &config).ok_or_else(|| GateError::Worker(io::ErrorKind::BrokenPipe.into()))?;
        let circles = lookout.circles(&config);
        lookout.warnings().into_iter().chain(circles.iter().map(Doubt::to_string)).for_each(warn);
        let began = clock::now();
        let (ends, ended) = blocking::channel();
        let mut workers = Vec::new();
        for (number, (runtime, sockets)) in std::mem::take(&mut runtimes.0).into_iter().zip(bound).enumerate() {
            let (orders, receiver) = mpsc::unbounded_channel();
            let (outlook, config) = (Arc::clone(&outlook), Arc::clone(&config));
            let (writer, ends) = (writer.clone(), ends.clone());
            let work = move || {
                let lines = Lines::new(&config.log, config.workers, writer);
                let worker = Worker::new(number, outlook, lines, began);
                // What is in flight then ends with it, before that is told.
                let whole = LocalSet::new().block_on(&runtime, serve(worker, sockets, receiver));
                // Whoever waits may be gone.
                let _ = ends.send(whole);
            };
            let thread = thread::Builder::new().name(format!("overdue-gate-{number}"));
            thread.spawn(work).map_err(GateError::Worker)?;
            workers.push(orders);
        }
        lookout.tell(workers.clone(), outlook);
        Ok(Self { config, workers, ended, written, addresses, lookout, held, doors, writer })
    }

    /// Where it listens, in the order of the configuration: with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it follows.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Follows another configuration from now on, once names of servers that are new have been looked up, which has its
    /// limit. Requests in flight go on as they began. What needs a new start (listeners, workers, the admin address, the
    /// log) is left as it is, and named.
    pub fn follow(&mut self, config: Config) -> Vec<&'static str> {
        let needs_start = self.needs_start(&config);
        if needs_start.is_empty() {
            let config = Arc::new(config);
            if followed(&self.lookout, &config).is_some() {
                self.follows(config);
            }
        }
        needs_start
    }

    /// The configuration that the lookout has the workers follow.
    pub(crate) fn follows(&mut self, config: Arc<Config>) {
        self.config = config;
        self.writer.reopen();
    }

    /// What differs, and can only be changed by a new start.
    pub(crate) fn needs_start(&self, config: &Config) -> Vec<&'static str> {
        let mut needs_start = Vec::new();
        let addresses = |config: &Config| config.listeners.iter().map(|listener| listener.address).collect::<Vec<_>>();
        let most = |config: &Config| config.listeners.iter().map(|listener| listener.connections).collect::<Vec<_>>();
        let tls_differs =
            config.listeners.iter().zip(&self.config.listeners).any(|(one, other)| match (&one.tls, &other.tls) {
                (Some(one), Some(other)) => !one.is_like(other),
                (one, other) => one.is_some() || other.is_some(),
            });
        for (what, differs) in [
            ("the addresses of listeners", addresses(config) != addresses(&self.config)),
            ("tls of listeners", tls_differs),
            ("connections of listeners", most(config) != most(&self.config)),
            ("workers", config.workers != self.config.workers),
            ("admin", config.admin != self.config.admin),
            ("log", config.log != self.config.log),
        ] {
            if differs {
                needs_start.push(what);
            }
        }
        needs_start
    }

    pub(crate) const fn lookout(&self) -> &Lookout {
        &self.lookout
    }

    pub(crate) fn workers(&self) -> &[mpsc::UnboundedSender<Order>] {
        &self.workers
    }

    /// Handles to all that clients connect to.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn sockets(&self) -> io::Result<Vec<Named>> {
        self.held.iter().map(Named::again).collect()
    }

    /// Takes no more connections, waits for the requests in flight for as long as the configuration says, and ends. False
    /// when some were cut.
    pub fn drain(mut self) -> bool {
        // The last handles are those of the workers, who know when nobody waits in them any more.
        self.held.clear();
        let (mut running, mut whole) = (self.workers.len(), true);
        let orders: [(fn() -> Order, Duration); 2] =
            [(|| Order::Drain, self.config.drain.value), (|| Order::Cut(DRAINED), CUTTING)];
        for (order, within) in orders {
            let began = clock::now();
            for worker in &self.workers {
                let _ = worker.send(order());
            }
            while running > 0
                && let Ok(served) =
                    self.ended.recv_timeout(within.saturating_sub(clock::now().saturating_duration_since(began)))
            {
                running -= 1;
                whole &= served;
            }
        }
        whole &= running == 0;
        let Self { workers, writer, written, lookout, .. } = self;
        // Its operator may still look at what it knew.
        lookout.end();
        drop((workers, writer, lookout));
        // The last lines; a reader that takes none holds up the end no longer than that.
        let _ = written.recv_timeout(Duration::from_secs(1));
        whole
    }
}

/// What was found once the lookout follows this; `None` when its thread has ended.
fn followed(lookout: &Lookout, config: &Arc<Config>) -> Option<Arc<Outlook>> {
    let (done, outlook) = blocking::channel();
    let tell = move |outlook: &Arc<Outlook>| {
        // Somebody waits.
        let _ = done.send(Arc::clone(outlook));
    };
    let _followed = lookout.follow(Arc::clone(config), tell);
    // The limit is that of the lookups.
    outlook.recv().ok()
}

/// Those of workers that do not run yet. Whoever starts a gateway may be in a runtime, in which no other can be dropped
/// in the usual way.
struct Runtimes(Vec<Runtime>);

impl Drop for Runtimes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Runtime::shutdown_background);
    }
}

/// What a gateway listens with.
struct Sockets {
    addresses: Vec<SocketAddr>,
    held: Vec<Named>,
    /// By worker.
    bound: Vec<Vec<Bound>>,
}

impl Sockets {
    /// Opens a socket for each listener and worker, or takes those that are there.
    fn open(
        config: &Config,
        doors: &Doors,
        inherited: &mut Inherited,
        runtimes: &[Runtime],
    ) -> Result<Self, GateError> {
        let mut addresses = Vec::new();
        let mut bound = Vec::new();
        let limits: Vec<Connections> =
            config.listeners.iter().map(|listener| Connections::new(Some(listener.connections), None)).collect();
        let given: Vec<Vec<TcpListener>> =
            config.listeners.iter().map(|listener| inherited.of(Role::Listener, listener.address)).collect();
        let mut held = Vec::new();
        for (number, runtime) in runtimes.iter().enumerate() {
            let _inside = runtime.enter();
            let mut own = Vec::new();
            for (place, ((listener, connections), given)) in
                config.listeners.iter().zip(&limits).zip(&given).enumerate()
            {
                // Port 0 is any, and the same for every worker.
                let address = addresses.get(place).copied().unwrap_or(listener.address);
                let failed = |source| GateError::Listen { address, source };
                let doorstep = Doorstep::default();
                let told = doorstep.clone();
                let options = ListenOptions::new()
                    .backlog(BACKLOG)
                    .reuse_port(config.workers > 1)
                    .only_v6(true)
                    .connections(connections.clone())
                    .on_event(move |event| told.happens(event))
                    .refusal(|_| Bytes::from_static(FULL));
                let sockets = if given.is_empty() {
                    if number == 0 {
                        is_free(address).map_err(failed)?;
                    }
                    let socket = options.bind(address).map_err(failed)?;
                    held.push(Named::handle(Role::Listener, listener.address, &socket).map_err(failed)?);
                    vec![socket]
                } else {
                    let share = share(given, number, config.workers)
                        .map(|socket| options.clone().from_std(socket.try_clone()?));
                    share.collect::<io::Result<_>>().map_err(failed)?
                };
                let door = doors.get(&listener.address);
                for socket in sockets {
                    if addresses.len() == place {
                        addresses.push(socket.local_addr().map_err(failed)?);
                    }
                    own.push(Bound { name: listener.address, socket, door: door.cloned(), doorstep: doorstep.clone() });
                }
            }
            bound.push(own);
        }
        for (listener, given) in config.listeners.iter().zip(given) {
            for socket in given {
                let failed = |source| GateError::Listen { address: listener.address, source };
                held.push(Named::handle(Role::Listener, listener.address, socket).map_err(failed)?);
            }
        }
        Ok(Self { addresses, held, bound })
    }
}

/// A socket that one worker accepts from.
struct Bound {
    /// The address in the configuration.
    name: SocketAddr,
    socket: Listener,
    door: Option<Door>,
    doorstep: Doorstep,
}

/// What a client gets that is one too many.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// One worker, until it is drained. False when requests are cut.
async fn serve(worker: Rc<Worker>, sockets: Vec<Bound>, mut orders: mpsc::UnboundedReceiver<Order>) -> bool {
    let mut accepting = JoinSet::new();
    for Bound { name, socket, door, doorstep } in sockets {
        worker.listening.borrow_mut().push((name, socket.stats()));
        worker.doorsteps.borrow_mut().push((name, doorstep));
        drop(accepting.spawn_local(accept(Rc::clone(&worker), name, socket, door)));
    }
    let ticking = tokio::task::spawn_local(tick(Rc::clone(&worker)));
    let mut cut = None;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Follow(outlook) => worker.follow(&outlook),
            Order::Look(look) => look(&worker),
            Order::Cut(why) => {
                cut = Some(why);
                break;
            }
            Order::Drain => break,
        }
    }
    worker.drain();
    // They end by themselves once they have taken those who wait already.
    while accepting.join_next().await.is_some() {}
    while cut.is_none() && worker.open() > 0 {
        // Somebody may still look at what is left.
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Look(look)) => look(&worker),
                Some(Order::Cut(why)) => cut = Some(why),
                Some(_) => {}
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    ticking.abort();
    let mut whole = true;
    if let Some(why) = cut {
        whole = !worker.cut(why);
        let began = clock::now();
        while worker.is_serving() && clock::now().saturating_duration_since(began) < LAST_WORDS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        worker.tell_cut(why);
    }
    worker.tell_counted();
    worker.lines.borrow_mut().tick();
    whole
}

async fn accept(worker: Rc<Worker>, address: SocketAddr, mut listener: Listener, door: Option<Door>) {
    let mut last = LAST_MAX;
    loop {
        let accepted = match worker.until_draining(listener.accept()).await {
            Some(accepted) => accepted,
            // Those who wait are connected, and have not been told to go elsewhere.
            None if last > 0 => {
                last -= 1;
                match waiting(&mut listener).await {
                    Some(accepted) => accepted,
                    None => return,
                }
            }
            None => return,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(err) => return worker.lost(address, &err),
        };
        let worker = Rc::clone(&worker);
        let opened = worker.opened();
        match &door {
            None => tokio::task::spawn_local(async move {
                let _opened = opened;
                let _permit = accepted.permit;
                if let Some(arrival) = arrive(&worker, &accepted.stream, accepted.peer, address).await {
                    http1::serve(accepted.stream, arrival, worker).await;
                }
            }),
            Some(door) => {
                let door = door.clone();
                tokio::task::spawn_local(async move {
                    let _opened = opened;
                    let _permit = accepted.permit;
                    if let Some(arrival) = arrive(&worker, &accepted.stream, accepted.peer, address).await {
                        http1::serve_tls(accepted.stream, arrival, worker, &door).await;
                    }
                })
            }
        };
    }
}

/// The next connection, if one waits already.
async fn waiting(listener: &mut Listener) -> Option<io::Result<Accepted>> {
    // Until the runtime has asked the kernel, it does not know of those who came meanwhile.
    yield_now().await;
    let mut accepting = pin!(unconstrained(listener.accept()));
    poll_fn(|cx| {
        Poll::Ready(match accepting.as_mut().poll(cx) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        })
    })
    .await
}

/// The sockets of one worker. Connections wait in each, so each is somebody's; where there are fewer than workers, some
/// are shared: one of this process's own would lose what waits in it if the process did not become the one that serves.
fn share(given: &[TcpListener], number: usize, workers: usize) -> impl Iterator<Item = &TcpListener> {
    let own = given.iter().skip(number).step_by(workers);
    let shared = given.get(number % given.len().max(1)).filter(|_| number >= given.len());
    own.chain(shared)
}

async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        ticks.tick().await;
        worker.lines.borrow_mut().tick();
        count = count.wrapping_add(1);
        if count.is_multiple_of(10) {
            worker.tick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_cannot_listen_says_so_wherever_it_is_started() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "[log]\noff = true\n[[listener]]\nlisten = \"{}\"\n[cluster.a]\nservers = [\"127.0.0.1:1\"]\n[[route]]\n\
             cluster = \"a\"\n",
            taken.local_addr().unwrap()
        );
        let failed = Gate::start(Config::parse(&text, "gate.toml").unwrap()).err().unwrap();
        assert!(failed.to_string().contains("see who has it: ss -ltnp"), "{failed}");
    }

    /// As long as names are looked up nothing has changed, and it can be given up; then it cannot, and that is known.
    #[test]
    fn a_configuration_is_followed_whole_or_not_at_all() {
        const PATIENCE: Duration = Duration::from_secs(20);
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        let with = |server: &str, more: &str| {
            let text = format!(
                "workers = 1\n[log]\noff = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[cluster.a]\nservers = [{server:?}]\n\
                 {more}\n[[route]]\ncluster = \"a\"\n[dns]\nservers = [\"{}\"]\nlimit = \"10m\"\n",
                silent.local_addr().unwrap()
            );
            Arc::new(Config::parse(&text, "gate.toml").unwrap())
        };
        let gate = Gate::start(Config::clone(&with("127.0.0.1:1", ""))).unwrap();
        let (orders, mut told) = mpsc::unbounded_channel();
        gate.lookout().tell(vec![orders], Arc::new(Outlook::blank(Arc::clone(gate.config()))));
        let follow = |config: &Arc<Config>| {
            let (done, outlook) = blocking::channel();
            let followed =
                gate.lookout().follow(Arc::clone(config), move |outlook| done.send(Arc::clone(outlook)).unwrap());
            (followed, outlook)
        };
        assert!(matches!(told.blocking_recv(), Some(Order::Follow(_))), "what differs is told at once");

        let (mut followed, outlook) = follow(&with("new.test:80", ""));
        silent.recv(&mut [0; 512]).unwrap();
        assert!(followed.give_up());
        assert!(outlook.recv_timeout(PATIENCE).is_err());
        // Nor does anything of it come later.
        let next = with("127.0.0.1:2", "");
        let (mut followed, outlook) = follow(&next);
        assert!(Arc::ptr_eq(&outlook.recv_timeout(PATIENCE).unwrap().config, &next));
        assert!(!followed.give_up());
        let Some(Order::Follow(outlook)) = told.blocking_recv() else { panic!("workers are told") };
        assert!(Arc::ptr_eq(&outlook.config, &next) && gate.lookout().names().is_empty());
        assert!(gate.drain());
    }

    /// Who still looks at what is known of servers does not hold up the end of the log.
    #[test]
    fn the_log_ends_with_the_last_worker() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "workers = 1\n[log]\nfile = {:?}\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[cluster.a]\n\
             servers = [\"127.0.0.1:1\"]\n[[route]]\ncluster = \"a\"\n",
            folder.path().join("log")
        );
        let mut gate = Gate::start(Config::parse(&text, "gate.toml").unwrap()).unwrap();
        let looks = gate.lookout().clone();
        let (_, never) = blocking::channel();
        let written = std::mem::replace(&mut gate.written, never);
        assert!(gate.drain());
        written.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(looks.names().is_empty());
    }

    /// Where something stands in a file is no matter of how clients are served.
    #[test]
    fn a_line_that_moves_needs_no_new_start() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let with = |first: &str, limit: &str| {
            let text = format!(
                "{first}\nworkers = 1\n[log]\noff = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[listener.tls]\nlimit = {limit:?}\n\
                 certificates = [{{ chain = {chain:?}, key = {key:?} }}]\n[cluster.a]\nservers = [\"127.0.0.1:1\"]\n\
                 [[route]]\ncluster = \"a\"\n"
            );
            Config::parse(&text, "gate.toml").unwrap()
        };
        let mut gate = Gate::start(with("", "9s")).unwrap();
        assert_eq!(gate.follow(with("# one line more\n", "9s")), <[&str; 0]>::default());
        assert_eq!(gate.follow(with("", "8s")), ["tls of listeners"]);
        assert!(gate.drain());
    }

    /// A listener whose socket was shut down says so once, and is not asked for ever.
    #[test]
    fn a_listener_that_is_of_no_more_use_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let text = format!(
            "[log]\nfile = {log:?}\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[cluster.a]\nservers = [\"127.0.0.1:1\"]\n\
             [[route]]\ncluster = \"a\"\n"
        );
        let config = Arc::new(Config::parse(&text, "gate.toml").unwrap());
        let (writer, written) = Writer::start(&config.log.to).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let worker = Worker::new(
                0,
                Arc::new(Outlook::blank(Arc::clone(&config))),
                Lines::new(&config.log, 1, writer),
                clock::now(),
            );
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let listener = ListenOptions::new().from_std(socket.try_clone().unwrap()).unwrap();
            socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).unwrap();
            accept(worker, address, listener, None).await;
        });
        written.recv_timeout(Duration::from_secs(20)).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&std::fs::read(log).unwrap()).unwrap();
        assert_eq!((&line["notice"], &line["schema"]), (&"listener-lost".into(), &"overdue.notice/1".into()));
        assert!(line["text"].as_str().unwrap().contains("only a new start mends that"), "{line:#}");
    }
}
