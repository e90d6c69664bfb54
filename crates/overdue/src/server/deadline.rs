//! The deadline of a request, for hyper, axum, tonic and whatever else is made of tower services.
//!
//! [`DeadlineLayer`] gives each request a [`Context`] whose deadline is the earliest of the server's own cap and of what a
//! trusted caller's headers leave ([`propagate`](super::propagate)). The context lies in the request's extensions, and is
//! the [current one](Context::current) while the handler is polled, so that every call made below inherits it. When the
//! deadline passes, the handler is dropped and the caller is told: 504 with a small `application/problem+json`, or
//! `DEADLINE_EXCEEDED` where it speaks gRPC. When the caller goes away, the handler is dropped and the context is cancelled.
//!
//! The deadline covers the body of the answer, too. It begins when the layer is called: what went by before, such as the
//! time in which the request's head came, is for the server's own limits.

pub(super) mod answer;
mod body;

use std::{
    fmt,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Body;
use overdue_core::{Limit, Stage};
use pin_project_lite::pin_project;
use tokio::task::{JoinHandle, futures::TaskLocalFuture};
use tower_layer::Layer;
use tower_service::Service;

use self::{answer::Answer, body::Covered};
use super::{
    TrustedPeers,
    propagate::{InvalidTimeout, TimeoutHeaders},
};
use crate::{
    Context, Error, clock,
    context::{Bound, Watch, entered, forbidden, within},
};
pub use body::DeadlineBody;

/// Where a request comes from. Put it into the extensions of each request, or say with
/// [`DeadlineLayer::peer_from`] where else it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub SocketAddr);

type PeerFrom = Arc<dyn Fn(&Extensions) -> Option<IpAddr> + Send + Sync>;

/// Gives each request a deadline: see the [module](self).
///
/// | option | default |
/// |---|---|
/// | [`trusted`](Self::trusted) | nobody: headers are ignored |
/// | [`headers`](Self::headers) | `grpc-timeout` and `x-envoy-expected-rq-timeout-ms` |
/// | [`peer_from`](Self::peer_from) | a [`Peer`] in the extensions |
/// | [`server_timing`](Self::server_timing) | on |
/// | [`detached`](Self::detached) | off: a handler whose caller is gone is dropped |
///
/// A trusted peer that sends a header which cannot be read gets 400, or `INTERNAL`, as gRPC's own servers do it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, time::Duration};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use overdue::{Context, Limit, server::{Peer, deadline::DeadlineLayer}};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// let service = ServiceBuilder::new()
///     .layer(DeadlineLayer::new(Limit::total(Duration::from_secs(10))).trusted("10.0.0.0/8".parse().unwrap()))
///     .service_fn(|_request: http::Request<()>| async {
///         let left = Context::current().unwrap().remaining().unwrap();
///         assert!(left <= Duration::from_millis(200));
///         Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from("done"))))
///     });
///
/// let request = http::Request::builder().header("grpc-timeout", "200m").extension(Peer("10.1.2.3:4567".parse().unwrap()));
/// let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
/// assert!(response.headers()["server-timing"].to_str().unwrap().starts_with("handle;dur="));
/// # }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct DeadlineLayer<M = Attached> {
    settings: Arc<Settings>,
    mode: PhantomData<fn() -> M>,
}

/// The handler is dropped when its caller goes away.
#[derive(Clone, Copy, Debug)]
pub enum Attached {}

/// The handler goes on when its caller goes away.
#[derive(Clone, Copy, Debug)]
pub enum Detached {}

#[derive(Clone)]
struct Settings {
    cap: Limit,
    headers: TimeoutHeaders,
    trusted: TrustedPeers,
    peer_from: PeerFrom,
    server_timing: bool,
}

impl DeadlineLayer {
    /// Gives each request so long, at most.
    pub fn new(cap: Limit) -> Self {
        let peer_from: PeerFrom = Arc::new(|extensions| extensions.get().map(|Peer(address)| address.ip()));
        let settings = Settings {
            cap,
            headers: TimeoutHeaders::default(),
            trusted: TrustedPeers::none(),
            peer_from,
            server_timing: true,
        };
        Self { settings: Arc::new(settings), mode: PhantomData }
    }

