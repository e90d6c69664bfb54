//! What the call must be judged as.

use overdue_core::{Cause, Confidence, LimitName, Outcome, Stage};
use serde::Deserialize;

use super::value;

/// The right verdict. The lab makes the fault, so it knows.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// How the call ends.
    #[serde(deserialize_with = "value::outcome")]
    pub outcome: Outcome,
    /// The stage of the verdict: the one that is to blame, which need not be the one that was running when the limit
    /// fired (a slow connect spends the limit of the whole call, which then fires in `wait`). Only an `ok` has none.
    #[serde(default, deserialize_with = "value::stage")]
    pub stage: Option<Stage>,
    /// The cause. Two where the caller cannot tell them apart: either is right, and the verdict must say `medium`.
    /// An `ok` has none.
    #[serde(rename = "cause", default, deserialize_with = "value::causes")]
    pub causes: Vec<Cause>,
    /// The limit that fires. Every `timed-out` has one, and nothing else.
    #[serde(default, deserialize_with = "value::limit_name")]
    pub limit: Option<LimitName>,
    /// The least confidence that the verdict must have; with two causes, the confidence it must have: `medium`.
    #[serde(default, deserialize_with = "value::confidence")]
    pub confidence: Option<Confidence>,
}
