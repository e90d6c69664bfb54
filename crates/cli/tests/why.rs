//! `overdue why` as a user runs it: commands, recordings, wrong usage, and without privilege.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::ExitStatusExt as _,
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use overdue_lab::target::Target;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::Value;

fn overdue(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
    command.args(args).env_remove("NO_COLOR").env("COLUMNS", "80").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    overdue(args).output().unwrap()
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

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

/// A file that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("overdue-why-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

/// A server that takes requests and answers none.
fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let kept: Vec<_> = listener.incoming().flatten().take(64).collect();
        drop(kept);
    });
    address
}

#[test]
fn a_command_that_waits_is_explained_and_its_output_stays_out_of_the_result() {
    let server = silent_server();
    let script = format!(
        "echo seen; exec 3<>/dev/tcp/{}; printf 'GET /slow HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' >&3; read -t 20 line <&3",
        server.replace(':', "/")
    );
    let output = run(&["why", "--json", "--for", "4s", "--", "bash", "-c", &script]);
    assert_exit(&output, 1);
    let report = json(&output);
    assert_eq!(report["cause"], "server-slow", "{report:#}");
    assert_eq!(report["schema"], "overdue.report/1");
    assert_eq!(report["process"]["name"], "bash");
    assert!(report["connections"][0]["peer"].as_str().unwrap().contains(&server), "{report:#}");
    assert!(stderr(&output).contains("seen"), "{output:?}");
    assert!(stderr(&output).contains("was ended"), "{output:?}");
}

