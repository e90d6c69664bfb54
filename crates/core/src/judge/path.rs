//! What the own socket says about the way to the peer and back, whatever the stage.

use std::time::Duration;

use super::{DELAYED_ACK, DOMINANT_SHARE, Finding, errno, in_stage, peer, share, tcp};
use crate::{
    Cause, Confidence, DurationText, Evidence, Source, Stage,
    facts::{CallFacts, SocketFacts, TcpInfo},
};

/// The verdict that the socket itself carries, if it carries one. `None`: the path looks healthy.
pub(super) fn blocked(facts: &CallFacts) -> Option<Finding> {
    let socket = facts.socket.as_ref()?;
    let tcp = socket.tcp.as_ref()?;
    half_accepted(facts, socket, tcp)
        .or_else(|| window_closed(facts, socket, tcp))
        .or_else(|| unacknowledged(facts, socket, tcp))
        .or_else(|| holes(facts, socket, tcp))
        .or_else(|| lost_on_the_way_back(facts, socket, tcp))
}

/// The listener's queue was full when our ACK came: we are established, the other end never was.
fn half_accepted(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let listener = socket.listener.filter(|listener| listener.is_full())?;
    if socket.peer_socket.is_some() || tcp.unacked == 0 || tcp.bytes_received.unwrap_or(0) > 0 {
        return None;
    }
    Some(
        Finding::new(
            Cause::AcceptQueueFull,
            facts.stage,
            Confidence::High,
            format!(
                "{} finished no handshake with us: its accept queue is full ({} waiting, backlog {})",
                peer(facts),
                listener.queued,
                listener.backlog
            ),
        )
        .because(listener_evidence(listener.queued, listener.backlog))
        .because(unacked_evidence(tcp))
        .rejected(Cause::PathLost, "the listener is on this host and its queue is full"),
    )
}

fn window_closed(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let unsent = socket.unsent_bytes.unwrap_or(0);
    let limited = tcp.rwnd_limited_us.map(Duration::from_micros).unwrap_or_default();
    let zero = tcp.snd_wnd == Some(0) || tcp.probes > 0;
    let starved = share(limited, in_stage(facts)) >= DOMINANT_SHARE && tcp.notsent_bytes.unwrap_or(0) > 0;
    if unsent == 0 || !(zero || starved) {
        return None;
    }
    Some(
        Finding::new(
            Cause::PeerNotReading,
            facts.stage,
            Confidence::High,
            format!(
                "{} takes no more bytes: its receive window is {}, {unsent} bytes of ours wait",
                peer(facts),
                if zero { "zero".to_owned() } else { format!("{} bytes", tcp.snd_wnd.unwrap_or(0)) },
            ),
        )
        .because(window_evidence(tcp))
        .and(socket.peer_socket.map(|other| {
            Evidence::new(
                Source::SockDiag,
                format!("the other end is on this host: {} bytes lie unread in its socket", other.unread_bytes),
            )
            .with("peer_unread_bytes", other.unread_bytes)
        }))
        .rejected(Cause::PathLost, "the peer acknowledges: it only offers no window"),
    )
}

/// The window and the time it cost.
pub(super) fn window_evidence(tcp: &TcpInfo) -> Evidence {
    let limited = Duration::from_micros(tcp.rwnd_limited_us.unwrap_or(0));
    Evidence::new(
        Source::TcpInfo,
        format!(
            "window {} bytes, {} zero-window probes out, {} spent limited by the peer's window",
            tcp.snd_wnd.map_or("unknown".to_owned(), |window| window.to_string()),
            tcp.probes,
            DurationText(limited)
        ),
    )
    .with("snd_wnd", tcp.snd_wnd.unwrap_or(0))
    .with("probes", tcp.probes)
    .with("rwnd_limited_us", limited.as_micros())
}

