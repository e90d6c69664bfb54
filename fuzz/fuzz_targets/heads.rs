//! The first bytes of connections, and all else that the kernel's half of the collector hands over.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_why::fuzz::heads(bytes));
