//! Every cause of a call that the library can reach, from the facts of a typical case.

use std::collections::BTreeSet;

use super::*;
use crate::{
    cause::Group,
    facts::{DnsFailure, Untrusted},
};
use Confidence::{High, Low, Medium};
use Stage::{Connect, Queue, Receive, Resolve, Send, Tls, Wait};

struct Case {
    facts: CallFacts,
    cause: Cause,
    stage: &'static str,
    confidence: Confidence,
    /// The strongest alternative.
    rejected: Cause,
}

fn case(facts: CallFacts, cause: Cause, stage: &'static str, confidence: Confidence, rejected: Cause) -> Case {
    Case { facts, cause, stage, confidence, rejected }
}

fn dns_failure(reason: DnsFailure) -> CallFacts {
    failed(&[(Resolve, 20)], Failure::Dns { reason, text: "as the resolver put it".to_owned() })
}

fn before_the_request() -> Vec<Case> {
    let connecting = || call(&[(Connect, 1400)]);
    let greeting = || call(&[(Connect, 1), (Tls, 900)]);
    vec![
        case(call(&[(Resolve, 900)]).dns(Some(4), Some(0)), Cause::DnsNoAnswer, "resolve", High, Cause::DnsSlow),
        case(dns_failure(DnsFailure::NoAnswer), Cause::DnsNoAnswer, "resolve", High, Cause::DnsFailed),
        case(call(&[(Resolve, 900)]).dns(None, None), Cause::DnsNoAnswer, "resolve", Low, Cause::DnsSlow),
        case(call(&[(Resolve, 900)]).dns(Some(4), Some(1)), Cause::DnsSlow, "resolve", Medium, Cause::DnsNoAnswer),
        case(
            call_in_total(&[(Resolve, 700), (Connect, 1), (Wait, 299)]).dns(Some(2), Some(2)).healthy(),
            Cause::DnsSlow,
            "resolve",
            High,
            Cause::DnsNoAnswer,
        ),
        case(dns_failure(DnsFailure::NoSuchName), Cause::DnsFailed, "resolve", High, Cause::DnsNoAnswer),
        case(dns_failure(DnsFailure::NoAddress), Cause::DnsFailed, "resolve", High, Cause::DnsNoAnswer),
        case(dns_failure(DnsFailure::ServerError), Cause::DnsFailed, "resolve", High, Cause::DnsNoAnswer),
        case(dns_failure(DnsFailure::Unusable), Cause::DnsFailed, "resolve", High, Cause::DnsNoAnswer),
        case(dns_failure(DnsFailure::InvalidName), Cause::DnsFailed, "resolve", High, Cause::DnsNoAnswer),
        case(connecting().syn_sent(1), Cause::SynUnanswered, "connect", High, Cause::AcceptQueueFull),
        case(
            connecting().syn_sent(1).socket(|socket, _| socket.listener = FULL),
            Cause::AcceptQueueFull,
            "connect",
            High,
            Cause::SynUnanswered,
        ),
        case(
            call(&[(Connect, 1), (Wait, 1200)])
                .unacked(180, 2)
                .never_acked()
                .socket(|socket, _| socket.listener = FULL),
            Cause::AcceptQueueFull,
            "wait",
            High,
            Cause::PathLost,
        ),
        case(
            os(&[(Connect, 1)], "connect", OsFailure::Refused, "Connection refused (os error 111)"),
            Cause::ConnectRefused,
            "connect",
            High,
            Cause::SynUnanswered,
        ),
        case(
            os(&[(Connect, 1)], "connect", OsFailure::Unreachable, "No route to host (os error 113)"),
            Cause::Unreachable,
            "connect",
            High,
            Cause::SynUnanswered,
        ),
        case(
            call_in_total(&[(Connect, 1010), (Send, 1), (Wait, 389)]).socket(|_, tcp| tcp.total_retrans = 1),
            Cause::ConnectSlow,
            "connect",
            High,
            Cause::SynUnanswered,
        ),
        case(
            os(&[(Connect, 1)], "connect", OsFailure::AddressNotAvailable, "Cannot assign requested address").healthy(),
            Cause::PortsExhausted,
            "connect",
            High,
            Cause::Unreachable,
        ),
        case(
            os(&[(Connect, 1)], "socket", OsFailure::NoDescriptors, "Too many open files (os error 24)"),
            Cause::FdExhausted,
            "connect",
            High,
            Cause::ConnectRefused,
        ),
        case(greeting().healthy(), Cause::TlsPeerSilent, "tls", Medium, Cause::PathLost),
        case(greeting().received(130, 0, 30), Cause::TlsSlow, "tls", Medium, Cause::TlsPeerSilent),
        case(
            call_in_total(&[(Tls, 800), (Send, 1), (Wait, 199)]).healthy(),
            Cause::TlsSlow,
            "tls",
            High,
            Cause::TlsPeerSilent,
        ),
        case(
            failed(&[(Tls, 9)], Failure::TlsAlert("handshake_failure (40)".to_owned())),
            Cause::TlsRejected,
            "tls",
            High,
            Cause::TlsUntrusted,
        ),
        case(
            failed(
                &[(Tls, 9)],
                Failure::TlsUntrusted { reason: Untrusted::Expired, text: "it has expired".to_owned() },
            ),
            Cause::TlsUntrusted,
            "tls",
            High,
            Cause::TlsRejected,
        ),
        case(
            failed(&[(Tls, 9)], Failure::TlsNotTls("HTTP/1.1 400 Bad".to_owned())),
            Cause::TlsNotTls,
            "tls",
            High,
            Cause::TlsRejected,
        ),
        case(
            failed(&[(Tls, 9)], Failure::TlsBroken("received corrupt message".to_owned())).received(400, 0, 1),
            Cause::ProtocolError,
            "tls",
            Medium,
            Cause::TlsNotTls,
        ),
    ]
}

