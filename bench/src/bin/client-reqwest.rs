//! reqwest, without a limit.

use anyhow::ensure;

fn main() -> anyhow::Result<()> {
    overdue_bench::load::main(async |load| {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(load.connections).build()?;
        let url = load.url.clone();
        Ok(move || {
            let (client, url) = (client.clone(), url.clone());
            async move {
                let response = client.get(url.as_str()).send().await?;
                ensure!(response.status().is_success(), "{}", response.status());
                response.bytes().await?;
                Ok(())
            }
        })
    })
}
