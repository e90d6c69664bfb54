//! Connections that pile up in a state that should be short.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use overdue_core::{
    Cause, Confidence, Evidence, Source,
    facts::{TcpInfo, TcpState},
};

use super::{
    Finding, Severity, ShareOf, bpf,
    calls::{READABLE, callers},
    count, diag, place, proc, share,
    thresholds::{ALWAYS, IDLE_MS, PILE, RWND_LIMITED, SETTLED_US},
    time,
    unanswered::MEMBERS,
};
use crate::{
    Observation,
    observation::{Listener, Sockets, TcpSocket, Thread, ThreadState, TimerKind},
};

/// The peers closed, the application never does.
pub(super) fn close_wait(seen: &Observation) -> Vec<Finding> {
    let Some(sockets) = &seen.sockets else { return Vec::new() };
    let Some((stuck, are_left)) = pile(seen, TcpState::CloseWait) else { return Vec::new() };
    let unread = stuck.iter().filter(|socket| socket.unread_bytes > 1).count();
    let unanswered = stuck.iter().filter(|socket| awaits_an_answer(socket)).count();
    let may_read_on = stuck.iter().filter(|socket| may_read_on(socket)).count();
    let workers = workers(seen);
    let side = side(&stuck);
    let oldest = oldest(&stuck);
    let closed = if are_left { "closed" } else { "closed, most of them their writing sides only" };
    let mut finding = Finding::new(
        Cause::CloseWaitPileup,
        Severity::Wasting,
        if unanswered.max(may_read_on) * 2 > stuck.len() { Confidence::Medium } else { Confidence::High },
        format!(
            "{} are in CLOSE_WAIT: the peers {closed}{}, this process did not ({side})",
            count(stuck.len() as u64, "connection"),
            oldest_text(oldest, "up to "),
        ),
    )
    .because(states(sockets, TcpState::CloseWait, stuck.len()))
    .because(
        diag(format!("the oldest {}; {} of them have data nobody read", since(oldest), unread))
            .with("oldest_us", oldest.map_or(0, |(us, _)| us))
            .with("with_unread", unread as u64),
    )
    .and((unanswered > 0).then(|| {
        diag(format!("{unanswered} of them asked something before, and nothing was sent since"))
            .with("unanswered", unanswered as u64)
    }))
    .rejected(Cause::FinWait2Pileup, "it is the peers who closed first, not this side")
    .share(ShareOf::Connections, share(stuck.len() as u64, sockets.tcp.len() as u64));
    if let Some((peer, number)) = most_frequent(stuck.iter().map(|socket| peer_of(socket))) {
        finding = finding.because(diag(format!("{number} of them with {peer}")).with("with_peer", number));
    }
    // A thread for each: what the peers have shut may be no more than their writing sides.
    if workers >= stuck.len() {
        finding.advisory = true;
        finding.verdict.confidence = Confidence::Low;
        let text = format!("{} at work, and may still serve these connections", are(workers, "thread"));
        finding = finding.because(proc(text).with("threads_at_work", workers as u64));
    }
    if !are_left {
        finding.advisory = true;
        finding.verdict.confidence = Confidence::Low;
        let text = "processes of this host still hold the other ends, and may read what comes";
        finding = finding.because(diag(text).with("held_by_peers", may_read_on as u64));
    }
    vec![finding]
}

/// Threads that may serve a caller without listening to it: they compute, sleep, write, or read from where the process
/// connected to. Who waits for a condition may as well wait for work.
fn workers(seen: &Observation) -> usize {
    const IDLE: [&str; 8] = ["accept", "epoll", "poll", "select", "io_uring", "futex", "sig", "pause"];
    let sockets = || seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let outbound: HashSet<u64> = sockets().filter(|socket| !socket.inbound).map(|socket| socket.cookie).collect();
    let works = |thread: &&Thread| match &thread.blocked_in {
        None => thread.state == ThreadState::Running,
        Some(blocked) if ["read", "recv"].iter().any(|call| blocked.call.starts_with(call)) => {
            blocked.cookie.is_some_and(|cookie| outbound.contains(&cookie))
        }
        Some(blocked) => !IDLE.iter().any(|call| blocked.call.contains(call)),
    };
    seen.threads.iter().flat_map(|threads| &threads.threads).filter(works).count()
}

