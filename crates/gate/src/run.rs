//! A gateway from its file to its end: signals, reloads, and what the operator asks for.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    future::pending,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    thread,
    time::Duration,
};

use overdue_core::DurationText;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    admin::{self, Command, Desk},
    clock,
    config::Config,
    gate::{Gate, GateError, Order},
    handover::{Handover, Inherited, Named, Predecessor, Program, Role, Successor, notify},
    lookout::Followed,
    tls,
};

/// How long files may take to be read on a reload.
const READING: Duration = Duration::from_secs(10);

/// How long a process that was to take over may hold up the end.
const STOPPING: Duration = Duration::from_secs(3);

/// How long an end at once may take.
const AT_ONCE: Duration = Duration::from_secs(2);
const TOLD_TWICE: &str = "cut: the gateway was told to end at once";

/// Serves what the file says until it is told to stop: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads
/// the file again; SIGUSR2 hands over to a new process. Before it serves, SIGTERM and SIGINT end it at once. What happens is
/// told line by line to `tell`. False when requests were cut.
///
/// # Errors
/// [`GateError`]: it did not start.
pub fn run(path: &Path, tell: fn(&str)) -> Result<bool, GateError> {
    let program = Program::this();
    raise_descriptors();
    let mut inherited = Inherited::take().map_err(GateError::Inherit)?;
    let config = Config::read(path)?;
    config.doubts().iter().for_each(|doubt| tell(&doubt.to_string()));
    let admin = config.admin.clone();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(GateError::Worker)?;
    // Before anybody is told that it serves: a signal that nobody hears ends the process.
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(GateError::Worker)?;
    let local = admin
        .as_ref()
        .map(|admin| admin.address)
        .map(|address| local(&runtime, &mut inherited, address))
        .transpose()?;
    // On a thread of its own: names are looked up, and files may be on a dead mount.
    let (started, starts) = oneshot::channel();
    let start = move || {
        let gate = Gate::start_with(config, &mut inherited, |warning| tell(&warning));
        // Whoever waits may have been told to end.
        let _ = started.send(gate.map(|gate| (gate, inherited)));
    };
    thread::Builder::new().name("overdue-start".to_owned()).spawn(start).map_err(GateError::Worker)?;
    let started = runtime.block_on(async {
        tokio::select! {
            started = starts => Some(started),
            () = signals.end() => None,
        }
    });
    let Some(started) = started else {
        tell("ended before it served: a signal");
        return Ok(true);
    };
    let (gate, mut inherited) = started.map_err(|_| GateError::Worker(io::ErrorKind::BrokenPipe.into()))??;
    for address in inherited.unused() {
        tell(&format!("{address} was handed to this process, and no listener of the configuration is there: closed"));
    }
    for address in gate.addresses() {
        tell(&format!("serving {address}"));
    }
    if let Some(address) = local.as_ref().and_then(|(listener, _)| listener.local_addr().ok()) {
        tell(&format!("operator at http://{address}/"));
    }
    match inherited.from().map(Predecessor::ready) {
        // The process before this one has told who serves from now on.
        Some(Ok(())) => {}
        Some(Err(err)) => {
            gate.drain();
            return Err(GateError::Inherit(format!("from the process before this one: {err}")));
        }
        None => notify(&format!("READY=1\nMAINPID={}\n", std::process::id())),
    }
    runtime.block_on(async {
        for door in gate.doors.values() {
            // Those whose files change, by whoever renews them.
            let certificates = door.certificates.clone();
            drop(tokio::spawn(async move {
                certificates.watch(|reload| tls::told(&reload).iter().for_each(|text| tell(text))).await;
            }));
        }
        let (commands, mut commanded) = mpsc::channel(16);
        let names = admin.map_or_else(Arc::default, |admin| admin.names.into());
        let desk = Desk {
            workers: gate.workers().to_vec(),
            dropped: gate.writer.dropped(),
            lookout: gate.lookout().clone(),
            commands,
            began: clock::now(),
            names,
        };
        let (listener, handle) = local.unzip();
        // Kept without a listener, too, so that it does not look closed.
        let serving = listener.map(|listener| tokio::spawn(admin::serve(listener, desk.clone())));
        let mut handover = None;
        // One that is asked for while a reload is under way.
        let mut handover_asked = false;
        let gate = RefCell::new(gate);
        let mut reloads = Reloads { gate: &gate, path, now: None, next: None };
        let handed = loop {
            tokio::select! {
                _ = signals.hangup.recv() => {
                    if reloads.ask(None) {
                        tell("a reload is under way: one more follows it");
                    }
                }
                _ = signals.term.recv() => break None,
                _ = signals.int.recv() => break None,
                _ = signals.usr2.recv() => match handover {
                    Some(_) => tell("a hand-over is under way: no other is begun"),
                    None if reloads.is_under_way() => {
                        handover_asked = true;
                        tell("a reload is under way: the hand-over begins when it is done");
                    }
                    None => handover = begin(&gate.borrow(), handle.as_ref(), program.as_ref(), tell),
                },
                successor = next(&mut handover) => {
                    handover = None;
                    let taken = successor.and_then(|successor| {
                        let pid = successor.pid();
                        // By whom systemd still believes: the next one may only speak once it is the main process.
                        notify(&format!("MAINPID={pid}\n"));
                        successor.go().inspect_err(|_| notify(&format!("MAINPID={}\n", std::process::id())))?;
                        Ok(pid)
                    });
                    match taken {
                        Ok(pid) => break Some(pid),
                        Err(why) => tell(&format!("not handed over, everything goes on as before: {why}")),
                    }
                }
                told = reloads.done() => {
                    tell(&told);
                    // Before the next one: reloads may be asked for again and again.
                    if std::mem::take(&mut handover_asked) {
                        handover = begin(&gate.borrow(), handle.as_ref(), program.as_ref(), tell);
                    }
                    reloads.go_on();
                }
                command = commanded.recv() => match command {
                    Some(Command::Config(answer)) => drop(answer.send(Arc::clone(gate.borrow().config()))),
                    Some(Command::Reload(answer)) => {
                        if reloads.ask(Some(answer)) {
                            tell("a reload is under way: one more follows it");
                        }
                    }
                    Some(Command::Drain(answer)) => {
                        let _ = answer.send(());
                        break None;
                    }
                    None => break None,
                },
            }
        };
        if let Some(told) = reloads.give_up() {
            tell(told);
        }
        let gate = gate.into_inner();
        // Whoever asks from now on is told that it is ending.
        drop(commanded);
        match handed {
            Some(pid) => {
                // Its operator asks the next one.
                serving.iter().for_each(JoinHandle::abort);
                tell(&format!("process {pid} has taken over; draining: a signal ends this one at once"));
            }
            None => {
                // One that is being started has nobody to take over from.
                handover.iter().for_each(Handover::stop);
                notify("STOPPING=1\n");
                tell("draining: no more connections are taken; again to end at once");
            }
        }
        // A thread of its own, for which nobody has to wait: one of the runtime's would hold up its end.
        let (drains, mut drained) = oneshot::channel();
        let workers = gate.workers().to_vec();
        let drain = move || {
            // Whoever waits may have been told to end at once.
            let _ = drains.send(gate.drain());
        };
        thread::Builder::new().name("overdue-drain".to_owned()).spawn(drain).map_err(GateError::Worker)?;
        let own = handed.map_or(String::new(), |_| format!("process {}: ", std::process::id()));
        let ended = tokio::select! {
            whole = &mut drained => (whole.unwrap_or(false), "the limit for draining passed"),
            () = signals.end() => {
                for worker in &workers {
                    let _ = worker.send(Order::Cut(TOLD_TWICE));
                }
                (timeout(AT_ONCE, drained).await.is_ok_and(|whole| whole.unwrap_or(false)), "told to end at once")
            }
        };
        let (whole, why) = ended;
        match whole {
            true => tell(&format!("{own}every request was served")),
            false => tell(&format!("{own}{why}: requests were cut")),
        }
        if let Some(handover) = &mut handover {
            // Its end is nobody's but ours to see to.
            let _ = timeout(STOPPING, handover.serves()).await;
        }
        Ok(whole)
    })
}

