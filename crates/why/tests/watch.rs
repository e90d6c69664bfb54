//! Watches real processes: this one, and small ones that the tests start.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod need;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use overdue_core::facts::TcpState;
use overdue_why::{
    Observation,
    collect::{
        AttachError, Ended, Interrupt, Options, Target, Watch, cpu, fds,
        flame::Flame,
        sockets, threads,
        trace::{self, Trace},
    },
    flame::Sight,
    observation::{Ending, Look, TcpSocket},
};

fn watch(pid: u32, ms: u64) -> Observation {
    let mut watch =
        Watch::attach(pid, Options { for_: Duration::from_millis(ms), budget: None, ..Options::default() }).unwrap();
    assert_eq!(watch.run(&Interrupt::new().unwrap()), Ended::Time);
    watch.finish()
}

/// A small program that says `ready` when it has done what it is for, and ends when its input does.
struct Script(Child);

impl Script {
    fn python(program: &str) -> Self {
        let program = format!(
            "import sys, os, socket, time, threading\n{program}\nprint('ready', flush=True)\nsys.stdin.read()\n"
        );
        Self::start(Command::new("python3").args(["-c", &program]))
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn of_stream<'a>(seen: &'a Observation, stream: &TcpStream) -> &'a TcpSocket {
    let local = stream.local_addr().unwrap();
    let sockets = &seen.sockets.as_ref().unwrap().tcp;
    sockets.iter().find(|socket| socket.local == local && socket.remote == stream.peer_addr().unwrap()).unwrap()
}

#[test]
fn one_that_the_peer_closed_and_one_that_we_did() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_by_peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    let closed_by_us = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_kept, _) = listener.accept().unwrap();
    closed_by_us.shutdown(std::net::Shutdown::Write).unwrap();

    let seen = watch(process::id(), 600);
    let socket = of_stream(&seen, &closed_by_peer);
    assert_eq!((socket.state, socket.fin_unread, socket.unread_bytes), (TcpState::CloseWait, true, 0));
    assert!(socket.in_state_us >= 550_000 && socket.since_before, "{socket:?}");
    assert_eq!(socket.fd, Some(u32::try_from(closed_by_peer.as_raw_fd()).unwrap()));
    let socket = of_stream(&seen, &closed_by_us);
    assert_eq!((socket.state, socket.inbound), (TcpState::FinWait2, false));
    assert_eq!(socket.peer_pid, Some(process::id()));
}

#[test]
fn a_full_accept_queue_and_bytes_that_nobody_reads() {
    let server = Script::python(
        "l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(1)\n\
         a = socket.create_connection(l.getsockname()); s, _ = l.accept(); a.sendall(b'x' * 1000)\n\
         waiting = [socket.create_connection(l.getsockname()) for _ in range(2)]",
    );
    let seen = watch(server.pid(), 600);
    let sockets = seen.sockets.unwrap();
    let listener = sockets.listeners.first().unwrap();
    assert_eq!((listener.backlog, listener.queued_max, listener.full_rounds), (1, 2, sockets.rounds));
    let unread = sockets.tcp.iter().find(|socket| socket.unread_bytes == 1000).unwrap();
    assert!(unread.inbound && unread.unread_for_us >= 500_000, "{unread:?}");
    let client = sockets.tcp.iter().find(|socket| socket.local == unread.remote).unwrap();
    assert_eq!((client.peer_unread_bytes, client.peer_pid), (Some(1000), Some(server.pid())));
    assert_eq!(client.peer_listener.unwrap().queued, 2);
}

