//! A limit for each stage, each with its owner; one call with limits of its own; limits that fight each other.
//!
//! cargo run -p overdue --example stage_limits

use std::{error::Error, time::Duration};

use http::Request;
use http_body_util::Empty;
use overdue::{Client, Context, Limit, LimitName, Limits, Origin, Stage};
use tokio::net::TcpListener;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // It takes connections and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;

    let client = Client::builder()
        .limit(Limit::stage(Stage::Queue, ms(100)))
        .limit(Limit::stage(Stage::Resolve, ms(500)))
        .limit(Limit::stage(Stage::Connect, ms(800)))
        // A limit that came from elsewhere says so.
        .limit(Limit::stage(Stage::Tls, ms(200)).with_origin(Origin::Env("TLS_TIMEOUT".into())))
        .limit(Limit::stage(Stage::Send, ms(900)))
        .limit(Limit::stage(Stage::Wait, ms(300)))
        .limit(Limit::new(LimitName::Gap, ms(400)))
        .limit(Limit::total(Duration::from_secs(4)))
        .build()?;

    // The same silence, in two stages, under two limits.
    for scheme in ["https", "http"] {
        match client.get(&Context::root(), &format!("{scheme}://{addr}/")).await {
            Ok(_) => return Err("nobody answers here".into()),
            Err(error) => println!("{scheme}: {error}\n"),
        }
    }

    // One call may have limits of its own.
    let limits = Limits { wait: Some(Limit::stage(Stage::Wait, ms(50))), ..Limits::default() };
    let request = Request::get(format!("http://{addr}/")).extension(limits).body(Empty::<bytes::Bytes>::new())?;
    if let Err(error) = client.call(&Context::root(), request).await {
        println!("of its own: {error}\n");
    }

    // Limits that cannot work together are found before anything runs.
    let client =
        Client::builder().limit(Limit::stage(Stage::Wait, ms(9_000))).limit(Limit::total(ms(2_000))).build()?;
    for conflict in client.conflicts() {
        println!("conflict: {}", conflict.summary);
    }
    Ok(())
}
