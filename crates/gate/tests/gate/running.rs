//! A gateway that runs: told to follow another file, told to end, asked for what it does.

use std::fs;

use crate::{
    bed::{Bed, GET, OK, Server},
    http2::Http2,
};

#[test]
fn another_configuration_is_followed_from_the_next_request_on() {
    let (one, other) = (Server::answering(OK), Server::answering("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"));
    let slow = Server::new(|peer| {
        peer.request().unwrap();
        peer.say("asked");
        // Until somebody closes: it is in flight all the while.
        while !peer.ends() {}
    });
    let mut bed = Bed::new(&[one.address], &[]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    assert!(bed.follow(&[slow.address], &[("limits", "wait = \"1s\"")]).is_empty());
    let mut waits = bed.connect();
    waits.send(GET);
    assert_eq!(slow.saw(), "asked");
    assert!(bed.follow(&[other.address], &[("limits", "wait = \"60s\"")]).is_empty());
    // On the connection that was there before.
    assert_eq!(client.call(GET).status, 201);
    // It goes on under the limits with which it began.
    assert_eq!(waits.answer().status, 504);
}

#[test]
fn the_end_waits_for_what_is_in_flight_and_for_nothing_else() {
    let (answer, answers) = std::sync::mpsc::channel::<()>();
    let answers = std::sync::Arc::new(std::sync::Mutex::new(answers));
    let server = Server::new(move |peer| {
        peer.request().unwrap();
        peer.say("asked");
        answers.lock().unwrap().recv().unwrap();
        peer.client.send(OK);
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut idle = bed.connect();
    let mut busy = bed.connect();
    busy.send(GET);
    assert_eq!(server.saw(), "asked");
    let address = bed.gate.addresses()[0];
    let ending = std::thread::spawn(move || bed.lines());
    // Who has nothing to do is let go.
    assert_eq!(idle.rest().0, b"");
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody is taken any more");
    answer.send(()).unwrap();
    let whole = busy.answer();
    assert_eq!((whole.status, whole.field("connection")), (200, Some("close")));
    assert_eq!(ending.join().unwrap().len(), 1);
}

/// Connections to servers that no route leads to any more are closed.
#[test]
fn servers_that_are_left_are_left_for_good() {
    let (one, other) = (Server::answering(OK), Server::answering(OK));
    let mut bed = Bed::new(&[one.address], &[]);
    let mut client = bed.connect();
    let to = |address: std::net::SocketAddr| {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", address.port());
        // Remote end, established.
        table
            .lines()
            .filter(|line| {
                line.split_whitespace().nth(2).is_some_and(|end| end.ends_with(&port)) && line.contains(" 01 ")
            })
            .count()
    };
    for _ in 0..5 {
        for server in [&one, &other] {
            assert!(bed.follow(&[server.address], &[]).is_empty());
            assert_eq!(client.call(GET).status, 200);
        }
    }
    // The last look was at the other one.
    assert_eq!((to(one.address), to(other.address)), (0, 1));
}

/// What is cut in the end has its line, as everything has.
#[test]
fn what_the_end_cuts_is_told() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.say("asked");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("drain", "200ms")]);
    let mut client = bed.connect();
    client.send(GET);
    assert_eq!(server.saw(), "asked");
    let line = bed.line();
    assert_eq!((&line["stage"], &line["gate"]["termination"]), (&"wait".into(), &"KH".into()), "{line:#}");
    assert!(line["gate"]["refused"].as_str().unwrap().contains("draining passed"));
    let stages: Vec<_> = line["timeline"].as_array().unwrap().iter().map(|span| &span["stage"]).collect();
    assert_eq!(stages.last(), Some(&&"wait".into()), "{line:#}");
    let answer = client.answer();
    assert_eq!((answer.status, &line["gate"]["status"]), (503, &503.into()), "{answer:?}");
    assert_eq!((answer.field("connection"), answer.field("retry-after")), (Some("close"), Some("1")), "{answer:?}");
}

/// So is what still waits for a connection, and each on its own stream.
#[test]
fn what_the_end_cuts_of_a_connection_of_streams_is_told() {
    let server = Server::silent();
    let bed = Bed::new(&[server.address], &[("drain", "700ms"), ("cluster", "connections = 1")]);
    let client = Http2::connect(&bed);
    let mut ready = client.send.clone();
    let answers: Vec<_> = client.wait(async {
        let mut answers = Vec::new();
        for _ in 0..2 {
            std::future::poll_fn(|cx| ready.poll_ready(cx)).await.unwrap();
            let request = http::Request::get("http://a.test/").body(()).unwrap();
            answers.push(ready.send_request(request, true).unwrap().0);
        }
        answers
    });
    assert_eq!(server.saw(), "asked");
    let ended = std::thread::spawn(move || bed.lines());
    for answer in answers {
        assert_eq!(client.wait(answer).unwrap().status(), 503);
    }
    let lines = ended.join().unwrap();
    let mut told: Vec<_> = lines.iter().map(|line| line["gate"]["termination"].as_str().unwrap()).collect();
    told.sort_unstable();
    // The connection of the first may have become free for the second before that is told.
    assert!(matches!(told[..], ["KH", "KQ"] | ["KC", "KH"]), "{lines:#?}");
}

/// An answer without a length and without chunks ends with its connection: cut, it must not end in the same way.
#[test]
fn an_answer_that_the_end_cuts_does_not_look_whole() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\n\r\nabc");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("drain", "200ms")]);
    let mut client = bed.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(!client.head().contains("transfer-encoding"));
    assert_eq!(client.exactly(3), b"abc");
    let line = bed.line();
    let told = &line["gate"];
    assert_eq!((&line["stage"], &told["termination"]), (&"receive".into(), &"KD".into()), "{line:#}");
    assert_eq!((&told["status"], told["bytes_out"].as_u64() > Some(3)), (&200.into(), true), "{line:#}");
    assert_eq!(client.rest().1.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// Whoever rotates the log moves the file, and reloads.
#[test]
fn the_log_is_opened_anew_on_a_reload() {
    let server = Server::answering(OK);
    let mut bed = Bed::new(&[server.address], &[]);
    let log = bed.log();
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    while fs::read_to_string(&log).unwrap().is_empty() {
        std::thread::yield_now();
    }
    let moved = log.with_extension("1");
    fs::rename(&log, &moved).unwrap();
    assert!(bed.follow(&[server.address], &[]).is_empty());
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(bed.lines().len(), 1);
}
