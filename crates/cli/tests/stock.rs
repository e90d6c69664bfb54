//! `overdue why` on healthy programs that everybody runs: whatever it says of them, it must be no verdict.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]
#![expect(clippy::disallowed_methods, reason = "other programs are waited for, by the time that passes for them")]

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt as _},
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
    /// `None` where the program is not there. `prepare` gets the folder and the port, writes what the program needs and
    /// gives its command.
    fn start(name: &str, prepare: impl FnOnce(&Path, u16) -> Command) -> Option<Self> {
        let folder = env::temp_dir().join(format!("overdue-stock-{name}-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = prepare(&folder, addr.port());
        command.current_dir(&folder);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = started else {
            assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} is missing: .ci/run installs it");
            println!("{name} is not installed: skipped");
            fs::remove_dir_all(&folder).unwrap();
            return None;
        };
        let stock = Self { child, addr, folder };
        let begun = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(begun.elapsed() < PATIENCE, "{name} does not listen on {addr}");
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

/// A program with arguments that hold no space.
fn command(program: impl AsRef<OsStr>, arguments: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace());
    command
}

/// Runs it to its end.
#[track_caller]
fn done(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A client that is ended when this is dropped.
struct Client(Child);

impl Client {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// None of a process that has ended.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: stock\r\n\r\n";

/// `nobody`.
const NOBODY: u32 = 65_534;

#[track_caller]
fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} never came");
        thread::sleep(Duration::from_millis(20));
    }
}

fn nginx_command(folder: &Path, port: u16) -> Command {
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
    command("nginx", &format!("-e {at}/errors -c {at}/nginx.conf"))
}

#[test]
fn nginx() {
    let Some(nginx) = Stock::start("nginx", nginx_command) else { return };
    let master = nginx.child.id();
    nginx.is_fine(children(master)[0], HTTP, true);
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
        command("haproxy", &format!("-db -f {}", file.display()))
    });
    let Some(haproxy) = haproxy else { return };
    haproxy.is_fine(haproxy.child.id(), HTTP, true);
}

#[test]
fn redis() {
    let redis = Stock::start("redis-server", |_, port| {
        command("redis-server", &format!("--port {port} --bind 127.0.0.1 --appendonly no"))
    });
    let Some(redis) = redis else { return };
    redis.is_fine(redis.child.id(), b"PING\r\n", true);
}

#[test]
fn memcached() {
    // As root it wants to be told that this is meant; to others the word means nothing.
    let memcached =
        Stock::start("memcached", |_, port| command("memcached", &format!("-u root -l 127.0.0.1 -p {port}")));
    let Some(memcached) = memcached else { return };
    memcached.is_fine(memcached.child.id(), b"version\r\n", true);
}

#[test]
fn python() {
    let python =
        Stock::start("python3", |_, port| command("python3", &format!("-m http.server {port} --bind 127.0.0.1")));
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
        command("node", &format!("{} {port}", file.display()))
    });
    let Some(node) = node else { return };
    node.is_fine(node.child.id(), HTTP, true);
}

#[test]
fn go() {
    let go = Stock::start("go", |folder, port| {
        let text = "package main\nimport (\"net/http\"; \"os\")\nfunc main() {\n\
                    hello := func(answer http.ResponseWriter, _ *http.Request) { answer.Write([]byte(\"hello\")) }\n\
                    panic(http.ListenAndServe(\"127.0.0.1:\"+os.Args[1], http.HandlerFunc(hello)))\n}\n";
        fs::write(folder.join("main.go"), text).unwrap();
        let mut build = command("go", "build -o server main.go");
        build.current_dir(folder);
        // Where there is no Go, there will be no server to start.
        if build.status().is_ok() {
            assert!(folder.join("server").is_file(), "go build failed");
        }
        command(folder.join("server"), &port.to_string())
    });
    let Some(go) = go else { return };
    go.is_fine(go.child.id(), HTTP, true);
}

/// A proxy, unlike the others: half of its connections are its own calls.
#[test]
fn envoy() {
    let Some(backend) = Stock::start("nginx", nginx_command) else { return };
    let envoy = Stock::start("envoy", |folder, port| {
        let config = format!(
            r#"{{"static_resources": {{
                "listeners": [{{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": {port}}}}},
                    "filter_chains": [{{"filters": [{{"name": "envoy.filters.network.http_connection_manager", "typed_config": {{
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "stock",
                        "http_filters": [{{"name": "envoy.filters.http.router", "typed_config":
                            {{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}],
                        "route_config": {{"virtual_hosts": [{{"name": "all", "domains": ["*"],
                            "routes": [{{"match": {{"prefix": "/"}}, "route": {{"cluster": "backend"}}}}]}}]}}
                    }}}}]}}]}}],
                "clusters": [{{"name": "backend", "type": "STATIC", "load_assignment": {{"cluster_name": "backend",
                    "endpoints": [{{"lb_endpoints": [{{"endpoint": {{"address": {{"socket_address":
                        {{"address": "127.0.0.1", "port_value": {backend}}}}}}}}}]}}]}}}}]
            }}}}"#,
            backend = backend.addr.port(),
        );
        fs::write(folder.join("envoy.json"), config).unwrap();
        command("envoy", "-c envoy.json --disable-hot-restart --concurrency 2 --log-level error")
    });
    let Some(envoy) = envoy else { return };
    envoy.is_fine(envoy.child.id(), HTTP, true);
}

