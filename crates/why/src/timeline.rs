//! A connection's life as the stages of a call, in the words of the library: what it saw itself of its own calls, this
//! infers from outside. Pure.

use overdue_core::Stage;
use serde::{Serialize, Serializer};

use crate::observation::{Connection, Moment, Side};

/// A part of a connection's life. Of many exchanges the current or last is shown, and of those before it the longest
/// silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Phase {
    /// Which.
    #[serde(serialize_with = "word")]
    pub stage: Stage,
    /// When it began, in microseconds since the watch began; 0 when that was before.
    pub start_us: u64,
    /// How long it took, in microseconds, or has taken when the watch ended.
    pub duration_us: u64,
    /// It began before the watch, or had not ended with it: it is longer than what is shown.
    pub partial: bool,
    /// Where it ends, or begins, was not seen itself.
    pub inferred: bool,
}

fn word<S: Serializer>(stage: &Stage, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(stage.as_str())
}

/// The stages of a connection that was watched for `window_us` microseconds, in order, without overlap. What no stage
/// covers was not seen or belongs to none: the pause between two requests, say.
#[must_use]
pub fn stages(connection: &Connection, window_us: u64) -> Vec<Phase> {
    let mut phases = Phases { all: Vec::new(), covered: 0, end: window_us, closed: us(connection.closed) };
    if let Some(resolved) = &connection.resolved {
        let (start, end) = (resolved.sent_us, resolved.sent_us.saturating_add(resolved.duration_us));
        phases.add(Stage::Resolve, Some(Moment::At(start)), Some(Moment::At(end)));
    }
    if connection.side == Side::Client && connection.established != Some(Moment::Before) {
        phases.add(Stage::Connect, connection.opened, connection.established);
    }
    let mut secured = None;
    if let Some(tls) = &connection.tls {
        // Its first message is the process's own, or the peer's; before that nobody had begun it.
        phases.add(Stage::Tls, tls.hello, tls.done);
        if tls.hello.is_some() && tls.done.is_none() {
            return phases.all;
        }
        // What it wrote last may be the end of TLS, after a wait in which nothing came.
        if let Some(sent) = tls.unanswered.filter(|_| connection.side == Side::Client) {
            phases.add(Stage::Send, tls.done, Some(sent));
            phases.add(Stage::Wait, Some(sent), None);
            return phases.all;
        }
        secured = us(tls.done);
    }
    // What was written or read as a part of the handshake is no exchange.
    let after = |moment: Option<Moment>| moment.filter(|moment| secured.is_none_or(|done| at(*moment) >= done));
    let (first_write, last_write) =
        (after(connection.first_write).or(after(connection.last_write)), connection.last_write);
    let (first_read, last_read) = (after(connection.first_read), connection.last_read);
    let (last_write, last_read) = (after(last_write), after(last_read));
    let reading = us(last_read) > us(last_write);
    phases.longest_before(connection, [first_write, last_write, first_read, last_read]);
    if connection.side == Side::Server {
        if reading || last_write.is_none() {
            // The request came, and is not answered yet.
            phases.add(Stage::Receive, first_read, last_read);
            if last_read.is_some() && connection.closed.is_none() {
                phases.add(Stage::Handle, last_read, None);
            }
        } else {
            phases.add(Stage::Receive, first_read, last_read);
            if last_read.is_some() {
                phases.add(Stage::Handle, last_read, first_write);
            }
            phases.add(Stage::Send, first_write, last_write);
        }
    } else if reading {
        phases.add(Stage::Send, first_write, last_write);
        if first_read.is_some() && last_write.is_some() {
            phases.add(Stage::Wait, last_write, first_read);
        }
        // Of an answer that is not whole more is due.
        phases.add(Stage::Receive, first_read, last_read.filter(|_| !is_due(connection)));
    } else if last_write.is_some() {
        phases.add(Stage::Send, first_write, last_write);
        phases.add(Stage::Wait, last_write, None);
    }
    phases.all
}

/// Whether a part of the answer has not come.
fn is_due(connection: &Connection) -> bool {
    connection.http.as_ref().is_some_and(|http| {
        http.half_head || http.missing_bytes.is_some_and(|missing| missing > 0) || http.chunks_ended == Some(false)
    })
}

struct Phases {
    all: Vec<Phase>,
    /// Up to here something is shown.
    covered: u64,
    end: u64,
    closed: Option<u64>,
}