/// A socket that comes while the process is watched, at a number that named a file before, and one at a number that named
/// a socket.
#[test]
fn sockets_that_come_and_go() {
    let mut churning = Script::start(Command::new("python3").args([
        "-c",
        "
import socket, sys, time
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(9)
f = open('/dev/null'); c = socket.create_connection(l.getsockname())
print('ready', flush=True); sys.stdin.readline()
time.sleep(0.4); f.close(); d = socket.create_connection(l.getsockname())
time.sleep(0.4); c.close(); e = socket.create_connection(l.getsockname()); e.send(b'hello')
sys.stdin.read()",
    ]));
    let mut watch =
        Watch::attach(churning.pid(), Options { for_: Duration::from_millis(1500), ..Options::default() }).unwrap();
    let input = churning.0.stdin.as_mut().unwrap();
    input.write_all(b"go\n").unwrap();
    assert_eq!(watch.run(&Interrupt::new().unwrap()), Ended::Time);
    let seen = watch.finish();
    let looks = seen.history.unwrap().looks;
    let established = |look: &Look| {
        let states = &look.tcp.as_ref().unwrap().states;
        states.iter().find(|(state, _)| *state == TcpState::Established).map_or(0, |(_, count)| *count)
    };
    let counts: Vec<u64> = looks.iter().map(established).collect();
    assert_eq!((counts.first(), counts.iter().max()), (Some(&1), Some(&2)), "{looks:?}");
    assert!(looks.first().unwrap().at_us == 0 && looks.windows(2).all(|pair| pair[0].cpu_us <= pair[1].cpu_us));
    assert!(looks.iter().all(|look| look.threads.is_some_and(|threads| threads.running + threads.sleeping == 1)));
    let seen = seen.sockets.unwrap();
    let mut fds: Vec<_> = seen.tcp.iter().filter(|socket| socket.fd.is_some()).collect();
    fds.sort_by_key(|socket| (socket.since_before, socket.in_state_us));
    let [last, replacing_file] = fds.as_slice() else { panic!("{seen:?}") };
    assert_eq!((last.peer_unread_bytes, replacing_file.peer_unread_bytes), (Some(5), Some(0)), "{seen:?}");
    assert!(last.in_state_us < replacing_file.in_state_us && !replacing_file.since_before, "{seen:?}");
    assert!(replacing_file.in_state_us > 300_000, "{seen:?}");
    assert_eq!(seen.listeners.first().unwrap().queued_max, 3);
}

#[test]
fn sockets_of_the_other_family() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return eprintln!("skipped: there is no IPv6") };
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let seen = watch(process::id(), 50);
    let socket = of_stream(&seen, &stream);
    assert!(socket.state == TcpState::Established && socket.last.is_some(), "{socket:?}");
    assert_eq!(socket.peer_listener.map(|listener| listener.queued), Some(1));
}

#[test]
fn descriptors_that_grow_are_counted_by_kind() {
    let leaking = Script::start(Command::new("python3").args([
        "-uc",
        "
import os, sys, threading, time
kept = []
def leak():
    while True:
        kept.append(open('/etc/hostname')); kept.append(os.pipe()); time.sleep(0.01)
threading.Thread(target=leak, daemon=True).start()
print('ready'); sys.stdin.read()",
    ]));
    let seen = watch(leaking.pid(), 700);
    let fds = seen.fds.unwrap();
    assert!(fds.open.len() >= 3 && fds.open.first().unwrap().value + 30 < fds.open.last().unwrap().value, "{fds:?}");
    let kind = |kind: &str| fds.by_kind.iter().find(|found| found.kind == kind).unwrap();
    assert!(kind("pipe").first < kind("pipe").last && kind("file").first < kind("file").last);
    assert_eq!(kind("file").example.as_deref(), Some("/etc/hostname"));
    assert!(fds.soft_limit > 0);
}

#[test]
fn the_end_of_a_process_is_seen_at_once() {
    let mut script = Script::python("l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(7)");
    let mut watch =
        Watch::attach(script.pid(), Options { for_: Duration::from_secs(60), ..Options::default() }).unwrap();
    let mut input = script.0.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    drop(input);
    assert_eq!(watch.run(&Interrupt::new().unwrap()), Ended::Process);
    let seen = watch.finish();
    assert!(seen.process.ended_at_us.unwrap() <= seen.window_us);
    assert_eq!(seen.process.ended, Some(Ending::Exited { code: 0 }));
    assert_eq!(seen.sockets.unwrap().listeners.first().unwrap().backlog, 7);
    assert!(!seen.fds.unwrap().by_kind.is_empty());
}

#[test]
fn a_watch_is_interrupted() {
    let mut watch =
        Watch::attach(process::id(), Options { for_: Duration::from_secs(60), ..Options::default() }).unwrap();
    let interrupt = Interrupt::new().unwrap();
    interrupt.raise();
    assert_eq!(watch.run(&interrupt), Ended::Interrupted);
    assert!(watch.finish().window_us < 30_000_000);
}

#[test]
fn nobody_is_watched() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert!(matches!(Watch::attach(child.id(), Options::default()), Err(AttachError::Gone(_))));
}

