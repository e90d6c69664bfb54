//! One watch of one process, from the first look to the [`Observation`].

use std::{
    fmt, io,
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
    cost::{Meter, OwnCost},
    cpu, fds,
    go::{self, Goroutines},
    join,
    lookups::{self, Lookups},
    pause::Pause,
    process, sockets, stat, threads,
    tiers::Watcher,
    waiting::Waiting,
    window::Overlap,
};
use crate::observation::{Hidden, History, Look, Observation, Overhead, Runtime};

/// How to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long.
    pub for_: Duration,
    /// From one look to the next. A collector for which a look is dear looks more rarely.
    pub every: Duration,
    /// The process does nothing before the watch: what it does first is its purpose, and happens once. Every system call
    /// is counted then, not those of short windows alone.
    pub from_start: bool,
    /// Whether functions of the process itself are probed: lookups of names by the C library. It costs the process some
    /// microseconds for each call of them.
    pub uprobes: bool,
    /// What its programs in the kernel may cost: a share of the processor time that the process uses, or of one processor
    /// where it uses less. What is too dear is detached. `None` is no limit.
    pub budget: Option<f64>,
}

impl Default for Options {
    /// Ten seconds, with four looks in each, for a twentieth of the processor time at most.
    fn default() -> Self {
        Self {
            for_: Duration::from_secs(10),
            every: Duration::from_millis(250),
            from_start: false,
            uprobes: false,
            budget: Some(0.05),
        }
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
    /// It has ended, and whoever started it has not asked how.
    #[error("process {pid} ({name}) has ended: nothing of it is left to see, and it waits for {parent} to collect it (a \
             zombie)", name = .name.escape_debug())]
    Ended {
        /// The process.
        pid: u32,
        /// Its name, which it gave to itself.
        name: String,
        /// Whom it waits for.
        parent: Parent,
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

/// Who started a process, or took it over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parent {
    /// `None` where it is outside of this pid namespace.
    pub pid: Option<u32>,
    /// Its name; empty where it is not known.
    pub name: String,
}

impl fmt::Display for Parent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(out, "its parent, {pid} ({}),", self.name.escape_debug()),
            None => out.write_str("its parent, which is outside of this pid namespace,"),
        }
    }
}

/// The process with that number, unless nothing of it runs.
pub(super) fn find(pid: u32) -> Result<Target, AttachError> {
    let target = Target::new(pid).map_err(|gone| concealed(pid).unwrap_or(AttachError::Gone(gone)))?;
    let stat = |target: &Target| stat::parse(&target.read_text("stat", 4096).ok()?);
    match stat(&target) {
        Some(ended) if ended.has_ended() => {
            let parent = Some(ended.parent).filter(|pid| *pid != 0);
            let name = parent.and_then(|pid| stat(&Target::new(pid).ok()?)).map(|stat| stat.name).unwrap_or_default();
            Err(AttachError::Ended { pid, name: ended.name, parent: Parent { pid: parent, name } })
        }
        _ => Ok(target),
    }
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
    /// The watcher held too much memory.
    Memory,
}

/// What [`Watch::next`] tells of goes back so far at least, once the watch has gone on for as long, and twice as far at
/// most: rules look for growth, and for states that last a second.
pub const SIGHT: Duration = Duration::from_secs(5);

/// How long every system call of the process is counted at a time: long enough for forty polls of a millisecond.
const WINDOW: Duration = Duration::from_millis(40);
/// How long the first window lasts of a process that begins with the watch.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// How long a program may take until it has mapped what it is known by: its runtime, its C library.
const BEGINS: Duration = Duration::from_secs(2);
/// How long it is left in peace then. Together they cost a busy server less than a hundredth of its throughput.
const BETWEEN_WINDOWS: Duration = Duration::from_millis(435);

/// Whether a window is open in which every system call is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Window {
    #[default]
    Closed,
    Open,
    /// Closed, while what the rest of the programs cost is measured.
    Measuring,
}

