use std::{
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use overdue_core::{Cause, Deadline, Limit, Stage};

use super::{CancelCause, Context, Watch, lateness};
use crate::{Error, clock};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test(start_paused = true)]
async fn the_earliest_limit_fires_and_is_named_whoever_set_it() {
    for (outer, inner, expected) in [(50, 80, 50), (80, 50, 50)] {
        let request = Context::root().child(Limit::total(ms(outer)));
        let lookup = request.child(Limit::stage(Stage::Resolve, ms(inner)));
        let started = clock::now();
        let error = lookup.run(Stage::Resolve, pending::<()>()).await.unwrap_err();
        assert_eq!(clock::now() - started, ms(expected));
        let fired = error.limit().unwrap();
        assert_eq!(fired.value, ms(expected));
        assert_eq!(fired.name.as_str(), if outer < inner { "total" } else { "resolve" });
        assert!(fired.origin.to_string().contains("context/tests.rs:"), "{}", fired.origin);
        assert!(error.is_timeout() && !error.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn among_nested_owners_the_earliest_is_named_and_the_cut_one_remembered() {
    let gateway = Context::root().child(Limit::total(ms(300)));
    let handler = gateway.child(Limit::total(ms(100)));
    let query = handler.child(Limit::stage(Stage::Named("query"), ms(200)));
    let deadline = query.deadline().unwrap();
    assert_eq!(deadline.limit().value, ms(100));
    assert_eq!(deadline.asked().value, ms(200));
    assert_eq!(deadline.clipped_by().unwrap().value, ms(100));
    // The outermost never clipped anything: it came later.
    assert_eq!(handler.deadline().unwrap().clipped_by(), None);

    let error = query.run(Stage::Named("query"), pending::<()>()).await.unwrap_err();
    assert_eq!(error.limit().unwrap().value, ms(100));
}

#[tokio::test(start_paused = true)]
async fn a_ready_result_wins_over_a_deadline_that_has_just_passed() {
    let context = Context::root().child(Limit::total(ms(10)));
    // Both the work and the timer are due at the same instant.
    let work = async {
        tokio::time::sleep(ms(10)).await;
        7
    };
    assert_eq!(context.run(Stage::Handle, work).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_never_polls_the_work() {
    let context = Context::root().child(Limit::total(ms(10)));
    tokio::time::advance(ms(11)).await;
    let polled = Arc::new(AtomicBool::new(false));
    let work = async { polled.store(true, SeqCst) };
    let error = context.run(Stage::Handle, work).await.unwrap_err();
    assert!(!polled.load(SeqCst));
    assert_eq!(error.cause(), Cause::BudgetSpent);
    assert_eq!(context.remaining(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_stage_limit_does_not_leak_into_the_next_stage() {
    let call = Context::root().child(Limit::total(ms(100)));
    let first = call.child(Limit::stage(Stage::Resolve, ms(10)));
    first.run(Stage::Resolve, pending::<()>()).await.unwrap_err();
    // The exhausted stage neither shortens what follows nor turns into a default.
    assert_eq!(call.remaining(), Some(ms(90)));
    call.run(Stage::Connect, tokio::time::sleep(ms(50))).await.unwrap();
}

#[tokio::test]
async fn the_first_cause_wins_and_every_descendant_can_read_it() {
    let request = Context::root();
    let child = request.branch();
    let grandchild = child.branch();
    assert!(child.cancel("the child's own reason"));
    assert!(!child.cancel("too late"));
    assert!(request.cancel("the client went away"));
    assert_eq!(child.cancel_cause().unwrap().to_string(), "the child's own reason");
    assert_eq!(grandchild.cancel_cause().unwrap().to_string(), "the child's own reason");
    assert_eq!(request.cancel_cause().unwrap().to_string(), "the client went away");
    assert!(request.branch().is_cancelled());
}

#[tokio::test]
async fn what_was_read_once_stays_the_answer() {
    let request = Context::root();
    let child = request.branch();
    request.cancel("above");
    assert_eq!(child.cancel_cause().unwrap().to_string(), "above");
    assert!(!child.cancel("below, too late"));
    assert_eq!(child.cancel_cause().unwrap().to_string(), "above");
}

#[derive(Debug, thiserror::Error)]
#[error("quota of tenant {0} is used up")]
struct Quota(u32);

#[tokio::test]
async fn a_typed_cause_is_found_again_with_the_line_that_cancelled() {
    let context = Context::root();
    let line = line!() + 1;
    context.cancel(CancelCause::typed(Quota(7)));
    let error = context.branch().run(Stage::Handle, pending::<()>()).await.unwrap_err();
    assert!(error.is_cancelled() && !error.is_timeout());
    assert_eq!(error.cause(), Cause::CancelledByCaller);
    let cause = error.cancel_cause().unwrap();
    assert_eq!(cause.downcast_ref::<Quota>().unwrap().0, 7);
    assert_eq!(cause.location().unwrap().line(), line);
    assert!(error.to_string().contains("quota of tenant 7"), "{error}");
}

#[tokio::test]
async fn a_detached_child_outlives_its_caller_and_keeps_the_values() {
    let request = Context::root().with_value("trace").child(Limit::total(ms(1)));
    let detached = request.detached();
    request.cancel("the client went away");
    assert!(!detached.is_cancelled());
    assert!(detached.deadline().is_none());
    assert_eq!(*detached.value::<&str>().unwrap(), "trace");
}

#[tokio::test]
async fn values_are_found_by_type_and_the_nearest_wins() {
    #[derive(PartialEq, Debug)]
    struct User(&'static str);
    let context = Context::root().with_value(User("outer")).with_value(1_u8).branch().with_value(User("inner"));
    assert_eq!(*context.value::<User>().unwrap(), User("inner"));
    assert_eq!(*context.value::<u8>().unwrap(), 1);
    assert!(context.value::<u16>().is_none());
}

#[tokio::test]
async fn a_guard_cancels_when_dropped_and_not_when_disarmed() {
    let context = Context::root();
    context.branch().cancel_on_drop().disarm();
    let kept = context.branch();
    kept.cancel_on_drop().disarm();
    assert!(!kept.is_cancelled());
    drop(kept.cancel_on_drop());
    assert!(kept.is_cancelled() && !context.is_cancelled());
}

#[tokio::test]
async fn cancelling_reaches_ten_thousand_children() {
    let root = Context::root();
    let woken = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..10_000)
        .map(|n| {
            let (child, woken) = (root.branch(), Arc::clone(&woken));
            tokio::spawn(async move {
                // Every second one waits a level further down.
                let child = if n % 2 == 0 { child } else { child.branch() };
                let cause = child.cancelled().await;
                assert_eq!(cause.to_string(), "shutdown");
                woken.fetch_add(1, SeqCst);
            })
        })
        .collect();
    tokio::task::yield_now().await;
    root.cancel("shutdown");
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(woken.load(SeqCst), 10_000);
}

#[tokio::test]
async fn a_deep_chain_is_cancelled_and_dropped_without_recursion() {
    let root = Context::root();
    let mut deepest = root.clone();
    for _ in 0..200_000 {
        deepest = deepest.branch();
    }
    let waiting = tokio::spawn({
        let deepest = deepest.clone();
        async move { deepest.cancelled().await.to_string() }
    });
    tokio::task::yield_now().await;
    root.cancel("from far above");
    assert_eq!(waiting.await.unwrap(), "from far above");
    drop(root);
    drop(deepest);
}

#[tokio::test]
async fn a_waker_may_use_the_tree() {
    // Were a lock held while waking, this would never end.
    struct CancelsAgain(Context);
    impl std::task::Wake for CancelsAgain {
        fn wake(self: Arc<Self>) {
            self.0.cancel("from the waker");
            self.0.branch().cancel("below");
        }
    }
    let context = Context::root();
    let waker = Arc::new(CancelsAgain(context.clone())).into();
    let mut cancelled = Box::pin(context.cancelled());
    assert!(cancelled.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    assert!(context.cancel("first"));
}

#[tokio::test]
async fn a_waker_that_panics_keeps_nobody_from_hearing_of_a_cancel() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("as foreign code may");
        }
    }
    let context = Context::root();
    let waker = Arc::new(Panics).into();
    let mut bad = Box::pin(context.cancelled());
    assert!(bad.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    let inside = context.clone();
    let good = tokio::spawn(async move { inside.cancelled().await.to_string() });
    tokio::task::yield_now().await;
    let canceller = context.clone();
    let cancelling = tokio::spawn(async move { canceller.cancel("enough") });
    assert_eq!(tokio::time::timeout(ms(10_000), good).await.expect("nobody told it").unwrap(), "enough");
    assert!(cancelling.await.unwrap());
}

#[tokio::test]
async fn a_waiter_that_is_gone_leaves_nothing_behind() {
    let context = Context::root();
    for _ in 0..1_000 {
        let child = context.branch();
        let mut waiting = Box::pin(child.run(Stage::Handle, pending::<()>()));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(context.node.linked(), (0, 0));
}

#[test]
fn cancelling_and_linking_race_without_a_lost_wake() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        for _ in 0..500 {
            let root = Context::root();
            let leaf = root.branch().branch();
            let waiting = tokio::spawn(async move { leaf.cancelled().await.to_string() });
            let cancelling = tokio::spawn(async move { root.cancel("now") });
            assert!(cancelling.await.unwrap());
            let cause = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("a wake was lost");
            assert_eq!(cause.unwrap(), "now");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn an_error_survives_every_wrapping() {
    let context = Context::root().child(Limit::total(ms(5)));
    let fails = || async { context.run(Stage::Named("lookup"), pending::<()>()).await.unwrap_err() };

    let io: std::io::Error = fails().await.into();
    assert_eq!(io.kind(), std::io::ErrorKind::TimedOut);
    let boxed: crate::BoxError = Box::new(io);
    let wrapped = std::io::Error::other(boxed);
    #[derive(Debug, thiserror::Error)]
    #[error("the job failed")]
    struct Job(#[source] std::io::Error);
    let job: Box<dyn std::error::Error> = Box::new(Job(wrapped));
    let found = Error::find(&*job).expect("the error is in the chain");
    assert_eq!(found.stage(), Stage::Named("lookup"));
    assert_eq!(found.limit().unwrap().value, ms(5));
    assert!(Error::find(&std::io::Error::other("something else")).is_none());

    context.cancel("enough");
    let cancelled = context.branch().run(Stage::Handle, ready(())).await.unwrap_err();
    assert_eq!(cancelled.io_kind(), std::io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn work_that_uses_up_its_budget_at_every_poll_is_ended_all_the_same() {
    let context = Context::root().child(Limit::total(ms(30)));
    let greedy = async {
        loop {
            tokio::task::consume_budget().await;
        }
    };
    let error = context.run::<_>(Stage::Handle, greedy).await.map(|never: std::convert::Infallible| never).unwrap_err();
    assert_eq!(error.limit().unwrap().value, ms(30));
    assert!(error.report().elapsed_us < 5_000_000, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_older_than_the_work_says_what_was_gone() {
    let request = Context::root().child(Limit::total(Duration::from_millis(300)));
    let text = async |stage| request.run(Stage::Named(stage), pending::<()>()).await.unwrap_err().to_string();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = text("query").await;
    assert!(error.starts_with("timed out in query after 250ms, limit total 300ms (crates/"), "{error}");
    assert!(error.contains("), 50ms of it gone before: "), "{error}");
    let error = text("report").await;
    assert!(error.contains("), 300ms of it gone before: "), "{error}");
    let fresh = request.detached().child(Limit::total(Duration::from_millis(300)));
    let error = fresh.run(Stage::Handle, pending::<()>()).await.unwrap_err().to_string();
    assert!(!error.contains("gone before"), "{error}");
}

#[test]
fn what_counts_as_late_depends_on_the_limit() {
    let now = clock::now();
    let [short, some, long] = [500, 4_000, 60_000_000].map(Duration::from_micros);
    for (limit, on_time_us, late_us) in [(short, 1_999, 2_000), (some, 3_999, 4_000), (long, 9_999, 10_000)] {
        let deadline = Deadline::after(now, Limit::total(limit));
        let noticed = |us| lateness(Some(&deadline), now + limit + Duration::from_micros(us));
        assert_eq!((noticed(on_time_us), noticed(late_us)), (Duration::ZERO, Duration::from_micros(late_us)));
    }
    assert_eq!(lateness(None, now), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_late_for_everything_is_not_late_by_the_sum_of_it() {
    for (between, expected) in [(ms(1), 4), (ms(60), 2)] {
        let context = Context::root().child(Limit::total(ms(100)));
        let mut watch = Watch::default();
        let waker = std::task::Waker::noop();
        let mut poll = || watch.poll(&mut std::task::Context::from_waker(waker), &context, context.deadline());
        assert!(poll().is_pending());
        tokio::time::advance(ms(200)).await;
        // The timer's own task runs.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let mut polls = 1;
        while poll().is_pending() {
            polls += 1;
            tokio::time::advance(between).await;
        }
        assert_eq!(polls, expected, "{between:?} between two polls");
    }
}
