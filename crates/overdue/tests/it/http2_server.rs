//! An HTTP/2 server made of one function and the h2 crate.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use overdue::{Client, Limit, client::Builder};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::ms;

/// Stops when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves every request in a task of its own. The request's number counts over all connections, from 1.
    pub(crate) async fn start<F, S>(settings: h2::server::Builder, serve: F) -> Self
    where
        F: Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> S + Send + Sync + 'static,
        S: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let serve = Arc::new(serve);
        let requests = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                let (settings, serve, requests) = (settings.clone(), Arc::clone(&serve), Arc::clone(&requests));
                connections.spawn(async move {
                    let Ok(mut connection) = settings.handshake(stream).await else { return };
                    let mut streams = tokio::task::JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let number = requests.fetch_add(1, SeqCst) + 1;
                        let serving = serve(number, request, respond);
                        streams.spawn(async move { drop(serving.await) });
                    }
                });
            }
        });
        Self { url, accepted, task }
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

pub(crate) fn settings() -> h2::server::Builder {
    h2::server::Builder::new()
}

/// A client that begins with HTTP/2.
pub(crate) fn h2c() -> Builder {
    Client::builder().http2_prior_knowledge().limit(Limit::total(ms(10_000)))
}

pub(crate) fn head(respond: &mut SendResponse<Bytes>, end: bool) -> Result<SendStream<Bytes>, h2::Error> {
    respond.send_response(Response::new(()), end)
}

pub(crate) fn answer(mut respond: SendResponse<Bytes>, text: &'static str) -> Result<(), h2::Error> {
    head(&mut respond, false)?.send_data(Bytes::from_static(text.as_bytes()), true)
}

/// Reads the whole body of a request, and says how long it was.
pub(crate) async fn drain(request: &mut Request<RecvStream>) -> Result<usize, h2::Error> {
    let mut bytes = 0;
    while let Some(data) = request.body_mut().data().await {
        let data = data?;
        bytes += data.len();
        request.body_mut().flow_control().release_capacity(data.len())?;
    }
    Ok(bytes)
}
