//! From events to connections: what was seen of each, kept within bounds, the worst of them in the end.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    dns::Exchanges,
    http, http2,
    raw::{
        ACCEPTED, BEFORE, BLIND, BY_US, CHUNKED, ENDED, Event, OPENED, Piece, RESET_RECEIVED, RESET_SENT,
        RawConnection, RawWay, Way,
    },
    redis,
    tls::Handshake,
};
use crate::collect::window::Overlap;
use crate::observation::{
    Connection, Connections, DnsExchange, FailedCalls, Gaps, HttpHead, LateCall, Moment, Resolved, Side,
    SourceHandshakes, TlsHandshake, redis_waits,
};

/// Connections in the observation.
const KEPT: usize = 512;
/// What is kept of the head of a response, which may come in several reads.
const HEAD_MAX: usize = 4096;
/// Connections whose heads are followed at a time; the kernel's half begins with a few hundred a second.
const FOLLOWED_MAX: usize = 8192;
/// Those that ended, before the less remarkable half is forgotten.
const ENDED_MAX: usize = 4 * KEPT;
const SOURCES_MAX: usize = 1024;
const SOURCES_KEPT: usize = 64;
/// An answer older than this is not what a connection was made for.
const LOOKUP_MAX_AGE: u64 = 5_000_000_000;

/// Everything seen of the connections of one process.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    heads: HashMap<u64, Heads>,
    ended: Vec<(RawConnection, Heads)>,
    sources: Overlap<HashMap<IpAddr, SourceHandshakes>>,
    /// Of connections that were there when a window began: their silences until then.
    before: Overlap<HashMap<u64, Silences>>,
    dns: Exchanges,
    /// Not kept, as there were too many.
    pub(crate) left_out: u64,
}

/// The silences of a connection, counted since it is watched: of reads and of writes.
#[derive(Clone, Copy, Debug, Default)]
struct Silences {
    read: Silence,
    write: Silence,
}

#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    total: u64,
    count: u32,
}

impl Silence {
    const fn of(way: &RawWay) -> Self {
        Self { total: way.gaps, count: way.turns }
    }
}

/// What the first bytes of a connection said.
#[derive(Clone, Debug, Default)]
struct Heads {
    tls: Option<Box<Handshake>>,
    http: Option<Box<Exchange>>,
    early: Option<Early>,
    /// The last command of Redis.
    redis: Option<String>,
    http2: bool,
    /// What the peer says over HTTP/2.
    frames: Option<http2::Frames>,
    remote: Option<IpAddr>,
    accepted: bool,
    last_at: u64,
}

/// The last request of HTTP/1, and its response.
#[derive(Clone, Debug, Default)]
struct Exchange {
    request: http::Request,
    way: Option<Way>,
    requested: u64,
    status: Option<u16>,
    answered: Option<u64>,
    response: Response,
    /// One before it that was answered too late, the latest of them.
    late: Option<Late>,
    /// Those before it that were answered by an error of the server, and when the last of them was.
    failed: Option<(FailedCalls, u64)>,
    /// The one before it, as long as no answer to that was told of.
    unanswered: Option<Box<Self>>,
}

/// A call that was answered when its caller waited no more.
#[derive(Clone, Debug)]
struct Late {
    request: String,
    /// The header that said how long the caller waits, and how long.
    deadline: (String, u64),
    ran_us: u64,
    answered: u64,
}

/// What the first bytes of a response say, by places among all bytes of its direction.
#[derive(Clone, Debug, Default)]
struct Response {
    /// Its head, as much of it as has come.
    head: Vec<u8>,
    begins_at: u64,
    /// Where its body begins.
    body_at: Option<u64>,
    /// Where it ends.
    ends_at: Option<u64>,
    /// How far it was seen, where that is not the end of its head.
    open_at: Option<u64>,
    not_http: Option<String>,
    is_events: bool,
}

