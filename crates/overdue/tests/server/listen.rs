//! Options, limits and refusals of a listener.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use overdue::{
    Keepalive,
    server::{AcceptFailure, Connections, ListenOptions, Listener, ListenerEvent, Refused},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::ms;

const ANY: &str = "127.0.0.1:0";

fn bind(options: ListenOptions) -> Listener {
    options.bind(ANY.parse().unwrap()).unwrap()
}

async fn connect(listener: &Listener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
}

/// All that the peer is told, until the end of the connection.
async fn told(mut peer: TcpStream) -> io::Result<String> {
    let mut text = String::new();
    timeout(ms(5_000), peer.read_to_string(&mut text)).await.unwrap()?;
    Ok(text)
}

#[tokio::test]
async fn connections_have_the_options_of_the_listener() {
    let keepalive = Keepalive { idle: ms(7_000), interval: ms(3_000), probes: 2 };
    let mut listener = bind(ListenOptions::new().keepalive(Some(keepalive)));
    let _peer = connect(&listener).await;
    let accepted = listener.accept().await.unwrap();
    let socket = SockRef::from(&accepted.stream);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), ms(7_000));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), ms(3_000));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 2);

    let mut listener = bind(ListenOptions::new().nodelay(false).keepalive(None));
    let _peer = connect(&listener).await;
    let accepted = listener.accept().await.unwrap();
    let socket = SockRef::from(&accepted.stream);
    assert!(!socket.tcp_nodelay().unwrap() && !socket.keepalive().unwrap());
}

#[tokio::test]
async fn two_listeners_share_a_port_and_its_limit() {
    let connections = Connections::new(Some(1), None);
    let options = ListenOptions::new().reuse_port(true).connections(connections.clone());
    let mut first = options.clone().bind(ANY.parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let mut second = options.bind(address).unwrap();
    let _peer = TcpStream::connect(address).await.unwrap();
    // Whichever of them the kernel chooses.
    let accepted = tokio::select! {
        accepted = first.accept() => accepted,
        accepted = second.accept() => accepted,
    };
    let accepted = accepted.unwrap();
    assert_eq!(connections.open(), 1);
    assert!(ListenOptions::new().bind(address).is_err(), "the port is taken for those who do not share");
    drop(accepted);
    assert_eq!(connections.open(), 0);
}

#[tokio::test]
async fn a_listener_that_was_handed_over_goes_on() {
    let given = std::net::TcpListener::bind(ANY).unwrap();
    let address = given.local_addr().unwrap();
    let waiting = TcpStream::connect(address).await.unwrap();
    let mut listener = ListenOptions::new().from_std(given).unwrap();
    let accepted = listener.accept().await.unwrap();
    assert_eq!(accepted.peer, waiting.local_addr().unwrap());
    assert!(SockRef::from(&accepted.stream).tcp_nodelay().unwrap());
}

#[tokio::test]
async fn ipv4_reaches_an_ipv6_listener_unless_that_is_forbidden() {
    let any: SocketAddr = "[::]:0".parse().unwrap();
    for (only_v6, reached) in [(false, true), (true, false)] {
        let Ok(listener) = ListenOptions::new().only_v6(only_v6).bind(any) else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).await.is_ok(), reached);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_defer_accept_a_connection_comes_with_its_first_bytes() {
    let mut listener = bind(ListenOptions::new().defer_accept(Some(ms(10_000))));
    let mut peer = connect(&listener).await;
    assert!(timeout(ms(100), listener.accept()).await.is_err());
    peer.write_all(b"x").await.unwrap();
    let accepted = timeout(ms(5_000), listener.accept()).await.unwrap().unwrap();
    let mut byte = [0];
    assert_eq!(accepted.stream.try_read(&mut byte).unwrap_or(0) + accepted_later(&accepted.stream, byte).await, 1);
}

/// What the runtime did not know of yet.
#[cfg(target_os = "linux")]
async fn accepted_later(stream: &TcpStream, read: [u8; 1]) -> usize {
    if read == *b"x" {
        return 0;
    }
    stream.readable().await.unwrap();
    stream.try_read(&mut [0]).unwrap()
}

#[tokio::test]
async fn above_the_limits_a_peer_is_told_and_the_others_are_served() {
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    let mut listener = bind(
        ListenOptions::new()
            .connections(Connections::new(None, Some(1)))
            .refusal(|why| Bytes::from(format!("{why}")))
            .on_event(move |event| {
                assert!(matches!(event, ListenerEvent::Refused { why: Refused::Source, .. }));
                counted.fetch_add(1, SeqCst);
            }),
    );
    let _first = connect(&listener).await;
    let first = listener.accept().await.unwrap();
    // It has sent something already, which nobody will answer: it sees an end all the same, and no reset.
    let mut second = connect(&listener).await;
    second.write_all(&[b'x'; 10_000]).await.unwrap();
    let mut third = None;
    {
        let accepting = listener.accept();
        tokio::pin!(accepting);
        assert!(timeout(ms(100), accepting.as_mut()).await.is_err(), "a second one was accepted");
        assert_eq!(told(second).await.unwrap(), "too many connections from one source");
        drop(first);
        let address: SocketAddr = _first.peer_addr().unwrap();
        third.replace(TcpStream::connect(address).await.unwrap());
        timeout(ms(5_000), accepting).await.unwrap().unwrap();
    }
    let stats = listener.stats();
    assert_eq!((stats.accepted(), stats.refused(Refused::Source), refused.load(SeqCst)), (2, 1, 1));
    assert_eq!((stats.exhaustions(), stats.exhausted_since()), (0, None));
}

#[tokio::test]
async fn a_listener_whose_socket_was_shut_down_says_so() {
    let mut listener = bind(ListenOptions::new());
    let _peer = connect(&listener).await;
    listener.accept().await.unwrap();
    let given = std::net::TcpListener::bind(ANY).unwrap();
    let twin = given.try_clone().unwrap();
    let mut listener = ListenOptions::new().from_std(given).unwrap();
    SockRef::from(&twin).shutdown(std::net::Shutdown::Both).unwrap();
    let error = timeout(ms(5_000), listener.accept()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(listener.stats().failures(AcceptFailure::Other), 0);
}
