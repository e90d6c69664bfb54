//! Lookups of names, again and again, and what is known of a name by them.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use overdue::resolve::{Enough, Families, FamilyOutcome, LookupLog};
use overdue_core::{
    DurationText, SpanOutcome, Stage, Timeline,
    facts::{CallFacts, DnsFailure, ExchangeFacts, Failure},
    judge::{Judgement, judge},
};
use tokio::{sync::mpsc, time::sleep};

use super::{NoAddress, Told};
use crate::{
    clock,
    config::{Dns, Family},
};

/// What a lookup came to.
pub(crate) struct Looked {
    /// The addresses of IPv4 and of IPv6; `None`: not known.
    families: [Option<Vec<IpAddr>>; 2],
    /// For how long they are true.
    ttl: Option<Duration>,
    /// Why there is no address, or why those of a family are not known that would be used.
    pub(crate) failed: Option<Box<Failed>>,
}

/// A lookup that failed.
pub(crate) struct Failed {
    pub(crate) why: NoAddress,
    judged: (CallFacts, Judgement),
}

impl Looked {
    /// How long the next one waits, after so many that failed. Names that fail are asked for less and less often, but not
    /// less often than what was found of them may change.
    pub(super) fn pause(&self, dns: &Dns, failures: u32) -> Duration {
        let pause = dns.pause(self.ttl);
        if self.failed.is_none() {
            return pause;
        }
        dns.refresh_min.saturating_mul(1 << failures.min(8)).min(pause)
    }

    /// The addresses that would be used if nothing else was known.
    pub(crate) fn used(&self, family: Family) -> Vec<IpAddr> {
        family.used(self.families.iter().flatten().flatten().copied().collect())
    }
}

/// What is known of a name.
#[derive(Clone, Default)]
pub(super) struct Name {
    /// Those that are used.
    pub(super) addresses: Vec<IpAddr>,
    /// The last that were known of IPv4 and of IPv6.
    families: [Vec<IpAddr>; 2],
    /// When it was last found.
    pub(super) found: Option<Instant>,
    /// Since when it is not, or not all of it.
    pub(super) failing: Option<(Instant, Arc<NoAddress>)>,
    pub(super) lookups: u64,
    pub(super) failures: u64,
}

