//! What a value may be: limits, addresses, rates and names.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use overdue_core::{DurationText, Limit, LimitName, Limits, Origin, Stage, parse_duration};
use toml::Spanned;

use super::{LimitsTable, Source};
use crate::config::{ConfigError, ServerAt};

/// Between two probes, or lookups of one name.
const PAUSE_MIN: Duration = Duration::from_millis(100);

impl Source<'_> {
    /// The limit that is written here; `None` for `none`.
    fn limit(&self, name: LimitName, text: &Spanned<String>) -> Result<Option<Limit>, ConfigError> {
        if text.get_ref() == "none" {
            return Ok(None);
        }
        self.limit_of(&name.to_string(), name, text, "; write \"none\" for no limit").map(Some)
    }

    /// The limit that is written here under this key.
    pub(super) fn limit_of(
        &self,
        key: &str,
        name: LimitName,
        text: &Spanned<String>,
        hint: &str,
    ) -> Result<Limit, ConfigError> {
        let value = parse_duration(text.get_ref()).map_err(|err| self.error(text.span(), format!("{key}: {err}")))?;
        if value.is_zero() {
            return Err(self.error(text.span(), format!("{key}: nothing can be done in no time{hint}")));
        }
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(text.span()) };
        Ok(Limit { name, value, origin })
    }

    pub(super) fn limit_or(
        &self,
        name: LimitName,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Option<Limit>, ConfigError> {
        text.map_or(Ok(Some(Limit { name, value: default, origin: Origin::Default })), |text| self.limit(name, text))
    }

    /// One under this key that has to be there: what has no end would hold up the end of everything.
    pub(super) fn some_limit(
        &self,
        key: &str,
        name: LimitName,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Limit, ConfigError> {
        let Some(text) = text else { return Ok(Limit { name, value: default, origin: Origin::Default }) };
        if text.get_ref() == "none" {
            return Err(self.error(text.span(), format!("{key}: there has to be a limit here")));
        }
        self.limit_of(key, name, text, "")
    }

    /// How long it is from one thing to the next of its kind: done more often, it would be a burden.
    pub(super) fn pause(
        &self,
        key: &str,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        let value = self.some_limit(key, LimitName::Idle, text, default)?.value;
        match text {
            Some(text) if value < PAUSE_MIN => {
                let message =
                    format!("{key}: {} is too often; the shortest is {}", text.get_ref(), DurationText(PAUSE_MIN));
                Err(self.error(text.span(), message))
            }
            _ => Ok(value),
        }
    }

    pub(super) fn limits(&self, table: &LimitsTable, base: &Limits) -> Result<Limits, ConfigError> {
        let mut limits = base.clone();
        let stage = LimitName::Stage;
        for (name, text) in [
            (stage(Stage::Queue), &table.queue),
            (stage(Stage::Connect), &table.connect),
            (stage(Stage::Tls), &table.tls),
            (stage(Stage::Send), &table.send),
            (stage(Stage::Wait), &table.wait),
            (LimitName::Gap, &table.gap),
            (LimitName::Total, &table.total),
        ] {
            let Some(text) = text else { continue };
            match self.limit(name, text)? {
                // Every name in the list is one of a call.
                Some(limit) => drop(limits.set(limit)),
                None => limits.clear(name),
            }
        }
        Ok(limits)
    }

    /// What is kept of the time that remains; `none` for nothing.
    pub(super) fn reserve(&self, table: &LimitsTable, base: Duration) -> Result<Duration, ConfigError> {
        let Some(text) = table.reserve.as_ref() else { return Ok(base) };
        match text.get_ref().as_str() {
            "none" => Ok(Duration::ZERO),
            value => parse_duration(value).map_err(|err| self.error(text.span(), format!("reserve: {err}"))),
        }
    }

    pub(super) fn address(&self, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        text.get_ref().parse().map(canonical).map_err(|_| {
            let text_of = text.get_ref();
            self.error(
                text.span(),
                format!("{text_of:?} is no address with a port, such as 127.0.0.1:8080 or [::]:8080"),
            )
        })
    }

    /// An address, or a name that is looked up.
    pub(super) fn server_at(&self, text: &Spanned<String>) -> Result<ServerAt, ConfigError> {
        if let Ok(address) = text.get_ref().parse::<SocketAddr>()
            && address.port() > 0
        {
            return Ok(ServerAt::Address(canonical(address)));
        }
        let split = text.get_ref().rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        match split {
            Some((name, port)) if port > 0 && is_name(name) => {
                Ok(ServerAt::Name(name.to_ascii_lowercase().into(), port))
            }
            _ => {
                let text_of = text.get_ref();
                Err(self.error(
                    text.span(),
                    format!(
                        "{text_of:?} is no address with a port and no name with one, such as 10.0.0.5:9000, [::1]:9000 or \
                         api.internal:9000"
                    ),
                ))
            }
        }
    }

    pub(super) fn count(
        &self,
        number: Option<&Spanned<usize>>,
        default: usize,
        most: usize,
    ) -> Result<usize, ConfigError> {
        let Some(number) = number else { return Ok(default) };
        match *number.get_ref() {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err(self.error(number.span(), format!("{value} is not between 1 and {most}"))),
        }
    }

    /// Whether `oldest` leaves TLS 1.3 alone.
    pub(super) fn only_1_3(&self, oldest: Option<&Spanned<String>>) -> Result<bool, ConfigError> {
        match oldest.map(|oldest| (oldest.get_ref().as_str(), oldest.span())) {
            None | Some(("1.2", _)) => Ok(false),
            Some(("1.3", _)) => Ok(true),
            Some((other, span)) => Err(self.error(span, format!("{other:?} is no version: 1.2 or 1.3"))),
        }
    }

    /// `20/10s`: so many in that time; `20/s` in one second.
    pub(super) fn rate(&self, text: &Spanned<String>) -> Result<(u32, Duration), ConfigError> {
        let rate = text.get_ref().split_once('/').and_then(|(count, per)| {
            let (count, per) = (count.trim().parse::<u32>().ok()?, per.trim());
            let one = if per.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "1" };
            let per = parse_duration(&format!("{one}{per}")).ok()?;
            (count > 0 && !per.is_zero()).then_some((count, per))
        });
        rate.ok_or_else(|| self.error(text.span(), format!("{:?} is no rate, such as 20/s or 20/10s", text.get_ref())))
    }

    /// So many bytes in that time; `None` for `none`.
    pub(super) fn body_rate(&self, text: &Spanned<String>) -> Result<Option<Limit>, ConfigError> {
        if text.get_ref() == "none" {
            return Ok(None);
        }
        let (bytes, value) = self.rate(text)?;
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(text.span()) };
        Ok(Some(Limit { name: LimitName::Rate(bytes.into()), value, origin }))
    }
}

/// An address of IPv4 that is written as one of IPv6 is one of IPv4.
pub(in crate::config) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// Whether a request could name such a host, port aside: a name, or an address.
pub(super) fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_~%".contains(&byte))
        }),
    }
}

/// Whether a request could ask for it: visible ASCII, of which `#` is never sent.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Whether it could be the name of a host. One whose last label is a number is an address gone wrong.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !name.rsplit('.').next().is_none_or(is_number)
}
