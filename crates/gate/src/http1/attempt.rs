//! One attempt to have a request served: a server, a connection to it, and the exchange.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{self, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use overdue::{h1::Framing, socket::os_failure, tls::Wire};
use overdue_core::{
    Limit, Stage,
    facts::{Failure, OsFailure, SocketFacts},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    connection::{Client, Connection, Failed, Then},
    exchange::{Due, Exchange, Party, Seen, Trouble, left, why_ended},
    flow::Flow,
    head::{Prepared, finish_request},
};
use crate::{
    clock,
    config::ServerTls,
    http2,
    log::{Entry, FirstAttempt, Marks},
    policy::Tried,
    upstream::{self, Granted, Introduction, Permit, Server, ServerIo, Upstream},
};

/// A server that does not come up for so long is left alone, whoever's limit it was.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// A kept connection that ends so soon after the request was sent was most likely at its end before.
const UNHEARD: Duration = Duration::from_millis(200);

/// TLS with a server.
type ServerStream = tokio_rustls::client::TlsStream<Wire>;
/// Why there is no connection to a server, and what the kernel said of the one that was to be it.
type Unopened = (Trouble, Option<Box<SocketFacts>>);

/// An attempt that came to nothing.
pub(super) struct Missed<'a> {
    pub(super) failed: Failed<'a>,
    /// The head of the request, for another.
    pub(super) head: BytesMut,
    pub(super) tried: Tried,
}

