//! Causes during the exchange: send, wait, receive.

use std::time::Duration;

use super::{
    FLOWING_SHARE, Finding, READER_ABSENT_SHARE, READER_AWAY_SHARE, SHORT_SILENCE, SILENT_SHARE, errno, in_stage,
    local, millis, path, peer, ran, share,
};
use crate::{Cause, Confidence, DurationText, Evidence, Limit, LimitName, Source, Stage, facts::CallFacts};

/// How long nothing came from the peer, as far as this call read, or the kernel has bytes that it did not.
pub(super) fn peer_silent_for(facts: &CallFacts) -> Duration {
    let since_read =
        facts.exchange.last_read.map_or_else(|| in_stage(facts), |at| facts.now.saturating_duration_since(at));
    let arrived = facts.socket.as_ref().filter(|socket| socket.unread_bytes.is_some_and(|bytes| bytes > 0));
    match arrived.and_then(|socket| socket.tcp.as_ref()) {
        Some(tcp) => since_read.min(millis(tcp.last_data_recv_ms)),
        None => since_read,
    }
}

fn exchange_evidence(facts: &CallFacts) -> Evidence {
    let exchange = &facts.exchange;
    let of = exchange.body_expected.map_or(String::new(), |expected| format!(" of {expected}"));
    let request = format!("request: {} bytes sent", exchange.request_bytes);
    let (text, response) = match facts.stage {
        Stage::Tls => (format!("{} bytes of the peer's handshake received", exchange.response_bytes), None),
        _ if exchange.since_write.is_some() => (
            format!(
                "{} bytes written, {} read, {} of them since the last write",
                exchange.request_bytes,
                exchange.response_bytes,
                exchange.since_write.unwrap_or_default()
            ),
            Some(exchange.response_bytes),
        ),
        // Frames of all streams share the connection: a head has no bytes of its own.
        _ if facts.h2.is_some() => {
            let request = format!("request body: {} bytes sent", exchange.request_bytes);
            (format!("{request}; response body: {} bytes received{of}", exchange.body_bytes), None)
        }
        _ => (
            format!(
                "{request}; response: {} bytes received, {} of the body{of}",
                exchange.response_bytes, exchange.body_bytes
            ),
            Some(exchange.response_bytes),
        ),
    };
    let mut evidence = Evidence::new(Source::Http, text).with("request_bytes", exchange.request_bytes);
    if let Some(bytes) = response {
        evidence = evidence.with("response_bytes", bytes);
    }
    evidence.with("body_bytes", exchange.body_bytes)
}

pub(super) fn send(facts: &CallFacts) -> Finding {
    let took = DurationText(in_stage(facts));
    let bytes = facts.exchange.request_bytes;
    let h2 = facts.h2.filter(|h2| h2.window_blocked_bytes > 0);
    // The answer, or the WINDOW_UPDATE, may lie here unread.
    let unread = h2.and_then(|_| local::unread(facts));
    if let Some(finding) = unread.or_else(|| path::blocked(facts)) {
        return finding;
    }
    let unsent = facts.socket.as_ref().and_then(|socket| socket.unsent_bytes);
    let waits_in_kernel = match facts.socket.as_ref().and_then(|socket| socket.tcp.as_ref()?.notsent_bytes) {
        _ if unsent == Some(0) => Some(false),
        Some(bytes) => Some(bytes > 0),
        None => unsent.map(|_| true),
    };
    let queue = unsent.map(|unsent| {
        Evidence::new(Source::SocketQueue, format!("{unsent} bytes in the own socket wait to be acknowledged"))
            .with("unsent_bytes", unsent)
    });
    if let Some(h2) = h2.filter(|_| waits_in_kernel != Some(true)) {
        return window_blocked(facts, h2.window_blocked_bytes, queue);
    }
    if facts.exchange.waiting_for_request_body {
        let streams = facts.exchange.request_streams;
        let finding = Finding::new(
            Cause::SenderSlow,
            Stage::Send,
            if streams { Confidence::Medium } else { Confidence::High },
            format!(
                "send waited for the request body, which the caller provides, when the limit fired: \
                 {bytes} bytes were sent in {took}"
            ),
        )
        .because(exchange_evidence(facts))
        .and(queue);
        let finding = if streams {
            finding
                .rejected(Cause::ServerSlow, "possible: it may have waited for a word of the answer before it goes on")
        } else {
            finding
        };
        return finding
            .rejected(Cause::PeerNotReading, "nothing waited for the peer: the kernel took all that the caller gave");
    }
    Finding::new(
        Cause::Unknown,
        Stage::Send,
        Confidence::Low,
        format!("the request was not sent within {took} ({bytes} bytes were), and the socket does not say why"),
    )
    .because(exchange_evidence(facts))
    .and(queue)
    .rejected(Cause::PeerNotReading, "the peer's window is open, as far as the socket shows")
}

