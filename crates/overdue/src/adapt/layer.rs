//! A context and a limit for any tower service.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
    time::Instant,
};

use overdue_core::{Limit, NotVisible, Stage};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError, CancelGuard, Context, Error, clock,
    context::{Watch, entered, within},
};

/// Gives every request a context of its own, with a limit for the whole of its work.
///
/// The context is a child of the one that comes with the request: see [`Carrier`]. While the service inside is called
/// and polled it is the [current context](Context::current), so that every call and every task made below inherits its
/// deadline. It is cancelled when the future is dropped before its end, as a server does when its client goes away.
///
/// The limit begins when the service is called and ends with the response. What comes later, the body, is covered only
/// if it knows the context: that of [`Client`](crate::Client) does, others can be bound with
/// [`stream::Bounded`](crate::stream::Bounded).
///
/// # Errors
/// Those of the service pass through, boxed. When the limit fires, or the context is cancelled, it is an
/// [`Error`], found with [`Error::find`]: its stage is `handle` unless [`stage`](Self::stage) names another. What is
/// inside is asked before the clock, so that a call below that ends with the same deadline tells what it was doing.
///
/// # Cancel safety
/// Dropping the future drops the work.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use overdue::{BoxError, Error, Limit, adapt::ContextLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// let service = ServiceBuilder::new()
///     .layer(ContextLayer::new(Limit::total(Duration::from_millis(5))))
///     .service_fn(|_: &str| std::future::pending::<Result<(), BoxError>>());
///
/// let error = service.oneshot("a request").await.unwrap_err();
/// assert_eq!(Error::find(&*error).unwrap().limit().unwrap().name.as_str(), "total");
/// # }
/// ```
#[must_use = "a layer does nothing until it is put around a service"]
pub struct ContextLayer<C = InTask> {
    settings: Settings,
    carrier: PhantomData<fn() -> C>,
}

#[derive(Clone, Debug)]
struct Settings {
    limit: Limit,
    stage: Stage,
}

/// How the context of a request gets to the [`ContextLayer`], and from there to the service inside. Where a request
/// brings none, its parent is the current context of the task, or else a new root.
pub trait Carrier<R> {
    /// The context that the request brings.
    fn context_of(request: &R) -> Option<Context>;

    /// Gives the request the context of its own.
    fn give(request: &mut R, context: &Context);
}

/// Requests of any kind, which carry no context: the current one of the task is the parent.
#[derive(Clone, Copy, Debug)]
pub enum InTask {}

impl<R> Carrier<R> for InTask {
    fn context_of(_: &R) -> Option<Context> {
        None
    }

    fn give(_: &mut R, _: &Context) {}
}

/// HTTP requests, with their context in their extensions.
#[cfg(feature = "client")]
#[derive(Clone, Copy, Debug)]
pub enum InExtensions {}

#[cfg(feature = "client")]
impl<B> Carrier<http::Request<B>> for InExtensions {
    fn context_of(request: &http::Request<B>) -> Option<Context> {
        request.extensions().get().cloned()
    }

    fn give(request: &mut http::Request<B>, context: &Context) {
        request.extensions_mut().insert(context.clone());
    }
}

impl ContextLayer {
    /// Gives each request so long.
    pub const fn new(limit: Limit) -> Self {
        Self { settings: Settings { limit, stage: Stage::Handle }, carrier: PhantomData }
    }
}

impl<C> ContextLayer<C> {
    /// What to call the work inside, where that does not tell itself.
    pub const fn stage(mut self, stage: Stage) -> Self {
        self.settings.stage = stage;
        self
    }

    /// How contexts come with requests, and reach the service inside.
    pub fn carried<D>(self) -> ContextLayer<D> {
        ContextLayer { settings: self.settings, carrier: PhantomData }
    }
}

impl<C> Clone for ContextLayer<C> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), carrier: PhantomData }
    }
}

impl<C> fmt::Debug for ContextLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl<S, C> Layer<S> for ContextLayer<C> {
    type Service = ContextService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService { inner, layer: self.clone() }
    }
}

/// The service of a [`ContextLayer`].
pub struct ContextService<S, C = InTask> {
    inner: S,
    layer: ContextLayer<C>,
}

impl<S: Clone, C> Clone for ContextService<S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for ContextService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextService").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, C, R> Service<R> for ContextService<S, C>
where
    S: Service<R, Error: Into<BoxError>>,
    C: Carrier<R>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ContextFuture<S::Future>;

    /// Has no limit: the time in which the service inside takes no request belongs to whoever waits for it.
    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: R) -> Self::Future {
        let Settings { limit, stage } = self.layer.settings.clone();
        let started = clock::now();
        let parent = C::context_of(&request).or_else(Context::current).unwrap_or_else(Context::root);
        let context = parent.child_at(started, limit);
        C::give(&mut request, &context);
        let work = entered(context.clone(), || self.inner.call(request));
        let work = within(context.clone(), work);
        let guard = Some(context.cancel_on_drop());
        ContextFuture { work, context, stage, started, polled: false, watch: Watch::default(), guard }
    }
}

pin_project! {
    /// The future of a [`ContextService`].
    pub struct ContextFuture<F> {
        #[pin]
        work: TaskLocalFuture<Context, F>,
        context: Context,
        stage: Stage,
        started: Instant,
        polled: bool,
        watch: Watch,
        guard: Option<CancelGuard>,
    }
}

impl<F, T, E> Future for ContextFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = this.context.deadline();
        let begins = (!std::mem::replace(this.polled, true)).then(clock::now);
        let done = ready!(this.watch.poll_work(cx, this.context, deadline, begins, this.work));
        // What the response still needs, its body for one, goes on under the context.
        if matches!(done, Ok(Ok(_)))
            && let Some(guard) = this.guard.take()
        {
            guard.disarm();
        }
        Poll::Ready(match done {
            Ok(result) => result.map_err(Into::into),
            Err(interrupted) => {
                let mut error = Error::from_interrupted(*this.stage, *this.started, deadline, interrupted);
                error.report_mut().not_visible.push(NotVisible {
                    what: "the stages inside",
                    why: format!("what ran as {} told of no stage of its own", this.stage),
                    how: "make its calls with overdue::Client, or over the streams of overdue: their errors come first"
                        .to_owned(),
                });
                Err(error.into())
            }
        })
    }
}

impl<F> fmt::Debug for ContextFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextFuture").field("stage", &self.stage).finish_non_exhaustive()
    }
}
