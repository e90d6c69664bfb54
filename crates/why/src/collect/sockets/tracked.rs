//! What is remembered of one socket from round to round.

use overdue_core::{
    facts::{TcpInfo, TcpState},
    kernel::netlink::InetSocket,
};

use crate::{
    collect::window::Overlap,
    observation::{HalfOpen, Listener, TcpSocket, TcpTimer, TimerKind},
};

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// But for `first` and the longest time unread, which are others in each window.
    pub(super) socket: TcpSocket,
    pub(super) first: Overlap<Option<TcpInfo>>,
    pub(super) unread_longest_us: Overlap<u64>,
    /// When it was first seen in its state.
    state_since_us: u64,
    /// Since when there are unread bytes of which the reader took none.
    unread_since_us: Option<u64>,
    /// Bytes that the reader has taken, where the kernel tells.
    taken: Option<u64>,
    /// The inode of the other end, when that is on this host; of the listener's while nobody has accepted it.
    pub(super) peer_inode: Option<u32>,
    pub(super) round: u32,
}

/// In these states the peer's FIN has come; the kernel counts it as a byte to be read.
const fn has_fin(state: TcpState) -> bool {
    matches!(state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing)
}

impl Connection {
    pub(super) fn new(seen: &InetSocket, at_us: u64, round: u32) -> Self {
        Self {
            socket: TcpSocket {
                since_before: round == 0,
                last_seen_us: at_us,
                ..TcpSocket::new(seen.cookie, seen.local, seen.remote, seen.state)
            },
            first: Overlap::new(seen.info),
            unread_longest_us: Overlap::new(0),
            state_since_us: at_us,
            unread_since_us: None,
            taken: None,
            peer_inode: None,
            round,
        }
    }

    /// It is there at that time.
    pub(super) fn see(&mut self, seen: &InetSocket, fd: Option<u32>, at_us: u64, round: u32) {
        self.round = round;
        let socket = &mut self.socket;
        socket.last_seen_us = at_us;
        socket.fd = fd;
        if socket.state != seen.state {
            socket.state = seen.state;
            socket.since_before = false;
            self.state_since_us = at_us;
        }
        // The local end is chosen by `connect`.
        (socket.local, socket.remote) = (seen.local, seen.remote);
        let unread_before = socket.unread_bytes;
        socket.fin_unread = has_fin(seen.state) && seen.rqueue > 0;
        socket.unread_bytes = seen.rqueue - u32::from(socket.fin_unread);
        socket.unsent_bytes = seen.wqueue;
        socket.timer = timer(seen);
        let observed_us = at_us - self.state_since_us.min(at_us);
        // Entering either state takes a segment with an ACK: it is at least as long ago as the last of them.
        let acked_us = match (&seen.info, seen.state) {
            (Some(info), TcpState::CloseWait | TcpState::FinWait2) => u64::from(info.last_ack_recv_ms) * 1000,
            _ => 0,
        };
        socket.in_state_us = observed_us.max(acked_us);
        let taken = seen.info.as_ref().and_then(|info| info.bytes_received);
        let taken = taken.map(|received| received.saturating_sub(seen.rqueue.into()));
        if socket.unread_bytes == 0 {
            self.unread_since_us = None;
        } else if self.unread_since_us.is_none() || taken != self.taken || socket.unread_bytes < unread_before {
            self.unread_since_us = Some(at_us);
        }
        self.taken = taken;
        socket.unread_for_us = self.unread_since_us.map_or(0, |since| at_us.saturating_sub(since));
        let now_us = socket.unread_for_us;
        self.unread_longest_us.both().for_each(|longest_us| *longest_us = now_us.max(*longest_us));
        if seen.info.is_some() {
            socket.last = seen.info;
            self.first.both().filter(|first| first.is_none()).for_each(|first| *first = seen.info);
        }
    }
}

fn timer(seen: &InetSocket) -> TcpTimer {
    let kind = match seen.timer {
        1 => TimerKind::Retransmit,
        2 => TimerKind::Keepalive,
        3 => TimerKind::TimeWait,
        4 => TimerKind::ZeroWindowProbe,
        _ => TimerKind::Off,
    };
    TcpTimer { kind, expires_ms: seen.timer_expires_ms, fired: seen.timer_fired }
}

/// One listener.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: Listener,
    pub(super) window: Overlap<Window>,
    drops: Option<u32>,
    /// Since when its queue was never empty and never shrank.
    waiting_since_us: Option<u64>,
    pub(super) last_seen_us: u64,
    pub(super) round: u32,
}

/// What is counted of a listener in a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    queued_max: u32,
    /// `None`: not read yet.
    queued_min: Option<u32>,
    full_rounds: u32,
    /// When the window began.
    drops: Option<u32>,
    /// When the window began.
    pub(super) half_open: u32,
}

impl Listening {
    pub(super) fn new(seen: &InetSocket) -> Self {
        Self {
            listener: Listener {
                cookie: seen.cookie,
                fd: None,
                local: seen.local,
                backlog: seen.wqueue,
                queued_max: 0,
                queued_last: 0,
                queued_min: 0,
                waiting_us: 0,
                full_rounds: 0,
                drops: None,
                half_open: HalfOpen::default(),
            },
            window: Overlap::new(Window { drops: seen.drops, ..Window::default() }),
            drops: seen.drops,
            waiting_since_us: None,
            last_seen_us: 0,
            round: 0,
        }
    }

