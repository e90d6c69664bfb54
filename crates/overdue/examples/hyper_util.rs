//! hyper-util's pooled client, with connections whose every stage has its limit, under a limit for the whole.
//!
//! cargo run -p overdue --features hyper-util,tower --example hyper_util

use std::{error::Error as StdError, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use overdue::{
    Error, Limit, Report, Stage, TlsOptions,
    adapt::{ContextLayer, hyper_util::Connector},
    stream,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let addr = serve().await?;
    let connector = stream::Connector::new()
        .limit(Limit::stage(Stage::Connect, Duration::from_millis(500)))
        .limit(Limit::stage(Stage::Tls, Duration::from_millis(200)))
        .tls(&TlsOptions::default(), &[b"http/1.1"])?;
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(Connector::from(connector));
    // The connector sees no pool and no answer. The layer bounds what is left.
    let service = ServiceBuilder::new()
        .layer(ContextLayer::new(Limit::total(Duration::from_millis(400))).stage(Stage::Named("upstream")))
        .service(client);

    for url in [format!("http://{addr}/quick"), format!("https://{addr}/"), format!("http://{addr}/slow")] {
        println!("{url}");
        match service.clone().oneshot(Request::get(&url).body(Empty::new())?).await {
            Ok(response) => {
                println!("  {}", response.status());
                for span in response.extensions().get::<Arc<Report>>().iter().flat_map(|report| &report.timeline) {
                    println!("  {:<8} {:>6} us", span.stage, span.duration_us);
                }
            }
            Err(error) => match Error::find(&*error) {
                Some(error) => {
                    println!("  {error}");
                    for gap in &error.report().not_visible {
                        println!("  not visible: {}: {}", gap.what, gap.why);
                    }
                }
                None => println!("  {error}"),
            },
        }
    }
    Ok(())
}

/// Answers `/quick`. Says nothing to anybody else, whoever speaks TLS included.
async fn serve() -> std::io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut request).await {
                    if request.get(..length).is_some_and(|request| request.starts_with(b"GET /quick")) {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(addr)
}
