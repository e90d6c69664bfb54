//! Scenarios: one fault, how it is called, and what it must be judged as, in a TOML file with a strict schema.
//!
//! An unknown key, an unknown word or parts that do not fit each other are errors with file and line; nothing is
//! guessed and nothing is ignored.

mod call;
mod server;
mod truth;
mod value;

use std::{fmt::Display, net::IpAddr, ops::Range};

use overdue_core::{Confidence, Outcome};
use serde::Deserialize;
use toml::Spanned;

use self::call::CallTable;
pub use self::{
    call::{Call, Caller, Scheme},
    server::{
        Certificate, Dns, Filter, Http2, Http2Then, OverTcp, Pace, Payload, Rcode, Read, Reply, Rule, Script, Server,
        Step, Tls,
    },
    truth::Truth,
};

/// A fault, the call that meets it, and the truth about it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// Its name, in kebab-case.
    pub name: String,
    /// What it is, in one line.
    pub about: String,
    /// What listens.
    pub server: Server,
    /// The DNS server that knows the call's host, where there is one.
    pub dns: Option<Dns>,
    /// Packet filters between caller and server from the start on.
    pub filter: Option<Filter>,
    /// How the caller calls.
    pub call: Call,
    /// What it needs of the machine.
    pub needs: Needs,
    /// What the call must be judged as.
    pub truth: Truth,
}

/// What a scenario needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// A network namespace of its own: see [`netns::enter`](crate::netns::enter).
    #[serde(default)]
    pub namespace: bool,
}

/// Why a scenario file is not accepted, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{origin}:{line}: {message}")]
pub struct ScenarioError {
    /// The file, as the caller named it.
    pub origin: String,
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong there and what would be right.
    pub message: String,
}

/// The whole file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    about: Spanned<String>,
    server: Spanned<Server>,
    #[serde(default)]
    dns: Option<Spanned<Dns>>,
    #[serde(default)]
    filter: Option<Filter>,
    call: Spanned<CallTable>,
    #[serde(default)]
    needs: Needs,
    truth: Spanned<Truth>,
}

/// A file's text and its name, for errors.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Source<'_> {
    fn line(&self, span: Range<usize>) -> u32 {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).map_or(u32::MAX, |lines| lines + 1)
    }

    fn error(&self, span: Range<usize>, message: impl Display) -> ScenarioError {
        ScenarioError { origin: self.origin.to_owned(), line: self.line(span), message: message.to_string() }
    }
}

impl Scenario {
    /// Reads a scenario file. `origin` is its name, for errors and as the origin of the limits in it.
    ///
    /// # Errors
    /// [`ScenarioError`], which names the line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        let source = Source { text, origin };
        let file: File = toml::from_str(text)
            .map_err(|error| source.error(error.span().unwrap_or_default(), error.message().trim_end()))?;