    /// It is there.
    pub(super) fn see(&mut self, seen: &InetSocket, fd: Option<u32>, at_us: u64, round: u32) {
        (self.last_seen_us, self.round) = (at_us, round);
        self.drops = seen.drops;
        let listener = &mut self.listener;
        listener.fd = fd;
        listener.backlog = seen.wqueue;
        if seen.rqueue == 0 {
            self.waiting_since_us = None;
        } else if self.waiting_since_us.is_none() || seen.rqueue < listener.queued_last {
            self.waiting_since_us = Some(at_us);
        }
        listener.waiting_us = self.waiting_since_us.map_or(0, |since| at_us.saturating_sub(since));
        listener.queued_last = seen.rqueue;
        for window in self.window.both() {
            window.queued_max = window.queued_max.max(seen.rqueue);
            window.queued_min = Some(window.queued_min.map_or(seen.rqueue, |fewest| fewest.min(seen.rqueue)));
            window.full_rounds += u32::from(seen.rqueue > seen.wqueue);
            window.drops = window.drops.or(seen.drops);
        }
    }

    /// Another window begins.
    pub(super) fn turn(&mut self) {
        let (queued_max, half_open) = (self.listener.queued_last, self.listener.half_open.last);
        let queued_min = Some(queued_max);
        self.window.turn(Window { queued_max, queued_min, full_rounds: 0, drops: self.drops, half_open });
    }

    /// What was seen in the window.
    pub(super) fn observed(&self) -> Listener {
        let window = self.window.shown();
        let mut listener = self.listener.clone();
        listener.queued_max = window.queued_max;
        listener.queued_min = window.queued_min.unwrap_or(0);
        listener.full_rounds = window.full_rounds;
        listener.drops = window.drops.zip(self.drops).map(|(before, now)| now.wrapping_sub(before).into());
        listener.half_open.first = window.half_open;
        listener
    }
}

#[cfg(test)]
mod tests {
    use overdue_core::facts::TcpInfo;

    use super::*;

    fn seen(state: TcpState, unread: u32, received: u64) -> InetSocket {
        InetSocket {
            state,
            local: "127.0.0.1:1".parse().unwrap(),
            remote: "127.0.0.1:2".parse().unwrap(),
            interface: 0,
            rqueue: unread,
            wqueue: 0,
            v6_only: false,
            cookie: 1,
            inode: 1,
            timer: 0,
            timer_fired: 0,
            timer_expires_ms: 0,
            info: Some(TcpInfo {
                state,
                bytes_received: Some(received),
                last_ack_recv_ms: 7_000,
                ..TcpInfo::default()
            }),
            drops: None,
        }
    }

    #[test]
    fn a_reader_that_takes_something_is_not_idle() {
        let first = seen(TcpState::Established, 10, 10);
        let mut connection = Connection::new(&first, 0, 0);
        connection.see(&first, None, 0, 0);
        connection.see(&seen(TcpState::Established, 20, 20), None, 100, 1);
        assert_eq!((connection.socket.unread_for_us, *connection.unread_longest_us.shown()), (100, 100));
        // As many bytes as before, and yet others.
        connection.see(&seen(TcpState::Established, 20, 40), None, 200, 2);
        assert_eq!(connection.socket.unread_for_us, 0);
        connection.see(&seen(TcpState::Established, 0, 40), None, 300, 3);
        assert_eq!((connection.socket.unread_for_us, connection.socket.unread_bytes), (0, 0));
    }

    #[test]
    fn a_queue_that_shrinks_is_accepted_from() {
        let mut listening = Listening::new(&seen(TcpState::Listen, 0, 0));
        let mut waiting_us = |queued, at_us| {
            listening.see(&seen(TcpState::Listen, queued, 0), Some(3), at_us, 0);
            listening.observed().waiting_us
        };
        assert_eq!([waiting_us(2, 0), waiting_us(2, 100), waiting_us(3, 200)], [0, 100, 200]);
        assert_eq!([waiting_us(2, 300), waiting_us(2, 400), waiting_us(0, 500), waiting_us(1, 600)], [0, 100, 0, 0]);
    }

    #[test]
    fn how_short_a_queue_was() {
        let mut listening = Listening::new(&seen(TcpState::Listen, 0, 0));
        let mut shortest = |queued| {
            listening.see(&seen(TcpState::Listen, queued, 0), Some(3), 0, 0);
            (listening.observed().queued_min, listening.observed().queued_max)
        };
        assert_eq!([shortest(9), shortest(12), shortest(8), shortest(10)], [(9, 9), (9, 12), (8, 12), (8, 12)]);
    }

    #[test]
    fn the_peers_fin_is_no_byte() {
        let first = seen(TcpState::Established, 0, 10);
        let mut connection = Connection::new(&first, 0, 0);
        connection.see(&first, Some(3), 0, 0);
        assert!(connection.socket.since_before);
        connection.see(&seen(TcpState::CloseWait, 1, 11), Some(3), 500, 1);
        let socket = &connection.socket;
        assert_eq!((socket.unread_bytes, socket.fin_unread, socket.since_before), (0, true, false));
        assert_eq!(socket.in_state_us, 7_000_000);
    }
}
