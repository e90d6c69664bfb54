//! Limits that fight each other, inside one program: which can never fire, which race, which leave a stage uncovered.
//!
//! Pure comparison of values; nothing has to run. Only what somebody set is held against them: that a default is longer
//! than the limit of the whole call, which somebody chose, is what defaults are for.

use std::time::Duration;

use crate::{Cause, Confidence, DurationText, Evidence, Limit, LimitName, Limits, Origin, Source, Stage, Verdict};

/// What is wrong with the limits of one call, in the order of its stages; empty when nothing is.
///
/// | found | when |
/// |---|---|
/// | `limit-shadowed` | a limit that was set is longer than one around it, which always fires first |
/// | `limit-equal` | it is as long as one around it: the outer one began earlier and fires first |
/// | `limit-inverted` | the limits that were set for stages add up to more than the limit around them |
/// | `limit-missing` | a stage has no limit, and neither `attempt` nor `total` covers it |
///
/// ```
/// use std::time::Duration;
/// use overdue_core::{Cause, Limit, Limits, Stage, plan};
///
/// let mut limits = Limits::default();
/// limits.set(Limit::stage(Stage::Wait, Duration::from_secs(90))).unwrap();
/// let found = plan::check(&limits);
/// assert_eq!(found[0].cause, Cause::LimitShadowed); // total is 60 s by default
/// ```
#[must_use]
pub fn check(limits: &Limits) -> Vec<Verdict> {
    let mut found = Vec::new();
    for name in Limits::NAMES {
        if let Some(inner) = limits.get(name).filter(|limit| limit.origin != Origin::Default) {
            found.extend(outside(limits, name).find_map(|outer| compare(inner, outer)));
        }
    }
    found.extend(
        [LimitName::Attempt, LimitName::Total].into_iter().filter_map(|name| inverted(limits, limits.get(name)?)),
    );
    found.extend(missing(limits));
    found
}

/// The limits around one, from the nearest outwards.
fn outside(limits: &Limits, name: LimitName) -> impl Iterator<Item = &Limit> {
    let names: &[LimitName] = match name {
        LimitName::Total => &[],
        LimitName::Attempt => &[LimitName::Total],
        LimitName::ConnectAttempt => &[LimitName::Stage(Stage::Connect), LimitName::Attempt, LimitName::Total],
        _ => &[LimitName::Attempt, LimitName::Total],
    };
    names.iter().filter_map(|name| limits.get(*name))
}

fn compare(inner: &Limit, outer: &Limit) -> Option<Verdict> {
    if inner.value < outer.value {
        return None;
    }
    let (cause, summary, fix) = if inner.value == outer.value {
        let summary = format!(
            "{} and {} are both {}: the outer one began earlier, so it always fires first",
            inner.name,
            outer.name,
            DurationText(inner.value)
        );
        (Cause::LimitEqual, summary, format!("make {} shorter than {}, or leave it out", inner.name, outer.name))
    } else {
        let summary = format!(
            "{} {} can never fire: {} {} always does so first",
            inner.name,
            DurationText(inner.value),
            outer.name,
            DurationText(outer.value)
        );
        let (short, long) = (&inner.name, &outer.name);
        (
            Cause::LimitShadowed,
            summary,
            format!("make {short} shorter than {long}, or lengthen {long}, or leave {short} out"),
        )
    };
    Some(finding(cause, inner.name, summary, fix, &[inner, outer]))
}

/// The stages of an attempt follow each other, so what they may take adds up.
fn inverted(limits: &Limits, outer: &Limit) -> Option<Verdict> {
    let stages = [Stage::Queue, Stage::Resolve, Stage::Connect, Stage::Tls, Stage::Send, Stage::Wait];
    let set: Vec<_> = stages
        .into_iter()
        .filter_map(|stage| limits.get(LimitName::Stage(stage)))
        // One that is longer by itself has been reported.
        .filter(|limit| limit.origin != Origin::Default && limit.value < outer.value)
        .collect();
    let sum: Duration = set.iter().map(|limit| limit.value).sum();
    if sum <= outer.value {
        return None;
    }
    let names: Vec<_> = set.iter().map(|limit| format!("{} {}", limit.name, DurationText(limit.value))).collect();
    let summary = format!(
        "{} add up to {}, and {} {} ends them before",
        names.join(" + "),
        DurationText(sum),
        outer.name,
        DurationText(outer.value)
    );
    let fix = format!("shorten the stages until they fit into {}, or lengthen it", outer.name);
    let involved: Vec<_> = set.into_iter().chain([outer]).collect();
    Some(finding(Cause::LimitInverted, outer.name, summary, fix, &involved))
}

