//! Every order in which those who wait, those who give up and those who make room can meet.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, thread};

use super::*;

fn target() -> Target {
    Target { secure: false, host: "host".into(), port: 80 }
}

/// A pool with room for one connection to each host.
fn pool() -> Arc<Pool> {
    Pool::new(PoolOptions { connections_per_host: 1, ..PoolOptions::default() }, VersionChoice::Http1)
}

fn slot(offer: Offer) -> Slot {
    match offer {
        Offer::Dial(slot) => slot,
        _ => unreachable!("nothing was kept"),
    }
}

fn assert_empty(pool: &Pool) {
    let state = pool.lock();
    assert_eq!((state.open, state.waiting, state.hosts.len()), (0, 0, 0));
}

#[test]
fn whoever_waits_gets_what_becomes_free() {
    loom::model(|| {
        let pool = pool();
        let other = thread::spawn({
            let pool = Arc::clone(&pool);
            move || drop(slot(block_on(pool.acquire(&target()))))
        });
        drop(slot(block_on(pool.acquire(&target()))));
        other.join().unwrap();
        assert_empty(&pool);
    });
}

#[test]
fn one_who_gives_up_loses_nothing_of_the_others() {
    loom::model(|| {
        let pool = pool();
        let held = slot(block_on(pool.acquire(&target())));
        let gives_up = thread::spawn({
            let pool = Arc::clone(&pool);
            move || {
                let target = target();
                let mut waits = pin!(pool.acquire(&target));
                match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(offer) => drop(offer),
                    Poll::Pending => {}
                }
            }
        });
        drop(held);
        // Whatever was offered to the one who is gone comes here.
        drop(slot(block_on(pool.acquire(&target()))));
        gives_up.join().unwrap();
        assert_empty(&pool);
    });
}