/// Our side shut down its write half and waits for the peer's end.
pub(super) fn fin_wait2(seen: &Observation) -> Vec<Finding> {
    let Some(sockets) = &seen.sockets else { return Vec::new() };
    let Some((stuck, are_left)) = pile(seen, TcpState::FinWait2) else { return unheard(seen).into_iter().collect() };
    let oldest = oldest(&stuck);
    // Who listens was not seen.
    let mut threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let may_be_heard = stuck.iter().any(|socket| !socket.inbound) && !threads.any(|thread| thread.blocked_in.is_some());
    let mut finding = Finding::new(
        Cause::FinWait2Pileup,
        Severity::Wasting,
        if may_be_heard { Confidence::Medium } else { Confidence::High },
        format!(
            "{} are in FIN_WAIT2: this process shut down its writing side{} and waits for the peers to end, without \
             a limit ({})",
            count(stuck.len() as u64, "connection"),
            oldest_text(oldest, "up to "),
            side(&stuck),
        ),
    )
    .because(states(sockets, TcpState::FinWait2, stuck.len()))
    .because(
        diag(format!("they still have descriptors, so tcp_fin_timeout does not apply; the oldest {}", since(oldest)))
            .with("oldest_us", oldest.map_or(0, |(us, _)| us)),
    )
    .rejected(Cause::CloseWaitPileup, "it is this side that closed first; the peers have not")
    .share(ShareOf::Connections, share(stuck.len() as u64, sockets.tcp.len() as u64));
    if !are_left {
        finding.advisory = true;
        finding.verdict.confidence = Confidence::Low;
        finding = finding.because(proc("a thread waits until it can read from them: it may have said all, and listen"));
    }
    vec![finding]
}

/// Connections on which it asked, shut its side and never had an answer, while no thread is seen to listen for one: left, or
/// looked at now and then.
fn unheard(seen: &Observation) -> Option<Finding> {
    let sockets = seen.sockets.as_ref()?;
    let asked = |socket: &&TcpSocket| socket.fd.is_some() && !moves(socket) && awaits_an_answer(socket);
    let stuck: Vec<&TcpSocket> = settled(sockets, TcpState::FinWait2).filter(asked).collect();
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let calls: Vec<&str> = threads.filter_map(|thread| Some(thread.blocked_in.as_ref()?.call.as_str())).collect();
    // What is asked for over io_uring is not known.
    let is_seen = !calls.is_empty() && !calls.iter().any(|call| call.starts_with("io_uring"));
    let heard = heard(seen)?;
    if stuck.len() < PILE || !is_seen || stuck.iter().any(|socket| heard.contains(&socket.cookie)) {
        return None;
    }
    let oldest = oldest(&stuck);
    let finding = Finding::new(
        Cause::FinWait2Pileup,
        Severity::Wasting,
        Confidence::Low,
        format!(
            "{} are in FIN_WAIT2: this process said something, shut down its writing side{}, and the peers neither answered \
             nor ended since ({})",
            count(stuck.len() as u64, "connection"),
            oldest_text(oldest, "up to "),
            side(&stuck),
        ),
    )
    .because(
        diag(format!(
            "{} of {} connections, each for more than {}; nothing came on them since",
            stuck.len(),
            sockets.tcp.len(),
            time(SETTLED_US)
        ))
        .with("connections", stuck.len() as u64)
        .with("connections_total", sockets.tcp.len() as u64),
    )
    .because(
        proc(format!("no thread is seen to listen to any of them; the oldest {}", since(oldest)))
            .with("oldest_us", oldest.map_or(0, |(us, _)| us)),
    )
    .rejected(Cause::CloseWaitPileup, "it is this side that closed first; the peers have not")
    .rejected(Cause::ServerSlow, "possible: it may look now and then whether an answer has come")
    .share(ShareOf::Connections, share(stuck.len() as u64, sockets.tcp.len() as u64));
    Some(Finding { advisory: true, ..finding })
}

