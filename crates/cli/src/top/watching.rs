//! The threads that look: at one process, or at all of them. They end when nobody is interested any more.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel, sync_channel},
    time::Duration,
};

use anyhow::Context as _;
use overdue_why::collect::{Clock, Ended, Interrupt, Options, Watch, machine::Machine};

use super::{
    Mail, beside,
    model::Input,
    picture::{Before, Picture},
};

/// From one picture to the next.
const EVERY: Duration = Duration::from_secs(1);
/// From one look at all processes to the next.
const LIST_EVERY: Duration = Duration::from_secs(2);
/// How long the ends of all watches are waited for, when the program ends. The kernel takes everything down when this
/// process has ended, at the latest.
const DETACH_WITHIN: Duration = Duration::from_secs(3);

/// A watch that goes on beside.
pub(crate) struct Watching {
    interrupt: Interrupt,
    detached: Leaving,
}

/// A watch that was told to end, and does so beside, however long that takes.
pub(crate) struct Leaving {
    /// Nothing is ever sent: it is closed when everything is detached.
    detached: Receiver<()>,
}

impl Watching {
    pub(crate) fn begin(watch: u64, pid: u32, post: &Sender<Mail>) -> anyhow::Result<Self> {
        let interrupt = Interrupt::new().context("no descriptor is left")?;
        let raised = interrupt.clone();
        let (until, detached) = sync_channel::<()>(0);
        beside("overdue-watch", post, move |post| {
            watch_on(pid, &raised, |input| post.send(Mail::Watched(watch, input)).is_ok());
            drop(until);
        })?;
        Ok(Self { interrupt, detached: Leaving { detached } })
    }

    /// Tells it to end, and does not wait for that.
    pub(crate) fn leave(self) -> Leaving {
        self.interrupt.raise();
        self.detached
    }
}

impl Leaving {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.detached.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Waits for the ends of all, no longer than one limit together.
    pub(crate) fn wait_for_all(all: &[Self]) {
        let began = Clock::start();
        for leaving in all {
            _ = leaving.detached.recv_timeout(DETACH_WITHIN.saturating_sub(began.elapsed()));
        }
    }
}

/// `tell` is false when nobody listens.
fn watch_on(pid: u32, interrupt: &Interrupt, tell: impl Fn(Input) -> bool) {
    let mut watch = match Watch::attach(pid, Options::default()) {
        Ok(watch) => watch,
        Err(error) => {
            tell(Input::Failed(error.to_string()));
            return;
        }
    };
    let clock = Clock::start();
    let mut before = Before::default();
    loop {
        let (ended, seen) = watch.next(EVERY, interrupt);
        if ended == Ended::Interrupted || !tell(Input::Seen(Box::new(Picture::of(seen, &mut before, clock.elapsed()))))
        {
            return;
        }
        match ended {
            Ended::Process => {
                tell(Input::Ended);
                return;
            }
            Ended::Memory => {
                tell(Input::Failed("the watch held too much memory and was ended: begin another".to_owned()));
                return;
            }
            Ended::Time | Ended::Interrupted => {}
        }
    }
}

/// Looks at all processes that go on beside. Dropping it ends them.
pub(crate) struct Listing {
    /// Closed when it is dropped.
    _interested: Sender<()>,
}

impl Listing {
    pub(crate) fn begin(post: &Sender<Mail>) -> anyhow::Result<Self> {
        let (interested, until) = channel();
        beside("overdue-list", post, move |post| list(&until, &post))?;
        Ok(Self { _interested: interested })
    }
}

fn list(until: &Receiver<()>, post: &Sender<Mail>) {
    let mut machine = match Machine::new() {
        Ok(machine) => machine,
        Err(hidden) => {
            let why = format!("{}: {}; {}", hidden.what, hidden.why, hidden.how);
            _ = post.send(Mail::Input(Input::Processes(Err(why))));
            return;
        }
    };
    loop {
        let seen = machine.look().map_err(|error| format!("processes cannot be listed: {error}"));
        if post.send(Mail::Input(Input::Processes(seen))).is_err() {
            return;
        }
        match until.recv_timeout(LIST_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that hangs in the kernel, say: the thread that draws goes on, and the program ends.
    #[test]
    fn nobody_waits_for_a_watch_that_does_not_end() {
        let (hangs, detached) = sync_channel(0);
        let interrupt = Interrupt::new().unwrap();
        let clock = Clock::start();
        let leaving = Watching { interrupt, detached: Leaving { detached } }.leave();
        assert!(!leaving.is_over() && clock.elapsed() < DETACH_WITHIN / 4);
        let (_hangs_too, detached) = sync_channel(0);
        let all = [leaving, Leaving { detached }];
        Leaving::wait_for_all(&all);
        assert!((DETACH_WITHIN..DETACH_WITHIN * 3 / 2).contains(&clock.elapsed()), "{:?}", clock.elapsed());
        drop(hangs);
        assert!(all[0].is_over() && !all[1].is_over());
    }
}
