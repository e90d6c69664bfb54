use ::hyper_util::{client::legacy::Client, rt::TokioExecutor};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use overdue::{
    Limit,
    adapt::{ContextLayer, hyper_util::Connector},
    stream,
};
use tower::{Layer, ServiceExt};

use crate::{LONG, Secure, Server, alone, leaves_nothing};

/// A request and its answer, through a client of its own.
async fn call(connector: &Connector, url: &str) -> Bytes {
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector.clone());
    let service = ContextLayer::new(Limit::total(LONG)).layer(client);
    let request = Request::get(url).body(Full::default()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

#[test]
fn a_plain_connection_of_hyper_util() {
    alone(async || {
        let server = Server::http().await;
        let (connector, url) = (stream::Connector::new().into(), format!("http://{}/", server.addr));
        leaves_nothing(async || assert_eq!(call(&connector, &url).await, "abcde")).await;
    });
}

#[test]
fn a_connection_of_hyper_util_inside_tls() {
    alone(async || {
        for scenario in ["ok-https", "ok-h2"] {
            let secure = Secure::start(scenario);
            let connector = stream::Connector::new().resolver(secure.resolver.clone());
            let connector = connector.tls(&secure.tls, &[b"h2", b"http/1.1"]).unwrap().into();
            let url = secure.fault.url();
            leaves_nothing(async || drop(call(&connector, &url).await)).await;
        }
    });
}
