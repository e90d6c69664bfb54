//! A duration: what is read, written and read again differs by no more than the digits that are written.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use overdue_core::{DurationText, parse_duration};

/// From here on only hours and minutes are written, or minutes and seconds.
const COARSE: Duration = Duration::from_secs(60);

fuzz_target!(|text: &str| {
    let Ok(read) = parse_duration(text) else { return };
    if read.is_zero() {
        // It is written without a unit, and a number without a unit is refused.
        return;
    }
    let written = DurationText(read).to_string();
    if read >= COARSE {
        assert!(written.ends_with(['h', 'm', 's']), "{text:?} is written {written:?}");
        return;
    }
    let again = parse_duration(&written).unwrap_or_else(|error| panic!("{text:?} is written {written:?}: {error}"));
    // Three digits are written, so the last one may be off by half.
    let slack = read / 100 + Duration::from_nanos(1);
    assert!(again.abs_diff(read) <= slack, "{text:?} is written {written:?}");
});
