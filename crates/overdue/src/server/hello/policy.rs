//! Which hellos fit.

use std::{fmt, time::Duration};

use overdue_core::{Limit, LimitName, Origin, Stage};

use super::{ClientHello, Rate, Version, WhyRejected};
use crate::server::names::{InvalidName, Names};

/// Which hellos fit.
///
/// | what | default |
/// |---|---|
/// | [`names`](Self::names) | any |
/// | [`nameless`](Self::nameless) | only where any name is served |
/// | [`oldest_version`](Self::oldest_version) | TLS 1.2 |
/// | [`protocols`](Self::protocols) | any |
/// | [`rate`](Self::rate), [`failure_rate`](Self::failure_rate) | no limit |
/// | [`sources`](Self::sources) | 65,536 are remembered |
/// | [`limit`](Self::limit) | 10 s for hello and handshake |
/// | [`alert_limit`](Self::alert_limit) | 250 ms for the alert |
/// | [`ja4`](Self::ja4) | off |
#[derive(Clone)]
#[must_use = "a policy does nothing until a gate has it"]
pub struct HelloPolicy {
    names: Names<()>,
    nameless: Option<bool>,
    oldest_version: Version,
    protocols: Vec<Vec<u8>>,
    pub(super) rate: Option<Rate>,
    pub(super) failure_rate: Option<Rate>,
    pub(super) sources: usize,
    pub(super) limit: Limit,
    pub(super) alert_limit: Limit,
    pub(super) ja4: bool,
}

impl Default for HelloPolicy {
    fn default() -> Self {
        let default = |stage, value| Limit { name: LimitName::Stage(stage), value, origin: Origin::Default };
        Self {
            names: Names::default(),
            nameless: None,
            oldest_version: Version::TLS12,
            protocols: Vec::new(),
            rate: None,
            failure_rate: None,
            sources: 65_536,
            limit: default(Stage::Tls, Duration::from_secs(10)),
            alert_limit: default(Stage::Send, Duration::from_millis(250)),
            ja4: false,
        }
    }
}

impl HelloPolicy {
    /// The defaults above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves these names and no others: `www.example.com`, or `*.example.com` for one label in front.
    ///
    /// # Errors
    /// [`InvalidName`] for the first that is none.
    pub fn names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidName> {
        for name in names {
            self.names.insert(name, ())?;
        }
        Ok(self)
    }

    /// Whether clients that ask for no name are served.
    pub const fn nameless(mut self, served: bool) -> Self {
        self.nameless = Some(served);
        self
    }

    /// The oldest version that a client may offer as its newest.
    pub const fn oldest_version(mut self, version: Version) -> Self {
        self.oldest_version = version;
        self
    }

    /// Serves clients that speak one of these protocols (ALPN), and those that do not say which they speak.
    pub fn protocols<'a>(mut self, protocols: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.protocols = protocols.into_iter().map(<[u8]>::to_vec).collect();
        self
    }

    /// How many hellos may come from one source.
    pub const fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How many handshakes of one source may fail before it is turned away for a while.
    pub const fn failure_rate(mut self, rate: Rate) -> Self {
        self.failure_rate = Some(rate);
        self
    }

    /// How many sources are remembered, at most; some 200 bytes each.
    pub const fn sources(mut self, most: usize) -> Self {
        self.sources = most;
        self
    }

    /// The limit for hello and handshake together.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }

    /// The limit for telling a peer why it is turned away.
    pub fn alert_limit(mut self, limit: Limit) -> Self {
        self.alert_limit = limit;
        self
    }

    /// Whether fingerprints are taken; some microseconds each.
    pub const fn ja4(mut self, on: bool) -> Self {
        self.ja4 = on;
        self
    }

    /// What comes first is what a peer is told.
    pub(super) fn judge(&self, hello: &ClientHello<'_>) -> Result<(), WhyRejected> {
        let newest = hello.newest_version();
        if newest < self.oldest_version {
            return Err(WhyRejected::Version { newest });
        }
        match hello.server_name() {
            Some(name) if !self.names.is_empty() && self.names.get(name).is_none() => return Err(WhyRejected::Name),
            None if !self.nameless.unwrap_or(self.names.is_empty()) => return Err(WhyRejected::Nameless),
            _ => {}
        }
        if !hello.offers_a_cipher() {
            return Err(WhyRejected::NoCipher);
        }
        if let Some(mut offered) = hello.alpn()
            && !self.protocols.is_empty()
            && !offered.any(|offered| self.protocols.iter().any(|protocol| protocol == offered))
        {
            return Err(WhyRejected::Protocol);
        }
        Ok(())
    }
}

impl fmt::Debug for HelloPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloPolicy")
            .field("names", &self.names)
            .field("oldest_version", &self.oldest_version)
            .field("rate", &self.rate)
            .field("failure_rate", &self.failure_rate)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
