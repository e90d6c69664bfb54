//! A process without descriptors. It is one of its own: this test binary, started again for the test
//! [`the_process_without_descriptors`], which takes commands by its standard input.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use overdue::server::{AcceptFailure, ListenOptions, Refused};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ms;

/// How long the listener of the process pauses, in milliseconds. Set, it makes the process.
const PAUSE_MS: &str = "OVERDUE_TEST_EXHAUSTED_PAUSE_MS";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

#[test]
fn the_process_without_descriptors() {
    let Ok(pause) = std::env::var(PAUSE_MS) else { return };
    let pause = ms(pause.parse().unwrap());
    let limit = Rlimit { current: Some(40), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = ListenOptions::new().pause(pause).refusal(|_| Bytes::from_static(BUSY.as_bytes()));
    let mut listener = runtime.block_on(async { options.bind("127.0.0.1:0".parse().unwrap()) }).unwrap();
    let (stats, port) = (listener.stats(), listener.local_addr().unwrap().port());
    let (served, held) = (Arc::new(Mutex::new(Vec::new())), Mutex::new(Vec::new()));
    let serving = Arc::clone(&served);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let mut accepted = listener.accept().await.unwrap();
                accepted.stream.set_nodelay(true).unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut accepted.stream, b"served").await.unwrap();
                serving.lock().unwrap().push(accepted);
            }
        });
    });
    println!("\nat {port}");
    for command in std::io::stdin().lines() {
        match command.unwrap().as_str() {
            // Until there is none; the descriptors are held.
            "fill" => held.lock().unwrap().extend(std::iter::from_fn(|| File::open("/dev/null").ok())),
            "end one" => drop(served.lock().unwrap().pop()),
            // Enough for a connection, and to see that there is one for the next.
            "give back" => held.lock().unwrap().truncate(8),
            "stats" => {}
            other => panic!("{other:?}"),
        }
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        println!(
            "\nat {} {} {} {} {}",
            stats.failures(AcceptFailure::ProcessDescriptors),
            stats.refused(Refused::Exhausted),
            stats.accepted(),
            u8::from(stats.exhausted_since().is_some()),
            cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1_000,
        );
    }
}

/// That process, seen from outside.
struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

#[derive(Debug)]
struct Stats {
    failures: i64,
    refused: i64,
    accepted: i64,
    exhausted: bool,
    cpu: Duration,
}

impl Process {
    fn start(pause: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "exhausted::the_process_without_descriptors", "--nocapture"])
            .env(PAUSE_MS, pause.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, commands, answers, port: 0 };
        process.port = process.answer().parse().unwrap();
        process
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the process has ended");
            if let Some(answer) = line.strip_prefix("at ") {
                return answer.trim().to_owned();
            }
        }
    }

    fn tell(&mut self, command: &str) -> Stats {
        writeln!(self.commands, "{command}").unwrap();
        let answer = self.answer();
        let numbers: Vec<i64> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
        Stats {
            failures: numbers[0],
            refused: numbers[1],
            accepted: numbers[2],
            exhausted: numbers[3] == 1,
            cpu: Duration::from_micros(u64::try_from(numbers[4]).unwrap()),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(ms(10_000))).unwrap();
        stream
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn first_words(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn whole(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[expect(clippy::disallowed_methods, reason = "what another process does is timed")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn peers_are_told_one_a_pause_and_nothing_spins() {
    let mut process = Process::start(ms(10));
    assert_eq!(first_words(&mut process.connect()), "served");
    let before = process.tell("fill");
    let began = now();
    let mut peers: Vec<_> = (0..60).map(|_| process.connect()).collect();
    for peer in &mut peers {
        assert_eq!(whole(peer), BUSY);
    }
    let (took, after) = (now() - began, process.tell("stats"));
    assert!(after.exhausted);
    assert_eq!((after.refused, after.accepted), (60, before.accepted));
    // The first may have found the listener at the end of a pause.
    assert!(took >= ms(580), "60 peers were refused in {took:?}, with 10 ms between two");
    // One failure for each that is refused, and those that find nobody.
    assert!(after.failures - before.failures <= 62, "{before:?} {after:?}");
    let cpu = after.cpu - before.cpu;
    assert!(cpu < took / 4, "{cpu:?} of processor time in {took:?}");

    // While nobody connects nothing is tried, however long that is.
    let before = process.tell("stats");
    std::thread::park_timeout(ms(300));
    let after = process.tell("stats");
    assert!(after.failures - before.failures <= 1, "{before:?} {after:?}");
    assert!(after.cpu - before.cpu < ms(30), "{before:?} {after:?}");
}

#[test]
fn a_connection_that_ends_makes_room_at_once() {
    let mut process = Process::start(ms(60_000));
    assert_eq!(first_words(&mut process.connect()), "served");
    process.tell("fill");
    let mut waits = process.connect();
    while !process.tell("stats").exhausted {}
    let ended = now();
    process.tell("end one");
    assert_eq!(first_words(&mut waits), "served");
    assert!(now() - ended < ms(5_000), "it waited for the pause");
    let stats = process.tell("stats");
    // There was room for that one alone.
    assert_eq!((stats.accepted, stats.refused, stats.exhausted), (2, 0, true));
    assert!(stats.failures <= 2, "{stats:?}");
}

#[test]
fn a_descriptor_that_comes_back_elsewhere_is_found_after_a_pause() {
    // So long that the descriptor is back before the connection would be refused.
    let mut process = Process::start(ms(1_000));
    process.tell("fill");
    let mut waits = process.connect();
    while !process.tell("stats").exhausted {}
    process.tell("give back");
    assert_eq!(first_words(&mut waits), "served");
    let stats = process.tell("stats");
    assert_eq!((stats.accepted, stats.exhausted), (1, false));
}
