//! The live page: what it is told, what it is kept from, and how it is in a browser.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::bed::{Answer, Client, OK, PATIENCE, Server};

thread_local! {
    /// Where the lines of the gateway go that runs on this thread.
    static TOLD: RefCell<Option<mpsc::Sender<String>>> = const { RefCell::new(None) };
}

fn tell(line: &str) {
    TOLD.with_borrow(|told| {
        if let Some(told) = told {
            let _ = told.send(line.to_owned());
        }
    });
}

/// A gateway with an operator's address, as its file says.
struct Running {
    front: SocketAddr,
    admin: SocketAddr,
    thread: thread::JoinHandle<bool>,
}

/// Servers that answer, that need some time, that never answer, and one that is not there.
struct Behind {
    good: Server,
    late: Server,
    silent: Server,
    gone: SocketAddr,
}

impl Behind {
    fn new() -> Self {
        Self {
            good: Server::answering(OK),
            late: Server::new(|peer| {
                while peer.request().is_some() {
                    mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(250)).unwrap_err();
                    peer.client.send(OK);
                }
            }),
            silent: Server::silent(),
            gone: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        }
    }

    fn start(&self, folder: &Path, admin: &str) -> Running {
        let file = folder.join("gate.toml");
        let mut text =
            format!("workers = 2\ndrain = \"100ms\"\n[admin]\nlisten = \"{admin}\"\nnames = [\"Gate.test\"]\n");
        text += "[log]\noff = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\n";
        let routes = [
            ("late", self.late.address, "30s"),
            ("slow", self.silent.address, "100ms"),
            ("waits", self.silent.address, "50s"),
            ("gone", self.gone, "30s"),
            ("good", self.good.address, "30s"),
        ];
        for (name, server, wait) in routes {
            let path = if name == "good" { "/" } else { &format!("/{name}") };
            text += &format!("[cluster.{name}]\nservers = [\"{server}\"]\n");
            text += &format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\ncluster = \"{name}\"\n");
            text += &format!("[route.limits]\nwait = \"{wait}\"\n");
        }
        fs::write(&file, text).unwrap();
        let (told, tells) = mpsc::channel();
        let thread = thread::spawn(move || {
            TOLD.set(Some(told));
            overdue_gate::run(&file, tell).unwrap()
        });
        let address = |before: &str| loop {
            let line = tells.recv_timeout(PATIENCE).unwrap();
            if let Some(rest) = line.strip_prefix(before) {
                return rest.trim_end_matches('/').parse().unwrap();
            }
        };
        let (front, admin) = (address("serving "), address("operator at http://"));
        Running { front, admin, thread }
    }

    /// Good, slow and failing requests, of which the last goes on.
    fn traffic(&self, running: &Running) -> Client {
        let get = |path: &str, host: &str| {
            Client::new(running.front).call(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status
        };
        for _ in 0..5 {
            assert_eq!(get("/fine?token=secret", "a.test"), 200);
        }
        assert_eq!(get("/late?token=secret", "a.test"), 200);
        assert_eq!(get("/slow?token=secret", "a.test"), 504);
        assert_eq!(self.silent.saw(), "asked");
        assert_eq!(get("/gone", "a.test"), 502);
        assert_eq!(get("/gone/<img/src=x/onerror=alert(1)>", "a.test"), 502);
        assert_eq!(get("/a/../b?token=secret", "a.test"), 400);
        assert_eq!(get("/", "<b>evil</b>"), 400);
        let mut waits = Client::new(running.front);
        waits.send("GET /waits?token=secret HTTP/1.1\r\nHost: a.test\r\n\r\n");
        while self.silent.saw() != "asked" {}
        waits
    }
}

impl Running {
    fn ask(&self, method: &str, path: &str, host: &str) -> Answer {
        Client::new(self.admin).call(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"))
    }

    fn live(&self, query: &str) -> Value {
        let answer = self.ask("GET", &format!("/live{query}"), "localhost");
        assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")));
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// What it shows once so many requests are in seconds that are over.
    fn live_of(&self, requests: u64) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let live = self.live("");
            if ended(&live) >= requests {
                return live;
            }
            assert!(Instant::now() < until, "{live:#}");
            thread::yield_now();
        }
    }

    fn end(self) {
        // It may have ended before it could answer; and who has gone before he was heard asked for nothing.
        let mut client = Client::new(self.admin);
        client.send("POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        self.thread.join().unwrap();
    }
}

fn total<'v>(numbers: impl IntoIterator<Item = &'v Value>) -> u64 {
    numbers.into_iter().map(|number| number.as_u64().unwrap()).sum()
}

