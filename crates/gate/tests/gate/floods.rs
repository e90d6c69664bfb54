//! Clients of HTTP/2 that send much and carry little, or begin and do not end. What it costs has an end, and whoever
//! behaves is served meanwhile.

#![expect(clippy::disallowed_methods, reason = "a client that drips, and a log that is looked at again")]

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use crate::{
    bed::{Bed, Client, GET, OK, Server, until},
    wire::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, Wire, asking, block, frame, integer, request, setting,
    },
};

const CALM: u32 = 11;
/// Frames that carry nothing: more than anybody may send at once.
const MANY: usize = 60_000;

/// The most memory that this process, which is client, gateway and server, ever had.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Somebody who asks again and again, in HTTP/1.1, and has to be answered each time.
struct Good {
    stop: Arc<AtomicBool>,
    asking: thread::JoinHandle<usize>,
}

impl Good {
    fn new(bed: &Bed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped) = (bed.gate.addresses()[0], Arc::clone(&stop));
        let asking = thread::spawn(move || {
            let mut client = Client::new(address);
            let mut served = 0;
            while !stopped.load(Relaxed) || served == 0 {
                assert_eq!(client.call(GET).status, 200);
                served += 1;
            }
            served
        });
        Self { stop, asking }
    }

    /// How often it was served.
    fn served(self) -> usize {
        self.stop.store(true, Relaxed);
        self.asking.join().unwrap()
    }
}

/// Sends this until the connection is ended, or all of it is sent; with which code it ends, while somebody else is served
/// and no more memory is needed than this.
fn flood(bytes: impl Iterator<Item = Vec<u8>>, more_kib: u64) -> Option<u32> {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "idle = \"5s\"")]);
    let good = Good::new(&bed);
    let before = peak_kib();
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    // What comes back is read meanwhile: whoever does not read is held up, and that is another test.
    let mut reader = Wire::of(wire.stream.try_clone().unwrap());
    let reading = thread::spawn(move || reader.goodbye());
    for bytes in bytes {
        if !wire.send(&bytes) {
            break;
        }
    }
    let code = reading.join().unwrap();
    let more = peak_kib().saturating_sub(before);
    let served = good.served();
    println!("ended with {code:?}, {more} KiB more, {served} others served");
    assert!(more < more_kib, "{more} KiB more");
    code
}

/// The same frame, many at a time.
fn many(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> + use<> {
    let bytes = frame.repeat(100);
    (0..MANY / 100).map(move |_| bytes.clone())
}

const MIB: u64 = 1024;

#[test]
fn frames_that_carry_nothing() {
    for (name, frame) in [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("answers to no PING", frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, &[])),
    ] {
        println!("{name}");
        assert_eq!(flood(many(&frame), 16 * MIB), Some(CALM), "{name}");
    }
}

#[test]
fn a_body_of_nothing() {
    let open = request(1, "POST", &[], false);
    let empty = frame(DATA, 0, 1, b"");
    assert_eq!(flood(std::iter::once(open).chain(many(&empty)), 16 * MIB), Some(CALM));
}

#[test]
fn a_head_without_an_end() {
    let begun = || std::iter::once(frame(HEADERS, 0, 1, &block(&asking("GET", "/"))));
    let fields = frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(16_000))]));
    assert!(flood(begun().chain(many(&fields).take(100)), 16 * MIB).is_some_and(|code| code != 0));
    assert!(flood(begun().chain(many(&frame(CONTINUATION, 0, 1, b""))), 16 * MIB).is_some_and(|code| code != 0));
}

/// Requests that are taken back at once, as fast as they can be written.
#[test]
fn requests_that_are_taken_back() {
    let asked =
        |at: u32| [request(2 * at + 1, "GET", &[], true), frame(RST_STREAM, 0, 2 * at + 1, &[0, 0, 0, 8])].concat();
    assert_eq!(flood((0..20_000).map(asked), 32 * MIB), Some(CALM));
}

