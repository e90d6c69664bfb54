//! Real sockets, in both flavours of runtime. Order and cause are asserted, never exact times.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use overdue::{
    Cause, Context, Limit, LimitName, Stage, TlsOptions,
    stream::{Connector, Handle, Listener, Stream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{explained, in_both_flavours, ms, timed_out};

/// Longer than any test takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

in_both_flavours! {
    a_silent_peer_is_told_from_one_that_stopped
    a_peer_that_does_not_read_is_named_and_the_stream_goes_on_when_it_does
    many_threads_may_move_the_deadline_of_a_read_that_waits
    a_stream_is_read_and_written_at_once_while_its_deadlines_move
    a_half_closed_stream_goes_on_reading
    closing_is_seen_by_every_half_and_by_the_peer_at_once
    a_peer_that_vanished_is_a_lost_path
    a_reset_keeps_its_kind_and_is_explained
    own_shutdown_is_nobodys_reset
    accept_has_a_deadline_that_can_be_moved
    connecting_has_its_limits_and_says_which_fired
    tls_is_a_stream_like_any_other
    connecting_that_is_given_up_closes_what_was_connected
    a_handle_keeps_nothing_open
    a_write_idles_only_when_the_peer_takes_nothing
    an_old_deadline_never_reaches_a_new_connection_with_the_same_descriptor
}

pub(crate) async fn tcp() -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await.unwrap().0 });
    (Stream::from_tcp(client.unwrap()).unwrap(), server)
}

fn root() -> Context {
    Context::root()
}

async fn a_silent_peer_is_told_from_one_that_stopped() {
    let (mut stream, mut peer) = tcp().await;
    stream.write_all(b"how are you?\n").await.unwrap();
    let mut buf = [0; 64];
    peer.read_exact(&mut buf[..13]).await.unwrap();
    stream.set_read_deadline(ms(60));
    let err = stream.read(&mut buf).await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::ServerSlow));
    let verdict = &error.report().verdicts[0];
    assert!(verdict.summary.contains("has all 13 bytes written to it and sent nothing for"), "{}", verdict.summary);
    if cfg!(target_os = "linux") {
        assert!(verdict.evidence.iter().any(|evidence| evidence.source == overdue::Source::TcpInfo), "{verdict:?}");
        assert!(error.report().connection.as_ref().unwrap().cookie.is_some());
    }

    peer.write_all(b"fi").await.unwrap();
    stream.set_read_deadline(LONG);
    stream.read_exact(&mut buf[..2]).await.unwrap();
    stream.set_read_deadline(ms(60));
    let err = stream.read(&mut buf).await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!(error.cause(), Cause::BodyStalled);
    assert!(error.to_string().contains("sent 2 bytes, then nothing more for"), "{error}");
}

async fn a_peer_that_does_not_read_is_named_and_the_stream_goes_on_when_it_does() {
    const BYTES: usize = 24 << 20;
    let (mut stream, mut peer) = tcp().await;
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    stream.set_write_deadline(ms(400));
    let err = stream.write_all(&sent).await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::PeerNotReading), "{:?}", error.report().verdicts);
    let went_out = usize::try_from(stream.handle().bytes_written()).unwrap();
    assert!(went_out > 0 && went_out < BYTES);

    // It goes on where it stopped, and the peer sees every byte once.
    stream.set_write_deadline(LONG);
    let rest = async {
        stream.write_all(&sent[went_out..]).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (read, ()) = tokio::join!(peer.read_to_end(&mut received), rest);
    assert_eq!(read.unwrap(), BYTES);
    assert!(received == sent, "bytes were lost or sent twice");
}

