//! The pooled client of hyper-util, which has no limits.

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

fn main() -> anyhow::Result<()> {
    overdue_bench::load::main(async |load| {
        let client: Client<_, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(load.connections).build_http();
        let url = load.url.clone();
        Ok(move || {
            let (client, url) = (client.clone(), url.clone());
            async move {
                let response = client.get(url.parse()?).await?;
                ensure!(response.status().is_success(), "{}", response.status());
                response.into_body().collect().await?;
                Ok(())
            }
        })
    })
}
