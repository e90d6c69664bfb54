//! Calls that were on their way before the watch began: nobody saw what was said, and only the kernel's counters tell.

use overdue_core::{Cause, Confidence, LimitName, Rejected, Stage, facts::TcpState};

use super::{
    Known, Meant, Trouble, callers,
    facts::{facts, passed, untaken},
    is_relayed, led_to,
};
use crate::{
    Observation,
    judge::{
        count, diag,
        sockets::peer_of,
        thresholds::{REQUEST_MAX, SETTLED_US},
        time,
    },
    observation::{Hidden, Moment, TcpSocket},
};

/// The last that passed was ours, a while ago, and has arrived.
pub(super) fn unanswered(seen: &Observation, known: &Known<'_>) -> Option<Trouble> {
    let watched_from_start =
        known.connection.and_then(|connection| connection.opened).is_some_and(|opened| opened != Moment::Before);
    let socket = known.socket.filter(|socket| {
        !socket.inbound && socket.state == TcpState::Established && socket.unread_bytes == 0 && socket.unsent_bytes == 0
    })?;
    let tcp = socket.last.filter(|_| !watched_from_start)?;
    let (sent, received) = (tcp.bytes_acked?.saturating_sub(1), tcp.bytes_received?);
    let silent_us = u64::from(tcp.last_data_sent_ms) * 1_000;
    if sent == 0 || silent_us < SETTLED_US {
        return None;
    }
    // After an answer a client may have the last word, and wait for nothing: in HTTP/2 it most often has. Then only a
    // caller whose request came before it says that something is due.
    let asked_before =
        |caller: &&&TcpSocket| caller.last.is_some_and(|caller| caller.last_data_recv_ms >= tcp.last_data_sent_ms);
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let led = sockets.filter(|caller| led_to(seen, caller, tcp.last_data_sent_ms)).count();
    let calls = callers(seen).iter().filter(asked_before).count() + led;
    if received > 0 && (tcp.last_data_recv_ms <= tcp.last_data_sent_ms || calls == 0) {
        return None;
    }
    let facts = facts(known, Stage::Wait, silent_us, passed(LimitName::Stage(Stage::Wait), silent_us));
    let mut trouble = Trouble::of(known, &facts, silent_us);
    trouble.verdict.evidence.insert(
        0,
        diag(format!(
            "{sent} bytes were sent and acknowledged, the last {} ago, and {}: before the watch began, so what they ask is \
             not known",
            time(silent_us),
            if received == 0 { "none ever came back" } else { "none came back since" },
        ))
        .with("silent_us", silent_us),
    );
    // Logs and metrics are sent without an answer, and look like this. What shows that something is held up: a peer that
    // does not even take what was sent, or a caller that waits; but a log is written for a caller, too, again and again.
    let untaken = untaken(socket);
    let wrote_on = socket.first.and_then(|tcp| tcp.bytes_acked).is_some_and(|acked| acked.saturating_sub(1) < sent);
    let goes_one_way = received == 0 && (wrote_on || sent > REQUEST_MAX);
    let relayed = !untaken && is_relayed(seen, socket);
    if relayed && received == 0 {
        let why = "possible: lines that are sent one way, as logs and metrics are, have no answer".into();
        trouble.verdict.confidence = trouble.verdict.confidence.min(Confidence::Medium);
        trouble.verdict.rejected.push(Rejected { cause: Cause::Unknown, why });
    }
    trouble.meant = match untaken || calls > 0 && !goes_one_way {
        true if relayed && received > 0 => Meant::Relayed,
        true => Meant::No,
        false => Meant::Unseen,
    };
    Some(trouble)
}

/// Connections on which an answer may have stopped half-way before the watch began, where callers wait and nothing tells
/// why. The kernel's counters say that something was received long ago, and not whether it was all: a connection that
/// lies idle until it is needed looks the same.
pub(in crate::judge) fn stopped_or_idle(seen: &Observation) -> Option<Hidden> {
    let callers = callers(seen).len();
    let sockets = seen.sockets.iter().flat_map(|sockets| &sockets.tcp);
    let silent_us = |socket: &TcpSocket| {
        let tcp = socket.last.filter(|tcp| tcp.bytes_received.is_some_and(|bytes| bytes > 0))?;
        let silent_us = u64::from(tcp.last_data_recv_ms) * 1_000;
        let all_taken = socket.unread_bytes == 0 && socket.unsent_bytes == 0;
        let is_ours = !socket.inbound && socket.state == TcpState::Established && all_taken;
        let before = silent_us >= seen.window_us.max(SETTLED_US);
        (is_ours && before && tcp.last_data_recv_ms <= tcp.last_data_sent_ms).then_some(silent_us)
    };
    let silent: Vec<(&TcpSocket, u64)> = sockets.filter_map(|socket| Some((socket, silent_us(socket)?))).collect();
    let (first, us) = silent.iter().min_by_key(|(_, us)| *us).filter(|_| callers > 0)?;
    Some(Hidden {
        what: "whether an answer stopped half-way before the watch began".to_owned(),
        why: format!(
            "callers of this process wait ({callers}), and the last bytes of an answer came before that on {}, from {} {} ago: \
             an idle connection looks the same",
            count(silent.len() as u64, "connection"),
            peer_of(first),
            time(*us),
        ),
        how: "watch while such calls begin, for longer: --for 60s".to_owned(),
    })
}
