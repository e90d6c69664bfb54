//! The processes of this machine that have TCP sockets, by cheap looks: `/proc` and one dump of `sock_diag`, no privilege
//! needed. What is another user's is counted, and not shown.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
};

use overdue_core::facts::TcpState;
use rustix::fs::{readlink, readlinkat};

use super::{
    Clock, Target, clock,
    descriptors::{self, Named},
    fds::Limits,
    sockets::Source,
    stat,
};
use crate::observation::Hidden;

/// Processor time of one look, microseconds: processes that it does not come to are counted.
const LOOK_US: u64 = 400_000;
/// Descriptors of each process that are looked at.
const DESCRIPTORS: usize = 20_000;
/// Sockets of one dump.
const SOCKETS: usize = 200_000;

/// One process.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Listed {
    /// Its number.
    pub pid: u32,
    /// Its name, as it gave it to itself: untrusted.
    pub name: String,
    /// Whose it is.
    pub uid: u32,
    /// Processors that it used since the look before; `None` at the first.
    pub processors: Option<f64>,
    /// Its sockets; `None` where they are in another network namespace.
    pub sockets: Option<Counted>,
    /// Open descriptors.
    pub fds: u64,
    /// Their soft limit.
    pub fd_limit: Option<u64>,
}

/// The TCP sockets of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Connections, in whatever state.
    pub connections: u32,
    /// Those that are established.
    pub established: u32,
    /// Those that the peer closed and the process did not.
    pub close_wait: u32,
    /// The oldest of these: so long ago at least, milliseconds.
    pub close_wait_ms: Option<u32>,
    /// Listeners.
    pub listeners: u32,
    /// The fullest accept queue: how many wait in it, and how many may.
    pub queue: Option<(u32, u32)>,
}

/// All processes at one look.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Processes {
    /// Those that have sockets.
    pub listed: Vec<Listed>,
    /// Those whose descriptors this user may not see.
    pub hidden: u64,
    /// Those that the time for one look was too short for.
    pub left_out: u64,
    /// Why less is shown of all of them.
    pub less: Option<Hidden>,
}

/// Looks at all processes.
#[derive(Debug)]
pub struct Machine {
    source: Source,
    less: Option<Hidden>,
    clock: Clock,
    /// Of each process when it began and what it had used, both in ticks; and when that was.
    before: HashMap<u32, (u64, u64)>,
    before_us: Option<u64>,
}

/// What the dump says of one socket.
struct Socket {
    state: TcpState,
    queue: (u32, u32),
    silent_ms: Option<u32>,
}

impl Machine {
    /// Of the network namespace that this process is in.
    ///
    /// # Errors
    /// When not even the own sockets can be listed.
    pub fn new() -> Result<Self, Hidden> {
        let own = Target::new(std::process::id()).map_err(|gone| Hidden {
            what: "processes".to_owned(),
            why: format!("/proc cannot be read: {gone}"),
            how: "mount /proc".to_owned(),
        })?;
        let (source, less) = Source::of(&own)?;
        Ok(Self { source, less, clock: Clock::start(), before: HashMap::new(), before_us: None })
    }

