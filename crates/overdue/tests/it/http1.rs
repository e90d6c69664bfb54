use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use overdue::{Cause, Client, Stage};
use tokio::sync::{Barrier, oneshot};

use crate::{
    Announced, client, finish, log_of, ms, post, root,
    server::{OK, Peer, Server},
    stages,
};

#[tokio::test]
async fn the_parts_of_a_timeline_add_up() {
    let server = Server::answering(OK).await;
    let response = client().get(&root(), &server.url("/")).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_11));
    let (body, report) = finish(response).await;
    assert_eq!(body, "ok");
    assert_eq!(report.outcome, "ok");
    assert_eq!(stages(&report), ["queue", "resolve", "connect", "send", "wait", "receive"]);
    let known: u64 = report.timeline.iter().map(|span| span.duration_us).sum();
    assert_eq!(known + report.unaccounted_us, report.elapsed_us);
    for pair in report.timeline.windows(2) {
        assert!(pair[0].start_us + pair[0].duration_us <= pair[1].start_us + 1, "{pair:?}");
    }
    let connection = report.connection.unwrap();
    assert_eq!((connection.id, connection.reused, connection.protocol), (1, false, Some("http/1.1")));
    assert_eq!(connection.peer.unwrap(), server.addr.to_string());
    assert!(connection.cookie.is_some());
}

#[tokio::test]
async fn a_connection_is_kept_and_its_idle_time_reported() {
    let server = Server::answering(OK).await;
    let client = client();
    for call in 1..=3 {
        let (_, report) = finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
        assert_eq!(stages(&report).len(), if call == 1 { 6 } else { 4 }, "{:?}", stages(&report));
        let connection = report.connection.unwrap();
        assert_eq!((connection.id, connection.reused), (1, call > 1));
        assert_eq!(connection.idle_us > 0, call > 1);
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_connection_with_unread_bytes_is_never_handed_out() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send(OK).await?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged").await?;
        peer.closed().await
    })
    .await;
    let client = client();
    for _ in 0..3 {
        let (body, report) = finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
        assert_eq!(body, "ok");
        assert!(!report.connection.unwrap().reused);
    }
    assert_eq!(server.accepted(), 3);
}

/// A server on a thread of its own, which goes on while the test blocks its runtime. Between its first answer and the
/// next request it does something nobody asked for.
struct Meddler {
    url: String,
    go: Sender<()>,
    done: Receiver<()>,
}

impl Meddler {
    /// What `meddle` returns stays open.
    fn start(meddle: fn(TcpStream) -> Option<TcpStream>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (go, told) = channel();
        let (tell, done) = channel();
        std::thread::spawn(move || {
            let answer = || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(OK.as_bytes()).unwrap();
                stream
            };
            let first = answer();
            told.recv().unwrap();
            let _first = meddle(first);
            tell.send(()).unwrap();
            let _second = answer();
            // Until the test is over.
            told.recv().unwrap_err();
        });
        Self { url, go, done }
    }

    /// Lets it meddle while the runtime of the test can see nothing of that.
    fn meddle(&self) {
        self.go.send(()).unwrap();
        self.done.recv().unwrap();
    }
}

