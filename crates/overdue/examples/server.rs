//! A server whose every part has its limit: listener, ClientHello gate, certificates, deadlines of requests, drain.
//!
//! cargo run -p overdue --features server --example server

use std::{convert::Infallible, error::Error as StdError, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use overdue::{
    Context, Limit, LimitName, Stage,
    server::{
        Connections, Drain, ListenOptions, Listener, Peer,
        body::BodyLayer,
        certificates::{CertificateFiles, Certificates},
        deadline::DeadlineLayer,
        hello::{HelloGate, HelloPolicy},
    },
    stream::Stream,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tower::{Layer, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let folder = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(["www.example.com".to_owned()])?;
    let (chain, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&chain, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let (certificates, _warnings) = Certificates::load([CertificateFiles::new(chain, key)], &provider)?;

    let connections = Connections::new(Some(1_000), Some(100));
    let listener = ListenOptions::new().connections(connections.clone()).bind("127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    let drain = Drain::new(connections, Context::root());
    tokio::spawn(serve(listener, tls(&provider, certificates)?, drain.clone()));

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
    println!("a request:\n  {}", ask(&client, address, "www.example.com", "").await?);
    println!(
        "50 ms left of its caller's time:\n  {}",
        ask(&client, address, "www.example.com", "grpc-timeout: 50m\r\n").await?
    );
    println!(
        "a body that does not come:\n  {}",
        ask(&client, address, "www.example.com", "content-length: 5\r\n").await?
    );
    if let Err(error) = ask(&client, address, "www.example.org", "").await {
        println!("another name:\n  {error}");
    }
    println!("one that says nothing:");
    let mut silent = TcpStream::connect(address).await?;
    silent.read_to_end(&mut Vec::new()).await?;
    println!("drained: {:?}", drain.finish(Limit::total(Duration::from_secs(5))).await);
    Ok(())
}

fn tls(provider: &Arc<CryptoProvider>, certificates: Certificates) -> Result<Arc<ServerConfig>, rustls::Error> {
    let config = ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(certificates))))
}

async fn serve(
    mut listener: Listener,
    tls: Arc<ServerConfig>,
    drain: Drain,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let policy = HelloPolicy::new().names(["www.example.com"])?;
    let gate = HelloGate::new(policy.limit(Limit::stage(Stage::Tls, Duration::from_millis(300))));
    let deadline = DeadlineLayer::new(Limit::total(Duration::from_secs(2))).trusted("127.0.0.0/8".parse()?);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = drain.begun() => return Ok(()),
        };
        let (gate, tls, deadline, drain) = (gate.clone(), Arc::clone(&tls), deadline.clone(), drain.clone());
        tokio::spawn(async move {
            let peer = accepted.peer;
            match gate.accept(drain.context(), accepted.stream, peer.ip(), tls).await {
                Err(error) => println!("  (the server: {error})"),
                Ok(secured) => {
                    let context = drain.context().clone();
                    // The first head, from its first byte; the next ones are for hyper.
                    let (reader, writer) = tokio::io::split(secured.stream);
                    let stream = Stream::from_halves(reader, writer);
                    let first = stream.handle().clone();
                    first.set_read_deadline(Limit::new(LimitName::Head, HEAD));
                    let paced = BodyLayer::new().rate(10_000, Duration::from_secs(1));
                    let served = paced.layer(deadline.layer(service_fn(handle)));
                    let served = served.map_request(move |mut request: Request<_>| {
                        first.set_read_deadline(None);
                        request.extensions_mut().insert(Peer(peer));
                        request.extensions_mut().insert(context.clone());
                        request
                    });
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
                    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(served));
                    tokio::pin!(connection);
                    let ended = tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = drain.begun() => {
                            connection.as_mut().graceful_shutdown();
                            connection.await
                        }
                    };
                    if let Err(error) = ended {
                        println!("  (the server: {error})");
                    }
                }
            }
            drop(accepted.permit);
        });
    }
}

/// The head of a request has to be whole by then.
const HEAD: Duration = Duration::from_millis(500);

/// Takes the body, and 100 ms, where its caller has so much.
async fn handle<B: Body>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Who sends it too slowly is answered already.
    let _ = request.into_body().collect().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(Response::new(Full::new(Bytes::from_static(b"done"))))
}

/// The first line of the answer, and its last.
async fn ask(client: &TlsConnector, address: SocketAddr, name: &'static str, headers: &str) -> std::io::Result<String> {
    let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
    let mut stream = client.connect(name, TcpStream::connect(address).await?).await?;
    let head = format!("GET / HTTP/1.1\r\nhost: www.example.com\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (first, last) = (answer.lines().next().unwrap_or_default(), answer.lines().last().unwrap_or_default());
    Ok(format!("{first}\n  {last}"))
}
