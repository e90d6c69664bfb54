//! What processes and the machine have used, as the kernel counts it.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::peer::Peer;

/// What was used by one moment, or between two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    length: Duration,
    requests: u64,
    server: Duration,
    watcher: Option<Duration>,
    /// All processors together, whoever used them: also what runs between processes.
    machine: Duration,
}

impl Usage {
    pub(crate) fn now(peer: &Peer, watcher: Option<u32>) -> anyhow::Result<Self> {
        let requests = peer.requests()?;
        Ok(Self {
            at: Instant::now(),
            length: Duration::ZERO,
            requests,
            server: cpu_of(peer.pid()).context("the server is gone")?,
            watcher: watcher.map(|pid| cpu_of(pid).context("the watcher is gone")).transpose()?,
            machine: busy().context("/proc/stat tells nothing")?,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            at: self.at,
            length: self.at - before.at,
            // The one that asks is none of the load's.
            requests: (self.requests - before.requests).saturating_sub(1),
            server: self.server.saturating_sub(before.server),
            watcher: self.watcher.zip(before.watcher).map(|(now, before)| now.saturating_sub(before)),
            machine: self.machine.saturating_sub(before.machine),
        }
    }

    /// Requests in a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests() / self.length.as_secs_f64()
    }

    /// Processor time of the server for each.
    pub(crate) fn server_us(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.requests()
    }

    /// Processor time of all there is for each.
    pub(crate) fn machine_us(&self) -> f64 {
        self.machine.as_secs_f64() * 1e6 / self.requests()
    }

    /// Processor time of whoever else was looked at, for each.
    pub(crate) fn watcher_us(&self) -> Option<f64> {
        self.watcher.map(|watcher| watcher.as_secs_f64() * 1e6 / self.requests())
    }

    /// How much of one processor the watcher used.
    pub(crate) fn watcher_percent(&self) -> Option<f64> {
        self.watcher.map(|watcher| watcher.as_secs_f64() * 100.0 / self.length.as_secs_f64())
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 requests")]
    fn requests(&self) -> f64 {
        self.requests.max(1) as f64
    }
}

/// Processor time of the threads that a process has, to the nanosecond. `None` when it has ended.
pub(crate) fn cpu_of(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut sum = None;
    for thread in threads.flatten() {
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let used = text.split(' ').next()?.parse().ok()?;
        sum = Some(sum.unwrap_or_default() + Duration::from_nanos(used));
    }
    sum.filter(|_| !is_zombie(pid))
}

fn is_zombie(pid: u32) -> bool {
    status(pid, "State:").is_none_or(|state| state.starts_with('Z'))
}

/// The most memory that a process ever held, bytes.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let kilobytes: u64 = status(pid, "VmHWM:")?.strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The memory that a process holds now, bytes.
pub(crate) fn memory(pid: u32) -> Option<u64> {
    let kilobytes: u64 = status(pid, "VmRSS:")?.strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Whether a process has a descriptor of a process.
pub(crate) fn holds_pidfd(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links.any(|link| link.to_string_lossy().contains("pidfd"))
}

/// Who traces a process.
pub(crate) fn tracer(pid: u32) -> Option<u32> {
    status(pid, "TracerPid:")?.parse().ok()
}

fn status(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned())
}

/// Time in which processors were not idle. What a host took from this machine is not counted.
fn busy() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let columns: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal guest ...: a guest's is in user's already.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|column| columns.get(*column)).sum();
    Some(Duration::from_secs(busy) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?)
}

/// The number of requests in what nginx's stub_status prints: the third one of the line below `server accepts`.
pub(crate) fn requests_in(status: &str) -> anyhow::Result<u64> {
    let mut lines = status.lines().skip_while(|line| !line.starts_with("server accepts"));
    let numbers = lines.nth(1).with_context(|| format!("no status: {status:?}"))?;
    ensure!(numbers.split_whitespace().count() == 3, "no status: {numbers:?}");
    numbers.split_whitespace().nth(2).context("no requests")?.parse().context("no number of requests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status() {
        let status =
            "Active connections: 2 \nserver accepts handled requests\n 3 3 77 \nReading: 0 Writing: 1 Waiting: 1 \n";
        assert_eq!(requests_in(status).unwrap(), 77);
        assert!(requests_in("404").is_err());
    }

    #[test]
    fn own_usage() {
        let pid = std::process::id();
        assert!(cpu_of(pid).is_some() && cpu_of(u32::MAX).is_none());
        assert!(peak_memory(pid).unwrap() > 1 << 20);
        assert_eq!(tracer(pid), Some(0));
        assert!(busy().unwrap() > Duration::ZERO);
    }
}