/// Requests that are taken back once their server has them: each costs a connection to it.
#[test]
fn requests_that_are_taken_back_from_their_server() {
    let (asked, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counts, ends) = (Arc::clone(&asked), Arc::clone(&ended));
    let server = Server::new(move |peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("GET /x?y") {
                peer.client.send(OK);
                continue;
            }
            counts.fetch_add(1, Relaxed);
            peer.say("asked");
            while !peer.ends() {}
            ends.fetch_add(1, Relaxed);
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let good = Good::new(&bed);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    let mut reader = Wire::of(wire.stream.try_clone().unwrap());
    let reading = thread::spawn(move || reader.goodbye());
    // As many as there may be at a time, again and again.
    for batch in 0..50 {
        let streams = (0..100).map(|at| 2 * (100 * batch + at) + 1);
        if !wire.send(&streams.clone().flat_map(|stream| request(stream, "GET", &[], true)).collect::<Vec<_>>()) {
            break;
        }
        // The last ones may be cut before their server hears of them.
        let mut heard = 0;
        while heard < 100 && !reading.is_finished() {
            heard += usize::from(server.seen.recv_timeout(Duration::from_millis(100)).is_ok());
        }
        if heard < 100 {
            break;
        }
        wire.send(&streams.flat_map(|stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).collect::<Vec<_>>());
    }
    assert_eq!(reading.join().unwrap(), Some(CALM));
    println!("{} others served", good.served());
    let asked = asked.load(Relaxed);
    assert!((100..3_000).contains(&asked), "{asked} requests reached the server");
    // And each was taken back there.
    let lines = bed.lines();
    let told = |cause: &str| lines.iter().filter(|line| line["cause"] == cause).count();
    let (left, cut) = (told("cancelled-by-caller"), told("protocol-error"));
    assert!(left >= 400 && left + cut >= asked, "{left} and {cut} of {asked}");
    while ended.load(Relaxed) < asked {
        thread::yield_now();
    }
    let refused = lines.iter().filter_map(|line| line["gate"]["refused"].as_str());
    assert!(refused.into_iter().any(|why| why.contains("takes requests back")), "the log says why");
}

/// Whoever gives up twenty calls a second, each once its server has it, goes on being served.
#[test]
fn a_client_that_gives_up_is_no_flood() {
    let server = Server::new(move |peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("GET /x?y") {
                peer.client.send(OK);
                continue;
            }
            peer.say("asked");
            while !peer.ends() {}
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    // What half a minute of them is, and more than a client may do at once; of time and of answers some comes back.
    let mut stream = 1;
    for _ in 0..600 {
        wire.send(&request(stream, "GET", &[], true));
        server.saw();
        wire.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        let asked = block(&asking("GET", "/x?y"));
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream + 2, &asked));
        assert!(wire.find(|frame| frame.flags & END_STREAM != 0 && frame.stream == stream + 2).is_some());
        stream += 4;
    }
}

/// As many as may be taken back at once may be so before anybody has seen them, too.
#[test]
fn requests_that_are_taken_back_at_once() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    let reset = |stream| [request(stream, "GET", &[], true), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    wire.send(&(0..490).flat_map(|at| reset(2 * at + 1)).collect::<Vec<_>>());
    // Until all of them have been seen there is no room for another.
    wire.send(&frame(PING, 0, 0, &[0; 8]));
    assert_eq!(wire.find(|frame| matches!(frame.kind, PING | GOAWAY)).map(|frame| frame.kind), Some(PING));
    let (mut stream, mut status) = (981, None);
    until("it is served", || {
        wire.send(&request(stream, "GET", &[], true));
        let is_answer = |frame: &Frame| frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM);
        status = wire.find(|frame| is_answer(frame) || frame.kind == GOAWAY).unwrap().status();
        stream += 2;
        status.is_some()
    });
    assert_eq!(status, Some(200));
}

/// Who is in the middle of something when the connection is cut off has not left.
#[test]
fn what_a_flood_takes_along_is_told_as_cut() {
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(MANY);
    let resets: Vec<u8> = (1..1_000)
        .flat_map(|at| {
            [request(2 * at + 1, "GET", &[], true), frame(RST_STREAM, 0, 2 * at + 1, &[0, 0, 0, 8])].concat()
        })
        .collect();
    for (bytes, why) in [
        (pings, "carry nothing"),
        (resets, "takes requests back"),
        (frame(DATA, 0, 0, b"on no stream"), "broke HTTP/2: PROTOCOL_ERROR"),
    ] {
        let server = Server::new(|peer| {
            if peer.request().unwrap().contains("x: first") {
                peer.say("asked");
            }
            while !peer.ends() {}
        });
        let bed = Bed::new(&[server.address], &[]);
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        wire.send(&request(1, "GET", &[("x", "first")], true));
        assert_eq!(server.saw(), "asked");
        let mut reader = Wire::of(wire.stream.try_clone().unwrap());
        let reading = thread::spawn(move || reader.goodbye());
        wire.send(&bytes);
        assert!(reading.join().unwrap().is_some_and(|code| code != 0));
        let lines = bed.lines();
        // Most of what a reset took back went before; what is left was cut by this side.
        let cut: Vec<_> = lines.iter().filter(|line| line["cause"] == "protocol-error").collect();
        assert!(!cut.is_empty(), "{why}: {lines:#?}");
        for line in cut {
            assert_eq!((&line["outcome"], &line["stage"]), (&"failed".into(), &"wait".into()), "{line:#}");
            let told = &line["gate"];
            let known = (&told["status"], &told["termination"], &told["flags"]);
            assert_eq!(known, (&0.into(), &"PH".into(), &"DPE".into()), "{line:#}");
            let summary = line["verdicts"][0]["summary"].as_str().unwrap();
            assert!(summary.starts_with("the client 127.0.0.1:") && summary.contains(why), "{summary}");
        }
    }
}

