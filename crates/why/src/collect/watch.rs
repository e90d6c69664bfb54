//! One watch of one process, from the first look to the [`Observation`].

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
    process::{Pid, test_kill_process},
};

use super::{
    Clock, Connections, Gone, Kernel, Target,
    clock::{self, us},
    cpu, fds,
    go::Goroutines,
    join,
    pause::Pause,
    process, sockets, threads,
    waiting::Waiting,
};
use crate::observation::{Hidden, Observation, Overhead, Runtime};

/// How to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long.
    pub for_: Duration,
    /// From one look to the next. A collector for which a look is dear looks more rarely.
    pub every: Duration,
}

impl Default for Options {
    /// Ten seconds, with four looks in each.
    fn default() -> Self {
        Self { for_: Duration::from_secs(10), every: Duration::from_millis(250) }
    }
}

/// Why a watch could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such process.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// Nothing at all of it can be seen.
    #[error("nothing of process {pid} can be seen: {why}; {how}", why = .hidden.why, how = .hidden.how)]
    Hidden {
        /// The process.
        pid: u32,
        /// Why, and how to change that.
        hidden: Hidden,
    },
    /// The one thing that was asked for cannot be seen.
    #[error("{what} of process {pid} cannot be seen: {why}; {how}", what = .hidden.what, why = .hidden.why, how = .hidden.how)]
    Unseen {
        /// The process.
        pid: u32,
        /// What, why, and how to change that.
        hidden: Hidden,
    },
}

/// Ends a watch early, from another thread or a signal handler. A clone ends the same one.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<OwnedFd>);

impl Interrupt {
    /// One that nobody has raised.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Raises it for good.
    pub fn raise(&self) {
        // It can only fail when it was raised 2^64 times before.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Readable once it is raised.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What ended a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Its time is over.
    Time,
    /// The process ended.
    Process,
    /// It was interrupted.
    Interrupted,
}

/// How long every system call of the process is counted at a time: long enough for forty polls of a millisecond.
const WINDOW: Duration = Duration::from_millis(40);
/// How long it is left in peace then. Together they cost a busy server less than a hundredth of its throughput.
const BETWEEN_WINDOWS: Duration = Duration::from_millis(435);

/// The windows in which every system call is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Windows {
    open: bool,
    /// When to open or close it next, since the watch began.
    due: Duration,
}

/// A watch that goes on.
pub struct Watch {
    target: Target,
    clock: Clock,
    options: Options,
    attach_us: u64,
    cpu_before_us: u64,
    pause: Pause,
    not_visible: Vec<Hidden>,
    process: process::Collector,
    fds: Option<fds::Collector>,
    sockets: Option<sockets::Collector>,
    threads: Option<threads::Collector>,
    connections: Option<Connections>,
    cpu: Option<cpu::Collector>,
    waiting: Option<Waiting>,
    go: Option<Goroutines>,
    windows: Windows,
}

impl Watch {
    /// Begins to watch: all collectors look for the first time.
    ///
    /// # Errors
    /// When there is no such process. A collector that cannot see is listed in the observation.
    pub fn attach(pid: u32, options: Options) -> Result<Self, AttachError> {
        let cpu_before_us = clock::own_cpu_us();
        let asked = Clock::start();
        let target = Target::new(pid).map_err(|gone| concealed(pid).unwrap_or(AttachError::Gone(gone)))?;
        let process = process::Collector::attach(&target).map_err(|hidden| AttachError::Hidden { pid, hidden })?;
        let mut hidden = Vec::new();
        let kernel = seen(Kernel::new(), &mut hidden);
        let mut connections =
            kernel.as_ref().and_then(|kernel| seen(Connections::attach(kernel, &target), &mut hidden));
        hidden.extend(connections.iter().flat_map(Connections::hidden).cloned());
        let waiting = kernel.as_ref().and_then(|kernel| seen(Waiting::attach(kernel, &target), &mut hidden));
        let go = seen(Goroutines::attach(&target), &mut hidden).flatten();
        // Loading programs takes a while. The window begins when that is done: what the others see first is its beginning.
        let clock = Clock::start();
        connections.iter_mut().for_each(Connections::begin);
        let mut watch = Self {
            pause: Pause::new(&target),
            process,
            fds: seen(fds::Collector::attach(&target), &mut hidden),
            sockets: seen(sockets::Collector::attach(&target), &mut hidden),
            threads: seen(threads::Collector::attach(&target), &mut hidden),
            connections,
            waiting,
            go,
            windows: Windows::default(),
            cpu: seen(cpu::Collector::attach(&target), &mut hidden),
            target,
            clock,
            options,
            attach_us: 0,
            cpu_before_us,
            not_visible: hidden,
        };
        if let (Some(connections), Some(sockets)) = (&mut watch.connections, &watch.sockets) {
            sockets.ports().into_iter().for_each(|port| connections.listens_on(port));
        }
        watch.attach_us = asked.at_us();
        Ok(watch)
    }