fn unacknowledged(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let repeated = tcp.retransmits > 0 || tcp.backoff > 0;
    let probed = tcp.total_retrans > 0 && Duration::from_millis(tcp.last_ack_recv_ms.into()) > DELAYED_ACK;
    if tcp.unacked == 0 || !(repeated || probed) {
        return None;
    }
    let silent_for = Duration::from_millis(tcp.last_ack_recv_ms.into());
    if tcp.sacked > 0 {
        return Some(
            Finding::new(
                Cause::MtuBlackhole,
                facts.stage,
                Confidence::High,
                format!(
                    "{} received our small segments and never the full-sized ones before them (segment size {} bytes)",
                    peer(facts),
                    tcp.snd_mss
                ),
            )
            .because(unacked_evidence(tcp))
            .rejected(Cause::PathLost, "segments behind the missing ones were acknowledged selectively"),
        );
    }
    let unsent = socket.unsent_bytes.unwrap_or(0);
    let finding = Finding::new(
        Cause::PathLost,
        facts.stage,
        if tcp.retransmits >= 2 || tcp.backoff >= 2 { Confidence::High } else { Confidence::Medium },
        format!(
            "{} acknowledges nothing any more: {} bytes of ours are unacknowledged, last ACK {} ago",
            peer(facts),
            unsent,
            DurationText(silent_for)
        ),
    )
    .because(unacked_evidence(tcp));
    Some(if unsent > tcp.snd_mss && tcp.bytes_acked.is_some_and(|acked| acked > 1) {
        finding.rejected(
            Cause::MtuBlackhole,
            "full-sized segments are what is missing, but no smaller one behind them was acknowledged either",
        )
    } else {
        finding.rejected(Cause::ServerSlow, "a slow server still acknowledges: its kernel does it")
    })
}

fn unacked_evidence(tcp: &TcpInfo) -> Evidence {
    Evidence::new(
        Source::TcpInfo,
        format!(
            "{} segments unacknowledged, sent again {} times, backoff {}, {} acknowledged selectively, last ACK {} ms ago",
            tcp.unacked, tcp.retransmits, tcp.backoff, tcp.sacked, tcp.last_ack_recv_ms
        ),
    )
    .with("unacked", tcp.unacked)
    .with("retransmits", tcp.retransmits)
    .with("backoff", tcp.backoff)
    .with("sacked", tcp.sacked)
    .with("last_ack_recv_ms", tcp.last_ack_recv_ms)
}

fn holes(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let out_of_order = tcp.rcv_ooopack.filter(|count| *count > 0)?;
    let waits = matches!(facts.stage, Stage::Tls | Stage::Wait | Stage::Receive);
    let silent_for = facts.exchange.last_read.map_or_else(|| in_stage(facts), |at| facts.now.duration_since(at));
    if !waits || silent_for < DELAYED_ACK || socket.unread_bytes.unwrap_or(0) > 0 {
        return None;
    }
    let stuck = socket.peer_socket.map(|other| other.unacked_bytes).filter(|bytes| *bytes > 0);
    let sure = stuck.is_some() || facts.exchange.reused_after.is_none();
    Some(
        Finding::new(
            Cause::MtuBlackhole,
            facts.stage,
            if sure { Confidence::High } else { Confidence::Medium },
            format!(
                "the answer of {} has holes: {out_of_order} segments came whose predecessors never arrived, \
                 nothing readable for {}",
                peer(facts),
                DurationText(silent_for)
            ),
        )
        .because(
            Evidence::new(
                Source::TcpInfo,
                format!("{out_of_order} segments arrived out of order (tcpi_rcv_ooopack), path MTU {}", tcp.pmtu),
            )
            .with("rcv_ooopack", out_of_order)
            .with("pmtu", tcp.pmtu),
        )
        .and(stuck.map(stuck_evidence))
        .rejected(Cause::ServerSlow, "the server did answer: later segments of its answer are here"),
    )
}

