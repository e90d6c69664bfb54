//! Calls that look the same to the caller and are not the same: what tells them apart, and where nothing does.

use super::*;
use crate::LimitName;
use Confidence::{High, Low, Medium};
use Stage::{Connect, Queue, Receive, Resolve, Send, Tls, Wait};

fn waiting() -> CallFacts {
    call(&[(Connect, 1), (Send, 1), (Wait, 1200)])
}

fn sending() -> CallFacts {
    call(&[(Connect, 1), (Send, 900)])
}

// A silent server, a lost path, a stalled process.

#[test]
fn a_server_is_slow_when_all_is_acknowledged_and_the_path_is_lost_when_nothing_is() {
    assert_eq!(found(&waiting().healthy()), (Cause::ServerSlow, Medium));
    assert_eq!(found(&waiting().reused_after(50).unacked(180, 1)), (Cause::PathLost, Medium));
    assert_eq!(found(&waiting().reused_after(50).unacked(180, 2)), (Cause::PathLost, High));
}

#[test]
fn a_request_that_is_merely_not_acknowledged_yet_says_little() {
    let facts = waiting().unacked(180, 0);
    assert_eq!(found(&facts), (Cause::ServerSlow, Low));
    assert!(verdict(&facts).summary.contains("has not acknowledged"), "{}", verdict(&facts).summary);
    // The SYN was sent again, long ago; the request was not.
    let facts = waiting().unacked(180, 0).socket(|_, tcp| tcp.total_retrans = 3);
    assert_eq!(found(&facts).0, Cause::ServerSlow);
}

#[test]
fn an_answer_that_the_other_end_wrote_and_we_never_got_is_a_lost_path() {
    assert_eq!(found(&waiting().other_end(0, 300)), (Cause::PathLost, High));
    // On a long way it may have been written just now.
    let long = waiting().other_end(0, 300).socket(|_, tcp| tcp.rtt_us = 100_000);
    assert_eq!(found(&long), (Cause::PathLost, Medium));
    // Not seen: it looks like a slow server, and the verdict says so.
    assert!(why_not(&waiting().healthy(), Cause::PathLost).starts_with("possible"));
}

#[test]
fn a_runtime_that_was_late_is_blamed_unless_the_peer_was_silent_all_the_while() {
    let late = || late_call(&[(Connect, 1), (Tls, 499)], 1050);
    let in_time = late().socket(|socket, tcp| (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(1_400), 1_300));
    assert_eq!(found(&in_time), (Cause::LocalStall, High));
    let too_late = late().socket(|socket, tcp| (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(1_400), 700));
    assert_eq!(found(&too_late), (Cause::LocalStall, Medium));
    assert!(why_not(&too_late, Cause::ServerSlow).starts_with("possible"));
    let silent = late().healthy();
    assert_eq!(found(&silent).0, Cause::TlsPeerSilent);
    let advisories = judge(&silent).advisories;
    assert_eq!(advisories.len(), 1);
    assert_eq!((advisories[0].cause, advisories[0].evidence.is_empty()), (Cause::LocalStall, false));
}

#[test]
fn a_late_runtime_does_not_excuse_a_peer_that_does_not_read_or_a_syn_that_nobody_answers() {
    let stuck = late_call(&[(Connect, 1), (Send, 300)], 900).socket(|socket, tcp| {
        socket.unsent_bytes = Some(90_000);
        tcp.snd_wnd = Some(0);
    });
    assert_eq!(found(&stuck).0, Cause::PeerNotReading);
    let free = late_call(&[(Connect, 1), (Send, 300)], 900).healthy();
    assert_eq!(found(&free).0, Cause::LocalStall);
    assert_eq!(found(&late_call(&[(Connect, 300)], 900).syn_sent(1)).0, Cause::SynUnanswered);
    assert_eq!(found(&late_call(&[(Connect, 300)], 900).healthy()).0, Cause::LocalStall);
}

#[test]
fn a_short_lateness_is_an_advisory_and_a_tiny_one_is_nothing() {
    let advisories = |late| judge(&late_call(&[(Connect, 1), (Wait, 99)], late).healthy()).advisories.len();
    assert_eq!((advisories(49), advisories(80)), (0, 1));
    let long = late_call(&[(Connect, 1), (Wait, 999)], 80).healthy();
    assert!(judge(&long).advisories.is_empty());
}

#[test]
fn an_answer_that_waited_unread_is_a_stall_and_one_that_came_with_the_limit_is_a_slow_server() {
    let unread =
        |ago| waiting().socket(move |socket, tcp| (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(90), ago));
    assert_eq!(found(&unread(1_000)), (Cause::LocalStall, High));
    assert!((verdict(&unread(1_000)).share - 1_000.0 / 1_202.0).abs() < 1e-9);
    assert_eq!(found(&unread(100)), (Cause::LocalStall, Medium));
    assert_eq!(found(&unread(5)), (Cause::ServerSlow, Medium));
    assert!(verdict(&unread(5)).summary.contains("only when the limit fired"));
}

