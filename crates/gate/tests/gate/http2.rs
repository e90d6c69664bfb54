//! HTTP/2 of clients: the same requests, limits and answers.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{net::TcpStream, runtime::Runtime};

use crate::bed::{Bed, Client, GET, OK, PATIENCE, Server, field};

/// A client of HTTP/2, which blocks.
pub(crate) struct Http2 {
    runtime: Runtime,
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    pub(crate) fn connect(bed: &Bed) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = bed.gate.addresses()[0];
        let (send, connection) = runtime.block_on(async {
            let io = TcpStream::connect(address).await.unwrap();
            h2::client::handshake(io).await.unwrap()
        });
        let connection = runtime.spawn(connection);
        Self { runtime, send, connection }
    }

    /// Within what is patience in these tests.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap() })
    }

    /// Sends a head, and what is behind it.
    pub(crate) fn send(&mut self, request: http::request::Builder, body: Option<&'static [u8]>) -> Call {
        let mut ready = self.send.clone();
        let request = request.body(()).unwrap();
        self.wait(async move {
            std::future::poll_fn(|cx| ready.poll_ready(cx)).await.unwrap();
            let (answer, mut stream) = ready.send_request(request, body.is_none()).unwrap();
            if let Some(body) = body {
                stream.send_data(Bytes::from_static(body), true).unwrap();
            }
            (answer, stream)
        })
    }

    /// Sends a request, and gives its answer with its body and trailers.
    pub(crate) fn call(&mut self, request: http::request::Builder, body: Option<&'static [u8]>) -> Answer {
        let (answer, _stream) = self.send(request, body);
        self.wait(read(answer)).unwrap()
    }
}

type Call = (h2::client::ResponseFuture, h2::SendStream<Bytes>);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn read(answer: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream): (_, RecvStream) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { head: Response::from_parts(parts, ()), body, trailers })
}

fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://a.test{path}"))
}

#[test]
fn a_request_of_http_2_is_served_as_one_of_http_1_1() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut client = Http2::connect(&bed);
    for _ in 0..2 {
        let answer = client.call(get("/x?y").header("cookie", "a=1").header("cookie", "b=2"), None);
        assert_eq!((answer.head.status(), &answer.body[..]), (StatusCode::OK, &b"hello"[..]));
        let seen = server.saw();
        assert!(seen.starts_with("GET /x?y HTTP/1.1\r\nhost: a.test\r\n"), "{seen}");
        assert_eq!(field(&seen, "cookie"), Some("a=1; b=2"));
        assert_eq!(field(&seen, "x-forwarded-proto"), Some("http"));
        assert!(field(&seen, "x-envoy-expected-rq-timeout-ms").is_some(), "{seen}");
        assert_eq!(field(&seen, "connection"), None);
    }
    // The server's connection is the same.
    assert_eq!(server.connections(), 1);
    drop(client);
    let lines = bed.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["gate"]["method"], &lines[0]["gate"]["host"]), (&"GET".into(), &"a.test".into()));
}

#[test]
fn requests_are_served_beside_each_other() {
    // Nobody is answered before all are there.
    let all = std::sync::Arc::new(std::sync::Barrier::new(20));
    let server = Server::new(move |peer| {
        peer.request().unwrap();
        all.wait();
        peer.client.send(OK);
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = Http2::connect(&bed);
    let calls: Vec<_> = (0..20).map(|_| client.send(get("/"), None)).collect();
    for (answer, _stream) in calls {
        assert_eq!(client.wait(read(answer)).unwrap().body, b"hello");
    }
}

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

#[test]
fn a_client_that_resets_its_stream_has_left() {
    let server = Server::silent();
    let bed = Bed::new(&[server.address], &[]);
    let mut client = Http2::connect(&bed);
    let (answer, mut stream) = client.send(get("/"), None);
    assert_eq!(server.saw(), "asked");
    stream.send_reset(Reason::CANCEL);
    drop(answer);
    // The server's work is cancelled, too.
    assert_eq!(server.saw(), "ended");
    // The connection goes on.
    let (answer, mut stream) = client.send(get("/"), None);
    assert_eq!(server.saw(), "asked");
    stream.send_reset(Reason::CANCEL);
    drop((answer, client));
    let lines = bed.lines();
    assert_eq!(lines[0]["cause"], "cancelled-by-caller", "{lines:#?}");
    assert_eq!((&lines[0]["stage"], &lines[0]["gate"]["flags"]), (&"wait".into(), &"DC".into()));
}

#[test]
fn a_limit_that_fires_ends_one_stream_and_no_other() {
    let server = Server::new(|peer| {
        let Some(head) = peer.request() else { return };
        if head.starts_with("GET /slow") {
            peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        } else if head.starts_with("GET /never") {
        } else {
            peer.client.send(OK);
        }
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "wait = \"200ms\"\ngap = \"200ms\"")]);
    let mut client = Http2::connect(&bed);
    let (never, _never) = client.send(get("/never"), None);
    let (slow, _slow) = client.send(get("/slow"), None);
    let answer = client.wait(read(never)).unwrap();
    assert_eq!(answer.head.status(), StatusCode::GATEWAY_TIMEOUT);
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&problem["cause"], &problem["stage"]), (&"server-slow".into(), &"wait".into()));
    // What has begun is cut so that nobody takes it for whole.
    let cut = client.wait(read(slow)).unwrap_err();
    assert_eq!((cut.reason(), cut.is_reset()), (Some(Reason::INTERNAL_ERROR), true), "{cut}");
    assert_eq!(client.call(get("/"), None).body, b"hello");
}

