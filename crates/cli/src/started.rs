//! A command that is started to be watched: stopped before its first instruction, and ended with its owner. Each wait for
//! it has a limit: a process whose program lies on a file server that is gone neither stops nor ends.

use std::{
    ffi::OsString,
    fs,
    io::{self},
    os::fd::{AsFd as _, OwnedFd},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use overdue_core::DurationText;
use overdue_why::collect::Clock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getppid, kill_process, pidfd_open, pidfd_send_signal,
        set_parent_process_death_signal, waitpid,
    },
};

use crate::{interrupt, screen::harmless};

/// How long this program itself may take to begin once more.
const BEGIN: Duration = Duration::from_secs(10);
/// How long a command that is asked to end has for it, and then the kernel, when it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// Nothing but a signal to the whole program tells that a child has stopped, so it is asked so often.
const GLANCE: Duration = Duration::from_millis(2);

/// A command as a child. Dropping it ends it.
pub(crate) struct Started {
    child: Child,
    _spawner: Spawner,
    pid: Pid,
    /// Readable when it has ended.
    pidfd: OwnedFd,
}

/// How it ended.
pub(crate) enum End {
    /// Before it was asked to.
    Itself(ExitStatus),
    /// When it was asked or made to.
    Killed,
    /// It has not, and why.
    Never(String),
}

impl Started {
    /// This program again, which stops itself and becomes the command when it is let go on: so nothing that the command
    /// does comes before the watch.
    pub(crate) fn stopped(command: &[OsString]) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let stdout = io::stderr().as_fd().try_clone_to_owned().context("no descriptor is left")?;
        let mut again = Command::new(&own);
        // stdout carries the report only.
        let owner = format!("--owner={}", std::process::id());
        again.arg(crate::why::BECOME).arg(owner).arg("--").args(command).stdout(Stdio::from(stdout));
        let (mut child, spawner) = spawn_within(BEGIN, move || again.spawn()).with_context(|| {
            let own = own.display().to_string();
            format!("cannot start another process of this program ({})", harmless(&own))
        })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some((pid, pidfd)) = pid.and_then(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?))) else {
            _ = child.kill();
            bail!("cannot hold the command's process: it takes Linux 5.3 or later, and a free descriptor");
        };
        let started = Self { child, _spawner: spawner, pid, pidfd };
        let held = started.pidfd.try_clone().context("no descriptor is left")?;
        let id = started.id();
        interrupt::last_act(Some(Box::new(move || kill_all(id, &held))));
        let mut waited = Duration::ZERO;
        loop {
            match waitpid(Some(pid), WaitOptions::UNTRACED | WaitOptions::NOHANG) {
                Ok(Some((_, status))) if status.stopped() => return Ok(started),
                Ok(None) | Err(Errno::INTR) if waited < BEGIN => {}
                Ok(None) | Err(Errno::INTR) => bail!(
                    "the command's process ({}) did not begin within {}: {}",
                    pid.as_raw_nonzero(),
                    DurationText(BEGIN),
                    started.state()
                ),
                _ => bail!("the command's process ended before it began"),
            }
            started.has_ended(GLANCE);
            waited += GLANCE;
        }
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it, when it has not ended.
    pub(crate) fn end(&mut self) -> anyhow::Result<End> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(End::Itself(status));
        }
        // Whom it started would go on without it.
        let started = descendants(self.id());
        _ = kill_process(self.pid, Signal::TERM);
        started.iter().for_each(|pidfd| _ = pidfd_send_signal(pidfd, Signal::TERM));
        // Each has the whole of the grace, whoever of them ends first.
        all_ended(std::iter::once(&self.pidfd).chain(&started), GRACE);
        let ended = self.ended_at_last();
        started.iter().for_each(|pidfd| _ = pidfd_send_signal(pidfd, Signal::KILL));
        ended
    }

    fn ended_at_last(&mut self) -> anyhow::Result<End> {
        if !self.has_ended(Duration::ZERO) && !self.kill() {
            return Ok(End::Never(format!(
                "did not end within {} of being killed: {}; it is left behind (`overdue why --pid {}` while it lasts)",
                DurationText(GRACE),
                self.state(),
                self.pid.as_raw_nonzero()
            )));
        }
        self.child.try_wait()?;
        Ok(End::Killed)
    }

    /// Whether it ends within that time.
    fn has_ended(&self, within: Duration) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let within = Timespec::try_from(within).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        poll(&mut fds, Some(&within)).is_ok_and(|ready| ready > 0)
    }

    /// Kills it, and says whether that was the end of it.
    fn kill(&mut self) -> bool {
        // To one that has ended it does nothing: it is not reaped yet, so the number is its own.
        _ = self.child.kill();
        let ended = self.has_ended(GRACE);
        if ended {
            _ = self.child.try_wait();
        }
        ended
    }

    /// What holds it up, as the kernel says.
    fn state(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).map_or("unknown", str::trim);
        match state.chars().next() {
            Some('D') => format!(
                "it is in state {state}, inside of the kernel, where no signal reaches it; most often a disk or a file \
                 server does not answer"
            ),
            _ => format!("its state is {state}"),
        }
    }
}

