//! A stream to a server, as the connection of HTTP/1.1 that the rest of the gateway takes it for.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Scheme};
use overdue::{
    client::h2_unprocessed,
    h1::{Framing, request, response},
    tls::Wire,
};
use overdue_core::facts::{H2Facts, SocketFacts};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::AbortHandle,
};

use tokio_rustls::client::TlsStream;

use super::message::{Reading, Sent, Unsayable, Writing, into_io, is_hop_by_hop, put_fields, to_map};
use crate::{
    clock,
    http1::{Trailing, put_field},
    tls::H2,
};

/// What a server may send ahead of its client, of one answer and of all together: those that nobody reads leave room for the
/// others.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// What waits for a server that takes nothing, of one request.
const SEND_BUFFER: usize = 64 * 1024;
/// The fields of an answer, as HTTP/2 counts them.
const HEADERS_MAX: u32 = 64 * 1024;
/// How many requests at a time h2 believes to be allowed until the server has said so: a number that no server says. Until
/// then one is sent, as any of more could be refused.
const UNSETTLED: usize = usize::MAX - 1;
/// Requests at a time, whatever a server allows: the loss of a connection is theirs together.
const STREAMS_MAX: u32 = 256;

/// A connection to a server that many requests share. It is closed when the last handle is dropped.
pub(crate) struct Carrier {
    send: SendRequest<Bytes>,
    wire: Wire,
    secure: bool,
    /// Counts the connections of this worker to this server, from 1.
    pub(crate) number: u64,
    /// Requests that it carries now, and that it has carried.
    streams: Cell<usize>,
    carried: Cell<u64>,
    /// When the last of them ended.
    idle_since: Cell<Instant>,
    /// It takes no more requests.
    over: Cell<bool>,
    driver: AbortHandle,
}

/// Whether HTTP/2 was chosen in a handshake that offered nothing else.
///
/// # Errors
/// Words for what was chosen instead.
pub(crate) fn is_spoken(stream: &TlsStream<Wire>) -> Result<(), String> {
    match stream.get_ref().1.alpn_protocol() {
        Some(H2) => Ok(()),
        protocol => {
            let spoken = protocol.map_or_else(|| "no protocol".into(), |name| name.escape_ascii().to_string());
            Err(format!("it was asked for h2 (ALPN), and chose {spoken}"))
        }
    }
}

/// A connection on which HTTP/2 was begun.
type Begun<S> = (SendRequest<Bytes>, Connection<S, Bytes>);

/// Begins HTTP/2: the preface and the settings are written, and nothing is waited for. The limit is the caller's.
pub(crate) async fn begin<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> io::Result<Begun<S>> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(UNSETTLED)
        .max_header_list_size(HEADERS_MAX)
        .max_send_buffer_size(SEND_BUFFER);
    builder.handshake(io).await.map_err(into_io)
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Nobody needs it: what h2 still would like to say is not waited for.
        self.driver.abort();
    }
}

impl Carrier {
    /// A connection that was begun. `more` is called when its server changes how many requests it takes, `over` once it has
    /// ended.
    pub(crate) fn new<S>(
        begun: Begun<S>,
        wire: Wire,
        secure: bool,
        number: u64,
        more: impl Fn() + 'static,
        over: impl FnOnce() + 'static,
    ) -> Rc<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (send, mut connection) = begun;
        let driver = tokio::task::spawn_local(async move {
            let mut most = UNSETTLED;
            // Why it ended, its streams tell.
            let _ = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                if std::mem::replace(&mut most, connection.max_concurrent_send_streams()) != most {
                    more();
                }
                ended
            })
            .await;
            over();
        });
        Rc::new(Self {
            send,
            wire,
            secure,
            number,
            streams: Cell::new(0),
            carried: Cell::new(0),
            idle_since: Cell::new(clock::now()),
            over: Cell::new(false),
            driver: driver.abort_handle(),
        })
    }

    /// Whether it can carry one more request: its server has not said goodbye, and allows one more.
    pub(crate) fn has_room(&self) -> bool {
        if !self.over.get() && self.streams.get() < self.streams_max() {
            // A handle that has sent nothing waits for nothing, so nobody need be woken.
            let lives = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
            self.over.set(matches!(lives, Poll::Ready(Err(_))));
            return !self.over.get();
        }
        false
    }

    /// Whether its server has said how many requests it takes.
    pub(crate) fn is_settled(&self) -> bool {
        self.send.current_max_send_streams() != UNSETTLED
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// It takes no more requests; those that it carries go on.
    pub(crate) fn end(&self) {
        self.over.set(true);
    }

    /// Since when it lies idle; `None` while it carries something.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }

    pub(crate) fn carried(&self) -> u64 {
        self.carried.get()
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.get()
    }

    pub(crate) fn streams_max(&self) -> usize {
        match self.send.current_max_send_streams() {
            UNSETTLED => 1,
            most => most.min(STREAMS_MAX as usize),
        }
    }

    /// Nothing at all came from its server since then.
    pub(crate) fn is_silent_since(&self, since: Instant) -> bool {
        self.wire.last_read().is_none_or(|read| read < since)
    }
}

