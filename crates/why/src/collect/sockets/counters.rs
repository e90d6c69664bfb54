//! Counters of a network namespace.

use crate::{collect::Target, observation::HostTcp};

/// Reads the counters as they stand.
pub(super) fn read(target: &Target) -> Option<HostTcp> {
    let netstat = target.read_text(&target.shared("net/netstat"), 64 * 1024).ok()?;
    let snmp = target.read_text(&target.shared("net/snmp"), 64 * 1024).ok()?;
    parse(&netstat, &snmp)
}

/// Both tables have pairs of lines: names, then numbers.
fn parse(netstat: &str, snmp: &str) -> Option<HostTcp> {
    let (ext, tcp) = (Table::of(netstat, "TcpExt:")?, Table::of(snmp, "Tcp:")?);
    Some(HostTcp {
        listen_overflows: ext.get("ListenOverflows"),
        listen_drops: ext.get("ListenDrops"),
        syncookies_sent: ext.get("SyncookiesSent"),
        retransmitted_segments: tcp.get("RetransSegs"),
        sent_segments: tcp.get("OutSegs"),
        resets_sent: tcp.get("OutRsts"),
        active_opens: tcp.get("ActiveOpens"),
        passive_opens: tcp.get("PassiveOpens"),
        attempt_fails: tcp.get("AttemptFails"),
        established_resets: tcp.get("EstabResets"),
    })
}

/// What was counted since.
pub(super) fn since(before: &HostTcp, now: &HostTcp) -> HostTcp {
    HostTcp {
        listen_overflows: now.listen_overflows.saturating_sub(before.listen_overflows),
        listen_drops: now.listen_drops.saturating_sub(before.listen_drops),
        syncookies_sent: now.syncookies_sent.saturating_sub(before.syncookies_sent),
        retransmitted_segments: now.retransmitted_segments.saturating_sub(before.retransmitted_segments),
        sent_segments: now.sent_segments.saturating_sub(before.sent_segments),
        resets_sent: now.resets_sent.saturating_sub(before.resets_sent),
        active_opens: now.active_opens.saturating_sub(before.active_opens),
        passive_opens: now.passive_opens.saturating_sub(before.passive_opens),
        attempt_fails: now.attempt_fails.saturating_sub(before.attempt_fails),
        established_resets: now.established_resets.saturating_sub(before.established_resets),
    }
}

struct Table<'a>(&'a str, &'a str);

impl<'a> Table<'a> {
    fn of(text: &'a str, prefix: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        Some(Self(lines.next()?, lines.next()?))
    }

    fn get(&self, name: &str) -> u64 {
        let names = self.0.split_ascii_whitespace();
        let mut both = names.zip(self.1.split_ascii_whitespace());
        both.find(|&(found, _)| found == name).and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn differences_of_what_the_kernel_counts() {
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 2 3\nIpExt: InNoRoutes\nIpExt: 0\n";
        let snmp = "Tcp: MaxConn ActiveOpens OutSegs RetransSegs\nTcp: -1 5 6 7\n";
        let before = parse(netstat, snmp).unwrap();
        assert_eq!((before.listen_overflows, before.active_opens, before.retransmitted_segments), (2, 5, 7));
        let now = HostTcp { listen_overflows: 12, ..before };
        assert_eq!(since(&before, &now), HostTcp { listen_overflows: 10, ..HostTcp::default() });
    }

    proptest! {
        #[test]
        fn garbage_is_counted_as_nothing(text in "(TcpExt: [a-zA-Z0-9 ]*\n|Tcp: [0-9 ]*\n){0,5}") {
            let _ = parse(&text, &text);
        }
    }
}
