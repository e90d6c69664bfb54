//! Attaching and detaching again and again, under load: nobody loses a request, and nothing is left behind.
//!
//! What is counted belongs to the whole process, so the tests of this file run one after another.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail, and its time is real")]

mod need;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overdue_why::collect::{Interrupt, Options, Watch};

/// Echoes lines, with epoll on one thread; a connection that says `bye` is closed by it.
const SERVER: &str = r"
import select, socket, sys
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(64); l.setblocking(False)
e = select.epoll(); e.register(l, select.EPOLLIN); e.register(0, select.EPOLLIN)
c = {}
print(l.getsockname()[1], flush=True)
while True:
    for fd, _ in e.poll():
        if fd == 0: sys.exit()
        if fd == l.fileno():
            s, _ = l.accept(); c[s.fileno()] = s; e.register(s, select.EPOLLIN); continue
        d = c[fd].recv(100)
        if d: c[fd].sendall(d)
        if not d or d == b'bye\n': c.pop(fd).close()
";
/// Half of the clients keep their connection, the others have one for each request.
const CLIENTS: u64 = 4;
const ALL: u32 = 200;
/// After this no other watch begins. On a busy machine one takes several seconds without optimization.
const BUDGET: Duration = Duration::from_secs(25);

struct Server {
    child: Child,
    /// It ends when this does.
    _stays: ChildStdin,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let stays = child.stdin.take().unwrap();
        Self { child, _stays: stays, address: ([127, 0, 0, 1], port.trim().parse().unwrap()).into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Clients that ask until they are told to stop; each of them fails where an answer is not what was asked.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<u64>>,
}

impl Clients {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number: u64| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let connect = || {
                    let stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    stream.set_nodelay(true).unwrap();
                    stream
                };
                let mut kept = connect();
                let mut asked = 0;
                while !stop.load(Relaxed) {
                    asked += 1;
                    let line = format!("{number} {asked}\n");
                    ask(&mut kept, &line);
                    if number % 2 == 1 {
                        ask(&mut kept, "bye\n");
                        assert_eq!(kept.read(&mut [0]).unwrap(), 0, "more than was asked for");
                        kept = connect();
                    }
                    // Else ports are used up, and nothing is left of the processors for the watch.
                    thread::sleep(Duration::from_micros(if number % 2 == 1 { 2000 } else { 200 }));
                    answered.fetch_add(1, Relaxed);
                }
                asked
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { stop, answered, threads }
    }

    /// Each request that was made has had its answer.
    fn finish(self) -> u64 {
        self.stop.store(true, Relaxed);
        let asked: u64 = self.threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(self.answered.load(Relaxed), asked);
        asked
    }
}

fn ask(stream: &mut TcpStream, line: &str) {
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = vec![0; line.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, line.as_bytes());
}

/// What this process holds but for the clients' sockets: descriptors by what they are of (maps, programs, links and
/// iterators of BPF each have one), and mapped rings.
fn held() -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    let mut count = |what: String| *held.entry(what).or_default() += 1;
    for fd in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(of) = fs::read_link(fd.path()) else { continue };
        let kind = of.to_string_lossy().split(':').next().unwrap().to_owned();
        if kind != "socket" {
            // Of the kernel's own it is told which: `anon_inode:bpf-map`, `anon_inode:[eventfd]` and the like.
            count(if kind == "anon_inode" { of.to_string_lossy().into_owned() } else { kind });
        }
    }
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains("anon_inode:")) {
        count(format!("mapping of {}", line.split_whitespace().last().unwrap()));
    }
    held
}

/// Until it is as it was, or for a few seconds: a thread that read the process may still be about to end.
fn held_as(before: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let began = Instant::now();
    loop {
        let now = held();
        if now == *before || began.elapsed() > Duration::from_secs(5) {
            return now;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Until the threads that a watch has left behind, which read files of the process, have ended.
fn await_helpers() {
    let began = Instant::now();
    let is_helper = |name: std::io::Result<String>| name.is_ok_and(|name| name.starts_with("overdue-"));
    let names =
        || fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| fs::read_to_string(task.path().join("comm")));
    while names().any(is_helper) {
        assert!(began.elapsed() < Duration::from_secs(20), "a thread of the watch goes on");
        thread::sleep(Duration::from_millis(20));
    }
}

static ALONE: Mutex<()> = Mutex::new(());

fn attach_and_detach(times: u32, budget: Duration) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::start();
    let clients = Clients::start(server.address);
    let options = Options { for_: Duration::from_millis(60), every: Duration::from_millis(20), ..Options::default() };
    let once = || {
        let mut watch = Watch::attach(server.child.id(), options.clone()).unwrap();
        watch.run(&Interrupt::new().unwrap());
        watch.finish()
    };
    // The first one loads what is kept for the next.
    let seen = once();
    let bpf = seen.not_visible.iter().find(|hidden| hidden.what.contains("BPF"));
    if let Some(hidden) = bpf {
        need::skip(format_args!("what needs BPF: {hidden:?}"));
    }
    await_helpers();
    let before = held();
    let answered_before = clients.answered.load(Relaxed);
    let began = Instant::now();
    let mut done = 0;
    for _ in 0..times {
        let answered = clients.answered.load(Relaxed);
        let seen = once();
        assert_eq!(seen.process.ended_at_us, None);
        assert!(seen.overhead.attach_us > 0);
        assert!(clients.answered.load(Relaxed) > answered, "nothing was answered while it was watched");
        done += 1;
        if began.elapsed() > budget {
            break;
        }
    }
    let took = began.elapsed();
    assert_eq!(held_as(&before), before, "after {done} times");
    let answered = clients.answered.load(Relaxed) - answered_before;
    let asked = clients.finish();
    eprintln!("attached and detached {done} times in {took:?}: {answered} of {asked} requests were answered meanwhile");
    assert!(done >= times.min(2), "{done} times in {took:?}");
}

/// As often as there is time for: without optimization to attach takes a while.
#[test]
fn nothing_is_lost_and_nothing_is_left() {
    attach_and_detach(ALL, BUDGET);
}

/// However long it takes.
#[test]
#[ignore = "takes minutes in a debug build"]
fn two_hundred_times() {
    attach_and_detach(ALL, Duration::MAX);
}
