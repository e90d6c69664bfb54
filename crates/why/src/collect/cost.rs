//! What the programs in the kernel cost, measured while they run, and which of them to give up when that is too much.
//!
//! The kernel counts the time in a program, and how often it ran, only while somebody asks for it (`BPF_ENABLE_STATS`).
//! To ask costs some 0.3 ms, and then tens of nanoseconds for each run of every program on the machine. So it is asked for
//! slices alone: a window and as long a time after it, for the first two windows and then for one in eight. What a slice
//! shows holds until the next one; time in windows and between them is counted apart.
//!
//! What the process itself loses is less: programs run for whoever makes a system call. So each part counts the calls of
//! the process, too, and what was spent on calls of others is taken off.
//!
//! Iterators run when the watcher reads from them: they are part of its own processor time, and not counted here.

mod own;

use std::{io, os::fd::OwnedFd};

use aya::{
    Ebpf,
    sys::{Stats, enable_stats},
};

pub(super) use self::own::OwnCost;
use super::{
    Target,
    clock::{Clock, us},
    stat,
    tiers::Watcher,
};
use crate::observation::{Hidden, Overhead};

/// After the first two, one window in so many is measured.
const MEASURED: u64 = 8;
/// So many slices in a row must be too dear.
const TOO_DEAR: u32 = 2;
/// What the kernel does around each run of a program, in nanoseconds, beyond what it counts: on the machine where this was
/// measured a system call with two programs that ignore it took 205 ns longer, of which 155 were counted.
const EVENT_NS: f64 = 25.0;
/// What a run for somebody else's call costs, compared to one for the process: it ends where it finds that out. Measured:
/// between a third (reads, ends of calls) and the whole (beginnings of calls).
const OTHERS: f64 = 1.0 / 3.0;

/// What is watched by programs of its own, and can be given up by itself. In this order when they cost the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Every system call, in windows.
    Calls,
    /// Every read and write of the process.
    Transfers,
    /// Samples of where it computes.
    Samples,
    /// Rare events of connections.
    Lives,
}

const PARTS: [Part; 4] = [Part::Calls, Part::Transfers, Part::Samples, Part::Lives];

impl Part {
    /// For the list of what cannot be seen.
    const fn what(self) -> &'static str {
        match self {
            Self::Calls => "system calls of event loops",
            Self::Transfers => "reads and writes of connections",
            Self::Samples => "samples of where it computes",
            Self::Lives => "ends, resets and retransmits of connections",
        }
    }
}

/// What the kernel has counted of one part so far.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Count {
    pub(super) part: Part,
    pub(super) time_ns: u64,
    pub(super) runs: u64,
    /// Those runs that were for the process; `None` where that is not counted, and all are taken to be.
    pub(super) own_runs: Option<u64>,
}

impl Count {
    /// Of these programs of an object, as far as they are loaded.
    pub(super) fn of(part: Part, ebpf: &Ebpf, programs: &[&str], own_runs: Option<u64>) -> Self {
        let infos = programs.iter().filter_map(|name| ebpf.program(name)?.info().ok());
        let mut count = Self { part, time_ns: 0, runs: 0, own_runs };
        for info in infos {
            count.time_ns += u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
            count.runs += info.run_count();
        }
        count
    }
}

/// What is spent on one part, in nanoseconds for each nanosecond that passes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Rate {
    all: f64,
    /// What the process itself loses.
    own: f64,
}

/// In windows and between them; by [`PARTS`].
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Rates {
    window: [Rate; PARTS.len()],
    between: [Rate; PARTS.len()],
}

/// What was counted from one moment to another, in which so much time passed.
fn rates(before: &[Count], after: &[Count], passed_ns: u64) -> [Rate; PARTS.len()] {
    PARTS.map(|part| {
        let find = |all: &[Count]| all.iter().find(|count| count.part == part).copied();
        let (Some(before), Some(after)) = (find(before), find(after)) else { return Rate::default() };
        if passed_ns == 0 {
            return Rate::default();
        }
        let runs = after.runs.saturating_sub(before.runs);
        let counted = after.time_ns.saturating_sub(before.time_ns) as f64;
        let all = counted + runs as f64 * EVENT_NS;
        let own = match after.own_runs.zip(before.own_runs) {
            None => all,
            Some((after, before)) => {
                let own = after.saturating_sub(before).min(runs) as f64;
                let weight = own + (runs as f64 - own) * OTHERS;
                if weight > 0.0 { all * own / weight } else { 0.0 }
            }
        };
        Rate { all: all / passed_ns as f64, own: own / passed_ns as f64 }
    })
}

