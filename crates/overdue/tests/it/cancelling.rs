//! A call may be dropped at any point. Whatever it held goes back: its connection, its stream, its place in the queue.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use overdue::{Client, Limit, PoolOptions, Stage, client::Builder};
use tokio::task::JoinSet;

use crate::{
    comes_true,
    http2_server::{self, answer, drain, h2c, head, settings},
    ms, post, root,
    server::Server,
};

/// Longer than any queue here should be: who waits for so long waits for something that was lost.
const LOST: Limit = Limit::stage(Stage::Queue, ms(3_000));
/// Enough polls for every call here.
const POLLS_MAX: usize = 1_000;

/// Ends with `None` after so many polls, and drops what it polled.
struct CutAfter<F> {
    future: Pin<Box<F>>,
    polls: usize,
}

impl<F: Future> Future for CutAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        self.polls -= 1;
        if self.polls == 0 { Poll::Ready(None) } else { Poll::Pending }
    }
}

fn cut_after<F: Future>(polls: usize, future: F) -> CutAfter<F> {
    CutAfter { future: Box::pin(future), polls }
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
                "HTTP/1.1 103 Early Hints\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-",
                "Encoding: chunked\r\n\r\n",
                "3\r\nab",
                "c\r\n",
                "2\r\nde\r\n",
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

/// Cuts a call off after each of its polls, every other one on a connection that was kept. The next call must find what
/// it needs. `exclusive`: a connection whose call was cut off is closed.
async fn cut_after_each_poll(builder: impl Fn() -> Builder, url: &str, upload: usize, exclusive: bool) {
    let one_connection = PoolOptions { connections_per_host: 1, ..PoolOptions::default() };
    for polls in 1..POLLS_MAX {
        let client = builder().pool(one_connection).limit(LOST).build().unwrap();
        let kept = polls % 2 == 0;
        if kept {
            whole(&client, url, 0).await;
        }
        let ended = cut_after(polls, whole(&client, url, upload)).await;
        let left = usize::from(ended.is_some());
        if exclusive {
            let settled = comes_true(|| client.connections() == left).await;
            assert!(settled, "after {polls} polls {} connections are open, not {left}", client.connections());
        }
        assert_eq!(whole(&client, url, upload).await, "abcde", "after {polls} polls");
        // It came to its end on a new connection and on a kept one.
        if ended.is_some_and(|body| body == "abcde") && !kept {
            return;
        }
    }
    unreachable!("no call ended within {POLLS_MAX} polls");
}
