//! What one runtime has to wake, and the task that does.

use std::{
    cell::RefCell,
    collections::HashMap,
    mem,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
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
    sync::{Mutex as Modelled, MutexGuard, wake_all},
};

/// The alarms of one runtime.
pub(super) struct Alarms(Modelled<State>);

struct State {
    queue: Queue<Alarm>,
    /// When the driver looks next.
    armed: Option<Instant>,
    /// The system's clock is to tell it.
    by_clock: bool,
    driver: Option<Waker>,
    clock: Option<Arc<precise::Clock>>,
    /// The runtime is gone.
    closed: bool,
}

enum Alarm {
    Waiting(Waker),
    /// When it was noticed that its instant had come.
    Rung(Instant),
}

impl Alarm {
    fn ring(&mut self, now: Instant) -> Option<Waker> {
        match mem::replace(self, Self::Rung(now)) {
            Self::Waiting(waker) => Some(waker),
            Self::Rung(_) => None,
        }
    }
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

    /// Whether there are none of another runtime that would do better: those of the current one.
    pub(super) fn are_here(self: &Arc<Self>) -> bool {
        let Ok(handle) = Handle::try_current() else { return true };
        // Asked at every poll: no more counters that all threads share are touched than need be.
        let known = HERE.try_with(|here| {
            here.borrow().as_ref().is_some_and(|(id, alarms)| *id == handle.id() && Arc::ptr_eq(alarms, self))
        });
        known.unwrap_or(true) || Arc::ptr_eq(self, &Self::here())
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
            let key = state.queue.insert(at, Alarm::Waiting(waker));
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

    /// Ready with the instant in which the alarm rang; the task is woken when it does. `None` when it never will.
    pub(super) fn poll(&self, key: usize, cx: &Context<'_>) -> Option<Poll<Instant>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let former = match state.queue.get_mut(key)? {
            Alarm::Rung(at) => return Some(Poll::Ready(*at)),
            Alarm::Waiting(waker) if waker.will_wake(cx.waker()) => None,
            Alarm::Waiting(waker) => Some(mem::replace(waker, cx.waker().clone())),
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

    /// Wakes those who are due, and sees to it that the next are noticed. Returns the instant of the next when only the
    /// runtime's own timer can notice it.
    fn ring(&self) -> Option<Instant> {
        let now = clock::now();
        let mut due = Vec::new();
        let mut state = self.lock();
        while let Some(alarm) = state.queue.ring(now) {
            due.extend(alarm.ring(now));
        }
        let first = state.queue.first();
        state.armed = first;
        let by_clock = first.is_some_and(|at| state.clock.as_ref().is_some_and(|clock| clock.arm(at)));
        state.by_clock = by_clock;
        drop(state);
        wake_all(due);
        first.filter(|_| !by_clock)
    }

    /// Whom to wake when the runtime's own timer is needed.
    fn set_driver(&self, waker: &Waker) {
        let former = self.lock().driver.replace(waker.clone());
        drop(former);
    }

    /// Takes everybody who waits: the runtime is gone.
    fn close(&self) -> Vec<Waker> {
        let mut state = self.lock();
        state.closed = true;
        state.clock = None;
        let mut wakers: Vec<_> = state.queue.values_mut().filter_map(|alarm| alarm.ring(clock::now())).collect();
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

/// Wakes who waited when the clock rings, there and then: whoever is due stands in the runtime's queue as early as one
/// who waits for tokio's timers, also where that queue is long. The driver follows, to listen again.
struct Ringer {
    alarms: Arc<Alarms>,
    driver: Waker,
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.alarms.ring();
        self.driver.wake_by_ref();
    }
}

/// The task that listens to the clocks.
struct Driver {
    runtime: Id,
    alarms: Arc<Alarms>,
    clock: Option<precise::Bell>,
    sleep: Option<Pin<Box<Sleep>>>,
    ringer: Option<Arc<Ringer>>,
}

impl Driver {
    const fn new(runtime: Id, alarms: Arc<Alarms>) -> Self {
        Self { runtime, alarms, clock: None, sleep: None, ringer: None }
    }

    /// What the clocks wake. Before the first poll there is none.
    fn ringer(&mut self, cx: &Context<'_>) -> Waker {
        let known = self.ringer.as_ref().filter(|ringer| ringer.driver.will_wake(cx.waker()));
        let ringer = known.cloned().unwrap_or_else(|| {
            if self.ringer.is_none() {
                self.clock = precise::Bell::new();
                self.alarms.lock().clock = self.clock.as_ref().map(precise::Bell::clock);
            }
            self.alarms.set_driver(cx.waker());
            Arc::new(Ringer { alarms: Arc::clone(&self.alarms), driver: cx.waker().clone() })
        });
        self.ringer = Some(Arc::clone(&ringer));
        ringer.into()
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let ringer = this.ringer(cx);
        let mut cx = Context::from_waker(&ringer);
        loop {
            let by_sleep = this.alarms.ring();
            match (by_sleep, &mut this.sleep) {
                (Some(at), Some(sleep)) => sleep.as_mut().reset(at.into()),
                (Some(at), none) => *none = Some(Box::pin(tokio::time::sleep_until(at.into()))),
                (None, sleep) => *sleep = None,
            }
            let slept = this.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(&mut cx).is_ready());
            let rang = this.clock.as_mut().is_some_and(|clock| clock.poll(&mut cx).is_ready());
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
        wake_all(self.alarms.close());
    }
}

#[cfg(all(test, overdue_loom))]
mod models;