impl Response {
    /// Takes the bytes at that place: more of a head that is open there, or the beginning of another.
    fn take(&mut self, bytes: &[u8], offset: u64) {
        if self.open_at != Some(offset) {
            *self = Self { begins_at: offset, ..Self::default() };
        }
        let room = HEAD_MAX.saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(room));
        match http::length(&self.head) {
            Some(length) => {
                self.head.truncate(length);
                let body_at = self.begins_at.saturating_add(length as u64);
                self.body_at = Some(body_at);
                self.ends_at = http::body_length(&self.head).and_then(|length| body_at.checked_add(length));
                self.is_events = http::is_events(&self.head);
                self.open_at = None;
            }
            None => self.open_at = offset.checked_add(bytes.len() as u64),
        }
    }

    fn read(bytes: &[u8], offset: u64) -> Self {
        let mut response = Self::default();
        response.take(bytes, offset);
        response
    }
}

/// An answer whose request has not been told yet.
#[derive(Clone, Debug)]
struct Early {
    way: Way,
    status: u16,
    at: u64,
    response: Response,
}

impl Early {
    /// Whether these bytes are more of its head.
    fn continues(&self, piece: &Piece<'_>) -> bool {
        self.way == piece.way && self.response.open_at == Some(piece.offset)
    }
}

impl Exchange {
    /// It is the next on its connection.
    fn follows(&mut self, before: Self) {
        self.failed = before.failed();
        if before.status.is_none() {
            self.late = before.late.clone();
            self.unanswered = Some(Box::new(Self { unanswered: None, ..before }));
        } else {
            self.late = before.late();
        }
    }

    /// It is over: what is remembered of it while the next goes on.
    fn late(self) -> Option<Late> {
        let Self { request, requested, answered, late, .. } = self;
        let this = request.deadline_us.zip(answered).and_then(|(deadline, answered)| {
            let ran_us = answered.saturating_sub(requested) / 1000;
            (ran_us > deadline.1).then_some(Late { request: request.line, deadline, ran_us, answered })
        });
        this.into_iter().chain(late).max_by_key(|late| late.ran_us.saturating_sub(late.deadline.1))
    }

    /// It and those before it that were answered by an error of the server, and when the last of them was.
    fn failed(&self) -> Option<(FailedCalls, u64)> {
        let Some((status, answered)) = self.status.filter(|status| *status >= 500).zip(self.answered) else {
            return self.failed;
        };
        let FailedCalls { number, total_us, longest_us, .. } = self.failed.unwrap_or_default().0;
        let took_us = answered.saturating_sub(self.requested) / 1000;
        let failed = FailedCalls {
            status,
            number: number.saturating_add(1),
            total_us: total_us.saturating_add(took_us),
            longest_us: longest_us.max(took_us),
        };
        Some((failed, answered))
    }

    /// Whether these bytes are more of the head of its response.
    fn continues(&self, piece: &Piece<'_>) -> bool {
        self.way != Some(piece.way) && self.response.open_at == Some(piece.offset)
    }

    /// The head of its response, or a part of it.
    fn take(&mut self, piece: &Piece<'_>) {
        self.response.take(piece.bytes, piece.offset);
        if self.status.is_none()
            && let Some(status) = http::status(&self.response.head)
        {
            self.status = Some(status);
            self.answered = Some(piece.at);
        }
    }
}

/// How much earlier: one thread's way from the end of a write to the event of it.
const EARLY_NS: u64 = 20_000_000;

/// Turns the kernel's time into that of the watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(pub(crate) u64);

impl Epoch {
    fn us(self, at: u64) -> u64 {
        at.saturating_sub(self.0) / 1000
    }

    fn moment(self, at: u64) -> Option<Moment> {
        match at {
            0 => None,
            at if at < self.0 => Some(Moment::Before),
            at => Some(Moment::At(self.us(at))),
        }
    }
}

