//! Answers of the kernel about sockets (netlink, sock_diag).
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overdue::fuzz::sock_diag(bytes);
});