/// Inbound handshakes that do not complete.
pub(super) fn half_open(seen: &Observation) -> Vec<Finding> {
    let Some(sockets) = &seen.sockets else { return Vec::new() };
    let piled = sockets.listeners.iter().filter(|listener| listener.half_open.last as usize >= PILE);
    let Some(listener) = piled.max_by_key(|listener| listener.half_open.last) else { return Vec::new() };
    let half = &listener.half_open;
    // A full accept queue leaves handshakes half-open, too: it is the cause then.
    if is_full(listener) {
        return Vec::new();
    }
    // What waits for its client's first bytes (TCP_DEFER_ACCEPT) is in this state, too, and answered.
    let unanswered = half.sent_again.is_none_or(|again| again as usize >= PILE);
    let few = half.sources <= 4 || half.top.as_ref().is_some_and(|(_, top)| top.saturating_mul(2) >= half.last);
    let who = match &half.top {
        _ if !unanswered => {
            "and nearly none had to be answered twice: they are new, or their clients have sent nothing yet \
                             (TCP_DEFER_ACCEPT)"
                .to_owned()
        }
        Some((address, top)) if few => format!("{top} of them from {address}: what we answer does not reach it"),
        _ => format!("from {} addresses: a flood, or a return path that is lost for all", half.sources),
    };
    let cookies = sockets.host.map_or(0, |host| host.syncookies_sent);
    let finding = Finding::new(
        Cause::HalfOpenPileup,
        Severity::Refusing,
        match (unanswered, half.last >= half.first) {
            (false, _) => Confidence::Low,
            (true, true) => Confidence::High,
            (true, false) => Confidence::Medium,
        },
        format!("{} handshakes with {} are half-open (SYN-RECV), {who}", half.last, listener.local),
    )
    .because(
        diag(format!("{} half-open when the watch began, {} when it ended", half.first, half.last))
            .with("first", half.first)
            .with("last", half.last)
            .with("sources", half.sources),
    )
    .and(half.sent_again.map(|again| {
        diag(format!("{again} of them were answered again (SYN-ACK) for want of the client's ACK"))
            .with("sent_again", again)
    }))
    .and((cookies > 0).then(|| {
        proc(format!("{cookies} SYN cookies sent: the queue of half-open connections was full"))
            .with("syncookies_sent", cookies)
    }))
    .rejected(
        Cause::AcceptQueueOverflow,
        format!("at most {} of {} waited to be accepted", listener.queued_max, listener.backlog),
    )
    .share(ShareOf::Connections, share(half.last.into(), u64::from(half.last) + sockets.tcp.len() as u64));
    vec![Finding { advisory: !unanswered, ..finding }]
}

/// Our own listener is full.
pub(super) fn accept_queue(seen: &Observation) -> Vec<Finding> {
    let Some(sockets) = &seen.sockets else { return Vec::new() };
    let mut full: Vec<_> = sockets.listeners.iter().filter(|listener| is_full(listener)).collect();
    full.sort_by_key(|listener| std::cmp::Reverse((listener.full_rounds, listener.queued_max)));
    let Some(listener) = full.first() else { return Vec::new() };
    let rounds = sockets.rounds.max(1);
    let always = f64::from(listener.full_rounds) >= ALWAYS * f64::from(rounds);
    let drops = listener.drops.unwrap_or(0);
    let overflows = sockets.host.map_or(0, |host| host.listen_overflows);
    let instead = instead(seen);
    let does = instead.as_ref().map(|(text, _)| format!("; {text}")).unwrap_or_default();
    let mut finding = Finding::new(
        Cause::AcceptQueueOverflow,
        Severity::Refusing,
        if always || drops > 0 { Confidence::High } else { Confidence::Medium },
        format!(
            "the accept queue of {} is full: {} connections wait, the backlog is {}; further ones are not answered{does}",
            listener.local, listener.queued_last, listener.backlog
        ),
    )
    .because(
        diag(format!("full in {} of {rounds} looks, {} waiting at most", listener.full_rounds, listener.queued_max))
            .with("queued_max", listener.queued_max)
            .with("backlog", listener.backlog)
            .with("full_looks", listener.full_rounds),
    )
    .and((overflows > 0 || drops > 0).then(|| {
        proc(format!("{overflows} connections overflowed on this host while watched, {drops} dropped by this listener"))
            .with("listen_overflows", overflows)
            .with("listener_drops", drops)
    }));
    if let Some((_, evidence)) = instead {
        finding = finding.because(evidence);
    }
    let accepted = seen.connections.as_ref().map_or(0, |connections| connections.accepted);
    if always && accepted > 0 {
        finding = finding.because(
            bpf(format!("{accepted} connections accepted in {}: it takes some, and more come", time(seen.window_us)))
                .with("accepted", accepted),
        );
    }
    let finding = if always && accepted > 0 {
        finding.fix(
            "It accepts, and not fast enough: more workers or threads, or a higher limit of connections, if that is what it \
             waits for (haproxy: maxconn; it accepts only as others end). A longer queue only lets more of them wait.",
        )
    } else if listener.backlog < 128 && !always {
        finding.fix(format!(
            "Raise the backlog of listen() ({} now; net.core.somaxconn caps it), and accept in a loop until EAGAIN.",
            listener.backlog
        ))
    } else {
        finding
    };
    vec![
        finding
            .rejected(
                Cause::HalfOpenPileup,
                "the handshakes are complete, or wait for room in this queue: it is not the path that holds them",
            )
            .share(ShareOf::Connections, f64::from(listener.full_rounds) / f64::from(rounds)),
    ]
}

