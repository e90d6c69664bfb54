//! Bodies of requests that come too slowly, for hyper, axum, tonic and whatever else is made of tower services.
//!
//! [`BodyLayer`] wraps the body of each request. A client that is silent for longer than a gap, or that sends less than a
//! rate asks for, is cut: whoever reads the body gets an [`Error`] with the limit and its origin, the handler is dropped, and
//! the client is told: 408 with a small `application/problem+json`, or `DEADLINE_EXCEEDED` where it speaks gRPC. Over
//! HTTP/1 its connection ends. Once the head of the answer is sent, only the reader of the body is told.
//!
//! Time counts only while the body is waited for: what the handler does between two reads is its own.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use overdue_core::{
    Limit, LimitName, Origin, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, ExchangeFacts, Failure},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::deadline::answer::Answer;
use crate::{Alarm, BoxError, Error, clock};

/// How long a client may be silent, unless somebody says otherwise.
const GAP: Duration = Duration::from_secs(30);

/// Bounds how slowly the body of a request may come: see the [module](self).
///
/// | option | default |
/// |---|---|
/// | [`gap`](Self::gap) | 30 s |
/// | [`rate`](Self::rate) | none |
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, time::Duration};
/// use bytes::Bytes;
/// use http::{Request, StatusCode};
/// use http_body_util::{BodyExt, Full, StreamBody};
/// use overdue::server::body::{BodyLayer, PacedBody};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// type Silent = StreamBody<futures_util::stream::Pending<Result<http_body::Frame<Bytes>, Infallible>>>;
/// let service = ServiceBuilder::new()
///     .layer(BodyLayer::new().rate(10_000, Duration::from_millis(50)))
///     .service_fn(|request: Request<PacedBody<Silent>>| async {
///         let _ = request.into_body().collect().await;
///         Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from("done"))))
///     });
///
/// let silent = StreamBody::new(futures_util::stream::pending());
/// let response = service.oneshot(Request::new(silent)).await.unwrap();
/// assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct BodyLayer {
    limits: Limits,
}

#[derive(Clone, Debug)]
struct Limits {
    gap: Option<Arc<Limit>>,
    /// Its name says how many bytes.
    rate: Option<Arc<Limit>>,
}

impl BodyLayer {
    /// The defaults above.
    pub fn new() -> Self {
        let gap = Limit { name: LimitName::Gap, value: GAP, origin: Origin::Default };
        Self { limits: Limits { gap: Some(Arc::new(gap)), rate: None } }
    }

    /// How long a client may be silent while it is waited for; `None` leaves the limit out.
    pub fn gap(mut self, limit: Option<Limit>) -> Self {
        self.limits.gap = limit.map(Arc::new);
        self
    }

    /// At least so many bytes have to come in each such time for which the client is waited for, as long as there is more
    /// to come. The first of these is there in any case, whatever a network takes to begin: do not make it too short.
    #[track_caller]
    pub fn rate(mut self, bytes: u64, within: Duration) -> Self {
        self.limits.rate = Some(Arc::new(Limit::new(LimitName::Rate(bytes), within)));
        self
    }
}

impl Default for BodyLayer {
    /// See [`BodyLayer::new`].
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for BodyLayer {
    type Service = BodyService<S>;

    fn layer(&self, inner: S) -> BodyService<S> {
        BodyService { inner, limits: self.limits.clone() }
    }
}

/// The service of a [`BodyLayer`].
#[derive(Clone, Debug)]
pub struct BodyService<S> {
    inner: S,
    limits: Limits,
}

impl<S, B, R> Service<Request<B>> for BodyService<S>
where
    S: Service<Request<PacedBody<B>>, Response = Response<R>>,
    B: Body,
    R: Body<Data = Bytes>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = BodyFuture<S::Future>;

    /// Has no limit: the time in which the service inside takes no request belongs to whoever waits for it.
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> BodyFuture<S::Future> {
        let answer = Answer::to(request.headers(), false);
        let is_alone = request.version() <= Version::HTTP_11;
        let cut = (!request.body().is_end_stream()).then(|| Arc::new(Mutex::new(Cut::No(None))));
        let limits = self.limits.clone();
        let request = request.map(|body| PacedBody::new(body, limits, cut.clone()));
        BodyFuture { work: Some(self.inner.call(request)), cut, answer, is_alone }
    }
}

/// Whether a body was cut, and who wants to know.
enum Cut {
    No(Option<Waker>),
    Yes,
}

type SharedCut = Arc<Mutex<Cut>>;

fn lock(cut: &SharedCut) -> std::sync::MutexGuard<'_, Cut> {
    // Nothing is half done after a panic.
    cut.lock().unwrap_or_else(PoisonError::into_inner)
}

pin_project! {
    /// The future of a [`BodyService`].
    pub struct BodyFuture<F> {
        #[pin]
        work: Option<F>,
        // None where there is no body.
        cut: Option<SharedCut>,
        answer: Answer,
        // Its connection carries one request at a time.
        is_alone: bool,
    }
}