#[test]
fn a_kernel_that_gave_up_means_a_lost_path_or_a_window_that_stayed_closed() {
    let gave_up = |kind, text| os(&[(Connect, 1), (Send, 1), (Wait, 9_000)], "read", kind, text).healthy();
    assert_eq!(found(&gave_up(OsFailure::KernelTimeout, "ETIMEDOUT")), (Cause::PathLost, High));
    // On a connection that was up, an ICMP error is the kernel's way to say why it gave up.
    assert_eq!(found(&gave_up(OsFailure::Unreachable, "EHOSTUNREACH")), (Cause::PathLost, High));
    let closed = gave_up(OsFailure::KernelTimeout, "ETIMEDOUT").socket(|_, tcp| tcp.snd_wnd = Some(0));
    assert_eq!(found(&closed), (Cause::PeerNotReading, Medium));
    let connecting = os(&[(Connect, 130_000)], "connect", OsFailure::KernelTimeout, "ETIMEDOUT");
    assert_eq!(found(&connecting), (Cause::SynUnanswered, High));
}

// A full accept queue, a packet filter, a slow path.

#[test]
fn only_a_visible_listener_tells_a_full_queue_from_a_filter() {
    let connecting = |again| call(&[(Connect, 1400)]).syn_sent(again);
    let full = connecting(1).socket(|socket, _| socket.listener = FULL);
    assert_eq!(found(&full), (Cause::AcceptQueueFull, High));
    let room = connecting(1).socket(|socket, _| socket.listener = ROOM);
    assert_eq!(found(&room), (Cause::SynUnanswered, High));
    assert!(why_not(&room, Cause::AcceptQueueFull).contains("has room"));
    assert!(why_not(&connecting(1), Cause::AcceptQueueFull).contains("cannot be seen from here"));
    let at_the_brim = connecting(1).socket(|socket, _| socket.listener = Some(ListenerFacts { queued: 5, backlog: 5 }));
    assert_eq!(found(&at_the_brim).0, Cause::SynUnanswered);
}

#[test]
fn before_the_first_retransmission_an_unanswered_syn_may_be_a_slow_path() {
    let connecting = |ms| call(&[(Connect, ms)]).syn_sent(0);
    assert_eq!(found(&connecting(800)), (Cause::SynUnanswered, Medium));
    assert_eq!(found(&connecting(20)), (Cause::SynUnanswered, Low));
    assert!(why_not(&connecting(20), Cause::ConnectSlow).contains("slow path"));
}

#[test]
fn a_connection_that_came_up_with_the_limit_was_slow_and_not_unanswered() {
    assert_eq!(found(&call(&[(Connect, 1010)]).healthy()), (Cause::ConnectSlow, Medium));
}

#[test]
fn a_queue_that_filled_in_mid_handshake_is_not_a_lost_path() {
    let fresh = || waiting().never_acked().unacked(180, 3);
    assert_eq!(found(&fresh().socket(|socket, _| socket.listener = FULL)), (Cause::AcceptQueueFull, High));
    // Elsewhere the queue is not seen, so the path is not certain either.
    assert_eq!(found(&fresh()), (Cause::PathLost, Medium));
    assert!(why_not(&fresh(), Cause::AcceptQueueFull).starts_with("possible"));
    assert_eq!(found(&fresh().socket(|socket, _| socket.listener = ROOM)), (Cause::PathLost, High));
    // The queue is full now; this connection was served before.
    let served = fresh().reused_after(50).socket(|socket, _| socket.listener = FULL);
    assert_eq!(found(&served), (Cause::PathLost, High));
}

#[test]
fn a_connection_that_waits_to_be_accepted_shows_the_queue() {
    let facts = waiting().other_end(180, 0).socket(|socket, _| {
        socket.listener = Some(ListenerFacts { queued: 1, backlog: 5 });
    });
    let found = verdict(&facts);
    assert_eq!((found.cause, found.confidence), (Cause::ServerSlow, High));
    assert!(found.evidence.iter().any(|evidence| evidence.values.contains(&("queued", 1))), "{found:?}");
}

#[test]
fn ports_are_certain_for_ipv4_only() {
    let refused = |peer: &'static str| {
        os(&[(Connect, 1)], "connect", OsFailure::AddressNotAvailable, "EADDRNOTAVAIL")
            .socket(|socket, _| socket.peer = peer.to_owned())
    };
    assert_eq!(found(&refused("192.0.2.7:80")), (Cause::PortsExhausted, High));
    assert_eq!(found(&refused("[::1]:80")), (Cause::PortsExhausted, Medium));
}

// Half a head, or none.

#[test]
fn half_a_head_is_not_a_silent_server() {
    assert_eq!(found(&waiting().healthy()), (Cause::ServerSlow, Medium));
    let half = waiting().received(39, 0, 1_000);
    assert_eq!(found(&half), (Cause::HeadStalled, Medium));
    assert!(verdict(&half).summary.contains("39 bytes of a response head, then nothing more for 1s"));
}

// DNS: silent, slow, hidden, not asked.

