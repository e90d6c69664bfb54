//! Descriptors that run out.

use overdue_core::{Cause, Confidence, Evidence, facts::TcpState};

use super::{
    Finding, Severity, ShareOf, bpf, count, diag, in_looks, is_young, per_second, place, proc, share,
    thresholds::{ALWAYS, FAR, FDS_GROWN, FEW_FDS, NEAR_LIMIT, SETTLED_US},
    time, total,
};
use crate::{
    Observation,
    observation::{Call, Ending, FdKind, Fds, Listener, PeerFds, Reading, TcpSocket},
};

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
/// A leak, or a limit that is too low for the load.
pub(super) fn rule(seen: &Observation) -> Vec<Finding> {
    let Some(fds) = &seen.fds else { return Vec::new() };
    let Some((first, last)) = fds.open.first().zip(fds.open.last()) else { return Vec::new() };
    let refused = refusals(seen);
    let part = share(last.value, fds.soft_limit);
    let is_full = last.value >= fds.soft_limit.saturating_sub(1);
    let growth = Growth::of(&fds.open, fds.soft_limit);
    let nothing_refused = refused.is_none();
    // One that ended without reaching its limit never will.
    let is_over = seen.process.ended_at_us.is_some() && (!is_full || seen.process.ended.is_some_and(Ending::is_well));

    if let Some(growth) = &growth
        && (part >= NEAR_LIMIT.0 || growth.full_in_us.is_some_and(|us| u128::from(us) <= NEAR_LIMIT.1.as_micros()))
    {
        let when = match growth.full_in_us {
            _ if is_full => ", which is reached".to_owned(),
            _ if is_over => ", and it ended before that".to_owned(),
            Some(us) => format!(", which is reached in {}", time(us)),
            None => String::new(),
        };
        let what = grower(fds).map(|what| format!(", most of them {what}")).unwrap_or_default();
        let summary = format!(
            "open descriptors grow without coming back: {} to {} in {}{what}; the limit is {}{when}",
            first.value,
            last.value,
            time(last.at_us.saturating_sub(first.at_us)),
            fds.soft_limit,
        );
        let finding = Finding::new(Cause::FdLeak, severity(is_full || refused.is_some()), growth.confidence(), summary)
            .because(
                proc(format!(
                    "{} of {} looks saw more than the look before, none saw much less",
                    growth.rises, growth.steps
                ))
                .with("first", first.value)
                .with("last", last.value)
                .with("soft_limit", fds.soft_limit)
                .with("hard_limit", fds.hard_limit),
            )
            .and(by_kind(fds))
            .and(openers(seen, fds).or_else(|| goes_on(seen)))
            .and(refused)
            .share(ShareOf::Limit, part);
        let mut finding = not_load(finding, fds);
        let clients = clients_that_stay(seen);
        if is_most(clients, growth.grown) {
            finding.verdict.confidence = Confidence::Medium;
            let text = format!("{} of what grew are clients that came and stay", clients.min(growth.grown));
            finding = finding.because(diag(text).with("clients", clients)).fix(
                "If they should be there, the limit is too low for them: raise it (LimitNOFILE=, `prlimit --nofile`), or share \
                 them among more processes. If not, close idle ones after a time, and close on every path.",
            );
        }
        // So many idle ones to the same peer are no pool that fills.
        let is_pool = growth.grown < FEW_FDS.1 || left_idle(seen, fds, growth.grown).is_none();
        let may_begin = part < FEW_FDS.0 && is_young(seen) && is_pool;
        let may_stop = may_begin || part < NEAR_LIMIT.0 && may_be_load(seen, fds, growth);
        finding.advisory = nothing_refused && (is_over || may_stop);
        return vec![finding];
    }

    if refused.is_none()
        && !is_over
        && let Some(far) = growth.as_ref().and_then(|growth| far(seen, fds, growth))
    {
        return vec![far.share(ShareOf::Limit, part)];
    }
    // More than the limit allows were there before it was set.
    if is_full && last.value <= fds.soft_limit && fds.soft_limit > 0 {
        let mut finding = full(seen, fds, refused, part);
        // A worker may have set the limit to what it has, to open nothing more. Who listens means to, when somebody comes;
        // and what leaked leaves no room for him.
        let leaked = finding.verdict.cause == Cause::FdLeak;
        let waits = |listener: &Listener| leaked || listener.queued_last > 0;
        let is_asked = seen.sockets.as_ref().is_none_or(|sockets| sockets.listeners.iter().any(waits));
        finding.advisory = nothing_refused && seen.calls.is_some() && !is_asked;
        return vec![finding];
    }
    // Somebody else's descriptors are used up (ENFILE), it was full only for moments, or the limit was lowered.
    refused
        .map(|evidence| {
            Finding::new(
                Cause::FdExhausted,
                Severity::Refusing,
                Confidence::High,
                format!("calls fail because no descriptor is left ({} open, limit {})", last.value, fds.soft_limit),
            )
            .because(evidence)
            .rejected(Cause::FdLeak, "the number of open descriptors did not grow steadily in this window")
            .share(ShareOf::Limit, part)
        })
        .into_iter()
        .collect()
}

