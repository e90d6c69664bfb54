//! Calls that were on their way before the watch began: nobody saw what was said, and only the kernel's counters tell.

use overdue_core::{
    Cause, Confidence, Evidence, LimitName, Rejected, Source, Stage,
    facts::{TcpInfo, TcpState},
};

use super::{
    Known, Meant, Seen, Trouble, callers,
    facts::{facts, passed, untaken},
};
use crate::{
    Observation,
    judge::{
        count, diag, proc,
        sockets::peer_of,
        thresholds::{REQUEST_MAX, SETTLED_US},
        time, total,
    },
    observation::{GoroutineGroup, Hidden, Moment, Stack, TcpSocket},
};

/// A connection of the process from before the watch, on which all that was sent has arrived and nothing waits to be read.
struct Sent<'a> {
    socket: &'a TcpSocket,
    tcp: TcpInfo,
    sent: u64,
    received: u64,
    /// Since the last was sent.
    silent_us: u64,
}

impl<'a> Sent<'a> {
    fn of(known: &Known<'a>) -> Option<Self> {
        let opened = known.connection.and_then(|connection| connection.opened);
        let socket = known.socket.filter(|_| opened.is_none_or(|opened| opened == Moment::Before))?;
        let is_ours = !socket.inbound && socket.state == TcpState::Established;
        let tcp = socket.last.filter(|_| is_ours && socket.unread_bytes == 0 && socket.unsent_bytes == 0)?;
        let (sent, received) = (tcp.bytes_acked?.saturating_sub(1), tcp.bytes_received?);
        let silent_us = u64::from(tcp.last_data_sent_ms) * 1_000;
        (sent > 0 && silent_us >= SETTLED_US).then_some(Self { socket, tcp, sent, received, silent_us })
    }
}

/// A TLS handshake. Who waits on the connection tells that what was sent was a ClientHello, or its port does.
pub(super) fn handshake(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let Sent { socket, sent, received, silent_us, .. } = Sent::of(known)?;
    // What was seen of it says more.
    if known.connection.is_some_and(|connection| connection.tls.is_some() || connection.http.is_some()) {
        return None;
    }
    let shakes = |stack: &Stack| stack.functions().any(|name| HANDSHAKES.iter().any(|part| name.contains(part)));
    let thread = known.blocked.map(|(thread, _)| thread).filter(|thread| thread.stack.as_ref().is_some_and(shakes));
    let port = socket.remote.port();
    let unanswered = received == 0;
    let told = if let Some(thread) = thread {
        proc(format!("thread {} ({}) waits in a TLS handshake", thread.tid, thread.name)).with("tid", thread.tid)
    } else if unanswered && seen.all_shake_hands {
        Evidence::new(Source::Memory, "a goroutine waits in a TLS handshake, since the watch began")
    } else if unanswered && TLS_PORTS.contains(&port) {
        diag(format!(
            "{sent} bytes were sent before the watch began: nobody saw them, but at port {port} they are a ClientHello"
        ))
        .with("port", port)
    } else {
        return None;
    };
    let mut facts = facts(known, Stage::Tls, silent_us, passed(LimitName::Stage(Stage::Tls), silent_us));
    facts.exchange.response_bytes = received;
    let mut trouble = Trouble { unseen: false, ..Trouble::of(known, &facts, silent_us) };
    if told.source == Source::SockDiag {
        trouble.verdict.confidence = trouble.verdict.confidence.min(Confidence::Medium);
        let why = "possible: another protocol is spoken at that port, or its server speaks when it has news";
        trouble.verdict.rejected.push(Rejected { cause: Cause::ServerSlow, why: why.into() });
    }
    trouble.verdict.evidence.insert(0, told);
    Some(trouble)
}

/// Functions in which a thread shakes hands: OpenSSL and what is like it, Python, GnuTLS, mbed TLS, NSS, s2n, wolfSSL.
const HANDSHAKES: [&str; 8] = [
    "SSL_do_handshake",
    "SSL_connect",
    "SSLSocket_do_handshake",
    "gnutls_handshake",
    "mbedtls_ssl_handshake",
    "SSL_ForceHandshake",
    "s2n_negotiate",
    "wolfSSL_connect",
];

/// The same for a goroutine.
const GO_HANDSHAKE: [&str; 1] = ["crypto/tls.(*Conn).clientHandshake"];

/// Functions in which a goroutine waits for the answer to what it asked.
const GO_ANSWER: [&str; 3] = [
    "net/http.(*persistConn).roundTrip",
    "net/http.(*http2ClientConn).roundTrip",
    "google.golang.org/grpc.(*ClientConn).Invoke",
];

/// Ports at which the client begins with a ClientHello: HTTPS, mail, LDAP, DNS, FTP, IRC, SIP, AMQP and MQTT over TLS, and
/// two that are used for HTTPS.
const TLS_PORTS: [u16; 14] = [443, 465, 636, 853, 989, 990, 993, 994, 995, 5061, 5671, 6443, 8443, 8883];

pub(super) fn all_shake_hands(seen: &Observation) -> bool {
    all_wait_in(seen, &GO_HANDSHAKE)
}

pub(super) fn all_wait_for_answers(seen: &Observation) -> bool {
    all_wait_in(seen, &GO_ANSWER)
}