/// The peer's window of HTTP/2 is closed, and TCP is not what holds.
fn window_blocked(facts: &CallFacts, waiting: usize, queue: Option<Evidence>) -> Finding {
    let empty = facts.socket.as_ref().and_then(|socket| socket.unsent_bytes) == Some(0);
    Finding::new(
        Cause::H2WindowBlocked,
        facts.stage,
        if empty { Confidence::High } else { Confidence::Medium },
        format!("the peer gives no WINDOW_UPDATE: {waiting} bytes of the request wait for it"),
    )
    .because(
        Evidence::new(Source::Http2, format!("flow control window is used up, {waiting} bytes wait in this stream"))
            .with("waiting_bytes", waiting),
    )
    .and(queue)
    .because(exchange_evidence(facts))
    .rejected(
        Cause::PeerNotReading,
        if empty {
            "TCP is not what holds: the socket has nothing left to send"
        } else {
            "TCP does not seem to be what holds: nothing is known to wait for its window"
        },
    )
}

/// The peer is the caller, and has not sent the whole of what it asks for.
pub(super) fn request_comes_slowly(facts: &CallFacts) -> Finding {
    let (took, bytes) = (DurationText(in_stage(facts)), facts.exchange.request_bytes);
    Finding::new(
        Cause::SenderSlow,
        facts.stage,
        Confidence::Medium,
        format!("{} sent {bytes} bytes of its request in {took}, and the {} had no end", peer(facts), facts.stage),
    )
    .because(Evidence::new(Source::Http, format!("{bytes} bytes of the request had come")).with("request_bytes", bytes))
    .because(ran(facts, facts.stage))
    .fix("Look at what sends the request: it has to come whole within this limit.")
    .rejected(Cause::PathLost, "possible: what was lost on the way looks the same from here")
}

/// A stage that has no end but silence. Who was to speak is known only where something waited to be taken, or where the
/// other side had said all.
pub(super) fn silent(facts: &CallFacts, limit: &Limit) -> Finding {
    let (stage, quiet, away) = (facts.stage, DurationText(limit.value), facts.exchange.reader_away);
    if !away.is_zero() {
        let waits = facts.socket.as_ref().and_then(|socket| socket.unsent_bytes).filter(|bytes| *bytes > 0);
        return Finding::new(
            Cause::ReaderSlow,
            stage,
            Confidence::Medium,
            format!("nothing moved in the {stage} for {quiet}: what waits for {} is not taken", peer(facts)),
        )
        .explains(away)
        .and(waits.map(|bytes| {
            Evidence::new(Source::SocketQueue, format!("{bytes} bytes in the own socket wait to be acknowledged"))
                .with("unsent_bytes", bytes)
        }))
        .because(ran(facts, stage))
        .rejected(Cause::BodyStalled, "there is something to be taken");
    }
    if let Some(finding) = path::blocked(facts) {
        return finding.explains(limit.value);
    }
    let finding = Finding::new(
        Cause::BodyStalled,
        stage,
        if facts.socket.is_some() { Confidence::Medium } else { Confidence::Low },
        if facts.exchange.half_ended {
            format!(
                "{} neither sent anything for {quiet} nor ended its side of the {stage}, as the other had",
                peer(facts)
            )
        } else {
            format!("nothing moved in the {stage} for {quiet}, in either direction")
        },
    )
    .explains(limit.value)
    .because(exchange_evidence(facts));
    if facts.exchange.half_ended {
        return finding
            .fix("A program that reads the end of a connection has to close its own: look at why this one does not.")
            .rejected(Cause::SenderSlow, "possible: it may have had more to say");
    }
    finding
        .fix(
            "If both sides may be silent for so long, let them exchange something now and then (pings), or allow a longer \
             gap; else look at whoever was to speak.",
        )
        .rejected(Cause::SenderSlow, "possible: whose turn it was only their own protocol says")
}

