//! WebSockets of clients that speak HTTP/2 (RFC 8441), before servers that know them as upgrades.

use std::{
    io::{Read as _, Write as _},
    process::Command,
    sync::mpsc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, ext::Protocol};
use http::{Method, Request, Response, StatusCode};
use ring::digest;
use tempfile::TempDir;

use crate::{
    bed::{Bed, OK, PATIENCE, Peer, Server, field, until},
    http2::Http2,
    page::{program, script},
    secure::certificate,
    wire::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, Wire, block, frame},
};

/// What proves to the client that its handshake was understood.
fn proof(key: &str) -> String {
    let hash = digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    BASE64_STANDARD.encode(hash)
}

fn switch(peer: &mut Peer, head: &str) {
    let proof = proof(field(head, "sec-websocket-key").unwrap());
    let protocol = field(head, "sec-websocket-protocol").map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    peer.client.send(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {proof}\r\n{}\r\n",
        protocol.unwrap_or_default()
    ));
}

fn asking(protocol: &'static str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.test/chat?x")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "the client's own")
        .header("origin", "http://a.test");
    request.extensions_mut().unwrap().insert(Protocol::from_static(protocol));
    request.body(()).unwrap()
}

struct Talk {
    answer: Response<RecvStream>,
    stream: SendStream<Bytes>,
}

fn ask(client: &Http2, protocol: &'static str) -> Talk {
    let mut ready = client.send.clone();
    client.wait(async move {
        // Until the server has said that it knows this.
        while !ready.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let (answer, stream) = ready.send_request(asking(protocol), false).unwrap();
        Talk { answer: answer.await.unwrap(), stream }
    })
}

impl Talk {
    fn hear(&mut self, client: &Http2, bytes: usize) -> Result<Vec<u8>, h2::Error> {
        let body = self.answer.body_mut();
        client.wait(async {
            let mut heard = Vec::new();
            while heard.len() < bytes {
                let Some(data) = body.data().await else { break };
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                heard.extend_from_slice(&data);
            }
            Ok(heard)
        })
    }

    fn say(&mut self, bytes: &'static [u8], last: bool) {
        self.stream.send_data(Bytes::from_static(bytes), last).unwrap();
    }
}

#[test]
fn a_websocket_over_http_2_is_an_upgrade_for_its_server() {
    let server = Server::new(|peer| {
        let head = peer.request().unwrap();
        peer.say(head.clone());
        switch(peer, &head);
        peer.client.send("first");
        let said = peer.client.exactly(5);
        peer.say(String::from_utf8(said).unwrap());
        // The client's end comes through, and it still hears what is said then.
        assert!(peer.ends());
        peer.client.send("bye");
    });
    let bed = Bed::new(&[server.address], &[("limits", "total = \"700ms\"")]);
    let client = Http2::connect(&bed);
    let mut talk = ask(&client, "websocket");
    assert_eq!(talk.answer.status(), StatusCode::OK);
    for gone in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!talk.answer.headers().contains_key(gone), "{:?}", talk.answer);
    }
    let head = server.saw();
    assert!(head.starts_with("GET /chat?x HTTP/1.1\r\nhost: a.test\r\n"), "{head}");
    let said = ["upgrade", "connection", "sec-websocket-version", "origin"].map(|name| field(&head, name).unwrap());
    assert_eq!(said, ["websocket", "upgrade", "13", "http://a.test"]);
    assert_eq!(BASE64_STANDARD.decode(field(&head, "sec-websocket-key").unwrap()).unwrap().len(), 16, "{head}");
    assert_eq!(head.matches("sec-websocket-key").count(), 1, "{head}");
    assert_eq!(talk.hear(&client, 5).unwrap(), b"first");
    // It is no call, so that no limit of one holds for it.
    std::thread::park_timeout(std::time::Duration::from_millis(800));
    talk.say(b"hello", false);
    assert_eq!(server.saw(), "hello");
    talk.say(b"", true);
    assert_eq!(talk.hear(&client, 100).unwrap(), b"bye");
    drop((talk, client));
    let line = bed.line();
    let told = &line["gate"];
    assert_eq!(
        (&line["outcome"], &told["status"], &told["method"]),
        (&"ok".into(), &101.into(), &"GET".into()),
        "{line:#}"
    );
    assert_eq!((&told["protocol"], &told["server_protocol"]), (&"HTTP/2".into(), &"HTTP/1.1".into()), "{line:#}");
}