impl Lives {
    pub(crate) fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Piece(piece) => self.piece(&piece),
            Event::Dns(piece) if piece.way == Way::Write => {
                self.dns.sent(piece.bytes, piece.cookie, piece.tid, piece.remote, piece.at);
            }
            Event::Dns(piece) => self.dns.received(piece.bytes, piece.cookie, piece.at),
            Event::DnsRefused { cookie } => self.dns.refused(cookie),
            Event::Ended(raw) => self.end(*raw),
        }
    }

    fn piece(&mut self, piece: &Piece<'_>) {
        if self.heads.len() >= FOLLOWED_MAX && !self.heads.contains_key(&piece.cookie) {
            // Whose end was not told of: the half that is silent longest.
            let mut times: Vec<u64> = self.heads.values().map(|heads| heads.last_at).collect();
            let middle = times.len() / 2;
            let (_, &mut median, _) = times.select_nth_unstable(middle);
            self.heads.retain(|_, heads| heads.last_at > median);
            self.left_out += FOLLOWED_MAX as u64 / 2;
        }
        let heads = self.heads.entry(piece.cookie).or_default();
        heads.last_at = piece.at;
        heads.remote = piece.remote.map(|remote| remote.ip());
        heads.accepted = piece.flags & ACCEPTED != 0;
        heads.take(piece);
    }

    fn end(&mut self, raw: RawConnection) {
        // Told of once more, with what came after.
        if let Some((known, _)) = self.ended.iter_mut().rev().take(64).find(|(known, _)| same(known, &raw)) {
            *known = raw;
            return;
        }
        let heads = self.heads.remove(&raw.cookie).unwrap_or_default();
        self.sources.both().for_each(|sources| self.left_out += count_handshake(sources, &heads, true));
        self.ended.push((raw, heads));
        if self.ended.len() >= ENDED_MAX {
            self.ended.sort_by_cached_key(|(raw, heads)| std::cmp::Reverse(badness(raw, heads, raw.ended)));
            self.left_out += (self.ended.len() - ENDED_MAX / 2) as u64;
            self.ended.truncate(ENDED_MAX / 2);
        }
    }

    /// Another window begins; `open` are the connections that the process holds. What ended before `begin`, when the one
    /// that is shown now began, is forgotten.
    pub(crate) fn turn(&mut self, open: &[RawConnection], begin: u64) {
        self.sources.turn(HashMap::new());
        let silences = |raw: &RawConnection| Silences { read: Silence::of(&raw.read), write: Silence::of(&raw.write) };
        self.before.turn(open.iter().map(|raw| (raw.cookie, silences(raw))).collect());
        self.ended.retain(|(raw, _)| raw.ended >= begin);
        self.dns.forget_before(begin);
        // Of some the end was not told.
        let open: HashSet<u64> = open.iter().map(|raw| raw.cookie).collect();
        self.heads.retain(|cookie, heads| heads.last_at >= begin || open.contains(cookie));
    }

    /// What was seen in a window that began at `epoch`: `open` are the connections that the process still holds;
    /// `is_listener` tells whether the process listens on a port.
    pub(crate) fn observed(
        &self,
        open: &[RawConnection],
        now: u64,
        epoch: Epoch,
        is_listener: impl Fn(u16) -> bool,
        all_transfers: bool,
    ) -> Connections {
        let mut sources = self.sources.shown().clone();
        let nothing = Heads::default();
        let mut all: Vec<(RawConnection, &Heads)> = Vec::with_capacity(self.ended.len() + open.len());
        all.extend(self.ended.iter().filter(|(raw, _)| raw.ended >= epoch.0).map(|(raw, heads)| (*raw, heads)));
        let ended: HashSet<u64> = self.ended.iter().map(|(raw, _)| raw.cookie).collect();
        for raw in open.iter().copied() {
            // Its end was told of, or it was one too many to tell of; or `open` is older than its end.
            if ended.contains(&raw.cookie) && self.ended.iter().any(|(known, _)| same(known, &raw)) {
                continue;
            }
            let heads = self.heads.get(&raw.cookie).unwrap_or(&nothing);
            if heads.tls.as_deref().and_then(|tls| tls.hello_at).is_some_and(|at| at >= epoch.0) {
                // One that there is no room for is counted when it ends.
                count_handshake(&mut sources, heads, raw.has(ENDED));
            }
            all.push((raw, heads));
        }
        let before = self.before.shown();
        for (raw, _) in &mut all {
            if !all_transfers {
                raw.complete(now);
            }
            let before = before.get(&raw.cookie).copied().unwrap_or_default();
            raw.read.silences_since(before.read, epoch.0);
            raw.write.silences_since(before.write, epoch.0);
        }
        all.sort_by_cached_key(|(raw, heads)| std::cmp::Reverse(badness(raw, heads, now)));
        all.truncate(KEPT);
        let connections =
            all.iter().map(|(raw, heads)| connection(raw, heads, epoch, &is_listener, &self.dns)).collect();
        let mut handshakes: Vec<SourceHandshakes> = sources.into_values().collect();
        handshakes.sort_by(|a, b| (b.failed, b.begun, &a.source).cmp(&(a.failed, a.begun, &b.source)));
        handshakes.truncate(SOURCES_KEPT);
        let dns = self.dns.all().filter(|exchange| exchange.ends_at() >= epoch.0);
        let dns = dns.map(|exchange| DnsExchange { sent_us: epoch.us(exchange.sent), ..exchange.seen.clone() });
        Connections { connections, handshakes, dns: dns.collect(), ..Connections::default() }
    }
}

