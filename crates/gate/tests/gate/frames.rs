//! What clients may do wrong in HTTP/2 and in the compression of heads: the ground that h2spec covers, in frames of our own.
//!
//! A case is what is sent behind the settings, and what RFC 9113 or RFC 7541 expects. Where the h2 crate does something
//! else, the case says what, and why that is no hole.

use crate::{
    bed::Bed,
    references::Origin,
    smuggling::plainly,
    wire::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, Wire, asking, block, frame, integer, request, setting,
    },
};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

/// What is to come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    /// The connection ends, with this code.
    Connection(u32),
    /// Stream 1 ends, with this code, and the connection goes on.
    Stream(u32),
    /// Stream 1 is answered, and the connection goes on.
    Status(u16),
    /// Nothing is said of it, and the connection goes on.
    Nothing,
}
use Expected::{Connection, Nothing, Status, Stream};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expected: Expected,
    /// What the h2 crate does instead, and why that may be.
    instead: Option<(Expected, &'static str)>,
}

/// A stream whose request goes on.
fn open() -> Vec<u8> {
    request(1, "POST", &[], false)
}

/// A whole request.
fn get() -> Vec<u8> {
    request(1, "GET", &[], true)
}

/// A head on stream 1, of these bytes.
fn head(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
}

fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    head(&block(fields))
}

