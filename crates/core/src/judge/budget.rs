//! Limits for the whole call or attempt: what of them was gone before the stage in which they fired.

use std::time::Duration;

use super::{DOMINANT_SHARE, Finding, LATE_START_SHARE, dial, in_stage, local, path, peer, ran, share, tcp};
use crate::{
    Cause, Confidence, DurationText, Evidence, Limit, LimitName, Source, Stage,
    facts::{CallFacts, TcpInfo},
};

fn covers_the_whole(limit: &Limit) -> bool {
    matches!(limit.name, LimitName::Total | LimitName::Attempt) && !limit.value.is_zero()
}

/// A limit for the whole call fired, and a stage that had ended by then took most of it.
pub(super) fn spent_earlier(facts: &CallFacts, limit: &Limit) -> Option<Finding> {
    if !covers_the_whole(limit) {
        return None;
    }
    let (stage, spent) = facts
        .timeline
        .spans()
        .iter()
        .map(|span| span.stage)
        .filter(|stage| *stage != facts.stage && *stage != Stage::Stall)
        .map(|stage| (stage, facts.timeline.time_in(stage, facts.now)))
        .max_by_key(|(_, spent)| *spent)?;
    if spent.as_secs_f64() < DOMINANT_SHARE * limit.value.as_secs_f64() {
        return None;
    }
    let percent = share(spent, limit.value) * 100.0;
    let summary = |what: &str| {
        let (spent, left) = (DurationText(spent), DurationText(in_stage(facts)));
        format!("{what} only after {spent}, {percent:.0} % of {limit}; {} then had {left}", facts.stage)
    };
    let unexplained = |what: &str| {
        Finding::new(Cause::Unknown, stage, Confidence::Low, summary(what))
            .because(ran(facts, stage))
            .rejected(Cause::ServerSlow, "most of the limit was gone by then")
    };
    let tcp = tcp(facts);
    Some(match stage {
        Stage::Resolve => {
            let answered = facts.dns.as_ref().is_some_and(|dns| dns.answers.is_some_and(|answers| answers > 0));
            let confidence = if answered { Confidence::High } else { Confidence::Medium };
            Finding::new(Cause::DnsSlow, stage, confidence, summary("the name was resolved"))
                .because(ran(facts, stage))
                .and(dial::dns_evidence(facts))
                .rejected(Cause::DnsNoAnswer, "the name was resolved")
        }
        Stage::Connect => Finding::new(Cause::ConnectSlow, stage, Confidence::High, summary("the connection was up"))
            .because(ran(facts, stage))
            .and(tcp.filter(|tcp| tcp.total_retrans > 0).map(|tcp| {
                Evidence::new(Source::TcpInfo, format!("{} segments were sent again, SYNs included", tcp.total_retrans))
                    .with("retransmits_total", tcp.total_retrans)
            }))
            .rejected(Cause::SynUnanswered, "the SYN-ACK did come"),
        Stage::Tls => Finding::new(Cause::TlsSlow, stage, Confidence::High, summary("the handshake ended"))
            .because(ran(facts, stage))
            .rejected(Cause::TlsPeerSilent, "the handshake did end"),
        // A head that trickled, and an answer that was sent again, took as long.
        Stage::Wait => {
            let what = format!("the response head of {} was here", peer(facts));
            Finding::new(Cause::ServerSlow, stage, Confidence::Medium, summary(&what))
                .because(ran(facts, stage))
                .rejected(Cause::BodyStalled, "the limit was nearly gone when the body began")
        }
        Stage::Send => match tcp.filter(|tcp| window_took(facts, tcp, spent)) {
            Some(tcp) => {
                Finding::new(Cause::PeerNotReading, stage, Confidence::Medium, summary("the request was sent"))
                    .because(ran(facts, stage))
                    .because(path::window_evidence(tcp))
                    .rejected(Cause::PathLost, "the peer acknowledged everything in the end")
            }
            None if share(facts.exchange.sender_took, spent) >= DOMINANT_SHARE => {
                let took = facts.exchange.sender_took;
                Finding::new(Cause::SenderSlow, stage, Confidence::High, summary("the request was sent"))
                    .because(ran(facts, stage))
                    .because(
                        Evidence::new(Source::Timeline, format!("{} of that waited for its body", DurationText(took)))
                            .with("sender_took_us", took.as_micros()),
                    )
                    .rejected(Cause::PeerNotReading, "what was there of the request was taken")
            }
            None => unexplained("the request was sent"),
        },
        Stage::Queue => match facts.pool.filter(|pool| pool.in_use >= pool.limit) {
            Some(pool) => {
                Finding::new(Cause::PoolExhausted, stage, Confidence::High, summary("a connection was there"))
                    .because(ran(facts, stage))
                    .because(local::pool_evidence(pool))
                    .rejected(Cause::ServerSlow, "the limit was nearly gone when the request was sent")
            }
            None => unexplained("a connection was there"),
        },
        Stage::Receive | Stage::Handle | Stage::Stall | Stage::Named(_) => unexplained(&format!("{stage} ended")),
    })
}

