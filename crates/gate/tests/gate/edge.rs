//! What the gateway takes and says at its edges: whose connection it is, and what it tells servers, clients and the log of
//! each request besides its answer.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bed::{Answer, Bed, Client, GET, OK, PATIENCE, Server, field},
    secure::certificate,
};

const TRUSTED: (&str, &str) = ("listener", "trusted = [\"127.0.0.1\"]");
const PROXY: (&str, &str) = ("listener", "proxy_protocol = true");

/// A header of version 2 with these addresses: a client's and a server's, then their ports.
fn version_2(kind: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[kind, family], &length, addresses].concat()
}

/// Of 192.0.2.7:4660.
fn ipv4() -> Vec<u8> {
    version_2(0x21, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 80])
}

impl Client {
    fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
}

#[test]
fn a_proxy_names_the_client_in_both_versions() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[TRUSTED, PROXY]);
    let ipv6: Vec<u8> = [&[0x20, 1, 0x0d, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0x12, 0x34, 0, 80]].concat();
    let headers = [
        (b"PROXY TCP4 192.0.2.7 127.0.0.1 4660 80\r\n".to_vec(), "192.0.2.7"),
        (ipv4(), "192.0.2.7"),
        (version_2(0x21, 0x21, &ipv6), "2001:db8::1"),
        // Whom a proxy cannot name is known by the address of the proxy.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (version_2(0x21, 0x31, &[0; 216]), "127.0.0.1"),
        (version_2(0x20, 0, &[]), "127.0.0.1"),
    ];
    for (header, address) in &headers {
        // With the request behind it, byte by byte, and both: nothing of the request is lost, in whatever pieces they come.
        for whole in [true, false] {
            let mut client = bed.connect();
            client.stream.set_nodelay(true).unwrap();
            let sent = [header, GET.as_bytes()].concat();
            match whole {
                true => client.send_bytes(&sent),
                false => sent.chunks(1).for_each(|byte| client.send_bytes(byte)),
            }
            assert_eq!(client.answer().status, 200, "{}", header.escape_ascii());
            // Once is enough: the next request has none.
            assert_eq!(client.call(GET).status, 200);
            for _ in 0..2 {
                assert_eq!(field(&server.saw(), "x-forwarded-for"), Some(*address));
            }
        }
    }
    let lines = bed.lines();
    assert_eq!(lines.len(), headers.len() * 4);
    assert_eq!(lines[0]["gate"]["client"], "192.0.2.7:4660");
    assert!(lines[0]["gate"]["via"].as_str().unwrap().starts_with("127.0.0.1:"), "{:#}", lines[0]);
    assert_eq!(lines[8]["gate"]["client"], "[2001:db8::1]:4660");
    assert_eq!(lines[12]["gate"]["via"], Value::Null);
}

/// A proxy that passes bytes on has not looked at what its client says: that client has to be trusted itself.
#[test]
fn a_client_behind_a_proxy_is_trusted_for_its_own_address() {
    let server = Server::answering(OK);
    let trusted = ("listener", "trusted = [\"127.0.0.1\", \"192.0.2.7\"]");
    let bed = Bed::new(&[server.address], &[trusted, PROXY]);
    let says = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    for (header, chain) in [
        (ipv4(), "203.0.113.9, 192.0.2.7"),
        (b"PROXY TCP4 192.0.2.8 127.0.0.1 1 80\r\n".to_vec(), "192.0.2.8"),
        // Somebody, who may be anybody; the proxy itself.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (version_2(0x20, 0, &[]), "203.0.113.9, 127.0.0.1"),
    ] {
        let mut client = bed.connect();
        client.send_bytes(&header);
        assert_eq!(client.call(says).status, 200);
        assert_eq!(field(&server.saw(), "x-forwarded-for"), Some(chain), "{}", header.escape_ascii());
    }
}

