//! What a TLS client says first: read alike at once and byte by byte.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue::server::hello::fuzz(bytes));
