//! Tasks that become more and more: goroutines, threads.

use overdue_core::{
    Cause, Confidence, Evidence, Source,
    facts::{TcpInfo, TcpState},
};

use super::{
    Finding, Severity, ShareOf, is_young, place, proc, share,
    thresholds::{ALWAYS, BYTES_OF_A_THREAD, HEAP_GROWN, PILE, PILE_OF_THREADS, SETTLED_US, TASKS, TASKS_GROWN},
    time, total,
};
use crate::{
    Observation,
    observation::{BlockedIn, Go, GoroutineGroup, Reading, Runtime, TcpSocket, Thread, ThreadCounts},
};

/// Goroutines: a leak grows with its heap, a backlog waits for one thing.
pub(super) fn goroutines(seen: &Observation) -> Vec<Finding> {
    let Some(go) = &seen.go else { return Vec::new() };
    let Some((first, last)) = ends(&go.goroutines) else { return Vec::new() };
    let waiting = |group: &&GoroutineGroup| !group.is_idle();
    let Some(crowd) = go.groups.iter().filter(waiting).max_by_key(|group| group.last) else { return Vec::new() };
    let grown = last.saturating_sub(first);
    let counts: Vec<(u64, u64)> = go.goroutines.iter().map(|reading| (reading.at_us, reading.value)).collect();
    if crowd.last < TASKS || (grown as f64) < TASKS_GROWN * first as f64 || !grows_through(&counts, seen.window_us) {
        return Vec::new();
    }
    // A server has one or two for each client that is there, and so has a client for each connection: of those at one
    // place each has one.
    let came = [clients_that_came(seen), unix_clients_that_came(seen, crowd), calls_that_go_on(seen)];
    let more = crowd.last.saturating_sub(crowd.first).saturating_sub(total(came.into_iter()));
    if more < PILE as u64 || (more as f64) < TASKS_GROWN * crowd.first as f64 {
        return Vec::new();
    }
    // What survived a collection, where there was one at each end; the heap in use grows between two of them anyway.
    let collected = ends(&go.collections).is_some_and(|(first, last)| last > first);
    let heap = Some(&go.live_bytes).filter(|live| collected && live.len() > 1).and_then(|live| ends(live));
    let heap = heap.or_else(|| ends(&go.heap_bytes));
    let heap_grows = heap.is_some_and(|(first, last)| {
        let more = last.saturating_sub(first);
        more >= HEAP_GROWN.1 && more as f64 >= HEAP_GROWN.0 * first as f64
    });
    let place = place(&crowd.stack).unwrap_or_else(|| "an unknown place".to_owned());
    let wait = crowd.wait_reason.as_deref().unwrap_or("an unknown thing");
    let spawned = crowd.created_by.as_ref().map(|at| format!(", started by {at}")).unwrap_or_default();
    let (cause, verb, other, why) = if heap_grows {
        (
            Cause::TaskLeak,
            "grow together with the heap and do not end",
            Cause::TaskBacklog,
            "a backlog would drain when what it waits for comes, and its heap would not grow like this".to_owned(),
        )
    } else if crowd.is_left_behind() {
        (
            Cause::TaskLeak,
            "grow and none of them ends: each waits to hand something over, at a channel of its own",
            Cause::TaskBacklog,
            format!(
                "a backlog waits for one thing and drains when it comes; these wait at {} different channels, and the {} that were \
                 there at the first look still do",
                crowd.channels.unwrap_or(0),
                crowd.first
            ),
        )
    } else {
        (
            Cause::TaskBacklog,
            "pile up before the same thing while the heap does not grow",
            Cause::TaskLeak,
            "the heap does not grow with them".to_owned(),
        )
    };
    let mut finding = Finding::new(
        cause,
        Severity::Waiting,
        if heap.is_some() { Confidence::High } else { Confidence::Medium },
        format!("goroutines {verb}: {first} to {last}; {} of them wait for {wait} in {place}{spawned}", crowd.last),
    )
    .because(
        memory(format!("{first} goroutines at the first look, {last} at the last"))
            .with("first", first)
            .with("last", last),
    )
    .because(group_evidence(crowd))
    .and(heap.map(|(first, last)| {
        memory(format!("heap in use: {} to {}", bytes(first), bytes(last)))
            .with("heap_first", first)
            .with("heap_last", last)
    }))
    .and(runtime(go))
    .rejected(other, why)
    .share(ShareOf::StalledTime, share(crowd.last, last));
    // Who waits for another goroutine is no effect of descriptors that leak.
    finding.proven = cause == Cause::TaskLeak && !matches!(wait, "IO wait" | "select");
    if is_young(seen) && crowd.may_wait_for_a_time() {
        finding.advisory = true;
        finding.verdict.confidence = Confidence::Low;
        let text = "it began a moment ago: jobs that wait for their time look the same until the first of them end";
        finding = finding.because(memory(text.to_owned()));
    }
    vec![finding]
}

