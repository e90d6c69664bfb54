//! The client among tower's layers.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use overdue::{Context, Error, Limit, Stage};
use tower::{ServiceBuilder, ServiceExt};
use tower_http::{decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer};

use crate::{client, ms, root, server::Server};

fn get(url: String) -> Request<Empty<Bytes>> {
    Request::get(url).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn redirects_are_a_layer_and_end() {
    let server = Server::start(|mut peer, _| async move {
        loop {
            let head = peer.head().await?;
            let answer = match head.split(' ').nth(1) {
                Some("/end") => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere",
                Some("/loop") => "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n",
                _ => "HTTP/1.1 302 Found\r\nLocation: /end\r\nContent-Length: 0\r\n\r\n",
            };
            peer.send(answer).await?;
        }
    })
    .await;
    let service = ServiceBuilder::new().layer(FollowRedirectLayer::new()).service(client());
    let response = service.clone().oneshot(get(server.url("/"))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "there");
    // The layer's own bound; what is left is the last redirect.
    let response = service.oneshot(get(server.url("/loop"))).await.unwrap();
    assert_eq!(response.status().as_u16(), 302);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn decompression_is_a_layer() {
    // "hello" in gzip.
    let gzip: &[u8] =
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0];
    let server = Server::start(move |mut peer, _| async move {
        let head = peer.head().await?;
        assert!(head.contains("accept-encoding: gzip"), "{head}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", gzip.len());
        peer.send([head.as_bytes(), gzip].concat()).await
    })
    .await;
    let service = ServiceBuilder::new().layer(DecompressionLayer::new()).service(client());
    let response = service.oneshot(get(server.url("/"))).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn the_context_comes_with_the_request_and_the_error_through_the_box() {
    let server = Server::start(|peer, _| peer.silent()).await;
    let service = ServiceBuilder::new().layer(FollowRedirectLayer::new()).service(client());
    let service = ServiceExt::<Request<Empty<Bytes>>>::map_err(service, tower::BoxError::from);
    let mut request = get(server.url("/"));
    let context: Context = root().child(Limit::total(ms(50)));
    request.extensions_mut().insert(context);
    let error = service.oneshot(request).await.unwrap_err();
    let error = Error::find(&*error).expect("it survives the box");
    assert_eq!((error.stage(), error.limit().unwrap().value), (Stage::Wait, ms(50)));
}
