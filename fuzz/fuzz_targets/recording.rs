//! A recording of `overdue why`, decompressed: read, judged, reported.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_why::fuzz::recording(bytes));