impl GoroutineGroup {
    /// Whether nobody is left to whom they could hand over what they have: each has a channel of its own, none of the old
    /// ones has ended.
    fn is_left_behind(&self) -> bool {
        self.wait_reason.as_deref() == Some("chan send")
            && self.channels.is_some_and(|channels| share(channels, self.last) >= ALWAYS)
            && share(self.stayed, self.first) >= ALWAYS
    }

    /// Workers of the runtime and of pools that wait for work are idle, not waiting; and who sleeps goes on when it is time.
    fn is_idle(&self) -> bool {
        let reason = self.wait_reason.as_deref().unwrap_or_default();
        reason == "sleep" || reason.contains("idle") || reason.contains("finalizer wait") || reason.starts_with("GC ")
    }

    /// Whether a timer may end the wait: its channel looks like any other.
    fn may_wait_for_a_time(&self) -> bool {
        matches!(self.wait_reason.as_deref(), Some("select" | "chan receive"))
    }
}

/// Threads.
pub(super) fn threads(seen: &Observation) -> Vec<Finding> {
    if matches!(seen.process.runtime, Runtime::Go { .. }) {
        return Vec::new();
    }
    let Some(threads) = &seen.threads else { return Vec::new() };
    let grown = threads.last.saturating_sub(threads.first);
    // A server may have one for each client that is there, and who loads one for each of its connections.
    if grown.saturating_sub(clients_that_came(seen)).saturating_sub(answers_that_came(seen)) < PILE_OF_THREADS
        || (grown as f64) < TASKS_GROWN * threads.first as f64
        || !grows_on(seen)
    {
        return Vec::new();
    }
    // Workers of a pool that have nothing to do wait with a limit, to end when nothing comes.
    let (idle, held): (Vec<&Thread>, Vec<&Thread>) = threads.threads.iter().partition(|thread| is_idle(thread));
    let piled = threads.last.saturating_sub(idle.len() as u64);
    let rss = seen.cpu.as_ref().and_then(|cpu| ends(&cpu.rss_bytes));
    let more = rss.map_or(0, |(first, last)| last.saturating_sub(first));
    // A thread's own stack is a few pages; what is more is the work's.
    let heap_grows = more / grown >= BYTES_OF_A_THREAD;
    if piled < PILE_OF_THREADS && !heap_grows {
        return Vec::new();
    }
    let blocked = held.iter().filter_map(|thread| thread.blocked_in.as_ref());
    let of_held = held.len() as u64;
    let crowd = super::sockets::most_frequent(blocked.filter_map(waits_for));
    // Who waits for another thread is no effect of descriptors that leak.
    let on_descriptors = crowd.as_ref().is_some_and(|(what, _)| !what.starts_with("futex"));
    let together = crowd.as_ref().is_some_and(|(_, many)| many.saturating_mul(2) >= of_held);
    if !together && !heap_grows {
        return Vec::new();
    }
    let wait = crowd.as_ref().map(|(what, many)| format!("; {many} of them are in {what}")).unwrap_or_default();
    let stack = threads
        .waits
        .as_ref()
        .and_then(|waits| waits.iter().max_by_key(|wait| wait.waited_us))
        .and_then(|wait| place(&wait.stack));
    let at = stack.map(|place| format!(", at {place}")).unwrap_or_default();
    let (cause, verb, other, why) = if heap_grows {
        (Cause::TaskLeak, "grow together with the memory and do not end", Cause::TaskBacklog, "memory grows with them")
    } else {
        (
            Cause::TaskBacklog,
            "pile up before the same thing",
            Cause::TaskLeak,
            "memory does not grow by more than their stacks",
        )
    };
    let mut finding = Finding::new(
        cause,
        Severity::Waiting,
        Confidence::Medium,
        format!("threads {verb}: {} to {} in {}{wait}{at}", threads.first, threads.last, time(seen.window_us)),
    )
    .because(
        proc(format!("{} threads when the watch began, {} when it ended", threads.first, threads.last))
            .with("first", threads.first)
            .with("last", threads.last),
    )
    .and(rss.map(|(first, last)| {
        proc(format!("resident memory: {} to {}", bytes(first), bytes(last)))
            .with("rss_first", first)
            .with("rss_last", last)
    }))
    .rejected(other, why)
    .share(ShareOf::StalledTime, crowd.map_or(0.0, |(_, many)| share(many, threads.last)));
    // A pool that still grows, each of whose workers keeps some memory, looks the same; and those of Java wait for work
    // as they wait for a lock.
    finding.advisory = piled < PILE_OF_THREADS || !together || seen.process.runtime == Runtime::Java;
    finding.proven = cause == Cause::TaskLeak && !on_descriptors;
    vec![finding]
}

