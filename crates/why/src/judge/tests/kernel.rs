//! What the kernel tells, where it is no verdict, as it was recorded; and the one that is ill beside it.

use super::{calls::connected, *};
use crate::observation::Call;

/// A host without a way to IPv6: who sorts the addresses of a name asks the kernel for it.
#[test]
fn addresses_that_are_only_sorted() {
    let refused = |mut seen: Observation, peer: &str| {
        let call = CallCount { call: Call::Connect, errno: 101, count: 1, ..CallCount::default() };
        seen.calls.as_mut().unwrap().counts = vec![CallCount { peer: Some(peer.to_owned()), ..call }];
        seen
    };
    let calls = || connected(|connection| connection.closed_by_us = true);
    // The call went to 10.0.0.9:80.
    nothing(&refused(calls(), "[2001:db8::7]:80"));
    // A lookup, by the C library and by Go.
    nothing(&refused(idle(), "[2001:db8::7]:0"));
    nothing(&refused(idle(), "[2001:db8::7]:9"));
    // Another service; another host by the same protocol; or the other address does not answer.
    only(&refused(calls(), "[2001:db8::7]:443"), Cause::Unreachable);
    only(&refused(calls(), "10.9.0.1:80"), Cause::Unreachable);
    let failed = connected(|connection| connection.established = None);
    assert_eq!(causes(&judge(&refused(failed, "[2001:db8::7]:80"))), ["unreachable", "syn-unanswered"]);
}
