//! What contexts, deadlines and connections hold, many of them at once: `memory SUBJECT COUNT [URL]`.

use std::{
    env,
    future::pending,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy, rt::TokioExecutor};
use overdue::{Client, Context, Limit, PoolOptions, Stage};
use overdue_bench::{
    Numbers,
    heap::{Counting, InUse},
    process::{give_back_free_memory, raise_descriptor_limit, resident_bytes, sockets},
};
use tokio::{
    runtime::Handle,
    task::{JoinSet, yield_now},
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static HEAP: Counting = Counting;

const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context("usage: memory SUBJECT COUNT [URL]");
    let (subject, count) = (next()?, next()?.parse()?);
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let numbers = runtime.block_on(async {
        // The first deadline of a runtime starts the task that keeps them all.
        Context::root().child(Limit::total(LIMIT)).run(Stage::Handle, yield_now()).await?;
        let others = Handle::current().metrics().num_alive_tasks();
        match subject.as_str() {
            "context" => {
                let root = Context::root();
                Ok(held(count, || root.child(Limit::total(LIMIT))))
            }
            "token" => {
                let root = CancellationToken::new();
                Ok(held(count, || root.child_token()))
            }
            "task" => Ok(tasks(count, pending::<()>).await),
            "task-context" => {
                let root = Context::root();
                let start = || {
                    let context = root.child(Limit::total(LIMIT));
                    async move { context.run(Stage::Handle, pending::<()>()).await }
                };
                let numbers = tasks(count, start).await;
                Ok(cancelled(numbers, others, || root.cancel("the end of the benchmark")).await)
            }
            "task-token" => {
                let root = CancellationToken::new();
                let start = || {
                    let token = root.child_token();
                    async move { tokio::time::timeout(LIMIT, token.run_until_cancelled(pending::<()>())).await }
                };
                let numbers = tasks(count, start).await;
                Ok(cancelled(numbers, others, || root.cancel()).await)
            }
            "connection-overdue" => overdue_connections(count, next()?).await,
            "connection-hyper-util" => hyper_connections(count, next()?).await,
            other => bail!("there is no {other:?}"),
        }
    });
    numbers?.print();
    Ok(())
}

/// What is in use, before it grows.
struct Before {
    heap: InUse,
    resident: usize,
}

impl Before {
    fn now() -> Self {
        Self { heap: InUse::now(), resident: resident_bytes() }
    }

    /// The share of each of `count`.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
    fn each(&self, count: usize) -> Numbers {
        let now = InUse::now();
        give_back_free_memory();
        let each = |now: usize, before: usize| (now as f64 - before as f64) / count as f64;
        Numbers::default()
            .with("heap_bytes", each(now.bytes, self.heap.bytes))
            .with("allocations", each(now.allocations, self.heap.allocations))
            .with("resident_bytes", each(resident_bytes(), self.resident))
    }
}

fn held<T>(count: usize, make: impl Fn() -> T) -> Numbers {
    let mut all = Vec::with_capacity(count);
    let before = Before::now();
    all.extend((0..count).map(|_| make()));
    before.each(count)
}

async fn tasks<F>(count: usize, start: impl Fn() -> F) -> Numbers
where
    F: Future<Output: Send> + Send + 'static,
{
    let before = Before::now();
    for _ in 0..count {
        tokio::spawn(start());
    }
    // The runtime takes turns: a task of ours that is behind all others runs when they have been polled.
    let _ = tokio::spawn(yield_now()).await;
    before.each(count)
}

/// Cancels everything, and waits until no task is left but `others`.
async fn cancelled<T>(numbers: Numbers, others: usize, cancel: impl FnOnce() -> T) -> Numbers {
    let metrics = Handle::current().metrics();
    let began = Instant::now();
    cancel();
    let called = began.elapsed();
    while metrics.num_alive_tasks() > others {
        yield_now().await;
    }
    let ended = began.elapsed();
    numbers.with("cancel_ms", called.as_secs_f64() * 1e3).with("ended_ms", ended.as_secs_f64() * 1e3)
}

/// Makes calls that the peer answers when it has all of them, so that each has a connection of its own, which is then
/// kept.
async fn connections<F>(count: usize, call: impl Fn() -> F) -> anyhow::Result<Numbers>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let before = Before::now();
    let mut calls: JoinSet<_> = (0..count).map(|_| call()).collect();
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    drop(calls);
    // Where a connection is a task, it goes back to its pool a moment later.
    let _ = tokio::spawn(yield_now()).await;
    let kept = sockets().len();
    ensure!(kept >= count, "{kept} connections instead of {count}");
    Ok(before.each(count))
}

async fn overdue_connections(count: usize, url: String) -> anyhow::Result<Numbers> {
    let pool =
        PoolOptions { connections: count, connections_per_host: count, idle_per_host: count, ..Default::default() };
    let client = Client::builder().pool(pool).build()?;
    let root = Context::root();
    connections(count, || {
        let (client, root, url) = (client.clone(), root.clone(), url.clone());
        async move {
            client.get(&root, &url).await?.into_body().bytes(1 << 16).await?;
            Ok(())
        }
    })
    .await
}

async fn hyper_connections(count: usize, url: String) -> anyhow::Result<Numbers> {
    let client: legacy::Client<_, Empty<Bytes>> =
        legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(count).build_http();
    connections(count, || {
        let (client, url) = (client.clone(), url.clone());
        async move {
            client.get(url.parse()?).await?.into_body().collect().await?;
            Ok(())
        }
    })
    .await
}
