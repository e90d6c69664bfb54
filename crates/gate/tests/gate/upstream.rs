//! The side towards servers: TLS, names, health, and what is told of the client.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bed::{Bed, Client, GET, OK, Peer, Server, until},
    references::{self, Origin},
};

/// An authority, with what it signed, in files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A name of its own: of two with one name, the signature would be what is wrong.
        let name = folder.path().display().to_string();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// How a server speaks TLS that shows a certificate for this name.
    fn server(&self, name: &str, change: impl FnOnce(&mut CertificateParams), clients: bool) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(self.issuer.der().to_vec())).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.unwrap().with_client_cert_verifier(verifier)
        } else {
            builder.unwrap().with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A client's certificate, as the keys `chain` and `key` of a file.
    fn client(&self) -> String {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (chain, path) = (self.folder.path().join("client.pem"), self.folder.path().join("client.key"));
        fs::write(&chain, certificate.pem()).unwrap();
        fs::write(&path, key.serialize_pem()).unwrap();
        format!("chain = {chain:?}, key = {path:?}")
    }

    /// The table for a cluster whose servers it has signed.
    fn table(&self, more: &str) -> String {
        format!("tls = {{ ca = {:?}{}{more} }}", self.ca(), if more.is_empty() { "" } else { ", " })
    }
}

type Secure = StreamOwned<ServerConnection, TcpStream>;

fn secure(peer: &Peer, config: &Arc<ServerConfig>) -> Secure {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), peer.client.stream.try_clone().unwrap())
}

/// The head of the next request; `None` where there is none.
fn request(stream: &mut Secure) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Whether the other end's kernel has all that was written.
fn has_arrived(stream: &TcpStream) -> bool {
    let ends = [stream.local_addr().unwrap(), stream.peer_addr().unwrap()];
    let ports = ends.map(|end| format!(":{:04X}", end.port()));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&ports[0]) && fields[2].ends_with(&ports[1]) && fields[4].starts_with("00000000:")
    })
}

/// The first words of what is told of a request.
pub(crate) fn told(line: &Value) -> [&str; 4] {
    let text = |value: &'_ Value| value.as_str().unwrap_or("-").to_owned().leak();
    [text(&line["stage"]), text(&line["cause"]), text(&line["gate"]["termination"]), text(&line["gate"]["flags"])]
}

