//! `overdue gate` as its operator runs it: a file, signals, and the operator's own address.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    fs::OFlags,
    io::Errno,
    process::{Pid, Signal, geteuid, kill_process},
};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway before a server that answers what is sent on the channel, request by request.
struct Running {
    child: Child,
    said: BufReader<ChildStderr>,
    front: SocketAddr,
    admin: SocketAddr,
    behind: SocketAddr,
    folder: TempDir,
    answer: mpsc::Sender<()>,
}

fn configuration(folder: &Path, behind: SocketAddr, more: &str) -> String {
    let file = folder.join("gate.toml");
    let log = folder.join("log");
    let text = format!(
        "workers = 2\ndrain = \"10m\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nfile = {log:?}\n[[listener]]\n\
         listen = \"127.0.0.1:0\"\n[cluster.behind]\nservers = [\"{behind}\"]\n[[route]]\ncluster = \"behind\"\n\
         [route.limits]\n{more}\n"
    );
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn overdue(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
    command.args(args).stdin(Stdio::null());
    command
}

impl Running {
    fn start(more: &str) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let behind = server.local_addr().unwrap();
        let (answer, answers) = mpsc::channel::<()>();
        let answers = Arc::new(Mutex::new(answers));
        thread::spawn(move || {
            for stream in server.incoming() {
                let Ok(mut stream) = stream else { break };
                let answers = Arc::clone(&answers);
                thread::spawn(move || {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).is_ok_and(|bytes| bytes > 0)
                        && answers.lock().unwrap().recv().is_ok()
                    {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                });
            }
        });
        let folder = TempDir::new().unwrap();
        let file = configuration(folder.path(), behind, more);
        let mut child = overdue(&["gate", "--config", &file]).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut address = |before: &str| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            let text = line.trim().strip_prefix(before).unwrap_or_else(|| panic!("{line:?}")).trim_end_matches('/');
            text.parse().unwrap()
        };
        let (front, admin) = (address("serving "), address("operator at http://"));
        Self { child, said, front, admin, behind, folder, answer }
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        call(
            self.admin,
            &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        )
    }

    fn json(&self, path: &str) -> Value {
        let (status, text) = self.ask("GET", path);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of an answer after which the connection ends.
fn call(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn its_operator_sees_and_steers_it() {
    let mut running = Running::start("wait = \"15s\"");
    running.answer.send(()).unwrap();
    assert_eq!(call(running.front, GET), (200, "ok".to_owned()));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(running.ask("GET", path).0, 200, "{path}");
    }

    // One that waits is in flight, with what remains of it and whose word that is.
    let front = running.front;
    let waiting = thread::spawn(move || call(front, GET));
    let listed = loop {
        let listed = running.json("/inflight");
        if listed["requests"][0]["stage"] == "wait" {
            break listed;
        }
        assert!(!waiting.is_finished(), "{listed}");
    };
    let request = &listed["requests"][0];
    assert_eq!((&listed["count"], &request["path"], &request["route"]), (&1.into(), &"/x".into(), &"/".into()));
    assert_eq!((&request["protocol"], &request["server_protocol"]), (&"HTTP/1.1".into(), &"HTTP/1.1".into()));
    assert_eq!((&request["limit"]["name"], &request["limit"]["origin"]), (&"total".into(), &"default".into()));
    assert!((1..60_000_000).contains(&request["remaining_us"].as_i64().unwrap()), "{request}");
    running.answer.send(()).unwrap();
    assert_eq!(waiting.join().unwrap().0, 200);

    let metrics = running.ask("GET", "/metrics").1;
    for line in [
        "overdue_gate_requests_total{status=\"2xx\"} 2",
        "overdue_gate_workers 2",
        "overdue_gate_stage_seconds_count{stage=\"wait\"} 2",
        "overdue_gate_log_lines_dropped_total 0",
        "overdue_gate_accepted_total{listener=\"127.0.0.1:0\"} 2",
    ] {
        assert!(metrics.lines().any(|other| other == line), "no {line} in\n{metrics}");
    }

    let wait = |running: &Running| running.json("/config")["routes"][0]["limits"]["wait"].clone();
    assert_eq!(running.json("/config")["clusters"][0]["http2"], false);
    let file = running.folder.path().join("gate.toml");
    assert_eq!(wait(&running)["origin"], format!("{}:14", file.display()));
    // What is wrong changes nothing, and is said with its line.
    configuration(running.folder.path(), running.behind, "wait = \"7\"");
    let (status, text) = running.ask("POST", "/reload");
    assert!(status == 422 && text.contains("gate.toml:14: wait:") && text.contains("as before"), "{text}");
    assert_eq!(wait(&running)["value_us"], 15_000_000);
    configuration(running.folder.path(), running.behind, "wait = \"7s\"");
    running.signal(Signal::HUP);
    assert!(running.line().contains("gate.toml:14"));
    assert_eq!(running.line(), "reloaded\n");
    assert_eq!(wait(&running)["value_us"], 7_000_000);
    assert_eq!(running.ask("GET", "/reload").0, 405);
    // A page of somebody else's, in the operator's browser, says where it comes from.
    let page = "POST /drain HTTP/1.1\r\nHost: a\r\nOrigin: http://elsewhere.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(call(running.admin, page).0, 403);

    running.signal(Signal::TERM);
    assert!(running.line().starts_with("draining"));
    assert_eq!(running.line(), "every request was served\n");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    let log = fs::read_to_string(running.folder.path().join("log")).unwrap();
    assert_eq!(log.lines().count(), 2);
}

/// Who is told twice does not wait for what is in flight, which would take minutes.
#[test]
fn a_second_signal_ends_it_at_once() {
    let mut running = Running::start("wait = \"50s\"");
    let mut client = TcpStream::connect(running.front).unwrap();
    client.write_all(GET.as_bytes()).unwrap();
    while running.json("/inflight")["count"] != 1 {}
    running.signal(Signal::INT);
    assert!(running.line().starts_with("draining"));
    running.signal(Signal::INT);
    assert_eq!(running.line(), "told to end at once: requests were cut\n");
    assert_eq!(running.child.wait().unwrap().code(), Some(1));
    let log = fs::read_to_string(running.folder.path().join("log")).unwrap();
    assert!(log.contains("told to end at once"), "{log}");
}

/// Who is told twice and has nothing to do has cut nothing. The connection is there for a moment longer: it was just used.
#[test]
fn a_second_signal_that_cuts_nothing_is_no_failure() {
    let mut running = Running::start("");
    let mut client = TcpStream::connect(running.front).unwrap();
    running.answer.send(()).unwrap();
    client.write_all(GET.replace("Connection: close\r\n", "").as_bytes()).unwrap();
    assert!(client.read(&mut [0; 1024]).unwrap() > 0);
    running.signal(Signal::TERM);
    assert!(running.line().starts_with("draining"));
    running.signal(Signal::TERM);
    assert_eq!(running.line(), "every request was served\n");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

/// A start that takes long, for names that are not found, hears that it is to end.
#[test]
fn a_start_is_given_up_for_the_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        let folder = TempDir::new().unwrap();
        let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
        let text = fs::read_to_string(&file).unwrap().replace("\"127.0.0.1:9\"", "\"lost.test:80\"");
        let dns = silent.local_addr().unwrap();
        fs::write(&file, format!("{text}\n[dns]\nservers = [\"{dns}\"]\nlimit = \"10m\"\n")).unwrap();
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "20", env!("CARGO_BIN_EXE_overdue"), "gate", "--config", &file]);
        let starting = command.stderr(Stdio::piped()).spawn().unwrap();
        silent.recv(&mut [0; 512]).unwrap();
        // It is handed on.
        kill_process(Pid::from_child(&starting), signal).unwrap();
        let output = starting.wait_with_output().unwrap();
        let said = str::from_utf8(&output.stderr).unwrap();
        assert_eq!(said, "ended before it served: a signal\n", "{output:?}");
    }
}

