//! One direction of a stream: what bounds it, and the one operation that runs in it.
//!
//! A [`Side`] is set from anywhere and read by its [`Operation`]. It is also the only waker that the operation gives to
//! timers and to the context: whatever happens (a changed deadline, a timer, a cancel) goes through [`Side::ring`] to
//! the task that waits. Nothing is polled or woken under the lock of a side.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context as TaskContext, Poll, Wake, Waker, ready},
    time::{Duration, Instant},
};

use overdue_core::{ConnectionReport, Deadline, Limit, Stage, facts::Failure};

use super::Handle;
use crate::{
    Context, Error, clock,
    context::{Interrupted, Watch, lateness},
    log::{CallLog, Trouble},
    tls,
    wire::Wire,
};

/// What bounds one direction, and who waits in it.
#[derive(Default)]
pub(super) struct Side {
    bounds: Mutex<Bounds>,
    /// Bytes that were moved so far.
    bytes: AtomicU64,
    /// How many of them were moved when the other direction last moved.
    mark: AtomicU64,
}

#[derive(Default)]
struct Bounds {
    deadline: Option<Deadline>,
    /// It had passed when it was set: nothing is late.
    past: bool,
    idle: Option<Limit>,
    /// How often the above was changed.
    changes: u64,
    waiting: Option<Waker>,
    /// When the one who waits was first woken.
    rung: Option<Instant>,
}

