//! What is listed beneath what.

use super::{
    super::{EFFECTS, Severity, nest},
    *,
};

fn found(cause: Cause) -> Finding {
    Finding { advisory: false, ..Finding::new(cause, Severity::Waiting, Confidence::High, "") }
}

/// The table is walked from its end, so that who moves takes along what was put beneath it before.
#[test]
fn a_cause_is_put_beneath_another_when_it_has_all_its_effects() {
    for (place, &(cause, effect)) in EFFECTS.iter().enumerate() {
        let before = EFFECTS[..place].iter().any(|&(above, _)| above == effect);
        assert!(!before, "({cause}, {effect}) stands behind a row of {effect}");
        let roots = nest(vec![found(effect), found(cause)]);
        assert_eq!(roots.len(), 1, "{effect} stands beside {cause}");
        assert_eq!((roots[0].verdict.cause, roots[0].effects[0].verdict.cause), (cause, effect));
    }
}

/// A loop that never takes the FIN of its peers has connections in CLOSE_WAIT, and those have its descriptors.
#[test]
fn a_chain_of_effects_has_one_root() {
    let chain = [Cause::FdLeak, Cause::CloseWaitPileup, Cause::SpinHalfClosed];
    let mut below = nest(chain.map(found).into());
    for cause in chain.into_iter().rev() {
        let [finding] = &below[..] else { panic!("{below:#?}") };
        assert_eq!(finding.verdict.cause, cause);
        below = finding.effects.clone();
    }
    assert!(below.is_empty(), "{below:#?}");
}

/// A remark explains nothing, and what waits for one peer says nothing of another.
#[test]
fn who_is_no_cause_has_no_effects() {
    let remark = Finding { advisory: true, ..found(Cause::FdLeak) };
    assert_eq!(nest(vec![remark, found(Cause::FdExhausted)]).len(), 2);
    let of = |cause, peer: &str| Finding { peer: Some(peer.to_owned()), ..found(cause) };
    let peers = |peer| nest(vec![of(Cause::WaitsUpstream, "10.0.0.9:80"), of(Cause::ServerSlow, peer)]).len();
    assert_eq!((peers("10.0.0.9:80"), peers("10.0.0.8:80")), (1, 2));
}