/// What to give up: the dearest of those that are there, when all together cost more than is allowed. `costs` are in
/// processors.
fn too_dear(costs: &[(Part, f64)], allowed: f64) -> Option<Part> {
    let all: f64 = costs.iter().map(|(_, cost)| cost).sum();
    if all <= allowed {
        return None;
    }
    // Of equals the first.
    let dearest = costs.iter().filter(|(_, cost)| *cost > 0.0).rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
    dearest.map(|(part, _)| *part)
}

/// Which windows are measured: the first two, one in eight, and whatever follows one that was too dear.
const fn is_measured(window: u64, over: u32) -> bool {
    window < 2 || over > 0 || window.is_multiple_of(MEASURED)
}

/// A part to be given up, and what to say of it.
pub(super) struct Dropped {
    pub(super) part: Part,
    pub(super) hidden: Hidden,
}

/// Keeps the books of one watch.
pub(super) struct Meter {
    target: Target,
    /// What may be spent, as a share of the processor time of the process or of one processor, whichever is more.
    budget: Option<f64>,
    clock: Clock,
    /// Processor time of the process when the watch began.
    cpu_before_us: u64,
    /// Windows so far.
    windows: u64,
    /// While a slice is measured: counting goes on until this is dropped.
    slice: Option<Slice>,
    /// `None` until something was measured.
    rates: Option<Rates>,
    /// How much of the time is in windows, and until when the books are kept.
    window_ns: u64,
    between_ns: u64,
    in_window: bool,
    booked_ns: u64,
    spent: Rate,
    over: u32,
    given_up: Vec<Part>,
    hidden: Vec<Hidden>,
    /// Whether the kernel does not count for this watcher.
    refused: bool,
}

struct Slice {
    _counting: OwnedFd,
    since_ns: u64,
    before: Vec<Count>,
}

impl Meter {
    /// The watch of that process begins.
    pub(super) fn new(target: &Target, budget: Option<f64>) -> Self {
        Self {
            target: target.clone(),
            budget,
            clock: Clock::start(),
            cpu_before_us: cpu_us(target).unwrap_or(0),
            windows: 0,
            slice: None,
            rates: None,
            window_ns: 0,
            between_ns: 0,
            in_window: false,
            booked_ns: 0,
            spent: Rate::default(),
            over: 0,
            given_up: Vec::new(),
            hidden: Vec::new(),
            refused: false,
        }
    }

    /// A window was opened.
    pub(super) fn opened(&mut self, counts: impl Fn() -> Vec<Count>) {
        self.book();
        self.in_window = true;
        let measured = is_measured(self.windows, self.over) && !self.refused;
        self.windows += 1;
        if !measured {
            return;
        }
        match enable_stats(Stats::RunTime) {
            Ok(counting) => {
                self.slice = Some(Slice { _counting: counting, since_ns: self.now_ns(), before: counts() });
            }
            Err(error) => {
                self.refused = true;
                let refused = match error.io_error.kind() {
                    io::ErrorKind::PermissionDenied => "the kernel counts it for CAP_SYS_ADMIN alone".to_owned(),
                    _ => format!("the kernel does not count it ({})", error.io_error),
                };
                self.hidden.push(Hidden {
                    what: "what the watch costs in the kernel".to_owned(),
                    why: format!("{refused}, so no budget is kept"),
                    how: Watcher::here().remedy(&["CAP_SYS_ADMIN"]),
                });
            }
        }
    }

    /// A window is about to be closed.
    pub(super) fn closing(&mut self, counts: impl Fn() -> Vec<Count>) {
        if let Some(rates) = self.measured(counts) {
            // Nothing is known of the time between windows before the first of them.
            self.rates.get_or_insert_with(Rates::default).window = rates;
        }
        self.book();
        self.in_window = false;
    }

    /// As long after a window as it was open, if it was measured ([`measuring`](Self::measuring)): what to give up.
    pub(super) fn after(&mut self, counts: impl Fn() -> Vec<Count>) -> Option<Dropped> {
        let between = self.measured(counts)?;
        self.slice = None;
        self.rates.get_or_insert_with(Rates::default).between = between;
        self.book();
        self.judge()
    }

    /// Whether a slice goes on.
    pub(super) const fn measuring(&self) -> bool {
        self.slice.is_some()
    }

    /// The rates of the slice so far, which begins anew.
    fn measured(&mut self, counts: impl Fn() -> Vec<Count>) -> Option<[Rate; PARTS.len()]> {
        let now_ns = self.now_ns();
        let slice = self.slice.as_mut()?;
        let after = counts();
        let rates = rates(&slice.before, &after, now_ns.saturating_sub(slice.since_ns));
        (slice.before, slice.since_ns) = (after, now_ns);
        Some(rates)
    }