#[test]
fn a_connection_without_a_header_that_counts_is_closed_and_told() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[TRUSTED, PROXY, ("listener", "head = \"1s\"")]);
    let mut direct = bed.connect();
    direct.send(GET);
    assert_eq!(direct.rest().0, b"");
    // A part of one, for too long; a part of one, and the end; nothing at all, which is no failure.
    let mut late = bed.connect();
    late.send("PROXY TCP4 192");
    assert_eq!(late.rest().0, b"");
    let mut left = bed.connect();
    left.send("PROXY");
    left.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(left.rest().0, b"");
    drop(bed.connect());
    assert_eq!(server.connections(), 0);
    let lines = bed.lines();
    let said: Vec<(&str, &str, &str)> = lines
        .iter()
        .map(|line| {
            assert_eq!(line["stage"], "proxy", "{line:#}");
            let gate = &line["gate"];
            (line["outcome"].as_str().unwrap(), line["cause"].as_str().unwrap(), gate["termination"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        said,
        [("failed", "protocol-error", "PR"), ("timed-out", "sender-slow", "cR"), ("failed", "closed-early", "PR")],
        "{lines:#?}"
    );
    assert!(lines[0]["gate"]["refused"].as_str().unwrap().contains("begins with \"G\""), "{:#}", lines[0]);
    assert_eq!((&lines[1]["limit"]["name"], &lines[1]["limit"]["value_us"]), (&"head".into(), &1_000_000.into()));
    assert!(lines[1]["limit"]["origin"].as_str().unwrap().starts_with("gate.toml:"), "{:#}", lines[1]);
    let why = lines[1]["gate"]["refused"].as_str().unwrap();
    assert!(why.starts_with("no PROXY header within head 1s (gate.toml:") && why.contains("14 bytes"), "{why}");
}

#[test]
fn nobody_else_may_send_a_header() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "trusted = [\"10.0.0.0/8\"]"), PROXY]);
    let mut client = bed.connect();
    // It is closed whatever it says, so that writing may fail.
    let _ = client.stream.write_all(&[ipv4().as_slice(), GET.as_bytes()].concat());
    assert_eq!(client.rest().0, b"");
    assert_eq!(server.connections(), 0);
    let line = bed.line();
    assert!(line["gate"]["refused"].as_str().unwrap().contains("trusted addresses alone"), "{line:#}");
    assert!(line["gate"]["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line:#}");
}

fn over_tls(bed: &Bed, config: &Arc<ClientConfig>, header: &[u8]) -> StreamOwned<ClientConnection, TcpStream> {
    let mut stream = TcpStream::connect(bed.gate.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(header).unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), stream)
}

#[test]
fn a_header_comes_before_tls_and_names_whose_hello_it_is() {
    let server = Server::answering(OK);
    let folder = TempDir::new().unwrap();
    let (table, config) = certificate(folder.path());
    let table = table.replace("limit = \"400ms\"", "rate = \"1/1h\", limit = \"20s\"");
    let bed = Bed::new(&[server.address], &[TRUSTED, PROXY, ("listener", &table)]);
    // One hello an hour of each client, and not of the proxy.
    for (address, served) in [("192.0.2.7", true), ("192.0.2.8", true), ("192.0.2.7", false)] {
        let mut stream = over_tls(&bed, &config, format!("PROXY TCP4 {address} 127.0.0.1 1 443\r\n").as_bytes());
        let sent = stream.write_all(GET.as_bytes());
        assert_eq!(sent.is_ok(), served, "{address}: {sent:?}");
        if served {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            assert_eq!(field(&server.saw(), "x-forwarded-for"), Some(address));
        }
    }
    let lines = bed.lines();
    let refused = lines.iter().find(|line| line["gate"]["refused"].is_string()).unwrap();
    assert_eq!(refused["gate"]["client"], "192.0.2.7:1", "{refused:#}");
}

