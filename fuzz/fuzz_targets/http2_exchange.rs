//! A request of HTTP/2 and the answer to it, on their way through HTTP/1.1.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overdue_gate::fuzz::http2_exchange(bytes);
});
