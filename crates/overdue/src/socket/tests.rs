//! Real connections on loopback, and bytes that no kernel would send.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use overdue_core::facts::{ListenerFacts, OsFailure, PeerSocketFacts, SocketFacts, TcpState};
use socket2::{Domain, Socket, Type};

use super::{classify, linux, observe, sock_diag};

fn look_once(stream: &TcpStream) -> SocketFacts {
    observe(stream.as_fd(), stream.local_addr().ok(), stream.peer_addr().ok())
}

/// A look at both sides. What all tests may look up in one second is limited.
fn look(stream: &TcpStream) -> SocketFacts {
    loop {
        let facts = look_once(stream);
        if !facts.peer_unasked {
            return facts;
        }
        std::thread::yield_now();
    }
}

/// Looks until it sees what loopback delivers at once, give or take a scheduler.
fn look_until(stream: &TcpStream, seen: impl Fn(&SocketFacts) -> bool) -> SocketFacts {
    for _ in 0..100_000 {
        let facts = look(stream);
        if seen(&facts) {
            return facts;
        }
        std::thread::yield_now();
    }
    panic!("never seen; last: {:?}", look(stream));
}

fn listen(address: &str, backlog: i32) -> (Socket, SocketAddr) {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified()).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    let bound = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, bound)
}

fn pair() -> (TcpStream, TcpStream, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server, listener)
}

#[test]
fn a_storm_of_failures_asks_for_the_peer_no_more_and_says_so() {
    let (client, _server, _listener) = pair();
    assert!(look(&client).peer_socket.is_some());
    let unasked = (0..1_000_000).map(|_| look_once(&client)).find(|facts| facts.peer_unasked).unwrap();
    assert_eq!((unasked.peer_socket, unasked.listener), (None, None));
    assert_eq!(unasked.tcp.unwrap().state, TcpState::Established);
    // Another second, another look.
    assert!(look(&client).peer_socket.is_some());
}

#[test]
fn an_established_connection_tells_what_was_acknowledged_and_received() {
    let (mut client, mut server, listener) = pair();
    client.write_all(b"hello").unwrap();
    let mut buf = [0; 5];
    server.read_exact(&mut buf).unwrap();
    server.write_all(b"good morning").unwrap();

    let facts = look_until(&client, |facts| facts.unread_bytes == Some(12) && facts.unsent_bytes == Some(0));
    let tcp = facts.tcp.unwrap();
    assert_eq!(facts.peer, listener.local_addr().unwrap().to_string());
    assert_eq!(tcp.state, TcpState::Established);
    // The kernel counts our SYN too.
    assert!(matches!(tcp.bytes_acked, Some(5 | 6)), "{tcp:?}");
    assert_eq!(tcp.bytes_received, Some(12));
    assert_eq!((tcp.unacked, tcp.retransmits, tcp.notsent_bytes), (0, 0, Some(0)));
    assert!(tcp.snd_wnd.is_some_and(|bytes| bytes > 0), "{tcp:?}");
    assert_eq!(tcp.rcv_ooopack, Some(0));
    assert!(tcp.rto_us > 0 && tcp.snd_mss > 0 && tcp.pmtu > tcp.snd_mss, "{tcp:?}");
    assert!(facts.cookie.is_some_and(|cookie| cookie != 0));
    assert_eq!(facts.peer_socket, Some(PeerSocketFacts { unread_bytes: 0, unacked_bytes: 0 }));
    assert!(facts.listener.is_some_and(|listener| listener.queued == 0 && listener.backlog > 0));
}

#[test]
fn a_peer_that_does_not_read_is_seen_from_its_own_queue() {
    let (mut client, _server, _listener) = pair();
    client.write_all(&[7; 1000]).unwrap();
    let facts = look_until(&client, |facts| facts.unsent_bytes == Some(0));
    assert_eq!(facts.peer_socket.unwrap().unread_bytes, 1000);
}

#[test]
fn a_connection_that_nobody_accepted_yet_has_another_end_and_is_counted_in_the_queue() {
    let (_listener, address) = listen("127.0.0.1:0", 8);
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"x").unwrap();
    let facts = look_until(&client, |facts| facts.unsent_bytes == Some(0));
    assert_eq!(facts.peer_socket.unwrap().unread_bytes, 1);
    assert_eq!(facts.listener, Some(ListenerFacts { queued: 1, backlog: 8 }));
}

#[test]
fn a_full_accept_queue_is_told_from_a_filter() {
    let (_listener, address) = listen("127.0.0.1:0", 0);
    let _first = TcpStream::connect(address).unwrap();
    let second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    second.set_nonblocking(true).unwrap();
    assert!(second.connect(&address.into()).is_err());
    let local = second.local_addr().unwrap().as_socket();

    let facts = observe(second.as_fd(), local, Some(address));
    assert_eq!(facts.tcp.unwrap().state, TcpState::SynSent);
    assert_eq!(facts.listener, Some(ListenerFacts { queued: 1, backlog: 0 }));
    assert!(facts.listener.unwrap().is_full());
    assert_eq!(facts.peer_socket, None);
}

