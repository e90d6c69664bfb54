//! When deadlines fire, and when they do not.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use overdue::{
    Cause, Context, Deadline, Limit, LimitName, Stage,
    direct::{Handle, Options, Stream},
};

use crate::{LONG, Waiting, fill, listener, ms, now, pass, read, tcp, tcp_with, timed_out};

#[test]
fn a_deadline_in_the_past_fails_at_once_and_touches_nothing() {
    let (mut stream, mut peer) = tcp();
    peer.write_all(b"x").unwrap();
    let line = line!() + 1;
    stream.set_deadline(Duration::ZERO);
    let mut buf = [0; 8];
    let results = [
        ((&stream).read(&mut buf).map(drop), Stage::Receive),
        (stream.try_read(&mut buf).map(drop), Stage::Receive),
        ((&stream).read(&mut []).map(drop), Stage::Receive),
        ((&stream).write(b"y").map(drop), Stage::Send),
        (stream.try_write(b"y").map(drop), Stage::Send),
        (stream.write_vectored(&[]).map(drop), Stage::Send),
        (stream.shutdown(Shutdown::Write), Stage::Send),
    ];
    for (result, stage) in results {
        let err = result.unwrap_err();
        let error = timed_out(&err);
        assert_eq!((error.stage(), error.cause()), (stage, Cause::BudgetSpent));
        let limit = error.limit().unwrap();
        assert_eq!(limit.name, LimitName::Stage(stage));
        assert!(limit.origin.to_string().ends_with(&format!("deadlines.rs:{line}")), "{limit}");
    }
    // An instant that is long gone is the same.
    stream.set_deadline(now());
    assert_eq!(timed_out(&read(&stream).unwrap_err()).cause(), Cause::BudgetSpent);

    // Nothing was taken, nothing was sent, nothing is broken.
    stream.set_deadline(None);
    assert_eq!((stream.handle().bytes_read(), stream.handle().bytes_written()), (0, 0));
    assert_eq!(read(&stream).unwrap(), b'x');
    stream.write_all(b"z").unwrap();
    assert_eq!(peer.read(&mut buf).unwrap(), 1);
    assert_eq!(buf[0], b'z');
}

#[test]
fn a_read_times_out_never_early_and_is_told_from_a_peer_that_stopped() {
    let (mut stream, mut peer) = tcp();
    stream.write_all(b"how are you?\n").unwrap();
    peer.read_exact(&mut [0; 13]).unwrap();
    let start = now();
    stream.set_read_deadline(ms(60));
    let err = read(&stream).unwrap_err();
    assert!(now() - start >= ms(60), "it fired early");
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::ServerSlow));
    let verdict = &error.report().verdicts[0];
    assert!(verdict.summary.contains("has all 13 bytes written to it and sent nothing for"), "{}", verdict.summary);
    assert!(verdict.evidence.iter().any(|evidence| evidence.source == overdue::Source::TcpInfo), "{verdict:?}");
    assert!(error.report().connection.as_ref().unwrap().cookie.is_some());

    // It can be used again.
    peer.write_all(b"fi").unwrap();
    stream.set_read_deadline(LONG);
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.set_read_deadline(ms(60));
    let err = read(&stream).unwrap_err();
    assert_eq!(timed_out(&err).cause(), Cause::BodyStalled);
    assert!(timed_out(&err).to_string().contains("sent 2 bytes, then nothing more for"), "{err}");
}

#[test]
fn every_timeout_can_be_repeated_and_shorter_than_a_tick() {
    let (stream, _peer) = tcp();
    for nanos in [1, 100, 1_000, 10_000, 100_000, 999_999, 1_000_001] {
        let limit = Duration::from_nanos(nanos);
        let start = now();
        stream.set_read_deadline(limit);
        timed_out(&read(&stream).unwrap_err());
        assert!(now() - start >= limit);
    }
}

#[test]
fn a_deadline_set_from_another_thread_ends_the_pending_read() {
    let (stream, _peer) = tcp();
    let handle = stream.handle().clone();
    for at in [Duration::ZERO, ms(20)] {
        let stream = Options::new().from_tcp(clone(&stream)).unwrap();
        let handle = stream.handle().clone();
        let reading = Waiting::start(move || read(&stream));
        handle.set_read_deadline(at);
        let err = reading.end().unwrap_err();
        let limit = timed_out(&err).limit().unwrap();
        assert!(limit.origin.to_string().contains("deadlines.rs"), "{limit}");
    }
    handle.set_deadline(None);
}