fn missing(limits: &Limits) -> Option<Verdict> {
    if limits.attempt.is_some() || limits.total.is_some() {
        return None;
    }
    let single = [LimitName::ConnectAttempt, LimitName::Attempt, LimitName::Total];
    let names: Vec<_> = Limits::NAMES
        .into_iter()
        .filter(|name| !single.contains(name) && limits.get(*name).is_none())
        .map(LimitName::as_str)
        .collect();
    let first = names.first()?;
    let summary =
        format!("nothing ever ends {}: no limit of their own, and neither attempt nor total is set", names.join(", "));
    let fix = "set a total limit, or one for each of them".to_owned();
    let evidence =
        vec![Evidence::new(Source::Configuration, format!("limits left out: {}, attempt, total", names.join(", ")))];
    Some(Verdict { stage: first, ..verdict(Cause::LimitMissing, summary, fix, evidence) })
}

fn finding(cause: Cause, name: LimitName, summary: String, fix: String, involved: &[&Limit]) -> Verdict {
    let evidence = involved
        .iter()
        .map(|limit| Evidence::new(Source::Configuration, limit.to_string()).with("value_us", limit.value.as_micros()))
        .collect();
    Verdict { stage: name.as_str(), ..verdict(cause, summary, fix, evidence) }
}

fn verdict(cause: Cause, summary: String, fix: String, evidence: Vec<Evidence>) -> Verdict {
    Verdict {
        cause,
        stage: "",
        confidence: Confidence::High,
        share: 0.0,
        summary,
        fix: fix.into(),
        evidence,
        rejected: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(set: &[(LimitName, u64)]) -> Limits {
        let mut limits = Limits::default();
        for (name, ms) in set {
            limits.set(Limit::new(*name, Duration::from_millis(*ms))).unwrap();
        }
        limits
    }

    fn causes(limits: &Limits) -> Vec<(Cause, &'static str)> {
        check(limits).iter().map(|verdict| (verdict.cause, verdict.stage)).collect()
    }

    const WAIT: LimitName = LimitName::Stage(Stage::Wait);
    const TLS: LimitName = LimitName::Stage(Stage::Tls);
    const CONNECT: LimitName = LimitName::Stage(Stage::Connect);

    #[test]
    fn the_defaults_do_not_fight_each_other() {
        assert_eq!(check(&Limits::default()), []);
        // Nor a short limit for the whole, which is all that most people set.
        assert_eq!(check(&limits(&[(LimitName::Total, 800)])), []);
    }

    #[test]
    fn a_limit_that_can_never_fire_is_named_with_both_owners() {
        let found = check(&limits(&[(WAIT, 5_000), (LimitName::Total, 2_000)]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].cause, found[0].stage), (Cause::LimitShadowed, "wait"));
        assert_eq!(found[0].summary, "wait 5s can never fire: total 2s always does so first");
        assert_eq!(found[0].evidence.len(), 2);
        assert!(found[0].evidence.iter().all(|evidence| evidence.text.contains("plan.rs:")));
        // A default can be the one that shadows.
        assert_eq!(causes(&limits(&[(LimitName::Gap, 90_000)])), [(Cause::LimitShadowed, "gap")]);
    }

    #[test]
    fn the_nearest_outer_limit_is_the_one_that_shadows() {
        let found = check(&limits(&[(LimitName::ConnectAttempt, 700), (CONNECT, 500), (LimitName::Total, 600)]));
        assert_eq!(found[0].summary, "connect-attempt 700ms can never fire: connect 500ms always does so first");
        assert_eq!(causes(&limits(&[(LimitName::Attempt, 900), (LimitName::Total, 600)]))[0].1, "attempt");
    }

    #[test]
    fn equal_limits_are_a_case_of_their_own() {
        assert_eq!(causes(&limits(&[(TLS, 500), (LimitName::Total, 500)])), [(Cause::LimitEqual, "tls")]);
    }

    #[test]
    fn stages_that_together_exceed_the_whole_are_inverted() {
        let set = [(CONNECT, 3_000), (TLS, 3_000), (WAIT, 5_000), (LimitName::Total, 10_000)];
        let found = check(&limits(&set));
        assert_eq!((found.len(), found[0].cause), (1, Cause::LimitInverted));
        assert!(found[0].summary.starts_with("connect 3s + tls 3s + wait 5s add up to 11s"), "{}", found[0].summary);
        assert_eq!(check(&limits(&set[..3])), [], "within the default of 60 s");
    }

    #[test]
    fn a_stage_that_nothing_ends_is_missing() {
        let mut none = Limits::none();
        none.set(Limit::stage(Stage::Wait, Duration::from_secs(1))).unwrap();
        let found = check(&none);
        assert_eq!((found.len(), found[0].cause), (1, Cause::LimitMissing));
        assert!(found[0].summary.starts_with("nothing ever ends queue, resolve, connect, tls, send, gap:"));
        none.set(Limit::total(Duration::from_secs(9))).unwrap();
        assert_eq!(check(&none), []);
    }
}