/// Moves deadlines from threads of its own until it is dropped.
struct Movers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Movers {
    fn start(handle: &Handle) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4)
            .map(|n| {
                let (handle, stop) = (handle.clone(), Arc::clone(&stop));
                std::thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        match n {
                            0 => handle.set_deadline(None),
                            1 => handle.set_read_deadline(LONG),
                            2 => handle.set_write_deadline(LONG),
                            _ => handle.set_deadline(Limit::total(LONG)),
                        }
                        std::thread::yield_now();
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

async fn many_threads_may_move_the_deadline_of_a_read_that_waits() {
    let (mut stream, mut peer) = tcp().await;
    let handle = stream.handle().clone();
    let movers = Movers::start(&handle);
    let reading = tokio::spawn(async move {
        let first = stream.read_u8().await;
        (first, stream.read_u8().await, stream)
    });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    peer.write_all(b"x").await.unwrap();
    // The one that is set last holds.
    while handle.bytes_read() == 0 {
        tokio::task::yield_now().await;
    }
    drop(movers);
    handle.set_read_deadline(ms(20));
    let (first, second, mut stream) = reading.await.unwrap();
    assert_eq!(first.unwrap(), b'x');
    timed_out(&second.unwrap_err());
    handle.set_deadline(None);
    peer.write_all(b"y").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'y');
}

async fn a_stream_is_read_and_written_at_once_while_its_deadlines_move() {
    const BYTES: usize = 8 << 20;
    let (stream, peer) = tcp().await;
    let movers = Movers::start(stream.handle());
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = peer.into_split();
        tokio::io::copy(&mut reader, &mut writer).await
    });
    let (mut reader, mut writer) = stream.split();
    let sent: Arc<Vec<u8>> = Arc::new((0..=252).cycle().take(BYTES).collect());
    let to_send = Arc::clone(&sent);
    let writing = tokio::spawn(async move {
        for piece in to_send.chunks(10_007) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    echo.await.unwrap().unwrap();
    drop(movers);
    assert!(received == *sent, "bytes were lost, doubled or mixed up");
    assert_eq!(reader.handle().bytes_read(), BYTES as u64);
}

async fn a_half_closed_stream_goes_on_reading() {
    let (mut stream, mut peer) = tcp().await;
    stream.set_deadline(LONG);
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut question = String::new();
    peer.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    // Its deadlines hold on.
    stream.set_read_deadline(ms(30));
    timed_out(&stream.read_u8().await.unwrap_err());
    stream.set_read_deadline(LONG);
    peer.write_all(b"answer").await.unwrap();
    drop(peer);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");

    // And the other way round: a peer that sends no more is still written to.
    let (mut stream, mut peer) = tcp().await;
    peer.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    stream.write_all(b"still here").await.unwrap();
    let mut text = [0; 10];
    peer.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");
}

async fn closing_is_seen_by_every_half_and_by_the_peer_at_once() {
    let (stream, mut peer) = tcp().await;
    stream.set_deadline(LONG);
    let handle = stream.handle().clone();
    let (mut reader, mut writer) = stream.split();
    let reading = tokio::spawn(async move { (reader.read_u8().await.unwrap_err(), reader) });
    let writing = tokio::spawn(async move {
        loop {
            if let Err(err) = writer.write_all(&[0; 1 << 20]).await {
                return (err, writer);
            }
        }
    });
    // Until the write waits: no more goes out, as nobody reads.
    let mut before = 0;
    loop {
        tokio::time::sleep(ms(20)).await;
        let now = handle.bytes_written();
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    std::thread::spawn(move || handle.close()).join().unwrap();
    // Both halves are still held here when the peer sees the end.
    let (read, _reader) = reading.await.unwrap();
    let (written, _writer) = writing.await.unwrap();
    for err in [read, written] {
        assert_eq!(err.kind(), ErrorKind::ConnectionAborted);
        assert_eq!(explained(&err).cancel_cause().unwrap().to_string(), "the stream was closed");
    }
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).await.unwrap();
}

/// From here on the peer's kernel drops whatever comes for this socket, as if its host were gone.
#[cfg(target_os = "linux")]
pub(crate) fn vanish(peer: &TcpStream) {
    const RETURN_NOTHING: socket2::SockFilter = socket2::SockFilter::new(0x06, 0, 0, 0);
    socket2::SockRef::from(peer).attach_filter(&[RETURN_NOTHING]).unwrap();
}

#[cfg(not(target_os = "linux"))]
async fn a_peer_that_vanished_is_a_lost_path() {}

#[cfg(target_os = "linux")]
async fn a_peer_that_vanished_is_a_lost_path() {
    let (mut stream, mut peer) = tcp().await;
    stream.write_all(b"ping").await.unwrap();
    peer.read_exact(&mut [0; 4]).await.unwrap();
    peer.write_all(b"pong").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    vanish(&peer);
    stream.set_deadline(ms(1000));
    stream.write_all(b"ping").await.unwrap();
    let err = stream.read_u8().await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::PathLost), "{:?}", error.report().verdicts);

    // What fills the queue meets the same.
    stream.set_write_deadline(ms(400));
    let err = stream.write_all(&vec![0; 16 << 20]).await.unwrap_err();
    assert_eq!(timed_out(&err).cause(), Cause::PathLost, "{:?}", timed_out(&err).report().verdicts);
}

async fn a_reset_keeps_its_kind_and_is_explained() {
    let (mut stream, peer) = tcp().await;
    stream.set_deadline(LONG);
    // No linger: the peer's kernel sends RST instead of FIN.
    peer.set_zero_linger().unwrap();
    drop(peer);
    let err = stream.read_u8().await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionReset);
    let error = explained(&err);
    assert_eq!((error.cause(), error.stage()), (Cause::PeerReset, Stage::Receive));
    assert!(!error.is_timeout());
}