/// The postmaster, which accepts, and one of the processes that it hands a connection to.
#[test]
fn postgres() {
    let programs =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|version| Some(version.ok()?.path()));
    let programs = programs.last().map_or_else(PathBuf::new, |version| version.join("bin"));
    let postgres = Stock::start("postgres", |folder, port| {
        let data = folder.join("data");
        let mut server = command(programs.join("postgres"), &format!("-h 127.0.0.1 -p {port} -k {}", folder.display()));
        server.arg("-D").arg(&data);
        if !programs.join("initdb").is_file() {
            return server;
        }
        let mut create = command(programs.join("initdb"), "--no-sync --auth trust --username stock");
        create.arg("-D").arg(&data).current_dir(folder);
        // It does not run as root.
        if rustix::process::geteuid().is_root() {
            chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
            for command in [&mut create, &mut server] {
                command.uid(NOBODY).gid(NOBODY);
            }
        }
        done(create);
        server
    });
    let Some(postgres) = postgres else { return };
    let master = postgres.child.id();
    let bench = |arguments: &str| {
        let port = postgres.addr.port();
        command(programs.join("pgbench"), &format!("-h 127.0.0.1 -p {port} -U stock {arguments} postgres"))
    };
    until_some("a database that takes connections", || {
        let mut ask = command(programs.join("pg_isready"), &format!("-q -h 127.0.0.1 -p {}", postgres.addr.port()));
        ask.status().unwrap().success().then_some(())
    });
    done(bench("--initialize --quiet"));
    assert_fine(master, "idle");
    let own = children(master);
    let load = Client::start(bench(&format!("--client {CLIENTS} --time 60 --select-only")));
    // Before its clients it asks a question itself, and hangs up.
    let backend = until_some("a process for each client", || {
        let clients: Vec<_> = children(master).into_iter().filter(|child| !own.contains(child)).collect();
        (clients.len() >= CLIENTS).then(|| clients.last().copied()).flatten()
    });
    assert_fine(backend, "a client's process");
    assert_fine(master, "busy with kept connections");
    drop(load);
    let _load = Client::start(bench(&format!("--client {CLIENTS} --time 60 --select-only --connect")));
    assert_fine(master, "a connection a transaction");
}

/// The one that accepts, idle and while sessions come and go, and the one of a session in which nobody types.
#[test]
fn sshd() {
    let sshd = Stock::start("sshd", |folder, port| {
        let at = folder.display();
        for key in ["host", "user"] {
            let mut create = command("ssh-keygen", &format!("-q -t ed25519 -f {at}/{key} -N"));
            create.arg("");
            // Where there is no such program, there is no server either.
            _ = create.status();
        }
        _ = fs::copy(folder.join("user.pub"), folder.join("authorized"));
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nPidFile none\nAuthorizedKeysFile {at}/authorized\nStrictModes no\n\
             PermitRootLogin yes\nMaxStartups 100\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        // Where it separates its privileges; otherwise the service makes it.
        if rustix::process::geteuid().is_root() {
            _ = fs::create_dir("/run/sshd");
        }
        command("/usr/sbin/sshd", &format!("-D -f {at}/config"))
    });
    let Some(sshd) = sshd else { return };
    let (master, at) = (sshd.child.id(), sshd.folder.display());
    let session = |remote: &str| {
        let port = sshd.addr.port();
        let mut ssh =
            command("ssh", &format!("-F none -i {at}/user -p {port} -o StrictHostKeyChecking=no -o BatchMode=yes"));
        ssh.args(["-o", &format!("UserKnownHostsFile={at}/known"), "127.0.0.1", remote]);
        ssh
    };
    assert_fine(master, "idle");
    let open = Client::start(session("echo here; exec sleep 120"));
    let session_of = || {
        let mut below = children(master);
        while let Some(pid) = below.pop() {
            let of = children(pid);
            let is_asleep =
                |pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
            if of.iter().any(is_asleep) {
                return Some(pid);
            }
            below.extend(of);
        }
        None
    };
    let monitor = until_some("a session", session_of);
    assert_fine(monitor, "a session in which nobody types");
    drop(open);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                done(session("true"));
            }
        });
        let stopped = Stop(&stop);
        assert_fine(master, "sessions that come and go");
        drop(stopped);
    });
}
