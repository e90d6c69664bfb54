use std::time::Duration;

use overdue_core::{Limit, LimitName};
use proptest::prelude::*;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;

/// The parts of a hello, each as it is on the wire.
#[derive(Clone)]
struct Parts {
    version: u16,
    session_id: Vec<u8>,
    suites: Vec<u16>,
    compression: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            version: 0x0303,
            session_id: vec![7; 32],
            suites: vec![0x1301],
            compression: vec![0],
            extensions: vec![(43, vec![2, 3, 4]), (0, sni("www.example.com"))],
        }
    }
}

fn u16s(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn vector8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

fn sni(name: &str) -> Vec<u8> {
    vector16(&[&[0][..], &vector16(name.as_bytes())].concat())
}

impl Parts {
    fn body(&self) -> Vec<u8> {
        let mut body = [&self.version.to_be_bytes()[..], &[9; 32], &vector8(&self.session_id)].concat();
        body.extend(vector16(&u16s(&self.suites)));
        body.extend(vector8(&self.compression));
        let extensions =
            self.extensions.iter().flat_map(|(kind, content)| [u16s(&[*kind]), vector16(content)].concat());
        body.extend(vector16(&extensions.collect::<Vec<_>>()));
        body
    }

    fn with(mut self, kind: u16, content: Vec<u8>) -> Self {
        self.extensions.retain(|(known, _)| *known != kind);
        self.extensions.push((kind, content));
        self
    }

    /// In records of so many bytes.
    fn records(&self, most: usize) -> Vec<u8> {
        records(&message(&self.body()), most)
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1], &length[1..], body].concat()
}

fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|fragment| [&[22, 3, 1][..], &vector16(fragment)].concat()).collect()
}

fn why(parts: &Parts) -> Option<Malformed> {
    ClientHello::parse(&parts.body()).err()
}

/// What rustls says first.
fn of_rustls(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let mut client = ClientConnection::new(Arc::new(client_config(alpn)), ServerName::try_from(name).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_config(alpn: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

fn identity() -> (rustls::pki_types::CertificateDer<'static>, rustls::pki_types::PrivateKeyDer<'static>) {
    static IDENTITY: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
    let (certificate, key) = IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["www.example.com".to_owned()]).unwrap();
        (made.cert.der().to_vec(), made.signing_key.serialize_der())
    });
    (certificate.clone().into(), rustls::pki_types::PrivatePkcs8KeyDer::from(key.clone()).into())
}

