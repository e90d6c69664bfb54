//! One line a request, and whoever writes them.
//!
//! A worker formats into a buffer of its own and hands it on when it is full or some time has passed. Writing is a
//! thread's: a disk that is slow, or a reader that is, holds up nobody; what it cannot take is dropped and counted.

mod event;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use overdue::server::Source;
use overdue_core::{
    Cause, DurationText, Evidence, Limit, LimitReport, Outcome, Report, Source as SeenBy, Stage,
    facts::{CallFacts, Failure},
    judge::Judgement,
    micros,
};
use rustix::{
    fs::OFlags,
    io::{Errno, ioctl_fionbio},
};

pub(crate) use self::event::Event;
use crate::{
    arrive::PROXY,
    clock,
    config::{Format, Log, To},
    counts::{Counts, STAGES, add},
    http1::{Known, Line, Protocol, TUNNEL},
    live::{Column, TOTAL},
    notices::{Budget, Notice, Tally},
    upstream::Server,
    worker::{HEAD, PlannedRoute},
};

/// A buffer that is longer is handed on at once.
const FULL: usize = 32 * 1024;
/// Buffers that wait to be written, of all workers.
const WAITING_MAX: usize = 256;

/// The instants of a request.
pub(crate) struct Marks {
    pub(crate) began: Instant,
    /// Its head was there.
    pub(crate) head: Instant,
    /// It had its turn.
    pub(crate) queued: Instant,
    pub(crate) send: Instant,
    pub(crate) sent: Instant,
    /// The head of the answer was there.
    pub(crate) answered: Option<Instant>,
    /// A first attempt had failed then.
    pub(crate) again: Option<(Instant, FirstAttempt)>,
    /// It was the last of HTTP on its connections.
    pub(crate) tunnel: bool,
    /// The request had no end yet, and so many bytes were missing, where a length says so.
    pub(crate) open: bool,
    pub(crate) left: Option<u64>,
    /// How long it waited for its client to send it.
    pub(crate) client_took: Duration,
    /// When something of the answer last came.
    pub(crate) read_at: Option<Instant>,
    pub(crate) dialled: bool,
    /// The handshake with the server began, if there was one.
    pub(crate) secured: Option<Instant>,
    pub(crate) status: u16,
    /// The outcome of a gRPC call, as its client was told.
    pub(crate) grpc: Option<u8>,
    /// Bytes of the client's, and to the client.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Bytes of the answer, of its body, and what it said that its body has.
    pub(crate) answer_bytes: u64,
    pub(crate) body: u64,
    pub(crate) expected: Option<u64>,
    /// Of the connection to the server.
    pub(crate) reused: bool,
    pub(crate) connection: u64,
    pub(crate) idle: Option<Duration>,
}

/// What became of an attempt that another followed.
#[derive(Clone, Copy)]
pub(crate) struct FirstAttempt {
    pub(crate) server: Option<SocketAddr>,
    pub(crate) cause: Option<Cause>,
}

/// The first of two attempts, with all its stages.
const ATTEMPT: Stage = Stage::Named("attempt");

impl Marks {
    pub(crate) const fn at(began: Instant) -> Self {
        Self {
            began,
            head: began,
            queued: began,
            send: began,
            sent: began,
            answered: None,
            again: None,
            tunnel: false,
            open: false,
            left: None,
            client_took: Duration::ZERO,
            read_at: None,
            dialled: false,
            secured: None,
            status: 0,
            grpc: None,
            bytes_in: 0,
            bytes_out: 0,
            answer_bytes: 0,
            body: 0,
            expected: None,
            reused: false,
            connection: 0,
            idle: None,
        }
    }

