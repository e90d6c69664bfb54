//! One direction of a connection: what bounds it, and how far its bytes came.

use std::{
    os::fd::BorrowedFd,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use overdue_core::{Deadline, Limit, Stage};

use super::alarm::Watchers;
use crate::{clock, socket};

#[derive(Default)]
pub(super) struct Side {
    bounds: Mutex<Bounds>,
    /// Told of every change of the bounds.
    pub(super) watchers: Watchers,
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
    /// The operation that is tried again and again, and not waited in.
    pending: Option<Pending>,
    /// A poller waits in this direction: the next operation is pending as soon as one is done.
    polled: bool,
}

/// An operation that has begun and is not done.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub(super) started: Instant,
    /// When the idle limit began to count, and how far things had come then.
    idle_since: Instant,
    progress: Option<i64>,
}

/// What ends an operation first.
pub(super) struct Due {
    pub(super) deadline: Deadline,
    /// It had passed when it was set.
    pub(super) past: bool,
    /// It is the idle limit that fires, unless bytes moved.
    idle: bool,
}

impl Side {
    fn lock(&self) -> MutexGuard<'_, Bounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_deadline(&self, deadline: Option<Deadline>, now: Instant) {
        let past = deadline.as_ref().is_some_and(|deadline| deadline.passed(now));
        self.change(|bounds| (bounds.deadline, bounds.past) = (deadline, past));
    }

    pub(super) fn set_idle(&self, limit: Option<Limit>) {
        self.change(|bounds| bounds.idle = limit);
    }

    fn change(&self, change: impl FnOnce(&mut Bounds)) {
        change(&mut self.lock());
        self.watchers.wake();
    }

    /// The limit that had fired before an operation begins.
    pub(super) fn past(&self) -> Option<Limit> {
        let bounds = self.lock();
        let deadline = bounds.deadline.as_ref()?;
        deadline.passed(clock::unpaused()).then(|| deadline.limit().clone())
    }

    /// What ends this operation first.
    pub(super) fn due(&self, pending: &Pending) -> Option<Due> {
        self.lock().due(pending)
    }

    /// When the operation that is tried is due.
    pub(super) fn tried_due(&self) -> Option<Instant> {
        let bounds = self.lock();
        bounds.due(bounds.pending.as_ref()?).map(|due| due.deadline.at())
    }

    /// The operation that is tried, if one has begun.
    pub(super) fn tried(&self) -> Option<Pending> {
        self.lock().pending
    }

    /// It could not be done yet.
    pub(super) fn set_tried(&self, pending: Pending) {
        self.restart(Some(pending));
    }

    /// It is over. In a poller the next one begins.
    pub(super) fn settle(&self) {
        self.restart(None);
    }

    fn restart(&self, pending: Option<Pending>) {
        let moved = {
            let mut bounds = self.lock();
            bounds.pending = pending.or_else(|| bounds.polled.then(Pending::begin));
            bounds.polled && bounds.idle.is_some()
        };
        if moved {
            self.watchers.wake();
        }
    }

    /// Remembers how far things have come when a poller begins to wait.
    pub(super) fn note_progress(&self, stage: Stage, fd: BorrowedFd<'_>) {
        let Some(mut pending) = self.tried() else { return };
        pending.note_progress(self, stage, fd);
        if let Some(tried) = &mut self.lock().pending {
            tried.progress = tried.progress.or(pending.progress);
        }
    }

    pub(super) fn set_polled(&self, polled: bool) {
        self.change(|bounds| {
            bounds.polled = polled;
            bounds.pending = polled.then(Pending::begin);
        });
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

    pub(super) fn since_mark(&self) -> u64 {
        self.bytes().saturating_sub(self.mark.load(Relaxed))
    }

    /// How far the bytes have come, on a scale of its own. What is written has come as far as the peer took it.
    fn progress(&self, stage: Stage, fd: BorrowedFd<'_>) -> Option<i64> {
        let moved = i64::try_from(self.bytes()).ok()?;
        match stage {
            Stage::Send => Some(moved.saturating_sub(socket::unacknowledged_bytes(fd)?.into())),
            _ => Some(moved),
        }
    }
}

