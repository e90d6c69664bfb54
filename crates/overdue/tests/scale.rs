//! Many calls at once, and many that fail: whatever they held comes back. A binary of its own, because it counts what
//! the whole process holds.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use overdue::{Client, Context, Error, Limit, PoolOptions, Stage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{io::AsyncReadExt, net::TcpSocket, runtime::Handle, task::JoinSet};

const CALLS: usize = 2_000;
const FAILURES: usize = 300;
/// Files that are open besides.
const OTHERS: u64 = 100;

#[tokio::test]
async fn what_many_calls_held_comes_back() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    // Where that is less than the calls want, there are fewer of them.
    let room = limit.maximum.map_or(CALLS, |files| usize::try_from(files.saturating_sub(OTHERS)).unwrap());
    let calls = CALLS.min(room);

    let peer = Peer::start();
    let contexts = Arc::default();
    let held = || Held::now(&contexts, peer.port);
    // What is made once is made by the first calls: the task that wakes for all deadlines is.
    all_fail(&peer, &contexts, 30).await;
    assert!(comes_true(|| held().connections == 0).await);
    let before = held();
    // The one task keeps the deadlines of this runtime.
    assert_eq!((before.contexts, before.tasks), (0, 1));

    let pool = PoolOptions { connections: calls, connections_per_host: calls, ..PoolOptions::default() };
    let client = Client::builder().pool(pool).limit(Limit::stage(Stage::Wait, LONG)).build().unwrap();
    let root = Context::root();
    let mut waiting = JoinSet::new();
    for _ in 0..calls {
        let (client, context) = (client.clone(), counted(&root, &contexts));
        let url = peer.url("http");
        waiting.spawn(async move { client.get(&context, &url).await.unwrap_err() });
    }
    assert!(comes_true(|| held().connections == calls).await, "{:?}", held());
    assert_eq!((held().contexts, held().tasks, client.connections()), (calls, calls + before.tasks, calls));

    root.cancel("enough");
    while let Some(ended) = waiting.join_next().await {
        let error = ended.unwrap();
        assert_eq!(error.cancel_cause().unwrap().to_string(), "enough", "{error}");
    }
    assert_eq!(client.connections(), 0);
    drop(client);
    assert!(comes_true(|| held() == before).await, "before {before:?}, now {:?}", held());

    all_fail(&peer, &contexts, FAILURES).await;
    assert!(comes_true(|| held() == before).await, "before {before:?}, now {:?}", held());
}

const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(50);

/// Calls that get no answer, whose handshake never ends, and to a port where nobody is: each fails in its own stage.
async fn all_fail(peer: &Peer, contexts: &Arc<AtomicUsize>, count: usize) {
    let (_refusing, refusing) = refusing_port();
    let kinds = [
        (peer.url("http"), Stage::Wait),
        (peer.url("https"), Stage::Tls),
        (format!("http://127.0.0.1:{refusing}/"), Stage::Connect),
    ];
    let client = Client::builder()
        .pool(PoolOptions { connections_per_host: count, ..PoolOptions::default() })
        .limit(Limit::stage(Stage::Wait, SHORT))
        .limit(Limit::stage(Stage::Tls, SHORT))
        .build()
        .unwrap();
    let mut failing = JoinSet::new();
    for (url, stage) in kinds.into_iter().cycle().take(count) {
        let (client, context) = (client.clone(), counted(&Context::root(), contexts));
        failing.spawn(async move { (client.get(&context, &url).await.unwrap_err(), stage) });
    }
    while let Some(ended) = failing.join_next().await {
        let (error, stage): (Error, Stage) = ended.unwrap();
        assert_eq!(error.stage(), stage, "{error}");
    }
    assert_eq!(client.connections(), 0);
}

/// A context that is counted for as long as it, or one below it, is there.
fn counted(parent: &Context, contexts: &Arc<AtomicUsize>) -> Context {
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }

    contexts.fetch_add(1, Relaxed);
    parent.with_value(Counted(Arc::clone(contexts)))
}

/// What a process can forget to give back. A timer lives in the future of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    contexts: usize,
    tasks: usize,
    descriptors: usize,
    /// Ends of connections to the peer that are ours and not in TIME_WAIT.
    connections: usize,
}

impl Held {
    fn now(contexts: &Arc<AtomicUsize>, port: u16) -> Self {
        const TIME_WAIT: &str = "06";
        let remote = format!(":{port:04X}");
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = |line: &&str| {
            let mut columns = line.split_whitespace().skip(2);
            columns.next().is_some_and(|address| address.ends_with(&remote)) && columns.next() != Some(TIME_WAIT)
        };
        Self {
            contexts: contexts.load(Relaxed),
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            connections: table.lines().filter(ours).count(),
        }
    }
}

/// Whether it comes true, within a time that only a fault exceeds.
async fn comes_true(what: impl Fn() -> bool) -> bool {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok()
}

fn refusing_port() -> (rustix::fd::OwnedFd, u16) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = std::net::SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    (socket, addr.port())
}

/// The other end, in a process of its own, so that what it holds is not counted. It ends with its standard input.
struct Peer {
    process: Child,
    port: u16,
}

/// Says that this process is the other end.
const PEER: &str = "OVERDUE_SCALE_PEER";

impl Peer {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "peer", "--ignored", "--nocapture"]).env(PEER, "yes");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The test harness prints, too.
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut ports = lines.filter_map(|line| line.strip_prefix("listening on ")?.parse().ok());
        let port = ports.next().unwrap();
        Self { process, port }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Accepts, takes what comes and never says a word.
#[test]
#[ignore = "it is the other end, which the test starts by itself"]
fn peer() {
    if env::var_os(PEER).is_none() {
        return;
    }
    // Whatever ends the test ends this.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(4096).unwrap();
        writeln!(io::stdout(), "\nlistening on {}", listener.local_addr().unwrap().port()).unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { while stream.read(&mut [0; 1024]).await.is_ok_and(|bytes| bytes > 0) {} });
        }
    });
}
