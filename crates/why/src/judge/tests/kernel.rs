//! What the kernel tells, where it is no verdict, as it was recorded; and the one that is ill beside it.

use super::{
    calls::connected,
    process::{listener, listening},
    threads::threads as ramp,
    unanswered::{threads, with},
    *,
};
use crate::observation::{BlockedIn, Call, HttpHead, Listener, Moment, TlsHandshake};

/// A host without a way to IPv6: who sorts the addresses of a name asks the kernel for it.
#[test]
fn addresses_that_are_only_sorted() {
    let refused = |mut seen: Observation, peer: &str| {
        let call = CallCount { call: Call::Connect, errno: 101, count: 1, ..CallCount::default() };
        seen.calls.as_mut().unwrap().counts = vec![CallCount { peer: Some(peer.to_owned()), ..call }];
        seen
    };
    let calls = || connected(|connection| connection.closed_by_us = true);
    // The call went to 10.0.0.9:80.
    nothing(&refused(calls(), "[2001:db8::7]:80"));
    // A lookup, by the C library and by Go.
    nothing(&refused(idle(), "[2001:db8::7]:0"));
    nothing(&refused(idle(), "[2001:db8::7]:9"));
    // Another service; another host by the same protocol; or the other address does not answer.
    only(&refused(calls(), "[2001:db8::7]:443"), Cause::Unreachable);
    only(&refused(calls(), "10.9.0.1:80"), Cause::Unreachable);
    let failed = connected(|connection| connection.established = None);
    assert_eq!(causes(&judge(&refused(failed, "[2001:db8::7]:80"))), ["unreachable", "syn-unanswered"]);
}

/// A download whose client was stopped: what it does not read follows from that.
#[test]
fn a_client_that_is_stopped() {
    let mut download = outbound(9, "10.0.0.9:80");
    (download.unread_bytes, download.unread_for_us) = (130_560, WINDOW);
    let tcp = download.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (7_560, 5_104);
    let mut seen = with([]).tcp([download]);
    only(&seen, Cause::ReaderSlow);
    seen.process.stopped = true;
    threads(&mut seen).iter_mut().for_each(|thread| thread.state = ThreadState::Stopped);
    let finding = only(&seen, Cause::LocalStall);
    assert!(finding.verdict.summary.contains("what came on 1 connection lies unread, the longest for 5s"));
    assert_eq!(finding.effects.iter().map(|it| it.verdict.cause).collect::<Vec<_>>(), [Cause::ReaderSlow]);
    // Nothing came.
    seen.sockets.as_mut().unwrap().tcp[0].unread_bytes = 0;
    nothing(&seen);
}

/// A wait for work, in memory that looks like a mutex which the thread itself holds.
#[test]
fn a_parker_is_no_lock() {
    let waits = |frames: Option<&[&str]>| {
        idle().thread(|thread| {
            let futex = BlockedIn { call: "futex".to_owned(), timeout_us: Some(None), ..BlockedIn::default() };
            thread.blocked_in = Some(BlockedIn { held_by: Some(PID), ..futex });
            (thread.blocked_us, thread.since_before) = (WINDOW, true);
            thread.stack = frames.map(stack);
        })
    };
    assert_eq!(judge(&waits(Some(&["syscall", "parker"]))), Judgement::default());
    let relocked = only(&waits(Some(&["pthread_mutex_lock", "transfer"])), Cause::WaitUnlimited);
    assert_eq!((relocked.verdict.confidence, relocked.proven), (Confidence::High, true));
    for unknown in [None, Some(&[][..])] {
        let finding = only(&waits(unknown), Cause::WaitUnlimited);
        assert_eq!((finding.verdict.confidence, finding.proven), (Confidence::Medium, false));
    }
}

/// Calls that were given up after 400 ms: the FIN that is on its way is no part of the request.
#[test]
fn the_fin_of_the_own_close() {
    let given_up = |state, change: &dyn Fn(&mut Connection, &mut TcpSocket)| {
        let mut socket = TcpSocket { state, fd: None, since_before: false, ..outbound(9, "10.0.0.9:80") };
        (socket.peer_unread_bytes, socket.peer_unsent_bytes) = (Some(0), Some(0));
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(28), Some(0));
        let mut seen = connected(|connection| {
            (connection.closed, connection.closed_by_us) = (Some(Moment::At(400_600)), true);
            (connection.written_bytes, connection.last_write) = (27, Some(Moment::At(500)));
            change(connection, &mut socket);
        });
        seen = seen.tcp([socket]);
        only(&seen, if state == TcpState::FinWait1 { Cause::TlsPeerSilent } else { Cause::ServerSlow }).verdict.summary
    };
    let asked = |unread: u32| {
        given_up(TcpState::FinWait2, &|connection, socket| {
            let requested = Some(Moment::At(500));
            connection.http = Some(HttpHead { request: "GET /".to_owned(), requested, ..HttpHead::default() });
            socket.peer_unread_bytes = Some(unread);
        })
    };
    assert!(asked(1).contains("has the whole request and did not answer"), "{}", asked(1));
    assert!(asked(28).contains("27 bytes of the request lie unread"), "{}", asked(28));
    let hello = |unsent: u32| {
        given_up(TcpState::FinWait1, &|connection, socket| {
            connection.tls =
                Some(TlsHandshake { client: true, hello: Some(Moment::At(500)), ..TlsHandshake::default() });
            socket.unsent_bytes = unsent;
            socket.last.as_mut().unwrap().unacked = 1;
        })
    };
    assert!(hello(1).contains("took our ClientHello and said nothing"), "{}", hello(1));
    assert!(hello(518).contains("has not acknowledged our ClientHello"), "{}", hello(518));
}

