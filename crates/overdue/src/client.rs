//! The HTTP client: every stage of a call has its own limit and its own measured time.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use overdue::{Client, Context, Limit, Stage};
//!
//! let client = Client::builder().limit(Limit::stage(Stage::Tls, Duration::from_secs(2))).build()?;
//! let request = Context::root().child(Limit::total(Duration::from_secs(5)));
//!
//! let response = client.get(&request, "https://example.com/").await?;
//! let body = response.into_body().bytes(1 << 20).await?;
//! # Ok(()) }
//! ```

mod body;
mod builder;
mod http1;
mod http2;
mod pool;
mod snapshot;
mod upload;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri, header::HOST};
use overdue_core::{
    ConnectionReport, Limits, Stage, Verdict,
    facts::{Failure, PoolFacts},
};

pub use self::{
    body::Body,
    builder::{BuildError, Builder},
    http2::{h2_failure, h2_unprocessed},
    pool::PoolOptions,
    snapshot::{Redaction, Snapshot},
};
use self::{
    body::Source,
    http1::{Http1, Http1Body, RequestBody, Sent, request_framing},
    http2::{Http2, Http2Exchange, Sent2},
    pool::{Offer, Pool, Slot, StreamPermit},
    upload::Upload,
};
use crate::{
    Context, Error, clock,
    dial::{Dialer, Target},
    error::BoxError,
    h1::{
        Framing,
        head::{ResponseHead, encode_request, wants_close},
    },
    log::CallLog,
    observe::Observer,
    trouble::Trouble,
};

/// An HTTP client with a connection pool. Cheap to clone; clones share the pool.
///
/// HTTP/2 where TLS agrees on it, HTTP/1.1 otherwise. Limits: [`Limits`]; those of one call can be given with it, as
/// [`Limits`] in the extensions of the request, and so can a [`Redaction`], which asks for a [`Snapshot`]. A connection that was kept and turns out to be dead is replaced once,
/// when nothing of the request was sent, or when the method is idempotent and there is no body and no answer.
///
/// Redirects, decompression and the like are layers of tower-http: a client is a [`tower_service::Service`], which
/// takes its [`Context`] from the extensions of the request. Without one it is the context of the task that makes the call
/// ([`Context::current`]), and where there is none, one of its own that nobody can cancel.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Dialer,
    pool: Arc<Pool>,
    limits: Limits,
    conflicts: Vec<Verdict>,
    version: VersionChoice,
    observer: Option<Arc<dyn Observer>>,
    snapshot: Option<Redaction>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("dialer", &self.dialer)
            .field("pool", &self.pool)
            .field("limits", &self.limits)
            .field("version", &self.version)
            .field("observed", &self.observer.is_some())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VersionChoice {
    Negotiated,
    Http1,
    Http2,
}

impl Client {
    /// A client with the defaults of [`Limits`] and [`PoolOptions`].
    ///
    /// # Errors
    /// When the platform's trusted certificates cannot be read.
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// A client with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What is wrong with the limits of this client: those that can never fire, that race, that leave a stage uncovered.
    /// Found when it was built, with the place where each was set.
    #[must_use]
    pub fn conflicts(&self) -> &[Verdict] {
        &self.inner.conflicts
    }

