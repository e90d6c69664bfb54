//! Requests over TLS, each on a connection of its own: `handshakes PORT AT_ONCE MS new|resumed CERTIFICATE`. With `new`
//! every handshake is a whole one; with `resumed` each thread offers what it was given on its last connection. Any answer
//! that is not the whole body, and any failure, ends it with an error. TLS 1.3 with X25519, so that all servers do alike.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use overdue_bench::Numbers;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::TLS13,
};

const PATIENCE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Handshakes of each kind.
#[derive(Clone, Copy, Default)]
struct Kinds {
    full: u32,
    resumed: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, at_once, ms, kind, certificate] = arguments.as_slice() else {
        bail!("usage: handshakes PORT AT_ONCE MS new|resumed CERTIFICATE");
    };
    let (port, at_once): (u16, u32) = (port.parse()?, at_once.parse()?);
    let until = Instant::now() + Duration::from_millis(ms.parse()?);
    let resume = match kind.as_str() {
        "new" => false,
        "resumed" => true,
        other => bail!("there is no kind {other:?}"),
    };
    let certificate = CertificateDer::from_pem_slice(&fs::read(certificate)?)?;
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let config = config(certificate.clone(), resume)?;
            Ok(thread::spawn(move || ask(port, &config, until)))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut sum = Kinds::default();
    for thread in threads {
        let kinds = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        sum.full += kinds.full;
        sum.resumed += kinds.resumed;
    }
    Numbers::default().with("full", sum.full.into()).with("resumed", sum.resumed.into()).print();
    Ok(())
}

fn config(certificate: CertificateDer<'static>, resume: bool) -> anyhow::Result<Arc<ClientConfig>> {
    let mut provider = ring::default_provider();
    provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519);
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = if resume { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(config.into())
}

/// One request after another, at least one.
fn ask(port: u16, config: &Arc<ClientConfig>, until: Instant) -> anyhow::Result<Kinds> {
    let name = ServerName::try_from("localhost")?;
    let mut kinds = Kinds::default();
    let mut answer = Vec::with_capacity(4096);
    loop {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut connection = ClientConnection::new(config.clone(), name.clone())?;
        let mut stream = Stream::new(&mut connection, &mut socket);
        stream.write_all(REQUEST).context("the handshake or the request failed")?;
        answer.clear();
        match stream.read_to_end(&mut answer) {
            // Not every server says that it ends; the body's length tells whether it is whole.
            Err(err) if err.kind() != ErrorKind::UnexpectedEof => return Err(err).context("no answer"),
            _ => {}
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(&[b'x'; 1024]),
            "the answer is {:?}",
            String::from_utf8_lossy(answer.get(..80).unwrap_or(&answer))
        );
        match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => kinds.resumed += 1,
            _ => kinds.full += 1,
        }
        if Instant::now() >= until {
            return Ok(kinds);
        }
    }
}
