//! Heads as they were sent, without their secrets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Version};
use http_body_util::{BodyExt, Empty};
use overdue::{
    Client, Limit, Limits, Stage,
    client::{Redaction, Snapshot},
};
use tokio::io::AsyncReadExt;

use crate::{
    finish,
    http2_server::{self, answer, h2c, settings},
    log_of, ms, post, root,
    server::{OK, Server},
};

/// Keeps every head that comes, and answers it.
async fn listening() -> (Server, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heads);
    let server = Server::start(move |mut peer, _| {
        let kept = Arc::clone(&kept);
        async move {
            loop {
                let head = peer.head().await?;
                let length = head
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
                kept.lock().unwrap().push(head);
                peer.read_exact(length).await?;
                peer.send(OK).await?;
            }
        }
    })
    .await;
    (server, heads)
}

fn asking(redaction: Redaction) -> Client {
    Client::builder().snapshot(redaction).build().unwrap()
}

async fn snapshot_of(client: &Client, request: Request<Empty<Bytes>>) -> Snapshot {
    let response = client.call(&root(), request).await.unwrap();
    let log = log_of(&response);
    response.into_body().collect().await.unwrap();
    let [snapshot] = log.snapshots().try_into().unwrap();
    snapshot
}

fn text(snapshot: &Snapshot) -> &str {
    std::str::from_utf8(&snapshot.head).unwrap()
}

#[tokio::test]
async fn without_secrets_it_is_byte_by_byte_what_the_server_got() {
    let (server, heads) = listening().await;
    let client = asking(Redaction::default());
    let request = Request::get(server.url("/a/b"))
        .header("X-First", "1")
        .header("accept", "*/*")
        .header("x-first", "again")
        .body(Empty::new())
        .unwrap();
    let snapshot = snapshot_of(&client, request).await;
    assert_eq!((snapshot.attempt, snapshot.version, snapshot.left_out), (1, Version::HTTP_11, 0));
    let head = heads.lock().unwrap().concat();
    assert_eq!(text(&snapshot), head);
    // That it is a head at all:
    assert!(head.starts_with("GET /a/b HTTP/1.1\r\nhost: 127.0.0.1:") && head.ends_with("\r\n\r\n"), "{head}");

    let response = client.call(&root(), post(server.url("/"), "data")).await.unwrap();
    let log = log_of(&response);
    finish(response).await;
    assert_eq!(text(&log.snapshots()[0]), heads.lock().unwrap()[1]);
    assert!(text(&log.snapshots()[0]).contains("content-length: 4\r\n"));
}

#[tokio::test]
async fn secrets_are_hidden_and_the_rest_is_seen() {
    let (server, heads) = listening().await;
    let client =
        asking(Redaction::default().hide("X-Tenant").hide("page").show("q").show("page").show("idempotency-key"));
    let url = server.url("/find?q=rust&sig=abc=d&page=2&flag&=v&");
    let mut marked = HeaderValue::from_static("marked");
    marked.set_sensitive(true);
    let request = Request::get(url)
        .header("authorization", "Basic dTpw")
        .header("proxy-authorization", "secret1")
        .header("cookie", "a=secret2")
        .header("x-api-key", "secret3")
        .header("x-amz-security-token", "secret4")
        .header("x-session-id", "secret5")
        .header("x-auth", "secret6")
        .header("x-tenant", "secret7")
        .header("x-forwarded-as", "bearer secret8")
        .header("x-plain", marked)
        .header("idempotency-key", "shown1")
        .header("x-author", "shown2")
        .header("x-monkey", "shown3")
        .header("referer", "https://user:pass@example.test/p@th?code=secret9&q=shown4")
        .body(Empty::new())
        .unwrap();
    let snapshot = snapshot_of(&client, request).await;
    let expected = format!(
        "GET /find?q=rust&sig=***&page=***&***&=***& HTTP/1.1\r\n\
         host: {}\r\n\
         authorization: ***\r\n\
         proxy-authorization: ***\r\n\
         cookie: ***\r\n\
         x-api-key: ***\r\n\
         x-amz-security-token: ***\r\n\
         x-session-id: ***\r\n\
         x-auth: ***\r\n\
         x-tenant: ***\r\n\
         x-forwarded-as: ***\r\n\
         x-plain: ***\r\n\
         idempotency-key: shown1\r\n\
         x-author: shown2\r\n\
         x-monkey: shown3\r\n\
         referer: https://***@example.test/p@th?code=***&q=shown4\r\n\r\n",
        server.addr
    );
    assert_eq!(text(&snapshot), expected);
    // The server got all of it.
    let head = heads.lock().unwrap().concat();
    assert!(head.contains("secret9") && head.contains("x-plain: marked") && head.contains("sig=abc=d"), "{head}");
}

