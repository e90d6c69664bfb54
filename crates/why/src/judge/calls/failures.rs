//! Calls that failed, and calls that their callers gave up.

use std::{net::SocketAddr, time::Duration};

use overdue_core::{
    Cause, Confidence, Source, Stage,
    facts::{Failure, H2Facts, SocketFacts, Untrusted},
    judge::STALL_SHARE,
};

use super::{
    Known, Meant, Trouble,
    facts::{CLOSE_NOTIFY, Stages, alert, facts, given_up, libc_errno, os, response_bytes, unread},
    waits::{all_turn, asked, came_since, can_be_meant, may_be_answered},
};
use crate::{
    Observation,
    judge::{
        bpf, in_looks, per_second, share,
        thresholds::{GIVEN_UP_US, SETTLED_US, TRICKLE_PER_SECOND},
        time,
    },
    observation::{Call, Connection, HttpHead, Moment, Side, TlsHandshake},
};

fn answered(connection: &Connection) -> bool {
    match &connection.http {
        Some(http) => http.answered.is_some(),
        None => connection.read_bytes > 0,
    }
}

/// It ended with an error.
pub(super) fn failed(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let connection = known.connection?;
    let life = match (connection.opened.and_then(Moment::us), connection.closed.and_then(Moment::us)) {
        (Some(opened), Some(closed)) => closed.saturating_sub(opened),
        _ => 0,
    };
    if connection.established.is_none()
        && let Some(errno) = connection.errno
    {
        // The next address of the same name, `::1` before `127.0.0.1` most often.
        if went_elsewhere(seen, connection) {
            return None;
        }
        let failure = os("connect", errno);
        return Some(Trouble {
            waits: false,
            ..Trouble::of(known, &facts(known, Stage::Connect, life, failure), life)
        });
    }
    if let Some(tls) = &connection.tls
        && tls.client
    {
        if let Some(text) = &tls.not_tls {
            let facts = facts(known, Stage::Tls, life, Failure::TlsNotTls(text.clone()));
            return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
        }
        if let Some((code, true)) = tls.alert
            && tls.done.is_none()
            && code != CLOSE_NOTIFY
        {
            let facts = facts(known, Stage::Tls, life, Failure::TlsAlert(alert(code)));
            return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
        }
    }
    if let Some(failure) = connection.tls.as_ref().and_then(refused_by_us) {
        let mut facts = facts(known, Stage::Tls, life, failure);
        facts.exchange.response_bytes = connection.read_bytes;
        return Some(Trouble { waits: false, meant: Meant::OwnDecision, ..Trouble::of(known, &facts, life) });
    }
    let over = connection.closed.is_some() || connection.fin_received.is_some();
    if let Some(text) = connection.http.as_ref().and_then(|http| http.not_http.as_ref()).filter(|_| over) {
        let text = format!("the answer to its request of HTTP/1 begins with \"{text}\"");
        return Some(Trouble {
            waits: false,
            ..Trouble::of(known, &facts(known, Stage::Wait, life, Failure::Protocol(text)), life)
        });
    }
    if let Some(code) = connection.goaway.filter(|code| *code != 0 && over) {
        let text = format!("the peer sent GOAWAY with {}", http2_error(code));
        let mut facts = facts(known, Stage::Wait, life, os("connection", libc_errno::ECONNRESET));
        if let Failure::Os { text: said, .. } = &mut facts.failure {
            *said = text;
        }
        facts.h2 = Some(H2Facts::default());
        return Some(Trouble { waits: false, ..Trouble::of(known, &facts, life) });
    }
    let stage = if connection.tls.as_ref().is_some_and(|tls| tls.client && tls.hello.is_some() && tls.done.is_none()) {
        Stage::Tls
    } else if answered(connection) && connection.http.as_ref().is_none_or(|http| !http.half_head) {
        Stage::Receive
    } else {
        Stage::Wait
    };
    if connection.reset_received {
        let mut facts = facts(known, stage, life, os("read", libc_errno::ECONNRESET));
        if answered(connection) {
            // An idle connection that a balancer in between is tired of.
            if is_whole(connection) {
                return None;
            }
            let (came, of_body) = response_bytes(connection);
            (facts.exchange.response_bytes, facts.exchange.body_bytes) = (came, of_body);
        }
        let mut trouble = Trouble { waits: false, ..Trouble::of(known, &facts, life) };
        // Of an answer in a protocol that nobody knows, all may have come.
        let unknown = connection.http.as_ref().is_none_or(HttpHead::is_switched);
        if answered(connection) && unknown && !asked_since(connection) && can_be_meant(seen, known) {
            trouble.meant = Meant::Whole;
        }
        tell_of_reuse(&mut trouble, connection);
        return Some(trouble);
    }
    // Closed by the peer while an answer was due, or in the middle of one. A reader that is behind has the rest of it in
    // its own socket, and so may one whose socket was not looked at since the FIN.
    let http = connection.http.as_ref();
    let unread = unread(known);
    let left_empty = is_left_empty(seen, known, connection);
    let all_read = unread == 0 && left_empty;
    let due = http.is_some_and(|http| {
        let open = |requested| !may_be_answered(seen, known, requested) && !came_since(known, requested);
        http.half_head || http.answered.is_none() && http.requested.is_some_and(open)
    });
    let cut = http.is_some_and(|http| {
        !http.half_head
            && (http.missing_bytes.is_some_and(|missing| missing > unread) && left_empty
                || http.chunks_ended == Some(false) && all_read)
    });
    // Who closes first is answered by a close.
    let closed_before = connection.closed_by_us
        && connection
            .closed
            .and_then(Moment::us)
            .zip(connection.fin_received.and_then(Moment::us))
            .is_some_and(|(ours, fin)| ours < fin);
    // Neither is one that answers our alert.
    let refused_by_us = connection.tls.as_ref().is_some_and(|tls| matches!(tls.alert, Some((_, false))));
    let in_handshake = stage == Stage::Tls && !refused_by_us;
    if connection.fin_received.is_some() && !closed_before && (cut || all_read && (due || in_handshake)) {
        let mut facts = facts(known, stage, life, Failure::Closed);
        if cut || http.is_some_and(|http| http.half_head) {
            let (came, of_body) = response_bytes(connection);
            (facts.exchange.response_bytes, facts.exchange.body_bytes) = (came, of_body);
            let missing = http.and_then(|http| http.missing_bytes);
            facts.exchange.body_expected = missing.map(|missing| of_body.saturating_add(missing));
        }
        let mut trouble = Trouble { waits: false, ..Trouble::of(known, &facts, life) };
        tell_of_reuse(&mut trouble, connection);
        return Some(trouble);
    }
    None
}

