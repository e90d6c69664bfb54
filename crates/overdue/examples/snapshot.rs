//! What exactly was sent, fit for a log: the head without its secrets, and the limits that held.
//!
//! cargo run -p overdue --example snapshot

use std::{error::Error, time::Duration};

use http::Request;
use http_body_util::Empty;
use overdue::{CallLog, Client, Context, Limit, Stage, client::Redaction};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = serve().await?;
    let client = Client::builder()
        .limit(Limit::stage(Stage::Wait, Duration::from_millis(200)))
        .limit(Limit::total(Duration::from_secs(2)))
        // Secrets are hidden without being named. Here is one more, and a value that may be seen.
        .snapshot(Redaction::default().hide("x-tenant").show("page"))
        .build()?;
    let request = |path| {
        Request::get(format!("{url}{path}?page=2&session=8f3b"))
            .header("authorization", "Bearer eyJhbGciOi")
            .header("x-tenant", "blue")
            .header("accept", "text/plain")
            .body(Empty::<bytes::Bytes>::new())
    };

    // With a response it is in its log.
    let response = client.call(&Context::root(), request("/quick")?).await?;
    for snapshot in response.extensions().get::<CallLog>().iter().flat_map(|log| log.snapshots()) {
        println!("{snapshot}\n");
    }
    // With an error it is in the error.
    if let Err(error) = client.call(&Context::root(), request("/slow")?).await {
        println!("{error}");
        for snapshot in error.snapshots() {
            println!("{snapshot}");
        }
    }
    Ok(())
}

/// Answers at once, except where it is asked to be slow.
async fn serve() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await?;
                if request.get(..length).is_some_and(|request| request.starts_with(b"GET /slow")) {
                    std::future::pending::<()>().await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await
            });
        }
    });
    Ok(url)
}
