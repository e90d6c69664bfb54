use std::{
    future::pending,
    panic::Location,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use overdue_core::{Limit, Stage};
use tokio::{
    task::yield_now,
    time::{advance, sleep, timeout},
};

use super::{Entry, FAILED_MAX, Scope, Shared, Spawned, Spawner, StrayTasks, TaskInfo, TaskState, stray_tasks};
use crate::{Context, Error, LostDeadline, clock, lost_deadlines};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn total(n: u64) -> Limit {
    Limit::total(ms(n))
}

fn within(n: u64) -> Scope {
    Context::root().child(total(n)).scope()
}

/// What the process has counted for the tasks of one line of this file.
fn strays(line: u32) -> Option<(u64, u64, u64)> {
    let of_line = |stray: &StrayTasks| stray.at.file() == file!() && stray.at.line() == line;
    stray_tasks().into_iter().find(of_line).map(|stray| (stray.overdue, stray.left, stray.running))
}

fn lost(line: u32) -> Option<LostDeadline> {
    lost_deadlines().into_iter().find(|lost| lost.at.file() == file!() && lost.at.line() == line)
}

fn assert_nothing_is_left(scope: &Scope) {
    assert_nothing_holds(&scope.shared);
}

fn assert_nothing_holds(shared: &Arc<Shared>) {
    assert!(shared.lock().running.is_empty());
    assert_eq!(Arc::strong_count(shared), 1, "a task or handle holds the scope");
    assert_eq!(shared.context.node.linked(), (0, 0), "(contexts, waiters)");
}

/// Polls `work` once, which must not be done with it.
async fn once<F: Future>(work: std::pin::Pin<&mut F>) {
    assert!(futures_util::poll!(work).is_pending());
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[tokio::test(start_paused = true)]
async fn join_waits_for_the_last_task_and_tasks_give_their_output() {
    let scope = within(100);
    let tasks: Vec<_> = [30, 10, 20]
        .map(|n| {
            scope.spawn(async move {
                sleep(ms(n)).await;
                n
            })
        })
        .into();
    let started = clock::now();
    scope.join().await.unwrap();
    assert_eq!(clock::now() - started, ms(30));
    for (task, n) in tasks.into_iter().zip([30, 10, 20]) {
        assert!(task.is_finished());
        assert_eq!(task.await.unwrap(), n);
    }
    assert_nothing_is_left(&scope);
    // A scope that was joined is still open.
    scope.spawn(sleep(ms(5)));
    scope.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn join_of_nothing_is_ready_even_past_the_deadline() {
    let scope = within(10);
    advance(ms(11)).await;
    let started = clock::now();
    scope.join().await.unwrap();
    assert_eq!(clock::now(), started);
}

#[tokio::test(start_paused = true)]
async fn tasks_left_at_the_deadline_are_named_with_their_line_age_and_limit() {
    let request = Context::root().child(total(100));
    let (scope, opened_at) = (request.scope(), line!());
    sleep(ms(40)).await;
    let (_unnamed, first) = (scope.spawn(pending::<()>()), line!());
    sleep(ms(20)).await;
    let (_named, second) = (scope.spawn_named("refresh", pending::<()>()), line!());
    scope.spawn(sleep(ms(1)));

    let left = scope.join().await.unwrap_err();
    let lines: Vec<_> = left.tasks().iter().map(|task| (task.at.line(), task.name.as_deref())).collect();
    assert_eq!(lines, [(first, None), (second, Some("refresh"))]);
    let ages: Vec<_> = left.tasks().iter().map(|task| (task.age, task.overdue_by)).collect();
    assert_eq!(ages, [(ms(70), Some(ms(10))), (ms(50), Some(ms(10)))]);
    assert!(left.tasks().iter().all(|task| task.state == TaskState::Running));
    let file = file!();
    assert_eq!(
        left.to_string(),
        format!(
            "2 tasks of the scope opened at {file}:{opened_at} did not end well: \
             spawned at {file}:{first} has been running for 70ms, 10ms past its deadline; \
             \"refresh\" spawned at {file}:{second} has been running for 50ms, 10ms past its deadline"
        )
    );
    // The limit and its owner are in the chain of errors.
    let why = Error::find(&left).unwrap();
    assert!(why.is_timeout());
    assert_eq!(why.limit().unwrap(), request.deadline().unwrap().limit());
    assert_eq!(left.interrupted().unwrap().stage(), Stage::Handle);
    // They were not ended, and a second join says the same.
    assert_eq!(scope.tasks().len(), 2);
    assert_eq!(scope.join().await.unwrap_err().tasks().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_end_with_the_deadline_are_not_left() {
    let scope = within(100);
    for _ in 0..100 {
        scope.spawn(async {
            let context = Context::current().unwrap();
            context.run(Stage::Handle, pending::<()>()).await.unwrap_err();
        });
    }
    let started = clock::now();
    scope.join().await.unwrap();
    assert_eq!(clock::now() - started, ms(100));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_join_and_names_who_ignores_it() {
    let scope = within(1000);
    scope.spawn(async { drop(Context::current().unwrap().cancelled().await) });
    let (_deaf, line) = (scope.spawn(pending::<()>()), line!());
    let mut join = pin!(scope.join());
    once(join.as_mut()).await;
    yield_now().await;
    scope.context().cancel("the client went away");
    let left = join.await.unwrap_err();
    assert_eq!(left.tasks().len(), 1);
    assert_eq!((left.tasks()[0].at.line(), left.tasks()[0].overdue_by), (line, None));
    assert_eq!(left.interrupted().unwrap().cancel_cause().unwrap().to_string(), "the client went away");
}

#[tokio::test(start_paused = true)]
async fn overdue_tasks_are_listed_aborted_on_request_and_counted() {
    let scope = within(100);
    let (overdue, line) = (scope.spawn(pending::<()>()), line!());
    sleep(ms(99)).await;
    assert!(scope.overdue().is_empty() && scope.abort_overdue().is_empty());
    assert_eq!(scope.tasks()[0].overdue_by, None);
    sleep(ms(51)).await;
    assert_eq!(scope.overdue()[0].overdue_by, Some(ms(50)));
    assert_eq!(scope.overdue()[0].age, ms(150));
    assert_eq!(strays(line), None);

    let aborted = scope.abort_overdue();
    assert_eq!((aborted.len(), aborted[0].at.line()), (1, line));
    assert_eq!(aborted[0].state, TaskState::Aborting);
    // Asked for, hence no error.
    scope.join().await.unwrap();
    assert_eq!(strays(line), Some((1, 0, 0)));
    let error = overdue.await.unwrap_err();
    assert_eq!(error.tasks()[0].state, TaskState::Aborted);
    assert_nothing_is_left(&scope);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_in_time_or_by_its_own_limit_is_no_stray() {
    let scope = within(100);
    let line = line!() + 2;
    for n in [50, 100, 105, 120] {
        scope.spawn(sleep(ms(n)));
    }
    sleep(ms(200)).await;
    scope.join().await.unwrap();
    // The runtime's timers are not precise enough to tell 105 from 100.
    assert_eq!(strays(line), Some((1, 0, 0)));
}

#[tokio::test(start_paused = true)]
async fn one_task_is_cancelled_or_aborted_by_its_handle() {
    let scope = within(1000);
    let polite = scope.spawn(async { Context::current().unwrap().cancelled().await.to_string() });
    let deaf = scope.spawn(pending::<()>());
    let other = scope.spawn(sleep(ms(10)));
    yield_now().await;
    polite.context().cancel("not needed any more");
    assert_eq!(polite.await.unwrap(), "not needed any more");
    deaf.abort();
    deaf.abort();
    let error = deaf.await.unwrap_err();
    assert_eq!(error.tasks()[0].state, TaskState::Aborted);
    assert!(error.interrupted().is_none());
    other.await.unwrap();
    scope.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_cancels_waits_and_aborts_the_rest() {
    let scope = within(10_000);
    scope.spawn(async {
        drop(Context::current().unwrap().cancelled().await);
        sleep(ms(30)).await;
    });
    let (_deaf, line) = (scope.spawn(pending::<()>()), line!());
    yield_now().await;
    let started = clock::now();
    let error = scope.close(total(50)).await.unwrap_err();
    // The deaf one was dropped at once when it was aborted.
    assert_eq!(clock::now() - started, ms(50));
    assert_eq!((error.tasks().len(), error.tasks()[0].at.line()), (1, line));
    assert_eq!(error.tasks()[0].state, TaskState::Aborted);
    assert_eq!(error.interrupted().unwrap().limit().unwrap().value, ms(50));
    assert_eq!(strays(line), None);
}

#[tokio::test(start_paused = true)]
async fn close_ends_with_the_last_task_and_says_who_closed() {
    let scope = within(10_000);
    let causes = scope.spawn(async { Context::current().unwrap().cancelled().await });
    yield_now().await;
    let started = clock::now();
    let (closing, line) = (scope.close(total(50)), line!());
    closing.await.unwrap();
    assert_eq!(clock::now(), started);
    let cause = causes.await.unwrap();
    assert_eq!((cause.to_string().as_str(), cause.location().unwrap().line()), ("its scope was closed", line));
}

#[tokio::test(start_paused = true)]
async fn close_has_its_grace_past_the_deadline_and_none_when_that_is_zero() {
    let scope = within(10);
    scope.spawn(sleep(ms(40)));
    sleep(ms(20)).await;
    scope.close(total(50)).await.unwrap();

    let scope = within(10);
    scope.spawn(sleep(ms(40)));
    yield_now().await;
    let started = clock::now();
    let error = scope.close(total(0)).await.unwrap_err();
    assert_eq!(clock::now(), started);
    assert_eq!(error.tasks()[0].state, TaskState::Aborted);
}

#[test]
fn a_task_that_blocks_its_thread_is_said_to_be_left_and_counted() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (began, begin) = tokio::sync::oneshot::channel();
        let scope = within(10_000);
        let block = move || {
            began.send(()).unwrap();
            let _ = blocked.recv();
        };
        let (task, line) = (scope.spawn(async { block() }), line!());
        begin.await.unwrap();
        let error = scope.close(total(1)).await.unwrap_err();
        assert_eq!(error.tasks()[0].state, TaskState::Aborting);
        assert!(error.to_string().contains("was told to abort"), "{error}");
        assert_eq!(strays(line), Some((0, 1, 1)));
        drop(release);
        // It comes to its end before it comes to an await.
        task.await.unwrap();
        assert_eq!(strays(line), Some((0, 1, 0)));
    });
}

#[tokio::test(start_paused = true)]
async fn dropping_a_scope_cancels_it_and_counts_the_tasks_that_are_left() {
    let line = line!() + 3;
    let scope = within(1000);
    for n in 0..3 {
        scope.spawn(async move {
            let cause = Context::current().unwrap().cancelled().await;
            assert_eq!(cause.to_string(), "its scope was dropped");
            // One of them takes its time.
            sleep(ms(if n == 0 { 50 } else { 0 })).await;
        });
    }
    yield_now().await;
    let context = scope.context().clone();
    drop(scope);
    assert!(context.is_cancelled());
    assert_eq!(strays(line), Some((0, 3, 3)));
    sleep(ms(20)).await;
    assert_eq!(strays(line), Some((0, 3, 1)));
    sleep(ms(50)).await;
    assert_eq!(strays(line), Some((0, 3, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_was_joined_leaves_no_stray() {
    let scope = within(100);
    let (_task, line) = (scope.spawn(sleep(ms(10))), line!());
    scope.join().await.unwrap();
    drop(scope);
    assert_eq!(strays(line), None);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_reported_by_the_handle_and_by_join_with_its_line() {
    let scope = within(100);
    let (task, line) = (scope.spawn_named("sum", async { panic!("boom {}", 7) }), line!());
    let by_handle = task.await.map(|()| "no panic").unwrap_err();
    scope.spawn(sleep(ms(10)));
    let by_join = scope.join().await.unwrap_err();
    for error in [by_handle, by_join] {
        assert_eq!((error.tasks().len(), error.tasks()[0].at.line()), (1, line));
        assert_eq!(error.tasks()[0].state, TaskState::Panicked("boom 7".into()));
        assert!(error.interrupted().is_none());
        assert!(error.to_string().contains("1 task of the scope opened at"), "{error}");
        assert!(error.to_string().contains("panicked after 0 (boom 7)"), "{error}");
    }
    // It was said; the next join has nothing to say.
    scope.join().await.unwrap();
    assert_nothing_is_left(&scope);
}

#[tokio::test(start_paused = true)]
async fn many_failures_are_counted_and_take_bounded_room() {
    let scope = within(100);
    let failures = FAILED_MAX + 10;
    for _ in 0..failures {
        // Dropped by its runtime, which is no panic and as bad.
        scope.shared.spawn_and_lose();
    }
    assert!(scope.shared.lock().failed.capacity() <= FAILED_MAX);
    let error = scope.join().await.unwrap_err();
    assert_eq!((error.tasks().len(), error.omitted()), (FAILED_MAX, 10));
    assert!(error.to_string().starts_with("74 tasks of the scope"), "{error}");
    assert!(error.to_string().ends_with("; and 66 more"), "{error}");
    scope.join().await.unwrap();
}

impl Shared {
    /// A task whose future is dropped before it was polled.
    #[track_caller]
    fn spawn_and_lose(self: &Arc<Self>) {
        let spawned = Spawned { at: Location::caller(), name: None, started: clock::now() };
        drop(Entry::new(self, spawned));
    }
}

#[test]
fn a_runtime_that_is_shut_down_does_not_lose_tasks_silently() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (scope, task) = runtime().block_on(async {
        let scope = within(1000);
        let task = scope.spawn(pending::<()>());
        (scope, task)
    });
    runtime().block_on(async {
        let error = scope.join().await.unwrap_err();
        assert_eq!(error.tasks()[0].state, TaskState::Aborted);
        assert_eq!(task.await.unwrap_err().tasks()[0].state, TaskState::Aborted);
    });
    assert_nothing_is_left(&scope);
}

#[tokio::test(start_paused = true)]
async fn tasks_spawn_further_tasks_in_the_same_scope_and_join_waits_for_all() {
    fn countdown(spawner: Spawner, n: u64, ran: Arc<AtomicUsize>) {
        let further = spawner.clone();
        spawner.spawn(async move {
            sleep(ms(10)).await;
            ran.fetch_add(1, SeqCst);
            if n > 1 {
                countdown(further, n - 1, ran);
            }
        });
    }
    let scope = within(100);
    let ran = Arc::new(AtomicUsize::new(0));
    countdown(scope.spawner(), 5, Arc::clone(&ran));
    let started = clock::now();
    scope.join().await.unwrap();
    assert_eq!((ran.load(SeqCst), clock::now() - started), (5, ms(50)));
    assert_nothing_is_left(&scope);
}

#[tokio::test(start_paused = true)]
async fn a_spawner_does_not_keep_its_scope_open() {
    let scope = within(100);
    let spawner = scope.spawner();
    let task = scope.spawn({
        let spawner = spawner.clone();
        async move {
            drop(spawner.context().cancelled().await);
            // Too late.
            spawner.spawn(async { unreachable!("the scope is gone") }).await.unwrap_err()
        }
    });
    yield_now().await;
    drop(scope);
    let error = task.await.unwrap();
    assert_eq!(error.tasks()[0].state, TaskState::NotStarted);
    let why = Error::find(&error).unwrap();
    assert_eq!(why.cancel_cause().unwrap().to_string(), "its scope was dropped");
}

#[tokio::test(start_paused = true)]
async fn work_is_never_polled_past_the_deadline_and_join_tells() {
    let scope = within(10);
    advance(ms(11)).await;
    let (task, line) = (scope.spawn(async { unreachable!("its deadline has passed") }), line!());
    let error = scope.join().await.unwrap_err();
    assert_eq!((error.tasks().len(), error.tasks()[0].at.line()), (1, line));
    assert_eq!(error.tasks()[0].state, TaskState::NotStarted);
    assert_eq!(error.tasks()[0].overdue_by, Some(ms(1)));
    let error = task.await.map(|()| "polled").unwrap_err();
    assert_eq!(error.interrupted().unwrap().limit().unwrap().value, ms(10));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_join_or_a_close_is_safe() {
    let scope = within(1000);
    let (_task, line) = (scope.spawn(sleep(ms(100))), line!());
    for n in 0..100 {
        let mut join = Box::pin(scope.join());
        once(join.as_mut()).await;
        if n % 2 == 0 {
            advance(ms(1)).await;
            once(join.as_mut()).await;
        }
    }
    // One waiter is the task's own list entry; nothing of the joins is left.
    assert_eq!(scope.context().node.linked(), (0, 0));
    assert_eq!((scope.tasks().len(), scope.context().is_cancelled()), (1, false));
    // Two may wait at once.
    let (one, other) = tokio::join!(scope.join(), scope.join());
    one.and(other).unwrap();

    let (_task, stray_line) = (scope.spawn(sleep(ms(100))), line!());
    yield_now().await;
    let mut close = Box::pin(scope.close(total(50)));
    once(close.as_mut()).await;
    drop(close);
    assert_eq!(strays(line), None);
    assert_eq!(strays(stray_line), Some((0, 1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_join_that_is_dropped_while_tasks_settle_loses_no_failure() {
    let scope = within(10);
    scope.spawn(pending::<()>());
    scope.spawn_named("bad", async { panic!("boom") });
    let mut join = Box::pin(scope.join());
    // Ends in the 10 ms after the deadline.
    timeout(ms(15), join.as_mut()).await.unwrap_err();
    drop(join);
    let states: Vec<_> = scope.join().await.unwrap_err().tasks().iter().map(|task| task.state.clone()).collect();
    assert_eq!(states, [TaskState::Running, TaskState::Panicked("boom".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_join_ends_only_after_the_work_was_dropped() {
    for polls in [0, 1] {
        let scope = within(1000);
        let listed = Arc::new(AtomicUsize::new(0));
        let dropped = OnDrop({
            let (shared, listed) = (Arc::clone(&scope.shared), Arc::clone(&listed));
            move || listed.store(shared.lock().running.len(), SeqCst)
        });
        let task = scope.spawn(async move {
            let _dropped = dropped;
            pending::<()>().await;
        });
        for _ in 0..polls {
            yield_now().await;
        }
        task.abort();
        scope.join().await.unwrap();
        // It was dropped, and still in the list then.
        assert_eq!(listed.load(SeqCst), 1);
    }
}

async fn ten_thousand(scope: Scope) {
    // The first deadline of a runtime starts the task that keeps them all.
    scope.context().run(Stage::Handle, yield_now()).await.unwrap();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let ran = Arc::new(AtomicUsize::new(0));
    for n in 0..10_000_u64 {
        let ran = Arc::clone(&ran);
        scope.spawn(async move {
            if n % 2 == 0 {
                drop(Context::current().unwrap().cancelled().await);
            } else {
                yield_now().await;
            }
            ran.fetch_add(1, SeqCst);
        });
    }
    while ran.load(SeqCst) < 5_000 || scope.context().node.linked().0 < 5_000 {
        yield_now().await;
    }
    while scope.tasks().len() > 5_000 {
        yield_now().await;
    }
    let shared = Arc::clone(&scope.shared);
    scope.close(total(60_000)).await.unwrap();
    assert_eq!(ran.load(SeqCst), 10_000);
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() > before {
        yield_now().await;
    }
    assert_nothing_holds(&shared);
}

#[tokio::test]
async fn ten_thousand_tasks_are_joined_and_leave_nothing() {
    ten_thousand(within(100_000)).await;
}

#[test]
fn ten_thousand_tasks_on_two_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async { tokio::spawn(async { ten_thousand(within(100_000)).await }).await.unwrap() });
}

#[test]
fn an_abort_reaches_a_task_whose_spawn_is_not_over() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        for _ in 0..2_000 {
            let scope = within(60_000);
            let shared = Arc::clone(&scope.shared);
            let task = scope.spawn(async move {
                // On another thread, and at times before `spawn` has the handle.
                shared.abort_all();
                pending::<()>().await;
            });
            let ended = timeout(Duration::from_secs(20), task).await.expect("an abort was lost");
            assert_eq!(ended.unwrap_err().tasks()[0].state, TaskState::Aborted);
        }
    });
}

#[test]
fn ends_aborts_and_closes_race_on_two_threads_without_a_lost_wake() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let (line, mut aborted) = (line!(), 0);
        for round in 0..500 {
            let scope = within(60_000);
            let spawner = scope.spawner();
            let racing = scope.spawn(async move {
                for _ in 0..round % 8 {
                    spawner.spawn(async { yield_now().await });
                    yield_now().await;
                }
            });
            let closing = tokio::spawn(async move {
                if round % 3 == 0 {
                    racing.abort();
                }
                let grace = if round % 2 == 0 { 0 } else { 10_000 };
                (scope.shared.clone(), scope.close(total(grace)).await)
            });
            let (shared, closed) = timeout(Duration::from_secs(20), closing).await.expect("a wake was lost").unwrap();
            if let Err(error) = closed {
                aborted += error.tasks().len();
                let gone = |task: &TaskInfo| matches!(task.state, TaskState::Aborted | TaskState::NotStarted);
                assert!(error.tasks().iter().all(gone), "{error}");
            }
            assert!(shared.lock().running.is_empty());
        }
        // Those of `racing`, and those that it spawned.
        assert_eq!([strays(line + 3), strays(line + 5)], [None, None], "{aborted} were aborted");
    });
}

#[tokio::test(start_paused = true)]
async fn a_root_opened_under_a_deadline_is_counted_with_its_line_and_the_limit_it_dropped() {
    let limit = total(100);
    let scope = Context::root().child(limit.clone()).scope();
    let line = line!() + 3;
    scope.spawn(async {
        for _ in 0..3 {
            drop(Context::root());
            yield_now().await;
        }
    });
    scope.join().await.unwrap();
    let counted = lost(line).unwrap();
    assert_eq!((counted.count, &counted.limit), (3, &limit));

    let request = Context::root().child(limit);
    let line = line!() + 1;
    request.run(Stage::Handle, async { drop(Context::default()) }).await.unwrap();
    assert_eq!(lost(line).unwrap().count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_root_is_not_counted_where_no_deadline_is_lost() {
    let begin = line!();
    // Outside of all work.
    let (root, request) = (Context::root(), Context::root().child(total(100)));
    // In work without a deadline.
    let scope = root.scope();
    scope.spawn(async { Context::root() });
    scope.join().await.unwrap();
    // On purpose, and in what was detached on purpose.
    request.run(Stage::Handle, async { Context::current().unwrap().detached() }).await.unwrap();
    let detached = request.detached();
    let below = detached.run(Stage::Handle, async { Context::root() });
    request.run(Stage::Handle, below).await.unwrap().unwrap();
    // In tokio's own spawn: nobody knows whose request that was.
    request.run(Stage::Handle, async { tokio::spawn(async { Context::root() }).await.unwrap() }).await.unwrap();
    // On the same thread between two polls.
    let mut running = pin!(request.run(Stage::Handle, yield_now()));
    once(running.as_mut()).await;
    drop(Context::root());
    running.await.unwrap();
    let lines = begin..line!();
    let here = |lost: &LostDeadline| lost.at.file() == file!() && lines.contains(&lost.at.line());
    assert_eq!(lost_deadlines().into_iter().find(here), None);
}

#[tokio::test(start_paused = true)]
async fn the_current_context_is_that_of_the_innermost_work() {
    assert!(Context::current().is_none());
    let outer = Context::root().with_value("outer").child(total(100));
    let inner = outer.with_value("inner");
    let name = || *Context::current().unwrap().value::<&str>().unwrap();
    outer
        .run(Stage::Handle, async {
            assert_eq!(name(), "outer");
            inner.run(Stage::Handle, async { assert_eq!(name(), "inner") }).await.unwrap();
            assert_eq!(name(), "outer");
        })
        .await
        .unwrap();
    assert!(Context::current().is_none());

    let scope = outer.scope();
    let task = scope.spawn(async { Context::current().unwrap() });
    assert!(Arc::ptr_eq(&task.context().node.clone(), &task.await.unwrap().node));
    // A panic and a drop find the context and take it away again.
    scope.spawn(async {
        let _dropped = OnDrop(|| assert!(Context::current().is_some()));
        pending::<()>().await
    });
    scope.spawn(async { panic!("boom") });
    yield_now().await;
    assert!(Context::current().is_none());
    scope.close(total(0)).await.unwrap_err();
    assert!(Context::current().is_none());
}
