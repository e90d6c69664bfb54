//! Every limit fires in its stage, names who set it, and is told with the right status.

use std::{thread, time::Duration};

use crate::bed::{Bed, GET, OK, Server, field};

/// The line of `gate.toml` in which the tests put this limit.
fn origin(line: &serde_json::Value) -> &str {
    line["limit"]["origin"].as_str().unwrap()
}

#[test]
fn a_server_that_does_not_answer() {
    let server = Server::new(|peer| while peer.request().is_some() {});
    let bed = Bed::new(&[server.address], &[("limits", "wait = \"120ms\"")]);
    let mut client = bed.connect();
    let answer = client.call(GET);
    assert_eq!(answer.status, 504);
    let problem = answer.problem();
    assert_eq!((&problem["cause"], &problem["stage"]), (&"server-slow".into(), &"wait".into()));
    // Details are for those who are trusted.
    assert_eq!(problem["detail"], serde_json::Value::Null);
    // The connection is of use still.
    assert_eq!(client.call(GET).status, 504);
    let lines = bed.lines();
    assert_eq!(lines.len(), 2);
    let line = &lines[0];
    assert_eq!(
        (&line["outcome"], &line["stage"], &line["cause"]),
        (&"timed-out".into(), &"wait".into(), &"server-slow".into())
    );
    assert_eq!((origin(line), &line["limit"]["name"]), ("gate.toml:5", &"wait".into()));
    assert_eq!((&line["gate"]["termination"], &line["gate"]["flags"]), (&"sH".into(), &"UT".into()));
    assert!(
        line["verdicts"][0]["evidence"].as_array().unwrap().iter().any(|fact| fact["source"] == "tcp-info"),
        "{line:#}"
    );
}

/// What came for the request before it is no word about this one.
#[test]
fn a_server_that_does_not_answer_on_a_connection_that_was_kept() {
    for (limits, request, stage, cause) in [
        ("wait = \"200ms\"", GET.to_owned(), "wait", "server-slow"),
        // Nor where it takes nothing.
        (
            "send = \"600ms\"",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16000000\r\n\r\n{}", "x".repeat(16_000_000)),
            "send",
            "peer-not-reading",
        ),
    ] {
        let (go, goes) = std::sync::mpsc::channel::<()>();
        let goes = std::sync::Arc::new(std::sync::Mutex::new(goes));
        let server = Server::new(move |peer| {
            peer.request().unwrap();
            peer.client.send(OK);
            let _ = goes.lock().unwrap().recv();
        });
        let bed = Bed::new(&[server.address], &[("limits", limits)]);
        let mut client = bed.connect();
        assert_eq!(client.call(GET).status, 200);
        // Longer than any limit of the next request: that is what would be taken for time in which its bytes lay here.
        thread::park_timeout(Duration::from_millis(700));
        let mut writes = client.stream.try_clone().unwrap();
        let writing = thread::spawn(move || std::io::Write::write_all(&mut writes, request.as_bytes()));
        assert_eq!(client.answer().status, 504);
        drop(client);
        drop(go);
        let _ = writing.join();
        assert_eq!(server.connections(), 1);
        let lines = bed.lines();
        let line = &lines[1];
        assert_eq!((&line["stage"], &line["cause"]), (&stage.into(), &cause.into()), "{line:#}");
    }
}

#[test]
fn the_whole_ends_at_its_limit_in_whatever_stage() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
        while !peer.ends() {}
        peer.say("ended");
    });
    let bed = Bed::new(&[server.address], &[("limits", "total = \"200ms\"")]);
    let mut client = bed.connect();
    client.send(GET);
    assert!(client.head().contains("content-length: 100"));
    // An end that looked like any other would make the body look whole to some.
    let (rest, end) = client.rest();
    assert!(rest == b"abc" || rest.is_empty() && end.is_err(), "{rest:?}");
    assert!(end.is_err(), "it must look cut");
    assert_eq!(server.saw(), "ended");
    let line = bed.line();
    assert_eq!((&line["stage"], &line["cause"]), (&"receive".into(), &"body-stalled".into()), "{line:#}");
    assert_eq!((&line["limit"]["name"], &line["gate"]["termination"]), (&"total".into(), &"sD".into()));
    assert_eq!(line["gate"]["status"], 200);
}

