//! The connections of a report: what is known of each from the kernel's table of sockets and from its life.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use overdue_core::Stage;
use serde::Serialize;

use crate::{
    Observation,
    judge::{self, Judgement, Stall},
    observation::{Connection, Side, TcpSocket},
    timeline::{self, Phase},
};

/// Connections that a report lists at most; the rest is counted.
const LISTED: usize = 64;

/// One connection of a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionLine {
    /// The kernel's socket cookie: the key under which other tools know the same connection.
    pub cookie: u64,
    /// The other end.
    pub peer: Option<String>,
    /// The own end.
    pub local: Option<String>,
    /// Who opened it: `client`, `server`, `unknown`.
    pub side: &'static str,
    /// Its state when last seen, as `ss` calls it.
    pub state: &'static str,
    /// How long it has stalled, in which stage, and why.
    pub stall: Option<Stall>,
    /// The stages of its current or last exchange, in order. Empty where nothing of its life was seen.
    pub timeline: Vec<Phase>,
    /// The name that the peer was asked for, or looked up by: from TLS, from HTTP, or from DNS.
    pub name: Option<String>,
    /// `GET /path` of the last request that was looked at, the query left out.
    pub request: Option<String>,
    /// The status of its answer.
    pub status: Option<u16>,
    /// `http/1.1` or `h2`, where it was seen to be.
    pub protocol: Option<&'static str>,
    /// `TLSv1.3`, where it began with a handshake.
    pub tls: Option<String>,
    /// Bytes that the process read from it while watched.
    pub read_bytes: Option<u64>,
    /// Bytes that the process wrote to it while watched.
    pub written_bytes: Option<u64>,
    /// Bytes that arrived and nobody read, when last seen.
    pub unread_bytes: Option<u32>,
    /// Bytes written that the peer has not acknowledged, when last seen.
    pub unsent_bytes: Option<u32>,
    /// The kernel's estimate of the time there and back.
    pub rtt_us: Option<u32>,
    /// Segments sent again over its life, SYNs included; of its life while watched where the kernel's count was not read.
    pub retransmits: Option<u32>,
}

/// The first of all connections.
pub(super) struct Listed {
    /// The longest stalled first, then those of which a stage was seen.
    pub(super) lines: Vec<ConnectionLine>,
    pub(super) not_listed: u64,
    pub(super) stalled: u64,
}

/// What is known of one: the table has it, or its life was seen, or both.
#[derive(Clone, Copy, Default)]
struct Known<'a> {
    socket: Option<&'a TcpSocket>,
    life: Option<&'a Connection>,
}

