//! First aid: what can be done from outside, at once, for a process in trouble. It buys time and mends nothing.
//!
//! Planning is pure: an observation and what was judged of it in, steps out. Only what a verdict calls for is planned,
//! and only for what that verdict names. Whoever gives it (`collect::aid`, with the user's consent alone) looks again
//! right before and leaves alone what is no longer as it was seen.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use overdue_core::{Cause, facts::TcpState};
use serde::Serialize;

use crate::{
    Observation,
    judge::{Finding, Judgement, left, stalled_calls, state_text, time},
    observation::{Fds, PollCall, TcpSocket, TimerKind},
};

/// A connection that was silent for less may still be in use: a peer may close its half and wait for an answer, or read
/// slowly.
pub const SILENT_MS: u32 = 30_000;
/// Connections that are closed at most by one run.
pub const CLOSED_MAX: usize = 1024;
/// The highest limit that is set: what Linux allows by default (`fs.nr_open`).
const LIMIT_MAX: u64 = 1 << 20;
/// `select` has room for so many: a higher descriptor is written behind its memory.
const SELECT_MAX: u64 = 1024;
/// A raised limit should last so long at the growth that was measured.
const LASTS_US: u64 = 3_600_000_000;

const EMFILE: i32 = 24;

/// One step of first aid.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FirstAid {
    /// The verdict that calls for it.
    pub cause: Cause,
    /// What is to be done, in one sentence.
    pub plan: String,
    /// What that means for the program.
    pub means: String,
    /// What mends it for good.
    pub lasting: String,
    /// The step itself.
    #[serde(flatten)]
    pub step: Step,
    /// Why it must not be done, although the verdict calls for it.
    pub withheld: Option<String>,
    /// Whether it was done, wholly or in part.
    pub done: bool,
    /// What failed, or was left alone.
    pub error: Option<String>,
    /// What changed, as it was seen afterwards.
    pub result: Option<String>,
    /// Right before.
    pub before: Option<State>,
    /// Afterwards.
    pub after: Option<State>,
}

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Step {
    /// Raises the limit of open descriptors of the running process.
    RaiseFdLimit {
        /// The soft limit as it was seen.
        soft: u64,
        /// The hard limit as it was seen.
        hard: u64,
        /// The soft limit to be.
        to: u64,
        /// The hard limit to be, where the soft one has no room below it. That needs `CAP_SYS_RESOURCE`.
        hard_to: Option<u64>,
    },
    /// Ends connections in the kernel.
    CloseSockets {
        /// These and no others.
        sockets: Vec<Stuck>,
        /// One that was in use within so many milliseconds is left alone.
        silent_ms: u32,
        /// More like these, that this run leaves as they are.
        more: u64,
    },
}

/// A connection to be closed, as it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Stuck {
    /// The kernel's number of the socket: it never names another one.
    pub cookie: u64,
    /// A descriptor of it in the process.
    pub fd: u32,
    /// The own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its state. In another one it is left alone.
    #[serde(serialize_with = "as_shown")]
    pub state: TcpState,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_shown<S: serde::Serializer>(state: &TcpState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state_text(*state))
}

/// What a step changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct State {
    /// The soft limit of descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u64>,
    /// The hard limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u64>,
    /// Open descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// Of the connections named in the step, those that are there, in the state in which they are stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<u64>,
}

/// What the verdicts call for: the limit first, which harms nobody.
#[must_use]
pub fn plan(seen: &Observation, judged: &Judgement) -> Vec<FirstAid> {
    if seen.process.ended_at_us.is_some() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    judged.verdicts.iter().for_each(|finding| with_effects(finding, &mut findings));
    let limit = findings.iter().find_map(|finding| limit(seen, finding));
    limit.into_iter().chain(findings.iter().filter_map(|finding| close(seen, finding))).collect()
}

fn with_effects<'a>(finding: &'a Finding, all: &mut Vec<&'a Finding>) {
    all.push(finding);
    finding.effects.iter().for_each(|effect| with_effects(effect, all));
}

impl FirstAid {
    fn new(finding: &Finding, step: Step, plan: String, means: String) -> Self {
        Self {
            cause: finding.verdict.cause,
            plan,
            means,
            lasting: finding.verdict.fix.clone().into_owned(),
            step,
            withheld: None,
            done: false,
            error: None,
            result: None,
            before: None,
            after: None,
        }
    }
}