    /// Where a first attempt took most of the time, what it met is what there was no time for.
    pub(crate) fn blame_first(&self, judgement: &mut Judgement, now: Instant) {
        let Some((since, FirstAttempt { server: Some(server), cause: Some(cause) })) = self.again else { return };
        let Some(verdict) = judgement.verdicts.first_mut().filter(|verdict| verdict.cause == Cause::Unknown) else {
            return;
        };
        let (took, whole) = (since.saturating_duration_since(self.head), now.saturating_duration_since(self.began));
        if took * 2 < whole {
            return;
        }
        verdict.cause = cause;
        verdict.summary =
            format!("{} of {} went to a first attempt, at {server}: {cause}", DurationText(took), DurationText(whole));
        verdict.fix = cause.entry().fix.first().copied().unwrap_or_default().into();
        verdict.rejected.retain(|rejected| rejected.cause != cause);
        let text = format!("the first attempt ended {} after the head of the request", DurationText(took));
        verdict.evidence.push(Evidence::new(SeenBy::Timeline, text).with("first_attempt_us", took.as_micros()));
    }

    /// The stages in order, with their beginnings, up to the one in which it ended.
    pub(crate) fn stages(&self, last: Option<Stage>) -> impl Iterator<Item = (Stage, Instant)> {
        let beginnings = [
            (HEAD, Some(self.began)),
            (ATTEMPT, self.again.map(|_| self.head)),
            // Nothing comes after it: there is no server.
            (Stage::Resolve, (last == Some(Stage::Resolve)).then_some(self.head)),
            (Stage::Queue, Some(self.again.map_or(self.head, |(since, _)| since))),
            (Stage::Connect, self.dialled.then_some(self.queued)),
            (Stage::Tls, self.secured),
            (Stage::Send, Some(self.send)),
            (Stage::Wait, Some(self.sent)),
            (if self.tunnel { TUNNEL } else { Stage::Receive }, self.answered),
        ];
        let mut over = false;
        beginnings.into_iter().filter_map(|(stage, begun)| Some((stage, begun?))).take_while(move |(stage, _)| {
            let was_over = over;
            over |= Some(*stage) == last;
            !was_over
        })
    }
}

/// Whose request it is.
#[derive(Clone, Copy)]
pub(crate) struct Whom<'a> {
    pub(crate) client: &'a str,
    /// The proxy that named the client.
    pub(crate) via: Option<&'a str>,
}

/// What is to be told of a request.
pub(crate) struct Entry<'a> {
    pub(crate) marks: &'a Marks,
    pub(crate) end: Instant,
    pub(crate) known: Known,
    pub(crate) route: Option<&'a Rc<PlannedRoute>>,
    pub(crate) server: Option<&'a Server>,
    /// Why it went nowhere, and where it ended.
    pub(crate) refused: Option<(Stage, &'a str)>,
    /// What was behind that, and the limit that it met, where there is such a thing.
    pub(crate) cause: Option<Cause>,
    pub(crate) limit: Option<&'a Limit>,
    pub(crate) failed: Option<(&'a CallFacts, &'a Judgement)>,
}

impl<'a> Entry<'a> {
    /// Of a request that was answered by its server.
    pub(crate) fn new(marks: &'a Marks, end: Instant) -> Self {
        let known = Known { status: marks.status, ..Known::SERVED };
        Self { marks, end, known, route: None, server: None, refused: None, cause: None, limit: None, failed: None }
    }

    pub(crate) fn stages(&self) -> impl Iterator<Item = (Stage, Instant, Instant)> {
        let last = match (self.failed, self.refused) {
            (Some((facts, _)), _) => Some(facts.stage),
            (None, Some((stage, _))) => Some(stage),
            (None, None) => None,
        };
        let end = self.end;
        // A client's handshake, and the header of its proxy, come before all that a request has.
        let before = last.filter(|last| *last == PROXY || *last == Stage::Tls && self.marks.secured.is_none());
        let rest = self.marks.stages(last).take(if before.is_some() { 0 } else { usize::MAX });
        let mut stages = before.map(|stage| (stage, self.marks.began)).into_iter().chain(rest).peekable();
        std::iter::from_fn(move || {
            let (stage, begun) = stages.next()?;
            Some((stage, begun, stages.peek().map_or(end, |(_, next)| *next)))
        })
    }

