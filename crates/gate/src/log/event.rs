//! A line about a server, and not about a request.

use std::io::Write as _;

use overdue_core::{Outcome, Report, Timeline, facts::CallFacts, judge::Judgement};
use serde_json::{Value, json};

use super::{Writer, now, report_of};
use crate::{clock, config::Format};

/// Something that became of a server, or of a name.
pub(crate) struct Event<'a> {
    /// What it is, for programs.
    pub(crate) what: &'static str,
    /// Its cluster; `None` for a name, which several may share.
    pub(crate) cluster: Option<&'a str>,
    /// The server, or the name.
    pub(crate) of: String,
    /// For people.
    pub(crate) text: String,
    /// What failed.
    pub(crate) failed: Option<&'a (CallFacts, Judgement)>,
}

impl Event<'_> {
    /// Writes its line: `overdue.report/1`, as that of a request, with `event` under `gate`.
    pub(crate) fn write(&self, format: Format, to: &Writer) {
        let time = String::from_utf8(now()).unwrap_or_default();
        let mut line = Vec::new();
        match format {
            Format::Json => {
                let at = clock::now();
                let report = match self.failed {
                    Some((facts, judgement)) => report_of(facts, judgement),
                    None => Report::new(Outcome::Ok, &Timeline::new(at), at),
                };
                let Ok(Value::Object(mut report)) = serde_json::to_value(&report) else { return };
                let gate = json!({
                    "time": time,
                    "event": self.what,
                    "cluster": self.cluster,
                    "of": self.of,
                    "text": self.text,
                });
                report.insert("gate".to_owned(), gate);
                line.extend_from_slice(Value::Object(report).to_string().as_bytes());
            }
            Format::Text => {
                let cluster = self.cluster.unwrap_or("-").escape_default();
                // To a buffer that grows, writing does not fail.
                let _ = write!(line, "{time} {} {cluster} {}: {}", self.what, self.of, self.text.escape_debug());
            }
        }
        line.push(b'\n');
        to.write(line, 1);
    }
}
