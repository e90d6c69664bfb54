//! The library against real servers: nginx, haproxy, Envoy, Go's net/http.
//!
//! Every test starts its own server, found on `PATH`. Where a server is not installed its tests say so and pass;
//! with `CI=true` they fail.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests"
)]

mod envoy;
mod golang;
mod haproxy;
mod identity;
mod nginx;
mod process;
mod relay;
mod suite;
mod upstream;

use std::time::Duration;

use overdue::{Client, Context, Limit, TlsOptions, client::Builder};

use identity::Identity;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn root() -> Context {
    Context::root()
}

fn http(port: u16) -> String {
    format!("http://{}", process::local(port))
}

fn https(port: u16) -> String {
    format!("https://{}", process::local(port))
}

/// Nothing here takes longer on purpose.
fn client() -> Builder {
    Client::builder().limit(Limit::total(ms(20_000)))
}

fn trusting(identity: &Identity) -> TlsOptions {
    TlsOptions::default().with_roots_pem(identity.authority_pem.as_bytes()).unwrap()
}

fn tls_client(identity: &Identity) -> Builder {
    client().tls(trusting(identity))
}