/// As many descriptors as this process may have: what is usual for a soft limit is a few hundred clients.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be had is done without.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// What the process is told by its operator's shell, or by its supervisor.
struct Signals {
    hangup: Signal,
    term: Signal,
    int: Signal,
    usr2: Signal,
}

impl Signals {
    /// Inside of a runtime.
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// It is to end. Cancel safe.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// The operator's listener, and a handle to it.
fn local(runtime: &Runtime, inherited: &mut Inherited, address: SocketAddr) -> Result<(TcpListener, Named), GateError> {
    let mut open = || -> io::Result<_> {
        let socket = match inherited.of(Role::Admin, address).pop() {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                let _inside = runtime.enter();
                TcpListener::from_std(socket)?
            }
            None => runtime.block_on(TcpListener::bind(address))?,
        };
        let handle = Named::handle(Role::Admin, address, &socket)?;
        Ok((socket, handle))
    };
    open().map_err(|source| GateError::Listen { address, source })
}

/// Starts a process that is to take over; `None`, and told, when that cannot be.
fn begin(
    gate: &Gate,
    admin: Option<&Named>,
    program: Result<&Program, &io::Error>,
    tell: fn(&str),
) -> Option<Handover> {
    let begun = || -> Result<_, String> {
        let program = program.map_err(|err| format!("where this program lies was not known at its start: {err}"))?;
        let sockets = || {
            let mut sockets = gate.sockets()?;
            sockets.extend(admin.map(Named::again).transpose()?);
            Handover::begin(program.clone(), sockets)
        };
        let handover = sockets().map_err(|err| err.to_string())?;
        tell(&format!("starting {} anew, to take over", program.path().display()));
        Ok(handover)
    };
    begun().inspect_err(|why| tell(&format!("not handed over, everything goes on as before: {why}"))).ok()
}

