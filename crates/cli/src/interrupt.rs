//! The runtime of a command, and what Ctrl-C does to it.

use anyhow::Context as _;
use overdue::Context;
use overdue_why::collect::Interrupt as Stop;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::exit::Exit;

/// How many threads run the calls of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threads {
    /// This one: a call is then disturbed by nothing but itself.
    One,
    /// One for each core.
    Many,
}

/// The root of all calls of a command. Ctrl-C or SIGTERM cancels it; a second one ends the program at once.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    root: Context,
}

impl Interrupt {
    /// The context to make calls under.
    pub(crate) const fn context(&self) -> &Context {
        &self.root
    }

    /// `Interrupted` if Ctrl-C was pressed, `exit` otherwise.
    pub(crate) fn or(&self, exit: Exit) -> Exit {
        if self.root.is_cancelled() { Exit::Interrupted } else { exit }
    }

    fn listen() -> anyhow::Result<Self> {
        let root = Context::root();
        let mut interrupts = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
        // `timeout 10 overdue ...` sends this one, and wants to see what there is as well.
        let mut terminations = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let context = root.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupts.recv() => context.cancel("Ctrl-C was pressed"),
                _ = terminations.recv() => context.cancel("SIGTERM came"),
            };
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
            std::process::exit(130);
        });
        Ok(Self { root })
    }
}

/// Runs a command to its end. What it leaves running on other threads is not waited for.
pub(crate) fn run<T, F>(threads: Threads, work: impl FnOnce(Interrupt) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut builder = match threads {
        Threads::One => runtime::Builder::new_current_thread(),
        Threads::Many => runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(async { work(Interrupt::listen()?).await });
    runtime.shutdown_background();
    result
}

/// Runs a watch to its end, which Ctrl-C brings about early. Tells whether it did.
pub(crate) fn watching<T: Send + 'static>(
    watch: impl FnOnce(&Stop) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<(T, bool)> {
    run(Threads::One, |interrupt| async move {
        let stop = Stop::new().context("no descriptor is left")?;
        let raised = stop.clone();
        let context = interrupt.context().clone();
        let watching = tokio::task::spawn_blocking(move || watch(&stop));
        let cancelled = tokio::spawn(async move {
            context.cancelled().await;
            raised.raise();
        });
        let seen = watching.await.context("the watch broke")??;
        cancelled.abort();
        Ok((seen, interrupt.context().is_cancelled()))
    })
}
