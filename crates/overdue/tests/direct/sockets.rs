//! What peers and paths do, and connecting.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use overdue::{
    Cause, Limit, LimitName, Stage, TcpOptions,
    direct::{Options, Stream},
};
use overdue_lab::Fault;
use socket2::SockRef;

use crate::{LONG, Waiting, cancelled, explained, fill, local, ms, read, tcp, timed_out};

#[test]
fn a_peer_that_does_not_read_is_named_and_the_stream_goes_on_when_it_does() {
    const BYTES: usize = 24 << 20;
    let (mut stream, mut peer) = tcp();
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let (handle, to_send) = (stream.handle().clone(), sent.clone());
    let writing = Waiting::start(move || {
        let result = stream.write_all(&to_send);
        (stream, result)
    });
    // All queues are full.
    let mut before = 0;
    while std::mem::replace(&mut before, handle.bytes_written()) != before {
        crate::pass(crate::now() + ms(100));
    }
    handle.set_write_deadline(ms(50));
    let (mut stream, result) = writing.end();
    let err = result.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::PeerNotReading), "{:?}", error.report().verdicts);
    let went_out = usize::try_from(stream.handle().bytes_written()).unwrap();
    assert!(went_out > 0 && went_out < BYTES);

    // It goes on where it stopped, and the peer sees every byte once.
    stream.set_write_deadline(LONG);
    let reading = thread::spawn(move || {
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        received
    });
    stream.write_all(&sent[went_out..]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(reading.join().unwrap() == sent, "bytes were lost or sent twice");
}

#[test]
fn a_write_that_waits_ends_by_a_deadline_from_elsewhere() {
    let (stream, _peer) = tcp();
    let handle = stream.handle().clone();
    let writing = Waiting::start(move || fill(&stream));
    handle.set_read_deadline(Duration::ZERO);
    writing.until_asleep();
    handle.set_write_deadline(Duration::ZERO);
    assert_eq!(timed_out(&writing.end()).stage(), Stage::Send);
}

#[test]
fn a_half_closed_stream_goes_on_reading() {
    let (mut stream, mut peer) = tcp();
    stream.set_deadline(LONG);
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    peer.read_to_string(&mut question).unwrap();
    peer.write_all(b"answer").unwrap();
    drop(peer);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    // The end stays the end, and the own shutdown is nobody's reset.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let err = stream.write(b"x").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::BrokenPipe);
    assert!(overdue::Error::find(&err).is_none(), "{err:?}");
}

#[test]
fn an_end_that_comes_while_a_read_waits_is_an_end() {
    let (stream, peer) = tcp();
    let reading = Waiting::start(move || (&stream).read(&mut [0]));
    drop(peer);
    assert_eq!(reading.end().unwrap(), 0);
}

#[test]
fn a_reset_keeps_its_kind_and_is_explained() {
    let (stream, peer) = tcp();
    stream.set_deadline(LONG);
    let reading = Waiting::start(move || (read(&stream).unwrap_err(), (&stream).write(b"x").unwrap_err()));
    // No linger: the peer's kernel sends RST instead of FIN.
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let (err, after) = reading.end();
    assert_eq!(err.kind(), ErrorKind::ConnectionReset);
    let error = explained(&err);
    assert_eq!((error.cause(), error.stage()), (Cause::PeerReset, Stage::Receive));
    assert!(!error.is_timeout());
    assert_eq!((after.kind(), explained(&after).stage()), (ErrorKind::BrokenPipe, Stage::Send));
}

#[test]
fn a_peer_that_vanished_is_a_lost_path() {
    const RETURN_NOTHING: socket2::SockFilter = socket2::SockFilter::new(0x06, 0, 0, 0);
    let (mut stream, mut peer) = tcp();
    stream.write_all(b"ping").unwrap();
    peer.read_exact(&mut [0; 4]).unwrap();
    peer.write_all(b"pong").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    // From here on the peer's kernel drops whatever comes for this socket, as if its host were gone.
    SockRef::from(&peer).attach_filter(&[RETURN_NOTHING]).unwrap();
    stream.set_deadline(ms(1000));
    stream.write_all(b"ping").unwrap();
    let err = read(&stream).unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::PathLost), "{:?}", error.report().verdicts);
}

