//! Looks out for servers, on behalf of all workers: what their names stand for, and who is well. A thread of its own: nothing of it is on
//! the way of a request. What it finds is told to the workers as another configuration is, by an order.

mod names;
mod probe;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use overdue_core::{
    DurationText,
    facts::{DnsFacts, DnsFailure, Failure},
};
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet, LocalSet},
};

use self::names::Name;
pub(crate) use self::names::{Looked, look_up};
use self::probe::{Probed, Unwell};
use crate::{
    clock,
    config::{Cluster, Config, Doubt, Family, ServerAt},
    gate::{GateError, Order},
    log::{Event, Writer},
};

/// A configuration, and where the servers of its clusters are.
#[derive(PartialEq)]
pub(crate) struct Outlook {
    pub(crate) config: Arc<Config>,
    clusters: BTreeMap<Arc<str>, Found>,
}

/// The servers of a cluster.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Found {
    pub(crate) endpoints: Vec<Endpoint>,
    /// Why there are none.
    pub(crate) none: Arc<NoAddress>,
}

/// One server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// As the configuration names it, without its port.
    pub(crate) host: Arc<str>,
    /// Probes of it fail.
    pub(crate) ill: bool,
}

impl Endpoint {
    /// With its port, as a request names it.
    fn authority(&self) -> String {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(_) => self.address.to_string(),
            Err(_) => format!("{}:{}", self.host, self.address.port()),
        }
    }
}

/// Why a name has no address, or none of one family is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoAddress {
    reason: DnsFailure,
    text: String,
    pub(crate) dns: DnsFacts,
    /// It has addresses of the other family.
    is_partial: bool,
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl NoAddress {
    /// What the name does not do.
    pub(crate) const fn what(&self) -> &'static str {
        if self.is_partial { "resolves only in part" } else { "does not resolve" }
    }

    pub(crate) fn failure(&self) -> Failure {
        Failure::Dns { reason: self.reason, text: self.text.clone() }
    }
}

impl Outlook {
    /// Before anything was looked at.
    pub(crate) const fn blank(config: Arc<Config>) -> Self {
        Self { config, clusters: BTreeMap::new() }
    }

    pub(crate) fn found(&self, cluster: &str) -> Option<&Found> {
        self.clusters.get(cluster)
    }
}

/// What the thread is told.
enum Told {
    /// Follow this, tell the workers, and say that it is done; unless who asked has given up before it begins.
    Follow(Arc<Config>, oneshot::Sender<()>, Done),
    /// These are to be told from now on; what they know is this.
    Workers(Vec<mpsc::UnboundedSender<Order>>, Arc<Outlook>),
    /// A lookup is done.
    Looked(Arc<str>, Looked),
    /// A probe of this server of this cluster is done.
    Probed(Arc<str>, SocketAddr, Probed),
    /// No worker is left.
    End,
}

type Done = Box<dyn FnOnce(&Arc<Outlook>) + Send>;

/// What it takes to follow a configuration: as long as names are looked up for it, nothing has changed, and who asked can
/// give up. Which of the two it was is known to both sides, however close they come.
#[derive(Debug)]
#[must_use = "dropped, it is given up"]
pub(crate) struct Followed(oneshot::Receiver<()>);

impl Followed {
    /// False when it was too late: the configuration is followed.
    pub(crate) fn give_up(&mut self) -> bool {
        self.0.close();
        self.0.try_recv().is_err()
    }
}

/// The handle. The thread ends with the last of them, or when it is told to.
#[derive(Clone)]
pub(crate) struct Lookout {
    to: mpsc::UnboundedSender<Told>,
    known: Arc<Mutex<Known>>,
}

/// What is known now.
#[derive(Default)]
struct Known {
    names: BTreeMap<Arc<str>, Name>,
    /// Servers that are probed, by cluster.
    servers: BTreeMap<(Arc<str>, SocketAddr), Probing>,
}

