//! `overdue why` on every target of the lab: real programs, each ill in one way, and healthy ones.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use overdue_lab::target::Target;
use overdue_why::{Report, recording};
use serde_json::Value;

/// Watched for so long: long enough for the slowest, and far below the ten seconds within which an answer is due.
const WATCHED: &str = "4s";
/// Where the fault takes three seconds each time, or grows slowly.
const WATCHED_SLOW: &str = "8s";
/// A resolver asks again every five seconds.
const WATCHED_NAMES: &str = "6s";
/// Idle connections show only when they have been idle for a while.
const WATCHED_IDLE: &str = "11s";

fn watched(name: &str) -> &'static str {
    match name {
        "no-keepalive" => WATCHED_IDLE,
        _ if name.starts_with("waits-upstream") || name.starts_with("deadline-ignored") => WATCHED_SLOW,
        _ if name.starts_with("dns-no-answer") => WATCHED_NAMES,
        "healthy-long-poll" | "healthy-worker" | "fd-leak-far" => WATCHED_SLOW,
        _ => WATCHED,
    }
}

/// What cannot be seen yet. Nothing that is not true may be said of it all the same.
const UNSEEN: [(&str, &str); 2] = [
    ("task-backlog-tokio", "tasks of a Rust program leave no mark outside of it, unlike goroutines and threads"),
    ("deadline-ignored-c", "a timer that was read and a call that goes on look like any other two calls"),
];

/// What a report says.
struct Said {
    verdicts: Vec<String>,
    effects: BTreeSet<String>,
    advisories: BTreeSet<String>,
    exit: i32,
    text: String,
}

impl Said {
    fn of(name: &str, pid: u32) -> Self {
        let mut why = Command::new(env!("CARGO_BIN_EXE_overdue"));
        why.args(["why", "--json", "--for", watched(name), "--pid", &pid.to_string()]).stdin(Stdio::null());
        let recording = env::var_os(RECORD).map(|folder| PathBuf::from(folder).join(format!("{name}.gz")));
        recording.iter().for_each(|file| _ = why.arg("--record").arg(file));
        let output = why.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        recording.iter().for_each(|file| hide_folders(file));
        Self::reported(&report, output.status.code().unwrap_or(-1))
    }

    fn reported(report: &Value, exit: i32) -> Self {
        let mut effects = BTreeSet::new();
        report["verdicts"].as_array().unwrap().iter().for_each(|verdict| below(verdict, &mut effects));
        Self {
            verdicts: causes(&report["verdicts"]),
            effects,
            advisories: causes(&report["advisories"]).into_iter().collect(),
            exit,
            text: serde_json::to_string_pretty(&report).unwrap(),
        }
    }
}

fn causes(findings: &Value) -> Vec<String> {
    findings.as_array().into_iter().flatten().map(|finding| finding["cause"].as_str().unwrap().to_owned()).collect()
}

fn below(finding: &Value, all: &mut BTreeSet<String>) {
    for effect in finding["effects"].as_array().into_iter().flatten() {
        all.insert(effect["cause"].as_str().unwrap().to_owned());
        below(effect, all);
    }
}

fn check(name: &str) {
    let target = Target::named(name).unwrap_or_else(|| panic!("there is no target {name}"));
    let running = target.start().unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = Said::of(name, running.pid());
    let problem = problem(target, &said);
    assert!(problem.is_none(), "{name}: {}\ntruth: {}\n{}", problem.unwrap_or_default(), target.truth, said.text);
}

/// With this variable set to a folder, what was seen of each target is recorded there. See CONTRIBUTING.md.
const RECORD: &str = "OVERDUE_RECORDINGS";