#[tokio::test]
async fn secrets_are_hidden_in_whatever_guise_they_come() {
    let (server, _) = listening().await;
    let client = asking(Redaction::default().show("page"));
    let fields = [
        ("x-page", "https://app.test/done#access_token=HUSH", "https://app.test/done#access_token=***"),
        ("x-next", "https://app.test/?page=2#code=HUSH", "https://app.test/?page=2#code=***"),
        ("x-base", "//user:HUSH@app.test/a", "//***@app.test/a"),
        ("link", "<https://a.test/x>, <https://user:HUSH@b.test/y>", "<https://a.test/x>, <https://***@b.test/y>"),
        ("x-both", "https://a.test/?x=1&https://u:HUSH@b.test/?y=2", "https://a.test/?x=***&***"),
        ("x-assertion", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJIVVNIIn0.HUSH", "***"),
        ("x-passcode", "HUSH", "***"),
        ("x-accesskey", "HUSH", "***"),
        ("x-sid", "HUSH", "***"),
        ("x-plain", "Token HUSH", "***"),
        ("x-path", "/a@b//c@d", "/a@b//c@d"),
        ("x-oauth", "HUSH", "***"),
        ("x-authn", "HUSH", "***"),
        ("x-led", "  Bearer HUSH", "***"),
        ("x-led-url", " //user:HUSH@app.test/a", " //***@app.test/a"),
        ("x-relative", "report.pdf?sig=HUSH&page=2", "report.pdf?sig=***&page=2"),
        ("x-upstream", "user:HUSH@db.test:5432", "***@db.test:5432"),
        ("x-upstreams", "a.test, user:HUSH@b.test", "a.test, ***@b.test"),
        ("host", "HUSH@app.test", "***@app.test"),
        ("from", "joe@app.test", "joe@app.test"),
        ("x-flag", "?0", "?0"),
    ];
    let mut request = Request::get(server.url("/"));
    for (name, value, _) in fields {
        request = request.header(name, value);
    }
    let snapshot = snapshot_of(&client, request.body(Empty::new()).unwrap()).await;
    let shown = text(&snapshot);
    assert!(!shown.contains("HUSH"), "{shown}");
    for (name, _, expected) in fields {
        assert!(shown.contains(&format!("\r\n{name}: {expected}\r\n")), "{name}: {shown}");
    }
}

#[tokio::test]
async fn nothing_is_hidden_only_from_those_who_say_so() {
    let (server, heads) = listening().await;
    let mut marked = HeaderValue::from_bytes(b"caf\xe9 \\ \"\t").unwrap();
    marked.set_sensitive(true);
    let request = Request::get(server.url("/?token=t"))
        .header("x-raw", marked)
        .header("cookie", "a=b")
        .extension(Redaction::dangerously_hide_nothing())
        .body(Empty::new())
        .unwrap();
    // The request's own word counts more than the client's.
    let snapshot = snapshot_of(&asking(Redaction::default()), request).await;
    assert_eq!(String::from_utf8_lossy(&snapshot.head), heads.lock().unwrap().concat());
    let shown = snapshot.to_string();
    assert!(shown.is_ascii() && shown.contains(r#"x-raw: caf\xe9 \\ "\t"#), "{shown}");
    assert!(shown.contains("\n> cookie: a=b"), "{shown}");
}

#[tokio::test]
async fn nobody_pays_who_does_not_ask() {
    let (server, _) = listening().await;
    let response = Client::new().unwrap().get(&root(), &server.url("/")).await.unwrap();
    assert!(log_of(&response).snapshots().is_empty());
}

#[tokio::test]
async fn a_failed_call_has_it_with_the_limits_that_held() {
    let server = Server::start(|peer, _| peer.silent()).await;
    let mut limits = Limits::default();
    limits.set(Limit::stage(Stage::Wait, ms(50))).unwrap();
    let context = root().child(Limit::total(ms(40_000)));
    let mut request = Request::get(server.url("/slow?id=7")).body(Empty::<Bytes>::new()).unwrap();
    request.extensions_mut().insert(limits.clone());
    request.extensions_mut().insert(Redaction::default());
    let error = Client::new().unwrap().call(&context, request).await.unwrap_err();
    let [snapshot] = error.snapshots() else { panic!("{error}") };
    assert!(text(snapshot).starts_with("GET /slow?id=*** HTTP/1.1\r\n"));
    assert_eq!(snapshot.limits, limits);
    // The caller's 40 s are earlier than the client's own 60 s.
    let deadline = snapshot.deadline.as_ref().unwrap();
    assert_eq!((deadline.limit().value, deadline.asked().value), (ms(40_000), ms(60_000)));
    assert!(snapshot.remaining.unwrap() <= ms(40_000));
    let shown = snapshot.to_string();
    assert!(shown.starts_with("attempt 1, HTTP/1.1, ") && shown.contains(" left of total 40s ("), "{shown}");
    assert!(shown.contains("limits: send 30s (default), wait 50ms (") && shown.contains("snapshot.rs:"), "{shown}");
}

#[tokio::test]
async fn what_was_not_sent_is_not_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = asking(Redaction::default()).get(&root(), &format!("http://{free}/")).await.unwrap_err();
    assert!(error.stage() == Stage::Connect && error.snapshots().is_empty(), "{error}");

    // A limit that has passed before it begins: there is a connection, and nothing goes over it.
    let server = Server::answering(OK).await;
    for builder in [Client::builder(), h2c()] {
        let client = builder.limit(Limit::stage(Stage::Send, ms(0))).snapshot(Redaction::default()).build().unwrap();
        let error = client.get(&root(), &server.url("/")).await.unwrap_err();
        assert!(error.stage() == Stage::Send && error.snapshots().is_empty(), "{error}");
    }
}

#[tokio::test]
async fn every_attempt_that_sent_has_its_own() {
    let server = Server::start(|mut peer, number| async move {
        peer.head().await?;
        peer.send(OK).await?;
        peer.head().await?;
        // The kept connection dies with the second request in its hands.
        if number == 1 { Ok(()) } else { peer.send(OK).await }
    })
    .await;
    let client = asking(Redaction::default());
    finish(client.get(&root(), &server.url("/first")).await.unwrap()).await;
    let response = client.get(&root(), &server.url("/second")).await.unwrap();
    let snapshots = log_of(&response).snapshots();
    let numbers: Vec<_> = snapshots.iter().map(|snapshot| snapshot.attempt).collect();
    assert_eq!(numbers, [1, 2]);
    assert!(snapshots.iter().all(|snapshot| text(snapshot).starts_with("GET /second ")));
}

#[tokio::test]
async fn its_size_has_a_bound_and_what_is_left_out_is_counted() {
    let (server, heads) = listening().await;
    let request = Request::get(server.url("/"))
        .header("cookie", "c".repeat(20_000))
        .header("x-long", "x".repeat(20_000))
        .header("x-last", "seen by the server")
        .body(Empty::new())
        .unwrap();
    let snapshot = snapshot_of(&asking(Redaction::default()), request).await;
    assert_eq!(snapshot.head.len(), 16 * 1024);
    // A hidden value takes the room of three.
    assert_eq!(snapshot.head.len() + snapshot.left_out, heads.lock().unwrap()[0].len() - 20_000 + 3);
    assert!(snapshot.to_string().ends_with(&format!("\n({} bytes left out)", snapshot.left_out)));
}

#[tokio::test]
async fn over_http2_it_has_the_pseudo_fields_and_fields_in_order() {
    let seen: Arc<Mutex<Option<http::request::Parts>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let server = http2_server::Server::start(settings(), move |_, request, respond| {
        *kept.lock().unwrap() = Some(request.into_parts().0);
        async move { answer(respond, "ok") }
    })
    .await;
    let client = h2c().snapshot(Redaction::default()).build().unwrap();
    let mut marked = HeaderValue::from_static("marked");
    marked.set_sensitive(true);
    let request = Request::get(format!("{}path?token=t", server.url))
        .header("connection", "x-hop")
        .header("x-hop", "not sent")
        .header("cookie", "a=b")
        .header("x-marked", marked)
        .header("accept", "*/*")
        .body(Empty::new())
        .unwrap();
    let snapshot = snapshot_of(&client, request).await;
    assert_eq!(snapshot.version, Version::HTTP_2);
    let seen = seen.lock().unwrap().take().unwrap();
    let authority = seen.uri.authority().unwrap();
    let expected = format!(
        ":method: GET\r\n:scheme: http\r\n:authority: {authority}\r\n:path: /path?token=***\r\n\
         cookie: ***\r\nx-marked: ***\r\naccept: */*\r\n\r\n"
    );
    assert_eq!(text(&snapshot), expected);
    let names: Vec<_> = seen.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["cookie", "x-marked", "accept"]);
    assert_eq!(seen.uri.path_and_query().unwrap(), "/path?token=t");
}

#[tokio::test]
async fn over_http2_what_is_said_of_the_host_field_counts_for_the_authority() {
    let server =
        http2_server::Server::start(settings(), move |_, _, respond| async move { answer(respond, "ok") }).await;
    let authority = async |host: &'static str, sensitive, redaction| {
        let mut host = HeaderValue::from_static(host);
        host.set_sensitive(sensitive);
        let request = Request::get(&*server.url).header("host", host).body(Empty::new()).unwrap();
        let client = h2c().snapshot(redaction).build().unwrap();
        let snapshot = snapshot_of(&client, request).await;
        text(&snapshot).lines().find_map(|line| line.strip_prefix(":authority: ")).unwrap().to_owned()
    };
    assert_eq!(authority("app.test", false, Redaction::default()).await, "app.test");
    assert_eq!(authority("user:HUSH@app.test", false, Redaction::default()).await, "***@app.test");
    assert_eq!(authority("HUSH@app.test", false, Redaction::default()).await, "***@app.test");
    assert_eq!(authority("app.test", true, Redaction::default()).await, "***");
    assert_eq!(authority("app.test", false, Redaction::default().hide("Host")).await, "***");
}