#[test]
fn a_zombie_is_said_to_wait_for_its_parent() {
    let mut child = Command::new("true").spawn().unwrap();
    while Target::new(child.id()).unwrap().is_alive() {
        std::thread::yield_now();
    }
    let text = Watch::attach(child.id(), Options::default()).map(|_| ()).unwrap_err().to_string();
    let trace = Trace::attach(child.id(), trace::Options::default()).map(|_| ()).unwrap_err().to_string();
    let flame = Flame::attach(child.id(), Sight::Wait).map(|_| ()).unwrap_err().to_string();
    child.wait().unwrap();
    assert!(text.contains("(true) has ended") && text.contains(&format!("its parent, {} (", process::id())), "{text}");
    assert_eq!((&trace, &flame), (&text, &text));
}

#[test]
fn names_may_hold_anything() {
    let hostile = Script::python(
        "import ctypes\nctypes.CDLL(None).prctl(15, b') R (\\x1b[31m\\n', 0, 0, 0)\nos.environ['X'] = '1'",
    );
    let seen = watch(hostile.pid(), 50);
    assert_eq!(seen.process.name, ") R (\u{1b}[31m\n");
    assert!(seen.process.ended_at_us.is_none() && seen.process.age_us.unwrap() > 0);
}

#[test]
fn a_process_that_becomes_another() {
    let script = Script::start(Command::new("sh").args(["-c", "echo ready; read line; exec sleep 60"]));
    let mut script = script;
    let mut watch =
        Watch::attach(script.pid(), Options { for_: Duration::from_millis(800), ..Options::default() }).unwrap();
    script.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    watch.run(&Interrupt::new().unwrap());
    let seen = watch.finish();
    assert!(seen.process.exec_at_us.is_some(), "{:?}", seen.process);
    assert_eq!((seen.process.name.as_str(), seen.process.command.join(" ").as_str()), ("sleep", "sleep 60"));
}

#[test]
fn a_thread_in_a_read_and_one_at_a_lock() {
    let blocked = Script::python(
        "l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(1)\n\
         a = socket.create_connection(l.getsockname()); s, _ = l.accept()\n\
         lock = threading.Lock(); lock.acquire()\n\
         ep = __import__('select').epoll(); ep.register(a.fileno(), 1)\n\
         po = __import__('select').poll(); po.register(s.fileno(), 1)\n\
         r, w = os.pipe()\n\
         def go(f): t = threading.Thread(target=f, daemon=True); t.start()\n\
         go(lambda: os.read(s.fileno(), 1)); go(lambda: lock.acquire()); go(lambda: ep.poll(77)); go(lambda: po.poll())\n\
         go(lambda: os.read(r, 1)); go(lambda: l.accept()); go(lambda: lock.acquire(timeout=50)); time.sleep(0.3)",
    );
    let seen = watch(blocked.pid(), 600);
    let sockets = seen.sockets.as_ref().unwrap();
    let server = sockets.tcp.iter().find(|socket| socket.inbound).unwrap();
    let client = sockets.tcp.iter().find(|socket| socket.local == server.remote).unwrap();
    let threads = seen.threads.unwrap();
    assert_eq!((threads.first, threads.last, threads.left_out), (8, 8, 0));
    let waits: Vec<_> = threads.threads.iter().map(|thread| (thread, thread.blocked_in.as_ref().unwrap())).collect();

    let name = format!("tcp {}", server.remote);
    let (thread, wait) = waits.iter().find(|(_, wait)| wait.call == "read" && wait.cookie.is_some()).unwrap();
    assert_eq!((wait.fd, wait.what.as_deref(), wait.cookie), (server.fd, Some(name.as_str()), Some(server.cookie)));
    assert_eq!(wait.timeout_us, None);
    assert!(thread.blocked_us >= 550_000 && thread.since_before, "{thread:?}");

    let (thread, epoll) = waits.iter().find(|(_, wait)| wait.call == "epoll_wait").unwrap();
    assert_eq!(thread.epolls, [(epoll.fd.unwrap(), thread.looks)]);
    assert_eq!(epoll.timeout_us, Some(Some(77_000_000)));
    assert_eq!((epoll.what.as_deref(), epoll.waits_for.first().unwrap().cookie), (Some("epoll"), Some(client.cookie)));
    let poll = waits.iter().find(|(_, wait)| wait.call == "poll").unwrap().1;
    assert_eq!((poll.timeout_us, poll.waits_for.first().unwrap().cookie), (Some(None), Some(server.cookie)));
    assert_eq!((poll.fd, poll.cookie), (server.fd, Some(server.cookie)), "a poll of one");
    let accept = waits.iter().find(|(_, wait)| wait.call == "accept4").unwrap().1;
    assert!(accept.what.as_deref().unwrap().starts_with("listener 127.0.0.1:"));
    let pipe = waits.iter().find(|(_, wait)| wait.what.as_deref() == Some("pipe")).unwrap().1;
    assert_eq!(pipe.timeout_us, Some(None));
    let limits: Vec<_> =
        waits.iter().filter(|(_, wait)| wait.call == "futex").map(|(_, wait)| wait.timeout_us.unwrap()).collect();
    assert!(limits.contains(&None), "{limits:?}");
    assert!(limits.iter().flatten().any(|&limit| (40_000_000..50_000_000).contains(&limit)), "{limits:?}");
}

