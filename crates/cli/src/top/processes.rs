//! The list of processes, as lines of a table. Pure.

use overdue_why::collect::machine::{Listed, Processes};

use super::{
    picture::short,
    table::{Cell, Column, Line, Tone, left, right},
};

pub(crate) const COLUMNS: &[Column] = &[
    right("PID", 7, 0),
    left("NAME", 15, 0),
    right("CPU%", 6, 1),
    right("CONNS", 6, 0),
    right("ESTAB", 6, 3),
    right("CLOSEW", 7, 1),
    right("OLDEST", 7, 2),
    right("LISTEN", 7, 4),
    right("QUEUE", 9, 2),
    right("FDS", 13, 1),
    right("UID", 6, 5),
];
/// The column that it is sorted by at first.
pub(crate) const CONNECTIONS: usize = 3;

/// Descriptors beyond this part of their limit are shown as doubtful, and as bad beyond the second.
const NEAR: (f64, f64) = (0.5, 0.8);

pub(crate) fn lines(seen: &Processes) -> Vec<Line> {
    seen.listed.iter().map(line).collect()
}

fn line(listed: &Listed) -> Line {
    let of = |number: fn(&overdue_why::collect::machine::Counted) -> u32| {
        listed.sockets.as_ref().map_or_else(Cell::none, |counted| count(number(counted)))
    };
    let close_wait = of(|counted| counted.close_wait);
    let close_wait = if close_wait.text == "0" { close_wait } else { close_wait.tone(Tone::Doubtful) };
    let oldest = listed.sockets.and_then(|counted| counted.close_wait_ms);
    let queue = listed.sockets.and_then(|counted| counted.queue);
    Line {
        key: listed.pid.into(),
        last: false,
        cells: vec![
            Cell::number(-f64::from(listed.pid), listed.pid.to_string()),
            Cell::text(&listed.name),
            listed.processors.map_or_else(Cell::none, |share| {
                let tone = if share < 0.005 { Tone::Dim } else { Tone::Plain };
                Cell::number(share, format!("{:.0}", share * 100.0)).tone(tone)
            }),
            of(|counted| counted.connections),
            of(|counted| counted.established),
            close_wait,
            oldest.map_or_else(Cell::none, |ms| {
                Cell::number(ms.into(), short(u64::from(ms) * 1_000)).tone(Tone::Doubtful)
            }),
            of(|counted| counted.listeners),
            queue.map_or_else(Cell::none, |(queued, may)| {
                let tone = if queued > may { Tone::Bad } else { Tone::Plain };
                Cell::number(f64::from(queued) / f64::from(may.max(1)), format!("{queued}/{may}")).tone(tone)
            }),
            fds(listed),
            Cell::number(-f64::from(listed.uid), listed.uid.to_string()),
        ],
    }
}

fn count(number: u32) -> Cell {
    let tone = if number == 0 { Tone::Dim } else { Tone::Plain };
    Cell::number(number.into(), number.to_string()).tone(tone)
}

#[expect(clippy::cast_precision_loss, reason = "a share, for the eye")]
fn fds(listed: &Listed) -> Cell {
    let Some(limit) = listed.fd_limit.filter(|limit| *limit < u64::MAX) else {
        return Cell::number(0.0, listed.fds.to_string());
    };
    let share = listed.fds as f64 / limit.max(1) as f64;
    let tone = match share {
        share if share > NEAR.1 => Tone::Bad,
        share if share > NEAR.0 => Tone::Doubtful,
        _ => Tone::Plain,
    };
    Cell::number(share, format!("{}/{limit}", listed.fds)).tone(tone)
}
