//! Two gateways in a row: the second knows the deadline that the first has, and dies without anybody taking half for whole.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::bed::{Gate, PATIENCE, Setup, connect, read_head, server};

#[test]
fn a_server_that_is_killed_in_the_middle_of_bodies() {
    let behind = Gate::start(&Setup::new(&[server()]));
    let gate = Gate::start(&Setup::new(&[behind.front]));
    let kinds = [("/length", "HTTP/1.1"), ("/chunked", "HTTP/1.1"), ("/chunked", "HTTP/1.0")];
    let clients: Vec<_> = (0..51)
        .map(|number| {
            let (path, version) = kinds[number % kinds.len()];
            let mut stream = BufReader::new(connect(gate.front));
            write!(stream.get_mut(), "GET {path} {version}\r\nHost: a.test\r\n\r\n").unwrap();
            let head = read_head(&mut stream).unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let mut begin = vec![0; if head.to_ascii_lowercase().contains("chunked") { 9 } else { 4 }];
            stream.read_exact(&mut begin).unwrap();
            assert!(begin.starts_with(b"some") || begin.starts_with(b"4\r\nsome"), "{begin:?}");
            stream
        })
        .collect();
    behind.signal(Signal::KILL);
    for (number, mut stream) in clients.into_iter().enumerate() {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        // A body without a length ends with its connection: only a reset says that it was cut.
        let err = end.expect_err(&format!("{:?} looks whole after {rest:?}", kinds[number % kinds.len()]));
        assert_eq!((err.kind(), rest.len()), (std::io::ErrorKind::ConnectionReset, 0), "{err}");
    }
    let lines = gate.lines();
    assert_eq!(lines.len(), 51);
    for line in lines {
        assert!(line["cause"] == "closed-early" || line["cause"] == "peer-reset", "{line:#}");
    }
}

/// What a server that never answers saw of a request: when it came, what remained by then, and when it was given up.
struct Seen {
    came: Instant,
    remained: Duration,
    given_up: Instant,
}

fn silent() -> (SocketAddr, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (see, seen) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let see = see.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let head = read_head(&mut stream).unwrap().to_ascii_lowercase();
                let came = Instant::now();
                let (_, value) = head.split_once("x-envoy-expected-rq-timeout-ms: ").unwrap();
                let remained = Duration::from_millis(value.split('\r').next().unwrap().parse().unwrap());
                // Its end, however it comes.
                let _ = stream.read(&mut [0]);
                let _ = see.send(Seen { came, remained, given_up: Instant::now() });
            });
        }
    });
    (address, seen)
}

fn us(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}")) / 1e3
}

/// Milliseconds from `from` to `to`, which may be earlier.
fn between(from: Instant, to: Instant) -> f64 {
    if to >= from { (to - from).as_secs_f64() * 1e3 } else { -((from - to).as_secs_f64() * 1e3) }
}

/// What is asserted does not depend on how busy the machine is: the second gateway's limit is what the first had left when it
/// sent the request, less than a millisecond (and a reserve) below it and never above; no deadline is kept early by more than
/// that; and one of the requests, at least, was not held up by anything else and was given up within 2 ms of the truth.
#[test]
fn the_second_gateway_knows_the_deadline_of_the_first() {
    const REQUESTS: usize = 30;
    const DEADLINE_MS: f64 = 100.0;
    let (server, seen) = silent();
    let trusting = |server| Setup { listener: "trusted = [\"127.0.0.0/8\"]".to_owned(), ..Setup::new(&[server]) };
    let second = Gate::start(&trusting(server));
    let first = Gate::start(&trusting(second.front));
    // As the server saw it: what the second one believed, and what it did, each against the truth.
    let (mut believed, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        let mut stream = BufReader::new(connect(first.front));
        let asked = Instant::now();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-expected-rq-timeout-ms: {DEADLINE_MS}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
        let Seen { came, remained, given_up } = seen.recv_timeout(PATIENCE).unwrap();
        let truth = asked + Duration::from_millis(100);
        believed.push(between(truth, came + remained));
        kept.push(between(truth, given_up));
    }
    let (first, second) = (first.lines(), second.lines());
    assert_eq!((first.len(), second.len()), (REQUESTS, REQUESTS));
    // What the first one had left when it sent, and what the second one took for its limit. Where the first was faster to give
    // up, the second tells of no deadline: its client left.
    let left = first.iter().map(|line| {
        let timeline = line["timeline"].as_array().unwrap();
        let sent = timeline.iter().find(|span| span["stage"] == "send").unwrap();
        DEADLINE_MS - us(&sent["start_us"])
    });
    let own = second.iter().map(|line| (line["outcome"] == "timed-out").then(|| us(&line["limit"]["value_us"])));
    let short: Vec<f64> = left.zip(own).filter_map(|(left, own)| Some(left - own?)).collect();
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let reserve = if short.is_empty() { 0.0 } else { least(&short).floor() };
    for (what, values) in [("limit below what was left", &short), ("believed", &believed), ("kept", &kept)] {
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        let at = |share: usize| values.get(values.len() * share / 100).copied().unwrap_or(f64::NAN);
        println!(
            "{what}: {} of {REQUESTS}, ms: least {:.2}, half {:.2}, 9 of 10 {:.2}",
            values.len(),
            at(0),
            at(50),
            at(90)
        );
    }
    assert!((0.0..10.0).contains(&reserve), "{short:?}");
    // Rounded down to milliseconds; the last hundredth is the rounding of the log.
    assert!(short.iter().all(|short| (0.0..1.01).contains(&(short - reserve))), "{short:?}");
    // What the server is told has been through two reserves; the second one keeps to what is left after the first.
    for (values, hops) in [(&believed, 2.0), (&kept, 1.0)] {
        let off: Vec<f64> = values.iter().map(|value| value + hops * reserve).collect();
        assert!(least(&off) > -2.0, "early: {off:?}");
        assert!(off.iter().any(|off| off.abs() < 2.0), "{off:?}");
    }
}