#[test]
fn threads_that_wait_for_sockets_other_than_tcp() {
    let server = Script::python(
        "l = socket.socket(socket.AF_UNIX); l.bind('\\0overdue-watch-%d' % os.getpid()); l.listen(1)\n\
         threading.Thread(target=lambda: globals().update(s=l.accept()), daemon=True).start()",
    );
    let name = format!("overdue-watch-{}", server.pid());
    let client = Script::python(&format!(
        "a = socket.socket(socket.AF_UNIX); a.connect('\\0{name}')\n\
         u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))\n\
         p, q = socket.socketpair()\n\
         def go(f): t = threading.Thread(target=f, daemon=True); t.start()\n\
         go(lambda: a.recv(1)); go(lambda: u.recv(1)); go(lambda: p.recv(1)); time.sleep(0.3)"
    ));
    let threads = watch(client.pid(), 300).threads.unwrap();
    let waits = threads.threads.iter().filter_map(|thread| thread.blocked_in.as_ref());
    let mut waits: Vec<_> = waits.filter_map(|wait| Some((wait.what.as_deref()?, wait.peer_pid))).collect();
    waits.retain(|(what, _)| *what != "pipe");
    waits.sort_unstable();
    let named = format!("unix @{name}");
    assert_eq!(waits, [("udp", None), ("unix", Some(client.pid())), (named.as_str(), Some(server.pid()))]);
}

#[test]
fn a_thread_that_computes_is_not_blocked() {
    let busy = Script::python("def spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()");
    let threads = watch(busy.pid(), 700).threads.unwrap();
    let busiest = threads.threads.iter().max_by_key(|thread| thread.cpu_us).unwrap();
    // The machine may be busy with more than this.
    assert!(busiest.cpu_us > 0 && busiest.cpu_us + busiest.runqueue_us.unwrap() > 300_000, "{busiest:?}");
    assert!(busiest.blocked_us < 300_000, "{busiest:?}");
}

const PID: &str = "OVERDUE_TEST_PID";

/// Not a test of its own: what the tests below run as another user.
#[test]
#[ignore = "run by other tests"]
fn as_somebody_else() {
    let pid = std::env::var(PID).unwrap().parse().unwrap();
    println!("\nobservation {}", serde_json::to_string(&watch(pid, 100)).unwrap());
}

