//! The time that remains, in headers: read from a caller's request, written for the next hop.
//!
//! An instant means nothing on another machine, so what crosses the wire is how long is left. Three styles are known:
//!
//! | header | style | example | unit |
//! |---|---|---|---|
//! | `grpc-timeout` | [`Style::Grpc`] | `250m` | 1 to 8 digits and one of `H M S m u n` |
//! | `x-envoy-expected-rq-timeout-ms` | [`Style::Millis`] | `250` | milliseconds |
//! | one of your choice | [`Style::Text`] | `250`, `1.5s` | milliseconds, or a duration with its unit |
//!
//! Reading is strict: what is not of the style is an error that says why, never "no limit". Where several headers come,
//! the shortest counts. Writing rounds down, so that no hop gains time; [`Style::write`] has no text for a rest that
//! would round to nothing, because some readers, Envoy among them, take `0` for "no limit".
//!
//! Nothing here knows of whom a header comes. Ask [`TrustedPeers`](super::TrustedPeers) first: an outsider that may
//! set deadlines may also make every call fail.
//!
//! ```
//! use std::time::Duration;
//! use overdue::server::propagate::{Style, TimeoutHeaders, left_for_next};
//!
//! let headers = [("host", "a.example"), ("grpc-timeout", "250m"), ("x-envoy-expected-rq-timeout-ms", "200")];
//! let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
//! let limit = TimeoutHeaders::default().read(headers).unwrap().unwrap();
//! assert_eq!(limit.to_string(), "total 200ms (header x-envoy-expected-rq-timeout-ms)");
//!
//! // 40 ms later, for the next hop, with 10 ms kept to answer in.
//! let left = left_for_next(limit.value - Duration::from_millis(40), Duration::from_millis(10));
//! let mut request = Vec::from(*b"grpc-timeout: ");
//! request.extend_from_slice(Style::Grpc.write(left).unwrap().as_bytes());
//! assert_eq!(request, b"grpc-timeout: 150000u");
//! ```

use std::{fmt, str, sync::Arc, time::Duration};

use overdue_core::{Limit, LimitName, Origin, parse_duration};

/// gRPC's header.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Envoy's header.
pub const ENVOY_TIMEOUT_MS: &str = "x-envoy-expected-rq-timeout-ms";

const NS_PER_SEC: u64 = 1_000_000_000;
/// The units of `grpc-timeout`, finest first, in nanoseconds.
const GRPC_UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', NS_PER_SEC),
    (b'M', 60 * NS_PER_SEC),
    (b'H', 3_600 * NS_PER_SEC),
];
/// The longest that `grpc-timeout` can say in one unit.
const GRPC_MAX: u64 = 99_999_999;
/// More milliseconds than these many digits are refused: that is 30,000 years.
const MILLIS_DIGITS: usize = 15;
/// The longest value of [`Style::Text`].
const TEXT_MAX: usize = 32;

/// How a header says what remains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// 1 to 8 digits and a unit: `H` hours, `M` minutes, `S` seconds, `m` milliseconds, `u` microseconds,
    /// `n` nanoseconds.
    Grpc,
    /// Milliseconds, in decimal.
    Millis,
    /// Milliseconds, or a duration with its unit as [`parse_duration`] reads it. Written as milliseconds.
    Text,
}

impl Style {
    /// Reads a value. Zero is a deadline that has passed.
    ///
    /// # Errors
    /// [`Unreadable`] says what is wrong with it.
    pub fn read(self, value: &[u8]) -> Result<Duration, Unreadable> {
        match self {
            Self::Grpc => read_grpc(value),
            Self::Millis => digits(value, MILLIS_DIGITS).map(Duration::from_millis),
            Self::Text if value.iter().all(u8::is_ascii_digit) => {
                digits(value, MILLIS_DIGITS).map(Duration::from_millis)
            }
            Self::Text if value.len() > TEXT_MAX => Err(Unreadable::TooLong { most: TEXT_MAX }),
            Self::Text => {
                let text = str::from_utf8(value).map_err(|_| Unreadable::NoDuration)?;
                parse_duration(text).map_err(|_| Unreadable::NoDuration)
            }
        }
    }

    /// Writes what remains, rounded down to what the style can say: `grpc-timeout` in the finest unit that fits, the
    /// others in milliseconds. `None` where that is nothing: the deadline has passed then, and the request must not be
    /// sent.
    #[must_use]
    pub fn write(self, remaining: Duration) -> Option<HeaderText> {
        match self {
            Self::Grpc => write_grpc(remaining),
            Self::Millis | Self::Text => match u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX) {
                0 => None,
                millis => Some(HeaderText::new(millis.min(10_u64.pow(15) - 1), None)),
            },
        }
    }
}

fn read_grpc(value: &[u8]) -> Result<Duration, Unreadable> {
    let (unit, number) = value.split_last().ok_or(Unreadable::Empty)?;
    if unit.is_ascii_digit() {
        return Err(Unreadable::NoUnit);
    }
    let (_, ns) = GRPC_UNITS.into_iter().find(|(known, _)| known == unit).ok_or(Unreadable::UnknownUnit(*unit))?;
    let number = digits(number, 8)?;
    // 8 digits of seconds and more fit well into u64 seconds.
    Ok(match ns.checked_div(NS_PER_SEC) {
        Some(secs @ 1..) => Duration::from_secs(number * secs),
        _ => Duration::from_nanos(number * ns),
    })
}

fn digits(value: &[u8], most: usize) -> Result<u64, Unreadable> {
    match value {
        [] => Err(Unreadable::Empty),
        _ if !value.iter().all(u8::is_ascii_digit) => Err(Unreadable::NoNumber),
        _ if value.len() > most => Err(Unreadable::TooLong { most }),
        _ => Ok(value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))),
    }
}

