//! What is shared between threads is made of these: the standard library's, or loom's, which tries every order in which
//! two threads can meet there (`cargo xtask test --only models`).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

#[cfg(all(overdue_loom, feature = "client"))]
pub(crate) use loom::sync::atomic::AtomicBool;
#[cfg(overdue_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(overdue_loom)]
pub(crate) use modelled::OnceLock;
#[cfg(all(not(overdue_loom), feature = "client"))]
pub(crate) use std::sync::atomic::AtomicBool;
#[cfg(not(overdue_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock};

/// Wakes all of them. What is behind a waker may be foreign code: one that panics, which its hook reports, must not keep
/// the others from being woken.
pub(crate) fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// What loom does not have.
#[cfg(overdue_loom)]
mod modelled {
    use loom::sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    };

    /// A cell that is written once. Whoever comes second finds it written.
    pub(crate) struct OnceLock<T> {
        writing: Mutex<()>,
        written: AtomicBool,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { writing: Mutex::new(()), written: AtomicBool::new(false), value: std::sync::OnceLock::new() }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.written.load(Ordering::Acquire) { self.value.get() } else { None }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            let _writing = self.writing.lock();
            self.value.set(value)?;
            self.written.store(true, Ordering::Release);
            Ok(())
        }

        pub(crate) fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
            let _writing = self.writing.lock();
            let value = self.value.get_or_init(value);
            self.written.store(true, Ordering::Release);
            value
        }
    }
}
