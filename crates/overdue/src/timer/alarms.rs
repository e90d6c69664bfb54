//! What one runtime has to wake, and the task that does.

use std::{
    cell::RefCell,
    collections::HashMap,
    mem,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::{
    runtime::{Handle, Id},
    task::coop::unconstrained,
    time::Sleep,
};

use super::{precise, queue::Queue};
use crate::{
    clock,
    sync::{Mutex as Modelled, MutexGuard},
};

/// The alarms of one runtime.
pub(super) struct Alarms(Modelled<State>);

struct State {
    /// Who waits; nobody once it has rung.
    queue: Queue<Option<Waker>>,
    /// When the driver looks next.
    armed: Option<Instant>,
    /// The system's clock is to tell it.
    by_clock: bool,
    driver: Option<Waker>,
    clock: Option<Arc<precise::Clock>>,
    /// The runtime is gone.
    closed: bool,
}

static RUNTIMES: LazyLock<Mutex<HashMap<Id, Weak<Alarms>>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Those of the runtime that this thread worked for last.
    static HERE: RefCell<Option<(Id, Arc<Alarms>)>> = const { RefCell::new(None) };
}

impl Alarms {
    /// Sets an alarm with those of the current runtime. `None` when that is being shut down.
    pub(super) fn set(at: Instant, cx: &Context<'_>) -> Option<(Arc<Self>, usize)> {
        let alarms = Self::here();
        let key = alarms.insert(at, cx.waker().clone())?;
        Some((alarms, key))
    }

    pub(super) fn here() -> Arc<Self> {
        let handle = Handle::current();
        let id = handle.id();
        let known = HERE.try_with(|here| {
            here.borrow().as_ref().filter(|(other, _)| *other == id).map(|(_, alarms)| Arc::clone(alarms))
        });
        if let Ok(Some(alarms)) = known {
            return alarms;
        }
        let alarms = Self::of(&handle);
        // A thread that ends keeps none.
        let _ = HERE.try_with(|here| here.replace(Some((id, Arc::clone(&alarms)))));
        alarms
    }

    fn new() -> Self {
        let state =
            State { queue: Queue::new(), armed: None, by_clock: false, driver: None, clock: None, closed: false };
        Self(Modelled::new(state))
    }

    fn of(handle: &Handle) -> Arc<Self> {
        let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alarms) = runtimes.get(&handle.id()).and_then(Weak::upgrade) {
            return alarms;
        }
        let alarms = Arc::new(Self::new());
        runtimes.insert(handle.id(), Arc::downgrade(&alarms));
        drop(runtimes);
        // A runtime that is being shut down drops the task at once.
        handle.spawn(unconstrained(Driver::new(handle.id(), Arc::clone(&alarms))));
        alarms
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, at: Instant, waker: Waker) -> Option<usize> {
        let (key, driver) = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            let key = state.queue.insert(at, Some(waker));
            let earliest = state.armed.is_none_or(|armed| at < armed);
            let driver = match () {
                () if earliest => state.arm(at),
                () if state.was_stopped() => state.driver.clone(),
                () => None,
            };
            (key, driver)
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Some(key)
    }

    /// Whether the alarm has rung; the task is woken when it does. `None` when it never will.
    pub(super) fn poll(&self, key: usize, cx: &Context<'_>) -> Option<Poll<()>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let (rung, waiting) = state.queue.get_mut(key)?;
        if rung {
            return Some(Poll::Ready(()));
        }
        let former = match waiting {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => waiting.replace(cx.waker().clone()),
        };
        drop(state);
        // Not under the lock: it may be the last of a task that has alarms of its own.
        drop(former);
        Some(Poll::Pending)
    }

    pub(super) fn remove(&self, key: usize) {
        let former = self.lock().queue.remove(key);
        drop(former);
    }

    /// Takes those who are due, and sees to it that the driver is woken for the next. Returns the instant of the next
    /// when only the runtime's own timer can.
    fn take_due(&self, cx: &Context<'_>, due: &mut Vec<Waker>) -> Option<Instant> {
        let now = clock::now();
        let mut state = self.lock();
        while let Some(waiting) = state.queue.ring(now) {
            due.extend(waiting.take());
        }
        let first = state.queue.first();
        state.armed = first;
        let by_clock = first.is_some_and(|at| state.clock.as_ref().is_some_and(|clock| clock.arm(at)));
        state.by_clock = by_clock;
        let former = match &state.driver {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => state.driver.replace(cx.waker().clone()),
        };
        drop(state);
        drop(former);
        first.filter(|_| !by_clock)
    }

    /// Takes everybody who waits: the runtime is gone.
    fn close(&self) -> Vec<Waker> {
        let mut state = self.lock();
        state.closed = true;
        state.clock = None;
        let mut wakers: Vec<_> = state.queue.values_mut().filter_map(Option::take).collect();
        wakers.extend(state.driver.take());
        wakers
    }

    /// How many alarms are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().queue.values_mut().count()
    }
}

impl State {
    /// Sees to it that the driver looks at `at`. Returns its waker when it has to see to it itself.
    fn arm(&mut self, at: Instant) -> Option<Waker> {
        self.armed = Some(at);
        self.by_clock = self.clock.as_ref().is_some_and(|clock| clock.arm(at));
        if self.by_clock { None } else { self.driver.clone() }
    }

    /// Whether the runtime's clock was stopped since the system's was armed: then that comes too late, and the driver
    /// has to see to it. Time is stopped in tests, which are built with debug assertions; nobody else pays for the look.
    fn was_stopped(&self) -> bool {
        cfg!(debug_assertions) && self.by_clock && !precise::is_real()
    }
}

/// The task that wakes who waited.
struct Driver {
    runtime: Id,
    alarms: Arc<Alarms>,
    started: bool,
    clock: Option<precise::Bell>,
    sleep: Option<Pin<Box<Sleep>>>,
    due: Vec<Waker>,
}

impl Driver {
    const fn new(runtime: Id, alarms: Arc<Alarms>) -> Self {
        Self { runtime, alarms, started: false, clock: None, sleep: None, due: Vec::new() }
    }

    /// Wakes who is due. Returns the instant for which the runtime's own timer is needed.
    fn ring(&mut self, cx: &Context<'_>) -> Option<Instant> {
        let by_runtime = self.alarms.take_due(cx, &mut self.due);
        for waker in self.due.drain(..) {
            waker.wake();
        }
        self.due.shrink_to(DUE_KEPT);
        by_runtime
    }
}

const DUE_KEPT: usize = 1024;

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !mem::replace(&mut this.started, true) {
            this.clock = precise::Bell::new();
            this.alarms.lock().clock = this.clock.as_ref().map(precise::Bell::clock);
        }
        loop {
            let by_sleep = this.ring(cx);
            match (by_sleep, &mut this.sleep) {
                (Some(at), Some(sleep)) => sleep.as_mut().reset(at.into()),
                (Some(at), none) => *none = Some(Box::pin(tokio::time::sleep_until(at.into()))),
                (None, sleep) => *sleep = None,
            }
            let slept = this.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
            let rang = this.clock.as_mut().is_some_and(|clock| clock.poll(cx).is_ready());
            if !slept && !rang {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.runtime);
        // Work that outlives this runtime in another one sets its alarms there.
        self.alarms.close().into_iter().for_each(Waker::wake);
    }
}

#[cfg(all(test, overdue_loom))]
mod models;