#[test]
fn dns_is_silent_without_an_answer_and_slow_with_one() {
    let resolving = |ms| call(&[(Resolve, ms)]);
    assert_eq!(found(&resolving(900).dns(Some(4), Some(0))), (Cause::DnsNoAnswer, High));
    assert_eq!(found(&resolving(20).dns(Some(2), Some(0))), (Cause::DnsNoAnswer, Medium));
    assert_eq!(found(&resolving(900).dns(Some(4), Some(1))), (Cause::DnsSlow, Medium));
    assert_eq!(found(&resolving(900).dns(None, None)), (Cause::DnsNoAnswer, Low));
    assert_eq!(found(&resolving(900)), (Cause::DnsNoAnswer, Low));
}

#[test]
fn a_server_that_was_never_asked_is_not_accused() {
    let facts = call(&[(Resolve, 900)]).dns(Some(0), Some(0));
    assert_eq!(found(&facts), (Cause::Unknown, Low));
    assert!(why_not(&facts, Cause::DnsNoAnswer).contains("asked"));
}

// TLS: silent, slow, not TLS.

#[test]
fn tls_is_silent_without_a_byte_slow_with_some_and_wrong_with_others() {
    let greeting = || call(&[(Connect, 1), (Tls, 900)]);
    assert_eq!(found(&greeting().healthy()), (Cause::TlsPeerSilent, Medium));
    assert_eq!(found(&greeting().other_end(517, 0)), (Cause::TlsPeerSilent, High));
    assert_eq!(found(&greeting().received(130, 0, 30)), (Cause::TlsSlow, Medium));
    let arrived_now = greeting().socket(|socket, tcp| (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(90), 2));
    assert_eq!(found(&arrived_now).0, Cause::TlsSlow);
    let other = failed(&[(Tls, 5)], Failure::TlsNotTls("220 mail.test ESMTP".to_owned()));
    assert_eq!(found(&other), (Cause::TlsNotTls, High));
}

#[test]
fn a_hello_that_is_not_acknowledged_is_not_said_to_have_arrived() {
    let facts = call(&[(Connect, 1), (Tls, 150)]).unacked(517, 0);
    assert_eq!(found(&facts), (Cause::TlsPeerSilent, Low));
    assert!(verdict(&facts).summary.contains("has not acknowledged our ClientHello"));
    assert!(why_not(&facts, Cause::PathLost).starts_with("possible"));
}

// The body: stalled, trickling, not read.

fn receiving() -> CallFacts {
    call_in_total(&[(Wait, 10), (Receive, 1190)])
}

#[test]
fn a_body_stalls_trickles_or_is_not_read() {
    assert_eq!(found(&receiving().received(4_060, 4_000, 1_100)), (Cause::BodyStalled, Medium));
    assert_eq!(found(&receiving().received(300, 240, 40)), (Cause::BodySlow, High));
    // It came, and then there was a pause of unknown meaning.
    assert_eq!(found(&receiving().received(300, 240, 400)), (Cause::BodySlow, Medium));
    assert_eq!(found(&receiving().received(60_000, 16_384, 200).reader_away(1_100, 40_000)), (Cause::ReaderSlow, High));
}

#[test]
fn a_reader_that_was_away_is_not_to_blame_when_the_socket_is_empty() {
    let facts = receiving().received(300, 240, 700).reader_away(700, 0);
    assert_eq!(found(&facts), (Cause::BodyStalled, Medium));
    assert!(verdict(&facts).evidence.iter().any(|evidence| evidence.text.contains("not asked for")));
    // Hardly ever asked: what the peer would have done is not known.
    let absent = receiving().received(300, 240, 1_180).reader_away(1_180, 0);
    assert_eq!(found(&absent), (Cause::ReaderSlow, Medium));
}

#[test]
fn a_gap_on_an_empty_socket_is_the_peers_whatever_the_reader_did_before() {
    let gap = |unread| {
        let mut facts = receiving().received(4_060, 4_000, 300).reader_away(1_150, unread);
        facts.failure = Failure::DeadlinePassed(Limit::new(LimitName::Gap, ms(300)));
        facts
    };
    assert_eq!(found(&gap(0)).0, Cause::BodyStalled);
    assert_eq!(found(&gap(4_000)).0, Cause::ReaderSlow);
}

/// A proxy that has all of it, and whose client takes none.
#[test]
fn a_body_that_has_come_whole_is_no_longer_the_peers() {
    let mut facts = receiving().received(4_060, 4_000, 300).reader_away(300, 0);
    facts.failure = Failure::DeadlinePassed(Limit::new(LimitName::Gap, ms(300)));
    facts.exchange.body_expected = Some(4_001);
    assert_eq!(found(&facts).0, Cause::BodyStalled);
    facts.exchange.body_expected = Some(4_000);
    assert_eq!(found(&facts), (Cause::ReaderSlow, High));
}

#[test]
fn bytes_that_wait_while_the_reader_is_away_are_no_stall_of_the_process() {
    let away = receiving().received(4_060, 4_000, 200).reader_away(300, 500);
    assert_eq!(found(&away).0, Cause::BodySlow);
    let there = receiving().received(4_060, 4_000, 200).reader_away(0, 500);
    assert_eq!(found(&there).0, Cause::LocalStall);
}