/// The limit of the handshake is one for the header and for all that follows it.
#[test]
fn a_header_and_a_handshake_have_one_limit() {
    let server = Server::answering(OK);
    let folder = TempDir::new().unwrap();
    let (table, _) = certificate(folder.path());
    let table = table.replace("limit = \"400ms\"", "limit = \"2s\"");
    let bed = Bed::new(&[server.address], &[TRUSTED, PROXY, ("listener", &table)]);
    let mut no_header = bed.connect();
    no_header.send("PROXY ");
    assert_eq!(no_header.rest().0, b"");
    let mut no_hello = bed.connect();
    std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_millis(1200)).unwrap_err();
    no_hello.send_bytes(&ipv4());
    assert_eq!(no_hello.rest().0, b"");
    let lines = bed.lines();
    // What the header took was not there for the hello.
    assert!(lines[1]["elapsed_us"].as_u64().unwrap() < 2_000_000, "{:#}", lines[1]);
    for (line, stage, cause, client) in
        [(&lines[0], "proxy", "sender-slow", "127.0.0.1:"), (&lines[1], "tls", "tls-peer-silent", "192.0.2.7:4660")]
    {
        assert_eq!((&line["stage"], &line["cause"]), (&stage.into(), &cause.into()), "{line:#}");
        assert_eq!((&line["limit"]["name"], &line["outcome"]), (&"tls".into(), &"timed-out".into()), "{line:#}");
        assert!(line["gate"]["client"].as_str().unwrap().starts_with(client), "{line:#}");
    }
}

/// A request with these fields, and what the server saw of them.
fn seen_with(client: &mut Client, server: &Server, fields: &str) -> (Answer, String) {
    let answer = client.call(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
    assert_eq!(answer.status, 200, "{fields}");
    (answer, server.saw())
}

fn is_new_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn every_request_has_an_id_that_all_hear_of() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: its-own\r\n\r\n");
    let bed = Bed::new(&[server.address], &[TRUSTED, ("route", "path = \"/\"\nmethods = [\"GET\"]")]);
    let mut client = bed.connect();
    let mut ids = Vec::new();
    for (fields, kept) in [
        ("", None),
        ("X-Request-Id: caller-1\r\n", Some("caller-1")),
        ("X-Request-Id: not an id\r\n", None),
        ("X-Request-Id: caller-1\r\nx-request-id: caller-2\r\n", None),
    ] {
        let (answer, seen) = seen_with(&mut client, &server, fields);
        let id = field(&seen, "x-request-id").unwrap();
        assert!(kept.map_or_else(|| is_new_id(id), |kept| kept == id), "{id}");
        assert_eq!(seen.to_ascii_lowercase().matches("x-request-id").count(), 1, "{seen}");
        // One, and not the server's own.
        assert_eq!(answer.head.to_ascii_lowercase().matches("x-request-id").count(), 1, "{}", answer.head);
        assert_eq!(answer.field("x-request-id"), Some(id));
        ids.push(id.to_owned());
    }
    // What the gateway says itself, of a request that goes nowhere and of one that is none.
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: caller-3\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ] {
        let answer = client.call(request);
        assert_eq!(answer.status, status);
        ids.push(answer.field("x-request-id").unwrap().to_owned());
    }
    assert_eq!(ids[4], "caller-3");
    assert!(is_new_id(&ids[5]));
    let lines = bed.lines();
    let logged: Vec<&str> = lines.iter().map(|line| line["gate"]["request_id"].as_str().unwrap()).collect();
    assert_eq!(logged, ids);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6, "{ids:?}");
}

#[test]
fn an_id_of_a_stranger_is_not_kept() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "head = \"1s\"")]);
    let mut client = bed.connect();
    let (answer, seen) = seen_with(&mut client, &server, "X-Request-Id: caller-1\r\n");
    assert!(is_new_id(field(&seen, "x-request-id").unwrap()));
    assert_eq!(answer.field("x-request-id"), field(&seen, "x-request-id"));
    // A head that does not come gets an answer with an id, too.
    client.send("GET / HT");
    let late = client.answer();
    assert_eq!(late.status, 408);
    assert!(is_new_id(late.field("x-request-id").unwrap()));
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";

