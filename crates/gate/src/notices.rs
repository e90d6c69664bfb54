//! What is told of many things at once: lines that were left out, connections that were refused. Once a second at most of
//! each kind, with counts by source, so that a flood of either is one line a second and no flood of the log.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use overdue::server::{AcceptFailure, ListenerEvent, Source};
use overdue_core::DurationText;
use serde_json::{Value, json};

use crate::config::Format;

/// The name of the format.
const SCHEMA: &str = "overdue.notice/1";
/// Sources that are counted apart between two notices, and those of them that are told.
const SOURCES_MAX: usize = 64;
const TOLD_MAX: usize = 8;

/// So many in such a time.
#[derive(Debug)]
pub(crate) struct Budget {
    each: Duration,
    per: Duration,
    /// When all of it will be there again.
    until: Option<Instant>,
}

impl Budget {
    /// The share of one of so many workers.
    pub(crate) fn new((count, per): (u32, Duration), workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        Self { each: per.saturating_mul(workers) / count.max(1), per, until: None }
    }

    /// Takes one if there is one. The last fifth is for what matters most.
    pub(crate) fn take(&mut self, now: Instant, matters: bool) -> bool {
        let used = self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let most = if matters { self.per } else { self.per / 5 * 4 };
        // One is there when nothing is used, however small the share.
        let there = used.is_zero() || used + self.each <= most;
        if there {
            self.until = now.checked_add(used + self.each);
        }
        there
    }
}

/// Counts by source since the last notice.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    count: u64,
    sources: BTreeMap<Source, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, source: Source) {
        self.count += 1;
        // Those that come when there is no more room are counted without their names.
        if self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source) {
            *self.sources.entry(source).or_default() += 1;
        }
    }

    /// What is to be told, and nothing is counted then. `None` when there is nothing.
    pub(crate) fn take(&mut self) -> Option<Told> {
        let Self { count, sources } = std::mem::take(self);
        let mut sources: Vec<(Source, u64)> = sources.into_iter().collect();
        sources.sort_by_key(|(source, count)| (Reverse(*count), *source));
        sources.truncate(TOLD_MAX);
        (count > 0).then_some(Told { count, sources })
    }
}

/// What was counted.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) count: u64,
    /// Those with the most, first.
    sources: Vec<(Source, u64)>,
}

/// What happened at the sockets of a listener since it was last asked; their events come from within them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doorstep(Arc<Mutex<Happened>>);

#[derive(Debug, Default)]
struct Happened {
    refused: Tally,
    exhausted: Option<AcceptFailure>,
    recovered: Option<Duration>,
    /// Sockets that can accept nothing now.
    without: usize,
    /// What was told last is that there are some.
    told_without: bool,
}

impl Doorstep {
    pub(crate) fn happens(&self, event: &ListenerEvent) {
        let mut happened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            ListenerEvent::Refused { peer, .. } => happened.refused.add(Source::from(peer.ip())),
            ListenerEvent::Exhausted { failure } => {
                happened.exhausted = Some(*failure);
                happened.without += 1;
            }
            ListenerEvent::Recovered { after } => {
                happened.without = happened.without.saturating_sub(1);
                // One that can accept again is no news while another cannot.
                if happened.without == 0 {
                    happened.recovered = Some(*after);
                }
            }
            _ => {}
        }
    }

    /// What is to be told of the listener at this address. However often it went to and fro: that follows from what was
    /// told before, and what is told last is how it is now.
    pub(crate) fn take(&self, listener: SocketAddr) -> Vec<Notice> {
        let mut happened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = happened.refused.take().map(|told| Notice::Refused { listener, told });
        let exhausted = happened.exhausted.take().map(|failure| Notice::Exhausted { listener, failure });
        let recovered = happened.recovered.take().map(|after| Notice::Recovered { listener, after });
        let is = happened.without > 0;
        let told = match (std::mem::replace(&mut happened.told_without, is), is) {
            (false, false) => [exhausted, refused, recovered],
            (false, true) => [exhausted, refused, None],
            (true, false) => [None, refused, recovered],
            // Only where it had recovered meanwhile.
            (true, true) => {
                let exhausted = exhausted.filter(|_| recovered.is_some());
                [recovered, refused, exhausted]
            }
        };
        told.into_iter().flatten().collect()
    }
}