pub(super) fn listed(seen: &Observation, judgement: &Judgement) -> Listed {
    let mut known: BTreeMap<u64, Known<'_>> = BTreeMap::new();
    for socket in seen.sockets.iter().flat_map(|sockets| &sockets.tcp) {
        known.entry(socket.cookie).or_default().socket = Some(socket);
    }
    for life in seen.connections.iter().flat_map(|connections| &connections.connections) {
        known.entry(life.cookie).or_default().life = Some(life);
    }
    let stalls = judge::stalls(seen, judgement);
    let mut stalls: HashMap<u64, Stall> = stalls.into_iter().map(|stall| (stall.cookie, stall)).collect();
    let stalled = known.keys().filter(|cookie| stalls.contains_key(cookie)).count() as u64;
    let mut all: Vec<(u64, Known<'_>)> = known.into_iter().collect();
    // One that failed at once has stalled for no time, and comes before those that have not stalled. Of these, those of
    // which something was seen come first.
    all.sort_by_cached_key(|(cookie, known)| {
        let stalled_us = stalls.get(cookie).map(|stall| stall.stalled_us);
        (Reverse(stalled_us), stages(*known, seen.window_us).is_empty(), *cookie)
    });
    let not_listed = all.len().saturating_sub(LISTED) as u64;
    all.truncate(LISTED);
    let lines = all.into_iter().map(|(cookie, known)| line(cookie, known, stalls.remove(&cookie), seen.window_us));
    Listed { lines: lines.collect(), not_listed, stalled }
}

fn line(cookie: u64, known: Known<'_>, stall: Option<Stall>, window_us: u64) -> ConnectionLine {
    let Known { socket, life } = known;
    let http = life.and_then(|life| life.http.as_ref());
    let tls = life.and_then(|life| life.tls.as_ref());
    let mut timeline = stages(known, window_us);
    if timeline.is_empty() {
        timeline.extend(socket.zip(stall.as_ref()).and_then(|(socket, stall)| stalled_stage(stall, socket, window_us)));
    }
    let resent_while_watched = life.map(|life| life.retransmits.saturating_add(life.syn_retransmits));
    ConnectionLine {
        cookie,
        peer: socket.map(|socket| socket.remote).or_else(|| life?.remote).map(|end| end.to_string()),
        local: socket.map(|socket| socket.local).or_else(|| life?.local).map(|end| end.to_string()),
        side: side(known),
        state: match (socket, life) {
            (Some(socket), _) => judge::state_text(socket.state),
            (None, Some(life)) if life.closed.is_some() => "CLOSED",
            (None, _) => "UNKNOWN",
        },
        stall,
        timeline,
        name: tls
            .and_then(|tls| tls.sni.clone())
            .or_else(|| http.and_then(|http| http.host.clone()))
            .or_else(|| Some(life?.resolved.as_ref()?.name.clone())),
        request: http.map(|http| http.request.clone()).filter(|request| !request.is_empty()),
        status: http.and_then(|http| http.status),
        protocol: match life {
            Some(life) if life.http2 => Some("h2"),
            _ => http.map(|_| "http/1.1"),
        },
        tls: tls.map(|tls| tls.version.map_or_else(|| "TLS".to_owned(), tls_version)),
        read_bytes: life.map(|life| life.read_bytes),
        written_bytes: life.map(|life| life.written_bytes),
        unread_bytes: socket.map(|socket| socket.unread_bytes),
        unsent_bytes: socket.map(|socket| socket.unsent_bytes),
        rtt_us: socket.and_then(|socket| socket.last).map(|info| info.rtt_us).filter(|rtt| *rtt > 0),
        retransmits: socket.and_then(|socket| socket.last).map(|info| info.total_retrans).max(resent_while_watched),
    }
}

fn stages(known: Known<'_>, window_us: u64) -> Vec<Phase> {
    known.life.map(|life| timeline::stages(life, window_us)).unwrap_or_default()
}

fn side(known: Known<'_>) -> &'static str {
    match (known.socket, known.life.map(|life| life.side)) {
        (Some(socket), _) if socket.inbound => "server",
        (Some(_), _) | (None, Some(Side::Client)) => "client",
        (None, Some(Side::Server)) => "server",
        (None, _) => "unknown",
    }
}

/// Without a life, what the judge found from the table alone: it waits, and has done so until it was last seen.
fn stalled_stage(stall: &Stall, socket: &TcpSocket, window_us: u64) -> Option<Phase> {
    const STAGES: [Stage; 9] = [
        Stage::Queue,
        Stage::Resolve,
        Stage::Connect,
        Stage::Tls,
        Stage::Send,
        Stage::Wait,
        Stage::Receive,
        Stage::Handle,
        Stage::Stall,
    ];
    let stage = STAGES.into_iter().find(|stage| stage.as_str() == stall.stage)?;
    let end_us = socket.last_seen_us.min(window_us);
    let duration_us = stall.stalled_us.min(end_us);
    let start_us = end_us - duration_us;
    (duration_us > 0).then_some(Phase { stage, start_us, duration_us, partial: true, inferred: true })
}

fn tls_version(number: u16) -> String {
    match number {
        0x0304 => "TLSv1.3".to_owned(),
        0x0303 => "TLSv1.2".to_owned(),
        0x0302 => "TLSv1.1".to_owned(),
        0x0301 => "TLSv1.0".to_owned(),
        0x0300 => "SSLv3".to_owned(),
        other => format!("TLS {other:#06x}"),
    }
}

#[cfg(test)]
mod tests {
    use overdue_core::facts::TcpState;

    use super::*;
    use crate::observation::{Connections, Moment, Sockets, TcpTimer, TlsHandshake};

    fn socket(cookie: u64, state: TcpState) -> TcpSocket {
        TcpSocket {
            fd: Some(7),
            in_state_us: 3_000_000,
            last_seen_us: 5_000_000,
            ..TcpSocket::new(cookie, "10.0.0.2:40000".parse().unwrap(), "10.0.0.7:443".parse().unwrap(), state)
        }
    }

    fn observation(tcp: Vec<TcpSocket>, connections: Vec<Connection>) -> Observation {
        Observation {
            window_us: 5_000_000,
            sockets: Some(Sockets { tcp, ..Sockets::default() }),
            connections: Some(Connections { connections, ..Connections::default() }),
            ..Observation::default()
        }
    }

    #[test]
    fn a_line_joins_the_table_and_the_life() {
        let life = Connection {
            cookie: 2,
            side: Side::Client,
            opened: Some(Moment::At(1000)),
            established: Some(Moment::At(2000)),
            syn_retransmits: 1,
            written_bytes: 517,
            first_write: Some(Moment::At(2000)),
            last_write: Some(Moment::At(2000)),
            tls: Some(TlsHandshake {
                client: true,
                hello: Some(Moment::At(2000)),
                sni: Some("api.test".to_owned()),
                version: Some(0x0304),
                ..TlsHandshake::default()
            }),
            ..Connection::default()
        };
        let seen = observation(vec![socket(1, TcpState::Established), socket(2, TcpState::Established)], vec![life]);
        let listed = listed(&seen, &Judgement::default());
        assert_eq!((listed.lines.len(), listed.not_listed, listed.stalled), (2, 0, 1));
        let line = &listed.lines[0];
        assert_eq!((line.cookie, line.name.as_deref(), line.tls.as_deref()), (2, Some("api.test"), Some("TLSv1.3")));
        assert_eq!((line.written_bytes, line.retransmits), (Some(517), Some(1)));
        let json = serde_json::to_value(&line.timeline).unwrap();
        assert_eq!(
            json[1],
            serde_json::json!({"stage": "tls", "start_us": 2000, "duration_us": 4_998_000, "partial": true, "inferred": false})
        );
        // Nothing of the other one's life was seen: what is not known is not zero.
        let other = &listed.lines[1];
        assert_eq!((other.cookie, other.written_bytes, other.retransmits, other.timeline.len()), (1, None, None, 0));
    }

    #[test]
    fn what_the_table_alone_tells_is_shown_as_inferred() {
        let mut connecting = socket(1, TcpState::SynSent);
        connecting.last = Some(overdue_core::facts::TcpInfo { total_retrans: 2, ..Default::default() });
        connecting.timer = TcpTimer { kind: crate::observation::TimerKind::Retransmit, expires_ms: 900, fired: 2 };
        let line = listed(&observation(vec![connecting], Vec::new()), &Judgement::default()).lines.remove(0);
        assert_eq!(line.stall.as_ref().map(|stall| stall.stage), Some("connect"), "{line:?}");
        let [phase] = line.timeline.as_slice() else { panic!("{line:?}") };
        assert_eq!((phase.stage, phase.partial, phase.inferred), (Stage::Connect, true, true));
        assert_eq!(phase.start_us + phase.duration_us, 5_000_000);
    }

    #[test]
    fn only_the_first_are_listed_and_all_are_counted() {
        let tcp = (0..100).map(|cookie| socket(cookie, TcpState::Established)).collect();
        let listed = listed(&observation(tcp, Vec::new()), &Judgement::default());
        assert_eq!((listed.lines.len(), listed.not_listed, listed.stalled), (LISTED, 36, 0));
    }
}
