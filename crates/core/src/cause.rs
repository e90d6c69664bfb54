//! The catalogue of causes: one id for each thing that can go wrong, the same in the library, the gateway's log, the
//! diagnoser, the lab's truth and the metrics.
//!
//! [`Cause`] is the id, [`Entry`] what the catalogue says about it. [`Cause::entry`] is an exhaustive match, so a new
//! variant without a text does not compile; one that is missing in [`Cause::ALL`] does not compile either.

mod texts;

use std::{error, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What the other side, the path, the configuration or the process itself did.
///
/// Ids are never reused or renamed. `Ord` is the order of the catalogue, which is no order of severity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cause {
    // A call.
    /// Queries were sent, no server answered.
    DnsNoAnswer,
    /// The name was resolved after most of the budget.
    DnsSlow,
    /// A server answered, with an error or without a usable record.
    DnsFailed,
    /// SYNs were sent; no SYN-ACK, RST or ICMP came back.
    SynUnanswered,
    /// The listener's accept queue is full, so the kernel ignores the handshake.
    AcceptQueueFull,
    /// The SYN was answered with RST.
    ConnectRefused,
    /// No route, or ICMP said so.
    Unreachable,
    /// The SYN-ACK came after most of the budget.
    ConnectSlow,
    /// No local port is free for this destination.
    PortsExhausted,
    /// No file descriptor is left.
    FdExhausted,
    /// The `ClientHello` was acknowledged, no `ServerHello` came.
    TlsPeerSilent,
    /// Handshake records arrive, too slowly.
    TlsSlow,
    /// The peer ended the handshake with an alert.
    TlsRejected,
    /// The peer's certificate does not verify.
    TlsUntrusted,
    /// The peer answered with something that is not TLS.
    TlsNotTls,
    /// The peer's receive window is closed: its application does not read.
    PeerNotReading,
    /// The caller's own request body gives no bytes.
    SenderSlow,
    /// Sent data is not acknowledged, the retransmission timer backs off.
    PathLost,
    /// Small segments pass, full-sized ones do not.
    MtuBlackhole,
    /// HTTP/2 flow control stops the body.
    H2WindowBlocked,
    /// Every connection carries its maximum of HTTP/2 streams.
    H2StreamsExhausted,
    /// The peer reset the connection.
    PeerReset,
    /// The request was acknowledged, no byte of the response came.
    ServerSlow,
    /// A part of the response head came, then silence or a trickle.
    HeadStalled,
    /// The peer closed before the head, or in the middle of the body.
    ClosedEarly,
    /// A part of the body came, then silence on a healthy path.
    BodyStalled,
    /// The body comes at a rate that cannot meet the deadline.
    BodySlow,
    /// Our own side does not read what has arrived.
    ReaderSlow,
    /// All connections or permits of the host are in use.
    PoolExhausted,
    /// Refused locally by the circuit breaker.
    BreakerOpen,
    /// The remaining time could not fit the work; nothing was sent.
    BudgetSpent,
    /// The process itself was late.
    LocalStall,
    /// The context was cancelled.
    CancelledByCaller,
    /// The peer broke the framing of its protocol.
    ProtocolError,

    // A configuration.
    /// An outer limit is shorter than the sum of what runs inside it.
    LimitInverted,
    /// A stage of a hop has no limit.
    LimitMissing,
    /// A limit can never fire because another always fires first.
    LimitShadowed,
    /// Caller and callee have the same limit.
    LimitEqual,
    /// Retries at several hops multiply.
    RetryAmplifies,
    /// A hop starts its own clock instead of using what remains.
    DeadlineNotForwarded,
    /// The server closes idle connections before the client stops using them.
    KeepaliveRace,

    // A process.
    /// Polling at a high rate with timeout 0 and nothing ready.
    SpinZeroTimeout,
    /// Polling at a high rate with a timeout of about 1 ms.
    SpinShortTimer,
    /// The peer's FIN makes the same descriptor ready for ever.
    SpinHalfClosed,
    /// An unhandled `EPOLLERR` or `EPOLLHUP` makes the same descriptor ready for ever.
    SpinErrorFd,
    /// The listener is ready for ever, accept fails for a reason other than `EMFILE`.
    SpinAcceptError,
    /// The listener is ready for ever, accept fails with `EMFILE`.
    SpinAcceptEmfile,
    /// Open descriptors grow and near the limit.
    FdLeak,
    /// The peers closed, the application never does.
    CloseWaitPileup,
    /// Our side shut down its write half and waits.
    FinWait2Pileup,
    /// Half-open inbound handshakes grow.
    HalfOpenPileup,
    /// Our own listener's accept queue is full.
    AcceptQueueOverflow,
    /// TLS handshakes fail at a high rate.
    TlsHandshakeStorm,
    /// Connections are opened and reset at a high rate, with little work done.
    ConnectionChurn,
    /// Idle established sockets that nothing will ever close.
    NoKeepalive,
    /// Blocked without a timer: nothing will ever end the wait.
    WaitUnlimited,
    /// Threads in uninterruptible sleep.
    IoStuck,
    /// Tasks grow while the heap does not: all wait for the same thing.
    TaskBacklog,
    /// Tasks and heap grow together, and the tasks never end.
    TaskLeak,
    /// Event-loop threads sit in a blocking call or lock.
    RuntimeBlocked,
    /// Many callers queue behind few blocking resolver threads.
    DnsSerialised,
    /// The process gets no CPU: a quota, or starvation.
    CpuThrottled,
    /// The process is not waiting at all.
    CpuBusy,
    /// Healthy itself: it waits for this peer, at this stage.
    WaitsUpstream,
    /// A call runs on after its own deadline.
    DeadlineIgnored,

    // Last, because the check of `ALL` counts up to it.
    /// The evidence does not name a cause.
    Unknown,
}