/// A thread for each client of a unix socket, for each sensor, for each connection of a load generator: as many of them as
/// those, and each waits for its own.
#[test]
fn threads_that_wait_for_their_own() {
    let ramp = |call: &'static str, what: Option<&'static str>, fd: fn(u32) -> Option<u32>| {
        ramp([5, 13, 22, 31, 46], move |tid| BlockedIn {
            call: call.to_owned(),
            what: what.map(str::to_owned),
            fd: fd(tid),
            ..BlockedIn::default()
        })
    };
    nothing(&ramp("recvfrom", Some("unix"), |tid| Some(3 + tid)));
    nothing(&ramp("read", Some("pipe"), |tid| Some(3 + 2 * tid)));
    nothing(&ramp("clock_nanosleep", None, |_| None));
    // One pipe; one server, to which each has a connection; a server that accepts none.
    only(&ramp("read", Some("pipe"), |_| Some(3)), Cause::TaskBacklog);
    only(&ramp("recvfrom", Some("unix /run/docker.sock"), |tid| Some(3 + tid)), Cause::TaskBacklog);
    only(&ramp("connect", Some("unix"), |tid| Some(3 + tid)), Cause::TaskBacklog);
    // Each was answered, or waits for an answer.
    let call = |sent_ms| {
        let mut seen = ramp("recvfrom", Some("tcp 10.0.0.9:80"), |tid| Some(3 + tid));
        seen = seen.tcp((3..=46).map(|cookie| TcpSocket { since_before: false, ..outbound(cookie, "10.0.0.9:80") }));
        let tcp = seen.sockets.as_mut().unwrap().tcp.iter_mut();
        tcp.for_each(|it| it.last.as_mut().unwrap().last_data_sent_ms = sent_ms);
        seen
    };
    nothing(&call(300));
    only(&call(50), Cause::TaskBacklog);
}

/// A worker that lowered its limit to what it has open, or below, and opens nothing.
#[test]
fn a_limit_that_was_lowered_on_purpose() {
    let sandbox = |soft_limit, refused: u64| {
        let mut seen = idle();
        let fds = seen.fds.as_mut().unwrap();
        (fds.soft_limit, fds.hard_limit, fds.open) = (soft_limit, soft_limit, readings(&[25; 20]));
        fds.by_kind = vec![kind("file", 22, 22), kind("device", 2, 2), kind("pipe", 1, 1)];
        let open = CallCount { call: Call::Open, errno: 24, count: refused, ..CallCount::default() };
        seen.calls.as_mut().unwrap().counts = if refused > 0 { vec![open] } else { Vec::new() };
        seen
    };
    advisory(&sandbox(25, 0), Cause::FdLeak);
    assert_eq!(judge(&sandbox(9, 0)), Judgement::default());
    // It would open more; or nobody looked whether it would.
    only(&sandbox(25, 3), Cause::FdLeak);
    let lowered = only(&sandbox(9, 3), Cause::FdExhausted);
    assert!(lowered.verdict.summary.contains("(25 open, limit 9)"), "{}", lowered.verdict.summary);
    only(&Observation { calls: None, ..sandbox(25, 0) }, Cause::FdLeak);
    // Whose descriptors leaked has none for the next client.
    only(&listening(sandbox(25, 0), listener()), Cause::FdLeak);
    // A service that has what it needs, with a listener for control to which nobody comes.
    let service = |refused, queued_last| {
        let mut seen = listening(sandbox(25, refused), Listener { queued_last, ..listener() });
        seen.fds.as_mut().unwrap().by_kind = vec![kind("file", 12, 12), kind("device", 11, 11), kind("tcp", 2, 2)];
        seen
    };
    advisory(&service(0, 0), Cause::FdExhausted);
    // Somebody waits, as for memcached, which stops accepting before it is refused; or it was refused.
    only(&service(0, 1), Cause::FdExhausted);
    only(&service(3, 0), Cause::FdExhausted);
}