async fn own_shutdown_is_nobodys_reset() {
    let (mut stream, _peer) = tcp().await;
    stream.shutdown().await.unwrap();
    let err = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::BrokenPipe);
    assert!(overdue::Error::find(&err).is_none(), "{err:?}");
}

async fn accept_has_a_deadline_that_can_be_moved() {
    let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = listener.handle().clone();
    handle.set_read_deadline(ms(30));
    let error = listener.accept().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(error.stage(), Stage::Named("accept"));

    // Lengthened while it waits, it takes who comes.
    handle.set_deadline(ms(50));
    let caller = async {
        handle.set_deadline(LONG);
        Stream::connect(&root(), &address.to_string()).await.unwrap()
    };
    let (accepted, mut caller) = tokio::join!(listener.accept(), caller);
    let mut accepted = accepted.unwrap();
    assert_eq!(accepted.peer_addr(), caller.local_addr());
    caller.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');

    let accepting = tokio::spawn(async move { listener.accept().await.unwrap_err() });
    handle.close();
    assert!(accepting.await.unwrap().is_cancelled());
}

async fn connecting_has_its_limits_and_says_which_fired() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let tls = TlsOptions::default().dangerously_trust_anything();
    let connector = Connector::new().tls(&tls, &[]).unwrap().limit(Limit::stage(Stage::Tls, ms(60)));
    let error = connector.connect(&root(), &address.to_string()).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Tls, Cause::TlsPeerSilent));
    assert_eq!(error.limit().unwrap().name, LimitName::Stage(Stage::Tls));
    assert_eq!(error.report().connection.as_ref().unwrap().protocol, None);

    // A deadline that has passed connects nowhere.
    let late = root().child(Limit::total(ms(0)));
    let error = Stream::connect(&late, &address.to_string()).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Resolve, Cause::BudgetSpent));

    drop(silent);
    let error = Stream::connect(&root(), &address.to_string()).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Connect, Cause::ConnectRefused));
    for target in [
        "",
        "localhost",
        "localhost:",
        ":80",
        "localhost:99999",
        "::1:80",
        "[::1:80",
        "[]:80",
        "HUSH@a:80",
        "u:HUSH@a:80",
    ] {
        let error = Stream::connect(&root(), target).await.unwrap_err();
        assert!(!error.to_string().contains("HUSH"), "{error}");
        assert!(error.to_string().contains("is neither host:port nor unix:/a/path"), "{target:?}: {error}");
    }
}

async fn connecting_that_is_given_up_closes_what_was_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tls = TlsOptions::default().dangerously_trust_anything();
    let connector = Connector::new().tls(&tls, &[]).unwrap();
    let context = root();
    let mut connecting = Box::pin(connector.connect(&context, &address));
    let hello = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        peer.read_u8().await.unwrap();
        peer
    };
    let mut peer = tokio::select! {
        _ = &mut connecting => panic!("the handshake cannot end"),
        peer = hello => peer,
    };
    drop(connecting);
    peer.read_to_end(&mut Vec::new()).await.unwrap();
}

async fn a_handle_keeps_nothing_open() {
    let (stream, mut peer) = tcp().await;
    let handle = stream.handle().clone();
    let (mut reader, writer) = stream.split();
    // One that was left in the middle of a read.
    assert!(futures_util::FutureExt::now_or_never(reader.read_u8()).is_none());
    drop((reader, writer));
    assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0);
    handle.set_deadline(LONG);
    assert!(handle.close());
}