    /// How many connections are open now: idle, in use and being dialled.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.pool.open()
    }

    /// Fetches a URL.
    ///
    /// # Errors
    /// As [`call`](Self::call); also when `url` is no URL.
    pub async fn get(&self, context: &Context, url: &str) -> Result<Response<Body>, Error> {
        let uri = match url.parse::<Uri>() {
            Ok(uri) => uri,
            Err(err) => {
                let text = format!("{:?} is no absolute URL (such as http://host/path): {err}", without_secrets(url));
                return Err(CallLog::new().fail(Stage::Queue, Failure::Usage(text).into()));
            }
        };
        let mut request = Request::new(Empty);
        *request.uri_mut() = uri;
        self.call(context, request).await
    }

    /// Sends a request and waits for the head of the response. The body comes as it is read.
    ///
    /// The [`CallLog`] in the extensions of the response tells how the call went, at any time.
    ///
    /// # Errors
    /// [`Error`], with stage, limit, cause, evidence and fix.
    ///
    /// # Cancel safety
    /// Dropping the future ends the call: its connection is closed, or its stream cancelled, and nothing else is lost.
    pub async fn call<B>(&self, context: &Context, request: Request<B>) -> Result<Response<Body>, Error>
    where
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let now = clock::now();
        let log = CallLog::starting(now);
        let mut outgoing = match Outgoing::new(request) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Err(log.fail(Stage::Queue, failure.into())),
        };
        if let Some(observer) = &self.inner.observer {
            log.watch(observer, &outgoing.target.host);
        }
        let limits = outgoing.limits.take();
        let limits = limits.as_ref().unwrap_or(&self.inner.limits);
        let redaction = outgoing.redaction.take();
        let redaction = redaction.as_deref().or(self.inner.snapshot.as_ref());
        let context =
            limits.total.as_ref().map_or_else(|| context.clone(), |total| context.child_at(now, total.clone()));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let attempt = limits.attempt.as_ref().map(|limit| context.child(limit.clone()));
            let context = attempt.as_ref().unwrap_or(&context);
            let call = Call { inner: &self.inner, context, limits, redaction, log: &log };
            match call.run(&mut outgoing).await {
                Ok(mut response) => {
                    response.extensions_mut().insert(log);
                    return Ok(response);
                }
                Err((err, again)) if attempts < again.attempts_max() => {
                    self.inner.pool.forget_idle(&outgoing.target);
                    log.next_attempt(&err);
                }
                Err((err, _)) => {
                    log.tell_end(Some(err.report()));
                    return Err(err);
                }
            }
        }
    }
}

/// A wait in the queue that is shorter explains no failure.
const WORTH_TELLING: Duration = Duration::from_millis(1);

/// Whether a failed attempt may be repeated here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Again {
    No,
    /// It met a kept connection that was dead, and sending the request once more is safe.
    DeadConnection,
    /// The peer said that it did nothing with the request, and the request is still whole.
    Unprocessed,
}

impl Again {
    const fn attempts_max(self) -> u32 {
        match self {
            Self::No => 1,
            // A second dead connection is no accident.
            Self::DeadConnection => 2,
            // A server that ends its connections under load does so to many calls at once. One that refuses everything
            // is not asked for ever.
            Self::Unprocessed => 8,
        }
    }
}

/// A request that is ready to be sent, perhaps twice.
struct Outgoing<B> {
    target: Target,
    /// As the Host field has it.
    authority: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    framing: Framing,
    body: Option<Upload<B>>,
    limits: Option<Limits>,
    redaction: Option<Box<Redaction>>,
}

impl<B: http_body::Body<Error: Into<BoxError>>> Outgoing<B> {
    fn new(request: Request<B>) -> Result<Self, Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        let (mut parts, body) = request.into_parts();
        let secure = match parts.uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => return usage(format!("the scheme {other:?} is neither http nor https")),
            None => {
                let url = without_secrets(&parts.uri.to_string());
                return usage(format!("{url:?} is no absolute URL: write http://host/path"));
            }
        };
        let Some(authority) = parts.uri.authority() else { return usage("the URL has no host".to_owned()) };
        if authority.as_str().contains('@') {
            return usage("the URL has a user name in it: send an Authorization field instead".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return usage("the URL has no host".to_owned());
        }
        // `host:` and `host:99999` have no port that could be read.
        if authority.port_u16().is_none() && authority.as_str().len() > authority.host().len() {
            return usage(format!("{:?} has no valid port", authority.as_str()));
        }
        if parts.method == Method::CONNECT {
            return usage("CONNECT is for proxies, which this client does not use".to_owned());
        }
        if parts.headers.get_all(HOST).iter().count() > 1 {
            return usage("there are two Host fields".to_owned());
        }
        let default_port = if secure { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default_port);
        let authority =
            if port == default_port { authority.host().to_owned() } else { format!("{}:{port}", authority.host()) };
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            host.to_ascii_lowercase().into()
        } else {
            host.into()
        };
        let target = Target { secure, host, port };
        let framing = request_framing(&body, &parts.headers);
        let body = (framing != Framing::Empty).then(|| Upload::new(body));
        let limits = parts.extensions.remove::<Limits>();
        let redaction = parts.extensions.remove::<Redaction>().map(Box::new);
        Ok(Self {
            target,
            authority,
            method: parts.method,
            uri: with_path(parts.uri).map_err(|err| Failure::Usage(format!("the URL cannot be sent: {err}")))?,
            headers: parts.headers,
            framing,
            body,
            limits,
            redaction,
        })
    }

    /// Sending it twice does what sending it once does.
    fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// All of it could be sent once more.
    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(Upload::is_whole)
    }
}