        let call_span = file.call.span();
        let scenario = Self {
            name: file.name.get_ref().clone(),
            about: file.about.get_ref().clone(),
            server: file.server.get_ref().clone(),
            dns: file.dns.as_ref().map(|dns| dns.get_ref().clone()),
            filter: file.filter,
            call: file.call.into_inner().check(&source)?,
            needs: file.needs,
            truth: file.truth.get_ref().clone(),
        };
        let dns_span = file.dns.map_or(call_span.clone(), |dns| dns.span());
        for (span, problem) in [
            (file.name.span(), scenario.problem_of_name()),
            (file.about.span(), scenario.problem_of_about()),
            (file.server.span(), scenario.problem_of_server()),
            (dns_span, scenario.problem_of_host()),
            (call_span, scenario.problem_of_call()),
            (file.truth.span(), scenario.problem_of_truth()),
        ] {
            if let Some(problem) = problem {
                return Err(source.error(span, problem));
            }
        }
        Ok(scenario)
    }

    /// The TLS of the server, where it has any.
    #[must_use]
    pub const fn tls(&self) -> Option<&Tls> {
        match &self.server {
            Server::Script(script) => script.tls.as_ref(),
            Server::Http2(http2) => http2.tls.as_ref(),
            _ => None,
        }
    }

    /// Whether the fault is in place only when the server has come to some point, as against from its start.
    #[must_use]
    pub fn arms_itself(&self) -> bool {
        match &self.server {
            Server::Script(script) => script.steps.contains(&Step::Armed),
            Server::Http2(http2) => http2.then == Http2Then::Hold,
            _ => false,
        }
    }

    /// Whether any packet filter is ever switched on.
    #[must_use]
    pub fn filters(&self) -> bool {
        self.filter.is_some()
            || matches!(&self.server, Server::Script(script)
                if script.steps.iter().any(|step| matches!(step, Step::Filter(_))))
    }

    fn problem_of_name(&self) -> Option<String> {
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (!self.name.split('-').all(word))
            .then(|| format!("the name {:?} is not in kebab-case: write words like dns-slow", self.name))
    }

    fn problem_of_about(&self) -> Option<String> {
        (self.about.trim().is_empty() || self.about.contains('\n'))
            .then(|| "say in one line what the scenario is about".to_owned())
    }

    fn problem_of_server(&self) -> Option<String> {
        let namespaced = match &self.server {
            Server::PortsTaken { ports: 0 } => return Some("ports-taken leaves at least one port".to_owned()),
            Server::PortsTaken { .. } | Server::Nowhere { .. } => true,
            Server::Script(script) => {
                if let Some(problem) = problem_of_script(script) {
                    return Some(problem);
                }
                self.filters()
            }
            _ => self.filters(),
        };
        (namespaced && !self.needs.namespace).then(|| {
            "this server or its filters would change the whole machine: add `needs.namespace = true`".to_owned()
        })
    }

    fn problem_of_host(&self) -> Option<String> {
        match (&self.dns, &self.call.host) {
            (Some(_), None) => Some("a DNS server without a name to ask for: set `call.host`".to_owned()),
            (None, Some(host)) => {
                Some(format!("nobody knows the host {host:?}: add a table `dns`, or leave the host out"))
            }
            (Some(_), Some(host)) if host.parse::<IpAddr>().is_ok() => {
                Some(format!("the host {host:?} is an address: the DNS server would never be asked"))
            }
            _ => None,
        }
    }

    fn problem_of_call(&self) -> Option<String> {
        let call = &self.call;
        if !call.path.starts_with('/') {
            return Some(format!("the path {:?} does not begin with /", call.path));
        }
        if (call.warm || call.caller.holds()) && !self.arms_itself() {
            return Some(
                "with `warm`, and with a caller that holds something, the caller must know when it may begin: \
                 the server needs the step `armed` (http2: `then = \"hold\"`)"
                    .to_owned(),
            );
        }
        if call.caller == Caller::PastDeadline && call.limits.total.is_none() {
            return Some("a call past its deadline needs the limit `total`".to_owned());
        }
        if call.caller == Caller::HoldsH2Stream && !matches!(call.scheme, Scheme::H2c | Scheme::H2) {
            return Some("only HTTP/2 has streams: use the scheme h2c or h2".to_owned());
        }
        None
    }

    fn problem_of_truth(&self) -> Option<String> {
        let Truth { outcome, stage, causes, limit, confidence } = &self.truth;
        if *outcome == Outcome::Ok {
            let verdict = stage.is_some() || !causes.is_empty() || limit.is_some() || confidence.is_some();
            return verdict.then(|| "a call that ends well has no stage, cause, limit or confidence".to_owned());
        }
        if stage.is_none() {
            return Some("say which stage is to blame".to_owned());
        }
        match (causes.len(), confidence) {
            (1, _) | (2, Some(Confidence::Medium)) => {}
            (2, _) => {
                return Some("two causes that cannot be told apart need `confidence = \"medium\"`".to_owned());
            }
            _ => return Some("give one cause, or two that cannot be told apart".to_owned()),
        }
        match limit {
            Some(_) if *outcome != Outcome::TimedOut => Some("only a timed-out call has a limit that fired".to_owned()),
            None if *outcome == Outcome::TimedOut => Some("say which limit fires".to_owned()),
            Some(limit) if self.call.limits.get(*limit).is_none() => {
                Some(format!("the limit {limit} cannot fire: set it in `call.limits`"))
            }
            _ => None,
        }
    }
}

fn problem_of_script(script: &Script) -> Option<String> {
    let Some(last) = script.steps.last() else {
        return Some("a script needs steps".to_owned());
    };
    if !last.is_last() {
        return Some(format!(
            "after `{}` the script leaves the connection in the air: \
             end it with hold, close, reset, again or read = \"all-and-ignore\"",
            last.as_str()
        ));
    }
    if let Some(step) = script.steps.iter().rev().skip(1).find(|step| step.is_last()) {
        return Some(format!("the steps after `{}` are never reached", step.as_str()));
    }
    let handshakes = script.steps.iter().filter(|step| matches!(step, Step::Tls | Step::ServerFlight { .. })).count();
    match (handshakes, &script.tls) {
        (0, Some(_)) => Some("a certificate without the step `tls` or `server-flight`".to_owned()),
        (1.., None) => Some("the steps `tls` and `server-flight` need a table `tls` with a certificate".to_owned()),
        (2.., _) => Some("a connection has one handshake".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
