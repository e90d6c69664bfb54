//! Who waits for a place in a pool of the program itself: goroutines for a connection, requests for a thread, threads
//! perhaps.

use std::collections::HashSet;

use overdue_core::{
    Cause, Confidence, Evidence, Source,
    facts::{TcpInfo, TcpState},
};

use super::{
    Finding, Severity, ShareOf,
    calls::{self, callers, owes_an_answer},
    count, deadlock, diag, place, proc, share,
    silence::answered_lately,
    sockets::{is_there, most_frequent, peer_of},
    threads::{frozen, io_stuck, runtime_blocked, wait_unlimited},
    thresholds::{ALWAYS, CROWD, MOST, PILE, QUEUE_FULL, SETTLED_US},
    time, total,
    unanswered::{LOCKS, all_stacks, asked_us, is_in, limited_threads, most_us},
};
use crate::{
    Observation,
    observation::{Connection, GoroutineGroup, Moment, Runtime, Side, TcpSocket, Thread},
};

/// Where a goroutine waits until a place is given back, and what is to be given back.
const POOLS: [(&str, &str); 6] = [
    (
        "database/sql.(*DB).conn",
        "a connection of database/sql: rows that are not closed keep one, and so do transactions",
    ),
    ("github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire", "a connection of pgxpool: rows that are not closed keep one"),
    ("github.com/jackc/puddle/v2.", "a resource of a pool (puddle)"),
    ("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).waitTurn", "a connection of go-redis"),
    ("golang.org/x/sync/semaphore.(*Weighted).Acquire", "a place of a semaphore"),
    (
        GET_CONN,
        "a connection of net/http (MaxConnsPerHost): a body that is neither closed nor read to its end keeps one",
    ),
];

/// Here a goroutine waits for a place, or for another that dials.
const GET_CONN: &str = "net/http.(*Transport).getConn";
const DIALS: &str = "net/http.(*Transport).dialConn";

/// Below which a goroutine answers a caller.
pub(super) const SERVES: [&str; 3] = [
    "net/http.(*conn).serve",
    "google.golang.org/grpc.(*Server).handleStream",
    "net/http.(*http2serverConn).runHandler",
];

/// Callers that wait for one.
pub(super) fn waits_for_a_place(seen: &Observation) -> Vec<Finding> {
    let mut found = goroutines(seen);
    found.extend(waits_for_a_thread(seen));
    found
}

/// Goroutines that were there at the first look and at the last, while callers wait.
fn goroutines(seen: &Observation) -> Vec<Finding> {
    let groups = || seen.go.iter().flat_map(|go| &go.groups);
    let dials = groups().any(|group| group.stack.functions().any(|name| name == DIALS));
    let waiting: Vec<(&GoroutineGroup, &str)> =
        groups().filter_map(|group| Some((group, awaited(group, dials)?))).collect();
    let number = total(waiting.iter().map(|(group, _)| group.stayed));
    let callers = callers(seen).len() as u64;
    let Some((first, what)) = waiting.iter().max_by_key(|(group, _)| group.stayed).filter(|_| callers > 0) else {
        return Vec::new();
    };
    let idle: Vec<&TcpSocket> = idle(seen);
    let of = most_frequent(idle.iter().map(|socket| peer_of(socket)));
    let leaked = of.as_ref().map_or(String::new(), |(peer, _)| {
        format!("; connections to {peer} lie idle meanwhile, and are not given back")
    });
    let finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Waiting,
        if number >= CROWD { Confidence::High } else { Confidence::Medium },
        format!(
            "{} that answer{} callers wait for {what}, since the watch began, and {} with a request and no answer{leaked}",
            count(number, "goroutine"),
            if number == 1 { "s" } else { "" },
            count(callers, "caller"),
        ),
    )
    .because({
        let at: Vec<&str> = first.stack.functions().filter(|name| !name.starts_with("runtime.")).take(3).collect();
        let longest = first.oldest_wait_us.map_or(String::new(), |us| format!(", the longest for {}", time(us)));
        Evidence::new(Source::Memory, format!("{} in {}{longest}", count(first.stayed, "goroutine"), at.join(" < ")))
            .with("goroutines", number)
    })
    .because(diag(format!("{} with a request and no answer", count(callers, "accepted connection"))).with("callers", callers))
    .and(of.map(|(peer, of)| {
        diag(format!("{} to {peer}, on which nothing was said since the watch began", count(of, "connection")))
            .with("idle", of)
    }))
    .rejected(Cause::ServerSlow, "they have not been sent: they wait for what others of this process hold");
    let fix = if leaked.is_empty() {
        "Find what holds the places for so long (the calls that are under way), or allow more, if the peer can take them; give \
         each wait a limit, so that callers hear of it."
    } else {
        "Give back what is held: close rows and bodies, end transactions, also where a function returns early (defer). Until \
         then a restart helps; a larger pool only takes longer to be used up."
    };
    vec![finding.fix(fix).share(ShareOf::StalledTime, 1.0)]
}