/// A 200 would open it: only a server that has switched may have that said.
#[test]
fn only_a_server_that_switches_opens_it() {
    for (answer, status, cause) in [
        (OK, 502, Some("protocol-error")),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, None),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            502,
            Some("protocol-error"),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
            Some("protocol-error"),
        ),
    ] {
        let server = Server::answering(answer);
        let bed = Bed::new(&[server.address], &[]);
        let client = Http2::connect(&bed);
        let talk = ask(&client, "websocket");
        assert_eq!(talk.answer.status(), status, "{answer}");
        drop((talk, client));
        let line = bed.line();
        assert_eq!(line["cause"].as_str(), cause, "{line:#}");
    }
}

/// `CONNECT` to anywhere, and whatever else it is to carry, is refused with words.
#[test]
fn other_tunnels_are_refused() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let client = Http2::connect(&bed);
    assert_eq!(ask(&client, "connect-udp").answer.status(), StatusCode::BAD_REQUEST);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    // It is announced, or no client would ask: SETTINGS_ENABLE_CONNECT_PROTOCOL.
    let settings = wire.find(|frame| frame.kind == SETTINGS).unwrap().payload;
    assert!(settings.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{settings:?}");
    let plain = block(&[(":method", "CONNECT"), (":authority", "b.test:443")]);
    wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &plain));
    assert_eq!(wire.status(1), Some(400));
    assert_eq!(server.connections(), 0);
    drop((wire, client));
    let lines = bed.lines();
    let told =
        |line: &serde_json::Value| line["gate"]["refused"].as_str().unwrap().contains("no valid form for CONNECT");
    assert!(lines.len() == 2 && lines.iter().all(told), "{lines:#?}");
}

#[test]
fn silence_ends_it_and_so_does_either_side() {
    for how in ["gap", "reset", "server"] {
        let server = Server::new(move |peer| {
            let head = peer.request().unwrap();
            switch(peer, &head);
            peer.say("open");
            if how != "server" {
                while !peer.ends() {}
                peer.say("ended");
            }
        });
        let gap = if how == "gap" { "gap = \"700ms\"" } else { "" };
        let bed = Bed::new(&[server.address], &[("limits", gap)]);
        let client = Http2::connect(&bed);
        let mut talk = ask(&client, "websocket");
        assert_eq!((talk.answer.status(), server.saw()), (StatusCode::OK, "open".to_owned()));
        match how {
            "gap" => assert_eq!(talk.hear(&client, 1).unwrap_err().reason(), Some(Reason::INTERNAL_ERROR)),
            "reset" => talk.stream.send_reset(Reason::CANCEL),
            _ => {
                assert_eq!(talk.hear(&client, 1).unwrap(), b"");
                talk.say(b"", true);
            }
        }
        if how != "server" {
            assert_eq!(server.saw(), "ended");
        }
        let log = bed.log();
        until("it is told", || std::fs::read_to_string(&log).is_ok_and(|text| !text.is_empty()));
        drop((talk, client));
        let line = bed.line();
        let (outcome, stage) = (line["outcome"].as_str().unwrap(), line["stage"].as_str());
        let expected = [
            ("gap", ("timed-out", Some("tunnel"))),
            ("reset", ("cancelled", Some("tunnel"))),
            ("server", ("ok", None)),
        ];
        assert!(expected.contains(&(how, (outcome, stage))), "{how}: {line:#}");
        if how == "gap" {
            let summary = line["verdicts"][0]["summary"].as_str().unwrap();
            assert_eq!((&line["cause"], summary.contains("for 700ms")), (&"body-stalled".into(), true), "{line:#}");
        }
    }
}

