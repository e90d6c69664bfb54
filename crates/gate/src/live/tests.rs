use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::{clock, counts::Counts, log::Marks};

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

/// A request without a route that began at this second and took so long.
fn ends(recent: &Recent, second: u64, took: Duration, refused: Option<&str>) {
    let began = recent.began + Duration::from_secs(second);
    let marks = Marks { status: if refused.is_some() { 400 } else { 200 }, ..Marks::at(began) };
    let refused = refused.map(|why| (crate::worker::HEAD, why));
    let entry = Entry { refused, ..Entry::new(&marks, began + took) };
    let counts = Counts::default();
    recent.ended(&entry, &Line::default(), "peer", |column| entry.count(&counts, column));
}

fn shown(recent: &Recent, second: u64) -> Value {
    recent.json_at(recent.began + Duration::from_secs(second))
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

#[test]
fn five_minutes_are_shown_and_then_forgotten() {
    let recent = Recent::new(0, clock::now());
    ends(&recent, 2, Duration::from_millis(3), None);
    ends(&recent, 2, Duration::from_millis(500), Some("why"));
    // A second that goes on is not shown; a column that goes on is.
    let seconds = |at: u64| numbers(&shown(&recent, at)["rates"]["classes"]["2xx"]);
    assert_eq!(seconds(2), [0; WINDOW]);
    assert_eq!(seconds(3)[WINDOW - 1], 1);
    assert_eq!((seconds(302)[0], seconds(303)), (1, vec![0; WINDOW]));
    let cells = |at: u64| {
        shown(&recent, at)["heat"]["columns"].as_array().unwrap().iter().flat_map(|c| c.as_array().unwrap()).count()
    };
    assert_eq!((cells(2), cells(299), cells(300)), (2, 2, 0));
    let rows = |at: u64| shown(&recent, at)["causes"]["rows"].as_array().unwrap().len();
    assert_eq!((rows(2), rows(299), rows(300)), (1, 1, 0));
    let listed = |at: u64, what: &str| shown(&recent, at)[what].as_array().unwrap().len();
    assert_eq!((listed(3, "slowest"), listed(301, "slowest"), listed(303, "slowest")), (1, 1, 0));
    assert_eq!((listed(3, "failed"), listed(301, "failed"), listed(303, "failed")), (1, 1, 0));
    // The same slots, another time.
    ends(&recent, 303, Duration::ZERO, None);
    assert_eq!((seconds(304)[WINDOW - 1], seconds(304).iter().sum::<u64>(), cells(304)), (1, 1, 1));
}

#[test]
fn the_slowest_of_each_minute_are_remembered_and_some_that_failed() {
    let recent = Recent::new(0, clock::now());
    for ms in [5, 1, 9, 3, 7, 2, 8, 4, 6] {
        ends(&recent, 10, Duration::from_millis(ms), None);
        ends(&recent, 70, Duration::from_millis(ms + 100), None);
        ends(&recent, 70, Duration::from_millis(ms), Some("why"));
    }
    let live = shown(&recent, 71);
    let took: Vec<u64> =
        live["slowest"].as_array().unwrap().iter().map(|one| one["elapsed_us"].as_u64().unwrap() / 1000).collect();
    assert_eq!(took, [109, 108, 107, 106, 105, 9, 8, 7, 6, 5]);
    assert_eq!(live["failed"].as_array().unwrap().len(), FAILED_A_SECOND as usize);
    assert_eq!(numbers(&live["causes"]["rows"][0]["counts"]).iter().sum::<u64>(), 9);
}

#[test]
fn routes_beyond_the_first_share_their_counters_until_there_is_room() {
    let recent = Recent::new(0, clock::now());
    let name = |number: usize| Arc::<str>::from(format!("route {number}"));
    let mut held: Vec<_> = (0..ROUTES_MAX + 2).map(|number| recent.of(&name(number))).collect();
    assert!(Rc::ptr_eq(&held[ROUTES_MAX], &held[ROUTES_MAX + 1]) && !Rc::ptr_eq(&held[0], &held[ROUTES_MAX]));
    assert!(Rc::ptr_eq(&held[3], &recent.of(&name(3))), "a reload finds it again");
    // No plan leads to one any more.
    drop(held.remove(3));
    assert!(!Rc::ptr_eq(&held[ROUTES_MAX], &recent.of(&name(100))));
}
