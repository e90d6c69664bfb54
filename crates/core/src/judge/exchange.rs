//! Causes during the exchange: send, wait, receive.

use std::time::Duration;

use super::{Finding, READER_AWAY_SHARE, errno, in_stage, path, peer, share};
use crate::{
    Cause, Confidence, DurationText, Evidence, Limit, LimitName, Source, Stage,
    facts::{CallFacts, ExchangeFacts},
};

fn since_last_read(facts: &CallFacts) -> Duration {
    facts.exchange.last_read.map_or_else(|| in_stage(facts), |at| facts.now.saturating_duration_since(at))
}

fn exchange_evidence(exchange: &ExchangeFacts) -> Evidence {
    Evidence::new(
        Source::Http,
        format!(
            "request: {} bytes sent; response: {} bytes received, {} of the body{}",
            exchange.request_bytes,
            exchange.response_bytes,
            exchange.body_bytes,
            exchange.body_expected.map_or(String::new(), |expected| format!(" of {expected}"))
        ),
    )
    .with("request_bytes", exchange.request_bytes)
    .with("response_bytes", exchange.response_bytes)
    .with("body_bytes", exchange.body_bytes)
}

pub(super) fn send(facts: &CallFacts) -> Finding {
    let took = DurationText(in_stage(facts));
    if let Some(h2) = facts.h2.filter(|h2| h2.window_blocked_bytes > 0) {
        return Finding::new(
            Cause::H2WindowBlocked,
            Stage::Send,
            Confidence::High,
            format!("the peer gives no WINDOW_UPDATE: {} bytes of the request wait for it", h2.window_blocked_bytes),
        )
        .because(
            Evidence::new(
                Source::Http2,
                format!("flow control window is used up, {} bytes wait in this stream", h2.window_blocked_bytes),
            )
            .with("waiting_bytes", h2.window_blocked_bytes),
        )
        .because(exchange_evidence(&facts.exchange))
        .rejected(Cause::PeerNotReading, "TCP is not what holds: HTTP/2's own window is used up");
    }
    if let Some(finding) = path::blocked(facts) {
        return finding;
    }
    if facts.exchange.waiting_for_request_body {
        return Finding::new(
            Cause::SenderSlow,
            Stage::Send,
            Confidence::High,
            format!("the request body, which the caller provides, gave no bytes; {took} in send"),
        )
        .because(exchange_evidence(&facts.exchange))
        .rejected(Cause::PeerNotReading, "nothing waited for the peer: all that the caller gave was sent");
    }
    Finding::new(
        Cause::Unknown,
        Stage::Send,
        Confidence::Low,
        format!("the request was not sent within {took}, and the socket does not say why"),
    )
    .because(exchange_evidence(&facts.exchange))
    .rejected(Cause::PeerNotReading, "the peer's window is open, as far as the socket shows")
}

pub(super) fn wait(facts: &CallFacts) -> Finding {
    if let Some(finding) = unread(facts).or_else(|| path::blocked(facts)) {
        return finding;
    }
    let (confidence, evidence) = path::silence(facts);
    let bytes = facts.exchange.response_bytes;
    if bytes > 0 {
        return Finding::new(
            Cause::HeadStalled,
            Stage::Wait,
            confidence.max(Confidence::Medium),
            format!(
                "{} sent {bytes} bytes of a response head, then nothing more for {}",
                peer(facts),
                DurationText(since_last_read(facts))
            ),
        )
        .because(exchange_evidence(&facts.exchange))
        .and(evidence)
        .rejected(Cause::ServerSlow, "the server had begun to answer");
    }
    Finding::new(
        Cause::ServerSlow,
        Stage::Wait,
        confidence,
        format!("{} has the whole request and did not answer for {}", peer(facts), DurationText(in_stage(facts))),
    )
    .and(evidence)
    .because(exchange_evidence(&facts.exchange))
    .rejected(
        Cause::PathLost,
        if confidence == Confidence::High {
            "the other end is visible and has written nothing"
        } else {
            "the request was acknowledged; answers lost on the way back would look the same from here"
        },
    )
}

