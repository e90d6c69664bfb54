//! Processor time: too little of it, or all of it.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, place, proc, share,
    thresholds::{BUSY, PERIODS, SETTLED_US, STARVED, STARVED_EACH_US, THROTTLED},
    time, total,
};
use crate::{
    Observation,
    observation::{Cpu, HotStack, Stack},
};

/// A quota takes the processor away, or others do.
pub(super) fn throttled(seen: &Observation) -> Vec<Finding> {
    let Some(cpu) = &seen.cpu else { return Vec::new() };
    let used = cpu.used_us();
    if let Some(quota) = &cpu.throttling
        && share(quota.throttled_periods, quota.periods) >= THROTTLED
        && quota.periods >= PERIODS
    {
        let part = share(quota.throttled_periods, quota.periods);
        let limit = match (quota.quota_us, quota.period_us) {
            (Some(quota), Some(period)) if period > 0 => {
                format!(
                    " (its quota is {:.2} processors: {} of each {})",
                    quota as f64 / period as f64,
                    time(quota),
                    time(period)
                )
            }
            _ => String::new(),
        };
        return vec![
            Finding::new(
                Cause::CpuThrottled,
                Severity::Waiting,
                Confidence::High,
                format!(
                    "its control group stops it in {:.0} % of the periods{limit}: {} were taken away in {}",
                    part * 100.0,
                    time(quota.throttled_us),
                    time(seen.window_us)
                ),
            )
            .because(
                proc(format!("{}: {} of {} periods throttled", quota.group, quota.throttled_periods, quota.periods))
                    .with("throttled_periods", quota.throttled_periods)
                    .with("periods", quota.periods)
                    .with("throttled_us", quota.throttled_us),
            )
            .rejected(
                Cause::CpuBusy,
                "it would use more if it were allowed to: the quota is used up before the period is over",
            )
            .share(ShareOf::StalledTime, part),
        ];
    }
    // Others take the processor: ready to run, and nothing to run on.
    let Some(waited) = cpu.runqueue_us else { return Vec::new() };
    let part = share(waited, waited.saturating_add(used));
    // In a short window one turn of a neighbour's looks like starvation.
    let worth = share(waited, seen.window_us) >= STARVED && waited >= SETTLED_US / 2;
    let had_all = share(used, seen.window_us) >= 0.9 * cpu.processors.max(1.0);
    if part < STARVED || !worth || had_all {
        return Vec::new();
    }
    // Short waits, however many, are the ordinary sharing of a busy machine.
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let turns = total(threads.map(|thread| thread.voluntary_switches.saturating_add(thread.involuntary_switches)));
    let each = waited.checked_div(turns);
    let mut finding = Finding::new(
            Cause::CpuThrottled,
            Severity::Waiting,
            Confidence::Medium,
            format!(
                "other processes use the processors{}: it was ready to run and had none for {}, all threads together, while \
                 it ran {} in {}",
                match &cpu.throttling {
                    Some(quota) if quota.throttled_periods == 0 => ", and no quota holds it back",
                    Some(_) => ", and a quota hardly holds it back",
                    None => "",
                },
                time(waited),
                time(used),
                time(seen.window_us),
            ),
        )
        .because(
            proc(format!("schedstat: {} on the run queue, {} running", time(waited), time(used)))
                .with("runqueue_us", waited)
                .with("cpu_us", used),
        )
        .and(cpu.pressure_us.map(|us| {
            proc(format!("pressure: some task of this machine waited for a processor during {}", time(us)))
                .with("pressure_us", us)
        }))
        .fix("Give it processors of its own (cpuset, a higher weight), or move what uses them: `top -H`, /proc/pressure/cpu.")
        .and(each.map(|us| proc(format!("{} for each turn, of {turns}", time(us))).with("each_us", us).with("turns", turns)))
        .rejected(Cause::CpuBusy, "it waits for the processor about as long as it has it")
        .share(ShareOf::StalledTime, part);
    finding.advisory = each.is_none_or(|us| us < STARVED_EACH_US);
    vec![finding]
}

/// Whether [`throttled`] is a verdict.
pub(super) fn is_throttled(seen: &Observation) -> bool {
    throttled(seen).iter().any(|finding| !finding.advisory)
}

/// Where it computes, and the share of the samples there: the innermost function that at least half of them are in, with
/// what it calls; else the stack with the most samples.
pub(super) fn hot_place(cpu: &Cpu) -> Option<(String, f64)> {
    let hot = cpu.hot.as_ref()?;
    let all = cpu.samples.max(1);
    // Of each function the samples that are in it, and how far from the leaf that is in the stack with the most of them.
    let mut functions: HashMap<&str, (u64, &HotStack, usize)> = HashMap::new();
    for it in hot {
        let mut seen = HashSet::new();
        for (depth, frame) in it.stack.frames.iter().enumerate() {
            let Some(name) = frame.function.as_deref().filter(|name| seen.insert(*name)) else { continue };
            let (samples, most, at) = functions.entry(name).or_insert((0, it, depth));
            *samples = samples.saturating_add(it.samples);
            if it.samples > most.samples {
                (*most, *at) = (it, depth);
            }
        }
    }
    let half = functions.into_iter().filter(|(_, (samples, ..))| share(*samples, all) >= 0.5);
    // The same observation gives the same text.
    let innermost = half.min_by_key(|(name, (samples, _, depth))| (*depth, Reverse(*samples), *name));
    let inclusive = innermost.and_then(|(_, (samples, stack, depth))| {
        let frames = stack.stack.frames.get(depth..)?.to_vec();
        Some((place(&Stack { frames, cut: None })?, samples))
    });
    let (place, samples) = inclusive.or_else(|| {
        let most = hot.iter().max_by_key(|hot| hot.samples)?;
        Some((place(&most.stack)?, most.samples))
    })?;
    Some((place, share(samples, all)))
}

/// It is not waiting at all.
pub(super) fn busy(seen: &Observation) -> Vec<Finding> {
    let Some(cpu) = &seen.cpu else { return Vec::new() };
    let used = cpu.used_us();
    let processors = share(used, seen.window_us);
    // One thread that never sleeps is busy, too, whatever the number of processors; also one that shares its processor
    // with some others.
    let wanted = used.saturating_add(cpu.runqueue_us.unwrap_or(0));
    if share(wanted, seen.window_us) < BUSY || processors < BUSY / 4.0 {
        return Vec::new();
    }
    let where_to = hot_place(cpu).map(|(place, part)| format!("; {:.0} % of it in {place}", part * 100.0));
    vec![
        Finding::new(
            Cause::CpuBusy,
            Severity::Wasting,
            Confidence::High,
            format!(
                "it computes: {processors:.2} processors in use ({} user, {} system in {}){}",
                time(cpu.user_us),
                time(cpu.system_us),
                time(seen.window_us),
                where_to.unwrap_or_default()
            ),
        )
        .because(
            proc(format!("{} of processor time in {}", time(used), time(seen.window_us)))
                .with("user_us", cpu.user_us)
                .with("system_us", cpu.system_us),
        )
        .rejected(Cause::CpuThrottled, "no quota took the processor away in this window")
        .share(ShareOf::Cpu, 1.0),
    ]
}
