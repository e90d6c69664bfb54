//! Scopes: tasks that cannot outlive their context unnoticed.
//!
//! A scope lists the tasks that run in it, with the line that spawned each. It waits for them ([`Scope::join`]), ends
//! them ([`Scope::close`]), and says which ones did not end. A task that runs past its deadline is not killed behind
//! its back: it is listed, and aborted on request. What is left all the same is counted for the whole process
//! ([`stray_tasks`]).
//!
//! A task is in the scope's list from before it is spawned until its future has been dropped; so an empty list means
//! that nothing of the tasks is left but their results.

use std::{
    any::Any,
    borrow::Cow,
    collections::BTreeMap,
    error::Error as StdError,
    fmt,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, ready},
    time::{Duration, Instant},
};

use overdue_core::{Deadline, DurationText, Limit, Stage};
use pin_project_lite::pin_project;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle, futures::TaskLocalFuture},
};

use super::{Bound, CancelCause, Context, current, forbidden, lateness};
use crate::{Error, clock};

/// Tasks that failed are remembered up to this many until the next join; the rest is only counted.
const FAILED_MAX: usize = 64;

/// An error's text names this many tasks; its list has them all.
const NAMED_MAX: usize = 8;

/// How often a moment is added for tasks that are just ending, while some do.
const SETTLING_MAX: u8 = 10;
/// How long one look at what settles takes.
const SETTLING: Duration = Duration::from_millis(10);

/// Owns the tasks that are spawned in a context ([`Context::scope`]).
///
/// Dropping a scope cancels its context. The tasks which then still run are counted in [`stray_tasks`]; to wait for
/// them, [`join`](Self::join) or [`close`](Self::close) first.
///
/// ```
/// use std::time::Duration;
/// use overdue::{Context, Limit, Stage, TaskState};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let request = Context::root().child(Limit::total(Duration::from_millis(200)));
/// let scope = request.scope();
///
/// let sum = scope.spawn(async { 20 + 22 });
/// // The current context is the task's own: it has the deadline of the scope.
/// scope.spawn_named("keeps its limit", async {
///     let context = Context::current().unwrap();
///     context.run(Stage::Handle, tokio::time::sleep(Duration::from_secs(9))).await.unwrap_err();
/// });
/// scope.spawn_named("has no limit", tokio::time::sleep(Duration::from_secs(9)));
/// assert_eq!(sum.await.unwrap(), 42);
///
/// // Waits until the deadline, then says what was left.
/// let left = scope.join().await.unwrap_err();
/// assert_eq!(left.tasks().len(), 1);
/// assert_eq!(left.tasks()[0].name.as_deref(), Some("has no limit"));
/// assert!(left.to_string().contains("spawned at"), "{left}");
///
/// // Cancels, waits, aborts the rest.
/// let aborted = scope.close(Limit::total(Duration::from_millis(50))).await.unwrap_err();
/// assert_eq!(aborted.tasks()[0].state, TaskState::Aborted);
/// # }
/// ```
#[must_use = "dropped at once, the scope cancels its tasks at once"]
pub struct Scope {
    shared: Arc<Shared>,
}

/// Spawns in a scope without owning it: for tasks that spawn further tasks beside them.
///
/// Once the scope is closed or dropped its context is cancelled, and what is spawned then is never polled
/// ([`TaskState::NotStarted`]).
#[derive(Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

/// A task of a scope. Awaiting it gives its output, or why there is none. Dropping it lets the task run on in its
/// scope.
///
/// # Errors
/// [`ScopeError`] with this one task: it panicked, was aborted, or was never started because its deadline had passed or
/// its context was cancelled before ([`ScopeError::interrupted`] has the limit or the cause).
///
/// # Cancel safety
/// Await it by reference to go on waiting later. As any future, it must not be polled again once it is done.
pub struct Task<T> {
    handle: JoinHandle<Result<T, Error>>,
    shared: Arc<Shared>,
    id: u64,
    spawned: Spawned,
    context: Context,
}

/// What is known of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TaskInfo {
    /// The line that spawned it.
    pub at: &'static Location<'static>,
    /// Its name, if it was given one.
    pub name: Option<Cow<'static, str>>,
    /// How long ago it was spawned; once it has ended, how long it took.
    pub age: Duration,
    /// How far past the deadline of its scope it was when this was asked; `None` when it was not.
    pub overdue_by: Option<Duration>,
    /// What became of it.
    pub state: TaskState,
}