/// Requests that ended, by status.
fn ended(live: &Value) -> u64 {
    let classes = live["rates"]["classes"].as_object().unwrap();
    assert_eq!(classes.len(), 6);
    classes.values().map(|seconds| total(seconds.as_array().unwrap())).sum()
}

fn in_heat(live: &Value) -> u64 {
    live["heat"]["columns"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|column| column.as_array().unwrap())
        .map(|cell| cell[1].as_u64().unwrap())
        .sum()
}

fn causes(live: &Value) -> Vec<(String, u64)> {
    let rows = live["causes"]["rows"].as_array().unwrap();
    let row = |row: &Value| (row["ending"].as_str().unwrap().to_owned(), total(row["counts"].as_array().unwrap()));
    rows.iter().map(row).collect()
}

#[test]
fn what_happened_lately_is_told() {
    let (behind, folder) = (Behind::new(), TempDir::new().unwrap());
    let running = behind.start(folder.path(), "127.0.0.1:0");
    let nothing = running.live("");
    assert_eq!((ended(&nothing), in_heat(&nothing), causes(&nothing)), (0, 0, Vec::new()));
    assert_eq!((&nothing["in_flight"]["count"], &nothing["failed"]), (&0.into(), &Value::Array(Vec::new())));

    let _waits = behind.traffic(&running);
    let live = running.live_of(11);
    assert_eq!((ended(&live), in_heat(&live)), (11, 11));
    assert_eq!(
        (&live["schema"], &live["workers"], &live["workers_late"]),
        (&"overdue.live/1".into(), &2.into(), &0.into())
    );
    let expected = [("connect-refused", 2), ("refused with 400", 2), ("server-slow", 1)];
    let mut found = causes(&live);
    found.sort();
    assert_eq!(found, expected.map(|(cause, count)| (cause.to_owned(), count)));
    assert!(!live.to_string().contains("secret"), "{live:#}");

    // What failed, with stages that add up, the limit that fired and who set it.
    let failed = live["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 5);
    let has = |summary: &str| failed.iter().any(|one| one["fault"]["summary"] == summary && one["route"].is_null());
    assert!(has("its Host is no host: \"<b>evil</b>\"") && has("its path climbs: /a/../b?…"), "{failed:#?}");
    let slow = failed.iter().find(|one| one["route"] == "slow").unwrap();
    assert_eq!((&slow["status"], &slow["path"], &slow["termination"]), (&504.into(), &"/slow?…".into(), &"sH".into()));
    let fault = &slow["fault"];
    assert_eq!(
        (&fault["ending"], &fault["stage"], &fault["limit"]["name"]),
        (&"server-slow".into(), &"wait".into(), &"wait".into())
    );
    assert_eq!(fault["limit"]["value_us"], 100_000);
    let origin = fault["limit"]["origin"].as_str().unwrap();
    let line = fs::read_to_string(folder.path().join("gate.toml"))
        .unwrap()
        .lines()
        .position(|line| line == "wait = \"100ms\"")
        .unwrap()
        + 1;
    assert!(origin.ends_with(&format!("gate.toml:{line}")), "{origin}");
    assert!(
        fault["evidence"].as_array().is_some_and(|facts| !facts.is_empty()) && fault["fix"].is_string(),
        "{fault:#}"
    );
    for one in failed.iter().chain(live["slowest"].as_array().unwrap()) {
        let spans = one["timeline"].as_array().unwrap();
        let whole = one["elapsed_us"].as_u64().unwrap();
        assert!(whole.abs_diff(total(spans.iter().map(|span| &span["duration_us"]))) <= 10, "{one:#}");
    }

    // The slowest of those that were answered comes first.
    let slowest = live["slowest"].as_array().unwrap();
    assert_eq!((slowest.len(), &slowest[0]["path"], &slowest[0]["fault"]), (6, &"/late?…".into(), &Value::Null));

    // What is in flight, and the servers.
    let flying = live["in_flight"]["requests"].as_array().unwrap();
    assert_eq!((&live["in_flight"]["count"], &live["in_flight"]["overdue"]), (&1.into(), &0.into()));
    assert_eq!((&flying[0]["path"], &flying[0]["stage"]), (&"/waits?…".into(), &"wait".into()));
    assert_eq!(live["servers"].as_array().unwrap().len(), 5);
    let gone = live["servers"].as_array().unwrap().iter().find(|server| server["cluster"] == "gone").unwrap();
    assert_eq!(gone["server"], behind.gone.to_string());

    // One route, one stage.
    let wait = running.live("?route=slow&stage=wait");
    assert_eq!((ended(&wait), in_heat(&wait), &wait["stage"]), (1, 1, &"wait".into()));
    assert_eq!((causes(&wait), &wait["in_flight"]["count"]), (vec![("server-slow".to_owned(), 1)], &0.into()));
    let connect = running.live("?route=slow&stage=nonsense");
    assert_eq!((in_heat(&connect), &connect["stage"]), (1, &"total".into()));
    assert_eq!(ended(&running.live("?route=n%C3%B6")), 0);
    running.end();
}

/// What is refused by the thousand leaves room for what else failed, and only some of it is remembered.
#[test]
fn a_flood_of_what_is_refused_hides_nothing() {
    let (behind, folder) = (Behind::new(), TempDir::new().unwrap());
    let running = behind.start(folder.path(), "127.0.0.1:0");
    let mut client = Client::new(running.front);
    assert_eq!(client.call("GET /gone HTTP/1.1\r\nHost: a\r\n\r\n").status, 502);
    for _ in 0..300 {
        assert_eq!(client.call("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n").status, 400);
    }
    let live = running.live_of(301);
    let mut found = causes(&live);
    found.sort();
    assert_eq!(found, [("connect-refused".to_owned(), 1), ("refused with 400".to_owned(), 300)]);
    let failed = live["failed"].as_array().unwrap();
    let without = failed.iter().filter(|one| one["route"].is_null()).count();
    assert!((1..=10).contains(&without), "{without}");
    assert_eq!(failed.iter().filter(|one| one["route"] == "gone").count(), 1);
    running.end();
}

/// A page of somebody else's gets nothing: neither by a name that leads here, nor by what a browser might take for more
/// than text.
#[test]
fn others_are_kept_out() {
    let (behind, folder) = (Behind::new(), TempDir::new().unwrap());
    let running = behind.start(folder.path(), "127.0.0.1:0");
    let pages = ["/", "/live", "/live.css", "/live.mjs", "/live-numbers.mjs", "/inflight", "/config"];
    for path in pages {
        for host in ["evil.test", "evil.test:80", "127.0.0.1.evil.test"] {
            let answer = running.ask("GET", path, host);
            assert_eq!(answer.status, 421, "{path} of {host}");
            assert!(String::from_utf8_lossy(&answer.body).contains("names = [...] of [admin]"));
        }
        for host in ["127.0.0.1:9901", "[::1]", "localhost:1", "GATE.test"] {
            let answer = running.ask("GET", path, host);
            assert_eq!(answer.status, 200, "{path} of {host}");
            let policy = answer.field("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
            assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
            assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.field("cache-control"), Some("no-store"));
            assert_eq!(answer.field("cross-origin-resource-policy"), Some("same-origin"));
        }
    }
    // Machines know it by any name.
    assert_eq!(running.ask("GET", "/metrics", "gate.internal:9901").status, 200);
    assert_eq!(running.ask("POST", "/", "localhost").status, 404);
    running.end();
}

/// The program of this name, if it is there; a build server has it.
pub(crate) fn program(names: &[&'static str]) -> Option<&'static str> {
    let there =
        |name: &&&str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let found = names.iter().find(there).copied();
    if found.is_none() {
        let missing = format!("skipped: {} is missing: .ci/run installs it", names[0]);
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
        eprintln!("{missing}");
    }
    found
}

pub(crate) fn script(name: &str) -> String {
    format!("{}/tests/page/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn its_numbers_are_right() {
    let Some(node) = program(&["node"]) else { return };
    let output = Command::new(node).arg(script("numbers.mjs")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn in_a_browser() {
    let (Some(node), Some(chromium)) =
        (program(&["node"]), program(&["chromium", "chromium-browser", "google-chrome"]))
    else {
        return;
    };
    let (behind, folder, profile) = (Behind::new(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let running = behind.start(folder.path(), "127.0.0.1:0");
    let admin = running.admin;
    let _waits = behind.traffic(&running);
    let mut child = Command::new(node)
        .args([&script("scenario.mjs"), chromium, profile.path().to_str().unwrap(), &format!("http://{admin}/")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut running = Some(running);
    for line in from.lines() {
        let line = line.unwrap();
        match line.as_str() {
            "end" => running.take().unwrap().end(),
            "begin" => running = Some(behind.start(folder.path(), &admin.to_string())),
            _ => println!("{line}"),
        }
        writeln!(to, "{line} done").unwrap();
    }
    assert!(child.wait().unwrap().success());
    running.unwrap().end();
}
