//! The view as its reader sees it: states and keys in, the screen out.

use std::time::Duration;

use overdue_core::facts::{TcpInfo, TcpState};
use overdue_why::{
    Observation,
    collect::machine::{Counted, Listed, Processes},
    observation::{
        BlockedIn, Connection, Connections, FdKind, Fds, Hidden, HttpHead, Moment, Process, Reading, Side, Sockets,
        TcpSocket, Thread, ThreadState, Threads,
    },
};
use proptest::prelude::*;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::{Color, Modifier},
};

use super::{
    draw::{Palette, draw},
    model::{Effect, Input, Model},
    picture::{Before, Picture},
};

const COLOURS: Palette = Palette { colours: true };
const PLAIN: Palette = Palette { colours: false };

fn terminal(model: &Model, palette: Palette, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, palette, frame)).unwrap();
    terminal
}

/// The lines of the screen, without what is blank at their ends.
fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    let terminal = terminal(model, PLAIN, width, height);
    let buffer = terminal.backend().buffer();
    let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn key(model: &mut Model, code: KeyCode) -> Option<Effect> {
    let now = model.now;
    model.update(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)), now)
}

fn keys(model: &mut Model, text: &str) {
    text.chars().for_each(|letter| _ = key(model, KeyCode::Char(letter)));
}

fn socket(cookie: u64, state: TcpState, in_state_us: u64) -> TcpSocket {
    TcpSocket {
        fd: Some(u32::try_from(cookie).unwrap() + 10),
        in_state_us,
        inbound: true,
        fin_unread: state == TcpState::CloseWait,
        first: Some(TcpInfo { rtt_us: 250, ..TcpInfo::default() }),
        last: Some(TcpInfo { rtt_us: 250, total_retrans: 2, ..TcpInfo::default() }),
        last_seen_us: 8_000_000,
        ..TcpSocket::new(
            cookie,
            "10.0.0.1:8080".parse().unwrap(),
            format!("10.0.0.2:{}", 40_000 + cookie).parse().unwrap(),
            state,
        )
    }
}

/// A server that never closes, and one request that it works on.
fn ill(name: &str) -> Observation {
    let half_closed = (1..=12).map(|cookie| socket(cookie, TcpState::CloseWait, 3_000_000 + cookie * 1_000));
    let busy = Connection {
        cookie: 20,
        remote: "10.0.0.3:50000".parse().ok(),
        local: "10.0.0.1:8080".parse().ok(),
        side: Side::Server,
        opened: Some(Moment::Before),
        first_read: Some(Moment::At(6_000_000)),
        last_read: Some(Moment::At(6_000_000)),
        http: Some(HttpHead { request: "GET /slow".to_owned(), ..HttpHead::default() }),
        ..Connection::default()
    };
    let reading = |at_us, value| Reading { at_us, value };
    let blocked_in =
        BlockedIn { call: "epoll_wait".to_owned(), what: Some("epoll".to_owned()), ..BlockedIn::default() };
    Observation {
        window_us: 8_000_000,
        process: Process { pid: 4242, name: name.to_owned(), age_us: Some(3_723_000_000), ..Process::default() },
        fds: Some(Fds {
            soft_limit: 1024,
            hard_limit: 4096,
            open: vec![reading(0, 20), reading(8_000_000, 23)],
            by_kind: vec![FdKind { kind: "tcp".to_owned(), first: 10, last: 13, example: None }],
            ..Fds::default()
        }),
        sockets: Some(Sockets { tcp: half_closed.collect(), rounds: 30, ..Sockets::default() }),
        threads: Some(Threads {
            first: 1,
            last: 1,
            threads: vec![Thread {
                tid: 4242,
                name: name.to_owned(),
                state: ThreadState::Sleeping,
                blocked_us: 2_500_000,
                blocked_in: Some(blocked_in),
                ..Thread::default()
            }],
            ..Threads::default()
        }),
        connections: Some(Connections {
            accepted: 16,
            transfers_us: Some(8_000_000),
            connections: vec![busy],
            ..Connections::default()
        }),
        ..Observation::default()
    }
}

fn picture(seen: Observation) -> Input {
    Input::Seen(Box::new(Picture::of(seen, &mut Before::default(), Duration::ZERO)))
}

fn watched() -> Model {
    let mut model = Model::new(Some(4242));
    model.update(picture(ill("server")), Duration::from_secs(1));
    model
}

fn listed(pid: u32, name: &str, connections: u32) -> Listed {
    Listed {
        pid,
        name: name.to_owned(),
        uid: 33,
        processors: Some(0.5),
        sockets: Some(Counted { connections, close_wait: 1, close_wait_ms: Some(61_000), ..Counted::default() }),
        fds: 900,
        fd_limit: Some(1024),
    }
}