impl<F, R, E> Future for BodyFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<AnswerBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(work) = this.work.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = work.poll(cx);
        let is_cut = this.cut.as_ref().is_some_and(|cut| match &mut *lock(cut) {
            Cut::Yes => true,
            // The body may be read by another task.
            Cut::No(waker) => {
                if polled.is_pending() && waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                false
            }
        });
        if is_cut {
            // Whatever the handler made of that.
            this.work.set(None);
            let mut response = this.answer.too_slow().map(|own| AnswerBody { body: None, own });
            if *this.is_alone {
                // What it still sends would be taken for its next request, or waited for.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return Poll::Ready(Ok(response));
        }
        polled.map(|result| {
            result.map(|response| response.map(|body| AnswerBody { body: Some(body), own: Bytes::new() }))
        })
    }
}

impl<F> fmt::Debug for BodyFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a request under a [`BodyLayer`].
    ///
    /// Where a limit fires it ends with an [`Error`], as [`BoxError`]; [`Error::find`] finds it behind those of others.
    pub struct PacedBody<B> {
        #[pin]
        body: B,
        limits: Limits,
        cut: Option<SharedCut>,
        alarm: Alarm,
        pace: Pace,
        ended: bool,
    }
}

/// How a body comes.
struct Pace {
    started: Instant,
    bytes: u64,
    /// Since when it is waited for.
    waits: Option<Instant>,
    /// Since the time of the rate began: bytes that came, and how long they were waited for.
    came: u64,
    waited: Duration,
}

impl Pace {
    fn comes(&mut self, bytes: u64, least: Option<u64>) {
        self.bytes += bytes;
        self.came += bytes;
        if let Some(since) = self.waits.take() {
            self.waited += clock::now().saturating_duration_since(since);
        }
        if least.is_some_and(|least| self.came >= least) {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
    }

    /// The earliest of both limits, of one that waits now.
    fn due<'l>(&mut self, limits: &'l Limits) -> Option<(Instant, &'l Arc<Limit>)> {
        let since = *self.waits.get_or_insert_with(clock::now);
        let gap = limits.gap.as_ref().and_then(|gap| Some((since.checked_add(gap.value)?, gap)));
        let left = |rate: &Limit| rate.value.saturating_sub(self.waited);
        let rate = limits.rate.as_ref().and_then(|rate| Some((since.checked_add(left(rate))?, rate)));
        gap.into_iter().chain(rate).min_by_key(|(at, _)| *at)
    }

    /// What whoever reads the body gets.
    fn passed(&self, limit: &Limit, at: Instant, noticed: Instant) -> Error {
        let late_by = noticed.saturating_duration_since(at);
        let mut timeline = Timeline::new(self.started);
        timeline.begin(Stage::Send, self.started, None);
        timeline.finish_late(noticed, late_by, SpanOutcome::TimedOut);
        timeline.end(noticed, SpanOutcome::TimedOut);
        let exchange = ExchangeFacts {
            request_started: true,
            request_bytes: self.bytes,
            waiting_for_request_body: true,
            ..ExchangeFacts::default()
        };
        let facts = CallFacts {
            stage: Stage::Send,
            failure: Failure::DeadlinePassed(limit.clone()),
            now: noticed,
            timeline,
            late_by,
            socket: None,
            dns: None,
            pool: None,
            h2: None,
            exchange,
        };
        Error::judged(facts, false)
    }
}

impl<B> PacedBody<B> {
    fn new(body: B, limits: Limits, cut: Option<SharedCut>) -> Self {
        let pace = Pace { started: clock::now(), bytes: 0, waits: None, came: 0, waited: Duration::ZERO };
        Self { body, limits, cut, alarm: Alarm::default(), pace, ended: false }
    }
}

impl<B> Body for PacedBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            let bytes = data.map_or(0, |data| u64::try_from(data.remaining()).unwrap_or(u64::MAX));
            this.pace.comes(bytes, this.limits.rate.as_ref().and_then(|rate| rate.name.bytes()));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some((at, limit)) = this.pace.due(this.limits) else { return Poll::Pending };
        let noticed = std::task::ready!(this.alarm.poll(cx, at));
        *this.ended = true;
        if let Some(cut) = this.cut.take()
            && let Cut::No(Some(waker)) = mem::replace(&mut *lock(&cut), Cut::Yes)
        {
            waker.wake();
        }
        Poll::Ready(Some(Err(this.pace.passed(limit, at, noticed).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for PacedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacedBody").field("bytes", &self.pace.bytes).finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of an answer from a [`BodyService`]: the handler's, or that of an answer of the layer itself.
    pub struct AnswerBody<R> {
        #[pin]
        body: Option<R>,
        own: Bytes,
    }
}

impl<R: Body<Data = Bytes>> Body for AnswerBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = self.project();
        if let Some(body) = this.body.as_pin_mut() {
            return body.poll_frame(cx);
        }
        let own = mem::take(this.own);
        Poll::Ready((!own.is_empty()).then(|| Ok(Frame::data(own))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.own.is_empty(), Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(self.own.len() as u64), Body::size_hint)
    }
}

impl<R> fmt::Debug for AnswerBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").field("is_own", &self.body.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
