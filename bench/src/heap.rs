//! A global allocator that counts what is in use.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static BYTES: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted. A program that wants the counts makes it its `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

/// What is in use, as it was asked for: without what the allocator adds.
#[derive(Clone, Copy, Debug)]
pub struct InUse {
    /// Bytes.
    pub bytes: usize,
    /// Allocations.
    pub allocations: usize,
}

impl InUse {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { bytes: BYTES.load(Relaxed), allocations: ALLOCATIONS.load(Relaxed) }
    }
}

#[expect(unsafe_code, reason = "allocators are")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Relaxed);
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        ALLOCATIONS.fetch_sub(1, Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}