/// More descriptors, where it is the limit of the process (and not of the machine) that refuses them.
fn limit(seen: &Observation, finding: &Finding) -> Option<FirstAid> {
    if !matches!(finding.verdict.cause, Cause::FdLeak | Cause::FdExhausted | Cause::SpinAcceptEmfile) {
        return None;
    }
    let fds = seen.fds.as_ref()?;
    let last = fds.open.last()?.value;
    let counts = seen.calls.iter().flat_map(|calls| &calls.counts);
    let refused = counts.filter(|count| count.errno == EMFILE).any(|count| count.count > 0);
    // A limit of which the last tenth is left has not refused anything yet, but will.
    let near = last.saturating_mul(2) >= fds.soft_limit;
    let grows = finding.verdict.cause == Cause::FdLeak;
    if fds.soft_limit == 0 || fds.soft_limit >= LIMIT_MAX || !(refused || near || grows) {
        return None;
    }
    let growth = growth(fds);
    let hour = growth.map_or(0, |(grown, took_us)| scaled(grown, LASTS_US, took_us));
    let wanted = fds.soft_limit.saturating_mul(2).max(last.saturating_add(hour)).min(LIMIT_MAX);
    let wanted = wanted.checked_next_power_of_two().unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let (selects, wanted) = if uses_select(seen) { (true, wanted.min(SELECT_MAX)) } else { (false, wanted) };
    let (to, hard_to) =
        if fds.hard_limit > fds.soft_limit { (wanted.min(fds.hard_limit), None) } else { (wanted, Some(wanted)) };
    let hard = match hard_to {
        Some(to) => format!(", and the hard one to {to}, which needs CAP_SYS_RESOURCE"),
        None if fds.hard_limit == u64::MAX => String::new(),
        None => format!(" (the hard one stays at {})", fds.hard_limit),
    };
    let plan = format!(
        "raise the soft limit of open descriptors of pid {} from {} to {to}{hard}",
        seen.process.pid, fds.soft_limit
    );
    let room = to.saturating_sub(last);
    let lasts = match growth {
        Some((grown, took_us)) => format!(
            "At the growth that was measured ({grown} in {}) it is used up in {}.",
            time(took_us),
            time(scaled(room, took_us, grown))
        ),
        None => "No growth was measured, so it cannot be said how long that lasts.".to_owned(),
    };
    let select = if selects {
        " The program uses select(), which has no room for descriptors above 1023: no more than that is given."
    } else {
        " A program that uses select() must never get descriptors above 1023; none was seen here."
    };
    let select = if to > SELECT_MAX || selects { select } else { "" };
    let means = format!("Calls that fail with EMFILE succeed again, with room for {room} more. {lasts}{select}");
    let mut aid = FirstAid::new(
        finding,
        Step::RaiseFdLimit { soft: fds.soft_limit, hard: fds.hard_limit, to, hard_to },
        plan,
        means,
    );
    if to <= fds.soft_limit {
        aid.plan = format!("raise the limit of open descriptors of pid {} above {}", seen.process.pid, fds.soft_limit);
        aid.withheld = Some(
            "the program uses select(), which would write behind its memory with descriptors above 1023: end some of \
             its connections, or restart it"
                .to_owned(),
        );
    }
    Some(aid)
}

/// How many more descriptors there were in which time.
fn growth(fds: &Fds) -> Option<(u64, u64)> {
    let (first, last) = fds.open.first().zip(fds.open.last())?;
    let grown = last.value.checked_sub(first.value).filter(|grown| *grown > 0)?;
    let took_us = last.at_us.checked_sub(first.at_us).filter(|took| *took > 0)?;
    Some((grown, took_us))
}

/// `number * by / per`.
fn scaled(number: u64, by: u64, per: u64) -> u64 {
    u64::try_from(u128::from(number) * u128::from(by) / u128::from(per.max(1))).unwrap_or(u64::MAX)
}

/// Whether a thread gives descriptors to `select`. To sleep by it, with none, is harmless.
fn uses_select(seen: &Observation) -> bool {
    let loops = seen.polling.iter().flat_map(|polling| &polling.loops);
    let mut selects = loops.filter(|it| it.call == PollCall::Select && !it.ready.is_empty());
    let threads = seen.threads.iter().flat_map(|threads| &threads.threads);
    let mut blocked = threads.filter_map(|thread| thread.blocked_in.as_ref());
    selects.next().is_some() || blocked.any(|in_| in_.call == "select" && !in_.waits_for.is_empty())
}