/// Who breaks one stream in the middle of a request has not left either.
#[test]
fn a_stream_that_its_client_breaks_is_told_as_such() {
    let begun = request(1, "POST", &[("content-length", "5")], false);
    // While the body is waited for, and while nobody reads it: there is no connection for it.
    for connections in [2, 1] {
        let server = Server::new(|peer| {
            while let Some(head) = peer.request() {
                peer.say(head);
            }
        });
        let table = format!("connections = {connections}");
        let bed = Bed::new(&[server.address], &[("cluster", &table)]);
        let mut first = bed.connect();
        first.send(GET);
        assert!(server.saw().starts_with("GET"));
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        wire.send(&begun);
        wire.send(&frame(PING, 0, 0, &[7; 8]));
        // By then it was accepted.
        assert!(wire.find(|frame| frame.kind == PING).is_some());
        if connections == 2 {
            assert!(server.saw().starts_with("POST"));
        }
        wire.send(&frame(DATA, END_STREAM, 1, b"abc"));
        let reset = wire.find(|frame| frame.kind == RST_STREAM).unwrap();
        assert_eq!((reset.stream, reset.code()), (1, 1));
        let log = bed.log();
        until("it is told", || fs::read_to_string(&log).is_ok_and(|text| text.contains("POST")));
        drop((first, wire));
        let lines = bed.lines();
        let line = lines.iter().find(|line| line["gate"]["method"] == "POST").unwrap();
        assert_eq!((&line["cause"], &line["outcome"]), (&"protocol-error".into(), &"failed".into()), "{line:#}");
        let told = &line["gate"];
        let known = (&told["status"], &told["termination"], &told["flags"]);
        let state = if connections == 2 { "PH" } else { "PQ" };
        assert_eq!(known, (&0.into(), &state.into(), &"DPE".into()), "{line:#}");
        let summary = line["verdicts"][0]["summary"].as_str().unwrap();
        assert!(summary.starts_with("the client 127.0.0.1:") && summary.contains("broke HTTP/2"), "{summary}");
    }
}

/// A short head that is long once it is read: one field, remembered and named again and again.
#[test]
fn a_head_that_grows() {
    let mut bomb = block(&asking("GET", "/"));
    bomb.push(0x40);
    bomb.extend(block(&[("x", &"y".repeat(4000))]).split_off(1));
    bomb.extend([0xbe; 12_000]);
    let bytes = (0..50).map(move |at| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &bomb));
    let bytes = bytes.chain(std::iter::once(frame(GOAWAY, 0, 0, &[0; 8])));
    flood(bytes, 32 * MIB);
    let mut tiny = block(&asking("GET", "/"));
    tiny.extend([0, 1, b'a', 0].repeat(3_900));
    let bytes = (0..50).map(move |at| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &tiny));
    flood(bytes.chain(std::iter::once(frame(GOAWAY, 0, 0, &[0; 8]))), 32 * MIB);
}

#[test]
fn heads_that_are_too_long_are_refused() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut bomb = block(&asking("GET", "/"));
    bomb.push(0x40);
    bomb.extend(block(&[("x", &"y".repeat(4000))]).split_off(1));
    bomb.extend([0xbe; 12_000]);
    let mut tiny = block(&asking("GET", "/"));
    tiny.extend([0, 1, b'a', 0].repeat(200));
    let asked = |block: &[u8]| {
        let mut wire = Wire::new(bed.gate.addresses()[0]);
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block));
        wire
    };
    // What is far too long is not even read to its end.
    assert_eq!(asked(&bomb).goodbye(), Some(CALM));
    assert_eq!(asked(&tiny).status(1), Some(431));
    tiny.extend([0, 1, b'a', 0].repeat(2_000));
    assert_eq!(asked(&tiny).status(1), Some(431));
    assert_eq!(server.connections(), 0);
}