/// Whether there were more threads after each quarter of the watch than before. Not where nobody looked in between.
fn grows_on(seen: &Observation) -> bool {
    let looks = seen.history.iter().flat_map(|history| &history.looks);
    let counts: Vec<(u64, u64)> =
        looks.filter_map(|look| Some((look.at_us, look.threads.as_ref().map(ThreadCounts::total)?))).collect();
    grows_through(&counts, seen.window_us)
}

/// Whether there were more after each quarter of the watch than before: a pool that has grown to its size has stopped, and
/// so has a batch that was begun. `counts`: when, and how many then.
fn grows_through(counts: &[(u64, u64)], window_us: u64) -> bool {
    let Some(&(_, first)) = counts.first() else { return false };
    // What was true at that moment.
    let then = |at_us: u64| counts.iter().rev().find(|(at, _)| *at <= at_us).map_or(first, |(_, number)| *number);
    let quarters: Vec<u64> = (0..=4).map(|quarter| then(window_us / 4 * quarter)).collect();
    quarters.is_sorted_by(|before, after| before < after)
}

/// Clients that came in the window, are still there and wait for nothing.
fn clients_that_came(seen: &Observation) -> u64 {
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let came = |it: &&TcpSocket| it.inbound && it.fd.is_some() && !it.since_before && !super::calls::owes_an_answer(it);
    sockets.filter(came).count() as u64
}

/// The same of unix sockets, of which less is known: as many as there are more, where they are those that were accepted, and
/// the goroutines wait until they can read.
fn unix_clients_that_came(seen: &Observation, crowd: &GoroutineGroup) -> u64 {
    let Some(fds) = &seen.fds else { return 0 };
    if crowd.wait_reason.as_deref() != Some("IO wait") || !super::calls::callers(seen).is_empty() {
        return 0;
    }
    let opened = |call: &str| {
        let by_call = fds.openers.iter().flatten().filter(|opener| opener.call.starts_with(call));
        total(by_call.map(|opener| opener.still_open))
    };
    let more =
        fds.by_kind.iter().find(|kind| kind.kind == "unix").map_or(0, |kind| kind.last.saturating_sub(kind.first));
    if opened("accept") > opened("socket") { more } else { 0 }
}

