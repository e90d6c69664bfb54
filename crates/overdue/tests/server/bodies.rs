//! Clients that are slow, before a server of hyper: in the head, and in the body.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use overdue::{
    Limit, LimitName,
    server::body::{BodyLayer, PacedBody},
    stream::Stream,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tower::{Layer, ServiceExt, service_fn};

use super::ms;

/// Answers with the length of the body.
async fn length<B>(request: Request<PacedBody<B>>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: http_body::Body<Data = Bytes, Error: Into<overdue::BoxError>>,
{
    let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    Ok(Response::new(Full::new(Bytes::from(length.to_string()))))
}

/// Each head has 900 ms, and each 1000 bytes of a body have 700 ms.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let stream = Stream::from_tcp(io).unwrap();
            let first = stream.handle().clone();
            first.set_read_deadline(Limit::new(LimitName::Head, ms(900)));
            let served = BodyLayer::new().rate(1000, ms(700)).layer(service_fn(length));
            let served = served.map_request(move |request: Request<_>| {
                first.set_read_deadline(None);
                request
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(ms(900));
            tokio::spawn(async move {
                // A client that is cut is what this is about.
                let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(served)).await;
            });
        }
    });
    address
}

/// All that the server says to somebody who sends this, and then a byte now and then.
async fn dripping(address: SocketAddr, first: &str) -> String {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    writer.write_all(first.as_bytes()).await.unwrap();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            sleep(ms(20)).await;
        }
    });
    let mut said = Vec::new();
    // How it ends does not matter: what it still sends may reset it.
    let _ = timeout(ms(20_000), reader.read_to_end(&mut said)).await.unwrap();
    drip.abort();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn whoever_is_slow_is_cut() {
    let address = server().await;
    // In the first bytes, in the first head, and in the next.
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"PRI * HT").await.unwrap();
    assert_eq!(timeout(ms(20_000), silent.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
    assert_eq!(dripping(address, "").await, "");
    assert_eq!(dripping(address, "GET / HTTP/1.1\r\nhost: a\r\nx: ").await, "");
    let one = dripping(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nx: ").await;
    assert!(one.starts_with("HTTP/1.1 200 OK\r\n") && one.matches("HTTP/1.1").count() == 1, "{one}");
    let late = dripping(address, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n").await;
    assert!(late.starts_with("HTTP/1.1 408 Request Timeout\r\n") && late.contains("connection: close\r\n"), "{late}");
    assert!(late.contains("the request body came too slowly"), "{late}");
}

#[tokio::test]
async fn whoever_is_not_is_served() {
    let mut stream = TcpStream::connect(server().await).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 30000\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..15 {
        stream.write_all(&[b'x'; 2000]).await.unwrap();
        sleep(ms(100)).await;
    }
    let mut said = String::new();
    timeout(ms(20_000), stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\n30000"), "{said}");
}
