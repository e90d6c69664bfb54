//! A target and its peer as child processes that never outlive their owner.
//!
//! What keeps that promise: a drop kills them; the kernel kills them when the thread that started them ends, and that is
//! one thread which lives as long as this process; and an alarm, which an exec leaves running, ends them after
//! [`LIFETIME`].

use std::{
    ffi::CString,
    fs,
    io::{self, BufRead, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
    thread::ThreadNameSpaceType,
};

use super::{LIFETIME, Need, READY_LIMIT, Settled, Target, TargetError, build, cgroup::Cgroup, os};
use crate::{netns, tls};

/// How often it is looked for what no event tells of.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The most of what a program complains of that is kept.
const MAX_COMPLAINT_BYTES: usize = 4096;

/// A target that runs and whose fault is there. It ends, and its peer with it, when this is dropped.
#[derive(Debug)]
pub struct Running {
    // Dropped in this order: a folder goes when nobody uses it any more.
    target: Process,
    peer: Option<Process>,
    _group: Option<Cgroup>,
    _folder: Folder,
    port: Option<u16>,
}

impl Running {
    /// The process that is to be diagnosed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.target.child.id()
    }

    /// The process on the other side of it, where there is one.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        Some(self.peer.as_ref()?.child.id())
    }

    /// The port of loopback on which the target or its peer listens, where one of them does.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Waits until the target or its peer ends, which they do after two minutes; no longer than the limit. Tells how it
    /// ended.
    pub fn ended(&mut self, limit: Duration) -> Option<String> {
        let rounds = limit.as_millis() / LOOK_EVERY.as_millis();
        for _ in 0..=rounds {
            for (who, process) in [("the target", Some(&mut self.target)), ("its peer", self.peer.as_mut())] {
                if let Some(Ok(Some(status))) = process.map(|process| process.child.try_wait()) {
                    return Some(format!("{who} ended: {status}"));
                }
            }
            self.target.pause();
        }
        None
    }
}

/// Starts a target and its peer, in the order in which they need each other.
pub(super) fn start(target: &Target) -> Result<Running, TargetError> {
    let program = build::program(target)?;
    let folder = Folder::new()?;
    let group = target.needs.contains(&Need::Cgroup).then(Cgroup::new).transpose()?;
    let mut network = if target.is_namespaced() { Network::New } else { Network::Shared };

    let mut port = None;
    let mut peer = None;
    if !target.before.is_empty() {
        let process = start_peer(target, &mut network, None)?;
        port = Some(process.port(READY_LIMIT)?);
        peer = Some(process);
    }

    let mut command = Command::new(&program.path);
    command.args(&program.script).args(&target.arguments).current_dir(&folder.0);
    if target.identity {
        let (certificate, key) = tls::server_identity()?;
        for (name, text) in [("certificate.pem", certificate), ("key.pem", key)] {
            let file = folder.0.join(name);
            fs::write(&file, text).map_err(os("write a certificate"))?;
            command.arg(file);
        }
    }
    if let Some(port) = port {
        command.arg(port.to_string());
    }
    let resolver = if target.needs.contains(&Need::Resolver) {
        let file = folder.0.join("resolv.conf");
        fs::write(&file, "nameserver 127.0.0.1\n").map_err(os("write resolv.conf"))?;
        Some(c_string(file))
    } else {
        None
    };
    let outside = Outside {
        lifetime: Some(LIFETIME),
        network: network.take(),
        resolver,
        group: group.as_ref().map(|group| c_string(group.members())),
    };
    let process =
        Process::spawn(command, outside).map_err(os(format!("start {}", program.path.display())))?.named(&target.name);
    network.made_by(&process)?;

    if !target.after.is_empty() {
        let its_port = process.port(READY_LIMIT)?;
        port = Some(its_port);
        peer = Some(start_peer(target, &mut network, Some(its_port))?);
    }
    let who_tells = peer.as_ref().filter(|_| target.ready_by_peer).unwrap_or(&process);
    let other = if target.ready_by_peer { Some(&process) } else { peer.as_ref() };
    who_tells.says("ready", READY_LIMIT, other)?;
    if let Some(settled) = target.settled {
        process.until(READY_LIMIT, |pid| settled.is_seen(pid))?;
    }
    Ok(Running { target: process, peer, _group: group, _folder: folder, port })
}

fn start_peer(target: &Target, network: &mut Network, port: Option<u16>) -> Result<Process, TargetError> {
    let program = build::peer()?;
    let mut command = Command::new(&program.path);
    command.args(&program.script).args(&target.before).args(&target.after).current_dir("/");
    if let Some(port) = port {
        command.arg(port.to_string());
    }
    let outside = Outside { lifetime: Some(LIFETIME), network: network.take(), ..Outside::default() };
    let process = Process::spawn(command, outside)
        .map_err(os(format!("start the peer of {}", target.name)))?
        .named(&format!("the peer of {}", target.name));
    network.made_by(&process)?;
    Ok(process)
}

