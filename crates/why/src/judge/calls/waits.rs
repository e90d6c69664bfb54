//! Connections that wait for something, and stages that took too long.

use std::{cmp::Ordering, time::Duration};

use overdue_core::{
    Cause, Confidence, Evidence, LimitName, Rejected, Source, Stage,
    facts::{TcpInfo, TcpState},
};

use super::{
    Known, Meant, Seen, Trouble,
    facts::{Stages, facts, given_up, passed, response_bytes, since, since_or_until, unread, untaken},
    failures::{asked_in_tls, hidden_by_tls, went_elsewhere},
};
use crate::{
    Observation,
    judge::{
        Finding, Severity, bpf, diag, per_second, share,
        thresholds::{
            ACK_ALONE_MS, ALWAYS, GIVEN_UP_US, PROBES, QUEUE_FULL, SETTLED_US, TICK_MS, TRICKLE_PER_SECOND,
            USUAL_ANSWERS,
        },
        time, total,
    },
    observation::{HttpHead, Moment, Runtime, Side, TcpSocket, Thread, TimerKind, TlsHandshake, redis_waits},
};

/// Our own side does not read.
pub(super) fn not_read(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let socket = known.socket.filter(|socket| socket.unread_bytes >= QUEUE_FULL)?;
    // It takes nothing; or so little that what lies there lasts for several windows like this one.
    let received = |tcp: Option<TcpInfo>| tcp.and_then(|tcp| tcp.bytes_received);
    let came = received(socket.last).zip(received(socket.first)).map(|(last, first)| last.saturating_sub(first));
    let slow = came.is_some_and(|came| came.saturating_mul(4) < socket.unread_bytes.into()) && socket.since_before;
    let waited = if slow { socket.in_state_us } else { socket.unread_for_us };
    if waited < SETTLED_US {
        return None;
    }
    let mut facts = facts(known, Stage::Receive, waited, passed(LimitName::Gap, waited));
    facts.exchange.reader_away = Duration::from_micros(waited);
    facts.exchange.body_bytes = 1;
    let mut trouble = Trouble::of(known, &facts, waited);
    // It reads, and too little of what comes: not to read at all is something else.
    let read = known.connection.map_or(came.unwrap_or(0), |connection| connection.read_bytes);
    if read > 0 && trouble.verdict.cause == Cause::ReaderSlow {
        trouble.verdict.evidence.push(read_so_far(known, read, socket.in_state_us));
    }
    if slow && read > 0 && trouble.verdict.cause == Cause::ReaderSlow {
        let (rate, unread) = (read.saturating_mul(1_000_000) / waited.max(1), socket.unread_bytes);
        trouble.verdict.summary = format!(
            "the process reads slowly: {read} bytes in {}, {rate} a second, and {unread} more wait in its socket",
            time(waited)
        );
        trouble.verdict.evidence.retain(|evidence| evidence.source != Source::Timeline);
    }
    if reads_at_its_pace(seen, socket) {
        trouble.meant = Meant::OwnPace;
    }
    Some(trouble)
}

/// Whether a process that has read from a peer, whose loop turns and which holds up nobody, asks for no more by itself: a
/// player that has enough for now, a download with a limit to its rate.
fn reads_at_its_pace(seen: &Seen<'_>, socket: &TcpSocket) -> bool {
    let process = &seen.process;
    let has_read =
        socket.last.and_then(|tcp| tcp.bytes_received).is_some_and(|bytes| bytes > u64::from(socket.unread_bytes));
    let is_taken_by_choice = !socket.inbound && has_read && process.exec_at_us.is_none() && !process.stopped;
    is_taken_by_choice && all_turn(seen) && seen.callers.is_empty()
}

/// Whether each thread of the process is a loop that turns.
pub(super) fn all_turn(seen: &Observation) -> bool {
    let threads = || seen.threads.iter().flat_map(|threads| &threads.threads);
    // The other threads of Node's are a pool.
    let is_pool = |thread: &Thread| seen.process.runtime == Runtime::Node && thread.tid != seen.process.pid;
    threads().next().is_some() && threads().all(|thread| is_pool(thread) || turns(thread))
}

