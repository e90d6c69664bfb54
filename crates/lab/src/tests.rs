//! The servers do on the wire what their scenarios say, seen by plain sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{Fault, FaultError, find, scenarios};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a server that had anything to say.
const SILENCE: Duration = Duration::from_millis(300);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: lab\r\n\r\n";

fn start(name: &str) -> Fault {
    Fault::start(find(name).unwrap()).unwrap()
}

fn connect(fault: &Fault) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&fault.addr(), PATIENCE).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// Sends a request and reads to the end of the stream.
fn exchange(name: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let fault = start(name);
    let mut tcp = connect(&fault);
    tcp.write_all(REQUEST).unwrap();
    let mut response = Vec::new();
    let end = tcp.read_to_end(&mut response).err().map(|error| error.kind());
    assert_eq!(fault.trouble(), []);
    (response, end)
}

fn tls(fault: &Fault, alpn: &[u8]) -> Result<StreamOwned<ClientConnection, TcpStream>, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(fault.roots_pem().unwrap().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::from(fault.addr().ip());
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(fault));
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

#[test]
fn every_scenario_starts_and_stops() {
    for scenario in scenarios() {
        match Fault::start(scenario) {
            Ok(fault) => {
                assert!(fault.url().ends_with(&scenario.call.path), "{}", fault.url());
                assert_eq!(fault.dns().is_some(), scenario.dns.is_some());
                assert_eq!(fault.roots_pem().is_some(), scenario.tls().is_some());
                assert_eq!(fault.trouble(), []);
            }
            Err(FaultError::NeedsNamespace { .. }) => assert!(scenario.needs.namespace),
            Err(error) => panic!("{}: {error}", scenario.name),
        }
    }
}