/// The order of the pseudo-header fields, from the wire: nobody tells it afterwards.
#[tokio::test]
async fn over_http2_the_order_is_that_of_the_wire() {
    let block: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = Arc::clone(&block);
    let server = Server::start(move |mut peer, _| {
        let kept = Arc::clone(&kept);
        async move {
            peer.read_exact(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()).await?;
            loop {
                let length = usize::from(peer.0.read_u8().await?) << 16 | usize::from(peer.0.read_u16().await?);
                let kind = peer.0.read_u8().await?;
                peer.read_exact(5).await?;
                let payload = peer.read_exact(length).await?;
                if kind == 1 {
                    *kept.lock().unwrap() = payload;
                    // Its end is enough of an answer.
                    return Ok(());
                }
            }
        }
    })
    .await;
    let error = h2c().snapshot(Redaction::default()).build().unwrap().get(&root(), &server.url("/")).await.unwrap_err();
    let names: Vec<_> =
        text(&error.snapshots()[0]).lines().filter_map(|line| line.get(1..)?.split(':').next()).collect();
    assert_eq!(names[..4], ["method", "scheme", "authority", "path"]);
    // HPACK's static table: 2 is ":method GET", 6 ":scheme http", 1 the name ":authority", 4 ":path /".
    let block = block.lock().unwrap().clone();
    let authority = usize::from(block[3] & 0x7f);
    assert_eq!((&block[..3], block[4 + authority]), (&[0x82, 0x86, 0x41][..], 0x84), "{block:x?}");
}