/// It grows and has a long way to go: a remark, for what fills for a while looks the same. Of what more callers would
/// bring it is never said: accepted connections, and connections to others that are in use.
fn far(seen: &Observation, fds: &Fds, growth: &Growth) -> Option<Finding> {
    let full_in_us = growth.full_in_us.filter(|us| u128::from(*us) <= FAR.1.as_micros())?;
    if growth.falls > 0 || growth.grown < FAR.0 {
        return None;
    }
    let top = fds.by_kind.iter().max_by_key(|kind| grown(kind)).filter(|kind| is_most(grown(kind), growth.grown))?;
    let what = match top.kind.as_str() {
        "tcp" => format!("connections to {}", left_idle(seen, fds, grown(top))?),
        "unix" | "udp" | "socket" => return None,
        kind => kind_text(kind, top.example.as_deref()),
    };
    // From many places at once it is the program's work that grows.
    let opened = total(fds.openers.iter().flatten().map(|opener| opener.still_open));
    let place = fds.openers.as_ref().map(|openers| {
        openers.iter().map(|opener| opener.still_open).max().is_some_and(|most| most > 0 && is_most(most, opened))
    });
    if place == Some(false) {
        return None;
    }
    let finding = Finding::new(
        Cause::FdLeak,
        Severity::Wasting,
        if place == Some(true) { Confidence::Medium } else { Confidence::Low },
        format!(
            "open descriptors grow steadily and none is closed: {:.1} more a second, all or nearly all of them {what}; at that \
             rate the limit of {} is reached in {}",
            per_second(growth.grown, growth.took_us),
            fds.soft_limit,
            time(full_in_us),
        ),
    )
    .because(
        proc(format!(
            "{} more in {}, {} of {} looks saw more than the look before, none saw less",
            growth.grown,
            time(growth.took_us),
            growth.rises,
            growth.steps
        ))
        .with("grown", growth.grown)
        .with("soft_limit", fds.soft_limit)
        .with("full_in_us", full_in_us),
    )
    .and(by_kind(fds))
    .and(openers(seen, fds))
    .rejected(
        Cause::FdExhausted,
        "possible: a cache or a pool that fills looks like this for a while; it stops, a leak does not: look again later",
    );
    Some(Finding { advisory: true, ..finding })
}

/// Whether clients that come, or calls that are under way, look the same: sockets that become more while they are in use.
fn may_be_load(seen: &Observation, fds: &Fds, growth: &Growth) -> bool {
    const SOCKETS: [&str; 4] = ["tcp", "unix", "udp", "socket"];
    let sockets = fds.by_kind.iter().filter(|kind| SOCKETS.contains(&kind.kind.as_str()));
    let sockets = total(sockets.map(grown));
    // Of what the peers have closed, and what is left idle beside more of it, more callers would not bring more.
    let tcp = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let closed = tcp.filter(|socket| socket.state == TcpState::CloseWait).count() as u64;
    let half = growth.grown / 2;
    sockets > half && closed < half && left_idle(seen, fds, sockets).is_none()
}

/// Accepted in the window, open at both ends.
fn clients_that_stay(seen: &Observation) -> u64 {
    let tcp = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let stays =
        |it: &&TcpSocket| it.inbound && !it.since_before && it.state == TcpState::Established && it.fd.is_some();
    tcp.filter(stays).count() as u64
}

