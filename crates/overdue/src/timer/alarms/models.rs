//! Every order in which one who sets an alarm and the driver can meet.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Wake,
};

use loom::thread;

use super::*;

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell::default());
    (Arc::clone(&bell), Waker::from(bell))
}

/// The driver's look at what is due, without its runtime. Whether it will look again by itself.
fn ring(alarms: &Alarms, waker: &Waker) -> bool {
    alarms.set_driver(waker);
    alarms.ring().is_some()
}

#[test]
fn an_alarm_rings_or_the_driver_hears_of_it() {
    loom::model(|| {
        let alarms = Arc::new(Alarms::new());
        let (sleeper, sleeps) = bell();
        let (driver, drives) = bell();
        let setting = thread::spawn({
            let alarms = Arc::clone(&alarms);
            move || alarms.insert(clock::now(), sleeps).unwrap()
        });
        let again = ring(&alarms, &drives);
        let key = setting.join().unwrap();
        if sleeper.0.load(SeqCst) == 0 {
            assert!(again || driver.0.load(SeqCst) > 0, "nobody will wake it");
            ring(&alarms, &drives);
        }
        assert_eq!(sleeper.0.load(SeqCst), 1);
        assert!(matches!(alarms.poll(key, &Context::from_waker(Waker::noop())), Some(Poll::Ready(_))));
        alarms.remove(key);
        assert_eq!(alarms.len(), 0);
    });
}

#[test]
fn an_alarm_that_is_taken_back_rings_once_or_never() {
    loom::model(|| {
        let alarms = Arc::new(Alarms::new());
        let (sleeper, sleeps) = bell();
        let (_driver, drives) = bell();
        let key = alarms.insert(clock::now(), sleeps).unwrap();
        let driving = thread::spawn({
            let alarms = Arc::clone(&alarms);
            move || ring(&alarms, &drives)
        });
        alarms.remove(key);
        driving.join().unwrap();
        assert!(sleeper.0.load(SeqCst) <= 1);
        assert_eq!(alarms.len(), 0);
        assert_eq!(Arc::strong_count(&sleeper), 1, "a waker was kept");
    });
}

#[test]
fn nobody_waits_for_a_runtime_that_ended() {
    loom::model(|| {
        let alarms = Arc::new(Alarms::new());
        let (sleeper, sleeps) = bell();
        let ending = thread::spawn({
            let alarms = Arc::clone(&alarms);
            move || alarms.close().into_iter().for_each(Waker::wake)
        });
        let set = alarms.insert(clock::now(), sleeps);
        ending.join().unwrap();
        assert!(set.is_none() || sleeper.0.load(SeqCst) == 1, "it waits for ever");
    });
}