/// What is known of a server by its probes.
struct Probing {
    /// How it is probed.
    cluster: Arc<Cluster>,
    host: Arc<str>,
    /// Unknown until the first probe: it is asked until then.
    well: Option<bool>,
    since: Instant,
    /// So many probes, one after another, said otherwise.
    otherwise: u32,
    /// What the last one that failed said.
    why: String,
    probes: u64,
    failures: u64,
    task: AbortHandle,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Thread {
    outlook: Arc<Outlook>,
    workers: Vec<mpsc::UnboundedSender<Order>>,
    known: Arc<Mutex<Known>>,
    /// What looks them up now and then.
    looking: Vec<AbortHandle>,
    back: mpsc::WeakUnboundedSender<Told>,
    writer: Writer,
}

impl Lookout {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread or runtime can be started.
    pub(crate) fn start(writer: Writer) -> Result<Self, GateError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(GateError::Worker)?;
        let (to, mut told) = mpsc::unbounded_channel();
        let known = Arc::new(Mutex::new(Known::default()));
        let lookout = Self { to, known: Arc::clone(&known) };
        let back = lookout.to.downgrade();
        let work = move || {
            LocalSet::new().block_on(&runtime, async move {
                // The first is a configuration.
                let Some(Told::Follow(config, begins, done)) = told.recv().await else { return };
                let outlook = Arc::new(Outlook::blank(Arc::clone(&config)));
                let mut thread = Thread { outlook, workers: Vec::new(), known, looking: Vec::new(), back, writer };
                thread.take(Told::Follow(config, begins, done)).await;
                loop {
                    match told.recv().await {
                        None | Some(Told::End) => return,
                        Some(told) => thread.take(told).await,
                    }
                }
            });
        };
        thread::Builder::new().name("overdue-lookout".to_owned()).spawn(work).map_err(GateError::Worker)?;
        Ok(lookout)
    }

    /// Looks up the names of this configuration that are not known, within the limit that it has for that, and has the
    /// workers follow it. `done` hears of it.
    pub(crate) fn follow(&self, config: Arc<Config>, done: impl FnOnce(&Arc<Outlook>) + Send + 'static) -> Followed {
        let (begins, followed) = oneshot::channel();
        // It ends after all who could ask.
        let _ = self.to.send(Told::Follow(config, begins, Box::new(done)));
        Followed(followed)
    }

    /// Who is told from now on, and what they know.
    pub(crate) fn tell(&self, workers: Vec<mpsc::UnboundedSender<Order>>, known: Arc<Outlook>) {
        let _ = self.to.send(Told::Workers(workers, known));
    }

    /// Looks out no more, whoever still has a handle: what was known last can be read.
    pub(crate) fn end(&self) {
        let _ = self.to.send(Told::End);
    }

