//! The poller: who is ready, who is overdue, and that nothing old reaches anybody new.

use std::{
    io::{ErrorKind, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use overdue::{
    Cause, Limit, LimitName, Stage,
    direct::{Event, Events, Interest, Poller, Source, Stream, Token},
};

use crate::{LONG, Waiting, cancelled, fill, listener, ms, now, pass, tcp, timed_out};

fn poller() -> (Poller, Events) {
    (Poller::new().unwrap(), Events::new())
}

/// What happened, for readers of assertions.
fn seen(events: &Events) -> Vec<(Token, &'static str)> {
    let what = |event: &Event| match () {
        () if event.interrupted() => "interrupted",
        () if event.read_timed_out() && event.write_timed_out() => "both timed out",
        () if event.read_timed_out() => "read timed out",
        () if event.write_timed_out() => "write timed out",
        () if event.readable() && event.writable() => "both ready",
        () if event.readable() => "readable",
        () if event.writable() => "writable",
        () => "nothing",
    };
    events.iter().map(|event| (event.token(), what(event))).collect()
}

#[test]
fn the_ready_and_the_overdue_come_with_one_call() {
    let (mut poller, mut events) = poller();
    let (ready, mut peer) = tcp();
    let (late, _late_peer) = tcp();
    let (idle, _idle_peer) = tcp();
    peer.write_all(b"x").unwrap();
    let deadline = now() + ms(30);
    late.set_deadline(deadline);
    ready.set_deadline(deadline);
    idle.set_deadline(LONG);
    let [ready, late, idle] = [ready, late, idle].map(|stream| poller.add(stream, Interest::Read).unwrap());
    pass(deadline);
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(ready, "readable"), (late, "read timed out")]);

    // What was ready wins, also now; the error of the other says why.
    let mut buf = [0; 8];
    assert_eq!(poller.stream(ready).unwrap().try_read(&mut buf).unwrap(), 1);
    let err = poller.stream(late).unwrap().try_read(&mut buf).unwrap_err();
    assert_eq!(timed_out(&err).stage(), Stage::Receive);
    assert_ne!(timed_out(&err).cause(), Cause::BudgetSpent, "it was pending: {err}");

    // Each deadline is told once; that of the ready one has not been.
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(ready, "read timed out")]);
    poller.wait(&mut events, ms(10)).unwrap();
    assert_eq!(seen(&events), []);
    assert!(!events.woken());
    assert!(poller.stream(idle).is_some());
}

#[test]
fn deadlines_come_in_their_order_whatever_the_order_in_which_they_were_set() {
    let (mut poller, mut events) = poller();
    let start = now();
    let mut peers = Vec::new();
    let mut expected = Vec::new();
    for after in [40, 10, 30, 20, 50, 15] {
        let (stream, peer) = tcp();
        stream.set_read_deadline(start + ms(after));
        expected.push((after, poller.add(stream, Interest::Read).unwrap()));
        peers.push(peer);
    }
    expected.sort_unstable_by_key(|(after, _)| *after);
    let mut order = Vec::new();
    while order.len() < expected.len() {
        poller.wait(&mut events, LONG).unwrap();
        order.extend(events.iter().map(Event::token));
        let last = order.len() - 1;
        assert!(now() >= start + ms(expected[last].0), "it came early");
    }
    assert_eq!(order, expected.iter().map(|(_, token)| *token).collect::<Vec<_>>());
    // All at once: the same order.
    for (after, token) in expected.iter().rev() {
        poller.stream(*token).unwrap().set_read_deadline(start + ms(100 + after));
    }
    pass(start + ms(150));
    poller.wait(&mut events, Duration::ZERO).unwrap();
    assert_eq!(events.iter().map(Event::token).collect::<Vec<_>>(), order);
}

