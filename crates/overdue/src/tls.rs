//! TLS on the client's side: rustls with platform or own roots, client certificates and resumption.
//!
//! The time that this machine spends verifying the peer's certificate is measured apart from the time spent waiting
//! for the peer.

use std::{cell::Cell, fmt, io, sync::Arc, time::Duration};

use overdue_core::{
    DurationText, TlsReport,
    facts::{Failure, Untrusted},
    micros,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use crate::wire::Wire;
use crate::{clock, socket::os_failure};

/// How to speak TLS. The default trusts what the platform trusts.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    roots: Roots,
    client_auth: Option<ClientAuth>,
    server_name: Option<ServerName<'static>>,
    only_1_3: bool,
}

#[derive(Clone, Debug, Default)]
enum Roots {
    #[default]
    Platform,
    Own(Arc<RootCertStore>),
    Anything,
}

struct ClientAuth {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for ClientAuth {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// What is wrong with TLS options.
#[derive(Debug, thiserror::Error)]
pub enum TlsOptionsError {
    /// The PEM text cannot be read.
    #[error("the PEM text cannot be read: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// There is no certificate in it.
    #[error("there is no certificate in the PEM text")]
    NoCertificate,
    /// A certificate, a key or their combination is of no use.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// Not a name that a certificate could carry.
    #[error("{0:?} is neither a host name nor an IP address")]
    ServerName(String),
}

impl TlsOptions {
    /// Trusts these certificates (PEM) instead of the platform's.
    ///
    /// # Errors
    /// When the text is no PEM, holds no certificate, or one that is no trust anchor.
    pub fn with_roots_pem(mut self, pem: &[u8]) -> Result<Self, TlsOptionsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?)?;
        }
        if roots.is_empty() {
            return Err(TlsOptionsError::NoCertificate);
        }
        self.roots = Roots::Own(Arc::new(roots));
        Ok(self)
    }

    /// Accepts any certificate. For trying things out: nothing protects the call then.
    #[must_use]
    pub fn dangerously_trust_anything(mut self) -> Self {
        self.roots = Roots::Anything;
        self
    }

    /// Shows a client certificate (chain and key as PEM).
    ///
    /// # Errors
    /// When a text is no PEM or holds no certificate. Whether key and certificate fit shows when the client is built.
    pub fn with_client_certificate(mut self, chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsOptionsError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem).collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() {
            return Err(TlsOptionsError::NoCertificate);
        }
        self.client_auth = Some(ClientAuth { chain, key: PrivateKeyDer::from_pem_slice(key_pem)? });
        Ok(self)
    }

    /// Asks for this name (SNI) and expects it in the certificate, whatever the URL's host is.
    ///
    /// # Errors
    /// When it is no name that a certificate could carry.
    pub fn with_server_name(mut self, name: &str) -> Result<Self, TlsOptionsError> {
        let parsed = ServerName::try_from(name.to_owned());
        self.server_name = Some(parsed.map_err(|_| TlsOptionsError::ServerName(name.to_owned()))?);
        Ok(self)
    }

    /// Speaks TLS 1.3 and nothing older. Without it, 1.2 is spoken with who knows no better.
    #[must_use]
    pub const fn with_only_1_3(mut self) -> Self {
        self.only_1_3 = true;
        self
    }

    /// Makes them ready for handshakes that offer these protocols (ALPN).
    ///
    /// # Errors
    /// When a key and its certificate do not fit, or a certificate is none that could be trusted.
    pub fn build(&self, alpn: &[&[u8]]) -> Result<Tls, TlsOptionsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &self.roots {
            Roots::Platform => match rustls_platform_verifier::Verifier::new(Arc::clone(&provider)) {
                Ok(verifier) => Arc::new(verifier),
                // A machine without certificates can still call what has none.
                Err(err) => {
                    let refuse = Some(format!("the platform's trusted certificates cannot be read: {err}"));
                    Arc::new(KeyOnly { provider: Arc::clone(&provider), refuse })
                }
            },
            Roots::Own(roots) => {
                rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|err| rustls::Error::General(err.to_string()))?
            }
            Roots::Anything => Arc::new(KeyOnly { provider: Arc::clone(&provider), refuse: None }),
        };
        let versions = if self.only_1_3 { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Timed(verifier)));
        let mut config = match &self.client_auth {
            Some(auth) => builder.with_client_auth_cert(auth.chain.clone(), auth.key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let verifies = !matches!(self.roots, Roots::Anything);
        Ok(Tls { connector: Arc::new(config).into(), verifies, server_name: self.server_name.clone() })
    }
}

/// Options made ready for handshakes; keeps the sessions that can be resumed.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    verifies: bool,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Handshakes over `wire`, which has no limit here, and expects the certificate to be for `host`, unless the options
    /// have a name. Gives what is told of it beside the connection.
    ///
    /// # Errors
    /// What the judge makes its verdict from, and the error itself. A clone of `wire` tells what was read by then, and what
    /// the kernel says of the socket.
    ///
    /// # Cancellation safety
    /// A handshake that is dropped cannot be gone on with: what it read is lost.
    pub async fn handshake(
        &self,
        wire: Wire,
        host: &str,
    ) -> Result<(TlsStream<Wire>, TlsReport), (Failure, Option<io::Error>)> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                ServerName::try_from(bare).map_err(|_| {
                    let text = format!("{host:?} is no name that a certificate could carry");
                    (Failure::TlsUntrusted { reason: Untrusted::WrongName, text }, None)
                })?
            }
        };
        let mut handshake = std::pin::pin!(self.connector.connect(name, wire.clone()));
        let mut verifying = Duration::ZERO;
        let stream = std::future::poll_fn(|cx| {
            VERIFYING.set(Duration::ZERO);
            let poll = handshake.as_mut().poll(cx);
            verifying += VERIFYING.replace(Duration::ZERO);
            poll
        })
        .await
        .map_err(|err| failure(err, &wire))?;
        let (_, connection) = stream.get_ref();
        let report = TlsReport {
            version: connection
                .protocol_version()
                .and_then(|version| version.as_str())
                .map(|name| name.replace('_', ".")),
            cipher: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).map(str::to_owned),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            verified: self.verifies,
            verify_us: micros(verifying),
        };
        Ok((stream, report))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// What an error means that reading or writing gave after the handshake. A peer that refuses a client certificate says