impl<S: Client> Connection<S> {
    /// Sends the request to a server, and the answer to the client. `since` is when it began to wait for a server.
    pub(super) async fn attempt<'a>(
        &mut self,
        prepared: &'a Prepared,
        head: BytesMut,
        total: Option<Due<'_>>,
        since: Instant,
        marks: &mut Marks,
    ) -> Result<Then, Box<Missed<'a>>> {
        let route = &prepared.route.route;
        let bodyless = prepared.framing == Framing::Empty;
        let mut head = head;
        let missed = |failed: Failed<'a>, head: BytesMut, tried: Tried| {
            let keep = bodyless && prepared.keep_alive;
            // A client that broke its stream hears nothing any more.
            let Trouble { party, failure, .. } = &failed.trouble;
            let answerable = (*party, matches!(failure, Failure::Protocol(_))) != (Party::Client, true);
            Err(Box::new(Missed { failed: Failed { keep, answerable, ..failed }, head, tried }))
        };
        let unsent = |failed: Failed<'a>, head: BytesMut| missed(failed, head, Tried::default());
        let servers = &prepared.route.servers;
        let chosen = match marks.again {
            Some((_, FirstAttempt { server: Some(failed), .. })) => servers.choose_but(failed),
            _ => servers.choose(),
        };
        let Some(server) = chosen else {
            let trouble = Trouble::of(Stage::Resolve, Party::Gate, prepared.route.servers.none().failure());
            return unsent(Failed { whom: Some((prepared, None)), ..Failed::of(trouble) }, head);
        };
        let whom = Some((prepared, Some(server)));
        if let Some(request) = &mut *self.live().request.borrow_mut() {
            request.server = Some(server.address);
        }
        // Also while it is waited for, or dialled: nobody should prefer a server that does not come up.
        let _pending = server.pending();
        let mut upstream = match self.acquire(server, prepared, total, since, marks).await {
            Ok(upstream) => upstream,
            Err((trouble, socket)) => {
                let socket = socket.map(|socket| *socket).or_else(|| {
                    let peer = server.address.to_string();
                    (trouble.stage == Stage::Connect).then(|| SocketFacts { peer, ..SocketFacts::default() })
                });
                self.since = clock::now();
                // It heard nothing of the request, of which nothing was taken. There is no point in asking it again.
                let waits_for_it = trouble.stage == Stage::Queue && server.only_dials() && !trouble.is_callers();
                let elsewhere = (trouble.is_servers() || waits_for_it) && servers.has_other(server.address, self.since);
                let tried = Tried { unheard: elsewhere, whole: true, harmless: true };
                return missed(Failed { whom, socket, ..Failed::of(trouble) }, head, tried);
            }
        };
        let now = if marks.dialled { clock::now() } else { marks.queued };
        marks.send = now;
        let left = total.map(|total| total.at.saturating_duration_since(now));
        if !finish_request(&mut head, left, prepared, &server.text) {
            let limit = total.map_or_else(|| Limit::total(Duration::ZERO), |total| total.limit.clone());
            let trouble = Trouble::of(Stage::Queue, Party::Gate, Failure::DeadlinePast(limit));
            upstream.put_back(&self.worker.buffers, now);
            return unsent(Failed { whom, ..Failed::of(trouble) }, head);
        }
        self.live().enter(Stage::Send, now);
        let (read_before, written_before) = (upstream.side.read, upstream.side.written);
        let client_before = self.client.written;
        let (result, seen, flow, owes_a_word) = {
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
                seen: Seen::after(read_before),
            };
            let alarm = &mut self.alarm;
            let result = poll_fn(|cx| exchange.poll(cx, alarm)).await;
            if let Some(flow) = exchange.to_client.take() {
                exchange.seen.held_back = flow.is_held_back();
                marks.body = flow.moved;
                marks.grpc = exchange.seen.grpc.or(flow.grpc).filter(|_| prepared.is_grpc);
                self.worker.buffers.take_back(flow.into_buffer());
            }
            let owes_a_word = result.is_err() && exchange.owes_a_word();
            (result, exchange.seen, exchange.to_server, owes_a_word)
        };
        let now = clock::now();
        self.since = now;
        // An early answer ends `send`, too.
        marks.sent = seen.sent.or(seen.asked).unwrap_or(now).min(seen.head.unwrap_or(now));
        marks.answered = seen.head;
        marks.status = seen.status;
        marks.tunnel = seen.tunnel;
        marks.open = seen.sent.is_none() && seen.write_failed.is_none();
        marks.left = flow.left();
        marks.client_took = seen.client_took;
        marks.bytes_in = prepared.length as u64 + flow.moved;
        marks.bytes_out = self.client.written - client_before;
        marks.reused = upstream.carried > 0;
        marks.connection = upstream.number;
        marks.idle = upstream.idle;
        match seen.head.map(|answered| answered.saturating_duration_since(marks.send)) {
            // It is there, and says that it cannot: how soon is no merit.
            Some(took) if matches!(seen.status, 502..=504) => server.failed(took),
            Some(took) => server.answered(took),
            None => {}
        }
        let Err(trouble) = result else {
            self.worker.buffers.take_back(flow.into_buffer());
            // The rest of a request that its server did not want would be taken for the next.
            let sent = seen.sent.is_some() && seen.write_failed.is_none();
            if seen.server_keeps && sent && upstream.side.bytes().is_empty() && !seen.tunnel {
                upstream.keep(&self.worker.buffers, now);
            }
            let entry = Entry { route: Some(&prepared.route), server: Some(server), ..Entry::new(marks, now) };
            self.log(&entry);
            // A client that was told that its connection stays may have sent its next request by now.
            let keep = seen.told.is_some_and(|told| told.keep_alive);
            return Ok(if keep { Then::Next } else { Then::Close });
        };
        let answered = upstream.side.read > read_before;
        let dead = matches!(trouble.failure, Failure::Closed | Failure::Os { kind: OsFailure::Reset, .. });
        // Its server has said that it did not look at the request.
        let refused = upstream.side.io.was_refused();
        let tried = Tried {
            // A connection that was kept and turns out to be dead is no word about the request, unless its server had time to
            // read it.
            unheard: refused || upstream.carried > 0 && !answered && dead && now < marks.send + UNHEARD,
            // The head is there as it was made. Of a body nothing was taken yet.
            whole: bodyless || flow.moved == 0 && (refused || upstream.side.written == written_before),
            harmless: refused || prepared.is_idempotent || upstream.side.written == written_before,
        };
        let late = matches!(trouble.failure, Failure::DeadlinePassed(_));
        // There are servers that know no such word: for them, nobody is to have a server left alone who asks for it.
        let is_word = late && owes_a_word;
        if trouble.is_servers() && !is_word && !tried.unheard && seen.head.is_none() {
            server.failed(now.saturating_duration_since(marks.send));
        }
        // Whoever's limit it was.
        if trouble.party == Party::Server && late {
            upstream.unanswered(marks.send);
        }
        let begun = seen.told.is_some() && !seen.held_back;
        if seen.held_back {
            // The answer that is ours now has none, whatever might have come behind the other.
            self.client.io.end_with(None);
        }
        marks.answer_bytes = upstream.side.read - read_before;
        marks.expected = seen.expected;
        marks.read_at = seen.read_at;
        let failed = Failed {
            whom,
            started: true,
            socket: Some(upstream.side.io.observe(server.address)),
            h2: upstream.side.io.h2_facts(),
            keep: !begun && bodyless && prepared.keep_alive,
            answerable: !begun && !seen.broken,
            trouble,
        };
        // Closed before the client hears of it: nobody waits for what the server still does.
        drop(upstream);
        Err(Box::new(Missed { failed, head: flow.into_buffer(), tried }))
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
            return Err((Trouble::of(Stage::Queue, Party::Gate, Failure::DeadlinePast(due.limit.clone())), None));
        }
        if marks.again.is_some() {
            self.live().enter(Stage::Queue, now);
        }
        // One that is there is had at once.
        marks.queued = now;
        marks.dialled = false;
        marks.secured = None;
        let introduction = self.introduction(prepared);
        let granted = match server.grant(now, introduction.as_ref()) {
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
            // Boxed: most requests find a connection, and have no room for it.
            Granted::Room(permit) => Box::pin(self.dial(server, permit, introduction, prepared, total, marks)).await,
        }
    }

    async fn dial(
        &mut self,
        server: &Rc<Server>,
        permit: Permit,
        introduction: Option<Introduction>,
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
                Some(of) => upstream::proxy::introduce(stream, &of.header).await,
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
        if let Err((trouble, _)) = &upstream {
            // The limit of a whole request may be shorter than any connect; that a server takes so long is its own.
            let took = clock::now().saturating_duration_since(marks.queued);
            let is_late = trouble.party == Party::Server && took >= UNREACHABLE;
            if trouble.is_servers() || is_late && matches!(trouble.failure, Failure::DeadlinePassed(_)) {
                server.unreachable();
            }
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
            begun.map_err(|err| Trouble::of(Stage::Connect, Party::Server, http2::failure("write", err)))
        });
        begun.map_err(|trouble| (trouble, Some(Box::new(wire.observe()))))
    }

    /// What its server is told of this client.
    fn introduction(&self, prepared: &Prepared) -> Option<Introduction> {
        let version = prepared.route.servers.cluster.proxy_protocol?;
        // As the proxy before this one said it, so that the address is the same however many there are.
        let to = self.live().to.or_else(|| self.client.io.local_addr()).unwrap_or(self.listener);
        let header = match self.live().is_known() {
            true => upstream::proxy::header(version, self.live().peer, to).into(),
            // A proxy did not say whom it serves, and nobody else can.
            false => upstream::proxy::own_header(version).into(),
        };
        Some(Introduction { header, client: self.live().number })
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
        let secured =
            secured.and_then(|secured| secured.map_err(|(failure, _)| Trouble::of(Stage::Tls, Party::Server, failure)));
        let http2 = prepared.route.servers.cluster.http2;
        let secured = secured.and_then(|(stream, told)| match http2::is_spoken(&stream) {
            Err(text) if http2 => Err(Trouble::of(Stage::Tls, Party::Server, Failure::Protocol(text))),
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
            if let Some(trouble) = Trouble::cut(worker, stage) {
                return Poll::Ready(trouble);
            }
            let left = if bodyless {
                client.poll_end(cx, &worker.buffers).map(|how| left(&how))
            } else {
                client.io.poll_gone(cx).map(|err| why_ended(err, client.io.cut_off().is_some()))
            };
            if let Poll::Ready(failure) = left {
                let party = Party::Client;
                return Poll::Ready(Trouble::of(stage, party, failure));
            }
            let party = if matches!(stage, Stage::Connect | Stage::Tls) { Party::Server } else { Party::Gate };
            Due::poll(due, alarm, cx)
                .map(|(failure, late_by)| Trouble { late_by, ..Trouble::of(stage, party, failure) })
        })
        .await
    }

    fn not_connected(&self, err: io::Error) -> Trouble {
        Trouble::of(Stage::Connect, Party::Server, os_failure("connect", err).0)
    }
}
