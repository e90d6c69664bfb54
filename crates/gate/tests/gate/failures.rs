//! Servers that fail, and clients that go away.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use crate::bed::{Bed, GET, OK, Server, field};

#[test]
fn a_server_that_is_not_there() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bed = Bed::new(&[gone], &[]);
    let mut client = bed.connect();
    let answer = client.call(GET);
    assert_eq!((answer.status, &answer.problem()["cause"]), (502, &"connect-refused".into()));
    let line = bed.line();
    assert_eq!(
        (&line["stage"], &line["gate"]["termination"], &line["gate"]["flags"]),
        (&"connect".into(), &"SC".into(), &"UF".into()),
        "{line:#}"
    );
    assert_eq!(line["gate"]["server"], gone.to_string());
}

/// One that is gone is left alone for a while, if there is another, which is asked instead: no request fails for it.
#[test]
fn who_cannot_be_connected_to_is_left_alone() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            let body = match field(&head, "transfer-encoding") {
                Some(_) => peer.client.exactly(b"4\r\nbody\r\n0\r\n\r\n".len()),
                None => peer.client.exactly(length),
            };
            peer.say(String::from_utf8(body).unwrap());
            peer.client.send(OK);
        }
    });
    let posts = ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"];
    let mut again = 0;
    for how in [None, Some(posts[0]), Some(posts[1])] {
        let bed = Bed::new(&[gone, server.address], &[]);
        let mut client = bed.connect();
        for _ in 0..20 {
            let answer = match how {
                None => client.call(GET),
                Some(body) => client.call(&format!("POST / HTTP/1.1\r\nHost: a\r\n{body}")),
            };
            assert_eq!((answer.status, server.saw().contains("body")), (200, how.is_some()), "{answer:?}");
        }
        for line in bed.lines() {
            let first = &line["gate"]["first_attempt"];
            assert_eq!((&line["outcome"], &line["gate"]["server"]), (&"ok".into(), &server.address.to_string().into()));
            if !first.is_null() {
                again += 1;
                assert_eq!(
                    (&first["server"], &first["cause"], &line["timeline"][1]["stage"]),
                    (&gone.to_string().into(), &"connect-refused".into(), &"attempt".into()),
                    "{line:#}"
                );
            }
        }
    }
    // Chance names two of two: the first request has one of them, and after a failure it is left alone.
    assert!((1..=9).contains(&again), "{again}");
}

/// Two attempts, and no more; and none where there is nobody else to ask.
#[test]
fn when_all_are_gone_there_is_an_end() {
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let gone: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(listeners);
    for count in [1, 3] {
        let bed = Bed::new(&gone[..count], &[]);
        assert_eq!(bed.connect().call(GET).status, 502);
        let line = bed.line();
        let stages = line["timeline"].as_array().unwrap();
        let attempts = stages.iter().filter(|span| span["stage"] == "attempt" || span["stage"] == "connect").count();
        assert_eq!((&line["cause"], attempts), (&"connect-refused".into(), count.min(2)), "{line:#}");
        assert_eq!(line["gate"]["first_attempt"].is_null(), count == 1, "{line:#}");
    }
}

#[test]
fn a_server_that_closes_before_it_answers() {
    let server = Server::new(|peer| drop(peer.request()));
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    let answer = client.call(GET);
    assert_eq!((answer.status, &answer.problem()["cause"]), (502, &"closed-early".into()));
    let line = bed.line();
    assert_eq!((&line["gate"]["termination"], &line["gate"]["flags"]), (&"SH".into(), &"UC".into()), "{line:#}");
}

