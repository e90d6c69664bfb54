//! A connection of a client that speaks HTTP/2.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, server::Builder};
use overdue::Alarm;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frames::{Frames, RESETS_AT_ONCE},
    inbound::{Beneath, Ground, Inbound},
    websocket::WebSocket,
};
use crate::{
    clock,
    http1::{self, Client, Due, Known, Protocol},
    log::{Entry, Marks},
    upstream,
    worker::{HEAD, Listed, Live, Worker},
};

/// Requests at a time, on one connection.
const STREAMS_MAX: u32 = 128;
/// What a client may send ahead of its server, of one request and of all together: those that nobody reads leave room for
/// the others.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// What waits for a client that takes nothing, of one answer.
const SEND_BUFFER: usize = 64 * 1024;
/// The fields of a request, as HTTP/2 counts them: as long as a head of HTTP/1.1 may be.
const HEADERS_MAX: u32 = 64 * 1024;
/// Streams that are served, of one connection. More than there may be at a time: one that its client has reset is served
/// until that is seen.
const SERVED_MAX: usize = 2 * STREAMS_MAX as usize;
const TAKES_BACK: &str = "the client takes requests back faster than they can be served";
/// How long a connection that is over may take to say so.
const CLOSING: Duration = Duration::from_secs(2);

/// What HTTP/2 begins with where nothing announced it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much of it is no request line of HTTP/1.
const TELLING: usize = b"PRI * HTTP/2.0\r\n".len();

/// Whether these bytes begin HTTP/2; `None` when more of them are needed.
pub(crate) fn is_preface(bytes: &[u8]) -> Option<bool> {
    let count = bytes.len().min(PREFACE.len());
    match (bytes.get(..count) == PREFACE.get(..count), count) {
        (true, count) if count == PREFACE.len() => Some(true),
        (true, TELLING..) => None,
        _ => Some(false),
    }
}

