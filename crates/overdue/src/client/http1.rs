//! One HTTP/1.1 connection and the exchange on it.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker, ready},
    time::Instant,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body::Body as _;
use overdue_core::{
    ConnectionReport,
    facts::{Failure, SocketFacts},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    task::coop::unconstrained,
};

use super::{pool::Slot, upload::Upload};
use crate::{
    error::BoxError,
    h1::{
        Framing, HEAD_MAX,
        chunked::{Chunked, Piece},
        head::{ResponseHead, parse_response},
    },
    log::CallLog,
    tls::io_failure,
    transport::Transport,
    trouble::Trouble,
    wire::Wire,
};

/// Informational heads (100 to 199) before the final one.
const INFORMATIONAL_MAX: usize = 32;
/// Frames of a request body that one poll takes when they hold up nothing.
const EMPTY_FRAMES_MAX: usize = 32;
/// Body data up to this size is copied behind the head, so that both leave in one write.
const COPY_MAX: usize = 8 * 1024;
const READ_SIZE: usize = 16 * 1024;

pub(crate) struct Http1 {
    transport: Transport,
    read: BytesMut,
    slot: Slot,
    pub(crate) report: Arc<ConnectionReport>,
    /// Plain bytes of the current response.
    response_bytes: u64,
    last_read: Option<Instant>,
    written_before: u64,
    informational: usize,
    /// So many bytes of the buffer are no whole head.
    parsed: usize,
    /// TLS ended without the peer's close_notify: whoever is on the path could have cut it.
    truncated: bool,
}

/// How `send` ended.
pub(crate) enum Sent {
    /// The request is flushed.
    Flushed,
    /// The peer answered before it had the whole request; the rest of the request is not sent.
    Early(ResponseHead),
}

/// The body of a request, with how its end is told to the peer.
pub(crate) struct RequestBody<'a, B> {
    pub(crate) upload: Option<&'a mut Upload<B>>,
    pub(crate) framing: Framing,
}

impl Http1 {
    pub(crate) fn new(transport: Transport, slot: Slot, report: Arc<ConnectionReport>) -> Self {
        Self {
            transport,
            read: BytesMut::new(),
            slot,
            report,
            response_bytes: 0,
            last_read: None,
            written_before: 0,
            informational: 0,
            parsed: 0,
            truncated: false,
        }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn wire(&self) -> &Wire {
        self.transport.wire()
    }

    /// Whether a kept connection can carry another call: the peer has neither closed it nor said anything.
    pub(crate) fn is_fresh(&mut self) -> bool {
        // Through TLS, so that session tickets are not taken for an answer. Unconstrained: an exhausted budget of the
        // task would look like a healthy connection. Nobody waits, so nobody need be woken.
        let look = pin!(unconstrained(poll_fn(|cx| Poll::Ready(self.poll_fill(cx).is_pending()))));
        let silent = look.poll(&mut TaskContext::from_waker(Waker::noop())) == Poll::Ready(true);
        // And past the runtime, which may not have looked at the socket since that got something to read. It costs a system
        // call, however short the connection was idle: an answer that nobody asked for comes on the heels of the last.
        silent && self.read.is_empty() && !self.wire().has_unread()
    }

    /// Gives back what a connection that lies idle does not need.
    pub(crate) fn rest(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
    }

    /// Whether the connection can go back to the pool after a complete exchange.
    fn is_clean(&self) -> bool {
        self.read.is_empty()
    }

    pub(crate) fn begin(&mut self) {
        self.response_bytes = 0;
        self.last_read = None;
        self.informational = 0;
        self.parsed = 0;
        self.written_before = self.wire().written_bytes();
    }

    /// Bytes of the current request, TLS included, that the kernel took.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.wire().written_bytes() - self.written_before
    }

    /// Plain bytes of the current response.
    pub(crate) fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    /// The socket while a body is read. What arrived and the caller has not read lies here, and in the kernel.
    pub(crate) fn observe_body(&self) -> SocketFacts {
        let facts = self.wire().observe();
        let here = u32::try_from(self.read.len()).unwrap_or(u32::MAX);
        SocketFacts { unread_bytes: facts.unread_bytes.map(|bytes| bytes.saturating_add(here)), ..facts }
    }

