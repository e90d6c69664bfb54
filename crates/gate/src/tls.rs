//! TLS towards clients: certificates that follow their files, and a look at the ClientHello before any work for it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use overdue::server::{
    certificates::{Certificates, Reload},
    hello::{HelloGate, HelloPolicy, Rate},
};
use rustls::{ServerConfig, crypto::ring};

use crate::config::{Config, ConfigError, Tls};

/// HTTP/2 and HTTP/1.1, as ALPN names them.
pub(crate) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What a listener with TLS needs. A clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) gate: HelloGate,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) certificates: Certificates,
}

/// Those of all listeners.
pub(crate) type Doors = BTreeMap<SocketAddr, Door>;

/// Reads the certificates of all listeners.
///
/// # Errors
/// What cannot be used, with the line that names it.
pub(crate) fn doors(config: &Config, mut warn: impl FnMut(String)) -> Result<Doors, ConfigError> {
    let mut doors = Doors::new();
    for listener in &config.listeners {
        if let Some(tls) = &listener.tls {
            let door = Door::open(tls, listener.http2, &mut warn).map_err(|(line, why)| ConfigError {
                path: config.path.to_string(),
                line,
                message: format!("listener {}: {why}", listener.address),
            })?;
            doors.insert(listener.address, door);
        }
    }
    Ok(doors)
}

impl Door {
    /// # Errors
    /// Words for what cannot be used, and the line that names it, or 0.
    fn open(tls: &Tls, http2: bool, warn: &mut impl FnMut(String)) -> Result<Self, (u32, String)> {
        let protocols: &[&[u8]] = if http2 { &[H2, HTTP_1_1] } else { &[HTTP_1_1] };
        let provider = Arc::new(ring::default_provider());
        let (certificates, warnings) =
            Certificates::load(tls.certificates.iter().cloned(), &provider).map_err(|err| {
                let line = tls.named.iter().find(|(file, _)| file == err.file()).map_or(0, |(_, line)| *line);
                (line, err.to_string())
            })?;
        warnings.iter().for_each(|warning| warn(warning.to_string()));
        let versions: &[&rustls::SupportedProtocolVersion] =
            if tls.only_1_3 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|err| (0, err.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates.clone()));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.ticketer = ring::Ticketer::new().map_err(|err| (0, format!("no tickets for resumption: {err}")))?;
        // Sessions are the client's to keep: nothing is stored here for those that may never come back.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let mut policy = HelloPolicy::new()
            .names(tls.names.iter().map(String::as_str))
            .map_err(|err| (0, err.to_string()))?
            .protocols(protocols.iter().copied())
            .limit(tls.limit.clone());
        if tls.only_1_3 {
            policy = policy.oldest_version(overdue::server::hello::Version::TLS13);
        }
        if let Some((count, per)) = tls.rate {
            policy = policy.rate(Rate::new(count, per));
        }
        if let Some((count, per)) = tls.failure_rate {
            policy = policy.failure_rate(Rate::new(count, per));
        }
        Ok(Self { gate: HelloGate::new(policy), config: Arc::new(config), certificates })
    }
}

/// What a reload found, for a reader; `None` where there is nothing to tell.
pub(crate) fn told(reload: &Reload) -> Option<String> {
    (!reload.is_quiet()).then(|| reload.to_string())
}
