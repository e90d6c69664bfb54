//! `overdue why -- curl ...` on every fault of the lab that a stock client can meet: from outside of the call the cause
//! must be the one that `overdue get` names from within.
//!
//! The server of a scenario lives in a process of its own, and in a namespace where it needs one, so this test has no
//! harness: it starts itself for each. Several calls run at once, for what they do is wait.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail"
)]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{self, Child, Command, ExitCode, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use overdue_lab::{Fault, Scenario, Scheme, find, netns, scenarios};
use serde_json::Value;

/// Tells a process of this test whose server it is.
const SERVES: &str = "OVERDUE_TEST_SERVES";
/// A folder for what was seen of each call, to judge it again: `overdue why --replay`.
const RECORDINGS: &str = "OVERDUE_TEST_RECORDINGS";
/// Calls that run at once.
const AT_ONCE: usize = 4;
/// No call is watched longer; each ends before.
const WATCHED: &str = "12s";
/// When curl gives up, in seconds, unless the case says otherwise.
const MAX_TIME: &str = "3";

/// What must be said of a call.
#[derive(Clone, Copy)]
enum Said {
    /// The scenario's own cause, first of all.
    Truth,
    /// No verdict: the caller alone knows. With the reason.
    Nothing(&'static str),
}

/// A scenario, and how curl calls it.
struct Case {
    scenario: &'static str,
    arguments: &'static [&'static str],
    said: Said,
}

const fn truth(scenario: &'static str) -> Case {
    called(scenario, &[])
}

const fn called(scenario: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { scenario, arguments, said: Said::Truth }
}

const fn nothing(scenario: &'static str, why: &'static str) -> Case {
    Case { scenario, arguments: &[], said: Said::Nothing(why) }
}

/// curl verifies certificates after what TLS 1.3 hides.
const UNTRUSTED: &str =
    "TLS 1.3 encrypts the certificate and the client's alert: only the client knows what it refused";
const WELL: &str = "nothing is wrong";

const GROUPS: &[(&str, &[Case])] = &[
    (
        "dial",
        &[
            truth("refused"),
            truth("unreachable"),
            truth("ports-exhausted"),
            truth("syn-dropped"),
            truth("backlog-full"),
            // As its limit: of a longer call the silence that follows would be the greater part.
            called("connect-slow", &["--max-time", "1.6"]),
        ],
    ),
    (
        "tls",
        &[
            truth("tls-alert"),
            truth("tls-closed"),
            truth("tls-not-tls"),
            truth("tls-reset"),
            truth("tls-silent"),
            truth("tls-slow"),
            truth("mtu-blackhole-tls"),
            nothing("tls-expired", UNTRUSTED),
            nothing("tls-untrusted-issuer", UNTRUSTED),
            nothing("tls-wrong-name", UNTRUSTED),
            nothing("ok-https", WELL),
        ],
    ),
    (
        "exchange",
        &[
            truth("no-head"),
            truth("half-head"),
            truth("early-close-head"),
            truth("reset-head"),
            truth("body-stall"),
            truth("body-trickle"),
            truth("early-close-length"),
            truth("early-close-chunked"),
            truth("reset-body"),
            truth("upload-not-read"),
            // As much as its caller takes.
            called("reader-slow", &["--limit-rate", "13k"]),
            truth("bad-status-line"),
            nothing("bad-chunk", FRAMES),
            nothing("both-lengths", "what a client makes of two lengths is its own affair: curl takes the chunks"),
            nothing("two-lengths", "the same: curl refuses, and closes first"),
            nothing("ok-http", WELL),
        ],
    ),
    (
        "path",
        &[
            truth("answer-lost"),
            truth("mtu-blackhole"),
            truth("mtu-blackhole-upload"),
            truth("host-vanished"),
            // The second request is a second later, when the filter is there.
            called("path-lost", &["--rate", "1/s", AGAIN]),
        ],
    ),
    (
        "names",
        &[
            truth("dns-empty"),
            truth("dns-nxdomain"),
            truth("dns-refused"),
            truth("dns-servfail"),
            truth("dns-silent"),
            called("dns-slow", &["--max-time", "1"]),
            called("dns-slow-past", &["--max-time", "1"]),
            truth("dns-truncated"),
            truth("dns-truncated-silent"),
            nothing("ok-dns", WELL),
        ],
    ),
    (
        "http2",
        &[truth("h2-goaway"), nothing("h2-garbage", FRAMES), nothing("h2-not-h2", FRAMES), nothing("ok-h2", WELL)],
    ),
];

const FRAMES: &str = "what a client does not take of a message is its own affair: only heads are looked at";

/// In the arguments: the URL once more.
const AGAIN: &str = "<url>";

/// Scenarios whose fault lies in a caller that curl is not, or is in its own account only.
const LEFT_OUT: [(&str, &str); 7] = [
    ("cancelled", "nobody cancels curl but by a signal"),
    ("executor-blocked", "curl has no runtime"),
    ("fd-exhausted", "without descriptors curl does not come to a call: the target fd-exhausted-rust does"),
    (
        "h2-no-window",
        "windows of streams are the endpoints' own account; what is seen is what curl makes of it: 7.88 spins",
    ),
    ("h2-streams", "curl opens a further connection, or waits in itself"),
    ("past-deadline", "no packet is sent"),
    ("pool-exhausted", "the pool is in the client: nothing is sent"),
];

fn main() -> ExitCode {
    if let Ok(name) = env::var(SERVES) {
        serve(&name);
        return ExitCode::SUCCESS;
    }
    let wanted = Wanted::parse(env::args().skip(1));
    if wanted.list {
        let groups = GROUPS.iter().filter(|(group, _)| wanted.has(group));
        groups.for_each(|(group, _)| println!("{group}: test"));
        return ExitCode::SUCCESS;
    }
    every_scenario_has_its_place();
    if let Err(why) = ready() {
        println!("curl: skipped, {why}");
        return if env::var_os("CI").is_some_and(|ci| ci == "true") { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let cases = GROUPS.iter().flat_map(|(group, cases)| cases.iter().map(move |case| (group, case)));
    let cases = cases.filter(|(group, case)| wanted.has(group) || wanted.has(case.scenario));
    let failed = check(&cases.map(|(_, case)| case).collect::<Vec<_>>());
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why nothing can be tried here.
fn ready() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it takes root to load BPF programs".to_owned());
    }
    for program in ["curl", "nsenter", "unshare", "mkfifo"] {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        found.map_err(|error| format!("{program}: {error}"))?;
    }
    netns::available()
}

fn every_scenario_has_its_place() {
    let cases = GROUPS.iter().flat_map(|(_, cases)| cases.iter().map(|case| case.scenario));
    let mut here: Vec<&str> = cases.chain(LEFT_OUT.iter().map(|(name, _)| *name)).collect();
    let mut all: Vec<&str> = scenarios().iter().map(|scenario| scenario.name.as_str()).collect();
    here.sort_unstable();
    all.sort_unstable();
    assert_eq!(here, all);
}

/// Runs them, some at once, and tells of those that fail; how many these are.
fn check(cases: &[&Case]) -> usize {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = judged(case);
                    let mut failed = failed.lock().unwrap();
                    match result {
                        Ok(()) => println!("curl {} ... ok", case.scenario),
                        Err(text) => {
                            *failed += 1;
                            println!("curl {} ... FAILED\n{text}", case.scenario);
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

/// Compares what is said of a call with what must be.
fn judged(case: &Case) -> Result<(), String> {
    let scenario = find(case.scenario).unwrap();
    let report = call(case, scenario)?;
    let first = report["verdicts"][0]["cause"].as_str();
    let (right, expected) = match case.said {
        Said::Truth => {
            let ids: Vec<&str> = scenario.truth.causes.iter().map(|cause| cause.id()).collect();
            (first.is_some_and(|first| ids.contains(&first)), ids.join(" or "))
        }
        Said::Nothing(why) => (first.is_none(), format!("no verdict: {why}")),
    };
    if right {
        return Ok(());
    }
    let report = serde_json::to_string_pretty(&report).unwrap();
    Err(format!("{} should be {expected}\n{report}", first.unwrap_or("no verdict")))
}

/// Makes the call, watched; gives the report.
fn call(case: &Case, scenario: &Scenario) -> Result<Value, String> {
    let folder = Folder::new(case.scenario);
    let mut server = Server::start(scenario, &folder);
    // Where the fault lasts but a moment it begins when the client is watched already: it asks for the address then.
    let said = if is_brief(scenario) { None } else { Some(server.said()?) };
    let mut command = server.inside(scenario, &folder);
    command.args(["why", "--json", "--for", WATCHED]);
    if let Some(recordings) = env::var_os(RECORDINGS) {
        command.arg("--record").arg(PathBuf::from(recordings).join(case.scenario));
    }
    command.arg("--");
    if said.is_none() {
        command.args(["sh", "-c", "echo >\"$0\"; read -r url <\"$1\"; shift; exec \"$@\" \"$url\""]);
        command.args([folder.go(), folder.url()]);
    }
    command.args(["curl", "-sS", "-o", "/dev/null", "--noproxy", "*", "--max-time", MAX_TIME]);
    let url = said.map(|said| {
        if let Some(cacert) = said.cacert {
            command.args(["--cacert", &cacert]);
        }
        said.url
    });
    match scenario.call.scheme {
        Scheme::Http | Scheme::Https => command.arg("--http1.1"),
        Scheme::H2c => command.arg("--http2-prior-knowledge"),
        Scheme::H2 => command.arg("--http2"),
    };
    if scenario.call.body_bytes > 0 {
        let body = folder.0.join("body");
        fs::File::create(&body).and_then(|file| file.set_len(scenario.call.body_bytes)).unwrap();
        command.args(["--request", &scenario.call.method, "--header", "Expect:", "--upload-file"]).arg(body);
    }
    for argument in case.arguments {
        command.arg(if *argument == AGAIN { url.as_deref().unwrap_or_default() } else { argument });
    }
    command.args(url);
    let output = command.output().expect("the call can be started");
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}"))
}

/// Files of one case, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("overdue-curl-{}-{name}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn go(&self) -> PathBuf {
        self.0.join("go")
    }

    fn url(&self) -> PathBuf {
        self.0.join("url")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// The process in which the server of a scenario lives. It ends when its input does.
struct Server {
    child: Child,
}

/// What it says when it is ready.
struct Ready {
    url: String,
    cacert: Option<String>,
}

impl Server {
    fn start(scenario: &Scenario, folder: &Folder) -> Self {
        let mut command = Command::new(env::current_exe().expect("a test knows its own file"));
        command.env(SERVES, &scenario.name).current_dir(&folder.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        if is_brief(scenario) {
            for fifo in [folder.go(), folder.url()] {
                assert!(Command::new("mkfifo").arg(fifo).status().is_ok_and(|status| status.success()));
            }
        }
        Self { child: command.spawn().expect("a test can start itself") }
    }

    /// Waits until it is ready.
    fn said(&mut self) -> Result<Ready, String> {
        let out = self.child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        let url = lines.next().ok_or("the server did not come up")?;
        let cacert = lines.next().filter(|file| !file.is_empty());
        Ok(Ready { url, cacert })
    }

    /// `overdue`, where it and what it runs can reach the server.
    fn inside(&self, scenario: &Scenario, folder: &Folder) -> Command {
        let overdue = env!("CARGO_BIN_EXE_overdue");
        if !has_namespace(scenario) {
            let mut command = Command::new(overdue);
            command.stdin(Stdio::null());
            return command;
        }
        let mut command = Command::new("nsenter");
        command.stdin(Stdio::null()).arg(format!("--net=/proc/{}/ns/net", self.child.id()));
        if scenario.dns.is_some() {
            let resolver = folder.0.join("resolv.conf");
            fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n").unwrap();
            command.args(["unshare", "--mount", "sh", "-c"]);
            command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"").arg(resolver);
        }
        command.arg(overdue);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Names are asked for at the only port that resolvers know, which is free in a namespace.
fn has_namespace(scenario: &Scenario) -> bool {
    scenario.needs.namespace || scenario.dns.is_some()
}

/// Whether the fault is there for a moment only, from the start of the server on.
fn is_brief(scenario: &Scenario) -> bool {
    matches!(scenario.server, overdue_lab::Server::FullBacklog { drain_after: Some(_) })
}

/// Serves a scenario until the input ends.
fn serve(name: &str) {
    let scenario = find(name).expect("it is a scenario");
    if has_namespace(scenario) {
        netns::enter().unwrap_or_else(|error| panic!("{error}"));
    }
    let brief = is_brief(scenario);
    if brief {
        fs::read("go").expect("the client begins");
    }
    let fault = Fault::start(scenario).unwrap_or_else(|error| panic!("{error}"));
    if brief {
        fs::write("url", fault.url() + "\n").expect("the client waits");
    } else {
        let cacert = fault.roots_pem().map(|pem| {
            fs::write("roots.pem", pem).expect("the folder is there");
            env::current_dir().expect("it is there").join("roots.pem").display().to_string()
        });
        println!("{}\n{}", fault.url(), cacert.unwrap_or_default());
    }
    _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(fault);
}

/// What cargo test and cargo nextest ask of a test: the list of its cases, or to run some of them.
struct Wanted {
    list: bool,
    ignored: bool,
    exact: bool,
    names: Vec<String>,
}

impl Wanted {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut wanted = Self { list: false, ignored: false, exact: false, names: Vec::new() };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => wanted.list = true,
                "--ignored" => wanted.ignored = true,
                "--exact" => wanted.exact = true,
                // These have a value, which is no name.
                "--format" | "--color" | "--test-threads" | "--skip" => drop(arguments.next()),
                flag if flag.starts_with('-') => {}
                _ => wanted.names.push(argument),
            }
        }
        wanted
    }

    /// A group, or a scenario in one.
    fn has(&self, what: &str) -> bool {
        let matches = |name: &String| if self.exact { name == what } else { what.contains(name.as_str()) };
        !self.ignored && (self.names.is_empty() || self.names.iter().any(matches))
    }
}
