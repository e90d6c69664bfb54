//! Starts the server of a scenario on a thread of its own, and stops it.
//!
//! The thread runs its own runtime, so that a caller that blocks its runtime never blocks the server. Everything the
//! server does is a task of that runtime: when the [`Fault`] is dropped, the runtime is dropped with all its tasks, in
//! whatever wait they are, and its sockets are closed.

use std::{
    fmt,
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{Semaphore, oneshot, watch},
    time::sleep,
};

use crate::{
    backlog, dns,
    filter::{FilterError, Filters},
    http2, netns,
    scenario::{Rule, Scenario, Server},
    script,
    tls::{Identity, TlsError},
    wire::Ended,
};

/// The most connections that are served at once. Further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// The kernel's queue.
const LISTEN_BACKLOG: i32 = 256;

/// The most trouble that is kept.
const MAX_TROUBLE: usize = 16;

/// How long a server may take to be ready: filters and a full queue take some tenths of a second.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A fault that is there, until this is dropped.
#[derive(Debug)]
pub struct Fault {
    addr: SocketAddr,
    url: String,
    dns: Option<SocketAddr>,
    roots_pem: Option<String>,
    log: Arc<Log>,
    armed: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no fault.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The scenario would change the network of the whole machine.
    #[error(
        "{scenario} needs a network namespace of its own: start it in a process that called overdue_lab::netns::enter"
    )]
    NeedsNamespace {
        /// The scenario.
        scenario: String,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A packet filter could not be switched on.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A system call failed.
    #[error("cannot {step}: {source}")]
    Os {
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The server was not ready in time.
    #[error("the server was not ready within {} s: is this machine overloaded?", START_LIMIT.as_secs())]
    NotReady,
}

/// Something that the server ran into and that is no part of its scenario.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Trouble {
    /// The connection, counted from 1 in the order they were accepted; `None` for the server itself.
    pub connection: Option<u64>,
    /// The step of the script, where there was one.
    pub step: Option<&'static str>,
    /// What happened.
    pub what: String,
}

impl Trouble {
    pub(crate) fn of_server(what: String) -> Self {
        Self { connection: None, step: None, what }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(connection) = self.connection {
            write!(f, "connection {connection}, ")?;
        }
        if let Some(step) = self.step {
            write!(f, "step `{step}`: ")?;
        }
        f.write_str(&self.what)
    }
}

/// What the server tells its owner.
#[derive(Debug, Default)]
struct Log {
    accepted: AtomicU64,
    trouble: Mutex<Vec<Trouble>>,
}

/// What every connection of a server shares. It lives on the server's thread alone: when the thread ends, whoever waits
/// for the fault to be armed learns of it.
pub(crate) struct Shared {
    identity: Option<Identity>,
    filters: Option<Filters>,
    armed: watch::Sender<bool>,
    log: Arc<Log>,
}

impl Shared {
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    pub(crate) fn arm(&self) {
        self.armed.send_replace(true);
    }

    pub(crate) async fn filter(&self, rule: Rule) -> Result<(), Ended> {
        match &self.filters {
            Some(filters) => filters.add(rule).await.map_err(|error| Ended::Broken(error.to_string())),
            None => Err(Ended::Broken("a filter outside of a namespace".to_owned())),
        }
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        let mut kept = self.log.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_TROUBLE {
            kept.push(trouble);
        }
    }
}

