//! The time that remains, as a caller's header says it: what is read is never longer once it was written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overdue::server::propagate::{Style, TimeoutHeaders};

fuzz_target!(|bytes: &[u8]| {
    for style in [Style::Grpc, Style::Millis, Style::Text] {
        let Ok(remaining) = style.read(bytes) else { continue };
        if let Some(text) = style.write(remaining) {
            assert!(style.read(text.as_bytes()).is_ok_and(|again| again <= remaining));
        }
    }
    // Headers as they come: a name and a value a line.
    let headers = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], &line[colon + 1..]))
    });
    match TimeoutHeaders::default().and("x-budget", Style::Text).read(headers) {
        Ok(_) => {}
        Err(error) => assert!(error.to_string().is_ascii()),
    }
});