/// Bodies byte by byte, for a server that takes none of them.
#[test]
fn bytes_that_nobody_takes() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        thread::park();
    });
    let bed = Bed::new(&[server.address], &[("limits", "send = \"3s\"\ngap = \"1s\"")]);
    let before = peak_kib();
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    let mut reader = Wire::of(wire.stream.try_clone().unwrap());
    let reading = thread::spawn(move || reader.find(|frame| matches!(frame.kind, GOAWAY | RST_STREAM | HEADERS)));
    for at in 0..100 {
        wire.send(&request(2 * at + 1, "POST", &[], false));
        wire.send(&frame(DATA, 0, 2 * at + 1, b"x").repeat(2_000));
    }
    assert!(reading.join().unwrap().is_some());
    let more = peak_kib().saturating_sub(before);
    println!("{more} KiB more");
    assert!(more < 48 * MIB, "{more} KiB more");
}

/// A long answer, taken a byte at a time.
#[test]
fn windows_of_one_byte() {
    let server = Server::new(|peer| {
        while peer.request().is_some() {
            peer.client.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n");
            let _ = std::io::Write::write_all(&mut peer.client.stream, &[b'x'; 10_000_000]);
        }
    });
    let bed = Bed::new(&[server.address], &[]);
    let before = peak_kib();
    let mut wire = Wire::silent(bed.gate.addresses()[0]);
    wire.send(PREFACE);
    wire.send(&frame(SETTINGS, 0, 0, &setting(4, 1)));
    wire.send(&request(1, "GET", &[], true));
    let mut code = None;
    let mut taken = 0;
    let mut reader = Wire::of(wire.stream.try_clone().unwrap());
    while let Some(came) = reader.next() {
        match came.kind {
            GOAWAY => code = Some(came.code()),
            DATA => {
                taken += came.payload.len();
                // A few ahead, so that nobody waits for the network.
                let window = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(came.payload.len().max(8));
                wire.send(&window);
            }
            _ => {}
        }
    }
    assert_eq!(code, Some(CALM), "after {taken} bytes");
    let more = peak_kib().saturating_sub(before);
    println!("{taken} bytes, {more} KiB more");
    // The server's ten megabytes are in this process, too.
    assert!(more < 48 * MIB, "{more} KiB more");
}

/// Whoever does not read the answers to its pings is not read from either, and is ended by the limit for a head.
#[test]
fn pings_whose_answers_nobody_takes() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("listener", "head = \"1s\"")]);
    let good = Good::new(&bed);
    let before = peak_kib();
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    let sent = (0..5_000).take_while(|_| wire.send(&pings)).count();
    assert!(sent < 5_000, "all was taken");
    println!("{} others served, {} KiB more", good.served(), peak_kib().saturating_sub(before));
    assert!(peak_kib().saturating_sub(before) < 16 * MIB);
}

/// A head that is begun and does not end is cut by the limit for heads, whatever else is under way on its connection.
#[test]
fn a_head_that_does_not_end_in_time() {
    let server = Server::new(|peer| {
        while let Some(head) = peer.request() {
            if head.starts_with("GET /x?y") {
                peer.client.send(OK);
            } else {
                peer.say("asked");
                while !peer.ends() {}
                peer.say("ended");
                return;
            }
        }
    });
    let bed = Bed::new(&[server.address], &[("listener", "head = \"200ms\"\nidle = \"60s\"")]);
    let begun = |stream| frame(HEADERS, END_STREAM, stream, &block(&asking("GET", "/x?y")));
    // Alone.
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(&begun(1));
    assert_eq!(wire.goodbye(), Some(CALM));
    // Behind a request that was served: the connection would be idle for a minute.
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&asking("GET", "/x?y"))));
    assert_eq!(wire.status(1), Some(200));
    wire.send(&begun(3));
    assert_eq!(wire.goodbye(), Some(CALM));
    // Beside one whose server is slow; in pieces that come steadily.
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(&request(1, "GET", &[], true));
    assert_eq!(server.saw(), "asked");
    wire.send(&begun(3));
    let mut dripping = Wire::of(wire.stream.try_clone().unwrap());
    let drips = thread::spawn(move || {
        let drip = frame(CONTINUATION, 0, 3, &block(&[("x", "y")]));
        while drip.chunks(5).all(|piece| {
            thread::sleep(Duration::from_millis(20));
            dripping.send(piece)
        }) {}
    });
    assert_eq!(wire.goodbye(), Some(CALM));
    drop(wire);
    assert_eq!(server.saw(), "ended");
    drips.join().unwrap();
    let lines = bed.lines();
    let told = |line: &&serde_json::Value| {
        line["gate"]["refused"].as_str().is_some_and(|why| why.contains("head 200ms (gate.toml:"))
    };
    assert_eq!(lines.iter().filter(told).count(), 3, "{lines:#?}");
}

