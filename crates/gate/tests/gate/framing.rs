//! What goes through, and how it is told to the other side.

use std::io::Write as _;

use crate::bed::{Bed, Client, GET, OK, Server, field};

#[test]
fn requests_go_through_one_kept_connection() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    for _ in 0..3 {
        let answer = client.call(GET);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
        assert_eq!(answer.field("connection"), None);
    }
    let head = server.saw();
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!((field(&head, "host"), field(&head, "x-forwarded-for")), (Some("a.test"), Some("127.0.0.1")));
    assert_eq!(server.connections(), 1);
    drop(client);
    let lines = bed.lines();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!((&line["outcome"], &line["cause"]), (&"ok".into(), &serde_json::Value::Null), "{line}");
        assert_eq!((&line["gate"]["status"], &line["gate"]["termination"]), (&200.into(), &"--".into()), "{line}");
        assert_eq!((&line["gate"]["path"], &line["gate"]["route"]), (&"/x?y".into(), &"all".into()));
        let stages: Vec<&str> =
            line["timeline"].as_array().unwrap().iter().map(|span| span["stage"].as_str().unwrap()).collect();
        let dialled = line["connection"]["reused"] == false;
        let expected: &[&str] = if dialled {
            &["head", "queue", "connect", "send", "wait", "receive"]
        } else {
            &["head", "queue", "send", "wait", "receive"]
        };
        assert_eq!(stages, expected);
        // The parts add up to the whole, but for what rounding takes.
        let sum: u64 =
            line["timeline"].as_array().unwrap().iter().map(|span| span["duration_us"].as_u64().unwrap()).sum();
        assert!(line["elapsed_us"].as_u64().unwrap().abs_diff(sum) <= 6, "{line}");
    }
    assert_eq!(lines[1]["connection"]["reused"], true);
}

#[test]
fn requests_that_come_together_are_answered_in_their_order() {
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            peer.client.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send("\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().body, path.as_bytes());
    }
    assert_eq!(client.rest().0, b"");
}

#[test]
fn what_is_about_one_connection_is_not_sent_on() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\n\r\n",
    );
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    let answer = client.call(
        "GET http://b.test/p HTTP/1.1\r\nHost: a.test\r\nConnection: x-mine, close\r\nX-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: x\r\nUpgrade: h2c\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\
         grpc-timeout: 1n\r\nx-envoy-expected-rq-timeout-ms: 1\r\nX-Kept: 1\r\n\r\n",
    );
    assert_eq!((answer.field("x-own"), answer.field("keep-alive")), (None, None));
    assert_eq!((answer.field("x-kept"), answer.field("connection")), (Some("2"), Some("close")));
    let head = server.saw();
    // The target leads, whatever Host says.
    assert!(head.starts_with("GET /p HTTP/1.1\r\n") && field(&head, "host") == Some("b.test"), "{head}");
    for gone in ["x-mine", "te", "keep-alive", "proxy-connection", "upgrade", "forwarded", "grpc-timeout", "connection"]
    {
        assert_eq!(field(&head, gone), None, "{head}");
    }
    assert_eq!((field(&head, "x-forwarded-for"), field(&head, "x-forwarded-proto")), (Some("127.0.0.1"), Some("http")));
    assert_eq!(field(&head, "x-kept"), Some("1"));
}