impl Fault {
    /// Starts the server of a scenario. When this returns the fault is in place, or will be as soon as the caller
    /// comes to the point: see [`armed`](Self::armed).
    ///
    /// # Errors
    /// [`FaultError`], which says what to do.
    pub fn start(scenario: &Scenario) -> Result<Self, FaultError> {
        if scenario.needs.namespace && !netns::entered() {
            return Err(FaultError::NeedsNamespace { scenario: scenario.name.clone() });
        }
        let identity = scenario.tls().map(Identity::new).transpose()?;
        let roots_pem = identity.as_ref().map(|identity| identity.roots_pem.clone());
        let (addr, listening) = Listening::open(&scenario.server).map_err(os("open the server's port"))?;
        let dns = scenario.dns.as_ref().map(dns::bind).transpose().map_err(os("open the DNS server's port"))?;
        let dns_addr = dns.as_ref().map(|sockets| sockets.addr);

        let log = Arc::new(Log::default());
        let (armed_sender, armed) = watch::channel(!scenario.arms_itself());
        let (stop, stopped) = oneshot::channel();
        let (ready_sender, ready) = mpsc::sync_channel(1);
        let task = Task {
            scenario: scenario.clone(),
            addr,
            listening,
            dns,
            shared: Shared { identity, filters: None, armed: armed_sender, log: log.clone() },
        };
        let thread = thread::Builder::new()
            .name(format!("lab {}", scenario.name))
            .spawn(move || task.run(stopped, &ready_sender))
            .map_err(os("start a thread"))?;
        // From here on dropping the fault stops the thread.
        let fault = Self {
            addr,
            url: url(scenario, addr),
            dns: dns_addr,
            roots_pem,
            log,
            armed,
            stop: Some(stop),
            thread: Some(thread),
        };
        ready.recv_timeout(START_LIMIT).map_err(|_| FaultError::NotReady)??;
        Ok(fault)
    }

    /// Where the server listens, or where nobody does.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to call: `scheme://host:port/path`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The DNS server (UDP and TCP) to ask for the URL's host, where the scenario has one.
    #[must_use]
    pub const fn dns(&self) -> Option<SocketAddr> {
        self.dns
    }

    /// The authority that the caller must trust, and no other, where the server does TLS.
    #[must_use]
    pub fn roots_pem(&self) -> Option<&str> {
        self.roots_pem.as_deref()
    }

    /// Waits until the fault is in place, so that the call that is to be judged may begin. For most scenarios that is
    /// so from the start; for others a request before that call has to get somewhere first (a warm connection, a held
    /// stream). The caller bounds the wait. `false` when the server is gone.
    pub async fn armed(&self) -> bool {
        self.armed.clone().wait_for(|armed| *armed).await.is_ok()
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.log.accepted.load(Ordering::Acquire)
    }

    /// What the server ran into that is no part of its scenario. Empty when all went as told; a caller that leaves is
    /// no trouble.
    #[must_use]
    pub fn trouble(&self) -> Vec<Trouble> {
        self.log.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; a drop is no place for a second one.
            drop(thread.join());
        }
    }
}

fn url(scenario: &Scenario, addr: SocketAddr) -> String {
    let host = scenario.call.host.clone().unwrap_or_else(|| addr.ip().to_string());
    format!("{}://{host}:{}{}", scenario.call.scheme.of_url(), addr.port(), scenario.call.path)
}

fn os(step: &'static str) -> impl Fn(io::Error) -> FaultError {
    move |source| FaultError::Os { step, source }
}

/// The server's port.
enum Listening {
    /// Connections are accepted, or may be later.
    Here(Socket),
    /// The port is taken and refuses.
    Refusing(Socket),
    /// There is no port of ours.
    Nowhere,
}

impl Listening {
    fn open(server: &Server) -> io::Result<(SocketAddr, Self)> {
        let (backlog, receive_buffer_bytes) = match server {
            Server::Nowhere { address } => return Ok((*address, Self::Nowhere)),
            Server::Refused => (None, None),
            Server::FullBacklog { .. } => (Some(backlog::BACKLOG), None),
            Server::Script(script) => (Some(LISTEN_BACKLOG), script.receive_buffer_bytes),
            Server::Http2(_) | Server::PortsTaken { .. } => (Some(LISTEN_BACKLOG), None),
        };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(bytes) = receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(match backlog {
            Some(backlog) => {
                socket.listen(backlog)?;
                (addr, Self::Here(socket))
            }
            None => (addr, Self::Refusing(socket)),
        })
    }
}

/// All that the server's thread works with.
struct Task {
    scenario: Scenario,
    addr: SocketAddr,
    listening: Listening,
    dns: Option<dns::Sockets>,
    shared: Shared,
}

