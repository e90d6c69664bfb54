//! Threads: what each does, since when, in which system call and on which descriptor.

mod call;
mod sample;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    io,
};

use self::sample::{Changed, Counts, Look, Waiter};
use super::{
    Target,
    clock::Pace,
    patience::{LOOK_WITHIN, Patience, patiently},
    tiers,
    window::Overlap,
};
use crate::observation::{Hidden, PollCall, Thread, ThreadCounts, ThreadState, Threads};

/// Threads that are looked at, half of them the oldest and half the newest; the others are counted.
const THREADS: usize = 2_000;
/// Epoll sets of one thread that are told apart.
const EPOLLS: usize = 8;
/// Of a thread that has waited for a lock for less it is not asked who holds it.
const LOCKED_US: u64 = 1_000_000;

/// Collects [`Threads`].
#[derive(Debug)]
pub struct Collector {
    target: Target,
    threads: BTreeMap<u32, Record>,
    first: Overlap<u64>,
    last: u64,
    left_out: u64,
    round: u32,
    /// Whether their system calls are read: not once that was refused, or took for ever.
    calls: bool,
    hidden: Option<Hidden>,
    /// For asking who holds locks, which reads memory.
    holders: Patience,
    /// What kept the last look from being one.
    trouble: Option<io::Error>,
    pace: Pace,
}

#[derive(Debug)]
struct Record {
    thread: Thread,
    round: u32,
    counts: Counts,
    switches: (u64, u64),
    window: Overlap<Window>,
    since_us: u64,
    /// Where the mutex would be that it waits for.
    lock: Option<u64>,
}

/// What is counted of one thread in a window.
#[derive(Clone, Debug, Default)]
struct Window {
    /// When the window began: 0 of a thread that began in it.
    counts: Counts,
    switches: (u64, u64),
    looks: u32,
    calls: Vec<(String, u32)>,
    epolls: Vec<(u32, u32)>,
    sleeps: u32,
}

impl Collector {
    /// The first look.
    ///
    /// # Errors
    /// When the threads of the process cannot be listed.
    pub fn attach(target: &Target) -> Result<Self, Hidden> {
        let mut this = Self {
            target: target.clone(),
            threads: BTreeMap::new(),
            first: Overlap::default(),
            last: 0,
            left_out: 0,
            round: 0,
            calls: true,
            hidden: None,
            holders: Patience::new("who holds the locks that threads wait for", LOOK_WITHIN),
            trouble: None,
            pace: Pace::default(),
        };
        this.pace.begin(0);
        this.round(0).map_err(|err| Hidden {
            what: "threads".to_owned(),
            why: format!("/proc/{}/task: {err}", target.pid()),
            how: tiers::to_look_into(target, false),
        })?;
        this.pace.end(0);
        this.first = Overlap::new(this.last);
        Ok(this)
    }

    /// Another look; at very many busy threads not every time.
    pub fn look(&mut self, at_us: u64) {
        if self.pace.begin(at_us) {
            self.trouble = self.round(at_us).err();
            self.pace.end(at_us);
        }
    }

    /// What the threads did at the last look.
    pub(super) fn counts(&self) -> ThreadCounts {
        let mut counts = ThreadCounts { other: self.left_out, ..ThreadCounts::default() };
        for record in self.threads.values() {
            *match record.thread.state {
                ThreadState::Running => &mut counts.running,
                ThreadState::Sleeping => &mut counts.sleeping,
                ThreadState::Uninterruptible => &mut counts.uninterruptible,
                ThreadState::Stopped | ThreadState::Zombie | ThreadState::Other => &mut counts.other,
            } += 1;
        }
        counts
    }

    /// A look at all, whatever it costs.
    pub fn look_at_all(&mut self, at_us: u64) {
        if self.target.is_alive() {
            self.trouble = self.round(at_us).err();
        }
    }

    /// Another window begins.
    pub(super) fn turn(&mut self) {
        self.first.turn(self.last);
        for record in self.threads.values_mut() {
            let Record { counts, switches, .. } = *record;
            record.window.turn(Window { counts, switches, ..Window::default() });
        }
    }