#[test]
fn a_dropped_fault_leaves_nothing() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter(|task| {
                let name = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm"));
                name.is_ok_and(|name| name.trim() == "lab early-close-")
            })
            .count()
    };
    // Other tests of this process open descriptors of their own: a leak of one a round would still stand out.
    let before = descriptors();
    for _ in 0..100 {
        let fault = start("early-close-head");
        drop(connect(&fault));
    }
    assert!(descriptors() < before + 100, "{} descriptors, then {}", before, descriptors());
    assert_eq!(threads(), 0);

    let fault = start("no-head");
    let addr = fault.addr();
    let mut held = connect(&fault);
    held.write_all(REQUEST).unwrap();
    drop(fault);
    assert_eq!(held.read(&mut [0; 1]).unwrap_or(0), 0, "the connection has ended");
    assert_eq!(TcpStream::connect_timeout(&addr, PATIENCE).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_good_server_answers_again_and_again() {
    let fault = start("ok-http");
    let mut tcp = connect(&fault);
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\nhello from the lab\n";
    for _ in 0..3 {
        tcp.write_all(REQUEST).unwrap();
        let mut response = [0; RESPONSE.len()];
        tcp.read_exact(&mut response).unwrap();
        assert_eq!(response, RESPONSE);
    }
    assert_eq!(fault.accepted(), 1);
}

#[test]
fn silence_is_silence() {
    for name in ["no-head", "tls-silent", "half-head", "body-stall"] {
        let fault = start(name);
        let mut tcp = connect(&fault);
        tcp.write_all(REQUEST).unwrap();
        tcp.set_read_timeout(Some(SILENCE)).unwrap();
        let mut response = Vec::new();
        let error = tcp.read_to_end(&mut response).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{name}");
        match name {
            "half-head" => assert!(response.ends_with(b"content-type: text/pl")),
            "body-stall" => assert_eq!(response.len(), "HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n".len() + 4000),
            _ => assert_eq!(response, b""),
        }
        assert_eq!(fault.trouble(), []);
    }
}

#[test]
fn close_is_fin_and_reset_is_rst() {
    assert_eq!(exchange("early-close-head"), (vec![], None));
    assert_eq!(exchange("reset-head"), (vec![], Some(ErrorKind::ConnectionReset)));

    let (response, end) = exchange("early-close-length");
    assert!(response.ends_with(b"\r\n\r\n".iter().chain(&[b'x'; 100]).copied().collect::<Vec<_>>().as_slice()));
    assert_eq!(end, None);

    let (response, end) = exchange("reset-body");
    assert!(response.ends_with(&[b'x'; 100]));
    assert_eq!(end, Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_trickle_is_slow() {
    let fault = start("body-trickle");
    let mut tcp = connect(&fault);
    tcp.write_all(REQUEST).unwrap();
    let mut head = [0; "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".len()];
    tcp.read_exact(&mut head).unwrap();
    let mut chunk = [0; 100];
    assert_eq!(tcp.read(&mut chunk).unwrap(), 10);
    assert_eq!(tcp.read(&mut chunk).unwrap(), 10);
}

#[test]
fn a_port_that_nobody_listens_on_refuses() {
    let fault = start("refused");
    let error = TcpStream::connect_timeout(&fault.addr(), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_full_queue_leaves_connect_in_progress() {
    let fault = start("backlog-full");
    let error = TcpStream::connect_timeout(&fault.addr(), Duration::from_millis(1300)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "also the SYN after 1 s is dropped");
}

#[test]
fn a_drained_queue_takes_the_second_syn() {
    let fault = start("connect-slow");
    let error = TcpStream::connect_timeout(&fault.addr(), SILENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let mut tcp = connect(&fault);
    tcp.set_read_timeout(Some(SILENCE)).unwrap();
    assert_eq!(tcp.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn an_upload_that_is_not_read_fills_the_window() {
    let fault = start("upload-not-read");
    let mut tcp = connect(&fault);
    tcp.set_nonblocking(true).unwrap();
    tcp.write_all(REQUEST).unwrap();
    let mut sent = 0;
    let error = loop {
        match tcp.write(&[0; 65536]) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(sent < find("upload-not-read").unwrap().call.body_bytes / 2, "{sent} bytes fitted the buffers");
}

#[test]
fn certificates_are_bad_in_one_way_only() {
    for (name, complaint) in [
        ("ok-https", None),
        ("tls-expired", Some("Expired")),
        ("tls-wrong-name", Some("not valid for name")),
        ("tls-untrusted-issuer", Some("UnknownIssuer")),
    ] {
        let fault = start(name);
        let result = tls(&fault, b"http/1.1").map(drop).map_err(|error| error.to_string());
        match complaint {
            None => assert_eq!(result, Ok(())),
            Some(complaint) => {
                let error = result.unwrap_err();
                assert!(error.to_lowercase().contains(&complaint.to_lowercase()), "{name}: {error}");
            }
        }
        assert_eq!(fault.trouble(), [], "{name}");
    }
}

#[test]
fn a_caller_that_distrusts_a_good_certificate_is_trouble() {
    let fault = start("ok-https");
    let other = start("ok-https");
    // The roots of another run: this server's certificate is good, and the caller refuses it.
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(other.roots_pem().unwrap().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(fault.addr().ip());
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = connect(&fault);
    client.complete_io(&mut tcp).unwrap_err();
    // The server closes when it has noted it.
    drop(tcp.read_to_end(&mut Vec::new()));
    let trouble = fault.trouble();
    assert_eq!(trouble.len(), 1);
    assert!(trouble[0].to_string().starts_with("connection 1, step `tls`: "), "{}", trouble[0]);
}

#[test]
fn tls_is_broken_as_told() {
    for (name, complaint) in [
        ("tls-alert", "HandshakeFailure"),
        ("tls-not-tls", "InvalidContentType"),
        ("tls-closed", "end of file"),
        ("tls-reset", "reset"),
    ] {
        let fault = start(name);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::from(fault.addr().ip())).unwrap();
        let error = client.complete_io(&mut connect(&fault)).unwrap_err().to_string();
        assert!(error.to_lowercase().contains(&complaint.to_lowercase()), "{name}: {error}");
    }
}

#[test]
fn http2_is_chosen_by_alpn() {
    let fault = start("ok-h2");
    let stream = tls(&fault, b"h2").unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(b"h2".as_slice()));
}

mod dns {
    use super::*;

    fn ask(dns: SocketAddr, record: RecordType) -> Result<Message, ErrorKind> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("lab.test.").unwrap(), record));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(SILENCE)).unwrap();
        udp.send_to(&query.to_vec().unwrap(), dns).unwrap();
        let mut reply = [0; 1024];
        let length = udp.recv(&mut reply).map_err(|error| error.kind())?;
        let reply = Message::from_vec(&reply[..length]).unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert_eq!(reply.queries, query.queries);
        Ok(reply)
    }

    #[test]
    fn servers_say_what_they_are_told_to() {
        let reply = |name, record| ask(start(name).dns().unwrap(), record);
        let answer = reply("ok-dns", RecordType::A).unwrap();
        assert_eq!(answer.answers[0].data, RData::A("127.0.0.1".parse().unwrap()));
        assert_eq!(reply("ok-dns", RecordType::AAAA).unwrap().answers, []);
        assert_eq!(reply("dns-silent", RecordType::A), Err(ErrorKind::WouldBlock));
        assert_eq!(reply("dns-slow", RecordType::A), Err(ErrorKind::WouldBlock));
        assert_eq!(reply("dns-empty", RecordType::A).unwrap().metadata.response_code, ResponseCode::NoError);
        for (name, code) in [
            ("dns-nxdomain", ResponseCode::NXDomain),
            ("dns-servfail", ResponseCode::ServFail),
            ("dns-refused", ResponseCode::Refused),
        ] {
            assert_eq!(reply(name, RecordType::A).unwrap().metadata.response_code, code);
        }
    }

    #[test]
    fn a_slow_server_does_answer() {
        let fault = start("dns-slow");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("lab.test.").unwrap(), RecordType::A));
        udp.send_to(&query.to_vec().unwrap(), fault.dns().unwrap()).unwrap();
        let mut reply = [0; 1024];
        let length = udp.recv(&mut reply).unwrap();
        assert_eq!(Message::from_vec(&reply[..length]).unwrap().answers.len(), 1);
    }

    #[test]
    fn a_truncated_answer_sends_the_caller_to_tcp() {
        let refused = start("dns-truncated");
        let dns = refused.dns().unwrap();
        assert!(ask(dns, RecordType::A).unwrap().metadata.truncation);
        assert_eq!(TcpStream::connect_timeout(&dns, PATIENCE).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        let silent = start("dns-truncated-silent");
        let dns = silent.dns().unwrap();
        assert!(ask(dns, RecordType::A).unwrap().metadata.truncation);
        let mut tcp = TcpStream::connect_timeout(&dns, PATIENCE).unwrap();
        tcp.set_read_timeout(Some(SILENCE)).unwrap();
        assert_eq!(tcp.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

mod http2 {
    use bytes::Bytes;
    use http::Request;
    use tokio::time::timeout;

    use super::*;

    async fn client(fault: &Fault) -> h2::client::SendRequest<Bytes> {
        let tcp = tokio::net::TcpStream::connect(fault.addr()).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client.ready().await.unwrap()
    }

    fn request() -> Request<()> {
        Request::post("http://lab/").body(()).unwrap()
    }

    #[tokio::test]
    async fn a_window_that_is_never_opened_stops_the_body() {
        let fault = start("h2-no-window");
        let (response, mut body) = client(&fault).await.send_request(request(), false).unwrap();
        body.reserve_capacity(1 << 20);
        let mut sent = 0;
        while let Ok(capacity) = timeout(SILENCE, std::future::poll_fn(|cx| body.poll_capacity(cx))).await {
            let capacity = capacity.unwrap().unwrap();
            body.send_data(Bytes::from(vec![0; capacity]), false).unwrap();
            sent += capacity;
        }
        assert_eq!(sent, 65_535);
        assert!(timeout(SILENCE, response).await.is_err());
        assert_eq!(fault.trouble(), []);
    }

    #[tokio::test]
    async fn the_only_stream_is_held_after_a_good_request() {
        let fault = start("h2-streams");
        let mut client = client(&fault).await;
        let (response, _) = client.send_request(request(), true).unwrap();
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
        assert!(timeout(SILENCE, fault.armed()).await.is_err());

        client = timeout(PATIENCE, client.ready()).await.unwrap().unwrap();
        let (_held, _) = client.send_request(request(), true).unwrap();
        assert!(timeout(PATIENCE, fault.armed()).await.unwrap());
        // The client queues one request, and is not ready for another.
        let (_queued, _) = client.send_request(request(), true).unwrap();
        assert!(timeout(SILENCE, client.ready()).await.is_err());
    }

    #[tokio::test]
    async fn an_armed_fault_is_so_at_once_and_a_dead_one_never() {
        let fault = start("no-head");
        assert!(timeout(PATIENCE, fault.armed()).await.unwrap());
    }

    #[tokio::test]
    async fn goaway_and_garbage_end_the_connection() {
        for (name, complaint) in [
            ("h2-goaway", "unspecific protocol error detected"),
            ("h2-garbage", "unspecific protocol error detected"),
            ("h2-not-h2", "frame with invalid size"),
        ] {
            let fault = start(name);
            let (response, _) = client(&fault).await.send_request(request(), true).unwrap();
            let error = timeout(PATIENCE, response).await.unwrap().unwrap_err().to_string();
            assert!(error.contains(complaint), "{name}: {error}");
            assert_eq!(fault.trouble(), []);
        }
    }
}

mod flight {
    use crate::{
        scenario::{Certificate, Tls},
        tls::{Identity, first_flight},
    };

    use super::*;

    /// What a ClientHello without any answer looks like.
    fn hello() -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    #[test]
    fn a_slow_flight_is_long_and_a_large_one_ends_in_a_small_segment() {
        const MSS_BYTES: usize = 1448;
        let flight = |certificate| {
            let identity = Identity::new(&Tls { certificate, alpn: vec![] }).unwrap();
            first_flight(&hello(), Some(&identity)).unwrap().len()
        };
        // tls-slow sends 320 bytes of it in its second.
        assert!(flight(Certificate::Good) > 700);
        let large = flight(Certificate::Large);
        assert!(large > 3 * MSS_BYTES, "{large} bytes");
        assert!((300..1000).contains(&(large % MSS_BYTES)), "{large} bytes, the last segment {}", large % MSS_BYTES);
    }
}
