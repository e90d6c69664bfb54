//! Limits: how long something may take, and who said so.

use std::{fmt, panic::Location, str::FromStr, sync::Arc, time::Duration};

use crate::{DurationText, Stage};

/// What a limit covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LimitName {
    /// One stage of the call.
    Stage(Stage),
    /// One address during `connect`, among those that are tried.
    ConnectAttempt,
    /// The head of a message (server side).
    Head,
    /// The silence between two pieces of a body.
    Gap,
    /// So many bytes of a body, as long as there are more to come.
    Rate(u64),
    /// One attempt of a call that may be tried again.
    Attempt,
    /// The whole call, from the first poll to the end of the body.
    Total,
    /// How long a connection may lie unused.
    Idle,
}

impl LimitName {
    /// The word used in reports and flags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.as_str(),
            Self::ConnectAttempt => "connect-attempt",
            Self::Head => "head",
            Self::Gap => "gap",
            Self::Rate(_) => "rate",
            Self::Attempt => "attempt",
            Self::Total => "total",
            Self::Idle => "idle",
        }
    }
}

impl LimitName {
    /// How many bytes of a body are asked for, where it is that.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        match self {
            Self::Rate(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who set a limit, and where.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// Overdue's own default.
    Default,
    /// A line of code.
    Code(&'static Location<'static>),
    /// A line of a configuration file.
    File {
        /// The file, as the user named it.
        path: Arc<str>,
        /// The line, counted from 1.
        line: u32,
    },
    /// A flag of the command line.
    Flag(Arc<str>),
    /// An environment variable.
    Env(Arc<str>),
    /// A header of an inbound request.
    Header(Arc<str>),
    /// The kernel (a sysctl or a socket option).
    Kernel(&'static str),
    /// Nobody saw it being set: it is how long the caller waited before it gave up.
    Inferred,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Code(at) => write!(f, "{}:{}", at.file(), at.line()),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Kernel(what) => write!(f, "kernel {what}"),
            Self::Inferred => f.write_str("inferred: the caller gave up then"),
        }
    }
}

/// A duration for something, with its owner.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Limit {
    /// What it covers.
    pub name: LimitName,
    /// How long that may take.
    pub value: Duration,
    /// Who set it, and where.
    pub origin: Origin,
}

impl Limit {
    /// A limit set by the line of code that calls this.
    #[must_use]
    #[track_caller]
    pub fn new(name: LimitName, value: Duration) -> Self {
        Self { name, value, origin: Origin::Code(Location::caller()) }
    }

    /// A limit for the whole call, set by the line of code that calls this.
    #[must_use]
    #[track_caller]
    pub fn total(value: Duration) -> Self {
        Self::new(LimitName::Total, value)
    }

    /// A limit for one stage, set by the line of code that calls this.
    #[must_use]
    #[track_caller]
    pub fn stage(stage: Stage, value: Duration) -> Self {
        Self::new(LimitName::Stage(stage), value)
    }

    /// The same limit with another origin.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name)?;
        if let LimitName::Rate(bytes) = self.name {
            write!(f, "{bytes} bytes in ")?;
        }
        write!(f, "{} ({})", DurationText(self.value), self.origin)
    }
}

/// All limits of one call. `None` means that the limit was left out on purpose.
///
/// | limit | default | what it covers |
/// |---|---|---|
/// | `queue` | 5 s | waiting for a pooled connection, a stream or a permit |
/// | `resolve` | 5 s | all servers, attempts and record types of the name together |
/// | `connect` | 10 s | all addresses together |
/// | `connect-attempt` | none | one address; RFC 8305 starts the next address after 250 ms without giving up the first, so a slow path needs no such limit |
/// | `tls` | 10 s | the handshake |
/// | `send` | 30 s | until the request, body included, is flushed |
/// | `wait` | 30 s | from the flushed request to the whole response head |
/// | `gap` | 30 s | silence between two pieces of the response body |
/// | `attempt` | none | one attempt of a call that may be tried again |
/// | `total` | 60 s | the whole call, to the end of the response body |
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// See [`Stage::Queue`].
    pub queue: Option<Limit>,
    /// See [`Stage::Resolve`].
    pub resolve: Option<Limit>,
    /// See [`Stage::Connect`].
    pub connect: Option<Limit>,
    /// See [`LimitName::ConnectAttempt`].
    pub connect_attempt: Option<Limit>,
    /// See [`Stage::Tls`].
    pub tls: Option<Limit>,
    /// See [`Stage::Send`].
    pub send: Option<Limit>,
    /// See [`Stage::Wait`].
    pub wait: Option<Limit>,
    /// See [`LimitName::Gap`].
    pub gap: Option<Limit>,
    /// See [`LimitName::Attempt`].
    pub attempt: Option<Limit>,
    /// See [`LimitName::Total`].
    pub total: Option<Limit>,
}

impl Default for Limits {
    fn default() -> Self {
        let default = |name, secs| Some(Limit { name, value: Duration::from_secs(secs), origin: Origin::Default });
        let stage = |stage, secs| default(LimitName::Stage(stage), secs);
        Self {
            queue: stage(Stage::Queue, 5),
            resolve: stage(Stage::Resolve, 5),
            connect: stage(Stage::Connect, 10),
            connect_attempt: None,
            tls: stage(Stage::Tls, 10),
            send: stage(Stage::Send, 30),
            wait: stage(Stage::Wait, 30),
            gap: default(LimitName::Gap, 30),
            attempt: None,
            total: default(LimitName::Total, 60),
        }
    }
}

