//! Calls that time out or are refused, 100 each second: `soak SECONDS SILENT_PORT REFUSING_PORT`.
//!
//! Prints what the process held before, at most, and afterwards.

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use overdue::{Client, Context, Limit, Stage};
use overdue_bench::{
    Numbers,
    heap::{Counting, InUse},
    process::{descriptors, resident_bytes, sockets},
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

#[global_allocator]
static HEAP: Counting = Counting;

const EVERY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_millis(300);
/// Calls before the first look: what is made once is made by them.
const WARM_UP: u32 = 100;
/// How long what is left over may take to end.
const SETTLE_POLLS: u32 = 500;

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context("usage: soak SECONDS SILENT_PORT REFUSING_PORT");
    let (seconds, silent, refusing) = (next()?.parse::<u32>()?, next()?, next()?);
    let soak = Soak {
        // Answers never come; a handshake never ends; nobody is there.
        urls: [("http", &silent), ("https", &silent), ("http", &refusing)]
            .map(|(scheme, port)| format!("{scheme}://127.0.0.1:{port}/")),
        client: Client::builder()
            .limit(Limit::stage(Stage::Wait, LIMIT))
            .limit(Limit::stage(Stage::Tls, LIMIT))
            .limit(Limit::total(2 * LIMIT))
            .build()?,
        contexts: Arc::default(),
        ports: [silent.parse()?, refusing.parse()?],
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        soak.calls(WARM_UP).await?;
        let before = soak.settled(None).await?;
        let most = soak.calls(seconds * 100).await?;
        let after = soak.settled(Some(&before)).await?;
        let mut numbers = Numbers::default();
        for (when, held) in [("before", before), ("most", most), ("after", after)] {
            for (name, count) in held.named() {
                #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 of anything")]
                let count = count as f64;
                numbers = numbers.with(format!("{when}_{name}"), count);
            }
        }
        numbers.print();
        Ok(())
    })
}

struct Soak {
    urls: [String; 3],
    client: Client,
    contexts: Arc<AtomicUsize>,
    ports: [u16; 2],
}

/// A value of a context, which lives as long as the context or one below it does.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What a process can forget to give back. A timer lives in the future that waits for it: on the heap.
#[derive(Clone, Copy, Default)]
struct Held {
    contexts: usize,
    tasks: usize,
    descriptors: usize,
    sockets: usize,
    /// Connections to the peers that the kernel has in its tables, TIME_WAIT aside.
    connections: usize,
    allocations: usize,
    heap_bytes: usize,
    resident_bytes: usize,
}

impl Held {
    fn named(&self) -> [(&'static str, usize); 8] {
        [
            ("contexts", self.contexts),
            ("tasks", self.tasks),
            ("descriptors", self.descriptors),
            ("sockets", self.sockets),
            ("connections", self.connections),
            ("allocations", self.allocations),
            ("heap_bytes", self.heap_bytes),
            ("resident_bytes", self.resident_bytes),
        ]
    }

    fn most(self, other: Self) -> Self {
        Self {
            contexts: self.contexts.max(other.contexts),
            tasks: self.tasks.max(other.tasks),
            descriptors: self.descriptors.max(other.descriptors),
            sockets: self.sockets.max(other.sockets),
            connections: self.connections.max(other.connections),
            allocations: self.allocations.max(other.allocations),
            heap_bytes: self.heap_bytes.max(other.heap_bytes),
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
        }
    }
}

impl Soak {
    /// Makes calls, each kind in turn, and tells what was held at most.
    async fn calls(&self, count: u32) -> anyhow::Result<Held> {
        let mut ticks = interval(EVERY);
        // A machine that is busy gets the calls that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut running = JoinSet::new();
        let mut most = Held::default();
        for (call, url) in (0..count).zip(self.urls.iter().cycle()) {
            ticks.tick().await;
            let (client, url) = (self.client.clone(), url.clone());
            let context = Context::root().with_value(Counted::new(&self.contexts));
            running.spawn(async move {
                let ended = client.get(&context, &url).await;
                let expected = if call % 3 == 2 { Stage::Connect } else { Stage::Wait };
                let expected = if call % 3 == 1 { Stage::Tls } else { expected };
                match ended {
                    Err(err) if err.stage() == expected => Ok(()),
                    Err(err) => Err(err).context("another failure was expected"),
                    Ok(response) => anyhow::bail!("{url} answered: {}", response.status()),
                }
            });
            while let Some(ended) = running.try_join_next() {
                ended??;
            }
            if call % 100 == 50 {
                most = most.most(self.held()?);
            }
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        Ok(most)
    }

    /// What is held when the last calls have ended, and their servers have noticed.
    async fn settled(&self, before: Option<&Held>) -> anyhow::Result<Held> {
        let mut held = self.held()?;
        for _ in 0..SETTLE_POLLS {
            let as_before = before
                .is_none_or(|before| held.descriptors == before.descriptors && held.allocations <= before.allocations);
            if held.contexts == 0 && held.tasks == 0 && held.connections == 0 && as_before {
                break;
            }
            sleep(EVERY).await;
            held = self.held()?;
        }
        Ok(held)
    }

    fn held(&self) -> anyhow::Result<Held> {
        let InUse { bytes, allocations } = InUse::now();
        Ok(Held {
            contexts: self.contexts.load(Relaxed),
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: descriptors(),
            sockets: sockets().len(),
            connections: self.connections()?,
            allocations,
            heap_bytes: bytes,
            resident_bytes: resident_bytes(),
        })
    }

    /// Our ends of connections to the peers.
    fn connections(&self) -> anyhow::Result<usize> {
        const TIME_WAIT: &str = "06";
        let table = fs::read_to_string("/proc/net/tcp")?;
        ensure!(table.contains("rem_address"), "/proc/net/tcp has no such column");
        let ours = |line: &&str| {
            let mut columns = line.split_whitespace().skip(2);
            let (Some(remote), Some(state)) = (columns.next(), columns.next()) else { return false };
            let port = remote.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            state != TIME_WAIT && port.is_some_and(|port| self.ports.contains(&port))
        };
        Ok(table.lines().filter(ours).count())
    }
}
