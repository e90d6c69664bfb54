//! Requests that two parsers could read differently, sent to this gateway and to nginx, HAProxy and Envoy.
//!
//! What must hold of ours: under no reading, however lenient, does a server see another number of requests than the
//! client was answered. Where one of the others does something else with a request, the table says why ours does not.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

mod cases;
mod reader;

pub(crate) use self::reader::plainly;
use self::{
    cases::{Case, Downgrade, cases, downgrades},
    reader::{READINGS, Reading, ends},
};
use crate::{
    bed::{Bed, OK, PATIENCE, Server, field},
    references::{self, Origin, Reference},
    wire::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Wire, block, frame},
};

/// Behind every case: whoever lets something through that ends elsewhere than it seems takes this for something else.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// Of all answers.
    statuses: Vec<u16>,
    /// What the server's connections carried.
    bytes: Vec<Vec<u8>>,
}

impl Outcome {
    /// Requests that the server answered.
    fn served(&self) -> usize {
        self.statuses.iter().filter(|status| (200..300).contains(*status)).count()
    }

    /// How many whole requests there are, as each reading has it.
    fn seen(&self) -> [usize; 2] {
        READINGS.map(|reading| self.bytes.iter().map(|bytes| ends(bytes, reading).0.len()).sum())
    }

    /// All readings find the same requests, and as many as were answered.
    fn is_one_way(&self) -> bool {
        let same = |bytes: &Vec<u8>| ends(bytes, Reading::LengthFirst) == ends(bytes, Reading::CodingFirst);
        self.bytes.iter().all(same) && self.seen() == [self.served(); 2]
    }
}

/// Sends all of it, and gives the answers up to the end.
fn send(address: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answers = Vec::new();
    let mut some = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut some) {
        answers.extend_from_slice(&some[..read]);
    }
    let starts = answers.windows(13).filter(|bytes| bytes.starts_with(b"HTTP/1."));
    starts
        .filter_map(|start| std::str::from_utf8(&start[9..12]).ok()?.parse().ok())
        .filter(|status| *status >= 200)
        .collect()
}

/// Each case, as each of the references takes it.
fn ask_all<C: Sync>(cases: &[C], ask: impl Fn(&Reference, &C) -> Outcome + Sync) -> BTreeMap<String, Vec<Outcome>> {
    let all = references::all(plainly);
    thread::scope(|scope| {
        let each = all.iter().map(|reference| {
            let ask = &ask;
            let outcomes = scope.spawn(move || cases.iter().map(|case| ask(reference, case)).collect());
            (format!("{} ({})", reference.name, reference.version), outcomes)
        });
        let each: Vec<_> = each.collect();
        each.into_iter().map(|(name, outcomes)| (name, outcomes.join().unwrap())).collect()
    })
}

/// One line of the table that the run prints.
fn print(name: &str, outcome: &Outcome, of: &str) {
    let bytes: Vec<String> = outcome.bytes.iter().map(|bytes| bytes.escape_ascii().to_string()).collect();
    println!("{of:8.8} {name}: answered {:?}, seen {:?}, {bytes:?}", outcome.statuses, outcome.seen());
}

/// What is wrong with a case, if anything is.
fn judge(
    name: &str,
    why: &str,
    ours: &Outcome,
    index: usize,
    others: &BTreeMap<String, Vec<Outcome>>,
) -> Option<String> {
    if !ours.is_one_way() {
        return Some(format!("{name}: {ours:?} is read in two ways"));
    }
    let other = others.iter().find(|(_, outcomes)| outcomes[index].served() != ours.served());
    let (reference, outcomes) = other.filter(|_| why.is_empty())?;
    Some(format!("{name}: nobody says why {reference} does something else: {:?}", outcomes[index]))
}

#[test]
fn no_request_is_read_in_two_ways() {
    let cases = cases();
    let origin = Origin::new(plainly);
    let bed = Bed::new(&[origin.address], &[]);
    let ask = |address, case: &Case, origin: &Origin| {
        let statuses = send(address, format!("{}{NEXT}", case.request).as_bytes());
        Outcome { statuses, bytes: origin.take() }
    };
    let others = ask_all(&cases, |reference, case| ask(reference.http1, case, &reference.origin));
    let mut wrong = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let outcome = ask(bed.gate.addresses()[0], case, &origin);
        print(case.name, &outcome, "ours");
        others.iter().for_each(|(name, outcomes)| print(case.name, &outcomes[index], name));
        if outcome.statuses != case.ours {
            wrong.push(format!("{}: answered {:?} instead of {:?}", case.name, outcome.statuses, case.ours));
        }
        wrong.extend(judge(case.name, case.why, &outcome, index, &others));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{:?}", others.keys());
}

/// The status of the answer, if there is one, before whatever ends the stream.
fn ask_http2(address: SocketAddr, case: &Downgrade) -> Vec<u16> {
    let mut wire = Wire::new(address);
    let flags = END_HEADERS | if case.body.is_none() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, flags, 1, &block(&case.fields));
    if let Some(body) = case.body {
        bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
    }
    wire.send(&bytes);
    loop {
        match wire.next() {
            None => return Vec::new(),
            Some(frame) if frame.kind == GOAWAY && frame.code() != 0 => return Vec::new(),
            Some(frame) if frame.kind == RST_STREAM => return Vec::new(),
            Some(frame) if frame.kind == HEADERS => {
                let status = frame.status().unwrap_or_else(|| panic!("{}: {frame:?}", case.name));
                if status >= 200 {
                    return vec![status];
                }
            }
            Some(_) => {}
        }
    }
}

#[test]
fn nothing_is_hidden_on_the_way_from_http_2() {
    let cases = downgrades();
    let origin = Origin::new(plainly);
    let bed = Bed::new(&[origin.address], &[]);
    let others = ask_all(&cases, |reference, case| Outcome {
        statuses: ask_http2(reference.http2, case),
        bytes: reference.origin.take(),
    });
    let mut wrong = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let statuses = ask_http2(bed.gate.addresses()[0], case);
        let outcome = Outcome { statuses, bytes: origin.take() };
        print(case.name, &outcome, "ours");
        others.iter().for_each(|(name, outcomes)| print(case.name, &outcomes[index], name));
        if outcome.statuses.first().copied() != case.ours {
            wrong.push(format!("{}: answered {:?} instead of {:?}", case.name, outcome.statuses, case.ours));
        }
        wrong.extend(judge(case.name, case.why, &outcome, index, &others));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What only a trusted proxy may say, nobody else may say in a name that a server takes for the same.
#[test]
fn no_name_is_taken_for_another() {
    for trusted in ["", "trusted = [\"127.0.0.0/8\"]"] {
        let server = Server::answering(OK);
        let bed = Bed::new(&[server.address], &[("listener", trusted)]);
        let answer = bed.connect().call(
            "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: https\r\nx_real_ip: 6.6.6.6\r\n\
             grpc_timeout: 1n\r\nX_Kept: 1\r\n\r\n",
        );
        assert_eq!(answer.status, 200);
        let head = server.saw();
        assert!(!head.contains("6.6.6.6") && !head.contains("https") && !head.contains("grpc_timeout"), "{head}");
        assert_eq!(field(&head, "x_kept"), Some("1"));
    }
}