/// The answer had begun, and the rest of the request did not come.
fn rest_of_request(facts: &CallFacts, limit: &Limit) -> Option<Finding> {
    let left = facts.exchange.request_left.filter(|_| facts.exchange.waiting_for_request_body)?;
    let quiet = DurationText(if limit.name == LimitName::Gap { limit.value } else { in_stage(facts) });
    Some(
        Finding::new(
            Cause::SenderSlow,
            Stage::Receive,
            Confidence::Medium,
            format!(
                "{} did not send the last {left} bytes of its request within {quiet}, while it was answered",
                peer(facts)
            ),
        )
        .because(exchange_evidence(facts).with("request_left", left))
        .fix("Look at what sends the request: its length promised more.")
        .rejected(
            Cause::BodyStalled,
            "possible: the answer had no end either, which need not have waited for the request",
        ),
    )
}

pub(super) fn wait(facts: &CallFacts) -> Finding {
    if let Some(finding) = local::unread(facts).or_else(|| path::blocked(facts)) {
        return finding;
    }
    let silence = path::silence(facts);
    let took = DurationText(in_stage(facts));
    let bytes = facts.exchange.response_bytes;
    let quiet = peer_silent_for(facts);
    if bytes > 0 && share(quiet, in_stage(facts)) < SILENT_SHARE {
        return Finding::new(
            Cause::ServerSlow,
            Stage::Wait,
            silence.confidence.min(Confidence::Medium),
            format!("{} sends its head too slowly: {bytes} bytes of it in {took}", peer(facts)),
        )
        .because(exchange_evidence(facts))
        .because(
            Evidence::new(Source::Timeline, format!("the last bytes came {} before the end", DurationText(quiet)))
                .with("last_read_us_ago", quiet.as_micros()),
        )
        .rejected(Cause::HeadStalled, "bytes of the head kept coming");
    }
    if bytes > 0 {
        return Finding::new(
            Cause::HeadStalled,
            Stage::Wait,
            silence.confidence.max(Confidence::Medium),
            format!(
                "{} sent {bytes} bytes of a response head, then nothing more for {}",
                peer(facts),
                DurationText(peer_silent_for(facts))
            ),
        )
        .because(exchange_evidence(facts))
        .and(silence.evidence)
        .rejected(Cause::ServerSlow, "the server had begun to answer");
    }
    if let Some(unread) = facts.socket.as_ref().and_then(|socket| socket.unread_bytes).filter(|bytes| *bytes > 0) {
        let late = peer_silent_for(facts);
        return Finding::new(
            Cause::ServerSlow,
            Stage::Wait,
            Confidence::Medium,
            format!("{} answered only when the limit fired, after {took}", peer(facts)),
        )
        .because(ran(facts, Stage::Wait))
        .because(local::unread_evidence(unread, late))
        .because(exchange_evidence(facts))
        .rejected(Cause::LocalStall, "the bytes came too late to be read in time");
    }
    // In the peer's kernel, and no further.
    let unread_there =
        facts.socket.as_ref().and_then(|socket| socket.peer_socket).map_or(0, |there| there.unread_bytes);
    let there = if facts.exchange.waiting_for_request_body {
        "has the head of the request, does not ask for the body"
    } else {
        "has the whole request"
    };
    let (summary, why) = match silence.acknowledged {
        Some(true) if unread_there > 0 => (
            format!(
                "{} did not answer for {took}: {unread_there} bytes of the request lie unread in its socket",
                peer(facts)
            ),
            "the request is there, and the process does not read it",
        ),
        Some(true) if silence.confidence == Confidence::High => (
            format!("{} {there} and did not answer for {took}", peer(facts)),
            "the other end is visible, and nothing of its own is under way",
        ),
        Some(true) => (
            format!("{} {there} and did not answer for {took}", peer(facts)),
            "possible: the request was acknowledged, but answers lost on the way back look the same from here",
        ),
        Some(false) => (
            format!("{} did not answer for {took}, and has not acknowledged the whole request", peer(facts)),
            "possible: it was too early for a retransmission",
        ),
        None => (
            format!("{} did not answer for {took}", peer(facts)),
            "possible: what the peer has received cannot be told from here",
        ),
    };
    Finding::new(Cause::ServerSlow, Stage::Wait, silence.confidence, summary)
        .and(silence.evidence)
        .because(exchange_evidence(facts))
        .rejected(Cause::PathLost, why)
}

