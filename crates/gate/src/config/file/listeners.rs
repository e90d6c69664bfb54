//! Where clients and the operator come in.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use overdue::server::{TrustedPeers, certificates::CertificateFiles, hello::HelloPolicy};
use overdue_core::{LimitName, Stage};
use toml::Spanned;

use super::{AdminTable, CertificateTable, ListenerTable, Source, TlsTable};
use crate::config::{Admin, ConfigError, Forwarded, Listener, Tls};

/// Defaults that are not those of every call: see the reference of the configuration.
const HEAD: Duration = Duration::from_secs(10);
const CLIENT_IDLE: Duration = Duration::from_secs(75);
const HANDSHAKE: Duration = Duration::from_secs(10);
const CLIENTS: usize = 10_000;

impl Source<'_> {
    pub(super) fn listeners(&self, tables: &[Spanned<ListenerTable>]) -> Result<Vec<Listener>, ConfigError> {
        let mut listeners: Vec<Listener> = Vec::new();
        for table in tables {
            let listener = self.listener(table.get_ref())?;
            if let Some(other) = listeners.iter().find(|other| overlap(other.address, listener.address)) {
                return Err(self.error(table.span(), both_at(listener.address, other.address)));
            }
            listeners.push(listener);
        }
        Ok(listeners)
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

    pub(super) fn admin(&self, table: &AdminTable, listeners: &[Listener]) -> Result<Admin, ConfigError> {
        let name = |name: &Spanned<String>| {
            let text = name.get_ref().to_ascii_lowercase();
            if text.is_empty() || text.contains([':', '/', '*', ' ']) {
                let message = format!("{text:?} is no name of this machine without a port, such as gate.example.com");
                return Err(self.error(name.span(), message));
            }
            Ok(text)
        };
        let names = table.names.iter().map(name).collect::<Result<_, _>>()?;
        let address = self.address(&table.listen)?;
        // The operator's address `[::]` is that of IPv4, too.
        let both = (address.ip() == Ipv6Addr::UNSPECIFIED)
            .then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()));
        let takes = |listener: &&Listener| {
            [Some(address), both].into_iter().flatten().any(|own| overlap(own, listener.address))
        };
        if let Some(other) = listeners.iter().find(takes).filter(|_| address.port() != 0) {
            return Err(self.error(table.listen.span(), both_at(address, other.address)));
        }
        Ok(Admin { address, names })
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