/// A path holds no NUL; one that does is none.
fn c_string(path: PathBuf) -> CString {
    CString::new(path.into_os_string().into_vec()).unwrap_or_default()
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

impl Settled {
    fn is_seen(self, pid: u32) -> bool {
        match self {
            Self::SynSent => {
                let own = sockets(pid);
                fs::read_to_string(format!("/proc/{pid}/net/tcp")).is_ok_and(|table| {
                    table.lines().skip(1).any(|line| {
                        let mut columns = line.split_whitespace();
                        columns.nth(3) == Some("02")
                            && columns.nth(5).is_some_and(|inode| own.iter().any(|own| own == inode))
                    })
                })
            }
            Self::Uninterruptible => fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| {
                tasks.flatten().any(|task| {
                    let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
                })
            }),
        }
    }
}

/// The network of the processes of one target.
enum Network {
    /// That of the machine.
    Shared,
    /// The next process makes one.
    New,
    /// The next process makes one, and that has been asked of it.
    Asked,
    /// The one that this process lives in.
    Of(OwnedFd),
}

impl Network {
    fn take(&mut self) -> Self {
        match self {
            Self::Shared | Self::Asked => Self::Shared,
            Self::New => {
                *self = Self::Asked;
                Self::New
            }
            Self::Of(pidfd) => pidfd.try_clone().map_or(Self::Shared, Self::Of),
        }
    }

    fn made_by(&mut self, process: &Process) -> Result<(), TargetError> {
        if matches!(self, Self::Asked) {
            let pidfd = rustix::process::pidfd_open(Pid::from_child(&process.child), PidfdFlags::empty())
                .map_err(|errno| os("hold on to a process")(errno.into()))?;
            *self = Self::Of(pidfd);
        }
        Ok(())
    }
}

/// What a process finds around it. All of it is made before the fork.
pub(super) struct Outside {
    lifetime: Option<Duration>,
    network: Network,
    /// What it sees as `/etc/resolv.conf`.
    resolver: Option<CString>,
    /// The file by which a control group is joined.
    group: Option<CString>,
}

impl Default for Outside {
    fn default() -> Self {
        Self { lifetime: None, network: Network::Shared, resolver: None, group: None }
    }
}

impl Outside {
    /// Between fork and exec: system calls and nothing else.
    fn enter(&self, maps: &netns::Maps, parent: Option<Pid>) -> Result<(), Errno> {
        if let Some(group) = &self.group {
            let group = rustix::fs::open(group, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&group, b"0")?;
        }
        match &self.network {
            Network::Shared | Network::Asked => {}
            Network::New => netns::isolate(maps).map_err(|refusal| refusal.errno)?,
            Network::Of(pidfd) => {
                let both = ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK;
                match rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), both) {
                    // The user namespace was refused to the other, and so it is our own.
                    Err(Errno::INVAL) => {
                        rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::NETWORK)?;
                    }
                    result => result?,
                }
            }
        }
        if let Some(resolver) = &self.resolver {
            netns::replace_resolver(resolver)?;
        }
        close_on_exec_from(3)?;
        if let Some(lifetime) = self.lifetime {
            set_alarm(lifetime);
        }
        // Last, because a change of user clears it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == parent { Ok(()) } else { Err(Errno::CHILD) }
    }
}

/// What this process has inherited itself is none of its children's business: their descriptors are counted.
fn close_on_exec_from(first: libc::c_uint) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "rustix has no close_range")]
    // SAFETY: close_range takes numbers, and with this flag closes nothing in this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    // A kernel before 5.11 does not know the flag, and lets the child inherit.
    if result == 0 { Ok(()) } else { Errno::from_io_error(&io::Error::last_os_error()).map_or(Ok(()), ignore_unknown) }
}

fn ignore_unknown(errno: Errno) -> Result<(), Errno> {
    if errno == Errno::NOSYS || errno == Errno::INVAL { Ok(()) } else { Err(errno) }
}

fn set_alarm(after: Duration) {
    let seconds = libc::c_uint::try_from(after.as_secs()).unwrap_or(libc::c_uint::MAX);
    #[expect(unsafe_code, reason = "rustix has no alarm")]
    // SAFETY: alarm takes a number and touches no memory.
    unsafe {
        libc::alarm(seconds);
    }
}