/// The pool looks at what lies idle. After that the runtime, too, takes the sockets for empty.
async fn the_pool_looks() {
    let others_run = async || {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    others_run().await;
    tokio::time::pause();
    tokio::time::advance(ms(6_000)).await;
    others_run().await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_came_unasked_while_the_runtime_was_blocked_is_no_answer() {
    for looked_at in [false, true] {
        let server = Meddler::start(|mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged").unwrap();
            Some(stream)
        });
        let client = client();
        finish(client.get(&root(), &server.url).await.unwrap()).await;
        if looked_at {
            the_pool_looks().await;
        }
        server.meddle();
        let (body, report) = finish(client.get(&root(), &server.url).await.unwrap()).await;
        assert_eq!((body.as_str(), report.connection.unwrap().reused), ("ok", false));
    }
}

#[tokio::test]
async fn a_connection_that_closed_while_the_runtime_was_blocked_is_not_used() {
    for looked_at in [false, true] {
        let server = Meddler::start(|_| None);
        let client = client();
        finish(client.get(&root(), &server.url).await.unwrap()).await;
        if looked_at {
            the_pool_looks().await;
        }
        server.meddle();
        let (_, report) = finish(client.call(&root(), post(server.url.clone(), "pay")).await.unwrap()).await;
        assert!(report.attempts.is_empty());
        assert!(!report.connection.unwrap().reused);
    }
}

/// Answers the first request of its first connection, and closes that connection when a second one comes.
async fn closes_on_reuse() -> Server {
    Server::start(|mut peer, number| async move {
        peer.head().await?;
        peer.send(OK).await?;
        if number == 1 {
            peer.head().await?;
            return Ok(());
        }
        peer.closed().await
    })
    .await
}

#[tokio::test]
async fn a_dead_kept_connection_is_replaced_once() {
    let server = closes_on_reuse().await;
    let client = client();
    finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    let (body, report) = finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    assert_eq!(body, "ok");
    assert_eq!(report.attempts.len(), 1);
    assert_eq!(report.attempts[0].cause, Some(Cause::ClosedEarly));
    assert!(report.attempts[0].connection.as_ref().unwrap().reused);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_dead_kept_connection_is_not_replaced_by_another_of_its_kind() {
    // Two kept connections, which both close when they are used again: a server that was restarted.
    let both = Arc::new(Barrier::new(2));
    let server = Server::start(move |mut peer, number| {
        let both = Arc::clone(&both);
        async move {
            peer.head().await?;
            if number > 2 {
                peer.send(OK).await?;
                return peer.closed().await;
            }
            both.wait().await;
            peer.send(OK).await?;
            peer.head().await?;
            Ok(())
        }
    })
    .await;
    let client = client();
    let one = async || finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    tokio::join!(one(), one());
    let (body, report) = one().await;
    assert_eq!((body.as_str(), report.attempts.len(), server.accepted()), ("ok", 1, 3));
}

#[tokio::test]
async fn a_post_whose_answer_breaks_off_is_not_retryable() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.read_exact(3).await?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab").await
    })
    .await;
    let response = client().call(&root(), post(server.url("/"), "pay")).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::ClosedEarly), "{error}");
    assert!(!error.is_retryable(), "it was paid");
}

#[tokio::test]
async fn a_post_is_not_sent_twice() {
    let server = closes_on_reuse().await;
    let client = client();
    finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    let error = client.call(&root(), post(server.url("/"), "pay")).await.unwrap_err();
    assert!(!error.is_retryable());
    assert!(error.report().attempts.is_empty());
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_closed_while_idle_is_not_used() {
    let (closed, has_closed) = oneshot::channel::<()>();
    let closed = std::sync::Mutex::new(Some(closed));
    let server = Server::start(move |mut peer, number| {
        let closed = closed.lock().unwrap().take();
        async move {
            peer.head().await?;
            peer.send(OK).await?;
            if number == 1 {
                drop(peer);
                drop(closed);
                return Ok(());
            }
            peer.closed().await
        }
    })
    .await;
    let client = client();
    finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    has_closed.await.unwrap_err();
    // The FIN is in our socket by now: the close was made on this very machine before the channel ended.
    let (_, report) = finish(client.call(&root(), post(server.url("/"), "pay")).await.unwrap()).await;
    assert!(report.attempts.is_empty());
    assert!(!report.connection.unwrap().reused);
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big").await?;
        peer.closed().await
    })
    .await;
    let response = client().call(&root(), post(server.url("/"), vec![0; 32 << 20])).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let (body, report) = finish(response).await;
    assert_eq!(body, "too big");
    assert!(!stages(&report).contains(&"wait"), "{:?}", stages(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_counts_although_the_connection_is_reset_behind_it() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        // Closed with the upload unread: our writes fail, perhaps before the answer is read.
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await
    })
    .await;
    let client = client();
    for _ in 0..50 {
        let response = client.call(&root(), post(server.url("/"), vec![0; 3_000_000])).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[tokio::test]
async fn a_request_body_ends_with_its_announced_length() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.read_exact(3).await?;
        peer.send(OK).await
    })
    .await;
    // It never says that it is at its end.
    let frame = Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"abc")));
    let body = Announced(StreamBody::new(stream::iter([frame]).chain(stream::pending())), 3);
    let response = client().call(&root(), Request::post(server.url("/")).body(body).unwrap()).await.unwrap();
    let (body, report) = finish(response).await;
    assert_eq!(body, "ok");
    // An answer to a request that is still being sent has no stage `wait` before it.
    assert!(stages(&report).contains(&"wait"), "{:?}", stages(&report));
}

#[tokio::test]
async fn a_streamed_upload_is_chunked_and_carries_trailers() {
    let (got, received) = oneshot::channel();
    let got = std::sync::Mutex::new(Some(got));
    let server = Server::start(move |mut peer, _| {
        let got = got.lock().unwrap().take();
        async move {
            peer.head().await?;
            let body = peer.read_exact(b"5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n".len()).await?;
            got.unwrap().send(body).unwrap();
            peer.send(OK).await
        }
    })
    .await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let frames = [Ok(Frame::data(Bytes::from_static(b"hello"))), Ok::<_, std::io::Error>(Frame::trailers(trailers))];
    let body = StreamBody::new(stream::iter(frames));
    finish(client().call(&root(), Request::post(server.url("/")).body(body).unwrap()).await.unwrap()).await;
    assert_eq!(received.await.unwrap(), b"5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n");
}

