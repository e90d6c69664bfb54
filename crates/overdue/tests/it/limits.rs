//! Every stage has its limit, and the earliest of all is named.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use overdue::{Cause, Client, Context, Error, Limit, LimitName, Limits, Stage, client::Builder};

use crate::{http2_server, ms, post, root, runtime, server::Server};

async fn silent() -> Server {
    Server::start(|peer, _| peer.silent()).await
}

fn with(limit: Limit) -> Builder {
    Client::builder().limit(limit)
}

async fn fails(client: Client, url: String) -> Error {
    client.get(&root(), &url).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn the_earliest_limit_is_named_whoever_set_it() {
    let server = silent().await;
    for (wait, attempt, total, expected) in
        // Of equal ones the outer is earlier: it began to count first.
        [(50, 300, 300, "wait"), (300, 50, 300, "attempt"), (300, 300, 50, "total"), (50, 50, 50, "total")]
    {
        let client = with(Limit::stage(Stage::Wait, ms(wait)))
            .limit(Limit::new(LimitName::Attempt, ms(attempt)))
            .limit(Limit::total(ms(total)))
            .build()
            .unwrap();
        let error = fails(client, server.url("/")).await;
        assert!(error.is_timeout());
        assert_eq!(error.stage(), Stage::Wait);
        assert_eq!(error.limit().unwrap().name.as_str(), expected, "{error}");
        assert_eq!(error.limit().unwrap().value, ms(50));
        assert!(error.limit().unwrap().origin.to_string().contains("limits.rs:"));
        assert_eq!(error.cause(), Cause::ServerSlow, "{:?}", error.report().verdicts);
    }
}

#[tokio::test]
async fn nested_owners_cut_each_other_and_the_report_says_so() {
    let server = silent().await;
    let client = with(Limit::stage(Stage::Wait, ms(500))).build().unwrap();
    let handler = root().child(Limit::total(ms(400))).child(Limit::total(ms(60)));
    let error = client.get(&handler, &server.url("/")).await.unwrap_err();
    assert_eq!(error.limit().unwrap().value, ms(60));
    let wait = error.report().timeline.iter().find(|span| span.stage == "wait").unwrap();
    assert_eq!((wait.limit_us, wait.clipped_by), (Some(500_000), Some("total")));
    assert_eq!(wait.outcome, "timed-out");
}

#[tokio::test]
async fn a_past_deadline_sends_nothing() {
    let server = silent().await;
    let context = root().child(Limit::total(ms(0)));
    let error = Client::new().unwrap().get(&context, &server.url("/")).await.unwrap_err();
    assert_eq!((error.cause(), error.stage()), (Cause::BudgetSpent, Stage::Queue));
    assert!(error.is_timeout() && !error.is_retryable());
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_past_deadline_asks_nothing_of_the_request_body() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let body = StreamBody::new(stream::poll_fn(move |_| {
        counted.fetch_add(1, SeqCst);
        Poll::<Option<Result<Frame<Bytes>, Infallible>>>::Pending
    }));
    let server = silent().await;
    let context = root().child(Limit::total(ms(0)));
    let request = Request::post(server.url("/")).body(body).unwrap();
    let error = Client::new().unwrap().call(&context, request).await.unwrap_err();
    assert_eq!((error.cause(), polls.load(SeqCst)), (Cause::BudgetSpent, 0));
}

#[test]
fn a_request_body_of_nothing_but_empty_frames_is_held_to_the_limits() {
    async fn timed_out(client: Builder, url: String) -> Error {
        let body = StreamBody::new(stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::new()))));
        let client = client.limit(Limit::total(ms(100))).build().unwrap();
        client.call(&root(), Request::post(url).body(body).unwrap()).await.unwrap_err()
    }
    let (ended, has_ended) = std::sync::mpsc::channel();
    // On a thread of its own: a poll that never returns would be the end of the test too.
    std::thread::spawn(move || {
        runtime().block_on(async {
            let server = silent().await;
            ended.send(timed_out(Client::builder(), server.url("/")).await).unwrap();
            let server = http2_server::Server::start(http2_server::settings(), |_, request, respond| async move {
                let _kept = (request, respond);
                std::future::pending().await
            })
            .await;
            ended.send(timed_out(Client::builder().http2_prior_knowledge(), server.url.clone()).await).unwrap();
        });
    });
    for protocol in ["HTTP/1", "HTTP/2"] {
        let error = has_ended.recv_timeout(ms(5_000));
        let error = error.unwrap_or_else(|_| unreachable!("{protocol}: the limit of 100 ms did not hold for 5 s"));
        assert_eq!(error.limit().unwrap().name.as_str(), "total", "{protocol}: {error}");
    }
}

