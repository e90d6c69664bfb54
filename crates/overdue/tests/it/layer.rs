//! A context and a limit for services that others made.

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use overdue::{
    BoxError, Context, Error, Limit, Outcome, Stage,
    adapt::{ContextLayer, InExtensions},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::{client, ms, poll_once, root, server::Server};

fn found<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a Error {
    Error::find(error).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_the_layer_fires_and_names_itself() {
    let started = tokio::time::Instant::now();
    let limit = Limit::total(ms(300));
    let service = ContextLayer::new(limit.clone()).layer(service_fn(|()| pending::<Result<(), BoxError>>()));
    let error = service.clone().oneshot(()).await.unwrap_err();
    let error = found(&*error);
    assert_eq!(started.elapsed(), ms(300));
    assert!(error.is_timeout());
    assert_eq!((error.stage(), error.limit()), (Stage::Handle, Some(&limit)));
    assert_eq!(error.report().not_visible[0].what, "the stages inside");

    let layer = ContextLayer::new(limit).stage(Stage::Named("lookup"));
    let error = layer.layer(service_fn(|()| pending::<Result<(), BoxError>>())).oneshot(()).await.unwrap_err();
    assert_eq!(found(&*error).stage(), Stage::Named("lookup"));
}

#[tokio::test(start_paused = true)]
async fn an_outer_deadline_that_is_earlier_fires_instead() {
    let outer = Limit::total(ms(20));
    let service = ContextLayer::new(Limit::total(ms(300))).layer(service_fn(|()| pending::<Result<(), BoxError>>()));
    // The outer run would end at the same moment: what is inside is asked first.
    let error = root().child(outer.clone()).run(Stage::Wait, service.oneshot(())).await.unwrap().unwrap_err();
    assert_eq!((found(&*error).stage(), found(&*error).limit()), (Stage::Handle, Some(&outer)));
}

#[tokio::test(start_paused = true)]
async fn what_is_inside_runs_in_the_context_and_its_own_error_comes_through() {
    let deadlines: Arc<Mutex<Vec<Option<std::time::Duration>>>> = Arc::default();
    let seen = Arc::clone(&deadlines);
    let service = service_fn(move |()| {
        // When it is called, and when it is polled.
        let note = {
            let seen = Arc::clone(&seen);
            move || seen.lock().unwrap().push(Context::current().and_then(|context| context.remaining()))
        };
        note();
        async move {
            note();
            Err::<Infallible, _>("its own words")
        }
    });
    let error = ContextLayer::new(Limit::total(ms(70))).layer(service).oneshot(()).await.unwrap_err();
    assert_eq!(error.to_string(), "its own words");
    assert_eq!(*deadlines.lock().unwrap(), [Some(ms(70)); 2]);
    assert!(Context::current().is_none());
}

#[tokio::test]
async fn a_deadline_that_has_passed_polls_nothing() {
    let parent = root().child(Limit::total(ms(0)));
    let polled = Arc::new(Mutex::new(false));
    let sets = Arc::clone(&polled);
    let service = service_fn(move |_: Request<()>| {
        let sets = Arc::clone(&sets);
        async move {
            *sets.lock().unwrap() = true;
            Ok::<_, BoxError>(())
        }
    });
    let service = ContextLayer::new(Limit::total(ms(1_000))).carried::<InExtensions>().layer(service);
    let mut request = Request::new(());
    request.extensions_mut().insert(parent);
    let error = service.oneshot(request).await.unwrap_err();
    assert_eq!(found(&*error).limit().unwrap().value, ms(0));
    assert!(!*polled.lock().unwrap());
}

#[tokio::test]
async fn the_context_of_a_request_is_the_parent_and_its_child_goes_on_with_it() {
    struct Tenant(&'static str);
    let service = service_fn(|request: Request<()>| {
        let given = request.extensions().get::<Context>().unwrap();
        let tenant = given.value::<Tenant>().unwrap().0;
        ready(Ok::<_, BoxError>((tenant, given.deadline().unwrap().limit().value)))
    });
    let mut service = ContextLayer::new(Limit::total(ms(9_000))).carried::<InExtensions>().layer(service);
    let mut request = Request::new(());
    request.extensions_mut().insert(root().with_value(Tenant("blue")));
    assert_eq!(service.ready().await.unwrap().call(request).await.unwrap(), ("blue", ms(9_000)));
}

#[tokio::test]
async fn dropping_the_future_cancels_the_context_and_finishing_it_does_not() {
    let contexts: Arc<Mutex<Vec<Context>>> = Arc::default();
    let seen = Arc::clone(&contexts);
    let service = service_fn(move |done: bool| {
        seen.lock().unwrap().push(Context::current().unwrap());
        async move { if done { Ok::<_, BoxError>(()) } else { pending().await } }
    });
    let mut service = ContextLayer::new(Limit::total(ms(9_000))).layer(service);
    let mut dropped = Box::pin(service.call(false));
    assert!(poll_once(&mut dropped).await.is_pending());
    assert!(!contexts.lock().unwrap()[0].is_cancelled());
    drop(dropped);
    service.call(true).await.unwrap();
    let cancelled: Vec<_> = contexts.lock().unwrap().iter().map(Context::is_cancelled).collect();
    assert_eq!(cancelled, [true, false]);
}

/// Both end with the same deadline; the call knows more.
#[tokio::test]
async fn around_our_client_the_error_names_the_stage_of_the_call() {
    let server = Server::start(|peer, _| peer.silent()).await;
    let service = ContextLayer::new(Limit::total(ms(60))).layer(client());
    let request = Request::get(server.url("/")).body(Empty::<Bytes>::new()).unwrap();
    let error = service.oneshot(request).await.unwrap_err();
    let error = found(&*error);
    assert_eq!((error.stage(), error.limit().unwrap().value), (Stage::Wait, ms(60)));
    assert!(error.report().not_visible.iter().all(|gap| gap.what != "the stages inside"));
}

/// The body of our client is bound to the context that the layer made.
#[tokio::test]
async fn the_limit_covers_a_body_that_knows_the_context() {
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await?;
        peer.closed().await
    })
    .await;
    let service = ContextLayer::new(Limit::total(ms(200))).layer(client());
    let request = Request::get(server.url("/")).body(Empty::<Bytes>::new()).unwrap();
    let error = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap_err();
    assert_eq!((error.stage(), error.limit().unwrap().value), (Stage::Receive, ms(200)));
    assert_eq!(error.report().outcome, Outcome::TimedOut.as_str());
}

mod reqwest {
    use std::sync::Arc;

    use ::reqwest::{
        Client,
        dns::{Addrs, Name, Resolve, Resolving},
    };
    use overdue::{Limit, Stage, adapt::ContextLayer};

    use super::found;
    use crate::{
        ms, root,
        server::{OK, Server},
    };

    fn dialing(limit: Limit) -> ContextLayer {
        ContextLayer::new(limit).stage(Stage::Named("dial"))
    }

    fn builder() -> ::reqwest::ClientBuilder {
        // The first of the tests in this process wins, and all want the same.
        _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder().no_proxy()
    }

    #[tokio::test]
    async fn a_dial_that_hangs_in_tls_ends_with_the_limit_of_the_layer() {
        let server = Server::start(|peer, _| peer.silent()).await;
        let client = builder().connector_layer(dialing(Limit::total(ms(80)))).build().unwrap();
        let error = client.get(format!("https://{}/", server.addr)).send().await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        let found = found(&error);
        assert_eq!((found.stage(), found.limit().unwrap().value), (Stage::Named("dial"), ms(80)));
        assert!(found.limit().unwrap().origin.to_string().contains("layer.rs:"), "{found}");
        // Who saw no stage blames nobody.
        assert_eq!(found.cause(), overdue::Cause::Unknown);
        assert_eq!(server.accepted(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn so_does_one_that_hangs_in_the_resolver() {
        struct Never;
        impl Resolve for Never {
            fn resolve(&self, _: Name) -> Resolving {
                Box::pin(std::future::pending::<Result<Addrs, overdue::BoxError>>())
            }
        }
        let builder = builder().dns_resolver(Arc::new(Never));
        let client = builder.connector_layer(dialing(Limit::total(ms(80)))).build().unwrap();
        let error = client.get("http://name.test/").send().await.unwrap_err();
        assert_eq!(found(&error).limit().unwrap().value, ms(80));
    }

    #[tokio::test]
    async fn the_deadline_of_the_request_cuts_the_dial() {
        let server = Server::start(|peer, _| peer.silent()).await;
        let client = builder().connector_layer(dialing(Limit::total(ms(30_000)))).build().unwrap();
        let request = root().child(Limit::total(ms(80)));
        let sending = client.get(format!("https://{}/", server.addr)).send();
        let error = request.run(Stage::Wait, sending).await.unwrap().unwrap_err();
        assert_eq!((found(&error).stage(), found(&error).limit().unwrap().value), (Stage::Named("dial"), ms(80)));
    }

    #[tokio::test]
    async fn a_call_that_goes_well_goes_well() {
        let server = Server::answering(OK).await;
        let client = builder().connector_layer(dialing(Limit::total(ms(30_000)))).build().unwrap();
        assert_eq!(client.get(server.url("/")).send().await.unwrap().text().await.unwrap(), "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_call_that_failed_left_behind_is_cancelled_and_what_an_answer_needs_is_not() {
    let left: Arc<Mutex<Vec<Context>>> = Arc::default();
    let keeps = Arc::clone(&left);
    let service = service_fn(move |answers: bool| {
        keeps.lock().unwrap().extend(Context::current());
        async move { if answers { Ok(()) } else { Err("no") } }
    });
    let service = ContextLayer::new(Limit::total(ms(300))).layer(service);
    service.clone().oneshot(true).await.unwrap();
    service.oneshot(false).await.unwrap_err();
    let cancelled: Vec<_> = left.lock().unwrap().iter().map(Context::is_cancelled).collect();
    assert_eq!(cancelled, [false, true]);
}
