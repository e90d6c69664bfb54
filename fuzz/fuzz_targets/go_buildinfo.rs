//! What Go's linker says of the build, as another process's program has it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    overdue_why::collect::go::fuzz::buildinfo(bytes);
});