/// The client sees that the body was cut, however its end would have been told.
#[test]
fn a_server_that_dies_in_the_middle_of_a_body() {
    for (head, version) in [
        ("Content-Length: 10\r\n", "1.1"),
        ("Transfer-Encoding: chunked\r\n", "1.1"),
        ("Content-Length: 10\r\n", "1.0"),
        ("Transfer-Encoding: chunked\r\n", "1.0"),
    ] {
        let body = if head.starts_with('T') { "3\r\nabc\r\n" } else { "abc" };
        let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        let server = Server::new(move |peer| {
            peer.request().unwrap();
            peer.client.send(&text);
        });
        let bed = Bed::new(&[server.address], &[]);
        let mut client = bed.connect();
        client.send(&format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        client.head();
        let (rest, end) = client.rest();
        assert!(end.is_err(), "{head:?} to HTTP/{version}: {rest:?} looks whole");
        let line = bed.line();
        assert_eq!((&line["cause"], &line["stage"]), (&"closed-early".into(), &"receive".into()), "{line:#}");
        assert_eq!(line["gate"]["termination"], "SD");
    }
}

#[test]
fn a_server_that_breaks_the_protocol() {
    for answer in [
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let server = Server::answering(answer);
        let bed = Bed::new(&[server.address], &[]);
        let mut client = bed.connect();
        let answer = client.call(GET);
        assert_eq!((answer.status, &answer.problem()["cause"]), (502, &"protocol-error".into()));
        assert_eq!(bed.line()["gate"]["flags"], "UPE");
    }
}

/// A kept connection that its server has closed is no word about the request.
#[test]
fn a_connection_that_was_closed_while_it_lay_idle() {
    let server = Server::new(|peer| {
        // One request, and the end of the next is seen only when it has been sent.
        peer.request().unwrap();
        peer.client.send(OK);
        if peer.request().is_some() {
            peer.say("unanswered");
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(server.saw(), "unanswered");
    assert_eq!(server.connections(), 2);
    // What may have had an effect is not sent again.
    assert_eq!(client.call("POST / HTTP/1.1\r\nHost: a\r\n\r\n").status, 502);
}

/// What nobody asked for is given to nobody.
#[test]
fn an_answer_that_nobody_asked_for() {
    let server = Server::new(|peer| {
        while peer.request().is_some() {
            peer.client.send(&format!("{OK}{}", OK.replace("hello", "EVIL!")));
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    for _ in 0..3 {
        assert_eq!(client.call(GET).body, b"hello");
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let server = Server::silent();
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send(GET);
    assert_eq!(server.saw(), "asked");
    drop(client);
    assert_eq!(server.saw(), "ended");
    let line = bed.line();
    assert_eq!((&line["outcome"], &line["cause"]), (&"cancelled".into(), &"cancelled-by-caller".into()), "{line:#}");
    assert_eq!(
        (&line["gate"]["termination"], &line["gate"]["flags"], &line["gate"]["status"]),
        (&"CH".into(), &"DC".into(), &0.into())
    );
}

#[test]
fn a_client_that_leaves_the_queue_leaves_its_place() {
    let server = Server::new(|peer| {
        while peer.request().is_some() {
            std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(200)).unwrap_err();
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[("cluster", "connections = 1")]);
    let mut first = bed.connect();
    first.send(GET);
    let mut leaves = bed.connect();
    leaves.send(GET);
    let mut third = bed.connect();
    third.send(GET);
    drop(leaves);
    assert_eq!((first.answer().status, third.answer().status), (200, 200));
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_body_that_is_longer_than_its_route_takes() {
    let server = Server::new(|peer| {
        while peer.request().is_some() {
            while !peer.ends() {}
        }
    });
    let bed = Bed::new(&[server.address], &[("route", "body_max = 10")]);
    let mut client = bed.connect();
    let told = client.call("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    assert_eq!((told.status, &told.problem()["cause"]), (413, &serde_json::Value::Null));
    assert_eq!(server.connections(), 0);
    let mut client = bed.connect();
    let found =
        client.call("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n");
    assert_eq!((found.status, &found.problem()["cause"]), (413, &serde_json::Value::Null));
    // Both are refusals, by the same rule.
    for line in bed.lines() {
        assert_eq!((&line["outcome"], &line["cause"]), (&"failed".into(), &serde_json::Value::Null), "{line:#}");
        assert!(line["gate"]["refused"].as_str().unwrap().contains("that its route takes"), "{line:#}");
    }
}

/// The rest of a request that its server did not want is not sent ahead of another's.
#[test]
fn what_was_not_sent_of_a_request_goes_with_its_connection() {
    let (read, reads) = std::sync::mpsc::channel::<()>();
    let reads = std::sync::Arc::new(std::sync::Mutex::new(reads));
    let server = Server::new(move |peer| {
        let Some(head) = peer.request() else { return };
        peer.client.send(OK);
        if head.starts_with("POST") {
            // Its body is not read, and the connection is one to be kept.
            peer.say("answered");
            reads.lock().unwrap().recv().unwrap();
            let mut all = Vec::new();
            let _ = std::io::Read::read_to_end(&mut peer.client.stream, &mut all);
            peer.say(if all.windows(6).any(|word| word == b"VICTIM") { "poisoned" } else { "clean" });
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    // More than the kernel takes, so that the end lies in the gateway when the answer comes.
    let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut writes = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        use std::io::Write as _;
        for _ in 0..400 {
            if writes.write_all(piece.as_bytes()).is_err() {
                return;
            }
        }
        let _ = writes.write_all(b"0\r\n\r\n");
    });
    assert_eq!(client.answer().status, 200);
    assert_eq!(server.saw(), "answered");
    for _ in 0..3 {
        let mut other = bed.connect();
        assert_eq!(other.call("GET /VICTIM HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    }
    read.send(()).unwrap();
    assert_eq!(server.saw(), "clean");
    drop(client);
    sending.join().unwrap();
}

/// Nor is what comes behind an answer given to who waits for the connection.
#[test]
fn who_waits_gets_no_connection_with_something_in_it() {
    // Exactly as much as is read at once: what follows stays in the kernel.
    let body = "x".repeat(16384 - "HTTP/1.1 200 OK\r\nContent-Length: 16343\r\n\r\n".len());
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}{}", body.len(), OK.replace("hello", "EVIL!"));
    let server = Server::new(move |peer| {
        while peer.request().is_some() {
            std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(100)).unwrap_err();
            peer.client.send(&answer);
        }
    });
    let bed = Bed::new(&[server.address], &[("cluster", "connections = 1")]);
    let mut clients = [bed.connect(), bed.connect(), bed.connect()];
    clients.iter_mut().for_each(|client| client.send(GET));
    for client in &mut clients {
        let answer = client.answer();
        assert!(answer.body.starts_with(b"xxx"), "{}", answer.body.escape_ascii());
    }
}

/// A server that ends requests quickly does not get them all for it; one that hangs does not either.
#[test]
fn who_fails_is_left_alone() {
    for hangs in [false, true] {
        let good = Server::new(|peer| {
            while peer.request().is_some() {
                std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(3)).unwrap_err();
                peer.client.send(OK);
            }
        });
        let bad = Server::new(move |peer| while peer.request().is_some() && hangs {});
        let bed = Bed::new(&[good.address, bad.address], &[("limits", "wait = \"50ms\"")]);
        let mut client = bed.connect();
        let failed = (0..40).filter(|_| client.call(GET).status != 200).count();
        assert!(failed <= 6, "hangs: {hangs}: {failed} of 40 failed");
    }
}

/// A server that had time to read a request has heard it, and may be at the end for it: it gets no second one.
#[test]
fn what_a_server_may_have_worked_on_is_not_sent_again() {
    let server = Server::new(|peer| {
        let mut first = true;
        while let Some(head) = peer.request() {
            peer.say(head);
            if !std::mem::take(&mut first) {
                std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(700)).unwrap_err();
                return;
            }
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(client.call(GET).status, 502);
    let line = &bed.lines()[1];
    assert_eq!((&line["cause"], server.connections()), (&"closed-early".into(), 1), "{line:#}");
    assert!(line["gate"]["first_attempt"].is_null(), "{line:#}");
}

/// A process that dies takes its kept connections along: what was on them goes to another.
#[test]
fn a_second_attempt_goes_to_another_server() {
    let (listener, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), Server::answering(OK));
    let address = listener.local_addr().unwrap();
    let (die, dies) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // A request at a time, which comes in one piece.
        while let Ok(1..) = stream.read(&mut [0; 4096]) {
            if dies.try_recv().is_ok() {
                return;
            }
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let bed = Bed::new(&[address, other.address], &[]);
    let mut client = bed.connect();
    (0..20).for_each(|_| assert_eq!(client.call(GET).status, 200));
    die.send(()).unwrap();
    // Chance, and how long each took, say when it is asked.
    (0..2000).for_each(|_| assert_eq!(client.call(GET).status, 200));
    let lines = bed.lines();
    let again: Vec<_> = lines.iter().filter(|line| !line["gate"]["first_attempt"].is_null()).collect();
    for line in &again {
        let (first, then) = (&line["gate"]["first_attempt"], &line["gate"]["server"]);
        assert_eq!((&first["server"], then), (&address.to_string().into(), &other.address.to_string().into()));
    }
    assert!(!again.is_empty(), "{lines:#?}");
}

/// To say quickly that nothing can be done is no reason to be asked more.
#[test]
fn who_says_that_it_cannot_is_not_preferred() {
    let broken = Server::answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let good = Server::new(|peer| {
        while peer.request().is_some() {
            std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(5)).unwrap_err();
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[good.address, broken.address], &[]);
    let mut client = bed.connect();
    let failed = (0..60).filter(|_| client.call(GET).status != 200).count();
    assert!(failed <= 15, "{failed} of 60 went to the one that cannot");
}

/// Whoever has sent more than one request is noticed when it leaves, too.
#[test]
fn a_client_that_leaves_with_another_request_on_the_way() {
    let server = Server::silent();
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send(GET);
    assert_eq!(server.saw(), "asked");
    client.send("G");
    // Nothing shows from outside that this was read: the next answer of the same thread comes after it.
    let mut other = bed.connect();
    assert_eq!(other.call("hello\r\n\r\n").status, 400);
    drop(client);
    assert_eq!(server.saw(), "ended");
}
