//! Names to addresses.
//!
//! A [`Resolver`] asks DNS servers itself, or leaves it to the system's resolver on a few threads. It sets no limit of
//! its own: the caller's `resolve` limit bounds a lookup by dropping its future, which ends every query of it at
//! once. What had been sent and heard by then is in the [`LookupLog`], so that a lookup that was cut off can still
//! say whether no server answered or one was slow. [`Resolver::resolve_each`] is told the limit instead, so that one
//! family's addresses are not lost when the other's do not come.
//!
//! A name is looked for, in this order, in the overrides ([`Resolver::with_override`]), as an IP address written out,
//! in `/etc/hosts`, among the `localhost` names of RFC 6761 (loopback, IPv6 and IPv4), and only then asked for.
//! Configuration and `/etc/hosts` are read once, when the resolver is made.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use each::{Enough, Families, FamilyOutcome};
use hickory_resolver::{
    Hosts,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use overdue_core::facts::{DnsFacts, DnsFailure, OsFailure};
use tokio::time::timeout;

mod each;
mod hickory;
mod query;
mod threads;

/// How many addresses of one family a lookup gives at most.
const MAX_ADDRESSES: usize = 64;

/// Turns names into addresses. Cheap to clone; clones share the cache and the threads.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use overdue::resolve::{LookupLog, Resolver};
///
/// let resolver = Resolver::system().with_override("api.test", Some(443), vec!["127.0.0.1".parse()?]);
/// let log = LookupLog::new();
/// let addresses = resolver.lookup("api.test", 443, &log).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Resolver {
    source: Arc<Source>,
    hosts: Arc<Hosts>,
    overrides: Arc<Vec<Override>>,
}

enum Source {
    Dns(hickory::Dns),
    Threads(threads::Threads),
}

#[derive(Clone, Debug)]
struct Override {
    /// In lower case, without the last dot.
    host: String,
    port: Option<u16>,
    addresses: Vec<IpAddr>,
}

