//! A scenario with `overdue gate` between its caller and its fault: the verdict is that of the gateway's log.

use std::{fmt::Write as _, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::HeaderValue;
use overdue::Context;
use overdue_core::{Limit, LimitName, Stage};
use overdue_gate::{Config, Gate};
use overdue_lab::{Caller, Fault, Scenario, Scheme, Server};
use serde_json::Value;
use tempfile::TempDir;

use crate::{drive::Ready, plan::Plan, sink::Output};

/// What the request is called that is to be judged, as against those that come before it.
const JUDGED: &str = "judged";
/// A caller that is cut off sees no limit of its own: those of the scenario are the gateway's.
const CALLER_LIMIT: Duration = Duration::from_secs(30);
/// How long the gateway may take to tell of a call that has ended, and how often that is looked for.
const TOLD: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Why a scenario has no meaning with a gateway between; `None` when it has one.
pub(crate) fn misfit(scenario: &Scenario) -> Option<&'static str> {
    match scenario.call.caller {
        Caller::BlocksExecutor { .. } => Some("it blocks the caller's own runtime, of which a gateway sees nothing"),
        Caller::NoFds => Some("it is the caller's own descriptors that are all taken"),
        _ if scenario.dns.is_some() => Some("it is about the caller's own resolver"),
        _ => None,
    }
}

/// Starts a scenario and a gateway before it, makes the call, and gives the line that the gateway wrote about it. For a
/// scenario that needs a namespace the process has entered one.
pub(crate) async fn run(scenario: &Scenario, parent: &Context) -> anyhow::Result<Value> {
    if let Some(why) = misfit(scenario) {
        bail!("{} cannot be run through a gateway: {why}", scenario.name);
    }
    let folder = TempDir::new().context("a folder for the gateway's log")?;
    let fault = Fault::start(scenario)?;
    let text = config(scenario, &fault, &folder)?;
    let config = Config::parse(&text, "gate.toml").with_context(|| format!("the gateway's configuration:\n{text}"))?;
    let gate = tokio::task::spawn_blocking(move || Gate::start(config)).await.context("the gateway's start")??;
    let address = *gate.addresses().first().context("the gateway has no address")?;
    let plan = caller(scenario, &fault, address)?;
    let mut ready = Ready::new(plan, Some(fault), parent).await?;
    ready.message_mut().headers.insert("x-request-id", HeaderValue::from_static(JUDGED));
    ready.call(parent, &Output::Counted).await?;
    ready.check_server()?;
    let log = folder.path().join("log");
    // Until the gateway has told what it saw, the server stays as it is: its end would be one more thing to see.
    let told = async {
        while !fs::read_to_string(&log).is_ok_and(|text| line_of(&text).is_some()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(TOLD, told).await;
    // Whoever holds something lets go, so that the gateway has nothing left to do.
    drop(ready);
    tokio::task::spawn_blocking(move || gate.drain()).await.context("the gateway's end")?;
    let text = fs::read_to_string(&log).context("the gateway's log")?;
    line_of(&text).ok_or_else(|| anyhow!("the gateway wrote no line about the call; its log:\n{text}"))
}

/// What a log says of the call. Of a line that is being written it says nothing.
fn line_of(log: &str) -> Option<Value> {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line.pointer("/gate/request_id").is_some_and(|id| id == JUDGED))
}

/// The caller as the gateway sees it: the same request in plain HTTP/1.1, under no limit that matters.
fn caller(scenario: &Scenario, fault: &Fault, gate: SocketAddr) -> anyhow::Result<Plan> {
    let mut plan = Plan::of_scenario(scenario, fault)?.through(gate, Limit::total(CALLER_LIMIT))?;
    if scenario.call.caller == Caller::PastDeadline {
        // What a caller says that has no time left.
        plan.message.headers.insert("x-envoy-expected-rq-timeout-ms", HeaderValue::from_static("0"));
        plan.caller = Caller::Plain;
    }
    Ok(plan)
}

/// One worker, one server, and the limits of the scenario, which are all that there are.
fn config(scenario: &Scenario, fault: &Fault, folder: &TempDir) -> anyhow::Result<String> {
    let call = &scenario.call;
    let mut text = "workers = 1\ndrain = \"2s\"\n\n[limits]\n".to_owned();
    for name in [
        LimitName::Total,
        LimitName::Stage(Stage::Queue),
        LimitName::Stage(Stage::Connect),
        LimitName::Stage(Stage::Tls),
        LimitName::Stage(Stage::Send),
        LimitName::Stage(Stage::Wait),
        LimitName::Gap,
    ] {
        let limit =
            call.limits.get(name).map_or_else(|| "none".to_owned(), |limit| format!("{}us", limit.value.as_micros()));
        writeln!(text, "{name} = \"{limit}\"")?;
    }
    writeln!(text, "\n[log]\nfile = {:?}", folder.path().join("log"))?;
    // Where the kernel has no port left to choose, one that it never chooses.
    let port = if matches!(scenario.server, Server::PortsTaken { .. }) { 81 } else { 0 };
    writeln!(text, "\n[[listener]]\nlisten = \"127.0.0.1:{port}\"\ntrusted = [\"127.0.0.0/8\"]")?;
    writeln!(text, "\n[cluster.fault]\nservers = [\"{}\"]", fault.addr())?;
    if call.caller.holds() {
        writeln!(text, "connections = 1")?;
    }
    if matches!(call.scheme, Scheme::H2c | Scheme::H2) {
        writeln!(text, "http2 = true")?;
    }
    if call.scheme.is_tls() {
        let tls = match fault.roots_pem() {
            Some(pem) => {
                let path = folder.path().join("ca.pem");
                fs::write(&path, pem).context("the authority of the fault server")?;
                format!("{{ ca = {path:?} }}")
            }
            // There is no certificate to come.
            None => "{}".to_owned(),
        };
        writeln!(text, "tls = {tls}")?;
    }
    writeln!(text, "\n[[route]]\ncluster = \"fault\"")?;
    Ok(text)
}
