//! A first call, and what it tells: where the time went when all is well, and the four facts when it is not.
//!
//! cargo run -p overdue --example first_call

use std::{error::Error, time::Duration};

use overdue::{CallLog, Client, Context, Limit, Stage};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = serve().await?;
    let client = Client::builder().limit(Limit::stage(Stage::Wait, Duration::from_millis(300))).build()?;
    // What is asked for here ends after two seconds, however many calls it takes.
    let request = Context::root().child(Limit::total(Duration::from_secs(2)));

    let response = client.get(&request, &format!("{url}/quick")).await?;
    let log = response.extensions().get::<CallLog>().cloned();
    println!("{}", String::from_utf8_lossy(&response.into_body().bytes(1024).await?).trim_end());
    for span in log.iter().flat_map(|log| log.report().timeline) {
        println!("  {:<8} {:>6} us", span.stage, span.duration_us);
    }

    let Err(error) = client.get(&request, &format!("{url}/slow")).await else { return Err("it was in time".into()) };
    println!("\n{error}");
    println!("stage: {}", error.stage());
    println!("limit: {}", error.limit().map_or_else(|| "none fired".to_owned(), ToString::to_string));
    println!("cause: {}", error.cause());
    for verdict in &error.report().verdicts {
        println!("fix:   {}", verdict.fix);
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
                while let Ok(length @ 1..) = stream.read(&mut request).await {
                    if request.get(..length).is_some_and(|request| request.starts_with(b"GET /slow")) {
                        std::future::pending::<()>().await;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n").await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(url)
}