/// The peer to which connections become more while so many to it lie idle: a pool would use these first.
fn left_idle(seen: &Observation, fds: &Fds, grown: u64) -> Option<String> {
    let more = |peer: &PeerFds| peer.last.saturating_sub(peer.first);
    let top = fds.by_peer.iter().max_by_key(|peer| more(peer)).filter(|peer| is_most(more(peer), grown))?;
    let own = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let settled = own.filter(|socket| {
        let to_it = !socket.inbound && socket.state == TcpState::Established && socket.remote.to_string() == top.peer;
        // One that was used a moment ago says nothing yet.
        to_it && socket.last.is_some_and(|tcp| u64::from(tcp.last_data_sent_ms) * 1_000 >= SETTLED_US)
    });
    let is_idle = |socket: &&TcpSocket| {
        let tcp = socket.last.unwrap_or_default();
        tcp.bytes_received.is_some_and(|bytes| bytes > 0)
            && tcp.last_data_recv_ms <= tcp.last_data_sent_ms
            && u64::from(tcp.last_data_recv_ms) * 1_000 >= SETTLED_US
    };
    let (idle, busy): (Vec<_>, Vec<_>) = settled.partition(is_idle);
    (busy.is_empty() && idle.len() as u64 >= grown / 2).then(|| top.peer.clone())
}

fn grown(kind: &FdKind) -> u64 {
    kind.last.saturating_sub(kind.first)
}

/// Nearly all of it.
fn is_most(part: u64, whole: u64) -> bool {
    share(part, whole) >= ALWAYS
}

/// It is at its limit and cannot grow any more: is it a leak that has come to its end, or load?
fn full(seen: &Observation, fds: &Fds, refused: Option<Evidence>, part: f64) -> Finding {
    let top = fds.by_kind.iter().max_by_key(|kind| kind.last);
    // A server under load holds connections of many kinds and gives some back within the window; a leak is one thing
    // over and over that never comes back.
    let stuck = top.filter(|top| share(top.last, fds.soft_limit) >= 0.5 && top.first == top.last && top.kind != "tcp");
    let steady = fds.open.iter().all(|reading| reading.value >= fds.soft_limit.saturating_sub(1));
    let leaked = stuck.filter(|_| steady);
    let finding = match leaked {
        Some(top) => Finding::new(
            Cause::FdLeak,
            Severity::Refusing,
            Confidence::Medium,
            format!(
                "all {} descriptors are used up, {} of them {}, and none came back while watched",
                fds.soft_limit,
                top.last,
                kind_text(&top.kind, top.example.as_deref())
            ),
        )
        .rejected(
            Cause::FdExhausted,
            format!("load would show as connections that come and go; here {} stay as they are", top.last),
        ),
        None => Finding::new(
            Cause::FdExhausted,
            Severity::Refusing,
            Confidence::Medium,
            format!("all {} descriptors are used up", fds.soft_limit),
        )
        .rejected(
            Cause::FdLeak,
            "possible: it cannot grow any more, so a leak that has come to its end looks the same; raise the limit \
             (`prlimit --nofile`) and watch again",
        ),
    };
    finding
        .because(
            proc(format!("{} open, soft limit {}", fds.open.last().map_or(0, |last| last.value), fds.soft_limit))
                .with("soft_limit", fds.soft_limit)
                .with("hard_limit", fds.hard_limit),
        )
        .and(by_kind(fds))
        .and(openers(seen, fds).or_else(|| goes_on(seen)))
        .and(refused)
        .share(ShareOf::Limit, part)
}

/// Who would open more and cannot: whoever leaks does not stop when nothing is left. An accept that fails is the victim.
fn goes_on(seen: &Observation) -> Option<Evidence> {
    let failed = seen
        .calls
        .as_ref()?
        .counts
        .iter()
        .filter(|call| matches!(call.errno, EMFILE | ENFILE) && !matches!(call.call, Call::Accept | Call::Connect));
    let top = failed.max_by_key(|call| call.count)?;
    let place = place(top.stack.as_ref()?)?;
    let text = format!("{place} goes on opening more, and fails: {}{}", times(top.count), in_looks(seen));
    Some(counted(seen, bpf(text).with("failed_opens", top.count)))
}

fn severity(refuses: bool) -> Severity {
    if refuses { Severity::Refusing } else { Severity::Wasting }
}

fn not_load(finding: Finding, fds: &Fds) -> Finding {
    let peers = fds.by_peer.iter().filter(|peer| peer.last > peer.first).count();
    let why = if peers == 0 {
        "what grows is no connection, so more clients do not explain it".to_owned()
    } else {
        format!("possible: connections to {} grow; load falls again, a leak does not", count(peers as u64, "peer"))
    };
    finding.rejected(Cause::FdExhausted, why)
}

/// What grew most.
fn grower(fds: &Fds) -> Option<String> {
    let top = fds.by_kind.iter().max_by_key(|kind| grown(kind)).filter(|kind| grown(kind) > 0)?;
    Some(kind_text(&top.kind, top.example.as_deref()))
}

fn kind_text(kind: &str, example: Option<&str>) -> String {
    example.map_or_else(|| kind.to_owned(), |example| format!("{kind} ({example})"))
}