fn server_config() -> Arc<ServerConfig> {
    let (certificate, key) = identity();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn peer() -> IpAddr {
    "192.0.2.1".parse().unwrap()
}

async fn accept(gate: &HelloGate, io: DuplexStream) -> Result<Secured<DuplexStream>, HandshakeError> {
    gate.accept(&Context::root(), io, peer(), server_config()).await
}

/// What the gate says to these bytes, and what it answers.
async fn answer(gate: &HelloGate, bytes: &[u8]) -> (WhyRejected, Vec<u8>) {
    let (mut ours, theirs) = duplex(64 * 1024);
    ours.write_all(bytes).await.unwrap();
    let Err(HandshakeError::Rejected(rejected)) = accept(gate, theirs).await else { panic!("it was not turned away") };
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    (rejected.why, answer)
}

/// A handshake of rustls with the gate: what became of it on both sides.
async fn shake(
    gate: &HelloGate,
    name: &'static str,
    alpn: &[&[u8]],
) -> (Result<(), rustls::Error>, Option<WhyRejected>) {
    let (ours, theirs) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(client_config(alpn)));
    let name = ServerName::try_from(name).unwrap();
    let (client, server) = tokio::join!(connector.connect(name, ours), accept(gate, theirs));
    let client =
        client.map(drop).map_err(|err| err.get_ref().unwrap().downcast_ref::<rustls::Error>().unwrap().clone());
    match server {
        Ok(_) => (client, None),
        Err(HandshakeError::Rejected(rejected)) => (client, Some(rejected.why)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_real_hello_is_read() {
    let bytes = of_rustls("www.example.com", &[b"h2", b"http/1.1"]);
    let mut buf = BytesMut::from(&bytes[..]);
    let body = Joined::default().advance(&mut buf).unwrap().unwrap();
    let hello = ClientHello::parse(body).unwrap();
    assert_eq!(hello.server_name(), Some("www.example.com"));
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert_eq!((hello.newest_version(), hello.offers_a_cipher()), (Version::TLS13, true));
    assert!(hello.signature_algorithms().any(|algorithm| algorithm == 0x0403));
}

#[test]
fn fragments_of_any_size_are_joined_to_one_record() {
    let parts = Parts::default();
    let (whole, body) = (parts.records(usize::MAX), parts.body());
    for most in 1..=message(&body).len() {
        for step in [1, 3, usize::MAX] {
            let (mut buf, mut joined) = (BytesMut::new(), Joined::default());
            let bytes = [parts.records(most), b"rest".to_vec()].concat();
            let mut found = false;
            for piece in bytes.chunks(step.min(bytes.len())) {
                buf.extend_from_slice(piece);
                if !found && let Some(joined) = joined.advance(&mut buf).unwrap() {
                    assert_eq!(joined, body);
                    found = true;
                }
            }
            assert!(found);
            assert_eq!(buf[..whole.len()], whole);
            assert_eq!(buf[whole.len()..], *b"rest");
        }
    }
}

#[test]
fn whatever_is_cut_off_is_not_read() {
    let body = Parts::default().with(16, vector16(&vector8(b"h2"))).body();
    for length in 0..body.len() {
        // Up to the extensions it is a hello of old.
        let extensions = 2 + 32 + 33 + 4 + 2;
        assert_eq!(ClientHello::parse(&body[..length]).is_ok(), length == extensions, "{length}");
    }
    assert_eq!(ClientHello::parse(&[&body[..], b"x"].concat()).unwrap_err(), Malformed::Trailing);
}

#[test]
fn each_rule_has_its_reason() {
    let parts = Parts::default;
    let extension = |extension| Some(Malformed::Extension { extension });
    for (parts, reason) in [
        (Parts { version: 0, ..parts() }, Some(Malformed::Version)),
        (Parts { version: 0x0002, ..parts() }, Some(Malformed::Version)),
        (Parts { session_id: vec![0; 33], ..parts() }, Some(Malformed::SessionId)),
        (Parts { suites: vec![], ..parts() }, Some(Malformed::CipherSuites)),
        (Parts { compression: vec![1], ..parts() }, Some(Malformed::Compression)),
        (Parts { compression: vec![], ..parts() }, Some(Malformed::Compression)),
        (parts().with(0, sni("")), extension(0)),
        (parts().with(0, sni("a b")), extension(0)),
        (parts().with(0, sni("a\0.example.com")), extension(0)),
        (parts().with(0, sni(&"a".repeat(64))), extension(0)),
        (parts().with(0, [sni("a"), vec![0]].concat()), extension(0)),
        (parts().with(0, vector16(&[&[0][..], &vector16(b"a"), &[0], &vector16(b"b")].concat())), extension(0)),
        (parts().with(16, vector16(&[])), Some(Malformed::Short)),
        (parts().with(16, vector16(&[0])), extension(16)),
        (parts().with(43, vec![0]), extension(43)),
        (parts().with(43, vec![3, 3, 4, 3]), extension(43)),
        (parts().with(13, vector16(&[4])), extension(13)),
        (parts().with(41, vec![]).with(10, vec![]), Some(Malformed::KeyNotLast)),
        (parts().with(41, vec![]), None),
        (parts(), None),
    ] {
        assert_eq!(why(&parts), reason);
    }
    let mut twice = parts();
    twice.extensions.push((43, vec![2, 3, 4]));
    assert_eq!(why(&twice), Some(Malformed::Twice { extension: 43 }));
}

#[tokio::test]
async fn bytes_that_are_no_hello_get_the_alert_that_says_so() {
    let gate = HelloGate::new(HelloPolicy::new());
    let hello = Parts::default();
    let big = Parts::default().with(21, vec![0; 16_384]);
    let malformed = |malformed| WhyRejected::Malformed(malformed);
    for (bytes, reason, code) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), WhyRejected::NotTls { first: b'G' }, None),
        (vec![0x80, 0x2e, 1, 0, 2], WhyRejected::NotTls { first: 0x80 }, None),
        (vec![21, 3, 1, 0, 2, 2, 40], malformed(Malformed::NotClientHello), Some(10)),
        (
            records(&[&[2][..], &message(&hello.body())[1..]].concat(), 999),
            malformed(Malformed::NotClientHello),
            Some(10),
        ),
        (vec![22, 0, 0, 0, 5, 1, 0, 0, 1, 0], malformed(Malformed::RecordVersion), Some(70)),
        (vec![22, 3, 1, 0, 0], malformed(Malformed::EmptyRecord), Some(10)),
        (vec![22, 3, 1, 0x40, 1, 1], malformed(Malformed::RecordTooLong), Some(22)),
        (vec![22, 3, 1, 0, 4, 1, 1, 0, 0], malformed(Malformed::TooLong), Some(50)),
        (big.records(16_000), malformed(Malformed::TooLong), Some(50)),
        (records(&[message(&hello.body()), vec![0]].concat(), 999), malformed(Malformed::Trailing), Some(50)),
        (Parts { version: 0, ..hello.clone() }.records(999), malformed(Malformed::Version), Some(70)),
        (Parts { suites: vec![], ..hello.clone() }.records(999), malformed(Malformed::CipherSuites), Some(50)),
        (Parts { suites: vec![0x0a0a, 0x00ff], ..hello.clone() }.records(999), WhyRejected::NoCipher, Some(40)),
        (
            hello.clone().with(43, vec![4, 0x7a, 0x7a, 3, 2]).records(999),
            WhyRejected::Version { newest: Version(0x0302) },
            Some(70),
        ),
    ] {
        let (why, told) = answer(&gate, &bytes).await;
        assert_eq!(why, reason);
        assert_eq!(told, code.map(|code| vec![21, 3, 3, 0, 2, 2, code]).unwrap_or_default(), "{why}");
    }
    let counts: std::collections::HashMap<_, _> = gate.rejected().collect();
    assert_eq!((counts["not-tls"], counts["malformed"], counts["no-cipher"], counts["version"]), (2, 10, 1, 1));
    let worst = gate.worst_sources(3);
    assert_eq!((worst.len(), worst[0].0, worst[0].1.rejected), (1, Source::from(peer()), 14));
}

