//! What makes the load: wrk for HTTP/1.1, h2load for HTTP/2, and for new connections a program of our own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{PATIENCE, Protocol, proxies::Proxy};
use crate::{
    child::{Core, Server, on_path, pinned, program},
    interrupt::Interrupted,
    peer::{Behind, METHOD},
    usage::Usage,
};

/// Until the load has found its pace.
const SETTLE: Duration = Duration::from_millis(700);
/// How much longer than the slice the load goes on that ends by itself.
const SPARE: Duration = Duration::from_millis(800);

/// Named numbers.
pub(super) type Numbers = Vec<(&'static str, f64)>;

/// What is asked for, and by how many at a time.
pub(super) struct Load<'a> {
    pub(super) behind: &'a Behind,
    pub(super) protocol: Protocol,
    pub(super) slice: Duration,
    pub(super) interrupted: &'a Interrupted,
    program: PathBuf,
}

impl<'a> Load<'a> {
    pub(super) fn new(
        behind: &'a Behind,
        protocol: Protocol,
        slice: Duration,
        interrupted: &'a Interrupted,
    ) -> anyhow::Result<Self> {
        let program = match protocol {
            Protocol::Http1 | Protocol::Tls => {
                on_path("wrk").context("wrk is not on the PATH: it makes the load (apt-get install wrk)")?
            }
            Protocol::H2 | Protocol::Grpc => on_path("h2load")
                .context("h2load is not on the PATH: it makes the load (apt-get install nghttp2-client)")?,
            Protocol::TlsResumed | Protocol::TlsNew => program("handshakes", Core::Any)?.get_program().into(),
        };
        Ok(Self { behind, protocol, slice, interrupted, program })
    }

    /// What a request costs with so many of them at a time.
    pub(super) fn measure(&self, proxy: &Proxy, at_once: u32) -> anyhow::Result<Numbers> {
        let printed = self.behind.peer.folder().join("load");
        let errors = self.behind.peer.folder().join("load-errors");
        let mut command = self.command(proxy.port, at_once)?;
        command.stdout(fs::File::create(&printed)?).stderr(fs::File::create(&errors)?);
        let mut load = Server::start(&mut command)?;
        self.interrupted.pause(SETTLE)?;
        let before = Usage::now(&self.behind.peer, Some(proxy.server.pid()))?;
        self.interrupted.pause(self.slice)?;
        let usage = Usage::now(&self.behind.peer, Some(proxy.server.pid()))?.since(&before);
        let said = || fs::read_to_string(&errors).unwrap_or_default();
        ensure!(load.ended()?.is_none(), "{}: the load ended too soon: {}", proxy.name, said().trim());
        if matches!(self.protocol, Protocol::Http1 | Protocol::Tls) {
            load.signal(Signal::INT)?;
        }
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = load.ended()? {
                break status;
            }
            ensure!(asked.elapsed() < PATIENCE, "{}: the load did not end", proxy.name);
            self.interrupted.pause(Duration::from_millis(10))?;
        };
        ensure!(status.success(), "{}: the load ended with {status}: {}", proxy.name, said().trim());
        let mut numbers = vec![("cpu_us", usage.watcher_us().context("the proxy is gone")?), ("rate", usage.rate())];
        let printed = fs::read_to_string(printed)?;
        match self.protocol {
            Protocol::Http1 | Protocol::Tls => wrk(&printed),
            Protocol::H2 | Protocol::Grpc => h2load(&printed).map(drop),
            Protocol::TlsResumed | Protocol::TlsNew => {
                handshakes(&printed).map(|resumed| numbers.push(("resumed_percent", resumed)))
            }
        }
        .with_context(|| proxy.name)?;
        Ok(numbers)
    }

    fn command(&self, port: u16, at_once: u32) -> anyhow::Result<Command> {
        let mut command = pinned(&self.program, Core::Peer)?;
        let length = (SETTLE + self.slice + SPARE).as_millis().to_string();
        match self.protocol {
            Protocol::Http1 | Protocol::Tls => {
                command.args(["-t", "1", "-c", &at_once.to_string(), "-d", "1h", "--timeout", "10s"]).arg(
                    match self.protocol {
                        Protocol::Tls => format!("https://localhost:{port}/1k"),
                        _ => format!("http://127.0.0.1:{port}/1k"),
                    },
                );
            }
            Protocol::H2 | Protocol::Grpc => {
                let (connections, streams) = connections(at_once);
                command.args(["-t", "1", "-c", &connections.to_string(), "-m", &streams.to_string()]);
                command.args(["-D", &format!("{length}ms")]);
                self.asks(&mut command, port);
            }
            Protocol::TlsResumed | Protocol::TlsNew => {
                command.args([&port.to_string(), &at_once.to_string(), &length]);
                command.arg(if self.protocol == Protocol::TlsNew { "new" } else { "resumed" });
                command.arg(certificate(self.behind.peer.folder()));
            }
        }
        Ok(command)
    }

    /// Tells h2load what to ask for.
    fn asks(&self, command: &mut Command, port: u16) {
        if self.protocol == Protocol::Grpc {
            command.arg("-d").arg(self.behind.peer.folder().join("call"));
            command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
            command.arg(format!("http://127.0.0.1:{port}{METHOD}"));
        } else {
            command.arg(format!("http://127.0.0.1:{port}/1k"));
        }
    }

    /// h2load shows no trailers; its sibling of the same package does.
    fn has_trailers(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let nghttp = on_path("nghttp").context("nghttp is not on the PATH (apt-get install nghttp2-client)")?;
        let mut command = pinned(&nghttp, Core::Peer)?;
        command.args(["-n", "-v", "-t", "10"]);
        self.asks(&mut command, proxy.port);
        let printed = output(&mut command)?;
        ensure!(printed.contains("grpc-status: 0"), "{} gave no grpc-status", proxy.name);
        Ok(())
    }

    /// Waits until a proxy gives the whole answer: some listen before they know whom to ask.
    pub(super) fn is_answered(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.answers(proxy) {
                Err(_) if began.elapsed() < PATIENCE => self.interrupted.pause(Duration::from_millis(100))?,
                other => return other,
            }
        }
    }

    /// Whether a proxy gives the whole answer to one request.
    fn answers(&self, proxy: &Proxy) -> anyhow::Result<()> {
        let port = proxy.port;
        match self.protocol {
            Protocol::Http1 => proxy.answers()?,
            // It looks at the body itself.
            Protocol::Tls | Protocol::TlsResumed | Protocol::TlsNew => {
                let mut command = program("handshakes", Core::Peer)?;
                command.args([&port.to_string(), "1", "1", "new"]).arg(certificate(self.behind.peer.folder()));
                handshakes(&output(&mut command).with_context(|| proxy.name)?).with_context(|| proxy.name)?;
            }
            Protocol::H2 | Protocol::Grpc => {
                let mut command = pinned(&self.program, Core::Peer)?;
                command.args(["-n", "1", "-c", "1", "-v"]);
                self.asks(&mut command, port);
                let printed = output(&mut command).with_context(|| proxy.name)?;
                let bytes = h2load(&printed).with_context(|| proxy.name)?;
                let expected = if self.protocol == Protocol::Grpc { 1032 } else { 1024 };
                ensure!(bytes == expected, "{} gave {bytes} bytes instead of {expected}", proxy.name);
                if self.protocol == Protocol::Grpc {
                    self.has_trailers(proxy)?;
                }
            }
        }
        Ok(())
    }
}

