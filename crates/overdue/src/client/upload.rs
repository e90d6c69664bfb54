//! The body of a request. One that is small and there at once is kept, so that it can be sent again when the peer says
//! that it did nothing with the request.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http_body::Frame;

use crate::{error::BoxError, h1::Framing};

/// A larger body is not kept.
const KEEP_MAX: u64 = 64 * 1024;

pub(crate) struct Upload<B> {
    /// All of it.
    kept: Option<Bytes>,
    /// What was asked for already, and comes first.
    first: Option<Result<Frame<Bytes>, BoxError>>,
    /// `None` when all of it is kept, and once an exchange has taken it.
    rest: Option<Pin<Box<B>>>,
    begun: bool,
}

impl<B> Upload<B>
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    pub(crate) fn new(body: B) -> Self {
        Self { kept: None, first: None, rest: Some(Box::pin(body)), begun: false }
    }

    /// Keeps the body if it is small and there at once.
    pub(crate) fn prepare(&mut self, framing: Framing) {
        let Framing::Length(length @ ..=KEEP_MAX) = framing else { return };
        if self.begun || self.kept.is_some() || self.first.is_some() {
            return;
        }
        let Some(rest) = &mut self.rest else { return };
        // Nobody need be woken: who sends it asks again.
        let Poll::Ready(first) = poll_rest(rest, &mut TaskContext::from_waker(Waker::noop())) else { return };
        let ended = rest.is_end_stream();
        match first {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if ended && data.len() as u64 == length => {
                    self.kept = Some(data);
                    self.rest = None;
                }
                Ok(data) => self.first = Some(Ok(Frame::data(data))),
                Err(frame) => self.first = Some(Ok(frame)),
            },
            Some(Err(err)) => self.first = Some(Err(err)),
            None => self.rest = None,
        }
    }

    /// The body for one exchange.
    pub(crate) fn take(&mut self) -> Self {
        match &self.kept {
            Some(kept) => {
                let first = Some(Ok(Frame::data(kept.clone())));
                Self { kept: None, first, rest: None, begun: false }
            }
            None => std::mem::replace(self, Self { kept: None, first: None, rest: None, begun: true }),
        }
    }

    /// Gives back what an exchange took. It is of use if nothing of it was read.
    pub(crate) fn put_back(&mut self, taken: Self) {
        if self.kept.is_none() && !taken.begun {
            *self = taken;
        }
    }

    /// Whether all of it can be sent.
    pub(crate) fn is_whole(&self) -> bool {
        self.kept.is_some() || !self.begun
    }
}

impl<B> http_body::Body for Upload<B>
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.begun = true;
        match (this.first.take(), &mut this.rest) {
            (Some(first), _) => Poll::Ready(Some(first)),
            (None, Some(rest)) => poll_rest(rest, cx),
            (None, None) => Poll::Ready(None),
        }
    }
}

fn poll_rest<B>(rest: &mut Pin<Box<B>>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    let bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
    rest.as_mut().poll_frame(cx).map_ok(|frame| frame.map_data(bytes)).map_err(Into::into)
}