/// The caller was away for so long that it, and not the peer, is what the body waited for.
fn reader_slow(facts: &CallFacts, limit: &Limit) -> Option<Finding> {
    let took = in_stage(facts);
    let away = facts.exchange.reader_away;
    let part = share(away, took);
    let unread = facts.socket.as_ref().and_then(|socket| socket.unread_bytes);
    // A gap is counted while the caller asks: when that limit fires on an empty socket, the peer was silent.
    let asked = limit.name == LimitName::Gap;
    // Nothing is left that the peer could send.
    let whole = facts.exchange.body_expected == Some(facts.exchange.body_bytes) && !away.is_zero();
    let confidence = match unread {
        _ if whole => Confidence::High,
        // Whoever counted the limit saw that it was not taken.
        Some(1..) if facts.exchange.to_take && !away.is_zero() => Confidence::High,
        _ if facts.exchange.to_take && !away.is_zero() => Confidence::Medium,
        Some(1..) if part >= READER_AWAY_SHARE => Confidence::High,
        // HTTP/2 reads ahead of the caller, so its socket is empty either way.
        None if part >= READER_AWAY_SHARE && !asked => Confidence::Medium,
        Some(0) if part >= READER_AWAY_SHARE && !asked && facts.h2.is_some() => Confidence::Medium,
        Some(0) if part >= READER_ABSENT_SHARE && !asked => Confidence::Medium,
        _ => return None,
    };
    let waiting = unread.map_or(String::new(), |bytes| format!(", {bytes} bytes wait in the socket"));
    Some(
        Finding::new(
            Cause::ReaderSlow,
            Stage::Receive,
            confidence,
            format!(
                "the caller did not read: {} of {} in receive passed between its reads{waiting}",
                DurationText(away),
                DurationText(took)
            ),
        )
        .explains(away)
        .because(away_evidence(facts))
        .and(unread.filter(|bytes| *bytes > 0).map(|bytes| {
            Evidence::new(Source::SocketQueue, format!("{bytes} bytes unread in the own socket"))
                .with("unread_bytes", bytes)
        }))
        .rejected(
            Cause::BodyStalled,
            if confidence == Confidence::High {
                "the peer was not what was waited for: its bytes are here"
            } else {
                "possible: what the peer did meanwhile was not seen"
            },
        ),
    )
}

fn away_evidence(facts: &CallFacts) -> Evidence {
    let away = facts.exchange.reader_away;
    Evidence::new(Source::Timeline, format!("the body was not asked for during {}", DurationText(away)))
        .with("reader_away_us", away.as_micros())
}

