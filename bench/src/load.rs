//! A closed loop of requests: as many workers as connections, each of which asks again as soon as it was answered.

use std::{env, time::Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use crate::{
    Numbers,
    process::{Cpu, sockets},
};

/// The load that the command line asks for: `URL CONNECTIONS REQUESTS`.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub url: String,
    /// Connections, each with one request at a time.
    pub connections: usize,
    requests: usize,
}

/// Runs the load with the client that `build` makes, on one thread, and prints what one request cost.
///
/// # Errors
/// When a request fails, or connections were not kept: then the numbers would be those of something else.
pub fn main<C, F>(build: impl AsyncFnOnce(&Load) -> anyhow::Result<C>) -> anyhow::Result<()>
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let load = Load::from_arguments()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = build(&load).await?;
        load.run(&client, load.requests / 10).await?;
        let connected = sockets();

        let (cpu, began) = (Cpu::now(), Instant::now());
        load.run(&client, load.requests).await?;
        let (cpu, wall) = (Cpu::now().since(cpu), began.elapsed());

        let connections = load.connections;
        anyhow::ensure!(sockets() == connected, "connections were not kept, but replaced by others");
        anyhow::ensure!(connected.len() >= connections, "{} connections instead of {connections}", connected.len());
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / load.requests as f64;
        Numbers::default()
            .with("cpu_us", each(cpu.user + cpu.system))
            .with("user_us", each(cpu.user))
            .with("system_us", each(cpu.system))
            .with("wall_us", each(wall))
            .print();
        Ok(())
    })
}

impl Load {
    fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments = env::args().skip(1);
        let mut next = || arguments.next().context("usage: URL CONNECTIONS REQUESTS");
        let (url, connections, requests) = (next()?, next()?.parse::<usize>()?, next()?.parse::<usize>()?);
        anyhow::ensure!(connections > 0, "no connections, no load");
        // Each worker does the same number.
        Ok(Self { url, connections, requests: requests.next_multiple_of(connections) })
    }

    async fn run<C, F>(&self, client: &C, requests: usize) -> anyhow::Result<()>
    where
        C: Fn() -> F + Clone + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            let client = client.clone();
            let requests = requests.div_ceil(self.connections);
            workers.spawn(async move {
                for _ in 0..requests {
                    client().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(())
    }
}