fn write_grpc(remaining: Duration) -> Option<HeaderText> {
    let ns = remaining.as_nanos();
    let fits = GRPC_UNITS.into_iter().find(|(_, unit)| ns / u128::from(*unit) <= u128::from(GRPC_MAX));
    let (unit, count) = match fits {
        Some((unit, ns_each)) => (unit, u64::try_from(ns / u128::from(ns_each)).unwrap_or(GRPC_MAX)),
        None => (b'H', GRPC_MAX),
    };
    (count > 0).then(|| HeaderText::new(count, Some(unit)))
}

/// What is left for the next hop when `reserve` is kept here, so that an answer to its lateness still arrives in time. Of
/// little no more than half is kept, and never so much that less than a millisecond is left where more remains: a short
/// deadline is still one.
#[must_use]
pub fn left_for_next(remaining: Duration, reserve: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(1);
    let left = remaining.saturating_sub(reserve.min(remaining / 2));
    left.max(LEAST).min(remaining)
}

/// The value of a header, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderText {
    bytes: [u8; Self::MAX],
    begins: usize,
}

impl HeaderText {
    /// As many digits as a u64 has, and a unit.
    const MAX: usize = 21;

    fn new(mut number: u64, unit: Option<u8>) -> Self {
        let mut text = Self { bytes: [b'0'; Self::MAX], begins: Self::MAX };
        let mut backwards = text.bytes.iter_mut().rev();
        if let (Some(unit), Some(slot)) = (unit, unit.and_then(|_| backwards.next())) {
            *slot = unit;
            text.begins -= 1;
        }
        for slot in backwards {
            let digit = (number % 10) as u8;
            *slot = b'0' + digit;
            text.begins -= 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        text
    }

    /// The value, as it goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.begins..).unwrap_or_default()
    }

    /// The same as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The headers that say what remains: gRPC's, Envoy's, and one of your choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeoutHeaders {
    known: Arc<[(Arc<str>, Style)]>,
}

impl Default for TimeoutHeaders {
    /// gRPC's and Envoy's.
    fn default() -> Self {
        Self::of([(GRPC_TIMEOUT, Style::Grpc), (ENVOY_TIMEOUT_MS, Style::Millis)])
    }
}

impl TimeoutHeaders {
    /// These, and no others. Names are compared without regard to case.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, Style)>) -> Self {
        Self { known: headers.into_iter().map(|(name, style)| (Arc::from(name), style)).collect() }
    }

    /// These, and a header of this name.
    #[must_use]
    pub fn and(&self, name: &str, style: Style) -> Self {
        Self { known: self.known.iter().cloned().chain([(Arc::from(name), style)]).collect() }
    }

    /// The style in which this header says what remains, if it is one of these.
    #[must_use]
    pub fn style(&self, name: &[u8]) -> Option<Style> {
        self.find(name).map(|(_, style)| *style)
    }

    /// The shortest time that these headers of a request leave, as a limit of its whole work. `None` where none of them
    /// says anything. Nothing is allocated but for an error.
    ///
    /// # Errors
    /// [`InvalidTimeout`] for the first header that cannot be read: what its caller meant is not known, so serving it
    /// without that limit would be wrong.
    pub fn read<'a>(
        &self,
        headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Option<Limit>, InvalidTimeout> {
        let mut shortest: Option<(Duration, &Arc<str>)> = None;
        for (name, value) in headers {
            let Some((name, style)) = self.find(name) else { continue };
            let remaining = style.read(value).map_err(|why| InvalidTimeout::new(name, value, why))?;
            if shortest.is_none_or(|(shortest, _)| remaining < shortest) {
                shortest = Some((remaining, name));
            }
        }
        Ok(shortest.map(|(value, name)| Limit {
            name: LimitName::Total,
            value,
            origin: Origin::Header(Arc::clone(name)),
        }))
    }

    fn find(&self, name: &[u8]) -> Option<&(Arc<str>, Style)> {
        self.known.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// What is wrong with a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// There is no number.
    #[error("it has no digit")]
    Empty,
    /// Something other than digits, where only digits may be.
    #[error("it is not a whole number in digits")]
    NoNumber,
    /// More digits or bytes than the style has.
    #[error("it has more than {most} digits")]
    TooLong {
        /// How many there may be.
        most: usize,
    },
    /// The unit is missing.
    #[error("its unit is missing: one of H M S m u n")]
    NoUnit,
    /// There is no such unit.
    #[error("there is no unit {:?}: one of H M S m u n", char::from(*.0))]
    UnknownUnit(u8),
    /// Neither milliseconds nor a duration.
    #[error("it is neither milliseconds nor a duration with a unit, such as 250ms or 1.5s")]
    NoDuration,
}

/// A header that should say what remains, and does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidTimeout {
    header: Arc<str>,
    value: Box<[u8]>,
    why: Unreadable,
}

impl InvalidTimeout {
    /// As much of the value is kept.
    const SHOWN: usize = 32;

    fn new(header: &Arc<str>, value: &[u8], why: Unreadable) -> Self {
        let shown = value.get(..Self::SHOWN).unwrap_or(value);
        Self { header: Arc::clone(header), value: shown.into(), why }
    }

    /// The name of the header.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.header
    }

    /// What is wrong with it.
    #[must_use]
    pub const fn why(&self) -> Unreadable {
        self.why
    }
}

impl fmt::Display for InvalidTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { header, value, why } = self;
        write!(f, "header {header} says \"{}\": {why}", value.escape_ascii())
    }
}

impl std::error::Error for InvalidTimeout {}

#[cfg(test)]
mod tests;