fn clone(stream: &Stream) -> std::net::TcpStream {
    std::os::fd::AsFd::as_fd(stream).try_clone_to_owned().unwrap().into()
}

#[test]
fn a_deadline_moved_later_or_cleared_lets_the_pending_read_wait_on() {
    for moved in [Some(LONG), None] {
        let (stream, mut peer) = tcp();
        let handle = stream.handle().clone();
        let first = now() + ms(1500);
        handle.set_read_deadline(first);
        let reading = Waiting::start(move || read(&stream));
        match moved {
            Some(moved) => handle.set_read_deadline(moved),
            None => handle.set_read_deadline(None),
        }
        assert!(now() < first, "this machine is too slow for the test");
        pass(first + ms(5));
        reading.until_asleep();
        peer.write_all(b"x").unwrap();
        assert_eq!(reading.end().unwrap(), b'x');
    }
}

#[test]
fn one_direction_does_not_bound_the_other() {
    let (stream, mut peer) = tcp();
    stream.set_write_deadline(Duration::ZERO);
    peer.write_all(b"x").unwrap();
    assert_eq!(read(&stream).unwrap(), b'x');
    stream.set_write_deadline(None);
    stream.set_read_deadline(Duration::ZERO);
    (&stream).write_all(b"y").unwrap();
    assert_eq!(timed_out(&read(&stream).unwrap_err()).stage(), Stage::Receive);
}

#[test]
fn what_came_while_a_read_was_pending_wins_over_its_deadline() {
    let (stream, mut peer) = tcp();
    let deadline = now() + ms(50);
    stream.set_read_deadline(deadline);
    let mut buf = [0; 8];
    assert_eq!(stream.try_read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    peer.write_all(b"x").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    pass(deadline);
    assert_eq!(stream.try_read(&mut buf).unwrap(), 1);
    // That read is done. The next has not begun, and may not.
    assert_eq!(timed_out(&stream.try_read(&mut buf).unwrap_err()).cause(), Cause::BudgetSpent);
    stream.set_read_deadline(None);
    assert_eq!(stream.try_read(&mut buf).unwrap(), 0);
}

#[test]
fn a_try_that_is_pending_times_out_with_evidence() {
    let (stream, _peer) = tcp();
    let deadline = now() + ms(50);
    stream.set_read_deadline(deadline);
    assert_eq!(stream.try_read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    pass(deadline);
    let err = stream.try_read(&mut [0]).unwrap_err();
    assert_ne!(timed_out(&err).cause(), Cause::BudgetSpent, "{err}");
}

#[test]
fn a_deadline_of_a_context_names_its_owner() {
    let (stream, _peer) = tcp();
    let context = Context::root().child(Limit::total(ms(30)));
    stream.set_read_deadline(context.deadline().cloned());
    let err = read(&stream).unwrap_err();
    assert_eq!(timed_out(&err).limit().unwrap().name, LimitName::Total);
    stream.set_read_deadline(Deadline::at_instant(now(), Limit::total(ms(1))));
    assert_eq!(timed_out(&read(&stream).unwrap_err()).cause(), Cause::BudgetSpent);
}

#[test]
fn silence_is_bounded_by_the_idle_limit_and_by_the_earliest_of_all() {
    let (stream, mut peer) = tcp();
    stream.handle().set_read_idle(Some(Limit::new(LimitName::Gap, ms(40))));
    stream.set_read_deadline(LONG);
    assert_eq!(timed_out(&read(&stream).unwrap_err()).limit().unwrap().name, LimitName::Gap);
    peer.write_all(b"x").unwrap();
    assert_eq!(read(&stream).unwrap(), b'x');
    stream.set_read_deadline(ms(20));
    assert_eq!(timed_out(&read(&stream).unwrap_err()).limit().unwrap().name, LimitName::Stage(Stage::Receive));

    // Set while a read is pending.
    stream.handle().set_read_idle(None);
    stream.set_read_deadline(None);
    let handle = stream.handle().clone();
    let reading = Waiting::start(move || read(&stream));
    handle.set_read_idle(Some(Limit::new(LimitName::Gap, ms(10))));
    assert_eq!(timed_out(&reading.end().unwrap_err()).limit().unwrap().name, LimitName::Gap);
}

#[test]
fn a_write_idles_only_when_the_peer_takes_nothing() {
    let (stream, mut peer) = tcp();
    stream.handle().set_write_idle(Some(Limit::new(LimitName::Idle, ms(700))));
    let err = fill(&stream);
    assert_eq!(timed_out(&err).limit().unwrap().name, LimitName::Idle);
    assert_eq!(timed_out(&err).cause(), Cause::PeerNotReading);

    // What the peer takes makes room.
    let writing = Waiting::start(move || (&stream).write(b"x"));
    std::io::copy(&mut peer, &mut std::io::sink()).unwrap();
    assert_eq!(writing.end().unwrap(), 1);
}

/// Moves deadlines from threads of its own until it is dropped.
struct Movers {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Movers {
    fn start(handle: &Handle) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4)
            .map(|n| {
                let (handle, stop) = (handle.clone(), Arc::clone(&stop));
                thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        match n {
                            0 => handle.set_deadline(LONG),
                            1 => handle.set_read_deadline(None),
                            2 => handle.set_write_deadline(LONG * 2),
                            _ => handle.set_read_idle(Some(Limit::new(LimitName::Gap, LONG))),
                        }
                        thread::yield_now();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Movers {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

#[test]
fn many_threads_may_move_the_deadline_of_a_read_that_waits_and_the_last_word_counts() {
    for spin in [Duration::ZERO, ms(1)] {
        let (stream, _peer) = tcp_with(&Options::new().spin(spin));
        let handle = stream.handle().clone();
        let reading = Waiting::start(move || read(&stream));
        drop(Movers::start(&handle));
        let movers = Movers::start(&handle);
        pass(now() + ms(100));
        drop(movers);
        assert!(!reading.is_finished(), "none of these deadlines has passed");
        handle.set_read_deadline(now());
        timed_out(&reading.end().unwrap_err());
    }
}

#[test]
fn a_stream_is_read_and_written_at_once_while_its_deadlines_move() {
    const BYTES: usize = 8 << 20;
    let (stream, peer) = tcp();
    let movers = Movers::start(stream.handle());
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let echo = thread::spawn(move || std::io::copy(&mut &peer, &mut &peer).unwrap());
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap_or_else(|err| assert_eq!(err.kind(), ErrorKind::NotConnected));
        });
        let mut received = vec![0; BYTES];
        (&stream).read_exact(&mut received).unwrap();
        received
    });
    drop(movers);
    assert!(received == sent, "bytes were lost or changed");
    drop(stream);
    echo.join().unwrap();
}

#[test]
fn several_threads_may_wait_in_one_direction() {
    let (stream, mut peer) = tcp();
    let stream = Arc::new(stream);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let stream = Arc::clone(&stream);
            Waiting::start(move || read(&stream))
        })
        .collect();
    // One gets the byte, and the others wait on, until a deadline reaches all of them.
    peer.write_all(b"x").unwrap();
    while stream.handle().bytes_read() == 0 {
        thread::yield_now();
    }
    while !readers.iter().any(Waiting::is_finished) {
        thread::yield_now();
    }
    stream.set_read_deadline(ms(20));
    let results: Vec<_> = readers.into_iter().map(Waiting::end).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for err in results.iter().filter_map(|result| result.as_ref().err()) {
        timed_out(err);
    }
}