/// Threads that wait with a limit, no fewer than callers, while the connections of the process lie idle. So does a server
/// that is asked to wait, and what its threads wait for cannot be told: it is a remark.
pub(super) fn may_be_used_up(seen: &Observation) -> Option<Finding> {
    let most_us = most_us(seen);
    let waits = |socket: &&TcpSocket| is_there(seen, socket) && asked_us(socket) >= most_us;
    let callers: Vec<&TcpSocket> = callers(seen).into_iter().filter(waits).collect();
    let number = callers.len() as u64;
    let threads = limited_threads(seen, most_us);
    let (peer, of) = most_frequent(idle(seen).into_iter().map(peer_of))?;
    if number < CROWD || threads.len() < callers.len() || answered_lately(seen, most_us) {
        return None;
    }
    let first = threads.iter().max_by_key(|thread| thread.blocked_us)?;
    let longest_us = callers.iter().map(|socket| asked_us(socket)).max()?;
    let at = first.stack.as_ref().and_then(place).map(|at| format!(", from {at}")).unwrap_or_default();
    let sit = format!("{} threads ({}) sit in futex with a limit{at}", threads.len(), first.name);
    let mut finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Waiting,
        Confidence::Low,
        format!(
            "{number} callers wait for an answer, the longest for {}, and nobody was answered meanwhile; {sit}, and {} to {peer} \
             {} idle: a pool whose places are not given back looks like this, and so does a server that is asked to wait",
            time(longest_us),
            count(of, "connection"),
            if of == 1 { "lies" } else { "lie" },
        ),
    )
    .because(diag(format!("{number} accepted connections with a request and no answer")).with("callers", number))
    .because(proc(format!("{sit}, for {} or longer", time(first.blocked_us))).with("threads", threads.len() as u64))
    .because(diag(format!("{} to {peer}, on which nothing was said since the watch began", count(of, "connection"))).with("idle", of))
    .rejected(Cause::Unknown, "possible: they wait for news or for jobs, and then it is no fault at all")
    .fix(format!(
        "Look what they wait for, by {}. If it is a place in a pool: give back what is held, also where a function fails, and \
         set the wait a limit shorter than that of the callers.",
        all_stacks(&seen.process)
    ));
    finding.advisory = true;
    Some(finding)
}

/// What this group waits for, if it answers a caller. `dials`: whether one of net/http's clients does.
fn awaited(group: &GoroutineGroup, dials: bool) -> Option<&'static str> {
    let is = |functions: &[&str]| group.stack.functions().any(|name| functions.iter().any(|it| name.starts_with(it)));
    // Where it dials, or asks whether a connection still lives, other functions are above.
    let at = group.stack.functions().find(|name| !["runtime.", "sync."].iter().any(|of| name.starts_with(of)))?;
    let (pool, what) = POOLS.iter().find(|(function, _)| at.starts_with(function))?;
    (!(dials && *pool == GET_CONN) && group.stayed > 0 && is(&SERVES)).then_some(what)
}

/// Connections of the process on which nothing was said while it was watched, and whose peer had the last word: no call is
/// under way.
fn idle(seen: &Observation) -> Vec<&TcpSocket> {
    let silent = |socket: &&TcpSocket| {
        let Some(tcp) = socket.last.filter(|_| !socket.inbound && is_there(seen, socket)) else { return false };
        let long = u64::from(tcp.last_data_recv_ms) * 1_000 >= seen.window_us;
        long && tcp.last_data_recv_ms <= tcp.last_data_sent_ms && socket.unread_bytes == 0 && socket.unsent_bytes == 0
    };
    seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(silent).collect()
}