/// Whether a thread waits for whatever comes first, as a loop does, whenever it is looked at. A wait for nothing is a
/// sleep.
fn turns(thread: &Thread) -> bool {
    let of_many = |call: &str| ["epoll", "poll", "select"].iter().any(|word| call.contains(word));
    let found = thread.calls.iter().filter(|(call, _)| of_many(call)).map(|(_, looks)| u64::from(*looks));
    let waits = thread.blocked_in.as_ref().is_some_and(|blocked| of_many(&blocked.call));
    waits && thread.sleeps == 0 && share(total(found), thread.looks.into()) >= ALWAYS
}

/// How much was read: counted, or by what could come into a full socket.
fn read_so_far(known: &Known<'_>, read: u64, us: u64) -> Evidence {
    let text = format!("{read} bytes were read in {}", time(us));
    let evidence = if known.connection.is_some() { bpf(text) } else { diag(text) };
    evidence.with("read_bytes", read).with("watched_us", us)
}

/// The peer does not take what we send: its window is closed, or nothing is acknowledged. Who took some within the watch
/// pauses, as a player does, and is a slow reader.
pub(super) fn not_taken(known: &Known<'_>) -> Option<Trouble> {
    let socket = known.socket.filter(|socket| {
        let stuck = socket.timer.kind == TimerKind::ZeroWindowProbe
            || (socket.timer.kind == TimerKind::Retransmit && socket.timer.fired >= 2);
        stuck && socket.unsent_bytes > 0 && socket.state != TcpState::SynSent
    })?;
    let tcp = socket.last?;
    let acked = |tcp: &TcpInfo| tcp.bytes_acked;
    let took_some = socket.first.as_ref().and_then(acked).zip(acked(&tcp)).is_some_and(|(first, last)| last > first);
    if socket.timer.kind == TimerKind::ZeroWindowProbe && took_some {
        return None;
    }
    let waited = match socket.timer.kind {
        TimerKind::Retransmit => u64::from(tcp.last_ack_recv_ms) * 1_000,
        // A closed window is acknowledged again and again.
        _ => u64::from(tcp.last_data_sent_ms) * 1_000,
    };
    if waited < SETTLED_US {
        return None;
    }
    let facts = facts(known, Stage::Send, waited, passed(LimitName::Stage(Stage::Send), waited));
    Some(Trouble::of(known, &facts, waited)).filter(|trouble| trouble.verdict.cause != Cause::Unknown)
}

/// The peer's host does not answer the keepalive, and somebody waits for it.
pub(super) fn gone(known: &Known<'_>) -> Option<Trouble> {
    let (thread, _) = known.blocked?;
    let probed = |socket: &&TcpSocket| socket.timer.kind == TimerKind::Keepalive && socket.timer.fired >= PROBES;
    let socket = known.socket.filter(probed)?;
    let silent_us = u64::from(socket.last?.last_ack_recv_ms) * 1_000;
    let finding = Finding::new(
        Cause::PathLost,
        Severity::Waiting,
        Confidence::High,
        format!(
            "{} is gone: {} probes of the keepalive had no answer, and nothing came from it for {}",
            socket.remote,
            socket.timer.fired,
            time(silent_us)
        ),
    )
    .because(diag(format!("{} keepalive probes without an answer", socket.timer.fired)).with("silent_us", silent_us))
    .rejected(Cause::ServerSlow, "the kernel of a slow server acknowledges each probe at once");
    Some(Trouble::told(known, finding.verdict, thread.blocked_us.min(silent_us)))
}

/// No connection yet.
pub(super) fn connecting(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let mut given_up = false;
    let is_closed = known.connection.is_some_and(|connection| connection.closed.is_some());
    let waited = match (known.socket, known.connection) {
        (Some(socket), _) if socket.state == TcpState::SynSent && !is_closed => socket.in_state_us,
        (None, Some(connection))
            if connection.established.is_none() && connection.errno.is_none() && connection.closed.is_none() =>
        {
            since(connection.opened?, seen.window_us)?
        }
        // Given up by the program itself, before the kernel did; not for another address that answered sooner.
        (_, Some(connection)) if connection.established.is_none() && connection.errno.is_none() => {
            given_up = !went_elsewhere(seen, connection);
            let (opened, closed) = (connection.opened?.us()?, connection.closed?.us()?);
            closed.saturating_sub(opened)
        }
        _ => return None,
    };
    if waited < if given_up { GIVEN_UP_US } else { SETTLED_US } {
        return None;
    }
    let facts = facts(known, Stage::Connect, waited, passed(LimitName::Stage(Stage::Connect), waited));
    // One that was given up early among many that came up is ordinary noise.
    let waits = waited >= SETTLED_US;
    Some(Trouble { waits, ..Trouble::of(known, &facts, waited) })
}