impl Phases {
    /// The longest silence, where it is over and lies before the exchange of which these moments are.
    fn longest_before(&mut self, connection: &Connection, exchange: [Option<Moment>; 4]) {
        let (stage, gaps) = match connection.side {
            Side::Server => (Stage::Handle, connection.write_gaps),
            Side::Client | Side::Unknown => (Stage::Wait, connection.read_gaps),
        };
        let end_us = gaps.longest_at_us.saturating_add(gaps.longest_us);
        let begins = exchange.into_iter().flatten().map(at).min();
        if gaps.longest_us > 0 && begins.is_some_and(|begins| end_us <= begins) {
            self.add(stage, Some(Moment::At(gaps.longest_at_us)), Some(Moment::At(end_us)));
        }
    }

    /// One from `start` to `end`; without an end it lasted until the connection closed, or still does.
    fn add(&mut self, stage: Stage, start: Option<Moment>, end: Option<Moment>) {
        let Some(start) = start else { return };
        let going_on = end.is_none() && self.closed.is_none();
        let last = end.map(at).or(self.closed).unwrap_or(self.end);
        let start_us = at(start).max(self.covered);
        // Nothing of it lies in the window, or it is a neighbour's.
        if last < start_us || end == Some(Moment::Before) {
            return;
        }
        let inferred = |moment: Option<Moment>| matches!(moment, Some(Moment::Inferred(_)));
        self.all.push(Phase {
            stage,
            start_us,
            duration_us: last - start_us,
            partial: going_on || start == Moment::Before,
            inferred: inferred(Some(start)) || inferred(end),
        });
        self.covered = last;
    }
}

fn at(moment: Moment) -> u64 {
    match moment {
        Moment::At(at) | Moment::Inferred(at) => at,
        Moment::Before => 0,
    }
}