#[test]
fn a_deadline_that_is_moved_while_the_poller_waits_counts() {
    let (mut poller, _) = poller();
    let (stream, _peer) = tcp();
    let handle = stream.handle().clone();
    let token = poller.add(stream, Interest::Both).unwrap();
    poller.set_interest(token, Interest::Read).unwrap();
    let wait = |mut poller: Poller| {
        Waiting::start(move || {
            let mut events = Events::new();
            poller.wait(&mut events, LONG).unwrap();
            (poller, seen(&events))
        })
    };
    // Sooner, and set at all.
    for before in [None, Some(LONG)] {
        match before {
            Some(before) => handle.set_deadline(before),
            None => handle.set_deadline(None),
        }
        let waiting = wait(poller);
        handle.set_read_deadline(ms(5));
        let (back, events) = waiting.end();
        assert_eq!(events, [(token, "read timed out")]);
        poller = back;
    }
    // Later, and not at all: what is told is the waker.
    for moved in [Some(LONG), None] {
        let first = now() + ms(1500);
        handle.set_read_deadline(first);
        let waker = poller.waker();
        let waiting = wait(poller);
        match moved {
            Some(moved) => handle.set_read_deadline(moved),
            None => handle.set_read_deadline(None),
        }
        assert!(now() < first, "this machine is too slow for the test");
        pass(first + ms(5));
        waiting.until_asleep();
        waker.wake();
        let (back, events) = waiting.end();
        assert_eq!(events, []);
        poller = back;
    }
}

#[test]
fn only_directions_of_interest_are_ready_or_overdue() {
    let (mut poller, mut events) = poller();
    let (stream, mut peer) = tcp();
    stream.set_deadline(now());
    let token = poller.add(stream, Interest::Write).unwrap();
    peer.write_all(b"x").unwrap();
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(token, "writable")]);
    let stream = poller.stream(token).unwrap();
    stream.try_write(b"y").unwrap();
    let _ = fill_now(stream);
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(token, "write timed out")]);
    poller.set_interest(token, Interest::Read).unwrap();
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(token, "readable")]);
}

/// Writes until nothing more can be written.
fn fill_now(stream: &Stream) -> std::io::Error {
    loop {
        if let Err(err) = stream.try_write(&[0; 4096]) {
            return err;
        }
    }
}

#[test]
fn an_idle_limit_is_a_deadline_that_moves_with_the_bytes() {
    let (mut poller, mut events) = poller();
    let (stream, mut peer) = tcp();
    stream.handle().set_read_idle(Some(Limit::new(LimitName::Gap, ms(100))));
    let token = poller.add(stream, Interest::Read).unwrap();
    for _ in 0..3 {
        peer.write_all(b"x").unwrap();
        poller.wait(&mut events, LONG).unwrap();
        if seen(&events) == [(token, "readable")] {
            assert_eq!(poller.stream(token).unwrap().try_read(&mut [0]).unwrap(), 1);
        }
    }
    for _ in 0..2 {
        let start = now();
        poller.wait(&mut events, LONG).unwrap();
        assert_eq!(seen(&events), [(token, "read timed out")]);
        let err = poller.stream(token).unwrap().try_read(&mut [0]).unwrap_err();
        assert_eq!(timed_out(&err).limit().unwrap().name, LimitName::Gap);
        assert!(now() - start >= ms(50), "it did not begin anew");
    }
}

#[test]
fn a_waker_ends_this_wait_or_the_next_one() {
    let (mut poller, mut events) = poller();
    let waker = poller.waker();
    waker.wake();
    waker.wake();
    poller.wait(&mut events, LONG).unwrap();
    assert!(events.woken() && events.is_empty());
    poller.wait(&mut events, Duration::ZERO).unwrap();
    assert!(!events.woken());
    let waiting = Waiting::start(move || {
        poller.wait(&mut events, None).unwrap();
        events.woken()
    });
    waker.wake();
    assert!(waiting.end());
    waker.wake();
}

