use overdue_core::facts::{TcpInfo, TcpState};
use overdue_why::{
    Observation,
    observation::{Connection, Connections, HttpHead, Moment, Process, Side, Sockets, TcpSocket, TlsHandshake},
};

use super::*;

const WINDOW_US: u64 = 5_000_000;

fn at(us: u64) -> Option<Moment> {
    Some(Moment::At(us))
}

fn socket(cookie: u64, remote: &str) -> TcpSocket {
    TcpSocket {
        fd: Some(7),
        in_state_us: 3_000_000,
        last_seen_us: WINDOW_US,
        ..TcpSocket::new(cookie, "10.0.0.2:40000".parse().unwrap(), remote.parse().unwrap(), TcpState::Established)
    }
}

/// A request that is not answered, a handshake that hangs, and a connection that rests.
fn stalled() -> Observation {
    let asked = Connection {
        cookie: 1,
        side: Side::Client,
        opened: Some(Moment::Before),
        established: Some(Moment::Before),
        first_write: at(500_000),
        last_write: at(500_100),
        first_read: Some(Moment::Before),
        http: Some(HttpHead {
            request: "GET /slow\u{1b}[2J".to_owned(),
            host: Some("api.test".to_owned()),
            requested: at(500_000),
            ..HttpHead::default()
        }),
        ..Connection::default()
    };
    let shaking = Connection {
        cookie: 2,
        side: Side::Client,
        opened: at(1_000_000),
        established: Some(Moment::Inferred(1_500_000)),
        tls: Some(TlsHandshake { client: true, hello: at(1_500_000), ..TlsHandshake::default() }),
        first_write: at(1_500_000),
        last_write: at(1_500_000),
        ..Connection::default()
    };
    Observation {
        window_us: WINDOW_US,
        sockets: Some(Sockets {
            tcp: vec![socket(1, "10.0.0.7:80"), socket(2, "10.0.0.9:8443"), socket(3, "10.0.0.7:80")],
            ..Sockets::default()
        }),
        connections: Some(Connections { connections: vec![asked, shaking], ..Connections::default() }),
        ..Observation::default()
    }
}

fn shown(columns: usize, seen: &Observation) -> String {
    connections::connections(Screen::plain(columns), &Report::of(seen))
}

#[test]
fn connections_are_lines_on_one_axis() {
    assert_eq!(
        shown(80, &stalled()),
        "
CONNECTIONS, by stalled time               0 ─────────────────────────────── 5s
  10.0.0.7:80       4.5s  server-slow         SWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW>
    ESTABLISHED, api.test, GET /slow?[2J
  10.0.0.9:8443     3.5s  tls-peer-silent         cccTTTTTTTTTTTTTTTTTTTTTTTTTT>
    ESTABLISHED, TLS
  S send, W wait, C connect, T tls, small letters: inferred, > goes on
  1 without a stall
"
    );
}

#[test]
fn what_began_before_and_what_lies_between_is_marked() {
    let mut seen = stalled();
    let Some(connections) = &mut seen.connections else { return };
    connections.connections.truncate(1);
    let asked = &mut connections.connections[0];
    (asked.established, asked.opened) = (at(300_000), Some(Moment::Before));
    let text = shown(80, &seen);
    assert!(text.contains("<CC··SWWW"), "{text}");
    assert!(text.contains("< began before, > goes on, · none of these"), "{text}");
    assert!(text.contains("2 without a stall"), "{text}");
}

#[test]
fn on_a_narrow_screen_bars_have_lines_of_their_own() {
    for columns in [40, 60, 80, 120, 200] {
        let text = shown(columns, &stalled());
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= columns, "{columns}:\n{text}");
    }
    let text = shown(44, &stalled());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[3], "  10.0.0.7:80 4.5s server-slow");
    assert!(lines[4].starts_with("        SWWWW") && lines[4].ends_with('>'), "{text}");
}