/// One attempt.
struct Call<'a> {
    inner: &'a Inner,
    context: &'a Context,
    limits: &'a Limits,
    redaction: Option<&'a Redaction>,
    log: &'a CallLog,
}

type Attempted = Result<Response<Body>, (Error, Again)>;

impl Call<'_> {
    async fn run<B>(&self, outgoing: &mut Outgoing<B>) -> Attempted
    where
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        self.log.set_replayable(true);
        let offer = self.acquire(&outgoing.target).await.map_err(|err| (err, Again::No))?;
        if let Some(body) = &mut outgoing.body {
            body.prepare(outgoing.framing);
        }
        match offer {
            Offer::Kept(connection, idle) => {
                self.log.exchange(|exchange| exchange.reused_after = Some(idle));
                self.http1(connection, outgoing, Some(idle)).await
            }
            Offer::Stream(permit) => Box::pin(self.http2(Ok(permit), outgoing, true)).await,
            // Boxed, because it is large and rare: every call in flight would carry the room for it.
            Offer::Dial(slot) => Box::pin(self.dial(slot, outgoing)).await,
        }
    }

    async fn acquire(&self, target: &Target) -> Result<Offer, Error> {
        let pool = &self.inner.pool;
        let waiting = async { Ok::<_, Trouble>(pool.acquire(target).await) };
        let offer = self.log.stage(self.context, Stage::Queue, self.limits.queue.as_ref(), waiting).await;
        // This call no longer stands in the queue, and did until now.
        let facts = || {
            let (facts, h2) = pool.facts(target);
            (PoolFacts { waiting: facts.waiting + 1, ..facts }, h2)
        };
        match offer {
            Ok(offer) => {
                // Should the call run out of time later, this is what cost it.
                if self.log.queued() >= WORTH_TELLING {
                    self.log.set_pool(facts().0);
                }
                Ok(offer)
            }
            Err(mut trouble) => {
                let (facts, h2) = facts();
                (trouble.pool, trouble.h2) = (Some(Box::new(facts)), h2.map(Box::new));
                Err(self.log.fail(Stage::Queue, trouble))
            }
        }
    }

    async fn dial<B>(&self, mut slot: Slot, outgoing: &mut Outgoing<B>) -> Attempted
    where
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let dialed = self.inner.dialer.dial(self.context, &outgoing.target, self.limits, self.log).await;
        let dialed = dialed.map_err(|err| (err, Again::No))?;
        let mut report = ConnectionReport { id: slot.id, ..dialed.report };
        if dialed.h2 || self.inner.version == VersionChoice::Http2 {
            report.protocol = Some("h2");
            let report = Arc::new(report);
            self.log.set_connection(Arc::clone(&report), None);
            self.http2(Err(NewHttp2 { transport: dialed.transport, slot, report }), outgoing, false).await
        } else {
            slot.speaks_h1();
            self.http1(Box::new(Http1::new(dialed.transport, slot, report.into())), outgoing, None).await
        }
    }

    /// `idle` is how long a connection lay in the pool, if it comes from there.
    async fn http1<B>(
        &self,
        mut connection: Box<Http1>,
        outgoing: &mut Outgoing<B>,
        idle: Option<Duration>,
    ) -> Attempted
    where
        B: http_body::Body<Error: Into<BoxError>>,
    {
        let (log, limits) = (self.log, self.limits);
        log.set_connection(Arc::clone(&connection.report), idle);
        let failed = |connection: &Http1, stage, trouble: Trouble, outgoing: &Outgoing<B>| {
            connection.note(log);
            let sent = connection.sent_bytes() > 0;
            let answered = connection.response_bytes() > 0;
            let again = outgoing.is_whole() && !answered && (!sent || outgoing.is_idempotent());
            log.set_replayable(again);
            let dead = idle.is_some() && trouble.is_dead_connection();
            let err = log.fail(stage, trouble.with_socket(connection.wire().observe()));
            (err, if again && dead { Again::DeadConnection } else { Again::No })
        };

        let mut head = BytesMut::new();
        let target = outgoing.uri.path_and_query().map_or("/", |path| path.as_str());
        encode_request(&mut head, &outgoing.method, target, &outgoing.authority, &outgoing.headers, outgoing.framing);
        let snapshot = self.redaction.map(|asked| Snapshot::http1(asked, self, &head, &outgoing.headers));
        connection.begin();
        let mut upload = outgoing.body.as_mut().map(Upload::take);
        let body = RequestBody { upload: upload.as_mut(), framing: outgoing.framing };
        let sending = connection.send(head, body, &outgoing.method, log);
        let sent = log.stage(self.context, Stage::Send, limits.send.as_ref(), sending).await;
        if let (Some(body), Some(upload)) = (&mut outgoing.body, upload) {
            body.put_back(upload);
        }
        log.keep(snapshot.filter(|_| connection.sent_bytes() > 0));
        let (head, whole) = match sent {
            Ok(Sent::Early(head)) => (head, false),
            Ok(Sent::Flushed) => {
                let waiting = connection.wait(&outgoing.method);
                match log.stage(self.context, Stage::Wait, limits.wait.as_ref(), waiting).await {
                    Ok(head) => (head, true),
                    Err(trouble) => return Err(failed(&connection, Stage::Wait, trouble, outgoing)),
                }
            }
            Err(trouble) => return Err(failed(&connection, Stage::Send, trouble, outgoing)),
        };
        connection.note(log);
        // The peer has acted on the request, whatever becomes of its answer.
        log.set_replayable(outgoing.is_idempotent() && outgoing.is_whole());
        let keep_alive = whole && head.keep_alive && !wants_close(&outgoing.headers);
        let ResponseHead { status, version, headers, framing, .. } = head;
        let source = Source::H1(Http1Body::new(connection, framing, keep_alive));
        let expected = match framing {
            Framing::Length(length) => Some(length),
            Framing::Empty => Some(0),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let body = Body::new(source, expected, self.context.clone(), limits.gap.clone(), log.clone());
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.version_mut() = version;
        *response.headers_mut() = headers;
        Ok(response)
    }

    async fn http2<B>(
        &self,
        connection: Result<StreamPermit, NewHttp2>,
        outgoing: &mut Outgoing<B>,
        kept: bool,
    ) -> Attempted
    where
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let (log, limits) = (self.log, self.limits);
        let started = clock::now();
        let failed = |exchange: Option<&Http2Exchange>, stage, trouble: Trouble, outgoing: &Outgoing<B>| {
            let again = outgoing.is_whole() && (trouble.unprocessed || exchange.is_none() || outgoing.is_idempotent());
            log.set_replayable(again);
            let refused = trouble.unprocessed;
            // A stream that the peer reset on a connection that lives was answered: with a no.
            let gone = exchange.and_then(Http2Exchange::connection).is_none_or(|connection| connection.is_closed());
            let dead = kept && trouble.is_dead_connection() && gone;
            // No stream was opened, or the whole connection was ended beneath it.
            let unprocessed = dead && exchange.is_none() || refused && trouble.ended_connection();
            let trouble = match exchange {
                Some(exchange) => exchange.explain(trouble, started),
                None => trouble,
            };
            let again = match again {
                true if unprocessed => Again::Unprocessed,
                true if dead || refused => Again::DeadConnection,
                _ => Again::No,
            };
            (log.fail(stage, trouble), again)
        };

        let head =
            http2::request_head(outgoing.method.clone(), outgoing.uri.clone(), &outgoing.headers, outgoing.framing)
                .map_err(|failure| (log.fail(Stage::Queue, failure.into()), Again::No))?;
        let snapshot = self.redaction.map(|asked| Snapshot::http2(asked, self, &head, &outgoing.headers));
        let mut exchange = None;
        let sending = async {
            let permit = match connection {
                Ok(permit) => permit,
                Err(new) => new.begin().await?,
            };
            if let Some(connection) = permit.connection() {
                log.set_connection(Arc::clone(connection.report()), permit.idle);
                log.exchange(|exchange| exchange.reused_after = permit.idle);
            }
            let begun = Http2Exchange::begin(permit, head, outgoing.body.as_mut(), outgoing.framing, log)?;
            exchange.insert(begun).send().await
        };
        let sent = log.stage(self.context, Stage::Send, limits.send.as_ref(), sending).await;
        log.keep(snapshot.filter(|_| exchange.is_some()));
        let response = match (sent, exchange.as_mut()) {
            (Ok(Sent2::Early(response)), _) => response,
            (Ok(Sent2::Flushed), Some(exchange)) => {
                match log.stage(self.context, Stage::Wait, limits.wait.as_ref(), exchange.wait()).await {
                    Ok(response) => response,
                    Err(trouble) => return Err(failed(Some(exchange), Stage::Wait, trouble, outgoing)),
                }
            }
            (Ok(Sent2::Flushed), None) => return Err((log.fail(Stage::Send, Failure::Closed.into()), Again::No)),
            (Err(trouble), exchange) => {
                let exchange = exchange.map(|exchange| &*exchange);
                return Err(failed(exchange, Stage::Send, trouble, outgoing));
            }
        };
        let Some(exchange) = exchange else { return Err((log.fail(Stage::Wait, Failure::Closed.into()), Again::No)) };
        log.exchange(|facts| {
            // The bytes of a head are the connection's business; that there was one is what matters.
            facts.response_bytes = 1;
            facts.last_read = Some(clock::now());
        });
        log.set_replayable(outgoing.is_idempotent() && outgoing.is_whole());
        let (mut parts, stream) = response.into_parts();
        parts.version = http::Version::HTTP_2;
        let expected = parts.headers.get(http::header::CONTENT_LENGTH);
        let expected = expected.and_then(|value| value.to_str().ok()?.parse().ok());
        let expected = if stream.is_end_stream() { Some(0) } else { expected };
        let source = Source::H2(exchange.into_body(stream));
        let body = Body::new(source, expected, self.context.clone(), limits.gap.clone(), log.clone());
        Ok(Response::from_parts(parts, body))
    }
}