/// The lab's server speaks HTTP inside TLS, which is as good a protocol as any.
async fn tls_is_a_stream_like_any_other() {
    let fault = overdue_lab::Fault::start(overdue_lab::find("ok-https").unwrap()).unwrap();
    let roots = TlsOptions::default().with_roots_pem(fault.roots_pem().unwrap().as_bytes()).unwrap();
    let url: http::Uri = fault.url().parse().unwrap();
    let (host, port) = (url.host().unwrap(), url.port_u16().unwrap());
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let resolver = overdue::resolve::Resolver::servers(vec![]).with_override(host, None, vec![address.ip()]);
    let connector = Connector::new().resolver(resolver).tls(&roots, &[b"http/1.1"]).unwrap();
    let stream = connector.connect(&root(), &format!("{host}:{port}")).await.unwrap();
    let handle = stream.handle().clone();
    let (mut reader, mut writer) = stream.split();

    handle.set_read_deadline(ms(50));
    let err = reader.read_u8().await.unwrap_err();
    assert_eq!(timed_out(&err).cause(), Cause::ServerSlow);
    handle.set_deadline(LONG);
    let ask = async {
        writer.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        writer.flush().await.unwrap();
    };
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"hello from the lab\n") {
            answer.push(reader.read_u8().await.unwrap());
        }
    };
    tokio::join!(ask, read);
    handle.set_read_deadline(ms(50));
    assert_eq!(timed_out(&reader.read_u8().await.unwrap_err()).cause(), Cause::BodyStalled);
    handle.close();
    assert_eq!(reader.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

/// The kernel says "writable" only when a third of its queue is free. A peer that reads slowly but steadily moves bytes
/// all the same.
async fn a_write_idles_only_when_the_peer_takes_nothing() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let (mut stream, mut peer) = tcp().await;
    // Fills the queues of both ends.
    stream.set_write_deadline(ms(200));
    loop {
        if let Err(err) = stream.write_all(&[7; 1 << 16]).await {
            timed_out(&err);
            break;
        }
    }
    stream.set_write_deadline(None);
    stream.handle().set_write_idle(Some(Limit::new(LimitName::Idle, ms(700))));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let sips = tokio::spawn(async move {
        let mut sip = vec![0; 1 << 16];
        let mut ticks = tokio::time::interval(ms(100));
        let mut stopped = std::pin::pin!(stopped);
        let mut sips = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => drop(peer.read(&mut sip).await.unwrap()),
                _ = &mut stopped => return (peer, sips),
            }
            sips += 1;
        }
    });
    // Deadlines that are moved meanwhile make no difference.
    let movers = Movers::start(stream.handle());
    stream.write_all(&[7; 1 << 16]).await.unwrap();
    drop(movers);
    stream.set_deadline(None);
    stop.send(()).unwrap();
    let (_peer, sips) = sips.await.unwrap();
    assert!(sips > 7, "the write did not wait for longer than the limit: {sips} reads");

    let err = loop {
        if let Err(err) = stream.write_all(&[7; 1 << 16]).await {
            break err;
        }
    };
    let error = timed_out(&err);
    assert_eq!(error.limit().unwrap().name, LimitName::Idle);
    assert_eq!(error.cause(), Cause::PeerNotReading, "{:?}", error.report().verdicts);
}

#[cfg(unix)]
mod unix {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_a_stream_too() {
        let path = std::env::temp_dir().join(format!("overdue-stream-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut stream = Stream::connect(&root(), &format!("unix:{}", path.display())).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        stream.set_deadline(ms(50));
        let err = stream.read_u8().await.unwrap_err();
        let error = timed_out(&err);
        assert_eq!(error.cause(), Cause::ServerSlow);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        stream.set_deadline(LONG);
        stream.write_all(b"x").await.unwrap();
        assert_eq!(peer.read_u8().await.unwrap(), b'x');
        drop(peer);
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!((stream.peer_addr(), stream.local_addr()), (None, None));

        let (near, _far) = tokio::net::UnixStream::pair().unwrap();
        let mut stream = Stream::from_unix(near);
        stream.set_deadline(ms(10));
        timed_out(&stream.read_u8().await.unwrap_err());
    }
}

#[cfg(not(target_os = "linux"))]
async fn an_old_deadline_never_reaches_a_new_connection_with_the_same_descriptor() {}

#[cfg(target_os = "linux")]
async fn an_old_deadline_never_reaches_a_new_connection_with_the_same_descriptor() {
    // No test that runs beside this one takes numbers so high, except its twin in the other flavour.
    let number = if tokio::runtime::Handle::current().metrics().num_workers() > 1 { 900 } else { 950 };
    let numbered = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let fd = rustix::io::fcntl_dupfd_cloexec(&client, number).unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&fd), number);
        drop(client);
        let client = TcpStream::from_std(std::net::TcpStream::from(fd)).unwrap();
        (Stream::from_tcp(client).unwrap(), listener.accept().await.unwrap().0)
    };
    let (mut old, _old_peer) = numbered().await;
    let handle = old.handle().clone();
    handle.set_deadline(ms(30));
    // A read is pending, its timer runs, and it is given up.
    assert!(tokio::time::timeout(ms(1), old.read_u8()).await.is_err());
    drop(old);
    let (mut new, mut peer) = numbered().await;
    let reading = tokio::spawn(async move { (new.read_u8().await, new) });
    // The old deadline passes, and is moved, and the old stream is closed.
    tokio::time::sleep(ms(60)).await;
    handle.set_deadline(Duration::ZERO);
    handle.close();
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    peer.write_u8(7).await.unwrap();
    let (byte, new) = reading.await.unwrap();
    assert_eq!(byte.unwrap(), 7);
    assert!(!new.handle().is_closed());
}