#[test]
fn a_trace_goes_on_with_a_span_of_our_own() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[TRUSTED]);
    let mut client = bed.connect();
    let (_, seen) = seen_with(&mut client, &server, &format!("tracestate: a=1\r\n{CALLER}tracestate: b=2\r\n"));
    let sent = field(&seen, "traceparent").unwrap().to_owned();
    let parts: Vec<&str> = sent.split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"));
    assert!(parts[2].len() == 16 && parts[2] != "00f067aa0ba902b7", "{sent}");
    assert!(seen.contains("tracestate: a=1\r\n") && seen.contains("tracestate: b=2\r\n"), "{seen}");
    // What cannot be read is no trace, and what vendors said of it goes with it. None is begun unless that is wanted.
    for bad in [CALLER.replace("00-4b", "ff-4b"), CALLER.replace(TRACE, &"0".repeat(32)), format!("{CALLER}{CALLER}")] {
        let (_, seen) = seen_with(&mut client, &server, &format!("{bad}tracestate: a=1\r\n"));
        assert!(!seen.contains("trace"), "{seen}");
    }
    let lines = bed.lines();
    let gate = &lines[0]["gate"];
    assert_eq!((&gate["trace_id"], &gate["parent_id"]), (&TRACE.into(), &"00f067aa0ba902b7".into()));
    assert_eq!(gate["span_id"], parts[2]);
    assert_eq!(lines[1]["gate"]["trace_id"], Value::Null);
}

#[test]
fn a_trace_of_a_stranger_goes_on_only_where_that_is_said() {
    let server = Server::answering(OK);
    let mut bed = Bed::new(&[server.address], &[]);
    let mut client = bed.connect();
    let (_, seen) = seen_with(&mut client, &server, CALLER);
    assert_eq!(field(&seen, "traceparent"), None);
    let needs_start = bed.follow(&[server.address], &[("trace", "from = \"anyone\"")]);
    assert!(needs_start.is_empty(), "{needs_start:?}");
    // Followed soon: the worker is told by a message.
    let follows = |wanted: fn(&str) -> bool, client: &mut Client| {
        let mut traces = (0..1000).map(|_| {
            let (_, seen) = seen_with(client, &server, CALLER);
            field(&seen, "traceparent").unwrap_or_default().to_owned()
        });
        traces.find(|trace| wanted(trace)).unwrap()
    };
    follows(|trace| trace.contains(TRACE), &mut client);
    assert!(bed.follow(&[server.address], &[("trace", "start = \"always\"")]).is_empty());
    let begun = follows(|trace| !trace.is_empty() && !trace.contains(TRACE), &mut client);
    assert!(begun.starts_with("00-") && begun.ends_with("-01"), "{begun}");
    let line = bed.lines().pop().unwrap();
    assert_eq!(line["gate"]["trace_id"], begun[3..35]);
    assert_eq!(line["gate"]["parent_id"], Value::Null);
}

/// Each kind, of those who are trusted and of others: what was said goes on, is added to, or is dropped.
#[test]
fn servers_are_told_of_the_client_as_they_want_it() {
    let server = Server::answering(OK);
    let said = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=\"[2001:db8::9]:1\"\r\n";
    let (own, own_rfc) = ("127.0.0.1", "for=127.0.0.1;host=a.test;proto=http");
    let (more, more_rfc) = (format!("203.0.113.9, {own}"), format!("for=\"[2001:db8::9]:1\", {own_rfc}"));
    let (before, before_rfc) = ("203.0.113.9", "for=\"[2001:db8::9]:1\"");
    for (kind, trusted, x, proto, rfc) in [
        ("x", true, Some(more.as_str()), Some("https"), Some(before_rfc)),
        ("x", false, Some(own), Some("http"), None),
        ("rfc7239", true, Some(before), Some("https"), Some(more_rfc.as_str())),
        ("rfc7239", false, None, None, Some(own_rfc)),
        ("both", true, Some(more.as_str()), Some("https"), Some(more_rfc.as_str())),
        ("both", false, Some(own), Some("http"), Some(own_rfc)),
        ("none", true, Some(before), Some("https"), Some(before_rfc)),
        ("none", false, None, None, None),
    ] {
        let listener = format!("forwarded = \"{kind}\"");
        let mut more = vec![("listener", listener.as_str())];
        more.extend(trusted.then_some(TRUSTED));
        let bed = Bed::new(&[server.address], &more);
        let (_, seen) = seen_with(&mut bed.connect(), &server, said);
        let told = ["x-forwarded-for", "x-forwarded-proto", "forwarded"].map(|name| field(&seen, name));
        assert_eq!(told, [x, proto, rfc], "{kind}, trusted: {trusted}");
    }
}

