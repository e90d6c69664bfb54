//! Readers and bodies of others, bounded.

use std::io::ErrorKind;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use overdue::{
    Context, Error, Limit, Stage,
    stream::{AtMost, Bounded, Chained, Stream, TooLong},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex, split},
    time::{Instant, sleep},
};

use crate::{explained, ms, timed_out};

fn request(n: u64) -> Context {
    Context::root().child(Limit::total(ms(n)))
}

#[tokio::test(start_paused = true)]
async fn what_is_bound_to_a_context_ends_with_its_deadline() {
    let context = request(40);
    let (near, mut far) = duplex(4);
    let mut near = Bounded::new(&context, near);
    far.write_all(b"abc").await.unwrap();
    let mut buf = [0; 3];
    near.read_exact(&mut buf).await.unwrap();
    let started = Instant::now();
    let err = near.read_u8().await.unwrap_err();
    assert_eq!(started.elapsed(), ms(40));
    assert_eq!(timed_out(&err).limit().unwrap().name.as_str(), "total");
    let err = near.write_all(b"x").await.unwrap_err();
    assert_eq!(timed_out(&err).stage(), Stage::Send);
    // Free again, it still works.
    near.into_inner().write_all(b"x").await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn what_is_bound_to_a_context_ends_when_that_is_cancelled() {
    let context = Context::root();
    let (near, _far) = duplex(4);
    let mut near = Bounded::new(&context.branch(), near);
    let cancel = async {
        sleep(ms(5)).await;
        context.cancel("the user went away")
    };
    let (written, _) = tokio::join!(near.write_all(b"more than fits"), cancel);
    let err = written.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(explained(&err).cancel_cause().unwrap().to_string(), "the user went away");
}

#[tokio::test(start_paused = true)]
async fn of_a_context_and_the_deadline_of_a_stream_the_earlier_fires_and_is_named_once() {
    for (total, own, expected) in [(20, 50, "total"), (50, 20, "receive")] {
        let (near, _far) = duplex(4);
        let (reader, writer) = split(near);
        let stream = Stream::from_halves(reader, writer);
        stream.set_read_deadline(ms(own));
        let err = Bounded::new(&request(total), stream).read_u8().await.unwrap_err();
        let error = timed_out(&err);
        assert_eq!(error.limit().unwrap().name.as_str(), expected);
        assert!(std::error::Error::source(error).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_bound_to_a_context() {
    let context = request(50);
    let some = Ok::<_, std::io::Error>(Frame::data(Bytes::from("some")));
    let stalls = stream::iter([some]).chain(stream::pending());
    let mut body = Bounded::new(&context, StreamBody::new(stalls));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
    let err = body.frame().await.unwrap().unwrap_err();
    assert!(Error::find(&*err).unwrap().is_timeout());
    // One that has ended needs no time.
    let ended = Bounded::new(&request(0), Full::new(Bytes::new())).collect().await.unwrap();
    assert_eq!(ended.to_bytes(), "");
}

#[tokio::test]
async fn exactly_as_much_as_allowed_is_fine_and_one_byte_more_is_an_error() {
    for (at_most, read) in [(5, Ok("hello")), (6, Ok("hello")), (4, Err("hell")), (0, Err(""))] {
        let mut reader = AtMost::new(at_most, &b"hello"[..]);
        let mut text = String::new();
        let result = reader.read_to_string(&mut text).await;
        match read {
            Ok(whole) => assert_eq!((result.unwrap(), text.as_str()), (5, whole)),
            Err(part) => {
                let err = result.unwrap_err();
                assert_eq!(err.kind(), ErrorKind::InvalidData);
                assert_eq!(err.get_ref().unwrap().downcast_ref::<TooLong>(), Some(&TooLong { at_most }));
                // It never looks like an end.
                reader.read_u8().await.unwrap_err();
                assert_eq!(reader.left(), 0, "after {part:?}");
            }
        }
    }
    let mut reader = AtMost::new(4, &b"hello"[..]);
    let mut part = [0; 4];
    reader.read_exact(&mut part).await.unwrap();
    assert_eq!(&part, b"hell");
    assert_eq!(reader.read_u8().await.unwrap_err().to_string(), "there are more than the 4 bytes that are allowed");
}

#[tokio::test]
async fn a_body_has_its_bound_too() {
    let body = |at_most| AtMost::new(at_most, Full::new(Bytes::from("hello")));
    assert_eq!(body(5).collect().await.unwrap().to_bytes(), "hello");
    let mut body = body(4);
    for _ in 0..2 {
        let err = body.frame().await.unwrap().unwrap_err();
        assert_eq!(err.downcast_ref::<TooLong>(), Some(&TooLong { at_most: 4 }));
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_read_ahead_are_put_before_the_rest_of_a_stream() {
    let (near, mut far) = duplex(64);
    let (reader, writer) = split(near);
    let stream = Stream::from_halves(reader, writer);
    let handle = stream.handle().clone();
    handle.set_read_deadline(ms(50));
    far.write_all(b" world").await.unwrap();
    let mut chained = Chained::new(&b"hello"[..], stream);
    let mut text = [0; 11];
    chained.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello world");
    timed_out(&chained.read_u8().await.unwrap_err());
    chained.write_all(b"back").await.unwrap();
    let mut back = [0; 4];
    far.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back");
}

#[tokio::test]
async fn chained_bodies_give_their_data_in_order_and_their_trailers_at_the_end() {
    let body = |text: &'static str, trailer: &'static str| {
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static(trailer), "1".parse().unwrap())]);
        let frames = [Ok::<_, std::io::Error>(Frame::data(Bytes::from(text))), Ok(Frame::trailers(trailers))];
        StreamBody::new(stream::iter(frames))
    };
    let whole = Chained::new(body("one ", "a"), body("two", "b")).collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap().len(), 2);
    assert_eq!(whole.to_bytes(), "one two");
    let plain = Chained::new(Full::new(Bytes::from("one ")), Full::new(Bytes::from("two")));
    assert_eq!(http_body::Body::size_hint(&plain).exact(), Some(7));
    assert_eq!(plain.collect().await.unwrap().to_bytes(), "one two");
}
