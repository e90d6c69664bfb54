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
    h1::{Framing, request::skip_empty_lines},
    socket::{self, os_failure},
    tls::Wire,
};
use overdue_core::{
    Deadline, Limit, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, ExchangeFacts, Failure, H2Facts, OsFailure, SocketFacts},
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
    head::{NotServed, Prepared, finish_request, prepare},
    side::Side,
};
use crate::{
    arrive::Arrival,
    clock,
    config::ServerTls,
    http2,
    log::{Entry, Marks},
    tls::{Door, H2},
    upstream::{self, Granted, Permit, Server, ServerIo, Upstream},
    worker::{HEAD, InFlight, Listed, Live, Plan, Worker},
};

/// What clients connect with.
pub(crate) trait Client: AsyncRead + AsyncWrite + Unpin {
    /// What it is called in `X-Forwarded-Proto`.
    fn scheme(&self) -> &'static str;

    /// What the kernel says of the connection now.
    fn observe(&self, peer: SocketAddr) -> SocketFacts;

    /// The address that the client connected to.
    fn local_addr(&self) -> Option<SocketAddr>;

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
/// would reset the connection, and the client might never see the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 * 1024 * 1024;

/// TLS with a server.
type ServerStream = tokio_rustls::client::TlsStream<Wire>;
/// Why there is no connection to a server, and what the kernel said of the one that was to be it.
type Unopened = (Trouble, Option<Box<SocketFacts>>);

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

/// A request that failed, and what is known of it.
struct Failed<'a> {
    trouble: &'a Trouble,
    /// What it was, and the server that was to serve it, if there was one; `None`: its head never came.
    whom: Option<(&'a Prepared, Option<&'a Rc<Server>>)>,
    /// Something of it was sent to the server.
    started: bool,
    /// Of the connection to the server.
    socket: Option<SocketFacts>,
    h2: Option<H2Facts>,
    /// The client's connection may go on.
    keep: bool,
    /// The client has not been answered.
    answerable: bool,
}