/// A table of the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Group {
    /// What can end one call.
    Call,
    /// What is wrong in a chain of configured limits, before any call is made.
    Configuration,
    /// What is wrong with a running process as a whole.
    Process,
}

/// What the catalogue says about a cause. Plain ASCII; backticks enclose a command, a field of its output, or the id of
/// another cause. `HOST`, `PORT`, `PID` and other words in capitals are to be replaced by the reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The id, in kebab-case.
    pub id: &'static str,
    /// The table it belongs to.
    pub group: Group,
    /// The stages where it shows, in words of [`Stage`](crate::Stage), and `accept` for a server; `any` when it is not
    /// tied to one.
    pub stages: &'static [&'static str],
    /// One line of less than 70 characters.
    pub title: &'static str,
    /// What happened, in two to four sentences.
    pub meaning: &'static str,
    /// What else looks like this, and how to tell it apart.
    pub look_alikes: &'static str,
    /// One to four commands or observations that confirm it by hand.
    pub confirm: &'static [&'static str],
    /// One to four things to change.
    pub fix: &'static [&'static str],
}

impl Cause {
    /// Every cause, in the order of the catalogue.
    pub const ALL: &'static [Self] = &[
        Self::DnsNoAnswer,
        Self::DnsSlow,
        Self::DnsFailed,
        Self::SynUnanswered,
        Self::AcceptQueueFull,
        Self::ConnectRefused,
        Self::Unreachable,
        Self::ConnectSlow,
        Self::PortsExhausted,
        Self::FdExhausted,
        Self::TlsPeerSilent,
        Self::TlsSlow,
        Self::TlsRejected,
        Self::TlsUntrusted,
        Self::TlsNotTls,
        Self::PeerNotReading,
        Self::SenderSlow,
        Self::PathLost,
        Self::MtuBlackhole,
        Self::H2WindowBlocked,
        Self::H2StreamsExhausted,
        Self::PeerReset,
        Self::ServerSlow,
        Self::HeadStalled,
        Self::ClosedEarly,
        Self::BodyStalled,
        Self::BodySlow,
        Self::ReaderSlow,
        Self::PoolExhausted,
        Self::BreakerOpen,
        Self::BudgetSpent,
        Self::LocalStall,
        Self::CancelledByCaller,
        Self::ProtocolError,
        Self::LimitInverted,
        Self::LimitMissing,
        Self::LimitShadowed,
        Self::LimitEqual,
        Self::RetryAmplifies,
        Self::DeadlineNotForwarded,
        Self::KeepaliveRace,
        Self::SpinZeroTimeout,
        Self::SpinShortTimer,
        Self::SpinHalfClosed,
        Self::SpinErrorFd,
        Self::SpinAcceptError,
        Self::SpinAcceptEmfile,
        Self::FdLeak,
        Self::CloseWaitPileup,
        Self::FinWait2Pileup,
        Self::HalfOpenPileup,
        Self::AcceptQueueOverflow,
        Self::TlsHandshakeStorm,
        Self::ConnectionChurn,
        Self::NoKeepalive,
        Self::WaitUnlimited,
        Self::IoStuck,
        Self::TaskBacklog,
        Self::TaskLeak,
        Self::RuntimeBlocked,
        Self::DnsSerialised,
        Self::CpuThrottled,
        Self::CpuBusy,
        Self::WaitsUpstream,
        Self::DeadlineIgnored,
        Self::Unknown,
    ];

    /// The id, in kebab-case.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.entry().id
    }

    /// The table of the catalogue it belongs to.
    #[must_use]
    pub const fn group(self) -> Group {
        self.entry().group
    }

    /// Whether it is by nature something to know and no verdict: it is printed, and the exit code stays 0.
    ///
    /// [`WaitUnlimited`](Self::WaitUnlimited) is one too, but becomes a verdict where the stalled time goes there; who
    /// judges knows that, the catalogue does not.
    #[must_use]
    pub const fn is_advisory(self) -> bool {
        matches!(self, Self::NoKeepalive | Self::WaitUnlimited | Self::CpuBusy)
    }

    /// What the catalogue says about it.
    #[must_use]
    pub const fn entry(self) -> &'static Entry {
        match self {
            Self::DnsNoAnswer => &texts::connection::DNS_NO_ANSWER,
            Self::DnsSlow => &texts::connection::DNS_SLOW,
            Self::DnsFailed => &texts::connection::DNS_FAILED,
            Self::SynUnanswered => &texts::connection::SYN_UNANSWERED,
            Self::AcceptQueueFull => &texts::connection::ACCEPT_QUEUE_FULL,
            Self::ConnectRefused => &texts::connection::CONNECT_REFUSED,
            Self::Unreachable => &texts::connection::UNREACHABLE,
            Self::ConnectSlow => &texts::connection::CONNECT_SLOW,
            Self::PortsExhausted => &texts::connection::PORTS_EXHAUSTED,
            Self::FdExhausted => &texts::connection::FD_EXHAUSTED,
            Self::TlsPeerSilent => &texts::connection::TLS_PEER_SILENT,
            Self::TlsSlow => &texts::connection::TLS_SLOW,
            Self::TlsRejected => &texts::connection::TLS_REJECTED,
            Self::TlsUntrusted => &texts::connection::TLS_UNTRUSTED,
            Self::TlsNotTls => &texts::connection::TLS_NOT_TLS,
            Self::PeerNotReading => &texts::exchange::PEER_NOT_READING,
            Self::SenderSlow => &texts::exchange::SENDER_SLOW,
            Self::PathLost => &texts::exchange::PATH_LOST,
            Self::MtuBlackhole => &texts::exchange::MTU_BLACKHOLE,
            Self::H2WindowBlocked => &texts::exchange::H2_WINDOW_BLOCKED,
            Self::H2StreamsExhausted => &texts::exchange::H2_STREAMS_EXHAUSTED,
            Self::PeerReset => &texts::exchange::PEER_RESET,
            Self::ServerSlow => &texts::exchange::SERVER_SLOW,
            Self::HeadStalled => &texts::exchange::HEAD_STALLED,
            Self::ClosedEarly => &texts::exchange::CLOSED_EARLY,
            Self::BodyStalled => &texts::exchange::BODY_STALLED,
            Self::BodySlow => &texts::exchange::BODY_SLOW,
            Self::ReaderSlow => &texts::exchange::READER_SLOW,
            Self::PoolExhausted => &texts::exchange::POOL_EXHAUSTED,
            Self::BreakerOpen => &texts::exchange::BREAKER_OPEN,
            Self::BudgetSpent => &texts::exchange::BUDGET_SPENT,
            Self::LocalStall => &texts::exchange::LOCAL_STALL,
            Self::CancelledByCaller => &texts::exchange::CANCELLED_BY_CALLER,
            Self::ProtocolError => &texts::exchange::PROTOCOL_ERROR,
            Self::LimitInverted => &texts::configuration::LIMIT_INVERTED,
            Self::LimitMissing => &texts::configuration::LIMIT_MISSING,
            Self::LimitShadowed => &texts::configuration::LIMIT_SHADOWED,
            Self::LimitEqual => &texts::configuration::LIMIT_EQUAL,
            Self::RetryAmplifies => &texts::configuration::RETRY_AMPLIFIES,
            Self::DeadlineNotForwarded => &texts::configuration::DEADLINE_NOT_FORWARDED,
            Self::KeepaliveRace => &texts::configuration::KEEPALIVE_RACE,
            Self::SpinZeroTimeout => &texts::process::SPIN_ZERO_TIMEOUT,
            Self::SpinShortTimer => &texts::process::SPIN_SHORT_TIMER,
            Self::SpinHalfClosed => &texts::process::SPIN_HALF_CLOSED,
            Self::SpinErrorFd => &texts::process::SPIN_ERROR_FD,
            Self::SpinAcceptError => &texts::process::SPIN_ACCEPT_ERROR,
            Self::SpinAcceptEmfile => &texts::process::SPIN_ACCEPT_EMFILE,
            Self::FdLeak => &texts::process::FD_LEAK,
            Self::CloseWaitPileup => &texts::process::CLOSE_WAIT_PILEUP,
            Self::FinWait2Pileup => &texts::process::FIN_WAIT2_PILEUP,
            Self::HalfOpenPileup => &texts::process::HALF_OPEN_PILEUP,
            Self::AcceptQueueOverflow => &texts::process::ACCEPT_QUEUE_OVERFLOW,
            Self::TlsHandshakeStorm => &texts::process::TLS_HANDSHAKE_STORM,
            Self::ConnectionChurn => &texts::process::CONNECTION_CHURN,
            Self::NoKeepalive => &texts::process::NO_KEEPALIVE,
            Self::WaitUnlimited => &texts::process::WAIT_UNLIMITED,
            Self::IoStuck => &texts::process::IO_STUCK,
            Self::TaskBacklog => &texts::process::TASK_BACKLOG,
            Self::TaskLeak => &texts::process::TASK_LEAK,
            Self::RuntimeBlocked => &texts::process::RUNTIME_BLOCKED,
            Self::DnsSerialised => &texts::process::DNS_SERIALISED,
            Self::CpuThrottled => &texts::process::CPU_THROTTLED,
            Self::CpuBusy => &texts::process::CPU_BUSY,
            Self::WaitsUpstream => &texts::process::WAITS_UPSTREAM,
            Self::DeadlineIgnored => &texts::process::DEADLINE_IGNORED,
            Self::Unknown => &texts::exchange::UNKNOWN,
        }
    }
}

