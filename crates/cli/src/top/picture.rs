//! What one observation shows: the numbers of the header and the lines of the tables. Pure; made beside, not on the thread
//! that draws.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use overdue_core::{Cause, facts::TcpState};
use overdue_why::{
    Observation,
    judge::{self, Finding, Judgement, Stall},
    observation::{Connection, Fds, Side, TcpSocket, Thread, ThreadState},
    timeline,
};

use super::table::{Cell, Column, Line, Tone, left, right};
use crate::{render::time, screen::harmless};

pub(crate) const CONNECTIONS: &[Column] = &[
    left("PEER", 21, 0),
    left("SIDE", 6, 5),
    left("STATE", 11, 1),
    left("STAGE", 8, 2),
    right("FOR", 7, 2),
    right("STALLED", 8, 0),
    left("CAUSE", 17, 1),
    right("B/S", 6, 6),
    right("RTT", 7, 7),
    right("RETR", 4, 6),
    left("WHAT", 24, 8),
];
/// The column that tables of connections are sorted by at first.
pub(crate) const STALLED: usize = 5;

pub(crate) const THREADS: &[Column] = &[
    left("THREAD", 16, 0),
    right("TID", 7, 3),
    left("STATE", 7, 1),
    right("BLOCKED", 9, 0),
    left("IN", 14, 0),
    left("ON", 24, 2),
    right("CPU%", 5, 1),
    left("WHERE", 28, 4),
];
pub(crate) const BLOCKED: usize = 3;

pub(crate) const DESCRIPTORS: &[Column] =
    &[left("KIND OR PEER", 28, 0), right("OPEN", 7, 0), right("GREW", 8, 0), left("EXAMPLE", 30, 1)];
pub(crate) const OPEN: usize = 1;

/// What is shown of a process at one time.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) seen: Observation,
    pub(crate) judgement: Judgement,
    pub(crate) stalls: Vec<Stall>,
    pub(crate) rates: Rates,
    pub(crate) states: Vec<(&'static str, usize)>,
    pub(crate) connections: Vec<Line>,
    pub(crate) threads: Vec<Line>,
    pub(crate) descriptors: Vec<Line>,
}

/// What happened in each second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) opened: Option<f64>,
    pub(crate) accepted: Option<f64>,
    pub(crate) closed: Option<f64>,
    pub(crate) reset: Option<f64>,
    pub(crate) retransmitted: f64,
    /// Turns from writing to reading: requests, mostly.
    pub(crate) turns: Option<f64>,
    /// They are an estimate: reads and writes are so many that they were watched in short windows.
    pub(crate) estimated: bool,
    /// Processors in use.
    pub(crate) processors: Option<f64>,
    /// Processors that the watching takes.
    pub(crate) cost: f64,
}

/// What the next picture is compared with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    bytes: HashMap<u64, u64>,
    turns: HashMap<u64, u32>,
    cost_us: u64,
    at: Option<Duration>,
}

impl Picture {
    /// Of an observation; `now` is any clock that only goes forward.
    pub(crate) fn of(seen: Observation, before: &mut Before, now: Duration) -> Self {
        let judgement = judge::judge(&seen);
        let stalls = judge::stalls(&seen, &judgement);
        let elapsed = before.at.map(|at| now.saturating_sub(at).as_secs_f64()).filter(|seconds| *seconds > 0.0);
        let rates = rates(&seen, before, elapsed);
        let connections = connections(&seen, &stalls, before, elapsed);
        *before = Before {
            bytes: sockets(&seen).filter_map(|socket| Some((socket.cookie, carried(socket)?))).collect(),
            turns: lives(&seen).map(|connection| (connection.cookie, connection.turns)).collect(),
            cost_us: seen.overhead.cpu_us,
            at: Some(now),
        };
        let mut states: BTreeMap<&'static str, usize> = BTreeMap::new();
        let now = last_look_us(&seen);
        let there = sockets(&seen).filter(|socket| socket.last_seen_us >= now);
        there.for_each(|socket| *states.entry(judge::state_text(socket.state)).or_default() += 1);
        let mut states: Vec<(&str, usize)> = states.into_iter().collect();
        states.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self {
            judgement,
            stalls,
            rates,
            states,
            connections,
            threads: seen.threads.iter().flat_map(|it| &it.threads).map(|it| thread(it, seen.window_us)).collect(),
            descriptors: seen.fds.as_ref().map(descriptors).unwrap_or_default(),
            seen,
        }
    }