#[tokio::test]
async fn one_that_ends_in_the_middle_is_told_nothing_and_one_that_says_nothing_is_no_failure() {
    let gate = HelloGate::new(HelloPolicy::new());
    let (mut ours, theirs) = duplex(1024);
    ours.write_all(&Parts::default().records(999)[..20]).await.unwrap();
    ours.shutdown().await.unwrap();
    let Err(HandshakeError::Rejected(rejected)) = accept(&gate, theirs).await else { panic!() };
    assert_eq!(rejected.why, WhyRejected::Truncated);
    let (ours, theirs) = duplex(1024);
    drop(ours);
    assert!(matches!(accept(&gate, theirs).await, Err(HandshakeError::Io(_))));
    assert_eq!(gate.failed_handshakes(), 0);
}

#[tokio::test]
async fn the_handshake_goes_on_with_what_was_read() {
    let policy = HelloPolicy::new().names(["*.example.com"]).unwrap().protocols([&b"h2"[..]]).ja4(true);
    let gate = HelloGate::new(policy);
    let (ours, theirs) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(client_config(&[b"h2"])));
    let name = ServerName::try_from("www.example.com").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, ours), accept(&gate, theirs));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(server.server_name.as_deref(), Some("www.example.com"));
    assert!(server.ja4.unwrap().as_str().starts_with("t13d"), "{:?}", server.ja4);
    assert_eq!(server.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut said = [0; 4];
    server.stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ping");
}