/// Requests lie unread in connections that were accepted, while each thread that answers callers sits in a call for its own.
/// Whoever turns a loop is another rule's: there a single thread reads for all.
pub(super) fn waits_for_a_thread(seen: &Observation) -> Option<Finding> {
    let process = &seen.process;
    let runs = process.ended_at_us.is_none() && !process.stopped && !process.only_waits_for_children;
    let has_loops = matches!(process.runtime, Runtime::Go { .. } | Runtime::Tokio | Runtime::Node);
    let threads = seen.threads.as_ref().filter(|threads| runs && !has_loops && threads.left_out == 0)?;
    let unread: Vec<&TcpSocket> = clients(seen).filter(|socket| lies_untouched(seen, socket)).collect();
    let number = unread.len() as u64;
    if number < CROWD || !runtime_blocked(seen).is_empty() {
        return None;
    }
    let contended = threads.threads.iter().any(takes_a_lock);
    let at_work: Vec<&Thread> = threads.threads.iter().filter(|thread| is_at_work(thread, contended)).collect();
    let taken = taken_up(seen, &at_work);
    // A thread for each of those that wait, too, is no pool: it has its own reason not to read.
    let is_pool = taken.len() >= 2 && taken.len() <= at_work.len() && number > (at_work.len() - taken.len()) as u64;
    if !is_pool || one_reads_for_all(seen, &at_work) {
        return None;
    }
    let longest_us = unread.iter().map(|socket| socket.unread_for_us).max()?;
    // One burst is over soon.
    let waited = clients(seen).filter(|it| it.unread_longest_us.max(it.unread_for_us) >= SETTLED_US).count();
    let lasts = share(longest_us, seen.window_us) >= MOST.0 && longest_us >= MOST.1 || waited >= PILE;
    let locked = at_work.iter().any(|thread| is_in_futex(thread));
    let is_sure = lasts && !locked && !is_explained(seen);
    let places = places(seen, &at_work);
    let at = most_frequent(places.iter().cloned()).map(|(place, _)| place).unwrap_or_default();
    let workers = count(at_work.len() as u64, "thread");
    // They wait for clients that say nothing.
    let silent = at_work.iter().filter(|thread| listens_to_a_caller(seen, thread)).count();
    let keeps_alive = silent * 2 > at_work.len();
    let of_whom = if keeps_alive { ", for callers that say nothing" } else { "" };
    let finding = Finding::new(
        Cause::PoolExhausted,
        Severity::Waiting,
        if is_sure { Confidence::Medium } else { Confidence::Low },
        format!(
            "{number} requests lie unread in connections that this process has accepted, the longest for {}: it does not take \
             them up, while all {workers} that work for callers sit in calls, most often {at}{of_whom}",
            time(longest_us)
        ),
    )
    .because(
        diag(format!(
            "{number} accepted connections whose request nobody has read for {} or more, {} at least; {waited} have waited so \
             long in all",
            time(SETTLED_US),
            count(unread.iter().map(|socket| socket.unread_bytes).min().unwrap_or(0), "byte"),
        ))
        .with("unread", number)
        .with("longest_us", longest_us)
        .with("waited", waited as u64),
    )
    .because(
        diag(format!(
            "{} taken up: read and not answered, or a thread sits in a call on them",
            count(taken.len() as u64, "other connection")
        ))
        .with("taken_up", taken.len() as u64),
    )
    .because({
        let mut each: Vec<(String, u64)> = Vec::new();
        for place in places {
            match each.iter_mut().find(|(of, _)| *of == place) {
                Some((_, number)) => *number += 1,
                None => each.push((place, 1)),
            }
        }
        each.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        let texts: Vec<String> = each.iter().take(3).map(|(place, number)| format!("{number} {place}")).collect();
        proc(format!("{workers}: {}", texts.join("; "))).with("threads", at_work.len() as u64)
    })
    .rejected(Cause::AcceptQueueOverflow, "they have been accepted: it is not the listener's queue in which they wait")
    .rejected(
        Cause::Unknown,
        "possible: it leaves them unread on purpose, as one does that takes turns or holds back who asks too much",
    );
    let fix = if keeps_alive {
        "Let fewer threads wait for silent callers: a shorter limit for idle connections (keep-alive), or one thread that listens \
         to all idle ones. More threads only let more of them idle."
    } else {
        "Look at what they sit in, and give it a limit or make it shorter; allow more threads, if the machine and whom they call \
         have room. Callers hear sooner if the queue before the pool has a limit."
    };
    let finding = finding.fix(fix).share(ShareOf::Connections, share(number, number + taken.len() as u64));
    Some(Finding { advisory: !is_sure, ..finding })
}

/// The connections that were accepted.
fn clients(seen: &Observation) -> impl Iterator<Item = &TcpSocket> {
    seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(|socket| socket.inbound)
}

/// Whether it is there, and was not closed since it was last looked at.
fn is_open(seen: &Observation, socket: &TcpSocket) -> bool {
    socket.fd.is_some()
        && is_there(seen, socket)
        && connection(seen, socket.cookie).is_none_or(|connection| connection.closed.is_none())
}

/// A request of which nothing was read. Not what is left of one that is worked on, nor what comes to one who only sends, and
/// nothing of who has closed.
fn lies_untouched(seen: &Observation, socket: &TcpSocket) -> bool {
    let Some(tcp) = socket.last.filter(|_| is_open(seen, socket)) else { return false };
    let waits = socket.state == TcpState::Established
        && !socket.fin_unread
        && (1..QUEUE_FULL).contains(&socket.unread_bytes)
        && socket.unread_for_us >= SETTLED_US
        && socket.unsent_bytes == 0;
    let is_first = tcp.bytes_received == Some(socket.unread_bytes.into()) && socket.acked(&tcp) == Some(0);
    waits && (is_first || is_next(seen, socket, &tcp))
}

