//! Bad input: a clear error, bounded memory.

use http_body_util::BodyExt;
use overdue::{Cause, Client, Limit, Stage};

use crate::{client, ms, root, server::Server};

#[tokio::test]
async fn urls_that_cannot_be_called_say_why() {
    let client = client();
    for (url, why) in [
        ("", "is no absolute URL"),
        ("example.com/path", "is no absolute URL"),
        ("/path", "is no absolute URL"),
        ("ftp://example.com/", "neither http nor https"),
        ("http:///path", "is no absolute URL"),
        ("http://user:secret@example.com/", "user name"),
        ("http://example.com:99999/", "port"),
        ("http://exa mple.com/", "is no absolute URL"),
        ("http://example.com:/", "port"),
    ] {
        let error = client.get(&root(), url).await.unwrap_err();
        assert!(error.to_string().contains(why), "{url:?}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!error.is_retryable() && !error.is_timeout());
    }
}

async fn protocol_error(answer: &'static str) -> String {
    let server = Server::start(move |mut peer, _| async move {
        peer.head().await?;
        peer.send(answer).await?;
        peer.closed().await
    })
    .await;
    let client = Client::builder().limit(Limit::total(ms(5_000))).build().unwrap();
    let error = match client.get(&root(), &server.url("/")).await {
        Ok(response) => response.into_body().collect().await.map(|_| ()).unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.cause(), Cause::ProtocolError, "{answer:?}: {error}");
    error.to_string()
}

#[tokio::test]
async fn broken_framing_is_named() {
    for (answer, why) in [
        ("hello\r\n\r\n", "malformed"),
        ("HTTP/1.1 999999 OK\r\n\r\n", "malformed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "different"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "malformed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "chunk"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than its size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "chunk"),
    ] {
        let error = protocol_error(answer).await;
        assert!(error.contains(why), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\nX: ").await?;
        loop {
            peer.send([b'a'; 4096]).await?;
        }
    })
    .await;
    let error = client().get(&root(), &server.url("/")).await.unwrap_err();
    assert!(error.to_string().contains("longer than 64 KiB"), "{error}");
}

#[tokio::test]
async fn endless_informational_answers_are_cut_off() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        loop {
            peer.send("HTTP/1.1 102 Processing\r\n\r\n").await?;
        }
    })
    .await;
    let error = client().get(&root(), &server.url("/")).await.unwrap_err();
    assert!(error.to_string().contains("informational"), "{error}");
}

#[tokio::test]
async fn an_endless_body_fills_no_memory() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            peer.send(vec![b'a'; 65536]).await?;
        }
    })
    .await;
    let response = client().get(&root(), &server.url("/")).await.unwrap();
    let error = response.into_body().bytes(1 << 20).await.unwrap_err();
    assert_eq!(error.stage(), Stage::Receive);
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn endless_trailers_and_chunk_lines_are_cut_off() {
    for start in ["0\r\nX: ", "1;ext="] {
        let server = Server::start(move |mut peer, _| async move {
            peer.head().await?;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            peer.send(start).await?;
            loop {
                peer.send([b'a'; 4096]).await?;
            }
        })
        .await;
        let response = client().get(&root(), &server.url("/")).await.unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert_eq!(error.cause(), Cause::ProtocolError, "{error}");
    }
}
