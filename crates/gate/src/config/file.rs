//! The file as it is written, and how it becomes what it means.

mod clusters;
mod listeners;
mod log;
mod routes;
mod values;

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use overdue_core::{LimitName, Stage};
use serde::Deserialize;
use toml::Spanned;

pub(super) use self::values::canonical;
use super::{Config, ConfigError, Dns, Family, Trace, doubts};

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
const DRAIN: Duration = Duration::from_secs(30);
const WORKERS_MAX: usize = 256;
const LOOKUP: Duration = Duration::from_secs(5);
const REFRESH_MIN: Duration = Duration::from_secs(5);
const REFRESH_MAX: Duration = Duration::from_secs(60);

/// A file's text and its name, for errors and origins.
pub(super) struct Source<'a> {
    text: &'a str,
    file: &'a Path,
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
}

/// The text of this file, which the user knows as `origin`.
pub(super) fn parse(text: &str, file: &Path, origin: &str) -> Result<Config, ConfigError> {
    let source = Source { text, file, path: origin.into() };
    let file: File = toml::from_str(text)
        .map_err(|err| source.error(err.span().unwrap_or_default(), plainly(err.message().trim_end())))?;

    let listeners = source.listeners(&file.listener)?;
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
    let routes = source.routes(&file, &clusters)?;
    if routes.is_empty() {
        return Err(whole("there is no [[route]], so no request could be sent anywhere"));
    }
    let admin = file.admin.as_ref().map(|admin| source.admin(admin, &listeners)).transpose()?;
    let (log, log_line) = source.log(&file)?;
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
        log,
        trace: source.trace(&file.trace)?,
        drain: source.some_limit("drain", LimitName::Total, file.drain.as_ref(), DRAIN)?,
    })
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
