//! TLS towards clients.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;

use crate::bed::{Bed, Client, GET, OK, PATIENCE, Server, field};

/// A certificate for `a.test` in files, and who trusts it.
pub(crate) fn certificate(folder: &Path) -> (String, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    fs::write(&chain, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let table = format!(
        "tls = {{ certificates = [{{ chain = {chain:?}, key = {key:?} }}], names = [\"a.test\"], limit = \"400ms\" }}"
    );
    (table, Arc::new(config))
}

fn secure(bed: &Bed, config: &Arc<ClientConfig>, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(bed.gate.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream)
}

#[test]
fn a_request_over_tls() {
    let server = Server::answering(OK);
    let folder = TempDir::new().unwrap();
    let (table, config) = certificate(folder.path());
    let bed = Bed::new(&[server.address], &[("listener", &table)]);
    let mut stream = secure(&bed, &config, "a.test");
    for _ in 0..2 {
        stream.write_all(GET.as_bytes()).unwrap();
        // With the id that the gateway gives it.
        let mut answer = [0; OK.len() + "x-request-id: \r\n".len() + 32];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", answer.escape_ascii());
    }
    assert_eq!(field(&server.saw(), "x-forwarded-proto"), Some("https"));
    stream.write_all(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut rest = Vec::new();
    // Ended as TLS is: nobody on the path could have cut it.
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"hello"), "{}", rest.escape_ascii());
    drop(stream);
    assert_eq!(bed.lines().len(), 3);
}

/// A connection that was only opened holds up the end for no longer than one that lies idle.
#[test]
fn the_end_does_not_wait_for_a_hello() {
    let server = Server::answering(OK);
    let folder = TempDir::new().unwrap();
    let (table, _) = certificate(folder.path());
    let table = table.replace("400ms", "60s");
    let bed = Bed::new(&[server.address], &[("listener", &table), ("drain", "50s")]);
    let _silent = Client::new(bed.gate.addresses()[0]);
    let (tell, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(bed.lines()));
    ended.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn who_does_not_fit_is_turned_away_and_told_apart() {
    let server = Server::answering(OK);
    let folder = TempDir::new().unwrap();
    let (table, config) = certificate(folder.path());
    let bed = Bed::new(&[server.address], &[("listener", &table)]);
    let mut plain = Client::new(bed.gate.addresses()[0]);
    plain.send(GET);
    assert_eq!(plain.rest().0, b"");
    let mut other = secure(&bed, &config, "b.test");
    let refused = other.write_all(GET.as_bytes()).unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    // Who says nothing is let go in time.
    let mut silent = Client::new(bed.gate.addresses()[0]);
    assert_eq!(silent.rest().0, b"");
    assert_eq!(server.connections(), 0);
    let lines = bed.lines();
    let reasons: Vec<(&str, &str)> =
        lines.iter().map(|line| (line["stage"].as_str().unwrap(), line["gate"]["refused"].as_str().unwrap())).collect();
    assert_eq!(reasons.len(), 3, "{lines:#?}");
    assert!(reasons.iter().all(|(stage, _)| *stage == "tls"), "{reasons:?}");
    assert!(reasons[0].1.contains("not TLS") && reasons[1].1.contains("b.test"), "{reasons:?}");
    assert_eq!(lines[2]["gate"]["termination"], "cR", "{:#}", lines[2]);
    assert!(reasons[2].1.starts_with("the client's hello had no end within "), "{reasons:?}");
}
