//! Records of system calls, as the kernel's half of the trace hands them over.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_why::fuzz::trace(bytes));
