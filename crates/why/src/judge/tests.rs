//! Observations as they were recorded, and what the judge makes of them.

mod asked;
mod backlog;
mod before;
mod calls;
mod descriptors;
mod effects;
mod handed_on;
mod healthy;
mod kernel;
mod look_alikes;
mod misread;
mod names;
mod paces;
mod pools;
mod process;
mod queue;
mod silence;
mod spins;
mod threads;
mod ties;
mod unanswered;

use overdue_core::{
    Cause, Confidence,
    facts::{TcpInfo, TcpState},
};

use super::{Finding, Judgement, is_settled, judge};
use crate::observation::{
    CallCount, Calls, Connection, Connections, Cpu, FdKind, Fds, Frame, Observation, PollLoop, Polling, Process,
    Reading, ReadyFd, Sockets, Stack, TcpSocket, TcpTimer, Thread, ThreadState, Threads, Timeouts, TimerKind,
};

const WINDOW: u64 = 5_000_000;
const PID: u32 = 4242;

/// A process of one thread that does nothing, seen by all collectors.
fn idle() -> Observation {
    let thread = Thread {
        tid: PID,
        name: "server".to_owned(),
        state: ThreadState::Sleeping,
        looks: 20,
        looks_in_state: 20,
        ..Thread::default()
    };
    Observation {
        window_us: WINDOW,
        process: Process { pid: PID, name: "server".to_owned(), ..Process::default() },
        fds: Some(Fds { soft_limit: 1024, hard_limit: 4096, open: readings(&[12; 20]), ..Fds::default() }),
        sockets: Some(Sockets { rounds: 20, ..Sockets::default() }),
        threads: Some(Threads { first: 1, last: 1, threads: vec![thread], ..Threads::default() }),
        cpu: Some(Cpu { processors: 2.0, ..Cpu::default() }),
        polling: Some(Polling { looked_us: 400_000, loops: Vec::new() }),
        calls: Some(Calls { looked_us: 400_000, counts: Vec::new() }),
        connections: Some(Connections::default()),
        ..Observation::default()
    }
}

/// Readings spread evenly over the window.
fn readings(values: &[u64]) -> Vec<Reading> {
    let step = WINDOW / (values.len() as u64 - 1).max(1);
    (0..).zip(values).map(|(place, &value)| Reading { at_us: place * step, value }).collect()
}

fn rising(from: u64, step: u64) -> Vec<Reading> {
    let values: Vec<u64> = (0..20).map(|place| from + place * step).collect();
    readings(&values)
}

fn kind(kind: &str, first: u64, last: u64) -> FdKind {
    FdKind { kind: kind.to_owned(), first, last, example: None }
}

fn stack(functions: &[&str]) -> Stack {
    let frame = |name: &&str| Frame { function: Some((*name).to_owned()), ..Frame::default() };
    Stack { frames: functions.iter().map(frame).collect(), cut: None }
}

/// A connection opened by the process, on which nothing is wrong.
fn outbound(cookie: u64, peer: &str) -> TcpSocket {
    TcpSocket {
        cookie,
        fd: Some(u32::try_from(cookie).unwrap()),
        local: "10.0.0.1:40000".parse().unwrap(),
        remote: peer.parse().unwrap(),
        state: TcpState::Established,
        in_state_us: WINDOW,
        since_before: true,
        inbound: false,
        unread_bytes: 0,
        fin_unread: false,
        unread_for_us: 0,
        unread_longest_us: 0,
        unsent_bytes: 0,
        timer: TcpTimer { kind: TimerKind::Keepalive, expires_ms: 30_000, fired: 0 },
        first: None,
        last: Some(TcpInfo {
            state: TcpState::Established,
            bytes_acked: Some(181),
            bytes_received: Some(4_000),
            notsent_bytes: Some(0),
            snd_wnd: Some(64_240),
            rcv_ooopack: Some(0),
            rtt_us: 300,
            rto_us: 200_000,
            last_data_sent_ms: 300,
            last_data_recv_ms: 100,
            last_ack_recv_ms: 100,
            ..TcpInfo::default()
        }),
        last_seen_us: WINDOW,
        peer_listener: None,
        peer_unread_bytes: None,
        peer_unsent_bytes: None,
        peer_pid: None,
    }
}

fn inbound(cookie: u64, peer: &str) -> TcpSocket {
    TcpSocket { inbound: true, local: "10.0.0.1:8080".parse().unwrap(), ..outbound(cookie, peer) }
}

impl Observation {
    fn thread(mut self, change: impl FnOnce(&mut Thread)) -> Self {
        change(&mut self.threads.as_mut().unwrap().threads[0]);
        self
    }

    fn tcp(mut self, sockets: impl IntoIterator<Item = TcpSocket>) -> Self {
        self.sockets.as_mut().unwrap().tcp.extend(sockets);
        self
    }

    fn poll(mut self, poll: PollLoop) -> Self {
        self.polling.as_mut().unwrap().loops.push(PollLoop { tid: PID, thread: "server".to_owned(), ..poll });
        self
    }

    fn used(mut self, us: u64) -> Self {
        self.cpu.as_mut().unwrap().user_us = us;
        self.thread(|thread| thread.cpu_us = us)
    }
}

fn causes(judgement: &Judgement) -> Vec<&'static str> {
    judgement.verdicts.iter().map(|finding| finding.verdict.cause.id()).collect()
}

/// The only verdict. Each must rest on something, and name what it is not.
#[track_caller]
fn only(seen: &Observation, cause: Cause) -> Finding {
    let mut judgement = judge(seen);
    assert_eq!(causes(&judgement), [cause.id()], "{judgement:#?}");
    let finding = judgement.verdicts.remove(0);
    assert_sound(&finding);
    finding
}

#[track_caller]
fn assert_sound(finding: &Finding) {
    let verdict = &finding.verdict;
    assert!(!verdict.evidence.is_empty() && !verdict.rejected.is_empty(), "{verdict:#?}");
    assert!(!verdict.summary.is_empty() && !verdict.fix.is_empty(), "{verdict:#?}");
    assert!((0.0..=1.0).contains(&verdict.share), "{verdict:#?}");
}

#[track_caller]
fn nothing(seen: &Observation) {
    let judgement = judge(seen);
    assert!(judgement.verdicts.is_empty(), "{judgement:#?}");
}

#[track_caller]
fn advisory(seen: &Observation, cause: Cause) -> Finding {
    let judgement = judge(seen);
    assert!(judgement.verdicts.is_empty(), "{judgement:#?}");
    let finding = judgement.advisories.into_iter().find(|finding| finding.verdict.cause == cause).unwrap();
    assert_sound(&finding);
    finding
}
