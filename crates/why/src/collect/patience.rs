//! Reads that may never return.
//!
//! Some files of `/proc/PID` take a lock of the process that they tell of: `cmdline`, `environ`, `maps`, `mem`, and the
//! memory itself want its `mmap_lock`; `syscall` and `stack` wait for an `execve` to end. A thread that is stuck in the
//! kernel with such a lock (a page fault on a dead file server, say) stops every reader for as long, and that is
//! the very process that people ask about.

use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use crate::observation::Hidden;

/// How long a read of a process's memory may take that usually takes microseconds.
pub(super) const LIMIT: Duration = Duration::from_millis(500);

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
                "the kernel did not answer within {} ms: a lock of the process's memory is held",
                limit.as_millis()
            ),
            "look for threads in uninterruptible sleep: one of them holds it",
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
}