fn by_kind(fds: &Fds) -> Option<Evidence> {
    let mut kinds: Vec<_> = fds.by_kind.iter().filter(|kind| kind.last > 0).collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.last));
    let text: Vec<_> = kinds
        .iter()
        .take(4)
        .map(|kind| {
            let grown = kind.last.saturating_sub(kind.first);
            let grown = if grown > 0 { format!(" (+{grown})") } else { String::new() };
            format!("{} {}{grown}", kind.last, kind.kind)
        })
        .collect();
    (!text.is_empty()).then(|| proc(format!("open: {}", text.join(", "))))
}

fn openers(seen: &Observation, fds: &Fds) -> Option<Evidence> {
    let top = fds.openers.as_ref()?.iter().max_by_key(|opener| opener.still_open)?;
    let place = place(&top.stack)?;
    Some(
        bpf(format!("opened by {} in {place}, {} still open{}", top.call, top.still_open, of_those(seen)))
            .with("still_open", top.still_open),
    )
}

/// Calls that failed for want of a descriptor.
fn refusals(seen: &Observation) -> Option<Evidence> {
    let calls = seen.calls.as_ref()?;
    let failed: Vec<_> = calls.counts.iter().filter(|call| matches!(call.errno, EMFILE | ENFILE)).collect();
    let number = total(failed.iter().map(|call| call.count));
    let top = failed.iter().max_by_key(|call| call.count)?;
    let name = match top.call {
        Call::Accept => "accept",
        Call::Connect => "connect",
        Call::Socket => "socket",
        _ => "open",
    };
    let errno = if top.errno == ENFILE { "ENFILE" } else { "EMFILE" };
    let text = format!("{name} failed {} with {errno}{}", times(number), in_looks(seen));
    Some(counted(seen, bpf(text).with("failed", number)))
}

/// Over how much of the window that was counted.
fn counted(seen: &Observation, evidence: Evidence) -> Evidence {
    match &seen.calls {
        Some(calls) => evidence.with("looked_us", calls.looked_us),
        None => evidence,
    }
}

/// Behind a number of descriptors whose opening was seen in short looks only.
fn of_those(seen: &Observation) -> String {
    let looks = in_looks(seen);
    if looks.is_empty() { looks } else { format!(", of those that were opened{looks}") }
}

fn times(number: u64) -> String {
    if number == 1 { "once".to_owned() } else { format!("{number} times") }
}

/// A number that rises all the time.
struct Growth {
    grown: u64,
    took_us: u64,
    steps: usize,
    rises: usize,
    falls: usize,
    full_in_us: Option<u64>,
}

impl Growth {
    /// `None` where it does not grow, or not until the end.
    fn of(readings: &[Reading], limit: u64) -> Option<Self> {
        let (first, last) = readings.first().zip(readings.last())?;
        let grown = last.value.checked_sub(first.value).filter(|grown| *grown >= FDS_GROWN)?;
        let took = last.at_us.saturating_sub(first.at_us);
        if readings.len() < 4 || took == 0 {
            return None;
        }
        // Each quarter of the window must have its part: what rose once and stays is a pool that was filled.
        let quarters: Vec<u64> = (0..=4)
            .map(|quarter| {
                let at = first.at_us.saturating_add(took / 4 * quarter);
                readings.iter().rfind(|reading| reading.at_us <= at).map_or(first.value, |reading| reading.value)
            })
            .collect();
        let steady = quarters.windows(2).all(|pair| match pair {
            [before, after] => after.saturating_sub(*before).saturating_mul(16) >= grown,
            _ => false,
        });
        let is_full = last.value >= limit.saturating_sub(1);
        if !steady && !is_full {
            return None;
        }
        let steps = readings.len() - 1;
        let pairs = || readings.windows(2).filter_map(|pair| Some((pair.first()?.value, pair.last()?.value)));
        let rises = pairs().filter(|(before, after)| after > before).count();
        let falls = pairs().filter(|(before, after)| after < before).count();
        // What falls back is in use, not leaked.
        if pairs().any(|(before, after)| before.saturating_sub(after).saturating_mul(4) > grown) {
            return None;
        }
        let room = limit.saturating_sub(last.value);
        let full_in_us = u64::try_from(u128::from(room) * u128::from(took) / u128::from(grown)).ok();
        Some(Self { grown, took_us: took, steps, rises, falls, full_in_us })
    }

    fn confidence(&self) -> Confidence {
        if self.steps >= 8 && self.rises * 4 >= self.steps * 3 { Confidence::High } else { Confidence::Medium }
    }
}
