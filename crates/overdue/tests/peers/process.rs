//! Servers as child processes: found on `PATH`, started on free ports, gone with the test.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::net::TcpStream;

use crate::{identity::Identity, ms};

/// Polls of 20 ms until a server must be there: 10 s in all.
const POLLS_MAX: usize = 500;
/// A port that was free may be taken by the time the server binds it; more often than this is no accident.
const STARTS_MAX: usize = 5;

/// The program, if it is installed. Says so when it is not, and fails on a build server.
pub(crate) fn program(name: &str, install: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let ci = env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "{name} is not on PATH: {install}");
        // Not eprintln, which the test harness would hide.
        let _ = writeln!(io::stderr(), "not tested against {name}, which is not on PATH: {install}");
    }
    found
}

/// A directory that is removed when dropped.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("peer-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Certificates and keys, under the names that the configurations use.
    pub(crate) fn write_identity(&self, identity: &Identity) {
        self.write("authority.pem", &identity.authority_pem);
        self.write("server.pem", &identity.server_pem);
        self.write("server.key", &identity.server_key_pem);
        self.write("both.pem", format!("{}{}", identity.server_pem, identity.server_key_pem));
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that is running. Killed when dropped; a test that fails shows what the server had to say.
pub(crate) struct Process {
    child: Child,
    dir: Dir,
    /// It has children of its own, which it ends when asked to.
    has_children: bool,
}

impl Process {
    /// Starts what `command` makes of a directory and `COUNT` free ports, and waits until it listens on all of them.
    pub(crate) async fn start<const COUNT: usize>(
        command: impl Fn(&Dir, &[u16; COUNT]) -> Command,
    ) -> (Self, [u16; COUNT]) {
        let mut log = String::new();
        for _ in 0..STARTS_MAX {
            let ports = free_ports();
            let dir = Dir::new();
            let mut process = Self::spawn(command(&dir, &ports), dir);
            match process.listens_on(&ports).await {
                Ok(()) => return (process, ports),
                Err(exit) => log = format!("{exit}\n{}", process.log()),
            }
            assert!(log.to_lowercase().contains("address already in use"), "the server does not start: {log}");
        }
        panic!("{STARTS_MAX} times the ports were taken: {log}");
    }

    /// Starts `command`, which writes into the log `log` of `dir`.
    pub(crate) fn spawn(mut command: Command, dir: Dir) -> Self {
        let log = File::create(dir.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Self { child: child.unwrap_or_else(|err| panic!("{command:?}: {err}")), dir, has_children: false }
    }

    pub(crate) fn has_children(&mut self) {
        self.has_children = true;
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// What the server has written.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }

    /// Calls `ready` until it gives something. An error when the server ends or never gets there.
    pub(crate) async fn until<T>(&mut self, mut ready: impl AsyncFnMut(&Self) -> Option<T>) -> Result<T, String> {
        for _ in 0..POLLS_MAX {
            if let Some(exit) = self.child.try_wait().unwrap() {
                return Err(format!("the server ended: {exit}"));
            }
            if let Some(ready) = ready(self).await {
                return Ok(ready);
            }
            tokio::time::sleep(ms(20)).await;
        }
        Err("the server is not ready after 10 s".to_owned())
    }

    async fn listens_on(&mut self, ports: &[u16]) -> Result<(), String> {
        for port in ports {
            self.until(async |_| TcpStream::connect(local(*port)).await.ok()).await?;
        }
        // Somebody else might have answered.
        self.until(async |_| Some(())).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_children {
            self.signal(rustix::process::Signal::TERM);
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Ports that were free a moment ago, all different.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind(local(0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A port on which nobody listens for as long as the socket lives.
pub(crate) fn deaf_port() -> (rustix::fd::OwnedFd, u16) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &local(0)).unwrap();
    let addr = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    (socket, addr.port())
}
