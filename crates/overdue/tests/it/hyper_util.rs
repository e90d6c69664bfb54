//! hyper-util's client over our connections.

use std::sync::Arc;

use ::hyper_util::{
    client::legacy::{Client, Error as ClientError},
    rt::TokioExecutor,
};
use bytes::Bytes;
use http::{Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use overdue::{Cause, Error, Limit, Report, Stage, TlsOptions, adapt::hyper_util::Connector, stream};
use overdue_lab::Fault;

use crate::{
    ms, root,
    server::{OK, Server},
};

fn client(connector: impl Into<Connector>) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build(connector.into())
}

fn tls() -> stream::Connector {
    let options = TlsOptions::default().dangerously_trust_anything();
    stream::Connector::new().tls(&options, &[b"h2", b"http/1.1"]).unwrap()
}

fn uri(text: impl AsRef<str>) -> Uri {
    text.as_ref().parse().unwrap()
}

fn found(error: &ClientError) -> &Error {
    Error::find(error).unwrap()
}

#[tokio::test]
async fn a_call_goes_over_it_and_tells_how_it_was_dialled() {
    let server = Server::answering(OK).await;
    let client = client(tls());
    for _ in 0..2 {
        let response = client.get(uri(server.url("/"))).await.unwrap();
        let report = Arc::clone(response.extensions().get::<Arc<Report>>().unwrap());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        let stages: Vec<_> = report.timeline.iter().map(|span| (span.stage, span.outcome)).collect();
        assert_eq!((report.outcome, &*stages), ("ok", &[("resolve", "done"), ("connect", "done")][..]));
        assert_eq!(report.connection.as_ref().unwrap().peer, Some(server.addr.to_string()));
        assert_eq!(report.not_visible[0].what, "the call");
    }
    // The second found it in the pool.
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_silent_tls_peer_is_named_through_the_clients_error() {
    let server = Server::start(|peer, _| peer.silent()).await;
    let client = client(tls().limit(Limit::stage(Stage::Tls, ms(80))));
    let error = client.get(uri(format!("https://{}/", server.addr))).await.unwrap_err();
    assert!(error.is_connect());
    let found = found(&error);
    assert_eq!((found.stage(), found.cause()), (Stage::Tls, Cause::TlsPeerSilent), "{found}");
    assert_eq!((found.limit().unwrap().name.as_str(), found.limit().unwrap().value), ("tls", ms(80)));
    assert!(found.report().not_visible.iter().any(|gap| gap.what == "the call"));
}

#[tokio::test]
async fn a_refused_connection_is_named_too() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(tls()).get(uri(format!("http://{free}/"))).await.unwrap_err();
    assert_eq!((found(&error).stage(), found(&error).cause()), (Stage::Connect, Cause::ConnectRefused));
}

#[tokio::test]
async fn https_without_tls_options_says_so() {
    let server = Server::answering(OK).await;
    let error = client(stream::Connector::new()).get(uri(format!("https://{}/", server.addr))).await.unwrap_err();
    assert!(found(&error).to_string().contains("no TLS options"), "{}", found(&error));
}

#[tokio::test]
async fn the_protocol_that_tls_agreed_on_is_spoken() {
    // The one speaks nothing else, the other has never heard of it.
    for (scenario, version) in [("ok-h2", Version::HTTP_2), ("ok-https", Version::HTTP_11)] {
        let fault = Fault::start(overdue_lab::find(scenario).unwrap()).unwrap();
        let roots = TlsOptions::default().with_roots_pem(fault.roots_pem().unwrap().as_bytes()).unwrap();
        let client = client(stream::Connector::new().tls(&roots, &[b"h2", b"http/1.1"]).unwrap());
        let response = client.get(uri(fault.url())).await.unwrap();
        assert_eq!(response.version(), version);
        let report = response.extensions().get::<Arc<Report>>().unwrap();
        assert!(report.connection.as_ref().unwrap().tls.as_ref().unwrap().verified);
    }
}

#[tokio::test]
async fn the_deadline_of_the_request_cuts_the_dial() {
    let server = Server::start(|peer, _| peer.silent()).await;
    let client = client(tls());
    let request = root().child(Limit::total(ms(80)));
    let calling = client.get(uri(format!("https://{}/", server.addr)));
    // Both end at the same moment, and the dial is asked first.
    let error = request.run(Stage::Handle, calling).await.unwrap().unwrap_err();
    let found = found(&error);
    assert_eq!((found.stage(), found.limit().unwrap().name.as_str()), (Stage::Tls, "total"), "{found}");
}

/// hyper-util has a pool, and a request that waits; a layer around its client bounds both.
#[cfg(feature = "tower")]
#[tokio::test]
async fn a_layer_around_the_client_bounds_what_a_connector_does_not_see() {
    use overdue::adapt::ContextLayer;
    use tower::{Layer, ServiceExt};

    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.closed().await
    })
    .await;
    let service = ContextLayer::new(Limit::total(ms(80))).stage(Stage::Named("upstream")).layer(client(tls()));
    let request = Request::get(server.url("/")).body(Full::default()).unwrap();
    let error = service.oneshot(request).await.unwrap_err();
    let found = Error::find(&*error).unwrap();
    assert_eq!((found.stage(), found.limit().unwrap().value), (Stage::Named("upstream"), ms(80)));
}

#[tokio::test]
async fn a_write_that_the_peer_does_not_take_has_a_limit_and_evidence() {
    let server = Server::start(|peer, _| peer.silent()).await;
    let client = client(Connector::from(tls()).write_idle(Limit::stage(Stage::Send, ms(100))));
    // More than all buffers between here and there.
    let body = Full::new(Bytes::from(vec![0; 64 << 20]));
    let calling = client.request(Request::post(server.url("/")).body(body).unwrap());
    // Of the two limits the one for the silence is the earlier by far.
    let call = root().child(Limit::total(ms(20_000)));
    let error = call.run(Stage::Handle, calling).await.unwrap().unwrap_err();
    let found = found(&error);
    assert_eq!((found.stage(), found.limit().unwrap().value), (Stage::Send, ms(100)), "{found}");
    assert_eq!(found.cause(), Cause::PeerNotReading, "{found}");
}

#[tokio::test]
async fn what_is_no_url_for_it_is_named_without_its_secrets() {
    use tower::ServiceExt;

    let url = uri("ftp://user:secret1@example.test/path?code=secret2");
    let error = Connector::from(tls()).oneshot(url).await.unwrap_err();
    assert!(error.to_string().contains("ftp") && error.to_string().contains("example.test"), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}
