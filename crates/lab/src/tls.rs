//! Certificates made for one run, and the server's half of a TLS handshake.
//!
//! The caller is told to trust one authority ([`Fault::roots_pem`](crate::Fault::roots_pem)). What the server shows is
//! signed by it and good for [`SERVER_NAME`] and the server's address, but for the one thing the scenario asks for.

use std::{io, net::Ipv4Addr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    scenario::{Certificate, Tls},
    wire::{Ended, Inbox, Wire},
};

/// The name that every certificate but a wrong one is good for, beside 127.0.0.1.
const SERVER_NAME: &str = "lab.test";

/// How many more names a large certificate has. With these the first flight is four full segments and some 500 bytes;
/// a test holds it there.
const NAMES_OF_LARGE: usize = 242;

/// Why there is no certificate for the server.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take the certificate or the settings.
    #[error("rustls does not take the server's settings: {0}")]
    Config(#[from] rustls::Error),
}

/// Who a server is, and who vouches for it.
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    /// The authority that the caller is told to trust.
    pub(crate) roots_pem: String,
    /// Whether a caller that trusts the authority accepts the certificate.
    trusted: bool,
}

impl Identity {
    pub(crate) fn new(tls: &Tls) -> Result<Self, TlsError> {
        let trusted_authority = authority("Overdue lab")?;
        let other_authority = authority("Overdue lab, the authority nobody trusts")?;
        let signer =
            if tls.certificate == Certificate::UntrustedIssuer { &other_authority } else { &trusted_authority };

        let key = KeyPair::generate()?;
        let certificate = server_certificate(tls.certificate)?.signed_by(&key, signer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));

        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            roots_pem: trusted_authority.pem(),
            trusted: matches!(tls.certificate, Certificate::Good | Certificate::Large),
        })
    }
}

/// A certificate that nobody trusts and its key, in PEM, for a server that is no part of this process.
pub(crate) fn server_identity() -> Result<(String, String), TlsError> {
    let authority = authority("Overdue lab, the authority nobody trusts")?;
    let key = KeyPair::generate()?;
    let certificate = server_certificate(Certificate::Good)?.signed_by(&key, &authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn server_certificate(kind: Certificate) -> Result<CertificateParams, rcgen::Error> {
    let mut names = match kind {
        Certificate::WrongName => vec!["other.test".to_owned()],
        _ => vec![SERVER_NAME.to_owned(), Ipv4Addr::LOCALHOST.to_string()],
    };
    if kind == Certificate::Large {
        names.extend((0..NAMES_OF_LARGE).map(|n| format!("customer-{n:03}.{SERVER_NAME}")));
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    if kind == Certificate::Expired {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    Ok(params)
}

/// Takes the handshake, as a server that has nothing to hide.
pub(crate) async fn accept(wire: Wire, inbox: &Inbox, identity: Option<&Identity>) -> Result<Wire, Ended> {
    let Some(identity) = identity else {
        return Err(Ended::Broken("a handshake without a certificate".to_owned()));
    };
    let Wire::Plain(tcp) = wire else {
        return Err(Ended::Broken("a handshake inside TLS".to_owned()));
    };
    if !inbox.is_empty() {
        return Err(Ended::Broken("an earlier step has read a part of the handshake".to_owned()));
    }
    match TlsAcceptor::from(identity.config.clone()).accept(tcp).into_fallible().await {
        Ok(tls) => Ok(Wire::Tls(Box::new(tls))),
        Err((error, tcp)) => Err(match refusal(error, identity) {
            Ended::Broken(what) => Ended::NoHandshake(what, tcp),
            other => other,
        }),
    }
}

/// A caller that does not trust a bad certificate says so with an alert: that is its leave, not our trouble.
fn refusal(error: io::Error, identity: &Identity) -> Ended {
    let alert = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::AlertReceived(_)));
    if alert && !identity.trusted { Ended::CallerLeft } else { error.into() }
}

/// How long the TLS record at the front is, if its header is there.
pub(crate) fn record_length(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = *bytes.first_chunk::<5>()?;
    Some(5 + usize::from(u16::from_be_bytes([high, low])))
}

/// What a server answers to a ClientHello, up to its Finished where the version allows it.
pub(crate) fn first_flight(mut hello: &[u8], identity: Option<&Identity>) -> Result<Vec<u8>, Ended> {
    let broken = |error: rustls::Error| Ended::Broken(format!("no answer to the ClientHello: {error}"));
    let Some(identity) = identity else {
        return Err(Ended::Broken("a handshake without a certificate".to_owned()));
    };
    let mut server = ServerConnection::new(identity.config.clone()).map_err(broken)?;
    while !hello.is_empty() {
        server.read_tls(&mut hello)?;
        server.process_new_packets().map_err(broken)?;
    }
    let mut flight = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut flight)?;
    }
    Ok(flight)
}
