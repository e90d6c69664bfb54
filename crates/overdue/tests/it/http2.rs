//! HTTP/2 with prior knowledge, against a server made of the h2 crate.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use overdue::{Cause, Client, Limit, Limits, PoolOptions, Stage};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    finish,
    http2_server::{Server, answer, drain, h2c, head, settings},
    log_of, ms, post, root, server,
};

#[tokio::test]
async fn calls_share_one_connection() {
    let server = Server::start(settings(), |_, request, respond| async move {
        assert!(!request.headers().contains_key("connection"));
        answer(respond, "ok")
    })
    .await;
    let client = h2c().build().unwrap();
    let one = || async {
        let request = Request::get(&server.url).header("connection", "keep-alive, x-hop").header("x-hop", "1");
        let response = client.call(&root(), request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        finish(response).await
    };
    let (first, second, third) = tokio::join!(one(), one(), one());
    assert_eq!([&*first.0, &*second.0, &*third.0], ["ok"; 3]);
    let (_, fourth) = one().await;
    let connection = fourth.connection.unwrap();
    assert_eq!((connection.id, connection.reused, connection.protocol), (1, true, Some("h2")));
    let known: u64 = fourth.timeline.iter().map(|span| span.duration_us).sum();
    assert_eq!(known + fourth.unaccounted_us, fourth.elapsed_us);
    // All who came while the first was being dialled waited for it.
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn streams_beyond_the_peers_limit_wait_in_the_queue() {
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let server = Server::start(settings().max_concurrent_streams(1).clone(), move |_, _, respond| {
        let gate = Arc::clone(&permits);
        async move {
            gate.acquire().await.unwrap().forget();
            answer(respond, "ok")
        }
    })
    .await;
    let one_connection = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
    let client = h2c().pool(one_connection).limit(Limit::stage(Stage::Queue, ms(100))).build().unwrap();
    let holder = tokio::spawn({
        let (client, url) = (client.clone(), server.url.clone());
        async move { finish(client.get(&root(), &url).await.unwrap()).await.0 }
    });
    while server.accepted() == 0 {
        tokio::task::yield_now().await;
    }
    let error = client.get(&root(), &server.url).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Queue, Cause::H2StreamsExhausted), "{error}");
    gate.add_permits(2);
    assert_eq!(holder.await.unwrap(), "ok");
    finish(client.get(&root(), &server.url).await.unwrap()).await;
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_big_upload_flows_as_the_windows_allow() {
    let server = Server::start(settings(), |_, mut request, respond| async move {
        let bytes = drain(&mut request).await?;
        assert_eq!(request.headers()["content-length"], "3000000");
        answer(respond, if bytes == 3_000_000 { "all" } else { "some" })
    })
    .await;
    let client = h2c().build().unwrap();
    let response = client.call(&root(), post(server.url.clone(), vec![7; 3_000_000])).await.unwrap();
    assert_eq!(finish(response).await.0, "all");
}

#[tokio::test]
async fn a_closed_window_is_named() {
    let server = Server::start(settings(), |_, request, _respond| async move {
        let _unread = request;
        std::future::pending().await
    })
    .await;
    let client = h2c().limit(Limit::stage(Stage::Send, ms(150))).build().unwrap();
    let error = client.call(&root(), post(server.url.clone(), vec![7; 3_000_000])).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::H2WindowBlocked), "{:?}", error.report().verdicts);
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    // The caller sends the next word only when it has the echo of the one before.
    let server = Server::start(settings(), |_, mut request, mut respond| async move {
        let mut echo = head(&mut respond, false)?;
        while let Some(data) = request.body_mut().data().await {
            echo.send_data(data?, false)?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        echo.send_trailers(trailers)
    })
    .await;
    let (sender, mut receiver) = mpsc::channel(1);
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let body = StreamBody::new(stream);
    let client = h2c().build().unwrap();
    let response = client.call(&root(), Request::post(&server.url).body(body).unwrap()).await.unwrap();
    let mut echo = response.into_body();
    for word in ["ping", "pong", "done"] {
        sender.send(Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(word.as_bytes())))).await.unwrap();
        assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(sender);
    let trailers = echo.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(echo.frame().await.is_none());
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_counts() {
    let server = Server::start(settings(), |_, _, mut respond| async move {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        // With the unread request dropped, h2 resets the stream with NO_ERROR behind the answer, as RFC 9113 has it.
        respond.send_response(response, false)?.send_data(Bytes::from_static(b"too big"), true)
    })
    .await;
    let client = h2c().build().unwrap();
    let response = client.call(&root(), post(server.url.clone(), vec![7; 3_000_000])).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(finish(response).await.0, "too big");
}

