//! A connection of a client, from its first byte to its last.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{self, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use overdue::{
    Alarm, Context,
    h1::{fields::Field, request::skip_empty_lines},
    socket,
};
use overdue_core::{
    Deadline, Limit, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, ExchangeFacts, Failure, H2Facts, SocketFacts},
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{
    answer::{self, Known, Told},
    attempt::Missed,
    exchange::{Due, Party, TUNNEL, Trouble},
    head::{NotServed, Prepared, prepare},
    side::{Side, Trailing},
};
use crate::{
    arrive::Arrival,
    clock, http2,
    log::{Entry, FirstAttempt, Marks},
    policy,
    tls::{Door, H2},
    upstream::Server,
    worker::{HEAD, InFlight, Listed, Live, Plan, Worker},
};

/// What clients connect with.
pub(crate) trait Client: Trailing {
    /// What it is called in `X-Forwarded-Proto`.
    fn scheme(&self) -> &'static str;

    /// What the kernel says of the connection now.
    fn observe(&self, peer: SocketAddr) -> SocketFacts;

    /// The address that the client connected to.
    fn local_addr(&self) -> Option<SocketAddr>;

    /// Ready once it is known without reading that the client wants no answer. Of a connection, only reading tells.
    fn poll_gone(&mut self, _: &mut task::Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Whether this answer is one to what the client asked for.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check_answer(&self, _: u16, _: &[Field<'_>]) -> Result<(), String> {
        Ok(())
    }

    /// Why this side ended the connection that it was, where it did: then it was not the client who left.
    fn cut_off(&self) -> Option<String> {
        None
    }

    /// Lets it end so that the client sees that something was cut: an end that looks like any other would make a cut
    /// answer look whole.
    fn abort(&mut self);
}

impl Client for TcpStream {
    fn scheme(&self) -> &'static str {
        "http"
    }

    fn observe(&self, peer: SocketAddr) -> SocketFacts {
        socket::observe(self.as_fd(), self.local_addr().ok(), Some(peer))
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        Self::local_addr(self).ok()
    }

    fn abort(&mut self) {
        reset(self);
    }
}

impl Client for TlsStream<TcpStream> {
    fn scheme(&self) -> &'static str {
        "https"
    }

    fn observe(&self, peer: SocketAddr) -> SocketFacts {
        self.get_ref().0.observe(peer)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.get_ref().0.local_addr().ok()
    }

    fn abort(&mut self) {
        reset(self.get_ref().0);
    }
}

/// Lets a connection end with a reset.
fn reset(io: &TcpStream) {
    let _ = socket2::SockRef::from(io).set_linger(Some(Duration::ZERO));
}

/// How long a client may take for an answer of our own, which is a few hundred bytes.
const ANSWER: Duration = Duration::from_secs(10);
/// How long what a client goes on sending is thrown away after an answer that refuses it: closed at once, the kernel
/// would reset the connection, and the client might never see the answer. A stream of HTTP/2 is reset after it, with NO_ERROR:
/// there are clients (curl 7.88) that take an answer for cut when a reset comes right behind it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 * 1024 * 1024;

/// A connection of a client, and where it stands.
pub(super) struct Connection<S> {
    pub(super) client: Side<S>,
    pub(super) worker: Rc<Worker>,
    pub(super) listed: Listed,
    pub(super) listener: SocketAddr,
    pub(super) alarm: Alarm,
    /// When the limit for the next head, or for idleness, began.
    pub(super) since: Instant,
    pub(super) served: u64,
}

/// A request that failed, and what is known of it.
pub(super) struct Failed<'a> {
    pub(super) trouble: Trouble,
    /// What it was, and the server that was to serve it, if there was one; `None`: its head never came.
    pub(super) whom: Option<(&'a Prepared, Option<&'a Rc<Server>>)>,
    /// Something of it was sent to the server.
    pub(super) started: bool,
    /// Of the connection to the server.
    pub(super) socket: Option<SocketFacts>,
    pub(super) h2: Option<H2Facts>,
    /// The client's connection may go on.
    pub(super) keep: bool,
    /// The client has not been answered.
    pub(super) answerable: bool,
}

impl Failed<'_> {
    pub(super) const fn of(trouble: Trouble) -> Self {
        Self { trouble, whom: None, started: false, socket: None, h2: None, keep: false, answerable: false }
    }
}