    /// What was seen in the window.
    #[must_use]
    pub fn observed(&mut self, not_visible: &mut Vec<Hidden>) -> Threads {
        let held_by = self.held_by();
        not_visible.extend(self.hidden.iter().chain(self.holders.refused()).cloned());
        if let Some(err) = self.trouble.as_ref().filter(|_| self.target.is_alive()) {
            not_visible.push(Hidden {
                what: "the last look at threads".to_owned(),
                why: format!("/proc/{}/task: {err}", self.target.pid()),
                how: "watch again".to_owned(),
            });
        }
        if self.left_out > 0 {
            not_visible.push(Hidden {
                what: format!("{} of its {} threads", self.left_out, self.last),
                why: format!("the oldest and the newest were looked at, {THREADS} in all"),
                how: "watch it when it has fewer, or look at /proc/PID/task by hand".to_owned(),
            });
        }
        let mut threads: Vec<Thread> = self.threads.values().map(Record::observed).collect();
        for thread in &mut threads {
            if let Some(blocked) = &mut thread.blocked_in {
                blocked.held_by = held_by.get(&thread.tid).copied();
            }
        }
        threads.sort_by_key(|thread| (Reverse(thread.blocked_us), thread.tid));
        Threads { first: *self.first.shown(), last: self.last, threads, left_out: self.left_out, waits: None }
    }

    /// Who holds what threads have waited for all along. Looked at last: a lock may change hands while somebody waits.
    fn held_by(&mut self) -> HashMap<u32, u32> {
        let long = |record: &Record| record.thread.blocked_us >= LOCKED_US;
        let waiting: Vec<Waiter> = self
            .threads
            .iter()
            .filter(|(_, record)| long(record))
            .filter_map(|(&tid, record)| Some(Waiter { tid, lock: record.lock?, runs: record.counts.runs }))
            .collect();
        if waiting.is_empty() || !self.calls {
            return HashMap::new();
        }
        let target = self.target.clone();
        let all: Vec<u32> = self.threads.keys().copied().collect();
        let held = self.holders.ask(move || sample::holders(&target, &waiting, &all));
        held.into_iter().flatten().collect()
    }

    fn round(&mut self, at_us: u64) -> io::Result<()> {
        let look = self.sample()?;
        if look.samples.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(err) = look.refused {
            self.calls = false;
            self.hidden = Some(Hidden {
                what: "what threads wait in (system calls, their descriptors and limits)".to_owned(),
                why: format!("/proc/{}/task/TID/syscall: {err}", self.target.pid()),
                how: tiers::to_look_into(&self.target, true),
            });
        }
        for sample in look.samples {
            match sample.changed {
                Some(changed) => self.see(sample.tid, changed, at_us),
                None => {
                    if let Some(record) = self.threads.get_mut(&sample.tid) {
                        record.round = self.round;
                        record.stays(at_us);
                    }
                }
            }
        }
        let round = self.round;
        self.threads.retain(|_, record| record.round == round);
        self.left_out = look.left_out;
        self.last = self.threads.len() as u64 + look.left_out;
        self.round += 1;
        Ok(())
    }

    /// Reads on a thread of its own as long as it reads system calls, which wait for an `execve` of the target to end.
    fn sample(&mut self) -> io::Result<Look> {
        let asleep: HashMap<u32, u64> = self
            .threads
            .iter()
            .filter(|(_, record)| record.sleeps())
            .map(|(&tid, record)| (tid, record.counts.runs))
            .collect();
        if !self.calls {
            return sample::look(&self.target, &asleep, false, THREADS);
        }
        let target = self.target.clone();
        let look = move || {
            let began_us = super::clock::thread_cpu_us();
            let look = sample::look(&target, &asleep, true, THREADS);
            (look, super::clock::thread_cpu_us().saturating_sub(began_us))
        };
        match patiently("what threads wait in", LOOK_WITHIN, look) {
            Ok((look, cost_us)) => {
                self.pace.add(cost_us);
                look
            }
            Err(hidden) => {
                self.hidden = Some(hidden);
                self.calls = false;
                sample::look(&self.target, &HashMap::new(), false, THREADS)
            }
        }
    }

    fn see(&mut self, tid: u32, changed: Changed, at_us: u64) {
        let round = self.round;
        let is_first = round == 0;
        let record = self.threads.entry(tid).or_insert_with(|| {
            let (counts, switches) = if is_first { (changed.counts, changed.switches) } else { Default::default() };
            Record {
                thread: Thread { tid, ..Thread::default() },
                round,
                counts,
                switches,
                window: Overlap::new(Window { counts, switches, ..Window::default() }),
                since_us: at_us,
                lock: None,
            }
        });
        record.round = round;
        record.see(changed, at_us, round);
    }
}

