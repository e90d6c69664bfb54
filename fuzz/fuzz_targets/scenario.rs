//! A scenario file: it is refused with a line that exists, or it holds what the schema promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overdue_core::Outcome;
use overdue_lab::Scenario;

fuzz_target!(|text: &str| {
    match Scenario::parse(text, "fuzz.toml") {
        Ok(scenario) => assert_eq!(scenario.truth.causes.is_empty(), scenario.truth.outcome == Outcome::Ok),
        Err(error) => {
            let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&(error.line as usize)), "{error}");
            assert!(!error.message.is_empty());
        }
    }
});
