//! The faults that need a network namespace, seen by plain sockets and by the kernel's own counters.
//!
//! A namespace is entered by a process with one thread, so this test has no harness: it starts itself once for each
//! case. Where the machine allows no namespace it says why, and passes; with `CI=true` it fails.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is a test without a harness")]

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use overdue_lab::{Fault, find, netns};
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName};

/// The variable that tells a child which case it is.
const CASE: &str = "OVERDUE_LAB_CASE";

/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a first retransmission, which comes after some 200 ms.
const SILENCE: Duration = Duration::from_millis(700);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: lab\r\n\r\n";

type Check = fn(&Fault);

const CASES: &[(&str, Check)] = &[
    ("syn-dropped", syn_dropped),
    ("unreachable", unreachable),
    ("ports-exhausted", ports_exhausted),
    ("path-lost", path_lost),
    ("host-vanished", host_vanished),
    ("answer-lost", answer_lost),
    ("mtu-blackhole", mtu_blackhole),
    ("mtu-blackhole-tls", mtu_blackhole_tls),
    ("mtu-blackhole-upload", mtu_blackhole_upload),
];

fn main() -> ExitCode {
    if let Ok(case) = env::var(CASE) {
        netns::enter().unwrap_or_else(|error| panic!("{error}"));
        let fault = Fault::start(find(&case).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        let (_, check) = CASES.iter().find(|(name, _)| *name == case).unwrap();
        check(&fault);
        assert_eq!(fault.trouble(), []);
        return ExitCode::SUCCESS;
    }

    let wanted = Wanted::parse(env::args().skip(1));
    let cases = CASES.iter().map(|(case, _)| *case).filter(|case| wanted.has(case));
    if wanted.list {
        cases.for_each(|case| println!("{case}: test"));
        return ExitCode::SUCCESS;
    }

    if let Err(why) = netns::available() {
        println!("namespace: skipped, {why}");
        return if env::var_os("CI").is_some_and(|ci| ci == "true") { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let namespaced = overdue_lab::scenarios().iter().filter(|scenario| scenario.needs.namespace);
    for scenario in namespaced {
        assert!(CASES.iter().any(|(name, _)| *name == scenario.name), "{} has no case", scenario.name);
    }
    let myself = env::current_exe().expect("a test knows its own file");
    let (mut passed, mut failed) = (0, 0);
    for case in cases {
        let ended = Command::new(&myself).env(CASE, case).status().expect("a test can start itself");
        println!("namespace {case} ... {}", if ended.success() { "ok" } else { "FAILED" });
        *if ended.success() { &mut passed } else { &mut failed } += 1;
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What cargo test and cargo nextest ask of a test: the list of its cases, or to run some of them.
struct Wanted {
    list: bool,
    /// Only those that are ignored: no case is.
    ignored: bool,
    /// The names are whole names, as against parts of them.
    exact: bool,
    names: Vec<String>,
    skip: Vec<String>,
}

impl Wanted {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut wanted = Self { list: false, ignored: false, exact: false, names: Vec::new(), skip: Vec::new() };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => wanted.list = true,
                "--ignored" => wanted.ignored = true,
                "--exact" => wanted.exact = true,
                "--skip" => wanted.skip.extend(arguments.next()),
                // These have a value, which is no name.
                "--format" | "--color" | "--test-threads" => drop(arguments.next()),
                flag if flag.starts_with('-') => {}
                _ => wanted.names.push(argument),
            }
        }
        wanted
    }

    fn has(&self, case: &str) -> bool {
        let matches = |name: &String| if self.exact { name == case } else { case.contains(name.as_str()) };
        !self.ignored && !self.skip.iter().any(matches) && (self.names.is_empty() || self.names.iter().any(matches))
    }
}

fn connect(fault: &Fault) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&fault.addr(), PATIENCE).unwrap();
    tcp.set_read_timeout(Some(SILENCE)).unwrap();
    tcp.set_write_timeout(Some(SILENCE)).unwrap();
    tcp
}

fn assert_silent(tcp: &mut TcpStream) {
    assert_eq!(tcp.read(&mut [0; 1]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
}

/// A counter of this namespace, such as nstat(8) shows.
fn tcp_ext(name: &str) -> u64 {
    let table = fs::read_to_string("/proc/self/net/netstat").unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, value) = names.split(' ').zip(values.split(' ')).find(|(n, _)| *n == name).unwrap();
    value.parse().unwrap()
}

fn syn_dropped(fault: &Fault) {
    let error = TcpStream::connect_timeout(&fault.addr(), Duration::from_millis(1300)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(tcp_ext("ListenOverflows"), 0, "it is the filter, not the queue");
    assert!(tcp_ext("TCPSynRetrans") > 0);
}

fn unreachable(fault: &Fault) {
    let error = TcpStream::connect_timeout(&fault.addr(), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
}

fn ports_exhausted(fault: &Fault) {
    let error = TcpStream::connect_timeout(&fault.addr(), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

fn path_lost(fault: &Fault) {
    let mut tcp = connect(fault);
    tcp.write_all(REQUEST).unwrap();
    let mut response = [0; 512];
    assert!(tcp.read(&mut response).unwrap() > 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(async { tokio::time::timeout(PATIENCE, fault.armed()).await }).unwrap());
    tcp.write_all(REQUEST).unwrap();
    assert_silent(&mut tcp);
    assert!(tcp_ext("TCPTimeouts") > 0, "the request is sent again");
}

fn host_vanished(fault: &Fault) {
    let mut tcp = connect(fault);
    tcp.write_all(b"POST / HTTP/1.1\r\nhost: lab\r\ncontent-length: 67108864\r\n\r\n").unwrap();
    let mut sent = 0;
    let error = loop {
        match tcp.write(&[0; 65536]) {
            Ok(bytes) => sent += bytes,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!((900_000..32 << 20).contains(&sent), "{sent} bytes");
    assert!(tcp_ext("TCPTimeouts") > 0, "what is on its way is sent again");
    assert_eq!(tcp_ext("TCPFromZeroWindowAdv"), 0, "the window was open");
}

fn answer_lost(fault: &Fault) {
    let mut tcp = connect(fault);
    tcp.write_all(REQUEST).unwrap();
    assert_silent(&mut tcp);
    assert!(tcp_ext("TCPTimeouts") > 0, "the server sends its answer again");
}

fn mtu_blackhole(fault: &Fault) {
    let mut tcp = connect(fault);
    tcp.write_all(REQUEST).unwrap();
    assert_silent(&mut tcp);
    assert!(tcp_ext("TCPOFOQueue") > 0, "the last segment is there, those before it are not");
}

fn mtu_blackhole_tls(fault: &Fault) {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::from(fault.addr().ip())).unwrap();
    let mut tcp = connect(fault);
    client.write_tls(&mut tcp).unwrap();
    assert_silent(&mut tcp);
    assert!(tcp_ext("TCPOFOQueue") > 0, "the last segment is there, those before it are not");
}

fn mtu_blackhole_upload(fault: &Fault) {
    let mut tcp = connect(fault);
    tcp.write_all(b"POST / HTTP/1.1\r\nhost: lab\r\ncontent-length: 6000\r\n\r\n").unwrap();
    tcp.write_all(&[b'x'; 6000]).unwrap();
    assert_silent(&mut tcp);
    assert!(tcp_ext("TCPOFOQueue") > 0, "the server has the last segment, and not those before it");
}