    /// Looks at all that there are.
    ///
    /// # Errors
    /// When `/proc` or the sockets cannot be read.
    pub fn look(&mut self) -> io::Result<Processes> {
        let began_us = clock::thread_cpu_us();
        let at_us = self.clock.at_us();
        let elapsed_us = self.before_us.replace(at_us).map(|before| at_us.saturating_sub(before).max(1));
        let sockets = self.sockets()?;
        let network = readlink("/proc/thread-self/ns/net", Vec::new()).ok();
        let mut seen = Processes { less: self.less.clone(), ..Processes::default() };
        let mut used = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == std::process::id() {
                continue;
            }
            if clock::thread_cpu_us().saturating_sub(began_us) > LOOK_US {
                seen.left_out += 1;
                continue;
            }
            let Ok(target) = Target::new(pid) else { continue };
            let Some(stat) = target.read_text("stat", 4096).ok().as_deref().and_then(stat::parse) else { continue };
            let ticks = stat.user_ticks + stat.system_ticks;
            used.insert(pid, (stat.started_ticks, ticks));
            let mut counted = Counted::default();
            let mut has_sockets = false;
            let mut own: HashSet<u64> = HashSet::new();
            let fds = descriptors::each(&target, DESCRIPTORS, |_, named| {
                let Named::Socket(inode) = named else { return };
                has_sockets = true;
                // Two descriptors may name one socket.
                if own.insert(inode)
                    && let Some(socket) = sockets.get(&inode)
                {
                    counted.add(socket);
                }
            });
            let fds = match fds {
                Ok(fds) => fds,
                Err(err) => {
                    seen.hidden += u64::from(err.kind() == io::ErrorKind::PermissionDenied);
                    continue;
                }
            };
            let is_near = readlinkat(target.folder(), target.shared("ns/net"), Vec::new()).ok() == network;
            let has_tcp = counted.connections > 0 || counted.listeners > 0;
            if !(has_tcp || (!is_near && has_sockets)) {
                continue;
            }
            let before = self.before.get(&pid).filter(|(began, _)| *began == stat.started_ticks);
            let processors = before.zip(elapsed_us).map(|((_, before), elapsed_us)| {
                #[expect(clippy::cast_precision_loss, reason = "microseconds between two looks")]
                let share = stat::ticks_us(ticks.saturating_sub(*before)) as f64 / elapsed_us as f64;
                share
            });
            seen.listed.push(Listed {
                pid,
                name: stat.name,
                uid: fs::metadata(format!("/proc/{pid}")).map(|folder| folder.uid()).unwrap_or_default(),
                processors,
                sockets: is_near.then_some(counted),
                fds,
                fd_limit: Limits::of(&target).map(|limits| limits.soft),
            });
        }
        self.before = used;
        Ok(seen)
    }

    /// All sockets of the namespace, by inode.
    fn sockets(&mut self) -> io::Result<HashMap<u64, Socket>> {
        let mut all = HashMap::new();
        self.source.each(true, |seen| {
            if seen.inode != 0 && all.len() < SOCKETS {
                let silent_ms = seen.info.as_ref().map(|info| info.last_ack_recv_ms);
                let queue = (seen.rqueue, seen.wqueue);
                all.insert(seen.inode.into(), Socket { state: seen.state, queue, silent_ms });
            }
        })?;
        Ok(all)
    }
}

impl Counted {
    fn add(&mut self, socket: &Socket) {
        match socket.state {
            TcpState::Listen => {
                self.listeners += 1;
                // By how full it is.
                let fuller = |(queued, may): (u32, u32)| (u64::from(queued) << 32) / u64::from(may.max(1));
                self.queue = self.queue.into_iter().chain([socket.queue]).max_by_key(|queue| fuller(*queue));
                return;
            }
            TcpState::Established => self.established += 1,
            TcpState::CloseWait => {
                self.close_wait += 1;
                // The peer's FIN was the last that it sent.
                self.close_wait_ms = self.close_wait_ms.max(socket.silent_ms);
            }
            _ => {}
        }
        self.connections += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_fullest_queue_and_the_oldest_half_close_are_told() {
        let socket = |state, queue, silent_ms| Socket { state, queue, silent_ms };
        let mut counted = Counted::default();
        counted.add(&socket(TcpState::Listen, (1, 2), None));
        counted.add(&socket(TcpState::Listen, (90, 4096), None));
        counted.add(&socket(TcpState::CloseWait, (0, 0), Some(10)));
        counted.add(&socket(TcpState::CloseWait, (0, 0), Some(7_000)));
        counted.add(&socket(TcpState::Established, (0, 0), Some(9)));
        let expected = Counted {
            connections: 3,
            established: 1,
            close_wait: 2,
            close_wait_ms: Some(7_000),
            listeners: 2,
            queue: Some((1, 2)),
        };
        assert_eq!(counted, expected);
    }

    /// A process that others started is listed; this one is not, as it is who looks.
    #[test]
    fn a_process_with_a_socket_is_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let program =
            "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", program, &port])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (_stream, _): (TcpStream, _) = listener.accept().unwrap();
        let seen = Machine::new().unwrap().look().unwrap();
        let listed = seen.listed.iter().find(|listed| listed.pid == child.id()).unwrap();
        assert_eq!(listed.sockets.unwrap().established, 1);
        assert!(listed.fds >= 4 && listed.fd_limit.is_some_and(|limit| limit > 4), "{listed:?}");
        assert!(seen.listed.iter().all(|listed| listed.pid != std::process::id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
