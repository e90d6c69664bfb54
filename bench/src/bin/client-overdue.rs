//! Overdue's client with all its limits: the defaults, and `attempt` and `total`.

use std::time::Duration;

use anyhow::ensure;
use overdue::{Client, Context, Limit, LimitName, PoolOptions};

fn main() -> anyhow::Result<()> {
    overdue_bench::load::main(async |load| {
        let connections = load.connections;
        let pool = PoolOptions { connections_per_host: connections, idle_per_host: connections, ..Default::default() };
        let client = Client::builder()
            .pool(pool)
            .limit(Limit::new(LimitName::Attempt, Duration::from_secs(20)))
            .limit(Limit::total(Duration::from_secs(40)))
            .build()?;
        let (root, url) = (Context::root(), load.url.clone());
        Ok(move || {
            let (client, root, url) = (client.clone(), root.clone(), url.clone());
            async move {
                let response = client.get(&root, &url).await?;
                ensure!(response.status().is_success(), "{}", response.status());
                response.into_body().bytes(1 << 16).await?;
                Ok(())
            }
        })
    })
}