/// The process that was started, when it serves; never where none was.
async fn next(handover: &mut Option<Handover>) -> Result<Successor, String> {
    match handover {
        Some(handover) => handover.serves().await,
        None => pending().await,
    }
}

/// What a reload came to, for a reader.
type Outcome = Result<String, String>;

/// The reload that is under way, and the one that comes after it, however often it is asked for.
struct Reloads<'g> {
    gate: &'g RefCell<Gate>,
    path: &'g Path,
    now: Option<Reload<'g>>,
    next: Option<Vec<oneshot::Sender<Outcome>>>,
}

struct Reload<'g> {
    work: Pin<Box<dyn Future<Output = Outcome> + 'g>>,
    /// What was followed when it began.
    former: Arc<Config>,
    /// Who waits for what it comes to.
    asked: Vec<oneshot::Sender<Outcome>>,
}

impl Reloads<'_> {
    const fn is_under_way(&self) -> bool {
        self.now.is_some()
    }

    /// Begins a reload. True when one is under way, which may have read the file before it was changed: another follows it.
    fn ask(&mut self, answer: Option<oneshot::Sender<Outcome>>) -> bool {
        if self.is_under_way() {
            self.next.get_or_insert_default().extend(answer);
            return true;
        }
        self.begin(answer.into_iter().collect());
        false
    }

    fn begin(&mut self, asked: Vec<oneshot::Sender<Outcome>>) {
        let former = Arc::clone(self.gate.borrow().config());
        self.now = Some(Reload { work: Box::pin(reload(self.gate, self.path)), former, asked });
    }

    /// Text for what the one that is under way came to; never where none is. The next one is for [`Self::go_on`]. Cancel safe.
    async fn done(&mut self) -> String {
        let Some(reload) = &mut self.now else { return pending().await };
        let outcome = reload.work.as_mut().await;
        let asked = self.now.take().map(|reload| reload.asked).unwrap_or_default();
        for answer in asked {
            // Whoever asked may be gone.
            let _ = answer.send(outcome.clone());
        }
        let (Ok(text) | Err(text)) = outcome;
        text
    }

    /// After one that is done: begins the next, if it was asked for.
    fn go_on(&mut self) {
        if let Some(asked) = self.next.take() {
            self.begin(asked);
        }
    }

    /// Ends the one that is under way, and leaves the next out. Text for what became of it, where there was one.
    fn give_up(self) -> Option<&'static str> {
        let Reload { work, former, asked } = self.now?;
        drop(work);
        let told = if Arc::ptr_eq(&former, self.gate.borrow().config()) {
            "the reload was given up, and nothing changed"
        } else {
            "reloaded, but for certificates, which were not waited for"
        };
        for answer in asked.into_iter().chain(self.next.into_iter().flatten()) {
            let _ = answer.send(Err(told.to_owned()));
        }
        Some(told)
    }
}

