//! What a deadline costs: `deadline overdue|tokio THREADS OPERATIONS`.
//!
//! Futures are polled by hand, so that the scheduler is no part of the numbers. All threads share one parent.

use std::{
    env,
    future::{pending, poll_fn, ready},
    hint::black_box,
    pin::pin,
    sync::Barrier,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use overdue::{Context, Limit, Stage};
use overdue_bench::Numbers;
use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Runtime, task::coop::unconstrained};

const LIMIT: Duration = Duration::from_secs(60);

trait Deadlines: Sync {
    /// What work runs under, where that is there before the work.
    type Deadline;
    fn deadline(&self) -> Self::Deadline;
    /// Creates one, asks whether it is over, drops it.
    fn create(&self);
    async fn run<F: Future<Output = ()>>(&self, deadline: &Self::Deadline, work: F);
}

struct Overdue {
    parent: Context,
}

impl Deadlines for Overdue {
    type Deadline = Context;

    fn deadline(&self) -> Context {
        self.parent.child(Limit::total(LIMIT))
    }

    fn create(&self) {
        black_box(self.deadline().is_cancelled());
    }

    async fn run<F: Future<Output = ()>>(&self, deadline: &Context, work: F) {
        let _ = black_box(deadline.run(Stage::Handle, work).await);
    }
}

struct Tokio;

/// The deadline and the work are one.
impl Deadlines for Tokio {
    type Deadline = ();

    fn deadline(&self) {}

    fn create(&self) {
        drop(black_box(tokio::time::timeout(LIMIT, pending::<()>())));
    }

    async fn run<F: Future<Output = ()>>(&self, (): &(), work: F) {
        let _ = black_box(tokio::time::timeout(LIMIT, work).await);
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context("usage: deadline overdue|tokio THREADS OPERATIONS");
    let (subject, threads, operations) = (next()?, next()?.parse()?, next()?.parse()?);
    let numbers = match subject.as_str() {
        "overdue" => {
            let request = Context::root().child(Limit::total(2 * LIMIT));
            on_threads(&Overdue { parent: request }, threads, operations)
        }
        "tokio" => on_threads(&Tokio, threads, operations),
        other => bail!("{other:?} is not measured here"),
    };
    numbers?.print();
    Ok(())
}

/// The mean of all threads.
fn on_threads(subject: &impl Deadlines, threads: u32, operations: u32) -> anyhow::Result<Numbers> {
    let barrier = Barrier::new(threads as usize);
    // Two threads share one runtime, and so its timer.
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().worker_threads(threads as usize).build()?;
    let measured: Vec<[Cost; 3]> = thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| measure(subject, &runtime, &barrier, operations))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().map_err(|_| anyhow!("a thread panicked"));
        running.into_iter().map(join).collect::<anyhow::Result<_>>()
    })?;
    let mut numbers = Numbers::default();
    for (index, name) in ["create", "ready", "yield"].into_iter().enumerate() {
        let mean = |part: fn(&Cost) -> f64| {
            measured.iter().filter_map(|costs| costs.get(index)).map(part).sum::<f64>() / f64::from(threads)
        };
        numbers = numbers.with(format!("{name}_cpu_ns"), mean(|cost| cost.cpu_ns));
        numbers = numbers.with(format!("{name}_wall_ns"), mean(|cost| cost.wall_ns));
    }
    Ok(numbers)
}

fn measure(subject: &impl Deadlines, runtime: &Runtime, barrier: &Barrier, operations: u32) -> [Cost; 3] {
    let deadline = subject.deadline();
    let create = async || subject.create();
    let ready = async || subject.run(&deadline, ready(())).await;
    let yielding = async || {
        let mut polled = false;
        let work = poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending });
        let mut run = pin!(subject.run(&deadline, work));
        poll_fn(|cx| {
            let _ = run.as_mut().poll(cx);
            run.as_mut().poll(cx)
        })
        .await;
    };
    runtime.block_on(unconstrained(async {
        [
            Cost::of(barrier, operations, create).await,
            Cost::of(barrier, operations, ready).await,
            Cost::of(barrier, operations, yielding).await,
        ]
    }))
}

/// Of one operation.
struct Cost {
    /// CPU time of the thread.
    cpu_ns: f64,
    wall_ns: f64,
}

impl Cost {
    async fn of(barrier: &Barrier, operations: u32, operation: impl AsyncFn()) -> Self {
        for _ in 0..operations / 10 {
            operation().await;
        }
        barrier.wait();
        let (cpu, began) = (thread_cpu(), Instant::now());
        for _ in 0..operations {
            operation().await;
        }
        let (cpu, wall) = (thread_cpu().saturating_sub(cpu), began.elapsed());
        let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(operations);
        Self { cpu_ns: each(cpu), wall_ns: each(wall) }
    }
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
