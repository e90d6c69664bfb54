//! What an operator sees and does: metrics, health, requests in flight, the configuration with the origin of each limit.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, ORIGIN},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use overdue::server::Refused;
use overdue_core::{Limit, LimitName, LimitReport, Limits, micros};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    arrive::WhyNoHeader,
    clock,
    config::{Config, Doubt},
    counts::{Counts, STAGES},
    gate::Order,
    http1::Protocol,
    live::{self, Wanted},
    lookout::Lookout,
    worker::{InFlight, Live, Worker},
};

/// How long a worker may take to answer: one that does not is late with its requests, too.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a client of the operator's may take for a request head, and for everything.
const CLIENT_HEAD: Duration = Duration::from_secs(5);
const CLIENT_TOTAL: Duration = Duration::from_secs(60);
/// Requests in flight that are listed, the most overdue first.
const LISTED_MAX: usize = 1000;

/// Asks the workers.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) workers: Vec<mpsc::UnboundedSender<Order>>,
    /// Lines of the log that could not be written.
    pub(crate) dropped: Arc<AtomicU64>,
    pub(crate) lookout: Lookout,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) began: Instant,
    /// By which browsers may ask for this address, besides its own and `localhost`.
    pub(crate) names: Arc<[String]>,
}

/// What an operator wants done.
pub(crate) enum Command {
    /// What is followed now.
    Config(oneshot::Sender<Arc<Config>>),
    /// Read the file again.
    Reload(oneshot::Sender<Result<String, String>>),
    /// End.
    Drain(oneshot::Sender<()>),
}

