//! Calls that were on their way when the watch began: only the kernel's counters tell of them.

use super::{
    calls::{blocked, syn_sent},
    process::{listener, listening},
    *,
};
use crate::observation::{Go, GoroutineGroup, Listener, Runtime};

/// All that was sent has arrived, and nothing ever came back.
fn sent_to(peer: &str) -> Observation {
    let mut socket = outbound(9, peer);
    let tcp = socket.last.as_mut().unwrap();
    (tcp.bytes_acked, tcp.bytes_received) = (Some(518), Some(0));
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms) = (31_000, 40_000);
    idle().tcp([socket])
}

fn goroutine_in(function: &str, stayed: u64, mut seen: Observation) -> Observation {
    let group = GoroutineGroup { stack: stack(&["runtime.gopark", function]), stayed, ..GoroutineGroup::default() };
    seen.process.runtime = Runtime::Go { version: "go1.27".to_owned() };
    seen.go = Some(Go { groups: vec![group], ..Go::default() });
    seen
}

/// Nobody saw the ClientHello: a stack tells of it, or the port.
#[test]
fn handshakes_from_before_the_watch() {
    let in_thread = |function: &str, seen: Observation| {
        blocked(seen, "read", 9, 4_000_000).thread(|thread| thread.stack = Some(stack(&["read", function])))
    };
    let finding = only(&in_thread("SSL_do_handshake", sent_to("10.0.0.9:9000")), Cause::TlsPeerSilent);
    assert!(finding.verdict.evidence[0].text.contains("waits in a TLS handshake"), "{finding:#?}");
    only(&in_thread("SSL_read", sent_to("10.0.0.9:9000")), Cause::ServerSlow);
    // A part of it came.
    let mut part = sent_to("10.0.0.9:9000");
    part.sockets.as_mut().unwrap().tcp[0].last.as_mut().unwrap().bytes_received = Some(90);
    only(&in_thread("SSL_do_handshake", part), Cause::TlsSlow);

    const IN_GO: &str = "crypto/tls.(*Conn).clientHandshake";
    only(&goroutine_in(IN_GO, 1, sent_to("10.0.0.9:9000")), Cause::TlsPeerSilent);
    // It came to that only now; or it may be of the other connection, which sends metrics.
    advisory(&goroutine_in(IN_GO, 0, sent_to("10.0.0.9:9000")), Cause::ServerSlow);
    let mut two = sent_to("10.0.0.9:9000");
    let tcp = &mut two.sockets.as_mut().unwrap().tcp;
    tcp.push(TcpSocket { cookie: 10, ..tcp[0].clone() });
    advisory(&goroutine_in(IN_GO, 1, two), Cause::ServerSlow);

    let by_port = only(&sent_to("10.0.0.9:443"), Cause::TlsPeerSilent);
    assert_eq!(by_port.verdict.confidence, Confidence::Medium);
    // It has spoken before, or there is nothing yet that it should answer.
    for (acked, received) in [(518, 4_000), (1, 0)] {
        let mut used = sent_to("10.0.0.9:443");
        let tcp = used.sockets.as_mut().unwrap().tcp[0].last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(acked), Some(received));
        nothing(&used);
    }
}

/// A goroutine that waits for the answer shows that one is due; so does a thread that looks for it each second.
#[test]
fn whoever_waits_for_an_answer_from_before_the_watch() {
    only(&goroutine_in("net/http.(*persistConn).roundTrip", 1, sent_to("10.0.0.9:80")), Cause::ServerSlow);
    advisory(&goroutine_in("main.idle", 1, sent_to("10.0.0.9:80")), Cause::ServerSlow);

    let polls = |looks| {
        blocked(sent_to("10.0.0.9:80"), "poll", 9, 400_000).thread(|thread| {
            thread.calls = vec![("poll".to_owned(), looks)];
        })
    };
    let finding = only(&polls(20), Cause::ServerSlow);
    assert_eq!(finding.verdict.confidence, Confidence::Medium, "what it sent was not seen");
    advisory(&polls(9), Cause::ServerSlow);
    // It sends again and again, and never gets an answer.
    let mut logs = polls(20);
    logs.sockets.as_mut().unwrap().tcp[0].last.as_mut().unwrap().last_data_sent_ms = 2_000;
    advisory(&logs, Cause::ServerSlow);
}

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
    let hidden = untold(&waits).remove(0);
    assert!(
        hidden.why.starts_with("callers of this process wait (1)") && hidden.why.contains("10.0.0.9:80"),
        "{hidden:?}"
    );
    assert_eq!(crate::Report::of(&waits).not_visible, [hidden]);
    // Nobody waits; it was used in the window; something else explains the wait.
    assert_eq!(untold(&idle().tcp([silent(30_500, 30_000)])), []);
    assert_eq!(untold(&idle().tcp([silent(2_500, 2_000), caller.clone()])), []);
    assert_eq!(untold(&idle().tcp([silent(30_500, 30_000), caller, syn_sent(None)])), []);
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
    service = listening(service, Listener { queued_max: 0, ..listener() });
    advisory(&service, Cause::ServerSlow);
    nothing(&sent(500, |_| {}));
    nothing(&sent(0, |tcp| tcp.last_data_sent_ms = 400));
    nothing(&sent(0, |tcp| tcp.bytes_acked = Some(1)));
}