/// What the thread that should accept does instead: the one that is blocked elsewhere, or the one that computes.
pub(super) fn instead(seen: &Observation) -> Option<(String, Evidence)> {
    let threads = &seen.threads.as_ref()?.threads;
    let accepts = |thread: &Thread| {
        let call = thread.blocked_in.as_ref().map(|blocked| blocked.call.as_str());
        call.is_some_and(|call| {
            call.starts_with("accept") || call.starts_with("epoll") || call.ends_with("poll") || call.contains("select")
        })
    };
    let candidates = threads.iter().filter(|thread| !accepts(thread));
    let thread =
        candidates.max_by_key(|thread| (thread.tid == seen.process.pid, thread.cpu_us.max(thread.blocked_us)))?;
    let at = thread.stack.as_ref().and_then(place).map(|place| format!(", at {place}")).unwrap_or_default();
    let busy = share(thread.cpu_us, seen.window_us);
    let text = match &thread.blocked_in {
        Some(blocked) if busy < 0.5 => {
            let what = blocked.what.as_ref().map(|what| format!(" on {what}")).unwrap_or_default();
            format!("thread {} ({}) sits in {}{what} instead{at}", thread.tid, thread.name, blocked.call)
        }
        _ if busy >= 0.5 => format!("thread {} ({}) computes instead{at}", thread.tid, thread.name),
        _ => return None,
    };
    let evidence = proc(text.clone()).with("blocked_us", thread.blocked_us).with("cpu_us", thread.cpu_us);
    Some((text, evidence))
}

pub(super) fn is_full(listener: &Listener) -> bool {
    listener.full_rounds >= 2
}

/// Peers that read, and so slowly that what is sent to them waits for room at their end nearly all the time.
pub(super) fn slow_readers(seen: &Observation) -> Vec<Finding> {
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let mut slow: Vec<(&TcpSocket, SlowReader)> =
        sockets.filter_map(|socket| Some((socket, SlowReader::of(socket, seen.window_us)?))).collect();
    slow.sort_by(|(_, a), (_, b)| b.part.total_cmp(&a.part).then(a.per_second.cmp(&b.per_second)));
    let Some((socket, worst)) = slow.first() else { return Vec::new() };
    let (peer, rate) = (peer_of(socket), worst.per_second);
    vec![Finding {
        advisory: true,
        ..Finding::new(
            Cause::PeerNotReading,
            Severity::Waiting,
            Confidence::Low,
            format!(
                "{} slowly: {peer} takes {rate} bytes a second, and for {:.0} % of the time what is sent waits for room at its \
                 end",
                if slow.len() == 1 { "a peer reads".to_owned() } else { format!("{} peers read", slow.len()) },
                worst.part * 100.0
            ),
        )
        .because(
            Evidence::new(
                Source::TcpInfo,
                format!(
                    "sends to {peer} were limited by its window for {} of {}, and bytes moved: {rate} a second",
                    time(worst.limited_us),
                    time(worst.looked_us)
                ),
            )
            .with("rwnd_limited_us", worst.limited_us)
            .with("looked_us", worst.looked_us)
            .with("bytes_per_second", rate)
            .with("connections", slow.len() as u64),
        )
        .rejected(Cause::PathLost, "what is sent is acknowledged, and the window was seen closed: it is not the path")
        .rejected(Cause::Unknown, "possible: the peer may want no more in that time, and then it is no fault at all")
        .fix(
            "A player that has enough for now and a download with a limit to its rate look like this and are well. If it should \
             read faster, look at the peer: what it does between its reads.",
        )
        .share(ShareOf::StalledTime, worst.part)
    }]
}

