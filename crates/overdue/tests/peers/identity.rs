//! Certificates made for one test.

use std::net::Ipv4Addr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// An authority, a server good for 127.0.0.1 and localhost, and a client, as PEM.
pub(crate) struct Identity {
    pub(crate) authority_pem: String,
    pub(crate) server_pem: String,
    pub(crate) server_key_pem: String,
    pub(crate) client_pem: String,
    pub(crate) client_key_pem: String,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Overdue peers");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();

        let signed = |names: Vec<String>, common_name: &str, usage| {
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
        };
        let names = vec!["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let (server_pem, server_key_pem) = signed(names, "a server", ExtendedKeyUsagePurpose::ServerAuth);
        let (client_pem, client_key_pem) = signed(Vec::new(), "a client", ExtendedKeyUsagePurpose::ClientAuth);
        Self { authority_pem: authority.pem(), server_pem, server_key_pem, client_pem, client_key_pem }
    }
}
