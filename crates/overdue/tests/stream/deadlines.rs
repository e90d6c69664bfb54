//! Deadlines and idle limits, in virtual time, over a pipe in memory.

use std::{
    io::{self, ErrorKind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use overdue::{Cause, Context, Deadline, Limit, LimitName, Stage, stream::Stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex, sink, split},
    time::{Instant, advance, sleep},
};

use crate::{explained, ms, timed_out};

/// A stream over a pipe with room for so many bytes, and the peer's end of it.
fn pipe(room: usize) -> (Stream, DuplexStream) {
    let (near, far) = duplex(room);
    let (reader, writer) = split(near);
    (Stream::from_halves(reader, writer), far)
}

fn gap(n: u64) -> Option<Limit> {
    Some(Limit::new(LimitName::Gap, ms(n)))
}

/// Counts how often it is polled; always ready.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, _: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, SeqCst);
        buf.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, _: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.fetch_add(1, SeqCst);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, SeqCst);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, SeqCst);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_fails_every_operation_at_once_and_touches_nothing() {
    let polls = Counted::default();
    let mut stream = Stream::from_halves(polls.clone(), polls.clone());
    let line = line!() + 1;
    stream.set_deadline(Duration::ZERO);
    let results =
        [stream.read_u8().await.map(drop), stream.write_all(b"x").await, stream.flush().await, stream.shutdown().await];
    for (result, stage) in results.into_iter().zip([Stage::Receive, Stage::Send, Stage::Send, Stage::Send]) {
        let err = result.unwrap_err();
        let error = timed_out(&err);
        assert_eq!((error.stage(), error.cause()), (stage, Cause::BudgetSpent));
        assert_eq!(error.limit().unwrap().name, LimitName::Stage(stage));
        assert!(error.limit().unwrap().origin.to_string().ends_with(&format!("deadlines.rs:{line}")));
    }
    assert_eq!(polls.0.load(SeqCst), 0);
    // An instant that is long gone is the same.
    stream.set_deadline(std::time::Instant::from(Instant::now()));
    stream.read_u8().await.unwrap_err();
    assert_eq!(polls.0.load(SeqCst), 0);

    stream.set_deadline(None);
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_ends_the_read_that_waits_and_the_next_one_reads_all() {
    let (mut stream, mut peer) = pipe(64);
    let started = Instant::now();
    stream.set_read_deadline(Limit::stage(Stage::Named("greeting"), ms(30)));
    let mut buf = [0; 5];
    let err = stream.read_exact(&mut buf).await.unwrap_err();
    assert_eq!(started.elapsed(), ms(30));
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.cause()), (Stage::Receive, Cause::ServerSlow));
    assert_eq!(error.limit().unwrap().name.as_str(), "greeting");
    assert_eq!(error.report().elapsed_us, 30_000);

    peer.write_all(b"hello").await.unwrap();
    stream.read_u8().await.unwrap_err();
    stream.set_read_deadline(ms(30));
    stream.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"hello");
    assert_eq!(stream.handle().bytes_read(), 5);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_here_win_over_a_deadline_that_has_just_passed() {
    let (mut stream, mut peer) = pipe(64);
    stream.set_read_deadline(ms(10));
    let late = async {
        sleep(ms(10)).await;
        peer.write_all(b"x").await.unwrap();
    };
    // Both are due at the same instant.
    let ((), read) = tokio::join!(biased; late, stream.read_u8());
    assert_eq!(read.unwrap(), b'x');
    // The same deadline forbids to begin another.
    peer.write_all(b"y").await.unwrap();
    timed_out(&stream.read_u8().await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_can_be_shortened_and_lengthened_while_a_read_waits() {
    for (first, second, expected) in [(100, 20, 30), (50, 200, 210), (100, 0, 10)] {
        let (mut stream, _peer) = pipe(64);
        let handle = stream.handle().clone();
        let started = Instant::now();
        handle.set_read_deadline(ms(first));
        let change = async {
            sleep(ms(10)).await;
            handle.set_read_deadline(Limit::total(ms(second)));
        };
        let (read, ()) = tokio::join!(stream.read_u8(), change);
        let err = read.unwrap_err();
        assert_eq!(timed_out(&err).limit().unwrap().name.as_str(), "total");
        assert_eq!(started.elapsed(), ms(expected), "{first} -> {second}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instant_long_ago_ends_what_waits_at_once_and_nothing_was_late() {
    advance(Duration::from_secs(7200)).await;
    let (mut stream, _peer) = pipe(64);
    let handle = stream.handle().clone();
    let started = Instant::now();
    let interrupt = async {
        sleep(ms(5)).await;
        handle.set_read_deadline(std::time::Instant::from(started - Duration::from_secs(3600)));
    };
    let (read, ()) = tokio::join!(stream.read_u8(), interrupt);
    assert_eq!(started.elapsed(), ms(5));
    let err = read.unwrap_err();
    let error = timed_out(&err);
    assert_eq!(error.cause(), Cause::ServerSlow, "{:?}", error.report().verdicts);
    assert!(error.report().timeline.iter().all(|span| span.stage != "stall"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_can_be_set_and_cleared_while_an_operation_waits() {
    let (mut stream, mut peer) = pipe(4);
    let handle = stream.handle().clone();
    handle.set_deadline(ms(100));
    let clear = async {
        sleep(ms(99)).await;
        handle.set_deadline(None);
        sleep(Duration::from_secs(3600)).await;
        peer.write_all(b"late").await.unwrap();
    };
    let mut buf = [0; 4];
    let (read, ()) = tokio::join!(stream.read_exact(&mut buf), clear);
    read.unwrap();

    // A write that waits without any deadline gets one.
    let set = async {
        sleep(ms(5)).await;
        handle.set_write_deadline(ms(5));
    };
    let started = Instant::now();
    let (written, ()) = tokio::join!(stream.write_all(b"more than fits"), set);
    assert_eq!(timed_out(&written.unwrap_err()).stage(), Stage::Send);
    assert_eq!(started.elapsed(), ms(10));
    assert_eq!(handle.bytes_written(), 4, "what went out is counted");
}

#[tokio::test(start_paused = true)]
async fn the_last_of_many_deadlines_holds() {
    let (mut stream, _peer) = pipe(64);
    let handle = stream.handle().clone();
    let started = Instant::now();
    let change = async {
        for n in 0..1000 {
            handle.set_read_deadline(ms(5 + n % 7));
            sleep(ms(1)).await;
        }
        handle.set_read_deadline(ms(3));
    };
    let (read, ()) = tokio::join!(stream.read_u8(), change);
    timed_out(&read.unwrap_err());
    assert_eq!(started.elapsed(), ms(1003));
}

#[tokio::test(start_paused = true)]
async fn each_direction_has_its_own_deadline_at_the_same_time() {
    for (read_ms, write_ms) in [(30, 50), (50, 30), (40, 40)] {
        let (stream, _peer) = pipe(1);
        stream.set_read_deadline(ms(read_ms));
        stream.set_write_deadline(ms(write_ms));
        let (mut reader, mut writer) = stream.split();
        let started = Instant::now();
        let reading = tokio::spawn(async move { (reader.read_u8().await.unwrap_err(), started.elapsed()) });
        let writing = tokio::spawn(async move { (writer.write_all(b"two").await.unwrap_err(), started.elapsed()) });
        let ((read, read_after), (written, written_after)) = (reading.await.unwrap(), writing.await.unwrap());
        assert_eq!((timed_out(&read).stage(), read_after), (Stage::Receive, ms(read_ms)));
        assert_eq!((timed_out(&written).stage(), written_after), (Stage::Send, ms(write_ms)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_lends_its_deadline_and_the_error_names_its_owner() {
    let (mut stream, _peer) = pipe(64);
    let outer = Context::root().child(Limit::total(ms(20)));
    let inner = outer.child(Limit::stage(Stage::Receive, ms(70)));
    stream.set_deadline(inner.deadline().cloned());
    let err = stream.read_u8().await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!(error.limit().unwrap().value, ms(20));
    assert_eq!(error.report().timeline[0].clipped_by, Some("total"));
    let far = Deadline::after(Instant::now().into(), Limit::total(Duration::MAX));
    stream.set_deadline(far);
    assert!(stream.read_u8().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_idle_limit_begins_anew_with_every_byte_and_a_deadline_does_not() {
    let (mut stream, mut peer) = pipe(64);
    let handle = stream.handle().clone();
    handle.set_read_idle(gap(10));
    let trickle = async {
        for _ in 0..20 {
            sleep(ms(8)).await;
            peer.write_all(b"x").await.unwrap();
        }
    };
    let mut buf = [0; 20];
    let (read, ()) = tokio::join!(stream.read_exact(&mut buf), trickle);
    read.unwrap();
    // The time between two reads is the caller's own.
    sleep(ms(500)).await;
    let started = Instant::now();
    let err = stream.read_u8().await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.limit().unwrap().name, error.cause()), (LimitName::Gap, Cause::BodyStalled));
    assert_eq!(started.elapsed(), ms(10));
    // It is usable again at once, and the earlier of two limits is named.
    for (idle, deadline, expected) in [(10, 5, "receive"), (5, 10, "gap")] {
        handle.set_read_idle(gap(idle));
        handle.set_read_deadline(ms(deadline));
        let err = stream.read_u8().await.unwrap_err();
        assert_eq!(timed_out(&err).limit().unwrap().name.as_str(), expected);
    }
    // For a read that waits already the time counts from its start.
    handle.set_deadline(None);
    handle.set_read_idle(None);
    let started = Instant::now();
    let set = async {
        sleep(ms(30)).await;
        handle.set_read_idle(gap(50));
    };
    let (read, ()) = tokio::join!(stream.read_u8(), set);
    timed_out(&read.unwrap_err());
    assert_eq!(started.elapsed(), ms(50));
}

#[tokio::test(start_paused = true)]
async fn a_write_has_its_own_idle_limit() {
    let (mut stream, mut peer) = pipe(1);
    stream.handle().set_write_idle(Some(Limit::new(LimitName::Idle, ms(10))));
    let drain = async {
        for _ in 0..9 {
            sleep(ms(8)).await;
            peer.read_u8().await.unwrap();
        }
    };
    let started = Instant::now();
    let (written, ()) = tokio::join!(stream.write_all(&[0; 20]), drain);
    let err = written.unwrap_err();
    let error = timed_out(&err);
    assert_eq!((error.stage(), error.limit().unwrap().name), (Stage::Send, LimitName::Idle));
    assert_eq!(started.elapsed(), ms(9 * 8 + 10));
    assert_eq!(stream.handle().bytes_written(), 10);
    assert!(stream.read_u8().now_or_never().is_none(), "reads have none");
}

#[tokio::test(start_paused = true)]
async fn closing_wakes_every_half_and_names_the_line_that_closed() {
    let (stream, mut peer) = pipe(1);
    stream.set_deadline(ms(100));
    let handle = stream.handle().clone();
    let (mut reader, mut writer) = stream.split();
    let started = Instant::now();
    let close = async {
        sleep(ms(5)).await;
        assert!(handle.close());
        line!() - 1
    };
    let (read, written, line) = tokio::join!(reader.read_u8(), writer.write_all(b"two"), close);
    assert_eq!(started.elapsed(), ms(5));
    // Bytes that come later, a deadline, another close: it stays closed.
    peer.read_u8().await.unwrap();
    peer.write_all(b"x").await.unwrap();
    handle.set_deadline(Duration::ZERO);
    assert!(handle.is_closed() && !handle.close());
    for err in [read.unwrap_err(), written.unwrap_err(), reader.read_u8().await.unwrap_err()] {
        assert_eq!(err.kind(), ErrorKind::ConnectionAborted);
        let error = explained(&err);
        assert!(error.is_cancelled());
        let text = error.to_string();
        assert!(text.contains(&format!("deadlines.rs:{line} (the stream was closed)")), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_dropped_loses_nothing_and_blames_no_stall() {
    let (mut stream, mut peer) = pipe(64);
    stream.set_read_deadline(ms(20));
    assert!(stream.read_u8().now_or_never().is_none());
    assert!(stream.read_u8().now_or_never().is_none());
    // The deadline passes while nobody reads: the runtime was not late, nobody asked.
    sleep(ms(5000)).await;
    let err = stream.read_u8().await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!(error.cause(), Cause::ServerSlow);
    assert!(error.report().timeline.iter().all(|span| span.stage != "stall"), "{:?}", error.report().timeline);
    assert!(error.report().advisories.is_empty());

    stream.set_read_deadline(ms(20));
    assert!(stream.read_u8().now_or_never().is_none());
    peer.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_was_late_is_blamed_before_the_peer() {
    let (stream, _peer) = pipe(64);
    stream.set_read_deadline(ms(50));
    let (mut reader, _writer) = stream.split();
    let mut read = pin!(reader.read_u8());
    assert!(read.as_mut().now_or_never().is_none());
    // As when the one thread was blocked: no timer was served in between.
    advance(ms(950)).await;
    let err = read.await.unwrap_err();
    let error = timed_out(&err);
    assert_eq!(error.cause(), Cause::LocalStall, "{:?}", error.report().verdicts);
    let stall = error.report().timeline.iter().find(|span| span.stage == "stall").unwrap();
    assert_eq!(stall.duration_us, 900_000);
}

/// A reader that uses up its task's budget at every poll, and is never done.
struct Greedy;

impl AsyncRead for Greedy {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
        Poll::Pending
    }
}

#[tokio::test]
async fn a_reader_that_uses_up_its_budget_at_every_poll_is_ended_all_the_same() {
    let mut stream = Stream::from_halves(Greedy, sink());
    stream.set_read_deadline(ms(30));
    let err = stream.read_u8().await.unwrap_err();
    assert!(timed_out(&err).report().elapsed_us < 5_000_000, "{err}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_woken_by_the_earliest_of_all_in_the_order_of_time() {
    // Many streams, deadlines set in an order of their own; each is woken once, in the order of time.
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let mut peers = Vec::new();
    for n in (0..100).map(|n| n * 37 % 100) {
        let (mut stream, peer) = pipe(8);
        peers.push(peer);
        let order = Arc::clone(&order);
        stream.set_read_deadline(ms(10 + n));
        tasks.spawn(async move {
            timed_out(&stream.read_u8().await.unwrap_err());
            order.lock().unwrap().push(n);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
}
