//! The file as it is written, and how it becomes what it means.

use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use overdue::server::{TrustedPeers, certificates::CertificateFiles, hello::HelloPolicy};
use overdue_core::{Limit, LimitName, Limits, Origin, Stage, parse_duration};
use serde::Deserialize;
use toml::Spanned;

use super::{Admin, Cluster, Config, ConfigError, Format, Listener, Log, Matches, Route, Tls, To};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workers: Option<Spanned<usize>>,
    drain: Option<Spanned<String>>,
    #[serde(default)]
    limits: LimitsTable,
    admin: Option<AdminTable>,
    #[serde(default)]
    log: LogTable,
    #[serde(default)]
    listener: Vec<Spanned<ListenerTable>>,
    #[serde(default)]
    cluster: BTreeMap<String, Spanned<ClusterTable>>,
    #[serde(default)]
    route: Vec<Spanned<RouteTable>>,
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
    file: Option<PathBuf>,
    off: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    listen: Spanned<String>,
    head: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    #[serde(default)]
    trusted: Vec<Spanned<String>>,
    connections: Option<Spanned<usize>>,
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
    chain: PathBuf,
    key: PathBuf,
    staple: Option<PathBuf>,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterTable {
    servers: Vec<Spanned<String>>,
    connections: Option<Spanned<usize>>,
    idle: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTable {
    name: Option<String>,
    host: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    #[serde(default)]
    methods: Vec<Spanned<String>>,
    header: Option<HeaderTable>,
    cluster: Spanned<String>,
    body_max: Option<u64>,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderTable {
    name: Spanned<String>,
    value: String,
}

/// `none` leaves a limit out on purpose.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    queue: Option<Spanned<String>>,
    connect: Option<Spanned<String>>,
    send: Option<Spanned<String>>,
    wait: Option<Spanned<String>>,
    gap: Option<Spanned<String>>,
    total: Option<Spanned<String>>,
}

/// Defaults that are not those of every call: see the reference of the configuration.
const HEAD: Duration = Duration::from_secs(10);
const CLIENT_IDLE: Duration = Duration::from_secs(75);
const SERVER_IDLE: Duration = Duration::from_secs(50);
const HANDSHAKE: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(30);
const CLIENTS: usize = 10_000;
const TO_A_SERVER: usize = 512;
const WORKERS_MAX: usize = 256;

/// A file's text and its name, for errors and origins.
struct Source<'a> {
    text: &'a str,
    path: Arc<str>,
}

