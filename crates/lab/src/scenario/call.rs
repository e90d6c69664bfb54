//! How the caller calls. The lab describes it; the program that uses the lab does it.

use std::{collections::BTreeMap, fmt, time::Duration};

use overdue_core::{Limit, LimitName, Limits, Origin};
use serde::Deserialize;
use toml::Spanned;

use super::{ScenarioError, Source, value};

/// One call, and what its caller does wrong, if anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The protocol.
    pub scheme: Scheme,
    /// The request's method.
    pub method: String,
    /// The request's path.
    pub path: String,
    /// The host of the URL, where it is a name. It is there only beside a DNS server that is asked for it; every other
    /// scenario uses the server's address, so that no resolver has a part in it.
    pub host: Option<String>,
    /// The size of the request's body, made of filler.
    pub body_bytes: u64,
    /// First makes one good request on the same connection, which is kept.
    pub warm: bool,
    /// What the caller does besides.
    pub caller: Caller,
    /// Those named in the file, with their file and line as origin; all others are left out.
    pub limits: Limits,
}

/// What is spoken, as the scheme of a URL does not say it in full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 inside TLS.
    Https,
    /// HTTP/2 with prior knowledge, no TLS.
    H2c,
    /// HTTP/2 inside TLS, chosen by ALPN.
    H2,
}

impl Scheme {
    /// The scheme of the URL.
    #[must_use]
    pub const fn of_url(self) -> &'static str {
        match self {
            Self::Http | Self::H2c => "http",
            Self::Https | Self::H2 => "https",
        }
    }

    /// Whether the call is inside TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
            Self::H2 => "h2",
        })
    }
}

/// What the caller itself does to its call.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Caller {
    /// Nothing: it makes the call and waits.
    #[default]
    Plain,
    /// Blocks the only thread of the runtime that drives the call.
    BlocksExecutor {
        /// When it begins, counted from the start of the call.
        #[serde(deserialize_with = "value::duration")]
        after: Duration,
        /// How long it lasts.
        #[serde(deserialize_with = "value::duration")]
        blocked_for: Duration,
    },
    /// Reads the response's body too slowly.
    SlowReader {
        /// It takes at most so much of the body,
        chunk_bytes: u32,
        /// and then does not ask for more for this long.
        #[serde(deserialize_with = "value::duration")]
        every: Duration,
    },
    /// Cancels the call's context.
    Cancels {
        /// When, counted from the start of the call.
        #[serde(deserialize_with = "value::duration")]
        after: Duration,
    },
    /// Makes the call when its `total` limit has already passed.
    PastDeadline,
    /// Has a pool of one connection, and another request of its own holds that one.
    PoolOfOne,
    /// Has one HTTP/2 connection, and another request of its own holds the only stream the server allows.
    HoldsH2Stream,
    /// Has no file descriptor left.
    NoFds,
}

impl Caller {
    /// Whether another request of the same caller has to hold something before the call begins.
    #[must_use]
    pub const fn holds(&self) -> bool {
        matches!(self, Self::PoolOfOne | Self::HoldsH2Stream)
    }
}

/// The table `[call]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallTable {
    scheme: Scheme,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    body_bytes: u64,
    #[serde(default)]
    warm: bool,
    #[serde(default)]
    caller: Caller,
    #[serde(default)]
    limits: BTreeMap<Spanned<String>, Spanned<String>>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

impl CallTable {
    pub(super) fn check(self, source: &Source<'_>) -> Result<Call, ScenarioError> {
        let mut limits = Limits::none();
        for (name, text) in &self.limits {
            let limit = Limit {
                name: name.get_ref().parse::<LimitName>().map_err(|error| source.error(name.span(), error))?,
                value: value::duration_from(text.get_ref()).map_err(|error| source.error(text.span(), error))?,
                origin: Origin::File { path: source.origin.into(), line: source.line(name.span()) },
            };
            limits
                .set(limit)
                .map_err(|limit| source.error(name.span(), format!("a call has no limit {}", limit.name)))?;
        }
        Ok(Call {
            scheme: self.scheme,
            method: self.method,
            path: self.path,
            host: self.host,
            body_bytes: self.body_bytes,
            warm: self.warm,
            caller: self.caller,
            limits,
        })
    }
}