/// Where a target was built and runs is nobody else's business.
fn hide_folders(file: &Path) {
    let seen = recording::read(fs::File::open(file).unwrap()).unwrap();
    let mut text = serde_json::to_string(&seen).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    for (folder, name) in [
        (Some(workspace.into()), "/src/overdue"),
        (env::var_os("HOME"), "/home"),
        (Some(env::temp_dir().into()), "/tmp"),
    ] {
        if let Some(folder) = folder.filter(|folder| folder.len() > 1) {
            text = text.replace(&*folder.to_string_lossy(), name);
        }
    }
    recording::write(fs::File::create(file).unwrap(), &serde_json::from_str(&text).unwrap()).unwrap();
}

/// What was seen of the targets once is judged as the targets are, whatever becomes of the rules and of the collectors.
#[test]
fn recordings_are_judged_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut judged = 0;
    for target in Target::all() {
        let Ok(file) = fs::File::open(folder.join(format!("{}.gz", target.name))) else { continue };
        let seen = recording::read(file).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        let report = serde_json::to_value(Report::of(&seen)).unwrap();
        let exit = i32::from(report["verdicts"] != Value::Array(Vec::new()));
        let said = Said::reported(&report, exit);
        assert_eq!(problem(target, &said), None, "{}\n{}", target.name, said.text);
        judged += 1;
    }
    let recorded = fs::read_dir(&folder).unwrap().count();
    assert!(judged > 0 && judged == recorded, "{recorded} recordings, {judged} of them of targets");
}

/// What is wrong with the answer.
fn problem(target: &Target, said: &Said) -> Option<String> {
    let ids =
        |causes: &[overdue_core::Cause]| causes.iter().map(|cause| cause.id().to_owned()).collect::<BTreeSet<_>>();
    let (also, effects) = (ids(&target.also), ids(&target.effects));
    let unseen = UNSEEN.iter().any(|(name, _)| *name == target.name);
    let (expected, rest): (Option<&str>, &[String]) = match target.cause {
        _ if unseen => (None, &said.verdicts),
        Some(cause) if !target.advisory => match said.verdicts.split_first() {
            Some((first, rest)) if first == cause.id() => (Some(cause.id()), rest),
            first => return Some(format!("{:?} should be {cause}", first.map(|(first, _)| first))),
        },
        Some(cause) if !said.advisories.contains(cause.id()) => return Some(format!("no advisory {cause}")),
        _ => (None, &said.verdicts),
    };
    if let Some(wrong) = rest.iter().find(|cause| !also.contains(*cause)) {
        return Some(format!("{wrong} is not true"));
    }
    if let Some(wrong) = said.effects.iter().find(|cause| !effects.contains(*cause) && !also.contains(*cause)) {
        return Some(format!("{wrong} is no effect of it"));
    }
    let exit = i32::from(expected.is_some() || !rest.is_empty());
    (said.exit != exit).then(|| format!("exit code {} should be {exit}", said.exit))
}

macro_rules! targets {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                check($name);
            }
        )*

        #[test]
        fn all_targets_are_judged() {
            let here = BTreeSet::from([$($name),*]);
            let all: BTreeSet<_> = Target::all().iter().map(|target| target.name.as_str()).collect();
            assert_eq!(here, all);
        }
    };
}

