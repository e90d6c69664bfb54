//! Causes before the request: resolve, connect, tls.

use std::time::Duration;

use super::{Finding, errno, in_stage, path, peer, tcp};
use crate::{
    Cause, Confidence, DurationText, Evidence, Source, Stage,
    facts::{CallFacts, DnsFacts, DnsFailure, TcpState},
};

pub(super) fn dns_evidence(facts: &CallFacts) -> Option<Evidence> {
    let dns = facts.dns.as_ref()?;
    let servers = if dns.servers.is_empty() { "the system resolver".to_owned() } else { dns.servers.join(", ") };
    let count = |n: Option<u32>, what: &str| n.map_or(format!("{what} not visible"), |n| format!("{n} {what}"));
    let text = format!(
        "{}: {}, {} ({servers}){}",
        dns.name,
        count(dns.queries, "queries sent"),
        count(dns.answers, "answers received"),
        if dns.truncated { ", an answer was truncated" } else { "" }
    );
    let mut evidence = Evidence::new(Source::Dns, text);
    for (name, count) in [("queries", dns.queries), ("answers", dns.answers)] {
        if let Some(count) = count {
            evidence = evidence.with(name, count);
        }
    }
    Some(evidence)
}

fn name(facts: &CallFacts) -> &str {
    facts.dns.as_ref().map_or("the name", |dns| dns.name.as_str())
}

pub(super) fn resolve(facts: &CallFacts) -> Finding {
    let took = DurationText(in_stage(facts));
    match facts.dns.as_ref() {
        Some(DnsFacts { answers: Some(0), queries: Some(queries), .. }) if *queries > 0 => Finding::new(
            Cause::DnsNoAnswer,
            Stage::Resolve,
            Confidence::High,
            format!("no DNS server answered for {} within {took} ({queries} queries sent)", name(facts)),
        )
        .and(dns_evidence(facts))
        .rejected(Cause::DnsSlow, "not one answer had come when the limit fired"),
        Some(DnsFacts { answers: Some(answers), truncated, .. }) if *answers > 0 => Finding::new(
            Cause::DnsSlow,
            Stage::Resolve,
            Confidence::Medium,
            format!(
                "DNS answers for {} came, but no usable address within {took}{}",
                name(facts),
                if *truncated { " (a truncated answer made the resolver ask again over TCP)" } else { "" }
            ),
        )
        .and(dns_evidence(facts))
        .rejected(Cause::DnsNoAnswer, "some answers did come"),
        _ => Finding::new(
            Cause::DnsNoAnswer,
            Stage::Resolve,
            Confidence::Medium,
            format!("the resolver gave no answer for {} within {took}", name(facts)),
        )
        .because(
            Evidence::new(Source::Timeline, format!("resolve ran for {took}"))
                .with("duration_us", in_stage(facts).as_micros()),
        )
        .and(dns_evidence(facts))
        .rejected(Cause::DnsSlow, "the resolver does not show whether any answer came"),
    }
}

pub(super) fn dns_failed(facts: &CallFacts, reason: DnsFailure, text: &str) -> Finding {
    let name = name(facts);
    let said = Evidence::new(Source::Dns, text.to_owned());
    if reason == DnsFailure::NoAnswer {
        return Finding::new(
            Cause::DnsNoAnswer,
            Stage::Resolve,
            Confidence::High,
            format!("no DNS server answered for {name}"),
        )
        .because(said)
        .and(dns_evidence(facts))
        .rejected(Cause::DnsFailed, "no server said anything at all");
    }
    let (what, fix) = match reason {
        DnsFailure::NoSuchName => {
            ("the name does not exist (NXDOMAIN)", "Check the name for a typo and the search domains in /etc/resolv.conf.")
        }
        DnsFailure::NoAddress => {
            ("the name exists and has no address", "Add an A or AAAA record, or ask for the name that has one.")
        }
        DnsFailure::ServerError => {
            ("the DNS server answered with an error", "Look at the DNS server's own log: it could not or would not answer.")
        }
        DnsFailure::InvalidName => ("it is no valid host name", "Correct the host in the URL."),
        DnsFailure::NoAnswer | DnsFailure::Unusable => (
            "the answers could not be used",
            "See what the server answers (dig +tcp NAME @SERVER): large answers need DNS over TCP.",
        ),
    };
    Finding::new(Cause::DnsFailed, Stage::Resolve, Confidence::High, format!("{name} has no address: {what}"))
        .because(said)
        .and(dns_evidence(facts))
        .fix(fix)
        .rejected(Cause::DnsNoAnswer, "a server did answer")
}