/// A closed window with bytes of ours before it.
fn zero_window(facts: CallFacts) -> CallFacts {
    facts.socket(|socket, tcp| {
        socket.unsent_bytes = Some(2_500_000);
        tcp.notsent_bytes = Some(2_500_000);
        tcp.snd_wnd = Some(0);
        tcp.probes = 1;
        tcp.backoff = 2;
        tcp.last_ack_recv_ms = 210;
    })
}

fn the_exchange() -> Vec<Case> {
    let sending = || call(&[(Connect, 1), (Send, 900)]);
    let waiting = || call(&[(Connect, 1), (Send, 1), (Wait, 1200)]);
    let receiving = || call(&[(Connect, 1), (Send, 1), (Wait, 20), (Receive, 1000)]);
    vec![
        case(zero_window(sending()), Cause::PeerNotReading, "send", High, Cause::PathLost),
        case(
            sending().healthy().exchange(|exchange| exchange.waiting_for_request_body = true),
            Cause::SenderSlow,
            "send",
            High,
            Cause::PeerNotReading,
        ),
        case(waiting().reused_after(60_000).unacked(180, 3), Cause::PathLost, "wait", High, Cause::ServerSlow),
        case(
            os(&[(Wait, 900_000)], "read", OsFailure::KernelTimeout, "Connection timed out (os error 110)").healthy(),
            Cause::PathLost,
            "wait",
            High,
            Cause::ServerSlow,
        ),
        case(
            waiting().never_acked().unacked(6_100, 2).socket(|_, tcp| tcp.sacked = 1),
            Cause::MtuBlackhole,
            "wait",
            High,
            Cause::PathLost,
        ),
        case(
            waiting().socket(|_, tcp| tcp.rcv_ooopack = Some(1)),
            Cause::MtuBlackhole,
            "wait",
            High,
            Cause::ServerSlow,
        ),
        case(sending().healthy().h2_window_blocked(), Cause::H2WindowBlocked, "send", High, Cause::PeerNotReading),
        case(
            os(&[(Wait, 5)], "read", OsFailure::Reset, "Connection reset by peer (os error 104)"),
            Cause::PeerReset,
            "wait",
            High,
            Cause::ClosedEarly,
        ),
        case(waiting().healthy(), Cause::ServerSlow, "wait", Medium, Cause::PathLost),
        case(waiting().other_end(0, 0), Cause::ServerSlow, "wait", High, Cause::PathLost),
        case(waiting().received(39, 0, 1190), Cause::HeadStalled, "wait", Medium, Cause::ServerSlow),
        case(failed(&[(Wait, 5)], Failure::Closed), Cause::ClosedEarly, "wait", High, Cause::PeerReset),
        case(receiving().received(4_060, 4_000, 990), Cause::BodyStalled, "receive", Medium, Cause::PathLost),
        case(
            call(&[(Receive, 990)]).healthy().exchange(|exchange| exchange.since_write = Some(0)),
            Cause::ServerSlow,
            "receive",
            Medium,
            Cause::PathLost,
        ),
        case(
            call(&[(Receive, 990)]).received(40, 40, 980).exchange(|exchange| exchange.since_write = Some(40)),
            Cause::BodyStalled,
            "receive",
            Medium,
            Cause::PathLost,
        ),
        case(
            call_in_total(&[(Wait, 5), (Receive, 1195)]).received(300, 240, 30),
            Cause::BodySlow,
            "receive",
            High,
            Cause::BodyStalled,
        ),
        case(
            call_in_total(&[(Wait, 5), (Receive, 1195)]).received(20_000, 16_384, 290).reader_away(1_150, 900_000),
            Cause::ReaderSlow,
            "receive",
            High,
            Cause::BodyStalled,
        ),
        case(
            failed(&[(Wait, 5)], Failure::Protocol("its status line is no status line".to_owned())),
            Cause::ProtocolError,
            "wait",
            High,
            Cause::ClosedEarly,
        ),
    ]
}