type Ready = mpsc::SyncSender<Result<(), FaultError>>;

impl Task {
    fn run(self, stopped: oneshot::Receiver<()>, ready: &Ready) {
        // The receiver is gone only when nobody waits any more.
        let tell = |result| drop(ready.send(result));
        match runtime::Builder::new_current_thread().enable_all().build() {
            Err(source) => tell(Err(FaultError::Os { step: "start a runtime", source })),
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    result = self.serve(|| tell(Ok(()))) => tell(result),
                }
            }),
        }
    }

    /// Puts the fault in place, says so, and serves for as long as it is let. It comes back only with an error.
    async fn serve(mut self, ready: impl Fn()) -> Result<(), FaultError> {
        if self.scenario.filters() {
            let filters = Filters::new(self.addr.port()).await?;
            if let Some(filter) = self.scenario.filter {
                filters.add(filter.at_start).await?;
            }
            self.shared.filters = Some(filters);
        }
        let shared = Arc::new(self.shared);
        if let (Some(sockets), Some(dns)) = (self.dns, self.scenario.dns) {
            tokio::spawn(dns::serve(sockets, dns, shared.clone()));
        }
        let listener = match self.listening {
            Listening::Here(socket) => TcpListener::from_std(socket.into()).map_err(os("listen"))?,
            Listening::Refusing(_keeps_the_port) => {
                ready();
                pending().await
            }
            Listening::Nowhere => {
                ready();
                pending().await
            }
        };
        match self.scenario.server {
            Server::Script(script) => {
                ready();
                let script = Arc::new(script);
                accept_each(&listener, &shared, |tcp, shared| {
                    let script = script.clone();
                    async move { script::run(tcp, &script, &shared).await }
                })
                .await;
            }
            Server::Http2(http2) => {
                ready();
                let http2 = Arc::new(http2);
                accept_each(&listener, &shared, |tcp, shared| {
                    let http2 = http2.clone();
                    async move { http2::serve(tcp, &http2, &shared).await }
                })
                .await;
            }
            Server::FullBacklog { drain_after } => {
                let fillers = backlog::fill_queue(self.addr).await.map_err(os("fill the accept queue"))?;
                ready();
                if let Some(after) = drain_after {
                    sleep(after).await;
                    drop(fillers);
                    accept_each(&listener, &shared, |tcp, _| async move {
                        script::caller_left(&tcp).await.map_err(|error| ("hold", error.into()))
                    })
                    .await;
                } else {
                    let _full = fillers;
                    pending().await
                }
            }
            Server::PortsTaken { ports } => {
                let _taken = backlog::take_ports(self.addr, ports).await.map_err(os("take all local ports"))?;
                ready();
                pending().await
            }
            Server::Refused | Server::Nowhere { .. } => {}
        }
        pending().await
    }
}

/// Accepts connections and serves each as a task of its own. It ends when the listener is broken.
async fn accept_each<F, S>(listener: &TcpListener, shared: &Arc<Shared>, serve: F)
where
    F: Fn(TcpStream, Arc<Shared>) -> S,
    S: Future<Output = Result<(), (&'static str, Ended)>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                return shared.trouble(Trouble::of_server(format!("accept failed, no more callers: {error}")));
            }
        };
        let connection = shared.log.accepted.fetch_add(1, Ordering::AcqRel) + 1;
        // What is sent in two writes travels in two segments.
        if let Err(error) = tcp.set_nodelay(true) {
            shared.trouble(Trouble { connection: Some(connection), step: None, what: error.to_string() });
        }
        let serving = serve(tcp, shared.clone());
        let shared = shared.clone();
        tokio::spawn(async move {
            let note = |step, what| shared.trouble(Trouble { connection: Some(connection), step: Some(step), what });
            match serving.await {
                Ok(()) | Err((_, Ended::CallerLeft)) => {}
                Err((step, Ended::Broken(what))) => note(step, what),
                Err((step, Ended::NoHandshake(what, tcp))) => {
                    note(step, what);
                    drop(tcp);
                }
            }
            drop(slot);
        });
    }
}