#[test]
fn the_text_has_the_four_facts_on_one_screen() {
    let server = silent_server();
    let script = format!("exec 3<>/dev/tcp/{}; echo hello >&3; read -t 20 line <&3", server.replace(':', "/"));
    let output = run(&["why", "--for", "3s", "--", "bash", "-c", &script]);
    assert_exit(&output, 1);
    let text = stdout(&output);
    for part in ["VERDICT server-slow", "EVIDENCE", "REJECTED", "FIX", "CONNECTIONS", &server, "Watching cost"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn what_was_recorded_is_judged_again() {
    let recording = Scratch::new("recording");
    let server = silent_server();
    let script = format!("exec 3<>/dev/tcp/{}; echo hello >&3; read -t 20 line <&3", server.replace(':', "/"));
    let first = run(&["why", "--json", "--for", "3s", "--record", recording.path(), "--", "bash", "-c", &script]);
    assert_exit(&first, 1);
    let again = run(&["why", "--json", "--replay", recording.path()]);
    assert_exit(&again, 1);
    assert_eq!(json(&first), json(&again));

    // Cut, and with other bytes in it.
    let mut bytes = fs::read(&recording.0).unwrap();
    let half = bytes.len() / 2;
    bytes.truncate(half);
    fs::write(&recording.0, &bytes).unwrap();
    let damaged = run(&["why", "--replay", recording.path()]);
    assert_exit(&damaged, 2);
    assert!(stderr(&damaged).contains(recording.path()), "{damaged:?}");
    fs::write(&recording.0, "{}").unwrap();
    assert_exit(&run(&["why", "--replay", recording.path()]), 2);
}

#[test]
fn wrong_usage_and_nobody_to_watch() {
    for (args, said) in [
        (&["why"][..], "--pid"),
        (&["why", "--pid", "0"], "1 or more"),
        (&["why", "--pid", "nginx"], "pgrep"),
        (&["why", "--pid", "4000000000"], "4000000000"),
        (&["why", "--pid", "1", "--for", "5"], "unit"),
        (&["why", "--pid", "1", "--for", "1ms"], "a second"),
        (&["why", "--replay", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["why", "--replay", "/nowhere/at/all", "--allow-changes"], "--allow-changes"),
        (&["why", "--allow-changes", "--", "true"], "--allow-changes"),
        (&["why", "--pid", "1", "--budget", "0"], "percent"),
        (&["why", "--", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let output = run(args);
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(said), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn a_command_that_ends_early_is_fine_when_it_ends_well() {
    let output = run(&["why", "--for", "10s", "--", "sh", "-c", "exit 0"]);
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("nothing wrong was found"), "{output:?}");
    assert!(stdout(&output).contains("it exited with code 0 "), "{output:?}");
}

/// Nothing that it waited for was wrong; but that is not to be well.
#[test]
fn a_command_that_ends_otherwise_than_well_is_a_finding() {
    for (script, ended, where_to_look) in [
        ("exit 7", "exited with code 7", "what it printed or logged last"),
        ("kill -SEGV $$", "was killed by SIGSEGV (11)", "It crashed: "),
        ("kill -KILL $$", "was killed by SIGKILL (9)", "oom"),
        ("exit 139", "exited with code 139", "was killed by SIGSEGV (11): watch that command"),
    ] {
        let scratch = Scratch::new("ended.html");
        let output = run(&["why", "--for", "10s", "--html", scratch.path(), "--", "sh", "-c", script]);
        assert_exit(&output, 1);
        assert!(stderr(&output).contains(&format!("sh {ended}")), "{output:?}");
        let said = stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(&format!("it {ended}")) && said.contains(where_to_look), "{script}: {said}");
        assert!(!said.contains("nothing wrong"), "{script}: {said}");
        let page = fs::read_to_string(&scratch.0).unwrap();
        assert!(page.contains(&format!("<title>{ended}")) && !page.contains("othing wrong"), "{script}: {page}");
    }
    let output = run(&["why", "--json", "--for", "10s", "--", "sh", "-c", "kill -ABRT $$"]);
    assert_exit(&output, 1);
    let report = json(&output);
    assert_eq!((report["outcome"].as_str(), &report["cause"]), (Some("failed"), &Value::Null), "{report:#}");
    assert_eq!(report["process"]["ended"]["signal"], 6, "{report:#}");
}

/// A pipe that nobody reads would hold up who writes to it or waits for it; a link leads elsewhere.
#[test]
fn only_files_are_written_and_read() {
    let (pipe, link, file) = (Scratch::new("pipe"), Scratch::new("link"), Scratch::new("file"));
    assert!(Command::new("mkfifo").arg(&pipe.0).status().unwrap().success());
    symlink(&file.0, &link.0).unwrap();
    for (args, said) in [
        (["--record", pipe.path(), "--pid", "1"], "it is a pipe"),
        (["--record", link.path(), "--pid", "1"], "links are not followed"),
        (["--record", "-", "--pid", "1"], "stdout has the report"),
        (["--html", "/dev/stdout", "--pid", "1"], "symbolic link"),
        (["--record", "/dev/full", "--pid", "1"], "it is a device"),
    ] {
        let output = run(&[&["why"][..], &args].concat());
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(said) && output.stdout.is_empty(), "{args:?}: {output:?}");
    }
    let output = run(&["why", "--replay", pipe.path()]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("it is a pipe, and only a file can be read"), "{output:?}");
    for flags in [["--on", "-o"], ["--off", "--folded"]] {
        let output = run(&[&["flame", "--pid", "1"][..], &flags, &[pipe.path()]].concat());
        assert_exit(&output, 2);
        assert!(stderr(&output).contains("it is a pipe"), "{output:?}");
    }
    let output = run(&["flame", "--diff", pipe.path(), pipe.path()]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("it is a pipe"), "{output:?}");
    assert!(!file.0.exists());
    // What it tells of is nobody else's.
    assert_exit(&run(&["why", "--for", "1s", "--record", file.path(), "--", "sleep", "5"]), 0);
    assert_eq!(fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
}

fn spawned(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The C library reads the hosts file first. This one never ends, so no name server is asked, and only a probe can tell
/// what the program waits for.
#[test]
fn a_lookup_that_asks_nobody_on_the_network_is_seen_by_a_probe() {
    let hosts = Scratch::new("hosts");
    let why = env!("CARGO_BIN_EXE_overdue");
    let script = format!(
        "mkfifo {hosts} && mount --bind {hosts} /etc/hosts && exec {why} why --uprobes --json --for 4s -- \
         python3 -c 'import socket; socket.getaddrinfo(\"stuck.example\", 80)'",
        hosts = hosts.path(),
    );
    let mut own_mounts = Command::new("unshare");
    let output = own_mounts.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null()).output().unwrap();
    if stderr(&output).contains("unshare") {
        assert!(env::var_os("CI").is_none(), "no mount namespace: {output:?}");
        println!("skipped: no mount namespace: {}", stderr(&output));
        return;
    }
    assert_exit(&output, 1);
    let report = json(&output);
    assert_eq!(report["cause"], "dns-no-answer", "{report:#}");
    let evidence = report["verdicts"][0]["evidence"][0]["text"].as_str().unwrap();
    assert!(evidence.starts_with("getaddrinfo(stuck.example) on thread "), "{evidence}");
    assert!(evidence.contains("has not returned; no query of it"), "{evidence}");
}

/// Whether it ends within so long.
fn ends(pid: Pid, within: Duration) -> bool {
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(within).unwrap())).unwrap() > 0
}

/// How it ended, within so long.
fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    ends(Pid::from_child(child), within).then(|| child.wait().unwrap())
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// What comes after the watch may be stuck, in a pipe that nobody reads: then a signal means what it always means.
#[test]
fn after_the_watch_a_signal_ends_the_program() {
    for signal in [Signal::INT, Signal::TERM] {
        let recording = Scratch::new("stuck");
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        let own = std::process::id().to_string();
        let mut command = overdue(&["why", "--for", "1s", "--record", recording.path(), "--pid", &own]);
        let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        // It says so once the watch is over, and then the report has no place.
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("what was seen is in"), "{line}");
        send(&child, signal);
        let status = ended(&mut child, Duration::from_secs(10));
        _ = child.kill();
        assert_eq!(status.and_then(|status| status.signal()), Some(signal.as_raw()), "{signal:?}: {status:?}");
        drop(reader);
    }
}

/// Whoever asks twice does not want to wait for a command that does not end when it is asked to. Nothing of it stays.
#[test]
fn a_second_signal_ends_the_program_and_the_command_with_all_that_it_started() {
    let script = "trap '' TERM INT; sh -c 'echo $$ >&2; exec sleep 100' & echo $$ >&2; wait; exec sleep 100";
    let mut child = spawned(&mut overdue(&["why", "--for", "60s", "--", "sh", "-c", script]));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let pids: Vec<String> = lines.by_ref().take(2).map(Result::unwrap).collect();
    let mut status = None;
    // Two that come together are one: on a machine that is busy these may seem to.
    for _ in 0..6 {
        send(&child, Signal::INT);
        status = ended(&mut child, Duration::from_millis(700));
        if status.is_some() {
            break;
        }
    }
    _ = child.kill();
    assert_eq!(status.and_then(|status| status.signal()), Some(Signal::INT.as_raw()), "{status:?}");
    for pid in &pids {
        let left = Pid::from_raw(pid.parse().unwrap()).unwrap();
        assert!(ends(left, Duration::from_secs(10)), "{pid} of {pids:?} is left behind");
    }
}

/// Between being made and being told to end with its owner it would wait, stopped, without end.
#[test]
fn a_command_whose_owner_has_ended_does_not_begin() {
    let output = run(&["become", "--owner=1", "--", "echo", "begun"]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("the owner 1 has ended already") && output.stdout.is_empty(), "{output:?}");
}

/// Ctrl-C ends the watch, what was seen is told, and the command is gone.
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let mut child = spawned(&mut overdue(&["why", "--for", "60s", "--", "sh", "-c", "echo $$ >&2; exec sleep 100"]));
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let sleeper: u32 = line.trim().parse().unwrap_or_else(|error| panic!("{line:?}: {error}"));
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("nothing wrong was found"), "{text}");
    assert!(!PathBuf::from(format!("/proc/{sleeper}")).exists());
}

