//! The head of an HTTP/1.1 request, as a client may send it to a gateway.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overdue::fuzz::request_head(bytes);
});
