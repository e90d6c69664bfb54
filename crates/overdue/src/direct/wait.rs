//! One blocking operation: tried, waited for, tried again, until it is done or something ends it.
//!
//! The order is that of [`overdue::stream`](crate::stream): what forbids to begin is asked first, and from then on the
//! socket is asked before the clock. Between two tries the thread sleeps in `ppoll` on its socket and its
//! [`Alarm`]; ppoll takes nanoseconds, and unlike an epoll set it costs no descriptor and lets two threads wait for
//! different things of one socket. It returns early for many reasons, so everything is looked at anew then.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use overdue_core::{Deadline, Stage};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    alarm::Alarm,
    interrupt::Interrupter,
    side::{Due, Pending, Side},
};
use crate::{
    clock,
    context::{Interrupted, lateness},
};

/// What an operation waits for, and what bounds it.
pub(super) struct Wait<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) events: PollFlags,
    pub(super) stage: Stage,
    pub(super) side: &'a Side,
    pub(super) interrupters: [&'a Interrupter; 2],
    /// How long it tries without sleeping.
    pub(super) spin: Duration,
    /// Whether a signal ends it.
    pub(super) until_signal: bool,
}

/// Why an operation came to no result.
pub(super) enum Ended {
    /// By one of our limits, or by somebody who interrupted it.
    Stopped(Box<Stopped>),
    /// By what the system reported.
    Failed { err: io::Error, started: Instant },
    /// By a signal.
    Signal,
}

pub(super) struct Stopped {
    pub(super) interrupted: Interrupted,
    pub(super) late_by: Duration,
    pub(super) deadline: Option<Deadline>,
    pub(super) started: Instant,
}

impl Ended {
    fn interrupted(interrupted: Interrupted, started: Instant) -> Self {
        Self::Stopped(Box::new(Stopped { interrupted, late_by: Duration::ZERO, deadline: None, started }))
    }

    fn passed(due: Due, now: Instant, started: Instant) -> Self {
        let late_by = if due.past { Duration::ZERO } else { lateness(Some(&due.deadline), now) };
        Self::Stopped(Box::new(Stopped {
            interrupted: Interrupted::Passed(due.deadline.limit().clone()),
            late_by,
            deadline: Some(due.deadline),
            started,
        }))
    }
}

impl Wait<'_> {
    /// Runs `attempt` until it gives something else than `WouldBlock`.
    pub(super) fn run<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> Result<T, Ended> {
        may_begin(self.side, &self.interrupters)?;
        match settled(&mut attempt) {
            Some(Ok(value)) => Ok(value),
            Some(Err(err)) => Err(Ended::Failed { err, started: clock::unpaused() }),
            None => self.wait(attempt),
        }
    }

    /// Runs `attempt` once; `None` when it gave `WouldBlock`, and then the operation is pending until the next time.
    pub(super) fn attempt<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> Result<Option<T>, Ended> {
        let tried = self.side.tried();
        match tried {
            Some(pending) => not_interrupted(&self.interrupters, Some(pending.started))?,
            None => may_begin(self.side, &self.interrupters)?,
        }
        let result = self.attempt_pending(tried.unwrap_or_else(Pending::begin), &mut attempt);
        if !matches!(result, Ok(None)) {
            self.side.settle();
        }
        result
    }

    fn attempt_pending<T>(
        &self,
        mut pending: Pending,
        attempt: &mut impl FnMut() -> io::Result<T>,
    ) -> Result<Option<T>, Ended> {
        let started = pending.started;
        if let Some(result) = settled(attempt) {
            return result.map(Some).map_err(|err| Ended::Failed { err, started });
        }
        pending.note_progress(self.side, self.stage, self.fd);
        let now = clock::unpaused();
        if let Some(due) = self.side.due(&pending).filter(|due| due.deadline.passed(now))
            && !pending.went_on(&due, self.side, self.stage, self.fd, now)
        {
            // How long the caller let it lie is its own affair, and no lateness.
            return Err(Ended::passed(due, started, started));
        }
        self.side.set_tried(pending);
        Ok(None)
    }

    fn wait<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> Result<T, Ended> {
        let mut pending = Pending::begin();
        let started = pending.started;
        let failed = |err| Ended::Failed { err, started };
        let alarm = Alarm::of_thread().map_err(failed)?;
        let waker = Waker::from(Arc::clone(&alarm));
        // From here on every change rings. What was changed before is seen below.
        let _of_side = self.side.watchers.enlist_for_now(&waker);
        let _of_interrupters = self.interrupters.map(|interrupter| interrupter.watchers().enlist_for_now(&waker));
        // None is never.
        let sleeps_at = started.checked_add(self.spin);
        let mut now = started;
        loop {
            not_interrupted(&self.interrupters, Some(started))?;
            pending.note_progress(self.side, self.stage, self.fd);
            let due = self.side.due(&pending);
            let passed = due.as_ref().is_some_and(|due| due.deadline.passed(now));
            // After the clock was read: a result that is here by now wins.
            if let Some(result) = settled(&mut attempt) {
                return result.map_err(failed);
            }
            let deadline = match due {
                Some(due) if passed => {
                    if pending.went_on(&due, self.side, self.stage, self.fd, now) {
                        continue;
                    }
                    return Err(Ended::passed(due, now, started));
                }
                due => due.map(|due| due.deadline),
            };
            now = clock::unpaused();
            if sleeps_at.is_none_or(|at| now < at) {
                std::hint::spin_loop();
                continue;
            }
            let left = deadline.map(|deadline| punctual(deadline.remaining(now)));
            match self.sleep(&alarm, left) {
                Err(Errno::INTR) if self.until_signal => return Err(Ended::Signal),
                // What is left of the time is computed anew, so a signal lengthens nothing.
                Ok(()) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
            now = clock::unpaused();
        }
    }

    /// Sleeps until the socket is ready, the alarm rings, the time is over, or a signal comes.
    fn sleep(&self, alarm: &Alarm, left: Option<Duration>) -> Result<(), Errno> {
        let mut fds = [PollFd::from_borrowed_fd(self.fd, self.events), PollFd::new(alarm, PollFlags::IN)];
        poll(&mut fds, left.and_then(timespec).as_ref())?;
        let [_, rung] = fds;
        if !rung.revents().is_empty() {
            alarm.hush();
        }
        Ok(())
    }
}