#[tokio::test]
async fn a_hello_in_tiny_records_is_served_too() {
    let gate = HelloGate::new(HelloPolicy::new());
    let (mut ours, theirs) = duplex(64 * 1024);
    let name = ServerName::try_from("www.example.com").unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config(&[])), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let talk = async {
        ours.write_all(&records(&hello[5..], 1)).await.unwrap();
        let mut bytes = [0; 16 * 1024];
        while client.is_handshaking() {
            let read = ours.read(&mut bytes).await.unwrap();
            let mut left = &bytes[..read];
            while !left.is_empty() {
                client.read_tls(&mut left).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        let mut finished = Vec::new();
        client.write_tls(&mut finished).unwrap();
        ours.write_all(&finished).await.unwrap();
        ours
    };
    let (_ours, server) = tokio::join!(talk, accept(&gate, theirs));
    assert_eq!(server.unwrap().server_name.as_deref(), Some("www.example.com"));
}

#[tokio::test]
async fn a_client_understands_why_it_is_turned_away() {
    let gate = HelloGate::new(HelloPolicy::new().names(["a.example.com"]).unwrap());
    let (client, why) = shake(&gate, "www.example.com", &[]).await;
    assert_eq!(client, Err(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)));
    assert_eq!(why, Some(WhyRejected::Name));
    let (client, why) = shake(&gate, "192.0.2.7", &[]).await;
    assert_eq!(client, Err(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)));
    assert_eq!(why, Some(WhyRejected::Nameless));

    let gate = HelloGate::new(HelloPolicy::new().protocols([&b"h2"[..], b"http/1.1"]));
    let (client, why) = shake(&gate, "www.example.com", &[b"ftp", b"smtp"]).await;
    assert_eq!(client, Err(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    assert_eq!(why, Some(WhyRejected::Protocol));
    assert_eq!(shake(&gate, "www.example.com", &[b"ftp", b"http/1.1"]).await, (Ok(()), None));
    assert_eq!(shake(&gate, "www.example.com", &[]).await, (Ok(()), None));
}

#[tokio::test(start_paused = true)]
async fn sources_that_come_or_fail_too_often_wait() {
    let gate = HelloGate::new(HelloPolicy::new().rate(Rate::new(2, Duration::from_secs(1))));
    let mut whys = Vec::new();
    for _ in 0..4 {
        whys.push(shake(&gate, "www.example.com", &[]).await.1);
    }
    assert_eq!(whys, [None, None, Some(WhyRejected::Rate), Some(WhyRejected::Rate)]);
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(shake(&gate, "www.example.com", &[]).await.1, None);

    let gate = HelloGate::new(HelloPolicy::new().failure_rate(Rate::new(3, Duration::from_secs(1))));
    for _ in 0..3 {
        answer(&gate, b"GET / HTTP/1.1\r\n\r\n").await;
    }
    assert_eq!(shake(&gate, "www.example.com", &[]).await.1, Some(WhyRejected::FailureRate));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(shake(&gate, "www.example.com", &[]).await.1, None);
}

#[tokio::test(start_paused = true)]
async fn hello_and_handshake_are_under_one_limit() {
    let limit = || Limit::stage(Stage::Tls, Duration::from_secs(3));
    let gate = HelloGate::new(HelloPolicy::new().limit(limit()));
    let hello = of_rustls("www.example.com", &[]);
    // Nothing, a part of the hello, the hello alone: after 3 s it is over, however it was spread.
    for sent in [0, 20, hello.len()] {
        let began = clock::now();
        let (mut ours, theirs) = duplex(64 * 1024);
        let talk = async {
            for byte in &hello[..sent] {
                tokio::time::sleep(Duration::from_millis(5)).await;
                ours.write_all(&[*byte]).await.unwrap();
            }
        };
        let (_, server) = tokio::join!(talk, accept(&gate, theirs));
        let Err(HandshakeError::Limit { error, received }) = server else { panic!("no limit fired") };
        let stage = if sent < hello.len() { "hello" } else { "handshake" };
        assert_eq!((error.stage().as_str(), received), (stage, sent));
        assert_eq!(error.limit().unwrap().name, LimitName::Stage(Stage::Tls));
        let took = clock::now() - began;
        assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3_100), "{took:?}");
    }
    assert_eq!(gate.failed_handshakes(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_its_alert_holds_nobody_up() {
    let gate = HelloGate::new(HelloPolicy::new().names(["a.example.com"]).unwrap());
    let began = clock::now();
    let (mut ours, theirs) = duplex(4);
    let bytes = Parts::default().records(999);
    let (_, server) = tokio::join!(ours.write_all(&bytes), accept(&gate, theirs));
    assert!(matches!(server, Err(HandshakeError::Rejected(_))));
    let took = clock::now() - began;
    assert!(took >= Duration::from_millis(250) && took < Duration::from_millis(300), "{took:?}");
}

/// Fingerprints that others have published, with the lists from which they come.
#[test]
fn ja4_is_what_others_compute() {
    let hex =
        |text: &str| -> Vec<u16> { text.split(',').map(|value| u16::from_str_radix(value, 16).unwrap()).collect() };
    for (ja4, suites, extensions, signatures) in [
        (
            "t13d1011h2_61a7ad8aa9b6_3fcd1a44f3e3",
            "00ff,1301,1302,1303,c02b,c02c,c02f,c030,cca8,cca9",
            "0000,0010,0005,000a,000b,000d,0017,0023,002b,002d,0033",
            "0503,0403,0807,0806,0805,0804,0601,0501,0401",
        ),
        (
            "t13d1516h2_8daaf6152771_d8a2da3f94cd",
            "3a3a,1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035",
            "dada,002d,0033,0010,fe0d,0017,44cd,0000,000b,000a,002b,ff01,0023,0012,0005,000d,001b,1a1a",
            "0403,0804,0401,0503,0805,0501,0806,0601",
        ),
        (
            "t13d1516h2_8daaf6152771_e5627efa2ab1",
            "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035",
            "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015",
            "0403,0804,0401,0503,0805,0501,0806,0601",
        ),
    ] {
        let content = |kind| match kind {
            0 => sni("www.example.com"),
            13 => vector16(&u16s(&hex(signatures))),
            16 => vector16(&[vector8(b"h2"), vector8(b"http/1.1")].concat()),
            43 => vector8(&u16s(&[0x6a6a, 0x0304, 0x0303])),
            _ => vec![],
        };
        let extensions = hex(extensions).into_iter().map(|kind| (kind, content(kind))).collect();
        let body = Parts { suites: hex(suites), extensions, ..Parts::default() }.body();
        assert_eq!(Ja4::of(&ClientHello::parse(&body).unwrap()).as_str(), ja4);
    }
}

#[test]
fn ja4_of_a_client_that_says_little() {
    let bare = Parts { version: 0x0301, extensions: vec![], ..Parts::default() };
    let ja4 = |parts: &Parts| Ja4::of(&ClientHello::parse(&parts.body()).unwrap()).to_string();
    assert!(ja4(&bare).starts_with("t10i010000_"));
    assert!(ja4(&bare).ends_with("_000000000000"));
    // Neither a letter nor a digit: the ends of its hexadecimal form, ab..cd.
    let odd = bare.with(16, vector16(&vector8(&[0xab, 1, 0xcd])));
    assert!(ja4(&odd).starts_with("t10i0101ad_"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_alike_in_pieces(mut bytes: Vec<u8>, flips in prop::collection::vec((0_usize..200, any::<u8>()), 0..4), step in 1_usize..50) {
        // Half of them begin as a hello does.
        if bytes.len() % 2 == 0 {
            let hello = Parts::default().records(40);
            bytes.splice(0..0, hello);
        }
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        prop_assert_eq!(in_pieces(&bytes, bytes.len().max(1)), in_pieces(&bytes, step));
    }
}

fn in_pieces(bytes: &[u8], step: usize) -> Option<String> {
    let (mut buf, mut joined) = (BytesMut::new(), Joined::default());
    for piece in bytes.chunks(step) {
        buf.extend_from_slice(piece);
        match joined.advance(&mut buf) {
            Ok(None) => {}
            Ok(Some(body)) => return Some(format!("{:?}", ClientHello::parse(body).map(|hello| Ja4::of(&hello)))),
            Err(err) => return Some(err.to_string()),
        }
    }
    None
}
