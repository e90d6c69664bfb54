//! The file as it is written, and how it becomes what it means.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use overdue::server::{TrustedPeers, certificates::CertificateFiles, hello::HelloPolicy};
use overdue_core::{DurationText, Limit, LimitName, Limits, Origin, Stage, parse_duration};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Admin, Cluster, Config, ConfigError, Dns, Family, Format, Forwarded, Health, Listener, Log, Matches, ProxyProtocol,
    Route, ServerAt, ServerTls, Tls, To, Trace, doubts,
    server_tls::{self, Said},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    workers: Option<Spanned<usize>>,
    drain: Option<Spanned<String>>,
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    dns: DnsTable,
    admin: Option<AdminTable>,
    #[serde(default)]
    log: LogTable,
    #[serde(default)]
    trace: TraceTable,
    #[serde(default)]
    listener: Vec<Spanned<ListenerTable>>,
    #[serde(default)]
    pub(super) cluster: BTreeMap<String, Spanned<ClusterTable>>,
    #[serde(default)]
    pub(super) route: Vec<Spanned<RouteTable>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DnsTable {
    #[serde(default)]
    servers: Vec<Spanned<String>>,
    #[serde(default)]
    hosts: BTreeMap<String, Vec<IpAddr>>,
    limit: Option<Spanned<String>>,
    refresh_min: Option<Spanned<String>>,
    refresh_max: Option<Spanned<String>>,
    family: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminTable {
    listen: Spanned<String>,
    #[serde(default)]
    names: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogTable {
    format: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    off: Option<bool>,
    rate: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceTable {
    start: Option<Spanned<toml::Value>>,
    from: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    listen: Spanned<String>,
    head: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    body_rate: Option<Spanned<String>>,
    #[serde(default)]
    trusted: Vec<Spanned<String>>,
    forwarded: Option<Spanned<String>>,
    connections: Option<Spanned<usize>>,
    http2: Option<bool>,
    proxy_protocol: Option<Spanned<bool>>,
    tls: Option<Spanned<TlsTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    certificates: Vec<CertificateTable>,
    limit: Option<Spanned<String>>,
    oldest: Option<Spanned<String>>,
    #[serde(default)]
    names: Vec<Spanned<String>>,
    rate: Option<Spanned<String>>,
    failure_rate: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateTable {
    chain: Spanned<PathBuf>,
    key: Spanned<PathBuf>,
    staple: Option<Spanned<PathBuf>>,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterTable {
    pub(super) servers: Vec<Spanned<String>>,
    connections: Option<Spanned<usize>>,
    idle: Option<Spanned<String>>,
    http2: Option<bool>,
    tls: Option<Spanned<ServerTlsTable>>,
    pub(super) health: Option<HealthTable>,
    proxy_protocol: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthTable {
    path: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    pub(super) every: Option<Spanned<String>>,
    pub(super) limit: Option<Spanned<String>>,
    healthy: Option<Spanned<usize>>,
    unhealthy: Option<Spanned<usize>>,
    #[serde(default)]
    status: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerTlsTable {
    name: Option<Spanned<String>>,
    ca: Option<Spanned<PathBuf>>,
    chain: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    oldest: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    name: Option<String>,
    host: Option<Spanned<String>>,
    pub(super) path: Option<Spanned<String>>,
    #[serde(default)]
    methods: Vec<Spanned<String>>,
    header: Option<HeaderTable>,
    pub(super) cluster: Spanned<String>,
    body_max: Option<u64>,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderTable {
    name: Spanned<String>,
    value: Spanned<String>,
}

/// `none` leaves a limit out on purpose.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    queue: Option<Spanned<String>>,
    connect: Option<Spanned<String>>,
    tls: Option<Spanned<String>>,
    send: Option<Spanned<String>>,
    wait: Option<Spanned<String>>,
    gap: Option<Spanned<String>>,
    total: Option<Spanned<String>>,
    reserve: Option<Spanned<String>>,
}

/// Defaults that are not those of every call: see the reference of the configuration.
const HEAD: Duration = Duration::from_secs(10);
const CLIENT_IDLE: Duration = Duration::from_secs(75);
const SERVER_IDLE: Duration = Duration::from_secs(50);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// An answer of a server in the same place needs about a millisecond, timers of a millisecond on both sides another two;
/// the rest is for a machine that is busy.
const RESERVE: Duration = Duration::from_millis(5);
const DRAIN: Duration = Duration::from_secs(30);
const CLIENTS: usize = 10_000;
const TO_A_SERVER: usize = 512;
const WORKERS_MAX: usize = 256;
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(2);
const HEALTHY: usize = 2;
const UNHEALTHY: usize = 3;
/// Between two probes, or lookups of one name.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PROBES_MAX: usize = 1000;
const LOOKUP: Duration = Duration::from_secs(5);
const REFRESH_MIN: Duration = Duration::from_secs(5);
const REFRESH_MAX: Duration = Duration::from_secs(60);

/// A file's text and its name, for errors and origins.
pub(super) struct Source<'a> {
    text: &'a str,
    pub(super) path: Arc<str>,
}

impl Source<'_> {
    pub(super) fn line(&self, span: Range<usize>) -> u32 {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).map_or(u32::MAX, |lines| lines + 1)
    }

    fn error(&self, span: Range<usize>, message: impl Display) -> ConfigError {
        ConfigError { path: self.path.to_string(), line: self.line(span), message: message.to_string() }
    }

    /// The limit that is written here; `None` for `none`.
    fn limit(&self, name: LimitName, text: &Spanned<String>) -> Result<Option<Limit>, ConfigError> {
        if text.get_ref() == "none" {
            return Ok(None);
        }
        self.limit_of(&name.to_string(), name, text, "; write \"none\" for no limit").map(Some)
    }

    /// The limit that is written here under this key.
    fn limit_of(&self, key: &str, name: LimitName, text: &Spanned<String>, hint: &str) -> Result<Limit, ConfigError> {
        let value = parse_duration(text.get_ref()).map_err(|err| self.error(text.span(), format!("{key}: {err}")))?;
        if value.is_zero() {
            return Err(self.error(text.span(), format!("{key}: nothing can be done in no time{hint}")));
        }
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(text.span()) };
        Ok(Limit { name, value, origin })
    }

    fn limit_or(
        &self,
        name: LimitName,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Option<Limit>, ConfigError> {
        text.map_or(Ok(Some(Limit { name, value: default, origin: Origin::Default })), |text| self.limit(name, text))
    }

    /// One under this key that has to be there: what has no end would hold up the end of everything.
    fn some_limit(
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
    fn pause(&self, key: &str, text: Option<&Spanned<String>>, default: Duration) -> Result<Duration, ConfigError> {
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

    fn limits(&self, table: &LimitsTable, base: &Limits) -> Result<Limits, ConfigError> {
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
    fn reserve(&self, table: &LimitsTable, base: Duration) -> Result<Duration, ConfigError> {
        let Some(text) = table.reserve.as_ref() else { return Ok(base) };
        match text.get_ref().as_str() {
            "none" => Ok(Duration::ZERO),
            value => parse_duration(value).map_err(|err| self.error(text.span(), format!("reserve: {err}"))),
        }
    }

    fn address(&self, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        text.get_ref().parse().map(canonical).map_err(|_| {
            let text_of = text.get_ref();
            self.error(
                text.span(),
                format!("{text_of:?} is no address with a port, such as 127.0.0.1:8080 or [::]:8080"),
            )
        })
    }

    /// An address, or a name that is looked up.
    fn server_at(&self, text: &Spanned<String>) -> Result<ServerAt, ConfigError> {
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

    fn dns(&self, table: &DnsTable) -> Result<Dns, ConfigError> {
        let DnsTable { servers, hosts, limit, refresh_min, refresh_max, family } = table;
        let dns = Dns {
            servers: servers.iter().map(|server| self.address(server)).collect::<Result<_, _>>()?,
            hosts: hosts.clone(),
            limit: self.some_limit("limit", LimitName::Stage(Stage::Resolve), limit.as_ref(), LOOKUP)?,
            refresh_min: self.pause("refresh_min", refresh_min.as_ref(), REFRESH_MIN)?,
            refresh_max: self.pause("refresh_max", refresh_max.as_ref(), REFRESH_MAX)?,
            family: match family.as_ref().map(|family| (family.get_ref().as_str(), family.span())) {
                None | Some(("v4-first", _)) => Family::V4First,
                Some(("v6-first", _)) => Family::V6First,
                Some(("both", _)) => Family::Both,
                Some((other, span)) => {
                    return Err(self.error(span, format!("{other:?} is none of v4-first, v6-first and both")));
                }
            },
        };
        if dns.refresh_min > dns.refresh_max {
            let set = refresh_min.as_ref().or(refresh_max.as_ref()).map_or(0..0, Spanned::span);
            return Err(self.error(set, "refresh_min is longer than refresh_max"));
        }
        Ok(dns)
    }

    fn count(&self, number: Option<&Spanned<usize>>, default: usize, most: usize) -> Result<usize, ConfigError> {
        let Some(number) = number else { return Ok(default) };
        match *number.get_ref() {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err(self.error(number.span(), format!("{value} is not between 1 and {most}"))),
        }
    }

    fn listener(&self, table: &ListenerTable) -> Result<Listener, ConfigError> {
        let mut trusted = TrustedPeers::default();
        for network in &table.trusted {
            trusted.add(network.get_ref()).map_err(|err| self.error(network.span(), err))?;
        }
        let head = self.limit_or(LimitName::Head, table.head.as_ref(), HEAD)?;
        let proxy_protocol = table.proxy_protocol.as_ref().filter(|on| *on.get_ref());
        if let Some(on) = proxy_protocol {
            if trusted.is_empty() {
                let message = "who may send a PROXY header? name the proxies in `trusted`: all others are refused";
                return Err(self.error(on.span(), message));
            }
            if head.is_none() && table.tls.is_none() {
                return Err(self.error(on.span(), "a PROXY header has to come in time: `head` has to be a limit"));
            }
        }
        Ok(Listener {
            address: self.address(&table.listen)?,
            head,
            idle: self.limit_or(LimitName::Idle, table.idle.as_ref(), CLIENT_IDLE)?,
            body_rate: table.body_rate.as_ref().map_or(Ok(None), |rate| self.body_rate(rate))?,
            trusted,
            forwarded: self.forwarded(table.forwarded.as_ref())?,
            connections: self.count(table.connections.as_ref(), CLIENTS, 1_000_000)?,
            http2: table.http2.unwrap_or(true),
            proxy_protocol: proxy_protocol.is_some(),
            tls: table.tls.as_ref().map(|table| self.tls(table)).transpose()?,
        })
    }

    fn forwarded(&self, text: Option<&Spanned<String>>) -> Result<Forwarded, ConfigError> {
        let Some(text) = text else { return Ok(Forwarded::X) };
        let known = [Forwarded::X, Forwarded::Rfc7239, Forwarded::Both, Forwarded::None];
        known.into_iter().find(|known| known.as_str() == text.get_ref()).ok_or_else(|| {
            let message = format!("{:?} is neither \"x\", \"rfc7239\", \"both\" nor \"none\"", text.get_ref());
            self.error(text.span(), message)
        })
    }

    fn admin(&self, table: &AdminTable) -> Result<Admin, ConfigError> {
        let name = |name: &Spanned<String>| {
            let text = name.get_ref().to_ascii_lowercase();
            if text.is_empty() || text.contains([':', '/', '*', ' ']) {
                let message = format!("{text:?} is no name of this machine without a port, such as gate.example.com");
                return Err(self.error(name.span(), message));
            }
            Ok(text)
        };
        let names = table.names.iter().map(name).collect::<Result<_, _>>()?;
        Ok(Admin { address: self.address(&table.listen)?, names })
    }

    fn tls(&self, table: &Spanned<TlsTable>) -> Result<Tls, ConfigError> {
        let TlsTable { certificates, limit, oldest, names, rate, failure_rate } = table.get_ref();
        if certificates.is_empty() {
            return Err(self.error(table.span(), "there is no certificate, so no client could be served"));
        }
        let files = |pair: &CertificateTable| {
            let files = CertificateFiles::new(pair.chain.get_ref(), pair.key.get_ref());
            let files = pair.staple.iter().fold(files, |files, staple| files.staple(staple.get_ref()));
            if pair.names.is_empty() { files } else { files.names(pair.names.iter().map(String::as_str)) }
        };
        let only_1_3 = self.only_1_3(oldest.as_ref())?;
        for name in names {
            let _checked =
                HelloPolicy::new().names([name.get_ref().as_str()]).map_err(|err| self.error(name.span(), err))?;
        }
        let named = certificates.iter().flat_map(|pair| [&pair.chain, &pair.key].into_iter().chain(&pair.staple));
        Ok(Tls {
            certificates: certificates.iter().map(files).collect(),
            named: named.map(|file| (file.get_ref().clone(), self.line(file.span()))).collect(),
            limit: self.some_limit("limit", LimitName::Stage(Stage::Tls), limit.as_ref(), HANDSHAKE)?,
            only_1_3,
            names: names.iter().map(|name| name.get_ref().clone()).collect(),
            rate: rate.as_ref().map(|rate| self.rate(rate)).transpose()?,
            failure_rate: failure_rate.as_ref().map(|rate| self.rate(rate)).transpose()?,
        })
    }

    /// Whether `oldest` leaves TLS 1.3 alone.
    fn only_1_3(&self, oldest: Option<&Spanned<String>>) -> Result<bool, ConfigError> {
        match oldest.map(|oldest| (oldest.get_ref().as_str(), oldest.span())) {
            None | Some(("1.2", _)) => Ok(false),
            Some(("1.3", _)) => Ok(true),
            Some((other, span)) => Err(self.error(span, format!("{other:?} is no version: 1.2 or 1.3"))),
        }
    }

    fn server_tls(&self, table: &Spanned<ServerTlsTable>, http2: bool) -> Result<ServerTls, ConfigError> {
        let ServerTlsTable { name, ca, chain, key, oldest } = table.get_ref();
        let read =
            |path: &Spanned<PathBuf>| server_tls::read(path.get_ref()).map_err(|why| self.error(path.span(), why));
        // Each part is tried by itself first, so that an error has the line of the part that is wrong.
        let usable = |span: Range<usize>, said: Said| ServerTls::new(said).map_err(|err| self.error(span, err));
        let only_1_3 = self.only_1_3(oldest.as_ref())?;
        let ca = match ca {
            Some(path) => {
                let pem = read(path)?;
                let said = Said { ca: Some(pem.clone()), ..Said::default() };
                usable(path.span(), said)?;
                Some(pem)
            }
            None => None,
        };
        let certificate = match (chain, key) {
            (Some(chain), Some(key)) => {
                let pair = (read(chain)?, read(key)?);
                let said = Said { certificate: Some(pair.clone()), ..Said::default() };
                usable(chain.span(), said)?;
                Some(pair)
            }
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                return Err(self.error(one.span(), "a client certificate takes both, chain and key"));
            }
        };
        let span = name.as_ref().map_or_else(|| table.span(), Spanned::span);
        let name = name.as_ref().map(|name| name.get_ref().clone());
        usable(span, Said { name, ca, certificate, only_1_3, http2 })
    }

    fn health(&self, table: &HealthTable) -> Result<Health, ConfigError> {
        let HealthTable { path, host, every, limit, healthy, unhealthy, status } = table;
        // Both are written into a request.
        if let Some(path) = path.as_ref().filter(|path| !is_path(path.get_ref())) {
            return Err(self.error(path.span(), format!("{:?} is no path, such as /healthz", path.get_ref())));
        }
        if let Some(host) = host.as_ref().filter(|host| !is_authority(host.get_ref())) {
            return Err(self.error(host.span(), format!("{:?} is no host, such as api.internal", host.get_ref())));
        }
        if let (None, Some(given)) = (path, host.as_ref().map(Spanned::span).or(status.first().map(Spanned::span))) {
            return Err(self.error(given, "without a path nothing is asked for: a connection is all that is tried"));
        }
        let runs = |count: &Option<Spanned<usize>>, default| {
            Ok(u32::try_from(self.count(count.as_ref(), default, PROBES_MAX)?).unwrap_or(u32::MAX))
        };
        let statuses = status.iter().map(|status| {
            statuses(status.get_ref()).ok_or_else(|| {
                let text = status.get_ref();
                self.error(status.span(), format!("{text:?} is no status, such as 204, and no range, such as 200-399"))
            })
        });
        let statuses = statuses.collect::<Result<Vec<_>, _>>()?;
        Ok(Health {
            path: path.as_ref().map(|path| path.get_ref().clone()),
            host: host.as_ref().map(|host| host.get_ref().clone()),
            every: self.pause("every", every.as_ref(), PROBE_EVERY)?,
            limit: self.some_limit("limit", LimitName::Total, limit.as_ref(), PROBE)?,
            healthy: runs(healthy, HEALTHY)?,
            unhealthy: runs(unhealthy, UNHEALTHY)?,
            statuses: if statuses.is_empty() { vec![200..=399] } else { statuses },
        })
    }

    /// `20/10s`: so many in that time; `20/s` in one second.
    fn rate(&self, text: &Spanned<String>) -> Result<(u32, Duration), ConfigError> {
        let rate = text.get_ref().split_once('/').and_then(|(count, per)| {
            let (count, per) = (count.trim().parse::<u32>().ok()?, per.trim());
            let one = if per.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "1" };
            let per = parse_duration(&format!("{one}{per}")).ok()?;
            (count > 0 && !per.is_zero()).then_some((count, per))
        });
        rate.ok_or_else(|| self.error(text.span(), format!("{:?} is no rate, such as 20/s or 20/10s", text.get_ref())))
    }

    /// So many bytes in that time; `None` for `none`.
    fn body_rate(&self, text: &Spanned<String>) -> Result<Option<Limit>, ConfigError> {
        if text.get_ref() == "none" {
            return Ok(None);
        }
        let (bytes, value) = self.rate(text)?;
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(text.span()) };
        Ok(Some(Limit { name: LimitName::Rate(bytes.into()), value, origin }))
    }

    fn trace(&self, table: &TraceTable) -> Result<Trace, ConfigError> {
        let start = match table.start.as_ref().map(|start| (start.get_ref(), start.span())) {
            None => None,
            Some((toml::Value::String(word), _)) if word == "none" => None,
            Some((toml::Value::String(word), _)) if word == "always" => Some(1.0),
            Some((toml::Value::Float(share), _)) if (0.0..=1.0).contains(share) => Some(*share),
            Some((toml::Value::Integer(share @ 0..=1), _)) => Some(*share as f64),
            Some((other, span)) => {
                let message = format!("{other} is neither \"none\", \"always\" nor a share from 0.0 to 1.0");
                return Err(self.error(span, message));
            }
        };
        let from_anyone = match table.from.as_ref().map(|from| (from.get_ref().as_str(), from.span())) {
            None | Some(("trusted", _)) => false,
            Some(("anyone", _)) => true,
            Some((other, span)) => {
                return Err(self.error(span, format!("{other:?} is neither \"trusted\" nor \"anyone\"")));
            }
        };
        Ok(Trace { start, from_anyone })
    }

    fn cluster(&self, name: &str, table: &Spanned<ClusterTable>, workers: usize) -> Result<Cluster, ConfigError> {
        let ClusterTable { servers, connections, idle, http2, tls, health, proxy_protocol } = table.get_ref();
        let http2 = http2.unwrap_or(false);
        if let Some(version) = proxy_protocol.as_ref().filter(|_| http2) {
            let message =
                "with http2 a connection is for many clients, and a PROXY header names one: leave one of them out";
            return Err(self.error(version.span(), message));
        }
        if servers.is_empty() {
            return Err(self.error(table.span(), format!("cluster {name:?} has no servers")));
        }
        let mut all: Vec<ServerAt> = Vec::new();
        for server in servers {
            let at = self.server_at(server)?;
            if all.contains(&at) {
                return Err(self.error(server.span(), format!("{at} is there twice")));
            }
            all.push(at);
        }
        let most = self.count(connections.as_ref(), TO_A_SERVER.max(workers), 100_000)?;
        if let Some(connections) = connections.as_ref().filter(|_| most < workers) {
            let message = format!(
                "{most} connections cannot be shared by {workers} workers, each of which keeps its own: write {workers} or \
                 more, or `workers = {most}` at the top"
            );
            return Err(self.error(connections.span(), message));
        }
        Ok(Cluster {
            name: name.into(),
            servers: all,
            connections: most,
            idle: self.some_limit("idle", LimitName::Idle, idle.as_ref(), SERVER_IDLE)?,
            http2,
            tls: tls.as_ref().map(|table| self.server_tls(table, http2)).transpose()?,
            health: health.as_ref().map(|table| self.health(table)).transpose()?,
            proxy_protocol: match proxy_protocol.as_ref().map(|version| (version.get_ref().as_str(), version.span())) {
                None => None,
                Some(("v1", _)) => Some(ProxyProtocol::V1),
                Some(("v2", _)) => Some(ProxyProtocol::V2),
                Some((other, span)) => return Err(self.error(span, format!("{other:?} is no version: v1 or v2"))),
            },
        })
    }

    fn matches(&self, table: &RouteTable) -> Result<Matches, ConfigError> {
        let mut matches = Matches::default();
        if let Some(host) = &table.host {
            let text = host.get_ref().to_ascii_lowercase();
            // The dot of the root is no part of a name: requests come with it and without.
            let text = text.strip_suffix('.').unwrap_or(&text);
            let below = text.strip_prefix("*.");
            if !is_host(below.unwrap_or(text)) || below.is_some_and(|name| name.starts_with('[')) {
                let message = format!(
                    "{:?} is no host without a port, such as example.com or *.example.com{}",
                    host.get_ref(),
                    if text.is_ascii() { "" } else { "; write it as it is asked for: xn--..." }
                );
                return Err(self.error(host.span(), message));
            }
            matches.host = Some(text.to_owned());
        }
        if let Some(path) = &table.path {
            let text = path.get_ref();
            if !is_path(text) || text.contains('?') {
                let hint = if text.is_ascii() { "" } else { "; write it as it is asked for: /%C3%BC" };
                return Err(self.error(path.span(), format!("{text:?} is no path, such as / or /v1{hint}")));
            }
            matches.path = Some(text.clone());
        }
        for method in &table.methods {
            let text = method.get_ref();
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                return Err(self.error(method.span(), format!("{text:?} is no method, such as GET")));
            }
            if text == "CONNECT" {
                let message = "no request comes with CONNECT: it is refused, and a WebSocket of HTTP/2 counts as a GET";
                return Err(self.error(method.span(), message));
            }
            matches.methods.push(text.clone());
        }
        if let Some(header) = &table.header {
            let name = header.name.get_ref();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                return Err(self.error(header.name.span(), format!("{name:?} is no name of a header field")));
            }
            let value = header.value.get_ref();
            if value.trim_ascii() != value || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                let message =
                    format!("no field has the value {value:?}: it has no control characters, and no blanks around it");
                return Err(self.error(header.value.span(), message));
            }
            matches.header = Some((name.to_ascii_lowercase(), value.clone()));
        }
        Ok(matches)
    }
}

pub(super) fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let source = Source { text, path: origin.into() };
    let file: File = toml::from_str(text)
        .map_err(|err| source.error(err.span().unwrap_or_default(), plainly(err.message().trim_end())))?;

    let mut listeners: Vec<Listener> = Vec::new();
    for table in &file.listener {
        let listener = source.listener(table.get_ref())?;
        if let Some(other) = listeners.iter().find(|other| overlap(other.address, listener.address)) {
            return Err(source.error(table.span(), both_at(listener.address, other.address)));
        }
        listeners.push(listener);
    }
    let whole = |message: &str| ConfigError { path: origin.to_owned(), line: 0, message: message.to_owned() };
    if listeners.is_empty() {
        return Err(whole("there is no [[listener]], so nothing could be served"));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = source.count(file.workers.as_ref(), cores.min(WORKERS_MAX), WORKERS_MAX)?;
    let mut clusters = BTreeMap::new();
    for (name, table) in &file.cluster {
        clusters.insert(name.as_str(), Arc::new(source.cluster(name, table, workers)?));
    }
    let base = source.limits(&file.limits, &Limits::default())?;
    let reserve = source.reserve(&file.limits, RESERVE)?;
    let mut routes: Vec<Arc<Route>> = Vec::new();
    for table in &file.route {
        let route = table.get_ref();
        let name = route.cluster.get_ref();
        let Some(cluster) = clusters.get(name.as_str()) else {
            let message = format!("there is no cluster {name:?}{}", nearest(name, clusters.keys().copied()));
            return Err(source.error(route.cluster.span(), message));
        };
        let matches = source.matches(route)?;
        let mut earlier = routes.iter().filter(|other| other.matches.covers(&matches));
        if let Some(other) = earlier.next() {
            let message = format!("no request comes here: route {:?} above takes all that match", other.name);
            return Err(source.error(table.span(), message));
        }
        let name: Arc<str> = match &route.name {
            Some(name) => name.as_str().into(),
            None => matches.to_string().into(),
        };
        if routes.iter().any(|other| other.name == name) {
            return Err(source.error(table.span(), format!("two routes are called {name:?}: give them names")));
        }
        routes.push(Arc::new(Route {
            name,
            matches,
            cluster: Arc::clone(cluster),
            limits: source.limits(&route.limits, &base)?,
            reserve: source.reserve(&route.limits, reserve)?,
            body_max: route.body_max,
        }));
    }
    if routes.is_empty() {
        return Err(whole("there is no [[route]], so no request could be sent anywhere"));
    }
    let admin = file.admin.as_ref().map(|admin| source.admin(admin)).transpose()?;
    if let (Some(table), Some(admin)) = (&file.admin, &admin)
        && admin.address.port() != 0
        && let Some(other) = listeners.iter().find(|listener| {
            // The operator's address `[::]` is that of IPv4, too.
            let both = (admin.address.ip() == Ipv6Addr::UNSPECIFIED)
                .then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), admin.address.port()));
            [Some(admin.address), both].into_iter().flatten().any(|own| overlap(own, listener.address))
        })
    {
        return Err(source.error(table.listen.span(), both_at(admin.address, other.address)));
    }
    let format = match &file.log.format {
        None => Format::Json,
        Some(format) => match format.get_ref().as_str() {
            "json" => Format::Json,
            "text" => Format::Text,
            other => return Err(source.error(format.span(), format!("{other:?} is no format: json or text"))),
        },
    };
    let (to, log_line) = match (file.log.off, &file.log.file) {
        (Some(true), _) => (To::Off, 0),
        (_, Some(path)) if path.get_ref().as_os_str().is_empty() => {
            return Err(
                source.error(path.span(), "the log has no file without a name; left out, it goes to standard output")
            );
        }
        (_, Some(path)) => (To::File(path.get_ref().clone()), source.line(path.span())),
        _ => (To::Stdout, 0),
    };
    let doubtful = doubts::found(&source, &file, &listeners, admin.as_ref(), &routes);
    Ok(Config {
        path: Arc::clone(&source.path),
        workers,
        doubtful,
        log_line,
        dns: source.dns(&file.dns)?,
        listeners,
        routes,
        admin,
        log: Log { format, to, rate: file.log.rate.as_ref().map(|rate| source.rate(rate)).transpose()? },
        trace: source.trace(&file.trace)?,
        drain: source.some_limit("drain", LimitName::Total, file.drain.as_ref(), DRAIN)?,
    })
}