    /// Verdicts, then what was noticed besides.
    pub(crate) fn findings(&self) -> impl Iterator<Item = (bool, &Finding)> {
        let verdicts = self.judgement.verdicts.iter().map(|finding| (true, finding));
        verdicts.chain(self.judgement.advisories.iter().map(|finding| (false, finding)))
    }
}

pub(crate) fn sockets(seen: &Observation) -> impl Iterator<Item = &TcpSocket> {
    seen.sockets.iter().flat_map(|sockets| &sockets.tcp)
}

pub(crate) fn lives(seen: &Observation) -> impl Iterator<Item = &Connection> {
    seen.connections.iter().flat_map(|connections| &connections.connections)
}

/// When the sockets were looked at last: those that were not seen then are gone.
fn last_look_us(seen: &Observation) -> u64 {
    sockets(seen).map(|socket| socket.last_seen_us).max().unwrap_or(0)
}

/// Bytes that a socket has carried, both ways, as the kernel counts them.
fn carried(socket: &TcpSocket) -> Option<u64> {
    let info = socket.last.as_ref()?;
    Some(info.bytes_received?.saturating_add(info.bytes_acked?))
}

#[expect(clippy::cast_precision_loss, reason = "rates, for the eye")]
fn rates(seen: &Observation, before: &Before, elapsed: Option<f64>) -> Rates {
    let window = (seen.window_us as f64 / 1e6).max(0.001);
    let counts = seen.connections.as_ref();
    let each_second = |count: u64| count as f64 / window;
    let resent = |socket: &TcpSocket| {
        let (first, last) = (socket.first?, socket.last?);
        Some(u64::from(last.total_retrans.saturating_sub(first.total_retrans)))
    };
    let watched = counts.and_then(|counts| counts.transfers_us).map(|us| us as f64 / 1e6 / window);
    let turned: u64 =
        lives(seen).filter_map(|it| Some(u64::from(it.turns.saturating_sub(*before.turns.get(&it.cookie)?)))).sum();
    Rates {
        opened: counts.map(|counts| each_second(counts.opened)),
        accepted: counts.map(|counts| each_second(counts.accepted)),
        closed: counts.map(|counts| each_second(counts.closed)),
        reset: counts.map(|counts| each_second(counts.reset_by_peer + counts.reset_by_us)),
        retransmitted: each_second(sockets(seen).filter_map(resent).sum()),
        turns: elapsed.zip(watched).map(|(elapsed, watched)| turned as f64 / elapsed / watched.clamp(0.01, 1.0)),
        estimated: watched.is_some_and(|watched| watched < 0.9),
        processors: seen.cpu.as_ref().map(|cpu| cpu.used_us() as f64 / 1e6 / window),
        cost: elapsed.map_or(0.0, |elapsed| seen.overhead.cpu_us.saturating_sub(before.cost_us) as f64 / 1e6 / elapsed),
    }
}

/// Who asked for what, as far as the first bytes tell.
pub(crate) fn what(connection: &Connection) -> Option<String> {
    if let Some(http) = &connection.http {
        let status = http.status.map(|status| format!(" {status}")).unwrap_or_default();
        let host = http.host.as_deref().map(|host| format!(" {host}")).unwrap_or_default();
        return Some(harmless(&format!("{}{host}{status}", http.request)));
    }
    let sni = connection.tls.as_ref().and_then(|tls| tls.sni.as_deref()).map(|sni| format!("tls {sni}"));
    let name = connection.resolved.as_ref().map(|resolved| resolved.name.clone());
    sni.or(name).or_else(|| connection.http2.then(|| "http/2".to_owned())).map(|text| harmless(&text))
}

/// The stage that a connection is in, and for how long.
fn stage(connection: &Connection, window_us: u64, closed: bool) -> Option<(&'static str, u64)> {
    let last = timeline::stages(connection, window_us).pop()?;
    let open = last.partial || connection.closed.is_some();
    (open && !closed).then_some((last.stage.as_str(), last.duration_us))
}

