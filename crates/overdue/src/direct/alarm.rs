//! Waking a thread that sleeps in the kernel.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Wake, Waker},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Pid, getpid},
};
use slab::Slab;

/// An eventfd that one thread polls beside its socket. Each thread has one of its own, and not each connection: of
/// several threads that wait on one connection, none can then take away what was meant for another.
pub(super) struct Alarm(OwnedFd);

thread_local! {
    /// With the process that made it.
    static OWN: RefCell<Option<(Pid, Arc<Alarm>)>> = const { RefCell::new(None) };
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// That of the thread that calls. It may have been rung for something that is over.
    pub(super) fn of_thread() -> io::Result<Arc<Self>> {
        // A child that was forked must not hear, and hush, what is rung for its parent.
        let process = getpid();
        let own = OWN.try_with(|own| {
            let mut own = own.borrow_mut();
            if let Some((_, alarm)) = own.as_ref().filter(|(maker, _)| *maker == process) {
                return Ok(Arc::clone(alarm));
            }
            let alarm = Arc::new(Self::new()?);
            *own = Some((process, Arc::clone(&alarm)));
            Ok(alarm)
        });
        // A thread that is ending has no locals any more.
        own.unwrap_or_else(|_| Self::new().map(Arc::new))
    }

    pub(super) fn ring(&self) {
        // It can fail in one way: the counter is full. Then it has been rung.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it ready to be rung again. What it was rung for has to be looked at after this.
    pub(super) fn hush(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Those who want to know when something changes.
///
/// Nothing is missed by who enlists first and looks at the thing then, as long as the thing is changed before
/// [`Watchers::wake`].
#[derive(Default)]
pub(super) struct Watchers(Mutex<Slab<Waker>>);

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key is for [`discharge`](Self::discharge).
    pub(super) fn enlist(&self, waker: Waker) -> usize {
        self.lock().insert(waker)
    }

    pub(super) fn discharge(&self, key: usize) {
        // Dropped when the lock is free.
        let _waker = self.lock().try_remove(key);
    }

    pub(super) fn enlist_for_now(&self, waker: &Waker) -> Enlisted<'_> {
        Enlisted { watchers: self, key: self.enlist(waker.clone()) }
    }

    /// All wakers are this module's own: they take no lock under which anybody calls this.
    pub(super) fn wake(&self) {
        for (_, waker) in &*self.lock() {
            waker.wake_by_ref();
        }
    }
}

/// Discharges when dropped.
pub(super) struct Enlisted<'a> {
    watchers: &'a Watchers,
    key: usize,
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.watchers.discharge(self.key);
    }
}

#[cfg(test)]
mod tests {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{WaitOptions, waitpid},
    };

    use super::*;

    /// Whoever shares it takes away what the other was woken for.
    #[test]
    fn a_child_that_was_forked_has_alarms_of_its_own() {
        let alarm = Alarm::of_thread().unwrap();
        // SAFETY: the child makes a descriptor, writes to it and ends.
        #[expect(unsafe_code, reason = "no safe way to fork")]
        let child = unsafe { libc::fork() };
        if child == 0 {
            let rung = Alarm::of_thread().map(|alarm| alarm.ring());
            // SAFETY: nothing of the parent's is run or dropped.
            #[expect(unsafe_code, reason = "as above")]
            unsafe {
                libc::_exit(i32::from(rung.is_err()));
            }
        }
        let (_, status) = waitpid(Pid::from_raw(child), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&alarm, PollFlags::IN)], Some(&at_once)), Ok(0), "it rang here");
    }
}
