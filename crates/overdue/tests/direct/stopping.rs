//! Interrupting and closing.

use std::{io::ErrorKind, io::Read, sync::Arc};

use overdue::{
    Cause,
    direct::{Interrupter, Options, Stream},
};
use overdue_lab::Fault;

use crate::{LONG, Waiting, cancelled, fill, listener, ms, read, tcp, tcp_with, timed_out};

#[derive(Debug, thiserror::Error)]
#[error("the service stops")]
struct Stops;

#[test]
fn an_interrupter_ends_what_is_pending_and_what_follows_until_it_is_taken_back() {
    let (stream, mut peer) = tcp();
    let (interrupter, stream) = (stream.interrupter().clone(), Arc::new(stream));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let stream = Arc::clone(&stream);
            Waiting::start(move || read(&stream))
        })
        .collect();
    let line = line!() + 1;
    assert!(interrupter.interrupt(overdue::CancelCause::typed(Stops)));
    assert!(!interrupter.interrupt("the second cause is not the one"));
    for reader in readers {
        let err = reader.end().unwrap_err();
        let cause = cancelled(&err).cancel_cause().unwrap();
        assert!(cause.downcast_ref::<Stops>().is_some(), "{cause}");
        assert_eq!(cause.location().unwrap().line(), line);
        assert_eq!(cancelled(&err).cause(), Cause::CancelledByCaller);
    }
    // What is here does not count: the caller is to stop.
    std::io::Write::write_all(&mut peer, b"x").unwrap();
    cancelled(&read(&stream).unwrap_err());
    cancelled(&stream.try_write(b"y").unwrap_err());
    interrupter.resume();
    assert!(interrupter.cause().is_none());
    assert_eq!(read(&stream).unwrap(), b'x');
}

#[test]
fn one_interrupter_serves_reading_writing_accepting_and_connecting() {
    let interrupter = Interrupter::new();
    let options = Options::new().interrupter(&interrupter);
    let (reads, _peer) = tcp_with(&options);
    let (writes, _other) = tcp_with(&options);
    let accepts = options.bind(crate::local()).unwrap();
    let silent = Fault::start(overdue_lab::find("backlog-full").unwrap()).unwrap();
    let (connects, address) = (options.clone(), silent.addr());
    let waiting = [
        Waiting::start(move || read(&reads).unwrap_err()),
        Waiting::start(move || fill(&writes)),
        Waiting::start(move || accepts.accept().unwrap_err()),
        Waiting::start(move || connects.connect(address, LONG).unwrap_err()),
    ];
    interrupter.interrupt("enough");
    let stages = waiting.map(|waiting| cancelled(&waiting.end()).stage().as_str());
    assert_eq!(stages, ["receive", "send", "accept", "connect"]);
    // Nothing is begun, either.
    let (_listener, address) = listener();
    cancelled(&options.connect(address, LONG).unwrap_err());
}

#[test]
fn closing_is_seen_by_every_thread_and_by_the_peer() {
    let (stream, mut peer) = tcp();
    let (handle, stream) = (stream.handle().clone(), Arc::new(stream));
    let (reads, writes) = (Arc::clone(&stream), Arc::clone(&stream));
    let waiting = [Waiting::start(move || read(&reads).unwrap_err()), Waiting::start(move || fill(&writes))];
    assert!(handle.close());
    assert!(!handle.close());
    for waiting in waiting {
        let err = waiting.end();
        assert!(cancelled(&err).to_string().contains("stopping.rs"), "{err}");
    }
    std::io::copy(&mut peer, &mut std::io::sink()).unwrap();
    // What is set now is of no effect.
    handle.set_deadline(LONG);
    cancelled(&read(&stream).unwrap_err());
    assert!(handle.is_closed());
}

#[test]
fn closing_after_a_deadline_has_fired_and_the_other_way_round() {
    let (stream, _peer) = tcp();
    stream.set_read_deadline(ms(10));
    timed_out(&read(&stream).unwrap_err());
    stream.handle().close();
    cancelled(&read(&stream).unwrap_err());
    stream.set_read_deadline(ms(0));
    cancelled(&read(&stream).unwrap_err());
}

#[test]
fn closing_a_listener_ends_accept() {
    let (listener, _) = listener();
    let handle = listener.handle().clone();
    let accepting = Waiting::start(move || listener.accept().unwrap_err());
    handle.close();
    cancelled(&accepting.end());
}

#[test]
fn a_handle_keeps_nothing_open_and_outlives_its_stream() {
    let (stream, mut peer) = tcp();
    let handle = stream.handle().clone();
    drop(stream);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    handle.set_deadline(ms(1));
    handle.close();
}

#[test]
fn interrupting_does_not_look_like_a_signal() {
    let (stream, _peer) = tcp();
    stream.interrupter().interrupt("stop");
    let err = Read::read_exact(&mut &stream, &mut [0; 4]).unwrap_err();
    assert_ne!(err.kind(), ErrorKind::Interrupted);
    cancelled(&err);
    let _: &Stream = &stream;
}
