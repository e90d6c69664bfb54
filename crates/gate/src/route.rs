//! Which route a request takes.

use std::{fmt, rc::Rc};

use overdue::h1::fields::Field;

use crate::{config::Matches, worker::PlannedRoute};

/// What routes look at.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    /// With or without a port.
    pub(crate) authority: &'a str,
    /// With its query.
    pub(crate) path: &'a str,
    pub(crate) fields: &'a [Field<'a>],
}

/// The first that matches.
pub(crate) fn find<'r>(routes: &'r [Rc<PlannedRoute>], asked: Asked<'_>) -> Option<&'r Rc<PlannedRoute>> {
    routes.iter().find(|planned| planned.route.matches.are_met(asked))
}

impl Matches {
    fn are_met(&self, asked: Asked<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| covers_path(path, without_query(asked.path)))
            && self.host.as_ref().is_none_or(|host| covers_host(host, without_port(asked.authority)))
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == asked.method))
            && self.header.as_ref().is_none_or(|(name, value)| {
                asked
                    .fields
                    .iter()
                    .any(|field| field.name.eq_ignore_ascii_case(name) && field.value.trim_ascii() == value.as_bytes())
            })
    }

    /// Whether every request that meets the others meets these.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let path = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(own), Some(other)) => covers_path(own, other),
            (Some(own), None) => own == "/",
        };
        let host = match (&self.host, &other.host) {
            (None, _) => true,
            // A pattern stands for names that are longer than itself.
            (Some(own), Some(other)) => own == other || covers_host(own, other),
            (Some(_), None) => false,
        };
        let methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method));
        let header = self.header.is_none() || self.header == other.header;
        path && host && methods && header
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn without_port(authority: &str) -> &str {
    let end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    authority.get(..end).unwrap_or(authority)
}

fn covers_path(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'),
        // `*` of OPTIONS is about everything.
        None => prefix == "/" && path == "*",
    }
}

fn covers_host(pattern: &str, host: &str) -> bool {
    // A name may end with the dot of the root.
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len()
                && host.get(host.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        None => host.eq_ignore_ascii_case(pattern),
    }
}

impl fmt::Display for Matches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.methods.is_empty() {
            write!(f, "{} ", self.methods.join("|"))?;
        }
        f.write_str(self.host.as_deref().unwrap_or_default())?;
        f.write_str(self.path.as_deref().unwrap_or(if self.host.is_none() { "/" } else { "" }))?;
        if let Some((name, value)) = &self.header {
            write!(f, " {name}: {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(host: &str, path: &str) -> Matches {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Matches { host: some(host), path: some(path), ..Matches::default() }
    }

    fn meets(matches: &Matches, authority: &str, path: &str) -> bool {
        matches.are_met(Asked { method: "GET", authority, path, fields: &[] })
    }

    #[test]
    fn paths_are_covered_up_to_a_slash() {
        let v1 = matches("", "/v1");
        assert!(meets(&v1, "a", "/v1") && meets(&v1, "a", "/v1/x") && meets(&v1, "a", "/v1?q=/v2"));
        assert!(!meets(&v1, "a", "/v10") && !meets(&v1, "a", "/") && !meets(&v1, "a", "/x?/v1"));
        let all = matches("", "/");
        assert!(meets(&all, "a", "/x") && meets(&all, "a", "*"));
        assert!(meets(&matches("", "/v1/"), "a", "/v1/x") && !meets(&matches("", "/v1/"), "a", "/v1"));
    }

    #[test]
    fn hosts_have_no_case_and_no_port() {
        let one = matches("api.test", "");
        assert!(meets(&one, "API.test:8080", "/") && meets(&one, "api.test.", "/"));
        assert!(!meets(&one, "x.api.test", "/") && !meets(&one, "", "/"));
        let below = matches("*.test", "");
        assert!(meets(&below, "a.test", "/") && meets(&below, "a.b.TEST:1", "/"));
        assert!(!meets(&below, "test", "/") && !meets(&below, "atest", "/") && !meets(&below, ".test", "/x"));
        assert!(meets(&matches("[::1]", ""), "[::1]:80", "/"));
    }

    #[test]
    fn a_field_and_a_method() {
        let mut canary = matches("", "/");
        canary.header = Some(("x-canary".to_owned(), "1".to_owned()));
        canary.methods = vec!["PUT".to_owned()];
        let fields = [Field { name: "X-Canary", value: b"1 " }];
        let asked = Asked { method: "PUT", authority: "a", path: "/", fields: &fields };
        assert!(canary.are_met(asked));
        assert!(!canary.are_met(Asked { method: "GET", ..asked }));
        assert!(!canary.are_met(Asked { fields: &[], ..asked }));
    }

    #[test]
    fn a_route_that_nothing_reaches_is_known() {
        let all = Matches::default();
        assert!(all.covers(&matches("a", "/x")) && matches("", "/").covers(&all));
        assert!(matches("", "/v1").covers(&matches("a", "/v1/x")));
        assert!(!matches("", "/v1").covers(&matches("", "/v10")) && !matches("a", "").covers(&all));
        assert!(matches("*.test", "").covers(&matches("a.test", "/x")));
        assert!(matches("*.test", "").covers(&matches("*.a.test", "")));
        assert!(!matches("*.a.test", "").covers(&matches("*.test", "")));
        assert!(!matches("a.test", "").covers(&matches("*.test", "")));
    }
}
