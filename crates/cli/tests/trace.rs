//! `overdue why --trace` as a user runs it: commands and targets of the lab, and names that would steer a terminal.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

use std::{
    env,
    process::{Command, Output, Stdio},
};

use overdue_lab::target::Target;
use overdue_why::collect::trace::{Options, Trace};
use serde_json::Value;

fn why(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
    command.arg("why").args(args).env_remove("NO_COLOR").env("COLUMNS", "80").stdin(Stdio::null());
    command.output().unwrap()
}

fn text(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

/// The objects of a trace, and the report behind them.
fn events(output: &Output) -> (Vec<Value>, Value) {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let mut all: Vec<Value> = text(output).lines().map(parse).collect();
    let report = all.pop().unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(report["schema"], "overdue.report/1", "{output:?}");
    assert!(all.iter().all(|event| event["schema"] == "overdue.trace/1"), "{output:?}");
    (all, report)
}

fn has_bpf() -> bool {
    let attached = Trace::attach(std::process::id(), Options::default());
    if let Err(error) = &attached {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "BPF is not allowed: {error}");
        println!("without BPF: skipped: {error}");
    }
    attached.is_ok()
}

const REFUSED: &str = "
import socket, time
def ask_for_price():
    try: socket.create_connection(('127.0.0.1', 1))
    except OSError: pass
for _ in range(3): ask_for_price()
a, b = socket.socketpair()
b.settimeout(30); b.recv(7)
";

