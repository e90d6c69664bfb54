//! What is called, and how: put together from a URL or a scenario of the lab, then changed by flags.

use std::{
    fs,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, PROXY_AUTHORIZATION,
        TRANSFER_ENCODING, USER_AGENT,
    },
};
use http_body_util::Full;
use overdue::{Client, PoolOptions, TlsOptions, resolve::Resolver};
use overdue_core::{Limit, LimitName, Limits, Origin};
use overdue_lab::{Call, Caller, Fault, Scenario, Scheme};
use url::{Position, Url};

use crate::args::Get;

/// An address for one host and port, whatever DNS says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Which HTTP is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    /// What the peer chooses.
    Any,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without asking.
    Http2,
}

/// A request, to be sent as often as it takes.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// One call, and the client that makes it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) message: Message,
    pub(crate) limits: Limits,
    pub(crate) follow: bool,
    /// What the caller does to its own call.
    pub(crate) caller: Caller,
    /// Whether one good call comes first.
    pub(crate) warm: bool,
    version: Version,
    tls: TlsOptions,
    pool: PoolOptions,
    /// `None` for the system's.
    dns: Option<Vec<SocketAddr>>,
    addresses: Vec<Address>,
    unix: Option<PathBuf>,
}

impl Plan {
    /// A GET of a URL as people write it.
    pub(crate) fn of_url(text: &str) -> anyhow::Result<Self> {
        Ok(Self {
            message: Message { method: Method::GET, url: read_url(text)?, headers: own_headers(), body: Bytes::new() },
            limits: Limits::default(),
            follow: false,
            caller: Caller::Plain,
            warm: false,
            version: Version::Any,
            tls: TlsOptions::default(),
            pool: PoolOptions::default(),
            dns: None,
            addresses: Vec::new(),
            unix: None,
        })
    }

    /// The call that a scenario describes, to the server that it started.
    pub(crate) fn of_scenario(scenario: &Scenario, fault: &Fault) -> anyhow::Result<Self> {
        let Call { scheme, method, body_bytes, warm, caller, limits, .. } = &scenario.call;
        let body_bytes = usize::try_from(*body_bytes).context("the body of this scenario is too large")?;
        let tls = match fault.roots_pem() {
            Some(pem) => TlsOptions::default().with_roots_pem(pem.as_bytes())?,
            // There is no certificate to come.
            None => TlsOptions::default().dangerously_trust_anything(),
        };
        let mut pool = PoolOptions::default();
        if caller.holds() {
            pool.connections_per_host = 1;
        }
        let plan = Self::of_url(&fault.url())?;
        Ok(Self {
            message: Message {
                method: method.parse().with_context(|| format!("{method:?} is no method"))?,
                body: vec![0; body_bytes].into(),
                ..plan.message
            },
            limits: limits.clone(),
            caller: caller.clone(),
            warm: *warm,
            version: match scheme {
                Scheme::Http | Scheme::Https => Version::Http1,
                Scheme::H2c => Version::Http2,
                Scheme::H2 => Version::Any,
            },
            tls,
            pool,
            dns: Some(fault.dns().into_iter().collect()),
            ..plan
        })
    }

    /// The same call in plain HTTP/1.1 to a gateway, under this limit alone.
    pub(crate) fn through(self, gate: SocketAddr, limit: Limit) -> anyhow::Result<Self> {
        let mut url = self.message.url.clone();
        ensure!(
            url.set_scheme("http").is_ok()
                && url.set_ip_host(gate.ip()).is_ok()
                && url.set_port(Some(gate.port())).is_ok(),
            "{url} cannot be asked of a gateway"
        );
        let mut limits = Limits::none();
        // Every call may have this one.
        _ = limits.set(limit);
        Ok(Self {
            message: Message { url, ..self.message },
            limits,
            version: Version::Http1,
            tls: TlsOptions::default(),
            pool: PoolOptions::default(),
            dns: None,
            ..self
        })
    }