    /// The process.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Looks again and again until the time is over, the process has ended, or it is interrupted.
    pub fn run(&mut self, interrupt: &Interrupt) -> Ended {
        loop {
            let elapsed = self.clock.elapsed();
            let Some(left) = self.options.for_.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
                return Ended::Time;
            };
            // Looks fall on multiples of the period, however long each takes.
            let period_us = us(self.options.every).max(1000);
            let look = Duration::from_micros(period_us - us(elapsed) % period_us);
            let window = self.windows.due.saturating_sub(elapsed);
            if let Some(ended) = self.wait(interrupt, look.min(window).min(left)) {
                return ended;
            }
            if window < look.min(left) {
                self.turn_window();
            } else if look < left {
                self.look();
            }
        }
    }

    /// Opens or closes the window in which every system call is counted.
    fn turn_window(&mut self) {
        let open = !self.windows.open;
        if let Some(waiting) = &mut self.waiting {
            waiting.window(open);
        }
        if let Some(connections) = &mut self.connections {
            connections.window(open);
        }
        self.windows.open = open;
        // Opening takes a while itself: what counts is how long it then is open.
        self.windows.due = self.clock.elapsed() + if open { WINDOW } else { BETWEEN_WINDOWS };
    }

    /// One look.
    fn look(&mut self) {
        let at_us = self.clock.at_us();
        let before = self.process.seen().exec_at_us;
        self.process.look(at_us);
        // Another program: perhaps one of Go now.
        if self.process.seen().exec_at_us != before {
            self.go = Goroutines::attach(&self.target).ok().flatten();
        }
        self.go.iter_mut().for_each(|go| go.look(at_us));
        self.fds.iter_mut().for_each(|fds| fds.look(at_us));
        self.sockets.iter_mut().for_each(|sockets| sockets.look(at_us));
        self.threads.iter_mut().for_each(|threads| threads.look(at_us));
        self.cpu.iter_mut().for_each(|cpu| cpu.look(at_us));
        self.waiting.iter_mut().for_each(|waiting| waiting.look(at_us));
        self.connections.iter_mut().for_each(|connections| connections.look(at_us));
    }

    fn wait(&mut self, interrupt: &Interrupt, at_most: Duration) -> Option<Ended> {
        let ended = self.pause.wait(interrupt, at_most);
        if ended == Some(Ended::Process) {
            self.process.ended(self.clock.at_us());
        }
        ended
    }

    /// Ends it: the last look, and all that was seen.
    #[must_use]
    pub fn finish(mut self) -> Observation {
        let at_us = self.clock.at_us();
        if !self.target.is_alive() {
            self.process.ended(at_us);
        }
        let mut hidden = self.not_visible;
        let mut seen = Observation { window_us: at_us, ..Observation::default() };
        seen.fds = self.fds.map(|fds| fds.finish(at_us));
        if let Some(sockets) = self.sockets {
            let (sockets, by_peer) = sockets.finish(at_us, &mut hidden);
            seen.sockets = Some(sockets);
            seen.fds.iter_mut().for_each(|fds| fds.by_peer.clone_from(&by_peer));
        }
        seen.threads = self.threads.map(|threads| threads.finish(at_us, &mut hidden));
        let dropped = self.connections.as_ref().map_or(0, Connections::dropped);
        let map_bytes = self.connections.as_ref().map_or(0, Connections::map_bytes);
        seen.connections = self.connections.map(Connections::finish);
        seen.cpu = self.cpu.map(|cpu| cpu.finish(at_us));
        if let (Some(cpu), Some(threads)) = (&mut seen.cpu, &seen.threads) {
            cpu.runqueue_us = threads.threads.iter().map(|thread| thread.runqueue_us).sum();
        }
        join::once(&mut seen);
        join::join(&mut seen, &self.target);
        if let Some(waiting) = self.waiting {
            waiting.finish(&mut seen);
        }
        if let Some(go) = self.go {
            let version = go.version().to_owned();
            self.process.set_runtime(Runtime::Go { version });
            seen.go = Some(go.finish());
        }
        seen.process = self.process.finish(&mut hidden);
        seen.not_visible.extend(hidden);
        seen.overhead = Overhead {
            cpu_us: clock::own_cpu_us().saturating_sub(self.cpu_before_us),
            rss_bytes: peak_rss(),
            attach_us: self.attach_us,
            dropped_events: seen.overhead.dropped_events.saturating_add(dropped),
            map_bytes: seen.overhead.map_bytes.saturating_add(map_bytes),
            ..seen.overhead
        };
        seen
    }
}

/// A process that is there and is not shown: `/proc` is mounted so.
pub(super) fn concealed(pid: u32) -> Option<AttachError> {
    let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let is_there = test_kill_process(number) == Err(Errno::PERM);
    let hidden = Hidden {
        what: "process".to_owned(),
        why: "it is another user's, and /proc is mounted with hidepid".to_owned(),
        how: "run as root".to_owned(),
    };
    is_there.then_some(AttachError::Hidden { pid, hidden })
}

/// A collector, or a line in the list of what cannot be seen.
fn seen<T>(attached: Result<T, Hidden>, hidden: &mut Vec<Hidden>) -> Option<T> {
    attached.map_err(|why| hidden.push(why)).ok()
}

/// The most memory that the watcher ever held, bytes.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default().saturating_mul(1024)
}