/// One that takes less than the path would bring.
struct SlowReader {
    part: f64,
    limited_us: u64,
    looked_us: u64,
    per_second: u64,
}

impl SlowReader {
    fn of(socket: &TcpSocket, window_us: u64) -> Option<Self> {
        let (first, last) = socket.first.zip(socket.last).filter(|_| socket.state == TcpState::Established)?;
        let more = |count: fn(&TcpInfo) -> Option<u64>| Some(count(&last)?.saturating_sub(count(&first)?));
        let (limited_us, acked) = (more(|tcp| tcp.rwnd_limited_us)?, more(|tcp| tcp.bytes_acked)?);
        // One that took some in the watch, and takes nothing just now, pauses; what is stuck is more than slow, and another
        // rule's.
        let stands = u64::from(last.last_data_sent_ms) * 1_000 >= SETTLED_US;
        let pauses = stands && socket.timer.kind == TimerKind::ZeroWindowProbe;
        let moves = acked > 0 && (pauses || !stands) && socket.unsent_bytes > 0;
        let looked_us = if socket.since_before { window_us } else { socket.in_state_us };
        let part = share(limited_us, looked_us);
        let per_second = acked.saturating_mul(1_000_000).checked_div(looked_us)?;
        // A window that is small for a long path limits, too, but is never closed.
        let closed = |tcp: &TcpInfo| tcp.snd_wnd.is_some_and(|window| window < tcp.snd_mss.max(1));
        let is_full = closed(&first) || closed(&last) || socket.timer.kind == TimerKind::ZeroWindowProbe;
        let (most, quick) = RWND_LIMITED;
        let is_slow = looked_us >= SETTLED_US && is_full && (pauses || part >= most && per_second < quick);
        (moves && is_slow).then_some(Self { part, limited_us, looked_us, per_second })
    }
}

/// Whether it was seen in the last rounds.
pub(super) fn is_there(seen: &Observation, socket: &TcpSocket) -> bool {
    let rounds = seen.sockets.as_ref().map_or(1, |sockets| sockets.rounds).max(1);
    seen.window_us.saturating_sub(socket.last_seen_us) < (seen.window_us / u64::from(rounds)).saturating_mul(2)
}

/// Idle connections that nothing will ever close. Not of who waits for an answer.
pub(super) fn no_keepalive(seen: &Observation) -> Vec<Finding> {
    let Some(sockets) = &seen.sockets else { return Vec::new() };
    let waits: HashSet<u64> = callers(seen).into_iter().map(|socket| socket.cookie).collect();
    let idle: Vec<&TcpSocket> = sockets
        .tcp
        .iter()
        .filter(|socket| {
            socket.state == TcpState::Established
                && socket.fd.is_some()
                && is_there(seen, socket)
                && !waits.contains(&socket.cookie)
                && socket.timer.kind == TimerKind::Off
                && socket.unread_bytes == 0
                && socket.unsent_bytes == 0
                && socket.last.is_some_and(|tcp| tcp.last_data_recv_ms.min(tcp.last_data_sent_ms) >= IDLE_MS)
        })
        .collect();
    if idle.is_empty() {
        return Vec::new();
    }
    let longest = idle
        .iter()
        .filter_map(|socket| socket.last.map(|tcp| tcp.last_data_recv_ms.min(tcp.last_data_sent_ms)))
        .max()
        .unwrap_or(0);
    let peer = most_frequent(idle.iter().map(|socket| peer_of(socket)));
    let with = peer.map(|(peer, number)| format!(", {number} of them with {peer}")).unwrap_or_default();
    vec![
        Finding::new(
            Cause::NoKeepalive,
            Severity::Wasting,
            Confidence::Medium,
            format!(
                "{} idle (up to {}) without any timer of the kernel{with}: if a peer vanishes, nobody will notice",
                are(idle.len(), "connection"),
                time(u64::from(longest) * 1_000),
            ),
        )
        .because(
            diag(format!("{} ESTABLISHED, empty, timer off", idle.len()))
                .with("idle_connections", idle.len() as u64)
                .with("idle_max_ms", longest),
        )
        .rejected(Cause::WaitUnlimited, "possible: a timer inside of the program is not visible from here")
        .share(ShareOf::Connections, share(idle.len() as u64, sockets.tcp.len() as u64)),
    ]
}