/// The windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Windows {
    now: Window,
    /// There was one, or there needs no long one.
    begun: bool,
    /// What is next, and when, since the watch began.
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
    kernel: Option<Kernel>,
    lookups: Option<Lookups>,
    windows: Windows,
    meter: Meter,
    own: OwnCost,
    history: History,
    /// When the window that is told of began, and the one after it, in microseconds since the watch began.
    begun_us: Overlap<u64>,
}

impl Watch {
    /// Begins to watch: all collectors look for the first time.
    ///
    /// # Errors
    /// When there is no such process. A collector that cannot see is listed in the observation.
    pub fn attach(pid: u32, options: Options) -> Result<Self, AttachError> {
        let cpu_before_us = clock::own_cpu_us();
        let asked = Clock::start();
        let target = find(pid)?;
        let process = process::Collector::attach(&target).map_err(|hidden| AttachError::Hidden { pid, hidden })?;
        let mut hidden = Vec::new();
        let kernel = seen(Kernel::new(), &mut hidden);
        let mut connections =
            kernel.as_ref().and_then(|kernel| seen(events(LIVES, Connections::attach(kernel, &target)), &mut hidden));
        let waiting =
            kernel.as_ref().and_then(|kernel| seen(events(LOOPS, Waiting::attach(kernel, &target)), &mut hidden));
        let go = seen(Goroutines::attach(&target), &mut hidden).flatten();
        let probed = kernel.as_ref().filter(|_| options.uprobes);
        let lookups = probed.and_then(|kernel| seen(Lookups::attach(kernel, &target), &mut hidden));
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
            kernel,
            lookups,
            windows: Windows { begun: !options.from_start, ..Windows::default() },
            history: History::default(),
            begun_us: Overlap::default(),
            cpu: seen(cpu::Collector::attach(&target), &mut hidden),
            meter: Meter::new(&target, options.budget),
            own: OwnCost::begin(),
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
        watch.remember(0);
        if watch.options.from_start {
            // Open when the command is let go, whatever holds up this process then: a call that fails at once, and a
            // program that ends with it, are in the window.
            watch.turn_window();
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
        self.run_until(self.options.for_, interrupt)
    }

    /// Goes on for another while, and tells of the time until then: of all of it in the beginning, later of the last
    /// [`SIGHT`] at least. Each observation is what a watch would have seen that began with its window; but what is said
    /// of one connection, socket, thread or wait (its age, its first bytes, what it carried) goes back to before it.
    ///
    /// To be called again and again, as long as the time is what ended it.
    pub fn next(&mut self, for_: Duration, interrupt: &Interrupt) -> (Ended, Observation) {
        let ended = self.run_until(self.clock.elapsed().saturating_add(for_), interrupt);
        let at_us = self.clock.at_us();
        if at_us.saturating_sub(self.newest_us()) >= us(SIGHT) {
            self.turn(at_us);
        }
        (ended, self.observed())
    }

    fn newest_us(&mut self) -> u64 {
        self.begun_us.both().fold(0, |newest, begun_us| newest.max(*begun_us))
    }

    /// Another window begins, and the one that began before is told of from now on.
    fn turn(&mut self, at_us: u64) {
        self.look();
        self.begun_us.turn(at_us);
        let begin_us = *self.begun_us.shown();
        self.go.iter_mut().for_each(|go| go.turn(begin_us));
        self.fds.iter_mut().for_each(|fds| fds.turn(begin_us));
        self.sockets.iter_mut().for_each(|sockets| sockets.turn(begin_us));
        self.threads.iter_mut().for_each(threads::Collector::turn);
        self.cpu.iter_mut().for_each(|cpu| cpu.turn(begin_us));
        self.connections.iter_mut().for_each(|connections| connections.turn(begin_us));
        self.uncounted(|waiting| waiting.turn(begin_us));
        self.lookups.iter_mut().for_each(Lookups::turn);
        self.process.turn();
        self.history.forget_before(begin_us);
    }

    /// Does something for which no system calls must be counted, and goes on counting where they were.
    fn uncounted(&mut self, work: impl FnOnce(&mut Waiting)) {
        let Some(waiting) = &mut self.waiting else { return };
        let was_open = waiting.is_open();
        work(waiting);
        if was_open {
            (self.windows.now, self.windows.due) = (Window::Closed, self.clock.elapsed());
            self.meter.interrupted();
        }
    }

    fn run_until(&mut self, until: Duration, interrupt: &Interrupt) -> Ended {
        loop {
            let elapsed = self.clock.elapsed();
            let Some(left) = until.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
                return Ended::Time;
            };
            // Looks fall on multiples of the period, however long each takes.
            let period_us = us(self.own.period(self.options.every, elapsed)).max(1000);
            let look = Duration::from_micros(period_us - us(elapsed) % period_us);
            let window = self.windows.due.saturating_sub(elapsed);
            if let Some(ended) = self.wait(interrupt, look.min(window).min(left)) {
                return ended;
            }
            if window < look.min(left) {
                self.turn_window();
            } else if look < left {
                self.look();
                if let Some(hidden) = OwnCost::too_much() {
                    if self.not_visible.iter().all(|known| known.what != hidden.what) {
                        self.not_visible.push(hidden);
                    }
                    return Ended::Memory;
                }
            }
        }
    }