/// What comes next on a connection.
enum Next {
    Request(Prepared, BytesMut, Instant),
    NotServed(NotServed, Instant),
    /// Its head did not come in time.
    Late(Limit, Instant, Duration),
    /// The client closed in the middle of a head.
    Left(Instant),
    /// It speaks HTTP/2.
    Http2,
    End,
}

/// How a connection of HTTP/1 ended.
#[derive(PartialEq, Eq)]
enum End {
    Over,
    /// It goes on with HTTP/2: all that was read of it is still there.
    Http2,
}

/// A connection that may be dropped while it is served, at the end of the gateway.
struct Cuttable<'c, S: Client>(&'c mut Connection<S>);

impl<S: Client> Drop for Cuttable<'_, S> {
    fn drop(&mut self) {
        if self.0.live().is_answered() {
            self.0.client.io.abort();
        }
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Next,
    /// The answer is written; what the client still sends is thrown away.
    Close,
    /// The client must see that something was cut.
    Abort,
}

/// Makes a connection a secure one, and serves it until it ends.
pub(crate) async fn serve_tls(io: TcpStream, arrival: Arrival, worker: Rc<Worker>, door: &Door) {
    let began = clock::now();
    // The limit is the door's own, and no more than what a PROXY header left of it. Boxed: what a handshake needs is not
    // needed afterwards.
    let context = arrival.context.clone().unwrap_or_else(Context::root);
    let accepting = door.gate.accept(&context, io, arrival.client.ip(), Arc::clone(&door.config));
    match worker.within_lull(Box::pin(accepting)).await {
        // Nothing of a request was there.
        None => {}
        Some(Ok(secured)) => {
            let arrival = Arrival { since: clock::now(), ..arrival };
            if secured.stream.get_ref().1.alpn_protocol() == Some(H2) {
                let listener = arrival.listener;
                let listed = begin(&secured.stream, arrival, &worker).await;
                Box::pin(http2::serve(BytesMut::new(), secured.stream, listed, listener, &worker)).await;
            } else {
                serve(secured.stream, arrival, worker).await;
            }
        }
        Some(Err(err)) => arrival.handshake_failed(&worker, began, &err),
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S: Client + 'static>(io: S, arrival: Arrival, worker: Rc<Worker>) {
    let listener = arrival.listener;
    let listed = begin(&io, arrival, &worker).await;
    let mut connection = Connection::new(io, listed, listener, worker);
    let end = Cuttable(&mut connection).0.run().await;
    if end == End::Http2 {
        let Connection { client, listed, worker, .. } = connection;
        let (io, first) = client.into_parts();
        // Boxed: a connection of HTTP/1 has no room for it.
        Box::pin(http2::serve(first, io, listed, listener, &worker)).await;
    }
}

/// Serves the one request of a stream of this connection.
pub(crate) async fn serve_stream<S: Client>(io: S, of: Rc<Live>, listener: SocketAddr, worker: Rc<Worker>) {
    let listed = worker.list_stream(&of);
    can_be_woken(&listed).await;
    Cuttable(&mut Connection::new(io, listed, listener, worker)).0.run().await;
}

/// Lists a connection that was accepted, and counts it.
async fn begin<S: Client>(io: &S, arrival: Arrival, worker: &Rc<Worker>) -> Listed {
    let listed = worker.list(arrival, io.scheme());
    can_be_woken(&listed).await;
    crate::counts::add(Some(&worker.counts.connections), 1);
    listed
}

/// From now on its task may be told to look up.
async fn can_be_woken(listed: &Listed) {
    poll_fn(|cx| {
        *listed.live.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
}

/// Whether a request may begin with this byte: that of a token, or of an empty line before it. What cannot become one is not
/// waited for.
fn may_begin(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"\r\n!#$%&'*+-.^_`|~".contains(&byte)
}

impl<S: Client> Connection<S> {
    fn new(io: S, listed: Listed, listener: SocketAddr, worker: Rc<Worker>) -> Self {
        let since = listed.live.since;
        Self { client: Side::new(io), worker, listed, listener, alarm: Alarm::default(), since, served: 0 }
    }

    async fn run(&mut self) -> End {
        let then = loop {
            let (next, plan) = self.next().await;
            // Boxed, each of them: what a connection needs only now and then is no part of one that lies idle.
            let then = match next {
                Next::Request(prepared, head, began) => Box::pin(self.handle(&plan, &prepared, head, began)).await,
                Next::NotServed(refused, began) => Box::pin(self.refuse(&plan, &refused, began)).await,
                Next::Late(limit, began, late_by) => Box::pin(self.late(&plan, limit, began, late_by)).await,
                Next::Left(began) => {
                    self.left(began);
                    return End::Over;
                }
                Next::Http2 => return End::Http2,
                Next::End => return End::Over,
            };
            if then != Then::Next {
                break then;
            }
            if self.live().is_stream {
                // It has one request. What a refused WebSocket said behind it is no other.
                break Then::Close;
            }
            self.served += 1;
            self.live().enter(HEAD, self.since);
            self.client.rest(&self.worker.buffers);
        };
        match then {
            Then::Abort => self.client.io.abort(),
            _ => Box::pin(self.linger()).await,
        }
        End::Over
    }

    pub(super) fn live(&self) -> &Live {
        &self.listed.live
    }

    /// Waits for a whole request head. It follows the plan of the moment in which that is there.
    async fn next(&mut self) -> (Next, Rc<Plan>) {
        let Self { client, worker, listed, alarm, since, served, listener } = self;
        let mut plan = worker.plan();
        let mut began: Option<Instant> = None;
        let mut parsed = 0;
        let next = poll_fn(|cx| {
            plan = worker.plan();
            let Some(listener) = plan.listener(*listener) else { return Poll::Ready(Next::End) };
            loop {
                let bytes = client.bytes();
                if began.is_none() && !bytes.is_empty() {
                    // Read with the request before it, or just now.
                    began = Some(clock::now());
                    listed.live.line.borrow_mut().clear();
                }
                if let Some(first) = bytes.first().filter(|first| !may_begin(**first)) {
                    let why = match first {
                        0x16 => "it begins with a TLS handshake, and this listener speaks none".to_owned(),
                        other => format!("no request begins with the byte {other:#04x}"),
                    };
                    let refused = NotServed { status: 400, why, length: None, is_head: false, is_grpc: false };
                    return Poll::Ready(Next::NotServed(refused, began.unwrap_or(*since)));
                }
                let new = bytes.get(parsed..).unwrap_or_default();
                let preface = if *served == 0 && listener.http2 { http2::is_preface(bytes) } else { Some(false) };
                if preface == Some(true) {
                    return Poll::Ready(Next::Http2);
                }
                if preface == Some(false) && (new.contains(&b'\n') || bytes.len() >= overdue::h1::HEAD_MAX) {
                    let at = began.unwrap_or(*since);
                    match skip_empty_lines(bytes) {
                        Some(0) => {}
                        Some(lines) => {
                            client.used(lines);
                            parsed = 0;
                            // An empty line is no beginning.
                            began = None;
                            continue;
                        }
                        None => {
                            let why = "it begins with empty lines".to_owned();
                            let refused = NotServed { status: 400, why, length: None, is_head: false, is_grpc: false };
                            return Poll::Ready(Next::NotServed(refused, at));
                        }
                    }
                    let mut out = worker.buffers.lend();
                    let mut line = listed.live.line.borrow_mut();
                    let prepared = prepare(bytes, &plan, listener, &listed.live, &mut line, &mut out);
                    match prepared {
                        Ok(Some(prepared)) => {
                            client.used(prepared.length);
                            return Poll::Ready(Next::Request(prepared, out, at));
                        }
                        Ok(None) => worker.buffers.take_back(out),
                        Err(refused) => {
                            worker.buffers.take_back(out);
                            return Poll::Ready(Next::NotServed(refused, at));
                        }
                    }
                }
                parsed = client.bytes().len();
                match client.poll_fill(cx, &worker.buffers) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => {
                        return Poll::Ready(began.map_or(Next::End, Next::Left));
                    }
                    Poll::Pending => break,
                }
            }
            let limit = if began.is_none() && *served > 0 { listener.idle.as_ref() } else { listener.head.as_ref() };
            let lull = (began.is_none() && worker.is_draining()).then_some(&worker.lull);
            let since = began.unwrap_or(*since);
            let due = Due::earlier(Due::after(since, limit), Due::after(since, lull));
            match Due::poll(due, alarm, cx) {
                Poll::Pending => Poll::Pending,
                // Nobody waits for an answer.
                Poll::Ready(_) if began.is_none() => Poll::Ready(Next::End),
                Poll::Ready((failure, late_by)) => match failure {
                    Failure::DeadlinePassed(limit) => Poll::Ready(Next::Late(limit, since, late_by)),
                    _ => Poll::Ready(Next::End),
                },
            }
        })
        .await;
        (next, plan)
    }

    /// A request that goes nowhere.
    async fn refuse(&mut self, plan: &Plan, refused: &NotServed, began: Instant) -> Then {
        let now = clock::now();
        let known = Known::refused(refused.status);
        self.live().line.borrow_mut().ensure_id(&plan.ids);
        let detail = self.trusts(plan).then_some(refused.why.as_str());
        let told = Told { cause: None, stage: HEAD.as_str(), detail, grpc: refused.is_grpc };
        let keep = refused.length.filter(|_| !self.worker.is_draining());
        if let Some(length) = keep {
            self.client.used(length);
        }
        let before = self.client.written;
        let written = self.answer(known.status, &told, keep.is_some(), refused.is_head).await;
        let bytes_out = self.client.written - before;
        let grpc = refused.is_grpc.then(|| answer::grpc_code(refused.status));
        let marks = Marks { began, head: now, grpc, bytes_out, ..Marks::at(began) };
        self.since = clock::now();
        self.log(&Entry { known, refused: Some((HEAD, &refused.why)), ..Entry::new(&marks, self.since) });
        if keep.is_some() && written { Then::Next } else { Then::Close }
    }

    /// A client that closed in the middle of a head.
    fn left(&self, began: Instant) {
        let marks = Marks::at(began);
        let why = "the client left: it closed before the end of its request head";
        let entry = Entry { known: Known::LEFT_EARLY, refused: Some((HEAD, why)), ..Entry::new(&marks, clock::now()) };
        self.log(&entry);
    }

    /// A head that did not come in time.
    async fn late(&mut self, plan: &Plan, limit: Limit, began: Instant, late_by: Duration) -> Then {
        let marks = Marks { bytes_in: self.client.bytes().len() as u64, ..Marks::at(began) };
        let trouble = Trouble { late_by, ..Trouble::of(HEAD, Party::Client, Failure::DeadlinePassed(limit)) };
        self.live().line.borrow_mut().clear();
        self.live().line.borrow_mut().ensure_id(&plan.ids);
        self.fail(plan, &marks, Failed { answerable: true, ..Failed::of(trouble) }).await;
        Then::Close
    }

    async fn handle(&mut self, plan: &Plan, prepared: &Prepared, head: BytesMut, began: Instant) -> Then {
        let now = clock::now();
        let route = &prepared.route.route;
        let own = Due::after(began, route.limits.total.as_ref());
        let total = Due::earlier(Due::after(began, prepared.inherited.as_ref()), own);
        let mut marks = Marks { began, head: now, ..Marks::at(began) };
        *self.live().request.borrow_mut() = Some(InFlight {
            began,
            route: Rc::clone(&prepared.route),
            server: None,
            deadline: total.map(|due| (due.at, due.limit.clone())),
        });
        self.live().enter(Stage::Queue, now);
        let then = self.serve_request(plan, prepared, head, total, &mut marks).await;
        *self.live().request.borrow_mut() = None;
        then
    }

    /// Sends the request to a server, and the answer to the client: as often as the policy says.
    async fn serve_request(
        &mut self,
        plan: &Plan,
        prepared: &Prepared,
        head: BytesMut,
        total: Option<Due<'_>>,
        marks: &mut Marks,
    ) -> Then {
        let length = head.len();
        let (mut head, mut since) = (head, marks.head);
        let mut attempts = 0;
        loop {
            attempts += 1;
            // What the attempt before said at its end is said anew.
            head.truncate(length);
            let missed = match self.attempt(prepared, head, total, since, marks).await {
                Ok(then) => return then,
                Err(missed) => *missed,
            };
            let Missed { failed, head: unsent, mut tried } = missed;
            // Of a body in chunks the first may have taken its place, before any of it came.
            tried.whole &= unsent.len() >= length;
            if policy::again(attempts, tried) {
                head = unsent;
                // The time of an attempt is its own.
                since = self.since;
                let first = self.first_attempt(marks, failed);
                *marks = Marks { head: marks.head, again: Some((since, first)), ..Marks::at(marks.began) };
                self.worker.counts.first_attempt(first);
                continue;
            }
            self.worker.buffers.take_back(unsent);
            // Boxed: a request that is served has no room for it.
            return Box::pin(self.fail(plan, marks, failed)).await;
        }
    }

    fn trusts(&self, plan: &Plan) -> bool {
        plan.listener(self.listener).is_some_and(|listener| self.live().is_trusted(&listener.trusted))
    }

    /// What is told of an attempt that came to nothing, when another follows it.
    fn first_attempt(&self, marks: &Marks, mut failed: Failed<'_>) -> FirstAttempt {
        let server = failed.whom.and_then(|(_, server)| server.map(|server| server.address));
        let verdicts = overdue_core::judge::judge(&self.facts(marks, &mut failed)).verdicts;
        FirstAttempt { server, cause: verdicts.first().map(|verdict| verdict.cause) }
    }

    /// All that is known of a request that failed.
    fn facts(&self, marks: &Marks, failed: &mut Failed<'_>) -> CallFacts {
        let (trouble, whom, now) = (&failed.trouble, failed.whom, clock::now());
        let answers = matches!(trouble.stage, Stage::Receive | TUNNEL);
        let is_clients = trouble.party == Party::Client;
        // Of a client that is to blame, its own connection is the evidence; of one that does not read, what waits for it.
        let at_client = match trouble.failure {
            Failure::Protocol(_) => is_clients,
            Failure::DeadlinePassed(_) => is_clients && !(trouble.takes && trouble.stage == Stage::Receive),
            _ => is_clients && !answers,
        };
        let socket = if at_client {
            let facts = self.client.io.observe(self.live().peer);
            Some(SocketFacts { peer: format!("the client {}", self.live().peer_text), ..facts })
        } else {
            failed.socket.take()
        };
        let timeline = marks.timeline(trouble, now);
        let exchange = ExchangeFacts {
            request_started: failed.started,
            request_bytes: marks.bytes_in,
            waiting_for_request_body: is_clients && matches!(trouble.stage, Stage::Send | HEAD)
                || marks.open && !trouble.takes && matches!(trouble.stage, Stage::Wait | Stage::Receive),
            sender_took: marks.client_took,
            request_left: marks.left.filter(|_| is_clients && !trouble.takes),
            request_streams: marks.open && marks.left.is_none(),
            to_take: trouble.takes && answers,
            half_ended: trouble.stage == TUNNEL && !trouble.takes && (is_clients || !marks.open),
            response_bytes: marks.answer_bytes,
            body_bytes: marks.body,
            body_expected: marks.expected,
            since_write: None,
            last_read: marks.read_at,
            reader_away: if is_clients && answers && trouble.takes { trouble.silent } else { Duration::ZERO },
            reused_after: marks.idle.filter(|_| marks.reused),
        };
        let queued_at = whom.filter(|_| trouble.stage == Stage::Queue).and_then(|(_, server)| server);
        CallFacts {
            stage: trouble.stage,
            failure: trouble.failure.clone(),
            now,
            timeline,
            late_by: trouble.late_by,
            socket,
            dns: whom
                .filter(|_| trouble.stage == Stage::Resolve)
                .map(|(prepared, _)| prepared.route.servers.none().dns.clone()),
            pool: queued_at.map(|server| server.facts()),
            h2: failed.h2.take().or_else(|| queued_at.and_then(|server| server.h2_facts())),
            exchange,
        }
    }

    /// Judges what happened, tells the client if it can still be told, and logs it.
    async fn fail(&mut self, plan: &Plan, marks: &Marks, mut failed: Failed<'_>) -> Then {
        if let (Failure::Cancelled { .. }, Some(why)) = (&failed.trouble.failure, self.client.io.cut_off()) {
            failed.trouble.failure = Failure::Protocol(format!("its whole connection was cut off: {why}"));
            failed.answerable = false;
        }
        let facts = self.facts(marks, &mut failed);
        let mut judgement = overdue_core::judge::judge(&facts);
        marks.blame_first(&mut judgement, facts.now);
        let Failed { trouble, whom, keep, answerable, .. } = &failed;
        let (whom, keep, answerable) = (*whom, *keep, *answerable);
        let known = Known::of(trouble);
        // A body that turns out to be longer than allowed is refused, as one that says so at once.
        let refused = match &trouble.failure {
            Failure::RequestBody(why) => Some((trouble.stage, why.as_str())),
            Failure::Cancelled { reason, .. } if known.is_cut() => Some((trouble.stage, reason.as_str())),
            _ => None,
        };
        let verdict = judgement.verdicts.first().filter(|_| refused.is_none());
        let cause = verdict.map(|verdict| verdict.cause);
        let summary = refused.map(|(_, why)| why).or_else(|| verdict.map(|verdict| verdict.summary.as_str()));
        let is_head = whom.is_some_and(|(prepared, ..)| prepared.is_head);
        let keep = keep && known.status != 0 && !self.worker.is_draining();
        let mut own_bytes = 0;
        let mut then = Then::Abort;
        let (mut status, mut code) = (marks.status, marks.grpc);
        if answerable {
            then = Then::Close;
            status = known.status;
            if known.status != 0 {
                let trusted = self.trusts(plan);
                let detail = summary.filter(|_| trusted);
                let grpc = whom.is_some_and(|(prepared, ..)| prepared.is_grpc);
                code = grpc.then(|| answer::grpc_code(known.status));
                let told = Told { cause, stage: trouble.stage.as_str(), detail, grpc };
                let before = self.client.written;
                let written = self.answer(known.status, &told, keep, is_head).await;
                own_bytes = self.client.written - before;
                then = if keep && written { Then::Next } else { Then::Close };
            }
        }
        self.since = clock::now();
        let marks = &Marks { grpc: code, bytes_out: marks.bytes_out + own_bytes, ..*marks };
        let entry = Entry {
            known: Known { status, ..known },
            route: whom.map(|(prepared, ..)| &prepared.route),
            server: whom.and_then(|(_, server)| server.map(Rc::as_ref)),
            refused,
            failed: refused.is_none().then_some((&facts, &judgement)),
            ..Entry::new(marks, self.since)
        };
        self.log(&entry);
        then
    }

    /// Writes an answer of our own, under a limit that nobody can leave out. False when it could not be written.
    async fn answer(&mut self, status: u16, told: &Told<'_>, keep: bool, is_head: bool) -> bool {
        let mut out = self.worker.buffers.lend();
        answer::write(&mut out, status, told, self.live().line.borrow().id(), keep, is_head);
        let Self { client, alarm, .. } = self;
        let until = clock::now() + ANSWER;
        let mut sent = 0;
        let written = poll_fn(|cx| {
            while sent < out.len() {
                match client.poll_write(cx, out.get(sent..).unwrap_or_default(), &[]) {
                    Poll::Ready(Ok(bytes)) => sent += bytes,
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return alarm.poll(cx, until).map(|_| false),
                }
            }
            match Pin::new(&mut client.io).poll_flush(cx) {
                Poll::Ready(result) => Poll::Ready(result.is_ok()),
                Poll::Pending => alarm.poll(cx, until).map(|_| false),
            }
        })
        .await;
        self.worker.buffers.take_back(out);
        written
    }

    /// Closes so that the client sees all that was written.
    async fn linger(&mut self) {
        let Self { client, worker, alarm, .. } = self;
        let until = clock::now() + LINGER;
        let mut thrown = 0;
        let mut shut = false;
        poll_fn(|cx| {
            if !shut {
                match Pin::new(&mut client.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return alarm.poll(cx, until).map(drop),
                }
            }
            loop {
                let there = client.bytes().len();
                thrown += there as u64;
                client.used(there);
                if thrown > LINGER_BYTES {
                    return Poll::Ready(());
                }
                match client.poll_fill(cx, &worker.buffers) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return alarm.poll(cx, until).map(drop),
                }
            }
        })
        .await;
    }

    pub(super) fn log(&self, entry: &Entry<'_>) {
        self.worker.ended(entry, self.live());
    }
}

impl Marks {
    /// The stages, as far as they came.
    pub(crate) fn timeline(&self, trouble: &Trouble, now: Instant) -> Timeline {
        let mut timeline = Timeline::new(self.began);
        let deadline = |stage: Stage, begun: Instant| match &trouble.failure {
            Failure::DeadlinePassed(limit) if stage == trouble.stage => Some(Deadline::after(begun, limit.clone())),
            _ => None,
        };
        for (stage, begun) in self.stages(Some(trouble.stage)) {
            timeline.begin(stage, begun, deadline(stage, begun).as_ref());
        }
        let outcome = match trouble.failure {
            Failure::DeadlinePassed(_) | Failure::DeadlinePast(_) => SpanOutcome::TimedOut,
            Failure::Cancelled { .. } => SpanOutcome::Cancelled,
            _ => SpanOutcome::Failed,
        };
        timeline.finish_late(now, trouble.late_by, outcome);
        timeline.end(now, outcome);
        timeline
    }
}
