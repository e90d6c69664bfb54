//! The runtime of a command, and what Ctrl-C does to it.
//!
//! Signals come to a thread of their own, so that they count whatever else is stuck: in a write that nobody reads, say.

use std::{
    io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use overdue::Context;
use overdue_why::collect::{Clock, Interrupt as Stop};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};
use tokio::runtime;

use crate::exit::Exit;

/// Signals that come so soon after the first are that one: `timeout` sends it to its child and to the group that it is in.
pub(crate) const TOGETHER: Duration = Duration::from_millis(250);

/// How many threads run the calls of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Threads {
    /// This one: a call is then disturbed by nothing but itself.
    One,
    /// One for each core.
    Many,
}

/// What a signal does.
#[derive(Debug)]
enum Meaning {
    /// It ends the program, as it would by itself.
    End,
    /// It cancels what runs: what is known by then is told.
    Cancel(Context),
    /// It did, then; another one ends the program.
    Cancelled(Clock),
}

static MEANING: Mutex<Meaning> = Mutex::new(Meaning::End);
/// What is done before a signal ends the program at once.
static LAST_ACT: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

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
}

/// As long as this lives signals cancel. What comes after (a page to draw, a file to write) any signal ends.
struct Listening;

impl Listening {
    fn to(root: &Context) -> anyhow::Result<Self> {
        static THREAD: OnceLock<Result<(), String>> = OnceLock::new();
        let listens = || {
            let signals = Signals::new([SIGINT, SIGTERM])?;
            thread::Builder::new().name("overdue-signals".to_owned()).spawn(|| listen(signals))
        };
        let begun = THREAD.get_or_init(|| listens().map(drop).map_err(|error: io::Error| error.to_string()));
        begun.as_ref().map_err(|error| anyhow!("cannot listen for Ctrl-C: {error}"))?;
        *own(&MEANING) = Meaning::Cancel(root.clone());
        Ok(Self)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut meaning = own(&MEANING);
        if matches!(*meaning, Meaning::Cancel(_)) {
            *meaning = Meaning::End;
        }
    }
}

fn listen(mut signals: Signals) {
    for signal in signals.forever() {
        let mut meaning = own(&MEANING);
        match &*meaning {
            Meaning::Cancel(root) => {
                root.cancel(if signal == SIGINT { "Ctrl-C was pressed" } else { "SIGTERM came" });
                *meaning = Meaning::Cancelled(Clock::start());
            }
            Meaning::Cancelled(since) if since.elapsed() < TOGETHER => {}
            Meaning::Cancelled(_) | Meaning::End => end(signal),
        }
    }
}

/// Ends the program by this signal, so that whoever started it sees what happened; a shell says 130 or 143.
pub(crate) fn end(signal: i32) -> ! {
    if let Some(act) = &*own(&LAST_ACT) {
        act();
    }
    _ = low_level::emulate_default_handler(signal);
    std::process::exit(128 + signal)
}

/// Lets a signal that is just ending the program do so: what it ended first may be what the program waited for.
pub(crate) fn give_way() {
    drop(own(&MEANING));
}

/// What must not be left behind, whatever ends the program: `None` takes it back.
pub(crate) fn last_act(act: Option<Box<dyn Fn() + Send>>) {
    *own(&LAST_ACT) = act;
}

/// Whoever panicked with it left nothing half done.
fn own<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
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
    let root = Context::root();
    let listening = Listening::to(&root)?;
    let result = runtime.block_on(async { work(Interrupt { root }).await });
    drop(listening);
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
