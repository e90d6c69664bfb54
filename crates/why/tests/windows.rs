//! A watch that goes on, told of again and again: what is said is of its last window, and nothing is lost between two.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod need;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use overdue_why::{
    Observation,
    collect::{Ended, Interrupt, Options, SIGHT, Watch},
    judge::judge,
    observation::{Connection, Moment},
};

/// On each line from its input it opens so many connections, closes all but one, and opens as many files to keep.
const PROGRAM: &str = "
import socket, sys
port, kept = int(sys.argv[1]), []
print('ready', flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        s = socket.create_connection(('127.0.0.1', port))
        s.sendall(b'GET /x HTTP/1.1\\r\\nhost: h\\r\\n\\r\\n')
        s.recv(100)
        kept.append(open('/dev/null'))
        s.close()
    kept.append(socket.create_connection(('127.0.0.1', port)))
    print('done', flush=True)
";

/// Other tests load the machine meanwhile, and what they cost the watch in the kernel is no subject here.
fn without_budget() -> Options {
    Options { budget: None, ..Options::default() }
}

struct Client {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Client {
    fn new(port: u16) -> Self {
        Self::run(PROGRAM, &[&port.to_string()])
    }

    fn run(program: &str, arguments: &[&str]) -> Self {
        let mut python = Command::new("python3");
        python.args(["-c", program]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut client = Self { child, said };
        client.hear("ready\n");
        client
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }

    fn order(&mut self, count: u32) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{count}").unwrap();
        self.hear("done\n");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Answers everybody until the test ends.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            kept.push(stream);
        }
    });
    port
}

fn grown(seen: &Observation) -> u64 {
    let fds = seen.fds.as_ref().unwrap();
    assert_eq!(fds.open.first().unwrap().at_us, 0, "the window begins with what was true then");
    fds.open.last().unwrap().value - fds.open.first().unwrap().value
}

#[test]
fn what_is_told_is_of_the_last_seconds_and_nothing_is_lost() {
    let mut client = Client::new(server());
    let mut watch = Watch::attach(client.child.id(), without_budget()).unwrap();
    let interrupt = Interrupt::new().unwrap();
    let mut next = |for_ms: u64| {
        let (ended, seen) = watch.next(Duration::from_millis(for_ms), &interrupt);
        assert_eq!(ended, Ended::Time);
        seen
    };
    next(100);
    client.order(20);
    let first = next(1_000);
    let has_bpf = first.connections.is_some();
    if !has_bpf {
        need::skip(format_args!("what needs BPF: {:?}", first.not_visible));
    }
    assert_eq!(grown(&first), 21);
    if let Some(connections) = &first.connections {
        assert_eq!((connections.opened, connections.closed), (21, 20));
    }

    // Each second, for three windows: those of the beginning are never told of twice, and go when their window does.
    let sight_us = u64::try_from(SIGHT.as_micros()).unwrap();
    let mut seen = first;
    for _ in 0..11 {
        seen = next(1_000);
        assert!(seen.window_us <= 2 * sight_us + 1_500_000, "{}", seen.window_us);
    }
    assert!(seen.window_us >= sight_us, "{}", seen.window_us);
    assert_eq!(grown(&seen), 0);
    let fds = seen.fds.as_ref().unwrap();
    let files = fds.by_kind.iter().find(|kind| kind.kind == "device").unwrap();
    assert_eq!((files.first, files.last >= 20), (files.last, true), "{fds:?}");
    let kept = &seen.sockets.as_ref().unwrap().tcp;
    assert_eq!(kept.len(), 1, "only what is open yet: {kept:?}");
    assert!(seen.threads.as_ref().unwrap().threads.iter().all(|thread| thread.looks <= 45));
    if let Some(connections) = &seen.connections {
        assert_eq!((connections.opened, connections.closed), (0, 0));
        let [Connection { opened, read_bytes, .. }] = &connections.connections[..] else {
            panic!("{:?}", connections.connections);
        };
        assert_eq!((*opened, *read_bytes), (Some(Moment::Before), 0));
        assert_eq!(seen.overhead.dropped_events, 0);
        assert!(seen.polling.is_some_and(|polling| polling.looked_us > 0));
    }

    // And what comes then is told of at once, as a fresh watch would.
    client.order(5);
    seen = next(1_000);
    assert_eq!(grown(&seen), 6);
    if let Some(connections) = &seen.connections {
        assert_eq!((connections.opened, connections.closed), (6, 5));
        let requests = connections.connections.iter().filter(|it| it.http.is_some());
        assert_eq!(requests.count(), 5);
    }
    drop(client);
    let (ended, last) = watch.next(Duration::from_secs(5), &interrupt);
    assert_eq!(ended, Ended::Process);
    assert!(last.process.ended_at_us.is_some_and(|at_us| at_us <= last.window_us), "{:?}", last.process);
}