/// Connections that nobody will ever end.
fn close(seen: &Observation, finding: &Finding) -> Option<FirstAid> {
    let cause = finding.verdict.cause;
    let sockets = seen.sockets.as_ref()?;
    let (stuck, what): (Vec<&TcpSocket>, &str) = match cause {
        Cause::CloseWaitPileup => (left(seen, TcpState::CloseWait), "whose peers have closed long ago"),
        Cause::FinWait2Pileup => (left(seen, TcpState::FinWait2), "whose peers do not close their side"),
        Cause::PeerNotReading | Cause::PathLost => {
            let stalled: Vec<u64> =
                stalled_calls(seen).iter().filter(|stall| stall.cause == cause).map(|stall| stall.cookie).collect();
            let what =
                if cause == Cause::PathLost { "whose peers acknowledge nothing" } else { "whose peers read nothing" };
            (sockets.tcp.iter().filter(|socket| stalled.contains(&socket.cookie)).collect(), what)
        }
        _ => return None,
    };
    let named = stuck.len();
    let mut doomed: Vec<(u64, Stuck)> = stuck
        .into_iter()
        .filter(|socket| is_stuck(cause, SILENT_MS, socket))
        .filter_map(|socket| {
            let TcpSocket { cookie, local, remote, state, .. } = *socket;
            Some((socket.in_state_us, Stuck { cookie, fd: socket.fd?, local, remote, state }))
        })
        .filter(|(_, stuck)| stuck.cookie != 0)
        .collect();
    if doomed.is_empty() {
        return None;
    }
    // The oldest first, and always in the same order.
    doomed.sort_by_key(|(age_us, stuck)| (std::cmp::Reverse(*age_us), stuck.cookie));
    let suitable = doomed.len();
    doomed.truncate(CLOSED_MAX);
    let sockets: Vec<Stuck> = doomed.into_iter().map(|(_, stuck)| stuck).collect();
    let number = sockets.len();
    let state = sockets.first().map_or("", |stuck| state_text(stuck.state));
    let more = suitable.saturating_sub(number);
    let left = match (named.saturating_sub(suitable), more) {
        (0, 0) => String::new(),
        (0, more) => format!("; {more} more are left for another run"),
        (young, 0) => {
            format!("; {young} more that this verdict counts were silent for too short a time, or are in use")
        }
        (young, more) => format!("; {more} more are left for another run, and {young} that may be in use"),
    };
    let plan = format!(
        "close {number} connection{} of pid {} in {state}, {what}, silent for {} at least{left}",
        if number == 1 { "" } else { "s" },
        seen.process.pid,
        time(u64::from(SILENT_MS) * 1000),
    );
    let step = Step::CloseSockets { sockets, silent_ms: SILENT_MS, more: more as u64 };
    Some(FirstAid::new(finding, step, plan, meaning(cause)))
}

/// What `tcp_abort` does in each state: tried in the tests of `collect::aid`.
fn meaning(cause: Cause) -> String {
    let reads = match cause {
        Cause::CloseWaitPileup => {
            "Reading goes on to give 0; the next write fails with ECONNABORTED (then EPIPE), and a poller reports EPOLLERR \
             and EPOLLHUP. A peer that closed its half alone, and still waits for an answer, does not get it."
        }
        _ => {
            "The program's next read or write on each fails with ECONNABORTED (then read gives 0, write EPIPE), and a \
             poller reports EPOLLERR and EPOLLHUP: a thread that waits there goes on."
        }
    };
    let lost = match cause {
        Cause::PeerNotReading | Cause::PathLost => " What it had written and the peer did not get is lost.",
        _ => "",
    };
    format!(
        "The peers get a reset, as far as they are there. {reads}{lost} The kernel's memory is free at once, but the \
         descriptor stays taken until the program closes it: if it never looks, only a restart gives it back."
    )
}

/// Whether nothing has moved on it for so long that nobody misses it. What was not observed counts as moving.
#[must_use]
pub(crate) fn is_stuck(cause: Cause, at_least: u32, socket: &TcpSocket) -> bool {
    let Some(tcp) = socket.last else { return false };
    match cause {
        // The peer may still read: then something was written lately, or is on its way, or what it asked is still read.
        Cause::CloseWaitPileup => {
            socket.state == TcpState::CloseWait
                && socket.unread_bytes == 0
                && socket.in_state_us >= u64::from(at_least) * 1000
                && socket.unsent_bytes == 0
                && tcp.last_data_sent_ms >= at_least
        }
        // The peer may still write.
        Cause::FinWait2Pileup => {
            socket.state == TcpState::FinWait2
                && socket.unread_bytes == 0
                && socket.in_state_us >= u64::from(at_least) * 1000
                && tcp.last_data_recv_ms >= at_least
        }
        // Its window is closed, and was when the last byte went out. Probes are no data.
        Cause::PeerNotReading => {
            socket.state == TcpState::Established
                && socket.unsent_bytes > 0
                && socket.timer.kind == TimerKind::ZeroWindowProbe
                && tcp.last_data_sent_ms >= at_least
                && tcp.last_data_recv_ms >= at_least
        }
        Cause::PathLost => {
            socket.state == TcpState::Established
                && socket.unsent_bytes > 0
                && socket.timer.kind == TimerKind::Retransmit
                && socket.timer.fired > 0
                && tcp.last_ack_recv_ms >= at_least
        }
        _ => false,
    }
}