    /// Lets a handler whose caller is gone go on to its end, in a task of its own, for work that must not stop half-way.
    /// The deadline holds for it all the same.
    pub fn detached(self) -> DeadlineLayer<Detached> {
        DeadlineLayer { settings: self.settings, mode: PhantomData }
    }
}

impl<M> DeadlineLayer<M> {
    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Whose headers count, and who is told the details when a limit has fired.
    pub fn trusted(self, peers: TrustedPeers) -> Self {
        self.set(|settings| settings.trusted = peers)
    }

    /// The headers that say what remains.
    pub fn headers(self, headers: TimeoutHeaders) -> Self {
        self.set(|settings| settings.headers = headers)
    }

    /// Where the address of the peer is found: in axum,
    /// `|extensions| extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())`. Who is not known is not
    /// trusted.
    pub fn peer_from(self, find: impl Fn(&Extensions) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.peer_from = Arc::new(find))
    }

    /// Whether answers have a `Server-Timing` header, with the milliseconds until the head of the answer.
    pub fn server_timing(self, on: bool) -> Self {
        self.set(|settings| settings.server_timing = on)
    }
}

impl<M> Clone for DeadlineLayer<M> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings), mode: PhantomData }
    }
}

impl<M> fmt::Debug for DeadlineLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { cap, headers, trusted, server_timing, .. } = &*self.settings;
        f.debug_struct("DeadlineLayer")
            .field("cap", cap)
            .field("headers", headers)
            .field("trusted", trusted)
            .field("server_timing", server_timing)
            .finish_non_exhaustive()
    }
}

impl<S, M> Layer<S> for DeadlineLayer<M> {
    type Service = DeadlineService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner, layer: self.clone() }
    }
}

/// The service of a [`DeadlineLayer`].
pub struct DeadlineService<S, M = Attached> {
    inner: S,
    layer: DeadlineLayer<M>,
}

impl<S: Clone, M> Clone for DeadlineService<S, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for DeadlineService<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineService").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

/// A request that has a deadline.
struct Begun {
    context: Context,
    started: Instant,
    answer: Answer,
}

impl Settings {
    /// Gives the request its context. An error is the answer to a request that may not begin.
    fn begin<B>(&self, request: &mut Request<B>) -> Result<Begun, Response<Bytes>> {
        let started = clock::now();
        let peer = (self.peer_from)(request.extensions());
        let trusted = peer.is_some_and(|peer| self.trusted.contains(peer));
        let answer = Answer::to(request.headers(), trusted);
        let left = match trusted.then(|| self.left(request)).transpose() {
            Ok(left) => left.flatten(),
            Err(invalid) => return Err(answer.unreadable(&invalid)),
        };
        let parent = request.extensions().get().cloned().or_else(Context::current).unwrap_or_else(Context::root);
        let capped = parent.child_at(started, self.cap.clone());
        let context = match left {
            Some(left) => capped.child_at(started, left),
            None => capped,
        };
        if let Some(interrupted) = forbidden(&context, context.deadline(), started) {
            let error = Error::from_interrupted(Stage::Handle, started, context.deadline(), interrupted);
            return Err(answer.over(&error));
        }
        request.extensions_mut().insert(context.clone());
        Ok(Begun { context, started, answer })
    }

    fn left<B>(&self, request: &Request<B>) -> Result<Option<Limit>, InvalidTimeout> {
        self.headers.read(request.headers().iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
    }
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for DeadlineService<S, Attached>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<DeadlineBody<B>>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    /// Has no limit: the time in which the service inside takes no request belongs to whoever waits for it.
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        match self.layer.settings.begin(&mut request) {
            Ok(begun) => {
                let work = entered(begun.context.clone(), || self.inner.call(request));
                let caller = Caller { context: Some(begun.context.clone()) };
                DeadlineFuture::running(begun, work, caller, self.layer.settings.server_timing)
            }
            Err(refusal) => DeadlineFuture::refused(refusal),
        }
    }
}