#[test]
fn a_body_that_stops() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"150ms\"")]);
    let mut client = bed.connect();
    client.send(GET);
    client.head();
    let (rest, _) = client.rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    let line = bed.line();
    assert_eq!((&line["limit"]["name"], &line["cause"]), (&"gap".into(), &"body-stalled".into()), "{line:#}");
}

/// However long it had read before.
#[test]
fn a_client_that_stops_reading() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let piece = "x".repeat(1 << 16);
        use std::io::Write as _;
        while peer.client.stream.write_all(piece.as_bytes()).is_ok() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"700ms\"")]);
    let mut client = bed.connect();
    client.send(GET);
    client.head();
    // For longer, a second and more, than it will not read.
    for _ in 0..200 {
        let _ = client.exactly(1 << 10);
        thread::park_timeout(Duration::from_millis(5));
    }
    let log = bed.log();
    crate::bed::until("it is cut", || std::fs::read_to_string(&log).is_ok_and(|text| !text.is_empty()));
    let line = bed.line();
    let told = (&line["limit"]["name"], &line["cause"], &line["gate"]["termination"]);
    assert_eq!(told, (&"gap".into(), &"reader-slow".into(), &"cD".into()), "{line:#}");
}

#[test]
fn a_client_whose_head_does_not_come() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "head = \"150ms\"")]);
    let mut silent = bed.connect();
    // Byte by byte does not help: the limit is for the whole head.
    let mut drips = bed.connect();
    let mut writes = drips.stream.try_clone().unwrap();
    let dripping = thread::spawn(move || {
        use std::io::Write as _;
        for byte in GET.bytes().cycle().take(GET.len() - 1).chain(std::iter::repeat_n(b' ', 2000)) {
            if writes.write_all(&[byte]).is_err() {
                break;
            }
            thread::yield_now();
            std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(5)).unwrap_err();
        }
    });
    // Nobody has asked for anything: nobody is answered.
    assert_eq!(silent.rest().0, b"");
    let answer = drips.answer();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    assert_eq!(answer.problem()["cause"], "sender-slow");
    drop(drips);
    dripping.join().unwrap();
    assert_eq!(server.connections(), 0);
    let line = bed.line();
    assert_eq!(
        (&line["stage"], &line["limit"]["name"], &line["gate"]["termination"]),
        (&"head".into(), &"head".into(), &"cR".into()),
        "{line:#}"
    );
}

/// A slow upload is its client's fault, and is logged as that.
#[test]
fn a_client_whose_body_does_not_come() {
    let server = Server::new(|peer| while peer.request().is_some() {});
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"150ms\"")]);
    let mut client = bed.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    let line = bed.line();
    assert_eq!((&line["stage"], &line["cause"]), (&"send".into(), &"sender-slow".into()), "{line:#}");
    assert_eq!((&line["gate"]["termination"], &line["gate"]["flags"]), (&"cH".into(), &"SI".into()));
}

/// Who expects a word waits for the server until that comes, or the body begins without it.
#[test]
fn a_word_that_does_not_come() {
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("POST /go") {
                peer.client.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
    });
    let bed = Bed::new(&[server.address], &[("limits", "wait = \"200ms\"\ngap = \"150ms\"")]);
    let servers = (504, "wait", "server-slow", ["sH", "UT"]);
    let clients = (408, "gap", "sender-slow", ["cH", "SI"]);
    let cases = [
        ("/stay", "Content-Length: 100", "", servers),
        ("/stay", "Transfer-Encoding: chunked", "", servers),
        ("/stay", "Content-Length: 100", "abc", clients),
        ("/stay", "Transfer-Encoding: chunked", "64\r\n", clients),
        ("/go", "Content-Length: 100", "", clients),
        ("/go", "Transfer-Encoding: chunked", "", clients),
    ];
    for (path, framing, body, (status, ..)) in cases {
        let mut client = bed.connect();
        let fields = format!("Host: a\r\nExpect: 100-Continue\r\n{framing}");
        client.send(&format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\n{body}"));
        if path == "/go" {
            assert!(client.head().starts_with("HTTP/1.1 100 "));
        }
        assert_eq!(client.answer().status, status, "{path} {framing} {body}");
    }
    for (line, (path, framing, body, (_, limit, cause, known))) in bed.lines().iter().zip(cases) {
        let told = (&line["limit"]["name"], &line["cause"], &line["gate"]["termination"], &line["gate"]["flags"]);
        let expected = (&limit.into(), &cause.into(), &known[0].into(), &known[1].into());
        assert_eq!(told, expected, "{path} {framing} {body}: {line:#}");
        let summary = line["verdicts"][0]["summary"].as_str().unwrap();
        assert_eq!(summary.contains("does not ask for the body and did not answer"), limit == "wait", "{line:#}");
    }
}