/// A TLS handshake that does not come to its end.
pub(super) fn handshake(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let tls = known.connection?.tls.as_ref().filter(|tls| tls.client && tls.done.is_none() && tls.alert.is_none())?;
    let waited = since_or_until(tls.hello?, known, seen.window_us)?;
    if waited < SETTLED_US {
        return None;
    }
    let mut facts = facts(known, Stage::Tls, waited, passed(LimitName::Stage(Stage::Tls), waited));
    facts.exchange.response_bytes = handshake_bytes(tls, known);
    Some(Trouble::of(known, &facts, waited))
}

fn handshake_bytes(tls: &TlsHandshake, known: &Known<'_>) -> u64 {
    if tls.answered.is_none() { 0 } else { known.connection.map_or(1, |connection| connection.read_bytes.max(1)) }
}

/// A request without answer, or an answer that does not come to its end.
pub(super) fn exchange(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let http = known.connection.and_then(|connection| connection.http.as_ref());
    // A known request that nobody has answered.
    if let Some(http) = http
        && let (Some(requested), None) = (http.requested, http.answered)
        && !may_be_answered(seen, known, requested)
        && !came_before(known, requested)
    {
        let wrote =
            known.connection.and_then(|connection| connection.last_write).filter(|wrote| wrote.us() > requested.us());
        let waited = since_or_until(wrote.unwrap_or(requested), known, seen.window_us)?;
        // Whoever sends a body at its own pace pauses; a silence that is longer than that took is the peer's.
        let sending = wrote.and_then(Moment::us).map_or(0, |wrote| wrote.saturating_sub(requested.us().unwrap_or(0)));
        if waited >= SETTLED_US.max(sending) && !came_since(known, requested) {
            return waiting(seen, known, waited);
        }
    }
    // A head that is not complete, and of which nothing comes.
    let all_read = unread(known) == 0;
    if let Some(connection) = known.connection.filter(|_| all_read)
        && http.is_some_and(|http| http.half_head)
        && let Some(last) = connection.last_read
        && let Some(silent) = since_or_until(last, known, seen.window_us).filter(|us| *us >= SETTLED_US)
    {
        let mut facts = facts(known, Stage::Wait, silent, passed(LimitName::Stage(Stage::Wait), silent));
        facts.exchange.response_bytes = response_bytes(connection).0;
        return Some(Trouble::of(known, &facts, silent));
    }
    // A body that is not complete, and of which nothing comes.
    if let Some(connection) = known.connection.filter(|_| all_read)
        && http.and_then(|http| http.missing_bytes).is_some_and(|missing| missing > 0)
        && let Some(last) = connection.last_read
        && let Some(silent) = since_or_until(last, known, seen.window_us).filter(|us| *us >= SETTLED_US)
    {
        let mut facts = facts(known, Stage::Receive, silent, passed(LimitName::Gap, silent));
        (facts.exchange.response_bytes, facts.exchange.body_bytes) = response_bytes(connection);
        let missing = http.and_then(|http| http.missing_bytes).unwrap_or_default();
        facts.exchange.body_expected = Some(facts.exchange.body_bytes.saturating_add(missing));
        return Some(Trouble::of(known, &facts, silent));
    }
    if let Some(trouble) = chunks_stopped(seen, known).or_else(|| trickle(seen, known)) {
        return Some(trouble);
    }
    // A wait that has ended is as long as one that goes on.
    if all_transfers(seen)
        && let Some(gap) =
            known.connection.map(|connection| connection.read_gaps.longest_us).filter(|us| *us >= SETTLED_US)
    {
        return waiting(seen, known, gap);
    }
    if let Some(trouble) = hidden(seen, known) {
        return Some(trouble);
    }
    // A thread that sits in a read says that something is due, whatever the protocol; so does a short poll on one
    // connection.
    let socket = known.socket.filter(|socket| socket.state == TcpState::Established && socket.unread_bytes == 0)?;
    let tcp = socket.last?;
    let (thread, call) = known.blocked?;
    let reads = ["read", "recv", "poll", "select"].iter().any(|word| call.call.contains(word));
    let received = tcp.bytes_received.unwrap_or(0);
    // Some look again each second, for as long as nothing at all came.
    let again = thread.calls.iter().any(|(name, looks)| {
        received == 0 && *name == call.call && f64::from(*looks) >= ALWAYS * f64::from(thread.looks)
    });
    let again_us = if again { seen.window_us.min(socket.in_state_us) } else { 0 };
    let blocked_us = thread.blocked_us.max(again_us);
    if !reads || call.call.starts_with("epoll") || blocked_us < SETTLED_US {
        return None;
    }
    // The kernel's times are of milliseconds, in which many an answer comes.
    let exact = known.connection.filter(|_| all_transfers(seen));
    let exact = exact.and_then(|connection| Some(connection.last_write?.us()? > connection.last_read?.us()?));
    let wrote_last = exact.unwrap_or_else(|| wrote_last(socket, &tcp));
    let sent_nothing = tcp.bytes_acked.is_some_and(|acked| acked <= 1) && socket.unsent_bytes == 0;
    if received == 0 && sent_nothing {
        let waited = blocked_us;
        let mut quiet = waiting(seen, known, waited)?;
        quiet.meant = Meant::Quiet;
        quiet.verdict.summary =
            format!("{} has said nothing for {}, and nothing was sent to it", quiet.peer, time(waited));
        return Some(quiet);
    }
    if received == 0 || wrote_last {
        let mut waits = waiting(seen, known, blocked_us.max(u64::from(tcp.last_data_sent_ms) * 1_000))?;
        let untaken = untaken(socket);
        if received == 0 && waits.unseen && !untaken {
            let why = "possible: what it asked was not seen, and may wait for something to happen".into();
            waits.verdict.confidence = waits.verdict.confidence.min(Confidence::Medium);
            waits.verdict.rejected.push(Rejected { cause: Cause::Unknown, why });
        }
        // One of several that a thread polls may be there for what it sends alone: logs, metrics. So may one on which
        // another thread sends while this one reads, to see its end.
        let sends_on = u64::from(tcp.last_data_sent_ms.saturating_add(TICK_MS)) * 1_000 < blocked_us;
        let sends_again = sends_again(known);
        let several = call.waits_for.iter().filter(|member| member.cookie.is_some()).count() > 1;
        // Whose wait has ended, and who then went on, waited for no answer.
        let wait_ended = sends_again && matches!(call.timeout_us, Some(Some(_)));
        let is_quick = is_usually_quick(known, waits.stalled_us);
        let goes_on = received == 0 && (several || sends_on || sends_again || seen.answers_others(socket))
            || wait_ended && !is_quick;
        let one_way = goes_on && waits.unseen && !untaken;
        // After an answer it may send heartbeats, even in a program that was started to be watched.
        let beats = received > 0 && sends_on && !untaken && !is_request(known) && !is_quick;
        let meant = match waits.meant {
            _ if one_way => Meant::Unseen,
            Meant::No if beats => Meant::Perhaps,
            Meant::No | Meant::Perhaps if received > 0 && !untaken && !is_request(known) && seen.is_relayed(socket) => {
                Meant::Relayed
            }
            meant => meant,
        };
        return Some(Trouble { meant, ..waits });
    }
    // Without a request that was seen, silence after an answer may be a subscriber's, who waits for news.
    let silent = u64::from(tcp.last_data_recv_ms) * 1_000;
    if silent < SETTLED_US || http.is_none_or(|http| http.answered.is_none() || http.is_switched()) {
        return None;
    }
    let mut facts = facts(known, Stage::Receive, silent, passed(LimitName::Gap, silent));
    facts.exchange.body_bytes = received;
    facts.exchange.response_bytes = received;
    // The last answer that was looked at may be whole, and then a thread may wait for what comes next.
    let meant = if http.is_some_and(|http| http.missing_bytes.is_none_or(|missing| missing == 0)) {
        Meant::Perhaps
    } else {
        Meant::No
    };
    Some(Trouble { meant, ..Trouble::of(known, &facts, silent) })
}

