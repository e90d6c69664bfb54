use super::*;

#[test]
fn buckets_are_the_first_that_hold() {
    for us in (0..100_000).chain((100_000..70_000_000).step_by(997)).chain([u64::from(u32::MAX), u64::MAX]) {
        let expected = BOUNDS_US.iter().position(|bound| u64::from(*bound) >= us).unwrap_or(BOUNDS_US.len());
        assert_eq!(bucket(us), expected, "{us} us");
    }
    assert!(BOUNDS_US.is_sorted() && BOUNDS_US[0] == 10 && BOUNDS_US[40] == 60_000_000, "{BOUNDS_US:?}");
}

#[test]
fn a_slot_holds_its_own_time_alone() {
    let ring: Ring<Second> = Ring::new(3);
    for at in [0, 1, 1, 2] {
        add_u32(ring.enter(at).map(|second| &second.classes[2]));
    }
    let at = |at| ring.get(at).map(|second| second.classes[2].get());
    assert_eq!((at(0), at(1), at(2), at(3)), (Some(1), Some(2), Some(1), None));
    add_u32(ring.enter(4).map(|second| &second.classes[2]));
    assert_eq!((at(1), at(2), at(4)), (None, Some(1), Some(1)));
}
