//! Watching a process for a flame graph: one sight at a time, and nothing else of it.

use std::time::Duration;

use super::{
    AttachError, Clock, Ended, Interrupt, Kernel, Target, go::Goroutines, off_cpu::OffCpu, pause::Pause, threads,
    waiting::Waiting, watch::find,
};
use crate::{
    Observation,
    flame::{Graph, STACKS_MAX, Sight, Unit},
    observation::Hidden,
};

/// From one look to the next. Waits are seen by looks, so this is how exact they are.
const EVERY: Duration = Duration::from_millis(50);

/// A watch for a flame graph. Dropping it detaches and frees everything.
pub struct Flame {
    name: String,
    clock: Clock,
    pause: Pause,
    seer: Seer,
    hidden: Vec<Hidden>,
}

enum Seer {
    On(Box<Waiting>),
    Off(Box<OffCpu>),
    Wait(Box<Waits>),
}

/// Whatever of it can be seen.
struct Waits {
    stacks: Option<Waiting>,
    go: Option<Goroutines>,
    threads: Option<threads::Collector>,
}

impl Flame {
    /// Begins to watch.
    ///
    /// # Errors
    /// When there is no such process, or what is asked for cannot be seen at all.
    pub fn attach(pid: u32, sight: Sight) -> Result<Self, AttachError> {
        let target = find(pid)?;
        let needed = |hidden: Hidden| {
            let how = format!("{}; without it, `overdue flame --wait` shows where threads wait", hidden.how);
            let what = if sight == Sight::On { "samples" } else { "switches" }.to_owned();
            AttachError::Unseen { pid, hidden: Hidden { what, how, ..hidden } }
        };
        let mut hidden = Vec::new();
        let kernel = Kernel::new();
        let seer = match sight {
            Sight::On => Seer::On(Box::new(samples(kernel, &target).map_err(needed)?)),
            Sight::Off => {
                let attached = kernel.and_then(|kernel| OffCpu::attach(&kernel, &target));
                Seer::Off(Box::new(attached.map_err(needed)?))
            }
            Sight::Wait => {
                let go = Goroutines::attach(&target);
                let mut keep = |why: Hidden| hidden.push(why);
                let go = go.map_err(&mut keep).ok().flatten();
                let attached = kernel.and_then(|kernel| Waiting::attach(&kernel, &target));
                let mut stacks = attached.map_err(&mut keep).ok();
                stacks.iter_mut().for_each(|stacks| stacks.keep(STACKS_MAX));
                let threads = threads::Collector::attach(&target).map_err(&mut keep).ok();
                Seer::Wait(Box::new(Waits { stacks, go, threads }))
            }
        };
        let name = target.read_text("comm", 64).unwrap_or_default().trim_end().to_owned();
        Ok(Self { name, pause: Pause::new(&target), clock: Clock::start(), seer, hidden })
    }

    /// The name of the process. It is the process's own word.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Watches until the time is over, the process has ended, or it is interrupted.
    pub fn run(&mut self, for_: Duration, interrupt: &Interrupt) -> Ended {
        loop {
            self.look();
            let Some(left) = for_.checked_sub(self.clock.elapsed()).filter(|left| !left.is_zero()) else {
                return Ended::Time;
            };
            if let Some(ended) = self.pause.wait(interrupt, EVERY.min(left)) {
                return ended;
            }
        }
    }

    fn look(&mut self) {
        let at_us = self.clock.at_us();
        match &mut self.seer {
            Seer::On(samples) => samples.look(at_us),
            Seer::Off(off) => off.look(),
            Seer::Wait(waits) => {
                let Waits { stacks, go, threads } = &mut **waits;
                stacks.iter_mut().for_each(|stacks| stacks.look(at_us));
                go.iter_mut().for_each(|go| go.look(at_us));
                threads.iter_mut().for_each(|threads| threads.look(at_us));
            }
        }
    }

    /// Ends it: the graph, and how long the watch was.
    #[must_use]
    pub fn finish(mut self) -> (Graph, Duration) {
        let watched = self.clock.elapsed();
        let at_us = self.clock.at_us();
        let mut seen = Observation { window_us: at_us, ..Observation::default() };
        let mut graph = match self.seer {
            Seer::On(mut samples) => {
                samples.observed(&mut seen);
                Graph::of(&seen, Sight::On)
            }
            Seer::Off(off) => {
                let off = off.finish();
                seen.overhead.dropped_events = off.lost;
                seen.not_visible.extend(off.hidden);
                let mut graph = Graph::new(Unit::Microseconds);
                off.stacks.iter().for_each(|it| graph.add(&it.thread, &it.stack, Some(&it.inside), it.off_us));
                Some(graph)
            }
            Seer::Wait(waits) => {
                let Waits { mut stacks, mut go, mut threads } = *waits;
                threads.iter_mut().for_each(|threads| threads.look_at_all(at_us));
                seen.threads = threads.map(|mut threads| threads.observed(&mut self.hidden));
                stacks.iter_mut().for_each(|stacks| stacks.observed(&mut seen));
                go.iter_mut().for_each(|go| go.look_at_all(at_us));
                self.hidden.extend(go.iter().filter_map(Goroutines::hidden).cloned());
                seen.go = go.map(|go| go.observed(0));
                Graph::of(&seen, Sight::Wait)
            }
        }
        .unwrap_or_default();
        graph.lost = seen.overhead.dropped_events;
        self.hidden.append(&mut seen.not_visible);
        graph.not_visible = self.hidden;
        (graph, watched)
    }
}

/// Samples, and nothing but those.
fn samples(kernel: Result<Kernel, Hidden>, target: &Target) -> Result<Waiting, Hidden> {
    let mut waiting = Waiting::attach(&kernel?, target)?;
    waiting.keep(STACKS_MAX);
    match waiting.without_samples() {
        Some(hidden) => Err(hidden),
        None => Ok(waiting),
    }
}
