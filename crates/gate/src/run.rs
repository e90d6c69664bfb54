//! A gateway from its file to its end: signals, reloads, and what the operator asks for.

use std::{
    fmt,
    future::pending,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
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
    gate::{Gate, GateError},
    handover::{Handover, Inherited, Named, Predecessor, Program, Role, Successor, notify},
    tls,
};

/// How long files may take to be read on a reload.
const READING: Duration = Duration::from_secs(10);

/// How long a process that was to take over may hold up the end.
const STOPPING: Duration = Duration::from_secs(3);

/// Serves what the file says until it is told to stop: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads
/// the file again; SIGUSR2 hands over to a new process. What happens is told line by line to `tell`. False when requests
/// were cut.
///
/// # Errors
/// [`GateError`]: it did not start.
pub fn run(path: &Path, tell: fn(&str)) -> Result<bool, GateError> {
    let program = Program::this();
    raise_descriptors();
    let mut inherited = Inherited::take().map_err(GateError::Inherit)?;
    let config = Config::read(path)?;
    for (route, verdicts) in config.conflicts() {
        for verdict in verdicts {
            tell(&format!("route {route:?}: {}: {}", verdict.cause, verdict.summary));
        }
    }
    let admin = config.admin.clone();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(GateError::Worker)?;
    // Before anybody is told that it serves: a signal that nobody hears ends the process.
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(GateError::Worker)?;
    let local = admin
        .as_ref()
        .map(|admin| admin.address)
        .map(|address| local(&runtime, &mut inherited, address))
        .transpose()?;
    let mut gate = Gate::start_with(config, &mut inherited, |warning| tell(&warning))?;
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
        let handed = loop {
            tokio::select! {
                _ = signals.hangup.recv() => match reload(&mut gate, path).await {
                    Ok(text) | Err(text) => tell(&text),
                },
                _ = signals.term.recv() => break None,
                _ = signals.int.recv() => break None,
                _ = signals.usr2.recv() => match handover {
                    Some(_) => tell("a hand-over is under way: no other is begun"),
                    None => handover = begin(&gate, handle.as_ref(), program.as_ref(), tell),
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
                command = commanded.recv() => match command {
                    Some(Command::Config(answer)) => drop(answer.send(Arc::clone(gate.config()))),
                    Some(Command::Reload(answer)) => {
                        let outcome = reload(&mut gate, path).await;
                        match &outcome {
                            Ok(text) | Err(text) => tell(text),
                        }
                        // Whoever asked may be gone.
                        let _ = answer.send(outcome);
                    }
                    Some(Command::Drain(answer)) => {
                        let _ = answer.send(());
                        break None;
                    }
                    None => break None,
                },
            }
        };
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
        let (drains, drained) = oneshot::channel();
        let drain = move || {
            // Whoever waits may have been told to end at once.
            let _ = drains.send(gate.drain());
        };
        thread::Builder::new().name("overdue-drain".to_owned()).spawn(drain).map_err(GateError::Worker)?;
        let own = handed.map_or(String::new(), |_| format!("process {}: ", std::process::id()));
        let ended = tokio::select! {
            whole = drained => {
                let whole = whole.unwrap_or(false);
                let how = if whole { "every request was served" } else { "the limit for draining passed: requests were cut" };
                tell(&format!("{own}{how}"));
                Ok(whole)
            }
            _ = signals.term.recv() => Ok(false),
            _ = signals.int.recv() => Ok(false),
        };
        if let Some(handover) = &mut handover {
            // Its end is nobody's but ours to see to.
            let _ = timeout(STOPPING, handover.serves()).await;
        }
        ended
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

/// Follows the file as it is now, or says why not.
async fn reload(gate: &mut Gate, path: &Path) -> Result<String, String> {
    let refused = |why: &dyn fmt::Display| format!("not reloaded, everything goes on as before: {why}");
    let path = path.to_owned();
    let config = aside(move || Config::read(&path)).await.map_err(|why| refused(&why))?;
    let config = config.map_err(|err| refused(&err))?;
    match gate.needs_start(&config).as_slice() {
        [] => {}
        parts => {
            let parts = parts.join(", ");
            return Err(refused(&format!(
                "{parts} can only be changed by a new start; SIGUSR2 makes one without a pause"
            )));
        }
    }
    let (config, (done, followed)) = (Arc::new(config), oneshot::channel());
    gate.lookout().follow(Arc::clone(&config), move |_| {
        // Somebody waits.
        let _ = done.send(());
    });
    // The limit is that of the lookups of names that are new.
    let _done = followed.await;
    gate.follows(config);
    let certificates: Vec<_> = gate.doors.values().map(|door| door.certificates.clone()).collect();
    let told = aside(move || certificates.iter().filter_map(|own| tls::told(&own.reload())).collect::<Vec<_>>()).await;
    let mut told = told.unwrap_or_else(|why| vec![format!("the certificates stay as they are: {why}")]);
    told.extend(gate.lookout().warnings());
    Ok(told.into_iter().fold("reloaded".to_owned(), |all, told| format!("{all}; {told}")))
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