impl<'a> Failed<'a> {
    const fn of(trouble: &'a Trouble) -> Self {
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
pub(crate) async fn serve_tls(io: TcpStream, arrival: Arrival, worker: Rc<Worker>, door: &Door) {
    let began = clock::now();
    // The limit is the door's own, and no more than what a PROXY header left of it. Boxed: what a handshake needs is not
    // needed afterwards.
    let context = arrival.context.clone().unwrap_or_else(Context::root);
    let accepting = door.gate.accept(&context, io, arrival.client.ip(), Arc::clone(&door.config));
    match Box::pin(accepting).await {
        Ok(secured) => {
            let arrival = Arrival { since: clock::now(), ..arrival };
            if secured.stream.get_ref().1.alpn_protocol() == Some(H2) {
                let listener = arrival.listener;
                let listed = begin(&secured.stream, arrival, &worker).await;
                Box::pin(http2::serve(BytesMut::new(), secured.stream, listed, listener, &worker)).await;
            } else {
                serve(secured.stream, arrival, worker).await;
            }
        }
        Err(err) => arrival.handshake_failed(&worker, began, &err),
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S: Client + 'static>(io: S, arrival: Arrival, worker: Rc<Worker>) {
    let listener = arrival.listener;
    let listed = begin(&io, arrival, &worker).await;
    let mut connection = Connection::new(io, listed, listener, worker);
    if connection.run().await == End::Http2 {
        let Connection { client, listed, worker, .. } = connection;
        let (io, first) = client.into_parts();
        // Boxed: a connection of HTTP/1 has no room for it.
        Box::pin(http2::serve(first, io, listed, listener, &worker)).await;
    }
}

/// Serves the one request of a stream of this connection.
pub(crate) async fn serve_stream<S: Client>(io: S, of: Rc<Live>, listener: SocketAddr, worker: Rc<Worker>) {
    let listed = worker.list_stream(&of);
    Connection::new(io, listed, listener, worker).run().await;
}

/// Lists a connection that was accepted, and counts it.
async fn begin<S: Client>(io: &S, arrival: Arrival, worker: &Rc<Worker>) -> Listed {
    let listed = worker.list(arrival, io.scheme());
    poll_fn(|cx| {
        *listed.live.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    crate::counts::add(Some(&worker.counts.connections), 1);
    listed
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
        let marks = Marks::at(began);
        let trouble = Trouble {
            stage: HEAD,
            party: Party::Client,
            failure: Failure::DeadlinePassed(limit),
            late_by,
            silent: Duration::ZERO,
        };
        self.live().line.borrow_mut().clear();
        self.live().line.borrow_mut().ensure_id(&plan.ids);
        self.fail(plan, &marks, Failed { answerable: true, ..Failed::of(&trouble) }).await;
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
            let Some(server) = prepared.route.servers.choose() else {
                self.worker.buffers.take_back(head);
                let none = prepared.route.servers.none().failure();
                let trouble = self.at_gate(Stage::Resolve, none);
                let keep = bodyless && prepared.keep_alive;
                let whom = Some((prepared, None));
                let failed = Failed { whom, keep, answerable: true, ..Failed::of(&trouble) };
                return self.fail(plan, marks, failed).await;
            };
            if let Some(request) = &mut *self.live().request.borrow_mut() {
                request.server = Some(server.address);
            }
            let mut upstream = match self.acquire(server, prepared, total, queued, marks).await {
                Ok(upstream) => upstream,
                Err((trouble, socket)) => {
                    let keep = bodyless && prepared.keep_alive;
                    let socket = socket.map(|socket| *socket).or_else(|| {
                        let peer = server.address.to_string();
                        (trouble.stage == Stage::Connect).then(|| SocketFacts { peer, ..SocketFacts::default() })
                    });
                    self.worker.buffers.take_back(head);
                    let whom = Some((prepared, Some(server)));
                    let failed = Failed { whom, socket, keep, answerable: true, ..Failed::of(&trouble) };
                    return self.fail(plan, marks, failed).await;
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
                let whom = Some((prepared, Some(server)));
                let failed = Failed { whom, keep, answerable: true, ..Failed::of(&trouble) };
                return self.fail(plan, marks, failed).await;
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
                    marks.grpc = exchange.seen.grpc.or(flow.grpc).filter(|_| prepared.is_grpc);
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
                    let socket = upstream.side.io.observe(server.address);
                    let h2 = upstream.side.io.h2_facts();
                    if trouble.is_servers() && matches!(trouble.failure, Failure::DeadlinePassed(_)) {
                        upstream.unanswered(marks.send);
                    }
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
                    let failed = Failed {
                        trouble: &trouble,
                        whom: Some((prepared, Some(server))),
                        started: true,
                        socket: Some(socket),
                        h2,
                        keep,
                        answerable: !begun,
                    };
                    return self.fail(plan, marks, failed).await;
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
    ) -> Result<Upstream, Unopened> {
        let limits = &prepared.route.route.limits;
        if let Some(due) = total
            && now >= due.at
        {
            return Err((self.at_gate(Stage::Queue, Failure::DeadlinePast(due.limit.clone())), None));
        }
        // One that is there is had at once.
        marks.queued = now;
        marks.dialled = false;
        marks.secured = None;
        let introduction = self.introduction(prepared);
        let granted = match server.grant(now, introduction.as_deref()) {
            Some(granted) => granted,
            None => {
                let due = Due::earlier(Due::after(now, limits.queue.as_ref()), total);
                let mut waiting = server.wait();
                let turn = poll_fn(|cx| waiting.poll(cx));
                let turn = self.under(Stage::Queue, due, prepared, turn).await;
                marks.queued = clock::now();
                turn.map_err(|trouble| (trouble, None))?
            }
        };
        match granted {
            Granted::Kept(upstream) => {
                crate::counts::add(Some(&self.worker.counts.reused), 1);
                Ok(upstream)
            }
            Granted::Room(permit) => self.dial(server, permit, introduction, prepared, total, marks).await,
        }
    }

    async fn dial(
        &mut self,
        server: &Rc<Server>,
        permit: Permit,
        introduction: Option<Box<[u8]>>,
        prepared: &Prepared,
        total: Option<Due<'_>>,
        marks: &mut Marks,
    ) -> Result<Upstream, Unopened> {
        let limits = &prepared.route.route.limits;
        self.live().enter(Stage::Connect, marks.queued);
        marks.dialled = true;
        crate::counts::add(Some(&self.worker.counts.dialled), 1);
        let due = Due::earlier(Due::after(marks.queued, limits.connect.as_ref()), total);
        let connected = async |stream: &TcpStream| {
            upstream::connected(stream).await?;
            match &introduction {
                Some(header) => upstream::proxy::introduce(stream, header).await,
                None => Ok(()),
            }
        };
        let cluster = &prepared.route.servers.cluster;
        let upstream = match upstream::begin(server.address) {
            Ok(stream) => match (self.under(Stage::Connect, due, prepared, connected(&stream)).await, &cluster.tls) {
                (Ok(Ok(())), None) if cluster.http2 => {
                    let wire = Wire::tcp(stream, server.address);
                    Box::pin(self.share(permit, wire.clone(), wire, prepared, due)).await
                }
                (Ok(Ok(())), None) => Ok(permit.opened(ServerIo::Plain(stream), introduction)),
                (Ok(Ok(())), Some(tls)) => match self.secure(server, stream, tls, prepared, total, marks).await {
                    Ok(stream) if cluster.http2 => {
                        let wire = stream.get_ref().0.clone();
                        Box::pin(self.share(permit, stream, wire, prepared, due)).await
                    }
                    Ok(stream) => Ok(permit.opened(ServerIo::Tls(Box::new(stream)), introduction)),
                    Err(unopened) => Err(unopened),
                },
                (Ok(Err(err)), _) => Err((self.not_connected(err), None)),
                (Err(trouble), _) => Err((trouble, Some(Box::new(ServerIo::Plain(stream).observe(server.address))))),
            },
            Err(err) => Err((self.not_connected(err), None)),
        };
        if upstream.as_ref().is_err_and(|(trouble, _)| trouble.is_servers()) {
            server.unreachable();
        }
        upstream
    }

    /// Begins HTTP/2 on a connection that was opened.
    async fn share<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
        &mut self,
        permit: Permit,
        io: IO,
        wire: Wire,
        prepared: &Prepared,
        due: Option<Due<'_>>,
    ) -> Result<Upstream, Unopened> {
        let secure = prepared.route.servers.cluster.tls.is_some();
        let begun = self.under(Stage::Connect, due, prepared, permit.shared(io, wire.clone(), secure)).await;
        let begun = begun.and_then(|begun| {
            begun.map_err(|err| Trouble {
                party: Party::Server,
                ..self.at_gate(Stage::Connect, http2::failure("write", err))
            })
        });
        begun.map_err(|trouble| (trouble, Some(Box::new(wire.observe()))))
    }

    /// What its server is told of this client.
    fn introduction(&self, prepared: &Prepared) -> Option<Box<[u8]>> {
        let version = prepared.route.servers.cluster.proxy_protocol?;
        let to = self.client.io.local_addr().unwrap_or(self.listener);
        Some(upstream::proxy::header(version, self.live().peer, to).into())
    }

    /// Makes a connection to a server a secure one.
    async fn secure(
        &mut self,
        server: &Rc<Server>,
        stream: TcpStream,
        tls: &ServerTls,
        prepared: &Prepared,
        total: Option<Due<'_>>,
        marks: &mut Marks,
    ) -> Result<ServerStream, Unopened> {
        let begun = clock::now();
        self.live().enter(Stage::Tls, begun);
        marks.secured = Some(begun);
        let due = Due::earlier(Due::after(begun, prepared.route.route.limits.tls.as_ref()), total);
        let wire = Wire::tcp(stream, server.address);
        let handshake = Box::pin(tls.tls().handshake(wire.clone(), &server.host));
        let secured = self.under(Stage::Tls, due, prepared, handshake).await;
        let secured = secured.and_then(|secured| {
            secured.map_err(|(failure, _)| Trouble { party: Party::Server, ..self.at_gate(Stage::Tls, failure) })
        });
        let http2 = prepared.route.servers.cluster.http2;
        let secured = secured.and_then(|(stream, told)| match stream.get_ref().1.alpn_protocol() {
            protocol if http2 && protocol != Some(H2) => {
                let spoken = protocol.map_or_else(|| "no protocol".into(), |name| name.escape_ascii().to_string());
                let failure = Failure::Protocol(format!("it was asked for h2 (ALPN), and chose {spoken}"));
                Err(Trouble { party: Party::Server, ..self.at_gate(Stage::Tls, failure) })
            }
            _ => Ok((stream, told)),
        });
        match secured {
            Ok((stream, told)) => {
                let counts = &self.worker.counts;
                crate::counts::add(Some(&counts.secured), 1);
                crate::counts::add(Some(&counts.resumed), told.resumed.into());
                Ok(stream)
            }
            Err(trouble) => {
                // Bytes of the handshake: whether it was silent, or slow.
                (marks.answer_bytes, marks.read_at) = (wire.read_bytes(), wire.last_read());
                Err((trouble, Some(Box::new(wire.observe()))))
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
            let party = if matches!(stage, Stage::Connect | Stage::Tls) { Party::Server } else { Party::Gate };
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

    fn not_connected(&self, err: io::Error) -> Trouble {
        Trouble { party: Party::Server, ..self.at_gate(Stage::Connect, os_failure("connect", err).0) }
    }

    fn at_gate(&self, stage: Stage, failure: Failure) -> Trouble {
        Trouble { stage, party: Party::Gate, failure, late_by: Duration::ZERO, silent: Duration::ZERO }
    }

    fn trusts(&self, plan: &Plan) -> bool {
        plan.listener(self.listener).is_some_and(|listener| self.live().is_trusted(&listener.trusted))
    }

    /// Judges what happened, tells the client if it can still be told, and logs it.
    async fn fail(&mut self, plan: &Plan, marks: &Marks, failed: Failed<'_>) -> Then {
        let Failed { trouble, whom, started, socket, h2, keep, answerable } = failed;
        let now = clock::now();
        let known = Known::of(trouble);
        // Of a client that is to blame, its own connection is the evidence; of one that does not read, what waits for it.
        let socket = match trouble.party {
            Party::Client if trouble.stage != Stage::Receive => {
                let facts = self.client.io.observe(self.live().peer);
                Some(SocketFacts { peer: format!("the client {}", self.live().peer_text), ..facts })
            }
            _ => socket,
        };
        let timeline = marks.timeline(trouble, now);
        let exchange = ExchangeFacts {
            request_started: started,
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
        let queued_at = whom.filter(|_| trouble.stage == Stage::Queue).and_then(|(_, server)| server);
        let facts = CallFacts {
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
            h2: h2.or_else(|| queued_at.and_then(|server| server.h2_facts())),
            exchange,
        };
        let judgement = overdue_core::judge::judge(&facts);
        let cause = judgement.verdicts.first().map(|verdict| verdict.cause);
        let summary = judgement.verdicts.first().map(|verdict| verdict.summary.clone());
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
                let detail = summary.as_deref().filter(|_| trusted);
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
            failed: Some((&facts, &judgement)),
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

    fn log(&self, entry: &Entry<'_>) {
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