/// A connection that lay idle after an answer, and was ended when it was used again: who ended it may have done so just
/// before the request came. All that was sent on it is more than this request.
fn tell_of_reuse(trouble: &mut Trouble, connection: &Connection) {
    let sent = connection.first_write.and_then(Moment::us);
    let idle = sent.zip(connection.last_read.and_then(Moment::us)).map(|(sent, read)| sent.saturating_sub(read));
    let ended = connection.closed.or(connection.fin_received).and_then(Moment::us);
    let at_once = ended.zip(sent).is_some_and(|(ended, sent)| ended.saturating_sub(sent) < GIVEN_UP_US);
    let Some(idle_us) = idle.filter(|_| connection.turns > 0 && asked_since(connection) && at_once) else { return };
    let verdict = &mut trouble.verdict;
    verdict.evidence.retain(|evidence| evidence.source != Source::Http);
    verdict.evidence.push(
        bpf(format!(
            "it had been answered {} on this connection, which then lay idle for {}, and was ended when the next request came",
            times(connection.turns),
            time(idle_us)
        ))
        .with("answers", connection.turns)
        .with("idle_us", idle_us),
    );
    verdict.fix =
        "Let the client drop idle connections sooner than the server, a balancer or a NAT between them does: its \
                   limit for idle ones (keep-alive) must be the shorter one. Until then repeat requests that may be \
                   repeated, once, on a new connection."
            .into();
}

fn times(number: u32) -> String {
    if number == 1 { "once".to_owned() } else { format!("{number} times") }
}

/// Connections that came up at the same port of other addresses.
fn elsewhere(seen: &Observation, remote: SocketAddr) -> impl Iterator<Item = &Connection> {
    let all = seen.connections.iter().flat_map(|connections| &connections.connections);
    all.filter(move |other| {
        other.established.is_some()
            && other.side == Side::Client
            && other.remote.is_some_and(|it| it.port() == remote.port() && it.ip() != remote.ip())
    })
}

