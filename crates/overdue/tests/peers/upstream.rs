//! The application behind the proxies: a small HTTP/1.1 server.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

/// How long the body at `/big` is.
pub(crate) const BIG: usize = 6 << 20;
const CHUNK: usize = 64 << 10;

/// The body at `/big`.
pub(crate) fn big() -> Vec<u8> {
    (0..=250).cycle().take(BIG).collect()
}

/// | path | answer |
/// |---|---|
/// | `/hello` | `hello` |
/// | `/echo` | the body of the request |
/// | `/big` | [`big`], chunked |
/// | `/slow` | none |
/// | `/held` | `held`, as soon as `gate` permits |
/// | others | 404 |
///
/// Stops when dropped.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) gate: Arc<Semaphore>,
    /// One permit for each request at `/held` that has arrived.
    pub(crate) arrived: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let arrived = Arc::new(Semaphore::new(0));
        let (permits, arrivals) = (Arc::clone(&gate), Arc::clone(&arrived));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (gate, arrived) = (Arc::clone(&permits), Arc::clone(&arrivals));
                // Proxies leave when they like.
                connections.spawn(async move { drop(serve(BufStream::new(stream), &gate, &arrived).await) });
            }
        });
        Self { addr, gate, arrived, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut io: BufStream<TcpStream>, gate: &Semaphore, arrived: &Semaphore) -> io::Result<()> {
    loop {
        let request = line(&mut io).await?;
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = body(&mut io).await?;
        match path {
            "/slow" => std::future::pending().await,
            "/held" => {
                arrived.add_permits(1);
                gate.acquire().await.map_err(io::Error::other)?.forget();
            }
            _ => {}
        }
        if path == "/big" {
            io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            for chunk in big().chunks(CHUNK) {
                io.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
                io.write_all(chunk).await?;
                io.write_all(b"\r\n").await?;
            }
            io.write_all(b"0\r\n\r\n").await?;
        } else {
            let (status, answer) = match path {
                "/hello" => ("200 OK", b"hello".to_vec()),
                "/held" => ("200 OK", b"held".to_vec()),
                "/echo" => ("200 OK", body),
                _ => ("404 Not Found", b"not found".to_vec()),
            };
            io.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len()).as_bytes()).await?;
            if method != "HEAD" {
                io.write_all(&answer).await?;
            }
        }
        io.flush().await?;
    }
}

/// One line without its end. An error at the end of the connection.
async fn line(io: &mut BufStream<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    io.read_line(&mut line).await?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The rest of the head, and the body that it announces.
async fn body(io: &mut BufStream<TcpStream>) -> io::Result<Vec<u8>> {
    let (mut length, mut chunked, mut expects) = (0, false, false);
    loop {
        let field = line(io).await?.to_ascii_lowercase();
        match field.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse().map_err(io::Error::other)?,
            Some(("transfer-encoding", _)) => chunked = true,
            Some(("expect", _)) => expects = true,
            Some(_) => {}
        }
    }
    if expects {
        io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        io.flush().await?;
    }
    let mut body = Vec::new();
    if !chunked {
        body.resize(length, 0);
        io.read_exact(&mut body).await?;
        return Ok(body);
    }
    loop {
        let size = usize::from_str_radix(&line(io).await?, 16).map_err(io::Error::other)?;
        if size == 0 {
            while !line(io).await?.is_empty() {}
            return Ok(body);
        }
        let start = body.len();
        body.resize(start + size, 0);
        io.read_exact(&mut body[start..]).await?;
        line(io).await?;
    }
}