    /// Opens or closes the window in which every system call is counted, and measures what that costs.
    fn turn_window(&mut self) {
        let (waiting, connections) = (&mut self.waiting, &mut self.connections);
        let counts = |waiting: &Option<Waiting>, connections: &Option<Connections>| {
            let waiting = waiting.iter().flat_map(Waiting::counts);
            waiting.chain(connections.iter().flat_map(Connections::counts)).collect::<Vec<_>>()
        };
        let (next, after) = match self.windows.now {
            Window::Closed => {
                waiting.iter_mut().for_each(|waiting| waiting.window(true));
                connections.iter_mut().for_each(|connections| connections.window(true));
                self.meter.opened(|| counts(waiting, connections));
                (Window::Open, if self.windows.begun { WINDOW } else { FIRST_WINDOW })
            }
            Window::Open => {
                self.meter.closing(|| counts(waiting, connections));
                waiting.iter_mut().for_each(|waiting| waiting.window(false));
                connections.iter_mut().for_each(|connections| connections.window(false));
                if self.meter.measuring() { (Window::Measuring, WINDOW) } else { (Window::Closed, BETWEEN_WINDOWS) }
            }
            Window::Measuring => {
                if let Some(dropped) = self.meter.after(|| counts(waiting, connections)) {
                    waiting.iter_mut().for_each(|waiting| waiting.give_up(dropped.part));
                    connections.iter_mut().for_each(|connections| connections.give_up(dropped.part));
                    self.not_visible.push(dropped.hidden);
                }
                (Window::Closed, BETWEEN_WINDOWS.saturating_sub(WINDOW))
            }
        };
        // Opening takes a while itself: what counts is how long it then is open.
        self.windows = Windows { now: next, begun: true, due: self.clock.elapsed() + after };
    }

    /// One look.
    fn look(&mut self) {
        let at_us = self.clock.at_us();
        let before = self.process.seen().exec_at_us;
        self.process.look(at_us);
        self.attach_to_program(self.process.seen().exec_at_us != before, at_us);
        self.lookups.iter_mut().for_each(Lookups::look);
        self.go.iter_mut().for_each(|go| go.look(at_us));
        self.fds.iter_mut().for_each(|fds| fds.look(at_us));
        self.sockets.iter_mut().for_each(|sockets| sockets.look(at_us));
        self.threads.iter_mut().for_each(|threads| threads.look(at_us));
        self.cpu.iter_mut().for_each(|cpu| cpu.look(at_us));
        self.waiting.iter_mut().for_each(|waiting| waiting.look(at_us));
        self.connections.iter_mut().for_each(|connections| connections.look(at_us));
        self.remember(at_us);
    }

