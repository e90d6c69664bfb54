//! What can go wrong when a connection is accepted, and how often it has.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::Refused;

/// Why a connection could not be accepted. The listener survives all of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptFailure {
    /// EMFILE: this process has as many descriptors as it may (`ulimit -n`).
    #[error("this process has no descriptor left (EMFILE)")]
    ProcessDescriptors,
    /// ENFILE: the machine has as many open files as it may (`fs.file-max`).
    #[error("this machine has no descriptor left (ENFILE)")]
    SystemDescriptors,
    /// ENOBUFS, ENOMEM: the kernel has no memory for it.
    #[error("the kernel has no memory left (ENOBUFS, ENOMEM)")]
    Memory,
    /// The connection failed before it was accepted (ECONNABORTED, EPROTO, ENETDOWN, EPERM by a packet filter, ...).
    #[error("the connection failed before it was accepted")]
    Peer,
    /// Anything else.
    #[error("the system refused for another reason")]
    Other,
}

impl AcceptFailure {
    const ALL: [Self; 5] = [Self::ProcessDescriptors, Self::SystemDescriptors, Self::Memory, Self::Peer, Self::Other];

    /// `None` where the listener itself is of no more use.
    pub(super) fn of(err: &io::Error) -> Option<Self> {
        Some(match err.raw_os_error()? {
            libc::EMFILE => Self::ProcessDescriptors,
            libc::ENFILE => Self::SystemDescriptors,
            libc::ENOBUFS | libc::ENOMEM => Self::Memory,
            libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ETIMEDOUT
            | libc::EPERM
            | libc::EINTR => Self::Peer,
            #[cfg(target_os = "linux")]
            libc::ENONET => Self::Peer,
            libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT => return None,
            _ => Self::Other,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    refused: [AtomicU64; 3],
    failures: [AtomicU64; AcceptFailure::ALL.len()],
    exhaustions: AtomicU64,
    exhausted_since: Mutex<Option<Instant>>,
}

impl Counters {
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, why: Refused) {
        self.of_refused(why).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, failure: AcceptFailure) {
        self.of_failure(failure).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn exhausted(&self, since: Option<Instant>) {
        if since.is_some() {
            self.exhaustions.fetch_add(1, Ordering::Relaxed);
        }
        *self.exhausted_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn of_refused(&self, why: Refused) -> &AtomicU64 {
        let [exhausted, total, source] = &self.refused;
        match why {
            Refused::Exhausted => exhausted,
            Refused::Total => total,
            Refused::Source => source,
        }
    }

    fn of_failure(&self, failure: AcceptFailure) -> &AtomicU64 {
        let [process, system, memory, peer, other] = &self.failures;
        match failure {
            AcceptFailure::ProcessDescriptors => process,
            AcceptFailure::SystemDescriptors => system,
            AcceptFailure::Memory => memory,
            AcceptFailure::Peer => peer,
            AcceptFailure::Other => other,
        }
    }
}

/// Counts what happened to a listener, since it was made. A handle: it may be asked from any thread at any time, and
/// after the listener is gone.
#[derive(Clone, Debug)]
pub struct ListenerStats(Arc<Counters>);

impl ListenerStats {
    pub(super) const fn of(counters: Arc<Counters>) -> Self {
        Self(counters)
    }

    /// Connections that were handed out.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Connections that were refused for this reason.
    #[must_use]
    pub fn refused(&self, why: Refused) -> u64 {
        self.0.of_refused(why).load(Ordering::Relaxed)
    }

    /// How often accepting failed in this way.
    #[must_use]
    pub fn failures(&self, failure: AcceptFailure) -> u64 {
        self.0.of_failure(failure).load(Ordering::Relaxed)
    }

    /// How often it began that nothing could be accepted.
    #[must_use]
    pub fn exhaustions(&self) -> u64 {
        self.0.exhaustions.load(Ordering::Relaxed)
    }

    /// Since when nothing can be accepted; `None` where all was well when the last connection was accepted.
    #[must_use]
    pub fn exhausted_since(&self) -> Option<Instant> {
        *self.0.exhausted_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A descriptor for the day when there is no other.
#[derive(Debug)]
pub(super) struct Spare(Option<File>);

impl Spare {
    pub(super) fn new() -> Self {
        let mut spare = Self(None);
        spare.refill();
        spare
    }

    /// Frees it. False where there is none to free: somebody else was faster the last time.
    pub(super) fn give_up(&mut self) -> bool {
        self.refill();
        self.0.take().is_some()
    }

    /// Whether there is one.
    pub(super) fn refill(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = Self::open();
        }
        self.0.is_some()
    }

    /// Whether there would be another.
    pub(super) fn one_more() -> bool {
        Self::open().is_some()
    }

    fn open() -> Option<File> {
        File::open("/dev/null").ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_listener_survives() {
        let of = |code| AcceptFailure::of(&io::Error::from_raw_os_error(code));
        for (code, failure) in [
            (libc::EMFILE, AcceptFailure::ProcessDescriptors),
            (libc::ENFILE, AcceptFailure::SystemDescriptors),
            (libc::ENOBUFS, AcceptFailure::Memory),
            (libc::ENOMEM, AcceptFailure::Memory),
            (libc::ECONNABORTED, AcceptFailure::Peer),
            (libc::EPROTO, AcceptFailure::Peer),
            (libc::ENETDOWN, AcceptFailure::Peer),
            (libc::EPERM, AcceptFailure::Peer),
            (libc::EIO, AcceptFailure::Other),
        ] {
            assert_eq!(of(code), Some(failure));
        }
        for code in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
            assert_eq!(of(code), None);
        }
    }
}