#[test]
fn zero_only_looks() {
    let (mut poller, mut events) = poller();
    let (stream, mut peer) = tcp();
    let token = poller.add(stream, Interest::Both).unwrap();
    for limit in [Duration::ZERO, Duration::from_nanos(1)] {
        poller.wait(&mut events, limit).unwrap();
        assert_eq!(seen(&events), [(token, "writable")]);
    }
    poller.set_interest(token, Interest::Read).unwrap();
    poller.wait(&mut events, now()).unwrap();
    assert_eq!(seen(&events), []);
    peer.write_all(b"x").unwrap();
    poller.wait(&mut events, now()).unwrap();
    assert_eq!(seen(&events), [(token, "readable")]);
}

#[test]
fn interrupting_and_closing_are_events() {
    let (mut poller, mut events) = poller();
    let (stream, _peer) = tcp();
    let (interrupter, handle) = (stream.interrupter().clone(), stream.handle().clone());
    interrupter.interrupt("before it was added");
    let token = poller.add(stream, Interest::Read).unwrap();
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(token, "interrupted")]);
    cancelled(&poller.stream(token).unwrap().try_read(&mut [0]).unwrap_err());
    poller.wait(&mut events, ms(5)).unwrap();
    assert_eq!(seen(&events), []);
    interrupter.resume();
    let waiting = Waiting::start(move || {
        poller.wait(&mut events, LONG).unwrap();
        let closed = poller.stream(token).unwrap().try_read(&mut [0]).unwrap_err();
        (seen(&events), closed)
    });
    handle.close();
    let (events, err) = waiting.end();
    assert!(events.iter().any(|(_, what)| ["interrupted", "readable"].contains(what)), "{events:?}");
    cancelled(&err);
}

#[test]
fn a_listener_is_ready_when_somebody_comes_and_has_a_deadline() {
    let (mut poller, mut events) = poller();
    let (listener, address) = listener();
    listener.handle().set_accept_deadline(ms(10));
    let token = poller.add(listener, Interest::Read).unwrap();
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(token, "read timed out")]);
    let _client = TcpStream::connect(address).unwrap();
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(token, "readable")]);
    let listener = poller.listener(token).unwrap();
    listener.try_accept().unwrap();
    listener.handle().set_accept_deadline(None);
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(poller.stream(token).is_none());
    assert!(matches!(poller.remove(token), Some(Source::Listener(_))));
}

/// A connection whose own descriptor has the first free number from this one on: tests that run beside this one take
/// none so high.
fn tcp_numbered(number: i32) -> (Stream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let numbered = rustix::io::fcntl_dupfd_cloexec(&client, number).unwrap();
    drop(client);
    (Stream::from_tcp(numbered.into()).unwrap(), listener.accept().unwrap().0)
}

