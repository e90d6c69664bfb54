//! What is known of a connection, as the facts that the judge of one call wants.

use std::time::{Duration, Instant};

use overdue_core::{
    Limit, LimitName, Origin, SpanOutcome, Stage, Timeline,
    facts::{
        CallFacts, ExchangeFacts, Failure, ListenerFacts, OsFailure, PeerSocketFacts, SocketFacts, TcpInfo, TcpState,
    },
};

use super::{Known, peer_of};
use crate::observation::{Connection, Moment, TcpSocket};

/// Stages of one call, in microseconds since the watch began; the last of them is the one that had not ended.
pub(super) struct Stages {
    spans: Vec<(Stage, u64, u64)>,
}

impl Stages {
    pub(super) const fn new() -> Self {
        Self { spans: Vec::new() }
    }

    /// One after the others; what it shares with them is theirs.
    pub(super) fn add(&mut self, stage: Stage, begun: u64, ended: u64) {
        let begun = self.spans.last().map_or(begun, |&(_, _, before)| begun.max(before));
        self.spans.push((stage, begun, ended.max(begun)));
    }

    /// Forgets what was over so long before the next began: it was not for this call, whose connection lay ready.
    pub(super) fn without_pause(&mut self, us: u64) {
        let paused = |pair: &[(Stage, u64, u64)]| matches!(pair, [(_, _, ended), (_, begun, _)] if begun.saturating_sub(*ended) >= us);
        if let Some(before) = self.spans.windows(2).rposition(paused) {
            self.spans.drain(..=before);
        }
    }

    /// From the first to the last.
    pub(super) fn life_us(&self) -> u64 {
        let begun = self.spans.first().map_or(0, |&(_, begun, _)| begun);
        self.spans.last().map_or(0, |&(_, _, ended)| ended.saturating_sub(begun))
    }

    /// The facts of a call that had these stages; `last_read` is when bytes of the peer were last read.
    #[expect(clippy::disallowed_methods, reason = "an instant to count from: only differences matter")]
    pub(super) fn facts(&self, known: &Known<'_>, failure: Failure, last_read: Option<u64>) -> CallFacts {
        let start = Instant::now();
        let begun = self.spans.first().map_or(0, |&(_, begun, _)| begun);
        // A recording may hold any number.
        let instant =
            |us: u64| start + Duration::from_micros(us.saturating_sub(begun).min(u64::from(u32::MAX) * 1_000));
        let (stage, _, ended) = self.spans.last().copied().unwrap_or((Stage::Wait, begun, begun));
        let outcome =
            if matches!(failure, Failure::DeadlinePassed(_)) { SpanOutcome::TimedOut } else { SpanOutcome::Failed };
        let mut timeline = Timeline::new(start);
        for (place, &(stage, from, to)) in self.spans.iter().enumerate() {
            timeline.begin(stage, instant(from), None);
            timeline.finish(instant(to), if place + 1 < self.spans.len() { SpanOutcome::Done } else { outcome });
        }
        timeline.end(instant(ended), outcome);
        let written = known.connection.map(|connection| connection.written_bytes).filter(|bytes| *bytes > 0);
        let acked = known.socket.and_then(|socket| socket.acked(&socket.last?));
        let request_bytes = written.or(acked).unwrap_or(0);
        CallFacts {
            stage,
            failure,
            now: instant(ended),
            timeline,
            late_by: Duration::ZERO,
            socket: socket_facts(known),
            dns: None,
            pool: None,
            h2: None,
            exchange: ExchangeFacts {
                request_started: request_bytes > 0,
                request_bytes,
                last_read: last_read.map(instant),
                ..ExchangeFacts::default()
            },
        }
    }
}

/// Bytes that were read of the response, head included, and of its body. Where the end of its head was not seen, all
/// bytes of the connection stand for both.
pub(super) fn response_bytes(connection: &Connection) -> (u64, u64) {
    let http = connection.http.as_ref();
    match http.and_then(|http| http.head_bytes.zip(http.body_bytes)) {
        Some((head, body)) => (head.saturating_add(body), body),
        None => (connection.read_bytes, connection.read_bytes.max(1)),
    }
}

/// The facts of a stage that has run for so long, and of which nothing before it is known.
pub(super) fn facts(known: &Known<'_>, stage: Stage, ran_us: u64, failure: Failure) -> CallFacts {
    let mut stages = Stages::new();
    stages.add(stage, 0, ran_us);
    stages.facts(known, failure, None)
}

fn socket_facts(known: &Known<'_>) -> Option<SocketFacts> {
    let peer = match (known.socket, known.connection) {
        (Some(socket), _) => peer_of(socket),
        (None, Some(connection)) => connection.remote?.to_string(),
        (None, None) => return None,
    };
    let socket = known.socket;
    Some(SocketFacts {
        peer,
        tcp: socket.and_then(|it| without_fin(it).or_else(|| of_table(it))).or_else(|| syn_sent(known.connection?)),
        unread_bytes: socket.map(|socket| socket.unread_bytes),
        unsent_bytes: socket.map(|socket| socket.unsent_bytes.saturating_sub(own_fin(socket))),
        cookie: socket.map(|socket| socket.cookie),
        listener: socket
            .and_then(|socket| socket.peer_listener)
            .map(|queue| ListenerFacts { queued: queue.queued, backlog: queue.backlog }),
        peer_socket: socket.and_then(|socket| {
            let unread_bytes = socket.peer_unread_bytes?.saturating_sub(own_fin(socket));
            Some(PeerSocketFacts { unread_bytes, unacked_bytes: socket.peer_unsent_bytes? })
        }),
        peer_unasked: false,
    })
}