    /// Enters what crossed the wire so far.
    pub(crate) fn note(&self, log: &CallLog) {
        let written = self.sent_bytes();
        log.exchange(|exchange| {
            exchange.request_started = written > 0;
            exchange.request_bytes = written;
            exchange.response_bytes = self.response_bytes;
            exchange.last_read = self.last_read;
        });
    }

    /// Sends head and body; ends when all of it is flushed, or when the peer has answered. Not cancel safe: the
    /// connection is of no use afterwards.
    pub(crate) async fn send<B>(
        &mut self,
        head: BytesMut,
        body: RequestBody<'_, B>,
        method: &Method,
        log: &CallLog,
    ) -> Result<Sent, Trouble>
    where
        B: http_body::Body<Error: Into<BoxError>>,
    {
        let left = match body.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        };
        let ended = body.upload.is_none();
        let mut sending = Sending { out: head, data: None, after: &[], left, body, ended };
        let mut failed = None;
        poll_fn(|cx| {
            if failed.is_none() {
                match sending.poll(cx, &mut self.transport, log) {
                    Ok(Poll::Ready(())) => return Poll::Ready(Ok(Sent::Flushed)),
                    Ok(Poll::Pending) => {}
                    Err(trouble) if !trouble.is_dead_connection() => return Poll::Ready(Err(trouble)),
                    // A peer that answers and closes makes our write fail; its answer, or its alert, may be on its way
                    // to us. The end of the connection is, in any case.
                    Err(trouble) => failed = Some(trouble),
                }
            }
            // Unconstrained: the upload may have used up the task's budget, and would do so for ever.
            let answer = pin!(unconstrained(poll_fn(|cx| self.poll_head(cx, method))));
            Poll::Ready(match (ready!(answer.poll(cx)), failed.take()) {
                (Ok(head), _) => Ok(Sent::Early(head)),
                (Err(answer), Some(failed)) if answer.is_dead_connection() => Err(failed),
                (Err(answer), _) => Err(answer),
            })
        })
        .await
    }

    /// Waits for the final head of the response. Cancel safe.
    pub(crate) async fn wait(&mut self, method: &Method) -> Result<ResponseHead, Trouble> {
        poll_fn(|cx| self.poll_head(cx, method)).await
    }

    fn poll_head(&mut self, cx: &mut TaskContext<'_>, method: &Method) -> Poll<Result<ResponseHead, Trouble>> {
        loop {
            while self.may_hold_a_head() {
                match parse_response(&mut self.read, method).map_err(Failure::Protocol)? {
                    Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        let text = "it switches protocols, which nobody asked for".to_owned();
                        return Poll::Ready(Err(Failure::Protocol(text).into()));
                    }
                    Some(head) if head.status.is_informational() => {
                        self.informational += 1;
                        // It is no part of the response.
                        self.response_bytes = self.read.len() as u64;
                        if self.informational > INFORMATIONAL_MAX {
                            let text = format!("it sent more than {INFORMATIONAL_MAX} informational responses");
                            return Poll::Ready(Err(Failure::Protocol(text).into()));
                        }
                    }
                    Some(head) => return Poll::Ready(Ok(head)),
                    None => {
                        self.parsed = self.read.len();
                        break;
                    }
                }
            }
            // The parser refuses a longer head; this bounds the buffer whatever the parser does.
            if self.read.len() > HEAD_MAX + READ_SIZE {
                return Poll::Ready(Err(Failure::Protocol("its response head is too long".to_owned()).into()));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(Failure::Closed.into())),
                Ok(_) => {}
                Err(err) => return Poll::Ready(Err(io_failure("read", err).into())),
            }
        }
    }

    /// Whether there is something new to parse. A head, and each line of it, ends with a newline: parsed for every byte
    /// that comes, a head that comes byte by byte would cost the square of its length.
    fn may_hold_a_head(&mut self) -> bool {
        let parsed = std::mem::take(&mut self.parsed);
        let new = self.read.get(parsed..).unwrap_or(&self.read);
        let worth_it = new.contains(&b'\n') || parsed == 0 && !new.is_empty() || self.read.len() >= HEAD_MAX;
        if !worth_it {
            self.parsed = self.read.len();
        }
        worth_it
    }

    /// Reads some plain bytes into the buffer.
    fn poll_fill(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        if let Transport::Plain(wire) = &self.transport {
            // A connection that waits needs no room.
            ready!(wire.poll_read_ready(cx))?;
        }
        self.read.reserve(READ_SIZE);
        let read = ready!(pin!(self.transport.read_buf(&mut self.read)).poll(cx));
        // rustls reports a peer that closes TCP without close_notify this way. Whether more was due is for the
        // framing to know.
        let read = match read {
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                self.truncated = true;
                Ok(0)
            }
            other => other,
        };
        if let Ok(bytes @ 1..) = read {
            self.response_bytes += bytes as u64;
            self.last_read = self.wire().last_read();
        }
        Poll::Ready(read)
    }
}

