//! The resolver that asks the servers itself: which names, both families, and what is remembered.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::{Pin, pin},
    time::Duration,
};

use hickory_resolver::{
    ResponseCache, TtlConfig,
    config::ResolverOpts,
    net::{DnsError, NetError, NoRecords},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
    system_conf::read_system_conf,
};
use overdue_core::facts::DnsFailure;
use tokio::time::{Sleep, sleep, timeout};

use super::{
    Enough, Families, FamilyOutcome, LookupLog, MAX_ADDRESSES, ResolveError, Resolved, by_turns,
    query::{self, Servers, code_name},
};
use crate::clock;

/// How long the slower family may take when the other has addresses (RFC 8305: Resolution Delay).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Each is one answer to one question.
const CACHED_ANSWERS_MAX: u64 = 4096;
/// A name that was just created should not stay missing for as long as its zone allows.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
const DNS_PORT: u16 = 53;

/// What one family came to.
type Answer = Result<Resolved, ResolveError>;

#[derive(Debug)]
pub(super) struct Dns {
    servers: Servers,
    pub(super) search: Vec<Name>,
    /// A name with fewer dots than this is looked for in the search list first.
    pub(super) ndots: usize,
    /// Off unless resolv.conf says `edns0`, as in the C library: what is longer than 512 bytes comes over TCP.
    pub(super) edns: bool,
    cache: ResponseCache,
    /// What was wrong with the system's configuration.
    trouble: Option<String>,
}

