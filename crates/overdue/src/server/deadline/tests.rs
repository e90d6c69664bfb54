use std::{
    convert::Infallible,
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::server::propagate::Style;

type Reply = Result<Response<Full<Bytes>>, Infallible>;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn layer(cap: Duration) -> DeadlineLayer {
    DeadlineLayer::new(Limit::total(cap)).trusted("10.0.0.0/8".parse().unwrap())
}

/// Of a peer at this address.
fn request(peer: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::new(());
    request.extensions_mut().insert(Peer(format!("{peer}:4567").parse().unwrap()));
    for (name, value) in headers {
        request.headers_mut().append(*name, http::HeaderValue::from_static(value));
    }
    request
}

fn done() -> Reply {
    Ok(Response::new(Full::new(Bytes::from_static(b"done"))))
}

/// The limit that the handler sees.
async fn limit_of(layer: DeadlineLayer, request: Request<()>) -> (Limit, Option<Limit>) {
    let seen = Mutex::new(None);
    let service = layer.layer(service_fn(|request: Request<()>| {
        let context: Context = request.extensions().get().cloned().unwrap();
        let deadline = context.deadline().unwrap().clone();
        *seen.lock().unwrap() = Some((deadline.limit().clone(), deadline.clipped_by().cloned()));
        async move {
            assert_eq!(Context::current().unwrap().deadline(), Some(&deadline));
            done()
        }
    }));
    service.oneshot(request).await.unwrap();
    seen.into_inner().unwrap().unwrap()
}

async fn body_of<B: Body<Data = Bytes, Error: fmt::Debug>>(response: Response<B>) -> (StatusCode, HeaderMap, String) {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
}

/// A handler that never ends.
async fn never(_: Request<()>) -> Reply {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_cap_and_headers_holds_under_its_own_name() {
    let both = [("grpc-timeout", "3S"), ("x-envoy-expected-rq-timeout-ms", "2000")];
    let (limit, _) = limit_of(layer(ms(10_000)), request("10.1.2.3", &both)).await;
    assert_eq!(limit.to_string(), "total 2s (header x-envoy-expected-rq-timeout-ms)");
    let (limit, clipped_by) = limit_of(layer(ms(1_000)), request("10.1.2.3", &both)).await;
    assert_eq!((limit.value, clipped_by), (ms(1_000), Some(limit.clone())));
    // Not believed, or not asked for.
    for peer in ["192.0.2.1", "127.0.0.1"] {
        let (limit, clipped_by) = limit_of(layer(ms(10_000)), request(peer, &both)).await;
        assert_eq!((limit.value, clipped_by), (ms(10_000), None));
    }
    let mut nobody = request("10.1.2.3", &both);
    nobody.extensions_mut().remove::<Peer>();
    assert_eq!(limit_of(layer(ms(10_000)), nobody).await.0.value, ms(10_000));
    let own = layer(ms(10_000)).headers(TimeoutHeaders::of([("x-budget", Style::Text)]));
    let asked = request("10.1.2.3", &[("x-budget", "1.5s"), ("grpc-timeout", "1m")]);
    assert_eq!(limit_of(own, asked).await.0.value, ms(1_500));
    let found = layer(ms(10_000)).peer_from(|_| Some("10.9.9.9".parse().unwrap()));
    assert_eq!(limit_of(found, request("192.0.2.1", &both)).await.0.value, ms(2_000));
    // A context that comes with the request is the parent.
    let mut inside = request("10.1.2.3", &both);
    inside.extensions_mut().insert(Context::root().child(Limit::total(ms(700))));
    assert_eq!(limit_of(layer(ms(10_000)), inside).await.0.value, ms(700));
}

#[tokio::test(start_paused = true)]
async fn when_it_fires_the_caller_is_told_and_trusted_ones_are_told_why() {
    for (peer, details) in [("10.1.2.3", true), ("192.0.2.1", false)] {
        let began = clock::now();
        let response = layer(ms(200)).layer(service_fn(never)).oneshot(request(peer, &[])).await.unwrap();
        assert_eq!(clock::now() - began, ms(200));
        let (status, headers, text) = body_of(response).await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["content-length"], text.len().to_string());
        assert_eq!(headers["server-timing"], "handle;dur=200.000");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&problem["title"], &problem["status"]), (&"deadline exceeded".into(), &504.into()));
        assert_eq!(problem.get("report").is_some(), details);
        assert_eq!(problem.get("detail").is_some(), details);
        if details {
            assert_eq!(problem["report"]["stage"], "handle");
            assert_eq!(problem["report"]["limit"]["value_us"], 200_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_is_told_in_its_own_words() {
    let headers = [("content-type", "application/grpc+proto"), ("grpc-timeout", "50m")];
    let response = layer(ms(1_000)).layer(service_fn(never)).oneshot(request("10.1.2.3", &headers)).await.unwrap();
    assert!(response.body().is_end_stream());
    let (status, headers, text) = body_of(response).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
    assert_eq!(
        (&headers["grpc-status"], &headers["content-type"]),
        (&"4".parse().unwrap(), &"application/grpc+proto".parse().unwrap())
    );
    let message = headers["grpc-message"].to_str().unwrap();
    assert!(message.contains("limit total 50ms (header grpc-timeout)"), "{message}");
    let untrusted = request("192.0.2.1", &[("content-type", "application/grpc")]);
    let response = layer(ms(50)).layer(service_fn(never)).oneshot(untrusted).await.unwrap();
    assert_eq!(response.headers()["grpc-message"], "deadline exceeded");
    // gRPC-Web has its trailers in the body, of which we know nothing.
    let web = request("192.0.2.1", &[("content-type", "application/grpc-web")]);
    let response = layer(ms(50)).layer(service_fn(never)).oneshot(web).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_begin_is_never_handled() {
    let handled = AtomicBool::new(false);
    let handler = || {
        layer(ms(1_000)).layer(service_fn(|_: Request<()>| {
            handled.store(true, SeqCst);
            async { done() }
        }))
    };
    let cancelled = Context::root();
    cancelled.cancel("draining");
    let mut of_cancelled = request("10.1.2.3", &[]);
    of_cancelled.extensions_mut().insert(cancelled);
    for (request, status, grpc) in [
        (request("10.1.2.3", &[("grpc-timeout", "0m")]), 504, None),
        (request("10.1.2.3", &[("grpc-timeout", "5x")]), 400, None),
        (request("10.1.2.3", &[("grpc-timeout", "5x"), ("content-type", "application/grpc")]), 200, Some("13")),
        (of_cancelled, 503, None),
    ] {
        let response = handler().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().get("grpc-status").map(|code| code.to_str().unwrap()), grpc);
        assert!(!handled.load(SeqCst));
    }
    let bad = handler().oneshot(request("10.1.2.3", &[("grpc-timeout", "5x")])).await.unwrap();
    let problem: Value = serde_json::from_str(&body_of(bad).await.2).unwrap();
    assert_eq!(problem["detail"], "header grpc-timeout says \"5x\": there is no unit 'x': one of H M S m u n");
    // From somebody who is not believed the same header means nothing.
    let response = handler().oneshot(request("192.0.2.1", &[("grpc-timeout", "5x")])).await.unwrap();
    assert!(response.status() == 200 && handled.load(SeqCst));
}

/// A handler that says what became of it, and the context that it had.
struct Told {
    context: Mutex<Option<Context>>,
    ended: tokio::sync::Notify,
    dropped: AtomicBool,
}

impl Told {
    fn new() -> Arc<Self> {
        Arc::new(Self { context: Mutex::default(), ended: tokio::sync::Notify::new(), dropped: AtomicBool::new(false) })
    }

    async fn handle(self: Arc<Self>, work: Duration) -> Reply {
        struct OnDrop(Arc<Told>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.dropped.store(true, SeqCst);
            }
        }
        let _dropped = OnDrop(Arc::clone(&self));
        *self.context.lock().unwrap() = Context::current();
        tokio::time::sleep(work).await;
        self.ended.notify_one();
        done()
    }

    fn cause(&self) -> Option<String> {
        self.context.lock().unwrap().as_ref().unwrap().cancel_cause().map(|cause| cause.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_cancels_the_work() {
    let told = Told::new();
    let service = layer(ms(1_000)).layer(service_fn(|_| Arc::clone(&told).handle(ms(500))));
    let mut answer = Box::pin(service.oneshot(request("10.1.2.3", &[])));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!((told.dropped.load(SeqCst), told.cause()), (false, None));
    drop(answer);
    assert_eq!((told.dropped.load(SeqCst), told.cause().as_deref()), (true, Some("the client went away")));
}

#[tokio::test(start_paused = true)]
async fn a_detached_handler_goes_on_until_its_own_end_or_its_deadline() {
    for (work, ends) in [(ms(500), true), (ms(5_000), false)] {
        let told = Told::new();
        let handler = Arc::clone(&told);
        let service = layer(ms(1_000)).detached().layer(service_fn(move |_| Arc::clone(&handler).handle(work)));
        let mut answer = Box::pin(service.oneshot(request("10.1.2.3", &[])));
        assert!(answer.as_mut().now_or_never().is_none());
        tokio::time::sleep(ms(10)).await;
        drop(answer);
        let ended = tokio::time::timeout(ms(2_000), told.ended.notified()).await;
        assert_eq!((ended.is_ok(), told.cause()), (ends, None));
        assert!(told.dropped.load(SeqCst));
    }
    // Who stays gets the answer, or is told at the deadline.
    for (work, status) in [(ms(500), 200), (ms(5_000), 504)] {
        let told = Told::new();
        let service = layer(ms(1_000)).detached().layer(service_fn(move |_| Arc::clone(&told).handle(work)));
        let response = service.oneshot(request("10.1.2.3", &[])).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_to_its_end_cancels_nothing() {
    for read in [true, false] {
        let told = Told::new();
        let service = layer(ms(1_000)).layer(service_fn(|_| Arc::clone(&told).handle(ms(1))));
        let response = service.oneshot(request("10.1.2.3", &[])).await.unwrap();
        if read {
            assert_eq!(body_of(response).await.2, "done");
            assert_eq!(told.cause(), None);
        } else {
            drop(response);
            assert_eq!(told.cause().as_deref(), Some("the client went away"));
        }
    }
}

/// One piece, and then silence.
struct Stalls(Option<Bytes>);

impl Body for Stalls {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        assert!(Context::current().is_some(), "a body has the context of its request");
        self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_cut_and_never_ends_well() {
    for grpc in [false, true] {
        let service = ServiceBuilder::new().layer(layer(ms(300))).service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Stalls(Some(Bytes::from_static(b"piece")))))
        });
        let headers: &[_] = if grpc { &[("content-type", "application/grpc")] } else { &[] };
        let mut body = service.oneshot(request("10.1.2.3", headers)).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "piece");
        let began = clock::now();
        let last = body.frame().await.unwrap();
        assert_eq!(clock::now() - began, ms(300));
        if grpc {
            assert_eq!(last.unwrap().into_trailers().unwrap()["grpc-status"], "4");
        } else {
            let error = last.unwrap_err();
            assert_eq!(Error::find(&*error).unwrap().limit().unwrap().value, ms(300));
        }
        assert!(body.frame().await.is_none());
    }
}

/// What axum asks of a layer, and hyper of a service and its bodies.
#[tokio::test]
async fn a_router_and_a_server_would_take_it() {
    fn taken<S, B>(service: S) -> S
    where
        S: Service<Request<()>, Response = Response<B>, Error: Into<Infallible>, Future: Send + 'static>
            + Clone
            + Send
            + Sync
            + 'static,
        B: Body<Data = Bytes, Error: Into<crate::BoxError>> + Send + 'static,
    {
        service
    }
    let handler = service_fn(|_: Request<()>| std::future::ready(done()));
    taken(layer(ms(100)).layer(handler)).oneshot(request("10.1.2.3", &[])).await.unwrap();
    taken(layer(ms(100)).detached().layer(handler)).oneshot(request("10.1.2.3", &[])).await.unwrap();
}

#[tokio::test]
async fn timing_can_be_left_out_and_errors_of_the_handler_pass() {
    let service = layer(ms(100)).server_timing(false).layer(service_fn(|_: Request<()>| async { done() }));
    let response = service.oneshot(request("10.1.2.3", &[])).await.unwrap();
    assert!(!response.headers().contains_key("server-timing"));
    let service = layer(ms(100))
        .layer(service_fn(|_: Request<()>| async { Err::<Response<Full<Bytes>>, _>(io::Error::other("own")) }));
    let error = service.oneshot(request("10.1.2.3", &[])).await.unwrap_err();
    assert_eq!(error.to_string(), "own");
}