/// so only here, with TLS 1.3.
pub fn io_failure(operation: &'static str, err: io::Error) -> (Failure, Option<io::Error>) {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => (Failure::TlsAlert(alert_name(*alert)), Some(err)),
        Some(other) => (Failure::TlsBroken(other.to_string()), Some(err)),
        // A peer that closes without saying so (close_notify) has closed.
        None if err.kind() == io::ErrorKind::UnexpectedEof => (Failure::Closed, Some(err)),
        None => os_failure(operation, err),
    }
}

/// What a failed handshake means.
fn failure(err: io::Error, wire: &Wire) -> (Failure, Option<io::Error>) {
    let Some(tls) = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        if err.kind() == io::ErrorKind::UnexpectedEof {
            return (Failure::Closed, Some(err));
        }
        return os_failure("read", err);
    };
    // A TLS record starts with its type: 20 to 23 are all there is.
    let speaks_tls = wire.first_bytes().first().is_none_or(|byte| (20..=23).contains(byte));
    let failure = match tls {
        rustls::Error::AlertReceived(alert) => Failure::TlsAlert(alert_name(*alert)),
        rustls::Error::InvalidCertificate(why) => {
            let (reason, text) = untrusted(why);
            Failure::TlsUntrusted { reason, text }
        }
        rustls::Error::InvalidMessage(_)
        | rustls::Error::PeerMisbehaved(_)
        | rustls::Error::InappropriateMessage { .. }
            if !speaks_tls =>
        {
            Failure::TlsNotTls(printable(wire.first_bytes()))
        }
        rustls::Error::NoApplicationProtocol => Failure::TlsBroken("no common application protocol (ALPN)".to_owned()),
        other => Failure::TlsBroken(other.to_string()),
    };
    (failure, Some(err))
}

fn alert_name(alert: rustls::AlertDescription) -> String {
    let code = u8::from(alert);
    alert.as_str().map_or_else(|| format!("number {code}"), |name| format!("{name} ({code})"))
}

fn untrusted(why: &CertificateError) -> (Untrusted, String) {
    use CertificateError as Why;
    let ago = |later: UnixTime, earlier: UnixTime| match later.as_secs().saturating_sub(earlier.as_secs()) {
        secs @ 172_800.. => format!("{} days", secs / 86_400),
        secs => DurationText(Duration::from_secs(secs)).to_string(),
    };
    match why {
        Why::ExpiredContext { time, not_after } => {
            (Untrusted::Expired, format!("it expired {} ago", ago(*time, *not_after)))
        }
        Why::Expired => (Untrusted::Expired, "it has expired".to_owned()),
        Why::NotValidYetContext { time, not_before } => (
            Untrusted::NotYetValid,
            format!("it is valid only in {} from now, by the clock of this machine", ago(*not_before, *time)),
        ),
        Why::NotValidYet => (Untrusted::NotYetValid, "it is not valid yet, by the clock of this machine".to_owned()),
        Why::NotValidForNameContext { expected, presented } => {
            // Each is written as `DnsName("other.test")`.
            let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
            let names: Vec<_> = presented.iter().take(8).map(bare).collect();
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            (Untrusted::WrongName, format!("it is for {names}, not for {}", expected.to_str()))
        }
        Why::NotValidForName => (Untrusted::WrongName, "it is for another name".to_owned()),
        Why::UnknownIssuer => (Untrusted::UnknownIssuer, "nobody who is trusted here has signed it".to_owned()),
        Why::Revoked => (Untrusted::Revoked, "its issuer has revoked it".to_owned()),
        // webpki's own error, of which only the text can be had here.
        Why::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            (Untrusted::Authority, "it is the certificate of an authority, used as that of a server".to_owned())
        }
        other => (Untrusted::Other, other.to_string()),
    }
}

/// The beginning of what the peer said, safe to print.
pub(crate) fn printable(bytes: &[u8]) -> String {
    bytes.iter().take(24).map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' }).collect()
}

thread_local! {
    /// Time spent verifying during the poll that runs on this thread.
    static VERIFYING: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Measures another verifier.
#[derive(Debug)]
struct Timed(Arc<dyn ServerCertVerifier>);

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let started = clock::now();
    let result = work();
    VERIFYING.set(VERIFYING.get() + clock::now().saturating_duration_since(started));
    result
}

impl ServerCertVerifier for Timed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        timed(|| self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        timed(|| self.0.verify_tls12_signature(message, cert, dss))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        timed(|| self.0.verify_tls13_signature(message, cert, dss))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Checks that the peer holds its key, and no certificate: accepts all of them, or none for a reason.
#[derive(Debug)]
struct KeyOnly {
    provider: Arc<CryptoProvider>,
    refuse: Option<String>,
}

impl ServerCertVerifier for KeyOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.refuse {
            None => Ok(ServerCertVerified::assertion()),
            Some(why) => Err(rustls::Error::General(why.clone())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