impl Side {
    fn lock(&self) -> MutexGuard<'_, Bounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_deadline(&self, deadline: Option<Deadline>) {
        let past = deadline.as_ref().is_some_and(|deadline| deadline.passed(clock::now()));
        self.change(|bounds| (bounds.deadline, bounds.past) = (deadline, past));
    }

    pub(super) fn set_idle(&self, limit: Option<Limit>) {
        self.change(|bounds| bounds.idle = limit);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(super) fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// The other direction moves.
    pub(super) fn set_mark(&self) {
        self.mark.store(self.bytes(), Relaxed);
    }

    fn change(&self, change: impl FnOnce(&mut Bounds)) {
        let waiting = {
            let mut bounds = self.lock();
            change(&mut bounds);
            bounds.changes += 1;
            bounds.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// The limit that had fired before the operation began.
    fn past(&self, context: &Context) -> Option<Limit> {
        let bounds = self.lock();
        let outer = context.deadline();
        let earliest = earlier(bounds.deadline.as_ref(), outer)?;
        earliest.passed(clock::now()).then(|| earliest.limit().clone())
    }

    fn ring(&self) {
        let waiting = {
            let mut bounds = self.lock();
            bounds.rung.get_or_insert_with(clock::now);
            bounds.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Nobody waits any more.
    fn leave(&self) {
        let waiting = {
            let mut bounds = self.lock();
            bounds.rung = None;
            bounds.waiting.take()
        };
        drop(waiting);
    }
}

impl Wake for Side {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

fn earlier<'a>(inner: Option<&'a Deadline>, outer: Option<&'a Deadline>) -> Option<&'a Deadline> {
    match (inner, outer) {
        (Some(inner), Some(outer)) => Some(if outer.at() < inner.at() { outer } else { inner }),
        (inner, outer) => inner.or(outer),
    }
}

/// The operation of one direction: begins at its first poll, ends when it is ready or fails. One whose future is
/// dropped half-way goes on at the next poll.
pub(super) struct Operation {
    /// `Send` is bound by `write`, every other by `read`.
    stage: Stage,
    handle: Handle,
    /// For evidence.
    wire: Option<Wire>,
    watch: Watch,
    /// The earliest of what bounds the operation.
    earliest: Option<Deadline>,
    /// What the side said after so many changes.
    changes: u64,
    outer: Option<Deadline>,
    idle: Option<Limit>,
    pending: Option<Pending>,
    /// The caller shut this direction down: errors of later operations are its own doing.
    is_shut_down: bool,
}

struct Pending {
    started: Instant,
    /// When the idle limit began to count, and how far things had come then.
    idle_since: Instant,
    progress: Option<i64>,
    /// When the timer fired, which may be long before somebody polls: that is no lateness of the runtime.
    fired: Option<Instant>,
}

/// Why an operation ended without a result.
pub(super) struct Stopped {
    interrupted: Interrupted,
    late_by: Duration,
    started: Instant,
}

impl Operation {
    pub(super) fn new(stage: Stage, handle: Handle, wire: Option<Wire>) -> Self {
        let outer = handle.life.deadline().cloned();
        Self {
            stage,
            handle,
            wire,
            watch: Watch::default(),
            earliest: outer.clone(),
            changes: 0,
            outer,
            idle: None,
            pending: None,
            is_shut_down: false,
        }
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Whether the operation has begun and is not done.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn set_shut_down(&mut self) {
        self.is_shut_down = true;
    }

    fn side(&self) -> &Arc<Side> {
        if self.stage == Stage::Send { &self.handle.write } else { &self.handle.read }
    }

    /// Polls `work` under what bounds this direction now: not at all when that forbids to begin, and from then on
    /// before any timer. A cancelled context ends it in any case.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut TaskContext<'_>,
        work: impl FnOnce(&mut TaskContext<'_>) -> Poll<T>,
    ) -> Poll<Result<T, Stopped>> {
        let forbidden = match self.handle.life.cancel_cause() {
            Some(cause) => Some(Interrupted::Cancelled(cause)),
            None if self.pending.is_none() => self.side().past(&self.handle.life).map(Interrupted::Past),
            None => None,
        };
        if let Some(interrupted) = forbidden {
            return Poll::Ready(Err(self.stop(interrupted, Duration::ZERO)));
        }
        if let Poll::Ready(value) = work(cx) {
            if self.pending.take().is_some() {
                self.side().leave();
            }
            return Poll::Ready(Ok(value));
        }
        Poll::Ready(Err(ready!(self.poll_bounds(cx.waker()))))
    }

    /// The same for input and output, whose errors explain themselves where there is a socket.
    pub(super) fn poll_io<T>(
        &mut self,
        cx: &mut TaskContext<'_>,
        work: impl FnOnce(&mut TaskContext<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let started = self.pending.as_ref().map(|pending| pending.started);
        Poll::Ready(match ready!(self.poll(cx, work)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(err)) => Err(self.failed(started, err)),
            Err(stopped) => Err(self.error(stopped).into()),
        })
    }

    /// What ends the operation, whose work is pending.
    fn poll_bounds(&mut self, task: &Waker) -> Poll<Stopped> {
        if let Some(limit) = self.listen(task) {
            return Poll::Ready(self.stop(Interrupted::Passed(limit), Duration::ZERO));
        }
        let waker = Waker::from(Arc::clone(self.side()));
        let mut cx = TaskContext::from_waker(&waker);
        loop {
            let interrupted = ready!(self.watch.poll(&mut cx, &self.handle.life, self.earliest.as_ref()));
            let late_by = match interrupted {
                Interrupted::Passed(_) if self.went_on() => continue,
                Interrupted::Passed(_) => self.late_by(),
                _ => Duration::ZERO,
            };
            return Poll::Ready(self.stop(interrupted, late_by));
        }
    }

    /// Registers the task, so that a change from now on wakes it, then takes over what was changed before. The limit
    /// of a deadline that had passed when it was set is handed back.
    fn listen(&mut self, task: &Waker) -> Option<Limit> {
        let side = Arc::clone(self.side());
        let (changed, past, rung, former);
        {
            let mut bounds = side.lock();
            let known = bounds.waiting.as_ref().is_some_and(|waker| waker.will_wake(task));
            former = if known { None } else { bounds.waiting.replace(task.clone()) };
            rung = bounds.rung.take();
            changed = bounds.changes != self.changes;
            past = bounds.past;
            if changed {
                self.changes = bounds.changes;
                self.outer = earlier(bounds.deadline.as_ref(), self.handle.life.deadline()).cloned();
                self.idle.clone_from(&bounds.idle);
            }
        }
        drop(former);
        let begins = self.pending.is_none();
        let now = clock::now();
        let pending =
            self.pending.get_or_insert(Pending { started: now, idle_since: now, progress: None, fired: None });
        if changed && past {
            return self.outer.as_ref().map(|deadline| deadline.limit().clone());
        }
        if changed || begins && self.idle.is_some() {
            if self.idle.is_some() && pending.progress.is_none() {
                pending.progress = progress(self.stage, self.wire.as_ref());
            }
            self.arm();
        } else if let Some(rung) = rung
            && self.earliest.as_ref().is_some_and(|deadline| deadline.passed(rung))
        {
            pending.fired.get_or_insert(rung);
        }
        None
    }

    /// Watches the earliest of what bounds the operation.
    fn arm(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        pending.fired = None;
        self.watch.restart();
        self.earliest = match &self.idle {
            Some(idle) => Some(Deadline::after(pending.idle_since, idle.clone()).clipped(self.outer.as_ref())),
            None => self.outer.clone(),
        };
    }

    /// Whether it is the idle limit that fired, and bytes moved since it began to count. Then it begins anew.
    fn went_on(&mut self) -> bool {
        let idles =
            self.idle.is_some() && self.earliest.as_ref().is_some_and(|deadline| deadline.clipped_by().is_none());
        let Some(pending) = self.pending.as_mut().filter(|_| idles) else { return false };
        let progress = progress(self.stage, self.wire.as_ref());
        if progress <= pending.progress {
            return false;
        }
        let last_read = self.wire.as_ref().and_then(Wire::last_read).filter(|_| self.stage != Stage::Send);
        pending.progress = progress;
        pending.idle_since = last_read.unwrap_or_else(clock::now);
        self.arm();
        true
    }

    /// How late the runtime was to serve the timer.
    fn late_by(&self) -> Duration {
        let fired = self.pending.as_ref().and_then(|pending| pending.fired);
        fired.map_or(Duration::ZERO, |fired| lateness(self.earliest.as_ref(), fired))
    }

    fn stop(&mut self, interrupted: Interrupted, late_by: Duration) -> Stopped {
        let started = self.pending.take().map_or_else(clock::now, |pending| pending.started);
        self.side().leave();
        Stopped { interrupted, late_by, started }
    }

    /// The error of an operation that did not get to its end.
    pub(super) fn error(&self, stopped: Stopped) -> Error {
        let deadline = match &stopped.interrupted {
            Interrupted::Passed(limit) => self.earliest.as_ref().filter(|deadline| deadline.limit() == limit),
            _ => None,
        };
        let log = CallLog::of_operation(self.stage, stopped.started, deadline);
        self.explain(&log, Trouble::interrupted(stopped.interrupted, stopped.late_by))
    }

    /// An error of the system, explained where there is a socket. Its kind stays what it was.
    fn failed(&self, started: Option<Instant>, err: io::Error) -> io::Error {
        if self.wire.is_none() || self.is_shut_down || Error::find(&err).is_some() {
            return err;
        }
        let kind = err.kind();
        let (failure, source) = match kind {
            io::ErrorKind::UnexpectedEof => (Failure::Closed, Some(err)),
            _ => tls::io_failure(if self.stage == Stage::Send { "write" } else { "read" }, err),
        };
        let log = CallLog::of_operation(self.stage, started.unwrap_or_else(clock::now), None);
        io::Error::new(kind, self.explain(&log, (failure, source).into()))
    }

    fn explain(&self, log: &CallLog, trouble: Trouble) -> Error {
        let (read, written) = (self.handle.bytes_read(), self.handle.bytes_written());
        let last_read = self.wire.as_ref().and_then(Wire::last_read);
        let started = log.timeline().start();
        log.exchange(|exchange| {
            // A read that may not begin says nothing about what was sent.
            exchange.request_started = self.stage != Stage::Send;
            exchange.request_bytes = written;
            exchange.response_bytes = read;
            exchange.body_bytes = read;
            exchange.since_write = Some(read.saturating_sub(self.handle.read.mark.load(Relaxed)));
            exchange.last_read = last_read;
            exchange.reused_after = last_read.map(|at| started.saturating_duration_since(at));
        });
        let Some(wire) = &self.wire else { return log.fail(self.stage, trouble) };
        let report = ConnectionReport {
            cookie: wire.cookie(),
            peer: Some(wire.peer().to_string()),
            local: wire.local().map(|local| local.to_string()),
            ..ConnectionReport::default()
        };
        log.set_connection(report.into(), None);
        log.fail(self.stage, trouble.with_socket(wire.observe()))
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.side().leave();
    }
}

/// How far the bytes of a direction have come, on a scale of its own.
fn progress(stage: Stage, wire: Option<&Wire>) -> Option<i64> {
    match stage {
        Stage::Send => wire?.drained(),
        _ => i64::try_from(wire?.read_bytes()).ok(),
    }
}
