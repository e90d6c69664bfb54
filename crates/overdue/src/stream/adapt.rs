//! Readers, writers and bodies that others made, with bounds of ours.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use overdue_core::Stage;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Handle, operation::Operation};
use crate::{BoxError, Context};

pin_project! {
    /// A reader, a writer, both at once, or a body, whose operations end with a context: when its deadline passes, or
    /// when it is cancelled.
    ///
    /// Errors are those of a [`Stream`](super::Stream), without the evidence of a socket unless there is a `Stream`
    /// inside. Errors of what is inside pass through. Cancel safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
    /// # use std::time::Duration;
    /// use overdue::{Context, Error, Limit, stream::Bounded};
    /// use tokio::io::AsyncReadExt;
    ///
    /// let request = Context::root().child(Limit::total(Duration::from_millis(5)));
    /// let (near, _far) = tokio::io::duplex(64);
    /// let err = Bounded::new(&request, near).read_u8().await.unwrap_err();
    ///
    /// assert_eq!(err.kind(), std::io::ErrorKind::TimedOut);
    /// assert_eq!(Error::find(&err).unwrap().limit().unwrap().name.as_str(), "total");
    /// # Ok(()) }
    /// ```
    pub struct Bounded<T> {
        #[pin]
        inner: T,
        read: Operation,
        write: Operation,
    }
}

impl<T> Bounded<T> {
    /// Binds `inner` to `context`.
    #[must_use]
    pub fn new(context: &Context, inner: T) -> Self {
        let handle = Handle::in_context(context.clone());
        let (read, write) = (handle.operation(Stage::Receive, None), handle.operation(Stage::Send, None));
        Self { inner, read, write }
    }

    /// What was bound, free again.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: AsyncRead> AsyncRead for Bounded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.read.poll_io(cx, |cx| this.inner.poll_read(cx, buf)))?;
        this.read.handle().note_read(buf.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite> AsyncWrite for Bounded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let bytes = ready!(this.write.poll_io(cx, |cx| this.inner.poll_write(cx, buf)))?;
        this.write.handle().note_written(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let bytes = ready!(this.write.poll_io(cx, |cx| this.inner.poll_write_vectored(cx, bufs)))?;
        this.write.handle().note_written(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.write.poll_io(cx, |cx| this.inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.write.poll_io(cx, |cx| this.inner.poll_shutdown(cx))
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for Bounded<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        // An end that is known already needs no time.
        if !this.read.is_pending() && this.inner.is_end_stream() {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.read.poll(cx, |cx| this.inner.poll_frame(cx))) {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(err))) => return Poll::Ready(Some(Err(err.into()))),
            Ok(None) => return Poll::Ready(None),
            Err(stopped) => return Poll::Ready(Some(Err(this.read.error(stopped).into()))),
        };
        this.read.handle().note_read(frame.data_ref().map_or(0, Buf::remaining));
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<T: fmt::Debug> fmt::Debug for Bounded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded")
            .field("inner", &self.inner)
            .field("handle", self.read.handle())
            .finish_non_exhaustive()
    }
}

/// There was more than the bound allows. Found in the [`io::Error`] (of kind
/// [`InvalidData`](io::ErrorKind::InvalidData)) or the boxed error of [`AtMost`] by downcasting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there are more than the {at_most} bytes that are allowed")]
pub struct TooLong {
    /// The bound, in bytes.
    pub at_most: u64,
}

pin_project! {
    /// A reader or a body that may have so many bytes and no more.
    ///
    /// Exactly so many are fine. What goes beyond is an error, [`TooLong`], at every further read: never an end that
    /// looks like the real one. A reader has then taken one byte too many from what is inside; a body hands over
    /// nothing of the frame that goes beyond. Cancel safe.
    #[derive(Debug)]
    pub struct AtMost<T> {
        #[pin]
        inner: T,
        at_most: u64,
        left: u64,
        beyond: bool,
    }
}

impl<T> AtMost<T> {
    /// Allows `at_most` bytes of `inner`.
    pub const fn new(at_most: u64, inner: T) -> Self {
        Self { inner, at_most, left: at_most, beyond: false }
    }

