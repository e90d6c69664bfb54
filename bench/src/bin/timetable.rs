//! Requests by a timetable: `timetable PORT RATE MS SETTLE_MS CONNECTIONS`. Each request has its instant, at equal
//! distances, and goes out then on a kept connection, or as soon as one is free. Its latency counts from that instant,
//! so a server that stalls is charged for all whom it kept waiting; one that is never answered counts up to the end. How
//! late the timetable itself was looked at is printed, too: that is this program's fault, and a run with too much of it is
//! worth nothing.

use std::{
    collections::VecDeque,
    env,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use overdue_bench::Numbers;
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    thread::set_current_timer_slack,
};

const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n";
/// After the last request was due.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 16 * 1024;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<u64> = env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let &[port, rate, ms, settle_ms, connections] = arguments.as_slice() else {
        bail!("usage: timetable PORT RATE MS SETTLE_MS CONNECTIONS");
    };
    ensure!((1..=1_000_000).contains(&rate) && (1..=10_000).contains(&connections), "out of bounds");
    // 50us otherwise, which a timer waits in vain.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let distance = Duration::from_nanos(1_000_000_000 / rate);
    let total = u32::try_from((settle_ms + ms) * rate / 1000)?;
    let settle = Duration::from_millis(settle_ms);
    let mut run = Run::connect(u16::try_from(port)?, connections, usize::try_from(total)?)?;
    run.go(distance, total, settle)?;
    run.print()
}

struct Connection {
    stream: TcpStream,
    /// When the request was due that it carries.
    due: Option<Instant>,
    read: Vec<u8>,
}

struct Run {
    epoll: std::os::fd::OwnedFd,
    connections: Vec<Connection>,
    free: VecDeque<usize>,
    /// Instants of requests that found no connection free.
    waiting: VecDeque<Instant>,
    latencies_ns: Vec<u64>,
    lateness_ns: Vec<u64>,
    unanswered: u32,
}

impl Run {
    fn connect(port: u16, count: u64, total: usize) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::new();
        for index in 0..count {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(index), epoll::EventFlags::IN)?;
            connections.push(Connection { stream, due: None, read: Vec::with_capacity(ANSWER_MAX) });
        }
        Ok(Self {
            epoll,
            free: (0..connections.len()).collect(),
            connections,
            waiting: VecDeque::new(),
            latencies_ns: Vec::with_capacity(total),
            lateness_ns: Vec::with_capacity(total),
            unanswered: 0,
        })
    }

    fn go(&mut self, distance: Duration, total: u32, settle: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let counted = began + settle;
        let last = began + distance * total;
        let mut next = 0;
        let mut answered = 0;
        let mut events = Vec::with_capacity(256);
        while answered < total {
            let now = Instant::now();
            while next < total && began + distance * next <= now {
                let due = began + distance * next;
                next += 1;
                if due >= counted {
                    self.lateness_ns.push(nanos(now - due));
                }
                self.waiting.push_back(due);
            }
            while let Some(index) = self.free.front().copied().filter(|_| !self.waiting.is_empty()) {
                self.free.pop_front();
                self.connections[index].send(self.waiting.pop_front().context("nobody waits")?)?;
            }
            if now >= last + PATIENCE {
                self.give_up(counted, now);
                return Ok(());
            }
            let until = if next < total { began + distance * next } else { last + PATIENCE };
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().try_into()?, tv_nsec: left.subsec_nanos().into() };
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&left)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in &events {
                let index = usize::try_from(event.data.u64())?;
                let Some(due) = self.connections[index].answer()? else { continue };
                answered += 1;
                if due >= counted {
                    self.latencies_ns.push(nanos(due.elapsed()));
                }
                self.free.push_back(index);
            }
        }
        Ok(())
    }

    fn give_up(&mut self, counted: Instant, now: Instant) {
        let sent = self.connections.iter_mut().filter_map(|connection| connection.due.take());
        for due in self.waiting.drain(..).chain(sent) {
            self.unanswered += 1;
            if due >= counted {
                self.latencies_ns.push(nanos(now - due));
            }
        }
    }

    fn print(&mut self) -> anyhow::Result<()> {
        self.latencies_ns.sort_unstable();
        self.lateness_ns.sort_unstable();
        let mut numbers = Numbers::default().with("unanswered", f64::from(self.unanswered));
        for (name, values, parts) in [
            ("p50_us", &self.latencies_ns, 500),
            ("p99_us", &self.latencies_ns, 990),
            ("p999_us", &self.latencies_ns, 999),
            ("late_p99_us", &self.lateness_ns, 990),
        ] {
            numbers = numbers.with(name, quantile(values, parts).context("there was no request")?);
        }
        numbers.print();
        Ok(())
    }
}

impl Connection {
    fn send(&mut self, due: Instant) -> anyhow::Result<()> {
        // So few bytes go whole into the buffer of a connection on which all was answered.
        self.stream.write_all(REQUEST).context("a request cannot be sent")?;
        self.due = Some(due);
        Ok(())
    }

    /// Reads what is there. When the answer is whole, says when its request was due.
    fn answer(&mut self) -> anyhow::Result<Option<Instant>> {
        let mut piece = [0; ANSWER_MAX];
        let read = match self.stream.read(&mut piece) {
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(None),
            other => other.context("a connection broke")?,
        };
        ensure!(read > 0, "a connection was closed");
        self.read.extend_from_slice(&piece[..read]);
        ensure!(self.read.len() < ANSWER_MAX && self.due.is_some(), "nobody asked for that");
        let Some(length) = whole(&self.read)? else { return Ok(None) };
        ensure!(self.read.len() == length, "more than one answer");
        self.read.clear();
        Ok(self.due.take())
    }
}

/// The length of an answer with its head, if that is there.
fn whole(read: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&read[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200"), "the answer is {:?}", head.lines().next().unwrap_or_default());
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length")).context("no content-length")?;
    let total = end + 4 + length.1.trim().parse::<usize>()?.min(ANSWER_MAX);
    Ok((read.len() >= total).then_some(total))
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Of sorted values, that below which so many thousandths lie; in microseconds.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 ns")]
fn quantile(values: &[u64], parts: usize) -> Option<f64> {
    let at = (values.len() * parts / 1000).min(values.len().checked_sub(1)?);
    Some(*values.get(at)? as f64 / 1000.0)
}
