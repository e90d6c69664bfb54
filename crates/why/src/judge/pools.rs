//! Goroutines that wait for a place in a pool of their own program, and threads that may.

use overdue_core::{Cause, Confidence, Evidence, Source};

use super::{
    Finding, Severity, ShareOf,
    calls::callers,
    count, diag, place, proc,
    silence::answered_lately,
    sockets::{is_there, most_frequent, peer_of},
    thresholds::CROWD,
    time, total,
    unanswered::{all_stacks, asked_us, limited_threads, most_us},
};
use crate::{
    Observation,
    observation::{GoroutineGroup, TcpSocket},
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

/// Goroutines that were there at the first look and at the last, while callers wait.
pub(super) fn waits_for_a_place(seen: &Observation) -> Vec<Finding> {
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
