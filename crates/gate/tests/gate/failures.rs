//! Servers that fail, and clients that go away.

use std::{net::TcpListener, time::Duration};

use crate::bed::{Bed, GET, OK, Server};

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

/// One that is gone is left alone for a while, if there is another.
#[test]
fn who_cannot_be_connected_to_is_left_alone() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::answering(OK);
    let bed = Bed::new(&[gone, server.address], &[]);
    let mut client = bed.connect();
    let failed = (0..20).filter(|_| client.call(GET).status != 200).count();
    assert!(failed <= 1, "{failed} of 20 went to the server that is gone");
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
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.say("asked");
        while !peer.ends() {}
        peer.say("ended");
    });
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
    assert_eq!(client.call("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n").status, 413);
    assert_eq!(server.connections(), 0);
    let mut client = bed.connect();
    assert_eq!(
        client
            .call("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n")
            .status,
        413
    );
}