impl Record {
    /// Whether it is asleep, so that it has to run before anything of it changes.
    const fn sleeps(&self) -> bool {
        matches!(self.thread.state, ThreadState::Sleeping | ThreadState::Uninterruptible)
    }

    /// It has not run since the look before.
    fn stays(&mut self, at_us: u64) {
        self.thread.looks_in_state += 1;
        self.count_look();
        self.thread.blocked_us = at_us.saturating_sub(self.since_us);
    }

    fn see(&mut self, changed: Changed, at_us: u64, round: u32) {
        let state = changed.stat.thread_state();
        // It was asleep between two looks, or is now: in either case not where it was.
        self.since_us = at_us;
        self.counts = changed.counts;
        self.switches = changed.switches;
        self.lock = changed.lock;
        let thread = &mut self.thread;
        thread.looks_in_state = if thread.state == state { thread.looks_in_state + 1 } else { 1 };
        thread.state = state;
        thread.name = changed.stat.name;
        thread.wchan = changed.wchan;
        thread.blocked_in = changed.blocked_in;
        thread.blocked_us = 0;
        thread.since_before = round == 0 && matches!(state, ThreadState::Sleeping | ThreadState::Uninterruptible);
        self.count_look();
    }

    /// Counts a look, and the call that it found.
    fn count_look(&mut self) {
        for window in self.window.both() {
            window.looks += 1;
            let Some(blocked) = &self.thread.blocked_in else { continue };
            match window.calls.iter_mut().find(|(call, _)| *call == blocked.call) {
                Some((_, looks)) => *looks += 1,
                None => window.calls.push((blocked.call.clone(), 1)),
            }
            window.sleeps += u32::from(PollCall::is_given_descriptors(&blocked.call) && blocked.waits_for.is_empty());
            let Some(fd) = blocked.fd.filter(|_| blocked.call.starts_with("epoll")) else { continue };
            if let Some((_, looks)) = window.epolls.iter_mut().find(|(known, _)| *known == fd) {
                *looks += 1;
            } else if window.epolls.len() < EPOLLS {
                window.epolls.push((fd, 1));
            }
        }
    }

    fn observed(&self) -> Thread {
        let window = self.window.shown();
        let waited_us = |us: u64| us.saturating_sub(window.counts.runqueue_us.unwrap_or_default());
        Thread {
            looks: window.looks,
            looks_in_state: self.thread.looks_in_state.min(window.looks),
            calls: window.calls.clone(),
            epolls: window.epolls.clone(),
            sleeps: window.sleeps,
            cpu_us: self.counts.cpu_us.saturating_sub(window.counts.cpu_us),
            runqueue_us: self.counts.runqueue_us.map(waited_us),
            voluntary_switches: self.switches.0.saturating_sub(window.switches.0),
            involuntary_switches: self.switches.1.saturating_sub(window.switches.1),
            ..self.thread.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, time::Duration};

    use super::*;

    #[test]
    fn who_holds_locks_stays_hidden_where_that_was_not_answered_once() {
        let mut threads = Collector::attach(&Target::new(std::process::id()).unwrap()).unwrap();
        threads.holders = Patience::new("holders", Duration::from_millis(10));
        let (end, ended) = channel::<()>();
        assert_eq!(threads.holders.ask(move || ended.recv().is_ok()), None);
        for record in threads.threads.values_mut() {
            (record.lock, record.thread.blocked_us) = (Some(8), LOCKED_US);
        }
        for _ in 0..2 {
            let mut hidden = Vec::new();
            let _ = threads.observed(&mut hidden);
            assert!(hidden.iter().any(|hidden| hidden.what == "holders"), "{hidden:?}");
        }
        drop(end);
    }

    #[test]
    fn a_look_that_failed_is_said_and_one_that_did_not_takes_it_back() {
        let mut threads = Collector::attach(&Target::new(std::process::id()).unwrap()).unwrap();
        let failed = |threads: &mut Collector| {
            let mut hidden = Vec::new();
            let _ = threads.observed(&mut hidden);
            hidden.iter().any(|hidden| hidden.what == "the last look at threads")
        };
        threads.trouble = Some(io::ErrorKind::PermissionDenied.into());
        assert!(failed(&mut threads));
        threads.look_at_all(1);
        assert!(!failed(&mut threads));
    }
}