impl RawWay {
    /// Leaves of its silences those of a window. Where one before was longer than all in it, nobody knows the longest of
    /// these: it is as long as the mean of them, at least.
    fn silences_since(&mut self, before: Silence, begin: u64) {
        self.gaps_before = before.total;
        self.gaps = self.gaps.saturating_sub(before.total);
        if self.longest_gap_from.saturating_add(self.longest_gap) < begin {
            let count = u64::from(self.turns.saturating_sub(before.count));
            self.longest_gap = self.gaps.checked_div(count).unwrap_or(0);
            self.longest_gap_from = begin;
        }
    }
}

/// Counts a handshake for its source; says how many were left out because there are too many sources.
fn count_handshake(sources: &mut HashMap<IpAddr, SourceHandshakes>, heads: &Heads, ended: bool) -> u64 {
    let Some(tls) = heads.tls.as_deref().filter(|tls| heads.accepted && !tls.is_client() && tls.hello_at.is_some())
    else {
        return 0;
    };
    let Some(remote) = heads.remote else { return 0 };
    if sources.len() >= SOURCES_MAX && !sources.contains_key(&remote) {
        return 1;
    }
    let source = sources
        .entry(remote)
        .or_insert_with(|| SourceHandshakes { source: remote.to_string(), ..SourceHandshakes::default() });
    source.begun += 1;
    let failed = tls.alert_hidden || (tls.alert.is_some() && tls.done_at.is_none());
    if failed || (ended && tls.done_at.is_none()) {
        source.failed += 1;
    } else if tls.done_at.is_some() {
        source.completed += 1;
    }
    if let Some(name) = tls.hello().and_then(|hello| hello.sni.as_ref()) {
        source.sni = Some(name.clone());
    }
    if let Some((code, _)) = tls.alert.filter(|_| tls.done_at.is_none()) {
        source.alert = Some(code);
    }
    0
}

