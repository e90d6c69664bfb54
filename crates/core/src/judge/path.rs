//! What the own socket says about the way to the peer and back, whatever the stage.

use std::time::Duration;

use super::{DELAYED_ACK, DOMINANT_SHARE, Finding, errno, exchange, in_stage, millis, peer, ran, share, tcp};
use crate::{
    Cause, Confidence, DurationText, Evidence, Source, Stage,
    facts::{CallFacts, ListenerFacts, PeerSocketFacts, SocketFacts, TcpInfo, TcpState},
};

/// So many full-sized segments must have been acknowledged before it is certain that they pass: small pieces add up.
const FULL_SIZED_SURE: u64 = 4;

/// A round trip below this leaves no time in which an answer is merely under way.
const SHORT_ROUND_TRIP: Duration = Duration::from_millis(10);

/// The verdict that the socket itself carries, if it carries one. `None`: the path looks healthy.
pub(super) fn blocked(facts: &CallFacts) -> Option<Finding> {
    let socket = facts.socket.as_ref()?;
    let tcp = socket.tcp.as_ref()?;
    never_sent(facts, socket, tcp)
        .or_else(|| half_accepted(facts, socket, tcp))
        .or_else(|| window_closed(facts, socket, tcp))
        .or_else(|| unacknowledged(facts, socket, tcp))
        .or_else(|| holes(facts, socket, tcp))
        .or_else(|| lost_on_the_way_back(facts, socket, tcp))
}

/// What was written lies in the own socket, and nothing of it is on its way: the network was not asked yet. A closed
/// window does that too, and shows itself.
fn never_sent(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let waiting = tcp.notsent_bytes.filter(|bytes| *bytes > 0)?;
    let open = tcp.snd_wnd.is_some_and(|window| window > 0) && tcp.probes == 0;
    // While sending, a moment between two segments looks the same.
    if facts.stage != Stage::Wait || tcp.unacked > 0 || !open || tcp.state != TcpState::Established {
        return None;
    }
    Some(
        Finding::new(
            Cause::Unknown,
            facts.stage,
            Confidence::Low,
            format!("{waiting} bytes for {} never left this host: a filter or a queue of its own holds them", socket.peer),
        )
        .because(
            Evidence::new(Source::TcpInfo, format!("{waiting} bytes not sent, 0 segments under way, the window is open"))
                .with("notsent_bytes", waiting),
        )
        .fix("Look at the own side: `nft list ruleset`, `tc -s qdisc`, `nstat -az TcpExtTCPLocalDrop`, and the device's counters.")
        .rejected(Cause::PathLost, "nothing was sent that could have been lost"),
    )
}

/// Whether the peer was ever heard on this connection, after the handshake.
fn was_heard(facts: &CallFacts, tcp: &TcpInfo) -> bool {
    let exchange = &facts.exchange;
    tcp.bytes_received.is_some_and(|bytes| bytes > 0) || exchange.response_bytes > 0 || exchange.reused_after.is_some()
}

/// The listener's queue was full when our ACK came: we are established, the other end never was.
fn half_accepted(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let listener = socket.listener.filter(|listener| listener.is_full())?;
    if socket.peer_socket.is_some() || tcp.unacked == 0 || was_heard(facts, tcp) {
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
        .because(listener_evidence(listener))
        .because(unacked_evidence(tcp))
        .rejected(Cause::PathLost, "the listener is on this host and its queue is full"),
    )
}