#[test]
fn a_call_of_grpc_is_told_in_its_own_words() {
    let server = Server::silent();
    let bed = Bed::new(&[server.address], &[("limits", "wait = \"100ms\""), ("route", "path = \"/a.B\"")]);
    let mut client = Http2::connect(&bed);
    let grpc = |path: &str| {
        Request::post(format!("http://a.test{path}"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
    };
    let answer = client.call(grpc("/a.B/Call"), Some(b"\0\0\0\0\0"));
    assert_eq!(answer.head.status(), StatusCode::OK);
    let fields = answer.head.headers();
    assert_eq!(
        (&fields["grpc-status"], &fields["content-type"]),
        (&"4".parse().unwrap(), &"application/grpc".parse().unwrap())
    );
    assert_eq!(fields["grpc-message"], "Gateway Timeout: server-slow in wait");
    let answer = client.call(grpc("/c.D/Call"), Some(b"\0\0\0\0\0"));
    assert_eq!(answer.head.headers()["grpc-status"], "12");
    drop(client);
    let lines = bed.lines();
    assert_eq!((&lines[0]["gate"]["status"], &lines[0]["cause"]), (&504.into(), &"server-slow".into()));
}

#[test]
fn an_early_answer_comes_whole_before_the_rest_of_the_request() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.client.send("HTTP/1.1 413 Too Long\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlong");
    });
    let bed = Bed::new(&[server.address], &[]);
    let client = Http2::connect(&bed);
    let mut ready = client.send.clone();
    let answer = client.wait(async move {
        let request = Request::post("http://a.test/up").body(()).unwrap();
        let (answer, _stream) = ready.send_request(request, false).unwrap();
        read(answer).await.unwrap()
    });
    assert_eq!((answer.head.status().as_u16(), &answer.body[..]), (413, &b"long"[..]));
}

#[test]
fn what_http_1_1_refuses_http_2_does_too() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("route", "path = \"/ok\"\nbody_max = 3")]);
    let mut client = Http2::connect(&bed);
    let status = |answer: Answer| answer.head.status().as_u16();
    assert_eq!(status(client.call(get("/other"), None)), 404);
    assert_eq!(status(client.call(get("/ok/../secret"), None)), 400);
    assert_eq!(status(client.call(get("/ok").header("host", "b.test"), None)), 400);
    assert_eq!(status(client.call(Request::post("http://a.test/ok"), Some(b"four"))), 413);
}

#[test]
fn an_idle_connection_is_ended_with_a_goodbye() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "idle = \"150ms\"\nhead = \"10s\"")]);
    let mut client = Http2::connect(&bed);
    assert_eq!(client.call(get("/"), None).body, b"hello");
    let Http2 { runtime, connection, send } = client;
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap() });
    assert!(ended.is_ok(), "{ended:?}");
    drop(send);
}

#[test]
fn a_connection_that_never_asks_is_closed_in_time() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "head = \"150ms\"")]);
    // A piece of the preface is no HTTP/2 yet.
    let mut client = bed.connect();
    client.send("PRI * HTTP/2.0\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 408"));
    let mut client = bed.connect();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let (bytes, _) = client.rest();
    assert!(!bytes.starts_with(b"HTTP/1.1"), "{}", bytes.escape_ascii());
    let http2 = Http2::connect(&bed);
    let Http2 { runtime, connection, send } = http2;
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap() });
    assert!(ended.is_ok(), "{ended:?}");
    drop(send);
}

#[test]
fn a_listener_may_leave_http_2_out() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "http2 = false")]);
    let mut client = bed.connect();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 505"), "as any other version");
}

#[test]
fn a_drain_lets_streams_end_and_says_goodbye() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Arc::new(std::sync::Mutex::new(gone));
    let server = Server::new(move |peer| {
        peer.request().unwrap();
        peer.say("asked");
        gone.lock().unwrap().recv().unwrap();
        peer.client.send(OK);
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut client = Http2::connect(&bed);
    let (answer, _stream) = client.send(get("/"), None);
    assert_eq!(server.saw(), "asked");
    let draining = std::thread::spawn(move || bed.lines());
    // It takes no more connections from the moment on in which it drains.
    go.send(()).unwrap();
    let whole = client.wait(read(answer)).unwrap();
    assert_eq!(whole.body, b"hello");
    assert_eq!(draining.join().unwrap().len(), 1);
}

#[test]
fn http_1_1_goes_on_beside_it() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut one = Client::new(bed.gate.addresses()[0]);
    assert_eq!(one.call(GET).status, 200);
    let mut other = Client::new(bed.gate.addresses()[0]);
    // It begins as the preface does.
    other.send("P");
    other.send("OST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(other.answer().status, 200);
}