/// A head of several pieces that come in time is no flood and not late.
#[test]
fn a_head_in_pieces() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[]);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    let mut size = Vec::new();
    integer(&mut size, 5, 0x20, 0);
    let pieces = [
        frame(HEADERS, END_STREAM, 1, &block(&asking("GET", "/"))),
        frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
        frame(CONTINUATION, END_HEADERS, 1, b""),
    ];
    for byte in pieces.concat() {
        wire.send(&[byte]);
    }
    assert_eq!(wire.status(1), Some(200));
    assert!(server.saw().contains("\r\nx: y\r\n"));
}

/// A body that never comes is the client's fault, and told so on its stream; the others go on.
#[test]
fn a_body_that_never_comes() {
    let server = Server::new(|peer| {
        while peer.request().is_some_and(|head| head.starts_with("GET ")) {
            peer.client.send(OK);
        }
        while !peer.ends() {}
    });
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"150ms\"")]);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(&request(1, "POST", &[], false));
    assert_eq!(wire.status(1), Some(408));
    wire.send(&request(3, "GET", &[], true));
    assert_eq!(wire.find(|frame| frame.kind == HEADERS && frame.stream == 3).unwrap().status(), Some(200));
}

/// A request that is taken back in the middle of its body is taken back from its server, too, at once: also when the server
/// takes none of it, or there is no connection to one yet.
#[test]
fn a_body_that_is_taken_back() {
    let server = Server::new(|peer| {
        peer.request().unwrap();
        peer.say("asked");
        thread::park();
    });
    let more = [("cluster", "connections = 1"), ("limits", "queue = \"60s\"\nsend = \"60s\"\ngap = \"60s\"")];
    let bed = Bed::new(&[server.address], &more);
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    let body = frame(DATA, 0, 1, &[0; 16_384]);
    wire.send(&request(1, "POST", &[], false));
    assert_eq!(server.saw(), "asked");
    // As much as the server's socket, and then this stream's window, holds: until nothing more is taken. The settings are
    // not answered, so the window is the one that every stream has at first.
    let mut room = 65_535;
    let mut reader = Wire::of(wire.stream.try_clone().unwrap());
    loop {
        while room >= 16_384 {
            wire.send(&body);
            room -= 16_384;
        }
        let Ok(Some(came)) = reader.within(Duration::from_millis(300)) else { break };
        if came.kind == WINDOW_UPDATE && came.stream == 1 {
            room += u32::from_be_bytes(came.payload.try_into().unwrap()) as usize;
        }
    }
    // One waits for its turn.
    wire.send(&request(3, "POST", &[], false));
    wire.send(&frame(PING, 0, 0, &[0; 8]));
    assert!(reader.find(|frame| frame.kind == PING).is_some());
    let log = bed.log();
    // Each is told before anything else could end it.
    for (told, stream) in [(1, 3), (2, 1)] {
        wire.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        while fs::read_to_string(&log).unwrap_or_default().lines().count() < told {
            thread::sleep(Duration::from_millis(5));
        }
    }
    drop((wire, reader));
    let lines = bed.lines();
    assert!(lines.iter().all(|line| line["outcome"] == "cancelled"), "{lines:#?}");
    assert_eq!((&lines[0]["stage"], &lines[1]["stage"]), (&"queue".into(), &"send".into()), "{lines:#?}");
}

/// An answer for which its client makes no room is cut on its stream, by the limit for what does not move.
#[test]
fn a_window_that_stays_closed() {
    let server = Server::answering(OK);
    let bed = Bed::new(&[server.address], &[("limits", "gap = \"200ms\"")]);
    let mut wire = Wire::silent(bed.gate.addresses()[0]);
    wire.send(PREFACE);
    wire.send(&frame(SETTINGS, 0, 0, &setting(4, 0)));
    wire.send(&request(1, "GET", &[], true));
    assert!(wire.find(|frame| frame.kind == RST_STREAM && frame.stream == 1).is_some());
    wire.send(&frame(SETTINGS, 0, 0, &setting(4, 100)));
    wire.send(&request(3, "GET", &[], true));
    let whole = wire.find(|frame| frame.kind == DATA && frame.stream == 3).unwrap();
    assert_eq!(whole.payload, b"hello");
    drop(wire);
    let lines = bed.lines();
    assert_eq!((&lines[0]["cause"], &lines[0]["stage"]), (&"reader-slow".into(), &"receive".into()), "{:#}", lines[0]);
}
