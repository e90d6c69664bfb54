//! Causes before the request: resolve, connect, tls.

use super::{Finding, SHORT_SILENCE, errno, exchange, in_stage, local, path, peer, ran, tcp};
use crate::{
    Cause, Confidence, DurationText, Evidence, Source, Stage,
    facts::{CallFacts, DnsFacts, DnsFailure, TcpState, Untrusted},
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
        Some(DnsFacts { queries: Some(0), .. }) => Finding::new(
            Cause::Unknown,
            Stage::Resolve,
            Confidence::Low,
            format!("{} was not resolved within {took}, and no query had been sent", name(facts)),
        )
        .because(ran(facts, Stage::Resolve))
        .and(dns_evidence(facts))
        .rejected(Cause::DnsNoAnswer, "no DNS server had been asked"),
        Some(DnsFacts { answers: Some(0), queries: Some(queries), .. }) => Finding::new(
            Cause::DnsNoAnswer,
            Stage::Resolve,
            if in_stage(facts) < SHORT_SILENCE { Confidence::Medium } else { Confidence::High },
            format!("no DNS server answered for {} within {took} ({queries} queries sent)", name(facts)),
        )
        .and(dns_evidence(facts))
        .rejected(Cause::DnsSlow, "not one answer had come when the limit fired"),
        Some(DnsFacts { answers: Some(answers), truncated, .. }) if *answers > 0 => Finding::new(
            Cause::DnsSlow,
            Stage::Resolve,
            Confidence::Medium,
            format!(
                "DNS answers for {} came, but the lookup was not complete within {took}{}",
                name(facts),
                if *truncated { " (a truncated answer made the resolver ask again over TCP)" } else { "" }
            ),
        )
        .and(dns_evidence(facts))
        .rejected(Cause::DnsNoAnswer, "some answers did come"),
        // The system's resolver hides what it does.
        _ => Finding::new(
            Cause::DnsNoAnswer,
            Stage::Resolve,
            Confidence::Low,
            format!("the resolver gave no answer for {} within {took}", name(facts)),
        )
        .because(ran(facts, Stage::Resolve))
        .and(dns_evidence(facts))
        .rejected(Cause::DnsSlow, "possible: the resolver does not show whether any answer came"),
    }
}

pub(super) fn dns_failed(facts: &CallFacts, reason: DnsFailure, text: &str) -> Finding {
    let name = name(facts);
    let said = Evidence::new(Source::Dns, text.to_owned());
    let failed = |what: &str, fix| {
        Finding::new(Cause::DnsFailed, Stage::Resolve, Confidence::High, format!("{name} was not resolved: {what}"))
            .because(said.clone())
            .and(dns_evidence(facts))
            .fix(fix)
    };
    let answered = "a server did answer";
    match reason {
        DnsFailure::NoAnswer => Finding::new(
            Cause::DnsNoAnswer,
            Stage::Resolve,
            Confidence::High,
            format!("no DNS server answered for {name}"),
        )
        .because(said)
        .and(dns_evidence(facts))
        .rejected(Cause::DnsFailed, "no server said anything at all"),
        DnsFailure::NoSuchName => failed(
            "the name does not exist (NXDOMAIN)",
            "Check the name for a typo and the search domains in /etc/resolv.conf.",
        )
        .rejected(Cause::DnsNoAnswer, answered),
        DnsFailure::NoAddress => {
            failed("the name exists and has no address", "Add an A or AAAA record, or ask for the name that has one.")
                .rejected(Cause::DnsNoAnswer, answered)
        }
        DnsFailure::ServerError => failed(
            "the DNS server answered with an error",
            "Look at the DNS server's own log: it could not or would not answer.",
        )
        .rejected(Cause::DnsNoAnswer, answered),
        DnsFailure::Unusable => failed(
            "the answers could not be used",
            "See what the server answers (dig +tcp NAME @SERVER): large answers need DNS over TCP.",
        )
        .rejected(Cause::DnsNoAnswer, answered),
        DnsFailure::InvalidName => failed("it is no valid host name", "Correct the host in the URL.")
            .rejected(Cause::DnsNoAnswer, "no server had to be asked"),
    }
}