/// A body in chunks of which nothing comes, where what was read last is not its end. It does not say how long it is, and a
/// stream of news looks the same.
fn chunks_stopped(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let connection = known.connection.filter(|it| !it.heads_hidden && unread(known) == 0)?;
    let http = connection.http.as_ref().filter(|http| http.chunks_ended == Some(false) && !http.half_head)?;
    let silent = since_or_until(connection.last_read?, known, seen.window_us).filter(|us| *us >= SETTLED_US)?;
    let mut facts = facts(known, Stage::Receive, silent, passed(LimitName::Gap, silent));
    (facts.exchange.response_bytes, facts.exchange.body_bytes) = response_bytes(connection);
    let mut trouble = Trouble::of(known, &facts, silent);
    trouble.meant = match seen.process.exec_at_us {
        _ if http.is_events => Meant::Events,
        _ if asks_to_wait(known) => Meant::Asked,
        Some(_) => Meant::No,
        None => Meant::Perhaps,
    };
    let verdict = &mut trouble.verdict;
    verdict.confidence = verdict.confidence.min(Confidence::Medium);
    verdict.evidence.push(bpf("it comes in chunks, and the last bytes that were read are not its end"));
    let why = "possible: a stream of news has no end and may be silent, and nothing says that this is none".into();
    verdict.rejected.push(Rejected { cause: Cause::Unknown, why });
    Some(trouble)
}