/// One that knows no such word is not left alone for it.
#[test]
fn who_expects_a_word_takes_no_server_from_others() {
    let quiet = Server::new(|peer| {
        while let Some(head) = peer.request() {
            peer.say(head.split(' ').next().unwrap());
            if head.starts_with("GET") {
                peer.client.send(OK);
            }
        }
    });
    let other = Server::answering(OK);
    let bed = Bed::new(&[quiet.address, other.address], &[("limits", "wait = \"50ms\"")]);
    let mut late = 0;
    while late < 5 {
        let mut client = bed.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        late += usize::from(client.answer().status == 504);
    }
    let mut client = bed.connect();
    (0..30).for_each(|_| assert_eq!(client.call(GET).status, 200));
    assert!(quiet.seen.try_iter().any(|method| method == "GET"));
}

/// Something comes, so that no silence is ever long enough, but not as much as there has to be.
#[test]
fn a_client_whose_body_drips() {
    let server = Server::new(|peer| while peer.request().is_some() {});
    let bed = Bed::new(&[server.address], &[("listener", "body_rate = \"1000/800ms\"")]);
    let mut client = bed.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let dripping = drip(client.stream.try_clone().unwrap(), b"x", Duration::from_millis(20));
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (408, Some("close")));
    assert_eq!(answer.problem()["cause"], "sender-slow");
    drop(client);
    dripping.join().unwrap();
    let line = bed.line();
    assert_eq!((&line["stage"], &line["cause"]), (&"send".into(), &"sender-slow".into()), "{line:#}");
    assert_eq!((&line["limit"]["name"], origin(&line)), (&"rate".into(), "gate.toml:12"));
    assert_eq!((&line["gate"]["termination"], &line["gate"]["flags"]), (&"cH".into(), &"SI".into()));
    let verdict = line["verdicts"][0].to_string();
    assert!(verdict.contains("waited for the request body"), "{verdict}");
}

/// Writes this again and again until nobody takes it any more.
fn drip(mut to: std::net::TcpStream, what: &'static [u8], every: Duration) -> thread::JoinHandle<()> {
    use std::io::Write as _;
    let (_never, comes) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || {
        let _never = _never;
        while to.write_all(what).is_ok() {
            let _ = comes.recv_timeout(every);
        }
    })
}

/// As much as is asked for, for longer than the time in which it is; and what comes at once while the server takes nothing.
/// What it took of the whole is not its server's, in whichever stage that ends.
#[test]
fn a_client_whose_body_takes_most_of_the_whole() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "total = \"1200ms\"")]);
    let mut client = bed.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    thread::park_timeout(Duration::from_millis(900));
    client.send("again");
    assert_eq!(client.answer().status, 504);
    let line = bed.line();
    assert_eq!((&line["stage"], &line["cause"]), (&"wait".into(), &"sender-slow".into()), "{line:#}");
    assert_eq!(&line["verdicts"][0]["stage"], "send", "{line:#}");
}