#[test]
fn http2_reads_ahead_so_an_empty_socket_does_not_clear_the_reader() {
    let h2 = H2Facts { streams_in_use: 1, max_streams: 100, ..H2Facts::default() };
    let facts = receiving().received(300, 240, 700).reader_away(700, 0).h2(h2);
    assert_eq!(found(&facts), (Cause::ReaderSlow, Medium));
}

// Windows: HTTP/2's, and TCP's below it.

fn closed_window(facts: CallFacts) -> CallFacts {
    facts.socket(|socket, tcp| {
        socket.unsent_bytes = Some(80_000);
        tcp.notsent_bytes = Some(80_000);
        tcp.snd_wnd = Some(0);
        tcp.last_ack_recv_ms = 200;
    })
}

#[test]
fn http2s_window_is_blamed_only_when_nothing_is_stuck_below_it() {
    assert_eq!(found(&sending().healthy().h2_window_blocked()), (Cause::H2WindowBlocked, High));
    assert_eq!(found(&closed_window(sending()).h2_window_blocked()), (Cause::PeerNotReading, High));
    assert_eq!(found(&sending().reused_after(9).unacked(900, 3).h2_window_blocked()), (Cause::PathLost, High));
    // Bytes wait in the kernel for a slow path: which window holds is not known.
    let slow_path = sending().h2_window_blocked().socket(|socket, tcp| {
        socket.unsent_bytes = Some(80_000);
        tcp.unacked = 10;
        tcp.notsent_bytes = Some(60_000);
    });
    assert_eq!(found(&slow_path), (Cause::Unknown, Low));
    // What is on its way does not wait; other streams send too.
    let in_flight = sending().h2_window_blocked().socket(|socket, tcp| {
        (socket.unsent_bytes, tcp.unacked) = (Some(500), 1);
    });
    assert_eq!(found(&in_flight), (Cause::H2WindowBlocked, Medium));
    assert_eq!(found(&sending().h2_window_blocked()), (Cause::H2WindowBlocked, Medium));
    let lost_update = sending().h2_window_blocked().other_end(0, 13);
    assert_eq!(found(&lost_update), (Cause::PathLost, High));
}

#[test]
fn keepalive_probes_into_a_lost_path_are_no_closed_window() {
    let facts = waiting().reused_after(50_000).unacked(180, 3).socket(|_, tcp| tcp.probes = 2);
    assert_eq!(found(&facts), (Cause::PathLost, High));
}

#[test]
fn a_closed_window_whose_probes_are_not_answered_is_a_lost_path() {
    let probes = |n| closed_window(sending()).socket(|_, tcp| tcp.probes = n);
    assert_eq!(found(&probes(1)), (Cause::PeerNotReading, High));
    assert_eq!(found(&probes(2)), (Cause::PathLost, Medium));
}

/// What is said against a lost path agrees with the evidence beside it.
#[test]
fn a_closed_window_is_told_from_a_lost_path_by_what_was_seen() {
    let why = |facts: &CallFacts| judge(facts).verdicts[0].rejected[0].why.clone();
    assert!(why(&closed_window(sending().other_end(70_000, 0))).contains("the other end is on this host"));
    let probed = closed_window(sending()).socket(|_, tcp| (tcp.probes, tcp.last_ack_recv_ms) = (1, 900));
    assert!(why(&probed).contains("900ms ago; only a probe is unanswered"), "{}", why(&probed));
    let acked = closed_window(sending()).socket(|_, tcp| (tcp.probes, tcp.last_ack_recv_ms) = (0, 900));
    assert!(why(&acked).contains("answers, last 900ms ago"), "{}", why(&acked));
}

#[test]
fn before_linux_5_4_probes_alone_show_a_closed_window() {
    let old = |probes, unacked| {
        closed_window(sending()).socket(move |_, tcp| (tcp.snd_wnd, tcp.probes, tcp.unacked) = (None, probes, unacked))
    };
    assert_eq!(found(&old(1, 0)), (Cause::PeerNotReading, High));
    assert_eq!(found(&old(1, 3)).0, Cause::Unknown);
}

#[test]
fn a_visible_peer_that_has_read_everything_does_not_hold_the_window() {
    assert_eq!(found(&closed_window(sending().other_end(70_000, 0))), (Cause::PeerNotReading, High));
    assert_eq!(found(&closed_window(sending().other_end(0, 0))).0, Cause::Unknown);
}

#[test]
fn a_small_window_counts_for_the_connection_that_it_slowed() {
    let starved = |facts: CallFacts| {
        facts.socket(|socket, tcp| {
            socket.unsent_bytes = Some(80_000);
            tcp.notsent_bytes = Some(70_000);
            tcp.snd_wnd = Some(2_000);
            tcp.rwnd_limited_us = Some(700_000);
        })
    };
    assert_eq!(found(&starved(sending())), (Cause::PeerNotReading, Medium));
    // The kernel's count may be of an earlier request.
    assert_eq!(found(&starved(sending().reused_after(10))).0, Cause::Unknown);
}