/// A child and what it says.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    lines: Receiver<String>,
    complaint: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts a command in a process group of its own.
    pub(super) fn spawn(mut command: Command, outside: Outside) -> io::Result<Self> {
        let maps = netns::Maps::of_this_process();
        let parent = Some(rustix::process::getpid());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        #[expect(unsafe_code, reason = "namespaces, groups and alarms are set between fork and exec")]
        // SAFETY: between fork and exec only functions that are safe in a signal handler may run. `enter` makes system
        // calls on memory that exists already; it neither allocates nor takes a lock, and neither does the error.
        unsafe {
            command.pre_exec(move || {
                outside.enter(&maps, parent).map_err(|errno| io::Error::from_raw_os_error(errno.raw_os_error()))
            });
        }
        let name = Path::new(command.get_program()).display().to_string();
        let mut child = spawn_from_thread_that_stays(command)?;
        let (sender, lines) = mpsc::channel();
        let complaint = Arc::<Mutex<Vec<u8>>>::default();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut process = Self { child, name, lines, complaint: complaint.clone() };
        // These threads end when the child and all who inherited its output have.
        process.listen(stdout, move |stdout| {
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok());
        })?;
        process.listen(stderr, move |mut stderr| {
            let mut bytes = [0; 512];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                let mut kept = complaint.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_COMPLAINT_BYTES.saturating_sub(kept.len());
                kept.extend(bytes.iter().take(count.min(room)));
            }
        })?;
        Ok(process)
    }

    fn listen<T: Send + 'static>(
        &mut self,
        output: Option<T>,
        listen: impl FnOnce(T) + Send + 'static,
    ) -> io::Result<()> {
        let Some(output) = output else { return Ok(()) };
        thread::Builder::new().name("lab listens".to_owned()).spawn(move || listen(output)).map(drop)
    }

    fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The port that it says it listens on.
    fn port(&self, limit: Duration) -> Result<u16, TargetError> {
        let line = self.line(limit, None)?;
        let port = line.strip_prefix("listening ").and_then(|port| port.parse().ok());
        port.ok_or_else(|| TargetError::Ended { who: self.name.clone(), output: format!("{line:?} is no port") })
    }

    /// Waits for a line of this content; others are passed over. Who else must not end meanwhile is watched.
    fn says(&self, wanted: &str, limit: Duration, other: Option<&Self>) -> Result<(), TargetError> {
        while self.line(limit, other)? != wanted {}
        Ok(())
    }

    fn line(&self, limit: Duration, other: Option<&Self>) -> Result<String, TargetError> {
        for _ in 0..limit.as_millis() / LOOK_EVERY.as_millis() {
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.has_ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(other) = other.filter(|other| other.is_gone()) {
                return Err(other.has_ended());
            }
        }
        Err(TargetError::TooLong { who: self.name.clone(), limit, output: self.complaint() })
    }

    /// Waits for what no event tells of.
    fn until(&self, limit: Duration, is_seen: impl Fn(u32) -> bool) -> Result<(), TargetError> {
        for _ in 0..limit.as_millis() / LOOK_EVERY.as_millis() {
            if is_seen(self.child.id()) {
                return Ok(());
            }
            if self.is_gone() {
                return Err(self.has_ended());
            }
            self.pause();
        }
        Err(TargetError::TooLong { who: self.name.clone(), limit, output: self.complaint() })
    }

    /// A moment, in which what it says is passed over.
    fn pause(&self) {
        if let Err(RecvTimeoutError::Disconnected) = self.lines.recv_timeout(LOOK_EVERY) {
            // It has closed its output, so that there is nothing to wait for. This channel is silent for ever.
            let (_silent, nothing) = mpsc::channel::<()>();
            let _ = nothing.recv_timeout(LOOK_EVERY);
        }
    }

    /// Whether it is a zombie or no more.
    fn is_gone(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    }

    fn has_ended(&self) -> TargetError {
        TargetError::Ended { who: self.name.clone(), output: self.complaint() }
    }

    fn complaint(&self) -> String {
        let kept = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }

    /// Waits for the end of a program that ends by itself; what it complained of, if it failed.
    pub(super) fn succeeds(mut self, name: &str, limit: Duration) -> Result<Result<(), String>, TargetError> {
        for _ in 0..limit.as_millis() / LOOK_EVERY.as_millis() {
            match self.child.try_wait().map_err(os(format!("wait for {name}")))? {
                None => self.pause(),
                Some(status) if status.success() => return Ok(Ok(())),
                Some(status) => {
                    // What it said last may be on its way still.
                    while self.lines.recv_timeout(LOOK_EVERY).is_ok() {}
                    return Ok(Err(format!("{status}\n{}", self.complaint())));
                }
            }
        }
        Err(TargetError::TooLong { who: name.to_owned(), limit, output: self.complaint() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A pid that was waited for may be somebody else's by now. Anything else may fail only because there is
        // nothing left to do.
        if let Ok(None) = self.child.try_wait() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            drop(self.child.wait());
        }
    }
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// A child whose parent is this process, and not the thread that happens to want it.
fn spawn_from_thread_that_stays(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        // Without the thread, orders are dropped, and whoever waits for one learns of it.
        drop(thread::Builder::new().name("lab parent".to_owned()).spawn(move || {
            for (mut command, child) in orders {
                drop(child.send(command.spawn()));
            }
        }));
        sender
    });
    let (sender, child) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes is gone");
    orders.send((command, sender)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// A folder of one run.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, TargetError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cache = build::cache()?;
        for folder in build::orphans(&cache, "run-") {
            drop(fs::remove_dir_all(folder));
        }
        let folder = cache.join(format!("run-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&folder).map_err(os("make a folder to run in"))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder of a finished run harms nobody.
        drop(fs::remove_dir_all(&self.0));
    }
}
