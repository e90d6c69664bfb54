//! `overdue why` on healthy programs that everybody runs: whatever it says of them, it must be no verdict.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]
#![expect(clippy::disallowed_methods, reason = "other programs are waited for, by the time that passes for them")]

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const WATCHED: &str = "3s";
/// No server takes longer to begin, and no answer to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Clients at the same time.
const CLIENTS: usize = 4;

/// A program that listens on a port of its own, and its files; both are gone when this is dropped.
struct Stock {
    child: Child,
    addr: SocketAddr,
    folder: PathBuf,
}

impl Stock {
    /// `None` where the program is not there. `write` gets the folder and the port, writes what the program needs and
    /// gives its arguments.
    fn start(program: &str, write: impl FnOnce(&Path, u16) -> Vec<String>) -> Option<Self> {
        let folder = env::temp_dir().join(format!("overdue-stock-{program}-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program);
        command.args(write(&folder, addr.port())).current_dir(&folder);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = started else {
            assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{program} is missing: .ci/run installs it");
            println!("{program} is not installed: skipped");
            fs::remove_dir_all(&folder).unwrap();
            return None;
        };
        let stock = Self { child, addr, folder };
        let begun = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(begun.elapsed() < PATIENCE, "{program} does not listen on {addr}");
            thread::sleep(Duration::from_millis(50));
        }
        Some(stock)
    }

    /// Idle, with connections that are kept, and without.
    #[track_caller]
    fn is_fine(&self, pid: u32, request: &[u8], kept: bool) {
        assert_fine(pid, "idle");
        self.under_load(request, false, || assert_fine(pid, "a connection a request"));
        if kept {
            self.under_load(request, true, || assert_fine(pid, "connections that are kept"));
        }
    }

    #[track_caller]
    fn under_load(&self, request: &[u8], kept: bool, watch: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| ask(self.addr, request, kept, &stop));
            }
            let stopped = Stop(&stop);
            watch();
            drop(stopped);
        });
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // Of a master that is killed the workers are left; this asks it to end them.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(20));
        }
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whatever happens, the clients end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn ask(addr: SocketAddr, request: &[u8], kept: bool, stop: &AtomicBool) {
    let connect = || {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut stream = connect();
    let mut answer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(request).unwrap();
        let length = stream.read(&mut answer).unwrap();
        assert!(length > 0, "{addr} closed without an answer");
        if !kept {
            stream = connect();
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn assert_fine(pid: u32, what: &str) {
    let mut why = Command::new(env!("CARGO_BIN_EXE_overdue"));
    why.args(["why", "--json", "--for", WATCHED, "--pid", &pid.to_string()]).stdin(Stdio::null());
    let output = why.output().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{what}: {error}: {output:?}"));
    let verdicts = serde_json::to_string_pretty(&report["verdicts"]).unwrap();
    assert!(verdicts == "[]" && output.status.code() == Some(0), "{what}: {}\n{verdicts}", output.status);
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: stock\r\n\r\n";

#[test]
fn nginx() {
    let nginx = Stock::start("nginx", |folder, port| {
        let at = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {at}/{name}; "))
            .collect();
        let config = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/errors;\nevents {{}}\nhttp {{ access_log off; \
             {temporary} keepalive_requests 1000000; server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }} }}\n"
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        words(&format!("-e {at}/errors -c {at}/nginx.conf"))
    });
    let Some(nginx) = nginx else { return };
    let master = nginx.child.id();
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    nginx.is_fine(children.split_whitespace().next().unwrap().parse().unwrap(), HTTP, true);
}

#[test]
fn haproxy() {
    let haproxy = Stock::start("haproxy", |folder, port| {
        let config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\nfrontend all\n \
             bind 127.0.0.1:{port}\n http-request return status 200 content-type text/plain string hello\n"
        );
        let file = folder.join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        words(&format!("-db -f {}", file.display()))
    });
    let Some(haproxy) = haproxy else { return };
    haproxy.is_fine(haproxy.child.id(), HTTP, true);
}

#[test]
fn redis() {
    let redis =
        Stock::start("redis-server", |_, port| words(&format!("--port {port} --bind 127.0.0.1 --appendonly no")));
    let Some(redis) = redis else { return };
    redis.is_fine(redis.child.id(), b"PING\r\n", true);
}

#[test]
fn memcached() {
    // As root it wants to be told that this is meant; to others the word means nothing.
    let memcached = Stock::start("memcached", |_, port| words(&format!("-u root -l 127.0.0.1 -p {port}")));
    let Some(memcached) = memcached else { return };
    memcached.is_fine(memcached.child.id(), b"version\r\n", true);
}

#[test]
fn python() {
    let python = Stock::start("python3", |_, port| words(&format!("-m http.server {port} --bind 127.0.0.1")));
    let Some(python) = python else { return };
    // It speaks HTTP/1.0: a connection a request.
    python.is_fine(python.child.id(), HTTP, false);
}

#[test]
fn node() {
    let node = Stock::start("node", |folder, port| {
        let file = folder.join("server.js");
        let text =
            "require('http').createServer((_, answer) => answer.end('hello')).listen(process.argv[2], '127.0.0.1')";
        fs::write(&file, text).unwrap();
        vec![file.display().to_string(), port.to_string()]
    });
    let Some(node) = node else { return };
    node.is_fine(node.child.id(), HTTP, true);
}
