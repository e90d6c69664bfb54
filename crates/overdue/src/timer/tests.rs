#![expect(clippy::disallowed_methods, reason = "the system's clock is what these are about")]

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Wake, Waker},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::clock;

const MS: Duration = Duration::from_millis(1);

async fn until(at: Instant) {
    let mut timer = Timer::default();
    poll_fn(|cx| timer.poll(cx, at)).await;
    assert!(clock::now() >= at, "it rang too early");
}

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn runtimes() -> [Runtime; 2] {
    [single(), Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()]
}

#[test]
fn timers_ring_in_their_order_and_never_early() {
    for (runtime, ordered) in runtimes().into_iter().zip([true, false]) {
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        runtime.block_on(async {
            let now = clock::now();
            let tasks = [30, 0, 10, 20].map(|ms| {
                let order = Arc::clone(&order);
                tokio::spawn(async move {
                    until(now + ms * MS).await;
                    order.lock().unwrap().push(ms);
                })
            });
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(alarms_set(), 0);
        });
        let mut order = order.lock().unwrap();
        if !ordered {
            // Two threads that were held up run what is due in any order.
            order.sort_unstable();
        }
        assert_eq!(*order, [0, 10, 20, 30]);
    }
}

#[test]
fn another_instant_replaces_the_first() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let start = clock::now();
            let mut timer = Timer::default();
            // Sooner, later, sooner: each takes the place of the one before.
            for at in [start + 3600 * 1000 * MS, start + 10 * MS, start + 7200 * 1000 * MS, start + 5 * MS] {
                assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, at))).await.is_pending());
                assert_eq!(alarms_set(), 1);
            }
            poll_fn(|cx| timer.poll(cx, start + 5 * MS)).await;
            assert!(clock::now() >= start + 5 * MS);
            // What has rung goes on ringing, until it is told to wait for something else.
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, start + 5 * MS))).await.is_ready());
            timer.clear();
            assert_eq!(alarms_set(), 0);
        });
    }
}

#[test]
fn a_timer_that_is_dropped_leaves_nothing_and_wakes_nobody() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    for runtime in runtimes() {
        runtime.block_on(async {
            let count = Arc::new(Count(AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&count));
            let now = clock::now();
            let mut dropped = Timer::default();
            assert!(dropped.poll(&mut Context::from_waker(&waker), now + MS).is_pending());
            let mut kept = Timer::default();
            assert!(kept.poll(&mut Context::from_waker(&waker), now + 2 * MS).is_pending());
            drop(dropped);
            until(now + 3 * MS).await;
            assert_eq!(count.0.load(SeqCst), 1);
            drop((kept, waker));
            assert_eq!(Arc::strong_count(&count), 1);
            assert_eq!(alarms_set(), 0);
        });
    }
}

#[test]
fn the_task_that_polled_last_is_woken() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let at = clock::now() + 5 * MS;
            let mut timer = Timer::default();
            assert!(timer.poll(&mut Context::from_waker(Waker::noop()), at).is_pending());
            tokio::spawn(async move { poll_fn(|cx| timer.poll(cx, at)).await }).await.unwrap();
        });
    }
}

#[test]
fn a_timer_moves_on_with_the_work_that_waits_for_it() {
    let mut timer = Timer::default();
    let at = clock::now() + 20 * MS;
    let first = single();
    first.block_on(async { assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, at))).await.is_pending()) });
    // Nobody drives the first any more.
    single().block_on(async {
        let waits = poll_fn(|cx| timer.poll(cx, at));
        tokio::time::timeout(5000 * MS, waits).await.expect("it waits with the first");
        assert!(clock::now() >= at);
    });
    first.block_on(async { assert_eq!(alarms_set(), 0, "it left one behind") });
}

#[test]
fn a_timer_moves_on_when_its_runtime_ends() {
    let mut timer = Timer::default();
    let at = clock::now() + 20 * MS;
    let first = single();
    first.block_on(async { assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx, at))).await.is_pending()) });
    first.shutdown_background();
    single().block_on(poll_fn(|cx| timer.poll(cx, at)));
    assert!(clock::now() >= at);
}