fn us(moment: Option<Moment>) -> Option<u64> {
    moment.map(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observation::{Gaps, HttpHead, Resolved, TlsHandshake};

    fn at(us: u64) -> Option<Moment> {
        Some(Moment::At(us))
    }

    fn shown(connection: &Connection) -> Vec<(&'static str, u64, u64, bool, bool)> {
        let phases = stages(connection, 10_000);
        phases.iter().map(|p| (p.stage.as_str(), p.start_us, p.duration_us, p.partial, p.inferred)).collect()
    }

    #[test]
    fn an_answer_that_stopped_is_still_due() {
        let with = |missing_bytes| Connection {
            side: Side::Client,
            first_write: at(100),
            last_write: at(100),
            first_read: at(300),
            last_read: at(400),
            http: Some(HttpHead { missing_bytes, ..HttpHead::default() }),
            ..Connection::default()
        };
        let before = [("send", 100, 0, false, false), ("wait", 100, 200, false, false)];
        assert_eq!(shown(&with(Some(0))), [&before[..], &[("receive", 300, 100, false, false)]].concat());
        assert_eq!(shown(&with(Some(9))), [&before[..], &[("receive", 300, 9_700, true, false)]].concat());
    }

    #[test]
    fn a_wait_inside_of_tls_lasts_until_the_close() {
        let connection = Connection {
            side: Side::Client,
            closed: at(5000),
            tls: Some(TlsHandshake {
                client: true,
                hello: at(420),
                done: Some(Moment::Inferred(700)),
                unanswered: Some(Moment::Inferred(800)),
                ..TlsHandshake::default()
            }),
            first_write: at(4990),
            last_write: at(4990),
            last_read: at(900),
            ..Connection::default()
        };
        assert_eq!(
            shown(&connection),
            [("tls", 420, 280, false, true), ("send", 700, 100, false, true), ("wait", 800, 4200, false, true)]
        );
    }

    #[test]
    fn a_call_over_tls_from_name_to_body() {
        let connection = Connection {
            side: Side::Client,
            opened: at(300),
            established: at(400),
            closed: at(5000),
            resolved: Some(Resolved { name: "host.example".into(), sent_us: 100, duration_us: 150 }),
            tls: Some(TlsHandshake { hello: at(420), done: Some(Moment::Inferred(700)), ..TlsHandshake::default() }),
            first_write: at(700),
            last_write: at(750),
            first_read: at(4000),
            last_read: at(4500),
            ..Connection::default()
        };
        assert_eq!(
            shown(&connection),
            [
                ("resolve", 100, 150, false, false),
                ("connect", 300, 100, false, false),
                ("tls", 420, 280, false, true),
                ("send", 700, 50, false, false),
                ("wait", 750, 3250, false, false),
                ("receive", 4000, 500, false, false),
            ]
        );
    }

    #[test]
    fn what_has_not_ended_is_partial() {
        let mut connection = Connection { side: Side::Client, opened: at(300), ..Connection::default() };
        assert_eq!(shown(&connection), [("connect", 300, 9700, true, false)]);
        connection.closed = at(1300);
        assert_eq!(shown(&connection), [("connect", 300, 1000, false, false)]);
        connection = Connection {
            opened: Some(Moment::Before),
            established: Some(Moment::Before),
            first_write: at(500),
            last_write: at(600),
            last_read: at(200),
            first_read: at(200),
            ..Connection::default()
        };
        assert_eq!(shown(&connection), [("send", 500, 100, false, false), ("wait", 600, 9400, true, false)]);
    }

    #[test]
    fn a_handshake_that_hangs_is_no_exchange() {
        let connection = Connection {
            side: Side::Client,
            opened: at(300),
            established: at(400),
            first_write: at(420),
            last_write: at(420),
            tls: Some(TlsHandshake { hello: at(420), ..TlsHandshake::default() }),
            ..Connection::default()
        };
        assert_eq!(shown(&connection), [("connect", 300, 100, false, false), ("tls", 420, 9580, true, false)]);
    }

    #[test]
    fn a_server_reads_works_and_answers() {
        let mut connection = Connection {
            side: Side::Server,
            opened: at(100),
            established: at(100),
            first_read: at(200),
            last_read: at(250),
            first_write: at(900),
            last_write: at(950),
            ..Connection::default()
        };
        assert_eq!(
            shown(&connection),
            [("receive", 200, 50, false, false), ("handle", 250, 650, false, false), ("send", 900, 50, false, false)]
        );
        (connection.first_read, connection.last_read) = (at(2000), at(2000));
        assert_eq!(shown(&connection), [("receive", 2000, 0, false, false), ("handle", 2000, 8000, true, false)]);
    }

    #[test]
    fn the_longest_silence_is_shown_beside_the_last_exchange() {
        let mut connection = Connection {
            side: Side::Client,
            opened: Some(Moment::Before),
            established: Some(Moment::Before),
            first_write: at(8000),
            last_write: at(8100),
            first_read: at(7000),
            last_read: at(7000),
            read_gaps: Gaps { total_us: 4000, longest_us: 3000, longest_at_us: 1000, ..Gaps::default() },
            ..Connection::default()
        };
        let exchange = [("send", 8000, 100, false, false), ("wait", 8100, 1900, true, false)];
        assert_eq!(shown(&connection)[0], ("wait", 1000, 3000, false, false));
        assert_eq!(shown(&connection)[1..], exchange);
        // It is the one of the last exchange itself.
        connection.read_gaps.longest_at_us = 5000;
        assert_eq!(shown(&connection), exchange);
    }

    fn moment() -> impl Strategy<Value = Option<Moment>> {
        prop_oneof![
            Just(None),
            Just(Some(Moment::Before)),
            (0..20_000_u64).prop_map(|at| Some(Moment::At(at))),
            any::<u64>().prop_map(|at| Some(Moment::Inferred(at))),
        ]
    }

    proptest! {
        /// Whatever a recording holds, parts follow each other.
        #[test]
        fn parts_do_not_overlap(
            moments in proptest::array::uniform10(moment()),
            side in 0..3_u8,
            tls: bool,
            gaps in (any::<u64>(), 0..20_000_u64),
        ) {
            let [opened, established, closed, first_write, last_write, first_read, last_read, hello, answered, done] = moments;
            let side = match side { 0 => Side::Client, 1 => Side::Server, _ => Side::Unknown };
            let tls = tls.then(|| TlsHandshake { hello, answered, done, ..TlsHandshake::default() });
            let connection = Connection {
                side, opened, established, closed, first_write, last_write, first_read, last_read, tls,
                read_gaps: Gaps { longest_us: gaps.0, longest_at_us: gaps.1, ..Gaps::default() },
                write_gaps: Gaps { longest_us: gaps.1, longest_at_us: gaps.0, ..Gaps::default() },
                ..Connection::default()
            };
            let mut end = 0;
            for phase in stages(&connection, 10_000) {
                prop_assert!(phase.start_us >= end);
                end = phase.start_us + phase.duration_us;
            }
        }
    }
}
