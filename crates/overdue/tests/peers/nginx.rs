use std::{path::Path, process::Command};

use overdue::{Builder, Client};
use rustix::{fd::OwnedFd, process::Signal};

use crate::{
    client, http, https,
    identity::Identity,
    ms,
    process::{Process, deaf_port, local, program},
    root, suite, tls_client, trusting,
    upstream::{self, Upstream},
};

struct Nginx {
    process: Process,
    upstream: Upstream,
    identity: Identity,
    _deaf: OwnedFd,
    plain: u16,
    h2c: u16,
    tls: u16,
    tls_1_2: u16,
    /// Wants a client certificate.
    mutual: u16,
    /// Close what has been idle for a short while.
    idle_plain: u16,
    idle_tls: u16,
    /// Close after three requests.
    brief_plain: u16,
    brief_tls: u16,
}

impl Nginx {
    async fn start() -> Option<Self> {
        Self::with("master_process off;").await
    }

    async fn with(main: &str) -> Option<Self> {
        let program = program("nginx", "apt-get install nginx-light")?;
        let upstream = Upstream::start().await;
        let identity = Identity::new();
        let (deaf, deaf_port) = deaf_port();
        let (mut process, ports) = Process::start(|dir, ports| {
            dir.write_identity(&identity);
            dir.write("big", upstream::big());
            let configuration = configuration(dir.path(), ports, main, upstream.addr.port(), deaf_port);
            let file = dir.write("nginx.conf", configuration);
            let mut command = Command::new(&program);
            command.args(["-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(file);
            command
        })
        .await;
        if main.is_empty() {
            process.has_children();
        }
        let [plain, h2c, tls, tls_1_2, mutual, idle_plain, idle_tls, brief_plain, brief_tls] = ports;
        Some(Self {
            process,
            upstream,
            identity,
            _deaf: deaf,
            plain,
            h2c,
            tls,
            tls_1_2,
            mutual,
            idle_plain,
            idle_tls,
            brief_plain,
            brief_tls,
        })
    }

    fn tls_client(&self) -> Builder {
        tls_client(&self.identity)
    }
}

fn configuration(dir: &Path, ports: &[u16; 9], main: &str, upstream: u16, deaf: u16) -> String {
    let dir = dir.display();
    let servers: String = ports
        .iter()
        .zip([
            ("", ""),
            ("http2", ""),
            ("ssl http2", ""),
            ("ssl http2", "ssl_protocols TLSv1.2;"),
            ("ssl http2", "ssl_verify_client on; ssl_client_certificate authority.pem;"),
            ("", "keepalive_timeout 300ms;"),
            ("ssl http2", "keepalive_timeout 300ms;"),
            ("", "keepalive_requests 3;"),
            ("ssl http2", "keepalive_requests 3;"),
        ])
        .map(|(port, (listen, more))| {
            format!("server {{ listen 127.0.0.1:{port} {listen}; {more} include locations; }}\n")
        })
        .collect();
    std::fs::write(
        format!("{dir}/locations"),
        format!(
            "location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
             location = /big {{ root {dir}; }}
             location = /name {{ return 200 $ssl_server_name; }}
             location = /limited {{ client_max_body_size 1k; proxy_pass http://127.0.0.1:{upstream}; }}
             location = /refused {{ proxy_pass http://127.0.0.1:{deaf}; }}
             location = /late {{ proxy_pass http://127.0.0.1:{upstream}/slow; proxy_read_timeout 200ms; }}"
        ),
    )
    .unwrap();
    format!(
        "daemon off; {main} worker_processes 1; pid nginx.pid; error_log stderr;
         events {{ worker_connections 512; }}
         http {{
           access_log off; add_header x-port $remote_port always; client_max_body_size 64m;
           client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
           uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
           proxy_http_version 1.1; proxy_set_header Connection \"\";
           http2_max_concurrent_streams 10;
           ssl_certificate server.pem; ssl_certificate_key server.key; ssl_session_cache shared:sessions:1m;
           ssl_protocols TLSv1.2 TLSv1.3;
           {servers}
         }}"
    )
}

#[tokio::test]
async fn http1() {
    let Some(nginx) = Nginx::start().await else { return };
    let base = http(nginx.plain);
    suite::exchanges(&client().build().unwrap(), &base, "http/1.1").await;
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let Some(nginx) = Nginx::start().await else { return };
    let base = http(nginx.h2c);
    suite::exchanges(&client().http2_prior_knowledge().build().unwrap(), &base, "h2").await;
    suite::many_at_once(|| client().http2_prior_knowledge(), &base).await;
}

#[tokio::test]
async fn tls_1_3() {
    let Some(nginx) = Nginx::start().await else { return };
    let base = https(nginx.tls);
    suite::tls(|| nginx.tls_client(), &base, "TLSv1.3").await;
    suite::many_at_once(|| nginx.tls_client(), &base).await;
}

#[tokio::test]
async fn tls_1_2() {
    let Some(nginx) = Nginx::start().await else { return };
    suite::tls(|| nginx.tls_client(), &https(nginx.tls_1_2), "TLSv1.2").await;
}

#[tokio::test]
async fn the_name_in_the_url_is_the_one_asked_for() {
    let Some(nginx) = Nginx::start().await else { return };
    let client = nginx.tls_client().build().unwrap();
    assert_eq!(suite::get(&client, &format!("https://localhost:{}/name", nginx.tls)).await.text(), "localhost");
    assert_eq!(suite::get(&client, &format!("https://127.0.0.1:{}/name", nginx.tls)).await.text(), "");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let Some(nginx) = Nginx::start().await else { return };
    tokio::join!(
        suite::idle_close(client(), "http", local(nginx.idle_plain)),
        suite::idle_close(nginx.tls_client().http1_only(), "https", local(nginx.idle_tls)),
        suite::idle_close(nginx.tls_client(), "https", local(nginx.idle_tls)),
    );
}

#[tokio::test]
async fn a_slow_application() {
    let Some(nginx) = Nginx::start().await else { return };
    tokio::join!(suite::slow(client(), http(nginx.plain)), suite::slow(nginx.tls_client(), https(nginx.tls)),);
}

#[tokio::test]
async fn its_own_errors_are_answers() {
    let Some(nginx) = Nginx::start().await else { return };
    let client = client().build().unwrap();
    suite::is_an_answer(&client, &format!("{}/refused", http(nginx.plain)), 502).await;
    suite::is_an_answer(&client, &format!("{}/late", http(nginx.plain)), 504).await;
}

#[tokio::test]
async fn connections_that_end_after_three_requests() {
    let Some(nginx) = Nginx::start().await else { return };
    for (client, scheme, port) in
        [(client(), "http", nginx.brief_plain), (nginx.tls_client(), "https", nginx.brief_tls)]
    {
        let client = client.build().unwrap();
        let url = format!("{scheme}://{}/echo", local(port));
        for n in 0..10 {
            let answer = suite::call(&client, suite::post(&url, n.to_string())).await.unwrap();
            assert_eq!((answer.text(), answer.connection()), (&*n.to_string(), 1 + n / 3), "{:#?}", answer.report);
            assert!(answer.report.attempts.is_empty());
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_under_many_calls() {
    let Some(nginx) = Nginx::start().await else { return };
    for (client, scheme, port) in
        [(client(), "http", nginx.brief_plain), (nginx.tls_client(), "https", nginx.brief_tls)]
    {
        let client = client.build().unwrap();
        let url = format!("{scheme}://{}/hello", local(port));
        suite::get(&client, &url).await;
        let calls = (0..20).map(|_| suite::get(&client, &url));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.text(), "hello");
        }
    }
}

#[tokio::test]
async fn a_reload_ends_no_call() {
    let Some(nginx) = Nginx::with("").await else { return };
    let client = nginx.tls_client().build().unwrap();
    let base = https(nginx.tls);
    assert_eq!(suite::get(&client, &format!("{base}/hello")).await.connection(), 1);
    let held = tokio::spawn({
        let (client, url) = (client.clone(), format!("{base}/held"));
        async move { suite::get(&client, &url).await }
    });
    nginx.upstream.arrived.acquire().await.unwrap().forget();
    nginx.process.signal(Signal::HUP);
    let reloaded = async {
        // The old process says GOAWAY, and the calls go on with the new one.
        while suite::call(&client, suite::post(&format!("{base}/echo"), "pay")).await.unwrap().connection() == 1 {}
    };
    tokio::time::timeout(ms(10_000), reloaded).await.expect("the old connection is in use for ever");
    nginx.upstream.gate.add_permits(1);
    let held = held.await.unwrap();
    assert_eq!((held.text(), held.connection()), ("held", 1));
}

#[tokio::test]
async fn a_client_certificate() {
    let Some(nginx) = Nginx::start().await else { return };
    let url = format!("{}/hello", https(nginx.mutual));
    for http1 in [false, true] {
        let of = |builder: Builder| if http1 { builder.http1_only() } else { builder };
        // nginx completes the handshake and says what it misses in an answer.
        suite::is_an_answer(&of(nginx.tls_client()).build().unwrap(), &url, 400).await;
        let identity = &nginx.identity;
        let shown = trusting(identity)
            .with_client_certificate(identity.client_pem.as_bytes(), identity.client_key_pem.as_bytes())
            .unwrap();
        suite::is_an_answer(&of(client().tls(shown)).build().unwrap(), &url, 200).await;
    }
}

#[tokio::test]
async fn an_early_answer_to_an_upload() {
    let Some(nginx) = Nginx::start().await else { return };
    suite::early_answer(&client().build().unwrap(), &format!("{}/limited", http(nginx.plain))).await;
    let over_tls = format!("{}/limited", https(nginx.tls));
    suite::early_answer(&nginx.tls_client().http1_only().build().unwrap(), &over_tls).await;
    suite::early_answer(&nginx.tls_client().build().unwrap(), &over_tls).await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let Some(nginx) = Nginx::start().await else { return };
    let stranger: Client = tls_client(&Identity::new()).build().unwrap();
    let error = stranger.get(&root(), &format!("{}/hello", https(nginx.tls))).await.unwrap_err();
    assert_eq!(error.cause(), overdue::Cause::TlsUntrusted);
}