#[test]
fn a_waker_that_panics_keeps_nobody_else_from_being_woken() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("as foreign code may");
        }
    }
    for runtime in runtimes() {
        runtime.block_on(async {
            let at = clock::now() + 20 * MS;
            let waker = Waker::from(Arc::new(Panics));
            let mut bad = [(); 3].map(|()| Timer::default());
            for timer in &mut bad {
                assert!(timer.poll(&mut Context::from_waker(&waker), at).is_pending());
            }
            let good = tokio::spawn(until(at));
            tokio::time::timeout(5000 * MS, good).await.expect("nobody woke it").unwrap();
            until(clock::now() + MS).await;
            drop(bad);
            assert_eq!(alarms_set(), 0);
        });
    }
}

#[test]
fn time_that_stands_still_is_the_runtimes_business() {
    let hours = Duration::from_secs(3600);
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let began = Instant::now();
    runtime.block_on(async {
        let start = clock::now();
        tokio::join!(until(start + 2 * hours), until(start + hours));
        assert!(clock::now() - start < 2 * hours + 2 * MS);
    });
    assert!(began.elapsed() < hours);
}

#[test]
fn time_may_be_stopped_while_a_timer_waits() {
    let hour = Duration::from_secs(3600);
    single().block_on(async {
        let start = clock::now();
        // The alarm of the system's clock comes first, and finds that time stands still.
        let soon = tokio::spawn(until(start + 20 * MS));
        let late = tokio::spawn(until(start + hour));
        tokio::task::yield_now().await;
        tokio::time::pause();
        soon.await.unwrap();
        late.await.unwrap();
        assert!(clock::now() - start < hour + 2 * MS);
    });
}

#[test]
fn a_timer_that_is_set_when_time_stands_still_is_not_behind_the_systems_clock() {
    let minute = Duration::from_secs(60);
    single().block_on(async {
        let start = clock::now();
        let mut gone = Timer::default();
        assert!(poll_fn(|cx| Poll::Ready(gone.poll(cx, start + minute))).await.is_pending());
        // The driver runs, and arms the system's clock for it.
        tokio::task::yield_now().await;
        drop(gone);
        tokio::time::pause();
        tokio::select! {
            () = until(start + 2 * minute) => {}
            () = tokio::time::sleep(10 * minute) => panic!("time went past it"),
        }
        assert!(clock::now() - start < 3 * minute);
    });
}

#[test]
fn a_runtime_without_io_has_its_own_timer() {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let now = clock::now();
        tokio::join!(until(now + 3 * MS), until(now + MS));
    });
}

#[cfg(feature = "client")]
#[test]
fn an_alarm_is_moved_both_ways_and_never_rings_too_early() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let start = clock::now();
            let mut alarm = Alarm::default();
            let mut looks = 0;
            // Set for the first, moved to a later one, and back: each is kept.
            for (set, then) in [(2, 9), (12, 11), (15, 15)] {
                let (set, then) = (start + set * MS, start + then * MS);
                assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, set))).await.is_pending());
                let noticed = poll_fn(|cx| {
                    looks += 1;
                    alarm.poll(cx, then)
                });
                assert!(noticed.await >= then);
            }
            assert!(looks <= 8, "{looks}");
            assert_eq!(alarms_set(), 0);
        });
    }
}

#[test]
fn a_crowd_comes_and_goes() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let now = clock::now();
            let tasks: Vec<_> = (0..2000_u32).map(|n| tokio::spawn(until(now + n % 7 * MS))).collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(alarms_set(), 0);
        });
    }
}

/// Nobody drops the work of a thread that blocks on a runtime's handle: it has to be told.
#[test]
fn who_blocks_on_a_runtime_that_ends_does_not_wait_for_ever() {
    for runtime in runtimes() {
        let (began, begins) = mpsc::channel();
        let handle = runtime.handle().clone();
        let waits = std::thread::spawn(move || {
            let at = clock::now() + 3600 * 1000 * MS;
            let mut timer = Timer::default();
            handle.block_on(poll_fn(|cx| {
                let poll = timer.poll(cx, at);
                let _ = began.send(());
                poll
            }));
        });
        begins.recv().unwrap();
        runtime.shutdown_background();
        assert!(waits.join().is_err(), "tokio's timers panic there");
    }
}

#[test]
#[should_panic(expected = "timers are disabled")]
fn a_runtime_without_a_timer_is_refused() {
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(until(clock::now() + 3600 * 1000 * MS));
}
