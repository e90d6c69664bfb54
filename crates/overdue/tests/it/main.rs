//! The library over real sockets, against servers that the tests make.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod cancelling;
mod hostile;
mod http1;
mod http2;
mod http2_faults;
mod http2_server;
#[cfg(feature = "hyper-util")]
mod hyper_util;
#[cfg(feature = "tower")]
mod layer;
mod limits;
mod observe;
mod pool;
mod server;
mod service;
mod snapshot;

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use overdue::{Body, CallLog, Client, Context, Report};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn client() -> Client {
    Client::new().unwrap()
}

fn root() -> Context {
    Context::root()
}

/// A request with a body.
fn post(url: String, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(body.into())).unwrap()
}

/// The whole body as text, and the report of the call.
async fn finish(response: http::Response<Body>) -> (String, Report) {
    let log = log_of(&response);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), log.report())
}

fn log_of(response: &http::Response<Body>) -> CallLog {
    response.extensions().get::<CallLog>().unwrap().clone()
}

fn stages(report: &Report) -> Vec<&'static str> {
    report.timeline.iter().map(|span| span.stage).collect()
}

/// What the future says when it is polled once, as a task would.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// Whether it comes true, within a time that only a fault exceeds.
async fn comes_true(what: impl Fn() -> bool) -> bool {
    let wait = async {
        while !what() {
            tokio::time::sleep(ms(1)).await;
        }
    };
    tokio::time::timeout(ms(5_000), wait).await.is_ok()
}

/// A runtime of the test's own, which ends when it is dropped.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A request body that announces this length, whatever it holds.
struct Announced<B>(B, u64);

impl<B: http_body::Body + Unpin> http_body::Body for Announced<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}