impl Source<'_> {
    fn line(&self, span: Range<usize>) -> u32 {
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
        let value = parse_duration(text.get_ref()).map_err(|err| self.error(text.span(), format!("{name}: {err}")))?;
        if value.is_zero() {
            return Err(
                self.error(text.span(), format!("{name}: nothing can be done in no time; write \"none\" for no limit"))
            );
        }
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(text.span()) };
        Ok(Some(Limit { name, value, origin }))
    }

    fn limit_or(
        &self,
        name: LimitName,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Option<Limit>, ConfigError> {
        text.map_or(Ok(Some(Limit { name, value: default, origin: Origin::Default })), |text| self.limit(name, text))
    }

    /// One that has to be there: what has no end would hold up the end of everything.
    fn some_limit(
        &self,
        name: LimitName,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Limit, ConfigError> {
        let default = Limit { name, value: default, origin: Origin::Default };
        let Some(text) = text else { return Ok(default) };
        self.limit(name, text)?.ok_or_else(|| self.error(text.span(), format!("{name}: there has to be a limit here")))
    }

    fn limits(&self, table: &LimitsTable, base: &Limits) -> Result<Limits, ConfigError> {
        let mut limits = base.clone();
        let stage = LimitName::Stage;
        for (name, text) in [
            (stage(Stage::Queue), &table.queue),
            (stage(Stage::Connect), &table.connect),
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

    fn address(&self, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        text.get_ref().parse().map_err(|_| {
            let text_of = text.get_ref();
            self.error(
                text.span(),
                format!("{text_of:?} is no address with a port, such as 127.0.0.1:8080 or [::]:8080"),
            )
        })
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
        Ok(Listener {
            address: self.address(&table.listen)?,
            head: self.limit_or(LimitName::Head, table.head.as_ref(), HEAD)?,
            idle: self.limit_or(LimitName::Idle, table.idle.as_ref(), CLIENT_IDLE)?,
            trusted,
            connections: self.count(table.connections.as_ref(), CLIENTS, 1_000_000)?,
            tls: table.tls.as_ref().map(|table| self.tls(table)).transpose()?,
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
            let files = CertificateFiles::new(&pair.chain, &pair.key);
            let files = pair.staple.iter().fold(files, |files, staple| files.staple(staple));
            if pair.names.is_empty() { files } else { files.names(pair.names.iter().map(String::as_str)) }
        };
        let only_1_3 = match oldest.as_ref().map(|oldest| (oldest.get_ref().as_str(), oldest.span())) {
            None | Some(("1.2", _)) => false,
            Some(("1.3", _)) => true,
            Some((other, span)) => return Err(self.error(span, format!("{other:?} is no version: 1.2 or 1.3"))),
        };
        for name in names {
            let _checked =
                HelloPolicy::new().names([name.get_ref().as_str()]).map_err(|err| self.error(name.span(), err))?;
        }
        Ok(Tls {
            certificates: certificates.iter().map(files).collect(),
            limit: self.some_limit(LimitName::Stage(Stage::Tls), limit.as_ref(), HANDSHAKE)?,
            only_1_3,
            names: names.iter().map(|name| name.get_ref().clone()).collect(),
            rate: rate.as_ref().map(|rate| self.rate(rate)).transpose()?,
            failure_rate: failure_rate.as_ref().map(|rate| self.rate(rate)).transpose()?,
        })
    }

    /// `20/10s`: so many in that time.
    fn rate(&self, text: &Spanned<String>) -> Result<(u32, Duration), ConfigError> {
        let rate = text.get_ref().split_once('/').and_then(|(count, per)| {
            let (count, per) = (count.trim().parse::<u32>().ok()?, parse_duration(per.trim()).ok()?);
            (count > 0 && !per.is_zero()).then_some((count, per))
        });
        rate.ok_or_else(|| self.error(text.span(), format!("{:?} is no rate, such as 20/10s", text.get_ref())))
    }

    fn cluster(&self, name: &str, table: &Spanned<ClusterTable>) -> Result<Cluster, ConfigError> {
        let ClusterTable { servers, connections, idle } = table.get_ref();
        if servers.is_empty() {
            return Err(self.error(table.span(), format!("cluster {name:?} has no servers")));
        }
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for server in servers {
            let address = self.address(server)?;
            if addresses.contains(&address) {
                return Err(self.error(server.span(), format!("{address} is there twice")));
            }
            addresses.push(address);
        }
        Ok(Cluster {
            name: name.into(),
            servers: addresses,
            connections: self.count(connections.as_ref(), TO_A_SERVER, 100_000)?,
            idle: self.some_limit(LimitName::Idle, idle.as_ref(), SERVER_IDLE)?,
        })
    }

    fn matches(&self, table: &RouteTable) -> Result<Matches, ConfigError> {
        let mut matches = Matches::default();
        if let Some(host) = &table.host {
            let text = host.get_ref().to_ascii_lowercase();
            let name = text.strip_prefix("*.").unwrap_or(&text);
            if name.is_empty() || name.contains(['*', '/', ' ']) || name.contains(':') && !name.starts_with('[') {
                let message = format!("{text:?} is no host without a port, such as example.com or *.example.com");
                return Err(self.error(host.span(), message));
            }
            matches.host = Some(text);
        }
        if let Some(path) = &table.path {
            let text = path.get_ref();
            if !text.starts_with('/') || text.contains(['?', '#', ' ']) {
                return Err(self.error(path.span(), format!("{text:?} is no path, such as / or /v1")));
            }
            matches.path = Some(text.clone());
        }
        for method in &table.methods {
            let text = method.get_ref();
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                return Err(self.error(method.span(), format!("{text:?} is no method, such as GET")));
            }
            matches.methods.push(text.clone());
        }
        if let Some(header) = &table.header {
            let name = header.name.get_ref();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                return Err(self.error(header.name.span(), format!("{name:?} is no name of a header field")));
            }
            matches.header = Some((name.to_ascii_lowercase(), header.value.clone()));
        }
        Ok(matches)
    }
}

pub(super) fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let source = Source { text, path: origin.into() };
    let file: File =
        toml::from_str(text).map_err(|err| source.error(err.span().unwrap_or_default(), err.message().trim_end()))?;

    let mut listeners: Vec<Listener> = Vec::new();
    for table in &file.listener {
        let listener = source.listener(table.get_ref())?;
        if listeners.iter().any(|other| other.address == listener.address) {
            return Err(source.error(table.span(), format!("two listeners are at {}", listener.address)));
        }
        listeners.push(listener);
    }
    let whole = |message: &str| ConfigError { path: origin.to_owned(), line: 0, message: message.to_owned() };
    if listeners.is_empty() {
        return Err(whole("there is no [[listener]], so nothing could be served"));
    }
    let mut clusters = BTreeMap::new();
    for (name, table) in &file.cluster {
        clusters.insert(name.as_str(), Arc::new(source.cluster(name, table)?));
    }
    let base = source.limits(&file.limits, &Limits::default())?;
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
            body_max: route.body_max,
        }));
    }
    if routes.is_empty() {
        return Err(whole("there is no [[route]], so no request could be sent anywhere"));
    }
    let admin = file.admin.as_ref().map(|admin| source.admin(admin)).transpose()?;
    let format = match &file.log.format {
        None => Format::Json,
        Some(format) => match format.get_ref().as_str() {
            "json" => Format::Json,
            "text" => Format::Text,
            other => return Err(source.error(format.span(), format!("{other:?} is no format: json or text"))),
        },
    };
    let to = match (file.log.off, file.log.file) {
        (Some(true), _) => To::Off,
        (_, Some(path)) => To::File(path),
        _ => To::Stdout,
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Config {
        workers: source.count(file.workers.as_ref(), workers.min(WORKERS_MAX), WORKERS_MAX)?,
        listeners,
        routes,
        admin,
        log: Log { format, to },
        drain: source.some_limit(LimitName::Total, file.drain.as_ref(), DRAIN)?,
    })
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
