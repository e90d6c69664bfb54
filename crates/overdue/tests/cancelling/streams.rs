use overdue::{
    Limit, LimitName,
    stream::{Connector, Listener, Stream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use crate::{LONG, MS, Secure, Server, alone, leaves_nothing, root};

/// More than the kernel takes at once.
const BYTES: usize = 6 << 20;

/// Both directions at once under every kind of limit, to the end of both.
async fn exchange(stream: Stream, bytes: usize) {
    let handle = stream.handle().clone();
    handle.set_deadline(LONG);
    handle.set_read_idle(Some(Limit::new(LimitName::Gap, LONG)));
    handle.set_write_idle(Some(Limit::new(LimitName::Idle, LONG)));
    let (mut reader, mut writer) = stream.split();
    let sent = vec![7; bytes];
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.flush().await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut back), write);
    assert_eq!(read.unwrap(), bytes);
}

#[test]
fn a_plain_connection() {
    alone(async || {
        let server = Server::echo().await;
        leaves_nothing(async || {
            let stream = Stream::connect(&root().child(Limit::total(LONG)), &server.addr.to_string()).await.unwrap();
            exchange(stream, BYTES).await;
        })
        .await;
    });
}

#[test]
fn several_addresses() {
    alone(async || {
        let server = Server::echo().await;
        // Nobody is at the first.
        let addresses = ["127.0.0.2", "127.0.0.1"].map(|ip| ip.parse().unwrap());
        let resolver = overdue::resolve::Resolver::servers(vec![]).with_override("host.test", None, addresses.into());
        let connector = Connector::new().resolver(resolver).limit(Limit::new(LimitName::ConnectAttempt, LONG));
        let target = format!("host.test:{}", server.addr.port());
        leaves_nothing(async || exchange(connector.connect(&root(), &target).await.unwrap(), 10).await).await;
    });
}

#[test]
fn a_connection_inside_tls() {
    alone(async || {
        let secure = Secure::start("ok-https");
        let connector = Connector::new().resolver(secure.resolver.clone()).tls(&secure.tls, &[b"http/1.1"]).unwrap();
        leaves_nothing(async || {
            let mut stream = connector.connect(&root(), &secure.name).await.unwrap();
            stream.set_deadline(LONG);
            let head = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", secure.name);
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello from the lab\n") {
                answer.push(stream.read_u8().await.unwrap());
            }
            stream.shutdown().await.unwrap();
        })
        .await;
    });
}

#[test]
fn a_handshake_that_a_limit_ends() {
    alone(async || {
        let silent = Server::start(|mut peer| async move { peer.read_to_end(&mut Vec::new()).await.map(drop) }).await;
        let tls = overdue::TlsOptions::default().dangerously_trust_anything();
        let connector = Connector::new().tls(&tls, &[]).unwrap();
        let connector = connector.limit(Limit::stage(overdue::Stage::Tls, 20 * MS));
        leaves_nothing(async || drop(connector.connect(&root(), &silent.addr.to_string()).await.unwrap_err())).await;
    });
}

#[test]
fn a_unix_socket() {
    alone(async || {
        let path = std::env::temp_dir().join(format!("overdue-cancelling-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let echo = tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = peer.split();
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = writer.shutdown().await;
                });
            }
        });
        let target = format!("unix:{}", path.display());
        leaves_nothing(async || exchange(Stream::connect(&root(), &target).await.unwrap(), BYTES).await).await;
        echo.abort();
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn a_listener() {
    alone(async || {
        leaves_nothing(async || {
            let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            listener.handle().set_accept_deadline(5 * MS);
            listener.accept().await.unwrap_err();
            listener.handle().set_deadline(LONG);
            let address = listener.local_addr().unwrap().to_string();
            let context = root();
            let (accepted, connected) = tokio::join!(listener.accept(), Stream::connect(&context, &address));
            let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
            accepted.set_deadline(LONG);
            let (read, written) = tokio::join!(accepted.read_u8(), connected.write_all(b"x"));
            assert_eq!((read.unwrap(), written.unwrap()), (b'x', ()));
        })
        .await;
    });
}

#[tokio::test]
async fn an_accept_that_is_dropped_takes_nobody_with_it() {
    use futures_util::FutureExt as _;

    let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for _ in 0..20 {
        assert!(listener.accept().now_or_never().is_none());
        let connected = Stream::connect(&root(), &address).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().peer_addr(), connected.local_addr());
    }
}
