//! The name of a limit: every name that is read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overdue_core::LimitName;

fuzz_target!(|text: &str| {
    match text.parse::<LimitName>() {
        Ok(name) => assert_eq!(name.as_str(), text),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