/// The connect limit fired, or the kernel gave up (`gave_up`).
pub(super) fn connect(facts: &CallFacts, gave_up: Option<Evidence>) -> Finding {
    let waited = in_stage(facts);
    let took = DurationText(waited);
    let listener = facts.socket.as_ref().and_then(|socket| socket.listener);
    let tcp = tcp(facts);
    if let Some(up) = tcp.filter(|tcp| tcp.state == TcpState::Established) {
        return Finding::new(
            Cause::ConnectSlow,
            Stage::Connect,
            Confidence::Medium,
            format!("the connection to {} came up just when the limit fired, after {took}", peer(facts)),
        )
        .because(
            Evidence::new(Source::TcpInfo, format!("ESTABLISHED, {} segments sent again", up.total_retrans))
                .with("retransmits_total", up.total_retrans),
        )
        .because(ran(facts, Stage::Connect))
        .rejected(Cause::SynUnanswered, "the SYN-ACK did come");
    }
    let repeats = tcp.map_or(0, |tcp| tcp.total_retrans.max(tcp.retransmits.into()));
    let syn = tcp.map(|tcp| {
        let state = if tcp.state == TcpState::SynSent { "SYN_SENT" } else { "no handshake" };
        Evidence::new(Source::TcpInfo, format!("{state}, SYN sent again {repeats} times, no answer"))
            .with("retransmits", repeats)
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
        .because(path::listener_evidence(listener))
        .and(syn)
        .and(gave_up)
        .rejected(Cause::SynUnanswered, "the listener is on this host and its queue is full");
    }
    if syn.is_none() && gave_up.is_none() {
        return Finding::new(
            Cause::Unknown,
            Stage::Connect,
            Confidence::Low,
            format!("no connection to {} after {took}", peer(facts)),
        )
        .because(ran(facts, Stage::Connect))
        .rejected(Cause::SynUnanswered, "possible: the socket's state could not be read here");
    }
    let repeated = repeats > 0 || gave_up.is_some();
    let confidence = if repeated || listener.is_some() {
        Confidence::High
    } else if waited < SHORT_SILENCE {
        Confidence::Low
    } else {
        Confidence::Medium
    };
    let finding = Finding::new(
        Cause::SynUnanswered,
        Stage::Connect,
        confidence,
        format!("{} did not answer our SYN for {took}: no SYN-ACK, no RST, no ICMP error", peer(facts)),
    )
    .and(syn)
    .and(gave_up);
    match listener {
        Some(listener) => finding.because(path::listener_evidence(listener)).rejected(
            Cause::AcceptQueueFull,
            "the listener on this host has room in its queue: a filter drops the SYN",
        ),
        None if repeated => finding.rejected(
            Cause::AcceptQueueFull,
            "no listener is seen on this host: a queue elsewhere cannot be seen from here \
             (there: ss -ltn, nstat TcpExtListenOverflows)",
        ),
        None => finding.rejected(
            Cause::ConnectSlow,
            "the limit fired before the kernel's first retransmission (1 s): a slow path looks the same",
        ),
    }
}

/// A Unix socket tells at once what TCP only shows by silence.
pub(super) fn queue_full(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    Finding::new(
        Cause::AcceptQueueFull,
        facts.stage,
        Confidence::High,
        format!("{} does not accept: its queue is full", peer(facts)),
    )
    .because(errno(operation, text))
    .rejected(Cause::ConnectRefused, "something listens there")
}

pub(super) fn refused(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    if peer(facts).starts_with('/') {
        return Finding::new(
            Cause::ConnectRefused,
            facts.stage,
            Confidence::High,
            format!("nothing listens on the Unix socket {}", peer(facts)),
        )
        .because(errno(operation, text))
        .fix("Start the service, or correct the path.")
        .rejected(Cause::AcceptQueueFull, "a full queue answers otherwise");
    }
    Finding::new(
        Cause::ConnectRefused,
        facts.stage,
        Confidence::High,
        format!("{} refused the connection: nothing listens there, or a firewall rejects in its name", peer(facts)),
    )
    .because(errno(operation, text))
    .rejected(Cause::SynUnanswered, "an answer came, and it was no")
}

pub(super) fn unreachable(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    Finding::new(
        Cause::Unreachable,
        facts.stage,
        Confidence::High,
        format!("there is no way to {}: {text}", peer(facts)),
    )
    .because(errno(operation, text))
    .rejected(Cause::SynUnanswered, "the kernel or a router said that there is no way")
}

pub(super) fn ports_exhausted(facts: &CallFacts, operation: &'static str, text: &str) -> Finding {
    let (confidence, why) = if peer(facts).starts_with('[') {
        (Confidence::Medium, "possible: an IPv6 address that this host cannot use fails with the same error")
    } else {
        (Confidence::High, "the kernel did not even choose a local port: EADDRNOTAVAIL")
    };
    Finding::new(
        Cause::PortsExhausted,
        Stage::Connect,
        confidence,
        format!("no local port is left for {}", peer(facts)),
    )
    .because(errno(operation, text))
    .rejected(Cause::Unreachable, why)
}

pub(super) fn tls(facts: &CallFacts) -> Finding {
    if let Some(finding) = local::unread(facts).or_else(|| path::blocked(facts)) {
        return finding;
    }
    let took = DurationText(in_stage(facts));
    let silence = path::silence(facts);
    let read = facts.exchange.response_bytes;
    let unread = facts.socket.as_ref().and_then(|socket| socket.unread_bytes).unwrap_or(0);
    let bytes = read.saturating_add(unread.into());
    if bytes == 0 {
        let (what, why) = match silence.acknowledged {
            Some(true) => {
                ("took our ClientHello and said nothing", "the ClientHello was acknowledged: the way there works")
            }
            Some(false) => ("has not acknowledged our ClientHello", "possible: it was too early for a retransmission"),
            None => ("did not answer our ClientHello", "possible: what the peer has received cannot be told from here"),
        };
        return Finding::new(
            Cause::TlsPeerSilent,
            Stage::Tls,
            silence.confidence,
            format!("{} {what} for {took}", peer(facts)),
        )
        .because(handshake_evidence(facts, bytes))
        .and(silence.evidence)
        .rejected(Cause::PathLost, why)
        .rejected(Cause::TlsSlow, "not one byte of a handshake came");
    }
    let pause = DurationText(exchange::peer_silent_for(facts));
    Finding::new(
        Cause::TlsSlow,
        Stage::Tls,
        silence.confidence.max(Confidence::Medium),
        format!("{} sent {bytes} bytes of the handshake in {took}, the last {pause} ago", peer(facts)),
    )
    .because(handshake_evidence(facts, bytes))
    .and(silence.evidence)
    .rejected(Cause::TlsPeerSilent, "handshake bytes did come")
}

fn handshake_evidence(facts: &CallFacts, bytes: u64) -> Evidence {
    let took = in_stage(facts);
    Evidence::new(Source::Tls, format!("{bytes} bytes of the peer's handshake came within {}", DurationText(took)))
        .with("handshake_bytes", bytes)
        .with("duration_us", took.as_micros())
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

pub(super) fn tls_untrusted(reason: Untrusted, why: &str) -> Finding {
    let fix = match reason {
        Untrusted::Expired => {
            "Renew the certificate, and reload the server: a renewed file on disk changes nothing before that."
        }
        Untrusted::NotYetValid => {
            "Compare the clocks of this machine and of the issuer (`timedatectl`); serve the certificate only from its \
             first day on."
        }
        Untrusted::WrongName => {
            "Issue the certificate for the name that clients use, or connect with a name that it has."
        }
        Untrusted::UnknownIssuer => {
            "Serve the full chain, or give the client the CA of a private issuer. Do not switch verification off."
        }
        Untrusted::Authority => {
            "Issue a certificate of its own for the server (basicConstraints CA:FALSE), signed by the authority. OpenSSL, and \
             so curl, accepts an authority's certificate as a server's; this client does not."
        }
        Untrusted::Revoked => "Replace the certificate, and find out why its issuer revoked it.",
        Untrusted::Other => {
            "Look at the whole chain: `openssl s_client -connect HOST:PORT -servername NAME -showcerts`."
        }
    };
    Finding::new(
        Cause::TlsUntrusted,
        Stage::Tls,
        Confidence::High,
        format!("the peer's certificate does not verify: {why}"),
    )
    .because(Evidence::new(Source::Tls, format!("certificate verification: {why}")))
    .rejected(Cause::TlsRejected, "we refused the peer; it sent no alert")
    .fix(fix)
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

pub(super) fn tls_broken(facts: &CallFacts, text: &str) -> Finding {
    let said = Evidence::new(Source::Tls, text.to_owned());
    let summary = format!("the TLS handshake failed: {text}");
    if facts.exchange.response_bytes == 0 {
        return Finding::new(Cause::Unknown, Stage::Tls, Confidence::Low, summary)
            .because(said)
            .rejected(Cause::ProtocolError, "no byte of the peer was seen that could be wrong");
    }
    Finding::new(Cause::ProtocolError, Stage::Tls, Confidence::Medium, summary)
        .because(said)
        .because(handshake_evidence(facts, facts.exchange.response_bytes))
        .rejected(Cause::TlsNotTls, "TLS records did come")
}
