//! The picture that the page shows: what each worker saw, put together.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use overdue_core::micros;
use serde_json::{Value, json};

use super::{
    BOUNDS_US, BUCKETS, COLUMNS, Ending, Kept, Recent, SPANS, STEP, Series, TOTAL, WINDOW, kept::without_query,
};
use crate::{
    admin::{Desk, each_in_flight},
    clock,
    counts::STAGES,
    worker::Worker,
};

/// What is listed at most.
const IN_FLIGHT_MAX: usize = 50;
const SLOWEST_MAX: usize = 20;
const FAILED_MAX: usize = 30;
/// What has no route may come by the thousand, from anybody; it leaves room for the others.
const FAILED_WITHOUT_ROUTE_MAX: usize = 10;
/// Columns from which the quantiles are: a minute.
const QUANTILE_COLUMNS: usize = 60 / STEP;

/// What somebody wants to see.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    /// One route; `None`: all.
    route: Option<String>,
    /// The stage of the heat map, by its place; the default is the whole.
    span: Option<usize>,
}

impl Wanted {
    /// From `route=NAME&stage=NAME`.
    pub(crate) fn parse(query: &str) -> Self {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "route" if !value.is_empty() => wanted.route = Some(value.into_owned()),
                "stage" => wanted.span = STAGES.iter().position(|stage| stage.as_str() == value),
                _ => {}
            }
        }
        wanted
    }

    fn span(&self) -> usize {
        self.span.unwrap_or(TOTAL)
    }
}

type Server = (Arc<str>, SocketAddr);

/// Numbers of one server: open and idle connections, requests, workers that leave it alone, and of the slowest of them the
/// time to the head of an answer.
#[derive(Default, Clone, Copy)]
struct Health {
    open: usize,
    idle: usize,
    pending: usize,
    shunned: usize,
    latency_us: u64,
}

/// Of one worker, or of all.
struct Picture {
    classes: Vec<[u32; 6]>,
    heat: Vec<[u32; BUCKETS]>,
    spans: [[u32; BUCKETS]; SPANS],
    endings: BTreeMap<Ending, Vec<u32>>,
    slowest: Vec<Arc<Kept>>,
    failed: Vec<Arc<Kept>>,
    servers: BTreeMap<Server, Health>,
    in_flight: usize,
    overdue: usize,
    requests: Vec<(i64, Value)>,
    connections: usize,
    draining: bool,
    /// The route has no counters of its own.
    shared: bool,
    /// Names of all routes.
    routes: Vec<Arc<str>>,
}

impl Default for Picture {
    fn default() -> Self {
        Self {
            classes: vec![[0; 6]; WINDOW],
            heat: vec![[0; BUCKETS]; COLUMNS],
            spans: [[0; BUCKETS]; SPANS],
            endings: BTreeMap::new(),
            slowest: Vec::new(),
            failed: Vec::new(),
            servers: BTreeMap::new(),
            in_flight: 0,
            overdue: 0,
            requests: Vec::new(),
            connections: 0,
            draining: false,
            shared: false,
            routes: Vec::new(),
        }
    }
}

fn sum<'a>(to: impl IntoIterator<Item = &'a mut u32>, from: impl IntoIterator<Item = u32>) {
    to.into_iter().zip(from).for_each(|(to, from)| *to = to.saturating_add(from));
}

impl Picture {
    /// What this worker sees now.
    fn of(worker: &Worker, wanted: &Wanted) -> Self {
        let now = clock::now();
        let mut picture = Self { connections: worker.open(), draining: worker.is_draining(), ..Self::default() };
        worker.recent.add_to(&mut picture, wanted, now);
        let route = wanted.route.as_deref();
        (picture.in_flight, picture.overdue) = each_in_flight(worker, route, IN_FLIGHT_MAX, |left, live, request| {
            let path = without_query(live.line.borrow().path());
            picture.requests.push((left, crate::admin::in_flight_json(worker.number, live, request, &path, now)));
        });
        let plan = worker.plan();
        picture.routes = plan.routes.iter().map(|planned| Arc::clone(&planned.route.name)).collect();
        let cluster = route.and_then(|name| plan.routes.iter().find(|planned| &*planned.route.name == name));
        let cluster = cluster.map(|planned| &planned.route.cluster.name);
        for of in plan.servers().filter(|of| route.is_none() || Some(&of.cluster.name) == cluster) {
            for server in of.each() {
                let health = Health {
                    open: server.open(),
                    idle: server.idle(),
                    pending: server.requests(),
                    shunned: usize::from(server.is_shunned(now)),
                    latency_us: micros(server.latency()),
                };
                picture.servers.insert((Arc::clone(&of.cluster.name), server.address), health);
            }
        }
        picture
    }