fn all_processes() -> Model {
    let mut model = Model::new(None);
    let listed = vec![listed(10, "nginx", 3), listed(11, "redis-server", 40), listed(12, "ng\u{1b}[31mbad", 1)];
    let seen = Processes { listed, hidden: 7, ..Processes::default() };
    model.update(Input::Processes(Ok(seen)), Duration::ZERO);
    model
}

#[test]
fn one_process_on_a_small_terminal() {
    let lines = screen(&watched(), 80, 24);
    let expected = "\
server (4242)  up 1h02m  threads 1  fds 23/1024
tcp  12 CLOSE_WAIT
each second: opened 0  accepted 2  closed 0  reset 0  turns ?  resent 3
watched 8.0s  cost: cpu 0.0%, 0 MB, 0 dropped
v:VERDICTS 1
close-wait-pileup  12 connections are in CLOSE_WAIT: the peers closed before thi
c:CONNECTIONS 13                                                t:THREADS  d:FDS
PEER                  STATE       STAGE        FOR \u{25bc}STALLED CAUSE
10.0.0.2:40001        CLOSE_WAIT  -           3.0s        - -";
    let shown: Vec<&str> = lines.iter().map(String::as_str).collect();
    let expected: Vec<&str> = expected.lines().collect();
    // The judge's sentence is its own business.
    let verdict = shown[5];
    assert!(verdict.starts_with("close-wait-pileup  12 connections are in CLOSE_WAIT"), "{lines:#?}");
    for (place, line) in expected.iter().enumerate().filter(|(place, _)| *place != 5) {
        assert_eq!(shown[place], *line, "{lines:#?}");
    }
    let busy = shown.iter().find(|line| line.starts_with("10.0.0.3:50000")).unwrap();
    assert!(busy.contains("handle") && busy.contains("2.0s"), "{busy}");
    assert_eq!(shown[23], "Enter open  Tab pane  / filter  s sort  p hold  ? help  q quit");
    assert!(screen(&watched(), 160, 24)[7].ends_with("WHAT"), "wider screens have more columns");
    // One that was not there any more at the last look is no connection in that state.
    let mut seen = ill("server");
    seen.sockets.as_mut().unwrap().tcp[0].last_seen_us = 7_000_000;
    let mut model = Model::new(Some(4242));
    model.update(picture(seen), Duration::ZERO);
    let lines = screen(&model, 80, 24);
    assert_eq!(lines[1], "tcp  11 CLOSE_WAIT");
    assert!(lines.iter().any(|line| line.starts_with("10.0.0.2:40001        CLOSED")), "{lines:#?}");
}

#[test]
fn a_line_that_is_cut_says_so() {
    for width in [60, 80, 200] {
        let lines = screen(&watched(), width, 24);
        let is_cut = lines[5].ends_with('\u{2026}');
        assert!(is_cut == (width < 200) && lines[5].chars().count() <= usize::from(width), "{lines:#?}");
    }
}

/// The kernel closes all connections of a process that ends: how they were before is what counts.
#[test]
fn of_one_that_ended_the_last_states_are_kept() {
    let mut seen = ill("server");
    seen.process.ended_at_us = Some(7_990_000);
    let at_the_end = |cookie| Connection {
        cookie,
        side: Side::Server,
        closed: Some(Moment::At(7_990_000)),
        closed_by_us: true,
        ..Connection::default()
    };
    let lives = &mut seen.connections.as_mut().unwrap().connections;
    lives.extend((1..=12).map(at_the_end));
    // It was gone before.
    seen.sockets.as_mut().unwrap().tcp[0].last_seen_us = 6_000_000;
    let mut model = Model::new(Some(4242));
    model.update(picture(seen), Duration::ZERO);
    let lines = screen(&model, 80, 24);
    let counted = |state: &str| lines.iter().skip(8).filter(|line| line.contains(state)).count();
    assert_eq!((counted("CLOSE_WAIT"), counted("CLOSED")), (11, 1), "{lines:#?}");
}

/// On a busy server most that there was is gone.
#[test]
fn what_is_there_comes_before_what_is_gone() {
    let mut seen = ill("server");
    let gone = |cookie| Connection { cookie, closed: Some(Moment::At(1)), ..Connection::default() };
    seen.connections.as_mut().unwrap().connections.insert(0, gone(0));
    let mut model = Model::new(Some(4242));
    model.update(picture(seen), Duration::ZERO);
    let lines = screen(&model, 80, 24);
    let place = |state: &str| lines.iter().position(|line| line.contains(state)).unwrap();
    assert!(place("CLOSED") > lines.iter().rposition(|line| line.contains("CLOSE_WAIT")).unwrap(), "{lines:#?}");
}