fn window_closed(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let unsent = socket.unsent_bytes.filter(|bytes| *bytes > 0)?;
    // During `receive` it is mostly the answer that is waited for, whatever becomes of the rest of the request.
    let is_due = match facts.stage {
        Stage::Tls | Stage::Send | Stage::Wait | Stage::Named(_) => true,
        Stage::Receive => facts.exchange.to_take && facts.exchange.reader_away.is_zero(),
        _ => false,
    };
    if !is_due {
        return None;
    }
    let other = socket.peer_socket;
    // An end that has read everything is not the one that holds back.
    if other.is_some_and(|other| other.unread_bytes == 0) {
        return None;
    }
    // Keepalive probes are counted too, but never while anything is in flight.
    let probing = tcp.unacked == 0 && tcp.probes > 0;
    let in_flight_again = tcp.unacked > 0 && (tcp.retransmits > 0 || tcp.backoff > 0);
    let zero = probing || tcp.snd_wnd == Some(0) && !in_flight_again;
    if zero && tcp.probes >= 2 && other.is_none() {
        return Some(
            Finding::new(
                Cause::PathLost,
                facts.stage,
                Confidence::Medium,
                format!(
                    "{} had closed its window and no longer answers the probes: {} in a row, last ACK {} ago",
                    peer(facts),
                    tcp.probes,
                    DurationText(millis(tcp.last_ack_recv_ms))
                ),
            )
            .because(window_evidence(tcp))
            .rejected(Cause::PeerNotReading, "a peer that does not read still acknowledges: its kernel does it"),
        );
    }
    // The kernel counts from the start of the connection, so only a new one tells about this call.
    let limited = Duration::from_micros(tcp.rwnd_limited_us.unwrap_or(0));
    let sending = match facts.stage {
        Stage::Named(_) | Stage::Receive => in_stage(facts),
        _ => facts.timeline.time_in(Stage::Send, facts.now) + facts.timeline.time_in(Stage::Wait, facts.now),
    };
    let starved = facts.exchange.reused_after.is_none()
        && tcp.notsent_bytes.is_some_and(|bytes| bytes > 0)
        && share(limited, sending) >= DOMINANT_SHARE;
    if !(zero || starved) {
        return None;
    }
    let (confidence, window) = match tcp.snd_wnd {
        Some(0) => (Confidence::High, "zero".to_owned()),
        Some(window) => (Confidence::Medium, format!("{window} bytes")),
        None if probing => (Confidence::High, "closed".to_owned()),
        None => (Confidence::Medium, "too small".to_owned()),
    };
    let what =
        format!("{} takes no more bytes: its receive window is {window}, {unsent} bytes of ours wait", peer(facts));
    Some(
        Finding::new(Cause::PeerNotReading, facts.stage, confidence, what)
            .because(window_evidence(tcp))
            .and(other.map(|other| {
                Evidence::new(
                    Source::SockDiag,
                    format!("the other end is on this host: {} bytes lie unread in its socket", other.unread_bytes),
                )
                .with("peer_unread_bytes", other.unread_bytes)
            }))
            .rejected(Cause::PathLost, alive(tcp, other)),
    )
}

/// Why it is the peer that does not read, and not the path that carries nothing.
fn alive(tcp: &TcpInfo, other: Option<PeerSocketFacts>) -> String {
    if other.is_some() {
        return "the other end is on this host and holds what came: it is its reader that takes none of it".to_owned();
    }
    let last = DurationText(millis(tcp.last_ack_recv_ms));
    match tcp.probes {
        0 => format!("the peer's kernel answers, last {last} ago: it is its window that holds back"),
        _ => format!("its window was closed when it last answered, {last} ago; only a probe is unanswered so far"),
    }
}

/// The window and the time it cost.
pub(super) fn window_evidence(tcp: &TcpInfo) -> Evidence {
    let limited = tcp.rwnd_limited_us.map(Duration::from_micros);
    let mut evidence = Evidence::new(
        Source::TcpInfo,
        format!(
            "window {}, {} probes unanswered, last ACK {} ago, {} spent limited by the peer's window",
            tcp.snd_wnd.map_or("unknown".to_owned(), |window| format!("{window} bytes")),
            tcp.probes,
            DurationText(millis(tcp.last_ack_recv_ms)),
            limited.map_or("unknown time".to_owned(), |limited| DurationText(limited).to_string()),
        ),
    )
    .with("probes", tcp.probes)
    .with("last_ack_recv_ms", tcp.last_ack_recv_ms);
    if let Some(window) = tcp.snd_wnd {
        evidence = evidence.with("snd_wnd", window);
    }
    if let Some(limited) = limited {
        evidence = evidence.with("rwnd_limited_us", limited.as_micros());
    }
    evidence
}

