//! `overdue gate` as its operator runs it: a file, signals, and the operator's own address.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
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
    assert_eq!(running.child.wait().unwrap().code(), Some(1));
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
            ":2: invalid type: integer `600`, expected a string, such as \"30s\" for a duration",
        ),
        ("[route.limits]", "[route.limits]\ntoal = \"1s\"", "; did you mean `total`?"),
        ("\"127.0.0.1:0\"\n[cluster", "\"127.0.0.1:7\"\n[cluster", "a listener is at 127.0.0.1:7, too"),
        (log.as_str(), "file = \"/nonexistent/log\"", "cannot write the log /nonexistent/log: No such file"),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1).replacen(
            "[admin]\nlisten = \"127.0.0.1:0\"",
            "[admin]\nlisten = \"127.0.0.1:7\"",
            usize::from(said.contains(", too")),
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
