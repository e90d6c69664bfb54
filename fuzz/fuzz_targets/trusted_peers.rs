//! Networks, as a configuration names them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overdue::server::TrustedPeers;

fuzz_target!(|text: &str| {
    match text.parse::<TrustedPeers>() {
        Ok(peers) => {
            // Whatever stands there alone is in its own network.
            if let Ok(address) = text.parse() {
                assert!(peers.contains(address));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
