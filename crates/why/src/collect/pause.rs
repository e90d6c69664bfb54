//! Waiting between two looks: for a time, for the end of the process, or for whoever interrupts the watch.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{Ended, Interrupt, Target, ending};
use crate::observation::Ending;

/// Waits beside one process.
pub(super) struct Pause {
    target: Target,
    /// Becomes readable when the last thread has ended. `None` where the kernel has no such thing.
    pidfd: Option<OwnedFd>,
}

impl Pause {
    pub(super) fn new(target: &Target) -> Self {
        Self { pidfd: pidfd(target), target: target.clone() }
    }

    /// How the process ended, if it has.
    pub(super) fn ending(&self) -> Option<Ending> {
        ending::of(&self.target, self.pidfd.as_ref())
    }

    /// Waits no longer than that. Tells what ended the watch, if anything did.
    pub(super) fn wait(&self, interrupt: &Interrupt, at_most: Duration) -> Option<Ended> {
        let mut fds = vec![PollFd::from_borrowed_fd(interrupt.fd(), PollFlags::IN)];
        fds.extend(self.pidfd.as_ref().map(|pidfd| PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)));
        let at_most = Timespec::try_from(at_most).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 1_000_000 });
        match poll(&mut fds, Some(&at_most)) {
            Ok(_) | Err(Errno::INTR) => {}
            // Never in practice; and without it, who could say that it is over?
            Err(_) => return Some(Ended::Interrupted),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if self.pidfd.as_ref().map_or_else(|| !self.target.is_alive(), |_| is_ready(1)) {
            return Some(Ended::Process);
        }
        is_ready(0).then_some(Ended::Interrupted)
    }
}

/// A descriptor of the process itself. Its number may have been given to another since the target was found: that one
/// still being there after tells that it was not.
pub(super) fn pidfd(target: &Target) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(target.pid()).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    target.is_alive().then_some(pidfd)
}
