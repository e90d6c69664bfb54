//! What /proc shows of a process.

use std::{fs, thread, time::Duration};

/// Rounds of 20 ms until what is expected must be seen: 30 s in all, because machines may be busy.
const ROUNDS_MAX: u32 = 1500;
const ROUND: Duration = Duration::from_millis(20);

/// A process, and the port that it or its peer listens on.
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) port: Option<u16>,
}

/// The states of include/net/tcp_states.h.
#[derive(Clone, Copy)]
pub(crate) enum State {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait2 = 5,
    CloseWait = 8,
    Listen = 10,
}

/// A line of /proc/PID/net/tcp.
pub(crate) struct Socket {
    pub(crate) state: u8,
    /// Local and remote.
    pub(crate) addresses: [[u8; 4]; 2],
    ports: [u16; 2],
    pub(crate) unsent: u64,
    /// For a listener: who waits to be accepted.
    pub(crate) unread: u64,
    pub(crate) has_timer: bool,
    inode: String,
}

impl Socket {
    fn parse(line: &str) -> Option<Self> {
        let columns: Vec<_> = line.split_whitespace().collect();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let end = |text: &str| {
            let (address, port) = text.split_once(':')?;
            let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
            Some((address, u16::from_str_radix(port, 16).ok()?))
        };
        let (local, remote) = (end(columns.get(1)?)?, end(columns.get(2)?)?);
        let (unsent, unread) = columns.get(4)?.split_once(':')?;
        Some(Self {
            state: u8::from_str_radix(columns.get(3)?, 16).ok()?,
            addresses: [local.0, remote.0],
            ports: [local.1, remote.1],
            unsent: hex(unsent)?,
            unread: hex(unread)?,
            has_timer: !columns.get(5)?.starts_with("00:"),
            inode: (*columns.get(9)?).to_owned(),
        })
    }

    pub(crate) fn is_of(&self, port: Option<u16>) -> bool {
        self.ports.iter().any(|its| Some(*its) == port)
    }
}

impl Seen {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default()
    }

    pub(crate) fn is_there(&self) -> bool {
        !self.read("stat").is_empty()
    }

    /// What each descriptor leads to.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        links.filter_map(|link| Some(fs::read_link(link.ok()?.path()).ok()?.display().to_string())).collect()
    }

    /// How many descriptors lead to this file.
    pub(crate) fn open(&self, file: &str) -> usize {
        self.descriptors().iter().filter(|link| *link == file).count()
    }

    /// The inodes of its sockets.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let inode = |link: &String| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
        self.descriptors().iter().filter_map(inode).collect()
    }

    /// All TCP sockets of its network namespace.
    pub(crate) fn table(&self) -> Vec<Socket> {
        self.read("net/tcp").lines().skip(1).filter_map(Socket::parse).collect()
    }

    /// Its own TCP sockets.
    pub(crate) fn tcp(&self) -> Vec<Socket> {
        let own = self.sockets();
        self.table().into_iter().filter(|socket| own.contains(&socket.inode)).collect()
    }

    pub(crate) fn count(&self, state: State) -> i64 {
        i64::try_from(self.tcp().iter().filter(|socket| socket.state == state as u8).count()).unwrap()
    }

    /// How many wait to be accepted on the port.
    pub(crate) fn accept_queue(&self) -> u64 {
        let table = self.table();
        let listener = table.iter().find(|it| it.state == State::Listen as u8 && Some(it.ports[0]) == self.port);
        listener.expect("a listener").unread
    }

    /// Its own UDP sockets.
    pub(crate) fn udp(&self) -> usize {
        let own = self.sockets();
        let table = self.read("net/udp");
        table.lines().skip(1).filter_map(Socket::parse).filter(|socket| own.contains(&socket.inode)).count()
    }

    /// A counter of /proc/PID/net/snmp or netstat: of the whole namespace.
    pub(crate) fn counter(&self, group: &str, name: &str) -> i64 {
        let text = self.read("net/snmp") + &self.read("net/netstat");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split_whitespace().position(|it| it == name).unwrap();
        values.split_whitespace().nth(at).unwrap().parse().unwrap()
    }

    /// A field of /proc/PID/stat, counted as in proc(5).
    fn stat(&self, field: usize) -> String {
        let stat = self.read("stat");
        let (_, rest) = stat.rsplit_once(") ").expect("a process");
        rest.split(' ').nth(field - 3).unwrap().to_owned()
    }

    /// The state of its first thread.
    pub(crate) fn state(&self) -> char {
        self.stat(3).chars().next().unwrap()
    }

    /// Of all its threads, to the nanosecond.
    pub(crate) fn cpu_ms(&self) -> i64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let of = |text: String| text.split(' ').next().and_then(|time| time.parse::<i64>().ok());
        let times = threads.filter_map(|thread| of(fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?));
        times.sum::<i64>() / 1_000_000
    }

    fn status(&self, name: &str) -> i64 {
        let status = self.read("status");
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a field");
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// How often its first thread went to sleep.
    pub(crate) fn voluntary_switches(&self) -> i64 {
        self.status("voluntary_ctxt_switches")
    }

    pub(crate) fn threads(&self) -> i64 {
        self.status("Threads")
    }

    /// Threads that sleep in the kernel's futex, which may be read without privilege.
    pub(crate) fn in_futex(&self) -> i64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let wchan = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("wchan")).ok());
        i64::try_from(wchan.filter(|wchan| wchan.starts_with("futex")).count()).unwrap()
    }

    pub(crate) fn resident_kib(&self) -> i64 {
        self.status("VmRSS")
    }

    /// The timers among its descriptors.
    pub(crate) fn timers(&self) -> String {
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", self.pid)).unwrap();
        let texts = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
        texts.filter(|text| text.contains("it_value")).collect()
    }

    /// In how many periods its control group used up its quota.
    pub(crate) fn throttled(&self) -> i64 {
        let groups = self.read("cgroup");
        let group =
            groups.lines().find_map(|line| Some(line.split_at(line.find("/overdue-lab-")?).1)).expect("a group");
        let files = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"].map(|root| format!("{root}{group}/cpu.stat"));
        let stat = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap();
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok()).unwrap()
    }

    /// Waits until something is seen.
    pub(crate) fn eventually(&self, what: &str, is_seen: impl Fn(&Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            if is_seen(self) {
                return;
            }
            pause();
        }
        panic!("not seen: {what}");
    }

    /// Waits until a number has grown by so much.
    pub(crate) fn grows(&self, what: &str, by: i64, number: impl Fn(&Self) -> i64) {
        let before = number(self);
        self.eventually(&format!("{by} more {what}, from {before}"), |seen| number(seen) >= before + by);
    }

    /// Looks for a second, and finds the same number each time.
    pub(crate) fn rests(&self, number: impl Fn(&Self) -> i64) {
        let before = number(self);
        for _ in 0..50 {
            pause();
            assert_eq!(number(self), before);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing tells of changes in /proc")]
fn pause() {
    thread::sleep(ROUND);
}