/// What became of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TaskState {
    /// It has not ended.
    Running,
    /// It was told to abort and has not come to an `await` since. A task that blocks its thread cannot be aborted.
    Aborting,
    /// It was aborted and is gone; or its runtime was shut down.
    Aborted,
    /// It panicked, with this message.
    Panicked(String),
    /// It was never polled: its deadline had passed or its context was cancelled before.
    NotStarted,
}

/// Tasks of a scope which are left, or which failed.
pub struct ScopeError {
    opened_at: &'static Location<'static>,
    tasks: Vec<TaskInfo>,
    omitted: u64,
    interrupted: Option<Error>,
}

/// How many tasks of one line of code outlived what they were spawned for. See [`stray_tasks`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StrayTasks {
    /// The line that spawned them.
    pub at: &'static Location<'static>,
    /// How many ended after their deadline, by more than the 10 ms for which a runtime may be late.
    pub overdue: u64,
    /// How many still ran when their scope was dropped.
    pub left: u64,
    /// How many of those that were left are running now.
    pub running: u64,
}

/// One entry for each line of code that spawned a stray, so that it cannot grow past the code.
static STRAYS: Mutex<BTreeMap<&'static Location<'static>, StrayTasks>> = Mutex::new(BTreeMap::new());

/// The lines whose tasks ended after their deadline or outlived their scope, in the whole process and since it began,
/// in the order of files and lines. A task that is past its deadline and has not ended yet is in
/// [`Scope::overdue`], and in [`running`](StrayTasks::running) once its scope is gone.
#[must_use]
pub fn stray_tasks() -> Vec<StrayTasks> {
    STRAYS.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
}

impl Context {
    /// Opens a scope: a branch of this context which knows its tasks.
    #[track_caller]
    pub fn scope(&self) -> Scope {
        let shared = Shared {
            context: self.branch(),
            opened_at: Location::caller(),
            state: Mutex::default(),
            emptied: Notify::new(),
        };
        Scope { shared: Arc::new(shared) }
    }
}

impl Scope {
    /// The context of this scope. Cancelling it tells every task to stop.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// Spawns a task on the current runtime. Its [current context](Context::current) is a branch of the scope's. When
    /// the deadline has passed or the context is cancelled before the first poll, the work is never polled; later
    /// neither of them ends it: that is up to the work ([`Context::run`]), or to
    /// [`abort_overdue`](Self::abort_overdue) and [`close`](Self::close).
    ///
    /// # Panics
    /// Outside of a tokio runtime, as `tokio::spawn` does.
    #[track_caller]
    pub fn spawn<F>(&self, work: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.spawn(None, work)
    }

    /// As [`spawn`](Self::spawn), with a name for lists and errors.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as `tokio::spawn` does.
    #[track_caller]
    pub fn spawn_named<F>(&self, name: impl Into<Cow<'static, str>>, work: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.spawn(Some(name.into()), work)
    }