impl Heads {
    fn take(&mut self, piece: &Piece<'_>) {
        let bytes = piece.bytes;
        if let Some(tls) = &mut self.tls {
            tls.feed(piece.way, piece.offset, bytes, piece.at);
            return;
        }
        let from_start = piece.offset == 0 && piece.flags & BEFORE == 0;
        if piece.way == Way::Read
            && let Some(frames) = &mut self.frames
        {
            frames.feed(piece.offset, bytes);
        } else if from_start && self.http.is_none() && Handshake::begins(bytes) {
            let mut tls = Box::<Handshake>::default();
            tls.feed(piece.way, 0, bytes, piece.at);
            self.tls = Some(tls);
        } else if from_start && http::is_http2(bytes) {
            self.http2 = true;
        } else if from_start && piece.way == Way::Read && http2::begins(bytes) {
            let mut frames = http2::Frames::default();
            frames.feed(0, bytes);
            self.frames = Some(frames);
        } else if let Some(early) = self.early.as_mut().filter(|early| early.continues(piece)) {
            early.response.take(bytes, piece.offset);
        } else if let Some(exchange) = self.http.as_mut().filter(|exchange| exchange.continues(piece)) {
            exchange.take(piece);
        } else if let Some(request) = http::request(bytes) {
            let way = Some(piece.way);
            let mut exchange = Exchange { request, way, requested: piece.at, ..Exchange::default() };
            if let Some(before) = self.http.take() {
                exchange.follows(*before);
            }
            // Where one thread writes and another reads, an answer may be read before the write is told.
            if let Some(early) = self.early.take()
                && early.way != piece.way
                && piece.at.saturating_sub(early.at) < EARLY_NS
            {
                exchange.status = Some(early.status);
                exchange.answered = Some(early.at.max(piece.at));
                exchange.response = early.response;
            }
            self.http = Some(Box::new(exchange));
        } else if self.http.is_none()
            && piece.way == Way::Write
            && let Some(command) = redis::command(bytes)
        {
            if !self.redis.as_deref().is_some_and(redis_waits) {
                self.redis = Some(command);
            }
        } else if self.http.is_none()
            && let Some(status) = http::status(bytes)
        {
            let response = Response::read(bytes, piece.offset);
            self.early = Some(Early { way: piece.way, status, at: piece.at, response });
        } else if let Some(exchange) = &mut self.http
            && exchange.way != Some(piece.way)
            && exchange.status.is_none()
        {
            match http::not_http(bytes) {
                // The next request came before the answer to this was told of.
                None if piece.at < exchange.requested && exchange.unanswered.is_some() => {
                    if let Some(mut before) = exchange.unanswered.take() {
                        before.take(piece);
                        exchange.follows(*before);
                    }
                }
                None => exchange.take(piece),
                Some(other) if from_start => exchange.response.not_http = Some(other),
                Some(_) => {}
            }
        }
    }
}

/// The same connection of the same socket.
fn same(a: &RawConnection, b: &RawConnection) -> bool {
    a.cookie == b.cookie && a.opened == b.opened
}

/// How much a connection is worth showing: failed ones, then by how long something was waited for.
fn badness(raw: &RawConnection, heads: &Heads, now: u64) -> (u8, u64) {
    let broken = raw.error != 0 || raw.has(RESET_RECEIVED) || raw.has(RESET_SENT);
    let never = raw.has(OPENED) && raw.established == 0;
    let tls = heads.tls.as_deref().is_some_and(|tls| tls.hello_at.is_some() && tls.done_at.is_none());
    let class = match (never || tls, broken) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    };
    let end = if raw.ended == 0 { now } else { raw.ended };
    let connecting = if never { end.saturating_sub(raw.opened) } else { raw.established.saturating_sub(raw.opened) };
    let handshake =
        heads.tls.as_deref().and_then(|tls| tls.hello_at.map(|hello| tls.done_at.unwrap_or(end).saturating_sub(hello)));
    let waited = if raw.has(ACCEPTED) { raw.write.longest_gap } else { raw.read.longest_gap };
    // Still waiting, or until the end: who speaks last waits.
    let (own, peer) = if raw.has(ACCEPTED) { (raw.read.last, raw.write.last) } else { (raw.write.last, raw.read.last) };
    let waiting = if own > peer { end.saturating_sub(own) } else { 0 };
    (class, connecting.max(handshake.unwrap_or(0)).max(waited).max(waiting))
}