/// A whole request with more in its head, as it is compressed.
fn with_block(more: &[u8]) -> Vec<u8> {
    head(&[&block(&asking("GET", "/"))[..], more].concat())
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    with_block(&block(more))
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, parts: &[&[u8]], expected| {
        cases.push(Case { name, bytes: parts.concat(), expected, instead: None });
    };
    let unfinished = &frame(HEADERS, END_STREAM, 1, &block(&asking("GET", "/")));
    let rest = &frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]));

    // Frames: RFC 9113, 4 and 5.5.
    add("a request", &[&get()], Status(200));
    add("an unknown frame", &[&frame(0xfa, 0xff, 0, b"hello"), &get()], Status(200));
    add(
        "an unknown frame on a stream",
        &[&open(), &frame(0xfa, 0xff, 1, b"hello"), &frame(DATA, END_STREAM, 1, b"")],
        Status(200),
    );
    add("unknown flags", &[&frame(PING, 0xfe, 0, &[7; 8]), &get()], Status(200));
    add("the reserved bit", &[&frame(PING, 0, 0x8000_0000, &[7; 8]), &get()], Status(200));
    add("a DATA that is too long", &[&open(), &frame(DATA, 0, 1, &[0; 16385])], Connection(FRAME_SIZE));
    add("a HEADERS that is too long", &[&frame(HEADERS, END_HEADERS, 1, &[0; 16385])], Connection(FRAME_SIZE));
    add("an unknown frame that is too long", &[&frame(0xfa, 0, 0, &[0; 16385])], Connection(FRAME_SIZE));
    add("an unknown frame in a head", &[unfinished, &frame(0xfa, 0, 1, b"")], Connection(PROTOCOL));

    // States of streams: 5.1.
    for (name, idle) in [
        ("DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x")),
        ("RST_STREAM on an idle stream", reset(1)),
        ("WINDOW_UPDATE on an idle stream", update(1, 1)),
        ("CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, &block(&asking("GET", "/")))),
    ] {
        add(name, &[&idle], Connection(PROTOCOL));
    }
    add("PRIORITY on an idle stream", &[&frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), &get()], Status(200));
    add("DATA after the end", &[&get(), &frame(DATA, END_STREAM, 1, b"x")], Stream(STREAM_CLOSED));
    add("HEADERS after the end", &[&get(), &get()], Connection(STREAM_CLOSED));
    add("CONTINUATION after the end", &[&get(), rest], Connection(PROTOCOL));
    add("DATA after a reset", &[&open(), &reset(1), &frame(DATA, END_STREAM, 1, b"x")], Stream(STREAM_CLOSED));
    add("HEADERS after a reset", &[&open(), &reset(1), &get()], Stream(STREAM_CLOSED));
    add("WINDOW_UPDATE after a reset", &[&open(), &reset(1), &update(1, 1)], Nothing);
    add("PRIORITY after a reset", &[&open(), &reset(1), &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])], Nothing);
    add("two resets", &[&open(), &reset(1), &reset(1)], Nothing);
    add("a stream of a server's number", &[&request(2, "GET", &[], true)], Connection(PROTOCOL));
    add(
        "a stream of a smaller number",
        &[&request(5, "GET", &[], true), &request(3, "GET", &[], true)],
        Connection(PROTOCOL),
    );
    let many: Vec<u8> = (0..=128).flat_map(|at| request(257 - 2 * (128 - at), "POST", &[], false)).collect();
    add("more streams than there may be", &[&many], Stream(REFUSED));
    let self_dependent = [&[0, 0, 0, 1, 16][..], &block(&asking("GET", "/"))].concat();
    add(
        "a head that depends on itself",
        &[&frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &self_dependent)],
        Stream(PROTOCOL),
    );

    // Each kind of frame: 6.
    add("DATA on stream 0", &[&frame(DATA, 0, 0, b"x")], Connection(PROTOCOL));
    add("DATA, longer padding than payload", &[&open(), &frame(DATA, PADDED, 1, &[5, 0, 0])], Connection(PROTOCOL));
    add("DATA, padded", &[&open(), &frame(DATA, PADDED | END_STREAM, 1, &[2, b'x', 0, 0])], Status(200));
    add(
        "HEADERS on stream 0",
        &[&frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(&asking("GET", "/")))],
        Connection(PROTOCOL),
    );
    add(
        "HEADERS, longer padding than payload",
        &[&frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[9, 0, 0])],
        Connection(PROTOCOL),
    );
    add("PRIORITY on stream 0", &[&frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1])], Connection(PROTOCOL));
    add("PRIORITY of another length", &[&open(), &frame(PRIORITY, 0, 1, &[0; 4])], Stream(FRAME_SIZE));
    add("RST_STREAM on stream 0", &[&reset(0)], Connection(PROTOCOL));
    add("RST_STREAM of another length", &[&open(), &frame(RST_STREAM, 0, 1, &[0; 3])], Connection(FRAME_SIZE));
    add("RST_STREAM with an unknown code", &[&open(), &frame(RST_STREAM, 0, 1, &[0xff; 4])], Nothing);
    add("SETTINGS on a stream", &[&open(), &frame(SETTINGS, 0, 1, &[])], Connection(PROTOCOL));
    add("SETTINGS, an answer with a payload", &[&frame(SETTINGS, ACK, 0, &setting(1, 1))], Connection(FRAME_SIZE));
    add("SETTINGS of another length", &[&frame(SETTINGS, 0, 0, &[0; 3])], Connection(FRAME_SIZE));
    for (name, id, value, expected) in [
        ("ENABLE_PUSH of 2", 2, 2, Connection(PROTOCOL)),
        ("a window beyond 2^31-1", 4, 0x8000_0000, Connection(FLOW_CONTROL)),
        ("frames of less than 16384", 5, 16383, Connection(PROTOCOL)),
        ("frames of more than 2^24-1", 5, 1 << 24, Connection(PROTOCOL)),
        ("an unknown setting", 0xff, 1, Nothing),
        ("heads of no size", 6, 0, Nothing),
    ] {
        add(name, &[&frame(SETTINGS, 0, 0, &setting(id, value))], expected);
    }
    add(
        "PUSH_PROMISE of a client",
        &[&open(), &frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
        Connection(PROTOCOL),
    );
    add("PING on a stream", &[&open(), &frame(PING, 0, 1, &[0; 8])], Connection(PROTOCOL));
    add("PING of another length", &[&frame(PING, 0, 0, &[0; 6])], Connection(FRAME_SIZE));
    add("PING, an answer that nobody waits for", &[&frame(PING, ACK, 0, &[1; 8])], Nothing);
    add("GOAWAY on a stream", &[&open(), &frame(GOAWAY, 0, 1, &[0; 8])], Connection(PROTOCOL));
    add("WINDOW_UPDATE of 0", &[&update(0, 0)], Connection(PROTOCOL));
    add("WINDOW_UPDATE of 0 on a stream", &[&open(), &update(1, 0)], Stream(PROTOCOL));
    add("WINDOW_UPDATE of another length", &[&frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Connection(FRAME_SIZE));
    add("a window that overflows", &[&update(0, 0x7fff_ffff), &update(0, 0x7fff_ffff)], Connection(FLOW_CONTROL));
    add("a stream's window that overflows", &[&open(), &update(1, 0x7fff_ffff)], Stream(FLOW_CONTROL));
    add(
        "a window that a setting lets overflow",
        &[&open(), &update(1, 0x7fff_0000), &frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff))],
        Connection(FLOW_CONTROL),
    );
    add("CONTINUATION", &[unfinished, rest], Status(200));
    add("CONTINUATION on stream 0", &[unfinished, &frame(CONTINUATION, END_HEADERS, 0, b"")], Connection(PROTOCOL));
    add(
        "CONTINUATION on another stream",
        &[unfinished, &frame(CONTINUATION, END_HEADERS, 3, b"")],
        Connection(PROTOCOL),
    );
    add("CONTINUATION after a whole head", &[&open(), rest], Connection(PROTOCOL));
    add("CONTINUATION after DATA", &[&open(), &frame(DATA, 0, 1, b"x"), rest], Connection(PROTOCOL));
    for (name, other) in [
        ("DATA in a head", frame(DATA, 0, 1, b"x")),
        ("HEADERS in a head", request(3, "GET", &[], true)),
        ("PRIORITY in a head", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("RST_STREAM in a head", reset(1)),
        ("SETTINGS in a head", frame(SETTINGS, 0, 0, &[])),
        ("PING in a head", frame(PING, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE in a head", update(0, 1)),
    ] {
        add(name, &[unfinished, &other], Connection(PROTOCOL));
    }

    // Requests: 8.
    add("a name in upper case", &[&with(&[("X-Y", "z")])], Stream(PROTOCOL));
    add("an unknown pseudo field", &[&with(&[(":x", "y")])], Stream(PROTOCOL));
    add("a pseudo field of answers", &[&with(&[(":status", "200")])], Stream(PROTOCOL));
    add(
        "a pseudo field behind others",
        &[&fields(&[(":method", "GET"), (":scheme", "http"), ("x", "y"), (":path", "/"), (":authority", "a")])],
        Stream(PROTOCOL),
    );
    for (name, twice) in [
        ("two methods", (":method", "GET")),
        ("two schemes", (":scheme", "http")),
        ("two paths", (":path", "/")),
        ("two authorities", (":authority", "a.test")),
    ] {
        add(name, &[&with(&[twice])], Stream(PROTOCOL));
    }
    for (name, missing) in [("no method", ":method"), ("no scheme", ":scheme"), ("no path", ":path")] {
        let rest: Vec<_> = asking("GET", "/").into_iter().filter(|(name, _)| *name != missing).collect();
        add(name, &[&fields(&rest)], Stream(PROTOCOL));
    }
    add("an empty path", &[&fields(&asking("GET", ""))], Stream(PROTOCOL));
    for (name, field) in [
        ("connection", ("connection", "keep-alive")),
        ("keep-alive", ("keep-alive", "1")),
        ("proxy-connection", ("proxy-connection", "keep-alive")),
        ("transfer-encoding", ("transfer-encoding", "chunked")),
        ("upgrade", ("upgrade", "h2c")),
        ("te: gzip", ("te", "trailers, gzip")),
        ("a line feed in a value", ("x", "y\nz")),
        ("a carriage return in a value", ("x", "y\rz")),
        ("NUL in a value", ("x", "y\0z")),
        ("a colon in a name", ("x:y", "z")),
        ("a space in a name", ("x y", "z")),
    ] {
        add(name, &[&with(&[field])], Stream(PROTOCOL));
    }
    add("te: trailers", &[&with(&[("te", "trailers")])], Status(200));
    let post = |length| request(1, "POST", &[("content-length", length)], false);
    add("a body of its length", &[&post("1"), &frame(DATA, END_STREAM, 1, b"x")], Status(200));
    add("a body that is too short", &[&post("2"), &frame(DATA, END_STREAM, 1, b"x")], Stream(PROTOCOL));
    add(
        "a body that is too long",
        &[&post("1"), &frame(DATA, 0, 1, b"x"), &frame(DATA, END_STREAM, 1, b"x")],
        Stream(PROTOCOL),
    );
    add("a length without a body", &[&with(&[("content-length", "1")])], Stream(PROTOCOL));
    add(
        "a length that is cut by trailers",
        &[&post("2"), &frame(DATA, 0, 1, b"x"), &fields(&[("x", "y")])],
        Stream(PROTOCOL),
    );
    add("trailers", &[&open(), &fields(&[("x", "y")])], Status(200));
    add(
        "trailers without an end",
        &[&open(), &frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))],
        Stream(PROTOCOL),
    );
    add("trailers with a pseudo field", &[&open(), &fields(&[(":path", "/")])], Stream(PROTOCOL));
    add("trailers in upper case", &[&open(), &fields(&[("X", "y")])], Stream(PROTOCOL));

    // The compression of heads: RFC 7541.
    for (name, bytes) in [
        ("index 0", vec![0x80]),
        ("an index beyond the table", vec![0xff, 0]),
        ("a name beyond the table", vec![0x7f, 0, 1, b'x']),
        ("a size of the table in the middle", vec![0x20]),
        ("Huffman's code, padding of a byte", vec![0, 1, b'x', 0x82, 0xff, 0xff]),
        ("Huffman's code, padding of zeros", vec![0, 1, b'x', 0x81, 0]),
        ("Huffman's code, its end", vec![0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("an index that overflows", vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a length that overflows", vec![0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a string that is cut", vec![0, 9, b'x']),
        ("a field that is cut", vec![0]),
        ("an index that is cut", vec![0xff]),
    ] {
        add(name, &[&with_block(&bytes)], Connection(COMPRESSION));
    }
    let mut size = Vec::new();
    integer(&mut size, 5, 0x20, 4097);
    add(
        "a table beyond what was allowed",
        &[&head(&[&size[..], &block(&asking("GET", "/"))].concat())],
        Connection(COMPRESSION),
    );
    size.clear();
    integer(&mut size, 5, 0x20, 4096);
    add(
        "a table as it was allowed",
        &[&head(&[&[0x20][..], &size, &block(&asking("GET", "/"))].concat())],
        Status(200),
    );

    for (name, actual, why) in INSTEAD {
        let case = cases.iter_mut().find(|case| case.name == *name);
        case.unwrap_or_else(|| panic!("no case {name:?}")).instead = Some((*actual, *why));
    }
    cases
}

const ENDS: &str = "it ends the whole connection, which RFC 9113, 5.4.1 leaves to it";
const CODE: &str = "it ends the connection, as it should, and calls it PROTOCOL_ERROR";

/// Where the h2 crate differs.
const INSTEAD: &[(&str, Expected, &str)] = &[
    ("DATA after the end", Connection(PROTOCOL), ENDS),
    ("HEADERS after a reset", Connection(PROTOCOL), ENDS),
    ("PRIORITY of another length", Connection(PROTOCOL), ENDS),
    ("WINDOW_UPDATE of 0 on a stream", Connection(PROTOCOL), ENDS),
    ("a name in upper case", Connection(PROTOCOL), ENDS),
    ("an unknown pseudo field", Connection(PROTOCOL), ENDS),
    ("a line feed in a value", Connection(PROTOCOL), ENDS),
    ("a carriage return in a value", Connection(PROTOCOL), ENDS),
    ("NUL in a value", Connection(PROTOCOL), ENDS),
    ("a colon in a name", Connection(PROTOCOL), ENDS),
    ("a space in a name", Connection(PROTOCOL), ENDS),
    ("trailers in upper case", Connection(PROTOCOL), ENDS),
    ("HEADERS after the end", Connection(PROTOCOL), CODE),
    ("RST_STREAM of another length", Connection(PROTOCOL), CODE),
    ("SETTINGS, an answer with a payload", Connection(PROTOCOL), CODE),
    ("SETTINGS of another length", Connection(PROTOCOL), CODE),
    ("a window beyond 2^31-1", Connection(PROTOCOL), CODE),
    ("PING of another length", Connection(PROTOCOL), CODE),
    ("WINDOW_UPDATE of another length", Connection(PROTOCOL), CODE),
    ("index 0", Connection(PROTOCOL), CODE),
    ("an index beyond the table", Connection(PROTOCOL), CODE),
    ("a name beyond the table", Connection(PROTOCOL), CODE),
    ("a size of the table in the middle", Connection(PROTOCOL), CODE),
    ("Huffman's code, padding of a byte", Connection(PROTOCOL), CODE),
    ("Huffman's code, padding of zeros", Connection(PROTOCOL), CODE),
    ("Huffman's code, its end", Connection(PROTOCOL), CODE),
    ("an index that overflows", Connection(PROTOCOL), CODE),
    ("a length that overflows", Connection(PROTOCOL), CODE),
    ("a string that is cut", Connection(PROTOCOL), CODE),
    ("a field that is cut", Connection(PROTOCOL), CODE),
    ("an index that is cut", Connection(PROTOCOL), CODE),
    ("a table beyond what was allowed", Connection(PROTOCOL), CODE),
    (
        "trailers with a pseudo field",
        Status(200),
        "it drops the pseudo field before anybody sees it: nothing of it goes on, as the test of trailers says",
    ),
];

/// What came back for this.
fn outcome(bed: &Bed, bytes: &[u8], expected: Expected) -> Expected {
    let mut wire = Wire::new(bed.gate.addresses()[0]);
    wire.send(bytes);
    let last = [0xee; 8];
    wire.send(&frame(PING, 0, 0, &last));
    let mut stream = None;
    let mut over = false;
    // A request behind all of it shows that the connection goes on.
    while let Some(frame) = wire.next() {
        match frame.kind {
            HEADERS | RST_STREAM if frame.stream == 9001 => over = true,
            GOAWAY => return Connection(frame.code()),
            RST_STREAM if stream.is_none() => stream = Some(Stream(frame.code())),
            HEADERS if frame.stream == 1 => stream = stream.or(frame.status().map(Status)),
            PING if frame.flags == ACK && frame.payload == last => {
                wire.send(&request(9001, "GET", &[], true));
            }
            _ => {}
        }
        if over && (stream.is_some() || expected == Nothing) {
            break;
        }
    }
    if over { stream.unwrap_or(Nothing) } else { Connection(0) }
}

#[test]
fn what_a_client_does_wrong_is_answered_as_it_should_be() {
    let server = Origin::new(plainly);
    let bed = Bed::new(&[server.address], &[]);
    let mut wrong = Vec::new();
    for case in cases() {
        let expected = case.instead.map_or(case.expected, |(instead, _)| instead);
        let outcome = outcome(&bed, &case.bytes, expected);
        println!("{}: {outcome:?}", case.name);
        if outcome != expected {
            wrong.push(format!("{}: {outcome:?} instead of {expected:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What h2 drops of trailers, and what it lets through, is known: a path among them reaches nobody.
#[test]
fn no_pseudo_field_of_trailers_goes_on() {
    let origin = Origin::new(plainly);
    let bed = Bed::new(&[origin.address], &[]);
    let trailers = fields(&[(":path", "/evil"), (":status", "200"), ("x-sum", "1"), ("content-length", "9")]);
    assert_eq!(outcome(&bed, &[open(), frame(DATA, 0, 1, b"x"), trailers].concat(), Status(200)), Status(200));
    let seen = String::from_utf8(origin.take().concat()).unwrap();
    let (_, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(body.starts_with("1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n"), "{seen}");
}