/// The kernel counts from the start of the connection, so only a new one tells about this call.
fn window_took(facts: &CallFacts, tcp: &TcpInfo, spent: Duration) -> bool {
    let limited = Duration::from_micros(tcp.rwnd_limited_us.unwrap_or(0));
    facts.exchange.reused_after.is_none() && share(limited, spent) >= DOMINANT_SHARE
}

/// A limit for the whole fired, and this attempt had hardly any of it. What was only slow is not to blame then: the
/// time went elsewhere. What the kernel proves (a lost path, a closed window, a full queue) stays.
pub(super) fn begun_late(facts: &CallFacts, limit: &Limit, found: Finding) -> Finding {
    let timeline = &facts.timeline;
    let measured = !timeline.spans().is_empty() && timeline.dropped() == 0;
    if !covers_the_whole(limit) || !measured || !only_slow(&found) {
        return found;
    }
    let outside = timeline.unaccounted(facts.now);
    let had = timeline.total(facts.now).saturating_sub(outside);
    if had.as_secs_f64() >= LATE_START_SHARE * limit.value.as_secs_f64() {
        return found;
    }
    let alternative = if found.cause == Cause::Unknown { Cause::ServerSlow } else { found.cause };
    Finding::new(
        Cause::BudgetSpent,
        facts.stage,
        Confidence::Medium,
        format!(
            "{limit} left {} for this: it was in {} when the limit fired, {} had passed outside of its stages",
            DurationText(had),
            facts.stage,
            DurationText(limit.value.saturating_sub(had)),
        ),
    )
    .explains(outside)
    .because(
        Evidence::new(Source::Timeline, format!("the stages of this attempt had {} of the limit", DurationText(had)))
            .with("stages_us", had.as_micros())
            .with("limit_us", limit.value.as_micros()),
    )
    .and(found.evidence)
    .rejected(alternative, "it had too little of the limit to be called slow")
}

fn only_slow(found: &Finding) -> bool {
    match found.cause {
        Cause::DnsNoAnswer
        | Cause::DnsSlow
        | Cause::ConnectSlow
        | Cause::TlsPeerSilent
        | Cause::TlsSlow
        | Cause::SenderSlow
        | Cause::ServerSlow
        | Cause::HeadStalled
        | Cause::BodyStalled
        | Cause::BodySlow
        | Cause::PoolExhausted
        | Cause::H2StreamsExhausted
        | Cause::Unknown => true,
        Cause::SynUnanswered => found.confidence < Confidence::High,
        _ => false,
    }
}

/// The deadline had passed before there was anything to blame.
pub(super) fn past(facts: &CallFacts, limit: &Limit) -> Finding {
    let stage = facts.stage;
    let (nothing, why) = if facts.exchange.request_started {
        ("", "it had no time left to answer in")
    } else {
        (": nothing was sent", "the server was never asked")
    };
    Finding::new(
        Cause::BudgetSpent,
        stage,
        Confidence::High,
        format!("{limit} had passed before {stage} began{nothing}"),
    )
    .explains(facts.timeline.unaccounted(facts.now))
    .because(
        Evidence::new(Source::Context, format!("no time was left when {stage} was to begin"))
            .with("limit_us", limit.value.as_micros())
            .with("request_bytes", facts.exchange.request_bytes),
    )
    .and((!facts.timeline.spans().is_empty()).then(|| local::breakdown(facts)))
    .rejected(Cause::ServerSlow, why)
}