/// A connection that will speak HTTP/2.
struct NewHttp2 {
    transport: crate::transport::Transport,
    slot: Slot,
    report: Arc<ConnectionReport>,
}

impl NewHttp2 {
    async fn begin(self) -> Result<StreamPermit, Trouble> {
        let pool = self.slot.pool();
        let connection = Http2::handshake(self.transport, self.slot, self.report).await?;
        pool.map(|pool| pool.share(connection)).ok_or_else(|| Failure::Closed.into())
    }
}

impl<B> tower_service::Service<Request<B>> for Client
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Error>> {
        // A call waits for its turn in the stage `queue`, where a limit covers it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.clone();
        let given = request.extensions().get::<Context>().cloned();
        let context = given.or_else(Context::current).unwrap_or_else(Context::root);
        Box::pin(async move { Self::call(&client, &context, request).await })
    }
}

/// A URI whose path is written out: `http://host?query` means the path `/`.
fn with_path(uri: Uri) -> Result<Uri, http::Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if path.starts_with(['/', '*']) {
        return Ok(uri);
    }
    let path = format!("/{path}");
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path.try_into()?);
    Ok(Uri::from_parts(parts)?)
}

/// The text of what should be a URL, without what may be secrets: user, query and fragment.
pub(crate) fn without_secrets(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let user = rest.get(..end).and_then(|authority| authority.rfind('@')).or_else(|| rest.rfind('@'));
    let (hidden, rest) = match user {
        Some(at) => ("***", rest.get(at..).unwrap_or_default()),
        None => ("", rest),
    };
    match rest.find(['?', '#']) {
        Some(at) => format!("{scheme}{hidden}{}***", rest.get(..=at).unwrap_or_default()),
        None => format!("{scheme}{hidden}{rest}"),
    }
}

/// The body of a request that has none.
struct Empty;

impl http_body::Body for Empty {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}
