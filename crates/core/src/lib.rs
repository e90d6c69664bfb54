//! The words of Overdue, and the judge that turns evidence into a verdict.
//!
//! This crate is pure: it opens no socket, starts no task and reads no clock. Time is an argument
//! ([`std::time::Instant`] values are compared, never taken), so that everything here can be tested from recorded
//! evidence. The library, the gateway, the diagnoser and the lab all speak these words and no synonyms:
//!
//! | word | type |
//! |---|---|
//! | stage of a call | [`Stage`] |
//! | limit, with its origin | [`Limit`], [`Origin`], and all limits of a call: [`Limits`] |
//! | deadline, with the limit that made it | [`Deadline`] |
//! | the stages of one call with their times | [`Timeline`] |
//! | one observed fact | [`Evidence`] |
//! | cause, of one catalogue | [`Cause`] |
//! | what was found, and why | [`Verdict`] |
//! | the four facts, as data | [`Report`] |

mod cause;
mod deadline;
mod duration;
mod evidence;
pub mod facts;
pub mod judge;
pub mod kernel;
mod limit;
pub mod plan;
mod report;
mod stage;
mod timeline;

pub use cause::{Cause, Entry, Group, UnknownCause, edit_distance};
pub use deadline::Deadline;
pub use duration::{DurationText, InvalidDuration, parse_duration};
pub use evidence::{Confidence, Evidence, Rejected, Source, Verdict};
pub use facts::Outcome;
pub use limit::{Limit, LimitName, Limits, Origin, UnknownLimit};
pub use report::{ClippedBy, ConnectionReport, LimitReport, NotVisible, Report, SCHEMA, SpanReport, TlsReport, micros};
pub use stage::Stage;
pub use timeline::{MAX_SPANS, Span, SpanOutcome, Timeline};
