//! What has to work with every server. The servers add `x-port`: the caller's port as they see it.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use overdue::{
    Body, BoxError, CallLog, Cause, Client, Confidence, Error, Limit, PoolOptions, Report, Stage, client::Builder,
};
use tokio::task::JoinSet;

use crate::{client, identity::Identity, ms, relay::Relay, root, tls_client, trusting, upstream};

/// A request without a body.
pub(crate) fn bare(method: Method, url: &str) -> Request<Empty<Bytes>> {
    Request::builder().method(method).uri(url).body(Empty::new()).unwrap()
}

/// A POST of known length.
pub(crate) fn post(url: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(body.into())).unwrap()
}

type Streamed = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// A POST whose length nobody knows beforehand.
pub(crate) fn post_streamed(url: &str, body: &[u8]) -> Request<Streamed> {
    let frames: Vec<_> = body.chunks(40_000).map(|data| Ok(Frame::data(Bytes::copy_from_slice(data)))).collect();
    Request::post(url).body(StreamBody::new(futures_util::stream::iter(frames))).unwrap()
}

/// A POST that never ends.
pub(crate) fn post_endless(
    url: &str,
) -> Request<impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static> {
    let frame = || Ok(Frame::data(Bytes::from_static(&[7; 16 << 10])));
    Request::post(url).body(StreamBody::new(futures_util::stream::repeat_with(frame))).unwrap()
}

/// A response read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) report: Report,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The id of the connection that carried it.
    pub(crate) fn connection(&self) -> u64 {
        self.report.connection.as_ref().unwrap().id
    }
}

pub(crate) fn log_of(response: &Response<Body>) -> CallLog {
    response.extensions().get::<CallLog>().unwrap().clone()
}

pub(crate) async fn call<B>(client: &Client, request: Request<B>) -> Result<Answer, Error>
where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let (head, body) = client.call(&root(), request).await?.into_parts();
    let body = body.collect().await?;
    let report = head.extensions.get::<CallLog>().unwrap().report();
    assert_eq!(report.outcome, "ok");
    let trailers = body.trailers().cloned();
    Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers, report })
}

pub(crate) async fn get(client: &Client, url: &str) -> Answer {
    call(client, bare(Method::GET, url)).await.unwrap_or_else(|err| panic!("{err}\n{:#?}", err.report()))
}

/// Every kind of exchange, all on the client's first connection.
pub(crate) async fn exchanges(client: &Client, base: &str, protocol: &str) {
    let url = |path: &str| format!("{base}{path}");
    let mut calls = 0;
    let mut check = |answer: &Answer, status: u16| {
        calls += 1;
        assert_eq!(answer.status.as_u16(), status);
        let report = &answer.report;
        assert!(report.attempts.is_empty() && report.verdicts.is_empty(), "{report:#?}");
        let connection = report.connection.as_ref().unwrap();
        assert_eq!((connection.id, connection.reused, connection.protocol), (1, calls > 1, Some(protocol)));
        // The server's testimony.
        let port = connection.local.as_ref().unwrap().rsplit_once(':').unwrap().1;
        assert_eq!(answer.headers["x-port"], port);
        let known: u64 = report.timeline.iter().map(|span| span.duration_us).sum();
        assert_eq!(known + report.unaccounted_us, report.elapsed_us);
    };

    let answer = get(client, &url("/hello")).await;
    assert_eq!(answer.text(), "hello");
    check(&answer, 200);

    let answer = call(client, bare(Method::HEAD, &url("/hello"))).await.unwrap();
    assert_eq!((answer.text(), &answer.headers["content-length"]), ("", &"5".parse().unwrap()));
    check(&answer, 200);

    for text in ["", "a few words"] {
        let answer = call(client, post(&url("/echo"), text)).await.unwrap();
        assert_eq!(answer.text(), text);
        check(&answer, 200);
        let answer = call(client, post_streamed(&url("/echo"), text.as_bytes())).await.unwrap();
        assert_eq!(answer.text(), text);
        check(&answer, 200);
    }

    let answer = get(client, &url("/missing")).await;
    check(&answer, 404);

    let big = upstream::big();
    let answer = get(client, &url("/big")).await;
    assert!(answer.body == big, "{} bytes", answer.body.len());
    check(&answer, 200);

    let answer = call(client, post(&url("/echo"), big.clone())).await.unwrap();
    assert!(answer.body == big, "{} bytes", answer.body.len());
    check(&answer, 200);
    let answer = call(client, post_streamed(&url("/echo"), &big)).await.unwrap();
    assert!(answer.body == big, "{} bytes", answer.body.len());
    check(&answer, 200);

    // Piece by piece: the whole of it is never in memory.
    let response = client.get(&root(), &url("/big")).await.unwrap();
    let log = log_of(&response);
    let (mut body, mut seen, mut pieces) = (response.into_body(), 0, 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.unwrap().into_data() else { continue };
        assert!(data == big[seen..seen + data.len()]);
        seen += data.len();
        pieces += 1;
    }
    assert_eq!(seen, big.len());
    assert!(pieces > 5, "{pieces}");
    assert_eq!(log.report().connection.unwrap().id, 1);
}