    /// What the flags say, over what was planned.
    pub(crate) fn change(&mut self, flags: &Get) -> anyhow::Result<()> {
        let flag = |name: &str| Origin::Flag(name.into());
        for (name, value) in &flags.limit {
            match value {
                Some(value) => self.limit(Limit::new(*name, *value).with_origin(flag("--limit"))),
                None => self.limits.clear(*name),
            }
        }
        match flags.total {
            Some(Some(total)) => self.limit(Limit::new(LimitName::Total, total).with_origin(flag("--total"))),
            Some(None) => self.limits.clear(LimitName::Total),
            None => {}
        }

        self.message.change(flags)?;
        self.follow = flags.location;

        if flags.http1 {
            self.version = Version::Http1;
        } else if flags.http2 {
            self.version = Version::Http2;
        }
        self.addresses.clone_from(&flags.resolve);
        if !flags.dns.is_empty() {
            self.dns = Some(flags.dns.clone());
        }
        if let Some(path) = &flags.unix_socket {
            fs::metadata(path).with_context(|| format!("--unix-socket {}", path.display()))?;
            self.unix = Some(path.clone());
        }
        if !self.caller.holds() {
            self.pool.connections_per_host = self.pool.connections_per_host.max(flags.concurrency.into());
        }
        self.pool.connections = self.pool.connections.max(flags.concurrency.into());
        self.change_tls(flags)
    }

    fn change_tls(&mut self, flags: &Get) -> anyhow::Result<()> {
        let mut tls = self.tls.clone();
        if flags.insecure {
            tls = tls.dangerously_trust_anything();
        }
        if let Some(path) = &flags.cacert {
            let pem = read_file(path)?;
            tls = tls.with_roots_pem(&pem).with_context(|| format!("--cacert {}", path.display()))?;
        }
        if let Some(path) = &flags.cert {
            let chain = read_file(path)?;
            let key = flags.key.as_ref().unwrap_or(path);
            tls = tls
                .with_client_certificate(&chain, &read_file(key)?)
                .with_context(|| format!("--cert {} with the key in {}", path.display(), key.display()))?;
        }
        self.tls = tls;
        Ok(())
    }

    /// Sets a limit under its name, which has to be one of a call's.
    pub(crate) fn limit(&mut self, limit: Limit) {
        _ = self.limits.set(limit);
    }

    /// The client of this plan. The limit of the whole call is not the client's: it belongs to the context of the
    /// call, so that redirects share it.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let mut resolver = match &self.dns {
            Some(servers) => Resolver::servers(servers.clone()),
            None => Resolver::system(),
        };
        for Address { host, port, addresses } in &self.addresses {
            resolver = resolver.with_override(host, Some(*port), addresses.clone());
        }
        let mut limits = self.limits.clone();
        limits.clear(LimitName::Total);
        let mut client = Client::builder().limits(limits).resolver(resolver).tls(self.tls.clone()).pool(self.pool);
        match self.version {
            Version::Any => {}
            Version::Http1 => client = client.http1_only(),
            Version::Http2 => client = client.http2_prior_knowledge(),
        }
        if let Some(path) = &self.unix {
            client = client.unix_socket(path);
        }
        client.build().context("no client can be made (`overdue doctor` shows what this machine has)")
    }
}

impl Message {
    fn change(&mut self, flags: &Get) -> anyhow::Result<()> {
        if !flags.data.is_empty() {
            self.body = read_body(&flags.data)?;
            self.method = Method::POST;
            self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        if flags.head {
            self.method = Method::HEAD;
        }
        if let Some(method) = &flags.request {
            self.method = method.parse().with_context(|| format!("-X {method:?} is no method"))?;
            ensure!(self.method != Method::CONNECT, "-X CONNECT is for proxies, which overdue does not use");
        }
        let mut named = HeaderMap::new();
        for field in &flags.header {
            match read_header(field)? {
                (CONTENT_LENGTH | TRANSFER_ENCODING, Some(_)) => {
                    bail!("-H {field:?}: it is set by -d, from what is sent")
                }
                (EXPECT, Some(_)) => {
                    bail!("-H {field:?}: it is not supported; the body is sent without being asked for")
                }
                (HOST, None) => bail!("-H {field:?}: it cannot be taken out; `-H 'host: NAME'` sets another"),
                (HOST, Some(_)) if named.contains_key(HOST) => bail!("-H {field:?}: there is another Host before it"),
                (name, Some(value)) => drop(named.append(name, value)),
                (name, None) => drop(self.headers.remove(name)),
            }
        }
        // Replaces what is there under the same names.
        self.headers.extend(named);
        Ok(())
    }

    pub(crate) fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri(&self.url)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// What follows a redirect: as browsers and curl do, a POST becomes a GET unless 307 or 308 forbid it, and what
    /// proves who somebody is does not go to another server.
    pub(crate) fn redirected(&self, status: StatusCode, url: Url) -> Self {
        let mut next = Self { url, ..self.clone() };
        let to_get = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if to_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            next.headers.remove(CONTENT_TYPE);
            next.headers.remove(CONTENT_LENGTH);
        }
        if next.url.origin() != self.url.origin() {
            for secret in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                next.headers.remove(secret);
            }
            next.headers.remove(HOST);
        }
        next
    }
}