impl Limits {
    /// The names that a call knows, in the order of its stages.
    pub const NAMES: [LimitName; 10] = [
        LimitName::Stage(Stage::Queue),
        LimitName::Stage(Stage::Resolve),
        LimitName::Stage(Stage::Connect),
        LimitName::ConnectAttempt,
        LimitName::Stage(Stage::Tls),
        LimitName::Stage(Stage::Send),
        LimitName::Stage(Stage::Wait),
        LimitName::Gap,
        LimitName::Attempt,
        LimitName::Total,
    ];

    /// No limit at all: a base for those who want to name each one. Every wait is then uncovered.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            queue: None,
            resolve: None,
            connect: None,
            connect_attempt: None,
            tls: None,
            send: None,
            wait: None,
            gap: None,
            attempt: None,
            total: None,
        }
    }

    /// The limit of this name, if it is set.
    #[must_use]
    pub fn get(&self, name: LimitName) -> Option<&Limit> {
        match name {
            LimitName::Stage(Stage::Queue) => self.queue.as_ref(),
            LimitName::Stage(Stage::Resolve) => self.resolve.as_ref(),
            LimitName::Stage(Stage::Connect) => self.connect.as_ref(),
            LimitName::ConnectAttempt => self.connect_attempt.as_ref(),
            LimitName::Stage(Stage::Tls) => self.tls.as_ref(),
            LimitName::Stage(Stage::Send) => self.send.as_ref(),
            LimitName::Stage(Stage::Wait) => self.wait.as_ref(),
            LimitName::Gap => self.gap.as_ref(),
            LimitName::Attempt => self.attempt.as_ref(),
            LimitName::Total => self.total.as_ref(),
            LimitName::Stage(Stage::Receive | Stage::Handle | Stage::Stall | Stage::Named(_))
            | LimitName::Head
            | LimitName::Rate(_)
            | LimitName::Idle => None,
        }
    }

    /// Sets a limit under its own name. A name that a call does not have (`head`, `idle`, a user's own stage) is
    /// handed back.
    ///
    /// # Errors
    /// The limit itself, when a call has no limit of that name.
    pub fn set(&mut self, limit: Limit) -> Result<(), Limit> {
        match self.slot(limit.name) {
            Some(slot) => {
                *slot = Some(limit);
                Ok(())
            }
            None => Err(limit),
        }
    }

    /// Leaves a limit out on purpose.
    pub fn clear(&mut self, name: LimitName) {
        if let Some(slot) = self.slot(name) {
            *slot = None;
        }
    }

    fn slot(&mut self, name: LimitName) -> Option<&mut Option<Limit>> {
        Some(match name {
            LimitName::Stage(Stage::Queue) => &mut self.queue,
            LimitName::Stage(Stage::Resolve) => &mut self.resolve,
            LimitName::Stage(Stage::Connect) => &mut self.connect,
            LimitName::ConnectAttempt => &mut self.connect_attempt,
            LimitName::Stage(Stage::Tls) => &mut self.tls,
            LimitName::Stage(Stage::Send) => &mut self.send,
            LimitName::Stage(Stage::Wait) => &mut self.wait,
            LimitName::Gap => &mut self.gap,
            LimitName::Attempt => &mut self.attempt,
            LimitName::Total => &mut self.total,
            LimitName::Stage(Stage::Receive | Stage::Handle | Stage::Stall | Stage::Named(_))
            | LimitName::Head
            | LimitName::Rate(_)
            | LimitName::Idle => return None,
        })
    }
}

/// A name that is no limit of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownLimit(String);

impl fmt::Display for UnknownLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no limit of a call; there are", self.0)?;
        for (i, name) in Limits::NAMES.iter().enumerate() {
            write!(f, "{} {name}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownLimit {}

impl FromStr for LimitName {
    type Err = UnknownLimit;

    /// Reads the name of a limit that a call has ([`Limits::NAMES`]).
    fn from_str(text: &str) -> Result<Self, UnknownLimit> {
        Limits::NAMES.into_iter().find(|name| name.as_str() == text).ok_or_else(|| UnknownLimit(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_slot_and_its_word() {
        for name in Limits::NAMES {
            assert_eq!(name.as_str().parse::<LimitName>(), Ok(name));
            let mut limits = Limits::none();
            let limit = Limit::new(name, Duration::from_millis(7));
            limits.set(limit.clone()).unwrap();
            assert_eq!(limits.get(name), Some(&limit));
            assert_eq!(Limits::NAMES.iter().filter(|other| limits.get(**other).is_some()).count(), 1);
            limits.clear(name);
            assert_eq!(limits, Limits::none());
        }
        assert!("idle".parse::<LimitName>().is_err());
    }

    #[test]
    fn an_origin_is_the_line_that_set_it() {
        let line = line!() + 1;
        let limit = Limit::total(Duration::from_secs(2));
        assert_eq!(limit.to_string(), format!("total 2s ({}:{line})", file!()));
    }
}
