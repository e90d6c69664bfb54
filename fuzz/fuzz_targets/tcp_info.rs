//! `struct tcp_info`, as a kernel of any age may fill it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overdue::fuzz::tcp_info(bytes);
});