/// Nothing of it runs, so nothing of it can be wrong; but that is not to be well.
#[test]
fn one_that_is_stopped_is_told_so() {
    let mut stopped = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::from_child(&stopped);
    kill_process(pid, Signal::STOP).unwrap();
    let output = run(&["why", "--for", "1s", "--pid", &stopped.id().to_string()]);
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("it is stopped"), "{output:?}");
    assert!(!stdout(&output).contains("nothing wrong"), "{output:?}");
}

/// `timeout 3 overdue why ...` is asked to end, and tells what it has seen.
#[test]
fn a_termination_is_no_loss() {
    let mut watched = Command::new("sleep").arg("60").spawn().unwrap();
    let why = overdue(&["why", "--for", "60s", "--pid", &watched.id().to_string()]);
    let mut timeout = Command::new("timeout");
    timeout.arg("3").arg(why.get_program()).args(why.get_args());
    let output = timeout.stdin(Stdio::null()).output().unwrap();
    watched.kill().unwrap();
    watched.wait().unwrap();
    assert_exit(&output, 124);
    assert!(stdout(&output).contains("nothing wrong was found"), "{output:?}");
}

/// A name may hold what steers a terminal.
#[test]
fn a_hostile_name_does_no_harm() {
    let script = "import ctypes, sys, time\nctypes.CDLL(None).prctl(15, b'\\x1b[2J) R (\\n', 0, 0, 0)\nprint('ready', flush=True)\ntime.sleep(100)";
    let mut hostile = spawned(Command::new("python3").args(["-c", script]).stdin(Stdio::null()));
    BufReader::new(hostile.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let output = run(&["why", "--for", "1s", "--pid", &hostile.id().to_string()]);
    hostile.kill().unwrap();
    hostile.wait().unwrap();
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("?[2J"), "{output:?}");
    assert!(!stdout(&output).contains('\u{1b}'), "{output:?}");
}

