//! Where in a trace a caller is, as its header says.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_gate::fuzz_traceparent(bytes));
