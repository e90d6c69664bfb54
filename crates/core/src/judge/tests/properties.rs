//! What holds for any facts, also for those that no kernel and no library would report.

use super::*;
use crate::facts::{DnsFailure, Untrusted};
use proptest::{option, prelude::*, sample::select, strategy::BoxedStrategy};

const STAGES: [Stage; 10] = [
    Stage::Queue,
    Stage::Resolve,
    Stage::Connect,
    Stage::Tls,
    Stage::Send,
    Stage::Wait,
    Stage::Receive,
    Stage::Handle,
    Stage::Stall,
    Stage::Named("mine"),
];

fn duration() -> BoxedStrategy<Duration> {
    prop_oneof![Just(Duration::ZERO), (0_u64..5_000_000).prop_map(Duration::from_micros), (0_u64..1 << 40).prop_map(ms)]
        .boxed()
}

/// Where nothing is added to an instant.
fn any_duration() -> BoxedStrategy<Duration> {
    prop_oneof![4 => duration(), 1 => Just(Duration::MAX)].boxed()
}

/// Small numbers meet the thresholds, large ones the overflows.
fn count() -> BoxedStrategy<u32> {
    prop_oneof![Just(0), 0_u32..4, 0_u32..3_000, any::<u32>()].boxed()
}

fn long() -> BoxedStrategy<u64> {
    prop_oneof![Just(0), 0_u64..3_000, any::<u64>()].boxed()
}

fn byte() -> BoxedStrategy<u8> {
    prop_oneof![Just(0), 0_u8..4, any::<u8>()].boxed()
}

fn tcp() -> BoxedStrategy<TcpInfo> {
    let state = select(vec![TcpState::SynSent, TcpState::Established, TcpState::Close, TcpState::Unknown]);
    let bytes = (byte(), byte(), byte());
    let counts = (count(), count(), count(), count(), count(), count(), count());
    let times = (count(), count(), count());
    let longs = (option::of(long()), option::of(long()), option::of(long()));
    let newer = (option::of(count()), option::of(count()), option::of(count()));
    (state, bytes, counts, times, longs, newer)
        .prop_map(|(state, bytes, counts, times, longs, newer)| TcpInfo {
            state,
            retransmits: bytes.0,
            probes: bytes.1,
            backoff: bytes.2,
            unacked: counts.0,
            sacked: counts.1,
            lost: counts.2,
            snd_mss: counts.3,
            pmtu: counts.4,
            total_retrans: counts.5,
            rtt_us: counts.6,
            last_data_sent_ms: times.0,
            last_data_recv_ms: times.1,
            last_ack_recv_ms: times.2,
            bytes_acked: longs.0,
            bytes_received: longs.1,
            rwnd_limited_us: longs.2,
            notsent_bytes: newer.0,
            rcv_ooopack: newer.1,
            snd_wnd: newer.2,
            ..TcpInfo::default()
        })
        .boxed()
}

fn socket() -> BoxedStrategy<SocketFacts> {
    let listener = option::of((count(), count()).prop_map(|(queued, backlog)| ListenerFacts { queued, backlog }));
    let other = option::of(
        (count(), count()).prop_map(|(unread_bytes, unacked_bytes)| PeerSocketFacts { unread_bytes, unacked_bytes }),
    );
    let peer = select(vec!["", PEER, "[::1]:80"]);
    (option::of(tcp()), option::of(count()), option::of(count()), listener, other, peer)
        .prop_map(|(tcp, unread_bytes, unsent_bytes, listener, peer_socket, peer)| SocketFacts {
            peer: peer.to_owned(),
            tcp,
            unread_bytes,
            unsent_bytes,
            cookie: None,
            listener,
            peer_socket,
            peer_unasked: false,
        })
        .boxed()
}

fn limit() -> BoxedStrategy<Limit> {
    (select(crate::Limits::NAMES.to_vec()), any_duration()).prop_map(|(name, value)| Limit::new(name, value)).boxed()
}

fn failure() -> BoxedStrategy<Failure> {
    let text = || "some text".to_owned();
    let kinds = vec![
        OsFailure::Refused,
        OsFailure::Reset,
        OsFailure::KernelTimeout,
        OsFailure::Unreachable,
        OsFailure::AddressNotAvailable,
        OsFailure::NoDescriptors,
        OsFailure::Other,
    ];
    let reasons = vec![
        DnsFailure::NoAnswer,
        DnsFailure::NoSuchName,
        DnsFailure::NoAddress,
        DnsFailure::ServerError,
        DnsFailure::Unusable,
        DnsFailure::InvalidName,
    ];
    let plain = vec![
        Failure::Closed,
        Failure::TlsAlert(text()),
        Failure::TlsUntrusted { reason: Untrusted::Other, text: text() },
        Failure::TlsNotTls(text()),
        Failure::TlsBroken(text()),
        Failure::Protocol(text()),
        Failure::RequestBody(text()),
        Failure::Usage(text()),
        Failure::Other(text()),
        Failure::Cancelled { reason: text(), at: None },
    ];
    prop_oneof![
        6 => limit().prop_map(Failure::DeadlinePassed),
        2 => limit().prop_map(Failure::DeadlinePast),
        2 => (select(kinds), select(vec!["connect", "read", "write", "socket"]))
            .prop_map(move |(kind, operation)| Failure::Os { operation, kind, text: text() }),
        1 => select(reasons).prop_map(move |reason| Failure::Dns { reason, text: text() }),
        3 => select(plain),
    ]
    .boxed()
}