/// Puts a pipe where the file was: whoever reads it waits until something is written.
fn stall(running: &Running) -> String {
    let file = running.folder.path().join("gate.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    text
}

/// The other end of it, once somebody reads.
fn stalled(running: &Running) -> File {
    let file = running.folder.path().join("gate.toml");
    for _ in 0..PATIENCE.as_millis() {
        match OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&file) {
            Ok(end) => return end,
            Err(err) => assert_eq!(err.raw_os_error(), Some(Errno::NXIO.raw_os_error()), "{err}"),
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    panic!("nobody reads the file");
}

/// A reload that takes long, for a file on a dead mount or names that are not found, keeps nobody from ending it.
#[test]
fn a_reload_is_given_up_for_the_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = Running::start("");
        let _text = stall(&running);
        running.signal(Signal::HUP);
        let _reads = stalled(&running);
        running.signal(signal);
        assert_eq!(running.line(), "the reload was given up, and nothing changed\n");
        assert!(running.line().starts_with("draining"));
        assert_eq!(running.line(), "every request was served\n");
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
    }
}

/// The same while names are looked up, of a server that does not answer.
#[test]
fn a_reload_is_given_up_while_names_are_looked_up() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut running = Running::start("");
    let file = running.folder.path().join("gate.toml");
    let text = fs::read_to_string(&file).unwrap().replace(&running.behind.to_string(), "new.test:80");
    let dns = silent.local_addr().unwrap();
    fs::write(&file, format!("{text}\n[dns]\nservers = [\"{dns}\"]\nlimit = \"10m\"\n")).unwrap();
    let (front, admin) = (running.front, running.admin);
    let waits = thread::spawn(move || call(front, GET));
    while running.json("/inflight")["count"] != 1 {}
    running.signal(Signal::HUP);
    silent.recv(&mut [0; 512]).unwrap();
    // Whoever asks for one more hears of the end, too.
    let asks = thread::spawn(move || {
        call(admin, "POST /reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    });
    assert_eq!(running.line(), "a reload is under way: one more follows it\n");
    running.signal(Signal::TERM);
    assert_eq!(running.line(), "the reload was given up, and nothing changed\n");
    assert!(running.line().starts_with("draining"));
    assert_eq!(asks.join().unwrap(), (422, "the reload was given up, and nothing changed\n".to_owned()));
    running.answer.send(()).unwrap();
    assert_eq!(waits.join().unwrap(), (200, "ok".to_owned()));
    assert_eq!(running.line(), "every request was served\n");
}

/// However often a reload is asked for while one is under way: the file is read once more, and not more often.
#[test]
fn one_reload_follows_another() {
    let mut running = Running::start("");
    let text = stall(&running);
    running.signal(Signal::HUP);
    let mut first = stalled(&running);
    for _ in 0..3 {
        running.signal(Signal::HUP);
        assert_eq!(running.line(), "a reload is under way: one more follows it\n");
    }
    first.write_all(text.as_bytes()).unwrap();
    drop(first);
    assert_eq!(running.line(), "reloaded\n");
    let mut second = stalled(&running);
    second.write_all(text.as_bytes()).unwrap();
    drop(second);
    assert_eq!(running.line(), "reloaded\n");
    running.signal(Signal::TERM);
    assert!(running.line().starts_with("draining"));
}

/// A hand-over that is asked for during a reload comes after it, and before the next.
#[test]
fn a_hand_over_waits_for_a_reload() {
    let mut running = Running::start("");
    let text = stall(&running);
    running.signal(Signal::HUP);
    let mut reads = stalled(&running);
    running.signal(Signal::HUP);
    assert_eq!(running.line(), "a reload is under way: one more follows it\n");
    running.signal(Signal::USR2);
    assert_eq!(running.line(), "a reload is under way: the hand-over begins when it is done\n");
    let file = running.folder.path().join("gate.toml");
    fs::write(file.with_extension("new"), &text).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    reads.write_all(text.as_bytes()).unwrap();
    drop(reads);
    assert_eq!(running.line(), "reloaded\n");
    assert!(running.line().ends_with(" anew, to take over\n"));
    let new = loop {
        let line = running.line();
        if let Some(pid) = line.strip_prefix("process ").and_then(|rest| rest.strip_suffix("at once\n")) {
            break Pid::from_raw(pid.split(' ').next().unwrap().parse().unwrap()).unwrap();
        }
        // The reload that was asked for goes on meanwhile, unless it is given up for the end.
        let reload = line == "reloaded\n" || line == "the reload was given up, and nothing changed\n";
        assert!(reload || line.starts_with("serving ") || line.starts_with("operator at "), "{line}");
    };
    kill_process(new, Signal::TERM).unwrap();
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

fn run(args: &[&str]) -> Output {
    overdue(args).output().unwrap()
}

#[test]
fn a_file_is_checked() {
    let folder = TempDir::new().unwrap();
    let behind = "127.0.0.1:9".parse().unwrap();
    let file = configuration(folder.path(), behind, "wait = \"5s\"");
    let good = run(&["gate", "--config", &file, "--check"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let file = configuration(folder.path(), behind, "wait = \"90s\"");
    let fights = run(&["gate", "--config", &file, "--check"]);
    let text = str::from_utf8(&fights.stdout).unwrap();
    assert!(fights.status.code() == Some(1) && text.contains("limit-shadowed") && text.contains("fix:"), "{fights:?}");
    let file = configuration(folder.path(), behind, "wiat = \"5s\"");
    for args in [&["gate", "--config", &file, "--check"][..], &["gate", "--config", &file]] {
        let wrong = run(args);
        let text = str::from_utf8(&wrong.stderr).unwrap();
        assert!(wrong.status.code() == Some(2) && text.contains("gate.toml:14:") && text.contains("wiat"), "{wrong:?}");
    }
}

/// A check finds what a start would: the files that are named, too, with their lines.
#[test]
fn a_check_reads_what_a_start_reads() {
    let folder = TempDir::new().unwrap();
    let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
    let good = fs::read_to_string(&file).unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let chain = path("chain.pem", &made.cert.pem());
    let key = path("key.pem", &made.signing_key.serialize_pem());
    let other = path("other.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let listener = |chain: &Path, key: &Path| {
        let tls = format!("[[listener.tls.certificates]]\nchain = {chain:?}\nkey = {key:?}\n[cluster.behind]");
        good.replace("[cluster.behind]", &tls)
    };
    let with = |text: String| {
        fs::write(&file, text).unwrap();
        let output = run(&["gate", "--config", &file, "--check"]);
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = with(listener(&chain, &key));
    assert!(
        code == 0 && said.ends_with("1 route to 1 cluster; a gateway would start, and nothing in it looks wrong\n"),
        "{said}"
    );
    let nowhere = Path::new("/nowhere.pem");
    let behind = |table: String| good.replace("[[route]]", &format!("[cluster.behind.tls]\n{table}\n[[route]]"));
    let unused = format!("{good}[cluster.spare]\nservers = [\"127.0.0.1:1\"]\n");
    let log = good.replace("file = \"", "file = \"/nowhere");
    for (text, code, line, why) in [
        (listener(nowhere, &key), 2, 10, "\"/nowhere.pem\": cannot be read"),
        (listener(&chain, nowhere), 2, 11, "\"/nowhere.pem\": cannot be read"),
        (listener(&chain, &other), 2, 11, "other.pem"),
        (listener(&key, &key), 2, 10, "holds no certificate"),
        (behind("ca = \"/nowhere.pem\"".to_owned()), 2, 12, "/nowhere.pem cannot be read"),
        (behind(format!("chain = {chain:?}\nkey = {other:?}")), 2, 12, "key"),
        (unused, 1, 15, "no route leads to cluster \"spare\""),
        (log, 2, 6, "cannot write the log /nowhere"),
    ] {
        let (exit, said) = with(text.clone());
        let place = format!("gate.toml:{line}: ");
        assert!(exit == code && said.contains(&place) && said.contains(why), "{why}: {exit} {said}");
        if code == 2 {
            let started = run(&["gate", "--config", &file]);
            assert_eq!(String::from_utf8_lossy(&started.stderr), said, "a start says the same");
        }
    }
    assert!(!folder.path().join("log").exists(), "a check writes nothing");
}

/// A pipe for the log that nobody reads holds up neither a check nor a start.
#[test]
fn a_log_that_nobody_reads_is_said_at_once() {
    let folder = TempDir::new().unwrap();
    let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
    let pipe = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "20", env!("CARGO_BIN_EXE_overdue"), "gate", "--config", &file]);
    let start = command.output().unwrap();
    let check = command.arg("--check").output().unwrap();
    for output in [start, check] {
        let said = str::from_utf8(&output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(said.contains("cannot write the log ") && said.contains("a pipe that nobody reads"), "{said}");
    }
    let read = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&pipe).unwrap();
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    drop(read);
}

/// Nor does a check say that a log can be made where it cannot.
#[test]
fn a_log_is_not_made_where_nobody_may() {
    let folder = TempDir::new().unwrap();
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    fs::set_permissions(&logs, Permissions::from_mode(0o555)).unwrap();
    std::os::unix::fs::symlink("logs/b", folder.path().join("link")).unwrap();
    let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
    let good = fs::read_to_string(&file).unwrap();
    let args = [env!("CARGO_BIN_EXE_overdue"), "gate", "--config", &file, "--check"];
    let check = |log: &str| {
        fs::write(&file, good.replace("/log\"", &format!("/{log}\""))).unwrap();
        // Root may write everywhere, unless that is taken away.
        let mut command = Command::new(if geteuid().is_root() { "setpriv" } else { args[0] });
        if geteuid().is_root() {
            command.args(["--bounding-set", "-dac_override", args[0]]);
        }
        command.args(&args[1..]).stdin(Stdio::null()).output().unwrap()
    };
    for log in ["logs/a", "link"] {
        let output = check(log);
        let said = str::from_utf8(&output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("Permission denied"), "{log}: {output:?}");
    }
    fs::set_permissions(&logs, Permissions::from_mode(0o755)).unwrap();
    for log in ["logs/a", "link"] {
        assert_eq!(check(log).status.code(), Some(0), "{log}");
    }
    assert_eq!(fs::read_dir(&logs).unwrap().count(), 0, "a check writes nothing");
}

/// Names are looked up, within their limit. Not to find one is no finding, and one that is this gateway itself is.
#[test]
fn a_check_looks_names_up() {
    let folder = TempDir::new().unwrap();
    let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dns = silent.local_addr().unwrap();
    let text = fs::read_to_string(&file).unwrap().replace("\"127.0.0.1:9\"", "\"here.test:7007\", \"lost.test:7007\"");
    let text = format!(
        "{text}[dns]\nservers = [\"{dns}\"]\nlimit = \"900ms\"\nhosts = {{ \"here.test\" = [\"127.0.0.1\"] }}\n"
    );
    fs::write(&file, &text).unwrap();
    let lost = run(&["gate", "--config", &file, "--check"]);
    let said = str::from_utf8(&lost.stdout).unwrap();
    assert!(lost.status.code() == Some(0) && said.contains("lost.test does not resolve: "), "{lost:?}");
    assert!(said.contains("within 900ms") && !said.contains("here.test"), "{said}");
    fs::write(&file, text.replacen("listen = \"127.0.0.1:0\"\n[cluster", "listen = \"0.0.0.0:7007\"\n[cluster", 1))
        .unwrap();
    let circle = run(&["gate", "--config", &file, "--check"]);
    let said = str::from_utf8(&circle.stdout).unwrap();
    assert!(circle.status.code() == Some(1) && said.contains("here.test:7007: cluster \"behind\""), "{circle:?}");
    assert!(said.contains("in a circle"), "{said}");
}

/// A circle is one where the address is of this machine, and not where something could be bound to it.
#[test]
fn an_address_that_can_be_bound_may_be_elsewhere() {
    let folder = TempDir::new().unwrap();
    let script = "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind && ip link set lo up && \
                  ip address add 192.0.2.7/32 dev lo && ip route add 198.51.100.0/24 dev lo && exec \"$@\"";
    let is_root = geteuid().is_root();
    let check = |server: &str| {
        let file = configuration(folder.path(), format!("{server}:7007").parse().unwrap(), "");
        let text = fs::read_to_string(&file).unwrap();
        let wild = text.replacen("listen = \"127.0.0.1:0\"\n[cluster", "listen = \"0.0.0.0:7007\"\n[cluster", 1);
        fs::write(&file, wild).unwrap();
        let mut command = Command::new("unshare");
        // Who is not root is so in a namespace of its users.
        let users: &[&str] = if is_root { &[] } else { &["--user", "--map-root-user"] };
        command.args(users).args(["--net", "sh", "-c", script, "sh"]);
        command.args([env!("CARGO_BIN_EXE_overdue"), "gate", "--config", &file, "--check"]).output().unwrap()
    };
    let here = check("192.0.2.7");
    if here.stdout.is_empty() && !is_root {
        let why = String::from_utf8_lossy(&here.stderr);
        assert!(why.contains("unshare") || why.contains("ip_nonlocal_bind"), "{here:?}");
        eprintln!("not tried: no namespace of its own can be had: {why}");
        return;
    }
    assert!(here.status.code() == Some(1) && String::from_utf8_lossy(&here.stdout).contains("in a circle"), "{here:?}");
    for elsewhere in ["192.0.2.8", "198.51.100.8"] {
        let output = check(elsewhere);
        assert_eq!(output.status.code(), Some(0), "{elsewhere}: {output:?}");
    }
}

/// What is odd is said at the start, and at a reload that brings it, and not at the next.
#[test]
fn doubts_are_told_once() {
    let mut running = Running::start("");
    let file = running.folder.path().join("gate.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n[cluster.spare]\nservers = [\"127.0.0.1:1\"]\n")).unwrap();
    running.signal(Signal::HUP);
    let told = running.line();
    assert!(told.starts_with("reloaded; ") && told.contains("no route leads to cluster \"spare\""), "{told}");
    // It stands elsewhere, and is the same.
    fs::write(&file, format!("\n{}", fs::read_to_string(&file).unwrap())).unwrap();
    running.signal(Signal::HUP);
    assert_eq!(running.line(), "reloaded\n");
    assert_eq!(running.json("/config")["doubts"].as_array().unwrap().len(), 1);
}

/// So is a circle into which a name leads.
#[test]
fn a_circle_by_name_is_told_at_the_start_and_is_there() {
    let folder = TempDir::new().unwrap();
    let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
    // An address of its own, as the port has to be known.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let front = format!("127.{}.{b}.{c}", 1 | a);
    let text = fs::read_to_string(&file).unwrap().replace("127.0.0.1:9\"", "here.test:7007\"");
    let text = text.replacen("listen = \"127.0.0.1:0\"\n[cluster", &format!("listen = \"{front}:7007\"\n[cluster"), 1);
    fs::write(&file, format!("{text}\n[dns]\nhosts = {{ \"here.test\" = [\"{front}\"] }}\n")).unwrap();
    let mut child = overdue(&["gate", "--config", &file]).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut told = Vec::new();
    let admin = lines.inspect(|line| told.push(line.clone())).find_map(|line| {
        line.strip_prefix("operator at http://").map(|address| address.trim_end_matches('/').parse().unwrap())
    });
    let config = admin.map(|admin| call(admin, "GET /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(told[0].starts_with("here.test:7007: cluster \"behind\"") && told[0].contains("in a circle"), "{told:?}");
    let config: Value = serde_json::from_str(&config.unwrap().1).unwrap();
    assert_eq!(config["doubts"], serde_json::json!([told[0]]));
}

/// Workers share an address; two gateways must not, or each would get some of the connections.
#[test]
fn an_address_that_another_gateway_has_is_taken() {
    let running = Running::start("");
    let folder = TempDir::new().unwrap();
    let file = configuration(folder.path(), running.behind, "");
    let address = running.front.to_string();
    let text = fs::read_to_string(&file).unwrap();
    let taken =
        text.replacen("[[listener]]\nlisten = \"127.0.0.1:0\"", &format!("[[listener]]\nlisten = \"{address}\""), 1);
    fs::write(&file, taken).unwrap();
    let mut command = Command::new("timeout");
    let output = command.args(["20", env!("CARGO_BIN_EXE_overdue"), "gate", "--config", &file]).output().unwrap();
    let said = str::from_utf8(&output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains(&format!("cannot listen on {address}")), "{output:?}");
}

#[test]
fn what_is_wrong_is_said_with_what_was_probably_meant() {
    let folder = TempDir::new().unwrap();
    let behind = "127.0.0.1:9".parse().unwrap();
    let file = configuration(folder.path(), behind, "");
    let good = fs::read_to_string(&file).unwrap();
    let log = format!("file = {:?}", folder.path().join("log"));
    for (from, to, said) in [
        ("workers = 2", "wrokers = 2", ":1: there is no key `wrokers` here; did you mean `workers`?"),
        ("workers = 2", "workers = \"2\"", ":1: invalid type: string \"2\", expected a whole number"),
        (
            "drain = \"10m\"",
            "drain = 600",
            ":2: invalid type: integer `600`, expected a string: write it in quotes, and a duration with its unit, such as \"30s\"",
        ),
        ("[route.limits]", "[route.limits]\ntoal = \"1s\"", "; did you mean `total`?"),
        ("\"127.0.0.1:0\"\n[cluster", "\"127.0.0.1:7\"\n[cluster", "a listener is at 127.0.0.1:7 already"),
        (log.as_str(), "file = \"/nonexistent/log\"", ":6: cannot write the log /nonexistent/log: No such file"),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1).replacen(
            "[admin]\nlisten = \"127.0.0.1:0\"",
            "[admin]\nlisten = \"127.0.0.1:7\"",
            usize::from(said.contains("already")),
        );
        fs::write(&file, text).unwrap();
        let output = run(&["gate", "--config", &file]);
        let text = str::from_utf8(&output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(said), "{said}: {text}");
    }
}

#[test]
fn an_address_that_is_taken_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = TempDir::new().unwrap();
    let file = configuration(folder.path(), "127.0.0.1:9".parse().unwrap(), "");
    let text = fs::read_to_string(&file).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fs::write(
        &file,
        text.replacen("[[listener]]\nlisten = \"127.0.0.1:0\"", &format!("[[listener]]\nlisten = \"{address}\""), 1),
    )
    .unwrap();
    let output = run(&["gate", "--config", &file]);
    let text = str::from_utf8(&output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains(&format!("cannot listen on {address}")), "{output:?}");
    assert!(text.contains("ss -ltnp"), "{text}");
}