#[test]
fn a_verdict_is_opened_read_and_closed() {
    let mut model = watched();
    assert_eq!(key(&mut model, KeyCode::Enter), None);
    let text = screen(&model, 80, 40).join("\n");
    for part in ["VERDICT close-wait-pileup", "EVIDENCE", "REJECTED", "FIX", "overdue explain close-wait-pileup"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    key(&mut model, KeyCode::End);
    assert!(screen(&model, 80, 16).join("\n").contains("overdue explain"));
    // What is read stays there when it is over.
    model.update(picture(Observation { window_us: 8_000_000, ..Observation::default() }), Duration::from_secs(2));
    key(&mut model, KeyCode::Home);
    let text = screen(&model, 80, 40).join("\n");
    assert!(text.contains("no longer found") && text.contains("EVIDENCE"), "{text}");
    assert_eq!(key(&mut model, KeyCode::Char('q')), None, "it closes the page, not the program");
    assert!(screen(&model, 80, 24).join("\n").contains("nothing wrong is found in the last 8s"));
    assert_eq!(key(&mut model, KeyCode::Char('q')), Some(Effect::Quit));
}

#[test]
fn connections_are_filtered_sorted_and_looked_at() {
    let mut model = watched();
    keys(&mut model, "c/50000");
    assert!(screen(&model, 80, 24)[6].starts_with("c:CONNECTIONS 1 of 13 with \"50000\""));
    // In a filter letters are letters.
    keys(&mut model, "q");
    key(&mut model, KeyCode::Backspace);
    key(&mut model, KeyCode::Enter);
    key(&mut model, KeyCode::Enter);
    let text = screen(&model, 80, 40).join("\n");
    for part in ["CONNECTION 10.0.0.1:8080 - 10.0.0.3:50000", "GET /slow", "handle", "2s or longer"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    key(&mut model, KeyCode::Esc);
    key(&mut model, KeyCode::Esc);
    assert!(screen(&model, 80, 24)[6].starts_with("c:CONNECTIONS 13"));
    // By peer, the last first.
    keys(&mut model, "ssssssr");
    let table = model.table().unwrap();
    assert_eq!((table.sort, table.reversed), (0, true));
    assert_eq!(table.shown().next().unwrap().cells[0].text, "10.0.0.3:50000");
}

#[test]
fn what_cannot_be_seen_is_said_with_the_remedy() {
    let mut model = Model::new(Some(4242));
    let hidden = Hidden { what: "stacks".to_owned(), why: "no BPF".to_owned(), how: "run as root".to_owned() };
    model.update(picture(Observation { not_visible: vec![hidden], ..ill("server") }), Duration::ZERO);
    assert!(screen(&model, 80, 24)[3].ends_with("n: 1 not visible"));
    keys(&mut model, "n");
    assert!(screen(&model, 80, 24).join("\n").contains("stacks: no BPF. To see it: run as root"));
}

#[test]
fn threads_and_descriptors_have_their_views() {
    let mut model = watched();
    key(&mut model, KeyCode::Tab);
    key(&mut model, KeyCode::Tab);
    let text = screen(&model, 80, 24).join("\n");
    assert!(text.contains("epoll_wait") && text.contains("2.5s"), "{text}");
    key(&mut model, KeyCode::Enter);
    assert!(screen(&model, 80, 24).join("\n").contains("THREAD 4242 server"));
    key(&mut model, KeyCode::Esc);
    keys(&mut model, "d");
    assert!(screen(&model, 80, 24).iter().any(|line| line.starts_with("tcp ") && line.contains("+3")));
    key(&mut model, KeyCode::Tab);
    assert!(screen(&model, 80, 24)[5].starts_with("close-wait"), "round to the verdicts");
}

#[test]
fn the_list_leads_to_a_process_and_back() {
    let mut model = all_processes();
    let lines = screen(&model, 80, 12);
    assert_eq!(lines[1], "7 not visible to this user: `overdue doctor` tells what it takes");
    assert!(lines[4].contains("redis-server") && lines[4].contains("1m01s") && lines[4].ends_with("900/1024"));
    key(&mut model, KeyCode::Down);
    assert_eq!(key(&mut model, KeyCode::Enter), Some(Effect::Attach(10)));
    assert_eq!(screen(&model, 80, 12)[0], "nginx (10)");
    assert!(screen(&model, 80, 12)[3].starts_with("attaching..."));
    model.update(Input::Failed("nothing of process 10 can be seen".to_owned()), Duration::from_secs(1));
    assert_eq!(screen(&model, 80, 12)[3], "nothing of process 10 can be seen");
    assert_eq!(key(&mut model, KeyCode::Esc), Some(Effect::Detach));
    assert_eq!(model.table().unwrap().selected(), Some(10), "where it was");
}

#[test]
fn a_picture_is_held_grows_old_and_may_be_the_last() {
    let mut model = watched();
    model.update(Input::Redraw, Duration::from_millis(4_200));
    assert!(screen(&model, 80, 24)[3].contains("STALE, 3.2s old"));
    keys(&mut model, "p");
    let other = Observation { process: Process { name: "other".to_owned(), ..Process::default() }, ..ill("x") };
    model.update(picture(other), Duration::from_secs(5));
    let lines = screen(&model, 80, 24);
    assert!(lines[0].starts_with("server") && lines[3].contains("HELD, 4.0s old"), "{lines:#?}");
    keys(&mut model, "p");
    model.update(Input::Ended, Duration::from_secs(6));
    let lines = screen(&model, 80, 24);
    assert!(lines[3].contains("IT HAS ENDED") && lines[5].starts_with("close-wait"), "{lines:#?}");
    assert_eq!(key(&mut model, KeyCode::Char('q')), Some(Effect::Quit));
}

#[test]
fn ctrl_c_quits_from_anywhere() {
    for before in ["", "/x", "?", "c"] {
        let mut model = watched();
        keys(&mut model, before);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(model.update(Input::Key(control), Duration::ZERO), Some(Effect::Quit), "{before:?}");
    }
}

#[test]
fn nobody_but_us_steers_the_terminal() {
    let mut model = Model::new(Some(4242));
    model.update(picture(ill("a\u{1b}[2J\u{202e}\u{7}\n\u{4f60}\u{597d}\u{301}")), Duration::ZERO);
    keys(&mut model, "t");
    for width in [40, 41, 80] {
        let terminal = terminal(&model, COLOURS, width, 24);
        let cells = &terminal.backend().buffer().content;
        for cell in cells {
            assert!(!cell.symbol().chars().any(|c| c.is_control() || c == '\u{202e}'), "{:?}", cell.symbol());
        }
        let text = screen(&model, width, 24).join("\n");
        assert!(text.contains("a?[2J???\u{4f60}"), "{text}");
    }
    assert!(screen(&all_processes(), 80, 12).join("\n").contains("ng?[31mbad"));
}

#[test]
fn colours_only_for_those_who_want_them() {
    let used = |palette| {
        let terminal = terminal(&watched(), palette, 80, 24);
        let cells = terminal.backend().buffer().content.clone();
        let coloured = cells.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        (coloured, cells.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)))
    };
    assert_eq!(used(PLAIN), (false, true));
    assert!(used(COLOURS).0);
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    assert_eq!(screen(&watched(), 39, 5)[0], "too small: 40 x 10 at least");
}

