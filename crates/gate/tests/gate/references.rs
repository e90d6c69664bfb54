//! nginx, HAProxy and Envoy, to which the same bytes are sent, and an origin that writes down what comes through.

#![expect(clippy::disallowed_methods, reason = "whether a process is ready is only seen by looking again")]

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::bed::PATIENCE;

/// How long anybody waits for bytes that do not come. Short: some cases are about such bytes.
const LIMIT: &str = "300ms";

/// Writes down every byte, and answers every request that it makes out.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<Recorded>>>,
}

struct Recorded {
    stream: TcpStream,
    bytes: Vec<u8>,
    answered: usize,
}

impl Origin {
    /// `count` tells how many requests some bytes are.
    pub(crate) fn new(count: fn(&[u8]) -> usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let all = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let mine = {
                    let mut all = all.lock().unwrap();
                    all.push(Recorded { stream: stream.try_clone().unwrap(), bytes: Vec::new(), answered: 0 });
                    all.len() - 1
                };
                let all = Arc::clone(&all);
                thread::spawn(move || {
                    // What was read is written down before anybody else looks.
                    while matches!(stream.peek(&mut [0]), Ok(1..)) {
                        let mut all = all.lock().unwrap();
                        let recorded = &mut all[mine];
                        let mut bytes = [0; 16 * 1024];
                        let Ok(read) = io::Read::read(&mut stream, &mut bytes) else { break };
                        recorded.bytes.extend_from_slice(&bytes[..read]);
                        let whole = count(&recorded.bytes);
                        for _ in recorded.answered..whole {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                        }
                        recorded.answered = whole.max(recorded.answered);
                    }
                });
            }
        });
        Self { address, connections }
    }

    /// What came since it was asked last, by connection.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        loop {
            let mut all = self.connections.lock().unwrap();
            if all.iter().all(|recorded| rustix::io::ioctl_fionread(&recorded.stream).unwrap_or(0) == 0) {
                let taken = all.iter_mut().map(|recorded| {
                    recorded.answered = 0;
                    std::mem::take(&mut recorded.bytes)
                });
                return taken.filter(|bytes| !bytes.is_empty()).collect();
            }
            drop(all);
            thread::yield_now();
        }
    }
}

/// A proxy before an origin of its own.
pub(crate) struct Reference {
    pub(crate) name: &'static str,
    /// What it calls itself.
    pub(crate) version: String,
    pub(crate) http1: SocketAddr,
    pub(crate) http2: SocketAddr,
    pub(crate) origin: Origin,
    child: Child,
    _folder: TempDir,
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration into a folder, for two ports and that of the origin, and gives the arguments.
pub(crate) type Configure = fn(&Path, [u16; 2], u16) -> Vec<String>;

/// Those that are installed. On a build server all have to be.
pub(crate) fn all(count: fn(&[u8]) -> usize) -> Vec<Reference> {
    let known: [(_, _, Configure); 3] =
        [("nginx", "-v", nginx), ("haproxy", "-v", haproxy), ("envoy", "--version", envoy)];
    known.into_iter().filter_map(|(name, version, configure)| start(name, version, configure, count)).collect()
}

/// One of them; `None` where it is not installed.
pub(crate) fn start(
    name: &'static str,
    version: &str,
    configure: Configure,
    count: fn(&[u8]) -> usize,
) -> Option<Reference> {
    let program = program(name)?;
    let said = Command::new(&program).arg(version).output().unwrap();
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).trim().to_owned();
    let version =
        said.lines().next().unwrap_or_default().trim_start_matches(&*program.to_string_lossy()).trim().to_owned();
    let origin = Origin::new(count);
    let mut why = String::new();
    // A port that was free may be taken by the time it is bound.
    for _ in 0..5 {
        let folder = TempDir::new().unwrap();
        let ports = free_ports();
        let arguments = configure(folder.path(), ports, origin.address.port());
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let since = std::time::Instant::now();
        while since.elapsed() < PATIENCE && child.try_wait().unwrap().is_none() {
            if ports.iter().all(|port| TcpStream::connect(at(*port)).is_ok()) {
                let [http1, http2] = ports.map(at);
                return Some(Reference { name, version, http1, http2, origin, child, _folder: folder });
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        why = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    }
    panic!("{name} does not start: {why}");
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "{name} is not on PATH");
        let _ = writeln!(io::stderr(), "not held against {name}, which is not on PATH");
    }
    found
}

fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let held: [TcpListener; COUNT] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
}

fn nginx(folder: &Path, [http1, http2]: [u16; 2], origin: u16) -> Vec<String> {
    let at = folder.display();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].iter().fold(String::new(), |mut all, kind| {
        let _ = write!(all, "{kind}_temp_path {at}/{kind}; ");
        all
    });
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr crit;
         events {{ worker_connections 256; }}
         http {{
           access_log off; {temp}
           client_header_timeout {LIMIT}; client_body_timeout {LIMIT}; send_timeout {LIMIT}; keepalive_timeout {LIMIT}; lingering_timeout {LIMIT};
           upstream origin {{ server 127.0.0.1:{origin}; keepalive 4; }}
           server {{
             listen 127.0.0.1:{http1}; listen 127.0.0.1:{http2} http2;
             location / {{
               proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";
               proxy_read_timeout {LIMIT};
             }}
           }}
         }}"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text).unwrap();
    vec!["-e".into(), "stderr".into(), "-p".into(), at.to_string(), "-c".into(), file.display().to_string()]
}

fn haproxy(folder: &Path, [http1, http2]: [u16; 2], origin: u16) -> Vec<String> {
    let text = format!(
        "global\n  nbthread 1\n  maxconn 256\ndefaults\n  mode http\n  retries 0\n  timeout connect 5s\n  timeout client {LIMIT}\n  \
         timeout server {LIMIT}\n  timeout http-request {LIMIT}\n  timeout http-keep-alive {LIMIT}\n\
         frontend main\n  bind 127.0.0.1:{http1}\n  bind 127.0.0.1:{http2} proto h2\n  default_backend origin\n\
         backend origin\n  server one 127.0.0.1:{origin}\n"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    vec!["-db".into(), "-f".into(), file.display().to_string()]
}

fn envoy(folder: &Path, [http1, http2]: [u16; 2], origin: u16) -> Vec<String> {
    // It takes seconds only.
    let limit = "0.3s";
    let mut listeners = String::new();
    for port in [http1, http2] {
        let _ = write!(
            listeners,
            r#"
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - {{ filters: [{{ name: http, typed_config: {{
           "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
           stat_prefix: http, codec_type: AUTO, drain_timeout: 0.1s, delayed_close_timeout: 0.1s, request_timeout: {limit}, stream_idle_timeout: {limit},
           request_headers_timeout: {limit}, common_http_protocol_options: {{ idle_timeout: {limit} }},
           route_config: {{ virtual_hosts: [{{ name: all, domains: ["*"], routes: [
             {{ match: {{ prefix: / }}, route: {{ cluster: origin, timeout: {limit} }} }}] }}] }},
           http_filters: [{{ name: router, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }} }}] }}"#
        );
    }
    let text = format!(
        r#"static_resources:
  clusters:
  - {{ name: origin, load_assignment: {{ cluster_name: origin, endpoints: [{{ lb_endpoints: [{{ endpoint: {{
       address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }} }}] }}] }} }}
  listeners:{listeners}
"#
    );
    let file = folder.join("envoy.yaml");
    fs::write(&file, text).unwrap();
    let arguments = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error", "-c"];
    arguments.into_iter().map(str::to_owned).chain([file.display().to_string()]).collect()
}
