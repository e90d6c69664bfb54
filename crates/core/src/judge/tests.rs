//! Calls as they were recorded, and what the judge makes of them.

mod causes;
mod look_alikes;
mod properties;

use std::time::{Duration, Instant};

use super::judge;
use crate::{
    Cause, Confidence, Limit, SpanOutcome, Stage, Timeline, Verdict,
    facts::{
        CallFacts, DnsFacts, ExchangeFacts, Failure, H2Facts, ListenerFacts, OsFailure, PeerSocketFacts, PoolFacts,
        SocketFacts, TcpInfo, TcpState,
    },
};

const PEER: &str = "192.0.2.7:443";
const FULL: Option<ListenerFacts> = Some(ListenerFacts { queued: 6, backlog: 5 });
const ROOM: Option<ListenerFacts> = Some(ListenerFacts { queued: 0, backlog: 5 });

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A call that went through these stages (milliseconds each) until the limit of the last one fired.
fn call(stages: &[(Stage, u64)]) -> CallFacts {
    let (last, value) = *stages.last().unwrap();
    ended(stages, ms(0), Failure::DeadlinePassed(Limit::stage(last, ms(value))))
}

/// The same under a limit for the whole.
fn call_in_total(stages: &[(Stage, u64)]) -> CallFacts {
    let total = stages.iter().map(|(_, ms)| ms).sum();
    ended(stages, ms(0), Failure::DeadlinePassed(Limit::total(ms(total))))
}

fn failed(stages: &[(Stage, u64)], failure: Failure) -> CallFacts {
    ended(stages, ms(0), failure)
}

/// As [`call`], but the own runtime noticed `late` after the limit.
fn late_call(stages: &[(Stage, u64)], late: u64) -> CallFacts {
    let (last, value) = *stages.last().unwrap();
    ended(stages, ms(late), Failure::DeadlinePassed(Limit::stage(last, ms(value))))
}

#[expect(clippy::disallowed_methods, reason = "some instant to count from")]
fn ended(stages: &[(Stage, u64)], late_by: Duration, failure: Failure) -> CallFacts {
    let start = Instant::now();
    let mut timeline = Timeline::new(start);
    let mut now = start;
    for (stage, duration) in stages {
        timeline.begin(*stage, now, None);
        now += ms(*duration);
    }
    now += late_by;
    timeline.finish_late(now, late_by, SpanOutcome::TimedOut);
    timeline.end(now, SpanOutcome::TimedOut);
    CallFacts {
        stage: stages.last().unwrap().0,
        failure,
        now,
        timeline,
        late_by,
        socket: None,
        dns: None,
        pool: None,
        h2: None,
        exchange: ExchangeFacts { request_started: true, request_bytes: 180, ..ExchangeFacts::default() },
    }
}

fn os(stages: &[(Stage, u64)], operation: &'static str, kind: OsFailure, text: &str) -> CallFacts {
    failed(stages, Failure::Os { operation, kind, text: text.to_owned() })
}

/// A new connection to another host on a healthy path: all that was sent is acknowledged, nothing has come.
fn healthy() -> SocketFacts {
    SocketFacts {
        peer: PEER.to_owned(),
        tcp: Some(TcpInfo {
            state: TcpState::Established,
            snd_mss: 1448,
            pmtu: 1500,
            rtt_us: 20_000,
            rto_us: 220_000,
            last_data_sent_ms: 900,
            last_data_recv_ms: 900,
            last_ack_recv_ms: 880,
            bytes_acked: Some(181),
            bytes_received: Some(0),
            notsent_bytes: Some(0),
            busy_us: Some(20_000),
            rwnd_limited_us: Some(0),
            sndbuf_limited_us: Some(0),
            rcv_ooopack: Some(0),
            snd_wnd: Some(64_240),
            ..TcpInfo::default()
        }),
        unread_bytes: Some(0),
        unsent_bytes: Some(0),
        cookie: Some(4097),
        listener: None,
        peer_socket: None,
        peer_unasked: false,
    }
}

impl CallFacts {
    fn socket(mut self, change: impl FnOnce(&mut SocketFacts, &mut TcpInfo)) -> Self {
        let mut socket = self.socket.take().unwrap_or_else(healthy);
        let mut tcp = socket.tcp.take().unwrap();
        change(&mut socket, &mut tcp);
        socket.tcp = Some(tcp);
        self.socket = Some(socket);
        self
    }