#[test]
fn accept_has_a_deadline_that_can_be_moved() {
    let (listener, address) = listener();
    for at in [Duration::ZERO, Duration::from_nanos(1), ms(20)] {
        listener.handle().set_accept_deadline(at);
        let err = listener.accept().unwrap_err();
        let error = timed_out(&err);
        assert_eq!((error.stage(), error.limit().unwrap().name.as_str()), (Stage::Named("accept"), "accept"));
    }
    listener.handle().set_accept_deadline(None);
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let listener = Arc::new(listener);
    let accepting = {
        let listener = Arc::clone(&listener);
        Waiting::start(move || listener.accept())
    };
    listener.handle().set_accept_deadline(now());
    timed_out(&accepting.end().unwrap_err());

    // What waits in the queue is not accepted after the deadline, and is not lost.
    let client = Stream::connect(address, LONG).unwrap();
    timed_out(&listener.accept().unwrap_err());
    listener.handle().set_accept_deadline(None);
    assert_eq!(listener.accept().unwrap().peer_addr(), client.local_addr());
}

#[test]
fn an_accepted_stream_begins_without_deadlines() {
    let (listener, address) = listener();
    listener.handle().set_deadline(LONG);
    let mut client = Stream::connect(address, LONG).unwrap();
    let server = listener.accept().unwrap();
    listener.handle().set_deadline(Duration::ZERO);
    client.write_all(b"x").unwrap();
    assert_eq!(read(&server).unwrap(), b'x');
}