fn are(number: usize, what: &str) -> String {
    format!("{} {}", count(number as u64, what), if number == 1 { "is" } else { "are" })
}

/// Those that have been in a state for so long that it is no passage, that are not in use, and that nobody is known to
/// need any more.
pub(crate) fn left(seen: &Observation, state: TcpState) -> Vec<&TcpSocket> {
    let heard = heard(seen);
    let is_needed = |socket: &TcpSocket| match state {
        TcpState::CloseWait => is_held_by_its_client(socket),
        _ => !socket.inbound && heard.as_ref().is_none_or(|heard| heard.contains(&socket.cookie)),
    };
    let mut left = in_state(seen, state);
    left.retain(|socket| !is_needed(socket));
    left
}

/// Those that make a pile: of those that nobody needs, else of all. And whether it is these.
fn pile(seen: &Observation, state: TcpState) -> Option<(Vec<&TcpSocket>, bool)> {
    let left = left(seen, state);
    let are_left = left.len() >= PILE;
    let pile = if are_left { left } else { in_state(seen, state) };
    (pile.len() >= PILE).then_some((pile, are_left))
}

/// Those that have been in a state for so long that it is no passage, and that are not in use.
fn in_state(seen: &Observation, state: TcpState) -> Vec<&TcpSocket> {
    let all = seen.sockets.iter().flat_map(|sockets| settled(sockets, state));
    // One in FIN_WAIT2 without a descriptor was closed: the kernel ends it after tcp_fin_timeout.
    let is_ours = |socket: &&TcpSocket| state != TcpState::FinWait2 || socket.fd.is_some();
    all.filter(|socket| !is_in_use(socket)).filter(is_ours).collect()
}

/// Whether a client on this host that has shut its writing side still has the other end. Who held it before the peer
/// closed may have closed all of it; and of a server the peer may be no more than its listener.
fn is_held_by_its_client(socket: &TcpSocket) -> bool {
    socket.inbound && socket.since_before && socket.peer_pid.is_some()
}

/// Whether a client may have shut its writing side only, as far as can be seen from here.
fn may_read_on(socket: &TcpSocket) -> bool {
    let is_here = socket.remote.ip().is_loopback() || socket.remote.ip() == socket.local.ip();
    socket.inbound && (socket.peer_pid.is_some() || !is_here)
}

/// The connections that threads read from, or wait for until they can. `None` where it may be any: of long lists a part is
/// known only.
fn heard(seen: &Observation) -> Option<HashSet<u64>> {
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let mut heard = HashSet::new();
    for blocked in threads.filter_map(|thread| thread.blocked_in.as_ref()) {
        if blocked.waits_for.len() >= MEMBERS {
            return None;
        }
        let readable = blocked.waits_for.iter().filter(|member| member.events & READABLE != 0);
        heard.extend(readable.filter_map(|member| member.cookie));
        let reads = blocked.call.contains("read") || blocked.call.contains("recv");
        heard.extend(blocked.cookie.filter(|_| reads));
    }
    Some(heard)
}

fn settled(sockets: &Sockets, state: TcpState) -> impl Iterator<Item = &TcpSocket> {
    sockets.tcp.iter().filter(move |socket| socket.state == state && socket.in_state_us >= SETTLED_US)
}

/// Whether something moves on it, or one who has asked and shut its writing side still holds it and waits for the answer.
/// Of a peer that is known only where it is on this host: who closed holds nothing.
fn is_in_use(socket: &TcpSocket) -> bool {
    let held = match socket.state {
        TcpState::CloseWait => socket.peer_pid.is_some(),
        _ => socket.fd.is_some(),
    };
    moves(socket) || held && awaits_an_answer(socket)
}