    /// What its server was spoken to in, once there was a connection to it.
    pub(crate) fn server_protocol(&self) -> Option<Protocol> {
        let route = self.route.filter(|_| self.marks.connection > 0)?;
        Some(Protocol::of_servers(route))
    }

    /// Whether somebody will look for it: it failed here, or at its server.
    const fn has_failed(&self) -> bool {
        self.failed.is_some() || self.refused.is_some() || self.known.status >= 500 || is_servers_fault(self.marks.grpc)
    }

    /// From the first byte to the last.
    pub(crate) fn total_us(&self) -> u64 {
        since(self.marks.began, self.end)
    }

    /// Counts it, once for all time and once for its column of the last minutes.
    pub(crate) fn count(&self, counts: &Counts, column: Option<&Column>) {
        add(Some(&counts.requests), 1);
        add(Some(&counts.bytes_in), self.marks.bytes_in);
        add(Some(&counts.bytes_out), self.marks.bytes_out);
        // What is beyond counts as the last class.
        add(counts.statuses.get(usize::from(self.known.status / 100).min(counts.statuses.len() - 1)), 1);
        if let Some(code) = self.marks.grpc {
            add(counts.grpc.get(usize::from(code).min(counts.grpc.len() - 1)), 1);
        }
        let took = |span: usize, us: u64| {
            if let Some(column) = column {
                column.took(span, us);
            }
        };
        for (stage, begun, ended) in self.stages() {
            let place = STAGES.iter().position(|known| *known == stage);
            if let Some((place, histogram)) = place.and_then(|place| Some((place, counts.stages.get(place)?))) {
                let us = since(begun, ended);
                histogram.record_us(us);
                took(place, us);
            }
        }
        let total_us = self.total_us();
        counts.total.record_us(total_us);
        took(TOTAL, total_us);
        if let (Some((_, judgement)), Some(route)) = (self.failed, self.route)
            && let Some(verdict) = judgement.verdicts.first()
        {
            counts.failed(&route.route.name, verdict.cause);
        }
    }
}

/// Codes of gRPC that are what a 5xx is elsewhere: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`,
/// `UNAVAILABLE`, `DATA_LOSS`.
const fn is_servers_fault(grpc: Option<u8>) -> bool {
    matches!(grpc, Some(2 | 4 | 12..=15))
}

/// Of connections that come to nothing before a request, so many have lines of their own in each worker; the others are
/// counted by source.
const EARLY: (u32, Duration) = (10, Duration::from_secs(1));

/// The lines of one worker that are not handed on yet.
pub(crate) struct Lines {
    format: Option<Format>,
    rate: Option<Budget>,
    /// Lines that the rate did not allow: of requests that were served, and of others. So far, and as it was last told.
    left_out: [u64; 2],
    left_out_told: [u64; 2],
    early: Budget,
    early_untold: Tally,
    buf: Vec<u8>,
    count: u64,
    /// What time it is, as often as that is looked up.
    time: Vec<u8>,
    to: Writer,
}

impl Lines {
    /// Those of one of so many workers.
    pub(crate) fn new(log: &Log, workers: usize, writer: Writer) -> Self {
        Self {
            format: writer.to.is_some().then_some(log.format),
            rate: log.rate.map(|rate| Budget::new(rate, workers)),
            left_out: [0; 2],
            left_out_told: [0; 2],
            early: Budget::new(EARLY, 1),
            early_untold: Tally::default(),
            buf: Vec::new(),
            count: 0,
            time: now(),
            to: writer,
        }
    }