fn on_this_side() -> Vec<Case> {
    let queueing = || call(&[(Queue, 500)]);
    let streams = H2Facts { streams_exhausted: true, streams_in_use: 100, max_streams: 100, window_blocked_bytes: 0 };
    let cancelled = Failure::Cancelled { reason: "the client went away".to_owned(), at: Some("src/a.rs:7".to_owned()) };
    vec![
        case(queueing().pool(4, 4), Cause::PoolExhausted, "queue", High, Cause::ConnectSlow),
        case(queueing().pool(1, 4).h2(streams), Cause::H2StreamsExhausted, "queue", High, Cause::PoolExhausted),
        case(
            failed(&[(Queue, 0)], Failure::DeadlinePast(Limit::total(ms(500)))),
            Cause::BudgetSpent,
            "queue",
            High,
            Cause::ServerSlow,
        ),
        case(late_call(&[(Queue, 100)], 1500), Cause::LocalStall, "stall", Medium, Cause::ServerSlow),
        case(failed(&[(Wait, 70)], cancelled), Cause::CancelledByCaller, "wait", High, Cause::BudgetSpent),
    ]
}

fn all() -> Vec<Case> {
    before_the_request().into_iter().chain(the_exchange()).chain(on_this_side()).collect()
}

#[test]
fn each_case_has_its_cause_stage_confidence_and_alternative() {
    for case in all() {
        let found = verdict(&case.facts);
        let told = (found.cause, found.stage, found.confidence);
        assert_eq!(told, (case.cause, case.stage, case.confidence), "{found:#?}");
        assert!(found.rejected.iter().any(|rejected| rejected.cause == case.rejected), "{found:#?}");
    }
}

#[test]
fn every_verdict_has_evidence_a_fix_and_a_stage_of_its_cause() {
    for case in all() {
        let found = verdict(&case.facts);
        assert!(!found.evidence.is_empty(), "{found:#?}");
        assert!(found.evidence.iter().all(|evidence| !evidence.text.is_empty()), "{found:#?}");
        assert!(!found.fix.is_empty() && !found.summary.is_empty(), "{found:#?}");
        assert!(found.rejected.iter().all(|rejected| rejected.cause != found.cause), "{found:#?}");
        let stages = found.cause.entry().stages;
        assert!(stages.contains(&found.stage) || stages == ["any"], "{found:#?}");
    }
}

#[test]
fn every_cause_of_a_call_is_reached() {
    let reached: BTreeSet<Cause> = all().into_iter().map(|case| case.cause).collect();
    // Policy decides about a breaker before there are facts; `unknown` has its own tests.
    let elsewhere = [Cause::BreakerOpen, Cause::Unknown];
    for cause in Cause::ALL.iter().filter(|cause| cause.group() == Group::Call && !elsewhere.contains(cause)) {
        assert!(reached.contains(cause), "{cause}");
    }
}

#[test]
fn a_verdict_explains_the_share_of_its_stage() {
    let facts = call_in_total(&[(Resolve, 750), (Connect, 1), (Wait, 249)]).dns(Some(2), Some(2)).healthy();
    assert!((verdict(&facts).share - 0.75).abs() < 1e-9);
    let facts = call(&[(Connect, 100), (Wait, 300)]).healthy();
    assert!((verdict(&facts).share - 0.75).abs() < 1e-9);
}

#[test]
fn where_nothing_was_observed_the_answer_is_unknown() {
    for facts in [
        call(&[(Stage::Handle, 50)]),
        call(&[(Stage::Named("render"), 50)]),
        call(&[(Queue, 50)]),
        call(&[(Connect, 50)]),
        call(&[(Send, 50)]),
        failed(&[(Wait, 5)], Failure::Other("something new".to_owned())),
        failed(&[(Tls, 5)], Failure::TlsBroken("no cipher suites configured".to_owned())),
        os(&[(Connect, 1)], "setsockopt", OsFailure::Other, "Operation not permitted (os error 1)"),
        os(&[(Connect, 1)], "bind", OsFailure::AddressNotAvailable, "Cannot assign requested address (os error 99)"),
    ] {
        assert_eq!(found(&facts), (Cause::Unknown, Low), "{facts:?}");
    }
}

