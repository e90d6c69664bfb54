//! Servers that are alike, TLS towards them, and how it is found out whether they are well.

use std::{
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use overdue_core::LimitName;
use toml::Spanned;

use super::{
    ClusterTable, HealthTable, ServerTlsTable, Source,
    values::{is_host, is_path},
};
use crate::config::{
    Cluster, ConfigError, Health, ProxyProtocol, ServerAt, ServerTls,
    server_tls::{self, Said},
};

/// Defaults that are not those of every call: see the reference of the configuration.
const SERVER_IDLE: Duration = Duration::from_secs(50);
const TO_A_SERVER: usize = 512;
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(2);
const HEALTHY: usize = 2;
const UNHEALTHY: usize = 3;
const PROBES_MAX: usize = 1000;

impl Source<'_> {
    pub(super) fn cluster(
        &self,
        name: &str,
        table: &Spanned<ClusterTable>,
        workers: usize,
    ) -> Result<Cluster, ConfigError> {
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
}

/// `204`, or `200-399`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (200 <= first && first <= last && last <= 599).then_some(first..=last)
}

/// The same with a port, or without.
fn is_authority(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => is_host(host) && port.parse::<u16>().is_ok(),
        _ => is_host(text),
    }
}
