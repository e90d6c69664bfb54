//! What the pool does by itself, in virtual time.

use std::collections::BTreeMap;

use tokio::time::sleep;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn target() -> Target {
    Target { secure: true, host: "host".into(), port: 443 }
}

/// Whether a connection can be shared turns out when it is dialled.
fn pool(connections_per_host: usize) -> Arc<Pool> {
    Pool::new(PoolOptions { connections_per_host, ..PoolOptions::default() }, VersionChoice::Negotiated)
}

async fn dial(pool: &Arc<Pool>) -> Slot {
    match pool.acquire(&target()).await {
        Offer::Dial(slot) => slot,
        _ => unreachable!("nothing was ever dialled to its end"),
    }
}

fn assert_empty(pool: &Pool) {
    let state = pool.lock();
    assert_eq!((state.open, state.waiting, state.hosts.len()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_for_the_dials_of_others_than_its_own_patience() {
    const CALLS: u32 = 100;
    let pool = pool(usize::MAX);
    let start = clock::now();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..CALLS {
        let pool = Arc::clone(&pool);
        calls.spawn(async move {
            // So that they wait for the first, and after that for one another.
            sleep(n * MS).await;
            let came = clock::now();
            let slot = dial(&pool).await;
            let began = clock::now();
            sleep(50 * MS).await;
            drop(slot);
            (n, began - came, began - start)
        });
    }
    let calls = calls.join_all().await;
    assert_empty(&pool);
    let mut waits: BTreeMap<Duration, usize> = BTreeMap::new();
    for (_, waited, _) in &calls {
        *waits.entry(*waited).or_default() += 1;
    }
    assert!(waits.keys().all(|waited| *waited <= SHARED_DIAL_PATIENCE), "{waits:?}");
    // Those who come first dial one after another, the others when their patience ends.
    assert_eq!(waits.get(&SHARED_DIAL_PATIENCE), Some(&94), "{waits:?}");
    let mut in_order: Vec<_> = calls.iter().map(|(n, _, began)| (*began, *n)).collect();
    in_order.sort_unstable();
    assert!(in_order.iter().map(|(_, n)| *n).is_sorted(), "who came first dials first: {in_order:?}");
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_a_place_for_long_waits_for_no_dial() {
    let pool = pool(2);
    let held = [dial(&pool).await, dial(&pool).await];
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let pool = Arc::clone(&pool);
        waiting.push(tokio::spawn(async move { dial(&pool).await }));
    }
    sleep(2 * SHARED_DIAL_PATIENCE).await;
    assert_eq!(pool.lock().waiting, 2);
    let freed = clock::now();
    drop(held);
    let both = futures_util::future::join_all(waiting).await;
    assert_eq!(clock::now(), freed);
    drop(both);
    assert_empty(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_gone_has_nobody_look_after_it() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let pool = pool(1);
    pool.reap_later(&mut pool.lock());
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 1);
    let dropped = clock::now();
    drop(pool);
    assert!(crate::cut::comes_true(|| tasks() == 0).await);
    // No time has passed: nothing waited for its next look.
    assert_eq!(clock::now(), dropped);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_queue_after_any_poll_leaves_nothing_in_it() {
    for places in [1, 3] {
        let pool = pool(places);
        let held = || {
            let state = pool.lock();
            (state.open, state.waiting, state.hosts.len(), Handle::current().metrics().num_alive_tasks())
        };
        crate::cut::after_each_poll(held, async || {
            let call = async || {
                let slot = dial(&pool).await;
                sleep(100 * MS).await;
                drop(slot);
            };
            tokio::join!(call(), call(), call(), call());
        })
        .await;
    }
}
