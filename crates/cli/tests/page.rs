//! The page of `overdue why --html`: what a browser gets, whatever the names, paths and bytes were that it shows.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use overdue_core::facts::{TcpInfo, TcpState};
use overdue_lab::target::Target;
use overdue_why::{
    Observation,
    observation::{
        BlockedIn, Call, CallCount, Calls, Connection, Connections, Cpu, DnsExchange, FdKind, Fds, Frame, Gaps, Go,
        GoroutineGroup, Hidden, History, HotStack, HttpHead, Look, Moment, Opener, PeerFds, Process, Reading, Resolved,
        Runtime, Side, Sockets, SourceHandshakes, Stack, TcpCounts, TcpSocket, Thread, ThreadCounts, ThreadState,
        Threads, Throttling, TlsHandshake, WaitStack, WaitsFor,
    },
    recording,
};
use ring::digest::{SHA256, digest};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;

/// No page is larger, whatever was seen.
const MAX_BYTES: usize = 4 << 20;

/// A folder that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("overdue-page-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

fn why(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overdue"));
    command.arg("why").args(args).env("NO_COLOR", "1").env("COLUMNS", "80").stdin(Stdio::null());
    command.output().unwrap()
}

/// The page of a recording.
fn page_of(name: &str, seen: &Observation) -> String {
    let scratch = Scratch::new(name);
    let (recorded, page) = (scratch.path("recording"), scratch.path("page.html"));
    recording::write(fs::File::create(&recorded).unwrap(), seen).unwrap();
    let output = why(&["--replay", &recorded, "--html", &page]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let html = fs::read_to_string(&page).unwrap();
    // Nothing else is left behind.
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
    html
}

fn parse(html: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(html, options).unwrap_or_else(|error| panic!("{error}"))
}

fn named<'a>(page: &'a Document<'a>, name: &'static str) -> Vec<Node<'a, 'a>> {
    page.descendants().filter(|node| node.has_tag_name(name)).collect()
}

/// Every element is closed, there is no element and no attribute but those that the page is made of, nothing leads out of
/// it, and its policy fits its style and its script.
#[track_caller]
fn check(html: &str) {
    const ELEMENTS: &str = "html head meta title style script body header main section article div p h1 h2 h3 span small b \
        code ul ol li table thead tbody tr th td details summary figure figcaption svg g rect line path pattern text";
    const ATTRIBUTES: &str = "lang charset http-equiv content name class id role tabindex scope title width height x y x1 \
        x2 y1 y2 d fill viewBox preserveAspectRatio patternUnits text-anchor";
    assert!(html.starts_with("<!DOCTYPE html>\n<html"));
    assert!(html.len() <= MAX_BYTES, "{} bytes", html.len());
    let steers = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(html.chars().find(|c| steers(*c)), None);
    let page = parse(html);
    for node in page.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(ELEMENTS.split_whitespace().any(|known| known == name), "<{name}>");
        for attribute in node.attributes() {
            let name = attribute.name();
            let known = name.starts_with("aria-") || ATTRIBUTES.split_whitespace().any(|known| known == name);
            assert!(known, "{name}={:?}", attribute.value());
        }
        assert!(node.attribute("fill").is_none_or(|fill| fill == "url(#inferred)"));
    }
    let metas = named(&page, "meta");
    let policy = metas.iter().find(|meta| meta.attribute("http-equiv").is_some()).unwrap();
    let policy = policy.attribute("content").unwrap();
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let [code] = named(&page, element).try_into().unwrap_or_else(|all| panic!("{element}: {all:?}"));
        let hash = STANDARD.encode(digest(&SHA256, code.text().unwrap().as_bytes()));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{directive}: {policy}");
    }
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for outside in ["http://", "https://", "@import", "url(//"] {
        let style = named(&page, "style")[0].text().unwrap();
        assert!(!style.contains(outside), "{outside}");
    }
}

/// The page of a real program, with its text beside it.
#[test]
fn a_page_of_a_program_that_is_ill() {
    let scratch = Scratch::new("target");
    let file = scratch.path("page.html");
    let target = Target::named("fd-leak").unwrap();
    let running = target.start().unwrap();
    let output = why(&["--for", "3s", "--html", &file, "--pid", &running.pid().to_string()]);
    drop(running);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(str::from_utf8(&output.stdout).unwrap().contains("VERDICT fd-leak"), "{output:?}");
    assert!(str::from_utf8(&output.stderr).unwrap().contains(&file), "{output:?}");
    let html = fs::read_to_string(&file).unwrap();
    check(&html);
    let page = parse(&html);
    assert!(named(&page, "title")[0].text().unwrap().starts_with("fd-leak: "));
    let has = |text: &str| page.descendants().any(|node| node.text().is_some_and(|own| own.contains(text)));
    for part in ["Fix", "Evidence", "States over time", "Open descriptors", "Memory", "Threads by state"] {
        assert!(has(part), "no {part:?}");
    }
    let charts = page.descendants().filter(|node| node.attribute("class") == Some("plot"));
    let leak = charts.filter_map(|chart| chart.attribute("aria-label")).find(|text| text.contains("descriptors"));
    assert!(leak.is_some_and(|text| text.contains("from ")), "{leak:?}");
}