    /// Adds the line of one request, if the rate allows it.
    pub(crate) fn put(&mut self, entry: &Entry<'_>, line: &Line, whom: Whom<'_>) {
        let Some(format) = self.format else { return };
        let failed = entry.has_failed();
        if self.rate.as_mut().is_some_and(|rate| !rate.take(entry.end, failed)) {
            let [served, others] = &mut self.left_out;
            *(if failed { others } else { served }) += 1;
            return;
        }
        // To a buffer that grows, writing does not fail.
        let _ = match format {
            Format::Json => json(&mut self.buf, &self.time, entry, line, whom),
            Format::Text => text(&mut self.buf, &self.time, entry, line, whom),
        };
        self.count += 1;
        if self.buf.len() >= FULL {
            self.hand_on();
        }
    }

    /// Adds the line of a connection from this source that came to nothing before a request.
    pub(crate) fn put_early(&mut self, entry: &Entry<'_>, whom: Whom<'_>, source: Source) {
        match self.early.take(entry.end, true) {
            true => self.put(entry, &Line::default(), whom),
            false => self.early_untold.add(source),
        }
    }

    /// Adds a line that is about no single request. There are few of them, whatever happens.
    pub(crate) fn put_notice(&mut self, notice: &Notice) {
        let Some(format) = self.format else { return };
        // To a buffer that grows, writing does not fail.
        let _ = notice.write(&mut self.buf, format, &self.time);
        self.count += 1;
    }

    /// Tells what has no line of its own.
    pub(crate) fn put_counted(&mut self) {
        let [served, failed] = std::array::from_fn(|at| {
            let so_far = |counts: [u64; 2]| counts.get(at).copied().unwrap_or_default();
            so_far(self.left_out) - so_far(self.left_out_told)
        });
        self.left_out_told = self.left_out;
        if served + failed > 0 {
            self.put_notice(&Notice::LeftOut { served, failed });
        }
        if let Some(told) = self.early_untold.take() {
            self.put_notice(&Notice::CameToNothing(told));
        }
    }

    /// Lines that the rate did not allow: of requests that were served, and of others.
    pub(crate) const fn left_out(&self) -> [u64; 2] {
        self.left_out
    }

    pub(crate) fn tick(&mut self) {
        self.time = now();
        self.hand_on();
    }