#[tokio::test]
async fn a_refused_stream_on_a_kept_connection_is_tried_again_even_for_a_post() {
    let server = Server::start(settings(), |number, _, mut respond| async move {
        if number == 2 {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        answer(respond, "ok")
    })
    .await;
    let client = h2c().build().unwrap();
    finish(client.get(&root(), &server.url).await.unwrap()).await;
    let request = Request::builder().method(Method::POST).uri(&server.url).body(Empty::<Bytes>::new());
    let (body, report) = finish(client.call(&root(), request.unwrap()).await.unwrap()).await;
    assert_eq!((body.as_str(), report.attempts.len()), ("ok", 1));
}

#[tokio::test]
async fn a_reset_stream_says_what_the_peer_said() {
    let server = Server::start(settings(), |_, _, mut respond| async move {
        respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        Ok(())
    })
    .await;
    let error = h2c().build().unwrap().get(&root(), &server.url).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Wait, Cause::PeerReset));
    assert!(format!("{:?}", error.report().verdicts).contains("ENHANCE_YOUR_CALM"));
    assert!(error.is_retryable(), "a GET");
}

#[tokio::test]
async fn a_silent_connection_takes_no_further_call() {
    // The first request is never answered; whoever comes next must not wait on that connection.
    let server = Server::start(settings(), |number, _, respond| async move {
        if number == 1 {
            let _kept = respond;
            return std::future::pending().await;
        }
        answer(respond, "ok")
    })
    .await;
    let client = h2c().limit(Limit::stage(Stage::Wait, ms(100))).build().unwrap();
    let error = client.get(&root(), &server.url).await.unwrap_err();
    assert_eq!(error.cause(), Cause::ServerSlow, "{:?}", error.report().verdicts);
    finish(client.get(&root(), &server.url).await.unwrap()).await;
}