/// Watches as the user nobody. `None` where this is not root.
fn watch_as_nobody(pid: u32) -> Option<Observation> {
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "as_somebody_else", "--ignored", "--nocapture"])
        .env(PID, pid.to_string())
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("observation "));
    if line.is_none() {
        assert!(!rustix::process::geteuid().is_root(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("skipped: only root can become another user");
    }
    line.map(|line| serde_json::from_str(line).unwrap())
}

#[test]
fn what_a_stranger_may_not_see_is_listed() {
    let server = Script::python("l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(1)");
    let Some(seen) = watch_as_nobody(server.pid()) else { return };
    assert!(seen.fds.is_none() && seen.sockets.is_none());
    let hidden: Vec<&str> = seen.not_visible.iter().map(|hidden| hidden.what.as_str()).collect();
    for what in ["descriptors", "sockets", "program"] {
        assert!(hidden.contains(&what), "{hidden:?}");
    }
    assert!(hidden.iter().any(|what| what.starts_with("what threads wait in")), "{hidden:?}");
    // These are there for everybody.
    assert!(seen.process.command.first().unwrap().contains("python3"));
    assert_eq!(seen.threads.unwrap().threads.first().unwrap().looks, 2);
    assert!(seen.cpu.unwrap().processors > 0.0);
}

const IN_A_NAMESPACE: &str = "
import socket, sys
l = socket.socket(); l.bind(('127.0.0.1', 4321)); l.listen(3)
print('ready', flush=True); sys.stdin.read()";

#[test]
fn sockets_of_another_network_namespace() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may make a network namespace");
        return;
    }
    let mut command = Command::new("unshare");
    let server = Script::start(command.args(["-n", "python3", "-c", IN_A_NAMESPACE]));
    let seen = watch(server.pid(), 50);
    let [listener] = seen.sockets.as_ref().unwrap().listeners.as_slice() else { panic!("{seen:?}") };
    assert_eq!((listener.local.port(), listener.backlog), (4321, 3));

    // Its own user sees the table, but not inside.
    let mut command = Command::new("unshare");
    let command =
        command.args(["-n", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    let server = Script::start(command.args(["/usr/bin/python3", "-c", IN_A_NAMESPACE]));
    let Some(seen) = watch_as_nobody(server.pid()) else { return };
    let [listener] = seen.sockets.as_ref().unwrap().listeners.as_slice() else { panic!("{seen:?}") };
    assert_eq!((listener.local.port(), listener.backlog, listener.full_rounds), (4321, u32::MAX, 0));
    assert!(seen.not_visible.iter().any(|hidden| hidden.how.contains("nsenter")), "{:?}", seen.not_visible);
}

#[test]
fn a_process_whose_first_thread_has_ended() {
    let script = Script::start(Command::new("python3").args([
        "-c",
        "
import ctypes, os, socket, sys, threading
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(5)
def stay():
    while open('/proc/self/stat').read().rsplit(')', 1)[1].split()[0] != 'Z': pass
    print('ready', flush=True); sys.stdin.read()
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)",
    ]));
    let seen = watch(script.pid(), 300);
    assert_eq!(seen.process.ended_at_us, None);
    assert_eq!(seen.sockets.unwrap().listeners.first().unwrap().backlog, 5);
    assert!(seen.fds.unwrap().by_kind.iter().any(|kind| kind.kind == "tcp" && kind.last == 1));
    assert_eq!(seen.threads.unwrap().last, 2);
}

#[test]
fn processor_and_memory() {
    let busy = Script::python("def spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()");
    let cpu = watch(busy.pid(), 700).cpu.unwrap();
    assert!(cpu.user_us + cpu.runqueue_us.unwrap() > 300_000 && cpu.processors >= 1.0, "{cpu:?}");
    assert!(cpu.rss_bytes.iter().all(|reading| reading.value > 1 << 20) && cpu.rss_bytes.len() >= 3, "{cpu:?}");
}