#[test]
fn wildcard_dual_stack_and_specific_listeners_are_found() {
    for (bind, connect, backlog) in [
        ("0.0.0.0:0", IpAddr::from(Ipv4Addr::LOCALHOST), 11),
        ("[::]:0", Ipv4Addr::LOCALHOST.into(), 12),
        ("[::]:0", Ipv6Addr::LOCALHOST.into(), 13),
        ("[::1]:0", Ipv6Addr::LOCALHOST.into(), 14),
        ("127.0.0.2:0", Ipv4Addr::new(127, 0, 0, 2).into(), 15),
    ] {
        let (listener, bound) = listen(bind, backlog);
        let client = TcpStream::connect(SocketAddr::new(connect, bound.port())).unwrap();
        let expected = ListenerFacts { queued: 0, backlog: u32::try_from(backlog).unwrap() };
        let (_server, _) = listener.accept().unwrap();
        let facts = look(&client);
        assert_eq!(facts.listener, Some(expected), "{bind} reached at {connect}");
        assert_eq!(facts.peer_socket, Some(PeerSocketFacts { unread_bytes: 0, unacked_bytes: 0 }), "{bind}");
        // As when the own address is not known.
        let peer = client.peer_addr().unwrap();
        assert_eq!(sock_diag::ask(None, peer, None).listener, Some(expected), "{bind} listed for {connect}");
    }
}

fn share(address: SocketAddr, backlog: i32) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

#[test]
fn the_listener_of_the_very_address_wins_over_the_wildcard() {
    let wildcard = share("0.0.0.0:0".parse().unwrap(), 9);
    let port = wildcard.local_addr().unwrap().as_socket().unwrap().port();
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 3), port));
    let _specific = share(address, 3);
    let backlog = |address| sock_diag::ask(None, address, None).listener.map(|listener| listener.backlog);
    assert_eq!(backlog(address), Some(3));
    assert_eq!(backlog(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), Some(9));
}

#[test]
fn of_listeners_that_share_a_port_the_one_with_room_stands_for_them() {
    let first = share("127.0.0.1:0".parse().unwrap(), 0);
    let address = first.local_addr().unwrap().as_socket().unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let _second = share(address, 5);
    let here = sock_diag::ask(None, address, None);
    assert_eq!(here.listener, Some(ListenerFacts { queued: 0, backlog: 5 }));
}

#[test]
fn an_ipv6_only_listener_does_not_serve_ipv4() {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    socket.listen(6).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let listener = |ip: IpAddr| sock_diag::ask(None, SocketAddr::new(ip, port), None).listener;
    assert_eq!(listener(Ipv4Addr::LOCALHOST.into()), None);
    assert_eq!(listener(Ipv6Addr::LOCALHOST.into()), Some(ListenerFacts { queued: 0, backlog: 6 }));
}

#[test]
fn a_port_without_listener_and_a_peer_elsewhere_have_neither() {
    let (listener, address) = listen("0.0.0.0:0", 4);
    let elsewhere = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 7), address.port()));
    assert_eq!(sock_diag::ask(None, elsewhere, None), sock_diag::PeerHere::default());
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    assert!(sock_diag::ask(None, loopback, None).listener.is_some());
    drop(listener);
    assert_eq!(sock_diag::ask(None, loopback, None), sock_diag::PeerHere::default());
}

#[test]
fn a_socket_of_another_network_namespace_is_not_looked_up() {
    let (client, _server, _listener) = pair();
    let Some(cookie) = linux::netns_cookie(client.as_fd()) else { return };
    let (local, peer) = (client.local_addr().ok(), client.peer_addr().unwrap());
    assert!(sock_diag::ask(local, peer, Some(cookie)).peer_socket.is_some());
    assert_eq!(sock_diag::ask(local, peer, Some(cookie + 1)), sock_diag::PeerHere::default());
}

#[test]
fn what_is_no_tcp_socket_has_no_tcp_facts() {
    let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
    let facts = observe(left.as_fd(), None, None);
    assert_eq!((facts.tcp, facts.listener, facts.peer_socket), (None, None, None));
}

#[test]
fn errors_are_sorted_by_what_they_mean() {
    for (code, class) in [
        (libc::ECONNREFUSED, OsFailure::Refused),
        (libc::ECONNRESET, OsFailure::Reset),
        (libc::EPIPE, OsFailure::Reset),
        (libc::ECONNABORTED, OsFailure::Reset),
        (libc::ETIMEDOUT, OsFailure::KernelTimeout),
        (libc::EHOSTUNREACH, OsFailure::Unreachable),
        (libc::ENETUNREACH, OsFailure::Unreachable),
        (libc::ENETDOWN, OsFailure::Unreachable),
        (libc::EHOSTDOWN, OsFailure::Unreachable),
        (libc::EADDRNOTAVAIL, OsFailure::AddressNotAvailable),
        (libc::EMFILE, OsFailure::NoDescriptors),
        (libc::ENFILE, OsFailure::NoDescriptors),
        (libc::EACCES, OsFailure::Other),
    ] {
        assert_eq!(classify(&io::Error::from_raw_os_error(code)), class, "{code}");
    }
    assert_eq!(classify(&io::ErrorKind::TimedOut.into()), OsFailure::Other);
    assert_eq!(classify(&io::ErrorKind::BrokenPipe.into()), OsFailure::Reset);
}