    /// Bytes that are still allowed.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// What was bounded.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<R: AsyncRead> AsyncRead for AtMost<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if *this.left == 0 {
            let mut probe = [0];
            let mut probe = ReadBuf::new(&mut probe);
            if !*this.beyond {
                ready!(this.inner.poll_read(cx, &mut probe))?;
                *this.beyond = !probe.filled().is_empty();
            }
            let too_long = TooLong { at_most: *this.at_most };
            return Poll::Ready(if *this.beyond {
                Err(io::Error::new(io::ErrorKind::InvalidData, too_long))
            } else {
                Ok(())
            });
        }
        let room = buf.remaining().min(usize::try_from(*this.left).unwrap_or(usize::MAX));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(this.inner.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        *this.left -= read as u64;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for AtMost<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let too_long = TooLong { at_most: *this.at_most };
        if *this.beyond {
            return Poll::Ready(Some(Err(too_long.into())));
        }
        Poll::Ready(match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining) as u64;
                match this.left.checked_sub(bytes) {
                    Some(left) => {
                        *this.left = left;
                        Some(Ok(frame))
                    }
                    None => {
                        *this.beyond = true;
                        Some(Err(too_long.into()))
                    }
                }
            }
            Some(Err(err)) => Some(Err(err.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        !self.beyond && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What is announced beyond the bound will not come.
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_upper(inner.upper().unwrap_or(u64::MAX).min(self.left));
        hint.set_lower(inner.lower().min(self.left));
        hint
    }
}

pin_project! {
    /// One reader or body, then another. Writing goes to the second: so bytes that were read ahead are put before the
    /// rest of a connection. Cancel safe.
    ///
    /// Of two bodies the trailers come together at the end.
    #[derive(Debug)]
    pub struct Chained<A, B> {
        #[pin]
        first: A,
        #[pin]
        second: B,
        first_ended: bool,
        ended: bool,
        trailers: Option<HeaderMap>,
    }
}

impl<A, B> Chained<A, B> {
    /// `first`, then `second`.
    pub const fn new(first: A, second: B) -> Self {
        Self { first, second, first_ended: false, ended: false, trailers: None }
    }

    /// Both, wherever they are.
    #[must_use]
    pub fn into_inner(self) -> (A, B) {
        (self.first, self.second)
    }
}

impl<A: AsyncRead, B: AsyncRead> AsyncRead for Chained<A, B> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if !*this.first_ended {
            let before = buf.filled().len();
            ready!(this.first.poll_read(cx, buf))?;
            // Nothing read into no room is no end.
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            *this.first_ended = true;
        }
        this.second.poll_read(cx, buf)
    }
}

impl<A, B: AsyncWrite> AsyncWrite for Chained<A, B> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().second.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().second.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.second.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.project().second.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.project().second.poll_shutdown(cx)
    }
}

impl<A, B> Body for Chained<A, B>
where
    A: Body<Error: Into<BoxError>>,
    B: Body<Data = A::Data, Error: Into<BoxError>>,
{
    type Data = A::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        while !*this.ended {
            let frame = if *this.first_ended {
                ready!(this.second.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            } else {
                ready!(this.first.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            };
            match frame {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => this.trailers.get_or_insert_default().extend(trailers),
                    Err(data) => return Poll::Ready(Some(Ok(data))),
                },
                Some(Err(err)) => return Poll::Ready(Some(Err(err))),
                None if *this.first_ended => *this.ended = true,
                None => *this.first_ended = true,
            }
        }
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && (self.ended || self.first.is_end_stream() && self.second.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let (first, second) = (self.first.size_hint(), self.second.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(first.lower().saturating_add(second.lower()));
        if let Some(upper) = first.upper().zip(second.upper()).and_then(|(first, second)| first.checked_add(second)) {
            hint.set_upper(upper);
        }
        hint
    }
}