#[test]
fn a_body_that_comes_is_not_too_slow() {
    use std::io::{Read as _, Write as _};
    const LONG: usize = 30_000_000;
    let (_never, comes) = std::sync::mpsc::channel::<()>();
    let wait = |ms| {
        let _ = comes.recv_timeout(Duration::from_millis(ms));
    };
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            let length: usize = field(&head, "content-length").unwrap().parse().unwrap();
            if length == LONG {
                let (_never, comes) = std::sync::mpsc::channel::<()>();
                let _ = comes.recv_timeout(Duration::from_millis(1600));
            }
            peer.client.exactly(length);
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[("listener", "body_rate = \"10/1s\"")]);
    let mut client = bed.connect();
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n");
    // It waits to be asked for its body, for all that anybody knows.
    wait(1200);
    for _ in 0..15 {
        client.send(&"x".repeat(20));
        wait(100);
    }
    assert_eq!(client.answer().status, 200);
    client.send(&format!("POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n"));
    let mut writes = client.stream.try_clone().unwrap();
    let writing = thread::spawn(move || writes.write_all(&vec![b'x'; LONG]).unwrap());
    let mut first = [0; 12];
    client.stream.read_exact(&mut first).unwrap();
    writing.join().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

/// A caller's short time ends a connect that its own limit would let go on; it is told as what it is, and the server that
/// does not come up is left alone all the same.
#[test]
fn a_server_that_does_not_come_up_in_a_short_time() {
    // Its queue is full: what comes is dropped, as if it were not there.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let server = Server::answering(OK);
    let bed = Bed::new(&[address, server.address], &[("limits", "total = \"1200ms\"")]);
    let mut client = bed.connect();
    let answers: Vec<_> = (0..30).map(|_| client.call(GET)).collect();
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!((1..=2).contains(&failed.len()), "{} of 30 went to the server that does not come up", failed.len());
    assert_eq!((failed[0].status, &failed[0].problem()["stage"]), (504, &"connect".into()));
    let lines = bed.lines();
    let line = lines.iter().find(|line| line["cause"] != serde_json::Value::Null).unwrap();
    assert_eq!((&line["outcome"], &line["stage"]), (&"timed-out".into(), &"connect".into()), "{line:#}");
    assert_eq!((&line["limit"]["name"], origin(line)), (&"total".into(), "gate.toml:5"));
    assert_eq!((&line["gate"]["termination"], &line["gate"]["flags"]), (&"sC".into(), &"UF".into()));
    assert_eq!((&line["cause"], &line["gate"]["server"]), (&"accept-queue-full".into(), &address.to_string().into()));
}

#[test]
fn a_client_that_does_not_read() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let piece = "x".repeat(1 << 16);
        use std::io::Write as _;
        while peer.client.stream.write_all(piece.as_bytes()).is_ok() {}
        peer.say("stopped");
    });
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"300ms\"")]);
    let mut client = bed.connect();
    client.send(GET);
    client.head();
    assert_eq!(server.saw(), "stopped");
    let line = bed.line();
    assert_eq!((&line["stage"], &line["cause"]), (&"receive".into(), &"reader-slow".into()), "{line:#}");
    assert_eq!(&line["gate"]["termination"], "cD");
}

/// A server that answers while it reads waits for the client, not the other way round. Of a request that said no length
/// nobody knows whose turn it is.
#[test]
fn a_client_whose_body_stops_while_it_is_answered() {
    for (body, cause, termination) in [
        ("Content-Length: 10\r\n\r\nhello", "sender-slow", "cD"),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "body-stalled", "sD"),
    ] {
        let server = Server::new(|peer| {
            peer.request().unwrap();
            peer.client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
            while !peer.ends() {}
        });
        let bed = Bed::new(&[server.address], &[("limits", "gap = \"300ms\"")]);
        let mut client = bed.connect();
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));
        client.head();
        let (rest, _) = client.rest();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
        let line = bed.line();
        let told = (&line["limit"]["name"], &line["cause"], &line["gate"]["termination"]);
        assert_eq!(told, (&"gap".into(), &cause.into(), &termination.into()), "{line:#}");
        let verdict = &line["verdicts"][0];
        let (summary, rejected) = (verdict["summary"].as_str().unwrap(), verdict["rejected"].to_string());
        if cause == "sender-slow" {
            assert!(summary.starts_with("the client 127.0.0.1:") && summary.contains("last 5 bytes"), "{line:#}");
            assert!(rejected.contains("body-stalled"), "{line:#}");
        } else {
            assert!(rejected.contains("sender-slow"), "{line:#}");
        }
    }
}

