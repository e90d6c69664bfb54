//! Callers who were answered at once, again and again, and then, all at the same time, no more; or only that it failed.
//!
//! The first needs no knowledge of what the threads wait in: who answers each of its callers within milliseconds, and then none
//! of them for seconds, hangs. Not so a server that is asked to wait: it was slow before, on the same connections.

use std::collections::HashMap;

use overdue_core::{Cause, Confidence};

use super::{
    Finding, Severity, bpf,
    calls::callers,
    count, share,
    sockets::is_there,
    thresholds::{ALWAYS, CROWD, FELL_SILENT, SETTLED_US},
    time, total,
    unanswered::{all_stacks, handlers},
};
use crate::{
    Observation,
    observation::{Connection, FailedCalls, Moment, Side, TcpSocket},
};

/// Callers whom it no longer answers.
#[derive(Default)]
pub(super) struct Silence<'a> {
    /// Each of them.
    pub(super) callers: Vec<&'a TcpSocket>,
    /// The longest that an answer to one of them took before, in microseconds.
    pub(super) earlier_us: u64,
}

impl<'a> Silence<'a> {
    /// Those who have waited for so long, if they are nearly all of those who were answered before.
    pub(super) fn of(seen: &'a Observation, least_us: u64) -> Option<Self> {
        let connections = seen.connections.as_ref().filter(|connections| connections.untold == 0)?;
        if answered_lately(seen, least_us) {
            return None;
        }
        // Of very many connections the worst alone are told of, the longest waits first.
        let told: HashMap<u64, &Connection> = connections.connections.iter().map(|it| (it.cookie, it)).collect();
        let is_served = |it: &&TcpSocket| told.get(&it.cookie).is_some_and(|connection| connection.turns > 0);
        let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
        let served = sockets.filter(|it| it.inbound && is_there(seen, it)).filter(is_served).count();
        let waits = |it: &&TcpSocket| it.fd.is_some() && is_there(seen, it) && told.contains_key(&it.cookie);
        let waiting: Vec<&TcpSocket> = callers(seen).into_iter().filter(waits).collect();
        let mut silence = Self::default();
        for &caller in &waiting {
            let Some(connection) = told.get(&caller.cookie).filter(|it| asks(it)) else { continue };
            let earlier_us = connection.write_gaps.longest_us;
            let waited_us = caller.last.map_or(0, |tcp| u64::from(tcp.last_data_recv_ms) * 1_000);
            if waited_us >= least_us && waited_us / FELL_SILENT.1 >= earlier_us {
                silence.callers.push(caller);
                silence.earlier_us = silence.earlier_us.max(earlier_us);
            }
        }
        let number = silence.callers.len() as u64;
        let nearly_all = share(number, served.max(waiting.len()) as u64) >= ALWAYS;
        (number >= CROWD && nearly_all).then_some(silence)
    }
}

/// Whether any client was sent anything, so short a time ago.
pub(super) fn answered_lately(seen: &Observation, least_us: u64) -> bool {
    let sent = |socket: &TcpSocket| {
        // Where nothing was ever sent, the time of the last byte is that of the connection.
        let tcp = socket.last.filter(|tcp| socket.inbound && socket.acked(tcp).is_none_or(|acked| acked > 0));
        tcp.is_some_and(|tcp| u64::from(tcp.last_data_sent_ms) * 1_000 < least_us)
    };
    // Connections that have ended meanwhile.
    let wrote = |connection: &Connection| match connection.last_write {
        Some(Moment::At(us) | Moment::Inferred(us)) => {
            connection.side == Side::Server && seen.window_us.saturating_sub(us) < least_us
        }
        Some(Moment::Before) | None => false,
    };
    seen.sockets.iter().flat_map(|sockets| &sockets.tcp).filter(|it| is_there(seen, it)).any(sent)
        || seen.connections.iter().flat_map(|connections| &connections.connections).any(wrote)
}

/// Whether it is a connection on which requests of HTTP were answered, some of them in the window. Through a tunnel passes
/// another protocol.
fn asks(connection: &Connection) -> bool {
    let is_http = connection.http.as_ref().is_some_and(|http| !http.request.starts_with("CONNECT "));
    connection.side == Side::Server && is_http && !connection.http2 && connection.turns > FELL_SILENT.0
}

/// Errors of the server that each took about as long: a limit of its own passes each time, and what it waits for is not
/// known.
pub(super) fn fails_late(seen: &Observation) -> Option<Finding> {
    let connections = seen.connections.iter().flat_map(|connections| &connections.connections);
    let served = connections.filter(|connection| connection.side == Side::Server);
    let failed = served.filter_map(|connection| connection.http.as_ref()?.failed);
    let at_a_limit = |failed: &FailedCalls| {
        let each_us = failed.total_us / u64::from(failed.number.max(1));
        each_us >= SETTLED_US && failed.longest_us <= each_us.saturating_add(each_us / 10)
    };
    let late: Vec<FailedCalls> = failed.filter(at_a_limit).collect();
    let number = total(late.iter().map(|failed| u64::from(failed.number)));
    let FailedCalls { status, longest_us, .. } = *late.iter().max_by_key(|failed| failed.number)?;
    if number < CROWD {
        return None;
    }
    let at = handlers(seen).map(|it| format!("; {}", it.text)).unwrap_or_default();
    let callers = count(late.len() as u64, "caller");
    let mut finding = Finding::new(
        Cause::Unknown,
        Severity::Refusing,
        Confidence::Low,
        format!(
            "{number} answers to {callers} were errors ({status}), each after {}: a limit of this program passes, for all that \
             is known, while it waits for something{at}",
            time(longest_us),
        ),
    )
    .because(bpf(format!("{number} answers with a status of 500 or more")).with("answers", number).with("longest_us", longest_us))
    .rejected(Cause::Unknown, "possible: it is asked for what takes so long, and fails for another reason")
    .fix(format!(
        "Look at its log of those answers, and what it waits for meanwhile: all stacks by {}.",
        all_stacks(&seen.process)
    ));
    finding.advisory = true;
    Some(finding)
}