/// Whether the last that was said on a half-closed connection was the caller's, who has shut its side since.
fn awaits_an_answer(socket: &TcpSocket) -> bool {
    let Some(tcp) = socket.last else { return false };
    let (sent, received) = (socket.acked(&tcp), tcp.bytes_received);
    let (sent_ms, received_ms) = (tcp.last_data_sent_ms, tcp.last_data_recv_ms);
    // The FIN is counted among the bytes of who shut his side. What was written and has not left is an answer, too.
    let (asked, answered, asked_ms, answered_ms) = match (socket.state, socket.inbound) {
        (TcpState::CloseWait, true) if socket.unsent_bytes == 0 => {
            (received.map(|bytes| bytes > 1), sent.map(|bytes| bytes > 0), received_ms, sent_ms)
        }
        (TcpState::FinWait2, false) => {
            (sent.map(|bytes| bytes > 1), received.map(|bytes| bytes > 0), sent_ms, received_ms)
        }
        _ => return false,
    };
    // Where nothing was ever answered, that time is the one of the connection.
    asked == Some(true) && (asked_ms < answered_ms || asked_ms == answered_ms && answered == Some(false))
}

/// Whether the side that is still open is in use: bytes went its way in this window, and not only those that were under way
/// when the other side was shut. So a stream looks whose reader has said all that it had to say.
fn moves(socket: &TcpSocket) -> bool {
    let Some((first, last)) = socket.first.zip(socket.last) else { return false };
    let (before, after, ago_ms) = match socket.state {
        TcpState::CloseWait => (first.bytes_acked, last.bytes_acked, last.last_data_sent_ms),
        TcpState::FinWait2 => (first.bytes_received, last.bytes_received, last.last_data_recv_ms),
        _ => return false,
    };
    let late = socket.in_state_us.saturating_sub(u64::from(ago_ms) * 1_000) >= SETTLED_US;
    late && before.zip(after).is_some_and(|(before, after)| after > before)
}

fn states(sockets: &Sockets, state: TcpState, stuck: usize) -> Evidence {
    let whole = sockets.tcp.len();
    let moving = settled(sockets, state).filter(|socket| is_in_use(socket)).count();
    let moving = if moving > 0 { format!("; {moving} more are in use, half-closed") } else { String::new() };
    diag(format!("{stuck} of {whole} connections, each for more than {}{moving}", time(SETTLED_US)))
        .with("connections", stuck as u64)
        .with("connections_total", whole as u64)
}

/// The longest time, and whether it may have been longer.
fn oldest(sockets: &[&TcpSocket]) -> Option<(u64, bool)> {
    sockets.iter().map(|socket| (socket.in_state_us, socket.since_before)).max()
}

fn since(oldest: Option<(u64, bool)>) -> String {
    match oldest {
        Some((us, true)) => format!("since before the watch ({} of it)", time(us)),
        Some((us, false)) => format!("for {}", time(us)),
        None => "for an unknown time".to_owned(),
    }
}

/// Behind a verb: when that was, of the oldest.
fn oldest_text(oldest: Option<(u64, bool)>, before: &str) -> String {
    match oldest {
        Some((_, true)) => " (the oldest before the watch began)".to_owned(),
        Some((us, false)) => format!(" {before}{} ago", time(us)),
        None => String::new(),
    }
}

fn side(sockets: &[&TcpSocket]) -> String {
    let inbound = sockets.iter().filter(|socket| socket.inbound).count();
    match inbound {
        0 => "all opened from here".to_owned(),
        all if all == sockets.len() => "all accepted".to_owned(),
        some => format!("{some} accepted, {} opened from here", sockets.len() - some),
    }
}

/// Who it is to a reader: the port of a client means nothing.
pub(super) fn peer_of(socket: &TcpSocket) -> String {
    if socket.inbound { socket.remote.ip().to_string() } else { socket.remote.to_string() }
}

pub(super) fn most_frequent<T: Ord + Hash>(values: impl Iterator<Item = T>) -> Option<(T, u64)> {
    let mut counts: HashMap<T, u64> = HashMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    // Their order decides between equals, so that the same observation gives the same text.
    counts.into_iter().max_by(|(a, m), (b, n)| m.cmp(n).then_with(|| b.cmp(a)))
}
