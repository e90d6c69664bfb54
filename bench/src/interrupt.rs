//! Ctrl-C, for benchmarks that have more to leave behind than children: folders, and processes that others watch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants it to end. Whoever finds that returns, and what is dropped then is cleared away.
#[derive(Clone, Debug)]
pub(crate) struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    /// From now on Ctrl-C and SIGTERM no longer end this process.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let interrupted = Self(Arc::default());
        let told = interrupted.0.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut int, mut term) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let wait = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
            });
            told.store(true, Relaxed);
        };
        thread::Builder::new().name("interrupt".to_owned()).spawn(wait).context("no thread can be started")?;
        Ok(interrupted)
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Relaxed), "interrupted");
        Ok(())
    }

    /// Sleeps, and returns early with an error when it is interrupted.
    pub(crate) fn pause(&self, length: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + length;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}
