//! The real binary, as a user runs it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use overdue_core::{Cause, SCHEMA};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn overdue(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
    command.args(args).env_remove("NO_COLOR").env("COLUMNS", "80").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    overdue(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The size of a body that no buffer on the way holds.
const BIG: usize = 64 << 20;

/// A small HTTP/1.1 server: one thread a connection, for as long as the test runs.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            thread::spawn(move || serve(tcp, addr));
        }
    });
    format!("http://{addr}")
}

/// Answers requests until the caller leaves. What it says depends on the path.
fn serve(tcp: TcpStream, addr: SocketAddr) -> Option<()> {
    tcp.set_nodelay(true).ok()?;
    let (mut reader, mut writer) = (BufReader::new(tcp.try_clone().ok()?), tcp);
    for turn in 0.. {
        let (mut request_line, mut length, mut echo) = (String::new(), 0, Vec::new());
        reader.read_line(&mut request_line).ok().filter(|read| *read > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
            echo.extend(line.into_bytes());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let mut words = request_line.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let (status, fields, body) = match path {
            "/missing" => ("404 Not Found", String::new(), b"no\n".to_vec()),
            "/moved" => ("302 Found", "location: /hello\r\n".to_owned(), Vec::new()),
            "/loop" => ("302 Found", format!("location: http://{addr}/loop\r\n"), Vec::new()),
            "/elsewhere" => ("302 Found", "location: ftp://files.test/\u{202e}\r\n".to_owned(), Vec::new()),
            "/nowhere" => ("302 Found", "location: http://[\r\n".to_owned(), Vec::new()),
            "/big" => ("200 OK", String::new(), vec![b'x'; BIG]),
            // A connection that was kept is closed when it is used again.
            "/once" if turn > 0 => return None,
            "/echo" => ("200 OK", String::new(), [method.as_bytes(), b" ", &body].concat()),
            "/fields" => ("200 OK", String::new(), echo),
            _ => ("200 OK", "x-said: a\u{9b}b\r\n".to_owned(), b"hello\n".to_vec()),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{fields}\r\n", body.len());
        let body = if method == "HEAD" { Vec::new() } else { body };
        writer.write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
    None
}

/// A server that accepts and then says nothing. The receiver learns of each connection.
fn silent_server() -> (String, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, accepted) = mpsc::channel();
    thread::spawn(move || listener.incoming().flatten().try_for_each(|tcp| sender.send(tcp)));
    (url, accepted)
}

/// A path for one test.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("overdue-cli-{}-{name}", std::process::id()))
}

#[test]
fn wrong_usage_says_what_would_be_right() {
    for (args, part) in [
        (&[][..], "Usage: overdue"),
        (&["got"], "get"),
        (&["get"], "<URL>"),
        (&["get", ""], "value"),
        (&["get", "ftp://api.test"], "http://, https:// or lab:NAME"),
        (&["get", "http://"], "no URL"),
        (&["get", "http://me:secret@api.test/"], "authorization"),
        (&["get", "lab:tls-quiet"], "tls-silent"),
        (&["get", "api.test", "--limit", "wit=5s"], "connect-attempt"),
        (&["get", "api.test", "--limit", "wait=5"], "with a unit"),
        (&["get", "api.test", "--total", "5"], "with a unit"),
        (&["get", "api.test", "--total", "10ns"], "too short"),
        (&["get", "api.test", "--limit", "wait=9999999h"], "too long"),
        (&["get", "api.test", "-X", "CONNECT"], "proxies"),
        (&["get", "api.test", "-H", "content-length: 5"], "set by -d"),
        (&["get", "api.test", "-H", "Transfer-Encoding: chunked"], "set by -d"),
        (&["get", "api.test", "-H", "host:"], "cannot be taken out"),
        (&["get", "api.test", "-H", "host: a", "-H", "host: b"], "another Host"),
        (&["get", "api.test", "-H", "expect: 100-continue"], "not supported"),
        (&["get", "lab:nope"], "no-head"),
        (&["lab", "run", "nohead"], "(near it: no-head"),
        (&["get", "api.test", "--resolve", "api.test:443"], "HOST:PORT:ADDR"),
        (&["get", "api.test", "-H", "nonsense"], "Name: value"),
        (&["get", "api.test", "-d", "@/no/such/file"], "/no/such/file"),
        (&["get", "https://api.test", "--cacert", "/dev/null"], "no certificate"),
        (&["get", "api.test", "--unix-socket", "/no/such/socket"], "/no/such/socket"),
        (&["get", "api.test", "-c", "5"], "--number"),
        (&["get", "api.test", "-n", "0"], "0"),
        (&["lab", "run", "half-hed"], "half-head"),
        (&["lab", "verify", "nonsense"], "overdue lab list"),
        (&["explain", "sny-unanswered"], "syn-unanswered"),
        (&["explain", "dns"], "dns-no-answer"),
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {output:?}");
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for args in [&["--help"][..], &["why", "--help"], &["--version"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_overdue")).args(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(stderr(&output).contains("cannot write to stdout: No space left"), "{args:?}: {output:?}");
    }
}

#[test]
fn help_has_examples_and_the_version_is_there() {
    for args in [
        &["--help"][..],
        &["get", "--help"],
        &["lab", "--help"],
        &["lab", "run", "--help"],
        &["lab", "verify", "--help"],
        &["explain", "--help"],
        &["doctor", "--help"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 0, "{args:?}");
        assert!(stdout(&output).contains("Examples:"), "{args:?}: {}", stdout(&output));
    }
    assert_eq!(stdout(&run(&["--version"])), concat!("overdue ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_good_call_shows_its_stages() {
    let output = run(&["get", &server()]);
    assert_eq!(code(&output), 0, "{output:?}");
    let text = stdout(&output);
    for part in ["200 OK, 6 bytes of body", "\nok in ", "\n  connect ", "\n  wait ", "\n  total ", "http/1.1, new"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("hello") && !text.contains("VERDICT"), "{text}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_status_is_no_failure_of_the_call() {
    let output = run(&["get", &format!("{}/missing", server())]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("404 Not Found"), "{}", stdout(&output));
}

#[test]
fn the_json_of_a_call_is_a_report() {
    let report = json(&run(&["get", &server(), "--json"]));
    assert_eq!(report["schema"], SCHEMA);
    assert_eq!(report["outcome"], "ok");
    assert_eq!(report["response"]["status"], 200);
    assert_eq!(report["response"]["body_bytes"], 6);
    let parts: u64 =
        report["timeline"].as_array().unwrap().iter().map(|span| span["duration_us"].as_u64().unwrap()).sum();
    assert_eq!(parts + report["unaccounted_us"].as_u64().unwrap(), report["elapsed_us"].as_u64().unwrap());
    for (field, empty) in [("verdicts", true), ("advisories", true), ("attempts", true), ("branches", true)] {
        assert_eq!(report[field].as_array().unwrap().is_empty(), empty, "{field}");
    }
}

#[test]
fn the_body_goes_where_it_is_sent() {
    let url = server();
    let output = run(&["get", &url, "-o", "-"]);
    assert_eq!(stdout(&output), "hello\n");
    assert!(stderr(&output).contains("200 OK"), "{}", stderr(&output));

    let file = scratch("body");
    let output = run(&["get", &url, "-o", file.to_str().unwrap()]);
    assert_eq!((code(&output), fs::read_to_string(&file).unwrap().as_str()), (0, "hello\n"));
    assert!(stdout(&output).contains("200 OK"));
    fs::remove_file(&file).unwrap();

    let output = run(&["get", &url, "-o", "/no/such/folder/body"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("/no/such/folder/body"), "{}", stderr(&output));
}

#[test]
fn a_call_that_fails_writes_no_file() {
    let file = scratch("kept");
    fs::write(&file, "precious").unwrap();
    let output = run(&["get", "lab:no-head", "--limit", "wait=100ms", "-o", file.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    fs::remove_file(&file).unwrap();
}

#[test]
fn requests_are_as_curl_users_expect() {
    let url = server();
    let get = |path: &str, flags: &[&str]| {
        let output = run(&[&["get", &format!("{url}{path}"), "-o", "-"], flags].concat());
        assert_eq!(code(&output), 0, "{output:?}");
        stdout(&output).to_owned()
    };
    assert_eq!(get("/echo", &["-d", "a=1", "-d", "b=2"]), "POST a=1&b=2");
    assert_eq!(get("/echo", &["-X", "PUT", "-d", ""]), "PUT ");
    let file = scratch("data");
    fs::write(&file, "from a file\n").unwrap();
    assert_eq!(get("/echo", &["-d", &format!("@{}", file.display())]), "POST from a file\n");
    fs::remove_file(&file).unwrap();
    let fields = get("/fields", &["-H", "X-One: 1", "-H", "accept:"]).to_lowercase();
    assert!(fields.contains("x-one: 1\r\n") && fields.contains("user-agent: overdue/"), "{fields}");
    assert!(!fields.contains("accept:"), "{fields}");
    assert_eq!(get("/moved", &["-L"]), "hello\n");

    let mut piped = overdue(&["get", &format!("{url}/echo"), "-d", "@-", "-o", "-"]);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"from stdin").unwrap();
    assert_eq!(stdout(&piped.wait_with_output().unwrap()), "POST from stdin");

    let head = run(&["get", &url, "-I"]);
    assert!(stdout(&head).starts_with("HTTP/1.1 200 OK\ncontent-length: 6\n"), "{}", stdout(&head));
    assert!(!stdout(&head).contains('\u{9b}'), "a peer can steer the terminal");
}

#[test]
fn a_name_is_resolved_as_told() {
    let url = server();
    let port = url.rsplit(':').next().unwrap();
    let address = format!("api.test:{port}:127.0.0.1");
    let output = run(&["get", &format!("api.test:{port}/"), "--resolve", &address]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stdout(&output).contains(&format!("127.0.0.1:{port} from")), "{}", stdout(&output));
}

#[test]
fn redirects_are_followed_and_come_to_an_end() {
    let url = server();
    let stays = run(&["get", &format!("{url}/moved"), "--json"]);
    assert_eq!(json(&stays)["response"]["status"], 302);
    let goes = json(&run(&["get", &format!("{url}/moved"), "-L", "--json"]));
    assert_eq!(goes["response"]["status"], 200);
    assert_eq!(goes["redirects"][0]["status"], 302);
    assert_eq!(goes["redirects"][0]["report"]["schema"], SCHEMA);
    assert_eq!(goes["not_followed"], Value::Null);
}

#[test]
fn a_redirect_loop_is_a_finding() {
    let url = format!("{}/loop", server());
    let endless = run(&["get", &url, "-L"]);
    assert_eq!(code(&endless), 1, "{endless:?}");
    let text = stdout(&endless);
    assert!(text.contains("redirect loop: 20 redirects were followed") && text.contains("\n  total "), "{text}");
    assert_eq!(text.matches(&format!("302 {url} in ")).count(), 20, "{text}");
    let endless = run(&["get", &url, "-L", "--json"]);
    let report = json(&endless);
    assert_eq!((code(&endless), &report["not_followed"]["kind"]), (1, &"loop".into()));
    assert_eq!(report["redirects"].as_array().unwrap().len(), 20);
    let many = run(&["get", &url, "-L", "-n", "2", "--json"]);
    assert_eq!((code(&many), &json(&many)["outcomes"]["redirect-loop"]), (1, &2.into()));
}

#[test]
fn a_redirect_that_cannot_be_followed_is_noted() {
    let url = server();
    for (path, part) in [("/elsewhere", "scheme"), ("/nowhere", "no URL")] {
        let output = run(&["get", &format!("{url}{path}"), "-L"]);
        assert_eq!(code(&output), 0, "{output:?}");
        let note = stderr(&output);
        assert!(note.starts_with("note: the redirect was not followed: ") && note.contains(part), "{note}");
        assert!(!note.contains('\u{202e}'), "a peer can turn the text: {note}");
        assert!(stdout(&output).contains("302 Found"));
        let report = json(&run(&["get", &format!("{url}{path}"), "-L", "--json"]));
        assert_eq!(report["not_followed"]["kind"], "unusable");
    }
}

/// How a program ends that nobody reads from.
fn end_of(child: &mut Child) -> (i32, String) {
    wait_until("its end", || child.try_wait().unwrap().is_some());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code().unwrap_or(-1), said)
}

#[test]
fn a_body_that_nobody_takes_is_late_by_its_reader() {
    let url = format!("{}/big", server());
    let command = |flags: &[&str]| {
        let mut command = overdue(&[&["get", &url, "-o", "-"], flags].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // Long enough that a busy machine's late answer takes no great share of it: that would be another verdict.
    let mut child = command(&["--total", "3s"]);
    let (code, said) = end_of(&mut child);
    assert_eq!(code, 1, "{said}");
    for part in ["VERDICT reader-slow", "limit total 3s, set by flag --total", "note: cannot write to stdout"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    let mut child = command(&["--total", "none", "--limit", "gap=none"]);
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    signal(&child, Signal::INT);
    let (code, said) = end_of(&mut child);
    assert_eq!(code, 130, "{said}");
    assert!(said.contains("cancelled in receive") && said.contains("Ctrl-C was pressed"), "{said}");
}

#[test]
fn a_body_that_is_not_written_is_no_good_call() {
    let url = server();
    let fifo = scratch("fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    let path = fifo.to_str().unwrap();
    let output = run(&["get", &url, "-o", path, "--total", "200ms"]);
    assert_eq!(code(&output), 2, "{output:?}");
    assert!(stderr(&output).contains(&format!("cannot write {path}: ")), "{}", stderr(&output));
    assert!(stderr(&output).contains("limit total 200ms"), "{}", stderr(&output));

    let mut child = overdue(&["get", &url, "-o", path]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "hello\n");
    assert_eq!(end_of(&mut child).0, 0);
    fs::remove_file(&fifo).unwrap();

    let output = run(&["get", &url, "-o", "/dev/full"]);
    assert_eq!(code(&output), 2, "{output:?}");
    assert!(stderr(&output).contains("cannot write /dev/full: No space left"), "{}", stderr(&output));
}

#[test]
fn calls_that_were_sent_again_are_counted() {
    let url = format!("{}/once", server());
    let calls = json(&run(&["get", &url, "-n", "4", "--json"]));
    assert_eq!((&calls["outcomes"]["ok"], &calls["sent_again"]["calls"]), (&4.into(), &3.into()), "{calls}");
    assert_eq!(calls["sent_again"]["causes"], serde_json::json!({ "closed-early": 3 }));
    let text = run(&["get", &url, "-n", "2"]);
    assert!(stdout(&text).contains("\nsent again: 1 (closed-early 1)\n"), "{}", stdout(&text));
    assert!(!stdout(&run(&["get", &server(), "-n", "2"])).contains("sent again"));
}

#[test]
fn a_fault_of_the_lab_is_called_as_a_url() {
    let output = run(&["get", "lab:half-head"]);
    assert_eq!(code(&output), 1, "{output:?}");
    let text = stdout(&output);
    for part in ["timed out in wait after ", "VERDICT head-stalled in wait, high", "EVIDENCE", "REJECTED", "FIX"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let verdict = text.find("VERDICT").unwrap();
    assert!(verdict < text.find("  stage ").unwrap(), "the verdict comes first");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");

    let report = json(&run(&["get", "lab:tls-silent", "--json"]));
    assert_eq!(report["cause"], "tls-peer-silent");
    assert!(report["limit"]["origin"].as_str().unwrap().contains("tls-silent.toml:"), "{}", report["limit"]);
}

#[test]
fn a_flag_goes_before_what_the_scenario_says() {
    let report = json(&run(&["get", "lab:no-head", "--total", "150ms", "--json"]));
    assert_eq!(report["limit"]["name"], "total");
    assert_eq!(report["limit"]["origin"], "flag --total");
    let report = json(&run(&["get", "lab:no-head", "--limit", "wait=120ms", "--json"]));
    assert_eq!(report["limit"]["value_us"], 120_000);
    assert_eq!(report["limit"]["origin"], "flag --limit");
    let trusted = json(&run(&["get", "lab:tls-expired", "-k", "--limit", "wait=100ms", "--json"]));
    assert_eq!(trusted["stage"], "wait", "with -k the handshake is done");
}

#[test]
fn many_calls_become_percentiles() {
    let output = run(&["get", &server(), "-n", "50", "-c", "5", "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let calls = json(&output);
    assert_eq!(
        (&calls["calls"], &calls["outcomes"]["ok"], &calls["statuses"]["200"]),
        (&50.into(), &50.into(), &50.into())
    );
    assert!(calls["new_connections"].as_u64().unwrap() <= 5, "connections are reused");
    let stages = calls["stages"].as_array().unwrap();
    let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["queue", "resolve", "connect", "send", "wait", "receive", "unaccounted", "total"]);
    for stage in stages {
        let at = |name: &str| stage[name].as_u64().unwrap();
        assert!(
            at("p50_us") <= at("p90_us") && at("p90_us") <= at("p99_us") && at("p99_us") <= at("max_us"),
            "{stage}"
        );
    }
    let text = run(&["get", &server(), "-n", "3"]);
    assert!(stdout(&text).starts_with("3 calls, 1 at a time, in "), "{}", stdout(&text));
    assert_eq!(stderr(&text), "", "no bar where there is no terminal");
}

#[test]
fn many_calls_that_fail_are_counted_by_cause() {
    let output = run(&["get", "lab:early-close-head", "-n", "20", "-c", "4", "--json"]);
    assert_eq!(code(&output), 1, "{output:?}");
    let calls = json(&output);
    assert_eq!(calls["causes"][0]["cause"], "closed-early");
    assert_eq!(calls["causes"][0]["calls"], 20);
    assert_eq!(calls["causes"][0]["example"]["schema"], SCHEMA);
    let text = run(&["get", "lab:early-close-head", "-n", "2"]);
    assert!(stdout(&text).contains("CAUSES\n         2  closed-early\n"), "{}", stdout(&text));
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let big = format!("{}/big", server());
    for args in [&["explain"][..], &["lab", "list"], &["doctor"], &["get", "lab:ok-http"], &["get", &big, "-o", "-"]] {
        let mut child = overdue(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((code(&output), stderr(&output)), (0, ""), "{args:?}");
    }
}

/// What a command writes to a terminal.
fn on_terminal(no_color: &str) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    let mut child = overdue(&["explain", "server-slow"])
        .env("TERM", "xterm")
        .env("NO_COLOR", no_color)
        .stdout(slave)
        .spawn()
        .unwrap();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // A terminal whose other side is gone ends with an error.
        _ = fs::File::from(master).read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    });
    assert!(child.wait().unwrap().success());
    reader.join().unwrap()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    assert!(on_terminal("").contains("\u{1b}[1m"));
    let plain = on_terminal("1");
    assert!(plain.contains("server-slow") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn every_cause_is_explained() {
    assert!(stdout(&run(&["explain", "SERVER-SLOW"])).starts_with("server-slow: "));
    let list = run(&["explain"]);
    for cause in Cause::ALL {
        let entry = cause.entry();
        assert!(stdout(&list).contains(&format!("  {} ", entry.id)), "{cause} is not listed");
        let output = run(&["explain", entry.id]);
        assert_eq!(code(&output), 0, "{cause}");
        let text = stdout(&output);
        for part in [entry.id, entry.title, "WHAT HAPPENED", "WHAT LOOKS LIKE IT", "CONFIRM", "FIX"] {
            assert!(text.contains(part), "{cause}: {part}");
        }
        // A command is whole on its line, or it could not be copied.
        let commands = entry.confirm.iter().flat_map(|text| text.split('`').skip(1).step_by(2));
        for command in commands {
            assert!(text.contains(&format!("`{command}`")), "{cause}: {command} is broken:\n{text}");
        }
    }
}

#[test]
fn the_lab_lists_every_scenario() {
    let output = run(&["lab", "list"]);
    for scenario in overdue_lab::scenarios() {
        assert!(stdout(&output).contains(&format!("{} ", scenario.name)), "{}", scenario.name);
    }
}

#[test]
fn a_scenario_is_shown_beside_its_truth() {
    let output = run(&["lab", "run", "refused"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stdout(&output).ends_with("  truth    failed in connect: connect-refused\n  verdict  failed in connect: connect-refused (high)\n  ok\n"), "{}", stdout(&output));
    let told = json(&run(&["lab", "run", "refused", "--json"]));
    assert_eq!((&told["result"], &told["truth"]["causes"][0]), (&"ok".into(), &"connect-refused".into()));
    assert_eq!(told["report"]["schema"], SCHEMA);
}

#[test]
fn every_scenario_is_judged_as_its_truth() {
    let output = run(&["lab", "verify", "--json"]);
    let verified = json(&output);
    let mut names = BTreeSet::new();
    for row in verified["scenarios"].as_array().unwrap() {
        let name = row["scenario"].as_str().unwrap();
        names.insert(name);
        let needs_namespace = overdue_lab::find(name).unwrap().needs.namespace;
        match row["result"].as_str().unwrap() {
            "ok" => {}
            "not-run" if needs_namespace => println!("{name} was not run: {}", row["trouble"]),
            other => panic!("{name} is {other}: {} {}\n{}", row["differences"], row["trouble"], row["report"]),
        }
    }
    assert_eq!(names.len(), overdue_lab::scenarios().len());
}

/// The gateway sees on its side what the client sees on its own.
#[test]
fn every_scenario_is_judged_as_its_truth_by_a_gateway_before_it() {
    let verified = json(&run(&["lab", "verify", "--through-gate", "--json"]));
    let rows = verified["scenarios"].as_array().unwrap();
    for row in rows {
        let name = row["scenario"].as_str().unwrap();
        let needs_namespace = overdue_lab::find(name).unwrap().needs.namespace;
        match row["result"].as_str().unwrap() {
            "ok" => {}
            "not-run" if needs_namespace => println!("{name} was not run: {}", row["trouble"]),
            other => panic!("{name} is {other}: {} {}\n{}", row["differences"], row["trouble"], row["report"]),
        }
    }
    assert!(rows.len() >= 47, "{} scenarios", rows.len());
    let misfit = run(&["lab", "run", "dns-silent", "--through-gate"]);
    assert_eq!(code(&misfit), 2);
    assert!(stderr(&misfit).contains("the caller's own resolver"), "{}", stderr(&misfit));
}

#[test]
fn verify_is_a_table_in_the_order_of_the_catalogue() {
    let output = run(&["lab", "verify", "tls-silent", "refused", "ok-http", "--runs", "2"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let lines: Vec<_> = stdout(&output).lines().collect();
    let starts = ["scenario", "tls-silent", "refused", "ok-http", "", "3 of 3 judged as their truth"];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line:?}");
    }
    assert!(lines[1].ends_with("ok 2/2"), "{}", lines[1]);
}

#[test]
fn the_demo_tells_eight_faults_apart() {
    let output = run(&["demo"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let text = stdout(&output);
    assert_eq!(text.matches("your log today: context deadline exceeded").count(), 8, "{text}");
    let table = text.rsplit_once("your log  ").unwrap().1;
    let causes: BTreeSet<_> = table.lines().filter_map(|line| line.split_whitespace().nth(4)).collect();
    let known: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.id()).collect();
    assert_eq!(causes.intersection(&known).count(), 8, "{table}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn the_doctor_keeps_to_what_it_tried() {
    let output = run(&["doctor", "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let report = json(&output);
    assert_eq!(report["schema"], "overdue.doctor/1");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 8);
    for check in checks {
        assert!(check["seen"].is_boolean() && !check["found"].as_str().unwrap().is_empty(), "{check}");
        assert_eq!(check["seen"].as_bool().unwrap(), check["how"].is_null(), "{check}");
    }
}

/// The processes whose parent is `parent`.
fn children_of(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of_parent = |stat: &str| stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (of_parent(&stat) == Some(parent)).then_some(pid)
        })
        .collect()
}

fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

/// Asks again and again, for as long as patience lasts.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let (_sender, never) = mpsc::channel::<()>();
    for _ in 0..PATIENCE.as_millis() / 10 {
        if done() {
            return;
        }
        _ = never.recv_timeout(Duration::from_millis(10));
    }
    panic!("this did not come: {what}");
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn ctrl_c_shows_what_is_known_so_far() {
    let (url, accepted) = silent_server();
    let child = overdue(&["get", &url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _held = accepted.recv_timeout(PATIENCE).unwrap();
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130, "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("cancelled in ") && text.contains("Ctrl-C was pressed"), "{text}");

    let child = overdue(&["get", &url, "-n", "5", "-c", "2", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let _held = [accepted.recv_timeout(PATIENCE).unwrap(), accepted.recv_timeout(PATIENCE).unwrap()];
    signal(&child, Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130, "{output:?}");
    assert_eq!(json(&output)["outcomes"]["cancelled"], 2);
}

#[test]
fn an_interrupted_verify_leaves_no_process() {
    for (last, expected) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let child = overdue(&["lab", "verify", "no-head", "half-head", "--runs", "1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut runs = Vec::new();
        wait_until("two runs", || {
            runs = children_of(child.id());
            runs.len() >= 2
        });
        signal(&child, last);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), expected, "{output:?}");
        wait_until("the end of the runs", || !runs.iter().any(|pid| is_running(*pid)));
    }
}
