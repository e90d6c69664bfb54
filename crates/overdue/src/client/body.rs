//! The body of a response.

use std::{
    fmt,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use overdue_core::{
    Deadline, Limit, Stage,
    facts::{ExchangeFacts, Failure},
};

use super::{http1::Http1Body, http2::Http2Body};
use crate::{
    Context, Error, clock,
    context::{Interrupted, Watch},
    h1::chunked::Piece,
    log::{CallLog, Trouble},
};

/// The body of a response, as it comes.
///
/// Each piece has to come within the `gap` limit and within what is left of the call. The time in which nobody asks
/// for a piece counts for the call, not for the gap; a body that is kept and never polled is ended by nobody.
///
/// Dropped before its end, it closes its connection (HTTP/1) or cancels its stream (HTTP/2).
pub struct Body(Option<Box<Live>>);

struct Live {
    source: Source,
    log: CallLog,
    context: Context,
    gap: Option<Limit>,
    watch: Watch,
    /// Of the piece that was asked for and is not here yet.
    deadline: Option<Deadline>,
    /// An operation is running: a piece was asked for and is not here yet.
    pending: bool,
    /// When the last piece was handed over.
    handed_over: Instant,
    /// How long nobody asked for the next one, in all.
    away: Duration,
    last_piece: Option<Instant>,
    bytes: u64,
    expected: Option<u64>,
}

pub(crate) enum Source {
    H1(Http1Body),
    H2(Http2Body),
}

impl Source {
    fn is_done(&self) -> bool {
        match self {
            Self::H1(body) => body.is_done(),
            Self::H2(body) => body.is_done(),
        }
    }

    fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Piece>, Trouble>> {
        match self {
            Self::H1(body) => body.poll_piece(cx),
            Self::H2(body) => body.poll_piece(cx),
        }
    }
}

impl Body {
    /// `expected` is what the head said.
    pub(crate) fn new(
        source: Source,
        expected: Option<u64>,
        context: Context,
        gap: Option<Limit>,
        log: CallLog,
    ) -> Self {
        let now = clock::now();
        if source.is_done() {
            log.end(now);
            return Self(None);
        }
        log.begin(Stage::Receive, now, None);
        Self(Some(Box::new(Live {
            source,
            log,
            context,
            gap,
            watch: Watch::default(),
            deadline: None,
            pending: false,
            handed_over: now,
            away: Duration::ZERO,
            last_piece: None,
            bytes: 0,
            expected,
        })))
    }

    /// Reads the whole body into memory.
    ///
    /// # Errors
    /// What [`Body`] gives, and an error when there are more than `at_most` bytes.
    ///
    /// # Cancel safety
    /// Dropping the returned future drops the body.
    pub async fn bytes(mut self, at_most: usize) -> Result<Bytes, Error> {
        let log = self.0.as_ref().map(|live| live.log.clone());
        let mut whole = BytesMut::new();
        while let Some(frame) = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut self), cx)).await {
            let Ok(data) = frame?.into_data() else { continue };
            if data.len() > at_most - whole.len() {
                let failure = Failure::Usage(format!("the body of the response has more than {at_most} bytes"));
                return Err(match (&self.0, log) {
                    // The last piece ended the call well, and is too much all the same.
                    (None, Some(log)) => log.fail_for_good(Stage::Receive, failure.into()),
                    _ => self.fail(failure.into()),
                });
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    fn fail(&mut self, trouble: Trouble) -> Error {
        match self.0.take() {
            Some(live) => live.fail(trouble),
            None => CallLog::new().fail(Stage::Receive, trouble),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    /// Cancel safe.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(live) = this.0.as_mut() else { return Poll::Ready(None) };
        let piece = match ready!(live.poll_piece(cx)) {
            Ok(piece) => piece,
            Err(trouble) => return Poll::Ready(Some(Err(this.fail(trouble)))),
        };
        if piece.is_none() || live.source.is_done() {
            live.log.end(live.handed_over);
            this.0 = None;
        }
        Poll::Ready(match piece {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::End(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Some(Piece::End(None)) | None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(live) => live
                .expected
                .map_or_else(SizeHint::default, |expected| SizeHint::with_exact(expected.saturating_sub(live.bytes))),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.log.abandon();
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("ended", &self.0.is_none()).finish_non_exhaustive()
    }
}

impl Live {
    fn poll_piece(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Option<Piece>, Trouble>> {
        let now = clock::now();
        let begins = !self.pending;
        if begins {
            self.away += now.saturating_duration_since(self.handed_over);
            if let Some(interrupted) = interrupted(&self.context, now) {
                return Poll::Ready(Err(Trouble::interrupted(interrupted, Duration::ZERO)));
            }
            self.pending = true;
        }
        if let Poll::Ready(piece) = self.source.poll_piece(cx) {
            self.pending = false;
            self.handed_over = now;
            if let Ok(Some(Piece::Data(data))) = &piece {
                self.bytes += data.len() as u64;
                self.last_piece = Some(self.handed_over);
            }
            return Poll::Ready(piece);
        }
        if begins {
            self.watch.restart();
            self.deadline = self.context.stage_deadline(now, self.gap.as_ref());
        }
        let interrupted = ready!(self.watch.poll(cx, &self.context, self.deadline.as_ref()));
        let late_by = interrupted.late_by(self.deadline.as_ref(), clock::now());
        Poll::Ready(Err(Trouble::interrupted(interrupted, late_by)))
    }

    fn fail(self, mut trouble: Trouble) -> Error {
        let (bytes, expected, away) = (self.bytes, self.expected, self.away);
        match &self.source {
            Source::H1(body) => {
                if let Some(connection) = body.connection() {
                    connection.note(&self.log);
                    trouble = trouble.with_socket(connection.observe_body());
                }
            }
            Source::H2(body) => {
                let last_read = self.last_piece;
                self.log.exchange(|exchange| {
                    exchange.response_bytes = exchange.response_bytes.saturating_add(bytes);
                    exchange.last_read = last_read.or(exchange.last_read);
                });
                trouble = body.exchange().explain(trouble, last_read.unwrap_or(self.handed_over));
            }
        }
        self.log.exchange(|exchange: &mut ExchangeFacts| {
            exchange.body_bytes = bytes;
            exchange.body_expected = expected;
            exchange.reader_away = away;
        });
        self.log.fail_for_good(Stage::Receive, trouble)
    }
}

/// What forbids to ask for another piece.
fn interrupted(context: &Context, now: Instant) -> Option<Interrupted> {
    if let Some(cause) = context.cancel_cause() {
        return Some(Interrupted::Cancelled(cause));
    }
    let passed = context.deadline().filter(|deadline| deadline.passed(now))?;
    Some(Interrupted::Passed(passed.limit().clone()))
}
