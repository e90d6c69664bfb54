//! A server that is healthy itself, and whose callers wait while it waits for a peer.

use std::net::SocketAddr;

use overdue_core::{Cause, Confidence, Evidence};

use super::{
    Trouble,
    callers::{Callers, Seen},
    handed_on,
};
use crate::{
    Observation,
    judge::{
        Finding, Severity, count, diag, proc,
        sockets::most_frequent,
        thresholds::{CROWD, SETTLED_US},
        time,
    },
    observation::Cpu,
};

/// Whether it is the peer's answer that is waited for.
pub(super) fn worst_waits_for_peer(finding: &Finding) -> bool {
    matches!(
        finding.verdict.cause,
        Cause::ServerSlow | Cause::HeadStalled | Cause::BodyStalled | Cause::BodySlow | Cause::TlsPeerSilent
    )
}

/// A server whose callers wait while it waits for this peer. `calls`: all of them, and those of them that have not ended.
pub(super) fn upstream(
    seen: &Seen<'_>,
    peer: &str,
    stage: &'static str,
    (callers, waited): (Callers, &[handed_on::Caller]),
    (all, due): (u64, u64),
    stalled_us: u64,
) -> Option<Finding> {
    let waiting = callers.all();
    let loop_waits = seen.loop_waits_for(peer);
    if waiting == 0 && waited.is_empty() && all < CROWD && !loop_waits {
        return None;
    }
    let ended = all.saturating_sub(due);
    // Where all have ended, their callers may not have heard of it yet.
    let number = if due > 0 { due } else { all };
    let took = if all == 1 { time(stalled_us).to_string() } else { format!("{} in all", time(stalled_us)) };
    let who = match waiting {
        0 if !waited.is_empty() => format!(
            "{} of this process waited while it waited for {peer} ({} of its own in stage {stage}, {took})",
            count(waited.len() as u64, "caller"),
            count(all, "call"),
        ),
        0 => format!(
            "{} of this process {} for {peer}, {took} in stage {stage}",
            count(number, "call"),
            match (due, number) {
                (0, _) => "waited",
                (_, 1) => "waits",
                _ => "wait",
            }
        ),
        _ => format!(
            "{} of this process {} while it waits for {peer} ({} of its own in stage {stage}, {took})",
            count(waiting, "caller"),
            if waiting == 1 { "waits" } else { "wait" },
            count(number, "call")
        ),
    };
    let used = seen.cpu.as_ref().map(Cpu::used_us);
    let itself = is_own(seen, peer);
    let trouble = if itself && has_nobody_left(seen, peer) {
        "it calls itself, and has nobody left to answer"
    } else if itself {
        "it calls itself, and what that call waits for is to be found among the others here"
    } else if loop_waits {
        "the trouble begins there, and an event loop of this process sits in the call, so that all that it serves waits"
    } else if waiting > number {
        "the trouble begins there, and others of this process wait behind it, for a lock or a place among few perhaps"
    } else {
        "the trouble is there, not here"
    };
    let parts = [
        (due > 0).then(|| format!("{} to {peer} with an answer due", count(due, "connection"))),
        (ended > 0).then(|| format!("{} to {peer} that took long and are over", count(ended, "call"))),
        (waiting > 0).then(|| {
            format!(
                "{} with a request and no answer for more than {}",
                count(waiting, "accepted connection"),
                time(SETTLED_US)
            )
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let mut finding = Finding::new(
        Cause::WaitsUpstream,
        Severity::Waiting,
        if callers.perhaps == 0 && waiting <= number { Confidence::High } else { Confidence::Medium },
        format!("{who}: {trouble}"),
    )
    .because(diag(parts.join("; ")).with("callers", waiting).with("calls", due))
    .and((!waited.is_empty()).then(|| handed_on::evidence(waited, all)))
    .and((callers.perhaps > 0).then(|| {
        diag(format!(
            "of {} the request came in the millisecond of the answer before it, and just before the call went out",
            callers.perhaps
        ))
        .with("same_millisecond", callers.perhaps)
    }))
    .and(used.map(|us| {
        proc(format!("it used {} of processor time in {}", time(us), time(seen.window_us))).with("cpu_us", us)
    }))
    .rejected(Cause::CpuBusy, "it does not compute: its calls wait");
    finding.verdict.stage = stage;
    if itself {
        finding = finding.fix(
            "Do not call the own address from a handler: call the function instead. Where that cannot be, more workers than \
             calls of that kind, and a limit for the call.",
        );
    } else if loop_waits {
        finding = finding.fix(
            "Repair the peer. Here: no call that blocks on the loop; its asynchronous form, or a thread (run_in_executor, \
             spawn_blocking), with a limit for it.",
        );
    }
    Some(finding)
}

/// Whether a call to this process lies at the door: not accepted, or not read.
fn has_nobody_left(seen: &Observation, peer: &str) -> bool {
    let Ok(peer) = peer.parse::<SocketAddr>() else { return false };
    let sockets = seen.sockets.iter();
    let mut listeners = sockets.clone().flat_map(|sockets| &sockets.listeners);
    let mut tcp = sockets.flat_map(|sockets| &sockets.tcp);
    listeners.any(|listener| listener.local.port() == peer.port() && listener.queued_last > 0)
        || tcp.any(|socket| socket.inbound && socket.local.port() == peer.port() && socket.unread_bytes > 0)
}

/// Whether the process itself listens there.
fn is_own(seen: &Observation, peer: &str) -> bool {
    let Ok(peer) = peer.parse::<SocketAddr>() else { return false };
    let mut listeners = seen.sockets.iter().flat_map(|sockets| &sockets.listeners);
    listeners.any(|listener| {
        let (local, ip) = (listener.local, listener.local.ip().to_canonical());
        local.port() == peer.port() && (ip == peer.ip() || ip.is_unspecified() && peer.ip().is_loopback())
    })
}

/// Where to look next: the process at the other end of calls to this peer, if it is another one of this host.
pub(super) fn goes_on_at(seen: &Observation, group: &[Trouble]) -> Option<Evidence> {
    let pids = group.iter().filter_map(|trouble| trouble.peer_pid).filter(|pid| *pid != seen.process.pid);
    let (pid, _) = most_frequent(pids)?;
    Some(
        proc(format!("the other end is process {pid} of this host: `overdue why --pid {pid}` goes on there"))
            .with("peer_pid", pid),
    )
}