/// A child that computed for a second when it began, and has slept since.
#[test]
fn what_a_child_used_goes_with_its_window() {
    const PARENT: &str = "
import ctypes, os, sys, time
if os.fork() == 0:
    ctypes.CDLL(None).prctl(1, 9)  # It dies with its parent.
    sys.stdin.close()
    while time.process_time() < 1: pass
    time.sleep(60)
print('ready', flush=True); sys.stdin.readline()
time.sleep(60)
";
    let parent = Client::run(PARENT, &[]);
    let mut watch = Watch::attach(parent.child.id(), without_budget()).unwrap();
    let interrupt = Interrupt::new().unwrap();
    let mut used = Vec::new();
    for _ in 0..17 {
        let seen = watch.next(Duration::from_secs(1), &interrupt).1;
        used.push(seen.process.busiest_children.first().unwrap().cpu_us);
    }
    assert!(used.iter().any(|us| *us > 300_000), "{used:?}");
    assert_eq!(used.last(), Some(&0), "{used:?}");
}

/// Says GET on one connection again and again, and reads what comes as its arguments tell.
const READER: &str = "
import socket, sys, time
port, requests, size, pause = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
print('ready', flush=True); sys.stdin.readline()
s = socket.create_connection(('127.0.0.1', port))
for _ in range(requests):
    s.sendall(b'GET /x HTTP/1.1\\r\\nhost: h\\r\\n\\r\\n')
    s.recv(size)
    time.sleep(0.01)
print('done', flush=True)
while s.recv(size): time.sleep(pause)
time.sleep(60)
";

fn verdicts(seen: &Observation) -> Vec<&'static str> {
    judge(seen).verdicts.iter().map(|finding| finding.verdict.cause.id()).collect()
}

/// Answers that came before the window tell that the one that does not come is late.
#[test]
fn a_server_that_was_quick_once_is_slow_in_every_window() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1000];
        for asked in 1.. {
            _ = stream.read(&mut request).unwrap();
            if asked <= 20 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        }
    });
    let client = Client::run(READER, &[&port.to_string(), "21", "1000", "0"]);
    let mut watch = Watch::attach(client.child.id(), without_budget()).unwrap();
    let interrupt = Interrupt::new().unwrap();
    writeln!(client.child.stdin.as_ref().unwrap()).unwrap();
    let mut last = Observation::default();
    for second in 0..14 {
        last = watch.next(Duration::from_secs(1), &interrupt).1;
        if second >= 2 && last.connections.is_some() {
            assert_eq!(verdicts(&last), ["server-slow"], "after {second} s");
        }
    }
    let Some(connections) = last.connections else {
        return need::skip(format_args!("BPF is not allowed: {:?}", last.not_visible));
    };
    let [connection] = &connections.connections[..] else { panic!("{:?}", connections.connections) };
    assert_eq!((connection.opened, connection.turns), (Some(Moment::Before), 20));
    assert!(connection.read_gaps.before_us > 0 && connection.read_gaps.total_us == 0, "{:?}", connection.read_gaps);
}

/// The whole answer and its end lie in the reader's own socket.
#[test]
fn a_reader_that_takes_its_time_is_not_cut_short() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        _ = stream.read(&mut [0; 1000]).unwrap();
        let body = "x".repeat(12_000);
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        stream.write_all(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).unwrap();
    });
    let client = Client::run(READER, &[&port.to_string(), "1", "300", "0.1"]);
    let mut watch = Watch::attach(client.child.id(), without_budget()).unwrap();
    let interrupt = Interrupt::new().unwrap();
    writeln!(client.child.stdin.as_ref().unwrap()).unwrap();
    // About four seconds of reading, and one after them.
    for moment in 0..17 {
        let seen = watch.next(Duration::from_millis(310), &interrupt).1;
        assert_eq!(verdicts(&seen), [""; 0], "{moment}: {:?}", seen.connections);
        let read = seen.connections.iter().flat_map(|seen| &seen.connections).next();
        let Some(connection) = read.filter(|_| moment == 16) else { continue };
        assert_eq!(connection.http.as_ref().unwrap().chunks_ended, Some(true));
    }
}
