//! One HTTP/2 connection, shared by many calls, and the exchange on one of its streams.
//!
//! The h2 crate does the framing. A task of its own drives the connection; it tells the pool when streams become free
//! for other reasons than a call that ended (the peer's SETTINGS, GOAWAY).

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context as TaskContext, Poll, Waker, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{
    HeaderMap, Request, Response,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};
use http_body::Body as _;
use overdue_core::{
    ConnectionReport,
    facts::{Failure, H2Facts, OsFailure},
};
use slab::Slab;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::AbortHandle,
};

use super::{
    pool::{Slot, StreamPermit},
    upload::Upload,
};
use crate::{
    clock,
    error::BoxError,
    h1::{Framing, chunked::Piece},
    log::CallLog,
    sync::wake_all,
    tls::{io_failure, printable},
    transport::Transport,
    trouble::Trouble,
    wire::Wire,
};

/// How many streams h2 believes to be allowed until the peer's SETTINGS are here: a number that no peer sends.
const UNSETTLED: usize = usize::MAX - 1;
/// How often a call lets others run so that what lies unread is read.
const CATCH_UP_MAX: usize = 8;
/// What one response may send ahead of its reader.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// What all responses of a connection together may send ahead of their readers.
const CONNECTION_WINDOW: u32 = 32 * STREAM_WINDOW;
/// The header fields of a response, as HTTP/2 counts them.
const HEADERS_MAX: u32 = 64 * 1024;
/// Informational heads (100 to 199) before the final one.
const INFORMATIONAL_MAX: usize = 32;
/// What one request body may have queued in the connection.
const SEND_BUFFER_MAX: usize = 256 * 1024;

pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    wire: Wire,
    slot: Slot,
    report: Arc<ConnectionReport>,
    driver: AbortHandle,
    state: Arc<DriverState>,
    retired: AtomicBool,
    use_: Mutex<Use>,
}

struct Use {
    streams: usize,
    idle_since: Instant,
}

/// What the driving task lets others know.
#[derive(Default)]
struct DriverState {
    /// It has ended.
    ended: AtomicBool,
    /// The peer takes no more: see [`Observed::note`].
    write_failed: AtomicBool,
    /// The last write did not get through: frames wait in this process.
    write_blocked: AtomicBool,
    /// Who wants to know when that changes.
    flush_waiters: Mutex<Slab<Waker>>,
    /// What broke the connection: h2 passes on no more than its kind.
    broken: Mutex<Option<Failure>>,
}

impl DriverState {
    fn set_write_blocked(&self, blocked: bool) {
        self.write_blocked.store(blocked, Relaxed);
    }

    /// Wakes those who wait for the writes to go on. Not from within a write: h2 holds a lock there.
    fn wake_flushed(&self) {
        if !self.write_blocked.load(Relaxed) {
            let waiters = self.waiters().iter().map(|(_, waiter)| waiter.clone()).collect();
            wake_all(waiters);
        }
    }

    /// `slot` is the caller's own among those who wait.
    fn poll_flushed(&self, slot: &mut Option<usize>, cx: &TaskContext<'_>) -> Poll<()> {
        if self.write_blocked.load(Relaxed) {
            let mut waiters = self.waiters();
            match slot.and_then(|slot| waiters.get_mut(slot)) {
                Some(waiter) => waiter.clone_from(cx.waker()),
                None => *slot = Some(waiters.insert(cx.waker().clone())),
            }
        }
        if self.write_blocked.load(Relaxed) { Poll::Pending } else { Poll::Ready(()) }
    }