impl Desk {
    /// What each worker says; `None` of one that did not answer in time.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        look: impl Fn(&Worker) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let mut answers = Vec::new();
        for worker in &self.workers {
            let (answer, answered) = oneshot::channel();
            let look = look.clone();
            let order = Order::Look(Box::new(move |worker| drop(answer.send(look(worker)))));
            // One that has ended does not answer.
            let _ = worker.send(order);
            answers.push(answered);
        }
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut said = Vec::new();
        for answer in answers {
            said.push(tokio::time::timeout_at(until, answer).await.ok().and_then(Result::ok));
        }
        said
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        timeout(CLIENT_TOTAL, async {
            self.commands.send(command(answer)).await.ok()?;
            answered.await.ok()
        })
        .await
        .ok()?
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let plain = |status: StatusCode, text: String| said(status, "text/plain; charset=utf-8", text);
        // A page of somebody else's, open in the operator's browser, may send a POST here, and says so.
        if request.method() != Method::GET && request.headers().contains_key(ORIGIN) {
            return plain(StatusCode::FORBIDDEN, "not from a page: POST it with curl\n".to_owned());
        }
        let path = request.uri().path();
        // Machines that scrape and probe may know it by any name; browsers may not.
        let for_machines = matches!(path, "/metrics" | "/healthz" | "/readyz");
        let host = request.headers().get(HOST).map_or(&b""[..], http::HeaderValue::as_bytes);
        if request.method() == Method::GET && !for_machines && !live::is_known_here(host, &self.names) {
            return plain(
                StatusCode::MISDIRECTED_REQUEST,
                "this address is not known by that name: ask for it by its address or as localhost, or put the name into \
                 names = [...] of [admin]\n"
                    .to_owned(),
            );
        }
        if let Some(file) = live::file(path).filter(|_| request.method() == Method::GET) {
            return file;
        }
        match (request.method(), path) {
            (&Method::GET, "/live") => {
                let wanted = Wanted::parse(request.uri().query().unwrap_or_default());
                match self.live(wanted).await {
                    Some(picture) => said(StatusCode::OK, "application/json", format!("{picture}\n")),
                    None => plain(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "no worker answered within 1s, or they have ended\n".to_owned(),
                    ),
                }
            }
            (&Method::GET, "/metrics") => {
                said(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics().await)
            }
            (&Method::GET, "/healthz") => match self.ask(|_| ()).await.iter().filter(|worker| worker.is_none()).count()
            {
                0 => plain(StatusCode::OK, "ok\n".to_owned()),
                late => plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{late} of {} workers did not answer within 1s\n", self.workers.len()),
                ),
            },
            (&Method::GET, "/readyz") => {
                let ready = self.ask(|worker| !worker.is_draining()).await;
                match ready.iter().all(|ready| *ready == Some(true)) {
                    true => plain(StatusCode::OK, "ready\n".to_owned()),
                    false => {
                        plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining, or a worker is late\n".to_owned())
                    }
                }
            }
            (&Method::GET, "/inflight") => json_of(StatusCode::OK, &self.in_flight().await),
            (&Method::GET, "/config") => match self.command(Command::Config).await {
                Some(config) => {
                    let mut described = describe(&config, &self.lookout.circles(&config));
                    if let Some(described) = described.as_object_mut() {
                        described.insert("names".to_owned(), self.lookout.describe());
                        described.insert("health".to_owned(), self.lookout.describe_health());
                    }
                    json_of(StatusCode::OK, &described)
                }
                None => plain(StatusCode::SERVICE_UNAVAILABLE, "it is ending\n".to_owned()),
            },
            (&Method::POST, "/reload") => match self.command(Command::Reload).await {
                Some(Ok(text)) => plain(StatusCode::OK, text + "\n"),
                Some(Err(text)) => plain(StatusCode::UNPROCESSABLE_ENTITY, text + "\n"),
                None => plain(StatusCode::SERVICE_UNAVAILABLE, "it is ending\n".to_owned()),
            },
            (&Method::POST, "/drain") => match self.command(Command::Drain).await {
                Some(()) => plain(StatusCode::ACCEPTED, "draining\n".to_owned()),
                None => plain(StatusCode::SERVICE_UNAVAILABLE, "it is ending\n".to_owned()),
            },
            (_, "/reload" | "/drain") => plain(StatusCode::METHOD_NOT_ALLOWED, "POST it\n".to_owned()),
            _ => plain(
                StatusCode::NOT_FOUND,
                "GET / /live /metrics /healthz /readyz /inflight /config, POST /reload /drain\n".to_owned(),
            ),
        }
    }

    async fn in_flight(&self) -> Value {
        let looks = self.ask(|worker| {
            let now = clock::now();
            let mut all: Vec<(i64, Value)> = Vec::new();
            let (count, _) = each_in_flight(worker, None, LISTED_MAX, |left, live, request| {
                all.push((left, in_flight_json(worker.number, live, request, live.line.borrow().path(), now)));
            });
            (count, all)
        });
        let looks = looks.await;
        let late = looks.iter().filter(|look| look.is_none()).count();
        let count: usize = looks.iter().flatten().map(|(count, _)| count).sum();
        let mut all: Vec<_> = looks.into_iter().flatten().flat_map(|(_, all)| all).collect();
        all.sort_by_key(|(left, _)| *left);
        all.truncate(LISTED_MAX);
        let listed: Vec<Value> = all.into_iter().map(|(_, request)| request).collect();
        json!({"count": count, "workers_late": late, "requests": listed})
    }

    /// In the text format of Prometheus.
    async fn metrics(&self) -> String {
        let looks = self.ask(|worker| {
            let mut servers: Vec<(Arc<str>, SocketAddr, [usize; 4], f64)> = Vec::new();
            let now = clock::now();
            for of in worker.plan().servers() {
                for server in of.each() {
                    let shunned = usize::from(server.is_shunned(now));
                    let numbers = [server.open(), server.idle(), server.requests(), shunned];
                    servers.push((
                        Arc::clone(&of.cluster.name),
                        server.address,
                        numbers,
                        server.latency().as_secs_f64(),
                    ));
                }
            }
            let listening = worker.listening.borrow().clone();
            let left_out = worker.lines.borrow().left_out();
            (worker.counts.clone(), worker.open(), servers, listening, left_out)
        });
        let looks = looks.await;
        let mut out = Exposition::default();
        let late = looks.iter().filter(|look| look.is_none()).count();
        out.one("overdue_gate_workers", "gauge", "Workers.", self.workers.len() as f64);
        out.one("overdue_gate_workers_late", "gauge", "Workers that did not answer within 1s.", late as f64);
        let uptime = clock::now().saturating_duration_since(self.began).as_secs_f64();
        out.one("overdue_gate_uptime_seconds", "gauge", "Time since the start.", uptime);
        out.one(
            "overdue_gate_log_lines_dropped_total",
            "counter",
            "Lines that could not be written.",
            self.dropped.load(Relaxed) as f64,
        );
        let left_out = looks.iter().flatten().map(|(.., left_out)| left_out);
        let [served, failed] =
            left_out.fold([0, 0], |[served, failed], [more, others]| [served + more, failed + others]);
        out.head("overdue_gate_log_lines_left_out_total", "counter", "Lines that the rate of the log did not allow.");
        for (of, count) in [("served", served), ("failed", failed)] {
            out.line("overdue_gate_log_lines_left_out_total", &[("of", of)], count as f64);
        }
        let all = Counts::default();
        let mut open = 0;
        for (counts, connections, ..) in looks.iter().flatten() {
            all.merge(counts);
            open += connections;
        }
        out.one("overdue_gate_connections", "gauge", "Connections of clients.", open as f64);
        out.one(
            "overdue_gate_connections_total",
            "counter",
            "Connections of clients so far.",
            all.connections.get() as f64,
        );
        out.one("overdue_gate_bytes_in_total", "counter", "Bytes from clients.", all.bytes_in.get() as f64);
        out.one("overdue_gate_bytes_out_total", "counter", "Bytes to clients.", all.bytes_out.get() as f64);
        out.one(
            "overdue_gate_handshakes_failed_total",
            "counter",
            "TLS handshakes of clients that came to nothing.",
            all.handshakes_failed.get() as f64,
        );
        out.head(
            "overdue_gate_proxy_headers_refused_total",
            "counter",
            "Connections whose PROXY header was not taken: of nobody trusted, wrong, or not there in time.",
        );
        for (why, count) in WhyNoHeader::ALL.into_iter().zip(&all.proxy_headers_refused) {
            let labels = [("why", why.as_str())];
            out.line("overdue_gate_proxy_headers_refused_total", &labels, count.get() as f64);
        }
        let mut listeners: std::collections::BTreeMap<SocketAddr, [u64; 3]> = Default::default();
        for (address, stats) in looks.iter().flatten().flat_map(|(.., listening, _)| listening) {
            let sums = listeners.entry(*address).or_default();
            let refused =
                [Refused::Exhausted, Refused::Total, Refused::Source].into_iter().map(|why| stats.refused(why)).sum();
            let exhausted = u64::from(stats.exhausted_since().is_some());
            let numbers = [stats.accepted(), refused, exhausted];
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
        for (place, (name, kind, help)) in [
            ("overdue_gate_accepted_total", "counter", "Connections that a listener accepted."),
            (
                "overdue_gate_refused_total",
                "counter",
                "Connections that were one too many, by limit or for want of descriptors.",
            ),
            ("overdue_gate_exhausted", "gauge", "Workers whose listener has no descriptors or memory left."),
        ]
        .into_iter()
        .enumerate()
        {
            out.head(name, kind, help);
            for (address, numbers) in &listeners {
                let number = numbers.get(place).copied().unwrap_or_default();
                out.line(name, &[("listener", &address.to_string())], number as f64);
            }
        }
        out.head(
            "overdue_gate_requests_total",
            "counter",
            "Requests by class of their status; none: nobody was there to be told one.",
        );
        for (class, count) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(&all.statuses) {
            out.line("overdue_gate_requests_total", &[("status", class)], count.get() as f64);
        }
        out.head(
            "overdue_gate_grpc_calls_total",
            "counter",
            "gRPC calls by code, as far as their client was told one.",
        );
        for (code, count) in all.grpc.iter().enumerate() {
            let code = if code + 1 < all.grpc.len() { code.to_string() } else { "other".to_owned() };
            out.line("overdue_gate_grpc_calls_total", &[("grpc_status", &code)], count.get() as f64);
        }
        out.head("overdue_gate_failures_total", "counter", "Requests that failed, by route and cause.");
        for ((route, cause), count) in all.failures() {
            out.line("overdue_gate_failures_total", &[("route", &route), ("cause", &cause.to_string())], count as f64);
        }
        out.head("overdue_gate_server_connections_total", "counter", "Connections to servers that requests got.");
        for (kind, count) in [("reused", &all.reused), ("dialled", &all.dialled)] {
            out.line("overdue_gate_server_connections_total", &[("kind", kind)], count.get() as f64);
        }
        let name = "overdue_gate_first_attempts_failed_total";
        out.head(name, "counter", "Attempts that failed and were followed by a second one, by server and cause.");
        for ((server, cause), count) in all.first_attempts() {
            out.line(name, &[("server", &server.to_string()), ("cause", &cause.to_string())], count as f64);
        }
        out.head("overdue_gate_server_handshakes_total", "counter", "TLS handshakes with servers that were completed.");
        let resumed = all.resumed.get();
        for (kind, count) in [("full", all.secured.get() - resumed), ("resumed", resumed)] {
            out.line("overdue_gate_server_handshakes_total", &[("kind", kind)], count as f64);
        }
        out.head("overdue_gate_stage_seconds", "histogram", "Time of requests by stage.");
        for (stage, histogram) in STAGES.iter().zip(&all.stages) {
            out.histogram("overdue_gate_stage_seconds", Some(("stage", stage.as_str())), histogram);
        }
        out.head("overdue_gate_request_seconds", "histogram", "Time of requests, from their first byte.");
        out.histogram("overdue_gate_request_seconds", None, &all.total);
        let gauges = [
            ("overdue_gate_server_connections", "Connections to a server: in use, being dialled and idle."),
            ("overdue_gate_server_connections_idle", "Connections to a server that lie idle."),
            ("overdue_gate_server_requests", "Requests that a server has not answered."),
            ("overdue_gate_server_shunned", "Workers that leave a server alone, as they cannot connect to it."),
        ];
        let mut servers: std::collections::BTreeMap<(Arc<str>, SocketAddr), [usize; 4]> = Default::default();
        for (_, _, of_worker, ..) in looks.iter().flatten() {
            for (cluster, address, numbers, _) in of_worker {
                let sums = servers.entry((Arc::clone(cluster), *address)).or_default();
                sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
            }
        }
        for (place, (name, help)) in gauges.into_iter().enumerate() {
            out.head(name, "gauge", help);
            for ((cluster, address), numbers) in &servers {
                let number = numbers.get(place).copied().unwrap_or_default();
                out.line(name, &[("cluster", cluster), ("server", &address.to_string())], number as f64);
            }
        }
        let health = self.lookout.health();
        for (place, (name, kind, help)) in [
            ("overdue_gate_server_ill", "gauge", "Servers that probes say are ill."),
            ("overdue_gate_server_probes_total", "counter", "Probes of a server."),
            ("overdue_gate_server_probes_failed_total", "counter", "Those of them that failed."),
        ]
        .into_iter()
        .enumerate()
        {
            out.head(name, kind, help);
            for (cluster, address, numbers) in &health {
                let number = numbers.get(place).copied().unwrap_or_default();
                out.line(name, &[("cluster", cluster), ("server", &address.to_string())], number);
            }
        }
        let names = self.lookout.names();
        for (place, (name, kind, help)) in [
            ("overdue_gate_name_addresses", "gauge", "Addresses of a server's name that are used."),
            ("overdue_gate_name_lookups_total", "counter", "Lookups of a server's name."),
            ("overdue_gate_name_lookups_failed_total", "counter", "Those of them that failed, if only in part."),
            ("overdue_gate_name_stale_seconds", "gauge", "How long lookups of a server's name fail, if only in part."),
        ]
        .into_iter()
        .enumerate()
        {
            out.head(name, kind, help);
            for (of, numbers) in &names {
                out.line(name, &[("name", of)], numbers.get(place).copied().unwrap_or_default());
            }
        }
        out.0
    }
}