/// A URL as the library takes it.
pub(crate) fn uri(url: &Url) -> anyhow::Result<Uri> {
    let text = &url[..Position::AfterQuery];
    text.parse().with_context(|| format!("{text} is no URL that can be called"))
}

fn read_url(text: &str) -> anyhow::Result<Url> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme)
        .with_context(|| format!("{text:?} is no URL (write [http://]HOST[:PORT]/PATH, https://... or lab:NAME)"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{:?} is no scheme that overdue speaks: use http://, https:// or lab:NAME",
        url.scheme()
    );
    if !url.username().is_empty() || url.password().is_some() {
        bail!("a name or password in the URL is not sent: use -H 'authorization: ...'");
    }
    uri(&url)?;
    Ok(url)
}

fn own_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("overdue/", env!("CARGO_PKG_VERSION"))));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers
}

/// `Name: value`, or `Name:` to take it out.
fn read_header(field: &str) -> anyhow::Result<(HeaderName, Option<HeaderValue>)> {
    let (name, value) =
        field.split_once(':').with_context(|| format!("-H {field:?} is no header field: write 'Name: value'"))?;
    let name = name.trim().parse().with_context(|| format!("-H {field:?}: {name:?} is no name of a field"))?;
    let value = value.trim();
    if value.is_empty() {
        return Ok((name, None));
    }
    let value = HeaderValue::from_bytes(value.as_bytes())
        .with_context(|| format!("-H {field:?}: the value holds a character that a field cannot carry"))?;
    Ok((name, Some(value)))
}

fn read_body(parts: &[String]) -> anyhow::Result<Bytes> {
    let mut body = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            body.push(b'&');
        }
        match part.strip_prefix('@') {
            None => body.extend(part.as_bytes()),
            Some("-") => drop(io::stdin().lock().read_to_end(&mut body).context("cannot read the body from stdin")?),
            Some(path) => body.extend(read_file(Path::new(path))?),
        }
    }
    Ok(body.into())
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The scenario that a URL names, if it names one.
pub(crate) fn scenario_of(url: &str) -> anyhow::Result<Option<&'static Scenario>> {
    url.strip_prefix("lab:").map(scenario).transpose()
}

/// The scenario of this name.
pub(crate) fn scenario(name: &str) -> anyhow::Result<&'static Scenario> {
    overdue_lab::find(name).with_context(|| {
        let shown: String = name.chars().take(40).collect();
        let near = near(&shown).join(", ");
        format!("{shown:?} is no scenario of the lab (near it: {near}); `overdue lab list` shows all")
    })
}