/// TLS as the report tells it, over HTTP/1.1 and what ALPN prefers, and a session resumed.
pub(crate) async fn tls(client: impl Fn() -> Builder, base: &str, version: &str) {
    let hello = format!("{base}/hello");
    exchanges(&client().http1_only().build().unwrap(), base, "http/1.1").await;
    exchanges(&client().build().unwrap(), base, "h2").await;

    let client = client().http1_only().build().unwrap();
    for resumed in [false, true] {
        let request = Request::get(&hello).header("connection", "close").body(Empty::<Bytes>::new()).unwrap();
        let connection = call(&client, request).await.unwrap().report.connection.unwrap();
        let tls = connection.tls.unwrap();
        assert!(!connection.reused);
        assert_eq!(tls.version.as_deref(), Some(version));
        assert!(tls.cipher.is_some());
        assert_eq!((tls.resumed, tls.verify_us > 0), (resumed, !resumed), "{tls:?}");
    }
}

/// Many calls at once over HTTP/2, where the server allows ten streams.
pub(crate) async fn many_at_once(client: impl Fn() -> Builder, base: &str) {
    let all = |client: Client| {
        let base = base.to_owned();
        async move {
            let mut calls = JoinSet::new();
            for n in 0..50 {
                let (client, url) = (client.clone(), format!("{base}/echo"));
                calls.spawn(async move {
                    let answer = call(&client, post(&url, n.to_string())).await.unwrap();
                    assert_eq!(answer.text(), n.to_string());
                    answer.report
                });
            }
            calls.join_all().await
        }
    };

    // They wait for each other on one connection.
    let one = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
    for report in all(client().pool(one).build().unwrap()).await {
        let connection = report.connection.unwrap();
        assert_eq!((connection.id, connection.protocol), (1, Some("h2")));
        assert!(report.attempts.is_empty());
    }

    // They take as many as they need, and no more, once it is known that the host speaks HTTP/2.
    let client = client().build().unwrap();
    get(&client, &format!("{base}/hello")).await;
    let reports = all(client).await;
    assert!(reports.iter().all(|report| report.attempts.is_empty()));
    let most = reports.iter().map(|report| report.connection.as_ref().unwrap().id).max().unwrap();
    assert!((2..=5).contains(&most), "{most} connections");
    // The others have their session from the first.
    for connection in reports.into_iter().filter_map(|report| report.connection).filter(|connection| connection.id > 1)
    {
        assert!(connection.tls.is_none_or(|tls| tls.resumed));
    }
}

/// A server that closes idle connections: nobody notices, not even who sends what cannot be sent twice.
pub(crate) async fn idle_close(client: Builder, scheme: &str, server: SocketAddr) {
    let client = client.build().unwrap();
    let mut relay = Relay::to(server).await;
    let url = format!("{scheme}://{}/echo", relay.addr);
    for round in 1..=3 {
        let answer = call(&client, post(&url, "pay")).await.unwrap();
        assert_eq!((answer.text(), answer.connection()), ("pay", round));
        assert!(answer.report.attempts.is_empty(), "{:#?}", answer.report.attempts);
        relay.server_closed().await;
    }
    assert_eq!(relay.accepted(), 3);
}

/// A server whose application does not answer.
pub(crate) async fn slow(client: Builder, base: String) {
    let client = client.limit(Limit::stage(Stage::Wait, ms(300))).build().unwrap();
    let error = client.get(&root(), &format!("{base}/slow")).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!((error.stage(), error.cause()), (Stage::Wait, Cause::ServerSlow), "{:#?}", error.report().verdicts);
    assert_eq!(error.limit().unwrap().name.as_str(), "wait");
    assert!(error.limit().unwrap().origin.to_string().contains("suite.rs:"));
    let confidence = error.report().verdicts[0].confidence;
    assert!(matches!(confidence, Confidence::Medium | Confidence::High), "{confidence:?}");
    // The next call is none the worse for it.
    assert_eq!(get(&client, &format!("{base}/hello")).await.text(), "hello");
}

/// What a proxy says when its upstream fails is an answer like any other.
pub(crate) async fn is_an_answer(client: &Client, url: &str, status: u16) {
    let answer = get(client, url).await;
    assert_eq!(answer.status.as_u16(), status);
    assert_eq!((answer.report.cause, answer.report.stage), (None, None));
}

/// A server that answers 413 while the upload is still running.
pub(crate) async fn early_answer(client: &Client, url: &str) {
    let answer = call(client, post(url, vec![7; 32 << 20])).await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let answer = call(client, post_endless(url)).await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!answer.report.timeline.iter().any(|span| span.stage == "wait"), "{:?}", answer.report.timeline);
}

/// A server that ends the connection when no client certificate is shown.
pub(crate) async fn client_certificate(identity: &Identity, server: SocketAddr) {
    let url = format!("https://{server}/hello");
    for http1 in [false, true] {
        let of = |builder: Builder| if http1 { builder.http1_only() } else { builder };
        let without = of(tls_client(identity)).build().unwrap();
        let error = without.get(&root(), &url).await.unwrap_err();
        assert_eq!(error.cause(), Cause::TlsRejected, "{error:#?}");
        let shown = trusting(identity)
            .with_client_certificate(identity.client_pem.as_bytes(), identity.client_key_pem.as_bytes())
            .unwrap();
        assert_eq!(get(&of(client().tls(shown)).build().unwrap(), &url).await.text(), "hello");
    }
}