#[test]
fn bodies_of_requests_arrive_as_they_were_told() {
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            let body = match field(&head, "content-length") {
                Some(length) => peer.client.exactly(length.parse().unwrap()),
                None => {
                    let mut all = Vec::new();
                    while !all.ends_with(b"0\r\n\r\n") {
                        all.extend(peer.client.exactly(1));
                    }
                    all
                }
            };
            peer.say(String::from_utf8(body).unwrap());
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    assert_eq!(client.call("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").status, 200);
    assert_eq!(server.saw(), "abc");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nab");
    client.send("c\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(server.saw(), "3\r\nabc\r\n0\r\n\r\n".replacen("3\r\nabc", "2\r\nab\r\n1\r\nc", 1));
    let long = "x".repeat(300_000);
    assert_eq!(client.call(&format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{long}")).status, 200);
    assert_eq!(server.saw(), long);
}

#[test]
fn bodies_of_answers_end_as_their_client_understands() {
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            match head.split(' ').nth(1).unwrap() {
                "/chunks" => peer
                    .client
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"),
                "/close" => {
                    peer.client.send("HTTP/1.0 200 OK\r\n\r\nabc");
                    return;
                }
                "/304" => peer.client.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
                "/204" => peer.client.send("HTTP/1.1 204 No Content\r\n\r\n"),
                _ => peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            }
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(&get("/chunks"));
    assert!(client.head().contains("\r\ntransfer-encoding: chunked\r\n"));
    assert_eq!(client.exactly(23), b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n");
    client.send(&get("/close"));
    assert!(client.head().contains("transfer-encoding: chunked"));
    assert_eq!(client.exactly(13), b"3\r\nabc\r\n0\r\n\r\n");
    client.send(&get("/304"));
    let head = client.head();
    assert!(head.contains("304") && head.contains("content-length: 5"), "{head}");
    drop(client);
    // No body follows, whatever its length is said to be: what comes next is the next answer.
    let mut client = bed.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().contains("content-length: 5"));
    client.send(&get("/204"));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 204 ") && !head.contains("content-length"), "{head}");

    let mut old = bed.connect();
    old.send("GET /chunks HTTP/1.0\r\n\r\n");
    let head = old.head();
    assert!(head.contains("connection: close") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(old.rest().0, b"abc");
    let mut old = bed.connect();
    old.send("HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(old.head().contains("connection: keep-alive"));
}

/// What two parsers could read differently reaches no server.
#[test]
fn what_is_ambiguous_is_refused() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        let mut client = bed.connect();
        let answer = client.call(request);
        assert_eq!((answer.status, answer.field("connection")), (400, Some("close")), "{request:?}");
        assert_eq!(client.rest().0, b"", "{request:?}");
    }
    assert_eq!(server.connections(), 0);
    let lines = bed.lines();
    assert!(
        lines.iter().all(|line| line["gate"]["termination"] == "PR" && line["gate"]["refused"].is_string()),
        "{lines:#?}"
    );
}

/// What breaks in the middle of a body breaks the connection to the server, so that nothing hides behind it.
#[test]
fn a_chunk_that_is_none_ends_both_connections() {
    let server = Server::new(|peer| {
        if peer.request().is_some() {
            while !peer.ends() {}
            peer.say("ended");
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    let answer =
        client.call("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcGET / HTTP/1.1\r\n");
    assert_eq!((answer.status, answer.field("connection")), (400, Some("close")));
    assert_eq!(server.saw(), "ended");
    let line = bed.line();
    assert_eq!((&line["cause"], &line["gate"]["flags"]), (&"protocol-error".into(), &"DPE".into()), "{line:#}");
}

#[test]
fn who_expects_a_word_before_the_body_gets_it() {
    let server = Server::new(|peer| {
        let head = peer.request().unwrap();
        assert_eq!(field(&head, "expect"), Some("100-continue"));
        peer.client.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = peer.client.exactly(3);
        peer.client.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
        peer.client.send(OK);
        peer.say(String::from_utf8(body).unwrap());
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100 Continue\r\n"));
    client.send("abc");
    let hints = client.head();
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("Link: x"), "{hints}");
    assert_eq!(client.answer().status, 200);
    assert_eq!(server.saw(), "abc");
}

/// A server may answer before it has the request; the rest of it is nobody's then.
#[test]
fn an_early_answer_ends_the_upload() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
        while !peer.ends() {}
        peer.say("ended");
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("connection")), (413, Some("close")));
    assert_eq!(server.saw(), "ended");
}

#[test]
fn another_protocol_is_a_tunnel() {
    let server = Server::new(|peer| {
        let head = peer.request().unwrap();
        assert_eq!((field(&head, "upgrade"), field(&head, "connection")), (Some("websocket"), Some("upgrade")));
        peer.client.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst");
        let said = peer.client.exactly(5);
        peer.client.send("bye");
        peer.say(String::from_utf8(said).unwrap());
        // Until the other side has ended, too.
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "total = \"300ms\"")]);
    let mut client = bed.connect();
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = client.head();
    assert!(
        head.starts_with("HTTP/1.1 101 ")
            && head.contains("Upgrade: websocket")
            && head.contains("connection: upgrade"),
        "{head}"
    );
    assert_eq!(client.exactly(5), b"first");
    client.send("hello");
    assert_eq!(server.saw(), "hello");
    assert_eq!(client.exactly(3), b"bye");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest().0, b"");
    let line = bed.line();
    assert_eq!((&line["outcome"], &line["gate"]["status"]), (&"ok".into(), &101.into()), "{line:#}");
}

#[test]
fn routes_are_taken_by_host_path_and_method() {
    let (one, other) = (Server::answering(OK), Server::answering("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"));
    let config = overdue_gate::Config::parse(
        &format!(
            "workers = 1\n[log]\noff = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\n[cluster.one]\nservers = [\"{}\"]\n\
             [cluster.other]\nservers = [\"{}\"]\n[[route]]\nhost = \"*.other.test\"\npath = \"/v1\"\nmethods = [\"GET\"]\ncluster = \"other\"\n\
             [[route]]\npath = \"/v1\"\ncluster = \"one\"\n",
            one.address, other.address
        ),
        "x.toml",
    )
    .unwrap();
    let gate = overdue_gate::Gate::start(config).unwrap();
    let mut client = Client::new(gate.addresses()[0]);
    let mut status = |method: &str, host: &str, path: &str| {
        client.call(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status
    };
    assert_eq!(status("GET", "a.other.test:80", "/v1/x"), 201);
    assert_eq!(status("POST", "a.other.test", "/v1/x"), 200);
    assert_eq!(status("GET", "other.test", "/v1"), 200);
    assert_eq!(status("GET", "a.other.test", "/v10"), 404);
    // A request that is nobody's does not end the connection.
    assert_eq!(status("GET", "a.other.test", "/v1"), 201);
    gate.drain();
}

/// What cannot become a request is not waited for: TLS on a port without, or anything else.
#[test]
fn bytes_that_begin_no_request_are_refused_at_once() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "head = \"10m\"\nidle = \"10m\"")]);
    for first in [&[0x16, 3, 1, 2, 0][..], b"\0", b" GET", b"{", b"\r\n<", b"\x80"] {
        let mut client = bed.connect();
        client.stream.write_all(first).unwrap();
        assert_eq!(client.answer().status, 400, "{}", first.escape_ascii());
    }
    // Behind a request, too.
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    client.send("\x16");
    assert_eq!(client.answer().status, 400);
    let lines = bed.lines();
    assert!(lines[0]["gate"]["refused"].as_str().unwrap().contains("TLS handshake"), "{:#}", lines[0]);
}

