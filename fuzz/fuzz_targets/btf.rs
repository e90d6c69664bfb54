//! The kernel's types, cut down to those that are asked for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_why::fuzz::btf(bytes));