/// Whether it sent again while nothing came, a while after it had sent before; and so little that it is no long request.
fn sends_again(known: &Known<'_>) -> bool {
    let apart = |bytes: u64, us: u64| us >= SETTLED_US && per_second(bytes, us) < TRICKLE_PER_SECOND as f64;
    let written = known.connection.is_some_and(|connection| {
        let since_read =
            connection.first_write.filter(|first| connection.last_read.is_none_or(|read| first.is_after(read)));
        let span = since_read.and_then(Moment::us).zip(connection.last_write.and_then(Moment::us));
        span.is_some_and(|(first, last)| apart(connection.written_bytes, last.saturating_sub(first)))
    });
    let looked = known.socket.and_then(|socket| Some((socket, socket.first?, socket.last?)));
    let acked = looked.is_some_and(|(socket, first, last)| {
        let more = last.bytes_acked > first.bytes_acked && first.bytes_acked > Some(1);
        let bytes = last.bytes_acked.unwrap_or(0).saturating_sub(first.bytes_acked.unwrap_or(0));
        let looked_us = socket.last_seen_us.min(socket.in_state_us);
        let first_us = u64::from(first.last_data_sent_ms).saturating_mul(1_000).saturating_add(looked_us);
        let us = first_us.saturating_sub(u64::from(last.last_data_sent_ms).saturating_mul(1_000));
        // What came may have been the answer to what was sent before.
        more && last.bytes_received == Some(0) && apart(bytes, us)
    });
    written || acked
}

/// A request inside of TLS to which nothing has come yet.
fn hidden(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let connection =
        known.connection.filter(|it| it.closed.is_none() && it.side == Side::Client && unread(known) == 0)?;
    let (tls, sent) = asked_in_tls(connection)?;
    let mut trouble = waiting(seen, known, seen.window_us.saturating_sub(sent))?;
    // Whoever reads on has not had the answer that the tickets may have been.
    let reads_on = known.blocked.is_some_and(|(thread, _)| thread.blocked_us >= SETTLED_US);
    hidden_by_tls(&mut trouble, tls, !reads_on);
    Some(trouble)
}

/// Whether what was sent came after what was received, by the kernel's times. Where both are of one millisecond, the
/// peer's last acknowledgement tells: it came with the answer where that was the last, and alone, some 40 ms later, where
/// the request was.
pub(super) fn wrote_last(socket: &TcpSocket, tcp: &TcpInfo) -> bool {
    match tcp.last_data_sent_ms.cmp(&tcp.last_data_recv_ms) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => {
            let untaken = untaken(socket);
            let later_ms = tcp.last_data_recv_ms.saturating_sub(tcp.last_ack_recv_ms);
            untaken || ACK_ALONE_MS.contains(&later_ms)
        }
    }
}

