//! `bench gate`: what a request through the gateway costs, beside other proxies.
//!
//! Each proxy has one core, and shares it with nobody while it is measured; the server behind and the load are on
//! another. All have limits, one JSON line a request in a file, and kept connections on both sides. The load is a closed
//! loop: what is measured is processor time for each request, not how fast the machine is.

mod load;
mod proxies;
mod rate;

use std::{
    fmt, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, json};

use self::{
    load::{Load, Numbers, connections},
    proxies::{Proxy, start},
};
use crate::{
    cases::{Report, Rounds, Samples},
    interrupt::Interrupted,
    peer::Behind,
    table::{Column, Table},
    usage::{cpu_of, memory},
};

/// What is measured of the gateway.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// What clients speak, one or several: http1 also measures the memory of idle connections.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "http1")]
    protocol: Vec<Protocol>,
    /// Also requests at fixed rates, in the clear over HTTP/1.1: at 20, 50 and 80 % of what the slowest can do.
    #[arg(long)]
    rate: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    /// HTTP/1.1 in the clear, on kept connections.
    Http1,
    /// HTTP/2 in the clear; HTTP/1.1 to the server.
    H2,
    /// HTTP/1.1 over TLS, on kept connections.
    Tls,
    /// A connection for each request, with a resumed session.
    TlsResumed,
    /// A connection for each request, with a whole handshake.
    TlsNew,
    /// gRPC calls with one message each way, over HTTP/2 on both sides.
    Grpc,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// As typed.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol != [Protocol::Http1] {
            let names: Vec<_> = self.protocol.iter().map(Protocol::to_string).collect();
            write!(f, " --protocol {}", names.join(","))?;
        }
        f.write_str(if self.rate { " --rate" } else { "" })
    }
}

impl Protocol {
    /// The title of the table with so many requests at a time.
    fn title(self, at_once: u32) -> String {
        let plural = if at_once == 1 { "" } else { "s" };
        let streams = || {
            let (connections, streams) = connections(at_once);
            if streams == 1 {
                "one at a time".to_owned()
            } else {
                format!("{connections} connections of {streams} streams")
            }
        };
        match self {
            Self::Http1 => format!("A request of 1 KiB, {at_once} connection{plural}"),
            Self::H2 => format!("A request of 1 KiB over HTTP/2, {}", streams()),
            Self::Tls => format!("A request of 1 KiB over TLS, {at_once} kept connection{plural}"),
            Self::TlsResumed => format!("A request of 1 KiB over TLS with a resumed session, {at_once} at a time"),
            Self::TlsNew => format!("A request of 1 KiB over TLS with a whole handshake, {at_once} at a time"),
            Self::Grpc => format!("A gRPC call with an answer of 1 KiB, {}", streams()),
        }
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::TlsResumed | Self::TlsNew => HANDSHAKES,
            _ => COSTS,
        }
    }
}

const CONNECTIONS: [u32; 2] = [64, 1];
/// How long one slice is, in milliseconds.
const SLICE_MS: u32 = 4000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that lie idle, for their memory.
const IDLE: u32 = 3000;

const COSTS: &[Column] = &[
    Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true },
    Column { title: "requests/s", number: "rate", decimals: 0, ratio: false },
];
const HANDSHAKES: &[Column] = &[
    Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true },
    Column { title: "requests/s", number: "rate", decimals: 0, ratio: false },
    Column { title: "resumed, %", number: "resumed_percent", decimals: 1, ratio: false },
];
const MEMORY: &[Column] = &[
    Column { title: "bytes for each", number: "idle_bytes", decimals: 0, ratio: true },
    Column { title: "without any, MB", number: "empty_mb", decimals: 1, ratio: false },
];

const OURS: &str = "overdue gate";
const REFERENCE: &str = "nginx";