/// After a final answer nobody owes a body that was to be asked for; and only 100 asks for it.
#[test]
fn a_word_that_is_none() {
    for (says, cause, termination, limit) in [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000\r\n\r\nhello", "body-stalled", "sD", "gap"),
        ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", "head-stalled", "sH", "wait"),
    ] {
        let server = Server::new(move |peer| {
            peer.request().unwrap();
            peer.client.send(says);
            while !peer.ends() {}
        });
        let bed = Bed::new(&[server.address], &[("limits", "gap = \"700ms\"\nwait = \"800ms\"")]);
        let mut client = bed.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n");
        client.rest().0.len();
        let line = bed.line();
        let told = (&line["cause"], &line["gate"]["termination"], &line["limit"]["name"]);
        assert_eq!(told, (&cause.into(), &termination.into(), &limit.into()), "{says}: {line:#}");
    }
}

/// A server that has begun its answer may still be the one that takes nothing.
#[test]
fn an_upload_that_is_not_taken_while_it_is_answered() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        peer.say("answered");
        std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_secs(20)).unwrap_err();
    });
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"700ms\"")]);
    let mut client = bed.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(server.saw(), "answered");
    use std::io::Write as _;
    let piece = "x".repeat(1 << 16);
    while client.stream.write_all(piece.as_bytes()).is_ok() {}
    let line = bed.line();
    let told = (&line["cause"], &line["stage"], &line["gate"]["termination"]);
    assert_eq!(told, (&"peer-not-reading".into(), &"receive".into(), &"sD".into()), "{line:#}");
}

/// Who waits for a connection that does not come up is sent to another server.
#[test]
fn a_queue_behind_a_connection_that_does_not_come_up() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let server = Server::answering(OK);
    let limits = ("limits", "queue = \"700ms\"\nconnect = \"3s\"");
    let bed = Bed::new(&[address, server.address], &[limits, ("cluster", "connections = 1")]);
    let mut clients: Vec<_> = (0..12).map(|_| bed.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let lines = bed.lines();
    let waited: Vec<_> = lines.iter().filter(|line| line["gate"]["first_attempt"]["cause"] == "connect-slow").collect();
    assert!(!waited.is_empty(), "{lines:#?}");
    // Where there is nobody else, the connection that does not come up is what is told.
    let bed = Bed::new(&[address], &[limits, ("cluster", "connections = 1")]);
    let mut clients = [bed.connect(), bed.connect()];
    clients.iter_mut().for_each(|client| client.send(GET));
    let causes = clients.each_mut().map(|client| client.answer().problem()["cause"].clone());
    assert!(causes.contains(&"connect-slow".into()) && causes.contains(&"accept-queue-full".into()), "{causes:?}");
}

/// Where something waits to be taken, or one side has said all, it is known who holds up a tunnel.
#[test]
fn a_tunnel_in_which_nothing_moves() {
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
    for (how, cause, termination, whom) in [
        ("nobody speaks", "body-stalled", "sD", "in either direction"),
        ("the server does not read", "peer-not-reading", "sD", "takes no more bytes"),
        ("the client does not read", "reader-slow", "cD", "for the client 127.0.0.1:"),
        ("the server has ended", "body-stalled", "cD", "the client 127.0.0.1:"),
        ("the client has ended", "body-stalled", "sD", "neither sent anything"),
    ] {
        use std::io::Write as _;
        let server = Server::new(move |peer| {
            peer.request().unwrap();
            peer.client.send(SWITCH);
            let piece = "x".repeat(1 << 16);
            match how {
                "the client does not read" => while peer.client.stream.write_all(piece.as_bytes()).is_ok() {},
                "the server has ended" => peer.client.stream.shutdown(std::net::Shutdown::Write).unwrap(),
                _ => {}
            }
            // It holds what it has until the test ends.
            peer.say("here");
            std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_secs(20)).unwrap_err();
        });
        let bed = Bed::new(&[server.address], &[("limits", "gap = \"700ms\"")]);
        let mut client = bed.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        client.head();
        match how {
            "the server does not read" => {
                let piece = "x".repeat(1 << 16);
                while client.stream.write_all(piece.as_bytes()).is_ok() {}
            }
            "the client does not read" => assert_eq!(server.saw(), "here"),
            "the client has ended" => client.stream.shutdown(std::net::Shutdown::Write).unwrap(),
            _ => {}
        }
        if how != "the client does not read" {
            let _ = client.rest();
        }
        let line = bed.line();
        let told = (&line["limit"]["name"], &line["stage"], &line["cause"], &line["gate"]["termination"]);
        assert_eq!(told, (&"gap".into(), &"tunnel".into(), &cause.into(), &termination.into()), "{how}: {line:#}");
        let summary = line["verdicts"][0]["summary"].as_str().unwrap();
        assert!(summary.contains(whom), "{how}: {line:#}");
        let mut spans = line["timeline"].as_array().unwrap().iter();
        let span = spans.find(|span| span["stage"] == "tunnel").unwrap_or_else(|| panic!("{how}: {line:#}"));
        assert!(span["duration_us"].as_u64().unwrap() > 600_000, "{how}: {line:#}");
    }
}

