//! Drops a future after each of its polls, and looks at what is left. The library's own tests use it, too.

use std::{
    fmt::Debug,
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;

/// Longer than anything takes that is not lost.
const LOST: Duration = Duration::from_secs(30);
/// More than any future here needs.
const POLLS_MAX: usize = 2_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// Right behind the last poll: nothing has happened since.
    AtOnce,
    /// When it is woken after the last poll: something has happened at which it never looks.
    WhenWoken,
}

/// The waker of a future that is dropped. Whoever holds it then has not been told: a timer, a context, a queue.
#[derive(Default)]
struct Watched(AtomicWaker);

impl Wake for Watched {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

struct CutAfter<F> {
    work: Pin<Box<F>>,
    polls: usize,
    cut: Cut,
    waker: Arc<Watched>,
}

impl<F: Future> Future for CutAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.waker.0.register(cx.waker());
        let waker = Waker::from(Arc::clone(&self.waker));
        if let Poll::Ready(output) = self.work.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            return Poll::Ready(Some(output));
        }
        self.polls -= 1;
        if self.polls == 0 && self.cut == Cut::AtOnce { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// Drops `work` after its first poll, then another after its second, and so on until one gets to its end. What `held`
/// sees, and who holds the waker, must each time be as it was before.
pub(crate) async fn after_each_poll<F: Future, H: PartialEq + Debug>(held: impl Fn() -> H, work: impl Fn() -> F) {
    // The first deadline starts the task that wakes for all: it stays.
    let first = overdue::Context::root().child(overdue::Limit::total(Duration::from_millis(1)));
    first.run(overdue::Stage::Handle, pending::<()>()).await.unwrap_err();
    let before = held();
    let mut waited = false;
    for cut in [Cut::AtOnce, Cut::WhenWoken] {
        for polls in 1.. {
            assert!(polls < POLLS_MAX, "more polls are needed to reach the end");
            let waker = Arc::<Watched>::default();
            let ended = CutAfter { work: Box::pin(work()), polls, cut, waker: Arc::clone(&waker) }.await.is_some();
            let clean = comes_true(|| held() == before && Arc::strong_count(&waker) == 1).await;
            let (now, wakers) = (held(), Arc::strong_count(&waker) - 1);
            assert!(clean, "cut {cut:?} after {polls} polls: {wakers} wakers held; before {before:?}, now {now:?}");
            if ended {
                waited |= polls > 1;
                break;
            }
        }
    }
    // Once it may: all that it waits for was done by another thread while it was polled.
    assert!(waited, "it never waited");
}

/// Whether it comes true within a time that only a fault exceeds.
pub(crate) async fn comes_true(what: impl Fn() -> bool) -> bool {
    let wait = async {
        for _ in 0..20 {
            if what() {
                return;
            }
            tokio::task::yield_now().await;
        }
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LOST, wait).await.is_ok()
}