/// The names of scenarios that are the most like this one: they share a word with it, or take the fewest edits.
fn near(name: &str) -> Vec<&'static str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let shares_a_word = |known: &str| {
        name.split('-').any(|word| word.len() > 1 && known.split('-').any(|other| other.eq_ignore_ascii_case(word)))
    };
    let written = plain(name);
    let mut names: Vec<_> = (overdue_lab::scenarios().iter().map(|scenario| scenario.name.as_str()))
        .map(|known| (overdue_core::edit_distance(&written, &plain(known)), !shares_a_word(known), known))
        .collect();
    // A slip of the keyboard before a word in common.
    names.sort_by_key(|&(edits, alone, known)| (edits > 2, alone, edits, known));
    let alike = names.iter().filter(|(edits, alone, _)| *edits <= 2 || !alone).count();
    names.into_iter().take(alike.clamp(3, 6)).map(|(.., known)| known).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn plan(flags: &[&str]) -> anyhow::Result<Plan> {
        let flags = Get::try_parse_from(["get", "api.test"].iter().chain(flags)).unwrap();
        let mut plan = Plan::of_url(&flags.url)?;
        plan.change(&flags)?;
        Ok(plan)
    }

    #[test]
    fn a_url_without_a_scheme_is_http() {
        for (text, url) in [
            ("api.test", "http://api.test/"),
            ("localhost:8080/x?y#z", "http://localhost:8080/x?y"),
            ("[::1]:8080", "http://[::1]:8080/"),
            ("HTTPS://API.test", "https://api.test/"),
        ] {
            assert_eq!(uri(&read_url(text).unwrap()).unwrap().to_string(), url);
        }
        for text in ["", "ftp://api.test", "http://", "http://user:secret@api.test", "http://a b/", "http://x:99999"] {
            assert!(read_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_flag_is_the_owner_of_its_limit() {
        let plan = plan(&["--limit", "wait=300ms", "--limit", "gap=none", "--total", "1s"]).unwrap();
        assert_eq!(plan.limits.wait.unwrap().origin.to_string(), "flag --limit");
        assert_eq!(plan.limits.total.unwrap().origin.to_string(), "flag --total");
        assert_eq!(plan.limits.tls.unwrap().origin, Origin::Default);
        assert_eq!(plan.limits.gap, None);
        assert_eq!(self::plan(&["--total", "none"]).unwrap().limits.total, None);
    }

    #[test]
    fn headers_and_body_are_as_with_curl() {
        let form = plan(&["-d", "a=1", "-d", "b=2", "-H", "X-Two: 1", "-H", "x-two: 2", "-H", "accept:"]).unwrap();
        let Message { method, body, headers, .. } = form.message;
        assert_eq!((method, body.as_ref()), (Method::POST, &b"a=1&b=2"[..]));
        assert_eq!(headers.get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(!headers.contains_key(ACCEPT));
        assert_eq!(headers[CONTENT_TYPE], "application/x-www-form-urlencoded");

        let json = plan(&["-d", "{}", "-H", "content-type: application/json", "-X", "PUT"]).unwrap().message;
        assert_eq!(json.headers.get_all(CONTENT_TYPE).iter().collect::<Vec<_>>(), ["application/json"]);
        assert_eq!(json.method, Method::PUT);
    }

    #[test]
    fn a_redirect_carries_no_secrets_to_another_server() {
        let post = plan(&["-d", "a=1", "-H", "authorization: secret"]).unwrap().message;
        let to = |url: &str| Url::parse(url).unwrap();
        let same = post.redirected(StatusCode::TEMPORARY_REDIRECT, to("http://api.test/b"));
        assert_eq!((same.method, same.body.len()), (Method::POST, 3));
        assert!(same.headers.contains_key(AUTHORIZATION));
        let other = post.redirected(StatusCode::FOUND, to("https://api.test/b"));
        assert_eq!((other.method, other.body.len()), (Method::GET, 0));
        assert!(!other.headers.contains_key(AUTHORIZATION) && !other.headers.contains_key(CONTENT_TYPE));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (flags, part) in [
            (["-d", "@/no/such/file"], "cannot read /no/such/file"),
            (["-H", "nonsense"], "write 'Name: value'"),
            (["-H", "a b: c"], "no name of a field"),
            (["-H", "a: \n"], ""),
            (["-X", "G E T"], "no method"),
            (["--cacert", "/no/such/file"], "cannot read /no/such/file"),
        ] {
            match plan(&flags) {
                Ok(_) => assert_eq!(part, "", "{flags:?}"),
                Err(error) => assert!(format!("{error:#}").contains(part), "{error:#}"),
            }
        }
    }

    #[test]
    fn a_scenario_that_does_not_exist_has_neighbours() {
        for (name, neighbour) in [("tls-quiet", "tls-silent"), ("nohead", "(near it: no-head"), ("nope", "no-head")] {
            let error = scenario(name).unwrap_err().to_string();
            assert!(error.contains(neighbour), "{error}");
        }
        assert!(scenario_of("https://lab.test").unwrap().is_none());
        assert_eq!(scenario_of("lab:no-head").unwrap().unwrap().name, "no-head");
    }
}
