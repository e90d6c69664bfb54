//! One request on a connection to a server, and its answer: both directions at once.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf as _, BytesMut};
use overdue::{
    Alarm,
    h1::{Framing, HEAD_MAX, request::only_crlf, response},
};
use overdue_core::{
    Limit, LimitName, Limits, Stage,
    facts::{Failure, OsFailure},
};

use super::{
    connection::Client,
    flow::{Broken, Flow, Flowing, grpc_status},
    head::{Prepared, Told, write_response},
    side::Side,
};
use crate::{
    clock, http2,
    upstream::ServerIo,
    worker::{Live, Worker},
};

/// A connection that is no longer one of HTTP.
pub(crate) const TUNNEL: Stage = Stage::Named("tunnel");
/// How long a refusal is held back that is to go out in one piece. Then its client gets what there is.
const HELD_BACK: Duration = Duration::from_millis(400);
/// Informational heads (100 to 199) before the final one.
const INFORMATIONAL_MAX: usize = 32;

/// An instant after which there is no point in going on, and whose word that is.
#[derive(Clone, Copy)]
pub(crate) struct Due<'l> {
    pub(crate) at: Instant,
    pub(crate) limit: &'l Limit,
}

impl<'l> Due<'l> {
    pub(crate) fn after(begun: Instant, limit: Option<&'l Limit>) -> Option<Self> {
        limit.and_then(|limit| Some(Self { at: begun.checked_add(limit.value)?, limit }))
    }

    /// The earlier of two; of two at the same instant the first, which is the inner one and says more.
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if other.at < one.at => Some(other),
            (Some(one), _) => Some(one),
            (None, other) => other,
        }
    }

    /// Ready with the failure once it has come, and how late that was noticed.
    pub(crate) fn poll(due: Option<Self>, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<(Failure, Duration)> {
        let Some(due) = due else { return Poll::Pending };
        alarm
            .poll(cx, due.at)
            .map(|noticed| (Failure::DeadlinePassed(due.limit.clone()), noticed.saturating_duration_since(due.at)))
    }
}

/// Who did not do what was due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Party {
    Client,
    Server,
    /// This process.
    Gate,
}

/// What ended a request before its time.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) stage: Stage,
    pub(crate) party: Party,
    pub(crate) failure: Failure,
    pub(crate) late_by: Duration,
    /// How long nothing had moved.
    pub(crate) silent: Duration,
    /// Whether its party was to take what waited for it, and not to send anything.
    pub(crate) takes: bool,
}

impl Trouble {
    pub(crate) const fn of(stage: Stage, party: Party, failure: Failure) -> Self {
        Self { stage, party, failure, late_by: Duration::ZERO, silent: Duration::ZERO, takes: false }
    }

    /// The end of the gateway, once it waits for nobody any more.
    pub(crate) fn cut(worker: &Worker, stage: Stage) -> Option<Self> {
        let reason = worker.why_cut()?.to_owned();
        Some(Self::of(stage, Party::Gate, Failure::Cancelled { reason, at: None }))
    }

    /// Whether it says something about the server: not where this process, the client, or a limit of the caller's ended it.
    pub(crate) fn is_servers(&self) -> bool {
        let own =
            matches!(self.failure, Failure::Os { kind: OsFailure::NoDescriptors | OsFailure::AddressNotAvailable, .. });
        self.party == Party::Server && !own && !self.is_callers()
    }

    /// Whether a limit of the caller's ended it.
    pub(crate) fn is_callers(&self) -> bool {
        matches!(&self.failure, Failure::DeadlinePassed(limit) if limit.name == LimitName::Total)
    }
}

pub(crate) struct Exchange<'a, S> {
    pub(crate) client: &'a mut Side<S>,
    pub(crate) server: &'a mut Side<ServerIo>,
    pub(crate) worker: &'a Worker,
    pub(crate) live: &'a Live,
    pub(crate) request: &'a Prepared,
    pub(crate) limits: &'a Limits,
    pub(crate) total: Option<Due<'a>>,
    pub(crate) body_max: u64,
    pub(crate) began: Instant,
    pub(crate) to_server: Flow,
    pub(crate) to_client: Option<Flow>,
    pub(crate) seen: Seen,
}