#[test]
fn a_pool_that_is_empty() {
    let server = Server::new(|peer| while peer.request().is_some() {});
    let bed =
        Bed::new(&[server.address], &[("limits", "queue = \"150ms\"\nwait = \"3s\""), ("cluster", "connections = 1")]);
    let mut first = bed.connect();
    first.send(GET);
    server.accepted.recv_timeout(crate::bed::PATIENCE).unwrap();
    let mut second = bed.connect();
    let answer = second.call(GET);
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
    assert_eq!(answer.problem()["cause"], "pool-exhausted");
    drop(first);
    drop(second);
    let lines = bed.lines();
    let line = lines.iter().find(|line| line["cause"] == "pool-exhausted").unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(
        (&line["stage"], &line["gate"]["termination"], &line["gate"]["flags"]),
        (&"queue".into(), &"sQ".into(), &"UO".into())
    );
}

/// Who waits for a connection gets the one that another gives back.
#[test]
fn a_connection_goes_from_hand_to_hand() {
    let server = Server::new(|peer| {
        while peer.request().is_some() {
            std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(30)).unwrap_err();
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[("cluster", "connections = 1")]);
    let mut clients: Vec<_> = (0..6).map(|_| bed.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    assert_eq!(server.connections(), 1);
}

#[test]
fn what_remains_is_handed_on_and_shrinks() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "trusted = [\"127.0.0.1\"]"), ("limits", "total = \"4s\"")]);
    let mut client = bed.connect();
    let mut left = |more: &str| -> u64 {
        let answer = client.call(&format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        assert_eq!(answer.status, 200);
        field(&server.saw(), "x-envoy-expected-rq-timeout-ms").unwrap().parse().unwrap()
    };
    assert!((2000..4000).contains(&left("")));
    assert!((500..1000).contains(&left("x-envoy-expected-rq-timeout-ms: 1000\r\n")));
    // The shorter of two, and never more than our own.
    assert!((500..1000).contains(&left("x-envoy-expected-rq-timeout-ms: 2000\r\ngrpc-timeout: 1S\r\n")));
    assert!((2000..4000).contains(&left("x-envoy-expected-rq-timeout-ms: 90000\r\n")));
    assert_eq!(client.call("GET / HTTP/1.1\r\nHost: a\r\ngrpc-timeout: soon\r\n\r\n").status, 400);
}

#[test]
fn the_callers_deadline_fires_and_is_named() {
    let server = Server::new(|peer| while peer.request().is_some() {});
    let bed = Bed::new(&[server.address], &[("listener", "trusted = [\"127.0.0.1\"]")]);
    let mut client = bed.connect();
    let answer = client.call("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-expected-rq-timeout-ms: 150\r\n\r\n");
    assert_eq!(answer.status, 504);
    assert!(answer.problem()["detail"].is_string());
    // What has passed before it is read goes nowhere.
    assert_eq!(client.call("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-expected-rq-timeout-ms: 0\r\n\r\n").status, 504);
    assert_eq!(server.connections(), 1);
    let lines = bed.lines();
    assert_eq!(origin(&lines[0]), "header x-envoy-expected-rq-timeout-ms");
    assert_eq!(
        (&lines[1]["cause"], &lines[1]["gate"]["flags"]),
        (&"budget-spent".into(), &"DT".into()),
        "{:#}",
        lines[1]
    );
}