/// A path that climbs is read differently by routes and by servers.
#[test]
fn paths_that_climb_and_protocols_that_carry_requests() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    for path in [
        "/v1/../admin",
        "/v1/%2e%2E/admin",
        "/.",
        "/a/./b",
        "/public/..%2fadmin",
        "/public%2F.%2e/admin",
        "/public/..\\admin",
        "/public\\..",
        "/public/..%5Cadmin",
        "/public/..;/admin",
        "/public/..%3bx=1/admin",
        "/public/..;",
    ] {
        assert_eq!(client.call(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).status, 400, "{path}");
    }
    assert_eq!(server.connections(), 0);
    for path in ["/a..b/.well-known?x=/../y", "/a%2fb/c\\d/...", "/a/b;..", "/..a/a.%2e", "/%2e%2ea;.."] {
        assert_eq!(client.call(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).status, 200, "{path}");
        assert!(server.saw().starts_with(&format!("GET {path} ")));
    }
    // Requests in HTTP/2 would go past routes and limits.
    let answer = client.call(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    let head = server.saw();
    assert!(field(&head, "upgrade").is_none() && field(&head, "http2-settings").is_none(), "{head}");
}

#[test]
fn who_names_no_host_goes_to_the_servers_own() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(field(&server.saw(), "host"), Some(&*server.address.to_string()));
}

/// A refusal is about the request that is refused, and blames its client.
#[test]
fn what_is_refused_is_told_of_itself() {
    let server = Server::new(|peer| {
        while peer.request().is_some() {
            peer.client.send(OK)
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(client.call("hello\r\n\r\n").status, 400);
    let mut client = bed.connect();
    assert_eq!(client.call("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").status, 400);
    let lines = bed.lines();
    let refused = lines.iter().find(|line| line["gate"]["refused"].is_string()).unwrap();
    assert_eq!((&refused["gate"]["path"], &refused["gate"]["method"]), (&"".into(), &"".into()), "{refused}");
    assert!(refused["gate"]["bytes_out"].as_u64() > Some(100), "{refused}");
    let broken = lines.iter().find(|line| line["cause"] == "protocol-error").unwrap();
    let summary = broken["verdicts"][0]["summary"].as_str().unwrap();
    assert!(summary.contains("the client 127.0.0.1:"), "{summary}");
}

/// What only a proxy may say, under whatever name that begins so.
#[test]
fn a_stranger_is_no_proxy() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let more = "X-Forwarded-Prefix: /admin\r\nx_forwarded_user: root\r\nX-Forwarded-Port: 1\r\nX-Forwards: yes\r\n\r\n";
    assert_eq!(bed.connect().call(&GET.replace("\r\n\r\n", &format!("\r\n{more}"))).status, 200);
    let head = server.saw().to_ascii_lowercase();
    assert!(!head.contains("admin") && !head.contains("root") && !head.contains("port"), "{head}");
    assert!(head.contains("x-forwards: yes"), "{head}");
}
