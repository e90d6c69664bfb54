//! Bytes as a kernel writes them, and bytes that no kernel would send.

use proptest::prelude::*;

use super::{netlink, tcp_info};
use crate::facts::TcpState;

#[test]
fn an_older_kernels_tcp_info_has_no_newer_fields() {
    let mut bytes = [0_u8; 232];
    for (at, byte) in (0_u8..).zip(&mut bytes) {
        *byte = at;
    }
    let at = |offset: u8| u32::from_ne_bytes([offset, offset + 1, offset + 2, offset + 3]);
    let full = tcp_info::parse(&bytes).unwrap();
    assert_eq!((full.retransmits, full.probes, full.backoff), (2, 3, 4));
    assert_eq!((full.rto_us, full.rtt_us, full.total_retrans), (at(8), at(68), at(100)));
    assert_eq!((full.notsent_bytes, full.rcv_ooopack, full.snd_wnd), (Some(at(144)), Some(at(224)), Some(at(228))));

    let before_5_4 = tcp_info::parse(&bytes[..224]).unwrap();
    assert_eq!((before_5_4.rcv_ooopack, before_5_4.snd_wnd), (None, None));
    assert_eq!(before_5_4.sndbuf_limited_us, full.sndbuf_limited_us);
    let oldest = tcp_info::parse(&bytes[..104]).unwrap();
    assert_eq!((oldest.bytes_acked, oldest.notsent_bytes, oldest.busy_us), (None, None, None));
    assert_eq!(tcp_info::parse(&bytes[..103]), None);
    assert_eq!(tcp_info::parse(&[]), None);
}

/// A reply as the kernel writes it, to be damaged.
fn reply() -> Vec<u8> {
    let mut message = vec![10, 10, 0, 0];
    message.extend(443_u16.to_be_bytes());
    message.extend([0; 2]);
    message.extend([0; 64]);
    message.extend([5, 0, 11, 0, 1, 0, 0, 0]);
    let mut bytes = netlink::frame(netlink::SOCK_DIAG_BY_FAMILY, 0, 7, &message).unwrap();
    bytes.extend(netlink::frame(netlink::DONE, 0, 7, &[0; 4]).unwrap());
    bytes
}

fn read_all(datagram: &[u8]) -> usize {
    netlink::messages(datagram)
        .map(|message| {
            let _ = (message.inet_socket(), message.unix_socket(), message.is_local_route(), message.errno());
        })
        .count()
}

#[test]
fn a_reply_is_read() {
    let bytes = reply();
    let messages: Vec<_> = netlink::messages(&bytes).collect();
    assert_eq!(messages.len(), 2);
    let socket = messages[0].inet_socket().unwrap();
    assert_eq!((socket.state, socket.local.port(), socket.v6_only), (TcpState::Listen, 443, true));
    assert_eq!((messages[1].kind, messages[1].sequence), (netlink::DONE, 7));
    assert_eq!(messages[1].inet_socket(), None);
}

#[test]
fn a_unix_socket_names_its_peer() {
    let unix = |attributes: &[u8]| {
        let mut message = vec![1, 1, 1, 0];
        message.extend([0; 12]);
        message.extend(attributes);
        let bytes = netlink::frame(netlink::SOCK_DIAG_BY_FAMILY, 0, 7, &message).unwrap();
        netlink::messages(&bytes).next().unwrap().unix_socket()
    };
    // A path and, after what is added to begin at a multiple of four, the inode of the peer.
    let mut attributes = vec![9, 0, 0, 0];
    attributes.extend(b"/run\0\0\0\0");
    attributes.extend([8, 0, 2, 0]);
    attributes.extend(77_u32.to_ne_bytes());
    let socket = unix(&attributes).unwrap();
    assert_eq!((socket.peer, socket.name.as_deref()), (Some(77), Some(b"/run\0".as_slice())));
    let nameless = unix(&[4, 0, 0, 0]).unwrap();
    assert_eq!((nameless.peer, nameless.name), (None, None));
    // A socket of another family.
    assert_eq!(netlink::messages(&reply()).next().unwrap().unix_socket(), None);
    assert_eq!(netlink::unix_request(77).len(), 24);
}

#[test]
fn one_socket_and_no_other_is_named_by_its_cookie() {
    let bytes = reply();
    let mut socket = netlink::messages(&bytes).find_map(|message| message.inet_socket()).unwrap();
    (socket.interface, socket.cookie) = (3, 0x0102_0304_0506_0708);
    let request = netlink::this_request(&socket);
    // As long as the one that leaves both open.
    assert_eq!(request.len(), netlink::inet_request(socket.local, None, netlink::ALL_STATES, 0).len());
    let [interface, low, high] = [12, 8, 4].map(|from_end| {
        let at = request.len() - from_end;
        u32::from_ne_bytes(*request[at..].first_chunk().unwrap())
    });
    assert_eq!((interface, low, high), (3, 0x0506_0708, 0x0102_0304));
}

#[test]
fn an_acknowledgement_is_no_error() {
    let of = |number: i32| netlink::frame(netlink::ERROR, 0, 7, &number.to_ne_bytes()).unwrap();
    let errno = |bytes: &[u8]| netlink::messages(bytes).next().unwrap().errno();
    assert_eq!((errno(&of(0)), errno(&of(-1)), errno(&of(i32::MIN))), (Some(0), Some(1), None));
    assert_eq!(errno(&netlink::frame(netlink::ERROR, 0, 7, &[0; 3]).unwrap()), None);
    assert_eq!(errno(&netlink::frame(netlink::DONE, 0, 7, &[0; 4]).unwrap()), None);
}

proptest! {
    #[test]
    fn garbage_from_netlink_is_skipped(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read_all(&bytes) <= bytes.len() / 16);
    }

    #[test]
    fn a_damaged_reply_is_skipped(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = reply();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(read_all(&bytes) <= bytes.len() / 16);
    }

    #[test]
    fn any_bytes_are_read_as_tcp_info_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(tcp_info::parse(&bytes).is_some(), bytes.len() >= 104);
    }
}