// With the ids in `ALL` distinct (a test), this makes it complete.
const _: () = assert!(Cause::ALL.len() == Cause::Unknown as usize + 1, "a cause is missing in Cause::ALL");

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl FromStr for Cause {
    type Err = UnknownCause;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|cause| cause.id() == id).ok_or_else(|| UnknownCause::new(id))
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl de::Visitor<'_> for IdVisitor {
            type Value = Cause;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a cause")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<Cause, E> {
                id.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(IdVisitor)
    }
}

/// A text that is not the id of a cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownCause {
    /// What was given, cut to [`UnknownCause::SHOWN_CHARS`]: it may come from a file.
    input: Box<str>,
    nearest: Option<Cause>,
}

impl UnknownCause {
    /// How much of the input is kept. The longest id is far shorter.
    const SHOWN_CHARS: usize = 64;

    fn new(input: &str) -> Self {
        let input: Box<str> = input.chars().take(Self::SHOWN_CHARS).collect();
        let nearest = nearest(&input);
        Self { input, nearest }
    }

    /// The cause whose id is the most like the input, if any is like it.
    #[must_use]
    pub const fn nearest(&self) -> Option<Cause> {
        self.nearest
    }
}

impl fmt::Display for UnknownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `{:?}`, because the input may hold control characters.
        write!(f, "unknown cause {:?}", self.input)?;
        match self.nearest {
            Some(cause) => write!(f, ": did you mean {cause}?"),
            None => Ok(()),
        }
    }
}