    /// Enters the time that passed since this was last done.
    fn book(&mut self) {
        let now_ns = self.now_ns();
        let passed_ns = now_ns.saturating_sub(std::mem::replace(&mut self.booked_ns, now_ns));
        let rates = self.rates.unwrap_or_default();
        let rates = if self.in_window {
            self.window_ns += passed_ns;
            rates.window
        } else {
            self.between_ns += passed_ns;
            rates.between
        };
        for rate in rates {
            self.spent.all += rate.all * passed_ns as f64;
            self.spent.own += rate.own * passed_ns as f64;
        }
    }

    /// What each part costs on the average, in processors.
    fn costs(&self) -> Vec<(Part, f64)> {
        let Some(rates) = self.rates else { return Vec::new() };
        let all_ns = (self.window_ns + self.between_ns).max(1) as f64;
        let cost = |(window, between): (Rate, Rate)| {
            (window.all * self.window_ns as f64 + between.all * self.between_ns as f64) / all_ns
        };
        PARTS.into_iter().zip(rates.window.into_iter().zip(rates.between).map(cost)).collect()
    }

    fn judge(&mut self) -> Option<Dropped> {
        let budget = self.budget?;
        // The share of windows in the time so far is not yet what it will be.
        if self.windows < 2 {
            return None;
        }
        let used_us = cpu_us(&self.target)?.saturating_sub(self.cpu_before_us);
        let processors = used_us as f64 / us(self.clock.elapsed()).max(1) as f64;
        let costs: Vec<_> = self.costs().into_iter().filter(|(part, _)| !self.given_up.contains(part)).collect();
        let allowed = budget * processors.max(1.0);
        let Some(part) = too_dear(&costs, allowed) else {
            self.over = 0;
            return None;
        };
        self.over += 1;
        if self.over < TOO_DEAR {
            return None;
        }
        // One more slice tells whether that was enough.
        self.over = TOO_DEAR - 1;
        self.given_up.push(part);
        let at = PARTS.iter().position(|it| *it == part);
        for rates in self.rates.iter_mut().flat_map(|rates| [&mut rates.window, &mut rates.between]) {
            at.and_then(|at| rates.get_mut(at)).into_iter().for_each(|rate| *rate = Rate::default());
        }
        let cost = costs.iter().find(|(it, _)| *it == part).map_or(0.0, |(_, cost)| *cost);
        let all: f64 = costs.iter().map(|(_, cost)| cost).sum();
        Some(Dropped { part, hidden: given_up(part, us(self.clock.elapsed()), (cost, all, allowed), budget) })
    }

    /// A window was closed out of turn.
    pub(super) fn interrupted(&mut self) {
        self.slice = None;
        self.book();
        self.in_window = false;
    }