/// Looks at the requests in flight that have the least time left, of all routes or of one, with what is left in
/// microseconds. Gives how many there are, and how many of them are past their deadline.
pub(crate) fn each_in_flight(
    worker: &Worker,
    route: Option<&str>,
    most: usize,
    mut look: impl FnMut(i64, &Live, &InFlight),
) -> (usize, usize) {
    let now = clock::now();
    let each = |look: &mut dyn FnMut(i64, &Live, &InFlight)| {
        worker.each_live(|live| {
            let request = live.request.borrow();
            let Some(request) = &*request else { return };
            if route.is_none_or(|route| *request.route.route.name == *route) {
                let left = request.deadline.as_ref().map_or(i64::MAX, |(at, _)| left_us(*at, now));
                look(left, live, request);
            }
        });
    };
    let mut lefts = Vec::new();
    each(&mut |left, _, _| lefts.push(left));
    let (count, overdue) = (lefts.len(), lefts.iter().filter(|left| **left < 0).count());
    let bar = if count > most { *lefts.select_nth_unstable(most.saturating_sub(1)).1 } else { i64::MAX };
    // Of those that have as much left as the last, as many as there is room for.
    let mut room = most.saturating_sub(lefts.iter().filter(|left| **left < bar).count());
    each(&mut |left, live, request| {
        if left < bar || left == bar && room > 0 {
            room -= usize::from(left == bar);
            look(left, live, request);
        }
    });
    (count, overdue)
}

