//! HTTP/2 against peers that answer early, reset, leave, or flood.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context as TaskContext, Wake, Waker},
};

use bytes::Bytes;
use futures_util::stream;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use overdue::{Cause, Limit, LimitName, PoolOptions, Stage};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};

use crate::{
    comes_true, finish,
    http2_server::{Server, answer, drain, h2c, head, settings},
    ms, post, root, runtime,
};

/// A listener for a server that makes its frames by hand.
async fn by_hand() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// A short frame.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Reads up to the end of the next request head.
async fn request_head(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        stream.read_exact(&mut vec![0; length as usize]).await?;
        if kind == HEADERS {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn an_early_answer_is_whole_although_a_reset_came_behind_it() {
    let server = Server::start(settings(), |_, mut request, mut respond| async move {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        // With the unread request dropped, h2 resets the stream with NO_ERROR behind the answer.
        match request.uri().path() {
            "/head" => respond.send_response(response, true).map(|_| ()),
            "/body" => respond.send_response(response, false)?.send_data(Bytes::from(vec![1; 40_000]), true),
            "/trailers" => {
                let mut stream = respond.send_response(response, false)?;
                stream.send_data(Bytes::from(vec![1; 40_000]), false)?;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "7".parse().unwrap());
                stream.send_trailers(trailers)
            }
            _ => {
                drain(&mut request).await?;
                answer(respond, "ok")
            }
        }
    })
    .await;
    let client = h2c().build().unwrap();
    for (path, length, sum) in [("head", 0, None), ("body", 40_000, None), ("trailers", 40_000, Some("7"))] {
        for _ in 0..5 {
            let request = post(format!("{}{path}", server.url), vec![7; 3_000_000]);
            let response = client.call(&root(), request).await.unwrap();
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
            // What comes behind the answer is here when the answer to a later call is.
            finish(client.get(&root(), &server.url).await.unwrap()).await;
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().map(|trailers| trailers["x-sum"].to_str().unwrap()), sum, "{path}");
            assert_eq!(body.to_bytes().len(), length, "{path}");
        }
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn an_upload_whose_answer_nobody_reads_holds_up_no_other() {
    let server = Server::start(settings(), |_, mut request, mut respond| async move {
        if request.uri().path() == "/early" {
            let mut stream = head(&mut respond, false)?;
            drain(&mut request).await?;
            return stream.send_data(Bytes::from_static(b"ok"), true);
        }
        drain(&mut request).await?;
        answer(respond, "ok")
    })
    .await;
    let client = h2c().limit(Limit::stage(Stage::Send, ms(2_000))).build().unwrap();
    let early = post(format!("{}early", server.url), vec![7; 20_000_000]);
    let unread = client.call(&root(), early).await.unwrap();
    let (body, report) =
        finish(client.call(&root(), post(server.url.clone(), vec![7; 1_000_000])).await.unwrap()).await;
    assert_eq!((body.as_str(), report.connection.unwrap().reused), ("ok", true));
    assert_eq!(finish(unread).await.0, "ok");
}

#[tokio::test]
async fn a_request_body_that_fails_behind_an_early_answer_is_named() {
    let server = Server::start(settings(), |_, request, mut respond| async move {
        let _open = (head(&mut respond, false)?, request);
        std::future::pending().await
    })
    .await;
    let (sender, mut receiver) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(1);
    let body = StreamBody::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
    let client = h2c().build().unwrap();
    let response = client.call(&root(), Request::post(&server.url).body(body).unwrap()).await.unwrap();
    sender.send(Err(io::Error::other("the disk is gone"))).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_reset_stream_of_a_living_connection_is_not_repeated() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let server = Server::start(settings(), move |number, _, mut respond| {
        counted.fetch_add(1, SeqCst);
        async move {
            if number == 1 {
                return answer(respond, "ok");
            }
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
    })
    .await;
    let client = h2c().build().unwrap();
    finish(client.get(&root(), &server.url).await.unwrap()).await;
    // Idempotent, on a kept connection, and still: the peer said no to this request, and may be half done with it.
    let request = Request::delete(&server.url).body(Empty::<Bytes>::new()).unwrap();
    let error = client.call(&root(), request).await.unwrap_err();
    assert_eq!(error.cause(), Cause::PeerReset, "{error}");
    assert_eq!((requests.load(SeqCst), error.report().attempts.len(), server.accepted()), (2, 0, 1));
}

#[tokio::test]
async fn a_call_under_way_survives_a_goaway_and_the_next_one_dials() {
    let (listener, url) = by_hand().await;
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let (arrived, mut has_arrived) = mpsc::channel(1);
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let first = counted.fetch_add(1, SeqCst) == 0;
            let (permits, arrived) = (Arc::clone(&permits), arrived.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut requests = 0;
                while let Some(Ok((_, respond))) = connection.accept().await {
                    requests += 1;
                    if first && requests == 2 {
                        arrived.try_send(()).unwrap();
                        connection.graceful_shutdown();
                        let permits = Arc::clone(&permits);
                        tokio::spawn(async move {
                            permits.acquire().await.unwrap().forget();
                            answer(respond, "late").unwrap();
                        });
                    } else {
                        answer(respond, "ok").unwrap();
                    }
                }
            });
        }
    });
    let client = h2c().build().unwrap();
    finish(client.get(&root(), &url).await.unwrap()).await;
    let under_way = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move { finish(client.get(&root(), &url).await.unwrap()).await }
    });
    has_arrived.recv().await.unwrap();
    // Calls go to the first connection until the GOAWAY is here.
    while finish(client.get(&root(), &url).await.unwrap()).await.1.connection.unwrap().id == 1 {}
    gate.add_permits(1);
    let (body, late) = under_way.await.unwrap();
    assert_eq!((body.as_str(), late.attempts.len(), late.connection.unwrap().id), ("late", 0, 1));
    assert!(comes_true(|| client.connections() == 1).await, "the first is closed when its last call has ended");
    assert_eq!(accepted.load(SeqCst), 2);
}