impl error::Error for UnknownCause {}

/// The cause whose id takes the fewest edits, unless that would replace most of what was written.
fn nearest(input: &str) -> Option<Cause> {
    let input = input.trim().to_lowercase().replace(['_', ' '], "-");
    let length = input.chars().count();
    Cause::ALL
        .iter()
        .map(|&cause| (edit_distance(&input, cause.id()), cause))
        .filter(|&(distance, cause)| 3 * distance < 2 * length.max(cause.id().len()))
        .min()
        .map(|(_, cause)| cause)
}

/// The number of characters to insert, remove or replace to get from `a` to `b` (Levenshtein): for suggestions of what
/// somebody may have meant.
#[must_use]
pub fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (1..=b.chars().count()).collect();
    for (above, from) in a.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, to) in row.iter_mut().zip(b.chars()) {
            left = (diagonal + usize::from(from != to)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or_else(|| a.chars().count())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Cause, Entry, Group, edit_distance};

    fn is_kebab_case(text: &str) -> bool {
        text.split('-')
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
    }

    fn texts(entry: &Entry) -> impl Iterator<Item = &'static str> {
        let lines = entry.confirm.iter().chain(entry.fix).copied();
        [entry.title, entry.meaning, entry.look_alikes].into_iter().chain(lines)
    }

    /// What backticks enclose.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn all_lists_every_cause_once_in_the_order_of_the_enum() {
        for (place, &cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(cause as usize, place, "{cause} is out of place in Cause::ALL");
        }
    }

    #[test]
    fn ids_are_unique_and_kebab_case() {
        let ids: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.id()).collect();
        assert_eq!(ids.len(), Cause::ALL.len());
        for id in ids {
            assert!(is_kebab_case(id), "{id}");
        }
    }

    /// An entry that was taken for another variant would break the promise that ids never change their meaning.
    #[test]
    fn an_id_is_the_name_of_its_variant() {
        for &cause in Cause::ALL {
            let squeezed: String = cause.id().split('-').collect();
            assert_eq!(squeezed, format!("{cause:?}").to_lowercase());
        }
    }

    #[test]
    fn ids_survive_text_and_json() {
        for &cause in Cause::ALL {
            assert_eq!(cause.to_string().parse(), Ok(cause));
            let json = serde_json::to_string(&cause).unwrap();
            assert_eq!(json, format!("\"{}\"", cause.id()));
            assert_eq!(serde_json::from_str::<Cause>(&json).unwrap(), cause);
        }
        assert_eq!(format!("{:<8}|", Cause::FdLeak), "fd-leak |");
    }

    #[test]
    fn every_entry_is_complete_and_within_its_limits() {
        for &cause in Cause::ALL {
            let entry = cause.entry();
            assert!(!entry.stages.is_empty(), "{cause}");
            assert!(entry.title.chars().count() < 70, "{cause}: {}", entry.title.len());
            assert!((1..=4).contains(&entry.confirm.len()), "{cause}: confirm");
            assert!((1..=4).contains(&entry.fix.len()), "{cause}: fix");
            let sentences = entry.meaning.matches(". ").count() + 1;
            assert!((2..=4).contains(&sentences), "{cause}: {sentences} sentences of meaning");
            for text in texts(entry) {
                assert!(!text.is_empty() && text.trim() == text, "{cause}: {text:?}");
                assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{cause}: {text:?}");
                assert!(!text.contains("  "), "{cause}: {text:?}");
            }
            for text in texts(entry).skip(1) {
                assert!(text.ends_with(['.', '?']), "{cause}: {text:?}");
            }
        }
    }

    #[test]
    fn stages_are_words_of_the_vocabulary() {
        let words =
            ["any", "queue", "resolve", "connect", "accept", "tls", "send", "wait", "receive", "handle", "stall"];
        for &cause in Cause::ALL {
            let stages = cause.entry().stages;
            assert!(stages.iter().all(|stage| words.contains(stage)), "{cause}: {stages:?}");
            assert!(!stages.contains(&"any") || stages.len() == 1, "{cause}: {stages:?}");
        }
    }

    #[test]
    fn quotes_are_closed_and_other_causes_exist() {
        for &cause in Cause::ALL {
            for text in texts(cause.entry()) {
                assert_eq!(text.matches('`').count() % 2, 0, "{cause}: {text:?}");
                for word in quoted(text).filter(|word| word.contains('-') && is_kebab_case(word)) {
                    let other = word.parse::<Cause>();
                    assert!(other.is_ok_and(|other| other != cause), "{cause} mentions {word:?}");
                }
            }
        }
    }

    #[test]
    fn groups_and_advisories_are_those_of_the_catalogue() {
        let count = |group| Cause::ALL.iter().filter(|cause| cause.group() == group).count();
        assert_eq!((count(Group::Call), count(Group::Configuration), count(Group::Process)), (35, 7, 24));
        let advisories: Vec<_> =
            Cause::ALL.iter().filter(|cause| cause.is_advisory()).map(|cause| cause.id()).collect();
        assert_eq!(advisories, ["no-keepalive", "wait-unlimited", "cpu-busy"]);
    }

    #[test]
    fn a_typo_suggests_the_right_id() {
        for (typo, meant) in [
            ("sny-unanswered", Cause::SynUnanswered),
            ("accept-queue", Cause::AcceptQueueFull),
            ("connection-refused", Cause::ConnectRefused),
            ("TLS_NOT_TLS", Cause::TlsNotTls),
            (" server slow", Cause::ServerSlow),
            ("dns-serialized", Cause::DnsSerialised),
            ("mtu-black-hole", Cause::MtuBlackhole),
        ] {
            let error = typo.parse::<Cause>().unwrap_err();
            assert_eq!(error.nearest(), Some(meant), "{typo}");
            assert_eq!(error.to_string(), format!("unknown cause {typo:?}: did you mean {meant}?"));
        }
    }

    #[test]
    fn every_slip_of_one_character_suggests_the_id() {
        for &cause in Cause::ALL {
            for place in 0..cause.id().len() {
                let mut typo = cause.id().to_owned();
                typo.replace_range(place..=place, "x");
                if let Err(error) = typo.parse::<Cause>() {
                    assert_eq!(error.nearest(), Some(cause), "{typo}");
                }
            }
        }
    }

    #[test]
    fn what_is_like_nothing_gets_no_suggestion() {
        for input in ["", "banana", "12345678901234567890"] {
            let error = input.parse::<Cause>().unwrap_err();
            assert_eq!(error.to_string(), format!("unknown cause {input:?}"));
        }
    }

    #[test]
    fn a_hostile_text_is_cut_and_escaped() {
        let error = format!("\u{1b}[2J{}", "a".repeat(1_000_000)).parse::<Cause>().unwrap_err();
        let shown = error.to_string();
        assert!(shown.len() < 120 && !shown.contains('\u{1b}'), "{shown:?}");
        assert!(serde_json::from_str::<Cause>("7").is_err());
        let json = serde_json::from_str::<Cause>("\"fd-leek\"").unwrap_err();
        assert!(json.to_string().contains("did you mean fd-leak?"), "{json}");
    }

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
