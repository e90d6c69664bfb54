//! Durations as people write them: `250ms`, `1.5s`.

use std::{fmt, time::Duration};

/// Formats a duration for a reader: three significant digits, the unit that fits (`312us`, `4.20ms`, `1.5s`, `2m5s`).
#[derive(Clone, Copy, Debug)]
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        let text = match ns {
            0 => "0".to_owned(),
            1..1_000 => format!("{ns}ns"),
            1_000..1_000_000 => scaled(self.0.as_secs_f64() * 1e6, "us"),
            1_000_000..1_000_000_000 => scaled(self.0.as_secs_f64() * 1e3, "ms"),
            1_000_000_000..60_000_000_000 => scaled(self.0.as_secs_f64(), "s"),
            _ => {
                let secs = self.0.as_secs();
                match (secs / 3600, secs / 60 % 60, secs % 60) {
                    (0, m, 0) => format!("{m}m"),
                    (0, m, s) => format!("{m}m{s}s"),
                    (h, 0, 0) => format!("{h}h"),
                    (h, m, _) => format!("{h}h{m}m"),
                }
            }
        };
        f.pad(&text)
    }
}

fn scaled(value: f64, unit: &str) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A duration that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidDuration(String);

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a duration: write a number with a unit, such as 250ms, 1.5s or 2m", self.0)
    }
}

impl std::error::Error for InvalidDuration {}

/// Reads `250ms`, `1.5s`, `2m`, `100us`, `10ns`, `1h`. A bare number is refused: it hides its unit.
///
/// # Errors
/// [`InvalidDuration`] when there is no unit, an unknown one, a sign, or more than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
    let (number, unit) = trimmed.split_at(split);
    let scale = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(invalid()),
    };
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(invalid());
    }
    let secs = number.parse::<f64>().map_err(|_| invalid())? * scale;
    if secs > 100.0 * 365.0 * 86_400.0 {
        return Err(invalid());
    }
    // Nanosecond rounding, so that "1.5s" is exactly 1.5 s and not 1.499999999 s.
    Duration::try_from_secs_f64((secs * 1e9).round() / 1e9).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_back() {
        for (text, micros) in [("250ms", 250_000), ("1.5s", 1_500_000), ("2m", 120_000_000), ("100us", 100)] {
            let parsed = parse_duration(text).unwrap();
            assert_eq!(parsed, Duration::from_micros(micros));
            assert_eq!(DurationText(parsed).to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "5", "-5ms", "5 parsecs", "1e400s", ".s", "1.2.3s", "99999999h", "ms", "NaNs", "infs"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_well() {
        let show = |d: Duration| DurationText(d).to_string();
        assert_eq!(show(Duration::from_nanos(4_204_000)), "4.2ms");
        assert_eq!(show(Duration::from_micros(503_120)), "503ms");
        assert_eq!(show(Duration::from_micros(999_960)), "1000ms");
        assert_eq!(show(Duration::from_secs(3_725)), "1h2m");
        assert_eq!(show(Duration::from_millis(100_000)), "1m40s");
        assert_eq!(show(Duration::from_secs(30)), "30s");
    }
}