pub(crate) fn in_flight_json(worker: usize, live: &Live, request: &InFlight, path: &str, now: Instant) -> Value {
    let (stage, since) = live.stage();
    let line = live.line.borrow();
    let us = |from: Instant| micros(now.saturating_duration_since(from));
    let server_protocol = Protocol::of_servers(&request.route);
    json!({
        "worker": worker,
        "client": live.peer.to_string(),
        "method": line.method(),
        "host": line.authority(),
        "path": path,
        "protocol": line.protocol().map(Protocol::as_str),
        "via": live.via,
        "request_id": line.id(),
        "trace_id": line.hop().map(|hop| hop.trace_id().as_str().to_owned()),
        "route": &*request.route.route.name,
        "server": request.server.map(|server| server.to_string()),
        "server_protocol": request.server.map(|_| server_protocol.as_str()),
        "age_us": us(request.began),
        "stage": stage.as_str(),
        "stage_us": us(since),
        "remaining_us": request.deadline.as_ref().map(|(at, _)| left_us(*at, now)),
        "limit": request.deadline.as_ref().map(|(_, limit)| LimitReport::from(limit)),
    })
}

fn left_us(at: Instant, now: Instant) -> i64 {
    let us = |duration| i64::try_from(micros(duration)).unwrap_or(i64::MAX);
    if at >= now { us(at - now) } else { -us(now - at) }
}

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.0.push_str(&format!("{}{label}=\"{text}\"", if place == 0 { "{" } else { "," }));
        }
        self.0.push_str(if labels.is_empty() { " " } else { "} " });
        self.0.push_str(&format!("{value}\n"));
    }

    fn histogram(&mut self, name: &str, label: Option<(&str, &str)>, histogram: &crate::counts::Histogram) {
        let labels = |le: &str| -> Vec<(String, String)> {
            label
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .chain([("le".to_owned(), le.to_owned())])
                .collect()
        };
        let bounds = histogram.cumulative().map(|(bound, count)| (bound.to_string(), count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), histogram.count())]) {
            let labels = labels(&bound);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            self.line(&format!("{name}_bucket"), &labels, count as f64);
        }
        let labels: Vec<(&str, &str)> = label.into_iter().collect();
        self.line(&format!("{name}_sum"), &labels, histogram.sum().as_secs_f64());
        self.line(&format!("{name}_count"), &labels, histogram.count() as f64);
    }
}

