//! All of it together, as a server is made: listener, gate, certificates, deadline layer, around hyper.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::{rt::TokioIo, server::conn::auto, service::TowerToHyperService};
use overdue::{
    Context, Limit,
    server::{
        Connections, ListenOptions, Peer,
        certificates::{CertificateFiles, Certificates},
        deadline::DeadlineLayer,
        hello::{HelloGate, HelloPolicy},
    },
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::{Layer, service_fn};

use super::ms;

/// How often the handler of `/slow` has begun, and how often its caller has cancelled its context.
#[derive(Default)]
struct Slow {
    begun: AtomicUsize,
    gone: AtomicUsize,
}

async fn handle<B>(request: Request<B>, slow: Arc<Slow>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        let context = request.extensions().get::<Context>().unwrap().clone();
        slow.begun.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            let cause = context.cancelled().await;
            assert_eq!(cause.to_string(), "the client went away");
            slow.gone.fetch_add(1, SeqCst);
        });
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"done"))))
}

struct Server {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    slow: Arc<Slow>,
    connections: Connections,
    _folder: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    fn start(deadline: DeadlineLayer) -> Self {
        let folder = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed(["www.example.com".to_owned()]).unwrap();
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (certificates, _) = Certificates::load([CertificateFiles::new(chain, key)], &provider).unwrap();
        let tls =
            rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let tls = Arc::new(tls.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(certificates)));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());

        let gate = HelloGate::new(HelloPolicy::new().names(["www.example.com"]).unwrap());
        let mut listener = ListenOptions::new().bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = listener.connections().clone();
        let slow = Arc::<Slow>::default();
        let watched = Arc::clone(&slow);
        let task = tokio::spawn(async move {
            loop {
                let accepted = listener.accept().await.unwrap();
                let (gate, tls, deadline, slow) =
                    (gate.clone(), Arc::clone(&tls), deadline.clone(), Arc::clone(&watched));
                tokio::spawn(async move {
                    let peer = accepted.peer;
                    let Ok(secured) = gate.accept(&Context::root(), accepted.stream, peer.ip(), tls).await else {
                        return;
                    };
                    let served = deadline.layer(service_fn(move |request| handle(request, Arc::clone(&slow))));
                    let served = tower::ServiceExt::map_request(served, move |mut request: Request<_>| {
                        request.extensions_mut().insert(Peer(peer));
                        request
                    });
                    let connection = auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    // A caller that leaves is what this is about.
                    let _ = connection
                        .serve_connection(TokioIo::new(secured.stream), TowerToHyperService::new(served))
                        .await;
                    drop(accepted.permit);
                });
            }
        });
        Self { address, config, slow, connections, _folder: folder, task }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("www.example.com").unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await.unwrap()
    }

    async fn send(&self, path: &str, headers: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: www.example.com\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

async fn answer(mut stream: TlsStream<TcpStream>) -> String {
    let mut text = String::new();
    timeout(ms(10_000), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn a_request_is_answered_or_its_deadline_is() {
    let server = Server::start(DeadlineLayer::new(Limit::total(ms(10_000))).trusted("127.0.0.1".parse().unwrap()));
    let good = answer(server.send("/", "").await).await;
    assert!(good.starts_with("HTTP/1.1 200 OK\r\n") && good.ends_with("\r\n\r\ndone"), "{good}");
    assert!(good.contains("\r\nserver-timing: handle;dur="), "{good}");
    let late = answer(server.send("/slow", "grpc-timeout: 50m\r\n").await).await;
    assert!(late.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{late}");
    assert!(late.contains("limit total 50ms (header grpc-timeout)"), "{late}");
    assert_eq!(server.slow.gone.load(SeqCst), 0);
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_its_request() {
    let server = Server::start(DeadlineLayer::new(Limit::total(ms(60_000))));
    let reaches = |count: fn(&Slow) -> &AtomicUsize, number| {
        let slow = Arc::clone(&server.slow);
        timeout(ms(10_000), async move {
            while count(&slow).load(SeqCst) < number {
                tokio::time::sleep(ms(1)).await;
            }
        })
    };
    for number in 1..=3 {
        let stream = server.send("/slow", "").await;
        reaches(|slow| &slow.begun, number).await.unwrap();
        drop(stream);
        reaches(|slow| &slow.gone, number).await.unwrap();
    }
}

#[tokio::test]
async fn an_alert_is_seen_by_a_peer_that_has_sent_too_much() {
    let server = Server::start(DeadlineLayer::new(Limit::total(ms(1_000))));
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // A message of 48 KiB in records of 16,000 bytes, sent at once.
        let mut bytes = vec![22, 3, 1, 0x3e, 0x80, 1, 0, 0xc0, 0];
        bytes.resize(48 * 1024, 0);
        stream.write_all(&bytes).await.unwrap();
        let mut told = Vec::new();
        timeout(ms(10_000), stream.read_to_end(&mut told)).await.unwrap().unwrap();
        assert_eq!(told, [21, 3, 3, 0, 2, 2, 50]);
        // Once the server has closed: with an end, and no reset behind it.
        let closed = async {
            while server.connections.open() > 0 {
                tokio::time::sleep(ms(1)).await;
            }
        };
        timeout(ms(10_000), closed).await.unwrap();
        assert_eq!(stream.take_error().unwrap().map(|err| err.kind()), None);
    }
}