/// What is found of own processes without any privilege, by another process of this test that has none.
#[test]
fn without_privilege() {
    for name in ["close-wait-pileup", "fd-leak", "syn-unanswered", "accept-queue-overflow"] {
        let target = Target::named(name).unwrap();
        assert!(target.unprivileged, "{name}");
        let output = Command::new("setpriv")
            // Which is not what the watcher needs: with it, a target of uid 0 can make its own user namespace.
            .args(["--bounding-set=-all,+setfcap", "--inh-caps=-all,+setfcap", "--ambient-caps=-all,+setfcap"])
            .arg("--no-new-privs")
            .arg(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "within_no_privilege", "--nocapture"])
            .env("OVERDUE_TEST_TARGET", name)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}{}", stdout(&output), stderr(&output));
    }
}

/// `CAP_SETFCAP` alone.
const SETFCAP: u64 = 1 << 31;

/// Only run by the test above.
#[test]
#[ignore = "run by without_privilege"]
fn within_no_privilege() {
    let name = env::var("OVERDUE_TEST_TARGET").unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    assert_eq!(u64::from_str_radix(effective.trim(), 16), Ok(SETFCAP), "there is privilege left");
    let target = Target::named(&name).unwrap();
    let running = target.start().unwrap_or_else(|error| panic!("{name}: {error}"));
    let output = run(&["why", "--json", "--for", "4s", "--pid", &running.pid().to_string()]);
    let report = json(&output);
    assert_eq!(report["cause"], target.cause.unwrap().id(), "{report:#}");
    assert_exit(&output, 1);
    // What was missing is told, with the remedy.
    let hidden = report["not_visible"].as_array().unwrap();
    assert!(hidden.iter().any(|gap| gap["how"].as_str().unwrap().contains("root")), "{report:#}");
    drop(running);
}

