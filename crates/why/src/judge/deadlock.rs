//! Threads that wait for each other's locks.

use std::collections::HashMap;

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf, proc, share,
    threads::blocked_at,
    time,
    unanswered::{LOCKS, is_in},
};
use crate::judge::thresholds::SETTLED_US;
use crate::{Observation, observation::Thread};

/// None of them will ever go on. That a thread has waited for a lock for long
/// says nothing, for its holder may wait for work, as pools of workers do; only a circle of holders is a proof, whenever
/// in the window it was closed.
pub(super) fn rule(seen: &Observation) -> Vec<Finding> {
    let Some(threads) = &seen.threads else { return Vec::new() };
    let waits = threads.threads.iter().filter(|thread| thread.blocked_us >= SETTLED_US);
    let waits = waits.filter_map(|thread| Some((thread, thread.blocked_in.as_ref()?.held_by?)));
    // Who waits for work may have written its own number beside the word that it waits for.
    let is_own = |&(thread, holder): &(&Thread, u32)| holder == thread.tid && takes_a_lock(thread) == Some(false);
    let waits: HashMap<u32, (&Thread, u32)> =
        waits.filter(|it| !is_own(it)).map(|(thread, holder)| (thread.tid, (thread, holder))).collect();
    let next = |tid: u32| waits.get(&tid).map(|&(_, holder)| holder);
    let reaches =
        |from: u32, to: u32| std::iter::successors(next(from), |&tid| next(tid)).take(waits.len()).any(|tid| tid == to);
    // The same observation gives the same text.
    let Some(first) = waits.keys().copied().filter(|&tid| reaches(tid, tid)).min() else { return Vec::new() };
    let after = std::iter::successors(next(first), |&tid| next(tid)).take_while(|&tid| tid != first);
    let circle: Vec<(&Thread, u32)> =
        std::iter::once(first).chain(after).filter_map(|tid| waits.get(&tid).copied()).collect();
    let behind = waits.keys().filter(|&&tid| reaches(tid, first) && !reaches(tid, tid)).count() as u64;
    let shortest = circle.iter().map(|(thread, _)| thread.blocked_us).min().unwrap_or_default();
    let longer = if circle.iter().all(|(thread, _)| thread.since_before) { " or longer" } else { "" };
    let names: Vec<String> =
        circle.iter().take(DEADLOCKED).map(|(thread, _)| format!("{} ({})", thread.tid, thread.name)).collect();
    let who = match circle.len() {
        1 => format!("thread {} waits for a lock that it holds itself", names.join("")),
        2 => format!("threads {} each wait for a lock that the other holds", names.join(" and ")),
        many => format!("{many} threads wait in a circle, each for a lock that the next holds: {}", names.join(", ")),
    };
    let also = if behind > 0 { format!("; {} more wait behind them", behind) } else { String::new() };
    let evidence = circle.iter().take(DEADLOCKED).map(|(thread, holder)| {
        let at = blocked_at(seen, thread).map(|place| format!(" in {place}")).unwrap_or_default();
        proc(format!(
            "thread {} ({}) waits{at}, by futex without a limit, for a mutex whose owner is thread {holder}",
            thread.tid, thread.name
        ))
        .with("tid", thread.tid)
        .with("held_by", *holder)
        .with("blocked_us", thread.blocked_us)
    });
    let proven = circle.len() > 1 || circle.iter().all(|(thread, _)| takes_a_lock(thread).is_some());
    let mut finding = Finding::new(
        Cause::WaitUnlimited,
        Severity::Waiting,
        if proven { Confidence::High } else { Confidence::Medium },
        format!("deadlock: {who}, for {}{longer}{also}; none of them will ever go on", time(shortest)),
    )
    .and(evidence)
    .rejected(Cause::TaskBacklog, "a crowd before a lock drains when its holder goes on; these hold it for each other")
    .fix(
        "Restart it: nothing else frees these threads. To mend it, take these locks in the same order everywhere, or hold \
         one at a time.",
    )
    .share(ShareOf::StalledTime, share((circle.len() as u64).saturating_add(behind), threads.last));
    (finding.advisory, finding.proven) = (false, proven);
    vec![finding]
}

/// Threads of a circle that are named.
const DEADLOCKED: usize = 4;

/// Whether a function that takes a lock is in its stack; `None` where no function of it is known.
fn takes_a_lock(thread: &Thread) -> Option<bool> {
    thread.stack.as_ref()?.functions().next()?;
    Some(is_in(thread, &LOCKS))
}
