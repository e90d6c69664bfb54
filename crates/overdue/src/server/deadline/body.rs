//! The body of an answer, under the deadline of its request.

use std::{
    fmt,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use overdue_core::Stage;
use pin_project_lite::pin_project;

use super::{
    Caller,
    answer::{DEADLINE_EXCEEDED, GRPC_STATUS},
};
use crate::{
    BoxError, Context, Error,
    context::{Watch, entered},
};

pin_project! {
    /// The body of an answer from a [`DeadlineService`](super::DeadlineService).
    ///
    /// When the deadline passes in the middle of it, it ends with an [`Error`], so that the connection is cut and nobody
    /// takes a part for the whole; over gRPC it ends with `DEADLINE_EXCEEDED` in its trailers. When it is dropped before
    /// its end, the context of the request is cancelled.
    pub struct DeadlineBody<B> {
        #[pin]
        body: Option<B>,
        covered: Option<Covered>,
        own: Bytes,
    }
}

/// What covers the body of a handler.
pub(super) struct Covered {
    context: Context,
    started: Instant,
    grpc: bool,
    watch: Watch,
    caller: Caller,
}

impl Covered {
    pub(super) fn new(context: Context, started: Instant, grpc: bool, caller: Caller) -> Self {
        Self { context, started, grpc, watch: Watch::default(), caller }
    }
}

impl<B: Body<Data = Bytes>> DeadlineBody<B> {
    /// An answer of the layer itself.
    pub(super) const fn own(bytes: Bytes) -> Self {
        Self { body: None, covered: None, own: bytes }
    }

    pub(super) fn covered(body: B, mut covered: Covered) -> Self {
        // Nobody may ask for what has ended already.
        if body.is_end_stream() {
            covered.caller.is_served();
        }
        Self { body: Some(body), covered: Some(covered), own: Bytes::new() }
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let (Some(mut body), Some(covered)) = (this.body.as_mut().as_pin_mut(), this.covered.as_mut()) else {
            let own = std::mem::take(this.own);
            return Poll::Ready((!own.is_empty()).then(|| Ok(Frame::data(own))));
        };
        let polled = entered(covered.context.clone(), || body.as_mut().poll_frame(cx));
        let interrupted = match polled {
            Poll::Ready(frame) => {
                if frame.is_none() || body.is_end_stream() {
                    covered.caller.is_served();
                }
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            Poll::Pending => {
                let Covered { context, watch, .. } = &mut *covered;
                let deadline = context.deadline();
                std::task::ready!(watch.poll(cx, context, deadline))
            }
        };
        let deadline = covered.context.deadline();
        let error = Error::from_interrupted(Stage::Handle, covered.started, deadline, interrupted);
        let grpc = covered.grpc && error.is_timeout();
        covered.caller.is_served();
        this.body.set(None);
        *this.covered = None;
        Poll::Ready(Some(if grpc {
            let mut trailers = HeaderMap::new();
            trailers.insert(GRPC_STATUS, DEADLINE_EXCEEDED.into());
            Ok(Frame::trailers(trailers))
        } else {
            Err(error.into())
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.own.is_empty(), Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(self.own.len() as u64),
        }
    }
}

impl<B> fmt::Debug for DeadlineBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineBody").field("is_own", &self.body.is_none()).finish_non_exhaustive()
    }
}