/// Events and deadlines of an old connection, and the next one that gets its descriptor's number.
fn reused(number: i32, old_is_kept_open_by_a_duplicate: bool) {
    let (mut poller, mut events) = poller();
    let (old, mut old_peer) = tcp_numbered(number);
    assert_eq!(old.as_fd().as_raw_fd(), number);
    let old_handle = old.handle().clone();
    let duplicate = old_is_kept_open_by_a_duplicate.then(|| old.as_fd().try_clone_to_owned().unwrap());
    let deadline = now() + ms(20);
    old.set_deadline(deadline);
    let old_token = poller.add(old, Interest::Read).unwrap();
    poller.wait(&mut events, Duration::ZERO).unwrap();
    assert!(events.is_empty());
    // Its event is queued in the kernel, its deadline in the poller, and a change of it in the mail.
    old_peer.write_all(b"old").unwrap();
    old_handle.set_read_deadline(deadline + ms(1));
    drop(poller.remove(old_token).unwrap());

    let (new, mut new_peer) = tcp_numbered(number);
    assert_eq!(new.as_fd().as_raw_fd(), number);
    new.set_read_deadline(LONG);
    let new_token = poller.add(new, Interest::Read).unwrap();
    assert_ne!(new_token, old_token);
    pass(deadline + ms(5));
    // The old one speaks on, where it still can, and its limits move.
    let _ = old_peer.write_all(b"older");
    old_handle.set_deadline(Duration::ZERO);
    old_handle.close();
    poller.wait(&mut events, ms(20)).unwrap();
    assert_eq!(seen(&events), []);
    assert_eq!(poller.stream(new_token).unwrap().try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(poller.stream(old_token).is_none() && poller.remove(old_token).is_none());
    assert_eq!(poller.set_interest(old_token, Interest::Both).unwrap_err().kind(), ErrorKind::NotFound);

    new_peer.write_all(b"n").unwrap();
    poller.wait(&mut events, LONG).unwrap();
    assert_eq!(seen(&events), [(new_token, "readable")]);
    let mut byte = [0];
    assert_eq!(poller.stream(new_token).unwrap().try_read(&mut byte).unwrap(), 1);
    assert_eq!(byte[0], b'n');
    drop(duplicate);
}

#[test]
fn nothing_of_an_old_connection_reaches_a_new_one_with_its_number() {
    reused(900, false);
}

#[test]
fn nothing_of_an_old_connection_reaches_a_new_one_even_if_a_duplicate_keeps_it_open() {
    reused(950, true);
}

#[test]
fn what_is_removed_while_events_are_looked_at_is_nobodys() {
    let (mut poller, mut events) = poller();
    let (streams, mut peers): (Vec<_>, Vec<_>) = (0..2).map(|_| tcp()).unzip();
    let tokens: Vec<_> = streams.into_iter().map(|stream| poller.add(stream, Interest::Read).unwrap()).collect();
    for peer in &mut peers {
        peer.write_all(b"x").unwrap();
    }
    while events.iter().count() < 2 {
        poller.wait(&mut events, LONG).unwrap();
    }
    // The first event's handler replaces the other connection. The place is the same, the token is not.
    poller.remove(tokens[1]).unwrap();
    let (new, _new_peer) = tcp();
    let new = poller.add(new, Interest::Read).unwrap();
    assert!(events.iter().all(|event| event.token() != new));
    assert!(poller.stream(tokens[1]).is_none());
}

#[test]
fn a_stream_that_was_given_back_blocks_as_before() {
    let (mut poller, mut events) = poller();
    let (stream, mut peer) = tcp();
    stream.set_read_deadline(ms(5));
    let token = poller.add(stream, Interest::Both).unwrap();
    poller.wait(&mut events, LONG).unwrap();
    let Some(Source::Stream(stream)) = poller.remove(token) else { panic!("it was a stream") };
    drop(poller);
    stream.set_deadline(LONG);
    peer.write_all(b"x").unwrap();
    assert_eq!(crate::read(&stream).unwrap(), b'x');
    stream.set_write_deadline(ms(5));
    timed_out(&fill(&stream));
    // No operation is pending any more.
    stream.set_read_deadline(now());
    peer.write_all(b"y").unwrap();
    assert_eq!(timed_out(&stream.try_read(&mut [0]).unwrap_err()).cause(), Cause::BudgetSpent);
}

#[test]
fn many_connections_and_many_movers_lose_nothing() {
    const STREAMS: usize = 200;
    let (mut poller, mut events) = poller();
    let (streams, peers): (Vec<_>, Vec<_>) = (0..STREAMS).map(|_| tcp()).unzip();
    let handles: Vec<_> = streams.iter().map(|stream| stream.handle().clone()).collect();
    let tokens: Vec<_> = streams.into_iter().map(|stream| poller.add(stream, Interest::Read).unwrap()).collect();
    let mover = std::thread::spawn(move || {
        for round in 0..20 {
            for (n, handle) in handles.iter().enumerate() {
                handle.set_read_deadline(if (n + round) % 3 == 0 { LONG } else { LONG * 2 });
            }
        }
        for handle in &handles {
            handle.set_read_deadline(ms(1));
        }
    });
    let mut told = std::collections::HashSet::new();
    while told.len() < STREAMS {
        poller.wait(&mut events, LONG).unwrap();
        assert!(!events.is_empty(), "somebody was forgotten");
        for event in &events {
            assert!(event.read_timed_out());
            assert!(told.insert(event.token()), "told twice");
        }
    }
    mover.join().unwrap();
    assert!(tokens.iter().all(|token| told.contains(token)));
    drop(peers);
}