/// Whether what lies unread came after an answer, so that it is another request.
fn is_next(seen: &Observation, socket: &TcpSocket, tcp: &TcpInfo) -> bool {
    let came_us = seen.window_us.saturating_sub(socket.unread_for_us);
    let answered = |it: &Connection| match (it.last_read, it.last_write) {
        (Some(Moment::At(read)), Some(Moment::At(wrote))) => read < wrote && wrote <= came_us,
        _ => false,
    };
    tcp.last_data_recv_ms < tcp.last_data_sent_ms && connection(seen, socket.cookie).is_some_and(answered)
}

fn connection(seen: &Observation, cookie: u64) -> Option<&Connection> {
    seen.connections.iter().flat_map(|connections| &connections.connections).find(|it| it.cookie == cookie)
}

/// Functions in which threads without work wait.
const IDLE: [&str; 3] = ["cond_", "Condvar", "park"];

/// Whether it sits in a call nearly always, and not in one in which work is waited for. Who waits in a futex may be idle,
/// unless some take a lock (`contended`) and his stack, which may be of a moment later, names no wait for work.
fn is_at_work(thread: &Thread, contended: bool) -> bool {
    let Some(blocked) = &thread.blocked_in else { return false };
    let idles = |call: &str| match call {
        "futex" => !contended || call == blocked.call && (thread.stack.is_none() || is_in(thread, &IDLE)),
        // A poll of a single connection is a read with a limit.
        _ if call == blocked.call && blocked.cookie.is_some() => call.starts_with("accept"),
        _ => deadlock::hears(call),
    };
    let at_work = thread.calls.iter().filter(|(call, _)| !idles(call)).map(|(_, looks)| u64::from(*looks));
    thread.looks >= 3 && !idles(&blocked.call) && share(total(at_work), thread.looks.into()) >= ALWAYS
}

fn takes_a_lock(thread: &Thread) -> bool {
    is_in_futex(thread) && is_in(thread, &LOCKS)
}

fn is_in_futex(thread: &Thread) -> bool {
    thread.blocked_in.as_ref().is_some_and(|blocked| blocked.call == "futex")
}

/// The connections that are worked on: read and not answered, or with a thread that reads from them or writes to them.
fn taken_up(seen: &Observation, at_work: &[&Thread]) -> HashSet<u64> {
    let sat_on: HashSet<u64> = at_work.iter().filter_map(|thread| thread.blocked_in.as_ref()?.cookie).collect();
    let worked_on = |socket: &&TcpSocket| {
        let owed = socket.unread_bytes == 0 && owes_an_answer(socket);
        is_open(seen, socket) && (owed || sat_on.contains(&socket.cookie))
    };
    clients(seen).filter(worked_on).map(|socket| socket.cookie).collect()
}

/// Whether one of these threads was the first to use all connections whose user is known, as the thread of a loop is.
fn one_reads_for_all(seen: &Observation, at_work: &[&Thread]) -> bool {
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let readers: Vec<u32> =
        connections.filter(|it| it.side == Side::Server && it.read_bytes > 0).filter_map(|it| it.tid).collect();
    let Some(first) = readers.first().filter(|_| readers.len() >= 2) else { return false };
    readers.iter().all(|tid| tid == first) && at_work.iter().any(|thread| thread.tid == *first)
}

/// Whether it reads from a caller to whom nothing is owed.
fn listens_to_a_caller(seen: &Observation, thread: &Thread) -> bool {
    let Some(blocked) = &thread.blocked_in else { return false };
    let writes = ["write", "send"].iter().any(|call| blocked.call.contains(call));
    !writes && clients(seen).any(|socket| Some(socket.cookie) == blocked.cookie && !owes_an_answer(socket))
}

/// Where each of them sits. The port of a caller says nothing.
fn places(seen: &Observation, at_work: &[&Thread]) -> Vec<String> {
    let sockets = || seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let place_of = |thread: &&Thread| {
        let blocked = thread.blocked_in.as_ref()?;
        let on = sockets().find(|socket| Some(socket.cookie) == blocked.cookie && !socket.inbound);
        let on = on.map(|socket| format!(" on {}", peer_of(socket))).unwrap_or_default();
        let at = thread.stack.as_ref().and_then(place).map(|place| format!(", from {place}")).unwrap_or_default();
        Some(format!("in {}{on}{at}", blocked.call))
    };
    at_work.iter().filter_map(place_of).collect()
}

/// Whether another rule says what holds them up.
fn is_explained(seen: &Observation) -> bool {
    let rules = [calls::rule, wait_unlimited, deadlock::rule, deadlock::held, io_stuck, frozen];
    rules.iter().flat_map(|rule| rule(seen)).any(|finding| !finding.advisory)
}