/// Whether this connection has ever carried a full-sized segment of ours to the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FullSized {
    /// All that was acknowledged is less than one.
    Never,
    Passed,
    Unknown,
}

fn full_sized(facts: &CallFacts, tcp: &TcpInfo) -> FullSized {
    let segment = u64::from(tcp.snd_mss);
    match acknowledged_data(tcp) {
        Some(bytes) if bytes < segment => FullSized::Never,
        // A reused connection may have carried many small requests.
        Some(bytes) if facts.exchange.reused_after.is_none() && bytes >= segment.saturating_mul(FULL_SIZED_SURE) => {
            FullSized::Passed
        }
        _ => FullSized::Unknown,
    }
}

/// Linux counts the SYN among the acknowledged bytes.
fn acknowledged_data(tcp: &TcpInfo) -> Option<u64> {
    tcp.bytes_acked.map(|bytes| bytes.saturating_sub(1))
}

/// Segments were sent again and still are not acknowledged. Only the retransmissions of what is unacknowledged now
/// count: the total has the SYN and earlier exchanges in it.
fn unacknowledged(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let repeats = tcp.retransmits.max(tcp.backoff);
    if tcp.unacked == 0 || repeats == 0 {
        return None;
    }
    let often = if repeats >= 2 { Confidence::High } else { Confidence::Medium };
    let full = full_sized(facts, tcp);
    let large_is_missing = socket.unsent_bytes.is_some_and(|bytes| bytes > tcp.snd_mss);
    if full != FullSized::Passed && large_is_missing && tcp.sacked > 0 {
        return Some(
            Finding::new(
                Cause::MtuBlackhole,
                facts.stage,
                if full == FullSized::Never { often } else { Confidence::Medium },
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
    let small_passed = acknowledged_data(tcp).is_some_and(|bytes| bytes > 0) && facts.exchange.reused_after.is_none();
    if full == FullSized::Never && large_is_missing && small_passed && repeats >= 2 {
        return Some(
            Finding::new(
                Cause::MtuBlackhole,
                facts.stage,
                Confidence::Medium,
                format!(
                    "{} acknowledged our small segments, and none of the full-sized ones that followed \
                     (segment size {} bytes)",
                    peer(facts),
                    tcp.snd_mss
                ),
            )
            .because(unacked_evidence(tcp))
            .rejected(Cause::PathLost, "possible: a path that was lost just after the small ones looks the same"),
        );
    }
    let finding = |confidence| {
        let waiting = socket.unsent_bytes.map_or("bytes".to_owned(), |bytes| format!("{bytes} bytes"));
        Finding::new(
            Cause::PathLost,
            facts.stage,
            confidence,
            format!(
                "{} acknowledges nothing any more: {waiting} of ours wait for it, sent again {} times, last ACK {} ago",
                peer(facts),
                tcp.retransmits,
                DurationText(millis(tcp.last_ack_recv_ms))
            ),
        )
        .because(unacked_evidence(tcp))
    };
    let never_served = !was_heard(facts, tcp) && acknowledged_data(tcp) == Some(0);
    Some(if never_served && socket.listener.is_none() && socket.peer_socket.is_none() {
        finding(Confidence::Medium).rejected(
            Cause::AcceptQueueFull,
            "possible: no listener is seen on this host, and a queue that filled in mid-handshake looks the same \
             (there: ss -ltn, nstat TcpExtListenOverflows)",
        )
    } else if large_is_missing && full != FullSized::Passed {
        finding(Confidence::Medium).rejected(
            Cause::MtuBlackhole,
            "possible: full-sized segments are what is missing, and no smaller one behind them was acknowledged",
        )
    } else {
        finding(often).rejected(Cause::ServerSlow, "a slow server still acknowledges: its kernel does it")
    })
}

fn unacked_evidence(tcp: &TcpInfo) -> Evidence {
    Evidence::new(
        Source::TcpInfo,
        format!(
            "{} segments unacknowledged, sent again {} times, backoff {}, {} acknowledged selectively, last ACK {} ago",
            tcp.unacked,
            tcp.retransmits,
            tcp.backoff,
            tcp.sacked,
            DurationText(millis(tcp.last_ack_recv_ms))
        ),
    )
    .with("unacked", tcp.unacked)
    .with("retransmits", tcp.retransmits)
    .with("backoff", tcp.backoff)
    .with("sacked", tcp.sacked)
    .with("last_ack_recv_ms", tcp.last_ack_recv_ms)
}

/// Segments came whose predecessors are missing. The kernel counts them for as long as the connection lives, so the
/// count alone may be of a loss that was mended long ago.
fn holes(facts: &CallFacts, socket: &SocketFacts, tcp: &TcpInfo) -> Option<Finding> {
    let out_of_order = tcp.rcv_ooopack.filter(|count| *count > 0)?;
    let silent_for = exchange::peer_silent_for(facts);
    let waits = matches!(facts.stage, Stage::Tls | Stage::Wait | Stage::Receive);
    if !waits || silent_for < DELAYED_ACK || socket.unread_bytes != Some(0) {
        return None;
    }
    let (confidence, stuck) = match (socket.peer_socket, tcp.bytes_received) {
        (Some(PeerSocketFacts { unacked_bytes: 0, .. }), _) => return None,
        (Some(other), _) => (Confidence::High, Some(other.unacked_bytes)),
        (None, Some(0)) => (Confidence::High, None),
        (None, Some(bytes)) if bytes < u64::from(tcp.pmtu) => (Confidence::Medium, None),
        // Full-sized segments have come on this connection, or that cannot be known.
        (None, _) => return None,
    };
    Some(
        Finding::new(
            Cause::MtuBlackhole,
            facts.stage,
            confidence,
            format!(
                "the answer of {} has holes: {out_of_order} segments came whose predecessors did not, \
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
    let waits = match facts.stage {
        Stage::Tls | Stage::Wait | Stage::Receive => true,
        Stage::Send => facts.h2.is_some_and(|h2| h2.window_blocked_bytes > 0),
        _ => false,
    };
    let quiet = millis(tcp.last_data_recv_ms);
    if !waits || quiet.min(in_stage(facts)) <= DELAYED_ACK || socket.unread_bytes != Some(0) || tcp.unacked > 0 {
        return None;
    }
    let short = Duration::from_micros(tcp.rtt_us.into()) < SHORT_ROUND_TRIP;
    Some(
        Finding::new(
            Cause::PathLost,
            facts.stage,
            if short { Confidence::High } else { Confidence::Medium },
            format!("{} answered, and its answer does not arrive here", peer(facts)),
        )
        .because(stuck_evidence(stuck))
        .because(
            Evidence::new(Source::TcpInfo, format!("no data came for {}", DurationText(quiet)))
                .with("last_data_recv_ms", tcp.last_data_recv_ms),
        )
        .rejected(
            Cause::ServerSlow,
            if short {
                "the server's socket on this host shows the answer written and unacknowledged"
            } else {
                "possible: the way is long, and the answer may have been written just now"
            },
        ),
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
pub(super) fn listener_evidence(listener: ListenerFacts) -> Evidence {
    let ListenerFacts { queued, backlog } = listener;
    Evidence::new(
        Source::SockDiag,
        format!("the listener is on this host: {queued} connections wait to be accepted, its backlog is {backlog}"),
    )
    .with("queued", queued)
    .with("backlog", backlog)
}

/// ETIMEDOUT, or a remembered ICMP error, on an established connection: retransmission, probes or keepalive ran out.
pub(super) fn kernel_gave_up(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    let seen = tcp(facts);
    if let Some(tcp) = seen.filter(|tcp| tcp.snd_wnd == Some(0)) {
        return Finding::new(
            Cause::PeerNotReading,
            facts.stage,
            Confidence::Medium,
            format!("the kernel gave up on {}: its receive window stayed closed", peer(facts)),
        )
        .because(errno(operation, text))
        .because(window_evidence(tcp))
        .rejected(Cause::PathLost, "possible: a peer that vanished behind a closed window looks the same");
    }
    Finding::new(
        Cause::PathLost,
        facts.stage,
        Confidence::High,
        format!(
            "the kernel gave up on {}: it acknowledged nothing until retransmission or keepalive ran out",
            peer(facts)
        ),
    )
    .because(errno(operation, text))
    .and(seen.filter(|tcp| tcp.unacked > 0).map(unacked_evidence))
    .rejected(Cause::ServerSlow, "a slow server still acknowledges: its kernel does it")
}

/// What is known about a peer that is silent on a path that looks healthy.
pub(super) struct Silence {
    /// How sure it is that the peer itself is the silent one.
    pub(super) confidence: Confidence,
    /// Whether the peer's kernel has all that we sent.
    pub(super) acknowledged: Option<bool>,
    /// Never empty.
    pub(super) evidence: Vec<Evidence>,
}

pub(super) fn silence(facts: &CallFacts) -> Silence {
    let mut silence =
        Silence { confidence: Confidence::Low, acknowledged: None, evidence: vec![ran(facts, facts.stage)] };
    let Some(socket) = &facts.socket else { return silence };
    if let Some(tcp) = socket.tcp.as_ref() {
        let acknowledged = tcp.unacked == 0 && socket.unsent_bytes.is_none_or(|bytes| bytes == 0);
        // What HTTP/2 has under way may be of other streams.
        silence.acknowledged = (acknowledged || facts.h2.is_none()).then_some(acknowledged);
        silence.evidence.push(if acknowledged {
            silence.confidence = Confidence::Medium;
            let out_of_order =
                tcp.rcv_ooopack.map_or(String::new(), |count| format!(", {count} segments out of order"));
            let text = format!(
                "all our bytes are acknowledged, nothing received for {}{out_of_order}",
                DurationText(millis(tcp.last_data_recv_ms))
            );
            let evidence = Evidence::new(Source::TcpInfo, text)
                .with("unacked", tcp.unacked)
                .with("last_data_recv_ms", tcp.last_data_recv_ms);
            match tcp.rcv_ooopack {
                Some(count) => evidence.with("rcv_ooopack", count),
                None => evidence,
            }
        } else {
            let text = format!("{} segments are unacknowledged and were not sent again yet", tcp.unacked);
            Evidence::new(Source::TcpInfo, text).with("unacked", tcp.unacked)
        });
    }
    if let Some(other) = socket.peer_socket.filter(|other| other.unacked_bytes == 0) {
        if socket.tcp.is_none() || silence.acknowledged == Some(true) {
            silence.confidence = Confidence::High;
        }
        let text = if other.unread_bytes > 0 {
            format!(
                "the other end is on this host: {} bytes of ours lie unread there, nothing of its own is under way",
                other.unread_bytes
            )
        } else {
            "the other end is on this host: it read everything, nothing of its own is under way".to_owned()
        };
        silence.evidence.push(Evidence::new(Source::SockDiag, text).with("peer_unread_bytes", other.unread_bytes));
        // Ours may be one of them.
        let queue = socket.listener.filter(|listener| listener.queued > 0 && other.unread_bytes > 0);
        silence.evidence.extend(queue.map(listener_evidence));
    }
    silence
}
