//! HTTP/2 of clients: the same requests, limits and answers.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{net::TcpStream, runtime::Runtime};

use crate::bed::{Bed, Client, GET, OK, PATIENCE, Server, field, until};

/// A client of HTTP/2, which blocks.
pub(crate) struct Http2 {
    runtime: Runtime,
    pub(crate) send: SendRequest<Bytes>,
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

pub(crate) fn get(path: &str) -> http::request::Builder {
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

/// What each side speaks is in the log, in both of its formats.
#[test]
fn the_log_says_what_was_spoken() {
    let old = Server::answering(OK);
    let new = Http2Server::answering(h2::server::Builder::new(), "hello");
    for (server, spoken) in [(old.address, "HTTP/1.1"), (new.address, "HTTP/2")] {
        for format in ["json", "text"] {
            let log = format!("format = {format:?}");
            let bed =
                Bed::new(&[server], &[("log", &log), ("cluster", if spoken == "HTTP/2" { OVER_HTTP2.1 } else { "" })]);
            let call = |text: &str| {
                let mut client = bed.connect();
                client.send(text);
                client.head()
            };
            let ended = |count| {
                until("it is in the log", || {
                    std::fs::read_to_string(bed.log()).is_ok_and(|text| text.lines().count() == count)
                })
            };
            call("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
            ended(1);
            call("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
            ended(2);
            let mut client = Http2::connect(&bed);
            client.call(get("/"), None);
            ended(3);
            // One that is refused, and one that nobody could read.
            client.call(get("/a/../b"), None);
            ended(4);
            drop(client);
            call("GET / HTTP/1.1\r\n\r\n");
            let expected = ["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/2", "-"];
            if format == "json" {
                let lines = bed.lines();
                let said =
                    |name: &'static str| lines.iter().map(move |line| line["gate"][name].as_str().unwrap_or("-"));
                assert_eq!(said("protocol").collect::<Vec<_>>(), expected);
                assert_eq!(said("server_protocol").collect::<Vec<_>>(), [spoken, spoken, spoken, "-", "-"]);
            } else {
                ended(5);
                let text = std::fs::read_to_string(bed.log()).unwrap();
                // Behind the path.
                let said: Vec<&str> = text.lines().map(|line| line.split(' ').nth(8).unwrap()).collect();
                assert_eq!(said, expected, "{text}");
            }
        }
    }
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
    let bed = Bed::new(&[server.address], &[("limits", "wait = \"700ms\"\ngap = \"700ms\"")]);
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

/// A body that drips is its client's fault; calls of gRPC say something when there is something to say.
#[test]
fn a_body_that_drips_ends_its_stream_alone() {
    let server = Server::new(|peer| {
        if peer.request().is_some_and(|head| head.starts_with("POST /whole")) {
            peer.client.send(OK);
        }
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("listener", "body_rate = \"1000/700ms\"")]);
    let mut client = Http2::connect(&bed);
    let post = |path: &str| Request::post(format!("http://a.test{path}"));
    let open = |request: http::request::Builder| {
        let mut ready = client.send.clone();
        client.wait(async move {
            std::future::poll_fn(|cx| ready.poll_ready(cx)).await.unwrap();
            ready.send_request(request.body(()).unwrap(), false).unwrap()
        })
    };
    let (call, mut messages) = open(post("/call").header("content-type", "application/grpc"));
    messages.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false).unwrap();
    let (answer, mut body) = open(post("/slow"));
    let dripping = client.runtime.spawn(async move {
        while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let answer = client.wait(read(answer)).unwrap();
    assert_eq!(answer.head.status(), StatusCode::REQUEST_TIMEOUT);
    // What is still sent is of no use to anybody: the stream ends.
    client.wait(dripping).unwrap();
    assert_eq!(client.call(post("/whole"), Some(b"x")).body, b"hello");
    drop((call, messages, client));
    let lines = bed.lines();
    let line = lines.iter().find(|line| line["gate"]["path"] == "/slow").unwrap();
    assert_eq!((&line["cause"], &line["limit"]["name"]), (&"sender-slow".into(), &"rate".into()), "{line:#}");
    let call = lines.iter().find(|line| line["gate"]["path"] == "/call").unwrap();
    assert_eq!(call["limit"], serde_json::Value::Null, "{call:#}");
}

#[test]
fn a_call_of_grpc_is_told_in_its_own_words() {
    let server = Server::silent();
    let bed = Bed::new(&[server.address], &[("limits", "wait = \"700ms\""), ("route", "path = \"/a.B\"")]);
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
    assert_eq!(
        status(client.call(Request::post("http://a.test/ok").header("content-length", "4"), Some(b"four"))),
        413
    );
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

/// A server of HTTP/2: each request is answered by `script`, in a task of its own.
pub(crate) struct Http2Server {
    pub(crate) address: std::net::SocketAddr,
    accepted: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    pub(crate) seen: std::sync::mpsc::Receiver<Request<()>>,
    _runtime: Runtime,
}

pub(crate) type Asked = (Request<RecvStream>, h2::server::SendResponse<Bytes>);

impl Http2Server {
    pub(crate) fn new<F>(options: h2::server::Builder, script: impl Fn(Asked) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (say, seen) = std::sync::mpsc::channel();
        let counts = std::sync::Arc::clone(&accepted);
        runtime.spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                counts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let (options, script, say) = (options.clone(), script.clone(), say.clone());
                tokio::spawn(async move {
                    let Ok(mut connection) = options.handshake::<_, Bytes>(io).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let mut head = Request::new(());
                        *head.method_mut() = request.method().clone();
                        *head.uri_mut() = request.uri().clone();
                        *head.headers_mut() = request.headers().clone();
                        let goodbye = request.uri().path() == "/last";
                        let _ = say.send(head);
                        tokio::spawn(script((request, respond)));
                        if goodbye {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
        Self { address, accepted, seen, _runtime: runtime }
    }

    /// One that answers each request with this body, and trailers behind it.
    fn answering(options: h2::server::Builder, body: &'static str) -> Self {
        Self::new(options, move |(_, mut respond)| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(body.as_bytes()), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
    }

    fn connections(&self) -> usize {
        self.accepted.load(std::sync::atomic::Ordering::Relaxed)
    }
}

pub(crate) const OVER_HTTP2: (&str, &str) = ("cluster", "http2 = true");

#[test]
fn requests_of_either_version_share_a_connection_to_a_server_of_http_2() {
    let server = Http2Server::answering(h2::server::Builder::new(), "hello");
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut old = bed.connect();
    old.send("GET /x?y HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\n\r\n");
    assert!(old.head().to_ascii_lowercase().contains("transfer-encoding: chunked"));
    let whole = "5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n";
    assert_eq!(String::from_utf8(old.exactly(whole.len())).unwrap(), whole);
    let seen = server.seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(seen.uri(), "http://a.test/x?y");
    assert_eq!(
        (&seen.headers()["cookie"], &seen.headers()["x-forwarded-proto"]),
        (&"a=1".parse().unwrap(), &"http".parse().unwrap())
    );
    assert!(seen.headers().contains_key("x-envoy-expected-rq-timeout-ms") && !seen.headers().contains_key("host"));
    let mut client = Http2::connect(&bed);
    let answer = client
        .call(Request::post("http://a.test/a.B/C").header("content-type", "application/grpc"), Some(b"\0\0\0\0\0"));
    assert_eq!((&answer.body[..], &answer.trailers.unwrap()["grpc-status"]), (&b"hello"[..], &"0".parse().unwrap()));
    let seen = server.seen.recv_timeout(PATIENCE).unwrap();
    // For who would not answer gRPC without it.
    assert_eq!(seen.headers()["te"], "trailers");
    assert!(seen.headers().contains_key("grpc-timeout"), "{seen:?}");
    assert_eq!(server.connections(), 1);
}

/// What HTTP/1.1 lets through and HTTP/2 has no place for is the fault of who asks: no server is left alone for it.
#[test]
fn what_cannot_be_said_in_http_2_is_refused() {
    let strange = [("/a<b", "a.test"), ("/a>b", "a.test"), ("/a`b", "a.test"), ("/", "a%22")];
    let server = Http2Server::answering(h2::server::Builder::new(), "hello");
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut client = bed.connect();
    for (path, host) in strange {
        let answer = client.call(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((answer.status, &answer.problem()["cause"]), (400, &"protocol-error".into()), "{path} {host}");
    }
    drop(client);
    for (line, strange) in bed.lines().iter().zip(strange) {
        let told = &line["gate"];
        assert_eq!((&told["termination"], &told["flags"]), (&"PH".into(), &"DPE".into()), "{strange:?}: {line:#}");
        let summary = line["verdicts"][0]["summary"].as_str().unwrap();
        assert!(summary.starts_with("the client 127.0.0.1:") && summary.contains("HTTP/2"), "{summary}");
    }
    assert_eq!(server.seen.try_iter().count(), 0);
}

#[test]
fn who_comes_while_a_connection_is_opened_waits_for_it() {
    let server = Http2Server::answering(h2::server::Builder::new(), "hello");
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut client = Http2::connect(&bed);
    let calls: Vec<_> = (0..50).map(|_| client.send(get("/"), None)).collect();
    for (answer, _stream) in calls {
        assert_eq!(client.wait(read(answer)).unwrap().body, b"hello");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn the_streams_that_a_server_allows_are_all_that_are_used() {
    let mut options = h2::server::Builder::new();
    options.max_concurrent_streams(2);
    let server = Http2Server::answering(options, "hello");
    let bed = Bed::new(&[server.address], &[("cluster", "http2 = true\nconnections = 1")]);
    let mut client = Http2::connect(&bed);
    // Its settings are here with the first answer.
    assert_eq!(client.call(get("/"), None).body, b"hello");
    let calls: Vec<_> = (0..20).map(|_| client.send(get("/"), None)).collect();
    for (answer, _stream) in calls {
        assert_eq!(client.wait(read(answer)).unwrap().body, b"hello");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn no_stream_in_time_is_told_as_such() {
    let mut options = h2::server::Builder::new();
    options.max_concurrent_streams(1);
    let server = Http2Server::new(options, |(request, mut respond)| async move {
        if request.uri().path() == "/first" {
            let _ = respond.send_response(Response::new(()), true);
            return;
        }
        std::future::pending::<()>().await;
    });
    let bed = Bed::new(
        &[server.address],
        &[("cluster", "http2 = true\nconnections = 1"), ("limits", "queue = \"700ms\"\nwait = \"10s\"")],
    );
    let mut client = Http2::connect(&bed);
    assert_eq!(client.call(get("/first"), None).head.status(), StatusCode::OK);
    let (_never, _stream) = client.send(get("/"), None);
    (0..2).for_each(|_| drop(server.seen.recv_timeout(PATIENCE).unwrap()));
    let answer = client.call(get("/"), None);
    assert_eq!(answer.head.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&problem["cause"], &problem["stage"]), (&"h2-streams-exhausted".into(), &"queue".into()));
}

#[test]
fn after_a_goodbye_another_connection_is_taken() {
    let server = Http2Server::answering(h2::server::Builder::new(), "hello");
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut client = Http2::connect(&bed);
    for path in ["/", "/last", "/", "/"] {
        assert_eq!(client.call(get(path), None).body, b"hello", "{path}");
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_connection_on_which_nothing_comes_is_not_trusted_again() {
    // It takes what is sent, and never says a word.
    let server = Server::new(|peer| while !peer.ends() {});
    let bed = Bed::new(&[server.address], &[OVER_HTTP2, ("limits", "wait = \"700ms\"")]);
    let mut client = Http2::connect(&bed);
    for _ in 0..2 {
        assert_eq!(client.call(get("/"), None).head.status(), StatusCode::GATEWAY_TIMEOUT);
    }
    assert_eq!(server.connections(), 2);
    drop(client);
    let lines = bed.lines();
    assert_eq!((&lines[1]["cause"], &lines[1]["stage"]), (&"server-slow".into(), &"wait".into()));
}

#[test]
fn a_window_that_stays_closed_is_told_as_such() {
    let server = Http2Server::new(h2::server::Builder::new(), |(request, mut respond)| async move {
        // It holds the body, and reads none of it.
        let _held = request;
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    });
    let bed = Bed::new(&[server.address], &[OVER_HTTP2, ("limits", "send = \"1500ms\"")]);
    let mut client = Client::new(bed.gate.addresses()[0]);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n");
    let mut stream = client.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &[b'x'; 1_000_000]));
    assert_eq!(client.answer().status, 504);
    drop(client);
    let _ = writing.join();
    let line = bed.line();
    assert_eq!((&line["cause"], &line["stage"]), (&"h2-window-blocked".into(), &"send".into()), "{line:#}");
}

/// curl goes as soon as it has as much as the length told, whether trailers may follow or not.
#[test]
fn who_goes_with_the_whole_body_was_served() {
    for (length, outcome) in [("5", "ok"), ("6", "cancelled")] {
        let server = Http2Server::new(h2::server::Builder::new(), move |(_, mut respond)| async move {
            let head = Response::builder().header("content-length", length).body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
            // The end never comes.
            std::future::pending::<()>().await;
        });
        let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
        let mut client = Http2::connect(&bed);
        let (answer, mut stream) = client.send(get("/"), None);
        let took = client.wait(async { answer.await.unwrap().into_body().data().await });
        assert_eq!(took.unwrap().unwrap(), "hello");
        stream.send_reset(Reason::CANCEL);
        drop(client);
        let line = bed.line();
        assert_eq!(line["outcome"], outcome, "{line:#}");
    }
}

#[test]
fn an_answer_that_its_server_resets_is_never_whole() {
    let server = Http2Server::new(h2::server::Builder::new(), |(_, mut respond)| async move {
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"hel"), false).unwrap();
        // Until it is written.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    });
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut old = bed.connect();
    old.send(GET);
    old.head();
    let (bytes, _) = old.rest();
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "{}", bytes.escape_ascii());
    let mut client = Http2::connect(&bed);
    let (answer, _stream) = client.send(get("/"), None);
    assert_eq!(client.wait(read(answer)).unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    drop((client, old));
    let lines = bed.lines();
    assert!(lines.iter().all(|line| line["stage"] == "receive" && line["outcome"] == "failed"), "{lines:#?}");
}

#[test]
fn a_server_that_speaks_something_else_is_told_as_such() {
    let server = Server::new(|peer| {
        peer.client.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut client = Client::new(bed.gate.addresses()[0]);
    assert_eq!(client.call(GET).status, 502);
    drop(client);
    let line = bed.line();
    assert_eq!(line["cause"], "protocol-error", "{line:#}");
}

#[test]
fn a_server_of_http_2_is_probed_in_its_own_words() {
    let well = Http2Server::answering(h2::server::Builder::new(), "hello");
    let ill = Http2Server::new(h2::server::Builder::new(), |(_, mut respond)| async move {
        let _ = respond.send_response(Response::builder().status(500).body(()).unwrap(), true);
    });
    let probed = "http2 = true\nhealth = { path = \"/healthz\", every = \"100ms\", unhealthy = 1 }";
    let bed = Bed::new(&[well.address, ill.address], &[("cluster", probed)]);
    for server in [&well, &ill] {
        assert_eq!(server.seen.recv_timeout(PATIENCE).unwrap().uri().path(), "/healthz");
    }
    let log = bed.log();
    until("the other is ill", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("it answered 500")));
    let lines = bed.lines();
    assert!(!lines.iter().any(|line| line.to_string().contains(&well.address.to_string())), "{lines:#?}");
}

#[test]
fn a_goodbye_costs_no_request_with_a_body() {
    let server = Http2Server::new(h2::server::Builder::new(), |(request, mut respond)| async move {
        if request.uri().path() == "/hold" {
            return std::future::pending().await;
        }
        let _ = respond.send_response(Response::new(()), true);
    });
    let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
    let mut client = Http2::connect(&bed);
    let _held = client.send(get("/hold"), None);
    assert_eq!(server.seen.recv_timeout(PATIENCE).unwrap().uri().path(), "/hold");
    assert_eq!(client.call(get("/last"), None).head.status(), StatusCode::OK);
    for _ in 0..5 {
        assert_eq!(client.call(Request::post("http://a.test/"), Some(b"body")).head.status(), StatusCode::OK);
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn no_more_is_sent_than_a_server_has_said_that_it_takes() {
    let mut options = h2::server::Builder::new();
    options.max_concurrent_streams(1);
    let server = Http2Server::answering(options, "hello");
    let bed = Bed::new(&[server.address], &[("cluster", "http2 = true\nconnections = 1")]);
    let mut client = Http2::connect(&bed);
    // At once, on a connection that is not there yet.
    let calls: Vec<_> = (0..8).map(|_| client.send(get("/"), None)).collect();
    for (answer, _stream) in calls {
        assert_eq!(client.wait(read(answer)).unwrap().body, b"hello");
    }
    drop(client);
    assert!(bed.lines().iter().all(|line| line["outcome"] == "ok"));
}

#[test]
fn who_finds_no_stream_opens_another_connection() {
    let all = std::sync::Arc::new(tokio::sync::Barrier::new(4));
    let mut options = h2::server::Builder::new();
    options.max_concurrent_streams(2);
    // Nobody is answered before four are there, and two is what a connection carries.
    let server = Http2Server::new(options, move |(_, mut respond)| {
        let all = std::sync::Arc::clone(&all);
        async move {
            all.wait().await;
            let _ = respond.send_response(Response::new(()), true);
        }
    });
    let bed = Bed::new(&[server.address], &[("cluster", "http2 = true\nconnections = 2")]);
    let mut client = Http2::connect(&bed);
    let calls: Vec<_> = (0..4).map(|_| client.send(get("/"), None)).collect();
    for (answer, _stream) in calls {
        assert_eq!(client.wait(read(answer)).unwrap().head.status(), StatusCode::OK);
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_dead_connection_is_left_whoevers_limit_it_was() {
    let server = Server::new(|peer| while !peer.ends() {});
    let bed = Bed::new(&[server.address], &[OVER_HTTP2, ("limits", "total = \"700ms\"")]);
    let mut client = Http2::connect(&bed);
    for _ in 0..2 {
        assert_eq!(client.call(get("/"), None).head.status(), StatusCode::GATEWAY_TIMEOUT);
    }
    assert_eq!(server.connections(), 2);
}

/// A server that refuses a stream has not looked at it: it gets the request once more, if that is still there.
#[test]
fn what_was_refused_is_sent_again() {
    for (head, body) in [("", ""), ("Content-Length: 4\r\n", "body"), ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")] {
        let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let server = Http2Server::new(h2::server::Builder::new(), move |(request, mut respond)| {
            let refuses = first.swap(false, std::sync::atomic::Ordering::Relaxed);
            async move {
                if refuses {
                    return respond.send_reset(Reason::REFUSED_STREAM);
                }
                let mut body = request.into_body();
                while body.data().await.is_some() {}
                let _ = respond.send_response(Response::new(()), true);
            }
        });
        let bed = Bed::new(&[server.address], &[OVER_HTTP2]);
        let mut client = bed.connect();
        client.send(&format!("POST / HTTP/1.1\r\nHost: a.test\r\n{head}\r\n"));
        // Of the body nothing has come.
        assert!(server.seen.recv_timeout(PATIENCE).is_ok());
        // A head makes room for chunks: where that is so, nothing is sent in its place.
        let may_be_lost = head.starts_with('T');
        let again = server.seen.recv_timeout(if may_be_lost { Duration::from_millis(500) } else { PATIENCE });
        assert!(again.is_ok() || may_be_lost, "{head}");
        client.send(body);
        let status = client.head();
        let lost = may_be_lost && status.starts_with("HTTP/1.1 502");
        assert!(status.starts_with("HTTP/1.1 200") || lost, "{head}: {status}");
    }
}