impl Name {
    /// Keeps what a lookup found. A family of which it does not know stays as it was, and one that would leave no address
    /// at all changes nothing: the last good addresses are better than none. `tell` hears what has become of the name.
    pub(super) fn take(
        &mut self,
        name: &str,
        looked: Looked,
        family: Family,
        now: Instant,
        tell: impl Fn(&'static str, String, Option<&(CallFacts, Judgement)>),
    ) {
        self.lookups += 1;
        let Looked { families, failed, .. } = looked;
        let is_found = families.iter().flatten().any(|addresses| !addresses.is_empty());
        let kept: Vec<IpAddr> = {
            let unknown = self.families.iter().zip(&families).filter(|(_, new)| new.is_none());
            unknown.flat_map(|(last, _)| last).copied().collect()
        };
        let [v4, v6] = families;
        let [last_v4, last_v6] = self.families.clone();
        let families = [v4.unwrap_or(last_v4), v6.unwrap_or(last_v6)];
        let used = family.used(families.concat());
        let before = self.addresses.clone();
        if !used.is_empty() {
            (self.addresses, self.families) = (used, families);
        }
        let was_told_of = self.found.is_some() || self.failing.is_some();
        let changed = || {
            let is_changed = was_told_of && self.addresses != before;
            let was =
                if before.is_empty() { "which had none".to_owned() } else { format!("no longer {}", listed(&before)) };
            is_changed.then(|| format!("{name} is {}, {was}", listed(&self.addresses)))
        };
        match failed {
            None if self.failing.take().is_some() => {
                tell("name-resolves", format!("{name} is {}", listed(&self.addresses)), None);
            }
            None => changed().into_iter().for_each(|text| tell("name-changed", text, None)),
            Some(failed) => {
                let Failed { why, judged } = *failed;
                self.failures += 1;
                if self.failing.is_none() {
                    let kept = match (why.is_partial, kept.len(), self.addresses.len()) {
                        (true, 0, _) => "only the others are used".to_owned(),
                        (true, count, _) => format!("the last {count} of them are used"),
                        (false, _, 0) => "its clusters have no address for it".to_owned(),
                        (false, _, count) => format!("the last {count} addresses are used"),
                    };
                    tell("name-fails", format!("{why}; {kept}"), Some(&judged));
                }
                changed().into_iter().for_each(|text| tell("name-changed", text, None));
                let since = self.failing.as_ref().map_or(now, |(since, _)| *since);
                self.failing = Some((since, Arc::new(why)));
            }
        }
        if is_found {
            self.found = Some(now);
        }
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// One lookup, under the limit for it. Each family that may be used is waited for: what is kept is used until the next.
pub(crate) async fn look_up(dns: &Dns, name: &str) -> Looked {
    // A new one each time: it reads the system's files as they are now, and remembers no answer for longer than it may be.
    let resolver = dns.resolver();
    let began = clock::now();
    let log = LookupLog::new();
    let Families { v6, v4 } = resolver.resolve_each(name, 0, dns.family.enough(), dns.limit.value, &log).await;
    let failed = failed(dns, name, [&v6, &v4], &log).map(|(failure, why)| {
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
        Box::new(Failed { why, judged: (facts, judgement) })
    });
    let ttl = |outcome: &FamilyOutcome| match outcome {
        FamilyOutcome::Found(resolved) => resolved.ttl,
        _ => None,
    };
    let ttl = [ttl(&v4), ttl(&v6)].into_iter().flatten().min();
    let known = |outcome| match outcome {
        FamilyOutcome::Found(resolved) => Some(resolved.addresses),
        FamilyOutcome::None(_) => Some(Vec::new()),
        FamilyOutcome::Failed(_) | FamilyOutcome::Cut => None,
    };
    // What nobody waited for is not kept for the day on which it would be used: it might be of no account by then.
    let of = |outcome, is_v6| match outcome {
        FamilyOutcome::Cut if dns.family.enough() != Enough::Both && !dns.family.wants(is_v6) && failed.is_none() => {
            Some(Vec::new())
        }
        outcome => known(outcome),
    };
    let families = [of(v4, false), of(v6, true)];
    Looked { families, ttl, failed }
}

/// Why a lookup failed, if it has: neither family has an address, or of one it is not known that would be used.
fn failed(dns: &Dns, name: &str, [v6, v4]: [&FamilyOutcome; 2], log: &LookupLog) -> Option<(Failure, NoAddress)> {
    let is_found = |outcome: &FamilyOutcome| matches!(outcome, FamilyOutcome::Found(_));
    let is_partial = is_found(v6) || is_found(v4);
    let has_failed = |outcome: &FamilyOutcome, is_v6| match outcome {
        FamilyOutcome::Found(_) => false,
        FamilyOutcome::None(_) => !is_partial,
        FamilyOutcome::Failed(_) | FamilyOutcome::Cut => !is_partial || dns.family.wants(is_v6),
    };
    let failed: Vec<_> =
        [v6, v4].into_iter().zip([true, false]).filter(|(outcome, v6)| has_failed(outcome, *v6)).collect();
    let (_, is_v6) = *failed.first()?;
    let said = failed.iter().filter_map(|(outcome, _)| outcome.error().cloned()).reduce(|one, other| one.worse(other));
    let whose = match (is_partial, is_v6) {
        (false, _) => "",
        (true, true) => ", for its IPv6 addresses",
        (true, false) => ", for its IPv4 addresses",
    };
    let dns_facts = log.facts();
    let (failure, reason, text) = match said {
        Some(err) if !failed.iter().any(|(outcome, _)| matches!(outcome, FamilyOutcome::Cut)) => {
            let text = format!("{}{whose}", err.text);
            (Failure::Dns { reason: err.reason, text: text.clone() }, err.reason, text)
        }
        said => {
            let (limit, heard) = (&dns.limit, dns_facts.answers.is_some_and(|answers| answers > 0));
            let said = said.map(|err| format!("; {}", err.text)).unwrap_or_default();
            let text =
                format!("{name}: no answer within {} ({}){whose}{said}", DurationText(limit.value), limit.origin);
            let reason = if heard { DnsFailure::Unusable } else { DnsFailure::NoAnswer };
            (Failure::DeadlinePassed(limit.clone()), reason, text)
        }
    };
    Some((failure, NoAddress { reason, text, dns: dns_facts, is_partial }))
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
        failures = if looked.failed.is_some() { failures + 1 } else { 0 };
        pause = looked.pause(&dns, failures);
        let Some(back) = back.upgrade() else { return };
        if back.send(Told::Looked(Arc::clone(&name), looked)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use overdue_core::{Limit, LimitName, facts::DnsFacts};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn four() -> IpAddr {
        [192, 0, 2, 4].into()
    }

    fn six() -> IpAddr {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 6].into()
    }

    /// As a lookup would give it; what is not known has failed.
    fn looked(v4: Option<Vec<IpAddr>>, v6: Option<Vec<IpAddr>>) -> Looked {
        let is_partial = [&v4, &v6].into_iter().flatten().any(|addresses| !addresses.is_empty());
        let has_failed = v4.is_none() || v6.is_none() || !is_partial;
        let failed = has_failed.then(|| {
            let now = clock::now();
            let facts = CallFacts {
                stage: Stage::Resolve,
                failure: Failure::Dns { reason: DnsFailure::ServerError, text: String::new() },
                now,
                timeline: Timeline::new(now),
                late_by: Duration::ZERO,
                socket: None,
                dns: None,
                pool: None,
                h2: None,
                exchange: ExchangeFacts::default(),
            };
            let why = NoAddress {
                reason: DnsFailure::ServerError,
                text: "why".to_owned(),
                dns: DnsFacts::default(),
                is_partial,
            };
            Box::new(Failed { why, judged: (facts.clone(), judge(&facts)) })
        });
        Looked { families: [v4, v6], ttl: is_partial.then_some(10 * SECOND), failed }
    }

    #[test]
    fn a_family_is_forgotten_when_a_lookup_says_so() {
        let told = RefCell::new(Vec::new());
        let mut name = Name::default();
        let mut take = |v4: Option<Vec<IpAddr>>, v6: Option<Vec<IpAddr>>, family| {
            name.take("n", looked(v4, v6), family, clock::now(), |what, text, _| told.borrow_mut().push((what, text)));
            let told = told.take().into_iter().map(|(what, text)| format!("{what}: {text}")).collect::<Vec<_>>();
            (name.addresses.clone(), told.join(", "))
        };
        let (has, none) = (|address| Some(vec![address]), || Some(Vec::new()));
        let text = |text: &str| text.to_owned();
        for family in [Family::V4First, Family::Both] {
            let both = if family == Family::Both { vec![four(), six()] } else { vec![four()] };
            let listed = listed(&both);
            // The first that is known of it, whatever it was before.
            take(has(four()), has(six()), family);
            assert_eq!(
                take(None, has(six()), family),
                (both.clone(), text("name-fails: why; the last 1 of them are used"))
            );
            assert_eq!(take(None, None, family), (both.clone(), text("")));
            // There is no address at all, and so nothing changes.
            assert_eq!(take(none(), none(), family), (both.clone(), text("")));
            assert_eq!(take(has(four()), has(six()), family), (both.clone(), format!("name-resolves: n is {listed}")));
            // The one is gone, and what is known of the other is what was.
            let gone = format!(
                "name-fails: why; the last 1 addresses are used, name-changed: n is 2001:db8::6, no longer {listed}"
            );
            assert_eq!(take(none(), None, family), (vec![six()], gone));
            // There is nothing left to keep.
            assert_eq!(take(None, has(six()), family), (vec![six()], text("")));
            assert_eq!(take(none(), has(six()), family), (vec![six()], text("name-resolves: n is 2001:db8::6")));
        }
        assert_eq!((name.lookups, name.failures), (16, 10));
    }

    #[test]
    fn what_was_never_found_is_told_when_some_of_it_is() {
        let told = RefCell::new(Vec::new());
        let mut name = Name::default();
        for (v4, v6) in [(None, None), (None, Some(vec![six()])), (Some(vec![four()]), Some(vec![six()]))] {
            let tell = |what, text, _: Option<&_>| told.borrow_mut().push(format!("{what}: {text}"));
            name.take("n", looked(v4, v6), Family::V4First, clock::now(), tell);
        }
        let expected = [
            "name-fails: why; its clusters have no address for it",
            "name-changed: n is 2001:db8::6, which had none",
            "name-resolves: n is 192.0.2.4",
        ];
        assert_eq!((told.take(), name.failures), (expected.map(str::to_owned).to_vec(), 2));
    }

    #[test]
    fn what_failed_in_part_is_looked_up_again_soon() {
        let dns = Dns {
            servers: Vec::new(),
            hosts: Default::default(),
            limit: Limit::new(LimitName::Stage(Stage::Resolve), SECOND),
            refresh_min: SECOND,
            refresh_max: 60 * SECOND,
            family: Family::Both,
        };
        let pauses = |looked: Looked| [0, 1, 3, 5, 9].map(|failures| looked.pause(&dns, failures).as_secs());
        assert_eq!(pauses(looked(Some(vec![four()]), Some(vec![six()]))), [10; 5]);
        // What was found of it is looked up no later than its TTL says.
        assert_eq!(pauses(looked(None, Some(vec![six()]))), [1, 2, 8, 10, 10]);
        assert_eq!(pauses(looked(None, None)), [1, 2, 8, 32, 60]);
    }
    /// What nobody waited for any more may be withdrawn by the day on which it would be used.
    #[test]
    fn what_is_of_no_account_is_not_kept() {
        let mut name = Name::default();
        let mut take = |v4: Option<Vec<IpAddr>>, v6: Option<Vec<IpAddr>>| {
            name.take("n", looked(v4, v6), Family::V4First, clock::now(), |_, _, _| {});
            name.addresses.clone()
        };
        assert_eq!(take(Some(vec![four()]), Some(vec![six()])), [four()]);
        // As a lookup says it that had enough.
        assert_eq!(take(Some(vec![four()]), Some(Vec::new())), [four()]);
        // Nothing is known of IPv6 then; what was last good stays.
        assert_eq!(take(Some(Vec::new()), None), [four()]);
    }
}