#[tokio::test]
async fn a_dropped_call_gives_its_stream_back() {
    let server = Server::start(settings().max_concurrent_streams(1).clone(), |number, _, respond| async move {
        if number % 2 == 1 {
            let _kept = respond;
            return std::future::pending().await;
        }
        answer(respond, "ok")
    })
    .await;
    let one_connection = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
    let client = h2c().pool(one_connection).build().unwrap();
    for _ in 0..10 {
        let dropped = tokio::time::timeout(ms(30), client.get(&root(), &server.url)).await;
        assert!(dropped.is_err());
        finish(client.get(&root(), &server.url).await.unwrap()).await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn the_idle_time_of_a_shared_connection_is_reported() {
    let server = Server::start(settings(), |_, _, respond| async move { answer(respond, "ok") }).await;
    let client = h2c().build().unwrap();
    finish(client.get(&root(), &server.url).await.unwrap()).await;
    tokio::time::pause();
    tokio::time::advance(ms(100)).await;
    tokio::time::resume();
    let (_, report) = finish(client.get(&root(), &server.url).await.unwrap()).await;
    let connection = report.connection.unwrap();
    assert!(connection.reused && connection.idle_us >= 100_000, "{connection:?}");
}

#[tokio::test]
async fn an_answer_without_a_body_is_done_with_its_head() {
    let server =
        Server::start(settings(), |_, _, mut respond| async move { head(&mut respond, true).map(|_| ()) }).await;
    let response = h2c().build().unwrap().get(&root(), &server.url).await.unwrap();
    assert!(http_body::Body::is_end_stream(response.body()));
    // Whoever sees that does not read on; the call was no failure for that.
    let log = log_of(&response);
    drop(response);
    assert_eq!(log.report().outcome, "ok");
}

#[tokio::test]
async fn an_idle_shared_connection_makes_room_for_another_host() {
    let one = Server::start(settings(), |_, _, respond| async move { answer(respond, "one") }).await;
    let two = Server::start(settings(), |_, _, respond| async move { answer(respond, "two") }).await;
    let one_connection = PoolOptions { connections: 1, ..PoolOptions::default() };
    let client = h2c().pool(one_connection).limit(Limit::stage(Stage::Queue, ms(2_000))).build().unwrap();
    for (server, expected) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        assert_eq!(finish(client.get(&root(), &server.url).await.unwrap()).await.0, expected);
    }
    assert_eq!((one.accepted(), two.accepted(), client.connections()), (2, 1, 1));
}

#[tokio::test]
async fn no_time_to_send_means_nothing_sent_and_no_second_attempt() {
    let server = Server::start(settings(), |number, _, respond| async move {
        assert_eq!(number, 1, "a request that had no time to be sent");
        answer(respond, "ok")
    })
    .await;
    let client = h2c().build().unwrap();
    finish(client.get(&root(), &server.url).await.unwrap()).await;
    let mut limits = Limits::none();
    limits.set(Limit::stage(Stage::Send, ms(0))).unwrap();
    let request = Request::get(&server.url).extension(limits).body(Empty::<Bytes>::new()).unwrap();
    let error = client.call(&root(), request).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::BudgetSpent), "{error}");
    // A kept connection that fails is replaced; this one has not failed.
    assert!(error.report().attempts.is_empty(), "{:?}", error.report().attempts);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_server_that_speaks_http1_is_no_http2() {
    let server = server::Server::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let error = h2c().build().unwrap().get(&root(), &server.url("/")).await.unwrap_err();
    assert_eq!(error.cause(), Cause::ProtocolError, "{error}");
    assert!(error.to_string().contains("it speaks HTTP/1: \"HTTP/1.1 400 Bad"), "{error}");
}

#[tokio::test]
async fn the_first_calls_to_a_host_wait_a_moment_for_one_connection() {
    let fault = overdue_lab::Fault::start(overdue_lab::find("ok-h2").unwrap()).unwrap();
    let tls = overdue::TlsOptions::default().with_roots_pem(fault.roots_pem().unwrap().as_bytes()).unwrap();
    let client = Client::builder().tls(tls).build().unwrap();
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let (client, url) = (client.clone(), fault.url());
            tokio::spawn(async move { finish(client.get(&root(), &url).await.unwrap()).await.0 })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    // Nobody knew before the first handshake that the host speaks HTTP/2.
    assert_eq!((fault.accepted(), client.connections()), (1, 1));
}

#[tokio::test]
async fn a_dial_that_hangs_does_not_hide_its_cause_from_those_who_wait_for_it() {
    let fault = overdue_lab::Fault::start(overdue_lab::find("tls-silent").unwrap()).unwrap();
    let client = Client::builder().limit(Limit::stage(Stage::Tls, ms(500))).build().unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (client, url) = (client.clone(), fault.url());
            tokio::spawn(async move { client.get(&root(), &url).await.map(|_| ()).unwrap_err() })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap();
        assert_eq!((error.stage(), error.cause()), (Stage::Tls, Cause::TlsPeerSilent), "{error}");
    }
}

/// Each dial that fails is followed by that of the next who waits, which all the others might wait for anew.
#[tokio::test]
async fn dials_that_fail_one_after_another_hold_nobody_up() {
    let server = server::Server::start(|peer, _| peer.silent()).await;
    let client = Client::builder().limit(Limit::stage(Stage::Tls, ms(50))).build().unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let (client, url) = (client.clone(), format!("https://{}/", server.addr));
        calls.spawn(async move { client.get(&root(), &url).await.unwrap_err().stage() });
    }
    assert_eq!(calls.join_all().await, [Stage::Tls; 100]);
    assert_eq!(client.connections(), 0);
}
