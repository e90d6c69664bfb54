//! A relay before a server, which tells when the server has closed a connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::ms;

/// Stops when dropped.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    closed: mpsc::UnboundedReceiver<()>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let (closes, closed) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                let closes = closes.clone();
                connections.spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let (mut from_caller, mut to_caller) = caller.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let up = tokio::spawn(async move {
                        let _ = copy(&mut from_caller, &mut to_server).await;
                        let _ = to_server.shutdown().await;
                    });
                    // A server that resets has closed as well.
                    let _ = copy(&mut from_server, &mut to_caller).await;
                    let _ = to_caller.shutdown().await;
                    // The FIN is with the caller's socket by now: both ends are on this machine.
                    let _ = closes.send(());
                    let _ = up.await;
                });
            }
        });
        Self { addr, accepted, closed, task }
    }

    /// Waits until the server has closed one more connection.
    pub(crate) async fn server_closed(&mut self) {
        timeout(ms(10_000), self.closed.recv()).await.expect("the server keeps the connection open").unwrap();
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