#[test]
fn forwarded_is_quoted_where_it_has_to_be() {
    let server = Server::answering(OK);
    let rfc7239 = ("listener", "forwarded = \"rfc7239\"");
    let bed = Bed::new(&[server.address], &[TRUSTED, PROXY, rfc7239, ("listener", "head = \"20s\"")]);
    let mut client = bed.connect();
    client.send("PROXY TCP6 2001:db8::1 ::1 1 80\r\n");
    let mut forwarded = |head: &str| {
        assert_eq!(client.call(&format!("GET / {head}\r\n\r\n")).status, 200);
        field(&server.saw(), "forwarded").map(str::to_owned)
    };
    let told = forwarded("HTTP/1.1\r\nHost: a.test:8080");
    assert_eq!(told.as_deref(), Some("for=\"[2001:db8::1]\";host=\"a.test:8080\";proto=http"));
    let told = forwarded("HTTP/1.1\r\nHost: [::1]");
    assert_eq!(told.as_deref(), Some("for=\"[2001:db8::1]\";host=\"[::1]\";proto=http"));
    let told = forwarded("HTTP/1.0\r\nConnection: keep-alive");
    assert_eq!(told.as_deref(), Some("for=\"[2001:db8::1]\";proto=http"));
    // A quote that is never closed would take in what is added.
    let mut trusted = bed.connect();
    trusted.send_bytes(&version_2(0x20, 0, &[]));
    for (said, goes_on) in
        [("for=\"evil", None), ("for=\"evil\\\"", None), ("for=\"a\\\"b\"", Some("for=\"a\\\"b\", ")), ("", None)]
    {
        let (_, seen) = seen_with(&mut trusted, &server, &format!("Forwarded: {said}\r\n"));
        let told = format!("{}for=127.0.0.1;host=a.test;proto=http", goes_on.unwrap_or_default());
        assert_eq!(field(&seen, "forwarded"), Some(told.as_str()), "{said}");
    }
}

fn millis(head: &str) -> u64 {
    field(head, "x-envoy-expected-rq-timeout-ms").unwrap().parse().unwrap()
}

/// Some of what remains is kept, but no more than half; the span is what a busy machine may take before it sends.
#[test]
fn what_remains_is_told_but_for_a_reserve() {
    let server = Server::answering(OK);
    for (reserve, least, most) in [("none", 16_000, 20_000), ("8s", 8000, 12_000), ("19s", 6000, 10_000)] {
        let limits = format!("total = \"20s\"\nreserve = \"{reserve}\"");
        let bed = Bed::new(&[server.address], &[("limits", &limits)]);
        let (_, seen) = seen_with(&mut bed.connect(), &server, "");
        assert!((least..=most).contains(&millis(&seen)), "{reserve}: {seen}");
        assert_eq!(field(&seen, "grpc-timeout"), None);
        // Both styles where the server may know the other.
        let (_, seen) = seen_with(&mut bed.connect(), &server, "Content-Type: application/grpc+proto\r\n");
        let grpc = field(&seen, "grpc-timeout").unwrap();
        let micros: u64 = grpc.strip_suffix('u').unwrap().parse().unwrap();
        assert_eq!(micros / 1000, millis(&seen), "{grpc}");
    }
}

