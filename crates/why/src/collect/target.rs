//! The process that is watched: one and the same from the first look to the last, whatever its number is given to.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags, open, openat};

/// The process has ended, or never was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("process {0} is not there")]
pub struct Gone(pub u32);

/// A process, held by its folder in `/proc`: when it has ended, reads fail, even when another process has its number.
/// A clone is the same process.
#[derive(Clone, Debug)]
pub struct Target {
    pid: u32,
    folder: Arc<OwnedFd>,
}

impl Target {
    /// The process with that number (a thread's number is not one).
    ///
    /// # Errors
    /// [`Gone`] when there is no such process.
    pub fn new(pid: u32) -> Result<Self, Gone> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(format!("/proc/{pid}"), flags, Mode::empty()).map_err(|_| Gone(pid))?;
        let target = Self { pid, folder: Arc::new(folder) };
        // `/proc/TID` opens for any thread; only a process is listed as its own group's leader.
        let status = target.read("status", 16 * 1024).map_err(|_| Gone(pid))?;
        let status = String::from_utf8_lossy(&status);
        let leader = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        if leader.and_then(|leader| leader.trim().parse().ok()) == Some(pid) { Ok(target) } else { Err(Gone(pid)) }
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Its folder in `/proc`, for reading what is below.
    #[must_use]
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Reads a file below its folder, `at_most` bytes of it.
    ///
    /// # Errors
    /// As of the file; of a process that has ended, `ESRCH` or `ENOENT`.
    pub fn read(&self, path: &str, at_most: usize) -> io::Result<Vec<u8>> {
        let file = openat(&self.folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut bytes = Vec::new();
        File::from(file).take(at_most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The same as text; what is no UTF-8 is replaced.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn read_text(&self, path: &str, at_most: usize) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path, at_most)?).into_owned())
    }

    /// Whether it still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = self.read_text("stat", 4096) else { return false };
        // The name before it may hold anything, parentheses included.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio, id};

    use super::*;

    #[test]
    fn a_thread_is_no_process_and_nobody_is_neither() {
        assert!(Target::new(id()).unwrap().is_alive());
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
        let tid = thread.join().unwrap();
        assert_eq!(Target::new(tid).unwrap_err(), Gone(tid));
        assert_eq!(Target::new(u32::MAX).unwrap_err(), Gone(u32::MAX));
    }

    #[test]
    fn one_that_has_ended_is_not_read() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let target = Target::new(child.id()).unwrap();
        assert!(target.is_alive());
        drop(child.stdin.take());
        // Nobody waits for it yet: it stays a zombie.
        while target.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(target.read("stat", 10).is_err());
    }
}
