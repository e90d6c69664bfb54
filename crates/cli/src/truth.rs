//! A verdict beside the truth of its scenario.

use overdue_core::{Cause, Confidence, LimitName, Report, Stage, Verdict};
use overdue_lab::Truth;
use serde::{Deserialize, Serialize};

/// How a verdict compares with the truth, from the best to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// It is the truth.
    Ok,
    /// It names no cause, where there is one.
    Unknown,
    /// It names something else: this sends people to the wrong place.
    Wrong,
}

/// The comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Comparison {
    pub(crate) mark: Mark,
    /// Each thing that differs, in words.
    pub(crate) differences: Vec<String>,
}

/// What is compared of a report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged<'r> {
    outcome: &'r str,
    /// The stage that is to blame, the cause, and how sure that is.
    verdict: Option<(&'r str, Cause, Confidence)>,
    limit: Option<&'r str>,
}

impl<'r> From<&'r Report> for Judged<'r> {
    fn from(report: &'r Report) -> Self {
        let verdict = |verdict: &'r Verdict| (verdict.stage, verdict.cause, verdict.confidence);
        Self {
            outcome: report.outcome,
            verdict: report.verdicts.first().map(verdict),
            limit: report.limit.as_ref().map(|limit| limit.name),
        }
    }
}

impl<'r> Judged<'r> {
    /// The same of a report that another program wrote; `None`: it is none.
    pub(crate) fn of_json(report: &'r serde_json::Value) -> Option<Self> {
        let verdict = |verdict: &'r serde_json::Value| {
            let confidence = match verdict.get("confidence")?.as_str()? {
                "high" => Confidence::High,
                "medium" => Confidence::Medium,
                _ => Confidence::Low,
            };
            Some((verdict.get("stage")?.as_str()?, verdict.get("cause")?.as_str()?.parse().ok()?, confidence))
        };
        let first = report.get("verdicts").and_then(|verdicts| verdicts.get(0));
        Some(Self {
            outcome: report.get("outcome")?.as_str()?,
            verdict: first.and_then(verdict),
            limit: report.pointer("/limit/name").and_then(serde_json::Value::as_str),
        })
    }

    /// In the shape of a truth in one line.
    pub(crate) fn line(self) -> String {
        let (stage, cause, confidence) = match self.verdict {
            Some((stage, cause, confidence)) => (Some(stage), cause.id(), Some(confidence)),
            None => (None, "none", None),
        };
        line(self.outcome, stage, self.limit, cause, confidence)
    }
}

impl Comparison {
    pub(crate) fn of<'r>(judged: impl Into<Judged<'r>>, truth: &Truth) -> Self {
        let Judged { outcome, verdict, limit } = judged.into();
        let mut differences = Vec::new();
        let mut differ = |what: &str, is: &str, should: &str| {
            differences.push(format!("{what} is {is}, should be {should}"));
        };
        if outcome != truth.outcome.as_str() {
            differ("outcome", outcome, truth.outcome.as_str());
        }
        let (is, should) = (verdict.map(|(stage, ..)| stage), truth.stage.map(Stage::as_str));
        if is != should {
            differ("stage", or_none(is), or_none(should));
        }
        let cause = verdict.map(|(_, cause, _)| cause);
        if !cause.map_or(truth.causes.is_empty(), |cause| truth.causes.contains(&cause)) {
            differ("cause", or_none(cause.map(Cause::id)), &causes(truth));
        }
        let (is, should) = (limit, truth.limit.map(LimitName::as_str));
        if is != should {
            differ("limit", or_none(is), or_none(should));
        }
        if let (Some((.., confidence)), Some(least)) = (verdict, truth.confidence) {
            // Where two causes cannot be told apart, to be sure of one is as wrong as to guess.
            let most = if truth.causes.len() > 1 { least } else { Confidence::High };
            if !(least..=most).contains(&confidence) {
                differ("confidence", confidence.as_str(), least.as_str());
            }
        }
        let mark = match (differences.is_empty(), cause) {
            (true, _) => Mark::Ok,
            (false, Some(Cause::Unknown)) => Mark::Unknown,
            (false, _) => Mark::Wrong,
        };
        Self { mark, differences }
    }
}

fn or_none(word: Option<&str>) -> &str {
    word.unwrap_or("none")
}

fn causes(truth: &Truth) -> String {
    let ids: Vec<_> = truth.causes.iter().map(|cause| cause.id()).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(" or ") }
}