/// A kept connection that turns out to be dead is no word about the request; the time that it took is gone all the same.
#[test]
fn what_remains_shrinks_with_every_attempt() {
    const TAKEN: Duration = Duration::from_millis(20);
    let server = Server::new(|peer| {
        let mut first = true;
        while let Some(head) = peer.request() {
            let dies = head.starts_with("DELETE /1 ") && !first;
            peer.say(head);
            if dies {
                std::sync::mpsc::channel::<()>().1.recv_timeout(TAKEN).unwrap_err();
                return;
            }
            first = false;
            peer.client.send(OK);
        }
    });
    let bed = Bed::new(&[server.address], &[("limits", "total = \"20s\"")]);
    let mut client = bed.connect();
    assert_eq!(client.call(GET).status, 200);
    assert_eq!(client.call("DELETE /1 HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    let (_, dead, again) = (server.saw(), millis(&server.saw()), millis(&server.saw()));
    // Rounded down, both.
    assert!(again + 19 <= dead, "{dead} ms, then {again} ms");
    assert_eq!(server.connections(), 2);
}

/// The lines of requests, and the notices of this kind.
fn apart(lines: Vec<Value>, kind: &str) -> (Vec<Value>, Vec<Value>) {
    let (requests, notices): (Vec<Value>, Vec<Value>) =
        lines.into_iter().partition(|line| line["schema"] == "overdue.report/1");
    assert!(notices.iter().all(|notice| notice["schema"] == "overdue.notice/1"), "{notices:#?}");
    (requests, notices.into_iter().filter(|notice| notice["notice"] == kind).collect())
}

fn sum(notices: &[Value], name: &str) -> u64 {
    notices.iter().map(|notice| notice[name].as_u64().unwrap()).sum()
}

#[test]
fn a_log_has_so_many_lines_and_failures_have_a_share_of_their_own() {
    let server = Server::answering(OK);
    let route = ("route", "path = \"/\"\nmethods = [\"GET\"]");
    let bed = Bed::new(&[server.address], &[("log", "rate = \"10/1h\""), route]);
    let mut client = bed.connect();
    for _ in 0..30 {
        assert_eq!(client.call(GET).status, 200);
    }
    for _ in 0..5 {
        assert_eq!(client.call("PUT / HTTP/1.1\r\nHost: a\r\n\r\n").status, 404);
    }
    let (requests, notices) = apart(bed.lines(), "lines-left-out");
    let statuses: Vec<u64> = requests.iter().map(|line| line["gate"]["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 404, 404]);
    assert_eq!((sum(&notices, "served"), sum(&notices, "failed")), (22, 3), "{notices:#?}");
}

#[test]
fn connections_that_are_refused_are_told_by_source() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "connections = 1")]);
    let mut served = bed.connect();
    assert_eq!(served.call(GET).status, 200);
    for _ in 0..20 {
        assert!(bed.connect().rest().0.starts_with(b"HTTP/1.1 503 "));
    }
    assert_eq!(served.call(GET).status, 200);
    let (requests, notices) = apart(bed.lines(), "connections-refused");
    assert_eq!((requests.len(), sum(&notices, "count")), (2, 20), "{notices:#?}");
    // A line a second at most, and not one for each.
    assert!(notices.len() < 20, "{notices:#?}");
    assert_eq!(notices[0]["sources"][0]["source"], "127.0.0.1");
    assert!(notices[0]["text"].as_str().unwrap().contains("were refused, most from 127.0.0.1"), "{:#}", notices[0]);
}

#[test]
fn a_flood_of_failed_handshakes_is_no_flood_of_lines() {
    let server = Server::answering(OK);
    let folder = TempDir::new().unwrap();
    let (table, _) = certificate(folder.path());
    let table = table.replace("limit = \"400ms\"", "limit = \"20s\"");
    let bed = Bed::new(&[server.address], &[("listener", &table)]);
    let mut clients: Vec<Client> = (0..200).map(|_| bed.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    clients.iter_mut().for_each(|client| assert_eq!(client.rest().0, b""));
    let (requests, notices) = apart(bed.lines(), "connections-failed");
    assert_eq!(requests.len() as u64 + sum(&notices, "count"), 200, "{notices:#?}");
    assert!((10..200).contains(&requests.len()), "{}", requests.len());
    assert_eq!((&requests[0]["cause"], &requests[0]["limit"]), (&"tls-not-tls".into(), &Value::Null));
    assert_eq!(notices[0]["sources"][0]["source"], "127.0.0.1");
}
