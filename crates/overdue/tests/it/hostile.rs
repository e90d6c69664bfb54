//! Bad input: a clear error, bounded memory.

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Full};
use overdue::{Cause, Client, Limit, Stage, TlsOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    Announced, client, finish,
    http2_server::{self, answer, drain, h2c, settings},
    ms, root,
    server::{OK, Server},
};

#[tokio::test]
async fn urls_that_cannot_be_called_say_why() {
    let client = client();
    for (url, why) in [
        ("", "is no absolute URL"),
        ("example.com/path", "is no absolute URL"),
        ("/path", "is no absolute URL"),
        ("/path?token=secret", "is no absolute URL"),
        ("http://exa mple.com/#token=secret", "is no absolute URL"),
        ("ftp://example.com/", "neither http nor https"),
        ("http:///path", "is no absolute URL"),
        ("http://user:secret@example.com/", "user name"),
        ("http://user:secret@exa mple.com/", "is no absolute URL"),
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

#[tokio::test]
async fn a_query_needs_no_path_before_it() {
    let (got, mut received) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut peer, _| {
        let got = got.clone();
        async move {
            got.send(peer.head().await?).unwrap();
            peer.send(OK).await
        }
    })
    .await;
    finish(client().get(&root(), &server.url("?x=1")).await.unwrap()).await;
    let head = received.recv().await.unwrap();
    assert!(head.starts_with("GET /?x=1 HTTP/1.1\r\n"), "{head:?}");
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
async fn a_body_beyond_its_cap_has_a_report_even_when_it_came_in_one_piece() {
    let server = Server::answering(OK).await;
    let error = client().get(&root(), &server.url("/")).await.unwrap().into_body().bytes(1).await.unwrap_err();
    assert!(error.to_string().contains("more than 1 bytes"), "{error}");
    assert!(!error.report().timeline.is_empty());
    assert!(error.report().connection.is_some());
}

#[tokio::test]
async fn a_request_body_that_lies_about_its_length_is_the_callers_own_fault() {
    let server = Server::start(|mut peer, _| async move { peer.closed().await }).await;
    let server_http2 = http2_server::Server::start(settings(), |_, mut request, respond| async move {
        drain(&mut request).await?;
        answer(respond, "ok")
    })
    .await;
    let clients = [(client(), server.url("/")), (h2c().build().unwrap(), server_http2.url.clone())];
    for (client, url) in clients {
        for (announced, why) in
            [(2, "it is longer than its announced length"), (9, "it ended 4 bytes before its announced length")]
        {
            let body = Announced(Full::new(bytes::Bytes::from_static(b"12345")), announced);
            let error = client.call(&root(), Request::post(&url).body(body).unwrap()).await.unwrap_err();
            assert_eq!(error.stage(), Stage::Send);
            assert!(error.to_string().contains(why), "{url} {announced}: {error}");
            assert!(!error.is_retryable());
        }
    }
}

#[tokio::test]
async fn a_body_that_only_the_end_of_tcp_ends_may_have_been_cut() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let _ = stream.read(&mut [0; 1000]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of the bo").await.unwrap();
        stream.flush().await.unwrap();
        // TCP ends here, as anybody on the path can make it end; TLS does not: that takes a close_notify.
    });
    let tls = TlsOptions::default().dangerously_trust_anything();
    let client = Client::builder().tls(tls).build().unwrap();
    let response = client.get(&root(), &format!("https://localhost:{port}/")).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::ClosedEarly), "{error}");
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
