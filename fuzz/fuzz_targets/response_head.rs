//! The head of an HTTP/1.1 response, as a server may send it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overdue::fuzz::response_head(bytes);
});