targets! {
    spin_zero_timeout: "spin-zero-timeout",
    spin_short_timer: "spin-short-timer",
    spin_half_closed: "spin-half-closed",
    spin_error_fd: "spin-error-fd",
    spin_accept_error: "spin-accept-error",
    spin_accept_emfile: "spin-accept-emfile",
    fd_leak: "fd-leak",
    fd_leak_far: "fd-leak-far",
    fd_leak_accept: "fd-leak-accept",
    close_wait_pileup: "close-wait-pileup",
    fin_wait2_pileup: "fin-wait2-pileup",
    half_open_few: "half-open-few",
    half_open_many: "half-open-many",
    accept_queue_overflow: "accept-queue-overflow",
    accept_backlog_python: "accept-backlog-python",
    accept_queue_overflow_python: "accept-queue-overflow-python",
    spin_zero_timeout_node: "spin-zero-timeout-node",
    spin_short_timer_python: "spin-short-timer-python",
    spin_half_closed_python: "spin-half-closed-python",
    fd_leak_python: "fd-leak-python",
    fd_leak_go: "fd-leak-go",
    close_wait_pileup_python: "close-wait-pileup-python",
    tls_handshake_storm: "tls-handshake-storm",
    connection_churn: "connection-churn",
    connection_churn_c: "connection-churn-c",
    no_keepalive: "no-keepalive",
    wait_unlimited: "wait-unlimited",
    io_stuck: "io-stuck",
    task_backlog_go: "task-backlog-go",
    task_backlog_python: "task-backlog-python",
    task_leak_go: "task-leak-go",
    task_leak_rust: "task-leak-rust",
    deadlock: "deadlock",
    deadlock_crowded: "deadlock-crowded",
    runtime_blocked: "runtime-blocked",
    handlers_locked: "handlers-locked",
    handlers_locked_rwlock: "handlers-locked-rwlock",
    handlers_locked_python: "handlers-locked-python",
    pool_exhausted_go: "pool-exhausted-go",
    handlers_locked_go: "handlers-locked-go",
    requests_unread: "requests-unread",
    runtime_blocked_node: "runtime-blocked-node",
    runtime_blocked_python: "runtime-blocked-python",
    runtime_blocked_tokio: "runtime-blocked-tokio",
    task_backlog_tokio: "task-backlog-tokio",
    dns_serialised_node: "dns-serialised-node",
    dns_serialised_python: "dns-serialised-python",
    cpu_throttled: "cpu-throttled",
    cpu_busy: "cpu-busy",
    waits_upstream_go: "waits-upstream-go",
    waits_upstream_node: "waits-upstream-node",
    deadline_ignored_c: "deadline-ignored-c",
    deadline_ignored_python: "deadline-ignored-python",
    deadline_ignored_go: "deadline-ignored-go",
    syn_unanswered: "syn-unanswered",
    syn_unanswered_python: "syn-unanswered-python",
    accept_queue_full: "accept-queue-full",
    accept_queue_full_python: "accept-queue-full-python",
    connect_refused_node: "connect-refused-node",
    ports_exhausted_rust: "ports-exhausted-rust",
    fd_exhausted_rust: "fd-exhausted-rust",
    tls_peer_silent_go: "tls-peer-silent-go",
    tls_peer_silent_python: "tls-peer-silent-python",
    tls_peer_silent_before_go: "tls-peer-silent-before-go",
    tls_peer_silent_before_python: "tls-peer-silent-before-python",
    server_slow: "server-slow",
    server_slow_python: "server-slow-python",
    body_stalled_go: "body-stalled-go",
    body_stalled_node: "body-stalled-node",
    peer_not_reading_rust: "peer-not-reading-rust",
    peer_not_reading_go: "peer-not-reading-go",
    peer_reset_python: "peer-reset-python",
    reader_slow_rust: "reader-slow-rust",
    dns_no_answer: "dns-no-answer",
    dns_no_answer_python: "dns-no-answer-python",
    dns_no_answer_go: "dns-no-answer-go",
    dns_no_answer_node: "dns-no-answer-node",
    idle_c: "idle-c",
    busy_c: "busy-c",
    idle_python: "idle-python",
    busy_python: "busy-python",
    idle_go: "idle-go",
    busy_go: "busy-go",
    idle_node: "idle-node",
    busy_node: "busy-node",
    idle_rust: "idle-rust",
    busy_rust: "busy-rust",
    healthy_pool: "healthy-pool",
    healthy_pool_idles: "healthy-pool-idles",
    healthy_one_client: "healthy-one-client",
    healthy_last_word: "healthy-last-word",
    healthy_news: "healthy-news",
    healthy_ticker: "healthy-ticker",
    healthy_workers: "healthy-workers",
    healthy_subscriber: "healthy-subscriber",
    healthy_calls: "healthy-calls",
    healthy_logger: "healthy-logger",
    healthy_long_poll: "healthy-long-poll",
    healthy_worker: "healthy-worker",
}