/// Fields that have no place among trailers: they would say how to read what has been read.
const FRAMING_FIELDS: [http::HeaderName; 4] =
    [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::HOST, http::header::TRAILER];

struct Sending<'a, B> {
    /// Goes first.
    out: BytesMut,
    /// Then this,
    data: Option<Bytes>,
    /// then this.
    after: &'static [u8],
    /// What the announced length still wants.
    left: Option<u64>,
    body: RequestBody<'a, B>,
    ended: bool,
}

impl<B: http_body::Body<Error: Into<BoxError>>> Sending<'_, B> {
    fn poll(&mut self, cx: &mut TaskContext<'_>, io: &mut Transport, log: &CallLog) -> Result<Poll<()>, Trouble> {
        let mut empty_frames = 0;
        loop {
            let waits_for_peer = self.poll_write(cx, io).map_err(|err| io_failure("write", err))?.is_pending();
            if waits_for_peer {
                return Ok(Poll::Pending);
            }
            if self.ended {
                return match Pin::new(&mut *io).poll_flush(cx) {
                    Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
                    Poll::Ready(Err(err)) => Err(io_failure("write", err).into()),
                    Poll::Pending => Ok(Poll::Pending),
                };
            }
            let Some(upload) = &mut self.body.upload else { return Ok(Poll::Ready(())) };
            if empty_frames > EMPTY_FRAMES_MAX {
                // Frames without data cost the task none of its budget, and would keep it here for ever.
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
            match Pin::new(&mut **upload).poll_frame(cx) {
                Poll::Ready(frame) => {
                    empty_frames += 1;
                    log.exchange(|exchange| exchange.waiting_for_request_body = false);
                    self.take(frame)?;
                }
                // All that was announced is here; whether the body knows its own end does not matter.
                Poll::Pending if self.left == Some(0) => self.ended = true,
                Poll::Pending => {
                    log.exchange(|exchange| exchange.waiting_for_request_body = true);
                    // What there is must not wait for what there is not yet.
                    let _ = Pin::new(&mut *io).poll_flush(cx).map_err(|err| io_failure("write", err))?;
                    return Ok(Poll::Pending);
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut TaskContext<'_>, io: &mut Transport) -> io::Result<Poll<()>> {
        loop {
            let chunk = if self.out.has_remaining() {
                self.out.chunk()
            } else if let Some(data) = self.data.as_ref().filter(|data| data.has_remaining()) {
                data.chunk()
            } else if !self.after.is_empty() {
                self.after
            } else {
                return Ok(Poll::Ready(()));
            };
            let written = match Pin::new(&mut *io).poll_write(cx, chunk) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(err)) => return Err(err),
                Poll::Pending => return Ok(Poll::Pending),
            };
            if self.out.has_remaining() {
                self.out.advance(written);
            } else if let Some(data) = self.data.as_mut().filter(|data| data.has_remaining()) {
                data.advance(written);
            } else {
                self.after = self.after.get(written..).unwrap_or_default();
            }
        }
    }

    fn take(&mut self, frame: Option<Result<http_body::Frame<Bytes>, BoxError>>) -> Result<(), Trouble> {
        let chunked = self.body.framing == Framing::Chunked;
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.take_data(data, chunked),
                Err(frame) => {
                    if let (Ok(trailers), true) = (frame.into_trailers(), chunked) {
                        self.out.extend_from_slice(b"0\r\n");
                        for (name, value) in trailers.iter().filter(|(name, _)| !FRAMING_FIELDS.contains(name)) {
                            self.out.extend_from_slice(name.as_str().as_bytes());
                            self.out.extend_from_slice(b": ");
                            self.out.extend_from_slice(value.as_bytes());
                            self.out.extend_from_slice(b"\r\n");
                        }
                        self.out.extend_from_slice(b"\r\n");
                        self.ended = true;
                    }
                    Ok(())
                }
            },
            Some(Err(err)) => {
                let failure = Failure::RequestBody(err.to_string());
                Err(Trouble { failure: Some(failure), source: Some(err), ..Trouble::default() })
            }
            None => {
                if let Some(left @ 1..) = self.left {
                    return Err(
                        Failure::RequestBody(format!("it ended {left} bytes before its announced length")).into()
                    );
                }
                if chunked {
                    self.out.extend_from_slice(b"0\r\n\r\n");
                }
                self.ended = true;
                Ok(())
            }
        }
    }

    fn take_data(&mut self, data: Bytes, chunked: bool) -> Result<(), Trouble> {
        let length = data.remaining();
        if length == 0 {
            return Ok(());
        }
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(length as u64)
                .ok_or_else(|| Failure::RequestBody("it is longer than its announced length".to_owned()))?;
        }
        self.after = b"";
        if chunked {
            self.out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
            self.after = b"\r\n";
        }
        if length <= COPY_MAX {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(std::mem::take(&mut self.after));
        } else {
            self.data = Some(data);
        }
        Ok(())
    }
}

