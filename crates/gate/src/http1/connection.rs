//! A connection of a client, from its first byte to its last.

use std::{
    future::poll_fn,
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
    h1::{Framing, request::skip_empty_lines},
    server::hello::HandshakeError,
    socket::{self, os_failure},
};
use overdue_core::{
    Deadline, Limit, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, ExchangeFacts, Failure, OsFailure, SocketFacts},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{
    answer::{self, Known, Told},
    exchange::{Due, Exchange, Party, Seen, Trouble},
    flow::Flow,
    head::{Line, NotServed, Prepared, finish_request, prepare},
    side::Side,
};
use crate::{
    clock,
    log::{Entry, Marks},
    tls::Door,
    upstream::{self, Granted, Permit, Server, Upstream},
    worker::{self, HEAD, InFlight, Listed, Live, Plan, Worker},
};

/// What clients connect with.
pub(crate) trait Client: AsyncRead + AsyncWrite + Unpin {
    /// What it is called in `X-Forwarded-Proto`.
    const SCHEME: &str;

    /// The socket beneath.
    fn tcp(&self) -> &TcpStream;
}

impl Client for TcpStream {
    const SCHEME: &str = "http";

    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Client for TlsStream<TcpStream> {
    const SCHEME: &str = "https";

    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// How long a client may take for an answer of our own, which is a few hundred bytes.
const ANSWER: Duration = Duration::from_secs(10);
/// How long what a client goes on sending is thrown away after an answer that refuses it: closed at once, the kernel
/// would reset the connection, and the client might never see the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 * 1024 * 1024;

struct Connection<S> {
    client: Side<S>,
    worker: Rc<Worker>,
    listed: Listed,
    listener: SocketAddr,
    alarm: Alarm,
    /// When the limit for the next head, or for idleness, began.
    since: Instant,
    served: u64,
}

/// What comes next on a connection.
enum Next {
    Request(Prepared, BytesMut, Instant),
    NotServed(NotServed, Instant),
    /// Its head did not come in time.
    Late(Limit, Instant, Duration),
    /// The client closed in the middle of a head.
    Left(Instant),
    End,
}

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    /// The answer is written; what the client still sends is thrown away.
    Close,
    /// The client must see that something was cut.
    Abort,
}

/// Makes a connection a secure one, and serves it until it ends.
pub(crate) async fn serve_tls(io: TcpStream, peer: SocketAddr, listener: SocketAddr, worker: Rc<Worker>, door: &Door) {
    let began = clock::now();
    // The limit is the door's own. Boxed: what a handshake needs is not needed afterwards.
    let context = Context::root();
    let accepting = door.gate.accept(&context, io, peer.ip(), Arc::clone(&door.config));
    match Box::pin(accepting).await {
        Ok(secured) => serve(secured.stream, peer, listener, worker).await,
        Err(err) => {
            let marks = Marks::at(began);
            let known = match &err {
                HandshakeError::Rejected(_) => Known::refused(0),
                HandshakeError::Limit { .. } => Known::LATE_HANDSHAKE,
                _ => Known::FAILED_HANDSHAKE,
            };
            let why = err.to_string();
            let entry = Entry { known, refused: Some((Stage::Tls, &why)), ..Entry::new(&marks, clock::now()) };
            worker.counts.handshake_failed();
            let text = worker::text_of(peer);
            worker.lines.borrow_mut().put(&entry, &Line::default(), &text);
        }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S: Client>(io: S, peer: SocketAddr, listener: SocketAddr, worker: Rc<Worker>) {
    let listed = worker.list(peer, S::SCHEME);
    poll_fn(|cx| {
        *listed.live.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    crate::counts::add(Some(&worker.counts.connections), 1);
    let since = listed.live.since;
    let mut connection =
        Connection { client: Side::new(io), worker, listed, listener, alarm: Alarm::default(), since, served: 0 };
    connection.run().await;
}

impl<S: Client> Connection<S> {
    async fn run(&mut self) {
        let then = loop {
            let (next, plan) = self.next().await;
            // Boxed, each of them: what a connection needs only now and then is no part of one that lies idle.
            let then = match next {
                Next::Request(prepared, head, began) => Box::pin(self.handle(&plan, &prepared, head, began)).await,
                Next::NotServed(refused, began) => Box::pin(self.refuse(&plan, &refused, began)).await,
                Next::Late(limit, began, late_by) => Box::pin(self.late(&plan, limit, began, late_by)).await,
                Next::Left(began) => return self.left(began),
                Next::End => return,
            };
            if then != Then::Next {
                break then;
            }
            self.served += 1;
            self.live().enter(HEAD, self.since);
            self.client.rest(&self.worker.buffers);
        };
        match then {
            Then::Abort => {
                // A reset: an end that looks like any other would make a cut answer look whole.
                let _ = socket2::SockRef::from(self.client.io.tcp()).set_linger(Some(Duration::ZERO));
            }
            _ => Box::pin(self.linger()).await,
        }
    }

    fn live(&self) -> &Live {
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
                let new = bytes.get(parsed..).unwrap_or_default();
                if new.contains(&b'\n') || bytes.len() >= overdue::h1::HEAD_MAX {
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
                            let refused = NotServed { status: 400, why, length: None, is_head: false };
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
        let told =
            Told { cause: None, stage: HEAD.as_str(), detail: self.trusts(plan).then_some(refused.why.as_str()) };
        let keep = refused.length.filter(|_| !self.worker.is_draining());
        if let Some(length) = keep {
            self.client.used(length);
        }
        let before = self.client.written;
        let written = self.answer(known.status, &told, keep.is_some(), refused.is_head).await;
        let bytes_out = self.client.written - before;
        let marks = Marks { began, head: now, bytes_out, ..Marks::at(began) };
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
        let marks = Marks::at(began);
        let trouble = Trouble {
            stage: HEAD,
            party: Party::Client,
            failure: Failure::DeadlinePassed(limit),
            late_by,
            silent: Duration::ZERO,
        };
        self.live().line.borrow_mut().clear();
        self.fail(plan, None, &marks, &trouble, None, false, false).await;
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
        let then = self.attempt(plan, prepared, head, total, &mut marks).await;
        *self.live().request.borrow_mut() = None;
        then
    }

    /// Sends the request to a server, and the answer to the client.
    async fn attempt(
        &mut self,
        plan: &Plan,
        prepared: &Prepared,
        head: BytesMut,
        total: Option<Due<'_>>,
        marks: &mut Marks,
    ) -> Then {
        let route = &prepared.route.route;
        let bodyless = prepared.framing == Framing::Empty;
        let mut head = head;
        let mut queued = marks.head;
        let mut again = true;
        let head_length = head.len();
        loop {
            let Some(server) = prepared.route.servers.choose() else { return Then::Close };
            if let Some(request) = &mut *self.live().request.borrow_mut() {
                request.server = Some(server.address);
            }
            let mut upstream = match self.acquire(server, prepared, total, queued, marks).await {
                Ok(upstream) => upstream,
                Err(trouble) => {
                    let keep = bodyless && prepared.keep_alive;
                    let socket = (trouble.stage == Stage::Connect)
                        .then(|| SocketFacts { peer: server.address.to_string(), ..SocketFacts::default() });
                    self.worker.buffers.take_back(head);
                    return self.fail(plan, Some((prepared, server, None)), marks, &trouble, socket, keep, true).await;
                }
            };
            let now = if marks.dialled { clock::now() } else { marks.queued };
            marks.send = now;
            let left = total.map(|total| total.at.saturating_duration_since(now));
            head.truncate(head_length);
            if !finish_request(&mut head, left, prepared, &server.text) {
                let limit = total.map_or_else(|| Limit::total(Duration::ZERO), |total| total.limit.clone());
                let failure = Failure::DeadlinePast(limit);
                let trouble = self.at_gate(Stage::Queue, failure);
                upstream.put_back(&self.worker.buffers, now);
                let keep = bodyless && prepared.keep_alive;
                return self.fail(plan, Some((prepared, server, None)), marks, &trouble, None, keep, true).await;
            }
            self.live().enter(Stage::Send, now);
            server.pending.set(server.pending.get() + 1);
            let (read_before, written_before) = (upstream.side.read, upstream.side.written);
            let client_before = self.client.written;
            let (result, seen, flow) = {
                let mut exchange = Exchange {
                    client: &mut self.client,
                    server: &mut upstream.side,
                    worker: &self.worker,
                    live: &self.listed.live,
                    request: prepared,
                    limits: &route.limits,
                    total,
                    body_max: route.body_max.unwrap_or(u64::MAX),
                    began: now,
                    to_server: Flow::new(head, prepared.framing, prepared.framing == Framing::Chunked),
                    to_client: None,
                    seen: Seen::default(),
                };
                let alarm = &mut self.alarm;
                let result = poll_fn(|cx| exchange.poll(cx, alarm)).await;
                if let Some(flow) = exchange.to_client.take() {
                    marks.body = flow.moved;
                    self.worker.buffers.take_back(flow.into_buffer());
                }
                (result, exchange.seen, exchange.to_server)
            };
            server.pending.set(server.pending.get().saturating_sub(1));
            let now = clock::now();
            self.since = now;
            // An early answer ends `send`, too.
            marks.sent = seen.sent.unwrap_or(now).min(seen.head.unwrap_or(now));
            marks.answered = seen.head;
            marks.status = seen.status;
            marks.bytes_in = prepared.length as u64 + flow.moved;
            marks.bytes_out = self.client.written - client_before;
            match (&result, seen.head) {
                (_, Some(answered)) => server.answered(answered.saturating_duration_since(marks.send)),
                (Err(trouble), None) if trouble.is_servers() => {
                    server.failed(now.saturating_duration_since(marks.send));
                }
                _ => {}
            }
            match result {
                Ok(()) => {
                    self.worker.buffers.take_back(flow.into_buffer());
                    marks.reused = upstream.carried > 0;
                    marks.connection = upstream.number;
                    marks.idle = upstream.idle;
                    // The rest of a request that its server did not want would be taken for the next.
                    let sent = seen.sent.is_some() && seen.write_failed.is_none();
                    if seen.server_keeps && sent && upstream.side.bytes().is_empty() && !seen.tunnel {
                        upstream.keep(&self.worker.buffers, now);
                    }
                    let entry = Entry { route: Some(&prepared.route), server: Some(server), ..Entry::new(marks, now) };
                    self.log(&entry);
                    // A client that was told that its connection stays may have sent its next request by now.
                    let keep = seen.told.is_some_and(|told| told.keep_alive);
                    return if keep { Then::Next } else { Then::Close };
                }
                Err(trouble) => {
                    let answered = upstream.side.read > read_before;
                    let dead = matches!(trouble.failure, Failure::Closed | Failure::Os { kind: OsFailure::Reset, .. });
                    // A connection that was kept and turns out to be dead is no word about the request.
                    let unheard = upstream.carried > 0 && !answered && dead && bodyless;
                    if again && unheard && (prepared.is_idempotent || upstream.side.written == written_before) {
                        again = false;
                        head = flow.into_buffer();
                        // The time of the first attempt is its own.
                        queued = now;
                        marks.again = Some(now);
                        continue;
                    }
                    self.worker.buffers.take_back(flow.into_buffer());
                    let socket = observe(&upstream);
                    let begun = seen.told.is_some();
                    let keep = !begun && bodyless && prepared.keep_alive;
                    marks.answer_bytes = upstream.side.read - read_before;
                    marks.expected = seen.expected;
                    marks.read_at = seen.read_at;
                    marks.reused = upstream.carried > 0;
                    marks.connection = upstream.number;
                    marks.idle = upstream.idle;
                    // Closed before the client hears of it: nobody waits for what the server still does.
                    drop(upstream);
                    let party = Some((prepared, server, Some(written_before)));
                    return self.fail(plan, party, marks, &trouble, Some(socket), keep, !begun).await;
                }
            }
        }
    }

    /// A connection to this server.
    async fn acquire(
        &mut self,
        server: &Rc<Server>,
        prepared: &Prepared,
        total: Option<Due<'_>>,
        now: Instant,
        marks: &mut Marks,
    ) -> Result<Upstream, Trouble> {
        let limits = &prepared.route.route.limits;
        if let Some(due) = total
            && now >= due.at
        {
            return Err(self.at_gate(Stage::Queue, Failure::DeadlinePast(due.limit.clone())));
        }
        // One that is there is had at once.
        marks.queued = now;
        marks.dialled = false;
        let granted = match server.grant(now) {
            Some(granted) => granted,
            None => {
                let due = Due::earlier(Due::after(now, limits.queue.as_ref()), total);
                let mut waiting = server.wait();
                let turn = poll_fn(|cx| waiting.poll(cx));
                let turn = self.under(Stage::Queue, due, prepared, turn).await;
                marks.queued = clock::now();
                turn?
            }
        };
        match granted {
            Granted::Kept(upstream) => {
                crate::counts::add(Some(&self.worker.counts.reused), 1);
                Ok(upstream)
            }
            Granted::Room(permit) => self.dial(server, permit, prepared, total, marks).await,
        }
    }

    async fn dial(
        &mut self,
        server: &Rc<Server>,
        permit: Permit,
        prepared: &Prepared,
        total: Option<Due<'_>>,
        marks: &mut Marks,
    ) -> Result<Upstream, Trouble> {
        let limits = &prepared.route.route.limits;
        self.live().enter(Stage::Connect, marks.queued);
        marks.dialled = true;
        crate::counts::add(Some(&self.worker.counts.dialled), 1);
        let due = Due::earlier(Due::after(marks.queued, limits.connect.as_ref()), total);
        let opened = self.under(Stage::Connect, due, prepared, upstream::open(server.address)).await;
        let opened = opened.and_then(|opened| {
            opened.map_err(|err| Trouble {
                party: Party::Server,
                ..self.at_gate(Stage::Connect, os_failure("connect", err).0)
            })
        });
        match opened {
            Ok(stream) => Ok(permit.opened(stream)),
            Err(trouble) => {
                if trouble.is_servers() {
                    server.unreachable();
                }
                Err(trouble)
            }
        }
    }

    /// Waits for `work` under a limit, and as long as the client is there.
    async fn under<T>(
        &mut self,
        stage: Stage,
        due: Option<Due<'_>>,
        prepared: &Prepared,
        work: impl Future<Output = T>,
    ) -> Result<T, Trouble> {
        let Self { client, worker, alarm, .. } = self;
        let bodyless = prepared.framing == Framing::Empty;
        upstream::or(work, |cx: &mut task::Context<'_>| {
            if bodyless && let Poll::Ready(how) = client.poll_end(cx, &worker.buffers) {
                let failure = Failure::Cancelled { reason: format!("the client left: {how}"), at: None };
                let party = Party::Client;
                return Poll::Ready(Trouble { stage, party, failure, late_by: Duration::ZERO, silent: Duration::ZERO });
            }
            let party = if stage == Stage::Connect { Party::Server } else { Party::Gate };
            Due::poll(due, alarm, cx).map(|(failure, late_by)| Trouble {
                stage,
                party,
                failure,
                late_by,
                silent: Duration::ZERO,
            })
        })
        .await
    }

    fn at_gate(&self, stage: Stage, failure: Failure) -> Trouble {
        Trouble { stage, party: Party::Gate, failure, late_by: Duration::ZERO, silent: Duration::ZERO }
    }

    fn trusts(&self, plan: &Plan) -> bool {
        plan.listener(self.listener).is_some_and(|listener| listener.trusted.contains(self.live().peer.ip()))
    }

    /// Judges what happened, tells the client if it can still be told, and logs it.
    #[expect(clippy::too_many_arguments, reason = "what was seen, part by part")]
    async fn fail(
        &mut self,
        plan: &Plan,
        whom: Option<(&Prepared, &Rc<Server>, Option<u64>)>,
        marks: &Marks,
        trouble: &Trouble,
        socket: Option<SocketFacts>,
        keep: bool,
        answerable: bool,
    ) -> Then {
        let now = clock::now();
        let known = Known::of(trouble);
        // Of a client that is to blame, its own connection is the evidence; of one that does not read, what waits for it.
        let socket = match trouble.party {
            Party::Client if trouble.stage != Stage::Receive => {
                let io = self.client.io.tcp();
                let facts = socket::observe(io.as_fd(), io.local_addr().ok(), Some(self.live().peer));
                Some(SocketFacts { peer: format!("the client {}", self.live().peer_text), ..facts })
            }
            _ => socket,
        };
        let timeline = marks.timeline(trouble, now);
        let exchange = ExchangeFacts {
            request_started: whom.is_some_and(|(.., sent)| sent.is_some()),
            request_bytes: marks.bytes_in,
            waiting_for_request_body: trouble.party == Party::Client && matches!(trouble.stage, Stage::Send),
            response_bytes: marks.answer_bytes,
            body_bytes: marks.body,
            body_expected: marks.expected,
            since_write: None,
            last_read: marks.read_at,
            reader_away: if trouble.party == Party::Client && trouble.stage == Stage::Receive {
                trouble.silent
            } else {
                Duration::ZERO
            },
            reused_after: marks.idle.filter(|_| marks.reused),
        };
        let facts = CallFacts {
            stage: trouble.stage,
            failure: trouble.failure.clone(),
            now,
            timeline,
            late_by: trouble.late_by,
            socket,
            dns: None,
            pool: whom.filter(|_| trouble.stage == Stage::Queue).map(|(_, server, _)| server.facts()),
            h2: None,
            exchange,
        };
        let judgement = overdue_core::judge::judge(&facts);
        let cause = judgement.verdicts.first().map(|verdict| verdict.cause);
        let summary = judgement.verdicts.first().map(|verdict| verdict.summary.clone());
        let is_head = whom.is_some_and(|(prepared, ..)| prepared.is_head);
        let keep = keep && known.status != 0 && !self.worker.is_draining();
        let mut own_bytes = 0;
        let mut then = Then::Abort;
        let mut status = marks.status;
        if answerable || whom.is_none() {
            then = Then::Close;
            status = known.status;
            if known.status != 0 {
                let trusted = self.trusts(plan);
                let told =
                    Told { cause, stage: trouble.stage.as_str(), detail: summary.as_deref().filter(|_| trusted) };
                let before = self.client.written;
                let written = self.answer(known.status, &told, keep, is_head).await;
                own_bytes = self.client.written - before;
                then = if keep && written { Then::Next } else { Then::Close };
            }
        }
        self.since = clock::now();
        let marks = &Marks { bytes_out: marks.bytes_out + own_bytes, ..*marks };
        let entry = Entry {
            known: Known { status, ..known },
            route: whom.map(|(prepared, ..)| &prepared.route),
            server: whom.map(|(_, server, _)| &**server),
            failed: Some((&facts, &judgement)),
            ..Entry::new(marks, self.since)
        };
        self.log(&entry);
        then
    }

    /// Writes an answer of our own, under a limit that nobody can leave out. False when it could not be written.
    async fn answer(&mut self, status: u16, told: &Told<'_>, keep: bool, is_head: bool) -> bool {
        let mut out = self.worker.buffers.lend();
        answer::write(&mut out, status, told, keep, is_head);
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

    fn log(&self, entry: &Entry<'_>) {
        let live = self.live();
        entry.count(&self.worker.counts);
        self.worker.lines.borrow_mut().put(entry, &live.line.borrow(), &live.peer_text);
    }
}

/// What the kernel says of a connection to a server now.
fn observe(upstream: &Upstream) -> SocketFacts {
    let io = &upstream.side.io;
    socket::observe(io.as_fd(), io.local_addr().ok(), Some(upstream.server.address))
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