/// Echoes what a browser says, as far as these tests need it.
fn echo(peer: &mut Peer) {
    loop {
        let start = peer.client.exactly(2);
        let length = match start[1] & 0x7f {
            126 => usize::from(u16::from_be_bytes(peer.client.exactly(2).try_into().unwrap())),
            127 => usize::try_from(u64::from_be_bytes(peer.client.exactly(8).try_into().unwrap())).unwrap(),
            short => usize::from(short),
        };
        let mask = peer.client.exactly(4);
        let mut data = peer.client.exactly(length);
        data.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let mut out = vec![start[0], 127];
        out.extend_from_slice(&(length as u64).to_be_bytes());
        if length < 126 {
            out = vec![start[0], u8::try_from(length).unwrap()];
        } else if let Ok(length) = u16::try_from(length) {
            out = [&[start[0], 126][..], &length.to_be_bytes()].concat();
        }
        out.extend_from_slice(&data);
        peer.client.stream.write_all(&out).unwrap();
        // Its close is answered by a close.
        if start[0] & 0xf == 8 {
            let _ = peer.client.stream.read(&mut [0]);
            return;
        }
    }
}

#[test]
fn of_a_browser() {
    let (Some(node), Some(chromium)) =
        (program(&["node"]), program(&["chromium", "chromium-browser", "google-chrome"]))
    else {
        return;
    };
    let (over, ended) = mpsc::channel();
    let server = Server::new(move |peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("GET /chat ") {
                switch(peer, &head);
                echo(peer);
                let _ = over.send(());
                return;
            }
            let page = "<!doctype html><title>here</title>";
            peer.client.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}",
                page.len()
            ));
        }
    });
    let (folder, profile) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (table, _) = certificate(folder.path());
    let bed = Bed::new(&[server.address], &[("listener", &table.replace("400ms", "10s"))]);
    let port = bed.gate.addresses()[0].port().to_string();
    let arguments = [&script("websocket.mjs"), chromium, profile.path().to_str().unwrap(), &port];
    assert!(Command::new(node).args(arguments).status().unwrap().success());
    ended.recv_timeout(PATIENCE).unwrap();
    let lines = bed.lines();
    let talk = lines.iter().find(|line| line["gate"]["path"] == "/chat").unwrap();
    assert_eq!((&talk["outcome"], &talk["gate"]["protocol"]), (&"ok".into(), &"HTTP/2".into()), "{talk:#}");
}

/// Whoever is refused has not become a client of HTTP/1.1: what was said ahead is none of its requests, and the stream ends
/// though its client leaves its half open.
#[test]
fn what_a_refused_one_said_ahead_is_no_request() {
    let forbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    for (answer, path, status, heard) in
        [(forbidden, "/chat", 403, 1), (OK, "/chat", 502, 1), (OK, "/other", 404, 0), (OK, "/chat/../x", 400, 0)]
    {
        let server = Server::answering(answer);
        let bed = Bed::new(&[server.address], &[("route", "path = \"/chat\"")]);
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        let fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a.test"),
            ("sec-websocket-version", "13"),
        ];
        let ahead = b"POST /chat/smuggled HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n";
        wire.send(&[frame(HEADERS, END_HEADERS, 1, &block(&fields)), frame(DATA, 0, 1, ahead)].concat());
        assert_eq!(wire.status(1), Some(status), "{path}");
        wire.send(&frame(DATA, 0, 1, ahead));
        let reset = wire.find(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)).unwrap();
        assert_eq!((reset.kind, reset.stream, reset.code()), (RST_STREAM, 1, 0), "{path}");
        drop(wire);
        let line = bed.line();
        assert_eq!(line["gate"]["status"], status, "{line:#}");
        let heads: Vec<_> = server.seen.try_iter().collect();
        assert!(heads.len() == heard && heads.iter().all(|head| head.starts_with("GET /chat ")), "{heads:#?}");
    }
}
