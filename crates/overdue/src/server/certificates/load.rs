//! Reads one pair, and sees whether it can be used.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use overdue_core::DurationText;
use ring::digest::{Context, SHA256};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, KeyUsage};

use super::{CertificateError, CertificateFiles, CertificateWarning, WhyUnusable};
use crate::server::names::Names;

/// A chain of many certificates has some 20 KiB.
const FILE_MAX: u64 = 1 << 20;

pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<String>,
    pub(super) warnings: Vec<CertificateWarning>,
    /// Of all that was read.
    pub(super) digest: [u8; 32],
}

pub(super) fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Loaded, CertificateError> {
    match load_once(files, provider) {
        // They may have been swapped between the one and the other.
        Err(CertificateError { why: WhyUnusable::Key(rustls::Error::InconsistentKeys(_)), .. }) => {
            load_once(files, provider)
        }
        loaded => loaded,
    }
}

fn load_once(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Loaded, CertificateError> {
    let CertificateFiles { chain, key, staple, names } = files;
    let in_chain = |why| CertificateError { file: chain.clone(), why };
    let in_key = |why| CertificateError { file: key.clone(), why };
    let chain_pem = read(chain).map_err(in_chain)?;
    let key_pem = read(key).map_err(in_key)?;
    let staple_der = staple.as_deref().map(read_staple).transpose()?.flatten();
    let mut digest = Context::new(&SHA256);
    for part in [&chain_pem, &key_pem, staple_der.as_ref().unwrap_or(&Vec::new())] {
        digest.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }

    let certificates = CertificateDer::pem_slice_iter(&chain_pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|err| in_chain(WhyUnusable::Pem(err)))?;
    let mut warnings = Vec::new();
    let own_names = check_chain(chain, &certificates, provider, &mut warnings)?;
    let names = names.clone().unwrap_or(own_names);
    let mut known = Names::default();
    for name in &names {
        known.insert(name, ()).map_err(|err| in_chain(WhyUnusable::Name(err)))?;
    }
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|err| {
        in_key(match err {
            pem::Error::NoItemsFound => WhyUnusable::NoKey,
            other => WhyUnusable::Pem(other),
        })
    })?;
    let mut certified =
        CertifiedKey::from_der(certificates, private, provider).map_err(|err| in_key(WhyUnusable::Key(err)))?;
    certified.ocsp = staple_der;
    let mut sum = [0; 32];
    for (slot, byte) in sum.iter_mut().zip(digest.finish().as_ref()) {
        *slot = *byte;
    }
    Ok(Loaded { key: Arc::new(certified), names, warnings, digest: sum })
}

/// The names of the first certificate.
fn check_chain(
    file: &Path,
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
    warnings: &mut Vec<CertificateWarning>,
) -> Result<Vec<String>, CertificateError> {
    let fails = |why| CertificateError { file: file.to_owned(), why };
    let mut names = Vec::new();
    let mut issuer: Option<Vec<u8>> = None;
    for (number, der) in (1..).zip(chain) {
        let mut warn = |text| warnings.push(CertificateWarning { file: file.to_owned(), text });
        let certificate = EndEntityCert::try_from(der)
            .map_err(|err| fails(WhyUnusable::Certificate { number, why: err.to_string() }))?;
        if let Some(text) = expiry(&certificate, provider) {
            warn(format!("certificate {number} of it {text}"));
        }
        if issuer.as_deref().is_some_and(|issuer| issuer != certificate.subject()) {
            warn(format!("certificate {number} of it did not sign the one before: clients may not trust the chain"));
        }
        issuer = Some(certificate.issuer().to_vec());
        if number == 1 {
            // One that no handshake can ask for is of no use as a name, and does no harm.
            names.extend(certificate.valid_dns_names().map(|name| name.trim_end_matches('.').to_ascii_lowercase()));
        }
    }
    if chain.is_empty() { Err(fails(WhyUnusable::NoCertificate)) } else { Ok(names) }
}

/// What is wrong with its dates. They are what is looked at first when a path to a root is searched; here there is no
/// root, and every other answer means that they are good.
fn expiry(certificate: &EndEntityCert<'_>, provider: &CryptoProvider) -> Option<String> {
    let algorithms = provider.signature_verification_algorithms.all;
    let usage = KeyUsage::server_auth();
    match certificate.verify_for_usage(algorithms, &[], &[], UnixTime::now(), usage, None, None).err()? {
        webpki::Error::CertExpired { time, not_after } => {
            Some(format!("expired {} ago", DurationText(between(not_after, time))))
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            Some(format!("is valid only in {}", DurationText(between(time, not_before))))
        }
        _ => None,
    }
}

fn between(earlier: UnixTime, later: UnixTime) -> std::time::Duration {
    std::time::Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()))
}

/// None where there is no file: it is fetched later, or not at all.
fn read_staple(file: &Path) -> Result<Option<Vec<u8>>, CertificateError> {
    let fails = |why| CertificateError { file: PathBuf::from(file), why };
    match read(file) {
        Ok(der) if is_der_sequence(&der) => Ok(Some(der)),
        Ok(_) => Err(fails(WhyUnusable::Staple)),
        Err(WhyUnusable::Read(err)) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(fails(why)),
    }
}

/// One sequence, and nothing behind it: what is inside is for clients to judge.
fn is_der_sequence(der: &[u8]) -> bool {
    let (length, rest) = match der {
        [0x30, length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x30, 0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
        [0x30, 0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return false,
    };
    rest.len() == length
}

fn read(file: &Path) -> Result<Vec<u8>, WhyUnusable> {
    let mut content = Vec::new();
    let file = File::open(file).map_err(WhyUnusable::Read)?;
    file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(WhyUnusable::Read)?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= FILE_MAX) {
        Ok(content)
    } else {
        Err(WhyUnusable::TooLarge)
    }
}
