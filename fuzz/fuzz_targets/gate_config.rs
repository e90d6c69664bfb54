//! The configuration of the gateway.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = overdue_gate::Config::parse(text, "gate.toml") {
        // Whoever accepts it looks for limits that fight each other.
        let _ = config.conflicts();
    }
});
