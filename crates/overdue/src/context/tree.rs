//! The cancellation tree.
//!
//! A node knows its parent; a parent learns of a child only when somebody waits on that child (or below it), so that
//! a context which is created, checked and dropped touches no lock. Two rules keep this right:
//!
//! - Reading a cause stores it in the node that was asked. What was read once is what every later reader gets.
//! - A child links itself under its parent's lock, where it sees whether the parent was cancelled before. If it was,
//!   the child's own subtree is cancelled by the one who links.
//!
//! Cancelling walks the tree with a list of its own (no recursion, however deep the tree), and wakes when no lock is
//! held.

use std::{
    any::Any,
    mem,
    sync::{Arc, PoisonError, Weak},
    task::{Poll, Waker},
};

use overdue_core::Deadline;
use slab::Slab;

use super::CancelCause;
use crate::sync::{Mutex, MutexGuard, OnceLock, wake_all};

pub(super) struct Node {
    parent: Option<Arc<Node>>,
    /// Values are read through a detached node, cancellation is not.
    detached: bool,
    deadline: Option<Deadline>,
    value: Option<Arc<dyn Any + Send + Sync>>,
    cause: OnceLock<Arc<CancelCause>>,
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    /// The place among the parent's links, once this node is linked.
    slot: Option<usize>,
    below: Slab<Below>,
}

/// Whom a cancel reaches from here.
enum Below {
    Child(Weak<Node>),
    Waiter(Waker),
    /// One who was told.
    Told,
}

impl Node {
    fn new(parent: Option<Arc<Self>>, detached: bool, deadline: Option<Deadline>) -> Self {
        Self { parent, detached, deadline, value: None, cause: OnceLock::new(), links: Mutex::new(Links::default()) }
    }

    pub(super) fn root() -> Self {
        Self::new(None, true, None)
    }

    pub(super) fn child(parent: &Arc<Self>, deadline: Option<Deadline>) -> Self {
        Self::new(Some(Arc::clone(parent)), false, deadline)
    }

    pub(super) fn detached(parent: &Arc<Self>) -> Self {
        Self::new(Some(Arc::clone(parent)), true, None)
    }

    pub(super) fn with_value(mut self, value: Arc<dyn Any + Send + Sync>) -> Self {
        self.value = Some(value);
        self
    }

    pub(super) fn deadline(&self) -> Option<&Deadline> {
        self.deadline.as_ref()
    }