impl Resolver {
    /// Asks the servers that the system is configured with (`/etc/resolv.conf`, its search list and `ndots`; the
    /// platform's settings elsewhere), after a look into `/etc/hosts`.
    ///
    /// The files are read here, so this blocks for a moment. It cannot fail: where the configuration cannot be read or names no server, the name server of the local
    /// machine is asked, as resolv.conf(5) has it, and the error of a lookup that fails says so.
    ///
    /// **Cached**, for as long as their TTL says: addresses, and the answers NXDOMAIN and "no such record" when they
    /// carry an SOA, the latter two for at most 30 s. A failure of a server (SERVFAIL, REFUSED, no answer, nonsense)
    /// is never cached. Lookups of one name that run at the same time each ask for themselves.
    ///
    /// **Timing.** A server that is silent for 1 s is joined by the next one, and then asked again after growing
    /// pauses; a late answer is still heard, because nothing is given up before the lookup is. With no limit of the
    /// caller's, a lookup that nobody answers ends after 15 s. A server that fails (an error code, an ICMP error) is
    /// replaced by the next one at once.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Source::Dns(hickory::Dns::system()), Hosts::from_system().unwrap_or_default())
    }

    /// Asks exactly these servers, over UDP and, for what does not fit, over TCP at the same port. No search list, no
    /// `/etc/hosts`. Caching and timing are those of [`Resolver::system`]. Without any server, every lookup that
    /// would ask one fails.
    #[must_use]
    pub fn servers(servers: Vec<SocketAddr>) -> Self {
        Self::new(Source::Dns(hickory::Dns::new(servers)), Hosts::default())
    }

    /// Leaves it to the system's resolver (`getaddrinfo`), on at most `cap` threads at a time (at least one).
    ///
    /// Such a call cannot be cancelled. When a lookup is dropped, its thread stays behind until the call returns, and
    /// counts as one of the `cap` for that long: a resolver that is stuck holds `cap` threads and no more. Lookups
    /// beyond that wait for a thread, and waiting is cancelled like anything else. Nothing is cached here, and how
    /// many queries are sent is not known.
    #[must_use]
    pub fn threads(cap: usize) -> Self {
        Self::new(Source::Threads(threads::Threads::system(cap)), Hosts::from_system().unwrap_or_default())
    }

    /// The same resolver, which gives `addresses` for `host`, at that port or at every port, and asks nobody (as
    /// `curl --resolve` does). A later override wins over an earlier one.
    #[must_use]
    pub fn with_override(mut self, host: &str, port: Option<u16>, addresses: Vec<IpAddr>) -> Self {
        Arc::make_mut(&mut self.overrides).push(Override { host: plain(host), port, addresses });
        self
    }

    fn new(source: Source, hosts: Hosts) -> Self {
        Self { source: Arc::new(source), hosts: Arc::new(hosts), overrides: Arc::default() }
    }

    /// The addresses of `host`, as [`lookup`](Self::lookup) gives them, and for how long they may be taken for true.
    ///
    /// # Errors
    /// As those of [`lookup`](Self::lookup).
    ///
    /// # Cancellation safety
    /// As that of [`lookup`](Self::lookup).
    pub async fn resolve(&self, host: &str, port: u16, log: &LookupLog) -> Result<Resolved, ResolveError> {
        log.begin(host);
        let resolved = match self.known(host, port)? {
            Known::Addresses(addresses) => Resolved { addresses, ttl: None },
            Known::Name(name) => match &*self.source {
                Source::Dns(dns) => dns.lookup(&name, log).await?,
                Source::Threads(threads) => {
                    log.hide();
                    Resolved { addresses: by_turns(threads.lookup(for_the_system(host, &name)).await?), ttl: None }
                }
            },
        };
        if resolved.addresses.is_empty() {
            return Err(ResolveError::new(DnsFailure::NoAddress, format!("{host}: no address")));
        }
        Ok(resolved)
    }

    /// The addresses of `host`: IPv6 and IPv4 by turns, IPv6 first, as RFC 8305 wants them tried. There is at least
    /// one. `port` matters for overrides alone.
    ///
    /// Both families are asked for at the same time; when one has given addresses, the other has 50 ms more.
    ///
    /// # Errors
    /// When there is no address; [`ResolveError::reason`] says why.
    ///
    /// # Cancellation safety
    /// Dropping the future ends the lookup; nothing goes on asking (but see [`Resolver::threads`]). `log` keeps what
    /// was seen.
    pub async fn lookup(&self, host: &str, port: u16, log: &LookupLog) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(self.resolve(host, port, log).await?.addresses)
    }

    /// The addresses of `host` in each family, for who wants to know of both, and not just to connect now: each is
    /// waited for until `limit`, whatever the other came to, or until there is [`Enough`]. `port` matters for overrides
    /// alone.
    ///
    /// The families are those of one name: the first of the search list that has an address of either is taken, as for
    /// [`lookup`](Self::lookup). Where nobody is asked, or the system's resolver is ([`Resolver::threads`], which does
    /// not say what it came to in each), a family without an address has none.
    ///
    /// # Errors
    /// Each family has its own, in its [`FamilyOutcome`]. A family whose answer has not come within `limit` is
    /// [`FamilyOutcome::Cut`]; what has come of the other by then is given.
    ///
    /// # Cancellation safety
    /// As that of [`lookup`](Self::lookup). Dropped, it gives nothing, also of a family that had been answered.
    pub async fn resolve_each(
        &self,
        host: &str,
        port: u16,
        enough: Enough,
        limit: Duration,
        log: &LookupLog,
    ) -> Families {
        log.begin(host);
        match self.known(host, port) {
            Ok(Known::Addresses(addresses)) => Families::of(host, addresses),
            Ok(Known::Name(name)) => match &*self.source {
                Source::Dns(dns) => dns.lookup_each(&name, enough, limit, log).await,
                Source::Threads(threads) => {
                    log.hide();
                    match timeout(limit, threads.lookup(for_the_system(host, &name))).await {
                        Ok(Ok(addresses)) => Families::of(host, addresses),
                        Ok(Err(err)) => Families::both(Err(err).into()),
                        Err(_) => Families::both(FamilyOutcome::Cut),
                    }
                }
            },
            Err(err) => Families::both(Err(err).into()),
        }
    }

    /// What is known without asking anybody.
    fn known(&self, host: &str, port: u16) -> Result<Known, ResolveError> {
        let plain = plain(host);
        let matches = |entry: &&Override| entry.host == plain && entry.port.is_none_or(|at| at == port);
        if let Some(entry) = self.overrides.iter().rev().find(matches) {
            return Ok(Known::Addresses(entry.addresses.clone()));
        }
        if let Ok(ip) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse() {
            return Ok(Known::Addresses(vec![ip]));
        }
        let name = host_name(host)?;
        let is_localhost = plain == "localhost" || plain.ends_with(".localhost");
        // The system's resolver looks into /etc/hosts itself, and in the order that the system wants.
        if is_localhost || matches!(&*self.source, Source::Dns(_)) {
            let addresses = in_hosts(&self.hosts, &name);
            if !addresses.is_empty() {
                return Ok(Known::Addresses(addresses));
            }
        }
        if is_localhost {
            return Ok(Known::Addresses(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]));
        }
        if plain.ends_with(".onion") {
            let text = format!("{host}: no name of the DNS (RFC 7686), not asked for");
            return Err(ResolveError::new(DnsFailure::NoSuchName, text));
        }
        Ok(Known::Name(name))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Resolver");
        match &*self.source {
            Source::Dns(dns) => debug.field("dns", dns),
            Source::Threads(threads) => debug.field("threads", threads),
        };
        debug.field("overrides", &self.overrides).finish_non_exhaustive()
    }
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// IPv6 and IPv4 by turns, IPv6 first; at least one.
    pub addresses: Vec<IpAddr>,
    /// What is left of the shortest TTL of the answers. `None` where nobody said one: an address, an override, the hosts
    /// file, the system's resolver.
    pub ttl: Option<Duration>,
}

enum Known {
    Addresses(Vec<IpAddr>),
    Name(Name),
}