/// One request, and its answer.
pub(crate) struct Outbound {
    carrier: Rc<Carrier>,
    writing: Writing,
    answer: Answer,
    is_head: bool,
    /// Its server did not look at it.
    refused: bool,
    /// Wakes who reads once the head is sent.
    reader: Option<Waker>,
}

enum Answer {
    /// The head of the request is not sent yet.
    Unasked,
    Expected(ResponseFuture),
    Reading(Reading),
    /// The head could not be sent, so there will be none.
    None,
}

impl Outbound {
    pub(crate) fn new(carrier: &Rc<Carrier>) -> Self {
        carrier.streams.set(carrier.streams.get() + 1);
        carrier.carried.set(carrier.carried.get() + 1);
        Self {
            carrier: Rc::clone(carrier),
            writing: Writing::new(),
            answer: Answer::Unasked,
            is_head: false,
            refused: false,
            reader: None,
        }
    }

    pub(crate) fn carrier(&self) -> &Rc<Carrier> {
        &self.carrier
    }

    pub(crate) fn observe(&self) -> SocketFacts {
        self.carrier.wire.observe()
    }

    pub(crate) const fn was_refused(&self) -> bool {
        self.refused
    }

    /// What HTTP/2 itself is waiting for.
    pub(crate) fn facts(&self) -> H2Facts {
        H2Facts {
            streams_exhausted: false,
            streams_in_use: self.carrier.streams(),
            max_streams: self.carrier.streams_max(),
            window_blocked_bytes: self.writing.waiting(),
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let Carrier { streams, idle_since, .. } = &*self.carrier;
        streams.set(streams.get() - 1);
        idle_since.set(clock::now());
    }
}

/// The head at the front of `bytes`, if it is there, as HTTP/2 has it, with its length and what comes behind it.
fn read_head(secure: bool, bytes: &[u8]) -> Result<Option<(Request<()>, usize, Framing)>, String> {
    let mut room = response::room();
    let head = request::parse(bytes, &mut room).map_err(|refused| refused.why)?;
    let Some(head) = head else { return Ok(None) };
    let mut fields = to_map(head.fields).map_err(|err| err.to_string())?;
    fields.remove(header::HOST);
    if is_of_grpc(&fields) {
        // Servers of gRPC look for it, to know that whatever is between lets trailers through.
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let uri = Uri::builder()
        .scheme(if secure { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(head.authority.unwrap_or_default())
        .path_and_query(head.path)
        .build()
        .map_err(|err| err.to_string())?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.parse().map_err(|_| "its method is none".to_owned())?;
    *request.uri_mut() = uri;
    *request.headers_mut() = fields;
    Ok(Some((request, head.length, head.framing)))
}

/// Sends the head at the front of `bytes`, if it is there.
fn send_head(
    carrier: &Carrier,
    answer: &mut Answer,
    is_head: &mut bool,
    bytes: &[u8],
) -> io::Result<Option<(usize, Sent)>> {
    let head = read_head(carrier.secure, bytes).map_err(|why| io::Error::other(Unsayable(why)))?;
    let Some((request, length, framing)) = head else { return Ok(None) };
    *is_head = request.method() == Method::HEAD;
    // A handle of its own for each request is what h2 wants.
    let sent = carrier.send.clone().send_request(request, framing == Framing::Empty);
    let (expected, stream) = sent.map_err(|err| {
        // It has ended, or is about to: the next request takes another.
        carrier.end();
        into_io(err)
    })?;
    *answer = Answer::Expected(expected);
    Ok(Some((length, Sent::Message(stream, framing))))
}

/// The answer as HTTP/1.1 has it.
fn read_answer(answer: Response<RecvStream>, is_head: bool) -> Reading {
    let (parts, stream) = answer.into_parts();
    let bodyless = is_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = parts.headers.get(header::CONTENT_LENGTH);
    // HTTP/1.1 has trailers only behind chunks. Where both sides are of HTTP/2, others pass as well.
    let trailers = is_of_grpc(&parts.headers) || parts.headers.contains_key(header::TRAILER);
    let framing = match length {
        _ if bodyless || stream.is_end_stream() => Framing::Empty,
        _ if trailers => Framing::Chunked,
        Some(length) => Framing::Length(length.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)),
        None => Framing::Chunked,
    };
    let mut head = BytesMut::with_capacity(512);
    put_status(&mut head, parts.status, &parts.headers, framing != Framing::Chunked);
    match framing {
        Framing::Chunked => put_field(&mut head, "transfer-encoding", b"chunked"),
        Framing::Empty if !bodyless && length.is_none() => put_field(&mut head, "content-length", b"0"),
        _ => {}
    }
    head.put_slice(b"\r\n");
    Reading::new(head, stream, framing)
}

fn is_of_grpc(fields: &HeaderMap) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn put_status(out: &mut BytesMut, status: StatusCode, fields: &HeaderMap, with_length: bool) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let keep = |name: &HeaderName| !is_hop_by_hop(name.as_str()) && (with_length || *name != header::CONTENT_LENGTH);
    put_fields(out, fields.iter().filter(|(name, _)| keep(name)));
}

/// Why there is no answer; that its server did not look at the request is remembered.
fn failed(err: h2::Error, refused: &mut bool) -> io::Error {
    *refused = h2_unprocessed(&err);
    into_io(err)
}

impl AsyncRead for Outbound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.answer {
                Answer::Unasked => {
                    this.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Answer::Expected(expected) => {
                    if let Poll::Ready(Some(interim)) = expected.poll_informational(cx) {
                        let (parts, ()) = interim.map_err(|err| failed(err, &mut this.refused))?.into_parts();
                        let mut head = BytesMut::new();
                        put_status(&mut head, parts.status, &parts.headers, false);
                        head.put_slice(b"\r\n");
                        // A head that does not fit into what is left is none that anybody waits for.
                        if head.len() <= buf.remaining() {
                            buf.put_slice(&head);
                            return Poll::Ready(Ok(()));
                        }
                        continue;
                    }
                    let answer = ready!(Pin::new(expected).poll(cx)).map_err(|err| failed(err, &mut this.refused))?;
                    this.answer = Answer::Reading(read_answer(answer, this.is_head));
                }
                Answer::None => return Poll::Ready(Ok(())),
                Answer::Reading(reading) => {
                    ready!(reading.poll(cx, buf)).map_err(into_io)?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Outbound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { carrier, writing, answer, is_head, reader, .. } = self.get_mut();
        let asked = !matches!(answer, Answer::Unasked);
        let poll = writing.poll_write(cx, buf, |bytes| send_head(carrier, answer, is_head, bytes));
        if !asked && matches!(poll, Poll::Ready(Err(_))) {
            *answer = Answer::None;
        }
        if !matches!(answer, Answer::Unasked)
            && let Some(reader) = reader.take()
        {
            reader.wake();
        }
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().writing.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Trailing for Outbound {
    fn may_have_trailers(&self) -> bool {
        matches!(&self.answer, Answer::Reading(reading) if reading.may_have_trailers())
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<HeaderMap>>> {
        match &mut self.answer {
            Answer::Reading(reading) => reading.poll_trailers(cx).map_err(into_io),
            _ => Poll::Ready(Ok(None)),
        }
    }

    fn awaits_trailers(&mut self) -> bool {
        self.writing.await_trailers();
        true
    }

    fn end_with(&mut self, trailers: Option<HeaderMap>) {
        self.writing.end_with(trailers);
    }
}