/// What forbids to begin.
pub(super) fn may_begin(side: &Side, interrupters: &[&Interrupter]) -> Result<(), Ended> {
    not_interrupted(interrupters, None)?;
    match side.past() {
        Some(limit) => Err(Ended::interrupted(Interrupted::Past(limit), clock::unpaused())),
        None => Ok(()),
    }
}

fn not_interrupted(interrupters: &[&Interrupter], started: Option<Instant>) -> Result<(), Ended> {
    match interrupters.iter().find_map(|interrupter| interrupter.cause()) {
        Some(cause) => Err(Ended::interrupted(Interrupted::Cancelled(cause), started.unwrap_or_else(clock::unpaused))),
        None => Ok(()),
    }
}

/// What `attempt` gave, if not `WouldBlock`.
fn settled<T>(attempt: &mut impl FnMut() -> io::Result<T>) -> Option<io::Result<T>> {
    loop {
        match attempt() {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return None,
            // It did not wait, so no signal can be meant.
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            result => return Some(result),
        }
    }
}

/// For how long to sleep at a time to be awake in time. The kernel lets a sleeper in ppoll or epoll be late by a part of
/// its time: 1/1000, or 1/200 of one that is nice, and 100 ms at most. So a long sleep ends early, and who sleeps again
/// is late by a part of the rest.
pub(super) fn punctual(left: Duration) -> Duration {
    // What is shorter has no more slack than every sleep has, 50 us.
    if left < Duration::from_millis(10) { left } else { left.saturating_sub((left / 128).min(SLACK_MAX)) }
}

const SLACK_MAX: Duration = Duration::from_millis(100);

/// Longer times than the kernel can count have no end that anybody will see.
pub(super) fn timespec(duration: Duration) -> Option<Timespec> {
    Timespec::try_from(duration).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_sleeps_at_the_kernels_leisure_is_in_time(ns in 0..1_u64 << 62) {
            let mut left = Duration::from_nanos(ns);
            let mut sleeps = 0;
            while left >= Duration::from_millis(10) {
                // As late as the kernel lets the nicest of them be.
                let slack = (left / 200).min(Duration::from_millis(100));
                prop_assert!(punctual(left) + slack <= left);
                left -= punctual(left);
                sleeps += 1;
            }
            prop_assert_eq!(punctual(left), left);
            prop_assert!(sleeps <= 3, "{} sleeps", sleeps);
        }
    }
}