    /// A handle to spawn with, which does not keep the scope open: a task may hold it.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner { shared: Arc::clone(&self.shared) }
    }

    /// The tasks that have not ended, in the order in which they were spawned.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        let now = clock::now();
        self.shared.lock().running.values().map(|running| self.shared.info(running, now)).collect()
    }

    /// The tasks that have not ended though the deadline has passed, in the order in which they were spawned.
    #[must_use]
    pub fn overdue(&self) -> Vec<TaskInfo> {
        if self.shared.is_overdue() { self.tasks() } else { Vec::new() }
    }

    /// Tells the tasks that have not ended though the deadline has passed to abort, and returns them. Each is dropped at
    /// the `await` where it is or comes to next: [`join`](Self::join) waits for that, and does not report those that are
    /// gone.
    pub fn abort_overdue(&self) -> Vec<TaskInfo> {
        if self.shared.is_overdue() { self.shared.abort_all().into_values().collect() } else { Vec::new() }
    }

    /// Waits until no task is left, those included that are spawned meanwhile, but not past the deadline of the context
    /// nor its cancellation. Tasks that end themselves just then are not left: there are 10 ms for that, and again as
    /// long as any do, 100 ms at most. The scope stays open: more may be spawned, and joined again.
    ///
    /// # Errors
    /// [`ScopeError`] with the tasks that still run, and those that panicked or were never started since the last
    /// join, also when all have ended. It does not end the tasks that still run.
    ///
    /// # Cancel safety
    /// Dropping the returned future changes nothing.
    pub async fn join(&self) -> Result<(), ScopeError> {
        let started = clock::now();
        let context = self.context();
        let deadline = context.deadline();
        let interrupted = match Bound::new(context, deadline, started, self.shared.until_empty()).await {
            Ok(()) => None,
            Err(interrupted) => {
                let error = Error::from_interrupted(Stage::Handle, started, deadline, interrupted);
                self.shared.settle().await;
                Some(error)
            }
        };
        self.shared.outcome(interrupted, BTreeMap::new())
    }

    /// Cancels the context of the scope, waits until no task is left or `grace` has passed, and aborts the rest.
    /// `grace` counts from the first poll. The deadline of the context does not cut it: a scope may be closed because that
    /// has passed. Aborted tasks get the moment to be dropped which [`join`](Self::join) gives.
    ///
    /// # Errors
    /// [`ScopeError`] with the tasks that were left when `grace` had passed: [`TaskState::Aborted`], or
    /// [`TaskState::Aborting`] for one that blocks its thread and is counted in [`stray_tasks`]; and those that panicked
    /// or were never started since the last join.
    ///
    /// # Cancel safety
    /// Dropping the returned future drops the scope.
    #[track_caller]
    pub fn close(self, grace: Limit) -> impl Future<Output = Result<(), ScopeError>> + Send {
        let at = Location::caller();
        async move {
            let shared = &self.shared;
            let started = clock::now();
            shared.cancel("its scope was closed", at);
            // Only time ends this wait.
            let watched = shared.context.detached();
            let deadline = Some(&Deadline::after(started, grace));
            let emptied = Bound::new(&watched, deadline, started, shared.until_empty()).await;
            let Err(interrupted) = emptied else { return shared.outcome(None, BTreeMap::new()) };
            let error = Error::from_interrupted(Stage::Handle, started, deadline, interrupted);
            let aborted = shared.abort_all();
            shared.settle().await;
            shared.outcome(Some(error), aborted)
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.shared.leave();
        self.shared.cancel("its scope was dropped", self.shared.opened_at);
    }
}

impl Spawner {
    /// The context of the scope.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// See [`Scope::spawn`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, as `tokio::spawn` does.
    #[track_caller]
    pub fn spawn<F>(&self, work: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.spawn(None, work)
    }

    /// See [`Scope::spawn_named`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, as `tokio::spawn` does.
    #[track_caller]
    pub fn spawn_named<F>(&self, name: impl Into<Cow<'static, str>>, work: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.spawn(Some(name.into()), work)
    }
}

impl<T> Task<T> {
    /// The task's own context: cancelling it tells this one task to stop.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Whether its output is there, or the reason why there is none.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Drops the task at the `await` where it is or comes to next. [`Scope::join`] waits for that and does not report
    /// it.
    pub fn abort(&self) {
        let abort = self.shared.lock().running.get_mut(&self.id).and_then(Running::tell_to_abort);
        if let Some(abort) = abort {
            abort.abort();
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, ScopeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let (state, interrupted) = match ready!(Pin::new(&mut self.handle).poll(cx)) {
            Ok(Ok(output)) => return Poll::Ready(Ok(output)),
            Ok(Err(error)) => (TaskState::NotStarted, Some(error)),
            Err(ended) => match ended.try_into_panic() {
                Ok(payload) => (TaskState::Panicked(panic_message(&*payload)), None),
                Err(_) => (TaskState::Aborted, None),
            },
        };
        let info = self.spawned.info(self.context.deadline(), clock::now(), state);
        let opened_at = self.shared.opened_at;
        Poll::Ready(Err(ScopeError { opened_at, tasks: vec![info], omitted: 0, interrupted }))
    }
}

impl ScopeError {
    /// The tasks that are left, in the order in which they were spawned, then those that failed.
    #[must_use]
    pub fn tasks(&self) -> &[TaskInfo] {
        &self.tasks
    }

    /// How many more failed than the list has room for: it has 64 between two joins.
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// What ended the wait: the limit that fired or the cause of the cancellation. `None` when all tasks had ended.
    #[must_use]
    pub fn interrupted(&self) -> Option<&Error> {
        self.interrupted.as_ref()
    }
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = u64::try_from(self.tasks.len()).unwrap_or(u64::MAX);
        let all = known.saturating_add(self.omitted);
        let (noun, at) = (if all == 1 { "task" } else { "tasks" }, self.opened_at);
        write!(f, "{all} {noun} of the scope opened at {}:{} did not end well: ", at.file(), at.line())?;
        for (i, task) in self.tasks.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}{task}", if i == 0 { "" } else { "; " })?;
        }
        match all.saturating_sub(known.min(NAMED_MAX as u64)) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl fmt::Debug for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeError")
            .field("opened_at", &format_args!("{}:{}", self.opened_at.file(), self.opened_at.line()))
            .field("count", &self.tasks.len())
            .field("first", &self.tasks.iter().take(NAMED_MAX).collect::<Vec<_>>())
            .field("omitted", &self.omitted)
            .field("interrupted", &self.interrupted)
            .finish()
    }
}

