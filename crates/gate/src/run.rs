//! A gateway from its file to its end: signals, reloads, and what the operator asks for.

use std::{fmt, io::Write as _, path::Path, sync::Arc, thread, time::Duration};

use overdue_core::DurationText;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    admin::{self, Command, Desk},
    clock,
    config::Config,
    gate::{Gate, GateError},
    tls,
};

/// How long files may take to be read on a reload.
const READING: Duration = Duration::from_secs(10);

/// Serves what the file says until it is told to stop: SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reads
/// the file again. What happens is told line by line to `tell`. False when requests were cut.
///
/// # Errors
/// [`GateError`]: it did not start.
pub fn run(path: &Path, tell: fn(&str)) -> Result<bool, GateError> {
    let config = Config::read(path)?;
    for (route, verdicts) in config.conflicts() {
        for verdict in verdicts {
            tell(&format!("route {route:?}: {}: {}", verdict.cause, verdict.summary));
        }
    }
    let admin = config.admin.clone();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(GateError::Worker)?;
    let local = admin
        .as_ref()
        .map(|admin| {
            let address = admin.address;
            runtime.block_on(TcpListener::bind(address)).map_err(|source| GateError::Listen { address, source })
        })
        .transpose()?;
    let mut gate = Gate::start_telling(config, |warning| tell(&warning))?;
    for address in gate.addresses() {
        tell(&format!("serving {address}"));
    }
    if let Some(address) = local.as_ref().and_then(|listener| listener.local_addr().ok()) {
        tell(&format!("operator at http://{address}/"));
    }
    runtime.block_on(async {
        let on = |kind| signal(kind).map_err(GateError::Worker);
        let (mut hangup, mut term, mut int) =
            (on(SignalKind::hangup())?, on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        for door in gate.doors.values() {
            // Those whose files change, by whoever renews them.
            let certificates = door.certificates.clone();
            drop(tokio::spawn(async move {
                certificates.watch(|reload| tls::told(&reload).iter().for_each(|text| tell(text))).await;
            }));
        }
        let (commands, mut commanded) = mpsc::channel(16);
        if let Some(listener) = local {
            let names = admin.map_or_else(Arc::default, |admin| admin.names.into());
            let desk = Desk {
                workers: gate.workers().to_vec(),
                dropped: gate.writer.dropped(),
                lookout: gate.lookout().clone(),
                commands,
                began: clock::now(),
                names,
            };
            drop(tokio::spawn(admin::serve(listener, desk)));
        } else {
            // Kept, so that it does not look closed.
            std::mem::forget(commands);
        }
        loop {
            tokio::select! {
                _ = hangup.recv() => match reload(&mut gate, path).await {
                    Ok(text) | Err(text) => tell(&text),
                },
                _ = term.recv() => break,
                _ = int.recv() => break,
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
                        break;
                    }
                    None => break,
                },
            }
        }
        // Whoever asks from now on is told that it is ending.
        drop(commanded);
        tell("draining: no more connections are taken; again to end at once");
        // A thread of its own, for which nobody has to wait: one of the runtime's would hold up its end.
        let (drains, drained) = oneshot::channel();
        let drain = move || {
            // Whoever waits may have been told to end at once.
            let _ = drains.send(gate.drain());
        };
        thread::Builder::new().name("overdue-drain".to_owned()).spawn(drain).map_err(GateError::Worker)?;
        tokio::select! {
            whole = drained => {
                let whole = whole.unwrap_or(false);
                tell(if whole { "every request was served" } else { "the limit for draining passed: requests were cut" });
                Ok(whole)
            }
            _ = term.recv() => Ok(false),
            _ = int.recv() => Ok(false),
        }
    })
}

/// Follows the file as it is now, or says why not.
async fn reload(gate: &mut Gate, path: &Path) -> Result<String, String> {
    let refused = |why: &dyn fmt::Display| format!("not reloaded, everything goes on as before: {why}");
    let path = path.to_owned();
    let config = aside(move || Config::read(&path)).await.map_err(|why| refused(&why))?;
    let config = config.map_err(|err| refused(&err))?;
    match gate.needs_start(&config).as_slice() {
        [] => {}
        parts => return Err(refused(&format!("{} can only be changed by a new start", parts.join(", ")))),
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
    let _ = writeln!(std::io::stderr(), "{line}");
}