/// A refused connect has its errno and its stack; who waits at the end is told; all of it is in order.
#[test]
fn calls_that_fail_and_calls_that_do_not_return() {
    if !has_bpf() {
        return;
    }
    let output = why(&["--trace", "--json", "--for", "3s", "--", "python3", "-c", REFUSED]);
    let (events, report) = events(&output);
    assert_eq!(report["cause"], "connect-refused");
    let refused: Vec<_> = events.iter().filter(|event| event["errno"] == "ECONNREFUSED").collect();
    assert_eq!(refused.len(), 3, "{events:#?}");
    for event in refused {
        assert_eq!((&event["call"], &event["arguments"]["address"]), (&"connect".into(), &"127.0.0.1:1".into()));
        assert!(event["duration_us"].is_u64(), "{event}");
        let frames = event["stack"]["frames"].as_array().unwrap();
        assert!(
            frames.iter().any(|frame| frame["function"].as_str().is_some_and(|name| name.contains("connect"))),
            "{event}"
        );
    }
    let waits = events.iter().find(|event| event["outcome"] == "unfinished").unwrap_or_else(|| panic!("{events:#?}"));
    assert_eq!((&waits["call"], &waits["arguments"]["timeout"]), (&"poll".into(), &"30s".into()));
    assert!(waits["duration_us"].as_u64().unwrap() > 500_000, "{waits}");
    let times: Vec<u64> = events.iter().filter_map(|event| event["at_us"].as_u64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let summary = events.last().unwrap();
    let connects = summary["summary"].as_array().unwrap().iter().find(|sum| sum["call"] == "connect").unwrap();
    // What starts Python may connect, too: to ask for the name of a user.
    assert_eq!(connects["errors"]["ECONNREFUSED"], 3, "{summary}");
    assert!(connects["calls"].as_u64() >= Some(3), "{summary}");
}

const HOSTILE: &str = "
import ctypes, socket
ctypes.CDLL(None).prctl(15, b'\\x1b[2J) R (\\n', 0, 0, 0)
try: open('/nowhere/\\x1b]0;owned\\x07\\n')
except OSError: pass
try: socket.socket(socket.AF_UNIX).connect('/nowhere/\\x1b[2J')
except OSError: pass
";

#[test]
fn hostile_names_do_no_harm() {
    if !has_bpf() {
        return;
    }
    let output = why(&["--trace", "openat,connect", "--for", "5s", "--", "python3", "-c", HOSTILE]);
    let text = text(&output);
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    assert!(text.contains("path /nowhere/?]0;owned??") && text.contains("unix /nowhere/?[2J"), "{text}");
    let line = text.lines().find(|line| line.contains("unix /nowhere/?[2J")).unwrap();
    assert!(line.contains("?[2J) R (?") && line.contains("= ENOENT"), "{line}");
}

/// Threads, what a descriptor is, chosen calls alone, and the sums.
#[test]
fn a_server_under_load_is_told_by_its_calls() {
    if !has_bpf() {
        return;
    }
    let target = Target::named("busy-c").unwrap().start().unwrap();
    let output = why(&["--trace", "accept4,read,write,epoll_wait", "--for", "2s", "--pid", &target.pid().to_string()]);
    let text = text(&output);
    let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    assert!(
        lines.iter().any(|line| line.contains("read(fd ") && line.contains(" tcp 127.0.0.1:")),
        "{:?}",
        lines.first()
    );
    assert!(lines.iter().all(|line| !line.contains("sendto(")), "a call that was not chosen");
    assert!(text.contains("longest") && text.contains("epoll_wait"), "{text}");
    // The report follows.
    assert!(text.contains("nothing wrong was found"), "{text}");
}

const WAITS: &str = "
import select, socket, time
a, b = socket.socketpair()
poll = select.poll(); poll.register(b, select.POLLIN); poll.poll(150)
epoll = select.epoll(); epoll.register(b); epoll.poll(0.15)
select.select([b], [], [], 0.15)
time.sleep(0.15)
b.settimeout(None)
import threading
threading.Timer(0.15, lambda: a.send(b'x')).start()
poll.poll(9000)
";

/// A wait that ends at its own limit did what it was asked for; one that something ended took long.
#[test]
fn a_wait_that_ends_at_its_limit_is_not_slow() {
    if !has_bpf() {
        return;
    }
    let output = why(&["--trace", "--json", "--for", "5s", "--", "python3", "-c", WAITS]);
    let (all, _) = events(&output);
    let waits = |event: &&Value| ["poll", "ppoll", "epoll_wait", "select", "pselect6"].contains(&call(event));
    let waited: Vec<_> =
        all.iter().filter(waits).filter(|event| event["duration_us"].as_u64() > Some(100_000)).collect();
    assert_eq!(waited.len(), 1, "{all:#?}");
    assert_eq!((&waited[0]["arguments"]["timeout"], &waited[0]["result"]), (&"9s".into(), &1.into()), "{waited:?}");
    assert!(waited[0]["stack"].is_object(), "{waited:?}");
    assert!(!all.iter().any(|event| call(event) == "clock_nanosleep"), "{all:#?}");
    // They are counted all the same.
    let sums = all.last().unwrap();
    assert_eq!(sums["of"], "all calls, told or not");
    let counted = |name: &str| sums["summary"].as_array().unwrap().iter().any(|sum| sum["call"] == name);
    assert!(counted("epoll_wait") && counted("clock_nanosleep"), "{sums}");
    // Who asks for them is told, without a stack.
    let output = why(&["--trace", "clock_nanosleep,connect", "--json", "--for", "5s", "--", "python3", "-c", WAITS]);
    let (all, _) = events(&output);
    let sleep = all.iter().find(|event| call(event) == "clock_nanosleep").unwrap();
    assert!(sleep["duration_us"].as_u64() > Some(149_000) && sleep["stack"].is_null(), "{sleep}");
    let sums = all.last().unwrap();
    assert_eq!(sums["of"], "the chosen calls, told or not");
    let summed: Vec<&str> = sums["summary"].as_array().unwrap().iter().map(call).collect();
    assert!(summed.iter().all(|name| ["clock_nanosleep", "connect"].contains(name)), "{summed:?}");
}

fn call(event: &Value) -> &str {
    event["call"].as_str().unwrap_or_default()
}

/// More than anybody could read: dropped and counted, and the counts are whole.
#[test]
fn a_flood_is_bounded() {
    if !has_bpf() {
        return;
    }
    let target = Target::named("spin-zero-timeout").unwrap().start().unwrap();
    let output = why(&["--trace", "all", "--json", "--for", "2s", "--pid", &target.pid().to_string()]);
    let (events, _) = events(&output);
    let summary = events.last().unwrap();
    let dropped = summary["dropped"].as_u64().unwrap();
    let counted: u64 = summary["summary"].as_array().unwrap().iter().map(|sum| sum["calls"].as_u64().unwrap()).sum();
    let told =
        events.iter().filter(|event| event["outcome"] == "returned" || event["outcome"] == "failed").count() as u64;
    assert!(dropped > 10_000 && told < 15_000, "{told} told, {dropped} dropped");
    assert_eq!(told + dropped, counted, "{summary}");
}

#[test]
fn wrong_usage() {
    for (args, said) in [
        (&["--trace", "conect", "--pid", "1"][..], "conect"),
        (&["--slow", "1ms", "--pid", "1"], "--trace"),
        (&["--trace", "--replay", "x"], "--replay"),
    ] {
        let output = why(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(str::from_utf8(&output.stderr).unwrap().contains(said), "{args:?}: {output:?}");
    }
}
