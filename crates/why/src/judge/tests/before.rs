//! Calls that were on their way when the watch began: only the kernel's counters tell of them.

use super::{calls::syn_sent, *};
use crate::observation::{HalfOpen, Listener};

/// A body that stopped before the watch began looks like a connection that lies idle: nobody is blamed, and it is said.
#[test]
fn bodies_that_stopped_before_the_watch() {
    let untold = |seen: &Observation| super::super::untold(seen, &judge(seen));
    let silent = |sent_ms, recv_ms| {
        let mut socket = outbound(9, "10.0.0.9:80");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (sent_ms, recv_ms);
        socket
    };
    let mut caller = inbound(8, "10.0.0.20:50000");
    let tcp = caller.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (40_000, 31_000);
    let waits = idle().tcp([silent(30_500, 30_000), caller.clone()]);
    nothing(&waits);
    let hidden = untold(&waits).unwrap();
    assert!(
        hidden.why.starts_with("callers of this process wait (1)") && hidden.why.contains("10.0.0.9:80"),
        "{hidden:?}"
    );
    assert_eq!(crate::Report::of(&waits).not_visible, [hidden]);
    // Nobody waits; it was used in the window; something else explains the wait.
    assert_eq!(untold(&idle().tcp([silent(30_500, 30_000)])), None);
    assert_eq!(untold(&idle().tcp([silent(2_500, 2_000), caller.clone()])), None);
    assert_eq!(untold(&idle().tcp([silent(30_500, 30_000), caller, syn_sent(None)])), None);
}

/// The call was on its way when the watch began, and its loop polls again and again, so that no thread seems to wait.
#[test]
fn calls_from_before_the_watch() {
    let sent = |received: u64, change: fn(&mut TcpInfo)| {
        let mut socket = outbound(9, "10.0.0.9:80");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(81), Some(received));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (31_000, 40_000);
        change(tcp);
        idle().tcp([socket])
    };
    // Logs and metrics are sent without an answer: one connection of a program that serves nothing, and many.
    let finding = advisory(&sent(0, |_| {}), Cause::ServerSlow);
    assert!(finding.verdict.evidence[0].text.starts_with("80 bytes were sent"), "{:?}", finding.verdict.evidence);
    let mut shards = sent(0, |_| {});
    let tcp = &mut shards.sockets.as_mut().unwrap().tcp;
    tcp.extend((10..14).map(|cookie| TcpSocket { cookie, ..tcp[0].clone() }).collect::<Vec<_>>());
    advisory(&shards, Cause::ServerSlow);
    // A peer that does not even take it is no collector of logs.
    let mut untaken = sent(0, |_| {});
    let socket = &mut untaken.sockets.as_mut().unwrap().tcp[0];
    (socket.peer_unread_bytes, socket.peer_unsent_bytes) = (Some(80), Some(0));
    only(&untaken, Cause::ServerSlow);
    // A caller that waits shows that something is due, unless what was sent is one line of many.
    let mut caller = inbound(8, "10.0.0.20:50000");
    let tcp = caller.last.as_mut().unwrap();
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (40_000, 31_500);
    let called = sent(0, |_| {}).tcp([caller]);
    only(&called, Cause::WaitsUpstream);
    let mut logs = called.clone();
    let socket = &mut logs.sockets.as_mut().unwrap().tcp[0];
    (socket.first, socket.last.as_mut().unwrap().bytes_acked) = (socket.last, Some(161));
    advisory(&logs, Cause::ServerSlow);
    let mut logs = called;
    logs.sockets.as_mut().unwrap().tcp[0].last.as_mut().unwrap().bytes_acked = Some(70_000);
    advisory(&logs, Cause::ServerSlow);
    // A service may send its logs so. After an answer a client may have the last word.
    let mut service = sent(0, |_| {});
    let listener = Listener {
        cookie: 1,
        fd: Some(3),
        local: "10.0.0.1:80".parse().unwrap(),
        backlog: 128,
        queued_max: 0,
        queued_last: 0,
        waiting_us: 0,
        full_rounds: 0,
        drops: Some(0),
        half_open: HalfOpen::default(),
    };
    service.sockets.as_mut().unwrap().listeners = vec![listener];
    advisory(&service, Cause::ServerSlow);
    nothing(&sent(500, |_| {}));
    nothing(&sent(0, |tcp| tcp.last_data_sent_ms = 400));
    nothing(&sent(0, |tcp| tcp.bytes_acked = Some(1)));
}