/// Connections to others that were made in the window, are still there and on which the other had the last word.
fn answers_that_came(seen: &Observation) -> u64 {
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let answered = |it: &TcpSocket| it.last.is_some_and(|tcp| tcp.last_data_recv_ms <= tcp.last_data_sent_ms);
    sockets.filter(|it| !it.inbound && it.fd.is_some() && !it.since_before && answered(it)).count() as u64
}

/// Connections to others that were made in the window, are still there and were used a moment ago.
fn calls_that_go_on(seen: &Observation) -> u64 {
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let lately = |tcp: TcpInfo| u64::from(tcp.last_data_recv_ms.min(tcp.last_data_sent_ms)) * 1_000 < SETTLED_US;
    let goes_on = |it: &&TcpSocket| {
        let is_new = !it.inbound && it.fd.is_some() && !it.since_before;
        is_new && it.state == TcpState::Established && it.last.is_some_and(lately)
    };
    sockets.filter(goes_on).count() as u64
}

/// The call that a thread is in, and on what: those who wait for the same thing have the same text. `None` where it waits for
/// nothing: it sleeps, or has no work.
fn waits_for(blocked: &BlockedIn) -> Option<String> {
    let call = &blocked.call;
    // A name tells which it is; that it is a pipe does not. Whoever connects has a socket of its own for that.
    let which = |fd: Option<u32>, what: &Option<String>| match (what, fd) {
        (Some(what), Some(fd)) if !what.contains([' ', '/']) && call != "connect" => {
            Some(format!("{what} (descriptor {fd})"))
        }
        (None, Some(fd)) => Some(format!("descriptor {fd}")),
        (what, _) => what.clone(),
    };
    let members = blocked.waits_for.iter().filter_map(|member| which(Some(member.fd), &member.what));
    let mut all: Vec<String> = which(blocked.fd, &blocked.what).into_iter().chain(members).collect();
    // A poll of one has it twice.
    all.dedup();
    let polls_none = all.is_empty() && (call.contains("poll") || call.contains("select"));
    if polls_none || call.ends_with("nanosleep") || call.starts_with("accept") {
        return None;
    }
    Some(if all.is_empty() { call.clone() } else { format!("{call} on {}", all.join(", ")) })
}

/// Whether it waits for a while only, for something in the process itself; or for work, as workers of Python's executors
/// do.
fn is_idle(thread: &Thread) -> bool {
    let limited = |blocked: &BlockedIn| blocked.call == "futex" && matches!(blocked.timeout_us, Some(Some(_)));
    let mut functions = thread.stack.iter().flat_map(|stack| stack.functions());
    thread.blocked_in.as_ref().is_some_and(limited) || functions.any(|name| name == "_queue_SimpleQueue_get")
}

fn ends(readings: &[Reading]) -> Option<(u64, u64)> {
    Some((readings.first()?.value, readings.last()?.value))
}

fn memory(text: String) -> Evidence {
    Evidence::new(Source::Memory, text)
}

fn group_evidence(group: &GoroutineGroup) -> Evidence {
    let oldest = group.oldest_wait_us.map(|us| format!(", the oldest for {}", time(us))).unwrap_or_default();
    let mut evidence =
        memory(format!("{} of them at the same place, {} at the first look{oldest}", group.last, group.first))
            .with("group_first", group.first)
            .with("group_last", group.last);
    if let Some(us) = group.oldest_wait_us {
        evidence = evidence.with("oldest_wait_us", us);
    }
    evidence
}

fn runtime(go: &Go) -> Option<Evidence> {
    let idle = go.idle_ps.last()?;
    Some(memory(format!("{}: {} of {} processors (P) idle", go.version, idle.value, go.ps)).with("idle_ps", idle.value))
}

fn bytes(number: u64) -> String {
    match number {
        0..1_024 => format!("{number} B"),
        1_024..1_048_576 => format!("{:.1} KiB", number as f64 / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", number as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", number as f64 / 1_073_741_824.0),
    }
}