    fn healthy(self) -> Self {
        self.socket(|_, _| {})
    }

    /// The other end is on this host.
    fn other_end(self, unread_bytes: u32, unacked_bytes: u32) -> Self {
        self.socket(|socket, tcp| {
            socket.peer_socket = Some(PeerSocketFacts { unread_bytes, unacked_bytes });
            socket.listener = ROOM;
            tcp.rtt_us = 40;
        })
    }

    /// The SYN is out and was sent again so often.
    fn syn_sent(self, again: u8) -> Self {
        self.socket(|_, tcp| {
            *tcp = TcpInfo {
                state: TcpState::SynSent,
                unacked: 1,
                retransmits: again,
                backoff: again,
                total_retrans: again.into(),
                bytes_acked: Some(0),
                bytes_received: Some(0),
                ..TcpInfo::default()
            };
        })
    }

    /// So many bytes, in flight as segments, were sent again so often, and never acknowledged.
    fn unacked(self, bytes: u32, again: u8) -> Self {
        self.socket(|socket, tcp| {
            socket.unsent_bytes = Some(bytes);
            tcp.unacked = bytes.div_ceil(tcp.snd_mss).max(1);
            tcp.retransmits = again;
            tcp.backoff = again;
            tcp.total_retrans = again.into();
        })
    }

    /// Nothing of ours but the SYN was ever acknowledged.
    fn never_acked(self) -> Self {
        self.socket(|_, tcp| tcp.bytes_acked = Some(1))
    }

    fn exchange(mut self, change: impl FnOnce(&mut ExchangeFacts)) -> Self {
        change(&mut self.exchange);
        self
    }

    /// So much of the response came, the last of it so long ago.
    fn received(mut self, response: u64, body: u64, ago: u64) -> Self {
        self.exchange.response_bytes = response;
        self.exchange.body_bytes = body;
        self.exchange.body_expected = Some(100_000);
        self.exchange.last_read = self.now.checked_sub(ms(ago));
        self.socket(|_, tcp| {
            tcp.bytes_received = Some(response);
            tcp.last_data_recv_ms = u32::try_from(ago).unwrap();
        })
    }

    fn reader_away(mut self, away: u64, unread: u32) -> Self {
        self.exchange.reader_away = ms(away);
        self.socket(|socket, _| socket.unread_bytes = Some(unread))
    }

    fn reused_after(mut self, idle: u64) -> Self {
        self.exchange.reused_after = Some(ms(idle));
        self.socket(|_, tcp| {
            tcp.bytes_acked = Some(2_000);
            tcp.bytes_received = Some(9_000);
        })
    }

    fn dns(mut self, queries: Option<u32>, answers: Option<u32>) -> Self {
        self.dns = Some(DnsFacts {
            name: "api.test".to_owned(),
            servers: vec!["192.0.2.53:53".to_owned()],
            queries,
            answers,
            truncated: false,
        });
        self
    }

    fn pool(mut self, in_use: usize, limit: usize) -> Self {
        self.pool = Some(PoolFacts { in_use, limit, waiting: 3, dialling: 0, limit_is_global: false });
        self
    }

    fn h2(mut self, h2: H2Facts) -> Self {
        self.h2 = Some(h2);
        self
    }

    fn h2_window_blocked(self) -> Self {
        self.h2(H2Facts { streams_in_use: 1, max_streams: 100, window_blocked_bytes: 983_041, ..H2Facts::default() })
    }
}

/// The one verdict.
fn verdict(facts: &CallFacts) -> Verdict {
    let mut verdicts = judge(facts).verdicts;
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    verdicts.remove(0)
}

fn found(facts: &CallFacts) -> (Cause, Confidence) {
    let verdict = verdict(facts);
    (verdict.cause, verdict.confidence)
}

fn why_not(facts: &CallFacts, alternative: Cause) -> String {
    let verdict = verdict(facts);
    let rejected = verdict.rejected.iter().find(|rejected| rejected.cause == alternative);
    rejected.unwrap_or_else(|| panic!("{alternative} is not among {:?}", verdict.rejected)).why.to_string()
}