pub(super) fn receive(facts: &CallFacts, limit: &Limit) -> Finding {
    let took = in_stage(facts);
    if let Some(finding) = reader_slow(facts, limit) {
        return finding;
    }
    // Bytes that wait while the caller is away are no stall of the process.
    let stalled = local::unread(facts)
        .filter(|finding| finding.explains.is_none_or(|waited| waited > facts.exchange.reader_away));
    if let Some(finding) = stalled.or_else(|| path::blocked(facts)) {
        return finding;
    }
    if let Some(finding) = rest_of_request(facts, limit) {
        return finding;
    }
    let held = facts.h2.map_or(0, |h2| h2.window_blocked_bytes);
    if facts.exchange.to_take && held > 0 {
        return window_blocked(facts, held, None);
    }
    if let Some(came) = facts.exchange.since_write {
        return own_protocol(facts, limit, came);
    }
    let silence = path::silence(facts);
    let quiet = peer_silent_for(facts);
    let bytes = facts.exchange.body_bytes;
    let away = (!facts.exchange.reader_away.is_zero()).then(|| away_evidence(facts));
    // A limit for the gap fires on silence alone; one for the whole may find the body still coming.
    let part = share(quiet, took);
    if limit.name != LimitName::Gap && part < SILENT_SHARE && bytes > 0 {
        let flowing = part < FLOWING_SHARE && share(facts.exchange.reader_away, took) < FLOWING_SHARE;
        #[expect(clippy::cast_precision_loss, reason = "a rate for a reader")]
        let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
        let left = facts.exchange.body_expected.map(|expected| expected.saturating_sub(bytes));
        return Finding::new(
            Cause::BodySlow,
            Stage::Receive,
            if flowing { Confidence::High } else { Confidence::Medium },
            format!(
                "the body came too slowly: {bytes} bytes in {} ({rate:.0} bytes/s){}",
                DurationText(took),
                left.map_or(String::new(), |left| format!(", {left} bytes were still to come"))
            ),
        )
        .because(exchange_evidence(facts))
        .because(
            Evidence::new(Source::Timeline, format!("the last bytes came {} before the end", DurationText(quiet)))
                .with("last_read_us_ago", quiet.as_micros()),
        )
        .and(away)
        .rejected(
            Cause::BodyStalled,
            if flowing { "bytes kept coming" } else { "possible: bytes came, but none just before the limit fired" },
        );
    }
    let how_far = if bytes == 0 {
        "sent no byte of the body after its head".to_owned()
    } else {
        format!("stopped in the middle of the body after {bytes} bytes")
    };
    // The window of the connection is shared: unread bodies of other streams can hold this one up, unseen from here.
    let others = facts.h2.map_or(0, |h2| h2.streams_in_use.saturating_sub(1));
    let open = facts.exchange.waiting_for_request_body;
    let confidence = if others == 0 && !open { silence.confidence } else { silence.confidence.min(Confidence::Medium) };
    let finding = Finding::new(
        Cause::BodyStalled,
        Stage::Receive,
        confidence,
        format!("{} {how_far}: nothing came for {}", peer(facts), DurationText(quiet)),
    )
    .because(exchange_evidence(facts))
    .and(silence.evidence)
    .and(away);
    let finding = if open {
        let text = "possible: the request has no end yet either, and whose turn it was only their own protocol says";
        finding.rejected(Cause::SenderSlow, text)
    } else if others == 0 {
        finding
    } else {
        finding.rejected(
            Cause::H2WindowBlocked,
            format!("possible: {others} other streams share the connection's window, and may not be read"),
        )
    };
    finding.rejected(
        Cause::PathLost,
        if silence.confidence == Confidence::High {
            "the other end is visible, and nothing of its own is under way"
        } else {
            "possible: a path that loses everything on the way back looks the same from here"
        },
    )
}

/// A stream whose protocol is not known here: what came since the last write tells an answer that is late from one
/// that stopped.
fn own_protocol(facts: &CallFacts, limit: &Limit, came: u64) -> Finding {
    let silence = path::silence(facts);
    let (peer, written) = (peer(facts), facts.exchange.request_bytes);
    let quiet = peer_silent_for(facts);
    // A deadline finds a peer that still sends between two pieces, wherever it falls.
    let flowing = quiet < SHORT_SILENCE && share(quiet, limit.value) < SILENT_SHARE;
    if came > 0 && limit.name != LimitName::Gap && flowing {
        let quiet = DurationText(quiet);
        return Finding::new(
            Cause::BodySlow,
            Stage::Receive,
            Confidence::Medium,
            format!("{peer} was still sending: {came} bytes came, the last of them {quiet} before the deadline"),
        )
        .because(exchange_evidence(facts))
        .rejected(Cause::BodyStalled, "possible: so short a silence does not tell a pause from an end");
    }
    let (cause, summary) = if came > 0 {
        let quiet = DurationText(quiet);
        (Cause::BodyStalled, format!("{peer} sent {came} bytes, then nothing more for {quiet}"))
    } else {
        let took = DurationText(in_stage(facts));
        let summary = match silence.acknowledged {
            Some(true) if written > 0 => {
                format!("{peer} has all {written} bytes written to it and sent nothing for {took}")
            }
            _ => format!("{peer} sent nothing for {took}"),
        };
        (Cause::ServerSlow, summary)
    };
    Finding::new(cause, Stage::Receive, silence.confidence, summary)
        .because(exchange_evidence(facts))
        .and(silence.evidence)
        .rejected(
            Cause::PathLost,
            if silence.confidence == Confidence::High {
                "the other end is visible, and nothing of its own is under way"
            } else {
                "possible: a path that loses everything on the way back looks the same from here"
            },
        )
}