    fn merge(&mut self, other: Self) {
        sum(self.classes.iter_mut().flatten(), other.classes.into_iter().flatten());
        sum(self.heat.iter_mut().flatten(), other.heat.into_iter().flatten());
        sum(self.spans.iter_mut().flatten(), other.spans.into_iter().flatten());
        for (ending, counts) in other.endings {
            sum(self.endings.entry(ending).or_insert_with(|| vec![0; COLUMNS]), counts);
        }
        self.slowest.extend(other.slowest);
        self.failed.extend(other.failed);
        for (server, health) in other.servers {
            let all = self.servers.entry(server).or_default();
            all.open += health.open;
            all.idle += health.idle;
            all.pending += health.pending;
            all.shunned += health.shunned;
            all.latency_us = all.latency_us.max(health.latency_us);
        }
        self.in_flight += other.in_flight;
        self.overdue += other.overdue;
        self.requests.extend(other.requests);
        self.connections += other.connections;
        self.draining |= other.draining;
        self.shared |= other.shared;
        self.routes = other.routes;
    }

    fn json(mut self, now: Instant) -> Value {
        self.requests.sort_by_key(|(left, _)| *left);
        self.requests.truncate(IN_FLIGHT_MAX);
        self.slowest.sort_by_key(|kept| std::cmp::Reverse(kept.total_us));
        self.slowest.truncate(SLOWEST_MAX);
        self.failed.sort_by_key(|kept| std::cmp::Reverse(kept.end));
        let mut without = 0;
        self.failed.retain(|kept| {
            without += usize::from(kept.route.is_none());
            kept.route.is_some() || without <= FAILED_WITHOUT_ROUTE_MAX
        });
        self.failed.truncate(FAILED_MAX);
        let kept = |all: &[Arc<Kept>]| all.iter().map(|kept| kept.json(now)).collect::<Vec<_>>();
        let names = STAGES.iter().map(|stage| stage.as_str()).chain(["total"]);
        let stages = names.zip(&self.spans).map(|(name, buckets)| {
            let count: u64 = buckets.iter().copied().map(u64::from).sum();
            json!({
                "stage": name,
                "count": count,
                "p50_us": quantile(buckets, 0.5),
                "p90_us": quantile(buckets, 0.9),
                "p99_us": quantile(buckets, 0.99),
                "p100_us": quantile(buckets, 1.0),
            })
        });
        let stages: Vec<Value> = stages.collect();
        // Bucket and count, of those that have one.
        let heat = self.heat.iter().map(|column| {
            let cells = column.iter().enumerate().filter(|(_, count)| **count > 0);
            cells.map(|(bucket, count)| (bucket, *count)).collect::<Vec<_>>()
        });
        let heat: Vec<_> = heat.collect();
        let class = |class: usize| self.classes.iter().filter_map(move |second| second.get(class)).collect::<Vec<_>>();
        let classes: serde_json::Map<String, Value> = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]
            .into_iter()
            .enumerate()
            .map(|(place, name)| (name.to_owned(), json!(class(place))))
            .collect();
        let causes = self.endings.iter().map(|(ending, counts)| {
            let cause = match ending {
                Ending::Judged(cause) => Some(cause.id()),
                _ => None,
            };
            json!({"ending": ending.text(), "cause": cause, "counts": counts})
        });
        let causes: Vec<Value> = causes.collect();
        let servers = self.servers.iter().map(|((cluster, address), health)| {
            json!({
                "cluster": &**cluster,
                "server": address.to_string(),
                "connections": health.open,
                "connections_idle": health.idle,
                "requests": health.pending,
                "workers_shunning": health.shunned,
                "latency_us": health.latency_us,
            })
        });
        let servers: Vec<Value> = servers.collect();
        json!({
            "routes": self.routes.iter().map(|name| &**name).collect::<Vec<_>>(),
            "shared": self.shared,
            "draining": self.draining,
            "connections": self.connections,
            "rates": {"step_s": 1, "classes": classes},
            "heat": {"step_s": STEP, "bounds_us": BOUNDS_US.as_slice(), "columns": heat},
            "stages": stages,
            "causes": {"step_s": STEP, "rows": causes},
            "in_flight": {
                "count": self.in_flight,
                "overdue": self.overdue,
                "requests": self.requests.into_iter().map(|(_, request)| request).collect::<Vec<_>>(),
            },
            "servers": servers,
            "slowest": kept(&self.slowest),
            "failed": kept(&self.failed),
        })
    }
}