/// Instants before the start of the call and after its end happen: clocks of two threads, a reused connection.
#[derive(Clone, Debug)]
struct Times {
    spans: Vec<(Stage, Duration, Duration)>,
    late_by: Duration,
    now: Duration,
    last_read: Option<Duration>,
}

#[expect(clippy::disallowed_methods, reason = "some instant to count from")]
fn timeline(times: &Times) -> (Timeline, Instant, Option<Instant>) {
    let start = Instant::now();
    let mut timeline = Timeline::new(start);
    let mut at = start;
    for (stage, duration, late) in &times.spans {
        timeline.begin(*stage, at, None);
        at += *duration;
        if !late.is_zero() {
            timeline.finish_late(at, *late, SpanOutcome::Done);
        }
    }
    (timeline, start + times.now, times.last_read.map(|read| start + read))
}

fn facts() -> BoxedStrategy<CallFacts> {
    let stage = select(STAGES.to_vec());
    let spans = prop::collection::vec((select(STAGES.to_vec()), duration(), duration()), 0..20);
    let times = (spans, any_duration(), duration(), option::of(duration()))
        .prop_map(|(spans, late_by, now, last_read)| Times { spans, late_by, now, last_read });
    let dns = option::of(
        (option::of(0_u32..4), option::of(0_u32..4), any::<bool>())
            .prop_map(|(queries, answers, truncated)| DnsFacts { queries, answers, truncated, ..DnsFacts::default() }),
    );
    let pool = option::of((0_usize..4, 0_usize..4).prop_map(|(in_use, limit)| PoolFacts {
        in_use,
        limit,
        waiting: usize::MAX,
        dialling: in_use,
        limit_is_global: limit == 2,
    }));
    let h2 = option::of((any::<bool>(), 0_usize..3).prop_map(|(streams_exhausted, window_blocked_bytes)| H2Facts {
        streams_exhausted,
        streams_in_use: usize::MAX,
        max_streams: 0,
        window_blocked_bytes,
    }));
    let flags = (any::<bool>(), any::<bool>());
    let exchange = (flags, (long(), long(), long()), option::of(long()), any_duration(), option::of(any_duration()))
        .prop_map(|(flags, bytes, body_expected, reader_away, reused_after)| ExchangeFacts {
            request_started: flags.0,
            waiting_for_request_body: flags.1,
            request_left: body_expected.filter(|_| flags.1),
            sender_took: reader_away,
            request_streams: flags.0,
            to_take: flags.1,
            half_ended: flags.0 && flags.1,
            request_bytes: bytes.0,
            response_bytes: bytes.1,
            body_bytes: bytes.2,
            body_expected,
            since_write: body_expected.filter(|_| flags.0),
            last_read: None,
            reader_away,
            reused_after,
        });
    (stage, failure(), times, (option::of(socket()), dns, pool, h2), exchange)
        .prop_map(|(stage, failure, times, (socket, dns, pool, h2), exchange)| {
            let (timeline, now, last_read) = timeline(&times);
            let exchange = ExchangeFacts { last_read, ..exchange };
            CallFacts { stage, failure, now, timeline, late_by: times.late_by, socket, dns, pool, h2, exchange }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_facts_are_judged(facts in facts()) {
        let judgement = judge(&facts);
        prop_assert!(!judgement.verdicts.is_empty());
        for verdict in judgement.verdicts.iter().chain(&judgement.advisories) {
            prop_assert!((0.0..=1.0).contains(&verdict.share), "{:?}", verdict);
            prop_assert!(!verdict.summary.is_empty() && !verdict.fix.is_empty(), "{:?}", verdict);
            prop_assert!(verdict.cause == Cause::Unknown || !verdict.evidence.is_empty(), "{:?}", verdict);
            prop_assert!(verdict.rejected.iter().all(|rejected| rejected.cause != verdict.cause), "{:?}", verdict);
            for evidence in &verdict.evidence {
                let mut names: Vec<_> = evidence.values.iter().map(|(name, _)| *name).collect();
                names.extend(["source", "text"]);
                names.sort_unstable();
                prop_assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", evidence);
            }
        }
    }

    /// What was not observed proves nothing.
    #[test]
    fn without_a_socket_the_peer_is_never_accused_for_certain(facts in facts()) {
        let facts = CallFacts { socket: None, ..facts };
        let Failure::DeadlinePassed(limit) = &facts.failure else { return Ok(()) };
        if limit.name == crate::LimitName::Total || limit.name == crate::LimitName::Attempt {
            return Ok(());
        }
        let peers = [Cause::ServerSlow, Cause::TlsPeerSilent, Cause::BodyStalled, Cause::PathLost, Cause::SynUnanswered];
        let (cause, confidence) = found(&facts);
        prop_assert!(!peers.contains(&cause) || confidence == Confidence::Low, "{} {}", cause, confidence);
    }
}