    /// Attaches again what is bound to a program: to another one, perhaps of Go now, and where it was too early.
    fn attach_to_program(&mut self, is_new: bool, at_us: u64) {
        let age_us = at_us.saturating_sub(self.process.seen().exec_at_us.unwrap_or(0));
        let hidden = &mut self.not_visible;
        if is_due(go::TOPIC, is_new, age_us, hidden) {
            hidden.retain(|known| known.what != go::TOPIC);
            self.go = seen(Goroutines::attach(&self.target), hidden).flatten();
        }
        // Probes are in a file, whoever maps it: they stay where the new program has the same library.
        if let (None, Some(kernel), true) = (&self.lookups, &self.kernel, self.options.uprobes)
            && is_due(lookups::TOPIC, is_new, age_us, hidden)
        {
            hidden.retain(|known| known.what != lookups::TOPIC);
            self.lookups = seen(Lookups::attach(kernel, &self.target), hidden);
        }
    }

    /// Enters what the collectors saw last.
    fn remember(&mut self, at_us: u64) {
        self.history.push(Look {
            at_us,
            tcp: self.sockets.as_ref().map(|sockets| sockets.counts().clone()),
            threads: self.threads.as_ref().map(threads::Collector::counts),
            cpu_us: self.cpu.as_ref().map(cpu::Collector::used_us),
        });
    }

    fn wait(&mut self, interrupt: &Interrupt, at_most: Duration) -> Option<Ended> {
        let ended = self.pause.wait(interrupt, at_most);
        if ended == Some(Ended::Process) {
            self.process.ended(self.clock.at_us(), || self.pause.ending());
        }
        ended
    }

    /// Ends it: the last look, at everything, and what was seen.
    #[must_use]
    pub fn finish(mut self) -> Observation {
        self.last_look();
        self.observed()
    }

    /// The same, but goes on for another `while_` first where what was seen is not yet `settled`: something that may be
    /// the trouble has only just begun. An interrupt or the end of the process ends that early.
    #[must_use]
    pub fn finish_settled(
        mut self,
        settled: impl FnOnce(&Observation) -> bool,
        while_: Duration,
        interrupt: &Interrupt,
    ) -> Observation {
        self.last_look();
        let seen = self.observed();
        if settled(&seen) {
            return seen;
        }
        self.run_until(self.clock.elapsed().saturating_add(while_), interrupt);
        self.finish()
    }

    /// Looks at everything, whatever that costs.
    fn last_look(&mut self) {
        let at_us = self.clock.at_us();
        self.fds.iter_mut().for_each(|fds| fds.look_at_all(at_us));
        self.sockets.iter_mut().for_each(|sockets| sockets.look_at_all(at_us));
        self.threads.iter_mut().for_each(|threads| threads.look_at_all(at_us));
        self.cpu.iter_mut().for_each(|cpu| cpu.look(at_us));
        self.go.iter_mut().for_each(|go| go.look_at_all(at_us));
    }

