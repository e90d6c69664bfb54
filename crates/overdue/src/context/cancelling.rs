//! Futures that are dropped after each of their polls, in virtual time and without sockets: no alarm, no task and nobody
//! who waits for a context is left. Those of sockets are in `tests/cancelling`.

use std::{
    future::{pending, poll_fn},
    task::Poll,
    time::Duration,
};

use overdue_core::{Limit, Stage};
use tokio::{runtime::Handle, time::sleep};

use super::Context;
use crate::{cut::after_each_poll, timer::alarms_set};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

/// Gives way to whatever else runs, so often.
async fn give_way(times: usize) {
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Drops the work after each of its polls. It is given a context with a deadline, which outlives it: nobody may be left
/// who waits there or below.
async fn leaves_nothing<F: Future>(work: impl Fn(Context) -> F) {
    let context = Context::root().child(Limit::total(LONG));
    let held = || {
        let above = context.node.linked();
        (alarms_set(), Handle::current().metrics().num_alive_tasks(), above)
    };
    after_each_poll(held, || work(context.clone())).await;
}

#[tokio::test(start_paused = true)]
async fn run() {
    leaves_nothing(async |context| {
        let inner = context.child(Limit::total(10 * MS));
        let two = tokio::join!(
            context.run(Stage::Handle, sleep(5 * MS)),
            inner.run(Stage::Handle, async { context.run(Stage::Handle, give_way(5)).await.unwrap() }),
        );
        two.0.unwrap();
        two.1.unwrap();
        inner.run(Stage::Handle, pending::<()>()).await.unwrap_err();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cancelled() {
    leaves_nothing(async |outer| {
        assert!(tokio::time::timeout(MS, outer.cancelled()).await.is_err());
        let context = outer.branch();
        let deep = context.branch().child(Limit::total(LONG)).branch();
        let cancel = async {
            sleep(MS).await;
            context.cancel("enough");
        };
        let run = deep.run(Stage::Handle, pending::<()>());
        let (_, _, ran, ()) = tokio::join!(deep.cancelled(), context.cancelled(), run, cancel);
        ran.unwrap_err();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn scope_join() {
    leaves_nothing(async |context| {
        let scope = context.child(Limit::total(20 * MS)).scope();
        for n in 1..4 {
            let inside = scope.context().clone();
            scope.spawn(async move { inside.run(Stage::Handle, sleep(n * MS)).await });
        }
        scope.join().await.unwrap();
        let inside = scope.context().clone();
        scope.spawn(async move { inside.run(Stage::Handle, pending::<()>()).await });
        // It is the deadline that ends it, and the task with it.
        scope.join().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn scope_close() {
    leaves_nothing(async |context| {
        let scope = context.scope();
        let inside = scope.context().clone();
        scope.spawn(async move {
            inside.cancelled().await;
            sleep(5 * MS).await;
        });
        scope.spawn(sleep(3 * MS));
        give_way(3).await;
        scope.close(Limit::total(50 * MS)).await.unwrap();

        let scope = context.scope();
        scope.spawn(sleep(20 * MS));
        scope.close(Limit::total(2 * MS)).await.unwrap_err();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn task() {
    leaves_nothing(async |context| {
        let scope = context.scope();
        let inside = scope.context().clone();
        let mut task = scope.spawn(async move { inside.run(Stage::Handle, sleep(5 * MS)).await.is_ok() });
        // Given up once and awaited again.
        assert!(tokio::time::timeout(MS, &mut task).await.is_err());
        assert!(task.await.unwrap());
        let aborted = scope.spawn(sleep(MS));
        aborted.abort();
        aborted.await.unwrap_err();
    })
    .await;
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn layer() {
    use tower::{Layer, ServiceExt, service_fn};

    use crate::{BoxError, adapt::ContextLayer};

    leaves_nothing(async |context| {
        let service = ContextLayer::new(Limit::total(10 * MS)).layer(service_fn(|long: Duration| async move {
            let inside = Context::current().unwrap();
            inside.run(Stage::Named("inside"), sleep(long)).await?;
            Ok::<_, BoxError>(())
        }));
        let calls = async {
            service.clone().oneshot(5 * MS).await.unwrap();
            service.oneshot(LONG).await.unwrap_err();
        };
        context.run(Stage::Handle, calls).await.unwrap();
    })
    .await;
}

#[cfg(feature = "client")]
mod streams {
    use bytes::Bytes;
    use futures_util::stream::unfold;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};

    use super::*;
    use crate::stream::{AtMost, Bounded, Chained, Stream};

    fn pipe() -> (Stream, DuplexStream) {
        let (near, far) = duplex(8);
        let (reader, writer) = split(near);
        (Stream::from_halves(reader, writer), far)
    }

    /// Sends what comes back, some of it after a while, until there is no more.
    async fn echo(mut far: DuplexStream) {
        let mut buf = [0; 5];
        while let Ok(read @ 1..) = far.read(&mut buf).await {
            sleep(MS).await;
            far.write_all(&buf[..read]).await.unwrap();
        }
    }

    /// Both directions at once, to the end of both.
    async fn exchange(reader: &mut (impl AsyncRead + Unpin), writer: &mut (impl AsyncWrite + Unpin)) {
        let write = async {
            writer.write_all(&[7; 40]).await.unwrap();
            writer.flush().await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (read, ()) = tokio::join!(reader.read_to_end(&mut back), write);
        assert_eq!((read.unwrap(), &*back), (40, &[7; 40][..]));
    }

    #[tokio::test(start_paused = true)]
    async fn reading_and_writing_under_deadlines() {
        leaves_nothing(async |context| {
            let (stream, far) = pipe();
            let handle = stream.handle().clone();
            handle.set_deadline(context.deadline().cloned());
            handle.set_read_idle(Some(Limit::total(LONG)));
            handle.set_write_idle(Some(Limit::total(LONG)));
            let (mut reader, mut writer) = stream.split();
            let moves = async {
                for n in 1..10 {
                    handle.set_deadline(n * LONG);
                    sleep(MS).await;
                }
            };
            tokio::join!(echo(far), exchange(&mut reader, &mut writer), moves);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn operations_that_a_limit_ends() {
        leaves_nothing(async |_| {
            let (mut stream, _far) = pipe();
            stream.set_read_deadline(5 * MS);
            stream.read_u8().await.unwrap_err();
            stream.handle().set_write_idle(Some(Limit::total(5 * MS)));
            stream.write_all(&[0; 40]).await.unwrap_err();
            let handle = stream.handle().clone();
            handle.set_deadline(LONG);
            let close = async {
                sleep(MS).await;
                handle.close();
            };
            let (read, ()) = tokio::join!(stream.read_u8(), close);
            read.unwrap_err();
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn bounded() {
        leaves_nothing(async |context| {
            let (near, far) = duplex(8);
            let (mut reader, mut writer) = split(Bounded::new(&context, near));
            tokio::join!(echo(far), exchange(&mut reader, &mut writer));
            let short = context.child(Limit::total(5 * MS));
            let (near, _far) = duplex(8);
            Bounded::new(&short, near).read_u8().await.unwrap_err();
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_and_chained() {
        leaves_nothing(async |context| {
            let (near, far) = duplex(8);
            let (reader, mut writer) = split(Bounded::new(&context, near));
            let mut reader = AtMost::new(40, Chained::new(&b""[..], reader));
            tokio::join!(echo(far), exchange(&mut reader, &mut writer));
        })
        .await;
    }

    /// Frames that each take a while.
    fn body(frames: u8) -> impl http_body::Body<Data = Bytes, Error = std::io::Error> {
        StreamBody::new(Box::pin(unfold(frames, |left| async move {
            sleep(MS).await;
            let frame = Frame::data(Bytes::from_static(b"abc"));
            (left > 0).then(|| (Ok(frame), left - 1))
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn bodies() {
        leaves_nothing(async |context| {
            let whole = Bounded::new(&context, AtMost::new(12, Chained::new(body(2), body(2))));
            assert_eq!(whole.collect().await.unwrap().to_bytes().len(), 12);
            let short = context.child(Limit::total(5 * MS));
            Bounded::new(&short, body(9)).collect().await.unwrap_err();
            AtMost::new(5, body(2)).collect().await.unwrap_err();
        })
        .await;
    }
}
