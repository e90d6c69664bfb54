//! TLS towards servers: what the file says of it, read and made ready.

use std::{fmt, fs::File, io::Read as _, path::Path};

use overdue::{
    TlsOptions,
    tls::{Tls, TlsOptionsError},
};

/// A file that is longer holds no certificates that anybody would send.
const FILE_MAX: u64 = 4 << 20;

/// How TLS is spoken with the servers of a cluster. Its files are read with the configuration, and again with each reload.
#[derive(Clone)]
pub struct ServerTls {
    said: Said,
    tls: Tls,
}

/// What decides who is believed, and as whom the gateway comes. Connections that were made under another are not used.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Said {
    /// Asked for, and expected in the certificate; default: the host of the server's entry.
    pub(super) name: Option<String>,
    /// Authorities; default: the platform's.
    pub(super) ca: Option<Vec<u8>>,
    /// Chain and key.
    pub(super) certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) only_1_3: bool,
    /// HTTP/2 is what is asked for, and nothing else.
    pub(super) http2: bool,
}

impl ServerTls {
    pub(super) fn new(said: Said) -> Result<Self, TlsOptionsError> {
        let mut options = TlsOptions::default();
        if let Some(ca) = &said.ca {
            options = options.with_roots_pem(ca)?;
        }
        if let Some((chain, key)) = &said.certificate {
            options = options.with_client_certificate(chain, key)?;
        }
        if let Some(name) = &said.name {
            options = options.with_server_name(name)?;
        }
        if said.only_1_3 {
            options = options.with_only_1_3();
        }
        let tls = options.build(&[if said.http2 { b"h2" } else { b"http/1.1" }])?;
        Ok(Self { said, tls })
    }

    /// For handshakes; keeps the sessions that can be resumed.
    pub(crate) const fn tls(&self) -> &Tls {
        &self.tls
    }
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.said == other.said
    }
}

impl Eq for ServerTls {}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("ServerTls").field("name", &self.said.name).finish_non_exhaustive()
    }
}

/// The whole of a file of certificates or keys.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |err| format!("{} cannot be read: {err}", path.display());
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("{} is longer than {FILE_MAX} bytes", path.display()));
    }
    Ok(bytes)
}
