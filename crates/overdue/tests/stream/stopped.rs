//! Peers that stop: they close one direction, take nothing more, or are gone without a word.

use std::io::ErrorKind;

use overdue::{
    Cause, Context, Limit, LimitName, Stage, TlsOptions,
    resolve::Resolver,
    stream::{Connector, Stream},
};
use overdue_lab::Fault;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::{
    in_both_flavours, ms,
    sockets::{LONG, tcp, vanish},
    timed_out,
};

in_both_flavours! {
    a_half_closed_peer_may_still_be_written_to_under_a_deadline
    an_answer_is_waited_for_behind_a_closed_window
    a_half_closed_peer_that_vanished_is_a_lost_path
    an_idle_limit_ends_what_waits_for_a_peer_that_vanished
    tls_ends_with_its_limits_whatever_the_peer_does_not_do
}

/// Writes until the peer's window is closed. Returns how much went out.
async fn fill(stream: &mut Stream) -> usize {
    stream.set_write_deadline(ms(300));
    let err = stream.write_all(&vec![7; 24 << 20]).await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::PeerNotReading), "{:?}", error.report().verdicts);
    usize::try_from(stream.handle().bytes_written()).unwrap()
}

async fn a_half_closed_peer_may_still_be_written_to_under_a_deadline() {
    let (mut stream, mut peer) = tcp().await;
    stream.set_read_deadline(LONG);
    let close = async {
        tokio::task::yield_now().await;
        peer.shutdown().await.unwrap();
    };
    // The end that comes while a read waits is no timeout.
    let mut byte = [0];
    let (read, ()) = tokio::join!(stream.read(&mut byte), close);
    assert_eq!(read.unwrap(), 0);

    let went_out = fill(&mut stream).await;
    stream.set_deadline(LONG);
    assert_eq!(stream.read(&mut byte).await.unwrap(), 0, "the end stays the end");
    let mut received = Vec::new();
    let rest = async {
        stream.write_all(b"rest").await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(peer.read_to_end(&mut received), rest);
    assert_eq!(read.unwrap(), went_out + 4);
}

async fn an_answer_is_waited_for_behind_a_closed_window() {
    let (mut stream, mut peer) = tcp().await;
    let went_out = fill(&mut stream).await;
    // Our end waits in the kernel behind what the peer does not take.
    stream.set_write_deadline(LONG);
    stream.shutdown().await.unwrap();
    stream.set_read_deadline(ms(50));
    let err = stream.read_u8().await.unwrap_err();
    assert_eq!(timed_out(&err).stage(), Stage::Receive);

    stream.set_read_deadline(LONG);
    let answer = async {
        let mut received = Vec::new();
        assert_eq!(peer.read_to_end(&mut received).await.unwrap(), went_out);
        peer.write_all(b"x").await.unwrap();
    };
    let (read, ()) = tokio::join!(stream.read_u8(), answer);
    assert_eq!(read.unwrap(), b'x');
}

async fn a_half_closed_peer_that_vanished_is_a_lost_path() {
    let (mut stream, mut peer) = tcp().await;
    peer.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    vanish(&peer);
    stream.set_write_deadline(ms(600));
    let err = stream.write_all(&vec![0; 24 << 20]).await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Send, Cause::PathLost), "{:?}", error.report().verdicts);
}

async fn an_idle_limit_ends_what_waits_for_a_peer_that_vanished() {
    let (mut stream, peer) = tcp().await;
    vanish(&peer);
    let handle = stream.handle().clone();
    handle.set_write_idle(Some(Limit::new(LimitName::Idle, ms(600))));
    let err = stream.write_all(&vec![0; 24 << 20]).await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.limit().unwrap().name, error.cause()), (LimitName::Idle, Cause::PathLost), "{error}");
    handle.set_read_idle(Some(Limit::new(LimitName::Gap, ms(50))));
    let err = stream.read_u8().await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.limit().unwrap().name, error.cause()), (LimitName::Gap, Cause::PathLost), "{error}");
}

/// Passes bytes on until it is told to stop. Its ends stay open then; the first is the one that the caller is
/// connected to.
async fn relay(to: std::net::SocketAddr) -> (u16, oneshot::Sender<()>, JoinHandle<[TcpStream; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = stopped => {}
        }
        [near, far]
    });
    (port, stop, task)
}

async fn tls_ends_with_its_limits_whatever_the_peer_does_not_do() {
    let fault = Fault::start(overdue_lab::find("ok-https").unwrap()).unwrap();
    let roots = TlsOptions::default().with_roots_pem(fault.roots_pem().unwrap().as_bytes()).unwrap();
    let url: http::Uri = fault.url().parse().unwrap();
    let host = url.host().unwrap();
    let loopback: std::net::IpAddr = "127.0.0.1".parse().unwrap();
    let resolver = Resolver::servers(vec![]).with_override(host, None, vec![loopback]);
    let connector = Connector::new().resolver(resolver).tls(&roots, &[b"http/1.1"]).unwrap();
    for (is_gone, cause) in [(false, Cause::PeerNotReading), (true, Cause::PathLost)] {
        let (port, stop, relay) = relay((loopback, url.port_u16().unwrap()).into()).await;
        let mut stream = connector.connect(&Context::root(), &format!("{host}:{port}")).await.unwrap();
        stop.send(()).unwrap();
        let [near, _far] = relay.await.unwrap();
        if is_gone {
            vanish(&near);
        }
        let handle = stream.handle().clone();
        handle.set_write_deadline(ms(600));
        let err = stream.write_all(&vec![0; 24 << 20]).await.unwrap_err();
        let error = timed_out(&err);
        assert_eq!((error.stage(), error.cause()), (Stage::Send, cause), "{:?}", error.report().verdicts);
        // What TLS still holds cannot go out either, nor can its farewell.
        for _ in 0..2 {
            handle.set_write_deadline(ms(50));
            assert_eq!(timed_out(&stream.flush().await.unwrap_err()).stage(), Stage::Send);
            handle.set_write_deadline(ms(50));
            assert_eq!(timed_out(&stream.shutdown().await.unwrap_err()).stage(), Stage::Send);
        }
        handle.set_read_deadline(ms(50));
        let err = stream.read_u8().await.unwrap_err();
        assert_eq!(timed_out(&err).stage(), Stage::Receive);
        // One that takes nothing may still have an answer to give.
        assert_eq!(timed_out(&err).cause() == Cause::PathLost, is_gone, "{err}");
        handle.close();
        assert_eq!(stream.flush().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
}