/// Whether the thread whose connect failed, or was given up, got on with another address at the same port meanwhile or
/// right after.
pub(super) fn went_elsewhere(seen: &Observation, failed: &Connection) -> bool {
    let span = failed.opened.and_then(Moment::us).zip(failed.closed.and_then(Moment::us));
    let (Some(remote), Some((opened, ended))) = (failed.remote, span) else { return false };
    let meanwhile = |at: u64| (opened..ended.saturating_add(GIVEN_UP_US)).contains(&at);
    elsewhere(seen, remote)
        .any(|other| other.tid == failed.tid && other.opened.and_then(Moment::us).is_some_and(meanwhile))
}

/// The client's own alert ended the handshake.
fn refused_by_us(tls: &TlsHandshake) -> Option<Failure> {
    if !tls.client || tls.done.is_some() {
        return None;
    }
    let text = match tls.alert {
        Some((CLOSE_NOTIFY | USER_CANCELED, _) | (_, true)) => return None,
        Some((code, false)) => {
            let text = format!("this process ended the handshake by its own alert, {}", alert(code));
            if !CERTIFICATE.contains(&code) {
                return Some(Failure::TlsBroken(text));
            }
            text
        }
        None if tls.alert_hidden => {
            "this process ended the handshake by an alert, that TLS 1.3 encrypts (inferred from the \
                                     length of a record), where a client tells what it thinks of the certificate"
                .to_owned()
        }
        None => return None,
    };
    Some(Failure::TlsUntrusted { reason: Untrusted::Other, text })
}

/// Alerts on certificates: from `bad_certificate` to `certificate_unknown`, `unknown_ca`, `decrypt_error`.
const CERTIFICATE: [u8; 7] = [42, 43, 44, 45, 46, 48, 51];

const USER_CANCELED: u8 = 90;

/// Whether the last answer came to its end, and nothing was asked since.
fn is_whole(connection: &Connection) -> bool {
    connection.http.as_ref().is_some_and(|http| {
        let ended = http.missing_bytes == Some(0) || http.chunks_ended == Some(true);
        !http.half_head && ended && !asked_since(connection)
    })
}

fn asked_since(connection: &Connection) -> bool {
    connection.last_write.and_then(Moment::us) > connection.last_read.and_then(Moment::us)
}

/// Whether the own socket, after the peer's FIN, is known to hold no more than was seen in it.
fn is_left_empty(seen: &Observation, known: &Known<'_>, connection: &Connection) -> bool {
    if connection.closed.is_some() {
        // The kernel resets a connection that is closed with bytes unread.
        return !connection.reset_sent;
    }
    let fin = connection.fin_received.and_then(Moment::us).unwrap_or(0);
    match known.socket {
        Some(socket) => socket.last_seen_us >= fin,
        // Nobody has looked at it yet: on a busy machine looks are late.
        None => seen.window_us.saturating_sub(fin) >= SETTLED_US,
    }
}

/// What was due when the process closed the connection.
enum Due {
    /// Not a byte of it had come.
    All,
    /// A part of a handshake or of a head had come.
    Rest,
    /// So many bytes of a body had not.
    Body(u64),
}

