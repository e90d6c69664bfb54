//! Probes: whether a server is well, by a connection of its own.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf as _, BytesMut};
use overdue::{
    h1::{Framing, HEAD_MAX, response},
    socket::{self, os_failure},
    tls::Wire,
};
use overdue_core::{
    Cause, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, ExchangeFacts, Failure, SocketFacts},
    judge::{Judgement, judge},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout_at},
};

use super::{Endpoint, Told};
use crate::{
    clock,
    config::{Cluster, Health},
    http2::{self, Carrier, Outbound},
    upstream,
};

/// What a probe came to.
pub(super) enum Probed {
    Well,
    Ill(Unwell),
    /// It failed by the fault of this process, which says nothing about the server.
    Unknown,
}

/// Why a server is not well.
pub(super) struct Unwell {
    pub(super) text: String,
    /// Where it did not answer.
    pub(super) judged: Option<Box<(CallFacts, Judgement)>>,
}

/// The first probe of a server comes within this, or within its pause if that is shorter.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// So much of an answer's body is taken, so that its end is no reset.
const BODY_MAX: u64 = 64 * 1024;

/// Probes a server for as long as somebody wants to know.
pub(super) async fn again_and_again(
    cluster: Arc<Cluster>,
    health: Health,
    endpoint: Endpoint,
    back: mpsc::WeakUnboundedSender<Told>,
) {
    // Not all at once, and not in step with those of other gateways.
    let mut pause = health.every.min(FIRST_WITHIN).mul_f64(chance());
    loop {
        sleep(pause).await;
        let probed = probe(&cluster, &health, &endpoint).await;
        pause = health.every.mul_f64(0.9 + 0.2 * chance());
        let Some(back) = back.upgrade() else { return };
        if back.send(Told::Probed(Arc::clone(&cluster.name), endpoint.address, probed)).is_err() {
            return;
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    // Each has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    f64::from((random >> 32) as u32) / f64::from(u32::MAX)
}

/// What was seen of a probe, also of one that was cut off.
struct Seen {
    began: Instant,
    stage: Stage,
    timeline: Timeline,
    /// While it comes up.
    stream: Option<TcpStream>,
    wire: Option<Wire>,
    /// Bytes that were read before the stage that runs.
    read_before: u64,
    status: Option<u16>,
}

async fn probe(cluster: &Cluster, health: &Health, endpoint: &Endpoint) -> Probed {
    let began = clock::now();
    let mut seen = Seen {
        began,
        stage: Stage::Connect,
        timeline: Timeline::new(began),
        stream: None,
        wire: None,
        read_before: 0,
        status: None,
    };
    let due = began + health.limit.value;
    let done = timeout_at(due.into(), seen.run(cluster, health, endpoint)).await;
    let failure = match (seen.status, done) {
        // What followed the head is not of interest.
        (Some(status), _) if health.statuses.iter().any(|range| range.contains(&status)) => return Probed::Well,
        (Some(status), _) => return Probed::Ill(Unwell { text: format!("it answered {status}"), judged: None }),
        (None, Ok(Ok(()))) => return Probed::Well,
        (None, Ok(Err(failure))) => failure,
        (None, Err(_)) => Failure::DeadlinePassed(health.limit.clone()),
    };
    let now = clock::now();
    let late_by = match failure {
        Failure::DeadlinePassed(_) => now.saturating_duration_since(due),
        _ => Duration::ZERO,
    };
    let facts = seen.facts(failure, now, late_by, endpoint);
    let judgement = judge(&facts);
    let first = judgement.verdicts.first();
    if first
        .is_some_and(|verdict| matches!(verdict.cause, Cause::LocalStall | Cause::FdExhausted | Cause::PortsExhausted))
    {
        return Probed::Unknown;
    }
    let text = first.map_or_else(|| "it did not answer".to_owned(), |verdict| verdict.summary.clone());
    Probed::Ill(Unwell { text, judged: Some(Box::new((facts, judgement))) })
}

impl Seen {
    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.read_before = self.wire.as_ref().map_or(0, Wire::read_bytes);
        self.timeline.begin(stage, clock::now(), None);
    }

    async fn run(&mut self, cluster: &Cluster, health: &Health, endpoint: &Endpoint) -> Result<(), Failure> {
        self.enter(Stage::Connect);
        let not_connected = |err: io::Error| os_failure("connect", err).0;
        let stream = self.stream.insert(upstream::begin(endpoint.address).map_err(not_connected)?);
        upstream::connected(stream).await.map_err(not_connected)?;
        if let Some(version) = cluster.proxy_protocol {
            let header = upstream::proxy::own_header(version);
            upstream::proxy::introduce(stream, &header).await.map_err(|err| os_failure("write", err).0)?;
        }
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let mut wire = Wire::tcp(stream, endpoint.address);
        self.wire = Some(wire.clone());
        match &cluster.tls {
            None if cluster.http2 => self.ask_in_stream(wire.clone(), (wire, false), health, endpoint).await,
            None => self.ask(&mut wire, health, endpoint).await,
            Some(tls) => {
                self.enter(Stage::Tls);
                let (mut stream, _) =
                    tls.tls().handshake(wire.clone(), &endpoint.host).await.map_err(|(failure, _)| failure)?;
                if cluster.http2 {
                    http2::is_spoken(&stream).map_err(Failure::Protocol)?;
                    return self.ask_in_stream(stream, (wire, true), health, endpoint).await;
                }
                self.ask(&mut stream, health, endpoint).await
            }
        }
    }

    /// The same in HTTP/2. The wire is what is beneath `io`, and whether that is TLS.
    async fn ask_in_stream<S>(
        &mut self,
        io: S,
        (wire, secure): (Wire, bool),
        health: &Health,
        endpoint: &Endpoint,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.enter(Stage::Send);
        let begun = http2::begin(io).await.map_err(|err| http2::failure("write", err))?;
        let carrier = Carrier::new(begun, wire, secure, 1, || (), || ());
        self.ask(&mut Outbound::new(&carrier), health, endpoint).await
    }

    async fn ask<S>(&mut self, io: &mut S, health: &Health, endpoint: &Endpoint) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(path) = &health.path else {
            // With TLS: said, so that the server does not take it for a broken one.
            let _ = io.shutdown().await;
            return Ok(());
        };
        let host = health.host.clone().unwrap_or_else(|| endpoint.authority());
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: overdue-gate\r\nconnection: close\r\n\r\n");
        self.enter(Stage::Send);
        io.write_all(request.as_bytes()).await.map_err(|err| http2::failure("write", err))?;
        io.flush().await.map_err(|err| http2::failure("write", err))?;
        self.enter(Stage::Wait);
        let mut buf = BytesMut::new();
        let body = loop {
            buf.reserve(4096);
            // Longer ones are refused below.
            if buf.len() > 2 * HEAD_MAX || io.read_buf(&mut buf).await.map_err(|err| http2::failure("read", err))? == 0
            {
                return Err(Failure::Closed);
            }
            let mut last = None;
            while last.is_none()
                && let Some((status, length, body)) = head(&buf)?
            {
                buf.advance(length);
                last = (status >= 200).then_some((status, body));
            }
            if let Some((status, body)) = last {
                self.status = Some(status);
                break body.saturating_sub(buf.len() as u64);
            }
        };
        let mut rest = io.take(body);
        while rest.read_buf(&mut buf).await.is_ok_and(|bytes| bytes > 0) {
            buf.clear();
        }
        Ok(())
    }

    fn facts(mut self, failure: Failure, now: Instant, late_by: Duration, endpoint: &Endpoint) -> CallFacts {
        let outcome = match failure {
            Failure::DeadlinePassed(_) => SpanOutcome::TimedOut,
            _ => SpanOutcome::Failed,
        };
        self.timeline.finish_late(now, late_by, outcome);
        self.timeline.end(now, outcome);
        let peer = endpoint.address;
        let socket = match (&self.wire, &self.stream) {
            (Some(wire), _) => wire.observe(),
            (None, Some(stream)) => socket::observe(stream.as_fd(), stream.local_addr().ok(), Some(peer)),
            (None, None) => SocketFacts { peer: peer.to_string(), ..SocketFacts::default() },
        };
        let exchange = ExchangeFacts {
            request_started: self.stage == Stage::Wait,
            response_bytes: self.wire.as_ref().map_or(0, Wire::read_bytes).saturating_sub(self.read_before),
            last_read: self.wire.as_ref().and_then(Wire::last_read).filter(|at| *at > self.began),
            ..ExchangeFacts::default()
        };
        CallFacts {
            stage: self.stage,
            failure,
            now,
            timeline: self.timeline,
            late_by,
            socket: Some(socket),
            dns: None,
            pool: None,
            h2: None,
            exchange,
        }
    }
}

/// Status and length of the head of an answer, once it is there, and how much of what follows is taken.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, u64)>, Failure> {
    let mut room = response::room();
    let head = response::parse(bytes, false, &mut room).map_err(Failure::Protocol)?;
    Ok(head.map(|head| {
        let body = match head.framing {
            Framing::Empty => 0,
            Framing::Length(length) => length.min(BODY_MAX),
            Framing::Chunked | Framing::UntilClose => BODY_MAX,
        };
        (head.status, head.length, body)
    }))
}