/// A line of the log that is about no single request.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Lines that the rate of the log did not allow.
    LeftOut { served: u64, failed: u64 },
    /// Connections that came to nothing before a request, beyond those that have lines of their own.
    CameToNothing(Told),
    /// Connections that were one too many.
    Refused { listener: SocketAddr, told: Told },
    /// Nothing can be accepted.
    Exhausted { listener: SocketAddr, failure: AcceptFailure },
    /// Connections are accepted again.
    Recovered { listener: SocketAddr, after: Duration },
    /// A listener is of no more use to a worker.
    Lost { listener: SocketAddr, worker: usize, error: String },
}

impl Notice {
    const fn kind(&self) -> &'static str {
        match self {
            Self::LeftOut { .. } => "lines-left-out",
            Self::CameToNothing(_) => "connections-failed",
            Self::Refused { .. } => "connections-refused",
            Self::Exhausted { .. } => "descriptors-exhausted",
            Self::Recovered { .. } => "accepting-again",
            Self::Lost { .. } => "listener-lost",
        }
    }

    /// For whoever reads it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::LeftOut { served, failed } => format!(
                "the rate of the log left out {served} lines of requests that were served, and {failed} of others"
            ),
            Self::CameToNothing(told) => {
                format!("{} more connections came to nothing before a request{}", told.count, most_from(told))
            }
            Self::Refused { listener, told } => {
                format!("{} connections to {listener} were refused{}", told.count, most_from(told))
            }
            Self::Exhausted { listener, failure } => format!("{listener} accepts nothing: {failure}"),
            Self::Recovered { listener, after } => {
                format!("{listener} accepts connections again, after {}", DurationText(*after))
            }
            Self::Lost { listener, worker, error } => format!(
                "worker {worker} can accept no more connections at {listener}: {error}; only a new start mends that"
            ),
        }
    }

    fn told(&self) -> Option<&Told> {
        match self {
            Self::CameToNothing(told) | Self::Refused { told, .. } => Some(told),
            _ => None,
        }
    }

    const fn listener(&self) -> Option<SocketAddr> {
        match self {
            Self::LeftOut { .. } | Self::CameToNothing(_) => None,
            Self::Refused { listener, .. }
            | Self::Exhausted { listener, .. }
            | Self::Recovered { listener, .. }
            | Self::Lost { listener, .. } => Some(*listener),
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>, format: Format, time: &[u8]) -> io::Result<()> {
        let (kind, text) = (self.kind(), self.text());
        let time = String::from_utf8_lossy(time);
        if format == Format::Text {
            return writeln!(out, "{time} - notice {kind}: {}", text.escape_debug());
        }
        // What it is comes first, for those who read it.
        write!(out, "{{\"schema\":\"{SCHEMA}\",\"notice\":\"{kind}\",\"time\":\"{time}\",\"text\":{}", json!(text))?;
        if let Some(listener) = self.listener() {
            write!(out, ",\"listener\":\"{listener}\"")?;
        }
        if let Some(told) = self.told() {
            let source = |(source, count): &(Source, u64)| json!({"source": source.to_string(), "count": count});
            let sources: Value = told.sources.iter().map(source).collect();
            write!(out, ",\"count\":{},\"sources\":{sources}", told.count)?;
        }
        if let Self::LeftOut { served, failed } = self {
            write!(out, ",\"served\":{served},\"failed\":{failed}")?;
        }
        out.write_all(b"}\n")
    }
}

