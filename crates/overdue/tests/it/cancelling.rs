//! A call may be dropped at any point. Whatever it held goes back: its connection, its stream, its place in the queue.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use overdue::{Client, Limit, PoolOptions, Stage, client::Builder};
use tokio::task::JoinSet;

use crate::{
    comes_true,
    http2_server::{self, drain, h2c, head, settings},
    ms, post, root,
    server::Server,
};

/// Longer than any queue here should be: who waits for so long waits for something that was lost.
const LOST: Duration = ms(3_000);
/// Enough polls for every call here.
const POLLS_MAX: usize = 1_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Right behind the last poll: nothing has happened since.
    AtOnce,
    /// When it is woken after the last poll: something has happened at which it never looks.
    WhenWoken,
}

/// Polls a future so many times, drops it then, and ends with `None`.
struct CutAfter<F> {
    future: Pin<Box<F>>,
    polls: usize,
    cut: Cut,
}

impl<F: Future> Future for CutAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        self.polls -= 1;
        if self.polls == 0 && self.cut == Cut::AtOnce { Poll::Ready(None) } else { Poll::Pending }
    }
}

fn cut_after<F: Future>(polls: usize, cut: Cut, future: F) -> CutAfter<F> {
    CutAfter { future: Box::pin(future), polls, cut }
}

/// A call from its beginning to the end of its response, which is "abcde". A GET when there is nothing to send.
async fn whole(client: &Client, url: &str, upload: usize) -> String {
    let response = match upload {
        0 => client.get(&root(), url).await,
        _ => client.call(&root(), post(url.to_owned(), vec![1; upload])).await,
    };
    let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Sends its answers in pieces that end at awkward places.
async fn piecemeal() -> Server {
    Server::start(|mut peer, _| async move {
        loop {
            let head = peer.head().await?;
            if let Some((_, length)) = head.split_once("content-length: ") {
                peer.read_exact(length.split('\r').next().unwrap().parse().unwrap()).await?;
            }
            for piece in [
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-",
                "Encoding: chunked\r\n\r\n3\r\nab",
                "c\r\n2\r\nde\r\n",
                "0\r\n",
                "\r\n",
            ] {
                peer.send(piece).await?;
                tokio::time::sleep(ms(1)).await;
            }
        }
    })
    .await
}

/// The same over HTTP/2, with so many streams at a time.
async fn piecemeal_http2(streams: u32) -> http2_server::Server {
    http2_server::Server::start(
        settings().max_concurrent_streams(streams).clone(),
        |_, mut request, mut respond| async move {
            drain(&mut request).await?;
            tokio::time::sleep(ms(1)).await;
            let mut stream = head(&mut respond, false)?;
            for piece in ["abc", "de"] {
                tokio::time::sleep(ms(1)).await;
                stream.send_data(Bytes::from_static(piece.as_bytes()), false)?;
            }
            tokio::time::sleep(ms(1)).await;
            stream.send_trailers(HeaderMap::new())
        },
    )
    .await
}

fn of(builder: Builder, options: PoolOptions) -> Client {
    builder.pool(options).limit(Limit::stage(Stage::Queue, LOST)).build().unwrap()
}

/// Cuts a call off after each of its polls, every other one on a connection that was kept. The next call must find what
/// it needs. `exclusive`: a connection whose call was cut off is closed.
async fn cut_after_each_poll(builder: impl Fn() -> Builder, url: &str, upload: usize, exclusive: bool) {
    let one_connection = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
    let (mut ended_on_new, mut ended_on_kept) = (false, false);
    for polls in 1..POLLS_MAX {
        let client = of(builder(), one_connection);
        let kept = polls % 2 == 0;
        if kept {
            whole(&client, url, 0).await;
        }
        let ended = cut_after(polls, Cut::AtOnce, whole(&client, url, upload)).await.is_some();
        if exclusive {
            let left = usize::from(ended);
            let settled = comes_true(|| client.connections() == left).await;
            assert!(settled, "after {polls} polls {} connections are open, not {left}", client.connections());
        }
        assert_eq!(whole(&client, url, upload).await, "abcde", "after {polls} polls");
        let ended_before = if kept { &mut ended_on_kept } else { &mut ended_on_new };
        *ended_before |= ended;
        if ended_on_new && ended_on_kept {
            return;
        }
    }
    assert!(ended_on_new && ended_on_kept, "more cuts than {POLLS_MAX} are needed to reach the end of a call");
}

/// Many calls at once, which all want the same few connections; most are cut off somewhere. Nothing is lost for those
/// who come later.
async fn cut_among_waiters(client: Client, url: &str, upload_max: usize) {
    let mut calls = JoinSet::new();
    for n in 0..80 {
        let (client, url) = (client.clone(), url.to_owned());
        let cut = if n % 2 == 0 { Cut::WhenWoken } else { Cut::AtOnce };
        calls.spawn(async move { cut_after(n % 17 + 1, cut, whole(&client, &url, n % 3 * upload_max / 2)).await });
    }
    while let Some(call) = calls.join_next().await {
        assert!(call.unwrap().is_none_or(|body| body == "abcde"));
    }
    let (one, two) = tokio::join!(whole(&client, url, 0), whole(&client, url, 100));
    assert_eq!([one, two], ["abcde"; 2]);
}

/// Takes many writes, some of which have to wait.
const HTTP1_UPLOAD: usize = 3_000_000;
/// Several windows of a stream.
const HTTP2_UPLOAD: usize = 200_000;

#[tokio::test]
async fn a_call_dropped_after_any_poll_leaves_nothing_behind() {
    let server = piecemeal().await;
    for upload in [0, HTTP1_UPLOAD] {
        cut_after_each_poll(Client::builder, &server.url("/"), upload, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_while_other_threads_work_for_it_leaves_nothing_behind() {
    let server = piecemeal().await;
    for upload in [0, HTTP1_UPLOAD] {
        cut_after_each_poll(Client::builder, &server.url("/"), upload, true).await;
    }
}

#[tokio::test]
async fn a_call_dropped_after_any_poll_gives_its_stream_back() {
    let server = piecemeal_http2(1).await;
    for upload in [0, HTTP2_UPLOAD] {
        cut_after_each_poll(h2c, &server.url, upload, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_while_other_threads_work_for_it_gives_its_stream_back() {
    let server = piecemeal_http2(1).await;
    for upload in [0, HTTP2_UPLOAD] {
        cut_after_each_poll(h2c, &server.url, upload, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_that_leave_take_no_connection_with_them() {
    let server = piecemeal().await;
    let client = of(Client::builder(), PoolOptions { connections: 2, ..PoolOptions::default() });
    cut_among_waiters(client.clone(), &server.url("/"), 0).await;
    assert!(comes_true(|| client.connections() <= 2).await, "{} connections", client.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_that_leave_take_no_stream_with_them() {
    let server = piecemeal_http2(2).await;
    let client = of(h2c(), PoolOptions { connections_per_host: 1, ..PoolOptions::default() });
    cut_among_waiters(client.clone(), &server.url, 100_000).await;
    assert!(comes_true(|| client.connections() <= 1).await, "{} connections", client.connections());
}