/// The thread that made a child. It lives as long as this: the kernel takes its end for the parent's, which kills the
/// child.
type Spawner = mpsc::Sender<()>;

/// Makes a child on a thread beside: until the kernel has read its program, whoever makes it is held up, and no signal
/// helps.
fn spawn_within(
    limit: Duration,
    spawn: impl FnOnce() -> io::Result<Child> + Send + 'static,
) -> anyhow::Result<(Child, Spawner)> {
    let (tell, told) = mpsc::sync_channel(0);
    let (spawner, until) = mpsc::channel();
    let beside = move || match tell.send(spawn()) {
        // Nothing is ever sent.
        Ok(()) => _ = until.recv(),
        // Too late: nobody wants it any more.
        Err(mpsc::SendError(Ok(mut late))) => {
            _ = late.kill();
            _ = late.wait();
        }
        Err(mpsc::SendError(Err(_))) => {}
    };
    thread::Builder::new().name("overdue-spawn".to_owned()).spawn(beside).context("no thread could be started")?;
    match told.recv_timeout(limit) {
        Ok(spawned) => Ok((spawned?, spawner)),
        Err(_) => bail!(
            "it was not read within {}: most often the file server or disk that it lies on does not answer; use a copy \
             of the program on a local disk",
            DurationText(limit)
        ),
    }
}

/// All that a process started, and those: so many at most.
fn descendants(pid: u32) -> Vec<OwnedFd> {
    const MANY: usize = 256;
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()) {
                if found.len() == MANY {
                    return found;
                }
                let number = i32::try_from(child).ok().and_then(Pid::from_raw);
                let pidfd = number.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                // The number may have become another's before it was opened; that one has another parent.
                if let Some(pidfd) = pidfd.filter(|_| parent_of(child) == Some(parent)) {
                    found.push(pidfd);
                    parents.push(child);
                }
            }
        }
    }
    found
}

/// Waits until all have ended, and for so long at most.
fn all_ended<'a>(pidfds: impl Iterator<Item = &'a OwnedFd>, within: Duration) {
    let mut going_on: Vec<PollFd<'_>> = pidfds.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
    let began = Clock::start();
    while let Some(left) = within.checked_sub(began.elapsed()).filter(|left| !left.is_zero() && !going_on.is_empty()) {
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut going_on, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => going_on.retain(|pidfd| pidfd.revents().is_empty()),
            Err(_) => return,
        }
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Ends it with all that it started, when it has not ended, and waits for nobody.
fn kill_all(pid: u32, pidfd: &OwnedFd) {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    // Of one that has ended the number may be another's.
    if poll(&mut fds, Some(&Timespec::default())) != Ok(0) {
        return;
    }
    let started = descendants(pid);
    for pidfd in std::iter::once(pidfd).chain(&started) {
        _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_all(self.id(), &self.pidfd);
            self.kill();
        }
        interrupt::last_act(None);
    }
}

/// Makes the kernel end this process when its owner ends, however that comes about.
pub(crate) fn die_with(owner: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot bind the life of this process to its owner's")?;
    ensure!(getppid().map(Pid::as_raw_pid) == Some(owner), "the owner {owner} has ended already");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    /// As where the program lies on a file server that is gone.
    #[test]
    fn who_makes_a_child_is_not_waited_for_without_end() {
        let (answers, server) = mpsc::channel::<()>();
        let (ended, end) = mpsc::channel();
        let spawn = move || {
            _ = server.recv();
            let mut child = Command::new("sleep").arg("60").spawn()?;
            let pid = child.id();
            assert!(child.try_wait()?.is_none());
            ended.send(pid).ok();
            Ok(child)
        };
        let error = spawn_within(SOON, spawn).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("not read within 50ms") && error.contains("file server"), "{error}");
        // It answers after all: the child of then is not left behind.
        drop(answers);
        let pid = end.recv_timeout(BEGIN).unwrap();
        let clock = Clock::start();
        while fs::metadata(format!("/proc/{pid}")).is_ok() {
            assert!(clock.elapsed() < BEGIN, "{pid} is left behind");
            thread::yield_now();
        }
    }

    #[test]
    fn a_child_outlives_the_making_of_it() {
        let sleep = || Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
        let (mut child, spawner) = spawn_within(BEGIN, sleep).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        _ = child.kill();
        child.wait().unwrap();
        drop(spawner);
        let nothing = || Command::new("/nowhere/at/all").spawn();
        let error = spawn_within(BEGIN, nothing).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