/// The truth in one line: `timed-out in wait, limit wait: server-slow or path-lost (medium)`.
pub(crate) fn of_truth(truth: &Truth) -> String {
    line(
        truth.outcome.as_str(),
        truth.stage.map(Stage::as_str),
        truth.limit.map(LimitName::as_str),
        &causes(truth),
        truth.confidence,
    )
}

/// The verdict of a report in such a line.
pub(crate) fn of_report(report: &Report) -> String {
    Judged::from(report).line()
}

fn line(
    outcome: &str,
    stage: Option<&str>,
    limit: Option<&str>,
    causes: &str,
    confidence: Option<Confidence>,
) -> String {
    let Some(stage) = stage else { return outcome.to_owned() };
    let limit = limit.map(|limit| format!(", limit {limit}")).unwrap_or_default();
    let confidence = confidence.map(|confidence| format!(" ({confidence})")).unwrap_or_default();
    format!("{outcome} in {stage}{limit}: {causes}{confidence}")
}

/// The truth for a program.
pub(crate) fn json(truth: &Truth) -> serde_json::Value {
    serde_json::json!({
        "outcome": truth.outcome.as_str(),
        "stage": truth.stage.map(Stage::as_str),
        "causes": truth.causes,
        "limit": truth.limit.map(LimitName::as_str),
        "confidence": truth.confidence,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use overdue_core::{Limit, LimitReport, SCHEMA, Verdict};

    use super::*;

    fn report(cause: Cause, confidence: Confidence) -> Report {
        Report {
            schema: SCHEMA,
            outcome: "timed-out",
            stage: Some("wait"),
            cause: Some(cause),
            limit: Some(LimitReport::from(&Limit::stage(Stage::Wait, Duration::from_millis(900)))),
            elapsed_us: 900_000,
            timeline: Vec::new(),
            unaccounted_us: 0,
            connection: None,
            attempts: Vec::new(),
            branches: Vec::new(),
            verdicts: vec![Verdict {
                cause,
                stage: "wait",
                confidence,
                share: 1.0,
                summary: String::new(),
                fix: "".into(),
                evidence: Vec::new(),
                rejected: Vec::new(),
            }],
            advisories: Vec::new(),
            not_visible: Vec::new(),
        }
    }

    fn truth(name: &str) -> &'static Truth {
        &overdue_lab::find(name).unwrap().truth
    }

    #[test]
    fn the_truth_is_ok() {
        let comparison = Comparison::of(&report(Cause::ServerSlow, Confidence::High), truth("no-head"));
        assert_eq!(comparison, Comparison { mark: Mark::Ok, differences: Vec::new() });
    }

    #[test]
    fn a_wrong_cause_is_worse_than_none() {
        let wrong = Comparison::of(&report(Cause::PathLost, Confidence::High), truth("no-head"));
        assert_eq!(wrong.mark, Mark::Wrong);
        assert_eq!(wrong.differences, ["cause is path-lost, should be server-slow"]);
        let unknown = Comparison::of(&report(Cause::Unknown, Confidence::Low), truth("no-head"));
        assert_eq!(unknown.mark, Mark::Unknown);
        assert!(wrong.mark > unknown.mark);
    }

    #[test]
    fn of_two_causes_neither_is_for_certain() {
        let either = Truth {
            causes: vec![Cause::ServerSlow, Cause::PathLost],
            confidence: Some(Confidence::Medium),
            ..truth("no-head").clone()
        };
        for (cause, confidence, mark) in [
            (Cause::ServerSlow, Confidence::Medium, Mark::Ok),
            (Cause::PathLost, Confidence::Medium, Mark::Ok),
            (Cause::ServerSlow, Confidence::High, Mark::Wrong),
            (Cause::ServerSlow, Confidence::Low, Mark::Wrong),
        ] {
            assert_eq!(Comparison::of(&report(cause, confidence), &either).mark, mark);
        }
    }

    #[test]
    fn a_call_that_should_end_well_has_no_verdict() {
        let comparison = Comparison::of(&report(Cause::ServerSlow, Confidence::High), truth("ok-http"));
        assert_eq!(comparison.mark, Mark::Wrong);
        assert_eq!(comparison.differences.len(), 4, "{:?}", comparison.differences);
    }

    #[test]
    fn truth_and_verdict_are_lines_of_one_shape() {
        assert_eq!(of_truth(truth("no-head")), "timed-out in wait, limit wait: server-slow");
        assert_eq!(of_truth(truth("ok-http")), "ok");
        assert_eq!(
            of_report(&report(Cause::ServerSlow, Confidence::High)),
            "timed-out in wait, limit wait: server-slow (high)"
        );
    }
}