    fn forget(&self, slot: Option<usize>) {
        if let Some(slot) = slot {
            self.waiters().try_remove(slot);
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.flush_waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_write_failed(&self, err: io::Error) {
        self.write_failed.store(true, Relaxed);
        self.broken().get_or_insert(io_failure("write", err).0);
    }

    /// What reading says is nearer to the peer than what writing said.
    fn set_read_failed(&self, err: io::Error) -> io::Error {
        let kind = err.kind();
        // A peer that closes without close_notify has closed.
        if kind == io::ErrorKind::UnexpectedEof {
            return err;
        }
        let (failure, err) = io_failure("read", err);
        *self.broken() = Some(failure);
        err.unwrap_or_else(|| kind.into())
    }

    fn broken(&self) -> MutexGuard<'_, Option<Failure>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what broke the connection, where h2 only says that it ended.
    fn explain(&self, mut trouble: Trouble) -> Trouble {
        if matches!(trouble.failure, Some(Failure::Closed)) {
            let broken = self.broken().clone();
            trouble.failure = broken.or(trouble.failure);
        }
        trouble
    }
}

impl Http2 {
    /// Begins HTTP/2 on a new connection.
    pub(crate) async fn handshake(
        transport: Transport,
        slot: Slot,
        report: Arc<ConnectionReport>,
    ) -> Result<Self, Trouble> {
        let wire = transport.wire().clone();
        let state = Arc::new(DriverState::default());
        let io = Observed { transport, state: Arc::clone(&state) };
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(UNSETTLED)
            .max_header_list_size(HEADERS_MAX)
            .max_send_buffer_size(SEND_BUFFER_MAX)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|err| state.explain(failure(err)))?;
        let driver = tokio::spawn(drive(connection, sender.clone(), Arc::clone(&state), slot.place().clone()));
        let use_ = Mutex::new(Use { streams: 0, idle_since: clock::now() });
        let retired = AtomicBool::new(false);
        Ok(Self { sender, wire, slot, report, driver: driver.abort_handle(), state, retired, use_ })
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Lets the driving task read what the peer has already said: after some time without a call that may be the end of
    /// the connection.
    pub(crate) async fn catch_up(&self) {
        for _ in 0..CATCH_UP_MAX {
            if self.is_closed() || !self.wire.has_unread() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes one of the streams that the peer allows, if one is free.
    pub(crate) fn take_stream(&self) -> bool {
        let mut use_ = self.in_use();
        let free = use_.streams < self.max_streams();
        use_.streams += usize::from(free);
        free
    }

    pub(crate) fn put_stream(&self) {
        let mut use_ = self.in_use();
        use_.streams = use_.streams.saturating_sub(1);
        use_.idle_since = clock::now();
    }

    /// Streams in use, and how many the peer allows.
    pub(crate) fn streams(&self) -> (usize, usize) {
        (self.in_use().streams, self.max_streams())
    }

    /// Until the peer has said how many streams it allows, it is one: more could wait inside of h2, seen by nobody.
    fn max_streams(&self) -> usize {
        if self.is_settled() { self.sender.current_max_send_streams() } else { 1 }
    }

    /// Whether the peer's SETTINGS are here.
    pub(crate) fn is_settled(&self) -> bool {
        self.sender.current_max_send_streams() != UNSETTLED
    }

    pub(crate) fn slot_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }

    /// How long no stream has been in use; `None` while one is.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let use_ = self.in_use();
        (use_.streams == 0).then(|| now.saturating_duration_since(use_.idle_since))
    }

    /// Whether it takes no further call.
    pub(crate) fn is_closed(&self) -> bool {
        self.retired.load(Relaxed)
            || self.state.ended.load(Relaxed)
            || self.state.write_failed.load(Relaxed)
            || is_dead(&self.sender)
    }

    pub(crate) const fn report(&self) -> &Arc<ConnectionReport> {
        &self.report
    }

    /// Calls that run go on; no further one begins here.
    fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    fn in_use(&self) -> MutexGuard<'_, Use> {
        self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Whether the connection has failed or the peer has sent GOAWAY.
fn is_dead(sender: &SendRequest<Bytes>) -> bool {
    let mut cx = TaskContext::from_waker(Waker::noop());
    matches!(sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
}

async fn drive(
    mut connection: h2::client::Connection<Observed, Bytes>,
    sender: SendRequest<Bytes>,
    state: Arc<DriverState>,
    place: super::pool::Place,
) {
    // A sender that lives as long as the connection keeps it open: the pool decides when it is closed.
    let mut seen = (UNSETTLED, false);
    // How it ended reaches every stream of it; here it only matters that it did.
    let _ended = poll_fn(|cx| {
        let poll = Pin::new(&mut connection).poll(cx);
        state.wake_flushed();
        let now = (connection.max_concurrent_send_streams(), is_dead(&sender));
        if std::mem::replace(&mut seen, now) != now {
            place.serve();
        }
        poll
    })
    .await;
    state.ended.store(true, Relaxed);
    state.set_write_blocked(false);
    state.wake_flushed();
    place.serve();
}

/// The connection's transport, which remembers whether writing is held up.
struct Observed {
    transport: Transport,
    state: Arc<DriverState>,
}

impl Observed {
    /// A write that failed is kept to itself: what the peer said before it went, an alert or a GOAWAY, is still to be
    /// read, and so is the end of the connection, which then ends everything.
    fn note<T>(&self, poll: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        self.state.set_write_blocked(poll.is_pending());
        match poll {
            Poll::Ready(Err(err)) => {
                self.state.set_write_failed(err);
                Poll::Ready(Ok(instead))
            }
            other => other,
        }
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.transport).poll_read(cx, buf);
        poll.map_err(|err| self.state.set_read_failed(err))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.note(poll, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.note(poll, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.transport).poll_flush(cx);
        self.note(poll, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

/// The exchange of one call.
pub(crate) struct Http2Exchange {
    // The order matters: the stream's handles go first, so that its end is known when the permit is given back.
    response: Option<h2::client::ResponseFuture>,
    pump: Option<Pump>,
    permit: StreamPermit,
    window_blocked: Arc<AtomicUsize>,
    /// Among those who wait for a flush.
    flush_slot: Option<usize>,
    informational: usize,
}

/// Sends the body of a request.
type Pump = Pin<Box<dyn Future<Output = Result<(), Trouble>> + Send>>;

impl Drop for Http2Exchange {
    fn drop(&mut self) {
        if let Some(connection) = self.permit.connection() {
            connection.state.forget(self.flush_slot);
        }
    }
}

/// How `send` ended.
pub(crate) enum Sent2 {
    /// All frames of the request are with the connection, and its writes are not held up.
    Flushed,
    /// The peer answered before it had the whole request, which goes on being sent.
    Early(Response<RecvStream>),
}

impl Http2Exchange {
    /// Opens a stream with the head of the request. `upload` is what to send after it; it is only taken when the stream
    /// could be opened.
    pub(crate) fn begin<B>(
        permit: StreamPermit,
        head: Request<()>,
        upload: Option<&mut Upload<B>>,
        framing: Framing,
        log: &CallLog,
    ) -> Result<Self, Trouble>
    where
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let Some(connection) = permit.connection() else { return Err(Failure::Closed.into()) };
        let sent = connection.sender.clone().send_request(head, upload.is_none());
        let (response, stream) = sent.map_err(failure)?;
        log.exchange(|exchange| exchange.request_started = true);
        let window_blocked = Arc::new(AtomicUsize::new(0));
        let pump = upload.map(|upload| {
            let left = match framing {
                Framing::Length(length) => Some(length),
                _ => None,
            };
            let (log, window_blocked) = (log.clone(), Arc::clone(&window_blocked));
            let pump = PumpState { upload: upload.take(), left, stream, log, window_blocked };
            Box::pin(pump.run()) as Pump
        });
        Ok(Self { response: Some(response), pump, permit, window_blocked, flush_slot: None, informational: 0 })
    }

    /// Ends when the request is sent, or when the peer has answered. Cancel safe.
    pub(crate) async fn send(&mut self) -> Result<Sent2, Trouble> {
        poll_fn(|cx| {
            let sent = self.poll_pump(cx);
            let own_fault = matches!(&sent, Err(Trouble { failure: Some(Failure::RequestBody(_)), .. }));
            // The peer's answer says more than a write that failed for it.
            if !own_fault && let Poll::Ready(response) = self.poll_response(cx) {
                return Poll::Ready(response.map(Sent2::Early));
            }
            ready!(sent?);
            ready!(self.poll_flushed(cx));
            Poll::Ready(Ok(Sent2::Flushed))
        })
        .await
    }

    /// Waits for the head of the response. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Result<Response<RecvStream>, Trouble> {
        poll_fn(|cx| self.poll_response(cx)).await
    }

    /// The rest of the exchange, once the head is here.
    pub(crate) fn into_body(mut self, stream: RecvStream) -> Http2Body {
        let upload = self.pump.take().map(Background::spawn);
        let mut body = Http2Body { stream: Some(stream), data_done: false, upload, exchange: self };
        body.end_when_done();
        body
    }

    pub(crate) fn connection(&self) -> Option<&Arc<Http2>> {
        self.permit.connection()
    }

    /// Flow control and streams as they are now.
    pub(crate) fn facts(&self) -> H2Facts {
        let (streams_in_use, max_streams) = self.connection().map_or((0, 0), |connection| connection.streams());
        H2Facts {
            streams_exhausted: streams_in_use > max_streams,
            streams_in_use,
            max_streams,
            window_blocked_bytes: self.window_blocked.load(Relaxed),
        }
    }

    /// Adds what the connection knows. One on which nothing arrived since `since` while a limit fired takes no further
    /// call: they would wait for the same silence.
    pub(crate) fn explain(&self, mut trouble: Trouble, since: Instant) -> Trouble {
        trouble.h2 = Some(Box::new(self.facts()));
        if let Some(connection) = self.connection() {
            trouble = connection.state.explain(trouble);
            let said = connection.wire.first_bytes();
            if matches!(trouble.failure, Some(Failure::Protocol(_))) && said.starts_with(b"HTTP/1") {
                let line = said.split(|byte| *byte == b'\r').next().unwrap_or_default();
                trouble.failure = Some(Failure::Protocol(format!("it speaks HTTP/1: {:?}", printable(line))));
            }
            trouble = trouble.with_socket(connection.wire.observe());
            let silent = connection.wire.last_read().is_none_or(|last| last < since);
            if silent && matches!(trouble.failure, Some(Failure::DeadlinePassed(_))) {
                connection.retire();
            }
        }
        trouble
    }

    fn poll_pump(&mut self, cx: &mut TaskContext<'_>) -> Result<Poll<()>, Trouble> {
        let Some(pump) = &mut self.pump else { return Ok(Poll::Ready(())) };
        let Poll::Ready(result) = pump.as_mut().poll(cx) else { return Ok(Poll::Pending) };
        self.pump = None;
        result.map(Poll::Ready)
    }

    fn poll_response(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Response<RecvStream>, Trouble>> {
        let Some(response) = &mut self.response else { return Poll::Pending };
        while let Poll::Ready(Some(Ok(_))) = response.poll_informational(cx) {
            self.informational += 1;
            if self.informational > INFORMATIONAL_MAX {
                let text = format!("it sent more than {INFORMATIONAL_MAX} informational responses");
                return Poll::Ready(Err(Failure::Protocol(text).into()));
            }
        }
        let result = ready!(Pin::new(response).poll(cx));
        self.response = None;
        Poll::Ready(result.map_err(failure))
    }

    fn poll_flushed(&mut self, cx: &TaskContext<'_>) -> Poll<()> {
        let Some(connection) = self.permit.connection() else { return Poll::Ready(()) };
        connection.state.poll_flushed(&mut self.flush_slot, cx)
    }
}

/// The rest of an upload whose answer has begun: it goes on whether or not anybody reads that, so that it does not sit
/// on flow control which others need.
struct Background {
    task: AbortHandle,
    failed: Arc<Mutex<Option<Trouble>>>,
}

impl Background {
    fn spawn(pump: Pump) -> Self {
        let failed = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failed);
        let task = tokio::spawn(async move {
            if let Err(trouble) = pump.await {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
            }
        });
        Self { task: task.abort_handle(), failed }
    }

    /// The caller's own fault, where it was one. Other failures are for the answer to explain.
    fn own_fault(&self) -> Option<Trouble> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take_if(|trouble| matches!(trouble.failure, Some(Failure::RequestBody(_))))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct PumpState<B> {
    upload: Upload<B>,
    /// What the announced length still wants.
    left: Option<u64>,
    stream: SendStream<Bytes>,
    log: CallLog,
    window_blocked: Arc<AtomicUsize>,
}

impl<B> PumpState<B>
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    async fn run(mut self) -> Result<(), Trouble> {
        let sent = self.send_all().await;
        if let Err(Trouble { failure: Some(Failure::RequestBody(_)), .. }) = &sent {
            self.stream.send_reset(h2::Reason::CANCEL);
        }
        sent
    }

    async fn send_all(&mut self) -> Result<(), Trouble> {
        while let Some(frame) = self.next_frame().await {
            // Frames without data would keep the task here for ever.
            tokio::task::consume_budget().await;
            let frame = frame.map_err(|err| {
                let failure = Some(Failure::RequestBody(err.to_string()));
                Trouble { failure, source: Some(err), ..Trouble::default() }
            })?;
            match frame.into_data() {
                Ok(data) => {
                    if let Some(left) = &mut self.left {
                        *left = left
                            .checked_sub(data.len() as u64)
                            .ok_or_else(|| Failure::RequestBody("it is longer than its announced length".to_owned()))?;
                    }
                    if !self.send(data).await? {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return self.stream.send_trailers(trailers).map_err(failure);
                    }
                }
            }
        }
        if let Some(left @ 1..) = self.left {
            return Err(Failure::RequestBody(format!("it ended {left} bytes before its announced length")).into());
        }
        self.stream.send_data(Bytes::new(), true).map_err(failure)
    }

    async fn next_frame(&mut self) -> Option<Result<http_body::Frame<Bytes>, BoxError>> {
        poll_fn(|cx| {
            let poll = Pin::new(&mut self.upload).poll_frame(cx);
            self.log.exchange(|exchange| exchange.waiting_for_request_body = poll.is_pending());
            poll
        })
        .await
    }

    /// Sends `data` as the peer's windows allow. False when the peer wants no more of it, and says so without an
    /// error: what it answered is what counts.
    async fn send(&mut self, mut data: Bytes) -> Result<bool, Trouble> {
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            self.window_blocked.store(data.len(), Relaxed);
            let capacity = poll_fn(|cx| {
                if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                    return Poll::Ready(Some(reset.and(Ok(0))));
                }
                self.stream.poll_capacity(cx)
            })
            .await;
            let capacity = match capacity {
                Some(Ok(0)) | None => return Ok(false),
                Some(capacity) => capacity.map_err(failure)?,
            };
            let piece = data.split_to(capacity.min(data.len()));
            self.log.exchange(|exchange| exchange.request_bytes += piece.len() as u64);
            self.stream.send_data(piece, false).map_err(failure)?;
        }
        self.window_blocked.store(0, Relaxed);
        Ok(true)
    }
}

/// The body of a response on its stream.
pub(crate) struct Http2Body {
    // Dropped first: see `Http2Exchange`.
    stream: Option<RecvStream>,
    data_done: bool,
    upload: Option<Background>,
    exchange: Http2Exchange,
}

impl Http2Body {
    pub(crate) fn exchange(&self) -> &Http2Exchange {
        &self.exchange
    }

    pub(crate) fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    /// The next piece; `None` at the end. Cancel safe.
    pub(crate) fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Piece>, Trouble>> {
        let piece = ready!(self.poll_stream(cx));
        let own_fault = || self.upload.as_ref().and_then(Background::own_fault);
        Poll::Ready(piece.map_err(|err| own_fault().unwrap_or_else(|| failure(err))))
    }

    fn poll_stream(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Piece>, h2::Error>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
        if !self.data_done {
            if let Some(data) = ready!(stream.poll_data(cx)) {
                let data = data?;
                // From here on it is the reader's memory.
                stream.flow_control().release_capacity(data.len())?;
                self.end_when_done();
                return Poll::Ready(Ok(Some(Piece::Data(data))));
            }
            self.data_done = true;
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        self.stream = None;
        Poll::Ready(Ok(trailers.map(|trailers| Piece::End(Some(trailers)))))
    }

    /// Lets go of the stream as soon as nothing more can come.
    fn end_when_done(&mut self) {
        if self.stream.as_ref().is_some_and(RecvStream::is_end_stream) {
            self.stream = None;
        }
    }
}

/// The head of a request as HTTP/2 has it: absolute URI, no fields that belong to one HTTP/1 connection.
pub(crate) fn request_head(
    method: http::Method,
    uri: http::Uri,
    headers: &HeaderMap,
    framing: Framing,
) -> Result<Request<()>, Failure> {
    let mut head = Request::new(());
    *head.method_mut() = method;
    *head.version_mut() = http::Version::HTTP_2;
    let mut uri = uri.into_parts();
    if let Some(host) = headers.get(HOST) {
        let authority = http::uri::Authority::try_from(host.as_bytes());
        uri.authority = Some(authority.map_err(|_| Failure::Usage("its Host header is no authority".to_owned()))?);
    }
    let uri = http::Uri::from_parts(uri);
    *head.uri_mut() = uri.map_err(|err| Failure::Usage(format!("its URL cannot be sent: {err}")))?;
    let listed: Vec<_> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let of_the_connection = |name: &http::HeaderName| {
        [CONNECTION, TRANSFER_ENCODING, UPGRADE, HOST, CONTENT_LENGTH].contains(name)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
            || listed.iter().any(|listed| listed == name.as_str())
    };
    for (name, value) in headers {
        if !of_the_connection(name) && (name != TE || value == "trailers") {
            head.headers_mut().append(name, value.clone());
        }
    }
    if let Framing::Length(length) = framing {
        head.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    Ok(head)
}

/// What an error of the connection or the stream means.
fn failure(err: h2::Error) -> Trouble {
    Trouble {
        failure: Some(h2_failure(&err)),
        unprocessed: h2_unprocessed(&err),
        source: Some(err.into()),
        ..Trouble::default()
    }
}

/// What it means that a stream or a connection of HTTP/2 ended with this error, for whoever uses the h2 crate itself: what
/// the judge makes its verdict from.
#[must_use]
pub fn h2_failure(err: &h2::Error) -> Failure {
    let reason = || err.reason().map_or_else(|| "no reason".to_owned(), |reason| format!("{reason:?}"));
    if err.is_io() {
        // The transport knows better where it failed; otherwise so h2 says that the peer closed the connection.
        Failure::Closed
    } else if err.is_remote() {
        let (operation, frame) = if err.is_reset() { ("stream", "RST_STREAM") } else { ("connection", "GOAWAY") };
        Failure::Os { operation, kind: OsFailure::Reset, text: format!("the peer sent {frame} with {}", reason()) }
    } else if err.is_library() {
        Failure::Protocol(format!("it broke HTTP/2: {}", reason()))
    } else {
        Failure::Usage(err.to_string())
    }
}

/// Whether a stream ended with this error before its peer looked at the request, which may then be sent again, whatever it
/// is: the stream was refused, or came behind a goodbye.
#[must_use]
pub fn h2_unprocessed(err: &h2::Error) -> bool {
    err.is_remote()
        && (err.is_reset() && err.reason() == Some(h2::Reason::REFUSED_STREAM)
            || err.is_go_away() && err.reason() == Some(h2::Reason::NO_ERROR))
}