/// A body whose bytes come one by one. How long it may take nobody knows from outside; at this rate it is no transfer.
fn trickle(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let connection = known.connection.filter(|connection| connection.closed.is_none() && unread(known) == 0)?;
    let http = connection.http.as_ref()?;
    let missing = http.missing_bytes.filter(|missing| *missing > 0)?;
    let (answered, last) = (http.answered?.us()?, connection.last_read?.us()?);
    let took = seen.window_us.saturating_sub(answered);
    let (came, of_body) = response_bytes(connection);
    let per_second = came.saturating_mul(1_000_000).checked_div(took)?;
    if took < SETTLED_US || per_second >= TRICKLE_PER_SECOND || !all_transfers(seen) {
        return None;
    }
    let mut stages = Stages::new();
    stages.add(Stage::Receive, answered, seen.window_us);
    let mut facts = stages.facts(known, given_up(took), Some(last));
    (facts.exchange.response_bytes, facts.exchange.body_bytes) = (came, of_body);
    facts.exchange.body_expected = Some(facts.exchange.body_bytes.saturating_add(missing));
    Some(Trouble { waits: true, ..Trouble::of(known, &facts, took) })
}

/// Stages that have ended, and took so long that they are to blame for a part of the time, however the call went on.
pub(super) fn slow_stages(known: &Known<'_>) -> Vec<Trouble> {
    let Some(connection) = known.connection.filter(|connection| connection.side == Side::Client) else {
        return Vec::new();
    };
    let peer = connection.remote.map_or_else(|| "the peer".to_owned(), |remote| remote.to_string());
    let took = |begun: Option<Moment>, ended: Option<Moment>| {
        let took = ended?.us()?.saturating_sub(begun?.us()?);
        (took >= SETTLED_US).then_some(took)
    };
    let mut slow = Vec::new();
    if let Some(us) = took(connection.opened, connection.established) {
        let repeats = connection.syn_retransmits;
        let again = match repeats {
            0 => "the SYN-ACK came late".to_owned(),
            _ => format!("the SYN was sent again {repeats} times"),
        };
        let finding = Finding::new(
            Cause::ConnectSlow,
            Severity::Waiting,
            if repeats > 0 { Confidence::High } else { Confidence::Medium },
            format!("the connection to {peer} came up only after {}: {again}", time(us)),
        )
        .because(bpf(format!("connect took {}, {again}", time(us))).with("connect_us", us).with("retransmits", repeats))
        .rejected(Cause::SynUnanswered, "the SYN-ACK did come");
        slow.push(Trouble::told(known, finding.verdict, us));
    }
    if let Some(tls) = connection.tls.as_ref().filter(|tls| tls.client)
        && let Some(us) = took(tls.hello, tls.done)
    {
        let finding = Finding::new(
            Cause::TlsSlow,
            Severity::Waiting,
            if matches!(tls.done, Some(Moment::At(_))) { Confidence::High } else { Confidence::Medium },
            format!("the TLS handshake with {peer} ended only after {}", time(us)),
        )
        .because(bpf(format!("from the ClientHello to the end of the handshake: {}", time(us))).with("tls_us", us))
        .rejected(Cause::TlsPeerSilent, "the handshake did end");
        slow.push(Trouble::told(known, finding.verdict, us));
    }
    slow
}

/// Whether a wait may be what the connection is for: a subscriber waits for news, a long poll for an event, a worker for
/// work. From outside it looks like a server that is slow, unless something shows that it is not meant.
fn meant(seen: &Seen<'_>, known: &Known<'_>, waited: u64) -> Meant {
    if asked(seen, known, waited) {
        return Meant::Asked;
    }
    let read = known.connection.map_or(0, |connection| connection.read_bytes);
    let received = known.socket.and_then(|socket| socket.last?.bytes_received).unwrap_or(0).max(read);
    // A peer that has never said anything has no part in a protocol.
    // Started to be watched or not: what was asked for, the 101 has answered.
    let http = known.connection.and_then(|connection| connection.http.as_ref());
    if http.is_some_and(HttpHead::is_switched) && is_taken(known) {
        return Meant::Perhaps;
    }
    let is_request = is_request(known);
    // A consumer fetches at once while there is something to fetch, and keeps a connection for its heartbeats.
    let is_unlike = is_usually_quick(known, waited)
        && (is_request || !known.socket.is_some_and(|socket| seen.answers_others(socket)));
    if !can_be_meant(seen, known) || received == 0 || is_unlike {
        Meant::No
    } else if is_request {
        Meant::Request
    } else {
        Meant::Perhaps
    }
}

/// Whether the last that was sent is known to be of a protocol in which each request has an answer. Elsewhere a client
/// that has an answer may have the last word, for good: heartbeats, acknowledgements, whatever follows a 101.
fn is_request(known: &Known<'_>) -> bool {
    let Some(connection) = known.connection else { return false };
    let http = connection.http.as_ref().filter(|http| http.answered.is_none());
    let asked = http.and_then(|http| http.requested).is_some_and(|requested| !came_since(known, requested));
    asked || connection.redis.as_deref().is_some_and(|command| !redis_waits(command))
}