fn connection(
    raw: &RawConnection,
    heads: &Heads,
    epoch: Epoch,
    is_listener: impl Fn(u16) -> bool,
    dns: &Exchanges,
) -> Connection {
    let before = raw.has(BEFORE);
    let side = if raw.has(OPENED) {
        Side::Client
    } else if raw.has(ACCEPTED) || raw.local.is_some_and(|local| is_listener(local.port())) {
        Side::Server
    } else {
        Side::Unknown
    };
    let past = before.then_some(Moment::Before);
    Connection {
        cookie: raw.cookie,
        local: raw.local.filter(|local| local.port() != 0),
        remote: raw.remote,
        side,
        fd: raw.fd,
        tid: (raw.tid != 0).then_some(raw.tid),
        opened: past.or(epoch.moment(raw.opened)),
        established: past.or(epoch.moment(raw.established)),
        closed: epoch.moment(raw.ended),
        closed_by_us: raw.has(BY_US),
        errno: (raw.error != 0).then_some(raw.error),
        syn_retransmits: raw.syn_retransmits,
        retransmits: raw.retransmits,
        reset_received: raw.has(RESET_RECEIVED),
        reset_sent: raw.has(RESET_SENT),
        fin_received: epoch.moment(raw.fin),
        read_bytes: raw.read.bytes,
        written_bytes: raw.write.bytes,
        first_write: epoch.moment(raw.write.first),
        last_write: epoch.moment(raw.write.last),
        first_read: epoch.moment(raw.read.first),
        last_read: epoch.moment(raw.read.last),
        turns: raw.read.turns,
        read_gaps: gaps(&raw.read, epoch),
        write_gaps: gaps(&raw.write, epoch),
        heads_hidden: raw.has(BLIND),
        resolved: resolved(raw, epoch, dns),
        http2: heads.http2,
        tls: heads.tls.as_deref().map(|tls| tls_seen(tls, raw, epoch)),
        redis: heads.redis.clone(),
        goaway: heads.frames.as_ref().and_then(|frames| frames.goaway),
        http: heads.http.as_deref().map(|exchange| http_seen(exchange, raw, epoch)),
    }
}

fn http_seen(exchange: &Exchange, raw: &RawConnection, epoch: Epoch) -> HttpHead {
    let response = &exchange.response;
    let is_ours = exchange.way == Some(Way::Write);
    let has_body = exchange.status.is_some_and(|status| !http::has_no_body(&exchange.request, status));
    let half_head = is_ours && response.open_at == Some(raw.read.bytes);
    let body_at = response.body_at.filter(|_| is_ours && has_body);
    let came = body_at.map(|at| raw.read.bytes.min(response.ends_at.unwrap_or(u64::MAX)).saturating_sub(at));
    let head_end = body_at.or(response.open_at.filter(|_| half_head));
    HttpHead {
        request: exchange.request.line.clone(),
        host: exchange.request.host.clone(),
        requested: epoch.moment(exchange.requested),
        status: exchange.status,
        answered: exchange.answered.and_then(|at| epoch.moment(at)),
        deadline_us: exchange.request.deadline_us.clone(),
        late: exchange.late.as_ref().filter(|late| late.answered >= epoch.0).map(|late| LateCall {
            request: late.request.clone(),
            header: late.deadline.0.clone(),
            allowed_us: late.deadline.1,
            ran_us: late.ran_us,
        }),
        failed: exchange.failed().filter(|(_, last)| *last >= epoch.0).map(|(failed, _)| failed),
        // Of a connection that was there before, not all bytes were counted.
        missing_bytes: response
            .ends_at
            .filter(|_| raw.has(OPENED) && is_ours && has_body)
            .map(|end| end.saturating_sub(raw.read.bytes)),
        head_bytes: head_end.map(|end| end.saturating_sub(response.begins_at)),
        body_bytes: came.or(half_head.then_some(0)),
        // The end of the head looks like the end of the last chunk.
        chunks_ended: (is_ours && has_body && raw.has(CHUNKED))
            .then_some(raw.tail == *b"\r\n\r\n" && came.is_none_or(|came| came > 0)),
        asks_to_wait: exchange.request.asks_to_wait,
        asks_by_name: exchange.request.asks_by_name,
        is_events: is_ours && response.is_events,
        half_head,
        not_http: response.not_http.clone().filter(|_| is_ours),
    }
}