#[test]
fn a_request_to_a_server_over_tls() {
    let authority = Authority::new();
    let config = authority.server("back.test", |_| {}, true);
    let server = Server::new(move |peer| {
        let mut stream = secure(peer, &config);
        while let Some(head) = request(&mut stream) {
            let connection = &stream.conn;
            let told =
                (connection.server_name(), connection.handshake_kind(), connection.peer_certificates().is_some());
            peer.say(format!("{told:?}"));
            // One that closes makes the next a new handshake.
            stream.write_all(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
            assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"));
        }
    });
    let table = authority.table(&format!("name = \"back.test\", {}", authority.client()));
    let bed = Bed::new(&[server.address], &[("cluster", &table)]);
    let mut client = bed.connect();
    for _ in 0..2 {
        let answer = client.call(GET);
        assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]));
    }
    assert_eq!(server.saw(), "(Some(\"back.test\"), Some(Full), true)");
    assert_eq!(server.saw(), "(Some(\"back.test\"), Some(Resumed), true)");
    let stages = |line: &Value| {
        let timeline = line["timeline"].as_array().unwrap();
        timeline.iter().map(|span| span["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for line in bed.lines() {
        assert_eq!(stages(&line), ["head", "queue", "connect", "tls", "send", "wait", "receive"], "{line:#}");
    }
}

/// Each of them is the server's fault, told by its cause, and no other server's.
#[test]
fn a_handshake_with_a_server_that_fails_is_told_with_its_cause() {
    let authority = Authority::new();
    let old = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let with =
        |config: Arc<ServerConfig>| Server::new(move |peer| while request(&mut secure(peer, &config)).is_some() {});
    let plain = || {
        Server::new(|peer| {
            peer.client.send("220 mail.test ESMTP\r\n");
            while !peer.ends() {}
        })
    };
    let silent = || Server::new(|peer| while !peer.ends() {});
    let closing = || Server::new(|peer| peer.client.stream.shutdown(std::net::Shutdown::Both).unwrap());
    let stranger = Authority::new();
    for (server, status, told_as, said) in [
        (with(authority.server("back.test", old, false)), 502, ["tls", "tls-untrusted", "SC", "UF"], "expired"),
        (with(authority.server("other.test", |_| {}, false)), 502, ["tls", "tls-untrusted", "SC", "UF"], "other.test"),
        (with(stranger.server("back.test", |_| {}, false)), 502, ["tls", "tls-untrusted", "SC", "UF"], "signed"),
        (plain(), 502, ["tls", "tls-not-tls", "SC", "UF"], "220 mail"),
        (closing(), 502, ["tls", "closed-early", "SC", "UF"], "closed"),
        (silent(), 504, ["tls", "tls-peer-silent", "sC", "UF"], "ClientHello"),
        // With TLS 1.3 the refusal comes when the server has seen that there is no certificate.
        (
            with(authority.server("back.test", |_| {}, true)),
            502,
            ["-", "tls-rejected", "-", "-"],
            "CertificateRequired",
        ),
    ] {
        let table = authority.table("name = \"back.test\"");
        let bed = Bed::new(&[server.address], &[("cluster", &table), ("limits", "tls = \"1s\"")]);
        assert_eq!(bed.connect().call(GET).status, status, "{told_as:?}");
        let line = bed.line();
        let seen = told(&line);
        let expected = told_as.iter().zip(seen).all(|(expected, seen)| *expected == "-" || *expected == seen);
        assert!(expected, "{told_as:?}: {line:#}");
        assert!(line["verdicts"][0]["summary"].as_str().unwrap().contains(said), "{line:#}");
        if told_as[1] == "tls-peer-silent" {
            assert_eq!(line["limit"]["name"], "tls");
            assert!(line["limit"]["origin"].as_str().unwrap().starts_with("gate.toml:"), "{line:#}");
        }
    }
}

/// What TLS says for itself is no end of a connection; that it ends is.
#[test]
fn a_kept_connection_is_judged_by_what_the_server_said() {
    let authority = Authority::new();
    let config = authority.server("127.0.0.1", |_| {}, false);
    let server = Server::new(move |peer| {
        let mut stream = secure(peer, &config);
        let mut number = 0;
        while let Some(_head) = request(&mut stream) {
            number += 1;
            stream.write_all(OK.as_bytes()).unwrap();
            if number == 1 {
                // A record that carries nothing of the server's.
                stream.conn.refresh_traffic_keys().unwrap();
            } else {
                stream.conn.send_close_notify();
            }
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut stream.sock).unwrap();
            }
            until("it has arrived", || has_arrived(&stream.sock));
            peer.say("said");
        }
    });
    let bed = Bed::new(&[server.address], &[("cluster", &authority.table(""))]);
    let mut client = bed.connect();
    // The last could not be sent again on another connection.
    let post = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx";
    for (sent, connections) in [(GET, 1), (GET, 0), (post, 1)] {
        assert_eq!(client.call(sent).status, 200);
        assert_eq!(server.saw(), "said");
        assert_eq!(server.connections(), connections);
    }
    let lines = bed.lines();
    let reused: Vec<bool> = lines.iter().map(|line| line["connection"]["reused"].as_bool().unwrap()).collect();
    assert_eq!(reused, [false, true, false]);
}

