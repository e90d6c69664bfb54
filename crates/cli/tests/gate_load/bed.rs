//! What the tests stand on: a gateway as a process, a server behind it, and clients that are never content with half.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What each renewal has to survive.
pub(crate) const REQUESTS: u64 = 10_000;

/// Asks until it is so.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "it is not so: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the gateway is told.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) listen: String,
    pub(crate) servers: Vec<SocketAddr>,
    /// Lines of the tables that they name.
    pub(crate) listener: String,
    pub(crate) cluster: String,
    pub(crate) limits: String,
    /// As many descriptors as it may have.
    pub(crate) descriptors: Option<u32>,
}

impl Setup {
    pub(crate) fn new(servers: &[SocketAddr]) -> Self {
        Self {
            workers: 2,
            listen: "127.0.0.1:0".to_owned(),
            servers: servers.to_vec(),
            listener: String::new(),
            // What lies idle is let go soon, so that descriptors can be counted.
            cluster: "idle = \"500ms\"".to_owned(),
            limits: String::new(),
            descriptors: None,
        }
    }
}

/// A gateway, through all processes that take over from each other.
pub(crate) struct Gate {
    child: Child,
    /// The process that serves now.
    pid: Pid,
    said: Arc<Said>,
    pub(crate) front: SocketAddr,
    pub(crate) admin: SocketAddr,
    folder: TempDir,
}

/// Lines of standard error.
#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Said {
    /// The first line that fits from that place on, and the place behind it.
    fn wait(&self, from: usize, fits: impl Fn(&str) -> bool) -> (usize, String) {
        let begun = Instant::now();
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(place) = lines.iter().skip(from).position(|line| fits(line)) {
                return (from + place + 1, lines[from + place].clone());
            }
            let left = PATIENCE.checked_sub(begun.elapsed()).unwrap_or_else(|| panic!("it only said {lines:#?}"));
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }
}