/// Connections, and streams of each, for so many requests in flight.
pub(super) fn connections(at_once: u32) -> (u32, u32) {
    if at_once < 16 { (1, at_once) } else { (at_once / 16, 16) }
}

pub(super) fn certificate(folder: &Path) -> PathBuf {
    folder.join("chain.pem")
}

/// What a program printed that went well.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = command.output()?;
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    ensure!(status.success(), "{name}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether all requests of wrk were answered well.
fn wrk(printed: &str) -> anyhow::Result<()> {
    let bad = printed.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    ensure!(bad.is_none(), "{}", bad.unwrap_or_default().trim());
    Ok(())
}

/// The bytes of the bodies in what h2load prints, if nothing went wrong.
fn h2load(printed: &str) -> anyhow::Result<u64> {
    let line = |start| printed.lines().find_map(|line| line.strip_prefix(start)).context("h2load told nothing");
    let number = |line: &str, of: &str| {
        let part = line.split(", ").find_map(|part| part.trim().strip_suffix(of)?.trim().parse::<u64>().ok());
        part.with_context(|| format!("h2load does not tell how many {of}: {line:?}"))
    };
    let requests = line("requests: ")?;
    let done = number(requests, "done")?;
    let bad = number(requests, "failed")? + number(requests, "errored")? + number(requests, "timeout")?;
    // Those in flight at the end have a status, and are not done.
    let well = number(line("status codes: ")?, "2xx")?;
    ensure!(bad == 0 && done > 0 && well >= done, "{well} of {done} requests were answered well: {requests}");
    let data = line("traffic: ")?.rsplit_once(") data").and_then(|(line, _)| line.rsplit_once('(')?.1.parse().ok());
    data.context("h2load does not tell how much data there was")
}

/// How many of the handshakes were resumed, in percent.
fn handshakes(printed: &str) -> anyhow::Result<f64> {
    let numbers: Value = serde_json::from_str(printed).context("the load printed no JSON")?;
    let of = |name: &str| numbers[name].as_f64().with_context(|| format!("the load does not tell {name}"));
    let (full, resumed) = (of("full")?, of("resumed")?);
    ensure!(full + resumed > 0.0, "no request was answered");
    Ok(resumed * 100.0 / (full + resumed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout\n\
                           status codes: 9 2xx, 0 3xx, 0 4xx, 0 5xx\n\
                           traffic: 9.37KB (9594) total, 77B (77) headers (space savings 33.62%), 9.00KB (9216) data\n";

    #[test]
    fn what_h2load_prints() {
        assert_eq!(h2load(PRINTED).unwrap(), 9216);
        assert!(h2load(&PRINTED.replace("0 failed", "1 failed")).is_err());
        assert!(h2load(&PRINTED.replace("9 2xx", "8 2xx")).is_err());
        assert!(h2load("").is_err());
    }

    #[test]
    fn what_wrk_prints() {
        assert!(wrk("  90 requests in 1.00s\n").is_ok());
        assert!(wrk("  Non-2xx or 3xx responses: 9\n").is_err());
    }

    #[test]
    fn streams() {
        assert_eq!((connections(64), connections(1)), ((4, 16), (1, 1)));
    }
}