/// A stage that is none of a call's own may still be told: by the rest of a request that does not come, or by silence.
#[test]
fn a_stage_of_ones_own_that_waited_for_somebody() {
    let (head, tunnel) = (Stage::Named("head"), Stage::Named("tunnel"));
    let late = verdict(&call(&[(head, 150)]).exchange(|exchange| {
        exchange.waiting_for_request_body = true;
        exchange.request_bytes = 18;
    }));
    assert_eq!((late.cause, late.stage), (Cause::SenderSlow, "head"));
    assert!(late.summary.contains("18 bytes of its request in 150ms, and the head had no end"), "{late:?}");
    let gap = || Failure::DeadlinePassed(Limit::new(crate::LimitName::Gap, ms(1000)));
    let silent = verdict(&failed(&[(tunnel, 60_000)], gap()));
    assert_eq!(silent.cause, Cause::BodyStalled);
    assert_eq!(silent.summary, "nothing moved in the tunnel for 1s, in either direction");
    let away = failed(&[(tunnel, 60_000)], gap()).exchange(|exchange| exchange.reader_away = ms(1000));
    assert_eq!(found(&away), (Cause::ReaderSlow, Medium));
    let in_tunnel = || failed(&[(tunnel, 60_000)], gap());
    assert_eq!(found(&zero_window(in_tunnel())), (Cause::PeerNotReading, High));
    let ended = verdict(&in_tunnel().exchange(|exchange| exchange.half_ended = true));
    assert_eq!(ended.cause, Cause::BodyStalled);
    assert!(ended.summary.ends_with("nor ended its side of the tunnel, as the other had"), "{ended:?}");
}

/// A request that was still under way when its answer stopped: one that said its length owes the rest of it.
#[test]
fn a_request_without_an_end_that_was_answered() {
    let open = |left: Option<u64>| {
        let limit = Limit::new(crate::LimitName::Gap, ms(1000));
        let facts = failed(&[(Connect, 1), (Send, 1), (Wait, 5), (Receive, 1200)], Failure::DeadlinePassed(limit));
        facts.received(4_060, 4_000, 1_100).exchange(|exchange| {
            exchange.waiting_for_request_body = true;
            exchange.request_left = left;
        })
    };
    let owed = verdict(&open(Some(5)));
    assert_eq!((owed.cause, owed.confidence, owed.stage), (Cause::SenderSlow, Medium, "receive"));
    assert!(owed.summary.ends_with("did not send the last 5 bytes of its request within 1s, while it was answered"));
    let held_open = open(None).other_end(0, 0);
    assert_eq!(found(&held_open), (Cause::BodyStalled, Medium));
    assert!(why_not(&held_open, Cause::SenderSlow).starts_with("possible"));
    let ended = held_open.exchange(|exchange| exchange.waiting_for_request_body = false);
    assert_eq!(found(&ended), (Cause::BodyStalled, High));
    // A message of a stream that may wait for its answer.
    let stream = call(&[(Connect, 1), (Send, 900)]).exchange(|exchange| {
        (exchange.waiting_for_request_body, exchange.request_streams) = (true, true);
    });
    assert_eq!(found(&stream), (Cause::SenderSlow, Medium));
    assert!(why_not(&stream, Cause::ServerSlow).starts_with("possible"));
    // Whoever counted the gap saw which side did not take what was there.
    let gap = || Failure::DeadlinePassed(Limit::new(crate::LimitName::Gap, ms(1000)));
    let receiving =
        || failed(&[(Connect, 1), (Send, 1), (Wait, 5), (Receive, 60_000)], gap()).received(4_060, 4_000, 1_100);
    let away = receiving().reader_away(1000, 0);
    assert_eq!(found(&away).0, Cause::BodyStalled);
    assert_eq!(found(&away.exchange(|exchange| exchange.to_take = true)), (Cause::ReaderSlow, Medium));
    let full = zero_window(receiving()).exchange(|exchange| exchange.to_take = true);
    assert_eq!(found(&full), (Cause::PeerNotReading, High));
    let held = receiving().h2_window_blocked().exchange(|exchange| exchange.to_take = true);
    assert_eq!(found(&held).0, Cause::H2WindowBlocked);
    // What waits for a word is no whole request.
    let expects = call(&[(Connect, 1), (Send, 1), (Wait, 1200)]).healthy();
    let expects = verdict(&expects.exchange(|exchange| exchange.waiting_for_request_body = true));
    assert!(expects.summary.contains("does not ask for the body and did not answer"), "{expects:?}");
}

#[test]
fn what_the_caller_did_wrong_is_not_put_on_the_network() {
    for failure in [Failure::Usage("no host".to_owned()), Failure::RequestBody("disk full".to_owned())] {
        let found = verdict(&failed(&[(Send, 5)], failure));
        assert_eq!(found.cause, Cause::Unknown);
        assert!(found.fix.contains("network") && found.fix.as_ref() != Cause::Unknown.entry().fix[0], "{found:?}");
    }
}
