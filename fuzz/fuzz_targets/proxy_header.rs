//! What a proxy says of whom it serves: read alike at once and byte by byte.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_gate::fuzz_proxy_header(bytes));
