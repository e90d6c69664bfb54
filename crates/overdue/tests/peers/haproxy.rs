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

struct Haproxy {
    _process: Process,
    _upstream: Upstream,
    identity: Identity,
    _deaf: OwnedFd,
    plain: u16,
    h2c: u16,
    tls: u16,
    /// Close what has been idle for a short while.
    idle_plain: u16,
    idle_tls: u16,
    /// Wants a client certificate.
    mutual: u16,
}

impl Haproxy {
    async fn start() -> Option<Self> {
        let program = program("haproxy", "apt-get install haproxy")?;
        let upstream = Upstream::start().await;
        let identity = Identity::new();
        let (deaf, deaf_port) = deaf_port();
        let (process, ports) = Process::start(|dir, ports| {
            dir.write_identity(&identity);
            let file = dir.write("haproxy.cfg", configuration(ports, upstream.addr.port(), deaf_port));
            let mut command = Command::new(&program);
            command.arg("-C").arg(dir.path()).arg("-db").arg("-f").arg(file);
            command
        })
        .await;
        let [plain, h2c, tls, idle_plain, idle_tls, mutual] = ports;
        let (_process, _upstream) = (process, upstream);
        Some(Self { _process, _upstream, identity, _deaf: deaf, plain, h2c, tls, idle_plain, idle_tls, mutual })
    }

    fn tls_client(&self) -> Builder {
        tls_client(&self.identity)
    }
}

fn configuration([plain, h2c, tls, idle_plain, idle_tls, mutual]: &[u16; 6], upstream: u16, deaf: u16) -> String {
    let secure = "ssl crt both.pem alpn h2,http/1.1";
    format!(
        "global
           maxconn 256
           nbthread 1
           tune.h2.max-concurrent-streams 10
         defaults
           mode http
           retries 0
           timeout connect 5s
           timeout client 20s
           timeout server 20s
           timeout http-request 20s
           timeout http-keep-alive 20s
         frontend main
           bind 127.0.0.1:{plain}
           bind 127.0.0.1:{h2c} proto h2
           bind 127.0.0.1:{tls} {secure}
           bind 127.0.0.1:{mutual} {secure} ca-file authority.pem verify required
           http-after-response set-header x-port %[src_port]
           http-request deny deny_status 413 if {{ path /limited }}
           use_backend refused if {{ path /refused }}
           use_backend late if {{ path /late }}
           default_backend upstream
         frontend idle
           bind 127.0.0.1:{idle_plain}
           bind 127.0.0.1:{idle_tls} {secure}
           timeout client 300ms
           timeout http-keep-alive 300ms
           default_backend upstream
         backend upstream
           server one 127.0.0.1:{upstream}
         backend refused
           server one 127.0.0.1:{deaf}
         backend late
           timeout server 200ms
           http-request set-path /slow
           server one 127.0.0.1:{upstream}
"
    )
}

#[tokio::test]
async fn http1() {
    let Some(haproxy) = Haproxy::start().await else { return };
    let base = http(haproxy.plain);
    suite::exchanges(&client().build().unwrap(), &base, "http/1.1").await;
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let Some(haproxy) = Haproxy::start().await else { return };
    let base = http(haproxy.h2c);
    suite::exchanges(&client().http2_prior_knowledge().build().unwrap(), &base, "h2").await;
    suite::many_at_once(|| client().http2_prior_knowledge(), &base).await;
}

#[tokio::test]
async fn tls() {
    let Some(haproxy) = Haproxy::start().await else { return };
    let base = https(haproxy.tls);
    suite::tls(|| haproxy.tls_client(), &base, "TLSv1.3").await;
    suite::many_at_once(|| haproxy.tls_client(), &base).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let Some(haproxy) = Haproxy::start().await else { return };
    tokio::join!(
        suite::idle_close(client(), "http", local(haproxy.idle_plain)),
        suite::idle_close(haproxy.tls_client().http1_only(), "https", local(haproxy.idle_tls)),
        suite::idle_close(haproxy.tls_client(), "https", local(haproxy.idle_tls)),
    );
}

#[tokio::test]
async fn a_slow_application() {
    let Some(haproxy) = Haproxy::start().await else { return };
    tokio::join!(suite::slow(client(), http(haproxy.plain)), suite::slow(haproxy.tls_client(), https(haproxy.tls)),);
}

#[tokio::test]
async fn its_own_errors_are_answers() {
    let Some(haproxy) = Haproxy::start().await else { return };
    let plain = client().build().unwrap();
    suite::is_an_answer(&plain, &format!("{}/refused", http(haproxy.plain)), 503).await;
    suite::is_an_answer(&plain, &format!("{}/late", http(haproxy.plain)), 504).await;
    let over_tls = haproxy.tls_client().build().unwrap();
    suite::is_an_answer(&over_tls, &format!("{}/refused", https(haproxy.tls)), 503).await;
    suite::is_an_answer(&over_tls, &format!("{}/late", https(haproxy.tls)), 504).await;
}

#[tokio::test]
async fn a_client_certificate() {
    let Some(haproxy) = Haproxy::start().await else { return };
    suite::client_certificate(&haproxy.identity, local(haproxy.mutual)).await;
}

#[tokio::test]
async fn an_early_answer_to_an_upload() {
    let Some(haproxy) = Haproxy::start().await else { return };
    suite::early_answer(&client().build().unwrap(), &format!("{}/limited", http(haproxy.plain))).await;
    let over_tls = format!("{}/limited", https(haproxy.tls));
    suite::early_answer(&haproxy.tls_client().http1_only().build().unwrap(), &over_tls).await;
    suite::early_answer(&haproxy.tls_client().build().unwrap(), &over_tls).await;
}