pub(super) fn receive(facts: &CallFacts, limit: &Limit) -> Finding {
    let took = in_stage(facts);
    let away = facts.exchange.reader_away;
    if share(away, took) >= READER_AWAY_SHARE {
        let unread = facts.socket.as_ref().and_then(|socket| socket.unread_bytes).unwrap_or(0);
        return Finding::new(
            Cause::ReaderSlow,
            Stage::Receive,
            if unread > 0 { Confidence::High } else { Confidence::Medium },
            format!(
                "the caller did not read: {} of {} in receive passed between its reads, {unread} bytes wait in the socket",
                DurationText(away),
                DurationText(took)
            ),
        )
        .because(
            Evidence::new(Source::SocketQueue, format!("{unread} bytes unread in the own socket"))
                .with("unread_bytes", unread),
        )
        .because(
            Evidence::new(Source::Timeline, format!("the body was not asked for during {}", DurationText(away)))
                .with("reader_away_us", away.as_micros()),
        )
        .rejected(Cause::BodyStalled, "the peer was not what was waited for");
    }
    if let Some(finding) = unread(facts).or_else(|| path::blocked(facts)) {
        return finding;
    }
    let (confidence, evidence) = path::silence(facts);
    let quiet = since_last_read(facts);
    let bytes = facts.exchange.body_bytes;
    // A limit for the gap fires on silence alone; one for the whole may find the body still trickling in.
    if limit.name != LimitName::Gap && share(quiet, took) < 0.5 && bytes > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for a reader")]
        let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
        let needed = facts.exchange.body_expected.map(|expected| expected.saturating_sub(bytes));
        return Finding::new(
            Cause::BodySlow,
            Stage::Receive,
            Confidence::High,
            format!(
                "the body trickles: {bytes} bytes in {} ({rate:.0} bytes/s){}",
                DurationText(took),
                needed.map_or(String::new(), |left| format!(", {left} bytes were still to come"))
            ),
        )
        .because(exchange_evidence(&facts.exchange))
        .because(
            Evidence::new(Source::Timeline, format!("the last bytes came {} before the end", DurationText(quiet)))
                .with("last_read_us_ago", quiet.as_micros()),
        )
        .rejected(Cause::BodyStalled, "bytes kept coming");
    }
    Finding::new(
        Cause::BodyStalled,
        Stage::Receive,
        confidence,
        format!("{} stopped in the middle of the body: {bytes} bytes came, then nothing for {}", peer(facts), DurationText(quiet)),
    )
    .because(exchange_evidence(&facts.exchange))
    .and(evidence)
    .rejected(
        Cause::PathLost,
        if confidence == Confidence::High {
            "the other end is visible and has written nothing more"
        } else {
            "a path that loses everything on the way back would look the same from here"
        },
    )
}

/// Bytes lie in our own socket and we are the ones who should have read them.
fn unread(facts: &CallFacts) -> Option<Finding> {
    let socket = facts.socket.as_ref()?;
    let unread = socket.unread_bytes.filter(|bytes| *bytes > 0)?;
    let waited = socket.tcp.as_ref().map_or(0, |tcp| tcp.last_data_recv_ms);
    // Bytes of this very millisecond came too late, not unread.
    if waited < 8 {
        return None;
    }
    Some(
        Finding::new(
            Cause::LocalStall,
            Stage::Stall,
            Confidence::High,
            format!("the answer is here and was not read: {unread} bytes have waited {waited} ms in the own socket"),
        )
        .because(
            Evidence::new(Source::SocketQueue, format!("{unread} bytes unread, the last came {waited} ms ago"))
                .with("unread_bytes", unread)
                .with("last_data_recv_ms", waited),
        )
        .rejected(Cause::ServerSlow, "the server did answer"),
    )
}

pub(super) fn reset(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    let bytes = facts.exchange.response_bytes;
    let came = if bytes == 0 { "before any byte of a response".to_owned() } else { format!("after {bytes} bytes of the response") };
    let finding = Finding::new(
        Cause::PeerReset,
        facts.stage,
        Confidence::High,
        format!("{} reset the connection {came}", peer(facts)),
    )
    .because(errno(operation, text))
    .because(exchange_evidence(&facts.exchange));
    match facts.exchange.reused_after {
        Some(idle) if bytes == 0 => finding
            .because(
                Evidence::new(Source::Pool, format!("the connection had been idle for {}", DurationText(idle)))
                    .with("idle_us", idle.as_micros()),
            )
            .rejected(Cause::KeepaliveRace, "possible: the connection was reused just when the server may have closed it"),
        _ => finding.rejected(Cause::ClosedEarly, "a reset came, not an orderly end"),
    }
}

pub(super) fn closed(facts: &CallFacts) -> Finding {
    let exchange = &facts.exchange;
    let what = match facts.stage {
        Stage::Tls => format!("in the TLS handshake, after {} bytes of it", exchange.response_bytes),
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
    Finding::new(Cause::ClosedEarly, facts.stage, Confidence::High, format!("{} closed the connection {what}", peer(facts)))
        .because(exchange_evidence(exchange))
        .because(Evidence::new(Source::Errno, "read: end of stream (FIN) where more was due"))
        .rejected(Cause::PeerReset, "an orderly end came, no RST")
}

pub(super) fn protocol(facts: &CallFacts, text: &str) -> Finding {
    Finding::new(
        Cause::ProtocolError,
        facts.stage,
        Confidence::High,
        format!("{} broke the protocol: {text}", peer(facts)),
    )
    .because(Evidence::new(Source::Http, text.to_owned()))
    .because(exchange_evidence(&facts.exchange))
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
}