#[test]
fn a_piece_of_several_buffers_goes_out_as_one() {
    let (mut stream, mut peer) = tcp();
    let pieces = [b"ab".as_slice(), b"", b"c"].map(std::io::IoSlice::new);
    assert_eq!(stream.write_vectored(&pieces).unwrap(), 3);
    let many = vec![std::io::IoSlice::new(b"z"); 5000];
    assert_eq!(stream.write_vectored(&many).unwrap(), 1024);
    let mut buf = [0; 4];
    peer.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"abcz");
    assert_eq!(stream.handle().bytes_written(), 1027);
}

#[test]
fn connecting_has_a_limit_and_says_why_it_fired() {
    let silent = Fault::start(overdue_lab::find("backlog-full").unwrap()).unwrap();
    let line = line!() + 1;
    let err = Stream::connect(silent.addr(), ms(60)).unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Connect, Cause::AcceptQueueFull), "{error}");
    assert!(error.limit().unwrap().origin.to_string().ends_with(&format!("sockets.rs:{line}")), "{error}");
    let limit = Limit::new(LimitName::ConnectAttempt, ms(20));
    let err = Stream::connect(silent.addr(), limit).unwrap_err();
    assert_eq!(timed_out(&err).limit().unwrap().name, LimitName::ConnectAttempt);
}

#[test]
fn a_limit_that_has_passed_connects_nowhere() {
    let listener = TcpListener::bind(local()).unwrap();
    let err = Stream::connect(listener.local_addr().unwrap(), Duration::ZERO).unwrap_err();
    assert_eq!((timed_out(&err).stage(), timed_out(&err).cause()), (Stage::Connect, Cause::BudgetSpent));
    let err = Stream::connect_unix("/nowhere", Duration::ZERO).unwrap_err();
    assert_eq!(timed_out(&err).cause(), Cause::BudgetSpent);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_refusal_keeps_its_kind_and_the_limit_of_connecting_ends_with_it() {
    let listener = TcpListener::bind(local()).unwrap();
    let address = listener.local_addr().unwrap();
    let limit = crate::now() + ms(300);
    let stream = Stream::connect(address, limit).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    crate::pass(limit);
    peer.write_all(b"x").unwrap();
    assert_eq!(read(&stream).unwrap(), b'x');
    assert_eq!((stream.peer_addr(), stream.local_addr()), (Some(address), peer.peer_addr().ok()));

    drop(listener);
    let err = Stream::connect(address, LONG).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
    let error = explained(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Connect, Cause::ConnectRefused));
    assert!(error.is_retryable());
}

#[test]
fn options_of_tcp_reach_the_socket() {
    let listener = TcpListener::bind(local()).unwrap();
    let tcp = TcpOptions { bind: Some([127, 0, 0, 2].into()), nodelay: false, ..TcpOptions::default() };
    let stream = Options::new().tcp(tcp).connect(listener.local_addr().unwrap(), LONG).unwrap();
    assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.2");
    assert!(!SockRef::from(&stream).tcp_nodelay().unwrap());
}

#[test]
fn unix_sockets_have_the_same_deadlines() {
    let path = std::env::temp_dir().join(format!("overdue-direct-{}.sock", std::process::id()));
    let err = Stream::connect_unix(&path, LONG).unwrap_err();
    assert_eq!((err.kind(), explained(&err).cause()), (ErrorKind::NotFound, Cause::ConnectRefused));
    let listener = Options::new().bind_unix(&path).unwrap();
    let stream = Stream::connect_unix(&path, LONG).unwrap();
    std::fs::remove_file(&path).unwrap();
    let server = listener.accept().unwrap();
    (&server).write_all(b"x").unwrap();
    assert_eq!(read(&stream).unwrap(), b'x');
    stream.set_read_deadline(ms(20));
    let err = read(&stream).unwrap_err();
    assert!(timed_out(&err).report().connection.as_ref().unwrap().peer.as_deref() == path.to_str());
    stream.set_write_deadline(ms(20));
    assert_eq!(timed_out(&fill(&stream)).stage(), Stage::Send);

    let (one, other) = UnixStream::pair().unwrap();
    let stream = Stream::from_unix(one).unwrap();
    let handle = stream.handle().clone();
    let reading = Waiting::start(move || read(&stream).unwrap_err());
    handle.close();
    cancelled(&reading.end());
    drop(other);
}

#[test]
fn a_stream_that_is_not_connected_is_refused() {
    let listener = TcpListener::bind(local()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    while client.peer_addr().is_ok() {
        thread::yield_now();
    }
    assert_eq!(Stream::from_tcp(client).unwrap_err().kind(), ErrorKind::NotConnected);
}