/// A title, columns, and the samples of each row.
type Measured = (String, &'static [Column], Vec<(String, Samples)>);

pub(crate) fn run(rounds: Rounds, options: &Options) -> anyhow::Result<Report> {
    let interrupted = Interrupted::listen()?;
    let behind = Behind::start()?;
    certificate(behind.peer.folder())?;
    let mut peers = vec![behind.peer.name.clone()];
    let mut measured = Vec::new();
    let mut protocols = options.protocol.clone();
    if options.rate && !protocols.contains(&Protocol::Http1) {
        // What the slowest can do is measured with it.
        protocols.push(Protocol::Http1);
    }
    for protocol in &protocols {
        let slice = Duration::from_millis(rounds.scaled(SLICE_MS).into());
        let load = Load::new(&behind, *protocol, slice, &interrupted)?;
        let proxies = start(&behind, *protocol, &mut peers)?;
        let tables = costs(&load, &proxies, rounds)?;
        let knee = tables.first().map(|(_, _, rows)| rate::knee(rows)).transpose()?;
        measured.extend(tables);
        if let Some(knee) = knee.filter(|_| options.rate && *protocol == Protocol::Http1) {
            measured.extend(rate::run(&behind, &proxies, knee, rounds, &interrupted)?);
        }
    }
    if protocols.contains(&Protocol::Http1) {
        measured.push(memory_of_idle(&behind, rounds, &interrupted)?);
    }
    let mut raw = Map::new();
    let mut text = String::new();
    for (title, columns, rows) in measured {
        let borrowed: Vec<_> = rows.iter().map(|(name, samples)| (name.as_str(), samples)).collect();
        text += &Table { title: &title, columns, reference: REFERENCE, rows: &borrowed }.to_string();
        raw.insert(title, rows.iter().map(|(name, samples)| (name.clone(), json!(samples))).collect());
    }
    Ok(Report { text, raw: raw.into(), peers, passed: true })
}

/// What all of them show in all tables: key and certificate of `localhost`, ECDSA on P-256.
fn certificate(folder: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(load::certificate(folder), &chain)?;
    fs::write(folder.join("key.pem"), &key)?;
    // As haproxy wants it.
    fs::write(folder.join("both.pem"), chain + &key)?;
    Ok(())
}

/// A row for each proxy.
fn rows(proxies: &[Proxy]) -> Vec<(String, Samples)> {
    proxies.iter().map(|proxy| (proxy.name.to_owned(), Samples::new())).collect()
}

fn add(samples: &mut Samples, numbers: Numbers) {
    for (name, number) in numbers {
        samples.entry(name.to_owned()).or_default().push(number);
    }
}

/// What a request costs, for each number of requests at a time.
fn costs(load: &Load<'_>, proxies: &[Proxy], rounds: Rounds) -> anyhow::Result<Vec<Measured>> {
    for proxy in proxies {
        load.is_answered(proxy)?;
    }
    let protocol = load.protocol;
    let mut tables = CONNECTIONS.map(|at_once| (protocol.title(at_once), protocol.columns(), rows(proxies)));
    for round in 0..rounds.count as usize {
        for (at_once, (title, _, rows)) in CONNECTIONS.into_iter().zip(&mut tables) {
            eprintln!("round {} of {}: {title}", round + 1, rounds.count);
            for index in (0..proxies.len()).map(|index| (index + round) % proxies.len()) {
                let Some((proxy, (_, samples))) = proxies.get(index).zip(rows.get_mut(index)) else { continue };
                add(samples, load.measure(proxy, at_once)?);
            }
        }
    }
    Ok(tables.into())
}

/// Of proxies that have carried no load: memory that they once had for it does not come back.
fn memory_of_idle(behind: &Behind, rounds: Rounds, interrupted: &Interrupted) -> anyhow::Result<Measured> {
    let count = rounds.scaled(IDLE);
    eprintln!("memory of {count} idle connections");
    let proxies = start(behind, Protocol::Http1, &mut Vec::new())?;
    let load = Load::new(behind, Protocol::Http1, Duration::ZERO, interrupted)?;
    let mut rows = rows(&proxies);
    for (proxy, (_, samples)) in proxies.iter().zip(&mut rows) {
        load.is_answered(proxy)?;
        add(samples, proxy.idle(count, interrupted)?);
    }
    Ok(("An idle connection".to_owned(), MEMORY, rows))
}

impl Proxy {
    /// Whether it gives the whole body.
    fn answers(&self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /1k HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(&[b'x'; 1024]),
            "{} answers {:?}",
            self.name,
            String::from_utf8_lossy(answer.get(..80).unwrap_or(&answer))
        );
        Ok(())
    }

    /// What connections cost that have carried one request each, and lie idle.
    fn idle(&self, count: u32, interrupted: &Interrupted) -> anyhow::Result<Numbers> {
        self.answers()?;
        let resident = || memory(self.server.pid()).context("the proxy is gone");
        let empty = resident()?;
        let mut held = Vec::new();
        let mut answer = [0; 4096];
        for _ in 0..count {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n")?;
            let mut length = 0;
            while length < 1024 {
                let read = stream.read(&mut answer)?;
                ensure!(read > 0, "{} closed a connection", self.name);
                length += read;
            }
            held.push(stream);
        }
        // What it gives back, it gives back soon.
        interrupted.pause(Duration::from_secs(2))?;
        ensure!(cpu_of(self.server.pid()).is_some(), "{} is gone", self.name);
        let full = resident()?;
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
        let (empty, each) = (empty as f64 / 1e6, full.saturating_sub(empty) as f64 / f64::from(count));
        Ok(vec![("idle_bytes", each), ("empty_mb", empty)])
    }
}