/// What is followed, with who set each limit and where.
fn describe(config: &Config, circles: &[Doubt]) -> Value {
    let limit = |limit: Option<&Limit>| limit.map(LimitReport::from);
    let limits = |limits: &Limits| -> Value {
        let known = [LimitName::Stage(overdue_core::Stage::Resolve), LimitName::ConnectAttempt, LimitName::Attempt];
        Limits::NAMES
            .into_iter()
            .filter(|name| !known.contains(name))
            .map(|name| (name.as_str().to_owned(), json!(limit(limits.get(name)))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    json!({
        "workers": config.workers,
        "drain": limit(Some(&config.drain)),
        "listeners": config.listeners.iter().map(|listener| json!({
            "listen": listener.address.to_string(),
            "head": limit(listener.head.as_ref()),
            "idle": limit(listener.idle.as_ref()),
            "body_rate": listener.body_rate.as_ref().map(|rate| json!({
                "bytes": rate.name.bytes(),
                "limit": limit(Some(rate)),
            })),
            "connections": listener.connections,
            "forwarded": listener.forwarded.as_str(),
            "proxy_protocol": listener.proxy_protocol,
        })).collect::<Vec<_>>(),
        "trace": { "start": config.trace.start, "from_anyone": config.trace.from_anyone },
        "routes": config.routes.iter().map(|route| json!({
            "name": &*route.name,
            "matches": route.matches.to_string(),
            "cluster": &*route.cluster.name,
            "body_max": route.body_max,
            "limits": limits(&route.limits),
            "reserve_us": micros(route.reserve),
        })).collect::<Vec<_>>(),
        "clusters": config.clusters().values().map(|cluster| json!({
            "name": &*cluster.name,
            "servers": cluster.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "connections": cluster.connections,
            "idle": limit(Some(&cluster.idle)),
            "http2": cluster.http2,
            "tls": cluster.tls.is_some(),
        })).collect::<Vec<_>>(),
        "conflicts": config.conflicts().into_iter().map(|(route, verdicts)| json!({
            "route": &*route,
            "advisories": verdicts,
        })).collect::<Vec<_>>(),
        "doubts": config.doubts().iter().chain(circles).map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn said(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    live::guard(response.headers_mut());
    response
}

fn json_of(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    said(status, "application/json", format!("{value:#}\n"))
}

/// Serves the operator until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, desk: Desk) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left, most likely: the next look is soon enough.
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let desk = desk.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let desk = desk.clone();
                async move { Ok::<_, Infallible>(desk.answer(request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(CLIENT_HEAD);
            // Whatever becomes of it, the client of an operator is told by its connection.
            let _ = timeout(CLIENT_TOTAL, server.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
}