/// What was seen of an exchange.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) sent: Option<Instant>,
    /// When the server had all but the body, if it owes a word for that.
    pub(crate) asked: Option<Instant>,
    pub(crate) head: Option<Instant>,
    pub(crate) status: u16,
    pub(crate) told: Option<Told>,
    /// It ended while the answer was held back: nothing of that was written.
    pub(crate) held_back: bool,
    /// The client broke its stream: nothing can be said on it any more.
    pub(crate) broken: bool,
    /// Of a gRPC call, where its outcome is in the head.
    pub(crate) grpc: Option<u8>,
    /// What the answer said its body has.
    pub(crate) expected: Option<u64>,
    pub(crate) server_keeps: bool,
    pub(crate) tunnel: bool,
    /// When something of the answer last came, as far as it did not end it.
    pub(crate) read_at: Option<Instant>,
    /// What had been read of the connection by then, with what came before this request.
    read: u64,
    informational: usize,
    /// It was asked for the body (100).
    continued: bool,
    /// Heads before the final one that are to be written to the client.
    interim: BytesMut,
    /// How long the request waited for its client, and since when it does.
    pub(crate) client_took: Duration,
    client_since: Option<Instant>,
    /// What the request, and what the answer, last waited for.
    request_waits: Option<Flowing>,
    answer_waits: Option<Flowing>,
    /// So many bytes of the answer are no whole head.
    parsed: usize,
    /// Writing to the server failed; it may have answered before.
    pub(crate) write_failed: Option<io::Error>,
    moved: u64,
    moved_at: Option<Instant>,
    /// So much of the request's body had come, and when: as much again has to come in time.
    paced: Option<(u64, Instant)>,
}

impl Seen {
    /// Nothing yet, on a connection of which so much was read before.
    pub(crate) fn after(read: u64) -> Self {
        Self { read, ..Self::default() }
    }
}