impl<S, RequestBody, B> Service<Request<RequestBody>> for DeadlineService<S, Detached>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Send + 'static, Future: Send + 'static>,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<DeadlineBody<B>>;
    type Error = S::Error;
    type Future = DeadlineFuture<Joined<Result<Response<B>, S::Error>>>;

    /// Has no limit: the time in which the service inside takes no request belongs to whoever waits for it.
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        match self.layer.settings.begin(&mut request) {
            Ok(begun) => {
                let (context, started) = (begun.context.clone(), begun.started);
                let work = within(context.clone(), entered(context.clone(), || self.inner.call(request)));
                let task =
                    tokio::spawn(async move { Bound::new(&context, context.deadline(), started, work).await.ok() });
                DeadlineFuture::running(
                    begun,
                    Joined(task),
                    Caller { context: None },
                    self.layer.settings.server_timing,
                )
            }
            Err(refusal) => DeadlineFuture::refused(refusal),
        }
    }
}

/// Waits for a handler in a task of its own.
pub struct Joined<T>(JoinHandle<Option<T>>);

impl<T> Future for Joined<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(Some(output)) => Poll::Ready(output),
            // The deadline has ended it, and does the same for who waits here. Or the runtime is being shut down.
            Ok(None) => Poll::Pending,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Poll::Pending,
            },
        }
    }
}

impl<T> fmt::Debug for Joined<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Joined").finish_non_exhaustive()
    }
}

/// Cancels the context when it is dropped before the answer has ended: its caller is gone.
struct Caller {
    context: Option<Context>,
}

impl Caller {
    fn is_served(&mut self) {
        self.context = None;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            context.cancel("the client went away");
        }
    }
}

pin_project! {
    /// The future of a [`DeadlineService`].
    pub struct DeadlineFuture<F> {
        // None where the request may not begin; then there is the answer.
        #[pin]
        work: Option<TaskLocalFuture<Context, F>>,
        state: Result<State, Option<Response<Bytes>>>,
    }
}

/// What surrounds a handler.
struct State {
    begun: Begun,
    watch: Watch,
    caller: Option<Caller>,
    server_timing: bool,
}

impl<F: Future> DeadlineFuture<F> {
    fn running(begun: Begun, work: F, caller: Caller, server_timing: bool) -> Self {
        let work = Some(within(begun.context.clone(), work));
        Self { work, state: Ok(State { begun, watch: Watch::default(), caller: Some(caller), server_timing }) }
    }

    const fn refused(refusal: Response<Bytes>) -> Self {
        Self { work: None, state: Err(Some(refusal)) }
    }
}

impl<F, B, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (state, work) = match (this.state, this.work.as_mut().as_pin_mut()) {
            (Ok(state), Some(work)) => (state, work),
            (Ok(_), None) => return Poll::Pending,
            (Err(refusal), _) => {
                return Poll::Ready(Ok(refusal.take().unwrap_or_default().map(DeadlineBody::own)));
            }
        };
        let Begun { context, started, answer } = &state.begun;
        let done = ready!(state.watch.poll_work(cx, context, context.deadline(), None, work));
        // Before it is told that the deadline has passed nothing of the handler is left.
        this.work.set(None);
        let mut caller = state.caller.take().unwrap_or(Caller { context: None });
        let mut response = match done {
            Ok(result) => {
                let covered = Covered::new(context.clone(), *started, answer.is_grpc(), caller);
                result?.map(|body| DeadlineBody::covered(body, covered))
            }
            Err(interrupted) => {
                caller.is_served();
                let error = Error::from_interrupted(Stage::Handle, *started, context.deadline(), interrupted);
                answer.over(&error).map(DeadlineBody::own)
            }
        };
        if state.server_timing {
            answer::add_timing(response.headers_mut(), clock::now().saturating_duration_since(*started));
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for DeadlineFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