#[test]
fn a_body_that_waits_for_its_own_source_is_the_senders_unless_bytes_are_stuck() {
    let waits = |facts: CallFacts| facts.exchange(|exchange| exchange.waiting_for_request_body = true);
    assert_eq!(found(&waits(sending().healthy())), (Cause::SenderSlow, High));
    assert_eq!(found(&waits(closed_window(sending()))).0, Cause::PeerNotReading);
}

// Small segments, and large ones.

#[test]
fn only_missing_full_sized_segments_are_an_mtu_black_hole() {
    let upload = |bytes| waiting().never_acked().unacked(bytes, 2);
    let selective = |facts: CallFacts| facts.socket(|_, tcp| tcp.sacked = 1);
    assert_eq!(found(&selective(upload(6_100))), (Cause::MtuBlackhole, High));
    // Less than a full segment is missing, so its size is not the reason.
    assert_eq!(found(&selective(upload(900))).0, Cause::PathLost);
    // Full-sized ones have passed on this connection.
    let passed = selective(upload(6_100)).socket(|_, tcp| tcp.bytes_acked = Some(1_000_000));
    assert_eq!(found(&passed), (Cause::PathLost, High));
    // They may have, among smaller ones.
    assert_eq!(found(&selective(waiting().reused_after(50).unacked(6_100, 2))), (Cause::MtuBlackhole, Medium));
}

#[test]
fn full_sized_segments_lost_right_after_small_ones_point_to_the_mtu_and_prove_nothing() {
    let after_tls = call(&[(Tls, 9), (Send, 1_200)]).unacked(60_000, 2).socket(|_, tcp| tcp.bytes_acked = Some(640));
    assert_eq!(found(&after_tls), (Cause::MtuBlackhole, Medium));
    assert!(why_not(&after_tls, Cause::PathLost).starts_with("possible"));
    let reused = waiting().reused_after(50).unacked(6_100, 3);
    assert_eq!(found(&reused), (Cause::PathLost, Medium));
    assert!(why_not(&reused, Cause::MtuBlackhole).starts_with("possible"));
}

#[test]
fn holes_count_only_while_nothing_shows_that_they_were_filled() {
    let holes = |facts: CallFacts| facts.socket(|_, tcp| tcp.rcv_ooopack = Some(2));
    assert_eq!(found(&holes(waiting().healthy())), (Cause::MtuBlackhole, High));
    assert_eq!(found(&holes(waiting().other_end(0, 6_000))), (Cause::MtuBlackhole, High));
    // The other end has everything acknowledged: nothing is missing.
    assert_eq!(found(&holes(waiting().other_end(0, 0))), (Cause::ServerSlow, High));
    let small = holes(waiting().healthy()).socket(|_, tcp| tcp.bytes_received = Some(300));
    assert_eq!(found(&small), (Cause::MtuBlackhole, Medium));
    // A whole handshake came, certificate and all: the count is of a loss that was mended.
    let handshake = holes(waiting().healthy()).socket(|_, tcp| tcp.bytes_received = Some(4_200));
    assert_eq!(found(&handshake), (Cause::ServerSlow, Medium));
}

// A connection that ended.

#[test]
fn a_reset_says_whether_bytes_of_the_response_had_come() {
    let reset = |stages: &[(Stage, u64)]| os(stages, "read", OsFailure::Reset, "Connection reset by peer");
    let before = verdict(&reset(&[(Wait, 5)]).healthy());
    assert_eq!((before.cause, before.stage), (Cause::PeerReset, "wait"));
    assert!(before.summary.ends_with("before any byte of a response"), "{}", before.summary);
    let within = verdict(&reset(&[(Wait, 5), (Receive, 5)]).received(4_060, 4_000, 1));
    assert_eq!((within.cause, within.stage), (Cause::PeerReset, "receive"));
    assert!(within.summary.ends_with("after 4060 bytes of the response"), "{}", within.summary);
    let tls = verdict(&reset(&[(Tls, 5)]).received(130, 0, 1));
    assert!(tls.summary.ends_with("after 130 bytes of its handshake"), "{}", tls.summary);
}

#[test]
fn a_reused_connection_that_ends_before_it_gives_anything_may_be_a_race() {
    let reset = || os(&[(Wait, 1)], "read", OsFailure::Reset, "Connection reset by peer");
    let closed = || failed(&[(Wait, 1)], Failure::Closed);
    for facts in [reset(), closed()] {
        assert!(why_not(&facts.reused_after(5_000), Cause::KeepaliveRace).starts_with("possible"));
    }
    for facts in [reset(), closed(), reset().reused_after(5_000).received(9, 0, 1)] {
        assert!(verdict(&facts).rejected.iter().all(|rejected| rejected.cause != Cause::KeepaliveRace));
    }
}

// Queues.

#[test]
fn a_pool_with_room_is_not_exhausted() {
    assert_eq!(found(&call(&[(Queue, 500)]).pool(4, 4)), (Cause::PoolExhausted, High));
    assert_eq!(found(&call(&[(Queue, 500)]).pool(3, 4)), (Cause::Unknown, Low));
}

// A limit for the whole.

