//! How late timers fire: `timer MEANS VALUE_US SAMPLES`.

use std::{
    env,
    future::pending,
    io::Read as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use overdue::{Context, Limit, Stage, direct, stream::Stream};
use overdue_bench::{Numbers, process::Cpu};
use rustix::{
    event::epoll,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context("usage: timer MEANS VALUE_US SAMPLES");
    let (means, value, samples) = (next()?, Duration::from_micros(next()?.parse()?), next()?.parse()?);
    match means.as_str() {
        "run" => on_tokio(run(value, samples)),
        "stream" => on_tokio(stream(value, samples)),
        "direct" => direct(value, samples),
        "sleep" => on_tokio(sleep(value, samples)),
        "timerfd" => timerfd(value, samples),
        "epoll" => epoll_pwait2(value, samples),
        other => bail!("there is no {other:?}"),
    }
}

fn on_tokio(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Work of a context that never ends by itself.
async fn run(value: Duration, samples: u32) -> anyhow::Result<()> {
    let root = Context::root();
    let mut lateness = Lateness::new(value);
    for _ in 0..samples {
        let began = Instant::now();
        let ended = root.child(Limit::total(value)).run(Stage::Handle, pending::<()>()).await;
        lateness.add(began);
        ensure!(ended.is_err_and(|err| err.is_timeout()), "no timeout");
    }
    lateness.print();
    Ok(())
}

/// The read deadline of a connection whose peer is silent.
async fn stream(value: Duration, samples: u32) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut stream = Stream::from_tcp(TcpStream::connect(listener.local_addr()?).await?)?;
    let _peer = listener.accept().await?;
    let mut lateness = Lateness::new(value);
    for _ in 0..samples {
        let began = Instant::now();
        stream.set_read_deadline(value);
        let read = stream.read(&mut [0]).await;
        lateness.add(began);
        ensure!(read.is_err_and(|err| err.kind() == std::io::ErrorKind::TimedOut), "no timeout");
    }
    lateness.print();
    Ok(())
}

/// The same of a connection whose thread blocks.
fn direct(value: Duration, samples: u32) -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut stream = direct::Stream::connect(listener.local_addr()?, Duration::from_secs(1))?;
    let _peer = listener.accept()?;
    let mut lateness = Lateness::new(value);
    for _ in 0..samples {
        let began = Instant::now();
        stream.set_read_deadline(value);
        let read = stream.read(&mut [0]);
        lateness.add(began);
        ensure!(read.is_err_and(|err| err.kind() == std::io::ErrorKind::TimedOut), "no timeout");
    }
    lateness.print();
    Ok(())
}

async fn sleep(value: Duration, samples: u32) -> anyhow::Result<()> {
    let mut lateness = Lateness::new(value);
    for _ in 0..samples {
        let began = Instant::now();
        tokio::time::sleep(value).await;
        lateness.add(began);
    }
    lateness.print();
    Ok(())
}

/// A timerfd in an epoll set: what the kernel gives to those who ask it.
fn timerfd(value: Duration, samples: u32) -> anyhow::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // Setting a timer clears what it had to say, so nobody needs to read it.
    epoll::add(&set, &timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value.try_into()? };
    let mut events = Vec::with_capacity(1);
    let mut lateness = Lateness::new(value);
    for _ in 0..samples {
        let began = Instant::now();
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
        events.clear();
        epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), None)?;
        lateness.add(began);
    }
    lateness.print();
    Ok(())
}

/// The time to wait as the argument of epoll_pwait2, which is what rustix calls.
fn epoll_pwait2(value: Duration, samples: u32) -> anyhow::Result<()> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let timeout = value.try_into()?;
    let mut events = Vec::with_capacity(1);
    let mut lateness = Lateness::new(value);
    for _ in 0..samples {
        let began = Instant::now();
        epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        lateness.add(began);
    }
    lateness.print();
    Ok(())
}

struct Lateness {
    value: Duration,
    late_us: Vec<f64>,
    cpu: Cpu,
}

impl Lateness {
    fn new(value: Duration) -> Self {
        Self { value, late_us: Vec::new(), cpu: Cpu::now() }
    }

    fn add(&mut self, began: Instant) {
        self.late_us.push((began.elapsed().as_secs_f64() - self.value.as_secs_f64()) * 1e6);
    }

    fn print(mut self) {
        let cpu = Cpu::now().since(self.cpu);
        self.late_us.sort_by(f64::total_cmp);
        let at = |percent: usize| self.late_us.get(self.late_us.len() * percent / 100).copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 samples")]
        let cpu_us = (cpu.user + cpu.system).as_secs_f64() * 1e6 / self.late_us.len() as f64;
        Numbers::default().with("p50_us", at(50)).with("p99_us", at(99)).with("cpu_us", cpu_us).print();
    }
}