impl Gate {
    pub(crate) fn start(setup: &Setup) -> Self {
        let mut command = match setup.descriptors {
            None => Command::new(env!("CARGO_BIN_EXE_overdue")),
            Some(descriptors) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {descriptors}; exec \"$@\""), "sh"]);
                shell.arg(env!("CARGO_BIN_EXE_overdue"));
                shell
            }
        };
        command.stdin(Stdio::null());
        Self::start_by(command, setup)
    }

    /// The program as somebody else starts it.
    pub(crate) fn start_by(mut command: Command, setup: &Setup) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("gate.toml");
        fs::write(&file, Self::text(&folder, setup)).unwrap();
        // In a group of its own: whoever interrupts the tests at a terminal does not make it drain.
        command.args(["gate", "--config"]).arg(&file).process_group(0);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, stderr) = (Arc::new(Said::default()), child.stderr.take().unwrap());
        let writes = Arc::clone(&said);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writes.lines.lock().unwrap().push(line);
                writes.more.notify_all();
            }
        });
        let address = |before: &str| {
            let (_, line) = said.wait(0, |line| line.starts_with(before));
            line[before.len()..].trim_end_matches('/').parse().unwrap()
        };
        let (front, admin) = (address("serving "), address("operator at http://"));
        let pid = Pid::from_child(&child);
        Self { child, pid, said, front, admin, folder }
    }

    fn text(folder: &TempDir, setup: &Setup) -> String {
        let Setup { workers, listen, servers, listener, cluster, limits, .. } = setup;
        let servers: Vec<_> = servers.iter().map(|server| format!("\"{server}\"")).collect();
        let (log, servers) = (folder.path().join("log"), servers.join(", "));
        format!(
            "workers = {workers}\ndrain = \"25s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nfile = {log:?}\n\
             [[listener]]\nlisten = \"{listen}\"\n{listener}\n[cluster.behind]\nservers = [{servers}]\n{cluster}\n\
             [[route]]\ncluster = \"behind\"\n[route.limits]\n{limits}\n"
        )
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("gate.toml")
    }

    /// The file says something else from now on, all at once.
    pub(crate) fn rewrite(&self, setup: &Setup) {
        let new = self.folder.path().join("new");
        fs::write(&new, Self::text(&self.folder, setup)).unwrap();
        fs::rename(new, self.config()).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Hands over to a new process, and gives the id of the old one.
    pub(crate) fn hand_over(&mut self) -> Pid {
        let from = self.said.lines.lock().unwrap().len();
        self.signal(Signal::USR2);
        let (_, line) = self.said.wait(from, |line| line.contains(" has taken over") || line.contains("not handed"));
        let pid = line.split(' ').nth(1).and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        std::mem::replace(&mut self.pid, Pid::from_raw(pid).unwrap())
    }

    /// Waits for a line that has these words, whether it comes or has come.
    pub(crate) fn says(&self, words: &str) -> String {
        self.said.wait(0, |line| line.contains(words)).1
    }

    /// All that it has said.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lines.lock().unwrap().clone()
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let lines = self.ask("GET", "/metrics").1;
        let of = |line: &str| -> Option<f64> {
            let (own, value) = line.rsplit_once(' ')?;
            (own.split('{').next() == Some(name)).then(|| value.parse().unwrap())
        };
        lines.lines().filter_map(of).sum()
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// How many descriptors are open, without what is made when it is first needed: timers of workers, a watch over files.
    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().flatten();
        // One that was closed meanwhile leads nowhere.
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.filter(|to| !["anon_inode:[timerfd]", "anon_inode:inotify"].iter().any(|late| to.ends_with(late))).count()
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> usize {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid)).unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
    }

    /// Processor time that was used.
    pub(crate) fn busy(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<_> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Waits for the end of the first process.
    pub(crate) fn first_ends(&mut self) -> ExitStatus {
        until("the first process ends", || self.child.try_wait().unwrap())
    }

    /// Ends it, and gives the lines of its log.
    pub(crate) fn lines(mut self) -> Vec<Value> {
        self.signal(Signal::TERM);
        if self.pid == Pid::from_child(&self.child) {
            self.child.wait().unwrap();
        }
        until("it ends", || is_gone(self.pid).then_some(()));
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    pub(crate) fn log_length(&self) -> u64 {
        fs::metadata(self.folder.path().join("log")).unwrap().len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process has ended; one whose parent does not ask for its end has, too.
pub(crate) fn is_gone(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |text| text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

/// Parts of a stream, and the time between two of them.
pub(crate) const PARTS: usize = 40;
const PART: Duration = Duration::from_millis(100);

/// A server. `/` is answered at once; `/stream` in parts, some seconds long; `/big` by more than sockets hold; `/upload` never;
/// `/length` and `/chunked` begin a body of which the rest never comes.
pub(crate) fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Hundreds come at once here.
    rustix::net::listen(&listener, 4096).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// So many pieces are more than sockets take at once.
const BIG: usize = 32;
const PIECE: &[u8] = &[b'x'; 64 * 1024];

fn serve(stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let head = read_head(&mut reader).ok()?;
        let path = head.split(' ').nth(1)?.to_owned();
        let out = reader.get_mut();
        match path.as_str() {
            "/stream" => {
                out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
                for part in 0..PARTS {
                    write!(out, "5\r\n{part:04}\n\r\n").ok()?;
                    thread::sleep(PART);
                }
                out.write_all(b"0\r\n\r\n").ok()?;
            }
            "/length" | "/chunked" => {
                let (field, body) = match path.as_str() {
                    "/length" => ("Content-Length: 100000", "some"),
                    _ => ("Transfer-Encoding: chunked", "4\r\nsome\r\n"),
                };
                write!(out, "HTTP/1.1 200 OK\r\n{field}\r\n\r\n{body}").ok()?;
                // Until the gateway has had enough.
                reader.read_exact(&mut [0]).ok()?;
                return None;
            }
            "/upload" => {
                std::io::copy(&mut reader, &mut std::io::sink()).ok()?;
                return None;
            }
            "/big" => {
                // Its client is slow, or gone, and then so is the gateway.
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BIG * PIECE.len()).ok()?;
                for _ in 0..BIG {
                    out.write_all(PIECE).ok()?;
                }
            }
            _ => out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok()?,
        }
    }
}

/// The head of a message; an error when there is none.
pub(crate) fn read_head(reader: &mut impl std::io::BufRead) -> Result<String, String> {
    let mut head = String::new();
    loop {
        match reader.read_line(&mut head) {
            Ok(0) => return Err(format!("closed after {head:?}")),
            Ok(_) if head.ends_with("\r\n\r\n") => return Ok(head),
            Ok(_) => {}
            Err(err) => return Err(format!("{err} after {head:?}")),
        }
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Asks for `/` and takes the whole answer; says whether the connection stays.
pub(crate) fn call<S: Read + Write>(stream: &mut BufReader<S>) -> Result<bool, String> {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").map_err(|err| format!("write: {err}"))?;
    stream.get_mut().flush().map_err(|err| format!("flush: {err}"))?;
    let head = read_head(stream)?;
    let mut body = [0; 2];
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(head);
    }
    stream.read_exact(&mut body).map_err(|err| format!("body: {err}"))?;
    if &body != b"ok" {
        return Err(format!("{body:?} after {head:?}"));
    }
    Ok(!head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"))
}

/// Asks for a stream, and takes it whole.
pub(crate) fn stream(front: SocketAddr) -> JoinHandle<Result<(), String>> {
    let mut stream = BufReader::new(connect(front));
    stream.get_mut().write_all(b"GET /stream HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    // It has begun when this returns.
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    thread::spawn(move || {
        let mut body = String::new();
        loop {
            let (mut line, mut chunk) = (String::new(), Vec::new());
            let broken = |err: std::io::Error, body: &str| format!("{err} after {body:?}");
            stream.read_line(&mut line).map_err(|err| broken(err, &body))?;
            let length = usize::from_str_radix(line.trim_end(), 16).map_err(|_| format!("{line:?} after {body:?}"))?;
            chunk.resize(length + 2, 0);
            stream.read_exact(&mut chunk).map_err(|err| broken(err, &body))?;
            body.push_str(str::from_utf8(&chunk[..length]).unwrap());
            if length == 0 {
                break;
            }
        }
        let whole: String = (0..PARTS).map(|part| format!("{part:04}\n")).collect();
        (body == whole).then_some(()).ok_or(body)
    })
}

/// Clients that ask and ask.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// A client that has said nothing for longer takes a new connection: the other end may close one that lies idle, and then
/// nobody is to blame.
const REUSE: Duration = Duration::from_millis(200);
const THOUGHT: Duration = Duration::from_millis(20);

impl Load {
    /// Some of them use a connection for as long as they may, at once or after a while of thought, the others a new one for
    /// every `each` requests.
    pub(crate) fn start<S: Read + Write>(
        connect: impl Fn() -> Result<S, String> + Clone + Send + 'static,
        each: usize,
    ) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number: usize| {
            let (stop, served, connect) = (Arc::clone(&stop), Arc::clone(&served), connect.clone());
            let (most, thought) = match number % 3 {
                0 => (usize::MAX, Duration::ZERO),
                1 => (usize::MAX, THOUGHT),
                _ => (each, Duration::ZERO),
            };
            thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Relaxed) && failures.len() < 10 {
                    match connect() {
                        Err(err) => failures.push(err),
                        Ok(stream) => use_up(stream, most, thought, &stop, &served, &mut failures),
                    }
                }
                failures
            })
        };
        let clients = (0..12).map(client).collect();
        Self { stop, served, clients }
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Waits for as many as there have to be, and ends it: nothing may have failed.
    pub(crate) fn whole(self) {
        until("enough requests", || {
            (self.served() >= REQUESTS || self.clients.iter().all(JoinHandle::is_finished)).then_some(())
        });
        self.stop.store(true, Relaxed);
        let failures: Vec<_> = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), self.served.load(Relaxed));
    }
}

fn use_up<S: Read + Write>(
    stream: S,
    most: usize,
    thought: Duration,
    stop: &AtomicBool,
    served: &AtomicU64,
    failures: &mut Vec<String>,
) {
    let mut stream = BufReader::new(stream);
    let mut last = Instant::now();
    for _ in 0..most {
        if stop.load(Relaxed) || last.elapsed() > REUSE {
            return;
        }
        match call(&mut stream) {
            Ok(stays) => {
                served.fetch_add(1, Relaxed);
                if !stays {
                    return;
                }
            }
            Err(err) => return failures.push(err),
        }
        last = Instant::now();
        if !thought.is_zero() {
            thread::sleep(thought);
        }
    }
}

/// A new connection to this address.
pub(crate) fn plain(front: SocketAddr) -> impl Fn() -> Result<TcpStream, String> + Clone + Send + 'static {
    move || {
        let stream = TcpStream::connect(front).map_err(|err| format!("connect: {err}"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|err| err.to_string())?;
        stream.set_nodelay(true).map_err(|err| err.to_string())?;
        Ok(stream)
    }
}