#[test]
fn a_stage_that_spent_the_limit_is_blamed_before_the_one_in_which_it_fired() {
    let call = |stages: &[(Stage, u64)]| verdict(&call_in_total(stages).healthy());
    for (stages, cause, stage) in [
        (&[(Resolve, 700), (Connect, 1), (Wait, 299)][..], Cause::DnsSlow, "resolve"),
        (&[(Connect, 700), (Tls, 300)], Cause::ConnectSlow, "connect"),
        (&[(Tls, 700), (Wait, 300)], Cause::TlsSlow, "tls"),
        (&[(Wait, 700), (Receive, 300)], Cause::ServerSlow, "wait"),
        // What the queue and the sending waited for then was not kept.
        (&[(Queue, 700), (Wait, 300)], Cause::Unknown, "queue"),
        (&[(Send, 700), (Wait, 300)], Cause::Unknown, "send"),
        (&[(Stage::Handle, 700), (Wait, 300)], Cause::Unknown, "handle"),
    ] {
        let found = call(stages);
        assert_eq!((found.cause, found.stage), (cause, stage), "{found:#?}");
        assert!((found.share - 0.7).abs() < 1e-3, "{found:#?}");
    }
    // No stage had most of it.
    assert_eq!(call(&[(Resolve, 300), (Connect, 300), (Wait, 400)]).cause, Cause::ServerSlow);
}

#[test]
fn a_window_that_took_most_of_the_limit_is_told_from_other_slow_sending() {
    let sent = |limited| {
        call_in_total(&[(Connect, 1), (Send, 800), (Wait, 199)])
            .socket(move |_, tcp| tcp.rwnd_limited_us = Some(limited))
    };
    assert_eq!(found(&sent(700_000)), (Cause::PeerNotReading, Medium));
    assert_eq!(found(&sent(100_000)).0, Cause::Unknown);
    assert_eq!(found(&sent(700_000).reused_after(10)).0, Cause::Unknown);
}

#[test]
fn a_limit_of_its_own_stage_is_never_put_on_an_earlier_stage() {
    assert_eq!(found(&call(&[(Connect, 900), (Wait, 100)]).healthy()).0, Cause::ServerSlow);
}

#[test]
fn an_attempt_with_hardly_any_time_calls_nobody_slow() {
    let late_start = |limit, had| {
        let mut facts = call(&[(Wait, had)]).healthy();
        facts.failure = Failure::DeadlinePassed(Limit::total(ms(limit)));
        facts
    };
    let found_late = verdict(&late_start(10_000, 200));
    assert_eq!((found_late.cause, found_late.confidence), (Cause::BudgetSpent, Medium));
    assert!(found_late.summary.contains("9.8s had passed outside"), "{}", found_late.summary);
    assert!(found_late.rejected.iter().any(|rejected| rejected.cause == Cause::ServerSlow));
    assert_eq!(found(&late_start(10_000, 2_000)).0, Cause::ServerSlow);
    // What the kernel proves needs no time.
    let lost = late_start(10_000, 900).reused_after(50).unacked(180, 2);
    assert_eq!(found(&lost), (Cause::PathLost, High));
}

#[test]
fn a_deadline_that_had_passed_says_what_was_sent_by_then() {
    let past = |stages: &[(Stage, u64)], started| {
        let facts = failed(stages, Failure::DeadlinePast(Limit::total(ms(500))));
        verdict(&facts.exchange(|exchange| exchange.request_started = started))
    };
    let nothing = past(&[(Queue, 0)], false);
    assert_eq!((nothing.cause, nothing.confidence), (Cause::BudgetSpent, High));
    assert!(nothing.summary.ends_with("had passed before queue began: nothing was sent"), "{}", nothing.summary);
    let sent = past(&[(Connect, 200), (Send, 240), (Wait, 0)], true);
    assert_eq!(sent.cause, Cause::BudgetSpent);
    assert!(!sent.summary.contains("nothing was sent"), "{}", sent.summary);
    assert_eq!(past(&[(Connect, 490), (Tls, 0)], false).cause, Cause::ConnectSlow);
}

// What else must not be taken for something it is not.

#[test]
fn a_visible_peer_with_unread_bytes_does_not_read_however_many_probes_are_out() {
    let facts = closed_window(sending().other_end(70_000, 0)).socket(|_, tcp| tcp.probes = 3);
    assert_eq!(found(&facts), (Cause::PeerNotReading, High));
}

#[test]
fn a_window_that_shut_before_segments_were_lost_is_a_lost_path() {
    let facts = closed_window(sending().reused_after(9)).socket(|_, tcp| (tcp.unacked, tcp.retransmits) = (9, 2));
    assert_eq!(found(&facts).0, Cause::PathLost);
    let in_flight = closed_window(sending()).socket(|_, tcp| tcp.unacked = 9);
    assert_eq!(found(&in_flight), (Cause::PeerNotReading, High));
}

#[test]
fn a_request_that_is_not_read_does_not_explain_an_answer_that_stops() {
    assert_eq!(found(&closed_window(receiving().received(4_060, 4_000, 1_100))).0, Cause::BodyStalled);
}