/// The body of a response, as it comes from its connection.
pub(crate) struct Http1Body {
    /// `None` once it has gone back to the pool.
    connection: Option<Box<Http1>>,
    state: BodyState,
    keep_alive: bool,
}

enum BodyState {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

impl Http1Body {
    pub(crate) fn new(connection: Box<Http1>, framing: Framing, keep_alive: bool) -> Self {
        let state = match framing {
            Framing::Empty => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Chunked(Chunked::default()),
            Framing::UntilClose => BodyState::UntilClose,
        };
        let mut body = Self { connection: Some(connection), state, keep_alive };
        body.release_when_done();
        body
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    pub(crate) fn connection(&self) -> Option<&Http1> {
        self.connection.as_deref()
    }

    /// The next piece; `None` at the end. Cancel safe.
    pub(crate) fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Piece>, Trouble>> {
        loop {
            let Some(connection) = self.connection.as_mut() else { return Poll::Ready(Ok(None)) };
            let piece = match &mut self.state {
                BodyState::Done => return Poll::Ready(Ok(None)),
                BodyState::Length(left) => {
                    let data = take(&mut connection.read, *left);
                    *left -= data.as_ref().map_or(0, |data| data.len() as u64);
                    if *left == 0 {
                        self.state = BodyState::Done;
                    }
                    data.map(Piece::Data)
                }
                BodyState::UntilClose => take(&mut connection.read, u64::MAX).map(Piece::Data),
                BodyState::Chunked(decoder) => {
                    let piece = decoder.decode(&mut connection.read).map_err(Failure::Protocol)?;
                    if matches!(piece, Some(Piece::End(_))) {
                        self.state = BodyState::Done;
                    }
                    piece
                }
            };
            if let Some(piece) = piece {
                self.release_when_done();
                return Poll::Ready(Ok(Some(piece)));
            }
            match ready!(connection.poll_fill(cx)) {
                Ok(0) if matches!(self.state, BodyState::UntilClose) && !connection.truncated => {
                    self.state = BodyState::Done;
                    self.release_when_done();
                }
                Ok(0) => return Poll::Ready(Err(Failure::Closed.into())),
                Ok(_) => {}
                Err(err) => return Poll::Ready(Err(io_failure("read", err).into())),
            }
        }
    }

    fn release_when_done(&mut self) {
        if !self.is_done() {
            return;
        }
        let Some(connection) = self.connection.take() else { return };
        if self.keep_alive
            && connection.is_clean()
            && let Some(pool) = connection.slot().pool()
        {
            pool.put(connection);
        }
    }
}

fn take(buf: &mut BytesMut, most: u64) -> Option<Bytes> {
    let take = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
    (take > 0).then(|| buf.split_to(take).freeze())
}

/// How the end of this body is told to the peer.
pub(crate) fn request_framing<B: http_body::Body>(body: &B, headers: &HeaderMap) -> Framing {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => Framing::Empty,
        Some(length) if !headers.contains_key(http::header::TRAILER) => Framing::Length(length),
        _ => Framing::Chunked,
    }
}