impl StdError for ScopeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.interrupted.as_ref().map(|error| error as &(dyn StdError + 'static))
    }
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name:?} ")?;
        }
        write!(f, "spawned at {}:{} ", self.at.file(), self.at.line())?;
        let age = DurationText(self.age);
        match &self.state {
            TaskState::Running => write!(f, "has been running for {age}")?,
            TaskState::Aborting => write!(f, "has been running for {age} and was told to abort")?,
            TaskState::Aborted => write!(f, "was aborted after {age}")?,
            TaskState::Panicked(message) => write!(f, "panicked after {age} ({message})")?,
            TaskState::NotStarted => f.write_str("was never started")?,
        }
        match self.overdue_by {
            Some(by) => write!(f, ", {} past its deadline", DurationText(by)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("context", self.context()).field("tasks", &self.tasks()).finish()
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("context", self.context()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spawned { at, name, .. } = &self.spawned;
        f.debug_struct("Task").field("at", at).field("name", name).finish_non_exhaustive()
    }
}

/// What a scope, its spawners, handles and tasks have in common.
struct Shared {
    context: Context,
    opened_at: &'static Location<'static>,
    state: Mutex<State>,
    /// Told whenever the last task has ended.
    emptied: Notify,
}

#[derive(Default)]
struct State {
    next_id: u64,
    running: BTreeMap<u64, Running>,
    /// Since the last join.
    failed: Vec<TaskInfo>,
    omitted: u64,
}

struct Running {
    spawned: Spawned,
    /// Missing for the moment between the entry in the list and the spawn.
    abort: Option<AbortHandle>,
    aborting: bool,
    /// Its scope was dropped.
    left: bool,
}

#[derive(Clone)]
struct Spawned {
    at: &'static Location<'static>,
    name: Option<Cow<'static, str>>,
    started: Instant,
}

impl Spawned {
    fn info(&self, deadline: Option<&Deadline>, now: Instant, state: TaskState) -> TaskInfo {
        TaskInfo {
            at: self.at,
            name: self.name.clone(),
            age: now.saturating_duration_since(self.started),
            overdue_by: deadline.filter(|deadline| deadline.passed(now)).map(|deadline| deadline.late_by(now)),
            state,
        }
    }
}

impl Running {
    /// Marks it, and gives what is to be called once no lock is held: an abort may drop the task at once.
    fn tell_to_abort(&mut self) -> Option<AbortHandle> {
        self.aborting = true;
        self.abort.clone()
    }
}

impl Shared {
    #[track_caller]
    fn spawn<F>(self: &Arc<Self>, name: Option<Cow<'static, str>>, work: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let spawned = Spawned { at: Location::caller(), name, started: clock::now() };
        let context = self.context.branch();
        let entry = Entry::new(self, spawned.clone());
        let id = entry.id;
        let run = Run { work: current::within(context.clone(), work), before: Some(context.clone()), entry };
        // Not under the lock: a runtime that is shutting down drops the task at once.
        let handle = tokio::spawn(run);
        let abort = self.lock().running.get_mut(&id).and_then(|running| {
            running.abort = Some(handle.abort_handle());
            // Somebody may have asked for it before there was a handle.
            running.abort.clone().filter(|_| running.aborting)
        });
        if let Some(abort) = abort {
            abort.abort();
        }
        Task { handle, shared: Arc::clone(self), id, spawned, context }
    }

    fn cancel(&self, why: &'static str, at: &'static Location<'static>) {
        self.context.node.cancel(&Arc::new(CancelCause::from(why).placed(at)));
    }

    async fn until_empty(&self) {
        loop {
            // Made before the look, it misses nothing that is told after it.
            let emptied = self.emptied.notified();
            if self.lock().running.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Tasks that were told to end, or end with the same timer as the wait for them, are gone in a moment; a thousand of
    /// them take several.
    async fn settle(&self) {
        for _ in 0..SETTLING_MAX {
            let before = self.lock().running.len();
            if tokio::time::timeout(SETTLING, self.until_empty()).await.is_ok() || self.lock().running.len() >= before {
                return;
            }
        }
    }

    /// What there is to say after a wait: of `aborted`, those that are gone, then all that run and that failed.
    fn outcome(&self, interrupted: Option<Error>, aborted: BTreeMap<u64, TaskInfo>) -> Result<(), ScopeError> {
        let now = clock::now();
        let mut left = aborted;
        left.values_mut().for_each(|info| info.state = TaskState::Aborted);
        let mut state = self.lock();
        left.extend(state.running.iter().map(|(id, running)| (*id, self.info(running, now))));
        let tasks: Vec<_> = left.into_values().chain(std::mem::take(&mut state.failed)).collect();
        let omitted = std::mem::take(&mut state.omitted);
        if tasks.is_empty() {
            return Ok(());
        }
        Err(ScopeError { opened_at: self.opened_at, tasks, omitted, interrupted })
    }

    fn abort_all(&self) -> BTreeMap<u64, TaskInfo> {
        let now = clock::now();
        let mut told = BTreeMap::new();
        let mut to_abort = Vec::new();
        for (id, running) in &mut self.lock().running {
            to_abort.extend(running.tell_to_abort());
            told.insert(*id, self.info(running, now));
        }
        to_abort.iter().for_each(AbortHandle::abort);
        told
    }

    /// The scope goes, its tasks stay: counts them.
    fn leave(&self) {
        for running in self.lock().running.values_mut() {
            running.left = true;
            count_stray(running.spawned.at, |stray| {
                stray.left += 1;
                stray.running += 1;
            });
        }
    }

    fn info(&self, running: &Running, now: Instant) -> TaskInfo {
        let state = if running.aborting { TaskState::Aborting } else { TaskState::Running };
        running.spawned.info(self.context.deadline(), now, state)
    }

    fn is_overdue(&self) -> bool {
        self.context.deadline().is_some_and(|deadline| deadline.passed(clock::now()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_stray(at: &'static Location<'static>, count: impl FnOnce(&mut StrayTasks)) {
    let mut strays = STRAYS.lock().unwrap_or_else(PoisonError::into_inner);
    count(strays.entry(at).or_insert(StrayTasks { at, overdue: 0, left: 0, running: 0 }));
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("no message").to_owned()
}

pin_project! {
    /// A task as the runtime has it. The order of the fields is the order in which they are dropped: the work goes
    /// first, then its entry in the list.
    struct Run<F> {
        #[pin]
        work: TaskLocalFuture<Context, F>,
        // Until the first poll.
        before: Option<Context>,
        entry: Entry,
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Result<F::Output, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(context) = this.before.take() {
            let started = clock::now();
            if let Some(interrupted) = forbidden(&context, context.deadline(), started) {
                this.entry.end = Some(TaskState::NotStarted);
                let error = Error::from_interrupted(Stage::Handle, started, context.deadline(), interrupted);
                return Poll::Ready(Err(error));
            }
        }
        match catch_unwind(AssertUnwindSafe(|| this.work.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => {
                this.entry.end = None;
                Poll::Ready(Ok(output))
            }
            Err(payload) => {
                this.entry.end = Some(TaskState::Panicked(panic_message(&*payload)));
                resume_unwind(payload)
            }
        }
    }
}

/// A task's place in the list of its scope; given up when dropped.
struct Entry {
    shared: Arc<Shared>,
    id: u64,
    /// How the task failed, should it be dropped now.
    end: Option<TaskState>,
}

impl Entry {
    fn new(shared: &Arc<Shared>, spawned: Spawned) -> Self {
        let mut state = shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.running.insert(id, Running { spawned, abort: None, aborting: false, left: false });
        drop(state);
        Self { shared: Arc::clone(shared), id, end: Some(TaskState::Aborted) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let shared = &self.shared;
        let deadline = shared.context.deadline();
        let now = clock::now();
        let mut state = shared.lock();
        let Some(ended) = state.running.remove(&self.id) else { return };
        let overdue = !lateness(deadline, now).is_zero();
        if overdue || ended.left {
            count_stray(ended.spawned.at, |stray| {
                stray.overdue += u64::from(overdue);
                stray.running -= u64::from(ended.left);
            });
        }
        // Who asked for an abort knows of it.
        let asked = ended.aborting && self.end == Some(TaskState::Aborted);
        match self.end.take().filter(|_| !asked) {
            Some(end) if state.failed.len() < FAILED_MAX => state.failed.push(ended.spawned.info(deadline, now, end)),
            Some(_) => state.omitted += 1,
            None => {}
        }
        let empty = state.running.is_empty();
        drop(state);
        if empty {
            shared.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
