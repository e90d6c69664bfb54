//! `/proc/PID/net/tcp` and `tcp6`: for a namespace that may not be entered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use overdue_core::{
    facts::TcpState,
    kernel::{netlink::InetSocket, tcp_info},
};

/// One line. The table knows no cookie: the inode stands for it. Nor does it know how many connections may wait at a
/// listener: `u32::MAX` stands for that, so that none is ever called full.
pub(in crate::collect) fn parse(line: &str) -> Option<InetSocket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = tcp_info::state(u8::from_str_radix(fields.next()?, 16).ok()?);
    let (unsent, unread) = pair(fields.next()?)?;
    let (timer, expires) = pair(fields.next()?)?;
    let fired = u32::from_str_radix(fields.next()?, 16).ok()?;
    let inode: u64 = fields.nth(2)?.parse().ok()?;
    Some(InetSocket {
        state,
        local,
        remote,
        interface: 0,
        rqueue: unread,
        wqueue: if state == TcpState::Listen { u32::MAX } else { unsent },
        v6_only: false,
        cookie: inode,
        inode: u32::try_from(inode).ok()?,
        timer: u8::try_from(timer).ok()?,
        timer_fired: u8::try_from(fired).unwrap_or(u8::MAX),
        // In ticks of a hundredth of a second.
        timer_expires_ms: expires.saturating_mul(10),
        info: None,
        drops: None,
    })
}

/// Two hexadecimal numbers.
fn pair(text: &str) -> Option<(u32, u32)> {
    let (first, second) = text.split_once(':')?;
    // A timer that is overdue is written as a negative number, in 64 bits.
    let number = |text| u64::from_str_radix(text, 16).ok().map(|number| u32::try_from(number).unwrap_or(0));
    Some((number(first)?, number(second)?))
}

/// `0100007F:1F90`: words of the machine's own byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(host.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match host.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_as_the_kernel_writes_them() {
        let line = "   3: 0100007F:9743 0200007F:01BB 08 00000005:00000007 01:00000014 00000002     0        0 2331788 1 0000000000000000 100 0 0 10 0";
        let socket = parse(line).unwrap();
        assert_eq!(
            (socket.local.to_string(), socket.remote.to_string()),
            ("127.0.0.1:38723".into(), "127.0.0.2:443".into())
        );
        assert_eq!((socket.state, socket.rqueue, socket.wqueue), (TcpState::CloseWait, 7, 5));
        assert_eq!((socket.timer, socket.timer_expires_ms, socket.timer_fired, socket.inode), (1, 200, 2, 2_331_788));
        let line = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000001 00:FFFFFFFFFFFFFFFF 00000000 0 0 9 1";
        let socket = parse(line).unwrap();
        assert_eq!(socket.local.to_string(), "[::1]:8080");
        assert_eq!((socket.state, socket.rqueue, socket.wqueue), (TcpState::Listen, 1, u32::MAX));
        assert_eq!(parse("  sl  local_address rem_address   st tx_queue"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_socket(line in "\\PC*", hex in "[ 0-9A-F:]{0,200}") {
            let _ = (parse(&line), parse(&hex));
        }
    }
}
