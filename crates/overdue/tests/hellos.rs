//! Masses of bad hellos lose neither descriptors nor memory. A process of its own, because it counts both.
//!
//! 100,000 in memory (the gate is the same, only the sockets are missing), and 4,000 of them over sockets.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::{fs, net::IpAddr, sync::Arc, time::Duration};

use overdue::{
    Context,
    server::{
        ListenOptions,
        hello::{HandshakeError, HelloGate, HelloPolicy, Rate},
    },
};
use rustls::{ServerConfig, pki_types};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const MASSES: u32 = 100_000;
const OVER_SOCKETS: u32 = 4_000;

/// A hello in one record: this version, these cipher suites, and so much padding.
fn hello(version: u16, suites: &[u8], padding: u16) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([9; 32]);
    body.push(0);
    body.extend(u16::try_from(suites.len()).unwrap().to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    body.extend((padding + 4).to_be_bytes());
    body.extend([0, 21]);
    body.extend(padding.to_be_bytes());
    body.resize(body.len() + usize::from(padding), 0);
    let message = [&[1, 0], &u16::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
    message
        .chunks(16_000)
        .flat_map(|part| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat())
        .collect()
}

/// Truncated, of no version, without ciphers, oversized; by turns.
fn bad(number: u32) -> Vec<u8> {
    match number % 4 {
        0 => {
            let mut hello = hello(0x0303, &[0x13, 1], 40);
            hello.truncate(5 + number as usize % (hello.len() - 6));
            hello
        }
        1 => hello(0, &[0x13, 1], 0),
        2 => hello(0x0303, &[], 0),
        _ => hello(0x0303, &[0x13, 1], 20_000),
    }
}

fn identity() -> (pki_types::CertificateDer<'static>, pki_types::PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["www.example.com".to_owned()]).unwrap();
    let key = pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    (made.cert.der().clone(), key.into())
}

fn config() -> Arc<ServerConfig> {
    let (certificate, key) = identity();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(server.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())
}

/// In kilobytes.
fn resident() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn source(number: u32) -> IpAddr {
    // Of 250,000 sources, which is more than are remembered.
    IpAddr::from((0x0a00_0000 + number.wrapping_mul(2_654_435_761) % 250_000).to_be_bytes())
}

async fn turned_away(gate: &HelloGate, number: u32, config: &Arc<ServerConfig>) {
    let (mut ours, theirs) = duplex(64 * 1024);
    ours.write_all(&bad(number)).await.unwrap();
    ours.shutdown().await.unwrap();
    let result = gate.accept(&Context::root(), theirs, source(number), Arc::clone(config)).await;
    assert!(matches!(result, Err(HandshakeError::Rejected(_))), "{number}");
}

#[tokio::test]
async fn masses_of_bad_hellos_lose_neither_descriptors_nor_memory() {
    let config = config();
    let policy = HelloPolicy::new().sources(4_096).failure_rate(Rate::new(100, Duration::from_secs(60)));
    let gate = HelloGate::new(policy);
    for number in 0..MASSES / 10 {
        turned_away(&gate, number, &config).await;
    }
    let (fds, memory) = (descriptors(), resident());
    for number in MASSES / 10..MASSES {
        turned_away(&gate, number, &config).await;
    }
    let grown = resident() - memory;
    assert!(grown < 2_048, "{grown} kB more after {MASSES} hellos");

    let mut listener = ListenOptions::new().bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    for number in 0..OVER_SOCKETS {
        let peer = async {
            let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
            peer.write_all(&bad(number)).await.unwrap();
            peer.shutdown().await.unwrap();
            let mut told = Vec::new();
            // A hello that was not read to its end ends in a reset.
            let _ = peer.read_to_end(&mut told).await;
        };
        let served = async {
            let accepted = listener.accept().await.unwrap();
            let result = gate.accept(&Context::root(), accepted.stream, source(number), Arc::clone(&config)).await;
            assert!(matches!(result, Err(HandshakeError::Rejected(_))), "{number}");
        };
        tokio::join!(peer, served);
    }
    // The listener, its spare, and what the runtime holds for timers.
    assert!(descriptors() <= fds + 3, "{fds} descriptors before, {} after", descriptors());
    assert_eq!(listener.connections().open(), 0);
    let rejected: u64 = gate.rejected().map(|(_, count)| count).sum();
    assert_eq!(rejected, u64::from(MASSES + OVER_SOCKETS));
    assert!(gate.worst_sources(usize::MAX).len() <= 4_096);
}