fn gaps(way: &RawWay, epoch: Epoch) -> Gaps {
    Gaps {
        total_us: way.gaps / 1000,
        before_us: way.gaps_before / 1000,
        longest_us: way.longest_gap / 1000,
        longest_at_us: epoch.us(way.longest_gap_from),
    }
}

fn tls_seen(tls: &Handshake, raw: &RawConnection, epoch: Epoch) -> TlsHandshake {
    let hello = tls.hello();
    let unanswered = tls.unanswered(raw.read.bytes, raw.write.bytes);
    let done = tls.done_at.and_then(|at| epoch.moment(at));
    TlsHandshake {
        client: tls.is_client(),
        sni: hello.and_then(|hello| hello.sni.clone()),
        alpn: hello.map(|hello| hello.alpn.clone()).unwrap_or_default(),
        version: tls.version(),
        hello: tls.hello_at.and_then(|at| epoch.moment(at)),
        answered: tls.answered_at.and_then(|at| epoch.moment(at)),
        done: match done {
            Some(Moment::At(at)) if tls.done_inferred => Some(Moment::Inferred(at)),
            done => done,
        },
        alert: tls.alert.map(|(code, way)| (code, way == Way::Read)),
        alert_hidden: tls.alert_hidden,
        not_tls: tls.not_tls.clone(),
        unanswered: unanswered.and_then(|it| match epoch.moment(it.at) {
            Some(Moment::At(at)) => Some(Moment::Inferred(at)),
            moment => moment,
        }),
        asked_bytes: unanswered.map_or(0, |it| it.bytes),
        ticket_bytes: unanswered.map_or(0, |it| it.tickets),
    }
}

/// The lookup that gave the connection's address, if all that could be it are of one name.
fn resolved(raw: &RawConnection, epoch: Epoch, dns: &Exchanges) -> Option<Resolved> {
    let remote = raw.remote.as_ref().map(SocketAddr::ip).filter(|_| raw.has(OPENED))?;
    let recent = |at: u64| at <= raw.opened && raw.opened - at <= LOOKUP_MAX_AGE;
    let mut name = None;
    for exchange in dns.all() {
        if exchange.answered.is_some_and(recent) && exchange.addresses.contains(&remote) {
            if name.is_some_and(|name| name != &exchange.seen.name) {
                return None;
            }
            name = Some(&exchange.seen.name);
        }
    }
    let name = name?;
    // The other kinds of address were asked for at the same time, and waited for; earlier lookups of the same name
    // were for other connections.
    let newest = |exchanges: &mut dyn Iterator<Item = &super::dns::Exchange>| exchanges.map(|e| e.sent).max();
    let same_name =
        || dns.all().filter(|exchange| &exchange.seen.name == name && exchange.answered.is_some_and(recent));
    let last = newest(&mut same_name().filter(|exchange| exchange.addresses.contains(&remote)))?;
    let together = || same_name().filter(|exchange| exchange.sent.abs_diff(last) < 50_000_000);
    let sent = together().map(|exchange| exchange.sent).min()?;
    let answered = together().filter_map(|exchange| exchange.answered).max()?;
    let duration_us = epoch.us(answered).saturating_sub(epoch.us(sent));
    Some(Resolved { name: name.clone(), sent_us: epoch.us(sent), duration_us })
}