/// `204`, or `200-399`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (200 <= first && first <= last && last <= 599).then_some(first..=last)
}

/// An address of IPv4 that is written as one of IPv6 is one of IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// Whether only one of them can be listened on: no address in particular is each of its family.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.is_ipv4() == other.is_ipv4() && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one == other || all && one.port() == other.port() && one.port() != 0
}

fn both_at(address: SocketAddr, other: SocketAddr) -> String {
    match address == other {
        true => format!("a listener is at {address} already"),
        false => format!("{address} cannot be listened on: a listener is at {other}, and one takes in the other"),
    }
}

/// Whether a request could name such a host, port aside: a name, or an address.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_~%".contains(&byte))
        }),
    }
}

/// The same with a port, or without.
fn is_authority(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => is_host(host) && port.parse::<u16>().is_ok(),
        _ => is_host(text),
    }
}

/// Whether a request could ask for it: visible ASCII, of which `#` is never sent.
fn is_path(text: &str) -> bool {
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

/// What a parser says of a key or a type, in words of this file.
fn plainly(message: &str) -> String {
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    if let Some((unknown, known)) =
        message.strip_prefix("unknown field ").and_then(|rest| rest.split_once(", expected"))
        && let [unknown] = quoted(unknown).as_slice()
    {
        let known = quoted(known);
        let known = known.iter().map(String::as_str);
        let near = |other: &&str| overdue_core::edit_distance(unknown, other) * 3 <= unknown.len().max(other.len());
        return match known.clone().find(near) {
            Some(name) => format!("there is no key `{unknown}` here; did you mean `{name}`?"),
            None => format!("there is no key `{unknown}` here, but {}", known.collect::<Vec<_>>().join(", ")),
        };
    }
    if message.ends_with("expected a string") && message.contains(" integer ") {
        return format!("{message}: write it in quotes, and a duration with its unit, such as \"30s\"");
    }
    message.replace("expected usize", "expected a whole number").replace("expected u64", "expected a whole number")
}

/// What was probably meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let near = |other: &&str| overdue_core::edit_distance(word, other) * 3 <= word.len().max(other.len());
    match known.clone().find(near) {
        Some(name) => format!("; did you mean {name:?}?"),
        None => match known.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ") {
            names if names.is_empty() => "; there are none: add a table [cluster.NAME]".to_owned(),
            names => format!("; there are {names}"),
        },
    }
}
