//! What one runtime has to wake, and the task that does.

use std::{
    cell::RefCell,
    collections::HashMap,
    mem,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::{
    runtime::{Handle, Id},
    task::coop::unconstrained,
    time::Sleep,
};

use super::{precise, queue::Queue};
use crate::clock;

/// The alarms of one runtime.
pub(super) struct Alarms(Mutex<State>);

struct State {
    /// Who waits; nobody once it has rung.
    queue: Queue<Option<Waker>>,
    /// When the driver looks next.
    armed: Option<Instant>,
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

    fn of(handle: &Handle) -> Arc<Self> {
        let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alarms) = runtimes.get(&handle.id()).and_then(Weak::upgrade) {
            return alarms;
        }
        let alarms = Arc::new(Self(Mutex::new(State {
            queue: Queue::new(),
            armed: None,
            driver: None,
            clock: None,
            closed: false,
        })));
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
            (key, if earliest { state.arm(at) } else { None })
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
        if let Some(clock) = &self.clock
            && clock.arm(at)
        {
            return None;
        }
        self.driver.clone()
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
        let now = clock::now();
        let mut state = self.alarms.lock();
        while let Some(waiting) = state.queue.ring(now) {
            self.due.extend(waiting.take());
        }
        let first = state.queue.first();
        state.armed = first;
        let kept = first.is_none_or(|at| state.clock.as_ref().is_some_and(|clock| clock.arm(at)));
        let former = match &state.driver {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => state.driver.replace(cx.waker().clone()),
        };
        drop(state);
        drop(former);
        for waker in self.due.drain(..) {
            waker.wake();
        }
        self.due.shrink_to(DUE_KEPT);
        first.filter(|_| !kept)
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
        let mut wakers = Vec::new();
        {
            let mut state = self.alarms.lock();
            state.closed = true;
            state.clock = None;
            wakers.extend(state.queue.values_mut().filter_map(Option::take));
            wakers.extend(state.driver.take());
        }
        // Work that outlives this runtime in another one sets its alarms there.
        for waker in wakers {
            waker.wake();
        }
    }
}
