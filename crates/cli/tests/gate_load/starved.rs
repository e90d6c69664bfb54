//! A gateway that has too little of something, or too many clients: it says so, costs nothing meanwhile, and recovers.

use std::{
    io::{BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketType},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::bed::{Gate, PATIENCE, Setup, call, connect, read_head, server, until};

#[test]
fn no_descriptor_is_left() {
    // The connection to the server is kept for as long as this takes.
    let (listener, cluster) = ("head = \"5m\"".to_owned(), "idle = \"5m\"".to_owned());
    let setup = Setup { workers: 1, descriptors: Some(80), listener, cluster, ..Setup::new(&[server()]) };
    let gate = Gate::start(&setup);
    let mut good = BufReader::new(connect(gate.front));
    call(&mut good).unwrap();
    // So many that more than a few wait in the queue all the while, and are refused one by one.
    let idle: Vec<_> = (0..600).map(|_| connect(gate.front)).collect();
    until("all descriptors are in use", || (gate.descriptors() >= 75).then_some(()));
    let (busy, said, logged) = (gate.busy(), gate.said().len(), gate.log_length());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        // Who is connected already is served.
        call(&mut good).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    let (busy, took) = (gate.busy() - busy, begun.elapsed());
    assert!(busy < took / 4, "{busy:?} of processor time in {took:?}");
    assert!(gate.said().len() - said < 10 && gate.log_length() - logged < 64 * 1024, "{:#?}", gate.said());
    let refused = idle.iter().filter(|stream| {
        stream.set_nonblocking(true).unwrap();
        let mut answer = [0; 256];
        (&mut &**stream).read(&mut answer).is_ok_and(|bytes| answer[..bytes].starts_with(b"HTTP/1.1 503 "))
    });
    assert!(refused.count() > 10, "those who wait are told");
    drop(idle);
    let freed = Instant::now();
    until("it serves again", || {
        let mut stream = BufReader::new(connect(gate.front));
        call(&mut stream).ok()
    });
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    assert!(gate.metric("overdue_gate_refused_total") > 10.0);
    until("it knows that it has recovered", || (gate.metric("overdue_gate_exhausted") == 0.0).then_some(()));
}

#[test]
fn too_many_connections() {
    let setup = Setup { listener: "connections = 20".to_owned(), ..Setup::new(&[server()]) };
    let gate = Gate::start(&setup);
    let begun = Instant::now();
    let served: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = BufReader::new(connect(gate.front));
            call(&mut stream).unwrap();
            stream
        })
        .collect();
    for _ in 0..100 {
        let mut stream = BufReader::new(connect(gate.front));
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: 1\r\n"), "{head}");
    }
    assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
    drop(served);
    until("there is room again", || call(&mut BufReader::new(connect(gate.front))).ok());
}

/// This machine may allow fewer: then it is as many as it allows, and told.
fn as_many_as_may_be(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }).unwrap();
    let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(500);
    if most < wanted {
        println!("this machine allows {most} descriptors: so many connections instead of {wanted}");
    }
    wanted.min(most)
}

/// Where half of the ports of one address are in use, the kernel looks for long for another.
fn connect_from(own: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(own, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn fifteen_thousand_idle_connections() {
    let count = as_many_as_may_be(15_000);
    let listener = "connections = 16000\nidle = \"10m\"".to_owned();
    let gate = Gate::start(&Setup { listener, ..Setup::new(&[server()]) });
    call(&mut BufReader::new(connect(gate.front))).unwrap();
    let before = gate.memory();
    let front = gate.front;
    // Each has been of use once.
    let clients: Vec<_> = (2..12)
        .map(|number| {
            thread::spawn(move || -> Vec<TcpStream> {
                let one = |_| {
                    let mut stream = BufReader::new(connect_from(Ipv4Addr::new(127, 0, 0, number), front));
                    call(&mut stream).unwrap();
                    stream.into_inner()
                };
                (0..count / 10).map(one).collect()
            })
        })
        .collect();
    let idle: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(gate.metric("overdue_gate_connections"), idle.len() as f64);
    let each = gate.memory().saturating_sub(before) / idle.len();
    println!("{} idle connections, {each} bytes each", idle.len());
    assert!(each < 8 * 1024, "{each} bytes for each connection");
    // They are in nobody's way, and all are still there.
    let begun = Instant::now();
    call(&mut BufReader::new(connect(front))).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for stream in idle.iter().step_by(1000) {
        call(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
    }
    drop(idle);
    until("all are let go", || (gate.metric("overdue_gate_connections") == 0.0).then_some(()));
}

/// Heads, bodies and readers that take their time.
#[test]
fn slow_clients() {
    let limits = "send = \"2s\"\ngap = \"1s\"".to_owned();
    let setup = Setup { listener: "head = \"2s\"".to_owned(), limits, ..Setup::new(&[server()]) };
    let gate = Gate::start(&setup);
    let attacks = [
        ("/big", vec!["-H", "-i", "1", "-x", "8"]),
        ("/upload", vec!["-B", "-i", "1", "-x", "8", "-s", "8192"]),
        ("/big", vec!["-X", "-n", "1", "-z", "8", "-w", "256", "-y", "512", "-k", "1"]),
    ];
    let mut running = Vec::new();
    for (path, attack) in attacks {
        let url = format!("http://{}{path}", gate.front);
        let mut command = Command::new("slowhttptest");
        command.args(&attack).args(["-c", "100", "-r", "50", "-l", "6", "-p", "5", "-u", &url]);
        match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => running.push(child),
            Err(err) => {
                let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
                assert!(!ci, "slowhttptest is missing: .ci/run installs it: {err}");
                println!("slowhttptest is not installed: skipped");
                return;
            }
        }
    }
    // Good clients, old and new, all the while.
    let mut kept = BufReader::new(connect(gate.front));
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while running.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        let begun = Instant::now();
        call(&mut kept).unwrap();
        call(&mut BufReader::new(connect(gate.front))).unwrap();
        slowest = slowest.max(begun.elapsed());
        served += 2;
        thread::sleep(Duration::from_millis(10));
    }
    println!("{served} good requests beside the slow ones, the slowest pair in {slowest:?}");
    assert!(served > 20 && slowest < PATIENCE / 3, "{served}, {slowest:?}");
    assert!(gate.metric("overdue_gate_connections_total") > 200.0);
    let lines = gate.lines();
    for (stage, termination) in [("head", "cR"), ("send", "cH"), ("receive", "cD")] {
        let is = |line: &&serde_json::Value| line["stage"] == stage && line["gate"]["termination"] == termination;
        let count = lines.iter().filter(is).count();
        let others: std::collections::BTreeSet<_> =
            lines.iter().map(|line| format!("{} {}", line["stage"], line["gate"]["termination"])).collect();
        assert!(count > 20, "{count} slow clients at {stage}: {others:?}");
    }
}