fn connections(seen: &Observation, stalls: &[Stall], before: &Before, elapsed: Option<f64>) -> Vec<Line> {
    let stalls: HashMap<u64, &Stall> = stalls.iter().map(|stall| (stall.cookie, stall)).collect();
    let lives: HashMap<u64, &Connection> = lives(seen).map(|connection| (connection.cookie, connection)).collect();
    let sockets: HashMap<u64, &TcpSocket> = sockets(seen).map(|socket| (socket.cookie, socket)).collect();
    let mut cookies: Vec<u64> = sockets.keys().chain(lives.keys()).copied().collect();
    cookies.sort_unstable();
    cookies.dedup();
    let look_us = last_look_us(seen);
    // When a process ends the kernel closes all that it had: what is worth reading is how that was before.
    let ended = seen.process.ended_at_us.is_some();
    let line = |cookie: u64| {
        let (socket, life, stall) = (sockets.get(&cookie), lives.get(&cookie), stalls.get(&cookie));
        let peer = socket.map(|it| it.remote).or_else(|| life.and_then(|it| it.remote));
        let side = match (life.map(|it| it.side), socket.map(|it| it.inbound)) {
            (Some(Side::Client), _) | (Some(Side::Unknown) | None, Some(false)) => "client",
            (Some(Side::Server), _) | (_, Some(true)) => "server",
            _ => "-",
        };
        let there = socket.is_some_and(|it| it.last_seen_us >= look_us);
        let closed = (life.is_some_and(|it| it.closed.is_some()) || socket.is_some() && !there) && !(ended && there);
        let state = match socket {
            _ if closed => "CLOSED",
            Some(socket) => judge::state_text(socket.state),
            None => "-",
        };
        let stage = life.and_then(|it| stage(it, seen.window_us, closed));
        let stage = stage.or_else(|| stall.map(|stall| (stall.stage, stall.stalled_us)));
        // One that is established may be as long as it likes.
        let settled = socket.filter(|it| !closed && it.state != TcpState::Established);
        let state_us = settled.map(|it| it.in_state_us);
        let info = socket.and_then(|it| it.last.as_ref());
        let rate = socket.zip(elapsed).and_then(|(socket, elapsed)| {
            #[expect(clippy::cast_precision_loss, reason = "a rate, for the eye")]
            let bytes = carried(socket)?.saturating_sub(*before.bytes.get(&cookie)?) as f64;
            Some(bytes / elapsed)
        });
        let tone = match socket.map(|it| it.state) {
            _ if closed || ended => Tone::Dim,
            Some(TcpState::Established) | None => Tone::Plain,
            Some(_) => Tone::Doubtful,
        };
        Line {
            key: cookie,
            last: closed,
            cells: vec![
                peer.map_or_else(Cell::none, |peer| Cell::text(&peer.to_string())),
                Cell::text(side),
                Cell::text(state).tone(tone),
                stage.map_or_else(Cell::none, |(stage, _)| Cell::text(stage)),
                stage.map(|(_, us)| us).or(state_us).map_or_else(Cell::none, length),
                stall.map_or_else(Cell::none, |stall| length(stall.stalled_us).tone(Tone::Bad)),
                stall.map_or_else(Cell::none, |stall| cause(stall.cause)),
                rate.map_or_else(Cell::none, |rate| Cell::number(rate, amount(rate))),
                info.map_or_else(Cell::none, |info| length(info.rtt_us.into())),
                info.map_or_else(Cell::none, |info| count(info.total_retrans.into())),
                life.and_then(|it| what(it)).map_or_else(Cell::none, |what| Cell::text(&what)),
            ],
        }
    };
    cookies.into_iter().map(line).collect()
}

fn cause(cause: Cause) -> Cell {
    Cell::text(cause.id()).tone(Tone::Bad)
}

#[expect(clippy::cast_precision_loss, reason = "for sorting")]
fn length(us: u64) -> Cell {
    Cell::number(us as f64, short(us))
}

#[expect(clippy::cast_precision_loss, reason = "for sorting")]
fn count(number: u64) -> Cell {
    let tone = if number == 0 { Tone::Dim } else { Tone::Plain };
    Cell::number(number as f64, number.to_string()).tone(tone)
}

