//! Connections that show a ClientHello: `hello whole|name|version|rate|plain|closed COUNT`. What is printed is the
//! processor time of the server's thread for one of them, from accept to close, and how much of it a connection does not
//! cost that is closed unread, as measured in the same process. Its clients have a thread of their own.

use std::{
    env,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use overdue::{
    Context,
    server::{
        ListenOptions, Listener,
        hello::{HandshakeError, HelloGate, HelloPolicy, Rate, Version},
    },
};
use overdue_bench::Numbers;
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, Stream,
    client::Resumption,
    crypto::ring,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
    version::TLS13,
};

const NAME: &str = "www.example.com";
const PATIENCE: Duration = Duration::from_secs(10);
/// Before anything is measured.
const WARM_UP: u32 = 200;

/// What becomes of the clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Name,
    Version,
    Rate,
    Plain,
    Closed,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context("usage: hello whole|name|version|rate|plain|closed COUNT");
    let end = match next()?.as_str() {
        "whole" => End::Whole,
        "name" => End::Name,
        "version" => End::Version,
        "rate" => End::Rate,
        "plain" => End::Plain,
        "closed" => End::Closed,
        other => bail!("there is no end {other:?}"),
    };
    let count: u32 = next()?.parse()?;
    let configs = configs()?;
    let closed = server_cpu(End::Closed, count, &configs)?;
    let cpu = if end == End::Closed { closed } else { server_cpu(end, count, &configs)? };
    let us = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(count);
    Numbers::default().with("cpu_us", us(cpu)).with("above_us", us(cpu) - us(closed)).print();
    Ok(())
}

/// One certificate, ECDSA on P-256, of TLS 1.3 with X25519; no session is resumed.
fn configs() -> anyhow::Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut provider = ring::default_provider();
    provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519);
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13])?;
    let server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok((server.into(), client.into()))
}

/// Processor time of the server's thread for so many connections, one after another.
fn server_cpu(end: End, count: u32, configs: &(Arc<ServerConfig>, Arc<ClientConfig>)) -> anyhow::Result<Duration> {
    let (server, client) = configs.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(async { ListenOptions::new().bind((Ipv4Addr::LOCALHOST, 0).into()) })?;
    let address = listener.local_addr()?;
    let clients = thread::spawn(move || (0..WARM_UP + count).try_for_each(|_| ask(address, end, &client)));
    let cpu = runtime.block_on(serve(listener, end, count, &server));
    // Of two that failed, the client knows more.
    clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    cpu
}

async fn serve(mut listener: Listener, end: End, count: u32, config: &Arc<ServerConfig>) -> anyhow::Result<Duration> {
    let policy = HelloPolicy::new();
    let gate = HelloGate::new(match end {
        End::Name => policy.names(["elsewhere.example.com"])?,
        End::Version => policy.oldest_version(Version(0x0305)),
        End::Rate => policy.rate(Rate::new(1, Duration::from_secs(3600))),
        End::Whole | End::Plain | End::Closed => policy,
    });
    let mut began = Duration::ZERO;
    for number in 0..WARM_UP + count {
        if number == WARM_UP {
            began = thread_cpu();
        }
        let accepted = listener.accept().await?;
        if end == End::Closed {
            continue;
        }
        let root = Context::root();
        match gate.accept(&root, accepted.stream, accepted.peer.ip(), Arc::clone(config)).await {
            // The first is within the rate.
            Ok(_) => ensure!(end == End::Whole || end == End::Rate && number == 0, "a client was let in"),
            Err(HandshakeError::Rejected(_)) => ensure!(end != End::Whole, "a client was turned away"),
            Err(other) => bail!("a handshake failed: {other}"),
        }
    }
    Ok(thread_cpu() - began)
}

/// Of the calling thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// Shows a hello, and waits for the end.
fn ask(address: SocketAddr, end: End, config: &Arc<ClientConfig>) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut talker = ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME)?)?;
    match end {
        End::Closed => {}
        End::Plain => socket.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")?,
        // The server closes once it has done the handshake; or it tells why it does not.
        _ => match Stream::new(&mut talker, &mut socket).read(&mut [0]) {
            Err(err) if err.kind() == ErrorKind::TimedOut || err.kind() == ErrorKind::WouldBlock => {
                return Err(err.into());
            }
            _ => return Ok(()),
        },
    }
    match socket.read(&mut [0; 16]) {
        // What it did not read ends in a reset.
        Err(err) if err.kind() != ErrorKind::ConnectionReset => Err(err.into()),
        _ => Ok(()),
    }
}
