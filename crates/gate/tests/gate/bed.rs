//! What the tests stand on: a gateway, servers that follow a script, clients that write bytes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

use overdue_gate::{Config, Gate};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with a log.
pub(crate) struct Bed {
    pub(crate) gate: Gate,
    folder: TempDir,
}

impl Bed {
    /// One worker, one listener that trusts nobody, one route to these servers; `more` goes into the tables that it names,
    /// which are `listener`, `cluster`, `route`, `limits`, `log` and `trace`.
    pub(crate) fn new(servers: &[impl ToString], more: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let text = Self::text(&folder, servers, more);
        let config = Config::parse(&text, "gate.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        Self { gate: Gate::start(config).unwrap(), folder }
    }

    fn text(folder: &TempDir, servers: &[impl ToString], more: &[(&str, &str)]) -> String {
        let part = |name: &str| {
            more.iter().filter(|(table, _)| *table == name).map(|(_, text)| *text).collect::<Vec<_>>().join("\n")
        };
        let servers: Vec<String> = servers.iter().map(|server| format!("{:?}", server.to_string())).collect();
        format!(
            "workers = 1\ndrain = \"{}\"\n\n[limits]\n{}\n\n[log]\nfile = {:?}\n{}\n[[listener]]\nlisten = \"127.0.0.1:0\"\n{}\n\n\
             [cluster.back]\nservers = [{}]\n{}\n\n[[route]]\nname = \"all\"\ncluster = \"back\"\n{}\n\n[trace]\n{}\n",
            if part("drain").is_empty() { "5s".to_owned() } else { part("drain") },
            part("limits"),
            folder.path().join("log"),
            part("log"),
            part("listener"),
            servers.join(", "),
            part("cluster"),
            part("route"),
            part("trace"),
        )
    }

    /// The same with other parts, followed from now on.
    pub(crate) fn follow(&mut self, servers: &[impl ToString], more: &[(&str, &str)]) -> Vec<&'static str> {
        let text = Self::text(&self.folder, servers, more);
        self.gate.follow(Config::parse(&text, "gate.toml").unwrap())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn connect(&self) -> Client {
        Client::new(self.gate.addresses()[0])
    }

    /// Ends it, and gives the lines of its log.
    pub(crate) fn lines(self) -> Vec<Value> {
        let path = self.log();
        let Self { gate, folder: _folder } = self;
        gate.drain();
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Ends it, and gives the one line of its log.
    pub(crate) fn line(self) -> Value {
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines.remove(0)
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// A response as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn problem(&self) -> Value {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The head of what comes next.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let before = head.len();
            let read = self.reader.read_line(&mut head).unwrap();
            assert!(read > 0, "closed after {head:?}");
            if &head[before..] == "\r\n" {
                return head;
            }
        }
    }

    pub(crate) fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut body = vec![0; bytes];
        self.reader.read_exact(&mut body).unwrap();
        body
    }

    /// A response with a body that `Content-Length` tells, or none.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = self.exactly(length);
        answer
    }

    pub(crate) fn call(&mut self, text: &str) -> Answer {
        self.send(text);
        self.answer()
    }

    /// Everything until the end, and how that came.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        let mut rest = Vec::new();
        let end = self.reader.read_to_end(&mut rest).map(drop);
        (rest, end)
    }
}

/// A server: each connection follows the script, in a thread of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// One message a connection that was accepted.
    pub(crate) accepted: mpsc::Receiver<()>,
    /// What the script says that it saw.
    pub(crate) seen: mpsc::Receiver<String>,
}

/// What a script works with.
pub(crate) struct Peer {
    pub(crate) client: Client,
    say: mpsc::Sender<String>,
}

impl Peer {
    /// The head of the next request; `None` at the end of the connection.
    pub(crate) fn request(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            match self.client.reader.read_line(&mut head) {
                Ok(1..) if head.ends_with("\r\n\r\n") => return Some(head),
                Ok(1..) => {}
                _ => return None,
            }
        }
    }

    /// A line that comes before all requests.
    pub(crate) fn first_line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.client.reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0).map(|_| line)
    }

    pub(crate) fn say(&self, what: impl Into<String>) {
        let _ = self.say.send(what.into());
    }

    /// Whether the connection ends now.
    pub(crate) fn ends(&mut self) -> bool {
        matches!(self.client.reader.read(&mut [0]), Ok(0) | Err(_))
    }
}

impl Server {
    pub(crate) fn new(script: impl Fn(&mut Peer) + Clone + Send + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), script)
    }

    /// The same at an address of one's choice.
    pub(crate) fn at(address: SocketAddr, script: impl Fn(&mut Peer) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (accepts, accepted) = mpsc::channel();
        let (say, seen) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = accepts.send(());
                let client = Client { reader: BufReader::new(stream.try_clone().unwrap()), stream };
                let (script, mut peer) = (script.clone(), Peer { client, say: say.clone() });
                thread::spawn(move || script(&mut peer));
            }
        });
        Self { address, accepted, seen }
    }

    /// One that answers every request, which has no body, with this; and tells the heads that it saw.
    pub(crate) fn answering(answer: &'static str) -> Self {
        Self::new(move |peer| {
            while let Some(head) = peer.request() {
                peer.say(head);
                peer.client.send(answer);
            }
        })
    }

    /// One that says when it was asked and when its connection ended, and never answers.
    pub(crate) fn silent() -> Self {
        Self::new(|peer| {
            peer.request().unwrap();
            peer.say("asked");
            while !peer.ends() {}
            peer.say("ended");
        })
    }

    pub(crate) fn saw(&self) -> String {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }

    /// How many connections there were so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.try_iter().count()
    }
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
pub(crate) const GET: &str = "GET /x?y HTTP/1.1\r\nHost: a.test\r\n\r\n";

pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        line.split_once(": ").filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    })
}

/// Until something is so, or it takes too long.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let step = Duration::from_millis(5);
    for _ in 0..PATIENCE.as_millis() / step.as_millis() {
        if is_so() {
            return;
        }
        thread::park_timeout(step);
    }
    panic!("not in time: {what}");
}