/// The process closed the connection while something of the peer was due: how its caller's limit looks from outside,
/// whoever set it. What took most of the call's time is what is to blame.
pub(super) fn given_up_by_us(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let ours = |connection: &&Connection| connection.closed_by_us && connection.side == Side::Client;
    let connection = known.connection.filter(ours)?;
    let mut stages = Stages::new();
    // Who waits for a connection waits for its name, too; later requests wait for neither.
    let is_first = connection.turns == 0 || connection.turns == 1 && answered(connection);
    let is_in_handshake = connection.tls.as_ref().is_some_and(|tls| tls.done.is_none());
    let hidden = asked_in_tls(connection);
    if (is_first || is_in_handshake || hidden.is_some())
        && let Some(opened) = connection.opened.and_then(Moment::us)
    {
        if let Some(name) = &connection.resolved {
            stages.add(Stage::Resolve, name.sent_us, name.sent_us.saturating_add(name.duration_us));
        }
        stages.add(Stage::Connect, opened, connection.established.and_then(Moment::us)?);
    }
    let due = due(seen, known, connection, &mut stages)?;
    stages.without_pause(GIVEN_UP_US);
    let life = stages.life_us();
    if life < GIVEN_UP_US {
        return None;
    }
    let (came, of_body) = response_bytes(connection);
    let last_read = connection.last_read.and_then(Moment::us).filter(|_| !matches!(due, Due::All));
    let mut facts = stages.facts(known, given_up(life), last_read);
    let exchange = &mut facts.exchange;
    exchange.response_bytes = if matches!(due, Due::All) { 0 } else { came.max(1) };
    if let Some((tls, _)) = hidden {
        exchange.request_bytes = tls.asked_bytes;
    }
    if let Due::Body(missing) = due {
        (exchange.body_bytes, exchange.body_expected) = (of_body, Some(of_body.saturating_add(missing)));
        // What lies there is not asked for, where nothing else holds up who would read it.
        let came = known.socket.and_then(|socket| socket.last).filter(|_| unread(known) > 0 && all_turn(seen));
        exchange.reader_away = came.map_or(Duration::ZERO, |tcp| Duration::from_millis(tcp.last_data_recv_ms.into()));
    }
    let mut trouble = Trouble { waits: false, ..Trouble::of(known, &facts, life) };
    if matches!(due, Due::Body(_)) && left_the_rest(known, trouble.verdict.cause, life) {
        return None;
    }
    // A long poll that its client ends after a while, to ask again.
    if trouble.verdict.cause == Cause::ServerSlow && matches!(due, Due::All) && asked(seen, known, life) {
        trouble.meant = Meant::Asked;
    }
    if let Some((tls, _)) = hidden {
        hidden_by_tls(&mut trouble, tls, true);
    }
    trouble.verdict.evidence.push(
        bpf(format!("the process closed the connection {} after the call began", time(life))).with("given_up_us", life),
    );
    Some(trouble)
}

/// Whether it read to the end, or nearly, and left what had come since: it had what it wanted, or took no more than it
/// wanted.
fn left_the_rest(known: &Known<'_>, told: Cause, life_us: u64) -> bool {
    let lies = match told {
        Cause::LocalStall => true,
        Cause::BodySlow | Cause::BodyStalled => unread(known) > 0,
        _ => false,
    };
    match known.socket.and_then(|socket| socket.last) {
        Some(tcp) => lies && share(u64::from(tcp.last_data_recv_ms) * 1_000, life_us) < STALL_SHARE,
        // Nobody has looked at it in so short a life. The kernel resets what is closed with bytes unread.
        None => known.connection.is_some_and(|connection| {
            let flowed = per_second(connection.read_bytes, life_us) >= TRICKLE_PER_SECOND as f64;
            told == Cause::BodySlow && connection.reset_sent && flowed
        }),
    }
}

/// What of a call inside of TLS can be told by lengths alone. `or_answered`: what came may have been the answer.
pub(super) fn hidden_by_tls(trouble: &mut Trouble, tls: &TlsHandshake, or_answered: bool) {
    let verdict = &mut trouble.verdict;
    verdict.confidence = verdict.confidence.min(Confidence::Medium);
    let tickets = tls.ticket_bytes;
    let back = match (tickets, or_answered) {
        (0, _) => "none came back (inferred from the lengths of records)".to_owned(),
        (_, true) => {
            format!("{tickets} came back at once, in two records of one length: session tickets, or a short answer")
        }
        (_, false) => {
            format!("{tickets} came back at once, in two records of one length: session tickets, for it reads on")
        }
    };
    if tickets > 0 {
        // What the rest says of an answer would be said too surely.
        verdict.evidence.retain(|evidence| evidence.source != Source::Http);
    }
    verdict.evidence.push(
        bpf(format!("inside of TLS: {} bytes of data were sent after the handshake and {back}", tls.asked_bytes))
            .with("asked_bytes", tls.asked_bytes)
            .with("ticket_bytes", tickets),
    );
    if tickets > 0 && or_answered {
        trouble.meant = trouble.meant.max(Meant::Unseen);
    }
}

/// A request that TLS hides, to which nothing came, and when it had been sent: the client has offered to speak HTTP, which
/// has an answer to each request.
pub(super) fn asked_in_tls(connection: &Connection) -> Option<(&TlsHandshake, u64)> {
    let tls = connection.tls.as_ref().filter(|tls| tls.client && tls.done.is_some())?;
    let is_http = tls.alpn.iter().any(|protocol| protocol == "h2" || protocol.starts_with("http/"));
    let refused = tls.alert.is_some_and(|(code, _)| code != CLOSE_NOTIFY) || tls.alert_hidden;
    (is_http && !refused).then_some((tls, tls.unanswered?.us()?))
}