#[test]
fn a_page_that_cannot_be_written_costs_no_report() {
    let scratch = Scratch::new("unwritable");
    let recorded = scratch.path("recording");
    recording::write(fs::File::create(&recorded).unwrap(), &observation()).unwrap();
    let page = scratch.path("page.html");
    fs::write(&page, "of yesterday").unwrap();
    // A file that cannot grow, as on a disk that is full.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" why --replay \"$1\" --html \"$2\""])
        .args([env!("CARGO_BIN_EXE_overdue"), &recorded, &page])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(str::from_utf8(&output.stdout).unwrap().contains("VERDICT"), "{output:?}");
    assert!(str::from_utf8(&output.stderr).unwrap().contains(&format!("cannot write {page}")), "{output:?}");
    assert_eq!(fs::read_to_string(&page).unwrap(), "of yesterday");
    // What shows at once is said before anything is watched.
    let pipe = scratch.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (nowhere, said) in [
        (scratch.path("no/such/folder/page.html"), "no folder"),
        ("/".to_owned(), "a folder"),
        ("/proc/page.html".to_owned(), "no file can be made in /proc"),
        (pipe, "a pipe"),
        ("/dev/stdout".to_owned(), "a symbolic link"),
        ("-".to_owned(), "stdout has the report"),
        (recorded.clone(), "cannot be one file"),
        (scratch.path("./recording"), "cannot be one file"),
    ] {
        let output = why(&["--replay", &recorded, "--html", &nowhere]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
        assert!(str::from_utf8(&output.stderr).unwrap().contains(said), "{output:?}");
    }
}

#[test]
fn an_empty_observation_is_a_page() {
    check(&page_of("empty", &Observation::default()));
}

#[test]
fn a_remedy_is_told_once_for_all_that_it_shows() {
    let hidden =
        |what: &str, how: &str| Hidden { what: what.to_owned(), why: "refused".to_owned(), how: how.to_owned() };
    let not_visible = vec![hidden("lives", "be root"), hidden("sockets", "enter"), hidden("loops", "be root")];
    let html = page_of("remedies", &Observation { not_visible, ..Observation::default() });
    check(&html);
    assert_eq!((html.matches("be root").count(), html.matches("enter<").count()), (1, 1));
    assert!(html.contains("lives; loops"));
}

/// What could leave its place in a page, steer a reader's eyes, or end a text.
const HOSTILE: &str = "</p></script></style><script>alert(1)</script><img src=x onerror='alert(2)'>\" onload=\"x\" ]]>\
    <!--\u{202e}\u{2066}\u{200b}\u{1b}[2J\0\r\n&amp;&#60;`";

/// Every text of an observation becomes a hostile one, wherever the observation is then still one.
#[test]
fn hostile_texts_stay_texts() {
    let mut value = serde_json::to_value(observation()).unwrap();
    let mut places = Vec::new();
    texts(&value, &mut String::new(), &mut places);
    let mut hostile = 0;
    for (number, place) in places.iter().enumerate() {
        let text = value.pointer_mut(place).unwrap();
        let before = std::mem::replace(text, Value::String(format!("mark{number:03} {HOSTILE}")));
        if serde_json::from_value::<Observation>(value.clone()).is_ok() {
            hostile += 1;
        } else {
            // A state, a call, an address.
            *value.pointer_mut(place).unwrap() = before;
        }
    }
    assert!(hostile >= 50, "{hostile} of {}", places.len());
    let html = page_of("hostile", &serde_json::from_value(value).unwrap());
    check(&html);
    let page = parse(&html);
    // They are there, as texts.
    let texts: Vec<&str> = page.descendants().filter_map(|node| node.text()).collect();
    let is_shown = |number: &usize| texts.iter().any(|text| text.contains(&format!("mark{number:03}")));
    let shown = (0..places.len()).filter(is_shown).count();
    assert!(shown >= 25, "{shown} of {hostile}");
    assert!(texts.iter().any(|text| text.contains("<script>alert(1)</script>")));
}

/// The places of all texts.
fn texts(value: &Value, place: &mut String, places: &mut Vec<String>) {
    let mut below = |key: String, value: &Value| {
        let length = place.len();
        place.push('/');
        place.push_str(&key);
        texts(value, place, places);
        place.truncate(length);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| below(key.clone(), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| below(at.to_string(), value)),
        Value::String(_) => places.push(place.clone()),
        _ => {}
    }
}

/// More of everything than a page has room for.
#[test]
fn a_page_is_never_too_large() {
    let mut seen = observation();
    let long = "'\"<>".repeat(600);
    seen.process.command = vec![long.clone(); 64];
    seen.not_visible = vec![Hidden { what: long.clone(), why: long.clone(), how: long.clone() }; 80];
    let connections = seen.connections.as_mut().unwrap();
    let first = connections.connections[0].clone();
    connections.connections = (0..80)
        .map(|cookie| {
            let mut one = Connection { cookie, ..first.clone() };
            let http = one.http.as_mut().unwrap();
            (http.request, http.host) = (long.clone(), Some(long.clone()));
            one
        })
        .collect();
    let reading = |at: u64| Reading { at_us: at * 10, value: at };
    seen.fds.as_mut().unwrap().open = (0..5_000).map(reading).collect();
    let look = seen.history.as_ref().unwrap().looks[0].clone();
    seen.history.as_mut().unwrap().looks = (0..1_000).map(|at_us| Look { at_us, ..look.clone() }).collect();
    let wait = seen.threads.as_ref().unwrap().waits.as_ref().unwrap()[0].clone();
    let frame = |at: u32| Frame { function: Some(format!("{at} {long}")), ..Frame::default() };
    let stack = |of: u32| Stack { frames: (0..25).map(|at| frame(of * 100 + at)).collect(), cut: None };
    let waits = (0..25).map(|at| WaitStack { stack: stack(at), ..wait.clone() });
    seen.threads.as_mut().unwrap().waits = Some(waits.collect());
    let html = page_of("large", &seen);
    check(&html);
    assert!(html.len() > 1 << 20, "{} bytes: not large enough to say anything", html.len());
    assert!(html.contains("There was too much to show"), "{} bytes", html.len());
}

/// Something in every table.
fn observation() -> Observation {
    let stack = Stack {
        frames: vec![
            Frame { function: Some("epoll_wait".to_owned()), at: Some("loop.c:7".to_owned()), module: None },
            Frame { function: None, at: None, module: Some("/usr/lib/libx.so+0x10".to_owned()) },
        ],
        cut: Some("no frame pointers".to_owned()),
    };
    let text = str::to_owned;
    let some = |text: &str| Some(text.to_owned());
    let readings = |values: [u64; 3]| {
        values
            .into_iter()
            .zip([0, 1_000_000, 2_000_000])
            .map(|(value, at_us)| Reading { at_us, value })
            .collect::<Vec<_>>()
    };
    let moment = |us: u64| Some(Moment::At(us));
    let connection = Connection {
        cookie: 1,
        local: "10.0.0.2:40000".parse().ok(),
        remote: "10.0.0.7:80".parse().ok(),
        side: Side::Client,
        opened: moment(10_000),
        established: moment(20_000),
        written_bytes: 80,
        first_write: moment(30_000),
        last_write: moment(30_000),
        read_gaps: Gaps::default(),
        resolved: Some(Resolved { name: text("api.test"), sent_us: 0, duration_us: 9_000 }),
        http: Some(HttpHead {
            request: text("GET /slow"),
            host: some("api.test"),
            requested: moment(30_000),
            deadline_us: Some((text("x-timeout"), 1_000_000)),
            ..HttpHead::default()
        }),
        ..Connection::default()
    };
    let shaking = Connection {
        cookie: 2,
        http: None,
        remote: "10.0.0.9:443".parse().ok(),
        tls: Some(TlsHandshake {
            client: true,
            sni: some("tls.test"),
            alpn: vec![text("h2")],
            version: Some(0x0304),
            hello: moment(30_000),
            not_tls: some("HTTP/1.1 400"),
            ..TlsHandshake::default()
        }),
        ..connection.clone()
    };
    let socket = |cookie: u64| TcpSocket {
        fd: Some(7),
        in_state_us: 3_000_000,
        unsent_bytes: 9,
        last: Some(TcpInfo { rtt_us: 300, total_retrans: 2, ..TcpInfo::default() }),
        last_seen_us: 3_000_000,
        ..TcpSocket::new(
            cookie,
            "10.0.0.2:40000".parse().unwrap(),
            "10.0.0.7:80".parse().unwrap(),
            TcpState::Established,
        )
    };
    let look = |at_us: u64| Look {
        at_us,
        tcp: Some(TcpCounts { states: vec![(TcpState::Established, 2 + at_us)], unread_bytes: at_us, unsent_bytes: 9 }),
        threads: Some(ThreadCounts { running: 1, sleeping: 2, uninterruptible: 1, other: 0 }),
        cpu_us: Some(at_us / 2),
    };
    Observation {
        window_us: 3_000_000,
        process: Process {
            pid: 7,
            name: text("server"),
            exe: some("/usr/bin/server"),
            command: vec![text("server"), text("--port=80")],
            runtime: Runtime::Go { version: text("go1.26.1") },
            children: vec![8, 9],
            ..Process::default()
        },
        fds: Some(Fds {
            soft_limit: 64,
            hard_limit: 64,
            open: readings([20, 40, 64]),
            by_kind: vec![FdKind { kind: text("file"), first: 10, last: 60, example: some("/tmp/x") }],
            by_peer: vec![PeerFds { peer: text("10.0.0.7:80"), first: 1, last: 2 }],
            openers: Some(vec![Opener { stack: stack.clone(), call: text("openat"), still_open: 44 }]),
        }),
        sockets: Some(Sockets { tcp: vec![socket(1), socket(3)], rounds: 12, ..Sockets::default() }),
        threads: Some(Threads {
            first: 2,
            last: 2,
            threads: vec![Thread {
                tid: 7,
                name: text("worker"),
                state: ThreadState::Sleeping,
                wchan: some("ep_poll"),
                blocked_in: Some(BlockedIn {
                    call: text("epoll_wait"),
                    fd: Some(7),
                    what: some("tcp 10.0.0.7:80"),
                    cookie: Some(1),
                    waits_for: vec![WaitsFor { fd: 7, events: 1, what: some("tcp 10.0.0.7:80"), cookie: Some(1) }],
                    timeout_us: None,
                    held_by: None,
                    peer_pid: None,
                }),
                calls: vec![(text("epoll_wait"), 12)],
                blocked_us: 3_000_000,
                since_before: true,
                stack: Some(stack.clone()),
                ..Thread::default()
            }],
            left_out: 0,
            waits: Some(vec![WaitStack {
                stack: stack.clone(),
                thread: text("worker"),
                waited_us: 2_900_000,
                times: 4,
                longest_us: 1_000_000,
            }]),
        }),
        cpu: Some(Cpu {
            user_us: 900_000,
            system_us: 100_000,
            processors: 2.0,
            throttling: Some(Throttling { group: text("/system.slice/x"), ..Throttling::default() }),
            rss_bytes: readings([1_000_000, 2_000_000, 3_000_000]),
            hot: Some(vec![HotStack { stack: stack.clone(), thread: text("worker"), samples: 90 }]),
            samples: 90,
            ..Cpu::default()
        }),
        calls: Some(Calls {
            looked_us: 300_000,
            counts: vec![CallCount {
                call: Call::Connect,
                errno: 111,
                count: 5,
                peer: some("10.0.0.8:80"),
                fd: None,
                stack: Some(stack.clone()),
            }],
        }),
        connections: Some(Connections {
            connections: vec![connection, shaking],
            opened: 2,
            handshakes: vec![SourceHandshakes {
                source: text("10.0.0.66"),
                begun: 900,
                completed: 0,
                failed: 900,
                sni: some("tls.test"),
                alert: Some(48),
            }],
            dns: vec![DnsExchange {
                name: text("api.test"),
                kind: 1,
                server: text("10.0.0.53"),
                sent: 2,
                ..DnsExchange::default()
            }],
            ..Connections::default()
        }),
        go: Some(Go {
            version: text("go1.26.1"),
            goroutines: readings([10, 200, 400]),
            heap_bytes: readings([1 << 20, 2 << 20, 4 << 20]),
            live_bytes: readings([1 << 20, 2 << 20, 4 << 20]),
            groups: vec![GoroutineGroup {
                wait_reason: some("chan receive"),
                stack,
                created_by: some("main.serve"),
                first: 10,
                last: 400,
                stayed: 10,
                ..GoroutineGroup::default()
            }],
            ..Go::default()
        }),
        history: Some(History { looks: vec![look(0), look(1_000_000), look(2_000_000)] }),
        not_visible: vec![Hidden { what: text("stacks"), why: text("no privilege"), how: text("run as `root`") }],
        ..Observation::default()
    }
}