    /// Names that have no address now, or not all, for a reader.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let known = lock(&self.known);
        let text = |(name, known): (&Arc<str>, &Name)| {
            let (_, why) = known.failing.as_ref()?;
            Some(format!("{name} {}, and is looked up again and again: {why}", why.what()))
        };
        known.names.iter().filter_map(text).collect()
    }

    /// Names of servers that stand for this gateway itself now.
    pub(crate) fn circles(&self, config: &Config) -> Vec<Doubt> {
        let addresses =
            |name: &str| lock(&self.known).names.get(name).map_or_else(Vec::new, |name| name.addresses.clone());
        let mut circles = Vec::new();
        for (cluster, servers) in config.clusters().iter().map(|(name, cluster)| (name, &cluster.servers)) {
            for server in &**servers {
                // Where the file says an address itself, its own doubts have it.
                let ServerAt::Name(name, port) = server else { continue };
                let found = addresses(name).into_iter().map(|ip| SocketAddr::new(ip, *port));
                circles.extend(found.filter_map(|at| config.circle(cluster, &format!("{name}:{port}"), at)));
            }
        }
        circles
    }

    /// What is known of names.
    pub(crate) fn describe(&self) -> Value {
        let now = clock::now();
        let age = |at: Instant| overdue_core::micros(now.saturating_duration_since(at));
        let all = lock(&self.known);
        let described = all.names.iter().map(|(name, known)| {
            let described = json!({
                "addresses": known.addresses,
                "found_us_ago": known.found.map(age),
                "failing_us": known.failing.as_ref().map(|(since, _)| age(*since)),
                "why": known.failing.as_ref().map(|(_, why)| &why.text),
                "lookups": known.lookups,
                "failures": known.failures,
            });
            (name.to_string(), described)
        });
        described.collect::<serde_json::Map<_, _>>().into()
    }

    /// What is known of servers that are probed, by cluster.
    pub(crate) fn describe_health(&self) -> Value {
        let now = clock::now();
        let all = lock(&self.known);
        let described = all.servers.iter().map(|((cluster, address), known)| {
            json!({
                "cluster": &**cluster,
                "server": address.to_string(),
                "well": known.well,
                "since_us": overdue_core::micros(now.saturating_duration_since(known.since)),
                "why": (known.well == Some(false)).then_some(&known.why),
                "probes": known.probes,
                "failures": known.failures,
            })
        });
        described.collect()
    }

    /// Of each server that is probed: whether it is ill, its probes, and those that failed.
    pub(crate) fn health(&self) -> Vec<(Arc<str>, SocketAddr, [f64; 3])> {
        let all = lock(&self.known);
        let numbers = |known: &Probing| {
            [f64::from(u8::from(known.well == Some(false))), known.probes as f64, known.failures as f64]
        };
        let servers = all.servers.iter();
        servers.map(|((cluster, address), known)| (Arc::clone(cluster), *address, numbers(known))).collect()
    }

    /// Of each name: its addresses, lookups, lookups that failed, and for how long its addresses, or those of one family,
    /// are those of a lookup before one that failed.
    pub(crate) fn names(&self) -> Vec<(Arc<str>, [f64; 4])> {
        let now = clock::now();
        let all = lock(&self.known);
        let numbers = |known: &Name| {
            let stale =
                known.failing.as_ref().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since));
            [known.addresses.len() as f64, known.lookups as f64, known.failures as f64, stale.as_secs_f64()]
        };
        all.names.iter().map(|(name, known)| (Arc::clone(name), numbers(known))).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is half done after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Thread {
    async fn take(&mut self, told: Told) {
        match told {
            Told::Follow(config, begins, done) => {
                if self.follow(config, begins).await {
                    done(&self.outlook);
                }
            }
            Told::Workers(workers, known) => {
                self.workers = workers;
                if !Arc::ptr_eq(&known, &self.outlook) {
                    self.tell();
                }
            }
            Told::Looked(name, looked) => {
                self.looked(&name, looked, self.outlook.config.dns.family);
                self.look_again();
            }
            Told::Probed(cluster, address, probed) => {
                self.probed(&(cluster, address), probed);
                self.look_again();
            }
            Told::End => {}
        }
    }

    /// Names that are not known are looked up first: a cluster that was just written into the file must not be empty for
    /// a moment. Until then nothing changes; false when it was given up meanwhile.
    async fn follow(&mut self, config: Arc<Config>, mut begins: oneshot::Sender<()>) -> bool {
        let clusters = config.clusters();
        let servers = clusters.values().flat_map(|cluster| &cluster.servers);
        let named = servers.filter_map(|server| match server {
            ServerAt::Name(name, _) => Some(Arc::clone(name)),
            ServerAt::Address(_) => None,
        });
        let named: std::collections::BTreeSet<Arc<str>> = named.collect();
        let dns = Arc::new(config.dns.clone());
        let is_known = |name: &Arc<str>| lock(&self.known).names.get(name).is_some_and(|known| known.found.is_some());
        let mut lookups = JoinSet::new();
        for name in named.iter().filter(|name| !is_known(name)) {
            let (name, dns) = (Arc::clone(name), Arc::clone(&dns));
            lookups.spawn_local(async move {
                let looked = look_up(&dns, &name).await;
                (name, looked)
            });
        }
        let looked_up = async {
            let mut looked_up = Vec::new();
            while let Some(done) = lookups.join_next().await {
                looked_up.extend(done);
            }
            looked_up
        };
        let first = tokio::select! {
            first = looked_up => first,
            () = begins.closed() => return false,
        };
        if begins.send(()).is_err() {
            return false;
        }
        for looking in self.looking.drain(..) {
            looking.abort();
        }
        {
            let names = &mut lock(&self.known).names;
            names.retain(|name, _| named.contains(name));
            for name in &named {
                let _known = names.entry(Arc::clone(name)).or_default();
            }
        }
        let mut pauses = BTreeMap::new();
        for (name, looked) in first {
            pauses.insert(Arc::clone(&name), looked.pause(&dns, 0));
            self.looked(&name, looked, dns.family);
        }
        for name in named {
            // One that was known is looked up now: whoever reloads may mean that.
            let pause = pauses.get(&name).copied().unwrap_or_default();
            let again = names::again_and_again(Arc::clone(&dns), name, pause, self.back.clone());
            self.looking.push(tokio::task::spawn_local(again).abort_handle());
        }
        self.outlook = Arc::new(self.outlook_on(config));
        self.probe();
        // Of those that are probed in another way now, nothing is known.
        self.outlook = Arc::new(self.outlook_on(Arc::clone(&self.outlook.config)));
        self.tell();
        true
    }

    /// Probes those that are to be probed, and no others.
    fn probe(&self) {
        let clusters = self.outlook.config.clusters();
        let mut known = lock(&self.known);
        let mut former = std::mem::take(&mut known.servers);
        for (name, found) in &self.outlook.clusters {
            let Some(cluster) = clusters.get(name) else { continue };
            let Some(health) = &cluster.health else { continue };
            for endpoint in &found.endpoints {
                let key = (Arc::clone(name), endpoint.address);
                let is_as_before = |known: &Probing| {
                    known.host == endpoint.host
                        && known.cluster.health == cluster.health
                        && known.cluster.tls == cluster.tls
                        && known.cluster.proxy_protocol == cluster.proxy_protocol
                        && known.cluster.http2 == cluster.http2
                };
                let probing = former.remove(&key).filter(is_as_before).unwrap_or_else(|| {
                    let probing = probe::again_and_again(
                        Arc::clone(cluster),
                        health.clone(),
                        endpoint.clone(),
                        self.back.clone(),
                    );
                    Probing {
                        cluster: Arc::clone(cluster),
                        host: Arc::clone(&endpoint.host),
                        well: None,
                        since: clock::now(),
                        otherwise: 0,
                        why: String::new(),
                        probes: 0,
                        failures: 0,
                        task: tokio::task::spawn_local(probing).abort_handle(),
                    }
                });
                known.servers.insert(key, probing);
            }
        }
    }

    fn tell(&self) {
        for worker in &self.workers {
            // One that has ended follows nothing.
            let _ = worker.send(Order::Follow(Arc::clone(&self.outlook)));
        }
    }

    fn look_again(&mut self) {
        let outlook = self.outlook_on(Arc::clone(&self.outlook.config));
        if outlook.clusters != self.outlook.clusters {
            self.outlook = Arc::new(outlook);
            self.probe();
            self.tell();
        }
    }

    /// Keeps what a probe found. The first says what a server is; later ones have to agree to change that.
    fn probed(&self, key: &(Arc<str>, SocketAddr), probed: Probed) {
        let now = clock::now();
        let mut all = lock(&self.known);
        // One that nobody asks for any more may still have been on its way.
        let Some(known) = all.servers.get_mut(key) else { return };
        let Some(health) = &known.cluster.health else { return };
        let (is_well, unwell) = match probed {
            Probed::Unknown => return,
            Probed::Well => (true, None),
            Probed::Ill(unwell) => (false, Some(unwell)),
        };
        known.probes += 1;
        known.failures += u64::from(!is_well);
        if let Some(unwell) = &unwell {
            known.why.clone_from(&unwell.text);
        }
        if known.well == Some(is_well) {
            known.otherwise = 0;
            return;
        }
        known.otherwise += 1;
        let needed = match known.well {
            None => 1,
            Some(true) => health.unhealthy,
            Some(false) => health.healthy,
        };
        if known.otherwise < needed {
            return;
        }
        let count = std::mem::take(&mut known.otherwise);
        let was = known.well.replace(is_well);
        let lasted = now.saturating_duration_since(std::mem::replace(&mut known.since, now));
        let event = |what, text, failed| {
            let (cluster, address) = key;
            let event = Event { what, cluster: Some(cluster), of: address.to_string(), text, failed };
            event.write(self.outlook.config.log.format, &self.writer);
        };
        match unwell {
            Some(Unwell { text, judged }) => {
                let failed = match count {
                    1 => format!("a probe failed: {text}"),
                    _ => format!("{count} probes failed, the last one so: {text}"),
                };
                event("server-ill", failed, judged.as_deref());
                known.why = text;
            }
            // That it is well from the beginning is no news.
            None if was.is_some() => {
                let succeeded = if count == 1 { "a probe".to_owned() } else { format!("{count} probes") };
                let text = format!("{succeeded} succeeded; it was ill for {}", DurationText(lasted));
                event("server-well", text, None);
            }
            None => {}
        }
    }

    fn outlook_on(&self, config: Arc<Config>) -> Outlook {
        let known = lock(&self.known);
        let Known { names, servers } = &*known;
        let found = |cluster: &Cluster| {
            let mut endpoints: Vec<Endpoint> = Vec::new();
            let mut none = None;
            for server in &cluster.servers {
                let (host, addresses) = match server {
                    ServerAt::Address(address) => (address.ip().to_string().into(), vec![*address]),
                    ServerAt::Name(name, port) => {
                        let known = names.get(name);
                        none = none.or_else(|| Some(Arc::clone(&known?.failing.as_ref()?.1)));
                        let at = |ip: &std::net::IpAddr| SocketAddr::new(*ip, *port);
                        (
                            Arc::clone(name),
                            known.map(|known| known.addresses.iter().map(at).collect()).unwrap_or_default(),
                        )
                    }
                };
                for address in addresses {
                    // Two names for one server: it is one.
                    if !endpoints.iter().any(|known| known.address == address) {
                        let probed = servers.get(&(Arc::clone(&cluster.name), address));
                        let ill = probed.is_some_and(|known| known.well == Some(false));
                        endpoints.push(Endpoint { address, host: Arc::clone(&host), ill });
                    }
                }
            }
            let nothing = || {
                let text = "no server has an address".to_owned();
                Arc::new(NoAddress { reason: DnsFailure::NoAddress, text, dns: DnsFacts::default(), is_partial: false })
            };
            // Of no interest while there are others, and different each time.
            let none = none.filter(|_| endpoints.is_empty()).unwrap_or_else(nothing);
            Found { endpoints, none }
        };
        let clusters = config.clusters().into_iter().map(|(name, cluster)| (name, found(&cluster))).collect();
        drop(known);
        Outlook { config, clusters }
    }

    fn looked(&self, name: &Arc<str>, looked: Looked, family: Family) {
        let mut all = lock(&self.known);
        // One that nobody asks for any more may still have been on its way.
        let Some(known) = all.names.get_mut(name) else { return };
        let tell = |what, text, failed: Option<&_>| {
            let event = Event { what, cluster: None, of: name.to_string(), text, failed };
            event.write(self.outlook.config.log.format, &self.writer);
        };
        known.take(name, looked, family, clock::now(), tell);
    }
}