/// Serves a connection of which `first` has been read already, until it ends.
pub(crate) async fn serve<S: Client + 'static>(
    first: BytesMut,
    io: S,
    listed: Listed,
    listener: SocketAddr,
    worker: &Rc<Worker>,
) {
    let live = Rc::clone(&listed.live);
    let (mut alarm, mut idle_alarm) = (Alarm::default(), Alarm::default());
    let begun = clock::now();
    let plan = worker.plan();
    let Some(limits) = plan.listener(listener) else { return };
    let head = Due::after(begun, limits.head.as_ref());
    let frames = RefCell::new(Frames::new(begun, PREFACE.len()));
    let ground = Rc::new(Ground { io: RefCell::new(io), frames, cut: RefCell::default() });
    let shared = Shared { first, ground: Rc::clone(&ground) };
    let shaking = builder().handshake::<_, Bytes>(shared);
    // A client that begins otherwise than with the preface is none of HTTP/2, and gets nothing.
    let Ok(Ok(mut connection)) = upstream::or(shaking, |cx| Due::poll(head, &mut alarm, cx)).await else { return };
    let open = Rc::new(Open { streams: Cell::new(0), since: Cell::new(begun), live: Rc::clone(&live) });
    let mut served = false;
    let mut closing = false;
    // Until when a client that is cut off may be told.
    let mut cut: Option<Instant> = None;
    let end = poll_fn(|cx| {
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((_, mut respond)))) if open.streams.get() >= SERVED_MAX => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                }
                Poll::Ready(Some(Ok((request, respond)))) => {
                    served = true;
                    let stream = OpenStream::new(&open);
                    let websocket = WebSocket::asked(&request, || worker.plan().ids.next_wide());
                    let inbound = Inbound::new(request, websocket, respond, Rc::clone(&ground) as Rc<dyn Beneath>);
                    let (live, worker) = (Rc::clone(&live), Rc::clone(worker));
                    tokio::task::spawn_local(async move {
                        let _stream = stream;
                        http1::serve_stream(inbound, live, listener, worker).await;
                    });
                    continue;
                }
                Poll::Ready(Some(Err(err))) => return Poll::Ready(Some(err)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if let Some(until) = cut {
                return alarm.poll(cx, until).map(|_| None);
            }
            let frames = ground.frames.borrow();
            let why = if frames.is_flooded(clock::now) {
                Some("the client sends frames that carry nothing, and nothing else".to_owned())
            } else if frames.is_resetting() {
                Some(TAKES_BACK.to_owned())
            } else {
                let plan = worker.plan();
                let limit = plan.listener(listener).and_then(|listener| listener.head.as_ref());
                let due = frames.head_since().and_then(|since| Due::after(since, limit));
                let late = Due::poll(due, &mut alarm, cx).is_ready();
                let limit = limit.filter(|_| late);
                limit.map(|limit| format!("the head of a request was begun and did not end within {limit}"))
            };
            drop(frames);
            if let Some(why) = why {
                // Before its streams hear of it.
                ground.cut.replace(Some(why));
                cut = Some(clock::now() + CLOSING);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            let late = if open.streams.get() > 0 {
                // Each has limits of its own.
                false
            } else if closing {
                if idle_alarm.poll(cx, open.since.get() + CLOSING).is_ready() {
                    return Poll::Ready(None);
                }
                false
            } else {
                let plan = worker.plan();
                let listener = plan.listener(listener);
                let limit =
                    listener.and_then(|listener| if served { listener.idle.as_ref() } else { listener.head.as_ref() });
                Due::poll(Due::after(open.since.get(), limit), &mut idle_alarm, cx).is_ready()
            };
            if closing || !(late || worker.is_draining()) {
                return Poll::Pending;
            }
            closing = true;
            open.since.set(clock::now());
            connection.graceful_shutdown();
        }
    })
    .await;
    let broke = end.filter(|err| !err.is_io() && !err.is_remote());
    if let Some(err) = broke.filter(|_| cut.is_none()) {
        ground.cut.replace(Some(match err.reason() {
            // h2 counts some frames itself, and resets among them.
            Some(Reason::ENHANCE_YOUR_CALM) if ground.frames.borrow().is_resetting() => TAKES_BACK.to_owned(),
            Some(Reason::ENHANCE_YOUR_CALM) => "the client floods the connection".to_owned(),
            Some(reason) => format!("the client broke HTTP/2: {reason:?}"),
            None => format!("the client broke HTTP/2: {err}"),
        }));
    }
    if let Some(why) = ground.cut_off() {
        let marks = Marks::at(begun);
        let entry = Entry { known: Known::refused(0), refused: Some((HEAD, &why)), ..Entry::new(&marks, clock::now()) };
        live.line.borrow_mut().clear();
        live.line.borrow_mut().set_protocol(Protocol::Http2);
        worker.ended(&entry, &live);
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        // Reset before anybody has seen them, in one piece with their requests: h2 would allow a few. Nobody may reset more.
        .max_pending_accept_reset_streams(RESETS_AT_ONCE as usize)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_MAX)
        .enable_connect_protocol()
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// The streams of a connection that are being served.
struct Open {
    streams: Cell<usize>,
    /// When the last of them ended.
    since: Cell<Instant>,
    live: Rc<Live>,
}

struct OpenStream(Rc<Open>);

impl OpenStream {
    fn new(open: &Rc<Open>) -> Self {
        open.streams.set(open.streams.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Open { streams, since, live } = &*self.0;
        streams.set(streams.get() - 1);
        if streams.get() == 0 {
            since.set(clock::now());
            // From now on the connection is idle.
            if let Some(waker) = &*live.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }
}

/// A connection that h2 reads and writes, and its streams look at.
struct Shared<S> {
    /// What has been read from it before.
    first: BytesMut,
    ground: Rc<Ground<S>>,
}

impl<S: Client> AsyncRead for Shared<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { first, ground } = self.get_mut();
        let before = buf.filled().len();
        if first.is_empty() {
            ready!(Pin::new(&mut *ground.io.borrow_mut()).poll_read(cx, buf))?;
        } else {
            let count = first.len().min(buf.remaining());
            buf.put_slice(&first.split_to(count));
            if first.is_empty() {
                *first = BytesMut::new();
            }
        }
        ground.frames.borrow_mut().read(buf.filled().get(before..).unwrap_or_default(), clock::now);
        Poll::Ready(Ok(()))
    }
}

impl<S: Client> Shared<S> {
    fn wrote(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = poll {
            self.ground.frames.borrow_mut().wrote(bytes);
        }
        poll
    }
}

impl<S: Client> AsyncWrite for Shared<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut *self.ground.io.borrow_mut()).poll_write(cx, buf);
        self.wrote(poll)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.ground.io.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.ground.io.borrow_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut *self.ground.io.borrow_mut()).poll_write_vectored(cx, bufs);
        self.wrote(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.ground.io.borrow().is_write_vectored()
    }
}
