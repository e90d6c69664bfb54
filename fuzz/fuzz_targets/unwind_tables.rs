//! Where a program's file says that its callers are.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overdue_why::fuzz::unwind_tables(bytes));