/// Bytes that came and that the process has not read, at least: they lie in its own socket.
pub(super) fn unread(known: &Known<'_>) -> u64 {
    let Some(socket) = known.socket else { return 0 };
    let Some(connection) = known.connection else { return socket.unread_bytes.into() };
    // What lay there when it was looked at may have been read since.
    let read_since = connection.last_read.and_then(Moment::us).is_some_and(|read| read > socket.last_seen_us);
    let lay = if read_since { 0 } else { u64::from(socket.unread_bytes) };
    // Both count from the connection's beginning where that was seen; the kernel counts a FIN as a byte.
    let http = connection.http.as_ref();
    let counted = matches!(connection.opened, Some(Moment::At(_)))
        || http.is_some_and(|http| http.missing_bytes.is_some() || http.chunks_ended.is_some());
    let received = socket.last.and_then(|tcp| tcp.bytes_received).filter(|_| counted).unwrap_or(0);
    let fin = u64::from(connection.fin_received.is_some());
    lay.max(received.saturating_sub(fin).saturating_sub(connection.read_bytes))
}

/// Whether the peer is on this host, and has not taken what lies in its socket.
pub(super) fn untaken(socket: &TcpSocket) -> bool {
    socket.peer_unread_bytes.is_some_and(|unread| unread > own_fin(socket))
}

/// The FIN of the own close, which the kernel counts as a byte, here and at the other end.
fn own_fin(socket: &TcpSocket) -> u32 {
    let closed =
        matches!(socket.state, TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck);
    u32::from(closed)
}

/// `TCP_INFO`, without the segment of the own FIN where that alone is under way for the first time.
fn without_fin(socket: &TcpSocket) -> Option<TcpInfo> {
    let tcp = socket.last?;
    let is_fin = own_fin(socket) > 0 && socket.unsent_bytes == 1 && tcp.retransmits == 0;
    Some(TcpInfo { unacked: if is_fin { 0 } else { tcp.unacked }, ..tcp })
}

/// What the kernel's table says of a handshake, where it gives no `TCP_INFO`.
fn of_table(socket: &TcpSocket) -> Option<TcpInfo> {
    (socket.state == TcpState::SynSent).then(|| TcpInfo {
        state: socket.state,
        retransmits: socket.timer.fired,
        total_retrans: socket.timer.fired.into(),
        ..TcpInfo::default()
    })
}

/// What is known of a connection that never was and is gone.
fn syn_sent(connection: &Connection) -> Option<TcpInfo> {
    connection.established.is_none().then(|| TcpInfo {
        state: TcpState::SynSent,
        total_retrans: connection.syn_retransmits,
        ..Default::default()
    })
}

pub(super) fn passed(name: LimitName, waited_us: u64) -> Failure {
    Failure::DeadlinePassed(Limit::new(name, Duration::from_micros(waited_us)))
}

/// The limit for the whole of a call: that its caller gave up then is all that is known of it.
pub(super) fn given_up(life_us: u64) -> Failure {
    let limit = Limit::new(LimitName::Total, Duration::from_micros(life_us));
    Failure::DeadlinePassed(limit.with_origin(Origin::Inferred))
}

/// From then to the end of the window; what was before counts from its beginning.
pub(super) fn since(moment: Moment, window_us: u64) -> Option<u64> {
    Some(window_us.saturating_sub(moment.us().unwrap_or(0)))
}

/// The same, to the end of the connection where that was seen.
pub(super) fn since_or_until(moment: Moment, known: &Known<'_>, window_us: u64) -> Option<u64> {
    let end = known.connection.and_then(|connection| connection.closed?.us()).unwrap_or(window_us);
    Some(end.saturating_sub(moment.us().unwrap_or(0)))
}

pub(super) const CLOSE_NOTIFY: u8 = 0;

pub(super) fn alert(code: u8) -> String {
    let name = match code {
        10 => "unexpected_message",
        20 => "bad_record_mac",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return format!("{code}"),
    };
    format!("{name} ({code})")
}

/// The errors of a call, sorted as the library sorts them.
pub(super) fn os(operation: &'static str, errno: i32) -> Failure {
    let (kind, text) = match errno {
        libc_errno::ECONNREFUSED => (OsFailure::Refused, "Connection refused"),
        libc_errno::ECONNRESET => (OsFailure::Reset, "Connection reset by peer"),
        libc_errno::EPIPE => (OsFailure::Reset, "Broken pipe"),
        libc_errno::ETIMEDOUT => (OsFailure::KernelTimeout, "Connection timed out"),
        libc_errno::EHOSTUNREACH => (OsFailure::Unreachable, "No route to host"),
        libc_errno::ENETUNREACH => (OsFailure::Unreachable, "Network is unreachable"),
        libc_errno::EADDRNOTAVAIL => (OsFailure::AddressNotAvailable, "Cannot assign requested address"),
        _ => (OsFailure::Other, "an error"),
    };
    Failure::Os { operation, kind, text: format!("{text} (os error {errno})") }
}

/// Numbers of Linux: a recording is judged on any platform.
pub(super) mod libc_errno {
    pub(in crate::judge::calls) const EPIPE: i32 = 32;
    pub(in crate::judge::calls) const EADDRNOTAVAIL: i32 = 99;
    pub(in crate::judge::calls) const ENETUNREACH: i32 = 101;
    pub(in crate::judge::calls) const ECONNRESET: i32 = 104;
    pub(in crate::judge::calls) const ETIMEDOUT: i32 = 110;
    pub(in crate::judge::calls) const ECONNREFUSED: i32 = 111;
    pub(in crate::judge::calls) const EHOSTUNREACH: i32 = 113;
}