/// Whether goroutines have waited in one of those functions since the first look, no fewer than there are connections from
/// before the watch that got no answer at all: so each of these is waited for.
fn all_wait_in(seen: &Observation, functions: &[&str]) -> bool {
    let waits = |group: &&GoroutineGroup| group.stack.functions().any(|name| functions.contains(&name));
    let groups = seen.go.iter().flat_map(|go| &go.groups);
    let waiting = total(groups.filter(waits).map(|group| group.stayed));
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let unanswered = |socket: &&TcpSocket| {
        Sent::of(&Known { socket: Some(socket), ..Known::default() }).is_some_and(|sent| sent.received == 0)
    };
    waiting > 0 && waiting >= sockets.filter(unanswered).count() as u64
}

/// The last that passed was ours, a while ago, and has arrived.
pub(super) fn unanswered(seen: &Seen<'_>, known: &Known<'_>) -> Option<Trouble> {
    let Sent { socket, tcp, sent, received, silent_us } = Sent::of(known)?;
    // After an answer a client may have the last word, and wait for nothing: in HTTP/2 it most often has. Then only a
    // caller whose request came before it says that something is due.
    let calls = seen.had_asked(tcp.last_data_sent_ms);
    if received > 0 && (tcp.last_data_recv_ms <= tcp.last_data_sent_ms || calls == 0) {
        return None;
    }
    let facts = facts(known, Stage::Wait, silent_us, passed(LimitName::Stage(Stage::Wait), silent_us));
    let mut trouble = Trouble::of(known, &facts, silent_us);
    trouble.verdict.evidence.insert(
        0,
        diag(format!(
            "{sent} bytes were sent and acknowledged, the last {} ago, and {}: before the watch began, so what they ask{} is \
             not known",
            time(silent_us),
            if received == 0 { "none ever came back" } else { "none came back since" },
            if received == 0 { ", and whether they are a ClientHello," } else { "" },
        ))
        .with("silent_us", silent_us),
    );
    // Logs and metrics are sent without an answer, and look like this. What shows that something is held up: a peer that
    // does not even take what was sent, or a caller that waits; but a log is written for a caller, too, again and again.
    let untaken = untaken(socket);
    let wrote_on = socket.first.and_then(|tcp| tcp.bytes_acked).is_some_and(|acked| acked.saturating_sub(1) < sent);
    let goes_one_way = received == 0 && (wrote_on || sent > REQUEST_MAX);
    let relayed = !untaken && seen.is_relayed(socket);
    let awaited = received == 0 && seen.all_wait_for_answers;
    let asks_to_wait = received > 0 && super::waits::asks_to_wait(known);
    let doubt = if relayed && received == 0 {
        Some("possible: lines that are sent one way, as logs and metrics are, have no answer")
    } else if !untaken && !seen.is_handed_on(tcp.last_data_sent_ms) {
        Some("possible: what it asked was not seen, and may be to wait, for a job or for news")
    } else {
        None
    };
    if let Some(why) = doubt {
        trouble.verdict.confidence = trouble.verdict.confidence.min(Confidence::Medium);
        trouble.verdict.rejected.push(Rejected { cause: Cause::Unknown, why: why.into() });
    }
    trouble.meant = match untaken || awaited || calls > 0 && !goes_one_way {
        true if asks_to_wait => Meant::Asked,
        true if relayed && received > 0 => Meant::Relayed,
        true if untaken || awaited => Meant::No,
        true => Meant::Called,
        false => Meant::Unseen,
    };
    Some(trouble)
}

/// Connections on which an answer may have stopped half-way before the watch began, where callers wait and nothing tells
/// why. The kernel's counters say that something was received long ago, and not whether it was all: a connection that
/// lies idle until it is needed looks the same.
pub(in crate::judge) fn stopped_or_idle(seen: &Observation) -> Option<Hidden> {
    let callers = callers(seen).len();
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let silent_us = |socket: &TcpSocket| {
        let tcp = socket.last.filter(|tcp| tcp.bytes_received.is_some_and(|bytes| bytes > 0))?;
        let silent_us = u64::from(tcp.last_data_recv_ms) * 1_000;
        let all_taken = socket.unread_bytes == 0 && socket.unsent_bytes == 0;
        let is_ours = !socket.inbound && socket.state == TcpState::Established && all_taken;
        let before = silent_us >= seen.window_us.max(SETTLED_US);
        (is_ours && before && tcp.last_data_recv_ms <= tcp.last_data_sent_ms).then_some(silent_us)
    };
    let silent: Vec<(&TcpSocket, u64)> = sockets.filter_map(|socket| Some((socket, silent_us(socket)?))).collect();
    let (first, us) = silent.iter().min_by_key(|(_, us)| *us).filter(|_| callers > 0)?;
    Some(Hidden {
        what: "whether an answer stopped half-way before the watch began".to_owned(),
        why: format!(
            "callers of this process wait ({callers}), and the last bytes of an answer came before that on {}, from {} {} ago: \
             an idle connection looks the same",
            count(silent.len() as u64, "connection"),
            peer_of(first),
            time(*us),
        ),
        how: "watch while such calls begin, for longer: --for 60s".to_owned(),
    })
}