/// Whom to believe is read anew with the configuration, and a connection that was made under another word is not used.
#[test]
fn other_authorities_are_followed_by_new_connections_alone() {
    let (one, other) = (Authority::new(), Authority::new());
    let config = one.server("127.0.0.1", |_| {}, false);
    let server = Server::new(move |peer| {
        let mut stream = secure(peer, &config);
        while request(&mut stream).is_some() {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let mut bed = Bed::new(&[server.address], &[("cluster", &one.table(""))]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    assert!(bed.follow(&[server.address], &[("cluster", &other.table(""))]).is_empty());
    assert_eq!(client.call(GET).status, 502);
    assert!(bed.follow(&[server.address], &[("cluster", &one.table(""))]).is_empty());
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(server.connections(), 3);
}

/// Each server is told of the client whose requests come, and of no other.
#[test]
fn connections_that_were_introduced_are_for_one_client() {
    let server = Server::new(|peer| {
        let Some(first) = peer.first_line() else { return };
        while let Some(_head) = peer.request() {
            peer.say(first.clone());
            peer.client.send(OK);
        }
    });
    let table = "proxy_protocol = \"v1\"\nconnections = 2";
    let bed = Bed::new(&[server.address], &[("cluster", table)]);
    let gate = bed.gate.addresses()[0];
    let mut clients: Vec<_> = (0..4).map(|_| bed.connect()).collect();
    let said = |client: &Client| {
        let from = client.stream.local_addr().unwrap();
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), gate.port())
    };
    // More clients than connections, by turns: some make room for others, and nobody is taken for another.
    for place in [0, 0, 1, 0, 2, 3, 2, 0, 0, 1, 1] {
        let client = &mut clients[place];
        assert_eq!(client.call(GET).status, 200);
        assert_eq!(server.saw(), said(client));
    }
    let lines = bed.lines();
    let reused: Vec<bool> = lines.iter().map(|line| line["connection"]["reused"].as_bool().unwrap()).collect();
    assert_eq!(reused, [false, true, false, true, false, false, true, false, true, false, true]);
}

/// Where the first request begins: the header of version 2 has an empty line of its own.
fn asked(bytes: &[u8]) -> Option<usize> {
    bytes.windows(5).position(|bytes| bytes == b"GET /")
}

/// So many requests, behind whatever comes first.
fn requests(bytes: &[u8]) -> usize {
    asked(bytes).map_or(0, |at| bytes[at..].windows(4).filter(|end| end == b"\r\n\r\n").count())
}

/// HAProxy behind a proxy that names its clients, before a server to which it does so; the second port in version 2.
fn passing(folder: &Path, ports: [u16; 2], origin: u16) -> Vec<String> {
    let limits = "timeout connect 5s\n timeout client 5s\n timeout server 5s\n";
    let mut text = format!("defaults\n mode http\n {limits}");
    for (port, how) in ports.into_iter().zip(["send-proxy", "send-proxy-v2"]) {
        text += &format!("listen {how}\n bind 127.0.0.1:{port} accept-proxy\n server one 127.0.0.1:{origin} {how}\n");
    }
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text).unwrap();
    vec!["-db".into(), "-f".into(), file.display().to_string()]
}

/// The address that a client connected to is the one that the first of all proxies saw, as HAProxy has it.
#[test]
fn a_server_is_told_where_the_client_connected() {
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let ask = |to: SocketAddr, header: &str| {
        let mut client = Client::new(to);
        assert_eq!(client.call(&format!("{header}{request}")).status, 200);
    };
    let headers = ["PROXY TCP4 192.0.2.7 203.0.113.9 4660 443\r\n", "PROXY TCP6 2001:db8::7 2001:db8::9 4660 443\r\n"];
    let reference = references::start("haproxy", "-v", passing, requests);
    for (version, place) in [("v1", 0), ("v2", 1)] {
        let origin = Origin::new(requests);
        let cluster = format!("proxy_protocol = {version:?}");
        let listener = "proxy_protocol = true\ntrusted = [\"127.0.0.0/8\"]";
        let bed = Bed::new(&[origin.address], &[("cluster", &cluster), ("listener", listener)]);
        for header in headers {
            ask(bed.gate.addresses()[0], header);
            let ours = origin.take().concat();
            let ours = &ours[..asked(&ours).unwrap()];
            if version == "v1" {
                assert_eq!(ours, header.as_bytes());
            }
            if let Some(haproxy) = &reference {
                ask([haproxy.http1, haproxy.http2][place], header);
                let theirs = haproxy.origin.take().concat();
                let theirs = &theirs[..asked(&theirs).unwrap()];
                assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
            }
        }
    }
}

/// Who waits gets the right to a connection of its own, not one of somebody else's.
#[test]
fn a_turn_is_no_connection_of_another_client() {
    let server = Server::new(|peer| {
        let Some(first) = peer.first_line() else { return };
        while let Some(_head) = peer.request() {
            peer.say(first.clone());
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[("cluster", "proxy_protocol = \"v1\"\nconnections = 1")]);
    let mut clients: Vec<_> = (0..8).map(|_| bed.connect()).collect();
    for _ in 0..10 {
        // All at once.
        clients.iter_mut().for_each(|client| client.send(GET));
        let mut expected: Vec<String> = Vec::new();
        for client in &mut clients {
            assert_eq!(client.answer().status, 200);
            expected.push(client.stream.local_addr().unwrap().port().to_string());
        }
        let mut seen: Vec<String> =
            clients.iter().map(|_| server.saw().split(' ').nth(4).unwrap().to_owned()).collect();
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected);
    }
}

/// Before TLS, and with a word of its own where no client is behind it.
#[test]
fn a_header_comes_before_tls_and_probes_have_their_own() {
    let authority = Authority::new();
    let config = authority.server("127.0.0.1", |_| {}, false);
    let server = Server::new(move |peer| {
        // Not a byte of what comes behind it.
        let mut header = [0; 28];
        peer.client.stream.read_exact(&mut header[..16]).unwrap();
        let end = 16 + usize::from(header[15]);
        peer.client.stream.read_exact(&mut header[16..end]).unwrap();
        peer.say(format!("{:?}", &header[12..end.min(20)]));
        let mut stream = secure(peer, &config);
        while request(&mut stream).is_some() {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let table = authority.table("");
    let with = |more: &str| format!("proxy_protocol = \"v2\"\n{table}\n{more}");
    let bed = Bed::new(&[server.address], &[("cluster", &with(""))]);
    assert_eq!(bed.connect().call(GET).status, 200);
    assert_eq!(server.saw(), "[33, 17, 0, 12, 127, 0, 0, 1]");
    drop(bed);
    let bed = Bed::new(&[server.address], &[("cluster", &with("health = { path = \"/\", every = \"100ms\" }"))]);
    assert!((0..3).all(|_| server.saw() == "[32, 0, 0, 0]"));
    let lines = bed.lines();
    assert!(lines.is_empty(), "a probe failed: {lines:#?}");
}

/// A server that answers its probes with what `well` says, and tells who else asked.
fn probed(place: &'static str, well: &Arc<AtomicUsize>) -> impl Fn(&mut Peer) + Clone + Send + 'static {
    let well = Arc::clone(well);
    move |peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("GET /up HTTP/1.1\r\nhost: ") && head.contains("user-agent: overdue-gate") {
                let status = well.load(Relaxed);
                peer.client.send(&format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n"));
                return;
            }
            peer.client.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{place}", place.len()));
        }
    }
}

fn events(lines: &str) -> Vec<Value> {
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["gate"]["event"].is_string()).collect()
}

#[test]
fn a_server_whose_probes_fail_is_asked_no_more_until_they_succeed() {
    let (one_says, other_says) = (Arc::new(AtomicUsize::new(200)), Arc::new(AtomicUsize::new(500)));
    let one = Server::new(probed("one", &one_says));
    let other = Server::new(probed("other", &other_says));
    let health = "health = { path = \"/up\", every = \"100ms\", healthy = 2, unhealthy = 3 }";
    let bed = Bed::new(&[one.address, other.address], &[("cluster", health)]);
    let log = bed.log();
    let told = |what: &str, count: usize| {
        let all = events(&fs::read_to_string(&log).unwrap());
        all.iter().filter(|event| event["gate"]["event"] == what).count() >= count
    };
    let mut client = bed.connect();
    let mut asked = || String::from_utf8(client.call(GET).body).unwrap();
    until("the other is ill", || told("server-ill", 1));
    assert!((0..50).all(|_| asked() == "one"));
    other_says.store(204, Relaxed);
    until("the other is well", || told("server-well", 1));
    until("the other is asked", || asked() == "other");
    // All are ill: all are asked.
    one_says.store(503, Relaxed);
    other_says.store(404, Relaxed);
    until("both are ill", || told("server-ill", 3));
    until("one is asked", || asked() == "one");
    until("the other is asked", || asked() == "other");
    drop(client);
    let text = bed.lines();
    let ill: Vec<&str> = text.iter().filter_map(|line| line["gate"]["text"].as_str()).collect();
    assert!(ill[0].starts_with("a probe failed: ") && ill[0].ends_with("it answered 500"), "{ill:?}");
    assert!(ill[1].starts_with("2 probes succeeded; it was ill for "), "{ill:?}");
    assert!(ill[2].starts_with("3 probes failed"), "{ill:?}");
}

/// Why a probe failed is judged as a request is.
#[test]
fn the_cause_of_a_failed_probe_is_told() {
    let authority = Authority::new();
    let config = authority.server("other.test", |_| {}, false);
    let wrong = Server::new(move |peer| while request(&mut secure(peer, &config)).is_some() {});
    let silent = Server::silent();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = closed.local_addr().unwrap();
    drop(closed);
    let asks = "health = { path = \"/up\", every = \"100ms\", limit = \"200ms\" }".to_owned();
    let connects = "health = { every = \"100ms\" }".to_owned();
    for (server, table, stage, cause) in [
        (refusing, connects.clone(), "connect", "connect-refused"),
        (silent.address, asks, "wait", "server-slow"),
        (wrong.address, format!("{}\n{connects}", authority.table("name = \"back.test\"")), "tls", "tls-untrusted"),
    ] {
        let bed = Bed::new(&[server], &[("cluster", &table)]);
        let log = bed.log();
        until("it is told", || !events(&fs::read_to_string(&log).unwrap()).is_empty());
        let event = events(&fs::read_to_string(&log).unwrap()).remove(0);
        assert_eq!((&event["stage"], &event["cause"]), (&stage.into(), &cause.into()), "{event:#}");
        assert_eq!(event["gate"]["of"], server.to_string());
        if stage == "wait" {
            assert_eq!((&event["limit"]["name"], &event["limit"]["value_us"]), (&"total".into(), &200_000.into()));
        }
    }
}

/// A reload that changes nothing about it leaves what is known of a server, and one that does begins anew.
#[test]
fn what_is_known_of_health_outlives_a_reload() {
    let (well, ill) = (Arc::new(AtomicUsize::new(200)), Arc::new(AtomicUsize::new(500)));
    let (one, other) = (Server::new(probed("one", &well)), Server::new(probed("other", &ill)));
    let health = |more: &str| format!("health = {{ path = \"/up\", every = \"100ms\"{more} }}");
    let mut bed = Bed::new(&[one.address, other.address], &[("cluster", &health(""))]);
    let log = bed.log();
    until("the other is ill", || !events(&fs::read_to_string(&log).unwrap()).is_empty());
    let mut client = bed.connect();
    for _ in 0..20 {
        assert!(bed.follow(&[one.address, other.address], &[("cluster", &health("")), ("limits", "")]).is_empty());
        assert_eq!(client.call(GET).body, b"one");
    }
    // Now it is well by what is asked of it.
    let lenient = health(", status = [\"200-599\"]");
    assert!(bed.follow(&[one.address, other.address], &[("cluster", &lenient)]).is_empty());
    until("the other is asked", || client.call(GET).body == b"other");
}
