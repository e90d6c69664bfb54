//! Requests and answers of the same millisecond: the kernel's times do not tell which came later.

use super::{calls::blocked, *};
use crate::observation::{BlockedIn, Moment};

/// The proxy as it was recorded: the call that its caller asks for was sent on a connection that had been used before.
fn proxy(change: impl FnOnce(&mut TcpInfo)) -> Observation {
    let mut upstream = outbound(9, "127.0.0.1:18131");
    let tcp = upstream.last.as_mut().unwrap();
    (tcp.bytes_acked, tcp.bytes_received) = (Some(142), Some(40));
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.last_ack_recv_ms) = (6_304, 6_332, 6_256);
    let mut caller = inbound(8, "127.0.0.1:42588");
    let tcp = caller.last.as_mut().unwrap();
    (tcp.bytes_acked, tcp.bytes_received) = (Some(41), Some(166));
    (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.last_ack_recv_ms) = (6_316, 6_316, 6_316);
    change(tcp);
    blocked(idle().tcp([upstream, caller]), "recvfrom", 9, WINDOW)
}

/// A caller that keeps its connection, and asks again in the millisecond in which it got the answer before.
#[test]
fn a_caller_that_asked_in_the_millisecond_of_an_answer() {
    let finding = only(&proxy(|_| {}), Cause::WaitsUpstream);
    let summary = &finding.verdict.summary;
    assert!(summary.starts_with("1 caller of this process waits while it waits for 127.0.0.1:18131"), "{summary}");
    assert_eq!(finding.verdict.confidence, Confidence::Medium);
    // One on which nothing was ever sent is certain.
    let first = only(&proxy(|tcp| tcp.bytes_acked = Some(0)), Cause::WaitsUpstream);
    assert_eq!(first.verdict.confidence, Confidence::High);
    // The client has acknowledged an answer by itself; it asked long before; it asked after the call went out.
    advisory(&proxy(|tcp| tcp.last_ack_recv_ms = 6_276), Cause::ServerSlow);
    let asked = |ms| proxy(|tcp| (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.last_ack_recv_ms) = (ms, ms, ms));
    advisory(&asked(9_000), Cause::ServerSlow);
    advisory(&asked(6_200), Cause::ServerSlow);
    // A thread waits for the next request; and the write was seen to be later.
    let mut listened = proxy(|_| {});
    let threads = &mut listened.threads.as_mut().unwrap().threads;
    let reads = BlockedIn { call: "recvfrom".to_owned(), cookie: Some(8), ..BlockedIn::default() };
    threads.push(Thread { tid: 5_000, blocked_in: Some(reads), ..threads[0].clone() });
    advisory(&listened, Cause::ServerSlow);
    let mut wrote = proxy(|_| {});
    wrote.connections.as_mut().unwrap().connections = vec![Connection {
        cookie: 8,
        last_read: Some(Moment::At(100_000)),
        last_write: Some(Moment::At(100_900)),
        ..Connection::default()
    }];
    advisory(&wrote, Cause::ServerSlow);
}

/// The same for a call that was under way before the watch began, in a loop that turns.
#[test]
fn a_loop_whose_caller_asked_in_the_millisecond_of_an_answer() {
    let turning =
        |change: fn(&mut TcpInfo)| proxy(change).thread(|thread| (thread.blocked_in, thread.blocked_us) = (None, 0));
    only(&turning(|_| {}), Cause::WaitsUpstream);
    nothing(&turning(|tcp| tcp.last_ack_recv_ms = 6_276));
}

/// A query sent in the millisecond in which the answer to the one before came, and a thread that reads.
#[test]
fn a_query_of_the_millisecond_of_an_answer() {
    let query = |change: fn(&mut TcpSocket)| {
        let mut socket = outbound(9, "127.0.0.1:18180");
        let tcp = socket.last.as_mut().unwrap();
        (tcp.bytes_acked, tcp.bytes_received) = (Some(19), Some(14));
        (tcp.last_data_sent_ms, tcp.last_data_recv_ms, tcp.last_ack_recv_ms) = (6_404, 6_404, 6_360);
        change(&mut socket);
        blocked(idle().tcp([socket]), "recvfrom", 9, WINDOW)
    };
    // The server may wait because it is meant to. One that did not even read the query does not.
    advisory(&query(|_| {}), Cause::ServerSlow);
    only(&query(|socket| socket.peer_unread_bytes = Some(6)), Cause::ServerSlow);
    // The acknowledgement came with the answer, which was the last; or answers a probe, much later.
    for change in [
        |socket: &mut TcpSocket| socket.last.as_mut().unwrap().last_ack_recv_ms = 6_404,
        |socket: &mut TcpSocket| socket.last.as_mut().unwrap().last_ack_recv_ms = 1_404,
    ] {
        assert_eq!(judge(&query(change)), Judgement::default());
    }
}