    /// Enters what the programs have cost so far, and what the process lost by them.
    pub(super) fn tell(&mut self, overhead: &mut Overhead, hidden: &mut Vec<Hidden>) {
        self.book();
        hidden.extend(self.hidden.iter().cloned());
        if self.rates.is_none() {
            return;
        }
        overhead.bpf_us = Some(whole(self.spent.all / 1000.0));
        overhead.lost_us = Some(whole(self.spent.own / 1000.0));
        // Of one that has ended nobody knows.
        let used_us = cpu_us(&self.target).map(|used_us| used_us.saturating_sub(self.cpu_before_us));
        overhead.slowdown_ppm = used_us.and_then(|used_us| slowdown_ppm(self.spent.own / 1000.0, used_us));
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What the process lost, in millionths of what it would have used. `None` where it used too little to tell.
fn slowdown_ppm(lost_us: f64, used_us: u64) -> Option<u64> {
    /// Ten ticks of the clock that processor time is counted by. Of less a share says nothing.
    const LEAST_US: u64 = 100_000;
    let without = (used_us as f64 - lost_us).max(0.0);
    let share = lost_us / without;
    (used_us >= LEAST_US && share.is_finite()).then(|| whole((share * 1e6).min(1e9)))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds, and millionths")]
fn whole(number: f64) -> u64 {
    number as u64
}

fn given_up(part: Part, at_us: u64, (cost, all, allowed): (f64, f64, f64), budget: f64) -> Hidden {
    let percent = |share: f64| {
        let percent = share * 100.0;
        if percent >= 0.1 { format!("{percent:.1} %") } else { format!("{percent:.4} %") }
    };
    // What would have been enough, with some room.
    let enough = (budget * all / allowed.max(f64::MIN_POSITIVE) * 150.0).clamp(0.1, 1000.0);
    Hidden {
        what: format!("{} after the first {:.1} s", part.what(), at_us as f64 / 1e6),
        why: format!(
            "to watch them cost {} of a processor, and all programs {}: more than the budget allows ({})",
            percent(cost),
            percent(all),
            percent(allowed)
        ),
        how: format!("allow more: `--budget {enough:.1}`, or `--budget none`"),
    }
}

/// Processor time of the process so far.
fn cpu_us(target: &Target) -> Option<u64> {
    let stat = stat::parse(&target.read_text("stat", 4096).ok()?)?;
    Some(stat::ticks_us(stat.user_ticks.saturating_add(stat.system_ticks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(part: Part, time_ns: u64, runs: u64, own_runs: Option<u64>) -> Count {
        Count { part, time_ns, runs, own_runs }
    }

    fn rate(part: Part, time_ns: u64, runs: u64, own: Option<u64>) -> Rate {
        let rates = rates(
            &[count(part, 500, 7, own.map(|_| 3))],
            &[count(part, 500 + time_ns, 7 + runs, own.map(|own| 3 + own))],
            1_000_000,
        );
        let at = PARTS.iter().position(|it| *it == part).unwrap();
        assert!(rates.iter().enumerate().all(|(other, rate)| other == at || *rate == Rate::default()), "{rates:?}");
        rates[at]
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn time_in_programs_and_around_them() {
        let all = rate(Part::Calls, 75_000, 1000, Some(1000));
        near(all.all, 0.1);
        near(all.own, 0.1);
        // Half of the calls are others', and cost a third each.
        let half = rate(Part::Calls, 75_000, 1000, Some(500));
        near(half.all, 0.1);
        near(half.own, 0.075);
        near(rate(Part::Calls, 75_000, 1000, Some(0)).own, 0.0);
        // More than there were cannot be: the two were not read at the same moment.
        near(rate(Part::Calls, 75_000, 1000, Some(1010)).own, 0.1);
        near(rate(Part::Lives, 75_000, 1000, None).own, 0.1);
        assert_eq!(rates(&[], &[count(Part::Calls, 1, 1, None)], 1000), [Rate::default(); 4]);
        assert_eq!(
            rates(&[count(Part::Calls, 1, 1, None)], &[count(Part::Calls, 9, 2, None)], 0),
            [Rate::default(); 4]
        );
    }

    #[test]
    fn the_dearest_goes_and_only_when_it_must() {
        let costs = [(Part::Calls, 0.010), (Part::Transfers, 0.012), (Part::Lives, 0.001)];
        assert_eq!(too_dear(&costs, 0.023), None);
        assert_eq!(too_dear(&costs, 0.02), Some(Part::Transfers));
        // Windows of system calls first, of equals.
        assert_eq!(too_dear(&[(Part::Calls, 0.01), (Part::Transfers, 0.01)], 0.001), Some(Part::Calls));
        assert_eq!(too_dear(&[(Part::Calls, 0.0), (Part::Lives, 0.01)], 0.001), Some(Part::Lives));
        assert_eq!(too_dear(&[], 0.0), None);
        assert_eq!(too_dear(&[(Part::Calls, 0.0)], -1.0), None);
    }

    #[test]
    fn few_windows_are_measured_unless_it_is_dear() {
        let measured = |over| (0..20).filter(|&window| is_measured(window, over)).collect::<Vec<_>>();
        assert_eq!(measured(0), [0, 1, 8, 16]);
        assert_eq!(measured(1).len(), 20);
    }

    #[test]
    fn what_the_process_lost() {
        assert_eq!(slowdown_ppm(1_000.0, 101_000), Some(10_000));
        assert_eq!(slowdown_ppm(0.0, 101_000), Some(0));
        assert_eq!(slowdown_ppm(1.0, 9_000), None);
        assert_eq!(slowdown_ppm(20_000.0, 10_000), None);
    }

    #[test]
    fn what_was_given_up_is_said_with_what_would_be_enough() {
        let hidden = given_up(Part::Calls, 1_234_000, (0.03, 0.04, 0.02), 0.02);
        assert_eq!(hidden.what, "system calls of event loops after the first 1.2 s");
        assert!(hidden.why.contains("cost 3.0 % of a processor") && hidden.why.contains("(2.0 %)"), "{}", hidden.why);
        assert!(hidden.how.contains("--budget 6.0"), "{}", hidden.how);
    }
}
