use std::{convert::Infallible, sync::mpsc};

use futures_util::{StreamExt, stream};
use http::StatusCode;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{ServiceExt, service_fn};

use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A body that comes in pieces of so many bytes, each so long after the one before.
fn body(pieces: usize, bytes: usize, every: Duration) -> impl Body<Data = Bytes, Error = Infallible> + Send {
    let pieces = stream::iter(0..pieces).then(move |_| async move {
        tokio::time::sleep(every).await;
        Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))
    });
    StreamBody::new(Box::pin(pieces))
}

fn request<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.version_mut() = Version::HTTP_11;
    request
}

type Reply = Result<Response<Full<Bytes>>, Infallible>;

/// Answers with the length of the body, or says what it got instead.
async fn count<B: Body<Data = Bytes, Error = BoxError>>(
    request: Request<PacedBody<B>>,
    got: mpsc::Sender<String>,
) -> Reply {
    match request.into_body().collect().await {
        Ok(body) => Ok(Response::new(Full::new(Bytes::from(body.to_bytes().len().to_string())))),
        Err(error) => {
            let error = Error::find(&*error).unwrap();
            got.send(format!("{} {:?} {}", error.limit().unwrap(), error.cause(), error.stage())).unwrap();
            Ok(Response::new(Full::new(Bytes::from("the handler's own words"))))
        }
    }
}

/// The status and body of the answer, and what the handler got.
async fn served<B>(layer: BodyLayer, body: B) -> (StatusCode, String, Option<String>)
where
    B: Body<Data = Bytes, Error = Infallible> + Send,
{
    let (got, gets) = mpsc::channel();
    let service = layer.layer(service_fn(|request: Request<PacedBody<_>>| count(request, got.clone())));
    let body = body.map_err(BoxError::from);
    let response = service.oneshot(request(body)).await.unwrap();
    let (parts, body) = response.into_parts();
    let cut = parts.status == StatusCode::REQUEST_TIMEOUT;
    assert_eq!(parts.headers.get(CONNECTION).is_some(), cut, "what it still sends has no place on this connection");
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (parts.status, text, gets.try_recv().ok())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_is_cut() {
    let layer = BodyLayer::new().gap(Some(Limit::new(LimitName::Gap, ms(500))));
    let (status, _, got) = served(layer.clone(), body(3, 10, ms(400))).await;
    assert_eq!((status, got), (StatusCode::OK, None));
    let began = clock::now();
    let (status, text, got) = served(layer, body(3, 10, ms(600))).await;
    assert_eq!(clock::now() - began, ms(500));
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    assert!(text.contains("came too slowly") && !text.contains("own words"), "{text}");
    let got = got.unwrap();
    assert!(got.starts_with("gap 500ms (") && got.ends_with("SenderSlow send"), "{got}");
    assert_eq!(served(BodyLayer::new(), body(2, 1, ms(29_000))).await.0, StatusCode::OK);
    assert_eq!(served(BodyLayer::new(), body(2, 1, ms(31_000))).await.0, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(served(BodyLayer::new().gap(None), body(2, 1, ms(31_000))).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_drips_is_cut() {
    let layer = BodyLayer::new().rate(100, ms(1_000));
    // As much as is asked for, for as long as it takes.
    assert_eq!(served(layer.clone(), body(100, 60, ms(500))).await, (StatusCode::OK, "6000".to_owned(), None));
    let began = clock::now();
    let (status, _, got) = served(layer.clone(), body(100, 9, ms(90))).await;
    assert_eq!((status, clock::now() - began), (StatusCode::REQUEST_TIMEOUT, ms(1_000)));
    assert!(got.unwrap().starts_with("rate 100 bytes in 1s ("));
    // It was fast before: that does not help for ever.
    let fast = stream::iter([Ok(Frame::data(Bytes::from(vec![0; 100_000])))]);
    let slow = StreamBody::new(fast.chain(BodyExt::boxed(body(100, 9, ms(90))).into_stream()));
    assert_eq!(served(layer, slow).await.0, StatusCode::REQUEST_TIMEOUT);
}

async fn read_slowly<B: Body<Data = Bytes, Error = Infallible>>(request: Request<PacedBody<B>>) -> Reply {
    let mut body = Box::pin(request.into_body());
    while let Some(frame) = body.frame().await {
        assert_eq!(frame.unwrap().data_ref().map(Bytes::len), Some(20));
        tokio::time::sleep(ms(5_000)).await;
    }
    Ok(Response::default())
}

/// The time between two reads is the handler's.
#[tokio::test(start_paused = true)]
async fn a_handler_may_take_its_time() {
    let layer = BodyLayer::new().gap(Some(Limit::new(LimitName::Gap, ms(500)))).rate(100, ms(1_000));
    let service = layer.layer(service_fn(read_slowly));
    let response = service.oneshot(request(body(20, 20, ms(10)))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

/// Also where another task reads the body, and the handler waits for something else.
#[tokio::test(start_paused = true)]
async fn a_handler_that_looks_elsewhere_is_ended() {
    let layer = BodyLayer::new().rate(1, ms(300));
    let service = layer.layer(service_fn(|request: Request<PacedBody<_>>| async {
        let reading = tokio::spawn(async move { request.into_body().collect().await.map(drop) });
        std::future::pending::<()>().await;
        drop(reading);
        Reply::Ok(Response::default())
    }));
    let grpc = |mut request: Request<_>| {
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        *request.version_mut() = Version::HTTP_2;
        request
    };
    let response = service.clone().oneshot(request(body(1, 1, ms(900_000)))).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    let response = service.oneshot(grpc(request(body(1, 1, ms(900_000))))).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (StatusCode::OK, &HeaderValue::from_static("4"))
    );
    assert!(!response.headers().contains_key(CONNECTION), "no field of HTTP/2");
}
