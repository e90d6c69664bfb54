//! Reads that may never return.
//!
//! Some files of `/proc/PID` take a lock of the process that they tell of: `cmdline`, `environ`, `maps`, `mem`, and the
//! memory itself want its `mmap_lock`; `syscall` and `stack` wait for an `execve` to end. A thread that is stuck in the
//! kernel with such a lock (a page fault on a dead file server, say) stops every reader for as long, and that is
//! the very process that people ask about. The files that it has mapped may lie on that server, too.

use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use crate::observation::Hidden;

/// How long a read of a process's memory may take that usually takes microseconds.
pub(super) const LIMIT: Duration = Duration::from_millis(500);
/// How long a whole look may take, of many reads.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Reads of one kind, over and over: under a limit, and not again once one was given up. So one thread is left behind at
/// most, however long the watch.
#[derive(Debug)]
pub(super) struct Patience {
    what: &'static str,
    limit: Duration,
    refused: Option<Hidden>,
}

impl Patience {
    pub(super) const fn new(what: &'static str, limit: Duration) -> Self {
        Self { what, limit, refused: None }
    }

    /// As [`patiently`]; `None` where that was given up, now or before.
    pub(super) fn ask<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.refused.is_some() {
            return None;
        }
        patiently(self.what, self.limit, work).map_err(|hidden| self.refused = Some(hidden)).ok()
    }

    /// Why it is not asked any more.
    pub(super) const fn refused(&self) -> Option<&Hidden> {
        self.refused.as_ref()
    }
}

/// Runs `work` on a thread of its own and waits for it no longer than `limit`. What has not ended by then is left
/// behind, with its thread: whoever gets an error does not ask for the same again.
///
/// # Errors
/// When it did not end in time, or no thread could be started.
pub(super) fn patiently<T: Send + 'static>(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Hidden> {
    let (tell, told) = sync_channel(1);
    let hidden = |why: String, how: &str| Hidden { what: what.to_owned(), why, how: how.to_owned() };
    thread::Builder::new()
        .name("overdue-read".to_owned())
        .spawn(move || {
            // Nobody listens any more when it took too long.
            let _ = tell.send(work());
        })
        .map_err(|err| hidden(format!("no thread could be started: {err}"), "raise the limit of threads"))?;
    told.recv_timeout(limit).map_err(|err| match err {
        RecvTimeoutError::Timeout => hidden(
            format!(
                "the kernel did not answer within {} ms: a lock of the process's memory is held, or its files lie on \
                 a server that is silent",
                limit.as_millis()
            ),
            "look for threads in uninterruptible sleep: one of them holds it, or waits for the same",
        ),
        RecvTimeoutError::Disconnected => hidden("the read failed within the watcher".to_owned(), "report this"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_never_returns_is_given_up() {
        let (end, ended) = channel::<()>();
        let hidden = patiently("command line", Duration::from_millis(10), move || ended.recv()).unwrap_err();
        assert_eq!(hidden.what, "command line");
        assert!(hidden.why.contains("10 ms"), "{hidden:?}");
        drop(end);
        assert_eq!(patiently("x", LIMIT, || 7), Ok(7));
    }

    #[test]
    fn what_was_given_up_is_not_asked_again() {
        let mut patience = Patience::new("memory", Duration::from_millis(10));
        assert_eq!((patience.ask(|| 7), patience.refused()), (Some(7), None));
        let (end, ended) = channel::<()>();
        assert_eq!(patience.ask(move || ended.recv().is_ok()), None);
        assert_eq!(patience.refused().map(|hidden| hidden.what.as_str()), Some("memory"));
        let (tell, told) = channel();
        assert_eq!(patience.ask(move || tell.send(())), None);
        assert!(told.recv().is_err(), "nothing was begun");
        assert!(patience.refused().is_some(), "it is still said");
        drop(end);
    }
}
