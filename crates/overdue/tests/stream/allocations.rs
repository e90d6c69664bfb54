//! What reading and writing costs in allocations: nothing, while no limit is changed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use overdue::{Limit, LimitName, stream::Stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::yield_now,
};

use crate::ms;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is left to the system's allocator.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }
}

#[tokio::test]
async fn reading_and_writing_allocate_nothing_whatever_limits_are_set() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    let mut stream = Stream::from_tcp(client).unwrap();
    stream.set_deadline(ms(60_000));
    stream.handle().set_read_idle(Some(Limit::new(LimitName::Gap, ms(30_000))));
    stream.handle().set_write_idle(Some(Limit::new(LimitName::Idle, ms(30_000))));
    let mut before = 0;
    for round in 0..200 {
        // The first rounds make room: in the timer wheel, in the list of those who wait.
        if round == 100 {
            before = ALLOCATIONS.get();
        }
        let answer = async {
            // The read waits by then.
            yield_now().await;
            peer.read_u8().await.unwrap();
            peer.write_u8(7).await.unwrap();
        };
        stream.write_u8(7).await.unwrap();
        let (read, ()) = tokio::join!(biased; stream.read_u8(), answer);
        read.unwrap();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