#[tokio::test]
async fn a_failing_request_body_is_the_callers_own_fault() {
    let server = Server::start(|mut peer, _| async move { peer.closed().await }).await;
    let frames = [Ok(Frame::data(Bytes::from_static(b"he"))), Err(std::io::Error::other("the disk is gone"))];
    let body = StreamBody::new(stream::iter(frames));
    let error = client().call(&root(), Request::post(server.url("/")).body(body).unwrap()).await.unwrap_err();
    assert_eq!(error.stage(), Stage::Send);
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the disk is gone");
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection() {
    let server = Server::start(|mut peer, _| async move {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ] {
            peer.head().await?;
            peer.send(answer).await?;
        }
        peer.closed().await
    })
    .await;
    let client = client();
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 200)] {
        let request = Request::builder().method(method).uri(server.url("/")).body(Empty::<Bytes>::new()).unwrap();
        let response = client.call(&root(), request).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(finish(response).await.0, "");
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\n\r\nall of it").await
    })
    .await;
    let (body, report) = finish(client().get(&root(), &server.url("/")).await.unwrap()).await;
    assert_eq!((body.as_str(), report.outcome), ("all of it", "ok"));
}

#[tokio::test]
async fn a_dropped_body_closes_its_connection() {
    let (gone, is_gone) = oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    let server = Server::start(move |mut peer, _| {
        let gone = gone.lock().unwrap().take();
        async move {
            peer.head().await?;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await?;
            peer.closed().await?;
            gone.unwrap().send(()).unwrap();
            Ok(())
        }
    })
    .await;
    let client = client();
    let response = client.get(&root(), &server.url("/")).await.unwrap();
    let log = log_of(&response);
    drop(response);
    is_gone.await.unwrap();
    assert_eq!(log.report().outcome, "cancelled");
}

#[tokio::test]
async fn a_unix_socket_is_a_host_like_any_other() {
    let dir = std::env::temp_dir().join(format!("overdue-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("http.sock");
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = [0; 1024];
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut buf).await.unwrap();
        assert!(buf[..read].starts_with(b"GET /info HTTP/1.1\r\nhost: docker\r\n"));
        tokio::io::AsyncWriteExt::write_all(&mut stream, OK.as_bytes()).await.unwrap();
    });
    let client = Client::builder().unix_socket(&path).build().unwrap();
    let (body, report) = finish(client.get(&root(), "http://docker/info").await.unwrap()).await;
    assert_eq!(body, "ok");
    assert_eq!(report.connection.unwrap().peer.unwrap(), path.display().to_string());

    let missing = Client::builder().unix_socket(dir.join("none")).build().unwrap();
    let error = missing.get(&root(), "http://docker/info").await.unwrap_err();
    assert_eq!(error.stage(), Stage::Connect);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn the_head_is_what_the_caller_meant() {
    let (got, received) = oneshot::channel();
    let got = std::sync::Mutex::new(Some(got));
    let server = Server::start(move |mut peer: Peer, _| {
        let got = got.lock().unwrap().take();
        async move {
            got.unwrap().send(peer.head().await?).unwrap();
            peer.send(OK).await
        }
    })
    .await;
    let request = Request::get(server.url("/path?q=1"))
        .header("X-Custom", "yes")
        .header("Content-Length", "999")
        .body(Empty::<Bytes>::new())
        .unwrap();
    finish(client().call(&root(), request).await.unwrap()).await;
    let expected = format!("GET /path?q=1 HTTP/1.1\r\nhost: {}\r\nx-custom: yes\r\n\r\n", server.addr);
    assert_eq!(received.await.unwrap(), expected);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_a_head() {
    let answer = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\nX-Long: \
                  a value with several words\r\nContent-Length: 2\r\n\r\nok";
    let server = Server::start(move |mut peer, _| async move {
        for _ in 0..2 {
            peer.head().await?;
            for at in 0..answer.len() {
                peer.send(&answer[at..=at]).await?;
                tokio::task::yield_now().await;
            }
        }
        peer.closed().await
    })
    .await;
    let client = client();
    for _ in 0..2 {
        let response = client.get(&root(), &server.url("/")).await.unwrap();
        assert_eq!(response.headers()["x-long"], "a value with several words");
        assert_eq!(finish(response).await.0, "ok");
    }
    assert_eq!(server.accepted(), 1);
}
