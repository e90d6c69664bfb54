//! Every order in which a cancel and those who begin or end to wait can meet.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Wake},
};

use loom::thread;

use super::*;

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn cause(text: &'static str) -> Arc<CancelCause> {
    Arc::new(CancelCause::from(text))
}

/// Polls once. Whoever got "not yet" must be woken, or find the cause at the next look.
fn wait(node: &Arc<Node>) -> (Waiter, Arc<Bell>, bool) {
    let (mut waiter, bell) = (Waiter::default(), Arc::new(Bell::default()));
    let waker = Waker::from(Arc::clone(&bell));
    let ready = waiter.poll(&Context::from_waker(&waker), node).is_ready();
    (waiter, bell, ready)
}

#[test]
fn no_cancel_is_lost_on_one_who_begins_to_wait() {
    loom::model(|| {
        let root = Arc::new(Node::root());
        let leaf = Arc::new(Node::child(&Arc::new(Node::child(&root, None)), None));
        let canceller = thread::spawn({
            let root = Arc::clone(&root);
            move || assert!(root.cancel(&cause("enough")))
        });
        let (_waiter, bell, ready) = wait(&leaf);
        canceller.join().unwrap();
        assert!(ready || bell.0.load(SeqCst) > 0, "it waits for ever");
        assert_eq!(leaf.cause().unwrap().to_string(), "enough");
    });
}

#[test]
fn the_first_cause_is_the_cause_for_everybody() {
    loom::model(|| {
        let root = Arc::new(Node::root());
        let child = Arc::new(Node::child(&root, None));
        let (_waiter, bell, ready) = wait(&child);
        assert!(!ready);
        let above = thread::spawn({
            let root = Arc::clone(&root);
            move || root.cancel(&cause("above"))
        });
        let below = child.cancel(&cause("below"));
        let seen = child.cause().unwrap();
        assert!(above.join().unwrap(), "nobody else cancels the root");
        assert_eq!(seen.to_string() == "below", below);
        assert!(Arc::ptr_eq(&seen, &child.cause().unwrap()), "a cause changed");
        assert_eq!(root.cause().unwrap().to_string(), "above");
        assert!(bell.0.load(SeqCst) > 0);
    });
}

#[test]
fn one_who_stops_waiting_leaves_nothing_behind() {
    loom::model(|| {
        let root = Arc::new(Node::root());
        let child = Arc::new(Node::child(&root, None));
        let canceller = thread::spawn({
            let root = Arc::clone(&root);
            move || root.cancel(&cause("enough"))
        });
        drop(wait(&child));
        assert_eq!(child.linked(), (0, 0));
        drop(child);
        canceller.join().unwrap();
        assert_eq!(root.linked(), (0, 0));
        assert_eq!(Arc::strong_count(&root), 1);
    });
}

/// While one links the way up, another finds it begun and relies on it. Three threads have too many orders to try all of
/// them: these are those in which threads are interrupted three times.
#[test]
fn no_cancel_is_lost_on_one_who_relies_on_anothers_way_up() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let root = Arc::new(Node::root());
        let middle = Arc::new(Node::child(&Arc::new(Node::child(&root, None)), None));
        let leaf = Arc::new(Node::child(&middle, None));
        let canceller = thread::spawn({
            let root = Arc::clone(&root);
            move || root.cancel(&cause("enough"))
        });
        let other = thread::spawn(move || wait(&middle));
        let (_waiter, bell, ready) = wait(&leaf);
        canceller.join().unwrap();
        let (_other_waiter, other_bell, other_ready) = other.join().unwrap();
        assert!(ready || bell.0.load(SeqCst) > 0, "it waits for ever");
        assert!(other_ready || other_bell.0.load(SeqCst) > 0, "the other waits for ever");
    });
}

#[test]
fn no_cancel_of_a_node_is_lost_on_one_who_begins_to_wait_there() {
    loom::model(|| {
        let node = Arc::new(Node::root());
        let canceller = thread::spawn({
            let node = Arc::clone(&node);
            move || node.cancel(&cause("enough"))
        });
        let (_waiter, bell, ready) = wait(&node);
        canceller.join().unwrap();
        assert!(ready || bell.0.load(SeqCst) > 0, "it waits for ever");
    });
}

/// Between the two who cancel, a third reads the cause of the upper one, and keeps it.
#[test]
fn no_cancel_is_lost_on_one_whose_cause_was_only_read() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let root = Arc::new(Node::root());
        let middle = Arc::new(Node::child(&root, None));
        let leaf = Arc::new(Node::child(&middle, None));
        let (_waiter, bell, ready) = wait(&leaf);
        assert!(!ready);
        let above = thread::spawn({
            let root = Arc::clone(&root);
            move || root.cancel(&cause("above"))
        });
        let between = thread::spawn({
            let middle = Arc::clone(&middle);
            move || middle.cancel(&cause("between"))
        });
        drop(leaf.cause());
        above.join().unwrap();
        between.join().unwrap();
        assert!(bell.0.load(SeqCst) > 0, "it waits for ever");
    });
}