/// What was due, and the stages that were under way for it.
fn due(seen: &Observation, known: &Known<'_>, connection: &Connection, stages: &mut Stages) -> Option<Due> {
    let closed = connection.closed?.us()?;
    if let Some(tls) = connection.tls.as_ref().filter(|tls| tls.client && tls.done.is_none()) {
        // Who refuses a certificate says so and leaves.
        if tls.alert.is_some() || tls.alert_hidden {
            return None;
        }
        stages.add(Stage::Tls, tls.hello?.us()?, closed);
        return Some(if tls.answered.is_some() { Due::Rest } else { Due::All });
    }
    if let Some((tls, sent)) = asked_in_tls(connection) {
        stages.add(Stage::Tls, tls.hello?.us()?, tls.done?.us()?);
        stages.add(Stage::Wait, sent, closed);
        return (unread(known) == 0).then_some(Due::All);
    }
    let http = connection.http.as_ref()?;
    let requested = http.requested?;
    let (begun, answered) = (requested.us()?, http.answered.and_then(Moment::us));
    let Some(answered) = answered.filter(|_| !http.half_head) else {
        if answered.is_none() && (came_since(known, requested) || may_be_answered(seen, known, requested)) {
            return None;
        }
        if unread(known) > 0 {
            return None;
        }
        stages.add(Stage::Wait, begun, closed);
        return Some(if answered.is_some() { Due::Rest } else { Due::All });
    };
    let missing = http.missing_bytes?.checked_sub(unread(known)).filter(|missing| *missing > 0)?;
    stages.add(Stage::Wait, begun, answered);
    stages.add(Stage::Receive, answered, closed);
    Some(Due::Body(missing))
}

/// The codes of RFC 9113, section 7.
fn http2_error(code: u32) -> String {
    let name = match code {
        1 => "PROTOCOL_ERROR",
        2 => "INTERNAL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        4 => "SETTINGS_TIMEOUT",
        5 => "STREAM_CLOSED",
        6 => "FRAME_SIZE_ERROR",
        7 => "REFUSED_STREAM",
        8 => "CANCEL",
        9 => "COMPRESSION_ERROR",
        10 => "CONNECT_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        12 => "INADEQUATE_SECURITY",
        13 => "HTTP_1_1_REQUIRED",
        _ => return format!("code {code}"),
    };
    name.to_owned()
}

/// `connect` that the kernel refuses before a packet is sent.
pub(super) fn refused_by_the_kernel(seen: &Observation) -> Vec<Trouble> {
    let Some(calls) = &seen.calls else { return Vec::new() };
    let failed = calls.counts.iter().filter(|call| {
        call.call == Call::Connect && matches!(call.errno, libc_errno::EADDRNOTAVAIL | libc_errno::ENETUNREACH)
    });
    failed
        .filter(|call| !call.peer.as_ref().is_some_and(|peer| is_no_loss(seen, peer)))
        .map(|call| {
            let mut facts = facts(&Known::default(), Stage::Connect, 0, os("connect", call.errno));
            let peer = call.peer.clone().unwrap_or_else(|| "the peer".to_owned());
            facts.socket = Some(SocketFacts { peer: peer.clone(), ..SocketFacts::default() });
            let mut trouble = Trouble { peer, waits: false, ..Trouble::of(&Known::default(), &facts, 0) };
            trouble.verdict.evidence.push(
                bpf(format!("connect failed so {} times{}", call.count, in_looks(seen))).with("failed", call.count),
            );
            trouble
        })
        .collect()
}

/// Whether a resolver only asked the kernel for the way to each address of a name, to sort them; or the calls went by the
/// other protocol, as they do where a name has an address of IPv6 and the host has no way there.
fn is_no_loss(seen: &Observation, peer: &str) -> bool {
    let Ok(remote) = peer.parse::<SocketAddr>() else { return false };
    let is_v4 = |address: SocketAddr| address.ip().to_canonical().is_ipv4();
    PROBED.contains(&remote.port())
        || elsewhere(seen, remote).any(|other| other.remote.is_some_and(|it| is_v4(it) != is_v4(remote)))
}

/// Ports at which resolvers ask for the way: of the GNU C library where no service is named, of Go, of musl.
const PROBED: [u16; 3] = [0, 9, 65_535];
