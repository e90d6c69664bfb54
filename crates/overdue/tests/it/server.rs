//! A server made of one function.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Stops when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves every connection with `serve`, which gets its number too, counted from 1.
    pub(crate) async fn start<F, S>(serve: F) -> Self
    where
        F: Fn(Peer, usize) -> S + Send + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = counted.fetch_add(1, SeqCst) + 1;
                // A caller that leaves is what many tests are about.
                let serving = serve(Peer(stream), number);
                connections.spawn(async move { drop(serving.await) });
            }
        });
        Self { addr, accepted, task }
    }

    /// Answers every request with this text.
    pub(crate) async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut peer, _| async move {
            loop {
                peer.head().await?;
                peer.send(answer).await?;
            }
        })
        .await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The server's end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    /// Reads one head. An error at the end of the connection.
    pub(crate) async fn head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_all(text.as_ref()).await
    }

    pub(crate) async fn read_exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Waits until the caller has closed.
    pub(crate) async fn closed(&mut self) -> io::Result<()> {
        let mut sink = [0; 4096];
        while self.0.read(&mut sink).await? > 0 {}
        Ok(())
    }

    /// Reads nothing and says nothing.
    pub(crate) async fn silent(self) -> io::Result<()> {
        std::future::pending().await
    }
}