/// A reused connection that ended before it gave anything: the server may have closed it while it was idle.
fn idle_before(facts: &CallFacts) -> Option<Evidence> {
    let idle = facts.exchange.reused_after.filter(|_| facts.exchange.response_bytes == 0)?;
    Some(
        Evidence::new(Source::Pool, format!("the connection had been idle for {}", DurationText(idle)))
            .with("idle_us", idle.as_micros()),
    )
}

const KEEPALIVE_RACE: &str = "possible: the connection was reused just when the server may have closed it";

pub(super) fn reset(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    let bytes = facts.exchange.response_bytes;
    // Not the connection was reset, but HTTP/2 said so in a frame.
    let h2 = matches!(operation, "stream" | "connection");
    let came = match (facts.stage, bytes) {
        (Stage::Tls, 0) => "before any byte of its handshake".to_owned(),
        (Stage::Tls, _) => format!("after {bytes} bytes of its handshake"),
        (_, 0) => "before any byte of a response".to_owned(),
        _ if facts.h2.is_some() => format!("after {} bytes of the response body", facts.exchange.body_bytes),
        _ => format!("after {bytes} bytes of the response"),
    };
    let finding = Finding::new(
        Cause::PeerReset,
        facts.stage,
        Confidence::High,
        format!(
            "{} {} {came}",
            peer(facts),
            if h2 { text.trim_start_matches("the peer ") } else { "reset the connection" }
        ),
    )
    .because(if h2 { Evidence::new(Source::Http2, text.to_owned()) } else { errno(operation, text) })
    .because(exchange_evidence(facts));
    let finding = if h2 {
        finding.fix(
            "The frame carries the peer's own code (RFC 9113, section 7): NO_ERROR is a shutdown or a limit on requests \
             for each connection; for any other look into the log of the peer at that time.",
        )
    } else {
        finding
    };
    match idle_before(facts) {
        Some(idle) => finding.because(idle).rejected_first(Cause::KeepaliveRace, KEEPALIVE_RACE),
        None => finding.rejected(Cause::ClosedEarly, "a reset came, not an orderly end"),
    }
}

pub(super) fn closed(facts: &CallFacts) -> Finding {
    let exchange = &facts.exchange;
    let what = match facts.stage {
        Stage::Tls => format!("in the TLS handshake, after {} bytes of it", exchange.response_bytes),
        _ if exchange.since_write.is_some() => {
            format!("without its protocol's end, after {} bytes", exchange.response_bytes)
        }
        Stage::Receive => format!(
            "in the middle of the body: {} bytes came{}",
            exchange.body_bytes,
            exchange.body_expected.map_or(String::new(), |expected| format!(" of {expected}"))
        ),
        _ if exchange.response_bytes > 0 => {
            format!("in the middle of the response head ({} bytes)", exchange.response_bytes)
        }
        _ => "before any byte of a response".to_owned(),
    };
    let finding = Finding::new(
        Cause::ClosedEarly,
        facts.stage,
        Confidence::High,
        format!("{} closed the connection {what}", peer(facts)),
    )
    .because(exchange_evidence(facts))
    .because(Evidence::new(Source::Errno, "read: end of stream (FIN) where more was due"))
    .rejected(Cause::PeerReset, "an orderly end came, no RST");
    match idle_before(facts) {
        Some(idle) => finding.because(idle).rejected_first(Cause::KeepaliveRace, KEEPALIVE_RACE),
        None => finding,
    }
}

pub(super) fn protocol(facts: &CallFacts, text: &str) -> Finding {
    Finding::new(
        Cause::ProtocolError,
        facts.stage,
        Confidence::High,
        format!("{} broke the protocol: {text}", peer(facts)),
    )
    .because(Evidence::new(Source::Http, text.to_owned()))
    .because(exchange_evidence(facts))
    .rejected(Cause::ClosedEarly, "what came was wrong, not too short")
}

pub(super) fn request_body_failed(text: &str) -> Finding {
    Finding::new(
        Cause::Unknown,
        Stage::Send,
        Confidence::High,
        format!("the request body, which the caller provides, failed: {text}"),
    )
    .because(Evidence::new(Source::Http, text.to_owned()))
    .fix("Look at what provides the body: its error ended the call, not the network.")
    .rejected(Cause::SenderSlow, "the body gave an error, not silence")
}
