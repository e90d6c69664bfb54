//! What a file says that can be followed, and is hardly what was meant.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    sync::Arc,
};

use overdue_core::{DurationText, Limit, Origin};
use toml::Spanned;

use super::{
    Admin, Config, Listener, Route,
    file::{File, Source, canonical},
};
use crate::http1::climbs;

/// Something that is followed as it is written, and is hardly what was meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// Where it is: file and line, or a route.
    pub place: String,
    /// What is odd about it.
    pub text: String,
    /// What would be better.
    pub fix: String,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.text, self.fix)
    }
}

/// Those that can be seen from the file alone.
pub(super) fn found(
    source: &Source<'_>,
    file: &File,
    listeners: &[Listener],
    admin: Option<&Admin>,
    routes: &[Arc<Route>],
) -> Vec<Doubt> {
    let at = |span: Range<usize>| format!("{}:{}", source.path, source.line(span));
    let mut doubts = Vec::new();
    doubts.extend(listeners.iter().filter_map(|listener| never_fires(listener, routes)));
    let used: BTreeSet<&str> = file.route.iter().map(|route| route.get_ref().cluster.get_ref().as_str()).collect();
    for (name, table) in &file.cluster {
        if !used.contains(name.as_str()) {
            doubts.push(Doubt {
                place: at(table.span()),
                text: format!("no route leads to cluster {name:?}: its servers are never asked"),
                fix: "add a [[route]] with that cluster, or leave it out".to_owned(),
            });
        }
        let addresses = listeners.iter().map(|listener| listener.address);
        for server in &table.get_ref().servers {
            let Ok(address) = server.get_ref().parse() else { continue };
            if let Some(own) = reached(address, addresses.clone(), admin) {
                doubts.push(own.doubt(at(server.span()), name, server.get_ref()));
            }
        }
        let probes = routes.iter().map(|route| &route.cluster).find(|cluster| *cluster.name == **name);
        if let Some(health) = probes.and_then(|cluster| cluster.health.as_ref())
            && health.limit.value > health.every
            && let Some(said) = &table.get_ref().health
        {
            let span = said.limit.as_ref().or(said.every.as_ref()).map_or_else(|| table.span(), Spanned::span);
            let (limit, every) = (DurationText(health.limit.value), DurationText(health.every));
            doubts.push(Doubt {
                place: at(span),
                text: format!(
                    "a probe may take {limit}, and the next begins {every} after it: a server that says nothing is \
                     probed every {} and not every {every}",
                    DurationText(health.limit.value + health.every)
                ),
                fix: "make `limit` shorter than `every`".to_owned(),
            });
        }
    }
    for route in &file.route {
        if let Some(path) = route.get_ref().path.as_ref().filter(|path| climbs(path.get_ref())) {
            doubts.push(Doubt {
                place: at(path.span()),
                text: format!("no request comes here: a path that climbs, such as {:?}, is refused", path.get_ref()),
                fix: "write the path without its dots".to_owned(),
            });
        }
        if let Some(path) = route.get_ref().path.as_ref().filter(|path| path.get_ref().contains('*')) {
            doubts.push(Doubt {
                place: at(path.span()),
                text: format!(
                    "a path is no pattern: {:?} is asked for with a `*` in it, and hardly by anybody",
                    path.get_ref()
                ),
                fix: "write the path up to a slash: what is below it belongs to it".to_owned(),
            });
        }
    }
    doubts
}

/// A rate of a listener that somebody set, and that the limits of every route always come before. `head` is none of these:
/// no route is known, and no limit of one runs, before the head is there.
fn never_fires(listener: &Listener, routes: &[Arc<Route>]) -> Option<Doubt> {
    let rate = listener.body_rate.as_ref()?;
    let Origin::File { path, line } = &rate.origin else { return None };
    let sending = routes
        .iter()
        .map(|route| [&route.limits.send, &route.limits.total].into_iter().flatten().min_by_key(|limit| limit.value));
    let sending: Vec<&Limit> = sending.collect::<Option<_>>()?;
    let first = sending.iter().max_by_key(|limit| limit.value)?;
    (first.value <= rate.value).then(|| Doubt {
        place: format!("{path}:{line}"),
        text: format!("{} {} can never fire: {first} always does so first", rate.name, DurationText(rate.value)),
        fix: format!("make it shorter than {}, or lengthen that", first.name),
    })
}

/// An address of this gateway itself, to which requests would be sent.
#[derive(Clone, Copy)]
enum Own {
    Listener(SocketAddr),
    Admin(SocketAddr),
}

impl Own {
    fn doubt(self, place: String, cluster: &str, server: &str) -> Doubt {
        let text = match self {
            Self::Listener(own) => {
                format!(
                    "cluster {cluster:?} sends requests to {server}, where this gateway listens itself ({own}): in a circle"
                )
            }
            Self::Admin(own) => format!(
                "cluster {cluster:?} sends requests to {server}, which is the operator's address ({own}): clients could \
                 reload and drain"
            ),
        };
        Doubt { place, text, fix: "name the server behind".to_owned() }
    }
}

/// Which of these is reached by who connects to that address.
fn reached(server: SocketAddr, listeners: impl Iterator<Item = SocketAddr>, admin: Option<&Admin>) -> Option<Own> {
    let server = canonical(server);
    let takes = |own: &SocketAddr| {
        let ip = server.ip();
        own.port() == server.port()
            && own.is_ipv4() == server.is_ipv4()
            && (own.ip() == ip
                || own.ip().is_unspecified() && is_here(ip)
                // Who connects to no address in particular comes to this machine.
                || ip.is_unspecified() && own.ip().is_loopback())
    };
    let mut listeners = listeners;
    let listener = listeners.find(takes).map(Own::Listener);
    listener.or_else(|| admin.map(|admin| admin.address).filter(takes).map(Own::Admin))
}

/// Whether it is an address of this machine: only then is it the one from which it is reached. That something can be bound
/// to it says nothing where `ip_nonlocal_bind` is set. Nothing is sent.
fn is_here(ip: IpAddr) -> bool {
    let from = || {
        let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        // The port of "discard": any will do but 0.
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    ip.is_loopback() || ip.is_unspecified() || from().is_ok_and(|from| from.ip() == ip)
}

impl Config {
    /// What is odd about a server of this cluster that was found at this address.
    pub(crate) fn circle(&self, cluster: &str, server: &str, address: SocketAddr) -> Option<Doubt> {
        let listeners = self.listeners.iter().map(|listener| listener.address);
        let own = reached(address, listeners, self.admin.as_ref())?;
        Some(own.doubt(server.to_owned(), cluster, &address.to_string()))
    }
}
