//! Lookups of names, again and again.

use std::{net::IpAddr, sync::Arc, time::Duration};

use overdue::resolve::LookupLog;
use overdue_core::{
    DurationText, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, DnsFailure, ExchangeFacts, Failure},
    judge::{Judgement, judge},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{NoAddress, Told};
use crate::{clock, config::Dns};

/// What a lookup came to.
pub(crate) enum Looked {
    /// These are used; and for how long that is true.
    Found(Vec<IpAddr>, Option<Duration>),
    Failed(NoAddress, Box<(CallFacts, Judgement)>),
}

impl Looked {
    /// How long the next one waits, after so many that failed. Names that fail are asked for less and less often.
    pub(super) fn pause(&self, dns: &Dns, failures: u32) -> Duration {
        match self {
            Self::Found(_, ttl) => dns.pause(*ttl),
            Self::Failed(..) => dns.refresh_min.saturating_mul(1 << failures.min(8)).min(dns.refresh_max),
        }
    }
}

/// One lookup, under the limit for it.
pub(crate) async fn look_up(dns: &Dns, name: &str) -> Looked {
    // A new one each time: it reads the system's files as they are now, and remembers no answer for longer than it may be.
    let resolver = dns.resolver();
    let began = clock::now();
    let log = LookupLog::new();
    let (failure, reason, text) = match timeout(dns.limit.value, resolver.resolve(name, 0, &log)).await {
        Ok(Ok(resolved)) => return Looked::Found(dns.used(resolved.addresses), resolved.ttl),
        Ok(Err(err)) => (Failure::Dns { reason: err.reason, text: err.text.clone() }, err.reason, err.text),
        Err(_) => {
            let (limit, heard) = (&dns.limit, log.facts().answers.is_some_and(|answers| answers > 0));
            let text = format!("{name}: no answer within {} ({})", DurationText(limit.value), limit.origin);
            let reason = if heard { DnsFailure::Unusable } else { DnsFailure::NoAnswer };
            (Failure::DeadlinePassed(limit.clone()), reason, text)
        }
    };
    let now = clock::now();
    let mut timeline = Timeline::new(began);
    timeline.begin(Stage::Resolve, began, None);
    let outcome = if matches!(failure, Failure::Dns { .. }) { SpanOutcome::Failed } else { SpanOutcome::TimedOut };
    timeline.end(now, outcome);
    let facts = CallFacts {
        stage: Stage::Resolve,
        failure,
        now,
        timeline,
        late_by: Duration::ZERO,
        socket: None,
        dns: Some(log.facts()),
        pool: None,
        h2: None,
        exchange: ExchangeFacts::default(),
    };
    let judgement = judge(&facts);
    Looked::Failed(NoAddress { reason, text, dns: log.facts() }, Box::new((facts, judgement)))
}

/// Looks a name up for as long as somebody wants to know.
pub(super) async fn again_and_again(
    dns: Arc<Dns>,
    name: Arc<str>,
    mut pause: Duration,
    back: mpsc::WeakUnboundedSender<Told>,
) {
    let mut failures = 0;
    loop {
        sleep(pause).await;
        let looked = look_up(&dns, &name).await;
        failures = if matches!(looked, Looked::Failed(..)) { failures + 1 } else { 0 };
        pause = looked.pause(&dns, failures);
        let Some(back) = back.upgrade() else { return };
        if back.send(Told::Looked(Arc::clone(&name), looked)).is_err() {
            return;
        }
    }
}