/// The upper bound of the bucket in which this part of all is reached; `None` of nothing, and beyond the last bound.
fn quantile(buckets: &[u32], part: f64) -> Option<u32> {
    let count: u64 = buckets.iter().copied().map(u64::from).sum();
    let mut sum = 0;
    let mut bounds = buckets.iter().zip(BOUNDS_US.iter());
    let found = bounds.find(|(number, _)| {
        sum += u64::from(**number);
        sum > 0 && sum as f64 >= part * count as f64
    });
    found.map(|(_, bound)| *bound)
}

impl Recent {
    /// What this worker alone would show then, of all routes.
    #[cfg(test)]
    pub(super) fn json_at(&self, now: Instant) -> Value {
        let mut picture = Picture::default();
        self.add_to(&mut picture, &Wanted::default(), now);
        picture.json(now)
    }

    fn add_to(&self, picture: &mut Picture, wanted: &Wanted, now: Instant) {
        let at = self.second(now);
        let routes = self.routes.borrow();
        match &wanted.route {
            None => {
                let shared = [self.beyond.get(), self.none.get()];
                for series in routes.iter().map(|(_, series)| series).chain(shared.into_iter().flatten()) {
                    series.add_to(picture, wanted.span(), at, now);
                }
            }
            Some(name) => match routes.iter().find(|(known, _)| **known == **name) {
                Some((_, series)) => series.add_to(picture, wanted.span(), at, now),
                None => picture.shared = self.beyond.get().is_some(),
            },
        }
    }
}

impl Series {
    /// Adds the last [`WINDOW`] seconds that are over, and the columns up to now.
    fn add_to(&self, picture: &mut Picture, span: usize, at: usize, now: Instant) {
        for (place, sums) in picture.classes.iter_mut().enumerate() {
            let second = (at + place).checked_sub(WINDOW).and_then(|at| self.seconds.get(at));
            if let Some(second) = second {
                sum(sums, second.classes.iter().map(std::cell::Cell::get));
            }
        }
        for (place, sums) in picture.heat.iter_mut().enumerate() {
            let column = (at / STEP + 1 + place).checked_sub(COLUMNS).and_then(|at| self.columns.get(at));
            let Some(column) = column else { continue };
            if let Some(buckets) = column.spans.get(span) {
                sum(sums, buckets.iter().map(std::cell::Cell::get));
            }
            if place + QUANTILE_COLUMNS >= COLUMNS {
                sum(picture.spans.iter_mut().flatten(), column.spans.iter().flatten().map(std::cell::Cell::get));
            }
            for (ending, count) in &*column.endings.borrow() {
                let counts = picture.endings.entry(*ending).or_insert_with(|| vec![0; COLUMNS]);
                sum(counts.get_mut(place), [*count]);
            }
        }
        // What nothing came after stays where it is, however old it becomes.
        let is_recent = |kept: &&Arc<Kept>| now.saturating_duration_since(kept.end).as_secs() < WINDOW as u64;
        for minute in &self.minutes.0 {
            picture.slowest.extend(minute.slowest.borrow().iter().filter(is_recent).cloned());
        }
        picture.failed.extend(self.failed.borrow().iter().filter(is_recent).cloned());
    }
}

impl Desk {
    /// What the page shows; `None` when no worker answers, as there would be nothing to see.
    pub(crate) async fn live(&self, wanted: Wanted) -> Option<Value> {
        let own = wanted.clone();
        let looks = self.ask(move |worker| Picture::of(worker, &own)).await;
        let late = looks.iter().filter(|look| look.is_none()).count();
        if late == looks.len() {
            return None;
        }
        let mut all = Picture::default();
        looks.into_iter().flatten().for_each(|picture| all.merge(picture));
        let now = clock::now();
        let stage = STAGES.get(wanted.span()).map_or("total", |stage| stage.as_str());
        let mut answer = json!({
            "schema": "overdue.live/1",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_us": micros(now.saturating_duration_since(self.began)),
            "window_s": WINDOW,
            "workers": self.workers.len(),
            "workers_late": late,
            "log_lines_dropped": self.dropped.load(Relaxed),
            "route": wanted.route,
            "stage": stage,
        });
        if let (Some(answer), Value::Object(picture)) = (answer.as_object_mut(), all.json(now)) {
            answer.extend(picture);
        }
        Some(answer)
    }
}