/// The connect limit fired, or the kernel gave up.
pub(super) fn connect(facts: &CallFacts) -> Finding {
    let took = in_stage(facts);
    let listener = facts.socket.as_ref().and_then(|socket| socket.listener);
    let syn = tcp(facts).map(|tcp| {
        Evidence::new(
            Source::TcpInfo,
            format!(
                "{}, SYN sent again {} times, no answer, no error",
                if tcp.state == TcpState::SynSent { "SYN_SENT" } else { "no handshake" },
                tcp.retransmits.max(u8::try_from(tcp.total_retrans).unwrap_or(u8::MAX)),
            ),
        )
        .with("retransmits", tcp.total_retrans)
    });
    if let Some(listener) = listener.filter(|listener| listener.is_full()) {
        return Finding::new(
            Cause::AcceptQueueFull,
            Stage::Connect,
            Confidence::High,
            format!(
                "{} does not accept: its queue is full ({} waiting, backlog {}), so the kernel drops our SYN",
                peer(facts),
                listener.queued,
                listener.backlog
            ),
        )
        .because(path::listener_evidence(listener.queued, listener.backlog))
        .and(syn)
        .rejected(Cause::SynUnanswered, "the listener is on this host and its queue is full");
    }
    let repeated = tcp(facts).is_some_and(|tcp| tcp.total_retrans > 0 || tcp.retransmits > 0);
    let Some(syn) = syn else {
        return Finding::new(
            Cause::Unknown,
            Stage::Connect,
            Confidence::Low,
            format!("no connection to {} after {}", peer(facts), DurationText(took)),
        )
        .rejected(Cause::SynUnanswered, "the socket's state could not be read here");
    };
    let finding = Finding::new(
        Cause::SynUnanswered,
        Stage::Connect,
        if repeated { Confidence::High } else { Confidence::Medium },
        format!("{} did not answer our SYN for {}: no SYN-ACK, no RST, no ICMP", peer(facts), DurationText(took)),
    )
    .because(syn);
    match listener {
        Some(listener) => finding
            .because(path::listener_evidence(listener.queued, listener.backlog))
            .rejected(Cause::AcceptQueueFull, "the listener on this host has room in its queue: a filter drops the SYN"),
        None if repeated => finding.rejected(
            Cause::AcceptQueueFull,
            "the listener is not on this host: its queue cannot be seen from here (there: ss -ltn, nstat TcpExtListenOverflows)",
        ),
        None => finding.rejected(
            Cause::ConnectSlow,
            "the limit fired before the kernel's first retransmission (1 s): a slow path looks the same",
        ),
    }
}

pub(super) fn refused(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    Finding::new(
        Cause::ConnectRefused,
        facts.stage,
        Confidence::High,
        format!("{} refused the connection: the host is up, nothing listens there (or a firewall rejects)", peer(facts)),
    )
    .because(errno(operation, text))
    .rejected(Cause::SynUnanswered, "an answer came at once: RST")
}

pub(super) fn unreachable(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    Finding::new(Cause::Unreachable, facts.stage, Confidence::High, format!("there is no way to {}: {text}", peer(facts)))
        .because(errno(operation, text))
        .rejected(Cause::SynUnanswered, "the kernel or a router said that there is no way")
}

pub(super) fn ports_exhausted(operation: &'static str, text: &str) -> Finding {
    Finding::new(
        Cause::PortsExhausted,
        Stage::Connect,
        Confidence::High,
        "no local port is left for this destination",
    )
    .because(errno(operation, text))
    .rejected(Cause::Unreachable, "the kernel did not even choose a local port: EADDRNOTAVAIL")
}

pub(super) fn tls(facts: &CallFacts) -> Finding {
    let bytes = facts.exchange.response_bytes;
    let took = in_stage(facts);
    if let Some(finding) = path::blocked(facts) {
        return finding;
    }
    let (confidence, evidence) = path::silence(facts);
    if bytes == 0 {
        return Finding::new(
            Cause::TlsPeerSilent,
            Stage::Tls,
            confidence,
            format!("{} took our ClientHello and said nothing for {}", peer(facts), DurationText(took)),
        )
        .and(evidence)
        .rejected(Cause::PathLost, "the ClientHello was acknowledged: the way there works")
        .rejected(Cause::TlsSlow, "not one byte of a handshake came");
    }
    let pause = facts.exchange.last_read.map_or(Duration::ZERO, |at| facts.now.saturating_duration_since(at));
    Finding::new(
        Cause::TlsSlow,
        Stage::Tls,
        confidence.max(crate::Confidence::Medium),
        format!(
            "{} sent {bytes} bytes of the handshake in {}, the last {} ago",
            peer(facts),
            DurationText(took),
            DurationText(pause)
        ),
    )
    .because(
        Evidence::new(Source::Tls, format!("{bytes} bytes of the peer's handshake were read"))
            .with("handshake_bytes", bytes),
    )
    .and(evidence)
    .rejected(Cause::TlsPeerSilent, "handshake bytes did come")
}

pub(super) fn tls_rejected(alert: &str) -> Finding {
    Finding::new(
        Cause::TlsRejected,
        Stage::Tls,
        Confidence::High,
        format!("the peer refused the handshake with the alert {alert}"),
    )
    .because(Evidence::new(Source::Tls, format!("fatal alert received: {alert}")))
    .rejected(Cause::TlsUntrusted, "the peer refused us; we did not refuse its certificate")
}

pub(super) fn tls_untrusted(why: &str) -> Finding {
    Finding::new(
        Cause::TlsUntrusted,
        Stage::Tls,
        Confidence::High,
        format!("the peer's certificate does not verify: {why}"),
    )
    .because(Evidence::new(Source::Tls, format!("certificate verification: {why}")))
    .rejected(Cause::TlsRejected, "we refused the peer; it sent no alert")
}

pub(super) fn tls_not_tls(seen: &str) -> Finding {
    Finding::new(
        Cause::TlsNotTls,
        Stage::Tls,
        Confidence::High,
        format!("the peer does not speak TLS here: it answered {seen:?}"),
    )
    .because(Evidence::new(Source::Tls, format!("first bytes received: {seen:?}")))
    .rejected(Cause::TlsRejected, "what came is no TLS record, so no alert either")
}

pub(super) fn tls_broken(text: &str) -> Finding {
    Finding::new(Cause::ProtocolError, Stage::Tls, Confidence::High, format!("the peer broke the TLS handshake: {text}"))
        .because(Evidence::new(Source::Tls, text.to_owned()))
        .rejected(Cause::TlsNotTls, "TLS records did come")
}