fn any_key() -> impl Strategy<Value = KeyEvent> {
    let code = prop_oneof![
        prop::char::any().prop_map(KeyCode::Char),
        prop::sample::select("qjkgG/?sr<>pvctdn ".chars().collect::<Vec<_>>()).prop_map(KeyCode::Char),
        prop::sample::select(vec![
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Tab,
            KeyCode::BackTab,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::PageDown,
            KeyCode::PageUp,
            KeyCode::Home,
            KeyCode::End,
            KeyCode::Backspace,
            KeyCode::F(1),
        ]),
    ];
    (code, any::<bool>()).prop_map(|(code, control)| {
        KeyEvent::new(code, if control { KeyModifiers::CONTROL } else { KeyModifiers::NONE })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is pressed, however large the terminal is, whatever a process is called: something is drawn.
    #[test]
    fn no_key_and_no_size_breaks_it(
        pressed in prop::collection::vec((any_key(), 1..120_u16, 1..50_u16), 1..30),
        name in "\\PC{0,15}|[\u{1b}\r\n\u{202e}\u{4f60}a]{0,15}",
        list: bool,
    ) {
        let mut model = if list { all_processes() } else { watched() };
        for (step, (key, width, height)) in pressed.into_iter().enumerate() {
            let now = Duration::from_millis(step as u64 * 700);
            let effect = model.update(Input::Key(key), now);
            if effect == Some(Effect::Detach) {
                prop_assert!(model.watched.is_none());
            }
            if step % 3 == 0 {
                let seen = if step % 2 == 0 { ill(&name) } else { Observation::default() };
                model.update(picture(seen), now);
            }
            let terminal = terminal(&model, COLOURS, width, height);
            let steers = |symbol: &str| symbol.chars().any(char::is_control);
            prop_assert!(!terminal.backend().buffer().content.iter().any(|cell| steers(cell.symbol())));
        }
    }
}