    fn hand_on(&mut self) {
        if !self.buf.is_empty() {
            let buf = std::mem::replace(&mut self.buf, Vec::with_capacity(FULL + FULL / 4));
            self.to.write(buf, self.count);
            self.count = 0;
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.hand_on();
    }
}

/// What time it is.
fn now() -> Vec<u8> {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut text = Vec::new();
    // To a buffer that grows, writing does not fail.
    let _ = put_time(&mut text, (since.as_secs(), since.subsec_millis()));
    text
}

/// As of RFC 3339.
fn put_time(out: &mut Vec<u8>, (secs, millis): (u64, u32)) -> io::Result<()> {
    let days = secs / 86_400;
    // Civil from days: the year begins in March, so that the leap day is its last.
    let era_day = days + 719_468;
    let (era, of_era) = (era_day / 146_097, era_day % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn since(begun: Instant, ended: Instant) -> u64 {
    micros(ended.saturating_duration_since(begun))
}

/// One object of `overdue.report/1`, with what only the gateway knows under `gate`.
fn json(out: &mut Vec<u8>, time: &[u8], entry: &Entry<'_>, line: &Line, whom: Whom<'_>) -> io::Result<()> {
    let Entry { marks, end, known, .. } = entry;
    match entry.failed {
        None => {
            let outcome = match (entry.refused, entry.limit) {
                (None, _) => "ok",
                (Some(_), None) => "failed",
                (Some(_), Some(_)) => "timed-out",
            };
            out.extend_from_slice(b"{\"schema\":\"overdue.report/1\",\"outcome\":\"");
            out.extend_from_slice(outcome.as_bytes());
            out.extend_from_slice(b"\",\"stage\":");
            match entry.refused {
                Some((stage, _)) => put_text(out, stage.as_str())?,
                None => out.extend_from_slice(b"null"),
            }
            match (entry.cause, entry.limit) {
                (None, None) => out.extend_from_slice(b",\"cause\":null,\"limit\":null"),
                (cause, limit) => {
                    out.extend_from_slice(b",\"cause\":");
                    serde_json::to_writer(&mut *out, &cause)?;
                    out.extend_from_slice(b",\"limit\":");
                    serde_json::to_writer(&mut *out, &limit.map(LimitReport::from))?;
                }
            }
            out.extend_from_slice(b",\"elapsed_us\":");
            put_number(out, since(marks.began, *end));
            out.extend_from_slice(b",\"timeline\":[");
            for (place, (stage, begun, ended)) in entry.stages().enumerate() {
                out.extend_from_slice(if place == 0 { b"{\"stage\":\"" } else { b",{\"stage\":\"" });
                out.extend_from_slice(stage.as_str().as_bytes());
                out.extend_from_slice(b"\",\"start_us\":");
                put_number(out, since(marks.began, begun));
                out.extend_from_slice(b",\"duration_us\":");
                put_number(out, since(begun, ended));
                out.extend_from_slice(b",\"outcome\":\"done\"}");
            }
            out.extend_from_slice(b"]");
        }
        Some((facts, judgement)) => {
            serde_json::to_writer(&mut *out, &report_of(facts, judgement))?;
            out.pop();
        }
    }
    if let Some(server) = entry.server.filter(|_| marks.connection > 0 && entry.failed.is_none()) {
        out.extend_from_slice(b",\"connection\":{\"id\":");
        put_number(out, marks.connection);
        out.extend_from_slice(if marks.reused {
            b",\"reused\":true,\"idle_us\":"
        } else {
            b",\"reused\":false,\"idle_us\":"
        });
        put_number(out, marks.idle.map_or(0, micros));
        out.extend_from_slice(b",\"peer\":\"");
        out.extend_from_slice(server.text.as_bytes());
        out.extend_from_slice(b"\"}");
    }
    out.extend_from_slice(b",\"gate\":{\"time\":\"");
    out.extend_from_slice(time);
    out.extend_from_slice(b"\",\"client\":\"");
    out.extend_from_slice(whom.client.as_bytes());
    if let Some(via) = whom.via {
        out.extend_from_slice(b"\",\"via\":\"");
        out.extend_from_slice(via.as_bytes());
    }
    out.extend_from_slice(b"\",\"method\":");
    put_text(out, line.method())?;
    out.extend_from_slice(b",\"host\":");
    put_text(out, line.authority())?;
    out.extend_from_slice(b",\"path\":");
    put_text(out, line.path())?;
    if !line.id().is_empty() {
        out.extend_from_slice(b",\"request_id\":");
        put_text(out, line.id())?;
    }
    if let Some(hop) = line.hop() {
        out.extend_from_slice(b",\"trace_id\":\"");
        out.extend_from_slice(hop.trace_id().as_bytes());
        out.extend_from_slice(b"\",\"span_id\":\"");
        out.extend_from_slice(hop.span_id().as_bytes());
        out.push(b'"');
        if let Some(parent) = hop.parent_id() {
            out.extend_from_slice(b",\"parent_id\":\"");
            out.extend_from_slice(parent.as_bytes());
            out.push(b'"');
        }
    }
    if let Some(protocol) = line.protocol() {
        out.extend_from_slice(b",\"protocol\":\"");
        out.extend_from_slice(protocol.as_str().as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b",\"status\":");
    put_number(out, known.status.into());
    if let Some(code) = marks.grpc {
        out.extend_from_slice(b",\"grpc_status\":");
        put_number(out, code.into());
    }
    if let Some(route) = entry.route {
        out.extend_from_slice(b",\"route\":");
        put_text(out, &route.route.name)?;
    }
    if let Some(server) = entry.server {
        out.extend_from_slice(b",\"server\":\"");
        out.extend_from_slice(server.text.as_bytes());
        out.push(b'"');
    }
    if let Some(protocol) = entry.server_protocol() {
        out.extend_from_slice(b",\"server_protocol\":\"");
        out.extend_from_slice(protocol.as_str().as_bytes());
        out.push(b'"');
    }
    if let Some((_, why)) = entry.refused {
        out.extend_from_slice(b",\"refused\":");
        put_text(out, why)?;
    }
    if let Some((_, FirstAttempt { server, cause })) = marks.again {
        out.extend_from_slice(b",\"first_attempt\":");
        serde_json::to_writer(&mut *out, &serde_json::json!({ "server": server, "cause": cause }))?;
    }
    out.extend_from_slice(b",\"bytes_in\":");
    put_number(out, marks.bytes_in);
    out.extend_from_slice(b",\"bytes_out\":");
    put_number(out, marks.bytes_out);
    out.extend_from_slice(b",\"termination\":\"");
    out.extend_from_slice(&known.state);
    out.extend_from_slice(b"\",\"flags\":\"");
    out.extend_from_slice(known.flag.as_bytes());
    out.extend_from_slice(b"\"}}\n");
    Ok(())
}

fn report_of(facts: &CallFacts, judgement: &Judgement) -> Report {
    let outcome = match facts.failure {
        Failure::DeadlinePassed(_) | Failure::DeadlinePast(_) => Outcome::TimedOut,
        Failure::Cancelled { .. } => Outcome::Cancelled,
        _ => Outcome::Failed,
    };
    let mut report = Report::new(outcome, &facts.timeline, facts.now);
    report.stage = Some(facts.stage.as_str());
    report.cause = judgement.verdicts.first().map(|verdict| verdict.cause);
    report.limit = match &facts.failure {
        Failure::DeadlinePassed(limit) | Failure::DeadlinePast(limit) => Some(LimitReport::from(limit)),
        _ => None,
    };
    report.verdicts.clone_from(&judgement.verdicts);
    report.advisories.clone_from(&judgement.advisories);
    report
}

fn put_text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return Ok(());
    }
    serde_json::to_writer(out, text).map_err(io::Error::from)
}

/// `TIME CLIENT STATUS TERMINATION FLAG METHOD HOST PATH PROTOCOL ROUTE SERVER head/queue/connect/tls/send/wait/receive/all
/// BYTES ID CAUSE`, times in milliseconds. The status of a gRPC call is followed by its code: `200/5`.
fn text(out: &mut Vec<u8>, time: &[u8], entry: &Entry<'_>, line: &Line, whom: Whom<'_>) -> io::Result<()> {
    let Entry { marks, end, known, .. } = entry;
    out.extend_from_slice(time);
    let state = str::from_utf8(&known.state).unwrap_or("--");
    write!(out, " {} {}", whom.client, known.status)?;
    if let Some(code) = marks.grpc {
        write!(out, "/{code}")?;
    }
    write!(out, " {state} {} ", known.flag)?;
    let word = |text: &str| if text.is_empty() { "-".to_owned() } else { text.escape_default().to_string() };
    write!(out, "{} {} {} ", word(line.method()), word(line.authority()), word(line.path()))?;
    write!(out, "{} ", line.protocol().map_or("-", Protocol::as_str))?;
    let route = entry.route.map_or("-".to_owned(), |route| format!("{:?}", route.route.name));
    write!(out, "{route} ")?;
    match entry.server {
        Some(server) => write!(out, "{} ", server.text)?,
        None => out.extend_from_slice(b"- "),
    }
    for stage in STAGES {
        let span = entry.stages().find(|(known, ..)| *known == stage);
        match span {
            Some((_, begun, ended)) => {
                write!(out, "{:.1}/", ended.saturating_duration_since(begun).as_secs_f64() * 1e3)?
            }
            None => out.extend_from_slice(b"-/"),
        }
    }
    write!(out, "{:.1} {} ", end.saturating_duration_since(marks.began).as_secs_f64() * 1e3, marks.bytes_out)?;
    write!(out, "{} ", word(line.id()))?;
    match (entry.failed, entry.refused) {
        (Some((_, judgement)), _) => match judgement.verdicts.first() {
            Some(verdict) => write!(out, "{}: {}", verdict.cause, verdict.summary.escape_debug()),
            None => write!(out, "unknown"),
        },
        (None, Some((_, why))) => write!(out, "refused: {}", why.escape_debug()),
        (None, None) => write!(out, "-"),
    }?;
    match marks.again {
        Some((_, FirstAttempt { server: Some(server), cause: Some(cause) })) => {
            writeln!(out, " (first attempt, at {server}: {cause})")
        }
        _ => writeln!(out),
    }
}

/// What the thread that writes is told.
enum Told {
    Lines(Vec<u8>),
    /// Somebody may have moved the file.
    Reopen,
}

/// Where lines are handed to.
#[derive(Clone)]
pub(crate) struct Writer {
    to: Option<mpsc::SyncSender<Told>>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread that writes. It ends when every writer is dropped; the receiver says when.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread started.
    pub(crate) fn start(to: &To) -> io::Result<(Self, mpsc::Receiver<()>)> {
        let (ended, end) = mpsc::channel();
        if *to == To::Off {
            return Ok((Self { to: None, dropped: Arc::default() }, end));
        }
        let (to, mut file) = (to.clone(), open(to)?);
        let (sender, receiver) = mpsc::sync_channel::<Told>(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new().name("overdue-log".to_owned()).spawn(move || {
            // Without a limit on purpose: nobody waits for it but the end, which does so for a second.
            while let Ok(told) = receiver.recv() {
                let Told::Lines(buf) = told else {
                    // One that cannot be opened anew goes on as it was.
                    file = open(&to).unwrap_or(file);
                    continue;
                };
                if file.write_all(&buf).and_then(|()| file.flush()).is_err() {
                    let lines = buf.iter().filter(|byte| **byte == b'\n').count();
                    lost.fetch_add(lines as u64, Relaxed);
                }
            }
            let _ = ended.send(());
        })?;
        Ok((Self { to: Some(sender), dropped }, end))
    }

    fn write(&self, buf: Vec<u8>, lines: u64) {
        if let Some(to) = &self.to
            && to.try_send(Told::Lines(buf)).is_err()
        {
            self.dropped.fetch_add(lines, Relaxed);
        }
    }

    /// The file is opened anew, before what comes next is written.
    pub(crate) fn reopen(&self) {
        if let Some(to) = &self.to {
            // Where so much waits that this has no room, the next reload does it.
            let _ = to.try_send(Told::Reopen);
        }
    }

    /// Lines that could not be written.
    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

fn open(to: &To) -> io::Result<Box<dyn Write + Send>> {
    Ok(match to {
        To::Off => Box::new(io::sink()),
        To::Stdout => Box::new(io::stdout()),
        To::File(path) => Box::new(append(path, true)?),
    })
}

/// Opens a file to add to it. A pipe that nobody reads is an error: to wait for its reader has no limit.
pub(crate) fn append(path: &Path, create: bool) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().create(create).append(true).custom_flags(at_once).open(path);
    let file = opened.map_err(|err| {
        let is_pipe = || fs::metadata(path).is_ok_and(|of| of.file_type().is_fifo());
        if err.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_pipe() {
            io::Error::other("it is a pipe that nobody reads; start its reader first")
        } else {
            err
        }
    })?;
    // The thread that writes waits for who reads.
    ioctl_fionbio(&file, false)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |secs| {
            let mut out = Vec::new();
            put_time(&mut out, (secs, 7)).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_200), "2024-03-01T00:00:00.007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }
}