impl Bounds {
    fn due(&self, pending: &Pending) -> Option<Due> {
        let idle = self.idle.clone().map(|idle| Deadline::after(pending.idle_since, idle));
        match (idle, &self.deadline) {
            (Some(idle), Some(deadline)) if deadline.at() < idle.at() => {
                Some(Due { deadline: idle.clipped(Some(deadline)), past: self.past, idle: false })
            }
            (Some(idle), _) => Some(Due { deadline: idle, past: false, idle: true }),
            (None, deadline) => Some(Due { deadline: deadline.clone()?, past: self.past, idle: false }),
        }
    }
}

impl Pending {
    /// An operation that begins now.
    pub(super) fn begin() -> Self {
        let now = clock::unpaused();
        Self { started: now, idle_since: now, progress: None }
    }

    /// Remembers how far things have come, if an idle limit counts.
    pub(super) fn note_progress(&mut self, side: &Side, stage: Stage, fd: BorrowedFd<'_>) {
        if self.progress.is_none() && side.lock().idle.is_some() {
            self.progress = side.progress(stage, fd);
        }
    }

    /// Whether it is the idle limit that fired, and bytes moved since it began to count. Then it begins anew.
    pub(super) fn went_on(&mut self, due: &Due, side: &Side, stage: Stage, fd: BorrowedFd<'_>, now: Instant) -> bool {
        if !due.idle {
            return false;
        }
        let progress = side.progress(stage, fd);
        if self.progress.is_none() || progress <= self.progress {
            return false;
        }
        (self.progress, self.idle_since) = (progress, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
        time::Duration,
    };

    use overdue_core::LimitName;

    use super::*;

    fn idle(side: &Side) -> (Pending, Instant) {
        side.set_idle(Some(Limit::new(LimitName::Idle, Duration::from_millis(1))));
        let pending = Pending::begin();
        (pending, pending.started + Duration::from_millis(1))
    }

    #[test]
    fn a_write_that_waits_is_not_idle_while_the_peer_takes_bytes() {
        let (mut own, mut peer) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let side = Side::default();
        loop {
            match own.write(&[0; 4096]) {
                Ok(bytes) => side.moved(bytes),
                Err(err) => break assert_eq!(err.kind(), ErrorKind::WouldBlock),
            }
        }
        let (mut pending, fires) = idle(&side);
        pending.note_progress(&side, Stage::Send, own.as_fd());
        let went_on =
            |pending: &mut Pending, due: &Due, now| pending.went_on(due, &side, Stage::Send, own.as_fd(), now);
        let due = side.due(&pending).unwrap();
        assert_eq!(due.deadline.at(), fires);
        assert!(!went_on(&mut pending, &due, fires), "nothing was taken");
        peer.read_exact(&mut [0; 4096]).unwrap();
        assert!(went_on(&mut pending, &due, fires));
        let due = side.due(&pending).unwrap();
        assert_eq!(due.deadline.at(), fires + Duration::from_millis(1), "it began anew");
        assert!(!went_on(&mut pending, &due, due.deadline.at()));
    }

    #[test]
    fn a_read_that_waits_is_not_idle_while_another_thread_reads_and_a_deadline_asks_nobody() {
        let (own, _peer) = UnixStream::pair().unwrap();
        let side = Side::default();
        let (mut pending, fires) = idle(&side);
        pending.note_progress(&side, Stage::Receive, own.as_fd());
        let due = side.due(&pending).unwrap();
        side.moved(1);
        assert!(pending.went_on(&due, &side, Stage::Receive, own.as_fd(), fires));
        side.moved(1);
        side.set_deadline(Some(Deadline::at_instant(fires, Limit::total(Duration::ZERO))), fires);
        let due = side.due(&pending).unwrap();
        assert!(due.past && due.deadline.limit().name == LimitName::Total);
        assert!(!pending.went_on(&due, &side, Stage::Receive, own.as_fd(), fires));
    }
}