/// Why a lookup gave no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
#[non_exhaustive]
pub struct ResolveError {
    /// The class of the failure.
    pub reason: DnsFailure,
    /// In words: the name, the servers and what each of them said.
    pub text: String,
    /// What this machine refused, when nothing could be asked because of it (no descriptor for a socket, no thread).
    pub os: Option<OsFailure>,
}

impl ResolveError {
    fn new(reason: DnsFailure, text: String) -> Self {
        Self { reason, text, os: None }
    }

    /// Of two failures the one that leaves more open: a name may exist when a server failed, and certainly does when
    /// another of its records is what is missing. Both texts are kept where they differ.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let rank = |err: &Self| match err.reason {
            _ if err.os.is_some() => 0,
            DnsFailure::ServerError => 1,
            DnsFailure::Unusable => 2,
            DnsFailure::NoAnswer => 3,
            DnsFailure::NoAddress => 4,
            DnsFailure::NoSuchName | DnsFailure::InvalidName => 5,
        };
        let (mut worse, other) = if rank(&other) < rank(&self) { (other, self) } else { (self, other) };
        if worse.text != other.text {
            worse.text = format!("{}; {}", worse.text, other.text);
        }
        worse
    }
}

/// What one lookup has done so far. It can be read at any moment, from any thread, also after the lookup's future was
/// dropped. One for each lookup: a second lookup begins it anew.
#[derive(Debug, Default)]
pub struct LookupLog(Mutex<DnsFacts>);

impl LookupLog {
    /// A log of a lookup that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been seen.
    ///
    /// `queries` counts what was handed to the network, repeats and TCP included; `answers` counts what came back from
    /// a server that was asked, of whatever kind, usable or not. Both are 0 when nobody had to be asked (an override,
    /// an address, `/etc/hosts`, the cache), and `None` when the system's resolver does the asking, or before the
    /// lookup began. `servers` are addresses with ports, in the order in which they were first asked.
    #[must_use]
    pub fn facts(&self) -> DnsFacts {
        self.lock().clone()
    }

    fn begin(&self, host: &str) {
        *self.lock() = DnsFacts {
            name: host.to_owned(),
            servers: Vec::new(),
            queries: Some(0),
            answers: Some(0),
            truncated: false,
        };
    }

    /// The asking is done where it cannot be seen.
    fn hide(&self) {
        let mut facts = self.lock();
        (facts.queries, facts.answers) = (None, None);
    }

    fn asked(&self, server: SocketAddr) {
        let mut facts = self.lock();
        facts.queries = facts.queries.map(|queries| queries.saturating_add(1));
        let server = server.to_string();
        if !facts.servers.contains(&server) {
            facts.servers.push(server);
        }
    }

    fn answered(&self) {
        let mut facts = self.lock();
        facts.answers = facts.answers.map(|answers| answers.saturating_add(1));
    }

    fn truncated(&self) {
        self.lock().truncated = true;
    }

    fn lock(&self) -> MutexGuard<'_, DnsFacts> {
        // Every change is a single assignment, so there is nothing half done to be seen after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name as `getaddrinfo` takes it.
fn for_the_system(host: &str, name: &Name) -> String {
    if host.is_ascii() { host.to_owned() } else { name.to_ascii() }
}

/// A host as overrides compare it.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Reads a host name: letters, digits, `-` and `_` in labels of 1 to 63, at most 253 in all; other alphabets by IDNA.
/// One whose last label is a number is an IP address gone wrong, and never worth a query.
fn host_name(host: &str) -> Result<Name, ResolveError> {
    let invalid = |why: &str| ResolveError::new(DnsFailure::InvalidName, format!("{host:?} is no host name: {why}"));
    if host.is_empty() || host == "." {
        return Err(invalid("it is empty"));
    }
    if host.len() > 1024 {
        return Err(ResolveError::new(DnsFailure::InvalidName, "a host name of more than 1024 bytes".to_owned()));
    }
    let is_allowed = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(odd) = host.chars().find(|&c| !is_allowed(c)) {
        return Err(invalid(&format!("{odd:?} is not allowed in it")));
    }
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid("its last label is a number, and it is no IP address"));
    }
    let name = if host.is_ascii() { Name::from_ascii(host) } else { Name::from_str(host) };
    name.map_err(|err| invalid(&err.to_string()))
}

/// A name that the hosts file has in one family only is not asked for in the other.
fn in_hosts(hosts: &Hosts, name: &Name) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for family in [RecordType::AAAA, RecordType::A] {
        if let Some(lookup) = hosts.lookup_static_host(&Query::query(name.clone(), family)) {
            found.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
        }
    }
    by_turns(found)
}

/// IPv6 and IPv4 by turns, IPv6 first, each address once; the order within a family stays.
fn by_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut families = [Vec::new(), Vec::new()];
    let [v6, v4] = &mut families;
    for address in addresses {
        let family = if address.is_ipv6() { &mut *v6 } else { &mut *v4 };
        if family.len() < MAX_ADDRESSES && !family.contains(&address) {
            family.push(address);
        }
    }
    let turns = v6.len().max(v4.len());
    (0..turns).flat_map(|turn| [v6.get(turn), v4.get(turn)]).flatten().copied().collect()
}

#[cfg(test)]
mod tests;