fn most_from(told: &Told) -> String {
    told.sources.first().map_or_else(String::new, |(source, count)| format!(", most from {source} ({count})"))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::clock;

    fn source(n: u32) -> Source {
        Source::from(IpAddr::V4(Ipv4Addr::from_bits(n)))
    }

    #[test]
    fn a_budget_keeps_a_share_for_what_matters() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut budget = Budget::new((20, Duration::from_secs(1)), 2);
        let taken = |budget: &mut Budget, at, matters| (0..100).filter(|_| budget.take(at, matters)).count();
        // Half of the rate is this worker's.
        assert_eq!((taken(&mut budget, at(0), false), taken(&mut budget, at(0), true)), (8, 2));
        assert_eq!((taken(&mut budget, at(99), true), taken(&mut budget, at(100), true)), (0, 1));
        // What matters goes first as long as there is too much of it.
        assert_eq!((taken(&mut budget, at(250), false), taken(&mut budget, at(250), true)), (0, 1));
        assert_eq!(taken(&mut budget, at(5000), false), 8);
        // A share of less than one is one, now and then.
        let mut small = Budget::new((1, Duration::from_secs(1)), 4);
        assert_eq!((taken(&mut small, at(0), false), taken(&mut small, at(3999), true)), (1, 0));
        assert_eq!(taken(&mut small, at(4000), false), 1);
    }

    #[test]
    fn a_flood_of_sources_is_counted_and_takes_no_more_room() {
        let mut tally = Tally::default();
        (0..1000).for_each(|n| tally.add(source(n)));
        (0..5).for_each(|_| tally.add(source(7)));
        assert_eq!(tally.sources.len(), SOURCES_MAX);
        let told = tally.take().unwrap();
        assert_eq!((told.count, told.sources.len(), told.sources[0]), (1005, TOLD_MAX, (source(7), 6)));
        assert_eq!(tally.take(), None);
    }

    /// Whoever reads the last line knows whether anything is accepted now.
    #[test]
    fn what_is_told_last_of_a_listener_is_how_it_is() {
        let at = "127.0.0.1:80".parse().unwrap();
        let fails = |doorstep: &Doorstep| {
            doorstep.happens(&ListenerEvent::Exhausted { failure: AcceptFailure::ProcessDescriptors });
        };
        let recovers = |doorstep: &Doorstep| doorstep.happens(&ListenerEvent::Recovered { after: Duration::ZERO });
        let told = |doorstep: &Doorstep| doorstep.take(at).iter().map(Notice::kind).collect::<Vec<_>>();
        let [out, again] = ["descriptors-exhausted", "accepting-again"];
        let doorstep = Doorstep::default();
        fails(&doorstep);
        assert_eq!((told(&doorstep), told(&doorstep)), (vec![out], vec![]));
        recovers(&doorstep);
        fails(&doorstep);
        doorstep.happens(&ListenerEvent::Refused { peer: at, why: overdue::server::Refused::Exhausted });
        assert_eq!(told(&doorstep), [again, "connections-refused", out]);
        recovers(&doorstep);
        fails(&doorstep);
        recovers(&doorstep);
        assert_eq!(told(&doorstep), [again]);
        fails(&doorstep);
        recovers(&doorstep);
        assert_eq!(told(&doorstep), [out, again]);
        fails(&doorstep);
        recovers(&doorstep);
        fails(&doorstep);
        assert_eq!(told(&doorstep), [out], "nobody was told that it had recovered from anything else");
        // Another socket of it.
        fails(&doorstep);
        recovers(&doorstep);
        assert_eq!(told(&doorstep), <[&str; 0]>::default(), "one of the two still accepts nothing");
        recovers(&doorstep);
        assert_eq!(told(&doorstep), [again]);
    }

    #[test]
    fn a_notice_in_both_formats() {
        let listener = "127.0.0.1:80".parse().unwrap();
        let told = Told { count: 3, sources: vec![(source(1), 2)] };
        let notice = Notice::Refused { listener, told };
        let written = |format| {
            let mut out = Vec::new();
            notice.write(&mut out, format, b"T").unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = "3 connections to 127.0.0.1:80 were refused, most from 0.0.0.1 (2)";
        assert_eq!(written(Format::Text), format!("T - notice connections-refused: {text}\n"));
        let line: Value = serde_json::from_str(&written(Format::Json)).unwrap();
        let expected = json!({
            "schema": SCHEMA, "notice": "connections-refused", "time": "T", "text": text,
            "listener": "127.0.0.1:80", "count": 3, "sources": [{"source": "0.0.0.1", "count": 2}],
        });
        assert_eq!(line, expected);
    }
}
