//! What passes on a stream besides head and body: trailers, whatever the two sides speak, and answers that come early.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};

use crate::{
    bed::{Bed, OK, PATIENCE, Server, field},
    http2::{Http2, Http2Server, OVER_HTTP2, get, read},
    wire::{DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, Wire, frame, request},
};

#[test]
fn bodies_and_trailers_go_both_ways() {
    let server = Server::new(|peer| {
        let head = peer.request().unwrap();
        peer.say(head);
        let body = "6\r\nhello \r\n5\r\nworld\r\n0\r\nx-sum: 1\r\n\r\n";
        let got = String::from_utf8(peer.client.exactly(body.len())).unwrap();
        peer.say(got);
        peer.client.send("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n");
        peer.client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n");
        peer.client.send("3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[]);
    let client = Http2::connect(&bed);
    let mut ready = client.send.clone();
    let answer = client.wait(async move {
        let request = Request::post("http://a.test/up").body(()).unwrap();
        let (answer, mut stream) = ready.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"hello "), false).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.send_data(Bytes::from_static(b"world"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        read(answer).await.unwrap()
    });
    assert_eq!(field(&server.saw(), "transfer-encoding"), Some("chunked"));
    // As it was sent, whatever the frames were cut into.
    assert_eq!(server.saw(), "6\r\nhello \r\n5\r\nworld\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(answer.body, b"abc");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

/// A length does not cost an answer its trailers.
#[test]
fn trailers_come_behind_a_body_of_known_length_too() {
    let server = Http2Server::new(h2::server::Builder::new(), |(_, mut respond)| async move {
        let head = Response::builder().header("content-type", "application/grpc").header("content-length", "5");
        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut client = Http2::connect(&bed);
    let request = Request::post("http://a.test/a.B/C").header("content-type", "application/grpc");
    let answer = client.call(request, Some(b"\0\0\0\0\0"));
    assert_eq!((&answer.body[..], &answer.trailers.unwrap()["grpc-status"]), (&b"hello"[..], &"5".parse().unwrap()));
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

/// Between two sides of HTTP/2 nothing is lost of a body of known length: the length is told, and trailers come behind it,
/// also when they come late. What has no place there stays out.
#[test]
fn trailers_that_nobody_announced_pass_between_two_sides_of_http_2() {
    for late in [false, true] {
        let (say, said) = std::sync::mpsc::channel();
        let server = Http2Server::new(h2::server::Builder::new(), move |(request, mut respond)| {
            let say = say.clone();
            async move {
                let mut body = request.into_body();
                let mut sum = 0;
                while let Some(data) = body.data().await {
                    sum += data.unwrap().len();
                }
                say.send((sum, body.trailers().await.unwrap())).unwrap();
                let head = Response::builder().header("content-length", "5").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
                if late {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                stream
                    .send_trailers(fields(&[
                        ("x-sum", "5"),
                        ("content-length", "7"),
                        ("content_length", "7"),
                        ("x-request-id", "z"),
                    ]))
                    .unwrap();
            }
        });
        let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
        let client = Http2::connect(&bed);
        let mut ready = client.send.clone();
        let answer = client.wait(async move {
            let request = Request::post("http://a.test/up").header("content-length", "11").body(()).unwrap();
            let (answer, mut stream) = ready.send_request(request, false).unwrap();
            stream.send_data(Bytes::from_static(b"hello "), false).unwrap();
            stream.send_data(Bytes::from_static(b"world"), false).unwrap();
            if late {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            stream.send_trailers(fields(&[("x-sum", "11"), ("host", "b.test"), ("x_forwarded_for", "a")])).unwrap();
            read(answer).await.unwrap()
        });
        assert_eq!(server.seen.recv_timeout(PATIENCE).unwrap().headers()["content-length"], "11");
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), (11, Some(fields(&[("x-sum", "11")]))));
        assert_eq!(
            (&answer.body[..], &answer.head.headers()["content-length"]),
            (&b"hello"[..], &"5".parse().unwrap())
        );
        assert_eq!(answer.trailers, Some(fields(&[("x-sum", "5")])));
        // A client of HTTP/1.1 has the body with its length: nobody said that there would be more.
        let mut old = bed.connect();
        for _ in 0..2 {
            let answer = old.call("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
            assert_eq!(said.recv_timeout(PATIENCE).unwrap(), (2, None));
        }
        drop((client, old));
        assert!(bed.lines().iter().all(|line| line["outcome"] == "ok"));
    }
}

/// A client that announces trailers sends them behind a length as well; a server of HTTP/1.1 gets them behind chunks.
#[test]
fn trailers_that_are_announced_come_through_to_http_1_1() {
    let server = Server::new(|peer| {
        let head = peer.request().unwrap();
        peer.say(head);
        let body = "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
        let came = String::from_utf8(peer.client.exactly(body.len())).unwrap();
        peer.say(came);
        peer.client.send(OK);
    });
    let bed = Bed::new(&[server.address], &[]);
    let client = Http2::connect(&bed);
    let mut ready = client.send.clone();
    let answer = client.wait(async move {
        let request = Request::post("http://a.test/").header("content-length", "5").header("trailer", "x-sum");
        let (answer, mut stream) = ready.send_request(request.body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        stream.send_trailers(fields(&[("x-sum", "1")])).unwrap();
        read(answer).await.unwrap()
    });
    assert_eq!(answer.head.status(), StatusCode::OK);
    let head = server.saw();
    assert_eq!((field(&head, "transfer-encoding"), field(&head, "content-length")), (Some("chunked"), None), "{head}");
    assert_eq!(server.saw(), "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
}

/// A body whose end does not come is waited for no longer than any other.
#[test]
fn an_end_that_does_not_come_is_cut() {
    let server = Http2Server::new(h2::server::Builder::new(), |(_, mut respond)| async move {
        let head = Response::builder().header("content-length", "5").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    });
    let bed = Bed::new(&[server.address], &[OVER_HTTP2, ("limits", "gap = \"700ms\"")]);
    let mut client = Http2::connect(&bed);
    let (answer, _stream) = client.send(get("/"), None);
    assert_eq!(client.wait(read(answer)).unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    drop(client);
    let line = bed.line();
    assert_eq!((&line["stage"], &line["limit"]["name"]), (&"receive".into(), &"gap".into()), "{line:#}");
    assert_eq!(line["cause"], "body-stalled", "{line:#}");
}

/// A refusal goes out with its body, in one piece: a client that sees its head alone and ends an upload short of its length,
/// as curl 7.88 does, has broken HTTP/2 by that, and its stream is reset.
#[test]
fn an_early_refusal_is_not_torn() {
    // More than is copied behind other heads.
    let long = "x".repeat(5_000);
    for (framing, pieces, whole) in [
        ("Content-Length: 6", ["no", "more"], "nomore".to_owned()),
        ("Content-Length: 5004", [&long, "more"], format!("{long}more")),
        ("Transfer-Encoding: chunked", ["2\r\nno\r\n", "4\r\nmore\r\n0\r\n\r\n"], "nomore".to_owned()),
    ] {
        let [first, rest] = pieces.map(str::to_owned);
        let server = Server::new(move |peer| {
            peer.request().unwrap();
            for piece in
                [&format!("HTTP/1.1 413 Content Too Large\r\n{framing}\r\nConnection: close\r\n\r\n"), &first, &rest]
            {
                peer.client.send(piece);
                std::thread::park_timeout(Duration::from_millis(20));
            }
            while !peer.ends() {}
        });
        let bed = Bed::new(&[server.address], &[]);
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        wire.send(&request(1, "POST", &[("content-length", "30000")], false));
        wire.send(&frame(DATA, 0, 1, &[b'x'; 10_000]));
        assert_eq!(wire.status(1), Some(413));
        wire.send(&frame(DATA, END_STREAM, 1, b""));
        let mut body = Vec::new();
        let last = wire.find(|frame| {
            if frame.kind == DATA {
                body.extend_from_slice(&frame.payload);
            }
            frame.kind == DATA && frame.flags & END_STREAM != 0 || matches!(frame.kind, RST_STREAM | GOAWAY)
        });
        assert_eq!(last.as_ref().map(|frame| frame.kind), Some(DATA), "{last:?}");
        assert!(body == whole.as_bytes(), "{}", body.escape_ascii());
    }
}

/// A refusal that does not become whole soon is not waited for: what there is goes out.
#[test]
fn an_early_refusal_that_stops_is_passed_on() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 50\r\n\r\nlong");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"60s\"\ntotal = \"60s\"")]);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(&request(1, "POST", &[], false));
    assert_eq!(wire.status(1), Some(413));
    assert_eq!(wire.find(|frame| frame.kind == DATA).unwrap().payload, b"long");
}

/// A refusal that breaks before anything of it went out was none: its client is told so, and so is the log.
#[test]
fn an_early_refusal_that_breaks_is_told() {
    let broken = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlonger");
        while !peer.ends() {}
    });
    let reset = Http2Server::new(h2::server::Builder::new(), |(_, mut respond)| async move {
        let head = Response::builder().status(413).header("content-length", "50").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        // Together with the reset, the head would be dropped.
        tokio::time::sleep(Duration::from_millis(10)).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    });
    for (server, more) in [(broken.address, ("cluster", "")), (reset.address, OVER_HTTP2)] {
        let bed = Bed::new(&[server], &[more]);
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        wire.send(&request(1, "POST", &[], false));
        let is_last = |frame: &Frame| frame.flags & END_STREAM != 0 || matches!(frame.kind, RST_STREAM | GOAWAY);
        assert_eq!(wire.status(1), Some(502));
        assert_eq!(wire.find(|frame| frame.stream == 1 && is_last(frame)).map(|frame| frame.kind), Some(DATA));
        drop(wire);
        let line = bed.line();
        assert_eq!((&line["outcome"], &line["gate"]["status"]), (&"failed".into(), &502.into()), "{line:#}");
    }
}

/// An answer that begins before its request has ended is passed on as it comes: the two may be a conversation.
#[test]
fn an_early_answer_is_not_held_back() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(peer.client.exactly(10), b"5\r\nhello\r\n");
        peer.client.send("hello");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(&request(1, "POST", &[], false));
    assert_eq!(wire.status(1), Some(200));
    wire.send(&frame(DATA, 0, 1, b"hello"));
    assert_eq!(wire.find(|frame| frame.kind == DATA).unwrap().payload, b"hello");
}

/// An answer that comes before the end of an upload is whole before its stream is reset, and the reset says that nothing is
/// wrong (RFC 9113, 8.1). It does not follow at once: curl 7.88 would take it for an answer that was cut, as it does with nginx.
#[test]
fn an_early_answer_is_whole_and_then_reset() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        while !peer.ends() {}
    });
    let refusing = ("route", "body_max = 5000");
    for (more, length) in [(vec![], None), (vec![refusing], None), (vec![refusing], Some("30000"))] {
        let bed = Bed::new(&[server.address], &more);
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        let fields: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
        wire.send(&request(1, "POST", &fields, false));
        let body = frame(DATA, 0, 1, &[b'x'; 10_000]);
        wire.send(&body);
        let head = wire.find(|frame| frame.kind == HEADERS).unwrap();
        assert_eq!((head.status(), head.flags & END_STREAM), (Some(413), 0));
        let last = wire.find(|frame| {
            let is_end = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
            is_end || matches!(frame.kind, RST_STREAM | GOAWAY)
        });
        assert_eq!(last.as_ref().map(|frame| frame.kind), Some(DATA), "{last:?}");
        // What was on its way is taken, and does no harm.
        wire.send(&[body, frame(PING, 0, 0, &[0; 8])].concat());
        let next = wire.find(|frame| matches!(frame.kind, PING | RST_STREAM | GOAWAY)).unwrap();
        assert_eq!(next.kind, PING, "{next:?}");
        let reset = wire.find(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)).unwrap();
        assert_eq!((reset.kind, reset.code()), (RST_STREAM, 0));
        wire.send(&request(3, "GET", &[], true));
        assert!(wire.find(|frame| frame.kind == HEADERS && frame.stream == 3).is_some(), "the others go on");
    }
}

/// What a server does not read takes the room of its own stream, and not that of the connection.
#[test]
fn uploads_that_are_not_taken_hold_up_no_others() {
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("POST /stays") {
                peer.say("stays");
                std::sync::mpsc::channel::<()>().1.recv_timeout(2 * PATIENCE).unwrap_err();
            }
            peer.client.exactly(5);
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let client = Http2::connect(&bed);
    let post = |path: &str| {
        let mut ready = client.send.clone();
        let length = if path == "/goes" { "5" } else { "16777216" };
        let uri = format!("http://a.test{path}");
        let request = Request::post(uri).header("content-length", length).body(()).unwrap();
        client.wait(async move {
            std::future::poll_fn(|cx| ready.poll_ready(cx)).await.unwrap();
            ready.send_request(request, false).unwrap()
        })
    };
    // More than the buffers of the system take for each.
    static PIECE: [u8; 16 << 20] = [b'x'; 16 << 20];
    let _stay: Vec<_> = (0..8)
        .map(|_| {
            let (answer, mut body) = post("/stays");
            body.send_data(Bytes::from_static(&PIECE), true).unwrap();
            assert_eq!(server.saw(), "stays");
            (answer, body)
        })
        .collect();
    // Until nothing of them moves any more: whatever the first take, there is room for the next.
    for _ in 0..5 {
        let (answer, mut body) = post("/goes");
        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        assert_eq!(client.wait(answer).unwrap().status(), 200);
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