#[test]
fn a_connection_whose_runtime_has_ended_is_replaced() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = servers.block_on(Server::start(settings(), |_, _, respond| async move { answer(respond, "ok") }));
    let one_connection = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
    let client = h2c().pool(one_connection).limit(Limit::stage(Stage::Queue, ms(2_000))).build().unwrap();
    for _ in 0..2 {
        // The task that drives the connection ends with the runtime.
        let (body, report) =
            runtime().block_on(async { finish(client.get(&root(), &server.url).await.unwrap()).await });
        assert_eq!((body.as_str(), report.connection.unwrap().reused), ("ok", false));
    }
}

/// Begins an answer, and goes on with frames in which there is nothing.
async fn say_nothing_for_ever(listener: TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    request_head(&mut stream).await?;
    // `:status: 200`, from the static table. The frame ends the header block but not the stream.
    stream.write_all(&frame(HEADERS, 4, 1, &[0x88])).await?;
    loop {
        stream.write_all(&frame(DATA, 0, 1, &[])).await?;
        tokio::time::sleep(ms(10)).await;
    }
}

#[tokio::test]
async fn empty_frames_are_no_progress() {
    // h2 keeps them to itself. If it passed them on, each would start the gap anew.
    let (listener, url) = by_hand().await;
    tokio::spawn(say_nothing_for_ever(listener));
    let client = h2c().limit(Limit::new(LimitName::Gap, ms(100))).limit(Limit::total(ms(2_000))).build().unwrap();
    let error = client.get(&root(), &url).await.unwrap().into_body().collect().await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::BodyStalled), "{error}");
    assert_eq!(error.limit().unwrap().name.as_str(), "gap");
}

/// Answers the first request with "103 Early Hints", again and again.
async fn hint_for_ever(listener: TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    request_head(&mut stream).await?;
    // The field `:status`, by the index of its name. The frame ends the header block but not the stream.
    let early_hints = frame(HEADERS, 4, 1, &[8, 3, b'1', b'0', b'3']).repeat(1_000);
    loop {
        stream.write_all(&early_hints).await?;
    }
}

#[tokio::test]
async fn endless_informational_answers_are_cut_off() {
    let (listener, url) = by_hand().await;
    tokio::spawn(hint_for_ever(listener));
    let client = h2c().limit(Limit::stage(Stage::Wait, ms(3_000))).build().unwrap();
    let error = client.get(&root(), &url).await.unwrap_err();
    assert_eq!(error.cause(), Cause::ProtocolError, "{error}");
    assert!(error.to_string().contains("informational"), "{error}");
}

#[tokio::test]
async fn a_call_that_waits_for_others_frames_holds_one_waker_however_often_it_is_polled() {
    struct Idle;

    impl Wake for Idle {
        fn wake(self: Arc<Self>) {}
    }

    // A peer that allows everything and reads nothing: frames wait in this process.
    let (listener, url) = by_hand().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let initial_window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
        stream.write_all(&frame(SETTINGS, 0, 0, &initial_window)).await.unwrap();
        stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])).await.unwrap();
        std::future::pending::<()>().await;
    });
    let client = h2c().limit(Limit::stage(Stage::Send, ms(1_000))).build().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let pieces = stream::repeat_with(move || {
        counted.fetch_add(1, SeqCst);
        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(&[0; 65_536])))
    });
    let upload = Request::post(&url).body(StreamBody::new(pieces)).unwrap();
    let filler = tokio::spawn({
        let client = client.clone();
        async move { client.call(&root(), upload).await.map(|_| ()) }
    });
    // Until no more of it fits anywhere.
    let mut before = 0;
    while taken.load(SeqCst) == 0 || taken.load(SeqCst) > before {
        before = taken.load(SeqCst);
        tokio::time::sleep(ms(20)).await;
    }

    let context = root();
    let mut call = Box::pin(client.get(&context, &url));
    let idle = Arc::new(Idle);
    let waker = Waker::from(Arc::clone(&idle));
    let mut held = Vec::new();
    for _ in 0..500 {
        assert!(call.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_pending());
        held.push(Arc::strong_count(&idle));
        tokio::task::yield_now().await;
    }
    assert!(held[499] <= held[1], "{held:?}");
    // It did wait for the frames, rather than for an answer to its own.
    let error = call.await.unwrap_err();
    assert_eq!(error.stage(), Stage::Send, "{error}");
    assert_eq!(filler.await.unwrap().unwrap_err().stage(), Stage::Send);
    assert_eq!(Arc::strong_count(&idle), 2, "a call that has ended holds none");
}