#[test]
fn connections_without_a_stall_are_counted_only() {
    let mut seen = stalled();
    seen.connections = None;
    assert_eq!(shown(80, &seen), "\nOf its 3 connections none was seen to stall.\n");
    // A client may wait: then it is not said that none does.
    let mut asks = socket(9, "10.0.0.8:50000");
    asks.inbound = true;
    let said =
        TcpInfo { bytes_acked: Some(80), bytes_received: Some(40), last_data_recv_ms: 3_000, ..TcpInfo::default() };
    asks.last = Some(TcpInfo { last_data_sent_ms: 3_100, ..said });
    if let Some(sockets) = &mut seen.sockets {
        sockets.tcp.push(asks);
    }
    let text = shown(80, &seen);
    assert!(text.starts_with("\nIt has 4 connections.\nOne client, 10.0.0.8, had the last word"), "{text}");
    seen.sockets = None;
    assert_eq!(shown(80, &seen), "");
}

#[test]
fn more_than_fit_are_counted() {
    let mut seen = stalled();
    let (Some(sockets), Some(connections)) = (&mut seen.sockets, &mut seen.connections) else { return };
    for cookie in 10..30 {
        sockets.tcp.push(socket(cookie, "10.0.0.7:80"));
        connections.connections.push(Connection { cookie, ..connections.connections[0].clone() });
    }
    let text = shown(80, &seen);
    assert!(text.contains("14 more like these, 1 without a stall"), "{text}");
    // What is the same for all is said once.
    assert_eq!(text.matches("GET /slow").count(), 1, "{text}");
}

/// Of two waits the one that took as long as the stall is in red.
#[test]
fn the_stage_that_stalled_stands_out() {
    let mut report = Report::of(&stalled());
    let line = &mut report.connections[0];
    let now = line.timeline[1];
    line.timeline.insert(0, overdue_why::timeline::Phase { start_us: 0, duration_us: 400_000, partial: false, ..now });
    let red = |report: &Report| {
        let text = connections::connections(Screen::styled(80), report);
        let (before, _) = text.split_once("W\u{1b}[0m>").map_or(("", ""), |parts| parts);
        before.contains("\u{1b}[1mWW\u{1b}[0m") && before.trim_end_matches('W').ends_with("\u{1b}[1;31m")
    };
    assert!(red(&report));
    if let Some(stall) = &mut report.connections[0].stall {
        stall.stalled_us = 300_000;
    }
    assert!(!red(&report));
}

/// One remedy stands once, with all that it would show; of one process that has ended there is none.
#[test]
fn what_one_remedy_would_show_stands_together() {
    let hidden =
        |what: &str, why: &str, how: &str| Hidden { what: what.to_owned(), why: why.to_owned(), how: how.to_owned() };
    let lines = hidden_lines(&[
        hidden("lives", "refused", "be root"),
        hidden("sockets", "elsewhere", "enter"),
        hidden("loops", "refused", "be root"),
        hidden("memory", "locked", "be root"),
        hidden("goroutines", "it has ended", ""),
    ]);
    assert_eq!(
        lines,
        [
            "lives; loops: refused",
            "memory: locked",
            "To see these: be root",
            "sockets: elsewhere. To see it: enter",
            "goroutines: it has ended",
        ]
    );
}

/// `sh -c 'curl -m 3 ...; true'`: the one that hung had ended before the watch did.
#[test]
fn whose_children_have_ended_was_not_watched_for_them() {
    let mut seen = Observation { window_us: WINDOW_US, ..Observation::default() };
    seen.process = Process { name: "sh".to_owned(), only_waits_for_children: true, ..Process::default() };
    let text = report(Screen::plain(80), &Report::of(&seen));
    for part in ["nothing but wait for children, which have ended", "sh -c 'exec ...'", "of those nothing is known"] {
        assert!(text.replace("\n  ", " ").contains(part), "no {part:?} in\n{text}");
    }
    assert!(!text.contains("nothing wrong"), "{text}");
    seen.process.only_waits_for_children = false;
    let text = report(Screen::plain(80), &Report::of(&seen));
    assert!(text.contains("nothing wrong was found") && !text.contains("children"), "{text}");
}

/// A remark that may be a fault is not called well in the line above it.
#[test]
fn who_may_be_ill_is_not_called_well() {
    let mut told = Report::of(&stalled());
    told.advisories = std::mem::take(&mut told.verdicts);
    let headline = |told: &Report| nothing(told).1;
    assert!(headline(&told).starts_with("nothing wrong was found"), "{}", headline(&told));
    let why = "possible: the wait may be meant".into();
    told.advisories[0].verdict.rejected.push(overdue_core::Rejected { cause: Cause::Unknown, why });
    assert!(headline(&told).contains("for certain") && headline(&told).contains("ALSO"), "{}", headline(&told));
}