    pub(super) fn value<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let mut node = Some(self);
        while let Some(current) = node {
            if let Some(found) = current.value.as_ref().and_then(|value| Arc::clone(value).downcast().ok()) {
                return Some(found);
            }
            node = current.parent.as_deref();
        }
        None
    }

    /// The first cause of this node or of those above it. What is found above is kept here.
    pub(super) fn cause(&self) -> Option<Arc<CancelCause>> {
        let mut node = self;
        loop {
            if let Some(cause) = node.cause.get() {
                return Some(Arc::clone(self.cause.get_or_init(|| Arc::clone(cause))));
            }
            match node.above() {
                Some(parent) => node = parent,
                None => return None,
            }
        }
    }

    /// Cancels this node and all below it. False when it was cancelled before.
    pub(super) fn cancel(self: &Arc<Self>, cause: &Arc<CancelCause>) -> bool {
        let first = self.cause().is_none() && self.cause.set(Arc::clone(cause)).is_ok();
        if first {
            self.spread();
        }
        first
    }

    /// Tells every linked descendant the cause of this node, and wakes those who wait.
    fn spread(&self) {
        let Some(cause) = self.cause.get() else { return };
        let mut to_wake = Vec::new();
        let mut to_tell = vec![(Arc::clone(cause), self.take_below(&mut to_wake))];
        while let Some((cause, children)) = to_tell.pop() {
            for child in children {
                let Some(child) = child.upgrade() else { continue };
                // One that has a cause of another is visited all the same: it may have read that, and told nobody.
                let _ = child.cause.set(Arc::clone(&cause));
                let below = child.take_below(&mut to_wake);
                if let Some(own) = child.cause.get().filter(|_| !below.is_empty()) {
                    to_tell.push((Arc::clone(own), below));
                }
            }
        }
        wake_all(to_wake);
    }

    /// Takes those who are to be told. Whoever links or waits from now on sees by himself that this node is cancelled.
    fn take_below(&self, waiters: &mut Vec<Waker>) -> Vec<Weak<Self>> {
        let mut children = Vec::new();
        for (_, below) in &mut self.lock().below {
            match mem::replace(below, Below::Told) {
                Below::Child(child) => children.push(child),
                Below::Waiter(waker) => waiters.push(waker),
                Below::Told => {}
            }
        }
        children
    }

    /// Makes sure that a cancel above reaches this node.
    fn link(self: &Arc<Self>) {
        let mut node = self;
        while let Some(parent) = node.parent.as_ref().filter(|_| !node.detached) {
            {
                let mut links = node.lock();
                if links.slot.is_some() {
                    return;
                }
                // Locks are taken from a child to its parent, never the other way round.
                links.slot = Some(parent.lock().below.insert(Below::Child(Arc::downgrade(node))));
            }
            if let Some(cause) = parent.cause.get() {
                let _ = node.cause.set(Arc::clone(cause));
                node.spread();
                return;
            }
            node = parent;
        }
    }

    fn above(&self) -> Option<&Self> {
        self.parent.as_deref().filter(|_| !self.detached)
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many children are linked and how many wait, for tests.
    #[cfg(test)]
    pub(super) fn linked(&self) -> (usize, usize) {
        let links = self.lock();
        let children = links.below.iter().filter(|(_, below)| matches!(below, Below::Child(_))).count();
        (children, links.below.len() - children)
    }

    fn unlink(&mut self) -> Option<Arc<Self>> {
        let slot = self.links.get_mut().unwrap_or_else(PoisonError::into_inner).slot.take();
        let parent = self.parent.take();
        if let (Some(slot), Some(parent)) = (slot, parent.as_deref()) {
            // What is left of it, a weak handle, may go under the lock.
            parent.lock().below.try_remove(slot);
        }
        parent
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A chain of a million nodes must not be dropped by a million nested calls.
        let mut parent = self.unlink();
        while let Some(mut node) = parent.and_then(Arc::into_inner) {
            parent = node.unlink();
        }
    }
}

/// A place among those that wait for a node to be cancelled; given up when dropped. It costs nothing until somebody
/// waits.
#[derive(Default)]
pub(super) struct Waiter(Option<(Arc<Node>, usize)>);

impl Waiter {
    /// Ready with the cause once `node` is cancelled. It is the same node at every poll.
    pub(super) fn poll(&mut self, cx: &std::task::Context<'_>, node: &Arc<Node>) -> Poll<Arc<CancelCause>> {
        if let Some(cause) = node.cause() {
            return Poll::Ready(cause);
        }
        match &self.0 {
            Some((node, slot)) => {
                let former = match node.lock().below.get_mut(*slot) {
                    Some(Below::Waiter(waker)) if !waker.will_wake(cx.waker()) => {
                        Some(mem::replace(waker, cx.waker().clone()))
                    }
                    _ => None,
                };
                // Not under the lock: it may be the last of a task that waits here, too.
                drop(former);
            }
            None => {
                let waker = cx.waker().clone();
                let (slot, linked) = {
                    let mut links = node.lock();
                    (links.below.insert(Below::Waiter(waker)), links.slot.is_some())
                };
                self.0 = Some((Arc::clone(node), slot));
                if !linked {
                    node.link();
                }
            }
        }
        // A cancel between the first look and the registration has woken nobody.
        node.cause().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some((node, slot)) = self.0.take() {
            let former = node.lock().below.try_remove(slot);
            drop(former);
        }
    }
}

#[cfg(all(test, overdue_loom))]
mod models;