#[test]
fn an_answer_may_be_under_way_for_a_moment() {
    let short = |facts: CallFacts| facts.other_end(0, 300).socket(|_, tcp| tcp.last_data_recv_ms = 60_000);
    assert_eq!(found(&short(call(&[(Wait, 100)]))).0, Cause::ServerSlow);
    let holes = call(&[(Wait, 100)]).socket(|_, tcp| tcp.rcv_ooopack = Some(1));
    assert_eq!(found(&holes).0, Cause::ServerSlow);
    // While sending, only a blocked HTTP/2 stream waits for what the peer says.
    assert_eq!(found(&sending().other_end(0, 300)).0, Cause::Unknown);
}

#[test]
fn what_http2_has_under_way_is_not_said_to_be_this_request() {
    let h2 = H2Facts { streams_in_use: 2, max_streams: 100, ..H2Facts::default() };
    let facts = waiting().other_end(0, 0).unacked(500, 0).h2(h2);
    assert_eq!(found(&facts), (Cause::ServerSlow, Low));
    assert!(!verdict(&facts).summary.contains("acknowledged"), "{}", verdict(&facts).summary);
}

#[test]
fn a_window_update_that_lies_here_unread_is_our_own_stall() {
    let facts = sending().h2_window_blocked().socket(|socket, tcp| {
        (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(13), 800);
    });
    assert_eq!(found(&facts).0, Cause::LocalStall);
}

#[test]
fn bytes_that_just_arrived_are_no_silence() {
    let facts = receiving().received(300, 240, 1_100).socket(|socket, tcp| {
        (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(10), 4);
    });
    assert_eq!(found(&facts), (Cause::BodySlow, High));
}

#[test]
fn an_http2_reset_counts_the_body_and_not_the_frames_of_all_streams() {
    let h2 = H2Facts { streams_in_use: 1, max_streams: 100, ..H2Facts::default() };
    let facts = os(&[(Receive, 5)], "read", OsFailure::Reset, "ECONNRESET").received(4_001, 4_000, 1).h2(h2);
    assert!(verdict(&facts).summary.ends_with("after 4000 bytes of the response body"));
}

#[test]
fn a_reader_is_blamed_with_less_certainty_where_the_queue_is_not_seen() {
    let facts = receiving().received(300, 240, 700).reader_away(700, 0).socket(|socket, _| socket.unread_bytes = None);
    assert_eq!(found(&facts), (Cause::ReaderSlow, Medium));
}

#[test]
fn an_answer_read_while_the_process_was_late_is_no_silence() {
    let late = || late_call(&[(Connect, 1), (Wait, 200)], 900).received(90, 0, 3);
    assert_eq!(found(&late()), (Cause::LocalStall, Medium));
    let came_in_time = late().socket(|_, tcp| tcp.last_data_recv_ms = 1_000);
    assert_eq!(found(&came_in_time), (Cause::LocalStall, High));
}

#[test]
fn bytes_that_came_before_the_limit_prove_a_stall_only_where_bytes_were_waited_for() {
    let facts = late_call(&[(Connect, 1), (Send, 200)], 900)
        .socket(|socket, tcp| (socket.unread_bytes, tcp.last_data_recv_ms) = (Some(90), 1_050));
    assert_eq!(found(&facts), (Cause::LocalStall, Medium));
}

#[test]
fn a_stall_is_not_taken_for_a_stage_that_spent_the_limit() {
    let mut facts = late_call(&[(Connect, 1), (Wait, 499)], 1_050).healthy();
    facts.failure = Failure::DeadlinePassed(Limit::total(ms(500)));
    assert_eq!(found(&facts).0, Cause::ServerSlow);
}

#[test]
fn time_without_room_in_the_timeline_is_not_taken_for_a_late_start() {
    let mut stages = vec![(Stage::Handle, 1); 16];
    stages.push((Wait, 9_000));
    assert_eq!(found(&call_in_total(&stages).healthy()).0, Cause::ServerSlow);
}

#[test]
fn a_syn_that_was_sent_again_needs_no_share_of_the_limit() {
    let connecting = |again| {
        let mut facts = call(&[(Connect, 1_400)]).syn_sent(again);
        facts.failure = Failure::DeadlinePassed(Limit::total(ms(30_000)));
        facts
    };
    assert_eq!(found(&connecting(1)).0, Cause::SynUnanswered);
    assert_eq!(found(&connecting(0)).0, Cause::BudgetSpent);
}

#[test]
fn a_listener_with_room_on_this_host_needs_no_retransmission_to_accuse_a_filter() {
    let facts = call(&[(Connect, 100)]).syn_sent(0).socket(|socket, _| socket.listener = ROOM);
    assert_eq!(found(&facts), (Cause::SynUnanswered, High));
}

#[test]
fn a_stalled_body_beside_other_streams_is_less_certain() {
    let alone = H2Facts { streams_in_use: 1, max_streams: 100, ..H2Facts::default() };
    let beside = H2Facts { streams_in_use: 3, ..alone };
    for (h2, confidence) in [(alone, High), (beside, Medium)] {
        let facts = receiving().received(4_060, 4_000, 1_100).other_end(0, 0).h2(h2);
        assert_eq!(found(&facts), (Cause::BodyStalled, confidence));
        let window = verdict(&facts).rejected.iter().any(|other| other.cause == Cause::H2WindowBlocked);
        assert_eq!(window, h2.streams_in_use > 1);
    }
}