/// What one look costs, alone and with many sockets, threads and descriptors. For the release build.
#[test]
#[ignore = "measures"]
fn cost() {
    let cpu_us = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        u64::try_from(Duration::try_from(now).unwrap().as_micros()).unwrap()
    };
    let target = |script: &Script| Target::new(script.pid()).unwrap();
    let report = |what: &str, look: &mut dyn FnMut(u64)| {
        const LOOKS: u64 = 20;
        look(1_000_000_000);
        let began = cpu_us();
        // So far apart that none is left out for being dear.
        (2..2 + LOOKS).for_each(|at| look(at * 1_000_000_000_000));
        println!("{what}: {} us a look", (cpu_us() - began) / LOOKS);
    };
    let open = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n";
    let many = |count: u32| {
        format!(
            "{open}l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(4000)\nk = []\n\
                 for _ in range({count}): k.append(socket.create_connection(l.getsockname())); k.append(l.accept())"
        )
    };
    let client = Script::python(&format!(
        "{open}l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(4000)\nk = []\n\
         s = os.fork()\nif s == 0:\n    for _ in range(1000): k.append(l.accept())\n    time.sleep(9); os._exit(0)\n\
         for _ in range(1000): k.append(socket.create_connection(l.getsockname()))"
    ));
    let mut collector = sockets::Collector::attach(&target(&client)).unwrap();
    report("sockets, 1,000 of a process, 1,000 of others", &mut |at| collector.look(at));
    drop(client);
    for pairs in [0, 500, 5000] {
        let script = Script::python(&many(pairs));
        let mut sockets = sockets::Collector::attach(&target(&script)).unwrap();
        report(&format!("sockets, process with {}", pairs * 2), &mut |at| sockets.look(at));
        let mut fds = fds::Collector::attach(&target(&script)).unwrap();
        report(&format!("fds, process with {}", pairs * 2), &mut |at| fds.look(at));
        if pairs == 5000 {
            let small = Script::python(&many(50));
            let mut sockets = sockets::Collector::attach(&target(&small)).unwrap();
            report("sockets, process with 100 of 10,000", &mut |at| sockets.look(at));
        }
    }
    let threads = Script::python(
        "threading.stack_size(65536)\nl = threading.Lock(); l.acquire()\n\
        for _ in range(1000): threading.Thread(target=l.acquire, daemon=True).start()\ntime.sleep(0.5)",
    );
    let mut collector = threads::Collector::attach(&target(&threads)).unwrap();
    report("threads, 1,000 asleep", &mut |at| collector.look(at));
    let mut cpu = cpu::Collector::attach(&target(&threads)).unwrap();
    report("cpu", &mut |at| cpu.look(at));
    let files = Script::python(&format!("{open}k = [open('/dev/null') for _ in range(15000)]"));
    let mut fds = fds::Collector::attach(&target(&files)).unwrap();
    report("fds, each of 15,000 looked at", &mut |at| fds.look(at));
}

/// Connections of its own over which it talks to itself all the time.
const TALKER: &str = "l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(9)
a = socket.create_connection(l.getsockname()); b, _ = l.accept()
def talk():
    while True: a.sendall(b'x'); b.recv(1)
threading.Thread(target=talk, daemon=True).start()";

/// Whether BPF programs may be loaded and their cost be counted here.
fn counts_cost(seen: &Observation) -> bool {
    if seen.overhead.bpf_us.is_none() {
        need::skip(format_args!("the cost of BPF programs is not counted here: {:?}", seen.not_visible));
    }
    seen.overhead.bpf_us.is_some()
}

fn watch_for_budget(pid: u32, budget: Option<f64>) -> Observation {
    let options = Options { for_: Duration::from_millis(3500), budget, ..Options::default() };
    let mut watch = Watch::attach(pid, options).unwrap();
    assert_eq!(watch.run(&Interrupt::new().unwrap()), Ended::Time);
    watch.finish()
}

#[test]
fn what_it_costs_is_measured_and_what_is_too_dear_is_given_up() {
    let talker = Script::python(TALKER);
    let free = watch_for_budget(talker.pid(), None);
    if !counts_cost(&free) {
        return;
    }
    let is_budget = |seen: &Observation| seen.not_visible.iter().any(|hidden| hidden.how.contains("--budget"));
    assert!(!is_budget(&free), "{:?}", free.not_visible);
    let cost = free.overhead.bpf_us.unwrap();
    // It makes some 100,000 calls a second, and is looked at for an eighth of the time.
    assert!(cost > 200 && cost < free.window_us / 2, "{:?}", free.overhead);
    assert!(free.overhead.lost_us.is_some_and(|lost| lost > 100 && lost <= cost), "{:?}", free.overhead);
    assert!(free.overhead.slowdown_ppm.is_some_and(|ppm| ppm > 0 && ppm < 500_000), "{:?}", free.overhead);

    let poor = watch_for_budget(talker.pid(), Some(1e-9));
    let hidden: Vec<_> = poor.not_visible.iter().filter(|hidden| hidden.how.contains("--budget")).collect();
    assert!(!hidden.is_empty(), "{:?}", poor.not_visible);
    assert!(hidden.iter().all(|hidden| hidden.why.contains("more than the budget allows")), "{hidden:?}");
    let looked_us = |seen: &Observation| seen.polling.as_ref().expect("loops are looked at").looked_us;
    assert!(looked_us(&poor) < looked_us(&free), "{} {}", looked_us(&poor), looked_us(&free));
    // The rest goes on, and what was seen is kept.
    assert_eq!(poor.sockets.unwrap().tcp.len(), 2);
    assert!(poor.connections.is_some() && poor.cpu.unwrap().used_us() > 1_000_000);
}
