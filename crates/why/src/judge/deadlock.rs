//! Threads that wait for locks of other threads.

use std::collections::HashMap;

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, ShareOf,
    calls::callers,
    count, diag, proc, share,
    threads::blocked_at,
    thresholds::SETTLED_US,
    time,
    unanswered::{LOCKS, is_in},
};
use crate::{
    Observation,
    observation::{BlockedIn, Thread},
};

/// None of them will ever go on. That a thread has waited for a lock for long says nothing, for its holder may wait for work,
/// as pools of workers do; only a circle of holders is a proof, whenever in the window it was closed.
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

/// Callers wait behind a mutex whose holder sits in another call all the time. Whoever listens for work with a lock in hand,
/// as the leader of a pool does, is well.
pub(super) fn held(seen: &Observation) -> Vec<Finding> {
    let callers = callers(seen).len() as u64;
    let Some(threads) = seen.threads.as_ref().filter(|_| callers > 0) else { return Vec::new() };
    let stays = |thread: &&Thread| thread.blocked_us >= SETTLED_US;
    let waits: HashMap<u32, u32> = threads
        .threads
        .iter()
        .filter(stays)
        .filter_map(|thread| Some((thread.tid, thread.blocked_in.as_ref()?.held_by?)))
        .collect();
    // Who holds a lock may wait for the next.
    let last =
        |tid: u32| std::iter::successors(waits.get(&tid), |tid| waits.get(tid)).take(waits.len()).last().copied();
    let behind = |holder: &Thread| waits.keys().filter(|&&tid| last(tid) == Some(holder.tid)).count() as u64;
    let holders = threads.threads.iter().filter(stays).filter(|thread| !waits.contains_key(&thread.tid));
    let inbound = |cookie: u64| {
        let mut tcp = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
        tcp.any(|socket| socket.cookie == cookie && socket.inbound)
    };
    let listens = |blocked: &BlockedIn| hears(&blocked.call) || blocked.cookie.is_some_and(inbound);
    let sits = |thread: &&Thread| thread.blocked_in.as_ref().is_some_and(|blocked| !listens(blocked));
    let holders = holders.filter(sits).map(|holder| (holder, behind(holder)));
    let Some((holder, number)) = holders.filter(|(_, number)| *number > 0).max_by_key(|(it, number)| (*number, it.tid))
    else {
        return Vec::new();
    };
    let call = holder.blocked_in.as_ref().map_or("", |blocked| blocked.call.as_str());
    let at = blocked_at(seen, holder).map(|place| format!(", from {place}")).unwrap_or_default();
    let longer = if holder.since_before { " or longer" } else { "" };
    let (tid, name) = (holder.tid, &holder.name);
    let first = threads.threads.iter().filter(|thread| last(thread.tid) == Some(tid)).max_by_key(|it| it.blocked_us);
    let place =
        first.and_then(|thread| blocked_at(seen, thread)).map(|place| format!(" in {place}")).unwrap_or_default();
    let verb = if number == 1 { "waits" } else { "wait" };
    let mut finding = Finding::new(
        Cause::WaitUnlimited,
        Severity::Waiting,
        Confidence::High,
        format!(
            "{} {verb}{place} for a mutex that thread {tid} ({name}) holds, which itself sits in {call}{at} for {}{longer}; \
             {callers} of its callers wait meanwhile",
            count(number, "thread"),
            time(holder.blocked_us)
        ),
    )
    .because(
        proc(format!("the mutex names thread {tid} as its owner, which did not run for {}", time(holder.blocked_us)))
            .with("tid", tid)
            .with("threads", number)
            .with("blocked_us", holder.blocked_us),
    )
    .because(diag(format!("{} asked and had no answer", count(callers, "caller"))).with("callers", callers))
    .rejected(Cause::TaskBacklog, "a crowd before a lock drains when its holder goes on; this one stays where it is")
    .fix(
        "Do not wait with a lock in hand: give it back before the call that blocks, or set a limit to that call. Whoever waits \
         for a lock can have a limit, too (pthread_mutex_timedlock, try_lock_for).",
    )
    .share(ShareOf::StalledTime, share(number.saturating_add(1), threads.last));
    finding.advisory = false;
    vec![finding]
}

/// Calls in which a thread listens for work.
pub(super) fn hears(call: &str) -> bool {
    ["accept", "epoll", "poll", "select", "io_uring", "sigwait", "sigtimedwait"].iter().any(|word| call.contains(word))
}

/// Threads of a circle that are named.
const DEADLOCKED: usize = 4;

/// Whether a function that takes a lock is in its stack; `None` where no function of it is known.
fn takes_a_lock(thread: &Thread) -> Option<bool> {
    thread.stack.as_ref()?.functions().next()?;
    Some(is_in(thread, &LOCKS))
}