#[test]
fn on_a_stream_of_the_users_own_protocol_nothing_is_called_a_body_or_a_head() {
    let silent = |came| {
        let facts = call(&[(Receive, 990)]).healthy();
        let facts = if came > 0 { facts.received(came, came, 980) } else { facts };
        verdict(&facts.exchange(|exchange| exchange.since_write = Some(came)))
    };
    let slow = silent(0);
    assert!(slow.summary.ends_with("has all 180 bytes written to it and sent nothing for 990ms"), "{}", slow.summary);
    assert_eq!(slow.evidence[0].text, "180 bytes written, 0 read, 0 of them since the last write");
    let stopped = silent(40);
    assert!(stopped.summary.ends_with("sent 40 bytes, then nothing more for 980ms"), "{}", stopped.summary);

    let flowing = |name, value| {
        let limit = Limit::new(name, ms(value));
        let facts = ended(&[(Receive, 990)], ms(0), Failure::DeadlinePassed(limit)).received(40, 40, 100);
        verdict(&facts.exchange(|exchange| exchange.since_write = Some(40)))
    };
    let slow = flowing(LimitName::Stage(Receive), 990);
    assert_eq!((slow.cause, slow.confidence), (Cause::BodySlow, Medium));
    assert!(slow.summary.ends_with("40 bytes came, the last of them 100ms before the deadline"), "{}", slow.summary);
    // A limit for the silence itself knows it for one, and so does one that is about as long as the silence.
    assert_eq!(flowing(LimitName::Gap, 990).cause, Cause::BodyStalled);
    assert_eq!(flowing(LimitName::Stage(Receive), 110).cause, Cause::BodyStalled);

    let closed = failed(&[(Receive, 9)], Failure::Closed).exchange(|exchange| exchange.since_write = Some(0));
    assert!(verdict(&closed).summary.ends_with("without its protocol's end, after 0 bytes"), "{closed:?}");
}

#[test]
fn an_answer_that_lay_here_before_it_was_read_is_our_own_stall() {
    // The process was stopped: the head came after 600 ms and was read after 3.2 s, when the limit had long passed.
    let read_late = |ago: u64, read_ago: u64| {
        let mut facts = call_in_total(&[(Wait, 3_190), (Receive, 10)]).received(100, 0, ago);
        facts.exchange.last_read = facts.now.checked_sub(ms(read_ago));
        facts
    };
    assert_eq!(found(&read_late(2_600, 10)), (Cause::LocalStall, High));
    assert!(
        verdict(&read_late(2_600, 10)).summary.contains("2.59s of 3.2s"),
        "{}",
        verdict(&read_late(2_600, 10)).summary
    );
    assert_eq!(found(&read_late(20, 10)).0, Cause::ServerSlow);
    // A caller who was away is no stall.
    let mut away = read_late(2_600, 10);
    away.exchange.reader_away = ms(2_500);
    assert_ne!(found(&away).0, Cause::LocalStall);
    // Nor is what was read late by something else, before this began.
    assert_ne!(found(&read_late(5_000, 3_300)).0, Cause::LocalStall);
    // Nor is what came before it, however late it is said to have been read, or that of which nothing came.
    assert_ne!(found(&read_late(5_000, 10)).0, Cause::LocalStall);
    let mut silent = read_late(2_600, 10);
    silent.exchange.response_bytes = 0;
    assert_eq!(found(&silent).0, Cause::ServerSlow);
}

#[test]
fn a_head_that_trickles_is_not_stalled() {
    let head = |ago: u64| call(&[(Wait, 1_000)]).received(10, 0, ago);
    assert_eq!(found(&head(100)).0, Cause::ServerSlow);
    assert_eq!(found(&head(900)).0, Cause::HeadStalled);
}

#[test]
fn bytes_that_never_left_this_host_blame_nobody_else() {
    let facts = waiting().socket(|_, tcp| (tcp.unacked, tcp.notsent_bytes, tcp.snd_wnd) = (0, Some(81), Some(65_000)));
    assert_eq!(found(&facts), (Cause::Unknown, Low));
    assert!(verdict(&facts).summary.contains("never left this host"));
    let closed = waiting().socket(|_, tcp| (tcp.unacked, tcp.notsent_bytes, tcp.snd_wnd) = (0, Some(81), Some(0)));
    assert!(!verdict(&closed).summary.contains("never left this host"));
}

#[test]
fn a_unix_socket_says_full_or_nobody() {
    let unix = |kind, text| {
        let mut facts = os(&[(Connect, 1)], "connect", kind, text);
        facts.socket = Some(SocketFacts { peer: "/run/app.sock".to_owned(), ..SocketFacts::default() });
        facts
    };
    assert_eq!(found(&unix(OsFailure::QueueFull, "EAGAIN")), (Cause::AcceptQueueFull, High));
    let nobody = unix(OsFailure::Refused, "ENOENT");
    assert_eq!(found(&nobody), (Cause::ConnectRefused, High));
    assert!(!verdict(&nobody).summary.contains("firewall"));
}