fn soft_limit(pid: u32) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Without the flag it is only said; with it, it is said and done.
#[test]
fn a_leak_gets_room_when_that_is_allowed() {
    let running = Target::named("fd-leak").unwrap().start().unwrap();
    let pid = running.pid().to_string();
    let text = run(&["why", "--for", "3s", "--pid", &pid]);
    assert_exit(&text, 1);
    let said = stdout(&text);
    assert!(said.contains("FIRST AID") && said.contains("--allow-changes"), "{said}");
    assert_eq!(soft_limit(running.pid()), 256, "{said}");

    let given = run(&["why", "--for", "3s", "--pid", &pid, "--allow-changes"]);
    assert_exit(&given, 1);
    let said = stdout(&given);
    let raised = soft_limit(running.pid());
    assert!(raised > 256, "{said}");
    let at = |part: &str| said.find(part).unwrap_or_else(|| panic!("no {part:?} in\n{said}"));
    // First the verdict, then what will be done, then what was.
    assert!(at("VERDICT fd-leak") < at("raise the soft limit") && at("raise the soft limit") < at("done:"), "{said}");
    assert!(said.contains("used up in") && said.contains("for good:"), "{said}");
    assert!(said.contains(&format!("the soft limit is {raised} now")), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

/// A server that forgot its connections more than half a minute ago, and has new ones.
#[test]
fn connections_that_are_stuck_are_closed_and_no_others() {
    let running = Target::named("close-wait-pileup").unwrap().start().unwrap();
    let pid = running.pid().to_string();
    // They have been silent for long enough in the end.
    let output = run(&["why", "--json", "--for", "32s", "--pid", &pid, "--allow-changes"]);
    let report = json(&output);
    assert_eq!(report["cause"], "close-wait-pileup", "{report:#}");
    let aids = report["first_aid"].as_array().unwrap();
    let closing = aids.iter().find(|aid| aid["action"] == "close-sockets").unwrap_or_else(|| panic!("{report:#}"));
    let planned = closing["sockets"].as_array().unwrap().len();
    assert!((1..200).contains(&planned), "{closing:#}");
    let told = stderr(&output);
    assert!(told.contains(&format!("close {planned} connections of pid {pid} in CLOSE_WAIT")), "{told}");
    if closing["done"] != true {
        // Without the right to it, that is said.
        assert!(closing["withheld"].as_str().unwrap().contains("CAP_NET_ADMIN"), "{closing:#}");
        return;
    }
    assert_eq!(closing["after"]["stuck"], 0, "{closing:#}");
    assert!(closing["result"].as_str().unwrap().contains("still holds all"), "{closing:#}");
    // Those that are younger are as they were.
    let again = json(&run(&["why", "--json", "--for", "3s", "--pid", &pid]));
    assert_eq!(again["cause"], "close-wait-pileup", "{again:#}");
    let cookies = |aids: &Value| -> Vec<u64> {
        let sockets = aids.as_array().unwrap().iter().filter_map(|aid| aid["sockets"].as_array()).flatten();
        sockets.map(|socket| socket["cookie"].as_u64().unwrap()).collect()
    };
    let closed = cookies(&report["first_aid"]);
    assert!(cookies(&again["first_aid"]).iter().all(|cookie| !closed.contains(cookie)), "{again:#}");
}

/// Nothing is wrong: nothing is changed, and that is said.
#[test]
fn who_is_well_gets_no_first_aid() {
    let running = Target::named("idle-c").unwrap().start().unwrap();
    let output = run(&["why", "--for", "2s", "--pid", &running.pid().to_string(), "--allow-changes"]);
    assert_exit(&output, 0);
    assert!(stdout(&output).contains("no verdict calls for anything"), "{output:?}");
}

/// A folder on a file server, in a mount namespace of its own.
const FILE_SERVER: &str = r"
import ctypes, os, select, struct, subprocess, sys, threading
folder, overdue = sys.argv[1:]
libc = ctypes.CDLL(None)
user, group = os.getuid(), os.getgid()
if libc.unshare(0x20000 if user == 0 else 0x10020000): sys.exit(77)
if user:
    for name, text in ('setgroups', 'deny'), ('uid_map', f'0 {user} 1'), ('gid_map', f'0 {group} 1'):
        open('/proc/self/' + name, 'w').write(text)
libc.mount(None, b'/', None, 0x44000, None)
try: server = os.open('/dev/fuse', os.O_RDWR)
except OSError: sys.exit(77)
options = f'fd={server},rootmode=40000,user_id=0,group_id=0'
if libc.mount(b'server', folder.encode(), b'fuse', 0, options.encode()): sys.exit(77)
";

/// It takes every question and answers none.
const DEAD_SERVER: &str = r"
def serve():
    while True:
        length, kind, unique = struct.unpack_from('=IIQ', os.read(server, 1 << 17))
        if kind == 26: # FUSE_INIT
            answer = struct.pack('=4I2H2I2H8I', 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8)
            os.write(server, struct.pack('=IiQ', 16 + len(answer), 0, unique) + answer)
threading.Thread(target=serve, daemon=True).start()
code = subprocess.call([overdue, 'why', '--for', '1s', '--', 'cat', folder + '/file'])
os._exit(code) # With the server everybody who waits for it is let go.
";

/// What is said of a program on a file server that stops to answer; `None` where none can be made.
fn with_server(script: &str, name: &str) -> Option<String> {
    let folder = env::temp_dir().join(format!("overdue-{name}-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    // Not to pipes: what is left behind would hold them open.
    let said = folder.with_extension("txt");
    let file = fs::File::create(&said).unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", &format!("{FILE_SERVER}{script}")])
        .arg(&folder)
        .arg(env!("CARGO_BIN_EXE_overdue"))
        .stdin(Stdio::null());
    let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
    let text = fs::read_to_string(&said).unwrap();
    fs::remove_dir(&folder).unwrap();
    fs::remove_file(&said).unwrap();
    if status.code() == Some(77) {
        assert!(env::var_os("CI").is_none(), "no file server can be made here");
        println!("no file server can be made here: skipped");
        return None;
    }
    assert_eq!(status.code(), Some(0), "{text}");
    Some(text)
}

/// Neither who watches it nor who kills it waits without end.
#[test]
fn a_command_that_no_signal_ends_is_said_to_be_left_behind() {
    let Some(text) = with_server(DEAD_SERVER, "dead") else { return };
    for part in ["did not end within 2s of being killed", "state D", "left behind", "watched 1"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// It gives a program out, and is silent once that runs.
const SILENT_SERVER: &str = r"
content = open('/bin/cat', 'rb').read()
def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100755, len(content))
    return struct.pack('=6Q10I', node, size, size // 512 + 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def answer(kind, node, body):
    if kind == 26: return struct.pack('=4I2H2I2H8I', 7, 31, 65536, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8) # FUSE_INIT
    if kind == 1: return struct.pack('=4Q2I', 2, 0, 0, 0, 0, 0) + attributes(2) # FUSE_LOOKUP
    if kind == 3: return struct.pack('=Q2I', 0, 0, 0) + attributes(node) # FUSE_GETATTR
    if kind == 14: return struct.pack('=Q2I', 0, 0, 0) # FUSE_OPEN
    if kind == 15: # FUSE_READ
        _, at, size = struct.unpack_from('=QQI', body)
        return content[at:at + size]
    if kind in (18, 25): return b'' # FUSE_RELEASE, FUSE_FLUSH
silent = False
def serve():
    while True:
        select.select([server], [], [])
        if silent: return
        request = os.read(server, 1 << 18)
        length, kind, unique, node = struct.unpack_from('=IIQQ', request)
        if kind in (2, 36): continue # FUSE_FORGET, FUSE_INTERRUPT
        body = answer(kind, node, request[40:])
        error = -38 if body is None else 0
        os.write(server, struct.pack('=IiQ', 16 + len(body or b''), error, unique) + (body or b''))
threading.Thread(target=serve, daemon=True).start()
cat = subprocess.Popen([folder + '/cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
cat.stdin.write(b'runs\n'); cat.stdin.flush(); cat.stdout.readline()
silent = True
try: code = subprocess.call([overdue, 'why', '--for', '1s', '--pid', str(cat.pid)], timeout=30)
except subprocess.TimeoutExpired: code = 78
cat.kill()
os._exit(code) # With the server everybody who waits for it is let go.
";

/// Its program and what it has mapped cannot be read, and everything else can.
#[test]
fn a_process_whose_program_lies_on_a_silent_server_is_watched() {
    let Some(text) = with_server(SILENT_SERVER, "silent") else { return };
    for part in ["nothing wrong was found", "user stacks", "goroutines", "did not answer", "watched 1"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// A shell that only waits says who works, and how to watch that one.
#[test]
fn a_shell_points_to_its_child() {
    let server = silent_server();
    let script = format!("exec 3<>/dev/tcp/{}; read -t 20 line <&3", server.replace(':', "/"));
    let output = run(&["why", "--for", "2s", "--", "sh", "-c", &format!("bash -c '{script}'; true")]);
    let said = stdout(&output);
    let head = said.split("\n\n").next().unwrap();
    for part in ["nothing but wait for its children", "overdue why -- bash ...", "exec ...", " bash (", " socket"] {
        assert!(head.contains(part), "no {part:?} in\n{said}");
    }
    // And it was ended with its parent: it has no memory any more, if anything is left of it.
    let child = said.split_once("not watched: ").unwrap().1.split(' ').next().unwrap();
    assert!(child.parse::<u32>().is_ok(), "{child}");
    assert!(fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default().is_empty(), "{child} is left behind");
}
