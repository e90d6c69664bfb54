//! `struct tcp_info`, read from the bytes that the kernel gave.
//!
//! The struct grows with the kernel, so it is read by offset and by how much of it came: a field that an older kernel
//! does not have is `None`, and what a newer one appends is ignored. The offsets are those of
//! `include/uapi/linux/tcp.h` and never change. (libc's `tcp_info` ends before the first of the later fields.)

use crate::facts::{TcpInfo, TcpState};

/// Reads what `TCP_INFO` returned; `None` when even the fields that every kernel has are missing.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<TcpInfo> {
    Some(TcpInfo {
        state: state(u8_at(bytes, 0)?),
        retransmits: u8_at(bytes, 2)?,
        probes: u8_at(bytes, 3)?,
        backoff: u8_at(bytes, 4)?,
        rto_us: u32_at(bytes, 8)?,
        snd_mss: u32_at(bytes, 16)?,
        unacked: u32_at(bytes, 24)?,
        sacked: u32_at(bytes, 28)?,
        lost: u32_at(bytes, 32)?,
        last_data_sent_ms: u32_at(bytes, 44)?,
        last_data_recv_ms: u32_at(bytes, 52)?,
        last_ack_recv_ms: u32_at(bytes, 56)?,
        pmtu: u32_at(bytes, 60)?,
        rtt_us: u32_at(bytes, 68)?,
        total_retrans: u32_at(bytes, 100)?,
        // Linux 4.1
        bytes_acked: u64_at(bytes, 120),
        bytes_received: u64_at(bytes, 128),
        // Linux 4.6
        notsent_bytes: u32_at(bytes, 144),
        // Linux 4.10
        busy_us: u64_at(bytes, 168),
        rwnd_limited_us: u64_at(bytes, 176),
        sndbuf_limited_us: u64_at(bytes, 184),
        // Linux 5.4
        rcv_ooopack: u32_at(bytes, 224),
        snd_wnd: u32_at(bytes, 228),
    })
}

/// The numbers of `include/net/tcp_states.h`.
#[must_use]
pub fn state(number: u8) -> TcpState {
    match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 => TcpState::SynReceived,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Close,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        // 12 is a request that is not yet a connection.
        12 => TcpState::SynReceived,
        _ => TcpState::Unknown,
    }
}

fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}
