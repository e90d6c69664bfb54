//! The library over real sockets, against servers that the tests make.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod hostile;
mod http1;
mod http2;
mod limits;
mod pool;
mod server;
mod service;

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use overdue::{Body, CallLog, Client, Context, Report};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn client() -> Client {
    Client::new().unwrap()
}

fn root() -> Context {
    Context::root()
}

/// A request with a body.
fn post(url: String, body: impl Into<bytes::Bytes>) -> Request<Full<bytes::Bytes>> {
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