#[tokio::test]
async fn limits_do_not_leak_between_stages() {
    // 120 ms until the head, 120 ms until the body: each within its own limit, together beyond either.
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        tokio::time::sleep(ms(120)).await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await?;
        tokio::time::sleep(ms(120)).await;
        peer.send("o").await?;
        tokio::time::sleep(ms(120)).await;
        peer.send("k").await
    })
    .await;
    let limits = [Limit::stage(Stage::Wait, ms(200)), Limit::new(LimitName::Gap, ms(200))];
    let client = limits.into_iter().fold(Client::builder(), Builder::limit).build().unwrap();
    let response = client.get(&root(), &server.url("/")).await.unwrap();
    assert_eq!(response.into_body().bytes(10).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_gap_in_the_body_has_its_limit_and_the_whole_body_the_total() {
    let server = Server::start(|mut peer, _| async move {
        let head = peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await?;
        if head.starts_with("GET /stall") {
            peer.send("some").await?;
            return peer.silent().await;
        }
        loop {
            peer.send("x").await?;
            tokio::time::sleep(ms(10)).await;
        }
    })
    .await;
    let client = with(Limit::new(LimitName::Gap, ms(80))).limit(Limit::total(ms(250))).build().unwrap();
    for (path, limit, cause) in [("/stall", "gap", Cause::BodyStalled), ("/trickle", "total", Cause::BodySlow)] {
        let response = client.get(&root(), &server.url(path)).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert_eq!(error.stage(), Stage::Receive);
        assert_eq!(error.limit().unwrap().name.as_str(), limit);
        assert_eq!(error.cause(), cause, "{:?}", error.report().verdicts);
    }
}

#[tokio::test]
async fn a_limit_can_be_left_out_on_purpose_and_set_for_one_call() {
    let server = silent().await;
    let client = Client::builder().limits(Limits::none()).build().unwrap();
    let mut limits = Limits::none();
    limits.set(Limit::stage(Stage::Wait, ms(30))).unwrap();
    let request = Request::get(server.url("/")).extension(limits).body(Empty::<Bytes>::new()).unwrap();
    let error = client.call(&root(), request).await.unwrap_err();
    assert_eq!(error.limit().unwrap().value, ms(30));

    let error = Client::builder().limit(Limit::new(LimitName::Idle, ms(1))).build().unwrap_err();
    assert_eq!(error.to_string(), "a call has no limit named idle");
}

#[tokio::test]
async fn cancelling_ends_a_call_at_every_stage_and_closes_its_connection() {
    let server = Server::start(|mut peer, _| async move {
        let head = peer.head().await?;
        if head.starts_with("GET /body") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await?;
        }
        peer.closed().await
    })
    .await;
    let client = Client::new().unwrap();
    for path in ["/wait", "/body"] {
        let context = Context::root();
        let canceller = context.clone();
        let call = async {
            let response = client.get(&context, &server.url(path)).await?;
            response.into_body().bytes(100).await
        };
        let cancel = async {
            tokio::time::sleep(ms(40)).await;
            canceller.cancel("the user went away");
        };
        let (result, ()) = tokio::join!(call, cancel);
        let error = result.unwrap_err();
        assert!(error.is_cancelled(), "{error}");
        assert_eq!(error.cause(), Cause::CancelledByCaller);
        assert_eq!(error.cancel_cause().unwrap().to_string(), "the user went away");
        assert_eq!(error.stage(), if path == "/wait" { Stage::Wait } else { Stage::Receive });
    }
}

#[tokio::test]
async fn an_upload_that_nobody_reads_is_the_limit_of_send() {
    let server = silent().await;
    let client = with(Limit::stage(Stage::Send, ms(400))).build().unwrap();
    let error = client.call(&root(), post(server.url("/"), vec![0; 64 << 20])).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::PeerNotReading), "{:?}", error.report().verdicts);
    assert!(!error.is_retryable(), "a POST that may have been read");
}

#[tokio::test]
async fn the_error_maps_to_the_io_kind_that_users_expect() {
    use std::io::ErrorKind;
    let server = Server::start(|mut peer, _| async move {
        let head = peer.head().await?;
        if head.starts_with("GET /wait") {
            return peer.silent().await;
        }
        if head.starts_with("GET /garbage") {
            return peer.send("SSH-2.0-OpenSSH\r\n\r\n").await;
        }
        Ok(())
    })
    .await;
    let client = with(Limit::stage(Stage::Wait, ms(50))).build().unwrap();
    for (path, kind) in
        [("/wait", ErrorKind::TimedOut), ("/garbage", ErrorKind::InvalidData), ("/close", ErrorKind::UnexpectedEof)]
    {
        let error = client.get(&root(), &server.url(path)).await.unwrap_err();
        assert_eq!(std::io::Error::from(error).kind(), kind, "{path}");
    }
    // A port that was just free refuses.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client.get(&root(), &format!("http://{free}/")).await.unwrap_err();
    assert_eq!(error.cause(), Cause::ConnectRefused);
    assert!(error.is_retryable());
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn limits_that_fight_each_other_are_reported_and_refused_on_request() {
    let builder = || with(Limit::stage(Stage::Wait, ms(900))).limit(Limit::total(ms(500)));
    let client = builder().build().unwrap();
    let found: Vec<_> = client.conflicts().iter().map(|found| (found.cause, found.stage)).collect();
    assert_eq!(found, [(Cause::LimitShadowed, "wait")]);
    let error = builder().refuse_conflicting_limits().build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "limits fight each other: wait 900ms can never fire: total 500ms always does so first"
    );
    assert!(Client::new().unwrap().conflicts().is_empty());
}
