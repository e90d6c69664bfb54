//! How the words of a scenario file become values: durations with a unit, bytes as hex, words of the vocabulary.
//!
//! Each function is named in a `deserialize_with`, so that an error carries the place in the file.

use std::{fmt::Display, time::Duration};

use overdue_core::{Cause, Confidence, DurationText, LimitName, Outcome, Stage, parse_duration};
use serde::{Deserialize, Deserializer, de::Error};

/// No single wait of a scenario may be longer: the lab is for tests.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) fn duration_from(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("{text} is out of range: give something between 1ns and {}", DurationText(LONGEST)));
    }
    Ok(duration)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration_from(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// Pairs of hex digits, with white space wherever it helps to read them.
pub(super) fn bytes_from_hex(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
        let digit = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digit = digit.ok_or_else(|| format!("{c:?} is no hex digit"))?;
        high = match high {
            None => Some(digit),
            Some(high) => {
                bytes.push(high << 4 | digit);
                None
            }
        };
    }
    if high.is_some() {
        return Err("an odd number of hex digits: a byte has two".to_owned());
    }
    Ok(bytes)
}

/// Finds a word in the whole list of those there are, and names them all when it is not among them.
fn word<T: Copy, E: Error>(text: &str, what: &str, all: &[T], as_str: fn(T) -> &'static str) -> Result<T, E> {
    all.iter().copied().find(|value| as_str(*value) == text).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|value| as_str(*value)).collect();
        E::custom(format!("{text:?} is no {what}; there are {}", known.join(", ")))
    })
}

pub(super) fn outcome<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Outcome, D::Error> {
    const ALL: [Outcome; 4] = [Outcome::Ok, Outcome::TimedOut, Outcome::Cancelled, Outcome::Failed];
    word(&String::deserialize(deserializer)?, "outcome", &ALL, Outcome::as_str)
}

pub(super) fn stage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Stage>, D::Error> {
    const ALL: [Stage; 9] = [
        Stage::Queue,
        Stage::Resolve,
        Stage::Connect,
        Stage::Tls,
        Stage::Send,
        Stage::Wait,
        Stage::Receive,
        Stage::Handle,
        Stage::Stall,
    ];
    word(&String::deserialize(deserializer)?, "stage", &ALL, Stage::as_str).map(Some)
}

pub(super) fn confidence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Confidence>, D::Error> {
    const ALL: [Confidence; 3] = [Confidence::Low, Confidence::Medium, Confidence::High];
    word(&String::deserialize(deserializer)?, "confidence", &ALL, Confidence::as_str).map(Some)
}

pub(super) fn limit_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LimitName>, D::Error> {
    parsed(&String::deserialize(deserializer)?).map(Some)
}

pub(super) fn causes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Cause>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| parsed(text)).collect()
}

fn parsed<T: std::str::FromStr<Err: Display>, E: Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(E::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_may_be_grouped() {
        assert_eq!(bytes_from_hex("15 0303\n0002 02 28").unwrap(), [0x15, 3, 3, 0, 2, 2, 0x28]);
        assert!(bytes_from_hex("150").unwrap_err().contains("odd number"));
        assert!(bytes_from_hex("1g").unwrap_err().contains("'g'"));
    }

    #[test]
    fn a_wait_has_a_unit_and_an_end() {
        assert_eq!(duration_from("1.5s").unwrap(), Duration::from_millis(1500));
        assert!(duration_from("250").unwrap_err().contains("250ms, 1.5s"));
        assert!(duration_from("0ms").unwrap_err().contains("out of range"));
        assert!(duration_from("2m").unwrap_err().contains("out of range"));
    }
}