fn thread(thread: &Thread, window_us: u64) -> Line {
    let state = match thread.state {
        ThreadState::Running => Cell::text("running"),
        ThreadState::Sleeping => Cell::text("sleeps"),
        ThreadState::Uninterruptible => Cell::text("stuck").tone(Tone::Bad),
        ThreadState::Stopped => Cell::text("stopped").tone(Tone::Doubtful),
        ThreadState::Zombie => Cell::text("ended").tone(Tone::Dim),
        ThreadState::Other => Cell::none(),
    };
    let blocked = thread.blocked_in.as_ref();
    let on = blocked.and_then(|it| it.what.clone().or_else(|| it.fd.map(|fd| format!("fd {fd}"))));
    #[expect(clippy::cast_precision_loss, reason = "a share, for the eye")]
    let cpu = thread.cpu_us as f64 * 100.0 / window_us.max(1) as f64;
    let place = thread.stack.as_ref().map(|stack| stack.functions().take(6).collect::<Vec<_>>().join(" < "));
    let known = |text: Option<&str>| text.filter(|text| !text.is_empty()).map_or_else(Cell::none, Cell::text);
    Line {
        key: thread.tid.into(),
        last: false,
        cells: vec![
            Cell::text(&thread.name),
            Cell::number(-f64::from(thread.tid), thread.tid.to_string()),
            state,
            if thread.blocked_us > 0 { length(thread.blocked_us) } else { Cell::none() },
            known(blocked.map(|it| it.call.as_str()).or(thread.wchan.as_deref())),
            known(on.as_deref()),
            Cell::number(cpu, format!("{cpu:.0}")),
            known(place.as_deref()),
        ],
    }
}

fn descriptors(fds: &Fds) -> Vec<Line> {
    let line = |(key, (name, first, last, example)): (u64, (&str, u64, u64, Option<&str>))| {
        let grew = i128::from(last) - i128::from(first);
        #[expect(clippy::cast_precision_loss, reason = "for sorting")]
        let grew = Cell::number(grew as f64, if grew == 0 { "-".to_owned() } else { format!("{grew:+}") })
            .tone(if grew > 0 { Tone::Doubtful } else { Tone::Dim });
        let cells = vec![Cell::text(name), count(last), grew, example.map_or_else(Cell::none, Cell::text)];
        Line { key, last: false, cells }
    };
    let kinds = fds.by_kind.iter().map(|kind| (kind.kind.as_str(), kind.first, kind.last, kind.example.as_deref()));
    let peers = fds.by_peer.iter().map(|peer| (peer.peer.as_str(), peer.first, peer.last, Some("a peer's sockets")));
    // A kind and a peer keep their names, not their places.
    kinds.chain(peers).map(|it| (name_key(it.0), it)).map(line).collect()
}

/// A number that stands for a name from look to look.
fn name_key(name: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// A length of time in six columns at most.
pub(crate) fn short(us: u64) -> String {
    match us {
        0 => "0".to_owned(),
        1..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}ms", us / 1_000),
        1_000_000..60_000_000 => format!("{}.{}s", us / 1_000_000, us / 100_000 % 10),
        60_000_000..3_600_000_000 => format!("{}m{:02}s", us / 60_000_000, us / 1_000_000 % 60),
        3_600_000_000..86_400_000_000 => format!("{}h{:02}m", us / 3_600_000_000, us / 60_000_000 % 60),
        _ => format!("{}d", us / 86_400_000_000),
    }
}

/// A number in five columns: `950`, `12.3k`, `4.5M`.
pub(crate) fn amount(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e9 => (n / 1e9, "G"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e4 => (n / 1e3, "k"),
        n => (n, ""),
    };
    let decimals = usize::from(scaled < 100.0 && (!unit.is_empty() || (scaled.fract() > 0.0 && scaled < 10.0)));
    format!("{scaled:.decimals$}{unit}")
}

/// How long ago, or for how long, in words of the report.
pub(crate) fn long(us: u64) -> String {
    time(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_amounts_are_short() {
        let lengths = [0, 999, 1_000, 999_999, 1_250_000, 59_999_999, 61_000_000, 3_660_000_000, 90_000_000_000];
        let texts = lengths.map(short);
        assert_eq!(texts, ["0", "999us", "1ms", "999ms", "1.2s", "59.9s", "1m01s", "1h01m", "1d"]);
        assert!(short(u64::MAX).len() <= 10);
        let amounts = [0.0, 0.25, 12.0, 950.0, 12_340.0, 4_560_000.0, 2e9].map(amount);
        assert_eq!(amounts, ["0", "0.2", "12", "950", "12.3k", "4.6M", "2.0G"]);
    }
}