/// The other end is on this host and shows that it answered.
fn lost_on_the_way_back(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let stuck = socket.peer_socket.map(|other| other.unacked_bytes).filter(|bytes| *bytes > 0)?;
    let waits = matches!(facts.stage, Stage::Tls | Stage::Wait | Stage::Receive);
    let quiet = Duration::from_millis(tcp.last_data_recv_ms.into()) > DELAYED_ACK;
    if !waits || !quiet || socket.unread_bytes.unwrap_or(0) > 0 || tcp.unacked > 0 {
        return None;
    }
    Some(
        Finding::new(
            Cause::PathLost,
            facts.stage,
            Confidence::High,
            format!("{} answered, and its answer does not arrive here", peer(facts)),
        )
        .because(stuck_evidence(stuck))
        .because(
            Evidence::new(Source::TcpInfo, format!("no data came for {} ms", tcp.last_data_recv_ms))
                .with("last_data_recv_ms", tcp.last_data_recv_ms),
        )
        .rejected(Cause::ServerSlow, "the server's socket on this host shows the answer written and unacknowledged"),
    )
}

fn stuck_evidence(bytes: u32) -> Evidence {
    Evidence::new(
        Source::SockDiag,
        format!("the other end is on this host: {bytes} bytes it wrote are not acknowledged by us"),
    )
    .with("peer_unacked_bytes", bytes)
}

/// A listener's queue.
pub(super) fn listener_evidence(queued: u32, backlog: u32) -> Evidence {
    Evidence::new(
        Source::SockDiag,
        format!("the listener is on this host: {queued} connections wait to be accepted, its backlog is {backlog}"),
    )
    .with("queued", queued)
    .with("backlog", backlog)
}

/// ETIMEDOUT on an established connection: retransmission or keepalive ran out.
pub(super) fn kernel_gave_up(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    Finding::new(
        Cause::PathLost,
        facts.stage,
        Confidence::High,
        format!("the kernel gave up on {}: it acknowledged nothing until retransmission or keepalive ran out", peer(facts)),
    )
    .because(errno(operation, text))
    .and(tcp(facts).map(unacked_evidence))
    .rejected(Cause::ServerSlow, "a slow server still acknowledges: its kernel does it")
}

/// What is known about a peer that is silent on a healthy path: how sure that is, and why.
pub(super) fn silence(facts: &CallFacts) -> (Confidence, Vec<Evidence>) {
    let mut evidence = Vec::new();
    let Some(socket) = &facts.socket else { return (Confidence::Low, evidence) };
    let mut confidence = Confidence::Low;
    if let Some(tcp) = socket.tcp.as_ref() {
        if tcp.unacked == 0 {
            confidence = Confidence::Medium;
            evidence.push(
                Evidence::new(
                    Source::TcpInfo,
                    format!(
                        "all our bytes are acknowledged, {} segments out of order, nothing received for {} ms",
                        tcp.rcv_ooopack.unwrap_or(0),
                        tcp.last_data_recv_ms
                    ),
                )
                .with("unacked", tcp.unacked)
                .with("last_data_recv_ms", tcp.last_data_recv_ms)
                .with("rcv_ooopack", tcp.rcv_ooopack.unwrap_or(0)),
            );
        } else {
            evidence.push(
                Evidence::new(
                    Source::TcpInfo,
                    format!("{} segments are unacknowledged, too early for a retransmission", tcp.unacked),
                )
                .with("unacked", tcp.unacked),
            );
        }
    }
    if let Some(other) = socket.peer_socket.filter(|other| other.unacked_bytes == 0) {
        confidence = Confidence::High;
        let text = if other.unread_bytes > 0 {
            format!("the other end is on this host: {} bytes of ours lie unread there, nothing was written", other.unread_bytes)
        } else {
            "the other end is on this host: it read everything and wrote nothing more".to_owned()
        };
        evidence.push(Evidence::new(Source::SockDiag, text).with("peer_unread_bytes", other.unread_bytes));
    }
    (confidence, evidence)
}
