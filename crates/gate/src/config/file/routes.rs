//! Which requests go where.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use overdue_core::Limits;

use super::{
    File, RouteTable, Source,
    values::{is_host, is_path},
};
use crate::config::{Cluster, ConfigError, Matches, Route};

/// An answer of a server in the same place needs about a millisecond, timers of a millisecond on both sides another two;
/// the rest is for a machine that is busy.
const RESERVE: Duration = Duration::from_millis(5);

impl Source<'_> {
    /// Those of the file, in its order, with limits of their own before those of all.
    pub(super) fn routes(
        &self,
        file: &File,
        clusters: &BTreeMap<&str, Arc<Cluster>>,
    ) -> Result<Vec<Arc<Route>>, ConfigError> {
        let base = self.limits(&file.limits, &Limits::default())?;
        let reserve = self.reserve(&file.limits, RESERVE)?;
        let mut routes: Vec<Arc<Route>> = Vec::new();
        for table in &file.route {
            let route = table.get_ref();
            let name = route.cluster.get_ref();
            let Some(cluster) = clusters.get(name.as_str()) else {
                let message = format!("there is no cluster {name:?}{}", nearest(name, clusters.keys().copied()));
                return Err(self.error(route.cluster.span(), message));
            };
            let matches = self.matches(route)?;
            let mut earlier = routes.iter().filter(|other| other.matches.covers(&matches));
            if let Some(other) = earlier.next() {
                let message = format!("no request comes here: route {:?} above takes all that match", other.name);
                return Err(self.error(table.span(), message));
            }
            let name: Arc<str> = match &route.name {
                Some(name) => name.as_str().into(),
                None => matches.to_string().into(),
            };
            if routes.iter().any(|other| other.name == name) {
                return Err(self.error(table.span(), format!("two routes are called {name:?}: give them names")));
            }
            routes.push(Arc::new(Route {
                name,
                matches,
                cluster: Arc::clone(cluster),
                limits: self.limits(&route.limits, &base)?,
                reserve: self.reserve(&route.limits, reserve)?,
                body_max: route.body_max,
            }));
        }
        Ok(routes)
    }

    fn matches(&self, table: &RouteTable) -> Result<Matches, ConfigError> {
        let mut matches = Matches::default();
        if let Some(host) = &table.host {
            let text = host.get_ref().to_ascii_lowercase();
            // The dot of the root is no part of a name: requests come with it and without.
            let text = text.strip_suffix('.').unwrap_or(&text);
            let below = text.strip_prefix("*.");
            if !is_host(below.unwrap_or(text)) || below.is_some_and(|name| name.starts_with('[')) {
                let message = format!(
                    "{:?} is no host without a port, such as example.com or *.example.com{}",
                    host.get_ref(),
                    if text.is_ascii() { "" } else { "; write it as it is asked for: xn--..." }
                );
                return Err(self.error(host.span(), message));
            }
            matches.host = Some(text.to_owned());
        }
        if let Some(path) = &table.path {
            let text = path.get_ref();
            if !is_path(text) || text.contains('?') {
                let hint = if text.is_ascii() { "" } else { "; write it as it is asked for: /%C3%BC" };
                return Err(self.error(path.span(), format!("{text:?} is no path, such as / or /v1{hint}")));
            }
            matches.path = Some(text.clone());
        }
        for method in &table.methods {
            let text = method.get_ref();
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                return Err(self.error(method.span(), format!("{text:?} is no method, such as GET")));
            }
            if text == "CONNECT" {
                let message = "no request comes with CONNECT: it is refused, and a WebSocket of HTTP/2 counts as a GET";
                return Err(self.error(method.span(), message));
            }
            matches.methods.push(text.clone());
        }
        if let Some(header) = &table.header {
            let name = header.name.get_ref();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
                return Err(self.error(header.name.span(), format!("{name:?} is no name of a header field")));
            }
            let value = header.value.get_ref();
            if value.trim_ascii() != value || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                let message =
                    format!("no field has the value {value:?}: it has no control characters, and no blanks around it");
                return Err(self.error(header.value.span(), message));
            }
            matches.header = Some((name.to_ascii_lowercase(), value.clone()));
        }
        Ok(matches)
    }
}

/// What was probably meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let near = |other: &&str| overdue_core::edit_distance(word, other) * 3 <= word.len().max(other.len());
    match known.clone().find(near) {
        Some(name) => format!("; did you mean {name:?}?"),
        None => match known.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ") {
            names if names.is_empty() => "; there are none: add a table [cluster.NAME]".to_owned(),
            names => format!("; there are {names}"),
        },
    }
}