impl<'a, S: Client> Exchange<'a, S> {
    /// Ready when the answer is written, or when nothing more is to be expected.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Result<(), Trouble>> {
        if let Some(trouble) = Trouble::cut(self.worker, self.stage()) {
            return Poll::Ready(Err(trouble));
        }
        loop {
            match self.go_on(cx) {
                Ok(Poll::Ready(())) => return Poll::Ready(Ok(())),
                Ok(Poll::Pending) => {}
                Err(trouble) => return Poll::Ready(Err(*trouble)),
            }
            if self.server.read != self.seen.read {
                self.seen.read = self.server.read;
                self.seen.read_at = Some(clock::now());
            }
            let (due, (party, takes)) = self.due();
            if let (Some(until), Some(flow)) = (self.held_until(), &mut self.to_client)
                && due.is_none_or(|due| until < due.at)
            {
                ready!(alarm.poll(cx, until));
                flow.let_go();
                continue;
            }
            return Due::poll(due, alarm, cx)
                .map(|(failure, late_by)| Err(Trouble { late_by, takes, ..self.trouble(party, failure) }));
        }
    }

    /// When what is held back of the answer is written after all.
    fn held_until(&self) -> Option<Instant> {
        self.to_client.as_ref().filter(|flow| flow.is_held_back())?;
        self.seen.head?.checked_add(HELD_BACK)
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Box<Trouble>> {
        let buffers = &self.worker.buffers;
        if self.seen.sent.is_none() && self.seen.write_failed.is_none() {
            let polled = self.to_server.poll(cx, self.client, self.server, buffers, self.body_max);
            let waits = matches!(polled, Ok(Flowing::NeedsSender)).then(clock::now);
            if let Some(since) = std::mem::replace(&mut self.seen.client_since, waits) {
                let until = waits.unwrap_or_else(clock::now);
                self.seen.client_took += until.saturating_duration_since(since);
            }
            match polled {
                Ok(Flowing::Done) if self.seen.tunnel => self.seen.sent = Some(clock::now()),
                Ok(Flowing::Done) => {
                    let now = clock::now();
                    self.seen.sent = Some(now);
                    if self.to_client.is_none() {
                        self.live.enter(Stage::Wait, now);
                    }
                }
                Ok(waits) => self.seen.request_waits = Some(waits),
                Err(Broken::Receiver(err)) => match http2::unsayable(&err) {
                    Some(why) => return Err(Box::new(self.trouble(Party::Client, Failure::Protocol(why)))),
                    // A server that answers and closes makes our write fail; its answer may be on its way.
                    None => self.seen.write_failed = Some(err),
                },
                Err(Broken::SenderClosed) => return Err(self.client_left("it closed before the end of its request")),
                Err(Broken::Sender(err)) => return Err(self.client_ended(err)),
                Err(Broken::Framing(text)) => {
                    return Err(Box::new(self.trouble(Party::Client, Failure::Protocol(text))));
                }
                Err(Broken::TooLong) => {
                    let text =
                        format!("the request's body is longer than the {} bytes that its route takes", self.body_max);
                    return Err(Box::new(self.trouble(Party::Client, Failure::RequestBody(text))));
                }
            }
        }
        if self.to_client.is_none() {
            let head = self.poll_head(cx)?;
            self.write_interim(cx)?;
            if head.is_pending() {
                return self.watch_client(cx);
            }
            if self.seen.tunnel {
                // The way to the server begins anew.
                return self.go_on(cx);
            }
        }
        let Some(to_client) = &mut self.to_client else { return Ok(Poll::Pending) };
        match to_client.poll(cx, self.server, self.client, buffers, u64::MAX) {
            // A tunnel ends when both directions have.
            Ok(done @ Flowing::Done) if self.seen.tunnel && self.seen.sent.is_none() => {
                self.seen.answer_waits = Some(done);
                Ok(Poll::Pending)
            }
            Ok(Flowing::Done) => Ok(Poll::Ready(())),
            Ok(waits) => {
                self.seen.answer_waits = Some(waits);
                let is_served = to_client.lacks_trailers_only() && self.seen.sent.is_some();
                self.watch_client(cx).or_else(|left| if is_served { Ok(Poll::Ready(())) } else { Err(left) })
            }
            Err(Broken::SenderClosed) => Err(Box::new(self.trouble(Party::Server, Failure::Closed))),
            Err(Broken::Sender(err)) => Err(Box::new(self.trouble(Party::Server, http2::failure("read", err)))),
            Err(Broken::Framing(text)) => Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text)))),
            Err(Broken::Receiver(err)) => Err(self.client_left(&err.to_string())),
            // There is no such limit.
            Err(Broken::TooLong) => Ok(Poll::Ready(())),
        }
    }

    /// A client that closes while it waits has no use for the answer.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Box<Trouble>> {
        // Until the request is sent, its body is what is read. What comes behind it is the next request.
        if self.seen.sent.is_none() || self.seen.tunnel {
            return match self.client.io.poll_gone(cx) {
                Poll::Ready(err) => Err(self.client_ended(err)),
                Poll::Pending => Ok(Poll::Pending),
            };
        }
        match self.client.poll_end(cx, &self.worker.buffers) {
            Poll::Ready(how) => Err(self.client_left(&how)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// What comes before the final head is sent at once: the client may wait for it.
    fn write_interim(&mut self, cx: &mut Context<'_>) -> Result<(), Box<Trouble>> {
        while !self.seen.interim.is_empty() {
            match self.client.poll_write(cx, &self.seen.interim, &[]) {
                Poll::Ready(Ok(bytes)) => self.seen.interim.advance(bytes),
                Poll::Ready(Err(err)) => return Err(self.client_left(&err.to_string())),
                Poll::Pending => return Ok(()),
            }
            if let Poll::Ready(Err(err)) = Pin::new(&mut self.client.io).poll_flush(cx) {
                return Err(self.client_left(&err.to_string()));
            }
        }
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Box<Trouble>> {
        loop {
            let bytes = self.server.bytes();
            let new = bytes.get(self.seen.parsed..).unwrap_or_default();
            // A head, and each line of it, ends with a newline: parsed for every byte that comes, one that comes byte by
            // byte would cost the square of its length.
            if new.contains(&b'\n') || bytes.len() >= HEAD_MAX {
                if self.take_head()? {
                    return Ok(Poll::Ready(()));
                }
                if self.server.bytes().len() > self.seen.parsed {
                    continue;
                }
            } else {
                self.seen.parsed = bytes.len();
            }
            match self.server.poll_fill(cx, &self.worker.buffers) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Err(Box::new(self.no_answer(Failure::Closed))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(err)) => return Err(Box::new(self.no_answer(http2::failure("read", err)))),
            }
        }
    }

    /// True once the final head was taken. What comes before it goes on as it came.
    fn take_head(&mut self) -> Result<bool, Box<Trouble>> {
        let mut room = response::room();
        if matches!(self.server.bytes(), [b'\r' | b'\n', ..]) {
            let text = "its answer begins with an empty line".to_owned();
            return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text))));
        }
        let head = match response::parse(self.server.bytes(), self.request.is_head, &mut room) {
            Ok(Some(head)) if head.said.lengths > 1 => {
                let text = "it sent Content-Length twice".to_owned();
                return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text))));
            }
            Ok(Some(head)) => head,
            Ok(None) => {
                self.seen.parsed = self.server.bytes().len();
                return Ok(false);
            }
            Err(text) => return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text)))),
        };
        let (length, status, framing) = (head.length, head.status, head.framing);
        let switches = status == 101;
        if switches && !self.request.upgrade {
            let text = "it switches protocols, which nobody asked for".to_owned();
            return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text))));
        }
        if status < 200 && !switches {
            self.seen.informational += 1;
            self.seen.continued |= status == 100;
            if self.seen.informational > INFORMATIONAL_MAX {
                let text = format!("it sent more than {INFORMATIONAL_MAX} informational responses");
                return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text))));
            }
            // What is waited for by an `Expect` must come through; HTTP/1.0 knows nothing of the kind.
            if self.request.is_1_1 {
                write_response(&mut self.seen.interim, &head, "", false, true, true);
            }
            self.server.used(length);
            self.seen.parsed = 0;
            return Ok(false);
        }
        if let Err(text) = self.client.io.check_answer(status, head.fields) {
            return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text))));
        }
        only_crlf(self.server.bytes().get(..length).unwrap_or_default())
            .map_err(|why| Box::new(self.trouble(Party::Server, Failure::Protocol(format!("in its head {why}")))))?;
        if switches && self.seen.sent.is_none() {
            let text = "it switches protocols before it has the request".to_owned();
            return Err(Box::new(self.trouble(Party::Server, Failure::Protocol(text))));
        }
        // The rest of a body that nobody wants cannot be told from a next request.
        let unread = !self.to_server.has_ended();
        let keep = self.request.keep_alive && !unread && !self.worker.is_draining();
        let mut out = self.worker.buffers.lend();
        out.extend_from_slice(&std::mem::take(&mut self.seen.interim));
        let line = self.live.line.borrow();
        let told = write_response(&mut out, &head, line.id(), self.request.is_head, self.request.is_1_1, keep);
        drop(line);
        self.seen.server_keeps = head.keep_alive;
        self.seen.told = Some(told);
        self.seen.status = status;
        if self.request.is_grpc {
            self.seen.grpc = head.fields.iter().find_map(grpc_status);
        }
        self.seen.expected = match framing {
            Framing::Length(length) => Some(length),
            _ => None,
        };
        self.server.used(length);
        let now = clock::now();
        self.seen.head = Some(now);
        self.live.enter(Stage::Receive, now);
        if switches {
            self.seen.tunnel = true;
            // It has no end that would be due.
            if let Some(request) = &mut *self.live.request.borrow_mut() {
                request.deadline = None;
            }
            self.live.enter(TUNNEL, now);
            // It was sent as a request; from now on whatever comes goes on.
            self.seen.sent = None;
            self.to_server = Flow::tunnel(BytesMut::new());
            self.to_client = Some(Flow::tunnel(out));
        } else {
            let answer = Flow::new(out, framing, told.chunks);
            // There are clients (curl 7.88) that end the body of their request short of its length once they see such a status,
            // for which HTTP/2 resets the stream: what of the answer is not on its way by then is lost.
            let stops_client = unread && status >= 300 && self.live.is_stream;
            self.to_client = Some(if stops_client { answer.in_one_piece() } else { answer });
        }
        Ok(true)
    }

    /// The earliest of the limits that hold now, and who is waited for.
    fn due(&mut self) -> (Option<Due<'a>>, (Party, bool)) {
        let limits = self.limits;
        let (stage, party) = if self.to_client.is_some() {
            let moved_at = self.moved_at();
            (Due::after(moved_at, limits.gap.as_ref()), self.who_is_waited_for())
        } else if let Some(sent) = self.seen.sent.or_else(|| self.asked()) {
            (Due::after(sent, limits.wait.as_ref()), (Party::Server, false))
        } else {
            let moved_at = self.moved_at();
            let gap = Due::after(moved_at, limits.gap.as_ref());
            let pace = Due::earlier(self.pace(moved_at), gap);
            (Due::earlier(Due::after(self.began, limits.send.as_ref()), pace), self.who_is_waited_for())
        };
        // A tunnel is no call: it has no end but silence.
        let total = if self.seen.tunnel { None } else { self.total };
        (Due::earlier(stage, total), party)
    }

    /// When the next bytes of the body have to be there, so many that its client is not too slow. While the server takes
    /// no more, that is no matter of the client's; nor is what comes before the first byte, for which it may wait to be
    /// asked (`Expect`).
    fn pace(&mut self, moved_at: Instant) -> Option<Due<'a>> {
        let limit = self.request.pace.as_ref()?;
        let LimitName::Rate(least) = limit.name else { return None };
        let moved = self.to_server.moved;
        if moved == 0 || self.seen.request_waits != Some(Flowing::NeedsSender) {
            self.seen.paced = None;
            return None;
        }
        let (_, since) = match self.seen.paced {
            Some(paced) if moved - paced.0 < least => paced,
            _ => *self.seen.paced.insert((moved, moved_at)),
        };
        Due::after(since, Some(limit))
    }

    /// When something last moved. Looked at when nothing does, so that bytes that move cost no clock.
    fn moved_at(&mut self) -> Instant {
        let moved = self.client.read + self.client.written + self.server.read + self.server.written;
        match self.seen.moved_at {
            Some(at) if self.seen.moved == moved => at,
            _ => {
                self.seen.moved = moved;
                *self.seen.moved_at.insert(clock::now())
            }
        }
    }

    /// Whose turn it is, and whether that is to take something.
    fn who_is_waited_for(&self) -> (Party, bool) {
        let request = self.seen.request_waits.filter(|_| self.seen.sent.is_none() && self.seen.write_failed.is_none());
        if self.to_client.is_none() {
            let takes = request == Some(Flowing::NeedsReceiver);
            return (if takes { Party::Server } else { Party::Client }, takes);
        }
        match (self.seen.answer_waits, request) {
            (Some(Flowing::NeedsReceiver), _) => (Party::Client, true),
            (_, Some(Flowing::NeedsReceiver)) => (Party::Server, true),
            // A server that has begun to answer may still want the rest of a body that said how long it is. One without a
            // length, and a tunnel, may be silent for as long as the other side is.
            (Some(Flowing::Done), Some(_)) => (Party::Client, false),
            (_, Some(_)) if self.to_server.left().is_some() && !self.need_not_send() => (Party::Client, false),
            _ => (Party::Server, false),
        }
    }

    /// Whether the server has not said yet that it wants the body, for which the client waits (RFC 9110, 10.1.1).
    pub(crate) fn owes_a_word(&self) -> bool {
        self.to_client.is_none()
            && self.request.is_1_1
            && self.seen.request_waits == Some(Flowing::NeedsSender)
            && self.need_not_send()
    }

    /// Whether the client waits for a word before it sends its body, and none came: after an answer, none is needed.
    fn need_not_send(&self) -> bool {
        !self.seen.continued && self.to_server.expects_a_word()
    }

    /// Since when that is so. Until it is said, the request is one that waits for its server.
    fn asked(&mut self) -> Option<Instant> {
        let owes = self.owes_a_word();
        if owes != self.seen.asked.is_some() {
            let now = clock::now();
            self.live.enter(if owes { Stage::Wait } else { Stage::Send }, now);
            self.seen.asked = owes.then_some(now);
            // What the client sends now, it could not send before.
            self.began = now;
        }
        self.seen.asked
    }

    fn stage(&self) -> Stage {
        match (&self.to_client, self.seen.sent) {
            _ if self.seen.tunnel => TUNNEL,
            (Some(_), _) => Stage::Receive,
            (None, Some(_)) => Stage::Wait,
            (None, None) if self.owes_a_word() => Stage::Wait,
            (None, None) => Stage::Send,
        }
    }

    fn trouble(&self, party: Party, failure: Failure) -> Trouble {
        let silent = self.seen.moved_at.map_or(Duration::ZERO, |at| clock::now().saturating_duration_since(at));
        Trouble { silent, ..Trouble::of(self.stage(), party, failure) }
    }

    /// The server ended the connection without a head. Where our write had failed before, that says more.
    fn no_answer(&mut self, failure: Failure) -> Trouble {
        let failure = self.seen.write_failed.take().map_or(failure, |err| http2::failure("write", err));
        self.trouble(Party::Server, failure)
    }

    /// The end of the client's connection, or stream, where more was due.
    fn client_ended(&mut self, err: io::Error) -> Box<Trouble> {
        let failure = why_ended(err, self.client.io.cut_off().is_some());
        self.seen.broken = matches!(failure, Failure::Protocol(_));
        Box::new(self.trouble(Party::Client, failure))
    }

    fn client_left(&self, how: &str) -> Box<Trouble> {
        Box::new(self.trouble(Party::Client, left(how)))
    }
}

pub(super) fn left(how: &str) -> Failure {
    Failure::Cancelled { reason: format!("the client left: {how}"), at: None }
}

/// Why a client's connection, or stream, ended. One that breaks HTTP/2 has not left. Where that took the whole connection,
/// who cut it off says why.
pub(super) fn why_ended(err: io::Error, is_cut_off: bool) -> Failure {
    let how = err.to_string();
    match http2::failure("read", err) {
        Failure::Protocol(text) if !is_cut_off => Failure::Protocol(text),
        _ => left(&how),
    }
}