/// Follows the file as it is now, or says why not. Dropped before the workers follow it, it has changed nothing.
async fn reload(gate: &RefCell<Gate>, path: &Path) -> Outcome {
    let refused = |why: &dyn fmt::Display| format!("not reloaded, everything goes on as before: {why}");
    let path = path.to_owned();
    let config = aside(move || Config::read(&path)).await.map_err(|why| refused(&why))?;
    let config = config.map_err(|err| refused(&err))?;
    match gate.borrow().needs_start(&config).as_slice() {
        [] => {}
        parts => {
            let parts = parts.join(", ");
            return Err(refused(&format!(
                "{parts} can only be changed by a new start; SIGUSR2 makes one without a pause"
            )));
        }
    }
    let (lookout, former) = (gate.borrow().lookout().clone(), Arc::clone(gate.borrow().config()));
    let (config, (done, waits)) = (Arc::new(config), oneshot::channel());
    let followed = lookout.follow(Arc::clone(&config), move |_| {
        // Somebody waits.
        let _ = done.send(());
    });
    let following = Following { gate, config: Arc::clone(&config), followed };
    // The limit is that of the lookups of names that are new.
    let followed = waits.await;
    drop(following);
    followed.map_err(|_| refused(&"the thread that looks names up has ended"))?;
    let certificates: Vec<_> = gate.borrow().doors.values().map(|door| door.certificates.clone()).collect();
    let told = aside(move || certificates.iter().filter_map(|own| tls::told(&own.reload())).collect::<Vec<_>>()).await;
    let mut told = told.unwrap_or_else(|why| vec![format!("the certificates stay as they are: {why}")]);
    told.extend(lookout.warnings());
    // What was there before was told before, wherever it stood.
    let known: BTreeSet<String> = former.doubts().into_iter().map(|doubt| doubt.text).collect();
    let doubts = config.doubts().into_iter().filter(|doubt| !known.contains(&doubt.text));
    told.extend(doubts.chain(lookout.circles(&config)).map(|doubt| doubt.to_string()));
    Ok(told.into_iter().fold("reloaded".to_owned(), |all, told| format!("{all}; {told}")))
}

/// A configuration that the workers follow, or do not: whenever it ends, the gateway knows which.
struct Following<'g> {
    gate: &'g RefCell<Gate>,
    config: Arc<Config>,
    followed: Followed,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        if !self.followed.give_up() {
            self.gate.borrow_mut().follows(Arc::clone(&self.config));
        }
    }
}

/// What reads files, on a thread for which nobody waits longer than that: a file on a dead mount must not keep the
/// gateway from hearing that it is to end.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let run = move || {
        // Whoever waits may have given up.
        let _ = done.send(work());
    };
    let started = thread::Builder::new().name("overdue-reload".to_owned()).spawn(run);
    started.map_err(|err| format!("no thread can be started: {err}"))?;
    match timeout(READING, result).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err("reading it broke".to_owned()),
        Err(_) => Err(format!("it could not be read within {}", DurationText(READING))),
    }
}

/// Writes a line to standard error, whoever reads it.
pub fn tell_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