/// Whether a wait is what was asked for.
pub(super) fn asked(seen: &Observation, known: &Known<'_>, waited: u64) -> bool {
    // A name proves less than what the answers are usually like.
    let http = known.connection.and_then(|connection| connection.http.as_ref());
    let is_list = http.is_some_and(|http| http.asks_by_name) && is_usually_quick(known, waited);
    can_be_meant(seen, known) && asks_to_wait(known) && !is_list
}

pub(super) fn can_be_meant(seen: &Observation, known: &Known<'_>) -> bool {
    // It began under the watch: whoever starts a command to see what it does wants to know what it waits for.
    is_taken(known) && seen.process.exec_at_us.is_none()
}

/// A peer that does not even take the request waits for nothing.
fn is_taken(known: &Known<'_>) -> bool {
    !known.socket.is_some_and(untaken)
}

/// Whether the request is of a kind that waits for something to happen.
pub(super) fn asks_to_wait(known: &Known<'_>) -> bool {
    let Some(connection) = known.connection else { return false };
    connection.http.as_ref().is_some_and(|http| http.asks_to_wait)
        || connection.redis.as_deref().is_some_and(redis_waits)
}

/// Whether other answers on the same connection came much sooner.
fn is_usually_quick(known: &Known<'_>, waited: u64) -> bool {
    let Some(connection) = known.connection else { return false };
    let gaps = &connection.read_gaps;
    // The longest is the wait itself, if it has ended. Those before the window count, or the mean of a watch that goes on
    // would sink with every window.
    let itself = u64::from(gaps.longest_us >= SETTLED_US);
    let others = u64::from(connection.turns).saturating_sub(itself);
    let in_window = gaps.total_us.saturating_sub(if itself == 1 { gaps.longest_us } else { 0 });
    let took = gaps.before_us.saturating_add(in_window);
    others >= USUAL_ANSWERS && (took / others).saturating_mul(10) <= waited
}

/// Whether bytes were read since then: of an answer whose head was missed, perhaps.
pub(super) fn came_since(known: &Known<'_>, requested: Moment) -> bool {
    known.connection.and_then(|connection| connection.last_read?.us()) > requested.us()
}

/// Whether something came after a request, both of which were before the watch: the kernel alone knows the order.
fn came_before(known: &Known<'_>, requested: Moment) -> bool {
    let before = Some(Moment::Before);
    let read = known.connection.is_some_and(|it| it.last_read == before && it.last_write == before);
    let asked_last = known.socket.is_none_or(|socket| socket.last.is_none_or(|tcp| wrote_last(socket, &tcp)));
    requested == Moment::Before && read && !asked_last
}

/// Whether every read and write was watched, not those of short windows alone. Where none could be, there are no times to
/// be wrong about.
pub(in crate::judge) fn all_transfers(seen: &Observation) -> bool {
    let watched = seen.connections.as_ref().and_then(|connections| connections.transfers_us);
    watched.is_none_or(|us| share(us, seen.window_us) >= ALWAYS)
}

/// Whether the answer to a request may have come without being seen, between two windows: something was received later,
/// or nobody knows.
pub(super) fn may_be_answered(seen: &Observation, known: &Known<'_>, requested: Moment) -> bool {
    if all_transfers(seen) {
        return false;
    }
    let requested = requested.us().unwrap_or(0);
    let read = known.connection.and_then(|connection| connection.last_read?.us()).is_some_and(|read| read > requested);
    let received = known.socket.and_then(|socket| {
        let before_last_look = u64::from(socket.last?.last_data_recv_ms).saturating_mul(1_000);
        Some(socket.last_seen_us.saturating_sub(before_last_look))
    });
    read || received.is_none_or(|received| received > requested)
}

fn waiting(seen: &Seen<'_>, known: &Known<'_>, waited: u64) -> Option<Trouble> {
    if waited < SETTLED_US {
        return None;
    }
    let facts = facts(known, Stage::Wait, waited, passed(LimitName::Stage(Stage::Wait), waited));
    Some(Trouble { meant: meant(seen, known, waited), ..Trouble::of(known, &facts, waited) })
}