impl Dns {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        let mut opts = ResolverOpts::default();
        opts.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        Self {
            servers: Servers::new(servers),
            search: Vec::new(),
            ndots: 1,
            edns: false,
            cache: ResponseCache::new(CACHED_ANSWERS_MAX, TtlConfig::from_opts(&opts)),
            trouble: None,
        }
    }

    pub(super) fn system() -> Self {
        let (config, opts) = match read_system_conf() {
            Ok(read) => read,
            Err(err) => {
                let local = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
                let trouble = format!("the system's DNS configuration cannot be used ({err}), so {local} was asked");
                return Self { trouble: Some(trouble), ..Self::new(vec![local]) };
            }
        };
        let port = |server: &hickory_resolver::config::NameServerConfig| {
            server.connections.first().map_or(DNS_PORT, |connection| connection.port)
        };
        let mut servers = Vec::new();
        for server in config.name_servers() {
            let address = SocketAddr::new(server.ip, port(server));
            if !servers.contains(&address) {
                servers.push(address);
            }
        }
        let search = match (config.search(), config.domain()) {
            ([], domain) => domain.cloned().into_iter().collect(),
            (search, _) => search.to_vec(),
        };
        Self { search, ndots: opts.ndots, edns: opts.edns0, ..Self::new(servers) }
    }

    /// Addresses of the first name of the search list that has any.
    pub(super) async fn lookup(&self, name: &Name, log: &LookupLog) -> Result<Resolved, ResolveError> {
        let mut failure: Option<ResolveError> = None;
        for candidate in self.candidates(name) {
            match self.both_families(&candidate, log).await {
                Ok(addresses) => return Ok(addresses),
                Err(err) => {
                    let goes_on = goes_on(&err);
                    failure = Some(match failure {
                        Some(before) => before.worse(err),
                        None => err,
                    });
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        Err(self.troubled(failure.unwrap_or_else(|| ResolveError::new(DnsFailure::InvalidName, name.to_ascii()))))
    }

    /// The same for each family of that name, all within the limit.
    pub(super) async fn lookup_each(&self, name: &Name, enough: Enough, limit: Duration, log: &LookupLog) -> Families {
        let mut end = pin!(sleep(limit));
        let mut before: Option<[ResolveError; 2]> = None;
        for candidate in self.candidates(name) {
            match self.each_family(&candidate, enough, end.as_mut(), log).await {
                [Some(Err(v6)), Some(Err(v4))] => {
                    let goes_on = goes_on(&v6.clone().worse(v4.clone()));
                    before = Some(match before {
                        Some([before_v6, before_v4]) => [before_v6.worse(v6), before_v4.worse(v4)],
                        None => [v6, v4],
                    });
                    if !goes_on {
                        break;
                    }
                }
                answers => {
                    // Of the names before this only counts what is wrong with them, and where this has no address.
                    let is_it = answers.iter().any(|answer| matches!(answer, Some(Ok(_))));
                    let [before_v6, before_v4] =
                        before.filter(|_| !is_it).map_or([None, None], |before| before.map(Some));
                    let [v6, v4] = answers;
                    return Families { v6: self.outcome(before_v6, v6), v4: self.outcome(before_v4, v4) };
                }
            }
        }
        let nothing = || ResolveError::new(DnsFailure::InvalidName, name.to_ascii());
        let [v6, v4] = before.unwrap_or_else(|| [nothing(), nothing()]);
        Families { v6: self.outcome(None, Some(Err(v6))), v4: self.outcome(None, Some(Err(v4))) }
    }

    fn outcome(&self, before: Option<ResolveError>, answer: Option<Answer>) -> FamilyOutcome {
        let Some(answer) = answer else { return FamilyOutcome::Cut };
        let with = |err| match before {
            Some(before) => before.worse(err),
            None => err,
        };
        answer.map_err(|err| self.troubled(with(err))).into()
    }

    fn troubled(&self, mut err: ResolveError) -> ResolveError {
        if let Some(trouble) = &self.trouble {
            err.text = format!("{} ({trouble})", err.text);
        }
        err
    }

    /// The names to ask for, in order: resolv.conf(5), `search` and `ndots`. A name with a last dot is asked as it is.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut itself = name.clone();
        itself.set_fqdn(true);
        if name.is_fqdn() {
            return vec![itself];
        }
        // One that gets too long is left out, as the C library does.
        let searched = self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<_> = searched.filter(|searched| *searched != itself).collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let at = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(at, itself);
        names
    }

    async fn both_families(&self, name: &Name, log: &LookupLog) -> Result<Resolved, ResolveError> {
        let mut v6 = pin!(self.family(name, RecordType::AAAA, log));
        let mut v4 = pin!(self.family(name, RecordType::A, log));
        let (v6, v4) = tokio::select! {
            biased;
            v6 = &mut v6 => {
                let v4 = other_family(&v6, v4).await;
                (Some(v6), v4)
            }
            v4 = &mut v4 => {
                let v6 = other_family(&v4, v6).await;
                (v6, Some(v4))
            }
        };
        match (v6, v4) {
            (Some(Ok(v6)), Some(Ok(v4))) => {
                Ok(Resolved { addresses: by_turns([v6.addresses, v4.addresses].concat()), ttl: v6.ttl.min(v4.ttl) })
            }
            (Some(Ok(one)), _) | (_, Some(Ok(one))) => Ok(Resolved { addresses: by_turns(one.addresses), ..one }),
            (Some(Err(v6)), Some(Err(v4))) => Err(v6.worse(v4)),
            (Some(Err(err)), None) | (None, Some(Err(err))) => Err(err),
            (None, None) => Err(ResolveError::new(DnsFailure::NoAnswer, name.to_ascii())),
        }
    }

    /// IPv6 and IPv4; `None` for what has not come by the end, or when there was enough.
    async fn each_family(
        &self,
        name: &Name,
        enough: Enough,
        mut end: Pin<&mut Sleep>,
        log: &LookupLog,
    ) -> [Option<Answer>; 2] {
        let mut v6 = pin!(self.family(name, RecordType::AAAA, log));
        let mut v4 = pin!(self.family(name, RecordType::A, log));
        let (mut of_v6, mut of_v4) = (None, None);
        while of_v6.is_none() || of_v4.is_none() {
            let is_enough = match enough {
                Enough::Both => false,
                Enough::V6 => matches!(of_v6, Some(Ok(_))),
                Enough::V4 => matches!(of_v4, Some(Ok(_))),
            };
            if is_enough {
                break;
            }
            tokio::select! {
                biased;
                answer = &mut v6, if of_v6.is_none() => of_v6 = Some(answer),
                answer = &mut v4, if of_v4.is_none() => of_v4 = Some(answer),
                () = &mut end => break,
            }
        }
        [of_v6, of_v4]
    }

    /// The addresses of one family, from the cache or from a server; at least one.
    async fn family(&self, name: &Name, family: RecordType, log: &LookupLog) -> Answer {
        let query = Query::query(name.clone(), family);
        match self.cache.get(&query, clock::now()) {
            Some(Ok(message)) => {
                let addresses = addresses_in(&message.answers, &query);
                if !addresses.is_empty() {
                    return Ok(Resolved { addresses, ttl: ttl_of(&message.answers) });
                }
            }
            Some(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                return Err(negative(&query, none.response_code));
            }
            Some(Err(_)) | None => {}
        }
        let response = query::ask(&self.servers, &query, self.edns, log).await?;
        let addresses = addresses_in(&response.answers, &query);
        let code = response.metadata.response_code;
        if addresses.is_empty() {
            // Without an SOA there is no TTL, and it is not kept (RFC 2308, section 5).
            let mut none = NoRecords::new(query.clone(), code);
            none.negative_ttl = response.negative_ttl();
            self.cache.insert(query.clone(), Err(none.into()), clock::now());
            return Err(negative(&query, code));
        }
        let ttl = ttl_of(&response.answers);
        self.cache.insert(query, Ok(response.into_message()), clock::now());
        Ok(Resolved { addresses, ttl })
    }
}

/// Whether the next name of the search list is asked for after this. As in the C library: a server that fails for one
/// name may know the next; silence is the end.
fn goes_on(err: &ResolveError) -> bool {
    matches!(err.reason, DnsFailure::NoSuchName | DnsFailure::NoAddress | DnsFailure::ServerError)
}

/// Waits for the other family: as long as it takes, unless there are addresses already.
async fn other_family<T>(
    first: &Result<Resolved, ResolveError>,
    other: impl Future<Output = Result<T, ResolveError>>,
) -> Option<Result<T, ResolveError>> {
    match first {
        Ok(_) => timeout(RESOLUTION_DELAY, other).await.ok(),
        Err(_) => Some(other.await),
    }
}

/// The addresses of the name that was asked for, through its aliases. A resolving server gives the whole chain, so
/// one that ends without an address is the answer that there is none.
fn addresses_in(answers: &[Record], query: &Query) -> Vec<IpAddr> {
    let mut name = query.name();
    for _ in answers {
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name => Some(&target.0),
            _ => None,
        });
        match alias {
            Some(target) => name = target,
            None => break,
        }
    }
    answers
        .iter()
        .filter(|record| record.name == *name && record.record_type() == query.query_type())
        .filter_map(|record| record.data.ip_addr())
        .take(MAX_ADDRESSES)
        .collect()
}

/// The shortest of all: an alias that changes changes the addresses.
fn ttl_of(answers: &[Record]) -> Option<Duration> {
    answers.iter().map(|record| Duration::from_secs(record.ttl.into())).min()
}

fn negative(query: &Query, code: ResponseCode) -> ResolveError {
    let name = query.name().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if code == ResponseCode::NXDomain {
        ResolveError::new(DnsFailure::NoSuchName, format!("{name}: {}", code_name(code)))
    } else {
        ResolveError::new(DnsFailure::NoAddress, format!("{name}: no {} record", query.query_type()))
    }
}
