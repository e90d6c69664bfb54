//! How names become addresses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use overdue::resolve::{Enough, Resolver};
use overdue_core::Limit;

/// How the names of servers are turned into addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Who is asked; empty: whom the system asks, after a look into `/etc/hosts`.
    pub servers: Vec<SocketAddr>,
    /// Names for which nobody is asked.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// One lookup, whoever is asked, and however often. Both families are asked for, and each that may be used is waited for until
    /// then.
    pub limit: Limit,
    /// From one lookup of a name to the next, whatever its TTL is. After one that failed, be it for one family, the next
    /// comes as soon, and those after it less and less often.
    pub refresh_min: Duration,
    /// The same; also where nobody says a TTL.
    pub refresh_max: Duration,
    /// Which addresses are used of a name that has some of both families. Of a family for which a lookup failed, the last
    /// that were known count, until one says that there are none.
    pub family: Family,
}

/// Addresses of which family are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Those of IPv4; where there are none, those of IPv6.
    V4First,
    /// Those of IPv6; where there are none, those of IPv4.
    V6First,
    /// All: each is a server.
    Both,
}

impl Dns {
    /// Who asks. Reads the files of the system.
    pub(crate) fn resolver(&self) -> Resolver {
        let resolver =
            if self.servers.is_empty() { Resolver::system() } else { Resolver::servers(self.servers.clone()) };
        let with = |resolver: Resolver, (name, addresses): (&String, &Vec<IpAddr>)| {
            resolver.with_override(name, None, addresses.clone())
        };
        self.hosts.iter().fold(resolver, with)
    }

    /// How long a name is not looked up again.
    pub(crate) fn pause(&self, ttl: Option<Duration>) -> Duration {
        ttl.unwrap_or(self.refresh_max).clamp(self.refresh_min, self.refresh_max)
    }
}

impl Family {
    /// Whether addresses of this family are used whatever there is of the other.
    pub(crate) const fn wants(self, is_v6: bool) -> bool {
        match self {
            Self::V4First => !is_v6,
            Self::V6First => is_v6,
            Self::Both => true,
        }
    }

    /// Which of them makes the other's of no account.
    pub(crate) const fn enough(self) -> Enough {
        match self {
            Self::V4First => Enough::V4,
            Self::V6First => Enough::V6,
            Self::Both => Enough::Both,
        }
    }

    /// Those that are used, in an order that does not change from answer to answer.
    pub(crate) fn used(self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let is_wanted = |address: &IpAddr| self.wants(address.is_ipv6());
        if addresses.iter().any(is_wanted) {
            addresses.retain(is_wanted);
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
