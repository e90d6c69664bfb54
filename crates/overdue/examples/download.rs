//! A download of any length: no limit for the whole, one for every silence. It tells how far it came.
//!
//! cargo run -p overdue --example download

use std::{error::Error, time::Duration};

use http_body_util::BodyExt;
use overdue::{Client, Context, Limit, LimitName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = serve().await?;
    let client = Client::builder()
        // How long it may take is for its length to say. A minute in all would end good downloads.
        .without(LimitName::Total)
        // A server that goes silent is another matter.
        .limit(Limit::new(LimitName::Gap, Duration::from_millis(200)))
        .build()?;

    let mut body = client.get(&Context::root(), &url).await?.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
                println!("{bytes} bytes");
            }
            Err(error) => {
                println!("\n{error}");
                for verdict in &error.report().verdicts {
                    for evidence in &verdict.evidence {
                        println!("  {}: {}", evidence.source.as_str(), evidence.text);
                    }
                    println!("  fix: {}", verdict.fix);
                }
                return Ok(());
            }
        }
    }
    Err("the server was to stop half-way".into())
}

/// Sends six pieces of ten, each after 100 ms, and then nothing.
async fn serve() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let _request = stream.read(&mut [0; 1024]).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n").await?;
        for _ in 0..6 {
            sleep(Duration::from_millis(100)).await;
            stream.write_all(&[b'x'; 1000]).await?;
        }
        std::future::pending::<std::io::Result<()>>().await
    });
    Ok(url)
}