    /// What was seen in the window that is told of.
    fn observed(&mut self) -> Observation {
        let at_us = self.clock.at_us();
        let begin_us = *self.begun_us.shown();
        if !self.target.is_alive() {
            self.process.ended(at_us, || self.pause.ending());
        }
        let mut hidden = self.not_visible.clone();
        let mut seen = Observation { window_us: at_us.saturating_sub(begin_us), ..Observation::default() };
        seen.fds = self.fds.as_ref().map(|fds| fds.observed(begin_us, &mut hidden));
        if let Some(sockets) = &mut self.sockets {
            let (sockets, by_peer) = sockets.observed(begin_us, at_us, &mut hidden);
            seen.sockets = Some(sockets);
            seen.fds.iter_mut().for_each(|fds| fds.by_peer.clone_from(&by_peer));
        }
        seen.threads = self.threads.as_mut().map(|threads| threads.observed(&mut hidden));
        let dropped = self.connections.as_ref().map_or(0, Connections::dropped);
        let map_bytes = self.connections.as_ref().map_or(0, Connections::map_bytes);
        seen.connections = self.connections.as_mut().map(|connections| connections.observed(begin_us));
        hidden.extend(self.connections.iter().flat_map(Connections::hidden).cloned());
        seen.cpu = self.cpu.as_ref().map(|cpu| cpu.observed(begin_us));
        if let (Some(cpu), Some(threads)) = (&mut seen.cpu, &seen.threads) {
            cpu.runqueue_us = threads.threads.iter().map(|thread| thread.runqueue_us).sum();
        }
        join::once(&mut seen);
        join::join(&mut seen, &self.target);
        self.uncounted(|waiting| waiting.observed(&mut seen));
        if let Some(go) = &self.go {
            self.process.set_runtime(Runtime::Go { version: go.version().to_owned() });
            seen.go = Some(go.observed(begin_us));
            hidden.extend(go.hidden().cloned());
        }
        let ago_us = self.clock.at_us().saturating_sub(begin_us);
        seen.lookups = self.lookups.as_mut().map(|lookups| lookups.observed(ago_us, seen.window_us));
        hidden.extend(self.lookups.iter().filter_map(Lookups::hidden).cloned());
        let lookups_lost = seen.lookups.as_ref().map_or(0, |lookups| lookups.lost);
        let lookups_bytes = self.lookups.as_ref().map_or(0, Lookups::map_bytes);
        self.meter.tell(&mut seen.overhead, &mut hidden);
        seen.process = self.process.observed(begin_us, &mut hidden);
        seen.process.only_waits_for_children = join::only_waits_for_children(&seen);
        seen.process.stopped = join::is_stopped(&seen);
        seen.history = Some(self.history.since(begin_us));
        seen.not_visible.extend(hidden);
        seen.overhead = Overhead {
            cpu_us: clock::own_cpu_us().saturating_sub(self.cpu_before_us),
            rss_bytes: peak_rss(),
            attach_us: self.attach_us,
            dropped_events: seen.overhead.dropped_events.saturating_add(dropped).saturating_add(lookups_lost),
            map_bytes: seen.overhead.map_bytes.saturating_add(map_bytes).saturating_add(lookups_bytes),
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
        how: Watcher::here().remedy(&["CAP_SYS_PTRACE"]),
    };
    is_there.then_some(AttachError::Hidden { pid, hidden })
}

/// What two objects of programs see: where one is refused it is said what it would have given.
const LIVES: &str = "lives of connections and their first bytes";
const LOOPS: &str = "event loops, waits and samples";

fn events<T>(what: &str, attached: Result<T, Hidden>) -> Result<T, Hidden> {
    attached.map_err(|hidden| Hidden { what: what.to_owned(), ..hidden })
}

/// A collector, or a line in the list of what cannot be seen.
fn seen<T>(attached: Result<T, Hidden>, hidden: &mut Vec<Hidden>) -> Option<T> {
    attached.map_err(|why| hidden.push(why)).ok()
}

/// Whether to attach to a program that began `age_us` ago: it is another one, or was not yet what it is now when that was
/// tried last. What else keeps it from being seen does not pass.
fn is_due(topic: &str, is_new: bool, age_us: u64, hidden: &[Hidden]) -> bool {
    let early = |known: &Hidden| known.what == topic && [go::NOT_YET, lookups::NOT_YET].contains(&known.why.as_str());
    is_new || age_us < us(BEGINS) && hidden.iter().any(early)
}

/// The most memory that the watcher ever held, bytes.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default().saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_attached_again_while_the_program_begins() {
        let hidden = |what: &str, why: &str| Hidden { what: what.to_owned(), why: why.to_owned(), how: String::new() };
        let early = [hidden(go::TOPIC, go::NOT_YET)];
        assert!(is_due(go::TOPIC, false, 250_000, &early));
        assert!(!is_due(go::TOPIC, false, us(BEGINS), &early), "what it has not got by then it never has");
        assert!(!is_due(lookups::TOPIC, false, 250_000, &early), "another's trouble");
        assert!(!is_due(go::TOPIC, false, 250_000, &[hidden(go::TOPIC, "unknown layout of go1.99")]), "stays so");
        assert!(!is_due(go::TOPIC, false, 250_000, &[]));
        assert!(is_due(go::TOPIC, true, 0, &[]));
    }
}
