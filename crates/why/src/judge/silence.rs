//! Callers who were answered at once, again and again, and then, all at the same time, no more.
//!
//! That needs no knowledge of what the threads wait in: who answers each of its callers within milliseconds, and then none
//! of them for seconds, hangs. Not so a server that is asked to wait: it was slow before, on the same connections.

use std::collections::HashMap;

use super::{
    calls::callers,
    share,
    sockets::is_there,
    thresholds::{ALWAYS, CROWD, FELL_SILENT},
};
use crate::{
    Observation,
    observation::{Connection, Moment, Side, TcpSocket},
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
        let asks: HashMap<u64, &Connection> =
            connections.connections.iter().filter(|it| asks(it)).map(|it| (it.cookie, it)).collect();
        let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
        let served = sockets.filter(|it| it.inbound && is_there(seen, it) && asks.contains_key(&it.cookie)).count();
        let waiting: Vec<&TcpSocket> =
            callers(seen).into_iter().filter(|it| it.fd.is_some() && is_there(seen, it)).collect();
        let mut silence = Self::default();
        for &caller in &waiting {
            let Some(connection) = asks.get(&caller.cookie) else { continue };
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
